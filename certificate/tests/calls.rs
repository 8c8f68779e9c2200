//! An auditor is told of a frame that its session's owner has not signed, though all validators have voted for it.

mod common;

use bytes::Bytes;
use common::Cluster;
use quorate_certificate::{
    Audit, AuditError, BodyKind, CallFrame, CallKey, CallProblem, Decided, FaultModel, Genesis,
    Scheme,
};
use quorate_engine::{BatchEncoder, BatchHead, Witness};
use quorate_replicator::{CallSignature, Frame, FrameId, LogTime, SessionId, ShardKey};

fn encode(frames: &[Frame]) -> Bytes {
    let witness = Witness { index: 0, history: [0; 32] };
    let head = BatchHead { log_time: LogTime::ZERO, witness };
    BatchEncoder::default().encode(&head, frames.iter())
}

fn sign(key: &CallKey, frames: &mut [Frame]) {
    let calls = frames.iter().map(|frame| CallFrame {
        session: frame.id.session.as_bytes(),
        serial: frame.id.serial,
        settled: frame.settled,
        shard: frame.shard.as_str(),
        payload: &frame.payload,
        valid_until_ms: frame.valid_until.map(LogTime::as_ms),
    });
    let signature = key.sign(0, calls).unwrap();
    let (key, frames_count) = (key.public().as_bytes().to_vec(), frames.len() as u32);
    let signature = signature.as_bytes().to_vec().into();
    frames[0].signed =
        Some(Box::new(CallSignature { frames: frames_count, key: key.into(), signature }));
}

fn audit(cluster: &Cluster, genesis: &Genesis, frames: &[Frame]) -> Result<(), AuditError> {
    let body = encode(frames);
    let header = cluster.first(BodyKind::Frames, &body);
    let certificate = cluster.certificate(&header, 0, &[1, 2, 3]).encode();
    let header = header.encode();
    let decided = Decided { header: &header, body: &body, certificate: &certificate };
    Audit::new(genesis, 0).add(decided).map(drop)
}

#[test]
fn what_nobody_signed_is_named_though_a_quorum_voted_for_it() {
    for scheme in Scheme::ALL {
        let plain = Cluster::new(7, scheme, FaultModel::Byzantine, 4);
        let mut cluster = Cluster::new(7, scheme, FaultModel::Byzantine, 4);
        cluster.genesis = cluster.genesis.with_signed_frames();
        let key = CallKey::generate(&cluster.genesis).unwrap();
        let session = SessionId::new(key.session());
        let mut frames: Vec<_> = (1..=3)
            .map(|serial| {
                let id = FrameId { session, serial };
                let shard = ShardKey::new("org", &format!("ns{}", serial % 2)).unwrap();
                let valid_until = serial.is_multiple_of(2).then(|| LogTime::from_ms(serial << 20));
                Frame { settled: 1, valid_until, ..Frame::new(id, shard, vec![7; 300]) }
            })
            .collect();
        sign(&key, &mut frames);
        assert_eq!(audit(&cluster, &cluster.genesis, &frames), Ok(()));
        frames[2].settled = 2;
        let found = audit(&cluster, &cluster.genesis, &frames).unwrap_err();
        let AuditError::Call { height: 1, error } = &found else { panic!("{found}") };
        assert_eq!((error.slot, error.problem), (0, CallProblem::Signature));
        frames[0].signed = None;
        let found = audit(&cluster, &cluster.genesis, &frames).unwrap_err();
        assert!(found.to_string().starts_with("height 1: frame 0: it is not signed"), "{found}");
        // Where the genesis does not ask, nobody looks.
        assert_eq!(audit(&plain, &plain.genesis, &frames), Ok(()));
    }
}
