//! A key of a table, kept in place when it is short.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

/// The longest key that needs no memory of its own: what fits beside a tag in 24 bytes.
const INLINE_BYTES: usize = 22;

/// A key, ordered by its bytes. Always a copy of what the frame holds, so that a key of a few bytes does not keep
/// the buffer of a whole batch alive.
///
/// Short keys stand in the tree itself: finding one then touches the tree's nodes and nothing else, which is most
/// of what a lookup in a large table costs.
#[derive(Clone)]
pub(crate) enum Key {
    Inline { length: u8, bytes: [u8; INLINE_BYTES] },
    Shared(Arc<[u8]>),
}

impl Key {
    pub(crate) fn as_slice(&self) -> &[u8] {
        match self {
            Self::Inline { length, bytes } => &bytes[..usize::from(*length)],
            Self::Shared(bytes) => bytes,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.as_slice().len()
    }
}

impl From<&[u8]> for Key {
    fn from(key: &[u8]) -> Self {
        if key.len() <= INLINE_BYTES {
            let mut bytes = [0; INLINE_BYTES];
            bytes[..key.len()].copy_from_slice(key);
            Self::Inline { length: key.len() as u8, bytes }
        } else {
            Self::Shared(key.into())
        }
    }
}

// Tables are searched by a plain slice, so the order must be that of the slice.
impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        self.as_slice()
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_slice().cmp(other.as_slice())
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl Eq for Key {}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.as_slice().escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_long_keys_are_ordered_as_their_bytes() {
        assert_eq!(size_of::<Key>(), 24);
        let texts: Vec<Vec<u8>> =
            (0..64).flat_map(|length| [vec![b'a'; length], vec![0; length]]).collect();
        for a in &texts {
            assert_eq!(Key::from(&a[..]).as_slice(), &a[..]);
            for b in &texts {
                assert_eq!(Key::from(&a[..]).cmp(&Key::from(&b[..])), a.cmp(b), "{a:?} {b:?}");
            }
        }
    }
}
