//! What a group writes to the log.

use bytes::Bytes;

/// One per decided entry of a group, gap-free from 1.
pub type Index = u64;

/// Number of a write of one group, rising by one while the node runs; a crash loses only a suffix.
pub type Seq = u64;

/// Names a group to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Group(u32);

impl Group {
    /// The group with this number.
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// The number, for encodings.
    pub const fn number(self) -> u32 {
        self.0
    }
}

/// Which candidate at an index: Raft's term, the hash of a voted batch, zero for the local driver.
/// `(index, tag)` names one entry for ever.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Tag(pub [u8; 32]);

impl Tag {
    /// The tag of an engine that has one candidate for each index.
    pub const ZERO: Self = Self([0; 32]);
}

impl std::fmt::Debug for Tag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The first bytes tell candidates apart well enough for a trace.
        write!(f, "{:02x}{:02x}{:02x}{:02x}", self.0[0], self.0[1], self.0[2], self.0[3])
    }
}

/// What an entry carries. A clone copies no bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// Nothing: time passes, or a term begins.
    Empty,
    /// An encoded batch of frames.
    Frames(Bytes),
    /// A change of the members, in the engine's words.
    Members(Bytes),
}

/// One candidate for an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The place in the group's order.
    pub index: Index,
    /// Which candidate for that place.
    pub tag: Tag,
    /// The engine's own words, opaque to everyone else.
    pub head: Bytes,
    /// What it carries.
    pub body: Body,
}

/// One write of a group. The log keeps the order of a group's writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A candidate; several tags may stand at one index, in the order in which they were put last.
    Put(Entry),
    /// Candidates at and above this index are void.
    Cut {
        /// The first void index.
        from: Index,
    },
    /// The candidate `tag` is decided at `index`; what else stood there is void.
    Decide {
        /// The place.
        index: Index,
        /// The candidate.
        tag: Tag,
        /// The engine's proof, empty if it has none.
        proof: Bytes,
    },
    /// The engine's durable state; the last one counts.
    State(Bytes),
    /// A line of the journal of an index that is not decided. Notes of one index are kept in order, until the index
    /// is trimmed or reset away.
    Note {
        /// The place.
        index: Index,
        /// The line.
        note: Bytes,
    },
    /// The log begins anew after the snapshot at `index`: entries, decisions and notes up to and including it are
    /// gone, and those above it too.
    Reset {
        /// The last index of the snapshot.
        index: Index,
        /// The engine's mark of that snapshot.
        mark: Bytes,
    },
    /// Entries, decisions and notes below this index are no longer needed.
    Trim {
        /// The first index that is still needed.
        below: Index,
    },
}

/// A group's log as it was found at open: the records folded in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// The first index that has not been trimmed or reset away; 1 in a new log.
    pub first: Index,
    /// The mark of the last reset, if there was one, with its index.
    pub reset: Option<(Index, Bytes)>,
    /// Candidates, by index and then in the order in which they were put.
    pub entries: Vec<Entry>,
    /// Decisions, by index.
    pub decided: Vec<(Index, Tag, Bytes)>,
    /// The last state.
    pub state: Option<Bytes>,
    /// Notes, by index and then in their order.
    pub notes: Vec<(Index, Bytes)>,
}
