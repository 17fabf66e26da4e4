//! Watch over the wire. (etcd API, Watch; the promises ordered, unique, reliable, atomic, resumable and bookmarkable of
//! etcd's API guarantees.)

mod server;

use server::{Server, soon};
use urd_client::{
    Client, Watcher,
    etcdserverpb::{watch_create_request::FilterType, *},
    mvccpb::{Event, event::EventType},
    op,
};

fn revision(response: &WatchResponse) -> i64 {
    response.header.as_ref().expect("a header").revision
}

fn create(key: &'static str, end: &'static str) -> WatchCreateRequest {
    WatchCreateRequest { key: key.into(), range_end: end.into(), ..Default::default() }
}

/// An event in a few letters: what, key, value, mod revision.
fn brief(event: &Event) -> String {
    let kv = event.kv.as_ref().expect("an event has a key");
    let what = if event.r#type() == EventType::Put { "+" } else { "-" };
    format!("{what}{}={}@{}", text(&kv.key), text(&kv.value), kv.mod_revision)
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

async fn next(watcher: &mut Watcher) -> WatchResponse {
    soon(watcher.next()).await.unwrap()
}

async fn created(watcher: &mut Watcher) -> i64 {
    let response = next(watcher).await;
    assert!(response.created && !response.canceled && response.events.is_empty(), "{response:?}");
    response.watch_id
}

/// As many events of one watch as are wanted, in a few letters each.
async fn events(watcher: &mut Watcher, count: usize) -> Vec<String> {
    let mut all = Vec::new();
    while all.len() < count {
        let response = next(watcher).await;
        assert!(!response.created && !response.canceled, "{response:?}");
        all.extend(response.events.iter().map(brief));
    }
    all
}

async fn script(client: &Client) {
    client.put("a", "1").await.unwrap(); // 2
    client.put("b", "1").await.unwrap(); // 3
    client.put("a", "2").await.unwrap(); // 4
    client.delete("a").await.unwrap(); // 5
    let txn = vec![op::put("a", "3"), op::put("c", "3"), op::delete("b")];
    client.call(&TxnRequest { success: txn, ..Default::default() }).await.unwrap(); // 6
}

const SCRIPTED: [&str; 7] = ["+a=1@2", "+b=1@3", "+a=2@4", "-a=@5", "+a=3@6", "+c=3@6", "-b=@6"];

#[tokio::test]
async fn live_and_past_events_are_the_same() {
    let server = Server::start().await;
    let client = server.client().await;
    let mut live = client.watch(vec![0], vec![0], 0).await.unwrap();
    script(&client).await;
    let live = {
        let mut all = Vec::new();
        let mut at = 1;
        while all.len() < SCRIPTED.len() {
            let response = next(&mut live).await;
            // The live path: one response a revision, told in its header.
            assert!(response.events.iter().all(|e| e.kv.as_ref().unwrap().mod_revision == revision(&response)));
            assert!(revision(&response) > at);
            at = revision(&response);
            all.extend(response.events.iter().map(brief));
        }
        all
    };
    assert_eq!(live, SCRIPTED);
    let mut past = client.watch(vec![0], vec![0], 1).await.unwrap();
    assert_eq!(events(&mut past, 7).await, SCRIPTED);
    for (from, skipped) in [(2, 0), (3, 1), (4, 2), (5, 3), (6, 4)] {
        let mut watcher = client.watch(vec![0], vec![0], from).await.unwrap();
        assert_eq!(events(&mut watcher, 7 - skipped).await, SCRIPTED[skipped..]);
    }
    let mut one = client.watch("a", "", 3).await.unwrap();
    assert_eq!(events(&mut one, 3).await, ["+a=2@4", "-a=@5", "+a=3@6"]);
    let mut range = client.watch("b", "c", 1).await.unwrap();
    assert_eq!(events(&mut range, 2).await, ["+b=1@3", "-b=@6"]);
}

#[tokio::test]
async fn a_delete_names_its_key_and_revision_only() {
    let server = Server::start().await;
    let client = server.client().await;
    let mut watcher = client.watcher().await.unwrap();
    watcher.create(WatchCreateRequest { prev_kv: true, ..create("a", "") }).unwrap();
    created(&mut watcher).await;
    script(&client).await;
    let mut seen = Vec::new();
    while seen.len() < 4 {
        seen.extend(next(&mut watcher).await.events);
    }
    let prev: Vec<Option<String>> = seen
        .iter()
        .map(|event| event.prev_kv.as_ref().map(|kv| format!("{}@{}", text(&kv.value), kv.mod_revision)))
        .collect();
    assert_eq!(prev, [None, Some("1@2".into()), Some("2@4".into()), None]);
    let delete = seen[2].kv.as_ref().unwrap();
    assert_eq!((delete.create_revision, delete.version, delete.lease, delete.value.len()), (0, 0, 0, 0));
    // The same from history.
    let mut past = client.watcher().await.unwrap();
    past.create(WatchCreateRequest { prev_kv: true, start_revision: 2, ..create("a", "") }).unwrap();
    created(&mut past).await;
    let mut again = Vec::new();
    while again.len() < 4 {
        again.extend(next(&mut past).await.events);
    }
    assert_eq!(again, seen);
}

#[tokio::test]
async fn a_stream_carries_many_watches_and_tells_them_apart() {
    let server = Server::start().await;
    let client = server.client().await;
    let mut watcher = client.watcher().await.unwrap();
    for request in
        [create("a", ""), create("b", ""), WatchCreateRequest { watch_id: 7, ..create("c", "") }, create("d", "")]
    {
        watcher.create(request).unwrap();
    }
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(created(&mut watcher).await);
    }
    assert_eq!(ids, [0, 1, 7, 2]);

    watcher.create(WatchCreateRequest { watch_id: 7, ..create("e", "") }).unwrap();
    let refused = next(&mut watcher).await;
    assert!(refused.created && refused.canceled);
    assert_eq!(
        (refused.watch_id, &refused.cancel_reason[..]),
        (-1, "mvcc: duplicate watch ID provided on the WatchStream")
    );
    watcher.create(create("b", "a")).unwrap();
    let refused = next(&mut watcher).await;
    assert!(refused.created && refused.canceled);
    assert_eq!((refused.watch_id, &refused.cancel_reason[..]), (-1, "mvcc: watcher range is empty"));
    watcher.create(WatchCreateRequest { start_revision: -1, ..create("b", "") }).unwrap();
    let refused = next(&mut watcher).await;
    assert!(refused.created && refused.canceled);
    assert_eq!(
        (refused.watch_id, &refused.cancel_reason[..], refused.compact_revision),
        (-1, "etcdserver: mvcc: required revision has been compacted", 0)
    );

    let txn = ["d", "c", "b", "a"].map(|key| op::put(key, "")).to_vec();
    client.call(&TxnRequest { success: txn, ..Default::default() }).await.unwrap();
    let mut seen = Vec::new();
    for _ in 0..4 {
        let response = next(&mut watcher).await;
        assert_eq!(response.events.len(), 1);
        seen.push((response.watch_id, brief(&response.events[0])));
    }
    seen.sort();
    assert_eq!(seen, [(0, "+a=@2".into()), (1, "+b=@2".into()), (2, "+d=@2".into()), (7, "+c=@2".into())]);

    watcher.cancel(99).unwrap();
    watcher.cancel(1).unwrap();
    let ended = next(&mut watcher).await;
    assert!(ended.canceled && !ended.created);
    assert_eq!((ended.watch_id, &ended.cancel_reason[..]), (1, ""));
    client.put("b", "unseen").await.unwrap();
    client.put("a", "seen").await.unwrap();
    let response = next(&mut watcher).await;
    assert_eq!((response.watch_id, brief(&response.events[0])), (0, "+a=seen@4".into()));
    // A freed id may be chosen again.
    watcher.create(WatchCreateRequest { watch_id: 1, ..create("b", "") }).unwrap();
    assert_eq!(created(&mut watcher).await, 1);
}

