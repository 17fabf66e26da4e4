//! The system calls for which std has no name: affinity, priorities, limits, sockets' calls without blocking,
//! signals. Each function is safe to call with any arguments its types allow; every `unsafe` of them is here.

use std::{
    ffi::{CStr, OsString},
    io::{self, IoSlice},
    mem::{self, MaybeUninit},
    net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6},
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use crate::limits;

fn checked(result: libc::c_int) -> io::Result<libc::c_int> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn checked_len(result: isize) -> io::Result<usize> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as usize) }
}

/// The cores this thread may run on, ascending.
pub fn allowed_cores() -> io::Result<Vec<usize>> {
    // SAFETY: an all-zero cpu_set_t is an empty set, and the call writes at most the size it is told.
    let set = unsafe {
        let mut set: libc::cpu_set_t = mem::zeroed();
        checked(libc::sched_getaffinity(0, mem::size_of_val(&set), &mut set))?;
        set
    };
    // SAFETY: CPU_ISSET reads inside the set for any index below CPU_SETSIZE.
    Ok((0..libc::CPU_SETSIZE as usize).filter(|&core| unsafe { libc::CPU_ISSET(core, &set) }).collect())
}

/// Keeps this thread to these cores.
pub fn set_cores(cores: &[usize]) -> io::Result<()> {
    // SAFETY: an all-zero cpu_set_t is an empty set; CPU_SET changes a bit inside it for any index below CPU_SETSIZE
    // and nothing for others; the call reads the size it is told. 0 is the calling thread.
    unsafe {
        let mut set: libc::cpu_set_t = mem::zeroed();
        for &core in cores {
            libc::CPU_SET(core, &mut set);
        }
        checked(libc::sched_setaffinity(0, mem::size_of_val(&set), &set)).map(drop)
    }
}

/// Gives this thread the lowest priority, so that it takes only what nobody else wants of a core.
pub fn lower_this_thread(nice: i32) {
    // SAFETY: setpriority touches no memory. With PRIO_PROCESS, 0 is the calling thread on Linux. Lowering one's
    // own priority cannot be refused; were it, the work would only be done sooner.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) };
}

/// The kernel's `struct sched_attr`, as it was at first.
#[repr(C)]
struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// Has this thread take long turns of a core, and give way in the middle of one to every thread that wakes up and takes
/// shorter ones, which are all others: else that one waits until a turn of the usual length, some milliseconds, is over.
/// (Linux 6.12 and later; those before do not look at it.)
pub fn take_long_turns(nice: i32, turn: Duration) {
    let attr = SchedAttr {
        size: size_of::<SchedAttr>() as u32,
        policy: libc::SCHED_OTHER as u32,
        flags: 0,
        nice,
        priority: 0,
        runtime: turn.as_nanos() as u64,
        deadline: 0,
        period: 0,
    };
    // SAFETY: reads the struct, whose size is told; 0 is the calling thread. Where it is refused, turns are as long as others'.
    unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) };
}

/// The soft limit of a resource (`libc::RLIMIT_*`); None if there is none.
pub fn resource_limit(resource: libc::__rlimit_resource_t) -> io::Result<Option<u64>> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the call writes one rlimit.
    checked(unsafe { libc::getrlimit(resource, &mut limit) })?;
    Ok((limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur))
}

/// Keeps all memory of this process from being swapped out, what it has and what it will have, from the first touch of
/// each page on.
///
/// # Errors Unless memory may be locked without a limit: under one, an allocation would fail some day for what can be
/// locked, and that ends the process.
pub fn lock_memory() -> io::Result<()> {
    if let Some(limit) = resource_limit(libc::RLIMIT_MEMLOCK)?
        && !may_lock_more_than(limit)
    {
        let unlimited = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
        // SAFETY: the call reads one rlimit.
        checked(unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &unlimited) })?;
    }
    // SAFETY: mlockall touches no memory and changes none of its contents.
    checked(unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT) }).map(drop)
}

