//! A digest of a set of pairs that can be kept up to date pair by pair.

/// The sum, modulo 2^256, of the hashes of all pairs of a table. The order does not matter, and a pair that goes is
/// subtracted; so it is kept up to date at the cost of the pairs that change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Digest {
    limbs: [u64; 4],
}

impl Digest {
    pub(super) fn from_bytes(bytes: [u8; 32]) -> Self {
        let limb = |at: usize| {
            u64::from_le_bytes(bytes[8 * at..8 * at + 8].try_into().expect("eight bytes"))
        };
        Self { limbs: [limb(0), limb(1), limb(2), limb(3)] }
    }

    pub(super) fn to_bytes(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for (to, limb) in bytes.chunks_exact_mut(8).zip(self.limbs) {
            to.copy_from_slice(&limb.to_le_bytes());
        }
        bytes
    }

    pub(super) fn add(&mut self, key: &[u8], value: &[u8]) {
        let mut carry = false;
        for (limb, more) in self.limbs.iter_mut().zip(pair(key, value).limbs) {
            let (sum, over) = limb.overflowing_add(more);
            let (sum, over_again) = sum.overflowing_add(u64::from(carry));
            *limb = sum;
            carry = over || over_again;
        }
    }

    pub(super) fn subtract(&mut self, key: &[u8], value: &[u8]) {
        let mut borrow = false;
        for (limb, less) in self.limbs.iter_mut().zip(pair(key, value).limbs) {
            let (rest, under) = limb.overflowing_sub(less);
            let (rest, under_again) = rest.overflowing_sub(u64::from(borrow));
            *limb = rest;
            borrow = under || under_again;
        }
    }
}

/// The length of the key comes first, so that no two pairs hash the same bytes.
fn pair(key: &[u8], value: &[u8]) -> Digest {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(key.len() as u64).to_le_bytes());
    hasher.update(key);
    hasher.update(value);
    Digest::from_bytes(*hasher.finalize().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_does_not_matter_and_what_goes_is_subtracted() {
        let mut one = Digest::default();
        for number in 0..100_u32 {
            one.add(&number.to_le_bytes(), b"x");
        }
        let mut other = Digest::default();
        other.add(b"gone", b"y");
        for number in (0..100_u32).rev() {
            other.add(&number.to_le_bytes(), b"x");
        }
        assert_ne!(one, other);
        other.subtract(b"gone", b"y");
        assert_eq!(one, other);
        assert_eq!(Digest::from_bytes(one.to_bytes()), one);
    }

    #[test]
    fn a_key_and_its_value_are_told_apart() {
        let (mut one, mut other) = (Digest::default(), Digest::default());
        one.add(b"ab", b"c");
        other.add(b"a", b"bc");
        assert_ne!(one, other);
    }
}
