//! The receiver's end.

use bytes::Bytes;
use quorate_replicator::{GroupId, NodeId};
use quorate_storage::{Changes, CheckpointMeta, CheckpointStore, Index, Stage, Staged};

use super::format::{
    PIECE_HEAD_BYTES, PREFIX_BYTES, PieceHead, Table, damaged, snapshot_id, take_pair,
};
use super::{SnapshotError, SnapshotHead};

/// Takes the stream of a [`SnapshotSource`](super::SnapshotSource) in order, and keeps its pairs beside the checkpoint in
/// force. Dropping it gives up what came.
#[derive(Debug)]
pub struct SnapshotSink {
    offered: Offered,
    stage: Stage,
    /// Bytes of the item that has not come whole.
    buffer: Vec<u8>,
    next: Next,
    received: u64,
    head: Option<SnapshotHead>,
    /// The table that pairs come of, and the last key.
    reached: (Table, Option<Bytes>),
    failed: bool,
}

/// What was said of the stream before its first byte.
#[derive(Clone, Copy, Debug)]
struct Offered {
    from: NodeId,
    id: u128,
    group: GroupId,
    index: Index,
    bytes: u64,
}

/// Which item comes next.
#[derive(Clone, Copy, Debug)]
enum Next {
    Prefix,
    /// Of so many bytes with its prefix.
    Head(usize),
    PieceHead,
    Piece(PieceHead),
}

impl SnapshotSink {
    /// Begins to receive what `from` offered: a stream of `bytes` with this id, a snapshot of `group` at `index`. What an
    /// earlier sink left on the disk is removed.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::Store`] if there is no room, or the disk failed.
    pub fn new(
        store: &CheckpointStore,
        from: NodeId,
        id: u128,
        group: GroupId,
        index: Index,
        bytes: u64,
    ) -> Result<Self, SnapshotError> {
        Ok(Self {
            offered: Offered { from, id, group, index, bytes },
            stage: store.stage()?,
            buffer: Vec::new(),
            next: Next::Prefix,
            received: 0,
            head: None,
            reached: (Table::Machine, None),
            failed: false,
        })
    }

    /// How many bytes have been taken. They are in memory or in the stage, and are lost with the process.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// What the stream says of itself, once that has come.
    pub fn head(&self) -> Option<&SnapshotHead> {
        self.head.as_ref()
    }

