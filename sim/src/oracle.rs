//! What must be true of a run, whatever happened in it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Bound;

use bytes::Bytes;
use quorate_replicator::{
    Accepted, Commit, Decision, Frame, FrameId, GroupId, GroupStatus, LogTime, Position, Rejection,
    SessionId,
};

use crate::judge::Judge;
use crate::node::Node;
use crate::scenario::everything;

/// Something that must not happen has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// What, in words.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Violation {}

/// Whoever takes the id of another frame takes one of so many indexes at the end.
const IMPOSTOR_WITHIN: u64 = 20;

pub(crate) type Checked<T = ()> = Result<T, Violation>;

pub(crate) fn violation<T>(what: impl Into<String>) -> Checked<T> {
    Err(Violation { what: what.into() })
}

/// A subscriber whose every frame is compared with those of the others.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Witness {
    /// Up to here it knows all, or has been told that it was cut off.
    pub(crate) at: Position,
}

impl Witness {
    pub(crate) fn new() -> Self {
        Self { at: Position::origin(GroupId::new(0)) }
    }
}

/// Knows everything that was proposed, answered and given to subscribers, over all lives of all nodes.
#[derive(Debug)]
pub(crate) struct Oracle {
    proposed: HashMap<FrameId, Frame>,
    /// What an accept said of a frame; a repetition must say the same.
    acknowledged: BTreeMap<FrameId, (Position, Option<Bytes>)>,
    newest_acknowledged: Option<Position>,
    /// Where each session was opened.
    opened: HashMap<SessionId, Position>,
    /// The newest position that a read was answered with.
    newest_read: Option<Position>,
    /// What some subscriber was given where.
    order: BTreeMap<Position, FrameId>,
    place: HashMap<FrameId, Position>,
    /// Up to here the subscribers together have seen everything.
    complete: Position,
    /// Histories and log times at each index that was seen at the end of a turn.
    seen: BTreeMap<u64, ([u8; 32], u64)>,
    /// The frame before each one of a list.
    before: HashMap<FrameId, FrameId>,
    /// No subscriber was ever cut off.
    is_whole: bool,
    /// How many attempts there are of a frame of which nobody was told that they are refused for good.
    attempts: HashMap<FrameId, u32>,
    /// Frames that were decided as rejected.
    rejected: HashSet<FrameId>,
    /// A digest of the keys at each index at which somebody looked.
    states: HashMap<u64, u64>,
    /// Of what the machines answer.
    pub(crate) judge: Judge,
}

impl Oracle {
    pub(crate) fn new() -> Self {
        Self {
            proposed: HashMap::new(),
            acknowledged: BTreeMap::new(),
            newest_acknowledged: None,
            opened: HashMap::new(),
            newest_read: None,
            order: BTreeMap::new(),
            place: HashMap::new(),
            complete: Position::origin(GroupId::new(0)),
            seen: BTreeMap::new(),
            before: HashMap::new(),
            is_whole: true,
            attempts: HashMap::new(),
            rejected: HashSet::new(),
            states: HashMap::new(),
            judge: Judge::default(),
        }
    }

    /// A client proposes these, as one list if there are several.
    pub(crate) fn proposed(&mut self, frames: &[Frame]) {
        for frame in frames {
            self.proposed.entry(frame.id).or_insert_with(|| frame.clone());
            *self.attempts.entry(frame.id).or_default() += 1;
        }
        for pair in frames.windows(2) {
            self.before.insert(pair[1].id, pair[0].id);
        }
    }

    /// An attempt ended with an error which says that it will never be decided.
    pub(crate) fn refused(&mut self, id: FrameId) -> Checked {
        let attempts = self.attempts.get_mut(&id).expect("what is refused was proposed");
        *attempts -= 1;
        match self.place.get(&id) {
            Some(position) if *attempts == 0 => {
                violation(format!("all attempts of {id} were refused, and it stands at {position}"))
            }
            _ => Ok(()),
        }
    }

