//! A rate that several share.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How much of the rate may be used at once after a pause.
const BURST: Duration = Duration::from_millis(50);

/// Lets so many bytes a second pass.
#[derive(Debug)]
pub(crate) struct Throttle {
    /// None: as many as come.
    per_second: Option<u64>,
    /// When all that was let pass has been paid for.
    paid_at: Mutex<Instant>,
}

impl Throttle {
    /// Of `per_second` bytes; 0 for no limit.
    pub(crate) fn new(per_second: u64) -> Self {
        let per_second = Some(per_second).filter(|rate| *rate > 0);
        Self { per_second, paid_at: Mutex::new(Instant::now()) }
    }

    /// Waits until `bytes` may pass. A dropped future has used its part of the rate.
    pub(crate) async fn pass(&self, bytes: usize) {
        let Some(rate) = self.per_second else { return };
        let cost = Duration::from_secs_f64(bytes as f64 / rate as f64);
        let until = {
            let mut paid_at = self.paid_at.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            *paid_at = (*paid_at).max(now - BURST) + cost;
            *paid_at
        };
        tokio::time::sleep_until(until).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_rate_is_kept_over_all_who_share_it() {
        let throttle = Throttle::new(1 << 20);
        let start = Instant::now();
        let send = || async {
            for _ in 0..32 {
                throttle.pass(64 << 10).await;
            }
        };
        tokio::join!(send(), send());
        let took = start.elapsed().as_secs_f64();
        assert!((3.9..4.1).contains(&took), "4 MiB at 1 MiB/s took {took} s");
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_limit_nobody_waits() {
        let start = Instant::now();
        Throttle::new(0).pass(usize::MAX).await;
        assert_eq!(start.elapsed(), Duration::ZERO);
    }
}
