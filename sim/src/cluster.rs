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

mod approvals;
mod event;
mod faults;
mod healing;
mod laws;
mod machine;
mod network;
mod operator;
mod quorum;
mod report;
mod streams;
mod subject;
mod swarm;
mod turns;
mod watched;
mod workload;

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use quorate_engine::engine::{Admin, Input};
use quorate_replicator::{NodeId, OpenError, Position};
use quorate_storage::{Keep, Tag};

use crate::call_keys::CallKeys;
use crate::client::Client;
use crate::node::{Life, Node};
use crate::oracle::{Checked, Oracle, Violation, violation};

use crate::registers::Registers;

use approvals::Motions;
use event::{Event, Queue};
use laws::Laws;
use machine::Machine;
use network::Network;
use operator::Operator;
use quorum::Votes;
pub use quorum::{Control, QuorumSubject, Scenario};
pub use report::{Changed, ClusterReport};
use streams::Streams;
use subject::Crash;
pub use subject::{Group, RaftSubject, Subject};
use swarm::Swarm;
use watched::Opens;
use workload::Waits;

const MS: Duration = Duration::from_millis(1);

/// After how many times its patience a healed cluster must have converged.
const CONVERGES_WITHIN: u32 = 10;

/// Lives through one seed with a cluster of nodes of this driver. `trace` is told what happens, in words.
///
/// # Errors
///
/// The first thing that must not be.
pub fn run_cluster(
    subject: &dyn Subject,
    seed: u64,
    trace: Option<&mut dyn FnMut(&str)>,
) -> Result<ClusterReport, Violation> {
    let mut cluster = Cluster::new(subject, seed, trace);
    cluster.begin()?;
    cluster.live()?;
    cluster.heal()?;
    cluster.account()?;
    Ok(cluster.report)
}

/// Says who lies, and gives those who run twice their second machine.
fn lie(votes: &Votes, machines: &mut [Machine]) {
    let nodes = votes.nodes().len();
    for (twin, id) in votes.twins().into_iter().enumerate() {
        let machine = &mut machines[nodes + twin];
        (machine.id, machine.lies) = (id, Some(1));
    }
    for machine in machines.iter_mut().take(nodes) {
        machine.lies = votes.is_liar(machine.id).then_some(0);
    }
}

struct Cluster<'t> {
    rng: fastrand::Rng,
    trace: Option<&'t mut dyn FnMut(&str)>,
    opens: Box<dyn Opens>,
    /// In which term an entry was proposed first, where leaders count copies of their own term only.
    term_of: Option<fn(Tag) -> Option<u64>>,
    /// What must hold of votes, where validators vote.
    votes: Option<Votes>,
    crash: Option<Crash>,
    swarm: Swarm,
    now: Duration,
    queue: Queue,
    machines: Vec<Machine>,
    network: Network,
    streams: Streams,
    operator: Operator,
    motions: Motions,
    clients: Vec<Client>,
    /// What they sign with, where frames are signed.
    call_keys: Option<Arc<CallKeys>>,
    /// Whom a client was told to ask.
    hints: HashMap<usize, NodeId>,
    /// Who waits for the answer to a proposal.
    calls: HashMap<u64, Waits>,
    reads: HashMap<u64, workload::Read>,
    questions: HashMap<u64, workload::Question>,
    /// Writes that show that a healed node can commit, and whether they have.
    probes: BTreeMap<usize, workload::Probe>,
    /// Who must converge, once everything is healed.
    healed: Vec<usize>,
    /// When the newest acknowledged position was which.
    acknowledged: Vec<(Duration, Position)>,
    next_call: u64,
    oracle: Oracle,
    registers: Registers,
    laws: Laws,
    report: ClusterReport,
    hasher: DefaultHasher,
    /// False once everything is healed.
    faults_on: bool,
}

