use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::*;

fn scrape(shards: &[Arc<ShardMetrics>], core: &CoreMetrics, health: &HealthMetrics) -> String {
    let gates = Gates::default();
    let member = Member {
        id: 0xab,
        cluster_version: Some("3.7.0"),
        is_learner: false,
        quota_bytes: Some(1 << 31),
        alarms: &[(0xab, "NOSPACE", true), (0xab, "CORRUPT", false)],
        members: &[0xab],
        removed: &[0xcd],
        gates: &gates,
        extensive: true,
    };
    let traces = Some([("exported", 1), ("failed", 2), ("dropped", 3)]);
    let peers = &PeersMetrics::default();
    render(&Sources { shards, core, health, traces, member, peers })
}

/// A scrape in which everything that appears only once it has occurred has occurred.
fn full() -> String {
    let shards = [Arc::new(ShardMetrics::default()), Arc::new(ShardMetrics::default())];
    let core = CoreMetrics::default();
    let health = HealthMetrics::default();
    for shard in &shards {
        shard.range_duration.observe(true, Duration::from_micros(150));
        shard.request_duration.observe(Operation::Range, true, Duration::from_millis(3));
        shard.client_versions.count("", false);
        shard.promote_failures.count(&crate::error::MEMBER_NOT_FOUND);
        shard.client_versions.count("3.7.3", true);
        shard.methods[super::super::methods::number("/etcdserverpb.KV/Put").unwrap()].handled(Code::Ok);
    }
    core.apply_duration.observe(Operation::Put, false, Duration::from_micros(1));
    Check::ALL.into_iter().for_each(|check| health.count_check(check, true));
    scrape(&shards, &core, &health)
}

#[derive(Default)]
struct Family {
    kind: String,
    labels: BTreeSet<String>,
    bounds: Vec<String>,
    samples: usize,
}

/// Reads the text form back, and holds it to its rules.
fn families(text: &str) -> BTreeMap<String, Family> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut current = String::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            current = name.to_owned();
            let family = Family { kind: kind.to_owned(), ..Family::default() };
            assert!(families.insert(current.clone(), family).is_none(), "{name} twice");
            continue;
        }
        if line.starts_with("# HELP ") {
            continue;
        }
        let (head, value) = line.rsplit_once(' ').unwrap();
        assert!(value == "+Inf" || value.parse::<f64>().is_ok(), "{line}");
        let (name, labels) = match head.split_once('{') {
            Some((name, labels)) => (name, labels.strip_suffix('}').unwrap()),
            None => (head, ""),
        };
        let suffix = name.strip_prefix(current.as_str()).unwrap_or_else(|| panic!("{line} stands under {current}"));
        assert!(["", "_bucket", "_sum", "_count"].contains(&suffix), "{line}");
        let family = families.get_mut(&current).unwrap();
        family.samples += 1;
        for (key, value) in
            labels.split("\",").filter(|pair| !pair.is_empty()).map(|pair| pair.split_once("=\"").unwrap())
        {
            let value = value.trim_end_matches('"').to_owned();
            match key {
                "le" if family.bounds.contains(&value) => {}
                "le" => family.bounds.push(value),
                _ => _ = family.labels.insert(key.to_owned()),
            }
        }
    }
    families
}

/// What of etcd's is not told, because there is no such thing here.
const ABSENT: &[&str] = &["etcd_server_go_version"];

/// Names, types, label names and buckets that a reference 3.7.3 server exposes.
const REFERENCE: &str = include_str!("../../../../tests/compatibility/etcd-3.7.3-metrics.txt");

#[test]
fn names_types_labels_and_buckets_are_etcds() {
    let ours = families(&full());
    let mut told = 0;
    for line in REFERENCE.lines() {
        let [name, kind, labels, bounds] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        if name.starts_with("go_") || ABSENT.contains(&name) {
            assert!(!ours.contains_key(name), "{name} is told, but said to be absent");
            continue;
        }
        let family = ours.get(name).unwrap_or_else(|| panic!("{name} is missing"));
        let or_none = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
        assert_eq!(family.kind, kind, "{name}");
        assert_eq!(or_none(&family.labels.iter().cloned().collect::<Vec<_>>().join(",")), labels, "{name}");
        assert_eq!(or_none(&family.bounds.join(",")), bounds, "{name}");
        assert!(family.samples > 0, "{name}");
        told += 1;
    }
    assert!(told > 95);
    for name in ours.keys() {
        let known = REFERENCE.lines().any(|line| line.split(' ').next() == Some(name));
        let appears_later =
            ["etcd_debugging_server_alarms", "etcd_server_learner_promote_failures", "grpc_server_handling_seconds"]
                .contains(&name.as_str());
        assert!(known || appears_later || name.starts_with("urd_"), "{name} is nobody's");
    }
}

#[test]
fn shards_are_added_up() {
    let text = full();
    for line in [
        "etcd_cluster_version{cluster_version=\"3.7\"} 1",
        "etcd_server_id{server_id=\"ab\"} 1",
        "etcd_server_quota_backend_bytes 2.147483648e+09",
        "etcd_server_range_duration_seconds_bucket{success=\"true\",le=\"0.0001\"} 0",
        "etcd_server_range_duration_seconds_bucket{success=\"true\",le=\"0.0002\"} 2",
        "etcd_server_range_duration_seconds_count{success=\"true\"} 2",
        "etcd_server_request_duration_seconds_count{success=\"true\",type=\"Range\"} 2",
        "etcd_server_apply_duration_seconds_count{op=\"Put\",success=\"false\",version=\"v3\"} 1",
        "etcd_server_client_requests_total{client_api_version=\"unknown\",type=\"unary\"} 2",
        "etcd_server_client_requests_total{client_api_version=\"3.7.3\",type=\"stream\"} 2",
        "grpc_server_handled_total{grpc_code=\"OK\",grpc_method=\"Put\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"} 2",
        "etcd_server_healthcheck{name=\"serializable_read\",type=\"livez\"} 1",
        "etcd_server_healthchecks_total{name=\"non_learner\",status=\"success\",type=\"readyz\"} 1",
        "etcd_debugging_server_alarms{alarm_type=\"NOSPACE\",server_id=\"ab\"} 1",
        "etcd_debugging_server_alarms{alarm_type=\"CORRUPT\",server_id=\"ab\"} 0",
        "etcd_network_known_peers{Local=\"ab\",Remote=\"ab\"} 1",
        "etcd_network_known_peers{Local=\"ab\",Remote=\"cd\"} 0",
        "etcd_disk_backend_commit_duration_seconds_bucket{le=\"+Inf\"} 0",
        "promhttp_metric_handler_requests_total{code=\"200\"} 0",
        "etcd_server_learner_promote_failures{Reason=\"membership: ID not found\"} 2",
        "urd_shard_connections{shard=\"1\"} 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is missing");
    }
    // etcd leaves out what has not occurred.
    assert!(!text.contains("success=\"false\",type=\"Range\""));
}

#[test]
fn versions_beyond_the_first_few_share_a_place() {
    let versions = ClientVersions::default();
    for version in 0..100 {
        versions.count(&format!("3.{version}"), false);
    }
    versions.count("3.0", false);
    let read: Vec<(&str, [u64; 2])> = versions.read().collect();
    assert_eq!(read.len(), ClientVersions::PLACES + 1);
    assert_eq!(read[0], ("3.0", [2, 0]));
    assert_eq!(read[ClientVersions::PLACES], ("other", [100 - ClientVersions::PLACES as u64, 0]));
}
