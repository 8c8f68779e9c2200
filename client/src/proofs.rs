//! The node's side of proofs: what leads from an accepted frame to what a quorum has signed.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use quorate_certificate::FrameProofs;
use quorate_replicator::{Decision, GroupId, Replicator};
use tokio::sync::OnceCell;

use crate::protocol::{self, HEIGHTS_TOLD, Height};

/// Batches whose frames may be asked for soon again: those who wait for one batch come for it within a moment.
const BATCHES_MAX: usize = 16;

/// Where a batch stands.
type Place = (GroupId, u64);

/// A batch that is being made ready, or is; empty if the node cannot prove it.
pub(crate) type Shown = Arc<OnceCell<Batch>>;

/// Proves what a node has accepted.
#[derive(Debug)]
pub(crate) struct Proofs {
    replicator: Arc<dyn Replicator>,
    /// Made once for all who ask, on all lanes.
    newest: Mutex<VecDeque<(Place, Shown)>>,
}

/// A decided batch, ready to be shown.
#[derive(Debug)]
pub(crate) struct Batch {
    height: Height,
    frames: FrameProofs,
}

impl Proofs {
    pub(crate) fn new(replicator: Arc<dyn Replicator>) -> Self {
        Self { replicator, newest: Mutex::default() }
    }

    /// Adds to each accept the proof of its frame, where there is one; the batches that these are of.
    pub(crate) async fn add(&self, decisions: &mut [Decision]) -> Vec<Shown> {
        let mut batches: Vec<(Place, Shown)> = Vec::new();
        for decision in decisions {
            let Decision::Accept(commit) = decision else { continue };
            let place = (commit.position.group, commit.position.index);
            if batches.last().is_none_or(|(last, _)| *last != place) {
                batches.push((place, self.batch(place).await));
            }
            let batch = batches.last().and_then(|(_, batch)| batch.get());
            let proof = batch.and_then(|batch| batch.frames.proof(commit.position.slot));
            // Who proposed it has the payload.
            let proof = proof.and_then(|proof| proof.encode_without_payload());
            commit.proof = proof.map(Bytes::from);
        }
        batches.into_iter().map(|(_, batch)| batch).collect()
    }

    /// The batch at this place.
    async fn batch(&self, place: Place) -> Shown {
        let cell = {
            let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
            match newest.iter().rev().find(|(known, _)| *known == place) {
                Some((_, cell)) => Arc::clone(cell),
                None => {
                    let cell = Arc::new(OnceCell::new());
                    newest.push_back((place, Arc::clone(&cell)));
                    if newest.len() > BATCHES_MAX {
                        newest.pop_front();
                    }
                    cell
                }
            }
        };
        let (group, index) = place;
        let made = cell.get_or_try_init(async || {
            let decided = self.replicator.decided(group, index).await;
            let decided = decided.map_err(|error| error.to_string())?;
            let frames = FrameProofs::new(&decided.body).ok_or("it has no frames")?;
            let height = Height { group, index, head: decided.head, proof: decided.proof };
            Ok::<_, String>(Batch { height, frames })
        });
        if let Err(problem) = made.await {
            tracing::warn!(%group, index, "an accept goes out without a proof: {problem}");
        }
        cell
    }
}

/// Which heights a lane was told of. What is told has to leave in the order in which it is asked for here.
#[derive(Debug, Default)]
pub(crate) struct Lane(Mutex<LaneHeights>);

#[derive(Debug, Default)]
struct LaneHeights {
    told: BTreeSet<Place>,
    order: VecDeque<Place>,
}

impl Lane {
    /// The messages that tell the lane of the heights of these batches, as far as it does not know them.
    pub(crate) fn news(&self, batches: &[Shown]) -> Vec<Bytes> {
        let mut lane = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut news = Vec::new();
        for Batch { height, .. } in batches.iter().filter_map(|batch| batch.get()) {
            let place = (height.group, height.index);
            if !lane.told.insert(place) {
                continue;
            }
            lane.order.push_back(place);
            if lane.order.len() > HEIGHTS_TOLD
                && let Some(oldest) = lane.order.pop_front()
            {
                lane.told.remove(&oldest);
            }
            news.push(protocol::height(height));
        }
        news
    }
}
