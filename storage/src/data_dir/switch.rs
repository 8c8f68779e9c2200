//! Other data in the place of those that a directory holds, as when another driver takes them over.
//!
//! ```text
//!   MANIFEST  driver = local               MANIFEST  driver = raft, data = switched-1
//!   log/  checkpoint/          ------->    switched-1/log/  switched-1/checkpoint/
//! ```
//!
//! 1. The new data are complete and durable before the MANIFEST names them, and nothing else puts them in force: a crash leaves the
//!    old data or the new ones.
//! 2. What the MANIFEST does not name is removed when the directory is opened for writing.

use std::io;
use std::sync::Arc;

use super::{
    CHECKPOINT_DIR, DataDir, DataDirError, DataMode, Identity, MANIFEST, Manifest, data_of,
    is_driver_name, of_disk, write_manifest,
};
use crate::disk::Within;
use crate::{Disk, LOG_DIR, OpenMode};

/// How much of a file is copied at a time; a piece of zeros takes no room in the copy.
const COPY_BYTES: usize = 1 << 20;

impl DataDir {
    /// Begins other data beside those in force, for `driver`: with a copy of the checkpoints, which nobody may have open, and without
    /// a log. `store` is the random name of their store. What an earlier attempt has left is removed. The result is used as any
    /// directory, until [`put_in_force`](Self::put_in_force).
    ///
    /// # Errors
    ///
    /// [`DataDirError::DriverName`], [`DataDirError::ReadOnly`], or the disk's; the data in force are as they were.
    pub fn begin_switch(&self, driver: &str, store: [u8; 16]) -> Result<Self, DataDirError> {
        if !is_driver_name(driver) {
            return Err(DataDirError::DriverName { name: driver.to_owned() });
        }
        if self.mode == DataMode::ReadOnly {
            return Err(DataDirError::ReadOnly);
        }
        self.remove_others()?;
        let identity = Identity { driver: driver.to_owned(), ..self.manifest.identity.clone() };
        let switched = self.manifest.switched + 1;
        let dir = data_of(switched);
        let data = Within::new(Arc::clone(&self.disk), dir);
        let begin = || {
            data.create_dir_all(CHECKPOINT_DIR)?;
            for name in list_if_there(&*self.data, CHECKPOINT_DIR)? {
                if name.ends_with(CHECKPOINT_SUFFIX) {
                    let path = format!("{CHECKPOINT_DIR}/{name}");
                    copy_file(&*self.data, &path, &data, &path)?;
                }
            }
            data.sync_dir(CHECKPOINT_DIR)?;
            data.sync_dir("")?;
            self.disk.sync_dir("")
        };
        begin().map_err(of_disk("copy its checkpoints"))?;
        Ok(Self {
            disk: Arc::clone(&self.disk),
            data: Arc::new(data),
            manifest: Manifest { identity, store, has_log: false, switched },
            mode: DataMode::Create,
            is_begun: true,
            _lock: None,
        })
    }

    /// Puts data that were [begun](Self::begin_switch) here in the place of those in force, which are removed: keep a
    /// [copy](Self::copy_to). The lock stays.
    ///
    /// # Errors
    ///
    /// The disk's; the old data are in force then, or the new ones: the MANIFEST says which.
    ///
    /// # Panics
    ///
    /// If `begun` has no log yet, or was not begun here.
    pub fn put_in_force(&mut self, begun: Self) -> Result<(), DataDirError> {
        assert!(begun.is_begun, "what is put in force was begun beside it");
        assert!(begun.manifest.has_log, "what is put in force is complete");
        assert_eq!(begun.manifest.switched, self.manifest.switched + 1, "it was begun here");
        write_manifest(&*self.disk, &begun.manifest)?;
        (self.data, self.manifest) = (begun.data, begun.manifest);
        // They only take room, and the next start tries again.
        let _ = self.remove_others();
        Ok(())
    }

    /// Copies everything in force to an empty disk, which can be opened as this directory then. Gives the bytes that were read.
    ///
    /// # Errors
    ///
    /// The disk's, of here or of there; the copy has no MANIFEST then, and is refused by whoever opens it.
    pub fn copy_to(&self, to: &dyn Disk) -> Result<u64, DataDirError> {
        let copy = || {
            let data = data_of(self.manifest.switched);
            to.create_dir_all(&data)?;
            let (mut copied, there) = (0, |dir: &str| in_data(&data, dir));
            for (dir, name) in self.files()? {
                to.create_dir_all(&there(dir))?;
                let path = format!("{dir}/{name}");
                copied += copy_file(&*self.data, &path, to, &there(&path))?;
            }
            for dir in [LOG_DIR, CHECKPOINT_DIR] {
                to.create_dir_all(&there(dir))?;
                to.sync_dir(&there(dir))?;
            }
            to.sync_dir(&data)?;
            to.sync_dir("")?;
            // The last: what has none is not whole.
            copied += copy_file(&*self.disk, MANIFEST, to, MANIFEST)?;
            to.sync_dir("")?;
            Ok(copied)
        };
        copy().map_err(of_copy)
    }

