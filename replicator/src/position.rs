//! Where a frame stands in its group's order, and where a subscriber has got to.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{GroupId, ShardKey};

/// The place of an accepted frame in the order of its group. Never given twice.
///
/// Positions of one group compare by `epoch`, `index`, `slot`: the derived order. Positions of different
/// groups say nothing about which came first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    /// The consensus group.
    pub group: GroupId,
    /// Rises by one at each driver switch or restore.
    pub epoch: u32,
    /// The batch: gap-free from 1 in the group.
    pub index: u64,
    /// The frame in its batch, from 0.
    pub slot: u32,
}

impl Position {
    /// Before the first frame of `group`.
    pub const fn origin(group: GroupId) -> Self {
        Self { group, epoch: 0, index: 0, slot: 0 }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}.{}", self.group, self.epoch, self.index, self.slot)
    }
}

impl fmt::Debug for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// How far a subscriber has got: the last position that it has handled, for each group.
///
/// A group that is not named is read from its beginning. Keep the cursor where the handled frames are kept,
/// and a restart neither repeats nor misses one.
///
/// ```
/// # use quorate_replicator::{Cursor, GroupId, Position};
/// let seen = Position { group: GroupId::new(0), epoch: 0, index: 7, slot: 2 };
/// let cursor = Cursor::after([seen]);
/// assert_eq!(cursor.position(GroupId::new(0)), Some(seen));
/// assert_eq!(Cursor::beginning().position(GroupId::new(0)), None);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    from_now: bool,
    seen: BTreeMap<GroupId, Position>,
}

impl Cursor {
    /// From the first accepted frame of every group.
    pub fn beginning() -> Self {
        Self::default()
    }

    /// From the first frame that is applied on the serving node after the subscription began.
    pub fn now() -> Self {
        Self { from_now: true, seen: BTreeMap::new() }
    }

    /// From the first frame after each of these positions; one for each group.
    pub fn after(positions: impl IntoIterator<Item = Position>) -> Self {
        let mut cursor = Self::default();
        positions.into_iter().for_each(|position| cursor.advance(position));
        cursor
    }

    /// Whether groups without a position begin at the present instead of the beginning.
    pub fn is_from_now(&self) -> bool {
        self.from_now
    }

    /// The last handled position of `group`.
    pub fn position(&self, group: GroupId) -> Option<Position> {
        self.seen.get(&group).copied()
    }

    /// Notes that everything up to `position` in its group has been handled; never goes back.
    pub fn advance(&mut self, position: Position) {
        let seen = self.seen.entry(position.group).or_insert(position);
        *seen = position.max(*seen);
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.from_now, self.seen.is_empty()) {
            (true, true) => f.write_str("now"),
            (false, true) => f.write_str("beginning"),
            _ => {
                let seen: Vec<_> = self.seen.values().map(Position::to_string).collect();
                write!(f, "after {}", seen.join(", "))
            }
        }
    }
}

/// Which accepted frames a subscriber wants.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Scope {
    /// All of them.
    #[default]
    All,
    /// Those of one consensus group.
    Group(GroupId),
    /// Those of all namespaces of one organisation.
    Org(String),
    /// Those of one namespace.
    Shard(ShardKey),
}

impl Scope {
    /// Whether a frame of `group` for `shard` is wanted.
    pub fn holds(&self, group: GroupId, shard: &ShardKey) -> bool {
        match self {
            Self::All => true,
            Self::Group(wanted) => *wanted == group,
            Self::Org(wanted) => wanted == shard.org(),
            Self::Shard(wanted) => wanted == shard,
        }
    }
}
