//! The rows of the comparison: which workloads, on which fresh servers, in which sizes, and what is to be reached. Pure
//! data; `compare.rs` carries it out.

use serde::{Deserialize, Serialize};

use crate::{
    measure::Outcome,
    plan::{Plan, Workload},
    report,
};

/// Rows that share one fresh server, in this order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    pub name: String,
    /// Flags of both servers, beside the defaults.
    pub flags: Vec<String>,
    pub rows: Vec<Row>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    pub name: String,
    pub title: String,
    pub plan: Plan,
    pub goals: Vec<Goal>,
    /// Later rows of the stage need it: it is never left out alone.
    #[serde(default)]
    pub is_ground: bool,
}

/// What urd is to reach.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Goal {
    pub figure: String,
    pub bound: Bound,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bound {
    AtMost(f64),
    AtLeast(f64),
    /// At most this part of the reference's figure.
    OfReference(f64),
    /// At most this much more than the device's own time for a durable write, in milliseconds.
    OverSync(f64),
}

impl Goal {
    /// The figure that is to be reached; None if what it depends on was not measured.
    pub fn limit(&self, reference: Option<&Outcome>, ours: &Outcome) -> Option<f64> {
        match self.bound {
            Bound::AtMost(limit) | Bound::AtLeast(limit) => Some(limit),
            Bound::OfReference(part) => reference?.figure(&self.figure).map(|figure| figure * part),
            Bound::OverSync(more) => ours.figure("device_sync_ms").map(|sync| sync + more),
        }
    }

    /// None if it was not measured.
    pub fn is_reached(&self, reference: Option<&Outcome>, ours: &Outcome) -> Option<bool> {
        let (figure, limit) = (ours.figure(&self.figure)?, self.limit(reference, ours)?);
        Some(if matches!(self.bound, Bound::AtLeast(_)) { figure >= limit } else { figure <= limit })
    }
}

/// How large everything is.
#[derive(Clone, Copy, Debug)]
struct Scale {
    /// Measured time of a row.
    seconds: f64,
    warm_up_seconds: f64,
    /// Keys of the calls' rows.
    keys: u64,
    /// Keys of the large data set; as many revisions are compacted.
    million: u64,
    settle_seconds: f64,
    /// The longest that a listing in pages may take.
    list_seconds: f64,
    one_client_puts: u64,
    watches: u64,
    streams: u64,
    fan_out: u64,
    leases_memory: u64,
    leases_expiry: u64,
    ttl_seconds: i64,
}

const FULL: Scale = Scale {
    seconds: 6.0,
    warm_up_seconds: 1.0,
    keys: 10_000,
    million: 1_000_000,
    settle_seconds: 30.0,
    list_seconds: 15.0,
    one_client_puts: 100_000,
    watches: 100_000,
    streams: 1_000,
    fan_out: 1_000,
    leases_memory: 100_000,
    leases_expiry: 50_000,
    ttl_seconds: 20,
};

const QUICK: Scale = Scale {
    seconds: 2.0,
    million: 100_000,
    settle_seconds: 5.0,
    list_seconds: 5.0,
    one_client_puts: 5_000,
    watches: 20_000,
    streams: 200,
    leases_memory: 20_000,
    leases_expiry: 5_000,
    ttl_seconds: 3,
    ..FULL
};

/// Whether harness and servers understand each other; the figures mean nothing.
const SMOKE: Scale = Scale {
    seconds: 0.2,
    warm_up_seconds: 0.1,
    keys: 200,
    million: 1_500,
    settle_seconds: 0.2,
    list_seconds: 2.0,
    one_client_puts: 50,
    watches: 400,
    streams: 20,
    fan_out: 20,
    leases_memory: 100,
    leases_expiry: 50,
    ttl_seconds: 2,
};

