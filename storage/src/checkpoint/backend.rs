//! redb on a [`DiskFile`].

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use redb::StorageBackend;

use crate::DiskFile;

/// After this many bytes what was written is synced, although nobody asked for it. A checkpoint of many keys would
/// otherwise reach the disk all at once, and the log's own small syncs would wait behind it.
const SYNC_EVERY_BYTES: u64 = 1 << 20;

/// redb on a [`DiskFile`].
#[derive(Debug)]
pub(super) struct FileBackend {
    file: Box<dyn DiskFile>,
    /// Written and not synced.
    unsynced: AtomicU64,
}

impl FileBackend {
    pub(super) fn new(file: Box<dyn DiskFile>) -> Self {
        Self { file, unsynced: AtomicU64::new(0) }
    }
}

impl StorageBackend for FileBackend {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_at(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.unsynced.store(0, Ordering::Relaxed);
        self.file.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_at(offset, data)?;
        let bytes = data.len() as u64;
        // Only a hint when to sync early: what must be durable is synced by redb itself.
        if self.unsynced.fetch_add(bytes, Ordering::Relaxed) + bytes >= SYNC_EVERY_BYTES {
            self.sync_data()?;
        }
        Ok(())
    }
}

const PAGE_BYTES: usize = 4096;

/// redb on a [`DiskFile`] that is only read: what redb writes, as it does when it opens a file, stays in memory.
#[derive(Debug)]
pub(super) struct OverlayBackend {
    file: Box<dyn DiskFile>,
    overlay: Mutex<Overlay>,
}

#[derive(Debug)]
struct Overlay {
    len: u64,
    /// Bytes of the file that still count; beyond it are zeros.
    file_len: u64,
    pages: BTreeMap<u64, Box<[u8]>>,
}

impl OverlayBackend {
    pub(super) fn new(file: Box<dyn DiskFile>) -> io::Result<Self> {
        let len = file.len()?;
        let overlay = Overlay { len, file_len: len, pages: BTreeMap::new() };
        Ok(Self { file, overlay: Mutex::new(overlay) })
    }

    fn with<T>(&self, act: impl FnOnce(&mut Overlay) -> T) -> T {
        act(&mut self.overlay.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A page of the file as it was.
    fn page(&self, page: u64, file_len: u64) -> io::Result<Box<[u8]>> {
        let mut bytes = vec![0; PAGE_BYTES].into_boxed_slice();
        let from = page * PAGE_BYTES as u64;
        let len = file_len.saturating_sub(from).min(PAGE_BYTES as u64) as usize;
        self.file.read_at(from, &mut bytes[..len])?;
        Ok(bytes)
    }
}

/// The pages that a range touches: which, where in it, and how many bytes.
fn pages(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, usize)> {
    let mut at = offset;
    let end = offset + len as u64;
    std::iter::from_fn(move || {
        (at < end).then(|| {
            let (page, from) = (at / PAGE_BYTES as u64, (at % PAGE_BYTES as u64) as usize);
            let bytes = (PAGE_BYTES - from).min((end - at) as usize);
            at += bytes as u64;
            (page, from, bytes)
        })
    })
}

impl StorageBackend for OverlayBackend {
    fn len(&self) -> io::Result<u64> {
        Ok(self.with(|overlay| overlay.len))
    }

    fn read(&self, offset: u64, mut out: &mut [u8]) -> io::Result<()> {
        self.with(|overlay| {
            if offset + out.len() as u64 > overlay.len {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            for (page, from, bytes) in pages(offset, out.len()) {
                let (now, rest) = std::mem::take(&mut out).split_at_mut(bytes);
                match overlay.pages.get(&page) {
                    Some(page) => now.copy_from_slice(&page[from..from + bytes]),
                    None => {
                        let page = self.page(page, overlay.file_len)?;
                        now.copy_from_slice(&page[from..from + bytes]);
                    }
                }
                out = rest;
            }
            Ok(())
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.with(|overlay| {
            if len < overlay.len {
                overlay.file_len = overlay.file_len.min(len);
                let last = len / PAGE_BYTES as u64;
                overlay.pages.split_off(&(last + 1));
                if let Some(page) = overlay.pages.get_mut(&last) {
                    page[(len % PAGE_BYTES as u64) as usize..].fill(0);
                }
            }
            overlay.len = len;
        });
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, mut data: &[u8]) -> io::Result<()> {
        let end = offset + data.len() as u64;
        self.with(|overlay| {
            for (page, from, bytes) in pages(offset, data.len()) {
                let (now, rest) = data.split_at(bytes);
                let file_len = overlay.file_len;
                let slot = match overlay.pages.entry(page) {
                    std::collections::btree_map::Entry::Occupied(slot) => slot.into_mut(),
                    std::collections::btree_map::Entry::Vacant(slot) => {
                        slot.insert(self.page(page, file_len)?)
                    }
                };
                slot[from..from + bytes].copy_from_slice(now);
                data = rest;
            }
            overlay.len = overlay.len.max(end);
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Disk, MemoryDisk, OpenMode};

    #[test]
    fn writes_over_a_file_that_is_only_read_stay_in_memory() {
        let disk = MemoryDisk::new();
        let file = disk.open("a", OpenMode::Create).unwrap();
        file.write_at(0, &[1; 10_000]).unwrap();
        let overlay = OverlayBackend::new(disk.open("a", OpenMode::Read).unwrap()).unwrap();
        overlay.write(4090, &[2; 10]).unwrap();
        let mut bytes = [0; 14];
        overlay.read(4088, &mut bytes).unwrap();
        assert_eq!(bytes, [1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1, 1]);
        overlay.set_len(9000).unwrap();
        overlay.set_len(10_000).unwrap();
        let mut bytes = [9; 4];
        overlay.read(8998, &mut bytes).unwrap();
        assert_eq!(bytes, [1, 1, 0, 0]);
        let mut bytes = [0; 10_000];
        file.read_at(0, &mut bytes).unwrap();
        assert_eq!(bytes, [1; 10_000]);
    }
}
