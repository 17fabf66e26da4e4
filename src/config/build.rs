//! From settings to the one `Config`: defaults that depend on one another, what does not fit together, what urd cannot
//! do. Checks come in etcd's order, so that of several faults the same one is named. (etcd: embed.Config.Validate.)

use std::{
    net::{IpAddr, UdpSocket},
    path::PathBuf,
};

use super::{
    AutoCompaction, Config, ConfigError, Warning, bootstrap,
    discovery::{self, CLUSTER_DEFAULT, cluster_text},
    flags::{self, FLAGS, Flag, Kind, Section, Standing},
    gates::Gates,
    parse::Settings,
    tls::{self, Tls},
    url::{self, Url},
    value,
};
use crate::{
    auth::password,
    limits,
    observe::{log, trace},
};

/// What a default may depend on outside the command line.
pub(super) struct Machine {
    /// CPUs that the process may use.
    pub cpus: usize,
    /// The address by which this machine is reached from outside, asked for only when it is needed.
    pub host: fn() -> Option<IpAddr>,
}

impl Machine {
    pub fn this() -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, |cpus| cpus.get());
        Machine { cpus, host: outward_address }
    }
}

/// The source address of the way out. Connecting a datagram socket picks it and sends nothing (192.0.2.1 is set aside for
/// documentation and stands for any address that is not near).
fn outward_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    socket.local_addr().ok().map(|address| address.ip()).filter(|ip| !ip.is_unspecified())
}

