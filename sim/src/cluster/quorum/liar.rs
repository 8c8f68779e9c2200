//! A validator that does what it likes: a real engine, whose words are changed on their way out.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate_certificate::{BodyKind, ChainId, SigningKey, ValidatorSet, ValueId, body_hash};
use quorate_driver_quorum::simulation::{self, Ballot, Heard};
use quorate_engine::engine::{
    Deliver, Demand, Engine, EngineStatus, Input, Message, Now, Outgoing, Output, Placed,
};
use quorate_engine::{BatchEncoder, BatchHead, DecodedBatch};
use quorate_replicator::{CallSignature, Frame, FrameId, LogTime, NodeId, ShardKey};
use quorate_storage::Body;

use super::{Keyring, Scenario};

/// How often a liar says something that nobody asked for.
const MAKES_UP_EVERY: Duration = Duration::from_millis(50);

/// Most messages of others that a liar keeps, to say them again.
const HEARD_MAX: usize = 256;

/// How far ahead of all clocks a liar stamps its batches.
pub(in crate::cluster) const FAR_AHEAD_MS: u64 = 3_600_000;

/// What liars do, and what they need for it.
#[derive(Clone, Debug)]
pub(in crate::cluster) struct Lies {
    pub(super) scenario: Scenario,
    pub(super) chain: ChainId,
    /// Another cluster with the same keys.
    pub(super) foreign: ChainId,
    pub(super) keyring: Keyring,
    /// The validators of the beginning.
    pub(super) founders: ValidatorSet,
    /// All who may ever be validators.
    pub(super) nodes: Vec<NodeId>,
}

/// An engine that lies.
#[derive(Debug)]
pub(in crate::cluster) struct Liar {
    engine: Box<dyn Engine>,
    lies: Lies,
    node: NodeId,
    /// Which of the processes that use this id.
    twin: usize,
    random: fastrand::Rng,
    heard: Vec<Message>,
    next_made_up: Now,
    /// The newest height that it knows to be decided, and the log time of that batch.
    decided: (u64, LogTime),
    /// Where the group stands after that height.
    mark: Bytes,
    /// The last batch that was proposed to it.
    proposed: Option<ValueId>,
}

impl Liar {
    pub(in crate::cluster) fn new(
        engine: Box<dyn Engine>,
        lies: Lies,
        node: NodeId,
        twin: usize,
        seed: u64,
    ) -> Self {
        Self {
            engine,
            lies,
            node,
            twin,
            random: fastrand::Rng::with_seed(seed),
            heard: Vec::new(),
            next_made_up: Now::ZERO,
            decided: (0, LogTime::ZERO),
            mark: Bytes::new(),
            proposed: None,
        }
    }

    /// With what it signs, and in which epoch: at times with what counts no more, if there is such.
    fn key(&mut self) -> Option<(u64, Arc<SigningKey>)> {
        let Lies { chain, keyring, founders, .. } = &self.lies;
        let sets = simulation::validators_after(chain, &self.mark);
        let set = sets.as_ref().map_or(founders, |[next, _]| next);
        let known = set.get(self.node.number());
        let key = known.and_then(|known| keyring.of(self.node, &known.key));
        let old = (set.epoch() > 0).then(|| keyring.outdated(self.node, set)).flatten();
        match (key, old) {
            (Some(key), None) => Some((set.epoch(), key)),
            (Some(key), Some(_)) if self.random.u8(..8) > 0 => Some((set.epoch(), key)),
            (_, Some(old)) => Some((set.epoch() - u64::from(self.random.bool()), old)),
            (None, None) => None,
        }
    }

    fn hear(&mut self, message: &Message) {
        if let Some(Heard::Proposal { value, .. }) = simulation::hear(&self.lies.chain, message) {
            self.proposed = Some(value);
        }
        if self.lies.scenario != Scenario::Replay {
            return;
        }
        if self.heard.len() < HEARD_MAX {
            self.heard.push(message.clone());
        } else {
            let place = self.random.usize(..HEARD_MAX);
            self.heard[place] = message.clone();
        }
    }

    /// What a batch becomes that this node is to propose.
    fn batch(&mut self, batch: Body) -> Body {
        let Body::Frames(bytes) = &batch else { return batch };
        let stamp = match self.lies.scenario {
            Scenario::Invalid => {
                let kept = self.random.usize(..bytes.len());
                return Body::Frames(bytes.slice(..kept));
            }
            Scenario::FarFuture => self.decided.1.plus_ms(FAR_AHEAD_MS),
            Scenario::Standstill => self.decided.1,
            Scenario::Invent if self.random.bool() => return self.invent(bytes).unwrap_or(batch),
            _ => return batch,
        };
        match DecodedBatch::decode(bytes) {
            Ok(DecodedBatch { head, frames }) => {
                let head = BatchHead { log_time: stamp, ..head };
                Body::Frames(BatchEncoder::default().encode(&head, frames.iter()))
            }
            Err(_) => batch,
        }
    }

