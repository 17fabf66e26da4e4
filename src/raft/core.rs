//! The raft core as a state machine: proposals, reads, ticks and finished writes go in; a write to make durable, a
//! view to publish and answers come out. Orders, logs and applies; does no I/O and knows no clock.
//!
//! One write of the log is in flight at a time. What arrives meanwhile gathers for the next one, so a batch is as large
//! as the disk is slow, and the crate learns of durability by ready number (`advance_append_async`).

use std::{
    collections::{HashMap, VecDeque},
    io,
    sync::Arc,
};

use bytes::Bytes;
use hashbrown::DefaultHashBuilder;
use raft::{
    Config, RawNode, Ready, StateRole, Storage,
    eraftpb::{ConfState, Entry, EntryType, HardState, Message, MessageType},
};
use smallvec::SmallVec;

use super::{
    log::RaftLog,
    mail::{Control, FromCore, Kept, Outcome, ReceivedSnapshot, ToCore, Token},
    sending::SnapshotToSend,
    translate::{self, Change},
    view::{Published, View},
};
use crate::{
    auth::TokenChange,
    error::{self, Status},
    limits,
    proto::raftpb::ConfChangeType,
    store::{
        apply::{Answer, AppliedBatch, ApplyEntry, Tally},
        checkpoint::{self, SegmentExtent},
        hash::spans::{AppliedEntry, SpanHash, Spans},
        index::{Index, Progress},
        state::State,
        types::Place,
        usage::Usage,
    },
    wal::{
        LogPosition,
        record::{Move, MovedValue},
        segment::Segment,
        table::SegmentTable,
        writer::{PendingWrite, Writer},
    },
};

mod elections;
mod installing;
#[cfg(any(test, feature = "sim"))]
mod planted;
mod proposals;
mod reads;
mod space;

use elections::Elections;
pub use installing::{Incoming, Installing};
#[cfg(any(test, feature = "sim"))]
pub use planted::Planted;
use proposals::Introduction;

/// What the core is made from.
pub struct Parts {
    pub id: u64,
    pub log: RaftLog,
    pub state: State,
    pub writer: Writer,
    /// Relocations that recovery has read, each to be done once the applied index has reached its number.
    pub moves: Vec<(u64, Vec<Move>)>,
    pub shards: usize,
    /// In ticks of a heartbeat interval.
    pub election_ticks: usize,
    pub pre_vote: bool,
    /// Ticks after which nobody waits any more for a proposal or a read.
    pub request_ticks: u64,
    /// Ticks after which a read index that has not been answered is asked for again.
    pub retry_ticks: u64,
    /// A number that no other member and no other life of this one has: read indexes are told apart by it, and election
    /// timeouts are drawn from it.
    pub life: u64,
    /// None: no quota.
    pub quota_bytes: Option<u64>,
    /// Entries that are kept behind a checkpoint.
    pub catch_up_entries: u64,
    /// Entries whose effects members compare as one.
    pub span_entries: u64,
    pub logger: slog::Logger,
}

/// A caller that waits for a proposal to be applied.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    shard: u16,
    token: Token,
}

/// All reads that wait when a round begins share it.
struct ReadRound {
    /// By which its answer is known: one for each time that the leader was asked.
    contexts: SmallVec<[u64; 1]>,
    callers: Vec<(Caller, u64)>,
    /// Known once a quorum has confirmed the leader; served when applied has reached it.
    index: Option<u64>,
    /// The tick in which the leader was asked last.
    asked: u64,
}

/// Where a replay of the log may begin, between two writes.
struct Mark {
    position: LogPosition,
    /// The log's last entry then. A state that has applied it finds everything else behind the position.
    last_index: u64,
}

/// What other rooms may know of the core at any time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    pub term: u64,
    pub vote: u64,
    /// 0: none known.
    pub leader: u64,
    pub commit: u64,
    pub applied: u64,
}

/// What a turn asks the driver to do, in this order.
#[derive(Default)]
pub struct Effects {
    /// Messages to other members that need not wait for the disk.
    pub messages: Vec<Message>,
    /// To members that lag too far behind for entries. Their messages are not among the others.
    pub snapshots: Vec<SnapshotToSend>,
    /// What has come from another member and is to be taken over; `snapshot_taken` then says how that went.
    pub received: Vec<(Caller, Box<ReceivedSnapshot>)>,
    /// What `install` has led to.
    pub installing: Option<Installing>,
    /// The next write of the log, to be made durable; the driver then calls `written`.
    pub write: Option<PendingWrite>,
    /// To be published before any answer goes out.
    pub view: Option<Arc<View>>,
    /// What has become of tokens; to be done before the mail is posted.
    pub tokens: Vec<TokenChange>,
    /// One for each shard that has something to hear.
    pub mail: Vec<(usize, FromCore)>,
    /// The state to write a checkpoint of, if `want_capture` asked for it.
    pub capture: Option<Box<Capture>>,
    /// Entries that `write` makes durable.
    pub write_entries: u64,
    /// What was applied in this turn.
    pub tally: Tally,
    /// Spans of entries that have ended with it.
    pub spans: Vec<SpanHash>,
}

