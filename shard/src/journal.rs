//! What changed since the last checkpoint, kept so that beginning the next one takes constant time.
//!
//! Every row, change and shard head carries a [`Mark`]: where in the journal it stands. A row that is written again
//! before the next checkpoint overwrites its own entry, so the journal never holds more entries than there are rows
//! now and were at the last checkpoint, however long no checkpoint is made. Rows are shared, not copied.

use std::sync::Arc;

use bytes::Bytes;
use quorate_replicator::{CheckpointPairs, Pair};

use crate::changes::Change;
use crate::key::Key;
use crate::layout;
use crate::row::Row;
use crate::shard::{Head, Shard};

/// Where something stands in the journal, and whether it is in a checkpoint.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    slot: u32,
    generation: u32,
}

impl Mark {
    /// In no journal and in no checkpoint.
    pub(crate) const NEW: Self = Self { slot: 0, generation: 0 };
    /// In the checkpoint that was restored.
    pub(crate) const RESTORED: Self = Self { slot: 0, generation: 1 };

    /// Whether an earlier journal held it, so that the checkpoint does.
    fn in_checkpoint(self) -> bool {
        self.generation != Self::NEW.generation
    }
}

const FIRST_GENERATION: u32 = 2;

#[derive(Debug)]
pub(crate) struct Journal {
    generation: u32,
    rows: Slots<RowEntry>,
    changes: Slots<ChangeEntry>,
    heads: Slots<HeadEntry>,
    /// What the last checkpoint holds and is gone, each key once. It comes before everything else in the
    /// checkpoint, since a key that is gone may have come back.
    removed: Slots<Removed>,
}

#[derive(Debug)]
struct RowEntry {
    shard: Arc<Shard>,
    key: Key,
    row: Row,
    table: u8,
    /// The last checkpoint holds the key, and it was not removed since.
    in_checkpoint: bool,
}

#[derive(Debug)]
struct ChangeEntry {
    shard: Arc<Shard>,
    number: u64,
    change: Change,
}

#[derive(Debug)]
struct HeadEntry {
    shard: Arc<Shard>,
    head: Head,
}

#[derive(Debug)]
enum Removed {
    Row { shard: Arc<Shard>, table: u8, key: Key },
    Change { shard: Arc<Shard>, number: u64 },
}

impl Journal {
    pub(crate) fn new() -> Self {
        Self::of(FIRST_GENERATION)
    }

    fn of(generation: u32) -> Self {
        Self {
            generation,
            rows: Slots::default(),
            changes: Slots::default(),
            heads: Slots::default(),
            removed: Slots::default(),
        }
    }

    /// Takes everything, and begins anew; what it holds counts as in a checkpoint from then on.
    pub(crate) fn take(&mut self) -> Self {
        let next = self.generation.checked_add(1).expect("fewer than 2^32 checkpoints are made");
        std::mem::replace(self, Self::of(next))
    }

    /// `key` has `row`.
    pub(crate) fn put_row(
        &mut self,
        mark: &mut Mark,
        shard: &Arc<Shard>,
        table: u8,
        key: &Key,
        row: &Row,
    ) {
        if mark.generation == self.generation {
            self.rows.get_mut(mark.slot).row = row.clone();
            return;
        }
        let slot = self.rows.insert(RowEntry {
            shard: Arc::clone(shard),
            key: key.clone(),
            row: row.clone(),
            table,
            in_checkpoint: mark.in_checkpoint(),
        });
        *mark = Mark { slot, generation: self.generation };
    }

    /// The row with this mark is gone.
    pub(crate) fn remove_row(&mut self, mark: Mark, shard: &Arc<Shard>, table: u8, key: Key) {
        let in_checkpoint = if mark.generation == self.generation {
            self.rows.remove(mark.slot).in_checkpoint
        } else {
            mark.in_checkpoint()
        };
        #[cfg(quorate_planted)]
        let in_checkpoint = in_checkpoint && !quorate_planted::Bug::ChangeNotStored.is_planted();
        if in_checkpoint {
            self.removed.insert(Removed::Row { shard: Arc::clone(shard), table, key });
        }
    }

