mod cases;

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::{
    catchup::{Batch, Slice},
    table::Bounds,
    world::*,
    *,
};
use crate::{proto::etcdserverpb::WatchCreateRequest, wire::head::Head};

pub fn settings() -> Settings {
    Settings {
        head: Head::new(7, 8),
        fragment_bytes: 300,
        progress_interval_ms: 100,
        election_ms: 1000,
        bounds: Bounds {
            stream_bytes: 250,
            queued_bytes: 900,
            revisions: 3,
            response_bytes: 200,
            fragments: 2,
            slice_events: 10,
            slice_watches: 4,
        },
    }
}

/// A table, the world it serves and a client for each stream.
struct Bench {
    world: World,
    table: Table,
    streams: BTreeMap<u8, Side>,
    now_ms: u64,
}

struct Side {
    id: StreamId,
    client: Client,
    /// Ids that are taken, and the next to be given.
    ids: BTreeSet<i64>,
    next_id: i64,
    /// A batch whose values are being read, with the state it was made from.
    reading: Option<(Box<Batch>, Published)>,
}

impl Bench {
    fn new(cold: u32, settings: Settings) -> Self {
        let world = World::new(cold);
        let table = Table::new(settings, world.revision());
        Bench { world, table, streams: BTreeMap::new(), now_ms: 0 }
    }

    fn now(&self) -> Moment {
        Moment { revision: self.world.revision(), term: 3 }
    }

    fn stream(&mut self, stream: u8) -> &mut Side {
        let table = &mut self.table;
        self.streams.entry(stream).or_insert_with(|| Side {
            id: table.open(false),
            client: Client::default(),
            ids: BTreeSet::new(),
            next_id: 0,
            reading: None,
        })
    }

    fn create(&mut self, stream: u8, request: WatchCreateRequest) {
        let now = self.now();
        let side = self.stream(stream);
        let key: &[u8] = if request.key.is_empty() { &[0] } else { &request.key };
        let end = &request.range_end[..];
        let refused = request.start_revision < 0
            || !end.is_empty() && end != [0] && key >= end
            || request.watch_id != 0 && side.ids.contains(&request.watch_id);
        let id = match request.watch_id {
            _ if refused => -1,
            0 => {
                while side.ids.contains(&side.next_id) {
                    side.next_id += 1;
                }
                side.next_id += 1;
                side.next_id - 1
            }
            id => id,
        };
        if id >= 0 {
            side.ids.insert(id);
        }
        side.client.create(request.clone(), id, now.revision);
        let stream = side.id;
        self.table.create(stream, &request, now);
    }

    fn cancel(&mut self, stream: u8, id: i64) {
        let now = self.now();
        let side = self.stream(stream);
        if side.ids.remove(&id) {
            side.client.cancel(id);
        }
        let stream = side.id;
        self.table.cancel(stream, id, now);
    }

    fn progress(&mut self, stream: u8) {
        let (now, id) = (self.now(), self.stream(stream).id);
        self.table.request_progress(id, now);
    }

    fn deliver(&mut self, revisions: usize) {
        for _ in 0..revisions {
            let Some(batch) = self.world.mail.pop_front() else { return };
            let published = self.world.published();
            self.table.deliver(&batch, &published.log, 3);
            self.table.release_progress(3);
        }
    }

    fn overrun(&mut self) {
        if let Some(last) = self.world.mail.back() {
            self.table.overrun(last.revision);
            self.table.release_progress(3);
            self.world.mail.clear();
        }
    }

    fn catch_up(&mut self, stream: u8) -> bool {
        let published = self.world.published();
        let side = self.stream(stream);
        let (id, reading) = (side.id, side.reading.is_some());
        if reading {
            return false;
        }
        match self.table.catch_up(id, &published.state.index, &published.log, 3) {
            Slice::Idle => false,
            Slice::Some => true,
            Slice::Read(batch) => {
                self.stream(stream).reading = Some((batch, published));
                true
            }
        }
    }

    fn settle(&mut self, stream: u8) -> bool {
        let Some((mut batch, published)) = self.stream(stream).reading.take() else { return false };
        let values: Vec<_> = batch.missing().into_iter().map(|place| published.log.read(place).unwrap()).collect();
        batch.fill(&values);
        self.table.settle(*batch, 3);
        true
    }

    fn take(&mut self, stream: u8) -> bool {
        let id = self.stream(stream).id;
        let parts = self.table.take(id);
        let side = self.streams.get_mut(&stream).unwrap();
        let some = !parts.is_empty();
        side.client.receive(&self.world, messages(parts));
        some
    }

    fn close(&mut self, stream: u8) {
        if let Some(side) = self.streams.remove(&stream) {
            self.table.close(side.id);
        }
    }

    /// Lets everything happen that can, and checks that nobody is owed anything.
    fn finish(&mut self) {
        self.deliver(usize::MAX);
        let streams: Vec<u8> = self.streams.keys().copied().collect();
        for _ in 0..100_000 {
            let mut busy = false;
            for stream in &streams {
                busy |= self.catch_up(*stream) | self.settle(*stream) | self.take(*stream);
            }
            if !busy {
                break;
            }
        }
        for side in self.streams.values_mut() {
            side.client.complete(&self.world);
        }
    }
}

