//! Whose data a directory holds, and what is refused.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use bytes::Bytes;
use quorate_storage::{
    CheckpointMeta, CheckpointMode, CheckpointStore, CheckpointWrite, DataDir, DataDirError,
    DataMode, Disk, Fault, Group, Identity, Keep, LogConfig, LogError, MemoryDisk, OpenMode,
    RealDisk, Record, SimDisk,
};

fn identity() -> Identity {
    Identity { cluster: [3; 16], node: 7, driver: "local".to_owned(), groups: 1 }
}

fn open(disk: &Arc<dyn Disk>, mode: DataMode) -> Result<DataDir, DataDirError> {
    DataDir::open(Arc::clone(disk), &identity(), mode, [9; 16])
}

/// A directory with a log in which something is.
fn set_up() -> Arc<dyn Disk> {
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
    let mut dir = open(&disk, DataMode::Create).unwrap();
    let (mut log, _) = dir.open_log(LogConfig::small(), 0, BTreeMap::new()).unwrap();
    log.submit(Group::new(0), vec![(1, true, Record::State(Bytes::from("kept")))]).unwrap();
    log.close().unwrap();
    disk
}

/// The error of opening with another identity, and its words.
fn refused(disk: &Arc<dyn Disk>, change: impl Fn(&mut Identity)) -> (DataDirError, String) {
    let mut wanted = identity();
    change(&mut wanted);
    let error = DataDir::open(Arc::clone(disk), &wanted, DataMode::Create, [9; 16]);
    let error = error.map(drop).unwrap_err();
    let words = error.to_string();
    (error, words)
}

#[test]
fn what_was_set_up_is_found_again() {
    let disk = set_up();
    let mut dir = open(&disk, DataMode::Existing).unwrap();
    assert_eq!(dir.identity(), &identity());
    assert_eq!(dir.store(), [9; 16]);
    let (_, found) = dir.open_log(LogConfig::small(), 0, BTreeMap::new()).unwrap();
    assert_eq!(found[&Group::new(0)].state, Some(Bytes::from("kept")));
    assert_eq!(DataDir::peek(&*disk).unwrap(), Some(identity()));
}

#[test]
fn a_directory_of_somebody_else_is_refused_with_the_way_out() {
    let disk = set_up();
    let (error, words) = refused(&disk, |wanted| wanted.cluster = [4; 16]);
    assert!(matches!(error, DataDirError::OtherCluster { .. }));
    assert!(words.contains("03030303030303030303030303030303, not 0404"), "{words}");
    let (error, words) = refused(&disk, |wanted| wanted.node = 8);
    assert!(matches!(error, DataDirError::OtherNode { found: 7, wanted: 8 }), "{words}");
    let (error, words) = refused(&disk, |wanted| wanted.driver = "raft".to_owned());
    assert!(matches!(error, DataDirError::OtherDriver { .. }));
    assert!(words.contains("`quorate driver switch --to raft`"), "{words}");
    let (error, words) = refused(&disk, |wanted| wanted.groups = 4);
    assert!(matches!(error, DataDirError::OtherGroups { .. }));
    assert!(words.contains("configure groups = 1"), "{words}");
    let (error, _) = refused(&disk, |wanted| wanted.driver = "two words".to_owned());
    assert!(matches!(error, DataDirError::DriverName { .. }));
    open(&disk, DataMode::Existing).unwrap();
}

#[test]
fn a_directory_that_lost_a_part_is_refused() {
    let disk = set_up();
    disk.remove("MANIFEST").unwrap();
    let error = open(&disk, DataMode::Create).unwrap_err();
    assert!(
        matches!(&error, DataDirError::NoManifest { found } if found.contains("log/")),
        "{error}"
    );

    let disk = set_up();
    for name in disk.list("log").unwrap() {
        disk.remove(&format!("log/{name}")).unwrap();
    }
    let error = open(&disk, DataMode::Create).unwrap_err();
    assert!(matches!(error, DataDirError::NoLog), "{error}");

    let empty: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
    let error = open(&empty, DataMode::Existing).unwrap_err();
    assert!(matches!(error, DataDirError::NotSetUp), "{error}");
}

