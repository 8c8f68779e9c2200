//! What every driver must do, seen through its [`Replicator`].
//!
//! [`replicator`] runs all cases. The suite brings its own [`StateMachine`], which writes down what is applied; after each
//! case the journals of all nodes are compared, whatever the case was about: one order, each frame once, log time that
//! never goes back.

mod collector;
mod journal;
mod life;
mod proposals;
mod reads;
mod sessions;
mod subscriptions;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use quorate_replicator::{
    Commit, Cursor, Decision, Frame, FrameId, Replicator, ReplicatorExt, Scope, SessionId,
    ShardKey, StateMachine, Subscription,
};

pub use life::{
    a_closed_node_is_closed, a_restart_keeps_everything, closing_ends_what_waits,
    status_tells_what_happened, subscribers_resume_over_a_restart,
};
pub use proposals::{
    a_batch_too_large_is_refused_whole, a_frame_that_makes_no_sense_is_refused,
    a_frame_too_large_is_refused, a_late_frame_is_rejected_as_expired, a_long_reply_is_forgotten,
    a_proposal_keeps_its_deadline, a_repeated_frame_happens_once, a_reused_id_is_rejected,
    accepted_means_applied, an_ended_session_refuses, concurrent_proposers_share_one_order,
    frames_of_one_call_keep_their_order, unsettled_serials_are_bounded,
};
pub use reads::{a_barrier_sees_what_was_answered, a_decision_can_be_asked_for};
pub use sessions::{
    a_closed_session_goes_on_under_a_new_id, a_session_goes_on_under_a_new_id,
    a_session_numbers_and_settles, an_abandoned_attempt_is_resumed_by_its_clone,
    an_unknown_outcome_is_resumed_under_its_id, dropped_attempts_count_as_settled,
};
pub use subscriptions::{
    a_cancelled_subscription_ends, a_cursor_ahead_is_refused, a_failing_handler_ends_where_it_was,
    a_stalled_handler_blocks_nobody, a_subscription_begins_where_it_is_told,
    scopes_hold_what_they_name,
};

use crate::eventually::within;
use collector::Collector;
use journal::Journals;

/// How long the suite lets a proposal or a barrier wait. Never waited out unless a clause is broken.
const WAIT: Duration = Duration::from_secs(15);

/// Makes one state machine; called for each node and group, and again at a restart.
pub type MachineMaker = Arc<dyn Fn() -> Box<dyn StateMachine> + Send + Sync>;

/// Makes the clusters that the cases run on.
#[async_trait]
pub trait ReplicatorFactory: fmt::Debug + Send + Sync {
    /// How many nodes a cluster is to have: 1 for a driver that has no others.
    fn nodes(&self) -> usize {
        3
    }

    /// A new cluster, empty, of `nodes` nodes. It has nothing to do with earlier ones.
    async fn open(&self, nodes: usize, machine: MachineMaker) -> Box<dyn Cluster>;
}

/// A running cluster, and what can be done to it.
#[async_trait]
pub trait Cluster: fmt::Debug + Send + Sync {
    /// The nodes as they are now: a restart replaces one.
    fn nodes(&self) -> Vec<Arc<dyn Replicator>>;

    /// Closes a node, or kills it, and opens it again on the same data. False if this cluster keeps nothing over a
    /// restart; the cases about restarts are skipped then.
    async fn restart(&self, node: usize) -> bool;

    /// Makes it so that what is proposed at `node` is not decided until this is taken back. False if that cannot be
    /// done here; the cases about waiting are skipped then.
    async fn stall(&self, node: usize, stalled: bool) -> bool;

    /// Closes all nodes.
    async fn close(&self);
}

macro_rules! cases {
    ($($case:ident),* $(,)?) => {
        /// The names of all cases, in the order in which [`replicator`] runs them.
        pub const CASES: &[&str] = &[$(stringify!($case)),*];

        /// Runs all cases, and answers the names of those that passed: all of them, or it panics.
        ///
        /// # Panics
        ///
        /// At the first clause of the contract that does not hold, naming it.
        ///
        /// # Cancel safety
        ///
        /// A dropped future leaves the cluster of the running case open.
        pub async fn replicator<F: ReplicatorFactory>(factory: F) -> &'static [&'static str] {
            $($case(&factory).await;)*
            CASES
        }
    };
}

