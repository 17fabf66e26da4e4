//! What one measurement does, in full: the same structure is the command line, a row of the comparison and what a results
//! file keeps, so that a run can be repeated from its results. It never says against whom: that is `target.rs`.

use clap::{Args, Parser, ValueEnum};
use serde::{Deserialize, Serialize};

/// Bytes of a key, whatever its number.
pub const KEY_BYTES: usize = 32;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Workload {
    /// Overwrites keys.
    Put,
    /// Reads one key, linearizable.
    Get,
    /// Reads one key, serializable.
    GetSerializable,
    /// Reads `--span` neighbouring keys.
    Range,
    /// A transaction: if the key is there, put it.
    Txn,
    /// Reads and writes, `--read-percent` of them reads.
    Mixed,
    /// Renews leases, each caller its own on a stream of its own.
    KeepAlive,
    /// Grants leases of ten minutes.
    LeaseGrant,
    /// Puts keys 0 to `--keys` once each, then settles: memory and disk.
    Load,
    /// Lists all keys in pages of `--page` at the first page's revision, beside `--writes-per-second`. Ends with the keys
    /// or after `--seconds`.
    ListPaged,
    /// Lists all keys in one answer.
    ListWhole,
    /// `--watches` of one prefix on `--streams`, events by `--writes-per-second`.
    WatchFanOut,
    /// The memory that `--watches` on `--streams` take.
    WatchMemory,
    /// The CPU that a server takes with `--watches` that nothing happens to.
    Idle,
    /// The memory that `--leases` with a key each take.
    LeaseMemory,
    /// `--leases` of `--ttl-seconds` with a key each: how late the keys go.
    LeaseExpiry,
    /// The latency of puts (`--writes-per-second`) while a compaction of `--revisions` runs, and without one.
    Compaction,
    /// Loads `--keys`, kills the server, and takes the time from its start to the first linearizable read: with a warm page
    /// cache, and again, on a copy of the same data, with an empty one.
    Restart,
    /// Opens a connection, reads one key, closes it.
    Connect,
    /// One put after the other by etcd's Go client (tests/stock/one).
    PutGo,
}

impl Workload {
    pub fn name(self) -> String {
        self.to_possible_value().expect("no variant is skipped").get_name().to_owned()
    }

    /// What an operation is.
    pub fn unit(self) -> &'static str {
        match self {
            Workload::ListPaged | Workload::ListWhole => "key",
            Workload::WatchFanOut => "event",
            Workload::WatchMemory | Workload::Idle => "watch",
            Workload::LeaseMemory | Workload::LeaseExpiry => "lease",
            _ => "op",
        }
    }

    /// Whether the workload reads keys that must be there before.
    pub fn needs_keys(self) -> bool {
        use Workload::*;
        matches!(self, Get | GetSerializable | Range | Txn | Mixed | ListPaged | ListWhole)
    }

    /// Whether only a server that this program has started can be asked for it.
    pub fn needs_own_server(self) -> bool {
        self == Workload::Restart
    }
}

/// Parameters of a measurement; those that a workload does not know are of no effect.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Args)]
#[serde(default, deny_unknown_fields)]
pub struct Plan {
    #[arg(skip = Workload::Put)]
    pub workload: Workload,
    /// Calls in flight of a closed loop.
    #[arg(long, alias = "clients", default_value_t = 100)]
    pub callers: usize,
    #[arg(long, default_value_t = 10)]
    pub connections: usize,
    /// Calls a second of an open loop: sent at their times, whether or not earlier ones are answered; latency counts from
    /// the time at which a call was to be sent. Without it the loop is closed.
    #[arg(long)]
    pub rate: Option<f64>,
    #[arg(long, default_value_t = 1.0)]
    pub warm_up_seconds: f64,
    /// Measured time.
    #[arg(long, default_value_t = 10.0)]
    pub seconds: f64,
    /// Stop after so many operations instead, without warming up.
    #[arg(long)]
    pub operations: Option<u64>,
    /// Keys of 32 bytes that the calls are spread over.
    #[arg(long, default_value_t = 10_000)]
    pub keys: u64,
    #[arg(long, default_value_t = 256)]
    pub value_bytes: usize,
    /// Keys a page of `list-paged`.
    #[arg(long, default_value_t = 500)]
    pub page: u64,
    /// Keys a call of `range`.
    #[arg(long, default_value_t = 10)]
    pub span: u64,
    /// Share of reads in `mixed`.
    #[arg(long, default_value_t = 80, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub read_percent: u8,
    /// Puts beside listings, under watches, during compaction.
    #[arg(long, default_value_t = 0.0)]
    pub writes_per_second: f64,
    #[arg(long, default_value_t = 1_000)]
    pub watches: u64,
    #[arg(long, default_value_t = 10)]
    pub streams: u64,
    #[arg(long, default_value_t = 50_000)]
    pub leases: u64,
    #[arg(long, default_value_t = 20)]
    pub ttl_seconds: i64,
    /// Revisions that `compaction` makes and compacts.
    #[arg(long, default_value_t = 1_000_000)]
    pub revisions: u64,
    /// Time between the load and the look at memory and disk.
    #[arg(long, default_value_t = 0.0)]
    pub settle_seconds: f64,
}

impl Default for Plan {
    /// What the command line says when it says nothing.
    fn default() -> Self {
        #[derive(Parser)]
        struct Nothing {
            #[command(flatten)]
            plan: Plan,
        }
        Nothing::parse_from(["plan"]).plan
    }
}

impl Plan {
    /// Who asks, in words for the table.
    pub fn callers_text(&self) -> String {
        use Workload::*;
        let plural = |count: u64, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
        let connections = |count: usize| plural(count.min(self.connections) as u64, "connection");
        match self.workload {
            WatchFanOut | WatchMemory | Idle => format!(
                "{} on {}, {}",
                if self.watches == 1 { "1 watch".to_owned() } else { format!("{} watches", self.watches) },
                plural(self.streams, "stream"),
                connections(self.streams as usize)
            ),
            ListPaged | ListWhole | PutGo => "1 caller".to_owned(),
            Compaction => format!("{}/s, open loop", self.writes_per_second),
            _ => match self.rate {
                Some(rate) => format!("{rate}/s, open loop, {}", connections(usize::MAX)),
                None => format!("{}, {}", plural(self.callers as u64, "caller"), connections(self.callers)),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_survives_json_and_unknown_parameters_are_refused() {
        let plan = Plan { workload: Workload::ListPaged, rate: Some(12.5), operations: Some(7), ..Plan::default() };
        let text = serde_json::to_string(&plan).unwrap();
        assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), plan);
        assert!(serde_json::from_str::<Plan>(r#"{"workload":"put","colour":1}"#).is_err());
    }

    #[test]
    fn callers_in_words() {
        let text = |plan: Plan| plan.callers_text();
        assert_eq!(text(Plan::default()), "100 callers, 10 connections");
        assert_eq!(text(Plan { callers: 1, ..Plan::default() }), "1 caller, 1 connection");
        assert_eq!(text(Plan { rate: Some(2000.0), ..Plan::default() }), "2000/s, open loop, 10 connections");
        let fan = Plan { workload: Workload::WatchFanOut, streams: 1, ..Plan::default() };
        assert_eq!(text(fan), "1000 watches on 1 stream, 1 connection");
    }
}
