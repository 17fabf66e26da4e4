//! The raft core as a state machine: proposals, reads, ticks and finished writes go in; a write to make durable, a
//! view to publish and answers come out. Orders, logs and applies; does no I/O and knows no clock.
//!
//! One write of the log is in flight at a time. What arrives meanwhile gathers in the next one, so a batch is as large
//! as the disk is slow, and the crate learns of durability by ready number (`advance_append_async`).

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use hashbrown::HashMap;
use raft::{
    Config, RawNode, StateRole,
    eraftpb::{ConfState, Entry, EntryType, HardState, Message, MessageType},
};

use super::{
    log::RaftLog,
    translate::{self, Change},
};
use crate::{
    error::{self, Status},
    shard::{
        mail::{Control, FromCore, Outcome, ToCore},
        pending::Token,
        view::View,
    },
    store::{
        apply::{AppliedBatch, ApplyEntry},
        state::State,
    },
    wal::writer::{PendingWrite, Writer},
};

/// What the core is made from.
pub struct Parts {
    pub id: u64,
    pub log: RaftLog,
    pub state: State,
    pub writer: Writer,
    pub shards: usize,
    /// In ticks of a heartbeat interval.
    pub election_ticks: usize,
    pub pre_vote: bool,
    /// Largest number of committed but unapplied entries; beyond it proposals are refused (limits.rs).
    pub backlog_max: u64,
    pub quota_bytes: u64,
    pub logger: slog::Logger,
}

/// A caller that waits for a proposal to be applied.
#[derive(Clone, Copy)]
struct Caller {
    shard: u16,
    token: Token,
}

/// All reads that arrived in one turn share one round.
struct ReadRound {
    context: u64,
    callers: Vec<Caller>,
    /// Known once a quorum has confirmed the leader; served when applied has reached it.
    index: Option<u64>,
}

/// What other rooms may know of the core at any time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    pub term: u64,
    pub leader: u64,
    pub commit: u64,
    pub applied: u64,
}

/// What a turn asks the driver to do, in this order.
#[derive(Default)]
pub struct Effects {
    /// Messages to other members that need not wait for the disk.
    pub messages: Vec<Message>,
    /// The next write of the log, to be made durable; the driver reports `written` with its ready number.
    pub write: Option<PendingWrite>,
    /// To be published before any answer goes out.
    pub view: Option<Arc<View>>,
    /// One for each shard that has something to hear.
    pub mail: Vec<(usize, FromCore)>,
}

pub struct Core {
    node: RawNode<RaftLog>,
    state: State,
    writer: Writer,
    shards: usize,
    backlog_max: u64,
    quota_bytes: u64,

    callers: HashMap<u64, Caller>,
    /// Reads that arrived since the last round was started.
    reads_new: Vec<Caller>,
    rounds: VecDeque<ReadRound>,
    next_context: u64,
    /// The crate drops a ReadIndex before the first commit of the leader's term; reads are held back until then.
    committed_in_term: bool,

    /// Ready number covered by the write in flight and by the one that gathers.
    in_flight: Option<u64>,
    gathering: Option<u64>,
    commit_unlogged: bool,
    waiting_messages: Vec<(u64, Message)>,
    unsynced_vote: bool,

    queue: Vec<Queued>,
    queued_bytes: usize,
    compaction_waits: Vec<(Caller, i64)>,
    defragment_waits: Vec<Caller>,

    last_view: Option<Arc<View>>,
    outcomes: Vec<Vec<(Token, Outcome)>>,
    batch: AppliedBatch,
    dirty: bool,
    /// dbSize as of the last turn, told by the driver.
    db_size: u64,
}

impl Core {
    pub fn new(parts: Parts) -> raft::Result<Self> {
        let config = Config {
            election_tick: parts.election_ticks,
            heartbeat_tick: 1,
            applied: parts.state.applied().0,
            max_size_per_msg: crate::limits::RAFT_MESSAGE_BYTES,
            max_inflight_msgs: crate::limits::RAFT_INFLIGHT_MESSAGES,
            check_quorum: true,
            pre_vote: parts.pre_vote,
            max_committed_size_per_ready: crate::limits::RAFT_APPLY_BYTES,
            ..Config::new(parts.id)
        };
        Ok(Core {
            node: RawNode::new(&config, parts.log, &parts.logger)?,
            state: parts.state,
            writer: parts.writer,
            shards: parts.shards,
            backlog_max: parts.backlog_max,
            quota_bytes: parts.quota_bytes,
            callers: HashMap::new(),
            reads_new: Vec::new(),
            rounds: VecDeque::new(),
            next_context: 1,
            committed_in_term: false,
            in_flight: None,
            gathering: None,
            commit_unlogged: false,
            waiting_messages: Vec::new(),
            unsynced_vote: false,
            queue: Vec::new(),
            queued_bytes: 0,
            compaction_waits: Vec::new(),
            defragment_waits: Vec::new(),
            last_view: None,
            outcomes: (0..parts.shards).map(|_| Vec::new()).collect(),
            batch: AppliedBatch::default(),
            dirty: false,
            db_size: 0,
        })
    }
}

