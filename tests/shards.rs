//! Several shards serve one store: no reader and no watch may see time go back because it is on another core than the
//! writer. (etcd API guarantees: linearizable reads; a watch delivers only what comes after its creation.)

mod server;

use server::{Server, is_reference, soon};
use urd_client::{Client, etcdserverpb::*};

const SHARDS: usize = 2;

async fn start() -> Server {
    // The reference has one store and no such flag.
    if is_reference() { Server::start().await } else { Server::start_with(&[&format!("--shards={SHARDS}")]).await }
}

/// Enough connections for every shard to have some: a connection goes to the shard that has fewest.
async fn connections(server: &Server) -> Vec<Client> {
    let mut clients = Vec::new();
    for _ in 0..2 * SHARDS {
        clients.push(server.client().await);
    }
    clients
}

#[tokio::test]
async fn what_one_connection_was_told_every_other_reads() {
    let server = start().await;
    let clients = connections(&server).await;
    for round in 0..400usize {
        let writer = &clients[round % clients.len()];
        let told = writer.put("k", round.to_string()).await.unwrap().header.unwrap().revision;
        for reader in &clients {
            for serializable in [true, false] {
                let request = RangeRequest { key: "k".into(), serializable, ..Default::default() };
                let answer = reader.call(&request).await.unwrap();
                assert!(answer.header.unwrap().revision >= told, "a read went back behind {told}");
                assert_eq!(answer.kvs[0].value, round.to_string());
            }
        }
    }
}

#[tokio::test]
async fn a_watch_never_delivers_what_was_there_before_it() {
    let server = start().await;
    let clients = connections(&server).await;
    let background: Vec<_> = clients
        .iter()
        .cloned()
        .map(|client| {
            tokio::spawn(async move {
                for i in 0..1_000 {
                    client.put("k", i.to_string()).await.unwrap();
                }
            })
        })
        .collect();
    for round in 0..200usize {
        let client = &clients[round % clients.len()];
        let mut watcher = client.watcher().await.unwrap();
        watcher.create(WatchCreateRequest { key: "k".into(), ..Default::default() }).unwrap();
        let created = soon(watcher.next()).await.unwrap();
        let at = created.header.unwrap().revision;
        // A put by another connection makes sure that something comes.
        clients[(round + 1) % clients.len()].put("k", "more").await.unwrap();
        let first = soon(watcher.next()).await.unwrap();
        let revision = first.events[0].kv.as_ref().unwrap().mod_revision;
        assert_eq!(revision, at + 1, "the watch created at {at} begins with {revision}");
    }
    for task in background {
        task.await.unwrap();
    }
}

#[tokio::test]
async fn watches_on_every_shard_see_the_same() {
    let server = start().await;
    let clients = connections(&server).await;
    let mut watchers = Vec::new();
    for client in &clients {
        watchers.push(client.watch(vec![0], vec![0], 0).await.unwrap());
    }
    let writing: Vec<_> = clients
        .iter()
        .cloned()
        .enumerate()
        .map(|(at, client)| {
            tokio::spawn(async move {
                for i in 0..250 {
                    client.put(format!("k{at}"), i.to_string()).await.unwrap();
                }
            })
        })
        .collect();
    let total = 250 * clients.len();
    let mut seen = Vec::new();
    for watcher in &mut watchers {
        let mut events = Vec::new();
        while events.len() < total {
            events.extend(soon(watcher.next()).await.unwrap().events);
        }
        let revisions: Vec<i64> = events.iter().map(|event| event.kv.as_ref().unwrap().mod_revision).collect();
        assert!(revisions.iter().copied().eq(2..2 + total as i64));
        seen.push(events);
    }
    assert!(seen.iter().all(|events| *events == seen[0]));
    for task in writing {
        task.await.unwrap();
    }
}

#[tokio::test]
async fn a_lease_granted_through_one_shard_is_kept_alive_and_revoked_through_another() {
    let server = start().await;
    let clients = connections(&server).await;
    for id in 1..=40i64 {
        let [granter, keeper, revoker] = [0, 1, 2].map(|offset| &clients[(id as usize + offset) % clients.len()]);
        granter.grant(id, 600).await.unwrap();
        assert_eq!(keeper.keep_alive_once(id).await.unwrap().ttl, 600, "a grant that was told is there for all");
        keeper.call(&PutRequest { key: "k".into(), lease: id, ..Default::default() }).await.unwrap();
        assert_eq!(revoker.time_to_live(id, true).await.unwrap().keys, ["k"]);
        revoker.revoke(id).await.unwrap();
        assert_eq!(keeper.keep_alive_once(id).await.unwrap().ttl, 0);
        assert_eq!(granter.get("k").await.unwrap().count, 0);
    }
}
