//! Ranges of few keys were answered whole, however large their values, and an answer waited in memory until it was read: a
//! client that asked a hundred times for sixteen MiB and read nothing cost 1.6 GiB.

use urd_client::raw::{RawConnection, flag, kind};

use crate::server::{PATIENCE, Server, soon};

const MIB: u64 = 1 << 20;

#[tokio::test]
async fn a_client_that_does_not_read_gets_no_more_answers_made() {
    let server = Server::start().await;
    let client = server.client().await;
    for key in 0..16 {
        client.put(format!("big{key:02}"), vec![7u8; 1 << 20]).await.unwrap();
    }
    let before = server.resident_bytes();
    let address = server.address.clone();
    let asked = tokio::task::spawn_blocking(move || {
        let mut raw = RawConnection::open(&address, PATIENCE).unwrap();
        raw.hello().unwrap();
        for at in 0..100u32 {
            raw.open_call(1 + 2 * at, "/etcdserverpb.KV/Range", &[]).unwrap();
            // Everything that begins with "big".
            raw.frame(kind::DATA, flag::END_STREAM, 1 + 2 * at, b"\0\0\0\0\x0a\x0a\x03big\x12\x03bih").unwrap();
        }
        raw
    });
    let held = soon(asked).await.unwrap();
    // All of them have come by the time that a thousand others have been answered behind them.
    for _ in 0..1000 {
        assert_eq!(soon(client.get("big00")).await.unwrap().count, 1);
    }
    let growth = server.resident_bytes().saturating_sub(before);
    assert!(growth < 256 * MIB, "{} MiB", growth / MIB);
    drop(held);
}
