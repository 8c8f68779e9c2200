//! The stream of a snapshot: whole, in any pieces, from anywhere on, damaged, and made up.

use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use quorate_engine::{
    SnapshotError, SnapshotHead, SnapshotOffer, SnapshotPlan, SnapshotSink, SnapshotSource,
};
use quorate_replicator::{GroupId, NodeId};
use quorate_storage::{
    Changes, CheckpointMeta, CheckpointMode, CheckpointStore, CheckpointWrite, Disk, Group,
    MemoryDisk, Pin,
};

const GROUP: GroupId = GroupId::new(3);
const SENDER: NodeId = NodeId::new(1);
const INDEX: u64 = 42;

type Pairs = Vec<(Bytes, Bytes)>;

fn store() -> CheckpointStore {
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
    CheckpointStore::open(disk, Group::new(3), CheckpointMode::Create, 1 << 20).unwrap()
}

/// A store with one checkpoint.
fn filled(machine: &Pairs, host: &Pairs) -> CheckpointStore {
    let store = store();
    let put = |pairs: &Pairs| -> Changes {
        pairs.iter().map(|(key, value)| (key.clone(), Some(value.clone()))).collect()
    };
    let meta = CheckpointMeta {
        index: INDEX,
        position: Bytes::from_static(b"words"),
        mark: Bytes::from_static(b"mark"),
        state: [7; 32],
        log_watermark: 99,
    };
    let write = CheckpointWrite { meta, machine_pairs: put(machine), host_pairs: put(host) };
    store.write(write).unwrap();
    store
}

fn pin(store: &CheckpointStore) -> Pin {
    store.pin().unwrap().expect("there is a checkpoint")
}

fn source(store: &CheckpointStore) -> SnapshotSource {
    let pin = pin(store);
    let plan = SnapshotPlan::new(GROUP, &pin).unwrap();
    SnapshotSource::new(pin, Arc::new(plan))
}

/// All bytes of a stream, read in pieces of so many bytes.
fn stream(source: &mut SnapshotSource, bytes_max: usize) -> Vec<u8> {
    let mut stream = Vec::new();
    while (stream.len() as u64) < source.plan().head().bytes {
        let bytes = source.read(stream.len() as u64, bytes_max).unwrap();
        assert!((1..=bytes_max).contains(&bytes.len()));
        stream.extend_from_slice(&bytes);
    }
    assert!(source.read(stream.len() as u64, bytes_max).unwrap().is_empty());
    stream
}

fn id(store: &CheckpointStore) -> u128 {
    source(store).plan().id(SENDER)
}

fn sink(to: &CheckpointStore, id: u128, bytes: usize) -> SnapshotSink {
    SnapshotSink::new(to, SENDER, id, GROUP, INDEX, bytes as u64).unwrap()
}

/// Receives a stream in pieces of so many bytes and puts it in force.
fn receive(
    to: &CheckpointStore,
    id: u128,
    stream: &[u8],
    piece: usize,
) -> Result<(), SnapshotError> {
    let mut sink = sink(to, id, stream.len());
    for piece in stream.chunks(piece) {
        sink.write(piece)?;
    }
    to.install(sink.finish(5)?).unwrap();
    Ok(())
}

fn all(pin: &Pin) -> (Pairs, Pairs) {
    let machine = pin.read_machine(Bound::Unbounded, usize::MAX, usize::MAX).unwrap();
    (machine, pin.read_host(Bound::Unbounded, usize::MAX, usize::MAX).unwrap())
}

/// Pairs with values of so many bytes.
fn pairs(name: &str, count: u32, value_bytes: usize) -> Pairs {
    let pair = |number: u32| {
        let key = Bytes::from(format!("{name} {number:06}"));
        (key, Bytes::from(vec![number as u8; value_bytes]))
    };
    (0..count).map(pair).collect()
}

