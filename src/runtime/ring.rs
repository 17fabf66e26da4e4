//! One executor's io_uring: what is under way in it, what it is asked, what comes back. Memory that the kernel reads or
//! writes is owned by the operation here until its completion has come, whatever becomes of the future that waits for
//! it. Every `unsafe` that has to do with the ring is in this file.

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsRawFd, OwnedFd},
    rc::Rc,
    task::Waker,
    time::Duration,
};

use io_uring::{EnterFlags, IoUring, cqueue, opcode, squeue, types};
use slab::Slab;

use super::{blocks::Blocks, poller::Readiness};
use crate::limits;

/// A ring and the operations under way in it.
pub struct Ring {
    uring: IoUring,
    operations: Slab<Operation>,
    /// Completions that had to be taken so that entries could be submitted; older than those in the ring.
    backlog: VecDeque<cqueue::Entry>,
    /// Operations under way whose memory the kernel may touch.
    lent: usize,
    wait_flags: EnterFlags,
}

/// What the kernel reads from or writes to.
pub enum Memory {
    None,
    Blocks(Blocks),
    /// Bytes are read into the room behind those that are there.
    Bytes(Vec<u8>),
}

/// What is done to a file.
#[derive(Clone, Copy, Debug)]
pub enum Transfer {
    /// Writes all blocks at the offset.
    Write { offset: u64 },
    /// The same, and then makes the file's data durable, in one go: the outcome is that of the second, unless the first
    /// fails or falls short. Only where `links_syncs`.
    WriteAndDataSync { offset: u64 },
    /// Reads so many bytes at most, from the offset on.
    Read { offset: u64, len: usize },
    /// Makes the data durable that has been written.
    DataSync,
}

enum Operation {
    Transfer {
        /// Not to be closed while an entry for it waits to be submitted.
        _file: Rc<OwnedFd>,
        memory: Memory,
        /// Bytes that were written if the sync after it succeeds; it does not say.
        all: usize,
        outcome: Option<i32>,
        waker: Option<Waker>,
        /// Nobody waits any more.
        abandoned: bool,
    },
    Poll {
        readiness: Rc<Readiness>,
        side: Side,
        /// None: it has been told to end, and its last completion is awaited.
        fd: Option<Rc<OwnedFd>>,
        /// The kernel has it.
        armed: bool,
    },
    /// Other threads ring to end a sleep: that it has ended is all there is to it.
    Bell { fd: Rc<OwnedFd> },
}

/// What a descriptor is watched for. Either way it is told once when the watch begins, if it is so, and each time there
/// is news. Not once only: whatever is asked for, the kernel also tells that the other side has ended sending, and a
/// watch for room that ended with that would begin and end without end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Bytes, connections, or the end.
    Reading,
    /// Room to write.
    Writing,
}

impl Side {
    fn entry(self, fd: &OwnedFd) -> squeue::Entry {
        let mask = match self {
            Side::Reading => libc::POLLIN | libc::POLLRDHUP,
            Side::Writing => libc::POLLOUT,
        };
        opcode::PollAdd::new(types::Fd(fd.as_raw_fd()), mask as u32).multi(true).build()
    }
}

/// What completions of a cancel carry: whether it found something is told by the operation's own completion.
const OF_NOBODY: u64 = u64::MAX;

/// Beside the key: the completion is of the first of two entries.
const OF_THE_FIRST: u64 = 1 << 63;

impl Ring {
    /// A ring for this thread: no other may use it. `entries` wait at most for their submission, `completions` for
    /// being taken; beyond either nothing is lost.
    pub fn new(entries: u32, completions: u32) -> io::Result<Self> {
        let uring = build(entries, completions)?;
        let parameters = uring.params();
        // The wait's own time limit came with 5.11, polls that go on telling with 5.13.
        if !parameters.is_feature_ext_arg() || !parameters.is_feature_resource_tagging() {
            return Err(io::Error::from_raw_os_error(libc::ENOSYS));
        }
        let mut wait_flags = EnterFlags::GETEVENTS | EnterFlags::EXT_ARG;
        if parameters.is_feature_no_iowait() {
            // A core that waits for clients is idle, not waiting for a disk.
            wait_flags |= EnterFlags::NO_IOWAIT;
        }
        Ok(Ring { uring, operations: Slab::new(), backlog: VecDeque::new(), lent: 0, wait_flags })
    }

