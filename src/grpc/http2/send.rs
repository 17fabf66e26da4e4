//! What goes to a client. A head, and a message that the windows have room for, is written at once; the rest waits with
//! its stream and moves on as windows and output let it, a frame of each stream in turn.

use std::task::{Context, Poll};

use bytes::Bytes;

use super::{
    connection::Connection,
    encode::Encoder,
    frame::{self, HEAD_BYTES, Head as FrameHead, PAYLOAD_BYTES},
    stream::{Ending, Half, Key, store, wake},
};
use crate::{error::Status, grpc::response, limits};

/// The stream is gone: reset, or its connection closed. Nothing more can be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone;

impl Connection {
    /// Sends the head of a response, which `write` spells.
    pub fn send_head(&mut self, key: Key, write: impl FnOnce(&mut Encoder, &mut Vec<u8>)) -> Result<(), Gone> {
        let stream = &self.streams[key.0 as usize];
        if stream.reset {
            return Err(Gone);
        }
        debug_assert!(stream.local == Half::Open, "a head after the end");
        let id = stream.id;
        self.put_block(id, 0, write);
        Ok(())
    }

    /// Sends a response that is nothing but a head.
    pub fn send_only_head(&mut self, key: Key, write: impl FnOnce(&mut Encoder, &mut Vec<u8>)) {
        let stream = &mut self.streams[key.0 as usize];
        if stream.reset {
            return;
        }
        debug_assert!(stream.local == Half::Open, "a head after the end");
        stream.local = Half::Ended;
        let id = stream.id;
        self.put_block(id, frame::FLAG_END_STREAM, write);
        self.settle(key);
    }

    /// Sends a message that is in one piece and need not be kept.
    pub fn send_piece(&mut self, key: Key, piece: &[u8]) -> Result<(), Gone> {
        if self.streams[key.0 as usize].reset {
            return Err(Gone);
        }
        match self.may_send_now(key, piece.len()) {
            true => {
                self.put_data_head(key, piece.len());
                self.output.joined().extend_from_slice(piece);
            }
            false => self.send_parts(key, [Bytes::copy_from_slice(piece)])?,
        }
        Ok(())
    }

    /// Sends a message in parts, cut anywhere.
    pub fn send_parts(&mut self, key: Key, parts: impl IntoIterator<Item = Bytes>) -> Result<(), Gone> {
        if self.streams[key.0 as usize].reset {
            return Err(Gone);
        }
        let stream = &mut self.streams[key.0 as usize];
        for part in parts {
            if !part.is_empty() {
                stream.queued += part.len();
                stream.queue.push_back(part);
            }
        }
        if stream.queued <= PAYLOAD_BYTES && self.output.len() < limits::GRPC_WRITE_BYTES {
            self.send_queued(key);
        } else {
            self.schedule(key);
        }
        Ok(())
    }

    /// Ends a response with its status, behind whatever is queued.
    pub fn finish(&mut self, key: Key, status: &Status) {
        let stream = &mut self.streams[key.0 as usize];
        if stream.reset {
            return;
        }
        match stream.queued {
            0 => self.put_status(key, status),
            queued => {
                self.unread += queued;
                stream.ending = Some(Ending::Status(status.clone()));
            }
        }
    }

    /// Ends a response that has no trailers, behind whatever is queued.
    pub fn end_answer(&mut self, key: Key) {
        let stream = &mut self.streams[key.0 as usize];
        match stream.queued {
            _ if stream.reset => {}
            0 => self.put_end(key),
            queued => {
                self.unread += queued;
                stream.ending = Some(Ending::Bare);
            }
        }
    }

    /// Bytes that wait with a stream.
    pub fn queued(&self, key: Key) -> usize {
        self.streams[key.0 as usize].queued
    }

    /// Ready while less than `limits::GRPC_REPLY_QUEUE_BYTES` wait with a stream.
    pub fn poll_room(&mut self, key: Key, context: &Context<'_>) -> Poll<()> {
        let stream = &mut self.streams[key.0 as usize];
        if stream.queued < limits::GRPC_REPLY_QUEUE_BYTES || stream.reset {
            return Poll::Ready(());
        }
        store(&mut stream.wakers.room, context);
        Poll::Pending
    }

    /// Moves what waits into the output, as far as windows and the output's bound allow.
    pub fn fill(&mut self) {
        while self.output.len() < limits::GRPC_WRITE_BYTES && self.send_window > 0 {
            let Some(key) = self.ready.pop_front() else {
                self.stale = 0;
                return;
            };
            self.streams[key as usize].scheduled = false;
            self.send_queued(Key(key));
        }
    }

