//! Counts the sync calls of a running process, by stopping it at each of its system calls (ptrace(2)) for a short while.
//! It is the one module that traces; it changes nothing in the process.

use std::{
    collections::HashSet,
    fs, io, mem, ptr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

/// A trace that is under way.
pub struct Trace {
    stop: Arc<AtomicBool>,
    syncs: Arc<AtomicU64>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Trace {
    /// # Errors
    /// If this process may not trace the other.
    pub fn start(pid: u32) -> io::Result<Self> {
        let (stop, syncs) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stop_seen, syncs_seen) = (stop.clone(), syncs.clone());
        let (ready, is_ready) = mpsc::channel();
        // The thread that seizes is the only one that may trace and let go.
        let thread = thread::spawn(move || match Tracees::seize(pid) {
            Ok(mut tracees) => {
                let _ = ready.send(Ok(()));
                while !stop_seen.load(Ordering::Relaxed) {
                    tracees.turn(&syncs_seen);
                }
                tracees.let_go(&syncs_seen);
            }
            Err(cause) => drop(ready.send(Err(cause))),
        });
        match is_ready.recv() {
            Ok(Ok(())) => Ok(Trace { stop, syncs, thread: Some(thread) }),
            Ok(Err(cause)) => Err(cause),
            Err(_) => Err(io::Error::other("the tracing thread has ended")),
        }
    }

    /// Ends it: completed calls that make data durable (fsync, fdatasync, sync_file_range, msync, a pwritev2 that syncs).
    pub fn finish(mut self) -> u64 {
        self.end();
        self.syncs.load(Ordering::Relaxed)
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        self.end();
    }
}

struct Tracees {
    threads: HashSet<libc::pid_t>,
    /// Threads inside a call that syncs.
    syncing: HashSet<libc::pid_t>,
}

/// `PTRACE_GET_SYSCALL_INFO` gives this much of `struct ptrace_syscall_info` at least: op, arch, pointers, the number
/// and six arguments.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct SyscallInfo {
    op: u8,
    _pad: [u8; 3],
    _arch: u32,
    _instruction_pointer: u64,
    _stack_pointer: u64,
    /// The number on entry, the result on exit.
    value: u64,
    arguments: [u64; 6],
    _more: [u64; 2],
}

const SYSCALL_INFO_ENTRY: u8 = 1;
const SYSCALL_INFO_EXIT: u8 = 2;
/// What TRACESYSGOOD marks a stop at a system call with.
const SYSCALL_STOP: i32 = libc::SIGTRAP | 0x80;
/// How long threads in a call that cannot be interrupted are waited for.
const LETTING_GO: Duration = Duration::from_secs(2);

impl Tracees {
    fn seize(pid: u32) -> io::Result<Self> {
        let mut tracees = Tracees { threads: HashSet::new(), syncing: HashSet::new() };
        // Threads that are born while others are seized: until no new one is found.
        loop {
            let mut found = 0;
            for entry in fs::read_dir(format!("/proc/{pid}/task"))?.flatten() {
                let Some(thread) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
                if tracees.threads.contains(&thread) {
                    continue;
                }
                let options = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_TRACECLONE;
                match ptrace(libc::PTRACE_SEIZE, thread, 0, options as usize) {
                    Ok(()) => {
                        // A stop, so that it can be told to stop at calls from here on.
                        ptrace(libc::PTRACE_INTERRUPT, thread, 0, 0)?;
                        tracees.threads.insert(thread);
                        found += 1;
                    }
                    // Ended meanwhile, or seized by its parent's clone. The workers of a ring cannot be traced and need
                    // not be: they make no calls.
                    Err(_) if !tracees.threads.is_empty() => {}
                    Err(cause) => return Err(cause),
                }
            }
            if found == 0 {
                return Ok(tracees);
            }
        }
    }

    /// Handles what has stopped, and lets it run on to its next call.
    fn turn(&mut self, syncs: &AtomicU64) {
        if let Some((thread, signal)) = self.next_stop(syncs) {
            let _ = ptrace(libc::PTRACE_SYSCALL, thread, 0, signal as usize);
        }
    }

    /// Stops every thread once more and detaches it there. The kernel lets go of them, too, when the tracing thread ends,
    /// but only after that thread can be joined: a wait for the process right after the join was told of such a stop
    /// in the place of its end.
    fn let_go(mut self, syncs: &AtomicU64) {
        for thread in &self.threads {
            let _ = ptrace(libc::PTRACE_INTERRUPT, *thread, 0, 0);
        }
        let deadline = Instant::now() + LETTING_GO;
        while !self.threads.is_empty() && Instant::now() < deadline {
            match self.next_stop(syncs) {
                Some((thread, signal)) => {
                    let _ = ptrace(libc::PTRACE_DETACH, thread, 0, signal as usize);
                    self.threads.remove(&thread);
                }
                None => self.threads.retain(|thread| !has_ended(*thread)),
            }
        }
    }