/// `full`, `quick`, `smoke`, or names of rows separated by commas, which are taken from `full`, or from a set named
/// before a colon: `quick:get,put`. `seconds`: measured time of a row in place of the set's.
///
/// # Errors
/// Names that no row has, with those that there are.
pub fn select(text: &str, seconds: Option<f64>) -> Result<Vec<Stage>, String> {
    let (set, names) = match text.split_once(':') {
        Some((set, names)) => (set, Some(names)),
        None if ["full", "quick", "smoke"].contains(&text) => (text, None),
        None => ("full", Some(text)),
    };
    let scale = match set {
        "full" => FULL,
        "quick" => QUICK,
        "smoke" => SMOKE,
        other => return Err(format!("no set of rows is named {other:?}: full, quick, smoke")),
    };
    let mut stages = stages(Scale { seconds: seconds.unwrap_or(scale.seconds), ..scale });
    let Some(names) = names else { return Ok(stages) };
    let names: Vec<&str> = names.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
    let all: Vec<String> = stages.iter().flat_map(|stage| stage.rows.iter().map(|row| row.name.clone())).collect();
    if let Some(unknown) = names.iter().find(|name| !all.iter().any(|row| row == *name)) {
        return Err(format!("no row is named {unknown:?}: {}", all.join(", ")));
    }
    for stage in &mut stages {
        let is_wanted = |row: &Row| names.contains(&row.name.as_str());
        let last = stage.rows.iter().rposition(is_wanted);
        let mut at = 0;
        stage.rows.retain(|row| {
            at += 1;
            is_wanted(row) || (row.is_ground && last.is_some_and(|last| at <= last))
        });
    }
    stages.retain(|stage| !stage.rows.is_empty());
    Ok(stages)
}

fn row(name: &str, title: &str, plan: Plan, goals: &[(&str, Bound)]) -> Row {
    let goals = goals.iter().map(|(figure, bound)| Goal { figure: (*figure).to_owned(), bound: *bound }).collect();
    Row { name: name.to_owned(), title: title.to_owned(), plan, goals, is_ground: false }
}

fn stage(name: &str, rows: Vec<Row>) -> Stage {
    Stage { name: name.to_owned(), flags: Vec::new(), rows }
}