    fn window(&self, key: Key) -> i64 {
        self.send_window.min(self.streams[key.0 as usize].send_window(self.first_window))
    }

    fn may_send_now(&self, key: Key, len: usize) -> bool {
        self.streams[key.0 as usize].queued == 0
            && len <= PAYLOAD_BYTES
            && self.output.len() < limits::GRPC_WRITE_BYTES
            && len as i64 <= self.window(key)
    }

    /// Gives a stream its turn, if it can use one.
    pub(super) fn schedule(&mut self, key: Key) {
        if self.streams[key.0 as usize].schedule(self.first_window) {
            self.ready.push_back(key.0);
        }
    }

    /// Sends a frame of what is queued, and the status if that was all.
    fn send_queued(&mut self, key: Key) {
        let window = self.window(key);
        let stream = &mut self.streams[key.0 as usize];
        if stream.is_closed() {
            self.settle(key);
            return;
        }
        let len = stream.queued.min(PAYLOAD_BYTES).min(window.max(0) as usize);
        if len > 0 {
            self.put_data_head(key, len);
            let stream = &mut self.streams[key.0 as usize];
            stream.take_queued(len, |part| self.output.push(part));
            if stream.ending.is_some() {
                self.unread -= len;
            }
            if stream.queued < limits::GRPC_REPLY_QUEUE_BYTES {
                wake(&mut stream.wakers.room);
            }
        }
        let stream = &mut self.streams[key.0 as usize];
        if stream.queued > 0 {
            self.schedule(key);
        } else if let Some(ending) = stream.ending.take() {
            match ending {
                Ending::Status(status) => self.put_status(key, &status),
                Ending::Bare => self.put_end(key),
            }
        } else if stream.queue.capacity() > 8 {
            stream.queue.shrink_to(0);
        }
    }

    fn put_data_head(&mut self, key: Key, len: usize) {
        let stream = &mut self.streams[key.0 as usize];
        stream.send_window_over -= len as i64;
        self.send_window -= len as i64;
        let head = FrameHead { len, kind: frame::DATA, flags: 0, stream: stream.id };
        self.output.joined().extend_from_slice(&head.bytes());
        self.replied = true;
    }

    fn put_end(&mut self, key: Key) {
        let stream = &mut self.streams[key.0 as usize];
        stream.local = Half::Ended;
        let head = FrameHead { len: 0, kind: frame::DATA, flags: frame::FLAG_END_STREAM, stream: stream.id };
        self.output.joined().extend_from_slice(&head.bytes());
        self.settle(key);
    }

    fn put_status(&mut self, key: Key, status: &Status) {
        let stream = &mut self.streams[key.0 as usize];
        stream.local = Half::Ended;
        let id = stream.id;
        self.put_block(id, frame::FLAG_END_STREAM, |encoder, out| response::put_status(encoder, out, status));
        self.settle(key);
    }

    /// A header block in as many frames as it takes.
    fn put_block(&mut self, id: u32, flags: u8, write: impl FnOnce(&mut Encoder, &mut Vec<u8>)) {
        self.replied = true;
        let out = self.output.joined();
        let at = out.len();
        out.extend_from_slice(&[0; HEAD_BYTES]);
        self.encoder.begin(out);
        write(&mut self.encoder, out);
        let len = out.len() - at - HEAD_BYTES;
        let head = FrameHead { len, kind: frame::HEADERS, flags: flags | frame::FLAG_END_HEADERS, stream: id };
        if len <= PAYLOAD_BYTES {
            out[at..at + HEAD_BYTES].copy_from_slice(&head.bytes());
            return;
        }
        let block = out.split_off(at + HEAD_BYTES);
        out.truncate(at);
        let frames = block.chunks(PAYLOAD_BYTES);
        let last = frames.len() - 1;
        for (number, piece) in frames.enumerate() {
            let (kind, first_flags) = if number == 0 { (frame::HEADERS, flags) } else { (frame::CONTINUATION, 0) };
            let end = if number == last { frame::FLAG_END_HEADERS } else { 0 };
            let head = FrameHead { len: piece.len(), kind, flags: first_flags | end, stream: id };
            out.extend_from_slice(&head.bytes());
            out.extend_from_slice(piece);
        }
    }
}