    /// Takes the next bytes of the stream. Writes to the disk when a piece is complete.
    ///
    /// # Errors
    ///
    /// The stream is not what was offered, or the disk failed; nothing is taken any more.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        if self.failed {
            return Err(SnapshotError::Ended);
        }
        let taken = self.take(bytes);
        self.failed = taken.is_err();
        taken
    }

    fn take(&mut self, mut bytes: &[u8]) -> Result<(), SnapshotError> {
        let Offered { bytes: all, .. } = self.offered;
        if bytes.len() as u64 > all - self.received {
            return Err(damaged(self.received, format!("more than {all} bytes come")));
        }
        while !bytes.is_empty() {
            // Only what has come takes memory, whatever lengths say.
            let (now, rest) = bytes.split_at(bytes.len().min(self.wanted() - self.buffer.len()));
            self.buffer.extend_from_slice(now);
            self.received += now.len() as u64;
            bytes = rest;
            while self.buffer.len() == self.wanted() {
                self.step()?;
            }
        }
        Ok(())
    }

    /// The length of the next item.
    fn wanted(&self) -> usize {
        match self.next {
            Next::Prefix => PREFIX_BYTES,
            Next::Head(bytes) => bytes,
            Next::PieceHead => PIECE_HEAD_BYTES,
            Next::Piece(head) => head.bytes as usize,
        }
    }

    /// Takes the item that has come whole.
    fn step(&mut self) -> Result<(), SnapshotError> {
        let at = self.received;
        self.next = match self.next {
            Next::Prefix => {
                let prefix = self.buffer.first_chunk().expect("the item is whole");
                // The prefix stays: it is part of what the checksum is of.
                Next::Head(PREFIX_BYTES + SnapshotHead::rest_bytes(prefix)?)
            }
            Next::Head(_) => {
                self.take_head()?;
                self.buffer.clear();
                Next::PieceHead
            }
            Next::PieceHead => {
                let head = self.buffer.first_chunk().expect("the item is whole");
                let head = PieceHead::decode(head, at)?;
                if u64::from(head.bytes) > self.offered.bytes - at {
                    return Err(damaged(at, "a piece goes beyond the end"));
                }
                self.buffer.clear();
                Next::Piece(head)
            }
            Next::Piece(head) => {
                let piece = std::mem::take(&mut self.buffer);
                self.take_piece(head, piece.into())?;
                Next::PieceHead
            }
        };
        Ok(())
    }

    fn take_head(&mut self) -> Result<(), SnapshotError> {
        let head = SnapshotHead::decode(&self.buffer)?;
        let Offered { from, id, group, index, bytes } = self.offered;
        let not_offered = |what: String| Err(SnapshotError::NotOffered { what });
        if (head.group, head.index) != (group, index) {
            let found = (head.group, head.index);
            return not_offered(format!(
                "it is of {} at {}, not of {group} at {index}",
                found.0, found.1
            ));
        }
        if head.bytes != bytes {
            return not_offered(format!("it has {} bytes, not {bytes}", head.bytes));
        }
        if snapshot_id(from, &self.buffer) != id {
            return not_offered("its id is another one".to_owned());
        }
        self.head = Some(head);
        Ok(())
    }

    fn take_piece(&mut self, head: PieceHead, mut piece: Bytes) -> Result<(), SnapshotError> {
        let at = self.received;
        if !head.fits(&piece) {
            return Err(damaged(at, "the checksum of a piece is wrong"));
        }
        let (table, last) = &mut self.reached;
        if head.table < *table {
            return Err(damaged(at, "the tables are not in order"));
        }
        if head.table > *table {
            (*table, *last) = (head.table, None);
        }
        let mut pairs = Changes::new();
        while !piece.is_empty() {
            let Some((key, value)) = take_pair(&mut piece) else {
                return Err(damaged(at, "a pair is longer than its piece"));
            };
            if last.as_ref().is_some_and(|last| *last >= key) {
                return Err(damaged(at, "its keys are not in order"));
            }
            *last = Some(key.clone());
            pairs.push((key, Some(value)));
        }
        if pairs.len() != head.pairs as usize {
            return Err(damaged(
                at,
                format!("a piece has {} pairs of {}", pairs.len(), head.pairs),
            ));
        }
        // The last key must not keep the whole piece in memory.
        *last = last.take().map(|last| Bytes::copy_from_slice(&last));
        match head.table {
            Table::Machine => self.stage.put(pairs, Changes::new())?,
            Table::Host => self.stage.put(Changes::new(), pairs)?,
        }
        Ok(())
    }

    /// Compares everything with what the head says, and makes it durable. `log_watermark` is a block of this node's log that is
    /// durable by now.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::Incomplete`] before the last byte; [`SnapshotError::Store`] if the pairs are not those that were sent, or
    /// the disk failed.
    pub fn finish(self, log_watermark: u64) -> Result<Staged, SnapshotError> {
        let Self { offered, stage, buffer, received, head, failed, .. } = self;
        if failed {
            return Err(SnapshotError::Ended);
        }
        let bytes = offered.bytes;
        let Some(head) = head.filter(|_| received == bytes) else {
            return Err(SnapshotError::Incomplete { received, bytes });
        };
        if !buffer.is_empty() {
            return Err(damaged(received, "its last piece is not whole"));
        }
        let SnapshotHead { index, state, summary, position, mark, .. } = head;
        let meta = CheckpointMeta { index, position, mark, state, log_watermark };
        Ok(stage.finish(meta, summary)?)
    }
}
