//! What a node is measured against: the same work without one.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::machine::Numbers;
use crate::{BYTES, KEYS};

/// A map with all keys.
#[derive(Debug)]
pub(crate) struct Map {
    map: BTreeMap<Vec<u8>, Vec<u8>>,
    numbers: Numbers,
}

impl Map {
    pub(crate) fn filled() -> Self {
        let mut map = Self { map: BTreeMap::new(), numbers: Numbers::new(0) };
        map.put(KEYS);
        map
    }

    pub(crate) fn put(&mut self, count: u64) {
        for _ in 0..count {
            self.map.insert(self.numbers.key().to_vec(), vec![7; BYTES]);
        }
    }
}

/// The raw writer's rate is the median of so many stretches.
const STRETCHES: usize = 5;

/// How long each of them is.
const STRETCH: Duration = Duration::from_millis(200);

/// Length of the raw writer's file, as long as a segment.
const FILE_BYTES: u64 = 64 << 20;

/// One thread that does nothing but write `bytes` to a file that is there already, and sync.
pub(crate) fn syncs_per_second(directory: &Path, bytes: usize) -> f64 {
    let path = directory.join("raw");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(&path)
        .expect("a file in the bench's directory");
    let zeros = vec![0; 1 << 20];
    for offset in (0..FILE_BYTES).step_by(zeros.len()) {
        file.write_all_at(&zeros, offset).expect("room for the raw writer's file");
    }
    file.sync_all().expect("the disk syncs");
    let piece = vec![7; bytes];
    let mut offset = 0;
    let mut rates: Vec<f64> = Vec::new();
    for _ in 0..STRETCHES {
        let (begun, mut syncs) = (Instant::now(), 0);
        while begun.elapsed() < STRETCH {
            if offset + bytes as u64 > FILE_BYTES {
                offset = 0;
            }
            file.write_all_at(&piece, offset).expect("the disk writes");
            file.sync_data().expect("the disk syncs");
            offset += bytes as u64;
            syncs += 1;
        }
        rates.push(f64::from(syncs) / begun.elapsed().as_secs_f64());
    }
    rates.sort_unstable_by(f64::total_cmp);
    drop(file);
    std::fs::remove_file(path).expect("the raw writer's file can be removed");
    rates[STRETCHES / 2]
}
