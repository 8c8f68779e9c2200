//! What clients ask of a group, and what it refuses at once.

use quorate_replicator::limits::{RUN_BYTES_MAX, RUN_FRAMES_MAX, RUN_SIGNATURE_BYTES_MAX};
use quorate_replicator::{
    Consistency, Cursor, DecidedBatch, FrameId, Position, ProposeError, ReadError, Resource, Scope,
    SubscribeError,
};
use quorate_storage::Index;

use crate::callers::{Answer, Callers};
use crate::effects::Effects;
use crate::engine::{Admin, Now};
use crate::pool::{HashedFrame, cost};
use crate::proved::ProvedBatch;
use crate::reads::{Waiting, Wants};
use crate::subscriptions::SubscriptionId;

use super::{HostCore, Stopped};

/// Whether each signed run of these frames is here as a whole, and small enough for a batch.
fn runs_are_whole(frames: &[HashedFrame]) -> Result<(), String> {
    let mut rest = frames;
    while let Some(HashedFrame { frame: first, .. }) = rest.first() {
        let length = first.run();
        let Some((run, others)) = rest.split_at_checked(length) else {
            return Err(format!(
                "the signature of {} is for {length} frames, and there are only {}; propose together what was signed together",
                first.id,
                rest.len()
            ));
        };
        let signature = first.signed.as_ref().map_or(0, |signed| signed.size());
        if signature > RUN_SIGNATURE_BYTES_MAX {
            return Err(format!(
                "the key and the signature of {} have {signature} bytes, and may have {RUN_SIGNATURE_BYTES_MAX}",
                first.id
            ));
        }
        let bytes: usize = run.iter().map(|hashed| hashed.frame.cost()).sum();
        if length > 1 && (length > RUN_FRAMES_MAX || bytes > RUN_BYTES_MAX) {
            return Err(format!(
                "the signature of {} is for {length} frames of {bytes} bytes, and one may be for {RUN_FRAMES_MAX} of {RUN_BYTES_MAX} bytes",
                first.id
            ));
        }
        if let Some(within) = run.iter().skip(1).find(|hashed| hashed.frame.signed.is_some()) {
            return Err(format!(
                "{} has a signature and is among the frames that another one is for",
                within.frame.id
            ));
        }
        rest = others;
    }
    Ok(())
}

impl<C: Callers> HostCore<C> {
    /// Proposes one frame, to be answered by `deadline`.
    pub fn propose(
        &mut self,
        frame: HashedFrame,
        deadline: Now,
        who: C::Propose,
        effects: &mut Effects<C>,
    ) {
        let frames = std::slice::from_ref(&frame);
        if let Err(error) = self.admits(frames).and_then(|()| self.sessions_take(frames)) {
            effects.answers.push(Answer::Propose(who, Err(error)));
            return;
        }
        let call = self.pool.calls.one(who, deadline);
        self.pool.add(frame, call, 0);
    }

    /// Proposes several frames in their order; admits all or none, and answers by `deadline`.
    pub fn propose_many(
        &mut self,
        frames: Vec<HashedFrame>,
        deadline: Now,
        who: C::ProposeMany,
        effects: &mut Effects<C>,
    ) {
        if let Err(error) = self.admits(&frames).and_then(|()| self.sessions_take(&frames)) {
            effects.answers.push(Answer::ProposeMany(who, Err(error)));
            return;
        }
        if frames.is_empty() {
            effects.answers.push(Answer::ProposeMany(who, Ok(Vec::new())));
            return;
        }
        let call = self.pool.calls.many(who, frames.len(), deadline);
        for (slot, frame) in (0..).zip(frames) {
            self.pool.add(frame, call, slot);
        }
    }

    /// Asks the group for an operator's wish.
    pub fn admin(&mut self, admin: Admin, deadline: Now, who: C::Admin, effects: &mut Effects<C>) {
        let added = match &self.stopped {
            Some(stopped) => Err((who, stopped.as_admin_error())),
            None => self.wishes.add(admin, deadline, who),
        };
        if let Err((who, error)) = added {
            effects.answers.push(Answer::Admin(who, Err(error)));
        }
    }

