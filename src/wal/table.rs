//! The table of segments a view can read from.

use std::io;

use bytes::Bytes;

use crate::store::types::{Place, Values};

/// An immutable list of segments. Cloning is O(1); holding one pins its segments.
#[derive(Clone, Debug, Default)]
pub struct SegmentTable {}

impl SegmentTable {
    /// The bytes of a place, if reading them cannot stall: in memory of our own, or in a page known to be resident.
    pub fn resident(&self, _place: Place) -> Option<&[u8]> {
        None
    }
}

impl Values for SegmentTable {
    fn read(&self, _place: Place) -> io::Result<Bytes> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