#[test]
fn every_damaged_byte_of_a_manifest_is_found() {
    let disk = set_up();
    let file = disk.open("MANIFEST", OpenMode::Write).unwrap();
    for at in 0..file.len().unwrap() {
        let mut byte = [0];
        file.read_at(at, &mut byte).unwrap();
        file.write_at(at, &[byte[0] ^ 1]).unwrap();
        let error = open(&disk, DataMode::Create).unwrap_err();
        assert!(matches!(error, DataDirError::Damaged { .. }), "byte {at}: {error}");
        file.write_at(at, &byte).unwrap();
    }
    open(&disk, DataMode::Create).unwrap();
}

#[test]
fn must_11_a_later_format_of_the_directory_is_refused() {
    let disk = set_up();
    let file = disk.open("MANIFEST", OpenMode::Write).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_at(0, &mut bytes).unwrap();
    let text = String::from_utf8(bytes).unwrap().replace("format = 1", "format = 3");
    let body = &text[..text.find("crc = ").unwrap()];
    let text = format!("{body}crc = {:08x}\n", crc32fast::hash(body.as_bytes()));
    file.write_at(0, text.as_bytes()).unwrap();
    let error = open(&disk, DataMode::Create).unwrap_err();
    assert!(matches!(error, DataDirError::Newer { format: 3, known: 2 }), "{error}");
}

#[test]
fn a_power_cut_while_it_is_set_up_leaves_it_usable() {
    for keep in [Keep::None, Keep::All, Keep::Random] {
        for cut in 0.. {
            let disk = SimDisk::new(cut);
            let shared: Arc<dyn Disk> = Arc::new(disk.clone());
            disk.cut_at(cut);
            let run = || -> Result<(), DataDirError> {
                let mut dir = open(&shared, DataMode::Create)?;
                dir.open_log(LogConfig::small(), 0, BTreeMap::new()).map(drop)
            };
            let ran = run();
            disk.reboot(keep);
            let opened = open(&shared, DataMode::Create);
            let mut dir = opened.unwrap_or_else(|error| panic!("cut at {cut}, {keep:?}: {error}"));
            dir.open_log(LogConfig::small(), 0, BTreeMap::new())
                .unwrap_or_else(|error| panic!("cut at {cut}, {keep:?}: {error}"));
            if ran.is_ok() {
                break;
            }
        }
    }
}

/// Puts a log with `state` of another driver in the place of what is there.
fn switch(disk: &Arc<dyn Disk>, from: &str, to: &str, state: &str) -> Result<(), DataDirError> {
    let identity = Identity { driver: from.to_owned(), ..identity() };
    let mut dir = DataDir::open(Arc::clone(disk), &identity, DataMode::Existing, [9; 16])?;
    let mut begun = dir.begin_switch(to, [8; 16])?;
    let (mut log, _) = begun.open_log(LogConfig::small(), 0, BTreeMap::new())?;
    let record = Record::State(Bytes::copy_from_slice(state.as_bytes()));
    log.submit(Group::new(0), vec![(1, true, record)])?;
    log.close()?;
    dir.put_in_force(begun)
}

/// The driver of a directory, and the state in its log.
fn held(disk: &Arc<dyn Disk>, mode: DataMode) -> (String, Option<Bytes>) {
    let driver = DataDir::peek(&**disk).unwrap().unwrap().driver;
    let identity = Identity { driver: driver.clone(), ..identity() };
    let mut dir = DataDir::open(Arc::clone(disk), &identity, mode, [7; 16]).unwrap();
    let (_, mut found) = dir.open_log(LogConfig::small(), 0, BTreeMap::new()).unwrap();
    (driver, found.remove(&Group::new(0)).unwrap_or_default().state)
}

