//! What a shard's requests leave for the raft core until the turn ends. Any number of handlers add to it; one task
//! takes it all: the raft core itself where it shares the executor, a forwarder where it does not.

use std::{
    cell::RefCell,
    future::poll_fn,
    task::{Context, Poll, Waker},
};

use super::{
    lease::{LeaseAnswer, LeaseCall},
    mail::{Control, Post, Proposal, ToCore},
    pending::Token,
};

#[derive(Default)]
pub struct Outbox {
    mail: RefCell<ToCore>,
    waker: RefCell<Option<Waker>>,
}

impl Outbox {
    pub fn propose(&self, proposal: Proposal) {
        self.mail.borrow_mut().proposals.push(proposal);
        self.wake();
    }

    pub fn read(&self, token: Token) {
        self.mail.borrow_mut().reads.push(token);
        self.wake();
    }

    pub fn control(&self, control: Control) {
        self.mail.borrow_mut().controls.push(control);
        self.wake();
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Ready with everything that has gathered, at least one request.
    pub fn poll_take(&self, context: &mut Context<'_>) -> Poll<ToCore> {
        let mut mail = self.mail.borrow_mut();
        if mail.is_empty() {
            *self.waker.borrow_mut() = Some(context.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(std::mem::take(&mut mail))
    }

    pub async fn take(&self) -> ToCore {
        poll_fn(|context| self.poll_take(context)).await
    }
}

/// What a shard has for one other shard until the turn ends; one forwarder takes it.
#[derive(Default)]
pub struct NeighbourOutbox {
    calls: RefCell<Vec<(Token, LeaseCall)>>,
    answers: RefCell<Vec<(Token, LeaseAnswer)>>,
    waker: RefCell<Option<Waker>>,
}

impl NeighbourOutbox {
    pub fn call(&self, token: Token, call: LeaseCall) {
        self.calls.borrow_mut().push((token, call));
        self.wake();
    }

    pub fn answer(&self, answers: Vec<(Token, LeaseAnswer)>) {
        self.answers.borrow_mut().extend(answers);
        self.wake();
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Ready with everything that has gathered, at least one batch.
    pub fn poll_take(&self, context: &mut Context<'_>) -> Poll<Vec<Post>> {
        let (calls, answers) = (self.calls.take(), self.answers.take());
        if calls.is_empty() && answers.is_empty() {
            *self.waker.borrow_mut() = Some(context.waker().clone());
            return Poll::Pending;
        }
        let mut posts = Vec::with_capacity(2);
        if !calls.is_empty() {
            posts.push(Post::LeaseCalls(calls));
        }
        if !answers.is_empty() {
            posts.push(Post::LeaseAnswers(answers));
        }
        Poll::Ready(posts)
    }

    pub async fn take(&self) -> Vec<Post> {
        poll_fn(|context| self.poll_take(context)).await
    }
}
