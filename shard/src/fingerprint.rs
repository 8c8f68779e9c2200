//! A short word for what was written, by which nodes find that they differ.

/// A hash of byte strings that is the same on every machine. It is no defence against an attacker: what was
/// written follows from frames that the cluster agreed on, and a state that differs by accident does not collide
/// by intent.
#[derive(Debug)]
pub(crate) struct Fingerprint(u64);

/// An odd number without pattern: the golden ratio's fraction.
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

impl Fingerprint {
    pub(crate) fn new() -> Self {
        Self(MULTIPLIER)
    }

    /// Adds one string; its length is part of it.
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.fold(bytes.len() as u64);
        let (words, rest) = bytes.as_chunks::<8>();
        words.iter().for_each(|word| self.fold(u64::from_le_bytes(*word)));
        if !rest.is_empty() {
            let mut word = [0; 8];
            word[..rest.len()].copy_from_slice(rest);
            self.fold(u64::from_le_bytes(word));
        }
    }

    pub(crate) fn finish(self) -> u64 {
        self.0
    }

    fn fold(&mut self, word: u64) {
        // The product is folded so that high bits reach the low ones.
        let product = u128::from(self.0 ^ word) * u128::from(MULTIPLIER);
        self.0 = (product as u64 ^ (product >> 64) as u64).wrapping_add(MULTIPLIER);
    }
}