/// A proposal that has not been handed to the crate yet.
struct Queued {
    caller: Option<Caller>,
    id: u64,
    data: Bytes,
}

impl Core {
    pub fn state(&self) -> &State {
        &self.state
    }

    pub fn writer(&mut self) -> &mut Writer {
        &mut self.writer
    }

    pub fn standing(&self) -> Standing {
        Standing {
            term: self.node.raft.term,
            leader: self.node.raft.leader_id,
            commit: self.node.raft.raft_log.committed,
            applied: self.node.raft.raft_log.applied,
        }
    }

    pub fn is_leader(&self) -> bool {
        self.node.raft.state == StateRole::Leader
    }

    /// Retained entries start here; what lies before is covered by a checkpoint.
    pub fn first_index(&self) -> u64 {
        raft::Storage::first_index(self.node.store()).expect("the log's first index is always known")
    }

    pub fn set_db_size(&mut self, bytes: u64) {
        self.db_size = bytes;
    }

    /// Drops raft entries up to `index`, which a durable checkpoint covers.
    pub fn compact_log(&mut self, index: u64) {
        self.node.mut_store().compact(index);
    }

    /// One heartbeat interval has passed.
    pub fn tick(&mut self) {
        self.node.tick();
    }

    /// Stands for election at once: a cluster of one has nobody to wait for.
    pub fn campaign(&mut self) -> raft::Result<()> {
        self.node.campaign()
    }

    /// Takes a shard's batch. Nothing happens before `turn`.
    pub fn receive(&mut self, shard: usize, mail: ToCore) {
        let caller = |token| Caller { shard: shard as u16, token };
        for proposal in mail.proposals {
            if self.queued_bytes + proposal.data.len() > crate::limits::PROPOSAL_BYTES_QUEUED
                || self.node.raft.raft_log.committed - self.node.raft.raft_log.applied > self.backlog_max
            {
                self.fail(caller(proposal.token), error::TOO_MANY_REQUESTS);
                continue;
            }
            self.queued_bytes += proposal.data.len();
            self.queue.push(Queued { caller: Some(caller(proposal.token)), id: proposal.id, data: proposal.data });
        }
        self.reads_new.extend(mail.reads.into_iter().map(caller));
        for control in mail.controls {
            match control {
                Control::CompactionDone { token, revision } => self.compaction_waits.push((caller(token), revision)),
                Control::Defragment { token } => self.defragment_waits.push(caller(token)),
            }
        }
    }

    /// Proposes a request of the member's own, with nobody waiting: its attributes, the cluster's version.
    pub fn propose_own(&mut self, data: Bytes) {
        self.queued_bytes += data.len();
        self.queue.push(Queued { caller: None, id: 0, data });
    }

    /// The write in flight is durable.
    pub fn written(&mut self) {
        let number = self.in_flight.take().expect("a write finished that was never started");
        self.unsynced_vote = false;
        self.node.on_persist_ready(number);
    }

    /// Does all that can be done now.
    pub fn turn(&mut self) -> Effects {
        let mut effects = Effects::default();
        self.propose_queued();
        self.start_read_round();
        while self.node.has_ready() {
            self.handle_ready(&mut effects);
        }
        if self.in_flight.is_none() && self.gathering.is_some() {
            if std::mem::take(&mut self.commit_unlogged) {
                let hard_state = self.node.store().hard_state().clone();
                self.writer.append_hard_state(hard_state.term, hard_state.vote, hard_state.commit);
            }
            self.in_flight = self.gathering.take();
            effects.write = self.writer.take_write();
            assert!(effects.write.is_some(), "a ready asked for durability and left nothing to write");
        }
        self.finish_reads();
        self.finish_controls();
        self.post(&mut effects);
        effects
    }

