//! What is counted. Each shard and the raft core own a struct of cells that nobody else writes, so counting takes no lock
//! and no shared cache line; a scrape reads them all and adds them up (`render`). Names, types and buckets are etcd's where
//! the thing exists here; what is urd's own begins with `urd_`.

pub mod cell;
pub mod health;
pub mod methods;
mod peers;
pub mod process;
mod render;
pub mod text;

use std::{sync::OnceLock, time::Duration};

pub use self::{
    cell::{Counter, Gauge, Histogram, LogLinear},
    health::HealthMetrics,
    peers::{PeerMetrics, PeersMetrics, Transfers},
    render::{Member, Sources, render},
};
use crate::error::{self, Code, Status};

/// `n` bounds from `start`, each `factor` times the one before (Prometheus: ExponentialBuckets).
const fn exponential<const N: usize>(start: f64, factor: f64) -> [f64; N] {
    let mut bounds = [start; N];
    let mut at = 1;
    while at < N {
        bounds[at] = bounds[at - 1] * factor;
        at += 1;
    }
    bounds
}

/// etcd's for requests, syncs and writes, in seconds.
static LATENCY: [f64; 14] = exponential(0.001, 2.0);
/// etcd's for applying and reading, in seconds.
static APPLY: [f64; 20] = exponential(0.0001, 2.0);
static DEFRAG: [f64; 13] = exponential(0.1, 2.0);
static HASH: [f64; 15] = exponential(0.01, 2.0);
static LEASE_TTL: [f64; 24] = exponential(1.0, 2.0);
static PAUSE_MS: [f64; 13] = exponential(1.0, 2.0);
static COMPACTION_MS: [f64; 14] = exponential(100.0, 2.0);
static INDEX_PAUSE_MS: [f64; 14] = exponential(0.5, 2.0);
static SNAPSHOT: [f64; 17] = exponential(0.01, 2.0);
static SNAPSHOT_SAVE: [f64; 10] = exponential(0.1, 2.0);
/// Prometheus' defaults, which grpc's own histogram has.
static HANDLING: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// By success: failed, succeeded.
#[derive(Debug)]
pub struct Outcomes([Histogram; 2]);

impl Outcomes {
    fn new(bounds: &'static [f64]) -> Self {
        Outcomes([Histogram::new(bounds), Histogram::new(bounds)])
    }

    #[inline]
    pub fn observe(&self, success: bool, duration: Duration) {
        self.0[usize::from(success)].observe(duration);
    }

    #[inline]
    pub fn observe_many(&self, success: bool, duration: Duration, times: u64) {
        self.0[usize::from(success)].observe_many(duration, times);
    }
}

/// A request by what it asks, as the labels `type` and `op` name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Operation {
    Range,
    ReadonlyTxn,
    Put,
    DeleteRange,
    Txn,
    Compaction,
    LeaseGrant,
    LeaseRevoke,
    Alarm,
    ClusterVersionSet,
    ClusterMemberAttrSet,
    DowngradeInfoSet,
    Authenticate,
    AuthEnable,
    AuthDisable,
    AuthStatus,
    AuthUserAdd,
    AuthUserDelete,
    AuthUserGet,
    AuthUserChangePassword,
    AuthUserGrantRole,
    AuthUserRevokeRole,
    AuthUserList,
    AuthRoleList,
    AuthRoleAdd,
    AuthRoleDelete,
    AuthRoleGet,
    AuthRoleGrantPermission,
    AuthRoleRevokePermission,
}

