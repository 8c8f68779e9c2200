//! The directory of a cluster: its authority, and for each node and each client a directory that has all it needs.
//!
//! ```text
//! DIR/cluster.toml        what the cluster is, for whoever makes more certificates
//! DIR/authority.pem,.key  who makes them; the key belongs on no node
//! DIR/genesis.toml        with driver quorum: what auditors need
//! DIR/n1/                 node.toml, node.pem, node.key, authority.pem; with driver quorum genesis.toml, validator.key
//! DIR/client/             client.toml, client.pem, client.key, authority.pem
//! ```
//!
//! 1. The directory of a node works wherever it is copied: paths in it are relative to its configuration file.
//! 2. A directory appears under its name when it is complete.
//! 3. Keys have mode 0600, and are never written over: the one that was there is kept beside the new one.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::SystemTime;

use quorate::certificates::{Authority, CertificateInfo, Issued, Subject, Validity};
use quorate::{ClusterId, Config, NodeId, SessionId, builtin};
use serde::Deserialize;

use crate::exit::Failure;
use crate::founding::{Choice, Founding, GENESIS_FILE, KEY_FILE, QUORUM};

/// How long a new authority holds.
const AUTHORITY_DAYS: u32 = 3650;

/// What the directory says of itself.
const CLUSTER_FILE: &str = "cluster.toml";

const AUTHORITY_FILE: &str = "authority.pem";
const AUTHORITY_KEY_FILE: &str = "authority.key";

/// The configuration in the directory of a node.
pub(crate) const NODE_FILE: &str = "node.toml";

/// The configuration in the directory of a client.
pub(crate) const CLIENT_FILE: &str = "client.toml";

/// A node and where others reach it, as `n1=HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NodeAt {
    pub(crate) node: NodeId,
    pub(crate) address: Address,
}

impl FromStr for NodeAt {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (node, address) = text
            .split_once('=')
            .ok_or_else(|| format!("{text:?} has no `=`; write n1=HOST:PORT"))?;
        Ok(Self { node: node_id(node)?, address: address.parse()? })
    }
}

/// `n1`, and no other way to write it.
pub(crate) fn node_id(text: &str) -> Result<NodeId, String> {
    let number = text.strip_prefix('n').and_then(|digits| digits.parse::<u64>().ok());
    match number {
        Some(number) if number > 0 && format!("n{number}") == text => Ok(NodeId::new(number)),
        _ => Err(format!("{text:?} is no name of a node; write n and a number from 1, as in n1")),
    }
}

/// Where a node is reached, as `HOST:PORT`: a name, an IPv4 address, or an IPv6 address in brackets.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Address {
    host: String,
    port: u16,
}

impl Address {
    /// What the node itself listens on: every address of its machine, since the one that others use may be another's who
    /// passes packets on; loopback alone if others use that.
    fn listen(&self) -> SocketAddr {
        let ip = match self.host.trim_matches(['[', ']']).parse() {
            Ok(IpAddr::V4(ip)) if ip.is_loopback() => IpAddr::V4(ip),
            Ok(IpAddr::V6(ip)) if ip.is_loopback() => IpAddr::V6(ip),
            Ok(IpAddr::V6(_)) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            _ if self.host == "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
            _ => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        };
        SocketAddr::new(ip, self.port)
    }

    pub(crate) fn host(&self) -> &str {
        &self.host
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |problem: &str| {
            format!("{text:?} is no address: {problem}; write HOST:PORT, as in 10.0.0.1:7410")
        };
        let (host, port) = text.rsplit_once(':').ok_or_else(|| wrong("it has no port"))?;
        let port = port.parse().map_err(|_| wrong("its port is no number from 1 to 65535"))?;
        if port == 0 {
            return Err(wrong("others cannot reach port 0"));
        }
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let is_host = match bracketed {
            Some(ip) => ip.parse::<Ipv6Addr>().is_ok(),
            None if host.contains(':') => return Err(wrong("an IPv6 address stands in brackets")),
            None => {
                let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
                !host.is_empty() && host.len() <= 253 && host.bytes().all(plain)
            }
        };
        if !is_host {
            return Err(wrong("its host is neither a name nor an IP address"));
        }
        Ok(Self { host: host.into(), port })
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// A cluster, as its directory describes it.
#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    pub(crate) id: ClusterId,
    pub(crate) driver: String,
    pub(crate) founders: Vec<NodeId>,
    /// Consensus groups, the same for all nodes.
    pub(crate) groups: u32,
    /// All nodes that certificates were made for.
    pub(crate) nodes: BTreeMap<NodeId, Address>,
    /// The directory of the node that the cluster grows from, if it does.
    pub(crate) from: Option<(NodeId, PathBuf)>,
    /// What a new cluster of driver quorum begins with.
    pub(crate) founding: Option<Founding>,
}

/// The same in the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ClusterFile {
    id: String,
    driver: String,
    founders: Vec<u64>,
    groups: u32,
    nodes: BTreeMap<String, String>,
}

