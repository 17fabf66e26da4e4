//! Transactions: all comparisons are made first, against the store as it stood, those of nested transactions on the
//! path included; then every operation of the path is checked; only then is anything written. (etcd API, KV.Txn;
//! etcdserver/txn/txn.go.)

use std::{cmp::Ordering, io};

use super::{
    apply::Changes,
    index::Index,
    range::{self, RangeAnswer},
    state::State,
    types::{KeyMeta, KeyRange, KeyRef, Values},
};
use crate::{
    error::{self, Status},
    proto::etcdserverpb::{
        Compare, PutRequest, RangeRequest, RequestOp, TxnRequest,
        compare::{CompareResult, CompareTarget, TargetUnion},
        request_op::Request,
    },
};

#[derive(Debug, PartialEq, Eq)]
pub struct TxnAnswer {
    /// In the header; 0 (an empty header) in nested answers.
    pub revision: i64,
    pub succeeded: bool,
    pub responses: Vec<OpAnswer>,
}

#[derive(Debug, PartialEq, Eq)]
pub enum OpAnswer {
    Range(RangeAnswer),
    Put { revision: i64, prev: Option<KeyRef> },
    DeleteRange { revision: i64, deleted: i64, prevs: Vec<KeyRef> },
    Txn(TxnAnswer),
}

/// Which branch was taken, in the order in which transactions are met on the way.
type Path = Vec<bool>;

/// Applies a transaction whole or not at all.
///
/// # Errors
/// The outer one where a value that decides something cannot be read; the inner one is the caller's.
pub fn apply(
    changes: &mut Changes<'_>,
    txn: &TxnRequest,
    values: &dyn Values,
) -> io::Result<Result<TxnAnswer, Status>> {
    let mut path = Path::new();
    choose(&changes.state.index, txn, values, &mut path)?;
    if let Err(status) = check(changes.state, txn, &mut path.iter()) {
        return Ok(Err(status));
    }
    // What the checks cannot foresee (a key deleted and then put with ignore_value in one transaction, at which the
    // reference stops) takes the whole transaction back.
    let before = changes.state.clone();
    let answer = execute(changes, txn, values, &mut path.iter())?;
    Ok(match answer {
        Ok(mut answer) => {
            answer.revision = changes.revision();
            Ok(answer)
        }
        Err(status) => {
            *changes.state = before;
            changes.forget();
            Err(status)
        }
    })
}

/// Answers a transaction of reads only, from one index.
///
/// # Errors
/// The outer one where `values` cannot give a value that decides something.
pub fn read(index: &Index, txn: &TxnRequest, values: &dyn Values) -> io::Result<Result<TxnAnswer, Status>> {
    let mut path = Path::new();
    choose(index, txn, values, &mut path)?;
    let succeeded = path[0];
    let mut responses = Vec::new();
    let ops = if succeeded { &txn.success } else { &txn.failure };
    for request in ops.iter().filter_map(ranges) {
        if let Err(status) = check_range(index, request) {
            return Ok(Err(status));
        }
    }
    for request in ops.iter().filter_map(ranges) {
        match range::answer(index, request, index.current(), &mut |kv| values.value(kv.meta.place))? {
            Ok(answer) => responses.push(OpAnswer::Range(answer)),
            Err(status) => return Ok(Err(status)),
        }
    }
    Ok(Ok(TxnAnswer { revision: index.current(), succeeded, responses }))
}

fn ranges(op: &RequestOp) -> Option<&RangeRequest> {
    match &op.request {
        Some(Request::RequestRange(range)) => Some(range),
        _ => None,
    }
}

fn branch<'a>(txn: &'a TxnRequest, taken: Option<&bool>) -> &'a [RequestOp] {
    match taken {
        Some(true) => &txn.success,
        Some(false) => &txn.failure,
        None => unreachable!("the path has a step for each transaction on it"),
    }
}

fn choose(index: &Index, txn: &TxnRequest, values: &dyn Values, path: &mut Path) -> io::Result<()> {
    let mut holds = true;
    for compare in &txn.compare {
        if !compare_holds(index, compare, values)? {
            holds = false;
            break;
        }
    }
    path.push(holds);
    for op in branch(txn, Some(&holds)) {
        if let Some(Request::RequestTxn(nested)) = &op.request {
            choose(index, nested, values, path)?;
        }
    }
    Ok(())
}

fn compare_holds(index: &Index, compare: &Compare, values: &dyn Values) -> io::Result<bool> {
    let range = KeyRange::new(&compare.key, &compare.range_end);
    let mut any = false;
    for (_, meta) in index.iter(range, 0) {
        any = true;
        if !meta_holds(compare, &meta, values)? {
            return Ok(false);
        }
    }
    if any {
        return Ok(true);
    }
    // Absent keys compare as zeros, but nothing compares to the value of an absent key.
    if compare.target == CompareTarget::Value as i32 {
        return Ok(false);
    }
    meta_holds(compare, &KeyMeta::default(), values)
}

