//! What is refused, with the reason and the way out, and nothing changed.

use std::path::Path;
use std::sync::Arc;

use quorate_host::{SwitchError, SwitchOptions};
use quorate_replicator::{Durability, MemberChange, NodeId, OpenError};
use quorate_shard::Shards;
use quorate_storage::{Keep, SimDisk};

use crate::life::{Home, Kind, LONG, Told, backup_in, node};
use crate::raft_cluster::RaftCluster;
use crate::subscribers::compacted;

/// A stopped local node with something in it.
async fn stopped(path: &Path) -> (Home, Told) {
    let home = Home::new(path);
    let mut told = Told::new(100);
    let (local, _) = home.open(Kind::Local).await.unwrap();
    told.open_session(&local).await;
    told.put(&local, 30).await;
    local.close().await.unwrap();
    (home, told)
}

fn refused(home: &Home, to: Kind, options: &SwitchOptions) -> (SwitchError, String) {
    let error = home.switch(to, options).unwrap_err();
    let words = error.to_string();
    (error, words)
}

/// The names beside and in a directory.
fn names(path: &Path) -> Vec<String> {
    let names = |path: &Path| {
        let names = std::fs::read_dir(path).unwrap();
        names.map(|name| name.unwrap().file_name().into_string().unwrap()).collect::<Vec<_>>()
    };
    let mut names = [names(path), names(path.parent().unwrap())].concat();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_is_in_use_or_has_the_driver_or_none() {
    let directory = tempfile::tempdir().unwrap();
    let (home, told) = stopped(&directory.path().join("n1")).await;
    let (local, shards) = home.open(Kind::Local).await.unwrap();
    let (_, words) = refused(&home, Kind::Raft, &SwitchOptions::default());
    assert!(words.contains("is in use: stop the node"), "{words}");
    told.check(&local, &shards).await;
    local.close().await.unwrap();
    let before = names(&home.path);

    let options = SwitchOptions::default();
    let same = home.switch_from(Kind::Local, Kind::Local, &options).unwrap_err();
    assert!(matches!(same, SwitchError::Same { .. }), "{same}");
    let other = home.switch_from(Kind::Raft, Kind::Local, &options).unwrap_err().to_string();
    assert!(other.contains("written by driver `local`"), "{other}");
    let path = home.path.display();
    assert!(
        other.contains(&format!("`quorate driver switch --to raft --data-dir {path}`")),
        "{other}"
    );
    let empty = Home::new(directory.path().join("n2"));
    let (_, words) = refused(&empty, Kind::Raft, &options);
    assert!(words.contains("not set up"), "{words}");
    let mut memory = Home::new(directory.path().join("n1"));
    memory.durability = Durability::Memory;
    let (error, _) = refused(&memory, Kind::Raft, &options);
    assert!(matches!(error, SwitchError::InMemory), "{error}");
    assert_eq!(names(&home.path), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_that_cannot_be_made() {
    let directory = tempfile::tempdir().unwrap();
    let (home, _) = stopped(&directory.path().join("n1")).await;
    let taken = directory.path().join("taken");
    std::fs::create_dir(&taken).unwrap();
    std::fs::write(taken.join("mine"), "x").unwrap();
    let before = names(&home.path);
    for (path, wanted) in [
        (taken.clone(), "is not empty; name one that is new or empty"),
        (taken.join("mine"), "name another with `--backup`"),
        (taken.join("mine").join("below"), "name another with `--backup`"),
    ] {
        let (error, words) = refused(&home, Kind::Raft, &backup_in(&path));
        assert!(matches!(error, SwitchError::Backup { .. }), "{error:?}");
        assert!(words.contains(wanted) && words.contains(path.to_str().unwrap()), "{words}");
    }
    assert_eq!(names(&home.path), before);
    assert_eq!(std::fs::read(taken.join("mine")).unwrap(), b"x");
    home.verify(Kind::Local);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_without_room_or_that_cannot_be_written() {
    let directory = tempfile::tempdir().unwrap();
    let disk = SimDisk::new(1);
    let mut home = Home::new(directory.path().join("n1"));
    home.config.disk = Some(Arc::new(disk.clone()));
    let mut told = Told::new(100);
    let (local, _) = home.open(Kind::Local).await.unwrap();
    told.open_session(&local).await;
    told.put(&local, 30).await;
    local.close().await.unwrap();
    let before = home.verify(Kind::Local);

    disk.set_capacity(Some(disk.used() + (1 << 20)));
    let (error, words) = refused(&home, Kind::Raft, &SwitchOptions::default());
    let SwitchError::Write { data_mib, .. } = error else { panic!("{error:?}") };
    assert!(data_mib >= 64, "a segment of the log at least: {data_mib} MiB");
    assert!(words.contains(&format!("{data_mib} MiB in")), "{words}");
    assert!(words.contains("Nothing was changed"), "{words}");
    assert_eq!(home.verify(Kind::Local), before);
    assert!(!directory.path().join("n1.before-switch-1").exists(), "it is of no use");
    // As much as it said is enough.
    disk.set_capacity(Some(disk.used() + (data_mib << 20)));
    let enough = disk.fork(Keep::All);
    home.config.disk = Some(Arc::new(enough));
    home.switch(Kind::Raft, &SwitchOptions::default()).unwrap();

    home.config.disk = Some(Arc::new(disk.clone()));
    disk.set_read_only(true);
    let (_, words) = refused(&home, Kind::Raft, &SwitchOptions::default());
    assert!(words.contains("read-only"), "{words}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_is_damaged() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("n1");
    let (home, _) = stopped(&path).await;
    home.switch(Kind::Raft, &SwitchOptions::default()).unwrap();
    let (raft, _) = home.open(Kind::Raft).await.unwrap();
    raft.close().await.unwrap();
    let before = names(&path);
    let damage = |file: &Path, from: usize| {
        let whole = std::fs::read(file).unwrap();
        let mut damaged = whole.clone();
        for byte in &mut damaged[from..whole.len().min(1 << 20)] {
            *byte ^= 0x55;
        }
        std::fs::write(file, damaged).unwrap();
        whole
    };
    let data = path.join("switched-1");
    // The head of a file of redb is there twice, and the head of a segment is a sector.
    let files =
        [(data.join("checkpoint/g0.redb"), 4096), (data.join("log/segment-0000000001"), 512)];
    for (file, from) in files {
        let whole = damage(&file, from);
        let (error, words) = refused(&home, Kind::Local, &SwitchOptions::default());
        assert!(matches!(error, SwitchError::Open(OpenError::Corrupt { .. })), "{words}");
        std::fs::write(&file, whole).unwrap();
    }
    let manifest = path.join("MANIFEST");
    let whole = std::fs::read(&manifest).unwrap();
    std::fs::write(&manifest, &whole[1..]).unwrap();
    let (_, words) = refused(&home, Kind::Local, &SwitchOptions::default());
    assert!(words.contains("MANIFEST is damaged"), "{words}");
    std::fs::write(&manifest, whole).unwrap();
    assert_eq!(names(&path), before);
    home.switch(Kind::Local, &SwitchOptions::default()).unwrap();
}

pub(crate) fn cluster(count: u64) -> RaftCluster {
    let maker = Box::new(|| Box::new(Shards::builder().build().0) as _);
    RaftCluster::new(count, Durability::Disk, maker)
}

pub(crate) fn home_of(cluster: &RaftCluster, number: u64) -> Home {
    let mut home = Home::new(cluster.path(node(number)));
    home.config = cluster.config.clone();
    home.node = node(number);
    home
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_cannot_know_all_unless_it_is_told_to_go_on_from_what_it_has() {
    let cluster = cluster(3).open().await;
    let mut told = Told::new(100);
    told.open_session(&cluster.node(node(1))).await;
    told.put(&cluster.node(node(1)), 30).await;
    // What comes now n1 does not hear of.
    cluster.leader().await;
    cluster.stop(node(1)).await;
    let had = told.clone();
    told.put(&cluster.node(node(2)), 20).await;
    cluster.close().await;

    let home = home_of(&cluster, 1);
    let (error, words) = refused(&home, Kind::Local, &SwitchOptions::default());
    assert!(matches!(error, SwitchError::Unsure { .. }), "{words}");
    for part in [
        "n1 is one of 3 voters (n1, n2 and n3)",
        "member remove n2`, `quorate member remove n3`",
        "--from-this-replica",
    ] {
        assert!(words.contains(part), "{words}");
    }
    home.verify(Kind::Raft);

    let mut options = SwitchOptions::default();
    options.from_this_replica = true;
    let report = home.switch(Kind::Local, &options).unwrap();
    let group = &report.groups[0];
    assert!(group.missing.as_ref().unwrap().contains("one of 3 voters"), "{group:?}");
    assert_eq!(group.left_behind, [node(2), node(3)]);
    // Everything that n1 had answered is there.
    let (local, shards) = home.open(Kind::Local).await.unwrap();
    let mut had = had;
    had.repeat(&local).await;
    // What others had at the same positions may have been something else.
    for cursor in [had.cursor(), told.cursor()] {
        assert_eq!(compacted(&local, cursor).await, group.position);
    }
    had.put(&local, 10).await;
    had.check(&local, &shards).await;
    local.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_was_removed_or_never_added() {
    let cluster = cluster(2).open().await;
    let told = Told::new(100);
    told.open_session(&cluster.node(node(1))).await;
    let asked = cluster.node(node(1));
    asked.change_members(MemberChange::Remove { node: node(2) }, LONG).await.unwrap();
    let stranger = cluster.start(NodeId::new(3)).await.unwrap();
    drop((asked, stranger));
    cluster.close().await;
    // What n2 has stored may be of before.
    for (number, wanted) in [(2, "n2 "), (3, "n3 is no member of the group")] {
        let home = home_of(&cluster, number);
        let (error, words) = refused(&home, Kind::Local, &SwitchOptions::default());
        assert!(matches!(error, SwitchError::Unsure { .. }), "{words}");
        assert!(words.contains(wanted) && words.contains("--from-this-replica"), "{words}");
    }
    // And the one that is left is sure.
    let report = home_of(&cluster, 1).switch(Kind::Local, &SwitchOptions::default()).unwrap();
    assert_eq!(report.groups[0].missing, None);
}