    /// A change was put on the list under its number.
    pub(crate) fn put_change(&mut self, shard: &Arc<Shard>, number: u64, change: &mut Change) {
        assert!(!change.mark.in_checkpoint(), "a change is put on the list once");
        let mut mark = Mark { slot: 0, generation: self.generation };
        mark.slot = self.changes.insert(ChangeEntry {
            shard: Arc::clone(shard),
            number,
            change: change.clone(),
        });
        change.mark = mark;
    }

    /// A change was dropped from the list.
    pub(crate) fn remove_change(&mut self, shard: &Arc<Shard>, number: u64, change: &Change) {
        if change.mark.generation == self.generation {
            self.changes.remove(change.mark.slot);
        } else {
            self.removed.insert(Removed::Change { shard: Arc::clone(shard), number });
        }
    }

    /// The head of a shard changed.
    pub(crate) fn put_head(&mut self, mark: &mut Mark, shard: &Arc<Shard>, head: Head) {
        if mark.generation == self.generation {
            self.heads.get_mut(mark.slot).head = head;
        } else {
            let slot = self.heads.insert(HeadEntry { shard: Arc::clone(shard), head });
            *mark = Mark { slot, generation: self.generation };
        }
    }

    /// The checkpoint, encoded pair by pair as it is read.
    pub(crate) fn into_pairs(self) -> CheckpointPairs {
        let format = std::iter::once(layout::format_pair());
        let removed = self.removed.into_iter().map(|removed| match removed {
            Removed::Row { shard, table, key } => {
                Pair::remove(layout::row_key(shard.key(), table, key.as_slice()))
            }
            Removed::Change { shard, number } => {
                Pair::remove(layout::change_key(shard.key(), number))
            }
        });
        let rows = self.rows.into_iter().map(|entry| {
            let key = layout::row_key(entry.shard.key(), entry.table, entry.key.as_slice());
            Pair::put(key, entry.row.stored())
        });
        let changes = self.changes.into_iter().map(|entry| {
            let key = layout::change_key(entry.shard.key(), entry.number);
            Pair::put(key, Bytes::from(layout::encode_change(&entry.change)))
        });
        let heads = self.heads.into_iter().map(|entry| {
            let key = layout::head_key(entry.shard.key());
            Pair::put(key, Bytes::from(layout::encode_head(&entry.head)))
        });
        Box::new(format.chain(removed).chain(rows).chain(changes).chain(heads))
    }

    /// How many entries it holds, for the test of its bound.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        [self.rows.len, self.changes.len, self.heads.len, self.removed.len].iter().sum()
    }
}

/// Entries that keep their place. They stand in pieces of a fixed size, so that growing moves none of them: one
/// large vector would stop applying for as long as it takes to copy it.
#[derive(Debug)]
struct Slots<T> {
    pieces: Vec<Vec<Option<T>>>,
    free: Vec<u32>,
    len: usize,
}

const PIECE: usize = 1024;

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self { pieces: Vec::new(), free: Vec::new(), len: 0 }
    }
}

impl<T> Slots<T> {
    fn insert(&mut self, entry: T) -> u32 {
        self.len += 1;
        if let Some(slot) = self.free.pop() {
            let before = self.slot(slot).replace(entry);
            assert!(before.is_none(), "a free slot of the journal holds nothing");
            return slot;
        }
        if self.pieces.last().is_none_or(|piece| piece.len() == PIECE) {
            self.pieces.push(Vec::with_capacity(PIECE));
        }
        let first = (self.pieces.len() - 1) * PIECE;
        let piece = self.pieces.last_mut().expect("one was added if there was none");
        piece.push(Some(entry));
        u32::try_from(first + piece.len() - 1).expect("fewer than 2^32 rows fit into memory")
    }

    fn get_mut(&mut self, slot: u32) -> &mut T {
        self.slot(slot).as_mut().expect("a mark points to an entry")
    }

    fn remove(&mut self, slot: u32) -> T {
        self.len -= 1;
        self.free.push(slot);
        self.slot(slot).take().expect("a mark points to an entry")
    }

    fn slot(&mut self, slot: u32) -> &mut Option<T> {
        let slot = slot as usize;
        &mut self.pieces[slot / PIECE][slot % PIECE]
    }

    fn into_iter(self) -> impl Iterator<Item = T> {
        self.pieces.into_iter().flatten().flatten()
    }
}
