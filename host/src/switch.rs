//! From one driver to another, in the directory of a stopped node.
//!
//! ```text
//!   Hosted<A>::leave       lock, check, replay what is stored, to the last batch that is known to be decided
//!         |  Leaving       (the lock, and what each group leaves)
//!         v
//!   Hosted<B>::take_over   copy the directory -> write the new data beside the old -> open them as B would, and compare
//!                          -> MANIFEST names the new ones
//! ```
//!
//! 1. Before the MANIFEST names the new data nothing of the old is changed, but for what every start changes; one rename puts all groups
//!    in force together. See `docs/decisions/0016`.
//! 2. What is put in force was opened by the new driver, and is what the old one left.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fmt, io};

use quorate_engine::engine::EngineDriver;
use quorate_engine::{
    Effects, GroupStores, HandOver, HandOverError, HostCore, Inheritance, RecoveredCheckpoint,
    Start, Stores, StoresConfig,
};
use quorate_replicator::{
    ClusterId, Durability, Env, GroupId, NodeId, OpenError, Position, SessionId, StateMachine,
};
use quorate_storage::{
    CheckpointMode, CheckpointStore, DataDir, DataMode, Group, Identity, RealDisk,
};
use thiserror::Error;

use crate::verify::Nobody;
use crate::{HostConfig, files};

/// Makes an empty state machine for a group.
pub type MakeMachine<'a> = &'a dyn Fn(GroupId) -> Box<dyn StateMachine>;

/// Whose a data directory is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Held {
    /// The driver that wrote it.
    pub driver: String,
    /// The cluster.
    pub cluster: ClusterId,
    /// The node.
    pub node: NodeId,
    /// How many groups it has.
    pub groups: u32,
}

/// Whose a data directory is, without locking or checking it; none if it is not set up.
///
/// # Errors
///
/// It cannot be read, or its MANIFEST is damaged.
pub fn held(data_dir: &Path) -> Result<Option<Held>, OpenError> {
    let found = DataDir::peek(&RealDisk::new(data_dir)).map_err(|error| OpenError::Directory {
        directory: data_dir.display().to_string(),
        problem: error.to_string(),
    })?;
    Ok(found.map(|Identity { cluster, node, driver, groups }| Held {
        driver,
        cluster: ClusterId::new(cluster),
        node: NodeId::new(node),
        groups,
    }))
}

/// How a directory goes to another driver.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct SwitchOptions {
    /// Goes on from all that this replica has in its log, even if others may have decided more: that is lost then. What was never
    /// decided may be in it; whoever proposed that was not answered. Not two replicas of a group may do so, or there are two groups
    /// that both take themselves for it.
    pub from_this_replica: bool,
    /// Where the directory is copied to before anything is changed: it must not exist, or be empty. By default beside it, with
    /// `.before-switch-1` behind its name, or the first such number that is free.
    pub backup: Option<PathBuf>,
}

/// What a switch has done.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SwitchReport {
    /// The driver of before.
    pub from: &'static str,
    /// The driver that has it now.
    pub to: &'static str,
    /// The only voting member now.
    pub node: NodeId,
    /// Where the directory of before is.
    pub backup: PathBuf,
    /// Each group.
    pub groups: Vec<GroupSwitched>,
}

/// What became of one group.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupSwitched {
    /// The group.
    pub group: GroupId,
    /// Where it goes on: everything that was accepted is at a smaller position.
    pub position: Position,
    /// Hash of the history up to there.
    pub history: [u8; 32],
    /// Live sessions.
    pub sessions: u64,
    /// Pairs of the state machine, each read back and compared.
    pub pairs: u64,
    /// What may have been decided elsewhere and is lost, in words; none if that is nothing.
    pub missing: Option<String>,
    /// Members of the group of before that are none any more: they join anew, with empty directories.
    pub left_behind: Vec<NodeId>,
}

