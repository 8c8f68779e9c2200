//! How tasks wait for the engine thread's answers.

use quorate_engine::{Callers, Chunk, SubscriptionId, SubscriptionOver};
use quorate_replicator::{AdminError, Decision, Position, ProposeError, ReadError, SubscribeError};
use tokio::sync::{mpsc, oneshot};

/// Tasks that wait on channels.
#[derive(Debug)]
pub(crate) struct Waiters;

impl Callers for Waiters {
    type Propose = oneshot::Sender<Result<Decision, ProposeError>>;
    type ProposeMany = oneshot::Sender<Result<Vec<Decision>, ProposeError>>;
    type Read = oneshot::Sender<Result<Position, ReadError>>;
    type Decision = oneshot::Sender<Result<Decision, ReadError>>;
    type Subscribe = Subscriber;
    type Admin = oneshot::Sender<Result<(), AdminError>>;
}

/// Who waits for a subscription to begin, and where its chunks go.
#[derive(Debug)]
pub(crate) struct Subscriber {
    pub(crate) begun: oneshot::Sender<Result<SubscriptionId, SubscribeError>>,
    pub(crate) news: mpsc::UnboundedSender<News>,
}

/// What a subscription's task is told. There is one chunk with frames at a time, so the channel needs no bound of its
/// own; chunks without frames are given only when everything before was handled.
#[derive(Debug)]
pub(crate) enum News {
    Chunk(Chunk),
    Over(SubscriptionOver),
}
