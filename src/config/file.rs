//! `--config-file`: settings from a file in place of flags and variables, in YAML or JSON, under the keys of etcd's. What it
//! says becomes the same settings that flags make, so that what they mean together is decided in one place (`build`).
//! (etcd: embed.ConfigFromFile and the structs it reads into.)

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};

use super::{
    ConfigError, Warning,
    flags::{self, FLAGS, Flag, Kind, Standing},
    parse::Settings,
    value,
};
use crate::error::cannot_open;

/// Flags that are keys of the file, too; of what is not here etcd's file knows nothing.
const KEYS: &[&str] = &[
    "name",
    "data-dir",
    "wal-dir",
    "shards",
    "snapshot-count",
    "snapshot-catchup-entries",
    "max-snapshots",
    "max-wals",
    "heartbeat-interval",
    "election-timeout",
    "initial-election-tick-advance",
    "backend-batch-interval",
    "backend-batch-limit",
    "backend-bbolt-freelist-type",
    "quota-backend-bytes",
    "max-txn-ops",
    "max-request-bytes",
    "max-concurrent-streams",
    "self-signed-cert-validity",
    "cipher-suites",
    "tls-min-version",
    "tls-max-version",
    "initial-cluster-state",
    "discovery-srv",
    "discovery-srv-name",
    "initial-cluster",
    "initial-cluster-token",
    "strict-reconfig-check",
    "auto-compaction-mode",
    "auto-compaction-retention",
    "grpc-keepalive-min-time",
    "grpc-keepalive-interval",
    "grpc-keepalive-timeout",
    "pre-vote",
    "auth-token",
    "bcrypt-cost",
    "auth-token-ttl",
    "corrupt-check-time",
    "compact-hash-check-time",
    "scrub-interval",
    "compaction-batch-limit",
    "compaction-sleep-interval",
    "watch-progress-notify-interval",
    "warning-apply-duration",
    "bootstrap-defrag-threshold-megabytes",
    "warning-unary-request-duration",
    "max-learners",
    "max-cluster-version",
    "force-new-cluster",
    "enable-pprof",
    "metrics",
    "listen-metrics-urls",
    "enable-distributed-tracing",
    "distributed-tracing-address",
    "distributed-tracing-service-name",
    "distributed-tracing-instance-id",
    "distributed-tracing-sampling-rate",
    "logger",
    "log-level",
    "log-format",
    "log-outputs",
    "enable-log-rotation",
    "log-rotation-config-json",
    "enable-grpc-gateway",
    "unsafe-no-fsync",
    "downgrade-check-time",
    "memory-mlock",
    "v2-deprecation",
    "listen-peer-urls",
    "listen-client-urls",
    "listen-client-http-urls",
    "initial-advertise-peer-urls",
    "advertise-client-urls",
    "cors",
    "host-whitelist",
    "feature-gates",
];

/// Keys whose values are lists; every other one is single.
const LISTS: &[&str] = &["cipher-suites", "log-outputs"];

/// A key within a section, and the flag that says the same.
struct Inner {
    key: &'static str,
    flag: &'static str,
    is_list: bool,
}

const fn single(key: &'static str, flag: &'static str) -> Inner {
    Inner { key, flag, is_list: false }
}

const fn list(key: &'static str, flag: &'static str) -> Inner {
    Inner { key, flag, is_list: true }
}

const CLIENT_SECURITY: &[Inner] = &[
    single("cert-file", "cert-file"),
    single("key-file", "key-file"),
    single("client-cert-file", "client-cert-file"),
    single("client-key-file", "client-key-file"),
    single("client-cert-auth", "client-cert-auth"),
    single("trusted-ca-file", "trusted-ca-file"),
    single("auto-tls", "auto-tls"),
    list("allowed-hostname", "client-cert-allowed-hostname"),
];

const PEER_SECURITY: &[Inner] = &[
    single("cert-file", "peer-cert-file"),
    single("key-file", "peer-key-file"),
    single("client-cert-file", "peer-client-cert-file"),
    single("client-key-file", "peer-client-key-file"),
    single("client-cert-auth", "peer-client-cert-auth"),
    single("trusted-ca-file", "peer-trusted-ca-file"),
    single("auto-tls", "peer-auto-tls"),
    list("allowed-cn", "peer-cert-allowed-cn"),
    list("allowed-hostname", "peer-cert-allowed-hostname"),
    single("skip-client-san-verification", "peer-skip-client-san-verification"),
];

const SOCKET_OPTIONS: &[Inner] =
    &[single("reuse-port", "socket-reuse-port"), single("reuse-address", "socket-reuse-address")];

