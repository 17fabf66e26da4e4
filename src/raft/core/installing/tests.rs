//! Three cores whose messages go straight from one to the other, one of which is left behind until only a snapshot helps
//! it. `sim/` does the same with faults in everything.

use bytes::Bytes;
use prost::Message as _;
use tempfile::TempDir;

use super::*;
use crate::{
    bolt::read::Database,
    proto::etcdserverpb::{CompactionRequest, InternalRaftRequest, PutRequest},
    raft::{
        bootstrap::{Founder, attributes_request},
        core::{Covered, Roll},
        database::Making,
        mail::{Proposal, ToCore, Token},
        start::{self, Manner, Resumed},
    },
    store::{
        backend::import::{self, KeepValues, RevisionValue},
        checkpoint::CheckpointHead,
        hash::{hash, hash_kv},
    },
    wal::{
        bulk::Pace,
        disk::{Dir, Recycled},
        record::Numbering,
        recovery::Options,
    },
};

const CATCH_UP_ENTRIES: u64 = 5;
/// Who is left behind.
const BEHIND: usize = 2;

fn id(at: usize) -> u64 {
    0x11 + at as u64
}

struct One {
    core: Core,
    dir: Dir,
    _temp: TempDir,
    at: usize,
    covered: Covered,
    out: Vec<Message>,
    snapshots: Vec<SnapshotToSend>,
    begun: Option<Box<Capture>>,
    ignored: usize,
    jumps: usize,
}

fn resume(dir: &Dir, at: usize) -> (Core, Covered) {
    let founder = |at| Founder { id: id(at), name: format!("m{at}"), peer_urls: vec![format!("http://m{at}")] };
    let options = Options { segment_bytes: 48 * 1024, recent_bytes: 64 * 1024, cluster_id: 0xc1, member_id: id(at) };
    let manner = Manner {
        founders: |_| (0..3).map(founder).collect(),
        lease_ttl_min: 1,
        shards: 1,
        election_ticks: 10,
        pre_vote: true,
        request_ticks: 70,
        retry_ticks: 5,
        life: at as u64,
        quota_bytes: None,
        catch_up_entries: CATCH_UP_ENTRIES,
        span_entries: 4,
        force_new_cluster: false,
        logger: slog::Logger::root(slog::Discard, slog::o!()),
    };
    let Resumed { parts, covered, .. } = start::resume(dir, &options, manner, None).unwrap();
    let mut core = Core::new(parts).unwrap();
    core.checkpointed(&covered);
    (core, covered)
}

impl One {
    fn new(at: usize) -> One {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::open(temp.path()).unwrap();
        let (core, covered) = resume(&dir, at);
        let (out, snapshots) = (Vec::new(), Vec::new());
        One { core, dir, _temp: temp, at, covered, out, snapshots, begun: None, ignored: 0, jumps: 0 }
    }

    /// What is to be written is durable at once.
    fn turn(&mut self) {
        loop {
            let effects = self.core.turn().unwrap();
            self.out.extend(effects.messages);
            self.snapshots.extend(effects.snapshots);
            self.jumps += usize::from(effects.mail.iter().any(|(_, mail)| mail.jumped));
            match effects.installing {
                Some(Installing::Begun(capture)) => self.begun = Some(capture),
                Some(Installing::Ignored) => self.ignored += 1,
                None => {}
            }
            if let Some(capture) = effects.capture {
                self.write(*capture);
                self.recycle();
            }
            if let Some(write) = effects.write {
                for piece in &write.pieces {
                    let header = self.core.writer().segment_header(piece.segment.life());
                    self.dir.ensure_segment(&header, Pace::Hurried).unwrap();
                }
                self.dir.write(&write).unwrap();
                self.core.written();
            } else if !self.core.has_work() {
                return;
            }
        }
    }

