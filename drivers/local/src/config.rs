//! What can be set about the local driver.

use serde::{Deserialize, Serialize};

/// What can be set about the local driver: `[driver.local]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct LocalConfig {
    /// Batches that may be on their way to the disk at once, from 1 to 64. With 1, a batch gathers while the one
    /// before is written, which makes the largest batches; with 2, gathering overlaps with the writer's hand-over.
    /// More only makes batches smaller.
    pub batches_in_flight: u32,
}

impl Default for LocalConfig {
    fn default() -> Self {
        Self { batches_in_flight: 2 }
    }
}
