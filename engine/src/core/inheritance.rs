//! From one driver to another: what this node has applied is left to a group that begins with this node alone.
//!
//! ```text
//!   HostCore of driver A --turns--> hand_over --> HandOver --found(B)--> checkpoint, records --> HostCore of driver B
//! ```
//!
//! 1. Everything replicated goes on: state, sessions with what is not settled, log time, history.
//! 2. The epoch rises by one, and takes an index for itself: no position is given twice, whatever else was decided after what is
//!    left here.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use quorate_replicator::{GroupId, LogTime, NodeId, OpenError, Position};
use quorate_storage::Record;
use thiserror::Error;

use super::{HostCore, panic_words};
use crate::callers::Callers;
use crate::effects::CheckpointJob;
use crate::engine::{EngineDriver, Inherited, StateHash};

/// What a group leaves to another driver.
#[derive(Debug)]
pub struct HandOver {
    group: GroupId,
    node: NodeId,
    job: CheckpointJob,
    /// What whoever goes on from it begins with.
    pub state: Inheritance,
    /// What may have been decided elsewhere and is not in it, in words; none if that is nothing.
    pub missing: Option<String>,
    /// Members of the group, whether they vote or not, that the new one does not have.
    pub left_behind: Vec<NodeId>,
}

/// What tells the replicated state of a group from another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inheritance {
    /// After every frame.
    pub position: Position,
    /// Hash of the history.
    pub history: StateHash,
    /// Log time.
    pub log_time: LogTime,
    /// Live sessions.
    pub sessions: u64,
}

/// Why a group cannot be left to another driver.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum HandOverError {
    /// It stopped while it replayed what is stored.
    #[error("{cause}")]
    Faulted {
        /// Why, and what to do.
        cause: String,
    },
    /// This node may not know all that was decided.
    #[error("{missing}")]
    Unsure {
        /// What may be missing, and how to come to where it is known.
        missing: String,
    },
}

impl<C: Callers> HostCore<C> {
    /// What is applied now.
    pub fn inheritance(&self) -> Inheritance {
        Inheritance {
            position: self.state.position(),
            history: self.state.witness().history,
            log_time: self.state.log_time(),
            sessions: self.state.sessions() as u64,
        }
    }

    /// Ends the group here and leaves what is applied to another driver. It was opened on what is stored, with writes that count as
    /// durable at once and no checkpoint due, and turned until there was nothing to do. With `anyway` it is left as it is here even
    /// if more may have been decided elsewhere.
    ///
    /// # Errors
    ///
    /// See [`HandOverError`].
    pub fn hand_over(mut self, anyway: bool) -> Result<HandOver, HandOverError> {
        if let Some(cause) = self.faulted() {
            return Err(HandOverError::Faulted { cause: cause.to_owned() });
        }
        assert!(self.config.volatile, "its own writes count");
        assert!(self.deliveries.is_empty(), "everything that is decided is applied");
        let missing = self.engine.knows_all().err();
        if let Some(missing) = &missing
            && !anyway
        {
            return Err(HandOverError::Unsure { missing: missing.clone() });
        }
        let is_sure = missing.is_none();
        catch_unwind(AssertUnwindSafe(|| self.state.begin_epoch(is_sure))).map_err(|panic| {
            let words = panic_words(&*panic);
            HandOverError::Faulted { cause: format!("a panic of the state machine: {words}") }
        })?;
        let state = self.inheritance();
        let (words, pairs) = self.state.begin_checkpoint();
        let machine = pairs.machine;
        #[cfg(quorate_planted)]
        let machine = match quorate_planted::Bug::ChangesLeftBehind.is_planted() {
            true => Box::new(std::iter::empty()),
            false => machine,
        };
        let status = self.engine.status();
        let node = self.config.node;
        let members = status.members.into_iter().chain(status.learners);
        Ok(HandOver {
            group: self.config.group,
            node,
            job: CheckpointJob {
                index: state.position.index,
                mark: Bytes::new(),
                state: state.history,
                words,
                machine,
                host: pairs.host,
            },
            state,
            missing,
            left_behind: members.filter(|member| *member != node).collect(),
        })
    }
}

impl HandOver {
    /// The checkpoint, on top of the newest that is stored, and the records of an empty log with which the group begins under another
    /// driver, in a directory with this `incarnation`.
    ///
    /// # Errors
    ///
    /// The driver does not take it over.
    pub fn found<D: EngineDriver>(
        self,
        driver: &D,
        config: &D::Config,
        incarnation: [u8; 16],
    ) -> Result<(CheckpointJob, Vec<Record>), OpenError> {
        let Self { group, node, mut job, .. } = self;
        let (index, state) = (job.index, job.state);
        let inherited = Inherited { group, node, incarnation, index, state };
        let founding = driver
            .inherit(config, &inherited)
            .map_err(|problem| OpenError::Driver { driver: D::NAME.into(), problem })?;
        job.mark = founding.mark;
        let reset = Record::Reset { index: job.index, mark: job.mark.clone() };
        let state = founding.state.map(Record::State);
        Ok((job, std::iter::once(reset).chain(state).collect()))
    }
}
