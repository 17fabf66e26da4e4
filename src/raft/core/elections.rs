//! How long a member waits before it stands for election. The crate draws that by its thread's own randomness whenever the
//! term or the role changes; it is drawn anew here, by the member's life, so that a run can be repeated. And who is to lead
//! instead of a leader that is not fit to.

use raft::StateRole;

use super::Core;
use crate::random::mix;

#[derive(Default)]
pub(super) struct Elections {
    /// The term and the role that the timeout was drawn for.
    drawn_for: Option<(u64, StateRole)>,
    /// The tick in which it was drawn.
    drawn_at: u64,
    draws: u64,
    timeout: usize,
}

impl Core {
    /// To be done after whatever may have changed term or role.
    pub(super) fn draw_timeout(&mut self) {
        let raft = &mut self.node.raft;
        let now = Some((raft.term, raft.state));
        if self.elections.drawn_for != now {
            self.elections.drawn_for = now;
            self.elections.drawn_at = self.ticks;
            self.elections.draws += 1;
            let least = raft.election_timeout();
            let more = mix(self.life.wrapping_add(self.elections.draws)) % least as u64;
            self.elections.timeout = least + more as usize;
        }
        if raft.randomized_election_timeout() != self.elections.timeout {
            raft.set_randomized_election_timeout(self.elections.timeout);
        }
    }

    /// A voter that may lead instead of this leader: one that answers and has all that is committed, so that it needs no
    /// snapshot to get the rest. By lot: so leadership does not go to and fro between two that are both not fit. None before
    /// it has led for as long as an election takes, which leaves some time to do something in.
    pub(super) fn heir(&self) -> Option<u64> {
        let raft = &self.node.raft;
        let led = self.ticks - self.elections.drawn_at;
        if !self.is_leader() || raft.lead_transferee.is_some() || led < raft.election_timeout() as u64 {
            return None;
        }
        let may_lead = |id: &u64| {
            let progress = raft.prs().get(*id);
            *id != raft.id && progress.is_some_and(|one| one.recent_active && one.matched >= raft.raft_log.committed)
        };
        let heirs: Vec<u64> = self.state.conf_state().voters.iter().copied().filter(may_lead).collect();
        let lot = mix(self.life.wrapping_add(self.ticks));
        (!heirs.is_empty()).then(|| heirs[(lot % heirs.len() as u64) as usize])
    }
}
