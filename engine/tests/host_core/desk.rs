//! A shell without threads: it keeps what the core wrote, makes it durable when told to, and collects answers.

use std::time::Duration;

use quorate_driver_local::{Local, LocalConfig};
use quorate_engine::engine::{EngineDriver, LogWrite};
use quorate_engine::{
    Answer, Callers, CheckpointJob, CoreConfig, Effects, FetchFor, Fetched, HandOver, HashedFrame,
    HostCore, Sent, Start, StoredCheckpoint, SubscriptionId,
};
use quorate_replicator::*;
use quorate_storage::{Entry, Record, Recovered};

/// Numbers instead of channels.
#[derive(Debug)]
pub(crate) struct Numbers;

impl Callers for Numbers {
    type Propose = u64;
    type ProposeMany = u64;
    type Read = u64;
    type Decision = u64;
    type Subscribe = u64;
    type Admin = u64;
}

/// Appends every payload to a list and answers with the number of payloads so far.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    pub(crate) lines: Vec<Bytes>,
    written: usize,
    pub(crate) deadline: Option<LogTime>,
}

impl StateMachine for Journal {
    fn apply(&mut self, batch: &Batch<'_>, outcomes: &mut Outcomes) {
        if self.deadline.is_some_and(|at| at <= batch.log_time) {
            self.deadline = None;
            self.lines.push("deadline".into());
        }
        for frame in batch.frames {
            match &frame.frame.payload[..] {
                b"panic" => panic!("asked to"),
                b"long" => {
                    self.lines.push(frame.frame.payload.clone());
                    outcomes.answer(vec![7; limits::REPLY_KEPT_BYTES_MAX + 1]);
                    continue;
                }
                b"alarm" => self.deadline = Some(batch.log_time.plus_ms(50)),
                _ => {}
            }
            self.lines.push(frame.frame.payload.clone());
            outcomes.answer(self.lines.len().to_string());
        }
    }

    /// A line that begins with "below" and a number is allowed while there are fewer lines.
    fn validate(&self, frame: &Frame) -> Result<(), String> {
        let text = String::from_utf8_lossy(&frame.payload);
        let Some(limit) = text.strip_prefix("below ").and_then(|text| text.split(' ').next())
        else {
            return Ok(());
        };
        match limit.parse() {
            Ok(limit) if self.lines.len() >= limit => {
                Err(format!("there are {} lines: {}", self.lines.len(), "é".repeat(200)))
            }
            _ => Ok(()),
        }
    }

    fn next_deadline(&self) -> Option<LogTime> {
        self.deadline
    }

    fn begin_checkpoint(&mut self) -> CheckpointPairs {
        let new = self.lines[self.written..].to_vec();
        let first = std::mem::replace(&mut self.written, self.lines.len());
        Box::new(
            new.into_iter()
                .enumerate()
                .map(move |(i, line)| Pair::put(((first + i) as u64).to_be_bytes().to_vec(), line)),
        )
    }

    fn restore(&mut self, reader: &mut dyn CheckpointReader) -> Result<(), RestoreError> {
        self.lines.clear();
        while let Some((_, line)) = reader.next()? {
            self.lines.push(line);
        }
        self.written = self.lines.len();
        Ok(())
    }
}

/// A stored checkpoint: what all jobs so far add up to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stored {
    pub(crate) index: u64,
    mark: Bytes,
    state: [u8; 32],
    words: Bytes,
    machine: std::collections::BTreeMap<Bytes, Bytes>,
    host: std::collections::BTreeMap<Bytes, Bytes>,
}

impl Stored {
    pub(crate) fn write(&mut self, job: CheckpointJob) {
        (self.index, self.mark, self.state, self.words) =
            (job.index, job.mark, job.state, job.words.into());
        for (pairs, map) in [(job.machine, &mut self.machine), (job.host, &mut self.host)] {
            for Pair { key, value } in pairs {
                match value {
                    Some(value) => map.insert(key, value),
                    None => map.remove(&key),
                };
            }
        }
    }
}

struct Pairs(std::collections::btree_map::IntoIter<Bytes, Bytes>);

impl CheckpointReader for Pairs {
    fn next(&mut self) -> Result<Option<(Bytes, Bytes)>, RestoreError> {
        Ok(self.0.next())
    }
}