cases![
    accepted_means_applied,
    concurrent_proposers_share_one_order,
    a_repeated_frame_happens_once,
    a_reused_id_is_rejected,
    an_ended_session_refuses,
    a_long_reply_is_forgotten,
    unsettled_serials_are_bounded,
    a_late_frame_is_rejected_as_expired,
    a_frame_too_large_is_refused,
    a_frame_that_makes_no_sense_is_refused,
    frames_of_one_call_keep_their_order,
    a_batch_too_large_is_refused_whole,
    a_proposal_keeps_its_deadline,
    a_decision_can_be_asked_for,
    a_barrier_sees_what_was_answered,
    a_subscription_begins_where_it_is_told,
    scopes_hold_what_they_name,
    a_failing_handler_ends_where_it_was,
    a_cancelled_subscription_ends,
    a_stalled_handler_blocks_nobody,
    a_cursor_ahead_is_refused,
    a_session_numbers_and_settles,
    a_session_goes_on_under_a_new_id,
    an_unknown_outcome_is_resumed_under_its_id,
    an_abandoned_attempt_is_resumed_by_its_clone,
    dropped_attempts_count_as_settled,
    a_closed_session_goes_on_under_a_new_id,
    status_tells_what_happened,
    closing_ends_what_waits,
    a_closed_node_is_closed,
    a_restart_keeps_everything,
    subscribers_resume_over_a_restart,
];

/// One cluster, its journals, and a shard to write to.
struct Fixture {
    case: &'static str,
    cluster: Box<dyn Cluster>,
    journals: Journals,
    shard: ShardKey,
}

impl Fixture {
    /// Opens a cluster and waits until every node can decide.
    async fn open<F: ReplicatorFactory>(case: &'static str, factory: &F) -> Self {
        let journals = Journals::default();
        let nodes = factory.nodes();
        let cluster = factory.open(nodes, journals.machine_maker()).await;
        assert_eq!(
            cluster.nodes().len(),
            nodes,
            "{case}: the factory made another number of nodes"
        );
        let fixture = Self { case, cluster, journals, shard: shard("acme", "orders") };
        for node in fixture.nodes() {
            fixture.ready(&node).await;
        }
        fixture
    }

    fn nodes(&self) -> Vec<Arc<dyn Replicator>> {
        self.cluster.nodes()
    }

    /// One of the nodes, counted round.
    fn node(&self, node: usize) -> Arc<dyn Replicator> {
        let mut nodes = self.nodes();
        let node = node % nodes.len();
        nodes.swap_remove(node)
    }

    async fn ready(&self, node: &Arc<dyn Replicator>) {
        let ready = node.ready(&self.shard, WAIT).await;
        assert!(ready, "{}: a node that was opened becomes ready", self.case);
    }

    /// A session, open in the group of the shard.
    async fn session(&self) -> SessionId {
        let session = SessionId::new(fastrand::u128(..).to_be_bytes());
        self.accept(0, Frame::open_session(session, self.shard.clone())).await;
        session
    }

    fn frame(&self, session: SessionId, serial: u64, payload: impl Into<Bytes>) -> Frame {
        Frame::new(FrameId { session, serial }, self.shard.clone(), payload)
    }

    async fn propose(
        &self,
        node: usize,
        frame: Frame,
    ) -> Result<Decision, quorate_replicator::ProposeError> {
        let clause = self.clause("a proposal returns by its deadline");
        within(&clause, self.node(node).propose(frame, WAIT)).await
    }

    /// Proposes a frame that must be accepted.
    async fn accept(&self, node: usize, frame: Frame) -> Commit {
        let id = frame.id;
        match self.propose(node, frame).await {
            Ok(Decision::Accept(commit)) => commit,
            other => panic!("{}: frame {id} is accepted, not: {other:?}", self.case),
        }
    }

    /// Frames with the serials `from..from + count`, one call each, all accepted.
    async fn accept_many(&self, session: SessionId, from: u64, count: u64) -> Vec<Commit> {
        let mut commits = Vec::new();
        for serial in from..from + count {
            let payload = format!("frame {serial}");
            commits.push(self.accept(serial as usize, self.frame(session, serial, payload)).await);
        }
        commits
    }

    async fn subscribe(
        &self,
        node: usize,
        scope: Scope,
        from: Cursor,
    ) -> (Subscription, Arc<Collector>) {
        let collector = Arc::new(Collector::default());
        (self.subscribe_with(node, scope, from, &collector).await, collector)
    }

    async fn subscribe_with(
        &self,
        node: usize,
        scope: Scope,
        from: Cursor,
        collector: &Arc<Collector>,
    ) -> Subscription {
        let node = self.node(node);
        let subscribing = node.subscribe(scope, from, Arc::clone(collector) as _);
        match within(&self.clause("subscribe returns"), subscribing).await {
            Ok(subscription) => subscription,
            Err(error) => panic!("{}: a subscription begins, not: {error}", self.case),
        }
    }

    fn clause(&self, clause: &str) -> String {
        format!("{}: {clause}", self.case)
    }

    /// Says that a case was skipped because the factory lacks a hook, and closes.
    async fn skip(self, hook: &str) {
        println!("{}: skipped, the factory has no {hook}", self.case);
        self.close().await;
    }

    /// Compares the journals and closes the cluster.
    async fn close(self) {
        self.journals.check(self.case);
        within(&self.clause("close returns"), self.cluster.close()).await;
        self.journals.check(self.case);
    }
}

fn shard(org: &str, namespace: &str) -> ShardKey {
    ShardKey::new(org, namespace).expect("the suite's names are good")
}
