//! Replicated state of one group: the state machine and everything that must be equal on all nodes beside it.

use std::collections::BTreeMap;

use bytes::Bytes;
use quorate_replicator::{
    Batch, BatchFrame, CheckpointReader, Commit, Decision, Frame, FrameRole, GroupId, LogTime,
    Outcomes, Pair, Position, ProposeError, Reply, RestoreError, StateMachine,
};
use quorate_replicator::{CheckpointPairs, FrameId};
use quorate_storage::Index;
use serde::{Deserialize, Serialize};

use crate::batch::Witness;
use crate::codec;
use crate::engine::StateHash;
use crate::history::{History, PayloadHash};
use crate::pool::HashedFrame;
use crate::sessions::{Lookup, SessionLimits, Sessions};
use crate::verdict::Verdict;

/// What leads the keys of sessions in a checkpoint.
const SESSION_KEY: u8 = b's';
/// What leads the keys of skipped slots in a checkpoint.
const SKIPS_KEY: u8 = b'k';
/// Of so many epochs before this one it is known where they ended.
const ENDED_MAX: usize = 16;
/// The version of [`StateWords`].
const WORDS_VERSION: u8 = 2;

/// Replicated state of one group. What it does with a batch follows from what it did before and from the batch alone.
#[derive(Debug)]
pub(crate) struct GroupState {
    group: GroupId,
    epoch: u32,
    /// Where the epoch began; none in the first.
    began: Option<EpochBegan>,
    machine: Box<dyn StateMachine>,
    sessions: Sessions,
    log_time: LogTime,
    history: History,
    /// The index and slot of the last accepted frame; zeros before the first.
    accepted: (Index, u32),
    /// Slots of retained batches whose frames were not accepted there, so that a subscriber who reads the log gives
    /// each accepted frame once. Most batches have none.
    skips: BTreeMap<Index, Vec<u32>>,
    /// Indexes whose skips changed since the last checkpoint.
    skips_changed: Vec<Index>,
    outcomes: Outcomes,
    verdicts: Vec<(FrameId, PayloadHash, Verdict)>,
}

/// A batch as it was applied.
#[derive(Debug)]
pub(crate) struct AppliedBatch {
    /// The accepted mutations.
    pub(crate) accepted: Vec<BatchFrame>,
    /// What became of each frame, by slot.
    pub(crate) decisions: Vec<Result<Decision, ProposeError>>,
    /// Frames decided as rejected.
    pub(crate) rejected: u64,
}

/// What a checkpoint says of the group beside its pairs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StateWords {
    version: u8,
    pub(crate) epoch: u32,
    log_time: u64,
    accepted: (Index, u32),
    began: Option<EpochBegan>,
}

/// Where an epoch took over from the one before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EpochBegan {
    /// The first index of the epoch, at which no frame stands.
    pub(crate) index: Index,
    /// The index and slot of the last frame that was accepted before.
    accepted: (Index, u32),
    /// The newest epochs before, each with the index at which it ended: below it everybody had the same.
    ended: Vec<(u32, Index)>,
}

/// Where a stored checkpoint stands: after every frame of its last batch.
///
/// # Errors
///
/// `words` are not the host's words of a checkpoint.
pub fn checkpoint_position(
    group: GroupId,
    index: Index,
    words: &[u8],
) -> Result<Position, RestoreError> {
    let words = read_words(words)?;
    Ok(Position { group, epoch: words.epoch, index, slot: u32::MAX })
}

fn read_words(words: &[u8]) -> Result<StateWords, RestoreError> {
    // The version comes first, so that it can be read of any later one.
    let version = match words {
        [first, second, ..] if first & 0xf0 == 0x90 && *second < 0x80 => *second,
        _ => return Err(RestoreError::new("its head makes no sense")),
    };
    if version != WORDS_VERSION {
        return Err(RestoreError::new(format!(
            "it has format {version}, this program reads format {WORDS_VERSION}; use the program that wrote it"
        )));
    }
    codec::decode_all(words)
        .map_err(|problem| RestoreError::new(format!("its head cannot be read: {problem}")))
}

/// Everything of a checkpoint that is read on another thread.
pub(crate) struct StatePairs {
    /// The state machine's.
    pub(crate) machine: CheckpointPairs,
    /// Sessions and skips.
    pub(crate) host: CheckpointPairs,
}

