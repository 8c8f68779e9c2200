//! Replies as the session table keeps them.

use std::fmt;

use bytes::Bytes;

/// Replies up to this many bytes are copied into the table.
const SMALL_BYTES_MAX: usize = 38;

/// The bytes of a reply. Most are a few numbers: those are kept in place, since sharing them would cost an allocation
/// and two threads' work on one counter for each.
#[derive(Clone)]
pub(crate) struct KeptReply(Kept);

#[derive(Clone)]
enum Kept {
    Small { length: u8, bytes: [u8; SMALL_BYTES_MAX] },
    Shared(Bytes),
}

impl KeptReply {
    pub(crate) fn new(reply: &Bytes) -> Self {
        if reply.len() > SMALL_BYTES_MAX {
            return Self(Kept::Shared(reply.clone()));
        }
        let mut bytes = [0; SMALL_BYTES_MAX];
        bytes[..reply.len()].copy_from_slice(reply);
        let length = u8::try_from(reply.len()).expect("it is small");
        Self(Kept::Small { length, bytes })
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        match &self.0 {
            Kept::Small { length, bytes } => &bytes[..usize::from(*length)],
            Kept::Shared(bytes) => bytes,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.as_slice().len()
    }

    pub(crate) fn to_bytes(&self) -> Bytes {
        match &self.0 {
            Kept::Small { .. } => Bytes::copy_from_slice(self.as_slice()),
            Kept::Shared(bytes) => bytes.clone(),
        }
    }
}

impl fmt::Debug for KeptReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_slice().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_of_any_length_comes_back() {
        for length in [0, 1, SMALL_BYTES_MAX - 1, SMALL_BYTES_MAX, SMALL_BYTES_MAX + 1, 5000] {
            let reply: Bytes = (0..length).map(|byte| byte as u8).collect();
            let kept = KeptReply::new(&reply);
            assert_eq!(kept.len(), length);
            assert_eq!(kept.as_slice(), reply);
            assert_eq!(kept.to_bytes(), reply);
        }
    }
}