fn stages(scale: Scale) -> Vec<Stage> {
    use Bound::*;
    use Workload::*;
    let plan = |workload| Plan {
        workload,
        seconds: scale.seconds,
        warm_up_seconds: scale.warm_up_seconds,
        keys: scale.keys,
        ..Plan::default()
    };
    let on_100 = |workload| Plan { connections: 100, ..plan(workload) };
    let one = |workload| Plan { callers: 1, connections: 1, ..plan(workload) };
    let million = |workload| Plan { keys: scale.million, ..plan(workload) };
    let cpu = |limit| [("cpu_us_per_op", AtMost(limit))];
    let watches = |workload, watches, streams, connections| Plan { watches, streams, connections, ..plan(workload) };

    let number = |count: f64| if count == 1e6 { "1 M".to_owned() } else { report::number(count) };
    let million_keys = format!("{} keys", number(scale.million as f64));

    let calls = vec![
        row("put", "put", plan(Put), &cpu(10.0)),
        row("put-100c", "put, 100 connections", on_100(Put), &cpu(10.0)),
        row("get", "get, linearizable", plan(Get), &cpu(6.0)),
        row("get-100c", "get, linearizable, 100 connections", on_100(Get), &cpu(6.0)),
        row("get-serializable", "get, serializable", plan(GetSerializable), &cpu(6.0)),
        row("get-serializable-100c", "get, serializable, 100 connections", on_100(GetSerializable), &cpu(6.0)),
        row("range", "range of 10 keys", plan(Range), &[]),
        row("txn", "txn: compare, put", plan(Txn), &[]),
        row("mixed", "80 % get, 20 % put", plan(Mixed), &[]),
        row("keep-alive", "lease keep-alive", plan(KeepAlive), &cpu(5.0)),
        row("put-one", "put, one client", one(Put), &[("p50_ms", OverSync(0.12))]),
        row("put-one-go", "put, one client, etcd's Go client", one(PutGo), &[("p50_ms", OverSync(0.12))]),
        row(
            "put-open",
            "put, 2,000/s",
            Plan { rate: Some(2_000.0), ..plan(Put) },
            &[("cpu_us_per_op", OfReference(0.25)), ("p99_ms", OfReference(1.0 / 3.0))],
        ),
        row("lease-grant", "lease grant", plan(LeaseGrant), &[]),
        row("connect", "connection, one get", Plan { callers: 10, ..plan(Connect) }, &[]),
    ];
    let idle = row(
        "idle",
        "idle with 100 watches",
        watches(Idle, 100, 10, 10),
        &[("idle_cpu_percent", AtMost(1.0)), ("idle_cpu_percent", OfReference(1.0))],
    );
    let fan_out = row(
        "fan-out",
        &format!("{} watchers of one prefix", number(scale.fan_out as f64)),
        Plan { writes_per_second: 100.0, ..watches(WatchFanOut, scale.fan_out, 10, 10) },
        &cpu(0.6),
    );
    // What the servers have to settle with before they are looked at.
    let settled = |plan: Plan| Plan { seconds: scale.seconds.min(3.0), ..plan };
    let watch_memory = row(
        "watch-memory",
        "memory of watches on 10 streams",
        settled(watches(WatchMemory, scale.watches, 10, 10)),
        &[("bytes_per_watch", AtMost(250.0))],
    );
    let stream_memory = row(
        "stream-memory",
        "memory of streams on 100 connections",
        settled(watches(WatchMemory, scale.streams, scale.streams, 100)),
        &[("bytes_per_stream", AtMost(4_000.0))],
    );
    let lease_memory = row(
        "lease-memory",
        "memory of a lease with one key",
        settled(Plan { leases: scale.leases_memory, value_bytes: 16, ..plan(LeaseMemory) }),
        &[("bytes_per_lease", AtMost(500.0))],
    );
    let lease_expiry = row(
        "lease-expiry",
        &format!("{} leases of {} s: the last key gone", number(scale.leases_expiry as f64), scale.ttl_seconds),
        Plan { leases: scale.leases_expiry, ttl_seconds: scale.ttl_seconds, value_bytes: 16, ..plan(LeaseExpiry) },
        &[("late_seconds", AtMost(1.5))],
    );
    let load = Row {
        is_ground: true,
        ..row(
            "load",
            &format!("{million_keys} loaded"),
            Plan { settle_seconds: scale.settle_seconds, ..million(Load) },
            &[("rss_peak_mb", AtMost(250.0)), ("disk_mb", AtMost(450.0))],
        )
    };
    let one_client_puts = row(
        "put-one-disk",
        &format!("then {} puts by one client", number(scale.one_client_puts as f64)),
        Plan {
            callers: 1,
            connections: 1,
            operations: Some(scale.one_client_puts),
            settle_seconds: scale.settle_seconds,
            ..million(Put)
        },
        &[("disk_per_live", AtMost(2.0))],
    );
    let listing = Plan { seconds: scale.list_seconds, ..million(ListPaged) };
    let list_paged = row("list-paged", &format!("{million_keys} in pages of 500, quiet"), listing.clone(), &[]);
    let list_paged_writes = row(
        "list-paged-writes",
        &format!("{million_keys} in pages of 500, 1,000 puts/s beside"),
        Plan { writes_per_second: 1_000.0, ..listing },
        &[("rate", AtLeast(500_000.0))],
    );
    let list_whole = row(
        "list-whole",
        &format!("{million_keys} in one answer"),
        million(ListWhole),
        &[("cpu_us_per_op", AtMost(1.0)), ("rss_growth_mb", AtMost(128.0))],
    );
    let compaction = row(
        "compaction",
        &format!("put while {} revisions are compacted", number(scale.million as f64)),
        Plan { revisions: scale.million, writes_per_second: 1_000.0, ..million(Compaction) },
        &[("p99_ratio", AtMost(1.5))],
    );
    let restart = row(
        "restart",
        &format!("restart with {million_keys}, killed after the load"),
        million(Restart),
        &[("warm_seconds", AtMost(0.5)), ("cold_seconds", AtMost(0.5))],
    );
    // A data set with its history may pass etcd's default of 2 GiB.
    let with_room = |mut stage: Stage| {
        stage.flags = vec!["--quota-backend-bytes=8589934592".to_owned()];
        stage
    };
    vec![
        stage("calls", calls),
        stage("watches", vec![idle, fan_out]),
        stage("watch memory", vec![watch_memory]),
        stage("stream memory", vec![stream_memory]),
        stage("lease memory", vec![lease_memory]),
        stage("lease expiry", vec![lease_expiry]),
        with_room(stage(
            "large data set",
            vec![load, one_client_puts, list_paged, list_paged_writes, list_whole, compaction],
        )),
        with_room(stage("restart", vec![restart])),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn names(text: &str) -> Vec<String> {
        select(text, None).unwrap().into_iter().flat_map(|stage| stage.rows).map(|row| row.name).collect()
    }

    #[test]
    fn rows_are_chosen_by_set_and_by_name() {
        let full = names("full");
        assert_eq!(full.len(), full.iter().collect::<HashSet<_>>().len(), "a name twice");
        assert_eq!(full, names("smoke"));
        assert_eq!(names("get, put"), ["put", "get"]);
        assert_eq!(names("quick:idle"), ["idle"]);
        assert_eq!(names("list-whole"), ["load", "list-whole"], "what a row stands on comes with it");
        assert!(select("gett", None).unwrap_err().contains("get-serializable"));
        assert!(select("slow:get", None).unwrap_err().contains("smoke"));
        assert_eq!(select("get", Some(2.5)).unwrap()[0].rows[0].plan.seconds, 2.5);
    }

    #[test]
    fn goals_are_judged_against_figures_of_the_same_run() {
        let outcome = |cpu, sync| {
            let mut outcome =
                Outcome { operations: 1_000_000, seconds: 1.0, cpu_seconds: Some(cpu), ..Outcome::default() };
            outcome.set("device_sync_ms", sync);
            outcome.set("p", 0.3);
            outcome
        };
        let (theirs, ours) = (outcome(40.0, 0.1), outcome(10.0, 0.2));
        let reached = |figure: &str, bound| Goal { figure: figure.to_owned(), bound }.is_reached(Some(&theirs), &ours);
        assert_eq!(reached("cpu_us_per_op", Bound::AtMost(10.0)), Some(true));
        assert_eq!(reached("cpu_us_per_op", Bound::OfReference(0.25)), Some(true));
        assert_eq!(reached("cpu_us_per_op", Bound::OfReference(0.24)), Some(false));
        assert_eq!(reached("rate", Bound::AtLeast(1e6)), Some(true));
        assert_eq!(reached("rate", Bound::AtLeast(2e6)), Some(false));
        assert_eq!(reached("p", Bound::OverSync(0.11)), Some(true));
        assert_eq!(reached("p", Bound::OverSync(0.09)), Some(false));
        assert_eq!(reached("p99_ms", Bound::AtMost(1.0)), None, "nothing was recorded");
        let goal = Goal { figure: "cpu_us_per_op".to_owned(), bound: Bound::OfReference(1.0) };
        assert_eq!(goal.is_reached(None, &ours), None, "there is no reference");
    }

    #[test]
    fn stages_survive_json() {
        let stages = select("full", None).unwrap();
        let text = serde_json::to_string(&stages).unwrap();
        assert_eq!(serde_json::from_str::<Vec<Stage>>(&text).unwrap(), stages);
    }
}
