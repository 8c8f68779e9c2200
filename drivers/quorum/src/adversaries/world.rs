//! A group in virtual time, in which some validators do what they like, and a judge of those who do not.
//!
//! Judged at every step: one value at each height (I1), deliveries in order without gaps (I2), no two different votes of an honest
//! node for one type, height and round, over all its lives (I3), nothing said that is not durable (I4), a certificate that the
//! offline verifier accepts beside everything that is delivered (I5), nothing delivered that is invalid or was never offered (I6),
//! no fault of an honest node, evidence of liars alone (I10). At the end: all that honest nodes offered is delivered at all of them
//! (I7, I8).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate_certificate::{
    Certificate, ChainId, FaultModel, Genesis, Scheme, SigningKey, Validator, verify_certificate,
};
use quorate_engine::engine::{
    Checkpointed, Deliver, Delivery, Demand, Engine, EngineDriver, Input, LogWrite, Message, Now,
    Opening, Outgoing, Output, ReadAnswer, ReadId, TimerId,
};
use quorate_replicator::{GroupId, NodeId};
use quorate_storage::{Body, Entry, Index, Record, Recovered, Tag};

use super::Adversary;
use crate::message::{self, Said, body_parts};
use crate::{QuorumConfig, QuorumDriver, Setup};

/// What a violation is called, with what there is to say.
pub(super) type Violation = String;

/// What a deliberately broken shell does, which the judge must notice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Broken {
    #[default]
    No,
    /// Journals are lost when a node crashes.
    NoJournal,
    /// Nothing waits until it is durable.
    NoFlush,
    /// Candidates are lost when a node crashes.
    NoBodies,
}

#[derive(Debug)]
enum Event {
    Message(usize, NodeId, Message),
    Durable(usize, u32),
    Timer(usize, u32, TimerId),
    Tick,
}

struct Node {
    id: NodeId,
    /// Which of the processes that use this id: liars may have two.
    twin: usize,
    engine: Option<Box<dyn Engine>>,
    out: Output,
    life: u32,
    incarnation: [u8; 16],
    durable: Recovered,
    pending: VecDeque<LogWrite>,
    last_durable: u64,
    syncing: bool,
    held: Vec<Outgoing>,
    deliveries: VecDeque<Delivery>,
    timers: BTreeMap<TimerId, Now>,
    checks: Vec<(u64, Entry)>,
    applied: Index,
    state: [u8; 32],
    /// Delivered heights of this life, in order.
    delivered: BTreeSet<usize>,
    reads: BTreeMap<u64, Index>,
}

pub(super) struct World {
    pub(super) seed: u64,
    pub(super) random: fastrand::Rng,
    pub(super) now: Now,
    nodes: Vec<Node>,
    liars: BTreeSet<NodeId>,
    adversary: Adversary,
    broken: Broken,
    driver: QuorumDriver,
    genesis: Genesis,
    chain: ChainId,
    events: BTreeMap<(Now, u64), Event>,
    scheduled: u64,
    cut: BTreeSet<usize>,
    healed: bool,
    decided: BTreeMap<Index, (Tag, Body)>,
    /// What honest nodes said: type, height and round, by node.
    said: BTreeMap<(NodeId, bool, u64, u32), Option<[u8; 32]>>,
    offered: Vec<Bytes>,
    recorded: Vec<(usize, NodeId, Message)>,
    reads: u64,
    violation: Option<Violation>,
    /// How many pieces of evidence honest nodes have found.
    pub(super) evidence: u64,
}

pub(super) fn keys(count: u8) -> Vec<Arc<SigningKey>> {
    let key = |number| SigningKey::from_bytes(&[vec![1], vec![number; 32]].concat()).unwrap();
    (1..=count).map(|number| Arc::new(key(number))).collect()
}

pub(super) fn genesis(cluster: u8, model: FaultModel, keys: &[Arc<SigningKey>]) -> Genesis {
    let validator = |(node, key): (u64, &Arc<SigningKey>)| Validator {
        node,
        power: 1,
        key: key.public().clone(),
    };
    let validators = (1..).zip(keys).map(validator).collect();
    Genesis::new([cluster; 16], model, Scheme::Ed25519, 500, validators).unwrap()
}