/// Whether a capture begins a new segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Roll {
    /// It does, so that all that was written lies before it.
    Over,
    No,
    /// It does not, and replay is to begin behind the segment of that life.
    Past(u32),
}

/// A compaction whose hash nobody has taken yet.
pub struct Compaction {
    /// The index before it.
    pub before: Index,
    pub revision: i64,
    /// Holds what `before` points at until it is hashed.
    pub segments: SegmentTable,
}

/// What the last durable checkpoint holds, as far as space depends on it.
#[derive(Clone, Debug, Default)]
pub struct Covered {
    pub applied: u64,
    /// The first segment that a restart would read.
    pub replay_from: u32,
    /// Where its values lie.
    pub usage: Usage,
}

/// Segments of a log that are not written any more.
pub fn sealed(writer: &Writer) -> impl Iterator<Item = &Arc<Segment>> {
    let active = writer.active_life();
    writer.table().iter().filter(move |segment| segment.life() != active)
}

/// A state whose every place is durable, and where the log goes on after it.
pub struct Capture {
    pub state: State,
    pub hard_state: checkpoint::HardState,
    pub position: LogPosition,
    pub extents: Vec<SegmentExtent>,
}

/// A write on its way to the disk.
struct InFlight {
    /// The last ready that it makes durable; none where it only moves values.
    number: Option<u64>,
    moves: Vec<Move>,
    /// Whether it has values of a state that comes from another member.
    imports: bool,
}

/// A proposal that has not been handed to the crate yet.
struct Queued {
    caller: Option<Caller>,
    id: u64,
    data: Bytes,
    /// The tick in which it came.
    came: u64,
    /// The term in which alone it may be logged, by this member.
    only_in: Option<u64>,
}

pub struct Core {
    node: RawNode<RaftLog>,
    state: State,
    writer: Writer,
    shards: usize,
    quota_bytes: Option<u64>,
    catch_up_entries: u64,
    request_ticks: u64,
    retry_ticks: u64,
    life: u64,
    /// Since this life began.
    ticks: u64,
    elections: Elections,

    /// With the tick in which each came.
    callers: HashMap<u64, (Caller, u64), DefaultHashBuilder>,
    /// Reads that arrived since the last round was started, with the tick in which each did.
    reads_new: Vec<(Caller, u64)>,
    rounds: Vec<ReadRound>,
    next_context: u64,
    /// The last leader that was known; 0 for none yet.
    led_by: u64,
    /// The crate drops a ReadIndex before the first commit of the leader's term; reads are held back until then.
    committed_in_term: bool,

    in_flight: Option<InFlight>,
    /// The last ready whose entries wait for the next write.
    gathering: Option<u64>,
    moves_gathering: Vec<Move>,
    moves_recovered: VecDeque<(u64, Vec<Move>)>,
    commit_unlogged: bool,
    install: installing::Install,
    waiting_messages: Vec<(u64, Message)>,
    /// The ready whose term or vote is not on disk yet.
    unsynced_vote: Option<u64>,
    /// The last ready that is durable.
    persisted: u64,
    /// The last entry that was in the log when this process began: tokens of before are void.
    recovered: u64,

    queue: VecDeque<Queued>,
    /// Changes of the members, which the crate takes one at a time.
    changes: VecDeque<Queued>,
    /// Of both.
    queued_bytes: usize,
    /// The request by which this member makes itself known, until it is applied.
    introduction: Option<Introduction>,
    /// This member does not belong to the cluster any more.
    has_left: bool,
    /// The commit index was ahead of the disk at the last tick; it still is, and gets a write of its own.
    commit_waits: bool,
    commit_due: bool,
    compaction_waits: Vec<(Caller, i64)>,
    defragment_waits: Vec<Caller>,
    /// Those of them for whom space is being given back now. Who comes later may have freed more.
    defragmenting: Vec<Caller>,
    /// The first segment that the capture may have replay begin in.
    capture_wanted: Option<u32>,
    roll_wanted: bool,
    /// In the log's order; of those behind which all entries lie that other members may still ask for only the last.
    marks: VecDeque<Mark>,
    /// The last segment that the raft log knows of.
    shown_life: u32,

