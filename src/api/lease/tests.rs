use std::{
    future::Future,
    sync::atomic::Ordering::Relaxed,
    task::{Context, Poll, Waker},
};

use prost::Message;

use super::*;
use crate::{
    api::testing::{Bench, CLUSTER_ID, MEMBER_ID, TERM},
    proto::etcdserverpb::{PutRequest, RangeRequest, RangeResponse, ResponseHeader},
};

fn grant(bench: &mut Bench, id: i64, ttl: i64) -> Result<LeaseGrantResponse, Status> {
    bench.ask("/etcdserverpb.Lease/LeaseGrant", &LeaseGrantRequest { id, ttl })
}

fn keep_alive(bench: &mut Bench, id: i64) -> Result<LeaseKeepAliveResponse, Status> {
    let services = bench.services.clone();
    let frame = bench.run(Box::pin(async move { renewed(&services, &Caller::Member, id).await }))?;
    Ok(LeaseKeepAliveResponse::decode(frame.message()).unwrap())
}

fn time_to_live(bench: &mut Bench, id: i64, keys: bool) -> LeaseTimeToLiveResponse {
    bench.ask("/etcdserverpb.Lease/LeaseTimeToLive", &LeaseTimeToLiveRequest { id, keys }).unwrap()
}

fn put(bench: &mut Bench, key: &'static str, lease: i64) {
    let request = PutRequest { key: key.into(), lease, ..Default::default() };
    bench.call("/etcdserverpb.KV/Put", &request).unwrap();
}

fn header(revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader { cluster_id: CLUSTER_ID, member_id: MEMBER_ID, revision, raft_term: TERM })
}

#[test]
fn grants_are_raised_refused_and_named() {
    let mut bench = Bench::new();
    let granted = grant(&mut bench, 7, 100).unwrap();
    assert_eq!(granted, LeaseGrantResponse { header: header(1), id: 7, ttl: 100, error: String::new() });
    assert_eq!(grant(&mut bench, 8, -3).unwrap().ttl, 2, "no shorter than one and a half elections");
    assert_eq!(grant(&mut bench, 7, 5), Err(error::LEASE_EXIST));
    assert_eq!(grant(&mut bench, 9, 9_000_000_001), Err(error::LEASE_TTL_TOO_LARGE));
    assert_eq!(grant(&mut bench, -9, 5).unwrap().id, -9);
    let (first, second) = (grant(&mut bench, 0, 5).unwrap().id, grant(&mut bench, 0, 5).unwrap().id);
    assert!(first > 0 && second > 0 && first != second);
}

#[test]
fn a_lease_lives_as_long_as_it_is_kept_alive() {
    let mut bench = Bench::new();
    grant(&mut bench, 7, 3600).unwrap();
    put(&mut bench, "b", 7);
    put(&mut bench, "a", 7);
    let alive = keep_alive(&mut bench, 7).unwrap();
    assert_eq!(alive, LeaseKeepAliveResponse { header: header(3), id: 7, ttl: 3600 });
    let gone = keep_alive(&mut bench, 8).unwrap();
    assert_eq!(gone, LeaseKeepAliveResponse { header: header(3), id: 8, ttl: 0 });

    let told = time_to_live(&mut bench, 7, true);
    assert!((3590..=3600).contains(&told.ttl), "{} s left", told.ttl);
    assert_eq!((told.granted_ttl, told.keys), (3600, vec!["a".into(), "b".into()]));
    assert_eq!(time_to_live(&mut bench, 7, false).keys, Vec::<Bytes>::new());
    let unknown = LeaseTimeToLiveResponse { header: header(3), id: 8, ttl: -1, granted_ttl: 0, keys: vec![] };
    assert_eq!(time_to_live(&mut bench, 8, true), unknown);

    bench.call("/etcdserverpb.Lease/LeaseRevoke", &LeaseRevokeRequest { id: 7 }).unwrap();
    let refused = bench.call("/etcdserverpb.Lease/LeaseRevoke", &LeaseRevokeRequest { id: 7 });
    assert_eq!(refused, Err(error::LEASE_NOT_FOUND));
    assert_eq!(keep_alive(&mut bench, 7).unwrap().ttl, 0);
    assert!(bench.shard().leases.borrow().is_empty());
}

