//! Checkpoints: what a group's state was at an index, in one file that is brought up to date by what changed since.
//!
//! ```text
//!   write(meta, changed pairs) --one transaction--> checkpoint/g0.redb <-- pin() readers, each on its own version
//!                                                         ^
//!   stage() ... put ... finish(digests) --> g0.stage -----+ install(): rename, sync of the directory
//!                                                         + recover(): the same after a crash, if the log says so
//! ```
//!
//! # Invariants
//!
//! 1. What [`CheckpointStore::latest`] gives is complete: its index, its pairs and their digests are of one transaction.
//! 2. After the first failure nothing is written any more; the last complete checkpoint is found at the next open.

mod backend;
mod digest;
mod error;
mod pin;
mod stage;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use redb::{Builder, Database, Durability, ReadableDatabase, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};

pub use error::CheckpointError;
pub use pin::Pin;
pub use stage::Stage;

use crate::data_dir::CHECKPOINT_DIR;
use crate::{Disk, Group, Index, OpenMode};
use backend::{FileBackend, OverlayBackend};
use digest::Digest;
use stage::StageFile;

type Pairs = TableDefinition<'static, &'static [u8], &'static [u8]>;

const MACHINE: Pairs = TableDefinition::new("machine");
const HOST: Pairs = TableDefinition::new("host");
const META: TableDefinition<'static, &'static str, &'static [u8]> = TableDefinition::new("meta");
const META_KEY: &str = "checkpoint";
const FORMAT: u32 = 1;

/// What a checkpoint says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointMeta {
    /// The last index in it.
    pub index: Index,
    /// The host's own words: position, log time and the like.
    pub position: Bytes,
    /// The engine's mark that was delivered with that index.
    pub mark: Bytes,
    /// Hash of the history up to it.
    pub state: [u8; 32],
    /// A block of the log that was durable by then, from [`LogReader::durable_lsn`](crate::LogReader::durable_lsn).
    pub log_watermark: u64,
}

/// Pairs that changed, with their new value or `None` if they are gone. Of several changes of one key the last counts.
pub type Changes = Vec<(Bytes, Option<Bytes>)>;

/// A checkpoint to be written: what changed since the one before.
#[derive(Clone, Debug)]
pub struct CheckpointWrite {
    /// What it says of itself.
    pub meta: CheckpointMeta,
    /// Pairs of the state machine.
    pub machine_pairs: Changes,
    /// Pairs of the host.
    pub host_pairs: Changes,
}

/// What can be counted of some pairs, and told from others by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// How many pairs there are.
    pub pairs: u64,
    /// The sum, modulo 2^256, of BLAKE3 of (length of the key, key, value) over them.
    pub digest: [u8; 32],
}

/// What can be counted of a checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Of the pairs of the state machine.
    pub machine: Tally,
    /// Of the pairs of the host.
    pub host: Tally,
}

/// How a checkpoint file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckpointMode {
    /// It is created if there is none.
    Create,
    /// It must exist, and nothing is written to the disk.
    ReadOnly,
}

/// The checkpoints of a group, for one owner. All methods may be called from every thread; writes wait for one another.
#[derive(Debug)]
pub struct CheckpointStore {
    disk: Arc<dyn Disk>,
    paths: Paths,
    mode: CheckpointMode,
    cache_bytes: usize,
    sticky: Arc<Sticky>,
    // Held while a checkpoint is written, but not while one is read.
    writer: Mutex<()>,
    /// How many stages were begun.
    stages: Arc<Mutex<u64>>,
    // Held for a moment, to look at the newest.
    current: Mutex<Current>,
}

#[derive(Clone, Debug)]
struct Current {
    /// None until something is to be kept: a group that has nothing costs no file.
    database: Option<Arc<Database>>,
    latest: Option<(CheckpointMeta, Summary)>,
}

/// Where the files of a group are.
#[derive(Clone, Debug)]
struct Paths {
    file: String,
    new: String,
    stage: String,
}

impl Paths {
    fn new(group: Group) -> Self {
        let path = |suffix: &str| format!("{CHECKPOINT_DIR}/g{}.{suffix}", group.number());
        Self { file: path("redb"), new: path("new"), stage: path("stage") }
    }
}

/// What is said of a file in which redb panics.
const NO_SENSE: &str = "its pages make no sense";

/// The first failure, which ends all work.
#[derive(Debug, Default)]
struct Sticky {
    cause: OnceLock<Arc<str>>,
}

