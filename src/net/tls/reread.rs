//! What is made of files that somebody renews while the server runs: looked at whenever it is needed, read when one of them
//! has changed. Handshakes of all cores share it.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::Path,
    sync::{Arc, Mutex},
};

use crate::error::cannot_open;

pub(super) struct Reread<T> {
    /// Held for a look at the file system, and longer only when there is news.
    made: Mutex<Option<(Vec<Stamp>, Arc<T>)>>,
}

/// What changes when a file is written or replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl<T> Default for Reread<T> {
    fn default() -> Self {
        Reread { made: Mutex::new(None) }
    }
}

impl<T> Reread<T> {
    /// What `make` makes of the files, or has made of them as they still are.
    ///
    /// # Errors
    /// Which file cannot be looked at; what `make` says. Nothing older is given in its place.
    pub fn current(&self, files: &[&Path], make: impl FnOnce() -> Result<T, String>) -> Result<Arc<T>, String> {
        // Before they are read: a change in between is seen at the next look.
        let stamps = files.iter().map(|path| stamp(path)).collect::<Result<Vec<_>, _>>()?;
        let mut made = self.made.lock().expect("nothing panics while it holds this");
        match &*made {
            Some((of, made)) if *of == stamps => Ok(made.clone()),
            _ => {
                let new = Arc::new(make()?);
                *made = Some((stamps, new.clone()));
                Ok(new)
            }
        }
    }
}

fn stamp(path: &Path) -> Result<Stamp, String> {
    let found = fs::metadata(path).map_err(cannot_open(path))?;
    let modified = (found.mtime(), found.mtime_nsec());
    Ok(Stamp { device: found.dev(), inode: found.ino(), size: found.size(), modified })
}
