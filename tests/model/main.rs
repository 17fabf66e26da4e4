//! The store and a naive model of it are given the same requests, in an order drawn at random with compaction's sweeps,
//! moves of values and old views in between, and must tell the same. `PROPTEST_CASES` sets how many histories are
//! drawn, `URD_SEED` which ones.

mod naive;
mod steps;

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    io,
};

use bytes::Bytes;
use naive::{Naive, Told};
use proptest::{
    collection::vec,
    test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner},
};
use prost::Message;
use steps::{Step, resolve, resolve_range, resolve_txn};
use urd::{
    api::check,
    error::Status,
    proto::{
        etcdserverpb::{response_op::Response, *},
        mvccpb::{self, KeyValue, event::EventType},
    },
    store::{
        apply::{Answer, AppliedBatch, ApplyEntry, LeaseChange},
        index::Progress,
        range::{self, RangeAnswer},
        state::State,
        txn::{self, OpAnswer, TxnAnswer},
        types::{KeyMeta, KeyRange, KeyRef, Place, Revision, Values},
    },
};

const TTL_MIN: i64 = 2;

/// The log as the store sees it: bytes by place. Each entry is a segment, laid at an offset that is not 0.
#[derive(Default)]
struct Log(RefCell<Vec<Bytes>>);

const OFFSET: u32 = 1000;

impl Log {
    fn add(&self, data: Bytes) -> Place {
        let mut segments = self.0.borrow_mut();
        segments.push(data.clone());
        Place { segment: segments.len() as u32, offset: OFFSET, len: data.len() as u32 }
    }
}

impl Values for Log {
    fn read(&self, place: Place) -> io::Result<Bytes> {
        if place == Place::EMPTY {
            return Ok(Bytes::new());
        }
        let from = (place.offset - OFFSET) as usize;
        Ok(self.0.borrow()[place.segment as usize - 1].slice(from..from + place.len as usize))
    }
}

/// Store and model side by side.
struct Pair {
    state: State,
    naive: Naive,
    log: Log,
    index: u64,
    /// Old views, each with what the model knew when it was taken.
    kept: Vec<(State, Naive)>,
}

type Checked = Result<(), TestCaseError>;

macro_rules! agree {
    ($store:expr, $model:expr, $($what:tt)+) => {
        let (store, model) = ($store, $model);
        if store != model {
            return Err(TestCaseError::fail(format!(
                "{}\n  store: {store:?}\n  model: {model:?}", format!($($what)+)
            )));
        }
    };
}

impl Pair {
    fn new() -> Self {
        Pair { state: State::new(TTL_MIN), naive: Naive::new(TTL_MIN), log: Log::default(), index: 0, kept: Vec::new() }
    }

    fn step(&mut self, step: Step) -> Checked {
        let (current, compacted) = (self.naive.current, self.naive.compacted);
        let at = move |drawn| resolve(drawn, current, compacted);
        match step {
            Step::Request(mut request, room) => {
                if let Some(range) = &mut request.range {
                    resolve_range(range, &at);
                }
                if let Some(txn) = &mut request.txn {
                    resolve_txn(txn, &at);
                    if check::check_txn(txn, 128).is_err() {
                        return Ok(());
                    }
                }
                if let Some(compaction) = &mut request.compaction {
                    compaction.revision = at(compaction.revision);
                }
                self.request(*request, room)
            }
            Step::Read(mut range) => {
                resolve_range(&mut range, &at);
                let store = read(&self.state, &range, &self.log);
                agree!(store, self.naive.range(&range, current), "{range:?}");
                Ok(())
            }
            Step::ReadTxn(mut txn) => {
                resolve_txn(&mut txn, &at);
                let store = txn::read(&self.state.index, &txn, &self.log).expect("every value is there");
                let store = store.map(|answer| told(Answer::Txn(answer), &self.log));
                let request = InternalRaftRequest { txn: Some(txn), ..Default::default() };
                let mut quiet = self.naive.clone();
                quiet.alarms.clear();
                agree!(store, quiet.apply(&request, None), "read: {request:?}");
                Ok(())
            }
            Step::Sweep(budget) => {
                let before = self.state.index.usage().live_bytes();
                let mut freed = 0;
                let progress = self.state.index.compaction_step(budget, &mut |place| freed += u64::from(place.len));
                agree!(before - freed, self.state.index.usage().live_bytes(), "bytes in use after a sweep");
                if progress == Progress::Done { self.retained() } else { Ok(()) }
            }
            Step::Relocate(which) => self.relocate(which),
            Step::Keep => {
                self.kept.push((self.state.clone(), self.naive.clone()));
                Ok(())
            }
            Step::Watch(key, end, start) => self.watch(&key, &end, at(start)),
        }
    }

