//! Snapshots between members, as the core sees them: what a leader hands out for a member that lags, and how a state that
//! has come from the leader takes the place of this member's own.
//!
//! The values of such a state are put into this member's own log, as values that were moved there from nowhere
//! (`keep_values`); nothing points at them until a checkpoint of the state that does is durable. That checkpoint is the one
//! step: it replaces the one before by a rename, names as the place to replay from the log's end of then, and holds term
//! and vote as they are then. So a process that dies before it finds the old state and its log, one that dies after it the
//! new state and an empty log, and no vote is ever taken back. What the values of one that came to nothing take up comes
//! back as any segment does into which nothing points.
//!
//! Between the step and its durability nothing is written to the log, and nothing is promised.

use std::sync::Arc;

use raft::{ProgressState, Ready, SnapshotStatus, eraftpb::Message};

use super::{Caller, Capture, Core, Effects, InFlight, Mark, Outcome};
use crate::{
    auth::TokenChange,
    error::Status,
    limits,
    proto::raftpb,
    raft::{
        sending::{Delivery, SnapshotToSend},
        translate::{self, messages},
        view::View,
    },
    store::{checkpoint, state::State, types::Place, v2},
    wal::record::NewValues,
};

/// A state of the leader's, its values in this member's log.
pub struct Incoming {
    /// The message that it came with.
    pub message: Message,
    pub state: State,
}

/// What has become of an incoming state.
pub enum Installing {
    /// It is to be made this member's checkpoint; then `installed`.
    Begun(Box<Capture>),
    /// It is of no use any more, and nothing has changed.
    Ignored,
}

#[derive(Default)]
pub(super) struct Install {
    /// Segments from this life on may hold values that nothing points at yet.
    keeps_from: Option<u32>,
    /// Such values wait for the next write.
    gathering: bool,
    /// Waits for the log to be between two writes.
    incoming: Option<Box<Incoming>>,
    /// What the checkpoint that is being written holds.
    begun: Option<Box<State>>,
    /// The state is another one since the last mail.
    jumped: bool,
}

impl Install {
    pub fn is_gathering(&self) -> bool {
        self.gathering
    }

    /// Whether the log begins behind what is applied.
    pub fn has_begun(&self) -> bool {
        self.begun.is_some()
    }

    pub fn take_gathering(&mut self) -> bool {
        std::mem::take(&mut self.gathering)
    }

    pub fn take_jumped(&mut self) -> bool {
        std::mem::take(&mut self.jumped)
    }
}

impl Core {
    // ---- the sender ----

    /// A message that the crate has made, with the state that is applied now: it may be a later one than the crate knew of
    /// when it made the message, and that is as good.
    pub(super) fn snapshot_to_send(&self, message: Message) -> SnapshotToSend {
        let (index, term) = self.state.applied();
        let metadata = raftpb::SnapshotMetadata {
            conf_state: Some(self.state.conf_state().clone()),
            index: Some(index),
            term: Some(term),
        };
        let data = v2::membership_json(&self.state).into();
        let snapshot = Some(raftpb::Snapshot { data: Some(data), metadata: Some(metadata) });
        let message = raftpb::Message { snapshot, ..messages::message(message) };
        let view = Arc::new(View { state: self.state.clone(), segments: self.writer.table().clone() });
        SnapshotToSend { message, view }
    }

    /// A snapshot has reached a member, which has answered for it, or it has not. Gives whom leadership is handed to for that.
    ///
    /// A leader that cannot read its state would keep those who need it waiting for ever, and with them maybe the majority
    /// without which nothing is committed, not even its own removal: its heartbeats are as good as any.
    pub fn report_snapshot(&mut self, to: u64, delivery: Delivery) -> Option<u64> {
        let arrived = delivery == Delivery::Arrived;
        self.node.report_snapshot(to, if arrived { SnapshotStatus::Finish } else { SnapshotStatus::Failure });
        let heir = self.heir().filter(|_| delivery == Delivery::Unreadable)?;
        self.transfer_leader(heir);
        Some(heir)
    }

    /// The last entry that the log need not keep, if so much is durably applied: members that are a little behind are sent
    /// entries, and those who are being sent a snapshot are sent what follows it. Each is worth so many bytes.
    pub(super) fn superfluous_until(&self, applied: u64) -> u64 {
        if self.is_alone() {
            return applied;
        }
        let log = self.node.store();
        let within = |bytes| log.reaching_back(bytes) - 1;
        let until = applied.saturating_sub(self.catch_up_entries).max(within(limits::RAFT_CATCH_UP_BYTES));
        let sent = self.node.raft.prs().iter().filter(|(_, progress)| progress.state == ProgressState::Snapshot);
        match sent.map(|(_, progress)| progress.pending_snapshot).min() {
            Some(sent) => until.min(sent.max(within(limits::RAFT_SENDING_BYTES))),
            None => until,
        }
        .min(applied)
    }

    // ---- the receiver ----

    /// Whether a snapshot would bring this member further.
    pub fn wants_snapshot(&self, message: &Message) -> bool {
        let index = message.get_snapshot().get_metadata().index;
        message.term >= self.node.raft.term && index > self.node.raft.raft_log.committed
    }

    /// Values of a state that comes from another member will be kept.
    pub fn begin_keeping(&mut self) {
        self.install.keeps_from = Some(self.writer.active_life());
    }

