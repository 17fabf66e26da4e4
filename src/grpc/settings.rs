//! What can be set about the gRPC layer of a shard, and what it counts. Counters are plain cells: a shard writes and
//! reads its own.

use std::{cell::Cell, rc::Rc, time::Duration};

use crate::{config::Config, error::Code, limits};

/// Settings of the layer, the same for every connection of a shard.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `--max-request-bytes`; a message may be larger by `limits::GRPC_OVERHEAD_BYTES`.
    pub max_request_bytes: usize,
    /// `--max-concurrent-streams`, of one connection. u32::MAX: no limit is announced.
    pub max_concurrent_streams: u32,
    /// Header bytes of one call, as HTTP/2 counts them (names, values, 32 for each field).
    pub max_header_bytes: u32,
    /// `--grpc-keepalive-min-time`: a client that pings more often is sent away. Zero: five minutes, grpc-go's own.
    pub keepalive_min_time: Duration,
    /// `--grpc-keepalive-interval`: a silent connection is pinged after it. Zero: never.
    pub keepalive_interval: Duration,
    /// `--grpc-keepalive-timeout`: a connection that stays silent for that long after a ping is closed.
    pub keepalive_timeout: Duration,
    /// From the signal to drain until a connection that still has streams is closed.
    pub drain_grace: Duration,
    pub counters: Rc<Counters>,
}

impl Settings {
    /// etcd's defaults, counting for `methods` methods.
    pub fn new(methods: usize) -> Self {
        Settings {
            max_request_bytes: limits::REQUEST_BYTES_DEFAULT,
            max_concurrent_streams: u32::MAX,
            max_header_bytes: limits::GRPC_HEADER_BYTES,
            keepalive_min_time: Duration::from_secs(5),
            keepalive_interval: Duration::from_secs(2 * 60 * 60),
            keepalive_timeout: Duration::from_secs(20),
            drain_grace: Duration::from_secs(5),
            counters: Rc::new(Counters::new(methods)),
        }
    }

    /// What `config` says, counting for `methods` methods.
    pub fn of(config: &Config, methods: usize) -> Self {
        let defaults = Settings::new(methods);
        let interval = Duration::from_millis(config.grpc_keepalive_interval_ms);
        let timeout = Duration::from_millis(config.grpc_keepalive_timeout_ms);
        // One of the two alone means nothing, and grpc-go's own hold (etcd: embed/etcd.go, serveClients).
        let (keepalive_interval, keepalive_timeout) = if interval.is_zero() || timeout.is_zero() {
            (defaults.keepalive_interval, defaults.keepalive_timeout)
        } else {
            (interval, timeout)
        };
        Settings {
            max_request_bytes: config.max_request_bytes,
            max_concurrent_streams: config.max_concurrent_streams,
            keepalive_min_time: Duration::from_millis(config.grpc_keepalive_min_time_ms),
            keepalive_interval,
            keepalive_timeout,
            ..defaults
        }
    }

    /// Longest message that is taken, decompressed.
    pub fn max_message_bytes(&self) -> usize {
        self.max_request_bytes + limits::GRPC_OVERHEAD_BYTES
    }
}

/// What a shard counts. Methods are numbered by the handler (`Route::method`).
#[derive(Debug)]
pub struct Counters {
    pub methods: Vec<Method>,
    /// Message bytes taken in, decompressed, without prefixes.
    pub received_bytes: Cell<u64>,
    /// Message bytes handed out, without prefixes.
    pub sent_bytes: Cell<u64>,
    /// Connections that are open now.
    pub connections: Cell<u64>,
    /// Calls, of any method, that are running now.
    pub calls: Cell<u64>,
}

/// What is counted of one method (grpc-prometheus: server_metrics).
#[derive(Debug, Default)]
pub struct Method {
    pub started: Cell<u64>,
    /// By the number of the status code.
    pub handled: [Cell<u64>; Code::COUNT],
    pub messages_received: Cell<u64>,
    pub messages_sent: Cell<u64>,
}

impl Counters {
    pub fn new(methods: usize) -> Self {
        Counters {
            methods: (0..methods).map(|_| Method::default()).collect(),
            received_bytes: Cell::new(0),
            sent_bytes: Cell::new(0),
            connections: Cell::new(0),
            calls: Cell::new(0),
        }
    }

    pub(super) fn started(&self, method: u16) {
        bump(&self.methods[method as usize].started, 1);
    }

    pub(super) fn handled(&self, method: u16, code: Code) {
        bump(&self.methods[method as usize].handled[code as usize], 1);
    }

    pub(super) fn received(&self, method: u16, bytes: usize) {
        bump(&self.methods[method as usize].messages_received, 1);
        bump(&self.received_bytes, bytes as u64);
    }

    pub(super) fn sent(&self, method: u16, bytes: usize) {
        bump(&self.methods[method as usize].messages_sent, 1);
        bump(&self.sent_bytes, bytes as u64);
    }
}

fn bump(counter: &Cell<u64>, by: u64) {
    counter.set(counter.get() + by);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_keepalive_is_grpc_gos_own() {
        let config = |interval, timeout| Config {
            grpc_keepalive_interval_ms: interval,
            grpc_keepalive_timeout_ms: timeout,
            ..Config::default()
        };
        let of = |config: &Config| {
            let settings = Settings::of(config, 0);
            (settings.keepalive_interval.as_secs(), settings.keepalive_timeout.as_secs())
        };
        assert_eq!(of(&config(60_000, 5_000)), (60, 5));
        assert_eq!(of(&config(0, 5_000)), (7200, 20));
        assert_eq!(of(&config(60_000, 0)), (7200, 20));
        assert_eq!(Settings::of(&Config::default(), 0).max_message_bytes(), 2 * 1024 * 1024);
    }
}