    fn request(&mut self, mut request: InternalRaftRequest, quota_room: Option<u64>) -> Checked {
        self.index += 1;
        request.header = Some(RequestHeader { id: self.index, ..Default::default() });
        let data = Bytes::from(request.encode_to_vec());
        let base = self.log.add(data.clone());
        let entry = ApplyEntry { index: self.index, term: 1, base, data, quota_room };
        let seen = self.naive.changes.len();
        let leases = self.naive.leases.clone();

        let mut batch = AppliedBatch::default();
        let applied = self.state.apply(&entry, &self.log, &mut batch).expect("every value is there");
        let model = self.naive.apply(&request, quota_room);
        agree!(applied.id, self.index, "the id of {request:?}");
        agree!(applied.result.map(|answer| told(answer, &self.log)), model, "{request:?}");
        agree!(self.state.index.current(), self.naive.current, "revision after {request:?}");
        agree!(self.state.index.compacted(), self.naive.compacted, "compacted after {request:?}");
        agree!(self.state.applied(), (self.index, 1), "applied");

        // What watchers are told at once is what they find in history later.
        let live: Vec<mvccpb::Event> = batch
            .events
            .iter()
            .flat_map(|revision| revision.events.iter())
            .map(|live| {
                let event = event(&live.event.key, live.event.meta, live.prev, &self.log);
                if let Some(value) = &live.value {
                    assert_eq!(*value, event.kv.as_ref().unwrap().value, "the value at hand");
                }
                event
            })
            .collect();
        let all = self.naive.watched(b"\0", b"\0", current_of(&self.naive, seen));
        let model: Vec<mvccpb::Event> = if self.naive.changes.len() > seen { all } else { vec![] };
        agree!(live, model, "events of {request:?}");
        agree!(batch.events.len(), usize::from(self.naive.changes.len() > seen), "one revision a request");

        let mut changed = leases;
        for change in batch.leases {
            match change {
                LeaseChange::Granted { id, ttl } => assert_eq!(changed.insert(id, (ttl, 0)), None),
                LeaseChange::Revoked { id } => assert!(changed.remove(&id).is_some()),
                LeaseChange::Checkpointed { id, remaining } => changed.get_mut(&id).expect("it is there").1 = remaining,
            }
        }
        agree!(&changed, &self.naive.leases, "lease changes of {request:?}");
        self.leases_and_alarms()
    }

    fn leases_and_alarms(&self) -> Checked {
        let leases: BTreeMap<i64, (i64, i64)> =
            self.state.leases.iter().map(|lease| (lease.id, (lease.ttl, lease.remaining))).collect();
        agree!(&leases, &self.naive.leases, "leases");
        for id in leases.keys() {
            agree!(self.state.leases.keys_owned(*id), self.naive.lease_keys(*id), "keys of lease {id}");
        }
        agree!(self.state.alarms.iter().collect::<BTreeSet<_>>(), self.naive.alarms.clone(), "alarms");
        Ok(())
    }

