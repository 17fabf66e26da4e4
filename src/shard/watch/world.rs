//! For tests: a store whose log is in memory, what was published and delivered of it, a naive account of its events, and
//! a client that takes responses apart and holds them against that account.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    rc::Rc,
    sync::Arc,
};

use bytes::{Buf, Bytes};
use prost::Message as _;

use super::{Resident, Snapshot};
use crate::{
    proto::{
        etcdserverpb::{
            CompactionRequest, DeleteRangeRequest, InternalRaftRequest, PutRequest, RequestHeader, RequestOp,
            TxnRequest, WatchCreateRequest, WatchResponse, request_op::Request, watch_create_request::FilterType,
        },
        mvccpb::{Event, KeyValue, event::EventType},
    },
    store::{
        apply::{AppliedBatch, ApplyEntry, RevisionEvents},
        index::Index,
        state::State,
        types::{KeyRange, Place, Values},
    },
};

/// The log: an entry a segment. Every `cold`th entry is not in memory; 0: all are.
#[derive(Clone, Default)]
pub struct Log {
    entries: Arc<Vec<Bytes>>,
    cold: u32,
}

impl Log {
    fn bytes(&self, place: Place) -> &[u8] {
        let entry = &self.entries[place.segment as usize];
        &entry[place.offset as usize..][..place.len as usize]
    }
}

impl Resident for Log {
    fn resident(&self, place: Place) -> Option<&[u8]> {
        (self.cold == 0 || !place.segment.is_multiple_of(self.cold)).then(|| self.bytes(place))
    }
}

impl Values for Log {
    fn read(&self, place: Place) -> io::Result<Bytes> {
        Ok(Bytes::copy_from_slice(self.bytes(place)))
    }
}

#[derive(Clone)]
pub struct Published {
    pub state: Rc<State>,
    pub log: Log,
}

impl Snapshot for Published {
    fn index(&self) -> &Index {
        &self.state.index
    }

    fn values(&self) -> &dyn Resident {
        &self.log
    }

    async fn read(&self, places: Vec<Place>) -> io::Result<Vec<Bytes>> {
        places.into_iter().map(|place| self.log.read(place)).collect()
    }
}

#[derive(Clone, Debug)]
pub enum Change {
    Put(Vec<u8>, Vec<u8>),
    Delete(Vec<u8>, Vec<u8>),
}

/// The store, and everything that ever happened in it.
pub struct World {
    state: State,
    log: Log,
    /// What has been published and not yet been delivered.
    pub mail: VecDeque<RevisionEvents>,
    naive: BTreeMap<Vec<u8>, KeyValue>,
    /// Every event, with its prev_kv.
    pub history: Vec<Event>,
    pub compactions: Vec<i64>,
}

impl World {
    pub fn new(cold: u32) -> Self {
        World {
            state: State::new(1),
            log: Log { entries: Arc::default(), cold },
            mail: VecDeque::new(),
            naive: BTreeMap::new(),
            history: Vec::new(),
            compactions: Vec::new(),
        }
    }

    pub fn revision(&self) -> i64 {
        self.state.index.current()
    }

    pub fn compacted(&self) -> i64 {
        self.state.index.compacted()
    }

    pub fn published(&self) -> Published {
        Published { state: Rc::new(self.state.clone()), log: self.log.clone() }
    }

    fn apply(&mut self, request: InternalRaftRequest) {
        let header = Some(RequestHeader { id: 1, ..Default::default() });
        let data = Bytes::from(InternalRaftRequest { header, ..request }.encode_to_vec());
        let segment = self.log.entries.len() as u32;
        Arc::make_mut(&mut self.log.entries).push(data.clone());
        let base = Place { segment, offset: 0, len: data.len() as u32 };
        let index = self.state.applied().0 + 1;
        let entry = ApplyEntry { index, term: 1, base, data, quota_room: None };
        let mut out = AppliedBatch::default();
        let applied = self.state.apply(&entry, &self.log, &mut out).unwrap();
        applied.result.unwrap();
        self.mail.extend(out.events);
    }

    pub fn put(&mut self, key: &str, value: &str) {
        self.txn(vec![Change::Put(key.into(), value.into())]);
    }

    pub fn delete(&mut self, key: &str) {
        self.txn(vec![Change::Delete(key.into(), Vec::new())]);
    }

