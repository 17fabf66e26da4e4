//! Many watches, many streams, and clients that do not read. (etcd API, Watch: reliable; DESIGN of the watch table: a
//! slow watcher holds a position, never a queue.)

mod server;

use server::{Server, is_reference, soon};
use urd_client::{Client, Options, Watcher, etcdserverpb::*, op};

async fn put_in_bulk(client: &Client, prefix: &'static str, transactions: usize, each: usize) {
    let mut tasks = Vec::new();
    for worker in 0..16 {
        let client = client.clone();
        tasks.push(tokio::spawn(async move {
            for batch in (worker..transactions).step_by(16) {
                let success = (0..each).map(|i| op::put(format!("{prefix}{i:03}"), format!("{batch:0100}"))).collect();
                client.call(&TxnRequest { success, ..Default::default() }).await.unwrap();
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
}

#[tokio::test]
async fn ten_thousand_watches_are_created_in_one_flight() {
    const WATCHES: usize = 10_000;
    let server = Server::start().await;
    let client = server.client().await;
    let mut watcher = client.watcher().await.unwrap();
    for i in 0..WATCHES {
        watcher.create(WatchCreateRequest { key: format!("k{i}").into(), ..Default::default() }).unwrap();
    }
    for i in 0..WATCHES {
        let response = soon(watcher.next()).await.unwrap();
        assert!(response.created && !response.canceled);
        assert_eq!(response.watch_id, i as i64);
    }
    // Each hears of its own key and of no other.
    for i in [0, 1, 4_999, WATCHES - 1] {
        let revision = client.put(format!("k{i}"), "v").await.unwrap().header.unwrap().revision;
        let response = soon(watcher.next()).await.unwrap();
        let kv = response.events[0].kv.as_ref().unwrap();
        assert_eq!((response.watch_id, response.events.len(), kv.mod_revision), (i as i64, 1, revision));
    }
    for i in 0..WATCHES {
        watcher.cancel(i as i64).unwrap();
    }
    for _ in 0..WATCHES {
        assert!(soon(watcher.next()).await.unwrap().canceled);
    }
}

#[tokio::test]
async fn one_event_reaches_a_thousand_streams() {
    const STREAMS: usize = 1_000;
    let server = Server::start().await;
    let client = server.client().await;
    let mut watchers: Vec<Watcher> = Vec::new();
    for _ in 0..STREAMS {
        watchers.push(client.watch("k", "l", 0).await.unwrap());
    }
    for i in 0..3 {
        client.put("k", i.to_string()).await.unwrap();
    }
    for watcher in &mut watchers {
        let mut revisions = Vec::new();
        while revisions.len() < 3 {
            let response = soon(watcher.next()).await.unwrap();
            revisions.extend(response.events.iter().map(|event| event.kv.as_ref().unwrap().mod_revision));
        }
        assert_eq!(revisions, [2, 3, 4]);
    }
}

/// The events pass while nobody reads: the server's memory must not grow with what the client leaves unread. Its store
/// grows with what is written, so the same writes are measured once without the watch.
#[tokio::test]
async fn a_client_that_does_not_read_costs_no_memory_and_misses_nothing() {
    const TRANSACTIONS: usize = 1_000;
    const EACH: usize = 100;
    let mut growths = Vec::new();
    for watching in [false, true] {
        let server = Server::start().await;
        let writer = server.client().await;
        // Small windows, but room for all streams: what one leaves unread is not to hold up another.
        let small = Options { stream_window: 65_535, connection_window: 4 << 20 };
        let reader = Client::connect_with(&server.address, small).await.unwrap();
        let mut watchers = Vec::new();
        if watching {
            for _ in 0..20 {
                watchers.push(reader.watch("k", "l", 0).await.unwrap());
            }
        }
        let before = server.resident_bytes();
        put_in_bulk(&writer, "k", TRANSACTIONS, EACH).await;
        growths.push(server.resident_bytes().saturating_sub(before));
        // They catch up: every event, once, in order.
        for watcher in &mut watchers {
            let (mut events, mut last) = (0, 1);
            while events < TRANSACTIONS * EACH {
                let response = soon(watcher.next()).await.unwrap();
                assert!(!response.canceled, "{response:?}");
                for revision in response
                    .events
                    .chunk_by(|a, b| a.kv.as_ref().unwrap().mod_revision == b.kv.as_ref().unwrap().mod_revision)
                {
                    assert_eq!(revision[0].kv.as_ref().unwrap().mod_revision, last + 1);
                    assert_eq!(revision.len(), EACH);
                    last += 1;
                }
                events += response.events.len();
            }
            assert_eq!(events, TRANSACTIONS * EACH);
        }
    }
    println!("resident memory grew by {} bytes unwatched, {} watched", growths[0], growths[1]);
    // 20 streams of 100,000 events of some 150 bytes each would be 300 MB if they were queued. The reference, whose
    // garbage collector decides when memory is given back, is not held to it.
    let allowed = growths[0] + (64 << 20);
    assert!(is_reference() || growths[1] <= allowed, "{growths:?}");
}

#[tokio::test]
async fn watches_and_requests_share_a_connection_fairly() {
    let server = Server::start().await;
    let client = server.client().await;
    // A stream whose window is full must not keep the connection's other calls waiting.
    let small = Options { stream_window: 65_535, connection_window: 1 << 20 };
    let shared = Client::connect_with(&server.address, small).await.unwrap();
    let mut unread = shared.watch("k", "l", 0).await.unwrap();
    put_in_bulk(&client, "k", 100, 100).await;
    for i in 0..50 {
        soon(shared.put("other", i.to_string())).await.unwrap();
    }
    let mut events = 0;
    while events < 10_000 {
        events += soon(unread.next()).await.unwrap().events.len();
    }
    assert_eq!(events, 10_000);
}
