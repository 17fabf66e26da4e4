//! Brings watches that are behind up to the present from the event index, a slice at a time: at most 1000 revisions and
//! a bounded number of bytes in a response, then it is the next watch's turn. Waits for nothing: where values are not in
//! memory it says which.
//!
//! A watch is live again when it has been given everything up to a revision that the table has not gone beyond; events
//! that the index already had and the table will deliver yet lie below its position and pass it over. So nothing is
//! given twice and nothing is left out, whichever is ahead.

use bytes::Bytes;
use smallvec::SmallVec;

use super::{
    Resident,
    encode::{Reply, Writer},
    groups::NONE,
    table::{Bounds, Standing, StreamId, Table, flags},
};
use crate::store::{
    codec::EventRef,
    index::Index,
    types::{KeyRange, Place, Revision},
};

/// What has come of a slice.
#[derive(Debug)]
pub enum Slice {
    /// No watch of the stream is behind, or the stream takes nothing now.
    Idle,
    /// Something was done and there may be more.
    Some,
    /// A response is ready but for values that have to be read; then `Table::settle` is given it.
    Read(Box<Batch>),
}

/// The events that a watch is to be given next.
#[derive(Debug)]
pub struct Batch {
    stream: u32,
    watch: u32,
    id: i64,
    /// The position it goes on from.
    from: i64,
    /// The position after it.
    next: i64,
    /// The store's revision when it was made.
    revision: i64,
    writer: Writer,
    looked_at: usize,
}

impl Batch {
    /// Where the values lie that are missing, in order.
    pub fn missing(&self) -> Vec<Place> {
        self.writer.holes.iter().map(|(_, place)| *place).collect()
    }

    pub fn fill(&mut self, values: &[Bytes]) {
        self.writer.fill(values);
    }
}

impl Table {
    /// Whether a slice for this stream would do something.
    pub fn has_slice(&self, stream: StreamId) -> bool {
        let stream = &self.streams[stream.0 as usize];
        stream.behind_first != NONE && self.settings.bounds.admit(stream, self.queued)
    }

    /// Does one slice of a stream's catching up, from a published state at or beyond what the table has delivered.
    pub fn catch_up(&mut self, stream: StreamId, index: &Index, values: &dyn Resident, term: u64) -> Slice {
        debug_assert!(index.current() >= self.revision, "a state is published before its events are delivered");
        let bounds = self.settings.bounds;
        let mut looked_at = 0;
        let mut slice = Slice::Idle;
        for _ in 0..bounds.slice_watches {
            if looked_at >= bounds.slice_events || !self.has_slice(stream) {
                break;
            }
            slice = Slice::Some;
            let at = self.streams[stream.0 as usize].behind_first;
            let watch = &self.watches[at as usize];
            if watch.position < index.compacted() {
                self.overtaken(at, index.compacted(), term);
                continue;
            }
            let mut batch = Batch {
                stream: stream.0,
                watch: at,
                id: watch.id,
                from: watch.position,
                next: index.current() + 1,
                revision: index.current(),
                writer: Writer::default(),
                looked_at: 0,
            };
            let in_fragments = watch.flags & flags::FRAGMENT != 0;
            let bounds = Bounds { response_bytes: self.settings.catch_up_bytes(in_fragments, self.queued), ..bounds };
            batch.gather(index, self.groups.range(watch.group), watch.flags, values, &bounds);
            looked_at += 1 + batch.looked_at;
            if !batch.writer.holes.is_empty() {
                return Slice::Read(Box::new(batch));
            }
            self.settle(batch, term);
        }
        slice
    }

    /// Sends a batch and moves its watch on. A batch whose watch has gone is dropped.
    pub fn settle(&mut self, batch: Batch, term: u64) {
        let Batch { stream, watch: at, id, from, next, revision, writer, .. } = batch;
        let Some(watch) = self.watches.get(at as usize) else { return };
        if (watch.stream, watch.id, watch.position) != (stream, id, from) || watch.standing != Standing::Behind {
            return;
        }
        let fragments = watch.flags & flags::FRAGMENT != 0;
        self.catch_up_done(at);
        let encoded = writer.finish();
        if encoded.count() > 0 {
            let header = self.header(revision, term);
            let reply = Reply { header: &header, watch_id: id, ..Reply::default() };
            let events: SmallVec<[u32; 4]> = (0..encoded.count()).collect();
            let entry = &mut self.streams[stream as usize];
            let before = entry.out.bytes();
            let fragment_bytes = fragments.then_some(self.settings.fragment_bytes);
            encoded.reply(&mut entry.out, &reply, &events, std::slice::from_ref(&encoded.bytes), fragment_bytes);
            self.queued += entry.out.bytes() - before;
            self.events += u64::from(encoded.count());
            self.pending_events += u64::from(encoded.count());
            entry.events += u64::from(encoded.count());
            Table::wake(entry, &mut self.woken);
            self.watches[at as usize].flags &= !flags::QUIET;
        }
        self.watches[at as usize].position = next;
        if next <= self.revision {
            // To the end of the queue: the stream's other watches are next.
            self.fall_behind(at, next);
        }
    }
}

impl Batch {
    fn gather(&mut self, index: &Index, range: KeyRange<'_>, form: u8, values: &dyn Resident, bounds: &Bounds) {
        let mut revisions = 0;
        let mut last = 0;
        // False, with `next` set, once the batch is full. Only between revisions: one is never parted.
        let mut add = |batch: &mut Batch, event: EventRef<'_>| {
            let meta = &event.meta;
            let main = meta.revision.main;
            if main != last {
                if revisions == bounds.revisions || batch.writer.out.len() >= bounds.response_bytes {
                    batch.next = main;
                    return false;
                }
                revisions += 1;
                last = main;
            }
            if form & if meta.is_tombstone() { flags::NO_DELETE } else { flags::NO_PUT } == 0 {
                let asked = form & flags::PREV_KV != 0;
                let prev = asked.then(|| index.prev_state(&event.meta, event.link.map(|link| link.prev))).flatten();
                batch.writer.event(event.key, meta, None, prev, values);
            }
            true
        };
        // Few events since: found by key, without a look at all the others.
        if let Some(changes) = index.changes(range, self.from, bounds.slice_events / 2) {
            self.looked_at = changes.len();
            for revision in changes {
                let event = index.event_ref(revision).expect("the index names an event that it holds");
                if !add(self, event) {
                    return;
                }
            }
            return;
        }
        let mut seen = 0;
        for event in index.event_refs(Revision::new(self.from, 0), self.revision) {
            let main = event.meta.revision.main;
            if self.looked_at >= bounds.slice_events && main != seen {
                self.next = main;
                return;
            }
            self.looked_at += 1;
            seen = main;
            if range.contains(event.key) && !add(self, event) {
                return;
            }
        }
    }
}
