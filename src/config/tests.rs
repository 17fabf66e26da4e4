//! What the reference 3.7.3 server said to the same words is what is wanted here, except where urd differs on purpose.

use proptest::prelude::*;

use super::*;

fn parse(words: &[&str], variables: &[(&str, &str)]) -> Result<Parsed, ConfigError> {
    let variables = variables.iter().map(|(name, value)| (name.to_string(), value.to_string()));
    Config::from_args(words.iter().map(OsString::from), variables)
}

fn run(words: &[&str]) -> Config {
    match parse(words, &[]) {
        Ok(Parsed::Run(config)) => *config,
        other => panic!("{words:?}: {other:?}"),
    }
}

fn refused(words: &[&str]) -> ConfigError {
    match parse(words, &[]) {
        Err(error) => error,
        other => panic!("{words:?}: {other:?}"),
    }
}

#[test]
fn without_words_the_defaults_hold() {
    let config = run(&[]);
    let default = Config { shards: config.shards, warnings: config.warnings.clone(), ..Config::default() };
    assert_eq!(format!("{config:?}"), format!("{default:?}"));
    assert_eq!(config.warnings.len(), 1);
    assert!(config.verify_bootstrap().is_ok());
}

#[test]
fn words_that_cannot_be_read_are_refused_in_gos_words() {
    for (words, message) in [
        (&["--nope"][..], "flag provided but not defined: -nope"),
        (&["--nope=3", "--data-dir"], "flag provided but not defined: -nope"),
        (&["--pre-vote=maybe"], "invalid boolean value \"maybe\" for -pre-vote: parse error"),
        (&["--snapshot-count", "x"], "invalid value \"x\" for flag -snapshot-count: parse error"),
        (&["--snapshot-count", "-1"], "invalid value \"-1\" for flag -snapshot-count: parse error"),
        (
            &["--snapshot-count", "99999999999999999999999"],
            "invalid value \"99999999999999999999999\" for flag -snapshot-count: value out of range",
        ),
        (&["--grpc-keepalive-min-time", "5"], "invalid value \"5\" for flag -grpc-keepalive-min-time: parse error"),
        (
            &["--listen-client-urls", "foo"],
            "invalid value \"foo\" for flag -listen-client-urls: URL scheme must be http, https, unix, or unixs: foo",
        ),
        (&["--initial-cluster-state", "bad"], "invalid value \"bad\" for flag -initial-cluster-state: invalid value"),
        (
            &["--max-concurrent-streams", "-2"],
            "invalid value \"-2\" for flag -max-concurrent-streams: strconv.ParseUint: parsing \"-2\": invalid syntax",
        ),
        (&["--quota-backend-bytes", "1e3"], "invalid value \"1e3\" for flag -quota-backend-bytes: parse error"),
        (&["--feature-gates", "X"], "invalid value \"X\" for flag -feature-gates: missing bool value for X"),
        (&["---x"], "bad flag syntax: ---x"),
        (&["--=x"], "bad flag syntax: --=x"),
        (&["--name"], "flag needs an argument: -name"),
        (&["--max-wals="], "invalid value \"\" for flag -max-wals: parse error"),
    ] {
        let error = refused(words);
        assert_eq!((error.message.as_str(), error.exit_code()), (message, 2), "{words:?}");
    }
}

