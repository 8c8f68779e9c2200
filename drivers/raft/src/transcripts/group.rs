//! A few engines whose disks and links do what a transcript says, and nothing else.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use quorate_engine::engine::{
    Admin, Checkpointed, Deliver, Delivery, Engine, EngineDriver, Input, LogWrite, Message, Now,
    Opening, Outgoing, Output, ReadAnswer, ReadId,
};
use quorate_replicator::{GroupId, MemberChange, MemberRole, NodeId};
use quorate_storage::{Body, Entry, Index, Record, Recovered, Seq};

use crate::codec::Reader;
use crate::core::{read_message, tell};
use crate::engine::TICK;
use crate::hello::{Head, You};
use crate::{RaftConfig, RaftDriver};

#[derive(Default)]
pub(crate) struct Group {
    nodes: BTreeMap<u64, Node>,
    founders: Vec<NodeId>,
    wires: VecDeque<(u64, u64, Message)>,
    snapshots: VecDeque<(u64, u64, Checkpointed, Bytes)>,
    cuts: BTreeSet<(u64, u64)>,
    now: Now,
    asked: u64,
    stopped: bool,
    events: Vec<String>,
    silent: bool,
}

struct Node {
    incarnation: [u8; 16],
    writes: VecDeque<LogWrite>,
    log: Recovered,
    checkpoint: Option<Checkpointed>,
    staged: BTreeMap<Index, Checkpointed>,
    running: Option<Running>,
}

struct Running {
    engine: Box<dyn Engine>,
    out: Output,
    durable: Seq,
    sends: Vec<Outgoing>,
    deliveries: VecDeque<Delivery>,
    applied: (Index, Bytes),
}

impl Group {
    /// Whether an engine has said that it stops.
    pub(crate) fn has_stopped(&self) -> bool {
        self.stopped
    }

    pub(super) fn take_events(&mut self) -> Vec<String> {
        std::mem::take(&mut self.events)
    }

    pub(crate) fn command(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let id = |place: usize| -> u64 {
            let word = words.get(place).unwrap_or_else(|| panic!("{line}: a node is missing"));
            word.trim_start_matches('n')
                .parse()
                .unwrap_or_else(|_| panic!("{line}: {word} is no node"))
        };
        match words[0] {
            "group" => self.found(id(1)),
            "newcomer" => self.add(id(1)),
            "elect" => {
                self.wish(id(1), Admin::Campaign);
                self.quietly(Self::stabilize);
            }
            "propose" => self.propose(id(1), words[2]),
            "tick" => (0..id(2)).for_each(|_| self.tick(id(1))),
            "stabilize" => self.stabilize(),
            "stabilize-quietly" => self.quietly(Self::stabilize),
            "durable" => self.durable(id(1)),
            "deliver" => while self.carry(|_, to| to == id(1)) {},
            "drop" => self.wires.retain(|(_, to, _)| *to != id(1)),
            "cut" => self.cuts.extend([(id(1), id(2)), (id(2), id(1))]),
            "cut-one-way" => self.cuts.extend([(id(1), id(2))]),
            "heal" => self.cuts.clear(),
            "crash" => self.crash(id(1)),
            "lost" => self.step(id(1), Input::Peer { node: NodeId::new(id(2)), alive: false }),
            "lose-disk" => self.lose_disk(id(1)),
            "start" => self.start(id(1)),
            "checkpoint" => self.checkpoint(id(1)),
            "read" => self.read(id(1)),
            "log" => self.tell_log(id(1)),
            "status" => match words.get(1) {
                Some(_) => self.tell_status(id(1)),
                None => self
                    .nodes
                    .keys()
                    .copied()
                    .collect::<Vec<_>>()
                    .into_iter()
                    .for_each(|node| self.tell_status(node)),
            },
            "transfer" => self.wish(id(1), Admin::Transfer(NodeId::new(id(2)))),
            "step-down" => self.wish(id(1), Admin::StepDown),
            "campaign" => self.wish(id(1), Admin::Campaign),
            "add" | "add-learner" => {
                let role = if words[0] == "add" { MemberRole::Voter } else { MemberRole::Learner };
                let node = NodeId::new(id(2));
                self.wish(
                    id(1),
                    Admin::Change(MemberChange::Add { node, address: "there".into(), role }),
                );
            }
            "remove" => {
                self.wish(id(1), Admin::Change(MemberChange::Remove { node: NodeId::new(id(2)) }))
            }
            "replace" => {
                let (old, new) = (NodeId::new(id(2)), NodeId::new(id(3)));
                self.wish(
                    id(1),
                    Admin::Change(MemberChange::Replace { old, new, address: "there".into() }),
                );
            }
            _ => panic!("{line}: an unknown command"),
        }
    }

