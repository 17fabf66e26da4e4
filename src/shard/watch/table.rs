//! The watches of one shard and the streams they belong to: creating, cancelling, progress, and what waits to be sent.
//! A plain state machine: bytes and wakers come out, time goes in. (etcd API, Watch; mvcc/watcher.go.)
//!
//! A watch is *live* when it has been given everything up to the table's revision: events come to it as they are
//! delivered. It is *behind* when there are events in the index that it has yet to be given: it holds the revision to go
//! on from and nothing else. It is *dead* when compaction has overtaken it: its id stays taken until the
//! client cancels it, as in etcd.

use std::{cmp::Reverse, collections::BinaryHeap, hash::BuildHasher, task::Waker};

use bytes::{Bytes, BytesMut};
use hashbrown::{DefaultHashBuilder, HashTable};
use slab::Slab;

use super::{
    encode::{Outgoing, Reply},
    groups::{Groups, NONE},
    progress::LEADERLESS_POLLS,
};
use crate::{
    config::Config,
    error::{self, Status},
    limits,
    proto::etcdserverpb::{WatchCreateRequest, watch_create_request::FilterType},
    wire::head::Head,
};

/// What the client asked for, and what is due, in one byte of each watch.
pub(super) mod flags {
    pub const PREV_KV: u8 = 1;
    pub const NO_PUT: u8 = 2;
    pub const NO_DELETE: u8 = 4;
    /// The bits that say which form of an event a watch is sent.
    pub const FORM: u8 = PREV_KV | NO_PUT | NO_DELETE;
    pub const FRAGMENT: u8 = 8;
    pub const NOTIFY: u8 = 16;
    /// No events were sent since the stream's last interval: a notification is due at the next.
    pub const QUIET: u8 = 32;
    /// The start revision was still to come when the watch was made: no progress is told before it has come.
    pub const FUTURE: u8 = 64;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Live,
    Behind,
    Dead,
}

/// The id in replies that are about no watch or about all (etcd: clientv3.InvalidWatchID).
pub(super) const NO_WATCH: i64 = -1;

pub(super) struct Watch {
    pub id: i64,
    /// The first revision whose events the watch has not been given.
    pub position: i64,
    pub stream: u32,
    /// None for a dead watch, which nothing finds any more.
    pub group: u32,
    /// Place among the group's members.
    place: u32,
    /// Neighbours in the list of the stream's watches.
    pub next: u32,
    prev: u32,
    /// Neighbours in the list of those of them that are behind.
    behind_next: u32,
    behind_prev: u32,
    pub flags: u8,
    pub standing: Standing,
}

pub(super) struct Stream {
    pub out: Outgoing,
    waker: Option<Waker>,
    watches: u32,
    pub first: u32,
    pub behind_first: u32,
    behind_last: u32,
    next_id: i64,
    /// Events that wait in `out`.
    pub events: u64,
    /// Tells this stream from another that had its slot.
    pub life: u32,
    /// The revision that a progress message for all is held for; 0 if none is.
    pub progress_at: i64,
    needs_leader: bool,
    pub has_timer: bool,
}

/// A stream of a table. Must be given back to `Table::close`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamId(pub(super) u32);

/// A moment as responses state it: the newest published revision, and the raft term.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    pub revision: i64,
    pub term: u64,
}

/// A progress message that is held until the table has delivered all that was published when it was asked for.
pub(super) struct Held {
    pub revision: i64,
    pub stream: u32,
    pub life: u32,
    pub all: bool,
}

pub struct Settings {
    pub head: Head,
    /// Responses of this size or more are split for those who ask for it.
    pub fragment_bytes: usize,
    pub progress_interval_ms: u64,
    pub election_ms: u64,
    pub bounds: Bounds,
}

/// How much a table takes on, from `limits.rs`; tests make it small.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub stream_bytes: usize,
    pub queued_bytes: usize,
    pub revisions: usize,
    pub response_bytes: usize,
    /// Fragments that a response may come to, for those who ask for them.
    pub fragments: usize,
    pub slice_events: usize,
    pub slice_watches: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds {
            stream_bytes: limits::WATCH_STREAM_BYTES,
            queued_bytes: limits::WATCH_QUEUED_BYTES,
            revisions: limits::CATCH_UP_REVISIONS,
            response_bytes: limits::CATCH_UP_BYTES,
            fragments: limits::CATCH_UP_FRAGMENTS,
            slice_events: limits::CATCH_UP_EVENTS,
            slice_watches: limits::CATCH_UP_WATCHES,
        }
    }
}

