//! What a committed entry does to the state: etcd's apply, request for request. Deterministic: the same entries make
//! the same state on every member. Reads a value only for a comparison or a sort by value.

use std::io;

use bytes::Bytes;
use prost::Message as _;

use super::{
    cost,
    index::Index,
    lease::Lease,
    range,
    state::{Downgrade, State},
    txn,
    types::{Event, KeyMeta, KeyRange, KeyRef, Place, Revision, Values},
};
use crate::{
    auth::{self, Ask, AuthAnswer, TokenChange, Who},
    error::{self, Status},
    limits,
    proto::{
        etcdserverpb::{
            AlarmRequest, AlarmType, InternalRaftRequest, LeaseGrantRequest, PutRequest, alarm_request::AlarmAction,
        },
        raftpb,
    },
};

/// A committed entry, and where its data lies in the log.
#[derive(Clone, Debug)]
pub struct ApplyEntry {
    pub index: u64,
    pub term: u64,
    /// The place of `data`: a value's place follows from where it lies in there.
    pub base: Place,
    pub data: Bytes,
    /// Bytes left until the quota is reached; None without a quota.
    pub quota_room: Option<u64>,
}

/// What the caller of a request is told. A KeyRef stands where a key-value goes; its value is read when the answer is
/// encoded.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    Put {
        revision: i64,
        prev: Option<KeyRef>,
    },
    DeleteRange {
        revision: i64,
        deleted: i64,
        prevs: Vec<KeyRef>,
    },
    Txn(txn::TxnAnswer),
    Range(range::RangeAnswer),
    Compact {
        revision: i64,
    },
    LeaseGrant {
        revision: i64,
        id: i64,
        ttl: i64,
    },
    LeaseRevoke {
        revision: i64,
    },
    LeaseCheckpoint {
        revision: i64,
    },
    /// Kind and member of each alarm that the request names.
    Alarm {
        alarms: Vec<(i32, u64)>,
    },
    /// Of users and roles.
    Auth {
        revision: i64,
        answer: AuthAnswer,
    },
    /// Requests that members make for themselves, and changes of the members, which are told by the state.
    Nothing,
}

/// A request's id and its result.
#[derive(Debug)]
pub struct Applied {
    pub id: u64,
    pub result: Result<Answer, Status>,
}

/// A change that watchers may want, with what they need at hand.
#[derive(Clone, Debug)]
pub struct LiveEvent {
    pub event: Event,
    /// The value put, a part of the entry's bytes; None for a delete, and for a put that kept its value.
    pub value: Option<Bytes>,
    /// The key's state one revision before, if it lived: prev_kv.
    pub prev: Option<KeyMeta>,
}

/// The changes of one revision, in order.
#[derive(Clone, Debug)]
pub struct RevisionEvents {
    pub revision: i64,
    pub events: Vec<LiveEvent>,
}

/// What has become of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseChange {
    Granted { id: i64, ttl: i64 },
    Revoked { id: i64 },
    Checkpointed { id: i64, remaining: i64 },
}

/// A logged request by what it asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Range,
    Put,
    DeleteRange,
    Txn,
    Compaction,
    LeaseGrant,
    LeaseRevoke,
    LeaseCheckpoint,
    Alarm,
    ClusterVersionSet,
    ClusterMemberAttrSet,
    DowngradeInfoSet,
    Authenticate,
    AuthEnable,
    AuthDisable,
    AuthStatus,
    AuthUserAdd,
    AuthUserDelete,
    AuthUserGet,
    AuthUserChangePassword,
    AuthUserGrantRole,
    AuthUserRevokeRole,
    AuthUserList,
    AuthRoleList,
    AuthRoleAdd,
    AuthRoleDelete,
    AuthRoleGet,
    AuthRoleGrantPermission,
    AuthRoleRevokePermission,
}

