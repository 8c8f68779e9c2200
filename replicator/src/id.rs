//! Identifiers of nodes, groups and clusters.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ShardKey;

/// Names one node of a cluster for ever: an id is never given to a second node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeId(u64);

impl NodeId {
    /// The node with this number.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number, for encodings.
    pub const fn number(self) -> u64 {
        self.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{}", self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Names one consensus group. Groups of a node share its log and its connections.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct GroupId(u32);

impl GroupId {
    /// The group with this number; numbers run from 0.
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// The number, for encodings.
    pub const fn number(self) -> u32 {
        self.0
    }
}

impl GroupId {
    /// The group of `shard` in a cluster of `groups`: slots are dealt out in turn. The number of groups is fixed at the
    /// first start.
    ///
    /// # Panics
    ///
    /// If there is no group.
    pub fn of(shard: &ShardKey, groups: u32) -> Self {
        assert!(groups > 0, "a cluster has at least one group");
        // Most clusters have one group, and need no hash for it.
        Self(if groups == 1 { 0 } else { shard.slot() % groups })
    }
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "g{}", self.0)
    }
}

impl fmt::Debug for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Names one cluster: drawn at random when it is first started, part of every handshake and directory.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ClusterId(#[serde(with = "serde_bytes")] [u8; 16]);

impl ClusterId {
    /// The cluster with these bytes.
    pub const fn new(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The bytes, for encodings.
    pub const fn bytes(self) -> [u8; 16] {
        self.0
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
