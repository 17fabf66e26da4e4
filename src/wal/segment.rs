//! One segment of the log as readers hold it: its bytes in memory while it is fresh, its file once it is old. Holding
//! one pins its file: it is recycled only when nobody does. What comes from the file is given only together with the
//! proof that it is what was written (`proof.rs`): a disk that has changed a byte makes an error, never another value.

use std::{
    cell::Cell,
    fmt,
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};

use bytes::Bytes;

use super::{
    map::{Map, read_only_what_is_asked},
    memory::Memory,
    proof::{self, Proof},
    record::{ALIGN, HEADER_BYTES, RECORDS_FROM, Seed, SegmentHeader},
    window::{Whose, Window},
};
use crate::limits::{LOG_BLOCK_BYTES, PROOF_INLINE_BYTES, READ_AHEAD_BYTES, RESIDENT_WINDOW_PAGES};

const WINDOW_BYTES: u32 = RESIDENT_WINDOW_PAGES as u32 * LOG_BLOCK_BYTES;

pub struct Segment {
    life: u32,
    size: u32,
    /// What the checksums of its headers start from.
    seed: Seed,
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
        /// Where the last blocking read ended.
        read_until: AtomicU32,
    },
}

/// A segment's bytes in its file, not opened yet.
fn in_file(used: u32) -> Store {
    Store::File { used, file: OnceLock::new(), map: OnceLock::new(), read_until: AtomicU32::new(0) }
}

/// Which pages of one window of one segment were last seen resident. Good for one answer, not longer: the kernel may
/// take pages back at any time, and then a read of them stalls (but is still right).
#[derive(Default)]
pub(super) struct SeenResident {
    /// Life, window, a bit for each page.
    pages: Cell<(u32, usize, u64)>,
    /// Life, and where the payload of the record begins and ends that was proven last.
    proven: Cell<(u32, u32, u32)>,
}

/// The file of a segment by its life number.
pub fn file_name(life: u32) -> String {
    format!("{life:08x}.seg")
}

impl Segment {
    pub(super) fn in_memory(dir: &Path, header: &SegmentHeader, memory: Arc<Memory>) -> Self {
        Segment::of(dir, header, Store::Memory(memory))
    }

    /// The same segment as one whose bytes have to be read from a disk.
    #[cfg(test)]
    pub(super) fn cold(&self) -> Segment {
        let Store::Memory(memory) = &self.bytes else { unreachable!("made of one in memory") };
        self.with(Store::Cold(memory.clone()))
    }

    pub(super) fn in_file(dir: &Path, header: &SegmentHeader, used: u32) -> Self {
        Segment::of(dir, header, in_file(used))
    }

    fn of(dir: &Path, header: &SegmentHeader, bytes: Store) -> Self {
        let SegmentHeader { life, size, .. } = *header;
        Segment { life, size, seed: header.seed(), path: dir.join(file_name(life)), bytes }
    }

    /// The same segment without its bytes in memory. Who still holds `self` reads from that memory only: it does not
    /// keep the file from being recycled, and need not.
    pub(super) fn evicted(&self) -> Segment {
        self.with(in_file(self.used()))
    }

    fn with(&self, bytes: Store) -> Segment {
        Segment { life: self.life, size: self.size, seed: self.seed, path: self.path.clone(), bytes }
    }

    /// The number that no other segment of the log has, ever.
    pub fn life(&self) -> u32 {
        self.life
    }

    /// Bytes of the file.
    pub fn size(&self) -> u32 {
        self.size
    }

