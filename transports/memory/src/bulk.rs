//! Bulk transfers: read here, written by a task of the receiver, resumed after a cut.

use std::time::Duration;

use bytes::Bytes;
use quorate_replicator::{BulkError, BulkOffer, BulkSink, BulkSource, NodeId};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::HubConfig;
use crate::hub::{Standing, Wire};
use crate::link::mix;
use crate::node::Node;

/// Most bytes of an offer's head.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// One body on its way to one receiver.
pub(crate) struct BulkTransfer<'a> {
    node: &'a Node,
    to: NodeId,
    wire: &'a Wire,
    offer: BulkOffer,
    source: &'a dyn BulkSource,
}

/// How one attempt ended without a result.
struct Cut {
    /// Whether the receiver was reached, so that the pauses begin anew.
    reached: bool,
    reason: String,
}

impl<'a> BulkTransfer<'a> {
    pub(crate) fn new(
        node: &'a Node,
        to: NodeId,
        wire: &'a Wire,
        offer: BulkOffer,
        source: &'a dyn BulkSource,
    ) -> Self {
        Self { node, to, wire, offer, source }
    }

    /// Attempts until there is a result, or the receiver has not been reached for too long.
    pub(crate) async fn run(self) -> Result<(), BulkError> {
        let head_bytes = self.offer.head.len();
        if head_bytes > HEAD_BYTES_MAX {
            let words =
                format!("the head has {head_bytes} bytes, at most {HEAD_BYTES_MAX} are allowed");
            return Err(BulkError::Source(words));
        }
        let HubConfig { seed, bulk_pause_min, bulk_pause_max, bulk_give_up_after, .. } =
            self.node.hub.config;
        let mut jitter = fastrand::Rng::with_seed(mix(seed, self.node.id.number()));
        let mut pause = bulk_pause_min;
        let mut reached_at = Instant::now();
        loop {
            let cut = match self.attempt().await {
                Ok(result) => return result,
                Err(cut) => cut,
            };
            if cut.reached {
                (pause, reached_at) = (bulk_pause_min, Instant::now());
            } else if reached_at.elapsed() >= bulk_give_up_after {
                return Err(BulkError::Unreachable(cut.reason));
            }
            // Between half of the pause and all of it, so that senders that were cut together come back apart.
            tokio::time::sleep(pause.mul_f64(0.5 + 0.5 * jitter.f64())).await;
            pause = (pause * 2).min(bulk_pause_max).max(Duration::from_millis(1));
        }
    }

    async fn attempt(&self) -> Result<Result<(), BulkError>, Cut> {
        let mut standing = self.wire.standing();
        let began = *standing.borrow_and_update();
        let receiver = self.node.hub.node(self.to).filter(|_| began.open);
        let Some((receiver, inbound)) = receiver
            .and_then(|node| Some((node.inbound()?, node)))
            .map(|(inbound, node)| (node, inbound))
        else {
            return Err(Cut { reached: false, reason: format!("no link to {}", self.to) });
        };
        let cut = || Cut { reached: true, reason: format!("the link to {} was cut", self.to) };

        let sink = match inbound.bulk(self.node.id, self.offer.clone()) {
            Ok(sink) => sink,
            Err(words) => return Ok(Err(BulkError::Refused(words))),
        };
        let mut offset = sink.resume_at();
        if offset > self.offer.bytes {
            let words = format!("it has {offset} bytes of a body of {}", self.offer.bytes);
            return Ok(Err(BulkError::Refused(words)));
        }
        let (chunks, taken) = mpsc::channel(1);
        let (done, mut result) = oneshot::channel();
        let left = self.offer.bytes - offset;
        receiver.spawn(take(sink, left, taken, self.wire.standing(), began, done));

        while offset < self.offer.bytes {
            let chunk = match self.read(offset).await {
                Ok(chunk) => chunk,
                Err(words) => return Ok(Err(BulkError::Source(words))),
            };
            offset += chunk.len() as u64;
            tokio::select! {
                biased;
                () = ended(&mut standing, began) => return Err(cut()),
                // A receiver that stopped has said why, or was cut.
                sent = chunks.send(chunk) => if sent.is_err() { break },
            }
        }
        tokio::select! {
            // A result that is there counts, even when the link was cut since.
            biased;
            result = &mut result => match result {
                Ok(result) => Ok(result.map_err(BulkError::Refused)),
                Err(_) => Err(cut()),
            },
            () = ended(&mut standing, began) => Err(cut()),
        }
    }

    /// The next chunk, or why the source is broken.
    async fn read(&self, offset: u64) -> Result<Bytes, String> {
        let left = usize::try_from(self.offer.bytes - offset).unwrap_or(usize::MAX);
        let bytes_max = self.node.hub.config.bulk_chunk_bytes.clamp(1, left);
        let chunk = self.source.read(offset, bytes_max).await?;
        if chunk.is_empty() || chunk.len() > bytes_max {
            return Err(format!(
                "the source gave {} bytes at {offset}, from 1 to {bytes_max} were asked for",
                chunk.len()
            ));
        }
        Ok(chunk)
    }
}

/// The receiver's side of one attempt.
async fn take(
    mut sink: Box<dyn BulkSink>,
    mut left: u64,
    mut chunks: mpsc::Receiver<Bytes>,
    mut standing: watch::Receiver<Standing>,
    began: Standing,
    done: oneshot::Sender<Result<(), String>>,
) {
    while left > 0 {
        let write = async {
            // Without a sender there is nobody to tell.
            let chunk = chunks.recv().await?;
            let bytes = chunk.len() as u64;
            Some(sink.write(chunk).await.map(|()| bytes))
        };
        let written = tokio::select! {
            biased;
            () = ended(&mut standing, began) => return,
            written = write => written,
        };
        match written {
            Some(Ok(bytes)) => left -= bytes,
            Some(Err(words)) => {
                // Whoever no longer waits need not be told.
                let _ = done.send(Err(words));
                return;
            }
            None => return,
        }
    }
    // From here on a cut no longer stops it: the sink is promised that finishing is not given up.
    let _ = done.send(sink.finish().await);
}

/// Waits until what `began` is over.
async fn ended(standing: &mut watch::Receiver<Standing>, began: Standing) {
    // The hub keeps the sender of each wire for ever; if it is gone, so is the wire.
    let _ = standing.wait_for(|now| *now != began).await;
}
