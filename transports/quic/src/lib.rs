//! The QUIC transport: mutual TLS, identity in the certificate, bounded by construction.
//!
//! ```text
//!   QuicTransport --send--> [queue control ] --task--> stream ==+                    +== stream --task--> Inbound
//!                           [queue entries ] --task--> stream ==+== one connection ==+== stream --task-->
//!                           [queue requests] --task--> stream ==+    of two nodes    +== stream --task-->
//!                 --send_bulk-----------------------> stream ==+                    +== stream --task--> BulkSink
//! ```
//!
//! 1. Who speaks has proved to be a node of this cluster, and is a peer at that moment. There is no mode without that.
//! 2. A peer counts as connected once both ends have greeted, not when a handshake seems to have succeeded.
//! 3. Of two connections of a pair, both ends keep the same one.
//! 4. Everything that anybody can fill has a limit, and each limit stands in [`Limits`].
//! 5. A stream that is not read stops no other stream, since windows add up to less than the connection's.
//! 6. A client is no peer: a [`QuicClient`] dials nodes, and has [`Lane`]s to what [`QuicTransport::serve_clients`] was given.
//!
//! `docs/transport.md` has the trust model and what each limit bounds.
//!
//! ```
//! # use quorate_replicator::{ClusterId, NodeId, Transport};
//! # use quorate_transport_quic::{Authority, QuicConfig, QuicTransport, Subject, Validity};
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let authority = Authority::create("example", Validity::days(3650))?;
//! let cluster = ClusterId::new([7; 16]);
//! let issued = authority.issue(&Subject::node(cluster, NodeId::new(1)), Validity::days(365))?;
//!
//! let config = QuicConfig::listening("127.0.0.1:0".parse()?);
//! let transport = QuicTransport::bind(issued.identity()?, 1, config)?;
//! transport.add_peer(NodeId::new(2), "node2.example:7410");
//! assert_eq!(transport.peers().len(), 1);
//! transport.close().await;
//! # Ok(())
//! # }
//! ```

mod accept;
mod admission;
mod authority;
mod bulk_receive;
mod bulk_send;
mod certificate;
mod certificate_info;
mod client;
mod codec;
mod config;
mod contact;
mod credential_error;
mod dial;
mod explain;
mod files;
mod frame_stream;
#[doc(hidden)]
pub mod fuzzing;
mod handshake_limit;
mod hello;
mod identity;
mod lane;
mod limits;
mod link;
mod node;
mod packing;
mod peer;
mod queue;
mod resolve;
mod runtime;
mod serve_clients;
mod status;
mod subject;
mod throttle;
mod tls;
mod transport;
mod verifier;
mod wire;

pub use authority::{Authority, Issued, Secret, Validity};
pub use certificate_info::CertificateInfo;
pub use client::{ClientLink, ConnectError, QuicClient};
pub use config::{QuicConfig, peer_table};
pub use credential_error::CredentialError;
pub use identity::{Expiry, Identity};
pub use lane::{Lane, LaneError, LaneReceiver, LaneSender};
pub use limits::Limits;
pub use serve_clients::Clients;
pub use status::{ClientStatus, Direction, PeerStatus, QuicStatus, Refusal, TransferStatus};
pub use subject::{CLIENT_NAME_BYTES_MAX, ClientName, Subject, SubjectError};
pub use transport::{QuicError, QuicTransport};
