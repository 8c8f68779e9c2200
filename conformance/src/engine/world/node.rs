//! One node: what survives a crash, what does not, and what is on its way.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use quorate_engine::engine::{
    Checkpointed, Delivery, Engine, Message, Now, Outgoing, Output, ReadId, StateHash, TimerId,
};
use quorate_replicator::NodeId;
use quorate_storage::{Body, Entry, Index, Seq, Tag};

use super::Payload;
use crate::engine::log_model::LogModel;

/// One node: what survives a crash, and what does not.
pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) incarnation: [u8; 16],
    /// Its disk was lost while it was a member, and it may refuse to serve: with which words it did, if it has.
    pub(super) lost: Option<String>,
    pub(super) log: LogModel,
    pub(super) checkpoints: BTreeMap<Index, Checkpointed>,
    pub(super) staged: BTreeMap<Index, Checkpointed>,
    pub(super) life: u32,
    pub(super) disk_stalled: bool,
    pub(super) running: Option<Running>,
}

/// One life of an engine and its shell.
pub(super) struct Running {
    pub(super) engine: Box<dyn Engine>,
    pub(super) out: Output,
    pub(super) written: Seq,
    pub(super) durable: Seq,
    pub(super) syncing: bool,
    pub(super) sends: Vec<Outgoing>,
    pub(super) deliveries: VecDeque<Delivery>,
    /// The index of the newest delivery that the engine put out.
    pub(super) last_emitted: Index,
    pub(super) applied: Index,
    pub(super) applying: bool,
    pub(super) mark: Bytes,
    pub(super) history: StateHash,
    pub(super) timers: BTreeMap<TimerId, Now>,
    pub(super) checks: Vec<(u64, Entry)>,
    /// Proposals that stand somewhere and are not settled.
    pub(super) placed: BTreeMap<(Index, Tag), Payload>,
    /// All proposals of this life.
    pub(super) ever_placed: BTreeSet<(Index, Tag)>,
    pub(super) trim_below: Index,
    pub(super) decided: Index,
}

impl Running {
    /// Takes out the proposals that stand at or below `index`, and of which it is known now what became.
    pub(super) fn settle_up_to(&mut self, index: Index) -> impl Iterator<Item = Payload> + use<> {
        let above = self.placed.split_off(&(index + 1, Tag::ZERO));
        std::mem::replace(&mut self.placed, above).into_values()
    }
}

/// A batch that someone wants decided.
pub(super) struct Offered {
    pub(super) home: usize,
    pub(super) body: Body,
    pub(super) idle_since: Option<Now>,
    pub(super) done: bool,
}

/// A linearizable read.
pub(super) struct Read {
    pub(super) node: usize,
    pub(super) life: u32,
    pub(super) asked: Option<(ReadId, Now)>,
    /// The last index that any node had delivered when it was asked.
    pub(super) floor: Index,
    pub(super) stage: Reading,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Reading {
    Asked,
    Waits(Index),
    Through(Payload),
    Over,
}

pub(super) enum Event {
    Message {
        from: usize,
        to: usize,
        message: Message,
    },
    Synced {
        node: usize,
        life: u32,
        seq: Seq,
    },
    Apply {
        node: usize,
        life: u32,
    },
    Check {
        node: usize,
        life: u32,
    },
    Timer {
        node: usize,
        life: u32,
        id: TimerId,
    },
    Fetched {
        node: usize,
        life: u32,
        ticket: u64,
        entries: Vec<(Entry, Bytes)>,
    },
    Snapshot {
        from: usize,
        life: u32,
        to: usize,
        checkpoint: Checkpointed,
        head: Bytes,
    },
    /// A node looks whether another one is there.
    Look {
        node: usize,
        at: usize,
    },
    Tick,
}