#[test]
fn leases_are_listed_by_what_is_left_of_them() {
    let mut bench = Bench::new();
    for (id, ttl) in [(1, 500), (2, 100), (3, 300)] {
        grant(&mut bench, id, ttl).unwrap();
    }
    let listed: LeaseLeasesResponse = bench.ask("/etcdserverpb.Lease/LeaseLeases", &LeaseLeasesRequest {}).unwrap();
    assert_eq!(listed.leases.iter().map(|lease| lease.id).collect::<Vec<_>>(), [2, 3, 1]);
    assert_eq!(listed.header, header(1));
}

#[test]
fn an_expired_lease_is_revoked_never_early_and_takes_its_keys() {
    let mut bench = Bench::new();
    bench.shard().advance(1_000_000);
    grant(&mut bench, 7, 2).unwrap();
    put(&mut bench, "k", 7);
    let shard = bench.shard().clone();
    shard.tick(1_001_999);
    shard.expire_due(1_001_999);
    assert!(!bench.work(), "a lease was revoked early");
    shard.tick(1_002_100);
    shard.expire_due(1_002_100);
    shard.expire_due(1_002_200);
    assert!(bench.work());
    assert!(!bench.work(), "a lease was revoked twice");
    assert!(!bench.state.leases.contains(7));
    let range = RangeRequest { key: "k".into(), ..Default::default() };
    assert_eq!(bench.ask::<RangeResponse>("/etcdserverpb.KV/Range", &range).unwrap().count, 0);
}

#[test]
fn gone_is_told_when_the_keys_are_gone() {
    let mut bench = Bench::new();
    bench.shard().advance(1_000_000);
    grant(&mut bench, 7, 2).unwrap();
    put(&mut bench, "k", 7);
    bench.shard().tick(1_005_000);
    let told = keep_alive(&mut bench, 7).unwrap();
    assert_eq!((told.ttl, told.header), (0, header(2)), "the header is older than the end");
    assert!(!bench.state.leases.contains(7));
    assert_eq!(bench.state.index.current(), 3);
}

#[test]
fn who_loses_the_lead_gives_up_deadlines_and_who_gets_it_extends_them() {
    let mut bench = Bench::new();
    bench.shard().advance(1_000_000);
    grant(&mut bench, 7, 10).unwrap();
    let shard = bench.shard().clone();
    let leader = |id| shard.member.standing.leader.store(id, std::sync::atomic::Ordering::Relaxed);
    leader(0);
    shard.tick(1_005_000);
    assert!(shard.leases.borrow().is_empty());
    leader(MEMBER_ID);
    shard.tick(1_020_000);
    assert_eq!(shard.leases.borrow().remaining(7, 1_020_000), Some((11_000, 10)));
}

#[test]
fn a_new_leader_goes_on_from_the_checkpoint_and_a_renewal_takes_it_back_first() {
    let mut bench = Bench::with(|config| config.gates.set("LeaseCheckpoint", true).unwrap());
    bench.shard().advance(1_000_000);
    grant(&mut bench, 7, 1000).unwrap();
    let shard = bench.shard().clone();
    let pass = |bench: &mut Bench, now_ms| {
        shard.tick(now_ms);
        shard.expire_due(now_ms);
        bench.work()
    };
    assert!(!pass(&mut bench, 1_299_000));
    assert!(pass(&mut bench, 1_300_500));
    assert_eq!(bench.state.leases.get(7).unwrap().remaining, 700);
    let leader = |id| shard.member.standing.leader.store(id, Relaxed);
    for (id, now_ms) in [(0, 1_300_600), (MEMBER_ID, 1_300_700)] {
        leader(id);
        shard.tick(now_ms);
    }
    // And an election timeout more.
    assert_eq!(shard.leases.borrow().remaining(7, 1_300_700), Some((701_000, 1000)));

    let before = bench.proposals.len();
    assert_eq!(keep_alive(&mut bench, 7).unwrap().ttl, 1000);
    assert_eq!(bench.state.leases.get(7).unwrap().remaining, 0);
    assert_eq!(bench.proposals.len(), before + 1, "one entry takes it back");
    assert_eq!(keep_alive(&mut bench, 7).unwrap().ttl, 1000);
    assert_eq!(bench.proposals.len(), before + 1, "a renewal after that needs none");
}

