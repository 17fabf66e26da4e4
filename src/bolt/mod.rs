//! The file format of bbolt, etcd's database: what a snapshot is made of, and what one is read from. A plain codec: it
//! names no file and no socket. `write` lays a database out from sizes alone and then makes its pages in order, so that
//! one of any size is a stream; `read` takes every valid file, and refuses a damaged one by page; `arriving` takes one apart
//! while it comes, if its sender says where in it the bucket lies that most of it is.
//!
//! A file is pages of one size. Pages 0 and 1 say where everything begins (`Meta`); of the two, the valid one with the
//! higher transaction counts. A bucket is a B+tree of leaf and branch pages. The root bucket's entries are the other
//! buckets: by the page their tree begins with, or, if they are small, with their one page as the value itself. (bbolt 1.5:
//! internal/common.)

pub mod arriving;
pub mod read;
pub mod write;

#[cfg(test)]
mod tests;

/// The page size of what is written; etcd's on machines with pages of 4 KiB.
pub const PAGE_BYTES: usize = 4096;

/// Bytes of a page before its elements: id 8, flags 2, count 2, further pages 4.
const PAGE_HEAD_BYTES: usize = 16;

/// Bytes of an element of a leaf (flags, place, length of key, length of value) or a branch (place, length of key, page).
const ELEMENT_BYTES: usize = 16;

/// Bytes of a bucket's head as a value: the first page of its tree 8, a counter 8.
const BUCKET_HEAD_BYTES: usize = 16;

const MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;

const BRANCH_PAGE: u16 = 0x01;
const LEAF_PAGE: u16 = 0x02;
const META_PAGE: u16 = 0x04;
const FREELIST_PAGE: u16 = 0x10;

/// The flag of a leaf's element whose value is a bucket.
const BUCKET_ELEMENT: u32 = 0x01;

/// In place of the freelist's page where a file keeps none.
const NO_FREELIST: u64 = u64::MAX;

/// A page's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct PageHead {
    id: u64,
    flags: u16,
    count: u16,
    /// Pages that belong to this one and follow it.
    overflow: u32,
}

impl PageHead {
    fn encode(&self) -> [u8; PAGE_HEAD_BYTES] {
        let mut bytes = [0; PAGE_HEAD_BYTES];
        bytes[..8].copy_from_slice(&self.id.to_le_bytes());
        bytes[8..10].copy_from_slice(&self.flags.to_le_bytes());
        bytes[10..12].copy_from_slice(&self.count.to_le_bytes());
        bytes[12..].copy_from_slice(&self.overflow.to_le_bytes());
        bytes
    }

    /// None if the bytes are fewer than a head takes.
    fn decode(bytes: &[u8]) -> Option<PageHead> {
        let bytes = bytes.first_chunk::<PAGE_HEAD_BYTES>()?;
        Some(PageHead {
            id: u64_at(bytes, 0)?,
            flags: u16::from_le_bytes([bytes[8], bytes[9]]),
            count: u16::from_le_bytes([bytes[10], bytes[11]]),
            overflow: u32_at(bytes, 12)?,
        })
    }
}

/// Where everything in a file begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    pub page_bytes: u32,
    /// The page that the tree of buckets begins with.
    pub root: u64,
    /// None: the file keeps no list of its free pages.
    pub freelist: Option<u64>,
    /// Pages in use lie below this.
    pub pages: u64,
    /// Of the two in a file, the higher counts.
    pub transaction: u64,
}

const META_BYTES: usize = 64;

impl Meta {
    fn encode(&self) -> [u8; META_BYTES] {
        let mut bytes = [0; META_BYTES];
        bytes[..4].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[4..8].copy_from_slice(&VERSION.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.page_bytes.to_le_bytes());
        // 12..16: flags, none. 24..32: the root bucket's counter, which nobody uses.
        bytes[16..24].copy_from_slice(&self.root.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.freelist.unwrap_or(NO_FREELIST).to_le_bytes());
        bytes[40..48].copy_from_slice(&self.pages.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.transaction.to_le_bytes());
        let sum = fnv64a(&bytes[..56]);
        bytes[56..].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// None if the bytes, those behind a page's head, are no sound meta.
    fn decode(bytes: &[u8]) -> Option<Meta> {
        let bytes = bytes.first_chunk::<META_BYTES>()?;
        let sound = u32_at(bytes, 0)? == MAGIC && u32_at(bytes, 4)? == VERSION;
        if !sound || u64_at(bytes, 56)? != fnv64a(&bytes[..56]) {
            return None;
        }
        let freelist = u64_at(bytes, 32)?;
        Some(Meta {
            page_bytes: u32_at(bytes, 8)?,
            root: u64_at(bytes, 16)?,
            freelist: (freelist != NO_FREELIST).then_some(freelist),
            pages: u64_at(bytes, 40)?,
            transaction: u64_at(bytes, 48)?,
        })
    }
}

/// FNV-1a of 64 bits. (Fowler, Noll, Vo; RFC 9923.)
fn fnv64a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}
