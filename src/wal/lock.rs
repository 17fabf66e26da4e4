//! The lock that keeps a second process out of a data directory. It goes with the process, however it ends.

use std::{fs::File, io, os::fd::AsRawFd};

/// Takes the lock on an open file. `WouldBlock` if another process (or another open of this one) has it.
pub fn try_lock(file: &File) -> io::Result<()> {
    // SAFETY: `flock` takes a descriptor, which `file` keeps open, and touches no memory.
    match unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
