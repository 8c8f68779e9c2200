//! Checkpoints on each disk, through crashes, and from one store to another.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use quorate_storage::{
    CheckpointError, CheckpointMeta, CheckpointMode, CheckpointStore, CheckpointWrite, Disk, Fault,
    Group, Keep, MemoryDisk, Pin, RealDisk, SimDisk, Staged,
};

const CACHE_BYTES: usize = 1 << 20;

fn meta(index: u64) -> CheckpointMeta {
    CheckpointMeta {
        index,
        position: Bytes::from(format!("position {index}")),
        mark: Bytes::from(format!("mark {index}")),
        state: [index as u8; 32],
        log_watermark: 3 * index,
    }
}

fn open(disk: &Arc<dyn Disk>) -> Result<CheckpointStore, CheckpointError> {
    CheckpointStore::open(Arc::clone(disk), Group::new(0), CheckpointMode::Create, CACHE_BYTES)
}

fn sim(disk: &SimDisk) -> Arc<dyn Disk> {
    Arc::new(disk.clone())
}

fn key(number: u64) -> Bytes {
    Bytes::from(format!("key {number:06}"))
}

/// The changes of the checkpoint at `index`: three new keys, one that is gone, one that has changed twice.
fn changes(index: u64) -> Vec<(Bytes, Option<Bytes>)> {
    let value = |text: &str| Some(Bytes::from(format!("{text} {index}")));
    let mut changes: Vec<_> =
        (0..3).map(|more| (key(10 * index + more), value("new"))).rev().collect();
    changes.push((key(0), value("first")));
    changes.push((key(0), value("second")));
    changes.push((key(10 * index.saturating_sub(1) + 1), None));
    changes
}

fn write(index: u64) -> CheckpointWrite {
    let host_pairs = vec![(Bytes::from("session"), Some(Bytes::from(index.to_string())))];
    CheckpointWrite { meta: meta(index), machine_pairs: changes(index), host_pairs }
}

fn model(index: u64) -> BTreeMap<Bytes, Bytes> {
    let mut pairs = BTreeMap::new();
    for (key, value) in (1..=index).flat_map(changes) {
        match value {
            Some(value) => pairs.insert(key, value),
            None => pairs.remove(&key),
        };
    }
    pairs
}

fn machine(pin: &Pin) -> BTreeMap<Bytes, Bytes> {
    let mut pairs = BTreeMap::new();
    let mut last: Option<Bytes> = None;
    loop {
        let from = last.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let page = pin.read_machine(from, 7, 1 << 20).unwrap();
        let Some((key, _)) = page.last() else { return pairs };
        last = Some(key.clone());
        pairs.extend(page);
    }
}

fn check(store: &mut CheckpointStore, index: u64) {
    assert_eq!(store.latest(), (index > 0).then(|| meta(index)));
    if let Some(pin) = store.pin().unwrap() {
        assert_eq!(pin.meta().index, index);
        assert_eq!(machine(&pin), model(index));
        let host = pin.read_host(Bound::Unbounded, 10, 100).unwrap();
        assert_eq!(host, [(Bytes::from("session"), Bytes::from(index.to_string()))]);
    }
    store.verify().unwrap();
}

#[test]
fn what_was_written_is_found_again_on_each_disk() {
    let dir = tempfile::tempdir().unwrap();
    let disks: [Arc<dyn Disk>; 3] = [
        Arc::new(MemoryDisk::new()),
        Arc::new(SimDisk::new(1)),
        Arc::new(RealDisk::new(dir.path())),
    ];
    for disk in disks {
        let mut store = open(&disk).unwrap();
        check(&mut store, 0);
        for index in 1..=5 {
            store.write(write(index)).unwrap();
            check(&mut store, index);
        }
        assert!(matches!(
            store.write(write(4)),
            Err(CheckpointError::Older { index: 4, newest: 5 })
        ));
        drop(store);
        check(&mut open(&disk).unwrap(), 5);
        let read_only = CheckpointStore::open(
            Arc::clone(&disk),
            Group::new(0),
            CheckpointMode::ReadOnly,
            CACHE_BYTES,
        );
        check(&mut read_only.unwrap(), 5);
    }
}

