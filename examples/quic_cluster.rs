//! Three nodes and a client over QUIC, with certificates made on the way. Here all of them are in one program; in life each is a
//! process of its own, made by `quorate init-cluster` and started by `quorate serve`.
//!
//! ```sh
//! cargo run --features raft,quic --example quic_cluster
//! ```

use std::net::UdpSocket;
use std::path::Path;

use quorate::certificates::{Authority, Subject, Validity};
use quorate::kv::{PutOptions, ReadOptions};
use quorate::{Client, ClientConfig, ClusterId, Config, Node, NodeId, ShardKey};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

#[tokio::main]
async fn main() -> Outcome<()> {
    let dir = tempfile::tempdir()?;
    let addresses = free_addresses()?;
    let cluster = ClusterId::new([7; 16]);
    // The authority's key makes nodes and clients. Nodes and clients need its certificate alone.
    let authority = Authority::create("example", Validity::days(1))?;
    authority.save(&dir.path().join("authority.pem"), &dir.path().join("authority.key"))?;
    let issue = |name: &str, subject: Subject| -> Outcome<()> {
        let (certificate, key) = (format!("{name}.pem"), format!("{name}.key"));
        let issued = authority.issue(&subject, Validity::days(1))?;
        Ok(issued.save(&dir.path().join(certificate), &dir.path().join(key))?)
    };

    let mut nodes = Vec::new();
    for id in 1..=3 {
        issue(&format!("n{id}"), Subject::node(cluster, NodeId::new(id)))?;
        nodes.push(node(dir.path(), id, &addresses)?);
    }
    // All founders meet once, so they are opened together.
    let [one, two, three] = nodes.try_into().map_err(|_| "three were made")?;
    let (one, two, three) = tokio::try_join!(Node::open(one), Node::open(two), Node::open(three))?;
    let nodes = [one, two, three];
    for node in &nodes {
        node.serve_clients()?;
    }

    issue("client", Subject::client(cluster, "example")?)?;
    let mut config = ClientConfig::default();
    config.authority_file = dir.path().join("authority.pem");
    config.certificate_file = dir.path().join("client.pem");
    config.key_file = dir.path().join("client.key");
    config.nodes = (1..).map(NodeId::new).zip(addresses).collect();
    let client = Client::connect(config).await?;

    // The same keys and values as of a node in this process.
    let colours = ShardKey::new("acme", "colours")?;
    let put = client.kv().put(&colours, b"sky", b"blue", PutOptions::default()).await?;
    println!("written at revision {}", put.revision);

    let led = nodes[0].status().groups[0].leader.ok_or("nobody leads")?;
    println!("led by {led}, which now stops");
    for node in nodes.iter().filter(|node| node.status().node == led) {
        node.close().await?;
    }
    // The client goes on with another node, which may have to be elected first.
    let patient = PutOptions::default().within(std::time::Duration::from_secs(20));
    let put = client.kv().put(&colours, b"grass", b"green", patient).await?;
    let got = client.kv().get(&colours, b"sky", ReadOptions::default()).await?;
    println!("went on at revision {}; the sky is {:?}", put.revision, got.entry.map(|e| e.value));

    client.close().await;
    for node in &nodes {
        node.close().await?;
    }
    Ok(())
}

/// Of three nodes on this machine.
fn free_addresses() -> Outcome<Vec<String>> {
    // All are held until the last one is drawn.
    let sockets = [
        UdpSocket::bind("127.0.0.1:0")?,
        UdpSocket::bind("127.0.0.1:0")?,
        UdpSocket::bind("127.0.0.1:0")?,
    ];
    sockets.iter().map(|socket| Ok(socket.local_addr()?.to_string())).collect()
}

fn node(dir: &Path, id: u64, addresses: &[String]) -> Outcome<Config> {
    let here = dir.display();
    let listen = &addresses[id as usize - 1];
    let peers: String =
        (1..).zip(addresses).map(|(id, address)| format!("{id} = \"{address}\"\n")).collect();
    let text = format!(
        r#"
        [node]
        id = {id}
        founders = [1, 2, 3]
        data_dir = "{here}/data{id}"

        [driver]
        kind = "raft"

        [transport]
        kind = "quic"

        [transport.quic]
        listen = "{listen}"
        authority_file = "{here}/authority.pem"
        certificate_file = "{here}/n{id}.pem"
        key_file = "{here}/n{id}.key"

        [transport.quic.peers]
        {peers}"#
    );
    Ok(Config::from_toml(&text)?)
}
