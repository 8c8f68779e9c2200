//! Clients: they open sessions, propose, repeat what has no answer, and settle what has one.

use std::collections::BTreeMap;

use bytes::Bytes;
use quorate_replicator::{Decision, Frame, FrameId, ProposeError, Rejection, SessionId, ShardKey};
use quorate_shard::kv::{Compare, Condition, Op, Transaction, TransactionOp};

use crate::oracle::{Checked, Oracle, violation};

/// What a client knows of a frame that has no answer.
#[derive(Debug)]
struct Open {
    frame: Frame,
    /// A proposal of it is under way in the present life of the node, under this number.
    call: Option<u64>,
    /// An attempt ended without an answer: the frame may be in the log.
    unknown: bool,
}

#[derive(Debug)]
pub(crate) struct Client {
    number: u8,
    generation: u8,
    opened: bool,
    next: u64,
    open: BTreeMap<u64, Open>,
    /// Frames whose outcome can never be known: their session ended while an attempt was open.
    pub(crate) orphans: u64,
    pub(crate) answered: u64,
}

impl Client {
    pub(crate) fn new(number: u8) -> Self {
        Self {
            number,
            generation: 0,
            opened: false,
            next: 1,
            open: BTreeMap::new(),
            orphans: 0,
            answered: 0,
        }
    }

    fn session(&self) -> SessionId {
        let mut bytes = [self.number; 16];
        bytes[0] = self.generation;
        SessionId::new(bytes)
    }

    /// The frame to propose next, with the number of the call: one that has no answer, or a new one while there are few.
    pub(crate) fn next(&mut self, rng: &mut fastrand::Rng, call: u64) -> Option<Frame> {
        let shard = ShardKey::new("sim", "ns0").expect("a name");
        if !self.opened {
            let frame = Frame::open_session(self.session(), shard);
            let opening = self.open.entry(0).or_insert(Open { frame, call: None, unknown: false });
            if opening.call.is_some() {
                return None;
            }
            opening.call = Some(call);
            return Some(opening.frame.clone());
        }
        if self.open.is_empty() && self.next > 1 && rng.u8(..20) == 0 {
            let frame = Frame::close_session(self.session(), shard);
            self.open.insert(FrameId::CLOSE, Open { frame, call: None, unknown: false });
        }
        if self.open.contains_key(&FrameId::CLOSE) {
            // Nothing else is proposed until the session has ended.
            let idle = self.open[&FrameId::CLOSE].call.is_none();
            return idle.then(|| self.attempt(FrameId::CLOSE, call));
        }
        let waiting: Vec<u64> = self
            .open
            .iter()
            .filter(|(_, open)| open.call.is_none())
            .map(|(serial, _)| *serial)
            .collect();
        let serial = if !waiting.is_empty() && (self.open.len() >= 6 || rng.u8(..4) > 0) {
            waiting[rng.usize(..waiting.len())]
        } else if self.open.len() < 6 {
            let serial = self.next;
            self.next += 1;
            let id = FrameId { session: self.session(), serial };
            let shard = ShardKey::new("sim", &format!("ns{}", rng.u8(..3))).expect("a name");
            let frame = Frame::new(id, shard, self.op(rng, serial));
            self.open.insert(serial, Open { frame, call: None, unknown: false });
            serial
        } else {
            return None;
        };
        Some(self.attempt(serial, call))
    }

    /// One more attempt of a frame. Everything below the oldest that is open has been answered.
    fn attempt(&mut self, serial: u64, call: u64) -> Frame {
        let settled = *self.open.keys().next().expect("one is open");
        let open = self.open.get_mut(&serial).expect("it is open");
        open.call = Some(call);
        open.frame.settled = settled.min(serial);
        open.frame.clone()
    }

    /// A frame that has no answer and no call, to be proposed again; nothing new.
    pub(crate) fn again(&mut self, call: u64) -> Option<Frame> {
        let serial =
            self.open.iter().find(|(_, open)| open.call.is_none()).map(|(serial, _)| *serial)?;
        Some(self.attempt(serial, call))
    }

