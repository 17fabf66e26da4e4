//! The signal that a shard is to be emptied: fired once, seen by every connection and by every stream that asks.
//! It is of one shard and carries nothing; what is done about it is each listener's own matter.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    task::{Context, Poll, Waker},
};

use slab::Slab;

/// A cheap handle to the signal of one shard. Clones are the same signal.
#[derive(Clone, Default)]
pub struct Drain(Rc<Signal>);

#[derive(Default)]
struct Signal {
    fired: Cell<bool>,
    waiting: RefCell<Slab<Waker>>,
}

impl Drain {
    pub fn new() -> Self {
        Drain::default()
    }

    /// Fires the signal: whoever waits is woken, whoever asks later is told. Firing again does nothing.
    pub fn fire(&self) {
        if self.0.fired.replace(true) {
            return;
        }
        // Taken out first: what is woken may come back and wait anew.
        let waiting: Vec<Waker> = self.0.waiting.borrow_mut().iter().map(|(_, waker)| waker.clone()).collect();
        for waker in waiting {
            waker.wake();
        }
    }

    pub fn is_fired(&self) -> bool {
        self.0.fired.get()
    }

    /// Somebody who waits for the signal. Its place in the queue is given back when it is dropped.
    pub fn waiter(&self) -> Waiter {
        Waiter { drain: self.clone(), place: None }
    }
}

/// One who waits for a `Drain`.
pub struct Waiter {
    drain: Drain,
    place: Option<usize>,
}

impl Waiter {
    /// Ready once the signal has been fired, and ever after.
    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.drain.is_fired() {
            return Poll::Ready(());
        }
        let mut waiting = self.drain.0.waiting.borrow_mut();
        match self.place {
            Some(place) => waiting[place].clone_from(context.waker()),
            None => self.place = Some(waiting.insert(context.waker().clone())),
        }
        Poll::Pending
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            self.drain.0.waiting.borrow_mut().remove(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_waiter_is_told_once_the_signal_has_fired_and_leaves_no_trace() {
        let drain = Drain::new();
        let mut context = Context::from_waker(Waker::noop());
        let mut waiter = drain.waiter();
        assert!(waiter.poll(&mut context).is_pending());
        assert!(waiter.poll(&mut context).is_pending());
        assert_eq!(drain.0.waiting.borrow().len(), 1);
        drain.clone().fire();
        assert!(waiter.poll(&mut context).is_ready());
        assert!(drain.waiter().poll(&mut context).is_ready());
        drop(waiter);
        assert!(drain.0.waiting.borrow().is_empty());
    }
}
