//! Puts by etcd's own Go client, one after the other: what most callers of either server have. The program is
//! tests/stock/one; it measures, and says so as JSON.

use serde::Deserialize;

use super::{Site, calls::note_sync};
use crate::{gauge::Stopwatch, measure::Outcome, plan::Plan, wire};

/// What tests/stock/one prints.
#[derive(Deserialize)]
struct Said {
    /// Nanoseconds.
    latencies_ns: Vec<u64>,
}

pub async fn put(site: &Site, plan: &Plan) -> Result<Outcome, String> {
    let program = site.go_client.as_ref().ok_or("the program of tests/stock/one is not built: is go there?")?;
    let [endpoint] = site.dialer.endpoints() else { return Err("put-go takes one endpoint".to_owned()) };
    let run = |seconds: f64| {
        tokio::task::spawn_blocking({
            let mut command = std::process::Command::new(program);
            command
                .arg(format!("-endpoint={endpoint}"))
                .arg(format!("-seconds={seconds}"))
                .arg(format!("-keys={}", plan.keys))
                .arg(format!("-value-bytes={}", plan.value_bytes))
                .arg(format!("-prefix={}", String::from_utf8_lossy(wire::PREFIX)));
            move || command.output()
        })
    };
    let text = |cause: &dyn std::fmt::Display| format!("{}: {cause}", program.display());
    run(plan.warm_up_seconds).await.map_err(|cause| text(&cause))?.map_err(|cause| text(&cause))?;
    let stopwatch = Stopwatch::start(site.gauge.as_ref());
    let output = run(plan.seconds).await.map_err(|cause| text(&cause))?.map_err(|cause| text(&cause))?;
    let mut outcome = Outcome::default();
    outcome.take(stopwatch.lap());
    if !output.status.success() {
        return Err(text(&String::from_utf8_lossy(&output.stderr)));
    }
    let said: Said = serde_json::from_slice(&output.stdout).map_err(|cause| text(&cause))?;
    said.latencies_ns.iter().for_each(|latency| outcome.latency.record_ns(*latency));
    outcome.operations = outcome.latency.count();
    note_sync(site, &mut outcome);
    Ok(outcome)
}
