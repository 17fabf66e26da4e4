//! Users, roles and tokens over the wire. (etcd API, Auth.)

mod server;

use std::time::Duration;

use server::{Server, refused, soon, users};
use urd::error;
use urd_client::{Client, authpb::permission::Type, etcdserverpb::*, op};

async fn auth_status(client: &Client) -> (bool, u64) {
    let status = client.call(&AuthStatusRequest {}).await.unwrap();
    (status.enabled, status.auth_revision)
}

fn prefix_put(key: &str, prev_kv: bool) -> PutRequest {
    PutRequest { key: key.to_owned().into(), prev_kv, ..Default::default() }
}

#[tokio::test]
async fn users_and_roles_are_managed_and_the_revision_counts_what_changes() {
    let server = Server::start_with(&[users::CHEAP]).await;
    let client = server.client().await;
    assert_eq!(auth_status(&client).await, (false, 1));
    refused(client.call(&AuthEnableRequest {}).await, &error::ROOT_USER_NOT_EXIST);
    refused(client.log_in("root", "x").await.map(drop), &error::AUTH_NOT_ENABLED);

    refused(client.add_user("", "x").await, &error::USER_EMPTY);
    let added = client.add_user("root", "secret").await.unwrap().header.unwrap();
    assert_eq!(added.revision, 1, "the store's revision, which users do not move");
    assert!(added.member_id != 0 && added.cluster_id != 0 && added.raft_term != 0);
    refused(client.add_user("root", "other").await, &error::USER_ALREADY_EXIST);
    refused(client.call(&AuthEnableRequest {}).await, &error::ROOT_ROLE_NOT_EXIST);
    refused(client.add_user("long", &"x".repeat(73)).await, &error::PASSWORD_TOO_LONG);
    assert_eq!(auth_status(&client).await.1, 2);

    refused(client.add_role("").await, &error::ROLE_EMPTY);
    client.add_role("r").await.unwrap();
    refused(client.add_role("r").await, &error::ROLE_ALREADY_EXIST);
    refused(client.grant_role("nobody", "r").await, &error::USER_NOT_FOUND);
    refused(client.grant_role("root", "none").await, &error::ROLE_NOT_FOUND);
    // Root's role need not be there to be granted.
    client.grant_role("root", "root").await.unwrap();
    client.grant_role("root", "r").await.unwrap();
    assert_eq!(auth_status(&client).await.1, 5);
    client.grant_role("root", "r").await.unwrap();
    assert_eq!(auth_status(&client).await.1, 5, "granted already: nothing has changed");
    let roles = client.call(&AuthUserGetRequest { name: "root".into() }).await.unwrap().roles;
    assert_eq!(roles, ["r", "root"]);
    refused(client.call(&AuthUserGetRequest { name: "x".into() }).await, &error::USER_NOT_FOUND);
    let revoke = |name: &str, role: &str| AuthUserRevokeRoleRequest { name: name.into(), role: role.into() };
    refused(client.call(&revoke("x", "r")).await, &error::USER_NOT_FOUND);
    refused(client.call(&revoke("root", "x")).await, &error::ROLE_NOT_GRANTED);
    client.call(&revoke("root", "r")).await.unwrap();
    client.add_user("ann", "x").await.unwrap();
    assert_eq!(client.call(&AuthUserListRequest {}).await.unwrap().users, ["ann", "root"]);
    client.call(&AuthUserDeleteRequest { name: "ann".into() }).await.unwrap();
    refused(client.call(&AuthUserDeleteRequest { name: "ann".into() }).await, &error::USER_NOT_FOUND);
    let change = AuthUserChangePasswordRequest { name: "ann".into(), password: "y".into(), ..Default::default() };
    refused(client.call(&change).await, &error::USER_NOT_FOUND);
    assert_eq!(auth_status(&client).await, (false, 8));
}

