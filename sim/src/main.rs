//! `quorate-sim`: lives through seeds, and replays one of them.

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use indicatif::ProgressBar;
use quorate_sim::{Report, run};

/// Lives through seeds: a node with its clients and its disk on one thread, and everything that can fail, failing.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
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
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let (from, seeds) = arguments.seed.map_or((arguments.from, arguments.seeds), |seed| (seed, 1));
    let bar = ProgressBar::new(seeds);
    let began = Instant::now();
    let mut total = Report::default();
    for seed in from..from + seeds {
        let mut tell = |line: &str| {
            if arguments.trace {
                println!("{line}");
            }
        };
        match run(seed, &mut tell) {
            Ok(report) => total.add(&report),
            Err(violation) => {
                bar.abandon();
                println!("seed {seed}: VIOLATION: {violation}");
                println!("replay it: cargo run --release -p quorate-sim -- --seed {seed} --trace");
                return ExitCode::FAILURE;
            }
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    let seconds = began.elapsed().as_secs_f64();
    let faults = total.power_cuts + total.restarts + total.disk_faults;
    println!(
        "{seeds} seeds without a violation: {} frames, {} answers, {faults} faults ({} power cuts, {} restarts, \
         {} disk faults), {} checkpoints, {} disk operations, {} outcomes unknown for ever",
        total.frames,
        total.answers,
        total.power_cuts,
        total.restarts,
        total.disk_faults,
        total.checkpoints,
        total.disk_ops,
        total.orphans,
    );
    println!(
        "{seconds:.1} s: {:.0} seeds/s, {:.0} frames/s, {:.0} faults/s",
        seeds as f64 / seconds,
        total.frames as f64 / seconds,
        faults as f64 / seconds,
    );
    ExitCode::SUCCESS
}
