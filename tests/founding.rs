//! How a cluster of several members comes to be and is changed, with real servers. (etcd: etcdserver/bootstrap.go, server.go.)

mod server;

use std::{fs, time::Duration};

use server::{PATIENCE, Server, is_reference, refused};
use urd::error;
use urd_client::{Client, etcdserverpb::*};

/// Members `n0` on, with ports and directories, not started.
fn prepared(count: usize) -> Vec<Server> {
    let members: Vec<Server> = (0..count).map(|_| Server::prepare(&[])).collect();
    let cluster = cluster(members.iter());
    (0..).zip(members).map(|(at, member)| member.with(&[&format!("--name=n{at}"), &cluster])).collect()
}

fn cluster<'a>(members: impl Iterator<Item = &'a Server>) -> String {
    let named = (0..).zip(members).map(|(at, member)| format!("n{at}=http://{}", member.peer_address()));
    format!("--initial-cluster={}", named.collect::<Vec<_>>().join(","))
}

async fn founded(count: usize) -> Vec<Server> {
    let mut members = prepared(count);
    members.iter_mut().for_each(Server::spawn);
    for member in &mut members {
        assert!(member.is_ready().await, "{}", member.log());
    }
    members
}

async fn list(client: &Client) -> Vec<Member> {
    loop {
        match client.call(&MemberListRequest { linearizable: true }).await {
            // The leader may be the one that the test has just killed.
            Err(refused) if refused.is(&error::LEADER_CHANGED) => {}
            told => return told.unwrap().members,
        }
    }
}

fn id_of(members: &[Member], name: &str) -> u64 {
    members.iter().find(|member| member.name == name).expect("it is a member").id
}

