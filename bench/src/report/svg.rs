//! A small pen for SVG: text that is escaped, lines, and a plot's frame. No fonts are embedded and no script is needed.

use std::fmt::Write;

/// Colours that differ in lightness too, so that a page survives a printer.
pub const REFERENCE: &str = "#d9822b";
pub const OURS: &str = "#1f5fa8";
pub const INK: &str = "#1c2530";
pub const PALE_INK: &str = "#6b7785";
const GRID: &str = "#e3e7ec";

pub struct Svg {
    text: String,
}

#[derive(Clone, Copy)]
pub enum Anchor {
    Start,
    Middle,
    End,
}

impl Svg {
    pub fn new(width: f64, height: f64, title: &str) -> Self {
        let mut text = String::new();
        let _ = writeln!(
            text,
            r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" font-family="system-ui, 'Segoe UI', Helvetica, Arial, sans-serif">"#
        );
        let _ = writeln!(text, "<title>{}</title>", escaped(title));
        let _ = writeln!(text, r##"<rect width="{width}" height="{height}" fill="#ffffff"/>"##);
        Svg { text }
    }

    pub fn finish(mut self) -> String {
        self.text += "</svg>\n";
        self.text
    }

    pub fn words(&mut self, x: f64, y: f64, size: f64, anchor: Anchor, color: &str, text: &str) {
        self.styled(x, y, size, anchor, color, "400", text);
    }

    pub fn bold(&mut self, x: f64, y: f64, size: f64, anchor: Anchor, color: &str, text: &str) {
        self.styled(x, y, size, anchor, color, "600", text);
    }

    #[expect(clippy::too_many_arguments, reason = "a pen")]
    fn styled(&mut self, x: f64, y: f64, size: f64, anchor: Anchor, color: &str, weight: &str, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let _ = writeln!(
            self.text,
            r#"<text x="{x:.1}" y="{y:.1}" font-size="{size}" text-anchor="{anchor}" fill="{color}" font-weight="{weight}">{}</text>"#,
            escaped(text)
        );
    }

    pub fn grid_line(&mut self, from: (f64, f64), to: (f64, f64)) {
        let _ = writeln!(
            self.text,
            r#"<line x1="{:.1}" y1="{:.1}" x2="{:.1}" y2="{:.1}" stroke="{GRID}"/>"#,
            from.0, from.1, to.0, to.1
        );
    }

    pub fn curve(&mut self, points: &[(f64, f64)], color: &str) {
        let points: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let _ = writeln!(
            self.text,
            r#"<polyline points="{}" fill="none" stroke="{color}" stroke-width="2" stroke-linejoin="round" stroke-linecap="round"/>"#,
            points.join(" ")
        );
    }

    pub fn dot(&mut self, x: f64, y: f64, color: &str) {
        let _ = writeln!(self.text, r##"<circle cx="{x:.1}" cy="{y:.1}" r="3" fill="{color}" stroke="#ffffff"/>"##);
    }

    /// A sample of a curve with its name; gives where the next one may begin.
    pub fn legend(&mut self, x: f64, y: f64, color: &str, name: &str) -> f64 {
        self.curve(&[(x, y - 4.0), (x + 22.0, y - 4.0)], color);
        self.words(x + 28.0, y, 13.0, Anchor::Start, INK, name);
        x + 28.0 + 8.0 * name.chars().count() as f64 + 24.0
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// A tick in as few digits as it has: `0.2`, `10`.
pub fn tick_text(tick: f64) -> String {
    let text = format!("{tick:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Round values (1, 2 or 5 times a power of ten) from `low` to `high`, about as many as asked for; both ends are within.
pub fn round_ticks(low: f64, high: f64, count: usize) -> Vec<f64> {
    let rough = ((high - low) / count as f64).max(f64::MIN_POSITIVE);
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|one| one * power).find(|step| *step >= rough).unwrap_or(rough);
    let first = (low / step).floor() as i64;
    let last = (high / step).ceil() as i64;
    (first..=last).map(|at| at as f64 * step).collect()
}

/// The same on a logarithmic axis: 1, 2 and 5 of each power of ten, or the powers alone where those are many.
pub fn log_ticks(low: f64, high: f64) -> Vec<f64> {
    let (first, last) = (low.log10().floor() as i32, high.log10().ceil() as i32);
    let steps: &[f64] = if last - first > 2 { &[1.0] } else { &[1.0, 2.0, 5.0] };
    let all = (first..=last).flat_map(|power| steps.iter().map(move |step| step * 10f64.powi(power)));
    let all: Vec<f64> = all.collect();
    let from = all.iter().rposition(|tick| *tick <= low).unwrap_or(0);
    let to = all.iter().position(|tick| *tick >= high).unwrap_or(all.len() - 1);
    all[from..=to].to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_hold_what_is_plotted() {
        assert_eq!(round_ticks(0.0, 9.7, 5), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert_eq!(log_ticks(0.3, 4.0), [0.2, 0.5, 1.0, 2.0, 5.0]);
        assert_eq!(log_ticks(0.003, 40.0), [0.001, 0.01, 0.1, 1.0, 10.0, 100.0]);
    }

    #[test]
    fn text_is_escaped() {
        let mut svg = Svg::new(10.0, 10.0, "a < b & c");
        svg.words(0.0, 0.0, 10.0, Anchor::Middle, INK, "</svg>");
        let text = svg.finish();
        let document = roxmltree::Document::parse(&text).unwrap();
        let texts: Vec<_> = document.descendants().filter_map(|node| node.text()).map(str::trim).collect();
        assert!(texts.contains(&"a < b & c") && texts.contains(&"</svg>"));
    }
}
