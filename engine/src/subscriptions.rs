//! Subscriptions: who has been given which accepted frames.
//!
//! A subscriber is given one chunk at a time, and asks for the next by being ready for it. So one that stalls costs
//! nothing but its place: when it goes on, it is served from the newest batches in memory, or from the log.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use quorate_replicator::{Accepted, GroupId, Position, Scope};
use quorate_storage::Index;

/// Names a subscription of one core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubscriptionId(pub u64);

/// Frames for one subscriber, to be handled in one call.
#[derive(Debug)]
pub struct Chunk {
    /// Whose.
    pub subscription: SubscriptionId,
    /// Accepted frames in its scope, in order; empty if there were none up to `reached`.
    pub frames: Vec<Accepted>,
    /// Everything up to here has been given when these are handled.
    pub reached: Position,
}

/// How a subscription ended without being asked to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SubscriptionOver {
    /// What it needs is gone from the log.
    Compacted {
        /// The oldest frame that can still be read.
        oldest: Position,
        /// The newest checkpoint.
        snapshot: Option<Position>,
    },
    /// The group stopped for good.
    Faulted {
        /// What happened, and what to do.
        cause: String,
    },
}

/// Most frames of one chunk.
const CHUNK_FRAMES_MAX: usize = 4096;

/// Most bytes of accepted frames that are kept in memory for subscribers who keep up.
const RECENT_BYTES_MAX: usize = 8 << 20;

/// Most bytes of log that one subscription reads at a time.
pub(crate) const FETCH_BYTES: usize = 1 << 20;

#[derive(Debug)]
struct Place {
    scope: Scope,
    /// The last slot of the last batch that was given.
    given: (Index, u32),
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The subscriber has handled everything that it was given.
    Ready,
    /// A chunk is being handled.
    Handling,
    /// The log is being read for it.
    Fetching,
}

/// The accepted frames of one batch.
type Batch = Arc<Vec<Accepted>>;

#[derive(Debug)]
pub(crate) struct Subscriptions {
    group: GroupId,
    places: BTreeMap<SubscriptionId, Place>,
    next: u64,
    /// The newest batches without a gap, kept while anyone subscribes.
    recent: VecDeque<(Index, Batch, usize)>,
    recent_bytes: usize,
}

/// What to do next for a ready subscription.
#[derive(Debug)]
pub(crate) enum Next {
    /// Give this.
    Chunk(Chunk),
    /// Read the log from this index up to, not including, the other.
    Fetch(SubscriptionId, Index, Index),
}

impl Subscriptions {
    pub(crate) const fn new(group: GroupId) -> Self {
        Self { group, places: BTreeMap::new(), next: 1, recent: VecDeque::new(), recent_bytes: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether anyone wants to know what is accepted.
    pub(crate) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Adds a subscription that has everything up to `given`.
    pub(crate) fn add(&mut self, scope: Scope, given: (Index, u32)) -> SubscriptionId {
        let id = SubscriptionId(self.next);
        self.next += 1;
        self.places.insert(id, Place { scope, given, state: State::Ready });
        id
    }

    pub(crate) fn remove(&mut self, id: SubscriptionId) {
        self.places.remove(&id);
        if self.places.is_empty() {
            self.recent.clear();
            self.recent_bytes = 0;
        }
    }

    /// The subscriber has handled its chunk.
    pub(crate) fn handled(&mut self, id: SubscriptionId) {
        if let Some(place) = self.places.get_mut(&id) {
            assert_eq!(place.state, State::Handling, "one chunk at a time");
            place.state = State::Ready;
        }
    }

    /// Keeps an applied batch for those who keep up.
    pub(crate) fn applied(&mut self, index: Index, accepted: Vec<Accepted>) {
        let bytes = accepted.iter().map(|accepted| crate::pool::cost(&accepted.frame)).sum();
        self.recent_bytes += bytes;
        self.recent.push_back((index, Arc::new(accepted), bytes));
        while self.recent_bytes > RECENT_BYTES_MAX && self.recent.len() > 1 {
            let (.., bytes) = self.recent.pop_front().expect("there is more than one");
            self.recent_bytes -= bytes;
        }
    }

    /// A snapshot took the place of batches that were never applied here.
    pub(crate) fn gap(&mut self) {
        #[cfg(quorate_planted)]
        if quorate_planted::Bug::SubscriptionGap.is_planted() {
            return;
        }
        self.recent.clear();
        self.recent_bytes = 0;
    }

    /// What to do for each subscription that is ready, now that everything up to `applied` is applied.
    pub(crate) fn next(&mut self, epoch: u32, applied: Index) -> Vec<Next> {
        let first_recent = self.recent.front().map(|(index, ..)| *index);
        let (group, recent) = (self.group, &self.recent);
        let mut next = Vec::new();
        for (id, place) in &mut self.places {
            if place.state != State::Ready || place.given >= (applied, u32::MAX) {
                continue;
            }
            // A batch that was given in part is begun again; what was given of it is left out.
            let from =
                if place.given.1 == u32::MAX { place.given.0 + 1 } else { place.given.0.max(1) };
            let Some(first) = first_recent.filter(|first| *first <= from) else {
                place.state = State::Fetching;
                let until = first_recent.map_or(applied + 1, |first| first.min(applied + 1));
                next.push(Next::Fetch(*id, from, until));
                continue;
            };
            let skip = usize::try_from(from - first).expect("recent batches are in memory");
            let batches = recent.iter().skip(skip).map(|(index, batch, _)| (*index, &batch[..]));
            next.extend(place.take(*id, group, epoch, batches).map(Next::Chunk));
        }
        next
    }

    /// Accepted frames that were read from the log for a subscription, by index, all up to `until` exclusive.
    pub(crate) fn fetched(
        &mut self,
        id: SubscriptionId,
        epoch: u32,
        batches: &[(Index, Vec<Accepted>)],
    ) -> Option<Chunk> {
        let place = self.places.get_mut(&id)?;
        assert_eq!(place.state, State::Fetching, "a fetch was asked for");
        place.state = State::Ready;
        let batches = batches.iter().map(|(index, batch)| (*index, &batch[..]));
        place.take(id, self.group, epoch, batches)
    }

    /// Everything that goes on, taken away.
    pub(crate) fn end(&mut self) -> Vec<SubscriptionId> {
        self.recent.clear();
        self.recent_bytes = 0;
        std::mem::take(&mut self.places).into_keys().collect()
    }
}

impl Place {
    /// The next chunk from `batches`, which begin at or before the first one that is wanted.
    fn take<'a>(
        &mut self,
        id: SubscriptionId,
        group: GroupId,
        epoch: u32,
        batches: impl Iterator<Item = (Index, &'a [Accepted])>,
    ) -> Option<Chunk> {
        let mut frames = Vec::new();
        let before = self.given;
        for (index, batch) in batches {
            // A batch is given whole: it has at most as many frames as a chunk.
            if frames.len() + batch.len() > CHUNK_FRAMES_MAX && !frames.is_empty() {
                break;
            }
            let wanted = batch.iter().filter(|accepted| {
                (index, accepted.position.slot) > before
                    && self.scope.holds(group, &accepted.frame.shard)
            });
            frames.extend(wanted.cloned());
            self.given = (index, u32::MAX);
        }
        if self.given == before {
            return None;
        }
        if !frames.is_empty() {
            self.state = State::Handling;
        }
        let reached = Position { group, epoch, index: self.given.0, slot: u32::MAX };
        Some(Chunk { subscription: id, frames, reached })
    }
}
