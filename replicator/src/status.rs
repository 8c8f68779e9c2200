//! What a node knows of itself.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{GroupId, LogTime, NodeId};

/// What an accept is worth after a power cut. Shown wherever figures are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(clippy::exhaustive_enums, reason = "a write is on stable storage or it is not")]
pub enum Durability {
    /// On stable storage of a quorum (one node: on its disk) before the answer.
    #[default]
    Disk,
    /// In memory only: a restart forgets everything.
    Memory,
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Disk => "disk",
            Self::Memory => "memory",
        })
    }
}

/// Whether a node can commit now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Health {
    /// Frames proposed now can be decided.
    Ready,
    /// The node replays its log, or no proposer is known.
    Waiting {
        /// For what.
        reason: String,
    },
    /// The disk has no room for further frames.
    StorageFull,
    /// The node was closed.
    Closed,
    /// The node stopped for good.
    Faulted {
        /// What happened, and what to do.
        cause: String,
    },
}

/// What a node knows of itself at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Status {
    /// This node.
    pub node: NodeId,
    /// The driver's name.
    pub driver: String,
    /// What an accept is worth.
    pub durability: Durability,
    /// The worst of the groups.
    pub health: Health,
    /// Each group, in the order of their ids.
    pub groups: Vec<GroupStatus>,
}

impl Status {
    /// A status to be filled in by a driver.
    pub fn new(
        node: NodeId,
        driver: impl Into<String>,
        durability: Durability,
        health: Health,
    ) -> Self {
        Self { node, driver: driver.into(), durability, health, groups: Vec::new() }
    }
}

/// What a node does in a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Role {
    /// Proposes batches.
    Leader,
    /// Votes on what others propose.
    Follower,
    /// Asks to become the leader.
    Candidate,
    /// Receives everything and does not vote.
    Learner,
    /// Votes, and proposes when it is its turn.
    Validator,
}

/// What a node knows of one group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct GroupStatus {
    /// The group.
    pub group: GroupId,
    /// What this node does in it.
    pub role: Role,
    /// The driver's ballot number: Raft's term, the vote's height; 0 if it has none.
    pub term: u64,
    /// Who proposes, if known.
    pub leader: Option<NodeId>,
    /// The last decided batch known here.
    pub committed: u64,
    /// The last batch applied here.
    pub applied: u64,
    /// The oldest batch in the log.
    pub log_first: u64,
    /// The last batch of the newest durable checkpoint; 0 if there is none.
    pub checkpoint: u64,
    /// The log time of the last applied batch.
    pub log_time: LogTime,
    /// Hash of the history up to `applied`, equal on all nodes.
    pub history: [u8; 32],
    /// Voting members.
    pub members: Vec<NodeId>,
    /// Members that receive everything and do not vote.
    pub learners: Vec<NodeId>,
    /// Why this node does not take part, or knows no leader; none if all is well.
    pub reason: Option<String>,
    /// Frames accepted here since the start.
    pub accepted: u64,
    /// Frames rejected here since the start.
    pub rejected: u64,
    /// Proposals of this node that ended without an answer since the start.
    pub timeouts: u64,
    /// Frames waiting for a decision.
    pub in_flight: u64,
    /// Live sessions.
    pub sessions: u64,
    /// The other members as this node sees them.
    pub peers: Vec<PeerStatus>,
}

impl GroupStatus {
    /// A status to be filled in by a driver.
    pub fn new(group: GroupId, role: Role) -> Self {
        Self {
            group,
            role,
            term: 0,
            leader: None,
            committed: 0,
            applied: 0,
            log_first: 1,
            checkpoint: 0,
            log_time: LogTime::ZERO,
            history: [0; 32],
            members: Vec::new(),
            learners: Vec::new(),
            reason: None,
            accepted: 0,
            rejected: 0,
            timeouts: 0,
            in_flight: 0,
            sessions: 0,
            peers: Vec::new(),
        }
    }
}

/// What a node knows of another member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PeerStatus {
    /// The member.
    pub node: NodeId,
    /// The last batch known to be stored there, if this node leads.
    pub matched: Option<u64>,
    /// How many batches of this node's log it lacks, if this node leads.
    pub lag: Option<u64>,
    /// How long ago it was last heard of.
    pub last_contact: Option<Duration>,
    /// In words: why it cannot be reached, or how far a snapshot has got.
    pub note: String,
}

impl PeerStatus {
    /// A status to be filled in by a driver.
    pub fn new(node: NodeId) -> Self {
        Self { node, matched: None, lag: None, last_contact: None, note: String::new() }
    }
}
