//! Rules of the application: which version is in force, and what it is asked.

use std::panic::{AssertUnwindSafe, catch_unwind};

use quorate_replicator::{Bytes, Frame, FrameId, SessionId, StateMachine};
use quorate_shard::kv::Op;
use quorate_shard::{Rules, ShardView, Shards, ShardsBuilder};

use crate::support::{Bench, shard};

/// At most so many keys, each with a name of at most 8 bytes.
#[derive(Debug)]
struct Quota(usize);

/// The table of the KV.
const KEYS: u8 = 1;

impl Rules for Quota {
    fn check(&self, frame: &Frame, shard: ShardView<'_>) -> Result<(), String> {
        match Op::decode(&frame.payload) {
            Ok(Op::Put { key, .. }) if key.len() > 8 => Err("the key is too long".into()),
            Ok(Op::Put { .. }) if shard.len(KEYS) >= self.0 => {
                Err(format!("{} keys are enough", self.0))
            }
            _ => Ok(()),
        }
    }
}

fn builder() -> ShardsBuilder {
    Shards::builder().rules(1, Quota(2)).rules(7, Quota(3))
}

/// The operation that puts rules in force, as [`quorate_shard::Kv::set_rules`] writes it.
fn set(version: u32) -> Bytes {
    quorate_shard::envelope::encode_op(100, &(version,))
}

fn allowed(bench: &Bench, payload: Bytes) -> Result<(), String> {
    let id = FrameId { session: SessionId::new([1; 16]), serial: 1 };
    bench.machine.validate(&Frame::new(id, shard("acme/orders"), payload))
}

fn put(key: &str) -> Bytes {
    Op::put(key.as_bytes(), b"").encode()
}

#[test]
fn the_version_in_force_judges_by_the_state_before() {
    let mut bench = Bench::new(builder());
    let orders = shard("acme/orders");
    assert_eq!(allowed(&bench, put("a very long key")), Ok(()), "no rules are in force");
    let answer = bench.op(&orders, set(1));
    assert_eq!(answer[2..], 1_u64.to_le_bytes(), "setting rules takes a revision");
    assert_eq!(allowed(&bench, put("a very long key")), Err("the key is too long".into()));
    for key in ["a", "b"] {
        assert_eq!(allowed(&bench, put(key)), Ok(()));
        bench.op(&orders, put(key));
    }
    assert_eq!(allowed(&bench, put("c")), Err("2 keys are enough".into()));
    assert_eq!(allowed(&bench, Op::delete(b"a").encode()), Ok(()));

    bench.op(&orders, set(7));
    assert_eq!(allowed(&bench, put("c")), Ok(()));
    assert_eq!(bench.shards.read(&orders, |view| view.rules()).unwrap(), Some(7));
    bench.checkpoint();
    let mut restored = bench.restored(builder());
    restored.op(&orders, put("c"));
    assert_eq!(allowed(&restored, put("d")), Err("3 keys are enough".into()));

    let answer = restored.op(&orders, set(0));
    assert_eq!(allowed(&restored, put("a very long key")), Ok(()));
    assert_eq!(restored.op(&orders, set(0)), answer, "nothing changed, so no revision was taken");
}

#[test]
fn a_version_that_is_not_registered_is_refused_and_harms_nobody() {
    for (builder, known) in [(builder(), "1, 7"), (Shards::builder(), "none")] {
        let bench = Bench::new(builder);
        let problem = allowed(&bench, set(2)).unwrap_err();
        assert_eq!(
            problem,
            format!(
                "rules version 2 is not registered in this program, which has: {known}; register it on all nodes first"
            )
        );
        // What is no version at all is answered as an operation.
        assert_eq!(allowed(&bench, quorate_shard::envelope::encode_op(100, &"two")), Ok(()));
    }
}

#[test]
fn a_program_without_the_rules_in_force_does_not_take_the_state() {
    let mut bench = Bench::new(builder());
    bench.op(&shard("acme/orders"), set(7));
    bench.checkpoint();
    let mut other = Bench::new(Shards::builder().rules(1, Quota(2)));
    let error = other.machine.restore(&mut bench.store.reader()).unwrap_err().to_string();
    assert!(error.contains("rules in shard acme/orders"), "{error}");
    assert!(error.contains("version 7 is not registered in this program, which has: 1"), "{error}");
}

#[test]
fn a_version_is_registered_once_and_0_never() {
    for version in [0, 1] {
        let twice = || drop(Shards::builder().rules(1, Quota(1)).rules(version, Quota(2)));
        assert!(catch_unwind(AssertUnwindSafe(twice)).is_err(), "version {version}");
    }
}
