//! The figures that criterion does not show.

use std::time::Duration;

use crate::counting_disk::Counted;
use crate::meter::Metered;

/// Samples shorter than this say more about their beginning and end than about what is between.
const SAMPLE_MIN: Duration = Duration::from_millis(20);

/// All rows in the order in which they were measured.
#[derive(Debug, Default)]
pub(crate) struct Table(Vec<Row>);

/// One bench.
#[derive(Debug)]
pub(crate) struct Row {
    name: String,
    samples: Vec<Sample>,
    against: Option<(&'static str, f64)>,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    frames: f64,
    wall: f64,
    process: f64,
    machine: f64,
    synced: Counted,
}

impl Table {
    pub(crate) fn add(&mut self, row: Row) {
        if !row.samples.is_empty() {
            self.0.push(row);
        }
    }

    /// Compares all rows whose name contains `which`, and that are compared with nothing else.
    pub(crate) fn compare(&mut self, which: &str, with: &'static str, rate: f64) {
        for row in &mut self.0 {
            if row.name.contains(which) && row.against.is_none() {
                row.against = Some((with, rate));
            }
        }
    }

    /// Prints medians over the samples.
    pub(crate) fn print(&self) {
        println!(
            "| bench | frames/s | CPU ns/frame | other cores | frames/sync | bytes/sync | syncs/s | against | ratio |"
        );
        println!("|---|--:|--:|--:|--:|--:|--:|---|--:|");
        for row in &self.0 {
            let rate = row.median(|sample| sample.frames / sample.wall);
            let process = row.median(|sample| sample.process * 1e9 / sample.frames);
            // The two come from counters of different fineness.
            let others =
                row.median(|sample| ((sample.machine - sample.process) / sample.wall).max(0.0));
            let syncs = row.median(|sample| sample.synced.syncs as f64 / sample.wall);
            print!("| {} | {rate:.0} | {process:.0} | {others:.2} ", row.name);
            match row.bytes_per_sync() {
                Some(bytes) => {
                    print!("| {:.1} | {bytes} | {syncs:.0} ", row.frames_per_sync());
                }
                None => print!("| | | "),
            }
            match row.against {
                Some((with, against)) => {
                    println!("| {with} {against:.0}/s | {:.2} |", rate / against)
                }
                None => println!("| | |"),
            }
        }
    }
}

impl Row {
    pub(crate) fn new(name: String) -> Self {
        Self { name, samples: Vec::new(), against: None }
    }

    pub(crate) fn add(&mut self, frames: u64, metered: &Metered, synced: Counted) {
        if metered.wall < SAMPLE_MIN {
            return;
        }
        self.samples.push(Sample {
            frames: frames as f64,
            wall: metered.wall.as_secs_f64(),
            process: metered.process.as_secs_f64(),
            machine: metered.machine.as_secs_f64(),
            synced,
        });
    }

    /// Compares it with something that would come to `rate` frames in a second.
    pub(crate) fn compare(&mut self, with: &'static str, rate: f64) {
        self.against = Some((with, rate));
    }

    /// Frames in a second.
    pub(crate) fn rate(&self) -> Option<f64> {
        (!self.samples.is_empty()).then(|| self.median(|sample| sample.frames / sample.wall))
    }

    /// How much the log wrote for each sync, if it wrote anything.
    pub(crate) fn bytes_per_sync(&self) -> Option<usize> {
        let syncs = self.sum(|sample| sample.synced.syncs as f64);
        (syncs > 0.0).then(|| (self.sum(|sample| sample.synced.bytes as f64) / syncs) as usize)
    }

    /// How many frames became durable with each sync.
    pub(crate) fn frames_per_sync(&self) -> f64 {
        self.sum(|sample| sample.frames) / self.sum(|sample| sample.synced.syncs as f64).max(1.0)
    }

    fn sum(&self, what: impl Fn(&Sample) -> f64) -> f64 {
        self.samples.iter().map(what).sum()
    }

    fn median(&self, what: impl Fn(&Sample) -> f64) -> f64 {
        let mut all: Vec<f64> = self.samples.iter().map(what).collect();
        all.sort_unstable_by(f64::total_cmp);
        all.get(all.len() / 2).copied().unwrap_or(f64::NAN)
    }
}
