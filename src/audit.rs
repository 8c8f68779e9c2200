//! Verifies what a stopped node of the quorum driver has decided, with the genesis alone.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use quorate_certificate::{
    Audit, AuditError, Audited, BodyKind, Decided, DecidedFrame, Genesis, HistoryWriter,
    ProvenFrame, ValidatorHistory, ValueId, frames_of,
};
use quorate_replicator::GroupId;
use quorate_storage::{
    Body, DataDir, DataDirError, DataMode, Entry, Group, Index, LogConfig, LogError, LogReader,
    RealDisk,
};

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
    let audited = walk(data_dir, genesis, options, |_, decided| match &mut writer {
        Some(writer) => writer.batch(decided).map_err(exported),
        None => Ok(()),
    })?;
    if let Some(writer) = writer {
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
    walk(data_dir, genesis, options, |kind, decided| {
        match kind {
            BodyKind::Members => changes.push(own(decided)),
            BodyKind::Frames => {
                let body = Bytes::copy_from_slice(decided.body);
                let frames = frames_of(&body).unwrap_or_default();
                if let Some(frame) = frames.iter().rev().find(|frame| wanted(frame)) {
                    found = Some((changes.len(), own(decided), frame.slot));
                }
            }
            BodyKind::Empty => {}
        }
        Ok(())
    })?;
    Ok(found.and_then(|(before, batch, slot)| {
        let changes = changes.iter().take(before).map(decided);
        DecidedFrame::new(genesis, options.group.number(), changes, decided(&batch), slot)
    }))
}

/// Verifies each decided batch, and gives it to `each`.
fn walk(
    data_dir: &Path,
    genesis: &Genesis,
    options: &AuditOptions,
    mut each: impl FnMut(BodyKind, Decided<'_>) -> Result<(), StoredAuditError>,
) -> Result<Audited, StoredAuditError> {
    let AuditOptions { group, tip } = options;
    let reader = open(data_dir, *group)?;
    let group = Group::new(group.number());
    let first = reader.first(group).max(1);
    let audit = match first {
        1 => Audit::new(genesis, group.number()),
        first => Audit::after(ValidatorHistory::new(genesis, group.number()), first - 1),
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
        each(kind, decided)
    })?;
    Ok(audit.finish()?)
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

fn open(data_dir: &Path, group: GroupId) -> Result<LogReader, StoredAuditError> {
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
    let (log, _) = opened.open_log(LogConfig::default(), 0, floors).map_err(failed)?;
    Ok(log.reader())
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;

    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a text takes everything");
        text
    })
}
