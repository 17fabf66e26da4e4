//! Leases with a key each: what one takes in memory, and how late its key goes.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::{Duration, Instant},
};

use urd_client::{
    etcdserverpb::{LeaseGrantRequest, WatchCreateRequest, watch_create_request::FilterType},
    frame,
};

use super::{Site, count_keys};
use crate::{
    gauge::Stopwatch,
    measure::Outcome,
    plan::{Plan, Workload},
    wire::{self, Fields},
};

/// A key that goes later than this after its lease has run out is not waited for.
const LATE_PATIENCE: Duration = Duration::from_secs(300);
/// What is written before the memory of leases is looked at, so that caches of a fixed size are full: half as much again
/// as the 64 MiB that are the most either server keeps of its log. The values are small, since etcd keeps the last 10,000
/// entries, and a heap that those have swollen would hide the leases.
const WARM_BYTES: u64 = 96 << 20;
const WARM_VALUE_BYTES: usize = 1 << 10;

/// Grants `leases` of a time to live and puts a key with each; gives when each lease runs out, by the key's number.
async fn grant_all(site: &Site, plan: &Plan, ttl_seconds: i64) -> Result<Vec<Instant>, String> {
    let connections = site.connections(plan.connections.min(plan.callers).max(1)).await?;
    let next = Rc::new(Cell::new(0u64));
    let ends = Rc::new(RefCell::new(vec![Instant::now(); plan.leases as usize]));
    site.progress.begin(plan.leases);
    let mut callers = Vec::new();
    for at in 0..plan.callers {
        let client = connections[at % connections.len()].clone();
        let (next, ends, leases) = (next.clone(), ends.clone(), plan.leases);
        let value = vec![b'v'; plan.value_bytes];
        callers.push(tokio::task::spawn_local(async move {
            loop {
                let number = next.replace(next.get() + 1);
                if number >= leases {
                    return Ok::<(), urd_client::Error>(());
                }
                // Ids of our own, from 1.
                let id = number as i64 + 1;
                let grant = frame(&LeaseGrantRequest { id, ttl: ttl_seconds });
                let answer = client.unary_bytes("/etcdserverpb.Lease/LeaseGrant", grant).await?;
                let granted = Fields(&answer).number(3).unwrap_or(0);
                ends.borrow_mut()[number as usize] = Instant::now() + Duration::from_secs(granted);
                client.unary_bytes(wire::PUT, wire::put(&wire::key(number), &value, id)).await?;
            }
        }));
    }
    for caller in callers {
        caller.await.map_err(|cause| cause.to_string())?.map_err(|cause| cause.to_string())?;
        site.progress.at(next.get());
    }
    Ok(ends.take())
}

pub async fn memory(site: &Site, plan: &Plan) -> Result<Outcome, String> {
    let gauge = site.gauge()?;
    let warm = Plan {
        workload: Workload::Put,
        keys: 16,
        value_bytes: WARM_VALUE_BYTES,
        operations: Some((WARM_BYTES / WARM_VALUE_BYTES as u64).min(plan.leases)),
        ..plan.clone()
    };
    super::calls::closed(site, &warm).await?;
    tokio::time::sleep(Duration::from_secs_f64(plan.warm_up_seconds)).await;
    let resident = || gauge.memory().map(|memory| memory.resident).ok_or("the server has ended");
    let before = resident()?;
    let stopwatch = Stopwatch::start(Some(gauge));
    grant_all(site, plan, plan.ttl_seconds.max(3_600)).await?;
    let mut outcome = Outcome { operations: plan.leases, ..Outcome::default() };
    outcome.take(stopwatch.lap());
    site.progress.wait(Duration::from_secs_f64(plan.seconds)).await;
    let grown = resident()?.saturating_sub(before) as f64;
    outcome.set("bytes_per_lease", grown / plan.leases as f64);
    Ok(outcome)
}

/// Latency is from a lease's end to when a watcher hears that its key is gone. CPU is from the first lease's end on.
pub async fn expiry(site: &Site, plan: &Plan) -> Result<Outcome, String> {
    let client = site.dialer.connect().await?;
    let mut watcher = client.watcher().await.map_err(|cause| cause.to_string())?;
    let request = WatchCreateRequest {
        key: wire::PREFIX.into(),
        range_end: wire::PREFIX_END.into(),
        filters: vec![FilterType::Noput as i32],
        ..Default::default()
    };
    watcher.create(request).map_err(|cause| cause.to_string())?;
    let created = watcher.next().await.map_err(|cause| cause.to_string())?;
    if !created.created {
        return Err(format!("the watch was not created: {created:?}"));
    }
    // Read while they are granted: the first may go before the last are there.
    let gone: Rc<RefCell<Vec<(u64, Instant)>>> = Rc::default();
    let seen = gone.clone();
    let listener = tokio::task::spawn_local(async move {
        loop {
            let answer = watcher.next().await.map_err(|cause| cause.to_string())?;
            let now = Instant::now();
            let keys = answer.events.iter().filter_map(|event| wire::number(&event.kv.as_ref()?.key));
            seen.borrow_mut().extend(keys.map(|number| (number, now)));
            if answer.canceled {
                return Err::<(), String>(format!("the watch was cancelled: {answer:?}"));
            }
        }
    });
    let ends = grant_all(site, plan, plan.ttl_seconds).await?;
    let (first, last) = (ends.iter().min().copied(), ends.iter().max().copied());
    let (first, last) = first.zip(last).ok_or("--leases must be more than 0")?;
    tokio::time::sleep_until(first.into()).await;
    let stopwatch = Stopwatch::start(site.gauge.as_ref());
    site.progress.begin(plan.leases);
    while gone.borrow().len() < ends.len() {
        if listener.is_finished() {
            return listener
                .await
                .map_err(|cause| cause.to_string())?
                .map(|()| unreachable!("it only ends by a failure"));
        }
        if Instant::now() > last + LATE_PATIENCE {
            return Err(format!(
                "{} keys of {} are gone {LATE_PATIENCE:?} after the last lease's end",
                gone.borrow().len(),
                ends.len()
            ));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        site.progress.at(gone.borrow().len() as u64);
    }
    let mut outcome = Outcome { operations: plan.leases, ..Outcome::default() };
    outcome.take(stopwatch.lap());
    listener.abort();
    let mut last_gone = last;
    for (number, when) in gone.borrow().iter() {
        let end = ends.get(*number as usize).ok_or("a key is gone that was never put")?;
        outcome.latency.record(when.saturating_duration_since(*end));
        last_gone = last_gone.max(*when);
    }
    match count_keys(&client).await? {
        (0, _) => {}
        (count, _) => return Err(format!("{count} keys are there although their end was told")),
    }
    outcome.set("late_seconds", (last_gone - last).as_secs_f64());
    outcome.set("latest_seconds", outcome.latency.max_ms() / 1e3);
    Ok(outcome)
}
