//! The table of every flag urd knows: etcd 3.7.3's, those that earlier releases took, and urd's own. Parsing, help and
//! the list in `docs/compatibility.md` are all read from it; a flag that is not here is refused.

/// What a value must look like, and how Go's `flag` reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Text,
    /// Needs no value: the flag alone means true.
    Bool,
    /// Unsigned, 64 bits.
    Uint,
    /// Unsigned, 32 bits; etcd words its errors differently.
    Uint32,
    /// Signed, 64 bits.
    Int,
    /// A number with a unit, such as `1h30m`.
    Duration,
    /// URLs separated by commas; the empty string keeps what there was.
    Urls,
    /// The same, or `*`.
    Origins,
    /// One of these.
    Choice(&'static [&'static str]),
    /// Some of these, separated by commas.
    Choices(&'static [&'static str]),
    /// `Name=bool,…`.
    Gates,
    /// Takes anything and, like `Bool`, no following word.
    Ignored,
}

impl Kind {
    /// Whether the flag may stand without a value, and so never takes the following word for one.
    pub fn is_switch(self) -> bool {
        matches!(self, Kind::Bool | Kind::Ignored)
    }
}

/// What urd does with a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It means here what it means in etcd.
    Works,
    /// Accepted; to ignore it breaks no promise. The text says why it has no effect.
    NoEffect(&'static str),
    /// Accepted at its default only: to ignore another value would break a promise. The text says what to do.
    Refused(&'static str),
    /// An older spelling of another flag.
    OldNameOf(&'static str),
    /// What a feature gate now says.
    OldGate(&'static str),
}

#[derive(Clone, Copy, Debug)]
pub struct Flag {
    pub name: &'static str,
    pub kind: Kind,
    pub default: &'static str,
    pub standing: Standing,
    pub section: Section,
    pub help: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    Member,
    Clustering,
    Limits,
    Security,
    Auth,
    Observability,
    Features,
    Unsafe,
    /// Spellings of releases before 3.7, kept so that manifests go on working.
    Earlier,
    Process,
}

impl Section {
    pub const ALL: [Section; 10] = [
        Section::Member,
        Section::Clustering,
        Section::Limits,
        Section::Security,
        Section::Auth,
        Section::Observability,
        Section::Features,
        Section::Unsafe,
        Section::Process,
        Section::Earlier,
    ];

    pub fn title(self) -> &'static str {
        match self {
            Section::Member => "Member",
            Section::Clustering => "Clustering",
            Section::Limits => "Limits",
            Section::Security => "Security",
            Section::Auth => "Auth",
            Section::Observability => "Logs, metrics and traces",
            Section::Features => "Features",
            Section::Unsafe => "Unsafe",
            Section::Process => "Process",
            Section::Earlier => "Earlier releases",
        }
    }
}

/// The flag of that name, in any of the releases covered.
pub fn find(name: &str) -> Option<&'static Flag> {
    FLAGS.iter().find(|flag| flag.name == name)
}

/// The known flag whose name is nearest, if one is near enough to have been meant.
pub fn nearest(name: &str) -> Option<&'static str> {
    FLAGS
        .iter()
        .filter(|flag| flag.section != Section::Earlier)
        .map(|flag| (strsim::jaro_winkler(flag.name, name), flag.name))
        .filter(|(likeness, _)| *likeness > 0.85)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}

const V2_DISCOVERY: &str =
    "discovery by the v2 API went with it: use --discovery-token and --discovery-endpoints, or --discovery-srv";
const BOUNDED: &str = "what a member does not take is bounded in bytes; nothing waits for it";
const NO_BBOLT: &str = "it tunes etcd's bbolt database, which urd does not have";
const NO_WAL_FILES: &str = "urd's log is the database: its segments are recycled, not purged by count";
const GONE: &str = "etcd gave it up before 3.7";

/// Shorthand for a row.
const fn row(
    section: Section,
    name: &'static str,
    kind: Kind,
    default: &'static str,
    standing: Standing,
    help: &'static str,
) -> Flag {
    Flag { name, kind, default, standing, section, help }
}

use Kind::*;
use Section::*;
use Standing::*;