/// Of `discovery-config` itself, of `client` in it, and of the two in that.
const DISCOVERY: &[Inner] = &[single("token", "discovery-token")];
const DISCOVERY_CLIENT: &[Inner] = &[
    list("endpoints", "discovery-endpoints"),
    single("request-timeout", "discovery-request-timeout"),
    single("dial-timeout", "discovery-dial-timeout"),
    single("keepalive-time", "discovery-keepalive-time"),
    single("keepalive-timeout", "discovery-keepalive-timeout"),
];
const DISCOVERY_SECURE: &[Inner] = &[
    single("cert", "discovery-cert"),
    single("key", "discovery-key"),
    single("cacert", "discovery-cacert"),
    single("insecure-transport", "discovery-insecure-transport"),
    single("insecure-skip-tls-verify", "discovery-insecure-skip-tls-verify"),
];
const DISCOVERY_AUTH: &[Inner] = &[single("username", "discovery-user"), single("password", "discovery-password")];

/// A section: where it lies, from the top down, and what is in it.
const SECTIONS: &[(&[&str], &[Inner])] = &[
    (&["client-transport-security"], CLIENT_SECURITY),
    (&["peer-transport-security"], PEER_SECURITY),
    (&["socket-options"], SOCKET_OPTIONS),
    (&["discovery-config"], DISCOVERY),
    (&["discovery-config", "client"], DISCOVERY_CLIENT),
    (&["discovery-config", "client", "secure"], DISCOVERY_SECURE),
    (&["discovery-config", "client", "auth"], DISCOVERY_AUTH),
];

/// Reads the settings of a file.
///
/// # Errors
/// A file that cannot be read, is neither YAML nor JSON, or gives a key a value that it cannot have.
pub(super) fn read(path: &str) -> Result<Settings, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(cannot_open(path.as_ref())).map_err(|why| {
        ConfigError::invalid(why)
            .hint("name a file that this process may read, or leave it out and give the settings as flags")
    })?;
    settings_of(&text).map_err(|cause| ConfigError::invalid(format!("{path}: {cause}")))
}

fn settings_of(text: &str) -> Result<Settings, String> {
    let options = serde_saphyr::options! { duplicate_keys: serde_saphyr::DuplicateKeyPolicy::LastWins };
    // JSON first: not all of it is YAML, tabs for one.
    let value = match serde_json::from_str(text) {
        Ok(value) => value,
        Err(_) if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) => Value::Null,
        Err(_) => serde_saphyr::from_str_with_options(text, options)
            .map_err(|cause| format!("error converting YAML to JSON: {cause}"))?,
    };
    let mut settings = Settings::from_file();
    let top = match value {
        Value::Null => return Ok(settings),
        Value::Map(pairs) => pairs,
        other => return Err(format!("settings stand under their names, and this is {}", other.name())),
    };
    for (key, value) in &top {
        if let Some(flag) = flag_of(key) {
            put(&mut settings, flag, key, value, LISTS.contains(&flag.name))?;
        } else if !SECTIONS.iter().any(|(place, _)| same(place[0], key)) {
            settings.warnings.push(Warning::new("unknown key in the configuration file", key, value.to_string()));
        }
    }
    for (place, inner) in SECTIONS {
        read_section(&mut settings, &top, place, inner)?;
    }
    Ok(settings)
}

/// The flag that a key of the top stands for; those of earlier releases that were renamed are taken too.
fn flag_of(key: &str) -> Option<&'static Flag> {
    let flag = FLAGS.iter().find(|flag| same(flag.name, key))?;
    let renamed = matches!(flag.standing, Standing::OldNameOf(_) | Standing::OldGate(_));
    (renamed || KEYS.contains(&flag.name)).then_some(flag)
}

/// Go's JSON takes keys in any case.
fn same(name: &str, key: &str) -> bool {
    name.eq_ignore_ascii_case(key)
}

fn read_section(
    settings: &mut Settings,
    top: &[(String, Value)],
    place: &[&str],
    inner: &[Inner],
) -> Result<(), String> {
    let mut pairs = top;
    for name in place {
        match pairs.iter().find(|(key, _)| same(name, key)) {
            None | Some((_, Value::Null)) => return Ok(()),
            Some((_, Value::Map(inside))) => pairs = inside,
            Some(_) => return Err(format!("invalid {}", place.join("."))),
        }
    }
    for (key, value) in pairs {
        let full = format!("{}.{key}", place.join("."));
        if let Some(known) = inner.iter().find(|known| same(known.key, key)) {
            let flag = flags::find(known.flag).expect("sections name flags of the table");
            put(settings, flag, &full, value, known.is_list)?;
            continue;
        }
        let is_section = SECTIONS.iter().any(|(other, _)| other.len() > place.len() && same(other[place.len()], key));
        let is_default = matches!(value, Value::Null | Value::Bool(false)) || value.text().is_some_and(str::is_empty);
        if place == ["client-transport-security"] && same("allowed-cn", key) && !value.is_empty() {
            return Err(format!("{full}: client certificates are not told apart by their common name in urd"));
        }
        if !is_section && !is_default && !value.is_empty() {
            settings.warnings.push(Warning::new("unknown key in the configuration file", full, value.to_string()));
        }
    }
    Ok(())
}

