//! A disk that forgets what was not synced.
//!
//! ```text
//!           write            sync
//!   caller ------> current ------> synced      per sector
//!   caller ------> names   ------> synced      create, rename and remove, in order, per directory
//!
//!   power cut: the synced image, and of the rest what the seed keeps
//! ```
//!
//! A failed sync behaves as on Linux: what it should have made stable stays readable, and a later sync that succeeds does not
//! make it stable either.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::memory_disk::{name_in, not_found};
use super::{Disk, DiskFile, OpenMode, SECTOR_BYTES};

/// What a power cut leaves of that which was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Nothing.
    None,
    /// Everything.
    All,
    /// A subset of the sectors, and of the changes of names, that the seed chooses.
    Random,
}

/// What an operation does instead of its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Fails with an input/output error; a write has been done in part, a sync has lost what it should have kept.
    Eio,
    /// Fails because there is no room.
    Full,
    /// Writes a part and says so. An operation that is not a write fails as [`Fault::Eio`].
    Short,
}

/// A deterministic disk in memory, for tests. A clone is another handle of the same disk.
///
/// Every operation that changes something is counted: creating, renaming and removing files, creating directories, writes,
/// changes of length, and syncs of files and directories.
#[derive(Clone)]
pub struct SimDisk {
    sim: Arc<Mutex<Sim>>,
}

// Whoever prints a disk does not want to see its bytes.
impl Debug for SimDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimDisk").finish_non_exhaustive()
    }
}

struct Sim {
    rng: fastrand::Rng,
    files: BTreeMap<u64, SimFile>,
    names: BTreeMap<String, u64>,
    stable_names: BTreeMap<String, u64>,
    dirs: BTreeSet<String>,
    stable_dirs: BTreeSet<String>,
    /// Changes of names since their directory was synced, in order.
    changes: Vec<NameChange>,
    locks: BTreeSet<String>,
    next_file: u64,
    /// Rises at each reboot; handles of an earlier life are dead.
    life: u64,
    ops: u64,
    cut_at: Option<u64>,
    off: bool,
    faults: BTreeMap<u64, Fault>,
    read_only: bool,
    capacity: Option<u64>,
    bad_ranges: Vec<(String, Range<u64>)>,
}

#[derive(Clone, Default)]
struct SimFile {
    current: Vec<u8>,
    stable: Vec<u8>,
    unsynced: BTreeSet<usize>,
    /// Written, but dropped by a sync that failed: no later sync makes them stable.
    lost: BTreeSet<usize>,
}

#[derive(Clone, Debug)]
enum NameChange {
    Create(String, u64),
    /// From, to, and which file: its name says so, whatever became of earlier changes.
    Rename(String, String, u64),
    Remove(String),
    Dir(String),
}

impl NameChange {
    fn path(&self) -> &str {
        match self {
            Self::Create(path, _)
            | Self::Rename(path, ..)
            | Self::Remove(path)
            | Self::Dir(path) => path,
        }
    }
}

#[derive(Debug)]
struct PowerCut;

impl std::fmt::Display for PowerCut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the power is off")
    }
}

impl std::error::Error for PowerCut {}

/// Whether an error comes from a power cut of a [`SimDisk`].
pub fn is_power_cut(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<PowerCut>())
}

fn power_cut() -> io::Error {
    io::Error::other(PowerCut)
}

impl SimDisk {
    /// An empty disk; `seed` decides what power cuts keep.
    pub fn new(seed: u64) -> Self {
        let sim = Sim {
            rng: fastrand::Rng::with_seed(seed),
            files: BTreeMap::new(),
            names: BTreeMap::new(),
            stable_names: BTreeMap::new(),
            dirs: BTreeSet::new(),
            stable_dirs: BTreeSet::new(),
            changes: Vec::new(),
            locks: BTreeSet::new(),
            next_file: 0,
            life: 0,
            ops: 0,
            cut_at: None,
            off: false,
            faults: BTreeMap::new(),
            read_only: false,
            capacity: None,
            bad_ranges: Vec::new(),
        };
        Self { sim: Arc::new(Mutex::new(sim)) }
    }

    fn sim(&self) -> MutexGuard<'_, Sim> {
        self.sim.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many operations have been asked for.
    pub fn ops(&self) -> u64 {
        self.sim().ops
    }

    /// Lets the power fail at the operation with this number, counted from 0 over the life of the disk: it and all later
    /// ones fail, until [`reboot`](Self::reboot). A write at that moment may be kept in part.
    pub fn cut_at(&self, op: u64) {
        self.sim().cut_at = Some(op);
    }

