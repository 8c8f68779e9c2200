//! How targets take their input apart.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use bytes::Bytes;
use quorate_storage::{Disk, MemoryDisk, OpenMode};

/// Bytes that are taken from the front. At the end there are only zeros.
pub(crate) struct Input<'a>(pub(crate) &'a [u8]);

impl<'a> Input<'a> {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn u8(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    pub(crate) fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    pub(crate) fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    pub(crate) fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let (now, rest) = self.0.split_at(N.min(self.0.len()));
        array[..now.len()].copy_from_slice(now);
        self.0 = rest;
        array
    }

    /// A piece with its length before it, or what is left of it.
    pub(crate) fn piece(&mut self) -> &'a [u8] {
        let length = usize::from(self.u16());
        let (piece, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        piece
    }

    /// Pieces to the end.
    pub(crate) fn pieces(mut self) -> Vec<&'a [u8]> {
        std::iter::from_fn(|| (!self.is_empty()).then(|| self.piece())).collect()
    }
}

/// Writes what [`Input`] reads.
#[derive(Default)]
pub(crate) struct Written(pub(crate) Vec<u8>);

impl Written {
    pub(crate) fn u8(mut self, number: u8) -> Self {
        self.0.push(number);
        self
    }

    pub(crate) fn u32(mut self, number: u32) -> Self {
        self.0.extend_from_slice(&number.to_le_bytes());
        self
    }

    pub(crate) fn u64(mut self, number: u64) -> Self {
        self.0.extend_from_slice(&number.to_le_bytes());
        self
    }

    pub(crate) fn piece(mut self, piece: &[u8]) -> Self {
        let length = u16::try_from(piece.len()).expect("pieces of seeds are short");
        self.0.extend_from_slice(&length.to_le_bytes());
        self.0.extend_from_slice(piece);
        self
    }
}

/// What was read and written again must be read as the same.
pub(crate) fn settles(bytes: &[u8], again: impl Fn(&[u8]) -> Option<Bytes>) -> Option<Bytes> {
    let written = again(bytes)?;
    assert_eq!(again(&written).as_ref(), Some(&written), "what was written is read differently");
    Some(written)
}

/// What can be read has one form only.
pub(crate) fn is_canonical(bytes: &[u8], again: impl Fn(&[u8]) -> Option<Bytes>) {
    if let Some(written) = again(bytes) {
        assert_eq!(written, bytes, "two forms of the same");
    }
}

/// What was read, written, and read again is the same value.
pub(crate) fn comes_back<T: PartialEq + Debug, E: Debug>(
    bytes: &[u8],
    read: impl Fn(&Bytes) -> Result<T, E>,
    write: impl Fn(&T) -> Bytes,
) -> Option<T> {
    let value = read(&Bytes::copy_from_slice(bytes)).ok()?;
    let again = read(&write(&value)).expect("what was written is read");
    assert_eq!(again, value);
    Some(value)
}

/// The files of a disk.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

/// A disk with these files.
pub(crate) fn disk_with(files: &Files) -> Arc<dyn Disk> {
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
    for (path, bytes) in files {
        if let Some((directory, _)) = path.rsplit_once('/') {
            disk.create_dir_all(directory).expect("memory does not fail");
        }
        let file = disk.open(path, OpenMode::Create).expect("memory does not fail");
        file.write_at(0, bytes).expect("memory does not fail");
    }
    disk
}

/// The files in a directory of a disk.
pub(crate) fn files_in(disk: &dyn Disk, directory: &str) -> Files {
    let names = disk.list(directory).expect("memory does not fail");
    let read = |name: String| {
        let path = format!("{directory}/{name}");
        let file = disk.open(&path, OpenMode::Read).expect("it was listed");
        let mut bytes = vec![0; file.len().expect("memory does not fail") as usize];
        file.read_at(0, &mut bytes).expect("memory does not fail");
        (path, bytes)
    };
    names.into_iter().map(read).collect()
}

/// Damages files as the input says: bytes that are replaced, sectors that are lost or come from elsewhere, files that are cut or gone.
pub(crate) fn damage(files: &mut Files, mut input: Input<'_>) {
    while !input.is_empty() {
        let (what, which, at) = (input.u8(), usize::from(input.u8()), input.u32() as usize);
        let paths: Vec<_> = files.keys().cloned().collect();
        let Some(path) = paths.get(which % paths.len().max(1)) else { return };
        let bytes = files.get_mut(path).expect("it is a key");
        let at = at % bytes.len().max(1);
        match what % 6 {
            0 => {
                let with = input.piece();
                for (byte, with) in bytes.iter_mut().skip(at).zip(with) {
                    *byte = *with;
                }
            }
            1 => {
                let bit = input.u8() % 8;
                bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << bit);
            }
            2 => {
                let sector = at / 512 * 512;
                bytes.iter_mut().skip(sector).take(512).for_each(|byte| *byte = 0);
            }
            3 => {
                let (to, from) =
                    (at / 512 * 512, input.u32() as usize % bytes.len().max(1) / 512 * 512);
                let end = (from + 512).min(bytes.len());
                if to + (end - from) <= bytes.len() {
                    bytes.copy_within(from..end, to);
                }
            }
            4 => bytes.truncate(at),
            _ => drop(files.remove(path)),
        }
    }
}
