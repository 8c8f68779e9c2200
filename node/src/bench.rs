//! `quorate bench`: how fast a cluster answers, as its clients see it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use quorate::kv::{PutOptions, ReadOptions};
use quorate::{Kv, Session, ShardKey, Status};
use serde_json::json;
use tokio::task::JoinSet;

use crate::cli::{BenchArgs, Output};
use crate::exit::{Exit, Failure};
use crate::print_as;
use crate::target::{Target, Way};

/// Callers of one session. Those that go on while one waits longer than the others must not use up the serials that a session may have
/// unsettled.
const SESSION_CALLERS: usize = 32;

/// How long a call may take before it counts as failed.
const CALL_WITHIN: Duration = Duration::from_secs(10);

/// Latencies above this count as this: no call is waited for longer.
const LATENCY_MAX_US: u64 = 60_000_000;

/// Problems that are shown; the rest are counted.
const PROBLEMS_SHOWN_MAX: u64 = 3;

pub(crate) async fn run(way: Way, arguments: &BenchArgs, output: Output) -> Result<Exit, Failure> {
    let target = way.open().await?;
    let result = measure(&target, arguments, output).await;
    target.close(result).await
}

async fn measure(target: &Target, arguments: &BenchArgs, output: Output) -> Result<Exit, Failure> {
    let run = Arc::new(Run {
        arguments: arguments.clone(),
        begun: Instant::now(),
        over: AtomicBool::new(false),
        failed: AtomicU64::new(0),
    });
    let mut callers = JoinSet::new();
    let mut kv = target.kv().clone();
    for number in 0..arguments.clients {
        if number > 0 && number % SESSION_CALLERS == 0 {
            let session = Session::new(target.replicator()).map_err(Failure::service)?;
            kv = Kv::with_reads(Arc::new(session), Arc::clone(kv.reads()));
        }
        callers.spawn(Arc::clone(&run).call(kv.clone()));
    }
    tokio::time::sleep(arguments.time).await;
    run.over.store(true, Ordering::Relaxed);
    let mut whole = Measured::new();
    while let Some(measured) = callers.join_next().await {
        whole.add(&measured.map_err(Failure::service)?);
    }
    let elapsed = run.begun.elapsed();
    let failed = run.failed.load(Ordering::Relaxed);
    let status = target.replicator().status();
    print_as(
        output,
        || as_json(&whole, arguments, &status, elapsed, failed),
        || as_text(&whole, arguments, &status, elapsed, failed),
    )?;
    Ok(if failed == 0 { Exit::Done } else { Exit::Problems })
}

/// What the callers share.
#[derive(Debug)]
struct Run {
    arguments: BenchArgs,
    begun: Instant,
    over: AtomicBool,
    failed: AtomicU64,
}

impl Run {
    /// Calls again and again, each time when the answer to the call before has come.
    async fn call(self: Arc<Self>, kv: Kv) -> Measured {
        let BenchArgs { keys, value_bytes, reads, .. } = self.arguments;
        let shard = ShardKey::new("quorate", "bench").expect("both are names");
        let value = vec![b'x'; value_bytes];
        let mut measured = Measured::new();
        while !self.over.load(Ordering::Relaxed) {
            let key = format!("{:012}", fastrand::u64(0..keys));
            let began = Instant::now();
            let problem = if fastrand::u8(0..100) < reads {
                let options = ReadOptions::default().within(CALL_WITHIN);
                let got = kv.get(&shard, key.as_bytes(), options).await;
                got.err().map(|error| error.to_string())
            } else {
                let options = PutOptions::default().within(CALL_WITHIN);
                let put = kv.put(&shard, key.as_bytes(), &value, options).await;
                put.err().map(|error| error.to_string())
            };
            match problem {
                None => measured.answered(self.begun, began),
                Some(problem) => {
                    if self.failed.fetch_add(1, Ordering::Relaxed) < PROBLEMS_SHOWN_MAX {
                        eprintln!("{problem}");
                    }
                    // Whoever cannot be reached is not asked as fast as possible.
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
        }
        measured
    }
}

/// What callers saw.
#[derive(Debug)]
struct Measured {
    /// Microseconds from call to answer.
    latency: Histogram<u64>,
    /// When answers came, in milliseconds since the beginning, each moment once.
    moments: Vec<u64>,
}

impl Measured {
    fn new() -> Self {
        let latency = Histogram::new_with_bounds(1, LATENCY_MAX_US, 3);
        let latency = latency.expect("three digits are possible");
        Self { latency, moments: Vec::new() }
    }

    fn answered(&mut self, begun: Instant, began: Instant) {
        self.latency.saturating_record(micros(began.elapsed()));
        let moment = micros(begun.elapsed()) / 1000;
        if self.moments.last() != Some(&moment) {
            self.moments.push(moment);
        }
    }

    fn add(&mut self, other: &Self) {
        self.latency.add(&other.latency).expect("both have the same bounds");
        self.moments.extend(&other.moments);
    }

    /// The longest time without any answer.
    fn longest_gap(&self) -> Duration {
        let mut moments = self.moments.clone();
        moments.sort_unstable();
        let gaps = moments.windows(2).map(|pair| pair[1] - pair[0]);
        Duration::from_millis(gaps.max().unwrap_or(0))
    }

    fn at(&self, quantile: f64) -> Duration {
        Duration::from_micros(self.latency.value_at_quantile(quantile))
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn as_json(
    measured: &Measured,
    arguments: &BenchArgs,
    status: &Status,
    elapsed: Duration,
    failed: u64,
) -> serde_json::Value {
    let calls = measured.latency.len();
    json!({
        "driver": status.driver,
        "durability": status.durability,
        "clients": arguments.clients,
        "value_bytes": arguments.value_bytes,
        "reads_percent": arguments.reads,
        "seconds": elapsed.as_secs_f64(),
        "answered": calls,
        "failed": failed,
        "per_second": calls as f64 / elapsed.as_secs_f64(),
        "latency_us": {
            "p50": micros(measured.at(0.5)),
            "p99": micros(measured.at(0.99)),
            "p999": micros(measured.at(0.999)),
            "max": measured.latency.max(),
        },
        "longest_gap_ms": measured.longest_gap().as_millis(),
    })
}

fn as_text(
    measured: &Measured,
    arguments: &BenchArgs,
    status: &Status,
    elapsed: Duration,
    failed: u64,
) -> String {
    let calls = measured.latency.len();
    let max = Duration::from_micros(measured.latency.max());
    format!(
        "driver       {}, durability {}\n\
         calls        {} clients, {} % reads, values of {} bytes, {} keys\n\
         answered     {calls} in {:.1} s, {:.0} a second; {failed} failed\n\
         latency      p50 {:.1?}, p99 {:.1?}, p99.9 {:.1?}, max {max:.1?}\n\
         longest gap  {:?} without an answer",
        status.driver,
        status.durability,
        arguments.clients,
        arguments.reads,
        arguments.value_bytes,
        arguments.keys,
        elapsed.as_secs_f64(),
        calls as f64 / elapsed.as_secs_f64(),
        measured.at(0.5),
        measured.at(0.99),
        measured.at(0.999),
        measured.longest_gap(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_gap_is_between_answers_of_anybody() {
        let mut one = Measured::new();
        one.moments = vec![0, 10, 100];
        let mut two = Measured::new();
        two.moments = vec![5, 70];
        one.add(&two);
        assert_eq!(one.longest_gap(), Duration::from_millis(60));
        assert_eq!(Measured::new().longest_gap(), Duration::ZERO);
    }
}
