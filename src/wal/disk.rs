//! A data directory's files: the only place where the log and the checkpoint are created, renamed, removed and synced.
//! Blocking, so for start-up and background threads; the hot writes are the driver's. Decides nothing about contents.
//!
//! ```text
//! lock              held while a process uses the directory
//! 0000002a.seg      the segment of life 42; its first block was durable before it got this name
//! spare-00000007    a file of a segment's size to become one
//! checkpoint        replaced whole, by rename
//! *.part            being made; worthless after a crash
//! ```

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed},
    },
};

use super::{
    bulk::{self, BulkFile, Pace, Pieces},
    lock,
    record::{RECORDS_FROM, SegmentHeader},
    segment::{Segment, file_name},
    writer::PendingWrite,
};
use crate::{
    limits::{self, SPARE_SEGMENTS_MAX},
    store::{
        checkpoint::{self, CheckpointHead},
        state::State,
    },
};

const CHECKPOINT: &str = "checkpoint";
const SPARE: &str = "spare-";
const PART: &str = ".part";

/// What went wrong with a data directory.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    #[error("cannot {action} {}: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("{} is in use by another process: stop that one, or name another --data-dir", path.display())]
    InUse { path: PathBuf },
    #[error(
        "{} is a data directory of etcd (it holds member/), which urd does not read: make a data directory of it \
         with urd-migrate, and name that with --data-dir",
        path.display()
    )]
    OfEtcd { path: PathBuf },
    #[error("a checkpoint names segment {life:08x} as the place to replay from, but {} has no such file", path.display())]
    NoSuchPosition { life: u32, path: PathBuf },
}

fn at<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> DiskError + 'a {
    move |source| DiskError::Io { action, path: path.to_owned(), source }
}

/// What lies in a directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Lives of the segments, ascending.
    pub segments: Vec<u32>,
    pub spares: Vec<PathBuf>,
    /// Bytes of the checkpoint, if there is one.
    pub checkpoint: Option<u64>,
}

/// What has become of a segment's file that was to be recycled.
#[derive(Debug)]
pub enum Recycled {
    /// It is a spare now, or gone as there are enough of them.
    Done,
    /// Somebody still reads from it: try again later.
    Pinned(Arc<Segment>),
}

/// A data directory, locked. Shared by the threads that work in it.
pub struct Dir {
    path: PathBuf,
    /// None where the directory is only looked at.
    _lock: Option<File>,
    next_spare: AtomicU32,
    /// Held while names change, so that two threads never take the same spare.
    names: Mutex<()>,
    /// Held while a segment is made that there is no spare for: a second one beside it would take the room of both.
    making: Mutex<()>,
    /// How many wait for one who must not wait long.
    hurried: AtomicUsize,
}

/// Counts one who is in a hurry.
struct Hurry<'a>(&'a AtomicUsize);

impl<'a> Hurry<'a> {
    fn new(hurried: &'a AtomicUsize) -> Self {
        hurried.fetch_add(1, Relaxed);
        Hurry(hurried)
    }
}

