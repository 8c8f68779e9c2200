//! Sends a bulk body: in pieces, at a bounded rate, from where the receiver wants to go on.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use quinn::{ConnectionError, SendStream, VarInt};
use quorate_replicator::{BulkError, BulkOffer, BulkSource};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::codec::{BULK_HEAD_BYTES_MAX, Kind};
use crate::explain;
use crate::frame_stream::{FrameStream, StreamError};
use crate::node::{Node, Shown};
use crate::peer::{Link, Peer, Standing};
use crate::status::{Direction, Progress};
use crate::wire;

/// Least bytes that may be under way and not yet taken. It is what a cut costs, and what a round trip carries.
const AHEAD_BYTES_MIN: u64 = 256 << 10;

/// A larger body may have this part of it under way: ten cuts then cost less than 5 % of it.
const AHEAD_PART: u64 = 256;

/// The pauses between attempts on a connection that is there.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// What a stream is given up with.
const GIVEN_UP: VarInt = VarInt::from_u32(1);

/// Bulk goes after all messages.
const PRIORITY: i32 = -1;

/// How one attempt ended without a result.
struct Cut {
    /// Whether the receiver has taken anything: one that accepts and does no more was not reached.
    reached: bool,
    reason: String,
}

/// Attempts until there is a result, or the receiver has not been reached for too long.
pub(crate) async fn send(
    node: &Arc<Node>,
    peer: &Peer,
    offer: BulkOffer,
    source: &dyn BulkSource,
) -> Result<(), BulkError> {
    let head_bytes = offer.head.len();
    if head_bytes > BULK_HEAD_BYTES_MAX {
        let words =
            format!("the head has {head_bytes} bytes, at most {BULK_HEAD_BYTES_MAX} are allowed");
        return Err(BulkError::Source(words));
    }
    let shown = node.show(Progress::new(peer.id, Direction::Sending, offer.id, offer.bytes));
    let give_up_after = node.limits.bulk_give_up_after;
    let mut reached_at = Instant::now();
    let mut pause = PAUSE_MIN;
    loop {
        let left = give_up_after.saturating_sub(reached_at.elapsed());
        let cut = match tokio::time::timeout(left, connected(peer)).await {
            Ok(Some(link)) => {
                shown.progress.attempts.fetch_add(1, Ordering::Relaxed);
                match attempt(node, &link, &offer, source, &shown).await {
                    Ok(result) => return result,
                    Err(cut) => cut,
                }
            }
            Ok(None) => return Err(BulkError::UnknownPeer(peer.id)),
            Err(_) => Cut { reached: false, reason: standing_words(peer) },
        };
        if cut.reached {
            (pause, reached_at) = (PAUSE_MIN, Instant::now());
        } else if reached_at.elapsed() >= give_up_after {
            return Err(BulkError::Unreachable(cut.reason));
        }
        tokio::time::sleep(pause.mul_f64(0.5 + 0.5 * fastrand::f64())).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// The connection with the peer, as soon as there is one; none if it is a peer no more.
async fn connected(peer: &Peer) -> Option<Arc<Link>> {
    let mut standing = peer.standing();
    let settled = standing.wait_for(|standing| !matches!(standing, Standing::Connecting(_))).await;
    match &*settled.ok()? {
        Standing::Connected(link) => Some(Arc::clone(link)),
        Standing::Connecting(_) | Standing::Removed => None,
    }
}

fn standing_words(peer: &Peer) -> String {
    match &*peer.standing().borrow() {
        Standing::Connecting(Some(reason)) => reason.clone(),
        _ => format!("{} is not connected", peer.id),
    }
}

async fn attempt(
    node: &Node,
    link: &Link,
    offer: &BulkOffer,
    source: &dyn BulkSource,
    shown: &Shown,
) -> Result<Result<(), BulkError>, Cut> {
    let cut = |reached: bool, error: StreamError| Cut {
        reached,
        reason: match error {
            StreamError::Lost(error) => explain::lost("the receiver", &error),
            other => other.to_string(),
        },
    };
    let lost = |error: ConnectionError| cut(false, StreamError::Lost(error));
    let (send, recv) = link.connection.open_bi().await.map_err(lost)?;
    let _ = send.set_priority(PRIORITY);
    let mut send = GivenUp(send);
    let mut frames = FrameStream::new(recv, node.limits.stall_timeout);
    // If it cannot be written, reading says why.
    let _ = send.0.write_chunk(wire::offer(offer)).await;
    let answer = frames.expect().await.map_err(|error| cut(false, error))?;
    let start = match answer.kind {
        Kind::BulkRefuse => {
            return Ok(Err(BulkError::Refused(wire::read_words(&answer.body))));
        }
        _ => answer
            .expect(Kind::BulkAccept)
            .and_then(|body| wire::read_place(Kind::BulkAccept, &body)),
    };
    let start = start.map_err(|error| cut(false, error.into()))?;
    if start > offer.bytes {
        let words = format!("it has {start} bytes of a body of {}", offer.bytes);
        return Ok(Err(BulkError::Refused(words)));
    }
    shown.progress.done.store(start, Ordering::Relaxed);
    let taken = watch::Sender::new(start);
    let sending = push(node, &mut send.0, offer, source, start, taken.subscribe(), shown);
    let answered = hear(&mut frames, &taken, offer, shown);
    tokio::select! {
        biased;
        result = answered => match result {
            Ok(result) => Ok(result),
            Err(error) => Err(cut(*taken.borrow() > start, error)),
        },
        problem = sending => Ok(Err(BulkError::Source(problem))),
    }
}

/// A stream that is given up unless it was ended: a receiver must not take the part for the whole.
struct GivenUp(SendStream);

impl Drop for GivenUp {
    fn drop(&mut self) {
        // A stream that was ended does not mind.
        let _ = self.0.reset(GIVEN_UP);
    }
}

/// Hears what the receiver says, to the result.
async fn hear(
    frames: &mut FrameStream,
    taken: &watch::Sender<u64>,
    offer: &BulkOffer,
    shown: &Shown,
) -> Result<Result<(), BulkError>, StreamError> {
    loop {
        let frame = frames.expect().await?;
        match frame.kind {
            Kind::BulkDone => {
                shown.progress.done.store(offer.bytes, Ordering::Relaxed);
                return Ok(Ok(()));
            }
            Kind::BulkRefuse => {
                return Ok(Err(BulkError::Refused(wire::read_words(&frame.body))));
            }
            _ => {
                let body = frame.expect(Kind::BulkTaken)?;
                let offset = wire::read_place(Kind::BulkTaken, &body)?.min(offer.bytes);
                shown.progress.done.store(offset, Ordering::Relaxed);
                taken.send_replace(offset);
            }
        }
    }
}

/// Sends the body from `start` on; returns only if the source fails, with its words.
async fn push(
    node: &Node,
    send: &mut SendStream,
    offer: &BulkOffer,
    source: &dyn BulkSource,
    start: u64,
    mut taken: watch::Receiver<u64>,
    shown: &Shown,
) -> String {
    let window = u64::from(node.limits.stream_window_bytes);
    let ahead = (offer.bytes / AHEAD_PART).clamp(AHEAD_BYTES_MIN, window.max(AHEAD_BYTES_MIN));
    let chunk_max = node.limits.bulk_chunk_bytes.min(usize::try_from(ahead).unwrap_or(usize::MAX));
    let mut offset = start;
    while offset < offer.bytes {
        let left = usize::try_from(offer.bytes - offset).unwrap_or(usize::MAX);
        let bytes_max = chunk_max.min(left);
        let room = |taken: &u64| offset + bytes_max as u64 <= taken.saturating_add(ahead);
        if taken.wait_for(room).await.is_err() {
            break;
        }
        let chunk = match source.read(offset, bytes_max).await {
            Ok(chunk) if (1..=bytes_max).contains(&chunk.len()) => chunk,
            Ok(chunk) => {
                let found = chunk.len();
                return format!(
                    "the source gave {found} bytes at {offset}, from 1 to {bytes_max} were asked for"
                );
            }
            Err(words) => return words,
        };
        let bytes = chunk.len();
        node.throttle.pass(bytes).await;
        let mut pieces: [Bytes; 2] = [wire::chunk_head(offset, &chunk), chunk];
        match send.write_all_chunks(&mut pieces).await {
            Ok(()) => {}
            // The receiver says why, or the end of the connection does.
            Err(_) => break,
        }
        offset += bytes as u64;
        shown.progress.moved.fetch_add(bytes as u64, Ordering::Relaxed);
    }
    if offset == offer.bytes {
        let _ = send.finish();
    }
    std::future::pending().await
}
