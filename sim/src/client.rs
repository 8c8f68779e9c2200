//! Clients: they open sessions, propose, repeat what has no answer, and settle what has one.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use quorate_conformance::linearizable::What;
use quorate_replicator::{
    Decision, Frame, FrameId, LogTime, ProposeError, Rejection, SessionId, ShardKey,
};
use quorate_shard::kv::{Compare, Condition, Op, Transaction, TransactionOp};

use crate::call_keys::CallKeys;
use crate::counters::CounterOp;
use crate::oracle::{Checked, violation};
use crate::registers;

/// Most frames of a client that are open in requests of one frame each.
const SINGLES_MAX: usize = 6;

/// Most frames of a client that are open, unless its lists are long: what all clients have open fits into one batch of the log.
const OPEN_MAX: usize = 40;

/// From the oldest open serial to the newest one: a session keeps what is decided between, and has no room for more than a few thousand.
const OPEN_SPAN: u64 = 3000;

/// Longer lists than this are of small frames.
const LONG_LIST: usize = 100;

/// A frame that has no answer.
#[derive(Debug)]
struct Open {
    frame: Frame,
    /// An attempt ended without an answer: the frame may be in the log.
    unknown: bool,
}

/// Frames that are proposed with one call. Those of a list stay together, in their order, however often they are
/// proposed.
#[derive(Debug)]
struct Request {
    serials: Vec<u64>,
    /// The call that is under way.
    call: Option<u64>,
}

#[derive(Debug)]
pub(crate) struct Client {
    number: u8,
    /// Where frames are signed.
    keys: Option<Arc<CallKeys>>,
    generation: u8,
    opened: bool,
    next: u64,
    /// Most frames of a list.
    list_max: usize,
    /// Whether it works on keys whose history is judged, what it wrote to each last, and what it did since somebody looked.
    registers: bool,
    /// Whether it works on counters, too.
    counters: bool,
    written: HashMap<u32, u64>,
    made: Vec<(FrameId, u32, What)>,
    open: BTreeMap<u64, Open>,
    requests: Vec<Request>,
    /// Frames whose outcome can never be known: their session ended while an attempt was open.
    pub(crate) orphans: u64,
    pub(crate) answered: u64,
}

impl Client {
    /// A client that proposes lists of up to so many frames; with `registers`, some on keys whose history is judged.
    pub(crate) fn new(number: u8, list_max: usize, registers: bool) -> Self {
        Self {
            registers,
            counters: false,
            written: HashMap::new(),
            made: Vec::new(),
            number,
            keys: None,
            generation: 0,
            opened: false,
            next: 1,
            list_max,
            open: BTreeMap::new(),
            requests: Vec::new(),
            orphans: 0,
            answered: 0,
        }
    }

    /// With the keys of its sessions, where frames are signed.
    pub(crate) fn signing(self, keys: Option<Arc<CallKeys>>) -> Self {
        Self { keys, ..self }
    }

    /// In one seed of four it works on counters, too. That is not drawn: other seeds live as they would without.
    pub(crate) fn counting(self, seed: u64) -> Self {
        Self { counters: seed & 7 > 5, ..self }
    }

    fn session(&self) -> SessionId {
        let mut bytes = [self.number; 16];
        bytes[0] = self.generation;
        self.keys.as_ref().map_or_else(|| SessionId::new(bytes), |keys| keys.session(bytes))
    }

    /// What to propose next, under the number of the call: what has no answer, or something new while there is little.
    pub(crate) fn next(
        &mut self,
        rng: &mut fastrand::Rng,
        log_time: LogTime,
        call: u64,
    ) -> Option<Vec<Frame>> {
        let shard = ShardKey::new("sim", "ns0").expect("a name");
        if !self.opened {
            if self.requests.is_empty() {
                self.begin(vec![Frame::open_session(self.session(), shard)]);
            }
            return self.again(call);
        }
        let may_close = self.open.is_empty() && self.next > 1;
        if may_close && rng.u8(..20) == 0 {
            self.begin(vec![Frame::close_session(self.session(), shard)]);
        }
        if self.open.contains_key(&FrameId::CLOSE) {
            // Nothing else is proposed until the session has ended.
            return self.again(call);
        }
        let waiting: Vec<usize> =
            (0..self.requests.len()).filter(|place| self.requests[*place].call.is_none()).collect();
        let oldest = self.open.keys().next().copied().unwrap_or(self.next);
        let many = self.next.saturating_sub(oldest) > OPEN_SPAN
            || self.requests.len() >= SINGLES_MAX
            || self.open.len() + self.list_max >= self.open_max();
        let place = if !waiting.is_empty() && (many || rng.u8(..4) > 0) {
            waiting[rng.usize(..waiting.len())]
        } else if many {
            return None;
        } else {
            let frames =
                if self.list_max > 1 && rng.bool() { rng.usize(2..=self.list_max) } else { 1 };
            let frames = (0..frames).map(|_| self.frame(rng, log_time)).collect();
            self.begin(frames)
        };
        Some(self.attempt(place, call))
    }

