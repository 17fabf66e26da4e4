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

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader, Write},
        os::unix::process::{CommandExt, ExitStatusExt},
        process::{Child, ChildStdout, Command, Stdio},
    };

    use super::*;
    use crate::runtime::{executors::run_one, spawn_with_handle, yield_now};

    const NAME: &str = "runtime::signals::tests::signals_are_told_or_end_the_process";
    const ROLE: &str = "URD_TEST_SIGNALS_CHILD";

    /// The test starts itself anew as a process that can be killed.
    #[test]
    fn signals_are_told_or_end_the_process() {
        match std::env::var(ROLE) {
            Ok(role) => play(&role),
            Err(_) => {
                nobody_waits_yet();
                the_first_is_told(libc::SIGTERM, "terminated");
                the_first_is_told(libc::SIGINT, "interrupt");
                the_second_ends_the_process();
            }
        }
    }

    fn nobody_waits_yet() {
        let (mut child, mut lines) = start("installs");
        assert_eq!(line(&mut lines), "installed");
        kill(&child, libc::SIGTERM);
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGTERM));
    }

    fn the_first_is_told(signal: libc::c_int, name: &str) {
        let (mut child, mut lines) = start("waits");
        assert_eq!(line(&mut lines), "waiting");
        kill(&child, signal);
        assert_eq!(line(&mut lines), name);
        // It then ends as the signal would have ended it.
        assert_eq!(child.wait().unwrap().signal(), Some(signal));
    }

    fn the_second_ends_the_process() {
        let (mut child, mut lines) = start("hangs");
        assert_eq!(line(&mut lines), "waiting");
        kill(&child, libc::SIGTERM);
        assert_eq!(line(&mut lines), "terminated");
        kill(&child, libc::SIGINT);
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGINT));
    }

    fn start(role: &str) -> (Child, BufReader<ChildStdout>) {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", NAME, "--nocapture"]).env(ROLE, role).stdout(Stdio::piped());
        // In the server `install` runs before any other thread is there; the test's harness has one already, and what
        // is blocked before it starts is blocked in it.
        // SAFETY: between fork and exec only sigemptyset, sigaddset and pthread_sigmask are called, which may be.
        unsafe {
            command.pre_exec(|| {
                SignalSet::of(&SIGNALS).block();
                Ok(())
            });
        }
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        (child, lines)
    }

    /// What the child says next; the harness's own lines are passed over.
    fn line(lines: &mut impl BufRead) -> String {
        loop {
            let mut line = String::new();
            assert_ne!(lines.read_line(&mut line).unwrap(), 0, "the child says more");
            if let Some((_, said)) = line.trim_end().split_once("child: ") {
                return said.to_owned();
            }
        }
    }

    fn kill(child: &Child, signal: libc::c_int) {
        // SAFETY: kill touches no memory.
        assert_eq!(unsafe { libc::kill(child.id() as libc::pid_t, signal) }, 0);
    }

    fn say(what: &str) {
        println!("child: {what}");
        std::io::stdout().flush().unwrap();
    }

    fn play(role: &str) {
        let signals = Signals::install().unwrap();
        if role == "installs" {
            say("installed");
            loop {
                thread::park();
            }
        }
        let hangs = role == "hangs";
        run_one(move || async move {
            let waiting = spawn_with_handle(signals.wait());
            yield_now().await;
            say("waiting");
            let signal = waiting.await.unwrap();
            say(signal.name());
            if hangs {
                std::future::pending::<()>().await;
            }
            signal.die();
        })
        .unwrap();
    }
}