pub(super) fn build(settings: Settings, machine: &Machine) -> Result<Config, ConfigError> {
    let mut settings = settings;
    let gates = take_old_names(&mut settings)?;
    let mut warnings = std::mem::take(&mut settings.warnings);
    refuse_and_warn(&settings, &mut warnings)?;

    if settings.text("discovery-fallback") == "proxy" {
        return invalid("v2 proxy is deprecated, and --discovery-fallback can't be configured as \"proxy\"");
    }
    let log = log_settings(&settings)?;

    let listen_peer = urls(&settings, "listen-peer-urls")?;
    let listen_client = urls(&settings, "listen-client-urls")?;
    let listen_http = urls(&settings, "listen-client-http-urls")?;
    let listen_metrics = urls(&settings, "listen-metrics-urls")?;
    for url in listen_peer.iter().chain(&listen_client).chain(&listen_http).chain(&listen_metrics) {
        url.check_bind().map_err(ConfigError::invalid)?;
    }
    let mut advertise_peer = urls(&settings, "initial-advertise-peer-urls")?;
    let mut advertise_client = urls(&settings, "advertise-client-urls")?;
    for url in &advertise_peer {
        url.check_host().map_err(|cause| {
            let all = texts(&advertise_peer).join(",");
            ConfigError::invalid(format!("--initial-advertise-peer-urls {all:?} must be \"host:port\" ({cause})"))
        })?;
    }
    // A file that says where to listen leaves what is advertised as it was.
    let with_default =
        settings.from_file || !settings.is_set("listen-client-urls") || settings.is_set("advertise-client-urls");
    if with_default {
        for url in &advertise_client {
            url.check_host().map_err(|cause| {
                let all = texts(&advertise_client).join(",");
                let forms = "\"host:port\", \"unix:/path/to/socket\" or \"unixs:/path/to/socket\"";
                ConfigError::invalid(format!("--advertise-client-urls {all:?} must be in the format {forms} ({cause})"))
            })?;
        }
    }

    discovery::check(&settings)?;
    let heartbeat_ms = settings.uint("heartbeat-interval");
    let election_ms = settings.uint("election-timeout");
    check_timers(heartbeat_ms, election_ms)?;
    if !with_default {
        return invalid("--advertise-client-urls is required when --listen-client-urls is set explicitly");
    }
    check_compaction_mode(settings.text("auto-compaction-mode"))?;
    let tracing = tracing(&settings)?;
    if gates.is_on("LeaseCheckpointPersist") && !gates.is_on("LeaseCheckpoint") {
        return invalid("enabling feature gate LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint");
    }
    if settings.duration("compact-hash-check-time") <= 0 {
        let set = value::format_duration(settings.duration("compact-hash-check-time"));
        return invalid(format!("--compact-hash-check-time must be >0 (set to {set})"));
    }

    if let Some(url) = listen_http.iter().find(|url| listen_client.iter().any(|it| it.authority == url.authority)) {
        return invalid(format!(
            "cannot bind both --listen-client-urls and --listen-client-http-urls on the same url {url}"
        ));
    }

    let name = settings.text("name").to_owned();
    if name == "default" {
        warnings.push(Warning::new(
            "it isn't recommended to use default name, please set a value for --name",
            "name",
            "default",
        ));
    }
    let tls = tls::read(&settings)?;
    let clients = listen_client.iter().chain(&listen_http);
    check_certificates(&tls, clients, &listen_metrics, &mut warnings)?;
    warn_of_unused_peer_certificates(&tls, &listen_peer, &mut warnings);
    advertise_default_host(&listen_peer, &mut advertise_peer, "http://localhost:2380", machine);
    let initial_cluster = initial_cluster(&settings, &name, &advertise_peer)?;
    advertise_default_host(&listen_client, &mut advertise_client, "http://localhost:2379", machine);

    let data_dir = match settings.text("data-dir") {
        "" => format!("{name}.urd"),
        path => path.to_owned(),
    };
    let watch_progress_notify_interval_ms = watch_progress_interval(&settings, &mut warnings);
    Ok(Config {
        data_dir: PathBuf::from(data_dir),
        listen_client_urls: texts(&listen_client),
        listen_client_http_urls: texts(&listen_http),
        advertise_client_urls: texts(&advertise_client),
        listen_peer_urls: texts(&listen_peer),
        initial_advertise_peer_urls: texts(&advertise_peer),
        initial_cluster,
        discovery: discovery::read(&settings),
        initial_cluster_token: settings.text("initial-cluster-token").to_owned(),
        initial_cluster_state_new: settings.text("initial-cluster-state") == "new",
        initial_election_tick_advance: settings.flag("initial-election-tick-advance"),
        heartbeat_ms,
        election_ms,
        pre_vote: settings.flag("pre-vote"),
        downgrade_check_ms: milliseconds(settings.duration("downgrade-check-time")),
        force_new_cluster: settings.flag("force-new-cluster"),
        strict_reconfig_check: settings.flag("strict-reconfig-check"),
        // A cluster without a learner has too many of them already.
        max_learners: usize::try_from(settings.int("max-learners"))
            .map_err(|_| ConfigError::invalid("membership: too many learner members in cluster"))?,
        max_cluster_version: settings.text("max-cluster-version").to_owned(),
        catch_up_entries: settings.uint("snapshot-catchup-entries"),
        max_request_bytes: max_request_bytes(&settings, &mut warnings)?,
        max_txn_ops: usize::try_from(settings.uint("max-txn-ops")).unwrap_or(usize::MAX),
        max_concurrent_streams: u32::try_from(settings.uint("max-concurrent-streams")).unwrap_or(u32::MAX),
        quota_bytes: match settings.int("quota-backend-bytes") {
            0 => Some(limits::QUOTA_BYTES_DEFAULT),
            bytes => u64::try_from(bytes).ok(),
        },
        watch_progress_notify_interval_ms,
        auto_compaction: auto_compaction(&settings)?,
        warning_apply_ms: milliseconds(settings.duration("warning-apply-duration")),
        warning_unary_request_ms: match settings.duration("warning-unary-request-duration") {
            0 => 300,
            duration => milliseconds(duration),
        },
        grpc_keepalive_min_time_ms: milliseconds(settings.duration("grpc-keepalive-min-time")),
        grpc_keepalive_interval_ms: milliseconds(settings.duration("grpc-keepalive-interval")),
        grpc_keepalive_timeout_ms: milliseconds(settings.duration("grpc-keepalive-timeout")),
        shards: shards(&settings, machine)?,
        listen_metrics_urls: texts(&listen_metrics),
        cors: strings(&settings, "cors"),
        host_whitelist: strings(&settings, "host-whitelist"),
        json_gateway: settings.flag("enable-grpc-gateway"),
        compaction_batch_limit: match settings.int("compaction-batch-limit") {
            count @ 1.. => count as usize,
            _ => 1_000,
        },
        compaction_sleep_interval_ms: match settings.duration("compaction-sleep-interval") {
            0 => 10,
            duration => milliseconds(duration),
        },
        auth_token: settings.text("auth-token").to_owned(),
        auth_token_ttl_ms: auth_token_ttl_ms(settings.uint("auth-token-ttl")),
        bcrypt_cost: bcrypt_cost(&settings, &mut warnings),
        tls,
        metrics_extensive: settings.text("metrics") == "extensive",
        socket_reuse_port: settings.flag("socket-reuse-port"),
        memory_mlock: settings.flag("memory-mlock"),
        corrupt_check_ms: milliseconds(settings.duration("corrupt-check-time")),
        raft_read_timeout_ms: milliseconds(settings.duration("raft-read-timeout")).max(limits::PEER_SILENCE_MS_MAX),
        compact_hash_check_ms: milliseconds(settings.duration("compact-hash-check-time")),
        scrub_interval_ms: milliseconds(settings.duration("scrub-interval")),
        tracing,
        config_file: None,
        gates,
        log,
        warnings,
        name,
    })
}

