//! Which sockets of this executor are ready. Each is registered once, edge-triggered, with an epoll instance; the ring
//! waits for that one descriptor alone. So a message costs its receive and its send, and one call of epoll_wait serves
//! all that became ready in a turn; a poll through the ring for each message would cost an allocation, a submission
//! and a completion that interrupts the core.

use std::{
    cell::{Cell, RefCell},
    io,
    mem::ManuallyDrop,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use futures_io::AsyncRead;
use slab::Slab;

use super::os;
use crate::limits;

thread_local! {
    /// An executor has a thread of its own for life, so the thread's poller is the executor's.
    static POLLER: RefCell<Option<Rc<Poller>>> = const { RefCell::new(None) };
}

/// A descriptor of this executor whose readiness is followed. Dropping it closes the descriptor.
pub struct Registered {
    poller: Rc<Poller>,
    key: usize,
    readiness: Rc<Readiness>,
    fd: OwnedFd,
}

impl Registered {
    /// Takes over a descriptor that does not block. It counts as ready in both directions until a call says otherwise.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        let poller = Poller::of_this_executor()?;
        let readiness = Rc::new(Readiness::default());
        readiness.readable.set(true);
        readiness.writable.set(true);
        let key = poller.entries.borrow_mut().insert(readiness.clone());
        let added = os::epoll_control(poller.epoll.as_fd(), libc::EPOLL_CTL_ADD, fd.as_fd(), READING, key as u64);
        if let Err(error) = added {
            poller.entries.borrow_mut().remove(key);
            return Err(error);
        }
        Ok(Registered { poller, key, readiness, fd })
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Calls `read` when the descriptor may be readable, again after each time it said WouldBlock. `full` tells from
    /// the result whether more may be there: if not, the next call waits for news without asking.
    pub fn poll_read<T>(
        &self,
        context: &mut Context<'_>,
        mut read: impl FnMut(BorrowedFd<'_>) -> io::Result<T>,
        more: impl FnOnce(&T) -> bool,
    ) -> Poll<io::Result<T>> {
        let readiness = &*self.readiness;
        loop {
            if !readiness.readable.get() {
                store(&readiness.reader, context);
                return Poll::Pending;
            }
            match read(self.fd.as_fd()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => readiness.readable.set(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(value) => {
                    // A socket that ended stays readable: its end may have come with the bytes, in one edge.
                    readiness.readable.set(readiness.ended.get() || more(&value));
                    return Poll::Ready(Ok(value));
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Calls `write` when the descriptor may be writable, again after each time it said WouldBlock.
    pub fn poll_write<T>(
        &self,
        context: &mut Context<'_>,
        mut write: impl FnMut(BorrowedFd<'_>) -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        let readiness = &*self.readiness;
        loop {
            if !readiness.writable.get() {
                store(&readiness.writer, context);
                return Poll::Pending;
            }
            match write(self.fd.as_fd()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    readiness.writable.set(false);
                    if !readiness.watched_for_writing.replace(true) {
                        self.watch_for_writing()?;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return Poll::Ready(result),
            }
        }
    }

    /// Waits until the kernel says that the descriptor can be written, as when a connect has ended.
    pub async fn wait_until_writable(&self) -> io::Result<()> {
        self.readiness.writable.set(false);
        self.readiness.watched_for_writing.set(true);
        self.watch_for_writing()?;
        std::future::poll_fn(|context| self.poll_write(context, |_| Ok(()))).await
    }

    /// Most sockets never fill their buffer; those that do are watched for room from then on. Changing the mask makes
    /// the kernel look anew, so room that appeared since the refused write is told too.
    fn watch_for_writing(&self) -> io::Result<()> {
        let events = READING | libc::EPOLLOUT as u32;
        os::epoll_control(self.poller.epoll.as_fd(), libc::EPOLL_CTL_MOD, self.fd.as_fd(), events, self.key as u64)
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        // Closing would do, were the descriptor certainly the last one of its socket.
        let removed = os::epoll_control(self.poller.epoll.as_fd(), libc::EPOLL_CTL_DEL, self.fd.as_fd(), 0, 0);
        debug_assert!(removed.is_ok(), "{removed:?}");
        self.poller.entries.borrow_mut().remove(self.key);
    }
}

const READING: u32 = (libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLET) as u32;

#[derive(Default)]
struct Readiness {
    readable: Cell<bool>,
    writable: Cell<bool>,
    /// The other side has ended, or the socket has failed: it never blocks a read again.
    ended: Cell<bool>,
    watched_for_writing: Cell<bool>,
    reader: Cell<Option<Waker>>,
    writer: Cell<Option<Waker>>,
}

fn store(slot: &Cell<Option<Waker>>, context: &Context<'_>) {
    let waker = match slot.take() {
        Some(waker) if waker.will_wake(context.waker()) => waker,
        _ => context.waker().clone(),
    };
    slot.set(Some(waker));
}

struct Poller {
    epoll: OwnedFd,
    entries: RefCell<Slab<Rc<Readiness>>>,
}

impl Poller {
    fn of_this_executor() -> io::Result<Rc<Poller>> {
        POLLER.with(|slot| {
            if let Some(poller) = &*slot.borrow() {
                return Ok(poller.clone());
            }
            let poller = Rc::new(Poller { epoll: os::epoll_create()?, entries: RefCell::default() });
            super::spawn(poller.clone().follow());
            *slot.borrow_mut() = Some(poller.clone());
            Ok(poller)
        })
    }

    async fn follow(self: Rc<Self>) {
        let mut events = vec![libc::epoll_event { events: 0, u64: 0 }; limits::POLL_EVENTS];
        loop {
            readable(self.epoll.as_fd()).await;
            self.wake_ready(&mut events);
        }
    }

    fn wake_ready(&self, events: &mut [libc::epoll_event]) {
        let count = os::epoll_ready(self.epoll.as_fd(), events).expect("epoll_wait on a live epoll descriptor");
        // No task runs meanwhile, so none of these can have been closed and its key given away.
        let entries = self.entries.borrow();
        for event in &events[..count] {
            let (mask, key) = (event.events as libc::c_int, event.u64 as usize);
            let readiness = &entries[key];
            let ended = mask & (libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR) != 0;
            if ended {
                readiness.ended.set(true);
            }
            if ended || mask & libc::EPOLLIN != 0 {
                readiness.readable.set(true);
                wake(&readiness.reader);
            }
            if mask & (libc::EPOLLOUT | libc::EPOLLHUP | libc::EPOLLERR) != 0 {
                readiness.writable.set(true);
                wake(&readiness.writer);
            }
        }
    }
}

fn wake(slot: &Cell<Option<Waker>>) {
    if let Some(waker) = slot.take() {
        waker.wake();
    }
}

/// Waits in the ring until a descriptor that is not a socket can be read. Must be awaited to its end.
///
/// glommio gives out no poll of its own, but a stream of it submits one for its descriptor when it is made, and reads
/// only once that has completed; the read then fails at once, this being no socket, and nothing is left behind.
async fn readable(fd: BorrowedFd<'_>) {
    // SAFETY: the descriptor is open for the whole of this call. The stream would close it in the end: it is never
    // dropped. What that leaves behind is a weak count on the reactor; the poll's own memory goes with the failed read.
    let mut stream = ManuallyDrop::new(unsafe { glommio::net::TcpStream::from_raw_fd(fd.as_raw_fd()) });
    let read = std::future::poll_fn(|context| Pin::new(&mut *stream).poll_read(context, &mut [0])).await;
    debug_assert_eq!(read.map_err(|error| error.raw_os_error()), Err(Some(libc::ENOTSOCK)));
}
