//! Keeps a line that repeats from flooding the log: of each message, the first hundred in a second are written and then
//! every hundredth (etcd: the sampling of its zap logger).

use std::{
    hash::{Hash as _, Hasher as _},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::UNIX_EPOCH,
};

use super::line::Line;

const FIRST: u64 = 100;
const THEN_EVERY: u64 = 100;

/// Counters by the hash of level and message. Two messages that share one are sampled together: with 512 counters and
/// some 200 messages that is rare, and costs lines only of messages that flood.
const COUNTERS: usize = 512;

pub(super) struct Sampler {
    /// The second in the upper half, the count within it in the lower.
    counters: Box<[AtomicU64]>,
}

impl Default for Sampler {
    fn default() -> Self {
        Sampler { counters: (0..COUNTERS).map(|_| AtomicU64::new(0)).collect() }
    }
}

impl Sampler {
    pub fn admits(&self, line: &Line<'_>) -> bool {
        let mut hasher = std::hash::DefaultHasher::new();
        (line.level as u8, line.message).hash(&mut hasher);
        let counter = &self.counters[hasher.finish() as usize % COUNTERS];
        let second = line.time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() & 0xffff_ffff;
        let next = |packed: u64| match packed >> 32 == second {
            true => Some(packed + 1),
            false => Some(second << 32 | 1),
        };
        let before = counter.fetch_update(Relaxed, Relaxed, next).expect("the next count is always there");
        let count = next(before).expect("as above") & 0xffff_ffff;
        count <= FIRST || (count - FIRST).is_multiple_of(THEN_EVERY)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::observe::log::Level;

    #[test]
    fn a_flood_is_thinned_and_begins_anew_each_second() {
        let sampler = Sampler::default();
        let admitted = |message: &str, second: u64, lines: usize| {
            let time = UNIX_EPOCH + Duration::from_secs(second);
            let line = Line { level: Level::Info, name: "", caller: "", message, time };
            (0..lines).filter(|_| sampler.admits(&line)).count()
        };
        assert_eq!(admitted("one", 5, 1000), 109);
        assert_eq!(admitted("another", 5, 100), 100);
        assert_eq!(admitted("one", 6, 100), 100);
    }
}
