//! Several members: they agree, they go on without one of them, they take in new ones and let go of old ones.

mod server;

use std::time::Duration;

use server::{PATIENCE, Server, certificates::Certificates, cluster::Cluster, ended_well, refused};
use urd::{
    error,
    limits::SPAN_ENTRIES,
    store::{
        checkpoint::{self, Checkpoint},
        index::Index,
        types::Revision,
    },
    wal::{bulk::Pace, disk::Dir},
};
use urd_client::{Client, etcdserverpb::*};

/// Puts, however often it takes: who leads may just have gone.
async fn put(client: &Client, key: &str, value: &str) -> PutResponse {
    let begin = std::time::Instant::now();
    loop {
        match client.put(key.to_owned(), value.to_owned()).await {
            Ok(done) => return done,
            Err(cause) => assert!(begin.elapsed() < PATIENCE, "{cause:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Asks again until there is something.
async fn until<T>(mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let asked = async {
        loop {
            if let Some(told) = ask().await {
                return told;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asked).await.expect("it takes too long")
}

async fn value(client: &Client, key: &str) -> Option<String> {
    let got = client.get(key.to_owned()).await.expect("a read is answered");
    got.kvs.first().map(|kv| String::from_utf8_lossy(&kv.value).into_owned())
}

#[tokio::test]
async fn what_one_takes_all_have() {
    let mut cluster = Cluster::start(3).await;
    for at in 0..3 {
        let client = cluster.client(at).await;
        put(&client, &format!("by {at}"), "here").await;
        // A linearizable read of each other one sees it at once.
        for other in 0..3 {
            assert_eq!(value(&cluster.client(other).await, &format!("by {at}")).await.as_deref(), Some("here"));
        }
    }
    cluster.agree().await;

    // The leader is killed: the two that are left go on, and it finds its way back.
    let old = cluster.leader(0).await;
    cluster.members[old].kill();
    let left = cluster.client((old + 1) % 3).await;
    put(&left, "without", "it").await;
    cluster.members[old].restart().await;
    assert_eq!(value(&cluster.client(old).await, "without").await.as_deref(), Some("it"));
    cluster.agree().await;

    // Two are killed: nothing is acknowledged, and nothing is read that might be old.
    let leader = cluster.leader(0).await;
    let others: Vec<usize> = (0..3).filter(|at| *at != leader).collect();
    let alone = cluster.client(leader).await;
    for at in &others {
        cluster.members[*at].kill();
    }
    let (put_alone, get_alone) = tokio::join!(alone.put("alone", "no"), alone.get("without"));
    put_alone.unwrap_err();
    get_alone.unwrap_err();
    let old =
        alone.call(&RangeRequest { key: "without".into(), serializable: true, ..Default::default() }).await.unwrap();
    assert_eq!(old.kvs.len(), 1);
    for at in &others {
        cluster.members[*at].spawn();
    }
    cluster.wait().await;
    put(&alone, "again", "all").await;
    cluster.agree().await;
}

#[tokio::test]
async fn leadership_goes_where_it_is_sent() {
    let mut cluster = Cluster::start(3).await;
    let old = cluster.leader(0).await;
    let new = (old + 1) % 3;
    let id_of = |status: StatusResponse| status.header.unwrap().member_id;
    let (client, target_id) = (cluster.client(old).await, id_of(cluster.status(new).await));
    let other = cluster.client(new).await.call(&MoveLeaderRequest { target_id }).await;
    refused(other, &error::NOT_LEADER);
    refused(client.call(&MoveLeaderRequest { target_id: 77 }).await, &error::BAD_LEADER_TRANSFEREE);
    let term = cluster.status(old).await.raft_term;
    assert_eq!(client.call(&MoveLeaderRequest { target_id }).await.unwrap().header, None);
    let status = cluster.status(old).await;
    assert_eq!((status.leader, status.raft_term), (target_id, term + 1));

    // One that is told to stop hands its leadership over before it goes: the next term begins without an election timeout.
    let status = cluster.members[new].terminate();
    assert!(ended_well(status));
    let log = cluster.members[new].log();
    assert!(log.contains("leadership transfer finished"), "{log}");
    put(&client, "after", "it").await;
    assert_eq!(cluster.status(old).await.raft_term, term + 2);
}

#[tokio::test]
async fn a_learner_catches_up_by_a_snapshot_and_serves_little() {
    let mut cluster = Cluster::start(1).await;
    let first = cluster.client(0).await;
    for at in 0..500 {
        put(&first, &format!("key {}", at % 50), &format!("{at}")).await;
    }
    first.call(&CompactionRequest { revision: 400, physical: true }).await.unwrap();
    // Now the log holds less than what the learner lacks.
    first.call(&DefragmentRequest {}).await.unwrap();
    let url = cluster.prepare();
    let added = first.call(&MemberAddRequest { peer_ur_ls: vec![url], is_learner: true }).await.unwrap();
    let learner = added.member.unwrap().id;
    cluster.members[1].spawn();
    let client = until(async || Client::connect(&cluster.members[1].address).await.ok()).await;
    let serializable = RangeRequest { key: "key 7".into(), serializable: true, ..Default::default() };
    let has_it = async || client.call(&serializable).await.ok().filter(|got| got.kvs.len() == 1);
    assert_eq!(until(has_it).await.kvs[0].value, "457");
    assert!(client.call(&StatusRequest {}).await.unwrap().is_learner);
    refused(client.get("key 7").await, &error::NOT_SUPPORTED_FOR_LEARNER);
    refused(client.put("key 7", "8").await, &error::NOT_SUPPORTED_FOR_LEARNER);
    refused(client.call(&HashKvRequest::default()).await, &error::NOT_SUPPORTED_FOR_LEARNER);
    let watch = client.stream::<LeaseKeepAliveRequest>().await.unwrap().1.expect().await;
    refused(watch, &error::NOT_SUPPORTED_FOR_LEARNER);
    cluster.members[0].says("sent database snapshot").await;

    let promoted = until(async || first.call(&MemberPromoteRequest { id: learner }).await.ok()).await;
    assert!(promoted.members.iter().all(|member| !member.is_learner));
    until(async || client.get("key 7").await.ok()).await;
    cluster.agree().await;
}

#[tokio::test]
async fn members_speak_within_tls() {
    let certificates = Certificates::make();
    let path = |name| certificates.path(name).display().to_string();
    let proven = [
        format!("--peer-cert-file={}", path("server.pem")),
        format!("--peer-key-file={}", path("server.key")),
        format!("--peer-trusted-ca-file={}", path("ca.pem")),
        "--peer-client-cert-auth".to_owned(),
        "--peer-cert-allowed-cn=server".to_owned(),
    ];
    for flags in [&proven[..], &["--peer-auto-tls".to_owned()]] {
        let cluster = Cluster::start_with(3, "https", flags).await;
        let client = cluster.client(0).await;
        put(&client, "within", "tls").await;
        assert_eq!(value(&cluster.client(1).await, "within").await.as_deref(), Some("tls"));
        cluster.agree().await;
    }
}

/// Who cannot prove to be a member is none, whatever it knows of the cluster.
#[tokio::test]
async fn strangers_are_not_heard() {
    let (ours, theirs) = (Certificates::make(), Certificates::make());
    let flags = |of: &Certificates, trusted: &Certificates| {
        let path = |of: &Certificates, name: &str| of.path(name).display().to_string();
        [
            format!("--peer-cert-file={}", path(of, "server.pem")),
            format!("--peer-key-file={}", path(of, "server.key")),
            format!("--peer-trusted-ca-file={}", path(trusted, "ca.pem")),
            "--peer-client-cert-auth".to_owned(),
        ]
    };
    let mut cluster = Cluster::start_with(3, "https", &flags(&ours, &ours)).await;
    let leader = cluster.leader(0).await;
    let stranger = (leader + 1) % 3;
    cluster.members[stranger].kill();
    for flag in flags(&theirs, &ours) {
        cluster.members[stranger].add(flag);
    }
    cluster.members[stranger].spawn();
    let client = cluster.client(leader).await;
    put(&client, "a", "b").await;
    let is_refused =
        async || cluster.members[leader].log().contains("rejected connection on peer endpoint").then_some(());
    until(is_refused).await;
    // It hears nobody, so it does not serve.
    let log = cluster.members[stranger].log();
    assert_eq!(log.matches("ready to serve client requests").count(), 1, "it served before it was killed:\n{log}");
}

/// Rewrites the checkpoint of a member that does not run, as if it had applied something else before.
fn go_astray(server: &Server, key: &[u8]) {
    let dir = Dir::look_at(&server.data_dir());
    let mut file = dir.open_checkpoint().unwrap().expect("a checkpoint");
    let Checkpoint { head, mut state } = checkpoint::decode(&mut file).unwrap();
    let mut index = Index::new();
    for event in state.index.events(Revision::ZERO, i64::MAX) {
        let mut meta = event.meta;
        if event.key == key {
            meta.version += 1;
        }
        index.adopt(&event.key, meta);
    }
    index.set_current(state.index.current());
    state.index = index;
    dir.write_checkpoint(&state, &head, Pace::Hurried).unwrap();
}

/// No compaction, no hash of all: what entries do is compared as they come.
#[tokio::test]
async fn a_member_that_applies_otherwise_is_found_while_it_runs() {
    let mut cluster = Cluster::start(3).await;
    let client = cluster.client(0).await;
    put(&client, "astray", "1").await;
    let leader = cluster.leader(0).await;
    let astray = (leader + 1) % 3;
    let id = cluster.status(astray).await.header.expect("a header").member_id;
    // Its checkpoint holds all there is then.
    cluster.agree().await;
    cluster.client(astray).await.call(&DefragmentRequest {}).await.unwrap();
    assert!(ended_well(cluster.members[astray].terminate()));
    go_astray(&cluster.members[astray], b"astray");
    cluster.members[astray].restart().await;

    let client = cluster.client(leader).await;
    let alarms = async || {
        let request = AlarmRequest { action: alarm_request::AlarmAction::Get.into(), ..Default::default() };
        let told = client.call(&request).await.expect("alarms are told").alarms;
        told.into_iter().map(|one| (one.alarm(), one.member_id)).collect::<Vec<_>>()
    };
    assert_eq!(alarms().await, []);
    // Until a whole span is behind it.
    for _ in 0..2 * SPAN_ENTRIES / 64 {
        let puts = (0..64).map(|number| client.put(if number == 0 { "astray" } else { "sound" }, "2"));
        for done in futures_util::future::join_all(puts).await {
            done.unwrap();
        }
    }
    let raised = until(async || Some(alarms().await).filter(|alarms| !alarms.is_empty())).await;
    assert_eq!(raised, [(AlarmType::Corrupt, id)]);
    refused(client.put("any", "more").await, &error::CORRUPT);
}
