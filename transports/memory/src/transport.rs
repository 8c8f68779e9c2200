//! One node's end of the hub.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use bytes::Bytes;
use quorate_replicator::limits::MESSAGE_BYTES_MAX;
use quorate_replicator::{
    BulkError, BulkOffer, BulkSource, Channel, Inbound, NodeId, PeerState, SendError, Transport,
};

use crate::bulk::BulkTransfer;
use crate::hub::Wire;
use crate::node::Node;

/// One node's end of a [`MemoryHub`](crate::MemoryHub). Dropping it begins to close it.
#[derive(Debug)]
pub struct MemoryTransport {
    node: Arc<Node>,
    // Read for each message, written when a node becomes known.
    routes: RwLock<Routes>,
}

#[derive(Debug, Default)]
struct Routes {
    /// The hub's version that they are of.
    version: u64,
    wires: BTreeMap<NodeId, Arc<Wire>>,
}

impl MemoryTransport {
    pub(crate) fn new(node: Arc<Node>) -> Self {
        Self { node, routes: RwLock::default() }
    }

    /// Runs `with` on the wire to `to`.
    fn route<T>(&self, to: NodeId, with: impl FnOnce(&Arc<Wire>) -> T) -> Option<T> {
        let version = self.node.hub.version();
        {
            // Nothing panics while the lock is held for writing.
            let routes = self.routes.read().unwrap_or_else(PoisonError::into_inner);
            if routes.version == version {
                return routes.wires.get(&to).map(with);
            }
        }
        let wires = self.node.hub.routes(self.node.id);
        let found = wires.get(&to).map(with);
        *self.routes.write().unwrap_or_else(PoisonError::into_inner) = Routes { version, wires };
        found
    }
}

#[async_trait]
impl Transport for MemoryTransport {
    fn local_id(&self) -> NodeId {
        self.node.id
    }

    fn peers(&self) -> Vec<(NodeId, PeerState)> {
        let mut peers = self.node.hub.peers(self.node.id);
        if self.node.is_closed() {
            let reason = Some("this transport is closed".to_owned());
            for (_, state) in &mut peers {
                *state = PeerState::Connecting { reason: reason.clone() };
            }
        }
        peers
    }

    fn receive(&self, inbound: Arc<dyn Inbound>) {
        self.node.receive(inbound);
    }

    fn send(&self, to: NodeId, channel: Channel, message: Bytes) -> Result<(), SendError> {
        if self.node.is_closed() {
            return Err(SendError::Closed);
        }
        if message.len() > MESSAGE_BYTES_MAX {
            return Err(SendError::TooLarge(message.len()));
        }
        self.route(to, |wire| wire.pipe(channel).send(message))
            .unwrap_or(Err(SendError::UnknownPeer(to)))
    }

    async fn send_bulk(
        &self,
        to: NodeId,
        offer: BulkOffer,
        source: Arc<dyn BulkSource>,
    ) -> Result<(), BulkError> {
        if self.node.is_closed() {
            return Err(BulkError::Closed);
        }
        let wire = self.route(to, Arc::clone).ok_or(BulkError::UnknownPeer(to))?;
        let transfer = BulkTransfer::new(&self.node, to, &wire, offer, &*source);
        tokio::select! {
            biased;
            () = self.node.closing() => Err(BulkError::Closed),
            result = transfer.run() => result,
        }
    }

    async fn close(&self) {
        self.node.begin_close();
        self.node.ended().await;
    }
}

impl Drop for MemoryTransport {
    fn drop(&mut self) {
        self.node.begin_close();
    }
}
