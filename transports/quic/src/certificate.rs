//! What a certificate says, read within bounds.

use std::time::{Duration, SystemTime};

use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::{CredentialError, Subject};

/// Largest certificate that is read, in bytes of DER. Ours have about 500.
pub(crate) const CERTIFICATE_BYTES_MAX: usize = 16 << 10;

/// What matters of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Certified {
    pub(crate) subject: Subject,
    /// The last moment at which it holds.
    pub(crate) not_after: SystemTime,
    /// May prove who a dialled node is.
    pub(crate) server: bool,
    /// May prove who dialled.
    pub(crate) client: bool,
}

impl Certified {
    /// Reads a certificate of a node or client. Whether it is signed by anybody is not looked at.
    pub(crate) fn read(der: &[u8]) -> Result<Self, CredentialError> {
        let certificate = parse(der)?;
        let names = certificate.subject_alternative_name().map_err(malformed)?;
        let mut uris = names.iter().flat_map(|names| &names.value.general_names).filter_map(
            |name| match name {
                GeneralName::URI(uri) => Some(*uri),
                _ => None,
            },
        );
        // A second name would make two readers see two different nodes.
        let (Some(uri), None) = (uris.next(), uris.next()) else {
            return Err(CredentialError::NoSubject { common_name: common_name(&certificate) });
        };
        let usage = certificate.extended_key_usage().map_err(malformed)?;
        let usage = usage.map(|usage| usage.value);
        Ok(Self {
            subject: uri.parse()?,
            not_after: moment(certificate.validity().not_after.timestamp()),
            server: usage.is_some_and(|usage| usage.server_auth),
            client: usage.is_some_and(|usage| usage.client_auth),
        })
    }
}

/// The common names of a certificate and of who signed it.
pub(crate) fn common_names(der: &[u8]) -> Option<(String, String)> {
    let certificate = parse(der).ok()?;
    let issuer = certificate.issuer().iter_common_name().next();
    let issuer = issuer.and_then(|name| name.as_str().ok()).unwrap_or("?");
    Some((common_name(&certificate), printable(issuer)))
}

/// The last moment at which a certificate holds, whoever it is of.
pub(crate) fn not_after(der: &[u8]) -> Result<SystemTime, CredentialError> {
    validity(der).map(|(_, not_after)| not_after)
}

/// The first and the last moment at which a certificate holds, whoever it is of.
pub(crate) fn validity(der: &[u8]) -> Result<(SystemTime, SystemTime), CredentialError> {
    let certificate = parse(der)?;
    let validity = certificate.validity();
    Ok((moment(validity.not_before.timestamp()), moment(validity.not_after.timestamp())))
}

/// A text from outside, fit for a line of a log: bounded and without control characters.
pub(crate) fn printable(text: &str) -> String {
    text.chars().take(400).map(|c| if c.is_control() { '?' } else { c }).collect()
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, CredentialError> {
    if der.len() > CERTIFICATE_BYTES_MAX {
        return Err(CredentialError::Malformed {
            problem: format!(
                "it has {} bytes, at most {CERTIFICATE_BYTES_MAX} are read",
                der.len()
            ),
        });
    }
    let (rest, certificate) = X509Certificate::from_der(der).map_err(malformed)?;
    if !rest.is_empty() {
        return Err(CredentialError::Malformed { problem: "bytes follow it".into() });
    }
    Ok(certificate)
}

fn common_name(certificate: &X509Certificate<'_>) -> String {
    let name = certificate.subject().iter_common_name().next();
    printable(name.and_then(|name| name.as_str().ok()).unwrap_or("?"))
}

fn moment(unix: i64) -> SystemTime {
    let since = Duration::from_secs(u64::try_from(unix).unwrap_or(0));
    // Only years that no clock can show overflow.
    SystemTime::UNIX_EPOCH.checked_add(since).unwrap_or(SystemTime::UNIX_EPOCH)
}

fn malformed(problem: impl std::fmt::Display) -> CredentialError {
    CredentialError::Malformed { problem: problem.to_string() }
}