/// Whether the limit does not hold for this process, which a capability may see to: tried with addresses that no memory
/// is behind.
fn may_lock_more_than(limit: u64) -> bool {
    let Some(bytes) = usize::try_from(limit).ok().and_then(|limit| limit.checked_add(1 << 20)) else { return false };
    // SAFETY: the mapping is new, is read by nobody, and is gone before the block ends; mlock2 of it touches no memory.
    unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let at = libc::mmap(std::ptr::null_mut(), bytes, libc::PROT_READ, flags, -1, 0);
        if at == libc::MAP_FAILED {
            return false;
        }
        let locked = libc::mlock2(at, bytes, libc::MLOCK_ONFAULT) == 0;
        libc::munmap(at, bytes);
        locked
    }
}

/// How far the machine's time is ahead of UTC at a moment, in seconds.
pub fn seconds_east_of_utc(unix_seconds: i64) -> i64 {
    // SAFETY: localtime_r reads one time_t and fills one tm, which an all-zero one is; where it fails that is UTC.
    unsafe {
        let mut local: libc::tm = mem::zeroed();
        libc::localtime_r(&unix_seconds, &mut local);
        local.tm_gmtoff
    }
}

/// The kernel's release, like "6.1.0-13-amd64".
pub fn kernel_release() -> String {
    // SAFETY: uname fills a utsname with NUL-terminated strings; an all-zero one is a valid value.
    unsafe {
        let mut name: libc::utsname = mem::zeroed();
        libc::uname(&mut name);
        CStr::from_ptr(name.release.as_ptr()).to_string_lossy().into_owned()
    }
}

/// Opens a stream socket of the family that never blocks.
pub fn stream_socket(family: libc::c_int) -> io::Result<OwnedFd> {
    let flags = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: socket touches no memory; the descriptor is new and ours.
    unsafe { checked(libc::socket(family, flags, 0)).map(|fd| OwnedFd::from_raw_fd(fd)) }
}

/// Sets a socket option that is an int.
pub fn set_option(fd: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let length = mem::size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the kernel reads `length` bytes of `value`.
    let result = unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const value).cast(), length) };
    checked(result).map(drop)
}

/// A socket address as the kernel takes it.
pub struct RawAddress {
    storage: libc::sockaddr_storage,
    length: libc::socklen_t,
}

impl RawAddress {
    fn zeroed() -> Self {
        // SAFETY: an all-zero sockaddr_storage is a valid value (family AF_UNSPEC).
        RawAddress { storage: unsafe { mem::zeroed() }, length: 0 }
    }

    fn of<T: Copy>(value: T) -> Self {
        assert!(mem::size_of::<T>() <= mem::size_of::<libc::sockaddr_storage>());
        let mut raw = RawAddress::zeroed();
        // SAFETY: sockaddr_storage is made to hold any address: it is large enough (asserted) and suitably aligned.
        unsafe { (&raw mut raw.storage).cast::<T>().write(value) };
        raw.length = mem::size_of::<T>() as libc::socklen_t;
        raw
    }