    /// Begins an operation on a file. Its key is good until `outcome` has given the outcome, or `abandon`.
    pub fn begin(&mut self, transfer: Transfer, file: Rc<OwnedFd>, mut memory: Memory) -> usize {
        let fd = types::Fd(file.as_raw_fd());
        let length = |bytes: usize| i32::try_from(bytes).expect("less than 2 GiB at once") as u32;
        let sync = || opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build();
        let (entry, then) = match (transfer, &mut memory) {
            (Transfer::Write { offset }, Memory::Blocks(blocks)) => {
                (opcode::Write::new(fd, blocks.as_ptr(), length(blocks.len_bytes())).offset(offset).build(), None)
            }
            (Transfer::WriteAndDataSync { offset }, Memory::Blocks(blocks)) => {
                // The second begins when the first is over, which is told only where it keeps the second from it: so
                // there is one completion in either case.
                let flags = squeue::Flags::IO_LINK | squeue::Flags::SKIP_SUCCESS;
                let write = opcode::Write::new(fd, blocks.as_ptr(), length(blocks.len_bytes())).offset(offset);
                (write.build().flags(flags), Some(sync()))
            }
            (Transfer::Read { offset, len }, Memory::Bytes(bytes)) => {
                // The allocator may have given more than was asked for.
                let room = &mut bytes.spare_capacity_mut()[..len];
                (opcode::Read::new(fd, room.as_mut_ptr().cast(), length(len)).offset(offset).build(), None)
            }
            (Transfer::DataSync, Memory::None) => (sync(), None),
            (transfer, _) => unreachable!("{transfer:?} does not go with this memory"),
        };
        let all = match (transfer, &memory) {
            (Transfer::WriteAndDataSync { .. }, Memory::Blocks(blocks)) => blocks.len_bytes(),
            _ => 0,
        };
        self.lent += 1;
        let operation = Operation::Transfer { _file: file, memory, all, outcome: None, waker: None, abandoned: false };
        let key = self.operations.insert(operation);
        match then {
            None => self.push(entry.user_data(key as u64)),
            Some(then) => {
                // A link does not reach from one submission into the next.
                while self.room() < 2 {
                    self.enter(0, EnterFlags::empty(), None);
                }
                self.push(entry.user_data(key as u64 | OF_THE_FIRST));
                self.push(then.user_data(key as u64));
            }
        }
        key
    }

    /// Whether WriteAndDataSync is to be had (Linux 5.17).
    pub fn links_syncs(&self) -> bool {
        self.uring.params().is_feature_skip_cqe_on_success()
    }

