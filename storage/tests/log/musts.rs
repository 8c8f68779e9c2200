//! What a log must do that others got wrong, each with its own test.
//!
//! The numbers are those of the list of failures in docs/decisions/0002-log.md; 6, 7 and 12 also have tests beside the checkpoints,
//! 10 and 11 beside the data directory.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use quorate_storage::{
    Disk, Fault, Group, Health, Keep, Log, LogError, LogMode, OpenMode, Opening, Record, Recovered,
    SECTOR_BYTES, SimDisk,
};

use crate::model::Model;
use crate::workload::{Opened, Progress, Workload, config, open, opening, put, run};

const KEEPS: [Keep; 3] = [Keep::None, Keep::All, Keep::Random];

fn open_with(disk: &SimDisk, durable_lsn: u64) -> Opened {
    let opening = Opening { durable_lsn, ..opening(LogMode::Existing) };
    Log::open(Arc::new(disk.clone()), config(), &opening)
}

/// A copy of all files, on a disk of its own.
fn copy_of(disk: &SimDisk) -> SimDisk {
    disk.fork(Keep::All)
}

fn segments(disk: &SimDisk) -> Vec<String> {
    let files = disk.files().into_keys();
    files.filter(|path| path.starts_with("log/segment-")).collect()
}

/// Puts with a state between them, over so many segments, and what they say.
fn filled(segments_wanted: usize, close: bool) -> (SimDisk, Progress) {
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk).unwrap();
    let mut progress = Progress::default();
    let mut index = 0;
    while segments(&disk).len() < segments_wanted || index % 7 != 0 {
        index += 1;
        let state = Record::State(Bytes::from(index.to_string()));
        let records = [put(index, 0, 300), put(index, 1, 200), state];
        progress.submit(&mut log, Group::new(1), &records, true).unwrap();
        progress.commit(&mut log).unwrap();
    }
    if close {
        log.close().unwrap();
    }
    (disk, progress)
}

fn is_whole(progress: &Progress, found: &BTreeMap<Group, Recovered>) -> bool {
    Model::of(&progress.submitted).recovered() == *found
}

/// Cuts the power at each operation of a workload, and checks what is found after it; returns how many there were.
fn cut_everywhere(workload: &Workload, keep: Keep) -> u64 {
    for cut in 0.. {
        let disk = SimDisk::new(cut);
        disk.cut_at(cut);
        let mut progress = Progress::default();
        let ran = open(&disk).and_then(|(mut log, _)| run(&mut log, workload, &mut progress));
        disk.reboot(keep);
        let (mut log, found) =
            open(&disk).unwrap_or_else(|error| panic!("cut at {cut}, {keep:?}: {error}"));
        let kept = progress.prefix(&found);
        let kept = kept.unwrap_or_else(|| {
            panic!(
                "cut at {cut}, {keep:?}: {} of {} acked",
                progress.acked,
                progress.submitted.len()
            )
        });
        // Life goes on, and is found again as well.
        let mut progress = progress.after_crash(kept);
        progress.submit(&mut log, Group::new(9), &[put(1, 0, 50)], true).unwrap();
        progress.commit(&mut log).unwrap();
        while log.maintain().unwrap() {}
        drop(log);
        disk.power_cut(Keep::None);
        let (_, found) = open(&disk).unwrap();
        assert!(is_whole(&progress, &found), "cut at {cut}, {keep:?}: lost after the crash");
        if ran.is_ok() {
            return cut;
        }
    }
    unreachable!("the range has no end")
}

