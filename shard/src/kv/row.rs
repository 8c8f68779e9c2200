//! How a key's value stands in its row.
//!
//! ```text
//! created u64 LE | modified u64 LE | value
//! ```

use bytes::Bytes;

use crate::row::RowView;

const HEAD_BYTES: usize = 16;

/// A row as the KV wrote it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KvRow<'a> {
    pub(crate) created: u64,
    pub(crate) modified: u64,
    row: RowView<'a>,
}

impl<'a> KvRow<'a> {
    pub(crate) fn of(row: RowView<'a>) -> Self {
        let (numbers, _) = row.bytes().as_chunks::<8>();
        let number = |place: usize| u64::from_le_bytes(numbers[place]);
        Self { created: number(0), modified: number(1), row }
    }

    pub(crate) fn value(self) -> &'a [u8] {
        &self.row.bytes()[HEAD_BYTES..]
    }

    pub(crate) fn to_value(self) -> Bytes {
        self.row.to_bytes().slice(HEAD_BYTES..)
    }

    /// Whether these are the bytes of such a row; a checkpoint may hold others.
    pub(crate) fn fits(bytes: &[u8]) -> bool {
        bytes.len() >= HEAD_BYTES
    }

    pub(crate) fn head(created: u64, modified: u64) -> [u8; HEAD_BYTES] {
        let mut head = [0; HEAD_BYTES];
        head[..8].copy_from_slice(&created.to_le_bytes());
        head[8..].copy_from_slice(&modified.to_le_bytes());
        head
    }
}
