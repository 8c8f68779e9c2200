//! The QUIC transport, as a configuration chooses it.

use std::any::Any;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use quorate_replicator::{NodeId, Transport};
pub use quorate_transport_quic::QuicStatus;
use quorate_transport_quic::{QuicConfig, QuicTransport};

use crate::TransportKind;

/// The QUIC transport that this is, if it is one.
pub(crate) fn transport(transport: &Arc<dyn Transport>) -> Option<Arc<QuicTransport>> {
    let any: Arc<dyn Any + Send + Sync> = Arc::clone(transport) as _;
    any.downcast().ok()
}

/// `kind = "quic"`: see [`QuicTransport`].
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Quic;

#[async_trait]
impl TransportKind for Quic {
    const NAME: &'static str = "quic";

    type Config = QuicConfig;

    fn resolve(config: &mut QuicConfig, directory: &Path) {
        let QuicConfig { authority_file, certificate_file, key_file, .. } = config;
        for file in [authority_file, certificate_file, key_file] {
            // Joining leaves an absolute path as it is.
            *file = directory.join(&*file);
        }
    }

    async fn open(
        &self,
        config: QuicConfig,
        node: NodeId,
        members: Vec<NodeId>,
    ) -> Result<Arc<dyn Transport>, String> {
        let unreachable: Vec<_> = members
            .iter()
            .filter(|member| **member != node && !config.peers.contains_key(member))
            .map(ToString::to_string)
            .collect();
        if !unreachable.is_empty() {
            return Err(format!(
                "no address is known of {}; write it into [transport.quic.peers], as in `2 = \"host:7410\"`",
                unreachable.join(", ")
            ));
        }
        let transport = QuicTransport::open(node, incarnation(), config);
        Ok(Arc::new(transport.map_err(|error| error.to_string())?))
    }
}

/// A number that rises with each start. A clock that was put back makes others refuse the node until they notice that its former
/// life has ended, which takes them one idle timeout.
fn incarnation() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