    last_view: Option<Arc<View>>,
    /// Where the views are published, if nobody looks there from another thread.
    only_here: Option<Published>,
    outcomes: Vec<Vec<(Token, Outcome)>>,
    batch: AppliedBatch,
    spans: Spans,
    /// Those that nobody has been told of yet.
    spans_ended: Vec<SpanHash>,
    /// The state has changed since the last view.
    dirty: bool,
    /// Of the last checkpoint, told by the driver: with the log it is dbSize.
    checkpoint_bytes: u64,
    /// Entries in the log's memory that no write has taken yet.
    entries_gathering: u64,
    /// What settling has left for the turn to hand out.
    effects: Effects,
    compactions: Vec<Compaction>,
    #[cfg(any(test, feature = "sim"))]
    planted: Option<Planted>,
    #[cfg(any(test, feature = "sim"))]
    told_early: i64,
}

impl Core {
    pub fn new(parts: Parts) -> raft::Result<Self> {
        let config = Config {
            election_tick: parts.election_ticks,
            heartbeat_tick: 1,
            applied: parts.state.applied().0,
            max_size_per_msg: limits::RAFT_MESSAGE_BYTES,
            max_inflight_msgs: limits::RAFT_INFLIGHT_MESSAGES,
            check_quorum: true,
            pre_vote: parts.pre_vote,
            max_committed_size_per_ready: limits::RAFT_APPLY_BYTES,
            ..Config::new(parts.id)
        };
        let recovered = parts.log.last_index()?;
        // What recovery has begun to write anew belongs to a write that has not ended.
        let mark = (!parts.writer.is_open()).then(|| Mark { position: parts.writer.position(), last_index: recovered });
        let marks = mark.into_iter().collect();
        let spans = Spans::after(parts.state.applied().0, parts.span_entries);
        let mut core = Core {
            recovered,
            node: RawNode::new(&config, parts.log, &parts.logger)?,
            state: parts.state,
            writer: parts.writer,
            shards: parts.shards,
            quota_bytes: parts.quota_bytes,
            catch_up_entries: parts.catch_up_entries,
            request_ticks: parts.request_ticks,
            retry_ticks: parts.retry_ticks,
            life: parts.life,
            ticks: 0,
            elections: Elections::default(),
            callers: HashMap::default(),
            reads_new: Vec::new(),
            rounds: Vec::new(),
            next_context: parts.life,
            led_by: 0,
            committed_in_term: false,
            in_flight: None,
            gathering: None,
            moves_gathering: Vec::new(),
            moves_recovered: parts.moves.into(),
            commit_unlogged: false,
            install: installing::Install::default(),
            waiting_messages: Vec::new(),
            unsynced_vote: None,
            persisted: 0,
            queue: VecDeque::new(),
            changes: VecDeque::new(),
            queued_bytes: 0,
            has_left: false,
            commit_waits: false,
            commit_due: false,
            introduction: None,
            compaction_waits: Vec::new(),
            defragment_waits: Vec::new(),
            defragmenting: Vec::new(),
            capture_wanted: None,
            roll_wanted: false,
            marks,
            shown_life: 0,
            last_view: None,
            only_here: None,
            outcomes: (0..parts.shards).map(|_| Vec::new()).collect(),
            batch: AppliedBatch::default(),
            dirty: true,
            checkpoint_bytes: 0,
            entries_gathering: 0,
            effects: Effects::default(),
            compactions: Vec::new(),
            spans,
            spans_ended: Vec::new(),
            #[cfg(any(test, feature = "sim"))]
            planted: None,
            #[cfg(any(test, feature = "sim"))]
            told_early: 0,
        };
        core.draw_timeout();
        Ok(core)
    }

    /// All who look at published views are on the thread that the core is on, and its turns are published before any of
    /// them runs: it takes a view back before it changes the state, which then need not be copied.
    pub fn publish_only_here(&mut self, published: Published) {
        self.only_here = Some(published);
    }

    pub fn state(&self) -> &State {
        &self.state
    }

    pub fn writer(&self) -> &Writer {
        &self.writer
    }

    pub fn standing(&self) -> Standing {
        Standing {
            term: self.node.raft.term,
            vote: self.node.raft.vote,
            leader: self.node.raft.leader_id,
            commit: self.node.raft.raft_log.committed,
            applied: self.node.raft.raft_log.applied,
        }
    }

