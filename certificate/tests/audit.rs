//! A history is accepted as it was decided, and in no other form.

mod common;

use bytes::Bytes;
use common::Cluster;
use common::chain::{Block, Chain};
use proptest::prelude::*;
use quorate_certificate::{
    Audit, AuditError, Audited, BodyKind, Certificate, CertificateError, DecidedFrame, FaultModel,
    Header, HistoryError, HistoryFileError, HistoryWriter, ProofError, Scheme, ValidatorHistory,
    audit_history,
};

fn audit_blocks(chain: &Chain, blocks: &[Block]) -> Result<Audit, AuditError> {
    let mut audit = chain.audit();
    for block in blocks {
        audit.add(block.as_decided())?;
    }
    Ok(audit)
}

fn audit_file(chain: &Chain, file: &[u8]) -> Result<Audited, HistoryFileError> {
    let tip = (!chain.blocks.is_empty()).then(|| chain.tip());
    audit_history(file, Some(&chain.genesis), tip)
}

/// The blocks in a file that says it ends as they do.
fn file_of(chain: &Chain, blocks: &[Block]) -> Vec<u8> {
    let mut writer = HistoryWriter::new(Vec::new(), &chain.genesis, 0).unwrap();
    for block in blocks {
        writer.batch(block.as_decided()).unwrap();
    }
    let last = blocks.last().unwrap().header();
    writer.end(blocks[0].header().height, last.height, &last.id()).unwrap()
}

#[test]
fn a_history_with_changes_of_the_validators_is_accepted() {
    let chain = Chain::example();
    let audit = audit_blocks(&chain, &chain.blocks).unwrap();
    assert_eq!(audit.tip(), Some(chain.tip()));
    assert_eq!(audit.validators().at(15).epoch(), 4);
    let nodes = |height| {
        let set = audit.validators().at(height).validators();
        set.iter().map(|validator| validator.node).collect::<Vec<_>>()
    };
    assert_eq!(nodes(4), [1, 2, 3, 4], "a change is in force two heights later");
    assert_eq!(nodes(5), [1, 2, 3, 4, 5]);
    assert_eq!(nodes(7), [1, 2, 3, 4, 5]);
    assert_eq!(nodes(8), [2, 3, 4, 5]);
    assert_eq!(nodes(9), [2, 3, 4, 5, 6]);

    let audited = audit_file(&chain, &chain.file()).unwrap();
    let found = (audited.first, audited.height, audited.id, audited.epoch, audited.group);
    assert_eq!(found, (1, 14, chain.tip().1, 4, 0));
    let empty = Chain::new(Cluster::new(7, Scheme::Ed25519, FaultModel::Byzantine, 4));
    let audited = audit_file(&empty, &empty.file()).unwrap();
    assert_eq!((audited.first, audited.height, audited.id), (0, 0, empty.tip().1));
}

#[test]
fn what_is_cut_out_put_in_twice_or_moved_is_named() {
    let chain = Chain::example();
    let count = chain.blocks.len();
    for height in 1..count {
        let mut without = chain.blocks.clone();
        without.remove(height - 1);
        let expected = height as u64;
        let gap = AuditError::Gap { expected, found: expected + 1 };
        assert_eq!(audit_blocks(&chain, &without).unwrap_err(), gap);
        let mut twice = chain.blocks.clone();
        twice.insert(height, twice[height - 1].clone());
        let gap = AuditError::Gap { expected: expected + 1, found: expected };
        assert_eq!(audit_blocks(&chain, &twice).unwrap_err(), gap);
        for other in height..count {
            let mut swapped = chain.blocks.clone();
            swapped.swap(height - 1, other);
            let gap = AuditError::Gap { expected, found: other as u64 + 1 };
            assert_eq!(audit_blocks(&chain, &swapped).unwrap_err(), gap);
            assert!(audit_file(&chain, &file_of(&chain, &swapped)).is_err());
        }
    }
}

