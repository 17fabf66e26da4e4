//! Streams of HTTP/2 that are opened, broken and left: what each may cost, how many there may be, and what becomes of them.

use std::io::{self, ErrorKind};

use urd_client::raw::{RawConnection, RawFrame, flag, header_block, kind};

use super::{MIB, PUT, RANGE, WATCH, flood, goes_away, hello, prefixed, put_large, sent_away, ways, withstand};
use crate::server::soon;

const TXN: &str = "/etcdserverpb.KV/Txn";
/// RFC 9113, section 7.
const PROTOCOL_ERROR: [u8; 4] = [0, 0, 0, 1];
const FLOW_CONTROL_ERROR: [u8; 4] = [0, 0, 0, 3];
const REFUSED_STREAM: [u8; 4] = [0, 0, 0, 7];

/// Skips what other streams are told.
fn until_stream(raw: &mut RawConnection, kind: u8, stream: u32) -> io::Result<RawFrame> {
    loop {
        let frame = raw.read_until(kind)?.ok_or(ErrorKind::UnexpectedEof)?;
        if frame.stream == stream {
            return Ok(frame);
        }
    }
}

/// The status of a call, whether it comes in a head alone or behind a message. They are spelt without a table.
fn status_of(raw: &mut RawConnection, stream: u32) -> String {
    loop {
        let head = until_stream(raw, kind::HEADERS, stream).expect("an answer");
        let text = String::from_utf8_lossy(&head.payload).into_owned();
        if let Some((_, status)) = text.split_once("grpc-status") {
            return status[1..].to_owned();
        }
    }
}

fn request(raw: &mut RawConnection, stream: u32, method: &str, path: &str, ended: bool) -> io::Result<()> {
    let fields = [(":method", method), (":scheme", "https"), (":path", path), (":authority", "x")];
    let end = if ended { flag::END_STREAM } else { 0 };
    raw.frame(kind::HEADERS, flag::END_HEADERS | end, stream, &header_block(&fields))
}

/// MadeYouReset (CVE-2025-8671): frames that make the server reset the stream, and so forget that it is there.
#[tokio::test]
async fn resets_that_the_server_is_made_to_send_end_the_connection() {
    let (server, ways) = ways::start().await;
    withstand(&server, &ways, "resets provoked", 32 * MIB, |way| {
        let mut held = flood(4, way, |raw| {
            for at in 0..20_000u32 {
                let stream = 1 + 2 * at;
                raw.open_call(stream, WATCH, &[])?;
                match at % 3 {
                    // A window that is opened by nothing, one beyond its bound, a priority too short.
                    0 => raw.frame(kind::WINDOW_UPDATE, 0, stream, &[0; 4])?,
                    1 => raw.frame(kind::WINDOW_UPDATE, 0, stream, &[0x7f, 0xff, 0xff, 0xff])?,
                    _ => raw.frame(kind::PRIORITY, 0, stream, &[0; 4])?,
                }
            }
            Ok(())
        });
        held.iter_mut().for_each(sent_away);
        held
    })
    .await;
}

#[tokio::test]
async fn calls_begun_and_reset_leave_nothing() {
    let (server, ways) = ways::start().await;
    // Slowly enough that each has begun, so that no bound on bursts ends it: 20,000 calls, a hundred at a time.
    withstand(&server, &ways, "resets at leisure", 32 * MIB, |way| {
        flood(2, way, |raw| {
            raw.frame(kind::WINDOW_UPDATE, 0, 0, &[0x3f, 0, 0, 0])?;
            for at in 0..10_000u32 {
                raw.open_call(1 + 2 * at, WATCH, &[])?;
                raw.frame(kind::DATA, 0, 1 + 2 * at, &prefixed(b"\x0a\x03\x0a\x01k"))?;
                if at >= 100 {
                    raw.frame(kind::RST_STREAM, 0, 1 + 2 * (at - 100), &[0, 0, 0, 8])?;
                }
                if at % 100 == 0 {
                    // The answer to the watch: all before it have begun as well.
                    until_stream(raw, kind::DATA, 1 + 2 * at)?;
                }
            }
            Ok(())
        })
    })
    .await;
}

