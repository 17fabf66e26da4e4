//! Executors: one thread each, pinned to one of the cores the process may use, with a ring of its own. `run` starts them
//! and returns when all are done. Where the system refuses io_uring, it says why and what to do.

use std::{
    any::Any,
    fmt,
    future::Future,
    io,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use super::{executor::Executor, os, ring};
use crate::limits;

/// Which cores executors run on, one executor for each entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    cores: Vec<usize>,
    /// How long an executor that has run out of work looks for more before it sleeps.
    pub spin_before_park: Duration,
}

impl Placement {
    /// `executors` of them on the cores this process may use (`taskset`, cpusets), the lowest first. More executors
    /// than cores share them in turn.
    pub fn new(executors: usize) -> Result<Self, StartError> {
        assert!(executors > 0, "nothing runs without an executor");
        let allowed = os::allowed_cores().map_err(StartError::Affinity)?;
        let cores = allowed.iter().copied().cycle().take(executors).collect();
        let spin_before_park = Duration::from_micros(limits::SPIN_BEFORE_PARK_MICROSECONDS_DEFAULT);
        Ok(Placement { cores, spin_before_park })
    }

    pub fn cores(&self) -> &[usize] {
        &self.cores
    }
}

/// How many cores this process may use.
pub fn allowed_cores() -> Result<usize, StartError> {
    Ok(os::allowed_cores().map_err(StartError::Affinity)?.len())
}

/// Starts an executor at each place, running `entry` with its number there, and gives back what they returned, in
/// order, when all have. A panic in any task of any executor is raised here at once; the other executors are then
/// still running, so the caller is expected to end the process.
pub fn run<T, F>(
    placement: &Placement,
    entry: impl Fn(usize) -> F + Send + Sync + 'static,
) -> Result<Vec<T>, StartError>
where
    T: Send + 'static,
    F: Future<Output = T> + 'static,
{
    ring::try_ring().map_err(StartError::of_ring)?;
    let entry = Arc::new(entry);
    let (ended, endings) = mpsc::channel();
    for (number, &core) in placement.cores.iter().enumerate() {
        let (entry, ended, spin) = (entry.clone(), ended.clone(), placement.spin_before_park);
        start(
            &format!("executor-{number}"),
            Some(core),
            spin,
            move |ending| {
                // The receiver is gone only if another executor's ending has been raised.
                let _ = ended.send((number, ending));
            },
            move || entry(number),
        )?;
    }
    drop(ended);
    let mut results: Vec<Option<T>> = placement.cores.iter().map(|_| None).collect();
    for (number, ending) in endings {
        results[number] = Some(ending.into_result()?);
    }
    Ok(results.into_iter().map(|result| result.expect("each executor ends once")).collect())
}

/// Runs one future on an executor of its own, on any core, to its end: for tools and tests.
pub fn run_one<T, F>(entry: impl FnOnce() -> F + Send + 'static) -> Result<T, StartError>
where
    T: Send + 'static,
    F: Future<Output = T> + 'static,
{
    ring::try_ring().map_err(StartError::of_ring)?;
    let (ended, endings) = mpsc::channel();
    start("executor", None, Duration::ZERO, move |ending| drop(ended.send(ending)), entry)?;
    endings.recv().expect("an executor says how it ended").into_result()
}

enum Ending<T> {
    Returned(T),
    Failed(StartError),
    Panicked(Box<dyn Any + Send>),
}

impl<T> Ending<T> {
    fn into_result(self) -> Result<T, StartError> {
        match self {
            Ending::Returned(value) => Ok(value),
            Ending::Failed(error) => Err(error),
            Ending::Panicked(panic) => resume_unwind(panic),
        }
    }
}

fn start<T, F>(
    name: &str,
    core: Option<usize>,
    spin_before_park: Duration,
    end: impl FnOnce(Ending<T>) + Send + 'static,
    entry: impl FnOnce() -> F + Send + 'static,
) -> Result<(), StartError>
where
    T: 'static,
    F: Future<Output = T> + 'static,
{
    let live = move || {
        // Before the thread is pinned: its threads for blocking work are not.
        let cores = os::allowed_cores().map_err(StartError::Affinity)?;
        if let Some(core) = core {
            os::set_cores(&[core]).map_err(StartError::Affinity)?;
        }
        let executor = Executor::new(spin_before_park, &cores).map_err(StartError::of_ring)?;
        Ok(executor.run(async move { entry().await }))
    };
    let body = move || {
        end(match catch_unwind(AssertUnwindSafe(live)) {
            Ok(Ok(value)) => Ending::Returned(value),
            Ok(Err(error)) => Ending::Failed(error),
            Err(panic) => Ending::Panicked(panic),
        });
    };
    thread::Builder::new().name(name.to_owned()).spawn(body).map(drop).map_err(StartError::Thread)
}

/// Why executors could not be started. The text says what to do.
#[derive(Debug)]
pub enum StartError {
    Affinity(io::Error),
    Thread(io::Error),
    /// io_uring is refused, for this reason, with this cure.
    Ring {
        error: io::Error,
        cause: String,
        cure: &'static str,
    },
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Affinity(error) => write!(f, "cannot tell which cores may be used: {error}"),
            StartError::Thread(error) => write!(f, "cannot start a thread: {error}"),
            StartError::Ring { error, cause, cure } => write!(f, "cannot use io_uring: {error}: {cause}; {cure}"),
        }
    }
}