#[test]
fn a_pin_stays_as_it_is() {
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
    let mut store = open(&disk).unwrap();
    store.write(write(1)).unwrap();
    let pin = store.pin().unwrap().unwrap();
    let clone = pin.clone();
    store.write(write(2)).unwrap();
    let reader = std::thread::spawn(move || machine(&clone));
    assert_eq!(reader.join().unwrap(), model(1));
    assert_eq!(pin.meta(), &meta(1));
    assert!(matches!(store.verify(), Err(CheckpointError::Pinned)));
    drop(pin);
    check(&mut store, 2);
}

/// Sends the newest checkpoint of one store to another, in small pieces.
fn copy(from: &CheckpointStore, to: &CheckpointStore) -> Result<Staged, CheckpointError> {
    let pin = from.pin().unwrap().expect("there is something to send");
    let mut stage = to.stage()?;
    for (key, value) in machine(&pin) {
        stage.put(vec![(key, Some(value))], Vec::new())?;
    }
    let host = pin.read_host(Bound::Unbounded, 100, 1 << 20).unwrap();
    stage.put(Vec::new(), host.into_iter().map(|(key, value)| (key, Some(value))).collect())?;
    stage.finish(pin.meta().clone(), pin.summary())
}

fn source() -> CheckpointStore {
    let store = open(&(Arc::new(MemoryDisk::new()) as Arc<dyn Disk>)).unwrap();
    (1..=4).for_each(|index| store.write(write(index)).unwrap());
    store
}

#[test]
fn a_snapshot_is_staged_and_installed() {
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
    let mut store = open(&disk).unwrap();
    store.write(write(1)).unwrap();
    let before = store.pin().unwrap().unwrap();
    let staged = copy(&source(), &store).unwrap();
    assert_eq!(store.latest(), Some(meta(1)), "not in force before it is installed");
    store.install(staged).unwrap();
    assert_eq!(machine(&before), model(1), "what was pinned stays");
    drop(before);
    check(&mut store, 4);
    store.write(write(5)).unwrap();
    check(&mut store, 5);
    drop(store);
    check(&mut open(&disk).unwrap(), 5);
}

#[test]
fn must_12_a_snapshot_that_is_not_what_was_sent_is_refused() {
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
    let mut store = open(&disk).unwrap();
    store.write(write(1)).unwrap();
    let source = source();
    let pin = source.pin().unwrap().unwrap();
    let all: Vec<_> = machine(&pin).into_iter().map(|(key, value)| (key, Some(value))).collect();
    let host = vec![(Bytes::from("session"), Some(Bytes::from("4")))];
    for damaged in 0..all.len() {
        for change in 0..2 {
            let mut pairs = all.clone();
            if change == 0 {
                pairs.remove(damaged);
            } else {
                pairs[damaged].1 = Some(Bytes::from("flipped"));
            }
            let mut stage = store.stage().unwrap();
            stage.put(pairs, host.clone()).unwrap();
            let finished = stage.finish(pin.meta().clone(), pin.summary());
            assert!(matches!(finished, Err(CheckpointError::Mismatch { .. })));
        }
    }
    let mut stage = store.stage().unwrap();
    stage.put(all, host).unwrap();
    store.install(stage.finish(pin.meta().clone(), pin.summary()).unwrap()).unwrap();
    check(&mut store, 4);
}

#[test]
fn must_07_a_power_cut_at_any_operation_leaves_a_whole_checkpoint() {
    // Index and pairs are of one transaction: what is found is a model of its own index, never a mixture.
    for keep in [Keep::None, Keep::All, Keep::Random] {
        for cut in 0.. {
            let disk = SimDisk::new(cut);
            disk.cut_at(cut);
            let mut written = 0;
            let run = open(&sim(&disk)).and_then(|store| {
                for index in 1..=3 {
                    store.write(write(index))?;
                    written = index;
                }
                Ok(())
            });
            disk.reboot(keep);
            let mut store =
                open(&sim(&disk)).unwrap_or_else(|error| panic!("cut at {cut}, {keep:?}: {error}"));
            let found = store.latest().map_or(0, |meta| meta.index);
            let may_be = written..=written + u64::from(run.is_err());
            assert!(may_be.contains(&found), "cut at {cut}, {keep:?}: {found} of {written}");
            check(&mut store, found);
            if run.is_ok() {
                break;
            }
        }
    }
}

