//! Files: aligned writes that are durable when they return, past the page cache; reads through the ring into memory of
//! the caller's; and a probe that finds out which way of making a write durable is quicker on a device. What the bytes
//! mean is the log's business.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
    path::Path,
    rc::Rc,
    time::Duration,
};

use bytes::Bytes;

use super::{
    background,
    blocks::Blocks,
    executor::{self, FileOperation},
    faults::{self, Step},
    now, os,
    ring::{Memory, Transfer},
};
use crate::limits::{DISK_BLOCK_BYTES, PROBE_WRITES};

/// How a write becomes durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Opened with O_DSYNC: the write returns when it is on the device (one FUA write, where the device knows that).
    Dsync,
    /// An fdatasync after the write.
    Fdatasync,
}

impl Durability {
    /// As the data directory keeps it.
    pub fn name(self) -> &'static str {
        match self {
            Durability::Dsync => "dsync",
            Durability::Fdatasync => "fdatasync",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        [Durability::Dsync, Durability::Fdatasync].into_iter().find(|durability| durability.name() == name)
    }
}

/// A file for durable writes.
pub struct DirectFile {
    fd: Rc<OwnedFd>,
    direct: bool,
    durability: Durability,
}

impl DirectFile {
    /// Opens an existing file for writing, past the page cache. Where the file system cannot do that (tmpfs, some
    /// network and stacked ones) writes go through the cache and are made durable by fdatasync, whatever was asked:
    /// see `is_direct` and `durability`.
    pub async fn open(path: impl AsRef<Path>, durability: Durability) -> io::Result<Self> {
        let path = path.as_ref().to_owned();
        let (fd, direct) = background(move || {
            let mut flags = libc::O_DIRECT;
            if durability == Durability::Dsync {
                flags |= libc::O_DSYNC;
            }
            match OpenOptions::new().write(true).custom_flags(flags).open(&path) {
                // Some take the flag and have nothing but the cache, or take it and leave it off.
                Ok(file) if !os::is_in_memory(file.as_fd())? => {
                    let direct = os::is_direct(file.as_fd())?;
                    return Ok((OwnedFd::from(file), direct));
                }
                Ok(_) => {}
                // What open says where O_DIRECT is not known.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
                Err(error) => return Err(error),
            }
            Ok((OpenOptions::new().write(true).open(&path)?.into(), false))
        })
        .await?;
        let durability = if direct { durability } else { Durability::Fdatasync };
        Ok(DirectFile { fd: Rc::new(fd), direct, durability })
    }

    /// Whether writes go past the page cache.
    pub fn is_direct(&self) -> bool {
        self.direct
    }

    /// How writes are made durable.
    pub fn durability(&self) -> Durability {
        self.durability
    }

    /// Writes bytes, copied once into memory the device can read, and returns when they are durable. Offset and length
    /// are multiples of DISK_BLOCK_BYTES. After an error nothing is known of what is on the device in that range.
    pub async fn write_durable(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        assert!(offset.is_multiple_of(DISK_BLOCK_BYTES as u64), "offset {offset} is not aligned");
        assert!(bytes.len().is_multiple_of(DISK_BLOCK_BYTES), "length {} is not aligned", bytes.len());
        faults::check(Step::Write)?;
        let syncs = self.durability == Durability::Fdatasync;
        let linked = syncs && executor::here().ring.borrow().links_syncs();
        let mut done = 0;
        while done < bytes.len() {
            let at = offset + done as u64;
            let transfer = match linked {
                true => Transfer::WriteAndDataSync { offset: at },
                false => Transfer::Write { offset: at },
            };
            let written = self.write(transfer, &bytes[done..]).await?;
            // A short write goes on at the last whole block: what is past it is written again. Nor has it been synced.
            let whole = written - written % DISK_BLOCK_BYTES;
            if whole == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            done += whole;
        }
        faults::check(Step::Sync)?;
        if syncs && !linked { self.sync().await } else { Ok(()) }
    }

    async fn write(&self, transfer: Transfer, bytes: &[u8]) -> io::Result<usize> {
        let memory = Memory::Blocks(Blocks::of(bytes));
        let (written, memory) = FileOperation::begin(transfer, &self.fd, memory).await;
        if let Memory::Blocks(blocks) = memory {
            blocks.give_back();
        }
        written
    }

    /// fdatasync, through the ring.
    pub async fn sync(&self) -> io::Result<()> {
        FileOperation::begin(Transfer::DataSync, &self.fd, Memory::None).await.0.map(drop)
    }

    pub async fn close(self) -> io::Result<()> {
        close(self.fd).await
    }
}

