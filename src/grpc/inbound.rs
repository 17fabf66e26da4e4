//! Messages out of the DATA frames of one call: prefix, length, decompression, and the bounds on each. It takes frames
//! out of h2 as they come and gives window back as messages are taken, so that a handler that does not read holds its
//! caller; it never holds more than a window and one unfinished message.
//! (gRPC over HTTP/2, "Length-Prefixed-Message"; grpc-go: rpc_util.go.)

use std::{
    collections::VecDeque,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes, BytesMut};
use h2::RecvStream;

use super::{
    encoding::{self, Encoding},
    wire::Link,
};
use crate::{
    error::{Code, Status},
    limits,
    wire::frame::PREFIX_BYTES,
};

/// A frame below this that has to wait is copied together with its neighbours: kept alone, a byte could hold on to a
/// whole read buffer.
const COPY_BELOW_BYTES: usize = 4096;

/// Such copies are closed at this size.
const COPIED_BYTES: usize = 16 * 1024;

/// The inbound half of one call.
pub(super) struct Inbound {
    body: RecvStream,
    link: Rc<Link>,
    encoding: Encoding,
    chunks: VecDeque<Bytes>,
    /// Comes after `chunks`: small frames copied together.
    tail: BytesMut,
    buffered: usize,
    /// Of the bytes buffered, those whose window has been given back although their message is not complete.
    released: usize,
    end: Option<End>,
}

/// How the inbound half ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Closed,
    Reset,
}

/// What stands in the caller's way of another message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Broken {
    /// The caller closed its side within a message.
    Cut,
    /// The stream was reset or its connection closed.
    Reset,
    Refused(Status),
}

impl Inbound {
    pub fn new(body: RecvStream, encoding: Encoding, link: Rc<Link>) -> Self {
        Inbound {
            body,
            link,
            encoding,
            chunks: VecDeque::new(),
            tail: BytesMut::new(),
            buffered: 0,
            released: 0,
            end: None,
        }
    }

    /// Takes over what h2 has received. Where that is not the end, `context` is woken when there is more.
    pub fn fill(&mut self, context: &mut Context<'_>) {
        while self.end.is_none() {
            match self.body.poll_data(context) {
                Poll::Ready(Some(Ok(bytes))) => self.push(bytes),
                Poll::Ready(Some(Err(_))) => self.end = Some(End::Reset),
                Poll::Ready(None) => self.end = Some(End::Closed),
                Poll::Pending => return,
            }
        }
    }

    fn push(&mut self, bytes: Bytes) {
        if bytes.is_empty() {
            return;
        }
        self.buffered += bytes.len();
        if self.buffered == bytes.len() || bytes.len() >= COPY_BELOW_BYTES {
            self.close_tail();
            self.chunks.push_back(bytes);
            return;
        }
        self.tail.extend_from_slice(&bytes);
        if self.tail.len() >= COPIED_BYTES {
            self.close_tail();
        }
    }

    fn close_tail(&mut self) {
        if !self.tail.is_empty() {
            self.chunks.push_back(self.tail.split().freeze());
        }
    }

    /// The next message among what has been taken over; None where the caller has closed its side. Pending: `fill`
    /// has to bring more.
    pub fn next(&mut self) -> Poll<Option<Result<Bytes, Broken>>> {
        let Some((compressed, len)) = self.prefix() else {
            return self.incomplete();
        };
        let limit = self.link.settings.max_message_bytes();
        if let Err(status) = self.admit(compressed, len, limit) {
            return Poll::Ready(Some(Err(Broken::Refused(status))));
        }
        if self.buffered < PREFIX_BYTES + len {
            return self.incomplete();
        }
        let message = self.take(len);
        Poll::Ready(Some(if compressed == 1 {
            encoding::decompress(&message, limit).map_err(Broken::Refused)
        } else {
            Ok(message)
        }))
    }

