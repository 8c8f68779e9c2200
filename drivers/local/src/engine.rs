//! The engine: an index for each batch, and a delivery when it is durable.

use std::collections::VecDeque;

use bytes::Bytes;
use quorate_engine::engine::{
    Deliver, Delivery, Demand, Engine, EngineDriver, EngineStatus, Founding, Inherited, Input, Now,
    Opening, Output, Placed, ReadAnswer,
};
use quorate_replicator::{AdminError, NodeId, Role};
use quorate_storage::{Body, Entry, Index, Record, Seq, Tag};

use crate::LocalConfig;

/// The local driver.
#[derive(Clone, Copy, Debug, Default)]
pub struct Local;

impl EngineDriver for Local {
    const NAME: &'static str = "local";
    type Config = LocalConfig;

    fn open(
        &self,
        config: &LocalConfig,
        opening: Opening,
        out: &mut Output,
    ) -> Result<Box<dyn Engine>, String> {
        let window = config.batches_in_flight;
        if !(1..=64).contains(&window) {
            return Err(format!("batches_in_flight = {window} is not between 1 and 64"));
        }
        if opening.members.iter().any(|member| *member != opening.node) {
            return Err(format!(
                "it serves one node, and {} are configured; use `kind = \"raft\"` for a cluster",
                opening.members.len()
            ));
        }
        Ok(Box::new(LocalEngine::open(window, opening, out)?))
    }

    /// An index is all that it begins with.
    fn inherit(&self, _config: &LocalConfig, _inherited: &Inherited) -> Result<Founding, String> {
        Ok(Founding::default())
    }
}

/// One node's consensus with itself.
#[derive(Debug)]
pub struct LocalEngine {
    node: NodeId,
    window: u32,
    /// The last index that was given.
    last: Index,
    /// The last index whose put is durable.
    decided: Index,
    /// Puts on their way to the disk, in order.
    in_flight: VecDeque<(Seq, Index)>,
}

impl LocalEngine {
    fn open(window: u32, opening: Opening, out: &mut Output) -> Result<Self, String> {
        let mut last = opening.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.index);
        for entry in opening.log.entries {
            if entry.index <= last {
                continue;
            }
            if entry.index != last + 1 || entry.tag != Tag::ZERO {
                return Err(format!(
                    "the log goes from index {last} to {} {:?}, which this driver never writes; it is another driver's, or an entry is lost: run `quorate verify`",
                    entry.index, entry.tag
                ));
            }
            last = entry.index;
            out.deliveries.push(delivery(0, entry));
        }
        let node = opening.node;
        Ok(Self { node, window, last, decided: last, in_flight: VecDeque::new() })
    }
}

const fn delivery(after: Seq, entry: Entry) -> Delivery {
    Delivery { after, what: Deliver::Batch { entry, mark: Bytes::new(), proof: Bytes::new() } }
}

impl Engine for LocalEngine {
    fn step(&mut self, _now: Now, input: Input, out: &mut Output) {
        match input {
            Input::Durable(seq) => {
                while let Some((put, index)) = self.in_flight.front().copied()
                    && put <= seq
                {
                    self.in_flight.pop_front();
                    self.decided = index;
                }
            }
            // Everything that was answered is applied, and so at or below what is durable.
            Input::Read(id) => out.reads.push((id, ReadAnswer::At(self.decided))),
            Input::Checkpointed { trim_below, .. } => {
                out.write(false, Record::Trim { below: trim_below });
            }
            Input::Admin { ticket, .. } => {
                let driver = Local::NAME.into();
                out.admin.push((ticket, Err(AdminError::Unsupported { driver })));
            }
            // One node has no peer, no ballot and nothing to check, fetch or transfer.
            Input::Message { .. }
            | Input::Timer(_)
            | Input::Applied { .. }
            | Input::Waiting
            | Input::Checked { .. }
            | Input::Fetched { .. }
            | Input::SnapshotStaged { .. }
            | Input::SnapshotSent { .. }
            | Input::Peer { .. } => {}
        }
    }

    fn propose(&mut self, _now: Now, batch: Body, out: &mut Output) -> Result<Placed, Body> {
        if self.in_flight.len() >= self.window as usize {
            return Err(batch);
        }
        self.last += 1;
        let placed = Placed { index: self.last, tag: Tag::ZERO };
        let entry = Entry { index: placed.index, tag: placed.tag, head: Bytes::new(), body: batch };
        let put = out.write(true, Record::Put(entry.clone()));
        let after = put;
        #[cfg(quorate_planted)]
        let after = if quorate_planted::Bug::AnsweredUnsynced.is_planted() { 0 } else { after };
        out.deliveries.push(delivery(after, entry));
        self.in_flight.push_back((put, placed.index));
        Ok(placed)
    }

    fn settle(&mut self, _now: Now, _out: &mut Output) {}

    fn demand(&self) -> Demand {
        let free =
            self.window - u32::try_from(self.in_flight.len()).expect("bounded by the window");
        if free == 0 { Demand::Nowhere } else { Demand::Here { batches: free, members: false } }
    }

    fn proposer(&self) -> Option<NodeId> {
        Some(self.node)
    }

    fn status(&self) -> EngineStatus {
        EngineStatus {
            proposer: self.proposer(),
            decided: self.decided,
            members: vec![self.node],
            ..EngineStatus::new(Role::Leader)
        }
    }

    /// Every put is a decision.
    fn knows_all(&self) -> Result<(), String> {
        Ok(())
    }
}
