//! Shows how far a long command has got: a bar on a terminal, plain lines elsewhere. Always on standard error.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// How often a plain line is written unless it was asked for by count.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Counts what is done of something that has a known size in bytes.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    /// Write a line each time that this many more are done, in place of one every few seconds.
    every: Option<u64>,
    bytes_total: u64,
    begun: Instant,
    reported_at: Instant,
    reported: u64,
}

impl Progress {
    pub(crate) fn new(bytes_total: u64, every: Option<u64>) -> Self {
        let bar = (every.is_none() && std::io::stderr().is_terminal()).then(|| {
            let style = ProgressStyle::with_template(
                "{wide_bar} {percent:>3} %  {msg}  {elapsed} of {duration}",
            )
            .expect("a fixed template");
            ProgressBar::new(bytes_total).with_style(style)
        });
        let now = Instant::now();
        Self { bar, every, bytes_total, begun: now, reported_at: now, reported: 0 }
    }

    /// `frames` are answered, and `bytes` of the input are read.
    pub(crate) fn update(&mut self, frames: u64, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.set_message(format!("{frames} frames"));
            bar.set_position(bytes);
            return;
        }
        let due = match self.every {
            Some(every) => frames - self.reported >= every,
            None => self.reported_at.elapsed() >= LINE_EVERY,
        };
        if due {
            self.reported = frames;
            self.reported_at = Instant::now();
            let percent = (bytes * 100).checked_div(self.bytes_total).unwrap_or(100);
            let seconds = self.begun.elapsed().as_secs_f64();
            self.say(&format!("{frames} frames answered, {percent} % of the file, {seconds:.1} s"));
        }
    }

    /// Writes a line, above the bar if there is one. A closed standard error is no reason to stop.
    pub(crate) fn say(&self, line: &str) {
        let write = || writeln!(std::io::stderr().lock(), "{line}");
        let _ = match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        };
    }

    pub(crate) fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}
