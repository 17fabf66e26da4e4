//! How much the server takes, and in which words it refuses more. (etcd: --max-request-bytes, --max-txn-ops,
//! --quota-backend-bytes; the system limits of its documentation.)

mod server;

use std::time::Duration;

use server::{PATIENCE, Server, refused, soon};
use urd::error::{self, Code};
use urd_client::{
    Client, Error,
    etcdserverpb::{alarm_request::AlarmAction, *},
    op,
    raw::{RawConnection, flag, kind},
};

fn all(count: usize, op: impl Fn(usize) -> RequestOp) -> TxnRequest {
    TxnRequest { success: (0..count).map(op).collect(), ..Default::default() }
}

#[tokio::test]
async fn a_value_of_full_size_goes_through_and_one_byte_more_does_not() {
    let server = Server::start().await;
    let client = server.client().await;
    let whole = 1536 * 1024;
    // The request as it is logged counts, not the value alone: look for the edge between what fits for certain and
    // what cannot.
    let put = async |size: usize| client.put("k", vec![b'v'; size]).await;
    put(whole - 1024).await.unwrap();
    let (mut fits, mut too_large) = (whole - 1024, whole + 1);
    while fits + 1 < too_large {
        let middle = (fits + too_large) / 2;
        match put(middle).await {
            Ok(_) => fits = middle,
            Err(error) => {
                assert!(error.is(&error::REQUEST_TOO_LARGE), "{error}");
                too_large = middle;
            }
        }
    }
    assert!(whole - fits < 64, "the envelope around {fits} bytes is {} bytes", whole - fits);
    let value = client.get("k").await.unwrap().kvs.remove(0).value;
    assert_eq!(value.len(), fits);
    // Beyond what the gRPC layer itself takes the refusal is its own.
    let limit = whole + 512 * 1024;
    let huge = client.put("k", vec![b'v'; limit]).await.unwrap_err();
    assert_eq!(huge.code(), Some(Code::ResourceExhausted));
    assert!(huge.message().starts_with("grpc: received message larger than max ("), "{huge}");
    assert!(huge.message().ends_with(&format!(" vs. {limit})")), "{huge}");
    client.put("k", "still here").await.unwrap();
}

#[tokio::test]
async fn a_transaction_has_128_operations_and_no_more() {
    let server = Server::start().await;
    let client = server.client().await;
    let put = |i: usize| op::put(format!("k{i}"), "v");
    let answer = client.call(&all(128, put)).await.unwrap();
    assert_eq!((answer.responses.len(), answer.header.unwrap().revision), (128, 2));
    refused(client.call(&all(129, put)).await, &error::TOO_MANY_OPS);
    let compare = (0..129).map(|i| op::version(format!("k{i}"), 0)).collect();
    refused(client.call(&TxnRequest { compare, ..Default::default() }).await, &error::TOO_MANY_OPS);
    let nested = |inner: usize| all(1, |_| op::txn(all(inner, put)));
    assert!(client.call(&nested(127)).await.unwrap().succeeded);
    refused(client.call(&nested(128)).await, &error::TOO_MANY_OPS);
    let mut deep = all(1, put);
    for _ in 0..200 {
        deep = all(1, |_| op::txn(deep.clone()));
    }
    let refusal = client.call(&deep).await.unwrap_err();
    assert!(refusal.code().is_some(), "nesting without end is refused, not fatal: {refusal}");
    assert_eq!(client.get("k0").await.unwrap().count, 1);
}

#[tokio::test]
async fn a_hundred_thousand_keys_go_in_one_request() {
    let server = Server::start().await;
    let client = server.client().await;
    const KEYS: usize = 100_000;
    fill(&client, KEYS).await;
    let before = client.range("k", "l").await.unwrap();
    assert_eq!((before.count, before.kvs.len()), (KEYS as i64, KEYS));
    let mut watcher = client.watch("k", "l", 0).await.unwrap();
    let revision = before.header.unwrap().revision;
    let gone = client.delete_range("k", "l").await.unwrap();
    assert_eq!((gone.deleted, gone.header.unwrap().revision), (KEYS as i64, revision + 1));
    let after = client.range("k", "l").await.unwrap();
    assert_eq!((after.count, after.header.unwrap().revision), (0, revision + 1));
    // One revision, so one response.
    let response = soon(watcher.next()).await.unwrap();
    assert_eq!(response.events.len(), KEYS);
    assert!(response.events.is_sorted_by_key(|event| event.kv.as_ref().unwrap().key.clone()));
}

