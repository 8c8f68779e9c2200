//! Each operation, its revisions, and what it refuses.

use quorate_replicator::Bytes;
use quorate_shard::kv::{
    Compare, Condition, Op, Reply, Scan, Transaction, TransactionOp, TransactionResult,
};
use quorate_shard::limits::{
    DELETE_PREFIX_MAX, DUE_MAX, KEY_BYTES_MAX, REPLY_BYTES_MAX, TRANSACTION_OPS_MAX,
};
use quorate_shard::{Refusal, Shards};

use crate::support::{Bench, Written, shard};

fn bench() -> Bench {
    Bench::new(Shards::builder())
}

fn run(bench: &mut Bench, op: Op<'_>) -> Reply {
    run_in(bench, "acme/orders", op)
}

fn run_in(bench: &mut Bench, name: &str, op: Op<'_>) -> Reply {
    Reply::decode(&bench.op(&shard(name), op.encode())).unwrap()
}

fn value(bench: &Bench, key: &[u8]) -> Option<Bytes> {
    let got = bench.shards.kv().get(&shard("acme/orders"), key).unwrap();
    got.entry.map(|entry| entry.value)
}

#[test]
fn revisions_count_what_changed_and_keys_remember_theirs() {
    let mut bench = bench();
    assert_eq!(run(&mut bench, Op::delete(b"a")), Reply::Deleted { revision: 0, existed: false });
    assert_eq!(bench.shards.count(), 0, "a delete of nothing makes no namespace");
    assert_eq!(run(&mut bench, Op::put(b"a", b"1")), Reply::Put { revision: 1, created: 1 });
    assert_eq!(run(&mut bench, Op::put(b"b", b"")), Reply::Put { revision: 2, created: 2 });
    assert_eq!(run(&mut bench, Op::put(b"a", b"2")), Reply::Put { revision: 3, created: 1 });
    let got = bench.shards.kv().get(&shard("acme/orders"), b"a").unwrap();
    let entry = got.entry.unwrap();
    assert_eq!((got.revision, entry.created, entry.modified), (3, 1, 3));
    assert_eq!((&entry.key[..], &entry.value[..], entry.expires), (&b"a"[..], &b"2"[..], None));
    assert_eq!(run(&mut bench, Op::delete(b"a")), Reply::Deleted { revision: 4, existed: true });
    assert_eq!(run(&mut bench, Op::delete(b"a")), Reply::Deleted { revision: 4, existed: false });
    assert_eq!(run(&mut bench, Op::put(b"a", b"3")), Reply::Put { revision: 5, created: 5 });
    assert_eq!(value(&bench, b"b").as_deref(), Some(&b""[..]), "a value may be empty");
}

#[test]
fn a_compare_that_fails_changes_nothing_and_tells_the_revision() {
    let mut bench = bench();
    let failed = |revision, actual| Reply::CompareFailed { revision, actual };
    assert_eq!(run(&mut bench, Op::compare_and_swap(b"k", 3, b"x")), failed(0, 0));
    assert_eq!(bench.shards.count(), 0);
    let made = run(&mut bench, Op::compare_and_swap(b"k", 0, b"1"));
    assert_eq!(made, Reply::Put { revision: 1, created: 1 });
    assert_eq!(run(&mut bench, Op::compare_and_swap(b"k", 0, b"2")), failed(1, 1));
    assert_eq!(run(&mut bench, Op::compare_and_swap(b"k", 2, b"2")), failed(1, 1));
    let swapped = run(&mut bench, Op::compare_and_swap(b"k", 1, b"2"));
    assert_eq!(swapped, Reply::Put { revision: 2, created: 1 });

    for (condition, there, not_there) in [
        (Condition::Missing, false, true),
        (Condition::Exists, true, false),
        (Condition::Revision(2), true, false),
        (Condition::Revision(1), false, false),
        (Condition::Revision(0), false, true),
        (Condition::Value(b"2"), true, false),
        (Condition::Value(b"1"), false, false),
        (Condition::Value(b""), false, false),
    ] {
        for (key, holds) in [(&b"k"[..], there), (b"none", not_there)] {
            let compare = vec![Compare { key, condition }];
            let transaction = Transaction { compare, ..Transaction::default() };
            let Reply::Transaction(reply) = run(&mut bench, Op::Transaction(transaction)) else {
                panic!("a transaction answers as one");
            };
            assert_eq!((reply.succeeded, reply.revision), (holds, 2), "{condition:?} of {key:?}");
        }
    }
    let condition = Some(Condition::Revision(1));
    assert_eq!(run(&mut bench, Op::Delete { key: b"k", condition }), failed(2, 2));
    let condition = Some(Condition::Value(b"2"));
    let deleted = run(&mut bench, Op::Delete { key: b"k", condition });
    assert_eq!(deleted, Reply::Deleted { revision: 3, existed: true });
}

