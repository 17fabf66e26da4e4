//! What an operator can set, in one value, validated once. Names are those of etcd's flags. Words and variables are read
//! by `parse` along the table in `flags`; `build` makes one `Config` of them or says what is wrong; `bootstrap` checks what
//! matters only where there is no data yet; `file` reads a configuration file in place of words and variables. Nothing
//! else here opens anything, and nothing binds or writes.

pub mod bootstrap;
mod build;
pub mod discovery;
mod file;
pub mod flags;
pub mod gates;
mod parse;
pub mod tls;
pub mod url;
pub mod usage;
pub mod value;

use std::{ffi::OsString, fmt, path::PathBuf};

use self::{discovery::Discovery, gates::Gates, parse::Asked};
use crate::{
    auth::password,
    limits,
    observe::{log, trace},
};

#[derive(Clone, Debug)]
pub struct Config {
    pub name: String,
    pub data_dir: PathBuf,
    pub listen_client_urls: Vec<String>,
    /// Where HTTP alone is served; if anywhere, the client URLs are gRPC's alone.
    pub listen_client_http_urls: Vec<String>,
    pub advertise_client_urls: Vec<String>,
    pub listen_peer_urls: Vec<String>,
    pub initial_advertise_peer_urls: Vec<String>,
    /// Name and peer URLs of each founding member; empty where they are to be discovered.
    pub initial_cluster: Vec<(String, Vec<String>)>,
    pub discovery: Option<Discovery>,
    pub initial_cluster_token: String,
    pub initial_cluster_state_new: bool,
    /// A member among others, once it reaches them, does not wait a whole election timeout for the first sign of a leader.
    pub initial_election_tick_advance: bool,
    pub heartbeat_ms: u64,
    pub election_ms: u64,
    pub pre_vote: bool,
    /// Between two looks of a leader at whether a downgrade is done; 0: none.
    pub downgrade_check_ms: u64,
    /// Nobody but this member belongs to the cluster any more.
    pub force_new_cluster: bool,
    /// Changes of the members that would lose the quorum are refused.
    pub strict_reconfig_check: bool,
    pub max_learners: usize,
    /// The release, `major.minor`, that this member counts as when the cluster's version is decided.
    pub max_cluster_version: String,
    /// `--snapshot-catchup-entries`.
    pub catch_up_entries: u64,
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
    /// Where metrics and health checks are served beside the client URLs.
    pub listen_metrics_urls: Vec<String>,
    /// Origins that browsers may come from; `*`: any.
    pub cors: Vec<String>,
    /// Host names that an HTTP request may be addressed to; `*`: any.
    pub host_whitelist: Vec<String>,
    /// `--enable-grpc-gateway`: the API in JSON under `/v3/`.
    pub json_gateway: bool,
    /// Revisions that compaction removes at a time.
    pub compaction_batch_limit: usize,
    /// Pause between two such batches.
    pub compaction_sleep_interval_ms: u64,
    /// How tokens are made, as `--auth-token` says it; its key files are read at the start.
    pub auth_token: String,
    /// How long a simple token lives unused.
    pub auth_token_ttl_ms: u64,
    pub bcrypt_cost: u32,
    pub tls: tls::Tls,
    /// `--metrics extensive`: a histogram of each gRPC method's duration.
    pub metrics_extensive: bool,
    pub gates: Gates,
    pub log: log::Settings,
    /// Ports are shared with other processes that say so too.
    pub socket_reuse_port: bool,
    /// All memory stays where it is, never swapped out.
    pub memory_mlock: bool,
    /// Between two looks of the member at its own data; 0: none.
    pub corrupt_check_ms: u64,
    /// Between two comparisons of what members have compacted.
    pub compact_hash_check_ms: u64,
    /// urd's own: within which all sealed segments are looked through; 0: they are not.
    pub scrub_interval_ms: u64,
    /// How long another member may say nothing.
    pub raft_read_timeout_ms: u64,
    /// Where spans of calls go; None: calls are not traced.
    pub tracing: Option<trace::Settings>,
    /// Where all of this was read from, if not from words and variables.
    pub config_file: Option<String>,
    /// What the operator should be told once logs are open.
    pub warnings: Vec<Warning>,
}

/// Something accepted that has no effect here, or that may not do what was meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    pub message: String,
    /// The flag or variable it is about.
    pub about: String,
    pub value: String,
}

impl Warning {
    fn new(message: impl Into<String>, about: impl Into<String>, value: impl Into<String>) -> Self {
        Warning { message: message.into(), about: about.into(), value: value.into() }
    }
}

/// What the command line asks for.
#[derive(Clone, Debug)]
pub enum Parsed {
    Run(Box<Config>),
    /// Print `usage::version()` and exit with 0.
    Version,
    /// Print `usage::help()` and exit with 0.
    Help,
}

/// Why the process cannot run as asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// What is wrong; etcd's text where etcd refuses the same.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// The words themselves could not be read: print `usage::usage()` to stderr as well.
    pub is_usage: bool,
}

