//! A directory of a disk as a disk of its own.

use std::fmt::Debug;
use std::io;
use std::sync::Arc;

use super::{Disk, DiskFile, OpenMode};

/// A directory of a disk as a disk of its own.
#[derive(Clone, Debug)]
pub(crate) struct Within {
    disk: Arc<dyn Disk>,
    dir: String,
}

impl Within {
    pub(crate) fn new(disk: Arc<dyn Disk>, dir: impl Into<String>) -> Self {
        Self { disk, dir: dir.into() }
    }

    fn path(&self, path: &str) -> String {
        if path.is_empty() { self.dir.clone() } else { format!("{}/{path}", self.dir) }
    }
}

#[deny(clippy::missing_trait_methods)]
impl Disk for Within {
    fn create_dir_all(&self, dir: &str) -> io::Result<()> {
        self.disk.create_dir_all(&self.path(dir))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.disk.list(&self.path(dir))
    }

    fn open(&self, path: &str, mode: OpenMode) -> io::Result<Box<dyn DiskFile>> {
        self.disk.open(&self.path(path), mode)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(&self.path(from), &self.path(to))
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.disk.remove(&self.path(path))
    }

    fn remove_dir(&self, dir: &str) -> io::Result<()> {
        self.disk.remove_dir(&self.path(dir))
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.disk.sync_dir(&self.path(dir))
    }

    fn lock(&self, path: &str) -> io::Result<Box<dyn Debug + Send + Sync>> {
        self.disk.lock(&self.path(path))
    }
}
