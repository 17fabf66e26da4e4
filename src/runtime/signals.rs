//! SIGTERM and SIGINT as an event an executor can wait for. A thread takes them with sigwait, so no code of ours runs
//! in a signal handler. Until somebody waits, and from the second signal on, they end the process as if nobody listened.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicI32, Ordering},
    },
    thread,
};

use super::{
    os::{self, SignalSet},
    poller::Registered,
};

const SIGNALS: [libc::c_int; 2] = [libc::SIGTERM, libc::SIGINT];

/// Nobody waits yet.
const NOBODY: i32 = 0;
/// Somebody waits; nothing has come.
const AWAITED: i32 = -1;

/// A signal that asks the process to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    Terminate,
    Interrupt,
}

impl Signal {
    /// As Go's os/signal prints it.
    pub fn name(self) -> &'static str {
        match self {
            Signal::Terminate => "terminated",
            Signal::Interrupt => "interrupt",
        }
    }

    fn number(self) -> libc::c_int {
        match self {
            Signal::Terminate => libc::SIGTERM,
            Signal::Interrupt => libc::SIGINT,
        }
    }

    /// Ends the process as this signal does, so that whoever sent it sees it obeyed; etcd does so after its clean-up.
    /// The first process of a container, which its own signals do not end, exits with 0.
    pub fn die(self) -> ! {
        os::die_of(self.number())
    }
}

/// The signals of this process.
pub struct Signals {
    shared: Arc<Shared>,
}

struct Shared {
    state: AtomicI32,
    came: OwnedFd,
}

impl Signals {
    /// Takes the signals over. Call it once, before any other thread is started: threads inherit what is blocked.
    pub fn install() -> io::Result<Self> {
        let set = SignalSet::of(&SIGNALS);
        set.block();
        let shared = Arc::new(Shared { state: AtomicI32::new(NOBODY), came: os::event_counter()? });
        let taker = shared.clone();
        thread::Builder::new().name("signals".into()).spawn(move || take(set, &taker))?;
        Ok(Signals { shared })
    }

    /// The first signal that comes from now on; another one after it ends the process. To be waited for once.
    pub async fn wait(self) -> io::Result<Signal> {
        let counter = Registered::new(self.shared.came.try_clone()?)?;
        self.shared.state.store(AWAITED, Ordering::Release);
        std::future::poll_fn(|context| counter.poll_read(context, os::read_event, |_| false)).await?;
        Ok(match self.shared.state.load(Ordering::Acquire) {
            libc::SIGINT => Signal::Interrupt,
            _ => Signal::Terminate,
        })
    }
}

fn take(set: SignalSet, shared: &Shared) -> ! {
    loop {
        let signal = set.wait();
        let awaited = shared.state.compare_exchange(AWAITED, signal, Ordering::AcqRel, Ordering::Acquire);
        if awaited.is_err() {
            os::die_of(signal);
        }
        os::signal_event(shared.came.as_fd());
    }
}
