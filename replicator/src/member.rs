//! Members of a cluster, and how they are changed.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::NodeId;

/// One member of a group.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Member {
    /// Which node.
    pub node: NodeId,
    /// What it may do.
    pub role: MemberRole,
    /// Where the transport reaches it; empty if the transport's own configuration says so, as for founding members.
    pub address: String,
}

/// What a member may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(clippy::exhaustive_enums, reason = "a member counts in a quorum or it does not")]
pub enum MemberRole {
    /// Votes, and counts in every quorum.
    Voter,
    /// Receives everything, and counts in no quorum.
    Learner,
}

impl fmt::Display for MemberRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Voter => "voter",
            Self::Learner => "learner",
        })
    }
}

/// A change of who the members are. One is done at a time; asking for what is already so succeeds at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum MemberChange {
    /// Adds a node, which must be running and waiting to be added. It learns first; as a voter it is promoted when it
    /// has caught up, by whoever leads then.
    Add {
        /// The node; its id must be new to the cluster, or have been removed.
        node: NodeId,
        /// Where the other members reach it.
        address: String,
        /// What it is to be in the end.
        role: MemberRole,
    },
    /// Makes a learner a voter once it has caught up.
    Promote {
        /// The learner.
        node: NodeId,
    },
    /// Removes a member. What it stored stays with it and is of no use to the cluster.
    Remove {
        /// The member.
        node: NodeId,
    },
    /// Adds a node and removes another in one step, once the new one has caught up: the number of voters never falls.
    Replace {
        /// The member that leaves.
        old: NodeId,
        /// The node that takes its place.
        new: NodeId,
        /// Where the other members reach the new one.
        address: String,
    },
    /// Approves a change as the operator of the node that is asked, for drivers whose members do not trust one another: it is done when the
    /// operators of enough members have approved the same, each at its own node. It is answered when it is in force, and never forwarded.
    Approve {
        /// What is to change, in the driver's own encoding.
        change: Vec<u8>,
        /// Where nodes that it adds are reached.
        new: Vec<(NodeId, String)>,
    },
}

impl fmt::Display for MemberChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Add { node, role, .. } => write!(f, "add {node} as a {role}"),
            Self::Promote { node } => write!(f, "promote {node}"),
            Self::Remove { node } => write!(f, "remove {node}"),
            Self::Replace { old, new, .. } => write!(f, "replace {old} by {new}"),
            Self::Approve { .. } => f.write_str("approve a change"),
        }
    }
}
