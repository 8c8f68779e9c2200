//! The log on each disk.

use std::sync::Arc;

use bytes::Bytes;
use quorate_storage::{
    Body, Disk, Entry, Group, Log, LogConfig, LogError, LogMode, MemoryDisk, Opening, RealDisk,
    Record, SimDisk, Tag,
};

fn opening() -> Opening {
    Opening { store: [7; 16], durable_lsn: 0, mode: LogMode::Create }
}

fn put(index: u64, tag: u8, body: &[u8]) -> Record {
    let mut full = [0; 32];
    full[0] = tag;
    Record::Put(Entry {
        index,
        tag: Tag(full),
        head: Bytes::new(),
        body: Body::Frames(Bytes::copy_from_slice(body)),
    })
}

fn disks() -> Vec<(Arc<dyn Disk>, Option<tempfile::TempDir>)> {
    let dir = tempfile::tempdir().unwrap();
    vec![
        (Arc::new(MemoryDisk::new()), None),
        (Arc::new(SimDisk::new(1)), None),
        (Arc::new(RealDisk::new(dir.path())), Some(dir)),
    ]
}

#[test]
fn entries_are_found_again_across_segments() {
    for (disk, _dir) in disks() {
        let group = Group::new(3);
        let (mut log, found) =
            Log::open(Arc::clone(&disk), LogConfig::small(), &opening()).unwrap();
        assert!(found.is_empty());
        for index in 1..=600 {
            let body = vec![index as u8; 200];
            log.submit(group, vec![(index, true, put(index, 1, &body))]).unwrap();
            assert_eq!(log.commit().unwrap(), [(group, index)]);
            while log.maintain().unwrap() {}
        }
        let reader = log.reader();
        assert_eq!(reader.last(group), 600);
        let entries = reader.read(group, 1..601, usize::MAX).unwrap();
        assert_eq!(entries.len(), 600);
        drop(log);
        let (mut log, found) =
            Log::open(Arc::clone(&disk), LogConfig::small(), &opening()).unwrap();
        assert_eq!(found[&group].entries, entries.iter().map(|e| e.0.clone()).collect::<Vec<_>>());
        log.submit(group, vec![(1, true, Record::Trim { below: 500 })]).unwrap();
        log.commit().unwrap();
        while log.maintain().unwrap() {}
        assert!(log.segment_bytes() <= 5 * (32 << 10), "{}", log.segment_bytes());
        assert!(matches!(
            log.reader().read(group, 1..10, 1),
            Err(LogError::Trimmed { first: 500 })
        ));
        log.close().unwrap();
        let (_, found) = Log::open(disk, LogConfig::small(), &opening()).unwrap();
        assert_eq!(found[&group].first, 500);
        assert_eq!(found[&group].entries.len(), 101);
    }
}
