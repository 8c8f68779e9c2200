//! A proposer's session: gives frames their ids, so that each happens once.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::{
    Commit, Decision, Frame, FrameId, GroupId, LogTime, ProposeError, Rejection, Replicator,
    SessionId, ShardKey, Signer,
};

/// Proposes payloads and numbers them, so that each is applied at most once.
///
/// It opens itself in each group at the first use. When the group has ended it for want of use, it goes on under a
/// new id: a frame that met [`ProposeError::SessionEnded`] and cannot have been decided before did nothing, so proposing
/// it anew is safe. A frame whose earlier attempt has an unknown outcome is never given a new id; it stays an
/// [`Attempt`].
///
/// A session may be shared by many tasks. At most
/// [`SESSION_UNSETTLED_MAX`](crate::limits::SESSION_UNSETTLED_MAX) of its frames can be in flight in a group.
///
/// Where the groups want frames [signed](Replicator::signer), each id comes with a key of its own, which signs each attempt.
pub struct Session {
    replicator: Arc<dyn Replicator>,
    state: Arc<SharedState>,
}

impl Session {
    /// A session with an id that nobody else has.
    ///
    /// # Errors
    ///
    /// The system has no random source.
    pub fn new(replicator: Arc<dyn Replicator>) -> io::Result<Self> {
        let state = State::new(Arc::clone(&replicator))?;
        Ok(Self { replicator, state: Arc::new(SharedState(Mutex::new(state))) })
    }

