//! Large files, written, read and removed beside the log: past the page cache and in pieces, with a rest after each of them, so that the
//! log's own writes get through in between. Through the cache they would reach the device all at once, with the sync.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
    thread,
    time::Duration,
};

use crate::limits::{BULK_FREED_BYTES, BULK_PIECE_BYTES, BULK_REST_MS, LOG_BLOCK_BYTES};

const BLOCK: usize = LOG_BLOCK_BYTES as usize;

/// Whether somebody waits for the work on a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Nobody: the log goes first.
    Resting,
    /// The log itself, or a caller.
    Hurried,
}

/// One piece of memory, somewhere in it aligned as direct transfers have to be.
#[derive(Debug)]
pub(super) struct Piece {
    memory: Vec<u8>,
    begin: usize,
}

impl Piece {
    pub fn new() -> Self {
        let memory = vec![0; BULK_PIECE_BYTES + BLOCK];
        let begin = memory.as_ptr().align_offset(BLOCK);
        Piece { memory, begin }
    }

    pub fn bytes(&mut self) -> &mut [u8] {
        &mut self.memory[self.begin..][..BULK_PIECE_BYTES]
    }

    pub fn read(&self) -> &[u8] {
        &self.memory[self.begin..][..BULK_PIECE_BYTES]
    }
}

/// Opens a file past the page cache, or through it where the file system has nothing else.
fn open(path: &Path, options: &OpenOptions) -> io::Result<File> {
    match options.clone().custom_flags(libc::O_DIRECT).open(path) {
        Err(cause) if cause.raw_os_error() == Some(libc::EINVAL) => options.open(path),
        opened => opened,
    }
}

/// The same to read from it.
pub(super) fn open_past_cache(path: &Path) -> io::Result<File> {
    open(path, OpenOptions::new().read(true))
}

impl Pace {
    fn rest(self) {
        if self == Pace::Resting {
            thread::sleep(Duration::from_millis(BULK_REST_MS));
        }
    }
}

/// A file's bytes in order, past the page cache. Between two pieces who reads them rests as long as they like.
pub struct Pieces {
    file: File,
    piece: Piece,
    at: u64,
}

impl Pieces {
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Pieces { file: open_past_cache(path)?, piece: Piece::new(), at: 0 })
    }

    /// The next ones; none at the end. Blocks that the device cannot give any more are zeros: what was in them is as lost as
    /// if it had been changed, and checksums tell so.
    pub fn read_on(&mut self) -> io::Result<&[u8]> {
        // Behind a part of a block there is nothing more, and a direct read cannot go on there.
        if !self.at.is_multiple_of(BLOCK as u64) {
            return Ok(&[]);
        }
        let count = read_piece(&|room, at| self.file.read_at(room, at), self.piece.bytes(), self.at)?;
        self.at += count as u64;
        Ok(&self.piece.bytes()[..count])
    }
}

/// Whether a device says that it does not have any more what was written: a medium or a checksum of its own that is broken.
pub fn is_lost(cause: &io::Error) -> bool {
    matches!(cause.raw_os_error(), Some(libc::EIO | libc::ENODATA | libc::EILSEQ))
}

/// As many bytes of a file as fit, from `at` on; block by block where they cannot be read together.
fn read_piece(read: &dyn Fn(&mut [u8], u64) -> io::Result<usize>, room: &mut [u8], at: u64) -> io::Result<usize> {
    match read(room, at) {
        Err(cause) if is_lost(&cause) => {}
        done => return done,
    }
    let mut count = 0;
    for block in room.chunks_mut(BLOCK) {
        let now = match read(block, at + count as u64) {
            Err(cause) if is_lost(&cause) => {
                block.fill(0);
                block.len()
            }
            done => done?,
        };
        count += now;
        if now < block.len() {
            break;
        }
    }
    Ok(count)
}

/// A whole file, as `Pieces` reads it.
pub fn read(path: &Path, pace: Pace) -> io::Result<Vec<u8>> {
    let mut pieces = Pieces::open(path)?;
    let mut bytes = Vec::with_capacity(usize::try_from(pieces.file.metadata()?.len()).unwrap_or(0));
    loop {
        let piece = pieces.read_on()?;
        if piece.is_empty() {
            return Ok(bytes);
        }
        bytes.extend_from_slice(piece);
        pace.rest();
    }
}

