//! A proposer's estimate of log time.

use std::time::Duration;

use quorate_replicator::LogTime;

use crate::engine::Now;

/// Estimates log time between batches: the last one known, and the monotonic time since.
///
/// A batch that this node stamped moves the estimate when it is stamped, not when it comes back applied; otherwise log
/// time would lose the latency of each batch and stand still under load.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogClock {
    known: LogTime,
    at: Now,
}

impl LogClock {
    pub(crate) const fn new(known: LogTime, at: Now) -> Self {
        Self { known, at }
    }

    /// Log time at `now`.
    pub(crate) fn estimate(&self, now: Now) -> LogTime {
        let since = now.saturating_sub(self.at).as_millis();
        self.known.plus_ms(u64::try_from(since).unwrap_or(u64::MAX))
    }

    /// Log time is known to have been at least this at `now`: a batch that has it was applied, or others say so who are believed.
    pub(crate) fn observe(&mut self, log_time: LogTime, now: Now) {
        if log_time > self.estimate(now) {
            *self = Self { known: log_time, at: now };
        }
    }

    /// How long from `now` until the estimate reaches `log_time`.
    pub(crate) fn until(&self, log_time: LogTime, now: Now) -> Duration {
        Duration::from_millis(log_time.as_ms().saturating_sub(self.estimate(now).as_ms()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_estimate_never_goes_back_and_keeps_pace() {
        let ms = Duration::from_millis;
        let mut clock = LogClock::new(LogTime::from_ms(100), ms(5));
        assert_eq!(clock.estimate(ms(15)), LogTime::from_ms(110));
        // A batch that was stamped at 110 comes back 40 ms later: the latency is not lost.
        clock.observe(LogTime::from_ms(110), ms(55));
        assert_eq!(clock.estimate(ms(55)), LogTime::from_ms(150));
        // Another node is ahead.
        clock.observe(LogTime::from_ms(400), ms(60));
        assert_eq!(clock.estimate(ms(61)), LogTime::from_ms(401));
        assert_eq!(clock.until(LogTime::from_ms(411), ms(61)), ms(10));
        assert_eq!(clock.until(LogTime::from_ms(1), ms(61)), ms(0));
    }
}
