//! The log: records behind checksums that are right, and a log of our own that is damaged.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use quorate_storage::fuzzing::{self, Block};
use quorate_storage::{
    Body, Disk, Entry, Group, LOG_DIR, Log, LogConfig, LogError, LogMode, MemoryDisk, Opening,
    Record, Recovered, Tag,
};

use crate::input::{Files, Input, Written, damage, disk_with, files_in};

const STORE: [u8; 16] = *b"a store of tests";
const SEGMENT_BYTES: usize = 16 << 10;

type Found = BTreeMap<Group, Recovered>;

fn config() -> LogConfig {
    let mut config = LogConfig::small();
    config.segment_bytes = SEGMENT_BYTES as u64;
    config.block_bytes_max = 4 << 10;
    config
}

type Opened = Result<(Log, Found), LogError>;

fn create(disk: Arc<dyn Disk>) -> Opened {
    Log::open(disk, config(), &opening(LogMode::Create, 0))
}

fn open(disk: Arc<dyn Disk>, durable_lsn: u64) -> Opened {
    Log::open(disk, config(), &opening(LogMode::Existing, durable_lsn))
}

fn opening(mode: LogMode, durable_lsn: u64) -> Opening {
    Opening { store: STORE, durable_lsn, floors: BTreeMap::new(), mode }
}

/// Blocks of anything, sealed: the log opens with what they say, or says why it does not.
pub(crate) fn records(bytes: &[u8]) {
    let mut input = Input(bytes);
    let mut blocks = Vec::new();
    while !input.is_empty() {
        let (kind, records, run) = (input.u8(), u32::from(input.u8()), input.piece());
        let (heads, decoded) = fuzzing::groups(run);
        assert!(heads.starts_with(&decoded), "a record is seen otherwise than it is read");
        // Mostly as many as there are.
        let records = if records == 0 { decoded.len() as u32 } else { records };
        blocks.push(Block { kind, records, run });
    }
    let segment = fuzzing::segment(STORE, SEGMENT_BYTES, &blocks);
    let files = Files::from([(format!("{LOG_DIR}/segment-0000000001"), segment)]);
    let disk = disk_with(&files);
    match open(Arc::clone(&disk), 0) {
        Ok((mut log, found)) => {
            // What it has can be read, and it goes on.
            let reader = log.reader();
            for (group, found) in &found {
                if let (Some(first), Some(last)) = (found.entries.first(), found.entries.last()) {
                    let read =
                        reader.read(*group, first.index..last.index.saturating_add(1), 1 << 20);
                    assert!(read.is_ok(), "what was found cannot be read: {read:?}");
                }
            }
            let group = Group::new(0);
            let _ = log.submit(group, vec![(1, true, Record::State(Bytes::from_static(b"on")))]);
            let goes_on = log.commit().is_ok();
            drop(log);
            let (_, again) = open(disk, 0).expect("what was opened can be opened again");
            if !goes_on {
                assert_eq!(again, found);
            }
        }
        Err(error) => assert!(!error.to_string().is_empty(), "a refusal without words"),
    }
}

/// A log that was written in order, and what was found after each of its blocks.
struct Honest {
    files: Files,
    last_lsn: u64,
    found: Vec<Found>,
}

static HONEST: LazyLock<Honest> = LazyLock::new(|| {
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
    let (mut log, found) = create(Arc::clone(&disk)).expect("an empty directory");
    let mut all = vec![found];
    let mut seqs = [0; 2];
    for (number, records) in (0_u64..).zip(workload()) {
        let group = Group::new((number % 2) as u32);
        let writes = records.into_iter().map(|record| {
            seqs[group.number() as usize] += 1;
            (seqs[group.number() as usize], true, record)
        });
        log.submit(group, writes.collect()).expect("it has room");
        log.commit().expect("memory does not fail");
        while log.maintain().expect("memory does not fail") {}
        let copy = disk_with(&files_in(&*disk, LOG_DIR));
        all.push(open(copy, log.durable_lsn()).expect("nothing is damaged").1);
    }
    let last_lsn = log.durable_lsn();
    Honest { files: files_in(&*disk, LOG_DIR), last_lsn, found: all }
});

/// Records of two groups over three segments, each kind among them.
fn workload() -> Vec<Vec<Record>> {
    (1..=24_u64)
        .map(|step| {
            let index = step.div_ceil(2);
            let tag = Tag([step as u8; 32]);
            let body = Body::Frames(Bytes::from(vec![step as u8; 900]));
            let mut records =
                vec![Record::Put(Entry { index, tag, head: Bytes::from_static(b"head"), body })];
            if step % 3 == 0 {
                records.push(Record::State(Bytes::from(vec![step as u8; 20])));
            }
            if step % 4 < 2 {
                records.push(Record::Decide { index, tag, proof: Bytes::new() });
                records.push(Record::Note { index: index + 1, note: Bytes::from_static(b"note") });
            }
            if step > 16 {
                records.push(Record::Trim { below: index - 6 });
            }
            records
        })
        .collect()
}

/// A damaged log is refused, or ends where a block ended; and where it is known what was durable, it is refused or whole.
pub(crate) fn recovery(bytes: &[u8]) {
    let Honest { files, last_lsn, found: honest } = &*HONEST;
    let mut damaged = files.clone();
    damage(&mut damaged, Input(bytes));
    if let Ok((_, found)) = open(disk_with(&damaged), 0) {
        assert!(honest.contains(&found), "what was never there is found: {found:?}");
    }
    if let Ok((_, found)) = open(disk_with(&damaged), *last_lsn) {
        assert_eq!(Some(&found), honest.last(), "what was durable is lost without a word");
    }
}

pub(crate) fn runs() -> Vec<Vec<u8>> {
    // The runs of the log above, as they stand in its first segment.
    let segment = HONEST.files.values().next_back().expect("it has segments");
    let mut seeds = Vec::new();
    for block in segment.chunks(512).enumerate().filter(|(_, sector)| sector.starts_with(b"qrlk")) {
        let at = block.0 * 512;
        let length =
            u32::from_le_bytes(segment[at + 8..at + 12].try_into().expect("four bytes")) as usize;
        let runs = &segment[at + 48..(at + 48 + length).min(segment.len())];
        if runs.len() > 8 {
            let kind = if segment[at + 4] == 2 { 1 } else { 0 };
            seeds
                .push(Written::default().u8(1).u8(0).piece(&[]).u8(kind).u8(0).piece(&runs[8..]).0);
        }
    }
    for kind in 1..=9_u8 {
        let record = |index: u64, rest: &[u8]| {
            let body = [&index.to_le_bytes()[..], rest].concat();
            [&[kind, 0, 1, 0][..], &[0; 4], &(body.len() as u32).to_le_bytes(), &body].concat()
        };
        let run = [record(1, &[0; 12]), record(2, &[0; 12]), record(1, &[0; 12])].concat();
        seeds.push(Written::default().u8(1).u8(0).piece(&[]).u8(0).u8(0).piece(&run).0);
    }
    seeds
}

pub(crate) fn edits() -> Vec<Vec<u8>> {
    let segments = HONEST.files.len() as u8;
    let mut seeds = vec![Vec::new()];
    for (what, which) in (0..6).flat_map(|what| (0..segments).map(move |which| (what, which))) {
        for at in [0, 40, 512, 600, 4096, 9000] {
            let edit = Written::default().u8(what).u8(which).u32(at);
            seeds.push(match what {
                0 => edit.piece(&[1, 2, 3]).0,
                1 => edit.u8(3).0,
                3 => edit.u32(2048).0,
                _ => edit.0,
            });
        }
    }
    seeds
}
