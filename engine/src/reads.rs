//! Read barriers: how a read learns that the state applied here is fresh enough.
//!
//! All waiting reads share one question to the engine, and those that come while it is being answered share the next:
//! an answer is good for every read that began before the question was put.

use std::time::Duration;

use quorate_replicator::{FrameId, ReadError};
use quorate_storage::Index;

use crate::callers::{Callers, sooner};
use crate::engine::{Now, Placed, ReadAnswer, ReadId};

/// How long to wait before a question that had no answer is put again.
const RETRY_AFTER: Duration = Duration::from_millis(20);

/// How long a question may stay without any answer before it is put again: some consensus cores drop them.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(200);

/// A read that waits, and what it wants when its barrier has passed.
#[derive(Debug)]
pub(crate) struct Waiting<C: Callers> {
    pub(crate) deadline: Now,
    pub(crate) what: Wants<C>,
    /// For a bounded read: how old the answer may be, for the error.
    pub(crate) bound: Option<Duration>,
}

#[derive(Debug)]
pub(crate) enum Wants<C: Callers> {
    Barrier(C::Read),
    Decision(FrameId, C::Decision),
}

impl<C: Callers> Waiting<C> {
    /// The error of a read that was not confirmed in time.
    pub(crate) fn too_late(&self) -> ReadError {
        self.bound.map_or(ReadError::Timeout, |bound| ReadError::TooStale { bound })
    }
}

#[derive(Debug)]
pub(crate) struct Reads<C: Callers> {
    /// Not yet covered by a question.
    waiting: Vec<Waiting<C>>,
    /// The question that is being answered.
    asked: Option<Asked<C>>,
    /// Answered: to be served when the index is applied.
    confirmed: Vec<(Index, Now, Vec<Waiting<C>>)>,
    /// Wait for a marker to go through the log.
    through_log: Vec<(Now, Vec<Waiting<C>>)>,
    /// In a batch that the engine drives.
    marked: Vec<(Placed, Now, Vec<Waiting<C>>)>,
    /// Ask no sooner than this.
    ask_at: Option<Now>,
    next_id: u64,
    /// The newest confirmation that was served: when its question was put.
    fresh_at: Option<Now>,
    count: usize,
    /// No read is due before this; found anew when it is reached.
    earliest: Option<Now>,
}

#[derive(Debug)]
struct Asked<C: Callers> {
    id: ReadId,
    at: Now,
    waiting: Vec<Waiting<C>>,
}

impl<C: Callers> Reads<C> {
    pub(crate) const fn new() -> Self {
        Self {
            waiting: Vec::new(),
            asked: None,
            confirmed: Vec::new(),
            through_log: Vec::new(),
            marked: Vec::new(),
            ask_at: None,
            next_id: 1,
            fresh_at: None,
            count: 0,
            earliest: None,
        }
    }

    /// How many wait.
    pub(crate) const fn count(&self) -> usize {
        self.count
    }

    pub(crate) fn add(&mut self, waiting: Waiting<C>) {
        self.count += 1;
        self.earliest = sooner(self.earliest, Some(waiting.deadline));
        self.waiting.push(waiting);
    }

    /// Whether the state applied here is known to hold everything that was answered `bound` before `now`.
    pub(crate) fn is_fresh(&self, now: Now, bound: Duration) -> bool {
        self.fresh_at.is_some_and(|at| now.saturating_sub(at) <= bound)
    }

    /// The question to put to the engine now, if any.
    pub(crate) fn ask(&mut self, now: Now) -> Option<ReadId> {
        if let Some(asked) = &self.asked {
            if now < asked.at + ASK_AGAIN_AFTER {
                return None;
            }
            let asked = self.asked.take().expect("it was there");
            self.waiting.extend(asked.waiting);
        }
        if self.waiting.is_empty() || self.ask_at.is_some_and(|at| now < at) {
            return None;
        }
        self.ask_at = None;
        // A fresh id for each question: an answer to an old one must never serve a newer read.
        let id = ReadId(self.next_id);
        self.next_id += 1;
        self.asked = Some(Asked { id, at: now, waiting: std::mem::take(&mut self.waiting) });
        Some(id)
    }

