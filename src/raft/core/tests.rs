//! The core against a disk that loses what it may lose: random requests, writes that finish late or never, captures,
//! checkpoints, values that move, segments that are taken out and written again, and a crash at any point. After each
//! restart the store must be what a plain state makes of the same requests.

use std::rc::Rc;

use prost::Message as _;
use tempfile::TempDir;

use super::*;
use crate::{
    proto::etcdserverpb::{
        CompactionRequest, DeleteRangeRequest, InternalRaftRequest, PutRequest, RequestOp, TxnRequest, request_op,
    },
    raft::{
        bootstrap::Founder,
        start::{self, Manner, Resumed},
    },
    random::Random,
    shard::{mail::Proposal, pending::Pending},
    store::{
        checkpoint::CheckpointHead,
        hash::hash_kv,
        types::{KeyRange, Values},
    },
    wal::{
        bulk::Pace,
        disk::{Dir, Recycled},
        recovery::Options,
    },
};

/// All that a view tells of keys and of what has become of them.
fn contents(view: &View) -> Vec<String> {
    let index = &view.state.index;
    let keys = index.iter_refs(KeyRange::From(b""), 0).map(|it| format!("{it:?}"));
    let events = index.event_refs(Default::default(), i64::MAX).map(|it| format!("{it:?}"));
    keys.chain(events).chain([format!("{} {}", index.current(), index.compacted())]).collect()
}

/// Small, so that segments come and go.
const OPTIONS: Options =
    Options { segment_bytes: 48 * 1024, recent_bytes: 64 * 1024, cluster_id: 0xc1, member_id: 0xe1 };

/// What the requests make of a state that nothing ever happens to. Entry n lies whole in segment n.
struct Model {
    state: State,
    entries: Vec<Bytes>,
}

impl Values for Model {
    fn read(&self, place: Place) -> io::Result<Bytes> {
        let entry = &self.entries[place.segment as usize];
        Ok(entry.slice(place.offset as usize..(place.offset + place.len) as usize))
    }
}

impl Model {
    /// Of the first `count` requests.
    fn of(requests: &[Bytes], count: usize) -> Model {
        let mut model = Model { state: State::new(1), entries: vec![Bytes::new()] };
        for data in &requests[..count] {
            model.apply(data);
        }
        model
    }

    fn apply(&mut self, data: &Bytes) {
        self.entries.push(data.clone());
        let number = self.entries.len() as u64 - 1;
        let base = Place { segment: number as u32, offset: 0, len: data.len() as u32 };
        let entry = ApplyEntry { index: number, term: 1, base, data: data.clone(), quota_room: None };
        let mut state = self.state.clone();
        let _ = state.apply(&entry, &*self, &mut AppliedBatch::default()).unwrap().result;
        self.state = state;
    }
}

struct World {
    dir: Dir,
    _temp: TempDir,
    core: Core,
    random: Random,
    pending: Rc<Pending<()>>,
    covered: Covered,
    capture: Option<Box<Capture>>,
    write: Option<PendingWrite>,
    /// Views that somebody still reads from, and what was in them when they began to.
    held: Vec<(Arc<View>, Vec<String>)>,
    published: Published,
    /// Whether the core knows that nobody looks there from another thread.
    only_here: bool,
    /// Of the last view that was published.
    revision: i64,
    retired: Vec<Arc<Segment>>,
    requests: Vec<Bytes>,
    answered: usize,
    /// Revisions that were told when each read that waits was asked.
    reads: VecDeque<i64>,
    told: i64,
    recycled: usize,
}

fn resume(dir: &Dir) -> (Core, Covered) {
    let founder = Founder { id: OPTIONS.member_id, name: "n".into(), peer_urls: vec!["http://localhost:2380".into()] };
    let Resumed { parts, covered, .. } = resumed(dir, vec![founder], false);
    (Core::new(parts).unwrap(), covered)
}

fn resume_as(dir: &Dir, founders: Vec<Founder>, force_new_cluster: bool) -> Parts {
    resumed(dir, founders, force_new_cluster).parts
}

