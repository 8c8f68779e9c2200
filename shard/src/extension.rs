//! What a service plugs into a shard.

use std::fmt;
use std::ops::RangeInclusive;

use quorate_replicator::LogTime;

use crate::{Refusal, ShardContext};

/// A service that lives in shards: its kinds of operations, its tables, and what it does when a row is due.
///
/// The shard does the rest for all of them: checkpoints, restore, revisions, the change list, deadlines, limits,
/// and undoing what a refused operation had begun. The [KV](crate::kv) is the first extension.
///
/// # Contract
///
/// - **No state of its own.** Everything it knows is in its tables. A value of this type may hold constants only:
///   it is shared by all shards, and nothing of it is in a checkpoint.
/// - **Deterministic and total**, as [`StateMachine`](quorate_replicator::StateMachine) says.
/// - Numbers of kinds and tables are for ever: they stand in logs and checkpoints.
pub trait Extension: fmt::Debug + Send + Sync + 'static {
    /// A word for messages.
    fn name(&self) -> &'static str;

    /// The kinds of operations that it answers; no two extensions of a machine share one.
    fn kinds(&self) -> RangeInclusive<u16>;

    /// Its tables; no two extensions of a machine share one.
    fn tables(&self) -> &'static [Table];

    /// Carries out one operation and appends its answer to `answer`, which already holds the head of one.
    ///
    /// # Errors
    ///
    /// A refusal undoes everything that this call changed, and is the answer.
    fn apply(
        &self,
        kind: u16,
        body: &[u8],
        context: &mut ShardContext<'_>,
        answer: &mut Vec<u8>,
    ) -> Result<(), Refusal>;

    /// A row is due: its deadline is not after the log time. A row that is still due afterwards is removed, so the
    /// default, which does nothing, lets rows expire.
    ///
    /// This is a mutation like any other: it takes one revision if it changes something, and one for the removal if
    /// it does not.
    fn due(&self, table: u8, key: &[u8], context: &mut ShardContext<'_>) {
        let _ = (table, key, context);
    }

    /// Whether a row of a checkpoint can be one that this extension wrote, so that it may rely on that afterwards.
    ///
    /// # Errors
    ///
    /// Why not: the checkpoint is damaged, or made by a program that could do more than this one.
    fn check_row(&self, table: u8, key: &[u8], row: &[u8]) -> Result<(), String> {
        let _ = (table, key, row);
        Ok(())
    }
}

/// A table of an extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Table {
    /// Its number, 1 to 250; the others are the shard's own.
    pub number: u8,
    /// Whether its changes are put on the change list, to be watched.
    pub watched: bool,
}

impl Table {
    /// A table that nobody can watch.
    pub const fn new(number: u8) -> Self {
        Self { number, watched: false }
    }

    /// A table whose changes are put on the change list.
    pub const fn watched(number: u8) -> Self {
        Self { number, watched: true }
    }
}

/// A row and when it is due, in the order in which due rows are handled on all nodes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Deadline {
    pub(crate) at: LogTime,
    pub(crate) shard: quorate_replicator::ShardKey,
    pub(crate) table: u8,
    pub(crate) key: crate::key::Key,
}