#[test]
fn must_01_a_failure_at_any_operation_is_sticky() {
    let workload = Workload::random(5, 40);
    for fault in [Fault::Eio, Fault::Short] {
        for at in 0.. {
            let disk = SimDisk::new(at);
            let (mut log, _) = open(&disk).unwrap();
            let mut progress = Progress::default();
            disk.fail_at(disk.ops() + at, fault);
            let ran = run(&mut log, &workload, &mut progress);
            if let Err(error) = &ran {
                assert!(matches!(error, LogError::Faulted { .. }), "fault at {at}: {error}");
                let ops = disk.ops();
                let submitted = progress.submitted.len();
                let again = progress.submit(&mut log, Group::new(0), &[put(1, 0, 1)], true);
                assert!(matches!(again, Err(LogError::Faulted { .. })));
                assert!(matches!(log.commit(), Err(LogError::Faulted { .. })));
                assert!(matches!(log.maintain(), Err(LogError::Faulted { .. })));
                assert!(matches!(log.close(), Err(LogError::Faulted { .. })));
                assert!(matches!(log.health(), Health::Faulted { .. }));
                assert_eq!(disk.ops(), ops, "nothing is written after a fault");
                assert_eq!(progress.submitted.len(), submitted);
            }
            drop(log);
            for keep in KEEPS {
                let (_, found) = open(&disk.fork(keep)).unwrap();
                assert!(progress.prefix(&found).is_some(), "fault at {at}, {keep:?}");
            }
            if ran.is_ok() {
                break;
            }
        }
    }
}

#[test]
fn must_01_what_a_failed_sync_dropped_is_not_acknowledged_later() {
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk).unwrap();
    let group = Group::new(1);
    log.submit(group, vec![(1, true, put(1, 0, 100))]).unwrap();
    assert!(log.commit_write().unwrap());
    disk.fail_at(disk.ops(), Fault::Eio);
    log.commit_sync().unwrap_err();
    assert!(matches!(log.commit(), Err(LogError::Faulted { .. })));
    assert_eq!(log.reader().last(group), 0, "readers do not see it either");
}

#[test]
fn must_02_damage_anywhere_in_a_closed_log_is_found() {
    let (disk, progress) = filled(3, true);
    for path in segments(&disk) {
        let sectors = disk.files()[&path].len() / SECTOR_BYTES;
        for sector in 0..sectors {
            let from = (sector * SECTOR_BYTES) as u64;
            for flip in [None, Some(0), Some(200), Some(511)] {
                let damaged = copy_of(&disk);
                match flip {
                    None => damaged.zero(&path, from..from + SECTOR_BYTES as u64),
                    Some(at) => damaged.rot(&path, from + at, 0x10),
                }
                match open_with(&damaged, 0) {
                    Ok((_, found)) => {
                        assert!(is_whole(&progress, &found), "{path} {sector} {flip:?}: it shrank");
                    }
                    Err(LogError::Corrupt { .. }) => {}
                    Err(error) => panic!("{path} {sector} {flip:?}: {error}"),
                }
            }
        }
    }
}

#[test]
fn must_02_only_the_last_block_can_be_taken_for_torn_and_a_checkpoint_tells() {
    let (disk, progress) = filled(3, false);
    let durable = open_with(&copy_of(&disk), 0).unwrap().0.durable_lsn();
    let before_last = Model::of(&progress.submitted[..progress.submitted.len() - 3]).recovered();
    let mut shrunk = 0;
    for path in segments(&disk) {
        for sector in 0..disk.files()[&path].len() / SECTOR_BYTES {
            let from = (sector * SECTOR_BYTES) as u64;
            let damaged = copy_of(&disk);
            damaged.zero(&path, from..from + SECTOR_BYTES as u64);
            match open_with(&damaged.fork(Keep::All), 0) {
                Ok((_, found)) if is_whole(&progress, &found) => continue,
                Ok((_, found)) => {
                    assert_eq!(found, before_last, "{path} {sector}");
                    shrunk += 1;
                }
                Err(LogError::Corrupt { .. }) => {}
                Err(error) => panic!("{path} {sector}: {error}"),
            }
            // Whoever knows that the last block was durable is told that it is gone.
            let told = open_with(&damaged, durable);
            assert!(matches!(told, Err(LogError::Corrupt { .. })), "{path} {sector}");
        }
    }
    assert!(shrunk > 0, "the last block looks torn when it is damaged");
}

