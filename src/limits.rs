//! Every bound of the server in one place, each with the sum that justifies it. A bound that a flag can change
//! is the flag's default here.

/// `--max-request-bytes`: the whole marshalled raft request. etcd's default, 1.5 MiB.
pub const REQUEST_BYTES_DEFAULT: usize = 1536 * 1024;

/// What the gRPC layer lets in beyond `--max-request-bytes`, for the envelope around a request of full size.
pub const GRPC_OVERHEAD_BYTES: usize = 512 * 1024;

/// `--max-txn-ops`.
pub const TXN_OPS_DEFAULT: usize = 128;

/// `--max-learners` (etcd: membership/cluster.go, DefaultMaxLearners).
pub const LEARNERS_DEFAULT: usize = 1;

/// How far a learner's log must have come, in percent of the leader's, before it may vote (etcd: server.go,
/// readyPercentThreshold).
pub const LEARNER_READY_PERCENT: u64 = 90;

/// How long a URL of another member may take to say who the members are: where a cluster is to be founded, which goes on
/// without an answer, and where one is to be joined (etcd: BootstrapTimeoutEffective, GetClusterFromRemotePeers).
pub const BOOTSTRAP_PATIENCE_MS: u64 = 1_000;
pub const JOIN_PATIENCE_MS: u64 = 10_000;

/// Calls of an executor that are on their way to the leader at once, which shards of other members answer: as many as
/// connections are kept. Others wait for their turn, each in its own client's stream.
pub const FORWARDS_AT_ONCE: usize = PEER_CONNECTIONS_KEPT;

/// How long after a leader was not heard it is asked again, in milliseconds (etcd: v3_server.go, LeaseRenew).
pub const FORWARD_AGAIN_MS: u64 = 50;

/// Since how long a member must have been reached to count where members are changed, in milliseconds (etcd: HealthInterval).
pub const HEALTH_MS: u64 = 5_000;

/// How long a member that was removed goes on, so that it is heard (etcd: stopWithDelay).
pub const DEPARTURE_MS: u64 = 1_000;

/// Between two looks of a starting member at whom it reaches, and how long it looks before it waits out its whole election
/// timeout (etcd: EtcdServer.adjustTicks).
pub const REACHED_LOOK_MS: u64 = 50;
pub const REACHED_WAIT_MS: u64 = 5_000;

/// Between two looks of a leader at the version that the cluster states (etcd: server.go, monitorVersionInterval).
pub const VERSION_LOOK_MS: u64 = 4_000;

/// `--quota-backend-bytes` when it is 0: 2 GiB.
pub const QUOTA_BYTES_DEFAULT: u64 = 2 * 1024 * 1024 * 1024;

/// Longest lease a client may ask for, in seconds (etcd: lease.MaxLeaseTTL).
pub const LEASE_TTL_SECONDS_MAX: i64 = 9_000_000_000;

/// What a key-value is counted for beside its bytes, against the quota (etcd: storage/quota.go).
pub const KV_OVERHEAD_BYTES: u64 = 256;

/// What a lease is counted for against the quota (etcd: storage/quota.go).
pub const LEASE_COST_BYTES: u64 = 64;

/// Most bytes of entries in one message to another member (etcd: rafthttp, maxSizePerMsg).
pub const RAFT_MESSAGE_BYTES: u64 = 1024 * 1024;

/// Messages with entries on their way to one member at a time (etcd: bootstrap.go, maxInflightMsgs).
pub const RAFT_INFLIGHT_MESSAGES: usize = 512;

/// Committed bytes that are applied before anything else gets a turn: 4 MiB are about 10,000 small requests, some
/// 20 ms.
pub const RAFT_APPLY_BYTES: u64 = 4 * 1024 * 1024;

/// Committed but unapplied entries above which proposals are refused with TooManyRequests (etcd:
/// v3_server.go, maxGapBetweenApplyAndCommitIndex).
pub const APPLY_BACKLOG_ENTRIES: u64 = 5000;

/// Entries that a member keeps in its log behind a checkpoint, for others that are a little behind; as etcd's default
/// (--snapshot-catchup-entries).
pub const RAFT_CATCH_UP_ENTRIES: u64 = 5000;

/// Bytes of entries that are kept so at most: 5000 of full size would be 7 GiB. Sixteen segments, two seconds of a disk that
/// writes 128 MiB/s.
pub const RAFT_CATCH_UP_BYTES: u64 = 256 * 1024 * 1024;

/// The same of those that follow a snapshot which is on its way: what is written while 2 GiB go over a line of a gigabit and
/// are taken in, at 30 MiB/s. Beyond it the member is sent another snapshot.
pub const RAFT_SENDING_BYTES: u64 = 1024 * 1024 * 1024;