impl std::fmt::Debug for StatePairs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StatePairs").finish_non_exhaustive()
    }
}

impl GroupState {
    /// The state before the first batch.
    pub(crate) fn new(
        group: GroupId,
        epoch: u32,
        machine: Box<dyn StateMachine>,
        limits: SessionLimits,
    ) -> Self {
        Self {
            group,
            epoch,
            began: None,
            machine,
            sessions: Sessions::new(limits),
            log_time: LogTime::ZERO,
            history: History::new(0, [0; 32]),
            accepted: (0, 0),
            skips: BTreeMap::new(),
            skips_changed: Vec::new(),
            outcomes: Outcomes::default(),
            verdicts: Vec::new(),
        }
    }

    /// Replaces everything by what a checkpoint holds.
    pub(crate) fn restore(
        &mut self,
        index: Index,
        history: StateHash,
        words: &[u8],
        limits: SessionLimits,
        machine: &mut dyn CheckpointReader,
        host: &mut dyn CheckpointReader,
    ) -> Result<(), RestoreError> {
        let words = read_words(words)?;
        self.machine.restore(machine)?;
        let mut sessions = Sessions::new(limits);
        let mut skips = BTreeMap::new();
        while let Some((key, value)) = host.next()? {
            match key.split_first() {
                Some((&SESSION_KEY, id)) => sessions.restore(id, &value)?,
                Some((&SKIPS_KEY, index)) => {
                    let index = index.try_into().map(u64::from_be_bytes).map_err(|_| {
                        RestoreError::new(format!("key {key:02x?} is not that of an index"))
                    })?;
                    let slots = codec::decode_all(&value).map_err(RestoreError::new)?;
                    skips.insert(index, slots);
                }
                _ => return Err(RestoreError::new(format!("key {key:02x?} is not known"))),
            }
        }
        (self.epoch, self.began) = (words.epoch, words.began);
        self.log_time = LogTime::from_ms(words.log_time);
        #[cfg(quorate_planted)]
        if quorate_planted::Bug::LogTimeNotRestored.is_planted() {
            self.log_time = LogTime::ZERO;
        }
        self.accepted = words.accepted;
        self.history = History::new(index, history);
        self.sessions = sessions;
        self.skips = skips;
        self.skips_changed = Vec::new();
        Ok(())
    }

    /// Applies the batch at `index`, the next one.
    ///
    /// # Panics
    ///
    /// If the state machine panics, or does not answer each frame: the caller stops the group then.
    pub(crate) fn apply(
        &mut self,
        index: Index,
        stamped: LogTime,
        frames: impl Iterator<Item = HashedFrame>,
    ) -> AppliedBatch {
        assert_eq!(index, self.history.index() + 1, "batches are applied in order");
        // A proposer whose estimate is behind must not turn time back.
        let before = self.log_time;
        #[cfg(quorate_planted)]
        let before = match quorate_planted::Bug::LogTimeBack.is_planted() && stamped > LogTime::ZERO
        {
            true => LogTime::ZERO,
            false => before,
        };
        self.log_time = before.max(stamped);
        self.sessions.expire(self.log_time);
        self.verdicts.clear();
        let mut fresh = Vec::with_capacity(frames.size_hint().0);
        for (slot, HashedFrame { frame, hash }) in (0..).zip(frames) {
            let position = Position { group: self.group, epoch: self.epoch, index, slot };
            let verdict =
                self.sessions.judge(&frame, hash, position, self.log_time, &*self.machine);
            self.verdicts.push((frame.id, hash, verdict.clone()));
            if verdict == Verdict::Fresh {
                fresh.push(BatchFrame { slot, frame });
            }
        }
        self.apply_fresh(index, &fresh);
        let decisions = self.decisions(index, &fresh);
        let rejected = self
            .verdicts
            .iter()
            .filter(|(.., verdict)| matches!(verdict, Verdict::Rejected(_)))
            .count();
        self.note_skips(index, fresh.len());
        if let Some(last) = fresh.last() {
            self.accepted = (index, last.slot);
        }
        let verdicts = self.verdicts.iter().map(|(id, _, verdict)| (*id, verdict));
        self.history.extend(self.epoch, index, self.log_time, verdicts, &self.outcomes);
        AppliedBatch { accepted: fresh, decisions, rejected: rejected as u64 }
    }

