//! Messages out of the body of one call: prefix, length, decompression, and the bounds on each. Window is given back as
//! messages are taken, so that a handler that does not read holds its caller; no more is held than a window and one
//! unfinished message. (gRPC over HTTP/2, "Length-Prefixed-Message"; grpc-go: rpc_util.go.)

use std::{
    rc::Rc,
    task::{Context, Poll},
};

use bytes::Bytes;

use super::{
    encoding::{self, Encoding},
    http2::{BodyEnd, Connection, Key},
    link::Link,
};
use crate::{
    error::{self, Status},
    wire::frame::PREFIX_BYTES,
};

/// The inbound half of one call.
pub(super) struct Inbound {
    link: Rc<Link>,
    key: Key,
    encoding: Encoding,
    /// Bytes of a message that is not complete whose window has been given back.
    released: usize,
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
    pub fn new(link: Rc<Link>, key: Key, encoding: Encoding) -> Self {
        Inbound { link, key, encoding, released: 0 }
    }

    /// The next message; None where the caller has closed its side. Pending: `context` is woken when there is more.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Broken>>> {
        let next = self.next();
        if next.is_pending() {
            self.link.with(|http2| http2.await_body(self.key, context));
        }
        next
    }

    /// The next message among what has come.
    pub fn next(&mut self) -> Poll<Option<Result<Bytes, Broken>>> {
        let link = self.link.clone();
        let (compressed, message) = match link.with(|http2| self.take(http2)) {
            Poll::Ready(Some(Ok(taken))) => taken,
            Poll::Ready(Some(Err(broken))) => return Poll::Ready(Some(Err(broken))),
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Pending => return Poll::Pending,
        };
        if !compressed {
            return Poll::Ready(Some(Ok(message)));
        }
        let limit = self.link.settings.max_message_bytes();
        Poll::Ready(Some(encoding::decompress(&message, limit).map_err(Broken::Refused)))
    }

    /// The next message as it was sent, and whether it is compressed.
    fn take(&mut self, http2: &mut Connection) -> Poll<Option<Result<(bool, Bytes), Broken>>> {
        let body = http2.body(self.key);
        let Some(&[compressed, ref len @ ..]) = body.bytes().first_chunk::<PREFIX_BYTES>() else {
            return self.incomplete(http2);
        };
        let len = u32::from_be_bytes(*len) as usize;
        if let Err(status) = self.admit(compressed, len, self.link.settings.max_message_bytes()) {
            return Poll::Ready(Some(Err(Broken::Refused(status))));
        }
        if body.len() < PREFIX_BYTES + len {
            body.expect(PREFIX_BYTES + len);
            return self.incomplete(http2);
        }
        self.link.hold_unfinished(self.released, 0);
        self.released = 0;
        Poll::Ready(Some(Ok((compressed == 1, http2.take_body(self.key, PREFIX_BYTES, len)))))
    }

    fn admit(&self, compressed: u8, len: usize, limit: usize) -> Result<(), Status> {
        if len > limit {
            return Err(error::received_too_large(len, limit));
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
    fn incomplete(&mut self, http2: &mut Connection) -> Poll<Option<Result<(bool, Bytes), Broken>>> {
        let have = http2.body(self.key).len();
        match http2.body_end(self.key) {
            Some(BodyEnd::Reset) => return Poll::Ready(Some(Err(Broken::Reset))),
            // Less than a prefix is nothing, as it is for grpc-go.
            Some(BodyEnd::Whole) if have < PREFIX_BYTES => return Poll::Ready(None),
            Some(BodyEnd::Whole) => return Poll::Ready(Some(Err(Broken::Cut))),
            None => {}
        }
        if !self.link.hold_unfinished(self.released, have) {
            return Poll::Ready(Some(Err(Broken::Refused(error::TOO_MANY_UNFINISHED))));
        }
        self.released = have;
        http2.give_back(self.key);
        Poll::Pending
    }
}

impl Drop for Inbound {
    fn drop(&mut self) {
        self.link.hold_unfinished(self.released, 0);
        self.link.with(|http2| http2.stop_reading(self.key));
    }
}