    /// A thread that has stopped, and the signal to go on with; None, after a moment, if there is none.
    fn next_stop(&mut self, syncs: &AtomicU64) -> Option<(libc::pid_t, i32)> {
        let flags = libc::WSTOPPED | libc::__WALL | libc::__WNOTHREAD | libc::WNOHANG;
        // SAFETY: siginfo_t is plain data for which all zeros is a valid value, and outlives the call; its fields are
        // those of SIGCHLD, which is what waitid fills in. Only stops of this thread's tracees are taken: how a child ends
        // is for who has started it.
        let (failed, thread, stop) = unsafe {
            let mut info: libc::siginfo_t = mem::zeroed();
            let failed = libc::waitid(libc::P_ALL, 0, &mut info, flags) < 0;
            (failed, info.si_pid(), info.si_status())
        };
        if failed || thread == 0 {
            thread::sleep(Duration::from_micros(20));
            return None;
        }
        // The low byte is a signal's number, the next one tells ptrace's own events: a new thread, an interrupt.
        let signal = match (stop & 0xff, stop >> 8) {
            (SYSCALL_STOP, _) => {
                self.at_call(thread, syncs);
                0
            }
            (number, 0) => number,
            (_, libc::PTRACE_EVENT_CLONE) => {
                self.threads.extend(born(thread));
                0
            }
            _ => 0,
        };
        Some((thread, signal))
    }

    fn at_call(&mut self, thread: libc::pid_t, syncs: &AtomicU64) {
        let mut info = SyscallInfo::default();
        // SAFETY: the kernel writes at most the size that it is told, which is that of `info`.
        let got =
            unsafe { libc::ptrace(libc::PTRACE_GET_SYSCALL_INFO, thread, size_of::<SyscallInfo>(), &raw mut info) };
        if got < mem::offset_of!(SyscallInfo, arguments) as i64 {
            return;
        }
        match info.op {
            SYSCALL_INFO_ENTRY if is_sync(info.value as i64, &info.arguments) => {
                self.syncing.insert(thread);
            }
            // The result of a failed call is negative.
            SYSCALL_INFO_EXIT if self.syncing.remove(&thread) && info.value as i64 >= 0 => {
                syncs.fetch_add(1, Ordering::Relaxed);
            }
            _ => {}
        }
    }
}

/// The thread that another one, stopped at its birth, has started: traced, too.
fn born(parent: libc::pid_t) -> Option<libc::pid_t> {
    let mut thread: libc::c_ulong = 0;
    // SAFETY: the kernel writes one unsigned long, which outlives the call.
    let failed = unsafe { libc::ptrace(libc::PTRACE_GETEVENTMSG, parent, ptr::null_mut::<u8>(), &raw mut thread) } < 0;
    if failed { None } else { libc::pid_t::try_from(thread).ok() }
}

/// Whether a thread has ended; its end is left for who has started it.
fn has_ended(thread: libc::pid_t) -> bool {
    let flags = libc::WEXITED | libc::__WALL | libc::__WNOTHREAD | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: siginfo_t is plain data for which all zeros is a valid value, and outlives the call.
    unsafe {
        let mut info: libc::siginfo_t = mem::zeroed();
        libc::waitid(libc::P_PID, thread as libc::id_t, &mut info, flags) < 0 || info.si_pid() != 0
    }
}

fn is_sync(number: i64, arguments: &[u64; 6]) -> bool {
    match number {
        libc::SYS_fsync | libc::SYS_fdatasync | libc::SYS_sync_file_range | libc::SYS_syncfs | libc::SYS_sync => true,
        libc::SYS_msync => arguments[2] as i32 & libc::MS_SYNC != 0,
        libc::SYS_pwritev2 => arguments[5] as i32 & (libc::RWF_DSYNC | libc::RWF_SYNC) != 0,
        _ => false,
    }
}

fn ptrace(request: libc::c_uint, thread: libc::pid_t, address: usize, data: usize) -> io::Result<()> {
    // SAFETY: these requests take numbers only, no memory of ours.
    match unsafe {
        libc::ptrace(request, thread, ptr::without_provenance::<u8>(address), ptr::without_provenance::<u8>(data))
    } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