impl World {
    pub(super) fn new(
        seed: u64,
        count: u8,
        model: FaultModel,
        liars: u8,
        adversary: Adversary,
        broken: Broken,
    ) -> Self {
        let keys = keys(count);
        let genesis = genesis(7, model, &keys);
        let chain = genesis.chain(0);
        let setups = (1..)
            .zip(&keys)
            .map(|(node, key)| (NodeId::new(node), Setup::new(genesis.clone(), Arc::clone(key))));
        let mut config_random = fastrand::Rng::with_seed(seed);
        // Any of them may be the liars, the first proposer too.
        let first = config_random.u8(..count);
        let liars: BTreeSet<_> =
            (0..liars).map(|at| NodeId::new(u64::from((first + at) % count) + 1)).collect();
        let mut world = Self {
            seed,
            random: config_random,
            now: Duration::from_secs(1),
            nodes: Vec::new(),
            adversary,
            broken,
            driver: QuorumDriver::with_setups(setups),
            genesis: genesis.clone(),
            chain,
            events: BTreeMap::new(),
            scheduled: 0,
            cut: BTreeSet::new(),
            healed: false,
            decided: BTreeMap::new(),
            said: BTreeMap::new(),
            offered: Vec::new(),
            recorded: Vec::new(),
            reads: 0,
            violation: None,
            evidence: 0,
            liars,
        };
        for id in (1..=u64::from(count)).map(NodeId::new) {
            let twins = world.liars.contains(&id) && adversary == Adversary::Twins;
            for twin in 0..=usize::from(twins) {
                world.nodes.push(Node {
                    id,
                    twin,
                    engine: None,
                    out: Output::default(),
                    life: 0,
                    incarnation: [u8::try_from(world.nodes.len()).unwrap_or(0); 16],
                    durable: Recovered { first: 1, ..Recovered::default() },
                    pending: VecDeque::new(),
                    last_durable: 0,
                    syncing: false,
                    held: Vec::new(),
                    deliveries: VecDeque::new(),
                    timers: BTreeMap::new(),
                    checks: Vec::new(),
                    applied: 0,
                    state: [0; 32],
                    delivered: BTreeSet::new(),
                    reads: BTreeMap::new(),
                });
            }
        }
        (0..world.nodes.len()).for_each(|at| world.start(at));
        world.schedule(Duration::from_millis(20), Event::Tick);
        world
    }

    fn is_honest(&self, at: usize) -> bool {
        !self.liars.contains(&self.nodes[at].id)
    }

