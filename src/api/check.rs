//! What is wrong with a request before it is proposed, in the order in which etcd finds it, and what it costs.
//! (etcdserver/api/v3rpc/key.go, storage/quota.go.) Looks at the request alone, never at the store.

use bytes::Bytes;
use hashbrown::HashSet;

use crate::{
    error::{self, Status},
    limits,
    proto::etcdserverpb::{
        DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
        range_request::{SortOrder, SortTarget},
        request_op::Request,
    },
    store::{range, types::KeyRange},
};

pub fn check_range(request: &RangeRequest) -> Result<(), Status> {
    if request.key.is_empty() {
        return Err(error::EMPTY_KEY);
    }
    if SortOrder::try_from(request.sort_order).is_err() || SortTarget::try_from(request.sort_target).is_err() {
        return Err(error::INVALID_SORT_OPTION);
    }
    Ok(())
}

pub fn check_range_stream(request: &RangeRequest) -> Result<(), Status> {
    check_range(request)?;
    if !range::is_default_order(request) {
        return Err(error::RANGE_STREAM_NO_SORT);
    }
    if range::has_filters(request) {
        return Err(error::RANGE_STREAM_NO_FILTER);
    }
    Ok(())
}

pub fn check_put(request: &PutRequest) -> Result<(), Status> {
    if request.key.is_empty() {
        return Err(error::EMPTY_KEY);
    }
    if request.ignore_value && !request.value.is_empty() {
        return Err(error::VALUE_PROVIDED);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(error::LEASE_PROVIDED);
    }
    Ok(())
}

pub fn check_delete_range(request: &DeleteRangeRequest) -> Result<(), Status> {
    if request.key.is_empty() {
        return Err(error::EMPTY_KEY);
    }
    Ok(())
}

/// `ops_max`: `--max-txn-ops`.
pub fn check_txn(request: &TxnRequest, ops_max: usize) -> Result<(), Status> {
    check_ops(request, ops_max as i64, limits::TXN_DEPTH_MAX)?;
    // Overlaps are looked for after the counts, which bound the work.
    intervals(&request.success)?;
    intervals(&request.failure)?;
    Ok(())
}

fn check_ops(request: &TxnRequest, ops_max: i64, depth_max: usize) -> Result<(), Status> {
    let ops = request.compare.len().max(request.success.len()).max(request.failure.len()) as i64;
    if ops > ops_max || depth_max == 0 {
        return Err(error::TOO_MANY_OPS);
    }
    if request.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(error::EMPTY_KEY);
    }
    for op in request.success.iter().chain(&request.failure) {
        match &op.request {
            Some(Request::RequestRange(range)) => check_range(range)?,
            Some(Request::RequestPut(put)) => check_put(put)?,
            Some(Request::RequestDeleteRange(delete)) => check_delete_range(delete)?,
            // What this level takes is gone for those inside it, so nesting is bounded too.
            Some(Request::RequestTxn(nested)) => check_ops(nested, ops_max - ops, depth_max - 1)?,
            None => return Err(error::KEY_NOT_FOUND),
        }
    }
    Ok(())
}

/// The intervals that a branch deletes, as etcd's interval tree sees them: one whose end does not lie behind its key
/// covers nothing. An end of one zero byte is no exception, though the delete itself then takes everything from the
/// key on.
#[derive(Default)]
struct Deletes(Vec<(Bytes, Bytes)>);

impl Deletes {
    fn covers(&self, key: &[u8]) -> bool {
        self.0.iter().any(|(from, end)| match end.is_empty() {
            true => key == from,
            false => KeyRange::Between(from, end).contains(key),
        })
    }
}

/// Finds puts of one key twice, and puts of what is deleted beside them, in one branch and what is nested in it.
fn intervals(ops: &[RequestOp]) -> Result<(HashSet<Bytes>, Deletes), Status> {
    let mut deletes = Deletes::default();
    for op in ops {
        if let Some(Request::RequestDeleteRange(delete)) = &op.request {
            deletes.0.push((delete.key.clone(), delete.range_end.clone()));
        }
    }
    let mut puts: HashSet<Bytes> = HashSet::new();
    for op in ops {
        let Some(Request::RequestTxn(nested)) = &op.request else { continue };
        let (then_puts, then_deletes) = intervals(&nested.success)?;
        let (else_puts, else_deletes) = intervals(&nested.failure)?;
        for key in &then_puts {
            if puts.contains(key) || deletes.covers(key) {
                return Err(error::DUPLICATE_KEY);
            }
            puts.insert(key.clone());
        }
        for key in else_puts {
            // Only one of then and else happens: they may put the same key.
            if (puts.contains(&key) && !then_puts.contains(&key)) || deletes.covers(&key) {
                return Err(error::DUPLICATE_KEY);
            }
            puts.insert(key);
        }
        deletes.0.extend(then_deletes.0);
        deletes.0.extend(else_deletes.0);
    }
    for op in ops {
        let Some(Request::RequestPut(put)) = &op.request else { continue };
        if deletes.covers(&put.key) || !puts.insert(put.key.clone()) {
            return Err(error::DUPLICATE_KEY);
        }
    }
    Ok((puts, deletes))
}