#[test]
fn a_tail_that_is_missing_is_seen_by_who_knows_the_tip() {
    let chain = Chain::example();
    let (height, id) = chain.tip();
    for kept in 1..chain.blocks.len() {
        let file = file_of(&chain, &chain.blocks[..kept]);
        // By itself it is a good history.
        let audited = audit_history(&file[..], Some(&chain.genesis), None).unwrap();
        assert_eq!(audited.height, kept as u64);
        let error = audit_history(&file[..], Some(&chain.genesis), Some((height, id)));
        let Err(HistoryFileError::Audit(error)) = error else { panic!("{error:?}") };
        assert_eq!(error, AuditError::Tail { height: kept as u64, wanted: height });
    }
    let file = chain.file();
    let inner = chain.blocks[4].header().id();
    assert!(audit_history(&file[..], None, Some((5, inner))).is_ok());
    let error = audit_history(&file[..], None, Some((5, id))).unwrap_err();
    assert!(
        matches!(error, HistoryFileError::Audit(AuditError::OtherTip { height: 5, .. })),
        "{error}"
    );
}

#[test]
fn a_history_that_goes_on_from_what_another_driver_left_says_so() {
    let cluster = || Cluster::new(7, Scheme::Ed25519, FaultModel::Byzantine, 4);
    // The state that the header of height 10 has in these tests.
    let mut chain = Chain::inherited(cluster(), 9, [10; 32]);
    chain.frames(3);
    let audited = audit_file(&chain, &file_of(&chain, &chain.blocks)).unwrap();
    assert_eq!((audited.first, audited.height, audited.inherited), (10, 12, Some([10; 32])));
    // It begins there, or its beginning is gone.
    let later = audit_file(&chain, &file_of(&chain, &chain.blocks[1..])).unwrap();
    assert_eq!((later.first, later.inherited), (11, None));
    // What was signed for is that state at that height.
    for (index, state) in [(8, [10; 32]), (9, [9; 32])] {
        let mut other = Chain::inherited(cluster(), index, state);
        other.frames(3);
        let audited = audit_file(&other, &file_of(&other, &other.blocks)).unwrap();
        assert_eq!((audited.first, audited.inherited), (index + 1, None));
    }
    let mut whole = Chain::new(cluster());
    whole.frames(3);
    assert_eq!(audit_file(&whole, &whole.file()).unwrap().inherited, None);
}

#[test]
fn a_history_whose_beginning_is_gone_needs_the_changes_of_before() {
    let chain = Chain::example();
    for first in 2..=chain.blocks.len() {
        let audited = audit_file(&chain, &chain.file_from(first)).unwrap();
        assert_eq!((audited.first, audited.height), (first as u64, 14));
        let mut writer = HistoryWriter::new(Vec::new(), &chain.genesis, 0).unwrap();
        for block in &chain.blocks[first - 1..] {
            writer.batch(block.as_decided()).unwrap();
        }
        let bare = writer.end(first as u64, 14, &chain.tip().1).unwrap();
        // The first change is decided at height 3.
        assert_eq!(audit_file(&chain, &bare).is_ok(), first <= 3, "from height {first}");
    }
    let error = audit_history(&chain.file_from(6)[..], None, Some((5, [0; 32]))).unwrap_err();
    assert!(matches!(error, HistoryFileError::Audit(AuditError::Tip { height: 5 })), "{error}");
}

#[test]
fn a_single_batch_is_verified_with_the_changes_before_it() {
    let chain = Chain::example();
    let mut history = ValidatorHistory::new(&chain.genesis, 0);
    for block in chain.blocks.iter().filter(|block| block.header().kind == BodyKind::Members) {
        history.push(block.as_decided()).unwrap();
    }
    for block in &chain.blocks {
        assert_eq!(history.verify(block.as_decided()), Ok(block.header()));
    }
    // Without the newest change, what came after it is not taken.
    let mut short = ValidatorHistory::new(&chain.genesis, 0);
    let changes: Vec<_> =
        chain.blocks.iter().filter(|block| block.header().kind == BodyKind::Members).collect();
    for block in &changes[..changes.len() - 1] {
        short.push(block.as_decided()).unwrap();
    }
    let last = chain.blocks.last().unwrap();
    let error = short.verify(last.as_decided()).unwrap_err();
    assert!(
        matches!(error, HistoryError::Certificate(CertificateError::Validators { .. })),
        "{error}"
    );
    // A batch of frames is no change, and no change comes twice or too late.
    let kind = history.push(last.as_decided());
    assert_eq!(kind, Err(HistoryError::Kind { height: 14, kind: BodyKind::Frames }));
    let order = history.push(changes[0].as_decided());
    assert_eq!(order, Err(HistoryError::Order { height: 3, newest: 7 }));
}

