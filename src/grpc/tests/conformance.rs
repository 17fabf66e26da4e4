//! The rules of HTTP/2 and HPACK, frame by frame: what a client sends, and what a server must make of it.
//! (RFC 9113, RFC 7541; where they leave a choice, grpc-go's.)

use tokio::io::AsyncWriteExt;

use super::{raw::*, *};
use crate::limits;

const NO_ERROR: u32 = 0;
const PROTOCOL_ERROR: u32 = 1;
const FLOW_CONTROL_ERROR: u32 = 3;
const STREAM_CLOSED: u32 = 5;
const FRAME_SIZE_ERROR: u32 = 6;
const REFUSED_STREAM: u32 = 7;
const COMPRESSION_ERROR: u32 = 9;
const ENHANCE_YOUR_CALM: u32 = 11;

/// What must come of a case.
enum Then {
    /// The connection ends with a GOAWAY of this reason.
    Away(u32),
    /// Stream 1 is reset for this reason and the connection goes on.
    Reset(u32),
    /// Nothing is wrong: stream 1 is answered with this echo and the connection goes on.
    Echo(&'static [u8]),
    /// Nothing comes of it, and the connection goes on.
    Nothing,
}
use Then::*;

/// Sends each case on a connection of its own, after the preface and SETTINGS.
fn check(cases: Vec<(&str, Vec<u8>, Then)>) {
    check_on(Server::new, cases);
}

fn check_on(server: impl Fn() -> Server + 'static, cases: Vec<(&str, Vec<u8>, Then)>) {
    let cases: Vec<(String, Vec<u8>, Then)> =
        cases.into_iter().map(|(name, sent, then)| (name.to_owned(), sent, then)).collect();
    run(async move {
        for (name, sent, then) in cases {
            let server = server();
            let mut pipe = server.pipe(1 << 20);
            pipe.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[]), &sent].concat()).await.unwrap();
            match then {
                Away(reason) => {
                    let frames = read_to_end(&mut pipe).await;
                    let last = frames.last().unwrap_or_else(|| panic!("{name}: closed without a word"));
                    assert_eq!(last.kind, GOAWAY, "{name}: {frames:?}");
                    assert_eq!(last.payload[4..8], reason.to_be_bytes(), "{name}: {frames:?}");
                    until(|| server.settings.counters.requests_active.get() == 0).await;
                    continue;
                }
                Reset(reason) => loop {
                    let frame = read(&mut pipe).await.unwrap_or_else(|| panic!("{name}: closed"));
                    assert_ne!(frame.kind, GOAWAY, "{name}: {frame:?}");
                    if frame.kind == RST_STREAM {
                        assert_eq!((frame.stream, &frame.payload[..]), (1, &reason.to_be_bytes()[..]), "{name}");
                        break;
                    }
                },
                Echo(echo) => {
                    let mut data: Vec<u8> = Vec::new();
                    loop {
                        let frame = read(&mut pipe).await.unwrap_or_else(|| panic!("{name}: closed"));
                        assert!(frame.kind != GOAWAY && frame.kind != RST_STREAM, "{name}: {frame:?}");
                        if frame.kind == DATA {
                            data.extend(&frame.payload);
                        }
                        if frame.stream == 1 && frame.kind <= HEADERS && frame.flags & END_STREAM != 0 {
                            break;
                        }
                    }
                    assert_eq!(data, &prefixed(0, echo)[..], "{name}");
                }
                Nothing => {}
            }
            // The connection goes on.
            pipe.write_all(&whole_call(100_001, b"on")).await.unwrap();
            loop {
                let frame = read(&mut pipe).await.unwrap_or_else(|| panic!("{name}: closed"));
                assert_ne!(frame.kind, GOAWAY, "{name}: {frame:?}");
                if frame.stream == 100_001 && frame.kind == DATA {
                    assert_eq!(frame.payload, &prefixed(0, b"on")[..], "{name}");
                    break;
                }
            }
        }
    });
}

const ECHO: &str = "/test.Echo/Echo";
const WAIT: &str = "/test.Echo/Wait";

#[test]
fn a_connection_begins_with_settings_of_both_sides() {
    run(async {
        let server = Server::new();
        let mut pipe = server.pipe(64 * 1024);
        pipe.write_all(&[PREFACE, &setting(4, 100_000)].concat()).await.unwrap();
        let mut frames = vec![read(&mut pipe).await.unwrap()];
        // Their first frame is SETTINGS that is no ACK; ours is acknowledged.
        assert_eq!((frames[0].kind, frames[0].flags, frames[0].stream), (SETTINGS, 0, 0));
        let acknowledged = |frame: &RawFrame| frame.kind == SETTINGS && frame.flags == ACK && frame.payload.is_empty();
        let opened = |frame: &RawFrame| frame.kind == WINDOW_UPDATE && frame.stream == 0;
        while !frames.iter().any(acknowledged) || !frames.iter().any(opened) {
            frames.push(read(&mut pipe).await.unwrap());
        }
        let window = frames[0].payload.chunks(6).find(|setting| setting[..2] == [0, 4]).unwrap();
        assert_eq!(window[2..], limits::GRPC_STREAM_WINDOW_BYTES.to_be_bytes());
        let opened = frames.iter().find(|frame| opened(frame)).unwrap();
        assert_eq!(opened.payload, (limits::GRPC_CONNECTION_WINDOW_BYTES - 65_535).to_be_bytes());
    });
}

