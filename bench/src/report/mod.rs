//! What people read: a line a row while it runs, tables at the end, a page of curves. Made from results alone, so that it
//! can be made again from their file.

mod curves;
mod number;
mod svg;
mod table;
mod timeline;

use std::{fs, path::Path};

use crate::{
    measure::Outcome,
    results::{Command, ETCD, Results, RowResult, URD},
    rows::{Bound, Goal, Row},
};

pub use number::number;
pub use table::Table;
pub use timeline::{Series, timeline};

/// The head of the lines below.
pub fn line_head() -> String {
    format!(
        "{:<6} {:<24} {:>11} {:>9} {:>9} {:>9} {:>10} {:>8} {:>6}  {}",
        "server", "row", "rate/s", "p50 ms", "p99 ms", "p99.9 ms", "CPU µs/op", "RSS MB", "driver", "more"
    )
}

/// A row that has just been measured.
pub fn line(server: &str, row: &Row, outcome: &Outcome) -> String {
    let figure = |name: &str| outcome.figure(name).map_or("–".to_owned(), number);
    format!(
        "{:<6} {:<24} {:>11} {:>9} {:>9} {:>9} {:>10} {:>8} {:>6}  {}",
        server,
        row.name,
        rate(row, outcome),
        figure("p50_ms"),
        figure("p99_ms"),
        figure("p99_9_ms"),
        cpu(row, outcome),
        figure("rss_peak_mb"),
        format!("{:.0} %", 100.0 * outcome.driver_cpu_share),
        more(outcome)
    )
    .trim_end()
    .to_owned()
}

/// Rates and CPU per operation say nothing where the workload waits more than it works.
fn has_rate(row: &Row) -> bool {
    use crate::plan::Workload::*;
    !matches!(row.plan.workload, WatchMemory | Idle | LeaseMemory | LeaseExpiry | Compaction | Restart)
}

fn rate(row: &Row, outcome: &Outcome) -> String {
    if !has_rate(row) {
        return "–".to_owned();
    }
    format!("{}{}", number(outcome.rate()), if outcome.is_driver_bound() { "*" } else { "" })
}

fn cpu(row: &Row, outcome: &Outcome) -> String {
    outcome.cpu_us_per_op().filter(|_| has_rate(row)).map_or("–".to_owned(), number)
}

fn more(outcome: &Outcome) -> String {
    let figures = outcome.figures.iter().map(|(name, value)| format!("{} {}", name.replace('_', " "), number(*value)));
    let disk = outcome.figure("disk_mb").map(|disk| format!("disk MB {}", number(disk)));
    figures.chain(disk).chain(outcome.notes.iter().cloned()).collect::<Vec<_>>().join(", ")
}

/// Everything, for a terminal.
pub fn text(results: &Results) -> String {
    let goals = goals(results);
    let mut text = String::new();
    if !goals.is_empty() {
        text += &format!("{}\n", goals.plain());
    }
    text + &measured(results).plain() + &footnotes(results)
}

/// Everything, as Markdown.
pub fn markdown(results: &Results) -> String {
    let mut text = format!("# urd-bench, {}\n\n{}.\n", results.date, results.machine.text());
    if let Command::Compare { cores, .. } = &results.command {
        text += &format!("Each server on CPU {}, the driver on CPU {}, ", cores.server, cores.driver);
        text += "one server after the other, each group of rows on fresh ones.\n";
    }
    for server in &results.servers {
        let commit = match server.name.as_str() {
            URD if !server.program.commit.is_empty() => format!(" (commit {})", server.program.commit),
            _ => String::new(),
        };
        let cpu = server.cpu_source.map_or("unknown", |source| source.text());
        text += &format!(
            "\n* **{}**: {}{commit}. Syncs: {}. CPU from {cpu}.",
            server.name, server.program.version, server.syncs
        );
    }
    let goals = goals(results);
    if !goals.is_empty() {
        text += &format!("\n\n## Goals\n\n{}", goals.markdown());
    }
    text + &format!("\n## Measured\n\n{}{}", measured(results).markdown(), footnotes(results))
}

fn footnotes(results: &Results) -> String {
    let outcomes = results.rows.iter().flat_map(|row| row.sides.iter().filter_map(|side| side.outcome.as_ref()));
    let is_bound = outcomes.into_iter().any(Outcome::is_driver_bound);
    let mut text =
        "\nRSS is the peak, own pages and pages of files beside it; MB are 10⁶ bytes; driver: of its core.\n"
            .to_owned();
    if is_bound {
        text += "A rate with a star may be the driver's: its core was more than 95 % busy, most of that with its own HTTP/2.\n";
    }
    text
}

fn goals(results: &Results) -> Table {
    let mut table = Table::new(&["row", "callers", "figure", ETCD, URD, "goal", "reached"]);
    for row in &results.rows {
        let (reference, ours) = (row.side(ETCD), row.side(URD));
        for (at, goal) in row.row.goals.iter().enumerate() {
            let of = |outcome: Option<&Outcome>| {
                outcome.and_then(|outcome| outcome.figure(&goal.figure)).map_or("–".to_owned(), number)
            };
            let reached = ours.and_then(|ours| goal.is_reached(reference, ours));
            table.row([
                if at == 0 { row.row.title.clone() } else { String::new() },
                if at == 0 { row.row.plan.callers_text() } else { String::new() },
                figure_name(&goal.figure, row),
                of(reference),
                of(ours),
                goal_text(goal, reference, ours),
                reached.map_or("not measured", |reached| if reached { "yes" } else { "**no**" }).to_owned(),
            ]);
        }
    }
    table
}