/// Asks again until the members have been connected for as long as a change of them wants.
async fn healthy<T>(mut ask: impl AsyncFnMut() -> Result<T, urd_client::Error>) -> T {
    let asked = async {
        loop {
            match ask().await {
                Err(refused) if refused.is(&error::UNHEALTHY) || refused.is(&error::LEADER_CHANGED) => {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                told => return told.unwrap(),
            }
        }
    };
    tokio::time::timeout(PATIENCE, asked).await.expect("the members are connected in the end")
}

async fn grant(client: &Client, ttl: i64) -> i64 {
    client.grant(0, ttl).await.unwrap().id
}

#[tokio::test]
async fn every_member_answers_for_leases() {
    let members = founded(3).await;
    let mut clients = Vec::new();
    for member in &members {
        clients.push(member.client().await);
    }
    for granting in &clients {
        let id = grant(granting, 60).await;
        granting.call(&PutRequest { key: "k".into(), lease: id, ..Default::default() }).await.unwrap();
        for asked in &clients {
            let (mut sender, mut stream) = asked.stream::<LeaseKeepAliveRequest>().await.unwrap();
            // In one go: each is answered, in order.
            for lease in [id, 77, id] {
                sender.send(&LeaseKeepAliveRequest { id: lease }).unwrap();
            }
            for (lease, ttl) in [(id, 60), (77, 0), (id, 60)] {
                let told = stream.expect().await.unwrap();
                assert_eq!((told.id, told.ttl), (lease, ttl));
            }
            let told = asked.call(&LeaseTimeToLiveRequest { id, keys: true }).await.unwrap();
            assert!((58..=60).contains(&told.ttl) && told.granted_ttl == 60, "{told:?}");
            assert_eq!(told.keys, [b"k".as_slice()]);
            let told = asked.call(&LeaseTimeToLiveRequest { id: 77, keys: true }).await.unwrap();
            assert_eq!((told.ttl, told.granted_ttl, told.keys.len()), (-1, 0, 0));
        }
    }
}

/// Longer than the lease lives. It is kept alive through a follower, which turns to the next leader; the one that stood still believes, when
/// it goes on, that it leads and that the lease has ended. (etcd's follower waits for the one that stands still.)
#[tokio::test]
async fn a_lease_outlives_a_leader_that_stands_still() {
    if is_reference() {
        return;
    }
    let members = founded(3).await;
    let mut leader = None;
    for (at, member) in members.iter().enumerate() {
        let status = member.client().await.status().await.unwrap();
        leader = leader.or((status.leader == status.header.unwrap().member_id).then_some(at));
    }
    let leader = leader.expect("somebody leads");
    let client = members[(leader + 1) % 3].client().await;
    let id = grant(&client, 10).await;
    client.call(&PutRequest { key: "k".into(), lease: id, ..Default::default() }).await.unwrap();
    let (mut sender, mut stream) = client.stream::<LeaseKeepAliveRequest>().await.unwrap();
    server::signal(members[leader].pid(), "STOP");
    for _ in 0..13 {
        sender.send(&LeaseKeepAliveRequest { id }).unwrap();
        assert_eq!(stream.expect().await.unwrap().ttl, 10);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    server::signal(members[leader].pid(), "CONT");
    for asked in [&client, &members[leader].client().await] {
        // Who has led before learns only now that it does not any more, and says so to who asks meanwhile.
        let read = loop {
            match asked.call(&RangeRequest { key: "k".into(), ..Default::default() }).await {
                Err(refused) if refused.is(&error::LEADER_CHANGED) => {}
                told => break told.unwrap(),
            }
        };
        assert_eq!(read.count, 1);
        assert!(asked.call(&LeaseTimeToLiveRequest { id, keys: false }).await.unwrap().ttl > 0);
    }
}

#[tokio::test]
async fn members_join_vote_and_go() {
    let mut members = founded(3).await;
    let client = members[0].client().await;
    client.call(&PutRequest { key: "k".into(), ..Default::default() }).await.unwrap();

    let newcomer = Server::prepare(&[]);
    let url = format!("http://{}", newcomer.peer_address());
    let learner = MemberAddRequest { peer_ur_ls: vec![url], is_learner: true };
    let id = healthy(async || client.call(&learner).await).await.member.unwrap().id;
    let flags = cluster(members.iter().chain([&newcomer]));
    // One that is not among those that the cluster has been told of does not get in.
    let stranger = Server::prepare(&[]);
    let mut stranger = stranger.with(&[
        "--name=n3",
        "--initial-cluster-state=existing",
        &flags.replace(newcomer.peer_address(), "127.0.0.1:1"),
    ]);
    stranger.spawn();
    assert_eq!(stranger.wait().code(), Some(1));
    assert!(stranger.log().contains("error validating peerURLs {ClusterID:"), "{}", stranger.log());
    assert!(stranger.log().contains("PeerURLs: no match found for existing member"), "{}", stranger.log());

    let mut newcomer = newcomer.with(&["--name=n3", "--initial-cluster-state=existing", &flags]);
    newcomer.spawn();
    // Whoever is asked, the leader knows when it is ready.
    for (at, member) in members.iter().enumerate() {
        let asked = member.client().await;
        let promoted = tokio::time::timeout(PATIENCE, async {
            loop {
                match asked.call(&MemberPromoteRequest { id }).await {
                    Err(refused) if refused.is(&error::LEARNER_NOT_READY) => {}
                    told => return told,
                }
            }
        });
        match at {
            0 => assert_eq!(promoted.await.unwrap().unwrap().members.len(), 4),
            _ => refused(promoted.await.unwrap(), &error::MEMBER_NOT_LEARNER),
        }
        refused(asked.call(&MemberPromoteRequest { id: 77 }).await, &error::MEMBER_NOT_FOUND);
    }
    assert!(newcomer.is_ready().await, "{}", newcomer.log());
    let read = newcomer.client().await.call(&RangeRequest { key: "k".into(), ..Default::default() }).await.unwrap();
    assert_eq!(read.count, 1);

    // Who has lost its data is not let in by its old name; removed and added, it is.
    let mut wiped = members.remove(2);
    let others = cluster(members.iter().chain([&wiped, &newcomer]));
    wiped.kill();
    fs::remove_dir_all(wiped.data_dir()).unwrap();
    wiped.spawn();
    assert_eq!(wiped.wait().code(), Some(1));
    let old = id_of(&list(&client).await, "n2");
    assert!(wiped.log().contains(&format!("member {old:x} has already been bootstrapped")), "{}", wiped.log());
    fs::remove_dir_all(wiped.data_dir()).unwrap();
    healthy(async || client.call(&MemberRemoveRequest { id: old }).await).await;
    let url = format!("http://{}", wiped.peer_address());
    let voter = MemberAddRequest { peer_ur_ls: vec![url], is_learner: false };
    let added = healthy(async || client.call(&voter).await).await;
    assert_ne!(added.member.unwrap().id, old);
    let mut wiped = wiped.with(&["--initial-cluster-state=existing", &others]);
    wiped.restart().await;
    let read = wiped.client().await.call(&RangeRequest { key: "k".into(), ..Default::default() }).await.unwrap();
    assert_eq!(read.count, 1);

    // A member that is removed stops by itself; started again, it learns that it was.
    healthy(async || client.call(&MemberRemoveRequest { id }).await).await;
    assert_eq!(newcomer.wait().code(), Some(0), "{}", newcomer.log());
    for text in
        ["the member has been permanently removed from the cluster", "data-dir used by this member must be removed"]
    {
        assert!(newcomer.log().contains(text), "{}", newcomer.log());
    }
    newcomer.spawn();
    assert_eq!(newcomer.wait().code(), Some(1), "{}", newcomer.log());
}

#[tokio::test]
async fn one_member_goes_on_alone_when_it_is_told_to() {
    let mut members = founded(3).await;
    let client = members[0].client().await;
    let lease = grant(&client, 600).await;
    client.call(&PutRequest { key: "k".into(), value: "v".into(), lease, ..Default::default() }).await.unwrap();
    let own = id_of(&list(&client).await, "n0");
    // That it was acknowledged is on the disk soon, with etcd as here, though nothing else is written.
    tokio::time::sleep(Duration::from_secs(1)).await;
    members.iter_mut().for_each(Server::kill);
    let survivor = members.remove(0);
    let mut survivor = survivor.with(&["--force-new-cluster"]);
    survivor.restart().await;
    let client = survivor.client().await;
    let left = list(&client).await;
    assert_eq!(left.iter().map(|member| member.id).collect::<Vec<_>>(), [own]);
    let read = client.call(&RangeRequest { key: "k".into(), ..Default::default() }).await.unwrap();
    assert_eq!((&read.kvs[0].value[..], read.kvs[0].lease), (b"v".as_slice(), lease));
    assert_eq!(client.call(&LeaseTimeToLiveRequest { id: lease, keys: true }).await.unwrap().keys, [b"k".as_slice()]);
    assert!(survivor.log().contains("forcing restart member"), "{}", survivor.log());
    // It goes on as any cluster of one does.
    survivor.kill();
    if !is_reference() {
        survivor.restart().await;
        assert_eq!(list(&survivor.client().await).await.len(), 1);
    }
}

#[tokio::test]
async fn who_joins_needs_somebody_to_ask() {
    let mut member = Server::prepare(&[]);
    let cluster = format!("--initial-cluster=n0=http://{},n1=http://127.0.0.1:1", member.peer_address());
    member = member.with(&["--name=n0", "--initial-cluster-state=existing", &cluster]);
    member.spawn();
    assert_eq!(member.wait().code(), Some(1));
    let text = "cannot fetch cluster info from peer urls: could not retrieve cluster information from the given URLs";
    assert!(member.log().contains(text), "{}", member.log());
}