    /// Applied entries for a member that has lost them, as many as one answer may have; None if the first is not kept any more.
    pub fn kept(&self, from: u64, to: u64) -> Option<Vec<Kept>> {
        self.node.store().kept(from, to, limits::PEER_ENTRIES_BYTES)
    }

    pub fn is_leader(&self) -> bool {
        self.role() == StateRole::Leader
    }

    pub fn role(&self) -> StateRole {
        self.node.raft.state
    }

    /// What is known of a member's log: the highest index that it surely holds, and the next to send.
    pub fn progress(&self, id: u64) -> Option<(u64, u64)> {
        self.node.raft.prs().get(id).map(|progress| (progress.matched, progress.next_idx))
    }

    /// Proposals that wait to be applied.
    pub fn pending(&self) -> usize {
        self.callers.len() + self.queue.len() + self.changes.len()
    }

    /// Whether this leader may serve: an entry of its own term has been applied.
    pub fn serves(&self) -> bool {
        self.committed_in_term
    }

    pub fn set_checkpoint_bytes(&mut self, bytes: u64) {
        self.checkpoint_bytes = bytes;
    }

    /// One heartbeat interval has passed.
    pub fn tick(&mut self) {
        self.ticks += 1;
        // Soon after the last entry the disk knows that it is committed: who must go on alone from there
        // (`--force-new-cluster`) keeps what was acknowledged. etcd's database is as late.
        self.commit_due = self.commit_unlogged && self.commit_waits;
        #[cfg(any(test, feature = "sim"))]
        if self.has(Planted::ForgetsVotes) {
            // It would tell the disk of the vote after all.
            self.commit_due = false;
        }
        self.commit_waits = self.commit_unlogged;
        // Who takes a state over cannot stand for election: what is committed then is not in its log.
        if !self.install.has_begun() {
            self.node.tick();
        }
        self.draw_timeout();
        self.look_after_reads();
        if self.ticks.is_multiple_of(limits::PROPOSAL_LOOK_TICKS) {
            self.look_after_proposals();
        }
    }

    /// Whether nobody else belongs to the cluster.
    pub fn is_alone(&self) -> bool {
        let (members, own) = (self.node.raft.prs(), self.node.raft.id);
        members.get(own).is_some() && members.iter().all(|(id, _)| *id == own)
    }

    /// Counts ticks of the election timeout as if they had passed. (etcd: raftNode.advanceTicks.)
    pub fn advance_election(&mut self, ticks: usize) {
        for _ in 0..ticks {
            self.node.tick();
        }
        self.draw_timeout();
    }

    /// Stands for election at once: a cluster of one has nobody to wait for.
    pub fn campaign(&mut self) -> raft::Result<()> {
        let stood = self.node.campaign();
        self.draw_timeout();
        stood
    }

    /// Takes a message of another member. One that is of no use any more, or that nobody of this cluster may send, is lost,
    /// as any message may be.
    pub fn step(&mut self, mut message: Message) {
        if message.get_msg_type() == MessageType::MsgPropose {
            return self.forwarded(message.take_entries().into());
        }
        if message.get_msg_type() == MessageType::MsgTimeoutNow && self.install.has_begun() {
            return;
        }
        #[cfg(any(test, feature = "sim"))]
        self.misread(&mut message);
        // What the crate says of a message is that it dropped it.
        let _ = self.node.step(message);
        self.draw_timeout();
    }

    /// Others say that this member does not belong to the cluster.
    pub fn leave(&mut self) {
        self.has_left = true;
    }

    pub fn has_left(&self) -> bool {
        self.has_left
    }

    /// A message to that member has been lost: what it has is to be asked again.
    pub fn report_unreachable(&mut self, id: u64) {
        self.node.report_unreachable(id);
    }

    /// Hands leadership to a voter.
    pub fn transfer_leader(&mut self, to: u64) {
        self.node.transfer_leader(to);
    }

    /// Whether a turn would do more than take note: while a write is in flight, proposals only gather.
    pub fn has_work(&self) -> bool {
        let proposals = !self.queue.is_empty() && self.may_propose();
        self.may_ask()
            || proposals
            || self.may_change()
            || self.may_write()
            || !self.effects.received.is_empty()
            || self.outcomes.iter().any(|outcomes| !outcomes.is_empty())
    }