impl Sticky {
    fn check(&self) -> Result<(), CheckpointError> {
        match self.cause.get() {
            None => Ok(()),
            Some(cause) => Err(CheckpointError::Faulted { cause: Arc::clone(cause) }),
        }
    }

    fn fault(&self, what: &str, error: impl Into<redb::Error>) -> CheckpointError {
        let cause = || Arc::from(format!("{what}: {}", error.into()));
        CheckpointError::Faulted { cause: Arc::clone(self.cause.get_or_init(cause)) }
    }
}

/// The meta of a checkpoint as it is on disk.
#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    format: u32,
    index: u64,
    position: Bytes,
    mark: Bytes,
    state: [u8; 32],
    log_watermark: u64,
    summary: Summary,
}

impl CheckpointStore {
    /// Opens the file of a group in the directory `checkpoint` of a disk. `cache_bytes` bounds what is kept in memory
    /// of it.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::Damaged`], [`CheckpointError::Newer`] and
    /// [`CheckpointError::Io`] as they say.
    pub fn open(
        disk: Arc<dyn Disk>,
        group: Group,
        mode: CheckpointMode,
        cache_bytes: usize,
    ) -> Result<Self, CheckpointError> {
        let paths = Paths::new(group);
        let (mut database, mut latest) = (None, None);
        if exists(&*disk, &paths.file)? {
            if mode == CheckpointMode::Create {
                // The process before may have ended because this failed, and the log is trimmed for what the file holds.
                disk.sync_dir(CHECKPOINT_DIR).map_err(CheckpointError::io(format!(
                    "make the name of {} stable",
                    paths.file
                )))?;
            }
            let opened = sound(&paths.file, || {
                let opened = open_database(&*disk, &paths.file, mode, cache_bytes)?;
                latest = read_meta(&opened, &paths.file)?;
                Ok(opened)
            })?;
            database = Some(Arc::new(opened));
        } else if mode == CheckpointMode::Create {
            disk.create_dir_all(CHECKPOINT_DIR)
                .and_then(|()| disk.sync_dir(""))
                .map_err(CheckpointError::io(format!("create {CHECKPOINT_DIR}")))?;
        }
        Ok(Self {
            disk,
            paths,
            mode,
            cache_bytes,
            sticky: Arc::default(),
            writer: Mutex::new(()),
            stages: Arc::default(),
            current: Mutex::new(Current { database, latest }),
        })
    }

    /// The newest checkpoint; `None` before the first.
    pub fn latest(&self) -> Option<CheckpointMeta> {
        self.current().latest.as_ref().map(|(meta, _)| meta.clone())
    }

    /// How many pairs the newest checkpoint has, and their digests.
    pub fn summary(&self) -> Summary {
        self.current().latest.as_ref().map(|&(_, summary)| summary).unwrap_or_default()
    }

    /// Writes a checkpoint: all of it in one durable transaction, or nothing.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::Older`] if its index is below that of the newest; [`CheckpointError::Faulted`] if the disk
    /// failed, now or before.
    pub fn write(&self, write: CheckpointWrite) -> Result<(), CheckpointError> {
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        self.sticky.check()?;
        let Current { database, latest } = self.current().clone();
        let mut summary = Summary::default();
        if let Some((newest, known)) = latest {
            if write.meta.index < newest.index {
                let (index, newest) = (write.meta.index, newest.index);
                return Err(CheckpointError::Older { index, newest });
            }
            summary = known;
        }
        let database = match database {
            Some(database) => database,
            None => self.create()?,
        };
        let CheckpointWrite { meta, machine_pairs, host_pairs } = write;
        #[cfg(quorate_planted)]
        if quorate_planted::Bug::IndexBeforeData.is_planted() {
            self.sticky.run("write a checkpoint", || {
                let transaction = durable(&database)?;
                put_meta(&transaction, &meta, &summary)?;
                Ok(transaction.commit()?)
            })?;
        }
        self.sticky.run("write a checkpoint", || {
            let transaction = durable(&database)?;
            put_pairs(&transaction, MACHINE, machine_pairs, &mut summary.machine)?;
            put_pairs(&transaction, HOST, host_pairs, &mut summary.host)?;
            put_meta(&transaction, &meta, &summary)?;
            transaction.commit()?;
            Ok(())
        })?;
        self.current().latest = Some((meta, summary));
        Ok(())
    }