    fn open_max(&self) -> usize {
        OPEN_MAX.max(2 * self.list_max)
    }

    fn frame(&mut self, rng: &mut fastrand::Rng, log_time: LogTime) -> Frame {
        let serial = self.next;
        self.next += 1;
        let id = FrameId { session: self.session(), serial };
        let shard = ShardKey::new("sim", &format!("ns{}", rng.u8(..3))).expect("a name");
        if self.registers && rng.u8(..3) == 0 {
            return self.register_frame(rng, id);
        }
        let mut frame = Frame::new(id, shard, self.op(rng, serial));
        if rng.u8(..12) == 0 {
            frame.valid_until = Some(log_time.plus_ms(rng.u64(..2000)));
        }
        frame
    }

    fn begin(&mut self, frames: Vec<Frame>) -> usize {
        let serials = frames.iter().map(|frame| frame.id.serial).collect();
        self.requests.push(Request { serials, call: None });
        let open =
            frames.into_iter().map(|frame| (frame.id.serial, Open { frame, unknown: false }));
        self.open.extend(open);
        self.requests.len() - 1
    }

    /// One more attempt of a request. Everything below the oldest frame that is open has been answered.
    fn attempt(&mut self, place: usize, call: u64) -> Vec<Frame> {
        let settled = *self.open.keys().next().expect("one is open");
        let request = &mut self.requests[place];
        request.call = Some(call);
        let frame = |serial: &u64| {
            let mut frame = self.open[serial].frame.clone();
            frame.settled = settled.min(*serial);
            frame
        };
        request.serials.iter().map(frame).collect()
    }

    /// A request that has no answer and no call, to be proposed again; nothing new.
    pub(crate) fn again(&mut self, call: u64) -> Option<Vec<Frame>> {
        let place = self.requests.iter().position(|request| request.call.is_none())?;
        Some(self.attempt(place, call))
    }

    /// Some operation on a key whose history is judged.
    fn register_frame(&mut self, rng: &mut fastrand::Rng, id: FrameId) -> Frame {
        let key = rng.u32(..registers::KEYS);
        let value = u64::from(self.number) << 48 | u64::from(self.generation) << 40 | id.serial;
        let what = match rng.u8(..6) {
            0 => What::Delete { existed: None },
            1 => What::Swap { expected: None, value, done: None },
            2 => What::Swap { expected: self.written.get(&key).copied(), value, done: None },
            _ => What::Put { value },
        };
        self.written.insert(key, value);
        self.made.push((id, key, what));
        registers::frame(id, key, what)
    }

    /// The calls on keys whose history is judged that were made since somebody looked.
    pub(crate) fn made(&mut self) -> Vec<(FrameId, u32, What)> {
        std::mem::take(&mut self.made)
    }

    /// Some operation on few keys, so that they meet. Each value is written once.
    fn op(&self, rng: &mut fastrand::Rng, serial: u64) -> Bytes {
        let key = format!("key{}", rng.u8(..8));
        let other = format!("key{}", rng.u8(..8));
        let mut value = format!("{}/{}/{serial}/", self.number, self.generation);
        if self.list_max < LONG_LIST {
            value.extend(std::iter::repeat_n('x', rng.usize(..200)));
        }
        let counts = self.counters && serial % 4 == 1;
        let op = Self::key_op(rng, &key, &other, &value);
        match serial % 16 {
            9 if counts => CounterOp::Largest.encode(),
            _ if counts => CounterOp::Add { name: key, by: 1 + serial % 6 }.encode(),
            _ => op,
        }
    }

