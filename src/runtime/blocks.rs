//! Memory that a device can read: whole blocks at addresses that are multiples of their size, kept for the next write
//! when one is over. It knows nothing of files.

use std::cell::RefCell;

use crate::limits::{self, DISK_BLOCK_BYTES};

#[derive(Clone, Copy)]
#[repr(C, align(4096))]
struct Block([u8; DISK_BLOCK_BYTES]);

const _: () = assert!(align_of::<Block>() == DISK_BLOCK_BYTES && size_of::<Block>() == DISK_BLOCK_BYTES);

/// Some blocks in a row.
pub struct Blocks(Vec<Block>);

thread_local! {
    /// The last one given back on this executor: one write is under way at a time, mostly.
    static SPARE: RefCell<Vec<Block>> = const { RefCell::new(Vec::new()) };
}

impl Blocks {
    /// A copy of bytes, which are a multiple of DISK_BLOCK_BYTES.
    pub fn of(bytes: &[u8]) -> Self {
        let (whole, rest) = bytes.as_chunks::<DISK_BLOCK_BYTES>();
        assert!(rest.is_empty(), "whole blocks are written");
        let mut blocks = SPARE.take();
        blocks.clear();
        blocks.extend(whole.iter().map(|block| Block(*block)));
        Blocks(blocks)
    }

    pub fn as_ptr(&self) -> *const u8 {
        self.0.as_ptr().cast()
    }

    pub fn len_bytes(&self) -> usize {
        self.0.len() * DISK_BLOCK_BYTES
    }

    /// Gives the memory back for the next write, unless it is much.
    pub fn give_back(self) {
        if self.0.capacity() * DISK_BLOCK_BYTES <= limits::WRITE_MEMORY_BYTES_KEPT {
            SPARE.set(self.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_lie_where_a_device_can_read_them() {
        let bytes: Vec<u8> = (0..3 * DISK_BLOCK_BYTES).map(|index| (index % 251) as u8).collect();
        for len in [1, 3, 2] {
            let blocks = Blocks::of(&bytes[..len * DISK_BLOCK_BYTES]);
            assert_eq!(blocks.as_ptr().addr() % DISK_BLOCK_BYTES, 0);
            assert_eq!(blocks.len_bytes(), len * DISK_BLOCK_BYTES);
            assert!(blocks.0.iter().flat_map(|block| block.0).eq(bytes[..len * DISK_BLOCK_BYTES].iter().copied()));
            blocks.give_back();
        }
    }
}
