//! The sender's end.

use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use quorate_replicator::{GroupId, NodeId};
use quorate_storage::Pin;

use super::format::{
    KEY_BYTES_MAX, PAIR_HEAD_BYTES, PIECE_BYTES, PIECE_HEAD_BYTES, PieceHead, Table,
    VALUE_BYTES_MAX, put_pair, snapshot_id,
};
use super::{SnapshotError, SnapshotHead};

/// Where everything of a stream is: its head, and where each piece begins. One key for each MiB; what several receivers
/// are sent, and what is sent again, needs it only once.
#[derive(Debug)]
pub struct SnapshotPlan {
    head: SnapshotHead,
    encoded_head: Bytes,
    pieces: Vec<Piece>,
}

/// A pinned checkpoint as a stream of bytes that can be read from anywhere on.
///
/// Memory holds the piece that was read last; what is read at an offset costs one piece, whatever was read before.
#[derive(Debug)]
pub struct SnapshotSource {
    pin: Pin,
    plan: Arc<SnapshotPlan>,
    /// The piece that was read last: where it begins, and its bytes.
    last: Option<(u64, Bytes)>,
}

/// One piece of the stream.
#[derive(Debug)]
struct Piece {
    /// Where it begins.
    at: u64,
    table: Table,
    pairs: u32,
    /// Of the pairs.
    bytes: usize,
    first_key: Bytes,
}

impl SnapshotPlan {
    /// The plan of what is pinned. Looks at all pairs, without copying them: not for a thread that has something else to do.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::TooLarge`] if a pair is; [`SnapshotError::Store`] if the checkpoint cannot be read.
    pub fn new(group: GroupId, pin: &Pin) -> Result<Self, SnapshotError> {
        let meta = pin.meta();
        let mut head = SnapshotHead {
            group,
            index: meta.index,
            state: meta.state,
            summary: pin.summary(),
            bytes: 0,
            position: meta.position.clone(),
            mark: meta.mark.clone(),
        };
        let mut pieces = Pieces { at: head.encoded_bytes() as u64, ..Pieces::default() };
        pin.look_at_machine(|key, value_bytes| pieces.add(Table::Machine, key, value_bytes))?;
        pin.look_at_host(|key, value_bytes| pieces.add(Table::Host, key, value_bytes))?;
        let (pieces, bytes) = pieces.finish()?;
        head.bytes = bytes;
        let encoded_head = head.encode()?;
        Ok(Self { head, encoded_head, pieces })
    }

    /// What the stream says of itself.
    pub fn head(&self) -> &SnapshotHead {
        &self.head
    }

    /// Names the stream as this node sends it: the same for each attempt, and another one for any other stream.
    pub fn id(&self, sender: NodeId) -> u128 {
        snapshot_id(sender, &self.encoded_head)
    }

    /// The piece that holds an offset; none for the head.
    fn number_at(&self, offset: u64) -> Option<usize> {
        self.pieces.partition_point(|piece| piece.at <= offset).checked_sub(1)
    }

    /// Whether this is the plan of what is pinned.
    pub fn is_of(&self, pin: &Pin) -> bool {
        let SnapshotHead { index, state, summary, position, mark, .. } = &self.head;
        let meta = pin.meta();
        (*index, *state, *summary) == (meta.index, meta.state, pin.summary())
            && (position, mark) == (&meta.position, &meta.mark)
    }
}

impl SnapshotSource {
    /// A stream of what is pinned.
    ///
    /// # Panics
    ///
    /// If `plan` is that of another checkpoint.
    pub fn new(pin: Pin, plan: Arc<SnapshotPlan>) -> Self {
        assert!(plan.is_of(&pin), "a plan is of the checkpoint that is sent");
        Self { pin, plan, last: None }
    }

    /// Where everything of the stream is.
    pub fn plan(&self) -> &SnapshotPlan {
        &self.plan
    }