#[test]
fn must_02_a_missing_segment_is_found() {
    let (disk, progress) = filled(4, false);
    let names = segments(&disk);
    let durable = open_with(&copy_of(&disk), 0).unwrap().0.durable_lsn();
    for (at, name) in names.iter().enumerate() {
        let damaged = copy_of(&disk);
        damaged.remove(name).unwrap();
        // That the newest is gone is known only to whoever has seen it.
        let opened = open_with(&damaged, durable);
        assert!(matches!(opened, Err(LogError::Corrupt { .. })), "segment {at}");
    }
    let (_, found) = open_with(&disk, durable).unwrap();
    assert!(is_whole(&progress, &found));
}

#[test]
fn must_02_an_error_names_the_place_and_the_way_out() {
    let (disk, _) = filled(3, true);
    let path = &segments(&disk)[1];
    disk.rot(path, 1034, 1);
    let message = open_with(&disk, 0).map(drop).unwrap_err().to_string();
    assert!(message.contains("of segment 2"), "{message}");
    assert!(message.contains("restore the data directory from a backup"), "{message}");
}

#[test]
fn must_03_stale_bytes_of_a_recycled_segment_are_never_valid() {
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk).unwrap();
    let mut progress = Progress::default();
    let mut recycled = 0;
    for index in 1..400 {
        let trim = Record::Trim { below: index };
        progress.submit(&mut log, Group::new(1), &[put(index, 0, 700), trim], true).unwrap();
        progress.commit(&mut log).unwrap();
        let spares = disk.files().keys().filter(|path| path.contains("spare")).count();
        while log.maintain().unwrap() {}
        recycled += usize::from(spares < 2);
        for keep in KEEPS {
            let (_, found) = open(&disk.fork(keep)).unwrap();
            assert!(is_whole(&progress, &found), "index {index}, {keep:?}");
        }
    }
    assert!(recycled > 5, "segments have been used again: {recycled}");
    assert!(disk.used() <= 8 * (16 << 10), "no new ones are made for ever: {}", disk.used());
}

#[test]
fn must_03_a_segment_goes_only_after_a_durable_block_says_so() {
    let (disk, progress) = filled(3, false);
    let (mut log, _) = open(&disk).unwrap();
    let group = Group::new(1);
    let known = progress.submitted.len();
    let mut life = progress.after_crash(known);
    life.submit(&mut log, group, &[Record::Trim { below: 1000 }], true).unwrap();
    life.commit(&mut log).unwrap();
    // What waits keeps maintenance from writing a block of its own.
    life.submit(&mut log, group, &[Record::State(Bytes::from("waits"))], false).unwrap();
    for _ in 0..10 {
        log.maintain().unwrap();
        for keep in KEEPS {
            let (_, found) = open(&disk.fork(keep)).unwrap();
            assert!(life.prefix(&found).is_some(), "{keep:?}");
        }
    }
    assert!(
        segments(&disk).contains(&"log/segment-0000000001".to_owned()),
        "still named as needed"
    );
    life.submit(&mut log, group, &[], true).unwrap();
    while log.has_pending() {
        life.durable(&log.commit().unwrap());
    }
    while log.maintain().unwrap() {}
    assert_eq!(segments(&disk).len(), 1);
    let (_, found) = open(&disk.fork(Keep::None)).unwrap();
    assert!(is_whole(&life, &found));
}

