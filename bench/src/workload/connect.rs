//! Connections that are opened, asked one thing, and closed: each caller one after the other. What a handshake costs a
//! server is seen here, with TLS and without.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::{Duration, Instant},
};

use super::Site;
use crate::{gauge::Stopwatch, measure::Latency, measure::Outcome, plan::Plan, target::Dialer, wire};

#[derive(Default)]
struct Tally {
    is_over: Cell<bool>,
    is_measuring: Cell<bool>,
    latency: RefCell<Latency>,
}

pub async fn run(site: &Site, plan: &Plan) -> Result<Outcome, String> {
    let (dialer, tally) = (Rc::new(site.dialer.another()?), Rc::new(Tally::default()));
    let callers: Vec<_> =
        (0..plan.callers).map(|_| tokio::task::spawn_local(call(dialer.clone(), tally.clone()))).collect();
    tokio::time::sleep(Duration::from_secs_f64(plan.warm_up_seconds)).await;
    tally.is_measuring.set(true);
    let stopwatch = Stopwatch::start(site.gauge.as_ref());
    site.progress.wait(Duration::from_secs_f64(plan.seconds)).await;
    tally.is_measuring.set(false);
    let mut outcome = Outcome::default();
    outcome.take(stopwatch.lap());
    tally.is_over.set(true);
    for caller in callers {
        caller.await.map_err(|cause| cause.to_string())??;
    }
    outcome.latency = tally.latency.take();
    outcome.operations = outcome.latency.count();
    Ok(outcome)
}

async fn call(dialer: Rc<Dialer>, tally: Rc<Tally>) -> Result<(), String> {
    while !tally.is_over.get() {
        let begin = Instant::now();
        let client = dialer.connect().await?;
        client.unary_bytes(wire::RANGE, wire::get(b"ready", true)).await.map_err(|cause| cause.to_string())?;
        if tally.is_measuring.get() {
            tally.latency.borrow_mut().record(begin.elapsed());
        }
    }
    Ok(())
}
