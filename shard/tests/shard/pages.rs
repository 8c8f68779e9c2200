//! Pages: bounded, atomic, complete, and the same in a pinned checkpoint.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use quorate_replicator::limits::{NAMESPACE_BYTES_MAX, ORG_BYTES_MAX};
use quorate_replicator::{Bytes, Position};
use quorate_shard::Shards;
use quorate_shard::kv::{Op, OrgPage, Page, PageToken, PinnedKv, Scan, Transaction, TransactionOp};
use quorate_shard::limits::{PAGE_BYTES_MAX, PAGE_KEYS_MAX, PAGE_NAMESPACES_MAX};

use crate::support::{Bench, GROUP, PinnedStore, Written, shard};

fn put_all(bench: &mut Bench, pairs: &[(&str, Vec<u8>, Vec<u8>)]) {
    let ops = pairs.iter().map(|(name, key, value)| (shard(name), Op::put(key, value).encode()));
    bench.apply(&Written { log_time: bench.log_time, ops: ops.collect() });
}

fn pinned(bench: &mut Bench) -> PinnedKv {
    bench.checkpoint();
    let position = Position { group: GROUP, epoch: 0, index: bench.index, slot: 0 };
    PinnedKv::new(Arc::new(PinnedStore { position, store: bench.store.clone() }))
}

/// All keys of a scan, page by page, and how many pages there were.
fn all_pages(scan: &Scan, read: impl Fn(&Scan) -> Page) -> (Vec<Bytes>, usize) {
    let (mut keys, mut pages) = (Vec::new(), 0);
    let mut scan = scan.clone();
    loop {
        let page = read(&scan);
        pages += 1;
        keys.extend(page.entries.into_iter().map(|entry| entry.key));
        match page.next {
            Some(token) => scan = scan.after(PageToken::new(token.as_bytes().clone())),
            None => return (keys, pages),
        }
    }
}

#[test]
fn pages_of_any_size_hold_each_key_once_in_order() {
    let mut bench = Bench::new(Shards::builder());
    let orders = shard("acme/orders");
    let keys: Vec<Vec<u8>> = ["a", "a\0", "a/1", "a/2", "ab", "b", "b\u{ff}", "c"]
        .iter()
        .map(|key| key.as_bytes().to_vec())
        .chain([vec![0], vec![0xff], vec![0xff, 0xff], vec![b'x'; 40]])
        .chain([vec![b'b', 0xff], vec![b'b', 0xff, 1], vec![b'b', 0xfe]])
        .collect();
    let pairs: Vec<_> = keys.iter().map(|key| ("acme/orders", key.clone(), vec![])).collect();
    put_all(&mut bench, &pairs);
    put_all(
        &mut bench,
        &[("acme/order", b"z".to_vec(), vec![]), ("acme/orders2", b"0".to_vec(), vec![])],
    );
    let pinned = pinned(&mut bench);
    let kv = bench.shards.kv();
    type Wanted = Box<dyn Fn(&[u8]) -> bool>;
    let cases: Vec<(Scan, Wanted)> = vec![
        (Scan::all(), Box::new(|_| true)),
        (Scan::prefix(b"a"), Box::new(|key| key.starts_with(b"a"))),
        (Scan::prefix(b"\xff"), Box::new(|key| key.starts_with(b"\xff"))),
        (Scan::prefix(b"b\xff"), Box::new(|key| key.starts_with(b"b\xff"))),
        (Scan::prefix(b"none"), Box::new(|_| false)),
        (Scan::range(b"a/", b"b"), Box::new(|key| key >= &b"a/"[..] && key < &b"b"[..])),
        (Scan::range(b"b", b"b"), Box::new(|_| false)),
        (Scan::range(b"c", b"a"), Box::new(|_| false)),
        (Scan::from(b"b"), Box::new(|key| key >= &b"b"[..])),
    ];
    for (scan, wanted) in cases {
        let mut expected: Vec<_> = keys.iter().filter(|key| wanted(key)).cloned().collect();
        expected.sort();
        for limit in [1, 2, 3, 100] {
            let scan = scan.clone().limit(limit);
            let (read, pages) = all_pages(&scan, |scan| kv.scan(&orders, scan).unwrap());
            assert_eq!(read, expected, "{scan:?}");
            assert!(pages <= expected.len() / limit + 1, "{scan:?} took {pages} pages");
            let (read, _) = all_pages(&scan, |scan| pinned.scan(&orders, scan).unwrap());
            assert_eq!(read, expected, "pinned {scan:?}");
        }
    }
    // A token may come from anywhere, also from after the end of the range.
    for token in [&b"b"[..], b"c", b""] {
        let scan = Scan::range(b"a/", b"b").after(PageToken::new(token.to_vec()));
        let expected = if token.is_empty() { 3 } else { 0 };
        assert_eq!(kv.scan(&orders, &scan).unwrap().entries.len(), expected);
        assert_eq!(pinned.scan(&orders, &scan).unwrap().entries.len(), expected);
    }
    let nothing = kv.scan(&shard("acme/none"), &Scan::all()).unwrap();
    assert_eq!((nothing.revision, nothing.entries.len(), nothing.next), (0, 0, None));
    let nothing = pinned.scan(&shard("acme/none"), &Scan::all()).unwrap();
    assert_eq!((nothing.revision, nothing.entries.len(), nothing.next), (0, 0, None));
}