#[tokio::test]
async fn an_empty_key_and_a_zero_byte_mean_all_keys() {
    let server = Server::start().await;
    let client = server.client().await;
    let mut watcher = client.watcher().await.unwrap();
    watcher.create(create("", "\0")).unwrap();
    watcher.create(create("b", "\0")).unwrap();
    created(&mut watcher).await;
    created(&mut watcher).await;
    client.put("a", "").await.unwrap();
    client.put("c", "").await.unwrap();
    let mut seen = Vec::new();
    for _ in 0..3 {
        let response = next(&mut watcher).await;
        seen.push((response.watch_id, brief(&response.events[0])));
    }
    seen.sort();
    assert_eq!(seen, [(0, "+a=@2".into()), (0, "+c=@3".into()), (1, "+c=@3".into())]);
}

#[tokio::test]
async fn filters_keep_events_back() {
    let server = Server::start().await;
    let client = server.client().await;
    let mut puts = client.watcher().await.unwrap();
    puts.create(WatchCreateRequest { filters: vec![FilterType::Nodelete as i32], ..create("\0", "\0") }).unwrap();
    created(&mut puts).await;
    let mut deletes = client.watcher().await.unwrap();
    deletes.create(WatchCreateRequest { filters: vec![FilterType::Noput as i32], ..create("\0", "\0") }).unwrap();
    created(&mut deletes).await;
    script(&client).await;
    assert_eq!(events(&mut puts, 5).await, ["+a=1@2", "+b=1@3", "+a=2@4", "+a=3@6", "+c=3@6"]);
    assert_eq!(events(&mut deletes, 2).await, ["-a=@5", "-b=@6"]);
    let mut past = client.watcher().await.unwrap();
    past.create(WatchCreateRequest {
        filters: vec![FilterType::Noput as i32],
        start_revision: 1,
        ..create("\0", "\0")
    })
    .unwrap();
    created(&mut past).await;
    assert_eq!(events(&mut past, 2).await, ["-a=@5", "-b=@6"]);
}

