//! How long a member waits before it stands for election. The crate draws that by its thread's own randomness whenever the
//! term or the role changes; it is drawn anew here, by the member's life, so that a run can be repeated.

use raft::StateRole;

use super::Core;
use crate::random::mix;

#[derive(Default)]
pub(super) struct Elections {
    /// The term and the role that the timeout was drawn for.
    drawn_for: Option<(u64, StateRole)>,
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
            self.elections.draws += 1;
            let least = raft.election_timeout();
            let more = mix(self.life.wrapping_add(self.elections.draws)) % least as u64;
            self.elections.timeout = least + more as usize;
        }
        if raft.randomized_election_timeout() != self.elections.timeout {
            raft.set_randomized_election_timeout(self.elections.timeout);
        }
    }
}
