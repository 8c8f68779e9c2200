//! A subscriber that writes down what it is given, and stalls or fails when it is told to.

use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use quorate_replicator::{Accepted, FrameId, FrameRole, Handler, HandlerError, Position};
use tokio::sync::watch;

use super::Fixture;
use crate::eventually::eventually;

/// Writes down the mutations that it is given.
///
/// Whether frames that open and close sessions are given as well is left to the driver, so they are passed over.
#[derive(Debug, Default)]
pub(super) struct Collector {
    state: Mutex<State>,
    /// Calls wait while this is set.
    stalled: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct State {
    got: Vec<Accepted>,
    /// The call that reaches this many mutations fails.
    fail_at: Option<usize>,
    calls: u64,
    running: bool,
    broken: Option<&'static str>,
}

impl Collector {
    /// A collector whose call fails in which this many mutations would be reached.
    pub(super) fn failing_at(count: usize) -> Self {
        let collector = Self::default();
        collector.state().fail_at = Some(count);
        collector
    }

    pub(super) fn stall(&self, stalled: bool) {
        self.stalled.send_replace(stalled);
    }

    pub(super) fn count(&self) -> usize {
        self.state().got.len()
    }

    pub(super) fn calls(&self) -> u64 {
        self.state().calls
    }

    pub(super) fn places(&self) -> Vec<(Position, FrameId)> {
        self.state().got.iter().map(|accepted| (accepted.position, accepted.frame.id)).collect()
    }

    /// Waits until `count` mutations were given, and checks what must hold of them.
    pub(super) async fn wait(&self, fixture: &Fixture, count: usize) -> Vec<(Position, FrameId)> {
        let clause = fixture.clause("every accepted frame in scope reaches the subscriber");
        eventually(&clause, || self.count() >= count).await;
        self.check(fixture);
        self.places()
    }

    pub(super) fn check(&self, fixture: &Fixture) {
        let state = self.state();
        if let Some(clause) = state.broken {
            panic!("{}: {clause}", fixture.case);
        }
        for pair in state.got.windows(2) {
            let (before, after) = (&pair[0], &pair[1]);
            assert!(
                before.position < after.position || before.position.group != after.position.group,
                "{}: a subscriber is given each frame once, in the order of positions; {} at {} came after {} at {}",
                fixture.case,
                after.frame.id,
                after.position,
                before.frame.id,
                before.position
            );
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Handler for Collector {
    async fn handle(&self, batch: &[Accepted]) -> Result<(), HandlerError> {
        let _running = Running::begin(self);
        // The sender lives in this collector, so waiting cannot fail.
        let _ = self.stalled.subscribe().wait_for(|stalled| !stalled).await;
        let mut state = self.state();
        let Some(first) = batch.first() else {
            state.broken = Some("a handler's batch is never empty");
            return Ok(());
        };
        if batch.iter().any(|accepted| accepted.position.group != first.position.group) {
            state.broken = Some("a handler's batch holds frames of one group");
        }
        let mutations: Vec<_> = batch
            .iter()
            .filter(|accepted| accepted.frame.role() == FrameRole::Mutation)
            .cloned()
            .collect();
        if state.fail_at.is_some_and(|count| state.got.len() + mutations.len() >= count) {
            return Err(HandlerError::new("the collector has had enough"));
        }
        state.got.extend(mutations);
        Ok(())
    }
}

/// Notices two calls at once.
struct Running<'a>(&'a Collector);

impl<'a> Running<'a> {
    fn begin(collector: &'a Collector) -> Self {
        let mut state = collector.state();
        state.calls += 1;
        if std::mem::replace(&mut state.running, true) {
            state.broken = Some("a handler is called once at a time");
        }
        Self(collector)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.state().running = false;
    }
}
