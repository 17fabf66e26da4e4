//! Lock: who created the oldest key under the lock's name holds it. (etcd API, Lock; api/v3lock, concurrency/mutex.go.)

use std::rc::Rc;

use bytes::Bytes;

use super::{
    caller::Caller,
    inside::{Inside, Withdrawal, created_at, delete, get, key_of, oldest, prefix_of, put},
    service::{Services, decode, later, refuse},
};
use crate::{
    error::{self, Status},
    grpc::{Frame, Unary},
    proto::{
        etcdserverpb::{DeleteRangeResponse, RangeRequest, TxnRequest, TxnResponse, response_op::Response},
        mvccpb::KeyValue,
        v3lockpb::{LockRequest, LockResponse, UnlockRequest, UnlockResponse},
    },
};

pub fn lock(services: Rc<Services>, caller: Caller, message: Bytes) -> Unary {
    let request: LockRequest = match decode(message) {
        Ok(request) => request,
        Err(status) => return refuse(status),
    };
    later(async move {
        let locked = locked(&Inside::new(services, caller), request).await?;
        Ok(Frame::of(&locked))
    })
}

async fn locked(inside: &Inside, request: LockRequest) -> Result<LockResponse, Status> {
    let lease = inside.session(request.lease).await?;
    let prefix = prefix_of(&request.name);
    let key = key_of(&prefix, lease);
    let own = RangeRequest { key: key.clone(), ..Default::default() };
    // Who holds it is asked in the same breath, so that a free lock costs one transaction.
    let taken = inside
        .txn(&TxnRequest {
            compare: vec![created_at(&key, 0)],
            success: vec![put(&key, Bytes::new(), lease), get(oldest(&prefix))],
            failure: vec![get(own.clone()), get(oldest(&prefix))],
        })
        .await?;
    let created = match taken.succeeded {
        true => taken.header.as_ref().map_or(0, |header| header.revision),
        // The lease's key is there already: the same holder, or the same waiter, once more.
        false => found(&taken, 0).map_or(0, |kv| kv.create_revision),
    };
    if found(&taken, 1).is_none_or(|holder| holder.create_revision == created) {
        return Ok(LockResponse { header: taken.header, key });
    }
    let withdrawal = Withdrawal::new(inside, TxnRequest { success: vec![delete(&key)], ..Default::default() });
    let waited = async {
        inside.wait_for_older(&prefix, created).await?;
        // The lease may have ended meanwhile.
        inside.range(&own).await
    };
    match waited.await {
        Ok(own) => {
            withdrawal.keep();
            match own.kvs.is_empty() {
                true => Err(error::SESSION_EXPIRED),
                false => Ok(LockResponse { header: own.header, key }),
            }
        }
        Err(status) => {
            withdrawal.withdraw().await;
            Err(status)
        }
    }
}

/// The first key-value of the range that a transaction's operation was.
pub(super) fn found(answer: &TxnResponse, operation: usize) -> Option<&KeyValue> {
    match answer.responses.get(operation)?.response.as_ref()? {
        Response::ResponseRange(range) => range.kvs.first(),
        _ => None,
    }
}

pub fn unlock(services: Rc<Services>, caller: Caller, message: Bytes) -> Unary {
    let request: UnlockRequest = match decode(message) {
        Ok(request) => request,
        Err(status) => return refuse(status),
    };
    later(async move {
        let deleted: DeleteRangeResponse = Inside::new(services, caller).delete(request.key).await?;
        Ok(Frame::of(&UnlockResponse { header: deleted.header }))
    })
}

#[cfg(test)]
mod tests;
