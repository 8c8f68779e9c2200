//! Keys whose whole history is judged for linearizability.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use quorate_conformance::linearizable::{KvCall, What, linearizable};
use quorate_replicator::{Decision, Frame, FrameId, Rejection, Reply, ShardKey};
use quorate_shard::kv::{self, Condition, Op};

use crate::node::Node;
use crate::oracle::{Checked, violation};

/// How many there are.
pub(crate) const KEYS: u32 = 16;

/// Whoever reads is another client than those who write.
const READER: u32 = 1000;

/// What clients asked of these keys, and what they were told.
#[derive(Debug, Default)]
pub(crate) struct Registers {
    writes: HashMap<FrameId, KvCall>,
    reads: Vec<KvCall>,
}

impl Registers {
    /// A client calls for the first time.
    pub(crate) fn called(&mut self, client: usize, made: (FrameId, u32, What), now: Duration) {
        let (id, key, what) = made;
        let client = u32::try_from(client).unwrap_or(u32::MAX);
        let call = KvCall { client, key, what, called: moment(now), answered: None };
        self.writes.insert(id, call);
    }

    /// A client is told what became of its call.
    pub(crate) fn answered(&mut self, id: FrameId, decision: &Decision, now: Duration) {
        if *decision == Decision::Reject(Rejection::Expired) {
            self.writes.remove(&id);
        }
        let (Some(call), Decision::Accept(commit)) = (self.writes.get_mut(&id), decision) else {
            return;
        };
        call.answered.get_or_insert_with(|| moment(now));
        let Reply::Known(reply) = &commit.reply else { return };
        let Ok(reply) = kv::Reply::decode(reply) else { return };
        match (&mut call.what, reply) {
            (What::Swap { done, .. }, kv::Reply::Put { .. }) => *done = Some(true),
            (What::Swap { done, .. }, kv::Reply::CompareFailed { .. }) => *done = Some(false),
            (What::Delete { existed: told }, kv::Reply::Deleted { existed, .. }) => {
                *told = Some(existed);
            }
            _ => {}
        }
    }

    /// A linearizable read that began at `called` was answered: what the node holds now is what it saw.
    pub(crate) fn read(&mut self, node: &Node, key: u32, called: Duration, now: Duration) {
        let got = node.shards.kv().get(&shard(), name(key).as_bytes()).expect("it is in memory");
        let seen = got.entry.and_then(|entry| std::str::from_utf8(&entry.value).ok()?.parse().ok());
        let (what, called, answered) = (What::Get { seen }, moment(called), Some(moment(now)));
        self.reads.push(KvCall { client: READER, key, what, called, answered });
    }

    /// Judges everything, once all is over. Calls without an answer may have happened at any time, unless it is known that they did
    /// not.
    pub(crate) fn judge(self, happened: impl Fn(FrameId) -> bool) -> Checked<u64> {
        let writes = self.writes.into_iter();
        let writes = writes.filter(|(id, call)| call.answered.is_some() || happened(*id));
        let calls: Vec<_> = writes.map(|(_, call)| call).chain(self.reads).collect();
        match linearizable(&calls) {
            Ok(()) => Ok(calls.len() as u64),
            Err(error) => violation(error.to_string()),
        }
    }
}

/// The frame that does this to a key.
pub(crate) fn frame(id: FrameId, key: u32, what: What) -> Frame {
    let key = name(key);
    let key = key.as_bytes();
    let payload: Bytes = match what {
        What::Put { value } => Op::put(key, value.to_string().as_bytes()).encode(),
        What::Delete { .. } | What::Get { .. } => Op::delete(key).encode(),
        What::Swap { expected, value, .. } => {
            let (expected, value) = (expected.map(|it| it.to_string()), value.to_string());
            let condition = match &expected {
                Some(expected) => Condition::Value(expected.as_bytes()),
                None => Condition::Missing,
            };
            let condition = Some(condition);
            Op::Put { key, value: value.as_bytes(), ttl_ms: None, condition }.encode()
        }
    };
    Frame::new(id, shard(), payload)
}

fn shard() -> ShardKey {
    ShardKey::new("sim", "registers").expect("a name")
}

fn name(key: u32) -> String {
    format!("register{key}")
}

fn moment(at: Duration) -> i64 {
    i64::try_from(at.as_nanos()).expect("a run takes less than a century")
}
