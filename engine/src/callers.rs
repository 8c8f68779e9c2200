//! Who waits for an answer, and how long.

use std::fmt::Debug;
use std::time::Duration;

use quorate_replicator::{AdminError, Decision, Position, ProposeError, ReadError, SubscribeError};

use crate::engine::Now;
use crate::subscriptions::SubscriptionId;

/// What a shell gives the core to be answered through: a channel's sending half, or a number in a simulator. The core
/// only keeps it and gives it back, exactly once.
pub trait Callers: Debug + 'static {
    /// Of one proposed frame.
    type Propose: Debug + Send;
    /// Of several proposed frames.
    type ProposeMany: Debug + Send;
    /// Of a read barrier.
    type Read: Debug + Send;
    /// Of the question what became of a frame.
    type Decision: Debug + Send;
    /// Of a subscription.
    type Subscribe: Debug + Send;
    /// Of an operator's wish.
    type Admin: Debug + Send;
}

/// An answer and who gets it.
#[derive(Debug)]
pub enum Answer<C: Callers> {
    /// To a proposal of one frame.
    Propose(C::Propose, Result<Decision, ProposeError>),
    /// To a proposal of several frames.
    ProposeMany(C::ProposeMany, Result<Vec<Decision>, ProposeError>),
    /// To a read barrier.
    Read(C::Read, Result<Position, ReadError>),
    /// To the question what became of a frame.
    Decision(C::Decision, Result<Decision, ReadError>),
    /// To a wish to subscribe.
    Subscribe(C::Subscribe, Result<SubscriptionId, SubscribeError>),
    /// To an operator's wish.
    Admin(C::Admin, Result<(), AdminError>),
}

/// Names one waiting call; a number is used again only with another generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct CallId {
    place: u32,
    generation: u32,
}

/// The proposals that wait.
#[derive(Debug)]
pub(crate) struct Calls<C: Callers> {
    slots: Vec<Slot<C>>,
    free: Vec<u32>,
    /// No call ends before this; found anew when it is reached, so that a call that is answered in time costs nothing.
    earliest: Option<Now>,
    waiting: usize,
}

#[derive(Debug)]
struct Slot<C: Callers> {
    generation: u32,
    call: Option<Call<C>>,
}

#[derive(Debug)]
struct Call<C: Callers> {
    deadline: Now,
    who: Who<C>,
}

#[derive(Debug)]
enum Who<C: Callers> {
    One(C::Propose),
    Many {
        who: C::ProposeMany,
        decisions: Vec<Option<Decision>>,
        left: usize,
        error: Option<ProposeError>,
    },
    /// Frames of another node, which learns what becomes of them by applying them itself.
    Elsewhere {
        left: usize,
    },
}

impl<C: Callers> Calls<C> {
    pub(crate) const fn new() -> Self {
        Self { slots: Vec::new(), free: Vec::new(), earliest: None, waiting: 0 }
    }

    /// A call of one frame.
    pub(crate) fn one(&mut self, who: C::Propose, deadline: Now) -> CallId {
        self.insert(Call { deadline, who: Who::One(who) })
    }

    /// A call of several frames.
    pub(crate) fn many(&mut self, who: C::ProposeMany, frames: usize, deadline: Now) -> CallId {
        let decisions = vec![None; frames];
        self.insert(Call { deadline, who: Who::Many { who, decisions, left: frames, error: None } })
    }

    /// A call of another node, of several frames.
    pub(crate) fn elsewhere(&mut self, frames: usize, deadline: Now) -> CallId {
        self.insert(Call { deadline, who: Who::Elsewhere { left: frames } })
    }

