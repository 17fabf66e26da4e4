//! Maintenance, Cluster and health over the wire. (etcd API, Maintenance and Cluster; the health protocol of gRPC.)

mod server;

use server::{Server, ended_well, refused};
use urd::{
    error::{self, Code},
    proto::grpc::health::v1::{HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus},
};
use urd_client::{
    Client,
    etcdserverpb::{alarm_request::AlarmAction, *},
    op,
};

fn alarm(action: AlarmAction, alarm: AlarmType, member_id: u64) -> AlarmRequest {
    AlarmRequest { action: action as i32, alarm: alarm as i32, member_id }
}

/// Changes of every kind, always the same.
async fn history(client: &Client) {
    for i in 0..40 {
        client.put(format!("key{}", i % 7), format!("value {i}")).await.unwrap();
    }
    client.delete("key3").await.unwrap();
    client.grant(77, 600).await.unwrap();
    client.call(&PutRequest { key: "leased".into(), lease: 77, ..Default::default() }).await.unwrap();
    let success = vec![op::put("a", "1"), op::put("b", ""), op::delete_range("key4", "key6")];
    client.call(&TxnRequest { success, ..Default::default() }).await.unwrap();
}

#[tokio::test]
async fn the_hash_of_a_history_is_etcds() {
    let server = Server::start().await;
    let client = server.client().await;
    // Computed by the reference server.
    let empty = client.hash_kv(0).await.unwrap();
    assert_eq!((empty.hash, empty.hash_revision, empty.compact_revision), (EMPTY, 1, -1));
    history(&client).await;
    for (revision, hash) in HASHES {
        let answer = client.hash_kv(revision).await.unwrap();
        assert_eq!((answer.hash, answer.compact_revision), (hash, -1), "at {revision}");
        assert_eq!(answer.header.unwrap().revision, 44);
    }
    client.call(&CompactionRequest { revision: 42, physical: true }).await.unwrap();
    let answer = client.hash_kv(44).await.unwrap();
    assert_eq!((answer.hash, answer.compact_revision), (COMPACTED, 42));
    refused(client.hash_kv(45).await, &error::FUTURE_REV);
    client.put("later", "").await.unwrap();
    assert_eq!(client.hash_kv(44).await.unwrap().hash, COMPACTED);
    assert_eq!(client.hash_kv(0).await.unwrap().hash_revision, 45);
    client.call(&HashRequest {}).await.unwrap();
}

const EMPTY: u32 = 1_084_519_789;
const HASHES: [(i64, u32); 4] = [(2, 3_496_361_773), (30, 269_139_149), (42, 4_223_172_188), (44, 3_770_239_947)];
/// At 44, compacted to 42.
const COMPACTED: u32 = 3_320_352_967;

#[tokio::test]
async fn status_tells_where_the_member_stands() {
    let server = Server::start().await;
    let client = server.client().await;
    assert!(client.status().await.unwrap().db_size_in_use > 0, "a store with nothing in it takes something, too");
    client.put("k", "v").await.unwrap();
    let status = client.status().await.unwrap();
    let header = status.header.unwrap();
    assert_eq!(header.revision, 2);
    assert_eq!((status.leader, status.raft_term), (header.member_id, header.raft_term));
    assert!(status.raft_index >= status.raft_applied_index && status.raft_applied_index >= 4);
    assert!(status.version.starts_with("3.7."), "{}", status.version);
    assert_eq!(status.storage_version, "3.7.0");
    assert!(status.db_size >= status.db_size_in_use && status.db_size_in_use > 0);
    assert_eq!((status.db_size_quota, status.is_learner, status.errors.len()), (2 << 30, false, 0));
    let downgrade = status.downgrade_info.expect("present though empty");
    assert!(!downgrade.enabled && downgrade.target_version.is_empty());

    let before = status.raft_applied_index;
    client.put("k", "w").await.unwrap();
    assert_eq!(client.status().await.unwrap().raft_applied_index, before + 1);
}