#[test]
fn a_switch_puts_other_data_in_the_place_of_those_that_were_there() {
    let disk = set_up();
    let wanted = |driver: &str, state: &'static str| (driver.to_owned(), Some(Bytes::from(state)));
    switch(&disk, "local", "raft", "one").unwrap();
    assert_eq!(held(&disk, DataMode::ReadOnly), wanted("raft", "one"));
    let error = open(&disk, DataMode::Create).map(drop).unwrap_err();
    assert!(matches!(error, DataDirError::OtherDriver { .. }), "{error}");
    // And back: the number of the switch rises, so that nothing is taken for what was there before.
    switch(&disk, "raft", "local", "two").unwrap();
    assert_eq!(held(&disk, DataMode::Existing), wanted("local", "two"));
    assert_eq!(open(&disk, DataMode::Existing).unwrap().store(), [8; 16]);
    for gone in ["log", "checkpoint", "switched-1/log", "switched-1/checkpoint"] {
        assert_eq!(disk.list(gone).unwrap_or_default(), [""; 0], "{gone}");
    }
    disk.remove("MANIFEST").unwrap();
    let error = open(&disk, DataMode::Create).unwrap_err();
    let DataDirError::NoManifest { found } = &error else { panic!("{error}") };
    assert!(found.contains("switched-2"), "{found}");
}

#[test]
fn files_of_others_in_the_directory_stay() {
    let disk = set_up();
    switch(&disk, "local", "raft", "one").unwrap();
    disk.create_dir_all("log").unwrap();
    disk.open("log/notes.txt", OpenMode::CreateNew).unwrap();
    held(&disk, DataMode::Existing);
    assert_eq!(disk.list("log").unwrap(), ["notes.txt"]);
}

#[test]
fn a_switch_that_is_given_up_leaves_nothing() {
    let disk = set_up();
    let dir = open(&disk, DataMode::Existing).unwrap();
    let mut begun = dir.begin_switch("raft", [8; 16]).unwrap();
    begun.open_log(LogConfig::small(), 0, BTreeMap::new()).unwrap();
    dir.remove_others().unwrap();
    assert_eq!(disk.list("switched-1/log").unwrap(), [""; 0]);
    drop(dir);
    assert_eq!(held(&disk, DataMode::Existing).0, "local");
}

#[test]
fn a_power_cut_at_any_operation_of_a_switch_leaves_the_old_data_or_the_new_ones() {
    for keep in [Keep::None, Keep::All, Keep::Random] {
        for cut in 0.. {
            let disk = SimDisk::new(cut);
            let shared: Arc<dyn Disk> = Arc::new(disk.clone());
            {
                let mut dir = open(&shared, DataMode::Create).unwrap();
                let opened = dir.open_log(LogConfig::small(), 0, BTreeMap::new());
                let (mut log, _) = opened.unwrap();
                let record = Record::State(Bytes::from("old"));
                log.submit(Group::new(0), vec![(1, true, record)]).unwrap();
                log.close().unwrap();
            }
            disk.cut_at(disk.ops() + cut);
            let ran = switch(&shared, "local", "raft", "new");
            disk.reboot(keep);
            let (driver, state) = held(&shared, DataMode::Existing);
            let wanted = if driver == "raft" { "new" } else { "old" };
            assert_eq!(state, Some(Bytes::from(wanted)), "cut at {cut}, {keep:?}");
            assert!(driver == "raft" || ran.is_err(), "cut at {cut}, {keep:?}");
            if ran.is_ok() && disk.ops() > cut {
                break;
            }
        }
    }
}

#[test]
fn what_a_start_found_after_a_failed_switch_stays_over_a_power_cut() {
    let mut failed = 0;
    for at in 0.. {
        let disk = SimDisk::new(at);
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        {
            let mut dir = open(&shared, DataMode::Create).unwrap();
            dir.open_log(LogConfig::small(), 0, BTreeMap::new()).unwrap();
        }
        let end = disk.ops() + at;
        disk.fail_at(end, Fault::Eio);
        let ran = switch(&shared, "local", "raft", "new");
        if disk.ops() <= end {
            break;
        }
        failed += u64::from(ran.is_err());
        let found = held(&shared, DataMode::Existing);
        let cut: Arc<dyn Disk> = Arc::new(disk.fork(Keep::None));
        assert_eq!(held(&cut, DataMode::Existing), found, "fault at {at}");
    }
    assert!(failed > 10, "only {failed} switches failed");
}

