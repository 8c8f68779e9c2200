//! `quorate-sim`: lives through seeds, and replays one of them.

use std::process::ExitCode;
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
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum DriverName {
    /// One node.
    Local,
    /// One to seven nodes.
    Raft,
}

/// What all seeds together saw.
#[derive(Debug)]
enum Total {
    Local(Report),
    Raft(ClusterReport),
}

impl Total {
    fn live(&mut self, seed: u64, trace: bool) -> Result<(), Violation> {
        let mut tell = |line: &str| {
            if trace {
                println!("{line}");
            }
        };
        match self {
            Self::Local(total) => total.add(&run(seed, &mut tell)?),
            Self::Raft(total) => {
                let tell: Option<&mut dyn FnMut(&str)> = if trace { Some(&mut tell) } else { None };
                total.add(&run_cluster(&RaftSubject, seed, tell)?);
            }
        }
        Ok(())
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

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let (from, seeds) = arguments.seed.map_or((arguments.from, arguments.seeds), |seed| (seed, 1));
    let (mut total, name) = match arguments.driver {
        DriverName::Local => (Total::Local(Report::default()), "local"),
        DriverName::Raft => (Total::Raft(ClusterReport::default()), "raft"),
    };
    let bar = ProgressBar::new(seeds);
    let began = Instant::now();
    let mut violations = 0;
    for seed in from..from + seeds {
        if let Err(violation) = total.live(seed, arguments.trace) {
            violations += 1;
            bar.suspend(|| {
                println!("seed {seed}: VIOLATION: {violation}");
                println!(
                    "replay it: cargo run --release -p quorate-sim -- --driver {name} --seed {seed} --trace"
                );
            });
            if !arguments.keep_going {
                bar.abandon();
                return ExitCode::FAILURE;
            }
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    let seconds = began.elapsed().as_secs_f64();
    let (frames, faults, words) = total.words();
    println!("{seeds} seeds, {violations} with a violation: {words}");
    println!(
        "{seconds:.1} s: {:.0} seeds/s, {:.0} frames/s, {:.0} faults/s",
        seeds as f64 / seconds,
        frames as f64 / seconds,
        faults as f64 / seconds,
    );
    if violations == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
