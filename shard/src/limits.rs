//! Limits of a shard, each with its reason.

/// Longest key, in bytes. A key stands in its table, in the change list and in the checkpoint, so it is kept far
/// smaller than a value.
pub const KEY_BYTES_MAX: usize = 4096;

/// Most entries of each list of a transaction: a transaction holds the write lock of its shard.
pub const TRANSACTION_OPS_MAX: usize = 128;

/// Most keys that one delete by prefix removes, so that no frame stops the others for long.
pub const DELETE_PREFIX_MAX: u32 = 10_000;

/// Most keys in a page.
pub const PAGE_KEYS_MAX: usize = 1000;

/// A page ends with the pair that reaches this many bytes of keys and values.
pub const PAGE_BYTES_MAX: usize = 1 << 20;

/// Most namespaces that one page over an organisation looks at, so that many empty ones cost many pages rather than
/// one long one.
pub const PAGE_NAMESPACES_MAX: usize = 1000;

/// Most bytes of values that one reply carries: no more than a frame may.
pub const REPLY_BYTES_MAX: usize = 1 << 20;

/// Most deadlines handled at the beginning of one batch; the rest stay due and are handled with the next.
pub const DUE_MAX: usize = 10_000;

/// What a namespace is charged for existing, in bytes, whether or not it holds a key.
pub const NAMESPACE_BYTES: u64 = 1024;

/// What a row is charged on top of its key and value, in bytes: its share of the tree, its header and its counts.
pub const ROW_BYTES: u64 = 128;

/// What a deadline is charged, in bytes: its place in the index over all shards.
pub const DEADLINE_BYTES: u64 = 128;

/// What a change is charged on top of its key and value, in bytes.
pub const CHANGE_BYTES: u64 = 96;

/// How much state a machine may hold.
///
/// These decide what is refused and what is forgotten, so they are part of what the cluster agrees on: every
/// node of a group must have the same ones, and a group keeps those that it began with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Most bytes that all shards together are charged; 2 GiB unless set. An operation that grows the state beyond
    /// it is refused as [`StateFull`](crate::Refusal::StateFull), and deletes pass. The machine never holds more.
    pub state_bytes_max: u64,
    /// Most changes in the change list of one shard; 1,024 unless set.
    pub changes_max: u32,
    /// Most bytes in the change list of one shard; 256 KiB unless set. The values are shared with the rows as long
    /// as they are the present ones.
    pub changes_bytes_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { state_bytes_max: 2 << 30, changes_max: 1024, changes_bytes_max: 256 << 10 }
    }
}
