//! A whole server under clients that mean it harm, or behave as if: floods, silence, bombs. For each: its memory stays
//! within a bound that is said, a well-behaved client is answered all the while, new ones are let in, and once the others
//! are gone nothing of them is left: connections and requests are as many as before. By each way in that takes them.
//! (`docs/operations.md`, "Clients that mean harm", has the list.)

mod frames;
mod handshakes;
mod http1;
#[path = "../server/mod.rs"]
mod server;
mod streams;
mod ways;

use std::{
    io::{self, ErrorKind},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use server::{PATIENCE, Server, is_reference, soon};
use urd_client::{
    Client,
    raw::{RawConnection, flag, kind},
};
use ways::Way;

const MIB: u64 = 1 << 20;

/// What is open, as the server itself counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Open {
    connections: u64,
    requests: u64,
    queued_bytes: u64,
}

/// Sixteen keys, `big00` and so on, of one MiB each.
async fn put_large(client: &Client) {
    for key in 0..16 {
        client.put(format!("big{key:02}"), vec![7u8; 1 << 20]).await.unwrap();
    }
}

/// From `/metrics`, asked on a connection of its own.
fn open(server: &Server) -> Open {
    use std::io::{Read, Write};
    let mut socket = std::net::TcpStream::connect(&server.address).expect("the server takes a connection");
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    socket.read_to_string(&mut text).expect("metrics are told");
    let sum = |name: &str| {
        let lines = text.lines().filter(|line| line.starts_with(name));
        let values = lines.map(|line| line.rsplit_once(' ').and_then(|(_, value)| value.parse::<f64>().ok()));
        values.map(|value| value.expect("a number")).sum::<f64>() as u64
    };
    Open {
        connections: sum("urd_shard_connections{"),
        requests: sum("urd_shard_requests{"),
        queued_bytes: sum("urd_shard_queued_bytes{"),
    }
}

/// Lets `attack` do its worst by each of the ways in while others want to be served. What it returns (connections, usually)
/// is held until the memory has been looked at. `growth_max`: bytes that the server may take for it.
async fn withstand<T: Send + 'static>(
    server: &Server,
    ways: &[Way],
    name: &str,
    growth_max: u64,
    attack: impl FnOnce(&Way) -> T + Clone + Send + 'static,
) {
    for way in ways {
        withstand_by(server, way, name, growth_max, attack.clone()).await;
    }
}