/// Closes a file where it may take its time. What is still under way keeps it open.
async fn close(fd: Rc<OwnedFd>) -> io::Result<()> {
    if let Some(fd) = Rc::into_inner(fd) {
        background(move || drop(fd)).await;
    }
    Ok(())
}

/// A file for reading through the page cache, so that what was read stays in memory.
pub struct ReadFile {
    fd: Rc<OwnedFd>,
}

impl ReadFile {
    pub async fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref().to_owned();
        let file = background(move || File::open(path)).await?;
        Ok(ReadFile { fd: Rc::new(file.into()) })
    }

    /// Reads `len` bytes at an offset, or fewer where the file ends. Bytes that are in memory are taken at once;
    /// for the others the ring is asked, so a slow device stalls nobody.
    pub async fn read_at(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        let mut bytes = Vec::with_capacity(len);
        // The allocator may have given more.
        let room = &mut bytes.spare_capacity_mut()[..len];
        if let Ok(count) = os::read_resident((*self.fd).as_fd(), room, offset) {
            // SAFETY: that many have just been read into the vector.
            unsafe { bytes.set_len(count) };
        }
        while bytes.len() < len {
            let rest = Transfer::Read { offset: offset + bytes.len() as u64, len: len - bytes.len() };
            let (read, memory) = FileOperation::begin(rest, &self.fd, Memory::Bytes(bytes)).await;
            let Memory::Bytes(back) = memory else { unreachable!("memory comes back as it was") };
            bytes = back;
            if read? == 0 {
                break;
            }
        }
        Ok(bytes.into())
    }

    /// Bytes in the file now.
    pub async fn len(&self) -> io::Result<u64> {
        os::file_len((*self.fd).as_fd())
    }

    pub async fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len().await? == 0)
    }

    pub async fn close(self) -> io::Result<()> {
        close(self.fd).await
    }
}

/// Which way of making writes durable is quicker on the device that holds `dir`: measured with single blocks, in turns,
/// in a file written beforehand as the log's are, which is removed again. O_DSYNC unless fdatasync is clearly quicker: for
/// an fdatasync the ring wakes a thread of its own, which costs CPU and under load time, as no probe at the start shows.
pub async fn probe(dir: impl AsRef<Path>) -> io::Result<Durability> {
    let path = dir.as_ref().join(format!("durability-probe-{}", std::process::id()));
    let made = path.clone();
    background(move || {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(made)?;
        file.write_all(&vec![0; PROBE_WRITES * DISK_BLOCK_BYTES])?;
        file.sync_all()
    })
    .await?;
    let measured = measure(&path).await;
    background(move || std::fs::remove_file(path)).await?;
    measured
}

async fn measure(path: &Path) -> io::Result<Durability> {
    let ways = [Durability::Dsync, Durability::Fdatasync];
    let files = [DirectFile::open(path, ways[0]).await?, DirectFile::open(path, ways[1]).await?];
    let block = [0x5a; DISK_BLOCK_BYTES];
    let mut took = [Vec::with_capacity(PROBE_WRITES), Vec::with_capacity(PROBE_WRITES)];
    for number in 0..PROBE_WRITES {
        // Each goes first as often as the other: the second write to a block may be the cheaper one.
        for way in [number % 2, 1 - number % 2] {
            let begun = now();
            files[way].write_durable((number * DISK_BLOCK_BYTES) as u64, &block).await?;
            took[way].push(begun.elapsed());
        }
    }
    let direct = files[0].is_direct();
    for file in files {
        file.close().await?;
    }
    let [dsync, fdatasync] = took.map(median);
    Ok(if direct && dsync <= fdatasync * 5 / 4 { Durability::Dsync } else { Durability::Fdatasync })
}

