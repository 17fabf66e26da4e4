//! Listings of all keys: in pages at the first page's revision, and in one answer, counted as it streams by.

use std::time::{Duration, Instant};

use urd_client::{Options, etcdserverpb::RangeRequest, frame};

use super::{Mix, OpenLoop, Site};
use crate::{
    gauge::{Stopwatch, memory_of},
    measure::Outcome,
    plan::Plan,
    wire::{self, KeyCounter, Page},
};

/// Latency is of a page.
pub async fn paged(site: &Site, plan: &Plan) -> Result<Outcome, String> {
    let client = site.dialer.connect().await?;
    let writes = match plan.writes_per_second {
        0.0 => None,
        rate => {
            let mut mix = Mix::of_puts(plan, 1);
            let writes = OpenLoop::start(site.connections(1).await?, rate, move |number| mix.next_request(number))?;
            writes.measure_from_now();
            Some(writes)
        }
    };
    let mut outcome = Outcome::default();
    let mut request = RangeRequest {
        key: wire::PREFIX.into(),
        range_end: wire::PREFIX_END.into(),
        limit: plan.page as i64,
        ..Default::default()
    };
    site.progress.begin(plan.keys);
    let limit = Duration::from_secs_f64(plan.seconds);
    let stopwatch = Stopwatch::start(site.gauge.as_ref());
    let begin = Instant::now();
    let is_whole = loop {
        let sent = Instant::now();
        let answer = client.unary_bytes(wire::RANGE, frame(&request)).await.map_err(|cause| cause.to_string())?;
        outcome.latency.record(sent.elapsed());
        let page = Page::of(&answer);
        outcome.operations += page.keys;
        site.progress.at(outcome.operations);
        if !page.more {
            break true;
        }
        if page.keys != plan.page {
            return Err(format!("a page of {} keys where {} were asked for and there are more", page.keys, plan.page));
        }
        if begin.elapsed() > limit {
            break false;
        }
        if request.revision == 0 {
            request.revision = page.revision;
        }
        // The key after this one.
        request.key = [page.last_key, &[0]].concat().into();
    };
    outcome.take(stopwatch.lap());
    if let Some(writes) = writes {
        let latency = writes.finish().await?;
        outcome.notes.push("CPU with that of the puts".to_owned());
        outcome.set("puts_beside", latency.count() as f64);
        if let Some(p99) = latency.at_ms(0.99) {
            outcome.set("puts_beside_p99_ms", p99);
        }
    }
    if !is_whole {
        let note = format!("stopped after {:.0} s at {} of {} keys", plan.seconds, outcome.operations, plan.keys);
        outcome.notes.push(note);
    } else if outcome.operations < plan.keys {
        return Err(format!("{} keys were listed where there are {}", outcome.operations, plan.keys));
    }
    Ok(outcome)
}

/// One answer; its growth of memory is from just before to the peak.
pub async fn whole(site: &Site, plan: &Plan) -> Result<Outcome, String> {
    // Wide enough that the server, not the window, sets the pace.
    let client = site.dialer.connect_with(Options { stream_window: 16 << 20, connection_window: 64 << 20 }).await?;
    let request = RangeRequest { key: wire::PREFIX.into(), range_end: wire::PREFIX_END.into(), ..Default::default() };
    let before = site.gauge.as_ref().and_then(|gauge| memory_of(gauge.pid));
    site.progress.begin(plan.keys);
    let stopwatch = Stopwatch::start(site.gauge.as_ref());
    let begin = Instant::now();
    let mut chunks = client.chunks(wire::RANGE, frame(&request)).await.map_err(|cause| cause.to_string())?;
    let mut counter = KeyCounter::default();
    let mut first_byte = None;
    while let Some(chunk) = chunks.next().await.map_err(|cause| cause.to_string())? {
        first_byte.get_or_insert_with(|| begin.elapsed());
        counter.push(&chunk);
        site.progress.at(counter.keys);
    }
    let mut outcome = Outcome { operations: counter.keys, ..Outcome::default() };
    outcome.latency.record(begin.elapsed());
    outcome.take(stopwatch.lap());
    if counter.keys < plan.keys {
        return Err(format!("{} keys were listed where there are {}", counter.keys, plan.keys));
    }
    outcome.set("first_byte_ms", first_byte.unwrap_or_default().as_secs_f64() * 1e3);
    let after = site.gauge.as_ref().and_then(|gauge| memory_of(gauge.pid));
    if let (Some(before), Some(after)) = (before, after) {
        outcome.set("rss_growth_mb", after.peak.saturating_sub(before.resident) as f64 / 1e6);
    }
    Ok(outcome)
}
