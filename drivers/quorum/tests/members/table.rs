//! Engines around a table: nothing is lost and no disk is slow, so that a test says what happens, and when.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate_certificate::{
    Audit, Audited, Decided, FaultModel, Genesis, Header, Motion, Scheme, SigningKey, Validator,
};
use quorate_driver_quorum::simulation::{Ballot, Heard, hear};
use quorate_driver_quorum::{QuorumConfig, QuorumDriver, Setup};
use quorate_engine::engine::{
    Admin, Checkpointed, Deliver, Delivery, Demand, Engine, EngineDriver, EngineStatus, Input,
    Inspector, Message, Now, Opening, Output, TimerId, Verdict,
};
use quorate_replicator::{AdminError, GroupId, LogTime, Member, MemberChange, NodeId};
use quorate_storage::{Body, Entry, Index, Record, Recovered, Tag};

type Answer = Result<(), AdminError>;

/// One node, over all its lives.
pub(crate) struct Seat {
    id: NodeId,
    engine: Option<Box<dyn Engine>>,
    out: Output,
    log: Recovered,
    timers: BTreeMap<TimerId, Now>,
    deliveries: VecDeque<Delivery>,
    applied: Index,
    state: [u8; 32],
    /// How often its batches were delivered here.
    delivered: BTreeMap<Bytes, usize>,
    answers: BTreeMap<u64, Answer>,
    /// Whom its host is told to reach.
    pub(crate) members: Vec<Member>,
    /// How far its host's estimate of log time is ahead of the table's clock.
    pub(crate) ahead: Duration,
    /// What its host was asked about.
    judged: BTreeSet<Tag>,
    /// Where it begins again, and what is applied now.
    checkpoint: Option<Checkpointed>,
    mark: Bytes,
}

/// All of them.
pub(crate) struct Table {
    driver: QuorumDriver,
    pub(crate) genesis: Genesis,
    now: Now,
    pub(crate) seats: Vec<Seat>,
    messages: VecDeque<(usize, NodeId, Message)>,
    /// All votes that were sent.
    pub(crate) votes: Vec<Ballot>,
    offered: Vec<Bytes>,
    /// Who proposes what nobody offered.
    lie: Option<(usize, Bytes)>,
    tickets: u64,
    /// How many messages may still be heard; all, if nothing is said.
    pub(crate) patience: Option<usize>,
    /// Whether every host refuses what it is asked about for the first time.
    pub(crate) hesitates: bool,
}

/// By how much a batch may be ahead of the estimate of who judges it.
const DRIFT: Duration = Duration::from_millis(500);

pub(crate) fn key(scheme: Scheme, number: u8) -> Arc<SigningKey> {
    let secret = if scheme == Scheme::Hybrid { 64 } else { 32 };
    let code = match scheme {
        Scheme::Ed25519 => 1,
        Scheme::MlDsa65 => 2,
        Scheme::Hybrid => 3,
    };
    Arc::new(SigningKey::from_bytes(&[vec![code], vec![number; secret]].concat()).unwrap())
}

/// The key that a node gets when it gets another one.
pub(crate) fn next_key(scheme: Scheme, node: u64) -> Arc<SigningKey> {
    key(scheme, node as u8 + 100)
}

impl Table {
    /// Four validators, and a fifth node that knows them; all have another key of `next` at hand.
    pub(crate) fn new(next: Scheme) -> Self {
        Self::with(next, |genesis| genesis)
    }

    /// The same, with another genesis than usual.
    pub(crate) fn with(next: Scheme, change: impl Fn(Genesis) -> Genesis) -> Self {
        let old = |node: u64| key(Scheme::Ed25519, node as u8);
        let validator = |node: u64| Validator { node, power: 1, key: old(node).public().clone() };
        let (model, scheme) = (FaultModel::Byzantine, Scheme::Ed25519);
        let validators = (1..=4).map(validator).collect();
        let genesis = change(Genesis::new([7; 16], model, scheme, 500, validators).unwrap());
        let setup = |node: u64| {
            let mut setup = Setup::new(genesis.clone(), old(node));
            setup.next_key = Some(next_key(next, node));
            (NodeId::new(node), setup)
        };
        let seat = |node: u64| Seat {
            id: NodeId::new(node),
            engine: None,
            out: Output::default(),
            log: Recovered { first: 1, ..Recovered::default() },
            timers: BTreeMap::new(),
            deliveries: VecDeque::new(),
            applied: 0,
            state: [0; 32],
            delivered: BTreeMap::new(),
            answers: BTreeMap::new(),
            members: Vec::new(),
            ahead: Duration::ZERO,
            judged: BTreeSet::new(),
            checkpoint: None,
            mark: Bytes::new(),
        };
        let mut table = Self {
            driver: QuorumDriver::with_setups((1..=5).map(setup)),
            genesis: genesis.clone(),
            now: Duration::from_secs(1),
            seats: (1..=5).map(seat).collect(),
            messages: VecDeque::new(),
            votes: Vec::new(),
            offered: Vec::new(),
            lie: None,
            tickets: 0,
            patience: None,
            hesitates: false,
        };
        (1..=5).for_each(|node| table.start(node));
        table
    }