    /// Takes the power away now: as [`reboot`](Self::reboot), for a disk that is in use.
    pub fn power_cut(&self, keep: Keep) {
        self.reboot(keep);
    }

    /// What is left after a power cut, with the power back. Handles and locks of the life before are dead.
    pub fn reboot(&self, keep: Keep) {
        self.sim().reboot(keep);
    }

    /// A disk of its own with what this one would have after a power cut, which this one does not notice.
    pub fn fork(&self, keep: Keep) -> Self {
        let mut sim = self.sim();
        let mut fork = Sim {
            rng: fastrand::Rng::with_seed(sim.rng.u64(..)),
            files: sim.files.clone(),
            names: sim.names.clone(),
            stable_names: sim.stable_names.clone(),
            dirs: sim.dirs.clone(),
            stable_dirs: sim.stable_dirs.clone(),
            changes: sim.changes.clone(),
            locks: BTreeSet::new(),
            next_file: sim.next_file,
            life: 0,
            ops: 0,
            cut_at: None,
            off: false,
            faults: BTreeMap::new(),
            read_only: false,
            capacity: sim.capacity,
            bad_ranges: Vec::new(),
        };
        fork.reboot(keep);
        Self { sim: Arc::new(Mutex::new(fork)) }
    }

    /// Lets the operation with this number fail, counted as for [`cut_at`](Self::cut_at); the next one if that has been.
    pub fn fail_at(&self, op: u64, fault: Fault) {
        self.sim().faults.insert(op, fault);
    }

    /// Bounds the sum of the lengths of all files; `None` lifts the bound.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.sim().capacity = bytes;
    }

    /// Lets every change fail as on a file system that is mounted read-only.
    pub fn set_read_only(&self, read_only: bool) {
        self.sim().read_only = read_only;
    }

    /// The sum of the lengths of all files that have a name.
    pub fn used(&self) -> u64 {
        self.sim().used()
    }

    /// Flips the bits of `mask` in one byte, in the current and in the stable image.
    ///
    /// # Panics
    ///
    /// If there is no such file or byte.
    pub fn rot(&self, path: &str, offset: u64, mask: u8) {
        self.damage(path, offset..offset + 1, |byte| *byte ^= mask);
    }

    /// Zeroes a range, in the current and in the stable image.
    ///
    /// # Panics
    ///
    /// If there is no such file or range.
    pub fn zero(&self, path: &str, range: Range<u64>) {
        self.damage(path, range, |byte| *byte = 0);
    }

    /// Puts bytes where they do not belong, in the current and in the stable image.
    ///
    /// # Panics
    ///
    /// If there is no such file or range.
    pub fn overwrite(&self, path: &str, offset: u64, bytes: &[u8]) {
        for (at, byte) in (offset..).zip(bytes) {
            self.damage(path, at..at + 1, |old| *old = *byte);
        }
    }

    fn damage(&self, path: &str, range: Range<u64>, act: impl Fn(&mut u8)) {
        let mut sim = self.sim();
        let id = *sim.names.get(path).unwrap_or_else(|| panic!("no file {path}"));
        let file = sim.files.get_mut(&id).expect("a name has a file");
        let range = range.start as usize..range.end as usize;
        file.current[range.clone()].iter_mut().for_each(&act);
        let stable = range.start.min(file.stable.len())..range.end.min(file.stable.len());
        file.stable[stable].iter_mut().for_each(&act);
    }

    /// Lets reads that touch a range of a file fail.
    pub fn fail_reads(&self, path: &str, range: Range<u64>) {
        self.sim().bad_ranges.push((path.to_owned(), range));
    }

    /// How many bytes of a file a power cut could lose, in whole sectors.
    pub fn unsynced_bytes(&self, path: &str) -> u64 {
        let sim = self.sim();
        sim.names
            .get(path)
            .and_then(|id| sim.files.get(id))
            .map_or(0, |file| ((file.unsynced.len() + file.lost.len()) * SECTOR_BYTES) as u64)
    }

    /// Every file of the disk with its current bytes, for golden files and comparisons.
    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let sim = self.sim();
        sim.names.iter().map(|(path, id)| (path.clone(), sim.files[id].current.clone())).collect()
    }
}

