//! The client: writes through a session, reads behind barriers.

use std::sync::Arc;
use std::time::Duration;

use quorate_replicator::{Consistency, ReadError, Replicator, Session, SessionError};
use quorate_shard::kv::{
    Condition, DeleteOptions, KvError, KvReadError, Op, OrgReadOptions, PutOptions, ReadOptions,
    Reply, Scan, Transaction, TransactionOp,
};
use quorate_shard::limits::KEY_BYTES_MAX;
use quorate_shard::{Kv, Refusal, Shards};

use crate::support::{Direct, shard};

const WITHIN: Duration = Duration::from_secs(5);

fn kv() -> (Kv, Arc<Direct>) {
    let (direct, shards) = Direct::new(Shards::builder().limit(|l| l.state_bytes_max = 100_000));
    let session = Session::new(Arc::clone(&direct) as Arc<dyn Replicator>).unwrap();
    (Kv::new(Arc::new(session), &shards), direct)
}

#[tokio::test]
async fn what_is_written_is_read() -> Result<(), Box<dyn std::error::Error>> {
    let (kv, _) = kv();
    let orders = shard("acme/orders");
    let put = kv.put(&orders, b"a", b"1", PutOptions::default()).await?;
    assert_eq!((put.revision, put.created), (1, 1));
    let swapped = kv.compare_and_swap(&orders, b"a", 1, b"2").await?;
    assert_eq!((swapped.revision, swapped.created), (2, 1));
    let error = kv.compare_and_swap(&orders, b"a", 1, b"3").await.unwrap_err();
    assert!(matches!(error, KvError::CompareFailed { revision: 2, actual: 2 }));
    assert_eq!(error.to_string(), "condition does not hold: the key was modified at revision 2");
    let options = PutOptions::default().ttl_ms(1000).only_if(Condition::Missing);
    kv.put(&orders, b"b", b"x", options).await?;
    let then = vec![TransactionOp::Get { key: b"a" }, TransactionOp::Delete { key: b"none" }];
    let transaction = Transaction { then, ..Transaction::default() };
    let done = kv.transaction(&orders, transaction, WITHIN).await?;
    assert_eq!((done.reply.revision, done.reply.results.len()), (3, 2));

    let got = kv.get(&orders, b"b", ReadOptions::default()).await?;
    let expires = got.entry.as_ref().and_then(|entry| entry.expires);
    assert_eq!((got.revision, expires.map(|at| at.as_ms())), (3, Some(1000)));
    let page = kv.scan(&orders, &Scan::all(), ReadOptions::default()).await?;
    assert_eq!((page.revision, page.entries.len()), (3, 2));
    let pinned = kv.pinned(&orders).await?;
    let deleted = kv.delete(&orders, b"a", DeleteOptions::default()).await?;
    assert_eq!((deleted.revision, deleted.existed), (4, true));
    let deleted = kv.delete_prefix(&orders, b"", WITHIN).await?;
    assert_eq!((deleted.revision, deleted.removed, deleted.more), (5, 1, false));
    assert_eq!(pinned.scan(&orders, &Scan::all())?, page, "the pinned page did not change");

    let names = kv.namespaces("acme", None, 10, OrgReadOptions::default()).await?;
    assert_eq!((names.namespaces.len(), names.namespaces[0].keys), (1, Some(0)));
    let page = kv.scan_org("acme", &Scan::all(), OrgReadOptions::default()).await?;
    assert_eq!((page.parts.len(), page.next), (0, None));
    Ok(())
}

#[tokio::test]
async fn refusals_are_errors_and_bad_keys_are_not_even_proposed() {
    let (kv, direct) = kv();
    let orders = shard("acme/orders");
    let long = vec![b'k'; KEY_BYTES_MAX + 1];
    let error = kv.put(&orders, &long, b"", PutOptions::default()).await.unwrap_err();
    assert!(matches!(&error, KvError::Refused(Refusal::KeyTooLarge { bytes: 4097 })));
    assert_eq!(error.to_string(), "key has 4097 bytes, at most 4096 are allowed");
    assert_eq!(direct.bench().index, 0);
    let large = vec![0; 100_000];
    let error = kv.put(&orders, b"k", &large, PutOptions::default()).await.unwrap_err();
    assert!(matches!(error, KvError::Refused(Refusal::StateFull { limit: 100_000 })));
    assert!(!error.may_commit());
    assert_eq!(direct.bench().index, 1);
}

