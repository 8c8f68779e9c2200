//! Several that do the same work are measured by turns, and compared within each turn.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;

use crate::counting_disk::CountingDisk;
use crate::meter::Meter;

/// How often each has its turn.
const TURNS: usize = 9;

/// How long a turn is about.
const TURN: Duration = Duration::from_millis(400);

/// A load under way.
pub(crate) type Running<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// Clients in a closed loop.
pub(crate) trait Load {
    /// Lets each client make so many calls, and waits for all.
    fn run(&mut self, rounds: u64) -> Running<'_>;

    /// Ends what only this load needs.
    fn close(&mut self) -> Running<'_> {
        Box::pin(async {})
    }
}

/// One of those that do the same work.
pub(crate) struct Entrant {
    pub(crate) name: &'static str,
    /// Frames, or reads, of one round of all clients.
    pub(crate) per_round: u64,
    pub(crate) load: Box<dyn Load>,
    /// Where one of its nodes keeps its log.
    pub(crate) disk: Option<Arc<CountingDisk>>,
    /// How many batches it has decided, where that can be told.
    pub(crate) decided: Option<Box<dyn Fn() -> u64>>,
}

impl std::fmt::Debug for Entrant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entrant").field("name", &self.name).finish_non_exhaustive()
    }
}

/// One turn of one of them.
#[derive(Clone, Copy, Debug)]
struct Sample {
    rate: f64,
    cpu_ns: f64,
    others: f64,
    per_sync: f64,
    per_batch: f64,
}

/// The head of the table that [`measure`] prints rows of.
pub(crate) fn print_head() {
    println!(
        "| bench | | frames/s | slowest to fastest turn | CPU ns/frame | cores | other cores | batches/s | frames/batch | CPU us/batch | frames/sync | to the first |"
    );
    println!("|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|");
}

/// Measures all by turns, and prints a row for each.
pub(crate) fn measure(runtime: &Runtime, id: &str, mut entrants: Vec<Entrant>) {
    let rounds: Vec<u64> = entrants.iter_mut().map(|entrant| rounds(runtime, entrant)).collect();
    let mut samples: Vec<Vec<Sample>> = vec![Vec::new(); entrants.len()];
    for _ in 0..TURNS {
        for ((entrant, rounds), samples) in entrants.iter_mut().zip(&rounds).zip(&mut samples) {
            samples.push(turn(runtime, entrant, *rounds));
        }
    }
    for (entrant, own) in entrants.iter().zip(&samples) {
        let of = |what: fn(&Sample) -> f64| sorted(own.iter().map(what));
        let rates = of(|sample| sample.rate);
        let (rate, cpu) = (median(&rates), median(&of(|sample| sample.cpu_ns)));
        let ratio = sorted(own.iter().zip(&samples[0]).map(|(own, first)| own.rate / first.rate));
        let shown =
            |number: f64| if number.is_finite() { format!("{number:.1}") } else { String::new() };
        let per_sync = shown(median(&of(|sample| sample.per_sync)));
        let per_batch = median(&of(|sample| sample.per_batch));
        let (batches, batch_cpu) = (shown(rate / per_batch), shown(per_batch * cpu / 1e3));
        let batches = if per_batch.is_finite() { batches } else { String::new() };
        println!(
            "| {id} | {} | {rate:.0} | {:.0} - {:.0} | {cpu:.0} | {:.2} | {:.2} | {batches} | {} | {batch_cpu} | {per_sync} | {:.2} |",
            entrant.name,
            rates[0],
            rates[TURNS - 1],
            rate * cpu / 1e9,
            median(&of(|sample| sample.others)),
            shown(per_batch),
            median(&ratio),
        );
    }
    for entrant in &mut entrants {
        runtime.block_on(entrant.load.close());
    }
}

/// How many rounds take about a turn.
fn rounds(runtime: &Runtime, entrant: &mut Entrant) -> u64 {
    let mut rounds = 1;
    loop {
        let begun = Instant::now();
        runtime.block_on(entrant.load.run(rounds));
        let took = begun.elapsed();
        if took > TURN / 4 {
            let rounds = rounds as f64 * TURN.as_secs_f64() / took.as_secs_f64();
            return (rounds as u64).max(1);
        }
        rounds *= 2;
    }
}

fn turn(runtime: &Runtime, entrant: &mut Entrant, rounds: u64) -> Sample {
    let counted = |entrant: &Entrant| entrant.disk.as_ref().map(|disk| disk.counted());
    let decided = |entrant: &Entrant| entrant.decided.as_ref().map_or(0, |decided| decided());
    let (before, batches, meter) = (counted(entrant), decided(entrant), Meter::start());
    runtime.block_on(entrant.load.run(rounds));
    let metered = meter.stop();
    let frames = (rounds * entrant.per_round) as f64;
    let wall = metered.wall.as_secs_f64();
    let syncs = before.zip(counted(entrant)).map_or(0, |(before, after)| after.since(before).syncs);
    Sample {
        rate: frames / wall,
        cpu_ns: metered.process.as_secs_f64() * 1e9 / frames,
        // The two come from counters of different fineness.
        others: ((metered.machine.as_secs_f64() - metered.process.as_secs_f64()) / wall).max(0.0),
        per_sync: frames / syncs as f64,
        per_batch: frames / (decided(entrant) - batches) as f64,
    }
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    values
}

fn median(sorted: &[f64]) -> f64 {
    sorted[sorted.len() / 2]
}
