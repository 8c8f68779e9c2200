//! Batches are cut where the encoder of the engine has their elements.

use bytes::Bytes;
use quorate_certificate::{BodyKind, FrameProof, ProvenFrame, body_hash, frames_of};
use quorate_engine::{BatchEncoder, BatchHead, Witness};
use quorate_replicator::{CallSignature, Frame, FrameId, LogTime, SessionId, ShardKey};

fn encode(frames: &[Frame]) -> Bytes {
    let witness = Witness { index: 70_000, history: [9; 32] };
    let head = BatchHead { log_time: LogTime::from_ms(1_700_000_000_000), witness };
    BatchEncoder::default().encode(&head, frames.iter())
}

fn frame(serial: u64) -> Frame {
    let id = FrameId { session: SessionId::new([serial as u8; 16]), serial };
    // Lengths and numbers of each form that MessagePack has for them.
    let bytes = [0, 1, 31, 32, 255, 256, 65_535, 65_536][serial as usize % 8];
    let shard = ShardKey::new("org", &format!("{}{}", "n".repeat(bytes.min(60)), serial % 40));
    let mut frame = Frame::new(id, shard.unwrap(), vec![serial as u8; bytes]);
    frame.settled = serial.saturating_sub(1);
    let (key, signature) = (vec![1; bytes.min(300)].into(), vec![2; 64].into());
    let signed = CallSignature { frames: bytes as u32 + 1, key, signature };
    frame.signed = serial.is_multiple_of(2).then(|| Box::new(signed));
    frame.valid_until = serial.is_multiple_of(3).then(|| LogTime::from_ms(serial << (serial % 40)));
    frame
}

#[test]
fn each_frame_of_a_batch_is_shown_as_it_was_encoded() {
    for count in [1, 2, 3, 15, 16, 17] {
        let frames: Vec<_> = (0..count).map(|i| frame(i * 37)).collect();
        let body = encode(&frames);
        let hash = body_hash(BodyKind::Frames, &body);
        let mut listed = frames_of(&body).expect("it is a batch").into_iter();
        for (slot, frame) in (0..).zip(&frames) {
            let proof = FrameProof::new(&body, slot).expect("the batch has this frame");
            let shown = ProvenFrame {
                slot,
                session: *frame.id.session.as_bytes(),
                serial: frame.id.serial,
                shard: frame.shard.as_str().to_owned(),
                payload: frame.payload.clone(),
                valid_until_ms: frame.valid_until.map(LogTime::as_ms),
            };
            assert_eq!(listed.next().as_ref(), Some(&shown));
            assert_eq!(proof.verify(&hash), Ok(shown), "frame {slot} of {count}");
        }
        assert_eq!(listed.next(), None);
    }
}

#[test]
fn a_proof_of_one_frame_of_a_full_batch_is_small() {
    let frames: Vec<_> = (0..4096).map(|i| frame(i * 8 + 1)).collect();
    let body = encode(&frames);
    let bytes = FrameProof::new(&body, 2048).unwrap().encode();
    assert!(bytes.len() < 1000, "{} bytes", bytes.len());
}