impl Bounds {
    /// Whether a stream takes more events, where `queued` bytes wait in all.
    pub(super) fn admit(&self, stream: &Stream, queued: usize) -> bool {
        let waiting = stream.out.bytes();
        waiting == 0 || waiting < self.stream_bytes && queued < self.queued_bytes
    }
}

impl Settings {
    /// Bytes at which a response to a watch that catches up is closed.
    pub(super) fn catch_up_bytes(&self, in_fragments: bool, queued: usize) -> usize {
        match in_fragments && queued < self.bounds.queued_bytes {
            true => self.bounds.response_bytes.max(self.bounds.fragments.saturating_mul(self.fragment_bytes)),
            false => self.bounds.response_bytes,
        }
    }

    pub fn new(head: Head, config: &Config) -> Self {
        // etcd: v3rpc/watch.go. Zero leaves the default; no less than 100 ms.
        let progress_interval_ms = match config.watch_progress_notify_interval_ms {
            0 => 600_000,
            interval => interval.max(100),
        };
        Settings {
            head,
            fragment_bytes: config.max_request_bytes + limits::GRPC_OVERHEAD_BYTES,
            progress_interval_ms,
            election_ms: config.election_ms,
            bounds: Bounds::default(),
        }
    }
}

pub struct Table {
    pub(super) settings: Settings,
    pub(super) groups: Groups,
    pub(super) watches: Slab<Watch>,
    /// Watches by stream and id.
    ids: HashTable<u32>,
    hasher: DefaultHashBuilder,
    pub(super) streams: Slab<Stream>,
    /// Everything up to here has been delivered to every live watch.
    pub(super) revision: i64,
    /// Bytes that wait in all streams.
    pub(super) queued: usize,
    /// Watches that are behind.
    pub(super) behind: usize,
    /// Events put into streams so far, once for each watch that is sent one.
    pub(super) events: u64,
    /// Those of them that wait.
    pub(super) pending_events: u64,
    pub(super) woken: Vec<Waker>,
    pub(super) held: Vec<Held>,
    /// When streams are next due to notify of progress: time, slot, life.
    pub(super) timers: BinaryHeap<Reverse<(u64, u32, u32)>>,
    pub(super) now_ms: u64,
    lives: u32,
    pub(super) random: u64,
    /// Polls in a row that found no leader, and when the next is due.
    pub(super) leaderless: u32,
    pub(super) next_poll_ms: u64,
    stopped: bool,
    /// Kept for its memory: group and event of each hit of a revision.
    pub(super) hits: Vec<(u32, u32)>,
}

impl Table {
    /// `revision`: that of the state from which events are delivered.
    pub fn new(settings: Settings, revision: i64) -> Self {
        Table {
            settings,
            groups: Groups::default(),
            watches: Slab::new(),
            ids: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            streams: Slab::new(),
            revision,
            queued: 0,
            behind: 0,
            events: 0,
            pending_events: 0,
            woken: Vec::new(),
            held: Vec::new(),
            timers: BinaryHeap::new(),
            now_ms: 0,
            lives: 0,
            random: 0,
            leaderless: 0,
            next_poll_ms: 0,
            stopped: false,
            hits: Vec::new(),
        }
    }

