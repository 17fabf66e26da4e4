//! Counts of health checks and scrapes. They are asked for on whichever shard holds the prober's connection and are rare, so these
//! cells, unlike all others, are shared and changed by locked instructions.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

/// A named check of `/livez` or `/readyz`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Check {
    LiveSerializableRead,
    ReadyDataCorruption,
    ReadyLinearizableRead,
    ReadyNonLearner,
    ReadySerializableRead,
}

impl Check {
    /// In the order of the labels: type, then name.
    pub const ALL: [Check; 5] = [
        Check::LiveSerializableRead,
        Check::ReadyDataCorruption,
        Check::ReadyLinearizableRead,
        Check::ReadyNonLearner,
        Check::ReadySerializableRead,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Check::LiveSerializableRead | Check::ReadySerializableRead => "serializable_read",
            Check::ReadyDataCorruption => "data_corruption",
            Check::ReadyLinearizableRead => "linearizable_read",
            Check::ReadyNonLearner => "non_learner",
        }
    }

    pub fn kind(self) -> &'static str {
        match self {
            Check::LiveSerializableRead => "livez",
            _ => "readyz",
        }
    }
}

#[derive(Debug, Default)]
pub struct HealthMetrics {
    /// Answers of `/health`.
    healthy: AtomicU64,
    unhealthy: AtomicU64,
    checks: [CheckMetrics; Check::ALL.len()],
    /// Answers of `/metrics`.
    scrapes: AtomicU64,
}

#[derive(Debug, Default)]
struct CheckMetrics {
    /// What came of the last one.
    last: AtomicI64,
    failed: AtomicU64,
    succeeded: AtomicU64,
}

impl HealthMetrics {
    pub fn count_health(&self, healthy: bool) {
        let counter = if healthy { &self.healthy } else { &self.unhealthy };
        counter.fetch_add(1, Relaxed);
    }

    pub fn count_check(&self, check: Check, success: bool) {
        let metrics = &self.checks[check as usize];
        metrics.last.store(i64::from(success), Relaxed);
        let counter = if success { &metrics.succeeded } else { &metrics.failed };
        counter.fetch_add(1, Relaxed);
    }

    pub fn count_scrape(&self) {
        self.scrapes.fetch_add(1, Relaxed);
    }

    pub(super) fn scrapes(&self) -> u64 {
        self.scrapes.load(Relaxed)
    }

    pub(super) fn healthy(&self) -> u64 {
        self.healthy.load(Relaxed)
    }

    pub(super) fn unhealthy(&self) -> u64 {
        self.unhealthy.load(Relaxed)
    }

    /// The last result, failures and successes; None before the first.
    pub(super) fn check(&self, check: Check) -> Option<(i64, u64, u64)> {
        let metrics = &self.checks[check as usize];
        let (failed, succeeded) = (metrics.failed.load(Relaxed), metrics.succeeded.load(Relaxed));
        (failed + succeeded > 0).then(|| (metrics.last.load(Relaxed), failed, succeeded))
    }
}
