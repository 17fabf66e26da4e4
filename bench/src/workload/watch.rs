//! Watches: how much an event costs for each who hears of it, what a watch and a stream take in memory, and what a server
//! does while nothing happens to them.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use urd_client::{
    Client, Receiver, Watcher,
    etcdserverpb::{WatchCreateRequest, WatchResponse},
};

use super::{OpenLoop, Site, calls::Request};
use crate::{
    gauge::Stopwatch,
    measure::{Latency, Outcome},
    plan::Plan,
    wire::{self, Field, Fields},
};

/// How long the last events may take after the last put.
const DRAIN_PATIENCE: Duration = Duration::from_secs(60);

/// Where a watch of the memory rows is: a key of its own that nobody writes.
fn quiet_key(number: u64) -> Bytes {
    format!("/quiet/{number:025}").into_bytes().into()
}

/// Streams over the connections in turn, watches over the streams in turn; returns when every watch is created.
async fn open_watches(
    connections: &[Client],
    plan: &Plan,
    request: impl Fn(u64) -> WatchCreateRequest,
) -> Result<Vec<Watcher>, String> {
    let streams = plan.streams.clamp(1, plan.watches.max(1));
    let mut watchers = Vec::new();
    for at in 0..streams {
        let client = &connections[at as usize % connections.len()];
        watchers.push(client.watcher().await.map_err(|cause| cause.to_string())?);
    }
    for number in 0..plan.watches {
        let watcher = &mut watchers[(number % streams) as usize];
        watcher.create(request(number)).map_err(|cause| cause.to_string())?;
        // The connections' tasks have to run as well.
        if number % 1_000 == 999 {
            tokio::task::yield_now().await;
        }
    }
    for (at, watcher) in watchers.iter_mut().enumerate() {
        let expected = plan.watches / streams + u64::from((at as u64) < plan.watches % streams);
        for _ in 0..expected {
            let answer = watcher.next().await.map_err(|cause| cause.to_string())?;
            if !answer.created || answer.canceled {
                return Err(format!("a watch was not created: {answer:?}"));
            }
        }
    }
    Ok(watchers)
}

#[derive(Default)]
struct Heard {
    events: Cell<u64>,
    is_measuring: Cell<bool>,
    latency: RefCell<Latency>,
    failure: RefCell<Option<String>>,
}

