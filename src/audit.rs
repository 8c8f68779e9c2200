//! Verifies what a stopped node of the quorum driver has decided, with the genesis alone.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use quorate_certificate::{
    Audit, AuditError, Audited, BodyKind, Decided, DecidedFrame, Evidence, Genesis, Header,
    HistoryError, HistoryWriter, ProvenFrame, ValidatorHistory, ValueId, frames_of,
};
use quorate_replicator::GroupId;
use quorate_storage::{
    Body, CheckpointMode, CheckpointStore, DataDir, DataDirError, DataMode, Entry, Group, Index,
    LogConfig, LogError, LogReader, RealDisk,
};

/// How much of a checkpoint is kept in memory: a page of it is read.
const CHECKPOINT_CACHE_BYTES: usize = 1 << 20;

/// How many bytes of the log are read at a time.
const READ_BYTES: usize = 4 << 20;

/// What an audit of a data directory is about.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct AuditOptions {
    /// Which group.
    pub group: GroupId,
    /// A height and the id of its header, which have to be in it: a tail that is missing cannot be seen otherwise.
    pub tip: Option<(u64, ValueId)>,
}

impl Default for AuditOptions {
    fn default() -> Self {
        Self { group: GroupId::new(0), tip: None }
    }
}

/// The first thing that is wrong with what a node has decided.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoredAuditError {
    /// The directory cannot be used.
    #[error("{directory}: {problem}")]
    Directory {
        /// Which.
        directory: String,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// The data are of another driver, which makes no certificates.
    #[error(
        "{directory} has data of driver {driver:?}; only those of driver \"quorum\" can be audited"
    )]
    Driver {
        /// Which.
        directory: String,
        /// Of which driver.
        driver: String,
    },
    /// There is no such group.
    #[error("{directory} has {groups} groups, from g0 on; there is no {group}")]
    Group {
        /// Which.
        directory: String,
        /// How many it has.
        groups: u32,
        /// Which one was asked for.
        group: GroupId,
    },
    /// The log cannot be read.
    #[error("the log: {error}")]
    Log {
        /// Why.
        error: LogError,
    },
    /// The log says of a batch what its header does not.
    #[error("height {height}: the log has {log} where the header says {header}")]
    Differs {
        /// Of which height.
        height: u64,
        /// What the log says.
        log: String,
        /// What the header says.
        header: String,
    },
    /// What the validators signed is not what is stored.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The history cannot be written.
    #[error("the history cannot be written: {error}")]
    Export {
        /// Why.
        error: io::Error,
    },
}

impl StoredAuditError {
    /// Whether the batches are not what was decided, rather than that they could not be read.
    pub const fn is_refusal(&self) -> bool {
        matches!(self, Self::Audit(_) | Self::Differs { .. })
    }
}

/// Verifies each decided batch in the log of a node that is stopped, from the first that is kept on, and writes it to `export` on the way, as
/// [`audit_history`](quorate_certificate::audit_history) reads it. The directory is not changed, and not locked.
///
/// # Errors
///
/// The first thing that is wrong.
pub fn stored(
    data_dir: &Path,
    genesis: &Genesis,
    options: &AuditOptions,
    export: Option<&mut dyn Write>,
) -> Result<Audited, StoredAuditError> {
    let exported = |error| StoredAuditError::Export { error };
    let group = options.group.number();
    let writer = export.map(|export| HistoryWriter::new(export, genesis, group));
    let mut writer = writer.transpose().map_err(exported)?;
    let audited = walk(data_dir, genesis, options, |part, decided| match (&mut writer, part) {
        (Some(writer), Part::Before) => writer.change(decided).map_err(exported),
        (Some(writer), Part::Batch(_)) => writer.batch(decided).map_err(exported),
        (None, _) => Ok(()),
    })?;
    if let Some(mut writer) = writer {
        audited.evidence.iter().try_for_each(|it| writer.evidence(it)).map_err(exported)?;
        writer.end(audited.first, audited.height, &audited.id).map_err(exported)?;
    }
    Ok(audited)
}