    fn say(&mut self, words: String) {
        if !self.silent {
            self.events.push(words);
        }
    }

    fn quietly(&mut self, run: impl FnOnce(&mut Self)) {
        self.silent = true;
        run(self);
        self.silent = false;
    }

    fn found(&mut self, count: u64) {
        self.founders = (1..=count).map(NodeId::new).collect();
        self.quietly(|group| {
            (1..=count).for_each(|node| group.add(node));
            group.stabilize();
        });
    }

    fn add(&mut self, node: u64) {
        let incarnation = [u8::try_from(node).unwrap(); 16];
        let log = Recovered { first: 1, ..Recovered::default() };
        let new = Node {
            incarnation,
            writes: VecDeque::new(),
            log,
            checkpoint: None,
            staged: BTreeMap::new(),
            running: None,
        };
        self.nodes.insert(node, new);
        self.start(node);
    }

    fn start(&mut self, node: u64) {
        let at = self.nodes.get_mut(&node).unwrap();
        let opening = Opening {
            group: GroupId::new(0),
            node: NodeId::new(node),
            members: self.founders.clone(),
            incarnation: at.incarnation,
            seed: node,
            checkpoint: at.checkpoint.clone(),
            log: at.log.clone(),
        };
        let mut out = Output::default();
        // What is trimmed is gone, so that followers that lag need a snapshot.
        let mut config = RaftConfig::default();
        (config.catch_up_bytes, config.snapshot_catch_up_bytes) = (0, 0);
        let engine = RaftDriver.open(&config, opening, &mut out).unwrap();
        let checkpoint = at.checkpoint.as_ref();
        let applied =
            checkpoint.map_or((0, Bytes::new()), |known| (known.index, known.mark.clone()));
        at.running = Some(Running {
            engine,
            out,
            durable: 0,
            sends: Vec::new(),
            deliveries: VecDeque::new(),
            applied,
        });
        self.drain(node);
    }

    fn crash(&mut self, node: u64) {
        let at = self.nodes.get_mut(&node).unwrap();
        at.running = None;
        at.writes.clear();
    }

    fn lose_disk(&mut self, node: u64) {
        self.nodes.remove(&node);
        self.quietly(|group| group.add(node));
        let at = self.nodes.get_mut(&node).unwrap();
        at.incarnation[15] ^= 0x80;
        self.start(node);
    }

    pub(crate) fn step(&mut self, node: u64, input: Input) {
        let now = self.now;
        let at = self.nodes.get_mut(&node).unwrap();
        let Some(running) = &mut at.running else { return };
        running.engine.step(now, input, &mut running.out);
        running.engine.settle(now, &mut running.out);
        self.drain(node);
    }

    fn tick(&mut self, node: u64) {
        self.now += Duration::from_millis(50);
        self.step(node, Input::Timer(TICK));
    }

    fn propose(&mut self, node: u64, what: &str) {
        let now = self.now;
        let at = self.nodes.get_mut(&node).unwrap();
        let running = at.running.as_mut().unwrap();
        let body = Body::Frames(Bytes::from(what.to_owned()));
        let placed = running.engine.propose(now, body, &mut running.out);
        running.engine.settle(now, &mut running.out);
        if placed.is_err() {
            self.say(format!("n{node} does not place {what}"));
        }
        self.drain(node);
    }

    fn wish(&mut self, node: u64, admin: Admin) {
        self.asked += 1;
        let ticket = self.asked;
        self.step(node, Input::Admin { ticket, admin });
    }

    fn read(&mut self, node: u64) {
        self.asked += 1;
        self.step(node, Input::Read(ReadId(self.asked)));
    }

    fn checkpoint(&mut self, node: u64) {
        let at = self.nodes.get_mut(&node).unwrap();
        let (index, mark) = at.running.as_ref().unwrap().applied.clone();
        let state = [0; 32];
        at.checkpoint = Some(Checkpointed { index, mark: mark.clone(), state });
        self.step(node, Input::Checkpointed { index, mark, state, trim_below: index + 1 });
    }

