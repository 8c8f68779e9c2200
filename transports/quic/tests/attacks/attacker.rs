//! Somebody who speaks QUIC and TLS without any of this crate's code, and shows whatever it likes.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{ClientConfig, Connection, Endpoint, RecvStream, SendStream, ServerConfig};
use quorate_replicator::ClusterId;
use quorate_transport_quic::Authority;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

pub(crate) const ALPN: &[u8] = b"quorate/1";

/// Of a node, which dials and is dialled.
pub(crate) const BOTH: [ExtendedKeyUsagePurpose; 2] =
    [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];

/// What a certificate says; any of it may be a lie.
#[derive(Clone)]
pub(crate) struct Claim {
    pub(crate) uris: Vec<String>,
    pub(crate) common_name: String,
    pub(crate) usages: Vec<ExtendedKeyUsagePurpose>,
    /// Seconds from now.
    pub(crate) holds: (i64, i64),
    pub(crate) authority: bool,
    pub(crate) extensions: Vec<(Vec<u64>, Vec<u8>)>,
}

impl Claim {
    pub(crate) fn node(cluster: ClusterId, node: u64) -> Self {
        Self {
            uris: vec![format!("quorate://{cluster}/node/{node}")],
            common_name: format!("n{node}"),
            usages: BOTH.into(),
            holds: (-600, 3600),
            authority: false,
            extensions: Vec::new(),
        }
    }

    pub(crate) fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    fn params(&self) -> CertificateParams {
        let moment = |seconds: i64| {
            let span = Duration::from_secs(seconds.unsigned_abs());
            let now = SystemTime::now();
            (if seconds < 0 { now - span } else { now + span }).into()
        };
        let mut params = CertificateParams::default();
        (params.not_before, params.not_after) = (moment(self.holds.0), moment(self.holds.1));
        params.distinguished_name.push(DnType::CommonName, self.common_name.as_str());
        let uris = self.uris.iter().map(|uri| SanType::URI(uri.as_str().try_into().unwrap()));
        params.subject_alt_names = uris.collect();
        params.extended_key_usages.clone_from(&self.usages);
        if self.authority {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        }
        for (oid, content) in &self.extensions {
            let extension = CustomExtension::from_oid_content(oid, content.clone());
            params.custom_extensions.push(extension);
        }
        params
    }

    pub(crate) fn signed_by(&self, signer: &Signer) -> Papers {
        let key = KeyPair::generate().unwrap();
        let certificate = self.params().signed_by(&key, &signer.0).unwrap();
        Papers::new(vec![certificate.der().clone()], &key)
    }

    pub(crate) fn signed_by_itself(&self) -> Papers {
        let key = KeyPair::generate().unwrap();
        let certificate = self.params().self_signed(&key).unwrap();
        Papers::new(vec![certificate.der().clone()], &key)
    }
}

/// Who signs certificates.
pub(crate) struct Signer(Issuer<'static, KeyPair>);

impl Signer {
    pub(crate) fn of(authority: &Authority) -> Self {
        let key = KeyPair::from_pem(authority.key_pem().expose()).unwrap();
        Self(Issuer::from_ca_cert_pem(authority.certificate_pem(), key).unwrap())
    }

    /// Whoever holds these papers signs with them, whether they are for that or not.
    pub(crate) fn with(papers: &Papers) -> Self {
        let PrivateKeyDer::Pkcs8(key) = &papers.key else { unreachable!("rcgen writes PKCS #8") };
        let key = KeyPair::try_from(key.secret_pkcs8_der()).unwrap();
        Self(Issuer::from_ca_cert_der(&papers.chain[0], key).unwrap())
    }
}

/// A chain of certificates, and a key that may be that of the first.
pub(crate) struct Papers {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
}

impl Papers {
    fn new(chain: Vec<CertificateDer<'static>>, key: &KeyPair) -> Self {
        Self { chain, key: PrivateKeyDer::try_from(key.serialize_der()).unwrap() }
    }

    fn shown(&self) -> Arc<SingleCertAndKey> {
        let key = provider().key_provider.load_private_key(self.key.clone_key()).unwrap();
        // Not checked to belong together.
        Arc::new(SingleCertAndKey::from(CertifiedKey::new(self.chain.clone(), key)))
    }
}

/// Without the post-quantum key exchange, whose time and size the attacker saves.
pub(crate) fn provider() -> CryptoProvider {
    CryptoProvider { kx_groups: vec![aws_lc_rs::kx_group::X25519], ..aws_lc_rs::default_provider() }
}

/// How an attacker speaks TLS as the one who dials.
pub(crate) fn tls_client(papers: Option<&Papers>) -> rustls::ClientConfig {
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody));
    let mut config = match papers {
        Some(papers) => config.with_client_cert_resolver(papers.shown()),
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = vec![ALPN.into()];
    config
}

/// How an attacker speaks TLS as the one who is dialled.
pub(crate) fn tls_server(papers: &Papers) -> rustls::ServerConfig {
    let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(Arc::new(Anybody))
        .with_cert_resolver(papers.shown());
    config.alpn_protocols = vec![ALPN.into()];
    config
}

pub(crate) fn dials(tls: rustls::ClientConfig) -> ClientConfig {
    ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()))
}

/// An attacker who dials from this address.
pub(crate) fn dialler(from: Ipv4Addr) -> Endpoint {
    Endpoint::client(SocketAddr::from((from, 0))).unwrap()
}

/// An attacker who is dialled.
pub(crate) fn listener(tls: rustls::ServerConfig) -> Endpoint {
    let crypto = Arc::new(QuicServerConfig::try_from(tls).unwrap());
    let config = ServerConfig::with_crypto(crypto);
    Endpoint::server(config, SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap()
}

/// Dials with these papers and answers the connection as TLS sees it, which says nothing about the other end yet.
pub(crate) async fn dial(to: SocketAddr, tls: rustls::ClientConfig) -> Result<Line, String> {
    let endpoint = dialler(Ipv4Addr::LOCALHOST);
    let connecting = endpoint.connect_with(dials(tls), to, "quorate").unwrap();
    let connection = connecting.await.map_err(|error| error.to_string())?;
    Ok(Line { connection, _endpoint: endpoint })
}

/// A connection of an attacker.
pub(crate) struct Line {
    pub(crate) connection: Connection,
    /// Ends with it.
    pub(crate) _endpoint: Endpoint,
}

impl Line {
    /// Writes on a new stream in both directions.
    pub(crate) async fn ask(&self, bytes: &[u8]) -> Option<(SendStream, RecvStream)> {
        let (mut send, recv) = self.connection.open_bi().await.ok()?;
        send.write_all(bytes).await.ok()?;
        Some((send, recv))
    }

    /// Writes on a new stream in one direction.
    pub(crate) async fn tell(&self, bytes: &[u8]) -> Option<SendStream> {
        let mut send = self.connection.open_uni().await.ok()?;
        send.write_all(bytes).await.ok()?;
        Some(send)
    }

    /// Waits for the end of the connection, and answers the reason.
    pub(crate) async fn end(&self) -> String {
        let closed = tokio::time::timeout(super::PATIENCE, self.connection.closed()).await;
        closed.expect("the connection of an attacker is ended").to_string()
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line").finish_non_exhaustive()
    }
}

/// Believes everybody.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Anybody {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
