//! What etcd's store does, with no cleverness at all: the list of every change there ever was, and every question
//! answered by replaying it. It never forgets what compaction removes; it only says what may still be asked.
//! (etcd API, KV, Lease, Watch; etcdserver/txn and etcdserver/apply for the order of refusals.)

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use urd::{
    error::{self, Status},
    proto::{
        etcdserverpb::{
            alarm_request::AlarmAction,
            compare::{CompareResult, CompareTarget, TargetUnion},
            range_request::{SortOrder, SortTarget},
            request_op::Request,
            response_op::Response,
            *,
        },
        mvccpb::{self, KeyValue, event::EventType},
    },
};

/// One change of one key. A delete has no `kv`.
#[derive(Clone, Debug)]
pub struct Change {
    pub main: i64,
    pub sub: i64,
    pub key: Bytes,
    pub kv: Option<KeyValue>,
}

/// What a request is told.
#[derive(Clone, Debug, PartialEq)]
pub enum Told {
    Put(PutResponse),
    Delete(DeleteRangeResponse),
    Range(RangeResponse),
    Txn(TxnResponse),
    /// Compaction, revoke, checkpoint: the revision.
    Revision(i64),
    Granted {
        revision: i64,
        id: i64,
        ttl: i64,
    },
    Alarms(BTreeSet<(i32, u64)>),
}

#[derive(Clone, Debug)]
pub struct Naive {
    pub changes: Vec<Change>,
    pub current: i64,
    pub compacted: i64,
    /// Id, granted TTL and what a checkpoint left.
    pub leases: BTreeMap<i64, (i64, i64)>,
    pub alarms: BTreeSet<(i32, u64)>,
    ttl_min: i64,
}

fn header(revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader { revision, ..Default::default() })
}

fn inside(key: &[u8], from: &[u8], end: &[u8]) -> bool {
    match end {
        [] => key == from,
        [0] => key >= from,
        _ => from <= key && key < end,
    }
}

impl Naive {
    pub fn new(ttl_min: i64) -> Self {
        Naive {
            changes: Vec::new(),
            current: 1,
            compacted: -1,
            leases: BTreeMap::new(),
            alarms: BTreeSet::new(),
            ttl_min,
        }
    }

    /// The store as it stood at a revision.
    pub fn at(&self, revision: i64) -> BTreeMap<Bytes, KeyValue> {
        let mut state = BTreeMap::new();
        for change in self.changes.iter().filter(|change| change.main <= revision) {
            match &change.kv {
                Some(kv) => state.insert(change.key.clone(), kv.clone()),
                None => state.remove(&change.key),
            };
        }
        state
    }

    fn now(&self) -> BTreeMap<Bytes, KeyValue> {
        self.at(i64::MAX)
    }

    /// What a watcher of a range must see of a revision and those after it, in order.
    pub fn watched(&self, from: &[u8], end: &[u8], start: i64) -> Vec<mvccpb::Event> {
        let of = |change: &Change| change.main >= start && inside(&change.key, from, end);
        self.changes.iter().filter(|change| of(change)).map(|change| self.event(change)).collect()
    }

    fn event(&self, change: &Change) -> mvccpb::Event {
        let tombstone = KeyValue { key: change.key.clone(), mod_revision: change.main, ..Default::default() };
        // A key that comes into being has no state before, even if one of its name went in the same revision.
        let creation = change.kv.as_ref().is_some_and(|kv| kv.create_revision == kv.mod_revision);
        let reachable = change.main > self.compacted && !creation;
        mvccpb::Event {
            r#type: if change.kv.is_some() { EventType::Put } else { EventType::Delete } as i32,
            kv: Some(change.kv.clone().unwrap_or(tombstone)),
            prev_kv: reachable.then(|| self.at(change.main - 1).remove(&change.key)).flatten(),
        }
    }

    /// Whether compaction has to keep a change.
    pub fn is_retained(&self, at: usize) -> bool {
        let change = &self.changes[at];
        if change.main > self.compacted {
            return true;
        }
        let superseded = self.changes[at + 1..].iter().any(|c| c.key == change.key && c.main <= self.compacted);
        !superseded && (change.kv.is_some() || change.main == self.compacted)
    }

    pub fn lease_keys(&self, id: i64) -> Vec<Bytes> {
        self.now().into_values().filter(|kv| kv.lease == id).map(|kv| kv.key).collect()
    }