impl Sim {
    /// Counts an operation. `Err` if it must not happen; `Ok(Some)` if it must fail after having been done in part.
    fn count(&mut self) -> io::Result<Option<Fault>> {
        if self.off {
            return Err(power_cut());
        }
        let op = self.ops;
        self.ops += 1;
        if self.cut_at.is_some_and(|at| op >= at) {
            self.off = true;
        }
        if self.read_only {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        // Another thread may have been faster than whoever armed the fault: it comes with the next operation then.
        let due = self.faults.first_entry().filter(|fault| *fault.key() <= op);
        Ok(due.map(std::collections::btree_map::OccupiedEntry::remove))
    }

    /// The answer to an operation whose effect is in the current image.
    fn answer(&self) -> io::Result<()> {
        if self.off { Err(power_cut()) } else { Ok(()) }
    }

    fn used(&self) -> u64 {
        self.names.values().map(|id| self.files[id].current.len() as u64).sum()
    }

    fn room_for(&self, more: u64) -> io::Result<()> {
        match self.capacity {
            Some(capacity) if self.used() + more > capacity => {
                Err(io::ErrorKind::StorageFull.into())
            }
            _ => Ok(()),
        }
    }

    fn alive(&self, life: u64) -> io::Result<()> {
        if self.off || life != self.life { Err(power_cut()) } else { Ok(()) }
    }

    fn file(&mut self, id: u64) -> &mut SimFile {
        self.files.get_mut(&id).expect("an open file exists")
    }

    fn reboot(&mut self, keep: Keep) {
        let changes = std::mem::take(&mut self.changes);
        let mut names = std::mem::take(&mut self.stable_names);
        let mut dirs = std::mem::take(&mut self.stable_dirs);
        for change in &changes {
            let kept = match keep {
                Keep::None => false,
                Keep::All => true,
                Keep::Random => self.rng.bool(),
            };
            if kept {
                apply(change, &mut names, &mut dirs);
            }
        }
        // What is in a directory that did not survive did not survive either. Directories come before those in them.
        let mut reached = BTreeSet::new();
        for dir in dirs {
            if dir_of(&dir).is_empty() || reached.contains(dir_of(&dir)) {
                reached.insert(dir);
            }
        }
        let dirs = reached;
        names.retain(|path, _| dir_of(path).is_empty() || dirs.contains(dir_of(path)));
        let alive: BTreeSet<u64> = names.values().copied().collect();
        self.files.retain(|id, _| alive.contains(id));
        for file in self.files.values_mut() {
            file.settle(keep, &mut self.rng);
        }
        self.stable_names.clone_from(&names);
        self.names = names;
        self.stable_dirs.clone_from(&dirs);
        self.dirs = dirs;
        self.locks.clear();
        self.life += 1;
        self.cut_at = None;
        self.off = false;
        self.faults.clear();
    }
}

impl SimFile {
    /// Leaves of the unsynced sectors what is kept.
    fn settle(&mut self, keep: Keep, rng: &mut fastrand::Rng) {
        let len = match keep {
            Keep::None => self.stable.len(),
            Keep::All => self.current.len(),
            Keep::Random if rng.bool() => self.current.len(),
            Keep::Random => self.stable.len(),
        };
        let mut image = self.stable.clone();
        image.resize(len, 0);
        for sector in self.unsynced.iter().chain(&self.lost) {
            let kept = match keep {
                Keep::None => false,
                Keep::All => true,
                Keep::Random => rng.bool(),
            };
            let from = sector * SECTOR_BYTES;
            let to = (from + SECTOR_BYTES).min(len).min(self.current.len());
            if kept && from < to {
                image[from..to].copy_from_slice(&self.current[from..to]);
            }
        }
        self.stable.clone_from(&image);
        self.current = image;
        self.unsynced.clear();
        self.lost.clear();
    }

    fn write(&mut self, offset: usize, bytes: &[u8]) {
        let end = offset + bytes.len();
        if self.current.len() < end {
            self.resize(end);
        }
        self.current[offset..end].copy_from_slice(bytes);
        if !bytes.is_empty() {
            for sector in offset / SECTOR_BYTES..=(end - 1) / SECTOR_BYTES {
                self.lost.remove(&sector);
                self.unsynced.insert(sector);
            }
        }
    }

    fn resize(&mut self, len: usize) {
        let old = self.current.len();
        self.current.resize(len, 0);
        let (low, high) = (old.min(len), old.max(len));
        if low < high {
            self.unsynced.extend(low / SECTOR_BYTES..=(high - 1) / SECTOR_BYTES);
        }
    }