#[test]
fn a_copy_opens_as_what_it_was_made_of_and_only_when_it_is_whole() {
    let disk = set_up();
    switch(&disk, "local", "raft", "one").unwrap();
    let identity = Identity { driver: "raft".to_owned(), ..identity() };
    let dir = DataDir::open(Arc::clone(&disk), &identity, DataMode::Existing, [9; 16]).unwrap();
    for cut in 0.. {
        let copy = SimDisk::new(cut);
        copy.cut_at(cut);
        let copied = dir.copy_to(&copy);
        copy.reboot(Keep::All);
        let shared: Arc<dyn Disk> = Arc::new(copy);
        match copied {
            Ok(bytes) => {
                assert!(bytes >= dir.bytes().unwrap());
                let wanted = ("raft".to_owned(), Some(Bytes::from("one")));
                assert_eq!(held(&shared, DataMode::Existing), wanted);
                break;
            }
            Err(_) => {
                if let Ok(Some(_)) = DataDir::peek(&*shared) {
                    // Its last operation was the one that was cut.
                    assert_eq!(held(&shared, DataMode::ReadOnly).0, "raft");
                }
            }
        }
    }
}

#[test]
fn a_read_only_file_system_is_named_and_can_be_read() {
    let disk = SimDisk::new(1);
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    open(&shared, DataMode::Create)
        .unwrap()
        .open_log(LogConfig::small(), 0, BTreeMap::new())
        .unwrap();
    disk.set_read_only(true);
    let error = open(&shared, DataMode::Create).unwrap_err();
    assert!(matches!(error, DataDirError::ReadOnly), "{error}");
    let mut dir = open(&shared, DataMode::ReadOnly).unwrap();
    dir.open_log(LogConfig::small(), 0, BTreeMap::new()).unwrap();
    assert!(matches!(dir.begin_switch("raft", [8; 16]), Err(DataDirError::ReadOnly)));
}

#[test]
fn a_path_that_is_a_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    std::fs::write(&path, "x").unwrap();
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(&path));
    let error = open(&disk, DataMode::Create).unwrap_err();
    assert!(matches!(error, DataDirError::NotADirectory), "{error}");
}

#[test]
fn must_10_a_second_opening_in_one_process_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let disks: [Arc<dyn Disk>; 3] = [
        Arc::new(MemoryDisk::new()),
        Arc::new(SimDisk::new(1)),
        Arc::new(RealDisk::new(dir.path())),
    ];
    for disk in disks {
        let first = open(&disk, DataMode::Create).unwrap();
        let error = open(&disk, DataMode::Create).unwrap_err();
        assert!(matches!(error, DataDirError::InUse), "{error}");
        drop(first);
        open(&disk, DataMode::Create).unwrap();
    }
}

const HOLD: &str = "QUORATE_TEST_HOLD";

/// Not a test of its own: the other process of the test below.
#[test]
fn must_10_hold_the_directory_if_told() {
    let Some(path) = std::env::var_os(HOLD) else { return };
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(path));
    let _dir = open(&disk, DataMode::Create).unwrap();
    println!("held");
    std::io::stdout().flush().unwrap();
    // Until the other end goes away.
    std::io::stdin().read_line(&mut String::new()).unwrap();
}

#[test]
fn must_10_a_second_process_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut other = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "must_10_hold_the_directory_if_told", "--nocapture"])
        .env(HOLD, dir.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(other.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("held")), "the other process has it");
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(dir.path()));
    let error = open(&disk, DataMode::Create).unwrap_err();
    assert!(matches!(error, DataDirError::InUse), "{error}");
    // A killed process holds nothing.
    other.kill().unwrap();
    other.wait().unwrap();
    open(&disk, DataMode::Create).unwrap();
}

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/v1");
const WRITE_GOLDEN: &str = "QUORATE_WRITE_GOLDEN";

/// What is in the golden directory. What has been released must be readable for ever: it is never written again, a later
/// format gets a directory of its own.
fn golden_records() -> Vec<Record> {
    use quorate_storage::{Body, Entry, Tag};
    let tag = |number: u8| {
        let mut tag = [0; 32];
        (tag[0], tag[31]) = (number, number / 2);
        Tag(tag)
    };
    let put = |index, number, body| {
        Record::Put(Entry { index, tag: tag(number), head: Bytes::from("head"), body })
    };
    let text = |text: &str| Bytes::from(text.to_owned());
    vec![
        Record::Reset { index: 4, mark: text("mark of 4") },
        put(5, 0, Body::Empty),
        put(6, 1, Body::Frames(text("frames"))),
        put(6, 2, Body::Members(text("members"))),
        put(7, 3, Body::Frames(text("cut away"))),
        Record::Cut { from: 7 },
        put(7, 4, Body::Frames(Bytes::from(vec![7; 5000]))),
        Record::Decide { index: 5, tag: tag(0), proof: Bytes::new() },
        Record::Decide { index: 6, tag: tag(2), proof: text("proof") },
        Record::State(text("state")),
        Record::Note { index: 7, note: text("one") },
        Record::Note { index: 7, note: text("two") },
        Record::Trim { below: 6 },
    ]
}

