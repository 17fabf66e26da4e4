//! Threads for work that blocks: a few beside each executor, of lower priority, on any core the process may use.
//! What is queued is done, whether or not anybody waits for it still.

use std::{
    collections::VecDeque,
    io, mem,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    task::{Poll, Waker},
    thread,
    time::Duration,
};

use super::os;
use crate::limits;

type Work = Box<dyn FnOnce() + Send>;

pub struct Pool {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    news: Condvar,
}

#[derive(Default)]
struct Queue {
    work: VecDeque<Work>,
    /// The executor is gone: end when all is done.
    closed: bool,
}

impl Pool {
    pub fn start(name: &str, threads: usize, nice: i32, cores: &[usize]) -> io::Result<Self> {
        let pool = Pool { shared: Arc::default() };
        for number in 0..threads {
            let (shared, cores) = (pool.shared.clone(), cores.to_vec());
            thread::Builder::new().name(format!("{name}-{number}")).spawn(move || {
                // Threads inherit the one core of their executor. Where it cannot be undone, the work is done there.
                let _ = os::set_cores(&cores);
                os::lower_this_thread(nice);
                os::take_long_turns(nice, Duration::from_millis(limits::BLOCKING_TURN_MS));
                shared.serve();
            })?;
        }
        Ok(pool)
    }

    /// Queues work, which must not panic.
    pub fn queue(&self, work: Work) {
        self.shared.lock().work.push_back(work);
        self.shared.news.notify_one();
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.news.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Nothing panics under this lock.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self) {
        let mut queue = self.lock();
        loop {
            if let Some(work) = queue.work.pop_front() {
                drop(queue);
                work();
                queue = self.lock();
            } else if queue.closed {
                return;
            } else {
                queue = self.news.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }
}

enum Letter<T> {
    /// Nothing yet; who waits for it.
    Awaited(Option<Waker>),
    Here(T),
    Taken,
}

/// A way back for one value from a thread to a task: what the thread calls with it, what the task awaits.
pub fn answer<T>() -> (impl FnOnce(T), impl Future<Output = T>) {
    let letter = Arc::new(Mutex::new(Letter::Awaited(None)));
    let told = letter.clone();
    let tell = move |value| {
        let before = mem::replace(&mut *told.lock().unwrap_or_else(PoisonError::into_inner), Letter::Here(value));
        if let Letter::Awaited(Some(waker)) = before {
            waker.wake();
        }
    };
    let outcome = std::future::poll_fn(move |context| {
        let mut letter = letter.lock().unwrap_or_else(PoisonError::into_inner);
        match mem::replace(&mut *letter, Letter::Taken) {
            Letter::Here(value) => Poll::Ready(value),
            Letter::Awaited(_) => {
                *letter = Letter::Awaited(Some(context.waker().clone()));
                Poll::Pending
            }
            Letter::Taken => unreachable!("not polled again once it is over"),
        }
    });
    (tell, outcome)
}