impl Operation {
    pub const ALL: [(Operation, &'static str); 29] = [
        (Operation::Range, "Range"),
        (Operation::ReadonlyTxn, "ReadonlyTxn"),
        (Operation::Put, "Put"),
        (Operation::DeleteRange, "DeleteRange"),
        (Operation::Txn, "Txn"),
        (Operation::Compaction, "Compaction"),
        (Operation::LeaseGrant, "LeaseGrant"),
        (Operation::LeaseRevoke, "LeaseRevoke"),
        (Operation::Alarm, "Alarm"),
        (Operation::ClusterVersionSet, "ClusterVersionSet"),
        (Operation::ClusterMemberAttrSet, "ClusterMemberAttrSet"),
        (Operation::DowngradeInfoSet, "DowngradeInfoSet"),
        (Operation::Authenticate, "Authenticate"),
        (Operation::AuthEnable, "AuthEnable"),
        (Operation::AuthDisable, "AuthDisable"),
        (Operation::AuthStatus, "AuthStatus"),
        (Operation::AuthUserAdd, "AuthUserAdd"),
        (Operation::AuthUserDelete, "AuthUserDelete"),
        (Operation::AuthUserGet, "AuthUserGet"),
        (Operation::AuthUserChangePassword, "AuthUserChangePassword"),
        (Operation::AuthUserGrantRole, "AuthUserGrantRole"),
        (Operation::AuthUserRevokeRole, "AuthUserRevokeRole"),
        (Operation::AuthUserList, "AuthUserList"),
        (Operation::AuthRoleList, "AuthRoleList"),
        (Operation::AuthRoleAdd, "AuthRoleAdd"),
        (Operation::AuthRoleDelete, "AuthRoleDelete"),
        (Operation::AuthRoleGet, "AuthRoleGet"),
        (Operation::AuthRoleGrantPermission, "AuthRoleGrantPermission"),
        (Operation::AuthRoleRevokePermission, "AuthRoleRevokePermission"),
    ];
}

/// Durations of each operation, by success.
#[derive(Debug)]
pub struct ByOperation(Box<[Outcomes]>);

impl ByOperation {
    fn new(bounds: &'static [f64]) -> Self {
        ByOperation(Operation::ALL.iter().map(|_| Outcomes::new(bounds)).collect())
    }

    #[inline]
    pub fn observe(&self, operation: Operation, success: bool, duration: Duration) {
        self.0[operation as usize].observe(success, duration);
    }

    /// So many that took equally long.
    #[inline]
    pub fn observe_many(&self, operation: Operation, success: bool, duration: Duration, times: u64) {
        self.0[operation as usize].observe_many(success, duration, times);
    }
}

/// A part of the way a request takes; what is spent in it is told by quantiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Stage {
    /// From the decoded request to its encoded answer.
    Request,
    /// A linearizable read's wait for its read index.
    ReadIndex,
    /// A proposal's wait from the shard's outbox to its answer.
    Proposal,
    /// A batch's wait in the raft core for the write before it to end, from the arrival of its first proposal.
    Queue,
    /// A batch in the raft core, from the arrival of its first proposal to its publication.
    Batch,
    /// One durable write of the log.
    Persist,
    /// Applying a batch.
    Apply,
    /// One durable write of a checkpoint.
    Checkpoint,
}

impl Stage {
    pub const ALL: [(Stage, &'static str); 8] = [
        (Stage::Request, "request"),
        (Stage::ReadIndex, "read_index"),
        (Stage::Proposal, "proposal"),
        (Stage::Queue, "queue"),
        (Stage::Batch, "batch"),
        (Stage::Persist, "persist"),
        (Stage::Apply, "apply"),
        (Stage::Checkpoint, "checkpoint"),
    ];
}

/// Time spent by stage.
#[derive(Debug)]
pub struct Stages([LogLinear; Stage::ALL.len()]);

impl Default for Stages {
    fn default() -> Self {
        Stages(std::array::from_fn(|_| LogLinear::default()))
    }
}

impl Stages {
    #[inline]
    pub fn observe(&self, stage: Stage, duration: Duration) {
        self.0[stage as usize].observe(duration);
    }
}

/// One gRPC method as one shard serves it.
#[derive(Debug)]
pub struct MethodMetrics {
    pub started: Counter,
    pub received: Counter,
    pub sent: Counter,
    handled: [Counter; Code::COUNT],
    handling: Histogram,
}

impl Default for MethodMetrics {
    fn default() -> Self {
        MethodMetrics {
            started: Counter::default(),
            received: Counter::default(),
            sent: Counter::default(),
            handled: std::array::from_fn(|_| Counter::default()),
            handling: Histogram::new(&HANDLING),
        }
    }
}

impl MethodMetrics {
    /// A call has ended with `code`.
    #[inline]
    pub fn handled(&self, code: Code) {
        self.handled[code as usize].increment();
    }