    fn write(&mut self, capture: Capture) {
        let Capture { state, hard_state, position, extents } = capture;
        self.dir.ensure_segment(&self.core.writer().segment_header(position.life), Pace::Hurried).unwrap();
        self.covered =
            Covered { applied: state.applied().0, replay_from: position.life, usage: state.index.usage().clone() };
        self.dir.write_checkpoint(&state, &CheckpointHead { hard_state, position, extents }, Pace::Hurried).unwrap();
    }

    fn recycle(&mut self) {
        let retired = self.core.checkpointed(&self.covered);
        // A view of before must not be what holds them.
        self.turn();
        for segment in retired {
            if let Recycled::Pinned(segment) = self.dir.recycle(segment, Pace::Hurried).unwrap() {
                drop(segment);
            }
        }
    }

    fn checkpoint(&mut self) {
        self.core.want_capture(Roll::Over);
        self.turn();
    }

    fn put(&mut self, key: &str, value: &str) {
        let (key, value) = (Bytes::from(key.to_owned()), Bytes::from(value.to_owned()));
        self.ask(InternalRaftRequest {
            put: Some(PutRequest { key, value, ..Default::default() }),
            ..Default::default()
        });
    }

    fn ask(&mut self, request: InternalRaftRequest) {
        let mut mail = ToCore::default();
        let token = Token { slot: 0, life: 0 };
        mail.proposals.push(Proposal { token, id: 0, data: request.encode_to_vec().into(), only_in: None });
        self.core.receive(0, mail);
        self.turn();
    }

    fn hash(&self) -> (i64, i64, u32) {
        let index = &self.core.state().index;
        let hash = hash_kv(index, index.current(), self.core.writer().table()).unwrap().hash;
        (index.current(), index.compacted(), hash)
    }

    /// The process dies and another one begins with what is on the disk.
    fn restart(&mut self) {
        (self.core, self.covered) = resume(&self.dir, self.at);
        self.out.clear();
        self.snapshots.clear();
        self.begun = None;
    }
}

struct Keeper<'a> {
    core: &'a mut Core,
    numbering: Numbering,
}

impl KeepValues for Keeper<'_> {
    fn keep(&mut self, values: &[RevisionValue<'_>]) -> std::io::Result<Vec<Place>> {
        let record_bytes = self.core.writer().moved_record_bytes();
        Ok(self.core.keep_values(&self.numbering.spell(values, record_bytes)?))
    }
}

/// How far taking a snapshot in goes before the process dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Gathered,
    Kept,
    Begun,
    Exchanged,
    Installed,
}

struct Three {
    ones: Vec<One>,
    is_cut: bool,
}

impl Three {
    /// The first leads.
    fn new() -> Three {
        let mut three = Three { ones: (0..3).map(One::new).collect(), is_cut: false };
        three.ones.iter_mut().for_each(One::turn);
        three.ones[0].core.campaign().unwrap();
        three.ones[0].turn();
        three.settle();
        assert!(three.ones[0].core.is_leader());
        three
    }

    /// Until nothing is on the way any more.
    fn settle(&mut self) {
        loop {
            let out: Vec<Message> = self.ones.iter_mut().flat_map(|one| std::mem::take(&mut one.out)).collect();
            if out.is_empty() {
                return;
            }
            for message in out {
                let (from, to) = ((message.from - id(0)) as usize, (message.to - id(0)) as usize);
                if self.is_cut && (from == BEHIND || to == BEHIND) {
                    continue;
                }
                self.ones[to].core.step(message);
                self.ones[to].turn();
            }
        }
    }

    fn tick(&mut self) {
        self.ones[0].core.tick();
        self.ones[0].turn();
        self.settle();
    }

    fn puts(&mut self, count: usize) {
        for number in 0..count {
            self.ones[0]
                .put(&format!("key {}", number % 30), &format!("value {number} {}", "x".repeat(number * 7 % 900)));
            self.settle();
        }
    }

    /// The last is left behind, and what it has missed is compacted away.
    fn leave_behind(&mut self) {
        self.puts(20);
        self.ones[BEHIND].checkpoint();
        self.fall_behind();
    }

