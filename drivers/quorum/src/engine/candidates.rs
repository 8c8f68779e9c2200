//! What is proposed at the present height, and whether it may be decided.

use std::collections::BTreeMap;

use quorate_certificate::{Header, body_hash};
use quorate_engine::engine::{Output, Verdict};
use quorate_storage::{Body, Entry, Tag};

use super::QuorumEngine;
use crate::message::{Carried, body_parts};
use crate::tendermint::{Proposed, Words};

/// What is proposed at the present height.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) entry: Entry,
    pub(super) header: Header,
    /// The last round in which it was refused, if it was.
    pub(super) refused_in: Option<u32>,
    /// Whether it is in the log.
    pub(super) is_kept: bool,
}

/// A candidate that the host judges.
#[derive(Debug)]
pub(super) struct Check {
    proposed: Proposed,
    /// What the core hears when it is judged, by its round; nothing, the first time.
    held: BTreeMap<u32, Words>,
}

impl Check {
    /// Whether the candidate was refused before.
    fn is_again(&self) -> bool {
        !self.held.is_empty()
    }
}

/// Most candidates of one height for each validator, in memory: those of a few rounds, and of some proposers who
/// propose two.
const CANDIDATES_EACH: usize = 4;

impl QuorumEngine {
    /// A proposal for the present height, perhaps with what it proposes.
    pub(super) fn proposal(
        &mut self,
        proposed: Proposed,
        words: Words,
        carried: Option<Carried>,
        out: &mut Output,
    ) {
        let Some(height) = &self.height else { return };
        if !height.proposes(&proposed) || !height.verifies(&words, &mut self.keys) {
            return;
        }
        let Some(words) = self.hold(proposed, words, out) else { return };
        self.core(out, |height, keys, acts| height.hear(words, keys, acts));
        let is_known = self.candidates.contains_key(&proposed.value);
        let most = CANDIDATES_EACH * self.validators().validators().len();
        if self.height.is_none() || is_known || self.candidates.len() >= most {
            return;
        }
        let Some(Carried { head, header, body }) = carried else { return };
        let (kind, bytes) = body_parts(&body);
        if header.id() != proposed.value || body_hash(kind, &bytes) != header.body {
            // Not what was proposed: that may still come.
            return;
        }
        let entry = Entry { index: header.height, tag: Tag(proposed.value), head, body };
        let follows = self.follows(&header, &entry.body);
        let candidate = Candidate {
            entry,
            header,
            refused_in: (!follows).then_some(proposed.round),
            is_kept: false,
        };
        self.candidates.insert(proposed.value, candidate);
        if follows {
            self.check(Check { proposed, held: BTreeMap::new() }, out);
        } else {
            self.core(out, |height, keys, acts| height.candidate(proposed, false, keys, acts));
        }
    }

    /// Asks the host about a candidate that is here.
    fn check(&mut self, check: Check, out: &mut Output) {
        let Some(candidate) = self.candidates.get(&check.proposed.value) else { return };
        let entry = candidate.entry.clone();
        let ticket = self.ticket();
        self.checks.insert(ticket, check);
        out.checks.push((ticket, entry));
    }

    /// Holds back the proposal of a candidate that was refused in an earlier round, until the host has judged it anew: what was too far ahead
    /// of this node's clock then may not be now, and the core votes as soon as it hears a proposal of something whose verdict it
    /// knows. Gives the words back if they need not wait.
    fn hold(&mut self, proposed: Proposed, words: Words, out: &mut Output) -> Option<Words> {
        let is_held =
            |check: &&mut Check| check.proposed.value == proposed.value && check.is_again();
        if let Some(check) = self.checks.values_mut().find(is_held) {
            check.held.insert(proposed.round, words);
            return None;
        }
        let may_be_right = self.candidates.get(&proposed.value).is_some_and(|candidate| {
            // Once for each round.
            candidate.refused_in.is_some_and(|round| proposed.round > round)
                && self.follows(&candidate.header, &candidate.entry.body)
        });
        if !may_be_right {
            return Some(words);
        }
        self.check(Check { proposed, held: BTreeMap::from([(proposed.round, words)]) }, out);
        None
    }

    /// Whether a header is one that everybody who keeps the rules would find right after the last height.
    fn follows(&self, header: &Header, body: &Body) -> bool {
        header.height == self.next()
            && header.previous == self.mark.value
            && self.validators().get(header.proposer).is_some()
            && header.validators == self.mark.validators.digest()
            && header.next_validators == self.mark.next_validators.digest()
            && (header.state_index, header.state) == self.applied
            && match body {
                Body::Members(bytes) => self.may_change(bytes),
                Body::Frames(bytes) => self.inspection.calls().hold(bytes),
                Body::Empty => true,
            }
    }

    /// The host has judged a candidate.
    pub(super) fn checked(&mut self, ticket: u64, verdict: Verdict, out: &mut Output) {
        let Some(check) = self.checks.remove(&ticket) else { return };
        let proposed = check.proposed;
        if let Verdict::Ahead(stamp) = verdict
            && self.is_own_batch(&proposed)
        {
            let by = (&self.mark.validators, self.fault_model);
            let known = self.stamps.add(proposed.proposer, stamp, self.now, by);
            if known.is_some() {
                // By the time that is known now it may be right.
                out.log_time = known;
                return self.check(check, out);
            }
        }
        let valid = verdict == Verdict::Valid;
        #[cfg(quorate_planted)]
        let valid = valid
            || quorate_planted::Bug::CandidatesUnjudged.is_planted()
            || quorate_planted::Bug::LogTimeUnjudged.is_planted()
                && matches!(verdict, Verdict::Ahead(_));
        if let Some(candidate) = self.candidates.get_mut(&proposed.value) {
            candidate.refused_in = (!valid).then_some(proposed.round);
        }
        if self.keep_back(proposed, valid) {
            return;
        }
        self.core(out, |height, keys, acts| height.candidate(proposed, valid, keys, acts));
        for words in check.held.into_values() {
            self.core(out, |height, keys, acts| height.hear(words, keys, acts));
        }
    }

    /// Whether a validator proposes what it has made itself, so that the time of it is what its own clock has shown.
    fn is_own_batch(&self, proposed: &Proposed) -> bool {
        let candidate = self.candidates.get(&proposed.value);
        candidate.is_some_and(|candidate| candidate.header.proposer == proposed.proposer)
    }
}
