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

/// Largest message that gRPC sends: grpc-go's default, the largest int32.
pub const SEND_BYTES_MAX: usize = i32::MAX as usize;

/// Key-values encoded in one go before others get their turn: 256 of about 1 µs each hold a core for a quarter of a
/// millisecond.
pub const ENCODE_SLICE_KEYS: usize = 256;

/// Keys a request may look at on the shard's own core, where the work cannot be sliced (sorts, filters,
/// transactions): 4 slices, about a millisecond. Above it, a background thread does it.
pub const INLINE_KEYS_MAX: u64 = 4 * ENCODE_SLICE_KEYS as u64;

/// Bytes of values read from disk at once to fill one answer, so that a large answer is held once and not twice: 1 MiB.
pub const FILL_BATCH_BYTES: usize = 1024 * 1024;

/// Transactions within transactions. Each level is two messages deep; with the internal request around it
/// 2 × 40 + 3 stays under the 100 messages at which the decoder gives up (prost: RECURSION_LIMIT).
pub const TXN_DEPTH_MAX: usize = 40;

/// How long a RangeStream may hold its revision: 10 minutes carry 1 GiB at 1.8 MB/s. Longer, and a reader that has
/// gone to sleep would keep the log from being recycled.
pub const STREAM_PIN_MS_MAX: u64 = 10 * 60 * 1000;

/// Keys in the first message of a RangeStream (etcd: v3_server.go, initialStreamChunkLimit).
pub const STREAM_FIRST_KEYS: u64 = 10;

/// Leases that one shard may have on their way to be revoked: at one sweep every 100 ms about 10,000 a second, ten
/// times what etcd does, and a fifth of the 5,000 entries between commit and apply above which requests are refused.
pub const LEASE_REVOKES_IN_FLIGHT: usize = 1024;

/// An expired lease is handed out again if it has not been revoked after this (etcd: lessor.go,
/// defaultExpiredleaseRetryInterval).
pub const LEASE_EXPIRY_RETRY_MS: u64 = 3000;

/// Finest step of the lease deadlines' wheel. A lease ends at most this and one sweep late.
pub const LEASE_STEP_MS: u64 = 64;
