//! The raft log as the `raft` crate sees it: which entries exist, their terms, where their bytes lie. Entries live
//! in the segments of the log; this keeps a few bytes for each retained index, and the bytes themselves only while
//! the crate is still likely to ask for them. Never writes: the driver appends to the log, then tells this.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use raft::{
    GetEntriesContext, RaftState, Storage,
    eraftpb::{ConfState, Entry, EntryType, HardState, Snapshot},
};

use super::mail::Kept;
use crate::store::types::{Place, Values};

/// One retained entry, in 16 bytes: there may be as many as a checkpoint is apart from the next, some 300,000.
#[derive(Clone, Copy)]
struct Slot {
    kind: EntryType,
    /// Where the entry's data lies in the log.
    place: Place,
}

/// What is retained of the log: `[first, first + slots.len())`, and the term before `first`.
pub struct RaftLog {
    hard_state: HardState,
    conf_state: ConfState,
    /// Index and term of the last entry that is applied.
    applied: (u64, u64),
    first: u64,
    term_before_first: u64,
    slots: VecDeque<Slot>,
    /// The retained entries' terms: from which index on which, the first from `first` or before.
    terms: VecDeque<(u64, u64)>,
    /// Indexes below this have no bytes in memory.
    in_memory_from: u64,
    /// The bytes of those from there on.
    data: VecDeque<Bytes>,
    values: Arc<dyn Values + Send + Sync>,
}

impl RaftLog {
    /// A log that begins after `index`, whose entry had `term`; 0 and 0 for a new cluster. `values` reads entries
    /// that are no longer in memory.
    pub fn new(
        index: u64,
        term: u64,
        hard_state: HardState,
        conf_state: ConfState,
        values: Arc<dyn Values + Send + Sync>,
    ) -> Self {
        RaftLog {
            hard_state,
            conf_state,
            applied: (index, term),
            first: index + 1,
            term_before_first: term,
            slots: VecDeque::new(),
            terms: VecDeque::new(),
            in_memory_from: index + 1,
            data: VecDeque::new(),
            values,
        }
    }

    pub fn set_values(&mut self, values: Arc<dyn Values + Send + Sync>) {
        self.values = values;
    }

    pub fn set_hard_state(&mut self, hard_state: HardState) {
        self.hard_state = hard_state;
    }

    pub fn set_conf_state(&mut self, conf_state: ConfState) {
        self.conf_state = conf_state;
    }

    pub fn set_applied(&mut self, applied: (u64, u64)) {
        self.applied = applied;
    }

    /// A state of another member's takes the place of everything up to its last entry; what comes after that is unknown.
    pub fn restore(&mut self, index: u64, term: u64, conf_state: ConfState) {
        self.conf_state = conf_state;
        self.applied = (index, term);
        (self.first, self.term_before_first) = (index + 1, term);
        self.slots.clear();
        self.terms.clear();
        self.data.clear();
        self.in_memory_from = self.first;
    }

    pub fn hard_state(&self) -> &HardState {
        &self.hard_state
    }

    fn next(&self) -> u64 {
        self.first + self.slots.len() as u64
    }

    /// Adds an entry that has been put into the log's current write. An index that is already there means that a
    /// new leader overrules the tail: everything from it on is forgotten first.
    pub fn append(&mut self, index: u64, term: u64, kind: EntryType, data: Bytes, place: Place) {
        assert!(index >= self.first, "entry {index} lies before the log's first, {}", self.first);
        assert!(index <= self.next(), "entry {index} leaves a gap after {}", self.next() - 1);
        self.slots.truncate((index - self.first) as usize);
        self.in_memory_from = self.in_memory_from.min(index);
        self.data.truncate((index - self.in_memory_from) as usize);
        while self.terms.back().is_some_and(|(from, _)| *from >= index) {
            self.terms.pop_back();
        }
        if self.terms.back().is_none_or(|(_, last)| *last != term) {
            self.terms.push_back((index, term));
        }
        self.slots.push_back(Slot { kind, place });
        self.data.push_back(data);
    }

    /// Where the data of a retained entry lies.
    pub fn place(&self, index: u64) -> Option<Place> {
        let at = index.checked_sub(self.first)?;
        self.slots.get(at as usize).map(|slot| slot.place)
    }