fn invalid<T>(message: impl Into<String>) -> Result<T, ConfigError> {
    Err(ConfigError::invalid(message))
}

/// Nanoseconds to milliseconds: what is above zero stays above it, what is below becomes zero.
fn milliseconds(nanoseconds: i64) -> u64 {
    match u64::try_from(nanoseconds) {
        Ok(0) | Err(_) => 0,
        Ok(nanoseconds) => (nanoseconds / 1_000_000).max(1),
    }
}

fn texts(urls: &[Url]) -> Vec<String> {
    urls.iter().map(Url::to_string).collect()
}

/// Moves what older spellings say to the flags and gates that replaced them.
fn take_old_names(settings: &mut Settings) -> Result<Gates, ConfigError> {
    let mut gates = Gates::default();
    for text in settings.all("feature-gates") {
        gates.read(text).expect("checked when it was set");
    }
    let old: Vec<&'static Flag> = settings.names().filter_map(flags::find).collect();
    for flag in old {
        let value = settings.text(flag.name).to_owned();
        let twice = |successor: &str| {
            ConfigError::invalid(format!("--{} and {successor} set the same thing differently", flag.name))
                .hint(format!("leave --{} out: it is the older spelling", flag.name))
        };
        let successor = match flag.standing {
            Standing::OldNameOf(name) => {
                if settings.is_set(name) {
                    if settings.text(flags::find(name).expect("a successor is in the table").name) != value {
                        return Err(twice(&format!("--{name}")));
                    }
                } else {
                    let successor = flags::find(name).expect("a successor is in the table");
                    settings.put(successor, value.clone()).expect("an older spelling has its successor's kind");
                }
                format!("--{name}")
            }
            Standing::OldGate(gate) => {
                let on = value::parse_bool(&value).expect("checked when it was set");
                let successor = format!("--feature-gates={gate}={on}");
                if gates.said(gate).is_some_and(|said| said != on) {
                    return Err(twice(&format!("--feature-gates={gate}={}", !on)));
                }
                gates.set(gate, on).expect("the table names gates that are");
                successor
            }
            _ => continue,
        };
        let message = format!("--{} is an older spelling, use {successor}", flag.name);
        settings.warnings.push(Warning::new(message, flag.name, value));
    }
    Ok(gates)
}

/// Refuses what cannot be done and warns of what has no effect. A flag set to its default asks for nothing.
fn refuse_and_warn(settings: &Settings, warnings: &mut Vec<Warning>) -> Result<(), ConfigError> {
    for flag in FLAGS.iter().filter(|flag| settings.is_set(flag.name)) {
        let value = settings.text(flag.name);
        match flag.standing {
            Standing::Refused(advice) if !is_default(flag, value) => {
                return Err(
                    ConfigError::invalid(format!("--{} cannot be set to {value:?} in urd", flag.name)).hint(advice)
                );
            }
            Standing::NoEffect(why) if flag.section == Section::Earlier || !is_default(flag, value) => {
                warnings.push(Warning::new(format!("--{} has no effect: {why}", flag.name), flag.name, value));
            }
            _ => {}
        }
    }
    let mut gates = Gates::default();
    for text in settings.all("feature-gates") {
        gates.read(text).expect("checked when it was set");
    }
    for (gate, on) in gates.changed() {
        if let Some(why) = gate.no_effect {
            let message = format!("feature gate {} has no effect: {why}", gate.name);
            warnings.push(Warning::new(message, "feature-gates", format!("{}={on}", gate.name)));
        }
    }
    Ok(())
}

fn is_default(flag: &Flag, value: &str) -> bool {
    match flag.kind {
        Kind::Bool => value::parse_bool(value) == value::parse_bool(flag.default),
        Kind::Uint | Kind::Uint32 => value::parse_uint(value) == value::parse_uint(flag.default),
        Kind::Int => value::parse_int(value) == value::parse_int(flag.default),
        Kind::Duration => value::parse_duration(value) == value::parse_duration(flag.default),
        _ => value == flag.default,
    }
}