    fn sync(&mut self) {
        self.stable.resize(self.current.len(), 0);
        for sector in std::mem::take(&mut self.unsynced) {
            let from = sector * SECTOR_BYTES;
            let to = (from + SECTOR_BYTES).min(self.current.len());
            if from < to {
                self.stable[from..to].copy_from_slice(&self.current[from..to]);
            }
        }
    }
}

fn dir_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}

/// Does what a change of names did, as far as it still makes sense.
fn apply(change: &NameChange, names: &mut BTreeMap<String, u64>, dirs: &mut BTreeSet<String>) {
    match change {
        NameChange::Create(path, id) => {
            names.insert(path.clone(), *id);
        }
        NameChange::Rename(from, to, id) => {
            if names.get(from) == Some(id) {
                names.remove(from);
            }
            names.insert(to.clone(), *id);
        }
        NameChange::Remove(path) => {
            names.remove(path);
        }
        NameChange::Dir(path) => {
            dirs.insert(path.clone());
        }
    }
}

impl Disk for SimDisk {
    fn create_dir_all(&self, dir: &str) -> io::Result<()> {
        let mut sim = self.sim();
        if let Some(fault) = sim.count()? {
            return Err(fault.error());
        }
        for (at, _) in dir.match_indices('/').chain([(dir.len(), "")]) {
            let dir = &dir[..at];
            if !dir.is_empty() && sim.dirs.insert(dir.to_owned()) {
                sim.changes.push(NameChange::Dir(dir.to_owned()));
            }
        }
        sim.answer()
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let sim = self.sim();
        sim.alive(sim.life)?;
        if !dir.is_empty() && !sim.dirs.contains(dir) {
            return Err(not_found(dir));
        }
        let paths = sim.names.keys().chain(&sim.dirs);
        let names: BTreeSet<&str> = paths.filter_map(|path| name_in(dir, path)).collect();
        Ok(names.into_iter().map(str::to_owned).collect())
    }

    fn open(&self, path: &str, mode: OpenMode) -> io::Result<Box<dyn DiskFile>> {
        let mut sim = self.sim();
        sim.alive(sim.life)?;
        let id = match (sim.names.get(path).copied(), mode) {
            (Some(_), OpenMode::CreateNew) => {
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, path.to_owned()));
            }
            (Some(id), _) => id,
            (None, OpenMode::Read | OpenMode::Write) => return Err(not_found(path)),
            (None, OpenMode::Create | OpenMode::CreateNew) => {
                if let Some(fault) = sim.count()? {
                    return Err(fault.error());
                }
                let dir = dir_of(path);
                if !dir.is_empty() && !sim.dirs.contains(dir) {
                    return Err(not_found(dir));
                }
                let id = sim.next_file;
                sim.next_file += 1;
                sim.files.insert(id, SimFile::default());
                sim.names.insert(path.to_owned(), id);
                sim.changes.push(NameChange::Create(path.to_owned(), id));
                sim.answer()?;
                id
            }
        };
        let writes = mode != OpenMode::Read;
        let life = sim.life;
        Ok(Box::new(SimHandle { disk: self.clone(), path: path.to_owned(), id, life, writes }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut sim = self.sim();
        if let Some(fault) = sim.count()? {
            return Err(fault.error());
        }
        let id = sim.names.remove(from).ok_or_else(|| not_found(from))?;
        sim.names.insert(to.to_owned(), id);
        sim.changes.push(NameChange::Rename(from.to_owned(), to.to_owned(), id));
        sim.answer()
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let mut sim = self.sim();
        if let Some(fault) = sim.count()? {
            return Err(fault.error());
        }
        sim.names.remove(path).ok_or_else(|| not_found(path))?;
        sim.changes.push(NameChange::Remove(path.to_owned()));
        sim.answer()
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        let mut sim = self.sim();
        let fault = sim.count()?;
        sim.answer()?;
        if let Some(fault) = fault {
            // Unlike the pages of a file, names are not dropped: file systems either keep trying, or abort their
            // journal and refuse everything from then on.
            return Err(fault.error());
        }
        let sim = &mut *sim;
        let (now, later): (Vec<_>, Vec<_>) =
            sim.changes.drain(..).partition(|change| dir_of(change.path()) == dir);
        sim.changes = later;
        for change in &now {
            apply(change, &mut sim.stable_names, &mut sim.stable_dirs);
        }
        Ok(())
    }

    fn lock(&self, path: &str) -> io::Result<Box<dyn Debug + Send + Sync>> {
        drop(self.open(path, OpenMode::Create)?);
        let mut sim = self.sim();
        if !sim.locks.insert(path.to_owned()) {
            return Err(io::Error::new(io::ErrorKind::WouldBlock, "another holds the lock"));
        }
        Ok(Box::new(SimLock { disk: self.clone(), path: path.to_owned(), life: sim.life }))
    }
}

