//! Adds the cells of all shards up and writes them as text. Runs at a scrape, on the shard that was asked; reads only.

use std::sync::Arc;

use super::{
    ByOperation, ClientVersions, CoreMetrics, HealthMetrics, INDEX_PAUSE_MS, LATENCY, MethodMetrics, Operation,
    Outcomes, PeersMetrics, SNAPSHOT, SNAPSHOT_SAVE, ShardMetrics, Stage,
    cell::{Distribution, Histogram, Spread},
    health::Check,
    methods::{METHODS, shown_from_the_start},
    process::Process,
    text::{Exposition, Kind},
};
use crate::{
    config::gates::{GATES, Gates},
    error::Code,
    version,
};

/// What a scrape is made of.
pub struct Sources<'a> {
    pub shards: &'a [Arc<ShardMetrics>],
    pub core: &'a CoreMetrics,
    pub health: &'a HealthMetrics,
    pub peers: &'a PeersMetrics,
    /// Spans by what became of them, where calls are traced.
    pub traces: Option<[(&'static str, u64); 3]>,
    pub member: Member<'a>,
}

/// What is known of the member beside what is counted.
pub struct Member<'a> {
    pub id: u64,
    /// `3.7.0`; None before it is decided.
    pub cluster_version: Option<&'a str>,
    pub is_learner: bool,
    /// None: no quota.
    pub quota_bytes: Option<u64>,
    /// Member's id, the alarm's name, and whether it is active; those that are over have been active since the start.
    pub alarms: &'a [(u64, &'a str, bool)],
    /// Those who belong to the cluster, and those who did.
    pub members: &'a [u64],
    pub removed: &'a [u64],
    pub gates: &'a Gates,
    /// `--metrics extensive`.
    pub extensive: bool,
}

/// Everything in Prometheus' text form; its content type is `text::CONTENT_TYPE`.
pub fn render(sources: &Sources<'_>) -> String {
    let mut out = Exposition::default();
    member(&mut out, sources);
    raft(&mut out, sources);
    requests(&mut out, sources);
    store(&mut out, sources);
    watches_and_leases(&mut out, sources);
    disk(&mut out, sources.core);
    grpc(&mut out, sources);
    sources.peers.render(&mut out, sources.member.id);
    health(&mut out, sources.health);
    own(&mut out, sources);
    never(&mut out);
    process(&mut out, &Process::read());
    scrapes(&mut out, sources.health);
    out.into_text()
}

impl Sources<'_> {
    fn sum(&self, of: impl Fn(&ShardMetrics) -> u64) -> u64 {
        self.shards.iter().map(|shard| of(shard)).sum()
    }

    fn level(&self, of: impl Fn(&ShardMetrics) -> i64) -> f64 {
        self.shards.iter().map(|shard| of(shard)).sum::<i64>() as f64
    }
}

fn member(out: &mut Exposition, sources: &Sources<'_>) {
    let member = &sources.member;
    if let Some(cluster) = member.cluster_version {
        // The label has major and minor only.
        let label = cluster.rsplit_once('.').map_or(cluster, |(head, _)| head);
        out.family("etcd_cluster_version", Kind::Gauge, "1 for the cluster's version, which is the label.");
        out.sample(&[("cluster_version", label)], 1.0);
    }
    out.family("etcd_server_version", Kind::Gauge, "1 for the etcd version implemented, which is the label.");
    out.sample(&[("server_version", version::ETCD)], 1.0);
    out.family("etcd_server_id", Kind::Gauge, "1 for this member's id, which is the label.");
    out.sample(&[("server_id", &format!("{:x}", member.id))], 1.0);
    out.gauge("etcd_server_is_learner", "1 if this member is a learner.", f64::from(u8::from(member.is_learner)));
    let quota = member.quota_bytes.map_or(0.0, |bytes| bytes as f64);
    out.gauge("etcd_server_quota_backend_bytes", "Bytes that the data may take; 0 without a quota.", quota);
    out.family("etcd_server_feature_enabled", Kind::Gauge, "1 if the feature gate is on.");
    for gate in &GATES {
        let on = f64::from(u8::from(member.gates.is_on(gate.name)));
        out.sample(&[("name", gate.name), ("stage", gate.stage.name())], on);
    }
    out.family("etcd_debugging_server_alarms", Kind::Gauge, "1 for each active alarm, 0 for one that is over.");
    for (id, alarm, is_active) in member.alarms {
        let value = f64::from(u8::from(*is_active));
        out.sample(&[("alarm_type", alarm), ("server_id", &format!("{id:x}"))], value);
    }
    out.family("etcd_network_known_peers", Kind::Gauge, "1 for each member of the cluster, this one included.");
    let local = format!("{:x}", member.id);
    let members = member.members.iter().map(|id| (id, 1.0)).chain(member.removed.iter().map(|id| (id, 0.0)));
    for (remote, known) in members {
        out.sample(&[("Local", &local), ("Remote", &format!("{remote:x}"))], known);
    }
    out.family("urd_version", Kind::Gauge, "1 for urd's version, which is the label.");
    out.sample(&[("version", version::URD)], 1.0);
}

