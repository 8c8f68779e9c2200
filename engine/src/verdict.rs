//! What applying makes of each frame of a batch.

use quorate_replicator::{Rejection, Resource};

/// What applying makes of one frame, decided by the log and the session table alone, so equal on all nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// A mutation that the state machine applies now.
    Fresh,
    /// A session frame that did its work.
    Session,
    /// Decided before, with the same payload: the first decision is the answer.
    Repeated,
    /// Decided now as rejected, or before with another payload.
    Rejected(Rejection),
    /// Not applied, because its session is not open or has settled it.
    SessionEnded,
    /// Not applied, because the session table has no room.
    NoRoom(Resource, u64),
}

impl Verdict {
    /// A number for the history hash.
    pub(crate) const fn code(&self) -> u8 {
        match self {
            Self::Fresh => 0,
            Self::Session => 1,
            Self::Repeated => 2,
            Self::Rejected(_) => 3,
            Self::SessionEnded => 4,
            Self::NoRoom(..) => 5,
        }
    }
}
