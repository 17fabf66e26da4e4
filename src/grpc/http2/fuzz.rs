//! A connection driven by arbitrary bytes, for fuzzing: with calls that answer at once, in pieces, late or never, and
//! the rules that must hold whatever the client says.

use std::{io::IoSlice, time::Duration};

use bytes::Bytes;

use super::{Config, Connection, Encoder, Key, frame};
use crate::{error::Status, grpc::response, limits, runtime};

/// Lets a client say `bytes`: the first tells how they are cut, the rest comes after a preface, or instead of it.
/// Panics where the connection breaks a rule of its own: more kept than its bounds allow, frames that are none, a
/// stream left over at the end.
pub fn fuzz_connection(bytes: &[u8]) {
    let Some((&how, bytes)) = bytes.split_first() else { return };
    let config = Config { streams_max: 16, header_bytes_max: 4096, ping_time_min: Duration::from_secs(5) };
    let mut connection = Connection::new(config);
    let mut calls = Calls { connection: &mut connection, held: Vec::new(), written: Vec::new() };
    if how & 1 == 0 {
        calls.receive(frame::PREFACE);
    }
    let step = match how >> 1 {
        0 => bytes.len().max(1),
        step => usize::from(step),
    };
    for piece in bytes.chunks(step) {
        calls.receive(piece);
    }
    calls.check_frames();
    let held = std::mem::take(&mut calls.held);
    for (key, _) in held {
        connection.let_go(key);
    }
    connection.close();
    assert!(connection.streams.is_empty(), "{} streams are left over", connection.streams.len());
}

struct Calls<'a> {
    connection: &'a mut Connection,
    /// With whether the head has been sent.
    held: Vec<(Key, bool)>,
    written: Vec<u8>,
}

impl Calls<'_> {
    fn receive(&mut self, bytes: &[u8]) {
        self.connection.begin_turn();
        self.connection.receive(bytes, runtime::recent());
        self.serve();
        self.write();
        let connection = &self.connection;
        let windows = limits::GRPC_CONNECTION_WINDOW_BYTES as usize;
        let bodies: usize = connection.streams.iter().map(|(_, stream)| stream.body.len()).sum();
        assert!(bodies <= windows, "{bodies} bytes of bodies");
        assert!(connection.carry.len() < frame::HEAD_BYTES + frame::PAYLOAD_BYTES);
        assert!(connection.listed.len() <= 16);
        assert!(connection.streams.len() <= 2 * (16 + self.held.len()));
        assert!(connection.send_window >= 0);
        assert!(connection.receive_window >= 0);
    }

    /// What a call does is told by its path.
    fn serve(&mut self) {
        while let Some((key, head)) = self.connection.take_request() {
            let way = head.path.last().copied().unwrap_or_default() % 4;
            if way == 0 {
                let status = Status::internal("no");
                let refusal = response::Refusal { http: 200, content_type: head.path, status, tell_encodings: false };
                self.connection.send_only_head(key, |encoder, out| {
                    response::put_refusal(encoder, out, &refusal);
                });
                self.connection.let_go(key);
                continue;
            }
            self.held.push((key, false));
        }
        let connection = &mut *self.connection;
        self.held.retain_mut(|(key, begun)| {
            let key = *key;
            let len = connection.body(key).len();
            if len == 0 && connection.body_end(key).is_none() {
                return true;
            }
            let taken = connection.take_body(key, len.min(1), len - len.min(1));
            if !*begun {
                *begun = connection.send_head(key, Encoder::put_grpc_head).is_ok();
            }
            if *begun {
                let _ = match taken.len() % 2 {
                    0 => connection.send_piece(key, &taken),
                    _ => connection.send_parts(key, [taken.clone(), Bytes::new(), taken]),
                };
            }
            if connection.body_end(key).is_none() {
                return true;
            }
            if *begun {
                connection.finish(key, &Status::OK);
            }
            connection.let_go(key);
            false
        });
    }

    fn write(&mut self) {
        loop {
            self.connection.fill();
            let mut slices = [IoSlice::new(&[]); 4];
            let filled = self.connection.output().slices(&mut slices);
            if filled == 0 {
                return;
            }
            let mut len = 0;
            for slice in &slices[..filled] {
                self.written.extend_from_slice(slice);
                len += slice.len();
            }
            self.connection.output().advance(len);
        }
    }

    fn check_frames(&self) {
        let mut rest = &self.written[..];
        while !rest.is_empty() {
            let (head, after) = rest.split_first_chunk().expect("half a head was written");
            let head = frame::Head::read(head);
            assert!(head.len <= frame::PAYLOAD_BYTES && head.kind <= frame::CONTINUATION, "{head:?}");
            rest = after.get(head.len..).expect("half a frame was written");
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Frames that are nearly right, which is where the rules are.
    fn nearly_frames() -> impl Strategy<Value = Vec<u8>> {
        let blocks = prop_oneof![
            Just(b"\x83\x86\x84\x41\x01a".to_vec()),
            Just(b"\x83\x86\x44\x02/1\x41\x01a".to_vec()),
            Just(b"\x83\x86\x44\x02/2\xbe\xbf".to_vec()),
            Just(b"\x20\x83\x86\x04\x02/3".to_vec()),
            proptest::collection::vec(any::<u8>(), 0..40),
        ];
        let frame =
            (0u8..11, any::<u8>(), 0u32..24, blocks, 0usize..4).prop_map(|(kind, flags, stream, block, trim)| {
                let payload = match kind {
                    frame::RST_STREAM | frame::WINDOW_UPDATE => u32::from(flags).to_be_bytes().to_vec(),
                    frame::PING => vec![flags; 8],
                    frame::SETTINGS => vec![],
                    frame::HEADERS | frame::CONTINUATION => block,
                    _ => block.into_iter().skip(trim).collect(),
                };
                // Mostly streams of a client's.
                let stream =
                    if kind == frame::PING || kind == frame::SETTINGS { 0 } else { stream | u32::from(trim > 0) };
                let flags = if kind == frame::HEADERS && trim > 1 { flags & 1 | 4 } else { flags & 0x2d };
                let head = frame::Head { len: payload.len(), kind, flags, stream };
                [&head.bytes()[..], &payload].concat()
            });
        (any::<u8>(), proptest::collection::vec(frame, 0..60)).prop_map(|(how, frames)| {
            let settings = frame::Head { len: 0, kind: frame::SETTINGS, flags: 0, stream: 0 }.bytes();
            [&[how & 0xfe][..], &settings, &frames.concat()].concat()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn whatever_a_client_says_the_rules_hold(bytes in nearly_frames()) {
            fuzz_connection(&bytes);
        }

        #[test]
        fn nonsense_is_borne(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            fuzz_connection(&bytes);
        }
    }
}
