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

/// What a direct write is a multiple of: the largest logical block of usual devices, and a page.
pub const LOG_BLOCK_BYTES: u32 = 4096;

/// A segment of the log. 16 MiB holds ten requests of the default size; 2 GiB of quota are 128 segments, so that tables of
/// segments stay small; preparing one costs about 10 ms of a background thread; the last one's emptiness wastes little.
pub const SEGMENT_BYTES_DEFAULT: u32 = 16 * 1024 * 1024;

/// A segment holds at least so many requests of full size, so that what does not fit its end wastes a quarter at most.
pub const SEGMENT_REQUESTS_MIN: u32 = 4;

/// Written segments whose bytes are kept in memory, the active one included: four of the default size. Fresh values are
/// the ones that watches and readers ask for; older ones come from the page cache.
pub const LOG_RECENT_BYTES: u64 = 64 * 1024 * 1024;

/// A record of relocated values is closed when it has grown to this, so that repacking never holds up a batch for long.
/// One value that is larger makes a record of its own.
pub const MOVED_RECORD_BYTES: usize = 1024 * 1024;

/// One question to the kernel about resident pages covers 64 pages (256 KiB), a bit of one word each.
pub const RESIDENT_WINDOW_PAGES: usize = 64;

/// A block of a checkpoint: large enough that its 16 bytes of head and its read call do not count, small enough that
/// loading one needs no memory to speak of. An entry that is larger makes a block of its own.
pub const CHECKPOINT_BLOCK_BYTES: usize = 256 * 1024;

/// Segments' files kept for reuse; more are deleted. Four of the default size are 64 MiB beside the quota, and at a write
/// rate of 64 MiB/s a second's work for the thread that prepares them.
pub const SPARE_SEGMENTS_MAX: usize = 4;
