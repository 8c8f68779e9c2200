//! The session table: what makes each frame happen once. It is replicated state.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use quorate_replicator::limits::{REFUSAL_BYTES_MAX, REPLY_KEPT_BYTES_MAX};
use quorate_replicator::{
    Commit, Decision, Frame, FrameId, FrameRole, GroupId, LogTime, Pair, Position, Rejection,
    Reply, Resource, RestoreError, SessionId, StateMachine,
};
use quorate_storage::Index;
use serde::{Deserialize, Serialize};

use crate::codec;
use crate::history::PayloadHash;
use crate::verdict::Verdict;

/// Limits of a session table. They are part of replicated state's rules: all nodes of a group use the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionLimits {
    /// Most live sessions, and most ended ones that are remembered.
    pub sessions_max: usize,
    /// Most decided serials of one session that are not settled.
    pub unsettled_max: usize,
    /// Most bytes of replies that one session keeps.
    pub reply_bytes_max: usize,
    /// Log time without use, in milliseconds, after which a session ends.
    pub idle_ms: u64,
}

impl Default for SessionLimits {
    fn default() -> Self {
        use quorate_replicator::limits;
        Self {
            sessions_max: limits::SESSIONS_MAX,
            unsettled_max: limits::SESSION_UNSETTLED_MAX,
            reply_bytes_max: limits::SESSION_REPLY_BYTES_MAX,
            idle_ms: limits::SESSION_IDLE_MS,
        }
    }
}

/// The sessions of one group.
///
/// 1. A live session is never evicted to make room.
/// 2. A serial is in the table, or below `settled`, or was never decided.
/// 3. A session ends by its own frame, or `idle_ms` after its last one, in log time.
/// 4. However one ended, its id is remembered until so many others have ended after it: a late copy of its opening must not bring it back,
///    or late copies of its frames would happen again. No time is long enough for that, since a copy may wait for as long as a
///    process stands still.
#[derive(Debug)]
pub(crate) struct Sessions {
    limits: SessionLimits,
    /// Those that live.
    table: Table<Kept>,
    /// A moment for each session at which to look whether it has ended; never after its end. Moved only when it is
    /// reached, so that a busy session costs nothing here.
    looks: BTreeSet<(LogTime, SessionId)>,
    /// Those that have ended.
    ended: Table<Ended>,
    /// The same by when: the oldest is forgotten first when there is no room.
    by_end: BTreeSet<(LogTime, SessionId)>,
    /// Sessions changed, ended or forgotten since the last checkpoint.
    changed: Vec<SessionId>,
}

/// Found by a hash that is keyed at random, since clients choose the ids.
type Table<T> = HashMap<SessionId, T, foldhash::fast::RandomState>;

/// What is remembered of a session that has ended.
#[derive(Clone, Copy, Debug)]
struct Ended {
    at: LogTime,
    /// Whether the next checkpoint must write it.
    changed: bool,
}

/// A session and whether the next checkpoint must write it.
#[derive(Debug)]
struct Kept {
    /// Shared with a checkpoint that is being written, and copied on the first change after that.
    session: Arc<Session>,
    changed: bool,
}

#[derive(Clone, Debug)]
struct Session {
    opened: Place,
    last_used: LogTime,
    settled: u64,
    /// Decided and not settled, by serial.
    decided: VecDeque<Decided>,
    reply_bytes: usize,
}

/// A position without its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Place(u32, Index, u32);

impl Place {
    const fn in_group(self, group: GroupId) -> Position {
        Position { group, epoch: self.0, index: self.1, slot: self.2 }
    }
}

#[derive(Clone, Debug)]
struct Decided {
    serial: u64,
    hash: PayloadHash,
    place: Place,
    outcome: Outcome,
}

#[derive(Clone, Debug)]
enum Outcome {
    Accepted(Reply),
    Rejected(Rejection),
}

/// What the table knows of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Lookup {
    /// This became of it.
    Decided(Decision),
    /// Its session lives and it has not been decided.
    Undecided,
    /// Its session is not open, or has settled it.
    Ended,
}