impl Kind {
    pub const ALL: [Kind; 29] = [
        Kind::Range,
        Kind::Put,
        Kind::DeleteRange,
        Kind::Txn,
        Kind::Compaction,
        Kind::LeaseGrant,
        Kind::LeaseRevoke,
        Kind::LeaseCheckpoint,
        Kind::Alarm,
        Kind::ClusterVersionSet,
        Kind::ClusterMemberAttrSet,
        Kind::DowngradeInfoSet,
        Kind::Authenticate,
        Kind::AuthEnable,
        Kind::AuthDisable,
        Kind::AuthStatus,
        Kind::AuthUserAdd,
        Kind::AuthUserDelete,
        Kind::AuthUserGet,
        Kind::AuthUserChangePassword,
        Kind::AuthUserGrantRole,
        Kind::AuthUserRevokeRole,
        Kind::AuthUserList,
        Kind::AuthRoleList,
        Kind::AuthRoleAdd,
        Kind::AuthRoleDelete,
        Kind::AuthRoleGet,
        Kind::AuthRoleGrantPermission,
        Kind::AuthRoleRevokePermission,
    ];

    /// None: of no kind that is applied here.
    fn of(request: &InternalRaftRequest) -> Option<Kind> {
        let fields = [
            (request.put.is_some(), Kind::Put),
            (request.txn.is_some(), Kind::Txn),
            (request.delete_range.is_some(), Kind::DeleteRange),
            (request.range.is_some(), Kind::Range),
            (request.compaction.is_some(), Kind::Compaction),
            (request.lease_grant.is_some(), Kind::LeaseGrant),
            (request.lease_revoke.is_some(), Kind::LeaseRevoke),
            (request.lease_checkpoint.is_some(), Kind::LeaseCheckpoint),
            (request.alarm.is_some(), Kind::Alarm),
            (request.cluster_version_set.is_some(), Kind::ClusterVersionSet),
            (request.cluster_member_attr_set.is_some(), Kind::ClusterMemberAttrSet),
            (request.downgrade_info_set.is_some(), Kind::DowngradeInfoSet),
            (request.authenticate.is_some(), Kind::Authenticate),
            (request.auth_enable.is_some(), Kind::AuthEnable),
            (request.auth_disable.is_some(), Kind::AuthDisable),
            (request.auth_status.is_some(), Kind::AuthStatus),
            (request.auth_user_add.is_some(), Kind::AuthUserAdd),
            (request.auth_user_delete.is_some(), Kind::AuthUserDelete),
            (request.auth_user_get.is_some(), Kind::AuthUserGet),
            (request.auth_user_change_password.is_some(), Kind::AuthUserChangePassword),
            (request.auth_user_grant_role.is_some(), Kind::AuthUserGrantRole),
            (request.auth_user_revoke_role.is_some(), Kind::AuthUserRevokeRole),
            (request.auth_user_list.is_some(), Kind::AuthUserList),
            (request.auth_role_list.is_some(), Kind::AuthRoleList),
            (request.auth_role_add.is_some(), Kind::AuthRoleAdd),
            (request.auth_role_delete.is_some(), Kind::AuthRoleDelete),
            (request.auth_role_get.is_some(), Kind::AuthRoleGet),
            (request.auth_role_grant_permission.is_some(), Kind::AuthRoleGrantPermission),
            (request.auth_role_revoke_permission.is_some(), Kind::AuthRoleRevokePermission),
        ];
        fields.into_iter().find_map(|(is_set, kind)| is_set.then_some(kind))
    }
}

/// Single operations within a request, counted as etcd counts them: a put or delete that has to look at what was there
/// is a range too, and a request of more than one operation is a transaction. (etcd: mvcc/metrics_txn.go.)
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Operations {
    pub ranges: u64,
    pub puts: u64,
    /// Of keys and values put.
    pub put_bytes: u64,
    pub deletes: u64,
}

/// What a turn's entries were, for the metrics.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// By kind and outcome: failed, succeeded.
    pub requests: [[u64; 2]; Kind::ALL.len()],
    pub operations: Operations,
    pub transactions: u64,
}

impl Tally {
    fn count(&mut self, operations: &Operations) {
        let Operations { ranges, puts, put_bytes, deletes } = operations;
        let sum = &mut self.operations;
        sum.ranges += ranges;
        sum.puts += puts;
        sum.put_bytes += put_bytes;
        sum.deletes += deletes;
        self.transactions += u64::from(ranges + puts + deletes > 1);
    }