/// The median: a single write that met the journal's commit says nothing.
fn median(mut durations: Vec<Duration>) -> Duration {
    durations.sort_unstable();
    durations[durations.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::executors::run_one;

    fn zeroed(dir: &Path, blocks: usize) -> std::path::PathBuf {
        let path = dir.join("segment");
        std::fs::write(&path, vec![0; blocks * DISK_BLOCK_BYTES]).unwrap();
        path
    }

    fn pattern(len: usize) -> Vec<u8> {
        (0..len).map(|index| (index * 31 % 251) as u8).collect()
    }

    async fn write_and_read_back(dir: &Path, durability: Durability) -> DirectFile {
        let path = zeroed(dir, 1024);
        let file = DirectFile::open(&path, durability).await.unwrap();
        let one = pattern(DISK_BLOCK_BYTES);
        // More than the memory kept from write to write.
        let many = pattern(600 * DISK_BLOCK_BYTES);
        file.write_durable(3 * DISK_BLOCK_BYTES as u64, &one).await.unwrap();
        file.write_durable(10 * DISK_BLOCK_BYTES as u64, &many).await.unwrap();
        let mut expected = vec![0; 1024 * DISK_BLOCK_BYTES];
        expected[3 * DISK_BLOCK_BYTES..][..one.len()].copy_from_slice(&one);
        expected[10 * DISK_BLOCK_BYTES..][..many.len()].copy_from_slice(&many);
        assert!(std::fs::read(&path).unwrap() == expected, "what is in the file is what was written");
        file
    }

    #[test]
    fn writes_are_in_the_file_when_they_return() {
        let dir = tempfile::tempdir_in(".").unwrap();
        run_one(move || async move {
            for durability in [Durability::Dsync, Durability::Fdatasync] {
                let file = write_and_read_back(dir.path(), durability).await;
                if file.is_direct() {
                    assert_eq!(file.durability(), durability);
                }
                file.close().await.unwrap();
            }
        })
        .unwrap();
    }

    #[test]
    fn a_file_system_in_memory_is_told_apart() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        run_one(move || async move {
            let file = write_and_read_back(dir.path(), Durability::Dsync).await;
            assert!(!file.is_direct());
            assert_eq!(file.durability(), Durability::Fdatasync);
            assert_eq!(probe(dir.path()).await.unwrap(), Durability::Fdatasync);
        })
        .unwrap();
    }

    #[test]
    fn a_write_to_a_full_device_is_an_error() {
        run_one(|| async {
            let file = DirectFile::open("/dev/full", Durability::Fdatasync).await.unwrap();
            let error = file.write_durable(0, &pattern(DISK_BLOCK_BYTES)).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::StorageFull, "{error}");
        })
        .unwrap();
    }

    #[test]
    fn a_missing_file_is_an_error() {
        let dir = tempfile::tempdir_in(".").unwrap();
        run_one(move || async move {
            let path = dir.path().join("none");
            let written = DirectFile::open(&path, Durability::Dsync).await.err().unwrap();
            assert_eq!(written.kind(), io::ErrorKind::NotFound, "{written}");
            let read = ReadFile::open(&path).await.err().unwrap();
            assert_eq!(read.kind(), io::ErrorKind::NotFound, "{read}");
        })
        .unwrap();
    }

    #[test]
    #[should_panic(expected = "offset 512 is not aligned")]
    fn an_unaligned_write_is_a_mistake() {
        let dir = tempfile::tempdir_in(".").unwrap();
        let result = run_one(move || async move {
            let file = DirectFile::open(zeroed(dir.path(), 2), Durability::Dsync).await.unwrap();
            file.write_durable(512, &pattern(DISK_BLOCK_BYTES)).await
        });
        drop(result);
    }

    #[test]
    fn reads_are_what_is_there_and_end_with_the_file() {
        let dir = tempfile::tempdir_in(".").unwrap();
        let path = dir.path().join("data");
        let data = pattern(100_000);
        std::fs::write(&path, &data).unwrap();
        run_one(move || async move {
            let file = ReadFile::open(&path).await.unwrap();
            assert_eq!(file.len().await.unwrap(), 100_000);
            for (offset, len, got) in [(0, 10, 10), (4095, 8193, 8193), (99_990, 100, 10), (100_000, 5, 0), (7, 0, 0)] {
                let bytes = file.read_at(offset as u64, len).await.unwrap();
                assert_eq!(&bytes[..], &data[offset..offset + got]);
            }
        })
        .unwrap();
    }

    /// What a direct write put beside the page cache is read back cold.
    #[test]
    fn cold_pages_are_read_through_the_ring() {
        let dir = tempfile::tempdir_in(".").unwrap();
        run_one(move || async move {
            let path = zeroed(dir.path(), 64);
            let writer = DirectFile::open(&path, Durability::Dsync).await.unwrap();
            let data = pattern(64 * DISK_BLOCK_BYTES);
            writer.write_durable(0, &data).await.unwrap();
            let reader = ReadFile::open(&path).await.unwrap();
            let bytes = reader.read_at(5000, 200_000).await.unwrap();
            assert!(bytes[..] == data[5000..205_000]);
        })
        .unwrap();
    }

    #[test]
    fn the_probe_answers_and_cleans_up() {
        let dir = tempfile::tempdir_in(".").unwrap();
        run_one(move || async move {
            probe(dir.path()).await.unwrap();
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        })
        .unwrap();
    }

    #[test]
    fn one_slow_write_does_not_decide_the_probe() {
        let millis = |list: &[u64]| list.iter().map(|&ms| Duration::from_millis(ms)).collect::<Vec<_>>();
        assert_eq!(median(millis(&[3, 1, 900, 2, 2])), Duration::from_millis(2));
    }
}