/// A whole file of which the device may have lost some: a block that it cannot read is zeros here, and the first error is told.
/// Through the page cache.
pub fn read_in_blocks(path: &Path) -> io::Result<(Vec<u8>, Option<io::Error>)> {
    let is_lost = |cause: &io::Error| cause.raw_os_error() == Some(libc::EIO);
    match read_through_cache(path) {
        Err(cause) if is_lost(&cause) => {}
        read => return read.map(|bytes| (bytes, None)),
    }
    let file = File::open(path)?;
    let size = usize::try_from(file.metadata()?.len()).map_err(|_| io::ErrorKind::FileTooLarge)?;
    let (mut bytes, mut first) = (vec![0; size], None);
    for (number, block) in bytes.chunks_mut(BLOCK).enumerate() {
        if let Err(cause) = read_block(&file, path, block, (number * BLOCK) as u64) {
            if !is_lost(&cause) {
                return Err(cause);
            }
            block.fill(0);
            first.get_or_insert(cause);
        }
    }
    Ok((bytes, first))
}

fn read_through_cache(path: &Path) -> io::Result<Vec<u8>> {
    #[cfg(test)]
    if UNREADABLE.with_borrow(|lost| lost.iter().any(|(file, _)| file == path)) {
        return Err(io::Error::from_raw_os_error(libc::EIO));
    }
    std::fs::read(path)
}

#[cfg_attr(not(test), expect(unused_variables, reason = "tests have blocks that cannot be read"))]
fn read_block(file: &File, path: &Path, block: &mut [u8], offset: u64) -> io::Result<()> {
    #[cfg(test)]
    if UNREADABLE.with_borrow(|lost| lost.iter().any(|(lost, at)| lost == path && *at == offset)) {
        return Err(io::Error::from_raw_os_error(libc::EIO));
    }
    file.read_exact_at(block, offset)
}

/// Overwrites whole blocks of a file, past the page cache as `open` does it, durably. A block that could not be read is given
/// another place by the device.
pub fn overwrite(path: &Path, offset: u64, blocks: &[u8]) -> io::Result<()> {
    let file = open(path, OpenOptions::new().write(true))?;
    let mut piece = Piece::new();
    let mut at = offset;
    for bytes in blocks.chunks(BULK_PIECE_BYTES) {
        let aligned = &mut piece.bytes()[..bytes.len()];
        aligned.copy_from_slice(bytes);
        file.write_all_at(aligned, at)?;
        at += bytes.len() as u64;
    }
    #[cfg(test)]
    UNREADABLE.with_borrow_mut(|lost| lost.retain(|(file, block)| file != path || !(offset..at).contains(block)));
    file.sync_data()
}

