//! Bugs that are put in on purpose, to see that the simulator finds them: the classic ones of replicated logs.

use raft::eraftpb::{Entry, EntryType, Message, MessageType};

use super::Core;
use crate::{
    raft::translate::{self, Change},
    store::{
        apply::{AppliedBatch, ApplyEntry},
        lease::LeaseBook,
        state::State,
    },
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Planted {
    /// A leader takes its own entries for durable before they are.
    CountsUnsynced,
    /// A follower answers for entries, and for its vote, before they are durable.
    AnswersUnsynced,
    /// A vote is not logged.
    ForgetsVotes,
    /// Votes are given to members whose log is shorter.
    VotesForShorterLogs,
    /// Reads are answered without asking whether the leader still leads.
    ReadsWithoutQuorum,
    /// Reads are answered before what they have to see is applied.
    ReadsBeforeApply,
    /// A checkpoint says that replay begins behind entries that it does not hold.
    CheckpointsAhead,
    /// A checkpoint is written without its leases.
    CheckpointsForgetLeases,
    /// After a restart the last entry of the log is not applied.
    SkipsAnEntry,
    /// A record whose end has not reached the disk is taken for whole.
    TrustsTornWrites,
    /// Events are told when they are logged, not when they are committed.
    TellsUncommitted,
    /// What a learner has is counted as if a voter had it.
    CountsLearners,
    /// A change of the members counts for the leader as soon as it has logged it, and is not taken back.
    ChangesBeforeCommit,
    /// What a leader of before has found expired is revoked by whoever leads.
    RevokesAsDeposed,
    /// A leader renews leases without asking whether it still leads.
    RenewsUnconfirmed,
    /// Who leads again goes on with the deadlines of the time when it led before.
    KeepsOldDeadlines,
    /// A leader is answered for its snapshot before that has been made this member's.
    AnswersBeforeInstalled,
    /// A segment is recycled as soon as the present state leaves it, though the last checkpoint still points there.
    RecyclesTooEarly,
    /// A checkpoint may name a place to replay from whose segment was recycled.
    ReplaysFromRecycled,
    /// Deadlines of leases are kept by the wall clock.
    DeadlinesByWallClock,
    /// Ids begin at the wall clock, so that they come again where it is set back.
    IdsByWallClock,
}

impl Planted {
    pub const ALL: [Planted; 21] = [
        Planted::CountsUnsynced,
        Planted::AnswersUnsynced,
        Planted::ForgetsVotes,
        Planted::VotesForShorterLogs,
        Planted::ReadsWithoutQuorum,
        Planted::ReadsBeforeApply,
        Planted::CheckpointsAhead,
        Planted::CheckpointsForgetLeases,
        Planted::SkipsAnEntry,
        Planted::TrustsTornWrites,
        Planted::TellsUncommitted,
        Planted::CountsLearners,
        Planted::ChangesBeforeCommit,
        Planted::RevokesAsDeposed,
        Planted::RenewsUnconfirmed,
        Planted::KeepsOldDeadlines,
        Planted::AnswersBeforeInstalled,
        Planted::RecyclesTooEarly,
        Planted::ReplaysFromRecycled,
        Planted::DeadlinesByWallClock,
        Planted::IdsByWallClock,
    ];
}

impl Core {
    pub fn plant(&mut self, bug: Option<Planted>) {
        self.planted = bug;
    }

    pub(super) fn has(&self, bug: Planted) -> bool {
        self.planted == Some(bug)
    }

    /// What is wrongly taken from a message.
    pub(super) fn misread(&mut self, message: &mut Message) {
        let kind = message.get_msg_type();
        let asks = matches!(kind, MessageType::MsgRequestVote | MessageType::MsgRequestPreVote);
        if asks && self.has(Planted::VotesForShorterLogs) {
            message.log_term = message.log_term.max(self.node.raft.raft_log.last_term());
            message.index = message.index.max(self.node.raft.raft_log.last_index());
        }
        let conf_state = self.state.conf_state();
        let of_learner = kind == MessageType::MsgAppendResponse
            && !message.reject
            && conf_state.learners.contains(&message.from)
            && self.has(Planted::CountsLearners);
        if of_learner {
            let other = conf_state.voters.iter().find(|voter| **voter != self.node.raft.id);
            if let Some(voter) = other.copied() {
                let _ = self.node.step(Message { from: voter, ..message.clone() });
            }
        }
    }

    pub(super) fn without_leases(&self, mut state: State) -> State {
        if self.has(Planted::CheckpointsForgetLeases) {
            state.leases = LeaseBook::default();
        }
        state
    }

    pub(super) fn passes_over(&self, index: u64) -> bool {
        self.has(Planted::SkipsAnEntry) && index == self.recovered
    }

    /// Tells the events of what a leader has just appended, where that is next to what is applied.
    pub(super) fn tell_early(&mut self, appended: &[Entry]) {
        let follows = appended.first().is_some_and(|first| first.index == self.state.applied().0 + 1);
        if !self.has(Planted::TellsUncommitted) || !self.is_leader() || !follows {
            return;
        }
        let (mut ahead, mut told) = (self.state.clone(), AppliedBatch::default());
        for entry in appended {
            let (index, term) = (entry.index, entry.term);
            if entry.entry_type != EntryType::EntryNormal || entry.data.is_empty() {
                ahead.apply_empty(index, term);
                continue;
            }
            let base = self.node.store().place(index).expect("it was just appended");
            let entry = ApplyEntry { index, term, base, data: entry.data.clone(), quota_room: None };
            ahead.apply(&entry, self.writer.table(), &mut told).expect("values can be read");
        }
        let new = told.events.into_iter().filter(|events| events.revision > self.told_early);
        self.batch.events.extend(new);
        self.told_early = self.told_early.max(ahead.index.current());
    }

    /// What was told early is not told again, of the events from that place on.
    pub(super) fn tell_once(&mut self, from: usize) {
        let told = self.told_early;
        self.batch.events.extract_if(from.., |events| events.revision <= told).for_each(drop);
    }

    /// Counts a change for the crate as soon as it is appended.
    pub(super) fn change_early(&mut self, data: &[u8]) {
        if let (true, Ok((_, Change::Voters(change)))) =
            (self.has(Planted::ChangesBeforeCommit), translate::conf_change(data))
        {
            let _ = self.node.apply_conf_change(&*change);
        }
    }
}