/// After how long an unanswered read index is asked for again (etcd: readIndexRetryTime).
pub const READ_INDEX_RETRY_MS: u64 = 500;

/// How often it is looked for proposals that nobody waits for any more, in ticks: a look goes over all that wait.
pub const PROPOSAL_LOOK_TICKS: u64 = 8;

/// Bytes of proposals that wait to be logged, over all shards: forty requests of full size, a second's work of a disk
/// that writes 64 MiB/s. Beyond it: TooManyRequests.
pub const PROPOSAL_BYTES_QUEUED: usize = 64 * 1024 * 1024;

/// Bytes of proposals that go into one write of the log. Large enough to spread the cost of a sync over thousands of
/// small requests, small enough that a write takes a few milliseconds.
pub const WRITE_BATCH_BYTES: usize = 2 * 1024 * 1024;

/// Heartbeat ticks between two looks for space to give back: half a second at etcd's default of 100 ms.
pub const SPACE_LOOK_TICKS: u64 = 5;

/// Log written between two checkpoints, or as much as the checkpoint itself takes, whichever is more: a restart then
/// reads at most about twice the checkpoint, and writing checkpoints costs at most as much as the log.
pub const CHECKPOINT_LOG_BYTES: u64 = 32 * 1024 * 1024;

/// When so many times that was logged without one, a checkpoint is written without rests: the last one did not get done.
pub const CHECKPOINT_OVERDUE: u64 = 2;

/// Compactions whose hash may still be asked for (etcd: mvcc/hash.go, hashStorageMaxSize).
pub const COMPACTION_HASHES: usize = 10;

/// Entries whose effects members compare as one. Each costs a member some 50 ns, and a leader that has ended one a small request to
/// each other member. A member that differs goes on answering until the span has ended and the next comparison is done: at 1,000
/// puts a second four seconds and ten more at most.
pub const SPAN_ENTRIES: u64 = 4096;

/// How often a leader looks whether spans have ended that it has not compared.
pub const SPAN_CHECK_MS: u64 = 10_000;

/// Spans whose hashes may still be asked for: a million entries, so that a member that lags by as many is compared.
/// 16 bytes each.
pub const SPAN_HASHES: usize = 256;

/// A segment is repacked in the background when its live values, moved, would take less than this share of its file.
pub const REPACK_BELOW_PERCENT: u64 = 50;

/// The same when a client asks to defragment. A segment of moved values is full but for one record, at most one value
/// of 1.5 MiB, in 16 MiB: above nine tenths; so what was moved is not moved again.
pub const DEFRAGMENT_BELOW_PERCENT: u64 = 85;

/// Events that compaction looks at in one go, a part of `--compaction-batch-limit`: in a large store, where most of what it
/// touches is in no cache, one takes some 2 µs, so that 64 hold the core up for about as long as a write of the log takes.
pub const COMPACTION_SLICE_EVENTS: usize = 64;

/// For each 512 KiB that repacking has moved, it rests so long where nobody waits for it: that makes 100 MB/s of live values
/// moved, at least as much given back, and leaves the disk to the others more than half of the time.
pub const REPACK_PAUSE_MS: u64 = 5;

/// Bytes of live values that one step of repacking moves: a write of a few hundred microseconds.
pub const REPACK_SLICE_BYTES: usize = 512 * 1024;

/// Values that one step of repacking moves at most: each is looked up and put into both trees, some 4 µs, so that 48 hold
/// the core up for a fifth of a millisecond.
pub const REPACK_SLICE_VALUES: usize = 48;

/// The same while somebody waits for space: a millisecond, and a quarter of the writes.
pub const REPACK_SLICE_VALUES_HURRIED: usize = 192;

/// What a direct write is a multiple of: the largest logical block of usual devices, and a page.
pub const LOG_BLOCK_BYTES: u32 = 4096;

/// What is written at once of a large file beside the log, a checkpoint or a segment to be: a few hundred microseconds of
/// an SSD, which a write of the log may have to wait.
pub const BULK_PIECE_BYTES: usize = 256 * 1024;

/// What is freed at once of such a file: where the file system tells the device what it has freed, 16 MiB keep some busy
/// for 5 ms.
pub const BULK_FREED_BYTES: u64 = 1024 * 1024;

/// The rest after it: a segment of 16 MiB is ready after 100 ms, a checkpoint of a million keys after half a second.
pub const BULK_REST_MS: u64 = 1;

/// The rest after each such piece where a segment is looked through for damage: 8 MB/s, a few percent of a usual disk, 2 s for
/// a segment, 4 minutes a day for the 2 GiB of the default quota. A log of more than 690 GB takes longer than a day.
pub const SCRUB_REST_MS: u64 = 32;

/// How often it is looked whether a segment is due: a log of 2 GiB has one due every ten minutes.
pub const SCRUB_LOOK_MS: u64 = 60_000;