impl Fault {
    fn error(self) -> io::Error {
        match self {
            Self::Eio => io::Error::other("injected input/output error"),
            Self::Full => io::ErrorKind::StorageFull.into(),
            Self::Short => io::Error::new(io::ErrorKind::WriteZero, "injected short write"),
        }
    }
}

#[derive(Debug)]
struct SimLock {
    disk: SimDisk,
    path: String,
    life: u64,
}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut sim = self.disk.sim();
        if sim.life == self.life {
            sim.locks.remove(&self.path);
        }
    }
}

#[derive(Debug)]
struct SimHandle {
    disk: SimDisk,
    path: String,
    id: u64,
    life: u64,
    writes: bool,
}

impl SimHandle {
    fn writable(&self) -> io::Result<()> {
        if self.writes { Ok(()) } else { Err(io::ErrorKind::PermissionDenied.into()) }
    }
}

impl DiskFile for SimHandle {
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        let mut sim = self.disk.sim();
        sim.alive(self.life)?;
        let end = offset + bytes.len() as u64;
        let bad = |(path, range): &(String, Range<u64>)| {
            *path == self.path && range.start < end && offset < range.end
        };
        if sim.bad_ranges.iter().any(bad) {
            return Err(io::Error::other("injected read error"));
        }
        let file = &sim.file(self.id).current;
        if end > file.len() as u64 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes.copy_from_slice(&file[offset as usize..end as usize]);
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.writable()?;
        let mut sim = self.disk.sim();
        sim.alive(self.life)?;
        let fault = sim.count()?;
        let end = offset + bytes.len() as u64;
        let more = end.saturating_sub(sim.file(self.id).current.len() as u64);
        if more > 0 {
            sim.room_for(more)?;
        }
        let written = match fault {
            None => bytes.len(),
            Some(Fault::Full) => 0,
            Some(Fault::Eio | Fault::Short) => bytes.len() / 2,
        };
        sim.file(self.id).write(offset as usize, &bytes[..written]);
        fault.map_or(Ok(()), |fault| Err(fault.error()))?;
        sim.answer()
    }

    fn sync(&self) -> io::Result<()> {
        let mut sim = self.disk.sim();
        sim.alive(self.life)?;
        // A file that was opened for reading has nothing of its own to sync, so a read-only disk takes it.
        if !self.writes {
            return Ok(());
        }
        let fault = sim.count()?;
        sim.answer()?;
        let file = sim.file(self.id);
        if let Some(fault) = fault {
            let lost = std::mem::take(&mut file.unsynced);
            file.lost.extend(lost);
            return Err(fault.error());
        }
        file.sync();
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        let mut sim = self.disk.sim();
        sim.alive(self.life)?;
        Ok(sim.file(self.id).current.len() as u64)
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.writable()?;
        let mut sim = self.disk.sim();
        sim.alive(self.life)?;
        if let Some(fault) = sim.count()? {
            return Err(fault.error());
        }
        let more = bytes.saturating_sub(sim.file(self.id).current.len() as u64);
        if more > 0 {
            sim.room_for(more)?;
        }
        sim.file(self.id).resize(bytes as usize);
        sim.answer()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(disk: &SimDisk, path: &str) -> io::Result<Vec<u8>> {
        let file = disk.open(path, OpenMode::Read)?;
        let mut bytes = vec![0; file.len()? as usize];
        file.read_at(0, &mut bytes)?;
        Ok(bytes)
    }

    fn stable_file(disk: &SimDisk, bytes: &[u8]) -> Box<dyn DiskFile> {
        let file = disk.open("a", OpenMode::CreateNew).unwrap();
        file.write_at(0, bytes).unwrap();
        file.sync().unwrap();
        disk.sync_dir("").unwrap();
        file
    }

    #[test]
    fn a_cut_forgets_what_was_not_synced() {
        let disk = SimDisk::new(1);
        let file = stable_file(&disk, &[1; 1024]);
        file.write_at(0, &[2; 1024]).unwrap();
        assert_eq!(read(&disk.fork(Keep::All), "a").unwrap(), [2; 1024]);
        disk.power_cut(Keep::None);
        assert_eq!(read(&disk, "a").unwrap(), [1; 1024]);
        assert!(is_power_cut(&file.sync().unwrap_err()), "an old handle is dead");
    }

    #[test]
    fn a_random_cut_tears_at_sectors() {
        let mut images = BTreeSet::new();
        for seed in 0..64 {
            let disk = SimDisk::new(seed);
            let file = stable_file(&disk, &[1; 1024]);
            file.write_at(0, &[2; 1024]).unwrap();
            disk.power_cut(Keep::Random);
            let bytes = read(&disk, "a").unwrap();
            assert!(bytes[..512].iter().all(|&b| b == bytes[0]));
            assert!(bytes[512..].iter().all(|&b| b == bytes[512]));
            images.insert((bytes[0], bytes[512]));
        }
        assert_eq!(images.len(), 4, "every subset occurs");
    }

    #[test]
    fn names_vanish_until_their_directory_is_synced() {
        let disk = SimDisk::new(1);
        disk.create_dir_all("d").unwrap();
        disk.sync_dir("").unwrap();
        let file = disk.open("d/a", OpenMode::CreateNew).unwrap();
        file.write_at(0, b"x").unwrap();
        file.sync().unwrap();
        assert_eq!(disk.fork(Keep::None).list("d").unwrap(), Vec::<String>::new());
        disk.sync_dir("d").unwrap();
        disk.rename("d/a", "d/b").unwrap();
        assert_eq!(disk.fork(Keep::None).list("d").unwrap(), ["a"]);
        assert_eq!(disk.fork(Keep::All).list("d").unwrap(), ["b"]);
        disk.sync_dir("d").unwrap();
        disk.remove("d/b").unwrap();
        assert_eq!(read(&disk.fork(Keep::None), "d/b").unwrap(), b"x");
    }

    #[test]
    fn what_is_in_a_directory_vanishes_with_it() {
        let disk = SimDisk::new(1);
        disk.create_dir_all("d/e").unwrap();
        drop(disk.open("d/e/a", OpenMode::CreateNew).unwrap());
        disk.sync_dir("d/e").unwrap();
        disk.sync_dir("d").unwrap();
        let cut = disk.fork(Keep::None);
        assert_eq!(cut.list("").unwrap(), Vec::<String>::new());
        cut.create_dir_all("d/e").unwrap();
        assert_eq!(cut.list("d/e").unwrap(), Vec::<String>::new());
        disk.sync_dir("").unwrap();
        assert_eq!(disk.fork(Keep::None).list("d/e").unwrap(), ["a"]);
    }

    #[test]
    fn a_failed_sync_is_not_made_good_by_the_next() {
        let disk = SimDisk::new(1);
        let file = stable_file(&disk, &[1; 512]);
        file.write_at(0, &[2; 512]).unwrap();
        disk.fail_at(disk.ops(), Fault::Eio);
        file.sync().unwrap_err();
        file.sync().unwrap();
        assert_eq!(read(&disk, "a").unwrap(), [2; 512], "readable while the power is on");
        disk.power_cut(Keep::None);
        assert_eq!(read(&disk, "a").unwrap(), [1; 512]);
    }

    #[test]
    fn the_power_fails_at_the_operation_that_was_named() {
        let disk = SimDisk::new(1);
        let file = stable_file(&disk, &[1; 512]);
        disk.cut_at(disk.ops() + 1);
        file.write_at(0, &[2; 512]).unwrap();
        assert!(is_power_cut(&file.sync().unwrap_err()));
        assert!(is_power_cut(&disk.list("").unwrap_err()));
        disk.reboot(Keep::None);
        assert_eq!(read(&disk, "a").unwrap(), [1; 512]);
    }

    #[test]
    fn capacity_bounds_the_lengths() {
        let disk = SimDisk::new(1);
        let file = stable_file(&disk, &[1; 512]);
        disk.set_capacity(Some(600));
        file.write_at(0, &[2; 600]).unwrap();
        let error = file.write_at(600, &[2; 1]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        disk.set_capacity(None);
        file.write_at(600, &[2; 1]).unwrap();
    }

    #[test]
    fn locks_end_with_their_guard_or_with_the_power() {
        let disk = SimDisk::new(1);
        let guard = disk.lock("LOCK").unwrap();
        assert_eq!(disk.lock("LOCK").unwrap_err().kind(), io::ErrorKind::WouldBlock);
        disk.power_cut(Keep::All);
        let second = disk.lock("LOCK").unwrap();
        drop(guard);
        assert!(disk.lock("LOCK").is_err(), "the guard of an earlier life frees nothing");
        drop(second);
        disk.lock("LOCK").unwrap();
    }
}