fn meta_holds(compare: &Compare, meta: &KeyMeta, values: &dyn Values) -> io::Result<bool> {
    let union = compare.target_union.as_ref();
    let ordering = match CompareTarget::try_from(compare.target) {
        Ok(CompareTarget::Value) => {
            let wanted = match union {
                Some(TargetUnion::Value(value)) => &value[..],
                _ => &[],
            };
            // Values of different lengths need not be read to be told apart, but their order must be known.
            let equality =
                compare.result == CompareResult::Equal as i32 || compare.result == CompareResult::NotEqual as i32;
            if equality && meta.place.len as usize != wanted.len() {
                Ordering::Less
            } else if meta.place.len == 0 {
                [].as_slice().cmp(wanted)
            } else {
                values.read(meta.place)?[..].cmp(wanted)
            }
        }
        Ok(CompareTarget::Create) => match union {
            Some(TargetUnion::CreateRevision(wanted)) => meta.create.cmp(wanted),
            _ => meta.create.cmp(&0),
        },
        Ok(CompareTarget::Mod) => match union {
            Some(TargetUnion::ModRevision(wanted)) => meta.revision.main.cmp(wanted),
            _ => meta.revision.main.cmp(&0),
        },
        Ok(CompareTarget::Version) => match union {
            Some(TargetUnion::Version(wanted)) => meta.version.cmp(wanted),
            _ => meta.version.cmp(&0),
        },
        Ok(CompareTarget::Lease) => match union {
            Some(TargetUnion::Lease(wanted)) => meta.lease.cmp(wanted),
            _ => meta.lease.cmp(&0),
        },
        Err(_) => Ordering::Equal,
    };
    Ok(match CompareResult::try_from(compare.result) {
        Ok(CompareResult::Equal) => ordering.is_eq(),
        Ok(CompareResult::NotEqual) => ordering.is_ne(),
        Ok(CompareResult::Greater) => ordering.is_gt(),
        Ok(CompareResult::Less) => ordering.is_lt(),
        Err(_) => true,
    })
}

fn check<'p>(state: &State, txn: &TxnRequest, path: &mut impl Iterator<Item = &'p bool>) -> Result<(), Status> {
    for op in branch(txn, path.next()) {
        match &op.request {
            Some(Request::RequestRange(range)) => check_range(&state.index, range)?,
            Some(Request::RequestPut(put)) => check_put(state, put)?,
            Some(Request::RequestTxn(nested)) => check(state, nested, path)?,
            Some(Request::RequestDeleteRange(_)) | None => {}
        }
    }
    Ok(())
}

/// In a transaction a negative revision is a compacted one; on its own it means now.
fn check_range(index: &Index, range: &RangeRequest) -> Result<(), Status> {
    match range.revision {
        0 => Ok(()),
        at if at > index.current() => Err(error::FUTURE_REV),
        at if at < index.compacted() => Err(error::COMPACTED),
        _ => Ok(()),
    }
}

/// Whether a put can be done on the state as it stands.
pub fn check_put(state: &State, put: &PutRequest) -> Result<(), Status> {
    if put.lease != 0 && !state.leases.contains(put.lease) {
        return Err(error::LEASE_NOT_FOUND);
    }
    if (put.ignore_value || put.ignore_lease) && state.index.get(&put.key, 0).is_none() {
        return Err(error::KEY_NOT_FOUND);
    }
    Ok(())
}

fn execute<'p>(
    changes: &mut Changes<'_>,
    txn: &TxnRequest,
    values: &dyn Values,
    path: &mut impl Iterator<Item = &'p bool>,
) -> io::Result<Result<TxnAnswer, Status>> {
    let taken = path.next();
    let ops = branch(txn, taken);
    let mut responses = Vec::with_capacity(ops.len());
    for op in ops {
        let response = match &op.request {
            Some(Request::RequestRange(range)) => {
                changes.operations.ranges += 1;
                let revision = changes.revision();
                let index = &changes.state.index;
                match range::answer(index, range, revision, &mut |kv| values.value(kv.meta.place))? {
                    Ok(answer) => OpAnswer::Range(answer),
                    Err(status) => return Ok(Err(status)),
                }
            }
            Some(Request::RequestPut(put)) => match changes.put(put) {
                Ok(prev) => OpAnswer::Put { revision: changes.revision(), prev },
                Err(status) => return Ok(Err(status)),
            },
            Some(Request::RequestDeleteRange(delete)) => {
                let range = KeyRange::new(&delete.key, &delete.range_end);
                let (deleted, prevs) = changes.delete_range(range, delete.prev_kv);
                OpAnswer::DeleteRange { revision: changes.revision(), deleted, prevs }
            }
            Some(Request::RequestTxn(nested)) => match execute(changes, nested, values, path)? {
                Ok(answer) => OpAnswer::Txn(answer),
                Err(status) => return Ok(Err(status)),
            },
            None => continue,
        };
        responses.push(response);
    }
    Ok(Ok(TxnAnswer { revision: 0, succeeded: taken == Some(&true), responses }))
}
