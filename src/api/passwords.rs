//! Passwords that a shard has to hash: one after another on a background thread, where they take tens of milliseconds and
//! hold up neither the shard nor the disk's reads. Who has given up is passed over.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
};

use bytes::Bytes;

use super::service::Services;
use crate::{
    auth::password,
    error::{self, Status},
    limits, runtime,
    shard::pending::{Pending, Token},
};

enum Verdict {
    Hashed(Result<String, Status>),
    Matches(bool),
}

type Work = Box<dyn FnOnce() -> Verdict + Send>;

#[derive(Default)]
pub(super) struct Passwords {
    queue: RefCell<VecDeque<(Token, Work)>>,
    working: Cell<bool>,
    waiting: Rc<Pending<Verdict>>,
}

impl Services {
    /// A hash to be kept.
    ///
    /// # Errors
    /// PASSWORD_TOO_LONG; TOO_MANY_REQUESTS where more wait than can be done in time.
    pub(super) async fn hash_password(self: &Rc<Self>, password: String) -> Result<String, Status> {
        if password.len() > password::BYTES_MAX {
            return Err(error::PASSWORD_TOO_LONG);
        }
        let cost = self.shard.member.config.bcrypt_cost;
        match self.work_on(Box::new(move || Verdict::Hashed(password::hash(&password, cost)))).await? {
            Verdict::Hashed(result) => result,
            Verdict::Matches(_) => unreachable!("a hash was asked for"),
        }
    }

    /// Whether a password belongs to a hash. It takes as long where there is none.
    ///
    /// # Errors
    /// TOO_MANY_REQUESTS.
    pub(super) async fn password_matches(self: &Rc<Self>, hash: Bytes, password: String) -> Result<bool, Status> {
        let cost = self.shard.member.config.bcrypt_cost;
        match self.work_on(Box::new(move || Verdict::Matches(password::matches(&hash, &password, cost)))).await? {
            Verdict::Matches(matches) => Ok(matches),
            Verdict::Hashed(_) => unreachable!("a comparison was asked for"),
        }
    }

    async fn work_on(self: &Rc<Self>, work: Work) -> Result<Verdict, Status> {
        let waiting = {
            let Passwords { queue, waiting, .. } = &self.passwords;
            let mut queue = queue.borrow_mut();
            if queue.len() >= limits::PASSWORDS_WAITING_MAX {
                queue.retain(|(token, _)| waiting.is_awaited(*token));
            }
            if queue.len() >= limits::PASSWORDS_WAITING_MAX {
                return Err(error::TOO_MANY_REQUESTS);
            }
            let answer = waiting.wait(0);
            queue.push_back((answer.token(), work));
            answer
        };
        if !self.passwords.working.replace(true) {
            runtime::spawn(self.clone().work_off());
        }
        Ok(waiting.await)
    }

    async fn work_off(self: Rc<Self>) {
        let Passwords { queue, working, waiting } = &self.passwords;
        loop {
            let Some((token, work)) = queue.borrow_mut().pop_front() else { break };
            if waiting.is_awaited(token) {
                let verdict = runtime::background(work).await;
                self.shard.metrics.password_hashes.increment();
                waiting.answer(token, verdict);
            }
        }
        working.set(false);
    }
}