#[cfg(test)]
thread_local! {
    /// Blocks that cannot be read until they are written: the file, and where they begin.
    pub static UNREADABLE: std::cell::RefCell<Vec<(std::path::PathBuf, u64)>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// Gives a file's room back: what is freed all at once the file system may tell the device all at once, which then does
/// nothing else for milliseconds. It should have no name any more, so that nobody finds a part of it. Where the file system
/// does not let a file without a name be cut, its room comes back when it is closed.
pub fn give_back(file: &File, pace: Pace) {
    let mut left = file.metadata().map_or(0, |it| it.len());
    while left > BULK_FREED_BYTES {
        left -= BULK_FREED_BYTES;
        if file.set_len(left).is_err() {
            return;
        }
        pace.rest();
    }
}

/// A new file that grows by what is written into it; durable, and as long as that, once it is finished.
#[derive(Debug)]
pub struct BulkFile {
    file: File,
    pace: Pace,
    piece: Piece,
    filled: usize,
    written: u64,
}

impl BulkFile {
    /// Makes the file, mode 0600; what was there is gone.
    pub fn create(path: &Path, pace: Pace) -> io::Result<Self> {
        let file = open(path, OpenOptions::new().write(true).create(true).truncate(true).mode(0o600))?;
        Ok(BulkFile { file, pace, piece: Piece::new(), filled: 0, written: 0 })
    }

    /// Rests no more: somebody has come to wait for it.
    pub fn hurry(&mut self) {
        self.pace = Pace::Hurried;
    }

    /// So many zeros.
    pub fn write_zeros(&mut self, mut count: usize) -> io::Result<()> {
        while count > 0 {
            let now = count.min(BULK_PIECE_BYTES - self.filled);
            self.room()[..now].fill(0);
            self.fill(now)?;
            count -= now;
        }
        Ok(())
    }

    /// Gives the file's bytes once they are durable.
    pub fn finish(mut self) -> io::Result<u64> {
        let bytes = self.write_rest()?;
        self.file.sync_all()?;
        Ok(bytes)
    }

    /// The same of one that nobody is to find after this process.
    pub fn finish_volatile(mut self) -> io::Result<u64> {
        self.write_rest()
    }

    fn write_rest(&mut self) -> io::Result<u64> {
        let bytes = self.written + self.filled as u64;
        if self.filled > 0 {
            // Direct writes are of whole blocks: what is too much is cut off again.
            let short = self.filled.next_multiple_of(BLOCK) - self.filled;
            self.room()[..short].fill(0);
            self.filled += short;
            self.write_piece()?;
        }
        if self.written != bytes {
            self.file.set_len(bytes)?;
        }
        Ok(bytes)
    }

    fn room(&mut self) -> &mut [u8] {
        &mut self.piece.bytes()[self.filled..]
    }

    fn fill(&mut self, count: usize) -> io::Result<()> {
        self.filled += count;
        if self.filled < BULK_PIECE_BYTES { Ok(()) } else { self.write_piece() }
    }

    fn write_piece(&mut self) -> io::Result<()> {
        if self.written > 0 {
            self.pace.rest();
        }
        self.file.write_all(&self.piece.bytes()[..self.filled])?;
        self.written += self.filled as u64;
        self.filled = 0;
        Ok(())
    }
}

impl Write for BulkFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let now = bytes.len().min(BULK_PIECE_BYTES - self.filled);
        self.room()[..now].copy_from_slice(&bytes[..now]);
        self.fill(now)?;
        Ok(now)
    }

    /// Nothing: what is durable before the end is nobody's business.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn pattern(len: usize) -> Vec<u8> {
        (0..len).map(|index| (index * 31 % 251) as u8).collect()
    }

    fn written_in(dir: &Path, len: usize, step: usize) {
        let path = dir.join("file");
        fs::write(&path, "of before, and longer than nothing").unwrap();
        let mut file = BulkFile::create(&path, Pace::Hurried).unwrap();
        let data = pattern(len);
        for part in data.chunks(step) {
            file.write_all(part).unwrap();
        }
        assert_eq!(file.finish().unwrap(), len as u64);
        assert!(fs::read(&path).unwrap() == data, "{len} bytes by {step}");
        assert!(read(&path, Pace::Hurried).unwrap() == data, "{len} bytes");
    }

    #[test]
    fn what_was_written_is_in_the_file_whatever_its_length() {
        let (disk, memory) = (tempfile::tempdir_in(".").unwrap(), tempfile::tempdir_in("/dev/shm").unwrap());
        for dir in [disk.path(), memory.path()] {
            for len in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, BULK_PIECE_BYTES, 3 * BULK_PIECE_BYTES + 5000] {
                written_in(dir, len, 100_000);
                written_in(dir, len, 2 * BULK_PIECE_BYTES);
            }
        }
    }

    #[test]
    fn what_a_device_has_lost_is_zeros_and_the_rest_is_there() {
        let data = pattern(3 * BLOCK + 100);
        let broken = |error: i32| {
            let data = &data;
            move |room: &mut [u8], at: u64| {
                let (from, to) = (at as usize, (at as usize + room.len()).min(data.len()));
                if from < 2 * BLOCK && to > BLOCK {
                    return Err(io::Error::from_raw_os_error(error));
                }
                room[..to - from].copy_from_slice(&data[from..to]);
                Ok(to - from)
            }
        };
        let mut room = vec![7; 8 * BLOCK];
        for error in [libc::EIO, libc::ENODATA, libc::EILSEQ] {
            let count = read_piece(&broken(error), &mut room, 0).unwrap();
            let wanted = [&data[..BLOCK], &[0; BLOCK], &data[2 * BLOCK..]].concat();
            assert!(room[..count] == wanted, "{error}");
        }
        let refused = read_piece(&broken(libc::EACCES), &mut room, 0).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EACCES));
    }

    #[test]
    fn a_file_is_given_back_to_its_last_piece() {
        let dir = tempfile::tempdir_in(".").unwrap();
        let path = dir.path().join("file");
        for (len, rest) in [(0, 0), (BULK_FREED_BYTES, BULK_FREED_BYTES), (3 * BULK_FREED_BYTES + 5, 5)] {
            let file = File::create(&path).unwrap();
            file.set_len(len).unwrap();
            give_back(&file, Pace::Resting);
            assert_eq!(file.metadata().unwrap().len(), rest);
        }
    }

    #[test]
    fn zeros_follow_bytes_and_bytes_zeros() {
        let dir = tempfile::tempdir_in(".").unwrap();
        let path = dir.path().join("file");
        let mut file = BulkFile::create(&path, Pace::Resting).unwrap();
        let data = pattern(5000);
        file.write_all(&data).unwrap();
        file.write_zeros(2 * BULK_PIECE_BYTES).unwrap();
        file.write_all(&data).unwrap();
        file.finish().unwrap();
        let read = fs::read(&path).unwrap();
        let (head, rest) = read.split_at(data.len());
        let (zeros, tail) = rest.split_at(2 * BULK_PIECE_BYTES);
        assert!(head == data && tail == data && zeros.iter().all(|byte| *byte == 0));
    }
}
