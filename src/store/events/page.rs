//! A page: events one after another in one blob, and where each begins.
//! An entry is the main revision's distance to the page's base with a flag for a sub-revision, that if there is one, and
//! the event as `codec::put_event` spells it.

use super::super::{
    codec::{self, EventRef, Reader},
    types::Revision,
};

/// A page takes no further event that would make it larger than this: about 64 usual ones, so that a lone caller's put,
/// which copies the newest page, copies half of this.
pub(super) const PAGE_BYTES: usize = 3072;

#[derive(Clone, Default)]
pub(super) struct Page {
    /// No main revision is below it.
    base: i64,
    /// An event begins below `PAGE_BYTES`, however long it is.
    starts: Vec<u16>,
    bytes: Vec<u8>,
}

impl Page {
    pub fn len(&self) -> usize {
        self.starts.len()
    }

    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// A copy with room to grow to full size.
    pub fn growing(&self) -> Page {
        let mut bytes = Vec::with_capacity(PAGE_BYTES.max(self.bytes.len()));
        bytes.extend_from_slice(&self.bytes);
        let mut starts = Vec::with_capacity(self.starts.len() + 16);
        starts.extend_from_slice(&self.starts);
        Page { base: self.base, starts, bytes }
    }

    pub fn shrink(&mut self) {
        self.starts.shrink_to_fit();
        self.bytes.shrink_to_fit();
    }

    fn span(&self, at: usize) -> (usize, usize) {
        let end = self.starts.get(at + 1).map_or(self.bytes.len(), |start| usize::from(*start));
        (usize::from(self.starts[at]), end)
    }

    /// An event's revision, and the event as the codec spells it.
    #[inline]
    pub fn entry(&self, at: usize) -> (Revision, &[u8]) {
        let (from, to) = self.span(at);
        let mut reader = Reader(&self.bytes[from..to]);
        let revision = self.revision_in(&mut reader);
        (revision, reader.0)
    }

    #[inline]
    fn revision_in(&self, reader: &mut Reader<'_>) -> Revision {
        let head = reader.varint();
        let sub = if head & 1 != 0 { reader.varint() as i64 } else { 0 };
        Revision { main: self.base + (head >> 1) as i64, sub }
    }

    #[inline]
    pub fn revision(&self, at: usize) -> Revision {
        self.revision_in(&mut Reader(&self.bytes[usize::from(self.starts[at])..]))
    }

    #[inline]
    pub fn event(&self, at: usize) -> EventRef<'_> {
        let (revision, bytes) = self.entry(at);
        codec::event(revision, bytes)
    }

    /// Where the event is, or where it would be.
    pub fn find(&self, revision: Revision) -> Result<usize, usize> {
        // Where each revision has one event and none has gone, which is usual, it is found at once.
        let (mut low, mut high) = (0, self.len());
        let guess = usize::try_from(revision.main - self.base).unwrap_or(0);
        let mut middle = if guess < high { guess } else { high / 2 };
        while low < high {
            match self.revision(middle).cmp(&revision) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Equal => return Ok(middle),
                std::cmp::Ordering::Greater => high = middle,
            }
            middle = (low + high) / 2;
        }
        Err(low)
    }

    /// Whether an event of so many bytes may be added.
    pub fn has_room_for(&self, bytes: usize) -> bool {
        self.bytes.is_empty() || self.bytes.len() + bytes <= PAGE_BYTES
    }

    fn begin(&mut self, revision: Revision) {
        if self.starts.is_empty() {
            self.base = revision.main;
        }
        self.starts.push(u16::try_from(self.bytes.len()).expect("a full page takes no further event"));
        let head = ((revision.main - self.base) as u64) << 1 | u64::from(revision.sub != 0);
        codec::put_varint(&mut self.bytes, head);
        if revision.sub != 0 {
            codec::put_varint(&mut self.bytes, revision.sub as u64);
        }
    }

    /// Adds an event behind the last one.
    pub fn push(&mut self, event: &EventRef<'_>) {
        self.begin(event.meta.revision);
        codec::put_event(&mut self.bytes, event);
    }

    /// Adds an event by its spelling.
    pub fn push_spelled(&mut self, revision: Revision, key: &[u8], rest: [&[u8]; 2]) {
        self.begin(revision);
        codec::put_with_key(&mut self.bytes, key, rest);
    }

    /// Puts another event of the same revision in an event's place.
    pub fn replace(&mut self, at: usize, event: &EventRef<'_>) {
        debug_assert_eq!(self.revision(at), event.meta.revision);
        let to = self.span(at).1;
        let from = to - self.entry(at).1.len();
        let mut new = Vec::with_capacity(to - from + 8);
        codec::put_event(&mut new, event);
        if new.len() == to - from {
            self.bytes[from..to].copy_from_slice(&new);
            return;
        }
        let grown = new.len() as isize - (to - from) as isize;
        self.bytes.splice(from..to, new);
        for start in &mut self.starts[at + 1..] {
            // The same key with other numbers: some bytes more at most, where the largest start is `PAGE_BYTES`.
            *start = u16::try_from(*start as isize + grown).expect("a page is far from 64 KiB");
        }
    }

    /// The page without those events that `goes` names by their place; in memory of just its size.
    pub fn without(&self, mut goes: impl FnMut(usize) -> bool) -> Page {
        let mut rest = Page { bytes: Vec::with_capacity(self.bytes.len()), ..Page::default() };
        for at in (0..self.len()).filter(|at| !goes(*at)) {
            rest.push_entry(self.entry(at));
        }
        rest.shrink();
        rest
    }

    fn push_entry(&mut self, (revision, bytes): (Revision, &[u8])) {
        self.begin(revision);
        self.bytes.extend_from_slice(bytes);
    }

    /// Both pages' events in one.
    pub fn joined(&self, right: &Page) -> Page {
        let mut joined = self.clone();
        // 5: what a distance to the base may take more than before.
        joined.bytes.reserve(right.bytes.len() + 5 * right.len());
        for at in 0..right.len() {
            joined.push_entry(right.entry(at));
        }
        joined.shrink();
        joined
    }
}
