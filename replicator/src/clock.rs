//! Time: the log's own, which state machines see, and the monotonic one, which everything else uses.

use std::fmt;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// Milliseconds of service since genesis: the only time that a state machine sees.
///
/// A proposer stamps each batch with the last log time that it applied plus the monotonic time since; applying
/// never lets it go back. Log time stands still while no node runs, and no wall clock enters it, so all nodes
/// agree on what has expired.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LogTime(u64);

impl LogTime {
    /// The moment of genesis.
    pub const ZERO: Self = Self(0);

    /// This many milliseconds after genesis.
    pub const fn from_ms(ms: u64) -> Self {
        Self(ms)
    }

    /// Milliseconds since genesis.
    pub const fn as_ms(self) -> u64 {
        self.0
    }

    /// This moment and `ms` milliseconds more; stays at the end of time rather than wrapping.
    #[must_use]
    pub const fn plus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }
}

impl fmt::Display for LogTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03} s", self.0 / 1000, self.0 % 1000)
    }
}

impl fmt::Debug for LogTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Monotonic time as the rest of the node sees it. Only differences mean something.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// Time since a moment that does not change while the clock exists; never goes back.
    fn now(&self) -> Duration;
}

/// The machine's monotonic clock, counted from when this value was made.
#[derive(Clone, Copy, Debug)]
pub struct MonotonicClock(Instant);

impl MonotonicClock {
    /// A clock that stands at zero now.
    pub fn new() -> Self {
        Self(Instant::now())
    }
}

impl Default for MonotonicClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for MonotonicClock {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}
