//! What the cores of two nodes say to one another, and batches, which stand in logs too.

use std::time::Duration;

use bytes::Bytes;
use quorate_engine::engine::{Admin, Message};
use quorate_engine::{
    BatchEncoder, BatchHead, DecodedBatch, Forward, MemberList, Packet, Refusal, Refused, Witness,
};
use quorate_replicator::{
    AdminError, CallSignature, Frame, FrameId, GroupId, LogTime, Member, MemberChange, MemberRole,
    NodeId, SessionId, ShardKey,
};

use crate::input::comes_back;

pub(crate) fn packet(bytes: &[u8]) {
    let read = comes_back(bytes, Packet::decode, |(group, packet)| packet.encode(*group));
    if let Some((_, Packet::Forward(forward))) = read {
        batch(&forward.batch);
    }
}

pub(crate) fn batch(bytes: &[u8]) {
    comes_back(bytes, DecodedBatch::decode, |batch| {
        BatchEncoder::default().encode(&batch.head, batch.frames.iter())
    });
}

pub(crate) fn packets() -> Vec<Vec<u8>> {
    let change = MemberChange::Add {
        node: NodeId::new(4),
        address: "host:7000".into(),
        role: MemberRole::Voter,
    };
    let (node, role, address) = (NodeId::new(1), MemberRole::Voter, "host:7001".into());
    let members = vec![Member { node, role, address }];
    let (ticket, within) = (8, Duration::from_secs(2));
    let (head, bodies) = (Bytes::from("head"), vec![Bytes::from("one"), Bytes::new()]);
    let batch = batches().remove(0).into();
    let packets = [
        Packet::Alive(MemberList { since: 9, members }),
        Packet::Engine(Message { head, bodies }),
        Packet::Forward(Forward { stream: 1, number: 2, within, batch }),
        Packet::Refused(Refused { stream: 1, number: 2, why: Refusal::Gap }),
        Packet::Refused(Refused { stream: 1, number: 2, why: Refusal::NotLeader(Some(node)) }),
        Packet::Admin { ticket, within, admin: Admin::Change(change) },
        Packet::AdminAnswer { ticket, answer: Ok(()) },
        Packet::AdminAnswer { ticket, answer: Err(AdminError::NotLeader { leader: Some(node) }) },
    ];
    packets.iter().map(|packet| packet.encode(GroupId::new(7)).to_vec()).collect()
}

pub(crate) fn batches() -> Vec<Vec<u8>> {
    let frame = |number: u64, shard: &str| {
        let id = FrameId { session: SessionId::new([3; 16]), serial: number };
        let shard = ShardKey::parse(shard).expect("it is a good name");
        let valid_until = number.is_multiple_of(2).then(|| LogTime::from_ms(number));
        Frame {
            settled: number / 2,
            valid_until,
            ..Frame::new(id, shard, vec![7; number as usize])
        }
    };
    let frames = [frame(1, "acme/orders"), frame(2, "acme/users"), frame(3, "acme/orders")];
    let witness = Witness { index: 3, history: [9; 32] };
    let head = BatchHead { log_time: LogTime::from_ms(77), witness };
    let encode = |frames: &[Frame]| BatchEncoder::default().encode(&head, frames.iter()).to_vec();
    let mut signed = frames.clone();
    let (key, signature) = (Bytes::from_static(&[1; 32]), Bytes::from_static(&[2; 64]));
    signed[0].signed = Some(Box::new(CallSignature { frames: 2, key, signature }));
    let counts = (0..=frames.len()).rev();
    counts.map(|count| encode(&frames[..count])).chain([encode(&signed)]).collect()
}