fn raft(out: &mut Exposition, sources: &Sources<'_>) {
    let core = sources.core;
    let level = |gauge: &super::Gauge| gauge.get() as f64;
    out.gauge("etcd_server_has_leader", "1 if this member knows a leader.", level(&core.has_leader));
    out.gauge("etcd_server_is_leader", "1 if this member is the leader.", level(&core.is_leader));
    out.counter("etcd_server_leader_changes_seen_total", "Changes of the leader.", core.leader_changes.get());
    out.gauge("etcd_server_proposals_committed_total", "Highest index committed.", level(&core.committed));
    out.gauge("etcd_server_proposals_applied_total", "Highest index applied.", level(&core.applied));
    let pending = level(&core.proposals_pending);
    out.gauge("etcd_server_proposals_pending", "Proposals that wait to be applied.", pending);
    let failed = sources.sum(|shard| shard.proposals_failed.get());
    out.counter("etcd_server_proposals_failed_total", "Proposals that failed.", failed);
    out.counter(
        "etcd_server_slow_apply_total",
        "Entries that took longer than --warning-apply-duration.",
        core.slow_applies.get() + sources.sum(|shard| shard.slow_reads.get()),
    );
    let slow = sources.sum(|shard| shard.slow_read_indexes.get());
    out.counter("etcd_server_slow_read_indexes_total", "Read indexes that took longer than a request may.", slow);
    let failed = sources.sum(|shard| shard.read_indexes_failed.get());
    out.counter("etcd_server_read_indexes_failed_total", "Read indexes that failed.", failed);
    out.counter("etcd_server_heartbeat_send_failures_total", "Heartbeats sent late.", 0);
    out.counter("etcd_server_learner_promote_successes", "Learners promoted.", 0);
    promote_failures(out, sources);
    out.gauge("etcd_server_snapshot_apply_in_progress_total", "1 while a snapshot is taken over.", 0.0);
}

/// Reasons that have not occurred are left out, as etcd leaves them out.
fn promote_failures(out: &mut Exposition, sources: &Sources<'_>) {
    let mut reasons: std::collections::BTreeMap<&str, u64> = Default::default();
    for (reason, count) in sources.shards.iter().flat_map(|shard| shard.promote_failures.read()) {
        *reasons.entry(reason).or_default() += count;
    }
    reasons.retain(|_, count| *count > 0);
    out.family("etcd_server_learner_promote_failures", Kind::Counter, "Learners that were not promoted.");
    for (reason, count) in reasons {
        out.sample(&[("Reason", reason)], count as f64);
    }
}