/// Values that one question to another member asks for, and bytes of them that one answer holds; one value alone may have
/// more. In JSON a question has 43 bytes for each value at most: 44 KiB, within `PEER_REQUEST_BYTES_MAX`.
pub const MEND_VALUES_MAX: usize = 1024;
pub const MEND_BYTES_MAX: usize = 1024 * 1024;

/// How long after a segment was found damaged it is looked through again for the values that nobody had. Each time it is twice as
/// long, up to an hour: 16 MiB an hour cost nothing.
pub const MEND_AGAIN_MS: u64 = 5_000;
pub const MEND_AGAIN_MS_MAX: u64 = 3_600_000;

/// A segment of the log. 16 MiB holds ten requests of the default size; 2 GiB of quota are 128 segments, so that tables of
/// segments stay small; preparing one takes about 100 ms, most of it rests (`BULK_REST_MS`); the last one's emptiness wastes
/// little.
pub const SEGMENT_BYTES_DEFAULT: u32 = 16 * 1024 * 1024;

/// A segment holds at least so many requests of full size, so that what does not fit its end wastes a quarter at most.
pub const SEGMENT_REQUESTS_MIN: u32 = 4;

/// Full segments whose bytes are kept in memory beside the one that is written: two of the default size, three seconds of
/// 30,000 puts of 256 bytes. Fresh values are the ones that watches and readers ask for; older ones come from the page
/// cache.
pub const LOG_RECENT_BYTES: u64 = 32 * 1024 * 1024;

/// A record of relocated values is closed when it has grown to this. Who reads one of them from a file proves the whole
/// record: 8 KiB are 1 µs of checksum, and the header of 48 bytes is half a percent of them. One value that is larger makes
/// a record of its own.
pub const MOVED_RECORD_BYTES: usize = 8 * 1024;

/// On a shard's own core a value from a segment's file is proven if its record is no larger than this, or twice the
/// value: 64 KiB are about 5 µs of checksum. Larger ones (transactions of many values) are read by a background thread.
pub const PROOF_INLINE_BYTES: u32 = 64 * 1024;

/// Damaged places of a log that are mended at one start, each of which reads the log anew: a second of 16 MiB each.
pub const MEND_ROUNDS_MAX: usize = 64;

/// Records that are made anew in one place: a lost block of 4 KiB has 73 at most, three blocks in a row 220.
pub const MEND_RECORDS_MAX: usize = 256;

/// Hard states among them whose content is tried: each block ends with one at most.
pub const MEND_HARD_STATES_MAX: usize = 2;

/// Commit indexes that are tried of one, the latest that it may have had.
pub const MEND_COMMITS_MAX: u64 = 4096;

/// Terms that are tried of one.
pub const MEND_TERMS_MAX: usize = 8;

/// Ways how the lost records may have been that are tried: by chance one of 2^32 leads to the checksum behind them, so that as many
/// let a wrong one pass in one of 65,536 cases in which the right one is not among them. Each takes up to 4 µs.
pub const MEND_TRIES_MAX: u32 = 1 << 16;

/// Places where a record may have lain that are looked at: of 100 records and two hard states there are 5,000 orders.
pub const MEND_STEPS_MAX: u32 = 1 << 20;

/// How long other members are asked for entries before a start is refused, in milliseconds: a leader is elected in a few seconds.
pub const MEND_PATIENCE_MS: u64 = 30_000;

/// Between two rounds of that, in milliseconds.
pub const MEND_ASK_AGAIN_MS: u64 = 500;

/// Bytes of entries in one answer to a member that mends its log, but for the first, which may have any size.
pub const PEER_ENTRIES_BYTES: u64 = 1024 * 1024;

/// One question to the kernel about resident pages covers 64 pages (256 KiB), a bit of one word each.
pub const RESIDENT_WINDOW_PAGES: usize = 64;

/// What is read ahead of a segment for an answer of many values: an SSD takes hardly longer for 64 KiB than for a page.
pub const READ_AHEAD_BYTES: u32 = 64 * 1024;

/// It is read whole where at least this part of it is wanted, one of so many: 2 KiB. Else only the pages that are.
pub const READ_AHEAD_SHARE: u64 = 32;

/// A block of a checkpoint: large enough that its 16 bytes of head and its read call do not count, small enough that
/// loading one needs no memory to speak of. An entry that is larger makes a block of its own.
pub const CHECKPOINT_BLOCK_BYTES: usize = 256 * 1024;

/// Segments' files kept for reuse; more are deleted. Four of the default size are 64 MiB beside the quota, and at a write
/// rate of 64 MiB/s a second's work for the thread that prepares them.
pub const SPARE_SEGMENTS_MAX: usize = 4;

