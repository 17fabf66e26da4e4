//! A client that watches, through the shard's own table of watches, on one member after another, and holds what it is told
//! against history: what etcd promises of a watch, one by one. (etcd API guarantees, Watch: ordered, unique, reliable, atomic,
//! resumable, bookmarkable.)

use std::sync::Arc;

use bytes::{Buf, Bytes};
use prost::Message as _;

use super::checker::{Change, Checker};
use crate::{
    proto::{
        etcdserverpb::{WatchCreateRequest, WatchResponse, watch_create_request::FilterType},
        mvccpb::{Event, event::EventType},
    },
    raft::view::View,
    random::Random,
    shard::watch::{Moment, Settings, StreamId, Watches, catchup::Slice, table::Bounds},
    store::types::{KeyRange, Values as _},
    wire::head::Head,
};

/// So small that who does not read for a while is behind.
pub fn settings(id: u64) -> Settings {
    let bounds =
        Bounds { stream_bytes: 8 * 1024, queued_bytes: 64 * 1024, response_bytes: 4 * 1024, ..Bounds::default() };
    Settings {
        head: Head::new(0xc1, id),
        fragment_bytes: usize::MAX,
        progress_interval_ms: 700,
        election_ms: 1000,
        bounds,
    }
}

/// Where it has its stream: a process of a member.
#[derive(Clone, Copy)]
pub struct Seat {
    pub member: usize,
    pub life: u64,
    stream: StreamId,
}

/// What has come of reading.
pub enum Read {
    All,
    /// What it is owed has been compacted away.
    Overtaken,
    /// Its member cannot read what it needs.
    Unreadable,
}

pub struct Watcher {
    number: usize,
    request: WatchCreateRequest,
    pub seat: Option<Seat>,
    /// The first revision whose events it is owed; none before its first watch has begun.
    next: Option<i64>,
    /// Events it was told.
    pub told: u64,
}

impl Watcher {
    pub fn new(number: usize, random: &mut Random) -> Watcher {
        let (key, range_end) = match random.below(3) {
            0 => (Bytes::from(format!("key-{}", random.below(5))), Bytes::new()),
            1 => (Bytes::from_static(b"key-"), Bytes::from_static(b"key.")),
            _ => (Bytes::from_static(b"\0"), Bytes::from_static(b"\0")),
        };
        let filters = match random.below(6) {
            0 => vec![FilterType::Noput as i32],
            1 => vec![FilterType::Nodelete as i32],
            _ => Vec::new(),
        };
        let request = WatchCreateRequest {
            key,
            range_end,
            filters,
            prev_kv: random.permille(500),
            progress_notify: random.permille(500),
            ..Default::default()
        };
        Watcher { number, request, seat: None, next: None, told: 0 }
    }

    pub fn is_behind(&self, checker: &Checker) -> bool {
        self.next.is_none_or(|next| self.first_owed(checker, next, i64::MAX).is_some())
    }

    /// Begins to watch, or goes on from where it was.
    pub fn sit_down(&mut self, member: usize, life: u64, watches: &Watches<Arc<View>>, now: Moment) {
        let request = WatchCreateRequest { start_revision: self.next.unwrap_or(0), ..self.request.clone() };
        let stream = watches.with(|table| {
            let stream = table.open(false);
            table.create(stream, &request, now);
            stream
        });
        self.seat = Some(Seat { member, life, stream });
    }

    pub fn leave(&mut self, watches: &Watches<Arc<View>>) {
        if let Some(seat) = self.seat.take() {
            watches.with(|table| table.close(seat.stream));
        }
    }

    pub fn ask_for_progress(&self, watches: &Watches<Arc<View>>, now: Moment) {
        let Some(seat) = self.seat else { return };
        watches.with(|table| table.request_progress(seat.stream, now));
    }

    /// Takes what there is for it, as the task of its stream does.
    pub fn read(
        &mut self,
        watches: &Watches<Arc<View>>,
        view: &View,
        term: u64,
        checker: &Checker,
        compacted: i64,
    ) -> Read {
        let Some(Seat { stream, .. }) = self.seat else { return Read::All };
        while watches.with(|table| table.has_slice(stream)) {
            let slice = watches.with(|table| table.catch_up(stream, &view.state.index, &view.segments, term));
            if let Slice::Read(mut batch) = slice {
                let values = batch.missing().into_iter().map(|place| view.segments.read(place));
                let Ok(values) = values.collect::<Result<Vec<_>, _>>() else { return Read::Unreadable };
                batch.fill(&values);
                watches.with(|table| table.settle(*batch, term));
            }
        }
        for response in responses(watches.with(|table| table.take(stream))) {
            let overtaken = response.canceled;
            self.hear(response, checker, compacted);
            if overtaken {
                return Read::Overtaken;
            }
        }
        Read::All
    }