impl ConfigError {
    /// 2 where the words could not be read, 1 where they are read and do not fit.
    pub fn exit_code(&self) -> i32 {
        if self.is_usage { 2 } else { 1 }
    }

    fn usage(message: impl Into<String>) -> Self {
        ConfigError { message: message.into(), hint: None, is_usage: true }
    }

    fn invalid(message: impl Into<String>) -> Self {
        ConfigError { message: message.into(), hint: None, is_usage: false }
    }

    fn hint(self, hint: impl Into<String>) -> Self {
        ConfigError { hint: Some(hint.into()), ..self }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "\n{hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for ConfigError {}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AutoCompaction {
    Off,
    /// Keep this many milliseconds of history.
    Periodic {
        retention_ms: u64,
    },
    /// Keep this many revisions.
    Revision {
        retention: i64,
    },
}

impl Default for Config {
    fn default() -> Self {
        let local = |port: u16| vec![format!("http://localhost:{port}")];
        Config {
            name: "default".into(),
            data_dir: "default.urd".into(),
            listen_client_urls: local(2379),
            listen_client_http_urls: Vec::new(),
            advertise_client_urls: local(2379),
            listen_peer_urls: local(2380),
            initial_advertise_peer_urls: local(2380),
            initial_cluster: vec![("default".into(), local(2380))],
            discovery: None,
            initial_cluster_token: "etcd-cluster".into(),
            initial_cluster_state_new: true,
            initial_election_tick_advance: true,
            heartbeat_ms: 100,
            election_ms: 1000,
            pre_vote: true,
            downgrade_check_ms: 5_000,
            force_new_cluster: false,
            strict_reconfig_check: true,
            max_learners: limits::LEARNERS_DEFAULT,
            max_cluster_version: "3.7".into(),
            catch_up_entries: limits::RAFT_CATCH_UP_ENTRIES,
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
            listen_metrics_urls: Vec::new(),
            cors: vec!["*".into()],
            host_whitelist: vec!["*".into()],
            json_gateway: true,
            compaction_batch_limit: 1_000,
            compaction_sleep_interval_ms: 10,
            auth_token: "simple".into(),
            auth_token_ttl_ms: 300_000,
            bcrypt_cost: password::COST_DEFAULT,
            tls: tls::Tls::default(),
            metrics_extensive: false,
            gates: Gates::default(),
            log: log::Settings::default(),
            socket_reuse_port: false,
            memory_mlock: false,
            corrupt_check_ms: 0,
            compact_hash_check_ms: 60_000,
            scrub_interval_ms: 24 * 3_600_000,
            raft_read_timeout_ms: 5_000,
            tracing: None,
            config_file: None,
            warnings: Vec::new(),
        }
    }
}

impl Config {
    /// Reads the words after the program's name and the process's variables.
    ///
    /// # Errors
    /// The first thing wrong, in etcd's words where etcd has words for it.
    pub fn from_args(
        args: impl Iterator<Item = OsString>,
        env: impl Iterator<Item = (String, String)>,
    ) -> Result<Parsed, ConfigError> {
        let mut settings = match parse::read_words(args)? {
            Asked::Settings(settings) => settings,
            Asked::Help => return Ok(Parsed::Help),
            Asked::Version => return Ok(Parsed::Version),
        };
        let env: Vec<(String, String)> = env.collect();
        let file = match settings.text("config-file") {
            // Of the variables, the one that counts whatever the others say.
            "" => env.iter().find(|(name, _)| name == "ETCD_CONFIG_FILE").map_or("", |(_, path)| path.as_str()),
            path => path,
        };
        let file = Some(file.to_owned()).filter(|path| !path.is_empty());
        match &file {
            Some(path) => settings = file::read(path)?,
            None => parse::read_variables(&mut settings, env.into_iter())?,
        }
        let config = build::build(settings, &build::Machine::this())?;
        Ok(Parsed::Run(Box::new(Config { config_file: file, ..config })))
    }

    /// Ticks of a heartbeat interval after which a member that hears of no leader may stand for election.
    pub fn election_ticks(&self) -> usize {
        (self.election_ms / self.heartbeat_ms) as usize
    }

    /// How long it may take until a connection to another member stands (etcd: config.ServerConfig.PeerDialTimeout).
    pub fn peer_dial_timeout_ms(&self) -> u64 {
        1_000 + self.election_ms
    }

    /// How long a request may wait: 5 s and two election timeouts (etcd: config.ServerConfig.ReqTimeout).
    pub fn request_timeout_ms(&self) -> u64 {
        5_000 + 2 * self.election_ms
    }

    /// Shortest lease, in seconds: one and a half election timeouts, rounded up (etcd: server.go, minTTL).
    pub fn lease_ttl_min(&self) -> i64 {
        let ticks = self.election_ticks() as u64;
        ((3 * ticks).div_ceil(2) * self.heartbeat_ms).div_ceil(1000) as i64
    }
}

#[cfg(test)]
mod tests;
