//! The table of segments a view can read from.

use std::io;

use bytes::Bytes;

use crate::store::types::{Place, Values};

/// An immutable list of segments. Cloning is O(1); holding one pins its segments.
#[derive(Clone, Debug, Default)]
pub struct SegmentTable {
    #[cfg(test)]
    memory: std::sync::Arc<std::collections::HashMap<u32, Bytes>>,
    #[cfg(test)]
    cold: bool,
}

impl SegmentTable {
    /// The bytes of a place, if reading them cannot stall: in memory of our own, or in a page known to be resident.
    pub fn resident(&self, _place: Place) -> Option<&[u8]> {
        #[cfg(test)]
        if !self.cold {
            return self.bytes(_place);
        }
        None
    }

    #[cfg(test)]
    fn bytes(&self, place: Place) -> Option<&[u8]> {
        let segment = self.memory.get(&place.segment)?;
        Some(&segment[place.offset as usize..][..place.len as usize])
    }

    /// The same segments as if their bytes had yet to be read.
    #[cfg(test)]
    pub fn into_cold(self) -> Self {
        SegmentTable { cold: true, ..self }
    }

    /// Segments that lie in memory, for tests of what reads them.
    #[cfg(test)]
    pub fn in_memory(segments: impl IntoIterator<Item = (u32, Bytes)>) -> Self {
        SegmentTable { memory: std::sync::Arc::new(segments.into_iter().collect()), cold: false }
    }
}

impl Values for SegmentTable {
    fn read(&self, _place: Place) -> io::Result<Bytes> {
        #[cfg(test)]
        if let Some(bytes) = self.bytes(_place) {
            return Ok(Bytes::copy_from_slice(bytes));
        }
        Err(io::ErrorKind::Unsupported.into())
    }
}
