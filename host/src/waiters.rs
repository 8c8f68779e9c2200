//! How tasks wait for the engine thread's answers.

use quorate_engine::{Callers, Chunk, SubscriptionId, SubscriptionOver};
use quorate_replicator::{AdminError, Decision, Position, ProposeError, ReadError, SubscribeError};
use tokio::sync::{mpsc, oneshot};

/// Tasks that wait on channels.
#[derive(Debug)]
pub(crate) struct Waiters;

impl Callers for Waiters {
    type Propose = oneshot::Sender<ProposeAnswer>;
    type ProposeMany = oneshot::Sender<ProposeManyAnswer>;
    type Read = oneshot::Sender<ReadAnswer>;
    type Decision = oneshot::Sender<DecisionAnswer>;
    type Subscribe = Subscriber;
    type Admin = oneshot::Sender<AdminAnswer>;
}

pub(crate) type ProposeAnswer = Result<Decision, ProposeError>;
pub(crate) type ProposeManyAnswer = Result<Vec<Decision>, ProposeError>;
pub(crate) type ReadAnswer = Result<Position, ReadError>;
pub(crate) type DecisionAnswer = Result<Decision, ReadError>;
pub(crate) type AdminAnswer = Result<(), AdminError>;

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