/// Every flag, in the order in which help shows them.
#[rustfmt::skip]
pub const FLAGS: &[Flag] = &[
    row(Member, "name", Text, "default", Works, "What people call this member."),
    row(Member, "data-dir", Text, "", Works, "Folder for everything the member keeps; `<name>.urd` if not given."),
    row(Member, "wal-dir", Text, "", Refused("urd's log is the database and lives in --data-dir: leave it out"), "Separate folder for the write-ahead log."),
    row(Member, "shards", Uint, "", Works, "urd's own: executors that serve clients, each on a core of its own. Not given: one less than the CPUs the process may use, at least one."),
    row(Member, "snapshot-count", Uint, "10000", NoEffect("urd writes a checkpoint when the log has grown by enough bytes, whatever the number of entries"), "Applied entries after which the log's head is covered by a checkpoint."),
    row(Member, "heartbeat-interval", Uint, "100", Works, "Milliseconds between two heartbeats of a leader."),
    row(Member, "election-timeout", Uint, "1000", Works, "Milliseconds without a leader after which a member stands for election."),
    row(Member, "initial-election-tick-advance", Bool, "true", Works, "Shorten the first election timeout after a start, once other members are reached."),
    row(Member, "listen-peer-urls", Urls, "http://localhost:2380", Works, "Where to accept other members."),
    row(Member, "listen-client-urls", Urls, "http://localhost:2379", Works, "Where to accept clients: gRPC and HTTP on one port, or on one unix socket."),
    row(Member, "listen-client-http-urls", Urls, "", Works, "Where to accept HTTP alone; --listen-client-urls then takes gRPC alone."),
    row(Member, "listen-metrics-urls", Urls, "", Works, "Where to serve metrics and health checks beside the client URLs."),
    row(Member, "max-snapshots", Uint, "5", NoEffect("urd keeps the checkpoints that a restart may need and no others"), "Snapshot files to keep."),
    row(Member, "max-wals", Uint, "5", NoEffect(NO_WAL_FILES), "WAL files to keep."),
    row(Member, "memory-mlock", Bool, "false", Works, "Keep all memory from being swapped out, if the process may lock it without a limit."),
    row(Member, "backend-bbolt-freelist-type", Text, "map", NoEffect(NO_BBOLT), "Kind of bbolt's free list."),
    row(Member, "backend-batch-interval", Duration, "0s", NoEffect(NO_BBOLT), "Longest time before bbolt commits."),
    row(Member, "backend-batch-limit", Int, "0", NoEffect(NO_BBOLT), "Most operations before bbolt commits."),
    row(Member, "socket-reuse-port", Bool, "false", Works, "Share ports with other processes by SO_REUSEPORT."),
    row(Member, "socket-reuse-address", Bool, "false", NoEffect("urd always sets SO_REUSEADDR"), "Bind a port although connections of its last owner linger."),
    row(Member, "enable-grpc-gateway", Bool, "true", Works, "Serve the JSON gateway under /v3/."),
    row(Member, "raft-read-timeout", Duration, "5s", Works, "Longest wait for bytes from another member."),
    row(Member, "raft-write-timeout", Duration, "5s", NoEffect(BOUNDED), "Longest wait to hand bytes to another member."),
    row(Member, "feature-gates", Gates, "", Works, "Features to turn on or off: `Name=true,…`."),

    row(Clustering, "initial-advertise-peer-urls", Urls, "http://localhost:2380", Works, "Where other members reach this one; part of its id."),
    row(Clustering, "advertise-client-urls", Urls, "http://localhost:2379", Works, "Where clients are told to reach this member."),
    row(Clustering, "initial-cluster", Text, "default=http://localhost:2380", Works, "The founding members: `name=peerURL,…`."),
    row(Clustering, "initial-cluster-state", Choice(&["new", "existing"]), "new", Works, "`new` to found a cluster, `existing` to join one that has been told of this member."),
    row(Clustering, "initial-cluster-token", Text, "etcd-cluster", Works, "Sets clusters of the same shape apart; part of the ids."),
    row(Clustering, "discovery-token", Text, "", Works, "Discovery service: what the cluster to be founded is registered under; part of the ids."),
    row(Clustering, "discovery-endpoints", Text, "", Works, "Discovery service: the cluster, etcd or urd, at which members find each other."),
    row(Clustering, "discovery-dial-timeout", Duration, "2s", Works, "Discovery service: longest wait for a token, where there is a user; 0s: no limit."),
    row(Clustering, "discovery-request-timeout", Duration, "5s", Works, "Discovery service: longest wait for an answer; then it is asked again."),
    row(Clustering, "discovery-keepalive-time", Duration, "2s", Works, "Discovery service: silence after which the other side is asked whether it is there, at least 10 s; 0s: never."),
    row(Clustering, "discovery-keepalive-timeout", Duration, "6s", Works, "Discovery service: longest wait for the answer to that."),
    row(Clustering, "discovery-insecure-transport", Bool, "true", Works, "Discovery service: no TLS for endpoints without a scheme."),
    row(Clustering, "discovery-insecure-skip-tls-verify", Bool, "false", Works, "Discovery service: trust any certificate. For tests."),
    row(Clustering, "discovery-cert", Text, "", Works, "Discovery service: certificate to show."),
    row(Clustering, "discovery-key", Text, "", Works, "Discovery service: its key."),
    row(Clustering, "discovery-cacert", Text, "", Works, "Discovery service: authorities to trust; without, the system's."),
    row(Clustering, "discovery-user", Text, "", Works, "Discovery service: user."),
    row(Clustering, "discovery-password", Text, "", Works, "Discovery service: the user's password."),
    row(Clustering, "discovery-fallback", Choice(&["exit", "proxy"]), "exit", Works, "What to do when discovery fails: `exit` is all there is."),
    row(Clustering, "discovery-srv", Text, "", Works, "DNS domain whose SRV records tell the members."),
    row(Clustering, "discovery-srv-name", Text, "", Works, "Suffix of the service names that are asked for."),
    row(Clustering, "strict-reconfig-check", Bool, "true", Works, "Refuse changes of members that would lose the quorum."),
    row(Clustering, "pre-vote", Bool, "true", Works, "Ask whether an election could be won before standing in it."),
    row(Clustering, "max-learners", Int, "1", Works, "Most learners in the cluster."),
    row(Clustering, "max-cluster-version", Choice(&["3.6", "3.7"]), "3.7", Works, "urd's own: the newest version that the cluster may state while this member is in it; `3.6` leaves the way back to etcd 3.6 open."),
    row(Clustering, "snapshot-catchup-entries", Uint, "5000", Works, "Entries kept in the log for a member that lags."),
    row(Clustering, "auto-compaction-mode", Text, "periodic", Works, "What --auto-compaction-retention counts: `periodic` time, `revision` revisions."),
    row(Clustering, "auto-compaction-retention", Text, "0", Works, "How much history compaction keeps: hours, or a duration such as `5m`, or revisions. 0: no compaction of its own."),
    row(Clustering, "v2-deprecation", Choices(&["write-only", "write-only-skip-check", "write-only-drop-data", "gone"]), "write-only", NoEffect("urd has no v2 store"), "Stage of the v2 store's removal."),

    row(Limits, "quota-backend-bytes", Int, "0", Works, "Most bytes the data may take before writes are refused. 0: 2 GiB; negative: no limit."),
    row(Limits, "max-txn-ops", Uint, "128", Works, "Most operations in a transaction."),
    row(Limits, "max-request-bytes", Uint, "1572864", Works, "Largest request, in bytes."),
    row(Limits, "max-concurrent-streams", Uint32, "4294967295", Works, "Most streams that one connection may have open."),
    row(Limits, "grpc-keepalive-min-time", Duration, "5s", Works, "Shortest time between two pings of a client. 0: 5 minutes."),
    row(Limits, "grpc-keepalive-interval", Duration, "2h0m0s", Works, "Time after which a silent client is pinged. If this or the next is 0: 2 hours, and 20 seconds."),
    row(Limits, "grpc-keepalive-timeout", Duration, "20s", Works, "How long a ping may go unanswered before the connection is closed."),

    row(Security, "cert-file", Text, "", Works, "Certificate for clients."),
    row(Security, "key-file", Text, "", Works, "Its key."),
    row(Security, "client-cert-auth", Bool, "false", Works, "Demand certificates of clients."),
    row(Security, "client-cert-file", Text, "", Works, "Certificate shown when urd is the client."),
    row(Security, "client-key-file", Text, "", Works, "Its key."),
    row(Security, "client-crl-file", Text, "", Works, "Revoked client certificates."),
    row(Security, "client-cert-allowed-hostname", Text, "", Works, "Host names that client certificates may carry."),
    row(Security, "trusted-ca-file", Text, "", Works, "Authorities trusted for clients."),
    row(Security, "auto-tls", Bool, "false", Works, "Make a certificate for clients."),
    row(Security, "peer-cert-file", Text, "", Works, "Certificate for members."),
    row(Security, "peer-key-file", Text, "", Works, "Its key."),
    row(Security, "peer-client-cert-auth", Bool, "false", Works, "Demand certificates of members."),
    row(Security, "peer-client-cert-file", Text, "", Works, "Certificate shown to other members."),
    row(Security, "peer-client-key-file", Text, "", Works, "Its key."),
    row(Security, "peer-trusted-ca-file", Text, "", Works, "Authorities trusted for members."),
    row(Security, "peer-cert-allowed-cn", Text, "", Works, "Common names that members may carry."),
    row(Security, "peer-cert-allowed-hostname", Text, "", Works, "Host names that members may carry."),
    row(Security, "peer-auto-tls", Bool, "false", Works, "Make a certificate for members."),
    row(Security, "peer-crl-file", Text, "", Works, "Revoked certificates of members."),
    row(Security, "peer-skip-client-san-verification", Bool, "false", Works, "Do not compare a member's certificate with its address."),
    row(Security, "self-signed-cert-validity", Uint, "1", Works, "Years that made certificates are valid."),
    row(Security, "cipher-suites", Text, "", Works, "TLS suites to offer."),
    row(Security, "tls-min-version", Text, "TLS1.2", Works, "Oldest TLS version."),
    row(Security, "tls-max-version", Text, "", Works, "Newest TLS version."),
    row(Security, "cors", Origins, "*", Works, "Origins that browsers may come from."),
    row(Security, "host-whitelist", Text, "*", Works, "Host names that HTTP requests may be addressed to."),

    row(Auth, "auth-token", Text, "simple", Works, "How tokens are made: `simple`, or `jwt,sign-method=…,priv-key=…,pub-key=…,ttl=…`."),
    row(Auth, "bcrypt-cost", Uint, "10", Works, "Cost of hashing a password, 4 to 31: one more doubles the time."),
    row(Auth, "auth-token-ttl", Uint, "300", Works, "Seconds that a simple token lives unused. 0: 300."),

    row(Observability, "enable-pprof", Bool, "false", NoEffect("there is no Go runtime to be profiled: urd_stage_duration_seconds among the metrics tells where time goes, perf the rest"), "Serve Go's profiles."),
    row(Observability, "metrics", Text, "basic", Works, "`extensive` adds a histogram of each gRPC method's duration."),
    row(Observability, "logger", Text, "zap", Works, "Only `zap`: the form of etcd's logs."),
    row(Observability, "log-outputs", Text, "default", Works, "Where logs go, separated by commas: `stderr` (`default`), `stdout`, or a file."),
    row(Observability, "log-level", Text, "info", Works, "Least level logged: debug, info, warn, error, panic or fatal."),
    row(Observability, "log-format", Text, "json", Works, "`json` or `console`."),
    row(Observability, "enable-log-rotation", Bool, "false", Works, "Rotate the log file."),
    row(Observability, "log-rotation-config-json", Text, r#"{"maxsize": 100, "maxage": 0, "maxbackups": 0, "localtime": false, "compress": false}"#, Works, "How to rotate it: sizes in MB, ages in days; 0 for no bound but of the size, which is then 100."),
    row(Observability, "warning-unary-request-duration", Duration, "300ms", Works, "A request that takes longer is logged."),
    row(Observability, "warning-apply-duration", Duration, "100ms", Works, "Applying an entry that takes longer is logged."),
    row(Observability, "enable-distributed-tracing", Bool, "false", Works, "Send spans of calls to a collector, by OTLP over gRPC."),
    row(Observability, "distributed-tracing-address", Text, "localhost:4317", Works, "The collector."),
    row(Observability, "distributed-tracing-service-name", Text, "etcd", Works, "This service's name in traces, the same for all members."),
    row(Observability, "distributed-tracing-instance-id", Text, "", Works, "This member's name in traces."),
    row(Observability, "distributed-tracing-sampling-rate", Int, "0", Works, "Traces to send out of a million; what a caller has sampled is always sent."),

    row(Features, "corrupt-check-time", Duration, "0s", Works, "Time between two checks of the data; a member alone reads all of its own twice and compares. 0: none."),
    row(Features, "compact-hash-check-time", Duration, "1m0s", Works, "Time between two comparisons of the members' compaction hashes."),
    row(Features, "scrub-interval", Duration, "24h0m0s", Works, "urd's own: time within which all that lies in full segments of the log is read from the disk and proven. 0: only what is read for others is proven."),
    row(Features, "compaction-batch-limit", Int, "1000", Works, "Revisions that compaction removes at a time. 0: 1000."),
    row(Features, "compaction-sleep-interval", Duration, "10ms", Works, "Pause between two such batches. 0: 10 ms."),
    row(Features, "watch-progress-notify-interval", Duration, "10m0s", Works, "Time between two progress reports to a silent watch; at least 100 ms."),
    row(Features, "bootstrap-defrag-threshold-megabytes", Uint, "0", NoEffect("urd has no database file to defragment at the start"), "Defragment at the start if that frees as much."),
    row(Features, "downgrade-check-time", Duration, "5s", Works, "Time between two looks at a downgrade's progress."),

    row(Unsafe, "force-new-cluster", Bool, "false", Works, "Make this member a cluster of one: what it holds as committed is kept, every other member is taken out."),
    row(Unsafe, "unsafe-no-fsync", Bool, "false", NoEffect("urd always makes writes durable before it acknowledges them"), "Acknowledge writes that are not durable."),

    row(Process, "config-file", Text, "", Works, "Read the settings from a file in YAML or JSON; then no other flag and no variable counts."),
    row(Process, "version", Bool, "false", Works, "Print the version and exit."),

    row(Earlier, "experimental-bootstrap-defrag-threshold-megabytes", Uint, "0", OldNameOf("bootstrap-defrag-threshold-megabytes"), ""),
    row(Earlier, "experimental-compact-hash-check-enabled", Bool, "false", OldGate("CompactHashCheck"), ""),
    row(Earlier, "experimental-compact-hash-check-time", Duration, "1m0s", OldNameOf("compact-hash-check-time"), ""),
    row(Earlier, "experimental-compaction-batch-limit", Int, "1000", OldNameOf("compaction-batch-limit"), ""),
    row(Earlier, "experimental-compaction-sleep-interval", Duration, "10ms", OldNameOf("compaction-sleep-interval"), ""),
    row(Earlier, "experimental-corrupt-check-time", Duration, "0s", OldNameOf("corrupt-check-time"), ""),
    row(Earlier, "experimental-distributed-tracing-address", Text, "localhost:4317", OldNameOf("distributed-tracing-address"), ""),
    row(Earlier, "experimental-distributed-tracing-instance-id", Text, "", OldNameOf("distributed-tracing-instance-id"), ""),
    row(Earlier, "experimental-distributed-tracing-sampling-rate", Int, "0", OldNameOf("distributed-tracing-sampling-rate"), ""),
    row(Earlier, "experimental-distributed-tracing-service-name", Text, "etcd", OldNameOf("distributed-tracing-service-name"), ""),
    row(Earlier, "experimental-downgrade-check-time", Duration, "5s", OldNameOf("downgrade-check-time"), ""),
    row(Earlier, "experimental-enable-distributed-tracing", Bool, "false", OldNameOf("enable-distributed-tracing"), ""),
    row(Earlier, "experimental-enable-lease-checkpoint", Bool, "false", OldGate("LeaseCheckpoint"), ""),
    row(Earlier, "experimental-enable-lease-checkpoint-persist", Bool, "false", OldGate("LeaseCheckpointPersist"), ""),
    row(Earlier, "experimental-initial-corrupt-check", Bool, "false", OldGate("InitialCorruptCheck"), ""),
    row(Earlier, "experimental-max-learners", Int, "1", OldNameOf("max-learners"), ""),
    row(Earlier, "experimental-memory-mlock", Bool, "false", OldNameOf("memory-mlock"), ""),
    row(Earlier, "experimental-peer-skip-client-san-verification", Bool, "false", OldNameOf("peer-skip-client-san-verification"), ""),
    row(Earlier, "experimental-set-member-localaddr", Bool, "false", OldGate("SetMemberLocalAddr"), ""),
    row(Earlier, "experimental-snapshot-catchup-entries", Uint, "5000", OldNameOf("snapshot-catchup-entries"), ""),
    row(Earlier, "experimental-stop-grpc-service-on-defrag", Bool, "false", OldGate("StopGRPCServiceOnDefrag"), ""),
    row(Earlier, "experimental-txn-mode-write-with-shared-buffer", Bool, "true", OldGate("TxnModeWriteWithSharedBuffer"), ""),
    row(Earlier, "experimental-warning-apply-duration", Duration, "100ms", OldNameOf("warning-apply-duration"), ""),
    row(Earlier, "experimental-warning-unary-request-duration", Duration, "300ms", OldNameOf("warning-unary-request-duration"), ""),
    row(Earlier, "experimental-watch-progress-notify-interval", Duration, "10m0s", OldNameOf("watch-progress-notify-interval"), ""),
    row(Earlier, "discovery", Text, "", Refused(V2_DISCOVERY), ""),
    row(Earlier, "discovery-proxy", Text, "", Refused(V2_DISCOVERY), ""),
    row(Earlier, "enable-v2", Bool, "false", Refused("the v2 API is not available in this version: use v3"), ""),
    row(Earlier, "experimental-enable-v2v3", Text, "", Refused("the v2 API is not available in this version: use v3"), ""),
    row(Earlier, "proxy", Choice(&["off", "readonly", "on"]), "off", Refused("etcd gave its v2 proxy up in 3.6: leave it out"), ""),
    row(Earlier, "proxy-dial-timeout", Uint, "1000", NoEffect(GONE), ""),
    row(Earlier, "proxy-failure-wait", Uint, "5000", NoEffect(GONE), ""),
    row(Earlier, "proxy-read-timeout", Uint, "0", NoEffect(GONE), ""),
    row(Earlier, "proxy-refresh-interval", Uint, "30000", NoEffect(GONE), ""),
    row(Earlier, "proxy-write-timeout", Uint, "5000", NoEffect(GONE), ""),
    row(Earlier, "cluster-active-size", Ignored, "", NoEffect(GONE), ""),
    row(Earlier, "cluster-remove-delay", Ignored, "", NoEffect(GONE), ""),
    row(Earlier, "cluster-sync-interval", Ignored, "", NoEffect(GONE), ""),
    row(Earlier, "config", Ignored, "", NoEffect(GONE), ""),
    row(Earlier, "force", Ignored, "", NoEffect(GONE), ""),
    row(Earlier, "max-result-buffer", Ignored, "", NoEffect(GONE), ""),
    row(Earlier, "max-retry-attempts", Ignored, "", NoEffect(GONE), ""),
    row(Earlier, "peer-election-timeout", Ignored, "", NoEffect(GONE), ""),
    row(Earlier, "peer-heartbeat-interval", Ignored, "", NoEffect(GONE), ""),
    row(Earlier, "retry-interval", Ignored, "", NoEffect(GONE), ""),
    row(Earlier, "snapshot", Ignored, "", NoEffect(GONE), ""),
    row(Earlier, "test.coverprofile", Ignored, "", NoEffect(GONE), ""),
    row(Earlier, "test.outputdir", Ignored, "", NoEffect(GONE), ""),
    row(Earlier, "v", Ignored, "", NoEffect(GONE), ""),
    row(Earlier, "vv", Ignored, "", NoEffect(GONE), ""),
];
