//! What happens to a node, as a stream.

use std::pin::Pin;

use futures_core::Stream;
use serde::{Deserialize, Serialize};

use crate::{GroupId, Member, NodeId};

/// What happened to this node, in the order in which it noticed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Event {
    /// The group can decide frames: it has replayed its log and knows who proposes.
    Ready {
        /// The group.
        group: GroupId,
    },
    /// The node that proposes changed.
    Leader {
        /// The group.
        group: GroupId,
        /// The new one, if there is one.
        leader: Option<NodeId>,
    },
    /// The members of a group changed.
    Members {
        /// The group.
        group: GroupId,
        /// All members from now on.
        members: Vec<Member>,
    },
    /// A checkpoint became durable.
    Checkpoint {
        /// The group.
        group: GroupId,
        /// The last batch in it.
        index: u64,
    },
    /// The node has no room for further frames, or has room again.
    Storage {
        /// Whether proposals are refused for want of space.
        full: bool,
    },
    /// The group stopped for good on this node; restart it after the cause is removed.
    Faulted {
        /// The group.
        group: GroupId,
        /// What happened, and what to do.
        cause: String,
    },
    /// The reader was too slow, and this many older events were dropped to make room for newer ones.
    Missed {
        /// How many.
        events: u64,
    },
}

/// Events of one node from the moment of the call on; ends when the node closes. Bounded: the newest are kept.
pub type EventStream = Pin<Box<dyn Stream<Item = Event> + Send>>;
