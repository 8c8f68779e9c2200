//! A node begins, or begins again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use quorate_engine::engine::{
    Checkpointed, Deliver, Delivery, EngineDriver, LogWrite, Opening, Output,
};
use quorate_engine::panic_words;
use quorate_replicator::GroupId;
use quorate_storage::{Index, Record};

use super::World;
use super::node::Running;
use crate::engine::EngineFactory;

impl<F: EngineFactory> World<'_, F> {
    /// Opens a node again that had crashed.
    pub(in crate::engine) fn start(&mut self, node: usize) {
        if self.nodes[node].running.is_some() {
            return;
        }
        let (seed, members) = (self.random.u64(..), self.members.clone());
        let at = &mut self.nodes[node];
        if let Some((reset, _)) = at.log.recovered().reset
            && let Some(staged) = at.staged.remove(&reset)
        {
            // The reset was durable and its install was not applied: the staged snapshot is in force (R5).
            at.checkpoints.insert(reset, staged);
        }
        at.staged.clear();
        let checkpoint = at.checkpoints.last_key_value().map(|(_, newest)| newest.clone());
        let log = at.log.recovered().clone();
        let opening = Opening {
            group: GroupId::new(0),
            node: at.id,
            members,
            incarnation: at.incarnation,
            seed,
            checkpoint: checkpoint.clone(),
            log: log.clone(),
        };
        let mut out = Output::default();
        let config = self.factory.config();
        let driver = &self.driver;
        let opened = catch_unwind(AssertUnwindSafe(|| driver.open(&config, opening, &mut out)));
        let engine = match opened {
            Ok(Ok(engine)) => engine,
            Ok(Err(problem)) => self
                .broken(node, format_args!("R7: what an engine wrote opens again, not: {problem}")),
            Err(panic) => self.broken(
                node,
                format_args!("no input makes an engine panic, at open: {}", panic_words(&*panic)),
            ),
        };
        let applied = checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.index);
        // It may be a snapshot that was staged by the life before.
        self.holds_up_to(node, applied);
        self.judge_opening(node, applied, &log, &out);
        let (mark, history) = checkpoint.map_or((Bytes::new(), [0; 32]), |known| {
            let Checkpointed { mark, state, .. } = known;
            (mark, state)
        });
        self.nodes[node].running = Some(Running {
            engine,
            out,
            written: 0,
            durable: 0,
            syncing: false,
            sends: Vec::new(),
            deliveries: VecDeque::new(),
            last_emitted: applied,
            applied,
            applying: false,
            mark,
            history,
            timers: BTreeMap::new(),
            checks: Vec::new(),
            placed: BTreeMap::new(),
            ever_placed: BTreeSet::new(),
            trim_below: 0,
            decided: 0,
        });
        // What it was told is of the life before.
        self.told_lost.retain(|(told, _)| *told != node);
        self.missed(node);
        self.turn(node);
    }

    /// R7, as far as it can be told from what was stored.
    pub(super) fn judge_opening(
        &self,
        node: usize,
        checkpoint: Index,
        log: &quorate_storage::Recovered,
        out: &Output,
    ) {
        let mut last = checkpoint;
        for Delivery { after, what } in &out.deliveries {
            let Deliver::Batch { entry, .. } = what else { continue };
            if *after != 0 {
                self.broken(
                    node,
                    format_args!(
                        "R7: what is delivered again at open has after = 0, and index {} has {after}",
                        entry.index
                    ),
                );
            }
            if !log.entries.contains(entry) {
                self.broken(
                    node,
                    format_args!(
                        "R7: only what is in the log is delivered again, and index {} {:?} is not",
                        entry.index, entry.tag
                    ),
                );
            }
            last = last.max(entry.index);
        }
        let mut must = checkpoint;
        while log.decided.iter().any(|(index, ..)| *index == must + 1) {
            must += 1;
        }
        if self.nodes.len() == 1 {
            // Alone, a node has nobody to ask: all that was delivered comes from its own log.
            must = must.max(self.top());
        }
        if last < must {
            self.broken(
                node,
                format_args!("R7: all that is decided after the checkpoint is delivered again at open, and the last is {last} of {must}"),
            );
        }
        for LogWrite { record, .. } in &out.writes {
            if let Record::Note { index, note } = record
                && log.notes.iter().any(|(at, known)| at == index && known == note)
            {
                self.broken(
                    node,
                    format_args!(
                        "R7: notes are never written again at open, and one of index {index} is"
                    ),
                );
            }
        }
    }
}