    pub fn of_inet(address: SocketAddr) -> Self {
        match address {
            SocketAddr::V4(v4) => RawAddress::of(libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                sin_zero: [0; 8],
            }),
            SocketAddr::V6(v6) => RawAddress::of(libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: v6.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                sin6_scope_id: v6.scope_id(),
            }),
        }
    }

    /// InvalidInput if the path is longer than the 107 bytes the kernel has room for.
    pub fn of_path(path: &Path) -> io::Result<Self> {
        let bytes = path.as_os_str().as_bytes();
        // SAFETY: an all-zero sockaddr_un is a valid value.
        let mut unix: libc::sockaddr_un = unsafe { mem::zeroed() };
        if bytes.len() >= unix.sun_path.len() || bytes.contains(&0) {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        unix.sun_family = libc::AF_UNIX as libc::sa_family_t;
        for (to, from) in unix.sun_path.iter_mut().zip(bytes) {
            *to = *from as libc::c_char;
        }
        Ok(RawAddress::of(unix))
    }

    /// The path of a unix socket that has one.
    pub fn path(&self) -> Option<PathBuf> {
        let (family, start) = (libc::c_int::from(self.storage.ss_family), mem::offset_of!(libc::sockaddr_un, sun_path));
        if family != libc::AF_UNIX {
            return None;
        }
        // SAFETY: the family says that the storage holds a sockaddr_un; every bit pattern is one.
        let unix = unsafe { (&raw const self.storage).cast::<libc::sockaddr_un>().read() };
        let len = (self.length as usize).saturating_sub(start);
        let bytes: Vec<u8> =
            unix.sun_path.iter().take(len).map(|&byte| byte as u8).take_while(|&byte| byte != 0).collect();
        (!bytes.is_empty()).then(|| PathBuf::from(OsString::from_vec(bytes)))
    }

    /// None for anything but IPv4 and IPv6.
    pub fn inet(&self) -> Option<SocketAddr> {
        match libc::c_int::from(self.storage.ss_family) {
            libc::AF_INET => {
                // SAFETY: the family says that the storage holds a sockaddr_in; every bit pattern is one.
                let v4 = unsafe { (&raw const self.storage).cast::<libc::sockaddr_in>().read() };
                let ip = v4.sin_addr.s_addr.to_ne_bytes().into();
                Some(SocketAddr::V4(SocketAddrV4::new(ip, u16::from_be(v4.sin_port))))
            }
            libc::AF_INET6 => {
                // SAFETY: as above, for sockaddr_in6.
                let v6 = unsafe { (&raw const self.storage).cast::<libc::sockaddr_in6>().read() };
                let ip = v6.sin6_addr.s6_addr.into();
                let port = u16::from_be(v6.sin6_port);
                Some(SocketAddr::V6(SocketAddrV6::new(ip, port, v6.sin6_flowinfo, v6.sin6_scope_id)))
            }
            _ => None,
        }
    }
}

pub fn bind(fd: BorrowedFd<'_>, address: &RawAddress) -> io::Result<()> {
    // SAFETY: the kernel reads `length` bytes of the storage, which holds that many.
    checked(unsafe { libc::bind(fd.as_raw_fd(), (&raw const address.storage).cast(), address.length) }).map(drop)
}

/// The name that the system's resolver has for an address. Blocks.
pub fn name_of(address: IpAddr) -> io::Result<String> {
    let raw = RawAddress::of_inet(SocketAddr::new(address, 0));
    // NI_MAXHOST of <netdb.h>.
    let mut name = [0 as libc::c_char; 1025];
    // SAFETY: the address has the length that is told with it; the call writes at most as much as it is told, and ends
    // what it writes with a zero; of the service nothing is asked.
    let result = unsafe {
        libc::getnameinfo(
            (&raw const raw.storage).cast(),
            raw.length,
            name.as_mut_ptr(),
            name.len() as libc::socklen_t,
            std::ptr::null_mut(),
            0,
            libc::NI_NAMEREQD,
        )
    };
    if result != 0 {
        return Err(io::Error::other(format!("lookup {address}: no such host")));
    }
    // SAFETY: the call has ended the name with a zero within the array.
    let name = unsafe { CStr::from_ptr(name.as_ptr()) };
    Ok(name.to_string_lossy().into_owned())
}

pub fn listen(fd: BorrowedFd<'_>, backlog: i32) -> io::Result<()> {
    // SAFETY: listen touches no memory.
    checked(unsafe { libc::listen(fd.as_raw_fd(), backlog) }).map(drop)
}

/// Begins to connect; EINPROGRESS is an error like any other.
pub fn connect(fd: BorrowedFd<'_>, address: &RawAddress) -> io::Result<()> {
    // SAFETY: as for bind.
    checked(unsafe { libc::connect(fd.as_raw_fd(), (&raw const address.storage).cast(), address.length) }).map(drop)
}