impl Drop for Hurry<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Dir {
    /// Opens a data directory, makes it (mode 0700) if it is not there, and locks it until this value is dropped.
    ///
    /// # Errors
    /// `InUse`, `OfEtcd`, or what the system says.
    pub fn open(path: &Path) -> Result<Dir, DiskError> {
        if path.join("member").exists() {
            return Err(DiskError::OfEtcd { path: path.to_owned() });
        }
        make_durably(path).map_err(at("create the data directory", path))?;
        let lock_path = path.join("lock");
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock_path)
            .map_err(at("open the lock", &lock_path))?;
        lock::try_lock(&lock).map_err(|source| match source.kind() {
            io::ErrorKind::WouldBlock => DiskError::InUse { path: path.to_owned() },
            _ => at("lock", &lock_path)(source),
        })?;
        let dir = Dir { _lock: Some(lock), ..Dir::look_at(path) };
        dir.remove_parts()?;
        let numbers = dir.list()?.spares.into_iter().filter_map(|spare| spare_number(&spare));
        dir.next_spare.store(numbers.max().map_or(0, |last| last + 1), Relaxed);
        Ok(dir)
    }

    /// A directory that nothing will be changed in: for tools that read what a server may have in use.
    pub fn look_at(path: &Path) -> Dir {
        Dir {
            path: path.to_owned(),
            _lock: None,
            next_spare: AtomicU32::new(0),
            names: Mutex::default(),
            making: Mutex::default(),
            hurried: AtomicUsize::new(0),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn segment_path(&self, life: u32) -> PathBuf {
        self.path.join(file_name(life))
    }

    pub fn checkpoint_path(&self) -> PathBuf {
        self.path.join(CHECKPOINT)
    }

    fn names(&self) -> Result<Vec<String>, DiskError> {
        let read = || -> io::Result<Vec<String>> {
            // A name that is no text is none of ours.
            Ok(fs::read_dir(&self.path)?
                .collect::<io::Result<Vec<_>>>()?
                .into_iter()
                .filter_map(|entry| entry.file_name().into_string().ok())
                .collect())
        };
        read().map_err(at("list", &self.path))
    }

    pub fn list(&self) -> Result<Listing, DiskError> {
        let mut listing = Listing::default();
        for name in self.names()? {
            if let Some(life) = segment_life(&name) {
                listing.segments.push(life);
            } else if name.starts_with(SPARE) && !name.ends_with(PART) {
                listing.spares.push(self.path.join(name));
            } else if name == CHECKPOINT {
                let path = self.checkpoint_path();
                listing.checkpoint = Some(fs::metadata(&path).map_err(at("look at", &path))?.len());
            }
        }
        listing.segments.sort_unstable();
        listing.spares.sort_unstable();
        Ok(listing)
    }

    fn remove_parts(&self) -> Result<(), DiskError> {
        for name in self.names()? {
            if name.ends_with(PART) {
                let path = self.path.join(name);
                fs::remove_file(&path).map_err(at("remove", &path))?;
            }
        }
        Ok(())
    }

    /// Makes names durable.
    pub fn sync(&self) -> Result<(), DiskError> {
        File::open(&self.path).and_then(|dir| dir.sync_all()).map_err(at("sync the directory", &self.path))
    }

    // ---- segments ----

    /// Makes a file of zeros to become a segment. Zeros are written, not just allocated: the first write into an
    /// unwritten extent would pay for a commit of the file system's journal. Rests no more once somebody is in a hurry.
    pub fn prepare_spare(&self, size: u32, pace: Pace) -> Result<PathBuf, DiskError> {
        let spare = self.new_spare_path();
        let part = with_part(&spare);
        let fill = || -> io::Result<u64> {
            let mut file = BulkFile::create(&part, pace)?;
            let mut left = size as usize;
            while left > 0 {
                if self.hurried.load(Relaxed) > 0 {
                    file.hurry();
                }
                let now = left.min(limits::BULK_PIECE_BYTES);
                file.write_zeros(now)?;
                left -= now;
            }
            file.finish()
        };
        fill().inspect_err(|_| discard(&part)).map_err(at("prepare", &part))?;
        fs::rename(&part, &spare).map_err(at("name", &spare))?;
        Ok(spare)
    }

    fn new_spare_path(&self) -> PathBuf {
        self.path.join(format!("{SPARE}{:08x}", self.next_spare.fetch_add(1, Relaxed)))
    }

    /// Sees to it that the file of a segment is there, its first block written and durable under its name: from a
    /// spare, or, if there is none, from a new file. Nothing if it is there already. Gives its path.
    pub fn ensure_segment(&self, header: &SegmentHeader, pace: Pace) -> Result<PathBuf, DiskError> {
        if let Some(path) = self.segment_of_spare(header)? {
            return Ok(path);
        }
        let _hurry = (pace == Pace::Hurried).then(|| Hurry::new(&self.hurried));
        let _making = self.making.lock().expect("no holder of the lock panics");
        loop {
            if let Some(path) = self.segment_of_spare(header)? {
                return Ok(path);
            }
            self.prepare_spare(header.size, pace)?;
        }
    }

    /// The file of a segment, if it is there or there is a spare for it.
    fn segment_of_spare(&self, header: &SegmentHeader) -> Result<Option<PathBuf>, DiskError> {
        let path = self.segment_path(header.life);
        let _names = self.names.lock().expect("no holder of the lock panics");
        if !path.exists() {
            let Some(spare) = self.usable_spare(header.size)? else { return Ok(None) };
            self.adopt(&spare, header, &path)?;
        }
        Ok(Some(path))
    }

    /// A spare of the right size. Those of another (the size was changed) are removed.
    fn usable_spare(&self, size: u32) -> Result<Option<PathBuf>, DiskError> {
        for spare in self.list()?.spares {
            let bytes = fs::metadata(&spare).map_err(at("look at", &spare))?.len();
            if bytes == u64::from(size) {
                return Ok(Some(spare));
            }
            fs::remove_file(&spare).map_err(at("remove", &spare))?;
        }
        Ok(None)
    }

    fn adopt(&self, spare: &Path, header: &SegmentHeader, path: &Path) -> Result<(), DiskError> {
        let write = || -> io::Result<()> {
            let file = OpenOptions::new().write(true).open(spare)?;
            file.write_all_at(&header.encode(), 0)?;
            file.sync_all()
        };
        write().map_err(at("begin a segment in", spare))?;
        fs::rename(spare, path).map_err(at("name", path))?;
        self.sync()
    }

    /// Gives back the file of a retired segment if nobody holds the segment: as a spare while there are few, else for
    /// good. What retires it has made sure that a durable checkpoint points nowhere into it.
    pub fn recycle(&self, segment: Arc<Segment>, pace: Pace) -> Result<Recycled, DiskError> {
        match Arc::try_unwrap(segment) {
            Ok(segment) => self.demote(segment.life(), pace).map(|()| Recycled::Done),
            Err(segment) => Ok(Recycled::Pinned(segment)),
        }
    }

    /// Makes a spare of a segment's file.
    pub(super) fn demote(&self, life: u32, pace: Pace) -> Result<(), DiskError> {
        let path = self.segment_path(life);
        let removed = {
            let _names = self.names.lock().expect("no holder of the lock panics");
            if self.list()?.spares.len() < SPARE_SEGMENTS_MAX {
                fs::rename(&path, self.new_spare_path()).map_err(at("recycle", &path))?;
                None
            } else {
                let held = hold(&path).map_err(at("open", &path))?;
                fs::remove_file(&path).map_err(at("remove", &path))?;
                held
            }
        };
        self.sync()?;
        removed.iter().for_each(|file| bulk::give_back(file, pace));
        Ok(())
    }

    /// A segment's whole file.
    pub fn read_segment(&self, life: u32) -> Result<Vec<u8>, DiskError> {
        let path = self.segment_path(life);
        fs::read(&path).map_err(at("read", &path))
    }

    /// The same where the device cannot give all of it back: blocks that it cannot read are zeros, and the first error is told.
    pub(super) fn read_segment_in_blocks(&self, life: u32) -> Result<(Vec<u8>, Option<DiskError>), DiskError> {
        let path = self.segment_path(life);
        let (bytes, unreadable) = bulk::read_in_blocks(&path).map_err(at("read", &path))?;
        Ok((bytes, unreadable.map(at("read", &path))))
    }

    /// Overwrites whole blocks of a segment, durably.
    pub(super) fn overwrite_segment(&self, life: u32, offset: u32, blocks: &[u8]) -> Result<(), DiskError> {
        let path = self.segment_path(life);
        bulk::overwrite(&path, offset.into(), blocks).map_err(at("write to", &path))
    }

    /// The same beside a log that is written.
    pub fn read_segment_at(&self, life: u32, pace: Pace) -> Result<Vec<u8>, DiskError> {
        let path = self.segment_path(life);
        bulk::read(&path, pace).map_err(at("read", &path))
    }

    /// The same, piece by piece.
    pub fn segment_pieces(&self, life: u32) -> Result<Pieces, DiskError> {
        let path = self.segment_path(life);
        Pieces::open(&path).map_err(at("open", &path))
    }

    /// A segment's first block, or less where the file is shorter, and the file's size in bytes.
    pub fn read_segment_head(&self, life: u32) -> Result<(Vec<u8>, u64), DiskError> {
        let path = self.segment_path(life);
        let read = || -> io::Result<(Vec<u8>, u64)> {
            let file = File::open(&path)?;
            let size = file.metadata()?.len();
            let mut head = Vec::new();
            file.take(RECORDS_FROM.into()).read_to_end(&mut head)?;
            Ok((head, size))
        };
        read().map_err(at("read", &path))
    }

    /// Overwrites bytes `from..to` of a segment with zeros, durably.
    pub(super) fn zero_segment(&self, life: u32, from: u32, to: u32) -> Result<(), DiskError> {
        let path = self.segment_path(life);
        let write = || -> io::Result<()> {
            let file = OpenOptions::new().write(true).open(&path)?;
            file.write_all_at(&vec![0; (to - from) as usize], from.into())?;
            file.sync_data()
        };
        write().map_err(at("overwrite the torn end of", &path))
    }

    /// Makes durable what a segment's file holds: a process that was killed may have left bytes in the kernel only.
    pub(super) fn sync_segment(&self, life: u32) -> Result<(), DiskError> {
        let path = self.segment_path(life);
        let sync = || OpenOptions::new().write(true).open(&path)?.sync_data();
        sync().map_err(at("sync", &path))
    }

    /// Makes a batch durable, through the page cache: where no ring is at hand.
    pub fn write(&self, write: &PendingWrite) -> Result<(), DiskError> {
        for piece in &write.pieces {
            let path = piece.segment.path();
            let put = || -> io::Result<()> {
                let file = OpenOptions::new().write(true).open(path)?;
                file.write_all_at(piece.bytes(), piece.offset.into())?;
                file.sync_data()
            };
            put().map_err(at("write to", path))?;
        }
        Ok(())
    }

    // ---- notes ----

    /// A small text that the directory keeps; None if it was never written.
    pub fn read_note(&self, name: &str) -> Result<Option<String>, DiskError> {
        let path = self.path.join(name);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(cause) => Err(at("read", &path)(cause)),
        }
    }

    /// Writes such a text, whole and durable.
    pub fn write_note(&self, name: &str, text: &str) -> Result<(), DiskError> {
        let path = self.path.join(name);
        let part = with_part(&path);
        let write = || -> io::Result<()> {
            let mut file = create(&part)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&part, &path)
        };
        write().inspect_err(|_| discard(&part)).map_err(at("write", &path))?;
        self.sync()
    }

    // ---- the checkpoint ----

    /// Replaces the checkpoint, durably, and gives its bytes. The segment of its position must be there.
    pub fn write_checkpoint(&self, state: &State, head: &CheckpointHead, pace: Pace) -> Result<u64, DiskError> {
        if !self.segment_path(head.position.life).exists() {
            return Err(DiskError::NoSuchPosition { life: head.position.life, path: self.path.clone() });
        }
        let path = self.checkpoint_path();
        let part = with_part(&path);
        let write = || -> io::Result<u64> {
            let mut file = BulkFile::create(&part, pace)?;
            checkpoint::encode(state, head, &mut file)?;
            file.finish()
        };
        let bytes = write().inspect_err(|_| discard(&part)).map_err(at("write the checkpoint to", &part))?;
        let before = hold(&path).map_err(at("open", &path))?;
        fs::rename(&part, &path).map_err(at("replace", &path))?;
        self.sync()?;
        before.iter().for_each(|file| bulk::give_back(file, pace));
        Ok(bytes)
    }

    /// The checkpoint's file, if there is one.
    pub fn open_checkpoint(&self) -> Result<Option<File>, DiskError> {
        let path = self.checkpoint_path();
        match File::open(&path) {
            Ok(file) => Ok(Some(file)),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(cause) => Err(at("open", &path)(cause)),
        }
    }
}