#[test]
fn what_is_sent_arrives_whatever_the_pieces() {
    // Several pieces of the machine, one of the host, and values that are larger than a piece.
    let mut machine = pairs("key", 260, 5000);
    machine.push((Bytes::from_static(b"large"), Bytes::from(vec![1; (1 << 20) + 1])));
    machine.push((Bytes::from_static(b"last"), Bytes::from_static(b"small")));
    let from = filled(&machine, &pairs("session", 10, 100));
    let mut source = source(&from);
    let sent = stream(&mut source, 64 << 10);
    assert_eq!(sent, stream(&mut source, usize::MAX), "a stream does not depend on how it is read");
    for piece in [1000, sent.len()] {
        let to = store();
        receive(&to, id(&from), &sent, piece).unwrap();
        let (of, copy) = (pin(&from), pin(&to));
        assert_eq!(all(&copy), all(&of));
        assert_eq!(copy.summary(), of.summary());
        let mut meta = of.meta().clone();
        meta.log_watermark = 5;
        assert_eq!(copy.meta(), &meta);
        // What was received is sent on as it came.
        assert_eq!(stream(&mut self::source(&to), 1 << 20), sent);
    }
}

#[test]
fn an_empty_checkpoint_arrives() {
    let from = filled(&Vec::new(), &Vec::new());
    let to = store();
    let sent = stream(&mut source(&from), 10);
    receive(&to, id(&from), &sent, 1).unwrap();
    assert_eq!(all(&pin(&to)), (Vec::new(), Vec::new()));
}

#[test]
fn a_stream_is_read_from_anywhere_on() {
    let from = filled(&pairs("key", 3000, 1000), &pairs("session", 2000, 700));
    let mut source = source(&from);
    let sent = stream(&mut source, 100_000);
    let mut random = fastrand::Rng::with_seed(1);
    let mut edges: Vec<usize> = (0..200).map(|_| random.usize(..sent.len())).collect();
    edges.extend([0, 1, sent.len() - 1]);
    for offset in edges {
        let bytes_max = random.usize(1..200_000);
        let bytes = source.read(offset as u64, bytes_max).unwrap();
        assert!((1..=bytes_max).contains(&bytes.len()));
        assert_eq!(bytes, sent[offset..offset + bytes.len()], "at {offset}");
    }
}

#[test]
fn every_bit_counts() {
    let from = filled(&pairs("key", 4, 6), &pairs("session", 2, 3));
    let to = store();
    let sent = stream(&mut source(&from), usize::MAX);
    for bit in 0..sent.len() * 8 {
        let mut damaged = sent.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        let refused = receive(&to, id(&from), &damaged, damaged.len());
        assert!(refused.is_err(), "bit {} of byte {}", bit % 8, bit / 8);
        assert_eq!(to.latest(), None);
    }
    receive(&to, id(&from), &sent, 7).unwrap();
}

#[test]
fn every_byte_counts() {
    let from = filled(&pairs("key", 4, 6), &pairs("session", 2, 3));
    let to = store();
    let sent = stream(&mut source(&from), usize::MAX);
    for end in 0..sent.len() {
        let mut whole = sink(&to, id(&from), sent.len());
        whole.write(&sent[..end]).unwrap();
        assert_eq!(whole.received(), end as u64);
        let refused = whole.finish(0).unwrap_err();
        assert!(matches!(refused, SnapshotError::Incomplete { .. }), "{end}: {refused}");
        // A sender that is wrong about the length is found out as well.
        assert!(receive(&to, id(&from), &sent[..end], end.max(1)).is_err(), "{end}");
    }
    let mut more = sent.clone();
    more.push(0);
    assert!(receive(&to, id(&from), &more, more.len()).is_err());
    let mut sink = sink(&to, id(&from), sent.len());
    assert!(sink.write(&more).is_err());
    assert!(matches!(sink.write(&[]), Err(SnapshotError::Ended)), "the first error is the last");
    assert!(matches!(sink.finish(0), Err(SnapshotError::Ended)));
    assert_eq!(to.latest(), None);
}

