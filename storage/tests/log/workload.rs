//! Records that engines could write, and a way to run them.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use quorate_storage::{
    Body, Disk, Entry, Group, Log, LogConfig, LogError, LogMode, Opening, Record, Recovered, Seq,
    SimDisk, Tag,
};

use crate::model::Model;

pub(crate) const STORE: [u8; 16] = *b"a store of tests";

pub(crate) fn opening(mode: LogMode) -> Opening {
    Opening { store: STORE, durable_lsn: 0, floors: BTreeMap::new(), mode }
}

/// Segments of 16 KiB, so that a few records fill one.
pub(crate) fn config() -> LogConfig {
    let mut config = LogConfig::small();
    config.segment_bytes = 16 << 10;
    config.block_bytes_max = 4 << 10;
    config.tail_cache_bytes = 6 << 10;
    config.pinned_bytes_max = 4 * (16 << 10);
    config
}

pub(crate) type Opened = Result<(Log, BTreeMap<Group, Recovered>), LogError>;

pub(crate) fn open(disk: &SimDisk) -> Opened {
    Log::open(Arc::new(disk.clone()), config(), &opening(LogMode::Create))
}

pub(crate) fn open_on(disk: &Arc<dyn Disk>) -> Opened {
    Log::open(Arc::clone(disk), config(), &opening(LogMode::Create))
}

pub(crate) fn tag(number: u8) -> Tag {
    // The last byte too, so that not every tag is short.
    let mut tag = [0; 32];
    tag[0] = number;
    if number % 2 == 1 {
        tag[31] = number;
    }
    Tag(tag)
}

pub(crate) fn put(index: u64, number: u8, bytes: usize) -> Record {
    let body = Bytes::from(vec![index as u8 ^ number; bytes]);
    let body = match bytes {
        0 => Body::Empty,
        n if n % 5 == 0 => Body::Members(body),
        _ => Body::Frames(body),
    };
    let head = Bytes::from(vec![number; number as usize % 4]);
    Record::Put(Entry { index, tag: tag(number), head, body })
}

/// One thing that an engine may do next, relative to where its group stands.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Put {
        tag: u8,
        bytes: usize,
    },
    /// Another candidate at the last index.
    Rival {
        tag: u8,
    },
    Cut {
        back: u64,
    },
    Decide {
        proof: usize,
    },
    State {
        bytes: usize,
    },
    Note {
        ahead: u64,
    },
    Trim {
        keep: u64,
    },
    Reset {
        ahead: u64,
    },
}

impl Step {
    pub(crate) fn random(rng: &mut fastrand::Rng) -> Self {
        match rng.u32(..100) {
            0..40 => Self::Put { tag: rng.u8(..4), bytes: rng.usize(..700) },
            40..45 => Self::Rival { tag: rng.u8(..4) },
            45..50 => Self::Cut { back: rng.u64(..4) },
            50..72 => Self::Decide { proof: rng.usize(..60) * rng.usize(..2) },
            72..82 => Self::State { bytes: rng.usize(..80) },
            82..90 => Self::Note { ahead: rng.u64(..3) },
            90..99 => Self::Trim { keep: rng.u64(..10) },
            _ => Self::Reset { ahead: rng.u64(..20) },
        }
    }

    /// The record that this is for a group that stands so; `None` if it makes no sense there.
    pub(crate) fn record(&self, group: Group, model: &Model) -> Option<Record> {
        let model = model.group(group);
        let last = model.last();
        let undecided = (model.first..=last).find(|index| !model.decided.contains_key(index));
        Some(match *self {
            Self::Put { tag, bytes } => put(last + 1, tag, bytes),
            Self::Rival { tag } => put(undecided?, tag, 30),
            Self::Cut { back } => Record::Cut { from: undecided?.max(last.saturating_sub(back)) },
            Self::Decide { proof } => {
                let index = undecided?;
                let entry = model.entries.get(&index)?.first()?;
                Record::Decide { index, tag: entry.tag, proof: Bytes::from(vec![7; proof]) }
            }
            Self::State { bytes } => Record::State(Bytes::from(vec![last as u8; bytes])),
            Self::Note { ahead } => {
                let note = Bytes::from(format!("note {last} {ahead}"));
                Record::Note { index: undecided.unwrap_or(last + 1) + ahead, note }
            }
            Self::Trim { keep } => {
                let decided = undecided.unwrap_or(last + 1);
                Record::Trim { below: decided.saturating_sub(keep).max(1) }
            }
            Self::Reset { ahead } => {
                Record::Reset { index: last + ahead, mark: Bytes::from(format!("mark {last}")) }
            }
        })
    }
}

