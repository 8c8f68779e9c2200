//! Limits that are part of the contract, each with its reason.
//!
//! Limits that an operator may move live in the configuration; these are the ones every node must share, or
//! that bound what a byte from outside can cost.

/// Largest payload of one frame, in bytes, unless the cluster's genesis says otherwise.
///
/// One frame has to fit into one batch, and one batch into one message.
pub const FRAME_BYTES_MAX: usize = 1 << 20;

/// Largest organisation name, in bytes of UTF-8.
pub const ORG_BYTES_MAX: usize = 128;

/// Largest namespace name, in bytes of UTF-8.
pub const NAMESPACE_BYTES_MAX: usize = 256;

/// Longest reply, in bytes, that a session remembers for a repeated frame.
///
/// A longer reply is given to the first proposer and forgotten: a repetition answers
/// [`Reply::Forgotten`](crate::Reply::Forgotten).
pub const REPLY_KEPT_BYTES_MAX: usize = 4 << 10;

/// Most bytes of the words with which a frame is [refused](crate::Rejection::Refused); sessions remember them.
pub const REFUSAL_BYTES_MAX: usize = 256;

/// Most serials of one session that may be decided and not yet settled.
pub const SESSION_UNSETTLED_MAX: usize = 1024;

/// Most bytes of replies that one session remembers. Together with
/// [`SESSIONS_MAX`] it bounds what sessions cost; replies beyond it are forgotten, the oldest first.
pub const SESSION_REPLY_BYTES_MAX: usize = 64 << 10;

/// Most live sessions of one group, and most ended ones that it remembers, so that none of them is opened again.
pub const SESSIONS_MAX: usize = 100_000;

/// Log time without use, in milliseconds, after which a session ends.
pub const SESSION_IDLE_MS: u64 = 10 * 60 * 1000;

/// Most frames in one batch.
pub const BATCH_FRAMES_MAX: usize = 4096;

/// Most bytes of encoded frames in one batch, except that one frame of the largest size always fits.
pub const BATCH_BYTES_MAX: usize = 1 << 20;

/// Most frames of one [`propose_many`](crate::Replicator::propose_many).
pub const PROPOSE_MANY_MAX: usize = BATCH_FRAMES_MAX;

/// How many slots namespaces fall into. A group has many of them, and a namespace belongs to the group of its slot.
pub const SLOTS: u32 = 4096;

/// Most groups of a cluster: a group without a slot would have nothing to do.
pub const GROUPS_MAX: u32 = SLOTS;

/// Most bytes of one transport message: a full batch of one largest frame, with its heads.
pub const MESSAGE_BYTES_MAX: usize = BATCH_BYTES_MAX + FRAME_BYTES_MAX + (64 << 10);

/// What the encoding may add to the payload and the shard of one frame, in bytes.
pub const FRAME_OVERHEAD_BYTES: usize = 64;

/// Most frames of which one signature tells. A run has to fit into a batch, beside other runs.
pub const RUN_FRAMES_MAX: usize = 1024;

/// Most bytes of the frames of which one signature tells, except that one frame of the largest size always fits.
pub const RUN_BYTES_MAX: usize = BATCH_BYTES_MAX - (64 << 10);

/// Most bytes of a run's key and signature together: the longest ones that there are have 5,357.
pub const RUN_SIGNATURE_BYTES_MAX: usize = 8 << 10;

/// Most signed runs in one batch: every member verifies each of them before it votes, and others wait for that.
pub const BATCH_RUNS_MAX: usize = 1024;
