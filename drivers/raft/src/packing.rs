//! One message for each peer and turn, of all that the core has to say to it.

use std::collections::BTreeMap;

use bytes::Bytes;
use quorate_engine::engine::{Message, Outgoing};
use quorate_replicator::NodeId;
use quorate_storage::Seq;

use crate::core::{CoreMessage, Kind, describe, write_message};
use crate::hello::{Envelope, MESSAGES_MAX};

/// Most bytes of bodies in one message, except that one message of the core always fits; with its head it stays below what a
/// transport carries.
const BODY_BYTES_MAX: usize = 1 << 20;

/// What goes together: to whom, after which write, and on which channel. Appends keep their order among themselves.
type Place = (u64, Seq, bool);

/// Packs messages; `address` tells where a raft id is, and between which directories.
pub(crate) fn pack(
    messages: Vec<(CoreMessage, Seq)>,
    address: impl Fn(u64) -> Option<(NodeId, Envelope)>,
    sends: &mut Vec<Outgoing>,
) {
    let mut places: BTreeMap<Place, Vec<(CoreMessage, Kind)>> = BTreeMap::new();
    for (message, after) in messages {
        let kind = describe(&message);
        let urgent = !matches!(kind, Kind::Append { .. });
        let there = places.entry((message.to, after, urgent)).or_default();
        if let Some((_, before)) = there.last()
            && is_superseded(*before, kind)
        {
            there.pop();
        }
        there.push((message, kind));
    }
    for ((to, after, urgent), messages) in places {
        let Some((node, envelope)) = address(to) else { continue };
        let mut rest = &messages[..];
        while !rest.is_empty() {
            let fits = how_many_fit(rest);
            let (now, later) = rest.split_at(fits);
            rest = later;
            let mut bodies: Vec<Bytes> = Vec::new();
            let mut writer = envelope.begin(now.len());
            let all =
                now.iter().all(|(message, _)| write_message(message, &mut writer, &mut bodies));
            if all {
                let message = Message { head: writer.finish(), bodies };
                sends.push(Outgoing { to: vec![node], after, urgent, message });
            }
        }
    }
}

/// An acknowledgement says all that an earlier one said, and an append without entries what the next append says.
fn is_superseded(before: Kind, next: Kind) -> bool {
    match (before, next) {
        (Kind::Ack { term, index }, Kind::Ack { term: now, index: up_to }) => {
            term == now && index <= up_to
        }
        (Kind::Append { entries: 0, .. }, Kind::Append { .. }) => true,
        _ => false,
    }
}

fn how_many_fit(messages: &[(CoreMessage, Kind)]) -> usize {
    let mut bytes = 0;
    let fits = messages.iter().take(MESSAGES_MAX).take_while(|(_, kind)| {
        if let Kind::Append { bytes: more, .. } = kind {
            bytes += more;
        }
        bytes <= BODY_BYTES_MAX
    });
    fits.count().max(1)
}
