//! Linearizable reads: those that wait share a round, in which the leader proves to a quorum that it still leads and says up
//! to where it had committed. A member that does not lead asks the leader. (etcd: server/v3_server.go,
//! linearizableReadLoop.)

use raft::{ReadState, StateRole};
use smallvec::smallvec;

use super::{Core, ReadRound};
use crate::{error, raft::mail::Outcome};

impl Core {
    /// Whether a round can begin: one at a time, so that reads gather while a quorum is asked.
    pub(super) fn may_ask(&self) -> bool {
        !self.reads_new.is_empty() && self.can_be_asked() && self.rounds.iter().all(|round| round.index.is_some())
    }

    /// A leader's crate drops what it is asked before the first commit of its term; so does a member's without a leader.
    fn can_be_asked(&self) -> bool {
        match self.role() {
            StateRole::Leader => self.committed_in_term,
            _ => self.node.raft.leader_id != 0,
        }
    }

    pub(super) fn start_read_round(&mut self) {
        if !self.may_ask() {
            return;
        }
        let context = self.ask();
        let callers = std::mem::take(&mut self.reads_new);
        let index = None;
        #[cfg(any(test, feature = "sim"))]
        let index = self.has(super::Planted::ReadsWithoutQuorum).then(|| self.state.applied().0).or(index);
        self.rounds.push(ReadRound { contexts: smallvec![context], callers, index, asked: self.ticks });
    }

    fn ask(&mut self) -> u64 {
        self.next_context += 1;
        self.node.read_index(self.next_context.to_be_bytes().to_vec());
        self.next_context
    }

    /// What a quorum has confirmed.
    pub(super) fn take_read_states(&mut self, states: Vec<ReadState>) {
        for state in states {
            // Of another length is none that this member has asked for.
            let Ok(context) = state.request_ctx.as_slice().try_into().map(u64::from_be_bytes) else { continue };
            if let Some(round) = self.rounds.iter_mut().find(|round| round.contexts.contains(&context)) {
                // The first answer is as good as a later one, and has less to wait for.
                round.index.get_or_insert(state.index);
            }
        }
    }

    /// A question or its answer may have been lost; nobody waits for one any more after the time of a request.
    pub(super) fn look_after_reads(&mut self) {
        let (now, patience) = (self.ticks, self.request_ticks);
        self.reads_new.retain(|(_, came)| now - came <= patience);
        for round in &mut self.rounds {
            round.callers.retain(|(_, came)| now - came <= patience);
        }
        self.rounds.retain(|round| !round.callers.is_empty());
        if !self.can_be_asked() {
            return;
        }
        for at in 0..self.rounds.len() {
            let round = &self.rounds[at];
            if round.index.is_none() && now - round.asked >= self.retry_ticks {
                let context = self.ask();
                let round = &mut self.rounds[at];
                round.contexts.push(context);
                round.asked = now;
            }
        }
    }

    /// Reads that a leader of before was asked for are told so, as in etcd: the next one may know nothing of them.
    pub(super) fn leader_changed(&mut self) {
        let asked = self.rounds.extract_if(.., |round| round.index.is_none()).collect::<Vec<_>>();
        for (caller, _) in asked.into_iter().flat_map(|round| round.callers) {
            self.fail(caller, error::LEADER_CHANGED);
        }
    }

    pub(super) fn finish_reads(&mut self) {
        let applied = self.node.raft.raft_log.applied;
        #[cfg(any(test, feature = "sim"))]
        let applied = if self.has(super::Planted::ReadsBeforeApply) { u64::MAX } else { applied };
        for round in self.rounds.extract_if(.., |round| round.index.is_some_and(|index| index <= applied)) {
            for (caller, _) in round.callers {
                self.outcomes[caller.shard as usize].push((caller.token, Outcome::Done));
            }
        }
    }
}
