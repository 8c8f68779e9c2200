//! The same suite on each disk.

use std::sync::Arc;

use quorate_storage::{Disk, LogError, MemoryDisk, RealDisk, SimDisk};

use crate::model::Model;
use crate::workload::{Progress, Workload, open_on, run};

/// What every disk under a log has to pass.
fn suite(make: impl Fn() -> Arc<dyn Disk>) {
    for seed in 0..12 {
        println!("seed {seed}");
        finds_again_what_was_written(&make(), seed);
        reads_what_was_written(&make(), seed);
        goes_on_after_each_reopen(&make(), seed);
    }
}

fn finds_again_what_was_written(disk: &Arc<dyn Disk>, seed: u64) {
    let workload = Workload::random(seed, 150);
    let (mut log, found) = open_on(disk).unwrap();
    assert!(found.is_empty());
    let mut progress = Progress::default();
    run(&mut log, &workload, &mut progress).unwrap();
    progress.durable(&log.close().unwrap());
    assert_eq!(progress.acked, workload.records().len());
    assert!(matches!(
        progress.submit(&mut log, workload.submissions[0].0, &[], true),
        Err(LogError::Closed)
    ));
    drop(log);
    let (_, found) = open_on(disk).unwrap();
    assert_eq!(found, Model::of(&workload.records()).recovered());
}

fn reads_what_was_written(disk: &Arc<dyn Disk>, seed: u64) {
    let workload = Workload::random(seed, 150);
    let (mut log, _) = open_on(disk).unwrap();
    let reader = log.reader();
    let mut progress = Progress::default();
    for (group, records, _) in &workload.submissions {
        progress.submit(&mut log, *group, records, true).unwrap();
        progress.commit(&mut log).unwrap();
        while log.maintain().unwrap() {}
        let model = Model::of(&progress.submitted);
        for (group, model) in model.groups() {
            assert_eq!(reader.first(group), model.first);
            assert_eq!(reader.last(group), model.last());
            let range = model.first..model.last() + 2;
            assert_eq!(reader.read(group, range, usize::MAX).unwrap(), model.read(model.first));
            let one = reader.read(group, model.first..model.last() + 1, 1).unwrap();
            let wanted = model.read(model.first);
            assert_eq!(one.first(), wanted.first(), "one is read whatever the bytes");
            if model.first > 1 {
                let trimmed = reader.read(group, model.first - 1..model.first + 1, 1);
                assert!(
                    matches!(trimmed, Err(LogError::Trimmed { first }) if first == model.first)
                );
            }
        }
    }
    assert!(reader.cache_bytes() <= crate::workload::config().tail_cache_bytes);
}

fn goes_on_after_each_reopen(disk: &Arc<dyn Disk>, seed: u64) {
    let workload = Workload::random(seed, 60);
    let mut model = Model::default();
    for (group, records, _) in &workload.submissions {
        let (mut log, found) = open_on(disk).unwrap();
        assert_eq!(found, model.recovered());
        let mut progress = Progress::default();
        progress.submit(&mut log, *group, records, true).unwrap();
        progress.commit(&mut log).unwrap();
        log.maintain().unwrap();
        records.iter().for_each(|record| model.apply(*group, record));
        if records.len() % 2 == 0 {
            log.close().unwrap();
        }
    }
}

#[test]
fn memory_disk_passes() {
    suite(|| Arc::new(MemoryDisk::new()));
}

#[test]
fn sim_disk_passes() {
    suite(|| Arc::new(SimDisk::new(1)));
}

#[test]
fn real_disk_passes() {
    let dir = tempfile::tempdir().unwrap();
    let number = std::cell::Cell::new(0);
    suite(|| {
        number.set(number.get() + 1);
        Arc::new(RealDisk::new(dir.path().join(number.get().to_string())))
    });
}
