//! Nodes of a cluster speak QUIC, chosen in the configuration.

use std::net::UdpSocket;
use std::path::Path;

use quorate::kv::{PutOptions, ReadOptions};
use quorate::{ClusterId, Config, Node, NodeId, ShardKey, builtin};
use quorate_transport_quic::{Authority, Subject, Validity};

/// Certificates of three nodes, and the configuration of one with what stands in the table of the transport.
fn certificates(dir: &Path) {
    let authority = Authority::create("test", Validity::days(1)).unwrap();
    authority.save(&dir.join("ca.pem"), &dir.join("ca.key")).unwrap();
    for node in 1..=3 {
        let subject = Subject::node(ClusterId::new([9; 16]), NodeId::new(node));
        let issued = authority.issue(&subject, Validity::days(1)).unwrap();
        let name = |what: &str| dir.join(format!("{node}.{what}"));
        issued.save(&name("pem"), &name("key")).unwrap();
    }
}

fn config(dir: &Path, node: u64, quic: &str) -> String {
    let at = |name: String| dir.join(name).display().to_string();
    format!(
        "[node]\nid = {node}\nfounders = [1, 2, 3]\ndata_dir = '{}'\n[driver]\nkind = \"raft\"\n\
         [log]\nsegment_bytes = 8388608\n\
         [transport]\nkind = \"quic\"\n[transport.quic]\nauthority_file = '{}'\ncertificate_file = '{}'\n\
         key_file = '{}'\n{quic}",
        at(format!("data{node}")),
        at("ca.pem".into()),
        at(format!("{node}.pem")),
        at(format!("{node}.key")),
    )
}

async fn refusal(text: &str) -> String {
    let config = Config::from_toml(text).unwrap();
    Node::open(config).await.unwrap_err().to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_decide_over_quic() {
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path());
    // Free ports, held until the last moment.
    let sockets = [(); 3].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
    let ports = sockets.each_ref().map(|socket| socket.local_addr().unwrap().port());
    drop(sockets);
    let peers = format!(
        "[transport.quic.peers]\n1 = \"127.0.0.1:{}\"\n2 = \"127.0.0.1:{}\"\n3 = \"127.0.0.1:{}\"\n",
        ports[0], ports[1], ports[2]
    );
    let open = |node: u64| {
        let listen = format!("listen = \"127.0.0.1:{}\"\n{peers}", ports[node as usize - 1]);
        let config = Config::from_toml(&config(dir.path(), node, &listen)).unwrap();
        builtin::check(&config).unwrap();
        Node::open(config)
    };
    let (one, two, three) = tokio::try_join!(open(1), open(2), open(3)).unwrap();
    let shard = ShardKey::new("acme", "colours").unwrap();
    one.kv().put(&shard, b"sky", b"blue", PutOptions::default()).await.unwrap();
    let read = three.kv().get(&shard, b"sky", ReadOptions::default()).await.unwrap();
    assert_eq!(read.entry.map(|entry| entry.value), Some("blue".into()));
    for node in [one, two, three] {
        node.close().await.unwrap();
    }
}

#[tokio::test]
async fn what_is_wrong_with_the_transport_is_said_with_the_way_out() {
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path());
    let listen = "listen = \"127.0.0.1:0\"\n";
    let peers = "[transport.quic.peers]\n1 = \"a:1\"\n2 = \"b:1\"\n3 = \"c:1\"\n";

    let words = refusal(&config(dir.path(), 1, listen)).await;
    assert!(words.contains("no address is known of n2, n3"), "{words}");
    let text = config(dir.path(), 1, &format!("{listen}{peers}")).replace("1.pem", "2.pem");
    let words = refusal(&text.replace("1.key", "2.key")).await;
    assert!(words.contains("this node is n1; give each node its own"), "{words}");
    let words = refusal(&text).await;
    assert!(words.contains("its key does not belong to it"), "{words}");
    let words =
        refusal(&config(dir.path(), 1, &format!("{listen}plaintext = true\n{peers}"))).await;
    assert!(words.contains("unknown field `plaintext`"), "{words}");

    let wrong = config(dir.path(), 1, &format!("{listen}[transport.quic.limits]\nidle = 1\n"));
    let error = builtin::check(&Config::from_toml(&wrong).unwrap()).unwrap_err();
    assert!(error.to_string().contains("unknown field `idle`"), "{error}");
}

#[tokio::test]
async fn certificates_are_looked_for_beside_the_configuration_file() {
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path());
    let text = "[node]\ndata_dir = \"data\"\ncluster = \"09090909090909090909090909090909\"\n[log]\n\
                segment_bytes = 8388608\n[driver]\nkind = \"raft\"\n[transport]\nkind = \"quic\"\n\
                [transport.quic]\nlisten = \"127.0.0.1:0\"\nauthority_file = \"ca.pem\"\n\
                certificate_file = \"1.pem\"\nkey_file = \"1.key\"\n";
    let file = dir.path().join("node.toml");
    std::fs::write(&file, text).unwrap();
    let config = Config::builder().file(&file).unwrap().build().unwrap();
    let node = Node::open(config).await.unwrap();
    assert!(dir.path().join("data").is_dir());
    node.close().await.unwrap();
}