    /// The newest checkpoint, to be read while newer ones are written; `None` before the first.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::Faulted`] if the disk failed, now or before.
    pub fn pin(&self) -> Result<Option<Pin>, CheckpointError> {
        self.sticky.check()?;
        let current = self.current();
        let Some(latest) = current.latest.clone() else { return Ok(None) };
        let database = Arc::clone(current.database.as_ref().expect("what it has is in a file"));
        // Under the lock: a write in progress is committed before or after the two are taken together.
        let tables = self.sticky.run("read a checkpoint", || {
            let transaction = database.begin_read()?;
            let found = transaction.open_table(META)?.get(META_KEY)?.map(|it| it.value().to_vec());
            Ok((found, transaction.open_table(MACHINE)?, transaction.open_table(HOST)?))
        })?;
        let (found, machine, host) = tables;
        // A commit that has just happened may be newer than what is noted.
        let latest = match found {
            Some(bytes) => decode_meta(&bytes, &self.paths.file)?,
            None => latest,
        };
        Ok(Some(Pin::new(latest, machine, host, Arc::clone(&self.sticky), database)))
    }

    /// Reads everything and compares it with the digests, and lets redb check its file.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::Damaged`] if something differs, [`CheckpointError::Pinned`] while something is pinned.
    pub fn verify(&mut self) -> Result<Summary, CheckpointError> {
        self.sticky.check()?;
        let damaged = |what: &str| CheckpointError::Damaged {
            path: self.paths.file.clone(),
            what: what.to_owned(),
        };
        let Some(pin) = self.pin()? else { return Ok(Summary::default()) };
        let found = sound(&self.paths.file, || {
            Ok(Summary {
                machine: add_up(|from| pin.read_machine(from, VERIFY_PAIRS, VERIFY_BYTES))?,
                host: add_up(|from| pin.read_host(from, VERIFY_PAIRS, VERIFY_BYTES))?,
            })
        })?;
        if found != pin.summary() {
            return Err(damaged("its pairs do not add up to its digests"));
        }
        drop(pin);
        let current = self.current.get_mut().unwrap_or_else(PoisonError::into_inner);
        let Some(database) = current.database.as_mut().and_then(Arc::get_mut) else {
            return Err(CheckpointError::Pinned);
        };
        match sound(&self.paths.file, || Ok(database.check_integrity()))? {
            Ok(true) => Ok(found),
            Ok(false) => Err(damaged("its pages were not in order")),
            Err(error) => Err(self.sticky.fault("check a checkpoint", error)),
        }
    }

    /// Begins to receive a snapshot beside the newest checkpoint, in the place of one that was begun before.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::Faulted`] if the disk failed now, which ends this stage alone, or before.
    pub fn stage(&self) -> Result<Stage, CheckpointError> {
        self.sticky.check()?;
        let (disk, path) = (Arc::clone(&self.disk), self.paths.stage.clone());
        let number = {
            let mut last = self.stages.lock().unwrap_or_else(PoisonError::into_inner);
            *last += 1;
            *last
        };
        let last = Arc::clone(&self.stages);
        Stage::new(StageFile { disk, path, last, number, is_kept: false }, self.cache_bytes)
    }

    /// Puts a received snapshot in the place of the newest checkpoint. After a crash there is the one or the other. What is
    /// pinned stays readable.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::Older`] if it is older than the newest; [`CheckpointError::Faulted`] if the disk failed, now or
    /// before.
    ///
    /// # Panics
    ///
    /// If another stage was begun since: what the caller holds is gone then.
    pub fn install(&self, staged: Staged) -> Result<CheckpointMeta, CheckpointError> {
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        self.sticky.check()?;
        let Staged { database, meta, summary, file } = staged;
        let stages = *self.stages.lock().unwrap_or_else(PoisonError::into_inner);
        assert_eq!(file.number, stages, "what was staged last is installed");
        if let Some(newest) = self.latest()
            && meta.index < newest.index
        {
            return Err(CheckpointError::Older { index: meta.index, newest: newest.index });
        }
        self.disk
            .rename(&self.paths.stage, &self.paths.file)
            .and_then(|()| self.disk.sync_dir(CHECKPOINT_DIR))
            .map_err(|error| self.sticky.fault("install a snapshot", error))?;
        let latest = Some((meta.clone(), summary));
        *self.current() = Current { database: Some(Arc::new(database)), latest };
        Ok(meta)
    }

