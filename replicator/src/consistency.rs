//! How fresh a read must be.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How fresh a read must be. There is no lease level: a clock that runs wrong would make it lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Consistency {
    /// Sees everything that any node had answered when the read began.
    #[default]
    Linearizable,
    /// Sees everything that any node had answered this long before the read began, else
    /// [`ReadError::TooStale`](crate::ReadError::TooStale). Costs nothing while a linearizable read that is
    /// recent enough has been served here.
    Bounded(Duration),
    /// Sees what this node has applied, however old. Within one node a later read never sees less.
    Local,
}
