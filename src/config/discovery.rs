//! Where a member without data is to learn who founds its cluster with it, if `--initial-cluster` does not say so: DNS, or a
//! cluster that serves as a meeting place. What the flags say alone; `crate::discovery` asks. (etcd: embed.Config.Validate;
//! etcdmain.config.configFromCmdLine.)

use std::{path::PathBuf, time::Duration};

use super::{ConfigError, parse::Settings};

pub(super) const CLUSTER_DEFAULT: &str = "default=http://localhost:2380";

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Discovery {
    Dns(Dns),
    Service(Service),
}

/// `--discovery-srv`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dns {
    pub domain: String,
    /// What is put behind the names of services; empty: nothing.
    pub service_suffix: String,
}

/// `--discovery-endpoints` and what goes with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    pub token: String,
    pub endpoints: Vec<String>,
    /// How long it may take to be let in as a user; None: any time.
    pub dial_timeout: Option<Duration>,
    pub request_timeout: Duration,
    /// The silence after which the other side is asked whether it is there; None: it is not.
    pub keepalive_time: Option<Duration>,
    pub keepalive_timeout: Duration,
    pub insecure_transport: bool,
    pub insecure_skip_verify: bool,
    /// Empty paths: none.
    pub cert: PathBuf,
    pub key: PathBuf,
    pub trusted_ca: PathBuf,
    pub user: String,
    pub password: String,
}

/// Refuses what of discovery does not fit together.
pub(super) fn check(settings: &Settings) -> Result<(), ConfigError> {
    let endpoints = settings.all("discovery-endpoints").last();
    let ways = [!cluster_text(settings).is_empty(), !settings.text("discovery-srv").is_empty(), endpoints.is_some()];
    if ways.into_iter().filter(|way| *way).count() > 1 {
        return Err(ConfigError::invalid(
            "multiple discovery or bootstrap flags are set. Choose one of \"initial-cluster\", \
             \"discovery-endpoints\" or \"discovery-srv\"",
        ));
    }
    if endpoints.is_some() == settings.text("discovery-token").is_empty() {
        return Err(ConfigError::invalid("both --discovery-token and --discovery-endpoints must be set"));
    }
    if endpoints.is_some_and(|list| list.split(',').any(|endpoint| endpoint.trim().is_empty())) {
        return Err(ConfigError::invalid("--discovery-endpoints must not contain empty endpoints"));
    }
    Ok(())
}

/// `--initial-cluster`, which is empty where the members are to be discovered.
pub(super) fn cluster_text(settings: &Settings) -> &str {
    let is_told = match settings.from_file {
        true => settings.text("initial-cluster") != CLUSTER_DEFAULT,
        false => settings.is_set("initial-cluster"),
    };
    let is_discovered = !settings.text("discovery-srv").is_empty()
        || settings.is_set("discovery-endpoints")
        || (!settings.from_file && !settings.text("discovery-srv-name").is_empty());
    if is_discovered && !is_told { "" } else { settings.text("initial-cluster") }
}

/// Of settings that `check` has let pass.
pub(super) fn read(settings: &Settings) -> Option<Discovery> {
    if let Some(list) = settings.all("discovery-endpoints").last() {
        return Some(Discovery::Service(service(settings, list)));
    }
    match settings.text("discovery-srv") {
        "" => None,
        domain => Some(Discovery::Dns(Dns {
            domain: domain.to_owned(),
            service_suffix: settings.text("discovery-srv-name").to_owned(),
        })),
    }
}

fn service(settings: &Settings, list: &str) -> Service {
    let mut endpoints: Vec<String> = list.split(',').map(str::to_owned).collect();
    // Of a file they stay as they stand there.
    if !settings.from_file {
        endpoints.sort();
        endpoints.dedup();
    }
    let duration = |name| Duration::from_nanos(u64::try_from(settings.duration(name)).unwrap_or(0));
    let text = |name| settings.text(name).to_owned();
    Service {
        token: text("discovery-token"),
        endpoints,
        dial_timeout: Some(duration("discovery-dial-timeout")).filter(|limit| !limit.is_zero()),
        request_timeout: duration("discovery-request-timeout"),
        keepalive_time: Some(duration("discovery-keepalive-time")).filter(|silence| !silence.is_zero()),
        keepalive_timeout: duration("discovery-keepalive-timeout"),
        insecure_transport: settings.flag("discovery-insecure-transport"),
        insecure_skip_verify: settings.flag("discovery-insecure-skip-tls-verify"),
        cert: text("discovery-cert").into(),
        key: text("discovery-key").into(),
        trusted_ca: text("discovery-cacert").into(),
        user: text("discovery-user"),
        password: text("discovery-password"),
    }
}
