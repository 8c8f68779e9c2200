//! `quorate-sim`: lives through seeds, and replays one of them.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use clap::{Parser, ValueEnum};
use indicatif::ProgressBar;
use quorate_sim::{ClusterReport, RaftSubject, Report, Violation, run, run_cluster};

/// Lives through seeds: nodes with their clients and their disks on one thread, and everything that can fail, failing.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// What decides.
    #[arg(long, value_enum, default_value_t = DriverName::Local)]
    driver: DriverName,
    /// How many seeds.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Only this seed.
    #[arg(long, conflicts_with_all = ["seeds", "from"])]
    seed: Option<u64>,
    /// Tell what happens.
    #[arg(long)]
    trace: bool,
    /// Go on after a violation, and tell all of them.
    #[arg(long)]
    keep_going: bool,
    /// Live through each seed twice, and compare.
    #[arg(long)]
    twice: bool,
    /// How many seeds at once, each on a thread of its own.
    #[arg(long, default_value_t = 1)]
    jobs: usize,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum DriverName {
    /// One node.
    Local,
    /// One to seven nodes.
    Raft,
}

/// What all seeds together saw.
#[derive(Debug, PartialEq, Eq)]
enum Total {
    Local(Report),
    Raft(ClusterReport),
}

impl Total {
    /// Nothing yet.
    fn new(driver: DriverName) -> Self {
        match driver {
            DriverName::Local => Self::Local(Report::default()),
            DriverName::Raft => Self::Raft(ClusterReport::default()),
        }
    }

    /// What one seed saw.
    fn of(driver: DriverName, seed: u64, trace: bool) -> Result<Self, Violation> {
        let mut tell = |line: &str| {
            if trace {
                println!("{line}");
            }
        };
        Ok(match driver {
            DriverName::Local => Self::Local(run(seed, &mut tell)?),
            DriverName::Raft => {
                let tell: Option<&mut dyn FnMut(&str)> = if trace { Some(&mut tell) } else { None };
                Self::Raft(run_cluster(&RaftSubject, seed, tell)?)
            }
        })
    }

    fn add(&mut self, other: &Self) {
        match (self, other) {
            (Self::Local(total), Self::Local(other)) => total.add(other),
            (Self::Raft(total), Self::Raft(other)) => total.add(other),
            _ => unreachable!("all seeds are of one driver"),
        }
    }

    /// Frames, faults, and everything in words.
    fn words(&self) -> (u64, u64, String) {
        match self {
            Self::Local(total) => {
                let faults = total.power_cuts + total.restarts + total.disk_faults;
                let words = format!(
                    "{} frames, {} answers, {faults} faults ({} power cuts, {} restarts, {} disk faults), \
                     {} checkpoints, {} disk operations, {} outcomes unknown for ever",
                    total.frames,
                    total.answers,
                    total.power_cuts,
                    total.restarts,
                    total.disk_faults,
                    total.checkpoints,
                    total.disk_ops,
                    total.orphans,
                );
                (total.frames, faults, words)
            }
            Self::Raft(total) => {
                let words = format!(
                    "{} frames, {} answers, {} reads, {} faults ({} power cuts, {} lost disks), {} of {} messages lost, \
                     {} starts, {} terms, {} changes of members, {} checkpoints, {} snapshots installed, \
                     {} subscribers cut off, {} outcomes unknown for ever, {} s of virtual time, \
                     slowest convergence {:.2} election timeouts",
                    total.frames,
                    total.answers,
                    total.reads,
                    total.faults,
                    total.power_cuts,
                    total.wipes,
                    total.lost,
                    total.messages,
                    total.starts,
                    total.terms,
                    total.changes,
                    total.checkpoints,
                    total.installs,
                    total.cut_off,
                    total.orphans,
                    total.virtual_ms / 1000,
                    total.converged_permille as f64 / 1000.0,
                );
                (total.frames, total.faults, words)
            }
        }
    }
}

/// Lives through one seed, or twice.
fn live(arguments: &Arguments, seed: u64) -> Result<Total, Violation> {
    let total = Total::of(arguments.driver, seed, arguments.trace)?;
    if arguments.twice && Total::of(arguments.driver, seed, false)? != total {
        return Err(Violation { what: "it lives another life the second time".into() });
    }
    Ok(total)
}

/// What all threads share.
#[derive(Debug)]
struct Progress {
    total: Total,
    violations: u64,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let (from, seeds) = arguments.seed.map_or((arguments.from, arguments.seeds), |seed| (seed, 1));
    let name = match arguments.driver {
        DriverName::Local => "local",
        DriverName::Raft => "raft",
    };
    let bar = ProgressBar::new(seeds);
    let began = Instant::now();
    let next = AtomicU64::new(from);
    let progress = Mutex::new(Progress { total: Total::new(arguments.driver), violations: 0 });
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= from + seeds {
                return;
            }
            let lived = live(&arguments, seed);
            let mut progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
            match lived {
                Ok(total) => progress.total.add(&total),
                Err(violation) => {
                    progress.violations += 1;
                    bar.suspend(|| {
                        println!("seed {seed}: VIOLATION: {violation}");
                        println!(
                            "replay it: cargo run --release -p quorate-sim -- --driver {name} --seed {seed} --trace"
                        );
                    });
                    if !arguments.keep_going {
                        next.store(from + seeds, Ordering::Relaxed);
                    }
                }
            }
            bar.inc(1);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..arguments.jobs.max(1) {
            scope.spawn(work);
        }
        work();
    });
    bar.finish_and_clear();
    let seconds = began.elapsed().as_secs_f64();
    let Progress { total, violations } =
        progress.into_inner().unwrap_or_else(PoisonError::into_inner);
    let (frames, faults, words) = total.words();
    let lived = bar.position();
    println!("{lived} seeds, {violations} with a violation: {words}");
    println!(
        "{seconds:.1} s: {:.0} seeds/s, {:.0} frames/s, {:.0} faults/s",
        lived as f64 / seconds,
        frames as f64 / seconds,
        faults as f64 / seconds,
    );
    if violations == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
