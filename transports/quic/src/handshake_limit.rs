//! Bounds what a stranger may say in a handshake: rustls takes messages of 64 KiB, and keeps each until it is whole.

use std::any::Any;
use std::sync::Arc;

use quinn::crypto::rustls::QuicServerConfig;
use quinn::crypto::{
    ExportKeyingMaterialError, HeaderKey, KeyPair, Keys, PacketKey, ServerConfig, Session,
    UnsupportedVersion,
};
use quinn::{ConnectionId, Side, TransportErrorCode};
use quinn_proto::TransportError;
use quinn_proto::transport_parameters::TransportParameters;

/// Most that a dialler's part of a handshake has: a greeting of 2 KiB, and one certificate as large as it may be.
const HANDSHAKE_BYTES_MAX: usize = 24 << 10;

/// Answers those who dial, as long as they are brief.
pub(crate) struct BriefServer(Arc<QuicServerConfig>);

impl BriefServer {
    pub(crate) fn new(config: QuicServerConfig) -> Self {
        Self(Arc::new(config))
    }
}

impl ServerConfig for BriefServer {
    fn initial_keys(
        &self,
        version: u32,
        dst_cid: &ConnectionId,
    ) -> Result<Keys, UnsupportedVersion> {
        self.0.initial_keys(version, dst_cid)
    }

    fn retry_tag(&self, version: u32, orig_dst_cid: &ConnectionId, packet: &[u8]) -> [u8; 16] {
        self.0.retry_tag(version, orig_dst_cid, packet)
    }

    fn start_session(
        self: Arc<Self>,
        version: u32,
        params: &TransportParameters,
    ) -> Box<dyn Session> {
        let session = Arc::clone(&self.0).start_session(version, params);
        Box::new(Brief { session, left: HANDSHAKE_BYTES_MAX })
    }
}

/// A session whose other end may say only so much.
struct Brief {
    session: Box<dyn Session>,
    left: usize,
}

impl Session for Brief {
    fn read_handshake(&mut self, bytes: &[u8]) -> Result<bool, TransportError> {
        self.left = self.left.checked_sub(bytes.len()).ok_or_else(|| TransportError {
            code: TransportErrorCode::CRYPTO_BUFFER_EXCEEDED,
            frame: None,
            reason: format!(
                "the handshake has more than {HANDSHAKE_BYTES_MAX} bytes; come with one certificate"
            ),
        })?;
        self.session.read_handshake(bytes)
    }

    fn initial_keys(&self, dst_cid: &ConnectionId, side: Side) -> Keys {
        self.session.initial_keys(dst_cid, side)
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        self.session.handshake_data()
    }

    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        self.session.peer_identity()
    }

    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        self.session.early_crypto()
    }

    fn early_data_accepted(&self) -> Option<bool> {
        self.session.early_data_accepted()
    }

    fn is_handshaking(&self) -> bool {
        self.session.is_handshaking()
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        self.session.transport_parameters()
    }

    fn write_handshake(&mut self, bytes: &mut Vec<u8>) -> Option<Keys> {
        self.session.write_handshake(bytes)
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        self.session.next_1rtt_keys()
    }

    fn is_valid_retry(&self, orig_dst_cid: &ConnectionId, header: &[u8], payload: &[u8]) -> bool {
        self.session.is_valid_retry(orig_dst_cid, header, payload)
    }

    fn export_keying_material(
        &self,
        output: &mut [u8],
        label: &[u8],
        context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        self.session.export_keying_material(output, label, context)
    }
}