/// A node without threads.
#[derive(Debug)]
pub(crate) struct Desk {
    pub(crate) core: HostCore<Numbers>,
    pub(crate) effects: Effects<Numbers>,
    pub(crate) now: Duration,
    /// Written and not durable.
    pub(crate) pending: Vec<LogWrite>,
    /// Durable entries.
    pub(crate) entries: Vec<Entry>,
    pub(crate) first: u64,
    pub(crate) stored: Option<Stored>,
    pub(crate) jobs: Vec<CheckpointJob>,
    pub(crate) proposed: Vec<(u64, Result<Decision, ProposeError>)>,
    pub(crate) proposed_many: Vec<(u64, Result<Vec<Decision>, ProposeError>)>,
    pub(crate) reads: Vec<(u64, Result<Position, ReadError>)>,
    pub(crate) decisions: Vec<(u64, Result<Decision, ReadError>)>,
    pub(crate) subscribed: Vec<(u64, Result<SubscriptionId, SubscribeError>)>,
    pub(crate) administered: Vec<(u64, Result<(), AdminError>)>,
    pub(crate) chunks: Vec<quorate_engine::Chunk>,
    pub(crate) events: Vec<Event>,
    pub(crate) sent: Vec<Sent>,
    next: u64,
}

pub(crate) fn config() -> CoreConfig {
    CoreConfig::new(GroupId::new(0), NodeId::new(1))
}

pub(crate) fn shard() -> ShardKey {
    ShardKey::new("org", "ns").unwrap()
}

pub(crate) fn session(number: u8) -> SessionId {
    SessionId::new([number; 16])
}

pub(crate) fn frame(number: u8, serial: u64, payload: &str) -> Frame {
    Frame::new(FrameId { session: session(number), serial }, shard(), payload.to_owned())
}

impl Desk {
    pub(crate) fn open(config: CoreConfig) -> Self {
        Self::with(config, &Local, &LocalConfig::default(), Vec::new(), 1, None)
    }

    pub(crate) fn with<D: EngineDriver>(
        config: CoreConfig,
        driver: &D,
        driver_config: &D::Config,
        entries: Vec<Entry>,
        first: u64,
        stored: Option<Stored>,
    ) -> Self {
        let node = config.node;
        let log = Recovered { first, entries: entries.clone(), ..Recovered::default() };
        let mut readers = stored
            .clone()
            .map(|stored| (Pairs(stored.machine.into_iter()), Pairs(stored.host.into_iter())));
        let checkpoint = stored.as_ref().zip(readers.as_mut()).map(|(stored, (machine, host))| {
            StoredCheckpoint {
                index: stored.index,
                mark: stored.mark.clone(),
                state: stored.state,
                words: stored.words.clone(),
                machine,
                host,
            }
        });
        let start = Start {
            members: vec![node],
            incarnation: [1; 16],
            seed: 1,
            machine: Box::new(Journal::default()),
            checkpoint,
            log,
        };
        let core = HostCore::open(config, driver, driver_config, start, Duration::ZERO).unwrap();
        let mut desk = Self {
            core,
            effects: Effects::default(),
            now: Duration::ZERO,
            pending: Vec::new(),
            entries,
            first,
            stored,
            jobs: Vec::new(),
            proposed: Vec::new(),
            proposed_many: Vec::new(),
            reads: Vec::new(),
            decisions: Vec::new(),
            subscribed: Vec::new(),
            administered: Vec::new(),
            chunks: Vec::new(),
            events: Vec::new(),
            sent: Vec::new(),
            next: 0,
        };
        desk.turn();
        desk
    }

    /// Stops without a word and starts again on what is durable.
    pub(crate) fn restart(self, config: CoreConfig) -> Self {
        Self::with(config, &Local, &LocalConfig::default(), self.entries, self.first, self.stored)
    }

    /// Stops without a word and leaves what is durable.
    pub(crate) fn leave(self, mut config: CoreConfig) -> HandOver {
        config.volatile = true;
        (config.checkpoint.log_bytes, config.checkpoint.interval) = (u64::MAX, Duration::MAX);
        self.restart(config).core.hand_over(false).unwrap()
    }