#[test]
fn must_03_a_block_from_elsewhere_is_not_valid() {
    // A whole block of an older segment at the end of the newest, as a recycled file or a misdirected write would leave it.
    let (disk, progress) = filled(3, false);
    let names = segments(&disk);
    let files = disk.files();
    for from in &names {
        for sector in 1..files[from].len() / SECTOR_BYTES - 4 {
            let at = sector * SECTOR_BYTES;
            let block = &files[from][at..at + 4 * SECTOR_BYTES];
            let newest = &files[&names[2]];
            let end = newest.chunks(SECTOR_BYTES).rposition(|s| s.iter().any(|&b| b != 0)).unwrap();
            let damaged = copy_of(&disk);
            let file = damaged.open(&names[2], OpenMode::Write).unwrap();
            file.write_at(((end + 1) * SECTOR_BYTES) as u64, block).unwrap();
            let (_, found) = open_with(&damaged, 0).unwrap();
            assert!(is_whole(&progress, &found), "from {from} {sector}");
        }
    }
}

#[test]
fn must_03_a_segment_of_another_store_is_refused() {
    let (disk, _) = filled(2, true);
    let other = Opening { store: [9; 16], ..opening(LogMode::Existing) };
    let error = Log::open(Arc::new(disk), config(), &other).map(drop).unwrap_err();
    assert!(matches!(error, LogError::OtherStore { .. }), "{error}");
}

#[test]
fn must_04_names_that_were_not_synced_take_no_record_with_them() {
    // Only what has been synced survives, at every moment of a log that changes segments often.
    let workload = Workload::random(11, 120);
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk).unwrap();
    let mut progress = Progress::default();
    for (group, records, _) in &workload.submissions {
        progress.submit(&mut log, *group, records, true).unwrap();
        progress.commit(&mut log).unwrap();
        let (_, found) = open(&disk.fork(Keep::None)).unwrap();
        assert!(is_whole(&progress, &found));
        log.maintain().unwrap();
        let (_, found) = open(&disk.fork(Keep::None)).unwrap();
        assert!(is_whole(&progress, &found));
    }
    assert!(segments(&disk).len() > 1, "segments have changed");
}

#[test]
fn must_05_a_vote_is_durable_when_it_is_reported_and_keeps_its_order() {
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk).unwrap();
    let group = Group::new(1);
    let mut votes = Vec::new();
    for round in 0..60_u64 {
        let note = Bytes::from(format!("vote of round {round}"));
        let state = Bytes::from(format!("locked in round {round}"));
        let writes = vec![
            (2 * round + 1, true, Record::Note { index: 1, note: note.clone() }),
            (2 * round + 2, true, Record::State(state.clone())),
        ];
        log.submit(group, writes).unwrap();
        assert_eq!(log.commit().unwrap(), [(group, 2 * round + 2)]);
        votes.push((1, note));
        for keep in KEEPS {
            let (_, found) = open(&disk.fork(keep)).unwrap();
            assert_eq!(found[&group].notes, votes);
            assert_eq!(found[&group].state.as_ref(), Some(&state));
        }
        // Between the write and the sync it may be there or not, but nothing else may be.
        log.submit(group, vec![(0, true, Record::State(Bytes::new()))]).unwrap();
        log.commit_write().unwrap();
        for keep in KEEPS {
            let (_, found) = open(&disk.fork(keep)).unwrap();
            assert_eq!(found[&group].notes, votes);
            let now = found[&group].state.as_ref().unwrap();
            assert!(*now == state || now.is_empty());
        }
        log.commit_sync().unwrap();
        while log.maintain().unwrap() {}
    }
}