/// Entries that an executor's ring gathers for one submission. A turn of the loop leaves a log write, some reads of cold
/// values, and the polls of connections that came or went; 256 of 64 bytes are 16 KiB. More are submitted in pieces.
pub const RING_ENTRIES: u32 = 256;

/// Completions that the kernel holds for an executor until it looks: one for each connection that became readable since.
/// 4096 of 16 bytes are 64 KiB. More are kept in the kernel's own memory, and polls begun anew.
pub const RING_COMPLETIONS: u32 = 4096;

/// Tasks polled before the executor looks what the kernel has for it. A look costs some nanoseconds where there is
/// nothing; 256 polls of some microseconds are about a millisecond.
pub const TURN_POLLS: usize = 256;

/// Memory for a write of the log that is kept for the next one: what most batches need, and less than the log keeps of
/// itself in memory.
pub const WRITE_MEMORY_BYTES_KEPT: usize = 256 * 1024;

/// How long an executor looks for work before it sleeps. 0: CPU time is worth more than the 60 µs that a wake-up
/// from another core costs, and a spinning core delays completions that need it (measured: fdatasync took 1.2 ms).
pub const SPIN_BEFORE_PARK_MICROSECONDS_DEFAULT: u64 = 0;

/// Threads beside each executor for blocking work that somebody waits for: one for a segment that is being made ready, which
/// rests more than it works, one so that a read of the disk does not wait for that.
pub const BACKGROUND_THREADS: usize = 2;

/// Their niceness: behind the executor, which they may share a core with, but not so far behind that a busy machine keeps
/// the log waiting for its next segment.
pub const BACKGROUND_NICE: i32 = 5;

/// How long a thread for blocking work has a core at a time if nobody else wants it: longer than what Linux gives by itself, 0.7 to
/// 3 ms, so that executors, which take that, go first when they wake up; short enough that such threads get on beside each other.
pub const BLOCKING_TURN_MS: u64 = 10;

/// Threads beside each executor for long work: checkpoints and repacking take turns on one, hashes come on the other.
pub const BULK_THREADS: usize = 2;

/// Their niceness: nobody waits for them who could not wait, but on a busy machine they must get on, or the log would grow.
pub const BULK_NICE: i32 = 10;

/// Letters under way between two cores before the sender keeps them in a queue of its own. Each is a batch of one
/// turn of a loop; 256 turns are some milliseconds of a core that does not get to its mail.
pub const MESH_SLOTS: usize = 256;

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

/// How long a TLS handshake may take, in seconds (etcd: tlsHandshakeTimeout).
pub const TLS_HANDSHAKE_SECONDS_MAX: u64 = 10;

/// Names that are looked up at a time, each on a thread of its own: the certificates of members are looked at so, and they
/// are few. A resolver that does not answer holds a thread for half a minute.
pub const NAME_LOOKUPS_MAX: usize = 8;

/// How long the look-ups for one connection may take, in seconds: as long as its handshake may.
pub const NAME_LOOKUP_SECONDS_MAX: u64 = 10;

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

/// The same over all connections of a shard. Who sends halves of messages pays for each byte; a message that comes at once
/// is none of them.
pub const UNFINISHED_BYTES: usize = 1024 * 1024 * 1024;

/// Calls and requests under way at a time on one connection, where `--max-concurrent-streams` does not say less; the next is
/// refused. One that waits takes some 1.5 KiB: 100 MiB. Benchmarks of etcd have some 10,000 on a connection.
pub const GRPC_STREAMS_MAX: u32 = 64 * 1024;

/// Bytes of complete answers that wait for the client on one connection: beyond, the next one is made when it has taken some.
/// That is what grpc-go's client opens its window to at most; who reads does not notice it.
pub const GRPC_UNREAD_BYTES: usize = 16 * 1024 * 1024;

/// Answers that are made in pieces at a time for one connection, of `LISTING_PIECE_BYTES_MIN` at least: 4 MiB of a client that
/// does not read.
pub const GRPC_LONG_ANSWERS: usize = 16;

/// Bytes read from a connection before everything else on the core gets its turn.
pub const GRPC_TURN_BYTES: usize = 64 * 1024;

/// Bytes written to a connection before everything else on the core gets its turn: some 0.1 ms of copying.
pub const GRPC_TURN_SEND_BYTES: usize = 8 * GRPC_WRITE_BYTES;

/// DATA frames that bring nothing and end nothing, less those that do either, over the life of a connection. No client
/// has a use for them.
pub const GRPC_EMPTY_FRAMES: usize = 1000;

/// Frames of one header block. Heads of clients take one frame; one of 64 KiB takes four of the usual size.
pub const GRPC_HEADER_FRAMES: usize = 64;