#[test]
fn what_does_not_fit_is_refused_in_etcds_words() {
    for (words, message) in [
        (&["foo"][..], "\"foo\" is not a valid flag"),
        (&["--pre-vote", "false"], "\"false\" is not a valid flag"),
        (&["-"], "\"-\" is not a valid flag"),
        (&["--", "foo"], "\"foo\" is not a valid flag"),
        (
            &["--heartbeat-interval", "0x10", "--election-timeout", "1"],
            "--election-timeout[1ms] should be at least as 5 times as --heartbeat-interval[16ms]",
        ),
        (&["--heartbeat-interval", "0", "--election-timeout", "0"], "--heartbeat-interval must be >0 (set to 0ms)"),
        (&["--election-timeout", "0"], "--election-timeout must be >0 (set to 0ms)"),
        (
            &["--election-timeout", "50001"],
            "--election-timeout[50001ms] is too long, and should be set less than 50000ms",
        ),
        (&["--listen-client-urls", "http://foo.bar:23"], "expected IP in URL for binding (http://foo.bar:23)"),
        (
            &["--listen-client-urls", "http://127.0.0.1:2379"],
            "--advertise-client-urls is required when --listen-client-urls is set explicitly",
        ),
        (
            &["--initial-advertise-peer-urls", "http://:2380"],
            "--initial-advertise-peer-urls \"http://:2380\" must be \"host:port\" (unexpected empty host (http://:2380))",
        ),
        (
            &["--advertise-client-urls", "http://:2380"],
            "--advertise-client-urls \"http://:2380\" must be in the format \"host:port\", \"unix:/path/to/socket\" or \
             \"unixs:/path/to/socket\" (unexpected empty host (http://:2380))",
        ),
        (&["--auto-compaction-mode", "x"], "unknown auto-compaction-mode \"x\""),
        (&["--auto-compaction-mode", ""], "undefined auto-compaction-mode"),
        (&["--auto-compaction-retention", "xx"], "error parsing CompactionRetention: time: invalid duration \"xx\""),
        (
            &["--auto-compaction-retention", "-5"],
            "error parsing CompactionRetention: time: missing unit in duration \"-5\"",
        ),
        (&["--log-level", "bad"], "unrecognized level: \"bad\""),
        (&["--log-format", "bad"], "unknown log format: bad, supported values json, console"),
        (&["--logger", "bad"], "unknown logger option \"bad\""),
        (&["--logger", "capnslog"], "--logger=capnslog is removed in v3.5"),
        (&["--log-outputs", "default,stderr"], "multi logoutput for \"default\" is not supported yet"),
        (
            &["--feature-gates", "LeaseCheckpointPersist=true"],
            "enabling feature gate LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint",
        ),
        (
            &["--discovery-fallback", "proxy"],
            "v2 proxy is deprecated, and --discovery-fallback can't be configured as \"proxy\"",
        ),
        (
            &["--listen-client-http-urls", "http://localhost:2379"],
            "cannot bind both --listen-client-urls and --listen-client-http-urls on the same url http://localhost:2379",
        ),
        (&["--listen-client-http-urls", "http://foo.bar:23"], "expected IP in URL for binding (http://foo.bar:23)"),
        (
            &["--enable-log-rotation"],
            "--log-outputs requires a single file path when --log-rotate-config-json is defined",
        ),
        (
            &["--enable-log-rotation", "--log-outputs=a,b"],
            "--log-outputs requires a single file path when --log-rotate-config-json is defined",
        ),
        (
            &["--enable-log-rotation", "--log-outputs=a", "--log-rotation-config-json={\"maxsize\": -1}"],
            "invalid log rotation config: sizes, ages and numbers of files are not negative",
        ),
        (&["--max-learners", "-1"], "membership: too many learner members in cluster"),
        (&["--discovery-token", "t"], "both --discovery-token and --discovery-endpoints must be set"),
        (&["--discovery-endpoints", ""], "both --discovery-token and --discovery-endpoints must be set"),
        (
            &["--discovery-token=t", "--discovery-endpoints=a:1,"],
            "--discovery-endpoints must not contain empty endpoints",
        ),
        (
            &["--discovery-endpoints=a:1", "--discovery-srv=b"],
            "multiple discovery or bootstrap flags are set. Choose one of \"initial-cluster\", \"discovery-endpoints\" or \
             \"discovery-srv\"",
        ),
        (&["--compact-hash-check-time", "0s"], "--compact-hash-check-time must be >0 (set to 0s)"),
        (
            &["--initial-cluster", "garbage"],
            "error setting up initial cluster: URL scheme must be http, https, unix, or unixs: ",
        ),
    ] {
        let error = refused(words);
        assert_eq!((error.message.as_str(), error.exit_code()), (message, 1), "{words:?}");
    }
}

