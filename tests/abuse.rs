//! A whole server under clients that mean it harm, or behave as if: floods, silence, bombs. For each: its memory stays
//! within a bound that is said, a well-behaved client is answered all the while, new ones are let in, and once the others
//! are gone nothing of them is left: connections and requests are as many as before.

mod server;

use std::{
    io::Write,
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
    raw::{PREFACE, RawConnection, flag, header_block, kind},
};

const MIB: u64 = 1 << 20;

/// What is open, as the server itself counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Open {
    connections: u64,
    requests: u64,
    queued_bytes: u64,
}

/// From `/metrics`, asked on a connection of its own.
fn open(server: &Server) -> Open {
    use std::io::Read;
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

/// Lets `attack` do its worst while others want to be served. What it returns (connections, usually) is held until the
/// memory has been looked at. `growth_max`: bytes that the server may take for it.
async fn withstand<T: Send + 'static>(
    server: &Server,
    name: &str,
    growth_max: u64,
    attack: impl FnOnce(&str) -> T + Send + 'static,
) {
    let client = server.client().await;
    client.put("well", "behaved").await.unwrap();
    let before = open(server);
    let resident = server.resident_bytes();
    let address = server.address.clone();
    let over = Arc::new(AtomicBool::new(false));
    let says = over.clone();
    let attacking = tokio::task::spawn_blocking(move || {
        let held = attack(&address);
        says.store(true, Relaxed);
        held
    });
    let (mut answered, mut peak) = (0, resident);
    // And for a while after it is over and everything that was opened is still open.
    let mut rest = 100;
    while rest > 0 {
        soon(client.put("well", "behaved")).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        let found = soon(client.get("well")).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(found.kvs[0].value, "behaved");
        peak = peak.max(server.resident_bytes());
        answered += 1;
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

fn hello(address: &str) -> RawConnection {
    let mut raw = RawConnection::open(address, PATIENCE).expect("the server takes a connection");
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
    address: &str,
    mut each: impl FnMut(&mut RawConnection) -> std::io::Result<()>,
) -> Vec<RawConnection> {
    let mut held = Vec::new();
    for _ in 0..connections {
        let mut raw = hello(address);
        let _ = each(&mut raw);
        held.push(raw);
    }
    held
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

#[tokio::test]
async fn slow_writers_cost_what_they_have_sent() {
    let server = Server::start().await;
    withstand(&server, "half a preface", 16 * MIB, |address| {
        (0..300)
            .map(|number| {
                let mut raw = RawConnection::open(address, PATIENCE).unwrap();
                raw.write(&PREFACE[..number % PREFACE.len()]).unwrap();
                raw
            })
            .collect::<Vec<_>>()
    })
    .await;
    withstand(&server, "byte by byte", 16 * MIB, |address| {
        let mut held = flood(100, address, |_| Ok(()));
        let block = header_block(&[(":method", "POST"), (":scheme", "http"), (":path", PUT), ("te", "trailers")]);
        let head = [&(block.len() as u32).to_be_bytes()[1..], &[kind::HEADERS, flag::END_HEADERS, 0, 0, 0, 1], &block]
            .concat();
        for byte in &head[..head.len() - 1] {
            for raw in &mut held {
                raw.write(&[*byte]).unwrap();
            }
        }
        held
    })
    .await;
    // 300 messages of 1 MiB, of which half comes.
    withstand(&server, "half a message", 300 * MIB, |address| {
        flood(30, address, |raw| {
            for stream in (1..20).step_by(2) {
                raw.open_call(stream, PUT, &[])?;
                let half = [&[0][..], &(MIB as u32).to_be_bytes(), &vec![7; 500_000]].concat();
                for piece in half.chunks(16_384) {
                    raw.frame(kind::DATA, 0, stream, piece)?;
                }
            }
            Ok(())
        })
    })
    .await;
}

#[tokio::test]
async fn slow_readers_cost_one_answer_each() {
    let server = Server::start().await;
    let client = server.client().await;
    for key in 0..16 {
        client.put(format!("big{key:02}"), vec![7u8; 1 << 20]).await.unwrap();
    }
    // 20 answers of 16 MiB that nobody reads, and what encoding one of them takes for a moment.
    withstand(&server, "unread ranges", 20 * 16 * MIB + 64 * MIB, |address| {
        flood(20, address, |raw| {
            raw.open_call(1, RANGE, &[])?;
            raw.frame(kind::DATA, flag::END_STREAM, 1, &prefixed(b"\x0a\x03big\x12\x03bih"))
        })
    })
    .await;
    // Two hundred thousand small answers, into windows that are shut: the client is not asked for more than it takes.
    withstand(&server, "answers into shut windows", 64 * MIB, |address| {
        flood(10, address, |raw| {
            raw.frame(kind::SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0])?;
            for stream in (1..2000).step_by(2) {
                raw.open_call(stream, RANGE, &[])?;
                raw.frame(kind::DATA, flag::END_STREAM, stream, &prefixed(b"\x0a\x04well"))?;
            }
            Ok(())
        })
    })
    .await;
}

#[tokio::test]
async fn watches_that_nobody_reads_keep_a_place_and_no_events() {
    let server = Server::start().await;
    let writer = server.client().await;
    writer.put("k", "v").await.unwrap();
    let before = open(&server);
    let address = server.address.clone();
    let held = tokio::task::spawn_blocking(move || {
        flood(50, &address, |raw| {
            raw.open_call(1, WATCH, &[])?;
            // Everything from "k" on.
            raw.frame(kind::DATA, 0, 1, &prefixed(b"\x0a\x06\x0a\x01k\x12\x01\0"))
        })
    });
    let held = held.await.unwrap();
    let resident = server.resident_bytes();
    for key in 0..256 {
        soon(writer.put(format!("k{}", key % 7), vec![3u8; 512 * 1024])).await.unwrap();
    }
    let growth = server.resident_bytes() - resident;
    // Each stream its MiB; of the 128 MiB written those that are kept in memory; one response under construction.
    let bound = 50 * urd::limits::WATCH_STREAM_BYTES as u64 + urd::limits::LOG_RECENT_BYTES + 64 * MIB;
    println!("50 unread watches of 128 MiB of events: grew by {} KiB of {} allowed", growth / 1024, bound / 1024);
    assert!(growth <= bound, "{} MiB", growth / MIB);
    drop(held);
    let begin = Instant::now();
    while open(&server) != before {
        assert!(begin.elapsed() < PATIENCE, "{:?} is left", open(&server));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn resets_in_bursts_end_the_connection() {
    let server = Server::start().await;
    withstand(&server, "rapid resets", 32 * MIB, |address| {
        flood(20, address, |raw| {
            for stream in (1..20_000).step_by(2) {
                raw.open_call(stream, RANGE, &[])?;
                raw.frame(kind::RST_STREAM, 0, stream, &[0, 0, 0, 8])?;
            }
            Ok(())
        })
    })
    .await;
}

#[tokio::test]
async fn header_bombs_take_no_more_than_the_bound_of_headers() {
    let server = Server::start().await;
    let call = [(":method", "POST"), (":scheme", "http"), (":path", RANGE), ("te", "trailers")];
    // An entry of 4,000 bytes in the table, named by one byte thousands of times: 16 KiB that say they are 64 MiB.
    withstand(&server, "HPACK bombs", 32 * MIB, move |address| {
        flood(20, address, |raw| {
            let mut block = header_block(&call);
            block.extend([0x40, 1, b'x', 0x7f, 0xa1, 0x1e]);
            block.extend([b'y'; 4000]);
            block.resize(16_000, 0x80 | 62);
            (0..50)
                .try_for_each(|at| raw.frame(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, 1 + 2 * at, &block))
        })
    })
    .await;
    withstand(&server, "CONTINUATION floods", 32 * MIB, |address| {
        flood(20, address, |raw| {
            raw.frame(kind::HEADERS, 0, 1, &[])?;
            (0..1000).try_for_each(|_| raw.frame(kind::CONTINUATION, 0, 1, &[0x40; 16_000]))
        })
    })
    .await;
    withstand(&server, "empty CONTINUATIONs", 32 * MIB, |address| {
        flood(20, address, |raw| {
            raw.frame(kind::HEADERS, 0, 1, &[])?;
            (0..20_000).try_for_each(|_| raw.frame(kind::CONTINUATION, 0, 1, &[]))
        })
    })
    .await;
    withstand(&server, "thousands of headers", 32 * MIB, move |address| {
        flood(20, address, |raw| {
            let names: Vec<String> = (0..1500).map(|at| format!("x-{at}")).collect();
            let more = names.iter().map(|name| (name.as_str(), "v"));
            let block = header_block(&call.into_iter().chain(more).collect::<Vec<_>>());
            for stream in (1..100).step_by(2) {
                raw.frame(kind::HEADERS, 0, stream, &block[..10_000.min(block.len())])?;
                raw.frame(kind::CONTINUATION, flag::END_HEADERS, stream, &block[10_000.min(block.len())..])?;
            }
            Ok(())
        })
    })
    .await;
}

#[tokio::test]
async fn floods_of_small_frames_queue_no_answers() {
    let server = Server::start().await;
    withstand(&server, "pings", 32 * MIB, |address| {
        flood(10, address, |raw| (0..50_000).try_for_each(|_| raw.frame(kind::PING, 0, 0, &[1; 8])))
    })
    .await;
    withstand(&server, "settings", 32 * MIB, |address| {
        flood(10, address, |raw| (0..50_000).try_for_each(|_| raw.frame(kind::SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0])))
    })
    .await;
    withstand(&server, "empty DATA frames", 32 * MIB, |address| {
        flood(10, address, |raw| {
            raw.open_call(1, PUT, &[])?;
            (0..50_000).try_for_each(|_| raw.frame(kind::DATA, 0, 1, &[]))
        })
    })
    .await;
    withstand(&server, "windows", 32 * MIB, |address| {
        flood(10, address, |raw| {
            raw.open_call(1, PUT, &[])?;
            (0..50_000).try_for_each(|_| raw.frame(kind::WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]))
        })
    })
    .await;
}

#[tokio::test]
async fn a_gzip_bomb_is_refused_at_the_bound_of_requests() {
    let server = Server::start().await;
    // 256 MiB of zeros in 256 KiB.
    let mut bomb = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    (0..256).for_each(|_| bomb.write_all(&vec![0; 1 << 20]).unwrap());
    let bomb = bomb.finish().unwrap();
    assert!(bomb.len() < 300_000);
    let message = [&[1][..], &(bomb.len() as u32).to_be_bytes(), &bomb].concat();
    withstand(&server, "gzip bombs", 64 * MIB, move |address| {
        flood(20, address, |raw| {
            for stream in (1..10).step_by(2) {
                raw.open_call(stream, PUT, &[("grpc-encoding", "gzip")])?;
                for piece in message.chunks(16_384) {
                    raw.frame(kind::DATA, 0, stream, piece)?;
                }
            }
            // Refused, and the connection lives.
            let answer = raw.read_until(kind::HEADERS)?;
            assert!(answer.is_some(), "the connection was ended");
            Ok(())
        })
    })
    .await;
}

#[tokio::test]
async fn ten_thousand_streams_opened_and_left_cost_little_each() {
    let server = Server::start().await;
    const STREAMS: u64 = 10_000;
    withstand(&server, "streams left open", STREAMS * 10 * 1024, |address| {
        flood(10, address, |raw| {
            (0..STREAMS as u32 / 10)
                .try_for_each(|at| raw.open_call(1 + 2 * at, if at % 2 == 0 { WATCH } else { RANGE }, &[]))
        })
    })
    .await;
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
