//! What an auditor or a validator is given by somebody it does not trust.

use std::sync::LazyLock;

use bytes::Bytes;
use quorate_certificate::{
    BodyKind, CallFrame, Certificate, DecidedFrame, Evidence, FaultModel, FrameProof, Genesis,
    Header, HistoryWriter, MembersBody, Motion, Scheme, Signature, SigningKey, Validator,
    ValidatorChange, ValidatorSet, VoteType, audit_history, body_hash, call_bytes, frames_of,
    session_of, verify_body_calls,
};

use crate::input::{Input, is_canonical};

/// Which of them, and the bytes.
pub(crate) fn judge(bytes: &[u8]) {
    let mut input = Input(bytes);
    match input.u8() % 11 {
        0 => is_canonical(input.0, |bytes| Some(Genesis::decode(bytes).ok()?.encode().into())),
        1 => is_canonical(input.0, |bytes| Some(ValidatorSet::decode(bytes).ok()?.encode().into())),
        2 => is_canonical(input.0, |bytes| Some(Header::decode(bytes).ok()?.encode().into())),
        3 => is_canonical(input.0, |bytes| Some(Certificate::decode(bytes).ok()?.encode().into())),
        4 => is_canonical(input.0, |bytes| Some(MembersBody::decode(bytes).ok()?.encode().into())),
        5 => is_canonical(input.0, |bytes| Some(Evidence::decode(bytes).ok()?.encode().into())),
        6 => is_canonical(input.0, |bytes| {
            let proof = FrameProof::decode(&Bytes::copy_from_slice(bytes)).ok()?;
            assert!(proof.verify(&[0; 32]).is_err(), "no batch has this hash");
            if let Some(rest) = proof.encode_without_payload() {
                let _ = FrameProof::decode_with(&rest.into(), b"another payload");
            }
            let _ = FrameProof::decode_with(&Bytes::copy_from_slice(bytes), b"hi");
            Some(proof.encode().into())
        }),
        7 => is_canonical(input.0, |bytes| {
            let proof = DecidedFrame::decode(&Bytes::copy_from_slice(bytes)).ok()?;
            let _ = proof.verify(None);
            Some(proof.encode().into())
        }),
        10 => is_canonical(input.0, |bytes| Some(Motion::decode(bytes).ok()?.encode().into())),
        8 => {
            let _ = audit_history(input.0, None, None);
        }
        _ => {
            let body = Bytes::copy_from_slice(input.0);
            let hash = body_hash(BodyKind::Frames, &body);
            let _ = verify_body_calls(&GENESIS.chain(0), Scheme::Ed25519, &body);
            for frame in frames_of(&body).into_iter().flatten().take(4) {
                let proof = FrameProof::new(&body, frame.slot).expect("the frame is there");
                assert_eq!(proof.verify(&hash).as_ref(), Ok(&frame));
            }
        }
    }
}

fn key() -> SigningKey {
    SigningKey::from_bytes(&[&[1][..], &[7; 32]].concat()).expect("any secret is one")
}

static GENESIS: LazyLock<Genesis> = LazyLock::new(|| {
    let validator = Validator { node: 1, power: 1, key: key().public().clone() };
    let (model, scheme) = (FaultModel::Byzantine, Scheme::Ed25519);
    Genesis::new([7; 16], model, scheme, 500, vec![validator]).expect("one")
});

/// A batch of one frame that is signed, as MessagePack has it.
fn signed_batch(key: &SigningKey) -> Vec<u8> {
    let session = session_of(key.public());
    let (shard, payload) = ("a/0", &b"hi"[..]);
    let frame = CallFrame {
        session: &session,
        serial: 5,
        settled: 0,
        shard,
        payload,
        valid_until_ms: None,
    };
    let call = call_bytes(&GENESIS.chain(0), &session, [frame]);
    let signature = key.sign(&call).expect("ed25519 draws no randomness");
    let batch = [
        &[0x96, 2, 2, 3, 0xc4, 1, 9, 0x91, 0xa3, b'a', b'/', b'0', 0x91, 0x97, 0xc4, 16][..],
        &session,
        &[5, 0, 0, 0xc4, 2, b'h', b'i', 0xc0, 0x93, 1, 0xc4, 32],
        key.public().as_bytes(),
        &[0xc4, 64],
        signature.as_bytes(),
    ]
    .concat();
    assert_eq!(verify_body_calls(&GENESIS.chain(0), Scheme::Ed25519, &batch), Ok(()));
    batch
}

/// One of each, as a cluster of one validator has it.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let (key, genesis) = (key(), GENESIS.clone());
    let (chain, set) = (genesis.chain(0), genesis.validators());
    // A batch of one frame, as MessagePack has it.
    let batch = [
        &[0x96, 1, 2, 3, 0xc4, 1, 9, 0x91, 0xa3, b'a', b'/', b'0', 0x91, 0x96, 0xc4, 16][..],
        &[8; 16],
        &[5, 0, 0, 0xc4, 2, b'h', b'i', 0xc0],
    ];
    let body = Bytes::from(batch.concat());
    let header = Header {
        height: 1,
        previous: *chain.as_bytes(),
        proposer: 1,
        validators: set.digest(),
        next_validators: set.digest(),
        state_index: 0,
        state: [0; 32],
        kind: BodyKind::Frames,
        body: body_hash(BodyKind::Frames, &body),
    };
    let id = header.id();
    let sign = |kind, value: Option<&[u8; 32]>| -> Signature {
        let vote = quorate_certificate::vote_bytes(&chain, 0, kind, 1, 0, value, 1);
        key.sign(&vote).expect("ed25519 draws no randomness")
    };
    let precommit = sign(VoteType::Precommit, Some(&id));
    let certificate =
        Certificate::new(1, 0, id, vec![(1, precommit.clone())]).expect("one").encode();
    let changes = vec![ValidatorChange::Power { node: 1, power: 2 }];
    let motion = Motion::new(changes.clone(), Vec::new()).expect("it changes something");
    let members = MembersBody { changes, note: Bytes::from_static(b"note") };
    let votes = [(None, sign(VoteType::Precommit, None)), (Some(id), precommit)];
    let evidence = Evidence::votes((0, 1, 0), 1, VoteType::Precommit, votes).expect("two values");
    let header = header.encode();
    let decided =
        quorate_certificate::Decided { header: &header, body: &body, certificate: &certificate };
    let proof = DecidedFrame::new(&genesis, 0, [], decided, 0).expect("the frame is there");
    let mut history = HistoryWriter::new(Vec::new(), &genesis, 0).expect("memory takes all");
    history.batch(decided).expect("memory takes all");
    let history = history.end(1, 1, &id).expect("memory takes all");
    let all = [
        genesis.encode(),
        set.encode(),
        header.clone(),
        certificate.clone(),
        members.encode(),
        evidence.encode(),
        FrameProof::new(&body, 0).expect("the frame is there").encode(),
        proof.encode(),
        history,
        body.to_vec(),
        motion.encode(),
    ];
    let signed = [(0, genesis.clone().with_signed_frames().encode()), (9, signed_batch(&key))];
    let all = (0..).zip(all).chain(signed);
    all.map(|(which, bytes)| [&[which][..], &bytes].concat()).collect()
}
