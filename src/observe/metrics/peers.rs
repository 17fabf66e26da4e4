//! What is counted of the ways to other members, for each of them.

use std::{collections::BTreeMap, sync::Arc};

use arc_swap::ArcSwap;

use super::{
    Counter, Gauge, Histogram, exponential,
    text::{Exposition, Kind},
};

static ROUND_TRIP: [f64; 16] = exponential(0.0001, 2.0);
static SNAPSHOT: [f64; 10] = exponential(0.1, 2.0);

/// Of one member.
#[derive(Debug)]
pub struct PeerMetrics {
    /// 1 while it is heard of.
    pub active: Gauge,
    pub disconnected: Counter,
    pub sent_bytes: Counter,
    pub received_bytes: Counter,
    pub sent_failures: Counter,
    pub received_failures: Counter,
    pub round_trip: Histogram,
    pub snapshots_sent: Transfers,
    pub snapshots_received: Transfers,
}

/// Of snapshots in one direction.
#[derive(Debug)]
pub struct Transfers {
    pub done: Counter,
    pub failed: Counter,
    pub under_way: Gauge,
    pub duration: Histogram,
}

impl Default for Transfers {
    fn default() -> Self {
        let duration = Histogram::new(&SNAPSHOT);
        Transfers { done: Counter::default(), failed: Counter::default(), under_way: Gauge::default(), duration }
    }
}

impl Default for PeerMetrics {
    fn default() -> Self {
        PeerMetrics {
            active: Gauge::default(),
            disconnected: Counter::default(),
            sent_bytes: Counter::default(),
            received_bytes: Counter::default(),
            sent_failures: Counter::default(),
            received_failures: Counter::default(),
            round_trip: Histogram::new(&ROUND_TRIP),
            snapshots_sent: Transfers::default(),
            snapshots_received: Transfers::default(),
        }
    }
}

/// Of all that there are and were: there are no more than members that an operator has added.
#[derive(Debug, Default)]
pub struct PeersMetrics(ArcSwap<BTreeMap<u64, Arc<PeerMetrics>>>);

impl PeersMetrics {
    /// Those of a member, begun at its first.
    pub fn of(&self, id: u64) -> Arc<PeerMetrics> {
        if let Some(known) = self.0.load().get(&id) {
            return known.clone();
        }
        self.0.rcu(|table| {
            let mut table = BTreeMap::clone(table);
            table.entry(id).or_default();
            table
        });
        self.0.load()[&id].clone()
    }

