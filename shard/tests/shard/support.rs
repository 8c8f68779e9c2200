//! A node without consensus: what is proposed is applied at once.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use futures_core::Stream;
use proptest::test_runner::Config as ProptestConfig;
use quorate_replicator::{
    Batch, BatchFrame, Bytes, CheckpointReader, CloseError, Commit, Consistency, Cursor, Decision,
    Durability, Event, EventStream, Frame, FrameId, FrameRole, GroupId, Handler, Health, LogTime,
    NodeId, Outcomes, Pair, Pinned, Position, ProposeError, ReadError, Replicator, Reply,
    RestoreError, Scope, SessionId, ShardKey, StateMachine, Status, SubscribeError, Subscription,
};
use quorate_shard::{ShardMachine, Shards, ShardsBuilder};

pub(crate) const GROUP: GroupId = GroupId::new(0);

pub(crate) fn shard(text: &str) -> ShardKey {
    ShardKey::parse(text).expect("tests use good names")
}

/// How many cases a property is tried with: twenty times as many with `QUORATE_TEST_BUDGET=long`.
pub(crate) fn cases(usual: u32) -> ProptestConfig {
    let long = std::env::var("QUORATE_TEST_BUDGET").is_ok_and(|budget| budget == "long");
    ProptestConfig::with_cases(if long { usual * 20 } else { usual })
}

/// A checkpoint store: the pairs of all checkpoints so far, merged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Store(pub(crate) BTreeMap<Bytes, Bytes>);

impl Store {
    pub(crate) fn merge(&mut self, pairs: impl Iterator<Item = Pair>) {
        for Pair { key, value } in pairs {
            match value {
                Some(value) => drop(self.0.insert(key, value)),
                None => drop(self.0.remove(&key)),
            }
        }
    }

    pub(crate) fn reader(&self) -> impl CheckpointReader + use<> {
        struct Reader(std::collections::btree_map::IntoIter<Bytes, Bytes>);
        impl CheckpointReader for Reader {
            fn next(&mut self) -> Result<Option<(Bytes, Bytes)>, RestoreError> {
                Ok(self.0.next())
            }
        }
        Reader(self.0.clone().into_iter())
    }
}

/// A batch as a test writes it down, so that it can be applied to several machines.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    pub(crate) log_time: LogTime,
    pub(crate) ops: Vec<(ShardKey, Bytes)>,
}

/// A machine, what it answered last, and its checkpoints.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) machine: ShardMachine,
    pub(crate) shards: Shards,
    pub(crate) store: Store,
    pub(crate) index: u64,
    pub(crate) log_time: LogTime,
    outcomes: Outcomes,
}

impl Bench {
    pub(crate) fn new(builder: ShardsBuilder) -> Self {
        let (machine, shards) = builder.build();
        Self {
            machine,
            shards,
            store: Store::default(),
            index: 0,
            log_time: LogTime::ZERO,
            outcomes: Outcomes::default(),
        }
    }

    /// Applies a batch; answers in order.
    pub(crate) fn apply(&mut self, written: &Written) -> Vec<Bytes> {
        self.log_time = written.log_time;
        self.index += 1;
        let frames: Vec<_> = written
            .ops
            .iter()
            .zip(0..)
            .map(|((shard, payload), slot)| {
                let id = FrameId { session: SessionId::new([1; 16]), serial: 1 };
                BatchFrame { slot, frame: Frame::new(id, shard.clone(), payload.clone()) }
            })
            .collect();
        let batch = Batch {
            group: GROUP,
            epoch: 0,
            index: self.index,
            log_time: self.log_time,
            frames: &frames,
        };
        self.outcomes.reset(true);
        self.machine.apply(&batch, &mut self.outcomes);
        assert_eq!(self.outcomes.replies().len(), frames.len(), "one answer for each frame");
        self.outcomes.replies().to_vec()
    }

    /// What the last batch said it changed.
    pub(crate) fn changes(&self) -> &[u8] {
        self.outcomes.changes()
    }

    /// Applies one operation at the present log time.
    pub(crate) fn op(&mut self, shard: &ShardKey, payload: Bytes) -> Bytes {
        let written = Written { log_time: self.log_time, ops: vec![(shard.clone(), payload)] };
        self.apply(&written).remove(0)
    }

    /// Lets log time pass with an empty batch.
    pub(crate) fn pass(&mut self, ms: u64) {
        let written = Written { log_time: self.log_time.plus_ms(ms), ops: Vec::new() };
        self.apply(&written);
    }

    pub(crate) fn checkpoint(&mut self) {
        self.store.merge(self.machine.begin_checkpoint());
    }

    /// Another machine with what is in the store.
    pub(crate) fn restored(&self, builder: ShardsBuilder) -> Self {
        let mut bench = Self::new(builder);
        bench.machine.restore(&mut self.store.reader()).expect("an own checkpoint");
        bench.store = self.store.clone();
        (bench.index, bench.log_time) = (self.index, self.log_time);
        bench
    }
}

/// A replicator around a machine. Frames from elsewhere wait until a linearizable barrier, as on a follower that
/// lags.
pub(crate) struct Direct {
    bench: Mutex<Bench>,
    late: Mutex<Vec<Written>>,
    decided: Mutex<BTreeMap<FrameId, Decision>>,
    /// Decisions that are made and not answered.
    pub(crate) lose_answers: Mutex<usize>,
    pub(crate) barriers: Mutex<Vec<Consistency>>,
}

