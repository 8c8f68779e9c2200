//! Ordered keys and values in a namespace: the first extension of a shard.
//!
//! ```text
//!  Kv ----- Op ----> Session, Replicator ----> ShardMachine: KvExtension
//!   ^                                               |
//!   +------ Reply <---------------------------------+
//!   +------ Entry, Page <---- Reads: Applied <---- Local <---- Shards
//! ```
//!
//! # What it promises
//!
//! 1. **Revisions.** The revision of a namespace counts the operations that changed it, without gaps. A refused
//!    compare takes none, a transaction that writes takes one for all its writes, a delete of a key that is not
//!    there takes none, a delete by prefix takes one if it removed anything, and each key that expires takes one.
//! 2. **Per key** there is the revision that created it and the one that modified it last; a key that was deleted
//!    and put again is created anew. A compare with revision 0 means: the key is not there.
//! 3. **Expiry.** A key with a time to live is there until the first batch whose log time is not before its
//!    deadline. If more than [`DUE_MAX`](crate::limits::DUE_MAX) keys are due at once, the later ones are there
//!    until the next batches, which follow at once.
//! 4. **Keys** are 1 to [`KEY_BYTES_MAX`](crate::limits::KEY_BYTES_MAX) bytes, any bytes; values are as long as
//!    fits into a frame, and may be empty.

mod apply;
mod client;
mod local;
mod op;
mod page;
mod pinned;
mod reads;
mod reply;
mod row;

pub use apply::KvExtension;
pub use client::{
    Committed, DeleteDone, DeleteOptions, DeletePrefixDone, Kv, KvError, PutDone, PutOptions,
    RulesDone, TransactionDone,
};
pub use local::Local;
pub use op::{Compare, Condition, Op, Transaction, TransactionOp};
pub use page::{
    Change, Changes, Entry, Got, Namespace, NamespacePage, OrgPage, OrgPart, Page, PageToken, Scan,
};
pub use pinned::PinnedKv;
pub use reads::{Applied, KvReadError, OrgReadOptions, ReadOptions, Reads};
pub use reply::{Reply, TransactionReply, TransactionResult};

/// The kinds of operations of the KV.
pub(crate) mod kind {
    use std::ops::RangeInclusive;

    pub(crate) const ALL: RangeInclusive<u16> = 1..=99;
    pub(crate) const PUT: u16 = 1;
    pub(crate) const DELETE: u16 = 2;
    pub(crate) const TRANSACTION: u16 = 3;
    pub(crate) const DELETE_PREFIX: u16 = 4;
}

/// The table of the keys.
pub(crate) const TABLE: u8 = 1;
