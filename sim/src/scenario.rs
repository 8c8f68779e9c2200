//! One seed: clients, time and faults against one node, then healing and the last accounts.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Bound;
use std::time::Duration;

use quorate_driver_local::LocalConfig;
use quorate_engine::SubscriptionId;
use quorate_host::SwitchError;
use quorate_replicator::{
    Consistency, Cursor, Frame, FrameId, GroupId, LogTime, OpenError, Position, ReadError,
    SubscribeError, limits,
};
use quorate_shard::kv::Scan;
use quorate_storage::{Fault, Keep, LogConfig, SimDisk};

use crate::client::{Client, refuses_all};
use crate::copies::Copies;
use crate::counters::{COUNTERS, count};
use crate::judge::{counter_line, line};
use crate::node::{Life, News, Node, Settings};
use crate::oracle::{Checked, Oracle, Violation, Witness, violation};
use crate::switching::{Drivers, Kind, NODE, in_force};

/// What a run saw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// Accepted frames, each once.
    pub frames: u64,
    /// Answers that clients got.
    pub answers: u64,
    /// Power cuts.
    pub power_cuts: u64,
    /// Restarts without a power cut.
    pub restarts: u64,
    /// Disk operations that were made to fail.
    pub disk_faults: u64,
    /// Times that the directory went to another driver.
    pub switches: u64,
    /// Checkpoints stored.
    pub checkpoints: u64,
    /// Operations of the disk.
    pub disk_ops: u64,
    /// Frames whose outcome stayed unknown because their session ended.
    pub orphans: u64,
    /// Hash over everything that happened: the same for the same seed.
    pub events: u64,
}

impl Report {
    /// Adds what another run saw.
    pub fn add(&mut self, other: &Self) {
        self.frames += other.frames;
        self.answers += other.answers;
        self.power_cuts += other.power_cuts;
        self.restarts += other.restarts;
        self.disk_faults += other.disk_faults;
        self.switches += other.switches;
        self.checkpoints += other.checkpoints;
        self.disk_ops += other.disk_ops;
        self.orphans += other.orphans;
        self.events ^= other.events;
    }
}

/// What a scenario may meet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// How many things happen before everything is healed.
    pub(crate) steps: u32,
    /// Whether faults come at random.
    pub(crate) faults: bool,
    /// Cut the power at this operation of the disk, and keep this of what was not synced.
    pub(crate) cut: Option<(u64, Keep)>,
}

impl Plan {
    /// Everything at random.
    const SWARM: Self = Self { steps: 1500, faults: true, cut: None };
}

/// About so many operations of the disk does a switch take.
const SWITCH_OPS: u64 = 120;

/// The smallest segments of a log that a node opens.
const SEGMENT_BYTES: u64 =
    (2 * (limits::MESSAGE_BYTES_MAX as u64 + (64 << 10))).next_multiple_of(512);

/// How many steps a healed node may take until all is answered.
const HEALED_STEPS: u32 = 20_000;

/// Lives through one seed. `trace` is told what happens, in words.
///
/// # Errors
///
/// The first thing that must not be.
pub fn run(seed: u64, trace: &mut dyn FnMut(&str)) -> Result<Report, Violation> {
    run_plan(seed, Plan::SWARM, trace)
}

pub(crate) fn run_plan(
    seed: u64,
    plan: Plan,
    trace: &mut dyn FnMut(&str),
) -> Result<Report, Violation> {
    let mut scenario = Scenario::new(seed, plan, trace);
    scenario.live()?;
    scenario.heal()?;
    scenario.account()?;
    Ok(scenario.report)
}

