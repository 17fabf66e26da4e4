//! Runs seeds of the simulator: whole clusters of urd in one thread each, with faults of network, disks, processes and clocks.
//! It has the bugs in it, so it is built by itself: cargo run --release --features sim --bin urd-sim -- and then
//!
//!     urd-sim --seeds 10000                 seeds 0 to 9,999, on every core
//!     urd-sim --first 151 --seeds 1         one of them again: the same run
//!     urd-sim --plant ForgetsVotes          with a bug in it, to see that it is found
//!
//! A seed that fails is told with what was wrong, and the exit code is 1.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use urd::sim::{Plan, Planted, run};

struct Options {
    seeds: u64,
    first: u64,
    /// Members of a cluster; without it 3 and 5 by turns.
    members: Option<usize>,
    clients: usize,
    /// How long faults come, in simulated seconds.
    seconds: u64,
    /// A bug to put in.
    plant: Option<Planted>,
    /// Where members keep their data meanwhile: best in memory.
    folder: PathBuf,
    threads: usize,
}

impl Options {
    fn of(mut words: impl Iterator<Item = String>) -> Result<Options, String> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let mut options = Options {
            seeds: 1000,
            first: 0,
            members: None,
            clients: 6,
            seconds: 20,
            plant: None,
            folder: "/dev/shm".into(),
            threads,
        };
        while let Some(word) = words.next() {
            let value = words.next().ok_or_else(|| format!("{word} wants a value"))?;
            let number = || value.parse::<u64>().map_err(|_| format!("{word} {value}: not a number"));
            match &word[..] {
                "--seeds" => options.seeds = number()?,
                "--first" => options.first = number()?,
                "--members" => options.members = Some(number()? as usize),
                "--clients" => options.clients = number()? as usize,
                "--seconds" => options.seconds = number()?,
                "--folder" => options.folder = value.into(),
                "--threads" => options.threads = number()? as usize,
                "--plant" => {
                    let bug = Planted::ALL.into_iter().find(|bug| format!("{bug:?}") == value);
                    options.plant =
                        Some(bug.ok_or_else(|| format!("no bug is {value}; there are {:?}", Planted::ALL))?);
                }
                _ => {
                    return Err(format!(
                        "{word}: there is no such option; there are --seeds, --first, --members, \
                     --clients, --seconds, --plant, --folder and --threads, each with a value"
                    ));
                }
            }
        }
        Ok(options)
    }
}

#[derive(Default)]
struct Total {
    operations: u64,
    unknown: u64,
    revisions: u64,
    simulated_ms: u64,
    faults: BTreeMap<&'static str, u64>,
    failed: Vec<(u64, String)>,
}

fn main() -> ExitCode {
    let options = match Options::of(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(why) => {
            eprintln!("urd-sim: {why}");
            return ExitCode::from(2);
        }
    };
    let base = options.folder.join(format!("urd-sim-{}", std::process::id()));
    if let Err(cause) = std::fs::create_dir_all(&base) {
        eprintln!("urd-sim: {}: {cause}; name another place by --folder", base.display());
        return ExitCode::from(2);
    }
    // What is wrong is told once, with its seed.
    std::panic::set_hook(Box::new(|_| {}));
    let began = Instant::now();
    let (next, total) = (AtomicU64::new(options.first), Mutex::new(Total::default()));
    std::thread::scope(|scope| {
        for _ in 0..options.threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Relaxed);
                    if seed >= options.first + options.seeds {
                        return;
                    }
                    let members = options.members.unwrap_or(if seed % 2 == 0 { 3 } else { 5 });
                    let plan = Plan {
                        members,
                        clients: options.clients,
                        faulty_ms: options.seconds * 1000,
                        planted: options.plant,
                    };
                    one(seed, plan, &base, &total);
                }
            });
        }
    });
    let _ = std::fs::remove_dir_all(&base);
    let total = total.into_inner().expect("no thread has failed");
    for (seed, why) in &total.failed {
        println!("seed {seed} fails: {why}");
    }
    let faults: Vec<String> = total.faults.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    println!("faults: {}", faults.join(", "));
    println!(
        "{} seeds, {} failed; {} operations, {} more unknown, {} revisions; {:.1} simulated hours in {:.0} s",
        options.seeds,
        total.failed.len(),
        total.operations,
        total.unknown,
        total.revisions,
        total.simulated_ms as f64 / 3_600_000.0,
        began.elapsed().as_secs_f64()
    );
    if total.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn one(seed: u64, plan: Plan, base: &Path, total: &Mutex<Total>) {
    let folder = base.join(seed.to_string());
    std::fs::create_dir_all(&folder).expect("room for a run's folder");
    let told = catch_unwind(AssertUnwindSafe(|| run(seed, plan, &folder)));
    let _ = std::fs::remove_dir_all(&folder);
    let mut total = total.lock().expect("no thread has failed");
    match told {
        Ok(report) => {
            total.operations += report.operations;
            total.unknown += report.unknown;
            total.revisions += report.revisions;
            total.simulated_ms += report.simulated_ms;
            for (kind, count) in report.faults {
                *total.faults.entry(kind).or_default() += count;
            }
        }
        Err(cause) => {
            let text = cause.downcast_ref::<String>().cloned();
            let text = text.or_else(|| cause.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default();
            total.failed.push((seed, text));
        }
    }
}
