//! An engine for several nodes, of which the first one always proposes: while it is down, nothing is decided.
//!
//! An entry is decided when it is durable at the primary and at a majority. So the primary knows all that is decided, and
//! after a restart, once a majority has told that it has the same, everything in its log is.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use quorate_conformance::EngineFactory;
use quorate_engine::engine::{
    Deliver, Delivery, Demand, Engine, EngineDriver, EngineStatus, Input, Message, Now, Opening,
    Outgoing, Output, Placed, ReadAnswer, ReadId, TimerId,
};
use quorate_replicator::{AdminError, NodeId, Role};
use quorate_storage::{Body, Entry, Index, Record, Seq, Tag};

/// What an engine for several nodes does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// Backups acknowledge what is not durable yet.
    AcksBeforeDurable,
    /// The primary does not wait for anyone.
    DecidesAlone,
    /// Backups keep what they have at an index, whatever the primary says.
    NeverCuts,
    /// Backups answer reads with what they have delivered.
    ReadsLocally,
    /// The primary answers reads before it knows again what is decided.
    ReadsTooEarly,
    /// Nothing is sent again.
    NeverResends,
    /// A snapshot is delivered before the log begins anew after it.
    InstallsWithoutReset,
    /// A snapshot is sent that nobody stored.
    SendsNoCheckpoint,
    /// Sends wait for a write that nobody made.
    SendsAfterNoWrite,
    /// Notes are written again at open.
    RewritesNotes,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Factory(pub(crate) Fault, pub(crate) usize);

impl EngineFactory for Factory {
    type Driver = Driver;

    fn nodes(&self) -> usize {
        self.1
    }

    fn driver(&self) -> Driver {
        Driver(self.0)
    }

    fn seeds(&self) -> u64 {
        10
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(20)
    }
}

#[derive(Debug)]
pub(crate) struct Driver(Fault);

const AGAIN: TimerId = TimerId(1);
const AGAIN_AFTER: Duration = Duration::from_millis(20);
const WINDOW: Index = 8;
const ENTRIES_PER_MESSAGE: usize = 4;

/// Begins every message, so that nothing else is taken for one.
const MAGIC: u32 = 0x7072_696d;
const APPEND: u8 = 1;
const ACK: u8 = 2;
const READ: u8 = 3;
const READ_REPLY: u8 = 4;

#[derive(Debug)]
struct Primary {
    fault: Fault,
    node: NodeId,
    members: Vec<NodeId>,
    /// One for each life of the primary.
    epoch: u64,
    entries: BTreeMap<Index, Entry>,
    /// The puts that are not durable.
    puts: BTreeMap<Seq, Index>,
    /// The last entry of this node's log that is durable.
    durable: Index,
    last: Index,
    /// The last entry that is the primary's, too.
    matched: Index,
    decided: Index,
    delivered: Index,
    /// What was in the log at open: some of it may have been decided.
    found: Index,
    checkpoint: Index,
    acked: BTreeMap<NodeId, Index>,
    streaming: Vec<NodeId>,
    changed: bool,
}

impl EngineDriver for Driver {
    const NAME: &'static str = "primary";
    type Config = ();

    fn open(&self, (): &(), opening: Opening, out: &mut Output) -> Result<Box<dyn Engine>, String> {
        let Opening { node, members, checkpoint, log, .. } = opening;
        let checkpoint = checkpoint.map_or(0, |checkpoint| checkpoint.index);
        let state = log.state.as_deref().and_then(|state| state.try_into().ok());
        let epoch = state.map_or(0, u64::from_le_bytes);
        let entries: BTreeMap<_, _> =
            log.entries.into_iter().map(|entry| (entry.index, entry)).collect();
        let last = entries.last_key_value().map_or(0, |(index, _)| *index).max(checkpoint);
        if self.0 == Fault::RewritesNotes {
            for (index, note) in log.notes {
                out.write(true, Record::Note { index, note });
            }
        }
        let mut engine = Primary {
            fault: self.0,
            node,
            members,
            epoch,
            entries,
            puts: BTreeMap::new(),
            durable: last,
            last,
            matched: checkpoint,
            decided: checkpoint,
            delivered: checkpoint,
            found: last,
            checkpoint,
            acked: BTreeMap::new(),
            streaming: Vec::new(),
            changed: true,
        };
        if engine.leads() {
            engine.epoch += 1;
            engine.matched = last;
            engine.keep_epoch(out);
            out.timers.push((AGAIN, Some(AGAIN_AFTER)));
        }
        Ok(Box::new(engine))
    }
}

impl Primary {
    fn leads(&self) -> bool {
        self.node == self.members[0]
    }

    fn keep_epoch(&self, out: &mut Output) -> Seq {
        out.write(true, Record::State(Bytes::copy_from_slice(&self.epoch.to_le_bytes())))
    }

