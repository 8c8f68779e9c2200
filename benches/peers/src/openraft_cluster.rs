//! openraft: three nodes whose network is a call of the other's function.
//!
//! Chosen in its favour where there was a choice: entries are never encoded, appends go through its stream instead of
//! one by one, and the log is a row in memory. Election and heartbeat are timed as ours; the rest is as its own
//! benchmark has it.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, TryStreamExt};
use openraft::alias::{SnapshotOf, VoteOf};
use openraft::base::{BoxFuture, BoxStream};
use openraft::error::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, VoteRequest,
    VoteResponse,
};
use openraft::{Config, OptionalSend, Raft, RaftNetworkFactory, RaftNetworkV2, ReadPolicy};
use quorate_replicator::Durability;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::clients::{BYTES, Call};
use crate::cluster::NODES;
use crate::contest::{Entrant, Load, Running};
use crate::openraft_store::{Counter, Log, Payload, Types};
use crate::suite::{Place, Work};

type Node = Raft<Types, Counter>;

/// Opens a cluster for this work, if openraft does it: it keeps nothing on disk by itself, and forwards nothing.
pub(crate) fn entrant(runtime: &Runtime, work: Work) -> Option<Entrant> {
    if work.place != Place::Leader || work.durability != Durability::Memory {
        return None;
    }
    let load = Clients {
        nodes: runtime.block_on(open()),
        clients: work.clients,
        call: work.call,
        payload: vec![7; BYTES].into(),
    };
    let per_round = (work.clients * work.call.count()) as u64;
    Some(Entrant { name: "openraft", per_round, load: Box::new(load), disk: None, decided: None })
}

/// Opens three nodes; the first becomes the leader.
async fn open() -> Vec<Node> {
    let config = Config {
        election_timeout_min: 1000,
        election_timeout_max: 1500,
        heartbeat_interval: 200,
        purge_batch_size: 1024,
        max_payload_entries: 1024,
        ..Default::default()
    };
    let config = Arc::new(config.validate().expect("the configuration is valid"));
    let network = Network::default();
    let mut nodes = Vec::new();
    for id in 1..=NODES {
        let opened =
            Node::new(id, Arc::clone(&config), network.clone(), Log::default(), Counter::default());
        nodes.push(opened.await.expect("a node opens"));
    }
    let named = (1..).zip(nodes.iter().cloned());
    network.0.lock().unwrap_or_else(PoisonError::into_inner).extend(named);
    let members: BTreeSet<u64> = (1..=NODES).collect();
    nodes[0].initialize(members).await.expect("new nodes form a cluster");
    for node in &nodes {
        let wait = node.wait(Some(Duration::from_secs(120)));
        wait.current_leader(1, "election").await.expect("the first node is elected");
    }
    nodes
}

/// The nodes by their ids.
#[derive(Clone, Default)]
struct Network(Arc<Mutex<BTreeMap<u64, Node>>>);

/// The way to one node.
struct Link(Node);

impl RaftNetworkFactory<Types> for Network {
    type Network = Link;

    async fn new_client(&mut self, target: u64, (): &()) -> Link {
        let nodes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Link(nodes[&target].clone())
    }
}

fn unreachable<E: std::error::Error + 'static>(error: E) -> RPCError<Types> {
    RPCError::Unreachable(Unreachable::new(&error))
}

impl RaftNetworkV2<Types> for Link {
    type SnapshotData = u64;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        _: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        self.0.append_entries(request).await.map_err(unreachable)
    }

    fn stream_append<'s, S>(
        &'s mut self,
        requests: S,
        _: RPCOption,
    ) -> BoxFuture<
        's,
        Result<BoxStream<'s, Result<StreamAppendResult<Types>, RPCError<Types>>>, RPCError<Types>>,
    >
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + OptionalSend + Unpin + 'static,
    {
        let answers = self.0.stream_append(requests).map_err(unreachable);
        Box::pin(async move { Ok(answers.boxed()) })
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Types>,
        _: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.0.vote(request).await.map_err(unreachable)
    }

    async fn full_snapshot(
        &mut self,
        vote: VoteOf<Types>,
        snapshot: SnapshotOf<Types, u64>,
        _: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let installed = self.0.install_full_snapshot(vote, snapshot).await;
        installed.map_err(|fatal| StreamingError::Unreachable(Unreachable::new(&fatal)))
    }
}

/// Clients in a closed loop at the leader, as those of quorate.
struct Clients {
    nodes: Vec<Node>,
    clients: usize,
    call: Call,
    payload: Bytes,
}

impl Load for Clients {
    fn run(&mut self, rounds: u64) -> Running<'_> {
        Box::pin(async move {
            let mut running = JoinSet::new();
            for _ in 0..self.clients {
                let (leader, call, payload) =
                    (self.nodes[0].clone(), self.call, self.payload.clone());
                running.spawn(async move {
                    for _ in 0..rounds {
                        one(&leader, call, &payload).await;
                    }
                });
            }
            running.join_all().await;
        })
    }

    fn close(&mut self) -> Running<'_> {
        Box::pin(async move {
            for node in self.nodes.drain(..) {
                node.shutdown().await.expect("a node closes");
            }
        })
    }
}

async fn one(leader: &Node, call: Call, payload: &Bytes) {
    match call {
        Call::One => {
            leader.client_write(Payload(payload.clone())).await.expect("the leader stays");
        }
        Call::Many(count) => {
            let payloads: Vec<_> = (0..count).map(|_| Payload(payload.clone())).collect();
            let answers = leader.client_write_many(payloads).await.expect("the node serves");
            let answered = answers.try_fold(0, |answered, answer| async move {
                answer.expect("the leader stays");
                Ok(answered + 1)
            });
            assert_eq!(answered.await.expect("the node serves"), count);
        }
        Call::Read => {
            leader.ensure_linearizable(ReadPolicy::ReadIndex).await.expect("the leader stays");
        }
    }
}
