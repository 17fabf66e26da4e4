//! The cells that metrics are made of. A cell has one writer, the executor that owns it, and any number of readers, the
//! scrapes: so a change is a load and a store, no locked instruction, and a scrape sees each cell whole but not all cells
//! of one instant.

use std::{
    sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// Only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    #[inline]
    pub fn add(&self, more: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(more), Relaxed);
    }

    #[inline]
    pub fn increment(&self) {
        self.add(1);
    }

    /// For what is counted elsewhere: never less than before.
    #[inline]
    pub fn set(&self, value: u64) {
        debug_assert!(value >= self.get(), "a counter only grows");
        self.0.store(value, Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    #[inline]
    pub fn set(&self, value: i64) {
        self.0.store(value, Relaxed);
    }

    #[inline]
    pub fn add(&self, more: i64) {
        self.set(self.get().wrapping_add(more));
    }

    pub fn get(&self) -> i64 {
        self.0.load(Relaxed)
    }
}

/// Counts by upper bounds, as Prometheus has them.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [f64],
    /// One a bound and one for what is beyond the last; not yet cumulative.
    counts: Box<[Counter]>,
    /// The bits of an f64.
    sum: AtomicU64,
}

impl Histogram {
    pub fn new(bounds: &'static [f64]) -> Self {
        debug_assert!(bounds.is_sorted());
        Histogram { bounds, counts: (0..=bounds.len()).map(|_| Counter::default()).collect(), sum: AtomicU64::new(0) }
    }

    /// Counts a duration, in seconds.
    #[inline]
    pub fn observe(&self, duration: Duration) {
        self.observe_value(duration.as_secs_f64());
    }

    /// Counts so many durations of the same length.
    #[inline]
    pub fn observe_many(&self, duration: Duration, times: u64) {
        self.add(duration.as_secs_f64(), times);
    }

    #[inline]
    pub fn observe_value(&self, value: f64) {
        self.add(value, 1);
    }

    #[inline]
    fn add(&self, value: f64, times: u64) {
        self.counts[self.bounds.partition_point(|bound| *bound < value)].add(times);
        self.sum.store((f64::from_bits(self.sum.load(Relaxed)) + value * times as f64).to_bits(), Relaxed);
    }

    pub fn read(&self) -> Distribution {
        Distribution {
            bounds: self.bounds,
            counts: self.counts.iter().map(Counter::get).collect(),
            sum: f64::from_bits(self.sum.load(Relaxed)),
        }
    }
}

/// What a histogram held when it was read.
#[derive(Clone, Debug)]
pub struct Distribution {
    pub bounds: &'static [f64],
    pub counts: Vec<u64>,
    pub sum: f64,
}

impl Distribution {
    /// Of what never happens.
    pub fn empty(bounds: &'static [f64]) -> Self {
        Distribution { bounds, counts: vec![0; bounds.len() + 1], sum: 0.0 }
    }

    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    pub fn merge(&mut self, other: &Distribution) {
        debug_assert_eq!(self.bounds, other.bounds);
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.sum += other.sum;
    }
}

/// Sixteen slots to each doubling: a value is known to within one part in sixteen, over the whole range, in 4.6 kB. (The
/// layout of HdrHistogram, with one significant hexadecimal digit.)
#[derive(Debug)]
pub struct LogLinear {
    slots: Box<[Counter]>,
    sum: Counter,
}

const SUB: u32 = 4;
/// Values from 2^40 on, 18 minutes in nanoseconds, share the last slot: (40 − 4 + 1) · 16.
const SLOTS: usize = (40 - SUB as usize + 1) << SUB;

impl Default for LogLinear {
    fn default() -> Self {
        LogLinear { slots: (0..SLOTS).map(|_| Counter::default()).collect(), sum: Counter::default() }
    }
}

impl LogLinear {
    #[inline]
    pub fn observe(&self, duration: Duration) {
        self.observe_value(duration.as_nanos() as u64);
    }

    #[inline]
    pub fn observe_value(&self, value: u64) {
        self.slots[slot(value)].increment();
        self.sum.add(value);
    }

    /// Adds what is counted here to `slots`, and gives the sum of the values.
    pub fn read_into(&self, slots: &mut Spread) {
        for (count, slot) in slots.counts.iter_mut().zip(&self.slots) {
            *count += slot.get();
        }
        slots.sum += self.sum.get();
    }
}

/// Several `LogLinear`s added up.
#[derive(Clone, Debug)]
pub struct Spread {
    counts: Vec<u64>,
    pub sum: u64,
}

impl Default for Spread {
    fn default() -> Self {
        Spread { counts: vec![0; SLOTS], sum: 0 }
    }
}

impl Spread {
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The least value that a share `of` (0 to 1) of all values does not exceed, rounded up to its slot's end; None
    /// without values.
    pub fn quantile(&self, of: f64) -> Option<u64> {
        let total = self.total();
        let rank = ((total as f64 * of).ceil() as u64).clamp(1, total.max(1));
        let mut seen = 0;
        for (at, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return Some(last_of(at));
            }
        }
        None
    }
}

fn slot(value: u64) -> usize {
    let bits = 64 - value.leading_zeros();
    if bits <= SUB {
        return value as usize;
    }
    // The highest bit names the doubling, the four below it the slot in it.
    let shift = bits - SUB - 1;
    let slot = (((shift + 1) as usize) << SUB) + ((value >> shift) as usize & ((1 << SUB) - 1));
    slot.min(SLOTS - 1)
}

/// The largest value that a slot holds.
fn last_of(slot: usize) -> u64 {
    let (doubling, sub) = (slot >> SUB, (slot & ((1 << SUB) - 1)) as u64);
    match doubling {
        0 => sub,
        _ => (((1 << SUB) + sub + 1) << (doubling - 1)) - 1,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_bound_belongs_to_its_own_bucket() {
        let histogram = Histogram::new(&[1.0, 2.0]);
        for value in [0.5, 1.0, 1.5, 2.0, 3.0] {
            histogram.observe_value(value);
        }
        let read = histogram.read();
        assert_eq!((read.counts.as_slice(), read.sum, read.total()), (&[2, 2, 1][..], 8.0, 5));
    }

    #[test]
    fn quantiles_come_from_all_shards() {
        let (one, other) = (LogLinear::default(), LogLinear::default());
        (1..=90).for_each(|_| one.observe_value(3));
        (1..=10).for_each(|_| other.observe_value(1 << 20));
        let mut spread = Spread::default();
        one.read_into(&mut spread);
        other.read_into(&mut spread);
        assert_eq!((spread.total(), spread.quantile(0.5), spread.quantile(0.9)), (100, Some(3), Some(3)));
        assert!(spread.quantile(0.91).unwrap() >= 1 << 20);
        assert_eq!(Spread::default().quantile(0.5), None);
    }

    proptest! {
        #[test]
        fn a_slot_holds_its_value_to_one_part_in_sixteen(value in 0..1_u64 << 40) {
            let last = last_of(slot(value));
            prop_assert!(last >= value && last - value <= value / 16);
        }

        #[test]
        fn no_value_is_out_of_range(value: u64) {
            LogLinear::default().observe_value(value);
        }
    }
}