fn resumed(dir: &Dir, founders: Vec<Founder>, force_new_cluster: bool) -> Resumed {
    let manner = Manner {
        founders: |_| founders,
        force_new_cluster,
        lease_ttl_min: 1,
        shards: 1,
        election_ticks: 10,
        pre_vote: true,
        request_ticks: 70,
        retry_ticks: 5,
        life: 0,
        quota_bytes: None,
        catch_up_entries: 5000,
        span_entries: 4,
        logger: slog::Logger::root(slog::Discard, slog::o!()),
    };
    start::resume(dir, &OPTIONS, manner, None).unwrap()
}

impl World {
    fn new(seed: u64) -> World {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::open(temp.path()).unwrap();
        let (core, covered) = resume(&dir);
        let published = Published::new(View { state: core.state.clone(), segments: core.writer.table().clone() });
        let mut world = World {
            dir,
            _temp: temp,
            core,
            random: Random(seed),
            pending: Rc::default(),
            covered,
            capture: None,
            write: None,
            held: Vec::new(),
            published,
            only_here: seed.is_multiple_of(2),
            revision: 0,
            retired: Vec::new(),
            requests: Vec::new(),
            answered: 0,
            reads: VecDeque::new(),
            told: 0,
            recycled: 0,
        };
        world.rise();
        world
    }

    fn rise(&mut self) {
        if self.only_here {
            self.core.publish_only_here(self.published.clone());
        }
        self.turn();
        self.core.campaign().unwrap();
        self.turn();
    }

    fn turn(&mut self) {
        let effects = self.core.turn().unwrap();
        assert!(effects.messages.is_empty());
        if let Some(write) = effects.write {
            assert!(self.write.replace(write).is_none(), "two writes at once");
        }
        if let Some(view) = effects.view {
            assert!(self.revision <= view.revision(), "the published state went back");
            self.revision = view.revision();
            self.published.publish(view);
        }
        for (_, mail) in effects.mail {
            let published = self.published.load().revision();
            for (_, outcome) in mail.outcomes {
                match outcome {
                    Outcome::Applied(_) => self.answered += 1,
                    Outcome::Done => {
                        let then = self.reads.pop_front().unwrap();
                        assert!(mail.view.revision() >= then, "a read does not see what was acknowledged before it");
                    }
                    Outcome::Failed(status) => panic!("{status}"),
                }
            }
            assert!(mail.view.revision() <= published, "an answer came before what it tells was published");
            self.told = self.told.max(mail.view.revision());
        }
        if let Some(capture) = effects.capture {
            self.capture = Some(capture);
        }
    }

    fn request(&mut self) -> InternalRaftRequest {
        let id = self.requests.len() as u64 + 1;
        let key = |random: &mut Random| Bytes::from(format!("key{}", random.below(12)));
        let len = match self.random.below(20) {
            0 => 0,
            1 => 9_000,
            2..5 => 1_000,
            _ => self.random.below(200),
        };
        let value: Bytes = (0..len).map(|_| self.random.draw() as u8).collect::<Vec<_>>().into();
        let random = &mut self.random;
        let mut request = InternalRaftRequest { id, ..Default::default() };
        let put = |random: &mut Random, value: Bytes| PutRequest { key: key(random), value, ..Default::default() };
        match random.below(12) {
            0 => request.delete_range = Some(DeleteRangeRequest { key: key(random), ..Default::default() }),
            1 | 2 => {
                request.put = Some(PutRequest { ignore_value: true, ..put(random, Bytes::new()) });
            }
            3 => {
                let op = |put| RequestOp { request: Some(request_op::Request::RequestPut(put)) };
                let first = put(random, value.clone());
                // A transaction may not put a key twice.
                let second = PutRequest { key: Bytes::from_static(b"other"), value, ..Default::default() };
                request.txn = Some(TxnRequest { success: vec![op(first), op(second)], ..Default::default() });
            }
            4 => {
                let current = self.core.state().index.current();
                let revision = current - random.below(20) as i64;
                request.compaction = Some(CompactionRequest { revision, physical: false });
            }
            _ => request.put = Some(put(random, value)),
        }
        request
    }

