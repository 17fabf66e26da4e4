//! Leases over the wire. (etcd API, Lease.)

mod server;

use std::time::{Duration, Instant};

use server::{Server, refused, soon};
use urd::error;
use urd_client::etcdserverpb::*;

fn put(key: &'static str, lease: i64) -> PutRequest {
    PutRequest { key: key.into(), lease, ..Default::default() }
}

fn sorted(mut keys: Vec<bytes::Bytes>) -> Vec<bytes::Bytes> {
    keys.sort();
    keys
}

#[tokio::test]
async fn a_lease_is_granted_listed_and_revoked() {
    let server = Server::start().await;
    let client = server.client().await;
    let granted = client.grant(0, 600).await.unwrap();
    assert!(granted.id > 0 && granted.ttl == 600 && granted.error.is_empty());
    assert_eq!(granted.header.unwrap().revision, 1, "a lease makes no revision");
    assert_eq!(client.grant(-5, 700).await.unwrap().id, -5);
    assert_eq!(client.grant(9, 1).await.unwrap().ttl, 2, "shorter than an election allows: raised");
    assert_eq!(client.grant(10, 0).await.unwrap().ttl, 2);
    assert_eq!(client.grant(11, -3).await.unwrap().ttl, 2);
    refused(client.grant(-5, 600).await, &error::LEASE_EXIST);
    refused(client.grant(12, 9_000_000_001).await, &error::LEASE_TTL_TOO_LARGE);
    assert_eq!(client.grant(12, 9_000_000_000).await.unwrap().ttl, 9_000_000_000);

    let listed = client.call(&LeaseLeasesRequest {}).await.unwrap();
    let ids: Vec<i64> = listed.leases.iter().map(|lease| lease.id).collect();
    // In the order in which they would end.
    assert_eq!(ids[ids.len() - 3..], [granted.id, -5, 12]);

    client.call(&put("b", -5)).await.unwrap();
    client.call(&put("a", -5)).await.unwrap();
    let told = client.time_to_live(-5, true).await.unwrap();
    assert_eq!((told.id, told.granted_ttl, sorted(told.keys)), (-5, 700, vec!["a".into(), "b".into()]));
    assert!((600..=700).contains(&told.ttl), "{}", told.ttl);
    assert!(client.time_to_live(-5, false).await.unwrap().keys.is_empty());

    let revoked = client.revoke(-5).await.unwrap();
    assert_eq!(revoked.header.unwrap().revision, 4, "all its keys in one revision");
    assert_eq!(client.range(vec![0], vec![0]).await.unwrap().count, 0);
    refused(client.revoke(-5).await, &error::LEASE_NOT_FOUND);
    refused(client.call(&put("c", -5)).await, &error::LEASE_NOT_FOUND);
    let gone = client.time_to_live(-5, true).await.unwrap();
    assert_eq!((gone.id, gone.ttl, gone.granted_ttl, gone.keys.len()), (-5, -1, 0, 0));
    assert_eq!(client.revoke(granted.id).await.unwrap().header.unwrap().revision, 4, "without keys: no revision");
}

#[tokio::test]
async fn a_key_hangs_on_the_lease_of_its_last_put() {
    let server = Server::start().await;
    let client = server.client().await;
    for id in [1, 2] {
        client.grant(id, 600).await.unwrap();
    }
    let keys = async |id| sorted(client.time_to_live(id, true).await.unwrap().keys);
    client.call(&put("a", 1)).await.unwrap();
    client.call(&put("b", 1)).await.unwrap();
    client.call(&put("c", 1)).await.unwrap();
    client.call(&put("a", 2)).await.unwrap();
    client.call(&put("b", 0)).await.unwrap();
    assert_eq!((keys(1).await, keys(2).await), (vec!["c".into()], vec!["a".into()]));
    client.delete("c").await.unwrap();
    assert!(keys(1).await.is_empty());
    client.revoke(1).await.unwrap();
    let left = client.range(vec![0], vec![0]).await.unwrap();
    assert_eq!(left.kvs.iter().map(|kv| (&kv.key[..], kv.lease)).collect::<Vec<_>>(), [(&b"a"[..], 2), (b"b", 0)]);
}