    /// A batch with frames that nobody proposed, or not so; none if there is nothing to change.
    fn invent(&mut self, batch: &Bytes) -> Option<Body> {
        let DecodedBatch { head, mut frames } = DecodedBatch::decode(batch).ok()?;
        let place = self.random.usize(..frames.len().max(1));
        let frame = frames.get_mut(place)?;
        match self.random.u8(..6) {
            0 => frame.payload = Bytes::from_static(b"burnt"),
            1 => frame.settled = frame.id.serial,
            2 => frame.shard = ShardKey::new("sim", "elsewhere").expect("a name"),
            3 => frame.valid_until = Some(LogTime::ZERO),
            4 => {
                let id = FrameId { serial: frame.id.serial.wrapping_add(1 << 20), ..frame.id };
                let made_up =
                    Frame { id, payload: Bytes::from_static(b"made up"), ..frame.clone() };
                frames.push(made_up);
            }
            _ => {
                let serial = frame.id.serial;
                let (key, signature) = (Bytes::from_static(&[1; 32]), Bytes::from_static(&[2; 64]));
                frame.signed = Some(Box::new(CallSignature { frames: 1, key, signature }));
                frame.id.serial = serial.wrapping_add(1 << 20);
            }
        }
        Some(Body::Frames(BatchEncoder::default().encode(&head, frames.iter())))
    }

    /// What leaves for `to` in the place of a message; nothing, for silence.
    fn tamper(&mut self, to: NodeId, message: Message) -> Option<Message> {
        let number = to.number() as usize;
        let heard = simulation::hear(&self.lies.chain, &message);
        let is_proposal = matches!(heard, Some(Heard::Proposal { .. }));
        match self.lies.scenario {
            Scenario::Silent => None,
            // Each talks to a half of the others, and at times to all.
            Scenario::Twins if number % 2 != self.twin && self.random.u8(..4) > 0 => None,
            Scenario::Equivocation if number.is_multiple_of(2) => {
                Some(self.contradict(heard).unwrap_or(message))
            }
            Scenario::Withhold if is_proposal && number.is_multiple_of(2) => None,
            Scenario::Withhold if is_proposal && self.random.u8(..4) == 0 => {
                Some(Message { bodies: vec![Bytes::from_static(b"garbage")], ..message })
            }
            Scenario::Forge if self.random.bool() => Some(self.flip(message)),
            Scenario::LyingPeer => Some(self.misinform(heard, message)),
            Scenario::HiddenLock => self.hide(number, heard).then_some(message),
            _ => Some(message),
        }
    }

    /// Something else than what it says, signed as well; none if it says nothing that binds it.
    fn contradict(&mut self, heard: Option<Heard>) -> Option<Message> {
        let heard = heard?;
        let (epoch, key) = self.key()?;
        let chain = &self.lies.chain;
        match heard {
            Heard::Vote(ballot) => {
                let other = self.proposed.filter(|other| Some(*other) != ballot.value);
                let made_up = ballot.value.is_none().then(|| [self.random.u8(..); 32]);
                let value = if self.random.bool() { other } else { made_up };
                let value = value.filter(|_| self.random.u8(..4) > 0);
                let ballot = Ballot { value, ..ballot };
                simulation::vote(chain, (chain, epoch), &ballot, &key)
            }
            Heard::Proposal { round, header, .. } => {
                let mut header = *header?;
                (header.kind, header.body) = (BodyKind::Empty, body_hash(BodyKind::Empty, &[]));
                simulation::proposal((chain, epoch), round, &header, &Body::Empty, &key)
            }
            _ => None,
        }
    }

    /// Flips a bit of a message.
    fn flip(&mut self, message: Message) -> Message {
        let Message { head, mut bodies } = message;
        match bodies.pop() {
            Some(body) if self.random.bool() => {
                bodies.push(self.flip_bytes(&body));
                Message { head, bodies }
            }
            body => {
                bodies.extend(body);
                Message { head: self.flip_bytes(&head), bodies }
            }
        }
    }