/// Whether a transaction only reads, on one level: then it needs no entry of the log.
pub fn is_read_only(request: &TxnRequest) -> bool {
    request.success.iter().chain(&request.failure).all(|op| matches!(op.request, Some(Request::RequestRange(_))))
}

/// Whether a read-only transaction may be answered from this member's state as it is.
pub fn is_serializable(request: &TxnRequest) -> bool {
    request
        .success
        .iter()
        .chain(&request.failure)
        .all(|op| matches!(&op.request, Some(Request::RequestRange(range)) if range.serializable))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str) -> RequestOp {
        op(Request::RequestPut(PutRequest { key: key.to_owned().into(), ..Default::default() }))
    }

    fn delete(key: &str, end: &str) -> RequestOp {
        op(Request::RequestDeleteRange(DeleteRangeRequest {
            key: key.to_owned().into(),
            range_end: end.to_owned().into(),
            prev_kv: false,
        }))
    }

    fn txn(success: Vec<RequestOp>, failure: Vec<RequestOp>) -> TxnRequest {
        TxnRequest { compare: vec![], success, failure }
    }

    fn nested(success: Vec<RequestOp>, failure: Vec<RequestOp>) -> RequestOp {
        op(Request::RequestTxn(txn(success, failure)))
    }

    fn op(request: Request) -> RequestOp {
        RequestOp { request: Some(request) }
    }

    #[test]
    fn duplicates_are_found_where_etcd_finds_them() {
        let duplicate = Err(error::DUPLICATE_KEY);
        let cases: Vec<(&str, Vec<RequestOp>, Result<(), Status>)> = vec![
            ("one key put twice", vec![put("a"), put("a")], duplicate.clone()),
            ("two keys", vec![put("a"), put("b")], Ok(())),
            ("a put in a delete", vec![put("b"), delete("a", "c")], duplicate.clone()),
            ("a put at a delete's end", vec![put("c"), delete("a", "c")], Ok(())),
            // Seen on the reference: its interval tree takes the zero byte for a key before all others.
            ("a put after everything was deleted", vec![delete("a", "\0"), put("z")], Ok(())),
            ("deletes may overlap", vec![delete("a", "c"), delete("b", "d")], Ok(())),
            ("an empty interval", vec![delete("c", "a"), put("b")], Ok(())),
            ("nested and outer", vec![put("a"), nested(vec![put("a")], vec![])], duplicate.clone()),
            ("then and else", vec![nested(vec![put("a")], vec![put("a")])], Ok(())),
            ("two nested", vec![nested(vec![put("a")], vec![]), nested(vec![], vec![put("a")])], duplicate.clone()),
            (
                "a put in a nested delete, before it",
                vec![nested(vec![put("b")], vec![]), nested(vec![delete("a", "c")], vec![])],
                Ok(()),
            ),
            (
                "a put in a nested delete, after it",
                vec![nested(vec![delete("a", "c")], vec![]), nested(vec![put("b")], vec![])],
                duplicate.clone(),
            ),
        ];
        for (what, ops, wanted) in cases {
            assert_eq!(check_txn(&txn(ops.clone(), vec![]), 128), wanted, "{what}");
            assert_eq!(check_txn(&txn(vec![], ops), 128), wanted, "{what}, in failure");
        }
        assert_eq!(check_txn(&txn(vec![put("a")], vec![put("a")]), 128), Ok(()));
    }

    #[test]
    fn nesting_spends_the_budget_of_operations() {
        let full = |n| (0..n).map(|i| put(&format!("k{i}"))).collect::<Vec<_>>();
        assert_eq!(check_txn(&txn(full(128), vec![]), 128), Ok(()));
        assert_eq!(check_txn(&txn(full(129), vec![]), 128), Err(error::TOO_MANY_OPS));
        assert_eq!(check_txn(&txn(vec![nested(full(127), vec![])], vec![]), 128), Ok(()));
        assert_eq!(check_txn(&txn(vec![nested(full(128), vec![])], vec![]), 128), Err(error::TOO_MANY_OPS));
    }

    #[test]
    fn what_passes_the_check_decodes_as_a_logged_request() {
        use prost::Message as _;
        let deep = |levels| {
            (1..levels).fold(txn(vec![put("k")], vec![]), |inner, _| txn(vec![op(Request::RequestTxn(inner))], vec![]))
        };
        assert_eq!(check_txn(&deep(limits::TXN_DEPTH_MAX + 1), 128), Err(error::TOO_MANY_OPS));
        let deepest = deep(limits::TXN_DEPTH_MAX);
        assert_eq!(check_txn(&deepest, 128), Ok(()));
        let data = crate::api::request::internal(crate::api::request::Kind::Txn, &deepest.encode_to_vec(), 1);
        crate::proto::etcdserverpb::InternalRaftRequest::decode(data).unwrap();
    }

    #[test]
    fn an_empty_operation_is_refused() {
        let empty = RequestOp { request: None };
        assert_eq!(check_txn(&txn(vec![empty], vec![]), 128), Err(error::KEY_NOT_FOUND));
        assert_eq!(check_txn(&txn(vec![put("")], vec![]), 128), Err(error::EMPTY_KEY));
    }
}