    /// The engine's answer.
    pub(crate) fn answered(&mut self, now: Now, id: ReadId, answer: ReadAnswer) {
        if self.asked.as_ref().is_none_or(|asked| asked.id != id) {
            return;
        }
        let asked = self.asked.take().expect("it was there");
        match answer {
            ReadAnswer::At(index) => self.confirmed.push((index, asked.at, asked.waiting)),
            ReadAnswer::ThroughLog => self.through_log.push((asked.at, asked.waiting)),
            ReadAnswer::Retry => {
                self.waiting.extend(asked.waiting);
                self.ask_at = Some(now + RETRY_AFTER);
            }
        }
    }

    /// Whether a marker is wanted in the log.
    pub(crate) fn wants_marker(&self) -> bool {
        !self.through_log.is_empty()
    }

    /// A batch was placed after the reads began: it serves as their marker.
    pub(crate) fn mark(&mut self, placed: Placed) {
        for (at, waiting) in self.through_log.drain(..) {
            self.marked.push((placed, at, waiting));
        }
    }

    /// A placed batch will not be decided where it was placed; its reads need another marker.
    pub(crate) fn release(&mut self, dead: impl Fn(&Placed) -> bool) {
        for (_, at, waiting) in self.marked.extract_if(.., |(placed, ..)| dead(placed)) {
            self.through_log.push((at, waiting));
        }
    }

    /// A batch was applied: what it marked is confirmed.
    pub(crate) fn applied(&mut self, applied: Placed) {
        let confirmed = &mut self.confirmed;
        for (placed, at, waiting) in self.marked.extract_if(.., |(placed, ..)| *placed == applied) {
            confirmed.push((placed.index, at, waiting));
        }
        self.release(|placed| placed.index == applied.index);
    }

    /// Takes the reads that can be served now that everything up to `applied` is applied.
    pub(crate) fn served(&mut self, applied: Index) -> Vec<Waiting<C>> {
        #[cfg(quorate_planted)]
        let applied = match quorate_planted::Bug::ReadAtApplied.is_planted() {
            true => Index::MAX,
            false => applied,
        };
        let mut served = Vec::new();
        for (_, at, waiting) in self.confirmed.extract_if(.., |(index, ..)| *index <= applied) {
            self.fresh_at = self.fresh_at.max(Some(at));
            served.extend(waiting);
        }
        self.count -= served.len();
        served
    }

    /// Takes the reads whose deadline has come.
    pub(crate) fn expire(&mut self, now: Now) -> Vec<Waiting<C>> {
        if self.earliest.is_none_or(|at| at > now) {
            return Vec::new();
        }
        let mut late = Vec::new();
        for list in self.lists() {
            late.extend(list.extract_if(.., |waiting| waiting.deadline <= now));
        }
        self.earliest =
            self.lists().flat_map(|list| list.iter().map(|waiting| waiting.deadline)).min();
        self.drop_empty();
        self.count -= late.len();
        late
    }

    /// Takes all reads.
    pub(crate) fn end(&mut self) -> Vec<Waiting<C>> {
        let all: Vec<_> = self.lists().flat_map(std::mem::take).collect();
        self.drop_empty();
        self.count = 0;
        all
    }

    /// When something is due here by itself.
    pub(crate) fn wake_at(&self) -> Option<Now> {
        if self.count == 0 {
            return None;
        }
        let again = self.asked.as_ref().map(|asked| asked.at + ASK_AGAIN_AFTER);
        let ask = if self.waiting.is_empty() { None } else { self.ask_at };
        sooner(self.earliest, sooner(again, ask))
    }

    fn lists(&mut self) -> impl Iterator<Item = &mut Vec<Waiting<C>>> {
        let asked = self.asked.iter_mut().map(|asked| &mut asked.waiting);
        let confirmed = self.confirmed.iter_mut().map(|(.., waiting)| waiting);
        let through_log = self.through_log.iter_mut().map(|(_, waiting)| waiting);
        let marked = self.marked.iter_mut().map(|(.., waiting)| waiting);
        std::iter::once(&mut self.waiting)
            .chain(asked)
            .chain(confirmed)
            .chain(through_log)
            .chain(marked)
    }

    fn drop_empty(&mut self) {
        if self.asked.as_ref().is_some_and(|asked| asked.waiting.is_empty()) {
            self.asked = None;
        }
        self.confirmed.retain(|(.., waiting)| !waiting.is_empty());
        self.through_log.retain(|(_, waiting)| !waiting.is_empty());
        self.marked.retain(|(.., waiting)| !waiting.is_empty());
    }
}
