//! Keys for tests: the same at each run.

use crate::key::SigningKey;
use crate::scheme::Scheme;

/// The key with this number.
pub(crate) fn key(scheme: Scheme, number: u8) -> SigningKey {
    let seeds = if scheme == Scheme::Hybrid { 64 } else { 32 };
    let bytes = [vec![scheme.code()], vec![number; seeds]].concat();
    SigningKey::from_bytes(&bytes).unwrap()
}