impl Sessions {
    pub(crate) fn new(limits: SessionLimits) -> Self {
        Self {
            limits,
            table: Table::default(),
            looks: BTreeSet::new(),
            ended: Table::default(),
            by_end: BTreeSet::new(),
            changed: Vec::new(),
        }
    }

    /// How many are live.
    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    /// Ends the sessions that were not used for too long at `now`.
    pub(crate) fn expire(&mut self, now: LogTime) {
        while let Some((at, id)) = self.looks.first().copied()
            && at <= now
        {
            self.looks.pop_first();
            let Some(kept) = self.table.get(&id) else { continue };
            let end = kept.session.last_used.plus_ms(self.limits.idle_ms);
            if end <= now {
                self.end(id, now);
            } else {
                self.looks.insert((end, id));
            }
        }
    }

    /// Ends a session; false if it does not live.
    fn end(&mut self, id: SessionId, now: LogTime) -> bool {
        let Some(Kept { changed, .. }) = self.table.remove(&id) else { return false };
        if !changed {
            self.changed.push(id);
        }
        self.ended.insert(id, Ended { at: now, changed: true });
        self.by_end.insert((now, id));
        if self.ended.len() > self.limits.sessions_max {
            self.forget_oldest();
        }
        true
    }

    fn forget_oldest(&mut self) {
        let Some((_, id)) = self.by_end.pop_first() else { return };
        if self.ended.remove(&id).is_some_and(|ended| !ended.changed) {
            self.changed.push(id);
        }
    }

    /// Judges one frame at its place, and notes it as decided where that is what the verdict says. The reply of a
    /// fresh frame comes later, by [`reply`](Self::reply). `machine` is in the state before the batch.
    pub(crate) fn judge(
        &mut self,
        frame: &Frame,
        hash: PayloadHash,
        position: Position,
        now: LogTime,
        machine: &dyn StateMachine,
    ) -> Verdict {
        let place = Place(position.epoch, position.index, position.slot);
        let limits = self.limits;
        match frame.role() {
            FrameRole::OpenSession => self.open(frame, place, now),
            FrameRole::CloseSession => {
                if self.end(frame.id.session, now) {
                    Verdict::Session
                } else {
                    Verdict::SessionEnded
                }
            }
            FrameRole::Mutation => {
                let Some(session) = self.change(frame.id.session, now) else {
                    return Verdict::SessionEnded;
                };
                session.judge(frame, hash, place, now, machine, &limits)
            }
        }
    }

    fn open(&mut self, frame: &Frame, place: Place, now: LogTime) -> Verdict {
        let id = frame.id.session;
        if self.change(id, now).is_some() {
            return Verdict::Session;
        }
        if self.ended.contains_key(&id) {
            return Verdict::SessionEnded;
        }
        // Somebody may have kept it, and all that came after, until the session was forgotten.
        if frame.valid_until.is_some_and(|until| until < now) {
            return Verdict::Rejected(Rejection::Expired);
        }
        if self.table.len() >= self.limits.sessions_max {
            return Verdict::NoRoom(Resource::Sessions, self.limits.sessions_max as u64);
        }
        let session = Session {
            opened: place,
            last_used: now,
            settled: 1,
            decided: VecDeque::new(),
            reply_bytes: 0,
        };
        self.table.insert(id, Kept { session: Arc::new(session), changed: true });
        self.changed.push(id);
        self.looks.insert((now.plus_ms(self.limits.idle_ms), id));
        Verdict::Session
    }

    /// The session, if it lives, to be changed now.
    fn change(&mut self, id: SessionId, now: LogTime) -> Option<&mut Session> {
        let kept = self.table.get_mut(&id)?;
        if !kept.changed {
            kept.changed = true;
            self.changed.push(id);
        }
        let session = Arc::make_mut(&mut kept.session);
        session.last_used = now;
        Some(session)
    }

    /// Whether a frame would find room in its session now. One whose session is not known here may.
    pub(crate) fn takes(&self, frame: &Frame) -> bool {
        let kept =
            self.table.get(&frame.id.session).filter(|_| frame.role() == FrameRole::Mutation);
        kept.is_none_or(|kept| kept.session.takes(frame, &self.limits))
    }

