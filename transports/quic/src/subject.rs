//! Who a certificate speaks for, as it stands in the certificate.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use quorate_replicator::{ClusterId, NodeId};

/// Longest name of a client, in bytes.
pub const CLIENT_NAME_BYTES_MAX: usize = 64;

/// Who a certificate speaks for: one node or one client of one cluster. It is the only URI among the certificate's
/// alternative names, `quorate://CLUSTER/node/ID` or `quorate://CLUSTER/client/NAME`, with the cluster in 32 hexadecimal digits.
///
/// A subject has one text and a text one subject, so that texts may be compared.
///
/// ```
/// # use quorate_transport_quic::Subject;
/// let subject: Subject = "quorate://0000000000000000000000000000002a/node/7".parse()?;
/// assert_eq!(subject.to_string(), "quorate://0000000000000000000000000000002a/node/7");
/// # Ok::<(), quorate_transport_quic::SubjectError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(clippy::exhaustive_enums, reason = "each role must be told from each other everywhere")]
pub enum Subject {
    /// A node: speaks as a peer.
    Node {
        /// Its cluster.
        cluster: ClusterId,
        /// The node.
        node: NodeId,
    },
    /// A client: never speaks as a peer.
    Client {
        /// The cluster that it may ask.
        cluster: ClusterId,
        /// What it is called, in letters, digits and `. _ - @`.
        name: String,
    },
}

impl Subject {
    /// The node of this number.
    pub fn node(cluster: ClusterId, node: NodeId) -> Self {
        Self::Node { cluster, node }
    }

    /// The client of this name.
    ///
    /// # Errors
    ///
    /// The name is empty, too long, or has characters that a name may not have.
    pub fn client(cluster: ClusterId, name: &str) -> Result<Self, SubjectError> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-@".contains(&byte);
        if name.is_empty() || name.len() > CLIENT_NAME_BYTES_MAX || !name.bytes().all(plain) {
            return Err(SubjectError::ClientName(excerpt(name)));
        }
        Ok(Self::Client { cluster, name: name.into() })
    }

    /// The cluster.
    pub fn cluster(&self) -> ClusterId {
        match self {
            Self::Node { cluster, .. } | Self::Client { cluster, .. } => *cluster,
        }
    }

    /// What people call it: `n2`, or the client's name.
    pub fn short_name(&self) -> String {
        match self {
            Self::Node { node, .. } => node.to_string(),
            Self::Client { name, .. } => name.clone(),
        }
    }
}

/// What a client is called, as its certificate says. A clone costs nothing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientName(Arc<str>);

impl ClientName {
    pub(crate) fn new(name: &str) -> Self {
        Self(name.into())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ClientName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node { cluster, node } => write!(f, "quorate://{cluster}/node/{}", node.number()),
            Self::Client { cluster, name } => write!(f, "quorate://{cluster}/client/{name}"),
        }
    }
}

impl FromStr for Subject {
    type Err = SubjectError;

    fn from_str(text: &str) -> Result<Self, SubjectError> {
        let form = || SubjectError::Form(excerpt(text));
        let rest = text.strip_prefix("quorate://").ok_or_else(form)?;
        let (cluster, rest) = rest.split_once('/').ok_or_else(form)?;
        let (role, name) = rest.split_once('/').ok_or_else(form)?;
        let digits = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if cluster.len() != 32 || !cluster.bytes().all(digits) {
            return Err(form());
        }
        let number = u128::from_str_radix(cluster, 16).map_err(|_| form())?;
        let cluster = ClusterId::new(number.to_be_bytes());
        match role {
            "node" => {
                let number: u64 = name.parse().map_err(|_| form())?;
                // `+7` and `07` are numbers too, and would be second names of the same node.
                if number.to_string() != name {
                    return Err(form());
                }
                Ok(Self::node(cluster, NodeId::new(number)))
            }
            "client" => Self::client(cluster, name),
            _ => Err(form()),
        }
    }
}

/// Why a text names nobody.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SubjectError {
    /// It is neither form.
    #[error("{0:?} is neither quorate://CLUSTER/node/ID nor quorate://CLUSTER/client/NAME")]
    Form(String),
    /// A client cannot be called that.
    #[error(
        "{0:?} is no name for a client; use 1 to {CLIENT_NAME_BYTES_MAX} letters, digits and . _ - @"
    )]
    ClientName(String),
}

/// Enough of a text from outside to recognise it.
fn excerpt(text: &str) -> String {
    text.chars().take(120).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: &str = "0123456789abcdef0123456789abcdef";

    fn cluster() -> ClusterId {
        ClusterId::new(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef_u128.to_be_bytes())
    }

    #[test]
    fn a_subject_is_what_its_text_says() {
        for subject in [
            Subject::node(cluster(), NodeId::new(0)),
            Subject::node(cluster(), NodeId::new(u64::MAX)),
            Subject::client(cluster(), "ops.team-1@example").unwrap(),
        ] {
            assert_eq!(subject.to_string().parse(), Ok(subject));
        }
    }

    #[test]
    fn a_text_with_a_second_reading_is_refused() {
        for text in [
            "",
            "quorate://",
            &format!("quorate://{CLUSTER}"),
            &format!("quorate://{CLUSTER}/node"),
            &format!("quorate://{CLUSTER}/node/"),
            &format!("quorate://{CLUSTER}/node/07"),
            &format!("quorate://{CLUSTER}/node/+7"),
            &format!("quorate://{CLUSTER}/node/-7"),
            &format!("quorate://{CLUSTER}/node/7/"),
            &format!("quorate://{CLUSTER}/node/7 "),
            &format!("quorate://{CLUSTER}/node/18446744073709551616"),
            &format!("quorate://{CLUSTER}/Node/7"),
            &format!("quorate://{}/node/7", CLUSTER.to_uppercase()),
            &format!("quorate://+{}/node/7", &CLUSTER[1..]),
            &format!("quorate://{}/node/7", &CLUSTER[1..]),
            &format!("https://{CLUSTER}/node/7"),
            &format!("quorate://{CLUSTER}/client/"),
            &format!("quorate://{CLUSTER}/client/a/b"),
            &format!("quorate://{CLUSTER}/client/a\0"),
            &format!("quorate://{CLUSTER}/client/{}", "a".repeat(CLIENT_NAME_BYTES_MAX + 1)),
        ] {
            assert!(text.parse::<Subject>().is_err(), "{text:?}");
        }
    }
}