    /// What came of a frame, for the first time or again.
    pub(crate) fn answered(&mut self, id: FrameId, decision: &Decision) -> Checked {
        match decision {
            Decision::Accept(commit) => self.accepted(id, commit),
            Decision::Reject(_) if self.acknowledged.contains_key(&id) => {
                violation(format!("{id} was accepted, and then rejected"))
            }
            Decision::Reject(Rejection::Expired) => {
                self.rejected.insert(id);
                match self.proposed.get(&id).and_then(|frame| frame.valid_until) {
                    Some(_) => Ok(()),
                    None => violation(format!("{id} expired, and is valid for ever")),
                }
            }
            _ => Ok(()),
        }
    }

    /// What came of a frame that took the id of an accepted one for another payload.
    pub(crate) fn impostor_answered(&self, id: FrameId, decision: &Decision) -> Checked {
        match decision {
            Decision::Accept(commit) => violation(format!(
                "another payload under the id {id} was accepted at {}",
                commit.position
            )),
            _ => Ok(()),
        }
    }

    fn accepted(&mut self, id: FrameId, commit: &Commit) -> Checked {
        if self.rejected.contains(&id) {
            return violation(format!("{id} was rejected, and then accepted"));
        }
        match id.serial {
            FrameId::OPEN => return self.opened(id.session, commit.position),
            // What ends a session is not given to subscribers.
            FrameId::CLOSE => return Ok(()),
            _ => {}
        }
        self.newest_acknowledged = self.newest_acknowledged.max(Some(commit.position));
        let reply = commit.reply.bytes().cloned();
        match self.acknowledged.get_mut(&id) {
            None => {
                self.acknowledged.insert(id, (commit.position, reply));
            }
            Some((position, _)) if *position != commit.position => {
                return violation(format!(
                    "{id} was accepted at {position} and again at {}",
                    commit.position
                ));
            }
            Some((_, known @ None)) => *known = reply,
            Some((_, Some(known))) if reply.as_ref().is_some_and(|reply| reply != known) => {
                return violation(format!("{id} has two replies: {known:?} and {reply:?}"));
            }
            Some(_) => {}
        }
        Ok(())
    }

    /// A session is opened once, and never comes back.
    fn opened(&mut self, session: SessionId, position: Position) -> Checked {
        match *self.opened.entry(session).or_insert(position) {
            known if known == position => Ok(()),
            known => violation(format!(
                "session {session} was opened at {known} and again at {position}"
            )),
        }
    }

    /// Copies of frames that were answered: of one, or of what opened its session and of that one. Which is not drawn.
    pub(crate) fn ghosts(&self, rng: &mut fastrand::Rng) -> Vec<Frame> {
        let Some(frame) = self.ghost(rng) else { return Vec::new() };
        let open = FrameId { serial: FrameId::OPEN, ..frame.id };
        let open = self.proposed.get(&open).filter(|_| frame.id.serial % 2 == 0);
        open.cloned().into_iter().chain([frame]).collect()
    }

    /// Some frame that was answered, as it was proposed first.
    pub(crate) fn ghost(&self, rng: &mut fastrand::Rng) -> Option<Frame> {
        let (_, last) = self.order.last_key_value()?;
        let index = rng.u64(..=self.place[last].index);
        let from = Position { index, slot: 0, ..self.complete };
        let (_, id) = self.order.range(from..).next()?;
        self.acknowledged.contains_key(id).then(|| self.proposed[id].clone())
    }

    /// A frame with the id of one that was accepted a short while ago, and another payload.
    pub(crate) fn impostor(&self, rng: &mut fastrand::Rng) -> Option<Frame> {
        let (last, _) = self.order.last_key_value()?;
        let index = last.index.saturating_sub(rng.u64(..IMPOSTOR_WITHIN));
        let (_, id) = self.order.range(Position { index, slot: 0, ..self.complete }..).next()?;
        let frame = self.acknowledged.contains_key(id).then(|| &self.proposed[id])?;
        Some(Frame { payload: Bytes::from_static(b"another payload"), ..frame.clone() })
    }