impl Cluster {
    /// A new cluster of these nodes, under a random id.
    ///
    /// # Errors
    ///
    /// There is no node, or a number or an address is there twice, or the driver does not take so many.
    pub(crate) fn new(nodes: &[NodeAt], driver: &str, choice: Choice) -> Result<Self, Failure> {
        let random = SessionId::random().map_err(Failure::service)?;
        let mut cluster = Self {
            id: ClusterId::new(random.bytes()),
            driver: driver.into(),
            founders: Vec::new(),
            groups: 1,
            nodes: BTreeMap::new(),
            from: None,
            founding: None,
        };
        for node in nodes {
            cluster.add(node)?;
            cluster.founders.push(node.node);
        }
        if driver == QUORUM {
            cluster.founding = Some(cluster.found(choice)?);
        }
        cluster.checked(nodes)
    }

    /// The cluster that the data in `directory` belongs to, grown from its one node to these: that one founds it alone, and the others
    /// are added.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new); or the directory holds no data, or its node is none of these.
    pub(crate) fn grown(
        nodes: &[NodeAt],
        driver: &str,
        directory: &Path,
        choice: Choice,
    ) -> Result<Self, Failure> {
        let shown = directory.display();
        let held = builtin::held(directory).map_err(Failure::data)?;
        let held = held.ok_or_else(|| {
            Failure::data(format!(
                "{shown} holds no data to grow from; check the path, or leave --from out to found a new cluster"
            ))
        })?;
        if nodes.iter().all(|node| node.node != held.node) {
            return Err(Failure::usage(format!(
                "{shown} is of {node}, which is none of --nodes; name it there, as in {node}=HOST:PORT",
                node = held.node
            )));
        }
        let absolute = std::path::absolute(directory).map_err(Failure::data)?;
        let mut cluster = Self {
            id: held.cluster,
            driver: driver.into(),
            founders: vec![held.node],
            groups: held.groups,
            nodes: BTreeMap::new(),
            from: Some((held.node, absolute)),
            founding: None,
        };
        for node in nodes {
            cluster.add(node)?;
        }
        if driver == QUORUM {
            cluster.founding = Some(cluster.found(choice)?);
        }
        cluster.checked(nodes)
    }

    fn found(&self, choice: Choice) -> Result<Founding, Failure> {
        Founding::new(self.id, self.nodes.keys().copied(), &self.founders, choice)
    }

    fn checked(self, nodes: &[NodeAt]) -> Result<Self, Failure> {
        let (cluster, driver) = (&self, &self.driver);
        if driver == "local" && nodes.len() > 1 {
            return Err(Failure::usage(
                "driver local has one node for ever; take --driver raft for several",
            ));
        }
        if let Some(first) = nodes.first() {
            // What the node would say of its configuration is said now.
            let config = Config::builder().text(NODE_FILE, cluster.node_toml(first)).build();
            let checked = config.and_then(|config| builtin::check(&config));
            checked.map_err(|error| Failure::usage(format!("--driver {driver}: {error}")))?;
        }
        Ok(self)
    }

    /// Whether a directory is of a cluster.
    pub(crate) fn is_in(directory: &Path) -> bool {
        directory.join(CLUSTER_FILE).exists()
    }