#[test]
fn shards_ask_the_owner() {
    use crate::shard::{Member, Shard, lease::owner, mail::Post, view::Published};
    let bench = {
        let mut bench = Bench::new();
        for id in 1..=20 {
            grant(&mut bench, id, 60).unwrap();
        }
        bench
    };
    let config = crate::config::Config { shards: 2, ..Default::default() };
    let member = std::sync::Arc::new(Member::new(MEMBER_ID, CLUSTER_ID, config, 0));
    member.standing.leader.store(MEMBER_ID, std::sync::atomic::Ordering::Relaxed);
    let published =
        Published::new(crate::shard::view::View { state: bench.state.clone(), segments: Default::default() });
    let shards: Vec<Shard> = (0..2).map(|id| Shard::new(id, member.clone(), published.clone())).collect();
    for shard in &shards {
        shard.tick(5_000);
    }
    assert_eq!(shards.iter().map(|shard| shard.leases.borrow().len()).sum::<usize>(), 20);
    let context = &mut Context::from_waker(Waker::noop());
    for id in 1..=21 {
        let owner = owner(id, 2);
        let (asking, answering) = (&shards[1 - owner], &shards[owner]);
        let mut question = Box::pin(asking.lease(id, LeaseCall::Renew(id)));
        assert!(question.as_mut().poll(context).is_pending());
        let Poll::Ready(posts) = asking.neighbours[owner].poll_take(context) else { panic!("nothing was asked") };
        let [Post::LeaseCalls(calls)] = &posts[..] else { panic!("{posts:?}") };
        answering.receive_lease_calls(1 - owner, calls.clone());
        let Poll::Ready(posts) = answering.neighbours[1 - owner].poll_take(context) else { panic!("no answer") };
        let [Post::LeaseAnswers(answers)] = &posts[..] else { panic!("{posts:?}") };
        asking.receive_lease_answers(answers.clone());
        let wanted = if id <= 20 { LeaseAnswer::Renewed { ttl: 60 } } else { LeaseAnswer::Unknown };
        assert_eq!(question.as_mut().poll(context), Poll::Ready(wanted), "lease {id}");
    }
}

/// It may have been followed by another leader and back, who took renewals that this member knows nothing of.
#[test]
fn a_leader_of_another_term_gives_every_lease_its_time_again() {
    let mut bench = Bench::new();
    grant(&mut bench, 7, 100).unwrap();
    let shard = bench.services.shard.clone();
    shard.advance(50_000);
    assert!(time_to_live(&mut bench, 7, false).ttl <= 50);
    shard.member.standing.term.store(TERM + 1, Relaxed);
    // And an election timeout more.
    assert_eq!(time_to_live(&mut bench, 7, false).ttl, 100);
}

/// (etcd: EtcdServer.ensureLeadership.)
#[test]
fn a_leader_that_stood_still_asks_the_others_before_it_renews() {
    let mut bench = Bench::new();
    grant(&mut bench, 7, 100).unwrap();
    keep_alive(&mut bench, 7).unwrap();
    assert_eq!(bench.reads, 0);
    let shard = bench.services.shard.clone();
    shard.member.standing.ticked_ms.store(0, Relaxed);
    shard.advance(1_000);
    keep_alive(&mut bench, 7).unwrap();
    assert_eq!(bench.reads, 1);
}
