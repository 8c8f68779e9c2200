//! Who this node is to the others, and who they are: hellos, founding, and whose messages are heard.

use quorate_engine::engine::{Message, Outgoing, Output};
use quorate_replicator::NodeId;
use quorate_storage::{Index, Record};

use super::{Part, RaftEngine, STRANGERS_MAX};
use crate::core::{Begin, Core, read_message, wire};
use crate::founding::Step;
use crate::hello::{Envelope, Head, Hello, You};
use crate::members::{Mark, Members};
use crate::stored::{Identity, Stored};

impl RaftEngine {
    pub(super) fn found(&mut self, step: Step, out: &mut Output) {
        match step {
            Step::Nothing => {}
            Step::Store(identity) => {
                let stored = Stored { identity: Some(identity), ..Stored::default() };
                let seq = out.write(true, Record::State(stored.encode()));
                if let Part::Outside(_, told_after) = &mut self.part {
                    *told_after = seq;
                }
                self.say_hello(out);
            }
            Step::Join(identity) => {
                self.join(identity, out);
                self.lead_alone();
            }
            Step::Fault(words) => self.fault = Some(words),
        }
    }

    /// This node is a member from now on.
    pub(super) fn join(&mut self, identity: Identity, out: &mut Output) {
        let mark = Mark { term: 0, members: Members::founding(&identity.founding) };
        let stored = Stored { identity: Some(identity), ..Stored::default() };
        let begin = Begin { stored, base: 0, mark, entries: Vec::new(), seed: self.seed };
        match Core::open(&self.config, self.timing, begin) {
            Ok(mut core) => {
                core.write_identity(out);
                out.members.push((0, core.members().public()));
                self.part = Part::Member(Box::new(core));
                // Those who wait for this node to have stored the founding hear it at once.
                self.greet_founders(out);
            }
            Err(problem) => self.fault = Some(problem),
        }
    }

    /// A node that decides alone has nobody to wait for.
    pub(super) fn lead_alone(&mut self) {
        if let Part::Member(core) = &mut self.part
            && core.members().decides_alone(core.id())
        {
            core.campaign(false);
        }
    }

    pub(super) fn say_hello(&mut self, out: &mut Output) {
        if let Part::Outside(outside, _) = &self.part {
            for node in outside.others() {
                self.hello(node, true, out);
            }
        }
    }

    pub(super) fn greet_founders(&mut self, out: &mut Output) {
        for node in self.founders.clone() {
            if node != self.node {
                self.hello(node, false, out);
            }
        }
    }

    /// Tells a node who this one is, and what it knows of that node.
    pub(crate) fn hello(&self, to: NodeId, asks: bool, out: &mut Output) {
        let (stored, raft, active, you, after) = match &self.part {
            Part::Outside(outside, seq) => {
                (outside.stored().to_vec(), 0, false, You::Unknown, *seq)
            }
            Part::Member(core) => {
                let Some(identity) = &core.stored().identity else { return };
                let you = match core.members().by_node(to) {
                    Some(seat) => You::Member(seat.incarnation),
                    None => You::Stranger,
                };
                (identity.founding.clone(), identity.raft, true, you, core.identity_seq())
            }
        };
        let (incarnation, founders) = (self.incarnation, self.founders.clone());
        let hello = Hello { incarnation, founders, stored, active, raft, asks, you };
        let message = Message { head: hello.encode(), bodies: Vec::new() };
        out.sends.push(Outgoing { to: vec![to], after, urgent: true, message });
    }

    pub(super) fn heard_hello(&mut self, from: NodeId, hello: &Hello, out: &mut Output) {
        match &mut self.part {
            Part::Outside(outside, _) => {
                let step = outside.hear(from, hello);
                self.found(step, out);
            }
            Part::Member(core) => {
                if let You::Removed(at) = hello.you
                    && hello.active
                {
                    self.removed_at = Some(at);
                }
                let wrong = core
                    .members()
                    .by_node(from)
                    .is_some_and(|seat| seat.incarnation != hello.incarnation);
                if wrong {
                    self.foreign.insert(from);
                    self.noted = Some(format!(
                        "{from} runs on another directory than the one that is a member; if its disk was lost, remove {from} and add it again"
                    ));
                }
                self.probed(from, hello, out);
                self.settled_there(from, hello);
            }
        }
        if hello.asks && self.is_removed(hello.raft) {
            self.say_removed(from, hello.raft, out);
        } else if hello.asks {
            self.hello(from, false, out);
        }
    }

