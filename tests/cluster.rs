//! Members, leadership and downgrades of a cluster of one over the wire. (etcd API, Cluster; Maintenance.MoveLeader and
//! Downgrade.)

mod server;

use std::time::Duration;

use server::{Server, is_reference, refused, soon};
use urd::error;
use urd_client::{
    Client, Error,
    etcdserverpb::{downgrade_request::DowngradeAction, *},
};

async fn add(client: &Client, url: &str, is_learner: bool) -> Result<MemberAddResponse, Error> {
    client.call(&MemberAddRequest { peer_ur_ls: vec![url.into()], is_learner }).await
}

async fn update(client: &Client, id: u64, url: &str) -> Result<MemberUpdateResponse, Error> {
    client.call(&MemberUpdateRequest { id, peer_ur_ls: vec![url.into()] }).await
}

async fn remove(client: &Client, id: u64) -> Result<MemberRemoveResponse, Error> {
    client.call(&MemberRemoveRequest { id }).await
}

async fn promote(client: &Client, id: u64) -> Result<MemberPromoteResponse, Error> {
    client.call(&MemberPromoteRequest { id }).await
}

async fn members(client: &Client) -> Vec<Member> {
    let linearizable = client.call(&MemberListRequest { linearizable: true }).await.unwrap();
    let own = client.call(&MemberListRequest { linearizable: false }).await.unwrap();
    assert_eq!(own.members, linearizable.members);
    let header = own.header.unwrap();
    assert_eq!(header.revision, 0);
    assert!(header.cluster_id != 0 && header.member_id != 0 && header.raft_term != 0);
    own.members
}

#[tokio::test]
async fn a_learner_comes_waits_and_goes() {
    let mut server = Server::start().await;
    let client = server.client().await;
    let own = members(&client).await.remove(0);
    assert!(own.name == "default" && own.client_ur_ls.len() == 1 && !own.is_learner);
    refused(add(&client, &own.peer_ur_ls[0], true).await, &error::PEER_URL_EXIST);
    for url in ["", "garbage", "http://127.0.0.1", "http://127.0.0.1:1/path", "ftp://127.0.0.1:1"] {
        refused(add(&client, url, true).await, &error::MEMBER_BAD_URLS);
        refused(add(&client, url, false).await, &error::MEMBER_BAD_URLS);
    }
    refused(client.call(&MemberAddRequest::default()).await, &error::MEMBER_BAD_URLS);
    refused(promote(&client, own.id).await, &error::MEMBER_NOT_LEARNER);
    refused(promote(&client, 77).await, &error::MEMBER_NOT_FOUND);

    let added = add(&client, "http://127.0.0.1:1", true).await.unwrap();
    assert_eq!(added.header.unwrap().revision, 0);
    let learner = added.member.unwrap();
    assert!(learner.is_learner && learner.name.is_empty() && learner.client_ur_ls.is_empty());
    assert_eq!(added.members.len(), 2);
    assert_eq!(members(&client).await, added.members);
    refused(add(&client, "http://127.0.0.1:2", true).await, &error::TOO_MANY_LEARNERS);
    refused(promote(&client, learner.id).await, &error::LEARNER_NOT_READY);
    refused(remove(&client, own.id).await, &error::MEMBER_NOT_ENOUGH_STARTED);
    // It does not vote, so nobody waits for it.
    for i in 0..20 {
        client.put("k", format!("{i}")).await.unwrap();
    }
    server.kill();
    server.restart().await;
    let client = server.client().await;
    assert_eq!(members(&client).await, added.members);
    assert_eq!(client.get("k").await.unwrap().kvs[0].value, "19");

    let updated = update(&client, learner.id, "http://127.0.0.1:3").await.unwrap();
    let learner = updated.members.iter().find(|member| member.id == learner.id).unwrap();
    assert!(learner.is_learner && learner.peer_ur_ls == ["http://127.0.0.1:3"]);
    assert_eq!(remove(&client, learner.id).await.unwrap().members.len(), 1);
    refused(remove(&client, learner.id).await, &error::MEMBER_NOT_FOUND);
    refused(promote(&client, learner.id).await, &error::MEMBER_NOT_FOUND);
    refused(update(&client, learner.id, "http://127.0.0.1:3").await, &error::MEMBER_NOT_FOUND);
    assert_eq!(members(&client).await.len(), 1);
}

#[tokio::test]
async fn a_member_moves() {
    let mut server = Server::start().await;
    let client = server.client().await;
    let own = members(&client).await.remove(0);
    let updated = update(&client, own.id, "http://127.0.0.1:4").await.unwrap();
    assert_eq!(updated.members[0].peer_ur_ls, ["http://127.0.0.1:4"]);
    refused(update(&client, 77, "http://127.0.0.1:5").await, &error::MEMBER_NOT_FOUND);
    let learner = add(&client, &own.peer_ur_ls[0], true).await.unwrap().member.unwrap();
    refused(update(&client, learner.id, "http://127.0.0.1:4").await, &error::PEER_URL_EXIST);
    if !is_reference() {
        // The reference does not outlive what is no URL.
        refused(update(&client, own.id, "garbage").await, &error::MEMBER_BAD_URLS);
        server.kill();
        server.restart().await;
        let client = server.client().await;
        assert_eq!(
            members(&client).await.iter().find(|it| it.id == own.id).unwrap().peer_ur_ls,
            ["http://127.0.0.1:4"]
        );
    }
}

