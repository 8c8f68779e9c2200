//! A consensus as a pure state machine.
//!
//! ```text
//!            Input                                Output
//!  host ---> step, step, ... , settle ---> writes, sends, deliveries, timers, ...
//!            propose <--- demand()
//! ```
//!
//! # Rules of order and durability
//!
//! The conformance suite checks each on every engine.
//!
//! - **R1** Writes become durable as a prefix in the order of their [`Seq`]; a crash keeps that prefix and any part,
//!   in order, of the rest.
//! - **R2** A send or a delivery with `after = s` waits until `s` is durable. Deliveries keep their order; sends may
//!   overtake one another.
//! - **R3** What promises something (a vote, an acknowledgement, a local delivery) comes after its own write; what
//!   only offers (a leader's append) may leave at once.
//! - **R4** [`Input::Applied`] follows every delivered batch and every install, in order.
//! - **R5** Snapshot bytes durable, then [`Input::SnapshotStaged`], then the reset durable, then the install applied. An
//!   engine that wants the snapshot writes its reset in the turn in which it is told; one that is not wanted is discarded.
//! - **R6** A checkpoint at an index carries the mark that was delivered with that index. Only the engine emits
//!   [`Record::Trim`], after [`Input::Checkpointed`], never above what it allows.
//! - **R7** At open the engine delivers again all that is decided after the checkpoint, with `after = 0`, and never
//!   rewrites notes: a torn rewrite would forget votes.
//! - **R8** A frame leaves the pool of those on offer when its batch is delivered, not when it is applied.
//! - **R9** [`Output::released`] means: offer again, it may still be decided. Another tag delivered at the same index
//!   means that the proposal is dead.
//! - **R10** [`Input::Checked`] comes only when everything below the candidate's index has been applied.
//! - **R11** The put of a body comes before the notes that vote for it.

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate_replicator::{
    AdminError, DecidedBatch, Frame, GroupId, LogTime, Member, MemberChange, NodeId, PeerStatus,
    Role, Signer,
};
use quorate_storage::{Body, Entry, Index, Record, Seq, Tag};
use serde::{Deserialize, Serialize};

/// Monotonic time; engines only compare and subtract. Never wall time, and never log time, which is in the batch.
pub type Now = Duration;

/// A consensus as a pure state machine with a single owner.
///
/// # Contract
///
/// No method blocks, reads a clock, draws randomness or fails: seed and signer are given at open, and a fault is
/// [`Output::fault`]. The same inputs give the same outputs. The rules R1 to R11 in the [module](self) hold.
pub trait Engine: fmt::Debug + Send {
    /// Absorbs one input. Called any number of times in a turn.
    fn step(&mut self, now: Now, input: Input, out: &mut Output);

    /// Offers a batch; called only while [`demand`](Self::demand) is [`Demand::Here`].
    ///
    /// # Errors
    ///
    /// Gives the batch back when it cannot be placed after all.
    fn propose(&mut self, now: Now, batch: Body, out: &mut Output) -> Result<Placed, Body>;

    /// Ends a turn: emits what the steps added up to, as one write and one message for each peer where possible.
    /// The host looks at `out` only after this.
    fn settle(&mut self, now: Now, out: &mut Output);

    /// Is a batch wanted, where, and how many? Asked after [`settle`](Self::settle); the answer is not kept.
    fn demand(&self) -> Demand;

    /// Who proposes, if known. Asked in every turn, where [`status`](Self::status) is asked now and then.
    fn proposer(&self) -> Option<NodeId> {
        self.status().proposer
    }

    /// The decided batches after `after` that changed the members, in their order: whoever verifies a later batch needs them. None of an
    /// engine without proofs.
    fn member_batches(&self, after: Index) -> Vec<DecidedBatch> {
        let _ = after;
        Vec::new()
    }

    /// What the engine knows of its group. Asked now and then.
    fn status(&self) -> EngineStatus;

    /// Who looks at messages before they come to [`step`](Self::step); nobody, where nothing about a message is slow to look at.
    fn inspector(&self) -> Option<Arc<dyn Inspector>> {
        None
    }

    /// How far the time of a batch may run ahead of this node's estimate, if the members have agreed on that: it takes the place of what the
    /// node's configuration says, as members that differ in it would not agree on what is valid. Asked once. Who refuses what a liar stamps
    /// refuses a node that knows better, too: see [`Verdict::Ahead`] and [`Output::log_time`].
    fn log_time_drift_max(&self) -> Option<Duration> {
        None
    }

