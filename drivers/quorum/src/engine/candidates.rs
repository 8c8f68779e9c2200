//! What is proposed at the present height, and whether it may be decided.

use quorate_certificate::{Header, ValueId, body_hash};
use quorate_engine::engine::Output;
use quorate_storage::{Body, Entry, Tag};

use super::QuorumEngine;
use crate::message::{Carried, body_parts};
use crate::tendermint::{Proposed, Words};

/// What is proposed at the present height.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) entry: Entry,
    pub(super) header: Header,
    /// Whether it may be decided, once that is known.
    pub(super) verdict: Option<bool>,
    /// Whether it is in the log.
    pub(super) is_kept: bool,
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
        let verdict = (!follows).then_some(false);
        let candidate = Candidate { entry: entry.clone(), header, verdict, is_kept: false };
        self.candidates.insert(proposed.value, candidate);
        if follows {
            let ticket = self.ticket();
            self.checks.insert(ticket, (proposed, proposed.value));
            out.checks.push((ticket, entry));
        } else {
            self.core(out, |height, keys, acts| height.candidate(proposed, false, keys, acts));
        }
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
                Body::Frames(_) | Body::Empty => true,
            }
    }

    /// The host has judged a candidate.
    pub(super) fn checked(&mut self, ticket: u64, valid: bool, out: &mut Output) {
        let Some((proposed, value)) = self.checks.remove(&ticket) else { return };
        self.judge(&value, valid);
        if self.keep_back(proposed, valid) {
            return;
        }
        self.core(out, |height, keys, acts| height.candidate(proposed, valid, keys, acts));
    }

    fn judge(&mut self, value: &ValueId, valid: bool) {
        if let Some(candidate) = self.candidates.get_mut(value) {
            candidate.verdict = Some(valid);
        }
    }
}