    /// Ends what a crash interrupted, once the log is known. `reset` is the last index of the snapshot after which the log
    /// begins anew, if it does: if that is beyond the newest checkpoint, the snapshot that was staged for it is put in force; `true`
    /// then. Whatever else was staged is removed. Called once, before anything else is done with this store.
    ///
    /// A store that is only read looks at the snapshot where it is.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::NoSnapshot`] if it is not there, or not whole; otherwise as [`open`](Self::open).
    pub fn recover(&mut self, reset: Option<Index>) -> Result<bool, CheckpointError> {
        self.sticky.check()?;
        let current = self.current.get_mut().unwrap_or_else(PoisonError::into_inner);
        let newest = current.latest.as_ref().map_or(0, |(meta, _)| meta.index);
        let path = &self.paths.stage;
        let Some(reset) = reset.filter(|reset| *reset > newest) else {
            if self.mode == CheckpointMode::Create {
                remove_if_there(&*self.disk, path)
                    .map_err(CheckpointError::io(format!("remove {path}")))?;
            }
            return Ok(false);
        };
        let lost = |found: String| CheckpointError::NoSnapshot {
            reset,
            path: path.clone(),
            found,
            newest,
        };
        let database = match open_database(&*self.disk, path, self.mode, self.cache_bytes) {
            Ok(database) => database,
            Err(CheckpointError::Missing { .. }) => return Err(lost("missing".to_owned())),
            Err(CheckpointError::Damaged { what, .. }) => {
                return Err(lost(format!("damaged: {what}")));
            }
            Err(error) => return Err(error),
        };
        // The description is of the last transaction: without it the rest is not whole.
        let latest = match read_meta(&database, path)? {
            Some(latest) if latest.0.index == reset => latest,
            Some((meta, _)) => return Err(lost(format!("one at index {}", meta.index))),
            None => return Err(lost("not whole".to_owned())),
        };
        if self.mode == CheckpointMode::Create {
            self.disk
                .rename(path, &self.paths.file)
                .and_then(|()| self.disk.sync_dir(CHECKPOINT_DIR))
                .map_err(CheckpointError::io(format!("put {path} in force")))?;
        }
        *current = Current { database: Some(Arc::new(database)), latest: Some(latest) };
        Ok(true)
    }

    /// Gives back to the file system what the file has and does not need, if that is more than half of it and at least
    /// 1 MiB; `false` if it is not, or nothing was won.
    ///
    /// A file that is brought up to date again and again keeps the space of what was replaced, for what comes; it grows to
    /// about three times the pairs, and stays so when they become few. Call this when the node is idle or is closing: it reads and writes all pairs, which
    /// takes about as long as to write a first checkpoint of them, and every other call of this store waits for it. After a crash in
    /// between the newest checkpoint is found all the same.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::Pinned`] while something is pinned, with nothing changed; [`CheckpointError::Faulted`] if the disk
    /// failed, now or before.
    pub fn compact(&self) -> Result<bool, CheckpointError> {
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        self.sticky.check()?;
        if self.mode == CheckpointMode::ReadOnly {
            return Ok(false);
        }
        // Held all the time, so that nobody pins what is moved.
        let mut current = self.current();
        let Some(database) = &mut current.database else { return Ok(false) };
        let Some(database) = Arc::get_mut(database) else {
            return Err(CheckpointError::Pinned);
        };
        let mut won = false;
        for _ in 0..COMPACT_ROUNDS {
            let file = self.disk.open(&self.paths.file, OpenMode::Read).and_then(|it| it.len());
            let all = file.map_err(|error| self.sticky.fault("measure a checkpoint", error))?;
            let live = self.sticky.run("measure a checkpoint", || live_bytes(database))?;
            if all < COMPACT_BYTES_MIN || live > all / 2 {
                break;
            }
            if !self.sticky.run("compact a checkpoint", || Ok(database.compact()?))? {
                break;
            }
            won = true;
        }
        Ok(won)
    }

    /// Makes the file, for the first checkpoint.
    fn create(&self) -> Result<Arc<Database>, CheckpointError> {
        let made = prepare(&*self.disk, &self.paths, self.cache_bytes).and_then(|()| {
            open_database(&*self.disk, &self.paths.file, self.mode, self.cache_bytes)
        });
        let database = Arc::new(made.map_err(|error| {
            let cause = error.to_string();
            self.sticky.fault("create a checkpoint", redb::Error::Io(io::Error::other(cause)))
        })?);
        self.current().database = Some(Arc::clone(&database));
        Ok(database)
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A snapshot that was received and is durable, but not in force. Dropping it leaves it on the disk for
/// [`CheckpointStore::recover`].
pub struct Staged {
    database: Database,
    file: StageFile,
    meta: CheckpointMeta,
    summary: Summary,
}

impl Debug for Staged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Staged").field("meta", &self.meta).finish_non_exhaustive()
    }
}