#[tokio::test]
async fn an_unknown_outcome_is_resumed_and_happens_once() {
    let (kv, direct) = kv();
    let orders = shard("acme/orders");
    *direct.lose_answers.lock().unwrap() = 1;
    let error = kv.put(&orders, b"a", b"1", PutOptions::default()).await.unwrap_err();
    assert!(error.may_commit());
    let KvError::Session(SessionError::Unknown { attempt, .. }) = error else {
        panic!("{error:?}");
    };
    let done = kv.resume(*attempt, WITHIN).await.unwrap();
    assert_eq!(done.reply, Reply::Put { revision: 1, created: 1 });
    assert_eq!(kv.get(&orders, b"a", ReadOptions::local()).await.unwrap().revision, 1);
}

#[tokio::test]
async fn a_read_is_as_fresh_as_it_asks_to_be() {
    let (kv, direct) = kv();
    let orders = shard("acme/orders");
    kv.put(&orders, b"a", b"old", PutOptions::default()).await.unwrap();
    direct.barriers.lock().unwrap().clear();
    let value =
        async |options| kv.get(&orders, b"a", options).await.map(|got| got.entry.unwrap().value);
    direct.accepted_elsewhere(&orders, Op::put(b"a", b"new").encode());
    assert_eq!(value(ReadOptions::local()).await.unwrap(), "old");
    let bounded = ReadOptions::default().consistency(Consistency::Bounded(WITHIN));
    assert_eq!(value(bounded).await.unwrap(), "old");
    assert_eq!(value(ReadOptions::local().at_least(1)).await.unwrap(), "old");
    assert_eq!(*direct.barriers.lock().unwrap(), [Consistency::Bounded(WITHIN)]);
    // A revision that is not there yet waits for it.
    assert_eq!(value(ReadOptions::local().at_least(2)).await.unwrap(), "new");
    direct.accepted_elsewhere(&orders, Op::put(b"a", b"newer").encode());
    assert_eq!(value(ReadOptions::default()).await.unwrap(), "newer");
    // One that nobody was told of is an error, and so is a deadline that is over.
    let error = value(ReadOptions::local().at_least(9)).await.unwrap_err();
    let expected = KvReadError::NotReached { shard: orders.clone(), at_least: 9, revision: 3 };
    assert_eq!(error, expected);
    let none = ReadOptions::default().within(Duration::ZERO);
    assert_eq!(value(none).await.unwrap_err(), KvReadError::Read(ReadError::Timeout));
    let none = ReadOptions::local().at_least(9).within(Duration::ZERO);
    assert_eq!(value(none).await.unwrap_err(), KvReadError::Read(ReadError::Timeout));

    // The same over an organisation.
    let users = shard("acme/users");
    let names = async |options| {
        kv.namespaces("acme", None, 10, options).await.map(|page| page.namespaces.len())
    };
    direct.accepted_elsewhere(&users, Op::put(b"u", b"").encode());
    assert_eq!(names(OrgReadOptions::local()).await.unwrap(), 1);
    assert_eq!(names(OrgReadOptions::local().at_least(users.clone(), 1)).await.unwrap(), 2);
    direct.accepted_elsewhere(&shard("acme/more"), Op::put(b"u", b"").encode());
    assert_eq!(names(OrgReadOptions::default()).await.unwrap(), 3);
    direct.accepted_elsewhere(&shard("zeta/users"), Op::put(b"u", b"").encode());
    let orgs = async |after, options| kv.orgs(after, 10, options).await.unwrap();
    assert_eq!(orgs(None, OrgReadOptions::local()).await, ["acme"]);
    assert_eq!(orgs(None, OrgReadOptions::default()).await, ["acme", "zeta"]);
    assert_eq!(orgs(Some("acme"), OrgReadOptions::local()).await, ["zeta"]);
    let error = names(OrgReadOptions::local().at_least(users, 2)).await.unwrap_err();
    assert!(matches!(error, KvReadError::NotReached { at_least: 2, revision: 1, .. }));
}
