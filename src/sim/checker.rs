//! What must be true whatever happens. History is one: every member tells the same changes in the same order, each revision
//! whole and once; what an answer says of a revision is in it; and answers respect time, so that history is the order in
//! which the store has done what it was asked (linearizability, with the witness at hand).

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

use crate::store::apply::RevisionEvents;

/// A change of a key: its new value, none for a delete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub key: Bytes,
    pub value: Option<Bytes>,
    /// Of the key before it; 0 if it was not there.
    pub version: i64,
}

/// What a client was told, and what it may rely on.
#[derive(Clone, Debug)]
pub enum Told {
    Put {
        key: Bytes,
        value: Bytes,
    },
    /// Whether there was something to delete.
    Deleted {
        key: Bytes,
        some: bool,
    },
    /// A put on condition that the key was last changed at `expected`.
    Swapped {
        key: Bytes,
        value: Bytes,
        expected: i64,
        done: bool,
    },
    Read {
        key: Bytes,
        value: Option<Bytes>,
    },
}

#[derive(Default)]
pub struct Checker {
    /// From revision 2 on, in order.
    history: Vec<Vec<Change>>,
    /// Where each value was put: values are unique, so that a request that is done twice shows.
    put_at: HashMap<Bytes, i64>,
    /// How each key has changed: revisions and values.
    keys: BTreeMap<Bytes, Vec<(i64, Option<Bytes>)>>,
    /// Answers that tell of a state, to be held against the whole history at the end.
    told: Vec<(i64, Told)>,
    /// The newest revision that anybody was told.
    floor: i64,
}

/// The first revision that changes something.
const FIRST: i64 = 2;

impl Checker {
    /// What whoever asks now must at least see.
    pub fn floor(&self) -> i64 {
        self.floor
    }

    /// A member tells the changes of a revision; `expected`: the one that it must tell next.
    pub fn hears(&mut self, who: &str, expected: i64, events: &RevisionEvents, values: impl Fn(usize) -> Bytes) {
        assert_eq!(events.revision, expected, "{who} tells revisions out of order, or leaves some out");
        let changes = events.events.iter().enumerate().map(|(at, live)| Change {
            key: live.event.key.clone(),
            value: (!live.event.meta.is_tombstone()).then(|| values(at)),
            version: live.event.meta.version,
        });
        let changes: Vec<Change> = changes.collect();
        assert!(!changes.is_empty(), "{who} tells revision {expected}, which changes nothing");
        let at = (expected - FIRST) as usize;
        if let Some(known) = self.history.get(at) {
            assert_eq!(*known, changes, "{who} tells revision {expected} otherwise than it was told before");
            return;
        }
        assert_eq!(at, self.history.len(), "{who} tells revision {expected} before anybody told the one before it");
        for change in &changes {
            if let Some(value) = &change.value
                && let Some(before) = self.put_at.insert(value.clone(), expected)
            {
                panic!("{value:?} was put twice: in revision {before} and in {expected}");
            }
            self.keys.entry(change.key.clone()).or_default().push((expected, change.value.clone()));
        }
        self.history.push(changes);
    }

    /// A client has its answer: `asked_at` is the floor when it asked.
    pub fn answered(&mut self, revision: i64, asked_at: i64, told: Told) {
        let writes = match &told {
            Told::Put { .. } => true,
            Told::Deleted { some, .. } => *some,
            Told::Swapped { done, .. } => *done,
            Told::Read { .. } => false,
        };
        let least = if writes { asked_at + 1 } else { asked_at };
        assert!(revision >= least, "{told:?} at revision {revision}, and {asked_at} was known when it was asked");
        self.floor = self.floor.max(revision);
        self.told.push((revision, told));
    }

    /// The newest revision that anybody told.
    pub fn newest(&self) -> i64 {
        FIRST - 1 + self.history.len() as i64
    }

    /// What a revision has changed: nothing, if nobody has told it.
    pub fn changes(&self, revision: i64) -> &[Change] {
        let at = usize::try_from(revision - FIRST).ok();
        at.and_then(|at| self.history.get(at)).map_or(&[], Vec::as_slice)
    }

    /// A key's value before a revision, if it was there.
    pub fn value_before(&self, key: &Bytes, revision: i64) -> Option<&Bytes> {
        self.before(key, revision).and_then(|(_, value)| value.as_ref())
    }

    fn before(&self, key: &Bytes, revision: i64) -> Option<&(i64, Option<Bytes>)> {
        let changes = self.keys.get(key)?;
        changes[..changes.partition_point(|(at, _)| *at < revision)].last()
    }

    fn is_at(&self, revision: i64, key: &Bytes, value: Option<&Bytes>) -> bool {
        self.changes(revision).iter().any(|change| change.key == *key && change.value.as_ref() == value)
    }

    /// Holds all answers against the history. Gives the number of revisions.
    pub fn finish(&self) -> usize {
        for (revision, told) in &self.told {
            let right = match told {
                Told::Put { key, value } => self.is_at(*revision, key, Some(value)),
                Told::Deleted { key, some: true } => self.is_at(*revision, key, None),
                Told::Deleted { key, some: false } => {
                    self.before(key, revision + 1).is_none_or(|(_, value)| value.is_none())
                }
                Told::Swapped { key, value, expected, done } => {
                    let end = if *done { *revision } else { revision + 1 };
                    let changed = match self.before(key, end) {
                        Some((at, Some(_))) => *at,
                        _ => 0,
                    };
                    *done == (changed == *expected) && (!done || self.is_at(*revision, key, Some(value)))
                }
                Told::Read { key, value } => {
                    self.before(key, revision + 1).and_then(|(_, value)| value.as_ref()) == value.as_ref()
                }
            };
            assert!(right, "history does not have it so: {told:?} at revision {revision}");
        }
        self.history.len()
    }
}
