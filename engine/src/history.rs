//! Hashes that tell whether two nodes have lived through the same.

use quorate_replicator::{Frame, FrameId, LogTime, Outcomes, Rejection};
use quorate_storage::Index;

use crate::engine::StateHash;
use crate::verdict::Verdict;

/// What tells a repeated frame from another one that took its id: a hash of shard, payload and validity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PayloadHash([u8; 16]);

/// Length of the shard key, and the validity.
const FRONT_BYTES: usize = 17;

/// Frames up to this many bytes are hashed in one piece.
const GATHERED_BYTES_MAX: usize = 512;

impl PayloadHash {
    /// The hash of what `frame` asks for; its id and what it settles are not part of it.
    pub fn of(frame: &Frame) -> Self {
        let shard = frame.shard.as_str().as_bytes();
        // A shard key is at most a few hundred bytes; its length tells where the payload begins.
        let mut front = [0; FRONT_BYTES];
        front[..8].copy_from_slice(&(shard.len() as u64).to_le_bytes());
        if let Some(until) = frame.valid_until {
            front[8] = 1;
            front[9..].copy_from_slice(&until.as_ms().to_le_bytes());
        }
        let parts = [&front[..], shard, &frame.payload];
        let length = parts.iter().map(|part| part.len()).sum();
        let mut gathered = [0; GATHERED_BYTES_MAX];
        let hash = match gathered.get_mut(..length) {
            // One call on one piece is twice as fast for small frames as a hasher that is fed three.
            Some(gathered) => {
                let (first, rest) = gathered.split_at_mut(FRONT_BYTES);
                let (second, third) = rest.split_at_mut(shard.len());
                first.copy_from_slice(parts[0]);
                second.copy_from_slice(parts[1]);
                third.copy_from_slice(parts[2]);
                blake3::hash(gathered)
            }
            None => {
                let mut hasher = blake3::Hasher::new();
                parts.iter().for_each(|part| {
                    hasher.update(part);
                });
                hasher.finalize()
            }
        };
        Self(hash.as_bytes()[..16].try_into().expect("a hash has 32 bytes"))
    }

    /// The bytes, for encodings.
    pub(crate) const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// The hash with these bytes.
    pub(crate) const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

/// The history of a group: H(i) = BLAKE3(H(i-1), position, log time, ids, verdicts, replies, changes).
#[derive(Debug)]
pub(crate) struct History {
    hash: StateHash,
    index: Index,
    /// The hashes of the newest indexes, to compare with what others say of them.
    recent: std::collections::VecDeque<(Index, StateHash)>,
    scratch: Vec<u8>,
}

/// How many indexes a proposer may be behind and still be compared with.
const RECENT_MAX: usize = 256;

impl History {
    /// Goes on after `index`.
    pub(crate) fn new(index: Index, hash: StateHash) -> Self {
        Self { hash, index, recent: [(index, hash)].into(), scratch: Vec::new() }
    }

    /// The hash of everything so far.
    pub(crate) const fn hash(&self) -> StateHash {
        self.hash
    }

    /// The last index in it.
    pub(crate) const fn index(&self) -> Index {
        self.index
    }

    /// The hash at `index`, if it is kept.
    pub(crate) fn at(&self, index: Index) -> Option<StateHash> {
        let first = self.recent.front()?.0;
        let place = usize::try_from(index.checked_sub(first)?).ok()?;
        let (found, hash) = self.recent.get(place)?;
        debug_assert_eq!(*found, index, "indexes are gap-free");
        Some(*hash)
    }

    /// Adds one batch.
    pub(crate) fn extend<'a>(
        &mut self,
        epoch: u32,
        index: Index,
        log_time: LogTime,
        verdicts: impl Iterator<Item = (FrameId, &'a Verdict)>,
        outcomes: &Outcomes,
    ) {
        assert_eq!(index, self.index + 1, "history has no gaps");
        let scratch = &mut self.scratch;
        scratch.clear();
        scratch.extend_from_slice(&self.hash);
        scratch.extend_from_slice(&epoch.to_le_bytes());
        scratch.extend_from_slice(&index.to_le_bytes());
        scratch.extend_from_slice(&log_time.as_ms().to_le_bytes());
        for (id, verdict) in verdicts {
            scratch.extend_from_slice(id.session.as_bytes());
            scratch.extend_from_slice(&id.serial.to_le_bytes());
            scratch.push(verdict.code());
            if let Verdict::Rejected(Rejection::Refused { reason }) = verdict {
                scratch.extend_from_slice(&(reason.len() as u64).to_le_bytes());
                scratch.extend_from_slice(reason.as_bytes());
            }
        }
        for reply in outcomes.replies() {
            scratch.extend_from_slice(&(reply.len() as u64).to_le_bytes());
            scratch.extend_from_slice(reply);
        }
        scratch.extend_from_slice(outcomes.changes());
        self.hash = *blake3::hash(scratch).as_bytes();
        self.index = index;
        if self.recent.len() == RECENT_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back((index, self.hash));
    }
}

#[cfg(test)]
mod tests {
    use quorate_replicator::{SessionId, ShardKey};

    use super::*;

    #[test]
    fn every_part_of_what_is_asked_for_counts_and_the_id_does_not() {
        let shard = |namespace| ShardKey::new("org", namespace).unwrap();
        let frame = |serial, namespace, payload: &[u8]| {
            let id = FrameId { session: SessionId::new([1; 16]), serial };
            Frame::new(id, shard(namespace), payload.to_vec())
        };
        let base = PayloadHash::of(&frame(1, "ns", b"abc"));
        assert_eq!(base, PayloadHash::of(&Frame { settled: 1, ..frame(2, "ns", b"abc") }));
        for other in [
            frame(1, "ns", b"abd"),
            // The same bytes, cut at another place.
            frame(1, "nsa", b"bc"),
            Frame { valid_until: Some(LogTime::ZERO), ..frame(1, "ns", b"abc") },
        ] {
            assert_ne!(base, PayloadHash::of(&other));
        }
    }

    #[test]
    fn small_and_large_frames_are_hashed_alike() {
        // The length decides how a frame is hashed, never what comes out.
        for length in [0, 488, 489, 490, 491, 5000] {
            let payload: Vec<u8> = (0..length).map(|byte| byte as u8).collect();
            let id = FrameId { session: SessionId::new([1; 16]), serial: 1 };
            let frame = Frame::new(id, ShardKey::new("o", "ns").unwrap(), payload.clone());
            let mut all = vec![0; FRONT_BYTES];
            all[0] = 4;
            all.extend_from_slice(b"o/ns");
            all.extend_from_slice(&payload);
            assert_eq!(PayloadHash::of(&frame).0, blake3::hash(&all).as_bytes()[..16]);
        }
    }
}