#[test]
fn a_header_that_a_quorum_signed_has_to_follow_the_one_before_it() {
    // Everything that is signed here is signed by all validators: the rules of a history hold beyond that.
    let chain = Chain::example();
    let body = [9; 40];
    let good = chain.next(BodyKind::Frames, &body);
    let refusal = |header: &Header| {
        let mut audit = audit_blocks(&chain, &chain.blocks).unwrap();
        let error = audit.add(chain.signed(header, &body).as_decided()).unwrap_err();
        assert_eq!(audit.tip(), Some(chain.tip()), "what was refused is not taken");
        error
    };
    let mut audit = audit_blocks(&chain, &chain.blocks).unwrap();
    assert!(audit.add(chain.signed(&good, &body).as_decided()).is_ok());

    let error = refusal(&Header { previous: [1; 32], ..good.clone() });
    assert!(matches!(error, AuditError::Previous { height: 15, .. }), "{error}");
    let error = refusal(&Header { height: 17, ..good.clone() });
    assert_eq!(error, AuditError::Gap { expected: 15, found: 17 });
    let error = refusal(&Header { next_validators: [1; 32], ..good.clone() });
    assert_eq!(error, AuditError::Decision(HistoryError::NextValidators { height: 15 }));
    let error = refusal(&Header { state_index: 15, ..good.clone() });
    assert_eq!(error, AuditError::FutureState { height: 15, index: 15 });
    let error = refusal(&Header { state_index: 12, state: [99; 32], ..good.clone() });
    assert_eq!(error, AuditError::State { height: 15, index: 12 });
    let error = refusal(&Header { kind: BodyKind::Members, ..good.clone() });
    assert!(matches!(
        error,
        AuditError::Decision(HistoryError::Certificate(CertificateError::Body { .. }))
    ));
    let empty = Header { kind: BodyKind::Empty, ..chain.next(BodyKind::Empty, &body) };
    let error = refusal(&empty);
    assert!(matches!(
        error,
        AuditError::Decision(HistoryError::Certificate(CertificateError::Body { .. }))
    ));
    let members = chain.next(BodyKind::Members, &body);
    let error = refusal(&members);
    assert!(
        matches!(error, AuditError::Decision(HistoryError::Body { height: 15, .. })),
        "{error}"
    );
}

#[test]
fn the_history_of_another_cluster_is_refused_whole_or_in_part() {
    let chain = Chain::example();
    let other = Cluster::new(8, Scheme::Ed25519, FaultModel::Byzantine, 4);
    let error = audit_history(&chain.file()[..], Some(&other.genesis), None).unwrap_err();
    assert!(matches!(error, HistoryFileError::Genesis { .. }), "{error}");
    // Another cluster with the same keys decides the same batches.
    let mut twin = Chain::new(Cluster::new(8, Scheme::Ed25519, FaultModel::Byzantine, 4));
    twin.frames(2);
    let mut mixed = chain.blocks.clone();
    mixed[1].certificate = twin.blocks[1].certificate.clone();
    assert!(audit_blocks(&chain, &mixed).is_err());
    mixed[1] = twin.blocks[1].clone();
    let error = audit_blocks(&chain, &mixed).unwrap_err();
    assert!(matches!(error, AuditError::Previous { height: 2, .. }), "{error}");
    let error = audit_blocks(&chain, &twin.blocks).unwrap_err();
    assert!(matches!(error, AuditError::Previous { height: 1, .. }), "{error}");
}

#[test]
fn signers_that_are_swapped_doubled_or_too_few_are_refused_at_any_height() {
    let chain = Chain::example();
    for place in 0..chain.blocks.len() {
        let certificate = Certificate::decode(&chain.blocks[place].certificate).unwrap();
        let with = |signatures: Vec<_>| {
            let (height, id) = (certificate.height(), *certificate.value());
            let changed = Certificate::new(height, 0, id, signatures).unwrap();
            let mut blocks = chain.blocks.clone();
            blocks[place].certificate = changed.encode();
            audit_blocks(&chain, &blocks)
        };
        let all = certificate.signatures().to_vec();
        assert!(with(all.clone()).is_ok());
        let mut swapped = all.clone();
        let first = swapped[0].1.clone();
        swapped[0].1 = std::mem::replace(&mut swapped[1].1, first);
        let error = with(swapped).unwrap_err().to_string();
        assert!(error.contains("does not hold"), "{error}");
        let needed = all.len() * 2 / 3 + 1;
        assert!(with(all[..needed].to_vec()).is_ok());
        let error = with(all[..needed - 1].to_vec()).unwrap_err().to_string();
        assert!(error.contains("no quorum"), "{error}");
    }
}