    /// The outcome of an operation, with its memory, once it is over: the operation is gone then. Until then the waker
    /// is kept.
    pub fn outcome(&mut self, key: usize, waker: &Waker) -> Option<(io::Result<usize>, Memory)> {
        let Operation::Transfer { outcome, waker: kept, .. } = &mut self.operations[key] else {
            unreachable!("a transfer's key");
        };
        let Some(result) = *outcome else {
            match kept {
                Some(kept) => kept.clone_from(waker),
                None => *kept = Some(waker.clone()),
            }
            return None;
        };
        let Operation::Transfer { memory, .. } = self.operations.remove(key) else { unreachable!("looked at") };
        let result = if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(result as usize) };
        Some((result, memory))
    }

    /// Nobody wants the outcome any more. What the kernel has begun goes on, and its memory stays until it is over.
    pub fn abandon(&mut self, key: usize) {
        let Operation::Transfer { outcome, abandoned, waker, .. } = &mut self.operations[key] else {
            unreachable!("a transfer's key");
        };
        if outcome.is_some() {
            self.operations.remove(key);
        } else {
            *abandoned = true;
            *waker = None;
        }
    }

    /// Watches a descriptor. Its key is good until `end_watch`.
    pub fn watch(&mut self, fd: Rc<OwnedFd>, side: Side, readiness: Rc<Readiness>) -> usize {
        let entry = side.entry(&fd);
        let key = self.operations.insert(Operation::Poll { readiness, side, fd: Some(fd), armed: true });
        self.push(entry.user_data(key as u64));
        key
    }

    /// Ends a watch and lets go of its descriptor. The kernel holds the file open until the next submission.
    pub fn end_watch(&mut self, key: usize) {
        let Operation::Poll { fd, armed, .. } = &mut self.operations[key] else { unreachable!("a watch's key") };
        let open = fd.take();
        assert!(open.is_some(), "a watch ends once");
        if *armed {
            // Not POLL_REMOVE: that one refuses a poll that has just found something.
            self.push(opcode::AsyncCancel::new(key as u64).build().user_data(OF_NOBODY));
        } else {
            self.operations.remove(key);
        }
    }

    /// Ends every sleep when this event counter is raised.
    pub fn hear(&mut self, fd: Rc<OwnedFd>) {
        let entry = Side::Reading.entry(&fd);
        let key = self.operations.insert(Operation::Bell { fd });
        self.push(entry.user_data(key as u64));
    }

    /// Whether there is something to submit or to take: costs two looks at shared memory.
    pub fn has_news(&mut self) -> bool {
        if !self.backlog.is_empty() || !self.uring.completion().is_empty() {
            return true;
        }
        let submission = self.uring.submission();
        !submission.is_empty() || submission.taskrun() || submission.cq_overflow()
    }

    /// Submits what waits and has the kernel tell what is over, without waiting for more.
    pub fn submit(&mut self) {
        let submission = self.uring.submission();
        let idle = submission.is_empty() && !submission.taskrun() && !submission.cq_overflow();
        drop(submission);
        if !idle {
            self.enter(0, EnterFlags::GETEVENTS, None);
        }
    }

    /// Submits what waits and sleeps until something is over, a signal comes, or the time is up: one system call.
    pub fn wait(&mut self, limit: Option<Duration>) {
        if self.backlog.is_empty() {
            self.enter(1, self.wait_flags, limit);
        }
    }

    /// Takes what is over and puts those who wait for it into `woken`.
    pub fn reap(&mut self, woken: &mut Vec<Waker>) {
        while let Some(completion) = self.next_completion() {
            self.complete(&completion, woken);
        }
    }

    fn next_completion(&mut self) -> Option<cqueue::Entry> {
        self.backlog.pop_front().or_else(|| self.uring.completion().next())
    }

    fn complete(&mut self, completion: &cqueue::Entry, woken: &mut Vec<Waker>) {
        if completion.user_data() == OF_NOBODY {
            return;
        }
        let key = (completion.user_data() & !OF_THE_FIRST) as usize;
        let (result, more) = (completion.result(), cqueue::more(completion.flags()));
        match &mut self.operations[key] {
            Operation::Transfer { memory, all, outcome, waker, abandoned, .. } => {
                self.lent -= 1;
                let synced = *all > 0 && completion.user_data() & OF_THE_FIRST == 0 && result >= 0;
                let result = if synced { *all as i32 } else { result };
                if let (Memory::Bytes(bytes), Ok(count)) = (memory, usize::try_from(result)) {
                    assert!(count <= bytes.capacity() - bytes.len(), "the kernel read no more than there was room");
                    // SAFETY: the kernel has written so many bytes to where the vector's own end, and there is room
                    // for them (asserted); nobody could touch the vector meanwhile, it is in here.
                    unsafe { bytes.set_len(bytes.len() + count) };
                }
                *outcome = Some(result);
                woken.extend(waker.take());
                if *abandoned {
                    self.operations.remove(key);
                }
            }
            Operation::Poll { fd: None, .. } => {
                if !more {
                    self.operations.remove(key);
                }
            }
            Operation::Poll { readiness, side, fd: Some(fd), armed } => {
                // What cannot be watched counts as ready: the call that follows says why.
                let failed = result < 0;
                let mask = if failed { i32::from(libc::POLLERR) } else { result };
                readiness.tell(mask, woken);
                if failed {
                    *armed = false;
                } else if !more {
                    // The kernel ends a poll where its queue of completions is full.
                    let entry = side.entry(fd);
                    self.push(entry.user_data(key as u64));
                }
            }
            Operation::Bell { fd } => {
                if !more {
                    let entry = Side::Reading.entry(fd);
                    self.push(entry.user_data(key as u64));
                }
            }
        }
    }

    /// Leaves an entry for the next submission; where the queue is full, that is now.
    fn push(&mut self, entry: squeue::Entry) {
        loop {
            // SAFETY: what an entry points to is valid until its completion: memory and file of a transfer belong to
            // its operation in `operations`, which only `complete` removes (and `outcome` or `abandon`, once it is
            // over), and whose allocations do not move with it. Polls and cancels point to no memory. When the ring
            // goes, `drop` waits or leaks.
            if unsafe { self.uring.submission().push(&entry) }.is_ok() {
                return;
            }
            self.enter(0, EnterFlags::empty(), None);
        }
    }

    fn room(&mut self) -> usize {
        let submission = self.uring.submission();
        submission.capacity() - submission.len()
    }

    fn enter(&mut self, wanted: u32, flags: EnterFlags, limit: Option<Duration>) {
        let entries = self.uring.submission().len() as u32;
        let limit = limit.map(types::Timespec::from);
        let mut arguments = types::SubmitArgs::new();
        if let Some(limit) = &limit {
            arguments = arguments.timespec(limit);
        }
        let submitter = self.uring.submitter();
        let entered = if flags.contains(EnterFlags::EXT_ARG) {
            // SAFETY: with EXT_ARG the argument is an io_uring_getevents_arg, which SubmitArgs is; it and the time it
            // points to live until the call returns.
            unsafe { submitter.enter(entries, wanted, flags.bits(), Some(&arguments)) }
        } else {
            // SAFETY: without EXT_ARG the argument is a set of signals; there is none.
            unsafe { submitter.enter::<libc::sigset_t>(entries, wanted, flags.bits(), None) }
        };
        match entered {
            Ok(_) => {}
            Err(error) => match error.raw_os_error() {
                // The time is up, or a signal came.
                Some(libc::ETIME | libc::EINTR) => {}
                // The kernel wants completions taken first, or is short of memory: what was not submitted is tried
                // again at the next turn.
                Some(libc::EBUSY | libc::EAGAIN) => self.backlog.extend(self.uring.completion()),
                _ => panic!("io_uring_enter on a live ring: {error}"),
            },
        }
    }

    /// Waits until the kernel touches no memory of ours any more.
    pub fn settle(&mut self) {
        let mut woken = Vec::new();
        while self.lent > 0 {
            self.wait(None);
            self.reap(&mut woken);
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if self.lent > 0 {
            // Not settled, so something went wrong. The kernel ends what is under way at its own time; until then
            // nobody else may have the memory.
            std::mem::forget(std::mem::take(&mut self.operations));
        }
    }
}

/// A ring that interrupts nobody: what is over is told when the executor asks. Kernels before 6.1 do so less well, those
/// before 5.19 not at all; each gets what it knows.
fn build(entries: u32, completions: u32) -> io::Result<IoUring> {
    let builder = || {
        let mut builder = IoUring::builder();
        builder.setup_clamp().setup_cqsize(completions);
        builder
    };
    let deferred =
        builder().setup_submit_all().setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag().build(entries);
    if !unknown(&deferred) {
        return deferred;
    }
    let cooperative = builder().setup_submit_all().setup_coop_taskrun().setup_taskrun_flag().build(entries);
    if !unknown(&cooperative) {
        return cooperative;
    }
    builder().build(entries)
}

fn unknown(ring: &io::Result<IoUring>) -> bool {
    ring.as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::EINVAL))
}

/// Whether the system lets this process have a ring at all.
pub fn try_ring() -> io::Result<()> {
    Ring::new(limits::RING_ENTRIES, limits::RING_COMPLETIONS).map(drop)
}

#[cfg(test)]
#[path = "ring_tests.rs"]
mod tests;
