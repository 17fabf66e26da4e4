//! Runs seeds of the simulator: whole clusters of urd in one thread each, with faults of network, disks, processes and clocks.
//! It has the bugs in it, so it is built by itself: cargo run --release --features sim --bin urd-sim -- and then
//!
//!     urd-sim --seeds 10000                 seeds 0 to 9,999, on every core
//!     urd-sim --first 151 --seeds 1         one of them again: the same run
//!     urd-sim --shrink 151                  the smallest run of a seed that still fails at the same place
//!     urd-sim --plant ForgetsVotes          with a bug in it, to see that it is found
//!
//! A seed that fails is told with what was wrong, and the exit code is 1.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use urd::sim::{Plan, Planted, Report, run, shrink};

struct Options {
    seeds: u64,
    first: u64,
    /// Only this seed, made as small as it can be.
    shrink: Option<u64>,
    /// Members of a cluster; without it 3 and 5 by turns.
    members: Option<usize>,
    /// Whether members come and go; without it in every other pair of seeds.
    changes: Option<bool>,
    plan: Plan,
    /// Where members keep their data meanwhile: best in memory.
    folder: PathBuf,
    threads: usize,
}

const NAMES: &str = "--seeds, --first, --shrink, --members, --changes, --clients, --lessees, --watchers, --seconds, --omit, \
                     --ambushes, --plant, --folder and --threads";

impl Options {
    fn of(mut words: impl Iterator<Item = String>) -> Result<Options, String> {
        let mut options = Options {
            seeds: 1000,
            first: 0,
            shrink: None,
            members: None,
            changes: None,
            plan: Plan::default(),
            folder: "/dev/shm".into(),
            threads: std::thread::available_parallelism().map_or(1, usize::from),
        };
        while let Some(word) = words.next() {
            let value = words.next().ok_or_else(|| format!("{word} wants a value"))?;
            options.set(&word, value)?;
        }
        Ok(options)
    }

    fn set(&mut self, word: &str, value: String) -> Result<(), String> {
        let number = || value.parse::<u64>().map_err(|_| format!("{word} {value}: not a number"));
        let choice = || match &value[..] {
            "yes" => Ok(true),
            "no" => Ok(false),
            _ => Err(format!("{word} {value}: yes or no")),
        };
        match word {
            "--seeds" => self.seeds = number()?,
            "--first" => self.first = number()?,
            "--shrink" => self.shrink = Some(number()?),
            "--members" => self.members = Some(number()? as usize),
            "--changes" => self.changes = Some(choice()?),
            "--clients" => self.plan.clients = number()? as usize,
            "--lessees" => self.plan.lessees = number()? as usize,
            "--watchers" => self.plan.watchers = number()? as usize,
            "--seconds" => {
                let seconds = value.parse::<f64>().map_err(|_| format!("{word} {value}: not a number"))?;
                self.plan.faulty_ms = (seconds * 1000.0).round() as u64;
            }
            "--omit" => self.plan.omitted = ranges(&value).ok_or_else(|| format!("{word} {value}: as in 0-4,7"))?,
            "--ambushes" => self.plan.ambushes = choice()?,
            "--plant" => {
                let bug = Planted::ALL.into_iter().find(|bug| format!("{bug:?}") == value);
                self.plan.planted =
                    Some(bug.ok_or_else(|| format!("no bug is {value}; there are {:?}", Planted::ALL))?);
            }
            "--folder" => self.folder = value.into(),
            "--threads" => self.threads = number()? as usize,
            _ => return Err(format!("{word}: there is no such option; there are {NAMES}, each with a value")),
        }
        Ok(())
    }

    /// How a seed is run.
    fn plan(&self, seed: u64) -> Plan {
        let members = self.members.unwrap_or(if seed.is_multiple_of(2) { 3 } else { 5 });
        Plan { members, changes: self.changes.unwrap_or(seed / 2 % 2 == 1), ..self.plan.clone() }
    }
}

/// Numbers and ranges of them, both ends included.
fn ranges(text: &str) -> Option<BTreeSet<u64>> {
    let mut numbers = BTreeSet::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        numbers.extend(from.parse::<u64>().ok()?..=to.parse().ok()?);
    }
    Some(numbers)
}

fn as_ranges(numbers: &BTreeSet<u64>) -> String {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some((_, to)) if *to + 1 == *number => *to = *number,
            _ => ranges.push((*number, *number)),
        }
    }
    let ranges = ranges.iter().map(|(from, to)| if from == to { from.to_string() } else { format!("{from}-{to}") });
    ranges.collect::<Vec<_>>().join(",")
}

