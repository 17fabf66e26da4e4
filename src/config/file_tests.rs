use std::{ffi::OsString, io::Write as _};

use proptest::prelude::*;

use super::*;
use crate::config::{AutoCompaction, Config, Parsed, discovery::Discovery};

fn write(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn parse(words: &[&str], variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let variables = variables.iter().map(|(name, value)| (name.to_string(), value.to_string()));
    match Config::from_args(words.iter().map(OsString::from), variables) {
        Ok(Parsed::Run(config)) => Ok(*config),
        Ok(other) => panic!("{other:?}"),
        Err(error) => Err(error),
    }
}

fn config(text: &str) -> Result<Config, ConfigError> {
    let file = write(text);
    parse(&["--config-file", file.path().to_str().unwrap()], &[])
}

fn refused(text: &str) -> String {
    let error = config(text).expect_err(text);
    assert_eq!(error.exit_code(), 1, "{text}");
    let (_, message) = error.message.split_once(": ").expect("the file is named first");
    message.to_owned()
}

/// In the shape of the sample that comes with etcd, with everything in it that means something here.
const SAMPLE: &str = r#"
# This is the configuration file for the etcd server.
name: 'n1'
data-dir: /var/lib/urd
wal-dir:
snapshot-count: 10000
heartbeat-interval: 50
election-timeout: 500
quota-backend-bytes: 0
listen-peer-urls: http://localhost:12380
listen-client-urls: http://localhost:2379,http://127.0.0.1:4001
max-snapshots: 5
max-wals: 5
cors:
initial-advertise-peer-urls: http://localhost:12380
advertise-client-urls: http://localhost:2379
discovery:
discovery-fallback: 'proxy'
discovery-proxy:
discovery-srv:
initial-cluster: n1=http://localhost:12380
initial-cluster-token: 'token'
initial-cluster-state: 'new'
strict-reconfig-check: false
enable-pprof: yes
proxy: 'off'
proxy-failure-wait: 5000
client-transport-security:
  cert-file:
  key-file:
  client-cert-auth: false
  trusted-ca-file:
  auto-tls: false
peer-transport-security:
  cert-file:
  key-file:
  client-cert-auth: no
  trusted-ca-file:
  auto-tls: false
  allowed-cn: []
  allowed-hostname:
self-signed-cert-validity: 1
log-level: debug
logger: zap
log-outputs: [stderr]
force-new-cluster: false
auto-compaction-mode: periodic
auto-compaction-retention: "1"
warning-apply-duration: 250000000
socket-options:
  reuse-port: true
feature-gates: CompactHashCheck=true
shards: 1
"#;

#[test]
fn a_file_says_what_flags_say() {
    let read = config(SAMPLE).unwrap();
    assert_eq!((read.name.as_str(), read.data_dir.to_str()), ("n1", Some("/var/lib/urd")));
    assert_eq!((read.heartbeat_ms, read.election_ms, read.warning_apply_ms), (50, 500, 250));
    assert_eq!(read.listen_client_urls, ["http://127.0.0.1:4001", "http://localhost:2379"]);
    assert_eq!(read.initial_cluster, [("n1".into(), vec!["http://localhost:12380".into()])]);
    assert_eq!(read.auto_compaction, AutoCompaction::Periodic { retention_ms: 3_600_000 });
    assert!(!read.strict_reconfig_check && read.socket_reuse_port && read.gates.is_on("CompactHashCheck"));
    assert_eq!(read.log.level, crate::observe::log::Level::Debug);
    assert!(read.verify_bootstrap().is_ok());
    let about: Vec<&str> = read.warnings.iter().map(|warning| warning.about.as_str()).collect();
    for unknown in ["discovery-fallback", "proxy", "enable-pprof", "feature-gates"] {
        assert!(about.contains(&unknown), "{about:?}");
    }
    let json = r#"{
	"name": "n1", "max-txn-ops": 7, "log-outputs": ["stdout", "stderr"],
	"peer-transport-security": {"client-cert-auth": false}, "name": "n2"
}"#;
    let read = config(json).unwrap();
    assert_eq!((read.name.as_str(), read.max_txn_ops, read.log.outputs.len()), ("n2", 7, 2));
}

#[test]
fn where_there_is_a_file_nothing_else_counts() {
    let file = write("name: of-file\n");
    let path = file.path().to_str().unwrap();
    let read = parse(&["--config-file", path, "--name=of-flag"], &[("ETCD_NAME", "of-variable")]).unwrap();
    assert_eq!((read.name.as_str(), read.config_file.as_deref()), ("of-file", Some(path)));
    let read = parse(&["--name=of-flag"], &[("ETCD_CONFIG_FILE", path)]).unwrap();
    assert_eq!(read.name, "of-file");
    assert!(parse(&["--config-file", path, "--nope"], &[]).unwrap_err().is_usage);
    assert_eq!(parse(&["--name=n"], &[("ETCD_CONFIG_FILE", "")]).unwrap().config_file, None);
    let error = parse(&["--config-file=/nowhere/at/all"], &[]).unwrap_err();
    assert!(error.message.contains("/nowhere/at/all") && error.hint.is_some(), "{error:?}");
    // Nor are the client URLs that are advertised demanded of a file.
    assert!(config("listen-client-urls: http://127.0.0.1:1").is_ok());
}

