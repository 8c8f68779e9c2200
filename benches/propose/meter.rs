//! Wall time, and the processor time of this process and of everything else, without a system call of our own.

use std::fs;
use std::time::{Duration, Instant};

/// Runs from [`start`](Self::start) to [`stop`](Self::stop).
#[derive(Debug)]
pub(crate) struct Meter {
    wall: Instant,
    process: Duration,
    machine: Duration,
}

/// What a [`Meter`] saw.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Metered {
    pub(crate) wall: Duration,
    /// Processor time of all threads of this process.
    pub(crate) process: Duration,
    /// Processor time of the whole machine.
    pub(crate) machine: Duration,
}

impl Meter {
    pub(crate) fn start() -> Self {
        Self { process: process(), machine: machine(), wall: Instant::now() }
    }

    pub(crate) fn stop(self) -> Metered {
        let wall = self.wall.elapsed();
        Metered {
            wall,
            process: process().saturating_sub(self.process),
            machine: machine().saturating_sub(self.machine),
        }
    }
}

/// The threads that live; none ends while something is measured.
fn process() -> Duration {
    let Ok(tasks) = fs::read_dir("/proc/self/task") else { return Duration::ZERO };
    let run = |task: fs::DirEntry| {
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    };
    Duration::from_nanos(tasks.flatten().filter_map(run).sum())
}

/// Everything that is not idle, in ticks of 10 ms.
fn machine() -> Duration {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let ticks = text.lines().next().unwrap_or_default().split_whitespace().skip(1);
    let ticks: Vec<u64> = ticks.filter_map(|ticks| ticks.parse().ok()).collect();
    // user, nice, system, idle, waiting for a disk, interrupts, soft interrupts
    let busy = [0, 1, 2, 5, 6].into_iter().filter_map(|place| ticks.get(place)).sum::<u64>();
    Duration::from_millis(busy * 10)
}
