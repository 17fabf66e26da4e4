//! urd-bench: drives urd, etcd or anything that speaks their API over its own gRPC client, and tells what an operation
//! costs the server: rate, latency, CPU and memory. `compare` starts urd and etcd itself, one after the other, each
//! pinned to one core with the driver on another, and runs the same load against both.

mod load;
mod process;

use std::{path::PathBuf, time::Duration};

use clap::{Parser, Subcommand};

use crate::{
    load::{Outcome, Workload},
    process::Server,
};

#[derive(Parser)]
#[command(version, about = "Load-tests urd, etcd or any server of their API")]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Drives a server that is running already.
    Run {
        #[arg(long, default_value = "127.0.0.1:2379")]
        endpoint: String,
        /// The server's process, to tell its CPU and memory.
        #[arg(long)]
        pid: Option<u32>,
        #[command(flatten)]
        load: Load,
    },
    /// Starts urd and etcd in turn and drives both.
    Compare {
        #[arg(long)]
        etcd: PathBuf,
        #[arg(long, default_value = "target/release/urd")]
        urd: PathBuf,
        #[command(flatten)]
        load: Load,
    },
}

#[derive(clap::Args)]
struct Load {
    /// What to do; may be given several times. All of them if not given.
    #[arg(long, value_enum)]
    workload: Vec<Workload>,
    /// Calls in flight.
    #[arg(long, default_value_t = 100)]
    clients: usize,
    #[arg(long, default_value_t = 10)]
    connections: usize,
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Bytes of a value; keys take 32.
    #[arg(long, default_value_t = 256)]
    value_bytes: usize,
    /// Keys that puts and gets are spread over.
    #[arg(long, default_value_t = 10_000)]
    keys: u64,
}

impl Load {
    fn workloads(&self) -> Vec<Workload> {
        if self.workload.is_empty() {
            <Workload as clap::ValueEnum>::value_variants().to_vec()
        } else {
            self.workload.clone()
        }
    }
}

fn main() {
    let options = Options::parse();
    let result = match options.command {
        Command::Run { endpoint, pid, load } => run(&endpoint, pid, &load),
        Command::Compare { etcd, urd, load } => compare(&etcd, &urd, &load),
    };
    if let Err(cause) = result {
        eprintln!("urd-bench: {cause}");
        std::process::exit(1);
    }
}

fn run(endpoint: &str, pid: Option<u32>, load: &Load) -> Result<(), String> {
    print_head();
    for workload in load.workloads() {
        let outcome = drive(endpoint, pid, workload, load)?;
        print_row("", workload, &outcome);
    }
    Ok(())
}

fn compare(etcd: &std::path::Path, urd: &std::path::Path, load: &Load) -> Result<(), String> {
    // Told before the driver is pinned: afterwards there is one core to be seen.
    let driver_core = process::driver_core();
    println!("server on core {}, driver on core {driver_core}", process::server_core());
    process::pin_self(driver_core);
    print_head();
    let mut table = Vec::new();
    for (name, program) in [("etcd", etcd), ("urd", urd)] {
        let server = Server::start(program, process::server_core())?;
        let idle = server.idle_cpu(Duration::from_secs(3));
        let mut rows = Vec::new();
        for workload in load.workloads() {
            let outcome = drive(&server.endpoint, Some(server.pid()), workload, load)?;
            print_row(name, workload, &outcome);
            rows.push(outcome);
        }
        table.push((idle, rows));
    }
    println!();
    println!("{:<18} {:>12} {:>12} {:>8}", "CPU per operation", "etcd", "urd", "ratio");
    for (at, workload) in load.workloads().into_iter().enumerate() {
        let (theirs, ours) = (table[0].1[at].cpu_us_per_op(), table[1].1[at].cpu_us_per_op());
        println!("{:<18} {:>9.1} µs {:>9.1} µs {:>7.1}x", workload.name(), theirs, ours, theirs / ours);
    }
    println!("{:<18} {:>10.2} % {:>10.2} %", "idle, of a core", table[0].0 * 100.0, table[1].0 * 100.0);
    Ok(())
}

fn drive(endpoint: &str, pid: Option<u32>, workload: Workload, load: &Load) -> Result<Outcome, String> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|cause| cause.to_string())?;
    let plan = load::Plan {
        clients: if workload.is_single() { 1 } else { load.clients },
        connections: if workload.is_single() { 1 } else { load.connections },
        duration: Duration::from_secs_f64(load.seconds),
        value_bytes: load.value_bytes,
        keys: load.keys,
        pid,
    };
    runtime.block_on(tokio::task::LocalSet::new().run_until(load::drive(endpoint, workload, plan)))
}

fn print_head() {
    println!(
        "{:<6} {:<18} {:>10} {:>9} {:>9} {:>9} {:>10} {:>9}",
        "server", "workload", "ops/s", "p50 µs", "p99 µs", "p99.9 µs", "CPU µs/op", "RSS MiB"
    );
}

fn print_row(server: &str, workload: Workload, outcome: &Outcome) {
    let at = |quantile| outcome.latency_us.value_at_quantile(quantile);
    println!(
        "{:<6} {:<18} {:>10.0} {:>9} {:>9} {:>9} {:>10.1} {:>9.1}",
        server,
        workload.name(),
        outcome.rate(),
        at(0.5),
        at(0.99),
        at(0.999),
        outcome.cpu_us_per_op(),
        outcome.rss_bytes as f64 / 1048576.0
    );
}