    fn fall_behind(&mut self) {
        self.is_cut = true;
        self.puts(120);
        let revision = self.ones[0].core.state().index.current() - 10;
        self.ones[0].ask(InternalRaftRequest {
            compaction: Some(CompactionRequest { revision, physical: false }),
            ..Default::default()
        });
        self.settle();
        self.ones[0].checkpoint();
        self.is_cut = false;
    }

    /// The snapshot that the leader sends now.
    fn snapshot(&mut self) -> SnapshotToSend {
        for _ in 0..20 {
            if let Some(snapshot) = self.ones[0].snapshots.pop() {
                return snapshot;
            }
            self.tick();
        }
        panic!("the leader sends no snapshot");
    }

    /// Its values are on their way into the log.
    fn keep(&mut self, snapshot: SnapshotToSend) -> Incoming {
        let database = Making::begin(snapshot.view.clone()).piece(usize::MAX).unwrap();
        let one = &mut self.ones[BEHIND];
        let message = messages::message_for_crate(snapshot.message).unwrap();
        assert!(one.core.wants_snapshot(&message));
        one.core.begin_keeping();
        let mut keeper = Keeper { core: &mut one.core, numbering: Numbering::default() };
        let imported = import::import(&Database::open(&database[..], "snapshot").unwrap(), 1, &mut keeper).unwrap();
        assert_eq!(imported.consistent_index, message.get_snapshot().get_metadata().index);
        Incoming { message, state: imported.state }
    }

    fn take_in(&mut self, snapshot: SnapshotToSend, until: Step) {
        let incoming = self.keep(snapshot);
        let one = &mut self.ones[BEHIND];
        if until == Step::Gathered {
            return;
        }
        one.turn();
        assert!(one.core.has_kept());
        // What nothing points at yet stays.
        one.checkpoint();
        one.turn();
        if until == Step::Kept {
            return;
        }
        one.core.install(Box::new(incoming));
        one.turn();
        let capture = one.begun.take().expect("the snapshot is of use");
        assert!(one.out.is_empty(), "nothing is promised before it is durable: {:?}", one.out);
        if until == Step::Begun {
            return;
        }
        one.write(*capture);
        if until == Step::Exchanged {
            return;
        }
        one.core.installed();
        one.recycle();
        one.turn();
    }
}

#[test]
fn a_member_a_little_behind_is_sent_entries() {
    let mut three = Three::new();
    three.puts(40);
    three.ones[0].checkpoint();
    three.is_cut = true;
    three.puts(CATCH_UP_ENTRIES as usize);
    three.ones[0].checkpoint();
    three.is_cut = false;
    for _ in 0..5 {
        three.tick();
    }
    assert!(three.ones[0].snapshots.is_empty());
    assert_eq!(three.ones[BEHIND].hash(), three.ones[0].hash());
}

#[test]
fn a_snapshot_is_of_exactly_the_entry_that_its_message_names() {
    let mut three = Three::new();
    three.leave_behind();
    let snapshot = three.snapshot();
    assert_eq!((snapshot.to(), snapshot.message.from), (id(BEHIND), Some(id(0))));
    let metadata = snapshot.message.snapshot.as_ref().unwrap().metadata.as_ref().unwrap();
    let (index, term) = snapshot.view.state.applied();
    assert_eq!((metadata.index, metadata.term), (Some(index), Some(term)));
    assert_eq!(metadata.conf_state.as_ref(), Some(snapshot.view.state.conf_state()));
    let head = snapshot.head();
    let (length, message) = head.split_at(8);
    assert_eq!(length, (message.len() as u64).to_be_bytes());
    assert_eq!(raftpb::Message::decode(message).unwrap(), snapshot.message);
    // While it is on its way what follows it is kept, however much that is.
    three.is_cut = true;
    three.puts(3 * CATCH_UP_ENTRIES as usize);
    three.ones[0].checkpoint();
    three.is_cut = false;
    three.take_in(snapshot, Step::Installed);
    three.ones[0].core.report_snapshot(id(BEHIND), Delivery::Arrived);
    for _ in 0..5 {
        three.tick();
    }
    assert!(three.ones[0].snapshots.is_empty(), "one was enough");
    assert_eq!(three.ones[BEHIND].hash(), three.ones[0].hash());
}