    fn put(&mut self, entry: Entry, out: &mut Output) {
        self.last = entry.index;
        if self.fault == Fault::RewritesNotes {
            out.write(true, Record::Note { index: entry.index, note: "seen".into() });
        }
        let seq = out.write(true, Record::Put(entry.clone()));
        self.puts.insert(seq, entry.index);
        self.entries.insert(entry.index, entry);
    }

    fn send(&self, to: NodeId, after: Seq, words: Words, bodies: Vec<Bytes>, out: &mut Output) {
        let message = Message { head: words.encode(), bodies };
        let after = if self.fault == Fault::SendsAfterNoWrite { after + 1 } else { after };
        out.sends.push(Outgoing { to: vec![to], after, urgent: false, message });
    }

    fn append(&mut self, to: NodeId, out: &mut Output) {
        let acked = self.acked.get(&to).copied();
        let next = acked.map_or(self.last + 1, |acked| acked + 1);
        let gone = self.entries.first_key_value().map_or(self.last + 1, |(first, _)| *first);
        if next < gone && next <= self.checkpoint {
            if !self.streaming.contains(&to) {
                self.streaming.push(to);
                let wrong = u64::from(self.fault == Fault::SendsNoCheckpoint);
                let head = Words(APPEND, [self.epoch, 0, 0]).encode();
                out.snapshots.push((to, self.checkpoint + wrong, head));
            }
            return;
        }
        let entries = self.entries.range(next..).take(ENTRIES_PER_MESSAGE);
        let bodies = entries.map(|(_, entry)| encode(entry)).collect();
        // The epoch is durable before anyone hears of it; a restart never uses it again.
        let words = Words(APPEND, [self.epoch, next - 1, self.decided]);
        self.send(to, 1, words, bodies, out);
    }

    fn appended(&mut self, from: NodeId, words: [u64; 3], bodies: &[Bytes], out: &mut Output) {
        let [epoch, before, decided] = words;
        if epoch < self.epoch {
            return;
        }
        if epoch > self.epoch {
            self.epoch = epoch;
            self.matched = self.decided;
            self.keep_epoch(out);
        }
        if before <= self.matched {
            for entry in bodies.iter().map_while(decode) {
                let same = self.entries.get(&entry.index).is_some_and(|own| own.tag == entry.tag);
                if entry.index <= self.matched {
                    continue;
                }
                if !same && (entry.index > self.last || self.fault != Fault::NeverCuts) {
                    if entry.index <= self.last {
                        out.write(true, Record::Cut { from: entry.index });
                        self.entries.split_off(&entry.index);
                    }
                    self.put(entry.clone(), out);
                }
                self.matched = entry.index;
            }
        }
        self.decided = self.decided.max(decided.min(self.matched));
        let after = match self.fault {
            Fault::AcksBeforeDurable => 0,
            _ => out.last_seq(),
        };
        self.send(from, after, Words(ACK, [epoch, self.matched, 0]), Vec::new(), out);
    }

    fn decide(&mut self) {
        let mut durable: Vec<_> = self.members[1..]
            .iter()
            .map(|peer| self.acked.get(peer).copied().unwrap_or(0))
            .chain([self.durable])
            .collect();
        durable.sort_unstable();
        // The last index that a majority has.
        let most = durable[(durable.len() - 1) / 2];
        let most = if self.fault == Fault::DecidesAlone { self.durable } else { most };
        self.decided = self.decided.max(most.min(self.durable));
    }

    fn read_index(&self) -> Option<Index> {
        let knows = self.decided >= self.found || self.fault == Fault::ReadsTooEarly;
        knows.then_some(self.decided)
    }
}

