//! Figures over time, one plot beneath the other on one axis of minutes: whether something levels off is seen at once.

use super::svg::{Anchor, INK, OURS, PALE_INK, REFERENCE, Svg, round_ticks, tick_text};

pub struct Series {
    pub title: String,
    pub unit: String,
    /// Name and values; the first in urd's colour.
    pub lines: Vec<(String, Vec<f64>)>,
}

const PLOT: (f64, f64) = (860.0, 170.0);
const CELL_HEIGHT: f64 = 240.0;
const HEAD: f64 = 80.0;

/// `seconds`: when each sample was taken. Every line has as many values.
pub fn timeline(title: &str, subtitle: &str, seconds: &[f64], series: &[Series]) -> String {
    let (width, height) = (980.0, HEAD + CELL_HEIGHT * series.len() as f64 + 30.0);
    let mut svg = Svg::new(width, height, title);
    svg.bold(30.0, 38.0, 20.0, Anchor::Start, INK, title);
    svg.words(30.0, 58.0, 12.0, Anchor::Start, PALE_INK, subtitle);
    let minutes: Vec<f64> = seconds.iter().map(|seconds| seconds / 60.0).collect();
    let end = minutes.last().copied().unwrap_or(1.0).max(0.01);
    for (at, one) in series.iter().enumerate() {
        let (left, top) = (80.0, HEAD + 40.0 + CELL_HEIGHT * at as f64);
        let high = one.lines.iter().flat_map(|(_, values)| values.iter().copied()).fold(0.0, f64::max);
        let ticks = round_ticks(0.0, if high > 0.0 { high } else { 1.0 }, 4);
        let top_value = ticks[ticks.len() - 1];
        let x = |minute: f64| left + PLOT.0 * minute / end;
        let y = |value: f64| top + PLOT.1 * (1.0 - value / top_value);
        svg.bold(left - 50.0, top - 14.0, 14.0, Anchor::Start, INK, &one.title);
        svg.words(left + PLOT.0, top - 14.0, 11.0, Anchor::End, PALE_INK, &one.unit);
        for tick in ticks {
            svg.grid_line((left, y(tick)), (left + PLOT.0, y(tick)));
            svg.words(left - 6.0, y(tick) + 4.0, 11.0, Anchor::End, PALE_INK, &tick_text(tick));
        }
        for minute in round_ticks(0.0, end, 6).into_iter().filter(|minute| *minute <= end) {
            svg.grid_line((x(minute), top), (x(minute), top + PLOT.1));
            svg.words(x(minute), top + PLOT.1 + 16.0, 11.0, Anchor::Middle, PALE_INK, &tick_text(minute));
        }
        let mut legend = left + 130.0;
        for (at, (name, values)) in one.lines.iter().enumerate() {
            let color = [OURS, REFERENCE, PALE_INK][at % 3];
            let points: Vec<(f64, f64)> = minutes
                .iter()
                .zip(values)
                .filter(|(_, value)| value.is_finite())
                .map(|(m, v)| (x(*m), y(*v)))
                .collect();
            svg.curve(&points, color);
            if one.lines.len() > 1 {
                legend = svg.legend(legend, top - 14.0, color, name);
            }
        }
    }
    svg.words(80.0 + PLOT.0 / 2.0, height - 16.0, 12.0, Anchor::Middle, PALE_INK, "minutes");
    svg.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeline_is_well_formed_with_all_its_lines() {
        let lines = vec![("resident".to_owned(), vec![1.0, 2.0, 3.0]), ("own".to_owned(), vec![0.5, f64::NAN, 0.0])];
        let series = [
            Series { title: "Memory & more".to_owned(), unit: "MB".to_owned(), lines },
            Series {
                title: "Nothing".to_owned(),
                unit: "ms".to_owned(),
                lines: vec![("p99".to_owned(), vec![0.0; 3])],
            },
        ];
        let text = timeline("A soak", "200,000 keys", &[0.0, 5.0, 10.0], &series);
        let document = roxmltree::Document::parse(&text).unwrap();
        assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
        let curves = document.descendants().filter(|node| node.has_tag_name("polyline")).count();
        assert_eq!(curves, 3 + 2, "three lines and the legend of two");
    }
}
