//! What a run leaves behind: everything needed to judge its figures and to take them again. Written as one JSON file.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    compare::CompareOptions,
    gauge::CpuSource,
    machine::{self, Cores, Machine},
    measure::Outcome,
    plan::Plan,
    rows::{Row, Stage},
    server::Program,
    target::Target,
};

/// Raised when a file of before cannot be read any more.
const FORMAT: u32 = 1;

/// The reference's name in results; the other's.
pub const ETCD: &str = "etcd";
pub const URD: &str = "urd";

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Results {
    pub format: u32,
    pub date: String,
    pub host: String,
    pub machine: Machine,
    pub servers: Vec<ServerSeen>,
    pub command: Command,
    pub rows: Vec<RowResult>,
}

/// What was asked for, in full.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Command {
    Compare { options: CompareOptions, cores: Cores, stages: Vec<Stage> },
    Run { target: Target, pid: Option<u32>, data_dir: Option<PathBuf>, plans: Vec<Plan> },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerSeen {
    pub name: String,
    pub program: Program,
    /// How it was seen to sync its log.
    pub syncs: String,
    pub cpu_source: Option<CpuSource>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RowResult {
    pub stage: String,
    pub row: Row,
    pub sides: Vec<Side>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Side {
    pub server: String,
    pub outcome: Option<Outcome>,
    pub failure: Option<String>,
}

impl RowResult {
    pub fn side(&self, server: &str) -> Option<&Outcome> {
        self.sides.iter().find(|side| side.server == server)?.outcome.as_ref()
    }

    /// Whether latencies were measured: then it has a curve.
    pub fn has_curve(&self) -> bool {
        self.sides.iter().any(|side| side.outcome.as_ref().is_some_and(|outcome| outcome.latency.count() > 1))
    }
}

impl Results {
    pub fn new(machine: Machine, servers: Vec<ServerSeen>, command: Command, rows: Vec<RowResult>) -> Self {
        Results { format: FORMAT, date: machine::now_text(), host: machine::host(), machine, servers, command, rows }
    }

    /// # Errors
    /// If the file cannot be read, or is of a format that this version does not know.
    pub fn load(path: &Path) -> Result<Self, String> {
        let text = fs::read_to_string(path).map_err(|cause| format!("{}: {cause}", path.display()))?;
        let results: Self = serde_json::from_str(&text).map_err(|cause| format!("{}: {cause}", path.display()))?;
        match results.format {
            FORMAT => Ok(results),
            other => Err(format!("{}: format {other}, where {FORMAT} is known", path.display())),
        }
    }

    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("strings, numbers and lists")
    }

    /// The failures of all rows, in words.
    pub fn failures(&self) -> Vec<String> {
        let of = |row: &RowResult| {
            let name = row.row.name.clone();
            row.sides
                .iter()
                .filter_map(move |side| Some(format!("{name}, {}: {}", side.server, side.failure.as_ref()?)))
                .collect::<Vec<_>>()
        };
        self.rows.iter().flat_map(of).collect()
    }
}