#[test]
fn what_urd_cannot_do_is_refused_with_what_to_do() {
    for words in [
        &["--discovery", "http://x"][..],
        &["--discovery-proxy", "http://x"],
        &["--wal-dir", "/w"],
        &["--config-file", "/nowhere/at/all"],
        &["--log-outputs", "systemd/journal"],
        &["--enable-v2"],
        &["--cipher-suites", "TLS_RSA_WITH_AES_128_GCM_SHA256"],
        &["--auto-tls", "--self-signed-cert-validity=0"],
        &["--shards", "0"],
        &["--shards", "100000"],
    ] {
        let error = refused(words);
        assert!(error.hint.is_some(), "{words:?}: {error:?}");
        assert_eq!(error.exit_code(), 1, "{words:?}");
    }
    // At its default a flag asks for nothing.
    let config = run(&["--name=n", "--cert-file=", "--peer-auto-tls=false", "--auth-token=simple", "--max-wals=05"]);
    assert_eq!(config.warnings, []);
}

#[test]
fn the_ways_to_find_others_are_read() {
    let config = run(&["--name=n", "--discovery-srv=d.test", "--discovery-srv-name=x"]);
    let dns = discovery::Dns { domain: "d.test".into(), service_suffix: "x".into() };
    assert_eq!((config.discovery, config.initial_cluster), (Some(Discovery::Dns(dns)), Vec::new()));

    let found = ["--name=n", "--discovery-token=t", "--discovery-endpoints=b:1,a:1,b:1"];
    let service = |more: &[&str]| match run(&[&found, more].concat()) {
        Config { discovery: Some(Discovery::Service(service)), initial_cluster, .. } => {
            assert_eq!(initial_cluster, []);
            service
        }
        config => panic!("{config:?}"),
    };
    let seconds = std::time::Duration::from_secs;
    let default = discovery::Service {
        token: "t".into(),
        endpoints: vec!["a:1".into(), "b:1".into()],
        dial_timeout: Some(seconds(2)),
        request_timeout: seconds(5),
        keepalive_time: Some(seconds(2)),
        keepalive_timeout: seconds(6),
        insecure_transport: true,
        insecure_skip_verify: false,
        cert: "".into(),
        key: "".into(),
        trusted_ca: "".into(),
        user: String::new(),
        password: String::new(),
    };
    assert_eq!(service(&[]), default);
    let other = service(&[
        "--discovery-dial-timeout=0s",
        "--discovery-request-timeout=1s",
        "--discovery-keepalive-time=-1s",
        "--discovery-keepalive-timeout=3s",
        "--discovery-insecure-transport=false",
        "--discovery-insecure-skip-tls-verify",
        "--discovery-cert=c",
        "--discovery-key=k",
        "--discovery-cacert=a",
        "--discovery-user=u",
        "--discovery-password=p",
    ]);
    let wanted = discovery::Service {
        dial_timeout: None,
        request_timeout: seconds(1),
        keepalive_time: None,
        keepalive_timeout: seconds(3),
        insecure_transport: false,
        insecure_skip_verify: true,
        cert: "c".into(),
        key: "k".into(),
        trusted_ca: "a".into(),
        user: "u".into(),
        password: "p".into(),
        ..default
    };
    assert_eq!(other, wanted);
}

#[test]
fn tokens_and_passwords_are_etcds() {
    let config = run(&["--name=n"]);
    assert_eq!((&config.auth_token[..], config.auth_token_ttl_ms, config.bcrypt_cost), ("simple", 300_000, 10));
    let config = run(&["--name=n", "--auth-token=jwt,sign-method=ES256", "--auth-token-ttl=2", "--bcrypt-cost=31"]);
    assert_eq!((&config.auth_token[..], config.auth_token_ttl_ms), ("jwt,sign-method=ES256", 2_000));
    assert_eq!((config.bcrypt_cost, config.warnings.len()), (31, 0));
    // What means nothing is taken for the default, of a cost with a word of it.
    assert_eq!(run(&["--name=n", "--auth-token-ttl=0"]).auth_token_ttl_ms, 300_000);
    assert_eq!(run(&["--name=n", "--auth-token-ttl=18446744073709551615"]).auth_token_ttl_ms, 300_000);
    for cost in ["3", "32", "4294967306"] {
        let config = run(&["--name=n", "--bcrypt-cost", cost]);
        assert_eq!(config.bcrypt_cost, 10);
        let [warning] = &config.warnings[..] else { panic!("{:?}", config.warnings) };
        assert_eq!(warning.message, "use default bcrypt cost instead of the invalid given cost");
    }
}

