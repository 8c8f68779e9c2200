//! How an import went.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use hdrhistogram::Histogram;
use quorate::Status;
use serde_json::json;

use crate::import::latencies;
use crate::ndjson::BadLine;

/// Counts of one run of `import`, and what they were measured on.
#[derive(Debug)]
pub(crate) struct Summary {
    file: String,
    digest: String,
    resumed: bool,
    driver: String,
    durability: String,
    /// Lines that an earlier run had finished with.
    pub(crate) already: u64,
    /// Frames that were proposed and answered.
    pub(crate) frames: u64,
    pub(crate) accepted: u64,
    /// Decided as rejected, or refused by the state.
    pub(crate) rejected: u64,
    /// Attempts that ended without an answer, and were made again.
    pub(crate) timeouts: u64,
    pub(crate) bad_lines: u64,
    /// Payloads that were proposed.
    pub(crate) bytes: u64,
    /// The first bad and rejected lines.
    pub(crate) problems: Vec<BadLine>,
    /// Those that are not among them.
    pub(crate) problems_hidden: u64,
    pub(crate) latency_us: Histogram<u64>,
    pub(crate) elapsed: Duration,
}

impl Summary {
    pub(crate) fn new(file: &Path, digest: &blake3::Hash, resumed: bool, status: &Status) -> Self {
        Self {
            file: file.display().to_string(),
            digest: digest.to_string(),
            resumed,
            driver: status.driver.clone(),
            durability: status.durability.to_string(),
            already: 0,
            frames: 0,
            accepted: 0,
            rejected: 0,
            timeouts: 0,
            bad_lines: 0,
            bytes: 0,
            problems: Vec::new(),
            problems_hidden: 0,
            latency_us: latencies(),
            elapsed: Duration::ZERO,
        }
    }

    /// Whether every line did what it says.
    pub(crate) fn is_clean(&self) -> bool {
        self.bad_lines == 0 && self.rejected == 0
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        json!({
            "file": self.file,
            "digest": self.digest,
            "resumed": self.resumed,
            "already": self.already,
            "frames": self.frames,
            "accepted": self.accepted,
            "rejected": self.rejected,
            "timeouts": self.timeouts,
            "bad_lines": self.bad_lines,
            "problems": self.problems,
            "frames_per_second": self.rate().round(),
            "p50_us": self.latency_us.value_at_quantile(0.5),
            "p99_us": self.latency_us.value_at_quantile(0.99),
            "p99_9_us": self.latency_us.value_at_quantile(0.999),
            "bytes": self.bytes,
            "driver": self.driver,
            "durability": self.durability,
            "elapsed_ms": u64::try_from(self.elapsed.as_millis()).unwrap_or(u64::MAX),
        })
    }

    fn rate(&self) -> f64 {
        self.frames as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quantile = |quantile| {
            let took = Duration::from_micros(self.latency_us.value_at_quantile(quantile));
            format!("{:.3} ms", took.as_secs_f64() * 1e3)
        };
        if self.already > 0 {
            writeln!(f, "already      {} lines, in an earlier run", self.already)?;
        }
        writeln!(f, "frames       {}", self.frames)?;
        writeln!(f, "accepted     {}", self.accepted)?;
        writeln!(f, "rejected     {}", self.rejected)?;
        writeln!(f, "timeouts     {}", self.timeouts)?;
        writeln!(f, "bad lines    {}", self.bad_lines)?;
        writeln!(f, "frames/s     {:.0}", self.rate())?;
        writeln!(f, "p50          {}", quantile(0.5))?;
        writeln!(f, "p99          {}", quantile(0.99))?;
        writeln!(f, "p99.9        {}", quantile(0.999))?;
        writeln!(f, "bytes        {}", self.bytes)?;
        writeln!(f, "driver       {}", self.driver)?;
        writeln!(f, "durability   {}", self.durability)?;
        write!(f, "elapsed      {:.3} s", self.elapsed.as_secs_f64())
    }
}
