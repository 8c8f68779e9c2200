//! One checkpoint, held still for readers.

use std::ops::Bound;

use bytes::Bytes;
use quorate_replicator::{Pinned, Position, ReadError};
use quorate_storage::Pin;

/// A pinned checkpoint and its position.
#[derive(Debug)]
pub(crate) struct HostPinned {
    pub(crate) pin: Pin,
    pub(crate) position: Position,
}

impl Pinned for HostPinned {
    fn position(&self) -> Position {
        self.position
    }

    fn read(
        &self,
        from: Bound<&[u8]>,
        pairs_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, ReadError> {
        self.pin
            .read_machine(from, pairs_max, bytes_max)
            .map_err(|error| ReadError::Checkpoint { problem: error.to_string() })
    }
}
