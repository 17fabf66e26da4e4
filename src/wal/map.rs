//! A sealed segment's file as memory, for pages that the kernel already holds. The second of the room's `unsafe`
//! modules. A page that is not resident is never touched: it would stall the core, and an error of the disk would be
//! a signal instead of an error.

use std::{fs::File, io, os::fd::AsRawFd};

use memmap2::Mmap;

use crate::limits::{LOG_BLOCK_BYTES, RESIDENT_WINDOW_PAGES};

const PAGE: usize = LOG_BLOCK_BYTES as usize;

/// Has the kernel read of a file what is asked for and no more. What it would read ahead is up to megabytes at once, as
/// long as the device has it set, and a write of the log that comes behind waits for all of it.
pub(super) fn read_only_what_is_asked(file: &File) {
    // SAFETY: touches no memory. It is advice: where it is not taken, reads are as right as before.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_RANDOM) };
}

/// A read-only map of a whole file.
pub(super) struct Map {
    map: Mmap,
    /// Bytes of the kernel's pages: 4 KiB or a multiple.
    kernel_page: usize,
}

impl Map {
    /// Maps a sealed segment. The file must not change or shrink while the map lives: a segment's file is recycled only
    /// when nobody holds the segment, and the directory is locked against other processes.
    pub fn new(file: &File) -> io::Result<Map> {
        // SAFETY: by the condition above, which `disk::recycle` upholds, the bytes stay as they are.
        let map = unsafe { Mmap::map(file)? };
        // Values are read one here, one there; reading ahead is the caller's business.
        map.advise(memmap2::Advice::Random)?;
        // SAFETY: asks for a constant of the system, touches no memory.
        let kernel_page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        Ok(Map { map, kernel_page: usize::try_from(kernel_page).unwrap_or(PAGE).max(PAGE) })
    }

    pub fn get(&self, offset: usize, len: usize) -> Option<&[u8]> {
        self.map.get(offset..offset.checked_add(len)?)
    }

    /// Has the kernel begin to read these bytes, without waiting for them. For threads that may block: where the device's
    /// queue is full this waits.
    pub fn will_need(&self, offset: usize, len: usize) {
        let len = len.min(self.map.len().saturating_sub(offset));
        if len > 0 {
            // Only advice: where the kernel does not take it, the reads themselves bring the bytes.
            let _ = self.map.advise_range(memmap2::Advice::WillNeed, offset, len);
        }
    }

    /// Takes the map's pages out of the process's memory; they stay in the kernel's.
    pub fn release(&self) {
        // SAFETY: a shared, read-only map of a file that does not change: who touches a page again finds the same bytes.
        let _ = unsafe { self.map.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
    }

    /// Which pages of 4 KiB of window `window` (64 of them each) are resident, a bit each.
    pub fn resident(&self, window: usize) -> u64 {
        let from = window * RESIDENT_WINDOW_PAGES * PAGE;
        if from >= self.map.len() {
            return 0;
        }
        let len = (self.map.len() - from).min(RESIDENT_WINDOW_PAGES * PAGE);
        let mut pages = [0u8; RESIDENT_WINDOW_PAGES];
        // SAFETY: `from..from + len` lies in the map and `from` is a multiple of the page size; the kernel writes one
        // byte for each page begun, at most 64 as its pages are not smaller than 4 KiB.
        let done =
            unsafe { libc::mincore(self.map.as_ptr().add(from).cast_mut().cast(), len, pages.as_mut_ptr().cast()) };
        if done != 0 {
            return 0;
        }
        let page_count = len.div_ceil(PAGE);
        let resident = |at: &usize| pages[at * PAGE / self.kernel_page] & 1 != 0;
        (0..page_count).filter(resident).fold(0, |bits, at| bits | 1 << at)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn pages_that_were_never_read_are_not_resident() {
        // A hole is in no page cache, whatever the file system.
        let file = tempfile::tempfile().unwrap();
        let pages = RESIDENT_WINDOW_PAGES + 10;
        file.set_len((pages * PAGE) as u64).unwrap();
        let map = Map::new(&file).unwrap();
        assert_eq!((map.resident(0), map.resident(1), map.resident(2)), (0, 0, 0));
        if map.kernel_page == PAGE {
            for page in [3, 63, 64, 73] {
                file.write_all_at(b"x", (page * PAGE) as u64).unwrap();
            }
            assert_eq!((map.resident(0), map.resident(1)), (1 << 3 | 1 << 63, 1 | 1 << 9));
        }
        assert_eq!(map.get(3 * PAGE, 2).unwrap(), b"x\0");
        assert_eq!(map.get(pages * PAGE - 1, 2), None);
        assert_eq!(map.get(usize::MAX, 2), None);
    }
}