    /// Applies a request. `room`: bytes left of the quota, if there is one.
    pub fn apply(&mut self, request: &InternalRaftRequest, room: Option<u64>) -> Result<Told, Status> {
        if let Some(alarm) = &request.alarm {
            return Ok(self.alarm(alarm));
        }
        if let Some(checkpoint) = &request.lease_checkpoint {
            for one in &checkpoint.checkpoints {
                if let Some(lease) = self.leases.get_mut(&one.id) {
                    lease.1 = one.remaining_ttl;
                }
            }
            return Ok(Told::Revision(self.current));
        }
        if self.alarms.iter().any(|(kind, _)| *kind == AlarmType::Corrupt as i32) {
            return Err(error::CORRUPT);
        }
        let cost = cost(request);
        if cost > 0 && self.alarms.iter().any(|(kind, _)| *kind == AlarmType::Nospace as i32) {
            return Err(error::NO_SPACE);
        }
        let told = self.dispatch(request)?;
        // Over the quota the request has been carried out, and is refused all the same.
        if cost > 0 && room.is_some_and(|room| cost >= room) {
            return Err(error::NO_SPACE);
        }
        Ok(told)
    }

    fn dispatch(&mut self, request: &InternalRaftRequest) -> Result<Told, Status> {
        if let Some(put) = &request.put {
            self.check_put(put)?;
            return Ok(Told::Put(self.put(self.current + 1, put)?));
        }
        if let Some(delete) = &request.delete_range {
            return Ok(Told::Delete(self.delete(self.current + 1, delete)));
        }
        if let Some(range) = &request.range {
            return self.range(range, self.current).map(Told::Range);
        }
        if let Some(txn) = &request.txn {
            return self.txn(txn).map(Told::Txn);
        }
        if let Some(compaction) = &request.compaction {
            let at = compaction.revision;
            if at <= self.compacted {
                return Err(error::COMPACTED);
            }
            if at > self.current {
                return Err(error::FUTURE_REV);
            }
            self.compacted = at;
            return Ok(Told::Revision(self.current));
        }
        if let Some(grant) = &request.lease_grant {
            if grant.id == 0 {
                return Err(error::LEASE_NOT_FOUND);
            }
            if grant.ttl > 9_000_000_000 {
                return Err(error::LEASE_TTL_TOO_LARGE);
            }
            if self.leases.contains_key(&grant.id) {
                return Err(error::LEASE_EXIST);
            }
            let ttl = grant.ttl.max(self.ttl_min);
            self.leases.insert(grant.id, (ttl, 0));
            return Ok(Told::Granted { revision: self.current, id: grant.id, ttl });
        }
        if let Some(revoke) = &request.lease_revoke {
            if !self.leases.contains_key(&revoke.id) {
                return Err(error::LEASE_NOT_FOUND);
            }
            let main = self.current + 1;
            for key in self.lease_keys(revoke.id) {
                self.change(main, key, None);
            }
            self.leases.remove(&revoke.id);
            return Ok(Told::Revision(self.current));
        }
        panic!("the model knows nothing of {request:?}")
    }

    fn change(&mut self, main: i64, key: Bytes, kv: Option<KeyValue>) {
        let sub = self.changes.iter().filter(|change| change.main == main).count() as i64;
        self.changes.push(Change { main, sub, key, kv });
        self.current = main;
    }

    fn check_put(&self, put: &PutRequest) -> Result<(), Status> {
        if put.lease != 0 && !self.leases.contains_key(&put.lease) {
            return Err(error::LEASE_NOT_FOUND);
        }
        if (put.ignore_value || put.ignore_lease) && !self.now().contains_key(&put.key) {
            return Err(error::KEY_NOT_FOUND);
        }
        Ok(())
    }

    fn put(&mut self, main: i64, put: &PutRequest) -> Result<PutResponse, Status> {
        let before = self.now().remove(&put.key);
        if before.is_none() && (put.ignore_value || put.ignore_lease) {
            return Err(error::KEY_NOT_FOUND);
        }
        let old = before.clone().unwrap_or(KeyValue { create_revision: main, ..Default::default() });
        let kv = KeyValue {
            key: put.key.clone(),
            value: if put.ignore_value { old.value } else { put.value.clone() },
            lease: if put.ignore_lease { old.lease } else { put.lease },
            create_revision: old.create_revision,
            mod_revision: main,
            version: old.version + 1,
        };
        self.change(main, put.key.clone(), Some(kv));
        Ok(PutResponse { header: header(main), prev_kv: before.filter(|_| put.prev_kv) })
    }

