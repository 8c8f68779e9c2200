//! `quorate-sim`: lives through seeds, and replays one of them.

#[cfg(quorate_planted)]
mod planted;
mod total;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use clap::{Parser, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use quorate_sim::{Scenario, Violation};

use total::Total;

/// Lives through seeds: nodes with their clients and their disks on one thread, and everything that can fail, failing.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// What decides.
    #[arg(long, value_enum, default_value_t = DriverName::Local)]
    driver: DriverName,
    /// What is special about each life; every seed chooses one without it. Of the quorum driver.
    #[arg(long, value_parser = scenario)]
    scenario: Option<Scenario>,
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
    /// Live through each seed twice, and compare; once where the scheme is changed, since signatures of the others are random.
    #[arg(long)]
    twice: bool,
    /// How many seeds at once, each on a thread of its own.
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// Look for each planted bug, in at most 500 seeds; only in a build that has them.
    #[arg(long)]
    planted: bool,
    /// Write what was found of the planted bugs into this page, between its marks.
    #[arg(long, requires = "planted")]
    table: Option<PathBuf>,
    /// Live with this planted bug; only in a build that has them.
    #[arg(long, conflicts_with = "planted")]
    bug: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum DriverName {
    /// One node.
    Local,
    /// One to seven nodes.
    Raft,
    /// One to seven validators, of which some may lie.
    Quorum,
}

/// The scenario of that name.
fn scenario(name: &str) -> Result<Scenario, String> {
    let found = Scenario::ALL.iter().find(|known| known.name() == name);
    found.copied().ok_or_else(|| {
        let known: Vec<_> = Scenario::ALL.iter().map(|known| known.name()).collect();
        format!("there are {}", known.join(", "))
    })
}

/// Lives through one seed, or twice.
fn live(arguments: &Arguments, seed: u64) -> Result<Total, Violation> {
    #[cfg(quorate_planted)]
    let _planted = planted::plant(arguments.bug.as_deref())?;
    let (driver, scenario) = (arguments.driver, arguments.scenario);
    let total = Total::of(driver, scenario, seed, arguments.trace)?;
    if arguments.twice && !total.is_random() && Total::of(driver, scenario, seed, false)? != total {
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
    #[cfg(quorate_planted)]
    if arguments.planted {
        return planted::find_all(arguments.jobs, arguments.table.as_deref());
    }
    #[cfg(not(quorate_planted))]
    if arguments.planted || arguments.bug.is_some() {
        eprintln!(
            "this build has no planted bugs: make one with RUSTFLAGS=\"--cfg quorate_planted\", or run `just planted`"
        );
        return ExitCode::FAILURE;
    }
    let (from, seeds) = arguments.seed.map_or((arguments.from, arguments.seeds), |seed| (seed, 1));
    let name = match arguments.driver {
        DriverName::Local => "local",
        DriverName::Raft => "raft",
        DriverName::Quorum => "quorum",
    };
    let special = arguments.scenario.map(|it| format!(" --scenario {}", it.name()));
    let special = special.unwrap_or_default();
    let bar = ProgressBar::new(seeds);
    let style = ProgressStyle::with_template("{bar:32} {pos}/{len} seeds, {msg}, {eta} left");
    bar.set_style(style.expect("the template is in order"));
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
                            "replay it: cargo run --release -p quorate-sim -- --driver {name}{special} --seed {seed} --trace"
                        );
                    });
                    if !arguments.keep_going {
                        next.store(from + seeds, Ordering::Relaxed);
                    }
                }
            }
            bar.inc(1);
            let (frames, faults, _) = progress.total.words();
            bar.set_message(pace(bar.position(), frames, faults, began));
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..arguments.jobs.max(1) {
            scope.spawn(work);
        }
        work();
    });
    // A finished bar says that it came to its end, wherever a violation stopped it.
    let lived = bar.position();
    bar.finish_and_clear();
    let seconds = began.elapsed().as_secs_f64();
    let Progress { total, violations } =
        progress.into_inner().unwrap_or_else(PoisonError::into_inner);
    let (frames, faults, words) = total.words();
    println!("{lived} seeds, {violations} with a violation: {words}");
    println!("{seconds:.1} s: {}", pace(lived, frames, faults, began));
    if violations == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What a second brings.
fn pace(seeds: u64, frames: u64, faults: u64, began: Instant) -> String {
    let seconds = began.elapsed().as_secs_f64();
    let [seeds, frames, faults] = [seeds, frames, faults].map(|all| all as f64 / seconds);
    format!("{seeds:.0} seeds/s, {frames:.0} frames/s, {faults:.0} faults/s")
}
