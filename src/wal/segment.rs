//! One segment of the log as readers hold it: its bytes in memory while it is fresh, its file once it is old. Holding
//! one pins its file: it is recycled only when nobody does.

use std::{
    cell::Cell,
    fmt,
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use bytes::Bytes;

use super::{map::Map, memory::Memory, record::RECORDS_FROM};
use crate::limits::{LOG_BLOCK_BYTES, RESIDENT_WINDOW_PAGES};

const WINDOW_BYTES: u32 = RESIDENT_WINDOW_PAGES as u32 * LOG_BLOCK_BYTES;

pub struct Segment {
    life: u32,
    size: u32,
    path: PathBuf,
    bytes: Store,
}

enum Store {
    /// All that is written so far. Readers need no file.
    Memory(Arc<Memory>),
    /// For tests: bytes that are there but must be waited for.
    #[cfg(test)]
    Cold(Arc<Memory>),
    File {
        /// Where its records end, as far as that is known: else its size.
        used: u32,
        file: OnceLock<File>,
        map: OnceLock<Map>,
    },
}

/// Which pages of one window of one segment were last seen resident. Good for one answer, not longer: the kernel may
/// take pages back at any time, and then a read of them stalls (but is still right).
#[derive(Default)]
pub(super) struct SeenResident(Cell<(u32, usize, u64)>);

/// The file of a segment by its life number.
pub fn file_name(life: u32) -> String {
    format!("{life:08x}.seg")
}

impl Segment {
    pub(super) fn in_memory(dir: &Path, life: u32, size: u32, memory: Arc<Memory>) -> Self {
        Segment { life, size, path: dir.join(file_name(life)), bytes: Store::Memory(memory) }
    }

    /// The same segment as one whose bytes have to be read from a disk.
    #[cfg(test)]
    pub(super) fn cold(&self) -> Segment {
        let Store::Memory(memory) = &self.bytes else { unreachable!("made of one in memory") };
        Segment { life: self.life, size: self.size, path: self.path.clone(), bytes: Store::Cold(memory.clone()) }
    }

    pub(super) fn in_file(dir: &Path, life: u32, size: u32, used: u32) -> Self {
        let bytes = Store::File { used, file: OnceLock::new(), map: OnceLock::new() };
        Segment { life, size, path: dir.join(file_name(life)), bytes }
    }

    /// The same segment without its bytes in memory. Who still holds `self` reads from that memory only: it does not
    /// keep the file from being recycled, and need not.
    pub(super) fn evicted(&self) -> Segment {
        let bytes = Store::File { used: self.used(), file: OnceLock::new(), map: OnceLock::new() };
        Segment { life: self.life, size: self.size, path: self.path.clone(), bytes }
    }

    /// The number that no other segment of the log has, ever.
    pub fn life(&self) -> u32 {
        self.life
    }

    /// Bytes of the file.
    pub fn size(&self) -> u32 {
        self.size
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where its records end, its header's block included; its size if that is not known; 0 while it has no record.
    pub fn used(&self) -> u32 {
        match &self.bytes {
            Store::Memory(memory) if memory.written() <= RECORDS_FROM => 0,
            Store::Memory(memory) => memory.written(),
            #[cfg(test)]
            Store::Cold(memory) => memory.written(),
            Store::File { used, .. } => *used,
        }
    }

    pub fn is_in_memory(&self) -> bool {
        matches!(self.bytes, Store::Memory(_))
    }

    /// Bytes that can be read without a stall.
    pub(super) fn resident(&self, offset: u32, len: u32, seen: &SeenResident) -> Option<&[u8]> {
        match &self.bytes {
            Store::Memory(memory) => memory.get(offset, len),
            #[cfg(test)]
            Store::Cold(_) => None,
            Store::File { .. } => {
                let map = self.map().ok()?;
                let bytes = map.get(offset as usize, len as usize)?;
                let last = offset + len.max(1) - 1;
                let windows = offset / WINDOW_BYTES..=last / WINDOW_BYTES;
                windows
                    .into_iter()
                    .all(|window| self.window_is_resident(map, window, offset, last, seen))
                    .then_some(bytes)
            }
        }
    }

    /// Whether those pages of `first..=last` that lie in a window are resident.
    fn window_is_resident(&self, map: &Map, window: u32, first: u32, last: u32, seen: &SeenResident) -> bool {
        let base = window * WINDOW_BYTES;
        let from = (first.max(base) - base) / LOG_BLOCK_BYTES;
        let to = (last.min(base + (WINDOW_BYTES - 1)) - base) / LOG_BLOCK_BYTES;
        let wanted = (u64::MAX >> (63 - (to - from))) << from;
        let (life, at, bits) = seen.0.get();
        if life == self.life && at == window as usize {
            // What was not resident is not asked for again: where nothing is, that would cost more than reading it.
            return bits & wanted == wanted;
        }
        let bits = map.resident(window as usize);
        seen.0.set((self.life, window as usize, bits));
        bits & wanted == wanted
    }

    /// Reads `len` bytes at `offset`, from the disk if need be: blocks. An error of the disk is an error here.
    pub fn read_blocking(&self, offset: u32, len: u32) -> io::Result<Bytes> {
        match &self.bytes {
            #[cfg(test)]
            Store::Cold(memory) => Ok(Bytes::copy_from_slice(memory.get(offset, len).expect("within bounds"))),
            Store::Memory(memory) => match memory.get(offset, len) {
                Some(bytes) => Ok(Bytes::copy_from_slice(bytes)),
                None => Err(self.out_of_bounds(offset, len)),
            },
            Store::File { .. } => {
                if u64::from(offset) + u64::from(len) > u64::from(self.size) {
                    return Err(self.out_of_bounds(offset, len));
                }
                let mut bytes = vec![0; len as usize];
                self.file()?.read_exact_at(&mut bytes, u64::from(offset))?;
                Ok(bytes.into())
            }
        }
    }

    /// Has the kernel begin to read bytes of the file. Blocks at times.
    pub(super) fn will_need(&self, offset: u32, len: u32) {
        if let Store::File { .. } = &self.bytes
            && let Ok(map) = self.map()
        {
            map.will_need(offset as usize, len as usize);
        }
    }

    /// Gives the pages back that reading from the file has brought into the process's memory.
    pub(super) fn release(&self) {
        if let Store::File { map, .. } = &self.bytes
            && let Some(map) = map.get()
        {
            map.release();
        }
    }

    fn out_of_bounds(&self, offset: u32, len: u32) -> io::Error {
        let place = format!("{len} bytes at {offset} lie outside of what {} holds", self.path.display());
        io::Error::new(io::ErrorKind::InvalidInput, place)
    }

    fn file(&self) -> io::Result<&File> {
        let Store::File { file, .. } = &self.bytes else { unreachable!("asked for a segment in its file only") };
        if let Some(file) = file.get() {
            return Ok(file);
        }
        let opened = super::disk::open_to_read(&self.path)?;
        Ok(file.get_or_init(|| opened))
    }

    fn map(&self) -> io::Result<&Map> {
        let Store::File { map, .. } = &self.bytes else { unreachable!("asked for a segment in its file only") };
        if let Some(map) = map.get() {
            return Ok(map);
        }
        let opened = Map::new(self.file()?)?;
        Ok(map.get_or_init(|| opened))
    }

    /// Bytes of a write that waits to be made durable.
    fn written(&self, offset: u32, len: u32) -> &[u8] {
        let Store::Memory(memory) = &self.bytes else { unreachable!("a write's segment stays in memory") };
        memory.get(offset, len).expect("a piece is what was written")
    }
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = if self.is_in_memory() { "memory" } else { "file" };
        write!(f, "Segment({:08x}, {} of {} bytes, in {place})", self.life, self.used(), self.size)
    }
}

/// A part of a write: bytes of one segment that go to the same offset of its file. Offset and length are multiples of
/// the block, the memory is aligned to it.
#[derive(Clone, Debug)]
pub struct Piece {
    pub segment: Arc<Segment>,
    pub offset: u32,
    pub len: u32,
}

impl Piece {
    pub fn bytes(&self) -> &[u8] {
        self.segment.written(self.offset, self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: u32 = LOG_BLOCK_BYTES;

    #[test]
    fn only_what_lies_in_resident_pages_alone_is_given() {
        let temp = tempfile::tempdir().unwrap();
        let segment = Segment::in_file(temp.path(), 1, 200 * PAGE, 200 * PAGE);
        let file = File::create_new(segment.path()).unwrap();
        file.set_len(u64::from(200 * PAGE)).unwrap();
        for page in (10u32..20).chain(60..70).chain(64..130).chain([199]) {
            file.write_all_at(&[page as u8; PAGE as usize], u64::from(page) * u64::from(PAGE)).unwrap();
        }
        let seen = SeenResident::default();
        let given = |from: u32, to: u32| segment.resident(from, to - from, &seen).map(<[u8]>::len);
        assert_eq!(given(10 * PAGE, 10 * PAGE + 1), Some(1));
        assert_eq!(given(10 * PAGE, 20 * PAGE), Some(10 * PAGE as usize));
        assert_eq!(given(20 * PAGE - 1, 20 * PAGE + 1), None, "its end is not resident");
        assert_eq!(given(10 * PAGE - 1, 10 * PAGE + 1), None, "its beginning is not");
        assert_eq!(given(60 * PAGE, 130 * PAGE), Some(70 * PAGE as usize), "across three windows");
        assert_eq!(given(60 * PAGE, 131 * PAGE), None);
        assert_eq!(given(199 * PAGE, 200 * PAGE), Some(PAGE as usize));
        assert_eq!(given(199 * PAGE, 200 * PAGE + 1), None, "beyond the file");
        // A blocking read gives all of it.
        assert_eq!(segment.read_blocking(20 * PAGE - 1, 2).unwrap()[..], [19, 0]);
        assert!(segment.read_blocking(200 * PAGE - 1, 2).is_err());
    }
}
