//! The words the store shares with every room above it: a revision, the place of a value in the log, what is
//! known of a key at a revision, an event.

use std::io;

use bytes::Bytes;

/// A point in history. `main` is etcd's revision; `sub` counts the changes inside one transaction, from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision {
    pub main: i64,
    pub sub: i64,
}

impl Revision {
    pub const ZERO: Revision = Revision { main: 0, sub: 0 };

    pub const fn new(main: i64, sub: i64) -> Self {
        Revision { main, sub }
    }
}

/// Where a value's bytes lie: a segment of the log by its life number, the byte offset in that segment's file,
/// the length in bytes. An empty value lies nowhere: `Place::EMPTY`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Place {
    pub segment: u32,
    pub offset: u32,
    pub len: u32,
}

impl Place {
    pub const EMPTY: Place = Place { segment: 0, offset: 0, len: 0 };
}

/// One key as of one revision, without its name and without its value's bytes. A tombstone has `version` 0,
/// `create` 0, `lease` 0 and no place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyMeta {
    /// The revision that made this state: mod_revision and its sub-revision.
    pub revision: Revision,
    pub create: i64,
    pub version: i64,
    pub lease: i64,
    pub place: Place,
}

impl KeyMeta {
    pub fn is_tombstone(&self) -> bool {
        self.version == 0
    }
}

/// A key with what is known of it; the form in which ranges, prev_kv and transactions hand out results. The
/// value's bytes are fetched from `meta.place` when the answer is encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRef {
    pub key: Bytes,
    pub meta: KeyMeta,
}

/// One change of one key, as the event index keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub key: Bytes,
    /// `meta.revision` is the event's place in history; a tombstone is a delete.
    pub meta: KeyMeta,
    /// The same key's event before this one, if any (put or tombstone). It may have been compacted away.
    pub prev: Option<Revision>,
}

/// Reads values by place, blocking if it must. For apply (compares by value), hashing and background copying;
/// never called on a shard's hot path.
pub trait Values {
    fn read(&self, place: Place) -> io::Result<Bytes>;

    /// The data of the entry of that raft index, which lie there whole.
    ///
    /// # Errors
    /// As `read`, and where another record lies there.
    fn entry(&self, place: Place, _index: u64) -> io::Result<Bytes> {
        self.read(place)
    }

    /// The same where the value may be empty, so that there is nothing to read.
    fn value(&self, place: Place) -> io::Result<Bytes> {
        if place.len == 0 { Ok(Bytes::new()) } else { self.read(place) }
    }
}

/// An interval of keys as etcd's requests spell it: `[key, end)`, one key if `end` is empty, everything from
/// `key` on if `end` is a single zero byte. (etcd API, KV.Range: key and range_end.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyRange<'a> {
    One(&'a [u8]),
    From(&'a [u8]),
    Between(&'a [u8], &'a [u8]),
}

impl<'a> KeyRange<'a> {
    pub fn new(key: &'a [u8], end: &'a [u8]) -> Self {
        match end {
            [] => KeyRange::One(key),
            [0] => KeyRange::From(key),
            _ => KeyRange::Between(key, end),
        }
    }

    pub fn contains(&self, key: &[u8]) -> bool {
        match *self {
            KeyRange::One(one) => key == one,
            KeyRange::From(start) => key >= start,
            KeyRange::Between(start, end) => key >= start && key < end,
        }
    }
}
