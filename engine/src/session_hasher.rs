//! Where a session stands in the table: a hash for ids of 16 bytes.

use std::hash::{BuildHasher, Hasher, RandomState};

/// Builds hashers with a random key of this process, so that nobody can choose ids that all stand in one place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SessionHash(u64, u64);

impl Default for SessionHash {
    fn default() -> Self {
        let random = || RandomState::new().build_hasher().finish();
        // Odd, so that no part of an id is multiplied away.
        Self(random(), random() | 1)
    }
}

impl BuildHasher for SessionHash {
    type Hasher = SessionHasher;

    fn build_hasher(&self) -> SessionHasher {
        SessionHasher { state: self.0, key: self.1 }
    }
}

/// Multiplies each 8 bytes to 128 bits and folds them: two multiplications for an id, where the standard hash takes
/// ten times as long.
#[derive(Debug)]
pub(crate) struct SessionHasher {
    state: u64,
    key: u64,
}

impl Hasher for SessionHasher {
    fn write(&mut self, bytes: &[u8]) {
        for piece in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..piece.len()].copy_from_slice(piece);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u64(&mut self, word: u64) {
        let product = u128::from(self.state ^ word) * u128::from(self.key);
        self.state = (product as u64) ^ ((product >> 64) as u64).rotate_left(23);
    }

    fn write_usize(&mut self, _: usize) {
        // The length in front of an array, which is the same for all ids.
    }

    fn finish(&self) -> u64 {
        self.state
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use quorate_replicator::SessionId;

    use super::*;

    #[test]
    fn ids_that_differ_in_few_bits_stand_in_different_places() {
        let hash = SessionHash::default();
        let mut whole = HashSet::new();
        let mut low = HashSet::new();
        let mut high = HashSet::new();
        let ids = 1 << 14;
        for number in 0..ids {
            let mut id = [0; 16];
            // In turn at either end, as counters or as random ids would differ.
            let at = if number % 2 == 0 { 0 } else { 8 };
            id[at..at + 8].copy_from_slice(&u64::to_be_bytes(number));
            let hash = hash.hash_one(SessionId::new(id));
            whole.insert(hash);
            low.insert(hash & 0xffff);
            high.insert(hash >> 57);
        }
        assert_eq!(whole.len() as u64, ids, "no two ids have the same hash");
        // 16 Ki ids in 64 Ki places fill about 14,500 of them.
        assert!(low.len() > 12_000, "{} of the places of a table are used", low.len());
        assert_eq!(high.len(), 128, "all tags of a table are used");
    }
}