/// Finds the newest decided frame that `wanted` takes, in the log of a node that is stopped, and what it takes to prove that it was decided. All of
/// the log is verified on the way.
///
/// # Errors
///
/// The first thing that is wrong.
pub fn prove(
    data_dir: &Path,
    genesis: &Genesis,
    options: &AuditOptions,
    mut wanted: impl FnMut(&ProvenFrame) -> bool,
) -> Result<Option<DecidedFrame>, StoredAuditError> {
    fn decided([header, body, certificate]: &[Bytes; 3]) -> Decided<'_> {
        Decided { header, body, certificate }
    }

    let own = |decided: Decided<'_>| {
        [decided.header, decided.body, decided.certificate].map(Bytes::copy_from_slice)
    };
    let mut changes = Vec::new();
    let mut found = None;
    walk(data_dir, genesis, options, |part, decided| {
        match part {
            Part::Before | Part::Batch(BodyKind::Members) => changes.push(own(decided)),
            Part::Batch(BodyKind::Frames) => {
                let body = Bytes::copy_from_slice(decided.body);
                let frames = frames_of(&body).unwrap_or_default();
                if let Some(frame) = frames.iter().rev().find(|frame| wanted(frame)) {
                    found = Some((changes.len(), own(decided), frame.slot));
                }
            }
            Part::Batch(BodyKind::Empty) => {}
        }
        Ok(())
    })?;
    Ok(found.and_then(|(before, batch, slot)| {
        let changes = changes.iter().take(before).map(decided);
        DecidedFrame::new(genesis, options.group.number(), changes, decided(&batch), slot)
    }))
}

/// What a walk comes upon.
#[derive(Clone, Copy)]
enum Part {
    /// A change of the validators from before the first height that the log has.
    Before,
    /// A height.
    Batch(BodyKind),
}

