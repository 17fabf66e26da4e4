//! What travels between a shard and the raft core: batches, once a turn of the loop, never single requests.

use std::{
    sync::{Arc, OnceLock},
    time::Instant,
};

use bytes::Bytes;

use super::{arriving::Received, view::View};
use crate::{
    error::Status,
    proto::raftpb,
    store::{
        apply::{Answer, LeaseChange, RevisionEvents},
        types::Place,
    },
};

/// Names one waiting request across the hop to the core and back: a slot of the shard's, and the slot's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token {
    pub slot: u32,
    pub life: u32,
}

/// One marshalled InternalRaftRequest. `id` is its header's id, by which apply finds the waiting caller.
#[derive(Debug)]
pub struct Proposal {
    pub token: Token,
    pub id: u64,
    pub data: Bytes,
    /// To be logged by this member as the leader of that term, or not at all.
    pub only_in: Option<u64>,
}

/// A snapshot that comes from another member: raft's message, and the database.
#[derive(Debug)]
pub struct ReceivedSnapshot {
    pub message: raftpb::Message,
    pub database: Received,
    /// When it began to come.
    pub began: Instant,
}

/// A committed entry that the log keeps, and where its data lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    pub index: u64,
    pub term: u64,
    /// Its type in etcd's numbers.
    pub kind: u8,
    pub place: Place,
}

/// Entries for a member that mends its log. `found` has them once it is answered: none that is beyond what is applied; None if the
/// first is not kept any more.
#[derive(Debug)]
pub struct Entries {
    pub from: u64,
    pub to: u64,
    pub found: Arc<OnceLock<Option<Vec<Kept>>>>,
}

/// What a shard asks of the raft core besides proposals and reads.
#[derive(Debug)]
pub enum Control {
    /// Answered when the compaction at or above this revision has given its space free (Compact, physical).
    CompactionDone { token: Token, revision: i64 },
    /// Answered when what compaction freed has been given back (Defragment).
    Defragment { token: Token },
    /// A change of the members, answered as a proposal is. `data`: a raftpb.ConfChange whose id is `id`. `promotes`: the
    /// learner that is to vote, whose log must have caught up.
    Configure { token: Token, id: u64, data: Bytes, promotes: Option<u64> },
    /// Leadership is to go to that voter. Not answered: whether it went is seen by who leads.
    TransferLeader { to: u64 },
    /// Answered when the snapshot has been taken over and raft has its message, or it is of no use.
    Install { token: Token, snapshot: Box<ReceivedSnapshot> },
    /// Answered at once.
    Entries { token: Token, entries: Box<Entries> },
}

/// A turn's worth of requests of one shard.
#[derive(Debug, Default)]
pub struct ToCore {
    pub proposals: Vec<Proposal>,
    /// Linearizable reads that wait for a read index. One round serves them all.
    pub reads: Vec<Token>,
    pub controls: Vec<Control>,
}

impl ToCore {
    pub fn is_empty(&self) -> bool {
        self.proposals.is_empty() && self.reads.is_empty() && self.controls.is_empty()
    }
}

/// What a waiting request is told.
#[derive(Debug)]
pub enum Outcome {
    /// A proposal was applied, with its answer, as of `view`.
    Applied(Box<Result<Answer, Status>>),
    /// A read may go ahead on the view that is published now; a control is done.
    Done,
    /// Nothing was done, or nobody knows.
    Failed(Status),
}

/// A turn's worth of results for one shard. The root they belong to is published before this is sent.
#[derive(Debug)]
pub struct FromCore {
    /// The view in which these answers' places are readable.
    pub view: Arc<View>,
    pub outcomes: Vec<(Token, Outcome)>,
    /// The events of the turn, in order; shared by all shards.
    pub events: Arc<Vec<RevisionEvents>>,
    pub leases: Arc<Vec<LeaseChange>>,
    /// The state is one that came from another member: not all that lies between it and the one before is among the events,
    /// nor are leases' changes.
    pub jumped: bool,
}