#[tokio::test]
async fn the_member_list_is_one_member() {
    let server = Server::start().await;
    let client = server.client().await;
    for linearizable in [false, true] {
        let list = client.call(&MemberListRequest { linearizable }).await.unwrap();
        let header = list.header.unwrap();
        assert_eq!(header.revision, 0);
        let [member] = &list.members[..] else { panic!("{:?}", list.members) };
        assert_eq!((member.id, &member.name[..], member.is_learner), (header.member_id, "default", false));
        assert_eq!(member.client_ur_ls, [format!("http://{}", server.address)]);
        assert_eq!(member.peer_ur_ls.len(), 1);
    }
}

#[tokio::test]
async fn an_alarm_refuses_until_it_is_cleared() {
    let mut server = Server::start().await;
    let client = server.client().await;
    let member = client.status().await.unwrap().header.unwrap().member_id;
    client.put("k", "v").await.unwrap();
    let ask = async |request: AlarmRequest| {
        let alarms = client.call(&request).await.unwrap().alarms;
        alarms.into_iter().map(|one| (one.alarm(), one.member_id)).collect::<Vec<_>>()
    };
    assert_eq!(ask(alarm(AlarmAction::Get, AlarmType::None, 0)).await, []);
    let raised = (AlarmType::Nospace, member);
    for _ in 0..2 {
        assert_eq!(ask(alarm(AlarmAction::Activate, AlarmType::Nospace, member)).await, [raised]);
    }
    assert_eq!(ask(alarm(AlarmAction::Get, AlarmType::None, 0)).await, [raised]);
    assert_eq!(ask(alarm(AlarmAction::Get, AlarmType::Corrupt, 0)).await, []);
    let status = client.status().await.unwrap();
    assert_eq!(status.errors, [format!("memberID:{member} alarm:NOSPACE")]);

    refused(client.put("k", "w").await, &error::NO_SPACE);
    refused(client.grant(1, 60).await, &error::NO_SPACE);
    let writing = TxnRequest { success: vec![op::put("k", "w")], ..Default::default() };
    refused(client.call(&writing).await, &error::NO_SPACE);
    let reading = TxnRequest { success: vec![op::get("k")], ..Default::default() };
    assert!(client.call(&reading).await.unwrap().succeeded);
    assert_eq!(client.get("k").await.unwrap().count, 1);
    assert_eq!(client.delete("k").await.unwrap().deleted, 1);

    // It outlives a crash.
    server.kill();
    server.restart().await;
    let client = server.client().await;
    refused(client.put("k", "w").await, &error::NO_SPACE);
    let cleared = client.call(&alarm(AlarmAction::Deactivate, AlarmType::Nospace, member)).await.unwrap();
    assert_eq!(cleared.alarms.len(), 1);
    let nothing = client.call(&alarm(AlarmAction::Deactivate, AlarmType::Nospace, member)).await.unwrap();
    assert_eq!(nothing.alarms.len(), 0);
    client.put("k", "w").await.unwrap();
}

