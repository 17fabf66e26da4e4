//! The page of latency curves: a plot a row, both servers in it, percentiles on an axis that gives each further nine the
//! same room, latency on a logarithmic one.

use super::{
    number,
    svg::{Anchor, INK, OURS, PALE_INK, REFERENCE, Svg, log_ticks, tick_text},
};
use crate::{
    measure::Latency,
    results::{ETCD, Results, RowResult, ServerSeen},
};

const COLUMNS: usize = 3;
const PLOT: (f64, f64) = (320.0, 190.0);
const CELL: (f64, f64) = (410.0, 310.0);
const HEAD: f64 = 110.0;
/// Percentiles with a line and a name.
const MARKS: [(f64, &str); 5] = [(0.5, "50"), (0.9, "90"), (0.99, "99"), (0.999, "99.9"), (0.9999, "99.99")];
/// Nines at the right edge.
const NINES_MAX: f64 = 4.0;

pub fn page(results: &Results) -> String {
    let rows: Vec<&RowResult> = results.rows.iter().filter(|row| row.has_curve()).collect();
    let lines = rows.len().div_ceil(COLUMNS).max(1);
    let (width, height) = (CELL.0 * COLUMNS as f64 + 20.0, HEAD + CELL.1 * lines as f64 + 10.0);
    let mut svg = Svg::new(width, height, "Latency by percentile");
    svg.bold(30.0, 38.0, 22.0, Anchor::Start, INK, "Latency by percentile");
    svg.words(30.0, 60.0, 12.0, Anchor::Start, PALE_INK, &format!("{}. {}", results.date, results.machine.text()));
    svg.words(width - 30.0, 38.0, 12.0, Anchor::End, PALE_INK, "milliseconds, logarithmic; lower is better");
    let mut x = 30.0;
    for name in names(results) {
        let version = results.servers.iter().find(|server| server.name == name).map(version_of);
        let text = version.unwrap_or(name.clone());
        x = svg.legend(x, 88.0, color(&name), &text);
    }
    for (at, row) in rows.iter().enumerate() {
        let origin = (60.0 + CELL.0 * (at % COLUMNS) as f64, HEAD + 60.0 + CELL.1 * (at / COLUMNS) as f64);
        plot(&mut svg, origin, row);
    }
    svg.finish()
}

/// What a program says of itself: the part of its version that begins with its name, `urd Version: 0.1.0`.
fn version_of(server: &ServerSeen) -> String {
    let parts = || server.program.version.split(';').map(str::trim);
    parts().find(|part| part.starts_with(&server.name)).or_else(|| parts().next()).unwrap_or_default().to_owned()
}

fn names(results: &Results) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for side in results.rows.iter().flat_map(|row| &row.sides) {
        if !names.contains(&side.server) {
            names.push(side.server.clone());
        }
    }
    names
}

fn color(server: &str) -> &'static str {
    if server == ETCD { REFERENCE } else { OURS }
}

/// Room of a quantile on the axis, in nines: 0.9 is 1, 0.99 is 2.
fn nines(quantile: f64) -> f64 {
    -(1.0 - quantile).log10()
}

/// Quantiles and milliseconds as far as samples bear them: the last point is the one sample beyond which there is none.
fn points(latency: &Latency) -> Vec<(f64, f64)> {
    const STEPS: usize = 160;
    let most = (latency.count() as f64).log10().min(NINES_MAX);
    let at = |nines: f64| Some((nines, latency.at_ms(1.0 - 10f64.powf(-nines))?.max(0.001)));
    (0..=STEPS)
        .map(|step| NINES_MAX * step as f64 / STEPS as f64)
        .filter(|nines| *nines <= most)
        .filter_map(at)
        .collect()
}

struct Curve<'a> {
    server: &'a str,
    latency: &'a Latency,
    /// Nines and milliseconds.
    points: Vec<(f64, f64)>,
}

fn plot(svg: &mut Svg, (left, top): (f64, f64), row: &RowResult) {
    let sides: Vec<Curve> = row
        .sides
        .iter()
        .filter_map(|side| Some((side.server.as_str(), &side.outcome.as_ref()?.latency)))
        .filter(|(_, latency)| latency.count() > 1)
        .map(|(server, latency)| Curve { server, latency, points: points(latency) })
        .collect();
    let all = || sides.iter().flat_map(|curve| curve.points.iter().map(|(_, ms)| *ms));
    let ticks = log_ticks(all().fold(f64::INFINITY, f64::min), all().fold(0.001, f64::max) * 1.02);
    let (low, high) = (ticks[0].log10(), ticks[ticks.len() - 1].log10());
    let x = |nines: f64| left + PLOT.0 * nines / NINES_MAX;
    let y = |ms: f64| top + PLOT.1 * (1.0 - (ms.log10() - low) / (high - low).max(1e-9));

    svg.bold(left - 30.0, top - 44.0, 14.0, Anchor::Start, INK, &row.row.title);
    svg.words(left - 30.0, top - 28.0, 11.0, Anchor::Start, PALE_INK, &row.row.plan.callers_text());
    for tick in ticks {
        svg.grid_line((left, y(tick)), (left + PLOT.0, y(tick)));
        svg.words(left - 6.0, y(tick) + 4.0, 11.0, Anchor::End, PALE_INK, &tick_text(tick));
    }
    for (quantile, name) in MARKS {
        svg.grid_line((x(nines(quantile)), top), (x(nines(quantile)), top + PLOT.1));
        svg.words(x(nines(quantile)), top + PLOT.1 + 16.0, 11.0, Anchor::Middle, PALE_INK, name);
    }
    svg.words(left + PLOT.0 / 2.0, top + PLOT.1 + 33.0, 11.0, Anchor::Middle, PALE_INK, "percentile");
    for (at, Curve { server, latency, points }) in sides.iter().enumerate() {
        let points: Vec<(f64, f64)> = points.iter().map(|(nines, ms)| (x(*nines), y(*ms))).collect();
        svg.curve(&points, color(server));
        let (Some(p50), Some(p99)) = (latency.at_ms(0.5), latency.at_ms(0.99)) else { continue };
        if latency.count() >= 100 {
            svg.dot(x(nines(0.99)), y(p99.max(0.001)), color(server));
        }
        let told = format!("{server}: p50 {}, p99 {} ms", number(p50), number(p99));
        svg.words(left - 30.0 + 175.0 * at as f64, top - 12.0, 11.0, Anchor::Start, color(server), &told);
    }
}
