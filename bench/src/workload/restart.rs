//! A server killed right after a load, and started again.

use super::{Site, count_keys, load};
use crate::{
    gauge::{Memory, drop_page_cache},
    measure::Outcome,
    plan::{Plan, Workload},
    server::Server,
};

/// Twice on the same data: with the page cache as the load has left it, then, on a copy taken before the first, with an
/// empty one. The outcome's time is the first's.
pub async fn restart(site: &mut Site, plan: &Plan) -> Result<Outcome, String> {
    load::load(site, &Plan { workload: Workload::Load, settle_seconds: 0.0, ..plan.clone() }).await?;
    let text = |cause: std::io::Error| cause.to_string();
    let mut server = site.server.take().ok_or("there is no server of our own")?;
    server.kill();
    let kept = server.keep_data().map_err(text)?;
    // What the copy has left to be written is not to be in the way.
    // SAFETY: takes nothing and cannot fail.
    unsafe { libc::sync() };
    let mut outcome = Outcome { operations: plan.keys, ..Outcome::default() };
    let warm = measured(site, &mut server, plan, &mut outcome).await?;
    server.kill();
    kept.restore().map_err(text)?;
    outcome.notes.push(drop_page_cache(&server.data_dir()).map_err(text)?.to_owned());
    let cold = measured(site, &mut server, plan, &mut outcome).await?;
    site.server = Some(server);
    outcome.seconds = warm;
    outcome.set("warm_seconds", warm);
    outcome.set("cold_seconds", cold);
    Ok(outcome)
}

async fn measured(site: &mut Site, server: &mut Server, plan: &Plan, outcome: &mut Outcome) -> Result<f64, String> {
    let took = server.launch().await?;
    let gauge = server.gauge();
    outcome.cpu_seconds = None;
    outcome.memory = gauge.memory().map(|memory| Memory { peak: memory.peak, ..memory });
    site.gauge = Some(gauge);
    match count_keys(&site.dialer.connect().await?).await? {
        (count, _) if count == plan.keys as i64 => Ok(took.as_secs_f64()),
        (count, _) => Err(format!("{count} keys are there after the kill, of {} that were acknowledged", plan.keys)),
    }
}