    /// Reads what stands in a cluster's directory.
    ///
    /// # Errors
    ///
    /// It is not there, or does not say what it should.
    pub(crate) fn load(directory: &Path) -> Result<Self, Failure> {
        let path = directory.join(CLUSTER_FILE);
        let wrong = |problem: &dyn std::fmt::Display| {
            Failure::usage(format!("{}: {problem}", path.display()))
        };
        let text = fs::read_to_string(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => wrong(&format!(
                "{error}; name the directory that `quorate init-cluster` made, which has the authority"
            )),
            _ => wrong(&error),
        })?;
        let file: ClusterFile = toml::from_str(&text).map_err(|error| wrong(&error))?;
        let number = u128::from_str_radix(&file.id, 16).ok().filter(|_| file.id.len() == 32);
        let number = number.ok_or_else(|| wrong(&"id must have 32 hexadecimal digits"))?;
        let mut nodes = BTreeMap::new();
        for (node, address) in &file.nodes {
            let node = node_id(node).map_err(|problem| wrong(&problem))?;
            nodes.insert(node, address.parse().map_err(|problem: String| wrong(&problem))?);
        }
        Ok(Self {
            id: ClusterId::new(number.to_be_bytes()),
            driver: file.driver,
            founders: file.founders.into_iter().map(NodeId::new).collect(),
            groups: file.groups,
            nodes,
            from: None,
            founding: None,
        })
    }

    /// Takes one more node in.
    ///
    /// # Errors
    ///
    /// Its number or its address is taken.
    pub(crate) fn add(&mut self, new: &NodeAt) -> Result<(), Failure> {
        let NodeAt { node, address } = new;
        if let Some(known) = self.nodes.get(node) {
            return Err(Failure::usage(format!(
                "{node} is there twice, at {known} and at {address}; a number is one node for ever"
            )));
        }
        if let Some((other, _)) = self.nodes.iter().find(|(_, known)| *known == address) {
            return Err(Failure::usage(format!(
                "{other} and {node} are both at {address}; give each its own host or port"
            )));
        }
        self.nodes.insert(*node, address.clone());
        Ok(())
    }

    /// Writes everything into a new directory.
    ///
    /// # Errors
    ///
    /// The directory has something in it, or cannot be written.
    pub(crate) fn create(
        &self,
        directory: &Path,
        clients: &[String],
        days: u32,
    ) -> Result<(), Failure> {
        if fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(Failure::usage(format!(
                "{} is not empty, and may hold the only key of a cluster; name another directory with --out",
                directory.display()
            )));
        }
        let authority = Authority::create(&self.id.to_string(), Validity::days(AUTHORITY_DAYS))
            .map_err(Failure::service)?;
        completed(directory, |directory| {
            let [certificate, key] =
                [AUTHORITY_FILE, AUTHORITY_KEY_FILE].map(|file| directory.join(file));
            authority.save(&certificate, &key).map_err(Failure::usage)?;
            self.write(directory)?;
            if let Some(founding) = &self.founding {
                founding.write_genesis(directory)?;
            }
            let maker = Maker { authority, cluster: self, until: None };
            for (node, address) in &self.nodes {
                let node = NodeAt { node: *node, address: address.clone() };
                maker.node(&directory.join(node.node.to_string()), &node, days)?;
            }
            for client in clients {
                maker.client(&directory.join(client), client, days)?;
            }
            Ok(())
        })
    }

    /// Writes what the cluster is into its directory, in place of what stood there.
    pub(crate) fn write(&self, directory: &Path) -> Result<(), Failure> {
        let mut text = format!(
            "# What the cluster is. `quorate init-node` and `quorate certs renew` read it.\n\n\
             id       = \"{}\"\ndriver   = \"{}\"\nfounders = {:?}\ngroups   = {}\n\n[nodes]\n",
            self.id,
            self.driver,
            self.founder_numbers(),
            self.groups,
        );
        for (node, address) in &self.nodes {
            writeln!(text, "{node} = \"{address}\"").expect("a text takes everything");
        }
        replace(&directory.join(CLUSTER_FILE), text)
    }

    /// The directory's authority, to make certificates with.
    ///
    /// # Errors
    ///
    /// Its files are not there, or not as they should be.
    pub(crate) fn maker(&self, directory: &Path) -> Result<Maker<'_>, Failure> {
        let [certificate, key] =
            [AUTHORITY_FILE, AUTHORITY_KEY_FILE].map(|file| directory.join(file));
        let authority = Authority::load(&certificate, &key).map_err(Failure::usage)?;
        let info = CertificateInfo::read(&certificate).map_err(Failure::usage)?;
        let until = info.iter().map(|info| info.not_after).max();
        Ok(Maker { authority, cluster: self, until })
    }

    /// The configuration of a node.
    fn node_toml(&self, at: &NodeAt) -> String {
        let NodeAt { node, address } = at;
        let data_dir = match &self.from {
            Some((from, directory)) if from == node => directory.display().to_string(),
            _ => "data".into(),
        };
        let mut text = format!(
            "# {node} of cluster {}. Start it with `quorate serve --config {NODE_FILE}`, the same at every start.\n\
             # Paths are relative to this file. All keys: docs/config.md, or `quorate config explain`.\n\n\
             [node]\nid       = {}\ncluster  = \"{}\"\nfounders = {:?}\ndata_dir = {data_dir:?}\n\n\
             [driver]\nkind = \"{}\"\n\n{}[shard]\ngroups = {}\n\n\
             [transport]\nkind = \"quic\"\n\n\
             [transport.quic]\nlisten           = \"{}\"\nauthority_file   = \"{AUTHORITY_FILE}\"\n\
             certificate_file = \"node.pem\"\nkey_file         = \"node.key\"\n\n\
             [transport.quic.peers]\n",
            self.id,
            node.number(),
            self.id,
            self.founder_numbers(),
            self.driver,
            self.driver_toml(),
            self.groups,
            address.listen(),
        );
        self.write_nodes(&mut text);
        text
    }

    /// What the driver is told.
    fn driver_toml(&self) -> String {
        match &*self.driver {
            QUORUM => format!(
                "[driver.{QUORUM}]\ngenesis_file = \"{GENESIS_FILE}\"\nkey_file     = \"{KEY_FILE}\"\n\n"
            ),
            _ => String::new(),
        }
    }

    /// The configuration of a client.
    fn client_toml(&self, name: &str) -> String {
        let genesis = match self.founding {
            Some(_) => format!("genesis_file     = \"{GENESIS_FILE}\"\n"),
            None => String::new(),
        };
        let mut text = format!(
            "# Client {name} of cluster {}: `quorate --connect {CLIENT_FILE} status`. Paths are relative to this file.\n\n\
             [client]\nauthority_file   = \"{AUTHORITY_FILE}\"\ncertificate_file = \"client.pem\"\n\
             key_file         = \"client.key\"\n{genesis}\n[client.nodes]\n",
            self.id
        );
        self.write_nodes(&mut text);
        text
    }

    fn write_nodes(&self, text: &mut String) {
        for (node, address) in &self.nodes {
            writeln!(text, "{} = \"{address}\"", node.number()).expect("a text takes everything");
        }
    }

    fn founder_numbers(&self) -> Vec<u64> {
        self.founders.iter().map(|node| node.number()).collect()
    }
}