    /// How long a call took (`--metrics extensive`).
    #[inline]
    pub fn took(&self, duration: Duration) {
        self.handling.observe(duration);
    }

    /// Calls that have ended with `code`.
    pub fn ended(&self, code: Code) -> u64 {
        self.handled[code as usize].get()
    }
}

/// Calls by the client's version, which clients say in their metadata and which may be anything: the first few versions
/// seen have a place each, the rest share one.
#[derive(Debug, Default)]
pub struct ClientVersions {
    places: [VersionPlace; ClientVersions::PLACES],
    others: [Counter; 2],
}

#[derive(Debug, Default)]
struct VersionPlace {
    /// Empty until a version has taken the place, which it then keeps.
    version: OnceLock<Box<str>>,
    calls: [Counter; 2],
}

impl ClientVersions {
    /// Releases of client libraries that meet one server: seldom more than a handful.
    const PLACES: usize = 15;

    /// Counts a call; `version` is empty where the client said none.
    pub fn count(&self, version: &str, is_stream: bool) {
        let version = if version.is_empty() { "unknown" } else { version };
        for place in &self.places {
            if &**place.version.get_or_init(|| version.into()) == version {
                place.calls[usize::from(is_stream)].increment();
                return;
            }
        }
        self.others[usize::from(is_stream)].increment();
    }

    /// Version, unary calls, streaming calls.
    fn read(&self) -> impl Iterator<Item = (&str, [u64; 2])> {
        let places = self.places.iter().filter_map(|place| Some((&**place.version.get()?, &place.calls)));
        places.chain([("other", &self.others)]).map(|(version, calls)| (version, [calls[0].get(), calls[1].get()]))
    }
}

/// Why a learner is not promoted: what a client is told, and what etcd calls it inside, which the label carries.
static PROMOTE_FAILURES: [(Status, &str); 4] = [
    (error::MEMBER_NOT_FOUND, "membership: ID not found"),
    (error::MEMBER_NOT_LEARNER, "membership: can only promote a learner member"),
    (error::LEARNER_NOT_READY, "etcdserver: can only promote a learner member which is in sync with leader"),
    (error::TIMEOUT, "etcdserver: request timed out"),
];

/// Promotions of learners that were refused, by the reason.
#[derive(Debug, Default)]
pub struct PromoteFailures([Counter; 4]);

impl PromoteFailures {
    pub fn count(&self, status: &Status) {
        if let Some(at) = PROMOTE_FAILURES.iter().position(|(told, _)| told == status) {
            self.0[at].increment();
        }
    }

    fn read(&self) -> impl Iterator<Item = (&'static str, u64)> {
        PROMOTE_FAILURES.iter().zip(&self.0).map(|((_, reason), count)| (*reason, count.get()))
    }
}

/// Alarms that have been raised since the start, by kind and member: what told of one goes on to tell that it is over.
/// There are as many as kinds and members, but for who raises them for members that are none; those beyond the first
/// few are told of while they last.
#[derive(Debug, Default)]
pub struct AlarmsSeen([OnceLock<(i32, u64)>; AlarmsSeen::PLACES]);

impl AlarmsSeen {
    /// Two kinds, of the members of a large cluster.
    const PLACES: usize = 2 * 9;

    pub fn remember(&self, alarm: (i32, u64)) {
        self.0.iter().find(|place| *place.get_or_init(|| alarm) == alarm);
    }

