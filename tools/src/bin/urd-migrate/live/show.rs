//! What is told while it goes on: a line for each thing that has happened, on stdout, as text or as JSON; and on a terminal a bar
//! on stderr with what is waited for.

use std::{
    cell::Cell,
    io::Write,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::steps::PHASES;

pub struct Show {
    bar: ProgressBar,
    json: bool,
    begin: Instant,
    /// When something was told the last time.
    told: Cell<Instant>,
    total: usize,
}

/// Where there is no terminal, what is waited for is told so often.
const WAIT_TOLD: Duration = Duration::from_secs(60);

impl Show {
    pub fn new(json: bool, total: usize) -> Show {
        // The target hides itself where stderr is no terminal.
        let bar = ProgressBar::with_draw_target(Some(total as u64 * PHASES), ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("[{bar:21.cyan/dim}] {percent:>3}% {elapsed:.dim} {wide_msg}");
        bar.set_style(style.expect("a template that can be read").progress_chars("━━╌"));
        Show { bar, json, begin: Instant::now(), told: Cell::new(Instant::now()), total }
    }

    /// One thing that has happened, `at` a replacement; `event` is its word for scripts.
    pub fn say(&self, event: &str, at: Option<(usize, String)>, text: &str) {
        let line = match (self.json, &at) {
            (true, _) => {
                let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                let (number, names) = at.as_ref().map_or((0, ""), |(at, names)| (at + 1, names.as_str()));
                serde_json::json!({
                    "time": time.as_millis() as f64 / 1000.0,
                    "event": event,
                    "replacement": names,
                    "number": number,
                    "of": self.total,
                    "text": text,
                })
                .to_string()
            }
            (false, Some((at, names))) => {
                format!("{:>7.1}s [{}/{} {names}] {text}", self.begin.elapsed().as_secs_f32(), at + 1, self.total)
            }
            (false, None) => text.to_owned(),
        };
        self.told.set(Instant::now());
        self.bar.suspend(|| {
            let mut out = std::io::stdout().lock();
            // A reader that has gone away does not end a migration.
            let _ = writeln!(out, "{line}").and_then(|()| out.flush());
        });
    }

    /// How far it is, and what is waited for.
    pub fn wait(&self, at: usize, phase: u64, text: &str) {
        self.bar.set_position(at as u64 * PHASES + phase);
        self.bar.set_message(text.to_owned());
        self.bar.tick();
        if self.bar.is_hidden() && self.told.get().elapsed() > WAIT_TOLD {
            self.say("waits", None, &format!("{:>7.1}s waits: {text}", self.begin.elapsed().as_secs_f32()));
        }
    }

    pub fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

/// How far a learner is, from what it told before: nothing is said that does not follow from it.
#[derive(Default)]
pub struct Rate {
    first: Option<(Instant, u64)>,
}

impl Rate {
    pub fn estimate(&mut self, applied: u64, goal: u64) -> String {
        let (begin, from) = *self.first.get_or_insert_with(|| (Instant::now(), applied));
        let missing = goal.saturating_sub(applied);
        let done = applied.saturating_sub(from);
        let passed = begin.elapsed().as_secs_f64();
        let of_all = format!("entry {applied} of {goal}");
        match done > 0 && passed >= 1.0 {
            true => format!("{of_all}, about {} more", rounded(missing as f64 * passed / done as f64)),
            false => of_all,
        }
    }
}

fn rounded(seconds: f64) -> String {
    match seconds {
        ..60.0 => format!("{} s", seconds.ceil()),
        ..5400.0 => format!("{} min", (seconds / 60.0).ceil()),
        _ => format!("{:.1} h", seconds / 3600.0),
    }
}

/// What can be said while a database is on its way, of which no member tells how much has come: how large it is, how long it has
/// been, and how long it was with the one before.
pub fn of_snapshot(db_bytes: u64, passed: Duration, before: Option<(u64, Duration)>) -> String {
    let mut text = format!("waited {} s for its first answer; ", passed.as_secs());
    text += &format!("the leader's database of {} has to get there, and nobody tells how much has", bytes(db_bytes));
    if let Some((bytes_before, took)) = before
        && bytes_before > 0
    {
        let whole = took.as_secs_f64() * db_bytes as f64 / bytes_before as f64;
        match whole > passed.as_secs_f64() {
            true => text += &format!("; as the one before, about {} more", rounded(whole - passed.as_secs_f64())),
            false => text += "; longer than the one before",
        }
    }
    text
}

pub fn bytes(count: u64) -> String {
    if count < 1_000_000 {
        return format!("{} kB", count.div_ceil(1000));
    }
    let megabytes = count as f64 / 1e6;
    if megabytes < 1000.0 { format!("{megabytes:.1} MB") } else { format!("{:.2} GB", megabytes / 1000.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn estimates_are_of_what_is_known() {
        let mut rate = Rate::default();
        assert_eq!(rate.estimate(100, 900), "entry 100 of 900");
        rate.first = Some((Instant::now() - Duration::from_secs(10), 100));
        assert_eq!(rate.estimate(300, 900), "entry 300 of 900, about 31 s more");
        let seconds = Duration::from_secs;
        assert!(!of_snapshot(5_000_000, seconds(3), None).contains("more"));
        assert!(of_snapshot(5_000_000, seconds(3), Some((10_000_000, seconds(20)))).ends_with("about 7 s more"));
        assert!(
            of_snapshot(5_000_000, seconds(30), Some((10_000_000, seconds(20))))
                .ends_with("longer than the one before")
        );
    }
}
