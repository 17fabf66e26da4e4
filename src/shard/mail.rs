//! What travels from shard to shard and between a shard and the raft core: batches, once a turn of the loop, never
//! single requests.

use super::{
    lease::{LeaseAnswer, LeaseCall},
    pending::Token,
};
pub use crate::raft::mail::{Control, FromCore, Outcome, Proposal, ToCore};

/// What one executor sends another, a turn's worth at a time.
#[derive(Debug)]
pub enum Post {
    ToCore(ToCore),
    FromCore(FromCore),
    /// Questions about leases that the receiver owns.
    LeaseCalls(Vec<(Token, LeaseCall)>),
    /// Their answers, back at who asked.
    LeaseAnswers(Vec<(Token, LeaseAnswer)>),
}