/// Bytes of output gathered before no more is taken from the streams, and nothing more is read: four full DATA frames.
pub const GRPC_WRITE_BYTES: usize = 64 * 1024;

/// Bytes of a part of a message from which on it is written from where it lies: a part of its own costs about what
/// copying 2 KiB costs.
pub const GRPC_COPIED_BYTES: usize = 2048;

/// A stream takes another message while less than this is queued in it: one DATA frame. So a slow reader costs this and
/// one message.
pub const GRPC_REPLY_QUEUE_BYTES: usize = 16 * 1024;

/// Streams that the server ended before the client did and whose late frames are ignored: 4 bytes each. More at a time
/// than a client may have under way.
pub const GRPC_RESET_STREAMS: usize = 1024;

/// Streams opened and reset within one turn: a turn holds about 64 KiB / (a HEADERS frame of 20 bytes and a
/// RST_STREAM of 13) = 1,985 of them; half of that is not a client that changes its mind.
pub const GRPC_PENDING_RESET_STREAMS: usize = 1000;

/// Stream errors of the client's over the life of a connection, before it is sent away.
pub const GRPC_STREAM_ERRORS: usize = 16 * 1024;

/// From the connection to the end of the HTTP/2 preface (grpc-go: ConnectionTimeout).
pub const GRPC_HANDSHAKE_SECONDS: u64 = 120;

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

/// Small responses of one stream are written into buffers of up to this: one HTTP/2 frame of the default size.
pub const WATCH_TAIL_BYTES: usize = 16 * 1024;

/// Distinct revisions in one response to a watch that catches up (etcd: watchBatchMaxRevs).
pub const CATCH_UP_REVISIONS: usize = 1000;

/// Bytes of one response to a watch that catches up, reached at the end of a revision: two thirds of the largest request,
/// so that most responses stay in the size of single values.
pub const CATCH_UP_BYTES: usize = 1024 * 1024;

/// The same for a watch that takes its responses in fragments: four fragments of 2 MiB at the default size of requests. It
/// is such a response, not its fragments, that etcd's clients hand out, so it may be as large as etcd would make it;
/// beyond four fragments it costs memory and gains nothing. Where `WATCH_QUEUED_BYTES` are waiting it is
/// `CATCH_UP_BYTES`, so that many stalled streams do not add up.
pub const CATCH_UP_FRAGMENTS: usize = 4;

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

/// Simple tokens of a member: 256 Ki of about 130 bytes are 34 MB. At the usual cost of a password two threads prove 36 of
/// them a second, so that in five minutes, the life of an unused token, 11,000 come together.
pub const AUTH_TOKENS_MAX: usize = 256 * 1024;

/// Bytes of users and roles beyond which no more are let in: 100,000 of 600 bytes. They are not among what the quota
/// counts, and while they are not turned on anybody may add some.
pub const AUTH_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Passwords that wait to be hashed on a shard, one at a time, so that the disk's reads get the other thread. At the usual
/// cost of 55 ms as many take 7 s, as long as a request may; beyond it: TooManyRequests.
pub const PASSWORDS_WAITING_MAX: usize = 128;

/// Signed tokens that a shard remembers as proven, of some 500 bytes each: a signature costs up to 0.2 ms to prove.
pub const PROVEN_TOKENS_MAX: usize = 4096;

/// Bytes of a token: a signed one has some 700 with the longest keys. Longer ones are not looked at.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// Calls of a shard that wait for a lock or an election, each with a watch of its own: 256 Ki of some 4 KiB are 1 GiB.
pub const WAITING_CALLS_MAX: usize = 256 * 1024;

/// Largest message that gRPC sends: grpc-go's default, the largest int32.
pub const SEND_BYTES_MAX: usize = i32::MAX as usize;

/// Key-values encoded in one go before others get their turn: 256 of about 1 µs each hold a core for a quarter of a
/// millisecond.
pub const ENCODE_SLICE_KEYS: usize = 256;

/// Bytes of answers being made that all long listings of a shard hold together, and the most and the least that one of
/// them makes at a time. A listing in another order than the log's goes through all of the log for each piece, so pieces
/// are as large as they may be: of a million keys of 300 bytes there are 20, and each looks at 5,000 windows of 256 KiB.
pub const LISTINGS_BYTES: usize = 32 * 1024 * 1024;
pub const LISTING_PIECE_BYTES_MAX: usize = 16 * 1024 * 1024;
pub const LISTING_PIECE_BYTES_MIN: usize = 256 * 1024;

/// An answer of few keys that is larger than this is made in pieces, too. One of a single key of full size is not.
pub const LISTING_WHOLE_BYTES: usize = 2 * 1024 * 1024;

/// Room in a piece for the key-value that goes beyond its end; a larger one moves the piece.
pub const LISTING_PIECE_MARGIN_BYTES: usize = 16 * 1024;

