//! Checkpoints: what they hold, and what is refused in one.

use std::sync::atomic::{AtomicBool, Ordering};

use quorate_replicator::{Bytes, StateMachine};
use quorate_shard::Shards;
use quorate_shard::kv::{Op, Reply, Scan};

use crate::support::{Bench, shard};

fn small() -> Bench {
    let mut bench = Bench::new(Shards::builder());
    let put = |key, ttl_ms| Op::Put { key, value: b"value", ttl_ms, condition: None };
    bench.op(&shard("acme/orders"), put(&b"a"[..], None).encode());
    bench.op(&shard("acme/orders"), put(b"b", Some(100)).encode());
    bench.op(&shard("acme/users"), put(b"c", None).encode());
    bench.checkpoint();
    bench
}

#[test]
fn a_reader_keeps_the_old_state_until_the_new_one_is_whole() {
    let mut bench = small();
    let shards = bench.shards.clone();
    let mut other = Bench::new(Shards::builder());
    other.op(&shard("acme/other"), Op::put(b"x", b"y").encode());
    other.checkpoint();
    bench.machine.restore(&mut other.store.reader()).unwrap();
    // The handle that was given out before reads the new state.
    assert_eq!(shards.namespaces("acme", None, 10), [shard("acme/other")]);
    assert_eq!(shards.kv().revision(&shard("acme/orders")).unwrap(), 0);
    assert_eq!(shards.state_bytes(), other.shards.state_bytes());
    let reply = bench.op(&shard("acme/other"), Op::put(b"x", b"z").encode());
    assert_eq!(Reply::decode(&reply).unwrap(), Reply::Put { revision: 2, created: 1 });
}

#[test]
fn a_damaged_checkpoint_is_refused_and_changes_nothing() {
    let good = small();
    let find = |part: &[u8]| -> Bytes {
        let mut keys = good.store.0.keys();
        keys.find(|key| key.windows(part.len()).any(|window| window == part)).unwrap().clone()
    };
    let head = find(b"orders\0\0");
    let row = find(b"orders\0\x01a");
    let change = find(b"orders\0\xff");
    type Damage<'a> = Box<dyn Fn(&mut Bench) + 'a>;
    let cut = |key: &Bytes| -> Damage<'_> {
        let key = key.clone();
        Box::new(move |bench| {
            let value = bench.store.0.get_mut(&key).unwrap();
            *value = value.slice(..value.len() - 1);
        })
    };
    let empty = |key: &Bytes| -> Damage<'_> {
        let key = key.clone();
        Box::new(move |bench| drop(bench.store.0.insert(key.clone(), Bytes::new())))
    };
    let without = |key: &Bytes| -> Damage<'_> {
        let key = key.clone();
        Box::new(move |bench| drop(bench.store.0.remove(&key)))
    };
    let format = Bytes::from_static(&[0]);
    let damages: Vec<(&str, Damage<'_>)> = vec![
        ("format", without(&format)),
        ("format", cut(&format)),
        (
            "newer",
            Box::new(|bench| {
                drop(bench.store.0.insert(Bytes::from_static(&[0]), vec![2, 0, 0, 0].into()))
            }),
        ),
        ("head of shard acme/orders", without(&head)),
        ("head of shard acme/orders", cut(&head)),
        ("head of shard acme/orders", empty(&head)),
        ("row of shard acme/orders", empty(&row)),
        ("row count of shard acme/orders", cut(&row)),
        ("row count of shard acme/orders", without(&row)),
        ("change list of shard acme/orders", without(&change)),
        ("change of shard acme/orders", empty(&change)),
        ("row count of shard acme/orders", cut(&change)),
        (
            "none of a shard",
            Box::new(|bench| drop(bench.store.0.insert("stray".into(), Bytes::new()))),
        ),
        (
            "table 9, which belongs to no extension",
            Box::new(|bench| {
                let key = Bytes::from_static(b"\x01acme\0orders\0\x09key");
                drop(bench.store.0.insert(key, vec![0; 30].into()));
            }),
        ),
    ];
    for (expected, damage) in damages {
        let mut bench = small();
        damage(&mut bench);
        let state = (bench.shards.state_bytes(), bench.machine.next_deadline());
        let error = bench.machine.restore(&mut bench.store.reader()).unwrap_err().to_string();
        assert!(error.contains(expected), "{expected:?} is not in {error:?}");
        assert_eq!((bench.shards.state_bytes(), bench.machine.next_deadline()), state);
        assert_eq!(bench.shards.kv().revision(&shard("acme/orders")).unwrap(), 2);
    }
}