    fn apply_fresh(&mut self, index: Index, fresh: &[BatchFrame]) {
        self.outcomes.reset(true);
        let batch = Batch {
            group: self.group,
            epoch: self.epoch,
            index,
            log_time: self.log_time,
            frames: fresh,
        };
        self.machine.apply(&batch, &mut self.outcomes);
        assert_eq!(
            self.outcomes.replies().len(),
            fresh.len(),
            "the state machine must answer each frame of a batch exactly once"
        );
        for (frame, reply) in fresh.iter().zip(self.outcomes.replies()) {
            self.sessions.reply(frame.frame.id, reply);
        }
    }

    /// What to answer for each slot, once the replies are known.
    fn decisions(&self, index: Index, fresh: &[BatchFrame]) -> Vec<Result<Decision, ProposeError>> {
        let mut replies = fresh.iter().zip(self.outcomes.replies());
        let position = |slot| Position { group: self.group, epoch: self.epoch, index, slot };
        let decide =
            |(slot, (id, hash, verdict)): (u32, &(FrameId, PayloadHash, Verdict))| match verdict {
                Verdict::Fresh => {
                    let (_, reply) = replies.next().expect("one reply for each fresh frame");
                    Ok(Decision::Accept(Commit {
                        position: position(slot),
                        reply: Reply::Known(reply.clone()),
                        proof: None,
                    }))
                }
                Verdict::Session => match self.sessions.lookup(self.group, *id, None) {
                    // An open session is told where it was opened first.
                    Lookup::Decided(decision) => Ok(decision),
                    Lookup::Undecided | Lookup::Ended => Ok(Decision::Accept(Commit {
                        position: position(slot),
                        reply: Reply::Known(Bytes::new()),
                        proof: None,
                    })),
                },
                Verdict::Rejected(rejection) => Ok(Decision::Reject(rejection.clone())),
                Verdict::Repeated => match self.sessions.lookup(self.group, *id, Some(*hash)) {
                    Lookup::Decided(decision) => Ok(decision),
                    // Settled by a later frame of the same batch.
                    Lookup::Undecided | Lookup::Ended => Err(ProposeError::SessionEnded),
                },
                Verdict::SessionEnded => Err(ProposeError::SessionEnded),
                Verdict::NoRoom(resource, limit) => {
                    Err(ProposeError::Overloaded { resource: *resource, limit: *limit })
                }
            };
        (0..).zip(&self.verdicts).map(decide).collect()
    }

    fn note_skips(&mut self, index: Index, fresh: usize) {
        #[cfg(quorate_planted)]
        if quorate_planted::Bug::SkipsForgotten.is_planted() {
            return;
        }
        if fresh == self.verdicts.len() {
            return;
        }
        let skipped =
            (0..).zip(&self.verdicts).filter(|(_, (.., verdict))| *verdict != Verdict::Fresh);
        self.skips.insert(index, skipped.map(|(slot, _)| slot).collect());
        self.skips_changed.push(index);
    }

    /// Begins the next epoch, with an index of its own at which no frame stands: so no position is ever given twice, whoever else goes
    /// on from before, and whoever joins is given a checkpoint that knows the epoch.
    ///
    /// With `is_sure` everything before was decided by all who decided with this node. Otherwise it may differ at the same positions, so
    /// that no cursor of this epoch says what somebody has.
    ///
    /// # Panics
    ///
    /// As [`apply`](Self::apply).
    pub(crate) fn begin_epoch(&mut self, is_sure: bool) {
        let index = self.applied() + 1;
        let mut ended = self.began.take().map_or_else(Vec::new, |began| began.ended);
        ended.push((self.epoch, if is_sure { index } else { 0 }));
        ended.drain(..ended.len().saturating_sub(ENDED_MAX));
        self.epoch = self.epoch.checked_add(1).expect("nobody switches so often");
        self.began = Some(EpochBegan { index, accepted: self.accepted, ended });
        self.apply(index, self.log_time, std::iter::empty());
        // The log begins anew.
        self.trim(index + 1);
    }

    /// Where somebody goes on who has handled everything up to a position of an earlier epoch; none if there are frames of before that
    /// it lacks, or has and this group has not.
    pub(crate) fn goes_on_after(&self, asked: Position) -> Option<(Index, u32)> {
        let EpochBegan { index, accepted, ended } = self.began.as_ref()?;
        let (_, end) = ended.iter().find(|(epoch, _)| *epoch == asked.epoch)?;
        let is_known = (asked.index, asked.slot) >= *accepted && asked.index < *end;
        is_known.then_some((*index, u32::MAX))
    }