    fn propose_queued(&mut self) {
        if self.queue.is_empty() || !self.is_leader() {
            return;
        }
        let mut message = Message { from: self.node.raft.id, ..Message::default() };
        message.set_msg_type(MessageType::MsgPropose);
        let mut entries = Vec::with_capacity(self.queue.len());
        for queued in &mut self.queue {
            if let Some(caller) = queued.caller {
                self.callers.insert(queued.id, caller);
            }
            entries.push(Entry { data: std::mem::take(&mut queued.data), ..Entry::default() });
        }
        message.set_entries(entries.into());
        if let Err(error) = self.node.step(message) {
            // The leader refuses only while it hands over; the callers may try again.
            let queue = std::mem::take(&mut self.queue);
            for queued in queue {
                if let Some(caller) = queued.caller {
                    self.callers.remove(&queued.id);
                    let status = match error {
                        raft::Error::ProposalDropped => error::NO_LEADER,
                        _ => Status::internal(error.to_string()),
                    };
                    self.fail(caller, status);
                }
            }
        }
        self.queue.clear();
        self.queued_bytes = 0;
    }

    fn start_read_round(&mut self) {
        if self.reads_new.is_empty() || !self.is_leader() || !self.committed_in_term {
            return;
        }
        let context = self.next_context;
        self.next_context += 1;
        self.rounds.push_back(ReadRound { context, callers: std::mem::take(&mut self.reads_new), index: None });
        self.node.read_index(context.to_be_bytes().to_vec());
    }

    fn handle_ready(&mut self, effects: &mut Effects) {
        let mut ready = self.node.ready();
        let number = ready.number();
        if let Some(soft) = ready.ss() {
            // A new term has to commit something before it may serve reads.
            self.committed_in_term &= soft.raft_state == StateRole::Leader && soft.leader_id == self.node.raft.id;
            self.dirty = true;
        }
        if let Some(hard_state) = ready.hs() {
            let old = self.node.store().hard_state();
            if (old.term, old.vote) != (hard_state.term, hard_state.vote) {
                self.unsynced_vote = true;
                self.committed_in_term = false;
                self.writer.append_hard_state(hard_state.term, hard_state.vote, hard_state.commit);
            } else {
                // The commit index may be lost: it is found again. It travels with the next write.
                self.commit_unlogged = true;
            }
            let hard_state: HardState = hard_state.clone();
            self.node.mut_store().set_hard_state(hard_state);
        }
        assert!(ready.snapshot().is_empty(), "a snapshot came to a cluster of one");
        for entry in ready.take_entries() {
            let place = self.writer.append_entry(entry.index, entry.term, entry.entry_type as u8, &entry.data);
            self.node.mut_store().append(entry.index, entry.term, entry.entry_type, entry.data, place);
        }
        effects.messages.extend(ready.take_messages());
        for message in ready.take_persisted_messages() {
            if translate::waits_for_persistence(message.get_msg_type(), self.unsynced_vote) {
                self.waiting_messages.push((number, message));
            } else {
                effects.messages.push(message);
            }
        }
        for state in ready.take_read_states() {
            let context = u64::from_be_bytes(state.request_ctx.as_slice().try_into().expect("a context is 8 bytes"));
            if let Some(round) = self.rounds.iter_mut().find(|round| round.context == context) {
                round.index = Some(state.index);
            }
        }
        let committed = ready.take_committed_entries();
        let must_sync = ready.must_sync();
        self.node.advance_append_async(ready);
        if must_sync {
            self.gathering = Some(number);
        } else if self.gathering.is_some() {
            self.gathering = Some(number);
        } else if self.in_flight.is_some() {
            self.in_flight = Some(number);
        } else {
            self.node.on_persist_ready(number);
        }
        self.apply(committed);
    }

    fn apply(&mut self, committed: Vec<Entry>) {
        let Some(last) = committed.last().map(|entry| entry.index) else { return };
        self.dirty = true;
        for entry in committed {
            let place = self.node.store().place(entry.index).expect("a committed entry has a place in the log");
            match entry.entry_type {
                EntryType::EntryNormal if entry.data.is_empty() => self.state.apply_empty(entry.index, entry.term),
                EntryType::EntryNormal => {
                    let over_quota = self.quota_bytes != 0 && self.db_size + entry.data.len() as u64 >= self.quota_bytes;
                    let entry = ApplyEntry {
                        index: entry.index,
                        term: entry.term,
                        base: place,
                        data: entry.data,
                        over_quota,
                    };
                    let applied = self.state.apply(&entry, self.writer.table(), &mut self.batch);
                    if let Some(caller) = self.callers.remove(&applied.id) {
                        self.outcomes[caller.shard as usize]
                            .push((caller.token, Outcome::Applied(Box::new(applied.result))));
                    }
                }
                EntryType::EntryConfChange => self.apply_conf_change(&entry),
                EntryType::EntryConfChangeV2 => match translate::conf_change_v2(&entry.data) {
                    Ok(Change::Voters(change)) => {
                        let conf_state = self.node.apply_conf_change(&*change);
                        self.set_conf_state(conf_state);
                        self.state.apply_empty(entry.index, entry.term);
                    }
                    _ => self.state.apply_empty(entry.index, entry.term),
                },
            }
            if self.is_leader() && self.state.applied().1 == self.node.raft.term {
                self.committed_in_term = true;
            }
        }
        self.node.advance_apply_to(last);
        self.node.mut_store().forget(last);
        // Held reads can start once the term has committed something.
        self.start_read_round();
    }

