//! What can be set about the gRPC layer of a shard, and where it counts.

use std::{
    cell::Cell,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    config::Config,
    error::Code,
    limits,
    observe::{
        metrics::{MethodMetrics, ShardMetrics},
        trace::Tracer,
    },
    runtime,
};

/// Settings of the layer, the same for every connection of a shard.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `--max-request-bytes`; a message may be larger by `limits::GRPC_OVERHEAD_BYTES`.
    pub max_request_bytes: usize,
    /// `--max-concurrent-streams`, of one connection. More than `limits::GRPC_STREAMS_MAX` are none the more.
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
    /// A call's duration is counted, which costs a look at the clock (`--metrics extensive`).
    pub time_calls: bool,
    /// Where the shard counts. `Route::method` numbers methods as `observe::metrics::methods` does.
    pub counters: Arc<ShardMetrics>,
    /// Bytes of messages that are not complete, of all connections.
    pub unfinished: Rc<Cell<usize>>,
    /// Makes the spans of calls that are sampled (`--enable-distributed-tracing`).
    pub tracer: Option<Rc<Tracer>>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings::new()
    }
}

impl Settings {
    /// etcd's defaults, with counters of their own.
    pub fn new() -> Self {
        Settings {
            max_request_bytes: limits::REQUEST_BYTES_DEFAULT,
            max_concurrent_streams: limits::GRPC_STREAMS_MAX,
            max_header_bytes: limits::GRPC_HEADER_BYTES,
            keepalive_min_time: Duration::from_secs(5),
            keepalive_interval: Duration::from_secs(2 * 60 * 60),
            keepalive_timeout: Duration::from_secs(20),
            drain_grace: Duration::from_secs(5),
            time_calls: false,
            counters: Arc::default(),
            unfinished: Rc::default(),
            tracer: None,
        }
    }

    /// What `config` says, counting in `counters`.
    pub fn of(config: &Config, counters: Arc<ShardMetrics>) -> Self {
        let defaults = Settings { counters, ..Settings::new() };
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
            time_calls: config.metrics_extensive,
            ..defaults
        }
    }

    /// Longest message that is taken, decompressed.
    pub fn max_message_bytes(&self) -> usize {
        self.max_request_bytes + limits::GRPC_OVERHEAD_BYTES
    }
}

/// What is counted of a call, whichever way it has come.
impl Settings {
    fn counters_of(&self, method: u16) -> &MethodMetrics {
        &self.counters.methods[usize::from(method)]
    }

    pub(super) fn count_started(&self, method: u16) {
        self.counters_of(method).started.increment();
    }

    pub(super) fn count_received(&self, method: u16, message_len: usize) {
        self.counters_of(method).received.increment();
        self.counters.client_received_bytes.add(message_len as u64);
    }

    pub(super) fn count_sent(&self, method: u16, message_len: usize) {
        self.counters_of(method).sent.increment();
        self.counters.client_sent_bytes.add(message_len as u64);
    }

    pub(super) fn count_handled(&self, method: u16, code: Code, began: Instant) {
        let counters = self.counters_of(method);
        counters.handled(code);
        if self.time_calls {
            counters.took(runtime::now() - began);
        }
    }
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
            let settings = Settings::of(config, Arc::default());
            (settings.keepalive_interval.as_secs(), settings.keepalive_timeout.as_secs())
        };
        assert_eq!(of(&config(60_000, 5_000)), (60, 5));
        assert_eq!(of(&config(0, 5_000)), (7200, 20));
        assert_eq!(of(&config(60_000, 0)), (7200, 20));
        assert_eq!(Settings::of(&Config::default(), Arc::default()).max_message_bytes(), 2 * 1024 * 1024);
    }
}
