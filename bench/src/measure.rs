//! Latencies and what becomes of them: a histogram that results files keep as pairs, and the outcome of one measurement.
//! Nothing here knows a server; the numbers come from `workload/` and `gauge/` and go to `report/`.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::gauge::Memory;

/// Ten minutes in nanoseconds, the longest latency that is told apart; longer ones count as this.
const LATENCY_NS_MAX: u64 = 600_000_000_000;

/// Nanoseconds, to three digits.
#[derive(Clone, Debug, PartialEq)]
pub struct Latency(Histogram<u64>);

impl Default for Latency {
    fn default() -> Self {
        Latency(Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3).expect("ten minutes at three digits are allowed"))
    }
}

impl Latency {
    pub fn record_ns(&mut self, nanoseconds: u64) {
        self.0.saturating_record(nanoseconds);
    }

    /// As many times as there were.
    pub fn record_many(&mut self, latency: std::time::Duration, count: u64) {
        let nanoseconds = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.0.saturating_record_n(nanoseconds, count);
    }

    pub fn record(&mut self, latency: std::time::Duration) {
        self.record_ns(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
    }

    pub fn merge(&mut self, other: &Latency) {
        self.0.add(&other.0).expect("all have the same bounds");
    }

    pub fn clear(&mut self) {
        self.0.reset();
    }

    pub fn count(&self) -> u64 {
        self.0.len()
    }

    pub fn max_ms(&self) -> f64 {
        self.0.max() as f64 / 1e6
    }

    /// `quantile` from 0 to 1; None if nothing was recorded.
    pub fn at_ms(&self, quantile: f64) -> Option<f64> {
        (!self.0.is_empty()).then(|| self.0.value_at_quantile(quantile) as f64 / 1e6)
    }

    /// The percentile distribution in HdrHistogram's text form, values in milliseconds.
    pub fn hgrm(&self) -> String {
        let mut text =
            format!("{:>12} {:>14} {:>10} {:>14}\n\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)");
        let mut total = 0;
        for step in self.0.iter_quantiles(5) {
            total += step.count_since_last_iteration();
            let quantile = step.quantile_iterated_to();
            let value = step.value_iterated_to() as f64 / 1e6;
            text += &match quantile < 1.0 {
                true => format!("{value:>12.6} {quantile:>14.12} {total:>10} {:>14.2}\n", 1.0 / (1.0 - quantile)),
                false => format!("{value:>12.6} {quantile:>14.12} {total:>10} {:>14}\n", "inf"),
            };
        }
        text +=
            &format!("#[Mean    = {:>12.6}, StdDeviation   = {:>12.6}]\n", self.0.mean() / 1e6, self.0.stdev() / 1e6);
        text += &format!("#[Max     = {:>12.6}, Total count    = {:>12}]\n", self.max_ms(), self.count());
        text += &format!("#[Buckets = {:>12}, SubBuckets     = {:>12}]\n", self.0.buckets(), 2048);
        text
    }

    fn pairs(&self) -> Vec<(u64, u64)> {
        self.0.iter_recorded().map(|step| (step.value_iterated_to(), step.count_at_value())).collect()
    }
}

/// Pairs of a value in nanoseconds and how often it was recorded.
impl Serialize for Latency {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.pairs().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Latency {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut latency = Latency::default();
        for (value, count) in Vec::<(u64, u64)>::deserialize(deserializer)? {
            latency.0.record_n(value, count).map_err(D::Error::custom)?;
        }
        Ok(latency)
    }
}

/// What a measurement has found. CPU, memory and disk are None where the server's process is not known.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Outcome {
    pub operations: u64,
    pub seconds: f64,
    pub latency: Latency,
    /// Of the server.
    pub cpu_seconds: Option<f64>,
    /// The driver's share of its core; near 1 it may be what limits the rate.
    pub driver_cpu_share: f64,
    /// At the moment of the largest resident set that was seen; the peak is the kernel's own, of the whole measurement.
    pub memory: Option<Memory>,
    pub disk_bytes: Option<u64>,
    /// What only this workload has, by name, the unit last.
    pub figures: BTreeMap<String, f64>,
    pub notes: Vec<String>,
}