#[test]
fn no_bit_of_a_file_can_flip() {
    let mut chain = Chain::new(Cluster::new(7, Scheme::Ed25519, FaultModel::Byzantine, 4));
    chain.add(5);
    chain.frames(1);
    for file in [chain.file(), chain.file_from(2)] {
        let good = audit_file(&chain, &file).unwrap();
        for bit in 0..file.len() * 8 {
            let mut flipped = file.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            // Whoever has nothing but the file sees it, too.
            let audited = audit_history(&flipped[..], None, None);
            assert!(audited.is_err(), "bit {bit} of {}: {audited:?}", file.len() * 8);
        }
        for length in 0..file.len() {
            assert!(audit_history(&file[..length], None, None).is_err(), "cut at {length}");
        }
        assert!(audit_history(&[&file[..], &[0]].concat()[..], None, None).is_err());
        assert_eq!(audit_file(&chain, &file).unwrap(), good);
    }
}

#[test]
fn a_frame_is_proved_with_the_changes_before_it_and_no_bit_of_the_proof_can_flip() {
    let mut chain = Chain::new(Cluster::new(7, Scheme::Ed25519, FaultModel::Byzantine, 4));
    chain.add(5);
    chain.frames(1);
    // A batch of one frame, as MessagePack has it.
    let mut batch = vec![0x96, 1, 2, 3, 0xc4, 1, 9, 0x91, 0xa3];
    batch.extend_from_slice(b"a/0");
    batch.extend_from_slice(&[0x91, 0x96, 0xc4, 16]);
    batch.extend_from_slice(&[8; 16]);
    batch.extend_from_slice(&[5, 0, 0, 0xc4, 2, b'h', b'i', 0xc0]);
    chain.decide(BodyKind::Frames, &batch);
    let [change, _, last] = &chain.blocks[..] else { panic!("three are decided") };
    let changes = [change.as_decided()];
    let proof = DecidedFrame::new(&chain.genesis, 0, changes, last.as_decided(), 0).unwrap();
    let bytes = proof.encode();
    let proof = DecidedFrame::decode(&bytes.clone().into()).unwrap();
    let shown = proof.verify(Some(&chain.genesis)).unwrap();
    assert_eq!((shown.height, shown.id, shown.frame.slot), (3, chain.tip().1, 0));
    assert_eq!(
        (&*shown.frame.shard, shown.frame.serial, &*shown.frame.payload),
        ("a/0", 5, &b"hi"[..])
    );
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let shown = DecidedFrame::decode(&flipped.into()).map(|proof| proof.verify(None));
        assert!(!matches!(shown, Ok(Ok(_))), "bit {bit}: {shown:?}");
    }
    for length in 0..bytes.len() {
        assert!(DecidedFrame::decode(&Bytes::copy_from_slice(&bytes[..length])).is_err());
    }
    // Without the change it is not that of the validators who are known.
    let bare = DecidedFrame::new(&chain.genesis, 0, [], last.as_decided(), 0).unwrap();
    assert!(matches!(bare.verify(None), Err(ProofError::Decision(_))));
    let other = Cluster::new(8, Scheme::Ed25519, FaultModel::Byzantine, 4);
    let error = proof.verify(Some(&other.genesis)).unwrap_err();
    assert!(matches!(error, ProofError::Genesis { .. }), "{error}");
    // No frame has this place, and a change of the validators has none at all.
    assert_eq!(DecidedFrame::new(&chain.genesis, 0, [], last.as_decided(), 1), None);
    assert_eq!(DecidedFrame::new(&chain.genesis, 0, [], change.as_decided(), 0), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_damage_of_a_long_file_is_accepted(
        place in any::<prop::sample::Index>(),
        bytes in prop::collection::vec(any::<u8>(), 1..20),
    ) {
        let chain = Chain::example();
        let file = chain.file();
        let place = place.index(file.len());
        let mut damaged = file.clone();
        for (byte, new) in damaged[place..].iter_mut().zip(&bytes) {
            *byte = *new;
        }
        prop_assume!(damaged != file);
        prop_assert!(audit_history(&damaged[..], None, None).is_err());
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let chain = Chain::new(Cluster::new(7, Scheme::Ed25519, FaultModel::Byzantine, 1));
        let file = [&chain.file()[..30], &bytes].concat();
        prop_assert!(audit_history(&bytes[..], None, None).is_err());
        prop_assert!(audit_history(&file[..], None, None).is_err());
    }
}
