use std::time::Instant;

use super::{
    super::frame::{Head as FrameHead, PREFACE},
    *,
};
use crate::error::Status;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    [&FrameHead { len: payload.len(), kind, flags, stream }.bytes()[..], payload].concat()
}

/// A call of POST /.
fn call(stream: u32) -> Vec<u8> {
    let flags = frame::FLAG_END_HEADERS | frame::FLAG_END_STREAM;
    frame(frame::HEADERS, flags, stream, b"\x83\x86\x84\x41\x01a")
}

fn reset(stream: u32) -> Vec<u8> {
    frame(frame::RST_STREAM, 0, stream, &8u32.to_be_bytes())
}

fn open() -> Connection {
    let config = Config { streams_max: u32::MAX, header_bytes_max: 4096, ping_time_min: Duration::from_secs(5) };
    let mut connection = Connection::new(config);
    connection.receive(&[&PREFACE[..], &frame(frame::SETTINGS, 0, 0, &[])].concat(), Instant::now());
    assert!(connection.is_open());
    connection
}

/// Takes what is to be written.
fn written(connection: &mut Connection) -> usize {
    let mut sum = 0;
    loop {
        connection.fill();
        let len = connection.output().len();
        if len == 0 {
            return sum;
        }
        sum += len;
        connection.output().advance(len);
    }
}

#[test]
fn a_silent_stream_is_small() {
    assert!(size_of::<Stream>() <= 256, "{}", size_of::<Stream>());
}

#[test]
fn a_call_leaves_no_trace() {
    let mut connection = open();
    for stream in (1..2001).step_by(2) {
        connection.begin_turn();
        connection.receive(&call(stream), Instant::now());
        let (key, _) = connection.take_request().unwrap();
        connection.send_head(key, Encoder::put_grpc_head).unwrap();
        connection.send_piece(key, b"answer").unwrap();
        connection.finish(key, &Status::OK);
        connection.let_go(key);
        written(&mut connection);
        connection.end_turn();
    }
    assert!(connection.streams.is_empty() && connection.listed.is_empty() && connection.ready.is_empty());
    assert_eq!(connection.output.len(), 0);
}

/// A client that opens no window must not make a server keep what it has thrown away.
#[test]
fn streams_reset_while_the_window_is_shut_leave_no_trace() {
    let mut connection = open();
    let answer = Bytes::from(vec![0; 100_000]);
    for stream in (1..20_001).step_by(2) {
        connection.begin_turn();
        connection.receive(&call(stream), Instant::now());
        let (key, _) = connection.take_request().unwrap();
        connection.send_head(key, Encoder::put_grpc_head).unwrap();
        connection.send_parts(key, [answer.clone()]).unwrap();
        connection.finish(key, &Status::OK);
        connection.let_go(key);
        written(&mut connection);
        if stream > 1 {
            connection.receive(&reset(stream), Instant::now());
        }
        assert!(connection.streams.len() <= 4 && connection.ready.len() <= 4, "{}", connection.streams.len());
    }
    // The first is still served.
    assert_eq!(connection.streams[0].queued, 100_000 - 65_535);
    connection.receive(&frame(frame::WINDOW_UPDATE, 0, 0, &100_000u32.to_be_bytes()), Instant::now());
    connection.receive(&frame(frame::WINDOW_UPDATE, 0, 1, &100_000u32.to_be_bytes()), Instant::now());
    assert!(written(&mut connection) > 100_000 - 65_535);
    assert!(connection.streams.is_empty());
}

#[test]
fn an_end_ends_every_stream_and_is_told_once() {
    let mut connection = open();
    connection.receive(&[call(1), call(3), call(5)].concat(), Instant::now());
    let (held, _) = connection.take_request().unwrap();
    written(&mut connection);
    connection.receive(&frame(frame::PING, 0, 0, b"short"), Instant::now());
    assert!(connection.is_ended());
    assert_eq!(connection.body_end(held), Some(BodyEnd::Reset));
    assert!(connection.take_request().is_none());
    assert_eq!(connection.streams.len(), 1);
    let told = connection.output.len();
    connection.receive(&frame(frame::PING, 0, 0, b"12345678"), Instant::now());
    assert!(connection.send_head(held, Encoder::put_grpc_head).is_err());
    connection.let_go(held);
    assert_eq!(connection.output.len(), told, "nothing is said after the end");
    assert!(connection.streams.is_empty());
}

#[test]
fn changes_of_the_first_window_cost_a_look_at_the_streams_once() {
    let mut connection = open();
    let change = |window: u32| frame(frame::SETTINGS, 0, 0, &[&[0, 4][..], &window.to_be_bytes()].concat());
    connection.receive(&change(10), Instant::now());
    connection.receive(&call(1), Instant::now());
    let (key, _) = connection.take_request().unwrap();
    connection.send_head(key, Encoder::put_grpc_head).unwrap();
    connection.send_parts(key, [Bytes::from_static(b"more than ten bytes")]).unwrap();
    written(&mut connection);
    assert_eq!(connection.queued(key), 9);
    // The last of several counts.
    connection.receive(&[change(100), change(0), change(15)].concat(), Instant::now());
    written(&mut connection);
    assert_eq!(connection.queued(key), 4);
}
