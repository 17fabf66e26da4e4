use std::task::{Context, Poll, Waker};

use prost::Message as _;

use super::*;
use crate::{
    api::testing::Bench,
    error::Code,
    grpc::LocalBoxFuture,
    proto::etcdserverpb::{
        LeaseGrantRequest, LeaseGrantResponse, LeaseRevokeRequest, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse,
        PutRequest,
    },
};

fn grant(bench: &mut Bench, id: i64) {
    let granted: LeaseGrantResponse =
        bench.ask("/etcdserverpb.Lease/LeaseGrant", &LeaseGrantRequest { id, ttl: 600 }).unwrap();
    assert_eq!(granted.id, id);
}

fn lock(bench: &mut Bench, lease: i64) -> Result<LockResponse, Status> {
    bench.ask("/v3lockpb.Lock/Lock", &LockRequest { name: "mutex".into(), lease })
}

/// A call that may have to wait.
fn begin(bench: &Bench, lease: i64) -> LocalBoxFuture<Result<Frame, Status>> {
    let request = LockRequest { name: "mutex".into(), lease };
    match super::lock(bench.services.clone(), Caller::Member, request.encode_to_vec().into()) {
        Unary::Later(call) => call,
        _ => panic!("a lock takes a turn of the core"),
    }
}

/// Whether a call is over, once the core has nothing more to do.
fn over(bench: &mut Bench, call: &mut LocalBoxFuture<Result<Frame, Status>>) -> Option<Result<LockResponse, Status>> {
    let mut context = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(result) = call.as_mut().poll(&mut context) {
            return Some(result.map(|frame| LockResponse::decode(frame.message()).unwrap()));
        }
        if !bench.work() {
            return None;
        }
    }
}

fn revision(response: &LockResponse) -> i64 {
    response.header.as_ref().unwrap().revision
}

#[test]
fn a_free_lock_costs_one_entry_of_the_log_and_one_lease_takes_it_again() {
    let mut bench = Bench::new();
    grant(&mut bench, 0x5a);
    let before = bench.proposals.len();
    let locked = lock(&mut bench, 0x5a).unwrap();
    assert_eq!((&locked.key[..], revision(&locked)), (&b"mutex/5a"[..], 2));
    assert_eq!((bench.proposals.len() - before, bench.reads), (1, 0));
    bench.call("/etcdserverpb.KV/Put", &PutRequest { key: "other".into(), ..Default::default() }).unwrap();
    let again = lock(&mut bench, 0x5a).unwrap();
    assert_eq!((&again.key, revision(&again)), (&locked.key, 3));
    // Its key is still the one that was made first.
    let unlocked: UnlockResponse =
        bench.ask("/v3lockpb.Lock/Unlock", &UnlockRequest { key: locked.key.clone() }).unwrap();
    assert_eq!(unlocked.header.unwrap().revision, 4);
    let unlocked: UnlockResponse = bench.ask("/v3lockpb.Lock/Unlock", &UnlockRequest { key: locked.key }).unwrap();
    assert_eq!(unlocked.header.unwrap().revision, 4, "nothing is locked, and that is no error");
}

#[test]
fn who_waits_has_the_lock_when_everybody_in_front_has_gone() {
    let mut bench = Bench::new();
    (1..=3).for_each(|lease| grant(&mut bench, lease));
    let first = lock(&mut bench, 1).unwrap();
    let (mut second, mut third) = (begin(&bench, 2), begin(&bench, 3));
    assert!(over(&mut bench, &mut second).is_none());
    assert!(over(&mut bench, &mut third).is_none());
    assert_eq!(bench.shard().watches.with(|table| table.watch_count()), 2);
    // The one in the middle unlocks itself: the last goes on waiting, now for the first.
    let unlock = |key| UnlockRequest { key };
    bench.call("/v3lockpb.Lock/Unlock", &unlock("mutex/2".into())).unwrap();
    assert!(over(&mut bench, &mut third).is_none());
    bench.call("/v3lockpb.Lock/Unlock", &unlock(first.key)).unwrap();
    let locked = over(&mut bench, &mut third).expect("its turn has come").unwrap();
    assert_eq!((&locked.key[..], revision(&locked)), (&b"mutex/3"[..], 6));
    let expired = over(&mut bench, &mut second).expect("nobody is in front of it any more");
    assert_eq!(expired, Err(error::SESSION_EXPIRED), "its key has gone");
    assert_eq!(bench.shard().watches.with(|table| table.stream_count()), 0);
    assert_eq!(bench.services.waiting_inside.get(), 0);
}

#[test]
fn a_lease_that_ends_hands_over() {
    let mut bench = Bench::new();
    (1..=2).for_each(|lease| grant(&mut bench, lease));
    lock(&mut bench, 1).unwrap();
    let mut second = begin(&bench, 2);
    assert!(over(&mut bench, &mut second).is_none());
    bench.call("/etcdserverpb.Lease/LeaseRevoke", &LeaseRevokeRequest { id: 1 }).unwrap();
    assert_eq!(over(&mut bench, &mut second).expect("its turn has come").unwrap().key, "mutex/2");
}

#[test]
fn other_keys_and_puts_wake_nobody() {
    let mut bench = Bench::new();
    (1..=2).for_each(|lease| grant(&mut bench, lease));
    let first = lock(&mut bench, 1).unwrap();
    let mut second = begin(&bench, 2);
    assert!(over(&mut bench, &mut second).is_none());
    let reads = bench.reads;
    for key in [first.key, "mutex/1z".into(), "mutex".into()] {
        bench.call("/etcdserverpb.KV/Put", &PutRequest { key, lease: 1, ..Default::default() }).unwrap();
    }
    assert!(over(&mut bench, &mut second).is_none());
    assert_eq!(bench.reads, reads, "it looks again when the key in front of it goes, and not before");
    bench.call("/v3lockpb.Lock/Unlock", &UnlockRequest { key: "mutex/1".into() }).unwrap();
    assert!(over(&mut bench, &mut second).is_some());
}

#[test]
fn without_a_lease_there_is_one_of_a_minute() {
    let mut bench = Bench::new();
    let locked = lock(&mut bench, 0).unwrap();
    let lease = i64::from_str_radix(std::str::from_utf8(&locked.key[6..]).unwrap(), 16).unwrap();
    let request = LeaseTimeToLiveRequest { id: lease, keys: true };
    let told: LeaseTimeToLiveResponse = bench.ask("/etcdserverpb.Lease/LeaseTimeToLive", &request).unwrap();
    assert_eq!((told.granted_ttl, told.keys), (60, vec![locked.key]));
}

#[test]
fn what_is_wrong_is_told_as_etcds_inner_client_tells_it() {
    let mut bench = Bench::new();
    let refused = lock(&mut bench, 77).unwrap_err();
    assert_eq!(refused, Status::fixed(Code::Unknown, "etcdserver: requested lease not found"));
    let refused = bench.call("/v3lockpb.Lock/Unlock", &UnlockRequest::default()).unwrap_err();
    assert_eq!(refused, Status::fixed(Code::Unknown, "etcdserver: key is not provided"));
}

#[test]
fn a_stopped_shard_ends_who_waits() {
    let mut bench = Bench::new();
    (1..=2).for_each(|lease| grant(&mut bench, lease));
    lock(&mut bench, 1).unwrap();
    let mut second = begin(&bench, 2);
    assert!(over(&mut bench, &mut second).is_none());
    bench.shard().stop();
    assert_eq!(over(&mut bench, &mut second), Some(Err(error::STOPPED)));
}
