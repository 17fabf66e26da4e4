//! Locks over the wire. (etcd API, Lock.)

mod server;

use std::time::{Duration, Instant};

use server::{Server, refused, soon};
use urd::error::{self, Code, Status};
use urd_client::{
    Client,
    etcdserverpb::{LeaseLeasesRequest, RangeRequest},
    v3lockpb::*,
};

fn lock(lease: i64) -> LockRequest {
    LockRequest { name: "mutex".into(), lease }
}

fn unlock(key: &bytes::Bytes) -> UnlockRequest {
    UnlockRequest { key: key.clone() }
}

/// Begins to wait for the lock; ends when it is had, or when the task is aborted.
fn wait(client: &Client, lease: i64) -> tokio::task::JoinHandle<Result<LockResponse, urd_client::Error>> {
    let client = client.clone();
    tokio::spawn(async move { client.call(&lock(lease)).await })
}

/// Waits until so many keys are there.
async fn keys(client: &Client, count: i64) {
    soon(async {
        loop {
            let range = RangeRequest {
                key: "mutex/".into(),
                range_end: "mutex0".into(),
                count_only: true,
                ..Default::default()
            };
            if client.call(&range).await.unwrap().count == count {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_lock_is_had_had_again_and_given_back() {
    let server = Server::start().await;
    let client = server.client().await;
    client.grant(0x5a, 600).await.unwrap();
    let locked = client.call(&lock(0x5a)).await.unwrap();
    let header = locked.header.unwrap();
    assert_eq!((&locked.key[..], header.revision), (&b"mutex/5a"[..], 2));
    assert!(header.cluster_id != 0 && header.member_id != 0 && header.raft_term != 0);
    client.put("other", "").await.unwrap();
    let again = client.call(&lock(0x5a)).await.unwrap();
    assert_eq!((&again.key[..], again.header.unwrap().revision), (&b"mutex/5a"[..], 3));
    assert_eq!(client.call(&unlock(&locked.key)).await.unwrap().header.unwrap().revision, 4);
    assert_eq!(client.call(&unlock(&locked.key)).await.unwrap().header.unwrap().revision, 4);
    refused(client.call(&lock(77)).await, &Status::fixed(Code::Unknown, "etcdserver: requested lease not found"));
    let nothing = UnlockRequest::default();
    refused(client.call(&nothing).await, &Status::fixed(Code::Unknown, "etcdserver: key is not provided"));
    let unnamed = client.call(&LockRequest { name: "".into(), lease: 0x5a }).await.unwrap();
    assert_eq!(unnamed.key, "/5a");
    let own = client.call(&LockRequest { name: "own".into(), lease: 0 }).await.unwrap();
    let id = i64::from_str_radix(std::str::from_utf8(&own.key[4..]).unwrap(), 16).unwrap();
    assert_eq!(client.time_to_live(id, true).await.unwrap().granted_ttl, 60);
    assert_eq!(client.call(&LeaseLeasesRequest {}).await.unwrap().leases.len(), 2);
}

#[tokio::test]
async fn fifty_contenders_have_it_in_the_order_in_which_they_came() {
    let server = Server::start().await;
    let client = server.client().await;
    for lease in 1..=50 {
        client.grant(lease, 600).await.unwrap();
    }
    let mut waiting = Vec::new();
    for lease in 1..=50 {
        waiting.push(wait(&client, lease));
        keys(&client, lease).await;
    }
    let mut last = 0;
    for (at, contender) in waiting.into_iter().enumerate() {
        let locked = soon(contender).await.unwrap().unwrap();
        assert_eq!(locked.key, format!("mutex/{:x}", at + 1));
        let revision = locked.header.unwrap().revision;
        assert!(revision > last, "{revision} after {last}");
        last = revision;
        assert_eq!(client.get(locked.key.clone()).await.unwrap().count, 1);
        client.call(&unlock(&locked.key)).await.unwrap();
    }
    keys(&client, 0).await;
}

#[tokio::test]
async fn a_holder_that_dies_loses_it_with_its_lease() {
    let server = Server::start().await;
    let client = server.client().await;
    client.grant(1, 2).await.unwrap();
    client.grant(2, 600).await.unwrap();
    let begin = Instant::now();
    client.call(&lock(1)).await.unwrap();
    let locked = soon(wait(&client, 2)).await.unwrap().unwrap();
    assert_eq!(locked.key, "mutex/2");
    assert!(begin.elapsed() >= Duration::from_millis(1900), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn a_waiter_that_goes_takes_its_key_along() {
    let server = Server::start().await;
    let client = server.client().await;
    for lease in 1..=4 {
        client.grant(lease, 600).await.unwrap();
    }
    let held = client.call(&lock(1)).await.unwrap();
    let gives_up = wait(&client, 2);
    keys(&client, 2).await;
    // One by its deadline, one by a reset of its stream, one with its connection.
    let late = client.with_metadata("grpc-timeout", "300m");
    // The reference resets the stream where urd tells the status.
    soon(late.call(&lock(3))).await.expect_err("its time is over");
    keys(&client, 2).await;
    let lost = server.client().await;
    let loses = wait(&lost, 4);
    keys(&client, 3).await;
    gives_up.abort();
    keys(&client, 2).await;
    loses.abort();
    drop(lost);
    keys(&client, 1).await;
    // Who comes now is the next, and not behind anybody who has gone.
    let next = wait(&client, 2);
    keys(&client, 2).await;
    client.call(&unlock(&held.key)).await.unwrap();
    assert_eq!(soon(next).await.unwrap().unwrap().key, "mutex/2");
}

#[tokio::test]
async fn a_waiter_whose_lease_ends_is_told_so_in_its_turn() {
    let server = Server::start().await;
    let client = server.client().await;
    for lease in 1..=2 {
        client.grant(lease, 600).await.unwrap();
    }
    let held = client.call(&lock(1)).await.unwrap();
    let waiter = wait(&client, 2);
    keys(&client, 2).await;
    client.revoke(2).await.unwrap();
    client.call(&unlock(&held.key)).await.unwrap();
    refused(soon(waiter).await.unwrap(), &error::SESSION_EXPIRED);
}

#[tokio::test]
async fn waiting_outlives_a_compaction() {
    let server = Server::start().await;
    let client = server.client().await;
    for lease in 1..=3 {
        client.grant(lease, 600).await.unwrap();
    }
    let held = client.call(&lock(1)).await.unwrap();
    let waiter = wait(&client, 2);
    keys(&client, 2).await;
    for at in 0..20 {
        client.put("other", format!("{at}")).await.unwrap();
    }
    let revision = client.get("other").await.unwrap().header.unwrap().revision;
    client.compact(revision).await.unwrap();
    client.call(&unlock(&held.key)).await.unwrap();
    assert_eq!(soon(waiter).await.unwrap().unwrap().key, "mutex/2");
}

#[tokio::test]
async fn the_holder_keeps_it_over_a_crash_and_waiters_have_to_come_back() {
    let mut server = Server::start().await;
    let client = server.client().await;
    for lease in 1..=2 {
        client.grant(lease, 600).await.unwrap();
    }
    let held = client.call(&lock(1)).await.unwrap();
    let waiter = wait(&client, 2);
    keys(&client, 2).await;
    server.kill();
    assert!(soon(waiter).await.unwrap().is_err());
    server.restart().await;
    let client = server.client().await;
    assert_eq!(client.call(&lock(1)).await.unwrap().key, held.key);
    let waiter = wait(&client, 2);
    client.call(&unlock(&held.key)).await.unwrap();
    assert_eq!(soon(waiter).await.unwrap().unwrap().key, "mutex/2");
}
