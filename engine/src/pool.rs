//! Frames on their way to a decision.
//!
//! ```text
//!   propose -> idle -> placed (in a batch that the engine drives) ----> delivered
//!                ^ \                    |                                ^
//!                |  +-> forwarded ------|---- (another node's batch) ----+
//!                |          |           |
//!                +- taken back -- released   offered again; may be decided twice, applied once
//! ```
//!
//! 1. A frame is idle, or in one placed batch, or forwarded to another node, or delivered (R8).
//! 2. A frame that was forwarded or released may be decided through its first batch while it waits for another; it is known by its
//!    id then, so that its caller is answered and it is not offered for nothing.
//! 3. What nobody waits for and nobody has seen is dropped.
//! 4. The frames of a signed run stand one after the other wherever they are, and go together: as long as one of them is wanted, all are
//!    offered. Those that are not wanted any more were answered, and are not answered again.

use std::collections::{HashMap, VecDeque};

use quorate_replicator::limits::{BATCH_BYTES_MAX, BATCH_FRAMES_MAX, BATCH_RUNS_MAX};
use quorate_replicator::{Decision, Frame, FrameId, LogTime, ProposeError};
use quorate_storage::Index;

use crate::callers::{Answer, CallId, Callers, Calls};
use crate::engine::{Now, Placed};
use crate::history::PayloadHash;

/// A frame with the hash of its payload, which the proposer's own thread computes.
#[derive(Clone, Debug)]
pub struct HashedFrame {
    /// The frame.
    pub frame: Frame,
    /// Of this frame.
    pub hash: PayloadHash,
}

impl From<Frame> for HashedFrame {
    fn from(frame: Frame) -> Self {
        Self { hash: PayloadHash::of(&frame), frame }
    }
}

/// One frame in the pool and who waits for it.
#[derive(Clone, Debug)]
pub(crate) struct Pending {
    pub(crate) hashed: HashedFrame,
    pub(crate) waiter: Waiter,
}

/// Who waits for a frame.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waiter {
    call: CallId,
    slot: u32,
    /// The frame was forwarded, or in a batch that was released: it is also in `Pool::released`, under this.
    released: Option<(FrameId, PayloadHash)>,
}

/// A batch that the engine drives.
#[derive(Debug)]
struct PlacedBatch {
    placed: Placed,
    stamped: LogTime,
    frames: Vec<Pending>,
    bytes: usize,
}

/// Frames that were forwarded to another node together.
#[derive(Debug)]
struct Forwarded {
    /// Rises by one with each forwarding.
    number: u64,
    frames: Vec<Pending>,
    bytes: usize,
    /// How many of them are still wanted.
    left: usize,
}

/// A frame that left this node's hands, and who waits for it.
#[derive(Debug)]
struct Released {
    hash: PayloadHash,
    call: CallId,
    slot: u32,
    /// The [`Forwarded::number`] under which it went last.
    forwarded: Option<u64>,
    /// It was out of this node's hands when a snapshot took the place of batches, which may have decided it.
    is_skipped: bool,
}

#[derive(Debug)]
pub(crate) struct Pool<C: Callers> {
    pub(crate) calls: Calls<C>,
    idle: VecDeque<Pending>,
    placed: VecDeque<PlacedBatch>,
    /// Copies of what other nodes forwarded to the one who proposes, for the case that this node is to.
    witnessed: VecDeque<(Now, Pending)>,
    /// In the order in which they went; those in front that nobody wants any more are gone.
    forwarded: VecDeque<Forwarded>,
    next_forward: u64,
    /// Forwarded and released frames that are not delivered, with everyone who waits for them.
    released: HashMap<FrameId, Vec<Released>>,
    frames: usize,
    bytes: usize,
}

impl<C: Callers> Pool<C> {
    pub(crate) fn new() -> Self {
        Self {
            calls: Calls::new(),
            idle: VecDeque::new(),
            placed: VecDeque::new(),
            witnessed: VecDeque::new(),
            forwarded: VecDeque::new(),
            next_forward: 0,
            released: HashMap::new(),
            frames: 0,
            bytes: 0,
        }
    }

    /// Frames that wait for a decision.
    pub(crate) const fn frames(&self) -> usize {
        self.frames
    }

