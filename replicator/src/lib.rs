//! The contract of quorate: propose a [`Frame`], learn the [`Decision`], subscribe to what was accepted.
//!
//! ```text
//!            propose / read / subscribe                     messages, bulk
//!   client ------------------------------> Replicator <--------------------> Transport
//!                                              |
//!                                              v  every accepted frame, once, in order
//!                                        StateMachine, Handler
//! ```
//!
//! This crate holds traits and plain types. It depends on nothing else of quorate and on no runtime, so a
//! driver, a transport or a state machine can be written against it alone.
//!
//! # What every driver promises
//!
//! 1. **One order.** All nodes apply the same accepted frames of a group in the order of their [`Position`].
//! 2. **Accept means applied.** [`Decision::Accept`] is answered after the frame is committed, durable as far
//!    as the node's [`Durability`] says, and applied on the answering node.
//! 3. **Exactly once.** A frame is applied at most once per [`FrameId`], over retries, restarts and snapshots.
//! 4. **Nothing is guessed.** [`Decision::Timeout`] means "unknown"; it is resolved by
//!    [`Replicator::decision`] or by proposing the same frame again.
//! 5. **Bounded.** Every queue has a limit in [`limits`] or in the driver's configuration, and a typed answer
//!    when the limit is reached.

pub mod limits;

mod clock;
mod consistency;
mod decision;
mod driver;
mod error;
mod event;
mod frame;
mod handler;
mod id;
mod machine;
mod member;
mod pinned;
mod position;
mod replicator;
mod session;
mod shard_key;
mod signing;
mod status;
mod transport;

pub use bytes::Bytes;

pub use clock::{Clock, LogTime, MonotonicClock};
pub use consistency::Consistency;
pub use decision::{Commit, DecidedBatch, Decision, Rejection, Reply};
pub use driver::{Driver, Env, Registry, RegistryError, Unregistered};
pub use error::{
    AdminError, CloseError, HandlerError, OpenError, ProposeError, ReadError, Resource,
    RestoreError, SubscribeError,
};
pub use event::{Event, EventStream};
pub use frame::{Frame, FrameId, FrameRole, SessionId};
pub use handler::{Accepted, Handler, Subscription, SubscriptionControl, SubscriptionEnd};
pub use id::{ClusterId, GroupId, NodeId};
pub use machine::{
    Batch, BatchFrame, CheckpointPairs, CheckpointReader, Outcomes, Pair, StateMachine,
};
pub use member::{Member, MemberChange, MemberRole};
pub use pinned::Pinned;
pub use position::{Cursor, Position, Scope};
pub use replicator::{AcceptedStream, Replicator, ReplicatorExt};
pub use session::{Attempt, Session, SessionError};
pub use shard_key::{NameError, ShardKey};
pub use signing::{CallSignature, Signer};
pub use status::{Durability, GroupStatus, Health, PeerStatus, Role, Status};
pub use transport::{
    BulkError, BulkId, BulkOffer, BulkSink, BulkSource, Channel, Inbound, PeerState, SendError,
    Transport, TransportExt,
};
