//! Subscribers: what they are given and how they end.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{Cursor, Frame, HandlerError, Position};

/// One accepted frame at its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// The place of its first acceptance.
    pub position: Position,
    /// The frame as it was proposed.
    pub frame: Frame,
}

/// Takes every accepted frame in a scope, once, in the order of its group.
///
/// # Contract
///
/// - One call at a time for each subscription; the next one begins after this one returned.
/// - `batch` is never empty, ordered by position, and holds frames of one group.
/// - Each frame is given at the position of its first acceptance; rejected and repeated frames are not given.
/// - After an error the subscription ends, and [`SubscriptionEnd::Failed`] names where to resume.
/// - A handler that stalls costs the node a bounded amount of memory: it reads from the log when it goes on.
///   It is never skipped silently; when the log it needs is gone, the subscription ends with
///   [`SubscriptionEnd::Compacted`].
#[async_trait]
pub trait Handler: fmt::Debug + Send + Sync + 'static {
    /// Handles accepted frames.
    ///
    /// # Errors
    ///
    /// Ends the subscription; the frames of this call count as not handled.
    ///
    /// # Cancel safety
    ///
    /// The future is dropped when the subscription is cancelled or the node closes; the frames of the call then
    /// count as not handled.
    async fn handle(&self, batch: &[Accepted]) -> Result<(), HandlerError>;
}

/// A running subscription. Dropping it cancels it.
#[derive(Debug)]
pub struct Subscription {
    control: Arc<dyn SubscriptionControl>,
}

/// What a driver keeps behind a [`Subscription`].
#[async_trait]
pub trait SubscriptionControl: fmt::Debug + Send + Sync + 'static {
    /// Everything handled so far.
    fn cursor(&self) -> Cursor;
    /// Ends the subscription: no further call begins, and the future of a running one is dropped. May be called twice.
    fn cancel(&self);
    /// Waits for the end; may be called again and then answers the same.
    async fn ended(&self) -> SubscriptionEnd;
}

impl Subscription {
    /// Made by drivers.
    pub fn new(control: Arc<dyn SubscriptionControl>) -> Self {
        Self { control }
    }

    /// Everything that the handler has handled so far.
    pub fn cursor(&self) -> Cursor {
        self.control.cursor()
    }

    /// Asks for the end: no further call begins, and the future of a running one is dropped. Await
    /// [`ended`](Self::ended) to know that none runs.
    pub fn cancel(&self) {
        self.control.cancel();
    }

    /// Waits until no call runs and none will.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: the subscription goes on, and the end can be awaited again.
    pub async fn ended(&self) -> SubscriptionEnd {
        self.control.ended().await
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.control.cancel();
    }
}

/// How a subscription ended, and where to resume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum SubscriptionEnd {
    /// It was cancelled, or the node closed.
    Cancelled {
        /// Everything handled.
        cursor: Cursor,
    },
    /// The handler returned an error.
    Failed {
        /// Everything handled before the failed call.
        cursor: Cursor,
        /// The handler's words.
        error: String,
    },
    /// The handler was so slow that the log it needed is gone.
    Compacted {
        /// Everything handled.
        cursor: Cursor,
        /// The oldest frame that can still be read.
        oldest: Position,
        /// The newest checkpoint, if the node keeps them: read it as pinned state and subscribe after it.
        snapshot: Option<Position>,
    },
    /// The node stopped for good.
    Faulted {
        /// Everything handled.
        cursor: Cursor,
        /// What happened, and what to do.
        cause: String,
    },
}

impl SubscriptionEnd {
    /// Everything that was handled.
    pub fn cursor(&self) -> &Cursor {
        match self {
            Self::Cancelled { cursor }
            | Self::Failed { cursor, .. }
            | Self::Compacted { cursor, .. }
            | Self::Faulted { cursor, .. } => cursor,
        }
    }
}