/// Why a directory did not go to another driver. It is as it was.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SwitchError {
    /// It cannot be opened by the driver that has it, or the new one refuses to begin with what it holds.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// This replica may not know all that was decided.
    #[error(
        "{group}: {missing}. To go on from what this replica has instead, and lose what only others have, use \
         `--from-this-replica`"
    )]
    Unsure {
        /// The group.
        group: GroupId,
        /// What may be missing, and how to come to where it is known.
        missing: String,
    },
    /// It has this driver already.
    #[error("data directory {directory} has driver `{driver}` already: nothing is to be done")]
    Same {
        /// Which directory.
        directory: String,
        /// The driver.
        driver: String,
    },
    /// With this durability nothing is stored.
    #[error("durability is memory: nothing is stored that another driver could take over")]
    InMemory,
    /// The directory cannot be copied to there.
    #[error("backup {path}: {problem}")]
    Backup {
        /// The path.
        path: String,
        /// What is wrong with it, and what to do.
        problem: String,
    },
    /// The copy or the new data could not be written.
    #[error(
        "cannot {what}: {problem}. Nothing was changed. A switch needs about {backup_mib} MiB in {backup} and {data_mib} MiB in {directory}"
    )]
    Write {
        /// What was tried.
        what: &'static str,
        /// What was in the way.
        problem: String,
        /// The data directory.
        directory: String,
        /// What the new data need there, beside the old ones, in MiB.
        data_mib: u64,
        /// Where the copy is to be.
        backup: String,
        /// What it needs there, in MiB.
        backup_mib: u64,
    },
    /// What the new driver opened is not what the old one left: a bug, or a disk that does not keep what it is given.
    #[error(
        "the new driver has {found}, the old one left {left}. Nothing was changed; run `quorate verify`, and report this if that \
         finds nothing"
    )]
    Differs {
        /// What the new driver has.
        found: String,
        /// What the old one left.
        left: String,
    },
    /// The last step failed, and may have been done.
    #[error(
        "cannot put the new data in force: {problem}. The MANIFEST in {directory} says which driver has it now; the old data are in \
         {backup}"
    )]
    InForce {
        /// What was in the way.
        problem: String,
        /// The data directory.
        directory: String,
        /// Where the copy is.
        backup: String,
    },
}

/// What a driver has left in a directory, for another to [take over](crate::Hosted::take_over). Holds the lock of the directory;
/// dropping it leaves everything as it was.
pub struct Leaving {
    directory: DataDir,
    from: &'static str,
    /// Its path, for words.
    name: String,
    groups: Vec<HandOver>,
    backup: Option<PathBuf>,
}

impl fmt::Debug for Leaving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leaving")
            .field("directory", &self.name)
            .field("from", &self.from)
            .field("groups", &self.groups)
            .finish_non_exhaustive()
    }
}

/// A driver, and what its start in this directory needs.
pub(crate) struct Side<'a, D: EngineDriver> {
    pub(crate) driver: &'a D,
    pub(crate) driver_config: &'a D::Config,
    pub(crate) config: &'a HostConfig,
    pub(crate) env: &'a Env,
    pub(crate) machine: MakeMachine<'a>,
}