    /// What a member has counted of others, whose own id is `local`. A series begins with the first thing it counts.
    pub(super) fn render(&self, out: &mut Exposition, local: u64) {
        let (local, table) = (format!("{local:x}"), self.0.load());
        let all: Vec<(String, &PeerMetrics)> = table.iter().map(|(id, peer)| (format!("{id:x}"), &**peer)).collect();
        let was_active: Vec<_> =
            all.iter().filter(|(_, peer)| peer.active.get() > 0 || peer.disconnected.get() > 0).collect();
        if !was_active.is_empty() {
            out.family("etcd_network_active_peers", Kind::Gauge, "1 for each member that is heard of.");
            for (id, peer) in was_active {
                out.sample(&[("Local", &local), ("Remote", id)], peer.active.get() as f64);
            }
        }
        let mut counted = |name, kind, help, local: Option<&str>, label, value: &dyn Fn(&PeerMetrics) -> f64| {
            let counted: Vec<_> = all.iter().filter(|(_, peer)| value(peer) > 0.0).collect();
            if !counted.is_empty() {
                out.family(name, kind, help);
                for (id, peer) in counted {
                    let labels = [("Local", local.unwrap_or_default()), (label, id.as_str())];
                    out.sample(&labels[usize::from(local.is_none())..], value(peer));
                }
            }
        };
        let counter = Kind::Counter;
        let (name, help) = ("etcd_network_disconnected_peers_total", "Times that a member was heard of no more.");
        counted(name, counter, help, Some(&local), "Remote", &|peer| peer.disconnected.get() as f64);
        let (name, help) = ("etcd_network_peer_sent_bytes_total", "Bytes sent to other members.");
        counted(name, counter, help, None, "To", &|peer| peer.sent_bytes.get() as f64);
        let (name, help) = ("etcd_network_peer_received_bytes_total", "Bytes received from other members.");
        counted(name, counter, help, None, "From", &|peer| peer.received_bytes.get() as f64);
        let (name, help) = ("etcd_network_peer_sent_failures_total", "Messages lost on their way to other members.");
        counted(name, counter, help, None, "To", &|peer| peer.sent_failures.get() as f64);
        let (name, help) = ("etcd_network_peer_received_failures_total", "Messages of others that could not be taken.");
        counted(name, counter, help, None, "From", &|peer| peer.received_failures.get() as f64);
        let (name, help) = ("etcd_network_snapshot_send_success", "Snapshots sent.");
        counted(name, counter, help, None, "To", &|peer| peer.snapshots_sent.done.get() as f64);
        let (name, help) = ("etcd_network_snapshot_send_failures", "Snapshots that could not be sent.");
        counted(name, counter, help, None, "To", &|peer| peer.snapshots_sent.failed.get() as f64);
        let (name, help) = ("etcd_network_snapshot_receive_success", "Snapshots received.");
        counted(name, counter, help, None, "From", &|peer| peer.snapshots_received.done.get() as f64);
        let (name, help) = ("etcd_network_snapshot_receive_failures", "Snapshots that could not be received.");
        counted(name, counter, help, None, "From", &|peer| peer.snapshots_received.failed.get() as f64);
        for (name, label, help, of) in [
            (
                "etcd_network_snapshot_send_inflights_total",
                "To",
                "Snapshots being sent.",
                (|peer| &peer.snapshots_sent) as fn(&PeerMetrics) -> &Transfers,
            ),
            ("etcd_network_snapshot_receive_inflights_total", "From", "Snapshots being received.", |peer| {
                &peer.snapshots_received
            }),
        ] {
            let begun = |transfers: &Transfers| {
                transfers.under_way.get() as u64 + transfers.done.get() + transfers.failed.get() > 0
            };
            let those: Vec<_> = all.iter().filter(|(_, peer)| begun(of(peer))).collect();
            if !those.is_empty() {
                out.family(name, Kind::Gauge, help);
                for (id, peer) in those {
                    out.sample(&[(label, id)], of(peer).under_way.get() as f64);
                }
            }
        }
        for (name, label, help, of) in [
            (
                "etcd_network_peer_round_trip_time_seconds",
                "To",
                "Time to a member and back.",
                (|peer| &peer.round_trip) as fn(&PeerMetrics) -> &Histogram,
            ),
            ("etcd_network_snapshot_send_total_duration_seconds", "To", "Time to send a snapshot.", |peer| {
                &peer.snapshots_sent.duration
            }),
            ("etcd_network_snapshot_receive_total_duration_seconds", "From", "Time to receive a snapshot.", |peer| {
                &peer.snapshots_received.duration
            }),
        ] {
            let read: Vec<_> = all.iter().map(|(id, peer)| (id, of(peer).read())).collect();
            let those: Vec<_> = read.iter().filter(|(_, distribution)| distribution.total() > 0).collect();
            if !those.is_empty() {
                out.family(name, Kind::Histogram, help);
                for (id, distribution) in those {
                    out.distribution(&[(label, id)], distribution);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_begins_with_the_first_thing_it_counts() {
        let metrics = PeersMetrics::default();
        let text = || {
            let mut out = Exposition::default();
            metrics.render(&mut out, 0xa);
            out.into_text()
        };
        assert!(!text().contains("etcd_network"));
        metrics.of(0xb).sent_bytes.add(7);
        assert!(text().contains("\netcd_network_peer_sent_bytes_total{To=\"b\"} 7\n"), "{}", text());
        assert!(!text().contains("active_peers"));
        metrics.of(0xb).active.set(1);
        assert!(text().contains("etcd_network_active_peers{Local=\"a\",Remote=\"b\"} 1\n"));
        metrics.of(0xb).active.set(0);
        metrics.of(0xb).disconnected.increment();
        assert!(text().contains("etcd_network_active_peers{Local=\"a\",Remote=\"b\"} 0\n"));
        assert!(text().contains("etcd_network_disconnected_peers_total{Local=\"a\",Remote=\"b\"} 1\n"));
        metrics.of(0xc).round_trip.observe_value(0.0003);
        assert!(text().contains("etcd_network_peer_round_trip_time_seconds_bucket{To=\"c\",le=\"0.0004\"} 1\n"));
    }
}
