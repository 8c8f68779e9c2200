//! Whose data a directory holds.
//!
//! ```text
//! LOCK         held while a node runs
//! MANIFEST     format, cluster, node, driver, groups, store, and where the data are
//! log/         segments
//! checkpoint/  a file for each group
//! ```
//!
//! After a driver switch the data are in `switched-N/log/` and `switched-N/checkpoint/`.
//!
//! Opening a directory answers one question before any data is touched: is this the directory of this node? Everything
//! that speaks against it is an error of its own that says what to do.

mod switch;

use std::collections::BTreeMap;
use std::fmt::{self, Debug};
use std::io;
use std::sync::Arc;

use thiserror::Error;

use self::switch::SWITCHED;
use crate::disk::Within;
use crate::{
    Disk, Group, Index, LOG_DIR, Log, LogConfig, LogError, LogMode, OpenMode, Opening, Recovered,
};

/// Where the checkpoints are on the disk.
pub const CHECKPOINT_DIR: &str = "checkpoint";

const LOCK: &str = "LOCK";
const MANIFEST: &str = "MANIFEST";
const MANIFEST_TEMPORARY: &str = "MANIFEST.tmp";
const FORMAT: u32 = 2;
/// A directory that was never switched is as the first format has it.
const FORMAT_UNSWITCHED: u32 = 1;
/// A manifest is a few lines; what is longer is something else.
const MANIFEST_BYTES_MAX: u64 = 4096;
const DRIVER_BYTES_MAX: usize = 64;

/// Whose data a directory is to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster.
    pub cluster: [u8; 16],
    /// The node in it.
    pub node: u64,
    /// The word that selects the driver; letters, digits, `-` and `_`, at most 64.
    pub driver: String,
    /// How many groups there are.
    pub groups: u32,
}

/// What is expected of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataMode {
    /// It is set up if it is empty.
    Create,
    /// It must have been set up.
    Existing,
    /// It must have been set up, and nothing is written, nor a lock taken.
    ReadOnly,
}

/// What can speak against using a directory.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DataDirError {
    /// Another process uses it, or this one a second time.
    #[error(
        "the data directory is in use: stop the node that holds its LOCK (`fuser -v LOCK` names \
         it), ask it with `--connect` if it serves, or give this one a directory of its own"
    )]
    InUse,
    /// It was never set up.
    #[error("the data directory is not set up: it has no MANIFEST; check the path")]
    NotSetUp,
    /// There are data, but nothing says whose.
    #[error(
        "the data directory has {found} but no MANIFEST: it is foreign or was wiped in part; \
         restore it from a backup, or give an empty directory"
    )]
    NoManifest {
        /// What there is.
        found: String,
    },
    /// The manifest says that there is a log.
    #[error(
        "the data directory has a MANIFEST but no log: its log was removed, and with it what \
         this node has promised; restore it from a backup or, in a cluster, remove the directory and let the \
         node join anew"
    )]
    NoLog,
    /// The manifest is not as it was written.
    #[error("the MANIFEST is damaged ({what}): restore it from a backup")]
    Damaged {
        /// What is wrong.
        what: String,
    },
    /// A later version set it up.
    #[error(
        "the data directory has format {format}, this program knows format {known}: start it \
         with the version that wrote it, or a later one"
    )]
    Newer {
        /// Its format.
        format: u32,
        /// The newest that this program knows.
        known: u32,
    },
    /// It belongs to another cluster.
    #[error(
        "the data directory belongs to cluster {found}, not {wanted}: check the path and the \
         configured cluster"
    )]
    OtherCluster {
        /// Whose it is.
        found: Hex,
        /// Whose it should be.
        wanted: Hex,
    },
    /// It belongs to another node.
    #[error(
        "the data directory belongs to node {found}, not {wanted}: a node must not take over \
         what another has promised; check the path and the configured node"
    )]
    OtherNode {
        /// Whose it is.
        found: u64,
        /// Whose it should be.
        wanted: u64,
    },
    /// It was written by another driver.
    #[error(
        "the data directory was written by driver `{found}`, the configuration says `{wanted}`: \
         run `quorate driver switch --to {wanted}` on the stopped node, or configure `{found}`"
    )]
    OtherDriver {
        /// Which one.
        found: String,
        /// Which one is configured.
        wanted: String,
    },
    /// It has another number of groups.
    #[error(
        "the data directory has {found} groups, the configuration says {wanted}: the number is \
         chosen at the first start; configure groups = {found}"
    )]
    OtherGroups {
        /// How many it has.
        found: u32,
        /// How many are configured.
        wanted: u32,
    },
    /// It cannot be written.
    #[error(
        "the data directory is on a read-only file system: mount it for writing, or open it \
         read-only"
    )]
    ReadOnly,
    /// The path names something else.
    #[error("the data directory is not a directory: check the path")]
    NotADirectory,
    /// The name of a driver that a manifest cannot hold.
    #[error("driver name {name:?}: use 1 to 64 letters, digits, `-` and `_`")]
    DriverName {
        /// The name.
        name: String,
    },
    /// The disk refused something.
    #[error("the data directory: cannot {what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// What the disk said.
        source: io::Error,
    },
    /// The log cannot be used.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// Bytes that are shown in hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Hex(pub [u8; 16]);