    /// Everything up to this revision has been delivered to live watches.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    pub fn watch_count(&self) -> usize {
        self.watches.len()
    }

    pub fn stream_count(&self) -> usize {
        self.streams.len()
    }

    /// Watches that have events to read from the index.
    pub fn behind_count(&self) -> usize {
        self.behind
    }

    /// Bytes that wait in all streams.
    pub fn queued_bytes(&self) -> usize {
        self.queued
    }

    /// Events put into streams so far, once for each watch.
    pub fn events_sent(&self) -> u64 {
        self.events
    }

    /// Events that wait in all streams.
    pub fn pending_events(&self) -> u64 {
        self.pending_events
    }

    // ---- streams ----

    pub fn open(&mut self, needs_leader: bool) -> StreamId {
        self.lives = self.lives.wrapping_add(1);
        let stream = Stream {
            out: Outgoing::default(),
            waker: None,
            watches: 0,
            first: NONE,
            behind_first: NONE,
            behind_last: NONE,
            next_id: 0,
            events: 0,
            life: self.lives,
            progress_at: 0,
            needs_leader,
            has_timer: false,
        };
        StreamId(self.streams.insert(stream) as u32)
    }

    /// Forgets a stream and its watches.
    pub fn close(&mut self, stream: StreamId) {
        let mut at = self.streams[stream.0 as usize].first;
        while at != NONE {
            let next = self.watches[at as usize].next;
            self.remove(at);
            at = next;
        }
        let stream = self.streams.remove(stream.0 as usize);
        self.queued -= stream.out.bytes();
        self.pending_events -= stream.events;
    }

    /// Where a stream's task is woken when there is something for it.
    pub fn park(&mut self, stream: StreamId, waker: &Waker) {
        let kept = &mut self.streams[stream.0 as usize].waker;
        if !kept.as_ref().is_some_and(|kept| kept.will_wake(waker)) {
            *kept = Some(waker.clone());
        }
    }

    /// Why a stream has to end, if it has to.
    pub fn ended(&self, stream: StreamId) -> Option<Status> {
        if self.stopped {
            return Some(error::STOPPED);
        }
        let needs_leader = self.streams[stream.0 as usize].needs_leader;
        (needs_leader && self.leaderless >= LEADERLESS_POLLS).then_some(error::NO_LEADER)
    }

    /// Bytes that wait in a stream.
    pub fn waiting_bytes(&self, stream: StreamId) -> usize {
        self.streams[stream.0 as usize].out.bytes()
    }

    /// Events that wait in a stream.
    pub fn waiting_events(&self, stream: StreamId) -> u64 {
        self.streams[stream.0 as usize].events
    }

    /// What waits in a stream, in order: whole messages.
    pub fn take(&mut self, stream: StreamId) -> Vec<Bytes> {
        let stream = &mut self.streams[stream.0 as usize];
        self.queued -= stream.out.bytes();
        self.pending_events -= std::mem::take(&mut stream.events);
        stream.out.take()
    }

    /// The tasks that have something to do since this was last asked. To be woken when the table is no longer borrowed.
    pub fn woken(&mut self) -> Vec<Waker> {
        std::mem::take(&mut self.woken)
    }

    /// Ends every stream: the server stops.
    pub fn stop(&mut self) {
        self.stopped = true;
        self.wake_all();
    }

    pub(super) fn wake_all(&mut self) {
        let wakers = self.streams.iter_mut().filter_map(|(_, stream)| stream.waker.take());
        self.woken.extend(wakers);
    }

    pub(super) fn wake(stream: &mut Stream, woken: &mut Vec<Waker>) {
        woken.extend(stream.waker.take());
    }

    pub(super) fn header(&self, revision: i64, term: u64) -> BytesMut {
        let head = &self.settings.head;
        let mut out = BytesMut::with_capacity(head.len(revision, term));
        head.put(&mut out, revision, term);
        out
    }

    pub(super) fn reply(&mut self, stream: u32, revision: i64, term: u64, reply: &Reply<'_>) {
        let header = self.header(revision, term);
        let stream = &mut self.streams[stream as usize];
        let before = stream.out.bytes();
        stream.out.reply(&Reply { header: &header, ..*reply }, &[]);
        self.queued += stream.out.bytes() - before;
        Table::wake(stream, &mut self.woken);
    }

    // ---- requests ----

    /// Answers a request for a watch that is not made.
    pub fn refuse(&mut self, stream: StreamId, reason: &str, now: Moment) {
        let reply =
            Reply { watch_id: NO_WATCH, created: true, canceled: true, cancel_reason: reason, ..Reply::default() };
        self.reply(stream.0, now.revision, now.term, &reply);
    }

    /// Makes a watch, or says why not; either is answered in the stream.
    /// The id of the watch, if it was made.
    pub fn create(&mut self, stream: StreamId, request: &WatchCreateRequest, now: Moment) -> Option<i64> {
        match self.try_create(stream.0, request, now) {
            Ok(id) => {
                let reply = Reply { watch_id: id, created: true, ..Reply::default() };
                self.reply(stream.0, now.revision, now.term, &reply);
                Some(id)
            }
            Err(reason) => {
                self.refuse(stream, reason, now);
                None
            }
        }
    }

    fn try_create(&mut self, stream: u32, request: &WatchCreateRequest, now: Moment) -> Result<i64, &'static str> {
        debug_assert!(now.revision >= self.revision, "a state is published before its events are delivered");
        // An empty key is the smallest there is.
        let key: &[u8] = if request.key.is_empty() { &[0] } else { &request.key };
        let end: &[u8] = &request.range_end;
        if request.start_revision < 0 {
            return Err(text(&error::COMPACTED));
        }
        if !end.is_empty() && end != [0] && key >= end {
            return Err(text(&error::WATCH_RANGE_EMPTY));
        }
        let id = match request.watch_id {
            0 => {
                let mut id = self.streams[stream as usize].next_id;
                while self.find(stream, id).is_some() {
                    id += 1;
                }
                id
            }
            id if self.find(stream, id).is_some() => return Err(text(&error::WATCH_ID_DUPLICATE)),
            id => id,
        };
        if self.watches.len() >= limits::WATCHES_MAX
            || self.groups.bytes() + key.len() + end.len() > limits::WATCH_RANGE_BYTES_MAX
        {
            return Err(text(&error::TOO_MANY_REQUESTS));
        }
        if request.watch_id == 0 {
            self.streams[stream as usize].next_id = id + 1;
        }
        self.insert(stream, id, key, end, request, now);
        Ok(id)
    }

    fn insert(&mut self, stream: u32, id: i64, key: &[u8], end: &[u8], request: &WatchCreateRequest, now: Moment) {
        let start = request.start_revision;
        let behind = start != 0 && start <= now.revision;
        let filters = |kind: FilterType| request.filters.contains(&(kind as i32));
        let mut bits = 0;
        for (set, bit) in [
            (request.prev_kv, flags::PREV_KV),
            (filters(FilterType::Noput), flags::NO_PUT),
            (filters(FilterType::Nodelete), flags::NO_DELETE),
            (request.fragment, flags::FRAGMENT),
            (request.progress_notify, flags::NOTIFY | flags::QUIET),
            (start > now.revision, flags::FUTURE),
        ] {
            bits |= if set { bit } else { 0 };
        }
        let at = self.watches.vacant_key() as u32;
        let (group, place) = self.groups.add(key, end, at);
        let list = &mut self.streams[stream as usize];
        let next = std::mem::replace(&mut list.first, at);
        list.watches += 1;
        if next != NONE {
            self.watches[next as usize].prev = at;
        }
        self.watches.insert(Watch {
            id,
            position: if behind { start } else { start.max(now.revision + 1) },
            stream,
            group,
            place,
            next,
            prev: NONE,
            behind_next: NONE,
            behind_prev: NONE,
            flags: bits,
            standing: Standing::Live,
        });
        let Table { ids, watches, hasher, .. } = self;
        let hash = |at: &u32| {
            let watch = &watches[*at as usize];
            hasher.hash_one((watch.stream, watch.id))
        };
        ids.insert_unique(hash(&at), at, hash);
        if behind {
            self.fall_behind(at, start);
        }
        if request.progress_notify && !self.streams[stream as usize].has_timer {
            self.start_timer(stream);
        }
    }

    fn find(&self, stream: u32, id: i64) -> Option<u32> {
        let hash = self.hasher.hash_one((stream, id));
        let found = self.ids.find(hash, |at| {
            let watch = &self.watches[*at as usize];
            watch.stream == stream && watch.id == id
        });
        found.copied()
    }

    /// Ends a watch at its client's wish. An id that is not known is passed over in silence.
    pub fn cancel(&mut self, stream: StreamId, id: i64, now: Moment) {
        let Some(at) = self.find(stream.0, id) else { return };
        self.remove(at);
        let reply = Reply { watch_id: id, canceled: true, ..Reply::default() };
        self.reply(stream.0, now.revision, now.term, &reply);
    }

    fn remove(&mut self, at: u32) {
        if self.watches[at as usize].standing == Standing::Behind {
            self.catch_up_done(at);
        }
        self.leave_group(at);
        let hash = self.hasher.hash_one((self.watches[at as usize].stream, self.watches[at as usize].id));
        match self.ids.find_entry(hash, |other| *other == at) {
            Ok(entry) => drop(entry.remove()),
            Err(_) => unreachable!("a watch is found by its id"),
        }
        let watch = self.watches.remove(at as usize);
        let stream = &mut self.streams[watch.stream as usize];
        stream.watches -= 1;
        match watch.prev {
            NONE => stream.first = watch.next,
            prev => self.watches[prev as usize].next = watch.next,
        }
        if watch.next != NONE {
            self.watches[watch.next as usize].prev = watch.prev;
        }
    }

    fn leave_group(&mut self, at: u32) {
        let Watch { group, place, .. } = self.watches[at as usize];
        if group == NONE {
            return;
        }
        if let Some(moved) = self.groups.remove(group, place) {
            self.watches[moved as usize].place = place;
        }
        self.watches[at as usize].group = NONE;
    }

    // ---- standing ----

    /// From here on a watch reads the event index, from `position` on.
    pub(super) fn fall_behind(&mut self, at: u32, position: i64) {
        self.behind += 1;
        let Table { watches, streams, woken, .. } = self;
        Table::set_behind(watches, streams, woken, at, position);
    }

    /// The caller counts it.
    pub(super) fn set_behind(
        watches: &mut Slab<Watch>,
        streams: &mut Slab<Stream>,
        woken: &mut Vec<Waker>,
        at: u32,
        position: i64,
    ) {
        let watch = &mut watches[at as usize];
        assert_eq!(watch.standing, Standing::Live);
        watch.standing = Standing::Behind;
        watch.position = position;
        watch.flags &= !flags::FUTURE;
        let stream = &mut streams[watch.stream as usize];
        watch.behind_next = NONE;
        watch.behind_prev = std::mem::replace(&mut stream.behind_last, at);
        match watch.behind_prev {
            NONE => stream.behind_first = at,
            prev => watches[prev as usize].behind_next = at,
        }
        Table::wake(stream, woken);
    }

    /// The watch is no longer behind.
    pub(super) fn catch_up_done(&mut self, at: u32) {
        let watch = &mut self.watches[at as usize];
        assert_eq!(watch.standing, Standing::Behind);
        watch.standing = Standing::Live;
        self.behind -= 1;
        let (prev, next) = (watch.behind_prev, watch.behind_next);
        let stream = &mut self.streams[watch.stream as usize];
        match prev {
            NONE => stream.behind_first = next,
            prev => self.watches[prev as usize].behind_next = next,
        }
        match next {
            NONE => stream.behind_last = prev,
            next => self.watches[next as usize].behind_prev = prev,
        }
    }

    /// Compaction has overtaken a watch that is behind: tells it so, and keeps nothing but its id.
    pub(super) fn overtaken(&mut self, at: u32, compacted: i64, term: u64) {
        self.catch_up_done(at);
        self.leave_group(at);
        let watch = &mut self.watches[at as usize];
        watch.standing = Standing::Dead;
        let (stream, id) = (watch.stream, watch.id);
        let reply = Reply { watch_id: id, canceled: true, compact_revision: compacted, ..Reply::default() };
        // Revision 0 in the header, as etcd.
        self.reply(stream, 0, term, &reply);
    }

    /// Events up to `revision` will not be delivered: every live watch that may want them reads them from the index.
    pub fn overrun(&mut self, revision: i64) {
        let from = self.revision + 1;
        if revision < from {
            return;
        }
        let Table { watches, streams, woken, behind, .. } = self;
        for at in 0..watches.capacity() {
            let Some(watch) = watches.get(at) else { continue };
            if watch.standing == Standing::Live && watch.position <= revision {
                let position = watch.position.max(from);
                Table::set_behind(watches, streams, woken, at as u32, position);
                *behind += 1;
            }
        }
        self.revision = revision;
    }
}

fn text(status: &Status) -> &'static str {
    match &status.message {
        std::borrow::Cow::Borrowed(text) => text,
        std::borrow::Cow::Owned(_) => unreachable!("the table of errors is static"),
    }
}