#[tokio::test]
async fn there_are_so_many_streams_of_a_connection_and_no_more() {
    let (server, ways) = ways::start().await;
    const MORE: u32 = urd::limits::GRPC_STREAMS_MAX + 1000;
    withstand(&server, &ways, "streams without end", 160 * MIB, |way| {
        let mut raw = hello(way);
        for at in 0..MORE {
            raw.open_call(1 + 2 * at, WATCH, &[]).unwrap();
        }
        let refused = raw.read_until(kind::RST_STREAM).unwrap().unwrap();
        assert_eq!(
            (refused.stream, &refused.payload[..]),
            (1 + 2 * urd::limits::GRPC_STREAMS_MAX, &REFUSED_STREAM[..])
        );
        raw
    })
    .await;
}

#[tokio::test]
async fn windows_beyond_their_bound_are_refused_and_small_ones_borne() {
    let (server, ways) = ways::start().await;
    let client = server.client().await;
    client.put("big", vec![7u8; 1 << 20]).await.unwrap();
    withstand(&server, &ways, "windows beyond their bound", 16 * MIB, |way| {
        let mut held = flood(10, way, |raw| raw.frame(kind::WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]));
        held.iter_mut().for_each(|raw| assert_eq!(goes_away(raw).unwrap(), FLOW_CONTROL_ERROR));
        let more = flood(10, way, |raw| {
            raw.open_call(1, WATCH, &[])?;
            // The first window of its streams, which has been opened already.
            raw.frame(kind::WINDOW_UPDATE, 0, 1, &[0, 0xff, 0, 0])?;
            raw.frame(kind::SETTINGS, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff])
        });
        held.extend(more);
        held.iter_mut().skip(10).for_each(|raw| assert_eq!(goes_away(raw).unwrap(), FLOW_CONTROL_ERROR));
        let mut none = flood(10, way, |raw| raw.frame(kind::WINDOW_UPDATE, 0, 0, &[0; 4]));
        none.iter_mut().for_each(|raw| assert_eq!(goes_away(raw).unwrap(), PROTOCOL_ERROR));
        held
    })
    .await;
    // A MiB, asked for by the byte: as much comes as has been let.
    withstand(&server, &ways, "windows of a byte", 32 * MIB, |way| {
        let mut held = flood(10, way, |raw| {
            raw.frame(kind::SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0])?;
            raw.open_call(1, RANGE, &[])?;
            raw.frame(kind::DATA, flag::END_STREAM, 1, &prefixed(b"\x0a\x03big"))?;
            (0..2000).try_for_each(|_| raw.frame(kind::WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]))
        });
        for raw in &mut held {
            let mut bytes = 0;
            while bytes < 2000 {
                bytes += until_stream(raw, kind::DATA, 1).unwrap().payload.len();
            }
            assert_eq!(bytes, 2000);
        }
        held
    })
    .await;
}

/// Sixty bytes may ask for many MiB. Who does not read the first answers gets no more of them made.
#[tokio::test]
async fn answers_that_nobody_reads_are_made_when_there_is_room() {
    let (server, ways) = ways::start().await;
    let client = server.client().await;
    put_large(&client).await;
    // What may wait in whole, and one more; pieces of those that are made in pieces.
    let bound = urd::limits::GRPC_UNREAD_BYTES as u64 + 4 * urd::limits::LISTINGS_BYTES as u64 + 32 * MIB;
    let single = b"\x0a\x05big00";
    let many = b"\x0a\x03big\x12\x03bih";
    let sorted = b"\x0a\x03big\x12\x03bih\x28\x02\x30\x04";
    for (name, question) in [("one value", &single[..]), ("sixteen", &many[..]), ("sixteen, sorted", &sorted[..])] {
        withstand(&server, &ways, &format!("unread answers of {name}"), bound, move |way| {
            flood(1, way, |raw| {
                for at in 0..500u32 {
                    raw.open_call(1 + 2 * at, RANGE, &[])?;
                    raw.frame(kind::DATA, flag::END_STREAM, 1 + 2 * at, &prefixed(question))?;
                }
                Ok(())
            })
        })
        .await;
    }
    // And who reads at last gets them all.
    let mut held = hello(&ways[0]);
    let answered = tokio::task::spawn_blocking(move || {
        for at in 0..100u32 {
            held.open_call(1 + 2 * at, RANGE, &[]).unwrap();
            held.frame(kind::DATA, flag::END_STREAM, 1 + 2 * at, &prefixed(single)).unwrap();
        }
        std::thread::sleep(std::time::Duration::from_millis(200));
        held.frame(kind::SETTINGS, 0, 0, &[0, 4, 0x40, 0, 0, 0]).unwrap();
        held.frame(kind::WINDOW_UPDATE, 0, 0, &[0x40, 0, 0, 0]).unwrap();
        let mut ended = 0;
        while ended < 100 {
            let frame = held.read_frame().unwrap().expect("it goes on");
            ended += u32::from(frame.kind == kind::HEADERS && frame.flags & flag::END_STREAM != 0);
        }
        ended
    });
    assert_eq!(soon(answered).await.unwrap(), 100);
}