/// The words by which exactly this is run.
fn words(seed: u64, plan: &Plan) -> String {
    let choice = |yes| if yes { "yes" } else { "no" };
    let mut words = format!(
        "--first {seed} --seeds 1 --members {} --changes {} --clients {} --lessees {} --watchers {} --seconds {} \
         --ambushes {}",
        plan.members,
        choice(plan.changes),
        plan.clients,
        plan.lessees,
        plan.watchers,
        plan.faulty_ms as f64 / 1000.0,
        choice(plan.ambushes)
    );
    if !plan.omitted.is_empty() {
        words += &format!(" --omit {}", as_ranges(&plan.omitted));
    }
    if let Some(bug) = plan.planted {
        words += &format!(" --plant {bug:?}");
    }
    words
}

/// What was wrong, and where in the source that was seen.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Failure {
    place: String,
    what: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} ({})", self.what, self.place)
    }
}

#[derive(Default)]
struct Total {
    report: Report,
    failed: Vec<(u64, Failure)>,
}

impl Total {
    fn add(&mut self, report: Report) {
        let total = &mut self.report;
        total.operations += report.operations;
        total.unknown += report.unknown;
        total.revisions += report.revisions;
        total.watched += report.watched;
        total.expired += report.expired;
        total.changes += report.changes;
        total.moved += report.moved;
        total.spans += report.spans;
        total.simulated_ms += report.simulated_ms;
        for (what, count) in report.snapshots {
            *total.snapshots.entry(what).or_default() += count;
        }
        for (kind, count) in report.faults {
            *total.faults.entry(kind).or_default() += count;
        }
    }

    fn tell(&self, options: &Options, seconds: f64) {
        let Total { report, failed } = self;
        for (seed, why) in failed {
            println!("seed {seed} fails: {why}\n    urd-sim {}", words(*seed, &options.plan(*seed)));
        }
        let by_count: BTreeMap<_, _> =
            report.faults.iter().map(|(kind, count)| ((u64::MAX - count, kind), count)).collect();
        let faults: Vec<String> = by_count.iter().map(|((_, kind), count)| format!("{count} {kind}")).collect();
        println!("faults: {}", faults.join(", "));
        println!(
            "{} operations, {} more unknown; {} revisions, {} events watched, {} leases expired, {} changes of members, \
             {} values moved",
            report.operations,
            report.unknown,
            report.revisions,
            report.watched,
            report.expired,
            report.changes,
            report.moved
        );
        println!("{} spans of entries, alike on all members", report.spans);
        let snapshots: Vec<String> = report.snapshots.iter().map(|(what, count)| format!("{count} {what}")).collect();
        println!("snapshots between members: {}", snapshots.join(", "));
        println!(
            "{} seeds, {} failed; {:.1} simulated hours in {seconds:.0} s",
            options.seeds,
            failed.len(),
            report.simulated_ms as f64 / 3_600_000.0
        );
    }
}

thread_local! {
    /// Where this thread's last run has failed.
    static WHERE: Cell<String> = const { Cell::new(String::new()) };
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
    std::panic::set_hook(Box::new(|info| WHERE.set(info.location().map(ToString::to_string).unwrap_or_default())));
    let sound = match options.shrink {
        Some(seed) => make_small(seed, &options, &base),
        None => run_all(&options, &base),
    };
    let _ = std::fs::remove_dir_all(&base);
    if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run_all(options: &Options, base: &Path) -> bool {
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
                    let told = one(seed, &options.plan(seed), base);
                    let mut total = total.lock().expect("no thread has failed");
                    match told {
                        Ok(report) => total.add(report),
                        Err(why) => total.failed.push((seed, why)),
                    }
                }
            });
        }
    });
    let mut total = total.into_inner().expect("no thread has failed");
    total.failed.sort_unstable();
    total.tell(options, began.elapsed().as_secs_f64());
    total.failed.is_empty()
}

/// Tells the smallest run of a seed that fails. True if it does not fail.
fn make_small(seed: u64, options: &Options, base: &Path) -> bool {
    let plan = options.plan(seed);
    let Err(why) = one(seed, &plan, base) else {
        println!("seed {seed} does not fail");
        return true;
    };
    println!("seed {seed} fails: {why}");
    let mut runs = 0;
    let shrunk = shrink(&plan, &why.place, |plan| {
        runs += 1;
        one(seed, plan, base).err().map(|why| why.place)
    });
    let Err(why) = one(seed, &shrunk, base) else { unreachable!("a run is the same each time") };
    println!("after {runs} runs: {why}\n    urd-sim {}", words(seed, &shrunk));
    false
}

fn one(seed: u64, plan: &Plan, base: &Path) -> Result<Report, Failure> {
    let thread = format!("{seed}-{:?}", std::thread::current().id());
    let folder = base.join(thread);
    std::fs::create_dir_all(&folder).expect("room for a run's folder");
    let told = catch_unwind(AssertUnwindSafe(|| run(seed, plan, &folder)));
    let _ = std::fs::remove_dir_all(&folder);
    told.map_err(|cause| {
        let text = cause.downcast_ref::<String>().cloned();
        let what = text.or_else(|| cause.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default();
        Failure { place: WHERE.take(), what }
    })
}
