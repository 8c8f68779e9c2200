//! A proposer's session: gives frames their ids, so that each happens once.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::{
    Commit, Decision, Frame, FrameId, GroupId, LogTime, ProposeError, Rejection, Replicator,
    SessionId, ShardKey,
};

/// Proposes payloads and numbers them, so that each is applied at most once.
///
/// It opens itself in each group at the first use. When the group has ended it for want of use, it goes on under a
/// new id: a frame that met [`ProposeError::SessionEnded`] at its first attempt did nothing, so proposing it anew
/// is safe. A frame whose earlier attempt has an unknown outcome is never given a new id; it stays an [`Attempt`].
///
/// A session may be shared by many tasks. At most
/// [`SESSION_UNSETTLED_MAX`](crate::limits::SESSION_UNSETTLED_MAX) of its frames can be in flight in a group.
pub struct Session {
    replicator: Arc<dyn Replicator>,
    // Never held across an await: a few operations on small sets.
    state: Mutex<State>,
}

struct State {
    id: SessionId,
    /// Groups in which `id` was opened.
    opened: BTreeSet<GroupId>,
    next: u64,
    /// Serials whose answer has not been taken: those below the smallest are settled.
    outstanding: BTreeSet<u64>,
}

impl State {
    fn new(id: SessionId) -> Self {
        Self { id, opened: BTreeSet::new(), next: 1, outstanding: BTreeSet::new() }
    }
}

impl Session {
    /// A session with a random id.
    ///
    /// # Errors
    ///
    /// The system has no random source.
    pub fn new(replicator: Arc<dyn Replicator>) -> io::Result<Self> {
        Ok(Self { replicator, state: Mutex::new(State::new(SessionId::random()?)) })
    }

    /// The present id; it changes when the group has ended the session.
    pub fn id(&self) -> SessionId {
        self.lock().id
    }

    /// The node that it proposes to.
    pub fn replicator(&self) -> &Arc<dyn Replicator> {
        &self.replicator
    }

    /// Proposes `payload` to `shard` and waits until it is accepted and applied here.
    ///
    /// # Errors
    ///
    /// [`SessionError::Unknown`] holds the attempt, which can be [resumed](Self::resume).
    ///
    /// # Cancel safety
    ///
    /// A dropped future leaves the outcome unknown, and the frame can then not be proposed again under its id; use
    /// [`begin`](Self::begin) and [`resume`](Self::resume) where that matters.
    pub async fn propose(
        &self,
        shard: &ShardKey,
        payload: impl Into<Bytes> + Send,
        within: Duration,
    ) -> Result<Commit, SessionError> {
        let attempt = self.begin(shard, payload, None);
        self.resume(attempt, within).await
    }

    /// Gives `payload` an id without proposing it yet. An attempt that is dropped counts as settled.
    pub fn begin(
        &self,
        shard: &ShardKey,
        payload: impl Into<Bytes>,
        valid_until: Option<LogTime>,
    ) -> Attempt {
        let mut state = self.lock();
        let serial = state.next;
        state.next += 1;
        state.outstanding.insert(serial);
        let id = FrameId { session: state.id, serial };
        Attempt {
            frame: Frame { valid_until, ..Frame::new(id, shard.clone(), payload.into()) },
            tried: false,
        }
    }