/// Wherever a process dies, the next one finds the old state or the new one, and the vote that was given.
#[test]
fn a_kill_at_any_step_leaves_a_sound_state_and_no_vote_is_taken_back() {
    for step in [Step::Gathered, Step::Kept, Step::Begun, Step::Exchanged, Step::Installed] {
        let mut three = Three::new();
        three.leave_behind();
        let snapshot = three.snapshot();
        let (old, new) = (three.ones[BEHIND].hash(), three.ones[0].hash());
        let wanted = hash(&snapshot.view.state, &snapshot.view.segments).unwrap();
        let before = three.ones[BEHIND].core.standing();
        assert_eq!(before.vote, id(0), "it has given its vote to the leader");
        three.take_in(snapshot, step);
        if step == Step::Installed {
            assert_eq!(three.ones[BEHIND].jumps, 1);
            assert_eq!(three.ones[BEHIND].hash(), new);
        }
        three.ones[BEHIND].restart();
        let found = &three.ones[BEHIND];
        assert_eq!(found.hash(), if step < Step::Exchanged { old } else { new }, "{step:?}");
        let after = found.core.standing();
        assert_eq!((after.term, after.vote), (before.term, before.vote), "{step:?}");
        if step >= Step::Exchanged {
            let found = hash(found.core.state(), found.core.writer().table()).unwrap();
            assert_eq!(found, wanted, "{step:?}");
        }
        // However it went, the member goes on, by another snapshot if need be.
        three.ones[BEHIND].turn();
        let delivery = if step >= Step::Exchanged { Delivery::Arrived } else { Delivery::Lost };
        three.ones[0].core.report_snapshot(id(BEHIND), delivery);
        three.puts(3);
        if step < Step::Exchanged {
            let snapshot = three.snapshot();
            three.take_in(snapshot, Step::Installed);
            three.ones[0].core.report_snapshot(id(BEHIND), Delivery::Arrived);
        }
        for _ in 0..5 {
            three.tick();
        }
        assert_eq!(three.ones[BEHIND].hash(), three.ones[0].hash(), "{step:?}");
        let log = three.ones[BEHIND].core.writer().log_bytes();
        three.ones[BEHIND].checkpoint();
        three.ones[BEHIND].restart();
        assert_eq!(three.ones[BEHIND].hash(), three.ones[0].hash(), "{step:?}");
        assert!(three.ones[BEHIND].core.writer().log_bytes() <= log, "what nothing points at has gone");
    }
}

/// What is committed then is not in its log: the crate, which looks there for changes of the members, would end the process.
#[test]
fn who_takes_a_state_over_does_not_stand_for_election_meanwhile() {
    let mut three = Three::new();
    three.leave_behind();
    let snapshot = three.snapshot();
    three.take_in(snapshot, Step::Begun);
    let one = &mut three.ones[BEHIND];
    for _ in 0..50 {
        one.core.tick();
        one.turn();
    }
    let mut stand = Message { from: id(0), to: id(BEHIND), term: one.core.standing().term, ..Message::default() };
    stand.set_msg_type(raft::eraftpb::MessageType::MsgTimeoutNow);
    one.core.step(stand);
    one.turn();
    assert!(one.out.is_empty(), "{:?}", one.out);
    one.restart();
    one.turn();
    assert_eq!(one.core.standing().vote, id(0));
}

/// A newcomer's word may be in the very snapshot that it is sent, and is applied nowhere then.
#[test]
fn what_a_member_has_said_of_itself_may_come_with_the_state() {
    for (said, known) in [("http://c", true), ("http://elsewhere", false)] {
        let mut three = Three::new();
        three.leave_behind();
        let request = |urls: &str| attributes_request(77, id(BEHIND), "newcomer", &[urls.to_owned()]);
        three.ones[BEHIND].core.introduce(77, request(said));
        three.ones[0].ask(InternalRaftRequest::decode(request("http://c")).unwrap());
        three.settle();
        three.ones[0].checkpoint();
        let snapshot = three.snapshot();
        assert!(!three.ones[BEHIND].core.is_introduced());
        three.take_in(snapshot, Step::Installed);
        assert_eq!(three.ones[BEHIND].core.is_introduced(), known, "{said}");
    }
}