    pub(crate) const fn now(&self) -> Now {
        self.now
    }

    fn place_of(node: u64) -> usize {
        node as usize - 1
    }

    pub(crate) fn start(&mut self, node: u64) {
        let at = Self::place_of(node);
        let seat = &mut self.seats[at];
        let mut out = Output::default();
        let opening = Opening {
            group: GroupId::new(0),
            node: seat.id,
            members: (1..=4).map(NodeId::new).collect(),
            incarnation: [node as u8; 16],
            seed: node,
            checkpoint: seat.checkpoint.clone(),
            log: seat.log.clone(),
        };
        let begins = seat.checkpoint.as_ref().map_or((0, [0; 32]), |it| (it.index, it.state));
        let opened = self.driver.open(&QuorumConfig::default(), opening, &mut out);
        seat.engine = Some(opened.unwrap());
        (seat.out, seat.applied, seat.state) = (out, begins.0, begins.1);
        if begins.0 == 0 {
            seat.delivered.clear();
        }
        self.turn(at);
    }

    pub(crate) fn stop(&mut self, node: u64) {
        let seat = &mut self.seats[Self::place_of(node)];
        (seat.engine, seat.out) = (None, Output::default());
        seat.timers.clear();
        seat.deliveries.clear();
    }

    /// A node stores a checkpoint of all that it has applied, and its power fails before the last decision is in its log.
    pub(crate) fn checkpoint_without_decision(&mut self, node: u64) {
        self.stop(node);
        let seat = &mut self.seats[Self::place_of(node)];
        let (index, mark, state) = (seat.applied, seat.mark.clone(), seat.state);
        seat.checkpoint = Some(Checkpointed { index, mark, state });
        let lost = seat.log.decided.pop().expect("something is decided");
        assert_eq!(lost.0, index);
        // What is in a checkpoint is not given back.
        seat.log.notes.retain(|(at, _)| *at > index);
        self.start(node);
    }

    /// All nodes begin anew, and what was on its way is lost.
    pub(crate) fn lose_power(&mut self) {
        self.messages.clear();
        (1..=5).for_each(|node| self.stop(node));
        (1..=5).for_each(|node| self.start(node));
    }

    /// A batch that all nodes try to have decided.
    pub(crate) fn offer(&mut self) {
        self.offer_batch(Bytes::from(format!("batch {}", self.offered.len())));
    }

    pub(crate) fn offer_batch(&mut self, batch: Bytes) {
        self.offered.push(batch);
        (0..self.seats.len()).for_each(|at| {
            self.step(at, Input::Waiting);
            self.turn(at);
        });
    }

    /// Who is to propose, as a node knows it, proposes this from now on and nothing else.
    pub(crate) fn lie(&mut self, batch: Bytes) {
        let liar = self.status(1).proposer.expect("somebody is to propose");
        self.lie = Some((Self::place_of(liar.number()), batch));
    }

    /// At how many nodes a batch was delivered.
    pub(crate) fn delivered(&self, batch: &Bytes) -> usize {
        self.seats.iter().filter(|seat| seat.delivered.contains_key(batch)).count()
    }

    /// What a node's callers and peers are asked about frames before it proposes them.
    pub(crate) fn inspector(&self, node: u64) -> Arc<dyn Inspector> {
        let engine = self.seats[Self::place_of(node)].engine.as_ref().expect("it runs");
        engine.inspector().expect("signatures are looked at")
    }

    /// A node says something to these, whatever it is.
    pub(crate) fn say(&mut self, from: u64, to: &[u64], message: &Message) {
        for to in to {
            self.messages.push_back((Self::place_of(*to), NodeId::new(from), message.clone()));
        }
    }

    /// The state that a node has stored beside its log.
    pub(crate) fn state(&self, node: u64) -> Option<Bytes> {
        self.seats[Self::place_of(node)].log.state.clone()
    }