#[test]
fn must_06_a_power_cut_at_any_operation_of_an_install_leaves_one_or_the_other() {
    let source = source();
    for keep in [Keep::None, Keep::All, Keep::Random] {
        for cut in 0.. {
            let disk = SimDisk::new(cut);
            let store = open(&sim(&disk)).unwrap();
            store.write(write(1)).unwrap();
            disk.cut_at(disk.ops() + cut);
            let run = copy(&source, &store).and_then(|staged| store.install(staged));
            drop(store);
            disk.reboot(keep);
            let mut store =
                open(&sim(&disk)).unwrap_or_else(|error| panic!("cut at {cut}, {keep:?}: {error}"));
            let found = store.latest().map_or(0, |meta| meta.index);
            assert!(found == 4 || found == 1 && run.is_err(), "cut at {cut}, {keep:?}: {found}");
            check(&mut store, found);
            store.install(copy(&source, &store).unwrap()).unwrap();
            if run.is_ok() {
                break;
            }
        }
    }
}

#[test]
fn must_01_the_first_failure_ends_all_writing() {
    for fault in [Fault::Eio, Fault::Full, Fault::Short] {
        for at in 0.. {
            let disk = SimDisk::new(at);
            let store = open(&sim(&disk)).unwrap();
            store.write(write(1)).unwrap();
            disk.fail_at(disk.ops() + at, fault);
            let failed = store.write(write(2)).is_err();
            if failed {
                let again = store.write(write(3)).unwrap_err();
                assert!(matches!(again, CheckpointError::Faulted { .. }), "{again}");
                assert_eq!(store.latest(), Some(meta(1)));
            }
            drop(store);
            disk.reboot(Keep::None);
            let mut store = open(&sim(&disk)).unwrap();
            let found = store.latest().unwrap().index;
            assert!(if failed { found <= 2 } else { found == 2 }, "fault at {at}: {found}");
            check(&mut store, found);
            if !failed {
                break;
            }
        }
    }
}

#[test]
fn what_a_failed_sync_left_in_doubt_is_made_sure_by_the_next_process() {
    let mut failed = 0;
    for at in 0..40 {
        let disk = SimDisk::new(at);
        let store = open(&sim(&disk)).unwrap();
        disk.fail_at(disk.ops() + at, Fault::Eio);
        failed += u64::from(store.write(write(1)).is_err());
        drop(store);
        // Another process finds the names as they are, and nobody says that they are stable.
        let store = open(&sim(&disk)).unwrap();
        let first = store.latest().map_or(1, |newest| newest.index + 1);
        for index in first..=2 {
            store.write(write(index)).unwrap();
        }
        let mut store = open(&sim(&disk.fork(Keep::None))).unwrap();
        check(&mut store, 2);
    }
    assert!(failed > 5, "only {failed} writes failed");
}

/// A store whose file is much larger than what is left in it.
fn sparse(disk: &SimDisk) -> CheckpointStore {
    let store = open(&sim(disk)).unwrap();
    let pairs = |value: Option<Bytes>| (100..300).map(|at| (key(at), value.clone())).collect();
    let first = CheckpointWrite {
        machine_pairs: pairs(Some(Bytes::from(vec![7; 8 << 10]))),
        ..CheckpointWrite { meta: meta(0), machine_pairs: Vec::new(), host_pairs: Vec::new() }
    };
    store.write(first).unwrap();
    let mut second = write(1);
    second.machine_pairs.extend(pairs(None));
    store.write(second).unwrap();
    store
}

fn file_bytes(disk: &SimDisk) -> usize {
    disk.files()["checkpoint/g0.redb"].len()
}