    /// What a node put out: told, written down, and sent as far as it may be.
    fn drain(&mut self, node: u64) {
        let at = self.nodes.get_mut(&node).unwrap();
        let Some(running) = &mut at.running else { return };
        let out = &mut running.out;
        let mut told = Vec::new();
        for write in out.writes.drain(..) {
            told.push(format!("n{node} writes {}", tell_record(&write.record)));
            at.writes.push_back(write);
        }
        running.sends.append(&mut out.sends);
        running.deliveries.extend(out.deliveries.drain(..));
        for (_, answer) in out.reads.drain(..) {
            told.push(match answer {
                ReadAnswer::At(index) => format!("n{node} may be read at {index}"),
                _ => format!("n{node} may be read later"),
            });
        }
        for placed in out.released.drain(..) {
            told.push(format!("n{node} releases {}", placed.index));
        }
        for (_, answer) in out.admin.drain(..) {
            told.push(match answer {
                Ok(()) => format!("n{node} has done it"),
                Err(error) => format!("n{node} answers: {error}"),
            });
        }
        for (to, index, head) in out.snapshots.drain(..) {
            told.push(format!("n{node} -> {to} snapshot at {index}"));
            let checkpoint = at.checkpoint.clone().unwrap();
            assert_eq!(checkpoint.index, index);
            self.snapshots.push_back((node, to.number(), checkpoint, head));
        }
        if let Some(fault) = out.fault.take() {
            told.push(format!("n{node} stops: {fault}"));
            self.stopped = true;
        }
        let fetches = std::mem::take(&mut out.fetches);
        out.timers.clear();
        out.members.clear();
        told.into_iter().for_each(|words| self.say(words));
        for (ticket, range, _) in fetches {
            let log = &self.nodes[&node].log;
            let entries = log.entries.iter().filter(|entry| range.contains(&entry.index));
            let entries = entries.map(|entry| (entry.clone(), Bytes::new())).collect();
            self.step(node, Input::Fetched { ticket, entries });
        }
        self.release(node);
    }

    /// Sends and deliveries whose write is durable.
    fn release(&mut self, node: u64) {
        let at = self.nodes.get_mut(&node).unwrap();
        let Some(running) = &mut at.running else { return };
        let durable = running.durable;
        let ready: Vec<_> = running.sends.extract_if(.., |send| send.after <= durable).collect();
        let mut applied = Vec::new();
        while let Some(next) = running.deliveries.pop_front_if(|next| next.after <= durable) {
            applied.push(next.what);
        }
        for Outgoing { to, message, .. } in ready {
            for to in to {
                let (to, words) = (to.number(), tell_message(&message));
                words.into_iter().for_each(|words| self.say(format!("n{node} -> n{to} {words}")));
                self.wires.push_back((node, to, message.clone()));
            }
        }
        for what in applied {
            let at = self.nodes.get_mut(&node).unwrap();
            let running = at.running.as_mut().unwrap();
            let index = match what {
                Deliver::Batch { entry, mark, .. } => {
                    running.applied = (entry.index, mark);
                    self.say(format!("n{node} delivers {}", tell_entry(&entry)));
                    entry.index
                }
                Deliver::Install { index, mark } => {
                    running.applied = (index, mark);
                    at.checkpoint = at.staged.remove(&index);
                    self.say(format!("n{node} installs the snapshot at {index}"));
                    index
                }
            };
            self.step(node, Input::Applied { index, state: [0; 32] });
        }
    }

    fn durable(&mut self, node: u64) {
        let at = self.nodes.get_mut(&node).unwrap();
        let Some(running) = &mut at.running else { return };
        let Some(last) = at.writes.back().map(|write| write.seq) else { return };
        running.durable = last;
        at.writes.drain(..).for_each(|write| fold(&mut at.log, write.record));
        self.step(node, Input::Durable(last));
    }

    /// Carries the first message that is wanted; `false` if there is none.
    fn carry(&mut self, wanted: impl Fn(u64, u64) -> bool) -> bool {
        let place = self.wires.iter().position(|(from, to, _)| wanted(*from, *to));
        let Some((from, to, message)) = place.and_then(|place| self.wires.remove(place)) else {
            return false;
        };
        let there = self.nodes.get(&to).is_some_and(|node| node.running.is_some());
        if there && !self.cuts.contains(&(from, to)) {
            self.step(to, Input::Message { from: NodeId::new(from), message });
        }
        true
    }

    fn stream(&mut self) -> bool {
        let Some((from, to, checkpoint, head)) = self.snapshots.pop_front() else { return false };
        let there = self.nodes.get(&to).is_some_and(|node| node.running.is_some());
        let arrived = there && !self.cuts.contains(&(from, to));
        if arrived {
            let Checkpointed { index, mark, state } = checkpoint.clone();
            self.nodes.get_mut(&to).unwrap().staged.insert(index, checkpoint);
            let from = NodeId::new(from);
            self.step(to, Input::SnapshotStaged { from, index, mark, state, head });
        }
        self.step(from, Input::SnapshotSent { to: NodeId::new(to), arrived });
        true
    }