    /// The operator of a node approves a motion; what comes of it is told under the ticket.
    pub(crate) fn approve(&mut self, node: u64, motion: &Motion) -> u64 {
        self.tickets += 1;
        let ticket = self.tickets;
        let change = MemberChange::Approve { change: motion.encode(), new: Vec::new() };
        let at = Self::place_of(node);
        self.step(at, Input::Admin { ticket, admin: Admin::Change(change) });
        self.turn(at);
        ticket
    }

    pub(crate) fn answer(&self, node: u64, ticket: u64) -> Option<&Answer> {
        self.seats[Self::place_of(node)].answers.get(&ticket)
    }

    pub(crate) fn status(&self, node: u64) -> EngineStatus {
        self.seats[Self::place_of(node)].engine.as_ref().expect("it runs").status()
    }

    fn step(&mut self, at: usize, input: Input) {
        let seat = &mut self.seats[at];
        if let Some(engine) = &mut seat.engine {
            engine.step(self.now, input, &mut seat.out);
        }
    }

    fn turn(&mut self, at: usize) {
        loop {
            let now = self.now;
            let seat = &mut self.seats[at];
            let Some(engine) = &mut seat.engine else { return };
            engine.settle(now, &mut seat.out);
            assert_eq!(seat.out.fault, None, "{}", seat.id);
            let out = &mut seat.out;
            let writes = std::mem::take(&mut out.writes);
            let durable = writes.last().map(|write| write.seq);
            writes.into_iter().for_each(|write| fold(&mut seat.log, write.record));
            seat.deliveries.extend(out.deliveries.drain(..));
            for (timer, after) in out.timers.drain(..) {
                match after {
                    Some(after) => seat.timers.insert(timer, now + after),
                    None => seat.timers.remove(&timer),
                };
            }
            if let Some((_, members)) = out.members.pop() {
                seat.members = members;
            }
            out.members.clear();
            seat.answers.extend(out.admin.drain(..));
            let (from, sends) = (seat.id, std::mem::take(&mut out.sends));
            let checks = std::mem::take(&mut out.checks);
            if let Some(known) = out.log_time.take() {
                let known = Duration::from_millis(known.as_ms());
                seat.ahead = seat.ahead.max(known.saturating_sub(now));
            }
            let fetches = std::mem::take(&mut out.fetches);
            for send in sends {
                if let Some(Heard::Vote(vote)) = hear(&self.genesis.chain(0), &send.message) {
                    self.votes.push(vote);
                }
                for to in send.to {
                    let to = Self::place_of(to.number());
                    self.messages.push_back((to, from, send.message.clone()));
                }
            }
            let mut inputs: Vec<_> = durable.map(Input::Durable).into_iter().collect();
            for (ticket, entry) in checks {
                inputs.push(Input::Checked { ticket, verdict: self.judge(at, &entry) });
            }
            let log = &self.seats[at].log;
            inputs.extend(fetches.into_iter().map(|(ticket, range, _)| {
                let found = decided(log).filter(|(entry, _)| range.contains(&entry.index));
                Input::Fetched { ticket, entries: found.collect() }
            }));
            inputs.extend(self.apply(at));
            let mut idle = inputs.is_empty();
            inputs.into_iter().for_each(|input| self.step(at, input));
            idle &= !self.place(at);
            if idle {
                return;
            }
        }
    }

    /// What a host says of a candidate, which has the time that its proposer's host estimates.
    fn judge(&mut self, at: usize, entry: &Entry) -> Verdict {
        let proposer = Header::decode(&entry.head).unwrap().proposer;
        let stamped = self.seats[Self::place_of(proposer)].ahead;
        let seat = &mut self.seats[at];
        if seat.judged.insert(entry.tag) && self.hesitates {
            return Verdict::Invalid;
        }
        match stamped > seat.ahead + DRIFT {
            true => Verdict::Ahead(LogTime::from_ms(
                (self.now + stamped).as_millis().try_into().unwrap(),
            )),
            false => Verdict::Valid,
        }
    }

    fn apply(&mut self, at: usize) -> Vec<Input> {
        let seat = &mut self.seats[at];
        let mut applied = Vec::new();
        for Delivery { what, .. } in seat.deliveries.drain(..) {
            let Deliver::Batch { entry, mark, .. } = what else {
                panic!("nobody sends snapshots here")
            };
            seat.mark = mark;
            assert_eq!(entry.index, seat.applied + 1);
            seat.applied = entry.index;
            seat.state = *blake3::hash(&[&seat.state[..], &entry.tag.0].concat()).as_bytes();
            if let Body::Frames(batch) = &entry.body {
                *seat.delivered.entry(batch.clone()).or_default() += 1;
            }
            applied.push(Input::Applied { index: entry.index, state: seat.state });
        }
        applied
    }

