//! One executor: the loop that runs tasks, looks what the kernel has for them, and sleeps when nobody has anything to
//! do. A turn of it polls what is ready, up to a bound, then takes what the ring has; a turn that ends in sleep costs one
//! system call.

use std::{
    cell::{Cell, RefCell},
    future::Future,
    io,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use super::{
    pool::Pool,
    ring::{Memory, Ring, Transfer},
    tasks::{Header, Home, MAIN, Tasks},
    timers::Timers,
};
use crate::limits;

thread_local! {
    static HERE: RefCell<Option<Rc<Executor>>> = const { RefCell::new(None) };
    static RECENT: Cell<Option<Instant>> = const { Cell::new(None) };
}

pub struct Executor {
    tasks: Tasks,
    pub timers: RefCell<Timers>,
    pub ring: RefCell<Ring>,
    prompt: Pool,
    bulk: Pool,
    /// Tasks that let everything else run first.
    yielded: RefCell<Vec<Waker>>,
    /// Whom the ring's completions wake; empty between turns.
    woken: RefCell<Vec<Waker>>,
    spin_before_park: Duration,
    /// When it last woke up, or was asked how long it worked.
    awake_since: Cell<Instant>,
    worked: Cell<Duration>,
    turns: Cell<u64>,
}

/// The executor of this thread.
pub fn here() -> Rc<Executor> {
    HERE.with_borrow(|here| here.clone()).expect("this thread runs an executor")
}

fn with_here<T>(work: impl FnOnce(&Executor) -> T) -> T {
    HERE.with_borrow(|here| work(here.as_ref().expect("this thread runs an executor")))
}

/// Queues a task if this thread runs its executor. False: it does not.
pub fn queue_here(home: &Arc<Home>, slot: u32) -> bool {
    // A thread that is ending runs nothing.
    let queued = HERE.try_with(|here| match &*here.borrow() {
        Some(executor) if Arc::ptr_eq(executor.tasks.home(), home) => {
            executor.tasks.queue(slot);
            true
        }
        _ => false,
    });
    queued.unwrap_or(false)
}

pub fn now() -> Instant {
    let now = Instant::now();
    RECENT.set(Some(now));
    now
}

pub fn recent() -> Instant {
    RECENT.get().unwrap_or_else(now)
}

pub fn spawn(future: impl Future<Output = ()> + 'static) -> Arc<Header> {
    with_here(|executor| executor.tasks.spawn(Box::pin(future)))
}

/// Ends a task of this executor, unless it is over.
pub fn end(task: &Arc<Header>) {
    let executor = HERE.with_borrow(|here| here.clone());
    if let Some(executor) = executor.filter(|executor| Arc::ptr_eq(executor.tasks.home(), task.home())) {
        executor.tasks.end(task);
    }
}

/// Which threads beside the executor do something that may block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    Prompt,
    Bulk,
}

pub fn beside(lane: Lane, work: Box<dyn FnOnce() + Send>) {
    with_here(|executor| match lane {
        Lane::Prompt => executor.prompt.queue(work),
        Lane::Bulk => executor.bulk.queue(work),
    });
}

pub fn worked() -> (Duration, u64) {
    with_here(|executor| {
        executor.worked_until(now());
        (executor.worked.take(), executor.turns.take())
    })
}

/// Once: everything that is ready has run, and what the kernel had was taken.
pub async fn yield_now() {
    let mut yielded = false;
    std::future::poll_fn(|context| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        with_here(|executor| executor.yielded.borrow_mut().push(context.waker().clone()));
        Poll::Pending
    })
    .await;
}

impl Executor {
    /// An executor for this thread. `cores`: where its threads for blocking work may run.
    pub fn new(spin_before_park: Duration, cores: &[usize]) -> io::Result<Rc<Self>> {
        Self::with_ring(Ring::new(limits::RING_ENTRIES, limits::RING_COMPLETIONS)?, spin_before_park, cores)
    }

    fn with_ring(mut ring: Ring, spin_before_park: Duration, cores: &[usize]) -> io::Result<Rc<Self>> {
        let home = Home::new()?;
        ring.hear(Rc::new(home.bell().try_clone()?));
        Ok(Rc::new(Executor {
            tasks: Tasks::new(home),
            timers: RefCell::default(),
            ring: RefCell::new(ring),
            prompt: Pool::start("background", limits::BACKGROUND_THREADS, limits::BACKGROUND_NICE, cores)?,
            bulk: Pool::start("bulk", limits::BULK_THREADS, limits::BULK_NICE, cores)?,
            yielded: RefCell::default(),
            woken: RefCell::default(),
            spin_before_park,
            awake_since: Cell::new(now()),
            worked: Cell::default(),
            turns: Cell::default(),
        }))
    }

    /// Runs a future, and what it starts, until it is over; then what is left is ended. A panic of any task comes
    /// through at once.
    pub fn run<T>(self: Rc<Self>, main: impl Future<Output = T>) -> T {
        let before = HERE.replace(Some(self.clone()));
        assert!(before.is_none(), "a thread runs one executor at a time");
        let _stay = Stay(&self);
        let mut main = std::pin::pin!(main);
        self.awake_since.set(now());
        self.tasks.queue_main();
        loop {
            if let Some(value) = self.turn(main.as_mut()) {
                return value;
            }
            let idle = self.tasks.is_idle() && self.yielded.borrow().is_empty();
            if idle && self.sleep() {
                self.awake_since.set(now());
            } else {
                self.ring.borrow_mut().submit();
                now();
            }
            self.gather(recent());
        }
    }

