//! The thread around the log.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use quorate_storage::{
    Body, Disk, Entry, Fault, Group, Health, Log, LogConfig, LogError, LogMode, LogThread,
    MemoryDisk, Opening, RealDisk, Record, Seq, SimDisk, Tag,
};

type Told = Result<Vec<(Group, Seq)>, LogError>;

fn open(disk: Arc<dyn Disk>, config: LogConfig) -> Log {
    let opening =
        Opening { store: [7; 16], durable_lsn: 0, floors: BTreeMap::new(), mode: LogMode::Create };
    Log::open(disk, config, &opening).unwrap().0
}

fn start(disk: Arc<dyn Disk>, config: LogConfig) -> (LogThread, Receiver<Told>) {
    let (tell, told) = channel();
    let on_durable = move |result: Result<&[(Group, Seq)], &LogError>| {
        // A test that has seen enough listens no more.
        drop(tell.send(result.map(<[_]>::to_vec).map_err(Clone::clone)));
    };
    (LogThread::start(open(disk, config), Box::new(on_durable)).unwrap(), told)
}

fn put(index: u64, bytes: usize) -> Record {
    let body = Body::Frames(Bytes::from(vec![index as u8; bytes]));
    Record::Put(Entry { index, tag: Tag::ZERO, head: Bytes::new(), body })
}

fn wait_for(told: &Receiver<Told>, group: Group, seq: Seq) {
    loop {
        let durable = told.recv().unwrap().unwrap();
        if durable.contains(&(group, seq)) {
            return;
        }
    }
}

#[test]
fn many_submitters_are_told_once_and_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(dir.path()));
    let (tell, told) = channel();
    let last: Mutex<BTreeMap<Group, Seq>> = Mutex::default();
    let on_durable = move |result: Result<&[(Group, Seq)], &LogError>| {
        let mut last = last.lock().unwrap();
        for &(group, seq) in result.unwrap() {
            let before = last.insert(group, seq).unwrap_or(0);
            assert!(before < seq, "{group:?}: {seq} after {before}");
            if seq == 500 {
                tell.send(group).unwrap();
            }
        }
    };
    let log = open(Arc::clone(&disk), LogConfig::small());
    let thread = Arc::new(LogThread::start(log, Box::new(on_durable)).unwrap());
    let submitters: Vec<_> = (0..8)
        .map(|group| {
            let thread = Arc::clone(&thread);
            std::thread::spawn(move || {
                for seq in 1..=500 {
                    while let Err(error) =
                        thread.submit(Group::new(group), vec![(seq, true, put(seq, 100))])
                    {
                        assert!(matches!(error, LogError::Overloaded { .. }), "{error}");
                        std::thread::yield_now();
                    }
                }
            })
        })
        .collect();
    submitters.into_iter().for_each(|submitter| submitter.join().unwrap());
    let mut done: Vec<Group> = (0..8).map(|_| told.recv().unwrap()).collect();
    done.sort();
    assert_eq!(done, (0..8).map(Group::new).collect::<Vec<_>>());
    let reader = thread.reader();
    Arc::into_inner(thread).unwrap().close().unwrap();
    for group in (0..8).map(Group::new) {
        let entries = reader.read(group, 1..501, usize::MAX).unwrap();
        assert_eq!(entries.len(), 500);
    }
}

#[test]
fn close_makes_durable_what_need_not_be_flushed() {
    let disk = Arc::new(MemoryDisk::new());
    let (thread, told) = start(Arc::clone(&disk) as Arc<dyn Disk>, LogConfig::small());
    let group = Group::new(1);
    thread.submit(group, vec![(1, false, put(1, 10)), (2, false, put(2, 10))]).unwrap();
    thread.close().unwrap();
    wait_for(&told, group, 2);
    assert_eq!(open(disk, LogConfig::small()).reader().last(group), 2);
}

#[test]
fn an_overloaded_log_says_so_and_takes_nothing() {
    let (release, released) = channel::<()>();
    let (tell, told) = channel();
    // The writer is held in its first report, so that what follows has to wait.
    let on_durable = move |result: Result<&[(Group, Seq)], &LogError>| {
        tell.send(result.unwrap().to_vec()).unwrap();
        // An error is the release: the other end is gone.
        let _ = released.recv();
    };
    let log = open(Arc::new(MemoryDisk::new()), LogConfig::small());
    let thread = LogThread::start(log, Box::new(on_durable)).unwrap();
    let group = Group::new(1);
    thread.submit(group, vec![(1, true, put(1, 10))]).unwrap();
    assert_eq!(told.recv().unwrap(), [(group, 1)]);
    let mut seq = 1;
    let error = loop {
        match thread.submit(group, vec![(seq + 1, true, put(seq + 1, 4000))]) {
            Ok(()) => seq += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, LogError::Overloaded { max: 262_144, .. }), "{error}");
    assert!(seq > 60, "what is allowed to wait has been taken: {seq}");
    drop(release);
    let last = told.iter().flatten().find(|&(_, durable)| durable == seq);
    assert_eq!(last, Some((group, seq)));
    thread.close().unwrap();
}

#[test]
fn a_failed_sync_is_told_once_and_ends_the_log() {
    let disk = SimDisk::new(1);
    let (thread, told) = start(Arc::new(disk.clone()), LogConfig::small());
    let group = Group::new(1);
    thread.submit(group, vec![(1, true, put(1, 10))]).unwrap();
    wait_for(&told, group, 1);
    for op in disk.ops()..disk.ops() + 1000 {
        disk.fail_at(op, Fault::Eio);
    }
    // The filler may have met the fault already.
    drop(thread.submit(group, vec![(2, true, put(2, 10))]));
    assert!(matches!(told.recv().unwrap(), Err(LogError::Faulted { .. })));
    assert!(matches!(thread.health(), Health::Faulted { .. }));
    let again = thread.submit(group, vec![(3, true, put(3, 10))]);
    assert!(matches!(again, Err(LogError::Faulted { .. })));
    assert!(matches!(thread.close(), Err(LogError::Faulted { .. })));
    assert!(told.recv().is_err(), "it is told once");
}

#[test]
fn a_full_disk_is_waited_out() {
    let disk = SimDisk::new(1);
    let (thread, told) = start(Arc::new(disk.clone()), LogConfig::small());
    let group = Group::new(1);
    let mut seq = 0;
    disk.set_capacity(Some(4 * (32 << 10)));
    loop {
        match thread.submit(group, vec![(seq + 1, true, put(seq + 1, 3000))]) {
            Ok(()) => {
                seq += 1;
                // The last ones may find no room before the submitter hears of it.
                assert!(seq < 1000, "the disk is full by now");
            }
            Err(LogError::Full) => break,
            Err(LogError::Overloaded { .. }) => std::thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(thread.health(), Health::Full);
    disk.set_capacity(None);
    wait_for(&told, group, seq);
    loop {
        match thread.submit(group, vec![(seq + 1, true, put(seq + 1, 3000))]) {
            Ok(()) => break,
            Err(LogError::Full | LogError::Overloaded { .. }) => std::thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    }
    wait_for(&told, group, seq + 1);
    thread.close().unwrap();
}