    /// Whether what this node has delivered is all that its group has ever decided, as far as that can be known without asking
    /// anyone: then another driver may go on from it. Asked of an engine that was opened on what is stored and told that its
    /// writes are durable, before it heard of anybody.
    ///
    /// # Errors
    ///
    /// Who else may have decided what, in words, and how to come to where it is known. An engine that does not say anything
    /// knows nothing.
    fn knows_all(&self) -> Result<(), String> {
        Err("its driver cannot tell whether other nodes have decided more".into())
    }
}

/// Does the slow part of an engine's look at a message where the message arrives, on any thread: signatures, above all. It changes nothing:
/// an engine that is stepped with a message that nobody looked at does the same, and takes longer.
pub trait Inspector: fmt::Debug + Send + Sync {
    /// Looks at a message that `from` proved to have sent. What it finds is remembered for the engine, within bounds.
    fn inspect(&self, from: NodeId, message: &Message);

    /// Whether frames have to be signed, so that it takes a while to look at them.
    fn wants_signed(&self) -> bool {
        false
    }

    /// Whether frames may be proposed as they are: signed by those who propose them, where the members have agreed on that. Asked of all that
    /// a node is to propose, as the others vote against a batch with one frame that is not.
    ///
    /// # Errors
    ///
    /// What is missing, in words for who has proposed them.
    fn admits(&self, frames: &[Frame]) -> Result<(), String> {
        let _ = frames;
        Ok(())
    }

    /// As [`admits`](Self::admits), of frames that another node forwards as an encoded batch.
    fn admits_batch(&self, batch: &Bytes) -> bool {
        let _ = batch;
        true
    }

    /// A new key for who proposes in a cluster of so many groups, if frames have to be signed.
    ///
    /// # Errors
    ///
    /// The system gave no randomness.
    fn signer(&self, groups: u32) -> io::Result<Option<Signer>> {
        let _ = groups;
        Ok(None)
    }
}

/// Where a batch is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Demand {
    /// Here.
    Here {
        /// This many batches, one after the other; at least one.
        batches: u32,
        /// Whether one of them may change the members.
        members: bool,
    },
    /// At these nodes: the first is asked first, the others when it does not answer.
    At(Vec<NodeId>),
    /// Nowhere that is known.
    Nowhere,
}

/// Where a proposed batch stands, if it is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Placed {
    /// The place.
    pub index: Index,
    /// Which candidate for it.
    pub tag: Tag,
}

/// A message between engines of one group: a small head and shared bodies, so that a batch is encoded once and its
/// bytes go to the log and to all peers as they are.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Message {
    /// The engine's own encoding.
    pub head: Bytes,
    /// Bodies that the head refers to by their place.
    pub bodies: Vec<Bytes>,
}

/// What an engine is told.
#[derive(Clone, Debug)]
pub enum Input {
    /// A message of another member; size-checked before it comes here, and perhaps [inspected](Inspector).
    Message {
        /// Who proved to be its sender.
        from: NodeId,
        /// The message.
        message: Message,
    },
    /// Every write up to this one is on stable storage.
    Durable(Seq),
    /// A timer ran out.
    Timer(TimerId),
    /// The batch or install at `index` is applied.
    Applied {
        /// Which.
        index: Index,
        /// Hash of the history up to it, equal on all nodes.
        state: StateHash,
    },
    /// This node holds frames that nobody has placed for a while, or forwarded some that are not decided: start, suspect,
    /// escalate.
    Waiting,
    /// The answer to [`Output::checks`].
    Checked {
        /// Of which check.
        ticket: u64,
        /// What the host finds of the candidate.
        verdict: Verdict,
    },
    /// The answer to [`Output::fetches`].
    Fetched {
        /// Of which fetch.
        ticket: u64,
        /// Entries in order with their proofs; empty if they are trimmed away.
        entries: Vec<(Entry, Bytes)>,
    },
    /// A linearizable read wants an index; answered in [`Output::reads`].
    Read(ReadId),
    /// A checkpoint is durable.
    Checkpointed {
        /// The last index in it.
        index: Index,
        /// The mark that was delivered with that index.
        mark: Bytes,
        /// Hash of the history up to it.
        state: StateHash,
        /// Entries below this are not needed by anyone on this node: the engine may trim up to here.
        trim_below: Index,
    },
    /// A received snapshot is durable, but not in force.
    SnapshotStaged {
        /// Who sent it.
        from: NodeId,
        /// The last index in it.
        index: Index,
        /// The engine's mark in it.
        mark: Bytes,
        /// Hash of the history up to it.
        state: StateHash,
        /// The engine's words that came with it.
        head: Bytes,
    },
    /// A snapshot that the engine asked to send has arrived, or will not.
    SnapshotSent {
        /// To whom.
        to: NodeId,
        /// Whether the receiver has all of it.
        arrived: bool,
    },
    /// An operator's wish; answered once in [`Output::admin`].
    Admin {
        /// Names the wish.
        ticket: u64,
        /// What is wanted.
        admin: Admin,
    },
    /// Whether the process of a member is heard of, whatever its groups do. Told when it changes.
    Peer {
        /// Which.
        node: NodeId,
        /// Whether it is.
        alive: bool,
    },
}

