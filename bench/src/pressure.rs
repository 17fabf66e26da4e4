//! A data set larger than the server's memory: while some callers read all of it at random, others read a few hot keys,
//! and are to feel nothing of it. The memory is limited by a cgroup, page cache included; where there is none to be had,
//! that is said, and nothing is measured.

use std::{fs, path::PathBuf, time::Duration};

use clap::Args;

use crate::{
    gauge::{MemoryLimit, Stopwatch, drop_page_cache},
    local,
    machine::{self, Cores, Machine},
    measure::Latency,
    plan::{Plan, Workload},
    progress::Progress,
    report::number,
    server::{Program, Recipe, Server},
    target::Dialer,
    workload::{Mix, OpenLoop, Site, fill},
};

#[derive(Clone, Debug, Args)]
pub struct PressureOptions {
    /// The server; any that takes etcd's flags.
    #[arg(long, default_value = "target/release/urd")]
    pub urd: PathBuf,
    /// What the server may use, page cache included.
    #[arg(long, default_value_t = 256)]
    pub memory_mb: u64,
    #[arg(long, default_value_t = 300_000)]
    pub keys: u64,
    #[arg(long, default_value_t = 4096)]
    pub value_bytes: usize,
    /// The first of the keys, which are read all the time.
    #[arg(long, default_value_t = 1_000)]
    pub hot_keys: u64,
    /// Reads of hot keys a second, open loop.
    #[arg(long, default_value_t = 1_000.0)]
    pub hot_rate: f64,
    /// Reads of all keys a second, open loop.
    #[arg(long, default_value_t = 2_000.0)]
    pub cold_rate: f64,
    /// Of each of the two parts.
    #[arg(long, default_value_t = 30.0)]
    pub seconds: f64,
    /// Where pressure.json goes.
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Where the server's data lie.
    #[arg(long, default_value_os_t = std::env::temp_dir())]
    pub data: PathBuf,
}

/// # Errors
/// If memory cannot be limited here, the data set fits into it, or a read fails.
pub fn pressure(options: &PressureOptions) -> Result<(), String> {
    let (data_bytes, limit_bytes) = (options.keys * (options.value_bytes as u64 + 32), options.memory_mb * 1_000_000);
    if data_bytes < 2 * limit_bytes {
        return Err(format!(
            "{} MB of keys and values are not much larger than {} MB of memory: give more --keys or less --memory-mb",
            data_bytes / 1_000_000,
            options.memory_mb
        ));
    }
    let limit = MemoryLimit::create(limit_bytes).map_err(|cause| format!("cannot limit a server's memory: {cause}"))?;
    let cores = Cores::choose();
    let machine = Machine::look(&options.data);
    machine::pin(cores.driver).map_err(|cause| cause.to_string())?;
    let program = Program::look(&options.urd)?;
    println!("{}\n{}", machine.text(), program.version);
    println!("{} MB of keys and values, {} MB of memory", data_bytes / 1_000_000, options.memory_mb);
    let found = local(measure(options, cores, limit))?;
    let line = |name: &str, latency: &Latency| {
        let at = |quantile| latency.at_ms(quantile).map_or("–".to_owned(), number);
        println!(
            "{name:<28} {:>9} reads  p50 {:>7} ms  p99 {:>7} ms  p99.9 {:>7} ms",
            latency.count(),
            at(0.5),
            at(0.99),
            at(0.999)
        );
    };
    line("hot keys, alone", &found.hot_alone);
    line("hot keys, meanwhile", &found.hot_meanwhile);
    line("all keys at random", &found.cold);
    println!(
        "memory of the cgroup {} MB; server's CPU {:.1} % of a core meanwhile, {:.1} % alone; {:.0} reads/s of all keys",
        number(found.limited_bytes as f64 / 1e6),
        found.cpu_percent.1,
        found.cpu_percent.0,
        found.cold.count() as f64 / options.seconds
    );
    if let Some(out) = &options.out {
        fs::create_dir_all(out).map_err(|cause| format!("{}: {cause}", out.display()))?;
        let path = out.join("pressure.json");
        let kept = serde_json::json!({
            "date": machine::now_text(),
            "machine": machine,
            "program": program,
            "memory_mb": options.memory_mb,
            "data_bytes": data_bytes,
            "hot_rate": options.hot_rate,
            "cold_rate": options.cold_rate,
            "hot_alone": found.hot_alone,
            "hot_meanwhile": found.hot_meanwhile,
            "cold": found.cold,
        });
        fs::write(&path, kept.to_string()).map_err(|cause| format!("{}: {cause}", path.display()))?;
    }
    Ok(())
}