    fn step(&mut self) {
        match self.random.below(16) {
            0..5 => {
                let mut mail = ToCore::default();
                for _ in 0..=self.random.below(4) {
                    let request = self.request();
                    let (id, data) = (request.id, Bytes::from(request.encode_to_vec()));
                    self.requests.push(data.clone());
                    mail.proposals.push(Proposal { token: self.pending.wait(0).token(), id, data, only_in: None });
                }
                if self.random.below(3) == 0 {
                    mail.reads.push(self.pending.wait(0).token());
                    self.reads.push_back(self.told);
                }
                self.core.receive(0, mail);
                self.turn();
            }
            5..10 => self.finish_write(),
            10 => self.core.want_capture(if self.random.below(3) == 0 { Roll::Over } else { Roll::No }),
            11 => self.checkpoint(),
            12 => self.relocate(),
            13 => {
                let budget = 1 + self.random.below(30) as usize;
                self.core.compaction_slice(budget);
                self.turn();
            }
            14 => {
                // Somebody begins to read, somebody ends.
                self.check_held();
                if self.held.len() < 3 {
                    let view = self.published.load();
                    let contents = contents(&view);
                    self.held.push((view, contents));
                }
                if self.random.below(2) == 0 && !self.held.is_empty() {
                    self.held.remove(0);
                }
                self.reclaim();
            }
            _ => {
                self.core.tick();
                self.turn();
            }
        }
    }

    fn finish_write(&mut self) {
        let Some(write) = self.write.take() else { return };
        for piece in &write.pieces {
            let header = self.core.writer().segment_header(piece.segment.life());
            self.dir.ensure_segment(&header, Pace::Hurried).unwrap();
        }
        self.dir.write(&write).unwrap();
        self.core.written();
        self.turn();
    }

    fn checkpoint(&mut self) {
        let Some(capture) = self.capture.take() else { return };
        let Capture { state, hard_state, position, extents } = *capture;
        self.dir.ensure_segment(&self.core.writer().segment_header(position.life), Pace::Hurried).unwrap();
        let covered =
            Covered { applied: state.applied().0, replay_from: position.life, usage: state.index.usage().clone() };
        self.dir.write_checkpoint(&state, &CheckpointHead { hard_state, position, extents }, Pace::Hurried).unwrap();
        self.covered = covered;
        self.retired.extend(self.core.checkpointed(&self.covered));
        self.turn();
        self.reclaim();
    }

    fn reclaim(&mut self) {
        for segment in std::mem::take(&mut self.retired) {
            match self.dir.recycle(segment, Pace::Hurried).unwrap() {
                Recycled::Done => self.recycled += 1,
                Recycled::Pinned(segment) => self.retired.push(segment),
            }
        }
    }

    fn relocate(&mut self) {
        if self.core.relocating() {
            return;
        }
        let index = &self.core.state().index;
        let lives: Vec<u32> = sealed(self.core.writer())
            .map(|segment| segment.life())
            .filter(|life| *life < self.covered.replay_from && index.usage().of(*life).is_some())
            .collect();
        if lives.is_empty() {
            return;
        }
        let life = lives[self.random.below(lives.len() as u64) as usize];
        let most = 1 + self.random.below(30) as usize;
        let places: Vec<_> = index
            .event_refs(Default::default(), i64::MAX)
            .filter(|event| event.meta.place.len > 0 && event.meta.place.segment == life)
            .map(|event| (event.meta.revision, event.meta.place))
            .take(most)
            .collect();
        let table = self.core.writer().table();
        let values = places.into_iter().map(|(revision, from)| {
            let value = table.read(from).unwrap();
            MovedValue { revision, from, value }
        });
        let values = values.collect();
        self.core.relocate(values);
        self.turn();
    }

    /// What somebody has begun to read stays as it was, whatever has become of it since.
    fn check_held(&self) {
        for (view, then) in &self.held {
            assert_eq!(contents(view), *then, "a view has changed");
            for event in view.state.index.event_refs(Default::default(), i64::MAX) {
                view.segments.value(event.meta.place).unwrap();
            }
        }
    }

