//! The network between the nodes: who is there, who can reach whom, and what goes wrong on the way.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quorate_replicator::{Channel, NodeId, PeerState};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::link::{FaultsError, Link, LinkFaults};
use crate::node::Node;
use crate::pipe::Pipe;
use crate::{Counters, HubConfig, MemoryTransport, Partition};

/// A network in memory, shared by the transports that were [connected](Self::connect) to it. A clone is the same
/// network.
///
/// Faults and cuts can be changed at any time. A cut loses what is under way on the link; both ends notice, and a link
/// that is restored carries what is sent from then on. Bulk transfers are cut as messages are, and are otherwise
/// spared from faults and delays, as those of a transport that repeats what was lost would be.
///
/// On a runtime of one thread with paused time, the same seed and the same calls give the same deliveries in the
/// same order.
#[derive(Clone, Debug)]
pub struct MemoryHub {
    shared: Arc<Shared>,
}

impl MemoryHub {
    /// A network without faults. Its clock starts now.
    pub fn new(seed: u64) -> Self {
        Self::build(HubConfig::seeded(seed))
    }

    /// A network as configured. Its clock starts now.
    ///
    /// # Errors
    ///
    /// The faults make no sense.
    pub fn with_config(config: HubConfig) -> Result<Self, FaultsError> {
        config.faults.check()?;
        Ok(Self::build(config))
    }

    fn build(config: HubConfig) -> Self {
        let net = Net { faults: config.faults.clone(), ..Net::default() };
        let shared = Shared {
            config,
            start: Instant::now(),
            version: AtomicU64::new(0),
            net: Mutex::new(net),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Makes these nodes known before they connect, so that others count them among their peers.
    pub fn expect(&self, nodes: impl IntoIterator<Item = NodeId>) {
        self.shared.change(|net| nodes.into_iter().for_each(|node| net.know(node, &self.shared)));
    }

    /// The transport of `node`. If the node has one already, that one is closed: the node has been restarted.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime, on which the deliveries run.
    pub fn connect(&self, node: NodeId) -> Arc<MemoryTransport> {
        let new = Arc::new(Node::new(node, Arc::clone(&self.shared)));
        let mut before = None;
        self.shared.change(|net| {
            net.know(node, &self.shared);
            before = net.nodes.insert(node, Some(Arc::clone(&new))).flatten();
        });
        if let Some(before) = before {
            before.begin_close();
        }
        Arc::new(MemoryTransport::new(new))
    }

    /// Sets what goes wrong on every link from now on, those of nodes to come included.
    ///
    /// # Errors
    ///
    /// The faults make no sense; nothing changed.
    pub fn set_faults(&self, faults: &LinkFaults) -> Result<(), FaultsError> {
        faults.check()?;
        let mut net = self.shared.net();
        net.faults = faults.clone();
        net.wires.values().for_each(|wire| wire.set_faults(faults));
        Ok(())
    }

    /// Sets what goes wrong on the way from `from` to `to`.
    ///
    /// # Errors
    ///
    /// The faults make no sense; nothing changed.
    pub fn set_link_faults(
        &self,
        from: NodeId,
        to: NodeId,
        faults: &LinkFaults,
    ) -> Result<(), FaultsError> {
        faults.check()?;
        self.expect([from, to]);
        if let Some(wire) = self.shared.net().wires.get(&(from, to)) {
            wire.set_faults(faults);
        }
        Ok(())
    }

    /// Cuts both directions between `a` and `b`.
    pub fn cut(&self, a: NodeId, b: NodeId) {
        self.shared.change(|net| net.partition.cut(a, b));
    }

    /// Cuts only what goes from `from` to `to`. Both ends count as not connected then; what goes the other way arrives.
    pub fn cut_one_way(&self, from: NodeId, to: NodeId) {
        self.shared.change(|net| net.partition.cut_one_way(from, to));
    }

    /// Takes back the cuts of single links between `a` and `b`.
    pub fn restore(&self, a: NodeId, b: NodeId) {
        self.shared.change(|net| net.partition.restore(a, b));
    }

    /// Splits the nodes into groups that cannot reach one another, in place of earlier groups. Nodes that are named in no
    /// group form one more.
    pub fn split(&self, groups: &[&[NodeId]]) {
        self.shared.change(|net| net.partition.split(groups));
    }

    /// Takes a node off the network; its transport stays.
    pub fn disconnect(&self, node: NodeId) {
        self.shared.change(|net| net.partition.disconnect(node));
    }

    /// Puts a node back on the network.
    pub fn reconnect(&self, node: NodeId) {
        self.shared.change(|net| net.partition.reconnect(node));
    }

    /// Takes back all cuts, groups and disconnections. Faults stay.
    pub fn heal(&self) {
        self.shared.change(|net| net.partition.heal());
    }

    /// Cuts the bulk transfers that run from `from` to `to`; messages go on, and the transfers resume by themselves.
    pub fn cut_bulk(&self, from: NodeId, to: NodeId) {
        if let Some(wire) = self.shared.net().wires.get(&(from, to)) {
            wire.standing.send_modify(|standing| standing.cuts += 1);
        }
    }

    /// What happened to the messages of `channel` from `from` to `to`.
    pub fn counters(&self, from: NodeId, to: NodeId, channel: Channel) -> Counters {
        let net = self.shared.net();
        net.wires.get(&(from, to)).map(|wire| wire.pipe(channel).counters()).unwrap_or_default()
    }

    /// What happened to all messages.
    pub fn totals(&self) -> Counters {
        let mut totals = Counters::default();
        for wire in self.shared.net().wires.values() {
            wire.pipes.iter().for_each(|pipe| totals += pipe.counters());
        }
        totals
    }
}

/// What the hub and its transports share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: HubConfig,
    start: Instant,
    /// Rises when a node becomes known, so that transports notice that their routes are old.
    version: AtomicU64,
    // Changes of the network are short and rare; messages do not take this lock.
    net: Mutex<Net>,
}

#[derive(Debug, Default)]
struct Net {
    /// All nodes that were ever known, with the transport of those that are there.
    nodes: BTreeMap<NodeId, Option<Arc<Node>>>,
    /// By sender and receiver; made when both are known and kept.
    wires: BTreeMap<(NodeId, NodeId), Arc<Wire>>,
    partition: Partition,
    /// What goes wrong on a wire that is made.
    faults: LinkFaults,
}

impl Shared {
    /// See [`version`](Self::version).
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// The wires on which `from` sends, by receiver.
    pub(crate) fn routes(&self, from: NodeId) -> BTreeMap<NodeId, Arc<Wire>> {
        let net = self.net();
        let wires = net.wires.iter().filter(|((sender, _), _)| *sender == from);
        wires.map(|((_, to), wire)| (*to, Arc::clone(wire))).collect()
    }