impl Staged {
    /// What it says of itself.
    pub fn meta(&self) -> &CheckpointMeta {
        &self.meta
    }

    /// Gives it up, and its room on the disk. Not once a log begins after it: nothing could take its place.
    pub fn discard(self) {
        let Self { database, mut file, .. } = self;
        drop(database);
        file.is_kept = false;
    }
}

/// Smaller files are not worth it.
const COMPACT_BYTES_MIN: u64 = 1 << 20;

/// How often what one compaction has left is compacted again.
const COMPACT_ROUNDS: usize = 4;

/// Bytes that the pairs and their tree take.
fn live_bytes(database: &Database) -> Result<u64, redb::Error> {
    let transaction = database.begin_write()?;
    let stats = transaction.stats()?;
    transaction.abort()?;
    Ok(stats.stored_bytes() + stats.metadata_bytes())
}

const VERIFY_PAIRS: usize = 10_000;
const VERIFY_BYTES: usize = 4 << 20;

fn add_up(
    read: impl Fn(Bound<&[u8]>) -> Result<Vec<(Bytes, Bytes)>, CheckpointError>,
) -> Result<Tally, CheckpointError> {
    let (mut count, mut digest) = (0, Digest::default());
    let mut last: Option<Bytes> = None;
    loop {
        let pairs = read(last.as_deref().map_or(Bound::Unbounded, Bound::Excluded))?;
        let Some((key, _)) = pairs.last() else {
            return Ok(Tally { pairs: count, digest: digest.to_bytes() });
        };
        last = Some(key.clone());
        count += pairs.len() as u64;
        for (key, value) in &pairs {
            digest.add(key, value);
        }
    }
}

impl Sticky {
    /// Does something whose failure ends all work. redb panics where its pages make no sense, which is a failure too.
    fn run<T>(
        &self,
        what: &str,
        act: impl FnOnce() -> Result<T, redb::Error>,
    ) -> Result<T, CheckpointError> {
        match catch_unwind(AssertUnwindSafe(act)) {
            Ok(done) => done.map_err(|error| self.fault(what, error)),
            Err(_) => Err(self.fault(what, redb::Error::Corrupted(NO_SENSE.to_owned()))),
        }
    }
}

fn durable(database: &Database) -> Result<WriteTransaction, redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
    transaction.set_two_phase_commit(true);
    transaction.set_quick_repair(true);
    Ok(transaction)
}

/// Applies changes in the order of their keys, which is what a tree on disk likes, and keeps the tally.
fn put_pairs(
    transaction: &WriteTransaction,
    table: Pairs,
    changes: Changes,
    tally: &mut Tally,
) -> Result<(), redb::Error> {
    let sorted: BTreeMap<Bytes, Option<Bytes>> = changes.into_iter().collect();
    let mut digest = Digest::from_bytes(tally.digest);
    let mut table = transaction.open_table(table)?;
    for (key, value) in &sorted {
        let old = match value {
            Some(value) => {
                digest.add(key, value);
                tally.pairs += 1;
                table.insert(&key[..], &value[..])?
            }
            None => table.remove(&key[..])?,
        };
        if let Some(old) = old {
            digest.subtract(key, old.value());
            tally.pairs -= 1;
        }
    }
    tally.digest = digest.to_bytes();
    Ok(())
}

fn put_meta(
    transaction: &WriteTransaction,
    meta: &CheckpointMeta,
    summary: &Summary,
) -> Result<(), redb::Error> {
    let CheckpointMeta { index, position, mark, state, log_watermark } = meta.clone();
    let summary = *summary;
    let stored = Stored { format: FORMAT, index, position, mark, state, log_watermark, summary };
    let bytes = rmp_serde::to_vec(&stored).expect("plain fields can be encoded");
    transaction.open_table(META)?.insert(META_KEY, &bytes[..])?;
    Ok(())
}