    /// Changes of one revision.
    pub fn txn(&mut self, changes: Vec<Change>) {
        let before = self.naive.clone();
        let (main, first) = (self.revision() + 1, self.history.len());
        let mut ops = Vec::new();
        for change in changes {
            let request = match change {
                Change::Put(key, value) => {
                    let old = self.naive.get(&key);
                    let kv = KeyValue {
                        key: key.clone().into(),
                        value: value.clone().into(),
                        create_revision: old.map_or(main, |old| old.create_revision),
                        mod_revision: main,
                        version: old.map_or(1, |old| old.version + 1),
                        lease: 0,
                    };
                    self.record(&before, EventType::Put, kv.clone());
                    self.naive.insert(key.clone(), kv);
                    Request::RequestPut(PutRequest { key: key.into(), value: value.into(), ..Default::default() })
                }
                Change::Delete(key, end) => {
                    let range = KeyRange::new(&key, &end);
                    let gone: Vec<_> = self.naive.keys().filter(|key| range.contains(key)).cloned().collect();
                    for key in gone {
                        self.naive.remove(&key);
                        let kv = KeyValue { key: key.into(), mod_revision: main, ..Default::default() };
                        self.record(&before, EventType::Delete, kv);
                    }
                    let delete = DeleteRangeRequest { key: key.into(), range_end: end.into(), ..Default::default() };
                    Request::RequestDeleteRange(delete)
                }
            };
            ops.push(RequestOp { request: Some(request) });
        }
        let txn = TxnRequest { success: ops, ..Default::default() };
        self.apply(InternalRaftRequest { txn: Some(txn), ..Default::default() });
        assert_eq!(self.revision(), main - 1 + i64::from(self.history.len() > first));
    }

    fn record(&mut self, before: &BTreeMap<Vec<u8>, KeyValue>, kind: EventType, kv: KeyValue) {
        let prev_kv = before.get(&kv.key[..]).filter(|_| kv.create_revision != kv.mod_revision).cloned();
        self.history.push(Event { r#type: kind as i32, kv: Some(kv), prev_kv });
    }

    /// Whether an event is followed by another of its key within a revision that was compacted to: it may be gone, as in
    /// etcd. Of two that look alike nobody can say which one is gone.
    fn superseded(&self, at: usize) -> bool {
        let (main, key) = (revision_of(&self.history[at]), &self.history[at].kv.as_ref().unwrap().key);
        let mut later = self.history[at + 1..].iter().take_while(|later| revision_of(later) == main);
        let mut earlier = self.history[..at].iter().rev().take_while(|earlier| revision_of(earlier) == main);
        self.compactions.contains(&main)
            && (later.any(|later| later.kv.as_ref().unwrap().key == *key)
                || earlier.any(|earlier| earlier == &self.history[at]))
    }

    /// Compacts and removes what that makes superfluous.
    pub fn compact(&mut self, revision: i64) {
        let compaction = Some(CompactionRequest { revision, ..Default::default() });
        self.apply(InternalRaftRequest { compaction, ..Default::default() });
        while self.state.index.compacting() {
            self.state.index.compaction_step(5, &mut |_| {});
        }
        self.compactions.push(revision);
    }
}

fn revision_of(event: &Event) -> i64 {
    event.kv.as_ref().unwrap().mod_revision
}

/// Takes framed messages apart.
pub fn messages(parts: Vec<Bytes>) -> Vec<WatchResponse> {
    let mut all = Bytes::from(parts.concat());
    let mut messages = Vec::new();
    while all.has_remaining() {
        assert_eq!(all.get_u8(), 0, "not compressed");
        let len = all.get_u32() as usize;
        let message = all.split_to(len);
        let decoded = WatchResponse::decode(message.clone()).unwrap();
        assert_eq!(decoded.encode_to_vec(), message, "written as prost writes it");
        messages.push(decoded);
    }
    messages
}

/// One watch as its client sees it.
pub struct Watcher {
    pub request: WatchCreateRequest,
    /// The first revision it is owed.
    start: i64,
    /// The start revision, if that was in the future.
    future: i64,
    created: bool,
    canceled: bool,
    /// Events of the history that it has seen or passed over as not its own.
    seen: usize,
    last: i64,
    in_fragments: bool,
}

impl Watcher {
    fn wants(&self, event: &Event) -> bool {
        let key: &[u8] = if self.request.key.is_empty() { &[0] } else { &self.request.key };
        let filter = match event.r#type() {
            EventType::Put => FilterType::Noput,
            EventType::Delete => FilterType::Nodelete,
        };
        revision_of(event) >= self.start
            && KeyRange::new(key, &self.request.range_end).contains(&event.kv.as_ref().unwrap().key)
            && !self.request.filters.contains(&(filter as i32))
    }

    /// The next event that it is owed.
    fn next<'a>(&mut self, world: &'a World) -> Option<&'a Event> {
        while let Some(event) = world.history.get(self.seen) {
            if self.wants(event) {
                return Some(event);
            }
            self.seen += 1;
        }
        None
    }

    fn take(&mut self, world: &World, event: &Event) {
        loop {
            let owed = self.next(world).unwrap_or_else(|| panic!("not owed: {event:?}"));
            self.seen += 1;
            let prev = owed.prev_kv.clone().filter(|_| self.request.prev_kv);
            if event.kv == owed.kv && event.r#type == owed.r#type {
                if event.prev_kv != prev {
                    assert_eq!(event.prev_kv, None, "prev_kv is right or absent");
                    assert!(revision_of(event) - 1 < world.compacted(), "prev_kv is there unless compacted: {event:?}");
                }
                return;
            }
            assert!(world.superseded(self.seen - 1), "left out: {owed:?}, got {event:?}");
        }
    }
}

