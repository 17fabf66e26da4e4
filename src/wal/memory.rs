//! A segment's bytes in memory: an anonymous mapping that one writer fills from the front while readers on any core
//! read what lies behind it. The first of the room's two `unsafe` modules.
//!
//! Why it is sound: bytes below `written` are never written again, bytes from `written` on are never read except
//! through `Memory::get`, which does not pass `written`; only a `Filler` writes, there is one per mapping, and it is
//! neither `Clone` nor shared (`&mut self`). `written` is stored with Release after the bytes and loaded with
//! Acquire before they are read, so a reader sees what it is let at.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use memmap2::{MmapMut, MmapOptions};

/// The readers' side.
pub(super) struct Memory {
    /// Owns the mapping; touched through `base` only, so that no reference to the whole of it ever exists.
    map: MmapMut,
    base: *mut u8,
    size: u32,
    written: AtomicU32,
}

// SAFETY: the mapping is memory of the process, tied to no thread; see the module's argument for sharing.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

/// The right to fill one mapping.
pub(super) struct Filler(Arc<Memory>);

impl Memory {
    /// A mapping of zeros, page-aligned; pages cost memory once they are written.
    pub fn map(size: u32) -> io::Result<Filler> {
        let mut map = MmapOptions::new().len(size as usize).map_anon()?;
        let base = map.as_mut_ptr();
        Ok(Filler(Arc::new(Memory { map, base, size, written: AtomicU32::new(0) })))
    }

    /// The same for a segment that is likely to be filled soon: in large pages, where the system has them, so that filling it does
    /// not stop at each of 4 KiB.
    pub fn map_large(size: u32) -> io::Result<Filler> {
        let filler = Memory::map(size)?;
        // Advice: where it is not taken, pages are small.
        let _ = filler.0.map.advise(memmap2::Advice::HugePage);
        Ok(filler)
    }

    pub fn written(&self) -> u32 {
        self.written.load(Ordering::Acquire)
    }

    /// Bytes `offset..offset + len`, if they have all been written.
    #[inline]
    pub fn get(&self, offset: u32, len: u32) -> Option<&[u8]> {
        let end = offset.checked_add(len)?;
        if end > self.written.load(Ordering::Acquire) {
            return None;
        }
        // SAFETY: `end <= written <= size`, so the range lies in the mapping, which lives as long as `self`; bytes
        // below `written` are initialized (zero at first) and no longer written.
        Some(unsafe { std::slice::from_raw_parts(self.base.add(offset as usize), len as usize) })
    }
}

impl Filler {
    pub fn memory(&self) -> &Arc<Memory> {
        &self.0
    }

    pub fn written(&self) -> u32 {
        // Only this writes it.
        self.0.written.load(Ordering::Relaxed)
    }

    /// Puts `parts` at the end of what is written, one after another.
    ///
    /// # Panics
    /// If they do not fit.
    pub fn append(&mut self, parts: &[&[u8]]) {
        let mut at = self.written();
        for part in parts {
            let room = (self.0.size - at) as usize;
            assert!(part.len() <= room, "{} bytes do not fit the {room} left in a segment", part.len());
            // SAFETY: the target lies in the mapping and at or above `written`, where nobody reads and only this,
            // the one `Filler`, writes; `part` cannot overlap it, as references reach only below `written`.
            unsafe { std::ptr::copy_nonoverlapping(part.as_ptr(), self.0.base.add(at as usize), part.len()) };
            at += part.len() as u32;
        }
        self.0.written.store(at, Ordering::Release);
    }

    /// Declares bytes up to `offset` written; those that were not are zeros.
    pub fn skip_to(&mut self, offset: u32) {
        assert!(self.written() <= offset && offset <= self.0.size, "a segment is written forwards");
        self.0.written.store(offset, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_see_what_is_written_and_no_more() {
        let mut filler = Memory::map(8192).unwrap();
        let memory = filler.memory().clone();
        assert_eq!(memory.get(0, 1), None);
        filler.append(&[b"ab", b"", b"c"]);
        let held = memory.get(1, 2).unwrap();
        filler.append(&[b"d"]);
        assert_eq!(held, b"bc");
        assert_eq!(memory.get(0, 5), None);
        filler.skip_to(8192);
        assert_eq!(memory.get(3, 2).unwrap(), b"d\0");
        assert_eq!(memory.get(8191, 2), None);
        assert_eq!(memory.get(u32::MAX, 2), None);
    }

    #[test]
    fn a_reader_on_another_core_follows_the_writer() {
        let mut filler = Memory::map(64 * 1024).unwrap();
        let memory = filler.memory().clone();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for at in 0..64 * 1024u32 {
                    loop {
                        if let Some(byte) = memory.get(at, 1) {
                            assert_eq!(byte[0], at as u8);
                            break;
                        }
                        std::thread::yield_now();
                    }
                }
            });
            for at in 0..64 * 1024u32 {
                filler.append(&[&[at as u8]]);
            }
        });
    }

    #[test]
    #[should_panic(expected = "do not fit")]
    fn what_does_not_fit_is_not_written() {
        let mut filler = Memory::map(4096).unwrap();
        filler.append(&[&[0; 4097]]);
    }
}
