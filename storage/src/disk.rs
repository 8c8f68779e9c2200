//! What the log and the checkpoints ask of a disk.
//!
//! ```text
//!   log, checkpoints, data directory
//!               |
//!             Disk ----> RealDisk    files under a directory
//!                  ----> MemoryDisk  never fails, forgets everything: `durability = "memory"`
//!                  ----> SimDisk     forgets what was not synced, and fails when it is told to
//! ```
//!
//! Paths are relative to the root of the disk, with `/` between their parts.
//!
//! A disk promises what POSIX promises and no more: bytes that were written are stable only after [`DiskFile::sync`],
//! names that were created, renamed or removed only after [`Disk::sync_dir`] of their directory. A sector of
//! [`SECTOR_BYTES`] is written wholly or not at all.

mod memory_disk;
mod real_disk;
mod sim_disk;
mod within;

use std::fmt::Debug;
use std::io;

pub use memory_disk::MemoryDisk;
pub use real_disk::RealDisk;
pub use sim_disk::{Fault, Keep, SimDisk, is_power_cut};
pub(crate) use within::Within;

/// What a disk writes wholly or not at all.
pub const SECTOR_BYTES: usize = 512;

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// An existing file, for reading only.
    Read,
    /// An existing file, for reading and writing.
    Write,
    /// A file for reading and writing that is created, empty, if there is none.
    Create,
    /// A file for reading and writing that did not exist.
    CreateNew,
}

/// A directory tree that can be made durable piece by piece.
///
/// # Contract
///
/// Every method may be called from every thread. None is retried by the disk after it failed, and a caller must not
/// trust a file again after a failed write or sync.
pub trait Disk: Debug + Send + Sync + 'static {
    /// Creates a directory and those above it, below the root. The names are stable after [`sync_dir`](Self::sync_dir)
    /// of their parents.
    ///
    /// # Errors
    ///
    /// What the operating system says.
    fn create_dir_all(&self, dir: &str) -> io::Result<()>;

    /// The names in a directory, sorted, without `.` and `..`.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::NotFound`] if there is no such directory.
    fn list(&self, dir: &str) -> io::Result<Vec<String>>;

    /// Opens a file.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::NotFound`] and [`io::ErrorKind::AlreadyExists`] as the mode says.
    fn open(&self, path: &str, mode: OpenMode) -> io::Result<Box<dyn DiskFile>>;

    /// Gives a file another name, replacing what had it. Stable after [`sync_dir`](Self::sync_dir).
    ///
    /// # Errors
    ///
    /// What the operating system says.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file. Stable after [`sync_dir`](Self::sync_dir). Open handles stay good.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::NotFound`] if there is no such file.
    fn remove(&self, path: &str) -> io::Result<()>;

    /// Removes a directory that is empty. It takes no room, so a disk may as well leave it.
    ///
    /// # Errors
    ///
    /// What the operating system says.
    fn remove_dir(&self, dir: &str) -> io::Result<()> {
        let _ = dir;
        Ok(())
    }

    /// Makes the names in a directory stable; `""` is the root.
    ///
    /// # Errors
    ///
    /// What the operating system says.
    fn sync_dir(&self, dir: &str) -> io::Result<()>;

    /// Takes an exclusive lock on a file, which is created if there is none, and holds it until the guard is dropped
    /// or the process ends.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::WouldBlock`] while another holds it.
    fn lock(&self, path: &str) -> io::Result<Box<dyn Debug + Send + Sync>>;
}

/// An open file.
///
/// # Contract
///
/// Every method may be called from every thread. Writes to ranges that do not overlap do not disturb one another.
pub trait DiskFile: Debug + Send + Sync {
    /// Fills `bytes` from `offset` on.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::UnexpectedEof`] if the file ends before.
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()>;

    /// Writes all of `bytes` from `offset` on; the file grows as needed.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::StorageFull`] if there is no room; after an error any part may have been written.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Makes all that was written, and the length, stable.
    ///
    /// # Errors
    ///
    /// After an error the file must not be trusted, even if a later call succeeds.
    fn sync(&self) -> io::Result<()>;

    /// Length in bytes.
    ///
    /// # Errors
    ///
    /// What the operating system says.
    fn len(&self) -> io::Result<u64>;

    /// Whether the file has no bytes.
    ///
    /// # Errors
    ///
    /// As [`len`](Self::len).
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Cuts the file, or lengthens it with zeros.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::StorageFull`] if there is no room.
    fn set_len(&self, bytes: u64) -> io::Result<()>;
}

/// Whether an error says that the disk, or the share of it that we may use, is full.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}
