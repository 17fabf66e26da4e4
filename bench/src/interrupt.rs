//! What an interrupted run leaves behind: nothing. Folders with servers' data can be gigabytes; those that exist are known
//! here, and a SIGINT or SIGTERM removes them before the process ends. The servers themselves end with their parent.

use std::{
    fs, mem,
    path::{Path, PathBuf},
    ptr,
    sync::Mutex,
    thread,
    time::Duration,
};

static FOLDERS: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// A folder that is to be gone when the process is interrupted. One that is gone already does no harm.
pub fn keep(folder: &Path) {
    FOLDERS.lock().expect("nobody panics with it").push(folder.to_owned());
}

/// To be called before any other thread is there: those that come after leave the two signals to the one that waits.
pub fn clean_up_when_asked_to_end() {
    // SAFETY: sigset_t is plain data that sigemptyset makes valid; the calls only read it and write it. Programs that are
    // started later have an empty mask, which is std's doing.
    let signals = unsafe {
        let mut signals: libc::sigset_t = mem::zeroed();
        libc::sigemptyset(&mut signals);
        libc::sigaddset(&mut signals, libc::SIGINT);
        libc::sigaddset(&mut signals, libc::SIGTERM);
        libc::pthread_sigmask(libc::SIG_BLOCK, &signals, ptr::null_mut());
        signals
    };
    thread::spawn(move || {
        let mut signal = 0;
        // SAFETY: both outlive the call.
        if unsafe { libc::sigwait(&signals, &mut signal) } != 0 {
            return;
        }
        // A server that still runs may make files while they are removed: it is over in a moment, with this process.
        for folder in FOLDERS.lock().expect("nobody panics with it").iter() {
            for _ in 0..3 {
                if fs::remove_dir_all(folder).is_ok() || !folder.exists() {
                    break;
                }
                thread::sleep(Duration::from_millis(20));
            }
        }
        std::process::exit(128 + signal);
    });
}