    /// Of the write under way any blocks may be on the disk: of its first pieces all, of one some, of those after none.
    fn crash(&mut self) {
        if let Some(write) = self.write.take() {
            let reached = self.random.below(write.pieces.len() as u64 + 1) as usize;
            for (at, piece) in write.pieces.iter().enumerate().take(reached + 1) {
                self.dir
                    .ensure_segment(&self.core.writer().segment_header(piece.segment.life()), Pace::Hurried)
                    .unwrap();
                let file = std::fs::OpenOptions::new().write(true).open(piece.segment.path()).unwrap();
                for (block, bytes) in piece.bytes().chunks(4096).enumerate() {
                    if at < reached || self.random.below(2) == 0 {
                        let offset = u64::from(piece.offset) + block as u64 * 4096;
                        std::os::unix::fs::FileExt::write_all_at(&file, bytes, offset).unwrap();
                    }
                }
            }
        }
        self.held.clear();
        self.retired.clear();
        self.capture = None;
        self.revision = 0;
        self.reads.clear();
        (self.core, self.covered) = resume(&self.dir);
        let retired = self.core.checkpointed(&self.covered);
        self.retired.extend(retired);
        self.rise();
        self.finish_write();
        while self.write.is_some() {
            self.finish_write();
        }
        self.verify();
    }

    fn verify(&mut self) {
        let index = &self.core.state().index;
        // Requests are done in the order in which they were asked; of those without an answer some may be done.
        let mut model = Model::of(&self.requests, self.answered);
        let mut done = self.answered;
        let reached = |model: &Model| {
            (model.state.index.current(), model.state.index.compacted()) == (index.current(), index.compacted())
        };
        while !reached(&model) {
            let request = self.requests.get(done).unwrap_or_else(|| {
                let (current, compacted) = (index.current(), index.compacted());
                panic!(
                    "{} of {done} requests were answered, and they never led to {current}, {compacted}",
                    self.answered
                )
            });
            model.apply(request);
            done += 1;
        }
        let found = hash_kv(index, index.current(), self.core.writer().table()).unwrap();
        assert_eq!(found, hash_kv(&model.state.index, index.current(), &model).unwrap());
        self.requests.truncate(done);
        self.answered = done;
    }
}

fn run(seed: u64, steps: usize) -> usize {
    let mut world = World::new(seed);
    for _ in 0..steps {
        match world.random.below(60) {
            0 => world.crash(),
            _ => world.step(),
        }
    }
    world.crash();
    world.check_held();
    world.recycled
}

/// `URD_SEEDS` sets how many histories.
#[test]
fn what_was_acknowledged_outlives_a_crash_at_any_point() {
    let seeds = std::env::var("URD_SEEDS").map_or(60, |text| text.parse().expect("a number"));
    let mut recycled = 0;
    for seed in 0..seeds {
        let told = std::panic::AssertUnwindSafe(|| run(seed, 600));
        match std::panic::catch_unwind(told) {
            Ok(count) => recycled += count,
            Err(cause) => {
                eprintln!("seed {seed}");
                std::panic::resume_unwind(cause);
            }
        }
    }
    assert!(recycled > 0, "no segment was ever written again, so nothing was proven of that");
}