/// A list of URLs as etcd comes to it: a later flag replaces an earlier one, the empty string changes nothing, and so
/// does naming one that is there already.
fn urls(settings: &Settings, name: &'static str) -> Result<Vec<Url>, ConfigError> {
    let flag = flags::find(name).expect("a flag of the table");
    let mut list = match flag.default {
        "" => Vec::new(),
        default => url::parse_list(default).expect("defaults are sound"),
    };
    for text in settings.all(name) {
        if !text.is_empty() && !list.iter().any(|url| url.to_string() == *text) {
            list = url::parse_list(text).map_err(ConfigError::invalid)?;
        }
    }
    Ok(list)
}

fn strings(settings: &Settings, name: &'static str) -> Vec<String> {
    let mut list: Vec<String> = settings.text(name).split(',').map(str::to_owned).collect();
    list.sort();
    list.dedup();
    list
}

fn check_timers(heartbeat_ms: u64, election_ms: u64) -> Result<(), ConfigError> {
    if heartbeat_ms == 0 {
        return invalid("--heartbeat-interval must be >0 (set to 0ms)");
    }
    if election_ms == 0 {
        return invalid("--election-timeout must be >0 (set to 0ms)");
    }
    if heartbeat_ms.saturating_mul(5) > election_ms {
        return invalid(format!(
            "--election-timeout[{election_ms}ms] should be at least as 5 times as --heartbeat-interval[{heartbeat_ms}ms]"
        ));
    }
    if election_ms > limits::ELECTION_MS_MAX {
        let most = limits::ELECTION_MS_MAX;
        return invalid(format!(
            "--election-timeout[{election_ms}ms] is too long, and should be set less than {most}ms"
        ));
    }
    Ok(())
}

/// What listeners need of certificates, and what of them goes unused (etcd: configureClientListeners).
fn check_certificates<'a>(
    tls: &Tls,
    clients: impl Iterator<Item = &'a Url>,
    metrics: &[Url],
    warnings: &mut Vec<Warning>,
) -> Result<(), ConfigError> {
    let has_pair = tls.client.has_pair() || tls.client.auto;
    for url in clients {
        if url.is_tls() && !has_pair {
            return invalid(format!(
                "TLS key/cert (--cert-file, --key-file) must be provided for client url {url} with HTTPS scheme"
            ));
        }
        let mut unused = |message: &str| warnings.push(Warning::new(message, "listen-client-urls", url.to_string()));
        if !url.is_tls() && has_pair {
            unused("scheme is http or unix while key and cert files are present; ignoring key and cert files");
        }
        if !url.is_tls() && tls.client.client_cert_auth {
            unused(
                "scheme is http or unix while --client-cert-auth is enabled; ignoring client cert auth for this URL",
            );
        }
    }
    if metrics.iter().any(Url::is_tls) && !has_pair {
        return invalid("client TLS key/cert (--cert-file, --key-file) must be provided for metrics secure url");
    }
    if tls.client.has_pair() && tls.client.auto {
        warnings.push(Warning::new("ignoring client auto TLS since certs given", "auto-tls", "true"));
    }
    Ok(())
}

/// What of the members' certificates goes unused (etcd: configurePeerListeners). An encrypted listener without any is told
/// of when it is bound.
fn warn_of_unused_peer_certificates(tls: &Tls, peers: &[Url], warnings: &mut Vec<Warning>) {
    for url in peers.iter().filter(|url| url.scheme == "http") {
        let mut unused = |message: &str| warnings.push(Warning::new(message, "listen-peer-urls", url.to_string()));
        if tls.peer.has_pair() || tls.peer.auto {
            unused("scheme is HTTP while key and cert files are present; ignoring key and cert files");
        }
        if tls.peer.client_cert_auth {
            unused("scheme is HTTP while --peer-client-cert-auth is enabled; ignoring client cert auth for this URL");
        }
    }
    if tls.peer.has_pair() && tls.peer.auto {
        warnings.push(Warning::new("ignoring peer auto TLS since certs given", "peer-auto-tls", "true"));
    }
}

/// A member that listens on every address and advertises the default `localhost` is told of by the machine's address
/// instead (etcd: UpdateDefaultClusterFromName).
fn advertise_default_host(listen: &[Url], advertise: &mut [Url], default: &str, machine: &Machine) {
    let Some((host, port)) = listen.first().map(Url::host_and_port) else { return };
    let [advertised] = advertise else { return };
    if host != "0.0.0.0" || advertised.to_string() != default {
        return;
    }
    if let Some(ip) = (machine.host)() {
        advertised.authority = std::net::SocketAddr::new(ip, port.parse().expect("checked for binding")).to_string();
    }
}

