//! Payloads that nobody should send, and kinds that nobody knows.

use proptest::prelude::*;
use quorate_replicator::Bytes;
use quorate_shard::kv::{Compare, Condition, Op, Reply, Transaction, TransactionOp};
use quorate_shard::{Refusal, Shards, envelope};

use crate::support::{Bench, Written, cases, shard};

#[test]
fn an_unknown_kind_or_version_is_refused_and_changes_nothing() {
    let mut bench = Bench::new(Shards::builder());
    let orders = shard("acme/orders");
    bench.op(&orders, Op::put(b"a", b"1").encode());
    bench.checkpoint();
    let before = bench.store.clone();
    for (payload, refusal) in [
        (envelope::encode_op(500, &()), Refusal::UnknownKind { kind: 500 }),
        (envelope::encode_op(99, &()), Refusal::UnknownKind { kind: 99 }),
        (Bytes::from_static(&[2, 1, 0, 0x90]), Refusal::UnknownVersion { version: 2 }),
        (Bytes::new(), Refusal::malformed("it is empty")),
        (Bytes::from_static(&[1, 1]), Refusal::malformed("it ends before its kind")),
    ] {
        let reply = Reply::decode(&bench.op(&orders, payload.clone())).unwrap();
        assert_eq!(reply, Reply::Refused(refusal));
        assert!(bench.changes().is_empty());
        bench.op(&shard("acme/other"), payload);
    }
    bench.checkpoint();
    assert_eq!((bench.store, bench.shards.count()), (before, 1));
}

#[test]
fn a_body_is_used_up_and_does_not_nest() {
    let payload = Op::put(b"k", b"v").encode();
    for end in 0..payload.len() {
        assert!(Op::decode(&payload[..end]).is_err(), "cut at {end}");
    }
    for byte in 0..=255 {
        let longer = [&payload[..], &[byte]].concat();
        assert!(Op::decode(&longer).is_err(), "{byte} after the end");
    }
    for (kind, marker) in (1..=4).flat_map(|kind| [0x91, 0xdc, 0x81, 0xc1].map(|m| (kind, m))) {
        let mut nested = envelope::encode_op(kind, &()).to_vec();
        nested.pop();
        nested.extend(std::iter::repeat_n(marker, 100_000));
        assert!(matches!(Op::decode(&nested), Err(Refusal::Malformed { .. })));
    }
    // A list that says it is long costs nothing before its items are there.
    let mut list = envelope::encode_op(3, &()).to_vec();
    list.pop();
    list.extend([0x93, 0xdd, 0xff, 0xff, 0xff, 0xff]);
    assert!(matches!(Op::decode(&list), Err(Refusal::Malformed { .. })));
}

fn condition() -> impl Strategy<Value = Option<Condition<'static>>> {
    let value = prop::collection::vec(any::<u8>(), 0..4).prop_map(|value| &*value.leak());
    prop_oneof![
        Just(None),
        Just(Some(Condition::Missing)),
        Just(Some(Condition::Exists)),
        any::<u64>().prop_map(|revision| Some(Condition::Revision(revision))),
        value.prop_map(|value| Some(Condition::Value(value))),
    ]
}

fn op() -> impl Strategy<Value = Op<'static>> {
    let bytes = || prop::collection::vec(any::<u8>(), 1..40).prop_map(|bytes| &*bytes.leak());
    let ttl = || prop::option::of(1..u64::MAX);
    let step = prop_oneof![
        (bytes(), bytes(), ttl()).prop_map(|(key, value, ttl_ms)| TransactionOp::Put {
            key,
            value,
            ttl_ms
        }),
        bytes().prop_map(|key| TransactionOp::Delete { key }),
        bytes().prop_map(|key| TransactionOp::Get { key }),
    ];
    let compare = (bytes(), condition()).prop_map(|(key, condition)| Compare {
        key,
        condition: condition.unwrap_or(Condition::Exists),
    });
    let steps = prop::collection::vec(step, 0..5);
    prop_oneof![
        (bytes(), bytes(), ttl(), condition())
            .prop_map(|(key, value, ttl_ms, condition)| Op::Put { key, value, ttl_ms, condition }),
        (bytes(), condition()).prop_map(|(key, condition)| Op::Delete { key, condition }),
        (bytes(), 1..=10_000_u32)
            .prop_map(|(prefix, keys_max)| Op::DeletePrefix { prefix, keys_max }),
        (prop::collection::vec(compare, 0..5), steps.clone(), steps).prop_map(
            |(compare, then, otherwise)| Op::Transaction(Transaction { compare, then, otherwise })
        ),
    ]
}

