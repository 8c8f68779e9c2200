//! Takes bulk bodies from a peer.
//!
//! ```text
//!   sender                      receiver
//!     BulkOffer  --------------->            Inbound::bulk
//!                <---------------  BulkAccept { resume_at }, or BulkRefuse { words }
//!     BulkChunk  --------------->            BulkSink::write
//!                <---------------  BulkTaken { offset }
//!     (the end)  --------------->            BulkSink::finish
//!                <---------------  BulkDone, or BulkRefuse { words }
//! ```

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use quinn::{RecvStream, SendStream};
use quorate_replicator::{BulkId, BulkSink, Inbound, NodeId};
use tokio::sync::{OwnedMutexGuard, OwnedSemaphorePermit, oneshot};

use crate::codec::{FrameError, Kind};
use crate::frame_stream::{FrameStream, StreamError};
use crate::node::{Node, Shown};
use crate::status::{Direction, Progress};
use crate::wire;

/// Which bodies are being taken: one sink at a time for each, whatever a sender does.
#[derive(Debug, Default)]
pub(crate) struct Receiving {
    bodies: Mutex<HashMap<Body, Arc<tokio::sync::Mutex<()>>>>,
}

/// A body, and who sends it.
type Body = (NodeId, BulkId);

/// The right to take one body.
#[derive(Debug)]
struct Turn {
    node: Arc<Node>,
    body: Body,
    held: Option<OwnedMutexGuard<()>>,
    /// The body's place among those that its sender may be sending.
    sink: Option<OwnedSemaphorePermit>,
}

impl Turn {
    /// Waits until nobody else takes this body, and for a place among those of its sender; none if that is a peer no more.
    async fn wait(node: &Arc<Node>, body: Body) -> Option<Self> {
        let sinks = node.with_peer(body.0, |peer| Arc::clone(&peer.sinks))?;
        let lock = {
            let mut bodies = node.receiving.bodies.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(bodies.entry(body).or_default())
        };
        // Made first, so that a wait that is given up clears up too.
        let mut turn = Self { node: Arc::clone(node), body, held: None, sink: None };
        turn.held = Some(lock.lock_owned().await);
        turn.sink = sinks.acquire_owned().await.ok();
        Some(turn)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut bodies = self.node.receiving.bodies.lock().unwrap_or_else(PoisonError::into_inner);
        self.held = None;
        // The map's own is left: nobody holds or waits for it.
        if bodies.get(&self.body).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            bodies.remove(&self.body);
        }
    }
}

/// Takes one body, or a part of it, on a pair of streams.
pub(crate) async fn receive(
    node: &Arc<Node>,
    from: NodeId,
    inbound: &Arc<dyn Inbound>,
    send: SendStream,
    recv: RecvStream,
) -> Result<(), StreamError> {
    // The sender gives up what it does not want any more; that ends the sink at whatever it does.
    let stopped = send.stopped();
    tokio::select! {
        biased;
        result = take(node, from, inbound, send, recv) => result,
        _ = stopped => Err(StreamError::GivenUp),
    }
}

async fn take(
    node: &Arc<Node>,
    from: NodeId,
    inbound: &Arc<dyn Inbound>,
    mut send: SendStream,
    recv: RecvStream,
) -> Result<(), StreamError> {
    let mut frames = FrameStream::new(recv, node.limits.stall_timeout);
    let offer = wire::read_offer(frames.expect().await?.expect(Kind::BulkOffer)?)?;
    let turn = Turn::wait(node, (from, offer.id)).await.ok_or(StreamError::GivenUp)?;
    let bytes = offer.bytes;
    let progress = Progress::new(from, Direction::Receiving, offer.id, bytes);
    let shown = node.show(progress);
    shown.progress.attempts.store(1, Ordering::Relaxed);
    let accepted = inbound.bulk(from, offer).and_then(|sink| {
        let at = sink.resume_at();
        if at > bytes {
            return Err(format!("it has {at} bytes of a body of {bytes}"));
        }
        Ok((sink, at))
    });
    let (sink, mut offset) = match accepted {
        Ok(accepted) => accepted,
        Err(words) => return refuse(send, &words).await,
    };
    shown.progress.done.store(offset, Ordering::Relaxed);
    write(&mut send, wire::place(Kind::BulkAccept, offset)).await?;
    let mut sink = Some(sink);
    while let Some(frame) = frames.next().await? {
        let (at, chunk) = wire::read_chunk(frame.expect(Kind::BulkChunk)?)?;
        let taken = chunk.len() as u64;
        if at != offset || taken > bytes - offset {
            return Err(StreamError::Frame(FrameError::Body(Kind::BulkChunk)));
        }
        let open = sink.as_mut().expect("the sink is there until all was written");
        if let Err(words) = open.write(chunk).await {
            return refuse(send, &words).await;
        }
        offset += taken;
        shown.progress.done.store(offset, Ordering::Relaxed);
        shown.progress.moved.fetch_add(taken, Ordering::Relaxed);
        write(&mut send, wire::place(Kind::BulkTaken, offset)).await?;
    }
    // A sender that is gone ends its stream too: only a body that is whole is finished.
    let whole = sink.take().filter(|_| offset == bytes);
    let Some(sink) = whole else { return Err(StreamError::GivenUp) };
    match finish(node, sink, turn, shown).await {
        Ok(()) => {
            write(&mut send, crate::codec::frame(Kind::BulkDone, &[])).await?;
            let _ = send.finish();
            Ok(())
        }
        Err(words) => refuse(send, &words).await,
    }
}

/// Finishes a body. That goes on when the connection ends, since a sink is promised it.
async fn finish(
    node: &Arc<Node>,
    sink: Box<dyn BulkSink>,
    turn: Turn,
    shown: Shown,
) -> Result<(), String> {
    let (done, result) = oneshot::channel();
    node.spawn(async move {
        let result = sink.finish().await;
        drop((turn, shown));
        // Who no longer waits need not be told.
        let _ = done.send(result);
    });
    result.await.unwrap_or_else(|_| Err("the receiver closes".into()))
}

async fn refuse(mut send: SendStream, words: &str) -> Result<(), StreamError> {
    write(&mut send, wire::refuse(words)).await?;
    let _ = send.finish();
    Ok(())
}

async fn write(send: &mut SendStream, frame: bytes::Bytes) -> Result<(), StreamError> {
    send.write_chunk(frame).await.map_err(|error| match error {
        quinn::WriteError::ConnectionLost(error) => StreamError::Lost(error),
        _ => StreamError::GivenUp,
    })
}
