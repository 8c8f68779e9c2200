//! Serves one connection of two nodes, from when both have greeted to its end.
//!
//! ```text
//!   queue of each channel --task--> uni stream -----------> uni stream --task--> Inbound::message
//!   send_bulk ---------------------> bidi stream <---------> bidi stream --task--> BulkSink
//! ```
//!
//! Everything on a connection runs in tasks that end with it, and the next connection of the same pair begins after
//! that: so a message of an old connection never arrives after one of a new connection.

use std::sync::Arc;
use std::time::SystemTime;

use quinn::{Connection, RecvStream, SendStream};
use quorate_replicator::{Channel, Inbound, NodeId};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::bulk_receive;
use crate::codec::{Frame, Kind};
use crate::explain::{self, CloseCode, close};
use crate::frame_stream::{FrameStream, StreamError};
use crate::node::Node;
use crate::peer::{Link, Peer};
use crate::wire;

/// What of a connection goes first when not all of it can go.
fn priority(channel: Channel) -> i32 {
    match channel {
        Channel::Control => 3,
        Channel::Requests => 2,
        Channel::Entries => 1,
    }
}

/// Why a task of a connection ended it.
type Broken = String;

/// Serves a connection that counts; returns when nothing of it runs any more.
pub(crate) async fn serve(node: &Arc<Node>, peer: &Arc<Peer>, link: Arc<Link>) {
    let _serving = tokio::select! {
        biased;
        // It may be replaced, or lost, before its turn comes.
        error = link.connection.closed() => {
            peer.lost(link.generation, explain::lost(&peer.id.to_string(), &error));
            node.changed();
            return;
        }
        serving = peer.serving.lock() => serving,
    };
    let _counted = node.serving();
    let _lost = Lost { node, peer, link: &link };
    let Some(inbound) = node.inbound() else { return };
    if !peer.connected(&link) {
        let words = format!("{} has no use for this connection any more", node.id);
        close(&link.connection, CloseCode::Superseded, &words);
        return;
    }
    node.changed();
    tracing::info!(node = %node.id, peer = %peer.id, incarnation = link.incarnation, "connected");
    run(node, peer, &link, &inbound).await;
}

/// Clears up after a connection, however serving it ends.
struct Lost<'a> {
    node: &'a Node,
    peer: &'a Peer,
    link: &'a Link,
}

impl Drop for Lost<'_> {
    fn drop(&mut self) {
        let connection = &self.link.connection;
        let words = match connection.close_reason() {
            Some(error) => explain::lost(&self.peer.id.to_string(), &error),
            None => "this node closes".into(),
        };
        // Only a node that closes comes here with a connection that goes on.
        close(connection, CloseCode::Closed, "the node is shutting down");
        self.peer.queues().for_each(crate::queue::Queue::close);
        tracing::info!(node = %self.node.id, peer = %self.peer.id, "disconnected: {words}");
        self.peer.lost(self.link.generation, words);
        self.node.changed();
    }
}

async fn run(node: &Arc<Node>, peer: &Arc<Peer>, link: &Link, inbound: &Arc<dyn Inbound>) {
    let connection = &link.connection;
    let mut tasks = JoinSet::<Result<(), Broken>>::new();
    for channel in Channel::ALL {
        peer.queue(channel).open();
        tasks.spawn(write(connection.clone(), Arc::clone(peer), channel));
    }
    // Which channels the peer sends on already: each has one stream.
    let taken = Arc::new(watch::Sender::new([false; Channel::ALL.len()]));
    let left = link.not_after.duration_since(SystemTime::now()).unwrap_or_default();
    let expired = tokio::time::sleep(left);
    tokio::pin!(expired);
    let broken = loop {
        tokio::select! {
            _ = connection.closed() => break None,
            stream = connection.accept_uni() => {
                let Ok(stream) = stream else { continue };
                let stall = node.limits.stall_timeout;
                let frames = FrameStream::new(stream, stall);
                tasks.spawn(read(frames, Arc::clone(peer), Arc::clone(&taken), Arc::clone(inbound)));
            }
            streams = connection.accept_bi() => {
                let Ok((send, recv)) = streams else { continue };
                tasks.spawn(receive_bulk(Arc::clone(node), Arc::clone(peer), Arc::clone(inbound), send, recv));
            }
            Some(ended) = tasks.join_next() => {
                if let Ok(Err(words)) = ended {
                    break Some((CloseCode::Protocol, words));
                }
            }
            () = &mut expired => {
                let words = format!("the certificate that {} came with has expired", peer.id);
                break Some((CloseCode::Expired, words));
            }
        }
    };
    if let Some((code, words)) = broken {
        node.refuse(connection.remote_address(), &words);
        close(connection, code, &words);
    }
    // Aborts what is left and waits for it.
    tasks.shutdown().await;
}