impl<D: EngineDriver> Side<'_, D> {
    /// See [`Hosted::leave`](crate::Hosted::leave).
    pub(crate) fn leave(&self, options: &SwitchOptions) -> Result<Leaving, SwitchError> {
        if self.env.durability == Durability::Memory {
            return Err(SwitchError::InMemory);
        }
        let stores = files::open(D::NAME, self.config, self.env, DataMode::Existing)?;
        let Stores { directory, log, groups: stored } = stores;
        let mut groups = Vec::with_capacity(stored.len());
        for (group, mut stored) in (0..).map(GroupId::new).zip(stored) {
            stored.verify()?;
            if options.from_this_replica {
                let taken = self.driver.take_for_decided(self.env.node, &mut stored.recovered);
                taken.map_err(|problem| OpenError::Driver { driver: D::NAME.into(), problem })?;
            }
            // What is not a member yet does not become one here.
            let mut core = self.begin(group, stored, &directory, Vec::new())?;
            turn(&mut core)?;
            let left = core.hand_over(options.from_this_replica);
            groups.push(left.map_err(|error| match error {
                HandOverError::Unsure { missing } => SwitchError::Unsure { group, missing },
                error => corrupt(error).into(),
            })?);
        }
        drop(log);
        let name = self.env.data_dir.display().to_string();
        let backup = options.backup.clone();
        Ok(Leaving { directory, from: D::NAME, name, groups, backup })
    }

    /// See [`Hosted::take_over`](crate::Hosted::take_over).
    pub(crate) fn take_over(
        &self,
        leaving: Leaving,
        agrees: &dyn Fn() -> Result<(), SwitchError>,
    ) -> Result<SwitchReport, SwitchError> {
        let Leaving { mut directory, from, name, groups, backup } = leaving;
        if from == D::NAME {
            return Err(SwitchError::Same { directory: name, driver: from.into() });
        }
        let backup = Backup::begin(&self.env.data_dir, backup)?;
        let bytes = directory.bytes().unwrap_or(0);
        let written = Written {
            directory: name.clone(),
            // The log of before is not copied, and what is in it stands in the checkpoint then.
            data_bytes: bytes + self.config.log.segment_bytes,
            backup: backup.path.display().to_string(),
            backup_bytes: bytes,
        };
        let built = directory
            .copy_to(&RealDisk::new(&backup.path))
            .map_err(|error| written.failed("copy the data directory", &error))
            .and_then(|_| self.build(&directory, groups, &written))
            .and_then(|built| agrees().map(|()| built));
        let (begun, groups) = match built {
            Ok(built) => built,
            Err(error) => {
                // What is left only takes room, and the next start tries again.
                let _ = directory.remove_others();
                backup.remove();
                return Err(error);
            }
        };
        directory.put_in_force(begun).map_err(|error| SwitchError::InForce {
            problem: error.to_string(),
            directory: name,
            backup: written.backup,
        })?;
        let (node, backup) = (self.env.node, backup.path);
        Ok(SwitchReport { from, to: D::NAME, node, backup, groups })
    }

    /// Writes the new data, and opens them.
    fn build(
        &self,
        directory: &DataDir,
        left: Vec<HandOver>,
        written: &Written,
    ) -> Result<(DataDir, Vec<GroupSwitched>), SwitchError> {
        let store = SessionId::random().map(SessionId::bytes);
        let store = store.map_err(|error| written.failed("draw a random number", &error))?;
        let begun = directory.begin_switch(D::NAME, store);
        let mut begun = begun.map_err(|error| written.failed("begin the new data", &error))?;
        let (mut jobs, mut expected) = (Vec::new(), Vec::new());
        let opened = begun.open_log(self.config.log.clone(), 0, BTreeMap::new());
        let (mut log, _) = opened.map_err(|error| written.failed("make a new log", &error))?;
        for (group, mut left) in (0..).map(Group::new).zip(left) {
            let missing = left.missing.take();
            expected.push((left.state, missing, std::mem::take(&mut left.left_behind)));
            let (job, records) = left.found(self.driver, self.driver_config, store)?;
            jobs.push((group, job));
            let records = (1..).zip(records).map(|(seq, record)| (seq, true, record));
            log.submit(group, records.collect())
                .map_err(|error| written.failed("write the new log", &error))?;
        }
        log.close().map_err(|error| written.failed("write the new log", &error))?;
        let durable = log.durable_lsn();
        drop(log);
        for (group, job) in jobs {
            let cache = self.config.checkpoint_cache_bytes;
            CheckpointStore::open(begun.disk(), group, CheckpointMode::Create, cache)
                .and_then(|store| store.write(job.into_write(durable)))
                .map_err(|error| written.failed("write the new checkpoint", &error))?;
        }
        self.check(begun, expected, store)
    }

    /// Opens the new data as a start would, and compares them with what was left.
    fn check(
        &self,
        begun: DataDir,
        expected: Vec<(Inheritance, Option<String>, Vec<NodeId>)>,
        store: [u8; 16],
    ) -> Result<(DataDir, Vec<GroupSwitched>), SwitchError> {
        let stores = StoresConfig {
            store,
            mode: DataMode::Existing,
            log: self.config.log.clone(),
            checkpoint_cache_bytes: self.config.checkpoint_cache_bytes,
        };
        let name = self.env.data_dir.display().to_string();
        let Stores { directory, log, groups } = Stores::open_in(begun, &name, stores)?;
        let mut switched = Vec::with_capacity(groups.len());
        let groups = (0..).map(GroupId::new).zip(groups).zip(expected);
        for ((group, mut stored), (state, missing, left_behind)) in groups {
            let summary = stored.verify()?;
            let mut core = self.begin(group, stored, &directory, vec![self.env.node])?;
            let found = core.inheritance();
            if found != state {
                let found = format!("{group} with {found:?}");
                return Err(SwitchError::Differs { found, left: format!("{state:?}") });
            }
            turn(&mut core)?;
            let members = core.status().members;
            if !core.is_ready() || members != [self.env.node] {
                return Err(SwitchError::Differs {
                    found: format!(
                        "{group} with {members:?} as voters, ready: {}",
                        core.is_ready()
                    ),
                    left: format!("it to {} alone, ready", self.env.node),
                });
            }
            switched.push(GroupSwitched {
                group,
                position: state.position,
                history: state.history,
                sessions: state.sessions,
                pairs: summary.machine.pairs,
                missing,
                left_behind,
            });
        }
        drop(log);
        Ok((directory, switched))
    }

    /// A core on what is stored. Nobody else is asked, whoever the members are.
    fn begin(
        &self,
        group: GroupId,
        stored: GroupStores,
        directory: &DataDir,
        members: Vec<NodeId>,
    ) -> Result<HostCore<Nobody>, OpenError> {
        let mut checkpoint = stored.checkpoint()?;
        let start = Start {
            members,
            incarnation: directory.store(),
            seed: self.env.seed,
            machine: (self.machine)(group),
            checkpoint: checkpoint.as_mut().map(RecoveredCheckpoint::stored),
            log: stored.recovered,
        };
        // Its writes count at once: what comes of them is stored as a whole, or thrown away.
        let mut core = self.config.core(group, self.env.node, true);
        (core.checkpoint.log_bytes, core.checkpoint.interval) = (u64::MAX, Duration::MAX);
        HostCore::open(core, self.driver, self.driver_config, start, Duration::ZERO)
    }
}