#[test]
fn a_transaction_takes_one_revision_and_reads_its_own_writes() {
    let mut bench = bench();
    run(&mut bench, Op::put(b"a", b"1"));
    let transaction = Transaction {
        compare: vec![
            Compare { key: b"a", condition: Condition::Value(b"1") },
            Compare { key: b"b", condition: Condition::Missing },
        ],
        then: vec![
            TransactionOp::Put { key: b"b", value: b"2", ttl_ms: None },
            TransactionOp::Get { key: b"b" },
            TransactionOp::Delete { key: b"a" },
            TransactionOp::Get { key: b"a" },
            TransactionOp::Delete { key: b"a" },
        ],
        otherwise: vec![TransactionOp::Get { key: b"a" }],
    };
    let Reply::Transaction(reply) = run(&mut bench, Op::Transaction(transaction.clone())) else {
        panic!("a transaction answers as one");
    };
    assert_eq!((reply.revision, reply.succeeded), (2, true));
    let [put, Got(Some(entry)), deleted, missing, again] = &reply.results[..] else {
        panic!("five steps, five results: {reply:?}");
    };
    use TransactionResult::{Deleted, Got, Put};
    assert_eq!((put, deleted), (&Put { created: 2 }, &Deleted { existed: true }));
    assert_eq!((missing, again), (&Got(None), &Deleted { existed: false }));
    assert_eq!((&entry.value[..], entry.created, entry.modified), (&b"2"[..], 2, 2));

    // The same again takes the other way, reads only, and so takes no revision.
    let Reply::Transaction(reply) = run(&mut bench, Op::Transaction(transaction)) else {
        panic!("a transaction answers as one");
    };
    assert_eq!((reply.revision, reply.succeeded, &reply.results[..]), (2, false, &[Got(None)][..]));
}

#[test]
fn a_refused_transaction_leaves_nothing_behind() {
    let mut bench = Bench::new(Shards::builder().limit(|limits| limits.state_bytes_max = 4000));
    run(&mut bench, Op::put(b"a", b"old"));
    let passing = Op::Put { key: b"t", value: b"", ttl_ms: Some(5), condition: None };
    run(&mut bench, passing);
    bench.checkpoint();
    let before = (bench.shards.state_bytes(), bench.store.clone());
    let long = vec![0; 4000];
    let transaction = Transaction {
        then: vec![
            TransactionOp::Put { key: b"a", value: b"new", ttl_ms: Some(1) },
            TransactionOp::Delete { key: b"t" },
            TransactionOp::Put { key: b"b", value: b"new", ttl_ms: None },
            TransactionOp::Delete { key: b"b" },
            TransactionOp::Put { key: b"t", value: b"", ttl_ms: None },
            TransactionOp::Put { key: b"c", value: &long, ttl_ms: None },
        ],
        ..Transaction::default()
    };
    let reply = run(&mut bench, Op::Transaction(transaction));
    assert_eq!(reply, Reply::Refused(Refusal::StateFull { limit: 4000 }));
    bench.checkpoint();
    assert_eq!((bench.shards.state_bytes(), bench.store.clone()), before);
    assert_eq!(value(&bench, b"a").as_deref(), Some(&b"old"[..]));
    assert_eq!(bench.shards.kv().revision(&shard("acme/orders")).unwrap(), 2);
    // Deadlines are as they were, too: the one of `t` is due, and none of `a` is.
    bench.pass(10);
    assert_eq!((value(&bench, b"a").is_some(), value(&bench, b"t")), (true, None));
}

