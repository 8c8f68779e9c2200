//! A cluster on one thread: nodes with their disks and clocks, the network between them, clients and an operator.
//!
//! ```text
//!   clients, operator ---> Machine: Node, SimDisk, clock <--- Network: delay, loss, cuts ---> Machine ...
//!                             |          ^
//!                             v          | faults
//!                     Laws, Oracle     Queue of events, one at a time
//! ```
//!
//! First anything may fail; then everything is healed, or a majority for ever, and the cluster must converge within ten
//! election timeouts.

mod event;
mod faults;
mod healing;
mod laws;
mod machine;
mod network;
mod operator;
mod streams;
mod subject;
mod swarm;
mod watched;
mod workload;

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use quorate_engine::engine::{Admin, EngineDriver, Input};
use quorate_engine::{Packet, Sent};
use quorate_replicator::{NodeId, OpenError};
use quorate_storage::Keep;

use crate::client::Client;
use crate::node::{GROUP, Life, Node};
use crate::oracle::{Checked, Oracle, Violation, violation};

use event::{Event, Queue};
use laws::Laws;
use machine::Machine;
use network::Network;
use operator::Operator;
use streams::Streams;
pub use subject::{RaftSubject, Subject, Tuning};
use swarm::Swarm;
use watched::{Seen, WatchedDriver};
use workload::Waits;

const MS: Duration = Duration::from_millis(1);

/// After how many election timeouts a healed cluster must have converged.
const CONVERGES_WITHIN: u32 = 10;

/// What a run of a cluster saw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClusterReport {
    /// Accepted frames, each once.
    pub frames: u64,
    /// Answers that clients got.
    pub answers: u64,
    /// Reads that were answered.
    pub reads: u64,
    /// Faults of all kinds, lost messages not counted.
    pub faults: u64,
    /// Power cuts.
    pub power_cuts: u64,
    /// Starts of nodes.
    pub starts: u64,
    /// Messages that were sent.
    pub messages: u64,
    /// Messages that did not arrive.
    pub lost: u64,
    /// Terms that had a leader.
    pub terms: u64,
    /// Checkpoints stored.
    pub checkpoints: u64,
    /// Snapshots that were put in force.
    pub installs: u64,
    /// Changes of members that were done.
    pub changes: u64,
    /// Disks that were lost.
    pub wipes: u64,
    /// Subscribers that were cut off.
    pub cut_off: u64,
    /// Frames whose outcome stayed unknown because their session ended.
    pub orphans: u64,
    /// Virtual time, in milliseconds.
    pub virtual_ms: u64,
    /// Virtual time from healing to convergence, in thousandths of the election timeout.
    pub converged_permille: u64,
    /// Hash over everything that happened: the same for the same seed.
    pub events: u64,
}

impl ClusterReport {
    /// Adds what another run saw; of the time to convergence the longest counts.
    pub fn add(&mut self, other: &Self) {
        self.frames += other.frames;
        self.answers += other.answers;
        self.reads += other.reads;
        self.faults += other.faults;
        self.power_cuts += other.power_cuts;
        self.starts += other.starts;
        self.messages += other.messages;
        self.lost += other.lost;
        self.terms += other.terms;
        self.checkpoints += other.checkpoints;
        self.installs += other.installs;
        self.changes += other.changes;
        self.wipes += other.wipes;
        self.cut_off += other.cut_off;
        self.orphans += other.orphans;
        self.virtual_ms += other.virtual_ms;
        self.converged_permille = self.converged_permille.max(other.converged_permille);
        self.events ^= other.events;
    }
}

/// Lives through one seed with a cluster of nodes of this driver. `trace` is told what happens, in words.
///
/// # Errors
///
/// The first thing that must not be.
pub fn run_cluster<S: Subject>(
    subject: &S,
    seed: u64,
    trace: Option<&mut dyn FnMut(&str)>,
) -> Result<ClusterReport, Violation> {
    let mut cluster = Cluster::<S::Driver>::new(subject, seed, trace);
    cluster.begin()?;
    cluster.live()?;
    cluster.heal()?;
    cluster.account()?;
    Ok(cluster.report)
}

