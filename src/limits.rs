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

/// Entries of each of an executor's three rings. More requests than this queue up in memory, not in the kernel.
/// Sockets take one entry together, log writes a few; 256 covers a burst of reads of cold values.
pub const RING_ENTRIES: usize = 256;

/// Memory registered with an executor's rings. Each of three rings pins it anew, so eight executors pin
/// 3 × 256 KiB × 8 = 6 MiB of the usual 8 MiB memlock limit; beyond it buffers work unregistered.
pub const RING_BUFFER_BYTES: usize = 256 * 1024;

/// How long an executor looks for work before it sleeps. 0: CPU time is worth more than the 60 µs that a wake-up
/// from another core costs, and a spinning core delays completions that need it (measured: fdatasync took 1.2 ms).
pub const SPIN_BEFORE_PARK_MICROSECONDS_DEFAULT: u64 = 0;

/// Threads for blocking work beside each executor: one for long work (zeroing a segment, a checkpoint), one so that
/// short work (a rename, a password) does not wait for it.
pub const BACKGROUND_THREADS: usize = 2;

/// Letters under way between two cores before the sender keeps them in a queue of its own. Each is a batch of one
/// turn of a loop; 256 turns are some milliseconds of a core that does not get to its mail.
pub const MESH_SLOTS: usize = 256;

/// Events taken from the kernel at once by an executor: one call serves this many ready sockets.
pub const POLL_EVENTS: usize = 256;

/// Buffers in one vectored send (the kernel's UIO_MAXIOV). What is beyond goes with the next call.
pub const SEND_BUFFERS_MAX: usize = 1024;

/// File descriptors that are not for clients: log, peers, snapshots (etcd: embed.reservedInternalFDNum).
pub const RESERVED_FILE_DESCRIPTORS: u64 = 150;

/// Connections the kernel completes before they are accepted. Go asks for net.core.somaxconn, 4096 since Linux 5.4;
/// the kernel lowers it to its own bound.
pub const LISTEN_BACKLOG: i32 = 4096;

/// How long a new connection may say nothing that tells its protocol. Also bounds a client that sends one byte at a
/// time. A Go client sends its preface with the dial; one that waits this long has gone.
pub const SNIFF_MILLISECONDS_MAX: u64 = 10_000;

/// How long accepting rests after the system ran out of something (descriptors, memory). Go's net/http starts at 5 ms
/// and doubles to 1 s.
pub const ACCEPT_REST_MILLISECONDS_MIN: u64 = 5;
pub const ACCEPT_REST_MILLISECONDS_MAX: u64 = 1_000;

/// Connections accepted in a row before others on the acceptor's executor get a turn: some 0.3 ms of a core.
pub const ACCEPT_BURST: usize = 32;

/// How long the acceptor rests when all seats are taken. Nobody wakes it from another core; 10 ms is a delay that a
/// client which found the server full does not notice.
pub const FULL_REST_MILLISECONDS: u64 = 10;

/// What the device can write at once without tearing what lies beside it, and what O_DIRECT asks of addresses, offsets
/// and lengths on every device in use.
pub const DISK_BLOCK_BYTES: usize = 4096;

/// Writes of one block with which each way of making writes durable is measured. 20 of either take some 6 ms on an
/// SSD, a third of a second on a spinning disk.
pub const PROBE_WRITES: usize = 20;