#[test]
fn what_was_not_offered_is_refused() {
    let from = filled(&pairs("key", 4, 6), &Vec::new());
    let (to, sent) = (store(), stream(&mut source(&from), usize::MAX));
    let bytes = sent.len() as u64;
    let offers = [
        (SENDER, id(&from), GroupId::new(4), INDEX, "group"),
        (SENDER, id(&from), GROUP, INDEX + 1, "index"),
        (SENDER, id(&from) + 1, GROUP, INDEX, "id"),
        (NodeId::new(2), id(&from), GROUP, INDEX, "sender"),
    ];
    for (sender, id, group, index, what) in offers {
        let mut sink = SnapshotSink::new(&to, sender, id, group, index, bytes).unwrap();
        let refused = sink.write(&sent).unwrap_err();
        assert!(matches!(refused, SnapshotError::NotOffered { .. }), "{what}: {refused}");
    }
}

/// A stream that says of itself whatever it likes: head and pieces with checksums that are right.
struct Forged {
    head: SnapshotHead,
    pieces: Vec<u8>,
}

impl Forged {
    fn of(store: &CheckpointStore) -> Self {
        Self { head: source(store).plan().head().clone(), pieces: Vec::new() }
    }

    fn piece(mut self, table: u8, pairs: u32, payload: &[u8]) -> Self {
        let mut head = vec![table];
        head.extend_from_slice(&pairs.to_le_bytes());
        head.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        head.extend_from_slice(&[0; 4]);
        let sum = crc32fast::hash(&[&head[..], payload].concat());
        head[9..].copy_from_slice(&sum.to_le_bytes());
        self.pieces.extend_from_slice(&head);
        self.pieces.extend_from_slice(payload);
        self
    }

    fn stream(&self) -> Vec<u8> {
        let mut words = Vec::new();
        words.extend_from_slice(&self.head.group.number().to_le_bytes());
        words.extend_from_slice(&self.head.index.to_le_bytes());
        words.extend_from_slice(&self.head.state);
        for tally in [&self.head.summary.machine, &self.head.summary.host] {
            words.extend_from_slice(&tally.pairs.to_le_bytes());
            words.extend_from_slice(&tally.digest);
        }
        let length_at = words.len();
        words.extend_from_slice(&[0; 8]);
        for sized in [&self.head.position, &self.head.mark] {
            words.extend_from_slice(&(sized.len() as u32).to_le_bytes());
            words.extend_from_slice(sized);
        }
        let all = (16 + words.len() + 32 + self.pieces.len()) as u64;
        words[length_at..length_at + 8].copy_from_slice(&all.to_le_bytes());
        let mut stream = b"quorsnap".to_vec();
        stream.extend_from_slice(&1_u32.to_le_bytes());
        stream.extend_from_slice(&(words.len() as u32).to_le_bytes());
        stream.extend_from_slice(&words);
        let sum = blake3::hash(&stream);
        stream.extend_from_slice(sum.as_bytes());
        stream.extend_from_slice(&self.pieces);
        stream
    }

    /// Why it is refused.
    fn refused(&self, to: &CheckpointStore) -> String {
        Self::refused_stream(&self.stream(), self.pieces.len(), to)
    }

    /// Why a stream is refused whose pieces have so many bytes.
    fn refused_stream(stream: &[u8], pieces: usize, to: &CheckpointStore) -> String {
        let head = stream.len() - pieces;
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"quorate snapshot");
        hasher.update(&SENDER.number().to_le_bytes());
        hasher.update(&stream[..head]);
        let id = u128::from_le_bytes(*hasher.finalize().as_bytes().first_chunk().unwrap());
        receive(to, id, stream, stream.len()).unwrap_err().to_string()
    }
}