    pub fn total(&self) -> u64 {
        self.requests.as_flattened().iter().sum()
    }
}

/// What a turn's entries have done, for the shards.
#[derive(Debug, Default)]
pub struct AppliedBatch {
    pub events: Vec<RevisionEvents>,
    pub leases: Vec<LeaseChange>,
    pub tokens: Vec<TokenChange>,
    /// The index before each compaction, and the compaction's revision: for hashes at that revision.
    pub compactions: Vec<(Index, i64)>,
    pub tally: Tally,
}

impl State {
    /// Takes note of an entry that changes nothing: a leader's first, or one that nobody can read.
    pub fn apply_empty(&mut self, index: u64, term: u64) {
        debug_assert!(index > self.applied_index, "entry {index} was applied before");
        (self.applied_index, self.applied_term) = (index, term);
    }

    /// Applies a configuration change.
    ///
    /// # Errors
    /// Where it does not fit the members there are: then raft must not see it.
    pub fn apply_conf_change(&mut self, index: u64, term: u64, change: &raftpb::ConfChange) -> Result<(), Status> {
        self.apply_empty(index, term);
        let (until, before) = self.learners_max_until;
        let learners_max = if index <= until { before } else { self.learners_max };
        self.membership.apply(change, learners_max)
    }

    /// Applies a request.
    ///
    /// # Errors
    /// Where a value that decides a comparison cannot be read: then nobody knows what the entry does, and the member
    /// must stop.
    pub fn apply(&mut self, entry: &ApplyEntry, values: &dyn Values, out: &mut AppliedBatch) -> io::Result<Applied> {
        self.apply_empty(entry.index, entry.term);
        let request = match InternalRaftRequest::decode(entry.data.clone()) {
            Ok(request) => request,
            // Every member decodes with the same rules, so every member refuses it.
            Err(cause) => {
                let status = Status::internal(format!("entry {} does not decode: {cause}", entry.index));
                return Ok(Applied { id: 0, result: Err(status) });
            }
        };
        let id = match &request.header {
            Some(header) if request.id == 0 => header.id,
            _ => request.id,
        };
        let who = request
            .header
            .as_ref()
            .map_or(Who::NOBODY, |header| Who { user: &header.username, revision: header.auth_revision });
        let admitted = self.admit(&request, who);
        // Who may not manage users is sent away before anything is counted (etcd: apply/auth.go, Apply).
        let counts = admitted.is_ok() || !matches!(Ask::of(&request), Ask::Admin);
        let result = match admitted {
            Ok(()) => self.dispatch(entry, &request, values, out)?,
            Err(status) => Err(status),
        };
        if let Some(kind) = Kind::of(&request).filter(|_| counts) {
            // A revision that is gone is no failure (etcd: apply/uber_applier.go).
            let success = result.as_ref().err().is_none_or(|status| *status == error::COMPACTED);
            out.tally.requests[kind as usize][usize::from(success)] += 1;
        }
        Ok(Applied { id, result })
    }

