//! What a client says when it cannot know: a refusal of a later attempt says nothing of an earlier one whose answer was lost.

#[path = "support/nobody.rs"]
mod nobody;

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream;
use nobody::Nobody;
use quorate_client::{Client, ClientConfig, Service};
use quorate_replicator::{
    CloseError, ClusterId, Commit, Consistency, Cursor, Decision, Durability, EventStream, Frame,
    FrameId, GroupId, GroupStatus, Handler, Health, NodeId, Pinned, Position, ProposeError,
    ReadError, Replicator, Reply, Resource, Role, Scope, SessionId, ShardKey, Status,
    SubscribeError, Subscription, Transport as _,
};
use quorate_shard::Shards;
use quorate_transport_quic::{Authority, QuicConfig, QuicTransport, Subject, Validity};
use tokio::sync::Notify;

const CLUSTER: ClusterId = ClusterId::new([7; 16]);
const WITHIN: Duration = Duration::from_secs(20);

/// What a node does with a proposal.
#[derive(Clone, Debug)]
enum Act {
    /// Takes it, and never answers.
    Swallow,
    Answer(Result<Decision, ProposeError>),
}

/// A node that does what it is told.
#[derive(Debug)]
struct Scripted {
    node: NodeId,
    acts: Mutex<VecDeque<Act>>,
    swallowed: Notify,
}

#[async_trait]
impl Replicator for Scripted {
    async fn propose(&self, _: Frame, _: Duration) -> Result<Decision, ProposeError> {
        let act = self.acts.lock().unwrap().pop_front();
        match act.expect("no more proposals are made than acts are there") {
            Act::Swallow => {
                self.swallowed.notify_one();
                std::future::pending().await
            }
            Act::Answer(answer) => answer,
        }
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

    async fn decision(&self, _: &ShardKey, _: FrameId, _: Duration) -> Result<Decision, ReadError> {
        Ok(Decision::Undecided)
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
        shard: &ShardKey,
        _: Consistency,
        _: Duration,
    ) -> Result<Position, ReadError> {
        Ok(Position::origin(self.group(shard)))
    }

    async fn pinned(&self, _: &ShardKey) -> Result<Arc<dyn Pinned>, ReadError> {
        Err(ReadError::NoCheckpoint)
    }

    fn group(&self, shard: &ShardKey) -> GroupId {
        GroupId::of(shard, 1)
    }

    fn status(&self) -> Status {
        let mut status = Status::new(self.node, "scripted", Durability::Memory, Health::Ready);
        let mut group = GroupStatus::new(GroupId::new(0), Role::Follower);
        // The client begins with this one.
        group.leader = Some(NodeId::new(1));
        status.groups.push(group);
        status
    }

    fn events(&self) -> EventStream {
        Box::pin(stream::pending())
    }

    async fn close(&self) -> Result<(), CloseError> {
        Ok(())
    }
}

fn frame() -> Frame {
    let id = FrameId { session: SessionId::new([1; 16]), serial: 1 };
    Frame::new(id, ShardKey::new("acme", "orders").unwrap(), "x")
}

fn accepted() -> Decision {
    let position = Position { index: 7, ..Position::origin(GroupId::new(0)) };
    Decision::Accept(Commit { position, reply: Reply::Known("done".into()), proof: None })
}

/// Proposes a frame to n1, which does as `first` says, and then to n2, if n1 swallowed it and was lost.
async fn propose(first: Vec<Act>, second: Vec<Act>) -> Result<Decision, ProposeError> {
    let authority = Authority::create("test", Validity::days(1)).unwrap();
    let identity = |subject: &Subject| {
        authority.issue(subject, Validity::days(1)).unwrap().identity().unwrap()
    };
    let mut nodes = Vec::new();
    let mut config = ClientConfig::default();
    for (number, acts) in [(1, first), (2, second)] {
        let node = NodeId::new(number);
        let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let subject = Subject::node(CLUSTER, node);
        let quic = QuicTransport::bind(identity(&subject), 1, QuicConfig::listening(anywhere));
        let quic = quic.unwrap();
        let (acts, swallowed) = (Mutex::new(acts.into()), Notify::new());
        let scripted = Arc::new(Scripted { node, acts, swallowed });
        quic.receive(Arc::new(Nobody));
        let shards = Shards::builder().build().1;
        quic.serve_clients(Arc::new(Service::new(Arc::clone(&scripted) as _, &shards)));
        config.nodes.insert(node, quic.status().listens_on.to_string());
        nodes.push((quic, scripted));
    }
    let client = identity(&Subject::client(CLUSTER, "test").unwrap());
    let client = Client::connect_as(client, config).await.unwrap();
    let replicator = client.replicator();
    // It follows the leader, which is n1.
    while replicator.status().node != NodeId::new(1) {
        tokio::task::yield_now().await;
    }
    let (quic, scripted) = &nodes[0];
    let proposing = replicator.propose(frame(), WITHIN);
    let losing = async {
        scripted.swallowed.notified().await;
        quic.close().await;
        std::future::pending::<()>().await;
    };
    let outcome = tokio::select! {
        outcome = proposing => outcome,
        () = losing => unreachable!("it waits without end"),
    };
    for (_, scripted) in &nodes {
        assert!(scripted.acts.lock().unwrap().is_empty(), "all acts were needed");
    }
    client.close().await;
    outcome
}

#[tokio::test]
async fn a_refusal_of_the_first_attempt_is_told() {
    let refused = Act::Answer(Err(ProposeError::SessionEnded));
    assert_eq!(propose(vec![refused], vec![]).await, Err(ProposeError::SessionEnded));
}

#[tokio::test]
async fn a_decision_after_a_lost_answer_is_told() {
    let outcome = propose(vec![Act::Swallow], vec![Act::Answer(Ok(accepted()))]).await;
    assert_eq!(outcome, Ok(accepted()));
}

/// To say that the session has ended would let the caller propose the frame under another id, and have it happen twice.
#[tokio::test]
async fn a_refusal_after_a_lost_answer_leaves_it_unknown() {
    let reason = "it makes no sense".to_owned();
    for refusal in [ProposeError::SessionEnded, ProposeError::Invalid { reason }] {
        let outcome = propose(vec![Act::Swallow], vec![Act::Answer(Err(refusal))]).await;
        assert_eq!(outcome, Ok(Decision::Timeout));
    }
}

#[tokio::test]
async fn what_passes_by_itself_is_waited_for_after_a_lost_answer() {
    let overloaded = ProposeError::Overloaded { resource: Resource::Frames, limit: 1 };
    let second = vec![Act::Answer(Err(overloaded.clone())), Act::Answer(Ok(accepted()))];
    assert_eq!(propose(vec![Act::Swallow], second).await, Ok(accepted()));
    // Without one, the caller is told at once.
    let outcome = propose(vec![Act::Answer(Err(overloaded.clone()))], vec![]).await;
    assert_eq!(outcome, Err(overloaded));
}

#[tokio::test]
async fn a_node_that_stopped_is_left_for_another() {
    for submitted in [false, true] {
        let closed = ProposeError::Closed { submitted };
        let outcome = propose(vec![Act::Answer(Err(closed))], vec![Act::Answer(Ok(accepted()))]);
        assert_eq!(outcome.await, Ok(accepted()));
    }
    let closed = ProposeError::Closed { submitted: true };
    let ended = Act::Answer(Err(ProposeError::SessionEnded));
    let outcome = propose(vec![Act::Answer(Err(closed))], vec![ended]).await;
    assert_eq!(outcome, Ok(Decision::Timeout));
}