/// Keys a request may look at on the shard's own core, where the work cannot be sliced (sorts, filters,
/// transactions): 4 slices, about a millisecond. Above it, a background thread does it.
pub const INLINE_KEYS_MAX: u64 = 4 * ENCODE_SLICE_KEYS as u64;

/// Bytes of values that one job of a background thread reads, so that others get their turn between two: 1 MiB.
pub const FILL_BATCH_BYTES: usize = 1024 * 1024;

/// Values of a snapshot are read with what lies between them where they are at least this part of it, one of so many: values
/// of a hundred bytes in puts of their own are about a third.
pub const READ_WHOLE_SHARE: u64 = 4;

/// Values of an answer that are not in memory, from which on they are read ahead: below, the calls that ask for it cost
/// more than they save.
pub const READ_AHEAD_VALUES_MIN: usize = 16;

/// Transactions within transactions. Each level is two messages deep; with the internal request around it
/// 2 × 40 + 3 stays under the 100 messages at which the decoder gives up (prost: RECURSION_LIMIT).
pub const TXN_DEPTH_MAX: usize = 40;

/// How long a RangeStream may hold its revision: 10 minutes carry 1 GiB at 1.8 MB/s. Longer, and a reader that has
/// gone to sleep would keep the log from being recycled.
pub const STREAM_PIN_MS_MAX: u64 = 10 * 60 * 1000;

/// Bytes of a database in one message of a snapshot (etcd: v3rpc/maintenance.go, snapshotSendBufferSize).
pub const SNAPSHOT_MESSAGE_BYTES: usize = 32 * 1024;

/// What is made of a snapshot at once, on a background thread: 32 messages, some 3 ms. Beside it the next piece waits, and
/// one value that goes beyond its end.
pub const SNAPSHOT_PIECE_BYTES: usize = 32 * SNAPSHOT_MESSAGE_BYTES;

/// How long a snapshot may hold its revision beyond `STREAM_PIN_MS_MAX`: a second for so many bytes. 2 GiB get 18 minutes in
/// all, so that 2 MB/s are enough; a line of 100 Mbit/s carries six times that.
pub const SNAPSHOT_BYTES_PER_SECOND_MIN: u64 = 4 * 1024 * 1024;

/// Segments that only a snapshot holds, in bytes: as much as the default quota, so that a directory takes at most about
/// twice its quota while one is read.
pub const SNAPSHOT_HELD_BYTES_MAX: u64 = QUOTA_BYTES_DEFAULT;

/// Keys in the first message of a RangeStream (etcd: v3_server.go, initialStreamChunkLimit).
pub const STREAM_FIRST_KEYS: u64 = 10;

/// Leases that one shard may have on their way to be revoked. When they are applied the next ones follow at once, so this
/// does not bound their rate but what they add to a request that comes between: 256 of some 15 µs are 4 ms of a core.
pub const LEASE_REVOKES_IN_FLIGHT: usize = 256;

/// An expired lease is handed out again if it has not been revoked after this (etcd: lessor.go,
/// defaultExpiredleaseRetryInterval).
pub const LEASE_EXPIRY_RETRY_MS: u64 = 3000;

/// Finest step of the lease deadlines' wheel. A lease ends at most this and one sweep late.
pub const LEASE_STEP_MS: u64 = 64;

/// How long after a lease was granted, or last told of, a leader puts into the log what it has left, with the gate LeaseCheckpoint
/// (etcd: lessor.go, defaultLeaseCheckpointInterval).
pub const LEASE_CHECKPOINT_MS: u64 = 300_000;

/// Leases of which one entry of the log tells (etcd: lessor.go, maxLeaseCheckpointBatchSize): a shard puts one such entry into it
/// at each tick at most.
pub const LEASE_CHECKPOINTS_AT_ONCE: usize = 1000;
/// Largest `--max-request-bytes`: a gRPC message's length must stay below 2^31 with the envelope around it.
pub const REQUEST_BYTES_MAX: usize = (1 << 31) - 1 - GRPC_OVERHEAD_BYTES;

/// `--max-request-bytes` beyond which the operator is warned, as by etcd: 10 MiB.
pub const REQUEST_BYTES_ADVISED: usize = 10 * 1024 * 1024;

/// Shortest `--watch-progress-notify-interval`, in milliseconds (etcd: v3rpc/watch.go, minWatchProgressInterval).
pub const WATCH_PROGRESS_INTERVAL_MS_MIN: u64 = 100;

/// Longest `--election-timeout`, in milliseconds (etcd: embed/config.go, maxElectionMs).
pub const ELECTION_MS_MAX: u64 = 50_000;