    fn dispatch(
        &mut self,
        entry: &ApplyEntry,
        request: &InternalRaftRequest,
        values: &dyn Values,
        out: &mut AppliedBatch,
    ) -> io::Result<Result<Answer, Status>> {
        if let Some(put) = &request.put {
            return Ok(self.put(entry, put, out));
        }
        if let Some(txn) = &request.txn {
            let room = within(entry.quota_room, cost::of_txn(txn));
            let mut changes = Changes::new(self, entry);
            let answer = txn::apply(&mut changes, txn, values)?;
            changes.finish(out);
            return Ok(answer.and_then(|answer| room.map(|()| Answer::Txn(answer))));
        }
        if let Some(delete) = &request.delete_range {
            let mut changes = Changes::new(self, entry);
            let (deleted, prevs) = changes.delete_range(KeyRange::new(&delete.key, &delete.range_end), delete.prev_kv);
            let revision = changes.finish(out);
            return Ok(Ok(Answer::DeleteRange { revision, deleted, prevs }));
        }
        if let Some(range) = &request.range {
            out.tally.operations.ranges += 1;
            let revision = self.index.current();
            let answer = range::answer(&self.index, range, revision, &mut |kv| values.value(kv.meta.place))?;
            return Ok(answer.map(Answer::Range));
        }
        if let Some(compaction) = &request.compaction {
            let before = self.index.clone();
            return Ok(self.index.begin_compaction(compaction.revision).map(|()| {
                out.compactions.push((before, compaction.revision));
                Answer::Compact { revision: self.index.current() }
            }));
        }
        if let Some(grant) = &request.lease_grant {
            return Ok(self
                .lease_grant(grant, out)
                .and_then(|answer| within(entry.quota_room, limits::LEASE_COST_BYTES).map(|()| answer)));
        }
        if let Some(revoke) = &request.lease_revoke {
            return Ok(self.lease_revoke(entry, revoke.id, out));
        }
        if let Some(checkpoint) = &request.lease_checkpoint {
            for one in &checkpoint.checkpoints {
                if let Some(lease) = self.leases.get(one.id) {
                    self.leases.grant(Lease { remaining: one.remaining_ttl, ..lease });
                    out.leases.push(LeaseChange::Checkpointed { id: one.id, remaining: one.remaining_ttl });
                }
            }
            return Ok(Ok(Answer::LeaseCheckpoint { revision: self.index.current() }));
        }
        if let Some(alarm) = &request.alarm {
            return Ok(Ok(self.alarm(alarm)));
        }
        if let Some(version) = &request.cluster_version_set {
            self.cluster_version = Some(version.ver.as_str().into());
            return Ok(Ok(Answer::Nothing));
        }
        if let Some(set) = &request.cluster_member_attr_set {
            let attributes = set.member_attributes.clone().unwrap_or_default();
            self.membership.set_attributes(set.member_id, &attributes.name, &attributes.client_urls);
            return Ok(Ok(Answer::Nothing));
        }
        if let Some(info) = &request.downgrade_info_set {
            self.downgrade = info.enabled.then(|| Downgrade { target: info.ver.clone() }.into());
            return Ok(Ok(Answer::Nothing));
        }
        if request.downgrade_version_test.is_some() {
            return Ok(Ok(Answer::Nothing));
        }
        if let Some(result) = self.auth.apply(request, entry.index, &mut out.tokens) {
            let revision = self.index.current();
            return Ok(result.map(|answer| Answer::Auth { revision, answer }));
        }
        Ok(Err(Status::unimplemented("this version does not apply requests of this kind")))
    }

    /// Whether a logged request is carried out at all: what raised alarms refuse is refused first, then what its user may
    /// not do. A shard asks this before it proposes, so that what would be refused anyway need not be logged.
    pub fn admit(&self, request: &InternalRaftRequest, who: Who<'_>) -> Result<(), Status> {
        self.check_alarms(request)?;
        // While nobody is asked for, not even what is asked is looked for.
        match self.auth.is_enabled() {
            true => auth::authorize(&self.auth, &self.leases, who, Ask::of(request)),
            false => Ok(()),
        }
    }

    /// CORRUPT refuses all that it covers, NOSPACE what takes space. (etcd: apply/corrupt.go, apply/capped.go.)
    fn check_alarms(&self, request: &InternalRaftRequest) -> Result<(), Status> {
        if self.alarms.iter().next().is_none() {
            return Ok(());
        }
        let corruptible = request.put.is_some()
            || request.txn.is_some()
            || request.delete_range.is_some()
            || request.range.is_some()
            || request.compaction.is_some()
            || request.lease_grant.is_some()
            || request.lease_revoke.is_some();
        if corruptible && self.alarms.is_raised(AlarmType::Corrupt) {
            return Err(error::CORRUPT);
        }
        let takes_space = request.put.is_some()
            || request.lease_grant.is_some()
            || request.txn.as_ref().is_some_and(|txn| cost::of_txn(txn) > 0);
        if takes_space && self.alarms.is_raised(AlarmType::Nospace) {
            return Err(error::NO_SPACE);
        }
        Ok(())
    }