/// Makes a directory and those above it, and makes their names durable: a data directory that is gone after a power
/// cut would be a wiped member.
fn make_durably(path: &Path) -> io::Result<()> {
    let new: Vec<&Path> = path.ancestors().take_while(|it| !it.as_os_str().is_empty() && !it.exists()).collect();
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    for made in new {
        let above = made.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(above)?.sync_all()?;
    }
    Ok(())
}

/// A number that nobody outside can know.
pub(super) fn random_salt() -> Result<u32, DiskError> {
    let path = Path::new("/dev/urandom");
    let mut bytes = [0; 4];
    File::open(path).and_then(|mut file| file.read_exact(&mut bytes)).map_err(at("read", path))?;
    Ok(u32::from_le_bytes(bytes))
}

pub(super) fn open_to_read(path: &Path) -> io::Result<File> {
    File::open(path)
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

/// A file whose name is about to go, held so that its room goes later; None if there is none.
fn hold(path: &Path) -> io::Result<Option<File>> {
    match OpenOptions::new().write(true).open(path) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
        opened => opened.map(Some),
    }
}

/// Takes away what could not be finished: on a full disk the log needs the room.
fn discard(part: &Path) {
    // If it cannot be removed now, it is at the next start.
    let _ = fs::remove_file(part);
}