#[test]
fn must_06_a_reset_is_there_with_its_state_or_not_at_all() {
    let group = Group::new(1);
    let before: Vec<Record> = (1..=6).map(|index| put(index, 0, 200)).collect();
    let reset = vec![
        Record::Reset { index: 100, mark: Bytes::from("snapshot") },
        Record::State(Bytes::from("term of the snapshot")),
        put(101, 0, 10),
    ];
    for keep in KEEPS {
        for cut in 0.. {
            let disk = SimDisk::new(cut);
            let (mut log, _) = open(&disk).unwrap();
            let mut progress = Progress::default();
            progress.submit(&mut log, group, &before, true).unwrap();
            progress.commit(&mut log).unwrap();
            disk.cut_at(disk.ops() + cut);
            let submitted = progress.submit(&mut log, group, &reset, true);
            let ran = submitted.and_then(|()| progress.commit(&mut log));
            drop(log);
            disk.reboot(keep);
            let (_, found) = open(&disk).unwrap();
            let kept = progress.prefix(&found).unwrap();
            assert!(
                kept == 6 || kept == 9,
                "cut at {cut}, {keep:?}: a part of it is there: {kept}"
            );
            if ran.is_ok() {
                break;
            }
        }
    }
}

#[test]
fn must_07_no_acknowledged_record_is_lost_and_none_is_made_up() {
    for seed in 0..4 {
        let workload = Workload::random(seed, 45);
        for keep in KEEPS {
            let cuts = cut_everywhere(&workload, keep);
            assert!(cuts > 100, "seed {seed}, {keep:?}: only {cuts} operations");
        }
    }
}

#[test]
fn must_08_a_full_disk_leaves_a_reserve_and_heals() {
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk).unwrap();
    while log.maintain().unwrap() {}
    disk.set_capacity(Some(disk.used()));
    let group = Group::new(1);
    let mut progress = Progress::default();
    let mut index = 0;
    // Proposals are taken as long as the log is well.
    while log.health() == Health::Ok {
        index += 1;
        progress.submit(&mut log, group, &[put(index, 0, 900)], true).unwrap();
        progress.commit(&mut log).unwrap();
        while log.maintain().unwrap() {}
        assert!(index < 1000, "the disk is full by now");
    }
    assert_eq!(log.health(), Health::Full);
    // Votes and states still find room, and recovery needs none.
    for vote in 0..8_u64 {
        let note = Bytes::from(vote.to_string());
        progress.submit(&mut log, group, &[Record::Note { index: index + 1, note }], true).unwrap();
        progress.commit(&mut log).unwrap();
    }
    let reopened = disk.fork(Keep::None);
    reopened.set_capacity(Some(reopened.used()));
    let (_, found) = open(&reopened).unwrap();
    assert!(is_whole(&progress, &found));
    // Without the caller's help it says so before it takes anything, and nothing is lost.
    loop {
        let taken = progress.submitted.len();
        match progress.submit(&mut log, group, &[put(index + 1, 0, 900)], true) {
            Ok(()) => index += 1,
            Err(LogError::Full) => {
                assert_eq!(progress.submitted.len(), taken);
                break;
            }
            Err(error) => panic!("{error}"),
        }
        progress.commit(&mut log).unwrap();
    }
    // A trim lets go of segments, which are used again: no new bytes are needed to heal.
    progress.submit(&mut log, group, &[Record::Trim { below: index + 2 }], true).unwrap();
    index += 1;
    progress.commit(&mut log).unwrap();
    while log.maintain().unwrap() {}
    assert_eq!(log.health(), Health::Ok);
    for _ in 0..20 {
        index += 1;
        progress.submit(&mut log, group, &[put(index, 0, 900)], true).unwrap();
        progress.commit(&mut log).unwrap();
        if index % 4 == 0 {
            progress.submit(&mut log, group, &[Record::Trim { below: index }], true).unwrap();
            progress.commit(&mut log).unwrap();
        }
        while log.maintain().unwrap() {}
    }
    let (_, found) = open(&disk.fork(Keep::None)).unwrap();
    assert!(is_whole(&progress, &found));
}