    /// Whether anyone was told that this frame is accepted.
    pub(crate) fn is_acknowledged(&self, id: FrameId) -> bool {
        self.acknowledged.contains_key(&id)
    }

    /// Whether a frame may have happened: only if every subscriber knows everything is it known that one did not.
    pub(crate) fn may_have_happened(&self, id: FrameId) -> bool {
        self.place.contains_key(&id) || !self.is_whole
    }

    /// The newest position that anyone was told of.
    pub(crate) fn newest_acknowledged(&self) -> Option<Position> {
        self.newest_acknowledged
    }

    /// What a read that begins now must see: all that was acknowledged, and all that other reads saw.
    pub(crate) fn read_floor(&self) -> Option<Position> {
        self.newest_acknowledged.max(self.newest_read)
    }

    /// A read that had to see everything up to a floor was answered. If it is `strict`, later ones must see as much.
    pub(crate) fn read(
        &mut self,
        floor: Option<Position>,
        reached: Position,
        strict: bool,
    ) -> Checked {
        if let Some(floor) = floor
            && reached < floor
        {
            return violation(format!(
                "a read saw {reached}, and {floor} was known to someone before it began"
            ));
        }
        if strict {
            self.newest_read = self.newest_read.max(Some(reached));
        }
        Ok(())
    }

    /// A subscriber was given these, and knows all up to `reached` now.
    pub(crate) fn given(
        &mut self,
        witness: &mut Witness,
        frames: &[Accepted],
        reached: Position,
    ) -> Checked {
        let follows = witness.at <= self.complete;
        for Accepted { position, frame } in frames {
            let (position, id) = (*position, frame.id);
            if witness.at >= position {
                return violation(format!("a subscriber got {position} after {}", witness.at));
            }
            self.nothing_between(witness.at, Bound::Excluded(position))?;
            witness.at = position;
            match self.order.get(&position) {
                Some(known) if *known == id => continue,
                Some(known) => {
                    return violation(format!("{position} is {known} here and {id} there"));
                }
                None if position <= self.complete => {
                    return violation(format!("{id} at {position} was not given to others"));
                }
                None => {}
            }
            self.first_given(position, frame)?;
        }
        if reached > witness.at {
            self.nothing_between(witness.at, Bound::Included(reached))?;
            witness.at = reached;
        }
        if follows {
            self.complete = self.complete.max(witness.at);
        }
        Ok(())
    }

    fn nothing_between(&self, from: Position, to: Bound<Position>) -> Checked {
        match self.order.range((Bound::Excluded(from), to)).next() {
            Some((position, id)) => {
                violation(format!("a subscriber was not given {id} at {position}"))
            }
            None => Ok(()),
        }
    }

    fn first_given(&mut self, position: Position, frame: &Frame) -> Checked {
        let id = frame.id;
        if let Some(before) = self.place.insert(id, position) {
            return violation(format!("{id} was accepted at {before} and at {position}"));
        }
        match self.proposed.get(&id) {
            None => return violation(format!("{id} was never proposed")),
            Some(proposed)
                if (&proposed.shard, &proposed.payload) != (&frame.shard, &frame.payload) =>
            {
                return violation(format!("{id} is not what was proposed"));
            }
            Some(proposed) => self.in_time(proposed, position)?,
        }
        if self.attempts.get(&id) == Some(&0) {
            return violation(format!(
                "all attempts of {id} were refused, and it stands at {position}"
            ));
        }
        self.order.insert(position, id);
        Ok(())
    }

    /// Nothing is accepted at a log time after which it is not valid.
    fn in_time(&self, frame: &Frame, position: Position) -> Checked {
        let Some(until) = frame.valid_until else { return Ok(()) };
        match self.seen.get(&position.index) {
            Some((_, at)) if *at > until.as_ms() => violation(format!(
                "{} was valid until {} and is accepted at log time {at}",
                frame.id,
                until.as_ms()
            )),
            _ => Ok(()),
        }
    }

