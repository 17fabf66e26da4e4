//! What an operator can set, in one value, validated once. Names are those of etcd's flags.

use std::path::PathBuf;

use crate::limits;

#[derive(Clone, Debug)]
pub struct Config {
    pub name: String,
    pub data_dir: PathBuf,
    pub listen_client_urls: Vec<String>,
    pub advertise_client_urls: Vec<String>,
    pub listen_peer_urls: Vec<String>,
    pub initial_advertise_peer_urls: Vec<String>,
    /// Name and peer URLs of each founding member.
    pub initial_cluster: Vec<(String, Vec<String>)>,
    pub initial_cluster_token: String,
    pub initial_cluster_state_new: bool,
    pub heartbeat_ms: u64,
    pub election_ms: u64,
    pub pre_vote: bool,
    pub max_request_bytes: usize,
    pub max_txn_ops: usize,
    pub max_concurrent_streams: u32,
    /// None: no quota.
    pub quota_bytes: Option<u64>,
    pub watch_progress_notify_interval_ms: u64,
    pub auto_compaction: AutoCompaction,
    pub warning_apply_ms: u64,
    pub warning_unary_request_ms: u64,
    pub grpc_keepalive_min_time_ms: u64,
    pub grpc_keepalive_interval_ms: u64,
    pub grpc_keepalive_timeout_ms: u64,
    /// urd's own: executors that serve clients.
    pub shards: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AutoCompaction {
    Off,
    /// Keep this many milliseconds of history.
    Periodic { retention_ms: u64 },
    /// Keep this many revisions.
    Revision { retention: i64 },
}

impl Default for Config {
    fn default() -> Self {
        let local = |port: u16| vec![format!("http://localhost:{port}")];
        Config {
            name: "default".into(),
            data_dir: "default.urd".into(),
            listen_client_urls: local(2379),
            advertise_client_urls: local(2379),
            listen_peer_urls: local(2380),
            initial_advertise_peer_urls: local(2380),
            initial_cluster: vec![("default".into(), local(2380))],
            initial_cluster_token: "etcd-cluster".into(),
            initial_cluster_state_new: true,
            heartbeat_ms: 100,
            election_ms: 1000,
            pre_vote: true,
            max_request_bytes: limits::REQUEST_BYTES_DEFAULT,
            max_txn_ops: limits::TXN_OPS_DEFAULT,
            max_concurrent_streams: u32::MAX,
            quota_bytes: Some(limits::QUOTA_BYTES_DEFAULT),
            watch_progress_notify_interval_ms: 600_000,
            auto_compaction: AutoCompaction::Off,
            warning_apply_ms: 100,
            warning_unary_request_ms: 300,
            grpc_keepalive_min_time_ms: 5_000,
            grpc_keepalive_interval_ms: 7_200_000,
            grpc_keepalive_timeout_ms: 20_000,
            shards: 1,
        }
    }
}

impl Config {
    /// How long a request may wait: 5 s and two election timeouts (etcd: config.ServerConfig.ReqTimeout).
    pub fn request_timeout_ms(&self) -> u64 {
        5_000 + 2 * self.election_ms
    }

    /// Shortest lease, in seconds: one and a half election timeouts, rounded up (etcd: server.go, minTTL).
    pub fn lease_ttl_min(&self) -> i64 {
        let ticks = self.election_ms / self.heartbeat_ms;
        ((3 * ticks).div_ceil(2) * self.heartbeat_ms).div_ceil(1000) as i64
    }
}