#[test]
fn a_transaction_cannot_read_more_than_a_reply_holds() {
    let mut bench = bench();
    let half = vec![1; REPLY_BYTES_MAX / 2];
    run(&mut bench, Op::put(b"a", &half));
    let transaction = |gets: usize| Transaction {
        then: [
            vec![TransactionOp::Put { key: b"b", value: b"", ttl_ms: None }],
            vec![TransactionOp::Get { key: b"a" }; gets],
        ]
        .concat(),
        ..Transaction::default()
    };
    let refused = run(&mut bench, Op::Transaction(transaction(2)));
    let limit = REPLY_BYTES_MAX as u64;
    assert_eq!(refused, Reply::Refused(Refusal::ReplyTooLarge { limit }));
    assert_eq!(value(&bench, b"b"), None);
    let done = run(&mut bench, Op::Transaction(transaction(1)));
    assert!(matches!(done, Reply::Transaction(reply) if reply.results.len() == 2));
}

#[test]
fn delete_by_prefix_says_how_many_and_whether_more_remain() {
    let mut bench = bench();
    for key in [&b"a/1"[..], b"a/2", b"a/3", b"a", b"b", b"a0", b"\xff", b"\xff\xff"] {
        run(&mut bench, Op::put(key, b""));
    }
    let some = Op::DeletePrefix { prefix: b"a/", keys_max: 2 };
    let deleted = |revision, removed, more| Reply::PrefixDeleted { revision, removed, more };
    assert_eq!(run(&mut bench, some), deleted(9, 2, true));
    assert_eq!((value(&bench, b"a/2"), value(&bench, b"a/3").is_some()), (None, true));
    assert_eq!(run(&mut bench, Op::delete_prefix(b"a/")), deleted(10, 1, false));
    assert_eq!(run(&mut bench, Op::delete_prefix(b"a/")), deleted(10, 0, false));
    assert_eq!(run(&mut bench, Op::delete_prefix(b"\xff")), deleted(11, 2, false));
    assert!(value(&bench, b"a").is_some() && value(&bench, b"a0").is_some());
    assert_eq!(run(&mut bench, Op::delete_prefix(b"")), deleted(12, 3, false));
    assert_eq!(run_in(&mut bench, "acme/none", Op::delete_prefix(b"")), deleted(0, 0, false));

    let mut keys = 0..DELETE_PREFIX_MAX + 1;
    let ops =
        keys.by_ref().map(|key| (shard("acme/many"), Op::put(&key.to_be_bytes(), b"").encode()));
    bench.apply(&Written { log_time: bench.log_time, ops: ops.collect() });
    let all = |bench: &mut Bench| run_in(bench, "acme/many", Op::delete_prefix(b""));
    assert_eq!(all(&mut bench), deleted(10_002, 10_000, true));
    assert_eq!(all(&mut bench), deleted(10_003, 1, false));
}

