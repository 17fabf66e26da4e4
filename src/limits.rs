//! Every bound of the server in one place, each with the sum that justifies it. A bound that a flag can change
//! is the flag's default here.

/// `--max-request-bytes`: the whole marshalled raft request. etcd's default, 1.5 MiB.
pub const REQUEST_BYTES_DEFAULT: usize = 1536 * 1024;

/// What the gRPC layer lets in beyond `--max-request-bytes`, for the envelope around a request of full size.
pub const GRPC_OVERHEAD_BYTES: usize = 512 * 1024;

/// `--max-txn-ops`.
pub const TXN_OPS_DEFAULT: usize = 128;

/// `--quota-backend-bytes` when it is 0: 2 GiB.
pub const QUOTA_BYTES_DEFAULT: u64 = 2 * 1024 * 1024 * 1024;

/// Longest lease a client may ask for, in seconds (etcd: lease.MaxLeaseTTL).
pub const LEASE_TTL_SECONDS_MAX: i64 = 9_000_000_000;

/// What a key-value is counted for beside its bytes, against the quota (etcd: storage/quota.go).
pub const KV_OVERHEAD_BYTES: u64 = 256;

/// What a lease is counted for against the quota (etcd: storage/quota.go).
pub const LEASE_COST_BYTES: u64 = 64;

/// Bytes of watch responses that wait in one stream. Over it, its watches fall behind and keep a position only. A MiB
/// holds three events of 256 bytes for each of a thousand watches of one prefix.
pub const WATCH_STREAM_BYTES: usize = 1024 * 1024;

/// Bytes that wait in a watch stream before no more of its requests are read: events up to their bound, and the answers
/// to 10,000 creations in one flight, 60 bytes each.
pub const WATCH_CONTROL_BYTES: usize = WATCH_STREAM_BYTES + 1024 * 1024;

/// Bytes of watch responses that wait in all streams of a shard: 256 streams that have stalled. Over it only a stream in
/// which nothing waits is given more, one response at a time.
pub const WATCH_QUEUED_BYTES: usize = 256 * WATCH_STREAM_BYTES;

/// Watches of a shard: 4 Mi of 250 bytes are 1 GiB.
pub const WATCHES_MAX: usize = 4 * 1024 * 1024;

/// Bytes of the distinct ranges that the watches of a shard name: 64 for each of the most there may be.
pub const WATCH_RANGE_BYTES_MAX: usize = 64 * WATCHES_MAX;

/// Events shorter than this are copied behind the head of each response, longer ones shared: a part of its own costs
/// two allocations and a frame, about what copying 2 KiB costs.
pub const WATCH_SHARED_BYTES_MIN: usize = 2048;

/// Small responses of one stream are written into buffers of up to this: one h2 frame of the default size.
pub const WATCH_TAIL_BYTES: usize = 16 * 1024;

/// Distinct revisions in one response to a watch that catches up (etcd: watchBatchMaxRevs).
pub const CATCH_UP_REVISIONS: usize = 1000;

/// Bytes of one response to a watch that catches up, reached at the end of a revision: two thirds of the largest request,
/// so that most responses stay in the size of single values.
pub const CATCH_UP_BYTES: usize = 1024 * 1024;

/// Events looked at in one slice of catching up: about 1 ms at 0.25 µs each.
pub const CATCH_UP_EVENTS: usize = 4096;

/// Watches handled in one slice of catching up: one that has nothing to be told costs about 2 µs.
pub const CATCH_UP_WATCHES: usize = 128;

/// Responses written in one slice of fanning out: about 1 ms at 0.1 µs each.
pub const FAN_OUT_RESPONSES: usize = 8192;

/// Bytes of events that wait to be fanned out on a shard. Over it its watches fall behind and read the event index.
pub const FAN_OUT_BYTES: usize = 64 * 1024 * 1024;

/// Requests of one watch stream handled before others are let in: about 0.1 ms.
pub const WATCH_REQUESTS: usize = 128;