proptest! {
    #![proptest_config(cases(200))]

    #[test]
    fn an_operation_is_read_back_as_it_was_written(op in op()) {
        let payload = op.encode();
        prop_assert_eq!(Op::decode(&payload), Ok(op));
    }

    /// Applied as they are: whatever the bytes, there is one answer, it can be read, and what is refused changes
    /// nothing. What is decoded without being applied is judged the same way.
    #[test]
    fn arbitrary_payloads_are_answered(
        payloads in prop::collection::vec(hostile_payload(), 1..20),
    ) {
        let mut bench = Bench::new(Shards::builder());
        let orders = shard("acme/orders");
        bench.op(&orders, Op::put(b"a", b"1").encode());
        for payload in payloads {
            let revision = bench.shards.kv().revision(&orders).unwrap();
            let reply = Reply::decode(&bench.op(&orders, payload.clone())).unwrap();
            match (Op::decode(&payload), reply) {
                (Err(refusal), Reply::Refused(answered)) => {
                    prop_assert_eq!(refusal, answered);
                    prop_assert_eq!(bench.shards.kv().revision(&orders).unwrap(), revision);
                    prop_assert!(bench.changes().is_empty());
                }
                (Ok(_), Reply::Refused(Refusal::StateFull { .. } | Refusal::ReplyTooLarge { .. })) => {}
                (Ok(_), reply) => prop_assert!(!matches!(reply, Reply::Refused(_)), "{reply:?}"),
                (Err(refusal), reply) => prop_assert!(false, "{refusal:?} but {reply:?}"),
            }
        }
    }

    #[test]
    fn arbitrary_answers_are_read_or_refused(answer in prop::collection::vec(any::<u8>(), 0..60)) {
        let _ = Reply::decode(&Bytes::from(answer.clone()));
        let _ = Reply::decode(&[&[1, 0][..], &answer].concat().into());
        let _ = Reply::decode(&[&[1, 0, 4], &answer[..]].concat().into());
        let _ = Reply::decode(&[&[1, 1][..], &answer].concat().into());
    }

    /// Two machines that are given the same batches give the same answers and say the same of what they changed.
    #[test]
    fn two_machines_agree(
        batches in prop::collection::vec(
            prop::collection::vec((0..3_usize, hostile_payload()), 0..10),
            1..10,
        ),
    ) {
        let names = ["acme/a", "acme/b", "other/a"].map(shard);
        let mut one = Bench::new(Shards::builder());
        let mut two = Bench::new(Shards::builder());
        for (batch, time) in batches.into_iter().zip((1..).step_by(1000)) {
            let ops = batch.into_iter().map(|(name, payload)| (names[name].clone(), payload));
            let log_time = quorate_replicator::LogTime::from_ms(time);
            let written = Written { log_time, ops: ops.collect() };
            prop_assert_eq!(one.apply(&written), two.apply(&written));
            prop_assert_eq!(one.changes(), two.changes());
        }
        one.checkpoint();
        two.checkpoint();
        prop_assert_eq!(one.store, two.store);
    }
}

/// Bytes without sense, and operations with one byte changed or the end missing.
fn hostile_payload() -> impl Strategy<Value = Bytes> {
    let noise = prop::collection::vec(any::<u8>(), 0..60);
    let headed = (0..6_u8, noise.clone())
        .prop_map(|(kind, body)| Bytes::from([&[1, kind, 0][..], &body].concat()));
    let bent = (op(), any::<prop::sample::Index>(), any::<u8>(), any::<bool>()).prop_map(
        |(op, place, byte, cut)| {
            let mut payload = op.encode().to_vec();
            let place = place.index(payload.len());
            payload[place] = byte;
            if cut {
                payload.truncate(place);
            }
            Bytes::from(payload)
        },
    );
    prop_oneof![noise.prop_map(Bytes::from), headed, bent, op().prop_map(|op| op.encode())]
}