/// What became of a connect that was in progress.
pub fn take_error(fd: BorrowedFd<'_>) -> io::Result<()> {
    let mut error: libc::c_int = 0;
    let mut length = mem::size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, the size of `error`.
    checked(unsafe {
        libc::getsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_ERROR, (&raw mut error).cast(), &mut length)
    })?;
    if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) }
}

pub fn local_address(fd: BorrowedFd<'_>) -> io::Result<RawAddress> {
    let mut raw = RawAddress::zeroed();
    raw.length = mem::size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, the size of the storage.
    checked(unsafe { libc::getsockname(fd.as_raw_fd(), (&raw mut raw.storage).cast(), &mut raw.length) })?;
    Ok(raw)
}

/// Takes a connection that waits, or WouldBlock. The new socket never blocks.
pub fn accept(fd: BorrowedFd<'_>) -> io::Result<(OwnedFd, RawAddress)> {
    let mut raw = RawAddress::zeroed();
    raw.length = mem::size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: the kernel writes at most `length` bytes, the size of the storage; the descriptor is new and ours.
    unsafe {
        let new = libc::accept4(fd.as_raw_fd(), (&raw mut raw.storage).cast(), &mut raw.length, flags);
        Ok((OwnedFd::from_raw_fd(checked(new)?), raw))
    }
}

/// Receives into memory that need not be initialized; the first `n` bytes of it are, when Ok(n) comes back.
pub fn receive(fd: BorrowedFd<'_>, buffer: &mut [MaybeUninit<u8>]) -> io::Result<usize> {
    // SAFETY: the kernel writes at most the buffer's length into it and reads nothing from it.
    checked_len(unsafe { libc::recv(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), libc::MSG_DONTWAIT) })
}

pub fn send(fd: BorrowedFd<'_>, buffer: &[u8]) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the kernel reads at most the buffer's length from it.
    checked_len(unsafe { libc::send(fd.as_raw_fd(), buffer.as_ptr().cast(), buffer.len(), flags) })
}

/// Sends several buffers with one call; those beyond the kernel's bound are left for the next.
pub fn send_vectored(fd: BorrowedFd<'_>, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
    // SAFETY: an all-zero msghdr is a valid value: no address, no buffers, no control data.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    // IoSlice promises the layout of iovec; the kernel does not write through it.
    message.msg_iov = buffers.as_ptr().cast_mut().cast();
    message.msg_iovlen = buffers.len().min(limits::SEND_BUFFERS_MAX) as _;
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: msg_iov points to at least msg_iovlen live slices, from which the kernel only reads.
    checked_len(unsafe { libc::sendmsg(fd.as_raw_fd(), &message, flags) })
}

/// Says to the other side that nothing more will be sent.
pub fn shutdown_write(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: shutdown touches no memory.
    checked(unsafe { libc::shutdown(fd.as_raw_fd(), libc::SHUT_WR) }).map(drop)
}

/// A descriptor that can be read when the other one can. It does not keep that one open.
pub fn stand_in(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: epoll_create1 touches no memory; the descriptor is new and ours.
    let epoll = unsafe { OwnedFd::from_raw_fd(checked(libc::epoll_create1(libc::EPOLL_CLOEXEC))?) };
    let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 0 };
    // SAFETY: the kernel reads one epoll_event.
    checked(unsafe { libc::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, fd.as_raw_fd(), &mut event) })?;
    Ok(epoll)
}

/// A counter that can be waited for; reading it never blocks.
pub fn event_counter() -> io::Result<OwnedFd> {
    // SAFETY: eventfd touches no memory; the descriptor is new and ours.
    unsafe { checked(libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK)).map(|fd| OwnedFd::from_raw_fd(fd)) }
}

/// Adds one to an event counter.
pub fn signal_event(fd: BorrowedFd<'_>) {
    let one = 1u64;
    // SAFETY: the kernel reads the eight bytes of `one`.
    unsafe { libc::write(fd.as_raw_fd(), (&raw const one).cast(), 8) };
}

