//! A replicator for tests that keeps the contract and has every mishap the contract allows: answers get lost before
//! or after the decision, calls are refused for a while, and calls in flight overtake one another.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use futures_core::Stream;
use quorate::limits::SESSION_UNSETTLED_MAX;
use quorate::*;

/// What is known of one session.
#[derive(Debug, Default)]
struct Known {
    closed: bool,
    settled: u64,
    decided: BTreeMap<u64, Decision>,
}

#[derive(Debug, Default)]
struct State {
    sessions: BTreeMap<SessionId, Known>,
    /// Every frame that was applied, in order.
    applied: Vec<Frame>,
    random: u64,
    /// Frames that are still applied before the node stops, as if it had been killed.
    until_stop: Option<u64>,
}

impl State {
    fn chance(&mut self, one_in: u64) -> bool {
        // xorshift64*: good enough to mix mishaps, and the same on every machine.
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33 < (1 << 31) / one_in
    }

    fn decide(&mut self, frame: &Frame) -> Result<Decision, ProposeError> {
        if frame.role() == FrameRole::OpenSession {
            let known = self.sessions.entry(frame.id.session).or_default();
            return if known.closed { Err(ProposeError::SessionEnded) } else { Ok(self.accept()) };
        }
        let place = self.accept();
        let Some(known) = self.sessions.get_mut(&frame.id.session).filter(|it| !it.closed) else {
            return Err(ProposeError::SessionEnded);
        };
        if frame.role() == FrameRole::CloseSession {
            known.closed = true;
            return Ok(place);
        }
        known.settled = known.settled.max(frame.settled);
        known.decided = known.decided.split_off(&known.settled);
        if frame.id.serial < known.settled {
            return Err(ProposeError::SessionEnded);
        }
        if let Some(decision) = known.decided.get(&frame.id.serial) {
            return Ok(decision.clone());
        }
        assert!(known.decided.len() < SESSION_UNSETTLED_MAX, "too many unsettled serials");
        if let Some(left) = &mut self.until_stop {
            if *left == 0 {
                return Err(stopped());
            }
            *left -= 1;
        }
        known.decided.insert(frame.id.serial, place.clone());
        self.applied.push(frame.clone());
        Ok(place)
    }

    fn accept(&self) -> Decision {
        let position = Position {
            group: GroupId::new(0),
            epoch: 0,
            index: self.applied.len() as u64 + 1,
            slot: 0,
        };
        let reply = Reply::Forgotten;
        Decision::Accept(Commit { position, reply, proof: None })
    }
}

fn stopped() -> ProposeError {
    ProposeError::Faulted { cause: "scripted".into(), submitted: true }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Scripted(Mutex<State>);

impl Scripted {
    pub(crate) fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State { random: seed | 1, ..State::default() })))
    }

    /// Stops the node after so many more frames, or lets it go on.
    pub(crate) fn stop_after(&self, frames: Option<u64>) {
        self.0.lock().unwrap().until_stop = frames;
    }

    /// Ends all sessions, as time without use does.
    pub(crate) fn end_sessions(&self) {
        self.0.lock().unwrap().sessions.values_mut().for_each(|known| known.closed = true);
    }

    /// Every frame that was applied, in order.
    pub(crate) fn applied(&self) -> Vec<Frame> {
        self.0.lock().unwrap().applied.clone()
    }

    fn chance(&self, one_in: u64) -> bool {
        self.0.lock().unwrap().chance(one_in)
    }
}

#[async_trait]
impl Replicator for Scripted {
    async fn propose(&self, frame: Frame, within: Duration) -> Result<Decision, ProposeError> {
        self.propose_many(vec![frame], within).await.map(|mut decisions| decisions.remove(0))
    }

    async fn propose_many(
        &self,
        frames: Vec<Frame>,
        _within: Duration,
    ) -> Result<Vec<Decision>, ProposeError> {
        // Others get ahead of this call, or not.
        while self.chance(2) {
            tokio::task::yield_now().await;
        }
        if self.chance(8) {
            return Err(ProposeError::Overloaded { resource: Resource::Frames, limit: 1 });
        }
        let mut state = self.0.lock().unwrap();
        // A lost suffix is not decided; a lost answer is.
        let decided = if state.chance(8) { frames.len() / 2 } else { frames.len() };
        let mut decisions = Vec::new();
        for (at, frame) in frames.iter().enumerate() {
            if at >= decided {
                decisions.push(Decision::Timeout);
                continue;
            }
            let decision = state.decide(frame)?;
            decisions.push(if state.chance(100) { Decision::Timeout } else { decision });
        }
        Ok(decisions)
    }

    async fn decision(
        &self,
        _shard: &ShardKey,
        id: FrameId,
        _within: Duration,
    ) -> Result<Decision, ReadError> {
        let state = self.0.lock().unwrap();
        match state.sessions.get(&id.session).filter(|known| !known.closed) {
            Some(known) if id.serial >= known.settled => {
                Ok(known.decided.get(&id.serial).cloned().unwrap_or(Decision::Undecided))
            }
            _ => Err(ReadError::Forgotten),
        }
    }

    async fn subscribe(
        &self,
        _scope: Scope,
        _from: Cursor,
        _handler: Arc<dyn Handler>,
    ) -> Result<Subscription, SubscribeError> {
        Err(SubscribeError::Closed)
    }

    async fn read_barrier(
        &self,
        _shard: &ShardKey,
        _level: Consistency,
        _within: Duration,
    ) -> Result<Position, ReadError> {
        Err(ReadError::Closed)
    }

    async fn pinned(&self, _shard: &ShardKey) -> Result<Arc<dyn Pinned>, ReadError> {
        Err(ReadError::NoCheckpoint)
    }

    fn group(&self, _shard: &ShardKey) -> GroupId {
        GroupId::new(0)
    }

    fn status(&self) -> Status {
        Status::new(NodeId::new(1), "scripted", Durability::Disk, Health::Ready)
    }

    fn events(&self) -> EventStream {
        Box::pin(NoEvents)
    }

    async fn close(&self) -> Result<(), CloseError> {
        Ok(())
    }
}

/// Nothing ever happens.
struct NoEvents;

impl Stream for NoEvents {
    type Item = Event;

    fn poll_next(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<Option<Event>> {
        Poll::Ready(None)
    }
}