    fn flip_bytes(&mut self, bytes: &Bytes) -> Bytes {
        let mut bytes = bytes.to_vec();
        if !bytes.is_empty() {
            let bit = self.random.usize(..bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        bytes.into()
    }

    fn misinform(&mut self, heard: Option<Heard>, message: Message) -> Message {
        let any = self.random.u64(..) >> self.random.u8(..64);
        match heard {
            Some(Heard::Heights(_)) if self.random.u8(..4) > 0 => self.flip(message),
            Some(Heard::Status) if self.random.bool() => simulation::status(&self.lies.chain, any),
            Some(Heard::Claim { nonce, .. }) => {
                let height = [0, self.decided.0 + 1, any][self.random.usize(..3)];
                simulation::claim(&self.lies.chain, nonce, height)
            }
            _ => message,
        }
    }

    /// Whether a message may go to a node: first votes for something go to one node alone, and second ones to nobody.
    fn hide(&self, to: usize, heard: Option<Heard>) -> bool {
        match heard {
            Some(Heard::Vote(Ballot { is_precommit, height, value: Some(_), .. })) => {
                !is_precommit && height as usize % self.lies.nodes.len() + 1 == to
            }
            _ => true,
        }
    }

    /// What nobody asked for.
    fn make_up(&mut self) -> Vec<Message> {
        match self.lies.scenario {
            Scenario::Replay => (0..4).filter_map(|_| self.repeat()).collect(),
            Scenario::Flood => (0..16).filter_map(|_| self.far_off()).collect(),
            _ => Vec::new(),
        }
    }

    /// What somebody said before, or this node in another cluster.
    fn repeat(&mut self) -> Option<Message> {
        if self.random.bool() {
            let place = self.random.usize(..self.heard.len().max(1));
            return self.heard.get(place).cloned();
        }
        let ballot = Ballot {
            node: self.node.number(),
            is_precommit: self.random.bool(),
            height: self.decided.0 + 1,
            round: 0,
            value: self.proposed,
            line: Bytes::new(),
        };
        let (epoch, key) = self.key()?;
        let Lies { chain, foreign, .. } = &self.lies;
        simulation::vote(chain, (foreign, epoch), &ballot, &key)
    }

    /// A vote, rightly signed, for a round or a height that is far off.
    fn far_off(&mut self) -> Option<Message> {
        let height = match self.random.u8(..3) {
            0 => self.decided.0 + 1,
            1 => self.decided.0 + self.random.u64(..100),
            _ => self.random.u64(1..u64::MAX / 2),
        };
        let ballot = Ballot {
            node: self.node.number(),
            is_precommit: self.random.bool(),
            height,
            round: self.random.u32(..(1 << 24)),
            value: self.random.bool().then(|| [self.random.u8(..); 32]),
            line: Bytes::new(),
        };
        let (epoch, key) = self.key()?;
        simulation::vote(&self.lies.chain, (&self.lies.chain, epoch), &ballot, &key)
    }
}

impl Engine for Liar {
    fn step(&mut self, now: Now, input: Input, out: &mut Output) {
        if let Input::Message { message, .. } = &input {
            self.hear(message);
        }
        self.engine.step(now, input, out);
    }

    fn propose(&mut self, now: Now, batch: Body, out: &mut Output) -> Result<Placed, Body> {
        let changed = self.batch(batch.clone());
        self.engine.propose(now, changed, out).map_err(|_| batch)
    }

    fn settle(&mut self, now: Now, out: &mut Output) {
        self.engine.settle(now, out);
        for delivery in &out.deliveries {
            if let Deliver::Batch { entry, mark, .. } = &delivery.what {
                self.decided.0 = entry.index;
                self.mark = mark.clone();
                if let Body::Frames(bytes) = &entry.body
                    && let Ok(batch) = DecodedBatch::decode(bytes)
                {
                    self.decided.1 = self.decided.1.max(batch.head.log_time);
                }
            }
        }
        for Outgoing { to, after, urgent, message } in std::mem::take(&mut out.sends) {
            for to in to {
                if let Some(message) = self.tamper(to, message.clone()) {
                    out.sends.push(Outgoing { to: vec![to], after, urgent, message });
                }
            }
        }
        if now >= self.next_made_up {
            self.next_made_up = now + MAKES_UP_EVERY;
            let nodes = self.lies.nodes.iter().copied();
            let to: Vec<_> = nodes.filter(|node| *node != self.node).collect();
            for message in self.make_up() {
                out.sends.push(Outgoing { to: to.clone(), after: 0, urgent: true, message });
            }
        }
    }

    fn demand(&self) -> Demand {
        self.engine.demand()
    }

    fn proposer(&self) -> Option<NodeId> {
        self.engine.proposer()
    }

    fn status(&self) -> EngineStatus {
        self.engine.status()
    }
}
