//! What callers feel of a compaction.

use std::time::{Duration, Instant};

use urd_client::etcdserverpb::CompactionRequest;

use super::{Mix, OpenLoop, Site, calls, count_keys};
use crate::{
    gauge::Stopwatch,
    measure::Outcome,
    plan::{Plan, Workload},
};

/// Overwrites until there are `revisions` to compact, takes the latency of puts in an open loop without a compaction
/// (`quiet_p99_ms`) and while one runs (the outcome's own), until the server says that it has given the space free.
pub async fn compaction(site: &Site, plan: &Plan) -> Result<Outcome, String> {
    if plan.writes_per_second <= 0.0 {
        return Err("the latency is that of puts: --writes-per-second must be more than 0".to_owned());
    }
    let churn = Plan { workload: Workload::Put, operations: Some(plan.revisions), ..plan.clone() };
    calls::closed(site, &churn).await?;
    let client = site.dialer.connect().await?;
    let (_, revision) = count_keys(&client).await?;
    let mut mix = Mix::of_puts(plan, 2);
    let writes = OpenLoop::start(site.connections(plan.connections).await?, plan.writes_per_second, move |number| {
        mix.next_request(number)
    })?;
    tokio::time::sleep(Duration::from_secs_f64(plan.warm_up_seconds)).await;
    writes.measure_from_now();
    site.progress.wait(Duration::from_secs_f64(plan.seconds)).await;
    writes.check()?;
    let quiet = writes.lap();
    let stopwatch = Stopwatch::start(site.gauge.as_ref());
    let begin = Instant::now();
    client.call(&CompactionRequest { revision, physical: true }).await.map_err(|cause| cause.to_string())?;
    let took = begin.elapsed();
    let mut outcome = Outcome::default();
    outcome.take(stopwatch.lap());
    outcome.latency = writes.finish().await?;
    outcome.operations = outcome.latency.count();
    outcome.set("compaction_seconds", took.as_secs_f64());
    if let (Some(quiet), Some(during)) = (quiet.at_ms(0.99), outcome.latency.at_ms(0.99)) {
        outcome.set("quiet_p99_ms", quiet);
        outcome.set("p99_ratio", during / quiet);
    }
    Ok(outcome)
}