impl fmt::Display for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Debug for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The directory of a node, locked for it until this is dropped.
#[derive(Debug)]
pub struct DataDir {
    /// With LOCK and MANIFEST.
    disk: Arc<dyn Disk>,
    /// With log and checkpoints.
    data: Arc<dyn Disk>,
    manifest: Manifest,
    mode: DataMode,
    /// Not in force yet: no MANIFEST names its data.
    is_begun: bool,
    _lock: Option<Box<dyn Debug + Send + Sync>>,
}

impl DataDir {
    /// Opens the directory that is the root of the disk. `store` names a new store and should be random; an existing
    /// directory keeps its own.
    ///
    /// # Errors
    ///
    /// See [`DataDirError`]: each says what to do.
    pub fn open(
        disk: Arc<dyn Disk>,
        identity: &Identity,
        mode: DataMode,
        store: [u8; 16],
    ) -> Result<Self, DataDirError> {
        if !is_driver_name(&identity.driver) {
            return Err(DataDirError::DriverName { name: identity.driver.clone() });
        }
        if mode == DataMode::Create {
            disk.create_dir_all("").map_err(of_disk("create it"))?;
        }
        let lock = match mode {
            DataMode::ReadOnly => None,
            DataMode::Create | DataMode::Existing => Some(lock(&*disk)?),
        };
        let names = disk.list("").map_err(of_disk("list it"))?;
        let manifest = match read_manifest(&*disk)? {
            Some(manifest) => {
                manifest.check(identity)?;
                if mode != DataMode::ReadOnly {
                    // The process before may have ended because this failed. What other data there is goes once the MANIFEST stays.
                    disk.sync_dir("").map_err(of_disk("make the name of its MANIFEST stable"))?;
                }
                manifest
            }
            None => {
                check_empty(&*disk, &names)?;
                if mode != DataMode::Create {
                    return Err(DataDirError::NotSetUp);
                }
                let identity = identity.clone();
                let manifest = Manifest { identity, store, has_log: false, switched: 0 };
                disk.create_dir_all(CHECKPOINT_DIR)
                    .and_then(|()| disk.sync_dir(""))
                    .map_err(of_disk("create its directories"))?;
                write_manifest(&*disk, &manifest)?;
                manifest
            }
        };
        let data: Arc<dyn Disk> = match manifest.switched {
            0 => Arc::clone(&disk),
            number => Arc::new(Within::new(Arc::clone(&disk), data_of(number))),
        };
        if manifest.has_log && !has_log(&*data)? {
            return Err(DataDirError::NoLog);
        }
        let opened = Self { disk, data, manifest, mode, is_begun: false, _lock: lock };
        if mode != DataMode::ReadOnly {
            opened.remove_others()?;
        }
        Ok(opened)
    }

    /// Opens the log of this directory, and creates it the first time. `durable_lsn` is the largest that a checkpoint
    /// names, 0 if there is none. `floors` are the indexes of the checkpoints: what is at or below them is not given back, so
    /// that no more is brought into memory than was written after them.
    ///
    /// # Errors
    ///
    /// As [`Log::open`], and the disk's.
    pub fn open_log(
        &mut self,
        config: LogConfig,
        durable_lsn: u64,
        floors: BTreeMap<Group, Index>,
    ) -> Result<(Log, BTreeMap<Group, Recovered>), DataDirError> {
        let mode = match self.mode {
            DataMode::ReadOnly => LogMode::ReadOnly,
            _ if self.manifest.has_log => LogMode::Existing,
            _ => LogMode::Create,
        };
        let opening = Opening { store: self.manifest.store, durable_lsn, floors, mode };
        let opened = Log::open(Arc::clone(&self.data), config, &opening)?;
        if !self.manifest.has_log && self.mode != DataMode::ReadOnly {
            // From now on a directory without a log is one that has lost it.
            self.manifest.has_log = true;
            if !self.is_begun {
                write_manifest(&*self.disk, &self.manifest)?;
            }
        }
        Ok(opened)
    }

