//! A database that comes from another member, put into a file of the data directory as it comes. It goes with whoever holds
//! it, and what a crash leaves goes at the next start: its name ends as those of unfinished files do.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use super::bulk::{BulkFile, Pace};

/// A file that grows. Blocking: for a thread that has time.
#[derive(Debug)]
pub struct Spool {
    file: BulkFile,
    name: Name,
}

/// A file that holds all that came.
#[derive(Debug)]
pub struct Spooled {
    name: Name,
    bytes: u64,
}

/// Removes what has it.
#[derive(Debug)]
struct Name(PathBuf);

impl Drop for Name {
    fn drop(&mut self) {
        // What cannot be removed now is at the next start.
        let _ = fs::remove_file(&self.0);
    }
}

impl Spool {
    /// A new file in a data directory.
    pub fn create(dir: &Path) -> io::Result<Spool> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let path = dir.join(format!("received-{}.part", NUMBER.fetch_add(1, Relaxed)));
        // This member waits for it, and nothing is written to its log until it is there.
        let file = BulkFile::create(&path, Pace::Hurried)?;
        Ok(Spool { file, name: Name(path) })
    }

    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)
    }

    pub fn finish(self) -> io::Result<Spooled> {
        // It is of no use to another process.
        Ok(Spooled { bytes: self.file.finish_volatile()?, name: self.name })
    }
}

impl Spooled {
    pub fn open(&self) -> io::Result<File> {
        File::open(&self.name.0)
    }

    pub fn path(&self) -> &Path {
        &self.name.0
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_is_there_until_nobody_wants_it() {
        let temp = tempfile::tempdir().unwrap();
        let count = || fs::read_dir(temp.path()).unwrap().count();
        let mut spool = Spool::create(temp.path()).unwrap();
        spool.write(b"half").unwrap();
        drop(spool);
        assert_eq!(count(), 0);
        let mut spool = Spool::create(temp.path()).unwrap();
        spool.write(b"all ").unwrap();
        spool.write(b"of it").unwrap();
        let spooled = spool.finish().unwrap();
        assert_eq!((fs::read(spooled.path()).unwrap(), spooled.bytes()), (b"all of it".to_vec(), 9));
        drop(spooled);
        assert_eq!(count(), 0);
    }
}