    pub fn iter(&self) -> impl Iterator<Item = (i32, u64)> + '_ {
        self.0.iter().filter_map(|place| place.get().copied())
    }
}

/// What one shard counts, its gRPC layer included. Written by its executor alone; a line's length and its neighbour's
/// keep other cores' cells away (processors fetch lines in pairs).
#[derive(Debug)]
#[repr(align(128))]
pub struct ShardMetrics {
    /// By `methods::number`.
    pub methods: Box<[MethodMetrics]>,
    pub client_versions: ClientVersions,
    /// Bytes of messages, decompressed, without their prefixes, as etcd counts them.
    pub client_received_bytes: Counter,
    pub client_sent_bytes: Counter,
    pub stream_failures: Counter,

    /// Ranges answered by this shard, alone and in read-only transactions.
    pub ranges: Counter,
    pub readonly_transactions: Counter,
    pub range_duration: Outcomes,
    pub request_duration: ByOperation,
    /// Reads that took longer than an apply may.
    pub slow_reads: Counter,
    pub slow_read_indexes: Counter,
    pub read_indexes_failed: Counter,
    pub proposals_failed: Counter,
    pub promote_failures: PromoteFailures,

    pub watch_streams: Gauge,
    pub watchers: Gauge,
    /// Watchers that read history because they are behind.
    pub slow_watchers: Gauge,
    pub events_sent: Counter,
    /// Events that wait in streams.
    pub pending_events: Gauge,
    /// Time to hand to flow control what waited in a stream: as a whole where events are in it, for each of them, and
    /// where none are.
    pub watch_sends: Histogram,
    pub watch_sends_per_event: Histogram,
    pub control_sends: Histogram,
    /// Answers that are made while the caller takes them, from a state that is held for them.
    pub open_reads: Gauge,

    pub leases_renewed: Counter,
    pub leases_expired: Counter,
    /// Passwords hashed, to be kept or to be compared.
    pub password_hashes: Counter,

    pub hash_duration: Histogram,
    pub hash_rev_duration: Histogram,

    /// This shard's load.
    pub connections: Gauge,
    pub requests_active: Gauge,
    /// Bytes of responses that wait in watch streams.
    pub queued_bytes: Gauge,
    /// Nanoseconds that the executor worked, as opposed to waiting.
    pub busy_nanoseconds: Counter,
    pub turns: Counter,
    /// Requests that one mail to the raft core carried.
    pub mail_size: LogLinear,
    pub stages: Stages,
}

impl Default for ShardMetrics {
    fn default() -> Self {
        ShardMetrics {
            methods: methods::METHODS.iter().map(|_| MethodMetrics::default()).collect(),
            client_versions: ClientVersions::default(),
            client_received_bytes: Counter::default(),
            client_sent_bytes: Counter::default(),
            stream_failures: Counter::default(),
            ranges: Counter::default(),
            readonly_transactions: Counter::default(),
            range_duration: Outcomes::new(&APPLY),
            request_duration: ByOperation::new(&LATENCY),
            slow_reads: Counter::default(),
            slow_read_indexes: Counter::default(),
            read_indexes_failed: Counter::default(),
            proposals_failed: Counter::default(),
            promote_failures: PromoteFailures::default(),
            watch_streams: Gauge::default(),
            watchers: Gauge::default(),
            slow_watchers: Gauge::default(),
            events_sent: Counter::default(),
            pending_events: Gauge::default(),
            watch_sends: Histogram::new(&LATENCY),
            watch_sends_per_event: Histogram::new(&LATENCY),
            control_sends: Histogram::new(&LATENCY),
            open_reads: Gauge::default(),
            leases_renewed: Counter::default(),
            leases_expired: Counter::default(),
            password_hashes: Counter::default(),
            hash_duration: Histogram::new(&HASH),
            hash_rev_duration: Histogram::new(&HASH),
            connections: Gauge::default(),
            requests_active: Gauge::default(),
            queued_bytes: Gauge::default(),
            busy_nanoseconds: Counter::default(),
            turns: Counter::default(),
            mail_size: LogLinear::default(),
            stages: Stages::default(),
        }
    }
}