/// Takes what an event counter holds, or WouldBlock if that is nothing.
pub fn read_event(fd: BorrowedFd<'_>) -> io::Result<u64> {
    let mut count = 0u64;
    // SAFETY: the kernel writes the eight bytes of `count`.
    checked_len(unsafe { libc::read(fd.as_raw_fd(), (&raw mut count).cast(), 8) })?;
    Ok(count)
}

/// Reads at an offset only what is in memory already; WouldBlock if nothing of it is. Ok(0): the end of the file.
pub fn read_resident(fd: BorrowedFd<'_>, buffer: &mut [MaybeUninit<u8>], offset: u64) -> io::Result<usize> {
    let vector = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let offset = libc::off_t::try_from(offset).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    // SAFETY: the kernel writes at most the buffer's length into it.
    checked_len(unsafe { libc::preadv2(fd.as_raw_fd(), &vector, 1, offset, libc::RWF_NOWAIT) })
}

/// Bytes in a file.
pub fn file_len(fd: BorrowedFd<'_>) -> io::Result<u64> {
    let mut status = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: the call fills the struct if it succeeds.
    let status = unsafe {
        checked(libc::fstat(fd.as_raw_fd(), status.as_mut_ptr()))?;
        status.assume_init()
    };
    Ok(status.st_size as u64)
}

/// Whether a file's system is one that has no device beneath it.
pub fn is_in_memory(fd: BorrowedFd<'_>) -> io::Result<bool> {
    const RAMFS_MAGIC: u32 = 0x8584_58f6;
    let mut status = MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: the call fills the struct if it succeeds.
    let status = unsafe {
        checked(libc::fstatfs(fd.as_raw_fd(), status.as_mut_ptr()))?;
        status.assume_init()
    };
    // Magic numbers have 32 bits; the field's type differs between platforms.
    Ok([libc::TMPFS_MAGIC as u32, RAMFS_MAGIC].contains(&(status.f_type as u32)))
}

/// Whether the descriptor was opened with O_DIRECT and has kept it.
pub fn is_direct(fd: BorrowedFd<'_>) -> io::Result<bool> {
    // SAFETY: F_GETFL touches no memory.
    Ok(checked(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) })? & libc::O_DIRECT != 0)
}

/// A set of signals.
#[derive(Clone, Copy)]
pub struct SignalSet(libc::sigset_t);

impl SignalSet {
    pub fn of(signals: &[libc::c_int]) -> Self {
        // SAFETY: sigemptyset initializes the set, which an all-zero value already is; sigaddset changes it.
        unsafe {
            let mut set: libc::sigset_t = mem::zeroed();
            libc::sigemptyset(&mut set);
            for &signal in signals {
                assert_eq!(libc::sigaddset(&mut set, signal), 0, "{signal} is no signal");
            }
            SignalSet(set)
        }
    }

    /// Keeps these signals from this thread and the threads it starts from now on.
    pub fn block(&self) {
        // SAFETY: the call reads the set; a null pointer asks for no old one. It fails only for an unknown `how`.
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &self.0, std::ptr::null_mut()) };
    }

    /// Lets them through to this thread.
    pub fn unblock(&self) {
        // SAFETY: as for block.
        unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, &self.0, std::ptr::null_mut()) };
    }

    /// Waits until one of these, blocked in all threads, has come.
    pub fn wait(&self) -> libc::c_int {
        loop {
            let mut signal = 0;
            // SAFETY: the call reads the set and writes one int. It can fail only by being interrupted.
            if unsafe { libc::sigwait(&self.0, &mut signal) } == 0 {
                return signal;
            }
        }
    }
}

/// Ends the process as the signal would have, had nobody listened.
pub fn die_of(signal: libc::c_int) -> ! {
    // SAFETY: SIG_DFL installs no code of ours; raise touches no memory.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
    SignalSet::of(&[signal]).unblock();
    // SAFETY: as above.
    unsafe { libc::raise(signal) };
    // The first process of a container is spared its own signals.
    std::process::exit(0);
}
