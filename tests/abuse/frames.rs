//! HTTP/2 by clients without manners, plain and within TLS.

use std::{
    io::Write,
    time::{Duration, Instant},
};

use urd_client::raw::{PREFACE, flag, header_block, kind};

use super::{MIB, PUT, RANGE, WATCH, flood, open, prefixed, put_large, sent_away, ways, withstand};
use crate::server::{PATIENCE, soon};

#[tokio::test]
async fn slow_writers_cost_what_they_have_sent() {
    let (server, ways) = ways::start().await;
    withstand(&server, &ways, "half a preface", 16 * MIB, |way| {
        (0..300)
            .map(|number| {
                let mut raw = way.open();
                raw.write(&PREFACE[..number % PREFACE.len()]).unwrap();
                raw
            })
            .collect::<Vec<_>>()
    })
    .await;
    withstand(&server, &ways, "byte by byte", 16 * MIB, |way| {
        let mut held = flood(100, way, |_| Ok(()));
        let block = header_block(&[
            (":method", "POST"),
            (":scheme", "http"),
            (":path", PUT),
            (":authority", "x"),
            ("te", "trailers"),
        ]);
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
    withstand(&server, &ways, "half a message", 300 * MIB, |way| {
        flood(30, way, |raw| {
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
async fn slow_readers_cost_a_piece_each() {
    let (server, ways) = ways::start().await;
    let client = server.client().await;
    put_large(&client).await;
    // 20 answers of 16 MiB that nobody reads, made in pieces: each is the smaller, the more there are.
    withstand(&server, &ways, "unread ranges", 4 * urd::limits::LISTINGS_BYTES as u64 + 64 * MIB, |way| {
        flood(20, way, |raw| {
            raw.open_call(1, RANGE, &[])?;
            raw.frame(kind::DATA, flag::END_STREAM, 1, &prefixed(b"\x0a\x03big\x12\x03bih"))
        })
    })
    .await;
    // Two hundred thousand small answers, into windows that are shut: the client is not asked for more than it takes.
    withstand(&server, &ways, "answers into shut windows", 64 * MIB, |way| {
        flood(10, way, |raw| {
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
    let (server, ways) = ways::start().await;
    let writer = server.client().await;
    writer.put("k", "v").await.unwrap();
    let before = open(&server);
    let way = ways[0].clone();
    let held = tokio::task::spawn_blocking(move || {
        flood(50, &way, |raw| {
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
async fn rapid_resets_leave_nothing() {
    let (server, ways) = ways::start().await;
    withstand(&server, &ways, "rapid resets", 32 * MIB, |way| {
        flood(20, way, |raw| {
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
    let (server, ways) = ways::start().await;
    let call = [(":method", "POST"), (":scheme", "http"), (":path", RANGE), (":authority", "x"), ("te", "trailers")];
    // An entry of 4,000 bytes in the table, named by one byte thousands of times: 16 KiB that say they are 64 MiB.
    withstand(&server, &ways, "HPACK bombs", 32 * MIB, move |way| {
        flood(20, way, |raw| {
            let mut block = header_block(&call);
            block.extend([0x40, 1, b'x', 0x7f, 0xa1, 0x1e]);
            block.extend([b'y'; 4000]);
            block.resize(16_000, 0x80 | 62);
            (0..50)
                .try_for_each(|at| raw.frame(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, 1 + 2 * at, &block))
        })
    })
    .await;
    withstand(&server, &ways, "CONTINUATION floods", 32 * MIB, |way| {
        let mut held = flood(20, way, |raw| {
            raw.frame(kind::HEADERS, 0, 1, &[])?;
            (0..1000).try_for_each(|_| raw.frame(kind::CONTINUATION, 0, 1, &[0x40; 16_000]))
        });
        held.iter_mut().for_each(sent_away);
        held
    })
    .await;
    withstand(&server, &ways, "empty CONTINUATIONs", 32 * MIB, |way| {
        let mut held = flood(20, way, |raw| {
            raw.frame(kind::HEADERS, 0, 1, &[])?;
            (0..20_000).try_for_each(|_| raw.frame(kind::CONTINUATION, 0, 1, &[]))
        });
        held.iter_mut().for_each(sent_away);
        held
    })
    .await;
    withstand(&server, &ways, "thousands of headers", 32 * MIB, move |way| {
        flood(20, way, |raw| {
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
    let (server, ways) = ways::start().await;
    withstand(&server, &ways, "pings", 32 * MIB, |way| {
        let mut held = flood(10, way, |raw| (0..30_000).try_for_each(|_| raw.frame(kind::PING, 0, 0, &[1; 8])));
        held.iter_mut().for_each(sent_away);
        held
    })
    .await;
    withstand(&server, &ways, "settings", 32 * MIB, |way| {
        flood(10, way, |raw| (0..30_000).try_for_each(|_| raw.frame(kind::SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0])))
    })
    .await;
    withstand(&server, &ways, "empty DATA frames", 32 * MIB, |way| {
        let mut held = flood(10, way, |raw| {
            raw.open_call(1, PUT, &[])?;
            (0..30_000).try_for_each(|_| raw.frame(kind::DATA, 0, 1, &[]))
        });
        held.iter_mut().for_each(sent_away);
        held
    })
    .await;
    withstand(&server, &ways, "windows", 32 * MIB, |way| {
        flood(10, way, |raw| {
            raw.open_call(1, PUT, &[])?;
            (0..30_000).try_for_each(|_| raw.frame(kind::WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]))
        })
    })
    .await;
}

#[tokio::test]
async fn a_gzip_bomb_is_refused_at_the_bound_of_requests() {
    let (server, ways) = ways::start().await;
    // 256 MiB of zeros in 256 KiB.
    let mut bomb = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    (0..256).for_each(|_| bomb.write_all(&vec![0; 1 << 20]).unwrap());
    let bomb = bomb.finish().unwrap();
    assert!(bomb.len() < 300_000);
    let message = [&[1][..], &(bomb.len() as u32).to_be_bytes(), &bomb].concat();
    withstand(&server, &ways, "gzip bombs", 64 * MIB, move |way| {
        flood(20, way, |raw| {
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
    let (server, ways) = ways::start().await;
    const STREAMS: u64 = 10_000;
    withstand(&server, &ways, "streams left open", STREAMS * 10 * 1024, |way| {
        flood(10, way, |raw| {
            (0..STREAMS as u32 / 10)
                .try_for_each(|at| raw.open_call(1 + 2 * at, if at % 2 == 0 { WATCH } else { RANGE }, &[]))
        })
    })
    .await;
}
