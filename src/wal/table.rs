//! The table of segments a view can read from.

use std::io;

use bytes::Bytes;

use crate::store::types::{Place, Values};

/// An immutable list of segments. Cloning is O(1); holding one pins its segments.
#[derive(Clone, Debug, Default)]
pub struct SegmentTable {
    #[cfg(test)]
    memory: std::sync::Arc<std::collections::HashMap<u32, Bytes>>,
}

impl SegmentTable {
    /// The bytes of a place, if reading them cannot stall: in memory of our own, or in a page known to be resident.
    pub fn resident(&self, _place: Place) -> Option<&[u8]> {
        #[cfg(test)]
        if let Some(segment) = self.memory.get(&_place.segment) {
            return Some(&segment[_place.offset as usize..][.._place.len as usize]);
        }
        None
    }

    /// Segments that lie in memory, for tests of what reads them.
    #[cfg(test)]
    pub fn in_memory(segments: impl IntoIterator<Item = (u32, Bytes)>) -> Self {
        SegmentTable { memory: std::sync::Arc::new(segments.into_iter().collect()) }
    }
}

impl Values for SegmentTable {
    fn read(&self, _place: Place) -> io::Result<Bytes> {
        #[cfg(test)]
        if let Some(bytes) = self.resident(_place) {
            return Ok(Bytes::copy_from_slice(bytes));
        }
        Err(io::ErrorKind::Unsupported.into())
    }
}
