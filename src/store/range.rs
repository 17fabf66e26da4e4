//! How a RangeRequest is answered from an index: shared by reads of their own and by reads inside transactions.
//! Order of key without filters is read straight from the tree; anything else is gathered, filtered and sorted.
//! (etcd API, KV.Range; etcdserver/txn/range.go for what is applied before what.)

use std::{cmp::Ordering, io};

use bytes::Bytes;

use super::{
    index::Index,
    types::{KeyRange, KeyRef},
};
use crate::{
    error::Status,
    proto::etcdserverpb::{
        RangeRequest,
        range_request::{SortOrder, SortTarget},
    },
};

/// Order of key, as the tree gives it.
pub fn is_default_order(request: &RangeRequest) -> bool {
    match request.sort_order() {
        SortOrder::None => true,
        SortOrder::Ascend => request.sort_target() == SortTarget::Key,
        SortOrder::Descend => false,
    }
}

pub fn has_filters(request: &RangeRequest) -> bool {
    request.min_mod_revision != 0
        || request.max_mod_revision != 0
        || request.min_create_revision != 0
        || request.max_create_revision != 0
}

/// Whether the tree gives the answer as it is wanted: then only what is handed out is looked at.
pub fn is_in_order(request: &RangeRequest) -> bool {
    sort_of(request).is_none() && !has_filters(request)
}

/// What to sort by, and whether from the greatest down.
pub type Sort = (SortTarget, bool);

/// Sorted by something after it was cut to the limit, or before: in both cases by this.
pub fn sort_of(request: &RangeRequest) -> Option<Sort> {
    let (target, order) = (request.sort_target(), request.sort_order());
    match (target, order) {
        (SortTarget::Key, SortOrder::None | SortOrder::Ascend) => None,
        (target, order) => Some((target, order == SortOrder::Descend)),
    }
}

/// Keys without their values and, as etcd reads them from its index, without their leases.
pub fn is_fast_keys_only(request: &RangeRequest) -> bool {
    request.keys_only && request.sort_target() != SortTarget::Value
}

/// What answers a request.
#[derive(Debug, PartialEq, Eq)]
pub struct RangeAnswer {
    /// The store's revision at the read.
    pub revision: i64,
    pub kvs: Vec<KeyRef>,
    pub more: bool,
    /// Live keys in the range, whatever the limit and the filters.
    pub count: i64,
    pub with_values: bool,
}

/// How a request is to be answered.
#[derive(Debug)]
pub enum Plan {
    /// `count` and nothing else.
    Count(i64),
    /// In order of key from the tree: this many of `count`.
    InOrder { take: u64, count: i64, more: bool },
    /// Gathered and filtered; to be sorted and cut by `Gathered::finish`.
    Gathered(Gathered),
}

/// Keys that wait to be sorted.
#[derive(Debug)]
pub struct Gathered {
    pub kvs: Vec<KeyRef>,
    count: i64,
    sort: Option<Sort>,
    limit: usize,
    more: bool,
    keys_only: bool,
}

/// Looks at a request, whose revision the index can be read at (`Index::check_revision`).
pub fn plan(index: &Index, request: &RangeRequest) -> Plan {
    let range = KeyRange::new(&request.key, &request.range_end);
    let at = request.revision;
    let count = index.count(range, at) as i64;
    if request.count_only {
        return Plan::Count(count);
    }
    let limit = if request.limit > 0 { request.limit } else { i64::MAX };
    let sort = sort_of(request);
    if is_in_order(request) {
        return Plan::InOrder { take: limit.min(count) as u64, count, more: count > limit };
    }
    let mut kvs: Vec<KeyRef> = if is_default_order(request) && !has_filters(request) {
        // No order asked for, but a target: the limit selects by key first, one beyond it to know of more.
        index.iter_refs(range, at).take(limit.saturating_add(1) as usize).collect()
    } else {
        index.iter_refs(range, at).filter(|kv| passes(request, kv)).collect()
    };
    if is_fast_keys_only(request) {
        kvs.iter_mut().for_each(|kv| kv.meta.lease = 0);
    }
    let more = kvs.len() as u64 > limit as u64;
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    Plan::Gathered(Gathered { kvs, count, sort, limit, more, keys_only: request.keys_only })
}