    /// Takes a shard's batch. Nothing happens before `turn`.
    pub fn receive(&mut self, shard: usize, mail: ToCore) {
        let caller = |token| Caller { shard: shard as u16, token };
        let raft_log = &self.node.raft.raft_log;
        let backlog = raft_log.committed - raft_log.applied > limits::APPLY_BACKLOG_ENTRIES;
        for proposal in mail.proposals {
            if backlog || self.queued_bytes + proposal.data.len() > limits::PROPOSAL_BYTES_QUEUED {
                self.fail(caller(proposal.token), error::TOO_MANY_REQUESTS);
                continue;
            }
            self.enqueue(caller(proposal.token), proposal);
        }
        let came = self.ticks;
        self.reads_new.extend(mail.reads.into_iter().map(|token| (caller(token), came)));
        for control in mail.controls {
            match control {
                Control::CompactionDone { token, revision } => self.compaction_waits.push((caller(token), revision)),
                Control::Defragment { token } => self.defragment_waits.push(caller(token)),
                Control::Configure { token, id, data, promotes } => self.configure(caller(token), id, data, promotes),
                Control::TransferLeader { to } => self.transfer_leader(to),
                Control::Install { token, snapshot } => self.effects.received.push((caller(token), snapshot)),
                Control::Entries { token, entries } => {
                    // Who asks does so once.
                    let _ = entries.found.set(self.kept(entries.from, entries.to));
                    self.outcomes[shard].push((token, Outcome::Done));
                }
            }
        }
    }

    /// The write in flight is durable.
    pub fn written(&mut self) {
        let done = self.in_flight.take().expect("a write finished that was never started");
        for one in done.moves {
            self.dirty |= self.state.index.relocate(one.revision, one.from, one.to);
        }
        if let Some(number) = done.number {
            self.persisted(number);
        }
    }

    /// Takes in what has become durable and applies what that commits: the first part of a turn, on its own so that
    /// applying can be measured. Gives the number of requests applied since the last turn.
    ///
    /// # Errors
    /// As `turn`.
    pub fn settle(&mut self) -> io::Result<u64> {
        let mut effects = std::mem::take(&mut self.effects);
        self.begin_installing(&mut effects);
        let handled = self.handle_readies(&mut effects);
        self.effects = effects;
        handled.map(|()| self.batch.tally.total())
    }

    fn persisted(&mut self, number: u64) {
        self.persisted = number;
        // One that came with a later ready than the write has is still on its way.
        self.unsynced_vote = self.unsynced_vote.filter(|vote| *vote > number);
        self.node.on_persist_ready(number);
    }

    /// Does all that can be done now.
    ///
    /// # Errors
    /// Where a value that decides what an entry does cannot be read: then the member must stop.
    pub fn turn(&mut self) -> io::Result<Effects> {
        // What is durable is applied first, so that a capture finds a state that is as far as it can be.
        self.settle()?;
        let mut effects = std::mem::take(&mut self.effects);
        if self.roll_wanted && !self.writer.is_open() {
            self.roll_wanted = false;
            self.writer.roll();
            self.capture_wanted = Some(self.writer.active_life());
            self.mark();
        }
        if let Some(position) = self.replay_from() {
            self.capture_wanted = None;
            let hard_state = self.node.store().hard_state();
            // Entries beyond may be committed, and not be on this member's disk yet.
            let commit = self.state.applied().0;
            let state = self.state.clone();
            #[cfg(any(test, feature = "sim"))]
            let state = self.without_leases(state);
            effects.capture = Some(Box::new(Capture {
                state,
                hard_state: checkpoint::HardState { term: hard_state.term, vote: hard_state.vote, commit },
                position,
                extents: self.writer.extents(),
            }));
        }
        self.propose_change();
        self.propose_queued();
        self.start_read_round();
        self.handle_readies(&mut effects)?;
        if self.may_write() {
            (self.commit_waits, self.commit_due) = (false, false);
            if std::mem::take(&mut self.commit_unlogged) {
                let hard_state = self.node.store().hard_state().clone();
                self.writer.append_hard_state(hard_state.term, hard_state.vote, hard_state.commit);
            }
            let moves = std::mem::take(&mut self.moves_gathering);
            let imports = self.install.take_gathering();
            self.in_flight = Some(InFlight { number: self.gathering.take(), moves, imports });
            effects.write = self.writer.take_write();
            self.mark();
            effects.write_entries = std::mem::take(&mut self.entries_gathering);
            assert!(effects.write.is_some(), "durability was asked for and nothing left to write");
        }
        let persisted = self.persisted;
        let durable = self.waiting_messages.extract_if(.., |(number, _)| *number <= persisted);
        effects.messages.extend(durable.map(|(_, message)| message));
        self.finish_reads();
        self.finish_compactions();
        effects.tally = std::mem::take(&mut self.batch.tally);
        effects.spans = std::mem::take(&mut self.spans_ended);
        self.post(&mut effects);
        Ok(effects)
    }