/// What only a leader of a certain term may say is not logged in another, and never sent on to who leads then.
#[test]
fn what_is_of_one_term_is_logged_in_no_other() {
    let temp = tempfile::tempdir().unwrap();
    let dir = Dir::open(temp.path()).unwrap();
    let (mut core, _) = resume(&dir);
    core.turn().unwrap();
    core.campaign().unwrap();
    dir.write(&core.turn().unwrap().write.unwrap()).unwrap();
    core.written();
    core.turn().unwrap();
    let term = core.standing().term;
    let pending: Rc<Pending<()>> = Rc::default();
    let put = PutRequest { key: Bytes::from_static(b"k"), ..Default::default() };
    for (id, only_in) in [(1, Some(term)), (2, Some(term - 1)), (3, Some(term + 1)), (4, None)] {
        let data = InternalRaftRequest { id, put: Some(put.clone()), ..Default::default() }.encode_to_vec().into();
        let proposals = vec![Proposal { token: pending.wait(0).token(), id, data, only_in }];
        core.receive(0, ToCore { proposals, ..ToCore::default() });
        let mut effects = core.turn().unwrap();
        if let Some(write) = effects.write.take() {
            dir.write(&write).unwrap();
            core.written();
            effects = core.turn().unwrap();
        }
        let outcomes: Vec<&Outcome> =
            effects.mail.iter().flat_map(|(_, mail)| &mail.outcomes).map(|(_, outcome)| outcome).collect();
        let fits = only_in.is_none_or(|only| only == term);
        match &outcomes[..] {
            [Outcome::Applied(_)] => assert!(fits, "{only_in:?}"),
            [Outcome::Failed(status)] => assert!(!fits && *status == error::LEADER_CHANGED, "{only_in:?}"),
            other => panic!("{only_in:?}: {other:?}"),
        }
    }
}

/// `--force-new-cluster`: what is known to be committed stays, what is not goes, and so does everybody else.
#[test]
fn a_member_that_is_to_go_on_alone_keeps_what_is_committed() {
    let temp = tempfile::tempdir().unwrap();
    let dir = Dir::open(temp.path()).unwrap();
    let founder = |id| Founder { id, name: format!("n{id}"), peer_urls: vec![format!("http://localhost:{id}")] };
    let founders = || vec![founder(0xe1), founder(0xe2), founder(0xe3)];
    let put = |key: &'static [u8]| -> Bytes {
        let put = Some(PutRequest { key: Bytes::from_static(key), ..Default::default() });
        InternalRaftRequest { put, ..Default::default() }.encode_to_vec().into()
    };
    {
        let mut parts = resume_as(&dir, founders(), false);
        for (index, key) in [(4, b"committed".as_slice()), (5, b"not committed")] {
            parts.writer.append_entry(index, 2, EntryType::EntryNormal as u8, &put(key));
        }
        parts.writer.append_hard_state(2, 0xe2, 4);
        dir.write(&parts.writer.take_write().unwrap()).unwrap();
    }
    let assert_alone = |force| {
        let mut core = Core::new(resume_as(&dir, founders(), force)).unwrap();
        core.turn().unwrap();
        let state = core.state();
        assert_eq!(state.conf_state().voters, [0xe1]);
        assert_eq!(state.membership.members().map(|member| member.id).collect::<Vec<_>>(), [0xe1]);
        assert!(state.membership.is_removed(0xe2) && state.membership.is_removed(0xe3));
        assert_eq!(state.applied(), (6, 2), "two were removed behind the entry that was committed");
        assert_eq!(state.index.live_keys(), 1);
        assert!(core.is_alone());
    };
    assert_alone(true);
    // What was done once is in the log, and doing it again does nothing.
    assert_alone(false);
    assert_alone(true);
}

/// The crate drops a ReadIndex before the first commit of the leader's term; here it waits.
#[test]
fn a_read_before_the_first_commit_of_a_term_is_held_and_then_answered() {
    let temp = tempfile::tempdir().unwrap();
    let dir = Dir::open(temp.path()).unwrap();
    let (mut core, _) = resume(&dir);
    core.turn().unwrap();
    let pending: Rc<Pending<()>> = Rc::default();
    let done = |effects: &Effects| {
        let outcomes = effects.mail.iter().flat_map(|(_, mail)| &mail.outcomes);
        outcomes.filter(|(_, outcome)| matches!(outcome, Outcome::Done)).count()
    };
    let read = || ToCore { reads: vec![pending.wait(0).token()], ..ToCore::default() };
    core.receive(0, read());
    assert_eq!(done(&core.turn().unwrap()), 0, "nobody leads yet");
    core.campaign().unwrap();
    core.receive(0, read());
    let effects = core.turn().unwrap();
    assert_eq!(done(&effects), 0, "nothing of this term is durable");
    assert!(!core.serves());
    dir.write(&effects.write.unwrap()).unwrap();
    core.written();
    assert_eq!(done(&core.turn().unwrap()), 2);
    assert!(core.serves());
}

