//! A receiver that counts, keeps a few, and waits for what is asked for.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use quorate_replicator::{
    BulkOffer, BulkSink, Bytes, Channel, Inbound, NodeId, PeerState, Transport,
};
use quorate_transport_quic::QuicTransport;
use tokio::time::Instant;

/// How long anything that must happen may take; only waited out when it does not.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Counts messages, and keeps the bodies of bulk.
#[derive(Debug, Default)]
pub(crate) struct Receiver {
    pub(crate) messages: AtomicU64,
    pub(crate) last: Mutex<Option<(NodeId, Channel, Bytes)>>,
    pub(crate) bodies: Mutex<Vec<Bytes>>,
}

impl Receiver {
    pub(crate) fn at(transport: &QuicTransport) -> Arc<Self> {
        let receiver = Arc::new(Self::default());
        transport.receive(Arc::clone(&receiver) as _);
        receiver
    }

    pub(crate) fn count(&self) -> u64 {
        self.messages.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl Inbound for Receiver {
    async fn message(&self, from: NodeId, channel: Channel, message: Bytes) {
        *self.last.lock().unwrap() = Some((from, channel, message));
        self.messages.fetch_add(1, Ordering::SeqCst);
    }

    fn peer(&self, _: NodeId, _: PeerState) {}

    fn bulk(&self, _: NodeId, offer: BulkOffer) -> Result<Box<dyn BulkSink>, String> {
        Ok(Box::new(Body { bytes: offer.bytes, taken: 0 }))
    }
}

#[derive(Debug)]
struct Body {
    bytes: u64,
    taken: u64,
}

#[async_trait]
impl BulkSink for Body {
    fn resume_at(&self) -> u64 {
        0
    }

    async fn write(&mut self, chunk: Bytes) -> Result<(), String> {
        self.taken += chunk.len() as u64;
        Ok(())
    }

    async fn finish(self: Box<Self>) -> Result<(), String> {
        if self.taken == self.bytes { Ok(()) } else { Err("not all of it came".into()) }
    }
}

/// Waits until `condition` holds.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "{what} (waited {PATIENCE:?})");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// How `node` stands with `peer`.
pub(crate) fn state(node: &QuicTransport, peer: u64) -> Option<PeerState> {
    let peer = NodeId::new(peer);
    node.peers().into_iter().find(|(id, _)| *id == peer).map(|(_, state)| state)
}

/// Why `node` is not connected with `peer`.
pub(crate) fn reason(node: &QuicTransport, peer: u64) -> Option<String> {
    match state(node, peer) {
        Some(PeerState::Connecting { reason }) => reason,
        _ => None,
    }
}

/// Waits until both are connected with each other.
pub(crate) async fn connected(a: &QuicTransport, b: &QuicTransport) {
    let (id_a, id_b) = (a.local_id().number(), b.local_id().number());
    until("two nodes that may speak become connected", || {
        state(a, id_b) == Some(PeerState::Connected) && state(b, id_a) == Some(PeerState::Connected)
    })
    .await;
}

/// Waits until the reason that `node` gives for `peer` has these words.
pub(crate) async fn explained(node: &QuicTransport, peer: u64, words: &str) {
    let start = Instant::now();
    loop {
        let found = reason(node, peer).unwrap_or_default();
        if found.contains(words) {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "expected {words:?} in {found:?}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Waits until `node` has refused somebody with these words.
pub(crate) async fn refused(node: &QuicTransport, words: &str) {
    let start = Instant::now();
    loop {
        let refusals = node.status().refusals;
        if refusals.iter().any(|refusal| refusal.reason.contains(words)) {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "expected {words:?} among {refusals:#?}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
