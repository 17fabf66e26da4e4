//! The seam to the runtime: tasks, time, work that blocks, executors pinned to cores, the way between them, files with
//! aligned durable writes, sockets, signals. Each executor has one io_uring, and no type of that appears outside this
//! folder. It knows nothing of what is done with it.

mod blocks;
mod executor;
pub mod executors;
mod faults;
pub mod file;
pub mod mesh;
pub mod names;
mod os;
mod poller;
mod pool;
mod ring;
pub mod signals;
pub mod socket;
mod tasks;
mod timers;

use std::{
    cell::Cell,
    future::Future,
    io,
    os::unix::ffi::OsStrExt,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use self::executor::Lane;
pub use self::os::{lock_memory, seconds_east_of_utc};

/// Runs a future on this executor; it goes on by itself.
pub fn spawn(future: impl Future<Output = ()> + 'static) {
    executor::spawn(future);
}

/// Runs a future on this executor; awaiting the task gives what the future returned. Dropping the task ends it.
pub fn spawn_with_handle<T: 'static>(future: impl Future<Output = T> + 'static) -> Task<T> {
    let outcome = Rc::new(Outcome { value: Cell::new(None), waiter: Cell::new(None) });
    let told = outcome.clone();
    let header = executor::spawn(async move {
        told.value.set(Some(future.await));
        if let Some(waiter) = told.waiter.take() {
            waiter.wake();
        }
    });
    Task { outcome, header }
}

/// A running future that can be awaited, or ended by dropping it.
#[must_use = "dropping a task ends it"]
pub struct Task<T> {
    outcome: Rc<Outcome<T>>,
    header: Arc<tasks::Header>,
}

struct Outcome<T> {
    value: Cell<Option<T>>,
    waiter: Cell<Option<Waker>>,
}

impl<T> Future for Task<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        match self.outcome.value.take() {
            Some(value) => Poll::Ready(value),
            None => {
                self.outcome.waiter.set(Some(context.waker().clone()));
                Poll::Pending
            }
        }
    }
}

#[cfg(test)]
impl<T> Task<T> {
    fn is_over(&self) -> bool {
        // The task itself holds the other end.
        Rc::strong_count(&self.outcome) == 1
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        executor::end(&self.header);
    }
}

/// The monotonic clock.
#[inline]
pub fn now() -> Instant {
    executor::now()
}

/// When this executor last looked at the clock: with whatever it was woken for (bytes on a socket, mail, the end of a
/// sleep or of work in the background). Good for durations that are told in a statistic, free where a look costs as much
/// as a twentieth of a request.
#[inline]
pub fn recent() -> Instant {
    executor::recent()
}

/// How long this executor has worked since this was last asked, waiting and spinning left out, and in how many turns of
/// its loop.
pub fn worked() -> (Duration, u64) {
    executor::worked()
}

pub async fn sleep(duration: Duration) {
    executor::Sleep::new(duration).await;
}

/// The result of a future, or None if it takes longer than `limit`; the future is dropped then.
pub async fn timeout<T>(limit: Duration, future: impl Future<Output = T>) -> Option<T> {
    let mut future = std::pin::pin!(future);
    let mut timer = std::pin::pin!(executor::Sleep::new(limit));
    std::future::poll_fn(|context| {
        if let Poll::Ready(value) = future.as_mut().poll(context) {
            return Poll::Ready(Some(value));
        }
        timer.as_mut().poll(context).map(|()| None)
    })
    .await
}

/// A beat of fixed length.
pub struct Interval {
    period: Duration,
    next: Instant,
}

impl Interval {
    /// The first tick is one period from now.
    pub fn new(period: Duration) -> Self {
        assert!(!period.is_zero(), "a beat has a length");
        Interval { period, next: now() + period }
    }

    /// Waits for the next tick. Ticks that were missed are left out, the beat stays.
    pub async fn tick(&mut self) -> Instant {
        let waited_from = now();
        if let Some(wait) = self.next.checked_duration_since(waited_from).filter(|wait| !wait.is_zero()) {
            sleep(wait).await;
        }
        let ticked = self.next;
        let late = now().saturating_duration_since(ticked);
        let missed = (late.as_nanos() / self.period.as_nanos()) as u32;
        self.next = ticked + self.period * (missed + 1);
        ticked
    }
}

/// Tells a service manager that waits for it that the process is ready (systemd: sd_notify(3), READY=1).
pub fn tell_service_manager() {
    use std::os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram},
    };
    let Some(name) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let name = name.as_encoded_bytes();
    let address = match name.strip_prefix(b"@") {
        Some(rest) => SocketAddr::from_abstract_name(rest),
        None => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(name)),
    };
    // A manager that cannot be reached does not keep the member from serving.
    let _ = address.and_then(|address| UnixDatagram::unbound()?.send_to_addr(b"READY=1", &address));
}

/// Lets everything else that is ready run first, and what the kernel has for this executor.
pub async fn yield_now() {
    executor::yield_now().await;
}

/// Runs something that may block and that somebody waits for, on a thread of its own, on any core the process may use;
/// this executor goes on meanwhile. A panic in it is raised where it is awaited. The work is queued at once, awaited or not.
pub fn background<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> impl Future<Output = T> {
    beside(Lane::Prompt, work)
}

/// The same for what takes long, and may: at a lower priority still, and nothing prompt waits behind it.
pub fn bulk<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> impl Future<Output = T> {
    beside(Lane::Bulk, work)
}

fn beside<T: Send + 'static>(lane: Lane, work: impl FnOnce() -> T + Send + 'static) -> impl Future<Output = T> {
    let (answer, outcome) = pool::answer();
    // A thread that unwinds is gone for good, and whoever waits for its answer with it.
    executor::beside(lane, Box::new(move || answer(catch_unwind(AssertUnwindSafe(work)))));
    async move {
        match outcome.await {
            Ok(value) => value,
            Err(panic) => resume_unwind(panic),
        }
    }
}

/// How many files and sockets the process may have open; None: as many as it likes.
pub fn descriptor_limit() -> io::Result<Option<u64>> {
    os::resource_limit(libc::RLIMIT_NOFILE)
}

#[cfg(test)]
mod tests;

/// Runs a test on an executor of its own.
#[cfg(test)]
pub fn run<T>(future: impl Future<Output = T>) -> T {
    let cores = os::allowed_cores().expect("a thread may run somewhere");
    executor::Executor::new(Duration::ZERO, &cores).expect("io_uring is there").run(future)
}

/// Milliseconds since the process first asked, never going back.
#[inline]
pub fn now_ms() -> u64 {
    static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    let now = now();
    now.duration_since(*START.get_or_init(|| now)).as_millis() as u64
}

/// Runs a test's future to its end on an executor of its own.
#[cfg(test)]
pub fn run_test<T>(future: impl Future<Output = T>) -> T {
    run(future)
}
