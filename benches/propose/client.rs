//! Clients in a closed loop: each waits for the answer to its call before it makes the next one.

use std::sync::Arc;

use quorate_replicator::{Decision, Frame, FrameId, Replicator, SessionId, ShardKey};
use tokio::task::JoinSet;

use crate::machine::{Kind, Payloads, WITHIN};

/// What one call is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Call {
    /// `propose`.
    One,
    /// `propose_many` of so many frames.
    Many(usize),
}

impl Call {
    pub(crate) fn frames(self) -> usize {
        match self {
            Self::One => 1,
            Self::Many(frames) => frames,
        }
    }
}

/// Clients of one node, each a task of its own while they run.
#[derive(Debug)]
pub(crate) struct Clients(Vec<Client>);

#[derive(Debug)]
struct Client {
    replicator: Arc<dyn Replicator>,
    shard: ShardKey,
    session: SessionId,
    serial: u64,
    payloads: Payloads,
    call: Call,
}

impl Clients {
    /// Opens a session for each.
    pub(crate) async fn open(
        replicator: &Arc<dyn Replicator>,
        kind: Kind,
        count: usize,
        call: Call,
    ) -> Self {
        let shard = ShardKey::new("org", "ns").expect("two names");
        let mut clients = Vec::with_capacity(count);
        for client in 0..count as u64 {
            let session = SessionId::random().expect("the system has a random source");
            accepted(replicator.propose(Frame::open_session(session, shard.clone()), WITHIN).await);
            clients.push(Client {
                replicator: Arc::clone(replicator),
                shard: shard.clone(),
                session,
                serial: 1,
                payloads: Payloads::new(kind, client),
                call,
            });
        }
        Self(clients)
    }

    /// Lets each client make so many calls.
    pub(crate) async fn run(&mut self, rounds: u64) {
        let mut running = JoinSet::new();
        for mut client in self.0.drain(..) {
            running.spawn(async move {
                for _ in 0..rounds {
                    client.call().await;
                }
                client
            });
        }
        self.0 = running.join_all().await;
    }

    /// Closes the sessions, so that the next clients find a table without them.
    pub(crate) async fn close(self) {
        for Client { replicator, shard, session, .. } in self.0 {
            accepted(replicator.propose(Frame::close_session(session, shard), WITHIN).await);
        }
    }
}

impl Client {
    async fn call(&mut self) {
        // Everything before this call was answered.
        let settled = self.serial;
        match self.call {
            Call::One => {
                let frame = self.frame(settled);
                accepted(self.replicator.propose(frame, WITHIN).await);
            }
            Call::Many(count) => {
                let frames = (0..count).map(|_| self.frame(settled)).collect();
                let decided = self.replicator.propose_many(frames, WITHIN).await;
                let decisions = decided.expect("the node serves");
                assert_eq!(decisions.len(), count);
                decisions.into_iter().for_each(|decision| accepted(Ok(decision)));
            }
        }
    }

    fn frame(&mut self, settled: u64) -> Frame {
        let id = FrameId { session: self.session, serial: self.serial };
        self.serial += 1;
        Frame { settled, ..Frame::new(id, self.shard.clone(), self.payloads.next()) }
    }
}

fn accepted(decided: Result<Decision, quorate_replicator::ProposeError>) {
    let decision = decided.expect("the node serves");
    assert!(matches!(decision, Decision::Accept(_)), "{decision:?}");
}