/// What the raft core counts, with the store and the log behind it. Written by its executor alone.
#[derive(Debug)]
#[repr(align(128))]
pub struct CoreMetrics {
    /// 0 or 1.
    pub has_leader: Gauge,
    pub is_leader: Gauge,
    pub leader_changes: Counter,
    /// The highest index committed, and applied.
    pub committed: Gauge,
    pub applied: Gauge,
    /// Proposals that wait to be applied.
    pub proposals_pending: Gauge,
    pub slow_applies: Counter,
    pub apply_duration: ByOperation,
    /// Entries in one durable write of the log.
    pub batch_size: LogLinear,

    pub puts: Counter,
    pub deletes: Counter,
    pub transactions: Counter,
    /// Ranges within transactions that went through the log.
    pub ranges: Counter,
    /// Bytes of keys and values put since the start.
    pub put_bytes: Gauge,
    pub keys: Gauge,
    pub current_revision: Gauge,
    pub compact_revision: Gauge,
    /// Of users and roles.
    pub auth_revision: Gauge,

    pub alarms_seen: AlarmsSeen,
    pub leases_granted: Counter,
    pub leases_revoked: Counter,
    pub lease_ttl: Histogram,

    pub wal_fsync_duration: Histogram,
    pub wal_write_bytes: Gauge,
    pub db_bytes: Gauge,
    pub db_bytes_in_use: Gauge,

    /// Unix time, in seconds.
    pub compaction_last: Gauge,
    pub compaction_keys: Counter,
    /// Milliseconds, as etcd has it.
    pub compaction_pause_ms: Histogram,
    pub compaction_total_ms: Histogram,
    pub defrag_inflight: Gauge,
    pub defrag_duration: Histogram,
    /// Bytes read to look segments through.
    pub scrubbed_bytes: Counter,
    pub damaged_records: Counter,
    pub mended_values: Counter,
    /// Values that cannot be read now, and that no other member has given.
    pub damaged_values: Gauge,
    pub stages: Stages,
}

impl Default for CoreMetrics {
    fn default() -> Self {
        CoreMetrics {
            has_leader: Gauge::default(),
            is_leader: Gauge::default(),
            leader_changes: Counter::default(),
            committed: Gauge::default(),
            applied: Gauge::default(),
            proposals_pending: Gauge::default(),
            slow_applies: Counter::default(),
            apply_duration: ByOperation::new(&APPLY),
            batch_size: LogLinear::default(),
            puts: Counter::default(),
            deletes: Counter::default(),
            transactions: Counter::default(),
            ranges: Counter::default(),
            put_bytes: Gauge::default(),
            keys: Gauge::default(),
            current_revision: Gauge::default(),
            compact_revision: Gauge::default(),
            auth_revision: Gauge::default(),
            alarms_seen: AlarmsSeen::default(),
            leases_granted: Counter::default(),
            leases_revoked: Counter::default(),
            lease_ttl: Histogram::new(&LEASE_TTL),
            wal_fsync_duration: Histogram::new(&LATENCY),
            wal_write_bytes: Gauge::default(),
            db_bytes: Gauge::default(),
            db_bytes_in_use: Gauge::default(),
            compaction_last: Gauge::default(),
            compaction_keys: Counter::default(),
            compaction_pause_ms: Histogram::new(&PAUSE_MS),
            compaction_total_ms: Histogram::new(&COMPACTION_MS),
            defrag_inflight: Gauge::default(),
            defrag_duration: Histogram::new(&DEFRAG),
            scrubbed_bytes: Counter::default(),
            damaged_records: Counter::default(),
            mended_values: Counter::default(),
            damaged_values: Gauge::default(),
            stages: Stages::default(),
        }
    }
}