/// Makes what nodes and clients are given.
#[derive(Debug)]
pub(crate) struct Maker<'a> {
    authority: Authority,
    cluster: &'a Cluster,
    /// When the authority itself ends; none for a new one.
    until: Option<SystemTime>,
}

impl Maker<'_> {
    /// Makes the directory of a node.
    pub(crate) fn node(&self, directory: &Path, at: &NodeAt, days: u32) -> Result<(), Failure> {
        let subject = Subject::node(self.cluster.id, at.node);
        let issued = self.issue(&subject, days)?;
        let founding = self.cluster.founding.as_ref();
        self.directory(directory, "node", &issued, &self.cluster.node_toml(at), |directory| {
            founding.map_or(Ok(()), |founding| founding.write_node(directory, at))
        })
    }

    /// Makes the directory of a client.
    pub(crate) fn client(&self, directory: &Path, name: &str, days: u32) -> Result<(), Failure> {
        let subject = Subject::client(self.cluster.id, name).map_err(Failure::usage)?;
        let issued = self.issue(&subject, days)?;
        let founding = self.cluster.founding.as_ref();
        let config = self.cluster.client_toml(name);
        self.directory(directory, "client", &issued, &config, |directory| {
            founding.map_or(Ok(()), |founding| founding.write_genesis(directory))
        })
    }

    /// Puts a new certificate and a new key into a directory that there is. What was there gets the ending `.old`.
    pub(crate) fn renew(
        &self,
        directory: &Path,
        subject: &Subject,
        days: u32,
    ) -> Result<(), Failure> {
        let issued = self.issue(subject, days)?;
        let kind = match subject {
            Subject::Node { .. } => "node",
            Subject::Client { .. } => "client",
        };
        let at = |ending: &str| directory.join(format!("{kind}.{ending}"));
        let failed =
            |path: &Path, error: io::Error| Failure::usage(format!("{}: {error}", path.display()));
        let new = ["pem.new", "key.new"].map(at);
        for path in &new {
            // What an earlier attempt left, which was never in force.
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(failed(path, error));
                }
                _ => {}
            }
        }
        issued.save(&new[0], &new[1]).map_err(Failure::usage)?;
        for (new, ending) in new.iter().zip(["pem", "key"]) {
            let (path, old) = (at(ending), at(&format!("{ending}.old")));
            match fs::rename(&path, &old) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(failed(&path, error));
                }
                _ => {}
            }
            fs::rename(new, &path).map_err(|error| failed(&path, error))?;
        }
        replace(&directory.join(AUTHORITY_FILE), self.authority.certificate_pem())
    }

    fn issue(&self, subject: &Subject, days: u32) -> Result<Issued, Failure> {
        let mut validity = Validity::days(days);
        // Who holds longer than the authority is refused all the same when that has ended.
        validity.not_after = self.until.map_or(validity.not_after, |at| validity.not_after.min(at));
        self.authority.issue(subject, validity).map_err(Failure::service)
    }

    fn directory(
        &self,
        directory: &Path,
        kind: &str,
        issued: &Issued,
        config: &str,
        more: impl FnOnce(&Path) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        completed(directory, |directory| {
            more(directory)?;
            let at = |ending: &str| directory.join(format!("{kind}.{ending}"));
            issued.save(&at("pem"), &at("key")).map_err(Failure::usage)?;
            replace(&directory.join(AUTHORITY_FILE), self.authority.certificate_pem())?;
            replace(&at("toml"), config)
        })
    }
}