#[test]
fn an_empty_file_leaves_the_defaults() {
    for text in ["", "# nothing\n\n", "{}", "null", "---\n"] {
        assert_eq!(config(text).unwrap_or_else(|error| panic!("{text:?}: {error}")).name, "default");
    }
}

#[test]
fn values_that_do_not_fit_are_refused_by_name() {
    for (text, message) in [
        ("snapshot-count: '10'", "snapshot-count must be a whole number, not text"),
        ("snapshot-count: 1.5", "snapshot-count must be a whole number, not a number"),
        ("warning-apply-duration: 100ms", "warning-apply-duration must be a number of nanoseconds, not text"),
        ("pre-vote: 1", "pre-vote must be true or false, not a number"),
        ("name: [a]", "name must be text, not a list"),
        ("name: no", "name must be text, not true or false"),
        ("auto-compaction-retention: 1", "auto-compaction-retention must be text, not a number"),
        ("pre-vote: 'yes'", "pre-vote must be true or false, not text"),
        ("log-outputs: stderr", "log-outputs must be a list, not text"),
        ("log-outputs: [[a]]", "log-outputs must be a list of texts, not a list"),
        ("peer-transport-security: 5", "invalid peer-transport-security"),
        ("discovery-config: {client: x}", "invalid discovery-config.client"),
        ("snapshot-count: -1", "invalid value \"-1\" for snapshot-count: parse error"),
        ("initial-cluster-state: other", "unexpected clusterState \"other\""),
        ("feature-gates: Nope=true", "unrecognized feature gate: Nope"),
        ("[a, b]", "settings stand under their names, and this is a list"),
        (
            "listen-client-urls: foo",
            "unexpected error setting up listen-client-urls: URL scheme must be http, https, unix, or unixs: foo",
        ),
        (
            "client-transport-security: {allowed-cn: [a]}",
            "client-transport-security.allowed-cn: client certificates are not told apart by their common name in urd",
        ),
    ] {
        assert_eq!(refused(text), message, "{text}");
    }
    assert!(refused("a: b: c").starts_with("error converting YAML to JSON: "));
}

#[test]
fn an_empty_text_is_a_value_where_etcd_takes_it_for_one() {
    let read =
        config("name: n1\ninitial-cluster-token: ''\ncors: ''\nhost-whitelist: ''\nlisten-metrics-urls: ''").unwrap();
    assert_eq!(
        (&*read.initial_cluster_token, &read.cors[..], &read.host_whitelist[..]),
        ("", &["*".into()][..], &["*".into()][..])
    );
    assert_eq!(config("initial-cluster-token:").unwrap().initial_cluster_token, "etcd-cluster");
    assert_eq!(config("auto-compaction-mode: ''").unwrap_err().message, "undefined auto-compaction-mode");
    // Of these etcd makes something, or nothing, whatever they say.
    let read = config("self-signed-cert-validity: 0\nv2-deprecation: other").unwrap();
    assert_eq!(read.tls.self_signed_years, 1);
    assert!(read.warnings.iter().any(|warning| warning.about == "v2-deprecation"));
}

#[test]
fn sections_are_checked_as_flags_are() {
    let error = config("discovery-config: {token: t}").unwrap_err();
    assert_eq!(error.message, "both --discovery-token and --discovery-endpoints must be set");
    let error = config("discovery-srv: d\ndiscovery-config: {token: t, client: {endpoints: [a]}}").unwrap_err();
    assert!(error.message.starts_with("multiple discovery or bootstrap flags are set"), "{error:?}");
    // Endpoints stay in the order that the file has them in.
    let text = "discovery-config: {token: t, client: {endpoints: [\"http://b:1\", a], auth: {username: u, password: p}, \
                secure: {insecure-transport: false}, request-timeout: 1000000}}";
    let Some(Discovery::Service(service)) = config(text).unwrap().discovery else { panic!("there is a service") };
    assert_eq!(service.endpoints, ["http://b:1", "a"]);
    assert_eq!((service.user.as_str(), service.password.as_str(), service.insecure_transport), ("u", "p", false));
    assert_eq!(service.request_timeout, std::time::Duration::from_millis(1));
    let read = config("Peer-Transport-Security: {nonsense: 5}\nNAME: other").unwrap();
    assert_eq!(read.name, "other");
    assert_eq!(read.warnings[0].about, "peer-transport-security.nonsense");
}

#[test]
fn every_key_is_a_flag() {
    for key in KEYS.iter().chain(LISTS) {
        assert!(flags::find(key).is_some(), "{key}");
    }
    for inner in SECTIONS.iter().flat_map(|(_, inner)| *inner) {
        assert!(flags::find(inner.flag).is_some(), "{}", inner.flag);
    }
}

proptest! {
    #[test]
    fn nothing_makes_it_panic(text in "\\PC{0,60}", lines in prop::collection::vec("[a-z-]{1,12}: [\\[\\]{}a-z0-9'\",: -]{0,20}\n", 0..5)) {
        let _ = settings_of(&text);
        let _ = settings_of(&lines.concat());
    }
}