/// Between two looks of a shard at its clock: expired leases are seen to be expired that much late, timeouts too. As often
/// as raft ticks at its default: an idle member wakes twenty times a second.
pub const SHARD_TICK_MS: u64 = 100;
/// Most bytes of an HTTP/1.1 request's head, up to one read more; also what a connection buffers. Probes and scrapes send
/// some 500 bytes.
pub const HTTP_HEAD_BYTES_MAX: usize = 64 * 1024;

/// Most headers of an HTTP/1.1 request.
pub const HTTP_HEADERS_MAX: usize = 100;

/// Requests that are not gRPC at a time on one connection of HTTP/2, the next is refused (Go's own default is 250). An answer
/// that nobody reads keeps up to some 64 KiB of JSON and the message of which that is made.
pub const HTTP2_REQUESTS_MAX: usize = 256;

/// The period in which an HTTP/1.1 connection must bring a whole request, in seconds (etcd: the read-header timeout).
pub const HTTP_IDLE_SECONDS_MAX: u64 = 300;

/// The same on a listener for members, who talk all the time (etcd: rafthttp.ConnReadTimeout).
pub const PEER_IDLE_SECONDS_MAX: u64 = 5;

/// How long the next bytes of a body from another member may take, in seconds (etcd: the same).
pub const PEER_BODY_SECONDS_MAX: u64 = 5;

/// Most bytes of a message between members. etcd batches entries up to 512 KiB, or one of any size, and at the default an
/// entry has 1.5 MiB at most.
pub const PEER_MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Most bytes of an answer of another member that is read whole: the members of a cluster take some hundred bytes each.
pub const PEER_ANSWER_BYTES_MAX: usize = 1024 * 1024;

/// Connections to one place that are kept for further requests: as many as messages are on their way at once there, and one.
pub const PEER_CONNECTIONS_KEPT: usize = 5;

/// Messages that go to a member one by one while it has no streams: waiting, and on their way (etcd: rafthttp.pipelineBufSize,
/// connPerPipeline).
pub const PEER_PIPELINE_QUEUED: usize = 64;
pub const PEER_PIPELINE_AT_ONCE: usize = 4;

/// Bytes that wait in a stream until its member takes them. Raft sends no more than `RAFT_INFLIGHT_MESSAGES` of
/// `RAFT_MESSAGE_BYTES` unanswered; beyond this a message is lost, and raft is told.
pub const PEER_STREAM_BYTES_QUEUED: usize = 64 * 1024 * 1024;

/// How long after a stream has ended it is asked for again, in milliseconds (etcd: rafthttp, DialRetryFrequency).
pub const PEER_DIAL_AGAIN_MS: u64 = 100;

/// How long members may say nothing to each other, in milliseconds, unless `--raft-read-timeout` says longer (etcd:
/// rafthttp.ConnReadTimeout). A third of it after the last word in a stream each says that it is there.
pub const PEER_SILENCE_MS_MAX: u64 = 5_000;

/// How often it is looked whether leadership has gone where it was to go, in milliseconds.
pub const TRANSFER_LOOK_MS: u64 = 1;

/// How often a member is asked how far away it is, in milliseconds (etcd: rafthttp.proberInterval).
pub const PEER_PROBE_MS: u64 = 4_000;

/// How long a snapshot on its way to a member may stand still, in seconds, and how long the member may take to make it its own.
pub const PEER_SNAPSHOT_STILL_SECONDS: u64 = 60;
pub const PEER_SNAPSHOT_TAKEN_SECONDS: u64 = 1_800;

/// Senders that say where they are and that no applied entry has named yet: members that joined after what this one knows.
pub const PEERS_UNKNOWN_MAX: usize = 16;
/// Bytes of a database from another member that are written at once; as much again may have come meanwhile.
pub const SPOOL_PIECE_BYTES: usize = 1024 * 1024;

/// Most bytes of what one member asks another about leases or hashes (etcd: leasehttp.maxLeaseHTTPRequestSize).
pub const PEER_REQUEST_BYTES_MAX: usize = 64 * 1024;

/// How long an answer that is on its way may hold a drain up, in seconds: a read waits 7 s at etcd's defaults.
pub const HTTP_DRAIN_SECONDS_MAX: u64 = 10;

/// Bytes of the body of a request under `/v3/` for each byte that its message may have: base64 makes four letters of three
/// bytes, names and blanks come on top. Also what a websocket's message may have. At the default 8 MiB.
pub const GATEWAY_BODY_FACTOR: usize = 4;

/// In so many seconds it must have come; the message of a stream may take longer. Go's server waits for ever.
pub const GATEWAY_BODY_SECONDS_MAX: u64 = 300;

/// Messages within one another in JSON: as many as the decoder takes that comes next (prost: RECURSION_LIMIT).
pub const GATEWAY_MESSAGE_DEPTH_MAX: usize = 100;

