//! When to make a checkpoint, and how much of the log is then free to go.

use std::collections::VecDeque;

use bytes::Bytes;
use quorate_storage::Index;

use crate::config::{CheckpointPolicy, Retain};
use crate::engine::{Now, StateHash};

/// Batches are weighed in pieces of this many bytes: the log is trimmed no finer.
const PIECE_BYTES: u64 = 256 << 10;

#[derive(Debug)]
pub(crate) struct Compaction {
    policy: CheckpointPolicy,
    retain: Retain,
    /// The newest stored checkpoint.
    stored: Index,
    /// The checkpoint that is being stored.
    running: Option<Running>,
    begun_at: Now,
    bytes_since: u64,
    /// The log in pieces: the first index of each, its bytes, and when its last batch was applied.
    pieces: VecDeque<Piece>,
    pieces_bytes: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Running {
    pub(crate) index: Index,
    pub(crate) mark: Bytes,
    pub(crate) state: StateHash,
}

#[derive(Debug)]
struct Piece {
    first: Index,
    bytes: u64,
    last_at: Now,
}

impl Compaction {
    /// Goes on after the stored checkpoint, with a log that begins at `log_first`.
    pub(crate) fn new(
        policy: CheckpointPolicy,
        retain: Retain,
        stored: Index,
        log_first: Index,
        now: Now,
    ) -> Self {
        // How much of the log is from before this start is not known. It counts as one piece, which goes when what came
        // after it is enough.
        let before = Piece { first: log_first, bytes: PIECE_BYTES, last_at: now };
        Self {
            policy,
            retain,
            stored,
            running: None,
            begun_at: now,
            bytes_since: 0,
            pieces: VecDeque::from([before]),
            pieces_bytes: PIECE_BYTES,
        }
    }

    /// The newest stored checkpoint; 0 if there is none.
    pub(crate) const fn stored(&self) -> Index {
        self.stored
    }

    /// Whether checkpoints are stored at all.
    pub(crate) const fn stores(&self) -> bool {
        self.policy.stored
    }

    /// A batch of this many bytes was applied.
    pub(crate) fn applied(&mut self, index: Index, bytes: usize, now: Now) {
        let bytes = bytes as u64;
        self.bytes_since += bytes;
        self.pieces_bytes += bytes;
        match self.pieces.back_mut() {
            Some(piece) if piece.bytes < PIECE_BYTES => {
                piece.bytes += bytes;
                piece.last_at = now;
            }
            _ => self.pieces.push_back(Piece { first: index, bytes, last_at: now }),
        }
    }

    /// Whether it is time for a checkpoint.
    pub(crate) fn is_due(&self, applied: Index, now: Now) -> bool {
        self.running.is_none()
            && applied > self.stored
            && (self.bytes_since >= self.policy.log_bytes
                || self.bytes_since > 0
                    && now.saturating_sub(self.begun_at) >= self.policy.interval)
    }

    /// When a checkpoint is due by time: never for entries without frames alone, so that a group that has nothing keeps no
    /// file.
    pub(crate) fn wake_at(&self, applied: Index) -> Option<Now> {
        (self.running.is_none() && applied > self.stored && self.bytes_since > 0)
            .then(|| self.begun_at + self.policy.interval)
    }

    /// A checkpoint begins.
    pub(crate) fn begin(&mut self, running: Running, now: Now) {
        assert!(self.running.is_none(), "one checkpoint at a time");
        self.running = Some(running);
        self.begun_at = now;
        self.bytes_since = 0;
    }

    /// The running checkpoint is stored; what it was, and the first index that is still needed.
    pub(crate) fn finish(&mut self, index: Index, now: Now) -> (Running, Index) {
        let running = self.running.take().expect("a checkpoint is running");
        assert_eq!(running.index, index, "the checkpoint that is running is stored");
        self.stored = index;
        let below = self.trim_below(now).min(index + 1);
        #[cfg(quorate_planted)]
        let below = match quorate_planted::Bug::TrimmedTooFar.is_planted() {
            true => index + 3,
            false => below,
        };
        (running, below)
    }

    /// A snapshot took the place of everything up to `index`.
    pub(crate) fn installed(&mut self, index: Index, now: Now) {
        self.stored = index;
        self.begun_at = now;
        self.bytes_since = 0;
        self.pieces.clear();
        self.pieces_bytes = 0;
    }

    /// The first index that is kept for subscribers.
    fn trim_below(&mut self, now: Now) -> Index {
        while let Some(oldest) = self.pieces.front()
            && self.pieces.len() > 1
            && self.pieces_bytes - oldest.bytes >= self.retain.bytes
            && now.saturating_sub(oldest.last_at) >= self.retain.age
        {
            self.pieces_bytes -= oldest.bytes;
            self.pieces.pop_front();
        }
        self.pieces.front().map_or(self.stored + 1, |piece| piece.first)
    }
}
