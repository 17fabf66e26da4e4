//! A cgroup of the server's own, made beneath the driver's: its CPU counts what the kernel does in its name too, and its
//! memory can be limited. Version 2 for CPU (`cpu.stat` needs no controller); for the limit whichever version has the
//! memory controller. Where neither can be written nothing is made, and whoever asked says so.

use std::{
    fs, io,
    os::fd::{AsRawFd, OwnedFd, RawFd},
    path::{Path, PathBuf},
    process,
    rc::Rc,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

static MADE: AtomicU32 = AtomicU32::new(0);

/// A folder of the cgroup tree, removed with its last owner; by then what ran in it has ended.
#[derive(Clone)]
pub struct Cgroup(Rc<Folder>);

struct Folder(PathBuf);

impl Cgroup {
    /// None if there is no cgroup v2, or it is not ours to write in.
    pub fn create() -> Option<Self> {
        let parent = own_folder(&fs::read_to_string("/proc/self/mounts").ok()?, &own_groups()?, Kind::V2)?;
        let folder = make_beneath(&parent)?;
        cpu_of_stat(&fs::read_to_string(folder.0.join("cpu.stat")).ok()?)?;
        Some(Cgroup(Rc::new(folder)))
    }

    /// What a child writes "0" to, to be in the group from its first instruction on.
    pub fn entrance(&self) -> io::Result<Entrance> {
        open_entrance(&self.0.0)
    }

    pub fn cpu(&self) -> Option<Duration> {
        cpu_of_stat(&fs::read_to_string(self.0.0.join("cpu.stat")).ok()?)
    }
}

/// A limit on the memory of what is started in it, page cache included.
pub struct MemoryLimit {
    folder: Folder,
    usage: &'static str,
}

impl MemoryLimit {
    /// # Errors
    /// What is missing for it, in words.
    pub fn create(bytes: u64) -> Result<Self, String> {
        let mounts = fs::read_to_string("/proc/self/mounts").map_err(|cause| format!("/proc/self/mounts: {cause}"))?;
        let groups = own_groups().ok_or("/proc/self/cgroup cannot be read")?;
        let kinds = [
            (Kind::V2, "memory.max", "memory.current"),
            (Kind::Memory, "memory.limit_in_bytes", "memory.usage_in_bytes"),
        ];
        for (kind, limit, usage) in kinds {
            let Some(folder) = own_folder(&mounts, &groups, kind).and_then(|parent| make_beneath(&parent)) else {
                continue;
            };
            if fs::write(folder.0.join(limit), bytes.to_string()).is_ok() {
                return Ok(MemoryLimit { folder, usage });
            }
        }
        Err("no cgroup with the memory controller can be written here".to_owned())
    }

    pub fn entrance(&self) -> io::Result<Entrance> {
        open_entrance(&self.folder.0)
    }

    pub fn used_bytes(&self) -> Option<u64> {
        fs::read_to_string(self.folder.0.join(self.usage)).ok()?.trim().parse().ok()
    }
}

pub struct Entrance(OwnedFd);

impl Entrance {
    pub fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

fn open_entrance(folder: &Path) -> io::Result<Entrance> {
    fs::OpenOptions::new().write(true).open(folder.join("cgroup.procs")).map(|file| Entrance(file.into()))
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Not empty yet if a process is still being reaped: then it stays, and is harmless.
        let _ = fs::remove_dir(&self.0);
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    V2,
    /// The memory hierarchy of version 1.
    Memory,
}

fn own_groups() -> Option<String> {
    fs::read_to_string("/proc/self/cgroup").ok()
}

const NAME: &str = "urd-bench-";

fn make_beneath(parent: &Path) -> Option<Folder> {
    remove_left_behind(parent);
    let number = MADE.fetch_add(1, Ordering::Relaxed);
    let path = parent.join(format!("{NAME}{}-{number}", process::id()));
    fs::create_dir(&path).ok().map(|()| Folder(path))
}

/// Groups of runs that were interrupted: their driver is gone, and one that is not empty cannot be removed.
fn remove_left_behind(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let driver = name.to_str().and_then(|name| name.strip_prefix(NAME)?.split('-').next()?.parse::<u32>().ok());
        if driver.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            let _ = fs::remove_dir(entry.path());
        }
    }
}

/// This process's folder in a hierarchy, from `/proc/self/mounts` and `/proc/self/cgroup` (cgroups(7)).
fn own_folder(mounts: &str, groups: &str, kind: Kind) -> Option<PathBuf> {
    let mount = mounts.lines().find_map(|line| {
        let mut words = line.split(' ').skip(1);
        let (at, system, options) = (words.next()?, words.next()?, words.next()?);
        let is_it = match kind {
            Kind::V2 => system == "cgroup2",
            Kind::Memory => system == "cgroup" && options.split(',').any(|option| option == "memory"),
        };
        is_it.then_some(at)
    })?;
    let group = groups.lines().find_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        let is_it = match kind {
            Kind::V2 => controllers.is_empty(),
            Kind::Memory => controllers.split(',').any(|controller| controller == "memory"),
        };
        is_it.then_some(path)
    })?;
    Some(Path::new(mount).join(group.trim_start_matches('/')))
}

fn cpu_of_stat(stat: &str) -> Option<Duration> {
    let line = stat.lines().find_map(|line| line.strip_prefix("usage_usec "))?;
    line.trim().parse().ok().map(Duration::from_micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "proc /proc proc rw 0 0\n\
        cgroup /sys/fs/cgroup/cpu cgroup rw,relatime,cpu 0 0\n\
        cgroup /sys/fs/cgroup/memory cgroup rw,relatime,memory 0 0\n\
        cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0\n";
    const GROUPS: &str = "9:name=systemd:/\n4:memory:/jobs/one\n1:cpu,cpuacct:/\n0::/slice\n";

    #[test]
    fn folders_are_found() {
        let at = |kind| own_folder(MOUNTS, GROUPS, kind);
        assert_eq!(at(Kind::V2), Some("/sys/fs/cgroup/unified/slice".into()));
        assert_eq!(at(Kind::Memory), Some("/sys/fs/cgroup/memory/jobs/one".into()));
        assert_eq!(own_folder("proc /proc proc rw 0 0\n", GROUPS, Kind::V2), None);
    }

    #[test]
    fn a_stat_is_read() {
        let stat = "usage_usec 1234567\nuser_usec 1000000\nsystem_usec 234567\n";
        assert_eq!(cpu_of_stat(stat), Some(Duration::from_micros(1_234_567)));
        assert_eq!(cpu_of_stat("user_usec 1\n"), None);
    }
}