async fn withstand_by<T: Send + 'static>(
    server: &Server,
    way: &Way,
    name: &str,
    growth_max: u64,
    attack: impl FnOnce(&Way) -> T + Send + 'static,
) {
    let name = &format!("{name}, {way}");
    let client = server.client().await;
    client.put("well", "behaved").await.unwrap();
    let before = open(server);
    let resident = server.resident_bytes();
    let way = way.clone();
    let over = Arc::new(AtomicBool::new(false));
    let says = over.clone();
    let attacking = tokio::task::spawn_blocking(move || {
        let held = attack(&way);
        says.store(true, Relaxed);
        held
    });
    let (mut answered, mut peak) = (0, resident);
    // And for a while after it is over and everything that was opened is still open.
    let mut rest = 40;
    while rest > 0 {
        soon(client.put("well", "behaved")).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        let found = soon(client.get("well")).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(found.kvs[0].value, "behaved");
        peak = peak.max(server.resident_bytes());
        answered += 1;
        // Its own puts go into segments of the log, which are in memory for a while: they are not to count.
        tokio::time::sleep(Duration::from_millis(5)).await;
        rest -= i32::from(over.load(Relaxed) || attacking.is_finished());
    }
    let held = attacking.await.unwrap_or_else(|panic| panic!("{name}: {panic}"));
    assert_eq!(soon(server.client().await.get("well")).await.unwrap().count, 1, "{name}: a new client");
    drop(held);
    let begin = Instant::now();
    loop {
        let now = open(server);
        if now == before {
            break;
        }
        assert!(begin.elapsed() < PATIENCE, "{name}: {now:?} is left, there was {before:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let growth = peak - resident;
    println!(
        "{name}: grew by {} KiB of {} allowed, {answered} rounds of a well-behaved client meanwhile",
        growth / 1024,
        growth_max / 1024
    );
    assert!(growth <= growth_max, "{name}: grew by {} MiB", growth / MIB);
    assert_eq!(soon(client.get("well")).await.unwrap().count, 1);
}

fn hello(way: &Way) -> RawConnection {
    let mut raw = way.open();
    let mut greet = || {
        raw.hello()?;
        // Or the server's windows stay as small as they are at first, and what is meant as a flood is a mere mistake.
        raw.read_until(kind::SETTINGS)?;
        raw.frame(kind::SETTINGS, flag::ACK, 0, &[])?;
        raw.read_until(kind::WINDOW_UPDATE).map(drop)
    };
    greet().expect("it listens");
    raw
}

/// As many as there may be: what is sent when the server has closed is not an error of the attacker's.
fn flood(
    connections: usize,
    way: &Way,
    mut each: impl FnMut(&mut RawConnection) -> std::io::Result<()>,
) -> Vec<RawConnection> {
    let mut held = Vec::new();
    for _ in 0..connections {
        let mut raw = hello(way);
        let _ = each(&mut raw);
        held.push(raw);
    }
    held
}

/// The error with which the server says that the connection ends.
fn goes_away(raw: &mut RawConnection) -> io::Result<[u8; 4]> {
    let told = raw.read_until(kind::GOAWAY)?.ok_or(ErrorKind::UnexpectedEof)?;
    Ok(told.payload[4..8].try_into().unwrap())
}

/// It has been ended for what it did, though it may have broken off before it could be told.
fn sent_away(raw: &mut RawConnection) {
    /// RFC 9113, section 7.
    const ENHANCE_YOUR_CALM: [u8; 4] = [0, 0, 0, 11];
    match goes_away(raw) {
        Ok(reason) => assert_eq!(reason, ENHANCE_YOUR_CALM),
        Err(cause) => assert_ne!(cause.kind(), ErrorKind::WouldBlock, "it goes on"),
    }
}

const RANGE: &str = "/etcdserverpb.KV/Range";
const PUT: &str = "/etcdserverpb.KV/Put";
const WATCH: &str = "/etcdserverpb.Watch/Watch";

/// A message with its prefix.
fn prefixed(message: &[u8]) -> Vec<u8> {
    [&[0], &(message.len() as u32).to_be_bytes()[..], message].concat()
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_and_hurt_nobody() {
    if is_reference() {
        return;
    }
    const FILES: usize = 400;
    const SEATS: usize = FILES - urd::limits::RESERVED_FILE_DESCRIPTORS as usize;
    let mut server = Server::prepare(&[]);
    server.spawn_as(|command| {
        let mut limited = Command::new("sh");
        limited.arg("-c").arg(format!("ulimit -n {FILES} && exec \"$0\" \"$@\""));
        limited.arg(command.get_program()).args(command.get_args());
        limited
    });
    assert!(server.is_ready().await);
    let client = server.client().await;
    client.put("k", "v").await.unwrap();
    let resident = server.resident_bytes();
    let address = server.address.clone();
    let flooding = tokio::task::spawn_blocking(move || {
        let connect = || {
            let mut raw = RawConnection::open(&address, PATIENCE).ok()?;
            raw.hello().ok()?;
            Some(raw)
        };
        (0..2 * FILES).map_while(|_| connect()).collect::<Vec<_>>()
    });
    let flood = soon(flooding).await.unwrap();
    assert!(flood.len() > SEATS, "{} of {SEATS}", flood.len());
    for _ in 0..500 {
        assert_eq!(soon(client.get("k")).await.unwrap().count, 1);
    }
    let growth = server.resident_bytes() - resident;
    println!("{} connections on {SEATS} seats: grew by {} KiB", flood.len(), growth / 1024);
    assert!(growth < SEATS as u64 * 64 * 1024, "{growth}");
    drop(flood);
    // Seats are free again.
    assert_eq!(soon(async { soon(server.client()).await.get("k").await }).await.unwrap().count, 1);
    let begin = Instant::now();
    // The one that asks, and the two clients.
    while open(&server).connections > 3 {
        assert!(begin.elapsed() < PATIENCE, "{:?} is left", open(&server));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// So that the other tests' clients are what they seem.
#[tokio::test]
async fn what_is_open_is_counted() {
    let server = Server::start().await;
    let client: Client = server.client().await;
    client.put("k", "v").await.unwrap();
    let (_requests, mut replies) = client.stream::<urd_client::etcdserverpb::WatchRequest>().await.unwrap();
    let begin = Instant::now();
    while open(&server).requests != 1 {
        assert!(begin.elapsed() < PATIENCE, "{:?}", open(&server));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(open(&server).connections >= 2);
    assert!(tokio::time::timeout(Duration::from_millis(1), replies.next()).await.is_err());
}