#[test]
fn the_first_frame_is_settings() {
    run(async {
        for first in [frame(PING, 0, 0, &[0; 8]), whole_call(1, b"x"), frame(SETTINGS, ACK, 0, &[])] {
            let server = Server::new();
            let mut pipe = server.pipe(64 * 1024);
            pipe.write_all(&[PREFACE, &first].concat()).await.unwrap();
            let frames = read_to_end(&mut pipe).await;
            let last = frames.last().unwrap();
            assert_eq!((last.kind, &last.payload[4..8]), (GOAWAY, &PROTOCOL_ERROR.to_be_bytes()[..]));
            assert_eq!(server.service.messages.get(), 0);
        }
    });
}

#[test]
fn settings_are_checked() {
    let settings = |flags, stream, payload: &[u8]| frame(SETTINGS, flags, stream, payload);
    check(vec![
        ("on a stream", settings(0, 1, &[]), Away(PROTOCOL_ERROR)),
        ("an ACK with a payload", settings(ACK, 0, &[0; 6]), Away(FRAME_SIZE_ERROR)),
        ("half a setting", settings(0, 0, &[0; 5]), Away(FRAME_SIZE_ERROR)),
        ("push is neither on nor off", setting(2, 2), Away(PROTOCOL_ERROR)),
        ("a window beyond 2^31-1", setting(4, 1 << 31), Away(FLOW_CONTROL_ERROR)),
        ("frames too small", setting(5, 16_383), Away(PROTOCOL_ERROR)),
        ("frames too large", setting(5, 1 << 24), Away(PROTOCOL_ERROR)),
        ("largest frames", [setting(5, (1 << 24) - 1), whole_call(1, b"x")].concat(), Echo(b"x")),
        ("a setting that is not known", [setting(0xfefe, 7), whole_call(1, b"x")].concat(), Echo(b"x")),
        ("no header table", [setting(1, 0), whole_call(1, b"x")].concat(), Echo(b"x")),
    ]);
}

#[test]
fn sizes_of_frames_are_checked() {
    check(vec![
        ("larger than announced", frame(DATA, 0, 1, &[0; 16_385]), Away(FRAME_SIZE_ERROR)),
        ("larger, of a kind not known", frame(0x60, 0, 1, &[0; 16_385]), Away(FRAME_SIZE_ERROR)),
        ("a short PING", frame(PING, 0, 0, &[0; 7]), Away(FRAME_SIZE_ERROR)),
        ("a long PING", frame(PING, 0, 0, &[0; 9]), Away(FRAME_SIZE_ERROR)),
        ("a short RST_STREAM", [open(1, WAIT), frame(RST_STREAM, 0, 1, &[0; 3])].concat(), Away(FRAME_SIZE_ERROR)),
        ("a short WINDOW_UPDATE", frame(WINDOW_UPDATE, 0, 0, &[0; 3]), Away(FRAME_SIZE_ERROR)),
        ("a short GOAWAY", frame(GOAWAY, 0, 0, &[0; 7]), Away(FRAME_SIZE_ERROR)),
    ]);
}

#[test]
fn stream_numbers_are_checked() {
    check(vec![
        ("DATA on stream 0", frame(DATA, 0, 0, b"x"), Away(PROTOCOL_ERROR)),
        ("HEADERS on stream 0", open(0, ECHO), Away(PROTOCOL_ERROR)),
        ("RST_STREAM on stream 0", reset(0, 8), Away(PROTOCOL_ERROR)),
        ("CONTINUATION on stream 0", frame(CONTINUATION, END_HEADERS, 0, &[]), Away(PROTOCOL_ERROR)),
        ("PRIORITY on stream 0", frame(PRIORITY, 0, 0, &[0; 5]), Away(PROTOCOL_ERROR)),
        ("PING on a stream", frame(PING, 0, 1, &[0; 8]), Away(PROTOCOL_ERROR)),
        ("GOAWAY on a stream", frame(GOAWAY, 0, 1, &[0; 8]), Away(PROTOCOL_ERROR)),
        ("a server's number", open(2, ECHO), Away(PROTOCOL_ERROR)),
        ("a number below the last", [open(3, WAIT), open(1, WAIT)].concat(), Away(PROTOCOL_ERROR)),
        ("DATA on an idle stream", frame(DATA, 0, 1, b"x"), Away(PROTOCOL_ERROR)),
        ("RST_STREAM on an idle stream", reset(1, 8), Away(PROTOCOL_ERROR)),
        ("WINDOW_UPDATE on an idle stream", window_update(1, 1), Away(PROTOCOL_ERROR)),
        ("PRIORITY on an idle stream", frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 7]), Nothing),
        ("a promise", [open(1, WAIT), frame(PUSH_PROMISE, 4, 1, &[0; 4])].concat(), Away(PROTOCOL_ERROR)),
    ]);
}

