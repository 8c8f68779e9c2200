//! How fast snapshots may be sent.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// What may be sent at once after a pause, as a time at the full rate: a scheduler that wakes a task late must not cost
/// bandwidth.
const SLACK: Duration = Duration::from_millis(20);

/// Spreads bytes over time, for all who share it.
#[derive(Debug)]
pub(super) struct Pace {
    bytes_per_second: Option<u64>,
    /// When everything that was let go is paid for.
    paid_at: Mutex<Option<Instant>>,
}

impl Pace {
    pub(super) fn new(bytes_per_second: Option<u64>) -> Self {
        Self {
            bytes_per_second: bytes_per_second.map(|rate| rate.max(1)),
            paid_at: Mutex::default(),
        }
    }

    /// Waits until so many bytes may go.
    pub(super) async fn wait(&self, bytes: usize) {
        if let Some(at) = self.take(bytes, Instant::now()) {
            tokio::time::sleep_until(at).await;
        }
    }

    /// Takes the turn of so many bytes; when it is, if it is not now.
    fn take(&self, bytes: usize, now: Instant) -> Option<Instant> {
        let rate = self.bytes_per_second?;
        let costs = Duration::from_secs_f64(bytes as f64 / rate as f64);
        // A few operations on a moment; never held across an await.
        let mut paid_at = self.paid_at.lock().unwrap_or_else(PoisonError::into_inner);
        let earliest = now.checked_sub(SLACK).unwrap_or(now);
        let begin = paid_at.unwrap_or(earliest).max(earliest);
        *paid_at = Some(begin + costs);
        (begin > now).then_some(begin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_spread_and_a_pause_is_not_made_up_for() {
        let pace = Pace::new(Some(1000));
        let now = Instant::now();
        assert_eq!(pace.take(100, now), None, "the first goes at once");
        assert_eq!(pace.take(100, now), Some(now + Duration::from_millis(80)));
        assert_eq!(pace.take(100, now), Some(now + Duration::from_millis(180)));
        let later = now + Duration::from_secs(60);
        assert_eq!(pace.take(100, later), None);
        assert_eq!(pace.take(100, later), Some(later + Duration::from_millis(80)));
        assert_eq!(Pace::new(None).take(usize::MAX, now), None);
    }
}
