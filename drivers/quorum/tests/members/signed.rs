//! Where the genesis wants frames signed, no validator that proposes can make up what somebody proposes, or change it.

use bytes::Bytes;
use quorate_certificate::{Genesis, Scheme};
use quorate_engine::{BatchEncoder, BatchHead, DecodedBatch, Witness};
use quorate_replicator::{
    CallSignature, Durability, Frame, FrameId, Health, LogTime, NodeId, SessionId, ShardKey,
    Signer, Status, limits,
};

use crate::table::Table;

const ALL: [u64; 5] = [1, 2, 3, 4, 5];

fn shard(name: &str) -> ShardKey {
    ShardKey::new("org", name).unwrap()
}

fn encode(frames: &[Frame]) -> Bytes {
    let head =
        BatchHead { log_time: LogTime::ZERO, witness: Witness { index: 0, history: [0; 32] } };
    BatchEncoder::default().encode(&head, frames.iter())
}

fn table() -> Table {
    Table::with(Scheme::Ed25519, Genesis::with_signed_frames)
}

fn signer(table: &Table) -> Signer {
    table.inspector(1).signer(1).unwrap().expect("frames have to be signed")
}

fn frame(session: SessionId, serial: u64, payload: &'static str) -> Frame {
    Frame { settled: 1, ..Frame::new(FrameId { session, serial }, shard("ns"), payload) }
}

/// A call of three frames, and one of another session.
fn call(table: &Table) -> Vec<Frame> {
    let (one, other) = (signer(table), signer(table));
    let mut call: Vec<_> =
        (1..=3).zip(["a", "b", "c"]).map(|(it, text)| frame(one.session(), it, text)).collect();
    one.sign(&mut call).unwrap();
    let mut alone = frame(other.session(), 1, "d");
    other.sign(std::slice::from_mut(&mut alone)).unwrap();
    call.push(alone);
    call
}

fn signed(frames: &mut [Frame]) -> &mut CallSignature {
    frames[0].signed.as_mut().expect("it was signed")
}

/// What a proposer may try with a call of three frames and another frame.
fn attempts(table: &Table) -> Vec<(&'static str, Vec<Frame>)> {
    let honest = call(table);
    let forger = signer(table);
    let foreign = Table::with(Scheme::Ed25519, |genesis| {
        let validators = genesis.validators().validators().to_vec();
        let (model, scheme) = (genesis.fault_model(), Scheme::Ed25519);
        Genesis::new([8; 16], model, scheme, 500, validators).unwrap().with_signed_frames()
    });
    let with = |change: &dyn Fn(&mut Vec<Frame>)| {
        let mut frames = honest.clone();
        change(&mut frames);
        frames
    };
    let session = honest[0].id.session;
    vec![
        ("a frame that nobody signed", with(&|it| it.push(frame(session, 4, "made up")))),
        (
            "a frame that somebody else signed",
            with(&|it| {
                let mut made_up = [frame(session, 4, "made up")];
                forger.sign(&mut made_up).unwrap();
                it.extend(made_up);
            }),
        ),
        (
            "a frame in another one's call",
            with(&|it| {
                it.insert(3, frame(session, 4, "made up"));
                signed(it).frames = 4;
            }),
        ),
        ("a serial that is burnt", with(&|it| it[3].payload = Bytes::from_static(b"other"))),
        ("another serial", with(&|it| it[3].id.serial = 2)),
        ("another session", with(&|it| it[3].id.session = session)),
        ("another shard", with(&|it| it[1].shard = shard("other"))),
        ("what is settled", with(&|it| it[2].settled = 3)),
        ("until when it is valid", with(&|it| it[0].valid_until = Some(LogTime::ZERO))),
        ("the end of a call that is cut off", with(&|it| drop(it.remove(2)))),
        (
            "a call that is cut, and says so",
            with(&|it| {
                it.remove(2);
                signed(it).frames = 2;
            }),
        ),
        (
            "a call that is split",
            with(&|it| {
                let mut rest = signed(it).clone();
                (signed(it).frames, rest.frames) = (1, 2);
                it[1].signed = Some(Box::new(rest));
            }),
        ),
        (
            "the beginning of a call that is left out",
            with(&|it| {
                let head = it.remove(0).signed;
                it[0].signed = head;
                signed(it).frames = 2;
            }),
        ),
        (
            "a call in another order",
            with(&|it| {
                it.swap(1, 2);
            }),
        ),
        ("another frame within a call", with(&|it| it.swap(2, 3))),
        (
            "a frame twice in its call",
            with(&|it| {
                it[2] = it[1].clone();
            }),
        ),
        ("no signatures", with(&|it| it.iter_mut().for_each(|frame| frame.signed = None))),
        ("a call of another cluster", call(&foreign)),
    ]
}

#[test]
fn honest_validators_vote_for_nothing_that_its_proposer_made_up() {
    let asked = table();
    for (what, frames) in attempts(&asked) {
        let batch = encode(&frames);
        assert!(DecodedBatch::decode(&batch).is_ok(), "{what}: it can be read");
        // A table of its own for each: what one has tried makes others suspect it.
        let mut table = table();
        assert!(!table.inspector(2).admits_batch(&batch), "{what}: nobody takes it to propose it");
        table.lie(batch.clone());
        let honest = encode(&call(&table));
        assert!(table.inspector(2).admits_batch(&honest), "{what}");
        table.offer_batch(honest);
        table.settle(&ALL);
        assert_eq!(table.delivered(&batch), 0, "{what}");
        table.audit(1);
    }
}

/// The same is decided where the genesis does not ask: so it is the signatures that are in its way.
#[test]
fn where_nobody_asks_for_signatures_it_is_decided() {
    let asked = table();
    for (what, frames) in attempts(&asked) {
        let batch = encode(&frames);
        let mut table = Table::new(Scheme::Ed25519);
        assert!(table.inspector(1).signer(1).unwrap().is_none());
        assert!(table.inspector(2).admits_batch(&batch), "{what}");
        table.lie(batch.clone());
        table.offer();
        table.settle(&ALL);
        assert_eq!(table.delivered(&batch), ALL.len(), "{what}");
    }
}

#[test]
fn who_proposes_is_told_what_is_missing() {
    let table = table();
    let inspector = table.inspector(1);
    let session = SessionId::new([1; 16]);
    let problem = inspector.admits(&[frame(session, 1, "x")]).unwrap_err();
    assert!(problem.contains("not signed") && problem.contains("Session"), "{problem}");
    let mut call = call(&table);
    assert_eq!(inspector.admits(&call), Ok(()));
    call[3].settled = 0;
    let problem = inspector.admits(&call).unwrap_err();
    assert!(problem.contains("does not hold"), "{problem}");
}

#[test]
fn an_opening_becomes_too_late() {
    let table = table();
    let status = Status::new(NodeId::new(1), "quorum", Durability::Memory, Health::Ready);
    let open = signer(&table).open_session(&shard("ns"), &status).unwrap();
    assert_eq!(open.valid_until, Some(LogTime::from_ms(limits::SESSION_IDLE_MS / 2)));
    assert_eq!(table.inspector(1).admits(&[open]), Ok(()));
}
