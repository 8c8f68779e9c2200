//! What can be set about the transport.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use quorate_replicator::NodeId;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Limits;

/// What can be set about a [`QuicTransport`](crate::QuicTransport).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct QuicConfig {
    /// The UDP address on which others reach this node. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// The certificate of the cluster's authority, in PEM: who is signed by it is believed, nobody else is. Holds two
    /// while one authority replaces the other.
    pub authority_file: PathBuf,
    /// This node's certificate, in PEM. Cluster and node stand in it.
    pub certificate_file: PathBuf,
    /// The key of the certificate, in PEM. Refused if others than its owner may read the file.
    pub key_file: PathBuf,
    /// The other nodes of the cluster by their numbers, each with `host:port`. Who is not among them is refused, whatever
    /// its certificate. This node's own entry is passed over, so that all nodes may have the same table.
    #[serde(with = "peer_table")]
    pub peers: BTreeMap<NodeId, String>,
    /// How much anybody may cost.
    pub limits: Limits,
}

impl Default for QuicConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 7410)),
            authority_file: "authority.pem".into(),
            certificate_file: "node.pem".into(),
            key_file: "node.key".into(),
            peers: BTreeMap::new(),
            limits: Limits::default(),
        }
    }
}

impl QuicConfig {
    /// The defaults, on this address.
    pub fn listening(listen: SocketAddr) -> Self {
        Self { listen, ..Self::default() }
    }
}

/// The form of a table of nodes in TOML, which reads keys as texts: for `#[serde(with = "peer_table")]`.
pub mod peer_table {
    use super::*;

    /// Writes the numbers as texts.
    ///
    /// # Errors
    ///
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(
        peers: &BTreeMap<NodeId, String>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_map(peers.iter().map(|(node, at)| (node.number().to_string(), at)))
    }

    /// Reads `2` and `n2` for the same node.
    ///
    /// # Errors
    ///
    /// A key is no node, or a node stands there twice.
    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<NodeId, String>, D::Error> {
        let table = BTreeMap::<String, String>::deserialize(deserializer)?;
        let mut peers = BTreeMap::new();
        for (key, address) in table {
            let digits = key.strip_prefix('n').unwrap_or(&key);
            if !has_port(&address) {
                return Err(D::Error::custom(format!(
                    "{address:?} is no address of node {digits}: write host:port, as in `{digits} = \"host:7410\"`"
                )));
            }
            let number: u64 = digits.parse().map_err(|_| {
                D::Error::custom(format!(
                    "{key:?} is no node; write its number, as in `2 = \"host:7410\"`"
                ))
            })?;
            if peers.insert(NodeId::new(number), address).is_some() {
                return Err(D::Error::custom(format!("node {number} stands there twice")));
            }
        }
        Ok(peers)
    }
}

/// Whether it may be `host:port`; whether there is such a host is known when it is dialled.
fn has_port(address: &str) -> bool {
    let parts = address.rsplit_once(':');
    parts.is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_read_by_number() {
        let config: QuicConfig = toml::from_str(
            "listen = \"127.0.0.1:0\"\n[peers]\n2 = \"b.example:7410\"\nn3 = \"c.example:7410\"\n\
             [limits]\nidle_timeout = \"3s\"\n",
        )
        .unwrap();
        assert_eq!(config.peers[&NodeId::new(2)], "b.example:7410");
        assert_eq!(config.peers[&NodeId::new(3)], "c.example:7410");
        assert_eq!(config.limits.idle_timeout, std::time::Duration::from_secs(3));
    }

    #[test]
    fn a_key_that_is_no_node_is_named() {
        let error = toml::from_str::<QuicConfig>("[peers]\nfirst = \"a:1\"").unwrap_err();
        assert!(error.to_string().contains("\"first\" is no node"), "{error}");
        let error = toml::from_str::<QuicConfig>("[peers]\n1 = \"a:1\"\nn1 = \"a:1\"").unwrap_err();
        assert!(error.to_string().contains("twice"), "{error}");
        for portless in ["127.0.0.1", "a:", ":7410", "a:port"] {
            let text = format!("[peers]\n2 = {portless:?}");
            let error = toml::from_str::<QuicConfig>(&text).unwrap_err();
            assert!(error.to_string().contains("is no address of node 2"), "{error}");
        }
        let error = toml::from_str::<QuicConfig>("plaintext = true").unwrap_err();
        assert!(error.to_string().contains("unknown field `plaintext`"), "{error}");
    }
}