    fn apply_conf_change(&mut self, entry: &Entry) {
        match translate::conf_change(&entry.data) {
            Ok((change, for_crate)) => {
                let accepted = self.state.apply_conf_change(entry.index, entry.term, &change);
                if let (true, Change::Voters(v2)) = (accepted, for_crate) {
                    let conf_state = self.node.apply_conf_change(&*v2);
                    self.set_conf_state(conf_state);
                }
            }
            // Logged and committed, but nobody can read it: etcd would stop here too. Skipping it keeps every member
            // alike, since all of them decode with the same types.
            Err(_) => self.state.apply_empty(entry.index, entry.term),
        }
    }

    fn set_conf_state(&mut self, conf_state: raft::Result<ConfState>) {
        let conf_state = conf_state.expect("a committed configuration change fits the configuration before it");
        self.state.set_conf_state(translate::conf_state(&conf_state));
        self.node.mut_store().set_conf_state(conf_state);
    }

    fn finish_reads(&mut self) {
        let applied = self.node.raft.raft_log.applied;
        while self.rounds.front().is_some_and(|round| round.index.is_some_and(|index| index <= applied)) {
            let round = self.rounds.pop_front().expect("just seen");
            for caller in round.callers {
                self.outcomes[caller.shard as usize].push((caller.token, Outcome::Done));
            }
        }
    }

    /// Removes one slice of what compaction has made obsolete. True while there is more.
    pub fn compaction_slice(&mut self, budget: usize) -> bool {
        if !self.state.index.compacting() {
            return false;
        }
        let more = self.state.index.compaction_step(budget, &mut |_| {}) == Progress::More;
        self.dirty = true;
        more
    }

    fn finish_controls(&mut self) {
        if self.compaction_waits.is_empty() || self.state.index.compacting() {
            return;
        }
        for (caller, revision) in std::mem::take(&mut self.compaction_waits) {
            debug_assert!(revision <= self.state.index.compacted());
            self.outcomes[caller.shard as usize].push((caller.token, Outcome::Done));
        }
    }

    /// Whether somebody waits for space to be given back.
    pub fn wants_space(&self) -> bool {
        !self.defragment_waits.is_empty()
    }

    /// All space that could be given back has been.
    pub fn space_given_back(&mut self, result: Result<(), Status>) {
        for caller in std::mem::take(&mut self.defragment_waits) {
            let outcome = match &result {
                Ok(()) => Outcome::Done,
                Err(status) => Outcome::Failed(status.clone()),
            };
            self.outcomes[caller.shard as usize].push((caller.token, outcome));
        }
    }

    fn fail(&mut self, caller: Caller, status: Status) {
        self.outcomes[caller.shard as usize].push((caller.token, Outcome::Failed(status)));
    }

    fn post(&mut self, effects: &mut Effects) {
        let news = !self.batch.events.is_empty() || !self.batch.leases.is_empty();
        let answers = self.outcomes.iter().any(|outcomes| !outcomes.is_empty());
        if !self.dirty && !answers && !news {
            return;
        }
        if std::mem::take(&mut self.dirty) || self.last_view.is_none() {
            let view = Arc::new(View { state: self.state.clone(), segments: self.writer.table().clone() });
            self.last_view = Some(view.clone());
            effects.view = Some(view);
        }
        let view = self.last_view.as_ref().expect("published at least once");
        let batch = std::mem::take(&mut self.batch);
        let (events, leases) = (Arc::new(batch.events), Arc::new(batch.leases));
        for shard in 0..self.shards {
            if news || !self.outcomes[shard].is_empty() {
                let outcomes = std::mem::take(&mut self.outcomes[shard]);
                effects.mail.push((
                    shard,
                    FromCore { view: view.clone(), outcomes, events: events.clone(), leases: leases.clone() },
                ));
            }
        }
    }
}
