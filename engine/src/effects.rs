//! What a host core asks its shell to do.

use std::ops::Range;

use bytes::Bytes;
use quorate_replicator::{CheckpointPairs, Event, NodeId};
use quorate_storage::Index;

use crate::callers::{Answer, Callers};
use crate::engine::{LogWrite, StateHash};
use crate::reach::MemberList;
use crate::subscriptions::{Chunk, SubscriptionId, SubscriptionOver};
use crate::wire::Packet;

/// What a host core asks its shell to do. The shell does all of it and empties the value before the next turn; the order
/// within each list counts.
#[derive(Debug)]
pub struct Effects<C: Callers> {
    /// Give to the log; answered by `HostCore::durable`.
    pub writes: Vec<LogWrite>,
    /// Send now. What is lost is sent again by whoever needs it.
    pub sends: Vec<Sent>,
    /// Answer those who wait.
    pub answers: Vec<Answer<C>>,
    /// Give to subscribers; a chunk with frames is answered by `HostCore::handled`.
    pub chunks: Vec<Chunk>,
    /// Tell subscribers that it is over.
    pub over: Vec<(SubscriptionId, SubscriptionOver)>,
    /// Read the log; answered by `HostCore::fetched`.
    pub fetches: Vec<Fetch>,
    /// Store a checkpoint; answered by `HostCore::checkpointed`. No second one is asked for before that.
    pub checkpoint: Option<CheckpointJob>,
    /// Stream a stored checkpoint: to whom, which, and the engine's words for the receiver.
    pub snapshots: Vec<(NodeId, Index, Bytes)>,
    /// Put a staged snapshot in force; answered by `HostCore::installed`.
    pub install: Option<Index>,
    /// The members changed: let the transport reach them.
    pub members: Option<MemberList>,
    /// Proof of another member's misbehaviour, to be kept.
    pub evidence: Vec<Bytes>,
    /// Tell whoever listens.
    pub events: Vec<Event>,
}

impl<C: Callers> Default for Effects<C> {
    fn default() -> Self {
        Self {
            writes: Vec::new(),
            sends: Vec::new(),
            answers: Vec::new(),
            chunks: Vec::new(),
            over: Vec::new(),
            fetches: Vec::new(),
            checkpoint: None,
            snapshots: Vec::new(),
            install: None,
            members: None,
            evidence: Vec::new(),
            events: Vec::new(),
        }
    }
}

/// A packet and to whom it goes; the bytes are the same for all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// To whom.
    pub to: Vec<NodeId>,
    /// Whether it is urgent and small.
    pub urgent: bool,
    /// What.
    pub packet: Packet,
}

/// A wish to read the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// For whom.
    pub reader: FetchFor,
    /// Which indexes.
    pub range: Range<Index>,
    /// Stop after about this many bytes.
    pub bytes_max: usize,
}

/// For whom the log is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FetchFor {
    /// The engine, which gave this ticket.
    Engine(u64),
    /// A subscriber that is not among the newest batches.
    Subscription(SubscriptionId),
}

/// What the log answered.
#[derive(Debug)]
pub enum Fetched {
    /// Entries in order with their proofs, from the first of the range on; at least one.
    Entries(Vec<(quorate_storage::Entry, Bytes)>),
    /// The first of the range is gone; the log begins here.
    Trimmed(Index),
}

/// A checkpoint to be stored in one transaction.
pub struct CheckpointJob {
    /// The last index in it.
    pub index: Index,
    /// The engine's words that were delivered with that index.
    pub mark: Bytes,
    /// Hash of the history up to it.
    pub state: StateHash,
    /// The host's words: epoch and log time.
    pub words: Vec<u8>,
    /// What changed of the state machine.
    pub machine: CheckpointPairs,
    /// What changed of the host's own state: sessions and the like.
    pub host: CheckpointPairs,
}

impl std::fmt::Debug for CheckpointJob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CheckpointJob").field("index", &self.index).finish_non_exhaustive()
    }
}