    /// Whether these frames would be taken now, as a whole.
    ///
    /// # Errors
    ///
    /// Why not.
    pub fn admits(&self, frames: &[HashedFrame]) -> Result<(), ProposeError> {
        match &self.stopped {
            Some(Stopped::Closed) => return Err(ProposeError::Closed { submitted: false }),
            Some(Stopped::Faulted(cause)) => {
                return Err(ProposeError::Faulted { cause: cause.clone(), submitted: false });
            }
            None => {}
        }
        if self.storage_full {
            return Err(ProposeError::StorageFull);
        }
        let many = quorate_replicator::limits::PROPOSE_MANY_MAX;
        if frames.len() > many {
            return Err(ProposeError::TooLarge {
                what: "list of frames".into(),
                size: frames.len(),
                limit: many,
            });
        }
        if let Err(reason) = runs_are_whole(frames) {
            return Err(ProposeError::Invalid { reason });
        }
        let mut bytes = self.pool.bytes();
        for HashedFrame { frame, .. } in frames {
            let (size, limit) = (frame.payload.len(), self.config.frame_bytes_max);
            if size > limit {
                return Err(ProposeError::TooLarge {
                    what: "payload in bytes".into(),
                    size,
                    limit,
                });
            }
            if frame.settled > frame.id.serial {
                return Err(ProposeError::Invalid {
                    reason: format!(
                        "it settles serials below {}, which its own serial {} would be; settle only what was answered",
                        frame.settled, frame.id.serial
                    ),
                });
            }
            if let Some(reason) = self.state.refusal(frame) {
                return Err(ProposeError::Invalid { reason });
            }
            bytes += cost(frame);
        }
        if self.pool.frames() + frames.len() > self.config.frames_in_flight_max {
            let limit = self.config.frames_in_flight_max as u64;
            return Err(ProposeError::Overloaded { resource: Resource::Frames, limit });
        }
        if bytes > self.config.bytes_in_flight_max {
            let limit = self.config.bytes_in_flight_max as u64;
            return Err(ProposeError::Overloaded { resource: Resource::Bytes, limit });
        }
        Ok(())
    }

    /// Whether the sessions have room for any of these frames, as far as this node knows: the oldest open serial of a session always has
    /// some, also in a list. What is handed to another node cannot be refused any more, so it is looked at here first.
    fn sessions_take(&self, frames: &[HashedFrame]) -> Result<(), ProposeError> {
        let takes = |hashed: &HashedFrame| self.state.session_takes(&hashed.frame);
        match frames.is_empty() || frames.iter().any(takes) {
            true => Ok(()),
            false => Err(ProposeError::Overloaded {
                resource: Resource::Unsettled,
                limit: self.config.sessions.unsettled_max as u64,
            }),
        }
    }

    /// Asks for a read barrier.
    pub fn read(
        &mut self,
        now: Now,
        level: Consistency,
        deadline: Now,
        who: C::Read,
        effects: &mut Effects<C>,
    ) {
        if let Err(error) = self.admit_read() {
            effects.answers.push(Answer::Read(who, Err(error)));
            return;
        }
        let bound = match level {
            Consistency::Linearizable => None,
            Consistency::Bounded(bound) if self.reads.is_fresh(now, bound) => {
                effects.answers.push(Answer::Read(who, Ok(self.state.position())));
                return;
            }
            Consistency::Bounded(bound) => Some(bound),
            _ => {
                effects.answers.push(Answer::Read(who, Ok(self.state.position())));
                return;
            }
        };
        self.reads.add(Waiting { deadline, what: Wants::Barrier(who), bound });
    }

    /// Asks what became of a frame.
    pub fn decision(
        &mut self,
        id: FrameId,
        deadline: Now,
        who: C::Decision,
        effects: &mut Effects<C>,
    ) {
        if let Err(error) = self.admit_read() {
            effects.answers.push(Answer::Decision(who, Err(error)));
            return;
        }
        self.reads.add(Waiting { deadline, what: Wants::Decision(id, who), bound: None });
    }

