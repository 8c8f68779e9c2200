//! State held still: one checkpoint, read while newer frames are applied.

use std::fmt;
use std::ops::Bound;

use bytes::Bytes;

use crate::{Position, ReadError};

/// One checkpoint of a state machine, as the pairs that it gave in
/// [`begin_checkpoint`](crate::StateMachine::begin_checkpoint). It does not change and holds up nothing but the
/// space of what has been replaced since; drop it when done.
pub trait Pinned: fmt::Debug + Send + Sync + 'static {
    /// The last batch whose effects are in it; subscribe after this position to see everything that is not.
    fn position(&self) -> Position;

    /// Pairs in the order of their keys from `from` on, until `pairs_max` pairs or the pair that reaches
    /// `bytes_max` bytes. At least one, unless none is left. Reads the disk: call it where blocking is allowed.
    ///
    /// # Errors
    ///
    /// The checkpoint cannot be read.
    fn read(
        &self,
        from: Bound<&[u8]>,
        pairs_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, ReadError>;
}