/// What a host finds of a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every node takes it as the next batch.
    Valid,
    /// This node refuses it now, and for nothing but its log time, which is this: further ahead of this node's own estimate
    /// than may be.
    Ahead(LogTime),
    /// No node takes it as the next batch.
    Invalid,
}

/// An operator's wish.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Admin {
    /// Make this node the one that proposes.
    Transfer(NodeId),
    /// Stop proposing, so that another node may.
    StepDown,
    /// Try to become the one that proposes, now.
    Campaign,
    /// Change the members.
    Change(MemberChange),
}

/// Names a timer of an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimerId(pub u64);

/// Names a question for a read index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReadId(pub u64);

/// Hash of a group's history.
pub type StateHash = [u8; 32];

/// All of a turn. The host looks at it after [`Engine::settle`] and empties it.
#[derive(Debug, Default)]
pub struct Output {
    /// To the log, in order.
    pub writes: Vec<LogWrite>,
    /// To other members.
    pub sends: Vec<Outgoing>,
    /// To the state machine, in order.
    pub deliveries: Vec<Delivery>,
    /// Timers to set (replacing one of the same id) or to cancel. None survives a restart.
    pub timers: Vec<(TimerId, Option<Duration>)>,
    /// Candidates to check: a ticket, and the entry.
    pub checks: Vec<(u64, Entry)>,
    /// It is this late, by members of whom one at least is right: the host's estimate of log time is raised to it, before
    /// it checks anything.
    pub log_time: Option<LogTime>,
    /// Ranges of the log to read: a ticket, which indexes, and about how many bytes.
    pub fetches: Vec<(u64, Range<Index>, usize)>,
    /// Answers to [`Input::Read`].
    pub reads: Vec<(ReadId, ReadAnswer)>,
    /// Checkpoints to stream: to whom, exactly which, and the engine's words for the receiver. Pinned until
    /// [`Input::SnapshotSent`].
    pub snapshots: Vec<(NodeId, Index, Bytes)>,
    /// Proposals that the engine drives no longer, and which may still be decided.
    pub released: Vec<Placed>,
    /// Answers to [`Input::Admin`]: the ticket, and what came of it.
    pub admin: Vec<(u64, Result<(), AdminError>)>,
    /// Members, and from which index on.
    pub members: Vec<(Index, Vec<Member>)>,
    /// Proof of another member's misbehaviour, to be kept.
    pub evidence: Vec<Bytes>,
    /// The engine stops for good; nothing after this counts.
    pub fault: Option<String>,
    /// The seq of the last write, over all turns; engines number their writes through [`Output::write`].
    last_seq: Seq,
}

impl Output {
    /// Adds a write and numbers it. With `flush` it must become durable soon; without, it may wait for the next one
    /// that must.
    pub fn write(&mut self, flush: bool, record: Record) -> Seq {
        self.last_seq += 1;
        self.writes.push(LogWrite { seq: self.last_seq, flush, record });
        self.last_seq
    }

    /// Gives memory back that was needed for a large turn. Everything was taken out before.
    pub(crate) fn rest(&mut self) {
        *self = Self { last_seq: self.last_seq, ..Self::default() };
    }

    /// The seq of the last write of any turn; 0 before the first.
    pub fn last_seq(&self) -> Seq {
        self.last_seq
    }
}

/// One write and its number.
#[derive(Clone, Debug)]
pub struct LogWrite {
    /// Its number.
    pub seq: Seq,
    /// Whether it must become durable soon.
    pub flush: bool,
    /// What is written.
    pub record: Record,
}

/// A message to other members.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// To whom; the bytes are shared.
    pub to: Vec<NodeId>,
    /// Leaves when this write is durable; 0: now.
    pub after: Seq,
    /// Whether it is urgent and small: it travels on the control channel then.
    pub urgent: bool,
    /// What.
    pub message: Message,
}

/// Something for the state machine.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Happens when this write is durable; 0: now.
    pub after: Seq,
    /// What.
    pub what: Deliver,
}

/// Something for the state machine.
#[derive(Clone, Debug)]
pub enum Deliver {
    /// A decided batch.
    Batch {
        /// The entry.
        entry: Entry,
        /// The engine's words to be kept in a checkpoint at this index.
        mark: Bytes,
        /// What proves to others that it was decided, as in [`Record::Decide`]; empty from an engine that believes its peers.
        proof: Bytes,
    },
    /// A staged snapshot takes the place of the state.
    Install {
        /// The last index in it.
        index: Index,
        /// The engine's words in it.
        mark: Bytes,
    },
}

