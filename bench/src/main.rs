//! urd-bench: drives urd, etcd or anything that speaks their API over its own gRPC client, and tells what an operation
//! costs the server: rate, latency, CPU, memory and disk. `compare` starts urd and etcd itself, one after the other, each
//! pinned to one core with the driver on another, and runs the same load against both.

mod certificates;
mod compare;
mod gauge;
mod interrupt;
mod machine;
mod measure;
mod members;
mod pace;
mod plan;
mod pressure;
mod progress;
mod report;
mod results;
mod rows;
mod server;
mod soak;
mod target;
mod wire;
mod workload;

use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand};

use crate::{
    compare::CompareOptions,
    gauge::Gauge,
    machine::Machine,
    plan::{Plan, Workload},
    progress::Progress,
    results::{Command, Results, RowResult, Side},
    rows::Row,
    target::{Dialer, Target},
    workload::Site,
};

#[derive(Parser)]
#[command(version, about = "Load-tests urd, etcd or any server of their API")]
struct Options {
    #[command(subcommand)]
    command: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Drives a server, or a cluster, that is running already.
    Run {
        #[command(flatten)]
        target: Target,
        /// The server's process, to tell its CPU and memory.
        #[arg(long)]
        pid: Option<u32>,
        /// The server's data folder, to tell its disk space.
        #[arg(long)]
        data_dir: Option<PathBuf>,
        /// What to do; may be given several times.
        #[arg(long, value_enum, required = true)]
        workload: Vec<Workload>,
        #[command(flatten)]
        plan: Plan,
        /// Where the report, the results and the curves go.
        #[arg(long)]
        out: Option<PathBuf>,
    },
    /// Starts urd and etcd in turn, drives both, and puts the figures side by side.
    Compare(CompareOptions),
    /// Starts three members of each in turn: what a put and a get cost all of them, how long no write is taken when the
    /// leader goes, and how a learner of many keys comes up.
    Members(members::MembersOptions),
    /// Repeats what a results file says, with all its parameters.
    Again {
        results: PathBuf,
        /// Another reference server than the file's.
        #[arg(long)]
        etcd: Option<PathBuf>,
        /// Another urd than the file's.
        #[arg(long)]
        urd: Option<PathBuf>,
        /// `name:password`, which files do not keep.
        #[arg(long)]
        user: Option<String>,
        #[arg(long)]
        out: Option<PathBuf>,
    },
    /// Writes the report of a results file again.
    Report { results: PathBuf, out: PathBuf },
    /// Overwrites keys for a long time with auto-compaction on, and plots disk, memory and latency.
    Soak(soak::SoakOptions),
    /// Reads a data set larger than the server's memory, and tells what the readers of a few hot keys feel of it.
    LargerThanMemory(pressure::PressureOptions),
}

fn main() {
    let options = Options::parse();
    interrupt::clean_up_when_asked_to_end();
    let result = match options.command {
        Action::Run { target, pid, data_dir, workload, plan, out } => {
            let plans = workload.into_iter().map(|workload| Plan { workload, ..plan.clone() }).collect();
            run(target, pid, data_dir, plans, out.as_deref())
        }
        Action::Compare(options) => compare::compare(&options),
        Action::Members(options) => members::members(&options),
        Action::Again { results, etcd, urd, user, out } => again(&results, etcd, urd, user, out),
        Action::Report { results, out } => Results::load(&results).and_then(|results| report::write(&results, &out)),
        Action::Soak(options) => soak::soak(&options),
        Action::LargerThanMemory(options) => pressure::pressure(&options),
    };
    if let Err(cause) = result {
        eprintln!("urd-bench: {cause}");
        std::process::exit(1);
    }
}

/// Runs a future to its end on this thread; what it spawns ends with it.
fn local<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime on this thread");
    runtime.block_on(tokio::task::LocalSet::new().run_until(future))
}

fn run(
    target: Target,
    pid: Option<u32>,
    data_dir: Option<PathBuf>,
    plans: Vec<Plan>,
    out: Option<&Path>,
) -> Result<(), String> {
    let machine = Machine::look(data_dir.as_deref().unwrap_or(&std::env::temp_dir()));
    let server = target.endpoints.join(",");
    let gauge = pid.map(|pid| Gauge { pid, cgroup: None, data_dir: data_dir.clone(), beside: Vec::new() });
    let mut rows = Vec::new();
    println!("{}", report::line_head());
    for plan in &plans {
        let name = plan.workload.name();
        let row =
            Row { name: name.clone(), title: name.clone(), plan: plan.clone(), goals: Vec::new(), is_ground: false };
        let measured = local(async {
            let dialer = Dialer::new(target.clone())?;
            let progress = Progress::new(&name);
            let mut site = Site { dialer, gauge: gauge.clone(), server: None, go_client: None, progress };
            workload::run(&mut site, plan).await
        });
        let outcome = measured.map_err(|cause| format!("{name}: {cause}"))?;
        println!("{}", report::line("", &row, &outcome));
        let sides = vec![Side { server: server.clone(), outcome: Some(outcome), failure: None }];
        rows.push(RowResult { stage: "run".to_owned(), row, sides });
    }
    let results = Results::new(machine, Vec::new(), Command::Run { target, pid, data_dir, plans }, rows);
    out.map_or(Ok(()), |out| report::write(&results, out))
}

fn again(
    path: &Path,
    etcd: Option<PathBuf>,
    urd: Option<PathBuf>,
    user: Option<String>,
    out: Option<PathBuf>,
) -> Result<(), String> {
    match Results::load(path)?.command {
        Command::Compare { options, stages, .. } => {
            let options =
                CompareOptions { etcd: etcd.unwrap_or(options.etcd), urd: urd.unwrap_or(options.urd), out, ..options };
            compare::compare_stages(&options, stages)
        }
        Command::Run { target, pid, data_dir, plans } => {
            run(Target { user, ..target }, pid, data_dir, plans, out.as_deref())
        }
    }
}
