//! The table of segments a view can read from: what turns a place into bytes. An immutable list; the writer makes a
//! new one when a segment comes, goes or leaves memory, which is seldom.

use std::{io, sync::Arc};

use bytes::Bytes;

use super::{
    bulk,
    doubts::Doubts,
    segment::{SeenResident, Segment},
    window::Window,
};
use crate::{
    limits::{READ_AHEAD_BYTES, READ_AHEAD_SHARE},
    store::types::{Place, Values},
};

/// The window of a segment that a place begins in.
fn window_of(place: Place) -> (u32, u32) {
    (place.segment, place.offset / READ_AHEAD_BYTES)
}

/// All live segments in order of life. Cloning is O(1); holding one pins its segments.
#[derive(Clone, Debug, Default)]
pub struct SegmentTable {
    segments: Arc<Vec<Arc<Segment>>>,
    doubts: Arc<Doubts>,
}

impl SegmentTable {
    /// A segment by its life number.
    #[inline]
    pub fn get(&self, life: u32) -> Option<&Arc<Segment>> {
        // Without gaps the place follows from the number; repacking leaves gaps.
        let first = self.segments.first()?.life();
        let straight = life.checked_sub(first)? as usize;
        match self.segments.get(straight) {
            Some(segment) if segment.life() == life => Some(segment),
            _ => self.segments.binary_search_by_key(&life, |segment| segment.life()).ok().map(|at| &self.segments[at]),
        }
    }

    /// In order of life.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Segment>> {
        self.segments.iter()
    }

    /// Segments in which reads through this table, or any other of the log, have met what is not what was written.
    pub fn doubts(&self) -> &Arc<Doubts> {
        &self.doubts
    }

    pub fn len(&self) -> usize {
        self.segments.len()
    }

    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// The bytes of a place, if reading them cannot stall: in memory of our own, or in pages known to be resident. For
    /// more than one place make a `reader`.
    pub fn resident(&self, place: Place) -> Option<&[u8]> {
        self.reader().get(place)
    }

    /// A reader for the values of one answer: it remembers which pages it has asked the kernel about. Make one for
    /// each answer, never keep it.
    pub fn reader(&self) -> Resident<'_> {
        Resident { table: self, seen: SeenResident::default() }
    }

    /// The bytes of a place, out of a window that is read if it has to be: for values in order of place that lie close to each
    /// other. Blocks. None where it has to be read alone.
    pub fn read_in<'w>(&'w self, place: Place, window: &'w mut Window) -> Option<&'w [u8]> {
        match place.len {
            0 => Some(&[]),
            len => self.get(place.segment)?.read_in(place.offset, len, window),
        }
    }

    /// Has the kernel begin to read what these places lie in, in order of place, so that reading them one after another
    /// waits for few of them. May block, waits for none.
    pub fn will_need(&self, places: &[Place]) {
        for in_window in places.chunk_by(|a, b| window_of(*a) == window_of(*b)) {
            let (Some(segment), last) = (self.get(in_window[0].segment), in_window[in_window.len() - 1]) else {
                continue;
            };
            let wanted: u64 = in_window.iter().map(|place| u64::from(place.len)).sum();
            if wanted * READ_AHEAD_SHARE >= u64::from(READ_AHEAD_BYTES) {
                let from = in_window[0].offset / READ_AHEAD_BYTES * READ_AHEAD_BYTES;
                segment.will_need(from, (last.offset + last.len).next_multiple_of(READ_AHEAD_BYTES) - from);
            } else {
                in_window.iter().for_each(|place| segment.will_need(place.offset, place.len));
            }
        }
    }

    /// Gives back what reading a segment's values has taken of the process's memory. Those who still read from it find
    /// the same bytes.
    pub fn release(&self, life: u32) {
        if let Some(segment) = self.get(life) {
            segment.release();
        }
    }

    /// Segments that lie in memory, by life in ascending order, for tests of what reads them.
    #[cfg(test)]
    pub fn in_memory(segments: impl IntoIterator<Item = (u32, Bytes)>) -> Self {
        use super::record::{FORMAT_VERSION, SegmentHeader};

        let mut segments: Vec<(u32, Bytes)> = segments.into_iter().collect();
        segments.sort_by_key(|(life, _)| *life);
        let mut table = SegmentTable::default();
        for (life, bytes) in segments {
            let mut filler = super::memory::Memory::map(bytes.len().max(1) as u32).expect("memory is to be had");
            filler.append(&[&bytes]);
            let size = bytes.len() as u32;
            let header = SegmentHeader { version: FORMAT_VERSION, life, size, salt: 0, cluster_id: 0, member_id: 0 };
            table.push(Arc::new(Segment::in_memory(std::path::Path::new(""), &header, filler.memory().clone())));
        }
        table
    }

    /// The same segments as if none of their bytes were resident.
    #[cfg(test)]
    pub fn into_cold(self) -> Self {
        let cold = self.segments.iter().map(|segment| Arc::new(segment.cold())).collect();
        SegmentTable { segments: Arc::new(cold), ..self }
    }

    pub(super) fn push(&mut self, segment: Arc<Segment>) {
        let segments = Arc::make_mut(&mut self.segments);
        assert!(segments.last().is_none_or(|last| last.life() < segment.life()), "segments come in order of life");
        segments.push(segment);
    }

    pub(super) fn replace(&mut self, segment: Arc<Segment>) {
        let segments = Arc::make_mut(&mut self.segments);
        let at = segments.binary_search_by_key(&segment.life(), |it| it.life()).expect("replaces one that is there");
        segments[at] = segment;
    }

    pub(super) fn remove(&mut self, life: u32) -> Option<Arc<Segment>> {
        let at = self.segments.binary_search_by_key(&life, |segment| segment.life()).ok()?;
        Some(Arc::make_mut(&mut self.segments).remove(at))
    }
}

/// Reads places without stalling, for as long as one answer is encoded.
pub struct Resident<'a> {
    table: &'a SegmentTable,
    seen: SeenResident,
}

impl<'a> Resident<'a> {
    /// As `SegmentTable::resident`.
    #[inline]
    pub fn get(&self, place: Place) -> Option<&'a [u8]> {
        if place.len == 0 {
            return Some(&[]);
        }
        self.table.get(place.segment)?.resident(place.offset, place.len, &self.seen)
    }
}

impl SegmentTable {
    /// The segment that a place lies in.
    fn holder(&self, place: Place) -> io::Result<&Arc<Segment>> {
        self.get(place.segment).ok_or_else(|| {
            let message = format!("segment {:08x} of the log is gone, and a value in it was asked for", place.segment);
            io::Error::new(io::ErrorKind::NotFound, message)
        })
    }

    /// Reads from the segment of a place, and tells of it if there is damage.
    fn read_from(&self, place: Place, read: impl FnOnce(&Segment) -> io::Result<Bytes>) -> io::Result<Bytes> {
        let segment = self.holder(place)?;
        read(segment).inspect_err(|cause| {
            if cause.kind() == io::ErrorKind::InvalidData || bulk::is_lost(cause) {
                self.doubts.tell(segment.life());
            }
        })
    }
}

impl Values for SegmentTable {
    fn read(&self, place: Place) -> io::Result<Bytes> {
        match place.len {
            0 => Ok(Bytes::new()),
            len => self.read_from(place, |segment| segment.read_blocking(place.offset, len)),
        }
    }

    fn entry(&self, place: Place, index: u64) -> io::Result<Bytes> {
        match place.len {
            0 => Ok(Bytes::new()),
            len => self.read_from(place, |segment| segment.entry_blocking(place.offset, len, index)),
        }
    }
}