#[test]
fn keys_expire_by_log_time_each_with_a_revision() {
    let mut bench = bench();
    let put = |key, ttl_ms| Op::Put { key, value: b"v", ttl_ms, condition: None };
    run(&mut bench, put(b"a", Some(10)));
    run(&mut bench, put(b"b", Some(10)));
    run(&mut bench, put(b"c", Some(20)));
    run(&mut bench, put(b"d", Some(5)));
    run(&mut bench, put(b"d", None));
    let orders = shard("acme/orders");
    let deadline = |bench: &Bench| {
        quorate_replicator::StateMachine::next_deadline(&bench.machine).map(|at| at.as_ms())
    };
    assert_eq!(deadline(&bench), Some(10));
    bench.pass(9);
    assert_eq!(bench.shards.kv().revision(&orders).unwrap(), 5);
    bench.pass(1);
    assert_eq!((value(&bench, b"a"), value(&bench, b"b")), (None, None));
    assert!(value(&bench, b"c").is_some() && value(&bench, b"d").is_some());
    assert_eq!(bench.shards.kv().revision(&orders).unwrap(), 7);
    // Expiry comes before the frames of the batch: the key is not there for them.
    let swap = Op::compare_and_swap(b"c", 0, b"new").encode();
    let written =
        Written { log_time: bench.log_time.plus_ms(10), ops: vec![(orders.clone(), swap)] };
    let reply = Reply::decode(&bench.apply(&written)[0]).unwrap();
    assert_eq!(reply, Reply::Put { revision: 9, created: 9 });
    assert_eq!(deadline(&bench), None);
    // The end of time is far, and not passed.
    run(&mut bench, put(b"e", Some(u64::MAX)));
    assert_eq!(deadline(&bench), Some(u64::MAX));
    assert_eq!(run(&mut bench, put(b"e", Some(0))), malformed());
}

fn malformed() -> Reply {
    Reply::Refused(Refusal::malformed("a time to live is at least one millisecond"))
}

#[test]
fn many_due_keys_are_handled_over_several_batches() {
    let mut bench = bench();
    let more = 100;
    let ops = (0..(DUE_MAX + more) as u32).map(|key| {
        let op = Op::Put { key: &key.to_be_bytes(), value: b"", ttl_ms: Some(1), condition: None };
        (shard("acme/orders"), op.encode())
    });
    bench.apply(&Written { log_time: bench.log_time, ops: ops.collect() });
    let keys =
        |bench: &Bench| bench.shards.kv().namespaces("acme", None, 1).unwrap().namespaces[0].keys;
    bench.pass(1);
    assert_eq!(keys(&bench), Some(more as u64));
    let due = quorate_replicator::StateMachine::next_deadline(&bench.machine).unwrap();
    assert!(due <= bench.log_time, "the rest stay due");
    bench.pass(0);
    assert_eq!(keys(&bench), Some(0));
}

#[test]
fn what_cannot_be_a_key_is_refused() {
    let mut bench = bench();
    let longest = vec![b'k'; KEY_BYTES_MAX];
    let longer = vec![b'k'; KEY_BYTES_MAX + 1];
    assert_eq!(run(&mut bench, Op::put(&longest, b"v")), Reply::Put { revision: 1, created: 1 });
    assert_eq!(value(&bench, &longest).as_deref(), Some(&b"v"[..]));
    let bytes = longer.len() as u64;
    for (key, refusal) in
        [(&b""[..], Refusal::KeyEmpty), (&longer[..], Refusal::KeyTooLarge { bytes })]
    {
        let step = TransactionOp::Get { key };
        for op in [
            Op::put(key, b""),
            Op::delete(key),
            Op::Transaction(Transaction { then: vec![step], ..Transaction::default() }),
            Op::Transaction(Transaction { otherwise: vec![step], ..Transaction::default() }),
            Op::Transaction(Transaction {
                compare: vec![Compare { key, condition: Condition::Exists }],
                ..Transaction::default()
            }),
        ] {
            assert_eq!(op.check(), Err(refusal.clone()));
            assert_eq!(run(&mut bench, op), Reply::Refused(refusal.clone()));
        }
    }
    let too_many = Refusal::TooMany {
        what: "number of keys to delete by prefix".into(),
        count: 10_001,
        limit: 10_000,
    };
    let op = Op::DeletePrefix { prefix: b"", keys_max: 10_001 };
    assert_eq!(run(&mut bench, op), Reply::Refused(too_many));
    let none = run(&mut bench, Op::DeletePrefix { prefix: b"", keys_max: 0 });
    assert!(matches!(none, Reply::Refused(Refusal::Malformed { .. })));
    let steps = vec![TransactionOp::Get { key: b"k" }; TRANSACTION_OPS_MAX + 1];
    let op = Op::Transaction(Transaction { then: steps, ..Transaction::default() });
    assert!(matches!(op.check(), Err(Refusal::TooMany { count: 129, limit: 128, .. })));
    assert!(matches!(run(&mut bench, op), Reply::Refused(Refusal::Malformed { .. })));
}