    /// The transport of `node`, if it is there.
    pub(crate) fn node(&self, node: NodeId) -> Option<Arc<Node>> {
        self.net().nodes.get(&node).cloned().flatten()
    }

    /// How `node` stands with each of the others.
    pub(crate) fn peers(&self, node: NodeId) -> Vec<(NodeId, PeerState)> {
        let net = self.net();
        let others = net.nodes.keys().filter(|other| **other != node);
        others.map(|other| (*other, net.state(node, *other))).collect()
    }

    /// Notes that `node` receives from now on.
    pub(crate) fn listening(&self) {
        self.change(|_| ());
    }

    /// Takes a transport that is closing out of the network, unless another has replaced it.
    pub(crate) fn leave(&self, node: &Node) {
        self.change(|net| {
            if let Some(present) = net.nodes.get_mut(&node.id)
                && present.as_ref().is_some_and(|present| std::ptr::eq(&raw const **present, node))
            {
                *present = None;
            }
        });
    }

    /// Changes the network and brings wires and nodes in line with it.
    fn change(&self, change: impl FnOnce(&mut Net)) {
        let mut net = self.net();
        change(&mut net);
        for ((from, to), wire) in &net.wires {
            wire.set_open(net.is_open(*from, *to), net.is_open(*to, *from));
        }
        for node in net.nodes.values().flatten() {
            let wires = net.wires.iter().filter(|((_, to), _)| *to == node.id);
            node.attach(wires.map(|((from, _), wire)| (*from, Arc::clone(wire))));
        }
    }

    fn net(&self) -> MutexGuard<'_, Net> {
        // Nothing panics between two changes that belong together.
        self.net.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Net {
    fn know(&mut self, node: NodeId, shared: &Shared) {
        if self.nodes.contains_key(&node) {
            return;
        }
        for other in self.nodes.keys() {
            for (from, to) in [(*other, node), (node, *other)] {
                self.wires.insert((from, to), Arc::new(Wire::new(from, to, &self.faults, shared)));
            }
        }
        self.nodes.insert(node, None);
        shared.version.fetch_add(1, Ordering::Release);
    }

    /// Whether what `from` sends now can be received.
    fn is_open(&self, from: NodeId, to: NodeId) -> bool {
        let present = |node| self.nodes.get(&node).and_then(Option::as_ref);
        self.partition.is_open(from, to)
            && present(from).is_some()
            && present(to).is_some_and(|node| node.is_listening())
    }

    fn state(&self, node: NodeId, other: NodeId) -> PeerState {
        if self.is_open(node, other) && self.is_open(other, node) {
            return PeerState::Connected;
        }
        let reason = match self.nodes.get(&other) {
            Some(Some(_)) => {
                let cut =
                    !self.partition.is_open(node, other) || !self.partition.is_open(other, node);
                cut.then(|| format!("the link to {other} is cut"))
            }
            _ => Some(format!("{other} is not connected to the hub")),
        };
        PeerState::Connecting { reason }
    }
}

/// Everything that goes from one node to another.
#[derive(Debug)]
pub(crate) struct Wire {
    pipes: [Arc<Pipe>; Channel::ALL.len()],
    /// What bulk transfers watch.
    standing: watch::Sender<Standing>,
}

/// How a wire stands for bulk transfers, which need both directions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) open: bool,
    /// Rises with each cut: a transfer that began before it has ended.
    pub(crate) cuts: u64,
}

impl Wire {
    fn new(from: NodeId, to: NodeId, faults: &LinkFaults, shared: &Shared) -> Self {
        let pipes = Channel::ALL.map(|channel| {
            let link = Link::new(shared.config.seed, from, to, channel);
            Arc::new(Pipe::new(from, channel, link, faults.clone(), shared.start, &shared.config))
        });
        Self { pipes, standing: watch::Sender::default() }
    }

    pub(crate) fn pipe(&self, channel: Channel) -> &Arc<Pipe> {
        &self.pipes[channel as usize]
    }

    pub(crate) fn pipes(&self) -> impl Iterator<Item = &Arc<Pipe>> {
        self.pipes.iter()
    }

    pub(crate) fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    fn set_open(&self, there: bool, back: bool) {
        self.pipes.iter().for_each(|pipe| pipe.set_open(there));
        let open = there && back;
        self.standing.send_if_modified(|standing| {
            if standing.open == open {
                return false;
            }
            *standing = Standing { open, cuts: standing.cuts + u64::from(!open) };
            true
        });
    }

    fn set_faults(&self, faults: &LinkFaults) {
        self.pipes.iter().for_each(|pipe| pipe.set_faults(faults.clone()));
    }
}
