use std::task::{Context, Poll, Waker};

use prost::Message as _;

use super::*;
use crate::{
    api::testing::Bench,
    error::Code,
    grpc::LocalBoxFuture,
    proto::etcdserverpb::{LeaseGrantRequest, LeaseRevokeRequest},
};

fn bench_with_leases() -> Bench {
    let mut bench = Bench::new();
    for id in 1..=3 {
        bench.call("/etcdserverpb.Lease/LeaseGrant", &LeaseGrantRequest { id, ttl: 600 }).unwrap();
    }
    bench
}

fn candidacy(lease: i64, value: &str) -> CampaignRequest {
    CampaignRequest { name: "poll".into(), lease, value: value.to_owned().into() }
}

fn campaign(bench: &mut Bench, lease: i64, value: &str) -> Result<CampaignResponse, Status> {
    bench.ask("/v3electionpb.Election/Campaign", &candidacy(lease, value))
}

fn leader(bench: &mut Bench) -> Result<LeaderResponse, Status> {
    bench.ask("/v3electionpb.Election/Leader", &LeaderRequest { name: "poll".into() })
}

fn proclaim(bench: &mut Bench, leader: Option<LeaderKey>, value: &str) -> Result<ProclaimResponse, Status> {
    bench.ask("/v3electionpb.Election/Proclaim", &ProclaimRequest { leader, value: value.to_owned().into() })
}

fn resign(bench: &mut Bench, leader: Option<LeaderKey>) -> Result<ResignResponse, Status> {
    bench.ask("/v3electionpb.Election/Resign", &ResignRequest { leader })
}

fn begin(bench: &Bench, lease: i64, value: &str) -> LocalBoxFuture<Result<Frame, Status>> {
    match super::campaign(bench.services.clone(), Caller::Member, candidacy(lease, value).encode_to_vec().into()) {
        Unary::Later(call) => call,
        _ => panic!("a candidacy takes a turn of the core"),
    }
}

fn over(
    bench: &mut Bench,
    call: &mut LocalBoxFuture<Result<Frame, Status>>,
) -> Option<Result<CampaignResponse, Status>> {
    let mut context = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(result) = call.as_mut().poll(&mut context) {
            return Some(result.map(|frame| CampaignResponse::decode(frame.message()).unwrap()));
        }
        if !bench.work() {
            return None;
        }
    }
}

#[test]
fn who_stands_first_leads_and_proclaims_until_it_resigns() {
    let mut bench = bench_with_leases();
    assert_eq!(leader(&mut bench), Err(error::ELECTION_NO_LEADER));
    let elected = campaign(&mut bench, 1, "a").unwrap();
    let key = LeaderKey { name: "poll".into(), key: "poll/1".into(), rev: 2, lease: 1 };
    assert_eq!((elected.leader.unwrap(), elected.header.unwrap().revision), (key.clone(), 2));
    assert_eq!(leader(&mut bench).unwrap().kv.unwrap().value, "a");

    assert_eq!(proclaim(&mut bench, Some(key.clone()), "b").unwrap().header.unwrap().revision, 3);
    let told = leader(&mut bench).unwrap();
    let kv = told.kv.unwrap();
    assert_eq!((told.header.unwrap().revision, kv.create_revision, kv.mod_revision, kv.lease), (3, 2, 3, 1));
    assert_eq!((&kv.key[..], &kv.value[..]), (&b"poll/1"[..], &b"b"[..]));

    assert_eq!(resign(&mut bench, Some(key.clone())).unwrap().header.unwrap().revision, 4);
    assert_eq!(leader(&mut bench), Err(error::ELECTION_NO_LEADER));
    assert_eq!(proclaim(&mut bench, Some(key.clone()), "c"), Err(error::ELECTION_NOT_LEADER));
    assert_eq!(resign(&mut bench, Some(key)).unwrap().header.unwrap().revision, 4, "to resign twice is no error");
}

#[test]
fn standing_again_changes_the_value_and_not_the_place() {
    let mut bench = bench_with_leases();
    campaign(&mut bench, 1, "a").unwrap();
    let again = campaign(&mut bench, 1, "a").unwrap();
    assert_eq!((again.leader.unwrap().rev, again.header.unwrap().revision), (2, 2), "the same value: nothing is put");
    let changed = campaign(&mut bench, 1, "b").unwrap();
    assert_eq!((changed.leader.unwrap().rev, changed.header.unwrap().revision), (2, 2), "told of the moment it stood");
    let kv = leader(&mut bench).unwrap().kv.unwrap();
    assert_eq!((&kv.value[..], kv.mod_revision, kv.version), (&b"b"[..], 3, 2));
}

#[test]
fn candidates_lead_in_the_order_in_which_they_stood() {
    let mut bench = bench_with_leases();
    campaign(&mut bench, 2, "a").unwrap();
    let (mut second, mut third) = (begin(&bench, 1, "b"), begin(&bench, 3, "c"));
    assert!(over(&mut bench, &mut second).is_none());
    assert!(over(&mut bench, &mut third).is_none());
    bench.call("/etcdserverpb.Lease/LeaseRevoke", &LeaseRevokeRequest { id: 2 }).unwrap();
    assert!(over(&mut bench, &mut third).is_none());
    let elected = over(&mut bench, &mut second).expect("its turn has come").unwrap();
    let header = elected.header.unwrap();
    let key = LeaderKey { name: "poll".into(), key: "poll/1".into(), rev: 3, lease: 1 };
    assert_eq!((header.revision, elected.leader.unwrap()), (3, key.clone()), "the header is the candidacy's");
    resign(&mut bench, Some(key)).unwrap();
    assert_eq!(over(&mut bench, &mut third).expect("its turn has come").unwrap().leader.unwrap().key, "poll/3");
}

#[test]
fn errors_are_etcds() {
    let mut bench = bench_with_leases();
    assert_eq!(proclaim(&mut bench, None, "a"), Err(error::ELECTION_LEADER_MISSING));
    assert_eq!(resign(&mut bench, None), Err(error::ELECTION_LEADER_MISSING));
    let not_found = Status::fixed(Code::Unknown, "etcdserver: requested lease not found");
    assert_eq!(campaign(&mut bench, 77, "a"), Err(not_found.clone()));
    let elected = campaign(&mut bench, 1, "a").unwrap().leader.unwrap();
    let of_another_lease = LeaderKey { lease: 77, ..elected };
    assert_eq!(proclaim(&mut bench, Some(of_another_lease), "a"), Err(not_found));
    let empty = Status::fixed(Code::Unknown, "etcdserver: key is not provided");
    assert_eq!(resign(&mut bench, Some(LeaderKey { lease: 1, ..Default::default() })), Err(empty));
}

#[test]
fn who_names_no_lease_is_granted_one() {
    let mut bench = bench_with_leases();
    let elected = campaign(&mut bench, 0, "a").unwrap().leader.unwrap();
    assert!(elected.lease > 3 && bench.state.leases.get(elected.lease).unwrap().ttl == 60);
    let key = LeaderKey { lease: 0, ..elected };
    let leases = bench.state.leases.len();
    proclaim(&mut bench, Some(key.clone()), "b").unwrap();
    resign(&mut bench, Some(key)).unwrap();
    assert_eq!(bench.state.leases.len(), leases + 2);
}
