//! Calls that a call of this server makes of the other services, by the very handlers that serve clients: quota, checks
//! and counts are theirs. Locks and elections are built on it, as etcd builds them on a client of its own within the
//! server, which goes on as the caller of the call: what that may not do, no lock does for it. (etcd: api/v3client,
//! client/v3/concurrency.)

use std::rc::Rc;

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;

use super::{
    caller::Caller,
    kv, lease,
    service::Services,
    watch::{Asked, Following},
};
use crate::{
    error::{self, Code, Status},
    grpc::Unary,
    limits,
    proto::{
        etcdserverpb::{
            Compare, DeleteRangeRequest, LeaseGrantRequest, LeaseGrantResponse, PutRequest, RangeRequest,
            RangeResponse, RequestOp, TxnRequest, TxnResponse, WatchCreateRequest, WatchResponse,
            compare::{CompareResult, CompareTarget, TargetUnion},
            range_request::{SortOrder, SortTarget},
            request_op::Request,
            watch_create_request::FilterType,
        },
        mvccpb::event::EventType,
    },
    runtime,
    wire::frame::PREFIX_BYTES,
};

/// Seconds of the lease that a call without one is given. (etcd: concurrency/session.go, defaultSessionTTL.)
const SESSION_TTL_SECONDS: i64 = 60;

/// The way to the other services on behalf of one call.
#[derive(Clone)]
pub(super) struct Inside(Asked);

impl Inside {
    pub fn new(services: Rc<Services>, caller: Caller) -> Self {
        Inside(Asked { services, caller })
    }

    /// # Errors
    /// The method's own, as a caller within the server is told them (`relayed`).
    async fn call<M: Message + Default>(
        &self,
        serve: fn(Rc<Services>, Caller, Bytes) -> Unary,
        request: &impl Message,
    ) -> Result<M, Status> {
        let Asked { services, caller } = self.0.clone();
        let answer = match serve(services, caller, request.encode_to_vec().into()) {
            Unary::Ready(answer) => answer,
            Unary::Later(answer) => answer.await,
            Unary::InParts(_) => unreachable!("only answers of many keys are made in parts, and one is asked for"),
        };
        let message = answer.map_err(relayed)?.seal().slice(PREFIX_BYTES..);
        Ok(M::decode(message).expect("a handler answers with its method's message"))
    }

    pub async fn txn(&self, request: &TxnRequest) -> Result<TxnResponse, Status> {
        self.call(kv::txn, request).await
    }

    pub async fn range(&self, request: &RangeRequest) -> Result<RangeResponse, Status> {
        self.call(kv::range, request).await
    }

    pub async fn delete<M: Message + Default>(&self, key: Bytes) -> Result<M, Status> {
        self.call(kv::delete_range, &DeleteRangeRequest { key, ..Default::default() }).await
    }

    /// The lease that a call's key hangs on: the caller's, or a new one that nobody renews but the caller.
    pub async fn session(&self, lease: i64) -> Result<i64, Status> {
        if lease != 0 {
            return Ok(lease);
        }
        let grant = LeaseGrantRequest { ttl: SESSION_TTL_SECONDS, id: 0 };
        let granted: LeaseGrantResponse = self.call(lease::grant, &grant).await?;
        Ok(granted.id)
    }

    /// Waits until no key is left under a prefix that was created before `revision`: for the youngest of those, until it
    /// is deleted, and then looks again. So each waiter waits for the one in front of it, and a key that goes wakes one.
    pub async fn wait_for_older(&self, prefix: &Bytes, revision: i64) -> Result<(), Status> {
        let _waiter = self.take_seat()?;
        loop {
            let youngest = RangeRequest {
                sort_order: SortOrder::Descend as i32,
                max_create_revision: revision - 1,
                ..oldest(prefix)
            };
            let found = self.range(&youngest).await?;
            let Some(kv) = found.kvs.into_iter().next() else { return Ok(()) };
            self.wait_for_delete(kv.key, found.header.unwrap_or_default().revision).await?;
        }
    }

    /// Waits until a key is deleted at or after a revision, or until compaction has taken away what would tell: then the
    /// caller has to look for itself.
    async fn wait_for_delete(&self, key: Bytes, from: i64) -> Result<(), Status> {
        let filters = vec![FilterType::Noput as i32];
        let mut watch = self.watch(&WatchCreateRequest { key, start_revision: from, filters, ..Default::default() });
        loop {
            let told = watch.next().await?;
            if told.events.iter().any(|event| event.r#type() == EventType::Delete) || told.compact_revision != 0 {
                return Ok(());
            }
            refuse_canceled(told)?;
        }
    }

    pub fn watch(&self, request: &WatchCreateRequest) -> Following<'_, Asked> {
        Following::new(&self.0, request)
    }

    /// Waiting calls hold memory for as long as they like, so they are counted.
    fn take_seat(&self) -> Result<Seat, Status> {
        let waiting = &self.0.services.waiting_inside;
        if waiting.get() >= limits::WAITING_CALLS_MAX {
            return Err(error::TOO_MANY_REQUESTS);
        }
        waiting.set(waiting.get() + 1);
        Ok(Seat(self.0.services.clone()))
    }
}

/// One of the calls that wait for a key.
struct Seat(Rc<Services>);