#[test]
fn a_reserved_bit_says_nothing() {
    let mut call = whole_call(1, b"x");
    call[5] |= 0x80;
    check(vec![("on a HEADERS frame", call, Echo(b"x"))]);
}

/// A call whose header block is cut at `cuts`.
fn cut_call(cuts: &[usize]) -> Vec<u8> {
    let block = head(ECHO);
    let mut ends: Vec<usize> = cuts.to_vec();
    ends.push(block.len());
    let mut out = Vec::new();
    let mut from = 0;
    for (at, &end) in ends.iter().enumerate() {
        let flags = if at + 1 == ends.len() { END_HEADERS } else { 0 };
        out.extend(frame(if at == 0 { HEADERS } else { CONTINUATION }, flags, 1, &block[from..end]));
        from = end;
    }
    out.extend(frame(DATA, END_STREAM, 1, &prefixed(0, b"cut")));
    out
}

#[test]
fn a_header_block_may_be_cut_and_must_not_be_interrupted() {
    let begun = || frame(HEADERS, 0, 1, &head(ECHO)[..10]);
    let rest = |flags, stream| frame(CONTINUATION, flags, stream, &head(ECHO)[10..]);
    check(vec![
        ("in two", cut_call(&[10]), Echo(b"cut")),
        ("at the beginning and the end", cut_call(&[0, 0, head(ECHO).len()]), Echo(b"cut")),
        ("in the middle of a string", cut_call(&[3, 4, 5, 30]), Echo(b"cut")),
        ("interrupted by a PING", [begun(), frame(PING, 0, 0, &[0; 8])].concat(), Away(PROTOCOL_ERROR)),
        ("interrupted by DATA", [begun(), frame(DATA, 0, 1, b"x")].concat(), Away(PROTOCOL_ERROR)),
        ("interrupted by what is not known", [begun(), frame(0x60, 0, 0, b"x")].concat(), Away(PROTOCOL_ERROR)),
        ("interrupted by HEADERS", [begun(), open(3, ECHO)].concat(), Away(PROTOCOL_ERROR)),
        ("continued on another stream", [begun(), rest(END_HEADERS, 3)].concat(), Away(PROTOCOL_ERROR)),
        ("continued though it had ended", [open(1, WAIT), rest(END_HEADERS, 1)].concat(), Away(PROTOCOL_ERROR)),
        ("continued though nothing has begun", rest(END_HEADERS, 1), Away(PROTOCOL_ERROR)),
        (
            "without end",
            [begun(), frame(CONTINUATION, 0, 1, &[0x82; 16_384]).repeat(50)].concat(),
            Away(ENHANCE_YOUR_CALM),
        ),
        (
            "without end, of nothing",
            [begun(), frame(CONTINUATION, 0, 1, &[]).repeat(10_000)].concat(),
            Away(ENHANCE_YOUR_CALM),
        ),
    ]);
}

#[test]
fn padding_and_priority_are_taken_off() {
    let block = head(ECHO);
    let data = prefixed(0, b"padded");
    let padded = |payload: &[u8], by: u8| [&[by], payload, &vec![0; usize::from(by)]].concat();
    let body = || frame(DATA, END_STREAM | PADDED, 1, &padded(&data, 200));
    let with = |flags, payload: &[u8]| [frame(HEADERS, END_HEADERS | flags, 1, payload), body()].concat();
    let priority = [0x80, 0, 0, 3, 15];
    check(vec![
        ("none of either", with(0, &block), Echo(b"padded")),
        ("padding", with(PADDED, &padded(&block, 9)), Echo(b"padded")),
        ("padding of nothing", with(PADDED, &padded(&block, 0)), Echo(b"padded")),
        ("priority", with(PRIORITIZED, &[&priority[..], &block].concat()), Echo(b"padded")),
        ("both", with(PADDED | PRIORITIZED, &padded(&[&priority[..], &block].concat(), 3)), Echo(b"padded")),
        ("padding longer than HEADERS", frame(HEADERS, END_HEADERS | PADDED, 1, &[9, 0]), Away(PROTOCOL_ERROR)),
        (
            "padding longer than DATA",
            [open(1, ECHO), frame(DATA, PADDED, 1, &[5, 0, 0, 0, 0])].concat(),
            Away(PROTOCOL_ERROR),
        ),
        ("a priority cut short", frame(HEADERS, END_HEADERS | PRIORITIZED, 1, &priority[..4]), Away(FRAME_SIZE_ERROR)),
        ("a short PRIORITY", [open(1, WAIT), frame(PRIORITY, 0, 1, &[0; 4])].concat(), Reset(FRAME_SIZE_ERROR)),
    ]);
}

