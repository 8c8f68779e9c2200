//! The QUIC transport: mutual TLS, identity in the certificate, bounded by construction.

mod authority;
mod certificate;
mod credential_error;
mod files;
mod identity;
mod subject;
mod tls;
mod verifier;

pub use authority::{Authority, Issued, Secret, Validity};
pub use credential_error::CredentialError;
pub use identity::{Expiry, Identity};
pub use subject::{CLIENT_NAME_BYTES_MAX, Subject, SubjectError};
