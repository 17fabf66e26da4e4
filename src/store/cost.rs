//! What requests are counted for against the quota, before they are carried out. (etcd: storage/quota.go.)

use crate::{
    limits,
    proto::etcdserverpb::{PutRequest, RequestOp, TxnRequest, request_op::Request},
};

/// Bytes that a put is counted for against the quota.
pub fn of_put(request: &PutRequest) -> u64 {
    limits::KV_OVERHEAD_BYTES + request.key.len() as u64 + request.value.len() as u64
}

/// The same for a transaction: the dearer of its branches.
pub fn of_txn(request: &TxnRequest) -> u64 {
    let cost = |ops: &[RequestOp]| -> u64 {
        ops.iter()
            .map(|op| match &op.request {
                Some(Request::RequestPut(put)) => of_put(put),
                Some(Request::RequestTxn(nested)) => of_txn(nested),
                _ => 0,
            })
            .sum()
    };
    cost(&request.success).max(cost(&request.failure))
}