    /// Proposes the frame of an attempt, for the first time or again.
    ///
    /// # Errors
    ///
    /// [`SessionError::Unknown`] gives the attempt back; all others are final.
    ///
    /// # Cancel safety
    ///
    /// As [`propose`](Self::propose); keep a clone of the attempt where the outcome matters.
    pub async fn resume(
        &self,
        mut attempt: Attempt,
        within: Duration,
    ) -> Result<Commit, SessionError> {
        let deadline = Instant::now() + within;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            // The guard settles the serial whichever way this turn ends, unless it is disarmed.
            let settle = Settle { session: self, id: attempt.frame.id };
            let outcome = match self.open(&attempt.frame, left).await {
                Ok(()) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    let first = !std::mem::replace(&mut attempt.tried, true);
                    attempt.frame.settled = self.settled(attempt.frame.id);
                    let outcome = self.replicator.propose(attempt.frame.clone(), left).await;
                    if first
                        && !outcome.as_ref().is_err_and(ProposeError::may_commit)
                        && outcome.is_err()
                    {
                        // Nothing of this frame can be in the log: it may get a new id.
                        attempt.tried = false;
                    }
                    outcome
                }
                Err(error) => Err(error),
            };
            return match outcome {
                Ok(Decision::Accept(commit)) => Ok(commit),
                Ok(Decision::Reject(rejection)) => Err(SessionError::Rejected(rejection)),
                Ok(Decision::Timeout | Decision::Undecided) => {
                    settle.keep();
                    Err(SessionError::Unknown { attempt: Box::new(attempt), error: None })
                }
                Err(ProposeError::SessionEnded) if !attempt.tried => {
                    drop(settle);
                    let id = self.renew(attempt.frame.id).map_err(|error| {
                        SessionError::Propose(ProposeError::Invalid { reason: error.to_string() })
                    })?;
                    attempt.frame.id = id;
                    continue;
                }
                Err(error) if attempt.tried => {
                    settle.keep();
                    Err(SessionError::Unknown { attempt: Box::new(attempt), error: Some(error) })
                }
                Err(error) => Err(SessionError::Propose(error)),
            };
        }
    }

    /// Ends the session in every group where it was opened. Frames in flight end with
    /// [`ProposeError::SessionEnded`] or have been decided before.
    ///
    /// # Errors
    ///
    /// The first group that could not be told; it ends the session itself after a while without use.
    ///
    /// # Cancel safety
    ///
    /// A dropped future leaves the session open in some groups; it may be called again.
    pub async fn close(&self, shard: &ShardKey, within: Duration) -> Result<(), ProposeError> {
        let id = {
            let mut state = self.lock();
            if !state.opened.remove(&self.replicator.group(shard)) {
                return Ok(());
            }
            state.id
        };
        self.replicator.propose(Frame::close_session(id, shard.clone()), within).await.map(drop)
    }

    /// Opens the session of `frame` in its group unless that was done.
    async fn open(&self, frame: &Frame, within: Duration) -> Result<(), ProposeError> {
        let group = self.replicator.group(&frame.shard);
        {
            let state = self.lock();
            if state.id != frame.id.session || state.opened.contains(&group) {
                return Ok(());
            }
        }
        let open = Frame::open_session(frame.id.session, frame.shard.clone());
        match self.replicator.propose(open, within).await? {
            Decision::Accept(_) => {
                let mut state = self.lock();
                if state.id == frame.id.session {
                    state.opened.insert(group);
                }
                Ok(())
            }
            // Opening is repeated with the next frame; without an answer that frame is not proposed.
            Decision::Timeout | Decision::Undecided | Decision::Reject(_) => {
                Err(ProposeError::Invalid {
                    reason: "the session could not be opened within the deadline; try again".into(),
                })
            }
        }
    }

    /// Takes a new session id because `ended` is over, unless another task has done so, and numbers a frame in it.
    fn renew(&self, ended: FrameId) -> io::Result<FrameId> {
        let mut state = self.lock();
        if state.id == ended.session {
            *state = State::new(SessionId::random()?);
        }
        let serial = state.next;
        state.next += 1;
        state.outstanding.insert(serial);
        Ok(FrameId { session: state.id, serial })
    }

    /// Everything below this has been answered.
    fn settled(&self, id: FrameId) -> u64 {
        let state = self.lock();
        if state.id == id.session {
            state.outstanding.first().copied().unwrap_or(id.serial).min(id.serial)
        } else {
            0
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No panic can happen between two changes that belong together.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("id", &self.id()).finish_non_exhaustive()
    }
}

/// Settles a serial when dropped.
struct Settle<'a> {
    session: &'a Session,
    id: FrameId,
}

impl Settle<'_> {
    fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for Settle<'_> {
    fn drop(&mut self) {
        let mut state = self.session.lock();
        if state.id == self.id.session {
            state.outstanding.remove(&self.id.serial);
        }
    }
}

/// A frame with its id, on its way to a decision. As long as it is not settled, proposing it again is safe.
#[derive(Clone, Debug)]
pub struct Attempt {
    frame: Frame,
    /// Whether an attempt may have reached the log.
    tried: bool,
}

impl Attempt {
    /// The frame as it is proposed.
    pub fn frame(&self) -> &Frame {
        &self.frame
    }
}

/// Why a payload was not accepted, or may have been.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// Decided as rejected.
    #[error(transparent)]
    Rejected(Rejection),
    /// Not submitted; nothing happened.
    #[error(transparent)]
    Propose(ProposeError),
    /// The outcome is unknown. [`resume`](Session::resume) the attempt to learn it; that is safe.
    #[error("outcome unknown{}; resume the attempt to learn it", reason_text(.error))]
    Unknown {
        /// To be resumed.
        attempt: Box<Attempt>,
        /// Why, if not because the deadline passed.
        error: Option<ProposeError>,
    },
}

fn reason_text(error: &Option<ProposeError>) -> String {
    error
        .as_ref()
        .map_or_else(|| ": not decided within the deadline".into(), |error| format!(": {error}"))
}
