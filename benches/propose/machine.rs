//! The state machines that are measured, and what is proposed to them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate_replicator::{
    Batch, CheckpointPairs, CheckpointReader, Outcomes, Pair, Replicator, RestoreError,
    StateMachine,
};
use quorate_shard::{Shards, kv::Op};

use crate::client::{Call, Clients};
use crate::{BYTES, KEYS};

/// Which state machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Counts frames and answers with the count.
    Counter,
    /// The sharded KV with all of its keys in one namespace; every frame puts one of them.
    Kv,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Counter => "counter",
            Self::Kv => "kv keys=1000000",
        })
    }
}

impl Kind {
    pub(crate) fn make(self) -> Box<dyn StateMachine> {
        match self {
            Self::Counter => Box::<Counter>::default(),
            Self::Kv => Box::new(Shards::builder().build().0),
        }
    }

    /// Brings the machine to the size at which it is measured.
    pub(crate) async fn fill(self, replicator: &Arc<dyn Replicator>) {
        if self == Self::Counter {
            return;
        }
        const MANY: usize = 1000;
        let mut clients = Clients::open(replicator, self, 1, Call::Many(MANY)).await;
        clients.run(KEYS / MANY as u64).await;
        clients.close().await;
    }
}

/// What the frames of one client carry. The first client puts each key once before any comes again.
#[derive(Debug)]
pub(crate) struct Payloads {
    kind: Kind,
    numbers: Numbers,
    bytes: Bytes,
}

impl Payloads {
    pub(crate) fn new(kind: Kind, client: u64) -> Self {
        Self { kind, numbers: Numbers::new(client), bytes: vec![7; BYTES].into() }
    }

    pub(crate) fn next(&mut self) -> Bytes {
        match self.kind {
            Kind::Counter => self.bytes.clone(),
            Kind::Kv => Op::put(&self.numbers.key(), &self.bytes).encode(),
        }
    }
}

/// Numbers below [`KEYS`] in an order without pattern: each once, then each again.
#[derive(Debug)]
pub(crate) struct Numbers(u64);

impl Numbers {
    pub(crate) fn new(client: u64) -> Self {
        Self(client.wrapping_mul(7919) % KEYS)
    }

    /// The next key: 16 bytes, spread so that neighbours in number are far apart in order.
    pub(crate) fn key(&mut self) -> [u8; 16] {
        let number = self.0;
        self.0 = (number + 1) % KEYS;
        let spread = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut key = [0; 16];
        key[..8].copy_from_slice(&spread.to_be_bytes());
        key[8..].copy_from_slice(&number.to_be_bytes());
        key
    }
}

/// How long a client of a bench waits at most.
pub(crate) const WITHIN: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
struct Counter(u64);

impl StateMachine for Counter {
    fn apply(&mut self, batch: &Batch<'_>, outcomes: &mut Outcomes) {
        for _ in batch.frames {
            self.0 += 1;
            outcomes.answer(Bytes::copy_from_slice(&self.0.to_le_bytes()));
        }
    }

    fn begin_checkpoint(&mut self) -> CheckpointPairs {
        Box::new([Pair::put("count", self.0.to_le_bytes().to_vec())].into_iter())
    }

    fn restore(&mut self, _: &mut dyn CheckpointReader) -> Result<(), RestoreError> {
        Ok(())
    }
}