    /// A node that has applied everything up to `index` has keys with this digest: all that ever do have the same.
    fn state(&mut self, index: u64, digest: u64) -> Checked {
        match *self.states.entry(index).or_insert(digest) {
            known if known == digest => Ok(()),
            _ => violation(format!("there are two states at index {index}")),
        }
    }

    /// Somebody looks at the keys of a node that serves.
    pub(crate) fn looked_at(&mut self, node: &Node) -> Checked {
        if node.faulted().is_some() {
            return Ok(());
        }
        let (shown, applied) = (everything(node), node.status().applied);
        if let Some(wanted) = self.judge.state_at(applied)
            && wanted != shown
        {
            let differs = wanted.iter().zip(&shown).find(|(wanted, shown)| wanted != shown);
            return violation(format!(
                "at index {applied} a node shows {} lines, and should show {}; the first that differ: {differs:?}",
                shown.len(),
                wanted.len()
            ));
        }
        let mut digest = DefaultHasher::new();
        shown.hash(&mut digest);
        self.state(applied, digest.finish())
    }

    /// The newest log time that was seen.
    pub(crate) fn log_time(&self) -> LogTime {
        LogTime::from_ms(self.seen.last_key_value().map_or(0, |(_, (_, log_time))| *log_time))
    }

    /// A subscriber was told that it was cut off before `from`.
    pub(crate) fn cut_off(&mut self, witness: &mut Witness, from: Position) {
        self.is_whole = false;
        witness.at = witness.at.max(from);
    }

    /// A node shows this after a turn: the same index has the same history on all nodes, over all restarts, and log time
    /// goes forward.
    pub(crate) fn seen(&mut self, status: &GroupStatus) -> Checked {
        self.judge.verdict()?;
        let (index, log_time) = (status.applied, status.log_time.as_ms());
        if let Some((history, known)) = self.seen.get(&index) {
            if *history != status.history {
                return violation(format!("index {index} has two histories"));
            }
            if *known != log_time {
                return violation(format!(
                    "index {index} has the log times {known} and {log_time}"
                ));
            }
            return Ok(());
        }
        if let Some((before, (_, earlier))) = self.seen.range(..index).next_back()
            && *earlier > log_time
        {
            return violation(format!(
                "log time went back from {earlier} at {before} to {log_time} at {index}"
            ));
        }
        if let Some((after, (_, later))) = self.seen.range(index..).next()
            && *later < log_time
        {
            return violation(format!(
                "log time went back from {log_time} at {index} to {later} at {after}"
            ));
        }
        self.seen.insert(index, (status.history, log_time));
        Ok(())
    }

    /// After the only node has replayed its log: nothing that was acknowledged may be missing.
    pub(crate) fn replayed(&self, status: &GroupStatus) -> Checked {
        match self.newest_acknowledged() {
            Some(newest) if newest.index > status.applied => violation(format!(
                "{newest} was acknowledged, and after a restart the node has {} only",
                status.applied
            )),
            _ => Ok(()),
        }
    }

    /// At the end, when the subscribers have everything: what was acknowledged is there, once, where it was said to be, and
    /// lists are in their order. How many frames there are.
    pub(crate) fn finish(&self) -> Checked<u64> {
        for (id, (position, _)) in &self.acknowledged {
            match self.place.get(id) {
                // Every subscriber may have been cut off before it saw this place.
                None if *position > self.complete => {}
                None => {
                    return violation(format!("{id} was acknowledged at {position} and is lost"));
                }
                Some(given) if given != position => {
                    return violation(format!(
                        "{id} was acknowledged at {position} and is at {given}"
                    ));
                }
                Some(_) => {}
            }
        }
        for (later, earlier) in &self.before {
            if let (Some(first), Some(second)) = (self.place.get(earlier), self.place.get(later))
                && first > second
            {
                return violation(format!(
                    "{earlier} at {first} stood before {later} at {second} in a list"
                ));
            }
        }
        Ok(self.order.len() as u64)
    }

    /// Every frame in its order.
    pub(crate) fn order(&self) -> impl Iterator<Item = (Position, FrameId)> {
        self.order.iter().map(|(position, id)| (*position, *id))
    }
}
