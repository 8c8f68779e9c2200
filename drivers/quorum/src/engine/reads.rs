//! Linearizable reads: which height has to be applied before one may be served.
//!
//! A batch that was decided anywhere before a read began was precommitted to by a quorum before that. So the validators are asked to
//! which height each has precommitted, and any quorum of the answers has an honest validator of that other quorum among them:
//! nothing that was decided is above the highest of these answers. Nothing is written for a read. A validator that claims more than is
//! so is left out, as others who do not suffice for a quorum without it.

use std::collections::{BTreeMap, VecDeque};

use quorate_engine::engine::{Output, ReadAnswer, ReadId};
use quorate_replicator::NodeId;

use super::QuorumEngine;
use crate::message;
use crate::tendermint::Tendermint;

/// Most questions at once: the host asks one at a time, and asks again when it hears nothing.
const QUESTIONS_MAX: usize = 256;

#[derive(Debug)]
pub(super) struct Reads {
    nonce: u64,
    open: VecDeque<Open>,
}

#[derive(Debug)]
struct Open {
    nonce: u64,
    id: ReadId,
    claims: BTreeMap<NodeId, u64>,
}

impl Reads {
    /// Questions of this life differ from those of an earlier one, by `seed`.
    pub(super) const fn new(seed: u64) -> Self {
        Self { nonce: seed, open: VecDeque::new() }
    }

    pub(super) fn claimed(&mut self, nonce: u64, from: NodeId, height: u64) {
        if let Some(open) = self.open.iter_mut().find(|open| open.nonce == nonce) {
            open.claims.entry(from).or_insert(height);
        }
    }
}

impl QuorumEngine {
    /// The last height that may be decided as far as this node is concerned.
    pub(super) fn claim(&self) -> u64 {
        let may_be = self.height.as_ref().is_some_and(Tendermint::precommitted);
        self.mark.height + u64::from(may_be)
    }

    pub(super) fn ask_to_read(&mut self, id: ReadId, out: &mut Output) {
        self.reads.nonce = self.reads.nonce.wrapping_add(1);
        let nonce = self.reads.nonce;
        let mut claims = BTreeMap::new();
        if self.votes() {
            claims.insert(self.node, self.claim());
        }
        if self.reads.open.len() >= QUESTIONS_MAX
            && let Some(oldest) = self.reads.open.pop_front()
        {
            out.reads.push((oldest.id, ReadAnswer::Retry));
        }
        self.reads.open.push_back(Open { nonce, id, claims });
        let question = message::read(&self.chain, nonce);
        self.send(self.others(), question, out);
    }

    /// Answers what can be answered.
    pub(super) fn answer_reads(&mut self, out: &mut Output) {
        if self.reads.open.is_empty() {
            return;
        }
        let next = self.next();
        let mut open = std::mem::take(&mut self.reads.open);
        open.retain(|question| match self.read_index(&question.claims) {
            // What is claimed beyond the next height may be no height at all.
            Some(index) if index <= next => {
                out.reads.push((question.id, ReadAnswer::At(index)));
                false
            }
            _ => true,
        });
        self.reads.open = open;
    }

    /// The lowest height that some quorum of these claims reaches.
    fn read_index(&self, claims: &BTreeMap<NodeId, u64>) -> Option<u64> {
        let validators = self.validators();
        let mut claims: Vec<_> = claims
            .iter()
            .filter_map(|(node, height)| Some((*height, validators.get(node.number())?.power)))
            .collect();
        claims.sort_unstable();
        let mut power = 0;
        claims.into_iter().find_map(|(height, each)| {
            power += each;
            validators.is_quorum(power, self.fault_model).then_some(height)
        })
    }
}
