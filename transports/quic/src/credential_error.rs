//! What can be wrong with certificates and keys.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::SubjectError;

/// What is wrong with a certificate or key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialError {
    /// A file cannot be read or written, or does not hold what it should.
    #[error("{}: {problem}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A key that others than its owner may read may have been read.
    #[error(
        "{}: others than its owner may use the key (mode {mode:04o}); make a new key if somebody could have \
         read it, then `chmod 600` the file",
        path.display()
    )]
    KeyReadable {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// It is not a certificate, or not one that can be read.
    #[error("the certificate cannot be read: {problem}")]
    Malformed {
        /// What is wrong with it.
        problem: String,
    },
    /// It does not say who it speaks for.
    #[error(
        "the certificate CN={common_name} does not name one node or client: it must have exactly one URI \
         quorate://CLUSTER/node/ID or quorate://CLUSTER/client/NAME among its alternative names"
    )]
    NoSubject {
        /// What it is called.
        common_name: String,
    },
    /// It says who it speaks for in a way that cannot be read.
    #[error(transparent)]
    Subject(#[from] SubjectError),
    /// It may not be used for what it is there for.
    #[error(
        "the certificate of {subject} lacks the extended key usage {missing}; issue it anew for a node"
    )]
    Usage {
        /// Who it is of.
        subject: String,
        /// What is missing.
        missing: &'static str,
    },
    /// It holds no longer, or not yet, or is not signed by the authority that it comes with.
    #[error("the certificate of {subject} is of no use: {problem}")]
    Unusable {
        /// Who it is of.
        subject: String,
        /// Why.
        problem: String,
    },
    /// A certificate could not be made.
    #[error("the certificate cannot be made: {problem}")]
    Making {
        /// Why.
        problem: String,
    },
}

impl CredentialError {
    pub(crate) fn in_file(path: &Path, problem: impl fmt::Display) -> Self {
        Self::File { path: path.into(), problem: problem.to_string() }
    }
}

impl From<rcgen::Error> for CredentialError {
    fn from(error: rcgen::Error) -> Self {
        Self::Making { problem: error.to_string() }
    }
}
