//! What can be set about a hub.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::LinkFaults;

/// What can be set about a [`MemoryHub`](crate::MemoryHub).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct HubConfig {
    /// Where all random choices come from.
    pub seed: u64,
    /// What goes wrong on every link that has no faults of its own.
    pub faults: LinkFaults,
    /// Most messages under way to one peer on one channel, those delayed included. More hide a slow receiver for
    /// longer; fewer refuse sooner.
    pub queue_messages_max: usize,
    /// Most bytes under way to one peer on one channel; a single message always fits.
    pub queue_bytes_max: usize,
    /// The size of the pieces of a bulk body. What a cut costs is a few of these; smaller ones cost more time each.
    pub bulk_chunk_bytes: usize,
    /// The pause before a bulk transfer that was cut is tried again; doubles with each attempt in vain.
    #[serde(with = "humantime_serde")]
    pub bulk_pause_min: Duration,
    /// The longest such pause.
    #[serde(with = "humantime_serde")]
    pub bulk_pause_max: Duration,
    /// How long a bulk transfer goes without reaching its receiver before it is given up.
    #[serde(with = "humantime_serde")]
    pub bulk_give_up_after: Duration,
}

impl Default for HubConfig {
    fn default() -> Self {
        Self {
            seed: 0,
            faults: LinkFaults::none(),
            queue_messages_max: 4096,
            queue_bytes_max: 64 << 20,
            bulk_chunk_bytes: 64 << 10,
            bulk_pause_min: Duration::from_millis(10),
            bulk_pause_max: Duration::from_secs(1),
            bulk_give_up_after: Duration::from_secs(30),
        }
    }
}

impl HubConfig {
    /// The defaults with this seed.
    pub fn seeded(seed: u64) -> Self {
        Self { seed, ..Self::default() }
    }
}