    /// How many bytes a [copy](Self::copy_to) takes, at most.
    ///
    /// # Errors
    ///
    /// The disk's.
    pub fn bytes(&self) -> Result<u64, DataDirError> {
        let measure = || {
            let files = self.files()?;
            let len = |(dir, name): (&str, String)| {
                self.data.open(&format!("{dir}/{name}"), OpenMode::Read)?.len()
            };
            files.into_iter().map(len).sum::<io::Result<u64>>()
        };
        measure().map_err(of_disk("measure it"))
    }

    /// What is to be kept of the data in force: all but segments that are ready to be used.
    fn files(&self) -> io::Result<Vec<(&'static str, String)>> {
        let mut files = Vec::new();
        for dir in [LOG_DIR, CHECKPOINT_DIR] {
            let names = list_if_there(&*self.data, dir)?.into_iter();
            files.extend(names.filter(|name| !name.starts_with("spare-")).map(|name| (dir, name)));
        }
        Ok(files)
    }

    /// Removes the data of other switches than the one in force: those of an attempt that did not come to its end, and those of
    /// before. Opening for writing does so, too.
    ///
    /// # Errors
    ///
    /// The disk's.
    pub fn remove_others(&self) -> Result<(), DataDirError> {
        let remove = || {
            for name in self.disk.list("")? {
                let number = name.strip_prefix(SWITCHED).and_then(|number| number.parse().ok());
                let of_first = [LOG_DIR, CHECKPOINT_DIR].contains(&&*name).then_some(0);
                if let Some(number) = number.or(of_first)
                    && number != self.manifest.switched
                {
                    remove_data(&*self.disk, number)?;
                }
            }
            Ok(())
        };
        remove().map_err(of_disk("remove what a driver switch has left"))
    }
}

/// What the names of checkpoints end with.
const CHECKPOINT_SUFFIX: &str = ".redb";

/// What leads the names of directories with data that took the place of others.
pub(super) const SWITCHED: &str = "switched-";

/// A path in the directory that holds the data, which may be the root.
fn in_data(data: &str, path: &str) -> String {
    if data.is_empty() { path.to_owned() } else { format!("{data}/{path}") }
}

fn list_if_there(disk: &dyn Disk, dir: &str) -> io::Result<Vec<String>> {
    match disk.list(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        listed => listed,
    }
}

fn remove_data(disk: &dyn Disk, switched: u32) -> io::Result<()> {
    let data = data_of(switched);
    for dir in [LOG_DIR, CHECKPOINT_DIR] {
        let dir = in_data(&data, dir);
        for name in list_if_there(disk, &dir)? {
            // Whatever else somebody keeps there is theirs.
            if ["segment-", "spare-", "g"].iter().any(|ours| name.starts_with(ours)) {
                disk.remove(&format!("{dir}/{name}"))?;
            }
        }
        remove_dir_if_empty(disk, &dir)?;
    }
    if !data.is_empty() {
        remove_dir_if_empty(disk, &data)?;
    }
    Ok(())
}

fn remove_dir_if_empty(disk: &dyn Disk, dir: &str) -> io::Result<()> {
    match disk.remove_dir(dir).map_err(|error| (error.kind(), error)) {
        Err((io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty, _)) | Ok(()) => Ok(()),
        Err((_, error)) => Err(error),
    }
}

fn copy_file(from: &dyn Disk, path: &str, to: &dyn Disk, copy: &str) -> io::Result<u64> {
    let file = from.open(path, OpenMode::Read)?;
    let copy = to.open(copy, OpenMode::CreateNew)?;
    let len = file.len()?;
    copy.set_len(len)?;
    let mut bytes = vec![0; COPY_BYTES];
    let mut at = 0;
    while at < len {
        let now = usize::try_from(len - at).map_or(COPY_BYTES, |left| left.min(COPY_BYTES));
        let bytes = &mut bytes[..now];
        file.read_at(at, bytes)?;
        if bytes.iter().any(|byte| *byte != 0) {
            copy.write_at(at, bytes)?;
        }
        at += now as u64;
    }
    copy.sync()?;
    Ok(len)
}

fn of_copy(source: io::Error) -> DataDirError {
    DataDirError::Io { what: "copy it", source }
}