fn decode_meta(bytes: &[u8], path: &str) -> Result<(CheckpointMeta, Summary), CheckpointError> {
    let damaged = |what: String| CheckpointError::Damaged { path: path.to_owned(), what };
    // The format comes first, so that it can be read of any later one.
    let format: u32 = match bytes {
        [first, second, ..] if first & 0xf0 == 0x90 && *second < 0x80 => u32::from(*second),
        _ => return Err(damaged("its description makes no sense".to_owned())),
    };
    if format != FORMAT {
        return Err(CheckpointError::Newer { path: path.to_owned(), format, known: FORMAT });
    }
    let stored: Stored = rmp_serde::from_slice(bytes)
        .map_err(|error| damaged(format!("its description makes no sense: {error}")))?;
    let Stored { format: _, index, position, mark, state, log_watermark, summary } = stored;
    Ok((CheckpointMeta { index, position, mark, state, log_watermark }, summary))
}

/// Does something with a file that may be damaged: redb panics where its pages make no sense.
fn sound<T>(
    path: &str,
    act: impl FnOnce() -> Result<T, CheckpointError>,
) -> Result<T, CheckpointError> {
    catch_unwind(AssertUnwindSafe(act)).unwrap_or_else(|_| {
        Err(CheckpointError::Damaged { path: path.to_owned(), what: NO_SENSE.to_owned() })
    })
}

fn exists(disk: &dyn Disk, path: &str) -> Result<bool, CheckpointError> {
    match disk.open(path, OpenMode::Read) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(CheckpointError::io(format!("open {path}"))(error)),
    }
}

/// Makes a file with empty tables, under another name until it is complete.
fn prepare(disk: &dyn Disk, paths: &Paths, cache_bytes: usize) -> Result<(), CheckpointError> {
    let failed = || CheckpointError::io(format!("create {}", paths.file));
    remove_if_there(disk, &paths.new).map_err(failed())?;
    let file = disk.open(&paths.new, OpenMode::CreateNew).map_err(failed())?;
    let make = || {
        let database = builder(cache_bytes).create_with_backend(FileBackend::new(file))?;
        let transaction = durable(&database)?;
        transaction.open_table(MACHINE)?;
        transaction.open_table(HOST)?;
        transaction.open_table(META)?;
        transaction.commit()?;
        Ok(())
    };
    make().map_err(|error| of_redb(error, &paths.new))?;
    disk.rename(&paths.new, &paths.file)
        .and_then(|()| disk.sync_dir(CHECKPOINT_DIR))
        .map_err(failed())
}

fn remove_if_there(disk: &dyn Disk, path: &str) -> io::Result<()> {
    match disk.remove(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn builder(cache_bytes: usize) -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(cache_bytes);
    builder
}

fn open_database(
    disk: &dyn Disk,
    path: &str,
    mode: CheckpointMode,
    cache_bytes: usize,
) -> Result<Database, CheckpointError> {
    let open_mode = match mode {
        CheckpointMode::Create => OpenMode::Write,
        CheckpointMode::ReadOnly => OpenMode::Read,
    };
    let file = disk.open(path, open_mode).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => CheckpointError::Missing { path: path.to_owned() },
        _ => CheckpointError::io(format!("open {path}"))(error),
    })?;
    let opened = match mode {
        CheckpointMode::Create => builder(cache_bytes).create_with_backend(FileBackend::new(file)),
        CheckpointMode::ReadOnly => {
            let overlay =
                OverlayBackend::new(file).map_err(CheckpointError::io(format!("open {path}")))?;
            builder(cache_bytes).create_with_backend(overlay)
        }
    };
    opened.map_err(|error| of_redb(error.into(), path))
}

fn of_redb(error: redb::Error, path: &str) -> CheckpointError {
    match error {
        // Not of the disk: what it gave is not a file of redb.
        redb::Error::Io(error) if error.kind() == io::ErrorKind::InvalidData => {
            CheckpointError::Damaged { path: path.to_owned(), what: error.to_string() }
        }
        redb::Error::Io(error) => CheckpointError::io(format!("open {path}"))(error),
        other => CheckpointError::Damaged { path: path.to_owned(), what: other.to_string() },
    }
}

fn read_meta(
    database: &Database,
    path: &str,
) -> Result<Option<(CheckpointMeta, Summary)>, CheckpointError> {
    let read = || {
        let table = database.begin_read()?.open_table(META)?;
        let found = table.get(META_KEY)?;
        Ok(found.map(|found| found.value().to_vec()))
    };
    let found: Option<Vec<u8>> = read().map_err(|error| of_redb(error, path))?;
    found.map(|bytes| decode_meta(&bytes, path)).transpose()
}