/// Fills the last segment of a full disk with trims of no effect, of which the last may be one that lets go of all; how
/// many were taken, and the health after maintenance.
fn fill_with_trims(last_of: Option<u32>) -> (u32, Health) {
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk).unwrap();
    while log.maintain().unwrap() {}
    disk.set_capacity(Some(disk.used()));
    let group = Group::new(1);
    let mut progress = Progress::default();
    let mut index = 1;
    while progress.submit(&mut log, group, &[put(index, 0, 900)], true).is_ok() {
        progress.commit(&mut log).unwrap();
        log.maintain().unwrap();
        index += 1;
    }
    let mut taken = 0;
    loop {
        let below = if last_of == Some(taken + 1) { index } else { 1 };
        match progress.submit(&mut log, group, &[Record::Trim { below }], true) {
            Ok(()) => taken += 1,
            Err(LogError::Full) => break,
            Err(error) => panic!("{error}"),
        }
        progress.commit(&mut log).unwrap();
        if below == index {
            break;
        }
    }
    while log.maintain().unwrap() {}
    (taken, log.health())
}

#[test]
fn must_08_the_last_trim_that_fits_still_lets_go_of_segments() {
    let (taken, health) = fill_with_trims(None);
    assert_eq!(health, Health::Full);
    assert!(taken > 0);
    assert_eq!(fill_with_trims(Some(taken)), (taken, Health::Ok));
}

#[test]
fn must_08_a_full_disk_heals_when_others_make_room() {
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk).unwrap();
    disk.set_capacity(Some(disk.used() + 1000));
    assert!(!log.maintain().unwrap());
    assert_eq!(log.health(), Health::Full);
    let leftovers = disk.files().into_keys().filter(|path| path.contains(".tmp")).count();
    assert_eq!(leftovers, 0, "what could not be filled is given back");
    disk.set_capacity(None);
    while log.maintain().unwrap() {}
    assert_eq!(log.health(), Health::Ok);
}

#[test]
fn must_08_no_room_at_any_operation_loses_nothing() {
    let workload = Workload::random(3, 40);
    for at in 0.. {
        let disk = SimDisk::new(at);
        let (mut log, _) = open(&disk).unwrap();
        let mut progress = Progress::default();
        disk.fail_at(disk.ops() + at, Fault::Full);
        let ops = disk.ops();
        let ran = run(&mut log, &workload, &mut progress);
        match &ran {
            Ok(()) | Err(LogError::Full | LogError::Faulted { .. }) => {}
            Err(error) => panic!("full at {at}: {error}"),
        }
        for keep in KEEPS {
            let (_, found) = open(&disk.fork(keep)).unwrap();
            assert!(progress.prefix(&found).is_some(), "full at {at}, {keep:?}");
        }
        if disk.ops() - ops < at {
            break;
        }
    }
}

#[test]
fn must_09_a_disk_that_becomes_read_only_is_a_fault() {
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk).unwrap();
    let mut progress = Progress::default();
    progress.submit(&mut log, Group::new(1), &[put(1, 0, 10)], true).unwrap();
    progress.commit(&mut log).unwrap();
    disk.set_read_only(true);
    progress.submit(&mut log, Group::new(1), &[put(2, 0, 10)], true).unwrap();
    assert!(matches!(progress.commit(&mut log), Err(LogError::Faulted { .. })));
    disk.set_read_only(false);
    assert!(matches!(log.commit(), Err(LogError::Faulted { .. })), "it stays one");
}

#[test]
fn must_09_a_log_on_a_read_only_disk_can_be_read() {
    let (disk, progress) = filled(3, true);
    disk.set_read_only(true);
    let opened = Log::open(Arc::new(disk.clone()), config(), &opening(LogMode::ReadOnly));
    let (mut log, found) = opened.unwrap();
    assert!(is_whole(&progress, &found));
    let refused = log.submit(Group::new(1), vec![(1, true, put(1, 0, 1))]);
    assert!(matches!(refused, Err(LogError::ReadOnly)));
    assert!(matches!(log.maintain(), Err(LogError::ReadOnly)));
}