    /// What the checksums of its headers start from.
    pub fn seed(&self) -> Seed {
        self.seed
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

    /// Bytes that can be read without a stall, and are proven to be what was written. None also where the proof would
    /// take long or fails: who then reads with `read_blocking` is told.
    pub(super) fn resident(&self, offset: u32, len: u32, seen: &SeenResident) -> Option<&[u8]> {
        match &self.bytes {
            Store::Memory(memory) => memory.get(offset, len),
            #[cfg(test)]
            Store::Cold(_) => None,
            Store::File { .. } => {
                let map = self.map().ok()?;
                let bytes = map.get(offset as usize, len as usize)?;
                let (life, begin, end) = seen.proven.get();
                if life == self.life && begin <= offset && offset + len <= end {
                    return Some(bytes);
                }
                if !self.pages_are_resident(map, offset, offset + len, seen) {
                    return None;
                }
                seen.proven.set(self.prove_resident(map, offset, len, seen)?);
                Some(bytes)
            }
        }
    }

    /// Bytes out of a window of the file, which is read if it has to be: blocks. None where they have to be read alone.
    pub(super) fn read_in<'w>(&'w self, offset: u32, len: u32, window: &'w mut Window) -> Option<&'w [u8]> {
        match &self.bytes {
            Store::Memory(memory) => memory.get(offset, len),
            #[cfg(test)]
            Store::Cold(_) => None,
            Store::File { .. } => {
                window.get(&Whose { life: self.life, path: &self.path, seed: self.seed }, offset, len)
            }
        }
    }

    /// Proves the record around bytes whose pages are resident, as far as that needs no page that is not.
    fn prove_resident(&self, map: &Map, offset: u32, len: u32, seen: &SeenResident) -> Option<(u32, u32, u32)> {
        let lowest = offset.saturating_sub(PROOF_INLINE_BYTES).max(RECORDS_FROM);
        // From here on all pages up to `offset` are known to be resident.
        let mut known = offset - offset % LOG_BLOCK_BYTES;
        let mut at = offset.checked_sub(HEADER_BYTES as u32)?;
        at -= at % ALIGN;
        while at >= lowest {
            if at < known {
                known -= LOG_BLOCK_BYTES;
                if !self.pages_are_resident(map, known, known + 1, seen) {
                    return None;
                }
            }
            if let Some(payload) = proof::payload_at(map.get(at as usize, HEADER_BYTES)?, at, self.seed, self.life)
                && payload.holds(offset, len)
            {
                let quick = payload.len() <= PROOF_INLINE_BYTES.max(len.saturating_mul(2));
                let ready = quick && self.pages_are_resident(map, payload.begin, payload.end, seen);
                let bytes = ready.then(|| map.get(payload.begin as usize, payload.len() as usize)).flatten()?;
                return payload.is_sound(bytes).then_some((self.life, payload.begin, payload.end));
            }
            at -= ALIGN;
        }
        None
    }

    /// Whether the pages that bytes `from..to` lie in are resident.
    fn pages_are_resident(&self, map: &Map, from: u32, to: u32, seen: &SeenResident) -> bool {
        let last = to.max(from + 1) - 1;
        (from / WINDOW_BYTES..=last / WINDOW_BYTES).all(|window| self.window_is_resident(map, window, from, last, seen))
    }

    /// Whether those pages of `first..=last` that lie in a window are resident.
    fn window_is_resident(&self, map: &Map, window: u32, first: u32, last: u32, seen: &SeenResident) -> bool {
        let base = window * WINDOW_BYTES;
        let from = (first.max(base) - base) / LOG_BLOCK_BYTES;
        let to = (last.min(base + (WINDOW_BYTES - 1)) - base) / LOG_BLOCK_BYTES;
        let wanted = (u64::MAX >> (63 - (to - from))) << from;
        let (life, at, bits) = seen.pages.get();
        if life == self.life && at == window as usize {
            // What was not resident is not asked for again: where nothing is, that would cost more than reading it.
            return bits & wanted == wanted;
        }
        let bits = map.resident(window as usize);
        seen.pages.set((self.life, window as usize, bits));
        bits & wanted == wanted
    }

    /// Reads `len` bytes at `offset`, from the disk if need be: blocks. An error of the disk is an error here, and so is
    /// what the record's checksums do not vouch for: of kind InvalidData, with a `proof::Damaged` in it.
    pub fn read_blocking(&self, offset: u32, len: u32) -> io::Result<Bytes> {
        self.read_proven(offset, len, |proof| proof.read(offset, len))
    }

    /// The same of the data of the entry of that raft index, whole: another record in its place is an error, too.
    pub fn entry_blocking(&self, offset: u32, len: u32, index: u64) -> io::Result<Bytes> {
        self.read_proven(offset, len, |proof| proof.entry(offset, len, index))
    }

    fn read_proven(
        &self,
        offset: u32,
        len: u32,
        read: impl FnOnce(&Proof<'_>) -> io::Result<Bytes>,
    ) -> io::Result<Bytes> {
        match &self.bytes {
            #[cfg(test)]
            Store::Cold(memory) => Ok(Bytes::copy_from_slice(memory.get(offset, len).expect("within bounds"))),
            Store::Memory(memory) => match memory.get(offset, len) {
                Some(bytes) => Ok(Bytes::copy_from_slice(bytes)),
                None => Err(self.out_of_bounds(offset, len)),
            },
            Store::File { read_until, .. } => {
                let end = u64::from(offset) + u64::from(len);
                if offset < RECORDS_FROM + HEADER_BYTES as u32 || end > u64::from(self.size) {
                    return Err(self.out_of_bounds(offset, len));
                }
                let (file, path) = (self.file()?, self.path());
                self.read_ahead(read_until.swap(offset + len, Relaxed), offset);
                read(&Proof { file, path, life: self.life, size: self.size, seed: self.seed })
            }
        }
    }

    /// Who reads value after value finds the next ones read already.
    fn read_ahead(&self, before: u32, offset: u32) {
        let near = before <= offset && offset - before <= LOG_BLOCK_BYTES;
        if near && before / READ_AHEAD_BYTES != offset / READ_AHEAD_BYTES {
            self.will_need(offset / READ_AHEAD_BYTES * READ_AHEAD_BYTES, READ_AHEAD_BYTES);
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
        read_only_what_is_asked(&opened);
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
    use std::os::unix::fs::FileExt;

    use super::{
        super::record::{FORMAT_VERSION, FORMAT_VERSION_WITHOUT_PLACE, Header, Type},
        *,
    };

    const PAGE: u32 = LOG_BLOCK_BYTES;

    fn header(version: u32) -> SegmentHeader {
        SegmentHeader { version, life: 1, size: 200 * PAGE, salt: 77, cluster_id: 1, member_id: 2 }
    }

    /// A segment of 200 pages with a record at each of the given places, of so many bytes of payload; what lies
    /// between was never read or written, so that it is not resident.
    fn segment(dir: &Path, records: &[(u32, u32)]) -> Segment {
        segment_of(dir, FORMAT_VERSION, records)
    }

    fn segment_of(dir: &Path, version: u32, records: &[(u32, u32)]) -> Segment {
        let segment = Segment::in_file(dir, &header(version), 200 * PAGE);
        let file = File::create_new(segment.path()).unwrap();
        file.set_len(u64::from(200 * PAGE)).unwrap();
        for (at, len) in records {
            let payload = vec![(at / PAGE) as u8; *len as usize];
            let header = Header {
                payload_crc: crc32c::crc32c(&payload),
                chain: 0,
                len: *len,
                life: 1,
                kind: Type::Entry,
                entry_type: 0,
                first: true,
                write: 1,
                term: 1,
                index: u64::from(*at),
            };
            let bytes = [&header.encode(segment.seed.at(*at)).0[..], &payload].concat();
            file.write_all_at(&bytes, u64::from(*at)).unwrap();
        }
        segment
    }

    #[test]
    fn only_what_lies_in_resident_pages_alone_is_given() {
        let temp = tempfile::tempdir().unwrap();
        let segment = segment(temp.path(), &[(10 * PAGE, 2 * PAGE), (60 * PAGE, 8 * PAGE), (64 * PAGE * 2 - 8, 100)]);
        let given = |from: u32, len: u32| segment.resident(from, len, &SeenResident::default()).map(<[u8]>::len);
        assert_eq!(given(10 * PAGE + 48, 1), Some(1));
        assert_eq!(given(10 * PAGE + 48, 2 * PAGE), Some(2 * PAGE as usize), "the whole payload");
        assert_eq!(given(12 * PAGE + 47, 1), Some(1), "its last byte");
        assert_eq!(given(12 * PAGE + 47, 2), None, "beyond it");
        assert_eq!(given(10 * PAGE + 47, 2), None, "before it");
        assert_eq!(given(20 * PAGE, 1), None, "not resident");
        assert_eq!(given(63 * PAGE, 3 * PAGE), Some(3 * PAGE as usize), "across two windows");
        assert_eq!(given(64 * PAGE * 2 + 45, 5), Some(5), "the header in the window before");
        assert_eq!(given(199 * PAGE, PAGE + 1), None, "beyond the file");
        // A blocking read gives it too.
        assert_eq!(segment.read_blocking(10 * PAGE + 48, 2).unwrap()[..], [10, 10]);
        assert!(segment.read_blocking(20 * PAGE, 2).is_err());
        assert!(segment.read_blocking(200 * PAGE - 1, 2).is_err());
        assert!(segment.read_blocking(7, 2).is_err());
    }

    #[test]
    fn one_proof_serves_the_values_of_one_record() {
        let temp = tempfile::tempdir().unwrap();
        let segment = segment(temp.path(), &[(10 * PAGE, 2 * PAGE)]);
        let seen = SeenResident::default();
        assert!(segment.resident(11 * PAGE, 5, &seen).is_some());
        // Damaged between two values of one answer: the second is as it was read with the first.
        File::options()
            .write(true)
            .open(segment.path())
            .unwrap()
            .write_all_at(b"x", u64::from(10 * PAGE + 50))
            .unwrap();
        assert!(segment.resident(11 * PAGE + 5, 5, &seen).is_some());
        assert!(segment.resident(11 * PAGE + 5, 5, &SeenResident::default()).is_none());
        let damaged = segment.read_blocking(11 * PAGE + 5, 5).unwrap_err();
        let told = format!("{} is damaged at byte {}", segment.path().display(), 10 * PAGE);
        assert!(damaged.to_string().starts_with(&told), "{damaged}");
    }

    /// What a disk does that writes a block to the wrong place, where the block that belongs there is of the same kind.
    #[test]
    fn a_value_of_a_block_that_went_astray_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let segment = segment(temp.path(), &[(10 * PAGE, 100), (20 * PAGE, 100)]);
        let (own, other) = (u64::from(10 * PAGE), u64::from(20 * PAGE));
        assert_eq!(segment.read_blocking(10 * PAGE + 60, 5).unwrap()[..], [10; 5]);
        assert!(segment.resident(10 * PAGE + 60, 5, &SeenResident::default()).is_some());
        let file = File::options().read(true).write(true).open(segment.path()).unwrap();
        let mut block = vec![0; PAGE as usize];
        file.read_exact_at(&mut block, other).unwrap();
        file.write_all_at(&block, own).unwrap();
        let told = segment.read_blocking(10 * PAGE + 60, 5).unwrap_err();
        assert_eq!(told.kind(), io::ErrorKind::InvalidData);
        assert_eq!(segment.resident(10 * PAGE + 60, 5, &SeenResident::default()), None);
        assert_eq!(segment.read_blocking(20 * PAGE + 60, 5).unwrap()[..], [20; 5], "where it belongs");
    }

    /// The same in version 1: the record there is sound, and it is another.
    #[test]
    fn an_entry_in_the_place_of_another_is_not_taken_for_it() {
        let temp = tempfile::tempdir().unwrap();
        let records = [(10 * PAGE, PAGE), (20 * PAGE, PAGE)];
        let segment = segment_of(temp.path(), FORMAT_VERSION_WITHOUT_PLACE, &records);
        let data = 10 * PAGE + HEADER_BYTES as u32;
        let (own, other) = (u64::from(10 * PAGE), u64::from(20 * PAGE));
        assert_eq!(segment.entry_blocking(data, PAGE, own).unwrap()[..], [10; PAGE as usize]);
        segment.entry_blocking(data, PAGE - 8, own).expect_err("a part of it");
        let file = File::options().read(true).write(true).open(segment.path()).unwrap();
        let mut block = vec![0; 2 * PAGE as usize];
        file.read_exact_at(&mut block, other).unwrap();
        file.write_all_at(&block, own).unwrap();
        let told = segment.entry_blocking(data, PAGE, own).unwrap_err();
        assert_eq!(told.kind(), io::ErrorKind::InvalidData);
        assert!(told.to_string().contains("where another record belongs"), "{told}");
    }

    #[test]
    fn a_record_that_takes_long_to_prove_is_left_to_who_may_wait() {
        let temp = tempfile::tempdir().unwrap();
        let large = PROOF_INLINE_BYTES + 8;
        let segment = segment(temp.path(), &[(10 * PAGE, large)]);
        let given = |from: u32, len: u32| segment.resident(from, len, &SeenResident::default()).is_some();
        assert!(!given(10 * PAGE + 48, 5));
        assert!(given(10 * PAGE + 48, large / 2 + 4), "half of it: the proof costs no more than twice the copy");
        assert_eq!(segment.read_blocking(10 * PAGE + large, 8).unwrap()[..], [10; 8]);
    }
}
