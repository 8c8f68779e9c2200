//! The newest decided batches with what proves that they were decided, for callers who do not believe this node.
//!
//! A proof may become durable after what it proves, so that the log does not have that of the newest batch yet.

use std::collections::VecDeque;

use bytes::Bytes;
use quorate_replicator::DecidedBatch;
use quorate_storage::{Body, Entry, Index};

/// Most bytes of batches that are kept; the newest one is kept whatever it has.
const RECENT_BYTES_MAX: usize = 4 << 20;

/// Most batches that are kept.
const RECENT_MAX: usize = 256;

/// What a group has of a decided batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProvedBatch {
    /// The batch and its proof.
    Here(DecidedBatch),
    /// It is in the log, with its proof if it has one.
    InLog,
    /// Nothing, in words.
    Nothing(String),
}

#[derive(Debug, Default)]
pub(crate) struct Proved {
    recent: VecDeque<(Entry, Bytes)>,
    bytes: usize,
}

impl Proved {
    /// A batch was delivered. Without a proof there is nothing to keep.
    pub(crate) fn delivered(&mut self, entry: Entry, proof: Bytes) {
        if proof.is_empty() {
            return;
        }
        self.bytes += size(&entry, &proof);
        self.recent.push_back((entry, proof));
        while self.bytes > RECENT_BYTES_MAX || self.recent.len() > RECENT_MAX {
            if !self.drop_oldest() {
                break;
            }
        }
    }

    fn drop_oldest(&mut self) -> bool {
        if self.recent.len() < 2 {
            return false;
        }
        let oldest = self.recent.pop_front();
        self.bytes -= oldest.map_or(0, |(entry, proof)| size(&entry, &proof));
        true
    }

    pub(crate) fn get(&self, index: Index) -> Option<DecidedBatch> {
        let first = self.recent.front()?.0.index;
        let place = usize::try_from(index.checked_sub(first)?).ok()?;
        let (entry, proof) = self.recent.get(place).filter(|(entry, _)| entry.index == index)?;
        let (head, body, proof) = (entry.head.clone(), body(entry), proof.clone());
        Some(DecidedBatch { head, body, proof })
    }

    /// A snapshot took the place of batches that were never delivered here.
    pub(crate) fn gap(&mut self) {
        *self = Self::default();
    }

    /// The group has nothing to do. The log may still lack the newest proof.
    pub(crate) fn rest(&mut self) {
        while self.drop_oldest() {}
        self.recent.shrink_to_fit();
    }
}

fn size(entry: &Entry, proof: &Bytes) -> usize {
    entry.head.len() + body(entry).len() + proof.len()
}

/// The bytes that an entry carries.
fn body(entry: &Entry) -> Bytes {
    match &entry.body {
        Body::Empty => Bytes::new(),
        Body::Frames(body) | Body::Members(body) => body.clone(),
    }
}

#[cfg(test)]
mod tests {
    use quorate_storage::Tag;

    use super::*;

    fn entry(index: Index, bytes: usize) -> Entry {
        let body = Body::Frames(vec![7; bytes].into());
        Entry { index, tag: Tag([0; 32]), head: Bytes::new(), body }
    }

    fn kept(proved: &Proved) -> Vec<Index> {
        (0..2000).filter(|index| proved.get(*index).is_some()).collect()
    }

    #[test]
    fn the_newest_are_kept_within_the_bounds() {
        let proof = Bytes::from_static(b"proof");
        let mut proved = Proved::default();
        for index in 1..=1000 {
            proved.delivered(entry(index, 10), proof.clone());
        }
        assert_eq!(kept(&proved), (745..=1000).collect::<Vec<_>>());
        for index in 1001..=1005 {
            proved.delivered(entry(index, 1 << 20), proof.clone());
        }
        assert_eq!(kept(&proved), [1003, 1004, 1005]);
        proved.delivered(entry(1006, RECENT_BYTES_MAX + 1), proof.clone());
        assert_eq!(kept(&proved), [1006]);
        proved.delivered(entry(1007, 1), proof);
        proved.rest();
        assert_eq!((kept(&proved), proved.bytes), (vec![1007], 6));
    }

    #[test]
    fn what_has_no_proof_is_not_kept() {
        let mut proved = Proved::default();
        proved.delivered(entry(1, 10), Bytes::new());
        assert_eq!((kept(&proved), proved.bytes), (vec![], 0));
    }
}
