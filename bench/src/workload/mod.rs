//! The workloads, one file a kind. Each drives a site as its plan says and gives an outcome; none knows which server it
//! drives, and none compares.

mod calls;
mod churn;
mod connect;
mod lease;
mod list;
mod load;
mod open;
mod restart;
mod stock;
mod watch;

use std::{cell::RefCell, path::PathBuf, rc::Rc, time::Duration};

use urd_client::{Client, etcdserverpb::RangeRequest};

use crate::{
    gauge::{Gauge, Lap, Memory, reset_peak},
    measure::Outcome,
    plan::{Plan, Workload},
    progress::Progress,
    server::Server,
    target::Dialer,
    wire,
};

pub use calls::Mix;
pub use load::fill;
pub use open::OpenLoop;

/// What a workload is run against.
pub struct Site {
    pub dialer: Dialer,
    /// The instruments, if the server's process is known.
    pub gauge: Option<Gauge>,
    /// The server itself, if this program has started it.
    pub server: Option<Server>,
    /// The built program of tests/stock/one, for `put-go`.
    pub go_client: Option<PathBuf>,
    pub progress: Progress,
}

impl Site {
    pub async fn connections(&self, count: usize) -> Result<Vec<Client>, String> {
        let mut connections = Vec::with_capacity(count);
        for _ in 0..count {
            connections.push(self.dialer.connect().await?);
        }
        Ok(connections)
    }

    fn gauge(&self) -> Result<&Gauge, String> {
        self.gauge.as_ref().ok_or_else(|| "the server's process must be known (--pid)".to_owned())
    }
}

/// Runs one measurement.
///
/// # Errors
/// Whatever keeps it from being one: a failed call, a missing answer, a server that ends.
pub async fn run(site: &mut Site, plan: &Plan) -> Result<Outcome, String> {
    if plan.workload.needs_own_server() && site.server.is_none() {
        return Err(format!("{} needs a server that is started here: see `compare`", plan.workload.name()));
    }
    if plan.workload.needs_keys() {
        ensure_keys(site, plan).await?;
    }
    let sampler = MemorySampler::start(site.gauge.as_ref());
    let mut outcome = match plan.workload {
        Workload::ListPaged => list::paged(site, plan).await,
        Workload::ListWhole => list::whole(site, plan).await,
        Workload::WatchFanOut => watch::fan_out(site, plan).await,
        Workload::WatchMemory => watch::memory(site, plan).await,
        Workload::Idle => watch::idle(site, plan).await,
        Workload::LeaseMemory => lease::memory(site, plan).await,
        Workload::LeaseExpiry => lease::expiry(site, plan).await,
        Workload::Compaction => churn::compaction(site, plan).await,
        Workload::Restart => restart::restart(site, plan).await,
        Workload::PutGo => stock::put(site, plan).await,
        Workload::Connect => connect::run(site, plan).await,
        Workload::Load => load::load(site, plan).await,
        _ => calls::run(site, plan).await,
    }?;
    outcome.memory = outcome.memory.or(sampler.finish());
    if plan.settle_seconds > 0.0 {
        settle(site, plan, &mut outcome).await?;
    }
    Ok(outcome)
}

/// Waits, then looks at the disk: what the server writes behind itself is counted too.
async fn settle(site: &Site, plan: &Plan, outcome: &mut Outcome) -> Result<(), String> {
    site.progress.wait(Duration::from_secs_f64(plan.settle_seconds)).await;
    let Some(disk) = site.gauge.as_ref().and_then(Gauge::disk) else { return Ok(()) };
    outcome.disk_bytes = Some(disk);
    // Nothing is compacted, so every revision's key and value lives.
    let (_, revision) = count_keys(&site.dialer.connect().await?).await?;
    let live = (revision - 1) as f64 * (crate::plan::KEY_BYTES + plan.value_bytes) as f64;
    outcome.set("live_mb", live / 1e6);
    outcome.set("disk_per_live", disk as f64 / live);
    if let Some(memory) = site.gauge.as_ref().and_then(Gauge::memory) {
        outcome.set("rss_settled_mb", memory.resident as f64 / 1e6);
    }
    Ok(())
}

/// Puts the keys that a reading workload needs, unless they are there.
async fn ensure_keys(site: &Site, plan: &Plan) -> Result<(), String> {
    let (count, _) = count_keys(&site.dialer.connect().await?).await?;
    if count < plan.keys as i64 { fill(site, plan.keys, plan.value_bytes).await } else { Ok(()) }
}

/// How many keys there are, and the revision.
pub async fn count_keys(client: &Client) -> Result<(i64, i64), String> {
    let request = RangeRequest {
        key: wire::PREFIX.into(),
        range_end: wire::PREFIX_END.into(),
        count_only: true,
        ..Default::default()
    };
    let answer = client.call(&request).await.map_err(|cause| cause.to_string())?;
    Ok((answer.count, answer.header.map_or(0, |header| header.revision)))
}

impl Outcome {
    fn take(&mut self, lap: Lap) {
        self.seconds = lap.seconds;
        self.cpu_seconds = lap.cpu_seconds;
        self.driver_cpu_share = lap.driver_cpu_share;
    }
}

/// Looks at the server's memory now and then and keeps the moment of its largest.
struct MemorySampler {
    gauge: Option<Gauge>,
    largest: Rc<RefCell<Option<Memory>>>,
    task: Option<tokio::task::JoinHandle<()>>,
}

impl MemorySampler {
    fn start(gauge: Option<&Gauge>) -> Self {
        let largest = Rc::new(RefCell::new(None));
        let task = gauge.cloned().map(|gauge| {
            reset_peak(gauge.pid);
            let largest = largest.clone();
            tokio::task::spawn_local(async move {
                loop {
                    keep_largest(&mut largest.borrow_mut(), gauge.memory());
                    tokio::time::sleep(Duration::from_millis(250)).await;
                }
            })
        });
        MemorySampler { gauge: gauge.cloned(), largest, task }
    }

    fn finish(self) -> Option<Memory> {
        let now = self.gauge.as_ref().and_then(Gauge::memory);
        let mut largest = *self.largest.borrow();
        keep_largest(&mut largest, now);
        // The kernel's peak is read last, so that it is of the whole time.
        if let (Some(largest), Some(now)) = (&mut largest, now) {
            largest.peak = now.peak;
        }
        largest
    }
}

impl Drop for MemorySampler {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

fn keep_largest(largest: &mut Option<Memory>, seen: Option<Memory>) {
    if let Some(seen) = seen.filter(|seen| largest.is_none_or(|largest| seen.resident > largest.resident)) {
        *largest = Some(seen);
    }
}
