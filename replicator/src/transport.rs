//! How nodes reach one another: small messages on channels, and bulk transfers beside them.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::{Member, NodeId};

/// Carries messages between the nodes of one cluster. It knows nothing of consensus, and one transport serves
/// every driver and every group of a node.
///
/// # Contract
///
/// - **Order.** Messages from one node to another on one [`Channel`] arrive in the order in which they were sent,
///   each at most once, unless the implementation says that it breaks this on purpose (the memory hub does, when
///   asked). Messages may be lost, without notice, at any time; consensus repeats what matters.
/// - **Isolation.** A full or slow channel does not delay another one; a bulk transfer delays none of them.
/// - **Identity.** `from` in [`Inbound::message`] is who the sender proved to be, never what a message says.
/// - **Bounded.** Queues have limits; [`send`](Self::send) refuses what does not fit instead of waiting.
/// - **Reconnect.** A lost connection is made again with growing pauses and jitter; nobody has to ask for it.
///
/// It is [`Any`], so that whoever put it together finds in it again what a transport of its kind can do besides.
#[async_trait]
pub trait Transport: Any + fmt::Debug + Send + Sync + 'static {
    /// This node.
    fn local_id(&self) -> NodeId;

    /// The other nodes that it may reach, and how it stands with each, in the order of their ids.
    fn peers(&self) -> Vec<(NodeId, PeerState)>;

    /// The members of the cluster are now these: a transport that needs addresses reaches those that are new at theirs, and neither
    /// reaches nor hears nodes that are gone. A member without an address is found where the transport's own configuration says.
    ///
    /// Does nothing by default, for a transport that reaches every node without being told.
    fn members(&self, members: &[Member]) {
        let _ = members;
    }

    /// Takes what arrives from now on to `inbound`. Called once, before messages are expected; what arrives earlier
    /// is lost.
    fn receive(&self, inbound: Arc<dyn Inbound>);

    /// Puts a message into the queue of `to`; returns at once. `Ok` means that it was queued, not that it arrived.
    ///
    /// # Errors
    ///
    /// The message was dropped, and why. Nothing is partly sent.
    fn send(&self, to: NodeId, channel: Channel, message: Bytes) -> Result<(), SendError>;

    /// Sends a bulk body and waits until the receiver has all of it. Cut connections are made again, and the
    /// transfer goes on where the receiver's [`BulkSink::resume_at`] says.
    ///
    /// # Errors
    ///
    /// The receiver refused, or the transfer cannot be finished; what the receiver has stays with it.
    ///
    /// # Cancel safety
    ///
    /// A dropped future ends the transfer; offering the same [`BulkId`] again resumes it.
    async fn send_bulk(
        &self,
        to: NodeId,
        offer: BulkOffer,
        source: Arc<dyn BulkSource>,
    ) -> Result<(), BulkError>;

    /// Ends all connections and awaits the end of everything the transport runs. May be called again.
    ///
    /// # Cancel safety
    ///
    /// Closing goes on when the future is dropped; call again to await the end.
    async fn close(&self);
}

/// Conveniences over any [`Transport`].
pub trait TransportExt: Transport {
    /// Sends the same message to all peers; the bytes are shared. Answers those that it could not be queued for.
    fn broadcast(&self, channel: Channel, message: &Bytes) -> Vec<(NodeId, SendError)> {
        let peers = self.peers().into_iter();
        peers
            .filter_map(|(peer, _)| Some((peer, self.send(peer, channel, message.clone()).err()?)))
            .collect()
    }
}

impl<T: Transport + ?Sized> TransportExt for T {}

/// Messages of different urgency travel apart, so that none waits behind another kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(clippy::exhaustive_enums, reason = "a transport must provide each of them")]
pub enum Channel {
    /// Votes and heartbeats: small and urgent.
    Control,
    /// Log entries and proposals of the group.
    Entries,
    /// Forwarded requests and their answers.
    Requests,
}

impl Channel {
    /// All channels.
    pub const ALL: [Self; 3] = [Self::Control, Self::Entries, Self::Requests];
}

