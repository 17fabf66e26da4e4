//! What spans of entries did to the state, as one number each: members compare them, and so find out within a span whose state
//! has gone another way. A span stands alone: nothing of it is kept in a checkpoint, and a member that began in the middle of
//! one, or was given another state there, has no number for it.

use std::{collections::VecDeque, sync::Mutex};

use crate::{limits, store::apply::RevisionEvents};

/// What a span of entries did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanHash {
    /// The last entry of the span.
    pub last: u64,
    pub hash: u32,
}

/// An entry that has been applied.
pub struct AppliedEntry<'a> {
    pub index: u64,
    pub term: u64,
    pub data: &'a [u8],
    /// What it changed.
    pub events: &'a [RevisionEvents],
    /// The store's revision afterwards, and how many leases there are.
    pub revision: i64,
    pub leases: u64,
}

/// The span that is going on.
#[derive(Clone, Debug)]
pub struct Spans {
    entries: u64,
    /// None: its beginning is not known.
    hash: Option<u32>,
}

impl Spans {
    /// Of a state that has applied everything up to `applied`; a span ends with each multiple of `entries`.
    pub fn after(applied: u64, entries: u64) -> Self {
        Spans { entries, hash: applied.is_multiple_of(entries).then_some(0) }
    }

    /// The state is one of another member's now.
    pub fn jump_to(&mut self, applied: u64) {
        *self = Spans::after(applied, self.entries);
    }

    /// The entry after the one before. Gives the span that ends with it.
    pub fn add(&mut self, entry: &AppliedEntry<'_>) -> Option<SpanHash> {
        let is_last = entry.index.is_multiple_of(self.entries);
        let Some(hash) = &mut self.hash else {
            self.hash = is_last.then_some(0);
            return None;
        };
        let mut numbers = |numbers: &[u64]| {
            for number in numbers {
                *hash = crc32c::crc32c_append(*hash, &number.to_le_bytes());
            }
        };
        numbers(&[entry.index, entry.term, entry.revision as u64, entry.leases]);
        *hash = crc32c::crc32c_append(*hash, entry.data);
        for event in entry.events.iter().flat_map(|of_one| &of_one.events) {
            let (key, meta) = (&event.event.key, &event.event.meta);
            let mut bytes = [0; 44];
            let fixed = [meta.revision.main, meta.revision.sub, meta.create, meta.version, meta.lease];
            for (at, number) in fixed.into_iter().enumerate() {
                bytes[8 * at..][..8].copy_from_slice(&number.to_le_bytes());
            }
            bytes[40..].copy_from_slice(&meta.place.len.to_le_bytes());
            *hash = crc32c::crc32c_append(crc32c::crc32c_append(*hash, &bytes), key);
        }
        let ended = SpanHash { last: entry.index, hash: *hash };
        is_last.then(|| {
            self.hash = Some(0);
            ended
        })
    }
}

/// The newest spans that have ended, for whoever compares them.
#[derive(Debug, Default)]
pub struct SpanHashes(Mutex<VecDeque<SpanHash>>);

impl SpanHashes {
    /// A later one than all that are there, or one of a log that another member has cut short.
    pub fn keep(&self, span: SpanHash) {
        let mut spans = self.0.lock().expect("no holder of the lock panics");
        spans.push_back(span);
        if spans.len() > limits::SPAN_HASHES {
            spans.pop_front();
        }
    }

    /// Of those that end after an entry, the oldest first.
    pub fn after(&self, last: u64) -> Vec<SpanHash> {
        let spans = self.0.lock().expect("no holder of the lock panics");
        spans.iter().filter(|span| span.last > last).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::store::{
        apply::LiveEvent,
        types::{Event, KeyMeta, Place, Revision},
    };

    fn put(main: i64, key: &'static str) -> RevisionEvents {
        let place = Place { segment: 1, offset: 4096 * main as u32, len: 5 };
        let meta = KeyMeta { revision: Revision::new(main, 0), create: main, version: 1, lease: 0, place };
        let event = Event { key: Bytes::from_static(key.as_bytes()), meta, prev: None };
        RevisionEvents { revision: main, events: vec![LiveEvent { event, value: None, prev: None }] }
    }

    fn entry(index: u64, events: &[RevisionEvents]) -> AppliedEntry<'_> {
        AppliedEntry { index, term: 1, data: b"data", events, revision: index as i64, leases: 0 }
    }