    /// Whether a frame would find room in its session now.
    pub(crate) fn session_takes(&self, frame: &Frame) -> bool {
        self.sessions.takes(frame)
    }

    /// The frames of the last applied batch, by slot.
    pub(crate) fn judged(&self) -> impl Iterator<Item = (FrameId, PayloadHash)> + '_ {
        self.verdicts.iter().map(|(id, hash, _)| (*id, *hash))
    }

    /// The slots of a retained batch whose frames were not accepted there, in order.
    pub(crate) fn skipped(&self, index: Index) -> &[u32] {
        self.skips.get(&index).map_or(&[], Vec::as_slice)
    }

    /// Entries below this index are gone from the log for good.
    pub(crate) fn trim(&mut self, below: Index) {
        let kept = self.skips.split_off(&below);
        let gone = std::mem::replace(&mut self.skips, kept);
        self.skips_changed.extend(gone.into_keys());
    }

    /// Begins a checkpoint of the present state; constant time but for one step for each changed session.
    pub(crate) fn begin_checkpoint(&mut self) -> (Vec<u8>, StatePairs) {
        let words = StateWords {
            version: WORDS_VERSION,
            epoch: self.epoch,
            log_time: self.log_time.as_ms(),
            accepted: self.accepted,
            began: self.began.clone(),
        };
        let sessions = self.sessions.begin_checkpoint();
        #[cfg(quorate_planted)]
        let sessions = match quorate_planted::Bug::SessionsNotStored.is_planted() {
            true => self.sessions.begin_checkpoint(),
            false => sessions,
        };
        let changed = std::mem::take(&mut self.skips_changed);
        let skips: Vec<_> =
            changed.into_iter().map(|index| (index, self.skips.get(&index).cloned())).collect();
        let skips = skips.into_iter().map(|(index, slots)| {
            let key: Vec<u8> = std::iter::once(SKIPS_KEY).chain(index.to_be_bytes()).collect();
            match slots {
                Some(slots) => Pair::put(key, codec::encode(&slots)),
                None => Pair::remove(key),
            }
        });
        let pairs = StatePairs {
            machine: self.machine.begin_checkpoint(),
            host: Box::new(sessions.pairs(SESSION_KEY).chain(skips)),
        };
        (codec::encode(&words), pairs)
    }

    /// Why a frame would be refused, if it were the next to be decided; none of one that was decided before.
    pub(crate) fn refusal(&self, frame: &Frame) -> Option<String> {
        if frame.role() != FrameRole::Mutation {
            return None;
        }
        let reason = self.machine.validate(frame).err()?;
        (self.lookup(frame.id) == Lookup::Undecided).then_some(reason)
    }

    /// What became of a frame.
    pub(crate) fn lookup(&self, id: FrameId) -> Lookup {
        self.sessions.lookup(self.group, id, None)
    }

    /// After every frame of the last applied batch.
    pub(crate) fn position(&self) -> Position {
        Position { group: self.group, epoch: self.epoch, index: self.applied(), slot: u32::MAX }
    }

    /// The position of a slot in the log.
    pub(crate) const fn position_of(&self, index: Index, slot: u32) -> Position {
        Position { group: self.group, epoch: self.epoch, index, slot }
    }

    /// The last applied index.
    pub(crate) const fn applied(&self) -> Index {
        self.history.index()
    }

    /// The history at the last applied index.
    pub(crate) const fn witness(&self) -> Witness {
        Witness { index: self.history.index(), history: self.history.hash() }
    }

    /// Whether what another node says of the history is true here; nothing is known of what is too old.
    pub(crate) fn agrees(&self, witness: &Witness) -> bool {
        self.history.at(witness.index).is_none_or(|hash| hash == witness.history)
    }

    /// The log time of the last applied batch.
    pub(crate) const fn log_time(&self) -> LogTime {
        self.log_time
    }

    /// Live sessions.
    pub(crate) fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// When the state machine has something due.
    pub(crate) fn next_deadline(&self) -> Option<LogTime> {
        self.machine.next_deadline()
    }
}
