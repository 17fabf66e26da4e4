//! CPU and memory of processes, from `/proc`.

use std::{fs, path::Path, time::Duration};

use serde::{Deserialize, Serialize};

/// Bytes of a process's memory at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    /// VmRSS.
    pub resident: u64,
    /// RssAnon: its own.
    pub anonymous: u64,
    /// RssFile: pages of mapped files, which the kernel can take back.
    pub file: u64,
    /// VmHWM: the largest VmRSS since the start, or since `reset_peak`.
    pub peak: u64,
}

impl Memory {
    /// Reads `/proc/PID/status`; None if a line is missing, as of a process that is ending.
    fn of_status(status: &str) -> Option<Self> {
        let bytes = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
        };
        Some(Memory {
            resident: bytes("VmRSS")?,
            anonymous: bytes("RssAnon")?,
            file: bytes("RssFile")?,
            peak: bytes("VmHWM")?,
        })
    }
}

pub fn memory_of(pid: u32) -> Option<Memory> {
    Memory::of_status(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?)
}

/// Lets VmHWM begin anew (proc_pid_clear_refs(5)). Says whether that was allowed.
pub fn reset_peak(pid: u32) -> bool {
    fs::write(format!("/proc/{pid}/clear_refs"), "5").is_ok()
}

/// CPU time of a process, all its threads, from the scheduler's own nanoseconds. Threads that have ended are not in it.
pub fn cpu_of(pid: u32) -> Duration {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Duration::ZERO };
    let of_thread = |path: &Path| on_cpu(&fs::read_to_string(path.join("schedstat")).ok()?);
    threads.flatten().filter_map(|thread| of_thread(&thread.path())).sum()
}

/// The first number of a schedstat: nanoseconds on a CPU.
fn on_cpu(schedstat: &str) -> Option<Duration> {
    schedstat.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}

/// CPU time of this process.
pub fn driver_cpu() -> Duration {
    // SAFETY: rusage is plain data for which all zeros is a valid value; the call fills it.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    let of = |time: libc::timeval| Duration::new(time.tv_sec as u64, time.tv_usec as u32 * 1_000);
    of(usage.ru_utime) + of(usage.ru_stime)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\turd\nVmPeak:\t  900000 kB\nVmHWM:\t  300 kB\nVmRSS:\t  200 kB\nRssAnon:\t  150 kB\n\
                          RssFile:\t   50 kB\nRssShmem:\t       0 kB\nThreads:\t4\n";

    #[test]
    fn a_status_is_read() {
        let expected = Memory { resident: 200 << 10, anonymous: 150 << 10, file: 50 << 10, peak: 300 << 10 };
        assert_eq!(Memory::of_status(STATUS), Some(expected));
        assert_eq!(Memory::of_status("Name:\tkworker\nThreads:\t1\n"), None);
        assert_eq!(Memory::of_status(&STATUS.replace("200 kB", "many")), None);
    }

    #[test]
    fn a_schedstat_is_read() {
        assert_eq!(on_cpu("1500000 77 12\n"), Some(Duration::from_micros(1_500)));
        assert_eq!(on_cpu(""), None);
    }

    #[test]
    fn this_process_has_memory_and_has_used_cpu() {
        let memory = memory_of(std::process::id()).unwrap();
        assert!(memory.resident > 0 && memory.peak >= memory.resident);
        assert_eq!(memory_of(u32::MAX), None);
        assert_eq!(cpu_of(u32::MAX), Duration::ZERO);
        let mut spun = 0u64;
        while driver_cpu().is_zero() || cpu_of(std::process::id()).is_zero() {
            spun = spun.wrapping_add(1);
        }
    }
}
