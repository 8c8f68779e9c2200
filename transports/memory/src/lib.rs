//! The memory transport: a seeded hub with delay, loss, duplication, reordering and partitions.
//!
//! ```text
//!   MemoryTransport n1 --send--> [pipe control ] --task--> Inbound of n2
//!                                [pipe entries ] --task-->
//!                                [pipe requests] --task-->
//!                     --bulk--------------------- task --> BulkSink
//!                  Link decides each fate, Partition who reaches whom
//! ```
//!
//! For tests, for examples, and for clusters inside of one process. Each (sender, receiver, channel) has a bounded
//! queue and one task that delivers from it, so a slow receiver holds up nothing else. [`Link`] and [`Partition`] are
//! sans-IO, and the simulator uses them as they are.
//!
//! ```
//! # use std::sync::Arc;
//! # use quorate_replicator::{Bytes, Channel, NodeId, SendError, Transport};
//! # use quorate_transport_memory::MemoryHub;
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), SendError> {
//! let hub = MemoryHub::new(7);
//! let (first, second) = (hub.connect(NodeId::new(1)), hub.connect(NodeId::new(2)));
//! first.send(NodeId::new(2), Channel::Control, Bytes::from("hello"))?;
//! // Nobody received on the second node yet, so the message is lost, and counted.
//! assert_eq!(hub.totals().lost, 1);
//! first.close().await;
//! second.close().await;
//! # Ok(())
//! # }
//! ```

mod bulk;
mod config;
mod counters;
mod hub;
mod link;
mod node;
mod partition;
mod pipe;
mod transport;

pub use config::HubConfig;
pub use counters::Counters;
pub use hub::MemoryHub;
pub use link::{Fate, FaultsError, Link, LinkFaults};
pub use partition::Partition;
pub use transport::MemoryTransport;
