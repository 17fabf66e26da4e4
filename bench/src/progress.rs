//! What a terminal shows while a measurement runs, and nothing where stderr is none.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

pub struct Progress(ProgressBar);

impl Progress {
    /// `label` says what runs and against whom.
    pub fn new(label: &str) -> Self {
        // The target hides itself where stderr is no terminal.
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        bar.set_style(ProgressStyle::with_template("{msg} {elapsed:.dim}").expect("a template that can be read"));
        bar.set_message(label.to_owned());
        Progress(bar)
    }

    /// From here on a share of `total` is done.
    pub fn begin(&self, total: u64) {
        const TEMPLATE: &str = "{msg} [{bar:30.cyan/dim}] {percent:>3}% {elapsed:.dim}";
        self.0.set_style(
            ProgressStyle::with_template(TEMPLATE).expect("a template that can be read").progress_chars("━━╌"),
        );
        self.0.set_length(total);
        self.0.set_position(0);
    }

    pub fn at(&self, done: u64) {
        self.0.set_position(done);
    }

    /// Waits, and shows how much of the time has passed.
    pub async fn wait(&self, time: Duration) {
        self.begin(time.as_millis() as u64);
        let begin = Instant::now();
        while let Some(rest) = time.checked_sub(begin.elapsed()).filter(|rest| !rest.is_zero()) {
            tokio::time::sleep(rest.min(Duration::from_millis(200))).await;
            self.at(begin.elapsed().as_millis() as u64);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
