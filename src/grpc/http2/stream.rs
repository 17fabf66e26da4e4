//! One stream: its windows, what has come and was not taken, what is to go and was not let. Small while nothing
//! happens, since there may be hundreds of thousands of them.

use std::{
    collections::VecDeque,
    task::{Context, Waker},
};

use bytes::{Buf, Bytes};

use crate::error::Status;

/// How an answer ends, behind what is queued.
pub(super) enum Ending {
    Status(Status),
    /// As HTTP without gRPC.
    Bare,
}

/// Where a stream is found as long as its call holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key(pub(super) u32);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Half {
    Open,
    Ended,
}

pub(super) struct Stream {
    pub id: u32,
    /// The client's half.
    pub remote: Half,
    /// Ours.
    pub local: Half,
    /// By either side: whatever is queued goes nowhere.
    pub reset: bool,
    /// It has been handed to the layer above.
    pub begun: bool,
    /// A call has it.
    pub held: bool,
    /// Its number is still found.
    pub listed: bool,
    /// It is among the streams that may have something to send.
    pub scheduled: bool,
    /// What comes is not wanted any more.
    pub unread: bool,

    pub body: Body,
    /// Bytes that are still to come by the client's word; None: it has not given it.
    pub content_left: Option<u64>,
    /// What the client may still send.
    pub receive_window: i64,
    /// Taken, and not yet given back to the window.
    pub released: i64,

    /// What may be sent is this and the first window of all streams, which the client may change.
    pub send_window_over: i64,
    pub queue: VecDeque<Bytes>,
    pub queued: usize,
    /// Comes after what is queued.
    pub ending: Option<Ending>,

    pub wakers: Wakers,
}

impl Stream {
    pub fn new(id: u32, receive_window: i64, content_length: Option<u64>) -> Self {
        Stream {
            id,
            remote: Half::Open,
            local: Half::Open,
            reset: false,
            begun: false,
            held: false,
            listed: true,
            scheduled: false,
            unread: false,
            body: Body::default(),
            content_left: content_length,
            receive_window,
            released: 0,
            send_window_over: 0,
            queue: VecDeque::new(),
            queued: 0,
            ending: None,
            wakers: Wakers::default(),
        }
    }

    pub fn is_closed(&self) -> bool {
        self.reset || (self.remote == Half::Ended && self.local == Half::Ended)
    }

    /// What may be sent on it, `first` being the first window of all streams; the connection's window aside.
    pub fn send_window(&self, first: i64) -> i64 {
        first + self.send_window_over
    }

    /// Whether it has just come to be among those that may have something to send. One whose own window is shut waits for
    /// the client to open it.
    pub fn schedule(&mut self, first: i64) -> bool {
        let more = self.send_window(first) > 0 && self.queued > 0 && !self.scheduled;
        self.scheduled |= more;
        more
    }

    /// Takes `len` bytes off the queue.
    pub fn take_queued(&mut self, mut len: usize, mut each: impl FnMut(Bytes)) {
        self.queued -= len;
        while len > 0 {
            let front = &mut self.queue[0];
            if front.len() > len {
                each(front.split_to(len));
                return;
            }
            len -= front.len();
            each(self.queue.pop_front().expect("there is a front"));
        }
    }

    /// Throws away what waits. Gives how many bytes of a complete answer that were.
    pub fn clear_queue(&mut self) -> usize {
        self.queue = VecDeque::new();
        let queued = std::mem::take(&mut self.queued);
        if self.ending.take().is_some() { queued } else { 0 }
    }
}

/// Who is to be told of what happens to a stream.
#[derive(Default)]
pub(super) struct Wakers {
    /// Its end.
    pub end: Option<Waker>,
    /// More of the body, or its end.
    pub body: Option<Waker>,
    /// Room in the queue.
    pub room: Option<Waker>,
}

pub(super) fn store(slot: &mut Option<Waker>, context: &Context<'_>) {
    match slot {
        Some(waker) => waker.clone_from(context.waker()),
        None => *slot = Some(context.waker().clone()),
    }
}

pub(super) fn wake(slot: &mut Option<Waker>) {
    if let Some(waker) = slot.take() {
        waker.wake();
    }
}

impl Wakers {
    pub fn wake_all(&mut self) {
        wake(&mut self.end);
        wake(&mut self.body);
        wake(&mut self.room);
    }
}

/// Bytes of a request's body that have not been taken: copied out of what was read from the network, once.
#[derive(Default)]
pub struct Body {
    bytes: Vec<u8>,
    /// Taken of them.
    at: usize,
    /// Of those left, bytes whose window has been given back although they have not been taken.
    pub given_back: usize,
}

impl Body {
    pub fn len(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// Bytes whose window is still to be given back.
    pub fn unreturned(&self) -> usize {
        self.len() - self.given_back
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes[self.at..]
    }

    /// The next `len` bytes belong together: room is made for them by and by, since a client may say what it likes.
    pub fn expect(&mut self, len: usize) {
        let have = self.bytes.capacity() - self.at;
        if have < len && self.len() * 2 > have {
            let room = len.min((4 * self.len()).max(64 * 1024));
            self.bytes.reserve_exact(room - self.len());
        }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        // Moving what is left costs no more than what has been taken did.
        if self.at > 0 && self.at >= self.len() {
            self.bytes.drain(..self.at);
            self.at = 0;
        }
        if self.bytes.is_empty() {
            // Most bodies are one frame, and memory to spare would be kept as long as the message.
            self.bytes.reserve_exact(bytes.len());
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Takes the next `skip + len` bytes, the first `skip` of which are left out. Where that is all there is, it is not
    /// copied.
    pub(super) fn take(&mut self, skip: usize, len: usize) -> Bytes {
        let (from, until) = (self.at + skip, self.at + skip + len);
        if until == self.bytes.len() {
            let bytes = std::mem::take(self).bytes;
            if from <= len {
                let mut bytes = Bytes::from(bytes);
                bytes.advance(from);
                return bytes;
            }
            // Much of it has been taken before and would be kept by the little that is left.
            return Bytes::copy_from_slice(&bytes[from..]);
        }
        self.at = until;
        Bytes::copy_from_slice(&self.bytes[from..until])
    }

    pub(super) fn clear(&mut self) {
        *self = Body::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_gives_out_what_it_was_given() {
        let mut body = Body::default();
        body.push(b"12abc12d");
        assert_eq!(body.take(2, 3), "abc");
        assert_eq!(body.bytes(), b"12d");
        body.push(b"ef12");
        assert_eq!(body.len(), 7);
        assert_eq!(body.take(2, 3), "def");
        assert_eq!(body.take(2, 0), "");
        assert_eq!(body.len(), 0);
        body.push(&[7; 1000]);
        let at = body.bytes().as_ptr();
        let whole = body.take(5, 995);
        assert_eq!((whole.len(), whole.as_ptr()), (995, at.wrapping_add(5)), "not copied");
    }

    #[test]
    fn a_queue_is_taken_in_any_steps() {
        let mut stream = Stream::new(1, 0, None);
        stream.queue.extend(["ab", "cde", "f"].map(|text| Bytes::from_static(text.as_bytes())));
        stream.queued = 6;
        let mut out = Vec::new();
        for len in [1, 2, 0, 3] {
            stream.take_queued(len, |part| out.extend_from_slice(&part));
        }
        assert_eq!(out, b"abcdef");
        assert_eq!((stream.queued, stream.queue.len()), (0, 0));
    }
}
