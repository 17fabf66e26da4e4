//! The tasks of one executor: their futures, the queue of those that are ready, and the wakers, which any thread may
//! use. Waking from the executor's own thread is a push on a queue; from another one it takes a lock and, if the executor
//! sleeps, a system call. When tasks run is the executor's business.

use std::{
    cell::RefCell,
    collections::VecDeque,
    future::Future,
    io, mem,
    os::fd::{AsFd, OwnedFd},
    pin::Pin,
    ptr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Wake, Waker},
};

use super::{executor, os};

type BoxedFuture = Pin<Box<dyn Future<Output = ()>>>;

/// The future that an executor was made to run. It is not in the table: it lives on the stack of whoever runs it.
pub const MAIN: u32 = u32::MAX;

/// What other threads may touch of an executor.
pub struct Home {
    /// Tasks that other threads have woken.
    woken: Mutex<Vec<u32>>,
    /// There may be some.
    has_woken: AtomicBool,
    /// The executor sleeps, or is about to.
    asleep: AtomicBool,
    bell: OwnedFd,
}

impl Home {
    pub fn new() -> io::Result<Arc<Self>> {
        Ok(Arc::new(Home {
            woken: Mutex::default(),
            has_woken: AtomicBool::new(false),
            asleep: AtomicBool::new(false),
            bell: os::event_counter()?,
        }))
    }

    /// What rings when the executor is to wake up.
    pub fn bell(&self) -> &OwnedFd {
        &self.bell
    }

    fn wake(&self, slot: u32) {
        // Nothing panics under this lock.
        self.woken.lock().unwrap_or_else(PoisonError::into_inner).push(slot);
        // These two and those in `fall_asleep` are in one order for all: either that one sees the task, or this one the
        // sleeper.
        self.has_woken.store(true, Ordering::SeqCst);
        if self.asleep.swap(false, Ordering::SeqCst) {
            os::signal_event(self.bell.as_fd());
        }
    }

    /// Says that whoever wakes a task must ring from now on. False: somebody has woken one already, do not sleep.
    pub fn fall_asleep(&self) -> bool {
        self.asleep.store(true, Ordering::SeqCst);
        if self.has_woken.load(Ordering::SeqCst) {
            self.wake_up();
            return false;
        }
        true
    }

    pub fn wake_up(&self) {
        self.asleep.store(false, Ordering::Relaxed);
    }
}

/// A task, as its wakers know it.
pub struct Header {
    home: Arc<Home>,
    slot: u32,
    /// It is in a queue, or being put there, or over: not to be queued again.
    queued: AtomicBool,
}

impl Header {
    fn new(home: &Arc<Home>, slot: u32) -> Arc<Self> {
        Arc::new(Header { home: home.clone(), slot, queued: AtomicBool::new(false) })
    }

    pub fn home(&self) -> &Arc<Home> {
        &self.home
    }
}

impl Wake for Header {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // What the waker has done before is seen by the task's next poll, which begins with a swap of this.
        if !self.queued.swap(true, Ordering::AcqRel) && !executor::queue_here(&self.home, self.slot) {
            self.home.wake(self.slot);
        }
    }
}

struct Slot {
    header: Arc<Header>,
    state: State,
}

enum State {
    Free,
    /// It waits for its turn, or for being woken.
    Idle(BoxedFuture, Waker),
    /// Its future is being polled, out of the table.
    Running,
    /// It was ended while it was being polled.
    Ended,
    /// It is over, and still in a queue: the slot is free once it has been taken from there.
    Queued,
}

pub struct Tasks {
    home: Arc<Home>,
    main: Arc<Header>,
    main_waker: Waker,
    table: RefCell<Table>,
    ready: RefCell<VecDeque<u32>>,
    /// Woken by other threads, on the way to `ready`.
    arrived: RefCell<Vec<u32>>,
}

#[derive(Default)]
struct Table {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

impl Tasks {
    pub fn new(home: Arc<Home>) -> Self {
        let main = Header::new(&home, MAIN);
        let main_waker = Waker::from(main.clone());
        Tasks {
            home,
            main,
            main_waker,
            table: RefCell::default(),
            ready: RefCell::default(),
            arrived: RefCell::default(),
        }
    }

    pub fn home(&self) -> &Arc<Home> {
        &self.home
    }

    /// Takes a future in; its first turn comes after all that is ready now.
    pub fn spawn(&self, future: BoxedFuture) -> Arc<Header> {
        let header = self.table.borrow_mut().insert(&self.home, future);
        header.queued.store(true, Ordering::Relaxed);
        self.queue(header.slot);
        header
    }

    pub fn queue(&self, slot: u32) {
        self.ready.borrow_mut().push_back(slot);
    }

    pub fn queue_main(&self) {
        self.main_waker.wake_by_ref();
    }

    /// The next one to be polled.
    pub fn next(&self) -> Option<u32> {
        self.ready.borrow_mut().pop_front()
    }