fn pair(key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut bytes = (key.len() as u32).to_le_bytes().to_vec();
    bytes.extend_from_slice(&(value.len() as u32).to_le_bytes());
    bytes.extend_from_slice(key);
    bytes.extend_from_slice(value);
    bytes
}

#[test]
fn what_is_made_up_is_refused_even_with_right_checksums() {
    let from = filled(&vec![("a".into(), "1".into()), ("b".into(), "2".into())], &Vec::new());
    let to = store();
    let forged = || Forged::of(&from);
    let (a, b) = (pair(b"a", b"1"), pair(b"b", b"2"));
    let ab = [&a[..], &b].concat();
    // The forger's own words are right: what it forges of a true checkpoint is that checkpoint.
    assert_eq!(forged().piece(1, 2, &ab).stream(), stream(&mut source(&from), usize::MAX));
    let long = |key: u32, value: u32| [key.to_le_bytes(), value.to_le_bytes()].concat();
    let refusals = [
        (forged().piece(1, 2, &[&b[..], &a].concat()), "keys are not in order"),
        (forged().piece(1, 2, &[&a[..], &a].concat()), "keys are not in order"),
        (forged().piece(1, 1, &b).piece(1, 1, &a), "keys are not in order"),
        (forged().piece(2, 1, &a).piece(1, 1, &b), "tables are not in order"),
        (forged().piece(3, 2, &ab), "no table 3"),
        (forged().piece(0, 2, &ab), "no table 0"),
        (forged().piece(1, 3, &ab), "2 pairs of 3"),
        (forged().piece(1, 2, &ab[..ab.len() - 1]), "longer than its piece"),
        (forged().piece(1, 1, &long(u32::MAX, u32::MAX)), "longer than its piece"),
        (forged().piece(1, 1, &long(1, u32::MAX)), "longer than its piece"),
        (forged().piece(1, 1, &long((64 << 10) + 1, 0)), "longer than its piece"),
        (forged().piece(1, 0, b""), "has 0 bytes"),
        (forged().piece(1, 1, &a), "not what was sent"),
        (forged().piece(2, 2, &ab), "not what was sent"),
        (forged().piece(1, 2, &[&a[..], &pair(b"b", b"3")].concat()), "not what was sent"),
        (forged().piece(1, 3, &[&ab[..], &pair(b"c", b"3")].concat()), "not what was sent"),
    ];
    for (forged, expected) in refusals {
        let refused = forged.refused(&to);
        assert!(refused.contains(expected), "{expected:?} is not in {refused:?}");
        assert_eq!(to.latest(), None);
    }
}