fn golden_checkpoint() -> CheckpointWrite {
    let pair =
        |key: &str, value: &str| (Bytes::from(key.to_owned()), Some(Bytes::from(value.to_owned())));
    CheckpointWrite {
        meta: CheckpointMeta {
            index: 6,
            position: Bytes::from("position"),
            mark: Bytes::from("mark of 6"),
            state: [6; 32],
            log_watermark: 2,
        },
        machine_pairs: vec![pair("a", "1"), pair("b", "2")],
        host_pairs: vec![pair("session", "3")],
    }
}

fn write_golden(path: &Path) {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(path));
    let mut dir = open(&disk, DataMode::Create).unwrap();
    let mut config = LogConfig::small();
    (config.segment_bytes, config.block_bytes_max) = (16 << 10, 8 << 10);
    let (mut log, _) = dir.open_log(config, 0, BTreeMap::new()).unwrap();
    for (seq, record) in (1..).zip(golden_records()) {
        log.submit(Group::new(0), vec![(seq, true, record)]).unwrap();
        log.commit().unwrap();
    }
    log.close().unwrap();
    let store =
        CheckpointStore::open(disk, Group::new(0), CheckpointMode::Create, 1 << 20).unwrap();
    store.write(golden_checkpoint()).unwrap();
}

#[test]
fn must_11_what_version_1_wrote_is_read() {
    if std::env::var_os(WRITE_GOLDEN).is_some() {
        write_golden(Path::new(GOLDEN));
    }
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(GOLDEN));
    let mut dir = open(&disk, DataMode::ReadOnly).unwrap();
    assert_eq!(dir.store(), [9; 16]);
    let store =
        CheckpointStore::open(Arc::clone(&disk), Group::new(0), CheckpointMode::ReadOnly, 1 << 20);
    let mut store = store.unwrap();
    let wanted = golden_checkpoint();
    assert_eq!(store.latest(), Some(wanted.meta.clone()));
    assert_eq!(store.verify().unwrap().machine.pairs, 2);
    let (log, found) =
        dir.open_log(LogConfig::default(), wanted.meta.log_watermark, BTreeMap::new()).unwrap();
    let records = golden_records();
    let entry = |at: usize| match &records[at] {
        Record::Put(entry) => entry.clone(),
        other => panic!("{other:?}"),
    };
    let found = &found[&Group::new(0)];
    assert_eq!(found.first, 6);
    assert_eq!(found.reset, Some((4, Bytes::from("mark of 4"))));
    assert_eq!(found.entries, [entry(3), entry(6)]);
    assert_eq!(found.decided, [(6, entry(3).tag, Bytes::from("proof"))]);
    assert_eq!(found.state, Some(Bytes::from("state")));
    assert_eq!(found.notes, [(7, Bytes::from("one")), (7, Bytes::from("two"))]);
    let read = log.reader().read(Group::new(0), 6..8, usize::MAX).unwrap();
    assert_eq!(read, [(entry(3), Bytes::from("proof")), (entry(6), Bytes::new())]);
    drop(log);
    let other = Identity { node: 8, ..identity() };
    let refused = DataDir::open(disk, &other, DataMode::ReadOnly, [9; 16]);
    assert!(matches!(refused, Err(DataDirError::OtherNode { .. })));
}

#[test]
fn a_log_that_ends_before_what_a_checkpoint_saw_is_refused() {
    let disk = set_up();
    let mut dir = open(&disk, DataMode::Existing).unwrap();
    let error = dir.open_log(LogConfig::small(), 1000, BTreeMap::new()).map(drop).unwrap_err();
    assert!(matches!(error, DataDirError::Log(LogError::Corrupt { .. })), "{error}");
}