    /// Bytes of the frames that wait.
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether there is something to offer.
    pub(crate) fn has_idle(&self) -> bool {
        !self.idle.is_empty()
    }

    /// Adds a frame, to be answered as `slot` of `call`.
    pub(crate) fn add(&mut self, hashed: HashedFrame, call: CallId, slot: u32) {
        self.frames += 1;
        self.bytes += cost(&hashed.frame);
        self.idle.push_back(Pending { hashed, waiter: Waiter { call, slot, released: None } });
    }

    /// Adds copies of frames that another node forwarded to the one who proposes, to be waited for by `call`. What waits for the last of them
    /// now.
    pub(crate) fn add_witnessed(
        &mut self,
        frames: Vec<HashedFrame>,
        call: CallId,
        now: Now,
    ) -> CallId {
        let until = self.calls.deadline(call).unwrap_or(now);
        let mut frames = VecDeque::from(frames);
        let mut holder = call;
        while let Some(next) = frames.front() {
            let length = next.frame.run().min(frames.len());
            let run: Vec<_> = frames.drain(..length).collect();
            let held: Option<Vec<_>> = run.iter().map(|hashed| self.stays(hashed, until)).collect();
            if let Some(held) = held {
                run.iter().for_each(|_| self.calls.drop_elsewhere(call));
                holder = held.last().copied().unwrap_or(holder);
                continue;
            }
            holder = call;
            for hashed in run {
                let (id, hash) = (hashed.frame.id, hashed.hash);
                let waiting = self.released.entry(id).or_default();
                waiting.push(Released { hash, call, slot: 0, forwarded: None, is_skipped: false });
                self.frames += 1;
                self.bytes += cost(&hashed.frame);
                let waiter = Waiter { call, slot: 0, released: Some((id, hash)) };
                self.witnessed.push_back((now, Pending { hashed, waiter }));
            }
        }
        holder
    }

    /// What waits for a frame, if it is here already. Then it stays for as long as one that came now: it must not go before those that came after
    /// it.
    fn stays(&mut self, hashed: &HashedFrame, until: Now) -> Option<CallId> {
        let waiting = self.released.get(&hashed.frame.id)?;
        let calls = &mut self.calls;
        let mut waiting = waiting.iter().filter(|known| known.hash == hashed.hash);
        waiting.find(|known| calls.prolong(known.call, until)).map(|known| known.call)
    }

    /// Whether there are copies of other nodes' frames.
    pub(crate) fn has_witnessed(&self) -> bool {
        !self.witnessed.is_empty()
    }

    /// This node is to propose, so the copies that it has are to be offered.
    pub(crate) fn take_up_witnessed(&mut self) {
        self.idle.extend(self.witnessed.drain(..).map(|(_, pending)| pending));
    }

    /// Since when the oldest of the copies is here.
    pub(crate) fn witnessed_since(&self) -> Option<Now> {
        self.witnessed.front().map(|(since, _)| *since)
    }

    /// What was forwarded and is not decided, in order.
    pub(crate) fn open_forwards(&self) -> impl Iterator<Item = &[Pending]> {
        self.forwarded.iter().map(|forwarded| forwarded.frames.as_slice())
    }

    /// Takes the next batch's frames, in the order in which they were proposed; none if nothing is wanted.
    pub(crate) fn take_batch(&mut self) -> Vec<Pending> {
        let mut batch = Vec::with_capacity(self.idle.len().min(BATCH_FRAMES_MAX));
        let (mut bytes, mut runs) = (0, 0);
        while let Some(next) = self.idle.front() {
            let length = next.hashed.frame.run().min(self.idle.len());
            let signed = usize::from(next.hashed.frame.signed.is_some());
            let run = || self.idle.iter().take(length);
            let cost: usize = run().map(|pending| cost(&pending.hashed.frame)).sum();
            if batch.len() + length > BATCH_FRAMES_MAX
                || runs + signed > BATCH_RUNS_MAX
                || (!batch.is_empty() && bytes + cost > BATCH_BYTES_MAX)
            {
                break;
            }
            let is_wanted = run().any(|pending| self.is_wanted(pending));
            if is_wanted {
                bytes += cost;
                runs += signed;
            }
            for _ in 0..length {
                let next = self.idle.pop_front().expect("the run is there");
                match is_wanted {
                    true => batch.push(next),
                    false => self.forget(&next),
                }
            }
        }
        batch
    }

