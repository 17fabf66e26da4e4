//! Which segments a read has reason to doubt. Whoever reads tells, on any core; one task hears of it and looks the segment
//! through.

use std::{
    collections::BTreeSet,
    future::poll_fn,
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Poll, Waker},
};

/// One for all tables of a log.
#[derive(Debug, Default)]
pub struct Doubts(Mutex<Told>);

#[derive(Debug, Default)]
struct Told {
    /// By life; no more than there are segments.
    segments: BTreeSet<u32>,
    hears: Option<Waker>,
}

impl Doubts {
    fn told(&self) -> MutexGuard<'_, Told> {
        // Nothing panics under this lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn tell(&self, life: u32) {
        let mut told = self.told();
        told.segments.insert(life);
        if let Some(waker) = told.hears.take() {
            waker.wake();
        }
    }

    /// A segment that was told of since this was last asked, if there is one.
    pub fn take(&self) -> Option<u32> {
        self.told().segments.pop_first()
    }

    /// Waits until there is one.
    pub async fn any(&self) {
        poll_fn(|context| {
            let mut told = self.told();
            if !told.segments.is_empty() {
                return Poll::Ready(());
            }
            told.hears = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}
