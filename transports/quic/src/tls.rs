//! The TLS configurations, put together by hand: TLS 1.3 alone, both ends prove who they are, nothing is sent before that,
//! and no session is resumed.

use std::sync::Arc;

use quinn::crypto::rustls::{NoInitialCipherSuite, QuicClientConfig, QuicServerConfig};
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::NoServerSessionStorage;
use rustls::sign::SingleCertAndKey;
use rustls::version::TLS13;

use crate::Identity;

/// What both ends must speak, with the version of the protocol in it. Another version is refused in the handshake.
pub(crate) const ALPN: &[u8] = b"quorate/1";

/// The name that is asked for. Nodes are told apart by their certificates, and the name is not sent.
pub(crate) const SERVER_NAME: &str = "quorate";

/// The cryptography: aws-lc-rs, with the hybrid post-quantum key exchange preferred.
pub(crate) fn provider() -> CryptoProvider {
    aws_lc_rs::default_provider()
}

/// How to answer those who dial.
pub(crate) fn server(identity: &Identity) -> Result<QuicServerConfig, NoInitialCipherSuite> {
    let mut config = rustls::ServerConfig::builder_with_provider(Arc::clone(&identity.provider))
        .with_protocol_versions(&[&TLS13])
        .expect("the provider has TLS 1.3")
        .with_client_cert_verifier(Arc::clone(&identity.verifier) as _)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&identity.key))));
    config.alpn_protocols = vec![ALPN.into()];
    // Early data can be sent twice by whoever recorded it: there is none, and nothing to resume from.
    config.max_early_data_size = 0;
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.try_into()
}

/// How to dial.
pub(crate) fn client(identity: &Identity) -> Result<QuicClientConfig, NoInitialCipherSuite> {
    let mut config = rustls::ClientConfig::builder_with_provider(Arc::clone(&identity.provider))
        .with_protocol_versions(&[&TLS13])
        .expect("the provider has TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&identity.verifier) as _)
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&identity.key))));
    config.alpn_protocols = vec![ALPN.into()];
    config.enable_early_data = false;
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    config.try_into()
}