    pub fn is_idle(&self) -> bool {
        self.ready.borrow().is_empty()
    }

    /// Queues what other threads have woken.
    pub fn welcome(&self) {
        if !self.home.has_woken.load(Ordering::Relaxed) {
            return;
        }
        let mut arrived = self.arrived.borrow_mut();
        {
            let mut woken = self.home.woken.lock().unwrap_or_else(PoisonError::into_inner);
            // Under the lock, so that who comes later sets it anew.
            self.home.has_woken.store(false, Ordering::SeqCst);
            mem::swap(&mut *woken, &mut *arrived);
        }
        self.ready.borrow_mut().extend(arrived.drain(..));
    }

    /// Polls the main future, whose turn it is.
    pub fn poll_main<T>(&self, main: Pin<&mut impl Future<Output = T>>) -> Option<T> {
        self.main.queued.swap(false, Ordering::AcqRel);
        match main.poll(&mut Context::from_waker(&self.main_waker)) {
            std::task::Poll::Ready(value) => Some(value),
            std::task::Poll::Pending => None,
        }
    }

    /// Polls a task, whose turn it is.
    pub fn poll(&self, slot: u32) {
        let Some((mut future, waker)) = self.table.borrow_mut().begin(slot) else { return };
        let over = future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
        let over = self.table.borrow_mut().pause(slot, future, waker, over);
        // With the table free again: a future may spawn or end others while it goes.
        drop(over);
    }

    /// Ends a task, unless it is over.
    pub fn end(&self, header: &Arc<Header>) {
        let future = self.table.borrow_mut().end(header);
        drop(future);
    }

    /// Ends all tasks, those too that others start while they end.
    pub fn end_all(&self) {
        loop {
            let slots = mem::take(&mut *self.table.borrow_mut());
            if slots.slots.is_empty() {
                return;
            }
            for slot in &slots.slots {
                slot.header.queued.store(true, Ordering::Relaxed);
            }
            drop(slots);
            self.ready.borrow_mut().clear();
        }
    }

    /// Leaves all futures where they are for ever: after a panic nobody knows what dropping them would do.
    pub fn leak(&self) {
        mem::forget(mem::take(&mut *self.table.borrow_mut()));
    }
}

impl Table {
    fn insert(&mut self, home: &Arc<Home>, future: BoxedFuture) -> Arc<Header> {
        let slot = self.free.pop().unwrap_or_else(|| {
            let slot = u32::try_from(self.slots.len()).ok().filter(|&slot| slot < MAIN).expect("fewer than 2^32 tasks");
            self.slots.push(Slot { header: Header::new(home, slot), state: State::Free });
            slot
        });
        let entry = &mut self.slots[slot as usize];
        entry.state = State::Idle(future, Waker::from(entry.header.clone()));
        entry.header.clone()
    }

    fn begin(&mut self, slot: u32) -> Option<(BoxedFuture, Waker)> {
        let entry = self.slots.get_mut(slot as usize)?;
        match mem::replace(&mut entry.state, State::Running) {
            State::Idle(future, waker) => {
                entry.header.queued.swap(false, Ordering::AcqRel);
                Some((future, waker))
            }
            State::Queued => {
                self.free(slot);
                None
            }
            State::Free | State::Running | State::Ended => unreachable!("only what has a future is queued"),
        }
    }

    /// Puts a future back after its poll; gives it to be dropped if it is over.
    fn pause(&mut self, slot: u32, future: BoxedFuture, waker: Waker, over: bool) -> Option<BoxedFuture> {
        let entry = &mut self.slots[slot as usize];
        if !over && matches!(entry.state, State::Running) {
            entry.state = State::Idle(future, waker);
            return None;
        }
        drop(waker);
        self.finish(slot);
        Some(future)
    }

    fn end(&mut self, header: &Arc<Header>) -> Option<BoxedFuture> {
        let entry = self.slots.get_mut(header.slot as usize)?;
        if !ptr::eq(&*entry.header, &**header) {
            return None;
        }
        match mem::replace(&mut entry.state, State::Ended) {
            State::Idle(future, waker) => {
                drop(waker);
                self.finish(header.slot);
                Some(future)
            }
            State::Running => None,
            other => {
                entry.state = other;
                None
            }
        }
    }

    /// A task is over. Its wakers wake nobody from now on.
    fn finish(&mut self, slot: u32) {
        if self.slots[slot as usize].header.queued.swap(true, Ordering::AcqRel) {
            self.slots[slot as usize].state = State::Queued;
        } else {
            self.free(slot);
        }
    }

    fn free(&mut self, slot: u32) {
        let entry = &mut self.slots[slot as usize];
        entry.state = State::Free;
        // A waker or handle of the old task that is still about must not reach the next one.
        match Arc::get_mut(&mut entry.header) {
            Some(header) => *header.queued.get_mut() = false,
            None => entry.header = Header::new(&entry.header.home.clone(), slot),
        }
        self.free.push(slot);
    }
}
