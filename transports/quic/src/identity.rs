//! Who this node is to others: its certificate, its key, and the authority it trusts.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use quorate_replicator::{ClusterId, NodeId};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use crate::authority::Issued;
use crate::certificate::{self, Certified};
use crate::verifier::PeerVerifier;
use crate::{CredentialError, Secret, Subject, files, tls};

/// Most certificates in one file: an authority that is being replaced stands beside its successor.
const CERTIFICATES_MAX: usize = 8;

/// A certificate with its key and the authority that signed it: checked to belong together, and to hold now.
#[derive(Clone)]
pub struct Identity {
    pub(crate) key: Arc<CertifiedKey>,
    pub(crate) verifier: Arc<PeerVerifier>,
    pub(crate) provider: Arc<CryptoProvider>,
    subject: Subject,
    not_after: SystemTime,
    authority_not_after: SystemTime,
}

impl Identity {
    /// Puts an identity together from PEM texts. `authority_pem` may hold several authorities, while one is being
    /// replaced: what any of them signed is trusted.
    ///
    /// # Errors
    ///
    /// A text is not what it should be, the parts do not belong together, or the certificate does not hold now.
    pub fn from_pem(
        authority_pem: &str,
        certificate_pem: &str,
        key_pem: &Secret,
    ) -> Result<Self, CredentialError> {
        let authorities = certificates(authority_pem)?;
        let chain = certificates(certificate_pem)?;
        let certified = Certified::read(&chain[0])?;
        let unusable = |problem: String| CredentialError::Unusable {
            subject: certified.subject.short_name(),
            problem,
        };
        if !certified.client {
            let subject = certified.subject.short_name();
            return Err(CredentialError::Usage { subject, missing: "clientAuth" });
        }
        let is_node = matches!(certified.subject, Subject::Node { .. });
        if is_node && !certified.server {
            let subject = certified.subject.short_name();
            return Err(CredentialError::Usage { subject, missing: "serverAuth" });
        }
        let provider = Arc::new(tls::provider());
        let key = PrivateKeyDer::from_pem_slice(key_pem.expose().as_bytes())
            .map_err(|error| unusable(format!("its key cannot be read: {error}")))?;
        let key = CertifiedKey::from_der(chain, key, &provider)
            .map_err(|error| unusable(format!("its key does not belong to it: {error}")))?;
        let authority_not_after = authorities.iter().map(|der| certificate::not_after(der));
        let authority_not_after =
            authority_not_after.collect::<Result<Vec<_>, _>>()?.into_iter().max();
        let verifier = PeerVerifier::new(certified.subject.cluster(), &authorities, &provider)?;
        verifier.check_own(&key.cert).map_err(unusable)?;
        Ok(Self {
            key: Arc::new(key),
            verifier: Arc::new(verifier),
            provider,
            not_after: certified.not_after,
            authority_not_after: authority_not_after.unwrap_or(certified.not_after),
            subject: certified.subject,
        })
    }

    /// Reads an identity from files. The key's file must be readable by its owner alone.
    ///
    /// # Errors
    ///
    /// As [`from_pem`](Self::from_pem), or a file cannot be read.
    pub fn load(
        authority_file: &Path,
        certificate_file: &Path,
        key_file: &Path,
    ) -> Result<Self, CredentialError> {
        let key = files::read_secret(key_file)?;
        let authority = files::read_public(authority_file)?;
        let certificate = files::read_public(certificate_file)?;
        Self::from_pem(&authority, &certificate, &key)
    }

    /// Who it is of.
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    /// The cluster that it belongs to.
    pub fn cluster(&self) -> ClusterId {
        self.subject.cluster()
    }

    /// The node that it is of, unless it is a client's.
    pub fn node(&self) -> Option<NodeId> {
        match self.subject {
            Subject::Node { node, .. } => Some(node),
            Subject::Client { .. } => None,
        }
    }

    /// The last moment at which the certificate holds. The authority's may end before it.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// How long it and its authority still hold.
    pub fn expiry(&self) -> Expiry {
        Expiry { certificate: self.not_after, authority: self.authority_not_after }
    }
}

impl Issued {
    /// The identity that these make.
    ///
    /// # Errors
    ///
    /// The certificate does not hold now.
    pub fn identity(&self) -> Result<Identity, CredentialError> {
        Identity::from_pem(&self.authority_pem, &self.certificate_pem, &self.key_pem)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { subject, not_after, .. } = self;
        f.debug_struct("Identity")
            .field("subject", &format_args!("{subject}"))
            .field("not_after", not_after)
            .finish_non_exhaustive()
    }
}

/// When certificates stop to hold. Renew them before: who comes with an expired one is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Expiry {
    /// This node's own certificate.
    pub certificate: SystemTime,
    /// The authority that holds longest.
    pub authority: SystemTime,
}

impl Expiry {
    /// How long all of it still holds, from `now` on; zero once something has expired.
    pub fn left(&self, now: SystemTime) -> Duration {
        self.certificate.min(self.authority).duration_since(now).unwrap_or_default()
    }
}

/// The certificates of a text, of which there is at least one.
pub(crate) fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, CredentialError> {
    let malformed = |problem: String| CredentialError::Malformed { problem };
    let certificates = CertificateDer::pem_slice_iter(pem.as_bytes())
        .take(CERTIFICATES_MAX + 1)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| malformed(error.to_string()))?;
    match certificates.len() {
        0 => Err(malformed(
            "there is none in the text; expected `-----BEGIN CERTIFICATE-----`".into(),
        )),
        1..=CERTIFICATES_MAX => Ok(certificates),
        _ => Err(malformed(format!("there are more than {CERTIFICATES_MAX} in the text"))),
    }
}