    fn delete(&mut self, main: i64, delete: &DeleteRangeRequest) -> DeleteRangeResponse {
        let gone: Vec<KeyValue> =
            self.now().into_values().filter(|kv| inside(&kv.key, &delete.key, &delete.range_end)).collect();
        for kv in &gone {
            self.change(main, kv.key.clone(), None);
        }
        DeleteRangeResponse {
            header: header(self.current),
            deleted: gone.len() as i64,
            prev_kvs: if delete.prev_kv { gone } else { vec![] },
        }
    }

    /// `current`: the revision of the reader.
    pub fn range(&self, range: &RangeRequest, current: i64) -> Result<RangeResponse, Status> {
        if range.revision > current {
            return Err(error::FUTURE_REV);
        }
        let at = if range.revision <= 0 { current } else { range.revision };
        if at < self.compacted {
            return Err(error::COMPACTED);
        }
        let all: Vec<KeyValue> =
            self.at(at).into_values().filter(|kv| inside(&kv.key, &range.key, &range.range_end)).collect();
        let count = all.len() as i64;
        let mut answer = RangeResponse { header: header(current), count, ..Default::default() };
        if range.count_only {
            return Ok(answer);
        }
        let filters =
            [range.min_mod_revision, range.max_mod_revision, range.min_create_revision, range.max_create_revision];
        let ordered_by_key = range.sort_order == SortOrder::None as i32
            || (range.sort_order == SortOrder::Ascend as i32 && range.sort_target == SortTarget::Key as i32);
        let mut kvs = all;
        if ordered_by_key && filters == [0; 4] && range.limit > 0 {
            kvs.truncate(range.limit as usize + 1);
        }
        kvs.retain(|kv| {
            (range.min_mod_revision == 0 || kv.mod_revision >= range.min_mod_revision)
                && (range.max_mod_revision == 0 || kv.mod_revision <= range.max_mod_revision)
                && (range.min_create_revision == 0 || kv.create_revision >= range.min_create_revision)
                && (range.max_create_revision == 0 || kv.create_revision <= range.max_create_revision)
        });
        if range.keys_only && range.sort_target != SortTarget::Value as i32 {
            kvs.iter_mut().for_each(|kv| kv.lease = 0);
        }
        let descending = range.sort_order == SortOrder::Descend as i32;
        kvs.sort_by(|a, b| {
            let order = match SortTarget::try_from(range.sort_target).unwrap() {
                SortTarget::Key => a.key.cmp(&b.key),
                SortTarget::Version => a.version.cmp(&b.version),
                SortTarget::Create => a.create_revision.cmp(&b.create_revision),
                SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
                SortTarget::Value => a.value.cmp(&b.value),
            };
            if descending { order.reverse() } else { order }
        });
        if range.limit > 0 && kvs.len() as i64 > range.limit {
            kvs.truncate(range.limit as usize);
            answer.more = true;
        }
        if range.keys_only {
            kvs.iter_mut().for_each(|kv| kv.value = Bytes::new());
        }
        answer.kvs = kvs;
        Ok(answer)
    }

    fn txn(&mut self, txn: &TxnRequest) -> Result<TxnResponse, Status> {
        let mut path = Vec::new();
        self.choose(txn, &mut path);
        self.check(txn, &mut path.iter().copied())?;
        let before = self.clone();
        let answer = self.execute(self.current + 1, txn, &mut path.iter().copied());
        match answer {
            Ok(answer) => Ok(TxnResponse { header: header(self.current), ..answer }),
            Err(status) => {
                *self = before;
                Err(status)
            }
        }
    }

    fn choose(&self, txn: &TxnRequest, path: &mut Vec<bool>) {
        let holds = txn.compare.iter().all(|compare| self.holds(compare));
        path.push(holds);
        for op in if holds { &txn.success } else { &txn.failure } {
            if let Some(Request::RequestTxn(nested)) = &op.request {
                self.choose(nested, path);
            }
        }
    }

    fn holds(&self, compare: &Compare) -> bool {
        let found: Vec<KeyValue> =
            self.now().into_values().filter(|kv| inside(&kv.key, &compare.key, &compare.range_end)).collect();
        if found.is_empty() {
            return compare.target != CompareTarget::Value as i32 && one_holds(compare, &KeyValue::default());
        }
        found.iter().all(|kv| one_holds(compare, kv))
    }