/// JSON that is made a message of on the shard's own core: some 300 MB/s, so that 128 KiB are 0.4 ms. A background thread
/// takes what is longer.
pub const GATEWAY_INLINE_BYTES: usize = 128 * 1024;

/// JSON made of an answer before others get their turn: some 0.1 ms.
pub const GATEWAY_CHUNK_BYTES: usize = 64 * 1024;

/// An answer up to this long is sent with its length, a longer one in chunks (Go: net/http, bufferBeforeChunkingSize).
pub const GATEWAY_WHOLE_BYTES: usize = 2048;

/// The same over HTTP/2, where an answer up to this long has its length (Go: net/http, handlerChunkWriteSize).
pub const HTTP2_WHOLE_BYTES: usize = 4096;

/// How long the end of an answer over HTTP/2 waits for the end of its request: a round trip of a long line.
pub const HTTP2_HEAR_OUT_MS: u64 = 250;

/// Bytes read from a websocket at a time.
pub const WEBSOCKET_READ_BYTES: usize = 16 * 1024;

/// Spans that wait to be exported (OpenTelemetry: OTEL_BSP_MAX_QUEUE_SIZE). Each holds its texts, at most eight of
/// `TRACE_TEXT_BYTES_MAX` and a state of 16 KiB: 96 MiB if a client means ill, 1 MiB as they usually are.
pub const TRACE_SPANS_QUEUED: usize = 2048;

/// Spans in one request to the collector (OpenTelemetry: OTEL_BSP_MAX_EXPORT_BATCH_SIZE). Of the usual size they are 200
/// kB; a collector takes 4 MiB unless it is told otherwise.
pub const TRACE_BATCH_SPANS: usize = 512;

/// How long fewer spans than that wait for more (OpenTelemetry: OTEL_BSP_SCHEDULE_DELAY).
pub const TRACE_BATCH_DELAY_MS: u64 = 5_000;

/// How long a request to the collector may take, a second try included (OpenTelemetry: OTEL_EXPORTER_OTLP_TIMEOUT).
pub const TRACE_EXPORT_TIMEOUT_MS: u64 = 10_000;

/// Between the two tries (opentelemetry-go: otlptracegrpc, retry.DefaultConfig, InitialInterval).
pub const TRACE_RETRY_DELAY_MS: u64 = 5_000;

/// How long the end of the process waits for spans to be exported: a collector that is there takes them in milliseconds,
/// and who stops the process gives it ten seconds at least.
pub const TRACE_FLUSH_MS_MAX: u64 = 3_000;

/// Bytes of a text in a span, of a key for example. etcd sends keys whole, however long.
pub const TRACE_TEXT_BYTES_MAX: usize = 4096;

/// Events of one span (OpenTelemetry: OTEL_SPAN_EVENT_COUNT_LIMIT).
pub const TRACE_EVENTS_MAX: usize = 128;

/// What is read of a collector's answer: a number and a text.
pub const TRACE_RESPONSE_BYTES_MAX: usize = 64 * 1024;

/// Servers of `/etc/resolv.conf` that are asked, dots that may be demanded of a name, seconds until another server is
/// asked, rounds of all servers: what resolv.conf(5) allows.
pub const DNS_SERVERS_MAX: usize = 3;
pub const DNS_DOTS_MAX: u64 = 15;
pub const DNS_TIMEOUT_SECONDS_MAX: u64 = 30;
pub const DNS_ATTEMPTS_MAX: u64 = 5;

/// Bytes of a name in DNS as text, with the dot at its end (RFC 1035, section 2.3.4, less the length of its first label).
pub const DNS_NAME_BYTES_MAX: usize = 254;

/// Bytes of DNS in a datagram: what gets through any network in one piece, 1280 less the headers (Go: net.maxDNSPacketSize).
pub const DNS_MESSAGE_BYTES: usize = 1232;

/// How often the pause between two questions to a discovery service that fails is doubled, from one second on (etcd:
/// v3discovery.maxExponentialRetries).
pub const DISCOVERY_PAUSE_DOUBLINGS_MAX: u32 = 8;

/// How long a connection to it may take, how long until the next try, and how long until a call that has failed is made
/// again (grpc-go: minConnectTimeout; etcd: client/v3, defaultBackoffWaitBetween).
pub const DISCOVERY_DIAL_SECONDS_MAX: u64 = 20;
pub const DISCOVERY_DIAL_AGAIN_MS: u64 = 250;
pub const DISCOVERY_ASK_AGAIN_MS: u64 = 25;

/// The least silence after which it is asked whether it is there (grpc-go: KeepaliveMinPingTime).
pub const DISCOVERY_KEEPALIVE_MS_MIN: u64 = 10_000;

/// Bytes of an answer of it: ten thousand members that register under one token.
pub const DISCOVERY_ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;