/// A figure's name in words.
fn figure_name(figure: &str, row: &RowResult) -> String {
    let unit = row.row.plan.workload.unit();
    match figure {
        "rate" => format!("{unit}s/s"),
        "cpu_us_per_op" => format!("CPU µs per {unit}"),
        "p50_ms" => "p50 ms".to_owned(),
        "p99_ms" => "p99 ms".to_owned(),
        "p99_ratio" => "p99, of the quiet one's".to_owned(),
        "rss_peak_mb" => "RSS MB".to_owned(),
        "rss_growth_mb" => "RSS growth MB".to_owned(),
        "disk_mb" => "disk MB".to_owned(),
        "disk_per_live" => "disk, of the live bytes".to_owned(),
        "idle_cpu_percent" => "CPU % of a core".to_owned(),
        "late_seconds" => "seconds late".to_owned(),
        "warm_seconds" => "seconds, warm cache".to_owned(),
        "cold_seconds" => "seconds, cold cache".to_owned(),
        other => other.replace('_', " "),
    }
}

fn goal_text(goal: &Goal, reference: Option<&Outcome>, ours: Option<&Outcome>) -> String {
    let limit = ours.and_then(|ours| goal.limit(reference, ours)).map(number);
    match (goal.bound, limit) {
        (Bound::AtMost(limit), _) => format!("≤ {}", number(limit)),
        (Bound::AtLeast(limit), _) => format!("≥ {}", number(limit)),
        (Bound::OfReference(part), limit) => {
            let part = if part < 1.0 { format!("1/{} of etcd's", (1.0 / part).round()) } else { "etcd's".to_owned() };
            format!("≤ {part}{}", limit.map_or(String::new(), |limit| format!(" = {limit}")))
        }
        (Bound::OverSync(more), limit) => {
            format!("≤ disk's sync + {more}{}", limit.map_or(String::new(), |limit| format!(" = {limit}")))
        }
    }
}

fn measured(results: &Results) -> Table {
    let head = [
        "row",
        "callers",
        "server",
        "rate/s",
        "p50 ms",
        "p99 ms",
        "p99.9 ms",
        "CPU µs/op",
        "RSS MB",
        "disk MB",
        "driver",
        "ratio",
        "more",
    ];
    let mut table = Table::new(&head);
    for result in &results.rows {
        let row = &result.row;
        for (at, side) in result.sides.iter().enumerate() {
            let first = |text: String| if at == 0 { text } else { String::new() };
            let (title, callers) = (first(row.title.clone()), first(row.plan.callers_text()));
            let Some(outcome) = &side.outcome else {
                let cause = side.failure.clone().unwrap_or_default();
                let mut cells: [String; 13] = std::array::from_fn(|_| "–".to_owned());
                [cells[0], cells[1], cells[2], cells[12]] = [title, callers, side.server.clone(), cause];
                table.row(cells);
                continue;
            };
            let figure = |name: &str| outcome.figure(name).map_or("–".to_owned(), number);
            table.row([
                title,
                callers,
                side.server.clone(),
                rate(row, outcome),
                figure("p50_ms"),
                figure("p99_ms"),
                figure("p99_9_ms"),
                cpu(row, outcome),
                outcome.memory.map_or("–".to_owned(), |memory| {
                    let mb = |bytes: u64| number(bytes as f64 / 1e6);
                    format!("{} ({} + {})", mb(memory.peak), mb(memory.anonymous), mb(memory.file))
                }),
                figure("disk_mb"),
                format!("{:.0} %", 100.0 * outcome.driver_cpu_share),
                if side.server == URD { ratio(result) } else { String::new() },
                more_but_disk(outcome),
            ]);
        }
    }
    table
}

fn more_but_disk(outcome: &Outcome) -> String {
    more(&Outcome { disk_bytes: None, ..outcome.clone() })
}

/// How many times the reference takes of what the row is about: its first goal's figure, else CPU an operation.
fn ratio(result: &RowResult) -> String {
    let (Some(theirs), Some(ours)) = (result.side(ETCD), result.side(URD)) else { return "–".to_owned() };
    let figure = result.row.goals.first().map_or("cpu_us_per_op", |goal| goal.figure.as_str());
    let is_more_better = matches!(result.row.goals.first(), Some(Goal { bound: Bound::AtLeast(_), .. }));
    match (theirs.figure(figure), ours.figure(figure)) {
        (Some(theirs), Some(ours)) if theirs > 0.0 && ours > 0.0 => {
            format!("{}×", number(if is_more_better { ours / theirs } else { theirs / ours }))
        }
        _ => "–".to_owned(),
    }
}

/// Writes report.md, results.json, latency.svg and hgrm/ROW-SERVER.hgrm.
///
/// # Errors
/// The file system's, with the path.
pub fn write(results: &Results, out: &Path) -> Result<(), String> {
    let hgrm = out.join("hgrm");
    fs::create_dir_all(&hgrm).map_err(|cause| format!("{}: {cause}", hgrm.display()))?;
    let file = |path: std::path::PathBuf, text: &str| {
        fs::write(&path, text).map_err(|cause| format!("{}: {cause}", path.display()))
    };
    file(out.join("report.md"), &markdown(results))?;
    file(out.join("results.json"), &results.to_json())?;
    file(out.join("latency.svg"), &curves::page(results))?;
    for row in results.rows.iter().filter(|row| row.has_curve()) {
        for side in &row.sides {
            let Some(outcome) = side.outcome.as_ref().filter(|outcome| outcome.latency.count() > 1) else { continue };
            let server: String = side.server.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
            file(hgrm.join(format!("{}-{server}.hgrm", row.row.name)), &outcome.latency.hgrm())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
