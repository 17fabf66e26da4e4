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

/// Header bytes of one call, as HTTP/2 counts them. A token and some tracing fit eight times over: grpc-go is about to
/// make 8 KiB its default.
pub const GRPC_HEADER_BYTES: u32 = 64 * 1024;

/// Bytes that one stream may send beyond what its reader has taken: 20 ms of a gigabit line is 2.5 MB, a request of
/// usual size is far below.
pub const GRPC_STREAM_WINDOW_BYTES: u32 = 1024 * 1024;

/// The same for all streams of a connection together: 16 streams whose handlers do not read at all.
pub const GRPC_CONNECTION_WINDOW_BYTES: u32 = 16 * GRPC_STREAM_WINDOW_BYTES;

/// Bytes of messages not yet complete, over all calls of a connection: 128 requests of full size (2 MiB with what the
/// gRPC layer lets in) arriving interleaved. A call beyond that is refused.
pub const GRPC_UNFINISHED_BYTES: usize = 128 * 2 * 1024 * 1024;

/// Bytes read from a connection before everything else on the core gets its turn.
pub const GRPC_TURN_BYTES: usize = 64 * 1024;

/// What h2 lets small DATA frames cost that have been read and not taken: 256 for each, less its payload. A turn brings
/// at most 64 KiB and one more read of 16 KiB; the smallest frame is 10 bytes: (65,536 + 16,384) / 10 × 255 =
/// 2.1 million. Streams take what has come before the next turn; twice that leaves room for those that come late.
pub const GRPC_DATA_FRAME_BUDGET: usize = 4 * 1024 * 1024;

/// Bytes of output gathered before they are written in one call: four full DATA frames.
pub const GRPC_WRITE_BYTES: usize = 64 * 1024;

/// Output buffer that a connection keeps while it is silent; a larger one is given back.
pub const GRPC_WRITE_BYTES_KEPT: usize = 16 * 1024;

/// A stream takes another message while less than this is queued in it: one DATA frame. So a slow reader costs this and
/// one message.
pub const GRPC_REPLY_QUEUE_BYTES: usize = 16 * 1024;

/// What h2 lets a sender know of room in a stream: more than the largest answer makes no difference, the layer counts
/// for itself.
pub const GRPC_SEND_BUFFER_BYTES: usize = 1024 * 1024;

/// Streams that the server ended before the client did and whose late frames are ignored for a second: about 400 bytes
/// each.
pub const GRPC_RESET_STREAMS: usize = 1024;

/// Streams opened and reset within one turn: a turn holds about 64 KiB / (a HEADERS frame of 20 bytes and a
/// RST_STREAM of 13) = 1,985 of them; half of that is not a client that changes its mind.
pub const GRPC_PENDING_RESET_STREAMS: usize = 1000;

/// Stream errors of the client's over the life of a connection, before it is sent away.
pub const GRPC_STREAM_ERRORS: usize = 16 * 1024;

/// From the connection to the end of the HTTP/2 preface (grpc-go: ConnectionTimeout).
pub const GRPC_HANDSHAKE_SECONDS: u64 = 120;