#[test]
fn tracing_is_etcds() {
    assert_eq!(run(&["--distributed-tracing-sampling-rate=-1"]).tracing, None);
    let words = [
        "--enable-distributed-tracing",
        "--distributed-tracing-sampling-rate=7",
        "--distributed-tracing-instance-id=i",
    ];
    for words in [&words.map(String::from), &words.map(|word| word.replacen("--", "--experimental-", 1))] {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let tracing = run(&words).tracing.expect("it is asked for");
        assert_eq!((&*tracing.address, &*tracing.service_name, &*tracing.instance_id), ("localhost:4317", "etcd", "i"));
        assert_eq!(tracing.sampled_per_million, 7);
    }
    for (rate, why) in [
        ("-1", "tracing sampling rate must be positive"),
        ("1000001", "tracing sampling rate must be less than 1000000"),
    ] {
        let error = refused(&["--enable-distributed-tracing", "--distributed-tracing-sampling-rate", rate]);
        assert_eq!(error.message, format!("distributed tracing configurition is not valid: ({why})"));
    }
}

#[test]
fn tls_is_read_and_refused_as_etcd_does() {
    let config = run(&[
        "--name=n",
        "--listen-client-urls=https://127.0.0.1:1,http://127.0.0.1:2",
        "--advertise-client-urls=https://a:1",
        "--listen-metrics-urls=https://127.0.0.1:3",
        "--initial-advertise-peer-urls=https://127.0.0.1:4",
        "--listen-peer-urls=https://127.0.0.1:4",
        "--cert-file=c",
        "--key-file=k",
        "--client-cert-allowed-hostname=a,b",
        "--peer-cert-allowed-cn=n1",
        "--cipher-suites=TLS_AES_128_GCM_SHA256,TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305",
        "--tls-max-version=TLS1.2",
        "--self-signed-cert-validity=3",
    ]);
    let tls = &config.tls;
    assert_eq!(tls.suites, ["TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"]);
    assert_eq!((tls.version_min, tls.version_max), (tls::Version::Tls12, Some(tls::Version::Tls12)));
    assert_eq!((tls.client.allowed_hostnames.len(), tls.peer.allowed_common_names.len()), (2, 1));
    assert_eq!((tls.self_signed_years, tls.client.demands_certificates()), (3, false));
    let messages: Vec<_> = config.warnings.iter().map(|warning| warning.message.as_str()).collect();
    assert!(messages.iter().any(|message| message.starts_with("scheme is http or unix while key and cert files")));
    assert!(run(&["--trusted-ca-file=c"]).tls.client.demands_certificates());

    let https = ["--listen-client-urls=https://127.0.0.1:1", "--advertise-client-urls=https://a:1"];
    for (words, message) in [
        (
            &[][..],
            "TLS key/cert (--cert-file, --key-file) must be provided for client url https://127.0.0.1:1 with HTTPS scheme",
        ),
        (&["--cert-file=c"], "KeyFile and CertFile must both be present[key: , cert: c]"),
        (&["--tls-min-version=TLS1.1"], "unexpected TLS version \"TLS1.1\" (must be one of: TLS1.2, TLS1.3)"),
        (
            &["--tls-min-version=TLS1.3", "--tls-max-version=TLS1.2"],
            "min version (TLS1.3) is greater than max version (TLS1.2)",
        ),
        (
            &["--tls-min-version=TLS1.3", "--cipher-suites=TLS_AES_128_GCM_SHA256"],
            "cipher suites cannot be configured when only TLS1.3 is enabled",
        ),
        (&["--auto-tls", "--cipher-suites=TLS_FOO"], "unexpected TLS cipher suite \"TLS_FOO\""),
        (
            &["--auto-tls", "--peer-cert-allowed-cn=a", "--peer-cert-allowed-hostname=b"],
            "AllowedCNs and AllowedHostnames are mutually exclusive (cns=[\"a\"], hostnames=[\"b\"])",
        ),
    ] {
        assert_eq!(refused(&[&https[..], words].concat()).message, message);
    }
    assert_eq!(
        refused(&["--listen-metrics-urls=https://127.0.0.1:1"]).message,
        "client TLS key/cert (--cert-file, --key-file) must be provided for metrics secure url"
    );
}

