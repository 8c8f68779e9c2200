//! The change list: complete from a revision on, or honest about where it begins.

use quorate_shard::Shards;
use quorate_shard::kv::{Change, Changes, Op, Transaction, TransactionOp};

use crate::support::{Bench, shard};

fn read(bench: &Bench, from: u64, prefix: &[u8], max: usize) -> (Vec<Change>, u64) {
    match bench.shards.kv().changes(&shard("acme/orders"), from, prefix, max).unwrap() {
        Changes::Changes { changes, next, .. } => (changes, next),
        other => panic!("{other:?}"),
    }
}

/// Revision, key, and the value that was written.
type Plain<'a> = (u64, &'a [u8], Option<&'a [u8]>);

fn plain(changes: &[Change]) -> Vec<Plain<'_>> {
    changes
        .iter()
        .map(|change| {
            assert!(change.entry.as_ref().is_none_or(|entry| entry.key == change.key));
            let value = change.entry.as_ref().map(|entry| &entry.value[..]);
            (change.revision, &change.key[..], value)
        })
        .collect()
}

fn run(bench: &mut Bench, op: Op<'_>) {
    bench.op(&shard("acme/orders"), op.encode());
}

#[test]
fn changes_are_given_in_order_by_prefix_and_whole_revisions() {
    let mut bench = Bench::new(Shards::builder());
    assert_eq!(read(&bench, 0, b"", 10), (vec![], 1));
    run(&mut bench, Op::put(b"a/1", b"x"));
    run(&mut bench, Op::put(b"b/1", b"y"));
    let passing = Op::Put { key: b"a/2", value: b"z", ttl_ms: Some(5), condition: None };
    run(&mut bench, passing);
    let then = vec![
        TransactionOp::Put { key: b"a/1", value: b"xx", ttl_ms: None },
        TransactionOp::Put { key: b"b/1", value: b"yy", ttl_ms: None },
        TransactionOp::Delete { key: b"b/1" },
    ];
    run(&mut bench, Op::Transaction(Transaction { then, ..Transaction::default() }));
    bench.pass(5);
    run(&mut bench, Op::delete_prefix(b""));
    let all: Vec<Plain<'_>> = vec![
        (1, b"a/1", Some(b"x")),
        (2, b"b/1", Some(b"y")),
        (3, b"a/2", Some(b"z")),
        (4, b"a/1", Some(b"xx")),
        (4, b"b/1", Some(b"yy")),
        (4, b"b/1", None),
        (5, b"a/2", None),
        (6, b"a/1", None),
    ];
    for from in 0..8 {
        let wanted: Vec<_> = all.iter().filter(|change| change.0 >= from).copied().collect();
        let (changes, next) = read(&bench, from, b"", 100);
        assert_eq!((plain(&changes), next), (wanted, 7));
        let a: Vec<_> =
            all.iter().filter(|change| change.0 >= from && change.1[0] == b'a').copied().collect();
        assert_eq!(plain(&read(&bench, from, b"a/", 100).0), a);
    }
    // A page of one change takes all three of a revision.
    let (changes, next) = read(&bench, 4, b"", 1);
    assert_eq!((changes.len(), next), (3, 5));
    let (changes, next) = read(&bench, 1, b"", 4);
    assert_eq!((changes.len(), next), (6, 5));
    // Ahead of what there is, one waits at the same revision.
    assert_eq!(read(&bench, 9, b"", 10), (vec![], 9));
}

#[test]
fn what_was_dropped_is_said_and_never_skipped() {
    let orders = shard("acme/orders");
    let mut bench = Bench::new(Shards::builder().limit(|limits| limits.changes_max = 4));
    let oldest =
        |bench: &Bench, from| match bench.shards.kv().changes(&orders, from, b"", 9).unwrap() {
            Changes::Compacted { oldest } => Some(oldest),
            _ => None,
        };
    for value in 0..4 {
        run(&mut bench, Op::put(b"k", &[value]));
        assert_eq!(oldest(&bench, 1), None);
    }
    run(&mut bench, Op::put(b"k", b"5"));
    assert_eq!((oldest(&bench, 0), oldest(&bench, 1), oldest(&bench, 2)), (Some(2), Some(2), None));
    // Revision 6 has three changes; when one of them is dropped, the revision cannot be given any more.
    let put = |key| TransactionOp::Put { key, value: b"", ttl_ms: None };
    let then = vec![put(&b"a"[..]), put(b"b"), put(b"c")];
    run(&mut bench, Op::Transaction(Transaction { then, ..Transaction::default() }));
    assert_eq!((oldest(&bench, 4), oldest(&bench, 5)), (Some(5), None));
    assert_eq!(read(&bench, 5, b"", 9).0.len(), 4);
    run(&mut bench, Op::delete(b"a"));
    run(&mut bench, Op::delete(b"b"));
    assert_eq!((oldest(&bench, 6), oldest(&bench, 7)), (Some(7), None));
    assert_eq!(read(&bench, 7, b"", 9).0.len(), 2);
    // A revision that is larger than the list leaves nothing of itself.
    let keys = [&b"1"[..], b"2", b"3", b"4", b"5"];
    let then = keys.map(put).to_vec();
    run(&mut bench, Op::Transaction(Transaction { then, ..Transaction::default() }));
    assert_eq!((oldest(&bench, 9), read(&bench, 10, b"", 9)), (Some(10), (vec![], 10)));

    let mut bench = Bench::new(Shards::builder().limit(|limits| limits.changes_bytes_max = 1000));
    run(&mut bench, Op::put(b"k", &[0; 300]));
    run(&mut bench, Op::put(b"k", &[0; 300]));
    assert_eq!(oldest(&bench, 1), None);
    run(&mut bench, Op::put(b"k", &[0; 300]));
    assert_eq!((oldest(&bench, 1), oldest(&bench, 2)), (Some(2), None));
    run(&mut bench, Op::put(b"k", &[0; 2000]));
    assert_eq!((oldest(&bench, 4), read(&bench, 5, b"", 9)), (Some(5), (vec![], 5)));
}