impl Direct {
    pub(crate) fn new(builder: ShardsBuilder) -> (Arc<Self>, Shards) {
        let bench = Bench::new(builder);
        let shards = bench.shards.clone();
        let direct = Self {
            bench: Mutex::new(bench),
            late: Mutex::default(),
            decided: Mutex::default(),
            lose_answers: Mutex::default(),
            barriers: Mutex::default(),
        };
        (Arc::new(direct), shards)
    }

    pub(crate) fn bench(&self) -> std::sync::MutexGuard<'_, Bench> {
        self.bench.lock().unwrap()
    }

    /// A frame that was accepted elsewhere and is not yet applied here.
    pub(crate) fn accepted_elsewhere(&self, shard: &ShardKey, payload: Bytes) {
        let ops = vec![(shard.clone(), payload)];
        self.late.lock().unwrap().push(Written { log_time: LogTime::ZERO, ops });
    }

    fn catch_up(&self) {
        let mut bench = self.bench();
        for mut written in self.late.lock().unwrap().drain(..) {
            written.log_time = bench.log_time;
            bench.apply(&written);
        }
    }
}

impl fmt::Debug for Direct {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Direct")
    }
}

#[async_trait]
impl Replicator for Direct {
    async fn propose(&self, frame: Frame, _: Duration) -> Result<Decision, ProposeError> {
        self.catch_up();
        let mut decided = self.decided.lock().unwrap();
        let decision = decided.entry(frame.id).or_insert_with(|| {
            let mut bench = self.bench();
            let reply = match frame.role() {
                FrameRole::Mutation => bench.op(&frame.shard, frame.payload.clone()),
                FrameRole::OpenSession | FrameRole::CloseSession => Bytes::new(),
            };
            let position = Position { group: GROUP, epoch: 0, index: bench.index, slot: 0 };
            Decision::Accept(Commit { position, reply: Reply::Known(reply), proof: None })
        });
        let mut lose = self.lose_answers.lock().unwrap();
        if frame.role() == FrameRole::Mutation && *lose > 0 {
            *lose -= 1;
            return Ok(Decision::Timeout);
        }
        Ok(decision.clone())
    }

    async fn propose_many(
        &self,
        frames: Vec<Frame>,
        within: Duration,
    ) -> Result<Vec<Decision>, ProposeError> {
        let mut decisions = Vec::new();
        for frame in frames {
            decisions.push(self.propose(frame, within).await?);
        }
        Ok(decisions)
    }

    async fn decision(
        &self,
        _: &ShardKey,
        id: FrameId,
        _: Duration,
    ) -> Result<Decision, ReadError> {
        let decided = self.decided.lock().unwrap();
        Ok(decided.get(&id).cloned().unwrap_or(Decision::Undecided))
    }

    async fn subscribe(
        &self,
        _: Scope,
        _: Cursor,
        _: Arc<dyn Handler>,
    ) -> Result<Subscription, SubscribeError> {
        Err(SubscribeError::Closed)
    }

    async fn read_barrier(
        &self,
        _: &ShardKey,
        level: Consistency,
        within: Duration,
    ) -> Result<Position, ReadError> {
        self.barriers.lock().unwrap().push(level);
        if within.is_zero() {
            return Err(ReadError::Timeout);
        }
        if level == Consistency::Linearizable {
            self.catch_up();
        }
        let index = self.bench().index;
        Ok(Position { group: GROUP, epoch: 0, index, slot: 0 })
    }

    async fn pinned(&self, _: &ShardKey) -> Result<Arc<dyn Pinned>, ReadError> {
        let mut bench = self.bench();
        bench.checkpoint();
        let position = Position { group: GROUP, epoch: 0, index: bench.index, slot: 0 };
        Ok(Arc::new(PinnedStore { position, store: bench.store.clone() }))
    }

    fn group(&self, _: &ShardKey) -> GroupId {
        GROUP
    }

    fn status(&self) -> Status {
        Status::new(NodeId::new(1), "direct", Durability::Memory, Health::Ready)
    }

    fn events(&self) -> EventStream {
        struct Nothing;
        impl Stream for Nothing {
            type Item = Event;
            fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Event>> {
                Poll::Ready(None)
            }
        }
        Box::pin(Nothing)
    }

    async fn close(&self) -> Result<(), CloseError> {
        Ok(())
    }
}

/// A store held as it is.
#[derive(Debug)]
pub(crate) struct PinnedStore {
    pub(crate) position: Position,
    pub(crate) store: Store,
}

impl Pinned for PinnedStore {
    fn position(&self) -> Position {
        self.position
    }

    fn read(
        &self,
        from: Bound<&[u8]>,
        pairs_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, ReadError> {
        let mut pairs = Vec::new();
        let mut bytes = 0;
        for (key, value) in self.store.0.range::<[u8], _>((from, Bound::Unbounded)) {
            if pairs.len() == pairs_max || bytes >= bytes_max {
                break;
            }
            bytes += key.len() + value.len();
            pairs.push((key.clone(), value.clone()));
        }
        Ok(pairs)
    }
}