struct Found {
    hot_alone: Latency,
    hot_meanwhile: Latency,
    cold: Latency,
    limited_bytes: u64,
    /// Alone, meanwhile.
    cpu_percent: (f64, f64),
}

async fn measure(options: &PressureOptions, cores: Cores, limit: MemoryLimit) -> Result<Found, String> {
    let flags = vec!["--quota-backend-bytes=17179869184".to_owned()];
    let recipe =
        Recipe { program: options.urd.clone(), flags, core: cores.server, parent: options.data.clone(), tls: false };
    let server = Server::start_within(recipe, Some(limit)).await?;
    let (gauge, dialer) = (server.gauge(), Dialer::new(server.target())?);
    let progress = Progress::new("loading");
    let mut site = Site { dialer, gauge: Some(gauge), server: Some(server), go_client: None, progress };
    let found = measure_site(options, &site).await;
    let Some(server) = site.server.as_mut() else { return found };
    // A server that needs more than it was given is killed by the kernel: that, not a broken connection, is the cause.
    found.map_err(|cause| server.ended().map_or(cause.clone(), |ended| format!("{cause}: {ended}")))
}

async fn measure_site(options: &PressureOptions, site: &Site) -> Result<Found, String> {
    let gauge = site.gauge.as_ref().ok_or("the server's process is not known")?;
    fill(site, options.keys, options.value_bytes).await?;
    // What the load has left in the cache would be read from there.
    if let Some(folder) = &gauge.data_dir {
        drop_page_cache(folder).map_err(|cause| cause.to_string())?;
    }
    let plan =
        |keys| Plan { workload: Workload::GetSerializable, keys, value_bytes: options.value_bytes, ..Plan::default() };
    let start = |connections, keys, rate, seed| {
        let mut mix = Mix::new(&plan(keys), seed);
        OpenLoop::start(connections, rate, move |number| mix.next_request(number))
    };
    let hot = start(site.connections(2).await?, options.hot_keys, options.hot_rate, 1)?;
    let part = Duration::from_secs_f64(options.seconds);
    // Each hot key is read once at least, so that it is in memory.
    tokio::time::sleep(Duration::from_secs_f64(3.0 * options.hot_keys as f64 / options.hot_rate)).await;
    hot.measure_from_now();
    let stopwatch = Stopwatch::start(Some(gauge));
    let progress = Progress::new("hot keys alone");
    progress.wait(part).await;
    drop(progress);
    let percent = |stopwatch: &Stopwatch| {
        let lap = stopwatch.lap();
        100.0 * lap.cpu_seconds.unwrap_or_default() / lap.seconds
    };
    let (hot_alone, alone) = (hot.lap(), percent(&stopwatch));
    let cold = start(site.connections(8).await?, options.keys, options.cold_rate, 2)?;
    cold.measure_from_now();
    let stopwatch = Stopwatch::start(Some(gauge));
    let progress = Progress::new("hot keys, and all keys");
    progress.wait(part).await;
    drop(progress);
    let meanwhile = percent(&stopwatch);
    let hot_meanwhile = hot.finish().await?;
    let cold = cold.finish().await?;
    let limited_bytes = site.server.as_ref().and_then(Server::limited_bytes).unwrap_or_default();
    Ok(Found { hot_alone, hot_meanwhile, cold, limited_bytes, cpu_percent: (alone, meanwhile) })
}