    /// The disk with the log and the checkpoints of this directory.
    pub fn disk(&self) -> Arc<dyn Disk> {
        Arc::clone(&self.data)
    }

    /// The id of the store, which each segment of the log names.
    pub fn store(&self) -> [u8; 16] {
        self.manifest.store
    }

    /// Whose data it holds.
    pub fn identity(&self) -> &Identity {
        &self.manifest.identity
    }

    /// What a directory says of itself, without locking or checking it; `None` if it is not set up.
    ///
    /// # Errors
    ///
    /// [`DataDirError::Damaged`], [`DataDirError::Newer`], or the disk's.
    pub fn peek(disk: &dyn Disk) -> Result<Option<Identity>, DataDirError> {
        Ok(read_manifest(disk)?.map(|manifest| manifest.identity))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Manifest {
    identity: Identity,
    store: [u8; 16],
    has_log: bool,
    /// How often other data took the place of those that were there: where they are.
    switched: u32,
}

/// The directory of the data after so many switches.
fn data_of(switched: u32) -> String {
    if switched == 0 { String::new() } else { format!("{SWITCHED}{switched}") }
}

impl Manifest {
    fn check(&self, wanted: &Identity) -> Result<(), DataDirError> {
        let found = &self.identity;
        if found.cluster != wanted.cluster {
            let (found, wanted) = (Hex(found.cluster), Hex(wanted.cluster));
            return Err(DataDirError::OtherCluster { found, wanted });
        }
        if found.node != wanted.node {
            return Err(DataDirError::OtherNode { found: found.node, wanted: wanted.node });
        }
        if found.groups != wanted.groups {
            return Err(DataDirError::OtherGroups { found: found.groups, wanted: wanted.groups });
        }
        if found.driver != wanted.driver {
            let (found, wanted) = (found.driver.clone(), wanted.driver.clone());
            return Err(DataDirError::OtherDriver { found, wanted });
        }
        Ok(())
    }

    fn encode(&self) -> String {
        let Identity { cluster, node, driver, groups } = &self.identity;
        let (format, switched) = match self.switched {
            0 => (FORMAT_UNSWITCHED, String::new()),
            number => (FORMAT, format!("switched = {number}\n")),
        };
        let text = format!(
            "quorate data directory\nformat = {format}\ncluster = {}\nnode = {node}\n\
             driver = {driver}\ngroups = {groups}\nstore = {}\nlog = {}\n{switched}",
            Hex(*cluster),
            Hex(self.store),
            if self.has_log { "present" } else { "new" },
        );
        let crc = crc32fast::hash(text.as_bytes());
        format!("{text}crc = {crc:08x}\n")
    }

    fn decode(text: &str) -> Result<Self, DataDirError> {
        let damaged = |what: &str| DataDirError::Damaged { what: what.to_owned() };
        let (body, crc) = text
            .strip_suffix('\n')
            .and_then(|text| text.rsplit_once('\n'))
            .and_then(|(body, last)| Some((body, last.strip_prefix("crc = ")?)))
            .ok_or_else(|| damaged("it has no checksum"))?;
        let body = &text[..=body.len()];
        if u32::from_str_radix(crc, 16).ok() != Some(crc32fast::hash(body.as_bytes())) {
            return Err(damaged("its checksum is wrong"));
        }
        let mut lines = body.lines();
        if lines.next() != Some("quorate data directory") {
            return Err(damaged("it is not of a quorate data directory"));
        }
        let fields: BTreeMap<&str, &str> =
            lines.filter_map(|line| line.split_once(" = ")).collect();
        let field = |name: &str| {
            fields.get(name).copied().ok_or_else(|| damaged(&format!("it has no {name}")))
        };
        let wrong = |name: &str| damaged(&format!("its {name} makes no sense"));
        // The format comes first: the other fields of a later one may mean something else.
        let format: u32 = field("format")?.parse().map_err(|_| wrong("format"))?;
        if !(FORMAT_UNSWITCHED..=FORMAT).contains(&format) {
            return Err(DataDirError::Newer { format, known: FORMAT });
        }
        let id = |name: &str| parse_hex(field(name)?).ok_or_else(|| wrong(name));
        let driver = field("driver")?.to_owned();
        if !is_driver_name(&driver) {
            return Err(wrong("driver"));
        }
        let identity = Identity {
            cluster: id("cluster")?,
            node: field("node")?.parse().map_err(|_| wrong("node"))?,
            driver,
            groups: field("groups")?.parse().map_err(|_| wrong("groups"))?,
        };
        let switched = match format {
            FORMAT_UNSWITCHED => 0,
            _ => field("switched")?.parse().map_err(|_| wrong("switched"))?,
        };
        let (store, has_log) = (id("store")?, field("log")? == "present");
        Ok(Self { identity, store, has_log, switched })
    }
}

fn parse_hex(text: &str) -> Option<[u8; 16]> {
    if text.len() != 32 || !text.is_ascii() {
        return None;
    }
    let mut bytes = [0; 16];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(bytes)
}

fn is_driver_name(name: &str) -> bool {
    (1..=DRIVER_BYTES_MAX).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}

fn lock(disk: &dyn Disk) -> Result<Box<dyn Debug + Send + Sync>, DataDirError> {
    disk.lock(LOCK).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => DataDirError::InUse,
        io::ErrorKind::NotFound => DataDirError::NotSetUp,
        _ => of_disk("lock it")(error),
    })
}