#[derive(Clone, Debug)]
enum Op {
    Change(Vec<Change>),
    Compact(prop::sample::Index),
    Deliver(usize),
    Overrun,
    Create(u8, WatchCreateRequest, i64),
    Cancel(u8, i64),
    Progress(u8),
    Tick(u64),
    CatchUp(u8),
    Settle(u8),
    Take(u8),
    Close(u8),
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop::sample::select(vec!["a", "b", "ba", "bb", "c", "d"]).prop_map(|key| key.as_bytes().to_vec())
}

fn end() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        2 => Just(Vec::new()),
        1 => Just(vec![0]),
        3 => prop::sample::select(vec!["b", "bb", "c", "e"]).prop_map(|end| end.as_bytes().to_vec()),
    ]
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => (key(), 0usize..90).prop_map(|(key, len)| Change::Put(key, vec![b'v'; len])),
        2 => (key(), end()).prop_map(|(key, end)| Change::Delete(key, end)),
    ]
}

fn request() -> impl Strategy<Value = WatchCreateRequest> {
    let filters = prop::sample::subsequence(vec![0, 1], 0..2);
    let id = prop_oneof![5 => Just(0), 1 => 1i64..6];
    (prop_oneof![9 => key(), 1 => Just(Vec::new())], end(), any::<(bool, bool, bool)>(), filters, id).prop_map(
        |(key, end, (prev_kv, progress_notify, fragment), filters, watch_id)| WatchCreateRequest {
            key: key.into(),
            range_end: end.into(),
            start_revision: 0,
            progress_notify,
            filters,
            prev_kv,
            watch_id,
            fragment,
        },
    )
}

fn op() -> impl Strategy<Value = Op> {
    let stream = || 0u8..3;
    prop_oneof![
        8 => prop::collection::vec(change(), 1..2).prop_map(Op::Change),
        4 => prop::collection::vec(change(), 2..6).prop_map(Op::Change),
        1 => any::<prop::sample::Index>().prop_map(Op::Compact),
        8 => (1usize..4).prop_map(Op::Deliver),
        1 => Just(Op::Overrun),
        6 => (stream(), request(), -25i64..6).prop_map(|(stream, request, start)| Op::Create(stream, request, start)),
        2 => (stream(), 0i64..6).prop_map(|(stream, id)| Op::Cancel(stream, id)),
        2 => stream().prop_map(Op::Progress),
        1 => (20u64..150).prop_map(Op::Tick),
        8 => stream().prop_map(Op::CatchUp),
        3 => stream().prop_map(Op::Settle),
        5 => stream().prop_map(Op::Take),
        1 => stream().prop_map(Op::Close),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..Default::default() })]

    /// etcd's promises for watches: ordered, unique, reliable, atomic, resumable, bookmarkable. (etcd documentation, API
    /// guarantees, "Watch APIs".)
    #[test]
    fn every_watch_sees_exactly_what_happened(
        cold in 0u32..4,
        ops in prop::collection::vec(op(), 1..120),
    ) {
        let mut bench = Bench::new(cold, settings());
        for op in ops {
            match op {
                Op::Change(changes) => bench.world.txn(changes),
                Op::Compact(at) => {
                    let (from, to) = (bench.world.compacted().max(0) + 1, bench.world.revision());
                    if from <= to {
                        bench.world.compact(from + at.index((to - from + 1) as usize) as i64);
                    }
                }
                Op::Deliver(revisions) => bench.deliver(revisions),
                Op::Overrun => bench.overrun(),
                Op::Create(stream, mut request, start) => {
                    // Mostly now or history, at times the future, at times nonsense.
                    request.start_revision = match start {
                        -25 => -1,
                        -24..-12 => 0,
                        start => (bench.world.revision() + start).max(0),
                    };
                    bench.create(stream, request);
                }
                Op::Cancel(stream, id) => bench.cancel(stream, id),
                Op::Progress(stream) => bench.progress(stream),
                Op::Tick(ms) => {
                    bench.now_ms += ms;
                    let (now, now_ms) = (bench.now(), bench.now_ms);
                    bench.table.tick(now_ms, true, now);
                }
                Op::CatchUp(stream) => drop(bench.catch_up(stream)),
                Op::Settle(stream) => drop(bench.settle(stream)),
                Op::Take(stream) => drop(bench.take(stream)),
                Op::Close(stream) => bench.close(stream),
            }
        }
        bench.finish();
        for stream in 0..3 {
            bench.close(stream);
        }
        prop_assert_eq!(bench.table.watch_count(), 0);
        prop_assert_eq!(bench.table.stream_count(), 0);
        prop_assert_eq!(bench.table.queued, 0);
        prop_assert_eq!(bench.table.groups.bytes(), 0);
    }
}
