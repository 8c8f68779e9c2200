//! A transport of one's own, judged by the public suite: `cargo run --example custom_transport`.
//!
//! It joins nodes of one process by bounded tokio channels: one queue and one task for each sender and channel, so that a
//! slow receiver holds up nothing else. What is left to do for a real network is the wire between the two.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use quorate_conformance::{Network, TransportFactory};
use quorate_replicator::limits::MESSAGE_BYTES_MAX;
use quorate_replicator::{
    BulkError, BulkOffer, BulkSource, Bytes, Channel, Inbound, NodeId, PeerState, SendError,
    Transport,
};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

/// Most messages that wait for one peer on one channel.
const QUEUE: usize = 1024;

/// What all nodes see of the network. A link is open when both ends receive and nobody has cut it.
#[derive(Debug, Default)]
struct Wires {
    /// By node; none once it has closed.
    receivers: BTreeMap<NodeId, Option<Arc<dyn Inbound>>>,
    queues: BTreeMap<(NodeId, NodeId, Channel), mpsc::Sender<Bytes>>,
    cut: BTreeSet<(NodeId, NodeId)>,
}

impl Wires {
    fn open(&self, a: NodeId, b: NodeId) -> bool {
        let receives = |id| matches!(self.receivers.get(id), Some(Some(_)));
        receives(&a) && receives(&b) && !self.cut.contains(&(a, b))
    }

    fn closed(&self, id: NodeId) -> bool {
        matches!(self.receivers.get(&id), Some(None))
    }

    fn state(&self, a: NodeId, b: NodeId) -> PeerState {
        if self.open(a, b) { PeerState::Connected } else { PeerState::Connecting { reason: None } }
    }
}

#[derive(Debug)]
struct Channels {
    id: NodeId,
    peers: Vec<NodeId>,
    wires: Arc<watch::Sender<Wires>>,
    tasks: tokio::sync::Mutex<JoinSet<()>>,
}

#[async_trait]
impl Transport for Channels {
    fn local_id(&self) -> NodeId {
        self.id
    }

    fn peers(&self) -> Vec<(NodeId, PeerState)> {
        let state = |peer| (peer, self.wires.borrow().state(self.id, peer));
        self.peers.iter().copied().map(state).collect()
    }

    fn receive(&self, inbound: Arc<dyn Inbound>) {
        let mut tasks = self.tasks.try_lock().expect("receive is called once, before close");
        for (from, id) in self.peers.iter().map(|peer| (*peer, self.id)) {
            for channel in Channel::ALL {
                let (queue, mut messages) = mpsc::channel(QUEUE);
                self.wires.send_modify(|all| drop(all.queues.insert((from, id, channel), queue)));
                let (inbound, wires) = (Arc::clone(&inbound), self.wires.subscribe());
                tasks.spawn(async move {
                    while let Some(message) = messages.recv().await {
                        // What was under way when the link was cut is lost.
                        if wires.borrow().open(from, id) {
                            inbound.message(from, channel, message).await;
                        }
                    }
                });
            }
            let (inbound, mut wires) = (Arc::clone(&inbound), self.wires.subscribe());
            tasks.spawn(async move {
                let mut told = PeerState::Connecting { reason: None };
                while let Ok(now) = wires.wait_for(|now| now.state(from, id) != told).await {
                    told = now.state(from, id);
                    inbound.peer(from, told.clone());
                }
            });
        }
        self.wires.send_modify(|wires| drop(wires.receivers.insert(self.id, Some(inbound))));
    }

    fn send(&self, to: NodeId, channel: Channel, message: Bytes) -> Result<(), SendError> {
        let wires = self.wires.borrow();
        match wires.queues.get(&(self.id, to, channel)) {
            _ if wires.closed(self.id) => Err(SendError::Closed),
            _ if !self.peers.contains(&to) => Err(SendError::UnknownPeer(to)),
            _ if message.len() > MESSAGE_BYTES_MAX => Err(SendError::TooLarge(message.len())),
            Some(queue) if wires.open(self.id, to) => {
                queue.try_send(message).map_err(|_| SendError::QueueFull)
            }
            // Without a link the message is lost, which a transport may do.
            _ => Ok(()),
        }
    }

    async fn send_bulk(
        &self,
        to: NodeId,
        offer: BulkOffer,
        source: Arc<dyn BulkSource>,
    ) -> Result<(), BulkError> {
        self.peers.contains(&to).then_some(()).ok_or(BulkError::UnknownPeer(to))?;
        let (id, mut wires) = (self.id, self.wires.subscribe());
        loop {
            let ready = wires.wait_for(|now| now.open(id, to) || now.closed(id)).await;
            // A node that closes stops to receive, and so its links are not open.
            let ready = ready.ok().filter(|now| now.open(id, to));
            let inbound =
                ready.and_then(|now| now.receivers[&to].clone()).ok_or(BulkError::Closed)?;
            let attempt = async {
                let mut sink = inbound.bulk(id, offer.clone()).map_err(BulkError::Refused)?;
                let mut offset = sink.resume_at();
                while offset < offer.bytes {
                    let chunk = source.read(offset, 64 << 10).await.map_err(BulkError::Source)?;
                    offset += chunk.len() as u64;
                    sink.write(chunk).await.map_err(BulkError::Refused)?;
                }
                sink.finish().await.map_err(BulkError::Refused)
            };
            tokio::select! {
                biased;
                _ = wires.wait_for(|now| !now.open(id, to)) => {}
                result = attempt => return result,
            }
        }
    }

    async fn close(&self) {
        self.wires.send_modify(|wires| drop(wires.receivers.insert(self.id, None)));
        self.tasks.lock().await.shutdown().await;
    }
}

// From here on: what the suite needs to judge it.

#[derive(Debug)]
struct Factory;

#[derive(Debug)]
struct ChannelNetwork {
    wires: Arc<watch::Sender<Wires>>,
    nodes: Vec<Arc<dyn Transport>>,
}

#[async_trait]
impl TransportFactory for Factory {
    async fn open(&self, nodes: usize) -> Box<dyn Network> {
        let wires = Arc::<watch::Sender<Wires>>::default();
        let ids: Vec<_> = (1..).take(nodes).map(NodeId::new).collect();
        let node = |id: &NodeId| Channels {
            id: *id,
            peers: ids.iter().copied().filter(|peer| peer != id).collect(),
            wires: Arc::clone(&wires),
            tasks: tokio::sync::Mutex::default(),
        };
        let nodes = ids.iter().map(|id| Arc::new(node(id)) as _).collect();
        Box::new(ChannelNetwork { wires, nodes })
    }
}

#[async_trait]
impl Network for ChannelNetwork {
    fn transports(&self) -> Vec<Arc<dyn Transport>> {
        self.nodes.clone()
    }

    async fn cut(&self, a: NodeId, b: NodeId) {
        self.wires.send_modify(|wires| wires.cut.extend([(a, b), (b, a)]));
    }

    async fn heal(&self, a: NodeId, b: NodeId) {
        self.wires.send_modify(|wires| wires.cut.retain(|cut| ![(a, b), (b, a)].contains(cut)));
    }

    async fn shutdown(&self) {}
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    for case in quorate_conformance::transport::transport(Factory).await {
        println!("passed  {case}");
    }
}
