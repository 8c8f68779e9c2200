//! Namespace-sharded ordered key-value state, and the extension point beside it.

pub mod envelope;
pub mod kv;
pub mod limits;

mod changes;
mod context;
mod extension;
mod fingerprint;
mod journal;
mod key;
mod layout;
mod machine;
mod refusal;
mod row;
mod shard;
mod shards;

pub use changes::ChangeView;
pub use context::{NewRow, ShardContext, Update};
pub use extension::{Extension, Table};
pub use kv::Kv;
pub use limits::Limits;
pub use machine::ShardMachine;
pub use refusal::Refusal;
pub use row::RowView;
pub use shard::ShardView;
pub use shards::{Shards, ShardsBuilder};