#[test]
fn an_unknown_flag_is_answered_with_the_nearest() {
    assert_eq!(refused(&["--data-dirr"]).hint.as_deref(), Some("did you mean --data-dir?"));
    assert_eq!(refused(&["--listen-client-url=x"]).hint.as_deref(), Some("did you mean --listen-client-urls?"));
    assert_eq!(refused(&["--zzz"]).hint, None);
}

#[test]
fn go_syntax_is_followed() {
    let config = run(&["-name", "a", "--name=b", "-pre-vote=F", "--heartbeat-interval=0x32", "--max-txn-ops", "1_0"]);
    assert_eq!(config.name, "b");
    assert!(!config.pre_vote);
    assert_eq!((config.heartbeat_ms, config.max_txn_ops), (50, 10));
    assert_eq!(run(&["--name=a=b"]).name, "a=b");
    assert_eq!(run(&["--name", "--version"]).name, "--version");
    assert_eq!(run(&["--name=n", "--"]).name, "n");
    assert!(matches!(parse(&["-v", "--snapshot=3", "--version"], &[]), Ok(Parsed::Version)));
    assert!(matches!(parse(&["-h"], &[]), Ok(Parsed::Help)));
    assert!(matches!(parse(&["--help=false"], &[]), Ok(Parsed::Help)));
    assert!(matches!(parse(&["--version=false"], &[]), Ok(Parsed::Run(_))));
    // Read in order: the first fault wins over a later wish.
    assert!(parse(&["--nope", "--help"], &[]).is_err());
}

#[test]
fn variables_stand_for_flags() {
    let variables =
        [("ETCD_NAME", "a"), ("ETCD_FOO", "1"), ("ETCD_VERSION", "3"), ("ETCD_DATA_DIR", ""), ("HOME", "/")];
    let Ok(Parsed::Run(config)) = parse(&[], &variables) else { panic!() };
    assert_eq!((config.name.as_str(), config.data_dir.to_str()), ("a", Some("a.urd")));
    let about: Vec<&str> = config.warnings.iter().map(|warning| warning.about.as_str()).collect();
    assert_eq!(about, ["ETCD_FOO", "ETCD_VERSION"]);
    for (words, variables, message) in [
        (&["--name=b"][..], &[("ETCD_NAME", "a")][..], "conflicting environment variable is shadowed by"),
        (&["--name=b"], &[("ETCD_NAME", "")], "conflicting environment variable is shadowed by"),
        (&[], &[("ETCD_PRE_VOTE", "maybe")], "invalid value \"maybe\" for ETCD_PRE_VOTE: parse error"),
    ] {
        let error = parse(words, variables).unwrap_err();
        assert!(error.message.starts_with(message), "{error:?}");
        assert_eq!(error.exit_code(), 1);
    }
}

#[test]
fn older_spellings_mean_what_their_successors_mean() {
    let config = run(&[
        "--name=n",
        "--experimental-watch-progress-notify-interval=5s",
        "--experimental-initial-corrupt-check",
        "--experimental-warning-apply-duration=1s",
    ]);
    assert_eq!((config.watch_progress_notify_interval_ms, config.warning_apply_ms), (5_000, 1_000));
    assert!(config.gates.is_on("InitialCorruptCheck"));
    assert_eq!(config.warnings.len(), 3);
    let both = ["--experimental-warning-apply-duration=1s", "--warning-apply-duration=2s"];
    assert!(refused(&both).message.contains("set the same thing differently"));
    assert_eq!(
        run(&["--experimental-warning-apply-duration=1s", "--warning-apply-duration=1s"]).warning_apply_ms,
        1_000
    );
    let both = ["--experimental-initial-corrupt-check=false", "--feature-gates=InitialCorruptCheck=true"];
    assert!(refused(&both).message.contains("set the same thing differently"));
}

#[test]
fn retention_has_many_forms() {
    let retention = |words: &[&str]| run(words).auto_compaction;
    let hour = 3_600_000;
    assert_eq!(retention(&["--auto-compaction-retention=0"]), AutoCompaction::Off);
    assert_eq!(retention(&["--auto-compaction-retention="]), AutoCompaction::Off);
    assert_eq!(retention(&["--auto-compaction-retention=8"]), AutoCompaction::Periodic { retention_ms: 8 * hour });
    assert_eq!(retention(&["--auto-compaction-retention=5m"]), AutoCompaction::Periodic { retention_ms: 300_000 });
    let revision = |text: &str| retention(&["--auto-compaction-mode=revision", "--auto-compaction-retention", text]);
    assert_eq!(revision("1000"), AutoCompaction::Revision { retention: 1000 });
    assert_eq!(revision("1us"), AutoCompaction::Revision { retention: 1000 });
    assert!(refused(&["--auto-compaction-retention=-1h"]).message.contains("must not be negative"));
    assert!(refused(&["--auto-compaction-retention=9223372036854775807"]).message.contains("more hours"));
}

