//! A service plugged in beside the KV: counters that reset themselves.

use std::ops::{Bound, RangeInclusive};

use proptest::prelude::*;
use quorate_replicator::{Bytes, LogTime, StateMachine};
use quorate_shard::kv::Op;
use quorate_shard::limits::KEY_BYTES_MAX;
use quorate_shard::{
    Extension, Refusal, ShardContext, Shards, ShardsBuilder, Table, Update, envelope,
};

use crate::support::{Bench, Written, cases, shard};

/// Counters, and an index of them by value. A counter that was not used for a while goes back by one.
#[derive(Debug)]
struct Counters;

const COUNTERS: u8 = 40;
const BY_VALUE: u8 = 41;
const ADD: u16 = 500;
const LARGEST: u16 = 501;
const IDLE_MS: u64 = 10;

fn count(row: &[u8]) -> u64 {
    u64::from_le_bytes(row.try_into().expect("eight bytes"))
}

fn place(count: u64, name: &[u8]) -> Vec<u8> {
    [&count.to_be_bytes()[..], name].concat()
}

fn set(
    context: &mut ShardContext<'_>,
    name: &[u8],
    before: u64,
    after: u64,
) -> Result<(), Refusal> {
    context.remove(BY_VALUE, &place(before, name));
    if after == 0 {
        context.remove(COUNTERS, name);
        return Ok(());
    }
    let deadline = context.log_time().plus_ms(IDLE_MS);
    context.put(COUNTERS, name, Some(deadline), &[&after.to_le_bytes()])?;
    context.put(BY_VALUE, &place(after, name), None, &[])
}

impl Extension for Counters {
    fn name(&self) -> &'static str {
        "counters"
    }

    fn kinds(&self) -> RangeInclusive<u16> {
        ADD..=LARGEST
    }

    fn tables(&self) -> &'static [Table] {
        const { &[Table::watched(COUNTERS), Table::new(BY_VALUE)] }
    }

    fn apply(
        &self,
        kind: u16,
        body: &[u8],
        context: &mut ShardContext<'_>,
        answer: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        if kind == LARGEST {
            let all = context.range(BY_VALUE, Bound::Unbounded, Bound::Unbounded);
            let largest = all.last().map_or(&[][..], |(place, _)| place);
            answer.extend_from_slice(largest);
            return Ok(());
        }
        let (name, by): (String, u64) = envelope::decode_body(body)?;
        let before = context.get(COUNTERS, name.as_bytes()).map_or(0, |row| count(row.bytes()));
        set(context, name.as_bytes(), before, before + by)?;
        if before + by == 13 {
            // After the writes: they have to be undone.
            return Err(Refusal::Other { code: 13, detail: "no counter stands at 13".into() });
        }
        answer.extend_from_slice(&(before + by).to_le_bytes());
        Ok(())
    }

    fn due(&self, table: u8, key: &[u8], context: &mut ShardContext<'_>) {
        assert_eq!(table, COUNTERS);
        let before = count(context.get(COUNTERS, key).expect("it is due").bytes());
        // Without room it stays as it is, and is then removed: its row in the index must go, too.
        if set(context, key, before, before - 1).is_err() {
            context.remove(BY_VALUE, &place(before, key));
        }
    }

    fn check_row(&self, table: u8, _: &[u8], row: &[u8]) -> Result<(), String> {
        let length = if table == COUNTERS { 8 } else { 0 };
        if row.len() == length { Ok(()) } else { Err(format!("it has {} bytes", row.len())) }
    }
}

fn builder() -> ShardsBuilder {
    Shards::builder().extension(Counters)
}

fn add(name: &str, by: u64) -> Bytes {
    envelope::encode_op(ADD, &(name, by))
}

fn counters(bench: &Bench, name: &str) -> Vec<(String, u64, Option<u64>)> {
    let read = bench.shards.read(&shard(name), |view| {
        let rows = view.range(COUNTERS, Bound::Unbounded, Bound::Unbounded);
        let text = |key: &[u8]| String::from_utf8(key.to_vec()).unwrap();
        let ms = |at: LogTime| at.as_ms();
        rows.map(|(key, row)| (text(key), count(row.bytes()), row.deadline().map(ms))).collect()
    });
    read.unwrap().unwrap_or_default()
}

#[test]
fn a_service_has_tables_deadlines_revisions_and_changes_of_its_own() {
    let mut bench = Bench::new(builder());
    let orders = shard("acme/orders");
    let answer = bench.op(&orders, add("a", 5));
    assert_eq!(envelope::open_answer(&answer).unwrap().unwrap(), 5_u64.to_le_bytes());
    bench.op(&orders, add("b", 7));
    bench.op(&orders, Op::put(b"a", b"of the kv").encode());
    bench.op(&orders, add("a", 1));
    assert_eq!(
        counters(&bench, "acme/orders"),
        [("a".into(), 6, Some(10)), ("b".into(), 7, Some(10))]
    );
    let refused = bench.op(&orders, add("b", 6));
    let refusal = Refusal::Other { code: 13, detail: "no counter stands at 13".into() };
    assert_eq!(envelope::open_answer(&refused).unwrap(), Err(refusal));
    let largest = bench.op(&orders, envelope::encode_op(LARGEST, &()));
    assert_eq!(envelope::open_answer(&largest).unwrap().unwrap(), place(7, b"b"));
    bench.pass(10);
    assert_eq!(
        counters(&bench, "acme/orders"),
        [("a".into(), 5, Some(20)), ("b".into(), 6, Some(20))]
    );
    // The three operations, the put between them, and two deadlines.
    let (revision, changes) = bench
        .shards
        .read(&orders, |view| {
            let changes = view.changes(COUNTERS, 1).expect("nothing was dropped");
            (view.revision(), changes.map(|change| change.revision).collect::<Vec<_>>())
        })
        .unwrap()
        .unwrap();
    assert_eq!((revision, changes), (6, vec![1, 2, 4, 5, 6]));
    assert_eq!(
        bench.shards.kv().scan(&orders, &quorate_shard::kv::Scan::all()).unwrap().entries.len(),
        1
    );
}

