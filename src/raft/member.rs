//! What every core knows of the member it serves: who it is, how it is set up, how it stands in raft, what it counts.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use arc_swap::ArcSwap;

use super::identity;
use crate::{
    auth::tokens::{SimpleTokens, Tokens},
    config::Config,
    limits,
    observe::metrics::{CoreMetrics, PeersMetrics, ShardMetrics, health::HealthMetrics},
    store::hash::{CompactionHashes, spans::SpanHashes},
    wire::head::Head,
};

/// A member, shared by all its executors.
pub struct Member {
    pub id: u64,
    pub cluster_id: u64,
    pub config: Config,
    pub head: Head,
    pub standing: SharedStanding,
    pub metrics: Metrics,
    /// Bytes of the log and the checkpoints, and those of them that live; told by the raft core.
    pub db_size: AtomicU64,
    pub db_size_in_use: AtomicU64,
    /// Whether all members know this one by its name and client URLs.
    pub introduced: AtomicBool,
    pub reached: Reached,
    /// Whether this member does not vote.
    pub is_learner: AtomicBool,
    /// How users are known by what they show.
    pub tokens: Tokens,
    /// Told by the raft core at each compaction.
    pub compaction_hashes: CompactionHashes,
    /// Told by the raft core as it applies.
    pub span_hashes: SpanHashes,
    /// The member does not belong to the cluster any more, and ends.
    pub departed: AtomicBool,
    /// The low part of request ids, shared by all shards (etcd: pkg/idutil).
    next_id: AtomicU64,
}

/// What the member counts. Each part is written by one core and read by any.
pub struct Metrics {
    pub core: CoreMetrics,
    /// One a shard.
    pub shards: Vec<Arc<ShardMetrics>>,
    pub health: HealthMetrics,
    pub peers: PeersMetrics,
}

/// The raft core's standing as any core may read it. Each field alone; no reader needs them to match.
#[derive(Default)]
pub struct SharedStanding {
    pub term: AtomicU64,
    pub leader: AtomicU64,
    pub commit: AtomicU64,
    pub applied: AtomicU64,
    pub vote: AtomicU64,
    /// `Role` as a number.
    pub role: AtomicU64,
    /// When raft's clock has gone on last, by `runtime::now_ms`.
    pub ticked_ms: AtomicU64,
    /// On a leader, of its own log: the highest index that is durable, and the one after the last.
    pub matched: AtomicU64,
    pub next: AtomicU64,
}

/// The other members that this one speaks to, and since when each is heard of, in the milliseconds of the executors' clock. Told
/// by the executor that has the ways to them.
#[derive(Default)]
pub struct Reached(ArcSwap<BTreeMap<u64, Option<u64>>>);

impl Reached {
    pub fn tell(&self, members: BTreeMap<u64, Option<u64>>) {
        self.0.store(Arc::new(members));
    }

    /// Whether this member speaks to that one, or tries to.
    pub fn knows(&self, member: u64) -> bool {
        self.0.load().contains_key(&member)
    }

    pub fn since(&self, member: u64) -> Option<u64> {
        self.0.load().get(&member).copied().flatten()
    }

    pub fn count(&self) -> usize {
        self.0.load().values().flatten().count()
    }
}

/// What a member is in raft, in the order of its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Role {
    Follower,
    Candidate,
    Leader,
    PreCandidate,
}

impl SharedStanding {
    pub fn role(&self) -> Role {
        match self.role.load(Relaxed) {
            1 => Role::Candidate,
            2 => Role::Leader,
            3 => Role::PreCandidate,
            _ => Role::Follower,
        }
    }
}

impl Member {
    /// `drawn`: a number of this life's own.
    pub fn new(id: u64, cluster_id: u64, config: Config, drawn: u64) -> Self {
        let shards = (0..config.shards).map(|_| Arc::default()).collect();
        Member {
            id,
            cluster_id,
            tokens: Tokens::Simple(SimpleTokens::new(config.auth_token_ttl_ms)),
            metrics: Metrics {
                core: CoreMetrics::default(),
                shards,
                health: HealthMetrics::default(),
                peers: PeersMetrics::default(),
            },
            config,
            head: Head::new(cluster_id, id),
            standing: SharedStanding::default(),
            db_size: AtomicU64::new(0),
            db_size_in_use: AtomicU64::new(0),
            introduced: AtomicBool::new(false),
            reached: Reached::default(),
            is_learner: AtomicBool::new(false),
            compaction_hashes: CompactionHashes::default(),
            span_hashes: SpanHashes::default(),
            departed: AtomicBool::new(false),
            next_id: AtomicU64::new(identity::first_id(id, drawn)),
        }
    }

    /// With tokens of another kind than the usual.
    #[must_use]
    pub fn with_tokens(self, tokens: Tokens) -> Self {
        Member { tokens, ..self }
    }

    /// A request id, never 0 and never used before in this cluster.
    pub fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Relaxed) + 1
    }

    /// Whether raft's clock goes on, so that what this member believes of its leadership is not older than a heartbeat or two. Otherwise
    /// it may have stood still while others elected another leader. (etcd: EtcdServer.isActive.)
    pub fn is_active(&self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.standing.ticked_ms.load(Relaxed)) < 3 * self.config.heartbeat_ms
    }

    /// Whether a member has been reached for long enough to be counted on.
    pub fn is_connected(&self, member: u64, now_ms: u64) -> bool {
        let since_ms = now_ms.saturating_sub(limits::HEALTH_MS);
        member == self.id || self.reached.since(member).is_some_and(|active_ms| active_ms < since_ms)
    }

    pub fn is_leader(&self) -> bool {
        self.standing.leader.load(Relaxed) == self.id
    }

    /// The term in which this member leads.
    pub fn leads_in(&self) -> Option<u64> {
        self.is_leader().then(|| self.term())
    }

    pub fn term(&self) -> u64 {
        self.standing.term.load(Relaxed)
    }
}