#[test]
fn windows_are_checked() {
    let data = |len: usize| frame(DATA, 0, 1, &vec![0; len]);
    let hold = || open(1, "/test.Echo/Hold");
    let stream_window = limits::GRPC_STREAM_WINDOW_BYTES as usize;
    check(vec![
        ("the connection's by nothing", window_update(0, 0), Away(PROTOCOL_ERROR)),
        ("the connection's by too much", window_update(0, (1 << 31) - 1), Away(FLOW_CONTROL_ERROR)),
        ("a stream's by nothing", [open(1, WAIT), window_update(1, 0)].concat(), Reset(PROTOCOL_ERROR)),
        (
            "a stream's by too much",
            [open(1, WAIT), window_update(1, (1 << 31) - 1)].concat(),
            Reset(FLOW_CONTROL_ERROR),
        ),
        ("a closed stream's", [whole_call(1, b"x"), window_update(1, 5)].concat(), Echo(b"x")),
        (
            "a stream's by too much through the settings",
            [open(1, WAIT), window_update(1, 1 << 30), setting(4, (1 << 31) - 1)].concat(),
            Away(FLOW_CONTROL_ERROR),
        ),
        (
            "a stream sends more than it may",
            // What a handler does not read is not given back; whole messages of 11 bytes are.
            [
                hold(),
                [frame(DATA, 0, 1, &prefixed(0, &[0; 16_379])), data(0)].concat().repeat(stream_window / 16_384),
                frame(DATA, 0, 1, &[0]),
            ]
            .concat(),
            Reset(FLOW_CONTROL_ERROR),
        ),
    ]);
}

#[test]
fn a_window_bounds_what_is_sent_though_it_changes() {
    run(async {
        let server = Server::new();
        let mut pipe = server.pipe(1 << 20);
        let message = vec![7; 1000];
        // The stream may take 300 bytes; the whole answer is 1,005.
        pipe.write_all(&[PREFACE, &setting(4, 300), &whole_call(1, &message)].concat()).await.unwrap();
        assert_eq!(data_until_quiet(&mut pipe).await, 300);
        // Less than nothing: 300 are out, 100 would be allowed.
        pipe.write_all(&setting(4, 100)).await.unwrap();
        assert_eq!(data_until_quiet(&mut pipe).await, 0);
        // Still 200 below: this brings it to nothing, the next to 1.
        pipe.write_all(&window_update(1, 200)).await.unwrap();
        assert_eq!(data_until_quiet(&mut pipe).await, 0);
        pipe.write_all(&window_update(1, 1)).await.unwrap();
        assert_eq!(data_until_quiet(&mut pipe).await, 1);
        // A larger first window is given to streams that are open.
        pipe.write_all(&setting(4, 150)).await.unwrap();
        assert_eq!(data_until_quiet(&mut pipe).await, 50);
        pipe.write_all(&setting(4, 100_000)).await.unwrap();
        assert_eq!(data_until_quiet(&mut pipe).await, 1005 - 351);
    });
}

/// Reads what comes until nothing more does; bytes of DATA.
async fn data_until_quiet(pipe: &mut DuplexStream) -> usize {
    let mut sum = 0;
    loop {
        settle().await;
        let mut next = Box::pin(read(pipe));
        let frame = poll_fn(|context| Poll::Ready(next.as_mut().poll(context))).await;
        match frame {
            Poll::Ready(Some(frame)) if frame.kind == DATA => sum += frame.payload.len(),
            Poll::Ready(Some(frame)) => assert!(frame.kind != GOAWAY && frame.kind != RST_STREAM, "{frame:?}"),
            Poll::Ready(None) => panic!("closed"),
            Poll::Pending => return sum,
        }
    }
}

#[test]
fn the_window_of_a_connection_bounds_all_its_streams() {
    run(async {
        let server = Server::new();
        let mut pipe = server.pipe(1 << 20);
        let message = vec![7; 40_000];
        let calls = |stream| {
            let body = prefixed(0, &message);
            let mut out = open(stream, ECHO);
            for (at, piece) in body.chunks(16_384).enumerate() {
                out.extend(frame(DATA, if at == 2 { END_STREAM } else { 0 }, stream, piece));
            }
            out
        };
        pipe.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[]), &calls(1), &calls(3), &calls(5)].concat())
            .await
            .unwrap();
        assert_eq!(data_until_quiet(&mut pipe).await, 65_535);
        pipe.write_all(&window_update(0, 10_000)).await.unwrap();
        assert_eq!(data_until_quiet(&mut pipe).await, 10_000);
        pipe.write_all(&window_update(0, 1 << 20)).await.unwrap();
        assert_eq!(data_until_quiet(&mut pipe).await, 3 * 40_005 - 75_535);
    });
}