#[test]
fn a_checkpoint_without_changes_holds_no_rows() {
    let mut bench = small();
    let pairs: Vec<_> = bench.machine.begin_checkpoint().collect();
    assert_eq!(pairs.len(), 1, "{pairs:?}");
    // One change writes its row, its change and the head, whatever else there is.
    bench.op(&shard("acme/orders"), Op::put(b"a", b"new").encode());
    bench.op(&shard("acme/orders"), Op::put(b"a", b"newer").encode());
    let pairs: Vec<_> = bench.machine.begin_checkpoint().collect();
    assert_eq!(pairs.len(), 1 + 1 + 2 + 1, "{pairs:?}");
}

#[test]
fn pairs_show_the_moment_of_the_checkpoint_however_late_they_are_read() {
    let mut bench = small();
    bench.op(&shard("acme/orders"), Op::put(b"a", b"at the checkpoint").encode());
    let pairs = bench.machine.begin_checkpoint();
    bench.op(&shard("acme/orders"), Op::put(b"a", b"later").encode());
    bench.op(&shard("acme/orders"), Op::delete(b"b").encode());
    bench.store.merge(pairs);
    let restored = bench.restored(Shards::builder());
    let got = restored.shards.kv().get(&shard("acme/orders"), b"a").unwrap();
    assert_eq!(got.revision, 3);
    assert_eq!(got.entry.unwrap().value, "at the checkpoint");
    assert!(restored.machine.next_deadline().is_some());
}

#[test]
fn readers_see_the_old_state_or_the_new_one_while_states_are_installed() {
    const KEYS: usize = 200;
    const NAMESPACES: [&str; 3] = ["acme/a", "acme/b", "acme/c"];
    // Two states of the same namespaces: of each, all keys have the same value, and the revision says which.
    let state = |value: &[u8], rounds: u64| {
        let mut bench = Bench::new(Shards::builder());
        for _ in 0..rounds {
            for (name, key) in
                NAMESPACES.iter().flat_map(|name| (0..KEYS).map(move |key| (name, key)))
            {
                bench.op(&shard(name), Op::put(format!("{key:04}").as_bytes(), value).encode());
            }
        }
        bench.checkpoint();
        bench
    };
    let states = [state(b"old", 1), state(b"new", 2)];
    let mut bench = states[0].restored(Shards::builder());
    let shards = bench.shards.clone();
    let done = AtomicBool::new(false);
    let read = || {
        while !done.load(Ordering::Acquire) {
            for name in NAMESPACES {
                let page = shards.kv().scan(&shard(name), &Scan::all()).unwrap();
                assert_eq!(page.entries.len(), KEYS, "never a state that is not whole");
                let value = match page.revision / KEYS as u64 {
                    1 => "old",
                    2 => "new",
                    _ => panic!("revision {} is of neither state", page.revision),
                };
                assert!(page.entries.iter().all(|entry| entry.value == value), "a mixed state");
            }
            assert_eq!(shards.namespaces("acme", None, 10).len(), NAMESPACES.len());
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(read);
        }
        let install = |round: usize| bench.machine.restore(&mut states[round % 2].store.reader());
        let installed = (1..=100).try_for_each(install);
        done.store(true, Ordering::Release);
        installed.unwrap();
    });
}
