//! Linearizable reads, from the question to the answer.

use bytes::Bytes;
use quorate_engine::engine::{Input, ReadAnswer, ReadId};
use quorate_storage::Body;

use super::World;
use super::node::{Offered, Read, Reading};
use crate::engine::EngineFactory;

impl<F: EngineFactory> World<'_, F> {
    pub(super) fn ask(&mut self, read: usize) {
        let Read { node, life, .. } = self.reads[read];
        if !self.lives(node, life) {
            self.reads[read].stage = Reading::Over;
            return;
        }
        self.questions += 1;
        let id = ReadId(self.questions);
        self.reads[read].asked = Some((id, self.now));
        self.tell(node, Input::Read(id));
    }

    pub(super) fn answered(&mut self, node: usize, id: ReadId, answer: ReadAnswer) {
        if id.0 == 0 || id.0 > self.questions {
            self.broken(
                node,
                format_args!("only a question is answered, and {id:?} was never asked"),
            );
        }
        // An answer to an earlier form of the question comes too late to count.
        let asked = |read: &Read| read.node == node && read.asked.is_some_and(|(at, _)| at == id);
        let Some(place) = self.reads.iter().position(asked) else { return };
        let Read { floor, stage, .. } = self.reads[place];
        if stage != Reading::Asked {
            return;
        }
        match answer {
            ReadAnswer::At(index) if index < floor => self.broken(
                node,
                format_args!("a read sees all that was delivered anywhere before it was asked, which is up to {floor}, and it is answered at {index}"),
            ),
            ReadAnswer::At(index) => self.reads[place].stage = Reading::Waits(index),
            ReadAnswer::ThroughLog => {
                let number = self.payloads.len();
                let words = format!("{}, seed {}, marker {number}", self.case, self.seed);
                let body = Body::Frames(Bytes::from(words));
                let idle_since = Some(self.now);
                self.payloads.push(Offered { home: node, body, idle_since, done: false });
                self.reads[place].stage = Reading::Through(number);
            }
            ReadAnswer::Retry => {}
        }
    }

    pub(super) fn serve_reads(&mut self, node: usize) {
        let applied = self.nodes[node].running.as_ref().map_or(0, |running| running.applied);
        for read in self.reads.iter_mut().filter(|read| read.node == node) {
            if matches!(read.stage, Reading::Waits(index) if index <= applied) {
                read.stage = Reading::Over;
            }
        }
    }
}
