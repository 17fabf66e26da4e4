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

    pub(super) fn in_file(dir: &Path, life: u32, size: u32, used: u32) -> Self {
        let bytes = Store::File { used, file: OnceLock::new(), map: OnceLock::new() };
        Segment { life, size, path: dir.join(file_name(life)), bytes }
    }

    /// The same segment without its bytes in memory.
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
        if life == self.life && at == window as usize && bits & wanted == wanted {
            return true;
        }
        let bits = map.resident(window as usize);
        seen.0.set((self.life, window as usize, bits));
        bits & wanted == wanted
    }

    /// Reads `len` bytes at `offset`, from the disk if need be: blocks. An error of the disk is an error here.
    pub fn read_blocking(&self, offset: u32, len: u32) -> io::Result<Bytes> {
        match &self.bytes {
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