    fn hear(&mut self, response: WatchResponse, checker: &Checker, compacted: i64) {
        let revision = response.header.as_ref().expect("every response has a header").revision;
        if response.created {
            assert!(!response.canceled, "watcher {} is refused: {response:?}", self.number);
            self.next.get_or_insert(revision + 1);
            return;
        }
        let next = self.next.expect("a watch is created before it is told anything");
        if response.canceled {
            // What it has missed it is told that it has: the rest is what a client reads anew.
            let from = response.compact_revision;
            assert!(from > next, "watcher {} is owed {next} and told that {from} is compacted", self.number);
            assert!(from <= compacted, "watcher {} is told of a compaction that nobody asked for", self.number);
            self.next = Some(from);
            return;
        }
        if response.events.is_empty() {
            // Bookmarkable: nothing up to there is left out.
            assert!(
                revision + 1 >= next,
                "watcher {} is at {next}, and its bookmark goes back to {revision}",
                self.number
            );
            let owed = self.first_owed(checker, next, revision);
            assert_eq!(owed, None, "watcher {} at {next} has a bookmark of {revision}", self.number);
            self.next = Some(revision + 1);
            return;
        }
        for events in response.events.chunk_by(|a, b| of(a) == of(b)) {
            self.take(of(&events[0]), events, checker, compacted);
        }
        assert!(revision + 1 >= self.next.expect("it was just told something"), "a header lies before its events");
    }

    /// Takes the events of a revision.
    fn take(&mut self, revision: i64, events: &[Event], checker: &Checker, compacted: i64) {
        let (number, next) = (self.number, self.next.expect("it watches"));
        // Ordered and unique.
        assert!(revision >= next, "watcher {number} is told of {revision} again, or too late: {next} is next");
        // Reliable, and resumable where it has moved between members.
        let owed = self.first_owed(checker, next, revision - 1);
        assert_eq!(owed, None, "watcher {number} at {next} is told of {revision} and not of what was before");
        // Atomic: all of a revision, at once.
        let wanted: Vec<&Change> = checker.changes(revision).iter().filter(|change| self.wants(change)).collect();
        assert_eq!(events.len(), wanted.len(), "watcher {number} is told a part of {revision}: {events:?}");
        for (event, change) in events.iter().zip(wanted) {
            let kv = event.kv.as_ref().expect("an event is about a key");
            let value = (event.r#type() == EventType::Put).then_some(&kv.value);
            assert_eq!((&kv.key, value), (&change.key, change.value.as_ref()), "watcher {number} at {revision}");
            let before = checker.value_before(&change.key, revision).filter(|_| self.request.prev_kv);
            let told = event.prev_kv.as_ref().map(|kv| &kv.value);
            // What was before may have been compacted away.
            let excused = told.is_none() && revision - 1 < compacted;
            assert!(
                told == before || excused,
                "watcher {number} at {revision} is told of {told:?} before, not {before:?}"
            );
            self.told += 1;
        }
        self.next = Some(revision + 1);
    }

    fn wants(&self, change: &Change) -> bool {
        let filter = if change.value.is_some() { FilterType::Noput } else { FilterType::Nodelete };
        KeyRange::new(&self.request.key, &self.request.range_end).contains(&change.key)
            && !self.request.filters.contains(&(filter as i32))
    }

    /// The first revision in between that concerns it.
    fn first_owed(&self, checker: &Checker, from: i64, to: i64) -> Option<i64> {
        (from..=to.min(checker.newest()))
            .find(|revision| checker.changes(*revision).iter().any(|change| self.wants(change)))
    }
}

fn of(event: &Event) -> i64 {
    event.kv.as_ref().expect("an event is about a key").mod_revision
}

fn responses(parts: Vec<Bytes>) -> Vec<WatchResponse> {
    let mut all = Bytes::from(parts.concat());
    let mut responses = Vec::new();
    while all.has_remaining() {
        assert_eq!(all.get_u8(), 0, "not compressed");
        let len = all.get_u32() as usize;
        responses.push(WatchResponse::decode(all.split_to(len)).expect("a response of a watch"));
    }
    responses
}
