//! Elections over the wire. (etcd API, Election.)

mod server;

use std::time::Duration;

use server::{Server, refused, soon};
use urd::error::{self, Code, Status};
use urd_client::{Client, etcdserverpb::RangeRequest, v3electionpb::*};

fn campaign(lease: i64, value: &str) -> CampaignRequest {
    CampaignRequest { name: "poll".into(), lease, value: value.to_owned().into() }
}

fn stand(client: &Client, lease: i64) -> tokio::task::JoinHandle<Result<CampaignResponse, urd_client::Error>> {
    let client = client.clone();
    tokio::spawn(async move { client.call(&campaign(lease, &format!("of {lease}"))).await })
}

async fn proclaim(client: &Client, leader: &LeaderKey, value: &str) -> Result<ProclaimResponse, urd_client::Error> {
    client.call(&ProclaimRequest { leader: Some(leader.clone()), value: value.to_owned().into() }).await
}

async fn resign(client: &Client, leader: &LeaderKey) -> i64 {
    let resigned = client.call(&ResignRequest { leader: Some(leader.clone()) }).await.unwrap();
    resigned.header.unwrap().revision
}

async fn candidates(client: &Client, count: i64) {
    soon(async {
        loop {
            let range =
                RangeRequest { key: "poll/".into(), range_end: "poll0".into(), count_only: true, ..Default::default() };
            if client.call(&range).await.unwrap().count == count {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_leader_is_elected_proclaims_and_resigns() {
    let server = Server::start().await;
    let client = server.client().await;
    let name = LeaderRequest { name: "poll".into() };
    refused(client.call(&name).await, &error::ELECTION_NO_LEADER);
    client.grant(0x5a, 600).await.unwrap();
    let elected = client.call(&campaign(0x5a, "a")).await.unwrap();
    let leader = elected.leader.unwrap();
    let wanted = LeaderKey { name: "poll".into(), key: "poll/5a".into(), rev: 2, lease: 0x5a };
    assert_eq!((&leader, elected.header.unwrap().revision), (&wanted, 2));
    assert_eq!(proclaim(&client, &leader, "b").await.unwrap().header.unwrap().revision, 3);
    let told = client.call(&name).await.unwrap();
    let kv = told.kv.unwrap();
    assert_eq!((&kv.key[..], &kv.value[..], told.header.unwrap().revision), (&b"poll/5a"[..], &b"b"[..], 3));
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version, kv.lease), (2, 3, 2, 0x5a));
    // Standing once more with another value changes the value and nothing else.
    let again = client.call(&campaign(0x5a, "c")).await.unwrap();
    assert_eq!((again.leader.unwrap(), again.header.unwrap().revision), (wanted, 3));
    assert_eq!(client.call(&name).await.unwrap().kv.unwrap().value, "c");
    assert_eq!(resign(&client, &leader).await, 5);
    assert_eq!(resign(&client, &leader).await, 5);
    refused(proclaim(&client, &leader, "d").await, &error::ELECTION_NOT_LEADER);
    refused(client.call(&ProclaimRequest::default()).await, &error::ELECTION_LEADER_MISSING);
    refused(client.call(&ResignRequest::default()).await, &error::ELECTION_LEADER_MISSING);
    let not_found = Status::fixed(Code::Unknown, "etcdserver: requested lease not found");
    refused(client.call(&campaign(77, "a")).await, &not_found);
}

#[tokio::test]
async fn fifty_candidates_lead_one_after_the_other() {
    let server = Server::start().await;
    let client = server.client().await;
    for lease in 1..=50 {
        client.grant(lease, 600).await.unwrap();
    }
    let mut standing = Vec::new();
    for lease in 1..=50 {
        standing.push(stand(&client, lease));
        candidates(&client, lease).await;
    }
    let mut observer = client.observe("poll").await.unwrap();
    for (at, candidate) in standing.into_iter().enumerate() {
        let elected = soon(candidate).await.unwrap().unwrap();
        let leader = elected.leader.unwrap();
        assert_eq!((leader.lease, leader.rev), (at as i64 + 1, at as i64 + 2));
        assert_eq!(elected.header.unwrap().revision, leader.rev, "of the moment it stood");
        let seen = soon(observer.expect()).await.unwrap().kv.unwrap();
        assert_eq!((&seen.key, &seen.value[..]), (&leader.key, format!("of {}", leader.lease).as_bytes()));
        resign(&client, &leader).await;
    }
}

#[tokio::test]
async fn an_observer_is_told_everything_in_order() {
    let server = Server::start().await;
    let client = server.client().await;
    let mut early = client.observe("poll").await.unwrap();
    for lease in 1..=2 {
        client.grant(lease, 600).await.unwrap();
    }
    let first = client.call(&campaign(1, "a")).await.unwrap().leader.unwrap();
    let second = stand(&client, 2);
    candidates(&client, 2).await;
    let mut late = client.observe("poll").await.unwrap();
    assert_eq!(soon(early.expect()).await.unwrap().kv.unwrap().value, "a");
    let seen = soon(late.expect()).await.unwrap();
    assert_eq!((seen.header.unwrap().revision, &seen.kv.unwrap().value[..]), (3, &b"a"[..]));
    for at in 0..20 {
        proclaim(&client, &first, &format!("{at}")).await.unwrap();
    }
    client.revoke(1).await.unwrap();
    soon(second).await.unwrap().unwrap();
    for observer in [&mut early, &mut late] {
        for at in 0..20 {
            let seen = soon(observer.expect()).await.unwrap();
            assert_eq!(seen.kv.unwrap().value, format!("{at}"));
            assert!(seen.header.unwrap().revision >= 4 + at);
        }
        let seen = soon(observer.expect()).await.unwrap().kv.unwrap();
        assert_eq!((&seen.key[..], &seen.value[..]), (&b"poll/2"[..], &b"of 2"[..]));
    }
}

#[tokio::test]
async fn a_candidate_that_goes_takes_its_key_along() {
    let server = Server::start().await;
    let client = server.client().await;
    for lease in 1..=3 {
        client.grant(lease, 600).await.unwrap();
    }
    let leader = client.call(&campaign(1, "a")).await.unwrap().leader.unwrap();
    let gives_up = stand(&client, 2);
    candidates(&client, 2).await;
    let third = stand(&client, 3);
    candidates(&client, 3).await;
    gives_up.abort();
    candidates(&client, 2).await;
    let late = client.with_metadata("grpc-timeout", "300m");
    soon(late.call(&campaign(2, "b"))).await.expect_err("its time is over");
    candidates(&client, 2).await;
    resign(&client, &leader).await;
    assert_eq!(soon(third).await.unwrap().unwrap().leader.unwrap().key, "poll/3");
}