#[tokio::test]
async fn a_watch_from_the_future_waits_for_it() {
    let server = Server::start().await;
    let client = server.client().await;
    let mut future = client.watch("a", "", 4).await.unwrap();
    script(&client).await;
    assert_eq!(events(&mut future, 3).await, ["+a=2@4", "-a=@5", "+a=3@6"]);
}

#[tokio::test]
async fn a_watch_from_before_compaction_is_ended_and_told_why() {
    let server = Server::start().await;
    let client = server.client().await;
    script(&client).await;
    client.call(&CompactionRequest { revision: 5, physical: true }).await.unwrap();
    let mut old = client.watch(vec![0], vec![0], 4).await.unwrap();
    let ended = next(&mut old).await;
    assert!(ended.canceled && !ended.created && ended.events.is_empty());
    assert_eq!((ended.compact_revision, revision(&ended), &ended.cancel_reason[..]), (5, 0, ""));
    // At the compacted revision itself: its events, a delete too.
    let mut kept = client.watch(vec![0], vec![0], 5).await.unwrap();
    assert_eq!(events(&mut kept, 4).await, SCRIPTED[3..]);
}

#[tokio::test]
async fn progress_comes_after_every_event_before_it() {
    let server = Server::start().await;
    let client = server.client().await;
    let mut watcher = client.watch("a", "", 0).await.unwrap();
    for i in 0..200 {
        client.put("a", i.to_string()).await.unwrap();
    }
    watcher.progress().unwrap();
    let mut at = 1;
    let progress = loop {
        let response = next(&mut watcher).await;
        if response.events.is_empty() {
            break response;
        }
        at = response.events.last().unwrap().kv.as_ref().unwrap().mod_revision;
    };
    assert_eq!((progress.watch_id, revision(&progress)), (-1, 201));
    assert_eq!(at, 201, "progress overtook an event");
}

#[tokio::test]
async fn a_quiet_watch_is_told_how_far_it_is() {
    let server = Server::start_with(&["--watch-progress-notify-interval=100ms"]).await;
    let client = server.client().await;
    let mut watcher = client.watcher().await.unwrap();
    watcher.create(WatchCreateRequest { progress_notify: true, ..create("a", "") }).unwrap();
    let id = created(&mut watcher).await;
    client.put("elsewhere", "").await.unwrap();
    loop {
        let response = next(&mut watcher).await;
        assert!(response.events.is_empty() && response.watch_id == id, "{response:?}");
        if revision(&response) == 2 {
            break;
        }
    }
}

#[tokio::test]
async fn a_response_too_large_comes_in_fragments_when_asked_for() {
    let server = Server::start().await;
    let client = server.client().await;
    for i in 0..6 {
        client.put(format!("k{i}"), vec![b'v'; 900_000]).await.unwrap();
    }
    let mut watcher = client.watcher().await.unwrap();
    watcher.create(WatchCreateRequest { fragment: true, start_revision: 1, ..create("k", "l") }).unwrap();
    created(&mut watcher).await;
    let mut seen = 0;
    let mut fragments = 0;
    while seen < 6 {
        let response = next(&mut watcher).await;
        seen += response.events.len();
        fragments += usize::from(response.fragment);
        assert!(seen < 6 || !response.fragment, "the last part says that another follows");
    }
    assert!(fragments > 0, "six values of 900,000 bytes need parts");
}

#[tokio::test]
async fn a_stream_goes_on_after_the_client_has_nothing_more_to_ask() {
    let server = Server::start().await;
    let client = server.client().await;
    let watcher = client.watch("a", "", 0).await.unwrap();
    watcher.sender.finish().unwrap();
    let mut receiver = watcher.receiver;
    client.put("a", "1").await.unwrap();
    assert_eq!(brief(&soon(receiver.expect()).await.unwrap().events[0]), "+a=1@2");
}

#[tokio::test]
async fn a_revoked_lease_is_seen_as_one_revision_of_deletes() {
    let server = Server::start().await;
    let client = server.client().await;
    let lease = client.grant(0, 600).await.unwrap().id;
    for key in ["z", "m", "a"] {
        client.call(&PutRequest { key: key.into(), lease, ..Default::default() }).await.unwrap();
    }
    let mut watcher = client.watch(vec![0], vec![0], 0).await.unwrap();
    client.revoke(lease).await.unwrap();
    let response = next(&mut watcher).await;
    assert_eq!(response.events.iter().map(brief).collect::<Vec<_>>(), ["-a=@5", "-m=@5", "-z=@5"]);
}