impl Engine for Primary {
    fn step(&mut self, _: Now, input: Input, out: &mut Output) {
        match input {
            Input::Message { from, message } if self.members.contains(&from) => {
                let Some(Words(kind, words)) = Words::decode(&message.head) else { return };
                let led = from == self.members[0] && !self.leads();
                match (kind, words) {
                    (APPEND, words) if led => self.appended(from, words, &message.bodies, out),
                    (ACK, [epoch, index, _]) if self.leads() && epoch == self.epoch => {
                        let known = self.acked.insert(from, index);
                        self.changed |= known != Some(index);
                    }
                    (READ, [id, ..]) if self.leads() => {
                        if let Some(index) = self.read_index() {
                            self.send(from, 0, Words(READ_REPLY, [id, index, 0]), Vec::new(), out);
                        }
                    }
                    (READ_REPLY, [id, index, _]) if led => {
                        out.reads.push((ReadId(id), ReadAnswer::At(index)));
                    }
                    _ => {}
                }
            }
            Input::Durable(seq) => {
                let later = self.puts.split_off(&(seq + 1));
                for (_, index) in std::mem::replace(&mut self.puts, later) {
                    self.durable = index;
                }
                self.changed = true;
            }
            Input::Timer(AGAIN) if self.leads() => {
                out.timers.push((AGAIN, Some(AGAIN_AFTER)));
                self.changed = self.fault != Fault::NeverResends;
            }
            Input::Read(id) if self.leads() => {
                let answer = self.read_index().map_or(ReadAnswer::Retry, ReadAnswer::At);
                out.reads.push((id, answer));
            }
            Input::Read(id) if self.fault == Fault::ReadsLocally => {
                out.reads.push((id, ReadAnswer::At(self.delivered)));
            }
            Input::Read(ReadId(id)) => {
                self.send(self.members[0], 0, Words(READ, [id, 0, 0]), Vec::new(), out);
            }
            Input::Checkpointed { index, trim_below, .. } => {
                self.checkpoint = index;
                self.entries = self.entries.split_off(&trim_below);
                // Flushed, since an acknowledgement waits for the last write of all.
                out.write(true, Record::Trim { below: trim_below });
            }
            Input::SnapshotStaged { from, index, mark, head, .. } => {
                let Some(Words(APPEND, [epoch, ..])) = Words::decode(&head) else { return };
                if from != self.members[0] || epoch < self.epoch {
                    return;
                }
                if index <= self.delivered {
                    // The sender knows too little of this node.
                    let (words, after) = (Words(ACK, [epoch, self.matched, 0]), out.last_seq());
                    return self.send(from, after, words, Vec::new(), out);
                }
                self.entries.clear();
                self.puts.clear();
                (self.last, self.durable, self.matched) = (index, index, index);
                (self.decided, self.delivered, self.checkpoint) = (index, index, index);
                let after = match self.fault {
                    Fault::InstallsWithoutReset => 0,
                    _ => out.write(true, Record::Reset { index, mark: mark.clone() }),
                };
                out.deliveries.push(Delivery { after, what: Deliver::Install { index, mark } });
            }
            Input::Admin { ticket, .. } => {
                out.admin.push((ticket, Err(AdminError::Unsupported { driver: "primary".into() })));
            }
            Input::SnapshotSent { to, .. } => self.streaming.retain(|peer| *peer != to),
            _ => {}
        }
    }

    fn propose(&mut self, _: Now, body: Body, out: &mut Output) -> Result<Placed, Body> {
        let mut tag = Tag::ZERO;
        tag.0[..8].copy_from_slice(&self.epoch.to_le_bytes());
        let placed = Placed { index: self.last + 1, tag };
        self.put(Entry { index: placed.index, tag, head: Bytes::new(), body }, out);
        self.matched = self.last;
        self.changed = true;
        Ok(placed)
    }

    fn settle(&mut self, _: Now, out: &mut Output) {
        if self.leads() && std::mem::take(&mut self.changed) {
            self.decide();
            for place in 1..self.members.len() {
                self.append(self.members[place], out);
            }
        }
        while self.delivered < self.decided {
            let Some(entry) = self.entries.get(&(self.delivered + 1)).cloned() else { break };
            self.delivered += 1;
            let mark = Bytes::copy_from_slice(&self.delivered.to_le_bytes());
            out.deliveries.push(Delivery {
                after: 0,
                what: Deliver::Batch { entry, mark, proof: Bytes::new() },
            });
        }
    }

    fn demand(&self) -> Demand {
        if !self.leads() {
            return Demand::At(vec![self.members[0]]);
        }
        match WINDOW.saturating_sub(self.last - self.decided) {
            0 => Demand::Nowhere,
            free => Demand::Here { batches: u32::try_from(free).unwrap(), members: false },
        }
    }

    fn status(&self) -> EngineStatus {
        EngineStatus {
            term: self.epoch,
            proposer: Some(self.members[0]),
            decided: self.decided,
            members: self.members.clone(),
            ..EngineStatus::new(if self.leads() { Role::Leader } else { Role::Follower })
        }
    }
}

/// A kind and three numbers.
struct Words(u8, [u64; 3]);

impl Words {
    fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::new();
        bytes.put_u32(MAGIC);
        bytes.put_u8(self.0);
        self.1.iter().for_each(|word| bytes.put_u64(*word));
        bytes.freeze()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.strip_prefix(&MAGIC.to_be_bytes())?;
        let (kind, rest) = bytes.split_first()?;
        let words = rest.as_chunks::<8>().0.iter().map(|word| u64::from_be_bytes(*word));
        Some(Self(*kind, words.collect::<Vec<_>>().try_into().ok()?))
    }
}

fn encode(entry: &Entry) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_u64(entry.index);
    bytes.put_slice(&entry.tag.0);
    match &entry.body {
        Body::Frames(frames) => bytes.put_slice(frames),
        Body::Empty | Body::Members(_) => unreachable!("the suite offers frames only"),
    }
    bytes.freeze()
}

fn decode(bytes: &Bytes) -> Option<Entry> {
    let (index, rest) = bytes.split_first_chunk()?;
    let (tag, frames) = rest.split_first_chunk()?;
    let body = Body::Frames(bytes.slice_ref(frames));
    Some(Entry { index: u64::from_be_bytes(*index), tag: Tag(*tag), head: Bytes::new(), body })
}