impl std::error::Error for StartError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            StartError::Affinity(error) | StartError::Thread(error) | StartError::Ring { error, .. } => Some(error),
        }
    }
}

impl StartError {
    fn of_ring(error: io::Error) -> Self {
        let disabled = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
        let memlock = os::resource_limit(libc::RLIMIT_MEMLOCK).unwrap_or(None);
        let (cause, cure) = explain(error.raw_os_error(), disabled.trim(), memlock, &os::kernel_release());
        StartError::Ring { error, cause, cure }
    }
}

/// The likely cause of a refusal and its cure. `disabled`: kernel.io_uring_disabled, empty where there is no such knob;
/// `memlock`: the limit in bytes, None where there is none.
fn explain(errno: Option<i32>, disabled: &str, memlock: Option<u64>, release: &str) -> (String, &'static str) {
    match (errno, disabled) {
        (Some(libc::EPERM), "2") => (
            "kernel.io_uring_disabled is 2, which forbids it to everybody".into(),
            "set it to 0 (sysctl -w kernel.io_uring_disabled=0)",
        ),
        (Some(libc::EPERM), "1") => (
            "kernel.io_uring_disabled is 1, which forbids it to all but the group in kernel.io_uring_group".into(),
            "set kernel.io_uring_group to a group of this process, or kernel.io_uring_disabled to 0",
        ),
        (Some(libc::EPERM | libc::EACCES), _) => (
            "a seccomp or security policy forbids it; those of most container engines do".into(),
            "allow io_uring_setup, io_uring_enter and io_uring_register in the container's seccomp profile",
        ),
        (Some(libc::ENOSYS), _) => (
            format!("the kernel, {release}, does not have it, or a sandbox hides it"),
            "run on Linux 5.13 or newer with CONFIG_IO_URING, and allow io_uring_setup, io_uring_enter and \
             io_uring_register in the sandbox",
        ),
        (Some(libc::ENOMEM), _) => (
            match memlock {
                Some(bytes) => format!("the limit on locked memory is {} KiB", bytes / 1024),
                None => "the system is out of memory".into(),
            },
            "raise the limit to 8 MiB (ulimit -l 8192; LimitMEMLOCK=8M in a systemd unit; --ulimit memlock=8388608 \
             for a container)",
        ),
        (Some(libc::EMFILE | libc::ENFILE), _) => (
            "no file descriptor is free".into(),
            "raise the limit on open files (ulimit -n; LimitNOFILE= in a systemd unit)",
        ),
        _ => (
            format!("the kernel is {release}"),
            "run on Linux 5.13 or newer and allow io_uring in the container's or sandbox's profile",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_executor_runs_on_the_core_it_was_given() {
        let placement = Placement::new(3).unwrap();
        let allowed = os::allowed_cores().unwrap();
        let ran = run(&placement, |number| async move { (number, os::allowed_cores().unwrap()) }).unwrap();
        for (number, (told, cores)) in ran.into_iter().enumerate() {
            assert_eq!(told, number);
            assert_eq!(cores, [placement.cores()[number]]);
            assert!(allowed.contains(&cores[0]));
        }
    }

    #[test]
    fn cores_are_taken_from_the_set_the_process_may_use() {
        let allowed = os::allowed_cores().unwrap();
        let last = *allowed.last().unwrap();
        // A thread with one core stands for a process under taskset.
        let placement = thread::spawn(move || {
            os::set_cores(&[last]).unwrap();
            Placement::new(2).unwrap()
        });
        assert_eq!(placement.join().unwrap().cores(), [last, last]);
    }

    #[test]
    fn a_panic_of_any_executor_is_raised_though_others_go_on() {
        let placement = Placement::new(2).unwrap();
        let raised = catch_unwind(move || {
            run(&placement, |number| async move {
                if number == 0 {
                    std::future::pending::<()>().await;
                }
                panic!("executor {number} is lost");
            })
        });
        let panic = raised.expect_err("a panic comes through");
        assert_eq!(panic.downcast_ref::<String>().unwrap(), "executor 1 is lost");
    }

    #[test]
    fn a_panic_of_a_spawned_task_is_raised() {
        let raised = catch_unwind(|| {
            run_one(|| async {
                crate::runtime::spawn(async { panic!("a task is lost") });
                std::future::pending::<()>().await;
            })
        });
        assert_eq!(raised.expect_err("a panic comes through").downcast_ref::<&str>(), Some(&"a task is lost"));
    }

    #[test]
    fn a_refusal_says_cause_and_cure() {
        let says = |errno, disabled, memlock, text: &str| {
            let (cause, cure) = explain(Some(errno), disabled, memlock, "5.4.0-generic");
            let all = format!("{cause}; {cure}");
            assert!(all.contains(text), "{all}");
        };
        says(libc::EPERM, "2", None, "sysctl -w kernel.io_uring_disabled=0");
        says(libc::EPERM, "1", None, "kernel.io_uring_group");
        says(libc::EPERM, "0", None, "seccomp");
        says(libc::EPERM, "", None, "seccomp");
        says(libc::ENOSYS, "", None, "5.4.0-generic");
        says(libc::ENOMEM, "0", Some(65536), "64 KiB");
        says(libc::ENOMEM, "0", Some(65536), "LimitMEMLOCK=8M");
    }
}
