//! A long run of overwrites with auto-compaction on: disk, memory and latency, sampled and plotted, so that it can be seen
//! whether they level off. The server is started here, pinned, on fresh data.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use clap::Args;
use serde::Serialize;

use crate::{
    gauge::{Memory, Stopwatch},
    local,
    machine::{self, Cores, Machine},
    measure::Latency,
    plan::{Plan, Workload},
    progress::Progress,
    report::{Series, number, timeline},
    server::{Program, Recipe, Server},
    target::Dialer,
    workload::{Mix, OpenLoop, Site, fill},
};

#[derive(Clone, Debug, Serialize, Args)]
pub struct SoakOptions {
    /// The server; any that takes etcd's flags.
    #[arg(long, default_value = "target/release/urd")]
    pub urd: PathBuf,
    #[arg(long, default_value_t = 30.0)]
    pub minutes: f64,
    #[arg(long, default_value_t = 200_000)]
    pub keys: u64,
    /// Puts a second, open loop.
    #[arg(long, default_value_t = 2_000.0)]
    pub rate: f64,
    #[arg(long, default_value_t = 256)]
    pub value_bytes: usize,
    #[arg(long, default_value_t = 10)]
    pub connections: usize,
    /// `periodic` or `revision`.
    #[arg(long, default_value = "periodic")]
    pub auto_compaction_mode: String,
    /// A time, or a number of revisions.
    #[arg(long, default_value = "1m")]
    pub auto_compaction_retention: String,
    #[arg(long, default_value_t = 5.0)]
    pub sample_seconds: f64,
    /// Where soak.csv, soak.svg and soak.json go.
    #[arg(long, default_value = "soak")]
    pub out: PathBuf,
    /// Where the server's data lie.
    #[arg(long, default_value_os_t = std::env::temp_dir())]
    pub data: PathBuf,
}

#[derive(Clone, Debug, Default, Serialize)]
struct Sample {
    seconds: f64,
    /// Puts a second that were answered.
    rate: f64,
    p50_ms: f64,
    p99_ms: f64,
    max_ms: f64,
    disk_mb: f64,
    /// What the server says is live.
    in_use_mb: f64,
    memory: Memory,
    /// Of one core.
    cpu_percent: f64,
}

const CSV_HEAD: &str = "seconds,rate,p50_ms,p99_ms,max_ms,disk_mb,in_use_mb,rss_mb,rss_anon_mb,rss_file_mb,cpu_percent";

impl Sample {
    fn csv(&self) -> String {
        let mb = |bytes: u64| bytes as f64 / 1e6;
        format!(
            "{:.1},{:.0},{:.3},{:.3},{:.3},{:.1},{:.1},{:.1},{:.1},{:.1},{:.2}",
            self.seconds,
            self.rate,
            self.p50_ms,
            self.p99_ms,
            self.max_ms,
            self.disk_mb,
            self.in_use_mb,
            mb(self.memory.resident),
            mb(self.memory.anonymous),
            mb(self.memory.file),
            self.cpu_percent
        )
    }
}

/// # Errors
/// If the server does not start, ends, or fails a put. Samples until then are written.
pub fn soak(options: &SoakOptions) -> Result<(), String> {
    let cores = Cores::choose();
    let machine = Machine::look(&options.data);
    machine::pin(cores.driver).map_err(|cause| cause.to_string())?;
    let program = Program::look(&options.urd)?;
    fs::create_dir_all(&options.out).map_err(|cause| format!("{}: {cause}", options.out.display()))?;
    println!("{}\n{}\n{CSV_HEAD}", machine.text(), program.version);
    let (mut samples, mut whole) = (Vec::new(), Latency::default());
    let result = local(take_samples(options, cores, &mut samples, &mut whole));
    write(options, &machine, &program, &samples, &whole)?;
    result?;
    let at = |quantile| whole.at_ms(quantile).map_or("–".to_owned(), number);
    println!(
        "{} puts: p50 {} ms, p99 {} ms, p99.9 {} ms, longest {} ms",
        whole.count(),
        at(0.5),
        at(0.99),
        at(0.999),
        number(whole.max_ms())
    );
    println!("{}", levelling(&samples));
    println!("written to {}", options.out.display());
    Ok(())
}

async fn take_samples(
    options: &SoakOptions,
    cores: Cores,
    samples: &mut Vec<Sample>,
    whole: &mut Latency,
) -> Result<(), String> {
    let flags = vec![
        format!("--auto-compaction-mode={}", options.auto_compaction_mode),
        format!("--auto-compaction-retention={}", options.auto_compaction_retention),
    ];
    let recipe =
        Recipe { program: options.urd.clone(), flags, core: cores.server, parent: options.data.clone(), tls: false };
    let server = Server::start(recipe).await?;
    let gauge = server.gauge();
    let dialer = Dialer::new(server.target())?;
    let progress = Progress::new("loading");
    let site = Site { dialer, gauge: Some(gauge.clone()), server: Some(server), go_client: None, progress };
    fill(&site, options.keys, options.value_bytes).await?;

    let progress = Progress::new("soak");
    progress.begin((options.minutes * 60.0) as u64);
    let plan =
        Plan { workload: Workload::Put, keys: options.keys, value_bytes: options.value_bytes, ..Plan::default() };
    let mut mix = Mix::new(&plan, 1);
    let asked = site.dialer.connect().await?;
    let puts = OpenLoop::start(site.connections(options.connections).await?, options.rate, move |number| {
        mix.next_request(number)
    })?;
    puts.measure_from_now();
    let begin = Instant::now();
    let end = Duration::from_secs_f64(options.minutes * 60.0);
    let mut at = 1;
    while begin.elapsed() < end {
        let stopwatch = Stopwatch::start(Some(&gauge));
        let next = begin + Duration::from_secs_f64(options.sample_seconds * f64::from(at));
        tokio::time::sleep_until(next.into()).await;
        at += 1;
        puts.check()?;
        let (latency, lap) = (puts.lap(), stopwatch.lap());
        whole.merge(&latency);
        let status = asked.status().await.map_err(|cause| cause.to_string())?;
        let sample = Sample {
            seconds: begin.elapsed().as_secs_f64(),
            rate: latency.count() as f64 / lap.seconds,
            p50_ms: latency.at_ms(0.5).unwrap_or(f64::NAN),
            p99_ms: latency.at_ms(0.99).unwrap_or(f64::NAN),
            max_ms: latency.max_ms(),
            disk_mb: gauge.disk().unwrap_or_default() as f64 / 1e6,
            in_use_mb: status.db_size_in_use as f64 / 1e6,
            memory: gauge.memory().ok_or("the server has ended")?,
            cpu_percent: 100.0 * lap.cpu_seconds.unwrap_or_default() / lap.seconds,
        };
        println!("{}", sample.csv());
        samples.push(sample);
        progress.at(begin.elapsed().as_secs());
    }
    whole.merge(&puts.finish().await?);
    Ok(())
}