/// Writes what is queued for a channel.
async fn write(connection: Connection, peer: Arc<Peer>, channel: Channel) -> Result<(), Broken> {
    // What cannot be written is lost with the connection, whose end says why.
    let Ok(mut stream) = connection.open_uni().await else { return Ok(()) };
    let _ = stream.set_priority(priority(channel));
    if stream.write_chunk(wire::channel(channel)).await.is_err() {
        return Ok(());
    }
    let queue = peer.queue(channel);
    loop {
        let mut batch = queue.next().await;
        if let Err(error) = stream.write_all_chunks(&mut batch.pieces).await {
            return match error {
                quinn::WriteError::ConnectionLost(_) => Ok(()),
                other => Err(format!("{} gave up the stream of {channel:?}: {other}", peer.id)),
            };
        }
        queue.written(&batch);
    }
}

/// Gives what comes on a stream to the receiver.
async fn read(
    mut frames: FrameStream,
    peer: Arc<Peer>,
    taken: Arc<watch::Sender<[bool; Channel::ALL.len()]>>,
    inbound: Arc<dyn Inbound>,
) -> Result<(), Broken> {
    let broken = |error: StreamError| match error {
        StreamError::Lost(_) => Ok(()),
        other => Err(format!("{} broke the protocol: {other}", peer.id)),
    };
    let first = frames.expect().await.and_then(|frame| {
        Ok(frame.expect(Kind::Channel).and_then(|body| wire::read_channel(&body))?)
    });
    let channel = match first {
        Ok(channel) => channel,
        Err(error) => return broken(error),
    };
    let mut twice = false;
    taken.send_modify(|taken| twice = std::mem::replace(&mut taken[channel as usize], true));
    if twice {
        return Err(format!("{} broke the protocol: two streams for {channel:?}", peer.id));
    }
    loop {
        let taken = match frames.expect().await {
            Ok(frame) => deliver(frame, peer.id, channel, &*inbound).await,
            Err(error) => Err(error),
        };
        if let Err(error) = taken {
            return broken(error);
        }
        // A receiver that is always ready must not keep the thread for itself.
        tokio::task::coop::consume_budget().await;
    }
}

/// Gives the messages of a frame to the receiver.
async fn deliver(
    frame: Frame,
    from: NodeId,
    channel: Channel,
    inbound: &dyn Inbound,
) -> Result<(), StreamError> {
    let mut messages = wire::Messages::of(frame)?;
    while let Some(message) = messages.next()? {
        inbound.message(from, channel, message).await;
    }
    Ok(())
}

async fn receive_bulk(
    node: Arc<Node>,
    peer: Arc<Peer>,
    inbound: Arc<dyn Inbound>,
    send: SendStream,
    recv: RecvStream,
) -> Result<(), Broken> {
    match bulk_receive::receive(&node, peer.id, &inbound, send, recv).await {
        // A sender may give a transfer up at any place, and a connection may end.
        Ok(()) | Err(StreamError::Lost(_) | StreamError::GivenUp) => Ok(()),
        Err(other) => Err(format!("{} broke the protocol of bulk: {other}", peer.id)),
    }
}