    fn put(&mut self, entry: &ApplyEntry, put: &PutRequest, out: &mut AppliedBatch) -> Result<Answer, Status> {
        txn::check_put(self, put)?;
        let room = within(entry.quota_room, cost::of_put(put));
        let mut changes = Changes::new(self, entry);
        let prev = changes.put(put)?;
        let revision = changes.finish(out);
        // Over the quota the write is done all the same, and the caller told so: see surface of etcd, NOSPACE.
        room.map(|()| Answer::Put { revision, prev })
    }

    fn lease_grant(&mut self, grant: &LeaseGrantRequest, out: &mut AppliedBatch) -> Result<Answer, Status> {
        if grant.id == 0 {
            return Err(error::LEASE_NOT_FOUND);
        }
        if grant.ttl > limits::LEASE_TTL_SECONDS_MAX {
            return Err(error::LEASE_TTL_TOO_LARGE);
        }
        if self.leases.contains(grant.id) {
            return Err(error::LEASE_EXIST);
        }
        let ttl = grant.ttl.max(self.lease_ttl_min);
        self.leases.grant(Lease { id: grant.id, ttl, remaining: 0 });
        out.leases.push(LeaseChange::Granted { id: grant.id, ttl });
        Ok(Answer::LeaseGrant { revision: self.index.current(), id: grant.id, ttl })
    }

    fn lease_revoke(&mut self, entry: &ApplyEntry, id: i64, out: &mut AppliedBatch) -> Result<Answer, Status> {
        if !self.leases.contains(id) {
            return Err(error::LEASE_NOT_FOUND);
        }
        let keys = self.leases.keys_owned(id);
        let mut changes = Changes::new(self, entry);
        for key in &keys {
            changes.delete(key);
        }
        changes.operations.deletes = keys.len() as u64;
        let revision = changes.finish(out);
        self.leases.revoke(id);
        out.leases.push(LeaseChange::Revoked { id });
        Ok(Answer::LeaseRevoke { revision })
    }

    fn alarm(&mut self, request: &AlarmRequest) -> Answer {
        let kind = request.alarm;
        let alarms = match AlarmAction::try_from(request.action) {
            Ok(AlarmAction::Get) => {
                self.alarms.iter().filter(|alarm| kind == AlarmType::None as i32 || alarm.0 == kind).collect()
            }
            Ok(AlarmAction::Activate) if kind != AlarmType::None as i32 => {
                self.alarms.raise(kind, request.member_id);
                vec![(kind, request.member_id)]
            }
            Ok(AlarmAction::Deactivate) if self.alarms.clear(kind, request.member_id) => {
                vec![(kind, request.member_id)]
            }
            _ => Vec::new(),
        };
        Answer::Alarm { alarms }
    }
}

/// Whether a request of this cost fits the quota. One without cost always does.
fn within(room: Option<u64>, cost: u64) -> Result<(), Status> {
    match room {
        Some(room) if cost > 0 && cost >= room => Err(error::NO_SPACE),
        _ => Ok(()),
    }
}

/// The changes of one request: one main revision if there are any, a sub-revision each.
pub struct Changes<'a> {
    pub state: &'a mut State,
    /// The revision before.
    begin: i64,
    base: Place,
    data: &'a Bytes,
    events: Vec<LiveEvent>,
    pub operations: Operations,
}

impl<'a> Changes<'a> {
    pub fn new(state: &'a mut State, entry: &'a ApplyEntry) -> Self {
        let begin = state.index.current();
        Changes {
            state,
            begin,
            base: entry.base,
            data: &entry.data,
            events: Vec::new(),
            operations: Operations::default(),
        }
    }

    /// The revision a reader of this request sees: with its own changes once there are any.
    pub fn revision(&self) -> i64 {
        self.begin + i64::from(!self.events.is_empty())
    }

    /// Nothing was changed after all: the state has been put back.
    pub(super) fn forget(&mut self) {
        self.events.clear();
        self.operations = Operations::default();
    }

    /// Hands the events on and gives the revision that the request ends at.
    pub fn finish(self, out: &mut AppliedBatch) -> i64 {
        let revision = self.revision();
        out.tally.count(&self.operations);
        if !self.events.is_empty() {
            out.events.push(RevisionEvents { revision, events: self.events });
        }
        revision
    }

