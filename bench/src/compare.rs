//! Both servers, one after the other, each stage on fresh ones, the same rows in the same order by the same client. Before
//! anything is compared, each is seen to sync its log, or there is no comparison.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command as Process,
};

use clap::Args;
use serde::{Deserialize, Serialize};

use crate::{
    gauge::{Gauge, watch_syncs},
    local,
    machine::{self, Cores, Machine},
    measure::Outcome,
    plan::Workload,
    progress::Progress,
    report,
    results::{Command, ETCD, Results, RowResult, ServerSeen, Side, URD},
    rows::{self, Stage},
    server::{Program, Recipe, Server},
    target::Dialer,
    wire,
    workload::{self, Site},
};

/// Puts, one after the other, during which a server's syncs are watched.
const SYNC_CHECK_PUTS: u64 = 40;
/// How often a server is looked at before it counts as one that does not sync.
const SYNC_CHECKS: usize = 5;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Args)]
#[serde(deny_unknown_fields)]
pub struct CompareOptions {
    /// The reference server.
    #[arg(long)]
    pub etcd: PathBuf,
    #[arg(long, default_value = "target/release/urd")]
    pub urd: PathBuf,
    /// `full`, `quick`, `smoke`, or names of rows separated by commas (`quick:get,put` in the sizes of a set).
    #[arg(long, default_value = "full")]
    pub rows: String,
    /// Measured time of a row, in place of the set's.
    #[arg(long)]
    pub seconds: Option<f64>,
    /// Where report.md, results.json, latency.svg and the .hgrm files go.
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Where the servers' data lie while they run; the disk beneath it is what is measured.
    #[arg(long, default_value_os_t = std::env::temp_dir())]
    pub data: PathBuf,
    /// A further flag of the reference, for example --etcd-flag=--snapshot-count=100000. May be given several times.
    #[arg(long, allow_hyphen_values = true)]
    pub etcd_flag: Vec<String>,
    /// A further flag of urd.
    #[arg(long, allow_hyphen_values = true)]
    pub urd_flag: Vec<String>,
    /// Clients of both servers speak TLS, by certificates made for the run.
    #[arg(long)]
    #[serde(default)]
    pub tls: bool,
    /// The folder of etcd's Go client's program, for the row put-one-go.
    #[arg(long, default_value = "tests/stock")]
    pub go: PathBuf,
}

struct Contender {
    name: &'static str,
    program: PathBuf,
    flags: Vec<String>,
    tls: bool,
}

impl Contender {
    fn recipe(&self, cores: Cores, data: &Path, flags: &[String]) -> Recipe {
        let flags = self.flags.iter().chain(flags).cloned().collect();
        Recipe { program: self.program.clone(), flags, core: cores.server, parent: data.to_owned(), tls: self.tls }
    }
}

/// # Errors
/// If a server does not sync its log, or a row failed; what could be measured is written nevertheless.
pub fn compare(options: &CompareOptions) -> Result<(), String> {
    let stages = rows::select(&options.rows, options.seconds)?;
    compare_stages(options, stages)
}

/// The same with stages from elsewhere: a results file.
pub fn compare_stages(options: &CompareOptions, stages: Vec<Stage>) -> Result<(), String> {
    let cores = Cores::choose();
    let machine = Machine::look(&options.data);
    machine::pin(cores.driver)
        .map_err(|cause| format!("the driver cannot be pinned to CPU {}: {cause}", cores.driver))?;
    let contenders = [
        Contender { name: ETCD, program: options.etcd.clone(), flags: options.etcd_flag.clone(), tls: options.tls },
        Contender { name: URD, program: options.urd.clone(), flags: options.urd_flag.clone(), tls: options.tls },
    ];
    println!("{}\nserver on CPU {}, driver on CPU {}", machine.text(), cores.server, cores.driver);
    let mut servers = Vec::new();
    for contender in &contenders {
        let seen = look_at(contender, cores, &options.data)?;
        println!("{}: {}; {}", seen.name, seen.program.version, seen.syncs);
        servers.push(seen);
    }
    let stages = without_go_if_missing(stages, options);
    let built = tempfile::tempdir().map_err(|cause| cause.to_string())?;
    let has_go_row = stages.iter().flat_map(|stage| &stage.rows).any(|row| row.plan.workload == Workload::PutGo);
    let go_client = has_go_row.then(|| build_go_client(&options.go, built.path())).transpose()?;

    let mut results = Vec::new();
    println!("\n{}", report::line_head());
    for stage in &stages {
        let mut rows: Vec<RowResult> = stage
            .rows
            .iter()
            .map(|row| RowResult { stage: stage.name.clone(), row: row.clone(), sides: Vec::new() })
            .collect();
        for contender in &contenders {
            let recipe = contender.recipe(cores, &options.data, &stage.flags);
            local(run_stage(contender.name, recipe, go_client.clone(), &mut rows));
        }
        results.extend(rows);
    }
    let command = Command::Compare { options: options.clone(), cores, stages };
    let results = Results::new(machine, servers, command, results);
    println!("\n{}", report::text(&results));
    if let Some(out) = &options.out {
        report::write(&results, out)?;
        println!("written to {}", out.display());
    }
    match results.failures() {
        failures if failures.is_empty() => Ok(()),
        failures => Err(format!("rows without a result:\n  {}", failures.join("\n  "))),
    }
}