#[test]
fn lengths_are_bounded_before_anything_is_allocated() {
    let to = store();
    // A head of 4 GiB, a piece of 4 GiB: refused by their lengths alone.
    let mut prefix = b"quorsnap\x01\0\0\0".to_vec();
    prefix.extend_from_slice(&u32::MAX.to_le_bytes());
    let refused = sink(&to, 0, 1 << 40).write(&prefix).unwrap_err();
    assert!(refused.to_string().contains("4294967295 bytes"), "{refused}");
    let from = filled(&pairs("key", 1, 1), &Vec::new());
    let forged = Forged::of(&from).piece(1, 1, &pair(b"a", b"1"));
    let mut stream = forged.stream();
    let length_at = stream.len() - forged.pieces.len() + 5;
    stream[length_at..length_at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    let refused = Forged::refused_stream(&stream, forged.pieces.len(), &to);
    assert!(refused.contains("4294967295 bytes"), "{refused}");
    // A later version is named, whatever follows.
    let mut later = b"quorsnap\x02\0\0\0".to_vec();
    later.extend_from_slice(&u32::MAX.to_le_bytes());
    let refused = sink(&to, 0, 1 << 40).write(&later).unwrap_err();
    assert!(matches!(refused, SnapshotError::Newer { version: 2, known: 1 }), "{refused}");
}

#[test]
fn a_pair_that_no_receiver_takes_is_not_sent() {
    let too_long = vec![(Bytes::from(vec![1; (64 << 10) + 1]), Bytes::new())];
    let from = filled(&Vec::new(), &too_long);
    let refused = SnapshotPlan::new(GROUP, &pin(&from)).unwrap_err();
    assert!(matches!(refused, SnapshotError::TooLarge { what: "a key", .. }), "{refused}");
    let longest = vec![(Bytes::from(vec![1; 64 << 10]), Bytes::from_static(b"value"))];
    let (from, to) = (filled(&longest, &Vec::new()), store());
    let sent = stream(&mut source(&from), usize::MAX);
    receive(&to, id(&from), &sent, 1 << 20).unwrap();
    assert_eq!(pin(&to).summary(), pin(&from).summary());
}

#[test]
fn offers_are_read_as_they_were_made() {
    let offer =
        SnapshotOffer { group: GROUP, index: u64::MAX - 1, head: Bytes::from_static(b"words") };
    let encoded = offer.encode().unwrap();
    assert_eq!(SnapshotOffer::decode(&encoded).unwrap(), offer);
    for end in 0..13 {
        assert!(SnapshotOffer::decode(&encoded.slice(..end)).is_err());
    }
    let mut later = encoded.to_vec();
    later[0] = 9;
    let refused = SnapshotOffer::decode(&later.into()).unwrap_err();
    assert!(matches!(refused, SnapshotError::Newer { version: 9, .. }), "{refused}");
    let longest = SnapshotOffer { head: vec![0; 60 << 10].into(), ..offer.clone() };
    assert_eq!(SnapshotOffer::decode(&longest.encode().unwrap()).unwrap(), longest);
    assert!(SnapshotOffer { head: vec![0; (60 << 10) + 1].into(), ..offer }.encode().is_err());
    assert!(SnapshotOffer::decode(&vec![1; 64 << 10].into()).is_err());
}

/// Keys and values of all kinds of lengths.
fn any_pairs() -> impl Strategy<Value = Pairs> {
    let bytes = |max| prop::collection::vec(any::<u8>(), 0..max);
    let value = prop_oneof![8 => bytes(20), 1 => bytes(2000)];
    let pairs = prop::collection::btree_map(bytes(12), value, 0..60);
    pairs.prop_map(|pairs| {
        pairs.into_iter().map(|(key, value)| (key.into(), value.into())).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_checkpoint_arrives_in_any_pieces(
        machine in any_pairs(),
        host in any_pairs(),
        seed in any::<u64>(),
    ) {
        let (from, to) = (filled(&machine, &host), store());
        let mut source = source(&from);
        let bytes = source.plan().head().bytes;
        let mut random = fastrand::Rng::with_seed(seed);
        let mut sink = sink(&to, id(&from), bytes as usize);
        while sink.received() < bytes {
            let piece = source.read(sink.received(), random.usize(1..300)).unwrap();
            sink.write(&piece).unwrap();
        }
        to.install(sink.finish(0).unwrap()).unwrap();
        prop_assert_eq!(all(&pin(&to)), (machine, host));
    }

    #[test]
    fn no_bytes_make_a_sink_panic(
        prefix in 0_usize..600,
        noise in prop::collection::vec(any::<u8>(), 1..400),
    ) {
        let (from, to) = (filled(&pairs("key", 9, 20), &pairs("session", 3, 5)), store());
        let sent = stream(&mut source(&from), usize::MAX);
        let mut bytes = sent[..prefix.min(sent.len())].to_vec();
        bytes.extend_from_slice(&noise);
        prop_assume!(!sent.starts_with(&bytes) && bytes != sent);
        prop_assert!(receive(&to, id(&from), &bytes, bytes.len()).is_err());
        prop_assert!(SnapshotOffer::decode(&noise.into()).map_or(true, |offer| offer.encode().is_ok()));
    }
}