#[test]
fn zero_means_what_etcd_makes_of_it() {
    let config = run(&[
        "--quota-backend-bytes=0",
        "--compaction-batch-limit=0",
        "--compaction-sleep-interval=0",
        "--watch-progress-notify-interval=0",
        "--warning-unary-request-duration=0",
        "--grpc-keepalive-interval=0",
    ]);
    assert_eq!(config.quota_bytes, Some(limits::QUOTA_BYTES_DEFAULT));
    assert_eq!((config.compaction_batch_limit, config.compaction_sleep_interval_ms), (1_000, 10));
    assert_eq!((config.watch_progress_notify_interval_ms, config.warning_unary_request_ms), (600_000, 300));
    assert_eq!(config.grpc_keepalive_interval_ms, 0);
    assert_eq!(run(&["--quota-backend-bytes=-1"]).quota_bytes, None);
    assert_eq!(run(&["--watch-progress-notify-interval=1ms"]).watch_progress_notify_interval_ms, 100);
    assert!(refused(&["--max-request-bytes=4294967295"]).message.contains("more than a gRPC message can hold"));
}

#[test]
fn url_lists_are_sorted_and_unique() {
    let advertise = "--advertise-client-urls=http://h:1";
    let config = run(&["--listen-client-urls=http://127.0.0.1:2,http://127.0.0.1:1,http://127.0.0.1:2", advertise]);
    assert_eq!(config.listen_client_urls, ["http://127.0.0.1:1", "http://127.0.0.1:2"]);
    assert_eq!(run(&["--listen-client-urls=", advertise]).listen_client_urls, ["http://localhost:2379"]);
}

#[test]
fn a_log_file_is_rotated_as_the_operator_says() {
    let rotation = |json: &str| {
        let json = format!("--log-rotation-config-json={json}");
        run(&["--log-outputs=/a/log,stderr", "--enable-log-rotation", &json]).log.rotation.unwrap()
    };
    let config = run(&["--log-outputs=/a/log", "--enable-log-rotation"]);
    let default = log::Rotation { maxsize: 100, ..Default::default() };
    assert_eq!(config.log.rotation, Some(default));
    let wanted = log::Rotation { maxsize: 1, maxage: 2, maxbackups: 3, localtime: true, compress: true };
    let json = r#"{"maxsize": 1, "maxage": 2, "maxbackups": 3, "localtime": true, "compress": true, "other": {}}"#;
    assert_eq!(rotation(json), wanted);
    assert_eq!(rotation("{}"), log::Rotation::default());
    for (json, message) in
        [("{", "improperly formatted log rotation config: "), ("{\"maxsize\": \"x\"}", "invalid log rotation config: ")]
    {
        let json = format!("--log-rotation-config-json={json}");
        let error = refused(&["--log-outputs=/a/log", "--enable-log-rotation", &json]);
        assert!(error.message.starts_with(message), "{error:?}");
    }
}