    /// The log is between two writes.
    fn mark(&mut self) {
        self.show_segments();
        let last_index = self.node.store().last_index().expect("the log's last index is always known");
        if self.marks.back().is_some_and(|mark| mark.last_index == last_index) {
            self.marks.pop_back();
        }
        self.marks.push_back(Mark { position: self.writer.position(), last_index });
        let kept = if self.is_alone() { 0 } else { self.catch_up_entries };
        let superfluous = self.state.applied().0.saturating_sub(kept);
        while self.marks.get(1).is_some_and(|mark| mark.last_index <= superfluous) {
            self.marks.pop_front();
        }
    }

    /// Entries that are no longer in memory are read from their segments, also from those that were begun since the table
    /// was last shown.
    fn show_segments(&mut self) {
        let active = self.writer.active_life();
        if std::mem::replace(&mut self.shown_life, active) != active {
            let table = Arc::new(self.writer.table().clone());
            self.node.mut_store().set_values(table);
        }
    }

    /// Where a replay onto the present state may begin, if a capture is wanted and there is such a place in the segments
    /// that it is wanted from: behind it lies every entry that is not applied, and no value is on its way.
    fn replay_from(&mut self) -> Option<LogPosition> {
        let from = self.capture_wanted?;
        // Behind a write that is still under way nothing can be replayed from: it may be lost.
        if self.in_flight.is_some() || self.roll_wanted || self.relocating() || !self.moves_recovered.is_empty() {
            return None;
        }
        let applied = self.state.applied().0;
        let until = self.superfluous_until(applied);
        #[cfg(any(test, feature = "sim"))]
        let (applied, until) =
            if self.has(Planted::CheckpointsAhead) { (u64::MAX, u64::MAX) } else { (applied, until) };
        let mut suits = self.marks.iter().filter(|mark| mark.last_index <= applied && mark.position.life >= from);
        // So that the next process, too, finds what others may ask for; as much of it as there can be.
        let earliest = suits.clone().next();
        suits.rfind(|mark| mark.last_index <= until).or(earliest).map(|mark| mark.position)
    }

    fn may_write(&self) -> bool {
        let values = !self.moves_gathering.is_empty() || self.install.is_gathering();
        self.in_flight.is_none() && (values || self.gathering.is_some() || self.commit_due)
    }

    fn handle_readies(&mut self, effects: &mut Effects) -> io::Result<()> {
        while self.node.has_ready() {
            self.handle_ready(effects)?;
        }
        self.draw_timeout();
        Ok(())
    }

    fn handle_ready(&mut self, effects: &mut Effects) -> io::Result<()> {
        let mut ready = self.node.ready();
        let number = ready.number();
        if let Some(soft) = ready.ss() {
            // A new term has to commit something before it may serve reads.
            self.committed_in_term &= soft.raft_state == StateRole::Leader && soft.leader_id == self.node.raft.id;
            if soft.leader_id != 0 && soft.leader_id != self.led_by {
                self.led_by = soft.leader_id;
                self.leader_changed();
            }
        }
        if !ready.snapshot().is_empty() {
            self.restore(ready, effects);
            return Ok(());
        }
        let entries = ready.take_entries();
        self.entries_gathering += entries.len() as u64;
        #[cfg(any(test, feature = "sim"))]
        let appended = entries.clone();
        for entry in entries {
            let place = self.writer.append_entry(entry.index, entry.term, entry.entry_type as u8, &entry.data);
            self.node.mut_store().append(entry.index, entry.term, entry.entry_type, entry.data, place);
        }
        // Behind the entries, so that a torn write never leaves a commit index without them.
        if let Some(hard_state) = ready.hs() {
            let old = self.node.store().hard_state();
            let voted = (old.term, old.vote) != (hard_state.term, hard_state.vote);
            #[cfg(any(test, feature = "sim"))]
            let voted = voted && !self.has(Planted::ForgetsVotes);
            if voted {
                self.unsynced_vote = Some(number);
                self.committed_in_term = false;
                self.writer.append_hard_state(hard_state.term, hard_state.vote, hard_state.commit);
            } else {
                // The commit index may be lost: it is found again. It travels with the next write.
                self.commit_unlogged = true;
            }
            let hard_state: HardState = hard_state.clone();
            self.node.mut_store().set_hard_state(hard_state);
        }
        self.take_messages(&mut ready, effects);
        self.take_read_states(ready.take_read_states());
        let committed = ready.take_committed_entries();
        let must_sync = ready.must_sync();
        self.node.advance_append_async(ready);
        match &mut self.in_flight {
            // Its own records come before this ready's in the log, which gather for the next write.
            _ if must_sync || self.gathering.is_some() => self.gathering = Some(number),
            Some(in_flight) if in_flight.number.is_some() => in_flight.number = Some(number),
            _ => self.persisted(number),
        }
        #[cfg(any(test, feature = "sim"))]
        if self.has(Planted::CountsUnsynced) && self.is_leader() {
            self.node.on_persist_ready(number);
        }
        #[cfg(any(test, feature = "sim"))]
        self.tell_early(&appended);
        self.apply(committed)
    }