fn write(
    options: &SoakOptions,
    machine: &Machine,
    program: &Program,
    samples: &[Sample],
    whole: &Latency,
) -> Result<(), String> {
    let file = |name: &str, text: String| {
        let path = options.out.join(name);
        fs::write(&path, text).map_err(|cause| format!("{}: {cause}", path.display()))
    };
    let csv: String =
        std::iter::once(CSV_HEAD.to_owned()).chain(samples.iter().map(Sample::csv)).map(|line| line + "\n").collect();
    file("soak.csv", csv)?;
    let kept = serde_json::json!({
        "date": machine::now_text(),
        "machine": machine,
        "program": program,
        "options": options,
        "samples": samples,
        "latency": whole,
    });
    file("soak.json", kept.to_string())?;
    let of = |name: &str, value: fn(&Sample) -> f64| (name.to_owned(), samples.iter().map(value).collect::<Vec<f64>>());
    let one = |title: &str, unit: &str, lines| Series { title: title.to_owned(), unit: unit.to_owned(), lines };
    let series = [
        one(
            "Disk",
            "MB",
            vec![of("files", |sample| sample.disk_mb), of("live, as the server says", |sample| sample.in_use_mb)],
        ),
        one(
            "Memory",
            "MB",
            vec![
                of("resident", |sample| sample.memory.resident as f64 / 1e6),
                of("own", |sample| sample.memory.anonymous as f64 / 1e6),
                of("pages of files", |sample| sample.memory.file as f64 / 1e6),
            ],
        ),
        one("Put", "ms", vec![of("p99", |sample| sample.p99_ms), of("p50", |sample| sample.p50_ms)]),
        one("CPU", "% of a core", vec![of("server", |sample| sample.cpu_percent)]),
    ];
    let seconds: Vec<f64> = samples.iter().map(|sample| sample.seconds).collect();
    let subtitle = format!(
        "{} keys of 32 B, values of {} B, {} puts/s in an open loop, {} compaction, retention {}; {}",
        number(options.keys as f64),
        options.value_bytes,
        number(options.rate),
        options.auto_compaction_mode,
        options.auto_compaction_retention,
        name_of(&options.urd)
    );
    file("soak.svg", timeline("Overwriting with auto-compaction", &subtitle, &seconds, &series))
}

fn name_of(program: &Path) -> String {
    program.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The median of the last third beside that of the second: what has levelled off is near 1.
fn levelling(samples: &[Sample]) -> String {
    let third = samples.len() / 3;
    if third == 0 {
        return "too few samples to tell whether anything levels off".to_owned();
    }
    let median = |samples: &[Sample], value: fn(&Sample) -> f64| {
        let mut values: Vec<f64> = samples.iter().map(value).collect();
        // A sample in which nothing was answered has no percentile, and sorts last.
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let told = |name: &str, value: fn(&Sample) -> f64| {
        let (before, last) = (median(&samples[third..2 * third], value), median(&samples[2 * third..], value));
        format!("{name} {} → {} ({:.2}×)", number(before), number(last), last / before)
    };
    format!(
        "medians of the second and the last third: {}, {}, {}",
        told("disk MB", |sample| sample.disk_mb),
        told("RSS MB", |sample| sample.memory.resident as f64 / 1e6),
        told("p99 ms", |sample| sample.p99_ms)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(at: u64) -> Sample {
        Sample { seconds: at as f64 * 5.0, disk_mb: at.min(4) as f64 * 100.0, p99_ms: 2.0, ..Sample::default() }
    }

    #[test]
    fn a_line_has_as_many_cells_as_the_head() {
        let cells = |line: &str| line.split(',').count();
        assert_eq!(cells(&sample(3).csv()), cells(CSV_HEAD));
    }

    #[test]
    fn levelling_compares_the_last_thirds() {
        let flat: Vec<Sample> = (0..12).map(sample).collect();
        assert!(levelling(&flat).contains("disk MB 400 → 400 (1.00×), "), "{}", levelling(&flat));
        let grows: Vec<Sample> = (0..12).map(|at| Sample { disk_mb: f64::from(at) * 100.0, ..sample(0) }).collect();
        assert!(levelling(&grows).contains("disk MB 600 → 1,000 (1.67×)"), "{}", levelling(&grows));
        assert!(levelling(&flat[..2]).contains("too few"));
    }
}
