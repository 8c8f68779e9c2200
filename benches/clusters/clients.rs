//! Clients in a closed loop: each waits for the answer to its call before it makes the next one.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate_replicator::{
    Consistency, Decision, Frame, FrameId, ProposeError, Replicator, SessionId, ShardKey, Signer,
};
use tokio::task::JoinSet;

use crate::contest::{Load, Running};

/// Length of a payload.
pub(crate) const BYTES: usize = 64;

/// How long a client of a bench waits at most.
const WITHIN: Duration = Duration::from_secs(60);

/// What one call is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Call {
    /// `propose`.
    One,
    /// `propose_many` of so many frames.
    Many(usize),
    /// `read_barrier`, linearizable.
    Read,
}

impl Call {
    /// How many frames or reads.
    pub(crate) const fn count(self) -> usize {
        match self {
            Self::One | Self::Read => 1,
            Self::Many(frames) => frames,
        }
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One => write!(f, "propose"),
            Self::Many(frames) => write!(f, "propose_many frames={frames}"),
            Self::Read => write!(f, "read"),
        }
    }
}

/// Clients, each a task of its own while they run.
#[derive(Debug)]
pub(crate) struct Clients(Vec<Client>);

#[derive(Debug)]
struct Client {
    replicator: Arc<dyn Replicator>,
    shard: ShardKey,
    session: SessionId,
    signer: Option<Signer>,
    serial: u64,
    payload: Bytes,
    call: Call,
}

impl Clients {
    /// Opens a session for each; they take the places in turn.
    pub(crate) async fn open(
        places: &[(Arc<dyn Replicator>, ShardKey)],
        count: usize,
        call: Call,
    ) -> Self {
        let mut opening = JoinSet::new();
        for (replicator, shard) in places.iter().cycle().take(count).cloned() {
            opening.spawn(async move {
                let signer = replicator.signer().expect("the system has a random source");
                let session = match &signer {
                    Some(signer) => signer.session(),
                    None => SessionId::random().expect("the system has a random source"),
                };
                if !matches!(call, Call::Read) {
                    let open = match &signer {
                        Some(signer) => signer
                            .open_session(&shard, &replicator.status())
                            .expect("the system has a random source"),
                        None => Frame::open_session(session, shard.clone()),
                    };
                    accepted(replicator.propose(open, WITHIN).await);
                }
                let payload = vec![7; BYTES].into();
                Client { replicator, shard, session, signer, serial: 1, payload, call }
            });
        }
        Self(opening.join_all().await)
    }
}

impl Load for Clients {
    fn run(&mut self, rounds: u64) -> Running<'_> {
        Box::pin(async move {
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
        })
    }
}

impl Client {
    async fn call(&mut self) {
        // Everything before this call was answered.
        let settled = self.serial;
        match self.call {
            Call::One => {
                let mut frame = self.frame(settled);
                self.sign(std::slice::from_mut(&mut frame));
                accepted(self.replicator.propose(frame, WITHIN).await);
            }
            Call::Many(count) => {
                let mut frames: Vec<_> = (0..count).map(|_| self.frame(settled)).collect();
                self.sign(&mut frames);
                let decided = self.replicator.propose_many(frames, WITHIN).await;
                let decisions = decided.expect("the node serves");
                assert_eq!(decisions.len(), count);
                decisions.into_iter().for_each(|decision| accepted(Ok(decision)));
            }
            Call::Read => {
                let read =
                    self.replicator.read_barrier(&self.shard, Consistency::Linearizable, WITHIN);
                read.await.expect("the node serves");
            }
        }
    }

    fn sign(&self, frames: &mut [Frame]) {
        let signed = self.signer.as_ref().map_or(Ok(()), |signer| signer.sign(frames));
        signed.expect("the system has a random source");
    }

    fn frame(&mut self, settled: u64) -> Frame {
        let id = FrameId { session: self.session, serial: self.serial };
        self.serial += 1;
        Frame { settled, ..Frame::new(id, self.shard.clone(), self.payload.clone()) }
    }
}

fn accepted(decided: Result<Decision, ProposeError>) {
    let decision = decided.expect("the node serves");
    assert!(matches!(decision, Decision::Accept(_)), "{decision:?}");
}