    /// Lets disks and links work until nothing is left to be done. No time passes.
    fn stabilize(&mut self) {
        loop {
            let nodes: Vec<u64> = self.nodes.keys().copied().collect();
            let busy = nodes.iter().any(|node| !self.nodes[node].writes.is_empty());
            nodes.into_iter().for_each(|node| self.durable(node));
            if !self.carry(|_, _| true) && !self.stream() && !busy {
                return;
            }
        }
    }

    fn tell_status(&mut self, node: u64) {
        let Some(running) = &self.nodes[&node].running else {
            return self.say(format!("n{node} is down"));
        };
        let status = running.engine.status();
        let leader =
            status.proposer.map_or_else(|| "nobody".to_owned(), |leader| leader.to_string());
        let mut words = format!(
            "n{node} {:?} term={} leader={leader} decided={} applied={} members={:?}",
            status.role, status.term, status.decided, running.applied.0, status.members
        );
        if !status.learners.is_empty() {
            words += &format!(" learners={:?}", status.learners);
        }
        for peer in status.peers.iter().filter(|peer| peer.matched.is_some()) {
            words += &format!("\n  {} matched={}", peer.node, peer.matched.unwrap());
            if !peer.note.is_empty() {
                words += &format!(" {}", peer.note);
            }
        }
        if let Some(reason) = status.reason {
            words += &format!("\n  {reason}");
        }
        self.say(words);
    }

    fn tell_log(&mut self, node: u64) {
        let log = &self.nodes[&node].log;
        let entries: Vec<_> = log.entries.iter().map(tell_entry).collect();
        self.say(format!("n{node} holds {}", entries.join(", ")));
    }
}

fn fold(log: &mut Recovered, record: Record) {
    match record {
        Record::Put(entry) => {
            log.entries.retain(|known| known.index != entry.index);
            log.entries.push(entry);
        }
        Record::Cut { from } => log.entries.retain(|entry| entry.index < from),
        Record::State(state) => log.state = Some(state),
        Record::Reset { index, mark } => {
            log.entries.clear();
            (log.first, log.reset) = (index + 1, Some((index, mark)));
        }
        Record::Trim { below } => {
            log.first = log.first.max(below);
            log.entries.retain(|entry| entry.index >= below);
        }
        Record::Decide { .. } | Record::Note { .. } => unreachable!("Raft writes none"),
    }
}

fn term_of(entry: &Entry) -> u64 {
    let (term, _) = entry.tag.0.split_first_chunk().unwrap();
    u64::from_be_bytes(*term)
}

fn tell_entry(entry: &Entry) -> String {
    let body = match &entry.body {
        Body::Empty => "empty".to_owned(),
        Body::Frames(frames) => String::from_utf8_lossy(frames).into_owned(),
        Body::Members(change) => crate::core::tell_change(change),
    };
    format!("{}/{} {body}", term_of(entry), entry.index)
}

fn tell_record(record: &Record) -> String {
    match record {
        Record::Put(entry) => format!("put {}", tell_entry(entry)),
        Record::Cut { from } => format!("cut from {from}"),
        Record::State(state) => {
            let state = crate::stored::Stored::decode(state).unwrap();
            format!("state term={} vote={} decided={}", state.term, state.vote, state.commit)
        }
        Record::Reset { index, .. } => format!("reset after {index}"),
        Record::Trim { below } => format!("trim below {below}"),
        Record::Decide { .. } | Record::Note { .. } => unreachable!("Raft writes none"),
    }
}

fn tell_message(message: &Message) -> Vec<String> {
    match Head::read(&message.head).unwrap() {
        Head::Hello(hello) => {
            let asks = if hello.asks { ", and who are you?" } else { "" };
            let you = match hello.you {
                You::Removed(at) => format!(", and you were removed at {at}"),
                _ => String::new(),
            };
            vec![format!("hello{you}{asks}")]
        }
        Head::Sleep(_, term, last) => vec![format!("sleep term={term} last={last}")],
        Head::Snapshot(..) => unreachable!("it goes with a stream"),
        Head::Raft(envelope, count, mut reader) => {
            let mut bodies = message.bodies.iter().cloned();
            let mut read = |reader: &mut Reader<'_>| {
                read_message(reader, &mut bodies, envelope.from_raft, envelope.to_raft).unwrap()
            };
            (0..count).map(|_| tell(&read(&mut reader))).collect()
        }
    }
}