    /// The present id; it changes when the group has ended the session, and when it is closed.
    pub fn id(&self) -> SessionId {
        self.state.lock().id
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

    /// Gives `payload` an id without proposing it yet. The serial counts as settled when the attempt and all of its
    /// clones are gone; until then the session can settle nothing after it.
    pub fn begin(
        &self,
        shard: &ShardKey,
        payload: impl Into<Bytes>,
        valid_until: Option<LogTime>,
    ) -> Attempt {
        let (id, signer) = self.state.lock().number();
        let ticket = Ticket {
            state: Arc::clone(&self.state),
            trials: Mutex::new(Trials { id, signer, running: 0, possible: false }),
        };
        Attempt {
            frame: Frame { valid_until, ..Frame::new(id, shard.clone(), payload.into()) },
            ticket: Arc::new(ticket),
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
    /// A dropped future leaves the outcome unknown. A clone of the attempt that was kept can be resumed, under the same
    /// id; without one the serial counts as settled.
    pub async fn resume(
        &self,
        mut attempt: Attempt,
        within: Duration,
    ) -> Result<Commit, SessionError> {
        let deadline = Instant::now() + within;
        loop {
            // While this runs no clone gets a new id; one may have got it before.
            let trial = Trial::begin(&attempt.ticket);
            let signer;
            (attempt.frame.id, signer) = attempt.ticket.numbered();
            let opened = self.open(&attempt.frame, signer.as_deref(), deadline).await;
            if !matches!(opened, Ok(true)) {
                trial.end(false);
                match opened {
                    // An opening whose answer was lost had opened it, and then nothing came for too long.
                    Err(ProposeError::SessionEnded) if Instant::now() < deadline => {
                        attempt = attempt.renewed()?;
                        continue;
                    }
                    Ok(_) => return Err(attempt.unknown(None)),
                    Err(error) => return Err(attempt.failed(error)),
                }
            }
            attempt.frame.settled = self.settled(attempt.frame.id);
            if let Err(error) = sign(signer.as_deref(), &mut attempt.frame) {
                trial.end(false);
                return Err(attempt.failed(error));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let outcome = self.replicator.propose(attempt.frame.clone(), left).await;
            trial.end(!outcome.as_ref().is_err_and(|error| !error.may_commit()));
            match outcome {
                Ok(Decision::Accept(commit)) => return Ok(commit),
                Ok(Decision::Reject(rejection)) => return Err(SessionError::Rejected(rejection)),
                Ok(Decision::Timeout | Decision::Undecided) => return Err(attempt.unknown(None)),
                Err(ProposeError::SessionEnded) if Instant::now() < deadline => {
                    attempt = attempt.renewed()?;
                }
                Err(error) => return Err(attempt.failed(error)),
            }
        }
    }

    /// Ends the session in the group of `shard`; what is proposed later goes under a new id. Frames in flight end with
    /// [`ProposeError::SessionEnded`] or have been decided before. Other groups end it themselves after a while
    /// without use.
    ///
    /// # Errors
    ///
    /// The group could not be told; it ends the session itself after a while without use.
    ///
    /// # Cancel safety
    ///
    /// A dropped future may leave the session open in the group, as an error does.
    pub async fn close(&self, shard: &ShardKey, within: Duration) -> Result<(), ProposeError> {
        let (id, signer) = {
            let mut state = self.state.lock();
            if !state.opened.contains(&self.replicator.group(shard)) {
                return Ok(());
            }
            // A session that was closed is never opened again.
            state.renew().map_err(|error| ProposeError::Invalid { reason: error.to_string() })?
        };
        let mut close = Frame::close_session(id, shard.clone());
        sign(signer.as_deref(), &mut close)?;
        self.replicator.propose(close, within).await.map(drop)
    }

    /// Opens the session of `frame` in its group unless that was done. False if there was no answer in time.
    async fn open(
        &self,
        frame: &Frame,
        signer: Option<&Signer>,
        deadline: Instant,
    ) -> Result<bool, ProposeError> {
        let group = self.replicator.group(&frame.shard);
        {
            let state = self.state.lock();
            if state.id != frame.id.session || state.opened.contains(&group) {
                return Ok(true);
            }
        }
        loop {
            let open = match signer {
                Some(signer) => signer.open_session(&frame.shard, &self.replicator.status()),
                None => Ok(Frame::open_session(frame.id.session, frame.shard.clone())),
            };
            let open = open.map_err(unsigned)?;
            let left = deadline.saturating_duration_since(Instant::now());
            match self.replicator.propose(open, left).await? {
                Decision::Accept(_) => {
                    let mut state = self.state.lock();
                    if state.id == frame.id.session {
                        state.opened.insert(group);
                    }
                    return Ok(true);
                }
                // Opening is repeated with the next attempt; without an answer the frame is not proposed.
                Decision::Timeout | Decision::Undecided => return Ok(false),
                // An idle group had not told how late it is. It is told with what was decided now.
                Decision::Reject(Rejection::Expired)
                    if signer.is_some() && Instant::now() < deadline => {}
                Decision::Reject(rejection) => {
                    return Err(ProposeError::Invalid {
                        reason: format!("the session could not be opened: {rejection}"),
                    });
                }
            }
        }
    }

    /// Everything below this has been answered.
    fn settled(&self, id: FrameId) -> u64 {
        let state = self.state.lock();
        if state.id == id.session {
            state.outstanding.first().copied().unwrap_or(id.serial).min(id.serial)
        } else {
            0
        }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("id", &self.id()).finish_non_exhaustive()
    }
}

fn sign(signer: Option<&Signer>, frame: &mut Frame) -> Result<(), ProposeError> {
    let signed = signer.map_or(Ok(()), |signer| signer.sign(std::slice::from_mut(frame)));
    signed.map_err(unsigned)
}

fn unsigned(error: io::Error) -> ProposeError {
    ProposeError::Invalid { reason: error.to_string() }
}

/// What a session and its attempts share. Never held across an await: a few operations on small sets.
struct SharedState(Mutex<State>);

impl SharedState {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No panic can happen between two changes that belong together.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct State {
    replicator: Arc<dyn Replicator>,
    id: SessionId,
    /// What signs the frames of `id`, where that is wanted.
    signer: Option<Arc<Signer>>,
    /// Groups in which `id` was opened.
    opened: BTreeSet<GroupId>,
    next: u64,
    /// Serials whose attempt still exists: those below the smallest are settled.
    outstanding: BTreeSet<u64>,
}

impl State {
    fn new(replicator: Arc<dyn Replicator>) -> io::Result<Self> {
        let signer = replicator.signer()?.map(Arc::new);
        let id = match &signer {
            Some(signer) => signer.session(),
            None => SessionId::random()?,
        };
        let (opened, outstanding) = (BTreeSet::new(), BTreeSet::new());
        Ok(Self { replicator, id, signer, opened, next: 1, outstanding })
    }

    /// The id of one more frame, and what signs it.
    fn number(&mut self) -> (FrameId, Option<Arc<Signer>>) {
        let serial = self.next;
        self.next += 1;
        self.outstanding.insert(serial);
        (FrameId { session: self.id, serial }, self.signer.clone())
    }

    /// Goes on under a new id, and answers the old one with what signs for it.
    fn renew(&mut self) -> io::Result<(SessionId, Option<Arc<Signer>>)> {
        let new = Self::new(Arc::clone(&self.replicator))?;
        let old = std::mem::replace(self, new);
        Ok((old.id, old.signer))
    }
}

/// A frame with its id, on its way to a decision. As long as it exists, its outcome can be learned by proposing it again.
///
/// Clones are the same attempt: whichever is resumed, it happens at most once.
#[derive(Clone, Debug)]
pub struct Attempt {
    frame: Frame,
    ticket: Arc<Ticket>,
}

impl Attempt {
    /// The frame as it is proposed.
    pub fn frame(&self) -> &Frame {
        &self.frame
    }

    fn unknown(self, error: Option<ProposeError>) -> SessionError {
        SessionError::Unknown { attempt: Box::new(self), error }
    }

    /// With a new id, because its session is over. An error if it may have happened under the old one.
    fn renewed(self) -> Result<Self, SessionError> {
        match self.ticket.renew(self.frame.id) {
            Ok(true) => Ok(self),
            Ok(false) => Err(self.failed(ProposeError::SessionEnded)),
            Err(error) => {
                Err(SessionError::Propose(ProposeError::Invalid { reason: error.to_string() }))
            }
        }
    }

    fn failed(self, error: ProposeError) -> SessionError {
        if self.ticket.trials().may_have_happened() {
            self.unknown(Some(error))
        } else {
            SessionError::Propose(error)
        }
    }
}

/// The serial of an attempt, held by all of its clones; settled when the last of them is dropped.
struct Ticket {
    state: Arc<SharedState>,
    trials: Mutex<Trials>,
}

/// What is known of the proposals of one attempt.
struct Trials {
    id: FrameId,
    /// What signs for that id.
    signer: Option<Arc<Signer>>,
    /// How many run now.
    running: u32,
    /// Whether one that is over may have reached the log.
    possible: bool,
}

impl Trials {
    fn may_have_happened(&self) -> bool {
        self.possible || self.running > 0
    }
}

impl Ticket {
    fn id(&self) -> FrameId {
        self.trials().id
    }

    fn numbered(&self) -> (FrameId, Option<Arc<Signer>>) {
        let trials = self.trials();
        (trials.id, trials.signer.clone())
    }

    /// Takes a new id because the session of `ended` is over. False if the frame may have happened under its id, and so
    /// has to keep it.
    fn renew(&self, ended: FrameId) -> io::Result<bool> {
        let mut trials = self.trials();
        if trials.id != ended {
            return Ok(true);
        }
        if trials.may_have_happened() {
            return Ok(false);
        }
        let mut state = self.state.lock();
        // Another attempt may have renewed the session already.
        if state.id == ended.session {
            state.renew()?;
        }
        (trials.id, trials.signer) = state.number();
        Ok(true)
    }

    fn trials(&self) -> MutexGuard<'_, Trials> {
        // No panic can happen between two changes that belong together.
        self.trials.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let id = self.id();
        let mut state = self.state.lock();
        if state.id == id.session {
            state.outstanding.remove(&id.serial);
        }
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Ticket").field(&self.id()).finish()
    }
}

/// One proposal while it runs. If it is dropped without an end, it may have reached the log.
struct Trial {
    ticket: Arc<Ticket>,
    possible: bool,
}

impl Trial {
    fn begin(ticket: &Arc<Ticket>) -> Self {
        ticket.trials().running += 1;
        Self { ticket: Arc::clone(ticket), possible: true }
    }

    fn end(mut self, possible: bool) {
        self.possible = possible;
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        let mut trials = self.ticket.trials();
        trials.running -= 1;
        trials.possible |= self.possible;
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
