//! Frames on their way to the node that proposes.
//!
//! ```text
//!   here:   pool -> stream of forwardings -> the one who proposes         taken back when it is another one, when it
//!                                                                         refuses, or when nothing moves for a while
//!                                                                         a copy to all who may propose, if nothing moves for
//!                                                                         a shorter while
//!   there:  next of its stream? -> pool, with nobody to answer; a copy waits until this node is to propose
//!   here:   the batch comes through the log -> applied -> the caller is answered
//! ```
//!
//! 1. What is forwarded is answered here, by what is applied here. Nothing the other node says can make it accepted.
//! 2. Frames are proposed in the order in which they were forwarded: a receiver takes only the next of a stream, and
//!    whatever is sent again is sent in a new stream, from its oldest open frame on. Frames that are decided twice by that are
//!    applied once.
//! 3. What a caller has proposed together may come in several forwardings. It waits for equally long at the receiver: if its first part were given up
//!    before its second, that would be proposed first.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use quorate_replicator::{NodeId, SessionId};

use crate::callers::CallId;
use crate::engine::Now;

/// Most bytes that are forwarded and not decided: enough for several full batches.
pub(crate) const WINDOW_BYTES: usize = 4 << 20;

/// How long nothing may move before everything is forwarded again.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// How long to wait after a refusal, unless someone else turns out to propose before that.
const REFUSED_PAUSE: Duration = Duration::from_millis(20);

/// The stream in which this node forwards.
#[derive(Debug)]
pub(crate) struct Outgoing {
    /// To whom; the first is who should propose.
    to: Vec<NodeId>,
    stream: u64,
    /// The place in the stream of the first of `sent`.
    first: u64,
    /// What is open of the stream: how the pool calls each forwarding, and whether its callers may be told that it was
    /// refused.
    sent: VecDeque<(u64, bool)>,
    /// The oldest forwarding that was open when something last moved, and when that was.
    oldest: Option<u64>,
    moved_at: Now,
    /// After how long without a move others are given what is open, if there are any.
    witness_after: Option<Duration>,
    /// The oldest that was open when they were.
    witnessed: Option<u64>,
    /// Nothing is forwarded before this.
    pause_until: Now,
}

impl Outgoing {
    /// No stream; `seed` makes its streams differ from those of an earlier life of this node.
    pub(crate) fn new(seed: u64) -> Self {
        let (to, stream) = (Vec::new(), seed);
        let (oldest, moved_at) = (None, Duration::ZERO);
        let (sent, pause_until) = (VecDeque::new(), Duration::ZERO);
        let (witness_after, witnessed) = (None, None);
        Self { to, stream, first: 0, sent, oldest, moved_at, witness_after, witnessed, pause_until }
    }

    /// Begins a new stream. With `witness_after` there are others to be given what is open when nothing has moved for that long.
    pub(crate) fn restart(&mut self, to: Vec<NodeId>, witness_after: Option<Duration>, now: Now) {
        (self.witness_after, self.witnessed) = (witness_after, None);
        self.to = to;
        self.stream = self.stream.wrapping_add(1);
        self.first = 0;
        self.sent.clear();
        (self.oldest, self.moved_at) = (None, now);
    }

    /// To whom frames go.
    pub(crate) fn to(&self) -> &[NodeId] {
        &self.to
    }

    /// The stream and place of the next forwarding, which the pool calls `number`. With `fresh` its callers may be told
    /// that it was refused.
    pub(crate) fn next(&mut self, number: u64, fresh: bool) -> (u64, u64) {
        self.sent.push_back((number, fresh));
        (self.stream, self.first + self.sent.len() as u64 - 1)
    }

    /// Whether `stream` is the one that is open.
    pub(crate) fn is_open(&self, stream: u64) -> bool {
        self.stream == stream && !self.to.is_empty()
    }