#[test]
fn frames_are_no_larger_than_the_client_takes() {
    run(async {
        for (largest, expected) in [(16_384, 16_384), (20_000, 20_000)] {
            let server = Server::new();
            let mut pipe = server.pipe(1 << 20);
            let body = prefixed(0, &[1; 40_000]);
            let mut sent = [PREFACE, &setting(5, largest), &open(1, ECHO)].concat();
            for piece in body.chunks(16_384) {
                sent.extend(frame(DATA, 0, 1, piece));
            }
            sent.extend(frame(DATA, END_STREAM, 1, &[]));
            pipe.write_all(&sent).await.unwrap();
            let mut lens = Vec::new();
            loop {
                let frame = read(&mut pipe).await.unwrap();
                if frame.kind == DATA {
                    lens.push(frame.payload.len());
                }
                if frame.stream == 1 && frame.flags & END_STREAM != 0 && frame.kind <= HEADERS {
                    break;
                }
            }
            assert_eq!(lens.iter().sum::<usize>(), 40_005);
            assert!(lens.iter().all(|&len| len <= expected), "{lens:?}");
        }
    });
}

#[test]
fn windows_are_given_back_as_messages_are_taken() {
    run(async {
        let server = Server::new();
        let mut pipe = server.pipe(1 << 20);
        let client_settings = [setting(4, (1 << 31) - 1), window_update(0, 1 << 30)].concat();
        greet(&mut pipe, &client_settings).await;
        pipe.write_all(&open(1, "/test.Echo/Chat")).await.unwrap();
        let message = frame(DATA, 0, 1, &prefixed(0, &[0; 16_379]));
        let mut stream = i64::from(limits::GRPC_STREAM_WINDOW_BYTES);
        let mut connection = i64::from(limits::GRPC_CONNECTION_WINDOW_BYTES);
        let mut sent = 0;
        // Three times the connection's window goes through.
        while sent < 3 * i64::from(limits::GRPC_CONNECTION_WINDOW_BYTES) {
            while stream >= 16_384 && connection >= 16_384 {
                pipe.write_all(&message).await.unwrap();
                sent += 16_384;
                stream -= 16_384;
                connection -= 16_384;
                if sent % (1 << 18) == 0 {
                    break;
                }
            }
            settle_briefly().await;
            while let Some(frame) = read_now(&mut pipe).await {
                assert!(frame.kind != GOAWAY && frame.kind != RST_STREAM, "{frame:?}");
                if frame.kind == WINDOW_UPDATE {
                    let by = i64::from(u32::from_be_bytes(frame.payload[..].try_into().unwrap()));
                    *(if frame.stream == 0 { &mut connection } else { &mut stream }) += by;
                }
            }
            assert!(stream <= i64::from(limits::GRPC_STREAM_WINDOW_BYTES));
            assert!(connection <= i64::from(limits::GRPC_CONNECTION_WINDOW_BYTES));
        }
    });
}

/// Exchanges SETTINGS, and reads until the server's are told and its connection's window open.
async fn greet(pipe: &mut DuplexStream, more: &[u8]) {
    pipe.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[]), more].concat()).await.unwrap();
    let (mut told, mut open) = (false, false);
    while !told || !open {
        let frame = read(pipe).await.unwrap();
        told |= frame.kind == SETTINGS && frame.flags == 0;
        open |= frame.kind == WINDOW_UPDATE;
    }
    pipe.write_all(&frame(SETTINGS, ACK, 0, &[])).await.unwrap();
}

async fn settle_briefly() {
    for _ in 0..5 {
        runtime::yield_now().await;
    }
}

/// A frame, if its head has come.
async fn read_now(pipe: &mut DuplexStream) -> Option<RawFrame> {
    let mut next = Box::pin(read(pipe));
    match poll_fn(|context| Poll::Ready(next.as_mut().poll(context))).await {
        Poll::Ready(frame) => Some(frame.expect("the server has closed")),
        // A head may be there and its payload under way: the pipe is large enough for it to come.
        Poll::Pending => None,
    }
}

#[test]
fn streams_end_once() {
    let data = |flags| frame(DATA, flags, 1, &prefixed(0, b"x"));
    let trailers = |flags| frame(HEADERS, END_HEADERS | flags, 1, &field("a", "b"));
    check(vec![
        ("DATA after the end", [open(1, WAIT), data(END_STREAM), data(0)].concat(), Reset(STREAM_CLOSED)),
        (
            "HEADERS after the end",
            [open(1, WAIT), data(END_STREAM), trailers(END_STREAM)].concat(),
            Reset(STREAM_CLOSED),
        ),
        ("trailers", [open(1, ECHO), data(0), trailers(END_STREAM)].concat(), Echo(b"x")),
        ("trailers that end nothing", [open(1, WAIT), trailers(0)].concat(), Reset(PROTOCOL_ERROR)),
        (
            "trailers with a pseudo-header",
            [open(1, WAIT), frame(HEADERS, END_HEADERS | END_STREAM, 1, &field(":path", "/"))].concat(),
            Reset(PROTOCOL_ERROR),
        ),
        ("RST_STREAM of a closed stream", [whole_call(1, b"x"), reset(1, 8)].concat(), Nothing),
        ("PRIORITY of a closed stream", [whole_call(1, b"x"), frame(PRIORITY, 0, 1, &[0; 5])].concat(), Echo(b"x")),
    ]);
}

