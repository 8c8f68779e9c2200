//! Inputs that mean something to other engines, or nothing to anyone.

use std::time::Duration;

use bytes::Bytes;
use quorate_engine::engine::{Admin, Input, Message, TimerId, Verdict};
use quorate_replicator::{LogTime, NodeId};

use super::{EngineFactory, World, each_seed};

/// Strangers' messages, bytes that are no message, timers and tickets that the engine never gave, wishes that it cannot
/// fulfil: none of it makes an engine panic, fault, or forget what it does.
pub fn inputs_for_others_do_no_harm<F: EngineFactory>(factory: &F) {
    each_seed("inputs_for_others_do_no_harm", factory, |world| {
        for _ in 0..40 {
            let node = world.any_node();
            world.offer(node);
            for _ in 0..world.random.usize(1..4) {
                let input = stray(world);
                world.tell(node, input);
            }
            let passing = Duration::from_micros(world.random.u64(..5_000));
            world.pass(passing);
        }
    });
}

fn stray<F: EngineFactory>(world: &mut World<'_, F>) -> Input {
    let any = world.random.u64(..);
    // Numbers that no engine gives out by counting.
    let unknown = any | 1 << 63;
    let member = NodeId::new(1 + world.any_node() as u64);
    let stranger = NodeId::new(1000 + any % 1000);
    let whom = if world.random.bool() { member } else { stranger };
    match world.random.u32(..9) {
        0 => Input::Message { from: stranger, message: Message::default() },
        1 => Input::Message { from: stranger, message: noise(world) },
        // A member is believed what can be decoded, and this cannot.
        2 => Input::Message { from: member, message: undecodable(world) },
        3 => Input::Timer(TimerId(unknown)),
        4 => Input::Checked { ticket: unknown, verdict: verdict(any) },
        5 => Input::Fetched { ticket: unknown, entries: Vec::new() },
        6 => Input::SnapshotSent { to: whom, arrived: world.random.bool() },
        7 => Input::Waiting,
        _ if world.random.bool() => {
            Input::Admin { ticket: world.random.u64(..), admin: Admin::Transfer(whom) }
        }
        _ => Input::Admin { ticket: world.random.u64(..), admin: Admin::StepDown },
    }
}

const fn verdict(any: u64) -> Verdict {
    match any % 3 {
        0 => Verdict::Valid,
        1 => Verdict::Invalid,
        _ => Verdict::Ahead(LogTime::from_ms(any)),
    }
}

/// A message that nobody encoded.
fn noise<F: EngineFactory>(world: &mut World<'_, F>) -> Message {
    let mut bytes = || {
        let length = world.random.usize(..40);
        Bytes::from_iter(std::iter::repeat_with(|| world.random.u8(..)).take(length))
    };
    Message { head: bytes(), bodies: vec![bytes(), bytes()] }
}

/// A message that begins no encoding.
fn undecodable<F: EngineFactory>(world: &mut World<'_, F>) -> Message {
    Message { head: vec![0xff; world.random.usize(..40)].into(), bodies: Vec::new() }
}
