//! Whatever ends a switch, and at whatever moment: the directory is the old one or the new one, whole.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use quorate_host::{SwitchError, SwitchReport, VerifyReport};
use quorate_replicator::limits;
use quorate_storage::{DataDir, Disk, Fault, Keep, SimDisk};

use crate::is_long;
use crate::life::{Home, Kind, Told, backup_in};

/// A stopped node's directory on a simulated disk.
struct Stopped {
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
        other => panic!("{other}"),
    }
}

fn switch(disk: &SimDisk, backups: &Path) -> Result<SwitchReport, SwitchError> {
    let backup = backups.join("backup");
    if backup.exists() {
        std::fs::remove_dir_all(&backup).unwrap();
    }
    home(disk).switch(Kind::Raft, &backup_in(&backup))
}

async fn stopped(backups: &Path) -> Stopped {
    let disk = SimDisk::new(1);
    let mut told = Told::new(50);
    let (local, _) = home(&disk).open(Kind::Local).await.unwrap();
    told.open_session(&local).await;
    for _ in 0..20 {
        told.put(&local, 10).await;
    }
    local.close().await.unwrap();
    // What comes now stands in the log alone.
    let mut later = home(&disk);
    later.config.checkpoint.log_bytes = u64::MAX;
    later.config.checkpoint.interval = Duration::from_secs(3600);
    let (local, _) = later.open(Kind::Local).await.unwrap();
    told.put(&local, 10).await;
    local.close().await.unwrap();
    let old = home(&disk).verify(Kind::Local).remove(0);
    assert!(old.checkpoint > 0 && old.checkpoint < old.applied, "{old:?}");
    let switched = disk.fork(Keep::All);
    let began = switched.ops();
    let group = switch(&switched, backups).unwrap().groups.remove(0);
    let operations = switched.ops() - began;
    let new = home(&switched).verify(Kind::Raft).remove(0);
    assert_eq!((new.checkpoint, new.history), (group.position.index, group.history));
    Stopped { disk, operations, told, old, new }
}

impl Stopped {
    /// Operations to be disturbed: all of them with the long budget; otherwise those at which something is put in force, and a part of
    /// those before, most of which fill a segment with zeros.
    fn moments(&self) -> impl Iterator<Item = u64> {
        let all = self.operations;
        (0..=all).filter(move |at| is_long() || all - at < 30 || at % 5 == 0)
    }

    /// What is there now is what was there before, or what should be: the driver that has it.
    fn check(&self, disk: &SimDisk, context: &str) -> Kind {
        let kind = kind(disk);
        let wanted = if kind == Kind::Local { &self.old } else { &self.new };
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
        let data = if kind == Kind::Local { "log" } else { "switched-1" };
        for name in listed.into_iter().filter(|name| name != "LOCK" && name != "MANIFEST") {
            let left = |dir: &str| disk.list(dir).map_or(0, |names| names.len());
            let left = left(&format!("{name}/log")) + left(&format!("{name}/checkpoint"));
            assert!(name == data || name == "checkpoint" || name == "log" || left == 0, "{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_at_any_operation_leaves_the_old_directory_or_the_new_one() {
    let backups = tempfile::tempdir().unwrap();
    let stopped = stopped(backups.path()).await;
    let keeps: &[Keep] =
        if is_long() { &[Keep::None, Keep::All, Keep::Random] } else { &[Keep::Random] };
    for keep in keeps {
        let mut kinds = Vec::new();
        for cut in stopped.moments() {
            let context = format!("cut at {cut}, {keep:?}");
            let disk = stopped.disk.fork(Keep::All);
            disk.cut_at(disk.ops() + cut);
            let ran = switch(&disk, backups.path());
            disk.reboot(*keep);
            let kind = stopped.check(&disk, &context);
            assert!(kind == Kind::Raft || ran.is_err(), "{context}");
            if cut % 16 == 0 || kinds.last().is_some_and(|before| *before != kind) {
                stopped.serves(&disk, kind).await;
            }
            kinds.push(kind);
        }
        assert_eq!((kinds[0], kinds[kinds.len() - 1]), (Kind::Local, Kind::Raft));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_of_any_operation_is_told_and_changes_nothing_or_everything() {
    let backups = tempfile::tempdir().unwrap();
    let stopped = stopped(backups.path()).await;
    for (at, fault) in stopped.moments().zip([Fault::Eio, Fault::Full].into_iter().cycle()) {
        let context = format!("{fault:?} at {at}");
        let disk = stopped.disk.fork(Keep::All);
        disk.fail_at(disk.ops() + at, fault);
        let ran = switch(&disk, backups.path());
        let backup = backups.path().join("backup");
        let kind = stopped.check(&disk, &context);
        match ran {
            Ok(_) => assert_eq!(kind, Kind::Raft, "{context}"),
            Err(SwitchError::InForce { .. }) => {
                assert!(backup.join("MANIFEST").exists(), "{context}");
            }
            Err(error) => {
                let words = error.to_string();
                assert_eq!(kind, Kind::Local, "{context}: {words}");
                assert!(!backup.exists(), "{context}: {words}");
            }
        }
        if kind == Kind::Local {
            // What was in the way is gone.
            switch(&disk, backups.path()).unwrap_or_else(|error| panic!("{context}: {error}"));
            assert_eq!(stopped.check(&disk, &context), Kind::Raft);
        }
    }
}