struct Scenario<'a> {
    rng: fastrand::Rng,
    plan: Plan,
    trace: &'a mut dyn FnMut(&str),
    now: Duration,
    disk: SimDisk,
    settings: Settings,
    drivers: Drivers,
    /// Which of them has the directory.
    kind: Kind,
    /// Whether the directory goes from driver to driver.
    switches: bool,
    node: Option<Node>,
    /// What the log held when the last process ended.
    copies: Copies,
    clients: Vec<Client>,
    /// Which client waits for a call, and for which frames, in the present life of the node.
    calls: HashMap<u64, (usize, Vec<FrameId>)>,
    questions: HashMap<u64, (usize, FrameId)>,
    /// Late copies of answered frames.
    ghosts: HashMap<u64, Vec<FrameId>>,
    /// Other payloads under the ids of answered frames.
    impostors: HashMap<u64, FrameId>,
    next_call: u64,
    /// What the subscriber has handled, kept as a real one keeps it.
    cursor: Cursor,
    witness: Witness,
    subscription: Option<SubscriptionId>,
    /// The subscriber has to ask once more.
    is_ahead: bool,
    /// What the read that is under way must see.
    read_floor: Option<Position>,
    oracle: Oracle,
    report: Report,
    hasher: DefaultHasher,
    /// False once everything is healed.
    faults_on: bool,
    /// How often the node stopped after everything was healed.
    late_faults: u64,
}