#[test]
fn the_founding_cluster_is_checked_before_it_is_founded() {
    let verify = |words: &[&str]| run(words).verify_bootstrap().map_err(|error| error.message);
    let peer = "--initial-advertise-peer-urls=http://127.0.0.1:1";
    assert_eq!(verify(&["--name=n", peer]), Ok(()));
    assert_eq!(run(&["--name=n", peer]).initial_cluster, [("n".into(), vec!["http://127.0.0.1:1".into()])]);
    for (words, message) in [
        (
            &["--initial-cluster=n1=http://127.0.0.1:1"][..],
            "couldn't find local name \"default\" in the initial cluster configuration",
        ),
        (&["--initial-cluster="], "couldn't find local name \"default\" in the initial cluster configuration"),
        (
            &["--initial-cluster=default=http://127.0.0.1:1"],
            "--initial-cluster has default=http://127.0.0.1:1 but missing from \
             --initial-advertise-peer-urls=http://localhost:2380 (resolved urls: \"http://localhost:2380\" != \
             \"http://127.0.0.1:1\")",
        ),
        (
            &["--initial-cluster=default=http://localhost:2380,default=http://localhost:2380"],
            "failed to resolve http://localhost:2380 to match --initial-cluster=default=http://localhost:2380 \
             (len([\"http://localhost:2380\"]) != len([\"http://localhost:2380\" \"http://localhost:2380\"]))",
        ),
        (&["--name="], "couldn't find local name \"\" in the initial cluster configuration"),
        (&["--discovery-srv-name=s"], "couldn't find local name \"default\" in the initial cluster configuration"),
        (
            &["--name=n1", "--initial-cluster=n1=http://localhost:2380,n2=http://localhost:2380"],
            "initial cluster n1=http://localhost:2380,n2=http://localhost:2380 has duplicate url",
        ),
        (
            &["--name=n2", "--initial-cluster=n1=http://localhost:2380,n2=http://localhost:2381"],
            "--initial-cluster has n2=http://localhost:2381 but missing from \
             --initial-advertise-peer-urls=http://localhost:2380 (resolved urls: \"http://localhost:2380\" != \
             \"http://localhost:2381\")",
        ),
    ] {
        assert_eq!(verify(words), Err(message.to_owned()), "{words:?}");
    }
}

#[test]
fn a_member_that_listens_everywhere_is_told_of_by_its_machines_address() {
    let build = |words: &[&str]| {
        let parse::Asked::Settings(settings) = parse::read_words(words.iter().map(OsString::from)).unwrap() else {
            panic!()
        };
        let machine = build::Machine { cpus: 8, host: || Some("10.0.0.7".parse().unwrap()) };
        build::build(settings, &machine).unwrap()
    };
    let config = build(&[
        "--name=n",
        "--listen-peer-urls=http://0.0.0.0:1",
        "--listen-client-urls=http://0.0.0.0:2",
        "--advertise-client-urls=http://localhost:2379",
    ]);
    assert_eq!(config.initial_advertise_peer_urls, ["http://10.0.0.7:1"]);
    assert_eq!(config.advertise_client_urls, ["http://10.0.0.7:2"]);
    assert!(config.verify_bootstrap().is_ok());
    assert_eq!(config.shards, 7);
    assert_eq!(build(&["--shards=8"]).shards, 8);
}

#[test]
fn the_table_is_sound() {
    for (at, flag) in flags::FLAGS.iter().enumerate() {
        assert!(!flags::FLAGS[..at].iter().any(|other| other.name == flag.name), "{} twice", flag.name);
        let mut settings = parse::Settings::default();
        let fits = settings.put(flag, flag.default.to_owned());
        assert!(fits.is_ok() || flag.default.is_empty(), "{}: {fits:?}", flag.name);
        match flag.standing {
            flags::Standing::OldNameOf(name) => {
                let successor = flags::find(name).expect(name);
                assert_eq!((successor.kind, successor.default), (flag.kind, flag.default), "{}", flag.name);
            }
            flags::Standing::OldGate(gate) => assert!(gates::GATES.iter().any(|known| known.name == gate)),
            _ => {}
        }
    }
}

fn word() -> impl Strategy<Value = String> {
    let name = proptest::sample::select(flags::FLAGS.iter().map(|flag| flag.name).collect::<Vec<_>>());
    let value = prop_oneof![
        "[0-9a-z:/.,=*-]{0,12}",
        Just("http://127.0.0.1:1".to_owned()),
        Just("99999999999999999999".to_owned()),
        Just("1h".to_owned()),
        Just("-1".to_owned()),
        "\\PC{0,8}",
    ];
    prop_oneof![
        (name.clone(), value.clone()).prop_map(|(name, value)| format!("--{name}={value}")),
        name.prop_map(|name| format!("-{name}")),
        value,
    ]
}

proptest! {
    #[test]
    fn no_words_make_it_panic(words in proptest::collection::vec(word(), 0..6), variable in word()) {
        let variables = [("ETCD_NAME".to_owned(), variable.clone()), ("ETCD_SHARDS".to_owned(), variable)];
        let _ = Config::from_args(words.iter().map(OsString::from), variables.into_iter());
    }
}