impl Drop for Seat {
    fn drop(&mut self) {
        let waiting = &self.0.waiting_inside;
        waiting.set(waiting.get() - 1);
    }
}

/// Ends where a watch has ended.
///
/// # Errors
/// The reason that the watch was given.
fn refuse_canceled(told: WatchResponse) -> Result<(), Status> {
    match told.canceled {
        true => Err(Status::new(Code::Unknown, told.cancel_reason)),
        false => Ok(()),
    }
}

/// The client within etcd's server makes errors of its own kind of what the services say, and gRPC, which does not know
/// that kind, calls them all Unknown: the text is etcd's, the code is lost. (etcd: rpctypes.Error; grpc-go's server.)
fn relayed(status: Status) -> Status {
    match status.message.starts_with("etcdserver: ") {
        true => Status { code: Code::Unknown, ..status },
        false => status,
    }
}

/// What takes a waiting call's key away if the call goes before its turn has come: its caller has given up, or its
/// deadline has passed, and the future is dropped. So it is done by a task of its own, and as the same caller. (etcd does
/// it as nobody, so that with users the key stays until its lease ends.)
pub(super) struct Withdrawal {
    inside: Inside,
    by: Option<TxnRequest>,
}

impl Withdrawal {
    pub fn new(inside: &Inside, by: TxnRequest) -> Self {
        Withdrawal { inside: inside.clone(), by: Some(by) }
    }

    /// The turn has come: the key stays.
    pub fn keep(mut self) {
        self.by = None;
    }

    /// Takes the key away now. What comes of it changes nothing for the caller, who is told of something else.
    pub async fn withdraw(mut self) {
        if let Some(by) = self.by.take() {
            let _ = self.inside.txn(&by).await;
        }
    }
}

impl Drop for Withdrawal {
    fn drop(&mut self) {
        if let Some(by) = self.by.take() {
            let inside = self.inside.clone();
            runtime::spawn(async move {
                let _ = inside.txn(&by).await;
            });
        }
    }
}

// ---- keys and requests ----

/// The prefix that the keys of a lock or an election have in common.
pub(super) fn prefix_of(name: &[u8]) -> Bytes {
    let mut prefix = BytesMut::with_capacity(name.len() + 1);
    prefix.put_slice(name);
    prefix.put_u8(b'/');
    prefix.freeze()
}

/// The key of a lease under a prefix: its id in lower-case hexadecimal, with its sign, as Go writes it.
pub(super) fn key_of(prefix: &[u8], lease: i64) -> Bytes {
    let sign = if lease < 0 { "-" } else { "" };
    let mut key = BytesMut::from(prefix);
    key.put_slice(format!("{sign}{:x}", lease.unsigned_abs()).as_bytes());
    key.freeze()
}

/// The key that was created first under a prefix.
pub(super) fn oldest(prefix: &Bytes) -> RangeRequest {
    RangeRequest {
        key: prefix.clone(),
        range_end: end_of(prefix),
        limit: 1,
        sort_order: SortOrder::Ascend as i32,
        sort_target: SortTarget::Create as i32,
        ..Default::default()
    }
}

/// The end of the range of all keys under a prefix of `prefix_of`, whose last byte is never the greatest.
pub(super) fn end_of(prefix: &[u8]) -> Bytes {
    let mut end = BytesMut::from(prefix);
    *end.last_mut().expect("a prefix ends in a slash") += 1;
    end.freeze()
}

/// Whether a key was created at a revision; 0: whether it is not there.
pub(super) fn created_at(key: &Bytes, revision: i64) -> Compare {
    Compare {
        result: CompareResult::Equal as i32,
        target: CompareTarget::Create as i32,
        key: key.clone(),
        target_union: Some(TargetUnion::CreateRevision(revision)),
        ..Default::default()
    }
}

pub(super) fn put(key: &Bytes, value: Bytes, lease: i64) -> RequestOp {
    of(Request::RequestPut(PutRequest { key: key.clone(), value, lease, ..Default::default() }))
}

pub(super) fn get(range: RangeRequest) -> RequestOp {
    of(Request::RequestRange(range))
}

pub(super) fn delete(key: &Bytes) -> RequestOp {
    of(Request::RequestDeleteRange(DeleteRangeRequest { key: key.clone(), ..Default::default() }))
}

fn of(request: Request) -> RequestOp {
    RequestOp { request: Some(request) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_spelled_as_go_spells_them() {
        let prefix = prefix_of(b"name");
        assert_eq!((&prefix[..], &end_of(&prefix)[..]), (&b"name/"[..], &b"name0"[..]));
        assert_eq!(key_of(&prefix, 0x694d_71dd_ab1c_2f0a), "name/694d71ddab1c2f0a");
        assert_eq!(key_of(&prefix, -1), "name/-1");
        assert_eq!(key_of(&prefix, i64::MIN), "name/-8000000000000000");
        assert_eq!(key_of(&prefix_of(b""), 10), "/a");
    }

    #[test]
    fn etcds_errors_lose_their_code_and_keep_their_text() {
        let told = relayed(error::LEASE_NOT_FOUND);
        assert_eq!(told, Status::fixed(Code::Unknown, "etcdserver: requested lease not found"));
        assert_eq!(relayed(error::CONTEXT_CANCELED), error::CONTEXT_CANCELED);
    }
}