    /// Keeps the reply of a frame that [`judge`](Self::judge) found fresh.
    pub(crate) fn reply(&mut self, id: FrameId, reply: &Bytes) {
        // The session or the serial may have gone in the same batch; its proposer wanted it so.
        let Some(kept) = self.table.get_mut(&id.session) else { return };
        let limit = self.limits.reply_bytes_max;
        Arc::make_mut(&mut kept.session).reply(id.serial, reply, limit);
    }

    /// What became of a frame. With a hash, a frame of another payload was rejected.
    pub(crate) fn lookup(&self, group: GroupId, id: FrameId, hash: Option<PayloadHash>) -> Lookup {
        let Some(Kept { session, .. }) = self.table.get(&id.session) else { return Lookup::Ended };
        match id.serial {
            FrameId::OPEN => {
                return Lookup::Decided(Decision::Accept(Commit {
                    position: session.opened.in_group(group),
                    reply: Reply::Known(Bytes::new()),
                    proof: None,
                }));
            }
            FrameId::CLOSE => return Lookup::Undecided,
            serial if serial < session.settled => return Lookup::Ended,
            _ => {}
        }
        let Ok(place) = session.find(id.serial) else { return Lookup::Undecided };
        let decided = &session.decided[place];
        #[cfg(quorate_planted)]
        let hash = hash.filter(|_| !quorate_planted::Bug::IdReused.is_planted());
        if hash.is_some_and(|hash| hash != decided.hash) {
            return Lookup::Decided(Decision::Reject(Rejection::IdReused));
        }
        Lookup::Decided(match &decided.outcome {
            Outcome::Accepted(reply) => Decision::Accept(Commit {
                position: decided.place.in_group(group),
                reply: reply.clone(),
                proof: None,
            }),
            Outcome::Rejected(rejection) => Decision::Reject(rejection.clone()),
        })
    }

    /// What changed since the last call, to be encoded on another thread. Costs one reference for each session.
    pub(crate) fn begin_checkpoint(&mut self) -> SessionChanges {
        let changed = std::mem::take(&mut self.changed);
        SessionChanges(changed.into_iter().map(|id| (id, self.written(id))).collect())
    }

    /// What the next checkpoint writes of a session; it is not changed then.
    fn written(&mut self, id: SessionId) -> Written {
        if let Some(kept) = self.table.get_mut(&id) {
            kept.changed = false;
            return Written::Live(Arc::clone(&kept.session));
        }
        match self.ended.get_mut(&id) {
            Some(ended) => {
                ended.changed = false;
                Written::Ended(ended.at)
            }
            None => Written::Forgotten,
        }
    }

    /// Takes over one session of a checkpoint.
    pub(crate) fn restore(&mut self, id: &[u8], bytes: &[u8]) -> Result<(), RestoreError> {
        let damaged = |problem: String| RestoreError::new(format!("session {id:02x?}: {problem}"));
        let id = <[u8; 16]>::try_from(id).map_err(|_| damaged("its id is not 16 bytes".into()))?;
        let id = SessionId::new(id);
        let stored: StoredSession<'_> = codec::decode_all(bytes).map_err(damaged)?;
        if stored.settled == EVERYTHING {
            let at = LogTime::from_ms(stored.last_used);
            self.ended.insert(id, Ended { at, changed: false });
            self.by_end.insert((at, id));
            return Ok(());
        }
        let session = stored.restore().map_err(damaged)?;
        self.looks.insert((session.last_used.plus_ms(self.limits.idle_ms), id));
        self.table.insert(id, Kept { session: Arc::new(session), changed: false });
        Ok(())
    }
}

/// What a session that has ended is stored to have settled: every serial that there is.
const EVERYTHING: u64 = u64::MAX;

impl Session {
    fn find(&self, serial: u64) -> Result<usize, usize> {
        // Serials mostly come in order, and then the place is at the end.
        match self.decided.back() {
            None => Err(0),
            Some(last) if last.serial < serial => Err(self.decided.len()),
            Some(_) => self.decided.binary_search_by_key(&serial, |decided| decided.serial),
        }
    }