    /// The runs of a queue of which a frame is wanted; the others are forgotten.
    fn keep_wanted<T>(
        &mut self,
        mut queue: VecDeque<T>,
        pending: impl Fn(&T) -> &Pending,
    ) -> VecDeque<T> {
        let mut wanted = VecDeque::with_capacity(queue.len());
        while let Some(next) = queue.front() {
            let length = pending(next).hashed.frame.run().min(queue.len());
            let is_wanted = queue.iter().take(length).any(|it| self.is_wanted(pending(it)));
            for next in queue.drain(..length) {
                match is_wanted {
                    true => wanted.push_back(next),
                    false => self.forget(pending(&next)),
                }
            }
        }
        wanted
    }

    /// Whether someone waits for it and it was not delivered in the meantime.
    fn is_wanted(&self, pending: &Pending) -> bool {
        let waiter = &pending.waiter;
        waiter.released.is_none_or(|(id, _)| self.released.contains_key(&id))
            && self.calls.waits(waiter.call)
    }

    fn forget(&mut self, pending: &Pending) {
        self.frames -= 1;
        self.bytes -= cost(&pending.hashed.frame);
    }

    /// The engine took the batch.
    pub(crate) fn place(&mut self, placed: Placed, stamped: LogTime, frames: Vec<Pending>) {
        let bytes = frames.iter().map(|pending| cost(&pending.hashed.frame)).sum();
        self.placed.push_back(PlacedBatch { placed, stamped, frames, bytes });
    }

    /// The engine did not take the batch.
    pub(crate) fn put_back(&mut self, frames: Vec<Pending>) {
        for pending in frames.into_iter().rev() {
            self.idle.push_front(pending);
        }
    }

    /// How many batches the engine drives for this node.
    pub(crate) fn placed(&self) -> usize {
        self.placed.len()
    }

    /// A batch was delivered: its log time and frames, if it was placed here. What else stood at its index will not be decided
    /// there and is offered again.
    pub(crate) fn deliver(&mut self, delivered: Placed) -> Option<(LogTime, Vec<Pending>)> {
        let mut found = None;
        let mut place = 0;
        while place < self.placed.len() {
            let batch = &self.placed[place].placed;
            if batch.index != delivered.index {
                place += 1;
                continue;
            }
            let batch = self.placed.remove(place).expect("the place is in range");
            let is_own = batch.placed == delivered;
            #[cfg(quorate_planted)]
            let is_own = is_own || quorate_planted::Bug::OtherBatch.is_planted();
            if is_own {
                self.frames -= batch.frames.len();
                self.bytes -= batch.bytes;
                found = Some((batch.stamped, batch.frames));
            } else {
                self.offer_again(batch);
            }
        }
        found
    }

    /// The engine drives this batch no longer; it may still be decided.
    pub(crate) fn release(&mut self, released: Placed) {
        if let Some(place) = self.placed.iter().position(|batch| batch.placed == released) {
            let batch = self.placed.remove(place).expect("the place was found");
            self.offer_again(batch);
        }
    }

    /// A snapshot took the place of everything up to `index`.
    pub(crate) fn skip_to(&mut self, index: Index) {
        while let Some(place) = self.placed.iter().position(|batch| batch.placed.index <= index) {
            let batch = self.placed.remove(place).expect("the place was found");
            self.offer_again(batch);
        }
        self.released.values_mut().flatten().for_each(|released| released.is_skipped = true);
    }

    fn offer_again(&mut self, batch: PlacedBatch) {
        let wanted = self.keep_wanted(batch.frames.into(), |pending| pending);
        for mut pending in wanted.into_iter().rev() {
            if pending.waiter.released.is_none() {
                let (id, hash) = (pending.hashed.frame.id, pending.hashed.hash);
                let Waiter { call, slot, .. } = pending.waiter;
                pending.waiter.released = Some((id, hash));
                let released = Released { hash, call, slot, forwarded: None, is_skipped: false };
                self.released.entry(id).or_default().push(released);
            }
            self.idle.push_front(pending);
        }
    }