/// Verifies each decided batch, and gives it to `each`; before them the changes that the log has no more, and after them what is stored of
/// evidence.
fn walk(
    data_dir: &Path,
    genesis: &Genesis,
    options: &AuditOptions,
    mut each: impl FnMut(Part, Decided<'_>) -> Result<(), StoredAuditError>,
) -> Result<Audited, StoredAuditError> {
    let AuditOptions { group, tip } = options;
    let Opened { reader, mark, state } = open(data_dir, *group)?;
    let group = Group::new(group.number());
    let first = reader.first(group).max(1);
    let audit = match first {
        1 => Audit::new(genesis, group.number()),
        first => {
            let mut history = ValidatorHistory::new(genesis, group.number());
            for [header, body, certificate] in changes_in(data_dir, genesis, group, &mark)? {
                let decided = Decided { header: &header, body: &body, certificate: &certificate };
                let height = Header::decode(&header).map_err(HistoryError::from);
                if height.map_err(AuditError::from)?.height < first {
                    history.push(decided).map_err(AuditError::from)?;
                    each(Part::Before, decided)?;
                }
            }
            Audit::after(history, first - 1)
        }
    };
    let mut audit = audit.looking_for(*tip);
    decided(&reader, group, first, |entry, proof| {
        let (kind, body) = carried(entry);
        let decided = Decided { header: &entry.head, body, certificate: proof };
        let header = audit.add(decided)?;
        let differs = |log: String, header: String| {
            Err(StoredAuditError::Differs { height: entry.index, log, header })
        };
        if kind != header.kind {
            return differs(kind.name().into(), header.kind.name().into());
        }
        if entry.tag.0 != header.id() {
            return differs(hex(&entry.tag.0), hex(&header.id()));
        }
        each(Part::Batch(kind), decided)
    })?;
    for evidence in evidence_in(data_dir, genesis, group, state.as_ref())? {
        audit.evidence(evidence)?;
    }
    Ok(audit.finish()?)
}

/// The changes that a checkpoint carries.
fn changes_in(
    data_dir: &Path,
    genesis: &Genesis,
    group: Group,
    mark: &Bytes,
) -> Result<Vec<[Bytes; 3]>, StoredAuditError> {
    #[cfg(feature = "quorum")]
    if !mark.is_empty() {
        return quorate_driver_quorum::changes_in(genesis, group.number(), mark)
            .map_err(|problem| unusable(data_dir, problem));
    }
    // Without the driver nobody here knows its words: if validators changed before, the first height is refused.
    let _ = (data_dir, genesis, group, mark);
    Ok(Vec::new())
}

/// The evidence that is stored.
fn evidence_in(
    data_dir: &Path,
    genesis: &Genesis,
    group: Group,
    state: Option<&Bytes>,
) -> Result<Vec<Evidence>, StoredAuditError> {
    #[cfg(feature = "quorum")]
    if let Some(state) = state {
        return quorate_driver_quorum::evidence_in(genesis, group.number(), state)
            .map_err(|problem| unusable(data_dir, problem));
    }
    let _ = (data_dir, genesis, group, state);
    Ok(Vec::new())
}

fn unusable(data_dir: &Path, problem: String) -> StoredAuditError {
    StoredAuditError::Directory { directory: data_dir.display().to_string(), problem }
}

/// Gives each decided entry from `first` on, in order.
fn decided(
    reader: &LogReader,
    group: Group,
    first: Index,
    mut each: impl FnMut(&Entry, &Bytes) -> Result<(), StoredAuditError>,
) -> Result<(), StoredAuditError> {
    let (last, mut next) = (reader.last(group), first);
    while next <= last {
        let read = reader.read(group, next..last + 1, READ_BYTES);
        let read = read.map_err(|error| StoredAuditError::Log { error })?;
        if read.is_empty() {
            break;
        }
        for (entry, proof) in &read {
            if proof.is_empty() {
                // A candidate of the height that is not decided yet. Nothing can be decided above it.
                return Ok(());
            }
            each(entry, proof)?;
            next = entry.index + 1;
        }
    }
    Ok(())
}

fn carried(entry: &Entry) -> (BodyKind, &[u8]) {
    match &entry.body {
        Body::Empty => (BodyKind::Empty, &[]),
        Body::Frames(bytes) => (BodyKind::Frames, bytes),
        Body::Members(bytes) => (BodyKind::Members, bytes),
    }
}

/// What a stopped node has of a group.
struct Opened {
    reader: LogReader,
    /// The engine's words in the newest checkpoint; nothing if there is none.
    mark: Bytes,
    /// The engine's state in the log.
    state: Option<Bytes>,
}

fn open(data_dir: &Path, group: GroupId) -> Result<Opened, StoredAuditError> {
    let directory = data_dir.display().to_string();
    let failed = |error: DataDirError| StoredAuditError::Directory {
        directory: directory.clone(),
        problem: error.to_string(),
    };
    let disk = Arc::new(RealDisk::new(data_dir));
    let identity = DataDir::peek(&*disk).map_err(failed)?;
    let identity = identity.ok_or_else(|| failed(DataDirError::NotSetUp))?;
    if identity.driver != "quorum" {
        return Err(StoredAuditError::Driver { directory, driver: identity.driver });
    }
    let groups = identity.groups;
    if group.number() >= groups {
        return Err(StoredAuditError::Group { directory, groups, group });
    }
    let mut opened = DataDir::open(disk, &identity, DataMode::ReadOnly, [0; 16]).map_err(failed)?;
    // Nothing is brought into memory: the reader goes through it.
    let floors = (0..groups).map(|group| (Group::new(group), Index::MAX)).collect();
    let (log, mut recovered) = opened.open_log(LogConfig::default(), 0, floors).map_err(failed)?;
    let group = Group::new(group.number());
    let mode = CheckpointMode::ReadOnly;
    let checkpoint = CheckpointStore::open(opened.disk(), group, mode, CHECKPOINT_CACHE_BYTES)
        .map_err(|error| unusable(data_dir, error.to_string()))?;
    let mark = checkpoint.latest().map(|meta| meta.mark).unwrap_or_default();
    let state = recovered.remove(&group).and_then(|recovered| recovered.state);
    Ok(Opened { reader: log.reader(), mark, state })
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;

    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a text takes everything");
        text
    })
}
