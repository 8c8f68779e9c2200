//! The receiver of a node that no other node speaks with.

use async_trait::async_trait;
use bytes::Bytes;
use quorate_replicator::{BulkOffer, BulkSink, Channel, Inbound, NodeId, PeerState};

/// No node speaks with this end.
#[derive(Debug)]
pub(crate) struct Nobody;

#[async_trait]
impl Inbound for Nobody {
    async fn message(&self, _: NodeId, _: Channel, _: Bytes) {}

    fn peer(&self, _: NodeId, _: PeerState) {}

    fn bulk(&self, _: NodeId, _: BulkOffer) -> Result<Box<dyn BulkSink>, String> {
        Err("nobody sends here".into())
    }
}
