use prost::Message;

use super::*;
use crate::{
    api::testing::{Bench, CLUSTER_ID, MEMBER_ID, TERM},
    proto::{
        etcdserverpb::{
            CompactionRequest, Member, MemberListRequest, MemberListResponse, PutRequest, ResponseHeader,
            alarm_request::AlarmAction,
        },
        grpc::health::v1::{HealthCheckRequest, HealthListRequest, HealthListResponse},
        raftpb::ConfChange,
    },
};

fn header(revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader { cluster_id: CLUSTER_ID, member_id: MEMBER_ID, revision, raft_term: TERM })
}

#[test]
fn status_tells_what_the_reference_tells() {
    let mut bench = Bench::new();
    let member = bench.shard().member.clone();
    member.db_size.store(20480, Relaxed);
    member.db_size_in_use.store(16384, Relaxed);
    member.standing.commit.store(9, Relaxed);
    member.standing.applied.store(8, Relaxed);
    let wanted = StatusResponse {
        header: header(1),
        version: "3.7.3".into(),
        db_size: 20480,
        leader: MEMBER_ID,
        raft_index: 9,
        raft_term: TERM,
        raft_applied_index: 8,
        errors: vec![],
        db_size_in_use: 16384,
        is_learner: false,
        storage_version: "3.7.0".into(),
        db_size_quota: 2147483648,
        downgrade_info: Some(DowngradeInfo::default()),
    };
    let path = "/etcdserverpb.Maintenance/Status";
    assert_eq!(bench.ask::<StatusResponse>(path, &StatusRequest {}).unwrap(), wanted);
    let alarm = AlarmRequest { action: AlarmAction::Activate as i32, member_id: 2097151, alarm: 1 };
    bench.call("/etcdserverpb.Maintenance/Alarm", &alarm).unwrap();
    member.standing.leader.store(0, Relaxed);
    let errors = bench.ask::<StatusResponse>(path, &StatusRequest {}).unwrap().errors;
    assert_eq!(errors, ["etcdserver: no leader", "memberID:2097151 alarm:NOSPACE"]);
}

#[test]
fn alarms_are_raised_told_and_cleared() {
    let mut bench = Bench::new();
    let mut ask = |action: AlarmAction, alarm, member_id| {
        let request = AlarmRequest { action: action as i32, member_id, alarm };
        let response: AlarmResponse = bench.ask("/etcdserverpb.Maintenance/Alarm", &request).unwrap();
        assert_eq!(response.header, header(1));
        response.alarms.iter().map(|alarm| (alarm.alarm, alarm.member_id)).collect::<Vec<_>>()
    };
    assert_eq!(ask(AlarmAction::Get, 0, 0), []);
    assert_eq!(ask(AlarmAction::Activate, 1, 5), [(1, 5)]);
    assert_eq!(ask(AlarmAction::Activate, 1, 5), [(1, 5)]);
    assert_eq!(ask(AlarmAction::Activate, 2, 4), [(2, 4)]);
    assert_eq!(ask(AlarmAction::Get, 0, 0), [(1, 5), (2, 4)]);
    assert_eq!(ask(AlarmAction::Get, 2, 0), [(2, 4)]);
    assert_eq!(ask(AlarmAction::Deactivate, 1, 5), [(1, 5)]);
    assert_eq!(ask(AlarmAction::Deactivate, 1, 5), []);
    assert_eq!(ask(AlarmAction::Get, 0, 0), [(2, 4)]);
}

#[test]
fn hashes_are_told_with_their_revisions() {
    let mut bench = Bench::new();
    let ask = |bench: &mut Bench, revision| {
        bench.ask::<HashKvResponse>("/etcdserverpb.Maintenance/HashKV", &HashKvRequest { revision })
    };
    let empty = ask(&mut bench, 0).unwrap();
    let wanted = HashKvResponse { header: header(1), hash: 1084519789, compact_revision: -1, hash_revision: 1 };
    assert_eq!(empty, wanted);
    for _ in 0..3 {
        bench.call("/etcdserverpb.KV/Put", &PutRequest { key: "k".into(), ..Default::default() }).unwrap();
    }
    bench.call("/etcdserverpb.KV/Compact", &CompactionRequest { revision: 3, physical: false }).unwrap();
    assert_eq!(ask(&mut bench, 2), Err(error::COMPACTED));
    assert_eq!(ask(&mut bench, 5), Err(error::FUTURE_REV));
    let told = ask(&mut bench, 3).unwrap();
    assert_eq!((told.header, told.compact_revision, told.hash_revision), (header(4), 3, 3));
    let settled = hash::KvHash { hash: 77, compacted: -1, revision: 3 };
    bench.shard().member.compaction_hashes.keep(settled);
    let told = ask(&mut bench, 3).unwrap();
    assert_eq!((told.hash, told.compact_revision, told.hash_revision), (77, -1, 3));
    let whole: HashResponse = bench.ask("/etcdserverpb.Maintenance/Hash", &HashRequest {}).unwrap();
    assert_eq!(whole.header, header(4));
    assert_ne!(whole.hash, 0);
}

#[test]
fn defragment_waits_for_the_space_and_answers_without_a_header() {
    let mut bench = Bench::new();
    let response = bench.call("/etcdserverpb.Maintenance/Defragment", &DefragmentRequest {}).unwrap();
    assert!(response.is_empty());
    assert_eq!(bench.controls.len(), 1);
}

#[test]
fn members_are_listed_by_id_under_a_header_without_revision() {
    let mut bench = Bench::new();
    for (id, url) in [(9, "http://b"), (4, "http://a")] {
        let context = format!("{{\"id\":{id},\"peerURLs\":[\"{url}\"]}}");
        let change = ConfChange { node_id: Some(id), context: Some(context.into()), ..Default::default() };
        bench.state.membership.apply(&change, 1).unwrap();
    }
    // A turn of the core publishes what the members have become.
    bench.call("/etcdserverpb.Maintenance/Alarm", &AlarmRequest::default()).unwrap();
    for linearizable in [false, true] {
        let request = MemberListRequest { linearizable };
        let listed: MemberListResponse = bench.ask("/etcdserverpb.Cluster/MemberList", &request).unwrap();
        let member = |id, url: &str| Member { id, peer_ur_ls: vec![url.into()], ..Default::default() };
        assert_eq!(listed.members, [member(4, "http://a"), member(9, "http://b")]);
        assert_eq!(listed.header.unwrap().revision, 0);
    }
    assert_eq!(bench.reads, 1);
}

#[test]
fn health_is_that_of_the_empty_name() {
    let mut bench = Bench::new();
    let check = |service: &str| HealthCheckRequest { service: service.into() };
    assert_eq!(&bench.call("/grpc.health.v1.Health/Check", &check("")).unwrap()[..], b"\x08\x01");
    let unknown = bench.call("/grpc.health.v1.Health/Check", &check("etcdserverpb.KV")).unwrap_err();
    assert_eq!(unknown.to_string(), "rpc error: code = NotFound desc = unknown service");
    let listed = bench.call("/grpc.health.v1.Health/List", &HealthListRequest {}).unwrap();
    assert_eq!(&listed[..], b"\x0a\x06\x0a\x00\x12\x02\x08\x01");
    let decoded = HealthListResponse::decode(listed).unwrap();
    assert_eq!(decoded.statuses[""].status, 1);
}