#[test]
fn shards_do_not_see_each_other() {
    let mut bench = bench();
    let names = ["a/b", "a/bb", "a/b.c", "ab/c", "b/a", "a!/b"];
    for (name, count) in names.iter().zip(1..) {
        for round in 0..count {
            run_in(&mut bench, name, Op::put(b"key", format!("{name} {round}").as_bytes()));
        }
    }
    run_in(&mut bench, "a/b", Op::delete_prefix(b""));
    let kv = bench.shards.kv();
    for (name, count) in names.iter().zip(1..).skip(1) {
        let page = kv.scan(&shard(name), &Scan::all()).unwrap();
        assert_eq!((page.revision, page.entries.len()), (count, 1), "{name}");
        assert_eq!(page.entries[0].value, format!("{name} {}", count - 1));
    }
    let of = |org| -> Vec<_> {
        let page = kv.namespaces(org, None, 10).unwrap();
        let keys = |namespace: &quorate_shard::kv::Namespace| namespace.keys.unwrap();
        page.namespaces
            .iter()
            .map(|n| (n.shard.namespace().to_owned(), n.revision, keys(n)))
            .collect()
    };
    // The empty one stays: its revision must not begin anew.
    assert_eq!(of("a"), [("b".into(), 2, 0), ("b.c".into(), 3, 1), ("bb".into(), 2, 1)]);
    assert_eq!((of("a!").len(), of("b").len(), of("c").len(), of("a/b").len()), (1, 1, 0, 0));
}

#[test]
fn a_full_state_refuses_growth_and_lets_deletes_pass() {
    let limit = 20_000;
    let mut bench = Bench::new(Shards::builder().limit(|limits| limits.state_bytes_max = limit));
    let full = Reply::Refused(Refusal::StateFull { limit });
    let mut keys = 0_u32;
    let reply = loop {
        let reply = run(&mut bench, Op::put(&keys.to_be_bytes(), &[0; 100]));
        assert!(bench.shards.state_bytes() <= limit);
        if !matches!(reply, Reply::Put { .. }) {
            break reply;
        }
        keys += 1;
    };
    assert_eq!(reply, full);
    assert!(keys > 50, "changes made room for {keys} rows");
    assert_eq!(run_in(&mut bench, "acme/new", Op::put(b"k", b"")), full, "nor a new namespace");
    assert_eq!(bench.shards.count(), 1);
    // What does not grow passes, and so does what shrinks.
    let revision = u64::from(keys);
    let same = run(&mut bench, Op::put(&0_u32.to_be_bytes(), &[1; 100]));
    assert_eq!(same, Reply::Put { revision: revision + 1, created: 1 });
    assert_eq!(run(&mut bench, Op::put(&0_u32.to_be_bytes(), &[1; 101 + 300])), full);
    let deleted = run(&mut bench, Op::delete(&1_u32.to_be_bytes()));
    assert_eq!(deleted, Reply::Deleted { revision: revision + 2, existed: true });
    let put = run(&mut bench, Op::put(&1_u32.to_be_bytes(), &[1; 100]));
    assert!(matches!(put, Reply::Put { .. }), "{put:?}");
    assert!(bench.shards.state_bytes() <= limit);
    run(&mut bench, Op::delete_prefix(b""));
    assert!(matches!(run_in(&mut bench, "acme/new", Op::put(b"k", b"")), Reply::Put { .. }));
}