    /// Stops without a word and leaves what is durable to a group that begins with it.
    pub(crate) fn inherit(mut self, config: CoreConfig) -> Self {
        let mut stored = self.stored.take().unwrap_or_default();
        self.stored = Some(stored.clone()).filter(|stored| stored.index > 0);
        let left = self.leave(config.clone());
        let state = left.state;
        let (job, _) = left.found(&Local, &LocalConfig::default(), [2; 16]).unwrap();
        stored.write(job);
        let first = stored.index + 1;
        let (driver, begins) = (LocalConfig::default(), Some(stored));
        let desk = Self::with(config, &Local, &driver, Vec::new(), first, begins);
        assert_eq!(desk.core.inheritance(), state);
        desk
    }

    pub(crate) fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub(crate) fn propose(&mut self, frame: Frame, within: Duration) -> u64 {
        let who = self.number();
        let deadline = self.now + within;
        self.core.propose(HashedFrame::from(frame), deadline, who, &mut self.effects);
        who
    }

    /// Proposes, makes everything durable, and answers what came of it.
    pub(crate) fn decide(&mut self, frame: Frame) -> Result<Decision, ProposeError> {
        let who = self.propose(frame, Duration::from_secs(2));
        self.run();
        let place = self.proposed.iter().position(|(answered, _)| *answered == who);
        self.proposed.remove(place.expect("an answer")).1
    }

    pub(crate) fn open_session(&mut self, number: u8) {
        let open = Frame::open_session(session(number), shard());
        assert!(matches!(self.decide(open), Ok(Decision::Accept(_))));
    }

    /// One turn, and what it wants except durability.
    pub(crate) fn turn(&mut self) {
        while self.core.turn(self.now, &mut self.effects) {}
        self.do_effects();
    }

    fn do_effects(&mut self) {
        let mut effects = std::mem::take(&mut self.effects);
        self.pending.append(&mut effects.writes);
        for answer in effects.answers {
            match answer {
                Answer::Propose(who, answer) => self.proposed.push((who, answer)),
                Answer::ProposeMany(who, answer) => self.proposed_many.push((who, answer)),
                Answer::Read(who, answer) => self.reads.push((who, answer)),
                Answer::Decision(who, answer) => self.decisions.push((who, answer)),
                Answer::Subscribe(who, answer) => self.subscribed.push((who, answer)),
                Answer::Admin(who, answer) => self.administered.push((who, answer)),
            }
        }
        self.chunks.append(&mut effects.chunks);
        self.events.append(&mut effects.events);
        self.sent.append(&mut effects.sends);
        self.jobs.extend(effects.checkpoint.take());
        let fetches = std::mem::take(&mut effects.fetches);
        for fetch in fetches {
            let FetchFor::Subscription(_) = fetch.reader else { continue };
            let fetched = if fetch.range.start < self.first {
                Fetched::Trimmed(self.first)
            } else {
                let wanted = self.entries.iter().filter(|entry| fetch.range.contains(&entry.index));
                Fetched::Entries(
                    wanted.take(3).map(|entry| (entry.clone(), Bytes::new())).collect(),
                )
            };
            self.core.fetched(fetch.reader, fetched, &mut self.effects);
            self.turn();
        }
    }

    /// Makes everything written durable; false if nothing was.
    pub(crate) fn flush(&mut self) -> bool {
        let Some(last) = self.pending.last().map(|write| write.seq) else { return false };
        for write in self.pending.drain(..) {
            match write.record {
                Record::Put(entry) => self.entries.push(entry),
                Record::Trim { below } => {
                    self.first = below;
                    self.entries.retain(|entry| entry.index >= below);
                }
                other => panic!("the local engine does not write {other:?}"),
            }
        }
        self.core.durable(last);
        true
    }

    /// Until nothing happens any more.
    pub(crate) fn run(&mut self) {
        self.turn();
        while self.flush() {
            self.turn();
        }
    }

    /// Stores the oldest checkpoint job.
    pub(crate) fn store(&mut self) {
        let job = self.jobs.remove(0);
        let index = job.index;
        self.stored.get_or_insert_default().write(job);
        self.core.checkpointed(self.now, index, &mut self.effects);
        self.run();
    }

    /// Lets time pass.
    pub(crate) fn pass(&mut self, ms: u64) {
        self.now += Duration::from_millis(ms);
    }
}
