//! Whatever ends a switch, and at whatever moment: the directory is the old one or the new one, whole.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use quorate_host::{SwitchError, SwitchReport, VerifyReport};
use quorate_replicator::limits;
use quorate_storage::{DataDir, Disk, Fault, Keep, SimDisk};

use crate::is_long;
use crate::life::{Home, Kind, Told, backup_in};

/// A stopped node's directory on a simulated disk, and where it is to go.
struct Stopped {
    from: Kind,
    to: Kind,
    disk: SimDisk,
    /// How many operations a switch takes.
    operations: u64,
    told: Told,
    old: VerifyReport,
    new: VerifyReport,
}

fn home(disk: &SimDisk) -> Home {
    // The disk has no path; the copy is elsewhere.
    let mut home = Home::new("simulated");
    home.config.disk = Some(Arc::new(disk.clone()));
    let segment = 2 * (limits::MESSAGE_BYTES_MAX as u64 + (64 << 10));
    home.config.log.segment_bytes = segment.next_multiple_of(512);
    home.config.log.block_bytes_max = 1 << 20;
    home.config.log.spares = 1;
    home.config.checkpoint.log_bytes = 2 << 10;
    home
}

/// What is in force.
fn kind(disk: &SimDisk) -> Kind {
    match &*DataDir::peek(disk).unwrap().unwrap().driver {
        "local" => Kind::Local,
        "raft" => Kind::Raft,
        "quorum" => Kind::Quorum,
        other => panic!("{other}"),
    }
}

fn switch(
    (from, to): (Kind, Kind),
    disk: &SimDisk,
    backups: &Path,
) -> Result<SwitchReport, SwitchError> {
    let backup = backups.join("backup");
    if backup.exists() {
        std::fs::remove_dir_all(&backup).unwrap();
    }
    home(disk).switch_from(from, to, &backup_in(&backup))
}

async fn stopped((from, to): (Kind, Kind), backups: &Path) -> Stopped {
    let disk = SimDisk::new(1);
    let mut told = Told::new(50);
    let (node, _) = home(&disk).open(from).await.unwrap();
    told.open_session(&node).await;
    for _ in 0..20 {
        told.put(&node, 10).await;
    }
    node.close().await.unwrap();
    // What comes now stands in the log alone.
    let mut later = home(&disk);
    later.config.checkpoint.log_bytes = u64::MAX;
    later.config.checkpoint.interval = Duration::from_secs(3600);
    let (node, _) = later.open(from).await.unwrap();
    told.put(&node, 10).await;
    node.close().await.unwrap();
    let old = home(&disk).verify(from).remove(0);
    assert!(old.checkpoint > 0 && old.checkpoint < old.applied, "{old:?}");
    let switched = disk.fork(Keep::All);
    let began = switched.ops();
    let group = switch((from, to), &switched, backups).unwrap().groups.remove(0);
    let operations = switched.ops() - began;
    let new = home(&switched).verify(to).remove(0);
    assert_eq!((new.checkpoint, new.history), (group.position.index, group.history));
    Stopped { from, to, disk, operations, told, old, new }
}

impl Stopped {
    fn switch(&self, disk: &SimDisk, backups: &Path) -> Result<SwitchReport, SwitchError> {
        switch((self.from, self.to), disk, backups)
    }

    /// Operations to be disturbed: all of them with the long budget; otherwise those at which something is put in force, and a part of
    /// those before, most of which fill a segment with zeros; of both one of `every` so many.
    fn moments(&self, every: u64) -> impl Iterator<Item = u64> {
        let all = self.operations;
        let is_one = move |at: &u64| match all - at {
            left @ 1..30 => left.is_multiple_of(every),
            left => left == 0 || at.is_multiple_of(5 * every),
        };
        (0..=all).filter(move |at| is_long() || is_one(at))
    }

    /// What is there now is what was there before, or what should be: the driver that has it.
    fn check(&self, disk: &SimDisk, context: &str) -> Kind {
        let kind = kind(disk);
        let wanted = if kind == self.from { &self.old } else { &self.new };
        let found = home(disk).verify(kind).remove(0);
        assert_eq!(
            (found.applied, found.history, found.checkpoint_digest, found.sessions),
            (wanted.applied, wanted.history, wanted.checkpoint_digest, wanted.sessions),
            "{context}"
        );
        kind
    }