/// What program it is, and whether it syncs.
fn look_at(contender: &Contender, cores: Cores, data: &Path) -> Result<ServerSeen, String> {
    let program = Program::look(&contender.program)?;
    let server = local(Server::start(contender.recipe(cores, data, &[])))?;
    let gauge = server.gauge();
    let dialer = Dialer::new(server.target())?;
    let mut burst = || {
        local(async {
            let client = dialer.connect().await?;
            for number in 0..SYNC_CHECK_PUTS {
                let put = wire::put(&wire::key(number), b"synced?", 0);
                client.unary_bytes(wire::PUT, put).await.map_err(|cause| cause.to_string())?;
            }
            Ok(())
        })
    };
    // Others may flush the same device meanwhile, which hides a server's own flushes: then it is looked at again.
    let mut verdict = Err(String::new());
    for _ in 0..SYNC_CHECKS {
        verdict = watch_syncs(gauge.pid, &server.data_dir(), SYNC_CHECK_PUTS, &mut burst)?.verdict();
        if verdict.is_ok() {
            break;
        }
    }
    let syncs = verdict.map_err(|cause| {
        format!("{} ({}): refusing to compare: {cause}", contender.name, contender.program.display())
    })?;
    let cpu_source = Some(gauge.cpu_source());
    Ok(ServerSeen { name: contender.name.to_owned(), program, syncs, cpu_source })
}

/// The row that needs go is left out where it cannot be had, and that is said.
fn without_go_if_missing(mut stages: Vec<Stage>, options: &CompareOptions) -> Vec<Stage> {
    let cause = if options.tls {
        "it speaks no TLS".to_owned()
    } else if !Process::new("go").arg("version").output().is_ok_and(|output| output.status.success()) {
        "there is no go".to_owned()
    } else if !options.go.join("one/main.go").is_file() {
        format!("{} is not there (--go)", options.go.join("one").display())
    } else {
        return stages;
    };
    for stage in &mut stages {
        stage.rows.retain(|row| {
            let is_go = row.plan.workload == Workload::PutGo;
            if is_go {
                eprintln!("urd-bench: row {} is left out: {cause}", row.name);
            }
            !is_go
        });
    }
    stages.retain(|stage| !stage.rows.is_empty());
    stages
}

fn build_go_client(folder: &Path, out: &Path) -> Result<PathBuf, String> {
    let program = out.join("one");
    let output = Process::new("go")
        .args(["build", "-o"])
        .arg(&program)
        .arg("./one")
        .current_dir(folder)
        .output()
        .map_err(|cause| format!("go: {cause}"))?;
    match output.status.success() {
        true => Ok(program),
        false => Err(format!("go build ./one: {}", String::from_utf8_lossy(&output.stderr))),
    }
}

/// All rows of a stage on one server. A row that fails ends the stage for it: what comes after would measure the damage.
async fn run_stage(name: &'static str, recipe: Recipe, go_client: Option<PathBuf>, rows: &mut [RowResult]) {
    let mut failure = None;
    let mut site = match start(recipe, go_client).await {
        Ok(site) => Some(site),
        Err(cause) => {
            failure = Some(cause);
            None
        }
    };
    for result in rows {
        let measured: Result<Outcome, String> = match (&mut site, failure.take()) {
            (Some(site), None) => {
                site.progress = Progress::new(&format!("{} {}", name, result.row.name));
                workload::run(site, &result.row.plan).await
            }
            (_, cause) => Err(cause.unwrap_or_else(|| "the server did not start".to_owned())),
        };
        match &measured {
            Ok(outcome) => println!("{}", report::line(name, &result.row, outcome)),
            Err(cause) => {
                eprintln!("urd-bench: {name}, {}: {cause}", result.row.name);
                failure = Some(format!("not tried: {} failed before", result.row.name));
            }
        }
        let (outcome, cause) = match measured {
            Ok(outcome) => (Some(outcome), None),
            Err(cause) => (None, Some(cause)),
        };
        result.sides.push(Side { server: name.to_owned(), outcome, failure: cause });
    }
}

async fn start(recipe: Recipe, go_client: Option<PathBuf>) -> Result<Site, String> {
    fs::create_dir_all(&recipe.parent).map_err(|cause| format!("{}: {cause}", recipe.parent.display()))?;
    let server = Server::start(recipe).await?;
    let gauge: Gauge = server.gauge();
    let dialer = Dialer::new(server.target())?;
    Ok(Site { dialer, gauge: Some(gauge), server: Some(server), go_client, progress: Progress::new("") })
}