#[tokio::test]
async fn permissions_of_a_role() {
    let server = Server::start_with(&[users::CHEAP]).await;
    let client = server.client().await;
    client.add_role("r").await.unwrap();
    let nothing = AuthRoleGrantPermissionRequest { name: "r".into(), perm: None };
    refused(client.call(&nothing).await, &error::PERMISSION_NOT_GIVEN);
    for (key, end) in [("", ""), ("", "b"), ("b", "a"), ("b", "b")] {
        refused(client.permit("r", Type::Read, key, end).await, &error::INVALID_AUTH_MGMT);
    }
    refused(client.permit("none", Type::Read, "a", "").await, &error::ROLE_NOT_FOUND);
    for (kind, key, end) in [
        (Type::Read, "c", ""),
        (Type::Write, "a", "b"),
        (Type::Readwrite, "b", "\0"),
        (Type::Read, "a", ""),
        (Type::Readwrite, "a", "b"),
    ] {
        client.permit("r", kind, key, end).await.unwrap();
    }
    let told = client.call(&AuthRoleGetRequest { role: "r".into() }).await.unwrap();
    let told: Vec<(i32, &[u8], &[u8])> =
        told.perm.iter().map(|it| (it.perm_type, &it.key[..], &it.range_end[..])).collect();
    assert_eq!(told, [(2, &b"a"[..], &b"b"[..]), (0, b"a", b""), (2, b"b", b"\0"), (0, b"c", b"")]);
    let revoke = |role: &str, key: &'static str, end: &'static str| AuthRoleRevokePermissionRequest {
        role: role.into(),
        key: key.into(),
        range_end: end.into(),
    };
    refused(client.call(&revoke("x", "a", "")).await, &error::ROLE_NOT_FOUND);
    refused(client.call(&revoke("r", "a", "c")).await, &error::PERMISSION_NOT_GRANTED);
    client.call(&revoke("r", "a", "")).await.unwrap();
    assert_eq!(client.call(&AuthRoleGetRequest { role: "r".into() }).await.unwrap().perm.len(), 3);
    refused(client.call(&AuthRoleGetRequest { role: "root".into() }).await, &error::ROLE_NOT_FOUND);
    client.add_role("root").await.unwrap();
    let root = client.call(&AuthRoleGetRequest { role: "root".into() }).await.unwrap();
    let [all] = &root.perm[..] else { panic!("{root:?}") };
    assert_eq!((all.perm_type, &all.key[..], &all.range_end[..]), (2, &b""[..], &b"\0"[..]));
    assert_eq!(client.call(&AuthRoleListRequest {}).await.unwrap().roles, ["r", "root"]);

    client.add_user("ann", "x").await.unwrap();
    client.grant_role("ann", "r").await.unwrap();
    client.call(&AuthRoleDeleteRequest { role: "r".into() }).await.unwrap();
    refused(client.call(&AuthRoleDeleteRequest { role: "r".into() }).await, &error::ROLE_NOT_FOUND);
    assert!(client.call(&AuthUserGetRequest { name: "ann".into() }).await.unwrap().roles.is_empty());
}

#[tokio::test]
async fn root_stays_root_while_users_are_asked_for() {
    let server = Server::start_with(&[users::CHEAP]).await;
    let client = server.client().await;
    let root = users::enable(&client).await;
    assert_eq!(auth_status(&client).await, (true, 3), "turning it on is no change");
    root.call(&AuthEnableRequest {}).await.unwrap();
    let revoke = AuthUserRevokeRoleRequest { name: "root".into(), role: "root".into() };
    refused(root.call(&revoke).await, &error::INVALID_AUTH_MGMT);
    refused(root.call(&AuthUserDeleteRequest { name: "root".into() }).await, &error::INVALID_AUTH_MGMT);
    refused(root.call(&AuthRoleDeleteRequest { role: "root".into() }).await, &error::INVALID_AUTH_MGMT);

    refused(client.call(&AuthDisableRequest {}).await, &error::USER_EMPTY);
    root.call(&AuthDisableRequest {}).await.unwrap();
    assert_eq!(auth_status(&client).await, (false, 4));
    client.call(&AuthDisableRequest {}).await.unwrap();
    assert_eq!(auth_status(&client).await, (false, 4));
    client.put("k", "v").await.unwrap();
    // A token of before is none any more.
    client.call(&AuthEnableRequest {}).await.unwrap();
    refused(root.put("k", "v").await, &error::INVALID_AUTH_TOKEN);
}

