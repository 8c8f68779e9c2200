//! What must be true of a run, whatever happened in it.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::ops::Bound;

use bytes::Bytes;
use quorate_replicator::{
    Accepted, Commit, Decision, Frame, FrameId, GroupId, GroupStatus, Position,
};

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
}

impl Oracle {
    pub(crate) fn new() -> Self {
        Self {
            proposed: HashMap::new(),
            acknowledged: BTreeMap::new(),
            newest_acknowledged: None,
            newest_read: None,
            order: BTreeMap::new(),
            place: HashMap::new(),
            complete: Position::origin(GroupId::new(0)),
            seen: BTreeMap::new(),
            before: HashMap::new(),
        }
    }

    /// A client proposes these, as one list if there are several.
    pub(crate) fn proposed(&mut self, frames: &[Frame]) {
        for frame in frames {
            self.proposed.entry(frame.id).or_insert_with(|| frame.clone());
        }
        for pair in frames.windows(2) {
            self.before.insert(pair[1].id, pair[0].id);
        }
    }

    /// What came of a frame, for the first time or again.
    pub(crate) fn answered(&mut self, id: FrameId, decision: &Decision) -> Checked {
        match decision {
            Decision::Accept(commit) => self.accepted(id, commit),
            Decision::Reject(_) if self.acknowledged.contains_key(&id) => {
                violation(format!("{id} was accepted, and then rejected"))
            }
            _ => Ok(()),
        }
    }

    fn accepted(&mut self, id: FrameId, commit: &Commit) -> Checked {
        if id.serial == FrameId::OPEN || id.serial == FrameId::CLOSE {
            // A session that had ended is opened anew, at another place, and what ends one is not given to subscribers.
            return Ok(());
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

    /// Some frame that was answered, as it was proposed first.
    pub(crate) fn ghost(&self, rng: &mut fastrand::Rng) -> Option<Frame> {
        let (_, last) = self.order.last_key_value()?;
        let index = rng.u64(..=self.place[last].index);
        let from = Position { index, slot: 0, ..self.complete };
        let (_, id) = self.order.range(from..).next()?;
        self.acknowledged.contains_key(id).then(|| self.proposed[id].clone())
    }

    /// Whether anyone was told that this frame is accepted.
    pub(crate) fn is_acknowledged(&self, id: FrameId) -> bool {
        self.acknowledged.contains_key(&id)
    }

    /// The newest position that anyone was told of.
    pub(crate) fn newest_acknowledged(&self) -> Option<Position> {
        self.newest_acknowledged
    }

    /// What a read that begins now must see: all that was acknowledged, and all that other reads saw.
    pub(crate) fn read_floor(&self) -> Option<Position> {
        self.newest_acknowledged.max(self.newest_read)
    }

    /// A read that began with this floor was answered.
    pub(crate) fn read(&mut self, floor: Option<Position>, reached: Position) -> Checked {
        if let Some(floor) = floor
            && reached < floor
        {
            return violation(format!(
                "a read saw {reached}, and {floor} was known to someone before it began"
            ));
        }
        self.newest_read = self.newest_read.max(Some(reached));
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
            Some(_) => {}
        }
        self.order.insert(position, id);
        Ok(())
    }

    /// A subscriber was told that it was cut off before `from`.
    pub(crate) fn cut_off(&self, witness: &mut Witness, from: Position) {
        witness.at = witness.at.max(from);
    }

    /// A node shows this after a turn: the same index has the same history on all nodes, over all restarts, and log time
    /// goes forward.
    pub(crate) fn seen(&mut self, status: &GroupStatus) -> Checked {
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
