//! What must be true of a run, whatever happened in it.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use bytes::Bytes;
use quorate_replicator::{Accepted, Commit, Frame, FrameId, GroupStatus, Position};

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

/// Knows everything that was proposed, answered and given to the subscriber, over all lives of the node.
#[derive(Debug, Default)]
pub(crate) struct Oracle {
    proposed: HashMap<FrameId, Frame>,
    /// What an accept said of a frame; a repetition must say the same.
    acknowledged: BTreeMap<FrameId, (Position, Option<Bytes>)>,
    /// The order that the subscriber saw.
    pub(crate) order: Vec<(Position, FrameId)>,
    place: HashMap<FrameId, usize>,
    /// The history hash of each index that was seen at the end of a turn.
    histories: BTreeMap<u64, [u8; 32]>,
    last_log_time: u64,
}

impl Oracle {
    pub(crate) fn proposed(&mut self, frame: &Frame) {
        self.proposed.entry(frame.id).or_insert_with(|| frame.clone());
    }

    /// A frame was accepted, for the first time or again.
    pub(crate) fn accepted(&mut self, id: FrameId, commit: &Commit) -> Checked {
        if id.serial == FrameId::OPEN || id.serial == FrameId::CLOSE {
            // A session that had ended is opened anew, at another place, and what ends one is not given to subscribers.
            return Ok(());
        }
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
        let (_, id) = *self.order.get(rng.usize(..self.order.len().max(1)))?;
        self.acknowledged.contains_key(&id).then(|| self.proposed[&id].clone())
    }

    /// The newest position that anyone was told of.
    pub(crate) fn newest_acknowledged(&self) -> Option<Position> {
        self.acknowledged.values().map(|(position, _)| *position).max()
    }

    /// The subscriber was given these.
    pub(crate) fn given(&mut self, frames: &[Accepted]) -> Checked {
        for Accepted { position, frame } in frames {
            if self.order.last().is_some_and(|(last, _)| last >= position) {
                return violation(format!(
                    "the subscriber got {position} after {:?}",
                    self.order.last()
                ));
            }
            if let Some(before) = self.place.insert(frame.id, self.order.len()) {
                let before = self.order[before].0;
                return violation(format!(
                    "{} was accepted at {before} and at {position}",
                    frame.id
                ));
            }
            match self.proposed.get(&frame.id) {
                None => return violation(format!("{} was never proposed", frame.id)),
                Some(proposed)
                    if (&proposed.shard, &proposed.payload) != (&frame.shard, &frame.payload) =>
                {
                    return violation(format!("{} is not what was proposed", frame.id));
                }
                Some(_) => {}
            }
            self.order.push((*position, frame.id));
        }
        Ok(())
    }

    /// The node shows this after a turn: the same index must always have the same history, over all restarts.
    pub(crate) fn seen(&mut self, status: &GroupStatus) -> Checked {
        let history = *self.histories.entry(status.applied).or_insert(status.history);
        if history != status.history {
            return violation(format!("index {} has two histories", status.applied));
        }
        if status.applied >= self.histories.keys().next_back().copied().unwrap_or(0) {
            if status.log_time.as_ms() < self.last_log_time {
                return violation(format!("log time went back to {}", status.log_time));
            }
            self.last_log_time = status.log_time.as_ms();
        }
        Ok(())
    }

    /// After a start has replayed: nothing that was acknowledged may be missing.
    pub(crate) fn replayed(&self, status: &GroupStatus) -> Checked {
        match self.newest_acknowledged() {
            Some(newest) if newest.index > status.applied => violation(format!(
                "{newest} was acknowledged, and after a restart the node has {} only",
                status.applied
            )),
            _ => Ok(()),
        }
    }

    /// At the end, when the subscriber has everything: what was acknowledged is there, once, where it was said to be.
    pub(crate) fn finish(&self) -> Checked<u64> {
        for (id, (position, _)) in &self.acknowledged {
            match self.place.get(id).map(|place| self.order[*place].0) {
                None => {
                    return violation(format!("{id} was acknowledged at {position} and is lost"));
                }
                Some(given) if given != *position => {
                    return violation(format!(
                        "{id} was acknowledged at {position} and is at {given}"
                    ));
                }
                Some(_) => {}
            }
        }
        Ok(self.order.len() as u64)
    }
}