#[test]
fn a_compaction_gives_back_what_is_not_needed_and_waits_for_no_pin() {
    let disk = SimDisk::new(1);
    let mut store = sparse(&disk);
    let before = file_bytes(&disk);
    let pin = store.pin().unwrap();
    assert!(matches!(store.compact(), Err(CheckpointError::Pinned)));
    assert_eq!(file_bytes(&disk), before);
    drop(pin);
    assert!(store.compact().unwrap());
    assert!(file_bytes(&disk) < before / 2, "{before} bytes became {}", file_bytes(&disk));
    check(&mut store, 1);
    assert!(!store.compact().unwrap(), "there is nothing more to win");
    store.write(write(2)).unwrap();
    check(&mut store, 2);
    drop(store);
    disk.power_cut(Keep::None);
    check(&mut open(&sim(&disk)).unwrap(), 2);
}

#[test]
fn a_power_cut_at_any_operation_of_a_compaction_leaves_the_checkpoint() {
    let source = SimDisk::new(1);
    drop(sparse(&source));
    for keep in [Keep::None, Keep::All, Keep::Random] {
        for cut in 0.. {
            let disk = source.fork(Keep::All);
            let store = open(&sim(&disk)).unwrap();
            disk.cut_at(disk.ops() + cut);
            let run = store.compact();
            drop(store);
            disk.reboot(keep);
            let mut store =
                open(&sim(&disk)).unwrap_or_else(|error| panic!("cut at {cut}, {keep:?}: {error}"));
            check(&mut store, 1);
            store.write(write(2)).unwrap();
            check(&mut store, 2);
            if run.is_ok() {
                assert!(cut > 5, "it has been cut in between");
                break;
            }
        }
    }
}

/// What is on a disk whose node stopped after it had staged the snapshot at 4 beside its checkpoint at 1.
fn staged(disk: &SimDisk) {
    let store = open(&sim(disk)).unwrap();
    store.write(write(1)).unwrap();
    drop(copy(&source(), &store).unwrap());
}

#[test]
fn a_staged_snapshot_takes_its_place_after_a_crash_if_the_log_begins_after_it() {
    for keep in [Keep::None, Keep::All, Keep::Random] {
        let disk = SimDisk::new(1);
        staged(&disk);
        disk.power_cut(keep);
        // A reset that the checkpoint in force has gone past, or none: the stage was never wanted.
        for reset in [None, Some(0), Some(1)] {
            let disk = disk.fork(Keep::All);
            let mut store = open(&sim(&disk)).unwrap();
            assert!(!store.recover(reset).unwrap());
            check(&mut store, 1);
            assert!(!disk.files().contains_key("checkpoint/g0.stage"), "{keep:?}, {reset:?}");
        }
        // The snapshot of another reset is not the one that the log needs.
        for reset in [2, 3, 5] {
            let disk = disk.fork(Keep::All);
            let error = open(&sim(&disk)).unwrap().recover(Some(reset)).unwrap_err();
            assert!(matches!(error, CheckpointError::NoSnapshot { newest: 1, .. }), "{error}");
            assert!(error.to_string().contains("one at index 4"), "{error}");
            assert!(disk.files().contains_key("checkpoint/g0.stage"), "it stays to be looked at");
        }
        // Whoever only reads sees it, and changes nothing.
        let files = disk.files();
        let reader: Arc<dyn Disk> = sim(&disk);
        let mode = CheckpointMode::ReadOnly;
        let mut store = CheckpointStore::open(reader, Group::new(0), mode, CACHE_BYTES).unwrap();
        assert!(store.recover(Some(4)).unwrap());
        check(&mut store, 4);
        drop(store);
        assert_eq!(disk.files(), files);
        let mut store = open(&sim(&disk)).unwrap();
        assert!(store.recover(Some(4)).unwrap());
        check(&mut store, 4);
        store.write(write(5)).unwrap();
        drop(store);
        disk.power_cut(Keep::None);
        let mut store = open(&sim(&disk)).unwrap();
        assert!(!store.recover(Some(4)).unwrap());
        check(&mut store, 5);
    }
}