impl<'t> Cluster<'t> {
    fn new(subject: &dyn Subject, seed: u64, trace: Option<&'t mut dyn FnMut(&str)>) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let Group { opens, swarm, votes, crash, term_of } = subject.draw(&mut rng);
        let ids: Vec<_> = (1..).take(swarm.nodes).map(NodeId::new).collect();
        let founders = ids[..swarm.founders].to_vec();
        let machine = |id: &NodeId| Machine::new(*id, &mut rng, swarm.clock_ppm, &founders);
        let mut machines: Vec<_> = ids.iter().map(machine).collect();
        let mut operator = Operator::default();
        if let Some(votes) = &votes {
            operator.learns(0, votes.founders(), Vec::new());
            lie(votes, &mut machines);
        }
        let weather = (swarm.calm.clone(), swarm.storm.clone());
        let network = Network::new(rng.u64(..), swarm.nodes, weather, swarm.keeps_contract);
        let call_keys = votes.as_ref().and_then(Votes::call_keys).map(Arc::new);
        let clients = (0..swarm.clients)
            .map(|number| Client::new(number, swarm.list_max, swarm.registers).counting(seed))
            .map(|client| client.signing(call_keys.clone()))
            .collect();
        Self {
            opens,
            term_of,
            rng,
            trace,
            swarm,
            now: Duration::ZERO,
            queue: Queue::default(),
            machines,
            network,
            streams: Streams::default(),
            operator,
            motions: Motions::default(),
            votes,
            crash,
            clients,
            call_keys,
            hints: HashMap::new(),
            calls: HashMap::new(),
            reads: HashMap::new(),
            questions: HashMap::new(),
            probes: BTreeMap::new(),
            healed: Vec::new(),
            acknowledged: Vec::new(),
            next_call: 1,
            oracle: Oracle::new(),
            registers: Registers::default(),
            laws: Laws::default(),
            report: ClusterReport::default(),
            hasher: DefaultHasher::new(),
            faults_on: true,
        }
    }

    /// Starts the founders and everything that happens by itself.
    fn begin(&mut self) -> Checked {
        self.tell(|it| format!("{:?}", it.swarm));
        let nodes = self.votes.as_ref().map(|votes| votes.nodes().len());
        let twins = nodes.map_or(0..0, |nodes| nodes..self.machines.len());
        for place in (0..self.swarm.founders).chain(twins) {
            self.start(place)?;
        }
        for client in 0..self.clients.len() {
            self.plan(self.swarm.think, Event::Client(client));
        }
        if !self.swarm.kinds.is_empty() {
            // A cluster that has never had a leader is of little interest.
            self.plan(self.swarm.patience, Event::Fault);
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
                    self.look_at_pin(place)?;
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
            Event::Handled { place, life, id } => {
                self.with(place, life, |node, _| node.handled(id))
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
                let within = self.swarm.patience;
                self.with(place, life, |node, now| node.admin(Admin::Campaign, now + within, call))
            }
            Event::Blink { place, life } => self.blink(place, life),
            Event::Look => Ok(()),
        }
    }

    // ----- what is planned

    fn plan(&mut self, after: Duration, event: Event) {
        self.queue.push(self.now + after, event);
    }