    fn key_op(rng: &mut fastrand::Rng, key: &str, other: &str, value: &str) -> Bytes {
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
        let idle = self.requests.iter().filter(|request| request.call.is_none());
        let serials = idle.flat_map(|request| &request.serials);
        serials.map(|serial| &self.open[serial]).find(|open| open.unknown).map(|open| open.frame.id)
    }

    /// The answer to a call.
    pub(crate) fn answered(
        &mut self,
        call: u64,
        answer: &Result<Vec<Decision>, ProposeError>,
    ) -> Checked {
        let Some(place) = self.requests.iter().position(|request| request.call == Some(call))
        else {
            return Ok(());
        };
        self.requests[place].call = None;
        let serials = self.requests[place].serials.clone();
        match answer {
            Ok(decisions) => {
                if decisions.len() != serials.len() {
                    return violation(format!(
                        "{} frames have {} decisions",
                        serials.len(),
                        decisions.len()
                    ));
                }
                for (serial, decision) in serials.into_iter().zip(decisions) {
                    self.decided(serial, decision)?;
                }
            }
            Err(ProposeError::SessionEnded) => self.renew(),
            Err(error) if error.may_commit() => self.doubt(&serials),
            Err(_) => {}
        }
        Ok(())
    }

    fn decided(&mut self, serial: u64, decision: &Decision) -> Checked {
        let Some(open) = self.open.get_mut(&serial) else { return Ok(()) };
        let id = open.frame.id;
        match decision {
            Decision::Accept(_) => {
                self.settle(serial);
                self.answered += 1;
                match serial {
                    FrameId::OPEN => self.opened = true,
                    FrameId::CLOSE => self.renew(),
                    _ => {}
                }
            }
            Decision::Reject(Rejection::Expired) => self.settle(serial),
            Decision::Reject(rejection) => {
                return violation(format!("{id} rejected: {rejection}"));
            }
            Decision::Timeout => open.unknown = true,
            Decision::Undecided => {
                return violation(format!("{id}: a proposal answered Undecided"));
            }
        }
        Ok(())
    }

    /// This frame has its answer.
    fn settle(&mut self, serial: u64) {
        self.open.remove(&serial);
        for request in &mut self.requests {
            if let Ok(at) = request.serials.binary_search(&serial) {
                request.serials.remove(at);
            }
        }
        self.requests.retain(|request| !request.serials.is_empty());
    }

    fn doubt(&mut self, serials: &[u64]) {
        for serial in serials {
            if let Some(open) = self.open.get_mut(serial) {
                open.unknown = true;
            }
        }
    }

    /// The answer to the question what became of a frame.
    pub(crate) fn learned(&mut self, id: FrameId, decision: &Decision) {
        let is_open =
            |request: &Request| request.call.is_none() && request.serials.contains(&id.serial);
        if matches!(decision, Decision::Accept(_))
            && id.session == self.session()
            && self.requests.iter().any(is_open)
        {
            self.settle(id.serial);
            self.answered += 1;
        }
    }

    /// The session is over: what had an attempt open stays unknown for ever, the rest is forgotten.
    fn renew(&mut self) {
        self.orphans += self.open.values().filter(|open| open.unknown).count() as u64;
        self.open.clear();
        self.requests.clear();
        self.opened = false;
        self.generation += 1;
        self.next = 1;
    }

    /// A call will not be answered, or nobody waits for its answer any more.
    pub(crate) fn lost(&mut self, call: u64) {
        if let Some(request) = self.requests.iter_mut().find(|request| request.call == Some(call)) {
            request.call = None;
            let serials = request.serials.clone();
            self.doubt(&serials);
        }
    }

    /// A call that is under way.
    pub(crate) fn waits_for(&self) -> Option<u64> {
        self.requests.iter().find_map(|request| request.call)
    }

    /// What has no answer, in words.
    pub(crate) fn waiting(&self) -> String {
        let serials: Vec<_> = self.open.keys().collect();
        format!("client {} of life {}: {serials:?}", self.number, self.generation)
    }

    /// Whether everything has an answer.
    pub(crate) fn is_done(&self) -> bool {
        self.open.is_empty()
    }
}

/// Whether an error says that none of so many frames of its call will be decided.
pub(crate) fn refuses_all(error: &ProposeError, frames: usize) -> bool {
    // That a session has ended is said of one frame; others of the call may have been decided.
    !error.may_commit() && (frames == 1 || *error != ProposeError::SessionEnded)
}