    /// A node serves from it.
    async fn serves(&self, disk: &SimDisk, kind: Kind) {
        let (node, shards) = home(disk).open(kind).await.unwrap();
        self.told.repeat(&node).await;
        self.told.check(&node, &shards).await;
        node.close().await.unwrap();
        // What is not in force is gone from the disk.
        let listed = disk.list("").unwrap();
        let data = if kind == self.from { "log" } else { "switched-1" };
        for name in listed.into_iter().filter(|name| name != "LOCK" && name != "MANIFEST") {
            let left = |dir: &str| disk.list(dir).map_or(0, |names| names.len());
            let left = left(&format!("{name}/log")) + left(&format!("{name}/checkpoint"));
            assert!(name == data || name == "checkpoint" || name == "log" || left == 0, "{name}");
        }
    }
}

/// From where to where, with each moment or some of them: what is written differs by the driver, and where it stands does not.
const WAYS: [((Kind, Kind), u64); 3] = [
    ((Kind::Local, Kind::Raft), 1),
    ((Kind::Local, Kind::Quorum), 3),
    ((Kind::Quorum, Kind::Local), 3),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_at_any_operation_leaves_the_old_directory_or_the_new_one() {
    for (way, every) in WAYS {
        kill(way, every).await;
    }
}

async fn kill(way: (Kind, Kind), every: u64) {
    let backups = tempfile::tempdir().unwrap();
    let stopped = stopped(way, backups.path()).await;
    let keeps: &[Keep] =
        if is_long() { &[Keep::None, Keep::All, Keep::Random] } else { &[Keep::Random] };
    for keep in keeps {
        let mut kinds = Vec::new();
        for cut in stopped.moments(every) {
            let context = format!("{way:?}, cut at {cut}, {keep:?}");
            let disk = stopped.disk.fork(Keep::All);
            disk.cut_at(disk.ops() + cut);
            let ran = stopped.switch(&disk, backups.path());
            disk.reboot(*keep);
            let kind = stopped.check(&disk, &context);
            assert!(kind == stopped.to || ran.is_err(), "{context}");
            if cut % 16 == 0 || kinds.last().is_some_and(|before| *before != kind) {
                stopped.serves(&disk, kind).await;
            }
            kinds.push(kind);
        }
        assert_eq!((kinds[0], kinds[kinds.len() - 1]), way);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_of_any_operation_is_told_and_changes_nothing_or_everything() {
    for (way, every) in WAYS {
        fail(way, every).await;
    }
}

async fn fail(way: (Kind, Kind), every: u64) {
    let backups = tempfile::tempdir().unwrap();
    let stopped = stopped(way, backups.path()).await;
    for (at, fault) in stopped.moments(every).zip([Fault::Eio, Fault::Full].into_iter().cycle()) {
        let context = format!("{way:?}, {fault:?} at {at}");
        let disk = stopped.disk.fork(Keep::All);
        disk.fail_at(disk.ops() + at, fault);
        let ran = stopped.switch(&disk, backups.path());
        let backup = backups.path().join("backup");
        let kind = stopped.check(&disk, &context);
        match ran {
            Ok(_) => assert_eq!(kind, stopped.to, "{context}"),
            Err(SwitchError::InForce { .. }) => {
                assert!(backup.join("MANIFEST").exists(), "{context}");
            }
            Err(error) => {
                let words = error.to_string();
                assert!(!words.contains("damaged"), "a disk that fails is not damage: {words}");
                assert_eq!(kind, stopped.from, "{context}: {words}");
                assert!(!backup.exists(), "{context}: {words}");
            }
        }
        if kind == stopped.from {
            // What was in the way is gone.
            let again = stopped.switch(&disk, backups.path());
            again.unwrap_or_else(|error| panic!("{context}: {error}"));
            assert_eq!(stopped.check(&disk, &context), stopped.to);
        }
    }
}