#[tokio::test]
async fn messages_that_are_none_are_refused_with_a_status() {
    let (server, ways) = ways::start().await;
    // Put of "k", with 200,000 fields that nobody knows.
    let mut unknown = b"\x0a\x01k".to_vec();
    (0..200_000).for_each(|_| unknown.extend([0xf8, 0x07, 0x01]));
    // 2,000 groups within one another.
    let groups = [[0xfb, 0x07].repeat(2_000), [0xfc, 0x07].repeat(2_000)].concat();
    // A transaction within a transaction, 5,000 times.
    let mut nested = Vec::new();
    for _ in 0..5_000 {
        nested = within(0x12, &within(0x22, &nested));
    }
    let large = |len: u32| [&[0][..], &len.to_be_bytes(), b"and no more"].concat();
    let cases: Vec<(&str, &str, Vec<u8>, &str)> = vec![
        ("2 GiB less one", PUT, large(i32::MAX as u32), "8"),
        ("4 GiB less one", PUT, large(u32::MAX), "8"),
        ("compressed, with no word of how", PUT, [&[1, 0, 0, 0, 3][..], b"\x0a\x01k"].concat(), "13"),
        ("a flag of no meaning", PUT, [&[7, 0, 0, 0, 3][..], b"\x0a\x01k"].concat(), "13"),
        ("fields unknown", PUT, prefixed(&unknown), "0"),
        ("groups within groups", PUT, prefixed(&groups), "13"),
        ("transactions within transactions", TXN, prefixed(&nested), "13"),
        ("no UTF-8", "/etcdserverpb.Auth/UserGet", prefixed(b"\x0a\x02\xff\xfe"), "13"),
        ("a length beyond its message", PUT, prefixed(b"\x0a\xff\xff\xff\xff\x0f"), "13"),
        ("a number of eleven bytes", PUT, prefixed(&[0x18, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1]), "13"),
    ];
    for (name, path, message, code) in cases {
        withstand(&server, &ways, name, 64 * MIB, move |way| {
            let mut held = flood(5, way, |raw| {
                for at in 0..5 {
                    raw.open_call(1 + 2 * at, path, &[])?;
                    let mut pieces = message.chunks(16_384).peekable();
                    while let Some(piece) = pieces.next() {
                        let end = if pieces.peek().is_none() { flag::END_STREAM } else { 0 };
                        raw.frame(kind::DATA, end, 1 + 2 * at, piece)?;
                    }
                }
                Ok(())
            });
            for raw in &mut held {
                let status = status_of(raw, 1);
                assert!(status.starts_with(code), "{name}: {status}");
            }
            held
        })
        .await;
    }
}

/// A field of a message: key, length, contents.
fn within(key: u8, contents: &[u8]) -> Vec<u8> {
    let mut out = vec![key];
    let mut rest = contents.len();
    while rest >= 128 {
        out.push(rest as u8 | 128);
        rest >>= 7;
    }
    out.push(rest as u8);
    out.extend(contents);
    out
}