    /// Entries that are retained and applied, in order: from one index to another, of so many bytes of data and one entry more.
    /// None if the first is not retained.
    pub fn kept(&self, from: u64, to: u64, bytes: u64) -> Option<Vec<Kept>> {
        let at = from.checked_sub(self.first)?;
        let count = to.min(self.applied.0).checked_sub(from).map_or(0, |behind| behind + 1);
        let (mut kept, mut sum) = (Vec::new(), 0);
        for (index, slot) in (from..).zip(self.slots.iter().skip(at as usize).take(count as usize)) {
            if sum > bytes {
                break;
            }
            // As much as the envelope of an entry takes at most, so that empty ones count, too.
            sum += u64::from(slot.place.len) + 16;
            kept.push(Kept { index, term: self.term_of(index), kind: slot.kind as u8, place: slot.place });
        }
        Some(kept)
    }

    /// Bytes of data of the entry of that index and of those behind it.
    pub fn bytes_from(&self, index: u64) -> u64 {
        let at = index.saturating_sub(self.first) as usize;
        self.slots.range(at.min(self.slots.len())..).map(|slot| u64::from(slot.place.len)).sum()
    }

    /// The first of the last retained entries whose data takes no more than so many bytes; the one after the last if none
    /// is so small.
    pub fn reaching_back(&self, bytes: u64) -> u64 {
        let mut sum = 0;
        let fits = |slot: &&Slot| {
            sum += u64::from(slot.place.len);
            sum <= bytes
        };
        self.next() - self.slots.iter().rev().take_while(fits).count() as u64
    }

    /// Where the first retained entry lies.
    pub fn first_place(&self) -> Option<Place> {
        self.slots.front().map(|slot| slot.place)
    }

    /// Drops the bytes of all entries up to `index` from memory; they stay readable from their segments.
    pub fn forget(&mut self, index: u64) {
        while self.in_memory_from <= index && self.data.pop_front().is_some() {
            self.in_memory_from += 1;
        }
    }

    /// Drops all entries up to `index`: a durable checkpoint covers them and no member needs them.
    pub fn compact(&mut self, index: u64) {
        let index = index.min(self.next() - 1);
        if index < self.first {
            return;
        }
        self.forget(index);
        self.term_before_first = self.term_of(index);
        self.slots.drain(..=(index - self.first) as usize);
        self.first = index + 1;
        while self.terms.get(1).is_some_and(|(from, _)| *from <= self.first) {
            self.terms.pop_front();
        }
        if self.slots.is_empty() {
            self.terms.clear();
        }
    }

    /// The term of a retained entry.
    fn term_of(&self, index: u64) -> u64 {
        let after = self.terms.partition_point(|(from, _)| *from <= index);
        self.terms[after - 1].1
    }

    fn entry(&self, index: u64) -> raft::Result<Entry> {
        let slot = self.slots[(index - self.first) as usize];
        let data = match index.checked_sub(self.in_memory_from) {
            Some(at) => self.data[at as usize].clone(),
            None => self.values.entry(slot.place, index).map_err(raft::Error::Io)?,
        };
        Ok(Entry { entry_type: slot.kind, term: self.term_of(index), index, data, ..Entry::default() })
    }
}

