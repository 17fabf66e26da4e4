//! Which sockets of this executor are ready. Each is watched by one poll in the ring that goes on telling, so nothing is
//! asked again after a message and an idle connection holds no memory for what may come: a message costs its receive and
//! its send, and one wait tells all that became ready meanwhile.

use std::{
    cell::Cell,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    rc::Rc,
    task::{Context, Poll, Waker},
};

use super::{
    executor::{self, Executor},
    os,
    ring::Side,
};

/// A descriptor of this executor whose readiness is followed. Dropping it closes the descriptor.
pub struct Registered {
    executor: Rc<Executor>,
    /// The watch for reading.
    key: usize,
    readiness: Rc<Readiness>,
    fd: Rc<OwnedFd>,
}

impl Registered {
    /// Takes over a descriptor that does not block. It counts as ready in both directions until a call says otherwise.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        let fd = Rc::new(fd);
        Ok(Self::watching(fd.clone(), fd))
    }

    /// The same for a listening socket, which the ring must not hold: the kernel takes a ring down some time after its
    /// process has ended, and until then nobody else could listen at the address.
    pub fn listening(fd: OwnedFd) -> io::Result<Self> {
        let watched = os::stand_in(fd.as_fd())?;
        Ok(Self::watching(Rc::new(fd), Rc::new(watched)))
    }

    fn watching(fd: Rc<OwnedFd>, watched: Rc<OwnedFd>) -> Self {
        let (executor, readiness) = (executor::here(), Rc::new(Readiness::default()));
        readiness.readable.set(true);
        readiness.writable.set(true);
        let key = executor.ring.borrow_mut().watch(watched, Side::Reading, readiness.clone());
        Registered { executor, key, readiness, fd }
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        (*self.fd).as_fd()
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
            match read((*self.fd).as_fd()) {
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
            match write((*self.fd).as_fd()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    readiness.writable.set(false);
                    self.watch_for_writing();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return Poll::Ready(result),
            }
        }
    }

    /// Waits until the kernel says that the descriptor can be written, as when a connect has ended.
    pub async fn wait_until_writable(&self) -> io::Result<()> {
        self.readiness.writable.set(false);
        self.watch_for_writing();
        let waited = std::future::poll_fn(|context| self.poll_write(context, |_| Ok(()))).await;
        if let Some(key) = self.readiness.writing.take() {
            self.executor.ring.borrow_mut().end_watch(key);
        }
        waited
    }

    /// Most sockets never fill their buffer; those that do are watched for room from then on.
    fn watch_for_writing(&self) {
        if self.readiness.writing.get().is_none() {
            let mut ring = self.executor.ring.borrow_mut();
            let key = ring.watch(self.fd.clone(), Side::Writing, self.readiness.clone());
            self.readiness.writing.set(Some(key));
        }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut ring = self.executor.ring.borrow_mut();
        ring.end_watch(self.key);
        if let Some(key) = self.readiness.writing.take() {
            ring.end_watch(key);
        }
    }
}

/// What is known of a descriptor, and who waits for more.
#[derive(Default)]
pub struct Readiness {
    readable: Cell<bool>,
    writable: Cell<bool>,
    /// The other side has ended, or the socket has failed: it never blocks a read again.
    ended: Cell<bool>,
    /// The watch for writing, if there is one.
    writing: Cell<Option<usize>>,
    reader: Cell<Option<Waker>>,
    writer: Cell<Option<Waker>>,
}

impl Readiness {
    /// Takes in what the kernel says (poll(2)'s events), and puts those who wait for it into `woken`.
    pub fn tell(&self, events: i32, woken: &mut Vec<Waker>) {
        let (events, failed) = (events as i16, libc::POLLHUP | libc::POLLERR | libc::POLLNVAL);
        let ended = events & (libc::POLLRDHUP | failed) != 0;
        if ended {
            self.ended.set(true);
        }
        if ended || events & libc::POLLIN != 0 {
            self.readable.set(true);
            woken.extend(self.reader.take());
        }
        if events & (libc::POLLOUT | failed) != 0 {
            self.writable.set(true);
            woken.extend(self.writer.take());
        }
    }

    #[cfg(test)]
    pub fn is_readable(&self) -> bool {
        self.readable.get()
    }

    #[cfg(test)]
    pub fn forget(&self) {
        self.readable.set(false);
    }
}

fn store(slot: &Cell<Option<Waker>>, context: &Context<'_>) {
    let waker = match slot.take() {
        Some(waker) if waker.will_wake(context.waker()) => waker,
        _ => context.waker().clone(),
    };
    slot.set(Some(waker));
}
