//! What must hold of everything that an engine puts out.

use quorate_engine::engine::{Deliver, Delivery, LogWrite, Outgoing};
use quorate_storage::{Body, Entry, Index, Record};

use super::World;
use crate::engine::EngineFactory;

impl<F: EngineFactory> World<'_, F> {
    pub(super) fn written(&mut self, node: usize, write: LogWrite) {
        let at = &mut self.nodes[node];
        let running = at.running.as_mut().expect("it has settled");
        let before = running.written;
        running.written = write.seq;
        let trim_below = running.trim_below;
        let staged = |index: &Index| at.staged.contains_key(index);
        let clause = match &write.record {
            _ if write.seq != before + 1 => Some(format!(
                "R1: the seqs of writes rise by one, and {} follows {before}",
                write.seq
            )),
            Record::Trim { below } if *below > trim_below => Some(format!(
                "R6: an engine trims only what a checkpoint allows, which is below {trim_below}, and not below {below}"
            )),
            Record::Reset { index, .. } if !staged(index) => Some(format!(
                "R5: a reset follows a staged snapshot, and none at {index} is staged"
            )),
            _ => None,
        };
        if let Some(clause) = clause {
            self.broken(node, clause);
        }
        self.nodes[node].log.write(write);
    }

    pub(super) fn sent(&mut self, node: usize, send: Outgoing) {
        let running = self.nodes[node].running.as_mut().expect("it has settled");
        let written = running.written;
        if send.after > written {
            self.broken(
                node,
                format_args!(
                    "R2: a send waits for a write that was made, and not for {} of {written}",
                    send.after
                ),
            );
        }
        running.sends.push(send);
    }

    pub(super) fn delivery(&mut self, node: usize, delivery: Delivery) {
        let running = self.nodes[node].running.as_mut().expect("it has settled");
        let (written, last) = (running.written, running.last_emitted);
        if delivery.after > written {
            self.broken(
                node,
                format_args!(
                    "R2: a delivery waits for a write that was made, and not for {} of {written}",
                    delivery.after
                ),
            );
        }
        match &delivery.what {
            Deliver::Batch { entry, .. } => {
                running.last_emitted = entry.index;
                if entry.index != last + 1 {
                    self.broken(
                        node,
                        format_args!("R2: deliveries are in the order of the index, without gaps, and {} follows {last}", entry.index),
                    );
                }
            }
            Deliver::Install { index, .. } => {
                running.last_emitted = *index;
                let staged = self.nodes[node].staged.contains_key(index);
                if *index <= last || !staged {
                    self.broken(
                        node,
                        format_args!("R5: what is installed is a staged snapshot ahead of {last}, and not {index}"),
                    );
                }
            }
        }
        let running = self.nodes[node].running.as_mut().expect("it has settled");
        running.deliveries.push_back(delivery);
    }

    /// What must hold of a batch at the moment at which it is delivered.
    pub(super) fn judge_batch(&mut self, node: usize, entry: &Entry) {
        let Entry { index, tag, body, .. } = entry;
        let agreed = self.agreed.entry(*index).or_insert_with(|| (*tag, body.clone()));
        if (&agreed.0, &agreed.1) != (tag, body) {
            let first = agreed.0;
            self.broken(
                node,
                format_args!("the same (tag, batch) is delivered at an index at all nodes and in all lives, and index {index} is now {tag:?} {body:?}, after {first:?}"),
            );
        }
        let invented = matches!(body, Body::Frames(_))
            && !self.payloads.iter().any(|offered| offered.body == *body);
        if invented {
            self.broken(
                node,
                format_args!(
                    "only batches that were offered are delivered, and at index {index} is {body:?}"
                ),
            );
        }
        let founders = &self.nodes[..self.members.len()];
        let holders = founders.iter().filter(|other| other.log.holds(*index, *tag)).count();
        let all = founders.len();
        // With other members there are other majorities, of which only the engines know; and a disk that was lost holds
        // nothing.
        let known = self.agreed_members.len() < 2 && !self.disks_lost;
        if holders <= all / 2 && known {
            self.broken(
                node,
                format_args!("R3: a batch is delivered when it is durable on a majority, and index {index} is on {holders} of {all}"),
            );
        }
    }
}