/// Makes a directory with what `fill` puts into it. It appears under its name when that is complete; one that has something
/// in it stays as it is.
fn completed(
    directory: &Path,
    fill: impl FnOnce(&Path) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let failed = |path: &Path, error: io::Error| {
        Failure::usage(format!("cannot make {}: {error}", path.display()))
    };
    let temporary = beside(directory, &format!("new-{}", std::process::id()));
    fs::create_dir_all(&temporary).map_err(|error| failed(&temporary, error))?;
    let done = fill(&temporary)
        .and_then(|()| fs::rename(&temporary, directory).map_err(|error| failed(directory, error)));
    if done.is_err() {
        // The error that is told is the one that came first.
        let _ = fs::remove_dir_all(&temporary);
    }
    done
}

/// Writes a file that nobody has to keep secret; it has the old content or the new one.
fn replace(path: &Path, text: impl AsRef<[u8]>) -> Result<(), Failure> {
    let temporary = beside(path, "new");
    fs::write(&temporary, text)
        .and_then(|()| fs::rename(&temporary, path))
        .map_err(|error| Failure::usage(format!("{}: {error}", path.display())))
}

/// The same name with this ending.
fn beside(path: &Path, ending: &str) -> PathBuf {
    // `cluster/` is the same directory as `cluster`, and has its name before the slash.
    let mut name = path.components().as_path().as_os_str().to_owned();
    name.push(format!(".{ending}"));
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_named_in_one_way() {
        let at: NodeAt = "n12=db.example:7410".parse().unwrap();
        assert_eq!((at.node, at.address.to_string()), (NodeId::new(12), "db.example:7410".into()));
        for text in ["n1", "1=a:1", "n0=a:1", "n01=a:1", "n+1=a:1", "N1=a:1", "=a:1", "node=a:1"] {
            let problem = text.parse::<NodeAt>().unwrap_err();
            assert!(problem.contains("n1"), "{text}: {problem}");
        }
    }

    #[test]
    fn an_address_has_a_host_and_a_port() {
        for (text, listen) in [
            ("10.0.0.1:7410", "0.0.0.0:7410"),
            ("db-1.example:1", "0.0.0.0:1"),
            ("127.0.0.1:65535", "127.0.0.1:65535"),
            ("localhost:7410", "127.0.0.1:7410"),
            ("[::1]:7410", "[::1]:7410"),
            ("[2001:db8::1]:7410", "[::]:7410"),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!(
                (address.to_string(), address.listen().to_string()),
                (text.into(), listen.into())
            );
        }
        for (text, words) in [
            ("host", "it has no port"),
            (":7410", "neither a name nor an IP address"),
            ("host:0", "others cannot reach port 0"),
            ("host:65536", "no number from 1 to 65535"),
            ("::1:7410", "stands in brackets"),
            ("[host]:7410", "neither a name nor an IP address"),
            ("a\"b:7410", "neither a name nor an IP address"),
        ] {
            let problem = text.parse::<Address>().unwrap_err();
            assert!(problem.contains(words), "{text}: {problem}");
        }
    }
}