#[tokio::test]
async fn passwords_are_proven_and_tokens_go_with_them() {
    let server = Server::start_with(&[users::CHEAP]).await;
    let client = server.client().await;
    let no_password = AuthUserAddRequest {
        name: "cert".into(),
        password: "ignored".into(),
        options: Some(urd_client::authpb::UserAddOptions { no_password: true }),
        ..Default::default()
    };
    client.call(&no_password).await.unwrap();
    users::add(&client, "ann", &[(Type::Readwrite, "a", "b")]).await;
    let root = users::enable(&client).await;
    refused(client.log_in("nobody", "pw").await.map(drop), &error::AUTH_FAILED);
    refused(client.log_in("ann", "wrong").await.map(drop), &error::AUTH_FAILED);
    refused(client.log_in("cert", "ignored").await.map(drop), &error::NO_PASSWORD_USER);
    let request = AuthenticateRequest { name: "ann".into(), password: "pw".into() };
    let token = client.call(&request).await.unwrap().token;
    let (letters, index) = token.split_once('.').expect("letters and an index");
    assert!(letters.len() == 16 && letters.bytes().all(|letter| letter.is_ascii_alphabetic()), "{token}");
    assert!(index.parse::<u64>().unwrap() > 5, "{token}");
    for shown in [client.with_metadata("token", &token), client.with_metadata("authorization", &token)] {
        shown.put("a", "v").await.unwrap();
    }
    let bearer = client.with_metadata("authorization", &format!("Bearer {token}"));
    bearer.put("a", "v").await.unwrap();
    // The first of the two that is there counts.
    refused(bearer.with_metadata("token", "x.1").put("a", "v").await, &error::INVALID_AUTH_TOKEN);

    // Another's password voids another's tokens only.
    let change =
        |name: &str| AuthUserChangePasswordRequest { name: name.into(), password: "new".into(), ..Default::default() };
    root.call(&change("cert")).await.unwrap();
    refused(client.log_in("cert", "new").await.map(drop), &error::NO_PASSWORD_USER);
    bearer.get("a").await.unwrap();
    root.call(&change("ann")).await.unwrap();
    refused(bearer.get("a").await, &error::INVALID_AUTH_TOKEN);
    refused(client.log_in("ann", "pw").await.map(drop), &error::AUTH_FAILED);
    let ann = client.log_in("ann", "new").await.unwrap();
    ann.get("a").await.unwrap();
    root.call(&AuthUserDeleteRequest { name: "ann".into() }).await.unwrap();
    refused(ann.get("a").await, &error::INVALID_AUTH_TOKEN);
    root.get("a").await.unwrap();
    // An empty password that is set is none that anybody could know.
    client.add_user("x", "").await.map(drop).unwrap_err();
    root.add_user("ben", "pw").await.unwrap();
    let empty = AuthUserChangePasswordRequest { name: "ben".into(), ..Default::default() };
    root.call(&empty).await.unwrap();
    refused(client.log_in("ben", "").await.map(drop), &error::AUTH_FAILED);
    root.add_user("eve", "").await.unwrap();
    client.log_in("eve", "").await.unwrap();
}

