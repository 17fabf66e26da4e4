//! Disk space as `du` counts it, the page cache, and the counters of the device beneath a folder.

use std::{
    fs, io,
    os::{fd::AsRawFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
};

/// The unit of `st_blocks`, whatever the file system's own is (inode(7)).
const STAT_BLOCK_BYTES: u64 = 512;

/// Bytes that the files beneath a folder take. What vanishes meanwhile is not counted.
pub fn used_bytes(folder: &Path) -> u64 {
    files_beneath(folder)
        .iter()
        .filter_map(|path| fs::metadata(path).ok())
        .map(|file| file.blocks() * STAT_BLOCK_BYTES)
        .sum()
}

fn files_beneath(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                Ok(kind) if kind.is_file() => files.push(entry.path()),
                _ => {}
            }
        }
    }
    files
}

/// Empties the page cache of what lies beneath a folder: the whole cache where that is allowed, else these files.
/// Says which, in words.
pub fn drop_page_cache(folder: &Path) -> io::Result<&'static str> {
    let files = files_beneath(folder);
    for path in &files {
        // Dirty pages stay in the cache.
        fs::File::open(path)?.sync_all()?;
    }
    if fs::write("/proc/sys/vm/drop_caches", "3").is_ok() {
        return Ok("page cache dropped (vm.drop_caches)");
    }
    for path in &files {
        let file = fs::File::open(path)?;
        // SAFETY: takes no pointer; the descriptor is open.
        match unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) } {
            0 => {}
            code => return Err(io::Error::from_raw_os_error(code)),
        }
    }
    Ok("page cache of the data dropped (posix_fadvise)")
}

/// The block device beneath a folder.
#[derive(Clone, Debug)]
pub struct Device(PathBuf);

impl Device {
    /// None for file systems without one, such as tmpfs.
    pub fn beneath(folder: &Path) -> Option<Self> {
        let device = fs::metadata(folder).ok()?.dev();
        let sys = PathBuf::from(format!("/sys/dev/block/{}:{}", libc::major(device), libc::minor(device)));
        sys.join("stat").exists().then_some(Device(sys))
    }

    /// Flush requests completed since boot; None where the kernel does not count them (before 5.5).
    pub fn flushes(&self) -> Option<u64> {
        flushes_of_stat(&fs::read_to_string(self.0.join("stat")).ok()?)
    }

    /// Whether what the device has taken may be lost with its power: only then does a sync reach it as a flush.
    pub fn has_volatile_cache(&self) -> bool {
        let of = |path: PathBuf| fs::read_to_string(path).ok();
        // A partition's queue is its disk's.
        let text = of(self.0.join("queue/write_cache")).or_else(|| of(self.0.join("../queue/write_cache")));
        text.is_some_and(|text| text.trim() == "write back")
    }
}

/// The 16th field of a block device's stat (kernel documentation, block/stat).
fn flushes_of_stat(stat: &str) -> Option<u64> {
    stat.split_whitespace().nth(15)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flushes_are_the_sixteenth_field() {
        let stat = " 1431277 61072 103344538 5004255 3658296 506689 457883392 2397445 0 637296 7648155 318055 19 686700192 80571 1334627 165882\n";
        assert_eq!(flushes_of_stat(stat), Some(1_334_627));
        assert_eq!(flushes_of_stat("1 2 3 4 5 6 7 8 9 10 11"), None);
    }

    #[test]
    fn used_bytes_are_blocks_of_all_files() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("deep")).unwrap();
        fs::write(dir.path().join("deep/file"), vec![1; 40_000]).unwrap();
        let sparse = fs::File::create(dir.path().join("sparse")).unwrap();
        sparse.set_len(1 << 30).unwrap();
        sparse.sync_all().unwrap();
        fs::File::open(dir.path().join("deep/file")).unwrap().sync_all().unwrap();
        let used = used_bytes(dir.path());
        assert!((40_000..1 << 20).contains(&used), "{used}");
        assert_eq!(used_bytes(&dir.path().join("nowhere")), 0);
    }
}
