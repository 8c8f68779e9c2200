//! A checkpoint as a stream of bytes, from one node to another.
//!
//! ```text
//!   Pin --> SnapshotSource::read(offset) ~~~ a transport, in pieces, resumed where it was cut ~~~> SnapshotSink --> Stage
//!
//!   head     magic, version, length | group, index, state, tallies, length of all, words, mark | BLAKE3 of all of it
//!   piece    table, pairs, bytes, CRC-32 | (length of key, length of value, key, value) ...
//!   piece    ...
//! ```
//!
//! Both ends are plain values that are stepped by their caller: a shell does it on threads, the simulator in turns.
//!
//! 1. The stream follows from the checkpoint alone: the pairs of the machine in the order of their keys, then those of the
//!    host, cut into pieces by the same rule. So every attempt to send a checkpoint sends the same bytes.
//! 2. The receiver believes nothing: every length has a bound before memory is taken for it, keys rise, pieces are compared
//!    with their checksums, and all pairs with the tallies of the head. Until [`SnapshotSink::finish`] nothing of it counts.
//! 3. Neither end holds more than a piece, but for one pair that is larger.

mod error;
mod format;
#[doc(hidden)]
pub mod fuzzing;
mod offer;
mod sink;
mod source;

pub use error::SnapshotError;
pub use format::SnapshotHead;
pub use offer::SnapshotOffer;
pub use sink::SnapshotSink;
pub use source::{SnapshotPlan, SnapshotSource};