#[tokio::test]
async fn many_changes_at_once_are_made_one_after_the_other() {
    if is_reference() {
        // It drops a change that comes while another is under way, and leaves its caller waiting.
        return;
    }
    let mut server = Server::start_with(&["--max-learners=40"]).await;
    let client = server.client().await;
    let changes = (1..=40).map(|port| {
        let client = client.clone();
        tokio::spawn(async move {
            client.put(format!("{port}"), "v").await.unwrap();
            add(&client, &format!("http://127.0.0.1:{port}"), true).await
        })
    });
    let mut ids = Vec::new();
    for change in changes.collect::<Vec<_>>() {
        ids.push(soon(change).await.unwrap().unwrap().member.unwrap().id);
    }
    assert_eq!(members(&client).await.len(), 41);
    // A lower bound lets nobody new in, and turns nobody out.
    server.kill();
    let mut server = server.with(&["--max-learners=1"]);
    server.restart().await;
    let client = server.client().await;
    assert_eq!(members(&client).await.len(), 41);
    refused(add(&client, "http://127.0.0.1:99", true).await, &error::TOO_MANY_LEARNERS);
    for id in ids {
        remove(&client, id).await.unwrap();
    }
    assert_eq!(members(&client).await.len(), 1);
}

#[tokio::test]
async fn a_leader_alone_can_be_handed_the_lead_and_nobody_else() {
    let server = Server::start().await;
    let client = server.client().await;
    let own = members(&client).await.remove(0);
    let moved = client.call(&MoveLeaderRequest { target_id: own.id }).await.unwrap();
    assert_eq!(moved.header, None);
    refused(client.call(&MoveLeaderRequest { target_id: 77 }).await, &error::BAD_LEADER_TRANSFEREE);
    refused(client.call(&MoveLeaderRequest::default()).await, &error::BAD_LEADER_TRANSFEREE);
    let learner = add(&client, "http://127.0.0.1:1", true).await.unwrap().member.unwrap();
    refused(client.call(&MoveLeaderRequest { target_id: learner.id }).await, &error::BAD_LEADER_TRANSFEREE);
}

async fn downgrade(client: &Client, action: DowngradeAction, version: &str) -> Result<String, Error> {
    let answer = client.call(&DowngradeRequest { action: action as i32, version: version.into() }).await?;
    assert!(answer.header.unwrap().revision >= 1);
    Ok(answer.version)
}

/// Waits until the storage's version, which follows the cluster's, is this.
async fn storage_version(client: &Client, version: &str) {
    soon(async {
        while client.status().await.unwrap().storage_version != version {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_downgrade_is_validated_begun_and_called_off() {
    use DowngradeAction::*;
    let mut server = Server::start().await;
    let client = server.client().await;
    storage_version(&client, "3.7.0").await;
    for version in ["", "3", "x.y", "3.6.x"] {
        refused(downgrade(&client, Validate, version).await, &error::WRONG_DOWNGRADE_VERSION_FORMAT);
        refused(downgrade(&client, Enable, version).await, &error::WRONG_DOWNGRADE_VERSION_FORMAT);
    }
    for version in ["3.7", "3.5", "3.8.0", "2.6"] {
        refused(downgrade(&client, Validate, version).await, &error::INVALID_DOWNGRADE_TARGET_VERSION);
        refused(downgrade(&client, Enable, version).await, &error::INVALID_DOWNGRADE_TARGET_VERSION);
    }
    let unknown = DowngradeRequest { action: 9, version: "3.6".into() };
    refused(client.call(&unknown).await, &error::UNKNOWN_METHOD);
    assert_eq!(downgrade(&client, Cancel, "").await.unwrap(), "3.7", "nothing to call off, and that is no error");
    assert_eq!(downgrade(&client, Validate, "3.6.1").await.unwrap(), "3.7");
    assert_eq!(client.status().await.unwrap().downgrade_info, Some(DowngradeInfo::default()));

    downgrade(&client, Enable, "3.6").await.unwrap();
    let info = client.status().await.unwrap().downgrade_info.unwrap();
    assert_eq!((info.enabled, info.target_version.as_str()), (true, "3.6.0"));
    storage_version(&client, "3.6.0").await;
    // From here on the release before that one would be next.
    refused(downgrade(&client, Validate, "3.6").await, &error::INVALID_DOWNGRADE_TARGET_VERSION);
    refused(downgrade(&client, Enable, "3.5").await, &error::DOWNGRADE_IN_PROCESS);
    client.put("k", "v").await.unwrap();
    server.kill();
    server.restart().await;
    let client = server.client().await;
    assert!(client.status().await.unwrap().downgrade_info.unwrap().enabled);
    assert_eq!(client.status().await.unwrap().storage_version, "3.6.0");
    downgrade(&client, Cancel, "").await.unwrap();
    assert_eq!(client.status().await.unwrap().downgrade_info, Some(DowngradeInfo::default()));
    storage_version(&client, "3.7.0").await;
}