#[tokio::test]
async fn keep_alives_are_each_answered() {
    let server = Server::start().await;
    let client = server.client().await;
    client.grant(1, 600).await.unwrap();
    client.grant(2, 700).await.unwrap();
    let (mut sender, mut receiver) = client.stream::<LeaseKeepAliveRequest>().await.unwrap();
    for id in [1, 2, 99, 1] {
        sender.send(&LeaseKeepAliveRequest { id }).unwrap();
    }
    let mut answers = Vec::new();
    for _ in 0..4 {
        let answer = soon(receiver.expect()).await.unwrap();
        assert_eq!(answer.header.as_ref().unwrap().revision, 1);
        answers.push((answer.id, answer.ttl));
    }
    assert_eq!(answers, [(1, 600), (2, 700), (99, 0), (1, 600)]);
    sender.finish().unwrap();
    assert_eq!(soon(receiver.next()).await, Ok(None));
}

#[tokio::test]
async fn a_lease_ends_with_its_time_and_takes_its_keys() {
    let server = Server::start().await;
    let client = server.client().await;
    client.grant(1, 2).await.unwrap();
    client.grant(2, 600).await.unwrap();
    client.call(&put("b", 1)).await.unwrap();
    client.call(&put("a", 1)).await.unwrap();
    client.call(&put("stays", 2)).await.unwrap();
    let mut watcher = client.watch(vec![0], vec![0], 0).await.unwrap();
    let ended = soon(watcher.next()).await.unwrap();
    let keys: Vec<&[u8]> = ended.events.iter().map(|event| &event.kv.as_ref().unwrap().key[..]).collect();
    assert_eq!(keys, [b"a", b"b"], "one revision, in order of key");
    assert_eq!(ended.header.unwrap().revision, 5);
    assert_eq!(client.time_to_live(1, false).await.unwrap().ttl, -1);
    assert_eq!(client.keep_alive_once(1).await.unwrap().ttl, 0);
    assert_eq!(client.get("stays").await.unwrap().count, 1);
}

#[tokio::test]
async fn a_lease_kept_alive_outlives_its_time() {
    let server = Server::start().await;
    let client = server.client().await;
    client.grant(1, 2).await.unwrap();
    client.call(&put("k", 1)).await.unwrap();
    let (mut sender, mut receiver) = client.stream::<LeaseKeepAliveRequest>().await.unwrap();
    let begin = Instant::now();
    let mut last = begin;
    while begin.elapsed() < Duration::from_secs(7) {
        sender.send(&LeaseKeepAliveRequest { id: 1 }).unwrap();
        let answer = soon(receiver.expect()).await.unwrap();
        if answer.ttl == 0 {
            // Only a machine that held this test up for the whole of a lease may lose it.
            assert!(last.elapsed() >= Duration::from_secs(2), "a lease was lost early");
            return;
        }
        last = Instant::now();
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(client.get("k").await.unwrap().count, 1);
}

#[tokio::test]
async fn leases_and_their_keys_outlive_a_crash() {
    let mut server = Server::start().await;
    let client = server.client().await;
    for id in 1..=50 {
        client.grant(id, 600 + id).await.unwrap();
    }
    client.call(&put("b", 3)).await.unwrap();
    client.call(&put("a", 3)).await.unwrap();
    client.call(&put("c", 4)).await.unwrap();
    client.revoke(4).await.unwrap();
    server.kill();
    server.restart().await;
    let client = server.client().await;
    let listed = client.call(&LeaseLeasesRequest {}).await.unwrap();
    let mut ids: Vec<i64> = listed.leases.iter().map(|lease| lease.id).collect();
    ids.sort();
    assert_eq!(ids, (1..=50).filter(|id| *id != 4).collect::<Vec<_>>());
    let told = client.time_to_live(3, true).await.unwrap();
    assert_eq!((told.granted_ttl, sorted(told.keys)), (603, vec!["a".into(), "b".into()]));
    assert_eq!(client.revoke(3).await.unwrap().header.unwrap().revision, 6);
}