/// The founding members by name. A member that gives its name only founds a cluster of its own.
fn initial_cluster(
    settings: &Settings,
    name: &str,
    advertise_peer: &[Url],
) -> Result<Vec<(String, Vec<String>)>, ConfigError> {
    let text = cluster_text(settings);
    if name != "default" && text == CLUSTER_DEFAULT {
        let name = if name.is_empty() { "default" } else { name };
        return Ok(vec![(name.to_owned(), texts(advertise_peer))]);
    }
    bootstrap::parse_cluster(text).map_err(|cause| {
        ConfigError::invalid(format!("error setting up initial cluster: {cause}"))
            .hint("--initial-cluster is a list of name=peerURL, separated by commas")
    })
}

fn log_settings(settings: &Settings) -> Result<log::Settings, ConfigError> {
    match settings.text("logger") {
        "zap" => {}
        "capnslog" => return invalid("--logger=capnslog is removed in v3.5"),
        other => return invalid(format!("unknown logger option {other:?}")),
    }
    let outputs = strings(settings, "log-outputs");
    if outputs.len() > 1 && outputs.iter().any(|output| output == "default") {
        return invalid("multi logoutput for \"default\" is not supported yet");
    }
    let mut opened = Vec::new();
    for output in outputs {
        match output.as_str() {
            "default" | "stderr" => opened.push(log::Output::Stderr),
            "stdout" => opened.push(log::Output::Stdout),
            "systemd/journal" => {
                return Err(ConfigError::invalid("--log-outputs cannot be \"systemd/journal\" in urd")
                    .hint("leave it out: what a service writes to stderr systemd puts into the journal"));
            }
            "" => return invalid("--log-outputs names an output without a name"),
            path => opened.push(log::Output::File(path.into())),
        }
    }
    let level = log::Level::parse(settings.text("log-level")).map_err(ConfigError::invalid)?;
    let format = match settings.text("log-format") {
        "json" | "" => log::Format::Json,
        "console" => log::Format::Console,
        other => return invalid(format!("unknown log format: {other}, supported values json, console")),
    };
    let rotation = match settings.flag("enable-log-rotation") {
        true => Some(log_rotation(settings.text("log-rotation-config-json"), &opened)?),
        false => None,
    };
    Ok(log::Settings { level, format, outputs: opened, rotation })
}

/// (etcd: embed/config_logging.go, setupLogRotation.)
fn log_rotation(json: &str, outputs: &[log::Output]) -> Result<log::Rotation, ConfigError> {
    let files = outputs.iter().filter(|output| matches!(output, log::Output::File(_))).count();
    if files > 1 || (files == 0 && outputs.len() == 1) {
        return invalid("--log-outputs requires a single file path when --log-rotate-config-json is defined");
    }
    let rotation = serde_json::from_str::<log::Rotation>(json).map_err(|cause| {
        let what = match cause.is_data() {
            true => "invalid log rotation config",
            false => "improperly formatted log rotation config",
        };
        ConfigError::invalid(format!("{what}: {cause}"))
            .hint("--log-rotation-config-json takes {\"maxsize\": MB, \"maxage\": days, \"maxbackups\": files, \"localtime\": false, \"compress\": false}")
    })?;
    match rotation.is_sound() {
        true => Ok(rotation),
        false => invalid("invalid log rotation config: sizes, ages and numbers of files are not negative"),
    }
}

fn check_compaction_mode(mode: &str) -> Result<(), ConfigError> {
    match mode {
        "periodic" | "revision" => Ok(()),
        "" => invalid("undefined auto-compaction-mode"),
        _ => invalid(format!("unknown auto-compaction-mode {mode:?}")),
    }
}