    /// The frames of a batch go to another node, which proposes them; how this forwarding is called here.
    pub(crate) fn forward(&mut self, mut frames: Vec<Pending>) -> u64 {
        let number = self.next_forward;
        self.next_forward += 1;
        let mut left = frames.len();
        for Pending { hashed, waiter } in &mut frames {
            let (id, hash, Waiter { call, slot, .. }) = (hashed.frame.id, hashed.hash, *waiter);
            if waiter.released.is_some() && !self.released.contains_key(&id) {
                // It was answered, and goes with its run.
                left -= 1;
                continue;
            }
            let waiting = self.released.entry(id).or_default();
            let known = waiting.iter_mut().find(|known| (known.call, known.slot) == (call, slot));
            match known {
                Some(known) => known.forwarded = Some(number),
                None => {
                    let forwarded = Some(number);
                    waiting.push(Released { hash, call, slot, forwarded, is_skipped: false });
                    waiter.released = Some((id, hash));
                }
            }
        }
        let bytes = frames.iter().map(|it| cost(&it.hashed.frame)).sum();
        self.forwarded.push_back(Forwarded { number, frames, bytes, left });
        number
    }

    /// Bytes of frames that were forwarded and not decided.
    pub(crate) fn forwarded_bytes(&self) -> usize {
        self.forwarded.iter().map(|forwarded| forwarded.bytes).sum()
    }

    /// The oldest forwarding that is not decided.
    pub(crate) fn oldest_forward(&self) -> Option<u64> {
        self.forwarded.front().map(|oldest| oldest.number)
    }

    /// Takes back everything that was forwarded, to be offered again in its order.
    pub(crate) fn take_back(&mut self) {
        while let Some(Forwarded { frames, .. }) = self.forwarded.pop_back() {
            let wanted = self.keep_wanted(frames.into(), |pending| pending);
            wanted.into_iter().rev().for_each(|pending| self.idle.push_front(pending));
        }
    }

    /// Whether every frame of a forwarding is the only one of its call, and was never handed to anyone before.
    pub(crate) fn is_fresh_and_single(&self, pending: &[Pending]) -> bool {
        pending
            .iter()
            .all(|it| it.waiter.released.is_none() && self.calls.frames(it.waiter.call) == Some(1))
    }

    /// Ends those who wait for a forwarding that was refused as a whole.
    pub(crate) fn refuse(
        &mut self,
        number: u64,
        error: &ProposeError,
        answers: &mut Vec<Answer<C>>,
    ) {
        let Some(place) = self.forwarded.iter().position(|it| it.number == number) else { return };
        let refused: Vec<_> =
            self.forwarded[place].frames.iter().filter_map(|it| it.waiter.released).collect();
        for (id, hash) in refused {
            self.end_released(id, hash, &Err(error.clone()), answers);
        }
    }

    /// Ends calls none of whose frames was ever handed to anyone.
    pub(crate) fn refuse_idle(&mut self, error: &ProposeError, answers: &mut Vec<Answer<C>>) {
        let mut fresh: HashMap<CallId, usize> = HashMap::new();
        for pending in self.idle.iter().filter(|pending| pending.waiter.released.is_none()) {
            *fresh.entry(pending.waiter.call).or_default() += 1;
        }
        for (call, count) in fresh {
            if self.calls.frames(call) == Some(count) {
                self.calls.refuse(call, error, answers);
            }
        }
        self.drop_unwanted();
    }

    /// The latest moment at which someone waits for one of these frames.
    pub(crate) fn deadline(&self, frames: &[Pending]) -> Option<Now> {
        frames.iter().filter_map(|pending| self.calls.deadline(pending.waiter.call)).max()
    }

    /// Forgets forwardings in front that nobody waits for.
    fn drop_decided(&mut self) {
        while self.forwarded.front().is_some_and(|oldest| oldest.left == 0) {
            let oldest = self.forwarded.pop_front().expect("there is a front");
            self.frames -= oldest.frames.len();
            self.bytes -= oldest.bytes;
        }
    }

    /// Whether the frames of a batch that was not placed here must be looked at one by one.
    pub(crate) fn has_released(&self) -> bool {
        !self.released.is_empty()
    }