#[tokio::test]
async fn keys_are_permitted_by_the_interval() {
    let server = Server::start_with(&[users::CHEAP]).await;
    let client = server.client().await;
    let permitted =
        [(Type::Readwrite, "a", "b"), (Type::Readwrite, "b", "c"), (Type::Read, "r", ""), (Type::Write, "w", "\0")];
    users::add(&client, "ann", &permitted).await;
    client.put("r", "1").await.unwrap();
    let root = users::enable(&client).await;
    let ann = client.log_in("ann", "pw").await.unwrap();
    let denied = &error::PERMISSION_DENIED;

    ann.put("a", "v").await.unwrap();
    ann.put("bzz", "v").await.unwrap();
    refused(ann.put("c", "v").await, denied);
    ann.range("a", "c").await.unwrap();
    refused(ann.range("a", "c\0").await, denied);
    refused(ann.range("a", "\0").await, denied);
    // A range that ends before it begins: its first key counts, as of one key.
    ann.range("b", "a").await.unwrap();
    refused(ann.range("d", "a").await, denied);
    ann.get("r").await.unwrap();
    refused(ann.put("r", "2").await, denied);
    refused(ann.range("r", "r\0\0").await, denied);
    ann.put("w", "v").await.unwrap();
    refused(ann.get("w").await, denied);
    refused(ann.call(&prefix_put("w", true)).await, denied);
    ann.call(&prefix_put("a", true)).await.unwrap();
    ann.delete_range("x", "\0").await.unwrap();
    let with_prev = DeleteRangeRequest { key: "x".into(), prev_kv: true, ..Default::default() };
    refused(ann.call(&with_prev).await, denied);
    for serializable in [false, true] {
        let range = RangeRequest { key: "c".into(), serializable, ..Default::default() };
        refused(ann.call(&range).await, denied);
        let success = vec![op::of(request_op::Request::RequestRange(range.clone()))];
        refused(ann.call(&TxnRequest { success, ..Default::default() }).await, denied);
        refused(client.call(&range).await, &error::USER_EMPTY);
        let mut chunks = ann.range_stream(&range).await.unwrap();
        refused(soon(chunks.next()).await, denied);
    }
    // Both branches count, whichever is taken.
    let txn = TxnRequest { success: vec![op::get("a")], failure: vec![op::get("c")], ..Default::default() };
    refused(ann.call(&txn).await, denied);
    let txn = TxnRequest { success: vec![op::txn(txn)], ..Default::default() };
    refused(ann.call(&txn).await, denied);
    root.call(&txn).await.unwrap();
    // One's own may be looked at.
    assert_eq!(ann.call(&AuthUserGetRequest { name: "ann".into() }).await.unwrap().roles, ["ann"]);
    refused(ann.call(&AuthUserGetRequest { name: "root".into() }).await, denied);
    assert_eq!(ann.call(&AuthRoleGetRequest { role: "ann".into() }).await.unwrap().perm.len(), 4);
    refused(ann.call(&AuthRoleGetRequest { role: "root".into() }).await, denied);

    // What is granted and taken counts at once, with the token of before.
    root.permit("ann", Type::Read, "c", "").await.unwrap();
    ann.get("c").await.unwrap();
    let take = AuthRoleRevokePermissionRequest { role: "ann".into(), key: "a".into(), range_end: "b".into() };
    root.call(&take).await.unwrap();
    refused(ann.put("a", "v").await, denied);
    ann.put("b", "v").await.unwrap();
}

#[tokio::test]
async fn nothing_that_is_refused_is_logged() {
    let server = Server::start_with(&[users::CHEAP]).await;
    let client = server.client().await;
    let root = users::enable(&client).await;
    let before = root.status().await.unwrap().raft_index;
    for _ in 0..20 {
        refused(client.put("k", "v").await, &error::USER_EMPTY);
        refused(client.call(&AuthUserListRequest {}).await, &error::USER_EMPTY);
        refused(client.with_metadata("token", "x.1").put("k", "v").await, &error::INVALID_AUTH_TOKEN);
    }
    let after = root.status().await.unwrap().raft_index;
    assert!(after == before || server::is_reference(), "{before} {after}");
}

#[tokio::test]
async fn a_token_lives_while_it_is_used() {
    let server = Server::start_with(&[users::CHEAP, "--auth-token-ttl=3"]).await;
    let client = server.client().await;
    let root = users::enable(&client).await;
    let idle = client.log_in("root", "root").await.unwrap();
    let mut watcher = idle.watcher().await.unwrap();
    watcher.create(WatchCreateRequest { key: "k".into(), ..Default::default() }).unwrap();
    assert!(soon(watcher.next()).await.unwrap().created);
    for _ in 0..12 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        root.get("k").await.unwrap();
    }
    refused(idle.get("k").await, &error::INVALID_AUTH_TOKEN);
    // The watch of then goes on; another is not made.
    root.put("k", "v").await.unwrap();
    assert_eq!(soon(watcher.next()).await.unwrap().events.len(), 1);
    watcher.create(WatchCreateRequest { key: "k".into(), ..Default::default() }).unwrap();
    let canceled = soon(watcher.next()).await.unwrap();
    assert!(canceled.created && canceled.canceled && canceled.watch_id == -1);
    assert_eq!(canceled.cancel_reason, error::INVALID_AUTH_TOKEN.to_string());
    let mut alive = idle.stream::<LeaseKeepAliveRequest>().await.unwrap();
    alive.0.send(&LeaseKeepAliveRequest { id: 1 }).unwrap();
    refused(soon(alive.1.next()).await, &error::INVALID_AUTH_TOKEN);
}