    fn place(&mut self, at: usize) -> bool {
        let now = self.now;
        let seat = &mut self.seats[at];
        let Some(engine) = &mut seat.engine else { return false };
        let lie = self.lie.iter().filter(|(liar, _)| *liar == at).map(|(_, lie)| lie);
        let mut all = lie.chain(&self.offered);
        let open = all.find(|batch| !seat.delivered.contains_key(*batch));
        let Some(batch) = open else { return false };
        matches!(engine.demand(), Demand::Here { .. })
            && engine.propose(now, Body::Frames(batch.clone()), &mut seat.out).is_ok()
    }

    /// Lets things happen until `over`, for no longer than this.
    pub(crate) fn run(&mut self, time: Duration, over: impl Fn(&Self) -> bool) -> bool {
        let until = self.now + time;
        while !over(self) {
            if self.patience == Some(0) {
                return false;
            }
            if let Some((at, from, message)) = self.messages.pop_front() {
                self.patience = self.patience.map(|left| left - 1);
                self.step(at, Input::Message { from, message });
                self.turn(at);
                continue;
            }
            let timers = self.seats.iter().enumerate().flat_map(|(at, seat)| {
                seat.timers.iter().map(move |(timer, due)| (*due, at, *timer))
            });
            let Some((due, at, timer)) = timers.min().filter(|(due, ..)| *due <= until) else {
                return false;
            };
            self.now = self.now.max(due);
            self.seats[at].timers.remove(&timer);
            self.step(at, Input::Timer(timer));
            self.turn(at);
        }
        true
    }

    /// Runs until these nodes have delivered all that was offered.
    pub(crate) fn settle(&mut self, nodes: &[u64]) {
        self.patience = None;
        let all = |table: &Self| {
            nodes.iter().all(|node| {
                let seat = &table.seats[Self::place_of(*node)];
                table.offered.iter().all(|batch| seat.delivered.contains_key(batch))
            })
        };
        let done = self.run(Duration::from_secs(60), all);
        let states: Vec<_> = nodes.iter().map(|node| self.status(*node)).collect();
        assert!(done, "not all is delivered: {states:#?}");
    }

    /// Has a motion decided by these operators, with batches before and after it, and waits until it is in force at all of these nodes.
    pub(crate) fn change(&mut self, motion: &Motion, nodes: &[u64]) {
        self.offer();
        let asked: Vec<_> = nodes.iter().map(|node| (*node, self.approve(*node, motion))).collect();
        self.offer();
        let answered = |table: &Self| {
            asked.iter().all(|(node, ticket)| table.answer(*node, *ticket).is_some())
        };
        let done = self.run(Duration::from_secs(60), answered);
        for (node, ticket) in asked {
            assert_eq!(self.answer(node, ticket), Some(&Ok(())), "n{node}: {done}");
        }
        self.offer();
        self.settle(nodes);
    }

    /// Verifies all that a node has decided, each of it once.
    pub(crate) fn audit(&self, node: u64) -> Audited {
        let seat = &self.seats[Self::place_of(node)];
        let mut audit = Audit::new(&self.genesis, 0);
        for (entry, certificate) in decided(&seat.log) {
            let body = match &entry.body {
                Body::Empty => Bytes::new(),
                Body::Frames(bytes) | Body::Members(bytes) => bytes.clone(),
            };
            let header = &entry.head;
            audit.add(Decided { header, body: &body, certificate: &certificate }).unwrap();
        }
        for (batch, times) in &seat.delivered {
            assert_eq!(*times, 1, "{batch:?}");
        }
        audit.finish().unwrap()
    }
}

fn decided(log: &Recovered) -> impl Iterator<Item = (Entry, Bytes)> {
    log.decided.iter().map(|(index, tag, proof)| {
        let is_it = |entry: &&Entry| (entry.index, entry.tag) == (*index, *tag);
        (log.entries.iter().find(is_it).expect("it was put").clone(), proof.clone())
    })
}

fn fold(log: &mut Recovered, record: Record) {
    let is_known = |log: &Recovered, index: Index, tag: Tag| {
        log.entries.iter().any(|entry| (entry.index, entry.tag) == (index, tag))
    };
    match record {
        Record::Put(entry) if !is_known(log, entry.index, entry.tag) => log.entries.push(entry),
        Record::Decide { index, tag, proof } => log.decided.push((index, tag, proof)),
        Record::State(state) => log.state = Some(state),
        Record::Note { index, note } => log.notes.push((index, note)),
        Record::Put(_) | Record::Cut { .. } | Record::Reset { .. } | Record::Trim { .. } => {}
    }
}
