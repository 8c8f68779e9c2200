//! Decides whether a certificate proves that somebody belongs to this cluster, and says in words why not.
//!
//! 1. It is signed by the pinned authority itself; no other one is trusted, the system's neither.
//! 2. It holds now.
//! 3. It may be used for what it is used for: to be dialled, to dial.
//! 4. It names exactly one node or client, of this cluster.
//!
//! Whether a node is a *member* is decided later, by who is a peer at that moment.

use std::fmt;
use std::sync::Arc;

use quorate_replicator::ClusterId;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError,
    PeerIncompatible, RootCertStore, SignatureScheme,
};

use crate::certificate::{self, Certified};
use crate::{CredentialError, Subject};

/// What may stand between the authority and a certificate. The chain's check follows whoever the authority let sign, however
/// far, since it does not look at what the authority's own certificate allows.
const NOTHING_BETWEEN: &[CertificateDer<'static>] = &[];

/// Verifies whoever is dialled or dials.
pub(crate) struct PeerVerifier {
    cluster: ClusterId,
    roots: Arc<RootCertStore>,
    /// What the pinned authorities are called, for words only.
    authorities: String,
    dialling: Arc<dyn ClientCertVerifier>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl PeerVerifier {
    pub(crate) fn new(
        cluster: ClusterId,
        authorities: &[CertificateDer<'static>],
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, CredentialError> {
        let mut roots = RootCertStore::empty();
        let mut names = Vec::new();
        for der in authorities {
            roots.add(der.clone()).map_err(|error| CredentialError::Malformed {
                problem: format!("it is no authority: {error}"),
            })?;
            names.extend(certificate::common_names(der).map(|(name, _)| format!("CN={name}")));
        }
        let roots = Arc::new(roots);
        let dialling =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(provider))
                .build()
                .map_err(|error| CredentialError::Malformed { problem: error.to_string() })?;
        Ok(Self {
            cluster,
            roots,
            authorities: names.join(" or "),
            dialling,
            algorithms: provider.signature_verification_algorithms,
        })
    }

    /// Checks the chain of this node's own certificate, as others will.
    pub(crate) fn check_own(&self, chain: &[CertificateDer<'_>]) -> Result<(), String> {
        let first = chain.first().ok_or("there is no certificate")?;
        self.dialling
            .verify_client_cert(first, NOTHING_BETWEEN, UnixTime::now())
            .map(drop)
            .map_err(|error| self.explain(first, &error))
    }

    fn check_dialled(&self, certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
        let parsed = ParsedCertificate::try_from(certificate)?;
        verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &self.roots,
            NOTHING_BETWEEN,
            now,
            self.algorithms.all,
        )
    }

    /// The parts of a certificate that the chain does not prove.
    fn check_subject(&self, der: &[u8], dialled: bool) -> Result<(), String> {
        let certified = Certified::read(der).map_err(|error| error.to_string())?;
        let Certified { subject, server, client, .. } = certified;
        let name = subject.short_name();
        if subject.cluster() != self.cluster {
            return Err(format!(
                "the certificate of {name} is for cluster {}, this is cluster {}; check the address, or issue a \
                 certificate for this cluster",
                subject.cluster(),
                self.cluster
            ));
        }
        if dialled && !matches!(subject, Subject::Node { .. }) {
            return Err(format!("a node was dialled, and the client {name} answered"));
        }
        // The chain's check takes a certificate without usages for one of every usage.
        let (has, missing) = if dialled { (server, "serverAuth") } else { (client, "clientAuth") };
        if !has {
            return Err(CredentialError::Usage { subject: name, missing }.to_string());
        }
        Ok(())
    }

    /// Says what is wrong with a certificate in words that tell the way out.
    fn explain(&self, der: &[u8], error: &Error) -> String {
        let whose = match Certified::read(der) {
            Ok(certified) => format!("{}'s certificate", certified.subject.short_name()),
            Err(_) => "the certificate".to_owned(),
        };
        let issuer =
            certificate::common_names(der).map_or_else(|| "?".into(), |(_, issuer)| issuer);
        let Error::InvalidCertificate(problem) = error else {
            return format!("{whose} cannot be checked: {error}");
        };
        match problem {
            CertificateError::UnknownIssuer => format!(
                "{whose} is signed by another CA: its issuer is CN={issuer}, expected {}; issue it from this \
                 cluster's authority",
                self.authorities
            ),
            CertificateError::BadSignature
            | CertificateError::UnsupportedSignatureAlgorithmContext { .. } => format!(
                "{whose} is signed by another CA that calls itself CN={issuer} too: its signature is not that of \
                 this cluster's authority"
            ),
            CertificateError::ExpiredContext { time, not_after } => format!(
                "{whose} expired {} s ago; issue a new one (`quorate certs renew`) and reload it",
                time.as_secs().saturating_sub(not_after.as_secs())
            ),
            CertificateError::Expired => {
                format!(
                    "{whose} has expired; issue a new one (`quorate certs renew`) and reload it"
                )
            }
            CertificateError::NotValidYetContext { time, not_before } => format!(
                "{whose} is not valid before {} s from now; compare the clocks of both machines",
                not_before.as_secs().saturating_sub(time.as_secs())
            ),
            CertificateError::NotValidYet => {
                format!("{whose} is not valid yet; compare the clocks of both machines")
            }
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
                format!("{whose} may not be used for this ({problem}); issue it anew for a node")
            }
            other => format!("{whose} is refused: {other}"),
        }
    }

    fn judge(
        &self,
        certificate: &CertificateDer<'_>,
        chain: Result<(), Error>,
        dialled: bool,
    ) -> Result<(), Error> {
        let checked = match chain {
            Ok(()) => self.check_subject(certificate, dialled),
            Err(error) => Err(self.explain(certificate, &error)),
        };
        checked.map_err(|words| {
            let words = Words(certificate::printable(&words));
            Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(words))))
        })
    }
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let chain = self.check_dialled(end_entity, now);
        self.judge(end_entity, chain, true)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for PeerVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Who knocks need not learn what the authority is called.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let chain = self.dialling.verify_client_cert(end_entity, NOTHING_BETWEEN, now).map(drop);
        self.judge(end_entity, chain, false)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl fmt::Debug for PeerVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cluster, authorities, .. } = self;
        f.debug_struct("PeerVerifier")
            .field("cluster", cluster)
            .field("authorities", authorities)
            .finish_non_exhaustive()
    }
}

/// An explanation on its way through rustls, which shows what an application refused with `Debug`.
struct Words(String);

/// What rustls puts around an explanation.
const AROUND: (&str, &str) = ("invalid peer certificate: Other(OtherError(", "))");

/// The explanation in what rustls made of it, or all of it if there is none.
pub(crate) fn unwrapped(reason: &str) -> &str {
    let inner = reason.strip_prefix(AROUND.0).and_then(|rest| rest.strip_suffix(AROUND.1));
    inner.unwrap_or(reason)
}

impl fmt::Debug for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Words {}
