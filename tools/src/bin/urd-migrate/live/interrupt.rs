//! Ctrl-C at any moment: says where the cluster stands, and ends. There is nothing to undo: each step is one change that the
//! members have made or not.

use std::{mem, ptr, sync::Mutex, thread};

static STATE: Mutex<String> = Mutex::new(String::new());

/// What is to be said if it is ended from now on.
pub fn note(state: &str) {
    state.clone_into(&mut STATE.lock().expect("nobody panics with it"));
}

/// To be called before any other thread is there: those that come after leave the two signals to the one that waits.
pub fn tell_when_asked_to_end() {
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
        let state = STATE.lock().expect("nobody panics with it").clone();
        eprintln!("\nurd-migrate: interrupted. {state}\nThe same command goes on from there.");
        std::process::exit(128 + signal);
    });
}