/// Submissions of records, each with whether it asks for a flush.
#[derive(Clone, Debug)]
pub(crate) struct Workload {
    pub(crate) submissions: Vec<(Group, Vec<Record>, bool)>,
}

impl Workload {
    pub(crate) fn random(seed: u64, submissions: usize) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut model = Model::default();
        let mut made = Vec::new();
        while made.len() < submissions {
            let group = Group::new(rng.u32(..3));
            let mut records = Vec::new();
            for _ in 0..rng.u32(1..5) {
                if let Some(record) = Step::random(&mut rng).record(group, &model) {
                    model.apply(group, &record);
                    records.push(record);
                }
            }
            if !records.is_empty() {
                made.push((group, records, rng.u32(..4) > 0));
            }
        }
        Self { submissions: made }
    }

    pub(crate) fn records(&self) -> Vec<(Group, Record)> {
        let records = self.submissions.iter();
        records.flat_map(|(g, records, _)| records.iter().map(move |r| (*g, r.clone()))).collect()
    }
}

/// How far a run has come.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress {
    /// All records that were submitted, in order.
    pub(crate) submitted: Vec<(Group, Record)>,
    /// How many of them are durable: they become so in order.
    pub(crate) acked: usize,
    seqs: BTreeMap<Group, Seq>,
    waiting: Vec<(Group, Seq)>,
}

impl Progress {
    /// Submits records with the next seqs of their group.
    pub(crate) fn submit(
        &mut self,
        log: &mut Log,
        group: Group,
        records: &[Record],
        flush: bool,
    ) -> Result<(), LogError> {
        let seq = self.seqs.entry(group).or_default();
        let mut next = *seq;
        let mut numbered = || {
            next += 1;
            next
        };
        let writes: Vec<_> = records.iter().map(|r| (numbered(), flush, r.clone())).collect();
        log.submit(group, writes.clone())?;
        *seq = next;
        for (seq, _, record) in writes {
            self.submitted.push((group, record));
            self.waiting.push((group, seq));
        }
        Ok(())
    }

    /// Commits all that is wanted, and notes what is durable.
    pub(crate) fn commit(&mut self, log: &mut Log) -> Result<(), LogError> {
        while log.wants_commit() {
            let durable = log.commit()?;
            self.durable(&durable);
        }
        Ok(())
    }

    pub(crate) fn durable(&mut self, durable: &[(Group, Seq)]) {
        let upto: BTreeMap<Group, Seq> = durable.iter().copied().collect();
        let before = self.waiting.len();
        self.waiting.retain(|(group, seq)| upto.get(group).is_none_or(|upto| seq > upto));
        self.acked += before - self.waiting.len();
    }

    /// A new life in which so many of the records are known.
    pub(crate) fn after_crash(mut self, kept: usize) -> Self {
        self.submitted.truncate(kept);
        Self { submitted: self.submitted, acked: kept, ..Self::default() }
    }

    /// How many of the submitted records are in what was found after a crash: up to some point, which is not before
    /// the last one that was reported as durable. `None` if it is anything else.
    pub(crate) fn prefix(&self, found: &BTreeMap<Group, Recovered>) -> Option<usize> {
        let mut model = Model::of(&self.submitted[..self.acked]);
        for upto in self.acked..=self.submitted.len() {
            if upto > self.acked {
                let (group, record) = &self.submitted[upto - 1];
                model.apply(*group, record);
            }
            if model.recovered() == *found {
                return Some(upto);
            }
        }
        None
    }
}

/// Runs a workload with maintenance after each commit, until it ends or fails.
pub(crate) fn run(
    log: &mut Log,
    workload: &Workload,
    progress: &mut Progress,
) -> Result<(), LogError> {
    for (group, records, flush) in &workload.submissions {
        progress.submit(log, *group, records, *flush)?;
        progress.commit(log)?;
        while log.maintain()? {}
    }
    Ok(())
}
