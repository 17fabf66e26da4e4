//! The two halves of a streaming call as a handler sees them.

use std::task::{Context, Poll};

use bytes::Bytes;

use crate::error::Status;

/// The messages of the caller, one after another.
pub struct Requests {}

impl Requests {
    /// The next message; None once the caller has closed its side. An error ends the call with that status.
    pub async fn next(&mut self) -> Option<Result<Bytes, Status>> {
        std::future::poll_fn(|context| self.poll_next(context)).await
    }

    pub fn poll_next(&mut self, _context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Status>>> {
        Poll::Pending
    }
}

/// The stream is gone: reset, or its connection closed. Nothing more can be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone;

/// The way back to the caller. Bounded by the stream's and the connection's flow control: a handler that sends
/// without waiting for `poll_ready` is held only by its own count.
pub struct Replies {}

impl Replies {
    /// Ready once what was sent before has been taken over by flow control, so that at most one message is queued.
    pub fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Gone>> {
        Poll::Pending
    }

    /// Queues a sealed message, in one part or several (`Frame::seal_before`).
    pub fn send(&mut self, _parts: impl IntoIterator<Item = Bytes>) -> Result<(), Gone> {
        Ok(())
    }

    /// Bytes queued in this stream that flow control has not taken yet.
    pub fn queued_bytes(&self) -> usize {
        0
    }
}