    /// Some operation on few keys, so that they meet. Each value is written once.
    fn op(&self, rng: &mut fastrand::Rng, serial: u64) -> Bytes {
        let key = format!("key{}", rng.u8(..8));
        let other = format!("key{}", rng.u8(..8));
        let mut value = format!("{}/{}/{serial}/", self.number, self.generation);
        value.extend(std::iter::repeat_n('x', rng.usize(..200)));
        let (key, other, value) = (key.as_bytes(), other.as_bytes(), value.as_bytes());
        match rng.u8(..10) {
            0 => Op::delete(key),
            1 => Op::compare_and_swap(key, rng.u64(..20), value),
            2 => Op::delete_prefix(b"key1"),
            3 => Op::Transaction(Transaction {
                compare: vec![Compare { key, condition: Condition::Exists }],
                then: vec![
                    TransactionOp::Put { key: other, value, ttl_ms: None },
                    TransactionOp::Delete { key },
                ],
                otherwise: vec![TransactionOp::Put { key, value, ttl_ms: None }],
            }),
            4 => Op::Put { key, value, ttl_ms: Some(1 + rng.u64(..500)), condition: None },
            _ => Op::put(key, value),
        }
        .encode()
    }

    /// An id to ask about: of a frame that has no answer.
    pub(crate) fn doubtful(&self) -> Option<FrameId> {
        self.open
            .values()
            .find(|open| open.unknown && open.call.is_none())
            .map(|open| open.frame.id)
    }

    /// The answer to a call.
    pub(crate) fn answered(
        &mut self,
        call: u64,
        answer: &Result<Decision, ProposeError>,
        oracle: &mut Oracle,
    ) -> Checked {
        let Some((serial, open)) = self.open.iter_mut().find(|(_, open)| open.call == Some(call))
        else {
            return Ok(());
        };
        let serial = *serial;
        open.call = None;
        let id = open.frame.id;
        match answer {
            Ok(Decision::Accept(commit)) => {
                oracle.accepted(id, commit)?;
                self.opened |= serial == FrameId::OPEN;
                self.answered += 1;
                self.open.remove(&serial);
                if serial == FrameId::CLOSE {
                    self.renew();
                }
            }
            Ok(Decision::Reject(Rejection::Expired)) => {
                self.open.remove(&serial);
            }
            Ok(Decision::Reject(rejection)) => {
                return violation(format!("{id} rejected: {rejection}"));
            }
            Ok(Decision::Timeout) => open.unknown = true,
            Ok(Decision::Undecided) => {
                return violation(format!("{id}: a proposal answered Undecided"));
            }
            Err(ProposeError::SessionEnded) => self.renew(),
            Err(error) => open.unknown |= error.may_commit(),
        }
        Ok(())
    }

    /// The answer to the question what became of a frame.
    pub(crate) fn decided(
        &mut self,
        id: FrameId,
        decision: &Decision,
        oracle: &mut Oracle,
    ) -> Checked {
        if let Decision::Accept(commit) = decision {
            oracle.accepted(id, commit)?;
            if id.session == self.session()
                && self.open.get(&id.serial).is_some_and(|o| o.call.is_none())
            {
                self.open.remove(&id.serial);
                self.answered += 1;
            }
        }
        Ok(())
    }

    /// The session is over: what had an attempt open stays unknown for ever, the rest is forgotten.
    fn renew(&mut self) {
        self.orphans += self.open.values().filter(|open| open.unknown).count() as u64;
        self.open.clear();
        self.opened = false;
        self.generation += 1;
        self.next = 1;
    }

    /// The node died: no call will be answered.
    pub(crate) fn node_died(&mut self) {
        for open in self.open.values_mut() {
            if open.call.take().is_some() {
                open.unknown = true;
            }
        }
    }

    /// Whether everything has an answer.
    pub(crate) fn is_done(&self) -> bool {
        self.open.is_empty()
    }
}
