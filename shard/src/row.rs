//! A row of a table: bytes that do not change, shared by all who hold them.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use quorate_replicator::LogTime;

/// Bytes in front of what the extension wrote: the deadline, zero if there is none. A deadline is at least one
/// millisecond after genesis, so zero is free.
pub(crate) const HEADER_BYTES: usize = 8;

/// A row as it is kept in the table, in the journal, in the change list and in the checkpoint: one allocation that
/// all of them share.
///
/// It is always a copy of what the frame holds. A slice of the frame would keep the buffer of its whole batch, a
/// mebibyte perhaps, alive for as long as the smallest value in it, and no byte count could be right. A copy costs
/// less than the frame's way through the log did.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Row(Arc<[u8]>);

impl Row {
    /// A row from its header and what the extension wrote.
    pub(crate) fn new(bytes: &[u8]) -> Self {
        assert!(bytes.len() >= HEADER_BYTES, "a row begins with its deadline");
        Self(bytes.into())
    }

    /// The bytes with the header, for the checkpoint; copies nothing.
    pub(crate) fn stored(&self) -> Bytes {
        Bytes::from_owner(Arc::clone(&self.0))
    }

    pub(crate) fn stored_slice(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn view(&self) -> RowView<'_> {
        RowView { row: self }
    }

    pub(crate) fn deadline(&self) -> Option<LogTime> {
        let header = self.0.first_chunk::<HEADER_BYTES>().expect("checked when it was made");
        match u64::from_le_bytes(*header) {
            0 => None,
            ms => Some(LogTime::from_ms(ms)),
        }
    }

    /// What the row counts in bytes, without what it is charged on top.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

impl fmt::Debug for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} until {:?}",
            self.view().bytes().escape_ascii().to_string(),
            self.deadline()
        )
    }
}

/// A row as an extension sees it.
#[derive(Clone, Copy)]
pub struct RowView<'a> {
    row: &'a Row,
}

impl<'a> RowView<'a> {
    /// What the extension wrote.
    pub fn bytes(self) -> &'a [u8] {
        &self.row.0[HEADER_BYTES..]
    }

    /// What the extension wrote, to be kept; copies nothing, and keeps nothing else alive.
    pub fn to_bytes(self) -> Bytes {
        self.row.stored().slice(HEADER_BYTES..)
    }

    /// When the row is due, if ever.
    pub fn deadline(self) -> Option<LogTime> {
        self.row.deadline()
    }
}

impl fmt::Debug for RowView<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.row, f)
    }
}
