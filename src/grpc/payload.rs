//! A message in h2's hands: its parts, written one after another without being joined, and a count of what h2 has not
//! written yet. The count is how a stream knows that its reader is slow: h2 does not tell.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    io::IoSlice,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use bytes::{Buf, Bytes};

use crate::limits;

/// Bytes of one message on their way out.
pub(super) struct Payload {
    front: Bytes,
    /// Empty for a message of one part: then it holds no memory.
    rest: VecDeque<Bytes>,
    remaining: usize,
    queue: Option<Rc<Queue>>,
}

impl Payload {
    /// A message of one part that nobody waits for.
    pub fn whole(bytes: Bytes) -> Self {
        Payload { remaining: bytes.len(), front: bytes, rest: VecDeque::new(), queue: None }
    }

    /// A message of several parts, counted in `queue` until it has been written or thrown away.
    pub fn queued(parts: impl IntoIterator<Item = Bytes>, queue: &Rc<Queue>) -> Self {
        let mut parts = parts.into_iter().filter(|part| !part.is_empty());
        let front = parts.next().unwrap_or_default();
        let rest: VecDeque<Bytes> = parts.collect();
        let remaining = front.len() + rest.iter().map(Bytes::len).sum::<usize>();
        queue.add(remaining);
        Payload { front, rest, remaining, queue: Some(queue.clone()) }
    }
}

impl Buf for Payload {
    fn remaining(&self) -> usize {
        self.remaining
    }

    fn chunk(&self) -> &[u8] {
        &self.front
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut filled = 0;
        for (slice, part) in slices.iter_mut().zip(std::iter::once(&self.front).chain(&self.rest)) {
            if !part.is_empty() {
                *slice = IoSlice::new(part);
                filled += 1;
            }
        }
        filled
    }

    fn advance(&mut self, mut by: usize) {
        assert!(by <= self.remaining, "advanced past the end of a message");
        self.remaining -= by;
        if let Some(queue) = &self.queue {
            queue.subtract(by);
        }
        while by >= self.front.len() {
            by -= self.front.len();
            match self.rest.pop_front() {
                Some(next) => self.front = next,
                None => {
                    self.front = Bytes::new();
                    return;
                }
            }
        }
        self.front.advance(by);
    }
}

impl Drop for Payload {
    /// h2 throws away what is queued when a stream is reset.
    fn drop(&mut self) {
        if let Some(queue) = &self.queue {
            queue.subtract(self.remaining);
        }
    }
}

/// How much of a stream's messages h2 still holds.
#[derive(Default)]
pub(super) struct Queue {
    bytes: Cell<usize>,
    waiting: RefCell<Option<Waker>>,
}

impl Queue {
    pub fn bytes(&self) -> usize {
        self.bytes.get()
    }

    /// Ready while less than one DATA frame is queued.
    pub fn poll_room(&self, context: &mut Context<'_>) -> Poll<()> {
        if self.bytes.get() < limits::GRPC_REPLY_QUEUE_BYTES {
            return Poll::Ready(());
        }
        *self.waiting.borrow_mut() = Some(context.waker().clone());
        Poll::Pending
    }

    fn add(&self, bytes: usize) {
        self.bytes.set(self.bytes.get() + bytes);
    }

    fn subtract(&self, bytes: usize) {
        let left = self.bytes.get() - bytes;
        self.bytes.set(left);
        if left < limits::GRPC_REPLY_QUEUE_BYTES {
            let waiting = self.waiting.borrow_mut().take();
            if let Some(waker) = waiting {
                waker.wake();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_come_out_in_order_at_every_step_and_are_counted_until_written() {
        let parts = || ["ab", "", "cde", "f"].map(|part| Bytes::from_static(part.as_bytes()));
        for step in 1..=6 {
            let queue = Rc::new(Queue::default());
            let mut payload = Payload::queued(parts(), &queue);
            let mut out = Vec::new();
            while payload.has_remaining() {
                assert_eq!(queue.bytes(), payload.remaining());
                let mut slices = [IoSlice::new(&[]); 8];
                let filled = payload.chunks_vectored(&mut slices);
                let listed: usize = slices[..filled].iter().map(|slice| slice.len()).sum();
                assert_eq!(listed, payload.remaining());
                let by = step.min(payload.remaining());
                let mut taken = vec![0; by];
                payload.copy_to_slice(&mut taken);
                out.extend(taken);
            }
            assert_eq!(out, b"abcdef");
            assert_eq!(queue.bytes(), 0);
        }
    }

    #[test]
    fn a_message_thrown_away_makes_room() {
        let queue = Rc::new(Queue::default());
        let mut context = Context::from_waker(Waker::noop());
        let large = Bytes::from(vec![0; limits::GRPC_REPLY_QUEUE_BYTES]);
        let payload = Payload::queued([large], &queue);
        assert!(queue.poll_room(&mut context).is_pending());
        drop(payload);
        assert!(queue.poll_room(&mut context).is_ready());
        assert!(queue.waiting.borrow().is_none());
    }
}