/// How this node stands with a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PeerState {
    /// Both have proved who they are; messages flow.
    Connected,
    /// A connection is being made, for the first time or again.
    Connecting {
        /// Why the last attempt failed, if one did.
        reason: Option<String>,
    },
}

/// Takes what a transport receives.
#[async_trait]
pub trait Inbound: fmt::Debug + Send + Sync + 'static {
    /// One message. While the future waits, further messages of the same peer on the same channel wait too, and
    /// nothing else does: this is the backpressure.
    ///
    /// # Cancel safety
    ///
    /// The future is dropped when the connection ends or the transport closes; the message is then lost.
    async fn message(&self, from: NodeId, channel: Channel, message: Bytes);

    /// The standing of a peer changed.
    fn peer(&self, peer: NodeId, state: PeerState);

    /// A peer offers a bulk body. Answer where to put it, or why not.
    ///
    /// # Errors
    ///
    /// The words are given to the sender.
    fn bulk(&self, from: NodeId, offer: BulkOffer) -> Result<Box<dyn BulkSink>, String>;
}

/// Why a message was not queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The peer is not one this transport knows.
    #[error("{0} is not a peer of this node")]
    UnknownPeer(NodeId),
    /// The queue of this peer and channel is full.
    #[error("queue to the peer is full; the message was dropped")]
    QueueFull,
    /// The message is larger than [`MESSAGE_BYTES_MAX`](crate::limits::MESSAGE_BYTES_MAX).
    #[error("message has {0} bytes, more than a message may have")]
    TooLarge(usize),
    /// The transport was closed.
    #[error("the transport is closed")]
    Closed,
}

/// Names one bulk body, so that a transfer that was cut can be resumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BulkId(pub u128);

/// What a sender says before it sends a bulk body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BulkOffer {
    /// Which body; the same for each attempt.
    pub id: BulkId,
    /// Its length in bytes.
    pub bytes: u64,
    /// The driver's own words about it, at most 64 KiB.
    pub head: Bytes,
}

/// Reads a bulk body at any place, for the sender.
#[async_trait]
pub trait BulkSource: fmt::Debug + Send + Sync + 'static {
    /// Bytes from `offset` on: at least one and at most `bytes_max` of them, while `offset` is before the end.
    ///
    /// # Errors
    ///
    /// The body cannot be read; the transfer ends with these words.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it has no effect.
    async fn read(&self, offset: u64, bytes_max: usize) -> Result<Bytes, String>;
}

/// Takes a bulk body, for the receiver. Chunks are whole, checked, in order and without gaps from
/// [`resume_at`](Self::resume_at) on.
#[async_trait]
pub trait BulkSink: fmt::Debug + Send + 'static {
    /// How many bytes are kept from an earlier attempt: the sender goes on from there.
    fn resume_at(&self) -> u64;

    /// Takes the next chunk. Backpressure: the sender waits while the future does.
    ///
    /// # Errors
    ///
    /// The transfer ends with these words at the sender.
    ///
    /// # Cancel safety
    ///
    /// The future is dropped when the connection ends; a chunk counts once it has returned.
    async fn write(&mut self, chunk: Bytes) -> Result<(), String>;

    /// All bytes were written.
    ///
    /// # Errors
    ///
    /// The body as a whole is not what it should be; the sender is told.
    ///
    /// # Cancel safety
    ///
    /// Called once; the future is dropped only when the transport closes.
    async fn finish(self: Box<Self>) -> Result<(), String>;
}

/// Why a bulk body did not reach its receiver whole.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BulkError {
    /// The peer is not one this transport knows.
    #[error("{0} is not a peer of this node")]
    UnknownPeer(NodeId),
    /// The receiver does not want it.
    #[error("the receiver refused: {0}")]
    Refused(String),
    /// The sender could not read it.
    #[error("the body could not be read: {0}")]
    Source(String),
    /// The peer could not be reached for so long that the transport gave up.
    #[error("the peer cannot be reached: {0}")]
    Unreachable(String),
    /// The transport was closed.
    #[error("the transport is closed")]
    Closed,
}