/// Above this share of its core the driver may be the limit of a rate.
pub const DRIVER_BUSY: f64 = 0.95;

impl Outcome {
    pub fn rate(&self) -> f64 {
        if self.seconds > 0.0 { self.operations as f64 / self.seconds } else { 0.0 }
    }

    pub fn cpu_us_per_op(&self) -> Option<f64> {
        self.cpu_seconds.filter(|_| self.operations > 0).map(|cpu| cpu * 1e6 / self.operations as f64)
    }

    /// A figure by its name: those of every row, then this workload's own.
    pub fn figure(&self, name: &str) -> Option<f64> {
        match name {
            "rate" => Some(self.rate()),
            "cpu_us_per_op" => self.cpu_us_per_op(),
            "cpu_percent" => self.cpu_seconds.map(|cpu| 100.0 * cpu / self.seconds),
            "p50_ms" => self.latency.at_ms(0.5),
            "p99_ms" => self.latency.at_ms(0.99),
            "p99_9_ms" => self.latency.at_ms(0.999),
            "rss_peak_mb" => self.memory.map(|memory| memory.peak as f64 / 1e6),
            "disk_mb" => self.disk_bytes.map(|bytes| bytes as f64 / 1e6),
            _ => self.figures.get(name).copied(),
        }
    }

    pub fn set(&mut self, name: &str, value: f64) {
        self.figures.insert(name.to_owned(), value);
    }

    /// Whether the driver's own core was busy to the brim.
    pub fn is_driver_bound(&self) -> bool {
        self.driver_cpu_share > DRIVER_BUSY
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn latency(values: impl IntoIterator<Item = u64>) -> Latency {
        let mut latency = Latency::default();
        values.into_iter().for_each(|value| latency.record_ns(value));
        latency
    }

    #[test]
    fn merging_is_as_recording_together() {
        let (low, high) = (latency(1..=1_000), latency((1_000_000..=2_000_000).step_by(1_000)));
        let mut merged = low.clone();
        merged.merge(&high);
        let together = latency((1..=1_000).chain((1_000_000..=2_000_000).step_by(1_000)));
        assert_eq!(merged, together);
        assert_eq!(merged.count(), 2_001);
        assert!((merged.at_ms(0.4995).unwrap() - 0.001).abs() < 1e-5, "{:?}", merged.at_ms(0.4995));
        assert!(merged.at_ms(0.51).unwrap() > 1.0);
    }

    #[test]
    fn a_histogram_survives_json_with_every_quantile() {
        let before = latency((0..5_000).map(|at| at * at * 37 % 90_000_000));
        let after: Latency = serde_json::from_str(&serde_json::to_string(&before).unwrap()).unwrap();
        assert_eq!(after.count(), before.count());
        for quantile in [0.0, 0.5, 0.9, 0.99, 0.999, 1.0] {
            assert_eq!(after.at_ms(quantile), before.at_ms(quantile));
        }
    }

    #[test]
    fn what_is_longer_than_the_longest_counts_as_the_longest() {
        let latency = latency([u64::MAX]);
        assert!(latency.max_ms() >= 600_000.0 && latency.max_ms() < 601_000.0);
    }

    #[test]
    fn the_text_form_ends_with_everything_counted() {
        let text = latency((1..=1_000).map(|at| at * 1_000)).hgrm();
        let last = text.lines().rfind(|line| !line.starts_with('#')).unwrap();
        assert_eq!(last.split_whitespace().collect::<Vec<_>>(), ["1.000447", "1.000000000000", "1000", "inf"]);
        assert!(text.contains("Total count    =         1000"));
    }

    #[test]
    fn nothing_recorded_has_no_quantile() {
        assert_eq!(Latency::default().at_ms(0.5), None);
        let outcome = Outcome { seconds: 2.0, operations: 10, cpu_seconds: Some(0.001), ..Default::default() };
        assert_eq!((outcome.figure("rate"), outcome.figure("cpu_us_per_op")), (Some(5.0), Some(100.0)));
        assert_eq!((outcome.figure("p50_ms"), outcome.figure("nothing")), (None, None));
    }
}