/// A new log begins with the entry by which etcd's members join, so that others can join it later.
#[test]
fn a_new_log_begins_with_the_members_own_entry_at_term_1() {
    let temp = tempfile::tempdir().unwrap();
    let dir = Dir::open(temp.path()).unwrap();
    let (mut core, _) = resume(&dir);
    core.turn().unwrap();
    assert_eq!(core.state().applied(), (1, 1));
    assert_eq!(core.state().conf_state().voters, [0xe1]);
    assert_eq!(core.state().membership.members().map(|member| member.id).collect::<Vec<_>>(), [0xe1]);
    core.campaign().unwrap();
    dir.write(&core.turn().unwrap().write.unwrap()).unwrap();
    core.written();
    core.turn().unwrap();
    assert_eq!(core.state().applied(), (2, 2), "its first term is the second, as etcd's");
}

/// A compaction that somebody waits for is over when its own events are gone, whatever others were asked for since.
#[test]
fn a_compaction_is_waited_for_no_longer_than_it_takes() {
    let mut world = World::new(7);
    world.finish_write();
    let put = |world: &mut World| {
        let id = world.requests.len() as u64 + 1;
        let put = PutRequest { key: Bytes::from_static(b"k"), ..Default::default() };
        let data = Bytes::from(InternalRaftRequest { id, put: Some(put), ..Default::default() }.encode_to_vec());
        world.requests.push(data.clone());
        let proposal = Proposal { token: world.pending.wait(0).token(), id, data, only_in: None };
        world.core.receive(0, ToCore { proposals: vec![proposal], ..ToCore::default() });
        world.turn();
        world.finish_write();
    };
    let compact = |world: &mut World, revision| {
        let id = world.requests.len() as u64 + 1;
        let compaction = Some(CompactionRequest { revision, physical: true });
        let data = Bytes::from(InternalRaftRequest { id, compaction, ..Default::default() }.encode_to_vec());
        world.requests.push(data.clone());
        let token = world.pending.wait(0).token();
        world
            .core
            .receive(0, ToCore { proposals: vec![Proposal { token, id, data, only_in: None }], ..ToCore::default() });
        world.turn();
        world.finish_write();
    };
    for _ in 0..100 {
        put(&mut world);
    }
    compact(&mut world, 20);
    let token = world.pending.wait(0).token();
    world
        .core
        .receive(0, ToCore { controls: vec![Control::CompactionDone { token, revision: 20 }], ..ToCore::default() });
    world.reads.push_back(0);
    for revision in 21..60 {
        // Each slice is followed by another compaction: there is always one under way.
        compact(&mut world, revision);
        world.core.compaction_slice(1);
        assert!(world.core.state().index.compacting());
        world.turn();
    }
    assert!(world.reads.is_empty(), "it waits for the compactions after it");
}

/// What a client has freed before it asks is given back before it is answered, whoever else has asked before.
#[test]
fn who_asks_for_space_while_it_is_given_back_waits_for_the_next_time() {
    let mut world = World::new(8);
    world.finish_write();
    let ask = |world: &mut World| {
        let token = world.pending.wait(0).token();
        world.core.receive(0, ToCore { controls: vec![Control::Defragment { token }], ..ToCore::default() });
        world.reads.push_back(0);
        world.turn();
    };
    assert!(!world.core.begin_giving_back(), "nobody has asked");
    ask(&mut world);
    assert!(world.core.begin_giving_back());
    ask(&mut world);
    world.core.space_given_back(&Ok(()));
    world.turn();
    assert_eq!(world.reads.len(), 1, "only the first is answered");
    assert!(world.core.wants_space() && world.core.begin_giving_back());
    world.core.space_given_back(&Ok(()));
    world.turn();
    assert!(world.reads.is_empty() && !world.core.wants_space());
}