    /// They are of no use any more: their segments may go.
    pub fn give_up_keeping(&mut self) {
        self.install.keeps_from = None;
    }

    /// Segments from this life on may hold values that nothing points at yet.
    pub fn keeps_from(&self) -> u32 {
        self.install.keeps_from.unwrap_or(u32::MAX)
    }

    /// Puts values into the log and says where each lies; see `has_kept`.
    pub fn keep_values(&mut self, values: &NewValues) -> Vec<Place> {
        self.install.gathering |= !values.is_empty();
        // They wait for no entry: no event of any state of this member says that its value is where they were.
        self.writer.append_new(values)
    }

    /// Whether all values that were kept are durable.
    pub fn has_kept(&self) -> bool {
        !self.install.gathering && !self.in_flight.as_ref().is_some_and(|write| write.imports)
    }

    /// Takes a state over, all of whose values are durable, as soon as the log is between two writes. The effects of a turn
    /// then say how that goes on; nothing else may be on its way into a checkpoint, or be moved, until it is over.
    pub fn install(&mut self, incoming: Box<Incoming>) {
        assert!(self.has_kept() && !self.relocating(), "values are still on their way");
        // What recovery may have begun to write is not waited for: it would come with the next write.
        self.install.gathering |= self.writer.is_open() && !self.may_write();
        self.install.incoming = Some(incoming);
    }

    pub(super) fn begin_installing(&mut self, effects: &mut Effects) {
        if self.in_flight.is_some() || self.writer.is_open() {
            return;
        }
        let Some(incoming) = self.install.incoming.take() else { return };
        let Incoming { message, state } = *incoming;
        // It says of itself, in what it answers, whether it was of use.
        self.step(message);
        match self.node.snap() {
            Some(_) => self.install.begun = Some(Box::new(state)),
            None => {
                self.install.keeps_from = None;
                effects.installing = Some(Installing::Ignored);
            }
        }
    }

    /// The crate has taken the snapshot: its log begins behind it. So does this one, once the checkpoint is durable.
    pub(super) fn restore(&mut self, mut ready: Ready, effects: &mut Effects) {
        let number = ready.number();
        let metadata = ready.snapshot().get_metadata().clone();
        let state = self.install.begun.as_mut().expect("a snapshot comes with a state");
        let (index, term) = (metadata.index, metadata.term);
        assert_eq!(state.applied().0, index, "the state is that of the snapshot");
        state.set_applied_term(term);
        state.set_conf_state(translate::conf_state(metadata.get_conf_state()));
        state.set_lease_ttl_min(self.state.lease_ttl_min());
        state.set_learners_max(self.state.learners_max());
        let state = (**state).clone();
        if let Some(hard_state) = ready.hs() {
            let old = self.node.store().hard_state();
            if (old.term, old.vote) != (hard_state.term, hard_state.vote) {
                self.unsynced_vote = Some(number);
                self.committed_in_term = false;
            }
            let hard_state = hard_state.clone();
            self.node.mut_store().set_hard_state(hard_state);
        }
        assert!(ready.entries().is_empty(), "entries behind a snapshot wait for it");
        // The checkpoint tells it.
        (self.commit_unlogged, self.commit_waits, self.commit_due) = (false, false, false);
        self.node.mut_store().restore(index, term, metadata.get_conf_state().clone());
        self.take_messages(&mut ready, effects);
        self.take_read_states(ready.take_read_states());
        self.node.advance_append_async(ready);
        // The checkpoint is the write that makes this ready durable.
        self.in_flight = Some(InFlight { number: Some(number), moves: Vec::new(), imports: false });
        let hard_state = self.node.store().hard_state();
        let hard_state = checkpoint::HardState { term: hard_state.term, vote: hard_state.vote, commit: index };
        #[cfg(any(test, feature = "sim"))]
        if self.has(super::Planted::AnswersBeforeInstalled) {
            effects.messages.extend(self.waiting_messages.drain(..).map(|(_, message)| message));
        }
        let position = self.writer.position();
        self.marks.clear();
        self.marks.push_back(Mark { position, last_index: index });
        let extents = self.writer.extents();
        effects.installing = Some(Installing::Begun(Box::new(Capture { state, hard_state, position, extents })));
    }

    /// The checkpoint of the state that is being taken over is durable.
    pub fn installed(&mut self) {
        self.state = *self.install.begun.take().expect("a state is being taken over");
        self.install.keeps_from = None;
        self.install.jumped = true;
        self.spans.jump_to(self.state.applied().0);
        // Of the state of before.
        self.moves_recovered.clear();
        self.dirty = true;
        self.look_for_introduction();
        // Who was let in meanwhile is not known, nor who was shut out.
        self.batch.tokens.push(TokenChange::Cleared);
        let (index, _) = self.state.applied();
        self.written();
        self.node.advance_apply_to(index);
    }

    /// What was received has been taken over, or why it could not be.
    pub fn snapshot_taken(&mut self, caller: Caller, result: Result<(), String>) {
        let outcome = match result {
            Ok(()) => Outcome::Done,
            Err(cause) => Outcome::Failed(Status::internal(cause)),
        };
        self.outcomes[caller.shard as usize].push((caller.token, outcome));
    }
}

#[cfg(test)]
mod tests;
