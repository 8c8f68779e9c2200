//! What is decided and durable is applied, and those who wait for it are told.

use quorate_replicator::{Accepted, Decision, LogTime, ReadError};
use quorate_storage::{Body, Entry};

use crate::batch::DecodedBatch;
use crate::callers::{Answer, Callers};
use crate::effects::{Effects, Fetch, FetchFor};
use crate::engine::{Deliver, Input, Now, Placed, Verdict};
use crate::pool::HashedFrame;
use crate::reads::Wants;
use crate::sessions::Lookup;
use crate::subscriptions::{FETCH_BYTES, Next};

use super::HostCore;

impl<C: Callers> HostCore<C> {
    /// Applies what is decided and durable, at most `frames_left` frames; true if anything was applied.
    pub(super) fn deliver(
        &mut self,
        now: Now,
        frames_left: &mut usize,
        effects: &mut Effects<C>,
    ) -> bool {
        let mut applied = false;
        while *frames_left > 0 && self.stopped.is_none() && self.installing.is_none() {
            let durable = self.durable;
            #[cfg(quorate_planted)]
            let durable = match quorate_planted::Bug::DeliveredEarly.is_planted() {
                true => self.out.last_seq(),
                false => durable,
            };
            if self.deliveries.front().is_none_or(|next| next.after > durable) {
                break;
            }
            let next = self.deliveries.pop_front().expect("there is a front");
            match next.what {
                Deliver::Batch { entry, mark, proof } => {
                    let frames = self.apply(now, &entry, effects);
                    self.mark = mark;
                    self.proved.delivered(entry, proof);
                    *frames_left = frames_left.saturating_sub(frames);
                    applied = true;
                }
                Deliver::Install { index, mark } => {
                    self.installing = Some((index, mark));
                    effects.install = Some(index);
                }
            }
        }
        if self.reads.count() > 0 {
            self.serve_reads(effects);
        }
        applied
    }

    /// Applies one decided batch; how many frames it had.
    pub(super) fn apply(&mut self, now: Now, entry: &Entry, effects: &mut Effects<C>) -> usize {
        let placed = Placed { index: entry.index, tag: entry.tag };
        let (applied, waiters, count) = match (self.pool.deliver(placed), &entry.body) {
            // Placed here: the frames are at hand, and those who wait for them too.
            (Some((stamped, frames)), Body::Frames(bytes)) => {
                let waiters: Vec<_> = frames.iter().map(|pending| pending.waiter).collect();
                let frames = frames.into_iter().map(|pending| pending.hashed);
                (self.state.apply(entry.index, stamped, frames), waiters, bytes.len())
            }
            (_, Body::Frames(bytes)) => match DecodedBatch::decode(bytes) {
                Ok(batch) if !self.state.agrees(&batch.head.witness) => {
                    self.fault(
                        format!(
                            "this node's history at index {} differs from that of the proposer of index {}: its state machine is not deterministic, or its data was changed; compare versions, then restore this node from another one or a backup",
                            batch.head.witness.index, entry.index
                        ),
                        effects,
                    );
                    return 0;
                }
                Ok(batch) => {
                    let frames = batch.frames.into_iter().map(HashedFrame::from);
                    (
                        self.state.apply(entry.index, batch.head.log_time, frames),
                        Vec::new(),
                        bytes.len(),
                    )
                }
                Err(error) => {
                    self.fault(
                        format!(
                            "entry {} of the log cannot be read: {error}; it may be of a newer version",
                            entry.index
                        ),
                        effects,
                    );
                    return 0;
                }
            },
            (_, Body::Empty | Body::Members(_)) => {
                (self.state.apply(entry.index, LogTime::ZERO, std::iter::empty()), Vec::new(), 0)
            }
        };
        let frames = applied.decisions.len();
        let had_released = self.pool.has_released();
        self.counters.accepted += applied.accepted.len() as u64;
        self.counters.rejected += applied.rejected;
        if !waiters.is_empty() {
            for (waiter, decision) in waiters.into_iter().zip(applied.decisions) {
                self.pool.answer(waiter, decision, &mut effects.answers);
            }
        } else if had_released {
            for ((id, hash), decision) in self.state.judged().zip(&applied.decisions) {
                self.pool.answer_released(id, hash, decision, &mut effects.answers);
            }
        }
        if had_released {
            self.pool.drop_unwanted();
        }
        if !self.subscriptions.is_empty() {
            let accepted = applied.accepted.into_iter().map(|frame| Accepted {
                position: self.state.position_of(entry.index, frame.slot),
                frame: frame.frame,
            });
            self.subscriptions.applied(entry.index, accepted.collect());
        }
        self.clock.observe(self.state.log_time(), now);
        self.compaction.applied(entry.index, count, now);
        self.reads.applied(placed);
        self.step(now, Input::Applied { index: entry.index, state: self.state.witness().history });
        frames
    }

    pub(super) fn serve_reads(&mut self, effects: &mut Effects<C>) {
        for waiting in self.reads.served(self.state.applied()) {
            effects.answers.push(match waiting.what {
                Wants::Barrier(who) => Answer::Read(who, Ok(self.state.position())),
                Wants::Decision(id, who) => Answer::Decision(
                    who,
                    match self.state.lookup(id) {
                        Lookup::Decided(decision) => Ok(decision),
                        Lookup::Undecided => Ok(Decision::Undecided),
                        Lookup::Ended => Err(ReadError::Forgotten),
                    },
                ),
            });
        }
    }

    /// Answers the engine's questions about candidates whose predecessors are all applied (R10); true if there were any.
    pub(super) fn check_candidates(&mut self, now: Now) -> bool {
        let applied = self.state.applied();
        let ready = self.checks.extract_if(.., |(_, entry)| entry.index <= applied + 1);
        let ready: Vec<_> = ready.collect();
        for (ticket, entry) in &ready {
            let verdict = match entry.index == applied + 1 {
                true => self.verdict(now, entry),
                false => Verdict::Invalid,
            };
            self.step(now, Input::Checked { ticket: *ticket, verdict });
        }
        !ready.is_empty()
    }

    /// Whether this candidate may be the next batch.
    fn verdict(&self, now: Now, entry: &Entry) -> Verdict {
        let Body::Frames(bytes) = &entry.body else { return Verdict::Valid };
        let Ok(batch) = DecodedBatch::decode(bytes) else { return Verdict::Invalid };
        let stamp = batch.head.log_time;
        let largest = self.config.frame_bytes_max;
        let is_next = stamp >= self.state.log_time()
            && self.state.agrees(&batch.head.witness)
            && batch.frames.iter().all(|frame| frame.payload.len() <= largest);
        let drift = u64::try_from(self.config.log_time_drift_max.as_millis()).unwrap_or(u64::MAX);
        match is_next {
            false => Verdict::Invalid,
            true if stamp > self.clock.estimate(now).plus_ms(drift) => Verdict::Ahead(stamp),
            true => Verdict::Valid,
        }
    }

    pub(super) fn serve_subscribers(&mut self, effects: &mut Effects<C>) {
        if self.subscriptions.is_empty() {
            return;
        }
        loop {
            let next = self.subscriptions.next(self.epoch(), self.state.applied());
            if next.is_empty() {
                return;
            }
            for next in next {
                match next {
                    Next::Chunk(chunk) => effects.chunks.push(chunk),
                    Next::Fetch(id, from, until) => effects.fetches.push(Fetch {
                        reader: FetchFor::Subscription(id),
                        range: from..until,
                        bytes_max: FETCH_BYTES,
                    }),
                }
            }
        }
    }
}