/// As many keys as that, in transactions of 100.
async fn fill(client: &Client, keys: usize) {
    let mut tasks = Vec::new();
    for worker in 0..20 {
        let client = client.clone();
        tasks.push(tokio::spawn(async move {
            for batch in (worker..keys / 100).step_by(20) {
                client.call(&all(100, |i| op::put(format!("k{:06}", batch * 100 + i), "v"))).await.unwrap();
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
}

#[tokio::test]
async fn a_full_store_is_emptied_by_the_runbook() {
    let server = Server::start_with(&["--quota-backend-bytes=33554432"]).await;
    let client = server.client().await;
    assert_eq!(client.status().await.unwrap().db_size_quota, 33_554_432);
    let mut written = 0;
    let refusal = loop {
        match client.put("k", vec![b'v'; 1 << 20]).await {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
        assert!(written <= 40, "the quota of 32 MiB was not enforced");
    };
    assert!(refusal.is(&error::NO_SPACE), "{refusal}");
    assert!(written >= 16, "refused after {written} MiB of 32");
    refused(client.put("small", "v").await, &error::NO_SPACE);
    refused(client.grant(5, 60).await, &error::NO_SPACE);
    let get = AlarmRequest { action: AlarmAction::Get as i32, ..Default::default() };
    let alarms = soon(async {
        loop {
            let alarms = client.call(&get).await.unwrap().alarms;
            if !alarms.is_empty() {
                return alarms;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!((alarms.len(), alarms[0].alarm()), (1, AlarmType::Nospace));
    // Reading and deleting go on.
    let now = client.get("k").await.unwrap();
    assert_eq!(now.count, 1);
    client.delete("absent").await.unwrap();

    client.call(&CompactionRequest { revision: now.header.unwrap().revision, physical: true }).await.unwrap();
    client.call(&DefragmentRequest {}).await.unwrap();
    let status = client.status().await.unwrap();
    assert!(status.db_size < 16 << 20, "defragment gave nothing back: {} bytes", status.db_size);
    refused(client.put("k", "v").await, &error::NO_SPACE);
    let disarm = AlarmRequest {
        action: AlarmAction::Deactivate as i32,
        alarm: AlarmType::Nospace as i32,
        member_id: alarms[0].member_id,
    };
    client.call(&disarm).await.unwrap();
    client.put("k", vec![b'v'; 1 << 20]).await.unwrap();
    assert_eq!(client.get("k").await.unwrap().kvs[0].value.len(), 1 << 20);
}

#[tokio::test]
async fn hostile_bytes_end_their_own_connection_and_no_other() {
    let server = Server::start().await;
    let client = server.client().await;
    client.put("k", "v").await.unwrap();
    let open = || RawConnection::open(&server.address, PATIENCE).unwrap();
    // Each must leave the server well; how the connection itself ends is its own affair.
    type Attack<'a> = &'a dyn Fn(&mut RawConnection) -> std::io::Result<()>;
    let garbage: [Attack; 7] = [
        &|raw| raw.write(&[0xff; 4096]),
        &|raw| raw.write(b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n"),
        // A frame longer than any setting allows.
        &|raw| raw.hello().and_then(|()| raw.frame(kind::SETTINGS, 0, 0, &vec![0; 60_000])),
        // Data on a stream that is not open.
        &|raw| raw.hello().and_then(|()| raw.frame(kind::DATA, 0, 1, b"early")),
        // Headers that never end.
        &|raw| {
            raw.hello()?;
            raw.frame(kind::HEADERS, 0, 1, &[])?;
            (0..2000).try_for_each(|_| raw.frame(kind::CONTINUATION, 0, 1, &[0x40; 16_000]))
        },
        // Streams opened and reset at once.
        &|raw| {
            raw.hello()?;
            (0..5000).try_for_each(|i| {
                raw.open_call(1 + 2 * i, "/etcdserverpb.KV/Range", &[])?;
                raw.frame(kind::RST_STREAM, 0, 1 + 2 * i, &[0, 0, 0, 8])
            })
        },
        // A message that says it is 4 GiB long.
        &|raw| {
            raw.hello()?;
            raw.open_call(1, "/etcdserverpb.KV/Put", &[])?;
            raw.frame(kind::DATA, flag::END_STREAM, 1, &[0, 0xff, 0xff, 0xff, 0xff, 1, 2, 3])
        },
    ];
    for (at, send) in garbage.iter().enumerate() {
        let mut raw = open();
        // The server may close before all is sent.
        let _ = send(&mut raw);
        let again = soon(client.get("k")).await.unwrap_or_else(|error: Error| panic!("after {at}: {error}"));
        assert_eq!(again.count, 1);
    }
    let fresh = server.client().await;
    assert_eq!(soon(fresh.get("k")).await.unwrap().count, 1);
    assert!(server.resident_bytes() < 512 << 20, "{} bytes resident", server.resident_bytes());
}
