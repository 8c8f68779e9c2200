//! Any sequence of steps, crashes and reopens, against the model; and any bytes at all.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use quorate_storage::{
    Disk, Group, Keep, Log, LogError, LogMode, LogReader, MemoryDisk, OpenMode, Opening, Record,
    Recovered, SimDisk,
};

use crate::model::Model;
use crate::workload::{Progress, Step, config, open, opening, put, tag};

#[derive(Clone, Debug)]
enum Act {
    Step(u32, Step),
    Commit,
    Maintain,
    Reopen,
    Close,
    PowerCut(Keep),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..4_u8, 0..900_usize).prop_map(|(tag, bytes)| Step::Put { tag, bytes }),
        1 => (0..4_u8).prop_map(|tag| Step::Rival { tag }),
        1 => (0..4_u64).prop_map(|back| Step::Cut { back }),
        4 => (0..40_usize).prop_map(|proof| Step::Decide { proof }),
        1 => (0..80_usize).prop_map(|bytes| Step::State { bytes }),
        2 => (0..3_u64).prop_map(|ahead| Step::Note { ahead }),
        1 => (0..10_u64).prop_map(|keep| Step::Trim { keep }),
        1 => (0..30_u64).prop_map(|ahead| Step::Reset { ahead }),
    ]
}

fn act() -> impl Strategy<Value = Act> {
    let keep = prop_oneof![Just(Keep::None), Just(Keep::All), Just(Keep::Random)];
    prop_oneof![
        12 => (0..2_u32, step()).prop_map(|(group, step)| Act::Step(group, step)),
        4 => Just(Act::Commit),
        2 => Just(Act::Maintain),
        1 => Just(Act::Reopen),
        1 => Just(Act::Close),
        1 => keep.prop_map(Act::PowerCut),
    ]
}

/// Opens a copy of the log with each of some floors: what is above them is given back as without, and readers have it all.
fn check_floors(disk: &SimDisk, found: &BTreeMap<Group, Recovered>, reader: LogReader) {
    for up in [0, 1, 3, 100] {
        let floors: BTreeMap<_, _> =
            found.iter().map(|(&g, found)| (g, found.first + up)).collect();
        let mut wanted = found.clone();
        for (group, found) in &mut wanted {
            let floor = floors[group];
            found.entries.retain(|entry| entry.index > floor);
            found.decided.retain(|(index, ..)| *index > floor);
            found.notes.retain(|(index, _)| *index > floor);
        }
        let opening = Opening { floors, ..opening(LogMode::ReadOnly) };
        let copy = Arc::new(disk.fork(Keep::All));
        let (log, above) = Log::open(copy, config(), &opening).unwrap();
        assert_eq!(above, wanted);
        for (&group, found) in found {
            let all = |reader: LogReader| {
                let range = found.first..reader.last(group) + 1;
                reader.read(group, range, usize::MAX).unwrap()
            };
            assert_eq!(all(log.reader()), all(reader.clone()));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_of_steps_and_crashes_follows_the_model(
        seed: u64,
        acts in vec(act(), 1..300),
    ) {
        let disk = SimDisk::new(seed);
        let (mut log, _) = open(&disk).unwrap();
        let mut progress = Progress::default();
        for act in acts {
            match act {
                Act::Step(group, step) => {
                    let group = Group::new(group);
                    let model = Model::of(&progress.submitted);
                    if let Some(record) = step.record(group, &model) {
                        progress.submit(&mut log, group, &[record], false).unwrap();
                    }
                }
                Act::Commit => {
                    while log.has_pending() {
                        progress.durable(&log.commit().unwrap());
                    }
                }
                Act::Maintain => {
                    log.maintain().unwrap();
                }
                Act::Reopen | Act::Close | Act::PowerCut(_) => {
                    if matches!(act, Act::Close) {
                        progress.durable(&log.close().unwrap());
                    }
                    drop(log);
                    if let Act::PowerCut(keep) = act {
                        disk.power_cut(keep);
                    }
                    let (again, found) = open(&disk).unwrap();
                    check_floors(&disk, &found, again.reader());
                    let kept = progress.prefix(&found);
                    prop_assert!(kept.is_some(), "acked {} of {}", progress.acked, progress.submitted.len());
                    progress = progress.after_crash(kept.unwrap());
                    log = again;
                }
            }
        }
        let model = Model::of(&progress.submitted[..progress.acked]);
        for (group, model) in model.groups() {
            let range = model.first..model.last() + 1;
            prop_assert_eq!(log.reader().read(group, range, usize::MAX).unwrap(), model.read(model.first));
        }
    }

    #[test]
    fn must_14_any_bytes_are_refused_or_taken_without_a_panic(
        header in any::<bool>(),
        at in 0..16_384_usize,
        bytes in vec(any::<u8>(), 0..2_000),
        repeats in 1..8_usize,
    ) {
        // A file of arbitrary bytes, or a good one with arbitrary bytes somewhere in it.
        let source = SimDisk::new(1);
        drop(open(&source).unwrap());
        let disk = MemoryDisk::new();
        disk.create_dir_all("log").unwrap();
        let file = disk.open("log/segment-0000000001", OpenMode::Create).unwrap();
        if header {
            file.write_at(0, &source.files()["log/segment-0000000001"]).unwrap();
        }
        for repeat in 0..repeats {
            let at = (at + repeat * bytes.len()).min(16_384);
            let bytes = &bytes[..bytes.len().min(16_384 - at)];
            file.write_at(at as u64, bytes).unwrap();
        }
        let opened = Log::open(
            Arc::new(disk),
            config(),
            &opening(LogMode::Existing),
        );
        match opened {
            Ok((_, found)) => prop_assert!(found.is_empty(), "nothing was ever written"),
            Err(LogError::Corrupt { .. } | LogError::Newer { .. }) => {}
            Err(error) => prop_assert!(false, "{error}"),
        }
    }
}

#[test]
fn a_decision_for_another_candidate_voids_the_one_before() {
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk).unwrap();
    let mut progress = Progress::default();
    let decide = |index, number| Record::Decide { index, tag: tag(number), proof: Bytes::new() };
    let records =
        [put(1, 1, 10), put(2, 1, 10), decide(1, 2), put(1, 2, 10), decide(3, 4), put(3, 4, 10)];
    for record in records {
        progress.submit(&mut log, Group::new(0), &[record], true).unwrap();
        progress.commit(&mut log).unwrap();
        let (again, found) = open(&disk.fork(Keep::All)).unwrap();
        assert_eq!(progress.prefix(&found), Some(progress.submitted.len()));
        check_floors(&disk, &found, again.reader());
    }
}