    /// Bytes from `offset` on: at least one and at most `bytes_max` of them; none at the end, and none if none are asked
    /// for. They may be fewer than there are, and never cross from one piece to the next.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::Store`] if the checkpoint cannot be read.
    pub fn read(&mut self, offset: u64, bytes_max: usize) -> Result<Bytes, SnapshotError> {
        if offset >= self.plan.head.bytes {
            return Ok(Bytes::new());
        }
        if let Some(bytes) = self.at_hand(offset, bytes_max) {
            return Ok(bytes);
        }
        let (at, bytes) = match self.plan.number_at(offset) {
            None => (0, self.plan.encoded_head.clone()),
            Some(number) => self.load(number)?,
        };
        self.last = Some((at, bytes));
        Ok(self.at_hand(offset, bytes_max).expect("an offset in the piece that was loaded"))
    }

    /// As [`read`](Self::read), if nothing has to be read from the disk for it.
    pub fn at_hand(&self, offset: u64, bytes_max: usize) -> Option<Bytes> {
        let (at, bytes) = self.last.as_ref()?;
        let from = usize::try_from(offset.checked_sub(*at)?).ok()?;
        let to = bytes.len().min(from.saturating_add(bytes_max));
        (from < bytes.len()).then(|| bytes.slice(from..to))
    }

    /// Reads a piece; where it begins, and its bytes.
    fn load(&mut self, number: usize) -> Result<(u64, Bytes), SnapshotError> {
        // Let go before the next one is taken.
        self.last = None;
        let Piece { at, table, pairs, bytes, ref first_key } = self.plan.pieces[number];
        let from = Bound::Included(&first_key[..]);
        let found = match table {
            Table::Machine => self.pin.read_machine(from, pairs as usize, usize::MAX)?,
            Table::Host => self.pin.read_host(from, pairs as usize, usize::MAX)?,
        };
        let mut piece = Vec::with_capacity(PIECE_HEAD_BYTES + bytes);
        piece.resize(PIECE_HEAD_BYTES, 0);
        found.iter().for_each(|(key, value)| put_pair(&mut piece, key, value));
        let payload = &piece[PIECE_HEAD_BYTES..];
        assert_eq!(payload.len(), bytes, "what is pinned stays as it is");
        let head = PieceHead::of(table, pairs, payload).encode();
        piece[..PIECE_HEAD_BYTES].copy_from_slice(&head);
        Ok((at, piece.into()))
    }
}

/// Cuts pairs into pieces.
#[derive(Debug, Default)]
struct Pieces {
    done: Vec<Piece>,
    open: Option<Piece>,
    /// Where the next piece begins.
    at: u64,
    failed: Option<SnapshotError>,
}

impl Pieces {
    fn add(&mut self, table: Table, key: &[u8], value_bytes: usize) {
        let sizes =
            [("a key", key.len(), KEY_BYTES_MAX), ("a value", value_bytes, VALUE_BYTES_MAX)];
        for (what, bytes, limit) in sizes {
            if bytes > limit {
                let too_large = || SnapshotError::TooLarge { what, bytes, limit };
                self.failed.get_or_insert_with(too_large);
            }
        }
        if self.open.as_ref().is_some_and(|open| open.table != table || open.bytes >= PIECE_BYTES) {
            self.close();
        }
        let at = self.at;
        let begin =
            || Piece { at, table, pairs: 0, bytes: 0, first_key: Bytes::copy_from_slice(key) };
        let open = self.open.get_or_insert_with(begin);
        open.pairs += 1;
        open.bytes += PAIR_HEAD_BYTES + key.len() + value_bytes;
    }

    fn close(&mut self) {
        if let Some(piece) = self.open.take() {
            self.at += (PIECE_HEAD_BYTES + piece.bytes) as u64;
            self.done.push(piece);
        }
    }

    /// The pieces, and where the last one ends.
    fn finish(mut self) -> Result<(Vec<Piece>, u64), SnapshotError> {
        self.close();
        match self.failed {
            Some(error) => Err(error),
            None => Ok((self.done, self.at)),
        }
    }
}