    fn insert(&mut self, call: Call<C>) -> CallId {
        self.earliest =
            Some(self.earliest.map_or(call.deadline, |earliest| earliest.min(call.deadline)));
        self.waiting += 1;
        let place = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, call: None });
            u32::try_from(self.slots.len() - 1).expect("bounded by the frames in flight")
        });
        let slot = &mut self.slots[place as usize];
        assert!(slot.call.is_none(), "a free slot is empty");
        slot.call = Some(call);
        CallId { place, generation: slot.generation }
    }

    /// Whether anyone still waits for this call.
    pub(crate) fn waits(&self, id: CallId) -> bool {
        let slot = &self.slots[id.place as usize];
        slot.generation == id.generation && slot.call.is_some()
    }

    /// When a waiting call ends unanswered.
    pub(crate) fn deadline(&self, id: CallId) -> Option<Now> {
        let call = self.slots[id.place as usize].call.as_ref();
        call.filter(|_| self.waits(id)).map(|call| call.deadline)
    }

    /// How many frames a waiting call of this node has.
    pub(crate) fn frames(&self, id: CallId) -> Option<usize> {
        let call = self.slots[id.place as usize].call.as_ref().filter(|_| self.waits(id))?;
        match &call.who {
            Who::One(_) => Some(1),
            Who::Many { decisions, .. } => Some(decisions.len()),
            Who::Elsewhere { .. } => None,
        }
    }

    /// Ends a waiting call as a whole.
    pub(crate) fn refuse(
        &mut self,
        id: CallId,
        error: &ProposeError,
        answers: &mut Vec<Answer<C>>,
    ) {
        if self.waits(id) {
            answers.extend(self.take(id.place).finish(Some(Err(error.clone()))));
        }
    }

    /// Answers frame `slot` of a call; the call ends with its last frame.
    pub(crate) fn answer(
        &mut self,
        id: CallId,
        slot: u32,
        answer: Result<Decision, ProposeError>,
        answers: &mut Vec<Answer<C>>,
    ) {
        if !self.waits(id) {
            return;
        }
        let call = self.slots[id.place as usize].call.as_mut().expect("it waits");
        let (left, rest) = match &mut call.who {
            Who::One(_) => (&mut 1, Some(answer)),
            Who::Many { decisions, left, error, .. } => {
                match answer {
                    Ok(decision) => decisions[slot as usize] = Some(decision),
                    Err(ProposeError::SessionEnded) => *error = Some(ProposeError::SessionEnded),
                    Err(problem) => {
                        error.get_or_insert(problem);
                    }
                }
                (left, None)
            }
            Who::Elsewhere { left } => (left, None),
        };
        *left -= 1;
        if *left == 0 {
            answers.extend(self.take(id.place).finish(rest));
        }
    }

    /// A frame of another node needs nobody to wait for it here.
    pub(crate) fn drop_elsewhere(&mut self, id: CallId) {
        // Nobody is told: the other node learns what becomes of it by itself.
        self.answer(id, 0, Ok(Decision::Undecided), &mut Vec::new());
    }

    /// Lets a call of another node wait until then at least; false if it is none, or has ended.
    pub(crate) fn prolong(&mut self, id: CallId, until: Now) -> bool {
        self.extend(id, 0, until)
    }

    /// As [`prolong`](Self::prolong), for so many frames more.
    pub(crate) fn extend(&mut self, id: CallId, frames: usize, until: Now) -> bool {
        if !self.waits(id) {
            return false;
        }
        match &mut self.slots[id.place as usize].call {
            Some(Call { deadline, who: Who::Elsewhere { left } }) => {
                *deadline = until.max(*deadline);
                *left += frames;
                true
            }
            _ => false,
        }
    }

    /// Ends the calls whose deadline has come; true if there was one.
    pub(crate) fn expire(&mut self, now: Now, answers: &mut Vec<Answer<C>>) -> usize {
        if self.earliest.is_none_or(|earliest| earliest > now) {
            return 0;
        }
        let mut earliest: Option<Now> = None;
        let mut ended = 0;
        for place in 0..self.slots.len() {
            let Some(call) = &self.slots[place].call else { continue };
            if call.deadline <= now {
                ended += 1;
                let place = u32::try_from(place).expect("bounded by the frames in flight");
                answers.extend(self.take(place).finish(Some(Ok(Decision::Timeout))));
            } else {
                earliest =
                    Some(earliest.map_or(call.deadline, |earliest| earliest.min(call.deadline)));
            }
        }
        self.earliest = earliest;
        ended
    }

    /// When to call [`expire`](Self::expire) next.
    pub(crate) const fn earliest(&self) -> Option<Now> {
        if self.waiting == 0 { None } else { self.earliest }
    }

    /// Ends all calls with the same error.
    pub(crate) fn end(&mut self, error: &ProposeError, answers: &mut Vec<Answer<C>>) {
        for place in 0..self.slots.len() {
            if self.slots[place].call.is_some() {
                let place = u32::try_from(place).expect("bounded by the frames in flight");
                answers.extend(self.take(place).finish(Some(Err(error.clone()))));
            }
        }
    }

    fn take(&mut self, place: u32) -> Call<C> {
        let slot = &mut self.slots[place as usize];
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(place);
        self.waiting -= 1;
        slot.call.take().expect("only calls that wait are taken")
    }
}

impl<C: Callers> Call<C> {
    /// The answer, if it is for someone here; `rest` is what those frames get that have none.
    fn finish(self, rest: Option<Result<Decision, ProposeError>>) -> Option<Answer<C>> {
        Some(match self.who {
            Who::Elsewhere { .. } => return None,
            Who::One(who) => Answer::Propose(who, rest.expect("one frame has one answer")),
            Who::Many { who, decisions, error, .. } => {
                let none_is_decided = decisions.iter().all(Option::is_none);
                let error = match (error, rest) {
                    (Some(ProposeError::SessionEnded), _) => Some(ProposeError::SessionEnded),
                    (_, Some(Err(error))) => Some(error),
                    (error, None) => error.filter(|_| none_is_decided),
                    (_, Some(Ok(_))) => None,
                };
                // That there was no room for some says nothing of the others: those are answered, and these are unknown.
                let answer = match error {
                    Some(error) => Err(error),
                    None => Ok(decisions
                        .into_iter()
                        .map(|it| it.unwrap_or(Decision::Timeout))
                        .collect()),
                };
                Answer::ProposeMany(who, answer)
            }
        })
    }
}

/// The smallest of two moments that may not come.
pub(crate) fn sooner(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}