#[test]
fn a_page_is_bounded_in_keys_and_in_bytes() {
    let mut bench = Bench::new(Shards::builder());
    let pairs: Vec<_> = (0..PAGE_KEYS_MAX as u32 + 1)
        .map(|key| ("acme/small", key.to_be_bytes().to_vec(), vec![]))
        .chain((0..9).map(|key| ("acme/large", vec![key], vec![0; PAGE_BYTES_MAX / 4])))
        .collect();
    put_all(&mut bench, &pairs);
    let pinned = pinned(&mut bench);
    let kv = bench.shards.kv();
    for limit in [PAGE_KEYS_MAX, usize::MAX] {
        for (name, sizes) in [("acme/small", &[1000, 1][..]), ("acme/large", &[4, 4, 1])] {
            let mut scan = Scan::all().limit(limit);
            for (place, size) in sizes.iter().enumerate() {
                let page = kv.scan(&shard(name), &scan).unwrap();
                assert_eq!(page.entries.len(), *size, "{name}");
                assert_eq!(pinned.scan(&shard(name), &scan).unwrap(), page, "{name}");
                assert_eq!(page.next.is_none(), place + 1 == sizes.len());
                if let Some(token) = page.next {
                    scan = scan.after(token);
                }
            }
        }
    }
}

fn flat(page: OrgPage) -> (Vec<(String, Bytes, Bytes)>, Option<PageToken>) {
    let parts = page.parts.into_iter().flat_map(|part| {
        assert!(!part.entries.is_empty() && part.revision > 0);
        let name = part.shard.namespace().to_owned();
        part.entries.into_iter().map(move |entry| (name.clone(), entry.key, entry.value))
    });
    (parts.collect(), page.next)
}

#[test]
fn a_scan_over_an_organisation_goes_by_namespace_and_key() {
    let mut bench = Bench::new(Shards::builder());
    let mut expected = Vec::new();
    for name in ["b", "b b", "b.", "bb", "a", "c"] {
        for key in ["p1", "p2", "q", "p3"] {
            let text = format!("acme/{name}");
            put_all(&mut bench, &[(&text, key.into(), name.into())]);
            if key.starts_with('p') {
                expected.push((name.to_owned(), Bytes::from(key), Bytes::from(name)));
            }
        }
    }
    put_all(&mut bench, &[("acm/z", b"p".to_vec(), vec![]), ("acme2/a", b"p".to_vec(), vec![])]);
    put_all(&mut bench, &[("acme/bz", b"q".to_vec(), vec![])]);
    expected.sort();
    let pinned = pinned(&mut bench);
    let kv = bench.shards.kv();
    for limit in [1, 2, 3, 4, 7, 100] {
        for read in [
            Box::new(|scan: &Scan| kv.scan_org("acme", scan).unwrap()) as Box<dyn Fn(&Scan) -> _>,
            Box::new(|scan: &Scan| pinned.scan_org("acme", scan).unwrap()),
        ] {
            let mut scan = Scan::prefix(b"p").limit(limit);
            let mut keys = Vec::new();
            loop {
                let (entries, next) = flat(read(&scan));
                assert!(entries.len() <= limit);
                keys.extend(entries);
                match next {
                    Some(token) => scan = scan.after(token),
                    None => break,
                }
            }
            assert_eq!(keys, expected, "limit {limit}");
        }
    }
    let names = |after, max| {
        let page = kv.namespaces("acme", after, max).unwrap();
        let again = pinned.namespaces("acme", after, max).unwrap();
        let plain = |page: &quorate_shard::kv::NamespacePage| -> Vec<_> {
            let each = page.namespaces.iter();
            each.map(|n| (n.shard.namespace().to_owned(), n.revision, n.state_bytes)).collect()
        };
        assert_eq!(plain(&page), plain(&again));
        (plain(&page).into_iter().map(|(name, ..)| name).collect::<Vec<_>>(), page.next)
    };
    assert_eq!(names(None, 100).0, ["a", "b", "b b", "b.", "bb", "bz", "c"]);
    assert_eq!(names(Some("b b"), 2), (vec!["b.".into(), "bb".into()], Some("bb".into())));
    assert_eq!(names(Some("c"), 2), (vec![], None));
    assert_eq!(kv.scan_org("no/name", &Scan::all()).unwrap().parts.len(), 0);
}