    /// Messages go out at once, but for those that promise what is not durable yet.
    fn take_messages(&mut self, ready: &mut Ready, effects: &mut Effects) {
        for message in ready.take_messages() {
            match message.get_msg_type() {
                MessageType::MsgSnapshot => effects.snapshots.push(self.snapshot_to_send(message)),
                _ => effects.messages.push(message),
            }
        }
        for message in ready.take_persisted_messages() {
            let waits = translate::waits_for_persistence(message.get_msg_type(), self.unsynced_vote.is_some());
            #[cfg(any(test, feature = "sim"))]
            let waits = waits && !self.has(Planted::AnswersUnsynced);
            if waits {
                self.waiting_messages.push((ready.number(), message));
            } else {
                effects.messages.push(message);
            }
        }
    }

    fn apply(&mut self, committed: Vec<Entry>) -> io::Result<()> {
        let Some(last) = committed.last().map(|entry| entry.index) else { return Ok(()) };
        self.dirty = true;
        if let Some(published) = &self.only_here
            && self.last_view.take().is_some()
        {
            published.withdraw();
        }
        // An entry counts against the quota by its cost, as do those before it by what they take: not by its own bytes in
        // the log, nor by those of entries behind it.
        let mut unapplied = self.node.store().bytes_from(committed[0].index);
        let written = self.writer.log_bytes() + self.checkpoint_bytes;
        for entry in committed {
            let (index, term, bytes) = (entry.index, entry.term, entry.data.len() as u64);
            let room = self.quota_bytes.map(|quota| (quota + unapplied).saturating_sub(written));
            unapplied = unapplied.saturating_sub(bytes);
            let (data, told) = (entry.data.clone(), self.batch.events.len());
            match entry.entry_type {
                EntryType::EntryNormal if entry.data.is_empty() => self.state.apply_empty(index, term),
                #[cfg(any(test, feature = "sim"))]
                EntryType::EntryNormal if self.passes_over(index) => self.state.apply_empty(index, term),
                EntryType::EntryNormal => self.apply_request(entry, room)?,
                EntryType::EntryConfChange => self.apply_conf_change(&entry),
                EntryType::EntryConfChangeV2 => {
                    if let Ok(Change::Voters(change)) = translate::conf_change_v2(&entry.data) {
                        let conf_state = self.node.apply_conf_change(&*change);
                        self.set_conf_state(conf_state);
                    }
                    self.state.apply_empty(index, term);
                }
            }
            let applied = AppliedEntry {
                index,
                term,
                data: &data,
                events: &self.batch.events[told..],
                revision: self.state.index.current(),
                leases: self.state.leases.len(),
            };
            self.spans_ended.extend(self.spans.add(&applied));
            while self.moves_recovered.front().is_some_and(|(after, _)| *after <= index) {
                let (_, moves) = self.moves_recovered.pop_front().expect("just seen");
                for one in moves {
                    self.state.index.relocate(one.revision, one.from, one.to);
                }
            }
        }
        if self.is_leader() && self.state.applied().1 == self.node.raft.term {
            self.committed_in_term = true;
        }
        self.node.mut_store().set_applied(self.state.applied());
        self.node.advance_apply_to(last);
        self.node.mut_store().forget(last);
        Ok(())
    }

    fn apply_request(&mut self, entry: Entry, quota_room: Option<u64>) -> io::Result<()> {
        let base = self.node.store().place(entry.index).expect("a committed entry has a place in the log");
        let entry = ApplyEntry { index: entry.index, term: entry.term, base, data: entry.data, quota_room };
        #[cfg(any(test, feature = "sim"))]
        let told = self.batch.events.len();
        let applied = self.state.apply(&entry, self.writer.table(), &mut self.batch)?;
        #[cfg(any(test, feature = "sim"))]
        self.tell_once(told);
        if entry.index <= self.recovered {
            self.batch.tokens.clear();
        }
        self.introduction.take_if(|introduction| introduction.id == applied.id);
        if let Some((caller, _)) = self.callers.remove(&applied.id) {
            self.outcomes[caller.shard as usize].push((caller.token, Outcome::Applied(Box::new(applied.result))));
        }
        Ok(())
    }