    /// Answers a frame that was delivered in its placed batch.
    pub(crate) fn answer(
        &mut self,
        waiter: Waiter,
        answer: Result<Decision, ProposeError>,
        answers: &mut Vec<Answer<C>>,
    ) {
        match waiter.released {
            Some((id, hash)) => self.answer_released(id, hash, &answer, answers),
            None => self.calls.answer(waiter.call, waiter.slot, answer, answers),
        }
    }

    /// Answers those who wait for a released frame that was delivered in whatever batch. Where there was no room for it, another
    /// copy may yet find some: its outcome is unknown then.
    pub(crate) fn answer_released(
        &mut self,
        id: FrameId,
        hash: PayloadHash,
        answer: &Result<Decision, ProposeError>,
        answers: &mut Vec<Answer<C>>,
    ) {
        match answer {
            Err(ProposeError::Overloaded { .. }) => {
                self.end_released(id, hash, &Ok(Decision::Timeout), answers);
            }
            answer => self.end_released(id, hash, answer, answers),
        }
    }

    fn end_released(
        &mut self,
        id: FrameId,
        hash: PayloadHash,
        answer: &Result<Decision, ProposeError>,
        answers: &mut Vec<Answer<C>>,
    ) {
        let Some(waiting) = self.released.get_mut(&id) else { return };
        let first = self.forwarded.front().map_or(u64::MAX, |oldest| oldest.number);
        for released in waiting.extract_if(.., |released| released.hash == hash) {
            // A session that has ended does not tell of what it had decided before.
            let is_unknown =
                released.is_skipped && matches!(answer, Err(ProposeError::SessionEnded));
            let answer = if is_unknown { Ok(Decision::Timeout) } else { answer.clone() };
            self.calls.answer(released.call, released.slot, answer, answers);
            if let Some(number) = released.forwarded
                && number >= first
                && let Some(forwarded) = self.forwarded.get_mut((number - first) as usize)
            {
                forwarded.left -= 1;
            }
        }
        if waiting.is_empty() {
            self.released.remove(&id);
        }
        self.drop_decided();
    }

    /// Ends the calls whose deadline has come, and drops what nobody waits for.
    pub(crate) fn expire(&mut self, now: Now, answers: &mut Vec<Answer<C>>) {
        if self.calls.expire(now, answers) == 0 {
            return;
        }
        let calls = &self.calls;
        self.released.retain(|_, waiting| {
            waiting.retain(|released| calls.waits(released.call));
            !waiting.is_empty()
        });
        for place in 0..self.forwarded.len() {
            let frames = &self.forwarded[place].frames;
            let left = frames.iter().filter(|pending| self.is_wanted(pending)).count();
            self.forwarded[place].left = left;
        }
        self.drop_decided();
        self.drop_unwanted();
    }

    /// Drops idle frames that nobody waits for or that were decided through another batch.
    pub(crate) fn drop_unwanted(&mut self) {
        let idle = std::mem::take(&mut self.idle);
        self.idle = self.keep_wanted(idle, |pending| pending);
        let witnessed = std::mem::take(&mut self.witnessed);
        self.witnessed = self.keep_wanted(witnessed, |(_, pending)| pending);
    }

    /// Gives back the memory of queues that were longer.
    pub(crate) fn rest(&mut self) {
        self.idle.shrink_to_fit();
        self.placed.shrink_to_fit();
        self.witnessed.shrink_to_fit();
        self.forwarded.shrink_to_fit();
        self.released.shrink_to_fit();
    }

    /// Ends everything; `error` is told whether the frame was ever handed to the engine.
    pub(crate) fn end(
        &mut self,
        error: impl Fn(bool) -> ProposeError,
        answers: &mut Vec<Answer<C>>,
    ) {
        for Pending { waiter, .. } in std::mem::take(&mut self.idle) {
            if waiter.released.is_none() {
                self.calls.answer(waiter.call, waiter.slot, Err(error(false)), answers);
            }
        }
        self.calls.end(&error(true), answers);
        self.placed.clear();
        self.witnessed.clear();
        self.forwarded.clear();
        self.released.clear();
        self.frames = 0;
        self.bytes = 0;
    }
}

/// What a frame counts against the limits in bytes.
pub(crate) fn cost(frame: &Frame) -> usize {
    frame.cost() + frame.signed.as_ref().map_or(0, |signed| signed.size())
}
