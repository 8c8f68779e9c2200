//! The suite of transports catches each of many transports that do not keep the contract, and names the clause.

use std::sync::Arc;

use async_trait::async_trait;
use quorate_conformance::{Network, TransportFactory, transport};
use quorate_replicator::limits::MESSAGE_BYTES_MAX;
use quorate_replicator::{
    BulkError, BulkOffer, BulkSink, BulkSource, Bytes, Channel, Inbound, NodeId, PeerState,
    SendError, Transport,
};
use quorate_transport_memory::{MemoryHub, MemoryTransport};

/// What is wrong with a transport, on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    SpawnsATaskForEachMessage,
    DeliversTwice,
    DeliversAnOldMessageAfterAReconnect,
    CutsLargeMessages,
    TakesMessagesToStrangers,
    ForgetsWhatDoesNotFit,
    ReceivesOneAfterTheOther,
    BelievesTheMessage,
    TakesMessagesAfterClose,
    KeepsTheReceiverAfterClose,
    NeverSpeaksOfPeers,
    ListsItself,
    NeverReconnects,
    SendsBulkFromTheBeginning,
    IgnoresRefusals,
    NeverFinishesBulk,
    LeavesOutChunks,
    HidesTheFailureOfASource,
}

use Fault::*;

/// Each fault, and words with which the suite may name the clause that it breaks.
const PLANTED: &[(Fault, &[&str])] = &[
    (SpawnsATaskForEachMessage, &["in the order of sending", "as they were sent"]),
    (DeliversTwice, &["as they were sent"]),
    (DeliversAnOldMessageAfterAReconnect, &["at most once, over reconnects"]),
    (CutsLargeMessages, &["refused as TooLarge"]),
    (TakesMessagesToStrangers, &["refused as UnknownPeer"]),
    (ForgetsWhatDoesNotFit, &["queues are bounded", "each once"]),
    (ReceivesOneAfterTheOther, &["delays no other channel"]),
    (BelievesTheMessage, &["real sender"]),
    (TakesMessagesAfterClose, &["refused as Closed"]),
    (KeepsTheReceiverAfterClose, &["nothing holds the receiver"]),
    (NeverSpeaksOfPeers, &["announced as Connected"]),
    (ListsItself, &["without oneself", "queued for every peer"]),
    (NeverReconnects, &["announced as Connected"]),
    (SendsBulkFromTheBeginning, &["goes on where resume_at says"]),
    (IgnoresRefusals, &["refusal reaches the sender"]),
    (NeverFinishesBulk, &["a whole body is finished once"]),
    (LeavesOutChunks, &["chunks are whole", "arrives whole"]),
    (HidesTheFailureOfASource, &["words of a source that fails"]),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_planted_fault_is_caught_and_named() {
    let mut suites = tokio::task::JoinSet::new();
    for (fault, words) in PLANTED {
        suites.spawn(async move {
            let suite = tokio::spawn(transport::transport(Factory(*fault)));
            let panic = suite.await.expect_err(&format!("{fault:?} passed the suite")).into_panic();
            let named = panic.downcast_ref::<String>().cloned().unwrap_or_default();
            assert!(
                words.iter().any(|words| named.contains(words)),
                "{fault:?} should be named by one of {words:?}, not: {named}"
            );
        });
    }
    while let Some(caught) = suites.join_next().await {
        caught.expect("the fault is caught");
    }
}

#[derive(Debug)]
struct Factory(Fault);

#[derive(Debug)]
struct FaultyNetwork {
    hub: MemoryHub,
    fault: Fault,
    transports: Vec<Arc<Faulty>>,
}

#[async_trait]
impl TransportFactory for Factory {
    async fn open(&self, nodes: usize) -> Box<dyn Network> {
        let (hub, fault) = (MemoryHub::new(1), self.0);
        let transports = (1..)
            .take(nodes)
            .map(|node| hub.connect(NodeId::new(node)))
            .map(|inner| Arc::new(Faulty { fault, inner, kept: std::sync::Mutex::default() }))
            .collect();
        Box::new(FaultyNetwork { hub, fault, transports })
    }
}

#[async_trait]
impl Network for FaultyNetwork {
    fn transports(&self) -> Vec<Arc<dyn Transport>> {
        self.transports.iter().map(|transport| Arc::clone(transport) as _).collect()
    }

    async fn cut(&self, a: NodeId, b: NodeId) {
        self.hub.cut(a, b);
    }

    async fn heal(&self, a: NodeId, b: NodeId) {
        if self.fault != NeverReconnects {
            self.hub.restore(a, b);
        }
    }

    async fn shutdown(&self) {}
}

/// The memory transport with a fault.
#[derive(Debug)]
struct Faulty {
    fault: Fault,
    inner: Arc<MemoryTransport>,
    kept: std::sync::Mutex<Option<Arc<dyn Inbound>>>,
}

#[async_trait]
impl Transport for Faulty {
    fn local_id(&self) -> NodeId {
        self.inner.local_id()
    }

    fn peers(&self) -> Vec<(NodeId, PeerState)> {
        let mut peers = self.inner.peers();
        if self.fault == ListsItself {
            peers.push((self.local_id(), PeerState::Connected));
        }
        peers
    }

    fn receive(&self, inbound: Arc<dyn Inbound>) {
        if self.fault == KeepsTheReceiverAfterClose {
            *self.kept.lock().unwrap() = Some(Arc::clone(&inbound));
        }
        let inbound = FaultyInbound {
            fault: self.fault,
            inner: inbound,
            last: std::sync::Mutex::default(),
            one: tokio::sync::Mutex::default(),
        };
        self.inner.receive(Arc::new(inbound));
    }

    fn send(&self, to: NodeId, channel: Channel, message: Bytes) -> Result<(), SendError> {
        let message = match self.fault {
            CutsLargeMessages => message.slice(..message.len().min(MESSAGE_BYTES_MAX)),
            _ => message,
        };
        match (self.inner.send(to, channel, message), self.fault) {
            (Err(SendError::QueueFull), ForgetsWhatDoesNotFit)
            | (Err(SendError::UnknownPeer(_)), TakesMessagesToStrangers)
            | (Err(SendError::Closed), TakesMessagesAfterClose) => Ok(()),
            (result, _) => result,
        }
    }

    async fn send_bulk(
        &self,
        to: NodeId,
        offer: BulkOffer,
        source: Arc<dyn BulkSource>,
    ) -> Result<(), BulkError> {
        match (self.inner.send_bulk(to, offer, source).await, self.fault) {
            (Err(BulkError::Refused(_)), IgnoresRefusals)
            | (Err(BulkError::Source(_)), HidesTheFailureOfASource) => Ok(()),
            (result, _) => result,
        }
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}

#[derive(Debug)]
struct FaultyInbound {
    fault: Fault,
    inner: Arc<dyn Inbound>,
    last: std::sync::Mutex<Option<Bytes>>,
    one: tokio::sync::Mutex<()>,
}

#[async_trait]
impl Inbound for FaultyInbound {
    async fn message(&self, from: NodeId, channel: Channel, message: Bytes) {
        match self.fault {
            SpawnsATaskForEachMessage => {
                let inner = Arc::clone(&self.inner);
                tokio::spawn(async move {
                    for _ in 0..message.len() % 5 {
                        tokio::task::yield_now().await;
                    }
                    inner.message(from, channel, message).await;
                });
            }
            DeliversTwice => {
                self.inner.message(from, channel, message.clone()).await;
                self.inner.message(from, channel, message).await;
            }
            DeliversAnOldMessageAfterAReconnect => {
                // The suite's first message after a reconnect is a marker.
                let old = if message == "marker" {
                    self.last.lock().unwrap().take()
                } else {
                    *self.last.lock().unwrap() = Some(message.clone());
                    None
                };
                if let Some(old) = old {
                    self.inner.message(from, channel, old).await;
                }
                self.inner.message(from, channel, message).await;
            }
            ReceivesOneAfterTheOther => {
                let _one = self.one.lock().await;
                self.inner.message(from, channel, message).await;
            }
            BelievesTheMessage if channel == Channel::Requests && message.len() == 16 => {
                // The suite's other messages of this length hold larger numbers.
                let claimed = message.first_chunk().map(|id| u64::from_be_bytes(*id));
                let claimed = claimed.filter(|id| (1..=3).contains(id)).map_or(from, NodeId::new);
                self.inner.message(claimed, channel, message).await;
            }
            _ => self.inner.message(from, channel, message).await,
        }
    }

    fn peer(&self, peer: NodeId, state: PeerState) {
        if self.fault != NeverSpeaksOfPeers {
            self.inner.peer(peer, state);
        }
    }

    fn bulk(&self, from: NodeId, offer: BulkOffer) -> Result<Box<dyn BulkSink>, String> {
        let inner = self.inner.bulk(from, offer)?;
        let repeated = if self.fault == SendsBulkFromTheBeginning { inner.resume_at() } else { 0 };
        Ok(Box::new(FaultySink { fault: self.fault, inner, repeated, chunks: 0 }))
    }
}

#[derive(Debug)]
struct FaultySink {
    fault: Fault,
    inner: Box<dyn BulkSink>,
    /// Bytes that come again, though the sink has them.
    repeated: u64,
    chunks: u64,
}

#[async_trait]
impl BulkSink for FaultySink {
    fn resume_at(&self) -> u64 {
        if self.fault == SendsBulkFromTheBeginning { 0 } else { self.inner.resume_at() }
    }

    async fn write(&mut self, mut chunk: Bytes) -> Result<(), String> {
        self.chunks += 1;
        let known = chunk.len().min(usize::try_from(self.repeated).unwrap());
        self.repeated -= known as u64;
        let new = chunk.split_off(known);
        if new.is_empty() || (self.fault == LeavesOutChunks && self.chunks.is_multiple_of(3)) {
            return Ok(());
        }
        self.inner.write(new).await
    }

    async fn finish(self: Box<Self>) -> Result<(), String> {
        if self.fault == NeverFinishesBulk { Ok(()) } else { self.inner.finish().await }
    }
}