    /// Polls what is ready. A task that is woken meanwhile has its turn too, unless the bound is reached: so what
    /// tasks leave for each other is done before the kernel is asked, and no two of them keep it waiting for ever.
    fn turn<T>(&self, mut main: Pin<&mut impl Future<Output = T>>) -> Option<T> {
        self.turns.set(self.turns.get() + 1);
        for _ in 0..limits::TURN_POLLS {
            match self.tasks.next()? {
                MAIN => {
                    if let Some(value) = self.tasks.poll_main(main.as_mut()) {
                        return Some(value);
                    }
                }
                slot => self.tasks.poll(slot),
            }
        }
        None
    }

    /// Sleeps until the kernel, another thread or a timer has something. False: there was something at once.
    fn sleep(&self) -> bool {
        let mut begun = now();
        let due = self.timers.borrow().next_due();
        let left = |now| due.map(|due| due.saturating_duration_since(now));
        if left(begun).is_some_and(|left| left.is_zero()) || !self.tasks.home().fall_asleep() {
            return false;
        }
        self.worked_until(begun);
        if !self.spin_before_park.is_zero() {
            begun = self.spin(begun);
        }
        self.ring.borrow_mut().wait(left(begun));
        self.tasks.home().wake_up();
        true
    }

    /// Looks for work for a while, which counts as sleep; who finds this executor spinning need not know.
    fn spin(&self, begun: Instant) -> Instant {
        let mut ring = self.ring.borrow_mut();
        ring.submit();
        loop {
            let now = now();
            if ring.has_news() || now - begun >= self.spin_before_park {
                return now;
            }
            std::hint::spin_loop();
        }
    }

    /// Queues all that has got something to do: by completions, timers, other threads, and those that let these go
    /// first.
    fn gather(&self, now: Instant) {
        let mut woken = self.woken.take();
        self.ring.borrow_mut().reap(&mut woken);
        let mut timers = self.timers.borrow_mut();
        woken.extend(std::iter::from_fn(|| timers.expire(now)));
        drop(timers);
        // With nothing borrowed: what a waker does is not known here.
        woken.drain(..).for_each(Waker::wake);
        self.tasks.welcome();
        woken.append(&mut self.yielded.borrow_mut());
        woken.drain(..).for_each(Waker::wake);
        self.woken.replace(woken);
    }

    fn worked_until(&self, now: Instant) {
        self.worked.set(self.worked.get() + now.saturating_duration_since(self.awake_since.replace(now)));
    }
}

/// Takes the executor down again, also where a panic ends it.
struct Stay<'a>(&'a Rc<Executor>);

impl Drop for Stay<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.tasks.leak();
        } else {
            self.0.tasks.end_all();
            self.0.ring.borrow_mut().settle();
        }
        HERE.take();
    }
}

/// What is done to a file, until it is over. Dropped before, it goes on in the kernel, with the memory it has.
pub struct FileOperation {
    executor: Rc<Executor>,
    key: Option<usize>,
}

impl FileOperation {
    pub fn begin(transfer: Transfer, file: &Rc<std::os::fd::OwnedFd>, memory: Memory) -> Self {
        let executor = here();
        let key = executor.ring.borrow_mut().begin(transfer, file.clone(), memory);
        FileOperation { executor, key: Some(key) }
    }
}

impl Future for FileOperation {
    /// Bytes that were transferred, and the memory.
    type Output = (io::Result<usize>, Memory);

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let key = self.key.expect("not polled again once it is over");
        let outcome = self.executor.ring.borrow_mut().outcome(key, context.waker());
        match outcome {
            Some(outcome) => {
                self.key = None;
                Poll::Ready(outcome)
            }
            None => Poll::Pending,
        }
    }
}

impl Drop for FileOperation {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.executor.ring.borrow_mut().abandon(key);
        }
    }
}

/// A time that is waited for.
pub struct Sleep {
    due: Instant,
    /// Where it is set, once it has been waited for.
    set: Option<(Rc<Executor>, usize)>,
}

impl Sleep {
    pub fn new(duration: Duration) -> Self {
        // Who sleeps longer than a century does not notice.
        Sleep { due: Instant::now() + duration.min(Duration::from_secs(3_000_000_000)), set: None }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        match &self.set {
            Some((executor, key)) => {
                let over = executor.timers.borrow_mut().is_over(*key, context.waker());
                if !over {
                    return Poll::Pending;
                }
                self.set = None;
                Poll::Ready(())
            }
            None => {
                let executor = here();
                let key = executor.timers.borrow_mut().set(self.due, context.waker());
                self.set = Some((executor, key));
                Poll::Pending
            }
        }
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some((executor, key)) = &self.set {
            executor.timers.borrow_mut().cancel(*key);
        }
    }
}

#[cfg(test)]
#[path = "executor_tests.rs"]
mod tests;