fn put(settings: &mut Settings, flag: &'static Flag, key: &str, value: &Value, is_list: bool) -> Result<(), String> {
    let text = match is_list {
        true => list_text(value),
        false => single_text(flag.kind, value),
    };
    let text = text.map_err(|wanted| format!("{key} must be {wanted}, not {}", value.name()))?;
    let Some(text) = text else { return Ok(()) };
    if text.is_empty() && (flag.name == "host-whitelist" || keeps_default(flag.kind)) {
        return Ok(());
    }
    if matches!(flag.kind, Kind::Choices(_)) {
        // Of the file etcd takes anything there, and makes nothing of it.
        settings.warnings.push(Warning::new(format!("{key} has no effect"), key, text));
        return Ok(());
    }
    // A certificate that is valid for no time is one for a year.
    let text = if flag.name == "self-signed-cert-validity" && text == "0" { "1".to_owned() } else { text };
    settings.put(flag, text.clone()).map_err(|cause| match flag.kind {
        Kind::Urls => format!("unexpected error setting up {key}: {cause}"),
        Kind::Gates => cause,
        Kind::Choice(_) if flag.name == "initial-cluster-state" => format!("unexpected clusterState {text:?}"),
        _ => format!("invalid value {text:?} for {key}: {cause}"),
    })
}

/// Whether an empty text leaves the default as it is; for others it is a text like any.
fn keeps_default(kind: Kind) -> bool {
    matches!(kind, Kind::Urls | Kind::Origins | Kind::Gates | Kind::Choice(_))
}

/// A value as its flag would be given; None: nothing is set. The error is what it should have been.
fn single_text(kind: Kind, value: &Value) -> Result<Option<String>, &'static str> {
    Ok(Some(match (kind, value) {
        (_, Value::Null) => return Ok(None),
        (Kind::Bool, Value::Bool(on)) => on.to_string(),
        (Kind::Bool, _) => return Err("true or false"),
        (Kind::Uint | Kind::Uint32 | Kind::Int, Value::Whole(number)) => number.to_string(),
        (Kind::Uint | Kind::Uint32 | Kind::Int, _) => return Err("a whole number"),
        (Kind::Duration, Value::Whole(nanoseconds)) => match i64::try_from(*nanoseconds) {
            Ok(nanoseconds) => value::format_duration(nanoseconds),
            Err(_) => return Err("a number of nanoseconds"),
        },
        (Kind::Duration, _) => return Err("a number of nanoseconds"),
        (_, Value::Text(text)) => text.clone(),
        // What looks like something else has to be quoted, as for etcd.
        _ => return Err("text"),
    }))
}

fn list_text(value: &Value) -> Result<Option<String>, &'static str> {
    let parts = match value {
        Value::Null => return Ok(None),
        Value::List(parts) => parts,
        _ => return Err("a list"),
    };
    let texts: Option<Vec<String>> =
        parts.iter().map(|part| single_text(Kind::Text, part).ok().map(Option::unwrap_or_default)).collect();
    let texts = texts.ok_or("a list of texts")?;
    Ok((!texts.is_empty()).then(|| texts.join(",")))
}

/// What a file says somewhere.
#[derive(Clone, Debug, PartialEq)]
enum Value {
    Null,
    Bool(bool),
    Whole(i128),
    Fraction(f64),
    Text(String),
    List(Vec<Value>),
    /// In order; of a key that is there twice, the last counts.
    Map(Vec<(String, Value)>),
}

impl Value {
    /// What it is, for who wanted something else.
    fn name(&self) -> &'static str {
        match self {
            Value::Null => "nothing",
            Value::Bool(_) => "true or false",
            Value::Whole(_) | Value::Fraction(_) => "a number",
            Value::Text(_) => "text",
            Value::List(_) => "a list",
            Value::Map(_) => "a section",
        }
    }

    fn text(&self) -> Option<&str> {
        match self {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    fn is_empty(&self) -> bool {
        matches!(self, Value::Null) || matches!(self, Value::List(parts) if parts.is_empty())
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Null => Ok(()),
            Value::Bool(on) => on.fmt(f),
            Value::Whole(number) => number.fmt(f),
            Value::Fraction(number) => number.fmt(f),
            Value::Text(text) => text.fmt(f),
            Value::List(_) | Value::Map(_) => f.write_str(self.name()),
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Reader)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a setting")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        Value::deserialize(from)
    }

    fn visit_bool<E>(self, on: bool) -> Result<Value, E> {
        Ok(Value::Bool(on))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(Value::Whole(number.into()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(Value::Whole(number.into()))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
        Ok(Value::Fraction(number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Value, E> {
        Ok(Value::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut parts = Vec::new();
        while let Some(part) = seq.next_element()? {
            parts.push(part);
        }
        Ok(Value::List(parts))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut pairs: Vec<(String, Value)> = Vec::new();
        while let Some((key, value)) = map.next_entry::<Value, Value>()? {
            let key = key.to_string();
            match pairs.iter_mut().find(|(known, _)| *known == key) {
                Some((_, known)) => *known = value,
                None => pairs.push((key, value)),
            }
        }
        Ok(Value::Map(pairs))
    }
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
