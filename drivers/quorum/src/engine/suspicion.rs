//! A proposer that is well, and leaves out what others wait for.
//!
//! Batches of such a one are valid, so it could go on for as long as it has its turn. A validator whose frames, or copies of frames, have waited
//! for long while that one decided heights does not vote for what it proposes before the others would give up on it: if more than a
//! third do so the round fails, and another one proposes, and goes on to. Where it is wrong that costs one timeout.

use std::time::Duration;

use quorate_engine::engine::{Now, Output};
use quorate_replicator::NodeId;

use super::QuorumEngine;
use crate::tendermint::{Proposed, propose_timer};

/// How long frames must have waited, beyond the time after which the host says that they do.
const SUSPECT_AFTER: Duration = Duration::from_secs(1);

/// How many heights must have been decided meanwhile: one may have been under way.
const HEIGHTS: u64 = 3;

/// The host says each 100 ms that frames wait; when it has not for this long, none do.
const FORGET_AFTER: Duration = Duration::from_secs(2);

/// Since when frames wait while the same node proposes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wait {
    since: Now,
    last: Now,
    height: u64,
    proposer: NodeId,
}

impl QuorumEngine {
    /// Frames wait at this node.
    pub(super) fn note_wait(&mut self) {
        let (now, height, proposer) = (self.now, self.mark.height, self.first_proposer());
        let fresh = Wait { since: now, last: now, height, proposer };
        let known = self.waits.filter(|known| {
            known.proposer == proposer && now < known.last.saturating_add(FORGET_AFTER)
        });
        self.waits = Some(known.map_or(fresh, |known| Wait { last: now, ..known }));
    }

    /// Whether the one who proposes first leaves out what waits here.
    fn suspects(&self, proposer: NodeId) -> bool {
        self.waits.is_some_and(|wait| {
            wait.proposer == proposer
                && proposer != self.node
                && wait.last >= wait.since + SUSPECT_AFTER
                && self.now < wait.last + FORGET_AFTER
                && self.mark.height >= wait.height + HEIGHTS
        })
    }

    /// Keeps back what a suspect proposes, while the others still wait for a proposal; true if it does.
    pub(super) fn keep_back(&mut self, proposed: Proposed, valid: bool) -> bool {
        let timer = propose_timer(proposed.round);
        let waits = self.height.as_ref().is_some_and(|height| height.has_timer(timer));
        let keeps = proposed.round == 0 && waits && self.suspects(NodeId::new(proposed.proposer));
        if keeps {
            self.kept_back.push((proposed, valid));
        }
        keeps
    }

    /// Gives to the core what was kept back, when nobody waits for a proposal any more.
    pub(super) fn give_back(&mut self, out: &mut Output) {
        let waits = self.height.as_ref().is_some_and(|height| height.has_timer(propose_timer(0)));
        if waits {
            return;
        }
        for (proposed, valid) in std::mem::take(&mut self.kept_back) {
            self.core(out, |height, keys, acts| height.candidate(proposed, valid, keys, acts));
        }
    }
}
