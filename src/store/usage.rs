//! How many bytes of each segment retained events point at. The log's space is told and given back by this.

use super::types::Place;

/// One segment's share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentUse {
    pub segment: u32,
    /// Bytes of values; one shared by several events (ignore_value) counts for each.
    pub live_bytes: u64,
    /// How many events that is.
    pub values: u64,
    /// Main revisions of the events that point here lie between these; the bounds may be too wide, never too narrow.
    pub oldest: i64,
    pub newest: i64,
}

/// All segments that retained events point into, by segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    segments: Vec<SegmentUse>,
    live_bytes: u64,
}

impl Usage {
    /// Put together again from a checkpoint, in order of segment.
    pub(super) fn from_parts(segments: Vec<SegmentUse>) -> Self {
        let live_bytes = segments.iter().map(|it| it.live_bytes).sum();
        Usage { segments, live_bytes }
    }

    pub fn add(&mut self, place: Place, main: i64) {
        let bytes = u64::from(place.len);
        self.live_bytes += bytes;
        // Nearly always the newest segment, the last one.
        match self.segments.binary_search_by_key(&place.segment, |it| it.segment) {
            Ok(at) => {
                let it = &mut self.segments[at];
                it.live_bytes += bytes;
                it.values += 1;
                it.oldest = it.oldest.min(main);
                it.newest = it.newest.max(main);
            }
            Err(at) => {
                let one =
                    SegmentUse { segment: place.segment, live_bytes: bytes, values: 1, oldest: main, newest: main };
                self.segments.insert(at, one);
            }
        }
    }

    /// # Panics
    /// If nothing was added for the place's segment.
    pub fn remove(&mut self, place: Place) {
        let bytes = u64::from(place.len);
        let at = self
            .segments
            .binary_search_by_key(&place.segment, |it| it.segment)
            .expect("a place is taken away from a segment in use");
        self.live_bytes -= bytes;
        self.segments[at].live_bytes -= bytes;
        self.segments[at].values -= 1;
        if self.segments[at].values == 0 {
            self.segments.remove(at);
        }
    }

    pub fn of(&self, segment: u32) -> Option<SegmentUse> {
        self.segments.binary_search_by_key(&segment, |it| it.segment).ok().map(|at| self.segments[at])
    }

    pub fn segments(&self) -> &[SegmentUse] {
        &self.segments
    }

    pub fn live_bytes(&self) -> u64 {
        self.live_bytes
    }
}