    /// After a whole compaction exactly what must stay is there.
    fn retained(&self) -> Checked {
        let store: Vec<(Bytes, Revision)> = self
            .state
            .index
            .events(Revision::ZERO, i64::MAX - 1)
            .map(|event| (event.key, event.meta.revision))
            .collect();
        let naive = &self.naive;
        let model: Vec<(Bytes, Revision)> = (0..naive.changes.len())
            .filter(|at| naive.is_retained(*at))
            .map(|at| &naive.changes[at])
            .map(|change| (change.key.clone(), Revision::new(change.main, change.sub)))
            .collect();
        agree!(store, model, "retained after compaction to {}", naive.compacted);
        Ok(())
    }

    fn relocate(&mut self, which: usize) -> Checked {
        let events: Vec<_> = self.state.index.events(Revision::ZERO, i64::MAX - 1).collect();
        if events.is_empty() {
            return Ok(());
        }
        let meta = events[which % events.len()].meta;
        if meta.place == Place::EMPTY {
            return Ok(());
        }
        let to = self.log.add(self.log.read(meta.place).expect("every value is there"));
        agree!(self.state.index.relocate(meta.revision, meta.place, to), true, "a value is moved");
        agree!(self.state.index.relocate(meta.revision, meta.place, to), false, "it is there no longer");
        Ok(())
    }

    /// Catches up as a watcher does, from a revision that is not compacted.
    fn watch(&self, key: &[u8], end: &[u8], start: i64) -> Checked {
        let start = start.max(self.naive.compacted + 1).max(1);
        let range = KeyRange::new(key, end);
        let index = &self.state.index;
        let store: Vec<mvccpb::Event> = index
            .events(Revision::new(start, 0), index.current())
            .filter(|event| range.contains(&event.key))
            .map(|one| event(&one.key, one.meta, index.prev_of(&one), &self.log))
            .collect();
        agree!(store, self.naive.watched(key, end, start), "watch of {key:?} to {end:?} from {start}");
        Ok(())
    }

    /// Everything that can be asked, of the present and of every view that was kept.
    fn finish(mut self) -> Checked {
        while self.state.index.compaction_step(3, &mut |_| {}) == Progress::More {}
        self.retained()?;
        self.watch(b"\0", b"\0", 0)?;
        self.leases_and_alarms()?;
        let mut views = std::mem::take(&mut self.kept);
        views.push((self.state.clone(), self.naive.clone()));
        for (state, naive) in &views {
            for revision in naive.compacted.max(1)..=naive.current {
                let all =
                    RangeRequest { key: vec![0].into(), range_end: vec![0].into(), revision, ..Default::default() };
                agree!(read(state, &all, &self.log), naive.range(&all, naive.current), "everything at {revision}");
            }
            agree!(state.index.live_keys(), naive.at(i64::MAX).len() as u64, "live keys");
        }
        Ok(())
    }
}

/// The revision that the changes from `seen` on were made at.
fn current_of(naive: &Naive, seen: usize) -> i64 {
    naive.changes.get(seen).map_or(i64::MAX, |change| change.main)
}

fn read(state: &State, request: &RangeRequest, log: &Log) -> Result<RangeResponse, Status> {
    let current = state.index.current();
    let answer = range::answer(&state.index, request, current, &mut |kv| log.read(kv.meta.place));
    answer.expect("every value is there").map(|answer| range_response(answer, log))
}

fn told(answer: Answer, log: &Log) -> Told {
    match answer {
        Answer::Put { revision, prev } => Told::Put(put_response(revision, prev, log)),
        Answer::DeleteRange { revision, deleted, prevs } => {
            Told::Delete(delete_response(revision, deleted, prevs, log))
        }
        Answer::Range(answer) => Told::Range(range_response(answer, log)),
        Answer::Txn(answer) => Told::Txn(txn_response(answer, log)),
        Answer::Compact { revision } | Answer::LeaseRevoke { revision } | Answer::LeaseCheckpoint { revision } => {
            Told::Revision(revision)
        }
        Answer::LeaseGrant { revision, id, ttl } => Told::Granted { revision, id, ttl },
        Answer::Alarm { alarms } => Told::Alarms(alarms.into_iter().collect()),
        Answer::Auth { .. } | Answer::Nothing => panic!("a request was not understood"),
    }
}

