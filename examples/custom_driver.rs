//! A consensus of one's own in less than a hundred lines of code, judged by the public suites:
//! `cargo run --example custom_driver`.
//!
//! One node decides alone, and chains what it decides: the tag of each entry is a hash of the entry and of the tag before.
//! Who writes one tag down can tell later whether anything before it was changed. The host does all the rest.

use std::collections::VecDeque;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use quorate_conformance::engine::engine;
use quorate_conformance::replicator::{Cluster, MachineMaker, replicator};
use quorate_conformance::{EngineFactory, ReplicatorFactory};
use quorate_engine::engine::*;
use quorate_host::{HostConfig, Hosted};
use quorate_replicator::*;
use quorate_storage::{Body, Entry, Index, Record, Seq, Tag};

#[derive(Debug)]
struct Chained;

#[derive(Debug)]
struct ChainedEngine {
    node: NodeId,
    /// The last entry that has a place.
    last: Placed,
    /// The last one that is durable, and so decided.
    decided: Index,
    /// Puts on their way to the disk.
    in_flight: VecDeque<(Seq, Index)>,
}

/// Batches on their way to the disk at once.
const WINDOW: usize = 2;

fn chain(before: Tag, index: Index, body: &Body) -> Tag {
    let (kind, bytes): (u8, &[u8]) = match body {
        Body::Empty => (0, &[]),
        Body::Frames(bytes) => (1, bytes),
        Body::Members(bytes) => (2, bytes),
    };
    let mut hasher = blake3::Hasher::new();
    hasher.update(&before.0).update(&index.to_le_bytes()).update(&[kind]).update(bytes);
    Tag(*hasher.finalize().as_bytes())
}

fn delivery(after: Seq, entry: Entry) -> Delivery {
    // The mark comes back with a checkpoint, so that the chain goes on when the log before it is trimmed.
    let mark = Bytes::copy_from_slice(&entry.tag.0);
    Delivery { after, what: Deliver::Batch { entry, mark, proof: Bytes::new() } }
}

impl EngineDriver for Chained {
    const NAME: &'static str = "chained";
    type Config = ();

    fn open(&self, (): &(), opening: Opening, out: &mut Output) -> Result<Box<dyn Engine>, String> {
        let mut last = Placed { index: 0, tag: Tag::ZERO };
        if let Some(Checkpointed { index, mark, .. }) = opening.checkpoint {
            let tag = (*mark).try_into().map_err(|_| "the checkpoint is another driver's")?;
            last = Placed { index, tag: Tag(tag) };
        }
        let checkpointed = last.index;
        for entry in opening.log.entries.into_iter().filter(|entry| entry.index > checkpointed) {
            let Placed { index, tag } = last;
            last = Placed { index: index + 1, tag: chain(tag, index + 1, &entry.body) };
            if (entry.index, entry.tag) != (last.index, last.tag) {
                return Err(format!("the chain breaks after index {index}: the log was changed"));
            }
            out.deliveries.push(delivery(0, entry));
        }
        let (node, decided) = (opening.node, last.index);
        Ok(Box::new(ChainedEngine { node, last, decided, in_flight: VecDeque::new() }))
    }
}

impl Engine for ChainedEngine {
    fn step(&mut self, _: Now, input: Input, out: &mut Output) {
        match input {
            Input::Durable(seq) => {
                while let Some((put, index)) = self.in_flight.front().copied()
                    && put <= seq
                {
                    self.in_flight.pop_front();
                    self.decided = index;
                }
            }
            Input::Read(id) => out.reads.push((id, ReadAnswer::At(self.decided))),
            Input::Checkpointed { trim_below, .. } => {
                out.write(false, Record::Trim { below: trim_below });
            }
            // Each wish of an operator is answered once.
            Input::Admin { ticket, .. } => {
                let driver = Chained::NAME.into();
                out.admin.push((ticket, Err(AdminError::Unsupported { driver })));
            }
            // A node that is alone has no peers, timers or elections.
            _ => {}
        }
    }

    fn propose(&mut self, _: Now, body: Body, out: &mut Output) -> Result<Placed, Body> {
        let index = self.last.index + 1;
        self.last = Placed { index, tag: chain(self.last.tag, index, &body) };
        let entry = Entry { index, tag: self.last.tag, head: Bytes::new(), body };
        let put = out.write(true, Record::Put(entry.clone()));
        out.deliveries.push(delivery(put, entry));
        self.in_flight.push_back((put, index));
        Ok(self.last)
    }

    fn settle(&mut self, _: Now, _: &mut Output) {}

    fn demand(&self) -> Demand {
        match WINDOW.saturating_sub(self.in_flight.len()) {
            0 => Demand::Nowhere,
            free => Demand::Here { batches: free as u32, members: false },
        }
    }

    fn status(&self) -> EngineStatus {
        let (node, decided) = (self.node, self.decided);
        let members = vec![node];
        EngineStatus { proposer: Some(node), decided, members, ..EngineStatus::new(Role::Leader) }
    }
}

// From here on: what the suites need to judge it.

#[derive(Debug)]
struct Factory;

impl EngineFactory for Factory {
    type Driver = Chained;

    fn nodes(&self) -> usize {
        1
    }

    fn driver(&self) -> Chained {
        Chained
    }
}

#[async_trait]
impl ReplicatorFactory for Factory {
    fn nodes(&self) -> usize {
        1
    }

    async fn open(&self, _: usize, machine: MachineMaker) -> Box<dyn Cluster> {
        let registry = Registry::new().with(Hosted::new(Chained, HostConfig::default()));
        let mut env = Env::new(NodeId::new(1), "", Arc::new(MonotonicClock::new()), 1);
        env.durability = Durability::Memory;
        let node = registry.open("chained", None, env, machine()).await;
        Box::new(One(node.expect("it opens in memory")))
    }
}

#[derive(Debug)]
struct One(Arc<dyn Replicator>);

#[async_trait]
impl Cluster for One {
    fn nodes(&self) -> Vec<Arc<dyn Replicator>> {
        vec![Arc::clone(&self.0)]
    }

    async fn restart(&self, _: usize) -> bool {
        false
    }

    async fn stall(&self, _: usize, _: bool) -> bool {
        false
    }

    async fn close(&self) {
        self.0.close().await.expect("it closes");
    }
}

#[tokio::main]
async fn main() {
    for case in engine(Factory) {
        println!("engine      passed  {case}");
    }
    for case in replicator(Factory).await {
        println!("replicator  passed  {case}");
    }
}
