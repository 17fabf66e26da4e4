//! Requests of one shard that wait for the raft core: a slot each, found again by token. An answer to a request that
//! has been given up finds its slot's life changed and is dropped.

use std::{
    cell::RefCell,
    future::Future,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use slab::Slab;

pub use crate::raft::mail::Token;

struct Slot<T> {
    life: u32,
    /// When the request began, in milliseconds of the shard's clock, for the sweep.
    since_ms: u64,
    answer: Option<T>,
    waker: Option<Waker>,
}

/// The waiting requests whose answers are of type `T`.
pub struct Pending<T> {
    slots: RefCell<Slab<Slot<T>>>,
    lives: RefCell<u32>,
}

impl<T> Default for Pending<T> {
    fn default() -> Self {
        Pending { slots: RefCell::new(Slab::new()), lives: RefCell::new(0) }
    }
}

impl<T> Pending<T> {
    pub fn len(&self) -> usize {
        self.slots.borrow().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Opens a slot. The future resolves with what `answer` is given for its token; dropping it gives the slot up.
    pub fn wait(self: &Rc<Self>, now_ms: u64) -> Waiting<T> {
        let life = {
            let mut lives = self.lives.borrow_mut();
            *lives = lives.wrapping_add(1);
            *lives
        };
        let slot = self.slots.borrow_mut().insert(Slot { life, since_ms: now_ms, answer: None, waker: None });
        Waiting { pending: self.clone(), token: Token { slot: slot as u32, life } }
    }

    /// Gives a request its answer. False if nobody waits for it any more.
    pub fn answer(&self, token: Token, answer: T) -> bool {
        let waker = {
            let mut slots = self.slots.borrow_mut();
            match slots.get_mut(token.slot as usize) {
                Some(slot) if slot.life == token.life && slot.answer.is_none() => {
                    slot.answer = Some(answer);
                    slot.waker.take()
                }
                _ => return false,
            }
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        true
    }

    /// Whether anybody still waits for an answer.
    pub fn is_awaited(&self, token: Token) -> bool {
        self.slots.borrow().get(token.slot as usize).is_some_and(|slot| slot.life == token.life)
    }

    /// Answers every request that has waited since before `before_ms`, by when it came. For timeouts, and with `u64::MAX` for the
    /// end of the server. Returns how many there were.
    pub fn expire(&self, before_ms: u64, mut answer: impl FnMut(u64) -> T) -> usize {
        let late: Vec<(Token, u64)> = self
            .slots
            .borrow()
            .iter()
            .filter(|(_, slot)| slot.answer.is_none() && slot.since_ms < before_ms)
            .map(|(at, slot)| (Token { slot: at as u32, life: slot.life }, slot.since_ms))
            .collect();
        for (token, since_ms) in &late {
            self.answer(*token, answer(*since_ms));
        }
        late.len()
    }
}

/// A request's wait for its answer.
pub struct Waiting<T> {
    pending: Rc<Pending<T>>,
    token: Token,
}

impl<T> Waiting<T> {
    pub fn token(&self) -> Token {
        self.token
    }

    /// Looks at the answer, if it is there, for who does not await it.
    pub fn peek<R>(&self, look: impl FnOnce(&T) -> R) -> Option<R> {
        self.pending.slots.borrow()[self.token.slot as usize].answer.as_ref().map(look)
    }
}

impl<T> Future for Waiting<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let mut slots = self.pending.slots.borrow_mut();
        let slot = &mut slots[self.token.slot as usize];
        if let Some(answer) = slot.answer.take() {
            return Poll::Ready(answer);
        }
        match &slot.waker {
            Some(waker) if waker.will_wake(context.waker()) => {}
            _ => slot.waker = Some(context.waker().clone()),
        }
        Poll::Pending
    }
}

impl<T> Drop for Waiting<T> {
    fn drop(&mut self) {
        let removed = self.pending.slots.borrow_mut().try_remove(self.token.slot as usize);
        debug_assert!(removed.is_some_and(|slot| slot.life == self.token.life), "a slot was given away while in use");
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn an_answer_finds_its_request() {
        let pending = Rc::new(Pending::default());
        let (first, second) = (pending.wait(0), pending.wait(0));
        assert!(pending.answer(second.token(), 2));
        assert!(pending.answer(first.token(), 1));
        assert_eq!(first.now_or_never(), Some(1));
        assert_eq!(second.now_or_never(), Some(2));
        assert!(pending.is_empty());
    }

    #[test]
    fn a_late_answer_never_reaches_the_slots_next_user() {
        let pending = Rc::new(Pending::default());
        let given_up = pending.wait(0);
        let token = given_up.token();
        drop(given_up);
        let next = pending.wait(0);
        assert_eq!(next.token().slot, token.slot);
        assert!(!pending.is_awaited(token) && pending.is_awaited(next.token()));
        assert!(!pending.answer(token, 1));
        assert_eq!(next.now_or_never(), None::<i32>);
    }

    #[test]
    fn expiry_takes_the_old_ones_only() {
        let pending = Rc::new(Pending::default());
        let (old, new) = (pending.wait(10), pending.wait(20));
        assert_eq!(pending.expire(20, |_| "late"), 1);
        assert_eq!(old.now_or_never(), Some("late"));
        assert_eq!(new.now_or_never(), None);
    }
}