#[tokio::test]
async fn a_corrupt_alarm_refuses_everything() {
    let server = Server::start().await;
    let client = server.client().await;
    client.put("k", "v").await.unwrap();
    client.grant(7, 60).await.unwrap();
    let raised = AlarmMember { member_id: 5, alarm: AlarmType::Corrupt as i32 };
    for _ in 0..2 {
        let told = client.call(&alarm(AlarmAction::Activate, AlarmType::Corrupt, 5)).await.unwrap();
        assert_eq!(told.alarms, [raised], "raising it twice raises it once");
    }
    let told = client.call(&alarm(AlarmAction::Get, AlarmType::None, 0)).await.unwrap();
    assert_eq!(told.alarms, [raised]);
    assert_eq!(client.status().await.unwrap().errors, ["memberID:5 alarm:CORRUPT"]);
    refused(client.put("k", "w").await, &error::CORRUPT);
    refused(client.delete("k").await, &error::CORRUPT);
    refused(client.grant(1, 60).await, &error::CORRUPT);
    refused(client.revoke(7).await, &error::CORRUPT);
    refused(client.compact(1).await, &error::CORRUPT);
    let changing = TxnRequest { success: vec![op::put("k", "w")], ..Default::default() };
    refused(client.call(&changing).await, &error::CORRUPT);
    // What only reads is answered, and so is who keeps a lease alive.
    let reading = TxnRequest { success: vec![op::get("k")], ..Default::default() };
    client.call(&reading).await.unwrap();
    assert_eq!(client.get("k").await.unwrap().kvs[0].value, "v");
    assert_eq!(client.keep_alive_once(7).await.unwrap().ttl, 60);
    client.call(&alarm(AlarmAction::Deactivate, AlarmType::Corrupt, 4)).await.unwrap();
    refused(client.put("k", "w").await, &error::CORRUPT);
    let told = client.call(&alarm(AlarmAction::Deactivate, AlarmType::Corrupt, 5)).await.unwrap();
    assert_eq!(told.alarms, [raised]);
    client.put("k", "w").await.unwrap();
    assert!(client.status().await.unwrap().errors.is_empty());
}

#[tokio::test]
async fn a_member_alone_can_be_defragmented_and_cannot_hand_over() {
    let server = Server::start().await;
    let client = server.client().await;
    history(&client).await;
    let before = client.hash_kv(0).await.unwrap().hash;
    assert_eq!(client.call(&DefragmentRequest {}).await.unwrap().header, None);
    assert_eq!(client.hash_kv(0).await.unwrap().hash, before);
    refused(client.call(&MoveLeaderRequest { target_id: 1 }).await, &error::BAD_LEADER_TRANSFEREE);
}

#[tokio::test]
async fn health_is_told_by_grpcs_own_protocol() {
    let server = Server::start().await;
    let client = server.client().await;
    let check = async |service: &str| {
        let request = HealthCheckRequest { service: service.into() };
        client.unary::<_, HealthCheckResponse>("/grpc.health.v1.Health/Check", &request).await
    };
    assert_eq!(check("").await.unwrap().status(), ServingStatus::Serving);
    assert_eq!(check("etcdserverpb.KV").await.unwrap_err().code(), Some(Code::NotFound));
}

#[tokio::test]
async fn everything_outlives_crashes_and_stops() {
    let mut server = Server::start().await;
    let client = server.client().await;
    history(&client).await;
    client.call(&CompactionRequest { revision: 20, physical: true }).await.unwrap();
    let everything = client.range(vec![0], vec![0]).await.unwrap();
    let past = RangeRequest { key: vec![0].into(), range_end: vec![0].into(), revision: 21, ..Default::default() };
    let old = client.call(&past).await.unwrap();
    let hash = client.hash_kv(0).await.unwrap();
    let members = client.member_list().await.unwrap();
    for crash in [true, false, true] {
        if crash {
            server.kill();
        } else {
            assert!(ended_well(server.terminate()), "SIGTERM ends it well");
        }
        server.restart().await;
        let client = server.client().await;
        assert_eq!(client.range(vec![0], vec![0]).await.unwrap().kvs, everything.kvs);
        assert_eq!(client.call(&past).await.unwrap().kvs, old.kvs);
        let again = client.hash_kv(0).await.unwrap();
        assert_eq!((again.hash, again.compact_revision), (hash.hash, hash.compact_revision));
        assert_eq!(client.member_list().await.unwrap().members, members.members);
        let header = again.header.unwrap();
        assert_eq!(header.cluster_id, hash.header.as_ref().unwrap().cluster_id);
        assert_eq!(header.member_id, hash.header.as_ref().unwrap().member_id);
        assert_eq!(header.revision, 44);
    }
}