#[tokio::test]
async fn priorities_farewells_and_frames_of_no_kind_change_nothing() {
    let (server, ways) = ways::start().await;
    for (name, kind_of, stream, payload) in [
        ("priorities", kind::PRIORITY, 1001, &[0, 0, 0, 3, 255][..]),
        ("farewells", kind::GOAWAY, 0, &[0; 8][..]),
        ("frames of no kind", 99, 7, &[1; 100][..]),
    ] {
        withstand(&server, &ways, name, 16 * MIB, move |way| {
            let mut held = flood(5, way, |raw| (0..20_000).try_for_each(|_| raw.frame(kind_of, 0, stream, payload)));
            // The connection serves on.
            for raw in &mut held {
                raw.open_call(1, RANGE, &[]).unwrap();
                raw.frame(kind::DATA, flag::END_STREAM, 1, &prefixed(b"\x0a\x04well")).unwrap();
                assert!(status_of(raw, 1).starts_with('0'));
            }
            held
        })
        .await;
    }
}

/// Requests that are not gRPC have a bound of their own on a connection within TLS.
#[tokio::test]
async fn so_many_requests_within_tls_and_the_next_is_refused() {
    let (server, [_, tls]) = ways::start().await;
    const MAX: u32 = urd::limits::HTTP2_REQUESTS_MAX as u32;
    withstand(&server, &[tls], "requests that wait", 64 * MIB, |way| {
        let mut held =
            flood(4, way, |raw| (0..MAX + 10).try_for_each(|at| request(raw, 1 + 2 * at, "POST", "/v3/watch", false)));
        for raw in &mut held {
            for over in MAX..MAX + 10 {
                let refused = until_stream(raw, kind::RST_STREAM, 1 + 2 * over).unwrap();
                assert_eq!(refused.payload, REFUSED_STREAM);
            }
            // When one is gone, and that has been seen to, another may come. Calls of gRPC are none of them.
            raw.frame(kind::RST_STREAM, 0, 1, &[0, 0, 0, 8]).unwrap();
            let call = 1 + 2 * (MAX + 10);
            raw.open_call(call, RANGE, &[]).unwrap();
            raw.frame(kind::DATA, flag::END_STREAM, call, &prefixed(b"\x0a\x04well")).unwrap();
            assert!(status_of(raw, call).starts_with('0'));
            request(raw, call + 2, "GET", "/health", true).unwrap();
            assert_eq!(until_stream(raw, kind::DATA, call + 2).unwrap().payload, br#"{"health":"true","reason":""}"#);
        }
        held
    })
    .await;
}

#[tokio::test]
async fn requests_within_tls_that_break_off_leave_nothing() {
    let (server, [_, tls]) = ways::start().await;
    let ways = [tls];
    withstand(&server, &ways, "bodies broken off", 48 * MIB, |way| {
        flood(4, way, |raw| {
            for at in 0..3_000 {
                request(raw, 1 + 2 * at, "POST", "/v3/kv/put", false)?;
                raw.frame(kind::DATA, 0, 1 + 2 * at, &[b' '; 8_000])?;
                raw.frame(kind::RST_STREAM, 0, 1 + 2 * at, &[0, 0, 0, 8])?;
            }
            // It serves on.
            request(raw, 9_001, "GET", "/health", true)?;
            until_stream(raw, kind::DATA, 9_001).map(drop)
        })
        .into_iter()
        .map(|mut raw| {
            request(&mut raw, 9_003, "GET", "/health", true).unwrap();
            until_stream(&mut raw, kind::DATA, 9_003).unwrap();
            raw
        })
        .collect::<Vec<_>>()
    })
    .await;
    withstand(&server, &ways, "answers broken off", 48 * MIB, |way| {
        let mut held = flood(4, way, |raw| {
            raw.frame(kind::WINDOW_UPDATE, 0, 0, &[0x3f, 0, 0, 0])?;
            for at in 0..2_000 {
                request(raw, 1 + 2 * at, "POST", "/v3/watch", false)?;
                raw.frame(kind::DATA, 0, 1 + 2 * at, br#"{"create_request":{"key":"aw=="}}"#)?;
                // It has begun to be answered.
                until_stream(raw, kind::DATA, 1 + 2 * at)?;
                raw.frame(kind::RST_STREAM, 0, 1 + 2 * at, &[0, 0, 0, 8])?;
            }
            Ok(())
        });
        // More than may be at a time have been, and another may come.
        for raw in &mut held {
            request(raw, 9_003, "GET", "/health", true).unwrap();
            until_stream(raw, kind::DATA, 9_003).unwrap();
        }
        held
    })
    .await;
}