    /// The first five bytes, if they are there.
    fn prefix(&self) -> Option<(u8, usize)> {
        if self.buffered < PREFIX_BYTES {
            return None;
        }
        let mut prefix = [0; PREFIX_BYTES];
        let mut have = 0;
        for chunk in self.chunks.iter().map(|chunk| &chunk[..]).chain([&self.tail[..]]) {
            let by = chunk.len().min(PREFIX_BYTES - have);
            prefix[have..have + by].copy_from_slice(&chunk[..by]);
            have += by;
            if have == PREFIX_BYTES {
                break;
            }
        }
        let [compressed, len @ ..] = prefix;
        Some((compressed, u32::from_be_bytes(len) as usize))
    }

    fn admit(&self, compressed: u8, len: usize, limit: usize) -> Result<(), Status> {
        if len > limit {
            let text = format!("grpc: received message larger than max ({len} vs. {limit})");
            return Err(Status::new(Code::ResourceExhausted, text));
        }
        match (compressed, self.encoding) {
            (0, _) | (1, Encoding::Gzip) => Ok(()),
            (1, Encoding::Identity) => {
                Err(Status::internal("grpc: compressed flag set with identity or empty encoding"))
            }
            _ => Err(Status::internal(format!("grpc: received unexpected payload format {compressed}"))),
        }
    }

    /// A message is not complete. What has come of it is in nobody's way any more: its window is given back, or else a
    /// message larger than the window could never be received.
    fn incomplete(&mut self) -> Poll<Option<Result<Bytes, Broken>>> {
        match self.end {
            Some(End::Reset) => return Poll::Ready(Some(Err(Broken::Reset))),
            // Less than a prefix is nothing, as it is for grpc-go.
            Some(End::Closed) if self.buffered < PREFIX_BYTES => return Poll::Ready(None),
            Some(End::Closed) => return Poll::Ready(Some(Err(Broken::Cut))),
            None => {}
        }
        let more = self.buffered - self.released;
        if more > 0 {
            let unfinished = self.link.unfinished.get() + more;
            if unfinished > limits::GRPC_UNFINISHED_BYTES {
                let text = "grpc: too many bytes of unfinished messages on this connection";
                return Poll::Ready(Some(Err(Broken::Refused(Status::fixed(Code::ResourceExhausted, text)))));
            }
            self.link.unfinished.set(unfinished);
            self.released = self.buffered;
            self.release(more);
        }
        Poll::Pending
    }

    /// Takes out the message whose prefix has been read and which is there as a whole.
    fn take(&mut self, len: usize) -> Bytes {
        let whole = PREFIX_BYTES + len;
        self.buffered -= whole;
        if self.released > 0 {
            // Released bytes are those of this message, none of a later one: they were all there was.
            self.link.unfinished.set(self.link.unfinished.get() - self.released);
        }
        self.release(whole - self.released);
        self.released = 0;
        if self.chunks.is_empty() {
            self.close_tail();
        }
        let front = &mut self.chunks[0];
        if front.len() >= whole {
            front.advance(PREFIX_BYTES);
            let message = front.split_to(len);
            if front.is_empty() {
                self.chunks.pop_front();
            }
            return message;
        }
        self.close_tail();
        let mut skip = PREFIX_BYTES;
        let mut message = Vec::with_capacity(len);
        while skip > 0 || message.len() < len {
            let front = &mut self.chunks[0];
            let by = skip.min(front.len());
            front.advance(by);
            skip -= by;
            let by = front.len().min(len - message.len());
            message.extend_from_slice(&front[..by]);
            front.advance(by);
            if front.is_empty() {
                self.chunks.pop_front();
            }
        }
        Bytes::from(message)
    }

    fn release(&mut self, bytes: usize) {
        // An error says that the stream is gone: then h2 has taken care of it.
        let _ = self.body.flow_control().release_capacity(bytes);
    }
}

impl Drop for Inbound {
    fn drop(&mut self) {
        self.link.unfinished.set(self.link.unfinished.get() - self.released);
    }
}
