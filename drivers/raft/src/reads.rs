//! Linearizable reads: one question to the leader for all that wait, asked again where no answer comes.

use quorate_engine::engine::{Output, ReadAnswer, ReadId};
use quorate_storage::Index;

use crate::core::Core;

/// Most reads that wait; the host asks one for all of its own.
const WAITING_MAX: usize = 1024;

#[derive(Debug)]
pub(crate) struct Reads {
    /// Drawn at open, so that an answer to an earlier life is no answer to this one.
    life: u64,
    rounds: u64,
    waiting: Vec<ReadId>,
    /// Ticks since somebody waits.
    waited: usize,
    round: Option<Round>,
}

#[derive(Debug)]
struct Round {
    name: Vec<u8>,
    reads: Vec<ReadId>,
    /// Whom it was asked in which term.
    asked: (u64, Option<u64>),
    ticks: usize,
}

impl Reads {
    pub(crate) const fn new(life: u64) -> Self {
        Self { life, rounds: 0, waiting: Vec::new(), waited: 0, round: None }
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.round.is_none()
    }

    pub(crate) fn ask(&mut self, read: ReadId, out: &mut Output) {
        if self.waiting.len() < WAITING_MAX {
            self.waiting.push(read);
        } else {
            out.reads.push((read, ReadAnswer::Retry));
        }
    }

    pub(crate) fn tick(&mut self) {
        self.waited += 1;
        if let Some(round) = &mut self.round {
            round.ticks += 1;
        }
    }

    pub(crate) fn answered(&mut self, name: &[u8], index: Index, out: &mut Output) {
        if let Some(round) = self.round.take_if(|round| round.name == name) {
            out.reads.extend(round.reads.into_iter().map(|read| (read, ReadAnswer::At(index))));
            self.waited = 0;
        }
    }

    /// Puts the question, if somebody waits and it is not on its way.
    pub(crate) fn settle(&mut self, core: Option<&mut Core>, patience: Patience, out: &mut Output) {
        let Some(core) = core else { return self.put_off(out) };
        let asked = (core.term(), core.leader());
        // The core drops a question without a word when leaders change, and the network may.
        let stale = |round: &mut Round| round.asked != asked || round.ticks > patience.round;
        if let Some(round) = self.round.take_if(stale) {
            self.waiting.splice(..0, round.reads);
        }
        if self.is_idle() {
            self.waited = 0;
        }
        if self.waiting.is_empty() || self.round.is_some() {
            return;
        }
        if core.leader().is_none() || self.waited > patience.read {
            return self.put_off(out);
        }
        #[cfg(quorate_planted)]
        if core.leads()
            && (quorate_planted::Bug::ReadOnLease.is_planted()
                || quorate_planted::Bug::NoReadBarrier.is_planted()
                    && !core.knows_what_is_decided())
        {
            let at = ReadAnswer::At(core.committed());
            return out.reads.extend(self.waiting.drain(..).map(|read| (read, at)));
        }
        if core.leads() && !core.knows_what_is_decided() {
            // Until an entry of its own term is decided, a leader may not know the last decisions of the one before.
            return;
        }
        self.rounds += 1;
        let name = [core.id(), self.life, self.rounds].map(u64::to_le_bytes).concat();
        core.read(name.clone());
        self.round =
            Some(Round { name, reads: std::mem::take(&mut self.waiting), asked, ticks: 0 });
    }

    fn put_off(&mut self, out: &mut Output) {
        let round = self.round.take().map_or_else(Vec::new, |round| round.reads);
        let all = round.into_iter().chain(self.waiting.drain(..));
        out.reads.extend(all.map(|read| (read, ReadAnswer::Retry)));
        self.waited = 0;
    }
}

/// How many ticks are waited.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// For the answer to a question, before it is put again.
    pub(crate) round: usize,
    /// For any answer, before the reader is told to come again.
    pub(crate) read: usize,
}