    pub(super) fn admit_read(&self) -> Result<(), ReadError> {
        match &self.stopped {
            Some(Stopped::Closed) => return Err(ReadError::Closed),
            Some(Stopped::Faulted(cause)) => {
                return Err(ReadError::Faulted { cause: cause.clone() });
            }
            None => {}
        }
        if self.reads.count() >= self.config.reads_max {
            let limit = self.config.reads_max as u64;
            return Err(ReadError::Overloaded { resource: Resource::Reads, limit });
        }
        Ok(())
    }

    /// The batch that was decided at an index, with what proves that.
    pub fn decided(&self, index: Index) -> ProvedBatch {
        let applied = self.state.applied();
        if index == 0 || index > applied {
            return ProvedBatch::Nothing(format!(
                "index {index} is not decided, as far as this node knows; it has applied {applied}"
            ));
        }
        if let Some(batch) = self.proved.get(index) {
            return ProvedBatch::Here(batch);
        }
        if index < self.log_first {
            return ProvedBatch::Nothing(format!(
                "index {index} is no longer in the log of this node, which begins at {}",
                self.log_first
            ));
        }
        ProvedBatch::InLog
    }

    /// What [`Engine::member_batches`](crate::engine::Engine::member_batches) says.
    pub fn member_batches(&self, after: Index) -> Vec<DecidedBatch> {
        self.engine.member_batches(after)
    }

    /// Begins a subscription.
    pub fn subscribe(
        &mut self,
        scope: Scope,
        from: &Cursor,
        who: C::Subscribe,
        effects: &mut Effects<C>,
    ) {
        let begun = self.admit_subscription(from).map(|given| self.subscriptions.add(scope, given));
        effects.answers.push(Answer::Subscribe(who, begun));
    }

    pub(super) fn admit_subscription(&self, from: &Cursor) -> Result<(Index, u32), SubscribeError> {
        match &self.stopped {
            Some(Stopped::Closed) => return Err(SubscribeError::Closed),
            Some(Stopped::Faulted(cause)) => {
                return Err(SubscribeError::Faulted { cause: cause.clone() });
            }
            None => {}
        }
        if self.subscriptions.len() >= self.config.subscriptions_max {
            let limit = self.config.subscriptions_max as u64;
            return Err(SubscribeError::Overloaded { resource: Resource::Subscriptions, limit });
        }
        let reached = self.state.position();
        let given = match from.position(self.config.group) {
            None if from.is_from_now() => (reached.index, u32::MAX),
            None => (0, u32::MAX),
            Some(asked) if (asked.epoch, asked.index) > (reached.epoch, reached.index) => {
                return Err(SubscribeError::Ahead { asked, reached });
            }
            Some(asked) if asked.epoch < reached.epoch => {
                self.state.goes_on_after(asked).ok_or_else(|| self.compacted())?
            }
            Some(asked) => (asked.index, asked.slot),
        };
        #[cfg(quorate_planted)]
        let given = match quorate_planted::Bug::GivenAgain.is_planted() {
            true => (given.0.saturating_sub(1), given.1),
            false => given,
        };
        let first_wanted = if given.1 == u32::MAX { given.0 + 1 } else { given.0 };
        if first_wanted < self.log_first && first_wanted <= reached.index {
            return Err(self.compacted());
        }
        Ok(given)
    }

    fn compacted(&self) -> SubscribeError {
        let (oldest, snapshot) = self.oldest_readable();
        SubscribeError::Compacted { oldest, snapshot }
    }

    pub(super) fn oldest_readable(&self) -> (Position, Option<Position>) {
        let stored = self.compaction.stored();
        let snapshot = (self.compaction.stores() && stored > 0)
            .then(|| self.state.position_of(stored, u32::MAX));
        (self.state.position_of(self.log_first, 0), snapshot)
    }

    /// A subscriber has handled its chunk and is ready for the next.
    pub fn handled(&mut self, id: SubscriptionId) {
        self.subscriptions.handled(id);
    }

    /// A subscriber wants no more.
    pub fn unsubscribe(&mut self, id: SubscriptionId) {
        self.subscriptions.remove(id);
    }
}