    /// What spans of four entries came to, of entries from `first` on.
    fn spans_of(first: u64, last: u64, mut each: impl FnMut(&mut AppliedEntry<'_>)) -> Vec<SpanHash> {
        let mut spans = Spans::after(first - 1, 4);
        let add = |index| {
            let events = [put(index as i64, "key")];
            let mut entry = entry(index, &events);
            each(&mut entry);
            spans.add(&entry)
        };
        (first..=last).filter_map(add).collect()
    }

    #[test]
    fn members_that_did_the_same_have_the_same_numbers_wherever_they_began() {
        let all = spans_of(1, 12, |_| {});
        assert_eq!(all.iter().map(|span| span.last).collect::<Vec<_>>(), [4, 8, 12]);
        assert_eq!(spans_of(5, 12, |_| {}), all[1..]);
        // In the middle of a span.
        assert_eq!(spans_of(4, 12, |_| {}), all[1..]);
        assert_eq!(spans_of(6, 12, |_| {}), all[2..]);
        let mut jumped = Spans::after(0, 4);
        assert_eq!(jumped.add(&entry(1, &[])), None);
        jumped.jump_to(8);
        let events: Vec<_> = (9..13).map(|index| [put(index, "key")]).collect();
        let told: Vec<_> = (9..13).filter_map(|at| jumped.add(&entry(at, &events[at as usize - 9]))).collect();
        assert_eq!(told, all[2..]);
    }

    #[test]
    fn whatever_an_entry_did_otherwise_shows_in_its_span_and_no_other() {
        let all = spans_of(1, 12, |_| {});
        let none: [RevisionEvents; 0] = [];
        let other = [put(6, "kez")];
        let later = {
            let mut later = [put(6, "key")];
            later[0].events[0].event.meta.version = 2;
            later
        };
        let changes: [&dyn Fn(&mut AppliedEntry<'_>); 5] = [
            &|entry| entry.term = 2,
            &|entry| entry.data = b"date",
            &|entry| entry.revision += 1,
            &|entry| entry.leases = 1,
            &|entry| entry.events = &[],
        ];
        for change in changes {
            let told = spans_of(1, 12, |entry| {
                if entry.index == 6 {
                    change(entry);
                }
            });
            assert_eq!((told[0], told[2]), (all[0], all[2]));
            assert_ne!(told[1], all[1]);
        }
        let mut hashes = Vec::new();
        for events in [&none[..], &other, &later] {
            let mut spans = Spans::after(5, 2);
            hashes.push(spans.add(&entry(6, events)));
            spans.jump_to(4);
            spans.add(&entry(5, &none));
            hashes.push(spans.add(&entry(6, events)));
        }
        let told: Vec<_> = hashes.into_iter().flatten().map(|span| span.hash).collect();
        assert_eq!(told.len(), 3);
        assert!(told[0] != told[1] && told[1] != told[2] && told[0] != told[2]);
        // Where a value lies is each member's own business.
        let mut moved = [put(6, "key")];
        moved[0].events[0].event.meta.place = Place { segment: 7, offset: 8, len: 5 };
        let span_of = |events: &[RevisionEvents]| Spans::after(0, 1).add(&entry(1, events)).unwrap();
        assert_eq!(span_of(&moved), span_of(&[put(6, "key")]));
    }

    #[test]
    fn the_newest_are_kept() {
        let kept = SpanHashes::default();
        for last in 1..=limits::SPAN_HASHES as u64 + 5 {
            kept.keep(SpanHash { last, hash: 0 });
        }
        let spans = kept.after(0);
        assert_eq!((spans.len(), spans[0].last), (limits::SPAN_HASHES, 6));
        assert_eq!(kept.after(limits::SPAN_HASHES as u64 + 3).len(), 2);
    }
}
