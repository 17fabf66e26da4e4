//! A member that has been away until the others keep nothing in their logs that it has seen: the leader sends it a snapshot,
//! and it goes on from there, as often as it is killed.

mod server;

use std::time::Duration;

use server::{Server, names, soon};
use urd_client::{
    Client,
    etcdserverpb::{DefragmentRequest, HashKvRequest, PutRequest, StatusRequest},
};

/// Three members of one cluster, that keep few entries for who lags.
async fn cluster() -> Vec<Server> {
    let mut servers: Vec<Server> = (0..3).map(|_| Server::prepare(&["--snapshot-catchup-entries=10"])).collect();
    let members: Vec<String> =
        servers.iter().enumerate().map(|(at, server)| format!("m{at}=http://{}", server.peer_address())).collect();
    for (at, server) in servers.iter_mut().enumerate() {
        server.add(format!("--name=m{at}"));
        server.add(format!("--initial-cluster={}", members.join(",")));
        server.spawn();
    }
    for server in &mut servers {
        assert!(server.is_ready().await, "a member ended at its start:\n{}", server.log());
    }
    servers
}

async fn put(client: &Client, from: usize, to: usize) {
    for number in from..to {
        let value = format!("{number} {}", "x".repeat(2000)).into();
        let request = PutRequest { key: format!("key{}", number % 100).into(), value, ..Default::default() };
        // Who leads may just have been killed.
        soon(async { while client.call(&request).await.is_err() {} }).await;
    }
}

/// Revision and hash of a member's data.
async fn hash(server: &Server) -> (i64, u32) {
    let told = server.client().await.call(&HashKvRequest { revision: 0 }).await.unwrap();
    (told.hash_revision, told.hash)
}

async fn level(servers: &[Server]) {
    soon(async {
        while hash(&servers[0]).await != hash(&servers[2]).await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_member_that_lags_is_sent_a_snapshot_and_outlives_a_kill_at_any_time() {
    let mut servers = cluster().await;
    put(&servers[0].client().await, 0, 20).await;
    for round in 1..4 {
        servers[2].kill();
        put(&servers[0].client().await, 20, 150).await;
        for server in &servers[..2] {
            // Their logs are as short then as they may be.
            server.client().await.call(&DefragmentRequest {}).await.unwrap();
        }
        servers[2].spawn();
        if round == 2 {
            // Somewhere on its way; what the next process finds is sound, whatever it is.
            soon(async {
                while servers[2].log().matches("receiving database snapshot").count() < round {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            })
            .await;
            servers[2].kill();
            servers[2].spawn();
        }
        assert!(servers[2].is_ready().await, "{}", servers[2].log());
        level(&servers).await;
    }
    assert!(servers[2].log().matches("applied snapshot").count() >= 2, "{}", servers[2].log());
    // It reads what it was sent from its own disk.
    servers[2].kill();
    servers[2].restart().await;
    level(&servers).await;
    let left = names(&servers[2].data_dir()).unwrap();
    assert!(!left.iter().any(|name| name.starts_with("received-")), "{left:?}");
    let status = servers[2].client().await.call(&StatusRequest {}).await.unwrap();
    assert!(status.leader != 0 && status.errors.is_empty(), "{status:?}");
}
