//! Connections that are opened, asked one thing, and closed: each caller one after the other. What a handshake costs a
//! server is seen here, with TLS and without.

use std::{rc::Rc, time::Instant};

use super::{Site, calls::Tally};
use crate::{measure::Outcome, plan::Plan, target::Dialer, wire};

pub async fn run(site: &Site, plan: &Plan) -> Result<Outcome, String> {
    let (dialer, tally) = (Rc::new(site.dialer.another()?), Tally::shared());
    let limit = plan.operations.unwrap_or(u64::MAX);
    let callers = (0..plan.callers).map(|_| tally.spawn(call(dialer.clone(), tally.clone(), limit))).collect();
    tally.measure(site, plan, callers).await
}

async fn call(dialer: Rc<Dialer>, tally: Rc<Tally>, limit: u64) -> Result<(), String> {
    while tally.next(limit).is_some() {
        let begin = Instant::now();
        let client = dialer.connect().await?;
        client.unary_bytes(wire::RANGE, wire::get(b"ready", true)).await.map_err(|cause| cause.to_string())?;
        tally.done(begin);
    }
    Ok(())
}