    pub(super) fn honest(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|at| self.is_honest(*at)).collect()
    }

    pub(super) fn broken_by(&mut self, words: impl Into<String>) {
        let words = words.into();
        let (seed, now) = (self.seed, self.now);
        self.violation.get_or_insert_with(|| format!("{words} (seed {seed}, at {now:?})"));
    }

    fn schedule(&mut self, after: Duration, event: Event) {
        self.scheduled += 1;
        self.events.insert((self.now + after, self.scheduled), event);
    }

    fn draw(&mut self, most: u64) -> Duration {
        Duration::from_micros(50 + self.random.u64(..most))
    }

    pub(super) fn start(&mut self, at: usize) {
        if self.nodes[at].engine.is_some() {
            return;
        }
        let seed = self.random.u64(..);
        let node = &mut self.nodes[at];
        let opening = Opening {
            group: GroupId::new(0),
            node: node.id,
            members: Vec::new(),
            incarnation: node.incarnation,
            seed,
            checkpoint: None::<Checkpointed>,
            log: node.durable.clone(),
        };
        (node.out, node.applied, node.state) = (Output::default(), 0, [0; 32]);
        node.last_durable = 0;
        match self.driver.open(&QuorumConfig::default(), opening, &mut node.out) {
            Ok(engine) => node.engine = Some(engine),
            Err(words) if self.is_honest(at) => {
                return self.broken_by(format!("an honest node does not open: {words}"));
            }
            // It has journalled what its twin said, which is not what it said.
            Err(_) => return,
        }
        self.turn(at);
    }

    /// A node loses power: it keeps what is durable, and some of the rest.
    pub(super) fn crash(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        if node.engine.take().is_none() {
            return;
        }
        node.life += 1;
        let kept = self.random.usize(..=node.pending.len());
        for write in node.pending.drain(..).take(kept) {
            fold(&mut node.durable, write.record);
        }
        let decided: BTreeSet<_> = node.durable.decided.iter().map(|(at, ..)| *at).collect();
        match self.broken {
            Broken::NoJournal => node.durable.notes.clear(),
            Broken::NoBodies => node.durable.entries.retain(|it| decided.contains(&it.index)),
            Broken::No | Broken::NoFlush => {}
        }
        // A liar forgets what it has voted for.
        if self.adversary == Adversary::Amnesia && self.liars.contains(&node.id) {
            node.durable.notes.clear();
            node.durable.entries.retain(|it| decided.contains(&it.index));
        }
        node.syncing = false;
        node.held.clear();
        node.deliveries.clear();
        node.timers.clear();
        node.checks.clear();
        node.delivered.clear();
        node.reads.clear();
    }

    /// A node's disk is lost, and it begins with an empty one.
    pub(super) fn lose_disk(&mut self, at: usize) {
        self.crash(at);
        let node = &mut self.nodes[at];
        node.durable = Recovered { first: 1, ..Recovered::default() };
        node.incarnation[0] ^= 0x80;
        self.start(at);
    }

    pub(super) fn cut(&mut self, at: usize, cut: bool) {
        if cut {
            self.cut.insert(at)
        } else {
            self.cut.remove(&at)
        };
    }

    /// Honest clients offer a batch, at all honest nodes.
    pub(super) fn offer(&mut self) {
        let number = self.offered.len();
        self.offered.push(Bytes::from(format!("batch {number} of seed {}", self.seed)));
        self.honest().into_iter().for_each(|at| self.turn(at));
    }

    pub(super) fn read(&mut self, at: usize) {
        let floor = self.decided.last_key_value().map_or(0, |(index, _)| *index);
        self.reads += 1;
        let number = self.reads;
        self.step(at, Input::Read(ReadId(number)));
        self.nodes[at].reads.insert(number, floor);
        self.turn(at);
    }

    fn step(&mut self, at: usize, input: Input) {
        let node = &mut self.nodes[at];
        if let Some(engine) = &mut node.engine {
            engine.step(self.now, input, &mut node.out);
        }
    }

    fn turn(&mut self, at: usize) {
        for _ in 0..64 {
            let node = &mut self.nodes[at];
            let Some(engine) = &mut node.engine else { return };
            engine.settle(self.now, &mut node.out);
            self.drain(at);
            let again = self.apply(at) | self.place(at);
            if !again || self.violation.is_some() {
                return;
            }
        }
    }

    fn drain(&mut self, at: usize) {
        let out = &mut self.nodes[at].out;
        let writes = std::mem::take(&mut out.writes);
        let sends = std::mem::take(&mut out.sends);
        let deliveries = std::mem::take(&mut out.deliveries);
        let timers = std::mem::take(&mut out.timers);
        let checks = std::mem::take(&mut out.checks);
        let fetches = std::mem::take(&mut out.fetches);
        let reads = std::mem::take(&mut out.reads);
        let evidence = std::mem::take(&mut out.evidence);
        if let Some(fault) = out.fault.take() {
            if self.is_honest(at) {
                self.broken_by(format!("an honest node stops: {fault}"));
            }
            self.nodes[at].engine = None;
            return;
        }
        let node = &mut self.nodes[at];
        node.pending.extend(writes);
        node.held.extend(sends);
        node.deliveries.extend(deliveries);
        node.checks.extend(checks);
        let life = node.life;
        for (timer, after) in timers {
            match after {
                Some(after) => {
                    self.nodes[at].timers.insert(timer, self.now + after);
                    self.schedule(after, Event::Timer(at, life, timer));
                }
                None => drop(self.nodes[at].timers.remove(&timer)),
            }
        }
        for (ticket, range, _) in fetches {
            let log = &self.nodes[at].durable;
            let mut entries = Vec::new();
            for index in range {
                let Some((_, tag, proof)) = log.decided.iter().find(|known| known.0 == index)
                else {
                    break;
                };
                let is_it = |entry: &&Entry| (entry.index, entry.tag) == (index, *tag);
                let Some(entry) = log.entries.iter().find(is_it) else { break };
                entries.push((entry.clone(), proof.clone()));
            }
            self.step(at, Input::Fetched { ticket, entries });
        }
        for (id, answer) in reads {
            let floor = self.nodes[at].reads.remove(&id.0);
            if let (Some(floor), ReadAnswer::At(index)) = (floor, answer)
                && index < floor
                && self.is_honest(at)
            {
                self.broken_by(format!("a read is answered at {index}, and {floor} was decided"));
            }
        }
        for bytes in evidence {
            self.judge_evidence(at, &bytes);
        }
        if !self.nodes[at].syncing && !self.nodes[at].pending.is_empty() {
            self.nodes[at].syncing = true;
            // So that there is something to lose, where nobody waits for it.
            let slow = if self.broken == Broken::NoFlush { 50 } else { 1 };
            let after = self.draw(2000 * slow);
            self.schedule(after, Event::Durable(at, life));
        }
        self.send(at);
    }

    fn judge_evidence(&mut self, at: usize, bytes: &Bytes) {
        self.evidence += u64::from(self.is_honest(at));
        let found = quorate_certificate::Evidence::decode(bytes);
        match found {
            Ok(evidence) => {
                let liar = NodeId::new(evidence.validator());
                let holds = evidence.verify(&self.chain, self.genesis.validators()).is_ok();
                if self.is_honest(at) && (!holds || !self.liars.contains(&liar)) {
                    self.broken_by(format!("evidence names n{liar}, and does it hold: {holds}"));
                }
            }
            Err(error) => self.broken_by(format!("evidence: {error}")),
        }
    }

    fn send(&mut self, at: usize) {
        let (durable, unflushed) = (self.nodes[at].last_durable, self.broken == Broken::NoFlush);
        let ready = |send: &mut Outgoing| send.after <= durable || unflushed;
        let ready: Vec<_> = self.nodes[at].held.extract_if(.., ready).collect();
        let from = self.nodes[at].id;
        for Outgoing { to, message, .. } in ready {
            if self.is_honest(at) {
                self.judge_words(at, &message);
            }
            if self.recorded.len() < 512 {
                self.recorded.push((at, from, message.clone()));
            }
            for to in to {
                for there in 0..self.nodes.len() {
                    if self.nodes[there].id == to {
                        self.carry(at, there, message.clone());
                    }
                }
            }
        }
    }

    fn carry(&mut self, at: usize, there: usize, message: Message) {
        let from = self.nodes[at].id;
        let mut message = message;
        if !self.is_honest(at) && !self.healed_for(at) {
            match super::tamper(
                self.adversary,
                &mut self.random,
                self.nodes[at].twin,
                there,
                &self.chain,
                message,
            ) {
                Some(tampered) => message = tampered,
                None => return,
            }
        }
        let cut = self.cut.contains(&at) || self.cut.contains(&there);
        if cut || (!self.healed && self.random.u32(..100) < 5) {
            return;
        }
        let after = self.draw(5000);
        if !self.healed && self.random.u32(..100) < 3 {
            let later = after + self.draw(20_000);
            self.schedule(later, Event::Message(there, from, message.clone()));
        }
        self.schedule(after, Event::Message(there, from, message));
    }

    /// Liars go on to the end.
    const fn healed_for(&self, _at: usize) -> bool {
        false
    }

    fn judge_words(&mut self, at: usize, message: &Message) {
        let Ok(Said::Words(words, carried)) = Said::decode(&self.chain, message) else { return };
        let id = self.nodes[at].id;
        if words.voter() != Some(id.number()) {
            return;
        }
        let (is_precommit, height, round, value) = words.vote().expect("it is a vote");
        let known = self.said.entry((id, is_precommit, height, round)).or_insert(value);
        if *known != value {
            self.broken_by(format!("{id} votes twice at height {height}, round {round}"));
        }
        let durable = &self.nodes[at].durable;
        let is_noted = durable.notes.contains(&(height, words.note()))
            || durable.decided.iter().any(|(index, ..)| *index == height);
        let is_put = value.is_none_or(|value| {
            durable.entries.iter().any(|it| it.index == height && it.tag.0 == value)
        });
        if (!is_noted || (!is_put && !is_precommit)) && self.broken != Broken::NoFlush {
            self.broken_by(format!("{id} says what is not durable, at height {height}"));
        }
        drop(carried);
    }

    fn apply(&mut self, at: usize) -> bool {
        let mut any = false;
        let unflushed = self.broken == Broken::NoFlush;
        while let Some(next) = self.nodes[at].deliveries.front()
            && (next.after <= self.nodes[at].last_durable || unflushed)
        {
            let Some(Delivery { what: Deliver::Batch { entry, mark }, .. }) =
                self.nodes[at].deliveries.pop_front()
            else {
                self.broken_by("nobody sends snapshots here");
                return false;
            };
            any = true;
            self.judge_delivery(at, &entry, &mark);
            let node = &mut self.nodes[at];
            node.applied = entry.index;
            let mut hasher = blake3::Hasher::new();
            hasher.update(&node.state).update(&entry.tag.0);
            node.state = *hasher.finalize().as_bytes();
            if let Some(number) =
                self.offered.iter().position(|it| Body::Frames(it.clone()) == entry.body)
            {
                node.delivered.insert(number);
            }
            let (index, state) = (entry.index, node.state);
            self.step(at, Input::Applied { index, state });
        }
        let applied = self.nodes[at].applied;
        let ready = |check: &mut (u64, Entry)| check.1.index <= applied + 1;
        let checks: Vec<_> = self.nodes[at].checks.extract_if(.., ready).collect();
        for (ticket, entry) in checks {
            any = true;
            let valid = entry.index == applied + 1 && is_valid(&entry.body);
            self.step(at, Input::Checked { ticket, valid });
        }
        any
    }

    fn judge_delivery(&mut self, at: usize, entry: &Entry, mark: &Bytes) {
        if !self.is_honest(at) {
            return;
        }
        if entry.index != self.nodes[at].applied + 1 {
            self.broken_by(format!("height {} is delivered out of order", entry.index));
        }
        let agreed = self
            .decided
            .entry(entry.index)
            .or_insert_with(|| (entry.tag, entry.body.clone()))
            .clone();
        if agreed != (entry.tag, entry.body.clone()) {
            self.broken_by(format!("two values are decided at height {}", entry.index));
        }
        if !is_valid(&entry.body) {
            self.broken_by(format!("something invalid is decided at height {}", entry.index));
        }
        let proved = crate::mark::Mark::decode(&self.chain, mark).ok().and_then(|mark| mark.proved);
        let Some((head, proof)) = proved else {
            return self.broken_by("a delivery has no certificate");
        };
        let certificate = Certificate::decode(&proof).expect("it was read with the mark");
        let (model, validators) = (self.genesis.fault_model(), self.genesis.validators());
        let (_, body) = body_parts(&entry.body);
        let found = verify_certificate(&self.chain, model, validators, &certificate, &head, &body);
        if let Err(error) = found {
            self.broken_by(format!("a delivery has a certificate that does not hold: {error}"));
        }
    }

    /// Offers the oldest batch that is not delivered here, as a host does.
    fn place(&mut self, at: usize) -> bool {
        let honest = self.is_honest(at);
        let node = &self.nodes[at];
        let Some(engine) = &node.engine else { return false };
        if !matches!(engine.demand(), Demand::Here { .. }) {
            return false;
        }
        let next = (0..self.offered.len()).find(|number| !node.delivered.contains(number));
        let Some(number) = next else { return false };
        let body = match self.adversary {
            _ if honest => self.offered[number].clone(),
            Adversary::InvalidBatch => Bytes::from_static(b"bad"),
            // It serves its own alone.
            Adversary::Censor => Bytes::from(format!("own {}", self.random.u64(..))),
            // So that twins differ.
            Adversary::Twins => Bytes::from(format!("twin {} {}", node.twin, self.random.u64(..))),
            _ => self.offered[number].clone(),
        };
        let node = &mut self.nodes[at];
        let engine = node.engine.as_mut().expect("it was there");
        engine.propose(self.now, Body::Frames(body), &mut node.out).is_ok()
    }

    /// Lets time pass; false at the first violation.
    pub(super) fn pass(&mut self, time: Duration) -> bool {
        let until = self.now + time;
        self.run(until, |_| false)
    }

    fn run(&mut self, until: Now, over: impl Fn(&Self) -> bool) -> bool {
        while self.violation.is_none()
            && !over(self)
            && let Some(next) = self.events.first_entry()
            && next.key().0 <= until
        {
            let ((now, _), event) = next.remove_entry();
            self.now = now;
            self.happen(event);
        }
        self.now = self.now.max(until.min(self.now.max(until)));
        self.violation.is_none()
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Message(at, from, message) => {
                self.step(at, Input::Message { from, message });
                self.turn(at);
            }
            Event::Durable(at, life) if self.nodes[at].life == life => {
                let node = &mut self.nodes[at];
                node.syncing = false;
                let Some(last) = node.pending.back().map(|write| write.seq) else { return };
                for write in node.pending.drain(..) {
                    fold(&mut node.durable, write.record);
                }
                node.last_durable = last;
                self.step(at, Input::Durable(last));
                self.turn(at);
            }
            Event::Timer(at, life, timer) if self.nodes[at].life == life => {
                let node = &mut self.nodes[at];
                if node.timers.get(&timer).is_some_and(|due| *due <= self.now) {
                    node.timers.remove(&timer);
                    self.step(at, Input::Timer(timer));
                    self.turn(at);
                }
            }
            Event::Durable(..) | Event::Timer(..) => {}
            Event::Tick => self.tick(),
        }
    }

    fn tick(&mut self) {
        self.schedule(Duration::from_millis(100), Event::Tick);
        for at in 0..self.nodes.len() {
            if (0..self.offered.len()).any(|number| !self.nodes[at].delivered.contains(&number)) {
                self.step(at, Input::Waiting);
                self.turn(at);
            }
        }
        let liars: Vec<_> = (0..self.nodes.len()).filter(|at| !self.is_honest(*at)).collect();
        for at in liars {
            let from = self.nodes[at].id;
            let height = self.decided.len() as u64;
            let made_up = super::make_up(
                self.adversary,
                &mut self.random,
                &self.chain,
                from,
                height,
                &self.recorded,
            );
            for message in made_up {
                for there in self.honest() {
                    let after = self.draw(5000);
                    self.schedule(after, Event::Message(there, from, message.clone()));
                }
            }
        }
    }

    /// Ends all faults but those of liars: everything that was offered must be delivered everywhere.
    pub(super) fn finish(&mut self, patience: Duration) -> Result<Index, Violation> {
        self.healed = true;
        self.cut.clear();
        (0..self.nodes.len()).for_each(|at| self.start(at));
        self.offer();
        let all = self.offered.len();
        let honest = self.honest();
        let until = self.now + patience;
        let is_done = |world: &Self| {
            let top = world.decided.last_key_value().map_or(0, |(index, _)| *index);
            honest.iter().all(|at| {
                let node = &world.nodes[*at];
                node.delivered.len() == all && node.applied + 2 >= top
            })
        };
        self.run(until, is_done);
        if self.violation.is_none() && !is_done(self) {
            let how_far: Vec<_> = honest
                .iter()
                .map(|at| (self.nodes[*at].applied, self.nodes[*at].delivered.len()))
                .collect();
            self.broken_by(format!("not all that was offered ({all}) is delivered: {how_far:?}"));
        }
        match &self.violation {
            Some(violation) => Err(violation.clone()),
            None => Ok(self.decided.len() as Index),
        }
    }
}

