//! Whether a server syncs its log before it answers: found out, not believed. A burst of puts by one client is watched
//! from three sides: the sync calls that the process makes, the files it holds open for synchronous writing and how much
//! it has written, and the flushes that reach the device.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{Device, trace::Trace};

/// What was seen while a number of puts was answered, each sent after the one before.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Evidence {
    pub puts: u64,
    /// None if the process could not be traced.
    pub sync_calls: Option<u64>,
    /// It has a ring, so that it may sync without a system call of its own.
    pub has_ring: bool,
    /// Open files of its data folder with O_DSYNC or O_SYNC.
    pub synchronous_files: u64,
    /// Bytes that the process has caused to be written to devices; None if its counters cannot be read.
    pub written_bytes: Option<u64>,
    /// Flushes of the device beneath, by whomever; None if there is no device, or it needs none.
    pub flushes: Option<u64>,
    /// The same in as long a time without puts.
    pub flushes_at_rest: Option<u64>,
}

/// The least that a durable put writes to a device.
const SECTOR_BYTES: u64 = 512;

impl Evidence {
    /// Ok: how it syncs, in words. Err: why that cannot be believed.
    pub fn verdict(&self) -> Result<String, String> {
        let puts = self.puts;
        if let Some(calls) = self.sync_calls.filter(|calls| *calls >= puts) {
            return Ok(format!("{calls} sync calls for {puts} puts"));
        }
        let written = self.written_bytes.filter(|written| *written >= puts * SECTOR_BYTES);
        if let Some(written) = written.filter(|_| self.synchronous_files > 0) {
            return Ok(format!("log open with O_DSYNC, {written} bytes written to the device for {puts} puts"));
        }
        // A process that has no ring has no way to sync but by a call, and those were counted.
        let may_sync_unseen = self.has_ring || self.sync_calls.is_none();
        match (self.flushes, self.flushes_at_rest) {
            (Some(flushes), Some(rest)) if may_sync_unseen && flushes >= puts && rest < puts / 4 => {
                Ok(format!("{flushes} flushes of the device for {puts} puts, {rest} at rest"))
            }
            _ => Err(format!("the log is not synced before a put is answered, or it cannot be told: {}", self.text())),
        }
    }

    fn text(&self) -> String {
        let or_unknown = |value: Option<u64>| value.map_or("unknown".to_owned(), |value| value.to_string());
        format!(
            "{} puts, sync calls {}, ring {}, files open with O_DSYNC {}, bytes written {}, flushes of the device {} \
             ({} at rest)",
            self.puts,
            or_unknown(self.sync_calls),
            if self.has_ring { "yes" } else { "no" },
            self.synchronous_files,
            or_unknown(self.written_bytes),
            or_unknown(self.flushes),
            or_unknown(self.flushes_at_rest),
        )
    }
}

/// Watches a process while `burst` has `puts` puts answered, one after the other.
///
/// # Errors
/// The burst's own.
pub fn watch_syncs(
    pid: u32,
    data_dir: &Path,
    puts: u64,
    mut burst: impl FnMut() -> Result<(), String>,
) -> Result<Evidence, String> {
    let device = Device::beneath(data_dir).filter(Device::has_volatile_cache);
    let flushes = || device.as_ref().and_then(Device::flushes);
    let between = |before: Option<u64>, after: Option<u64>| Some(after? - before?);

    // Untraced first, for the counters: tracing makes everything slow.
    let (written_before, flushes_before) = (written_bytes(pid), flushes());
    let begin = std::time::Instant::now();
    burst()?;
    let took = begin.elapsed();
    let (written_after, flushes_after) = (written_bytes(pid), flushes());
    std::thread::sleep(took);
    let flushes_at_rest = between(flushes_after, flushes());
    let sync_calls = match Trace::start(pid) {
        Ok(trace) => {
            burst()?;
            Some(trace.finish())
        }
        Err(_) => None,
    };
    let files = open_files(pid);
    Ok(Evidence {
        puts,
        sync_calls,
        has_ring: files.iter().any(|file| file.target.as_os_str() == "anon_inode:[io_uring]"),
        synchronous_files: files.iter().filter(|file| file.is_synchronous && file.target.starts_with(data_dir)).count()
            as u64,
        written_bytes: between(written_before, written_after),
        flushes: between(flushes_before, flushes_after),
        flushes_at_rest,
    })
}