impl Storage for RaftLog {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.hard_state.clone(), self.conf_state.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low < self.first {
            return Err(raft::Error::Store(raft::StorageError::Compacted));
        }
        assert!(high <= self.next(), "entries asked up to {high}, the log ends before {}", self.next());
        let max_size = max_size.into().unwrap_or(u64::MAX);
        let mut entries = Vec::with_capacity((high - low) as usize);
        let mut size = 0;
        for index in low..high {
            let entry = match self.entry(index) {
                Ok(entry) => entry,
                // A record that is damaged is as good as gone: who needs it is given the state instead. The crate does not
                // live with any other error.
                Err(_) if entries.is_empty() => return Err(raft::Error::Store(raft::StorageError::Compacted)),
                Err(_) => break,
            };
            // 16 bytes: what the envelope of an entry takes at most beside its data, as the crate counts it.
            size += entry.data.len() as u64 + 16;
            if size > max_size && !entries.is_empty() {
                break;
            }
            entries.push(entry);
        }
        Ok(entries)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index + 1 == self.first {
            return Ok(self.term_before_first);
        }
        if index < self.first {
            return Err(raft::Error::Store(raft::StorageError::Compacted));
        }
        if index >= self.next() {
            return Err(raft::Error::Store(raft::StorageError::Unavailable));
        }
        Ok(self.term_of(index))
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.first)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.next() - 1)
    }

    /// What a member that lags is to be sent. The state itself goes beside the message, and may be a later one: `Core` has
    /// the last word on both.
    fn snapshot(&self, _request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        let (index, term) = self.applied;
        if index == 0 {
            return Err(raft::Error::Store(raft::StorageError::SnapshotTemporarilyUnavailable));
        }
        let mut snapshot = Snapshot::default();
        let metadata = snapshot.mut_metadata();
        (metadata.index, metadata.term) = (index, term);
        metadata.set_conf_state(self.conf_state.clone());
        Ok(snapshot)
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    struct Disk;

    impl Values for Disk {
        fn read(&self, place: Place) -> io::Result<Bytes> {
            Ok(Bytes::from(format!("disk {}", place.offset)))
        }
    }

    fn log_of(count: u64) -> RaftLog {
        let mut log = RaftLog::new(0, 0, HardState::default(), ConfState::default(), Arc::new(Disk));
        for index in 1..=count {
            let place = Place { segment: 1, offset: index as u32, len: 1 };
            log.append(index, 1, EntryType::EntryNormal, Bytes::from(format!("memory {index}")), place);
        }
        log
    }

    fn data(log: &RaftLog, index: u64) -> String {
        let entries = log.entries(index, index + 1, None, GetEntriesContext::empty(false)).unwrap();
        String::from_utf8(entries[0].data.to_vec()).unwrap()
    }

    #[test]
    fn forgotten_entries_are_read_from_their_place() {
        let mut log = log_of(5);
        log.forget(3);
        assert_eq!(data(&log, 3), "disk 3");
        assert_eq!(data(&log, 4), "memory 4");
    }

    /// The crate would end the process.
    #[test]
    fn what_cannot_be_read_counts_as_compacted() {
        struct Damaged;
        impl Values for Damaged {
            fn read(&self, place: Place) -> io::Result<Bytes> {
                if place.offset == 3 { Err(io::Error::other("damaged")) } else { Disk.read(place) }
            }
        }
        let mut log = log_of(5);
        log.set_values(Arc::new(Damaged));
        log.forget(4);
        let before = log.entries(1, 6, None, GetEntriesContext::empty(false)).unwrap();
        assert_eq!(before.iter().map(|entry| entry.index).collect::<Vec<_>>(), [1, 2]);
        let at = log.entries(3, 6, None, GetEntriesContext::empty(false));
        assert!(matches!(at, Err(raft::Error::Store(raft::StorageError::Compacted))), "{at:?}");
        assert_eq!(log.entries(4, 6, None, GetEntriesContext::empty(false)).unwrap().len(), 2);
    }

    #[test]
    fn an_overruled_tail_is_replaced() {
        let mut log = log_of(5);
        log.append(3, 2, EntryType::EntryNormal, Bytes::from_static(b"new"), Place::EMPTY);
        assert_eq!(log.last_index().unwrap(), 3);
        assert_eq!(log.term(3).unwrap(), 2);
        assert_eq!(data(&log, 3), "new");
    }

    #[test]
    fn compaction_keeps_the_term_before_the_first() {
        let mut log = log_of(5);
        log.compact(4);
        assert_eq!(log.first_index().unwrap(), 5);
        assert_eq!(log.term(4).unwrap(), 1);
        assert!(matches!(log.term(3), Err(raft::Error::Store(raft::StorageError::Compacted))));
        assert!(log.entries(4, 5, None, GetEntriesContext::empty(false)).is_err());
    }

    #[test]
    fn a_state_that_comes_from_elsewhere_leaves_nothing_of_before() {
        let mut log = log_of(5);
        log.restore(9, 4, ConfState::default());
        assert_eq!((log.first_index().unwrap(), log.last_index().unwrap(), log.term(9).unwrap()), (10, 9, 4));
        assert!(matches!(log.term(5), Err(raft::Error::Store(raft::StorageError::Compacted))));
        log.append(10, 4, EntryType::EntryNormal, Bytes::from_static(b"ten"), Place::EMPTY);
        assert_eq!(data(&log, 10), "ten");
        let snapshot = log.snapshot(0, 2).unwrap();
        assert_eq!((snapshot.get_metadata().index, snapshot.get_metadata().term), (9, 4));
    }

    #[test]
    fn the_last_entries_of_so_many_bytes_are_known() {
        // Each has one.
        let log = log_of(5);
        assert_eq!([0, 1, 3, 5, 9].map(|bytes| log.reaching_back(bytes)), [6, 5, 3, 1, 1]);
    }

    #[test]
    fn terms_and_bytes_are_those_of_a_plain_list() {
        let mut log = RaftLog::new(10, 3, HardState::default(), ConfState::default(), Arc::new(Disk));
        // Index, term and whether it is in memory, from index 11 on; `gone` of them are compacted.
        let mut plain: Vec<(u64, bool)> = Vec::new();
        let (mut gone, mut term, mut random) = (0, 3, 12345u64);
        for step in 0..20_000 {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let pick = |below: usize| (random >> 33) as usize % below.max(1);
            match pick(10) {
                0 => term += 1,
                1 if plain.len() > gone => plain.truncate(gone + pick(plain.len() - gone)),
                2 => {
                    let upto = pick(plain.len() + 1);
                    plain[..upto].iter_mut().for_each(|entry| entry.1 = false);
                    log.forget(10 + upto as u64);
                    continue;
                }
                3 if plain.len() > gone => {
                    gone += pick(plain.len() - gone);
                    log.compact(10 + gone as u64);
                    continue;
                }
                _ => {}
            }
            plain.push((term, true));
            let index = 10 + plain.len() as u64;
            // Cutting off leaves what lies before in the state it is in.
            let place = Place { segment: 1, offset: index as u32, len: 1 };
            log.append(index, term, EntryType::EntryNormal, Bytes::from(format!("memory {index}")), place);
            if step % 16 != 0 {
                continue;
            }
            assert_eq!((log.first_index().unwrap(), log.last_index().unwrap()), (11 + gone as u64, index));
            for (at, (term, in_memory)) in plain.iter().enumerate().skip(gone) {
                let index = 11 + at as u64;
                assert_eq!(log.term(index).unwrap(), *term);
                assert_eq!(data(&log, index), format!("{} {index}", if *in_memory { "memory" } else { "disk" }));
            }
            let before = if gone == 0 { 3 } else { plain[gone - 1].0 };
            assert_eq!(log.term(10 + gone as u64).unwrap(), before);
        }
    }

    #[test]
    fn what_is_kept_and_applied_is_given_to_who_mends_its_log() {
        let mut log = log_of(9);
        log.set_applied((7, 1));
        log.compact(2);
        let kept = |from, to, bytes| -> Option<Vec<u64>> {
            log.kept(from, to, bytes).map(|kept| kept.iter().map(|kept| kept.index).collect())
        };
        assert_eq!(kept(2, 5, 1000), None);
        assert_eq!(kept(3, 5, 1000), Some(vec![3, 4, 5]));
        assert_eq!(kept(6, 9, 1000), Some(vec![6, 7]), "not applied");
        assert_eq!(kept(8, 9, 1000), Some(vec![]));
        assert_eq!(kept(20, 30, 1000), Some(vec![]));
        assert_eq!(kept(3, 7, 0), Some(vec![3]), "one, however large");
        assert_eq!(kept(3, 7, 17), Some(vec![3, 4]));
        let third = Kept { index: 3, term: 1, kind: 0, place: Place { segment: 1, offset: 3, len: 1 } };
        assert_eq!(log.kept(3, 3, 0), Some(vec![third]));
    }

    #[test]
    fn a_size_limit_still_gives_one_entry() {
        let log = log_of(5);
        let entries = log.entries(1, 6, 1, GetEntriesContext::empty(false)).unwrap();
        assert_eq!(entries.len(), 1);
        let entries = log.entries(1, 6, 60, GetEntriesContext::empty(false)).unwrap();
        assert_eq!(entries.len(), 2);
    }
}