/// A bare number is hours or revisions; anything else is a duration, whose nanoseconds etcd takes for revisions too where
/// the mode says so.
fn auto_compaction(settings: &Settings) -> Result<AutoCompaction, ConfigError> {
    let text = settings.text("auto-compaction-retention");
    let periodic = settings.text("auto-compaction-mode") == "periodic";
    let number = text.strip_prefix('+').unwrap_or(text);
    let number = match number.bytes().all(|byte| byte.is_ascii_digit()) {
        true => number.parse::<i64>().ok(),
        false => None,
    };
    let retention = match number {
        Some(hours) if periodic => hours.checked_mul(3_600_000_000_000).ok_or_else(|| {
            ConfigError::invalid(format!("--auto-compaction-retention[{text}] is more hours than can be counted"))
        })?,
        Some(revisions) => revisions,
        None if text.is_empty() => 0,
        None => value::parse_duration(text)
            .map_err(|cause| ConfigError::invalid(format!("error parsing CompactionRetention: {cause}")))?,
    };
    match retention {
        ..0 => invalid(format!("--auto-compaction-retention[{text}] must not be negative")),
        0 => Ok(AutoCompaction::Off),
        _ if periodic => Ok(AutoCompaction::Periodic { retention_ms: milliseconds(retention) }),
        retention => Ok(AutoCompaction::Revision { retention }),
    }
}

fn max_request_bytes(settings: &Settings, warnings: &mut Vec<Warning>) -> Result<usize, ConfigError> {
    let bytes = settings.uint("max-request-bytes");
    let most = limits::REQUEST_BYTES_MAX;
    match usize::try_from(bytes) {
        Ok(bytes) if bytes <= most => {
            if bytes > limits::REQUEST_BYTES_ADVISED {
                let message = "exceeded recommended request limit";
                warnings.push(Warning::new(message, "max-request-bytes", bytes.to_string()));
            }
            Ok(bytes)
        }
        _ => invalid(format!("--max-request-bytes[{bytes}] is more than a gRPC message can hold, at most {most}")),
    }
}

fn watch_progress_interval(settings: &Settings, warnings: &mut Vec<Warning>) -> u64 {
    let least = limits::WATCH_PROGRESS_INTERVAL_MS_MIN;
    match settings.duration("watch-progress-notify-interval") {
        ..=0 => 600_000,
        duration if milliseconds(duration) < least => {
            let message = "adjusting watch progress notify interval to minimum period";
            let set = value::format_duration(duration);
            warnings.push(Warning::new(message, "watch-progress-notify-interval", set));
            least
        }
        duration => milliseconds(duration),
    }
}

/// Where the seconds are none, or more than Go's durations hold, etcd takes its default.
fn auth_token_ttl_ms(seconds: u64) -> u64 {
    match seconds.checked_mul(1_000_000_000).and_then(|nanoseconds| i64::try_from(nanoseconds).ok()) {
        Some(1..) => seconds * 1000,
        _ => 300_000,
    }
}

fn bcrypt_cost(settings: &Settings, warnings: &mut Vec<Warning>) -> u32 {
    let set = settings.uint("bcrypt-cost");
    match u32::try_from(set) {
        Ok(cost @ password::COST_MIN..=password::COST_MAX) => cost,
        _ => {
            let message = "use default bcrypt cost instead of the invalid given cost";
            warnings.push(Warning::new(message, "bcrypt-cost", set.to_string()));
            password::COST_DEFAULT
        }
    }
}

/// Checked only where it is asked for, as by etcd. (etcd: embed/config_tracing.go, validateTracingConfig.)
fn tracing(settings: &Settings) -> Result<Option<trace::Settings>, ConfigError> {
    if !settings.flag("enable-distributed-tracing") {
        return Ok(None);
    }
    let refused = |why: &str| ConfigError::invalid(format!("distributed tracing configurition is not valid: ({why})"));
    let sampled_per_million = match settings.int("distributed-tracing-sampling-rate") {
        ..0 => return Err(refused("tracing sampling rate must be positive")),
        rate @ 0..=1_000_000 => rate as u32,
        _ => return Err(refused("tracing sampling rate must be less than 1000000")),
    };
    Ok(Some(trace::Settings {
        address: settings.text("distributed-tracing-address").to_owned(),
        service_name: settings.text("distributed-tracing-service-name").to_owned(),
        instance_id: settings.text("distributed-tracing-instance-id").to_owned(),
        sampled_per_million,
    }))
}

/// One core is left to the raft core where there is more than one.
fn shards(settings: &Settings, machine: &Machine) -> Result<usize, ConfigError> {
    if !settings.is_set("shards") {
        return Ok(machine.cpus.saturating_sub(1).max(1));
    }
    let shards = settings.uint("shards");
    if shards == 0 || shards > machine.cpus as u64 {
        return Err(ConfigError::invalid(format!(
            "--shards[{shards}] must be at least 1 and at most the {} CPUs that the process may use",
            machine.cpus
        ))
        .hint("each shard has a core of its own; leave --shards out to have the number chosen"));
    }
    Ok(shards as usize)
}