#[test]
fn a_reset_without_its_snapshot_is_damage() {
    let refused = |disk: &SimDisk, words: &str| {
        let error = open(&sim(disk)).unwrap().recover(Some(4)).unwrap_err();
        assert!(matches!(error, CheckpointError::NoSnapshot { reset: 4, .. }), "{error}");
        assert!(error.to_string().contains(words), "{words:?} is not in {error}");
    };
    let disk = SimDisk::new(1);
    let store = open(&sim(&disk)).unwrap();
    store.write(write(1)).unwrap();
    refused(&disk.fork(Keep::All), "missing");
    let mut stage = store.stage().unwrap();
    stage.put(changes(1), Vec::new()).unwrap();
    refused(&disk.fork(Keep::All), "not whole");
    drop(stage);
    assert!(!disk.files().contains_key("checkpoint/g0.stage"), "what is given up takes no room");
    drop(store);
    staged(&disk);
    disk.zero("checkpoint/g0.stage", 0..4096);
    refused(&disk, "damaged");
}

#[test]
fn a_power_cut_at_any_operation_between_stage_and_reset_is_recovered_from() {
    // The log is stood for by one number, which is durable only after the stage is, as the order of the two demands.
    let source = source();
    for keep in [Keep::None, Keep::All, Keep::Random] {
        for cut in 0.. {
            let disk = SimDisk::new(cut);
            let store = open(&sim(&disk)).unwrap();
            store.write(write(1)).unwrap();
            disk.cut_at(disk.ops() + cut);
            let staged = copy(&source, &store);
            let reset = staged.is_ok().then_some(4);
            let run = staged.and_then(|staged| store.install(staged));
            drop(store);
            disk.reboot(keep);
            // The power fails again in each operation of the recovery, then it succeeds.
            for again in 0..1000 {
                disk.cut_at(disk.ops() + again);
                let recovered = open(&sim(&disk)).and_then(|mut store| store.recover(reset));
                disk.reboot(keep);
                if recovered.is_ok() {
                    break;
                }
            }
            let mut store = open(&sim(&disk)).unwrap();
            store.recover(reset).unwrap_or_else(|error| panic!("cut at {cut}, {keep:?}: {error}"));
            check(&mut store, reset.unwrap_or(1));
            assert!(!disk.files().contains_key("checkpoint/g0.stage"));
            if run.is_ok() {
                break;
            }
        }
    }
}

#[test]
fn a_disk_that_fails_under_a_stage_fails_the_stage_alone() {
    let source = source();
    for fault in [Fault::Eio, Fault::Full, Fault::Short] {
        for at in 0.. {
            let disk = SimDisk::new(at);
            let mut store = open(&sim(&disk)).unwrap();
            store.write(write(1)).unwrap();
            let ops = disk.ops() + at;
            disk.fail_at(ops, fault);
            match copy(&source, &store) {
                Ok(_) if disk.ops() > ops => panic!("{fault:?} at {at} was not noticed"),
                Ok(_) => break,
                Err(error) => assert!(matches!(error, CheckpointError::Faulted { .. }), "{error}"),
            }
            assert!(!disk.files().contains_key("checkpoint/g0.stage"), "{fault:?} at {at}");
            store.write(write(2)).unwrap();
            check(&mut store, 2);
            store.install(copy(&source, &store).unwrap()).unwrap();
            check(&mut store, 4);
        }
    }
}

#[test]
fn of_two_stages_the_later_one_counts() {
    let disk = SimDisk::new(1);
    let mut store = open(&sim(&disk)).unwrap();
    store.write(write(1)).unwrap();
    let first = store.stage().unwrap();
    let second = copy(&source(), &store).unwrap();
    drop(first);
    assert!(disk.files().contains_key("checkpoint/g0.stage"), "it is that of the second");
    store.install(second).unwrap();
    check(&mut store, 4);
    copy(&source(), &store).unwrap().discard();
    assert!(!disk.files().contains_key("checkpoint/g0.stage"));
    check(&mut store, 4);
}
