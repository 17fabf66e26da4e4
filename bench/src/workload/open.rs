//! The open loop: calls leave at their times, whether or not those before are answered, and a latency counts from the time
//! at which its call was due.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::Semaphore;
use urd_client::Client;

use super::calls::Request;
use crate::{
    measure::Latency,
    pace::{Alarm, Schedule},
};

/// Calls under way. Further ones wait, and are late; 20,000 of some 2 kB each are what a driver can afford.
const IN_FLIGHT_MAX: usize = 20_000;
/// How long the last calls may take after the end.
const DRAIN_PATIENCE: Duration = Duration::from_secs(60);

/// A loop that runs until it is finished.
pub struct OpenLoop {
    state: Rc<State>,
    task: tokio::task::JoinHandle<()>,
}

struct State {
    is_over: Cell<bool>,
    /// Calls due from here on count.
    measured_from: Cell<Option<Instant>>,
    sent: Cell<u64>,
    latency: RefCell<Latency>,
    failure: RefCell<Option<String>>,
    permits: Arc<Semaphore>,
}

impl OpenLoop {
    /// `next` gives the calls, by their number from 0; they go over the connections in turn.
    ///
    /// # Errors
    /// If there is no timer to be had.
    pub fn start(
        connections: Vec<Client>,
        per_second: f64,
        mut next: impl FnMut(u64) -> Request + 'static,
    ) -> Result<Self, String> {
        if !(per_second > 0.0 && per_second.is_finite()) {
            return Err(format!("a rate of {per_second} a second is none"));
        }
        let mut alarm = Alarm::new().map_err(|cause| cause.to_string())?;
        let state = Rc::new(State {
            is_over: Cell::new(false),
            measured_from: Cell::new(None),
            sent: Cell::new(0),
            latency: RefCell::default(),
            failure: RefCell::default(),
            permits: Arc::new(Semaphore::new(IN_FLIGHT_MAX)),
        });
        let shared = state.clone();
        let schedule = Schedule { start: Instant::now(), per_second };
        let task = tokio::task::spawn_local(async move {
            for number in 0.. {
                let due = schedule.due(number);
                if let Err(cause) = alarm.until(due).await {
                    shared.fail(cause.to_string());
                }
                let permit = shared.permits.clone().acquire_owned().await.expect("never closed");
                if shared.is_over.get() {
                    break;
                }
                shared.sent.set(number + 1);
                let (client, request, shared) =
                    (connections[number as usize % connections.len()].clone(), next(number), shared.clone());
                tokio::task::spawn_local(async move {
                    match request.call(&client).await {
                        Ok(()) => shared.done(due),
                        Err(cause) => shared.fail(cause),
                    }
                    drop(permit);
                });
            }
        });
        Ok(OpenLoop { state, task })
    }

    /// Forgets what was measured; calls due from now on count.
    pub fn measure_from_now(&self) {
        self.state.latency.borrow_mut().clear();
        self.state.measured_from.set(Some(Instant::now()));
    }

    /// What was answered since the last lap. Those still under way count in the next one: they were due before, but the
    /// slowest are among them, and none may be lost.
    pub fn lap(&self) -> Latency {
        self.state.latency.take()
    }

    /// # Errors
    /// The first call's that failed.
    pub fn check(&self) -> Result<(), String> {
        self.state.failure.borrow().clone().map_or(Ok(()), Err)
    }

    /// How many calls were sent, measured or not.
    pub fn sent(&self) -> u64 {
        self.state.sent.get()
    }

    /// Sends no more, waits for those under way, and gives the latencies: the slowest are in them.
    pub async fn finish(self) -> Result<Latency, String> {
        self.state.is_over.set(true);
        let all = self.state.permits.acquire_many(IN_FLIGHT_MAX as u32);
        let drained = tokio::time::timeout(DRAIN_PATIENCE, all).await;
        self.task.abort();
        self.check()?;
        match drained {
            Ok(permits) => drop(permits.expect("never closed")),
            Err(_) => return Err(format!("calls without an answer {} s after the last", DRAIN_PATIENCE.as_secs())),
        }
        Ok(self.state.latency.take())
    }
}

impl State {
    fn done(&self, due: Instant) {
        if self.measured_from.get().is_some_and(|from| due >= from) {
            self.latency.borrow_mut().record(due.elapsed());
        }
    }

    fn fail(&self, cause: String) {
        self.is_over.set(true);
        self.failure.borrow_mut().get_or_insert(cause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> State {
        State {
            is_over: Cell::new(false),
            measured_from: Cell::new(None),
            sent: Cell::new(0),
            latency: RefCell::default(),
            failure: RefCell::default(),
            permits: Arc::new(Semaphore::new(1)),
        }
    }

    #[test]
    fn a_call_counts_from_when_it_was_due_and_in_the_lap_in_which_it_is_answered() {
        let now = Instant::now();
        let state = state();
        state.done(now - Duration::from_secs(3));
        assert_eq!(state.latency.borrow().count(), 0, "warming up");
        state.measured_from.set(Some(now - Duration::from_secs(2)));
        state.done(now - Duration::from_secs(3));
        assert_eq!(state.latency.borrow().count(), 0, "it was due while warming up");
        state.done(now - Duration::from_secs(1));
        assert!(state.latency.borrow().max_ms() >= 1_000.0);
        state.latency.take();
        state.done(now - Duration::from_secs(1));
        assert_eq!(state.latency.borrow().count(), 1, "due in the lap before, answered in this one");
    }

    #[test]
    fn the_first_failure_is_told_and_ends_the_loop() {
        let state = state();
        state.fail("one".to_owned());
        state.fail("two".to_owned());
        assert!(state.is_over.get());
        assert_eq!(state.failure.borrow().as_deref(), Some("one"));
    }
}