#[test]
fn must_09_a_read_error_is_never_the_end_of_the_log() {
    let (disk, _) = filled(3, true);
    for path in segments(&disk) {
        let failing = copy_of(&disk);
        failing.fail_reads(&path, 600..601);
        let opened = open_with(&failing, 0);
        assert!(matches!(opened, Err(LogError::Io { .. })), "{path}");
    }
}

#[test]
fn must_09_damage_found_while_reading_names_the_group() {
    let (disk, _) = filled(3, true);
    let (log, _) = open_with(&disk, 0).unwrap();
    let reader = log.reader();
    let path = &segments(&disk)[0];
    for at in 512..disk.files()[path].len() as u64 {
        if at % 97 == 0 {
            disk.rot(path, at, 0xff);
        }
    }
    let group = Group::new(1);
    let error = reader.read(group, 1..10, usize::MAX).unwrap_err();
    assert!(
        matches!(error, LogError::Corrupt { segment: 1, group: Some(found), .. } if found == group),
        "{error}"
    );
}

#[test]
fn must_11_a_later_format_is_refused_with_what_to_do() {
    let (disk, _) = filled(2, true);
    for (at, value) in [(8, 2_u32), (12, 1)] {
        let later = copy_of(&disk);
        let path = &segments(&later)[0];
        let mut header = later.files()[path][..SECTOR_BYTES].to_vec();
        header[at..at + 4].copy_from_slice(&value.to_le_bytes());
        let crc = crc32fast::hash(&header[..SECTOR_BYTES - 4]);
        header[SECTOR_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
        later.open(path, OpenMode::Write).unwrap().write_at(0, &header).unwrap();
        let error = open_with(&later, 0).map(drop).unwrap_err();
        assert!(matches!(error, LogError::Newer { .. }), "{error}");
        assert!(error.to_string().contains("start it with the version that wrote it"), "{error}");
    }
}

#[test]
fn must_13_a_group_that_lags_does_not_hold_back_the_segments() {
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk).unwrap();
    let mut progress = Progress::default();
    let idle = Group::new(0);
    let mut old: Vec<Record> = (1..=5).flat_map(|i| [put(i, 1, 100), put(i, 2, 50)]).collect();
    let tag = crate::workload::tag(2);
    old.push(Record::Decide { index: 1, tag, proof: Bytes::from("proof") });
    old.push(Record::Note { index: 1, note: Bytes::from("of a decided index") });
    old.push(Record::Note { index: 4, note: Bytes::from("one") });
    old.push(Record::Note { index: 4, note: Bytes::from("two") });
    progress.submit(&mut log, idle, &old, true).unwrap();
    progress.commit(&mut log).unwrap();
    for round in 0..300 {
        let hot = Group::new(1 + round % 9);
        let index = u64::from(1 + round / 9);
        let records = [put(index, 0, 900), Record::Trim { below: index }];
        progress.submit(&mut log, hot, &records, true).unwrap();
        progress.commit(&mut log).unwrap();
        while log.maintain().unwrap() {}
        let budget = config().pinned_bytes_max + 3 * config().segment_bytes;
        assert!(log.segment_bytes() <= budget, "round {round}: {}", log.segment_bytes());
        if round % 10 == 0 {
            for keep in KEEPS {
                let (_, found) = open(&disk.fork(keep)).unwrap();
                assert!(is_whole(&progress, &found), "round {round}, {keep:?}");
            }
        }
    }
    let read = log.reader().read(idle, 1..6, usize::MAX).unwrap();
    assert_eq!(read, Model::of(&progress.submitted).group(idle).read(1));
}

#[test]
fn must_13_what_is_needed_is_not_moved_around_for_ever() {
    // More is needed than may be held back: that is for the host to see, and no reason to write the log again and again.
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk).unwrap();
    let mut progress = Progress::default();
    let group = Group::new(1);
    for index in 1..=200 {
        progress.submit(&mut log, group, &[put(index, 0, 900)], true).unwrap();
        progress.commit(&mut log).unwrap();
        for step in 0.. {
            assert!(step < 20, "maintenance does not end");
            if !log.maintain().unwrap() {
                break;
            }
        }
    }
    let (held_by, bytes) = log.held_back().unwrap();
    assert_eq!(held_by, group);
    assert!(bytes > config().pinned_bytes_max);
    let written = 200 * 1024 + 5 * config().segment_bytes;
    assert!(log.segment_bytes() <= written, "{}", log.segment_bytes());
}