struct OpenFile {
    target: PathBuf,
    is_synchronous: bool,
}

fn open_files(pid: u32) -> Vec<OpenFile> {
    let of = |entry: io::Result<fs::DirEntry>| {
        let entry = entry.ok()?;
        let target = fs::read_link(entry.path()).ok()?;
        let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{}", entry.file_name().to_str()?)).ok()?;
        Some(OpenFile { target, is_synchronous: is_synchronous(&info) })
    };
    fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().filter_map(of).collect()
}

/// Whether an fdinfo's flags, in octal, have O_DSYNC, which O_SYNC includes.
fn is_synchronous(fdinfo: &str) -> bool {
    let flags = fdinfo.lines().find_map(|line| line.strip_prefix("flags:"));
    flags.and_then(|flags| i32::from_str_radix(flags.trim(), 8).ok()).is_some_and(|flags| flags & libc::O_DSYNC != 0)
}

fn written_bytes(pid: u32) -> Option<u64> {
    written_of_io(&fs::read_to_string(format!("/proc/{pid}/io")).ok()?)
}

fn written_of_io(io: &str) -> Option<u64> {
    io.lines().find_map(|line| line.strip_prefix("write_bytes: "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn flags_and_counters_are_read() {
        assert!(is_synchronous("pos:\t0\nflags:\t02150002\nmnt_id:\t28\n"), "O_DIRECT, O_DSYNC");
        assert!(!is_synchronous("pos:\t0\nflags:\t02100002\nmnt_id:\t28\n"), "O_CLOEXEC alone");
        assert!(!is_synchronous("pos:\t0\n"));
        assert_eq!(written_of_io("rchar: 1\nwrite_bytes: 40960\ncancelled_write_bytes: 7\n"), Some(40_960));
    }

    #[test]
    fn verdicts() {
        let none = Evidence { puts: 50, sync_calls: Some(0), written_bytes: Some(0), ..Default::default() };
        let synced = |change: fn(&mut Evidence)| {
            let mut evidence = none.clone();
            change(&mut evidence);
            evidence.verdict().is_ok()
        };
        assert!(!synced(|_| {}), "nothing was seen");
        assert!(synced(|e| e.sync_calls = Some(50)));
        assert!(!synced(|e| e.sync_calls = Some(49)), "one put was not synced");
        assert!(synced(|e| (e.synchronous_files, e.written_bytes) = (1, Some(50 * 4096))));
        assert!(!synced(|e| (e.synchronous_files, e.written_bytes) = (1, Some(4096))), "it does not write there");
        assert!(!synced(|e| e.written_bytes = Some(50 * 4096)), "writes alone are no sync");
        let flushing = |e: &mut Evidence| (e.flushes, e.flushes_at_rest) = (Some(60), Some(2));
        assert!(!synced(flushing), "others flush: this process made no call and has no ring");
        assert!(synced(|e| (e.flushes, e.flushes_at_rest, e.has_ring) = (Some(60), Some(2), true)));
        assert!(synced(|e| (e.flushes, e.flushes_at_rest, e.sync_calls) = (Some(60), Some(2), None)));
        assert!(!synced(|e| (e.flushes, e.flushes_at_rest, e.has_ring) = (Some(60), Some(40), true)), "a busy device");
    }

    /// A process that syncs is told from one that does not, by its calls.
    #[test]
    fn calls_of_a_real_process_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        for (conversion, expected) in [("fsync", 1), ("fdatasync", 1), ("notrunc", 0)] {
            // Waits for its input, so that there is time to trace it.
            let mut dd = std::process::Command::new("dd")
                .arg(format!("of={}", dir.path().join("file").display()))
                .arg(format!("conv={conversion}"))
                .stdin(std::process::Stdio::piped())
                .stderr(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            let trace = Trace::start(dd.id()).unwrap();
            drop(dd.stdin.take());
            // Its end, which it is not waited for while it is traced: a wait would see the trace's stops.
            let mut said = String::new();
            dd.stderr.take().unwrap().read_to_string(&mut said).unwrap();
            assert_eq!(trace.finish(), expected, "{conversion}");
            let status = dd.wait().unwrap();
            assert!(status.success(), "{conversion}: {status}, {said}");
        }
    }
}