#[test]
fn a_page_over_many_namespaces_ends_and_goes_on() {
    let mut bench = Bench::new(Shards::builder());
    let count = PAGE_NAMESPACES_MAX + 10;
    let ops: Vec<_> = (0..count)
        .map(|number| (shard(&format!("acme/{number:05}")), Op::put(b"key", b"").encode()))
        .collect();
    bench.apply(&Written { log_time: bench.log_time, ops });
    let last = format!("acme/{:05}", count - 1);
    let pairs = [("acme/00000", b"last z".to_vec(), vec![]), (&last, b"last".to_vec(), vec![])];
    put_all(&mut bench, &pairs);
    let pinned = pinned(&mut bench);
    let kv = bench.shards.kv();
    let first = kv.scan_org("acme", &Scan::prefix(b"last")).unwrap();
    assert_eq!(first, pinned.scan_org("acme", &Scan::prefix(b"last")).unwrap());
    assert_eq!(first.parts.len(), 1);
    let scan = Scan::prefix(b"last").after(first.next.expect("not all were looked at"));
    let second = kv.scan_org("acme", &scan).unwrap();
    assert_eq!(second, pinned.scan_org("acme", &scan).unwrap());
    assert_eq!((second.parts.len(), second.next), (1, None));
}

#[test]
fn a_pinned_checkpoint_does_not_change() {
    let mut bench = Bench::new(Shards::builder());
    let orders = shard("acme/orders");
    put_all(&mut bench, &[("acme/orders", b"a".to_vec(), b"1".to_vec())]);
    let pinned = pinned(&mut bench);
    put_all(&mut bench, &[("acme/orders", b"a".to_vec(), b"2".to_vec())]);
    put_all(&mut bench, &[("acme/later", b"b".to_vec(), vec![])]);
    bench.checkpoint();
    let got = pinned.get(&orders, b"a").unwrap();
    assert_eq!((got.revision, got.entry.map(|entry| entry.value)), (1, Some("1".into())));
    assert_eq!(pinned.get(&orders, b"").unwrap().entry, None);
    assert_eq!(pinned.get(&orders, b"b").unwrap().entry, None);
    assert_eq!(pinned.get(&shard("acme/later"), b"b").unwrap().revision, 0);
    assert_eq!(pinned.namespaces("acme", None, 10).unwrap().namespaces.len(), 1);
    assert_eq!(pinned.position().index, 1);
}

/// A writer moves one token among many keys, a transaction each time; every page must show exactly one, and a
/// revision that belongs to where it stands.
#[test]
fn pages_are_atomic_while_frames_are_applied() {
    const KEYS: u32 = 64;
    let mut bench = Bench::new(Shards::builder());
    let orders = shard("acme/orders");
    bench.op(&orders, Op::put(&0_u32.to_be_bytes(), b"1").encode());
    let shards = bench.shards.clone();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let kv = shards.kv();
                    let (mut last, mut pages) = (0, 0_u64);
                    // At least a few pages, whoever is faster.
                    while !done.load(Ordering::Relaxed) || pages < 10 {
                        let page = kv.scan(&orders, &Scan::all()).unwrap();
                        assert_eq!(page.entries.len(), 1, "the token is at one place");
                        let entry = &page.entries[0];
                        let place = u32::from_be_bytes(entry.key[..].try_into().unwrap());
                        assert_eq!(u64::from(place), (page.revision - 1) % u64::from(KEYS));
                        assert_eq!(entry.modified, page.revision);
                        assert!(page.revision >= last, "a later page never shows less");
                        last = page.revision;
                        pages += 1;
                    }
                })
            })
            .collect();
        for step in 1..5000_u32 {
            let (from, to) = (((step - 1) % KEYS).to_be_bytes(), (step % KEYS).to_be_bytes());
            let then = vec![
                TransactionOp::Delete { key: &from },
                TransactionOp::Put { key: &to, value: b"1", ttl_ms: None },
            ];
            let op = Op::Transaction(Transaction { then, ..Transaction::default() });
            bench.op(&orders, op.encode());
        }
        done.store(true, Ordering::Relaxed);
        readers.into_iter().for_each(|reader| reader.join().unwrap());
    });
}

