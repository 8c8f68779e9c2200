//! A frame: one proposed mutation, and the id under which it happens at most once.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::limits::FRAME_OVERHEAD_BYTES;
use crate::{CallSignature, LogTime, ShardKey};

/// One proposed mutation of one shard.
///
/// The payload is opaque to drivers and transports; the state machine defines what is in it. A clone copies
/// no payload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frame {
    /// Under which this frame happens at most once.
    pub id: FrameId,
    /// The proposer has the answers of all serials of its session below this one and will not ask again;
    /// the session forgets them. Never above `id.serial`; 0 or 1 settles nothing.
    pub settled: u64,
    /// The shard that it changes.
    pub shard: ShardKey,
    /// The operation, at most [`FRAME_BYTES_MAX`](crate::limits::FRAME_BYTES_MAX) bytes.
    pub payload: Bytes,
    /// If the frame has not been decided by this log time, it is decided as
    /// [`Rejection::Expired`](crate::Rejection::Expired).
    pub valid_until: Option<LogTime>,
    /// Where the group wants frames signed: the signature of the run that begins with this frame. None of those that follow in a run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed: Option<Box<CallSignature>>,
}

impl Frame {
    /// A frame that is valid for ever and settles nothing.
    pub fn new(id: FrameId, shard: ShardKey, payload: impl Into<Bytes>) -> Self {
        Self { id, settled: 0, shard, payload: payload.into(), valid_until: None, signed: None }
    }

    /// The frame that opens `session` in the group that `shard` belongs to, or renews it there: it can be
    /// repeated at will. A session that has ended is not opened again: the answer is
    /// [`SessionEnded`](crate::ProposeError::SessionEnded), and another one needs another id.
    pub fn open_session(session: SessionId, shard: ShardKey) -> Self {
        Self::new(FrameId { session, serial: FrameId::OPEN }, shard, Bytes::new())
    }

    /// The frame that ends `session` in the group that `shard` belongs to.
    pub fn close_session(session: SessionId, shard: ShardKey) -> Self {
        Self::new(FrameId { session, serial: FrameId::CLOSE }, shard, Bytes::new())
    }

    /// What it counts against limits in bytes, without its signature: the payload, and what names it.
    pub fn cost(&self) -> usize {
        self.payload.len() + self.shard.as_str().len() + FRAME_OVERHEAD_BYTES
    }

    /// How many frames, from this one on, are decided together or not at all.
    pub fn run(&self) -> usize {
        self.signed.as_ref().map_or(1, |signed| (signed.frames as usize).max(1))
    }

    /// What the serial makes of this frame.
    pub fn role(&self) -> FrameRole {
        match self.id.serial {
            FrameId::OPEN => FrameRole::OpenSession,
            FrameId::CLOSE => FrameRole::CloseSession,
            _ => FrameRole::Mutation,
        }
    }
}

/// What a frame does, told by its serial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums, reason = "a serial is the first, the last, or one between")]
pub enum FrameRole {
    /// Opens or renews its session; changes no shard.
    OpenSession,
    /// Is applied by the state machine.
    Mutation,
    /// Ends its session; changes no shard.
    CloseSession,
}

/// The identity of a frame: a session and a number in it.
///
/// The same id with the same payload is the same frame, however often it is proposed. The same id with
/// another payload is refused as [`Rejection::IdReused`](crate::Rejection::IdReused).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FrameId {
    /// Who proposes.
    pub session: SessionId,
    /// Which of its frames; mutations are numbered from 1, in any order of proposing.
    pub serial: u64,
}

impl FrameId {
    /// The serial of the frame that opens its session.
    pub const OPEN: u64 = 0;
    /// The serial of the frame that ends its session.
    pub const CLOSE: u64 = u64::MAX;
}

impl fmt::Display for FrameId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.serial {
            Self::OPEN => write!(f, "{}#open", self.session),
            Self::CLOSE => write!(f, "{}#close", self.session),
            serial => write!(f, "{}#{serial}", self.session),
        }
    }
}

impl fmt::Debug for FrameId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Names one proposer over retries, reconnects and restarts: 128 bits, chosen at random by the proposer, so
/// that opening a session can be repeated when its answer was lost.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SessionId(#[serde(with = "serde_bytes")] [u8; 16]);

impl SessionId {
    /// The session with these bytes. Two proposers must never share one: draw them with
    /// [`SessionId::random`], or derive them from something that is unique.
    pub const fn new(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// A session that nobody else has, drawn from the system's random source.
    ///
    /// # Errors
    ///
    /// The system has no random source; a session made without one could collide with another.
    pub fn random() -> std::io::Result<Self> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).map_err(std::io::Error::other)?;
        Ok(Self(bytes))
    }

    /// The bytes, for encodings.
    pub const fn bytes(self) -> [u8; 16] {
        self.0
    }

    /// The bytes where they are.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