#[test]
fn must_13_a_power_cut_while_records_are_copied_forward_loses_none() {
    let idle = Group::new(0);
    let mut submissions: Vec<(Group, Vec<Record>, bool)> = vec![(
        idle,
        vec![
            put(1, 1, 100),
            put(1, 2, 100),
            put(2, 1, 50),
            Record::Note { index: 1, note: Bytes::from("one") },
            Record::Note { index: 1, note: Bytes::from("two") },
        ],
        true,
    )];
    for index in 1..=90 {
        let records = vec![put(index, 0, 900), Record::Trim { below: index }];
        submissions.push((Group::new(1), records, true));
    }
    let workload = Workload { submissions };
    // Random cuts: each operation once, with what the seed keeps.
    cut_everywhere(&workload, Keep::Random);
}

#[test]
fn must_14_lengths_are_checked_before_anything_is_made_of_them() {
    let (disk, progress) = filled(2, true);
    let path = segments(&disk)[1].clone();
    let mut refused = 0;
    // Every four bytes of the first blocks, as the largest length there is.
    for at in (512..3072).step_by(4) {
        let damaged = copy_of(&disk);
        let file = damaged.open(&path, OpenMode::Write).unwrap();
        file.write_at(at, &[0xff; 4]).unwrap();
        match open_with(&damaged, 0) {
            Err(LogError::Corrupt { .. }) => refused += 1,
            Ok((_, found)) => assert!(is_whole(&progress, &found), "at {at}: padding is nothing"),
            Err(error) => panic!("at {at}: {error}"),
        }
    }
    assert!(refused > 200, "{refused}");
}

#[test]
fn must_14_what_no_segment_holds_is_refused_and_large_submissions_are_split() {
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk).unwrap();
    let mut progress = Progress::default();
    let group = Group::new(1);
    let too_large = progress.submit(&mut log, group, &[put(1, 0, 10), put(2, 0, 9000)], true);
    assert!(matches!(too_large, Err(LogError::TooLarge { .. })));
    assert!(!log.has_pending(), "nothing of it has been taken");
    let gap = progress.submit(&mut log, group, &[put(1 << 40, 0, 10)], true);
    assert!(matches!(gap, Err(LogError::Gap { last: 0, .. })), "{gap:?}");
    let many: Vec<Record> = (1..=60).map(|index| put(index, 0, 600)).collect();
    progress.submit(&mut log, group, &many, true).unwrap();
    let mut commits = 0;
    while log.wants_commit() {
        let durable = log.commit().unwrap();
        progress.durable(&durable);
        commits += 1;
        let (_, found) = open(&disk.fork(Keep::None)).unwrap();
        assert_eq!(progress.prefix(&found), Some(progress.acked));
    }
    assert!(commits >= 60 * 600 / (4 << 10), "{commits}");
    assert_eq!(progress.acked, 60);
}

#[test]
fn must_15_the_time_of_a_flush_is_known_when_a_log_is_open() {
    let disk = SimDisk::new(1);
    let (log, _) = open(&disk).unwrap();
    assert!(log.flush_latency().is_some(), "of the first block of a new log");
    drop(log);
    let (log, _) = open(&disk).unwrap();
    assert!(log.flush_latency().is_some(), "of the last block, written again");
    drop(log);
    let (log, _) = Log::open(Arc::new(disk), config(), &opening(LogMode::ReadOnly)).unwrap();
    assert_eq!(log.flush_latency(), None, "nothing is flushed");
}