    pub(super) fn received(&mut self, from: NodeId, message: Message, out: &mut Output) {
        match Head::read(&message.head) {
            Ok(Head::Hello(hello)) if message.bodies.is_empty() => {
                self.heard_hello(from, &hello, out);
            }
            Ok(Head::Sleep(envelope, term, last)) if self.knows(from, &envelope, out) => {
                self.told_to_sleep(envelope.from_raft, term, last, out);
            }
            Ok(Head::Raft(envelope, count, mut reader)) => {
                if !self.knows(from, &envelope, out) {
                    return;
                }
                let mut bodies = message.bodies.into_iter();
                for _ in 0..count {
                    let (sender, receiver) = (envelope.from_raft, envelope.to_raft);
                    let read = read_message(&mut reader, &mut bodies, sender, receiver);
                    let Ok(message) = read else { return };
                    self.woken_by(&message, out);
                    let Part::Member(core) = &mut self.part else { return };
                    if let Err(words) = core.receive(message) {
                        self.fault = Some(words);
                        return;
                    }
                }
            }
            // What is no message is nothing; whoever sent it hears nothing.
            _ => {}
        }
    }

    /// Whether a message is for this directory and from who it says it is.
    pub(super) fn knows(&mut self, from: NodeId, envelope: &Envelope, out: &mut Output) -> bool {
        if let Part::Outside(outside, _) = &mut self.part {
            let Some(identity) = outside.adopt(envelope) else {
                // It was added, and does not know of which founding: who sends knows.
                if envelope.to == self.incarnation && self.told.insert(from) {
                    self.hello(from, true, out);
                }
                return false;
            };
            self.join(identity, out);
        }
        let Part::Member(core) = &self.part else { return false };
        let Envelope { from_raft, from: directory, to_raft, to } = *envelope;
        if to != self.incarnation || to_raft != core.id() {
            return false;
        }
        let members = core.members();
        match members.by_raft(from_raft) {
            Some(seat) if seat.node == from && seat.incarnation == directory => {}
            Some(seat) => {
                self.noted = Some(format!(
                    "{from} spoke as the member {} from another directory, and was not heard",
                    seat.node
                ));
                return false;
            }
            None if from_raft < members.next() => {
                self.tell_removed(from, from_raft, out);
                return false;
            }
            // It was added after what this node has applied, or it leads and this node has much to catch up with.
            None => {
                let full = self.strangers.len() >= STRANGERS_MAX;
                if full && !self.strangers.contains_key(&from_raft) {
                    self.strangers.pop_first();
                }
                self.strangers.insert(from_raft, (from, directory));
            }
        }
        self.heard.insert(from_raft, self.now);
        true
    }

    /// Whether this raft id was a member's, and is none's any more.
    fn is_removed(&self, raft: u64) -> bool {
        self.core().is_some_and(|core| core.members().removed(raft).is_some())
    }

    pub(super) fn tell_removed(&mut self, node: NodeId, raft: u64, out: &mut Output) {
        if self.told.insert(node) {
            self.say_removed(node, raft, out);
        }
    }

    fn say_removed(&self, node: NodeId, raft: u64, out: &mut Output) {
        let Part::Member(core) = &self.part else { return };
        let Some(identity) = &core.stored().identity else { return };
        let at = core.members().removed(raft).map_or(0, |removed| removed.at);
        let hello = Hello {
            incarnation: self.incarnation,
            founders: self.founders.clone(),
            stored: identity.founding.clone(),
            active: true,
            raft: identity.raft,
            asks: false,
            you: You::Removed(at),
        };
        let message = Message { head: hello.encode(), bodies: Vec::new() };
        let after = core.identity_seq();
        out.sends.push(Outgoing { to: vec![node], after, urgent: true, message });
    }

    pub(super) fn staged(
        &mut self,
        from: NodeId,
        index: Index,
        mark: bytes::Bytes,
        head: &[u8],
        out: &mut Output,
    ) {
        let Ok(Head::Snapshot(envelope, mut reader)) = Head::read(head) else { return };
        let read = wire::SnapshotHead::read(&mut reader);
        let (Ok(head), Ok(()), Ok(decoded)) = (read, reader.finish(), Mark::decode(&mark)) else {
            return;
        };
        if !head.fits(index, &decoded) || !self.knows(from, &envelope, out) {
            return;
        }
        self.wake(out);
        if let Part::Member(core) = &mut self.part {
            core.receive_snapshot(envelope.from_raft, head, index, mark, decoded);
        }
    }
}
