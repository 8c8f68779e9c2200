//! A disk in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use super::{Disk, DiskFile, OpenMode};

/// Pages that hold only zeros take no memory, so that preparing a segment costs nothing.
const PAGE_BYTES: usize = 64 * 1024;

/// A disk in memory that never fails and forgets everything when its last handle is dropped.
#[derive(Clone, Default)]
pub struct MemoryDisk {
    tree: Arc<Mutex<Tree>>,
}

// Whoever prints a disk does not want to see its bytes.
impl Debug for MemoryDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryDisk").finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Tree {
    files: BTreeMap<String, Arc<RwLock<Pages>>>,
    dirs: BTreeSet<String>,
    locks: BTreeSet<String>,
}

#[derive(Default)]
struct Pages {
    len: u64,
    pages: Vec<Option<Box<[u8]>>>,
}

impl MemoryDisk {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    fn with<T>(&self, act: impl FnOnce(&mut Tree) -> T) -> T {
        act(&mut self.tree.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Disk for MemoryDisk {
    fn create_dir_all(&self, dir: &str) -> io::Result<()> {
        self.with(|tree| {
            for (at, _) in dir.match_indices('/').chain([(dir.len(), "")]) {
                tree.dirs.insert(dir[..at].to_owned());
            }
        });
        Ok(())
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.with(|tree| {
            if !dir.is_empty() && !tree.dirs.contains(dir) {
                return Err(not_found(dir));
            }
            let mut names: BTreeSet<String> = BTreeSet::new();
            for path in tree.files.keys().chain(tree.dirs.iter()) {
                names.extend(name_in(dir, path).map(str::to_owned));
            }
            Ok(names.into_iter().collect())
        })
    }

    fn open(&self, path: &str, mode: OpenMode) -> io::Result<Box<dyn DiskFile>> {
        self.with(|tree| {
            let pages = match (tree.files.get(path), mode) {
                (Some(_), OpenMode::CreateNew) => {
                    return Err(io::Error::new(io::ErrorKind::AlreadyExists, path.to_owned()));
                }
                (Some(pages), _) => Arc::clone(pages),
                (None, OpenMode::Read | OpenMode::Write) => return Err(not_found(path)),
                (None, OpenMode::Create | OpenMode::CreateNew) => {
                    let dir = path.rsplit_once('/').map_or("", |(dir, _)| dir);
                    if !dir.is_empty() && !tree.dirs.contains(dir) {
                        return Err(not_found(dir));
                    }
                    let pages = Arc::<RwLock<Pages>>::default();
                    tree.files.insert(path.to_owned(), Arc::clone(&pages));
                    pages
                }
            };
            Ok(Box::new(MemoryFile { pages }) as Box<dyn DiskFile>)
        })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.with(|tree| {
            let pages = tree.files.remove(from).ok_or_else(|| not_found(from))?;
            tree.files.insert(to.to_owned(), pages);
            Ok(())
        })
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.with(|tree| tree.files.remove(path).map(drop).ok_or_else(|| not_found(path)))
    }

    fn sync_dir(&self, _dir: &str) -> io::Result<()> {
        Ok(())
    }

    fn lock(&self, path: &str) -> io::Result<Box<dyn Debug + Send + Sync>> {
        let path = path.to_owned();
        if !self.with(|tree| tree.locks.insert(path.clone())) {
            return Err(io::Error::new(io::ErrorKind::WouldBlock, "another holds the lock"));
        }
        Ok(Box::new(MemoryLock { disk: self.clone(), path }))
    }
}

#[derive(Debug)]
struct MemoryLock {
    disk: MemoryDisk,
    path: String,
}

impl Drop for MemoryLock {
    fn drop(&mut self) {
        self.disk.with(|tree| tree.locks.remove(&self.path));
    }
}

struct MemoryFile {
    pages: Arc<RwLock<Pages>>,
}

impl Debug for MemoryFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryFile").finish_non_exhaustive()
    }
}

impl DiskFile for MemoryFile {
    fn read_at(&self, offset: u64, mut bytes: &mut [u8]) -> io::Result<()> {
        let file = self.pages.read().unwrap_or_else(PoisonError::into_inner);
        let end = offset.checked_add(bytes.len() as u64);
        if end.is_none_or(|end| end > file.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut at = offset as usize;
        while !bytes.is_empty() {
            let (page, from) = (at / PAGE_BYTES, at % PAGE_BYTES);
            let (now, rest) = bytes.split_at_mut(bytes.len().min(PAGE_BYTES - from));
            match file.pages.get(page).and_then(Option::as_ref) {
                Some(page) => now.copy_from_slice(&page[from..from + now.len()]),
                None => now.fill(0),
            }
            at += now.len();
            bytes = rest;
        }
        Ok(())
    }

    fn write_at(&self, offset: u64, mut bytes: &[u8]) -> io::Result<()> {
        let mut file = self.pages.write().unwrap_or_else(PoisonError::into_inner);
        file.len = file.len.max(offset + bytes.len() as u64);
        let mut at = offset as usize;
        while !bytes.is_empty() {
            let (page, from) = (at / PAGE_BYTES, at % PAGE_BYTES);
            let (now, rest) = bytes.split_at(bytes.len().min(PAGE_BYTES - from));
            if file.pages.len() <= page {
                file.pages.resize_with(page + 1, || None);
            }
            let slot = &mut file.pages[page];
            if slot.is_some() || now.iter().any(|&byte| byte != 0) {
                let page = slot.get_or_insert_with(|| vec![0; PAGE_BYTES].into_boxed_slice());
                page[from..from + now.len()].copy_from_slice(now);
            }
            at += now.len();
            bytes = rest;
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.pages.read().unwrap_or_else(PoisonError::into_inner).len)
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        let mut file = self.pages.write().unwrap_or_else(PoisonError::into_inner);
        if bytes < file.len {
            let (page, from) = (bytes as usize / PAGE_BYTES, bytes as usize % PAGE_BYTES);
            file.pages.truncate(page + 1);
            if let Some(Some(page)) = file.pages.get_mut(page) {
                page[from..].fill(0);
            }
        }
        file.len = bytes;
        Ok(())
    }
}

/// The part of `path` that is a direct child of `dir`.
pub(super) fn name_in<'a>(dir: &str, path: &'a str) -> Option<&'a str> {
    let rest = if dir.is_empty() { path } else { path.strip_prefix(dir)?.strip_prefix('/')? };
    (!rest.is_empty() && !rest.contains('/')).then_some(rest)
}

pub(super) fn not_found(path: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("no such file or directory: {path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_was_written_across_pages_and_zeros_elsewhere() {
        let disk = MemoryDisk::new();
        let file = disk.open("a", OpenMode::Create).unwrap();
        let at = PAGE_BYTES as u64 - 3;
        file.write_at(at, b"abcdef").unwrap();
        let mut bytes = [9; 8];
        file.read_at(at - 2, &mut bytes).unwrap();
        assert_eq!(&bytes, b"\0\0abcdef");
        file.set_len(at + 1).unwrap();
        file.set_len(at + 6).unwrap();
        let mut bytes = [9; 6];
        file.read_at(at, &mut bytes).unwrap();
        assert_eq!(&bytes, b"a\0\0\0\0\0");
        assert!(file.read_at(at + 1, &mut bytes).is_err());
    }

    #[test]
    fn a_lock_is_exclusive_until_it_is_dropped() {
        let disk = MemoryDisk::new();
        let guard = disk.lock("LOCK").unwrap();
        assert_eq!(disk.lock("LOCK").unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(guard);
        disk.lock("LOCK").unwrap();
    }
}