#[test]
fn without_the_service_its_checkpoint_is_refused_and_its_operations_are_unknown() {
    let mut bench = Bench::new(builder());
    bench.op(&shard("acme/orders"), add("a", 5));
    bench.checkpoint();
    let (mut machine, _) = Shards::builder().build();
    let error = machine.restore(&mut bench.store.reader()).unwrap_err();
    assert!(error.to_string().contains("table 40"), "{error}");
    let mut plain = Bench::new(Shards::builder());
    let refused = plain.op(&shard("acme/orders"), add("a", 5));
    assert_eq!(envelope::open_answer(&refused).unwrap(), Err(Refusal::UnknownKind { kind: ADD }));
}

/// Does nothing when a row is due.
#[derive(Debug)]
struct Idle;

impl Extension for Idle {
    fn name(&self) -> &'static str {
        "idle"
    }

    fn kinds(&self) -> RangeInclusive<u16> {
        600..=600
    }

    fn tables(&self) -> &'static [Table] {
        const { &[Table::new(60)] }
    }

    fn apply(
        &self,
        _: u16,
        body: &[u8],
        context: &mut ShardContext<'_>,
        _: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        let deadline = Some(context.log_time());
        // A key that could not be put is simply not there.
        let long = [0; KEY_BYTES_MAX + 1];
        let refused = Refusal::KeyTooLarge { bytes: long.len() as u64 };
        assert_eq!(context.put(60, &long, None, &[]), Err(refused));
        assert!(!context.remove(60, &long) && context.get(60, &long).is_none());
        context.put(60, body, deadline, &[])?;
        // A look that changes nothing takes no part in the revision.
        context.update(60, body, |_, _| Ok(Update::Keep))
    }
}

#[test]
fn a_row_that_stays_due_is_removed() {
    let mut bench = Bench::new(Shards::builder().extension(Idle));
    let orders = shard("acme/orders");
    bench.op(&orders, envelope::encode_op(600, &()));
    assert_eq!(bench.shards.read(&orders, |view| view.len(60)).unwrap(), Some(1));
    bench.pass(1);
    assert_eq!(
        bench.shards.read(&orders, |view| (view.len(60), view.revision())).unwrap(),
        Some((0, 2))
    );
    assert_eq!(bench.machine.next_deadline(), None);
}

#[test]
#[should_panic(expected = "share a table")]
fn two_services_cannot_share_a_table() {
    #[derive(Debug)]
    struct Twin;
    impl Extension for Twin {
        fn name(&self) -> &'static str {
            "twin"
        }
        fn kinds(&self) -> RangeInclusive<u16> {
            700..=700
        }
        fn tables(&self) -> &'static [Table] {
            const { &[Table::new(BY_VALUE)] }
        }
        fn apply(
            &self,
            _: u16,
            _: &[u8],
            _: &mut ShardContext<'_>,
            _: &mut Vec<u8>,
        ) -> Result<(), Refusal> {
            Ok(())
        }
    }
    builder().extension(Twin).build();
}

proptest! {
    #![proptest_config(cases(200))]

    /// A node that restarts from its checkpoints at any moment goes on like one that never did.
    #[test]
    fn a_service_is_restored_with_everything_it_had(
        batches in prop::collection::vec(
            (
                prop::collection::vec((0..2_usize, 0..4_usize, 1..8_u64), 0..4),
                0..15_u64,
                any::<bool>(),
                any::<bool>(),
            ),
            1..30,
        ),
    ) {
        let names = ["acme/a", "acme/b"].map(shard);
        let mut steady = Bench::new(builder());
        let mut restarted = Bench::new(builder());
        let mut since: Vec<Written> = Vec::new();
        for (ops, ms, checkpoint, restart) in batches {
            let ops = ops.into_iter().map(|(name, counter, by)| {
                (names[name].clone(), add(["a", "b", "c", "d"][counter], by))
            });
            let log_time = steady.log_time.plus_ms(ms);
            let written = Written { log_time, ops: ops.collect() };
            prop_assert_eq!(steady.apply(&written), restarted.apply(&written));
            prop_assert_eq!(steady.changes(), restarted.changes());
            since.push(written);
            if checkpoint {
                restarted.checkpoint();
                since.clear();
            }
            if restart && !restarted.store.0.is_empty() {
                restarted = restarted.restored(builder());
                for written in &since {
                    restarted.apply(written);
                }
            }
            prop_assert_eq!(steady.machine.next_deadline(), restarted.machine.next_deadline());
            prop_assert_eq!(counters(&steady, "acme/a"), counters(&restarted, "acme/a"));
        }
        steady.checkpoint();
        restarted.checkpoint();
        prop_assert_eq!(steady.store, restarted.store);
    }
}
