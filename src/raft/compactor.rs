//! Automatic compaction: which revision to compact to, by time or by count. A policy only: it is told the time and the
//! revision and says what to propose. (etcd: server/etcdserver/api/v3compactor.)

use std::collections::VecDeque;

use crate::config::AutoCompaction;

/// Samples of the revision within one retention.
const SAMPLES: u64 = 10;

const HOUR_MS: u64 = 3_600_000;

/// How often a retention by count is looked at.
const REVISION_INTERVAL_MS: u64 = 300_000;

pub struct Compactor {
    mode: AutoCompaction,
    /// When, and at which revision the store was.
    samples: VecDeque<(u64, i64)>,
    last_ms: u64,
    last_revision: i64,
}

impl Compactor {
    pub fn new(mode: AutoCompaction, now_ms: u64) -> Self {
        Compactor { mode, samples: VecDeque::new(), last_ms: now_ms, last_revision: 0 }
    }

    /// How often to ask `due`; None if there is nothing to do ever.
    pub fn interval_ms(&self) -> Option<u64> {
        match self.mode {
            AutoCompaction::Off => None,
            AutoCompaction::Periodic { retention_ms } => Some((retention_ms.min(HOUR_MS) / SAMPLES).max(1)),
            AutoCompaction::Revision { .. } => Some(REVISION_INTERVAL_MS),
        }
    }

    /// The revision to compact to now, if any. `revision`: the store's.
    pub fn due(&mut self, now_ms: u64, revision: i64) -> Option<i64> {
        let target = match self.mode {
            AutoCompaction::Off => return None,
            AutoCompaction::Revision { retention } => revision - retention,
            AutoCompaction::Periodic { retention_ms } => {
                self.samples.push_back((now_ms, revision));
                // The newest sample that is a whole retention old is what may go.
                while self.samples.get(1).is_some_and(|(at, _)| *at + retention_ms <= now_ms) {
                    self.samples.pop_front();
                }
                let (at, then) = *self.samples.front()?;
                if at + retention_ms > now_ms || self.last_ms + retention_ms.min(HOUR_MS) > now_ms {
                    return None;
                }
                then
            }
        };
        if target <= 0 || target == self.last_revision {
            return None;
        }
        self.last_ms = now_ms;
        self.last_revision = target;
        Some(target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a compactor for `duration_ms` at one revision a second; gives when it compacted to what.
    fn run(mode: AutoCompaction, duration_ms: u64) -> Vec<(u64, i64)> {
        let mut compactor = Compactor::new(mode, 0);
        let step = compactor.interval_ms().unwrap();
        (0..=duration_ms / step)
            .filter_map(|at| compactor.due(at * step, (at * step / 1000) as i64 + 1).map(|to| (at * step, to)))
            .collect()
    }

    #[test]
    fn a_period_below_an_hour_compacts_once_a_period_and_keeps_one() {
        let compactions = run(AutoCompaction::Periodic { retention_ms: 600_000 }, 1_800_000);
        assert_eq!(compactions, [(600_000, 1), (1_200_000, 601), (1_800_000, 1201)]);
    }

    #[test]
    fn a_longer_period_compacts_hourly() {
        let compactions = run(AutoCompaction::Periodic { retention_ms: 3 * HOUR_MS }, 5 * HOUR_MS);
        assert_eq!(compactions, [(3 * HOUR_MS, 1), (4 * HOUR_MS, 3601), (5 * HOUR_MS, 7201)]);
    }

    #[test]
    fn a_count_keeps_that_many_revisions_and_does_not_repeat_itself() {
        let mut compactor = Compactor::new(AutoCompaction::Revision { retention: 1000 }, 0);
        assert_eq!(compactor.due(0, 900), None);
        assert_eq!(compactor.due(300_000, 5000), Some(4000));
        assert_eq!(compactor.due(600_000, 5000), None);
        assert_eq!(compactor.due(900_000, 5001), Some(4001));
    }

    #[test]
    fn off_is_off() {
        assert_eq!(Compactor::new(AutoCompaction::Off, 0).interval_ms(), None);
    }
}