    /// How the pool calls the forwarding at a place of the stream, if its callers may be told that it was refused.
    pub(crate) fn fresh(&self, place: u64) -> Option<u64> {
        let place = usize::try_from(place.checked_sub(self.first)?).ok()?;
        #[cfg(quorate_planted)]
        if quorate_planted::Bug::RefusedUnknown.is_planted() {
            return self.sent.get(place).map(|(number, _)| *number);
        }
        self.sent.get(place).filter(|(_, fresh)| *fresh).map(|(number, _)| *number)
    }

    /// Whether something may be forwarded now.
    pub(crate) fn may_send(&self, now: Now) -> bool {
        now >= self.pause_until
    }

    /// Whoever it goes to does not take it for now.
    pub(crate) fn pause(&mut self, now: Now) {
        self.pause_until = now + REFUSED_PAUSE;
    }

    /// Takes note of the oldest open forwarding; true if nothing has moved for so long that it must be sent again.
    pub(crate) fn is_stuck(&mut self, oldest: Option<u64>, now: Now) -> bool {
        while self.sent.front().is_some_and(|(number, _)| oldest.is_none_or(|it| *number < it)) {
            self.sent.pop_front();
            self.first += 1;
        }
        if oldest != self.oldest {
            (self.oldest, self.moved_at) = (oldest, now);
        }
        oldest.is_some() && now >= self.moved_at + AGAIN_AFTER
    }

    /// When to look again by itself, while there is someone to forward to: whether frames wait here, and whether some are
    /// open there.
    pub(crate) fn wake_at(&self, has_idle: bool, is_open: bool, now: Now) -> Option<Now> {
        if has_idle && now < self.pause_until {
            return Some(self.pause_until);
        }
        let witness_after = self.witness_after.filter(|_| self.witnessed != self.oldest);
        is_open.then(|| self.moved_at + witness_after.map_or(AGAIN_AFTER, |it| it.min(AGAIN_AFTER)))
    }

    /// A stream for others than the one who should propose, once for each time in which nothing moves.
    pub(crate) fn witness(&mut self, now: Now) -> Option<u64> {
        let after = self.witness_after?;
        if self.oldest.is_none() || self.witnessed == self.oldest || now < self.moved_at + after {
            return None;
        }
        self.witnessed = self.oldest;
        // No stream of this node has such a number: they count on from a seed.
        Some(self.stream ^ 1 << 63)
    }
}

/// The streams that other nodes forward in.
#[derive(Debug, Default)]
pub(crate) struct Incoming {
    /// The open stream of each node. There are as many as the cluster has nodes.
    streams: HashMap<NodeId, Open>,
}

#[derive(Clone, Copy, Debug)]
struct Open {
    stream: u64,
    /// Its next place.
    next: u64,
    last: Option<Last>,
}

/// The last frame that came in a stream.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Last {
    pub(crate) session: SessionId,
    /// What waits for it here.
    pub(crate) call: CallId,
}

impl Incoming {
    /// Whether this is the next of its stream. A stream begins with its first.
    pub(crate) fn is_next(&self, from: NodeId, stream: u64, number: u64) -> bool {
        let is_open = |open: &Open| (open.stream, open.next) == (stream, number);
        number == 0 || self.streams.get(&from).is_some_and(is_open)
    }

    /// What waits for the frames before this one of a session, if those came in the same stream, with nothing between.
    pub(crate) fn before(&self, from: NodeId, number: u64, first: SessionId) -> Option<CallId> {
        let last = self.streams.get(&from).filter(|_| number > 0)?.last?;
        (last.session == first).then_some(last.call)
    }

    /// It was taken.
    pub(crate) fn taken(&mut self, from: NodeId, stream: u64, number: u64, last: Option<Last>) {
        self.streams.insert(from, Open { stream, next: number.saturating_add(1), last });
    }

    /// It was not taken: nothing that follows it may be.
    pub(crate) fn refused(&mut self, from: NodeId) {
        self.streams.remove(&from);
    }
}