fn passes(request: &RangeRequest, kv: &KeyRef) -> bool {
    let (modified, created) = (kv.meta.revision.main, kv.meta.create);
    (request.max_mod_revision == 0 || modified <= request.max_mod_revision)
        && (request.min_mod_revision == 0 || modified >= request.min_mod_revision)
        && (request.max_create_revision == 0 || created <= request.max_create_revision)
        && (request.min_create_revision == 0 || created >= request.min_create_revision)
}

impl Gathered {
    /// Whether `finish` has to be given the values.
    pub fn needs_values(&self) -> bool {
        matches!(self.sort, Some((SortTarget::Value, _)))
    }

    /// Sorts and cuts. `values` are those of `kvs`, in their order, where they are needed.
    pub fn finish(self, revision: i64, values: Vec<Bytes>) -> RangeAnswer {
        let Gathered { mut kvs, count, sort, limit, more, keys_only } = self;
        if let Some(by) = sort {
            sort_kvs(&mut kvs, by, values);
        }
        kvs.truncate(limit);
        RangeAnswer { revision, kvs, more, count, with_values: !keys_only }
    }
}

/// Sorts what is in order of key; ties stay in it. `values` are those of `kvs`, in their order, for a sort by value.
pub fn sort_kvs(kvs: &mut Vec<KeyRef>, (target, descending): Sort, values: Vec<Bytes>) {
    let directed = |ordering: Ordering| if descending { ordering.reverse() } else { ordering };
    match target {
        SortTarget::Key => kvs.sort_by(|a, b| directed(a.key.cmp(&b.key))),
        SortTarget::Version => kvs.sort_by(|a, b| directed(a.meta.version.cmp(&b.meta.version))),
        SortTarget::Create => kvs.sort_by(|a, b| directed(a.meta.create.cmp(&b.meta.create))),
        SortTarget::Mod => kvs.sort_by(|a, b| directed(a.meta.revision.main.cmp(&b.meta.revision.main))),
        SortTarget::Value => {
            assert_eq!(values.len(), kvs.len(), "a sort by value needs every value");
            let mut both: Vec<(KeyRef, Bytes)> = kvs.drain(..).zip(values).collect();
            both.sort_by(|a, b| directed(a.1.cmp(&b.1)));
            kvs.extend(both.into_iter().map(|(kv, _)| kv));
        }
    }
}

/// Answers a request whole. `revision` is what its header states; `values` reads what a sort by value needs.
pub fn answer(
    index: &Index,
    request: &RangeRequest,
    revision: i64,
    values: &mut dyn FnMut(&KeyRef) -> io::Result<Bytes>,
) -> io::Result<Result<RangeAnswer, Status>> {
    if let Err(status) = index.check_revision(request.revision) {
        return Ok(Err(status));
    }
    let answer = match plan(index, request) {
        Plan::Count(count) => RangeAnswer { revision, kvs: Vec::new(), more: false, count, with_values: false },
        Plan::InOrder { take, count, more } => {
            let range = KeyRange::new(&request.key, &request.range_end);
            let mut kvs: Vec<KeyRef> = index.iter_refs(range, request.revision).take(take as usize).collect();
            if is_fast_keys_only(request) {
                kvs.iter_mut().for_each(|kv| kv.meta.lease = 0);
            }
            RangeAnswer { revision, kvs, more, count, with_values: !request.keys_only }
        }
        Plan::Gathered(gathered) => {
            let values = match gathered.needs_values() {
                true => gathered.kvs.iter().map(values).collect::<io::Result<_>>()?,
                false => Vec::new(),
            };
            gathered.finish(revision, values)
        }
    };
    Ok(Ok(answer))
}
