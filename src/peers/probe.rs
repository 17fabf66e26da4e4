//! How long the way to a member is, and how far its clock is from this one's. (etcd: rafthttp/probing_status.go and the library
//! that it asks, which does the same over two kinds of connections.)

use std::{
    rc::Rc,
    time::{Duration, Instant},
};

use http::StatusCode;
use serde::Deserialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{Peers, peer::Peer};
use crate::{limits, log, observe::log::hex, runtime};

/// How much of a new measurement goes into the smoothed one, in percent.
const NEW_PERCENT: u32 = 12;
/// From where on a clock is worth a word.
const DRIFT_MAX: Duration = Duration::from_secs(1);
const UNHEALTHY_AGAIN: Duration = Duration::from_secs(5);
const HEALTHY_AGAIN: Duration = Duration::from_secs(30);

#[derive(Deserialize)]
struct Answer {
    #[serde(rename = "OK")]
    ok: bool,
    #[serde(rename = "Now")]
    now: String,
}

/// What the probes of a member have found.
#[derive(Default)]
struct Found {
    smoothed: Duration,
    drift: Duration,
    /// None: it answers.
    error: Option<String>,
    is_known: bool,
}

impl Found {
    fn record(&mut self, took: Duration, apart: Duration) {
        let before = if self.smoothed.is_zero() { took } else { self.smoothed };
        self.smoothed = (before * (100 - NEW_PERCENT) + took * NEW_PERCENT) / 100;
        self.drift = apart.saturating_sub(self.smoothed / 2);
        self.error = None;
        self.is_known = true;
    }
}

/// Until the task is dropped.
pub(super) async fn probe(peers: Rc<Peers>, peer: Rc<Peer>) {
    let mut found = Found::default();
    let mut told: Option<Instant> = None;
    let begun = runtime::now();
    loop {
        runtime::sleep(Duration::from_millis(limits::PEER_PROBE_MS)).await;
        let Some(url) = peer.urls.borrow().pick() else { continue };
        match once(&peers, &url).await {
            Ok((took, apart)) => found.record(took, apart),
            Err(why) => {
                found.error = Some(why);
                peer.urls.borrow_mut().unreachable(&url);
            }
        }
        let is_healthy = found.error.is_none() && found.is_known;
        let pause = if is_healthy { HEALTHY_AGAIN } else { UNHEALTHY_AGAIN };
        let due = told.map_or(begun + UNHEALTHY_AGAIN, |told| told + pause);
        if runtime::recent() >= due {
            told = Some(runtime::recent());
            tell(&peer, &found);
            peer.metrics.round_trip.observe(found.smoothed);
        }
    }
}

/// The time there and back, and that between the clocks.
async fn once(peers: &Peers, url: &str) -> Result<(Duration, Duration), String> {
    let began = runtime::now();
    let patience = Duration::from_millis(limits::PEER_SILENCE_MS_MAX);
    let answer = peers.client.get(url, "/raft/probing", patience).await?;
    let took = runtime::now() - began;
    if answer.status != StatusCode::OK {
        return Err(format!("got unexpected HTTP status code {} from {url}/raft/probing", answer.status));
    }
    let Answer { ok, now } = serde_json::from_slice(&answer.body).map_err(|cause| cause.to_string())?;
    if !ok {
        return Err("it says that it is not well".into());
    }
    let there = OffsetDateTime::parse(&now, &Rfc3339).map_err(|cause| cause.to_string())?;
    Ok((took, (OffsetDateTime::now_utc() - there).unsigned_abs()))
}

fn tell(peer: &Peer, found: &Found) {
    let name = "ROUND_TRIPPER_RAFT_MESSAGE";
    if let Some(error) = &found.error {
        log!(
            Warn,
            "prober detected unhealthy status",
            "round-tripper-name" = name,
            "remote-peer-id" = hex(peer.id),
            "rtt" = found.smoothed,
            "error" = error.as_str()
        );
    }
    if found.drift > DRIFT_MAX {
        log!(
            Warn,
            "prober found high clock drift",
            "round-tripper-name" = name,
            "remote-peer-id" = hex(peer.id),
            "clock-drift" = found.drift,
            "rtt" = found.smoothed
        );
    }
}