/// The answer to a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadAnswer {
    /// Read when this index is applied.
    At(Index),
    /// There is no index without a decision: commit an empty batch and read when it is applied.
    ThroughLog,
    /// Unknown for now: ask again after a while.
    Retry,
}

/// What an engine knows of its group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineStatus {
    /// What this node does.
    pub role: Role,
    /// The ballot number: term or height.
    pub term: u64,
    /// Who proposes, if known.
    pub proposer: Option<NodeId>,
    /// The last decided index known here.
    pub decided: Index,
    /// Voting members.
    pub members: Vec<NodeId>,
    /// Members that do not vote.
    pub learners: Vec<NodeId>,
    /// The other members as this node sees them.
    pub peers: Vec<PeerStatus>,
    /// Why this node does not take part, or knows nobody who proposes; none if all is well.
    pub reason: Option<String>,
}

impl EngineStatus {
    /// A status to be filled in by an engine.
    pub const fn new(role: Role) -> Self {
        Self {
            role,
            term: 0,
            proposer: None,
            decided: 0,
            members: Vec::new(),
            learners: Vec::new(),
            peers: Vec::new(),
            reason: None,
        }
    }
}

/// Where an engine begins: what is stored, and what differs between two runs.
#[derive(Debug)]
pub struct Opening {
    /// The group.
    pub group: GroupId,
    /// This node.
    pub node: NodeId,
    /// The voting members at the first start. A node that is not among them waits to be added. Nobody, where the group is only to be left to
    /// another driver: what is not founded yet is not founded then.
    pub members: Vec<NodeId>,
    /// Drawn at random when the data directory was made: a node whose disk was lost comes back with another one.
    pub incarnation: [u8; 16],
    /// Where all random choices come from.
    pub seed: u64,
    /// The newest checkpoint, if there is one.
    pub checkpoint: Option<Checkpointed>,
    /// The group's log.
    pub log: quorate_storage::Recovered,
}

/// A checkpoint as an engine sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpointed {
    /// The last index in it.
    pub index: Index,
    /// The engine's words in it.
    pub mark: Bytes,
    /// Hash of the history up to it.
    pub state: StateHash,
}

/// The state that another driver left, for a group of one node to begin with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inherited {
    /// The group.
    pub group: GroupId,
    /// This node, which is to be the only voting member.
    pub node: NodeId,
    /// Of the new directory.
    pub incarnation: [u8; 16],
    /// The last index; the first that is to be decided is the one after.
    pub index: Index,
    /// Hash of the history up to it.
    pub state: StateHash,
}

/// What a driver's engine finds when it opens on what it [inherits](Inherited).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Founding {
    /// Its words in the checkpoint at that index.
    pub mark: Bytes,
    /// The [`Record::State`] in a log that begins after that index.
    pub state: Option<Bytes>,
}

/// A way to make an [`Engine`], with a name and a configuration of its own: what a driver crate exports.
pub trait EngineDriver: Send + Sync + 'static {
    /// The word that selects it.
    const NAME: &'static str;

    /// What can be said about it in `[driver.NAME]`.
    type Config: serde::de::DeserializeOwned + Default + Clone + Send + Sync + 'static;

    /// Opens an engine on what is stored. What it has to do at once, such as delivering what is decided after the
    /// checkpoint (R7), goes to `out`.
    ///
    /// # Errors
    ///
    /// What is stored cannot be this driver's, or the configuration makes no sense: what is wrong, and what to do.
    fn open(
        &self,
        config: &Self::Config,
        opening: Opening,
        out: &mut Output,
    ) -> Result<Box<dyn Engine>, String>;

    /// Takes everything that the log of this replica holds for decided, because somebody says so who has no other replica left: what was
    /// answered from here is in it, and so may be what was never decided. Called before [`open`](Self::open), which delivers it.
    /// A driver that has nothing to take changes nothing. `node` is this one.
    ///
    /// # Errors
    ///
    /// What is stored cannot be this driver's.
    fn take_for_decided(
        &self,
        node: NodeId,
        log: &mut quorate_storage::Recovered,
    ) -> Result<(), String> {
        let _ = (node, log);
        Ok(())
    }

    /// Founds a group of one node on the state that another driver left. What is returned is stored, and then
    /// [`open`](Self::open) finds it, with an empty log that begins after the index.
    ///
    /// # Errors
    ///
    /// The driver cannot, or will not, begin with a state that it did not make: why, and what to do.
    fn inherit(&self, config: &Self::Config, inherited: &Inherited) -> Result<Founding, String> {
        let _ = (config, inherited);
        Err(format!("`{}` does not take over what another driver has decided", Self::NAME))
    }
}