/// The server may end a stream while its client still writes: that is asked to stop and what was under way ignored.
#[test]
fn what_comes_late_on_a_stream_that_the_server_has_ended_is_ignored() {
    run(async {
        let server = Server::new();
        let mut pipe = server.pipe(1 << 20);
        let refused = [&frame(HEADERS, END_HEADERS, 1, &field(":x", "y"))[..]].concat();
        pipe.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[]), &refused].concat()).await.unwrap();
        let first = loop {
            let frame = read(&mut pipe).await.unwrap();
            if frame.kind == RST_STREAM {
                break frame;
            }
        };
        assert_eq!((first.stream, &first.payload[..]), (1, &PROTOCOL_ERROR.to_be_bytes()[..]));
        pipe.write_all(&frame(DATA, 0, 1, &[0; 100])).await.unwrap();
        pipe.write_all(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &field("a", "b"))).await.unwrap();
        // A call that is refused by its head is ended before its body has come.
        pipe.write_all(&open(3, "/test.Echo/Nope")).await.unwrap();
        let mut ended = false;
        let reset = loop {
            let frame = read(&mut pipe).await.unwrap();
            assert_ne!(frame.kind, GOAWAY);
            ended |= frame.stream == 3 && frame.kind == HEADERS && frame.flags & END_STREAM != 0;
            if frame.kind == RST_STREAM {
                break frame;
            }
        };
        assert!(ended);
        assert_eq!((reset.stream, &reset.payload[..]), (3, &NO_ERROR.to_be_bytes()[..]));
        pipe.write_all(&frame(DATA, END_STREAM, 3, &prefixed(0, b"late"))).await.unwrap();
        pipe.write_all(&whole_call(5, b"on")).await.unwrap();
        loop {
            let frame = read(&mut pipe).await.unwrap();
            assert!(frame.kind != GOAWAY && frame.kind != RST_STREAM, "{frame:?}");
            if frame.stream == 5 && frame.kind == DATA {
                break;
            }
        }
    });
}