struct Cluster<'t, D: EngineDriver> {
    rng: fastrand::Rng,
    trace: Option<&'t mut dyn FnMut(&str)>,
    driver: Arc<D>,
    config: D::Config,
    swarm: Swarm,
    now: Duration,
    queue: Queue,
    machines: Vec<Machine>,
    network: Network,
    streams: Streams,
    operator: Operator,
    clients: Vec<Client>,
    /// Who waits for the answer to a proposal.
    calls: HashMap<u64, Waits>,
    reads: HashMap<u64, workload::Read>,
    questions: HashMap<u64, workload::Question>,
    /// Writes that show that a healed node can commit, and whether they have.
    probes: BTreeMap<usize, workload::Probe>,
    /// Who must converge, once everything is healed.
    healed: Vec<usize>,
    next_call: u64,
    oracle: Oracle,
    laws: Laws,
    report: ClusterReport,
    hasher: DefaultHasher,
    /// False once everything is healed.
    faults_on: bool,
}

impl<'t, D: EngineDriver> Cluster<'t, D> {
    fn new<S: Subject<Driver = D>>(
        subject: &S,
        seed: u64,
        trace: Option<&'t mut dyn FnMut(&str)>,
    ) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let swarm = Swarm::draw(&mut rng);
        let ids: Vec<_> = (1..).take(swarm.nodes).map(NodeId::new).collect();
        let founders = ids[..swarm.founders].to_vec();
        let machine = |id: &NodeId| Machine::new(*id, &mut rng, swarm.clock_ppm, &founders);
        let machines: Vec<_> = ids.iter().map(machine).collect();
        let network =
            Network::new(rng.u64(..), swarm.nodes, swarm.calm.clone(), swarm.storm.clone());
        let clients =
            (0..swarm.clients).map(|number| Client::new(number, swarm.list_max)).collect();
        Self {
            driver: Arc::new(subject.driver()),
            config: subject.config(&swarm.tuning),
            rng,
            trace,
            swarm,
            now: Duration::ZERO,
            queue: Queue::default(),
            machines,
            network,
            streams: Streams::default(),
            operator: Operator::default(),
            clients,
            calls: HashMap::new(),
            reads: HashMap::new(),
            questions: HashMap::new(),
            probes: BTreeMap::new(),
            healed: Vec::new(),
            next_call: 1,
            oracle: Oracle::new(),
            laws: Laws::default(),
            report: ClusterReport::default(),
            hasher: DefaultHasher::new(),
            faults_on: true,
        }
    }

    /// Starts the founders and everything that happens by itself.
    fn begin(&mut self) -> Checked {
        self.tell(|it| format!("{:?}", it.swarm));
        for place in 0..self.swarm.founders {
            self.start(place)?;
        }
        for client in 0..self.clients.len() {
            self.plan(self.swarm.think, Event::Client(client));
        }
        if !self.swarm.kinds.is_empty() {
            // A cluster that has never had a leader is of little interest.
            self.plan(self.swarm.tuning.election_timeout, Event::Fault);
        }
        if let Some(every) = self.swarm.operator_every {
            self.plan(every, Event::Operator);
        }
        Ok(())
    }

    /// Anything may happen.
    fn live(&mut self) -> Checked {
        while self.now < self.swarm.live {
            self.step()?;
        }
        Ok(())
    }

    /// The next event.
    fn step(&mut self) -> Checked {
        let (at, event) = self.queue.pop().expect("something always happens");
        self.now = self.now.max(at);
        if let Some(place) = event.place() {
            let until = self.machines[place].paused_until;
            if until > self.now {
                self.queue.push(until, event);
                return Ok(());
            }
        }
        (event.kind(), event.place(), at).hash(&mut self.hasher);
        match event {
            Event::Packet { to, from, bytes } => self.arrived(to, from, &bytes),
            Event::Wake { place, life } => {
                let due = self.machines[place].wake.is_some_and(|wake| wake <= self.now);
                if due && self.is_of(place, life) {
                    self.machines[place].wake = None;
                    return self.after(place);
                }
                Ok(())
            }
            Event::Alive { place, life } => self.say_alive(place, life),
            Event::Synced { place, life } => self.synced(place, life),
            Event::LogRetry { place, life } => {
                if self.is_of(place, life) {
                    self.machines[place].retrying = false;
                }
                self.with(place, life, |node, _| node.maintain())
            }
            Event::Stored { place, life } => {
                if self.is_of(place, life) {
                    self.machines[place].storing = false;
                    self.report.checkpoints += 1;
                }
                self.with(place, life, |node, now| {
                    node.step_checkpoint(now);
                })
            }
            Event::Fetched { place, life } => {
                if self.is_of(place, life) {
                    self.machines[place].fetching = false;
                }
                self.with(place, life, Node::step_fetch)
            }
            Event::Installed { place, life } => {
                if self.is_of(place, life) {
                    self.machines[place].installing = false;
                    self.report.installs += 1;
                }
                self.with(place, life, Node::step_install)
            }
            Event::Subscribe { place, life } => {
                let cursor = self.machines[place].cursor.clone();
                let subscribed = self.machines[place].subscription.is_some();
                self.with(place, life, |node, _| {
                    if !subscribed {
                        node.subscribe(&cursor);
                    }
                })
            }
            Event::Start { place, life } => {
                let machine = &self.machines[place];
                if machine.life == life && !machine.is_up() && !machine.gone {
                    return self.start(place);
                }
                Ok(())
            }
            Event::Stream(id) => self.stream(id),
            Event::StreamOver { place, life, to, arrived } => self.with(place, life, |node, _| {
                node.input(Input::SnapshotSent { to, arrived });
            }),
            Event::Client(client) => self.client_acts(client),
            Event::Fault => self.fault(),
            Event::Over(lasting) => {
                self.fault_over(lasting);
                Ok(())
            }
            Event::Roll(place) => self.roll(place),
            Event::Operator => self.operate(),
            Event::Campaign { place, life } => {
                let call = self.call();
                let within = self.swarm.tuning.election_timeout;
                self.with(place, life, |node, now| node.admin(Admin::Campaign, now + within, call))
            }
            Event::Blink { place, life } => {
                self.blink(place, life);
                Ok(())
            }
            Event::Look => Ok(()),
        }
    }

    // ----- what is planned

    fn plan(&mut self, after: Duration, event: Event) {
        self.queue.push(self.now + after, event);
    }

    fn is_of(&self, place: usize, life: u32) -> bool {
        self.machines[place].life == life && self.machines[place].is_up()
    }

    /// Does something with a node, if it is still in that life.
    fn with(&mut self, place: usize, life: u32, act: impl FnOnce(&mut Node, Duration)) -> Checked {
        if !self.is_of(place, life) {
            return Ok(());
        }
        let now = self.machines[place].local(self.now);
        act(self.machines[place].node.as_mut().expect("it is up"), now);
        self.after(place)
    }

    fn draw(&mut self, min: Duration, max: Duration) -> Duration {
        let nanos = |duration: Duration| duration.as_nanos() as u64;
        Duration::from_nanos(self.rng.u64(nanos(min)..=nanos(max.max(min))))
    }

    /// How long an operation of a disk takes.
    fn disk_time(&mut self, place: usize) -> Duration {
        let max = self.swarm.sync_max;
        if self.machines[place].slow_until > self.now {
            let election = self.swarm.tuning.election_timeout;
            return self.draw(max, election * 2);
        }
        self.draw(Duration::from_micros(50), max)
    }

    // ----- lives

    fn start(&mut self, place: usize) -> Checked {
        let seed = self.rng.u64(..);
        let machine = &mut self.machines[place];
        machine.life += 1;
        let life = machine.life;
        let local = machine.local(self.now);
        machine.sight.lock().unwrap_or_else(PoisonError::into_inner).clear();
        let driver =
            WatchedDriver { driver: Arc::clone(&self.driver), sight: Arc::clone(&machine.sight) };
        let begin = Life {
            driver: &driver,
            config: &self.config,
            disk: &machine.disk,
            node: machine.id,
            members: &machine.founders,
            store: machine.store,
            seed,
            settings: &self.swarm.settings,
        };
        match Node::open(begin, local) {
            Ok(node) => {
                machine.node = Some(node);
                machine.failed_starts = 0;
                machine.shown = laws::Shown::default();
                machine.liveness = quorate_engine::Liveness::new(local);
                self.report.starts += 1;
                self.tell(|it| format!("{} started", it.machines[place].id));
                self.plan(Duration::ZERO, Event::Alive { place, life });
                self.plan(Duration::ZERO, Event::Subscribe { place, life });
                self.after(place)?;
                self.remembers(place)
            }
            Err(error) => {
                self.tell(|it| format!("{} did not start: {error}", it.machines[place].id));
                let machine = &mut self.machines[place];
                machine.failed_starts += 1;
                let damaged = matches!(error, OpenError::Corrupt { .. } | OpenError::Driver { .. });
                // Only a disk that fails on purpose may keep a node from starting.
                if damaged || !self.faults_on && machine.failed_starts > 3 {
                    return violation(format!("{} does not start: {error}", machine.id));
                }
                machine.disk.set_capacity(None);
                machine.disk.cut_at(u64::MAX);
                machine.disk.reboot(Keep::Random);
                let life = machine.life;
                self.plan(MS * 20, Event::Start { place, life });
                Ok(())
            }
        }
    }

    /// A node that was started knows of every term in which it led.
    fn remembers(&self, place: usize) -> Checked {
        let machine = &self.machines[place];
        let term = machine.node.as_ref().map_or(u64::MAX, |node| node.status().term);
        if term < machine.led {
            let (id, led) = (machine.id, machine.led);
            return violation(format!(
                "{id} led in term {led} and knows of {term} only after a restart"
            ));
        }
        Ok(())
    }

    /// A node ends without a word. With `keep` the power fails too.
    fn die(&mut self, place: usize, keep: Option<Keep>) {
        let machine = &mut self.machines[place];
        machine.life += 1;
        if let Some(keep) = keep {
            machine.disk.reboot(keep);
            machine.armed = false;
            self.report.power_cuts += 1;
        }
        if let Some(node) = machine.node.take() {
            machine.copies = node.end(&machine.disk);
        }
        machine.subscription = None;
        machine.wake = None;
        machine.paused_until = Duration::ZERO;
        (machine.syncing, machine.fetching) = (false, false);
        (machine.storing, machine.installing, machine.retrying) = (false, false, false);
        self.streams_die(place);
        for call in std::mem::take(&mut self.machines[place].calls) {
            self.lost(call);
        }
    }

    fn keep(&mut self) -> Keep {
        [Keep::None, Keep::All, Keep::Random][self.rng.usize(..3)]
    }

    // ----- turns

    /// A turn of a node, and all that comes of it.
    fn after(&mut self, place: usize) -> Checked {
        loop {
            let machine = &mut self.machines[place];
            let local = machine.local(self.now);
            let Some(node) = &mut machine.node else { return Ok(()) };
            node.turn(local);
            let news = std::mem::take(&mut node.news);
            self.look(place)?;
            let mut again = false;
            for news in news {
                again |= self.news(place, news)?;
            }
            if !again {
                break;
            }
        }
        self.ship(place);
        self.arm(place);
        self.judge(place)
    }

    /// What the engine did in its turn.
    fn look(&mut self, place: usize) -> Checked {
        let sight = Arc::clone(&self.machines[place].sight);
        let mut sight = sight.lock().unwrap_or_else(PoisonError::into_inner);
        let id = self.machines[place].id;
        for seen in sight.drain(..) {
            match seen {
                Seen::Leads { term } => {
                    self.tell(|_| format!("{id} leads in term {term}"));
                    self.laws.leads(id, term)?;
                    // Whoever leads others has stored its own vote before they could give theirs.
                    let machine = &mut self.machines[place];
                    if machine.voters[0].len() > 1 {
                        machine.led = machine.led.max(term);
                    }
                }
                Seen::Delivered { index, tag } => {
                    if self.laws.delivered(id, index, tag)? {
                        self.is_on_a_quorum(place, index, tag)?;
                    }
                }
                Seen::Installed { index } => {
                    self.tell(|_| format!("{id} puts a snapshot at {index} in force"));
                }
                Seen::Members { index, voters, learners } => {
                    self.operator.learns(index, &voters, learners);
                    let known = &mut self.machines[place].voters;
                    if known[0] != voters {
                        known[1] = std::mem::replace(&mut known[0], voters.clone());
                        self.tell(|_| format!("{id} says that {voters:?} vote"));
                    }
                }
            }
        }
        Ok(())
    }

    /// A decided entry is durable on a majority. While voters change, those of before or of after count.
    fn is_on_a_quorum(&self, place: usize, index: u64, tag: quorate_storage::Tag) -> Checked {
        let is_majority = |voters: &Vec<NodeId>| {
            let has =
                |voter: &&NodeId| self.machine_of(**voter).is_some_and(|it| it.has(index, tag));
            !voters.is_empty() && 2 * voters.iter().filter(has).count() > voters.len()
        };
        if self.machines[place].voters.iter().any(is_majority) {
            return Ok(());
        }
        let [voters, before] = &self.machines[place].voters;
        violation(format!(
            "{} says that {index} is decided, and it is durable on no majority of {voters:?} or {before:?}",
            self.machines[place].id
        ))
    }

    fn machine_of(&self, node: NodeId) -> Option<&Machine> {
        self.machines.get(self.place_of(node)?)
    }

    fn place_of(&self, node: NodeId) -> Option<usize> {
        usize::try_from(node.number()).ok()?.checked_sub(1).filter(|it| *it < self.machines.len())
    }

    /// Sends what a node wants sent.
    fn ship(&mut self, place: usize) {
        let Some(node) = &mut self.machines[place].node else { return };
        let outbox = std::mem::take(&mut node.outbox);
        let snapshots = std::mem::take(&mut node.snapshots);
        if let Some(members) = node.members.take() {
            let id = self.machines[place].id;
            let others = members.iter().map(|member| member.node).filter(|node| *node != id);
            self.machines[place].peers = others.collect();
        }
        for Sent { to, urgent, packet } in outbox {
            let channel = packet.channel(urgent);
            let bytes = packet.encode(GROUP);
            for to in to {
                self.send(place, to, channel, &bytes);
            }
        }
        for (to, index, head) in snapshots {
            self.begin_stream(place, to, index, head);
        }
    }

    fn send(
        &mut self,
        place: usize,
        to: NodeId,
        channel: quorate_replicator::Channel,
        bytes: &bytes::Bytes,
    ) {
        let Some(to) = self.place_of(to).filter(|to| *to != place) else { return };
        let from = self.machines[place].id;
        let arrivals = self.network.send(place, to, channel, self.now);
        for at in arrivals.into_iter().flatten() {
            self.queue.push(at, Event::Packet { to, from, bytes: bytes.clone() });
        }
    }

    fn arrived(&mut self, to: usize, from: NodeId, bytes: &bytes::Bytes) -> Checked {
        bytes.len().hash(&mut self.hasher);
        let machine = &mut self.machines[to];
        let local = machine.local(self.now);
        let Some(node) = &mut machine.node else { return Ok(()) };
        let packet = match Packet::decode(bytes) {
            Ok((_, packet)) => packet,
            Err(error) => {
                let (to, bytes) = (machine.id, bytes.len());
                return violation(format!("{to} cannot read {bytes} bytes of {from}: {error}"));
            }
        };
        let returned = machine.liveness.heard(from, local);
        if returned {
            node.input(Input::Peer { node: from, alive: true });
        }
        let silent = packet == Packet::Alive && !returned;
        node.packet(local, from, packet);
        if silent { Ok(()) } else { self.after(to) }
    }

    /// A node says that it is there, and looks who is not.
    fn say_alive(&mut self, place: usize, life: u32) -> Checked {
        if !self.is_of(place, life) {
            return Ok(());
        }
        let machine = &mut self.machines[place];
        let (says, gone) = machine.liveness.look(machine.local(self.now));
        let wake = machine.when(machine.liveness.wake_at());
        if says {
            let peers = machine.peers.clone();
            let bytes = Packet::Alive.encode(GROUP);
            for peer in peers {
                self.send(place, peer, quorate_replicator::Channel::Control, &bytes);
            }
        }
        self.queue.push(wake.max(self.now + MS), Event::Alive { place, life });
        if gone.is_empty() {
            return Ok(());
        }
        self.with(place, life, |node, _| {
            for peer in gone {
                node.input(Input::Peer { node: peer, alive: false });
            }
        })
    }

    /// Plans what the disk and the clock owe a node.
    fn arm(&mut self, place: usize) {
        let (now, life) = (self.now, self.machines[place].life);
        let local = self.machines[place].local(now);
        let Some(node) = &mut self.machines[place].node else { return };
        let begun = node.begin_commit();
        let full = node.is_full();
        let (job, fetch) = (node.has_job(), node.has_fetch());
        let (install, wake) = (node.wants_install(), node.wake_at(local));
        if begun && !self.machines[place].syncing {
            self.machines[place].syncing = true;
            let time = self.disk_time(place);
            self.plan(time, Event::Synced { place, life });
        } else if full && !std::mem::replace(&mut self.machines[place].retrying, true) {
            self.plan(MS * 20, Event::LogRetry { place, life });
        }
        if job && !self.machines[place].storing {
            self.machines[place].storing = true;
            let time = self.disk_time(place) * 4;
            self.plan(time, Event::Stored { place, life });
        }
        if fetch && !self.machines[place].fetching {
            self.machines[place].fetching = true;
            let time = self.disk_time(place) / 2;
            self.plan(time, Event::Fetched { place, life });
        }
        if install && !self.machines[place].installing {
            self.machines[place].installing = true;
            let time = self.disk_time(place) * 2;
            self.plan(time, Event::Installed { place, life });
        }
        if let Some(wake) = wake {
            // A shell never wakes earlier, and a little later.
            let at = self.machines[place].when(wake).max(now + MS / 20);
            if self.machines[place].wake.is_none_or(|planned| at < planned) {
                self.machines[place].wake = Some(at);
                self.queue.push(at, Event::Wake { place, life });
            }
        }
    }

    fn synced(&mut self, place: usize, life: u32) -> Checked {
        if self.is_of(place, life) {
            self.machines[place].syncing = false;
        }
        self.with(place, life, |node, _| {
            node.end_commit();
            node.maintain();
        })
    }

    /// What a node shows after its turn; one that stopped is started again after a while.
    fn judge(&mut self, place: usize) -> Checked {
        let machine = &mut self.machines[place];
        let Some(node) = &machine.node else { return Ok(()) };
        if let Some(cause) = node.faulted() {
            let cause = cause.to_owned();
            if cause.contains("panic") || cause.contains("differs") {
                return violation(format!("{} stopped: {cause}", machine.id));
            }
            self.tell(|it| format!("{} stopped: {cause}", it.machines[place].id));
            let keep = if self.rng.bool() { Some(self.keep()) } else { None };
            self.die(place, keep);
            // Whoever starts what may not take part does not do so all the time.
            let soon = if self.machines[place].wiped {
                self.swarm.tuning.election_timeout
            } else {
                MS * 5
            };
            self.restart_after(place, soon, soon + MS * 200);
            return Ok(());
        }
        let status = node.status();
        self.oracle.seen(&status)?;
        self.laws.shows(machine.id, &mut machine.shown, &status)
    }

    fn restart_after(&mut self, place: usize, min: Duration, max: Duration) {
        let life = self.machines[place].life;
        let after = self.draw(min, max);
        self.plan(after, Event::Start { place, life });
    }

    /// Tells what happens, if anybody wants to know.
    fn tell(&mut self, what: impl FnOnce(&Self) -> String) {
        if let Some(trace) = self.trace.take() {
            trace(&format!("{:>9.3} s  {}", self.now.as_secs_f64(), what(self)));
            self.trace = Some(trace);
        }
    }
}
