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

/// Largest `--max-request-bytes`: a gRPC message's length must stay below 2^31 with the envelope around it.
pub const REQUEST_BYTES_MAX: usize = (1 << 31) - 1 - GRPC_OVERHEAD_BYTES;

/// `--max-request-bytes` beyond which the operator is warned, as by etcd: 10 MiB.
pub const REQUEST_BYTES_ADVISED: usize = 10 * 1024 * 1024;

/// Shortest `--watch-progress-notify-interval`, in milliseconds (etcd: v3rpc/watch.go, minWatchProgressInterval).
pub const WATCH_PROGRESS_INTERVAL_MS_MIN: u64 = 100;

/// Longest `--election-timeout`, in milliseconds (etcd: embed/config.go, maxElectionMs).
pub const ELECTION_MS_MAX: u64 = 50_000;

/// Most bytes of an HTTP/1.1 request's head, up to one read more; also what a connection buffers. Probes and scrapes send
/// some 500 bytes.
pub const HTTP_HEAD_BYTES_MAX: usize = 64 * 1024;

/// Most headers of an HTTP/1.1 request.
pub const HTTP_HEADERS_MAX: usize = 100;

/// The period in which an HTTP/1.1 connection must bring a whole request, in seconds (etcd: the read-header timeout).
pub const HTTP_IDLE_SECONDS_MAX: u64 = 300;

/// How long an answer that is on its way may hold a drain up, in seconds: a read waits 7 s at etcd's defaults.
pub const HTTP_DRAIN_SECONDS_MAX: u64 = 10;