/// Keys that are there all the time are on exactly one page, however the others come and go.
#[test]
fn pages_are_complete_while_frames_are_applied() {
    let mut bench = Bench::new(Shards::builder());
    let orders = shard("acme/orders");
    let fixed: Vec<Vec<u8>> = (0..200_u32).map(|key| (key * 2).to_be_bytes().to_vec()).collect();
    let pairs: Vec<_> = fixed.iter().map(|key| ("acme/orders", key.clone(), vec![])).collect();
    put_all(&mut bench, &pairs);
    let kv = bench.shards.kv();
    let mut seen = BTreeMap::<Vec<u8>, u32>::new();
    let mut scan = Scan::all().limit(7);
    for round in 0_u32.. {
        let page = kv.scan(&orders, &scan).unwrap();
        for entry in &page.entries {
            *seen.entry(entry.key.to_vec()).or_default() += 1;
        }
        // Before, at and after the place of the token keys come and go.
        for odd in [1, page.entries.len() as u32 * round * 2 + 1, 399] {
            let key = odd.to_be_bytes();
            let op = if round % 2 == 0 { Op::put(&key, b"") } else { Op::delete(&key) };
            bench.op(&orders, op.encode());
        }
        match page.next {
            Some(token) => scan = scan.after(token),
            None => break,
        }
    }
    assert!(fixed.iter().all(|key| seen.get(key) == Some(&1)), "{seen:?}");
    assert!(seen.values().all(|count| *count == 1));
}

#[test]
fn organisations_of_any_number_are_listed_once_in_byte_order() {
    let mut bench = Bench::new(Shards::builder());
    assert!(bench.shards.orgs(None, 10).is_empty());
    let greatest = char::MAX.to_string();
    let longest = greatest.repeat(ORG_BYTES_MAX / greatest.len());
    // Names that others begin with, and those around what separates the two parts in a text.
    let orgs = ["a", "a b", "a!", "a!!", "a.b", "a0", "ab", "b", "\u{e9}", &greatest, &longest];
    let last_namespace = greatest.repeat(NAMESPACE_BYTES_MAX / greatest.len());
    for org in orgs.iter().rev() {
        for namespace in ["z", "!", "a", &last_namespace] {
            bench.op(&shard(&format!("{org}/{namespace}")), Op::put(b"k", b"").encode());
        }
    }
    // A refused operation makes no namespace, and so no organisation.
    bench.op(&shard("nobody/n"), Op::delete(b"missing").encode());
    let mut expected: Vec<_> = orgs.iter().map(ToString::to_string).collect();
    expected.sort_unstable();
    bench.checkpoint();
    for shards in [&bench.shards, &bench.restored(Shards::builder()).shards] {
        assert_eq!(shards.orgs(None, usize::MAX), expected);
        assert_eq!(shards.orgs(Some("a b"), 2), ["a!", "a!!"]);
        assert_eq!(shards.orgs(Some("a c"), 1), ["a!"], "between two organisations");
        assert!(shards.orgs(Some(&longest), 10).is_empty());
        assert!(shards.orgs(None, 0).is_empty());
        assert!(shards.orgs(Some("no/name"), 10).is_empty());
        for size in 1..=orgs.len() {
            let mut all: Vec<String> = Vec::new();
            loop {
                let page = shards.orgs(all.last().map(String::as_str), size);
                all.extend_from_slice(&page);
                if page.len() < size {
                    break;
                }
            }
            assert_eq!(all, expected, "in pages of {size}");
        }
    }
}
