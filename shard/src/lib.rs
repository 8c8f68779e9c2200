//! Namespace-sharded ordered key-value state, and the extension point beside it.
//!
//! ```text
//!   accepted frames                                 reads, after a barrier
//!        |                                                  |
//!        v                                                  v
//!  ShardMachine --- ShardKey -> Shard { tables, revision, changes } <--- Shards, Kv
//!   |   |   |                      ^
//!   |   |   +-- deadlines          |  get, put, remove, range, deadlines
//!   |   +------ journal            |
//!   |              |            Extension: kv, later locks and events
//!   v              v
//! answers     checkpoint pairs
//! ```
//!
//! A namespace's state is a *shard*: ordered tables of rows, a revision and a list of its latest changes. The
//! operations on it belong to [extensions](Extension), of which the [KV](kv) is the first. Everything else is done
//! here, once for all of them.
//!
//! # What holds
//!
//! 1. **An operation is atomic.** A refused one changes nothing and takes no revision; no reader sees half of one.
//! 2. **Revisions are gap-free** in each shard, and survive restarts, snapshots and changes of the driver.
//! 3. **A checkpoint holds everything**: rows, revisions, changes, deadlines and byte counts. A machine that was
//!    restored goes on exactly as the one that made it, and two machines that applied the same batches make the same
//!    checkpoint, byte for byte, however many they made on the way.
//! 4. **Beginning a checkpoint takes constant time**, and the journal behind it is bounded by the state.
//! 5. **The state is bounded**: never more than [`Limits::state_bytes_max`] bytes are charged, counted alike on all
//!    nodes. Growth beyond it is refused when it is applied; deletes pass; history yields to data.
//! 6. **Nothing from outside can stop it**: every payload has an answer, decoding is bounded and does not recurse.
//!
//! # Without a node
//!
//! A machine is plain state, and can be driven by hand:
//!
//! ```
//! use quorate_replicator::*;
//! use quorate_shard::Shards;
//! use quorate_shard::kv::{Op, Reply, Scan};
//!
//! let (mut machine, shards) = Shards::builder().build();
//! let shard = ShardKey::new("acme", "orders")?;
//!
//! let id = FrameId { session: SessionId::new([7; 16]), serial: 1 };
//! let frame = Frame::new(id, shard.clone(), Op::put(b"17", b"two pairs of socks").encode());
//! let frames = [BatchFrame { slot: 0, frame }];
//! let (group, log_time) = (GroupId::new(0), LogTime::from_ms(5));
//! let batch = Batch { group, epoch: 0, index: 1, log_time, frames: &frames };
//! let mut outcomes = Outcomes::default();
//! machine.apply(&batch, &mut outcomes);
//!
//! assert_eq!(Reply::decode(&outcomes.replies()[0])?, Reply::Put { revision: 1, created: 1 });
//! let page = shards.kv().scan(&shard, &Scan::prefix(b"1"))?;
//! assert_eq!(page.revision, 1);
//! assert_eq!(page.entries[0].value, "two pairs of socks");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # With a node
//!
//! ```no_run
//! # use std::sync::Arc;
//! # use quorate_replicator::*;
//! use quorate_shard::kv::{PutOptions, ReadOptions};
//! use quorate_shard::{Kv, Shards};
//!
//! # async fn example(
//! #     open: impl AsyncFnOnce(Box<dyn StateMachine>) -> Arc<dyn Replicator>,
//! # ) -> Result<(), Box<dyn std::error::Error>> {
//! let (machine, shards) = Shards::builder().build();
//! let node: Arc<dyn Replicator> = open(Box::new(machine)).await;
//! let kv = Kv::new(Arc::new(Session::new(node)?), &shards);
//!
//! let orders = ShardKey::new("acme", "orders")?;
//! let put = kv.put(&orders, b"17", b"two pairs of socks", PutOptions::default()).await?;
//! kv.compare_and_swap(&orders, b"17", put.revision, b"three pairs").await?;
//! let got = kv.get(&orders, b"17", ReadOptions::default()).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # A service of your own
//!
//! ```
//! use std::ops::RangeInclusive;
//! use quorate_shard::{Extension, Refusal, ShardContext, Shards, Table, envelope};
//!
//! /// Remembers who came, until a minute of log time has passed.
//! #[derive(Debug)]
//! struct Guests;
//!
//! impl Extension for Guests {
//!     fn name(&self) -> &'static str {
//!         "guests"
//!     }
//!     fn kinds(&self) -> RangeInclusive<u16> {
//!         1000..=1000
//!     }
//!     fn tables(&self) -> &'static [Table] {
//!         const { &[Table::watched(100)] }
//!     }
//!     fn apply(
//!         &self,
//!         _kind: u16,
//!         body: &[u8],
//!         context: &mut ShardContext<'_>,
//!         answer: &mut Vec<u8>,
//!     ) -> Result<(), Refusal> {
//!         let name: String = envelope::decode_body(body)?;
//!         let deadline = context.log_time().plus_ms(60_000);
//!         context.put(100, name.as_bytes(), Some(deadline), &[])?;
//!         answer.extend_from_slice(b"welcome");
//!         Ok(())
//!     }
//! }
//!
//! let (machine, shards) = Shards::builder().extension(Guests).build();
//! ```

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
mod restore;
mod row;
mod rules;
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
pub use rules::Rules;
pub use shard::ShardView;
pub use shards::{Shards, ShardsBuilder};