/// `watches` of the whole prefix; latency is from when a put was due to when its event is read, once for each watch.
pub async fn fan_out(site: &Site, plan: &Plan) -> Result<Outcome, String> {
    if plan.writes_per_second <= 0.0 {
        return Err("events come from puts: --writes-per-second must be more than 0".to_owned());
    }
    let connections = site.connections(plan.connections.min(plan.streams as usize).max(1)).await?;
    let request =
        |_| WatchCreateRequest { key: wire::PREFIX.into(), range_end: wire::PREFIX_END.into(), ..Default::default() };
    let watchers = open_watches(&connections, plan, request).await?;
    let heard = Rc::new(Heard::default());
    let epoch = Instant::now();
    let mut tasks = Vec::new();
    let mut senders = Vec::new();
    for watcher in watchers {
        let heard = heard.clone();
        senders.push(watcher.sender);
        tasks.push(tokio::task::spawn_local(async move {
            if let Err(cause) = listen(watcher.receiver, epoch, &heard).await {
                heard.failure.borrow_mut().get_or_insert(cause);
            }
        }));
    }
    let (keys, value_bytes) = (plan.keys.max(1), plan.value_bytes.max(STAMP_BYTES));
    let writes = OpenLoop::start(site.connections(1).await?, plan.writes_per_second, move |number| {
        let mut value = vec![b'v'; value_bytes];
        value[..STAMP_BYTES].copy_from_slice(&(epoch.elapsed().as_nanos() as u64).to_le_bytes());
        Request { path: wire::PUT, body: wire::put(&wire::key(number % keys), &value, 0), answer_bytes_min: 0 }
    })?;
    tokio::time::sleep(Duration::from_secs_f64(plan.warm_up_seconds)).await;
    heard.is_measuring.set(true);
    let before = heard.events.get();
    let stopwatch = Stopwatch::start(site.gauge.as_ref());
    site.progress.wait(Duration::from_secs_f64(plan.seconds)).await;
    let mut outcome = Outcome::default();
    outcome.take(stopwatch.lap());
    outcome.operations = heard.events.get() - before;
    heard.is_measuring.set(false);
    // Each put is an event for each watch, and none may be missing.
    let state = writes.sent();
    writes.finish().await?;
    let expected = state * plan.watches;
    let deadline = Instant::now() + DRAIN_PATIENCE;
    while heard.events.get() < expected && heard.failure.borrow().is_none() {
        if Instant::now() > deadline {
            return Err(format!("{} events of {expected} have come", heard.events.get()));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tasks.iter().for_each(|task| task.abort());
    if let Some(cause) = heard.failure.borrow_mut().take() {
        return Err(cause);
    }
    outcome.latency = heard.latency.take();
    Ok(outcome)
}

/// At the start of a value: nanoseconds since the run's beginning at which its put was sent.
const STAMP_BYTES: usize = 8;

async fn listen(mut receiver: Receiver<WatchResponse>, epoch: Instant, heard: &Heard) -> Result<(), String> {
    loop {
        let message =
            receiver.next_bytes().await.map_err(|cause| cause.to_string())?.ok_or("a watch stream has ended")?;
        let (events, stamp) = events_of(&message);
        heard.events.set(heard.events.get() + events);
        if let (true, Some(stamp)) = (heard.is_measuring.get(), stamp) {
            let latency = epoch.elapsed().saturating_sub(Duration::from_nanos(stamp));
            heard.latency.borrow_mut().record_many(latency, events);
        }
    }
}

/// How many events a WatchResponse has, and the stamp of the first.
fn events_of(message: &[u8]) -> (u64, Option<u64>) {
    let (mut events, mut stamp) = (0, None);
    for (number, field) in Fields(message) {
        if let (11, Field::Bytes(event)) = (number, field) {
            if events == 0 {
                let value = Fields(event).bytes(2).and_then(|kv| Fields(kv).bytes(5));
                stamp = value.and_then(|value| value.first_chunk()).map(|bytes| u64::from_le_bytes(*bytes));
            }
            events += 1;
        }
    }
    (events, stamp)
}

/// From before the first connection to when all watches are there and the server has had time to settle. A figure a watch
/// if there are several on a stream, else a figure a stream.
pub async fn memory(site: &Site, plan: &Plan) -> Result<Outcome, String> {
    let gauge = site.gauge()?;
    let resident = || gauge.memory().map(|memory| memory.resident).ok_or("the server has ended");
    let before = resident()?;
    let stopwatch = Stopwatch::start(Some(gauge));
    let connections = site.connections(plan.connections.min(plan.streams as usize).max(1)).await?;
    let request = |number| WatchCreateRequest { key: quiet_key(number), ..Default::default() };
    let watchers = open_watches(&connections, plan, request).await?;
    let mut outcome = Outcome { operations: plan.watches, ..Outcome::default() };
    outcome.take(stopwatch.lap());
    site.progress.wait(Duration::from_secs_f64(plan.seconds)).await;
    let grown = resident()?.saturating_sub(before) as f64;
    drop(watchers);
    match plan.watches > plan.streams {
        true => outcome.set("bytes_per_watch", grown / plan.watches as f64),
        false => outcome.set("bytes_per_stream", grown / plan.streams as f64),
    }
    Ok(outcome)
}

pub async fn idle(site: &Site, plan: &Plan) -> Result<Outcome, String> {
    let gauge = site.gauge()?.clone();
    let connections = site.connections(plan.connections.min(plan.streams as usize).max(1)).await?;
    let request = |number| WatchCreateRequest { key: quiet_key(number), ..Default::default() };
    let watchers = open_watches(&connections, plan, request).await?;
    tokio::time::sleep(Duration::from_secs_f64(plan.warm_up_seconds)).await;
    let stopwatch = Stopwatch::start(Some(&gauge));
    site.progress.wait(Duration::from_secs_f64(plan.seconds)).await;
    let mut outcome = Outcome { operations: plan.watches, ..Outcome::default() };
    outcome.take(stopwatch.lap());
    drop(watchers);
    let busy = 100.0 * outcome.cpu_seconds.unwrap_or_default() / outcome.seconds;
    outcome.set("idle_cpu_percent", busy);
    Ok(outcome)
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use urd_client::mvccpb::{Event, KeyValue};

    use super::*;

    #[test]
    fn events_are_counted_and_the_first_stamp_is_read() {
        let event = |stamp: u64| Event {
            kv: Some(KeyValue { value: stamp.to_le_bytes().to_vec().into(), ..Default::default() }),
            ..Default::default()
        };
        let response = WatchResponse { watch_id: 3, events: vec![event(77), event(78)], ..Default::default() };
        assert_eq!(events_of(&response.encode_to_vec()), (2, Some(77)));
        assert_eq!(events_of(&WatchResponse { created: true, ..Default::default() }.encode_to_vec()), (0, None));
    }
}
