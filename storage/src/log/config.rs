//! What can be said about a log.

use super::format::{MIN_SEGMENT_BYTES, SEGMENT_BYTES_MAX};

/// What can be said about a log. All sizes are in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogConfig {
    /// Length of a segment file, a multiple of 512 from 16 KiB to 1 GiB. Larger segments are changed less often and
    /// hold more dead records; a segment bounds the largest record. 64 MiB unless told.
    pub segment_bytes: u64,
    /// How much of the newest records stays in memory for readers. What is older is read from disk. 32 MiB unless told.
    pub tail_cache_bytes: usize,
    /// About how many bytes become durable with one sync; more waits for the next. A single larger record has
    /// a block of its own. 8 MiB unless told.
    pub block_bytes_max: usize,
    /// How many empty segments are kept ready, the last of which is the reserve for a full disk; at least one. 2 unless
    /// told.
    pub spares: usize,
    /// How much of a new segment is filled and synced in one step of maintenance: more is faster, less disturbs commits
    /// less. 1 MiB unless told.
    pub fill_bytes: usize,
    /// How many bytes of segments may be held back by groups that do not trim. Beyond it what is still needed of the
    /// oldest segment is copied forward. 1 GiB unless told.
    pub pinned_bytes_max: u64,
    /// How many bytes may wait in a [`LogThread`](super::LogThread) before it is overloaded. 64 MiB unless told.
    pub queue_bytes_max: usize,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            tail_cache_bytes: 32 << 20,
            block_bytes_max: 8 << 20,
            spares: 2,
            fill_bytes: 1 << 20,
            pinned_bytes_max: 1 << 30,
            queue_bytes_max: 64 << 20,
        }
    }
}

impl LogConfig {
    /// Small segments, so that a test of a few hundred records sees them rotate.
    pub fn small() -> Self {
        Self {
            segment_bytes: 32 << 10,
            tail_cache_bytes: 8 << 10,
            block_bytes_max: 8 << 10,
            fill_bytes: 16 << 10,
            pinned_bytes_max: 8 * (32 << 10),
            queue_bytes_max: 256 << 10,
            spares: 2,
        }
    }

    /// What is wrong with it, if anything.
    pub(super) fn check(&self) -> Result<(), String> {
        let bytes = self.segment_bytes;
        if !(MIN_SEGMENT_BYTES..=SEGMENT_BYTES_MAX).contains(&bytes) || !bytes.is_multiple_of(512) {
            return Err(format!(
                "segment_bytes is {bytes}: choose a multiple of 512 from {MIN_SEGMENT_BYTES} to \
                 {SEGMENT_BYTES_MAX}"
            ));
        }
        if self.spares == 0 {
            return Err("spares is 0: keep at least one, the reserve for a full disk".to_owned());
        }
        if self.block_bytes_max < 4096 || self.block_bytes_max as u64 > bytes / 2 {
            return Err(format!(
                "block_bytes_max is {}: choose from 4096 to half of segment_bytes, {}",
                self.block_bytes_max,
                bytes / 2
            ));
        }
        if self.queue_bytes_max < 2 * self.block_bytes_max {
            return Err(format!(
                "queue_bytes_max is {}: choose at least twice block_bytes_max, {}",
                self.queue_bytes_max,
                2 * self.block_bytes_max
            ));
        }
        if self.fill_bytes < 4096 {
            return Err(format!("fill_bytes is {}: choose at least 4096", self.fill_bytes));
        }
        Ok(())
    }
}