#[tokio::test]
async fn users_outlive_stops_and_kills_and_tokens_do_not() {
    let mut server = Server::start_with(&[users::CHEAP]).await;
    let client = server.client().await;
    users::add(&client, "ann", &[(Type::Readwrite, "a", "b")]).await;
    client.grant(1, 2).await.unwrap();
    client.grant(2, 600).await.unwrap();
    client.call(&PutRequest { key: "short".into(), lease: 1, ..Default::default() }).await.unwrap();
    let root = users::enable(&client).await;
    let ann = client.log_in("ann", "pw").await.unwrap();
    ann.put("a", "v").await.unwrap();
    let hash = root.call(&HashRequest {}).await.unwrap().hash;
    let token = client.call(&AuthenticateRequest { name: "ann".into(), password: "pw".into() }).await.unwrap().token;
    for crash in [true, false, true] {
        match crash {
            true => server.kill(),
            false => assert!(server::ended_well(server.terminate())),
        }
        server.spawn();
        // The usual way to ask whether it is ready is to read a key.
        let client = loop {
            if let Ok(client) = Client::connect(&server.address).await
                && client.call(&AuthStatusRequest {}).await.is_ok()
            {
                break client;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        assert_eq!(auth_status(&client).await, (true, 7));
        refused(client.put("a", "v").await, &error::USER_EMPTY);
        // The reference makes some of them anew, of the entries that it applies again.
        if !server::is_reference() {
            let before = client.with_metadata("token", &token);
            refused(before.put("a", "v").await, &error::INVALID_AUTH_TOKEN);
        }
        let ann = client.log_in("ann", "pw").await.unwrap();
        ann.put("a", "v").await.unwrap();
        refused(ann.put("c", "v").await, &error::PERMISSION_DENIED);
        let root = client.log_in("root", "root").await.unwrap();
        assert_eq!(root.call(&AuthUserListRequest {}).await.unwrap().users, ["ann", "root"]);
        assert_ne!(root.call(&HashRequest {}).await.unwrap().hash, hash, "ann has put since");
    }
    // A lease that runs out takes its keys whoever put them.
    let client = server.client().await;
    let root = client.log_in("root", "root").await.unwrap();
    soon(async {
        while root.get("short").await.unwrap().count > 0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    assert!(root.time_to_live(2, false).await.unwrap().ttl > 0);
}

#[tokio::test]
async fn the_revision_is_among_the_metrics() {
    let server = Server::start_with(&[users::CHEAP]).await;
    let client = server.client().await;
    assert_eq!(users::metric(&server, "etcd_debugging_auth_revision").await, 1.0);
    users::enable(&client).await;
    assert_eq!(users::metric(&server, "etcd_debugging_auth_revision").await, 3.0);
}

#[tokio::test]
async fn a_token_is_known_to_every_shard_at_once() {
    let shards = std::thread::available_parallelism().map_or(1, |cores| cores.get().min(2));
    let flag = format!("--shards={shards}");
    let flags: &[&str] = if server::is_reference() { &[users::CHEAP] } else { &[users::CHEAP, &flag] };
    let server = Server::start_with(flags).await;
    let client = server.client().await;
    let root = users::enable(&client).await;
    let mut connections = Vec::new();
    for _ in 0..6 {
        connections.push(server.client().await);
    }
    for round in 0..20 {
        let name = format!("user{round}");
        root.add_user(&name, "pw").await.unwrap();
        let request = AuthenticateRequest { name: name.clone(), password: "pw".into() };
        let token = connections[round % 6].call(&request).await.unwrap().token;
        for connection in &connections {
            let own = connection.with_metadata("token", &token);
            own.call(&AuthUserGetRequest { name: name.clone() }).await.unwrap();
            refused(own.get("k").await, &error::PERMISSION_DENIED);
        }
        root.call(&AuthUserDeleteRequest { name: name.clone() }).await.unwrap();
        for connection in &connections {
            refused(connection.with_metadata("token", &token).get("k").await, &error::INVALID_AUTH_TOKEN);
        }
    }
}

/// A flag for signed tokens with one of the tests' keys.
fn signed(method: &str, options: &str) -> String {
    let keys = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/keys");
    format!("--auth-token=jwt,sign-method={method},{}", options.replace("KEYS", keys))
}

#[tokio::test]
async fn a_signed_token_is_of_one_revision_and_outlives_the_process() {
    let flag = signed("ES512", "priv-key=KEYS/ec521.pem,pub-key=KEYS/ec521-pub.pem,ttl=1h");
    let mut server = Server::start_with(&[users::CHEAP, &flag]).await;
    let client = server.client().await;
    users::add(&client, "ann", &[(Type::Readwrite, "a", "b")]).await;
    let root = users::enable(&client).await;
    let ann = client.log_in("ann", "pw").await.unwrap();
    ann.put("a", "v").await.unwrap();
    refused(ann.put("c", "v").await, &error::PERMISSION_DENIED);

    // Any change makes it old, but not for what root alone may, which is asked of the user only.
    root.add_role("r").await.unwrap();
    refused(ann.put("a", "v").await, &error::AUTH_OLD_REVISION);
    refused(root.put("a", "v").await, &error::AUTH_OLD_REVISION);
    refused(root.get("a").await, &error::AUTH_OLD_REVISION);
    let serializable = RangeRequest { key: "a".into(), serializable: true, ..Default::default() };
    refused(root.call(&serializable).await, &error::AUTH_OLD_REVISION);
    let mut watcher = ann.watcher().await.unwrap();
    watcher.create(WatchCreateRequest { key: "a".into(), ..Default::default() }).unwrap();
    assert_eq!(soon(watcher.next()).await.unwrap().cancel_reason, error::AUTH_OLD_REVISION.to_string());
    root.call(&AuthUserListRequest {}).await.unwrap();
    root.status().await.unwrap();

    let token = client.call(&AuthenticateRequest { name: "ann".into(), password: "pw".into() }).await.unwrap().token;
    assert_eq!(token.split('.').count(), 3);
    let ann = client.with_metadata("authorization", &format!("Bearer {token}"));
    ann.put("a", "v").await.unwrap();
    server.kill();
    server.spawn();
    let ann = soon(async {
        loop {
            if let Ok(client) = Client::connect(&server.address).await {
                let ann = client.with_metadata("token", &token);
                if ann.get("a").await.is_ok() {
                    return ann;
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    ann.put("a", "v").await.unwrap();
    // One that was changed on its way.
    let forged = token.replacen(&token[token.len() - 10..], "AAAAAAAAAA", 1);
    let client = server.client().await;
    refused(client.with_metadata("token", &forged).get("a").await, &error::INVALID_AUTH_TOKEN);
}

#[tokio::test]
async fn who_can_only_verify_gives_no_tokens_and_ended_ones_do_not_count() {
    let server = Server::start_with(&[users::CHEAP, &signed("RS256", "pub-key=KEYS/rsa-cert.pem")]).await;
    let client = server.client().await;
    client.add_user("root", "root").await.unwrap();
    client.grant_role("root", "root").await.unwrap();
    client.call(&AuthEnableRequest {}).await.unwrap();
    refused(client.log_in("root", "wrong").await.map(drop), &error::AUTH_FAILED);
    refused(client.log_in("root", "root").await.map(drop), &error::VERIFY_ONLY_KEY);

    let server = Server::start_with(&[users::CHEAP, &signed("HS256", "priv-key=KEYS/ed.pem,ttl=2s")]).await;
    let root = users::enable(&server.client().await).await;
    root.get("k").await.unwrap();
    let mut refusal = None;
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        refusal = root.get("k").await.err();
        if refusal.is_some() {
            break;
        }
    }
    assert!(refusal.is_some_and(|error| error.is(&error::INVALID_AUTH_TOKEN)));
}

#[tokio::test]
async fn tokens_that_cannot_be_made_are_refused_at_the_start() {
    for option in ["complex", "jwt", "jwt,sign-method=RS256", "jwt,sign-method=RS256,priv-key=/none", "simple,x"] {
        let mut server = Server::prepare(&[&format!("--auth-token={option}")]);
        server.spawn();
        assert!(!server.wait().success(), "{option}");
        assert!(server.log().contains("auth: "), "{option}: {}", server.log());
    }
    let server = Server::start_with(&[users::CHEAP, "--auth-token="]).await;
    let client = server.client().await;
    client.add_user("root", "root").await.unwrap();
    client.grant_role("root", "root").await.unwrap();
    client.call(&AuthEnableRequest {}).await.unwrap();
    refused(client.log_in("root", "root").await.map(drop), &error::AUTH_FAILED);
    refused(client.with_metadata("token", "x.1").get("k").await, &error::INVALID_AUTH_TOKEN);
}