    /// Whether whoever runs on this machine lies.
    fn is_liar(&self, place: usize) -> bool {
        self.machines[place].lies.is_some()
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
            let election = self.swarm.patience;
            return self.draw(max, election * 2);
        }
        self.draw(Duration::from_micros(50), max)
    }

    /// A long read of a checkpoint goes on, or begins: newer checkpoints and snapshots do not change what it sees.
    fn look_at_pin(&mut self, place: usize) -> Checked {
        let now = self.rng.u8(..4) == 0;
        let machine = &mut self.machines[place];
        if machine.node.as_mut().is_none_or(|node| !now || node.step_pin()) {
            return Ok(());
        }
        violation(format!("a checkpoint that was pinned at {} has changed", machine.id))
    }

    // ----- lives

    fn start(&mut self, place: usize) -> Checked {
        let seed = self.rng.u64(..);
        let votes = self.votes.as_ref();
        let machine = &mut self.machines[place];
        machine.life += 1;
        let life = machine.life;
        let local = machine.local(self.now);
        machine.sight.lock().unwrap_or_else(PoisonError::into_inner).clear();
        let begin = Life {
            disk: &machine.disk,
            node: machine.id,
            members: votes.map_or(&machine.founders, Votes::founders),
            store: machine.store,
            seed,
            settings: &self.swarm.settings,
            judge: machine.lies.is_none().then_some(&self.oracle.judge),
            forgets: votes.map_or((false, false), |votes| votes.forgets(machine.id)),
            is_unflushed: votes.is_some_and(Votes::is_unflushed),
        };
        match self.opens.open(begin, &machine.sight, machine.lies, local) {
            Ok(node) => {
                let forgets =
                    votes.is_some_and(|votes| votes.forgets(machine.id) != (false, false));
                if let Some(index) = machine.copies.lost_in(&node.copies)
                    && !forgets
                {
                    let id = machine.id;
                    return violation(format!(
                        "index {index} was durable at {id}, and a restart lost it"
                    ));
                }
                machine.node = Some(node);
                machine.rotten = false;
                machine.failed_starts = 0;
                machine.shown = laws::Shown::default();
                machine.liveness = quorate_engine::Liveness::new(local);
                machine.connect();
                self.report.starts += 1;
                self.tell(|it| format!("{} started", it.machines[place].id));
                self.plan(Duration::ZERO, Event::Alive { place, life });
                if !self.is_liar(place) {
                    self.plan(Duration::ZERO, Event::Subscribe { place, life });
                }
                self.after(place)?;
                self.remembers(place)?;
                match &self.machines[place].node {
                    Some(node) if !self.is_liar(place) => self.oracle.looked_at(node),
                    _ => Ok(()),
                }
            }
            Err(error) => {
                self.tell(|it| format!("{} did not start: {error}", it.machines[place].id));
                let lies = self.is_liar(place);
                let machine = &mut self.machines[place];
                if machine.rotten && matches!(error, OpenError::Corrupt { .. }) {
                    self.lose(place);
                    return Ok(());
                }
                if lies && matches!(error, OpenError::Driver { .. }) {
                    // It has journalled what its twin said, or what it did not say: it begins anew.
                    machine.replace_disk(&mut self.rng);
                }
                machine.failed_starts += 1;
                let damaged = matches!(error, OpenError::Corrupt { .. } | OpenError::Driver { .. });
                // Only a disk that fails on purpose may keep a node from starting.
                if !lies && (damaged || !self.faults_on && machine.failed_starts > 3) {
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
    fn die(&mut self, place: usize, keep: Option<Keep>) -> Checked {
        if let Some(node) = &self.machines[place].node
            && !self.is_liar(place)
        {
            self.oracle.looked_at(node)?;
        }
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
        machine.delivered.clear();
        machine.wake = None;
        machine.paused_until = Duration::ZERO;
        (machine.syncing, machine.fetching) = (false, false);
        (machine.storing, machine.installing, machine.retrying) = (false, false, false);
        self.streams_die(place);
        for call in std::mem::take(&mut self.machines[place].calls) {
            self.lost(call);
        }
        Ok(())
    }

    /// A node has done something that others may see, or its disk; true if its power has failed with that.
    fn effect(&mut self, place: usize) -> Checked<bool> {
        if !self.faults_on {
            return Ok(false);
        }
        let machine = &mut self.machines[place];
        machine.effects += 1;
        let effects = machine.effects;
        self.report.effects = self.report.effects.max(effects);
        if !self.crash.is_some_and(|crash| crash.place == place && crash.at == effects) {
            return Ok(false);
        }
        let keep = self.keep();
        self.tell(|it| format!("{} loses its power, keeping {keep:?}", it.machines[place].id));
        self.die(place, Some(keep))?;
        self.restart_after(place, MS * 5, MS * 100);
        Ok(true)
    }

    fn keep(&mut self) -> Keep {
        [Keep::None, Keep::All, Keep::Random][self.rng.usize(..3)]
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