/// One stream as its client sees it.
#[derive(Default)]
pub struct Client {
    /// Creations that are not answered yet, with what is expected as their id.
    asked: VecDeque<(WatchCreateRequest, i64, i64)>,
    cancels: Vec<i64>,
    pub watchers: BTreeMap<i64, Watcher>,
    pub progress: usize,
}

impl Client {
    /// Notes a request; `id` is what its answer must carry.
    pub fn create(&mut self, request: WatchCreateRequest, id: i64, published: i64) {
        self.asked.push_back((request, id, published));
    }

    /// Notes that a watch that is there was cancelled.
    pub fn cancel(&mut self, id: i64) {
        self.cancels.push(id);
    }

    /// Holds messages against the world.
    pub fn receive(&mut self, world: &World, messages: Vec<WatchResponse>) {
        for message in messages {
            self.receive_one(world, message);
        }
    }

    fn receive_one(&mut self, world: &World, message: WatchResponse) {
        let header = message.header.as_ref().expect("every response has a header");
        assert!(header.revision <= world.revision());
        assert_eq!((header.cluster_id, header.member_id, header.raft_term), (7, 8, 3));
        if message.created {
            let (request, id, published) = self.asked.pop_front().expect("a creation was asked for");
            assert_eq!(message.watch_id, id, "{request:?}");
            assert_eq!(message.canceled, id < 0);
            assert!(message.events.is_empty());
            if id >= 0 {
                let start = request.start_revision;
                let future = if start > published { start } else { 0 };
                let watcher = Watcher {
                    start: if start == 0 { published + 1 } else { start },
                    request,
                    future,
                    created: true,
                    canceled: false,
                    seen: 0,
                    last: 0,
                    in_fragments: false,
                };
                self.watchers.insert(id, watcher);
            }
            return;
        }
        let id = message.watch_id;
        if message.canceled && message.compact_revision == 0 {
            let at = self.cancels.iter().position(|cancel| *cancel == id).expect("a cancel was asked for");
            self.cancels.remove(at);
            self.watchers.remove(&id).expect("it was there");
            return;
        }
        if message.canceled {
            assert_eq!(header.revision, 0);
            assert!(world.compactions.contains(&message.compact_revision));
            let watcher = self.watchers.get_mut(&id).expect("it was created");
            assert!(!watcher.canceled && watcher.start < message.compact_revision);
            assert!(watcher.last < message.compact_revision);
            watcher.canceled = true;
            return;
        }
        if message.events.is_empty() {
            self.progress += 1;
            let about = self.watchers.iter_mut().filter(|(watch, _)| id == -1 || **watch == id);
            let mut told = 0;
            for (_, watcher) in about {
                told += 1;
                assert!(id == -1 || watcher.request.progress_notify);
                assert!(!watcher.canceled, "a watch that has ended makes no progress");
                assert!(header.revision >= watcher.future, "told before its start has come");
                assert!(header.revision >= watcher.last, "progress goes back");
                while let Some(owed) = watcher.next(world).filter(|owed| revision_of(owed) <= header.revision) {
                    assert!(world.superseded(watcher.seen), "progress overtakes {owed:?}");
                    watcher.seen += 1;
                }
                watcher.last = header.revision;
            }
            assert!(told > 0, "progress of nobody");
            return;
        }
        let watcher = self.watchers.get_mut(&id).expect("events come after the creation");
        assert!(watcher.created && !watcher.canceled);
        let first = revision_of(&message.events[0]);
        assert!(first > watcher.last || watcher.in_fragments && first == watcher.last, "a revision in two responses");
        assert!(watcher.request.fragment || !message.fragment);
        for event in &message.events {
            watcher.take(world, event);
            watcher.last = revision_of(event);
        }
        watcher.in_fragments = message.fragment;
        assert!(header.revision >= watcher.last);
    }

    /// Everything that can be sent has been: every watch has seen all it is owed.
    pub fn complete(&mut self, world: &World) {
        assert!(self.asked.is_empty() && self.cancels.is_empty());
        for (id, watcher) in &mut self.watchers {
            while let Some(owed) = watcher.next(world).filter(|_| !watcher.canceled) {
                assert!(world.superseded(watcher.seen), "watch {id} was not told of {owed:?}");
                watcher.seen += 1;
            }
        }
    }
}