    fn apply_conf_change(&mut self, entry: &Entry) {
        let (id, result) = match translate::conf_change(&entry.data) {
            Ok((change, for_crate)) => {
                let result = self.state.apply_conf_change(entry.index, entry.term, &change);
                let removes = change.r#type() == ConfChangeType::ConfChangeRemoveNode;
                self.has_left |= removes && result.is_ok() && change.node_id() == self.node.raft.id;
                if let (Ok(()), Change::Voters(v2)) = (&result, for_crate) {
                    let conf_state = self.node.apply_conf_change(&*v2);
                    self.set_conf_state(conf_state);
                }
                (change.id.unwrap_or_default(), result)
            }
            // Logged and committed, but nobody can read it. Skipping it keeps every member alike, since all of them
            // decode with the same types.
            Err(cause) => {
                self.state.apply_empty(entry.index, entry.term);
                (0, Err(Status::internal(cause.to_string())))
            }
        };
        if let Some((caller, _)) = self.callers.remove(&id) {
            let outcome = Outcome::Applied(Box::new(result.map(|()| Answer::Nothing)));
            self.outcomes[caller.shard as usize].push((caller.token, outcome));
        }
    }

    fn set_conf_state(&mut self, conf_state: raft::Result<ConfState>) {
        let conf_state = conf_state.expect("a committed configuration change fits the configuration before it");
        self.state.set_conf_state(translate::conf_state(&conf_state));
        self.node.mut_store().set_conf_state(conf_state);
        self.stop_leading_if_removed();
    }

    /// A leader that does not vote any more tells the others what is committed and leads no more. The crate would let it lead
    /// on, and fails at the next commit, which it wants to note of a leader that is none of its members.
    fn stop_leading_if_removed(&mut self) {
        let raft = &mut self.node.raft;
        if raft.state == StateRole::Leader && !self.state.conf_state().voters.contains(&raft.id) {
            raft.bcast_append();
            raft.become_follower(raft.term, 0);
        }
    }

    fn finish_compactions(&mut self) {
        if self.compaction_waits.is_empty() {
            return;
        }
        let index = &self.state.index;
        // A compaction that is asked for while this one is being done must not make its callers wait for both.
        let swept = if index.compacting() { index.sweep().next.main - 1 } else { i64::MAX };
        for (caller, _) in self.compaction_waits.extract_if(.., |(_, revision)| *revision <= swept) {
            self.outcomes[caller.shard as usize].push((caller.token, Outcome::Done));
        }
    }

    fn fail(&mut self, caller: Caller, status: Status) {
        self.outcomes[caller.shard as usize].push((caller.token, Outcome::Failed(status)));
    }

    fn post(&mut self, effects: &mut Effects) {
        let news = !self.batch.events.is_empty() || !self.batch.leases.is_empty();
        let answers = self.outcomes.iter().any(|outcomes| !outcomes.is_empty());
        let jumped = self.install.take_jumped();
        if !self.dirty && !answers && !news && !jumped {
            return;
        }
        if std::mem::take(&mut self.dirty) || self.last_view.is_none() {
            let view = Arc::new(View { state: self.state.clone(), segments: self.writer.table().clone() });
            self.last_view = Some(view.clone());
            effects.view = Some(view);
        }
        let view = self.last_view.as_ref().expect("published at least once");
        let mut batch = std::mem::take(&mut self.batch);
        effects.tokens = std::mem::take(&mut batch.tokens);
        let segments = self.writer.table();
        let compactions = batch.compactions.drain(..);
        self.compactions.extend(compactions.map(|(before, revision)| Compaction {
            before,
            revision,
            segments: segments.clone(),
        }));
        // Each holds an index of the past; those that nobody comes for in time are not waited for.
        let surplus = self.compactions.len().saturating_sub(limits::COMPACTION_HASHES);
        self.compactions.drain(..surplus);
        let (events, leases) = (Arc::new(batch.events), Arc::new(batch.leases));
        for shard in 0..self.shards {
            if news || jumped || !self.outcomes[shard].is_empty() {
                let outcomes = std::mem::take(&mut self.outcomes[shard]);
                let (view, events, leases) = (view.clone(), events.clone(), leases.clone());
                effects.mail.push((shard, FromCore { view, outcomes, events, leases, jumped }));
            }
        }
    }
}

#[cfg(test)]
mod scenarios;
#[cfg(test)]
mod tests;
