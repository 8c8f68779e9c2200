//! What must hold in every turn of every node.

use std::collections::BTreeMap;

use quorate_replicator::{GroupStatus, NodeId};
use quorate_storage::{Index, Tag};

use crate::copies::Copies;
use crate::oracle::{Checked, violation};

/// What is known of the whole group, over all lives of all nodes.
#[derive(Debug, Default)]
pub(super) struct Laws {
    /// Who led in each term.
    leaders: BTreeMap<u64, NodeId>,
    /// What was decided at each index, by the first node that said so, and in which term, if that node led.
    decided: BTreeMap<Index, (Tag, Option<u64>)>,
    pub(super) newest: Index,
}

/// What a node showed in this life.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Shown {
    term: u64,
    committed: Index,
    applied: Index,
    log_time: u64,
}

impl Laws {
    /// One leader in each term.
    pub(super) fn leads(&mut self, node: NodeId, term: u64) -> Checked {
        let known = *self.leaders.entry(term).or_insert(node);
        if known != node {
            return violation(format!("{known} and {node} both led in term {term}"));
        }
        Ok(())
    }

    /// How many terms had a leader.
    pub(super) fn terms(&self) -> u64 {
        self.leaders.len() as u64
    }

    /// The same entry at the same index on all nodes; true if nobody had said so of this index before.
    pub(super) fn delivered(
        &mut self,
        node: NodeId,
        index: Index,
        tag: Tag,
        leads: Option<u64>,
    ) -> Checked<bool> {
        if let Some((known, _)) = self.decided.get(&index) {
            if *known != tag {
                return violation(format!(
                    "{node} decided another entry at {index} than others did"
                ));
            }
            return Ok(false);
        }
        if index != self.newest + 1 {
            return violation(format!("{node} decided {index}, and nobody what is before it"));
        }
        self.newest = index;
        self.decided.insert(index, (tag, leads));
        Ok(true)
    }

    /// Whoever leads has everything that was decided in earlier terms.
    pub(super) fn is_complete(&self, node: NodeId, term: u64, holds: &Copies) -> Checked {
        for (index, (tag, decided_in)) in self.decided.range(holds.floor() + 1..) {
            if decided_in.is_some_and(|earlier| earlier < term) && !holds.has(*index, *tag) {
                return violation(format!(
                    "{node} leads in term {term} and lacks {index}, which was decided before"
                ));
            }
        }
        Ok(())
    }

    /// Nothing that a node shows goes back while it runs.
    pub(super) fn shows(&self, node: NodeId, shown: &mut Shown, status: &GroupStatus) -> Checked {
        let now = Shown {
            term: status.term,
            committed: status.committed,
            applied: status.applied,
            log_time: status.log_time.as_ms(),
        };
        for (what, before, now) in [
            ("term", shown.term, now.term),
            ("committed index", shown.committed, now.committed),
            ("applied index", shown.applied, now.applied),
            ("log time", shown.log_time, now.log_time),
        ] {
            if now < before {
                return violation(format!("the {what} of {node} went back from {before} to {now}"));
            }
        }
        if now.applied > now.committed || now.applied > self.newest {
            return violation(format!(
                "{node} applied {}, and {} is decided",
                now.applied,
                now.committed.min(self.newest)
            ));
        }
        *shown = now;
        Ok(())
    }
}
