//! What a figure was taken on: processor, memory, kernel, file system, and how long the disk takes for a durable write.
//! Also who runs where: the server on the first CPU of those that this process may use, the driver on the last.

use std::{
    alloc::{Layout, alloc_zeroed, dealloc},
    ffi::CStr,
    fs, io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};
use urd::observe::log::date;

use crate::measure::Latency;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Machine {
    pub processor: String,
    pub cpus: usize,
    pub memory_bytes: u64,
    pub kernel: String,
    /// Where the servers' data lie.
    pub file_system: String,
    /// Median of 4 KiB written with O_DIRECT and O_DSYNC; None where the file system refuses those.
    pub sync_ms: Option<f64>,
}

/// Writes of the probe: some 30 ms on a disk that takes 0.14 ms, and a median that moves little.
pub const SYNC_PROBES: u64 = 200;

impl Machine {
    /// `folder`: where the servers' data will lie.
    pub fn look(folder: &Path) -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Machine {
            processor: after_colon(&cpuinfo, "model name").unwrap_or("unknown").to_owned(),
            cpus: allowed_cpus().len(),
            memory_bytes: after_colon(&meminfo, "MemTotal")
                .and_then(|text| text.strip_suffix("kB")?.trim().parse::<u64>().ok())
                .map_or(0, |kib| kib * 1024),
            kernel: format!("Linux {}", kernel.trim()),
            file_system: file_system(&fs::read_to_string("/proc/self/mounts").unwrap_or_default(), folder),
            sync_ms: sync_ms(folder, SYNC_PROBES).ok(),
        }
    }

    pub fn text(&self) -> String {
        format!(
            "{}, {} CPUs, {:.1} GB of memory, {}, {}, a durable 4 KiB write takes {}",
            self.processor,
            self.cpus,
            self.memory_bytes as f64 / 1e9,
            self.kernel,
            self.file_system,
            self.sync_ms.map_or("an unknown time".to_owned(), |ms| format!("{ms:.3} ms (median)")),
        )
    }
}

fn after_colon<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_once(':').map(|(_, value)| value.trim())
}

/// Type and device of the longest mount point that holds the folder.
fn file_system(mounts: &str, folder: &Path) -> String {
    let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    let mounts = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ');
        let (device, at, kind) = (words.next()?, words.next()?, words.next()?);
        folder.starts_with(at).then_some((at.len(), format!("{kind} on {device}")))
    });
    // The last of equals lies over the others.
    mounts.max_by_key(|(len, _)| *len).map_or("unknown file system".to_owned(), |(_, text)| text)
}

/// The median time of a durable write of 4 KiB at the places of a small file that exists already.
///
/// # Errors
/// Where a file with O_DIRECT and O_DSYNC cannot be made.
pub fn sync_ms(folder: &Path, writes: u64) -> io::Result<f64> {
    const BLOCK: usize = 4096;
    const PLACES: u64 = 64;
    let dir = tempfile::tempdir_in(folder)?;
    let path = dir.path().join("probe");
    fs::write(&path, vec![0; BLOCK * PLACES as usize])?;
    fs::File::open(&path)?.sync_all()?;
    let file = fs::OpenOptions::new().write(true).custom_flags(libc::O_DIRECT | libc::O_DSYNC).open(&path)?;
    let block = Block::new(BLOCK);
    let mut latency = Latency::default();
    for at in 0..writes {
        let begin = Instant::now();
        file.write_all_at(block.bytes(), at % PLACES * BLOCK as u64)?;
        latency.record(begin.elapsed());
    }
    Ok(latency.at_ms(0.5).unwrap_or_default())
}

/// Zeros at an address as O_DIRECT asks for it.
struct Block(*mut u8, Layout);

impl Block {
    fn new(len: usize) -> Self {
        let layout = Layout::from_size_align(len, len).expect("a power of two");
        // SAFETY: the layout's size is not zero.
        let address = unsafe { alloc_zeroed(layout) };
        assert!(!address.is_null(), "out of memory");
        Block(address, layout)
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: allocated with this size, initialised to zeros, and alive as long as `self`.
        unsafe { std::slice::from_raw_parts(self.0, self.1.size()) }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: allocated by `new` with the same layout.
        unsafe { dealloc(self.0, self.1) }
    }
}

/// The CPUs that this process may run on, in order.
pub fn allowed_cpus() -> Vec<usize> {
    // SAFETY: cpu_set_t is plain data for which all zeros is a valid value; the calls only read it and write it.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) < 0 {
            return vec![0];
        }
        (0..libc::CPU_SETSIZE as usize).filter(|cpu| libc::CPU_ISSET(*cpu, &set)).collect()
    }
}

/// Who runs where. One and the same on a machine that has only one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cores {
    pub server: usize,
    pub driver: usize,
}

impl Cores {
    /// To be asked before anything is pinned: afterwards there is one CPU to be seen.
    pub fn choose() -> Self {
        let allowed = allowed_cpus();
        Cores { server: allowed.first().copied().unwrap_or(0), driver: allowed.last().copied().unwrap_or(0) }
    }
}

/// Pins the calling thread, and what it starts, to one CPU. Makes one system call, so that it may stand between fork and
/// exec.
pub fn pin(cpu: usize) -> io::Result<()> {
    // SAFETY: as in `allowed_cpus`.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        match libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// The host's name, to tell machines apart.
pub fn host() -> String {
    let mut name = [0u8; 256];
    // SAFETY: the call writes at most the length that it is told, and the last byte stays zero.
    unsafe { libc::gethostname(name.as_mut_ptr().cast(), name.len() - 1) };
    CStr::from_bytes_until_nul(&name).map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Now, as `2026-11-25T09:30:00Z`.
pub fn now_text() -> String {
    utc_text(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs())
}

fn utc_text(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = date(days);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        assert_eq!(utc_text(0), "1970-01-01T00:00:00Z");
        assert_eq!(utc_text(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(utc_text(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(utc_text(1_795_597_800), "2026-11-25T09:10:00Z");
    }

    #[test]
    fn the_longest_mount_point_holds_a_folder() {
        let mounts = "/dev/vda / ext4 rw 0 0\ntmpfs /nowhere tmpfs rw 0 0\n/dev/vdb /nowhere/data xfs rw 0 0\n";
        let of = |path: &str| file_system(mounts, Path::new(path));
        assert_eq!(of("/nowhere/data/x"), "xfs on /dev/vdb");
        assert_eq!(of("/nowhere/database"), "tmpfs on tmpfs");
        assert_eq!(of("/other"), "ext4 on /dev/vda");
    }

    #[test]
    fn this_machine_is_seen() {
        let machine = Machine::look(&std::env::temp_dir());
        assert!(machine.cpus >= 1 && machine.memory_bytes > 0 && machine.kernel.starts_with("Linux "));
        let cores = Cores::choose();
        assert!(allowed_cpus().contains(&cores.server) && allowed_cpus().contains(&cores.driver));
    }
}