#[test]
fn malformed_requests_are_reset() {
    let full = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", ECHO),
        (":authority", "a"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    let body = frame(DATA, END_STREAM, 1, &prefixed(0, b"x"));
    let of = |fields: &[(&str, &str)]| {
        let block: Vec<u8> = fields.iter().flat_map(|(name, value)| field(name, value)).collect();
        [frame(HEADERS, END_HEADERS, 1, &block), body.clone()].concat()
    };
    let without = |name: &str| of(&full.iter().copied().filter(|(at, _)| *at != name).collect::<Vec<_>>());
    let and = |name, value| of(&[&full[..], &[(name, value)]].concat());
    check(vec![
        ("nothing wrong", of(&full), Echo(b"x")),
        ("no :method", without(":method"), Reset(PROTOCOL_ERROR)),
        ("no :path", without(":path"), Reset(PROTOCOL_ERROR)),
        ("two :path", of(&[&[(":path", "/")][..], &full].concat()), Reset(PROTOCOL_ERROR)),
        ("two :method", of(&[&[(":method", "GET")][..], &full].concat()), Reset(PROTOCOL_ERROR)),
        ("a pseudo-header after another field", and(":path", ECHO), Reset(PROTOCOL_ERROR)),
        ("a pseudo-header that is not known", of(&[&[(":x", "y")][..], &full].concat()), Reset(PROTOCOL_ERROR)),
        ("a pseudo-header of responses", of(&[&[(":status", "200")][..], &full].concat()), Reset(PROTOCOL_ERROR)),
        ("a capital letter", and("Token", "x"), Reset(PROTOCOL_ERROR)),
        ("a name of nothing", and("", "x"), Reset(PROTOCOL_ERROR)),
        ("a space in a name", and("a b", "x"), Reset(PROTOCOL_ERROR)),
        ("a line break in a value", and("a", "x\r\ny"), Reset(PROTOCOL_ERROR)),
        ("a zero in a value", and("a", "x\0y"), Reset(PROTOCOL_ERROR)),
        ("connection", and("connection", "close"), Reset(PROTOCOL_ERROR)),
        ("keep-alive", and("keep-alive", "5"), Reset(PROTOCOL_ERROR)),
        ("proxy-connection", and("proxy-connection", "x"), Reset(PROTOCOL_ERROR)),
        ("transfer-encoding", and("transfer-encoding", "chunked"), Reset(PROTOCOL_ERROR)),
        ("upgrade", and("upgrade", "x"), Reset(PROTOCOL_ERROR)),
        ("te that is not trailers", and("te", "gzip"), Reset(PROTOCOL_ERROR)),
        ("a content-length that is right", and("content-length", "6"), Echo(b"x")),
        ("a content-length that is too small", and("content-length", "5"), Reset(PROTOCOL_ERROR)),
        ("a content-length that is too large", and("content-length", "7"), Reset(PROTOCOL_ERROR)),
        ("a content-length that is none", and("content-length", "six"), Reset(PROTOCOL_ERROR)),
        ("a tab and a byte beyond ASCII", and("a", "x\ty\u{fc}"), Echo(b"x")),
    ]);
}

#[test]
fn header_blocks_are_decoded_by_the_rules() {
    let call = |block: &[u8]| frame(HEADERS, END_HEADERS, 1, block);
    let after = |first: &[u8]| {
        let block = [first, &head(ECHO)].concat();
        [frame(HEADERS, END_HEADERS, 1, &block), frame(DATA, END_STREAM, 1, &prefixed(0, b"x"))].concat()
    };
    let before = |last: &[u8]| frame(HEADERS, END_HEADERS, 1, &[&head(ECHO), last].concat());
    check(vec![
        ("index 0", call(&[0x80]), Away(COMPRESSION_ERROR)),
        ("an index beyond the table", call(&[0xbe]), Away(COMPRESSION_ERROR)),
        ("a name's index beyond the table", call(&[0x7e, 1, b'x']), Away(COMPRESSION_ERROR)),
        ("an integer without end", call(&[0xff; 20]), Away(COMPRESSION_ERROR)),
        ("an integer cut short", call(&[0xff]), Away(COMPRESSION_ERROR)),
        ("a string cut short", call(&[0, 5, b'a']), Away(COMPRESSION_ERROR)),
        ("padding that is not ones", call(&[0x00, 0x81, 0x00]), Away(COMPRESSION_ERROR)),
        ("padding of a whole byte", call(&[0x00, 0x82, 0x1c, 0xff]), Away(COMPRESSION_ERROR)),
        ("the end of string within one", call(&[0x00, 0x84, 0xff, 0xff, 0xff, 0xff]), Away(COMPRESSION_ERROR)),
        ("a smaller table", after(&[0x20]), Echo(b"x")),
        ("smaller, then the largest table", after(&[0x20, 0x3f, 0xe1, 0x1f]), Echo(b"x")),
        ("a table larger than announced", call(&[0x3f, 0xe2, 0x1f]), Away(COMPRESSION_ERROR)),
        ("a size of the table that does not begin the block", before(&[0x20]), Away(COMPRESSION_ERROR)),
    ]);
}

#[test]
fn headers_beyond_their_bound_end_their_stream_and_keep_the_table() {
    let small = || Server::with(|settings| settings.max_header_bytes = 1024);
    // An entry of 126 + 1 + 32 bytes, then named ten times over.
    let name = "n".repeat(126);
    let mut block = head(ECHO);
    block.extend([&[0x40, 126][..], name.as_bytes(), &[1, b'v']].concat());
    block.extend([0xbe; 10]);
    // The table holds what the large block has put into it: index 62 is a field, not an error.
    let next = [&head(ECHO)[..], &[0xbe]].concat();
    let next = [frame(HEADERS, END_HEADERS, 3, &next), frame(DATA, END_STREAM, 3, &prefixed(0, b"x"))].concat();
    check_on(
        small,
        vec![
            ("a bomb", frame(HEADERS, END_HEADERS, 1, &block), Reset(FRAME_SIZE_ERROR)),
            ("a bomb and a call", [frame(HEADERS, END_HEADERS, 1, &block), next].concat(), Reset(FRAME_SIZE_ERROR)),
        ],
    );
}

#[test]
fn pings_are_echoed() {
    run(async {
        let server = Server::new();
        let mut pipe = raw(&server).await;
        pipe.write_all(&frame(PING, 0, 0, b"12345678")).await.unwrap();
        let echoed = loop {
            let frame = read(&mut pipe).await.unwrap();
            if frame.kind == PING {
                break frame;
            }
        };
        assert_eq!((echoed.flags, echoed.stream, &echoed.payload[..]), (ACK, 0, &b"12345678"[..]));
    });
}

#[test]
fn what_is_not_known_is_ignored() {
    let all = [
        frame(0x60, 0xff, 0, b"anything"),
        frame(0x61, 0xff, 77, b"anything"),
        // Flags that mean nothing.
        frame(PING, 0xf0 | ACK, 0, &[9; 8]),
        // Of a client it says nothing of its own streams.
        frame(GOAWAY, 0, 0, &[0; 8]),
        whole_call(1, b"x"),
    ];
    check(vec![("kinds of frames and flags", all.concat(), Echo(b"x"))]);
}

#[test]
fn floods_are_ended() {
    let empty = frame(DATA, 0, 1, &[]);
    check(vec![
        ("empty DATA", [open(1, WAIT), empty.repeat(100_000)].concat(), Away(ENHANCE_YOUR_CALM)),
        (
            "a few empty DATA",
            [open(1, ECHO), empty.repeat(100), whole_call(1, b"x")[open(1, ECHO).len()..].to_vec()].concat(),
            Echo(b"x"),
        ),
    ]);
}

#[test]
fn settings_and_pings_of_a_client_that_reads_nothing_do_not_pile_up() {
    run(async {
        let server = Server::with(|settings| settings.keepalive_min_time = std::time::Duration::from_nanos(1));
        let mut pipe = server.pipe(4096);
        pipe.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await.unwrap();
        // Ten megabytes of frames that are to be acknowledged.
        let flood = frame(SETTINGS, 0, 0, &[]).repeat(1000);
        let mut written = 0;
        for _ in 0..1200 {
            let mut next = Box::pin(pipe.write_all(&flood));
            let mut done = false;
            for _ in 0..20 {
                if is_ready(&mut next).await {
                    done = true;
                    break;
                }
                runtime::yield_now().await;
            }
            if !done {
                break;
            }
            written += flood.len();
        }
        assert!(written < 1_000_000, "the server takes {written} bytes and more of what it cannot answer");
    });
}

#[test]
fn a_refused_stream_leaves_the_table_as_the_client_has_it() {
    run(async {
        let server = Server::with(|settings| settings.max_concurrent_streams = 1);
        let mut pipe = server.pipe(1 << 20);
        // Put into the table by a head that is refused, used by the next.
        let mut refused = head(WAIT);
        refused.extend([&[0x40, 5][..], b"token", &[3], b"abc"].concat());
        let sent = [
            frame(SETTINGS, 0, 0, &[]),
            open(1, WAIT),
            frame(HEADERS, END_HEADERS | END_STREAM, 3, &refused),
            reset(1, 8),
        ];
        pipe.write_all(&[PREFACE, &sent.concat()].concat()).await.unwrap();
        let frame_3 = loop {
            let frame = read(&mut pipe).await.unwrap();
            if frame.stream == 3 {
                break frame;
            }
        };
        assert_eq!((frame_3.kind, &frame_3.payload[..]), (RST_STREAM, &REFUSED_STREAM.to_be_bytes()[..]));
        until(|| server.settings.counters.requests_active.get() == 0).await;
        let next = [&head(ECHO)[..], &[0xbe]].concat();
        let call = [frame(HEADERS, END_HEADERS, 5, &next), frame(DATA, END_STREAM, 5, &prefixed(0, b"x"))];
        pipe.write_all(&call.concat()).await.unwrap();
        until(|| server.service.messages.get() == 1).await;
        assert_eq!(server.service.metadata.take().get("token"), Some(&b"abc"[..]));
    });
}

#[test]
fn a_drain_is_announced_and_then_said() {
    run(async {
        let server = Server::new();
        let mut pipe = raw(&server).await;
        pipe.write_all(&open(1, "/test.Echo/Late")).await.unwrap();
        until(|| server.settings.counters.requests_active.get() == 1).await;
        server.drain.fire();
        // First that there will be an end, then, a round trip later, after which stream.
        let mut away = Vec::new();
        let ping = loop {
            let frame = read(&mut pipe).await.unwrap();
            match frame.kind {
                GOAWAY => away.push(frame),
                PING => break frame,
                _ => {}
            }
        };
        assert_eq!(away.len(), 1);
        assert_eq!(away[0].payload, [0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
        // Under way before the client could know.
        pipe.write_all(&whole_call(3, b"crossed")).await.unwrap();
        pipe.write_all(&frame(PING, ACK, 0, &ping.payload)).await.unwrap();
        let mut data: Vec<u8> = Vec::new();
        let last = loop {
            let frame = read(&mut pipe).await.unwrap();
            match frame.kind {
                GOAWAY => break frame,
                DATA => data.extend(frame.payload),
                _ => {}
            }
        };
        assert_eq!(last.payload, [0, 0, 0, 3, 0, 0, 0, 0]);
        // Too late.
        pipe.write_all(&whole_call(5, b"late")).await.unwrap();
        pipe.write_all(&frame(DATA, END_STREAM, 1, &prefixed(0, b"first"))).await.unwrap();
        server.service.gate.open();
        for frame in read_to_end(&mut pipe).await {
            assert_ne!(frame.stream, 5, "{frame:?}");
            if frame.kind == DATA {
                data.extend(frame.payload);
            }
        }
        assert_eq!(data, [&prefixed(0, b"crossed")[..], &prefixed(0, b"first")].concat());
    });
}