fn requests(out: &mut Exposition, sources: &Sources<'_>) {
    out.family("etcd_server_request_duration_seconds", Kind::Histogram, "Time to answer a request.");
    by_operation(out, sources.shards.iter().map(|shard| &shard.request_duration), "type", &[]);
    out.family("etcd_server_apply_duration_seconds", Kind::Histogram, "Time to apply an entry.");
    by_operation(out, std::iter::once(&sources.core.apply_duration), "op", &[("version", "v3")]);
    out.family("etcd_server_range_duration_seconds", Kind::Histogram, "Time to read a range.");
    for (success, name) in [(0, "false"), (1, "true")] {
        if let Some(sum) = merged(sources.shards.iter().map(|shard| &shard.range_duration), success) {
            out.distribution(&[("success", name)], &sum);
        }
    }
    client_requests(out, sources);
}

/// Operations that have not occurred are left out, as etcd leaves them out.
fn by_operation<'a>(
    out: &mut Exposition,
    tables: impl Iterator<Item = &'a ByOperation> + Clone,
    key: &str,
    more: &[(&str, &str)],
) {
    for (operation, name) in Operation::ALL {
        for (success, text) in [(0, "false"), (1, "true")] {
            let outcomes = tables.clone().map(|table| &table.0[operation as usize]);
            let Some(sum) = merged(outcomes, success) else { continue };
            // etcd's applier has no name for it.
            let name = if (key, operation) == ("op", Operation::AuthStatus) { "unknown" } else { name };
            let mut labels = vec![(key, name), ("success", text)];
            labels.extend_from_slice(more);
            labels.sort_unstable();
            out.distribution(&labels, &sum);
        }
    }
}

/// The sum of one outcome's durations; None where there are none.
fn merged<'a>(outcomes: impl Iterator<Item = &'a Outcomes>, success: usize) -> Option<Distribution> {
    let mut read = outcomes.map(|outcomes| outcomes.0[success].read());
    let mut sum = read.next()?;
    read.for_each(|more| sum.merge(&more));
    (sum.total() > 0).then_some(sum)
}

fn client_requests(out: &mut Exposition, sources: &Sources<'_>) {
    let mut calls: std::collections::BTreeMap<(&str, usize), u64> = Default::default();
    for (version, counts) in sources.shards.iter().flat_map(|shard| ClientVersions::read(&shard.client_versions)) {
        for (kind, count) in counts.into_iter().enumerate().filter(|(_, count)| *count > 0) {
            *calls.entry((version, kind)).or_default() += count;
        }
    }
    out.family("etcd_server_client_requests_total", Kind::Counter, "Calls by the client's version.");
    for ((version, kind), count) in calls {
        out.sample(&[("client_api_version", version), ("type", ["unary", "stream"][kind])], count as f64);
    }
}