fn with_part(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(PART);
    name.into()
}

fn segment_life(name: &str) -> Option<u32> {
    let hex = name.strip_suffix(".seg")?;
    let life = u32::from_str_radix(hex, 16).ok()?;
    (file_name(life) == name).then_some(life)
}

fn spare_number(path: &Path) -> Option<u32> {
    u32::from_str_radix(path.file_name()?.to_str()?.strip_prefix(SPARE)?, 16).ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::{super::record::FORMAT_VERSION, *};

    fn header(life: u32) -> SegmentHeader {
        SegmentHeader { version: FORMAT_VERSION, life, size: 65536, salt: 7, cluster_id: 1, member_id: 2 }
    }

    #[test]
    fn a_directory_has_one_owner_and_is_private() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("a/b");
        let dir = Dir::open(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        assert!(matches!(Dir::open(&path), Err(DiskError::InUse { .. })));
        drop(dir);
        Dir::open(&path).unwrap();
    }

    #[test]
    fn a_directory_of_etcd_is_left_alone() {
        let temp = tempfile::tempdir().unwrap();
        fs::create_dir(temp.path().join("member")).unwrap();
        assert!(matches!(Dir::open(temp.path()), Err(DiskError::OfEtcd { .. })));
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1);
    }

    #[test]
    fn spares_become_segments_and_segments_spares() {
        let temp = tempfile::tempdir().unwrap();
        fs::write(temp.path().join("spare-00000003.part"), "half").unwrap();
        fs::write(temp.path().join("spare-00000005"), "of another size").unwrap();
        let dir = Dir::open(temp.path()).unwrap();
        assert_eq!(dir.list().unwrap().spares, [temp.path().join("spare-00000005")]);

        assert_eq!(dir.prepare_spare(65536, Pace::Hurried).unwrap(), temp.path().join("spare-00000006"));
        let path = dir.ensure_segment(&header(1), Pace::Hurried).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), 65536);
        assert_eq!(dir.list().unwrap(), Listing { segments: vec![1], ..Listing::default() });
        assert_eq!(SegmentHeader::decode(&dir.read_segment_head(1).unwrap().0), Ok(header(1)));
        assert_eq!(dir.ensure_segment(&header(1), Pace::Hurried).unwrap(), path);
        dir.ensure_segment(&header(2), Pace::Hurried).unwrap();

        let pinned = Arc::new(Segment::in_file(temp.path(), &header(1), 65536));
        let reader = pinned.clone();
        let Recycled::Pinned(pinned) = dir.recycle(pinned, Pace::Hurried).unwrap() else {
            panic!("somebody reads from it")
        };
        drop(reader);
        assert!(matches!(dir.recycle(pinned, Pace::Hurried).unwrap(), Recycled::Done));
        let listing = dir.list().unwrap();
        assert_eq!((listing.segments, listing.spares.len()), (vec![2], 1));
        for _ in 0..SPARE_SEGMENTS_MAX {
            dir.prepare_spare(65536, Pace::Hurried).unwrap();
        }
        dir.demote(2, Pace::Hurried).unwrap();
        let listing = dir.list().unwrap();
        assert_eq!((listing.segments.len(), listing.spares.len()), (0, SPARE_SEGMENTS_MAX + 1));
    }

    /// One that is made at leisure is finished in a hurry for who cannot wait; another beside it would need room for two.
    #[test]
    fn a_segment_is_made_once_however_many_need_it() {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::open(temp.path()).unwrap();
        let header = SegmentHeader { size: 64 * limits::BULK_PIECE_BYTES as u32, ..header(1) };
        let is_under_way = || dir.names().unwrap().iter().any(|name| name.ends_with(PART));
        std::thread::scope(|scope| {
            let making = scope.spawn(|| dir.ensure_segment(&header, Pace::Resting).unwrap());
            while !is_under_way() && !making.is_finished() {
                std::thread::yield_now();
            }
            dir.ensure_segment(&header, Pace::Hurried).unwrap();
            making.join().unwrap();
        });
        assert_eq!(dir.list().unwrap(), Listing { segments: vec![1], ..Listing::default() });
        assert_eq!(dir.hurried.load(Relaxed), 0);
    }
}