/// Everything that is decided is applied.
fn turn(core: &mut HostCore<Nobody>) -> Result<(), OpenError> {
    loop {
        let before = core.position();
        // What it wants of the world it does not get, and none of it is needed to apply what is decided.
        let again = core.turn(Duration::ZERO, &mut Effects::default());
        if let Some(cause) = core.faulted() {
            return Err(corrupt(cause));
        }
        if !again && core.position() == before {
            return Ok(());
        }
    }
}

fn corrupt(problem: impl fmt::Display) -> OpenError {
    OpenError::Corrupt { problem: problem.to_string() }
}

/// What is written where, for words about what went wrong.
struct Written {
    directory: String,
    data_bytes: u64,
    backup: String,
    backup_bytes: u64,
}

impl Written {
    fn failed(&self, what: &'static str, problem: &dyn fmt::Display) -> SwitchError {
        SwitchError::Write {
            what,
            problem: problem.to_string(),
            directory: self.directory.clone(),
            data_mib: self.data_bytes.div_ceil(1 << 20),
            backup: self.backup.clone(),
            backup_mib: self.backup_bytes.div_ceil(1 << 20),
        }
    }
}

/// Where the directory of before is copied to.
struct Backup {
    path: PathBuf,
    /// Whether there was nothing of that name.
    is_new: bool,
}

impl Backup {
    /// Makes the directory, as accessible as the one that is copied.
    fn begin(data_dir: &Path, wanted: Option<PathBuf>) -> Result<Self, SwitchError> {
        let path = wanted.unwrap_or_else(|| beside(data_dir));
        let refused =
            |problem: String| SwitchError::Backup { path: path.display().to_string(), problem };
        let io = |error: io::Error| refused(format!("{error}; name another with `--backup`"));
        let is_new = match fs::read_dir(&path) {
            Ok(mut entries) => match entries.next() {
                None => false,
                Some(_) => {
                    return Err(refused("it is not empty; name one that is new or empty".into()));
                }
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => true,
            Err(error) => return Err(io(error)),
        };
        if is_new {
            fs::create_dir_all(&path).map_err(io)?;
            if let Ok(found) = fs::metadata(data_dir) {
                fs::set_permissions(&path, found.permissions()).map_err(io)?;
            }
            if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                File::open(parent).and_then(|parent| parent.sync_all()).map_err(io)?;
            }
        }
        Ok(Self { path, is_new })
    }

    /// Nothing was changed, so it is of no use. What cannot be removed only takes room.
    fn remove(&self) {
        if self.is_new {
            let _ = fs::remove_dir_all(&self.path);
            return;
        }
        for entry in fs::read_dir(&self.path).into_iter().flatten().flatten() {
            let path = entry.path();
            let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
        }
    }
}

/// The first name beside a directory that says what it is and is free.
fn beside(data_dir: &Path) -> PathBuf {
    let path = data_dir.canonicalize().unwrap_or_else(|_| data_dir.to_owned());
    let name = path.file_name().unwrap_or_else(|| OsStr::new("data"));
    let numbered = |number: u64| {
        let mut name = name.to_owned();
        name.push(format!(".before-switch-{number}"));
        path.with_file_name(name)
    };
    (1..).map(numbered).find(|path| !path.exists()).expect("there are numbers enough")
}
