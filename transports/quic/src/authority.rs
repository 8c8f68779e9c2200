//! The cluster's own certificate authority: makes the certificates of nodes and clients.

use std::fmt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};

use crate::files;
use crate::{CredentialError, Subject};

/// How far back a certificate holds, so that a node whose clock is behind takes it at once.
const CLOCKS_APART: Duration = Duration::from_secs(5 * 60);

/// A certificate authority, and the only one that the nodes of a cluster trust. Its key makes nodes and clients, so keep it
/// away from the machines of the nodes, which need only its certificate.
///
/// ```
/// # use quorate_replicator::{ClusterId, NodeId};
/// # use quorate_transport_quic::{Authority, Subject, Validity};
/// let authority = Authority::create("example", Validity::days(3650))?;
/// let cluster = ClusterId::new([7; 16]);
/// let issued = authority.issue(&Subject::node(cluster, NodeId::new(1)), Validity::days(365))?;
/// let identity = issued.identity()?;
/// assert_eq!(identity.subject().short_name(), "n1");
/// # Ok::<(), quorate_transport_quic::CredentialError>(())
/// ```
pub struct Authority {
    certificate_pem: String,
    key: KeyPair,
}

impl Authority {
    /// A new authority with a key of its own. `name` is what people call it; it becomes part of its common name.
    ///
    /// # Errors
    ///
    /// The name cannot stand in a certificate.
    pub fn create(name: &str, validity: Validity) -> Result<Self, CredentialError> {
        let key = KeyPair::generate()?;
        let mut params = parameters(&format!("quorate authority {name}"), validity);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate_pem = params.self_signed(&key)?.pem();
        Ok(Self { certificate_pem, key })
    }

    /// Reads an authority that was [saved](Self::save).
    ///
    /// # Errors
    ///
    /// A file cannot be read, is not what it should be, or holds a key that others may read.
    pub fn load(certificate_file: &Path, key_file: &Path) -> Result<Self, CredentialError> {
        let certificate_pem = files::read_public(certificate_file)?;
        let key = KeyPair::from_pem(files::read_secret(key_file)?.expose())
            .map_err(|error| CredentialError::in_file(key_file, error))?;
        let authority = Self { certificate_pem, key };
        authority.issuer().map_err(|error| match error {
            CredentialError::Making { problem } => {
                CredentialError::in_file(certificate_file, problem)
            }
            other => other,
        })?;
        Ok(authority)
    }

    /// Writes the certificate, and the key with mode 0600. Neither file may exist.
    ///
    /// # Errors
    ///
    /// A file cannot be written, or exists.
    pub fn save(&self, certificate_file: &Path, key_file: &Path) -> Result<(), CredentialError> {
        files::write_secret(key_file, &self.key.serialize_pem())?;
        files::write_public(certificate_file, &self.certificate_pem)
    }

    /// Makes a key and a certificate for it.
    ///
    /// # Errors
    ///
    /// The certificate cannot be made.
    pub fn issue(&self, subject: &Subject, validity: Validity) -> Result<Issued, CredentialError> {
        let key = KeyPair::generate()?;
        let mut params = parameters(&subject.short_name(), validity);
        let uri = subject.to_string().try_into()?;
        params.subject_alt_names = vec![SanType::URI(uri)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = match subject {
            // A node dials and is dialled.
            Subject::Node { .. } => {
                vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth]
            }
            Subject::Client { .. } => vec![ExtendedKeyUsagePurpose::ClientAuth],
        };
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer()?)?;
        Ok(Issued {
            certificate_pem: certificate.pem(),
            key_pem: Secret(key.serialize_pem()),
            authority_pem: self.certificate_pem.clone(),
        })
    }

    /// The authority's certificate, which every node and client is given.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The authority's key.
    pub fn key_pem(&self) -> Secret {
        Secret(self.key.serialize_pem())
    }

    fn issuer(&self) -> Result<Issuer<'_, &KeyPair>, CredentialError> {
        Ok(Issuer::from_ca_cert_pem(&self.certificate_pem, &self.key)?)
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

/// From when to when a certificate holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_structs, reason = "it has no other parts")]
pub struct Validity {
    /// The first moment.
    pub not_before: SystemTime,
    /// The last moment.
    pub not_after: SystemTime,
}

impl Validity {
    /// From five minutes ago, since clocks differ, for this many days from now.
    pub fn days(days: u32) -> Self {
        let now = SystemTime::now();
        let span = Duration::from_secs(u64::from(days) * 24 * 60 * 60);
        Self { not_before: now - CLOCKS_APART, not_after: now + span }
    }
}

/// A certificate with its key, fresh from the authority.
#[derive(Clone, Debug)]
pub struct Issued {
    pub(crate) certificate_pem: String,
    pub(crate) key_pem: Secret,
    pub(crate) authority_pem: String,
}

impl Issued {
    /// The certificate.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The key of the certificate.
    pub fn key_pem(&self) -> &Secret {
        &self.key_pem
    }

    /// Writes the certificate, and the key with mode 0600. Neither file may exist.
    ///
    /// # Errors
    ///
    /// A file cannot be written, or exists.
    pub fn save(&self, certificate_file: &Path, key_file: &Path) -> Result<(), CredentialError> {
        files::write_secret(key_file, self.key_pem.expose())?;
        files::write_public(certificate_file, &self.certificate_pem)
    }
}

/// A text that is never shown: not by `Debug`, not in a log.
#[derive(Clone)]
pub struct Secret(pub(crate) String);

impl Secret {
    /// A secret with this text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

fn parameters(common_name: &str, validity: Validity) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = validity.not_before.into();
    params.not_after = validity.not_after.into();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params
}