fn of_disk(what: &'static str) -> impl FnOnce(io::Error) -> DataDirError {
    move |source| match source.kind() {
        io::ErrorKind::ReadOnlyFilesystem => DataDirError::ReadOnly,
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => DataDirError::NotADirectory,
        _ => DataDirError::Io { what, source },
    }
}

/// A directory without a manifest may be set up only if there is nothing of a node in it.
fn check_empty(disk: &dyn Disk, names: &[String]) -> Result<(), DataDirError> {
    let mut found = Vec::new();
    for dir in [LOG_DIR, CHECKPOINT_DIR] {
        if names.iter().any(|name| name == dir) {
            let inside = disk.list(dir).map_err(of_disk("list it"))?;
            found.extend(inside.into_iter().map(|name| format!("{dir}/{name}")).take(1));
        }
    }
    found.extend(names.iter().filter(|name| name.starts_with(SWITCHED)).cloned());
    if found.is_empty() {
        Ok(())
    } else {
        Err(DataDirError::NoManifest { found: found.join(", ") })
    }
}

fn has_log(disk: &dyn Disk) -> Result<bool, DataDirError> {
    match disk.list(LOG_DIR) {
        Ok(names) => Ok(names.iter().any(|name| name.starts_with("segment-"))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(of_disk("list it")(error)),
    }
}

fn read_manifest(disk: &dyn Disk) -> Result<Option<Manifest>, DataDirError> {
    let file = match disk.open(MANIFEST, OpenMode::Read) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(of_disk("open its MANIFEST")(error)),
    };
    let len = file.len().map_err(of_disk("read its MANIFEST"))?;
    if len > MANIFEST_BYTES_MAX {
        return Err(DataDirError::Damaged { what: format!("it has {len} bytes") });
    }
    let mut bytes = vec![0; len as usize];
    file.read_at(0, &mut bytes).map_err(of_disk("read its MANIFEST"))?;
    let text = String::from_utf8(bytes)
        .map_err(|_| DataDirError::Damaged { what: "it is not text".to_owned() })?;
    Manifest::decode(&text).map(Some)
}

/// Replaces the manifest: after a crash there is the old one or the new one.
fn write_manifest(disk: &dyn Disk, manifest: &Manifest) -> Result<(), DataDirError> {
    let write = || {
        match disk.remove(MANIFEST_TEMPORARY) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = disk.open(MANIFEST_TEMPORARY, OpenMode::CreateNew)?;
        file.write_at(0, manifest.encode().as_bytes())?;
        file.sync()?;
        disk.rename(MANIFEST_TEMPORARY, MANIFEST)?;
        disk.sync_dir("")
    };
    write().map_err(of_disk("write its MANIFEST"))
}