    fn judge(
        &mut self,
        frame: &Frame,
        hash: PayloadHash,
        place: Place,
        now: LogTime,
        machine: &dyn StateMachine,
        limits: &SessionLimits,
    ) -> Verdict {
        let serial = frame.id.serial;
        self.settle(frame.settled.min(serial));
        if serial < self.settled {
            return Verdict::SessionEnded;
        }
        let at = match self.find(serial) {
            #[cfg(quorate_planted)]
            Ok(at) if quorate_planted::Bug::AppliedTwice.is_planted() => at,
            #[cfg(quorate_planted)]
            Ok(_) if quorate_planted::Bug::IdReused.is_planted() => return Verdict::Repeated,
            Ok(found) if self.decided[found].hash != hash => {
                return Verdict::Rejected(Rejection::IdReused);
            }
            Ok(_) => return Verdict::Repeated,
            Err(at) => at,
        };
        // The oldest open serial always has room: it is what the proposer must have answered before it can settle
        // anything, so refusing it would leave the session full for ever.
        let is_oldest = serial <= self.settled;
        #[cfg(quorate_planted)]
        let is_oldest = is_oldest && !quorate_planted::Bug::OldestRefused.is_planted();
        if self.decided.len() >= limits.unsettled_max && !is_oldest {
            return Verdict::NoRoom(Resource::Unsettled, limits.unsettled_max as u64);
        }
        let rejection = if frame.valid_until.is_some_and(|until| until < now) {
            Some(Rejection::Expired)
        } else {
            machine.validate(frame).err().map(refused)
        };
        let (outcome, verdict) = match rejection {
            Some(rejection) => (Outcome::Rejected(rejection.clone()), Verdict::Rejected(rejection)),
            None => (Outcome::Accepted(Reply::Forgotten), Verdict::Fresh),
        };
        let decided = Decided { serial, hash, place, outcome };
        self.reply_bytes += decided.reply_bytes();
        self.decided.insert(at, decided);
        self.forget_replies(limits.reply_bytes_max);
        verdict
    }

    /// Whether a frame would find room, as [`judge`](Self::judge) sees it.
    fn takes(&self, frame: &Frame, limits: &SessionLimits) -> bool {
        let serial = frame.id.serial;
        let settled = self.settled.max(frame.settled.min(serial));
        self.decided.len() < limits.unsettled_max
            || serial <= settled
            || self.find(serial).is_ok()
            || self.decided.len() - self.decided.partition_point(|it| it.serial < settled)
                < limits.unsettled_max
    }

    /// Forgets the serials below `settled`.
    fn settle(&mut self, settled: u64) {
        if settled <= self.settled {
            return;
        }
        self.settled = settled;
        while self.decided.front().is_some_and(|decided| decided.serial < settled) {
            let gone = self.decided.pop_front().expect("there is a front");
            self.reply_bytes -= gone.reply_bytes();
        }
    }

    fn reply(&mut self, serial: u64, reply: &Bytes, bytes_max: usize) {
        let Ok(at) = self.find(serial) else { return };
        if reply.len() > REPLY_KEPT_BYTES_MAX {
            return;
        }
        self.decided[at].outcome = Outcome::Accepted(Reply::Known(reply.clone()));
        self.reply_bytes += reply.len();
        self.forget_replies(bytes_max);
    }

    /// Which replies are forgotten follows from replicated state alone: the oldest serials first.
    fn forget_replies(&mut self, bytes_max: usize) {
        let mut oldest = 0;
        while self.reply_bytes > bytes_max {
            let decided = &mut self.decided[oldest];
            self.reply_bytes -= decided.reply_bytes();
            match &mut decided.outcome {
                Outcome::Accepted(reply) => *reply = Reply::Forgotten,
                Outcome::Rejected(Rejection::Refused { reason }) => *reason = FORGOTTEN.into(),
                Outcome::Rejected(_) => {}
            }
            oldest += 1;
        }
    }
}

/// Instead of the words of a refusal that are not kept any more.
const FORGOTTEN: &str = "forgotten";

/// The rejection with these words, cut to what is kept.
fn refused(mut reason: String) -> Rejection {
    reason.truncate(reason.floor_char_boundary(REFUSAL_BYTES_MAX));
    Rejection::Refused { reason }
}

