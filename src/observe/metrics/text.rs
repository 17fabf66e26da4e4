//! Prometheus' text form, version 0.0.4, as client_golang writes it. The metrics' names are etcd's and cannot be written
//! by a client library that holds to OpenMetrics, where a counter must end in `_total` and a gauge must not.

use std::{
    fmt::{self, Write as _},
    ops::Range,
};

use super::cell::{Distribution, Spread};

pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8; escaping=underscores";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
    Summary,
}

type Labels<'a> = &'a [(&'a str, &'a str)];

/// The text as it grows: `family`, then its samples. A family without any is left out, as client_golang leaves it out.
#[derive(Default)]
pub struct Exposition {
    text: String,
    name: &'static str,
    /// Where the head of the last family begins and ends.
    head: Range<usize>,
}

impl Exposition {
    pub fn into_text(mut self) -> String {
        self.close();
        self.text
    }

    fn close(&mut self) {
        if self.text.len() == self.head.end {
            self.text.truncate(self.head.start);
        }
    }

    pub fn family(&mut self, name: &'static str, kind: Kind, help: &str) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
            Kind::Summary => "summary",
        };
        self.close();
        self.name = name;
        let begin = self.text.len();
        let _ = write!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        self.head = begin..self.text.len();
    }

    pub fn sample(&mut self, labels: Labels<'_>, value: f64) {
        self.line("", labels, None, value);
    }

    /// A family of one sample without labels.
    pub fn counter(&mut self, name: &'static str, help: &str, value: u64) {
        self.family(name, Kind::Counter, help);
        self.sample(&[], value as f64);
    }

    /// A family of one sample without labels.
    pub fn gauge(&mut self, name: &'static str, help: &str, value: f64) {
        self.family(name, Kind::Gauge, help);
        self.sample(&[], value);
    }

    pub fn distribution(&mut self, labels: Labels<'_>, distribution: &Distribution) {
        let mut below = 0;
        for (bound, count) in distribution.bounds.iter().zip(&distribution.counts) {
            below += count;
            self.line("_bucket", labels, Some(("le", *bound)), below as f64);
        }
        let total = distribution.total() as f64;
        self.line("_bucket", labels, Some(("le", f64::INFINITY)), total);
        self.line("_sum", labels, None, distribution.sum);
        self.line("_count", labels, None, total);
    }

    /// Quantiles of a spread, its values multiplied by `scale`.
    pub fn summary(&mut self, labels: Labels<'_>, spread: &Spread, scale: f64) {
        for quantile in [0.5, 0.9, 0.99, 0.999, 1.0] {
            let value = spread.quantile(quantile).map_or(f64::NAN, |value| value as f64 * scale);
            self.line("", labels, Some(("quantile", quantile)), value);
        }
        self.line("_sum", labels, None, spread.sum as f64 * scale);
        self.line("_count", labels, None, spread.total() as f64);
    }

    fn line(&mut self, suffix: &str, labels: Labels<'_>, last: Option<(&str, f64)>, value: f64) {
        self.text.push_str(self.name);
        self.text.push_str(suffix);
        let mut open = '{';
        for (key, value) in labels {
            self.text.push(open);
            open = ',';
            let _ = write!(self.text, "{key}=\"");
            for letter in value.chars() {
                match letter {
                    '\\' => self.text.push_str("\\\\"),
                    '"' => self.text.push_str("\\\""),
                    '\n' => self.text.push_str("\\n"),
                    _ => self.text.push(letter),
                }
            }
            self.text.push('"');
        }
        if let Some((key, value)) = last {
            self.text.push(open);
            open = ',';
            let _ = write!(self.text, "{key}=\"{}\"", Number(value));
        }
        if open == ',' {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {}", Number(value));
    }
}

/// A number as Go's `%g` writes it.
struct Number(f64);

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.0;
        if !value.is_finite() {
            return f.write_str(match value {
                f64::INFINITY => "+Inf",
                f64::NEG_INFINITY => "-Inf",
                _ => "NaN",
            });
        }
        let scientific = format!("{value:e}");
        let (digits, exponent) = scientific.split_once('e').expect("the form has an exponent");
        let exponent: i32 = exponent.parse().expect("the exponent is a number");
        // Go decides by six digits where it writes the shortest form that reads back.
        if (-4..6).contains(&exponent) {
            return write!(f, "{value}");
        }
        let sign = if exponent < 0 { '-' } else { '+' };
        write!(f, "{digits}e{sign}{:02}", exponent.abs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_go_writes_them() {
        for (value, text) in [
            (0.0, "0"),
            (-1.0, "-1"),
            (0.001, "0.001"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (8.192, "8.192"),
            (999_999.0, "999999"),
            (1_048_576.0, "1.048576e+06"),
            (2_147_483_648.0, "2.147483648e+09"),
            (1.797e22, "1.797e+22"),
            (f64::INFINITY, "+Inf"),
            (f64::NAN, "NaN"),
        ] {
            assert_eq!(Number(value).to_string(), text);
        }
    }

    #[test]
    fn families_without_samples_are_left_out() {
        let mut out = Exposition::default();
        out.family("a", Kind::Gauge, "nothing.");
        out.gauge("b", "a thing.", 1.0);
        out.family("c", Kind::Gauge, "nothing.");
        out.family("d", Kind::Gauge, "nothing.");
        assert_eq!(out.into_text(), "# HELP b a thing.\n# TYPE b gauge\nb 1\n");
        assert_eq!(Exposition::default().into_text(), "");
    }

    #[test]
    fn labels_are_escaped() {
        let mut out = Exposition::default();
        out.family("m", Kind::Gauge, "a thing.");
        out.sample(&[("a", "x\"\\\n"), ("b", "y")], 1.0);
        assert_eq!(out.into_text(), "# HELP m a thing.\n# TYPE m gauge\nm{a=\"x\\\"\\\\\\n\",b=\"y\"} 1\n");
    }
}
