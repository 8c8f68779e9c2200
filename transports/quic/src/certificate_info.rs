//! What stands in a certificate, for people.

use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::certificate::{self, Certified};
use crate::{CredentialError, Subject, files, identity};

/// What stands in a certificate. Whether it holds now, and whether anybody signed it, is not looked at: also what is wrong
/// with a certificate can be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CertificateInfo {
    /// What it is called.
    pub common_name: String,
    /// Who it is of; none if it is an authority's, or of nobody that can be told.
    pub subject: Option<Subject>,
    /// What the authority is called that signed it.
    pub issuer: String,
    /// The first moment at which it holds.
    pub not_before: SystemTime,
    /// The last one.
    pub not_after: SystemTime,
}

impl CertificateInfo {
    /// The certificates of a file in PEM, of which there is at least one.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or holds something else.
    pub fn read(file: &Path) -> Result<Vec<Self>, CredentialError> {
        let text = files::read_public(file)?;
        let named = |error: CredentialError| CredentialError::in_file(file, error);
        let certificates = identity::certificates(&text).map_err(named)?;
        certificates.iter().map(|der| Self::of(der).map_err(named)).collect()
    }

    /// How long it still holds, from `now` on; zero once it has expired.
    pub fn left(&self, now: SystemTime) -> Duration {
        self.not_after.duration_since(now).unwrap_or_default()
    }

    /// Whether less than a third of its life is left: time to renew it.
    pub fn is_late(&self, now: SystemTime) -> bool {
        let life = self.not_after.duration_since(self.not_before).unwrap_or_default();
        self.left(now) < life / 3
    }

    fn of(der: &[u8]) -> Result<Self, CredentialError> {
        let (not_before, not_after) = certificate::validity(der)?;
        // What could be read once has names.
        let (common_name, issuer) = certificate::common_names(der).unwrap_or_default();
        let subject = Certified::read(der).ok().map(|certified| certified.subject);
        Ok(Self { common_name, subject, issuer, not_before, not_after })
    }
}

#[cfg(test)]
mod tests {
    use quorate_replicator::{ClusterId, NodeId};

    use super::*;
    use crate::{Authority, Validity};

    #[test]
    fn an_expired_certificate_can_be_shown() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let now = SystemTime::now();
        let day = Duration::from_secs(24 * 60 * 60);
        let authority = Authority::create("here", Validity::days(10)).unwrap();
        authority.save(&at("ca.pem"), &at("ca.key")).unwrap();
        let subject = Subject::node(ClusterId::new([7; 16]), NodeId::new(3));
        let validity = Validity { not_before: now - 3 * day, not_after: now - day };
        authority.issue(&subject, validity).unwrap().save(&at("n.pem"), &at("n.key")).unwrap();

        let info = CertificateInfo::read(&at("n.pem")).unwrap().remove(0);
        assert_eq!((info.common_name.as_str(), info.subject.as_ref()), ("n3", Some(&subject)));
        assert_eq!(info.issuer, "quorate authority here");
        assert_eq!((info.left(now), info.is_late(now)), (Duration::ZERO, true));
        // Late from two thirds of its three days on.
        let begin = info.not_before;
        assert!(!info.is_late(begin + day) && info.is_late(begin + day + day / 2));

        let authority = CertificateInfo::read(&at("ca.pem")).unwrap().remove(0);
        assert_eq!((authority.subject.as_ref(), authority.is_late(now)), (None, false));
        let error = CertificateInfo::read(&at("n.key")).unwrap_err().to_string();
        assert!(error.contains("n.key") && error.contains("there is none in the text"), "{error}");
    }
}
