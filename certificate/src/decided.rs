//! A decided batch as it is kept.

/// A decided batch as it is kept: three encodings, none of which is taken for true.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_structs)]
pub struct Decided<'a> {
    /// The encoded [`Header`](crate::Header).
    pub header: &'a [u8],
    /// What it carries.
    pub body: &'a [u8],
    /// The encoded [`Certificate`](crate::Certificate).
    pub certificate: &'a [u8],
}