fn is_valid(body: &Body) -> bool {
    !matches!(body, Body::Frames(bytes) if bytes.starts_with(b"bad"))
}

/// What the log makes of a record.
fn fold(log: &mut Recovered, record: Record) {
    match record {
        Record::Put(entry) => {
            let is_it = |other: &Entry| (other.index, other.tag) == (entry.index, entry.tag);
            if !log.entries.iter().any(is_it) {
                log.entries.push(entry);
            }
        }
        Record::Decide { index, tag, proof } => {
            log.entries.retain(|entry| entry.index != index || entry.tag == tag);
            if !log.decided.iter().any(|(at, ..)| *at == index) {
                log.decided.push((index, tag, proof));
            }
        }
        Record::State(state) => log.state = Some(state),
        Record::Note { index, note } => log.notes.push((index, note)),
        Record::Cut { .. } | Record::Reset { .. } | Record::Trim { .. } => {}
    }
}

/// A message of this world, for tampering.
pub(super) fn status(chain: &ChainId, height: u64) -> Message {
    message::status(chain, height, false)
}

/// A vote that was given in another cluster with the same keys, under the name of this one.
pub(super) fn foreign_words(random: &mut fastrand::Rng) -> Message {
    let keys = keys(4);
    let (here, there) = (
        genesis(7, FaultModel::Byzantine, &keys).chain(0),
        genesis(8, FaultModel::Byzantine, &keys).chain(0),
    );
    let number = random.u64(1..=4);
    let vote = (random.bool(), random.u64(1..12), 0, Some([random.u8(..); 32]));
    let key = &keys[number as usize - 1];
    let words = crate::tendermint::signed_vote_of((&there, 0), vote, number, key).unwrap();
    let mut to = crate::codec::Writer::default();
    words.encode(&mut to);
    message::words(&here, &to.finish(), None)
}