fn store(out: &mut Exposition, sources: &Sources<'_>) {
    let core = sources.core;
    let level = |gauge: &super::Gauge| gauge.get() as f64;
    let ranges = core.ranges.get() + sources.sum(|shard| shard.ranges.get());
    out.counter("etcd_mvcc_range_total", "Ranges read.", ranges);
    out.counter("etcd_mvcc_put_total", "Keys put.", core.puts.get());
    out.counter("etcd_mvcc_delete_total", "Keys deleted.", core.deletes.get());
    let transactions = core.transactions.get() + sources.sum(|shard| shard.readonly_transactions.get());
    out.counter("etcd_mvcc_txn_total", "Transactions.", transactions);
    out.gauge("etcd_mvcc_db_total_size_in_bytes", "Bytes of the log and the checkpoints.", level(&core.db_bytes));
    out.gauge("etcd_mvcc_db_total_size_in_use_in_bytes", "Bytes of them that live.", level(&core.db_bytes_in_use));
    out.gauge("etcd_debugging_mvcc_keys_total", "Keys that exist.", level(&core.keys));
    out.gauge("etcd_debugging_mvcc_current_revision", "Newest revision.", level(&core.current_revision));
    out.gauge("etcd_debugging_mvcc_compact_revision", "Revision compacted to.", level(&core.compact_revision));
    out.gauge("etcd_debugging_auth_revision", "Revision of users and roles.", level(&core.auth_revision));
    out.gauge("etcd_debugging_mvcc_total_put_size_in_bytes", "Bytes put since the start.", level(&core.put_bytes));
    out.gauge(
        "etcd_debugging_mvcc_db_compaction_last",
        "Unix time of the last compaction.",
        level(&core.compaction_last),
    );
    out.counter(
        "etcd_debugging_mvcc_db_compaction_keys_total",
        "Revisions compacted away.",
        core.compaction_keys.get(),
    );
    for (name, help, histogram) in [
        (
            "etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds",
            "Length of one batch of compaction.",
            &core.compaction_pause_ms,
        ),
        (
            "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds",
            "Length of a compaction.",
            &core.compaction_total_ms,
        ),
    ] {
        out.family(name, Kind::Histogram, help);
        out.distribution(&[], &histogram.read());
    }
    type OfShard = fn(&ShardMetrics) -> &Histogram;
    out.gauge(
        "etcd_mvcc_db_open_read_transactions",
        "Answers that are made while the caller takes them.",
        sources.level(|shard| shard.open_reads.get()),
    );
    let of_shards: [(&'static str, &str, OfShard); 5] = [
        ("etcd_mvcc_hash_duration_seconds", "Time to hash everything.", |shard| &shard.hash_duration),
        ("etcd_mvcc_hash_rev_duration_seconds", "Time to hash up to a revision.", |shard| &shard.hash_rev_duration),
        (
            "etcd_debugging_server_watch_send_loop_watch_stream_duration_seconds",
            "Time to send the events that waited in a watch stream.",
            |shard| &shard.watch_sends,
        ),
        (
            "etcd_debugging_server_watch_send_loop_watch_stream_duration_per_event_seconds",
            "The same for each event.",
            |shard| &shard.watch_sends_per_event,
        ),
        (
            "etcd_debugging_server_watch_send_loop_control_stream_duration_seconds",
            "Time to send what waited in a watch stream where that is no events.",
            |shard| &shard.control_sends,
        ),
    ];
    for (name, help, of) in of_shards {
        let mut read = sources.shards.iter().map(|shard| of(shard).read());
        let Some(mut sum) = read.next() else { continue };
        read.for_each(|more| sum.merge(&more));
        out.family(name, Kind::Histogram, help);
        out.distribution(&[], &sum);
    }
}

fn watches_and_leases(out: &mut Exposition, sources: &Sources<'_>) {
    let core = sources.core;
    let level = |of: fn(&ShardMetrics) -> i64| sources.level(of);
    out.gauge(
        "etcd_debugging_mvcc_watch_stream_total",
        "Open watch streams.",
        level(|shard| shard.watch_streams.get()),
    );
    out.gauge("etcd_debugging_mvcc_watcher_total", "Watches.", level(|shard| shard.watchers.get()));
    out.gauge(
        "etcd_debugging_mvcc_slow_watcher_total",
        "Watches that are behind.",
        level(|shard| shard.slow_watchers.get()),
    );
    out.gauge(
        "etcd_debugging_mvcc_pending_events_total",
        "Events that wait to be sent.",
        level(|shard| shard.pending_events.get()),
    );
    let events = sources.sum(|shard| shard.events_sent.get());
    out.counter("etcd_debugging_mvcc_events_total", "Events sent.", events);
    out.counter("etcd_debugging_lease_granted_total", "Leases granted.", core.leases_granted.get());
    out.counter("etcd_debugging_lease_revoked_total", "Leases revoked.", core.leases_revoked.get());
    let renewed = sources.sum(|shard| shard.leases_renewed.get());
    out.counter("etcd_debugging_lease_renewed_total", "Keep-alives answered as the leader.", renewed);
    let expired = sources.sum(|shard| shard.leases_expired.get());
    out.counter("etcd_debugging_server_lease_expired_total", "Leases that ran out.", expired);
    out.family("etcd_debugging_lease_ttl_total", Kind::Histogram, "Time to live of leases granted, in seconds.");
    out.distribution(&[], &core.lease_ttl.read());
}

fn disk(out: &mut Exposition, core: &CoreMetrics) {
    for (name, help, histogram) in [
        ("etcd_disk_wal_fsync_duration_seconds", "Time to make a write of the log durable.", &core.wal_fsync_duration),
        ("etcd_disk_backend_defrag_duration_seconds", "Time of a defragmentation.", &core.defrag_duration),
    ] {
        out.family(name, Kind::Histogram, help);
        out.distribution(&[], &histogram.read());
    }
    out.gauge("etcd_disk_wal_write_bytes_total", "Bytes written to the log.", core.wal_write_bytes.get() as f64);
    out.gauge("etcd_disk_defrag_inflight", "1 while space is being given back.", core.defrag_inflight.get() as f64);
}

fn grpc(out: &mut Exposition, sources: &Sources<'_>) {
    let received = sources.sum(|shard| shard.client_received_bytes.get());
    out.counter("etcd_network_client_grpc_received_bytes_total", "Bytes received from gRPC clients.", received);
    let sent = sources.sum(|shard| shard.client_sent_bytes.get());
    out.counter("etcd_network_client_grpc_sent_bytes_total", "Bytes sent to gRPC clients.", sent);
    let failures = sources.sum(|shard| shard.stream_failures.get());
    if failures > 0 {
        out.family("etcd_network_server_stream_failures_total", Kind::Counter, "Streams that failed.");
        out.sample(&[("API", "watch"), ("Type", "send")], failures as f64);
    }
    let count = |at: usize, of: &dyn Fn(&MethodMetrics) -> u64| sources.sum(|shard| of(&shard.methods[at])) as f64;
    let shown = || {
        let started = |at: usize| count(at, &|method| method.started.get()) > 0.0;
        METHODS.iter().enumerate().filter(move |(at, (service, ..))| shown_from_the_start(service) || started(*at))
    };
    type OfMethod = fn(&MethodMetrics) -> u64;
    let counters: [(&'static str, &str, OfMethod); 3] = [
        ("grpc_server_started_total", "Calls begun.", |method| method.started.get()),
        ("grpc_server_msg_received_total", "Messages received in calls.", |method| method.received.get()),
        ("grpc_server_msg_sent_total", "Messages sent in calls.", |method| method.sent.get()),
    ];
    for (name, help, of) in counters {
        out.family(name, Kind::Counter, help);
        for (at, (service, method, kind)) in shown() {
            out.sample(&[("grpc_method", method), ("grpc_service", service), ("grpc_type", kind)], count(at, &of));
        }
    }
    out.family("grpc_server_handled_total", Kind::Counter, "Calls ended, by status.");
    for (at, (service, method, kind)) in shown() {
        for code in Code::ALL {
            let labels = [
                ("grpc_code", code.name()),
                ("grpc_method", *method),
                ("grpc_service", *service),
                ("grpc_type", *kind),
            ];
            out.sample(&labels, count(at, &|method| method.ended(code)));
        }
    }
    if sources.member.extensive {
        out.family("grpc_server_handling_seconds", Kind::Histogram, "Time of a call.");
        for (at, (service, method, kind)) in shown() {
            let mut read = sources.shards.iter().map(|shard| shard.methods[at].handling.read());
            let Some(mut sum) = read.next() else { continue };
            read.for_each(|more| sum.merge(&more));
            out.distribution(&[("grpc_method", method), ("grpc_service", service), ("grpc_type", kind)], &sum);
        }
    }
}

fn health(out: &mut Exposition, health: &HealthMetrics) {
    out.counter("etcd_server_health_success", "Requests of /health that found the member healthy.", health.healthy());
    out.counter("etcd_server_health_failures", "Requests of /health that did not.", health.unhealthy());
    let checks = || Check::ALL.into_iter().filter_map(|check| Some((check, health.check(check)?)));
    out.family("etcd_server_healthcheck", Kind::Gauge, "1 if the check last succeeded.");
    for (check, (last, _, _)) in checks() {
        out.sample(&[("name", check.name()), ("type", check.kind())], last as f64);
    }
    out.family("etcd_server_healthchecks_total", Kind::Counter, "Checks by what came of them.");
    for (check, (_, failed, succeeded)) in checks() {
        for (status, count) in [("error", failed), ("success", succeeded)].into_iter().filter(|(_, count)| *count > 0) {
            out.sample(&[("name", check.name()), ("status", status), ("type", check.kind())], count as f64);
        }
    }
}

fn own(out: &mut Exposition, sources: &Sources<'_>) {
    out.family("urd_stage_duration_seconds", Kind::Summary, "Time spent in each stage of a request's way.");
    for (stage, name) in Stage::ALL {
        let mut spread = Spread::default();
        sources.core.stages.0[stage as usize].read_into(&mut spread);
        sources.shards.iter().for_each(|shard| shard.stages.0[stage as usize].read_into(&mut spread));
        out.summary(&[("stage", name)], &spread, 1e-9);
    }
    out.family("urd_batch_entries", Kind::Summary, "Entries in one durable write of the log.");
    let mut spread = Spread::default();
    sources.core.batch_size.read_into(&mut spread);
    out.summary(&[], &spread, 1.0);
    out.family("urd_mail_requests", Kind::Summary, "Requests that one mail from a shard to the raft core carried.");
    let mut spread = Spread::default();
    sources.shards.iter().for_each(|shard| shard.mail_size.read_into(&mut spread));
    out.summary(&[], &spread, 1.0);

    let hashed = sources.sum(|shard| shard.password_hashes.get());
    out.counter("urd_password_hashes_total", "Passwords hashed, to be kept or to be compared.", hashed);

    let core = sources.core;
    let scrubbed = core.scrubbed_bytes.get();
    out.counter("urd_scrubbed_bytes_total", "Bytes of the log read from the disk to find damage.", scrubbed);
    out.counter("urd_damaged_records_total", "Records of the log found damaged.", core.damaged_records.get());
    let mended = core.mended_values.get();
    out.counter("urd_mended_values_total", "Values fetched from other members in place of damaged ones.", mended);
    out.family("urd_damaged_values", Kind::Gauge, "Values in damaged records that no other member has given yet.");
    out.sample(&[], core.damaged_values.get() as f64);

    if let Some(traces) = sources.traces {
        out.family("urd_trace_spans_total", Kind::Counter, "Spans by what became of them.");
        for (outcome, count) in traces {
            out.sample(&[("outcome", outcome)], count as f64);
        }
    }

    type OfShard = fn(&ShardMetrics) -> f64;
    let per_shard: [(&'static str, Kind, &str, OfShard); 5] = [
        ("urd_shard_connections", Kind::Gauge, "Open connections.", |shard| shard.connections.get() as f64),
        ("urd_shard_requests", Kind::Gauge, "Requests being served.", |shard| shard.requests_active.get() as f64),
        ("urd_shard_queued_bytes", Kind::Gauge, "Bytes queued for clients.", |shard| shard.queued_bytes.get() as f64),
        ("urd_shard_busy_seconds_total", Kind::Counter, "Time worked, not waited.", |shard| {
            shard.busy_nanoseconds.get() as f64 * 1e-9
        }),
        ("urd_shard_turns_total", Kind::Counter, "Turns of the loop.", |shard| shard.turns.get() as f64),
    ];
    for (name, kind, help, of) in per_shard {
        out.family(name, kind, help);
        for (at, shard) in sources.shards.iter().enumerate() {
            out.sample(&[("shard", &at.to_string())], of(shard));
        }
    }
}

/// What etcd counts and what never happens here: a dashboard finds it, at nothing.
fn never(out: &mut Exposition) {
    const BBOLT: &str = "Commits of bbolt.";
    const RECEIVED: &str = "Snapshots received.";
    const SNAPSHOTS: &str = "Snapshots of etcd's raft log.";
    let durations: [(&'static str, &str, &'static [f64]); 13] = [
        ("etcd_disk_wal_write_duration_seconds", "Writes of the log without their sync.", &LATENCY),
        ("etcd_disk_backend_commit_duration_seconds", BBOLT, &LATENCY),
        ("etcd_debugging_disk_backend_commit_rebalance_duration_seconds", BBOLT, &LATENCY),
        ("etcd_debugging_disk_backend_commit_spill_duration_seconds", BBOLT, &LATENCY),
        ("etcd_debugging_disk_backend_commit_write_duration_seconds", BBOLT, &LATENCY),
        ("etcd_disk_backend_snapshot_duration_seconds", "Snapshots of bbolt.", &SNAPSHOT),
        (
            "etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds",
            "Pauses of etcd's index.",
            &INDEX_PAUSE_MS,
        ),
        (
            "etcd_debugging_server_watch_send_loop_progress_duration_seconds",
            "Progress sent by itself: it is sent with what else there is.",
            &LATENCY,
        ),
        ("etcd_snap_db_fsync_duration_seconds", RECEIVED, &LATENCY),
        ("etcd_snap_db_save_total_duration_seconds", RECEIVED, &SNAPSHOT_SAVE),
        ("etcd_snap_fsync_duration_seconds", SNAPSHOTS, &LATENCY),
        ("etcd_debugging_snap_save_marshalling_duration_seconds", SNAPSHOTS, &LATENCY),
        ("etcd_debugging_snap_save_total_duration_seconds", SNAPSHOTS, &LATENCY),
    ];
    for (name, help, bounds) in durations {
        out.family(name, Kind::Histogram, help);
        out.distribution(&[], &Distribution::empty(bounds));
    }
    const V2: &str = "Of the v2 store.";
    out.counter("etcd_debugging_store_expires_total", V2, 0);
    out.counter("etcd_debugging_store_watch_requests_total", V2, 0);
    out.gauge("etcd_debugging_store_watchers", V2, 0.0);
    const PROXY: &str = "Of the gRPC proxy.";
    out.counter("etcd_grpc_proxy_events_coalescing_total", PROXY, 0);
    for name in [
        "etcd_grpc_proxy_cache_hits_total",
        "etcd_grpc_proxy_cache_keys_total",
        "etcd_grpc_proxy_cache_misses_total",
        "etcd_grpc_proxy_watchers_coalescing_total",
    ] {
        out.gauge(name, PROXY, 0.0);
    }
}

/// As the handler of Prometheus' library tells of itself: this one is still being answered.
fn scrapes(out: &mut Exposition, health: &HealthMetrics) {
    out.gauge("promhttp_metric_handler_requests_in_flight", "Scrapes being answered.", 1.0);
    out.family("promhttp_metric_handler_requests_total", Kind::Counter, "Scrapes answered, by HTTP status.");
    for (code, count) in [("200", health.scrapes()), ("500", 0), ("503", 0)] {
        out.sample(&[("code", code)], count as f64);
    }
}

fn process(out: &mut Exposition, process: &Process) {
    let (open, most) = (process.open_files as f64, process.open_files_max as f64);
    out.gauge("os_fd_limit", "Files that may be open.", most);
    out.gauge("os_fd_used", "Files that are open.", open);
    out.family("process_cpu_seconds_total", Kind::Counter, "Processor time used, in user and system mode.");
    out.sample(&[], process.cpu_seconds);
    out.gauge("process_max_fds", "Files that may be open.", most);
    out.family("process_network_receive_bytes_total", Kind::Counter, "Bytes received over IP.");
    out.sample(&[], process.received_bytes);
    out.family("process_network_transmit_bytes_total", Kind::Counter, "Bytes sent over IP.");
    out.sample(&[], process.sent_bytes);
    out.gauge("process_open_fds", "Files that are open.", open);
    out.gauge("process_resident_memory_bytes", "Resident memory.", process.resident_bytes as f64);
    out.gauge("process_start_time_seconds", "Unix time at which the process started.", process.start_seconds);
    out.gauge("process_virtual_memory_bytes", "Virtual memory.", process.virtual_bytes as f64);
    let most = process.virtual_bytes_max.unwrap_or(u64::MAX) as f64;
    out.gauge("process_virtual_memory_max_bytes", "Virtual memory that may be used.", most);
}

#[cfg(test)]
mod tests;