    fn next(&mut self) -> Revision {
        let main = self.begin + 1;
        if self.events.is_empty() {
            self.state.index.set_current(main);
        }
        Revision { main, sub: self.events.len() as i64 }
    }

    /// Where a value that is a slice of the entry's data lies in the log.
    fn place_of(&self, value: &Bytes) -> Place {
        if value.is_empty() {
            return Place::EMPTY;
        }
        let at = value.as_ptr() as usize - self.data.as_ptr() as usize;
        assert!(at + value.len() <= self.data.len(), "a value lies outside of its entry");
        Place { segment: self.base.segment, offset: self.base.offset + at as u32, len: value.len() as u32 }
    }

    /// Puts a key. Gives its state before where the request asks for it.
    ///
    /// # Errors
    /// KEY_NOT_FOUND where it keeps the value or the lease of a key that is not there.
    pub fn put(&mut self, put: &PutRequest) -> Result<Option<KeyRef>, Status> {
        let before = match put.ignore_value || put.ignore_lease {
            true => Some(self.state.index.get(&put.key, 0).ok_or(error::KEY_NOT_FOUND)?),
            false => None,
        };
        let (place, value) = match before {
            Some(before) if put.ignore_value => (before.place, None),
            _ => (self.place_of(&put.value), Some(put.value.clone())),
        };
        let lease = match before {
            Some(before) if put.ignore_lease => before.lease,
            _ => put.lease,
        };
        self.operations.puts += 1;
        self.operations.put_bytes += (put.key.len() + put.value.len()) as u64;
        self.operations.ranges += u64::from(put.prev_kv || put.ignore_value || put.ignore_lease);
        let revision = self.next();
        let before = self.state.index.put(revision, &put.key, lease, place);
        let old_lease = before.map_or(0, |before| before.lease);
        if old_lease != lease {
            if old_lease != 0 {
                self.state.leases.detach(old_lease, &put.key);
            }
            if lease != 0 {
                self.state.leases.attach(lease, &put.key);
            }
        }
        let meta = KeyMeta {
            revision,
            create: before.map_or(revision.main, |before| before.create),
            version: before.map_or(1, |before| before.version + 1),
            lease,
            place,
        };
        self.record(put.key.clone(), meta, value, before);
        Ok(before.filter(|_| put.prev_kv).map(|meta| KeyRef { key: put.key.clone(), meta }))
    }

    /// Deletes a key if it lives; gives what it was.
    pub fn delete(&mut self, key: &Bytes) -> Option<KeyMeta> {
        // Looked up first: a delete of nothing makes no revision.
        self.state.index.get(key, 0)?;
        let revision = self.next();
        let before = self.state.index.delete(revision, key)?;
        if before.lease != 0 {
            self.state.leases.detach(before.lease, key);
        }
        self.record(key.clone(), KeyMeta { revision, ..KeyMeta::default() }, None, Some(before));
        Some(before)
    }

    /// Deletes the keys of a range; gives how many, and what they were if asked to.
    pub fn delete_range(&mut self, range: KeyRange<'_>, with_prevs: bool) -> (i64, Vec<KeyRef>) {
        self.operations.deletes += 1;
        self.operations.ranges += u64::from(with_prevs);
        let kvs: Vec<KeyRef> = self.state.index.iter_refs(range, 0).collect();
        for kv in &kvs {
            self.delete(&kv.key);
        }
        (kvs.len() as i64, if with_prevs { kvs } else { Vec::new() })
    }

    fn record(&mut self, key: Bytes, meta: KeyMeta, value: Option<Bytes>, before: Option<KeyMeta>) {
        let main = meta.revision.main;
        let index = &self.state.index;
        // prev_kv is the state one revision back, not one change back.
        let prev = match before {
            Some(before) if before.revision.main == main => index.prev_state(&meta, Some(before.revision)),
            Some(before) => (main > index.compacted()).then_some(before),
            None => None,
        };
        let event = Event { key, meta, prev: before.map(|before| before.revision) };
        self.events.push(LiveEvent { event, value, prev });
    }
}