#[test]
fn a_snapshot_of_what_the_member_has_changes_nothing() {
    let mut three = Three::new();
    three.leave_behind();
    let snapshot = three.snapshot();
    let message = messages::message_for_crate(snapshot.message.clone()).unwrap();
    three.take_in(snapshot, Step::Installed);
    three.settle();
    let one = &mut three.ones[BEHIND];
    assert!(!one.core.wants_snapshot(&message));
    let state = one.core.state().clone();
    one.core.install(Box::new(Incoming { message, state }));
    one.turn();
    assert!(one.ignored == 1 && one.begun.is_none());
    let answer = one.out.last().expect("the leader is told what is committed");
    assert_eq!(answer.index, one.core.standing().commit);
}

/// Otherwise who needs the state waits for it as long as the leader lives; where a majority does, nothing is committed any more.
#[test]
fn a_leader_that_cannot_read_its_state_hands_leadership_to_who_has_all_that_is_committed() {
    let mut three = Three::new();
    three.leave_behind();
    let to = three.snapshot().to();
    assert_eq!(three.ones[0].core.report_snapshot(to, Delivery::Unreadable), None, "it has only just begun to lead");
    let mut found = 0;
    for _ in 0..30 {
        three.tick();
        let heir = three.ones[0].core.heir();
        assert!(heir.is_none_or(|heir| heir == id(1)), "who is behind would need the snapshot itself: {heir:x?}");
        found += usize::from(heir.is_some());
    }
    assert!(found > 10, "{found}");
    assert_eq!(three.ones[0].core.report_snapshot(to, Delivery::Lost), None, "that is no fault of the leader's");
    assert_eq!(three.ones[0].core.report_snapshot(to, Delivery::Unreadable), Some(id(1)));
    assert_eq!(three.ones[0].core.report_snapshot(to, Delivery::Unreadable), None, "it is on its way");
    three.ones[0].turn();
    three.settle();
    assert!(three.ones[1].core.is_leader());
    for _ in 0..5 {
        three.ones[1].core.tick();
        three.ones[1].turn();
        three.settle();
    }
    assert_eq!(three.ones[BEHIND].hash(), three.ones[0].hash());
}

/// The write that was to tell the disk of a commit index is of no use once a checkpoint does, and there is nothing to write.
#[test]
fn a_commit_index_that_waits_for_its_write_is_told_by_the_checkpoint() {
    let mut three = Three::new();
    three.puts(20);
    // Its last entry is not committed, as far as it knows.
    three.ones[0].put("last", "value");
    for message in std::mem::take(&mut three.ones[0].out) {
        let to = &mut three.ones[(message.to - id(0)) as usize];
        to.core.step(message);
        to.turn();
    }
    three.fall_behind();
    let snapshot = three.snapshot();
    let incoming = three.keep(snapshot);
    let one = &mut three.ones[BEHIND];
    one.turn();
    let (before, term) = (one.core.standing(), one.core.standing().term);
    let mut tells = Message { from: id(0), to: id(BEHIND), term, commit: before.commit + 1, ..Message::default() };
    tells.set_msg_type(raft::eraftpb::MessageType::MsgHeartbeat);
    one.core.step(tells);
    one.turn();
    assert_eq!(one.core.standing().commit, before.commit + 1);
    // The second finds that it is still not on the disk.
    one.core.tick();
    one.core.tick();
    one.core.install(Box::new(incoming));
    one.turn();
    let capture = one.begun.take().expect("the snapshot is of use");
    one.write(*capture);
    one.core.installed();
    one.recycle();
    one.turn();
    assert_eq!(one.hash(), three.ones[0].hash());
}