fn header(revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader { revision, ..Default::default() })
}

fn kv(key: &Bytes, meta: &KeyMeta, with_value: bool, log: &Log) -> KeyValue {
    let value = if with_value { log.read(meta.place).expect("every value is there") } else { Bytes::new() };
    KeyValue {
        key: key.clone(),
        create_revision: meta.create,
        mod_revision: meta.revision.main,
        version: meta.version,
        value,
        lease: meta.lease,
    }
}

fn event(key: &Bytes, meta: KeyMeta, prev: Option<KeyMeta>, log: &Log) -> mvccpb::Event {
    mvccpb::Event {
        r#type: if meta.is_tombstone() { EventType::Delete } else { EventType::Put } as i32,
        kv: Some(kv(key, &meta, true, log)),
        prev_kv: prev.map(|prev| kv(key, &prev, true, log)),
    }
}

fn put_response(revision: i64, prev: Option<KeyRef>, log: &Log) -> PutResponse {
    PutResponse { header: header(revision), prev_kv: prev.map(|prev| kv(&prev.key, &prev.meta, true, log)) }
}

fn delete_response(revision: i64, deleted: i64, prevs: Vec<KeyRef>, log: &Log) -> DeleteRangeResponse {
    let prev_kvs = prevs.iter().map(|prev| kv(&prev.key, &prev.meta, true, log)).collect();
    DeleteRangeResponse { header: header(revision), deleted, prev_kvs }
}

fn range_response(answer: RangeAnswer, log: &Log) -> RangeResponse {
    RangeResponse {
        header: header(answer.revision),
        kvs: answer.kvs.iter().map(|one| kv(&one.key, &one.meta, answer.with_values, log)).collect(),
        more: answer.more,
        count: answer.count,
    }
}

fn txn_response(answer: TxnAnswer, log: &Log) -> TxnResponse {
    let response = |answer| match answer {
        OpAnswer::Range(answer) => Response::ResponseRange(range_response(answer, log)),
        OpAnswer::Put { revision, prev } => Response::ResponsePut(put_response(revision, prev, log)),
        OpAnswer::DeleteRange { revision, deleted, prevs } => {
            Response::ResponseDeleteRange(delete_response(revision, deleted, prevs, log))
        }
        OpAnswer::Txn(answer) => Response::ResponseTxn(txn_response(answer, log)),
    };
    TxnResponse {
        header: header(answer.revision),
        succeeded: answer.succeeded,
        responses: answer.responses.into_iter().map(|answer| ResponseOp { response: Some(response(answer)) }).collect(),
    }
}

#[test]
fn store_and_model_tell_the_same() {
    let mut config = Config { failure_persistence: None, max_shrink_iters: 20_000, ..Config::default() };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = 1_500;
    }
    let seed = std::env::var("URD_SEED").ok().map_or(1, |seed| seed.parse::<u64>().expect("URD_SEED is a number"));
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let cases = config.cases;
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let (steps, revisions) = (Cell::new(0u64), Cell::new(0i64));
    let result = runner.run(&vec(steps::step(), 1..150), |history| {
        let mut pair = Pair::new();
        for step in history {
            pair.step(step)?;
            steps.set(steps.get() + 1);
        }
        revisions.set(revisions.get() + pair.naive.current - 1);
        pair.finish()
    });
    println!("{} histories (seed {seed}), {} steps, {} revisions", cases, steps.get(), revisions.get());
    if let Err(failure) = result {
        panic!("store and model part (seed {seed}):\n{failure}");
    }
}