impl Decided {
    fn reply_bytes(&self) -> usize {
        match &self.outcome {
            Outcome::Accepted(Reply::Known(reply)) => reply.len(),
            // Words of which nothing can be forgotten count as none.
            Outcome::Rejected(Rejection::Refused { reason }) if reason != FORGOTTEN => reason.len(),
            Outcome::Accepted(Reply::Forgotten) | Outcome::Rejected(_) => 0,
        }
    }
}

/// Sessions that changed, as they were when a checkpoint began.
#[derive(Debug)]
pub(crate) struct SessionChanges(Vec<(SessionId, Written)>);

#[derive(Debug)]
enum Written {
    Live(Arc<Session>),
    /// At this log time.
    Ended(LogTime),
    Forgotten,
}

impl SessionChanges {
    /// As pairs of a checkpoint, with `key` in front of each session's id.
    pub(crate) fn pairs(self, key: u8) -> impl Iterator<Item = Pair> + Send {
        self.0.into_iter().map(move |(id, session)| {
            let key: Vec<u8> = std::iter::once(key).chain(id.bytes()).collect();
            match session {
                Written::Live(session) => {
                    Pair::put(key, codec::encode(&StoredSession::of(&session)))
                }
                Written::Ended(at) => Pair::put(key, codec::encode(&StoredSession::ended(at))),
                Written::Forgotten => Pair::remove(key),
            }
        })
    }
}

#[derive(Serialize, Deserialize)]
struct StoredSession<'a> {
    opened: Place,
    last_used: u64,
    settled: u64,
    #[serde(borrow)]
    decided: Vec<StoredDecided<'a>>,
}

#[derive(Serialize, Deserialize)]
struct StoredDecided<'a> {
    serial: u64,
    #[serde(borrow, with = "serde_bytes")]
    hash: &'a [u8],
    place: Place,
    rejected: Option<Rejection>,
    #[serde(borrow, with = "serde_bytes")]
    reply: Option<&'a [u8]>,
}

impl<'a> StoredSession<'a> {
    fn of(session: &'a Session) -> Self {
        let decided = session.decided.iter();
        #[cfg(quorate_planted)]
        let decided = decided.take(if quorate_planted::Bug::SerialsNotStored.is_planted() {
            0
        } else {
            usize::MAX
        });
        let decided = decided.map(|decided| {
            let (rejected, reply) = match &decided.outcome {
                Outcome::Accepted(Reply::Known(reply)) => (None, Some(&reply[..])),
                Outcome::Accepted(Reply::Forgotten) => (None, None),
                Outcome::Rejected(rejection) => (Some(rejection.clone()), None),
            };
            StoredDecided {
                serial: decided.serial,
                hash: decided.hash.as_bytes(),
                place: decided.place,
                rejected,
                reply,
            }
        });
        Self {
            opened: session.opened,
            last_used: session.last_used.as_ms(),
            settled: session.settled,
            decided: decided.collect(),
        }
    }

    /// One that ended at this log time.
    const fn ended(at: LogTime) -> Self {
        let last_used = at.as_ms();
        Self { opened: Place(0, 0, 0), last_used, settled: EVERYTHING, decided: Vec::new() }
    }

    fn restore(self) -> Result<Session, String> {
        let mut reply_bytes = 0;
        let mut decided = VecDeque::with_capacity(self.decided.len());
        for stored in self.decided {
            if decided.back().is_some_and(|last: &Decided| last.serial >= stored.serial) {
                return Err("its serials are not in order".into());
            }
            let hash = <[u8; 16]>::try_from(stored.hash).map_err(|_| "a hash is not 16 bytes")?;
            let outcome = match (stored.rejected, stored.reply) {
                (Some(rejection), _) => Outcome::Rejected(rejection),
                (None, Some(reply)) => {
                    Outcome::Accepted(Reply::Known(Bytes::copy_from_slice(reply)))
                }
                (None, None) => Outcome::Accepted(Reply::Forgotten),
            };
            let (serial, place) = (stored.serial, stored.place);
            let hash = PayloadHash::from_bytes(hash);
            let one = Decided { serial, hash, place, outcome };
            reply_bytes += one.reply_bytes();
            decided.push_back(one);
        }
        Ok(Session {
            opened: self.opened,
            last_used: LogTime::from_ms(self.last_used),
            settled: self.settled,
            decided,
            reply_bytes,
        })
    }
}
