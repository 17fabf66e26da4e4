//! Where the calls of a connection wait before their answers are made, first come first served. An answer that is made waits
//! in memory until its client takes it, and a question of sixty bytes may have one of sixteen MiB: who asks and does not read
//! is not to fill the memory, nor to be in anybody else's way.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use super::link::Link;
use crate::limits;

/// Those who wait, by their places.
#[derive(Default)]
pub(super) struct Gate {
    waiting: RefCell<BTreeMap<u64, Waker>>,
    next: Cell<u64>,
}

impl Gate {
    /// Has the first in line look whether it may go in.
    pub fn wake_first(&self) {
        if let Some((_, waker)) = self.waiting.borrow().first_key_value() {
            waker.wake_by_ref();
        }
    }

    pub fn is_waited_at(&self) -> bool {
        !self.waiting.borrow().is_empty()
    }
}

/// One who waits at the gate for whole answers: until less than `limits::GRPC_UNREAD_BYTES` of them wait for the client.
pub(super) struct Room(Place);

impl Room {
    pub fn of(link: &Rc<Link>) -> Self {
        Room(Place { link: link.clone(), gate: |link| &link.unread, number: None })
    }

    pub fn poll(&mut self, context: &Context<'_>) -> Poll<()> {
        let open = self.0.link.with(|http2| http2.has_room());
        self.0.poll(open, context)
    }
}

/// Leave to make an answer in pieces, `limits::GRPC_LONG_ANSWERS` of them at a time.
pub(super) struct Seat(Rc<Link>);

impl Seat {
    /// Waits for one.
    pub async fn of(link: &Rc<Link>) -> Self {
        let mut place = Place { link: link.clone(), gate: |link| &link.long, number: None };
        std::future::poll_fn(|context| place.poll(link.long_answers.get() < limits::GRPC_LONG_ANSWERS, context)).await;
        link.long_answers.set(link.long_answers.get() + 1);
        Seat(link.clone())
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.long_answers.set(self.0.long_answers.get() - 1);
        self.0.long.wake_first();
    }
}

struct Place {
    link: Rc<Link>,
    gate: fn(&Link) -> &Gate,
    /// None: it need not wait, or has not been asked yet.
    number: Option<u64>,
}

impl Place {
    fn poll(&mut self, open: bool, context: &Context<'_>) -> Poll<()> {
        if open {
            self.leave();
            return Poll::Ready(());
        }
        let gate = (self.gate)(&self.link);
        let number = *self.number.get_or_insert_with(|| gate.next.replace(gate.next.get() + 1));
        gate.waiting.borrow_mut().insert(number, context.waker().clone());
        Poll::Pending
    }

    /// There may be room for the next one, whether this one has gone in or away.
    fn leave(&mut self) {
        if let Some(number) = self.number.take() {
            let gate = (self.gate)(&self.link);
            gate.waiting.borrow_mut().remove(&number);
            gate.wake_first();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.leave();
    }
}