impl<'a> Scenario<'a> {
    fn new(seed: u64, plan: Plan, trace: &'a mut dyn FnMut(&str)) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut settings = Settings {
            checkpoint_bytes: [2 << 10, 16 << 10, 1 << 40][rng.usize(..3)],
            retain_bytes: [0, 8 << 10, 1 << 40][rng.usize(..3)],
            session_idle_ms: [300, 5_000, 600_000][rng.usize(..3)],
            unsettled_max: [6, 1024][rng.usize(..2)],
            frames_in_flight_max: [64, 1 << 16][rng.usize(..2)],
            log: LogConfig::small(),
            forward: true,
        };
        let mut local = LocalConfig::default();
        local.batches_in_flight = 1 + rng.u32(..3);
        // In one seed of sixteen it goes from driver to driver. That is not drawn: other seeds live as they would without.
        let switches = plan.faults && seed % 16 == 15;
        if switches {
            // Who takes a directory over has the limits that nodes have.
            (settings.session_idle_ms, settings.unsettled_max) =
                (limits::SESSION_IDLE_MS, limits::SESSION_UNSETTLED_MAX);
            settings.log.segment_bytes = SEGMENT_BYTES;
            settings.log.spares = 1;
        }
        // A list that does not fit into a session is refused as a whole, so only large sessions are given lists.
        let list_max = if settings.unsettled_max > 100 { [1, 16][rng.usize(..2)] } else { 1 };
        let clients = (0..1 + rng.u8(..5))
            .map(|number| Client::new(number, list_max, false).counting(seed))
            .collect();
        let disk = SimDisk::new(rng.u64(..));
        if let Some((op, _)) = plan.cut {
            disk.cut_at(op);
        }
        Self {
            disk,
            rng,
            plan,
            trace,
            now: Duration::ZERO,
            settings,
            drivers: Drivers::new(local),
            kind: Kind::Local,
            switches,
            node: None,
            copies: Copies::default(),
            clients,
            calls: HashMap::new(),
            questions: HashMap::new(),
            ghosts: HashMap::new(),
            impostors: HashMap::new(),
            next_call: 1,
            cursor: Cursor::beginning(),
            witness: Witness::new(),
            subscription: None,
            is_ahead: false,
            read_floor: None,
            oracle: Oracle::new(),
            report: Report::default(),
            hasher: DefaultHasher::new(),
            faults_on: true,
            late_faults: 0,
        }
    }

    /// Anything may happen.
    fn live(&mut self) -> Checked {
        for _ in 0..self.plan.steps {
            if self.node.is_none() {
                self.start()?;
                continue;
            }
            let first = if self.plan.faults { 0 } else { 21 };
            let what = self.rng.u16(first..1000);
            if self.switches && (60..64).contains(&what) {
                self.switch()?;
                continue;
            }
            match what {
                0..5 => self.arm_power_cut(),
                5..9 => self.cut_power()?,
                9..13 => self.kill()?,
                13..17 => self.arm_disk_fault(),
                17..19 => self.close()?,
                19..21 => self.change_room(),
                21..60 => self.pass_time(),
                60..100 => self.ask(),
                100..130 => self.read(),
                130..310 => self.propose(),
                310..320 => self.propose_impostor(),
                320..330 => self.propose_ghost(),
                330..700 => self.with_node(Node::step_log),
                700..730 => self.store_checkpoint(),
                730..800 => self.with_node(Node::step_fetch),
                _ => self.with_node(Node::turn),
            }
            self.look()?;
        }
        Ok(())
    }

    /// Nothing fails any more: everything must get its answer.
    fn heal(&mut self) -> Checked {
        self.say("healing");
        self.faults_on = false;
        self.disk.set_capacity(None);
        self.disk.cut_at(u64::MAX);
        if self.plan.faults {
            // The power may be off by now.
            self.cut_power()?;
        }
        if self.kind != Kind::Local {
            // What is left to be counted is counted on a node that knows all at once.
            self.switch_to(Kind::Local)?;
        }
        for step in 0..HEALED_STEPS {
            if self.node.is_none() {
                self.start()?;
                continue;
            }
            let done = self.clients.iter().all(Client::is_done);
            if !done && step % 4 == 0 {
                self.propose_open();
            }
            self.with_node(Node::step_log);
            self.with_node(Node::step_fetch);
            self.store_checkpoint();
            if step % 16 == 0 {
                self.now += Duration::from_millis(5);
            }
            self.look()?;
            let applied = self.node.as_ref().map(|node| node.status().applied);
            let quiet = self.node.as_ref().is_some_and(Node::is_quiet);
            if done && quiet && applied == Some(self.given()) {
                return Ok(());
            }
        }
        violation(format!(
            "after everything was healed, not everything got its answer: {}",
            self.clients.iter().map(Client::waiting).collect::<Vec<_>>().join(", ")
        ))
    }

    /// The last accounts, and one more start from what is on disk.
    fn account(&mut self) -> Checked {
        self.report.frames = self.oracle.finish()?;
        self.report.answers = self.clients.iter().map(|client| client.answered).sum();
        self.report.orphans = self.clients.iter().map(|client| client.orphans).sum();
        let node = self.node.as_ref().expect("it was healed");
        let (before, status) = (everything(node), node.status());
        self.cut_power()?;
        self.start()?;
        let node = self.node.as_ref().expect("it was started");
        if node.status().history != status.history || everything(node) != before {
            return violation("a restart after the end changed the state");
        }
        self.read_again()?;
        self.report.disk_ops = self.disk.ops();
        let mut hasher = self.hasher.clone();
        (before, status.history, self.disk.ops()).hash(&mut hasher);
        self.report.events = hasher.finish();
        Ok(())
    }

    /// A subscriber that comes late reads the same frames in the same order from the log.
    fn read_again(&mut self) -> Checked {
        let Some(node) = &mut self.node else { return Ok(()) };
        if node.status().log_first > 1 {
            return Ok(());
        }
        node.news.clear();
        node.subscribe(&Cursor::beginning());
        node.turn(self.now);
        let (mut again, mut late) = (Vec::new(), None);
        while late.is_none() || !node.is_quiet() || !node.news.is_empty() {
            for news in std::mem::take(&mut node.news) {
                match news {
                    News::Subscribed(Ok(id)) => late = Some(id),
                    News::Accepted(frames, _) => {
                        again.extend(
                            frames.iter().map(|accepted| (accepted.position, accepted.frame.id)),
                        );
                        if let (Some(id), false) = (late, frames.is_empty()) {
                            node.handled(id);
                        }
                    }
                    _ => {}
                }
            }
            node.turn(self.now);
            node.step_fetch(self.now);
            node.step_log(self.now);
            node.step_checkpoint(self.now);
        }
        if !again.into_iter().eq(self.oracle.order()) {
            return violation(
                "a late subscriber reads other frames from the log than were accepted",
            );
        }
        Ok(())
    }

    // ----- what can happen

    fn start(&mut self) -> Checked {
        let life = Life {
            disk: &self.disk,
            node: NODE,
            members: &[NODE],
            store: [2; 16],
            seed: 1,
            settings: &self.settings,
            judge: Some(&self.oracle.judge),
            forgets: (false, false),
            is_unflushed: false,
        };
        match self.drivers.open(self.kind, life, self.now) {
            Ok(mut node) => {
                node.turn(self.now);
                if let Some(index) = self.copies.lost_in(&node.copies) {
                    return violation(format!("index {index} was durable, and a restart lost it"));
                }
                self.oracle.looked_at(&node)?;
                // Everything that was durable is applied at once: it was decided.
                if self.kind == Kind::Local {
                    self.oracle.replayed(&node.status())?;
                }
                node.subscribe(&self.cursor);
                node.turn(self.now);
                self.node = Some(node);
                self.say("started");
                self.look()
            }
            Err(error) => {
                // Only a disk that fails on purpose may keep a node from starting.
                if self.faults_on {
                    self.say(&format!("not started: {error}"));
                    self.disk.set_capacity(None);
                    self.disk.cut_at(u64::MAX);
                    if matches!(error, OpenError::Corrupt { .. }) {
                        return violation(format!(
                            "the store is damaged though nothing damaged it: {error}"
                        ));
                    }
                    self.disk.reboot(Keep::Random);
                    self.report.power_cuts += 1;
                    Ok(())
                } else {
                    violation(format!("the node does not start: {error}"))
                }
            }
        }
    }

    fn died(&mut self) -> Checked {
        if let Some(node) = self.node.take() {
            self.oracle.looked_at(&node)?;
            self.copies = node.end(&self.disk);
        }
        self.subscription = None;
        self.read_floor = None;
        for (call, (place, _)) in self.calls.drain() {
            self.clients[place].lost(call);
        }
        self.questions.clear();
        self.ghosts.clear();
        self.impostors.clear();
        Ok(())
    }

    fn kill(&mut self) -> Checked {
        self.say("killed");
        self.report.restarts += 1;
        self.died()
    }

    fn close(&mut self) -> Checked {
        self.say("closed");
        if let Some(mut node) = self.node.take() {
            self.oracle.looked_at(&node)?;
            self.copies = std::mem::take(&mut node.copies);
            // A clean end may fail on a disk that fails; the next start shows what is left.
            drop(node.close());
        }
        self.report.restarts += 1;
        self.died()
    }

    fn cut_power(&mut self) -> Checked {
        let random = [Keep::None, Keep::All, Keep::Random][self.rng.usize(..3)];
        let keep = self.plan.cut.map_or(random, |(_, keep)| keep);
        self.say(&format!("power cut, keeping {keep:?}"));
        self.report.power_cuts += 1;
        self.died()?;
        self.disk.reboot(keep);
        Ok(())
    }

    /// The node ends, and its directory goes to another driver; the power may fail on the way, or the disk.
    fn switch(&mut self) -> Checked {
        let others = Kind::ALL.into_iter().filter(|kind| *kind != self.kind);
        let to = others.collect::<Vec<_>>()[self.rng.usize(..2)];
        if self.rng.bool() {
            self.close()?
        } else {
            self.kill()?
        }
        match self.rng.u8(..4) {
            0 => self.disk.cut_at(self.disk.ops() + self.rng.u64(..SWITCH_OPS)),
            1 => self.disk.fail_at(self.disk.ops() + self.rng.u64(..SWITCH_OPS), Fault::Eio),
            _ => {}
        }
        self.switch_to(to)
    }

    fn switch_to(&mut self, to: Kind) -> Checked {
        let from = self.kind;
        let judge = self.oracle.judge.fork();
        let switched = self.drivers.switch((from, to), &self.disk, &self.settings, &judge);
        judge.verdict()?;
        match switched {
            Ok(report) => {
                let group = &report.groups[0];
                self.say(&format!("from {from:?} to {to:?}, at {}", group.position));
                self.report.switches += 1;
                self.kind = to;
            }
            // Only a disk that fails on purpose may be in the way, and it takes nothing away.
            Err(error) => {
                self.say(&format!("not from {from:?} to {to:?}"));
                // The words name a directory of this machine.
                (self.trace)(&error.to_string());
                let failed = matches!(
                    error,
                    SwitchError::Open(_) | SwitchError::Write { .. } | SwitchError::InForce { .. }
                );
                let damaged = matches!(error, SwitchError::Open(OpenError::Corrupt { .. }));
                if !self.faults_on || !failed || damaged {
                    return violation(format!("from {from:?} to {to:?}: {error}"));
                }
                self.disk.set_capacity(None);
                self.disk.cut_at(u64::MAX);
                self.disk.reboot(Keep::Random);
                self.report.power_cuts += 1;
                let Some(kind) = in_force(&self.disk).filter(|kind| [from, to].contains(kind))
                else {
                    return violation(format!("a switch from {from:?} to {to:?} left neither"));
                };
                self.kind = kind;
            }
        }
        if self.kind != from {
            // The log begins anew, after all that is applied.
            self.copies = Copies::default();
            self.oracle.judge = judge;
        }
        Ok(())
    }

    fn arm_power_cut(&mut self) {
        let at = self.disk.ops() + self.rng.u64(..60);
        self.disk.cut_at(at);
    }

    fn arm_disk_fault(&mut self) {
        let fault = [Fault::Eio, Fault::Short][self.rng.usize(..2)];
        let at = self.disk.ops() + self.rng.u64(..60);
        self.disk.fail_at(at, fault);
        self.report.disk_faults += 1;
    }

    fn change_room(&mut self) {
        let room = self.rng.bool().then(|| self.disk.used() + self.rng.u64(..64 << 10));
        self.say(&format!("disk has room for {room:?}"));
        self.disk.set_capacity(room);
    }

    fn pass_time(&mut self) {
        let due = self.node.as_ref().and_then(|node| node.wake_at(self.now));
        let random = self.now + Duration::from_millis(self.rng.u64(..120));
        // A real shell never sleeps past what the core asked for by more than scheduling allows.
        self.now = due.map_or(random, |due| due.max(self.now).min(random));
        self.with_node(Node::turn);
    }

    fn propose(&mut self) {
        let place = self.rng.usize(..self.clients.len());
        self.propose_for(place);
    }

    /// A copy of a frame that was answered long ago arrives late, perhaps behind one of what opened its session: it must not happen again.
    fn propose_ghost(&mut self) {
        let frames = self.oracle.ghosts(&mut self.rng);
        if frames.is_empty() {
            return;
        }
        let call = self.next_call;
        self.next_call += 1;
        self.ghosts.insert(call, frames.iter().map(|frame| frame.id).collect());
        let deadline = self.now + Duration::from_millis(500);
        if let Some(node) = &mut self.node {
            node.propose(frames, deadline, call);
            node.turn(self.now);
        }
    }

    /// Somebody takes the id of a frame for another payload.
    fn propose_impostor(&mut self) {
        let Some(frame) = self.oracle.impostor(&mut self.rng) else { return };
        let call = self.next_call;
        self.next_call += 1;
        self.impostors.insert(call, frame.id);
        let deadline = self.now + Duration::from_millis(500);
        if let Some(node) = &mut self.node {
            node.propose(vec![frame], deadline, call);
            node.turn(self.now);
        }
    }

    /// Proposes again for every client that still waits for an answer, nothing new.
    fn propose_open(&mut self) {
        for place in 0..self.clients.len() {
            if !self.clients[place].is_done() {
                self.propose_for(place);
            }
        }
    }

    fn propose_for(&mut self, place: usize) {
        let call = self.next_call;
        let frames = if self.faults_on {
            self.clients[place].next(&mut self.rng, self.oracle.log_time(), call)
        } else {
            self.clients[place].again(call)
        };
        let Some(frames): Option<Vec<Frame>> = frames else { return };
        self.next_call += 1;
        self.oracle.proposed(&frames);
        self.calls.insert(call, (place, frames.iter().map(|frame| frame.id).collect()));
        let deadline = self.now + Duration::from_millis(20 + self.rng.u64(..500));
        if let Some(node) = &mut self.node {
            node.propose(frames, deadline, call);
            node.turn(self.now);
        }
    }

    fn ask(&mut self) {
        let place = self.rng.usize(..self.clients.len());
        let Some(id) = self.clients[place].doubtful() else { return };
        let call = self.next_call;
        self.next_call += 1;
        self.questions.insert(call, (place, id));
        let deadline = self.now + Duration::from_secs(1);
        if let Some(node) = &mut self.node {
            node.decision(id, deadline, call);
            node.turn(self.now);
        }
    }

    fn read(&mut self) {
        if self.read_floor.is_some() {
            return;
        }
        self.read_floor = self.oracle.read_floor();
        let deadline = self.now + Duration::from_secs(1);
        if let (Some(node), true) = (&mut self.node, self.read_floor.is_some()) {
            node.read(self.now, Consistency::Linearizable, deadline, 0);
            node.turn(self.now);
        }
    }

    fn store_checkpoint(&mut self) {
        let given = self.given();
        // The subscriber is the witness of all that is accepted, so the log is not trimmed under it.
        if let Some(node) = &mut self.node
            && given >= node.status().applied
            && node.step_checkpoint(self.now)
        {
            self.report.checkpoints += 1;
        }
    }

    /// The last batch that the subscriber has handled.
    fn given(&self) -> u64 {
        self.cursor.position(GroupId::new(0)).map_or(0, |position| position.index)
    }

    fn with_node(&mut self, step: impl Fn(&mut Node, Duration)) {
        if let Some(node) = &mut self.node {
            step(node, self.now);
        }
    }

    // ----- what is checked

    /// Takes what came out of the node, and ends its life if it has faulted.
    fn look(&mut self) -> Checked {
        let Some(node) = &mut self.node else { return Ok(()) };
        let status = node.status();
        let faulted = node.faulted().map(str::to_owned);
        let news = std::mem::take(&mut node.news);
        self.oracle.seen(&status)?;
        let mut handled = false;
        for news in news {
            match news {
                News::Proposed(call, answer) => {
                    (call, format!("{answer:?}")).hash(&mut self.hasher);
                    if let (Some(id), Ok([decision])) =
                        (self.impostors.remove(&call), answer.as_deref())
                    {
                        self.oracle.impostor_answered(id, decision)?;
                    }
                    let (place, ids) = match self.calls.remove(&call) {
                        Some((place, ids)) => (Some(place), ids),
                        None => (None, self.ghosts.remove(&call).unwrap_or_default()),
                    };
                    match &answer {
                        Ok(decisions) => {
                            for (id, decision) in ids.into_iter().zip(decisions) {
                                self.oracle.answered(id, decision)?;
                            }
                        }
                        Err(error) if place.is_some() && refuses_all(error, ids.len()) => {
                            for id in ids {
                                self.oracle.refused(id)?;
                            }
                        }
                        Err(_) => {}
                    }
                    if let Some(place) = place {
                        self.clients[place].answered(call, &answer)?;
                    }
                }
                News::Decided(call, answer) => {
                    if let (Some((place, id)), Ok(decision)) =
                        (self.questions.remove(&call), answer)
                    {
                        self.oracle.answered(id, &decision)?;
                        self.clients[place].learned(id, &decision);
                    }
                }
                News::Read(_, answer) => self.check_read(answer)?,
                News::Subscribed(Ok(id)) => self.subscription = Some(id),
                // What was before a switch stands in no log.
                News::Subscribed(Err(SubscribeError::Compacted { oldest, .. }))
                    if self.switches =>
                {
                    let index = oldest.index.saturating_sub(1);
                    let from = Position { index, slot: u32::MAX, ..oldest };
                    self.cursor = Cursor::after([from]);
                    self.oracle.cut_off(&mut self.witness, from);
                    self.is_ahead = true;
                }
                // After a restart a node that has to decide again what it had decided comes to it by and by.
                News::Subscribed(Err(SubscribeError::Ahead { .. })) if self.kind != Kind::Local => {
                    self.is_ahead = true;
                }
                News::Subscribed(Err(error)) => {
                    return violation(format!("the subscriber cannot go on: {error}"));
                }
                News::Accepted(frames, reached) => {
                    self.oracle.given(&mut self.witness, &frames, reached)?;
                    self.cursor.advance(reached);
                    handled |= !frames.is_empty();
                }
                News::Over(_) | News::Admin(..) => {}
            }
        }
        if std::mem::take(&mut self.is_ahead)
            && let Some(node) = &mut self.node
        {
            node.subscribe(&self.cursor);
        }
        if let (true, Some(id), Some(node)) = (handled, self.subscription, &mut self.node) {
            node.handled(id);
            node.turn(self.now);
        }
        if let Some(cause) = faulted {
            // Faults that were armed before may still come; more than those are the node's own.
            self.late_faults += u64::from(!self.faults_on);
            if self.late_faults > self.report.disk_faults {
                return violation(format!("the node stopped on a healthy disk: {cause}"));
            }
            self.say(&format!("faulted: {cause}"));
            // A stopped node holds nothing more; what follows is a restart, with or without a power cut.
            if self.plan.cut.is_some() || self.rng.bool() {
                self.cut_power()?;
            } else {
                self.kill()?;
            }
        }
        Ok(())
    }

    fn check_read(&mut self, answer: Result<Position, ReadError>) -> Checked {
        let Some(floor) = self.read_floor.take() else { return Ok(()) };
        match answer {
            Ok(reached) => self.oracle.read(Some(floor), reached, true),
            Err(_) => Ok(()),
        }
    }

    fn say(&mut self, what: &str) {
        what.hash(&mut self.hasher);
        (self.trace)(&format!(
            "{:>9.3} s  op {:>6}  {what}",
            self.now.as_secs_f64(),
            self.disk.ops()
        ));
    }
}

/// All keys of all namespaces with their values and revisions.
pub(crate) fn everything(node: &Node) -> Vec<String> {
    let kv = node.shards.kv();
    let mut lines = Vec::new();
    for shard in node.shards.namespaces("sim", None, 100) {
        let page = kv.scan(&shard, &Scan::all()).expect("an in-memory read");
        assert!(page.next.is_none(), "few keys");
        lines.push(format!("{shard} {}", page.revision));
        lines.extend(page.entries.iter().map(|it| {
            let revisions = (it.created, it.modified);
            line(&shard, &it.key, &it.value, revisions, it.expires.map(LogTime::as_ms))
        }));
        let counters = node.shards.read(&shard, |view| {
            let rows = view.range(COUNTERS, Bound::Unbounded, Bound::Unbounded);
            let all = rows.map(|(name, row)| {
                let due = row.deadline().map_or(0, LogTime::as_ms);
                counter_line(&shard, &String::from_utf8_lossy(name), count(row.bytes()), due)
            });
            all.collect::<Vec<_>>()
        });
        lines.extend(counters.expect("an in-memory read").unwrap_or_default());
    }
    lines
}