    fn check(&self, txn: &TxnRequest, path: &mut impl Iterator<Item = bool>) -> Result<(), Status> {
        for op in if path.next().unwrap() { &txn.success } else { &txn.failure } {
            match op.request.as_ref().expect("an operation that is one") {
                Request::RequestRange(range) if range.revision > self.current => return Err(error::FUTURE_REV),
                Request::RequestRange(range) if range.revision != 0 && range.revision < self.compacted => {
                    return Err(error::COMPACTED);
                }
                Request::RequestRange(_) | Request::RequestDeleteRange(_) => {}
                Request::RequestPut(put) => self.check_put(put)?,
                Request::RequestTxn(nested) => self.check(nested, path)?,
            }
        }
        Ok(())
    }

    fn execute(
        &mut self,
        main: i64,
        txn: &TxnRequest,
        path: &mut impl Iterator<Item = bool>,
    ) -> Result<TxnResponse, Status> {
        let succeeded = path.next().unwrap();
        let mut responses = Vec::new();
        for op in if succeeded { &txn.success } else { &txn.failure } {
            let response = match op.request.as_ref().expect("an operation that is one") {
                Request::RequestRange(range) => Response::ResponseRange(self.range(range, self.current)?),
                Request::RequestPut(put) => Response::ResponsePut(self.put(main, put)?),
                Request::RequestDeleteRange(delete) => Response::ResponseDeleteRange(self.delete(main, delete)),
                Request::RequestTxn(nested) => {
                    let answer = TxnResponse { header: header(0), ..self.execute(main, nested, path)? };
                    Response::ResponseTxn(answer)
                }
            };
            responses.push(ResponseOp { response: Some(response) });
        }
        Ok(TxnResponse { header: None, succeeded, responses })
    }

    fn alarm(&mut self, request: &AlarmRequest) -> Told {
        let one = (request.alarm, request.member_id);
        let told = match AlarmAction::try_from(request.action).unwrap() {
            AlarmAction::Get => self.alarms.iter().copied().filter(|(kind, _)| one.0 == 0 || *kind == one.0).collect(),
            AlarmAction::Activate if one.0 != 0 => {
                self.alarms.insert(one);
                BTreeSet::from([one])
            }
            AlarmAction::Deactivate if self.alarms.remove(&one) => BTreeSet::from([one]),
            _ => BTreeSet::new(),
        };
        Told::Alarms(told)
    }
}

fn one_holds(compare: &Compare, kv: &KeyValue) -> bool {
    let union = compare.target_union.as_ref();
    let order = match CompareTarget::try_from(compare.target).unwrap() {
        CompareTarget::Value => match union {
            Some(TargetUnion::Value(wanted)) => kv.value.cmp(wanted),
            _ => kv.value.cmp(&Bytes::new()),
        },
        CompareTarget::Version => {
            kv.version.cmp(&if let Some(TargetUnion::Version(wanted)) = union { *wanted } else { 0 })
        }
        CompareTarget::Create => {
            kv.create_revision.cmp(&if let Some(TargetUnion::CreateRevision(wanted)) = union { *wanted } else { 0 })
        }
        CompareTarget::Mod => {
            kv.mod_revision.cmp(&if let Some(TargetUnion::ModRevision(wanted)) = union { *wanted } else { 0 })
        }
        CompareTarget::Lease => kv.lease.cmp(&if let Some(TargetUnion::Lease(wanted)) = union { *wanted } else { 0 }),
    };
    match CompareResult::try_from(compare.result) {
        Ok(CompareResult::Equal) => order.is_eq(),
        Ok(CompareResult::NotEqual) => order.is_ne(),
        Ok(CompareResult::Greater) => order.is_gt(),
        Ok(CompareResult::Less) => order.is_lt(),
        Err(_) => true,
    }
}

/// What a request is counted for against the quota.
fn cost(request: &InternalRaftRequest) -> u64 {
    fn put(put: &PutRequest) -> u64 {
        256 + put.key.len() as u64 + put.value.len() as u64
    }
    fn branch(ops: &[RequestOp]) -> u64 {
        let cost = |op: &RequestOp| match op.request.as_ref() {
            Some(Request::RequestPut(one)) => put(one),
            Some(Request::RequestTxn(nested)) => txn(nested),
            _ => 0,
        };
        ops.iter().map(cost).sum()
    }
    fn txn(txn: &TxnRequest) -> u64 {
        branch(&txn.success).max(branch(&txn.failure))
    }
    if let Some(one) = &request.put {
        return put(one);
    }
    if let Some(one) = &request.txn {
        return txn(one);
    }
    if request.lease_grant.is_some() { 64 } else { 0 }
}
