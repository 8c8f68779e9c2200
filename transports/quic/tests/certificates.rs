//! Certificates and keys: made, kept, refused, renewed, and explained.

mod cluster;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cluster::receiver::{Receiver, connected, explained, refused, until};
use cluster::{Cluster, limits};
use quorate_replicator::{ClusterId, NodeId, PeerState, Transport};
use quorate_transport_quic::{
    Authority, CredentialError, Identity, QuicConfig, QuicError, QuicTransport, Secret, Subject,
    Validity,
};

fn node(number: u64) -> Subject {
    Subject::node(ClusterId::new([3; 16]), NodeId::new(number))
}

/// From `from` to `to` seconds from now.
fn seconds(from: i64, to: i64) -> Validity {
    let at = |seconds: i64| {
        let span = Duration::from_secs(seconds.unsigned_abs());
        if seconds < 0 { SystemTime::now() - span } else { SystemTime::now() + span }
    };
    Validity { not_before: at(from), not_after: at(to) }
}

#[test]
fn what_an_authority_saves_it_loads_and_goes_on_with() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let authority = Authority::create("saved", Validity::days(10)).unwrap();
    authority.save(&path("ca.pem"), &path("ca.key")).unwrap();
    let loaded = Authority::load(&path("ca.pem"), &path("ca.key")).unwrap();
    for (number, authority) in [(1, &authority), (2, &loaded)] {
        let issued = authority.issue(&node(number), Validity::days(1)).unwrap();
        let (pem, key) = (path(&format!("{number}.pem")), path(&format!("{number}.key")));
        issued.save(&pem, &key).unwrap();
        let identity = Identity::load(&path("ca.pem"), &pem, &key).unwrap();
        assert_eq!(identity.node(), Some(NodeId::new(number)));
        let left = identity.expiry().left(SystemTime::now());
        assert!(
            left > Duration::from_secs(23 * 60 * 60) && left <= Duration::from_secs(24 * 60 * 60)
        );
        // What is there is not written over.
        assert!(matches!(issued.save(&pem, &key), Err(CredentialError::File { .. })));
    }
}

#[cfg(unix)]
#[test]
fn a_key_that_others_may_read_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let authority = Authority::create("strict", Validity::days(1)).unwrap();
    authority.save(&path("ca.pem"), &path("ca.key")).unwrap();
    let issued = authority.issue(&node(1), Validity::days(1)).unwrap();
    issued.save(&path("1.pem"), &path("1.key")).unwrap();
    let mode = |name: &str| std::fs::metadata(path(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("ca.key"), mode("1.key")), (0o600, 0o600));
    for loose in [0o644, 0o640, 0o604, 0o660, 0o610] {
        std::fs::set_permissions(path("1.key"), PermissionsExt::from_mode(loose)).unwrap();
        let error = Identity::load(&path("ca.pem"), &path("1.pem"), &path("1.key")).unwrap_err();
        assert!(
            matches!(error, CredentialError::KeyReadable { mode, .. } if mode == loose),
            "{error}"
        );
        assert!(error.to_string().contains("chmod 600"), "{error}");
    }
    for strict in [0o600, 0o400] {
        std::fs::set_permissions(path("1.key"), PermissionsExt::from_mode(strict)).unwrap();
        Identity::load(&path("ca.pem"), &path("1.pem"), &path("1.key")).unwrap();
    }
    std::fs::set_permissions(path("ca.key"), PermissionsExt::from_mode(0o644)).unwrap();
    let error = Authority::load(&path("ca.pem"), &path("ca.key")).unwrap_err();
    assert!(matches!(error, CredentialError::KeyReadable { .. }), "{error}");
}

#[test]
fn parts_that_do_not_belong_together_are_refused_in_words() {
    let authority = Authority::create("one", Validity::days(1)).unwrap();
    let other = Authority::create("two", Validity::days(1)).unwrap();
    let issue = |authority: &Authority, validity| authority.issue(&node(1), validity).unwrap();
    let (first, second) =
        (issue(&authority, Validity::days(1)), issue(&authority, Validity::days(1)));
    let ca = authority.certificate_pem();
    let refused = |ca: &str, pem: &str, key: &Secret| {
        Identity::from_pem(ca, pem, key).unwrap_err().to_string()
    };

    let words = refused(ca, first.certificate_pem(), second.key_pem());
    assert!(words.contains("its key does not belong to it"), "{words}");
    let words = refused(other.certificate_pem(), first.certificate_pem(), first.key_pem());
    assert!(words.contains("signed by another CA"), "{words}");
    assert!(
        words.contains("CN=quorate authority one, expected CN=quorate authority two"),
        "{words}"
    );
    for (validity, expected) in
        [(seconds(-100, -10), "expired"), (seconds(100, 200), "compare the clocks")]
    {
        let issued = issue(&authority, validity);
        let words = refused(ca, issued.certificate_pem(), issued.key_pem());
        assert!(words.contains(expected), "{words}");
    }
    let words = refused("", first.certificate_pem(), first.key_pem());
    assert!(words.contains("BEGIN CERTIFICATE"), "{words}");
    let words = refused(ca, ca, first.key_pem());
    assert!(words.contains("does not name one node or client"), "{words}");
}

#[test]
fn keys_are_never_shown() {
    let authority = Authority::create("quiet", Validity::days(1)).unwrap();
    let issued = authority.issue(&node(1), Validity::days(1)).unwrap();
    let identity = issued.identity().unwrap();
    let shown = format!("{authority:?} {issued:?} {identity:?} {:?}", issued.key_pem());
    for secret in [authority.key_pem(), issued.key_pem().clone()] {
        let lines = secret.expose().lines().filter(|line| !line.starts_with("-----"));
        for line in lines {
            assert!(!shown.contains(line), "a key is shown in {shown}");
        }
    }
    assert!(!shown.contains("PRIVATE KEY"), "{shown}");
}

#[tokio::test]
async fn a_node_needs_its_own_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let authority = Authority::create("own", Validity::days(1)).unwrap();
    authority.save(&path("ca.pem"), &path("ca.key")).unwrap();
    authority
        .issue(&node(1), Validity::days(1))
        .unwrap()
        .save(&path("1.pem"), &path("1.key"))
        .unwrap();
    let mut config = QuicConfig::listening("127.0.0.1:0".parse().unwrap());
    config.authority_file = path("ca.pem");
    config.certificate_file = path("1.pem");
    config.key_file = path("1.key");
    let error = QuicTransport::open(NodeId::new(2), 1, config.clone()).unwrap_err();
    assert!(matches!(error, QuicError::AnotherNode { .. }), "{error}");
    let transport = QuicTransport::open(NodeId::new(1), 1, config).unwrap();
    transport.reload().unwrap();
    transport.close().await;

    let client = Subject::client(ClusterId::new([3; 16]), "ops").unwrap();
    let client = authority.issue(&client, Validity::days(1)).unwrap().identity().unwrap();
    let config = QuicConfig::listening("127.0.0.1:0".parse().unwrap());
    let error = QuicTransport::bind(client, 1, config).unwrap_err();
    assert!(error.to_string().contains("a node needs one of a node"), "{error}");
}

#[tokio::test]
async fn a_foreign_authority_is_explained_at_both_ends() {
    let cluster = Cluster::new(limits());
    let foreign = Authority::create("foreign", Validity::days(1)).unwrap();
    let issued =
        foreign.issue(&Subject::node(cluster.id, NodeId::new(2)), Validity::days(1)).unwrap();
    // The foreigner trusts this cluster, so that each end has something to judge.
    let both = format!("{}{}", foreign.certificate_pem(), cluster.authority.certificate_pem());
    let foreigner = Identity::from_pem(&both, issued.certificate_pem(), issued.key_pem()).unwrap();
    let mut config = QuicConfig::listening("127.0.0.1:0".parse().unwrap());
    config.limits = limits();
    let one = cluster.node(1, 1);
    let two = QuicTransport::bind(foreigner, 1, config).unwrap();
    one.add_peer(NodeId::new(2), two.listens_on().to_string());
    two.add_peer(NodeId::new(1), one.listens_on().to_string());
    let _receivers = (Receiver::at(&one), Receiver::at(&two));
    let words = "n2's certificate is signed by another CA: its issuer is CN=quorate authority foreign, expected \
                 CN=quorate authority test";
    explained(&one, 2, words).await;
    refused(&one, words).await;
    explained(&two, 1, "refused this node's certificate").await;
    explained(&two, 1, words).await;
    one.close().await;
    two.close().await;
}

#[tokio::test]
async fn certificates_are_renewed_without_a_restart() {
    let cluster = Cluster::new(limits());
    let nodes = cluster.nodes(2);
    let _receivers: Vec<_> = nodes.iter().map(|node| Receiver::at(node)).collect();
    connected(&nodes[0], &nodes[1]).await;
    let before = nodes[0].status().expiry;

    // A new authority beside the old one, then certificates of the new one, then the new one alone.
    let new = Authority::create("new", Validity::days(5)).unwrap();
    let both = format!("{}{}", cluster.authority.certificate_pem(), new.certificate_pem());
    let connections = |node: &QuicTransport| node.status().peers[0].connections;
    let reload = |node: &Arc<QuicTransport>, signer: &Authority, trusted: &str| {
        let subject = Subject::node(cluster.id, node.local_id());
        let issued = signer.issue(&subject, Validity::days(3)).unwrap();
        let identity = Identity::from_pem(trusted, issued.certificate_pem(), issued.key_pem());
        node.reload_identity(identity.unwrap()).unwrap();
    };
    for (signer, trusted) in
        [(&cluster.authority, &*both), (&new, &*both), (&new, new.certificate_pem())]
    {
        let made = connections(&nodes[0]);
        for node in &nodes {
            reload(node, signer, trusted);
        }
        assert_eq!(connections(&nodes[0]), made, "a connection that there is stays");
        // A connection that is made from now on uses what was loaded.
        nodes[0].remove_peer(NodeId::new(2));
        nodes[0].add_peer(NodeId::new(2), nodes[1].listens_on().to_string());
        until("the nodes connect anew", || connections(&nodes[1]) > made).await;
        connected(&nodes[0], &nodes[1]).await;
    }
    assert!(nodes[0].status().expiry.certificate > before.certificate, "the status shows it");

    // Who has not followed is refused, and told.
    reload(&nodes[1], &cluster.authority, &both);
    nodes[0].remove_peer(NodeId::new(2));
    nodes[0].add_peer(NodeId::new(2), nodes[1].listens_on().to_string());
    explained(&nodes[0], 2, "expected CN=quorate authority new").await;
    let stranger = Cluster::new(limits()).identity(1);
    let error = nodes[0].reload_identity(stranger).unwrap_err();
    assert!(matches!(error, QuicError::AnotherNode { .. }), "{error}");
    for node in &nodes {
        node.close().await;
    }
}

#[tokio::test]
async fn a_connection_ends_when_the_certificate_it_began_with_expires() {
    let cluster = Cluster::new(limits());
    let subject = Subject::node(cluster.id, NodeId::new(1));
    // Certificates count whole seconds.
    let issued = cluster.authority.issue(&subject, seconds(-10, 3)).unwrap();
    let config = |limits| {
        let mut config = QuicConfig::listening("127.0.0.1:0".parse().unwrap());
        config.limits = limits;
        config
    };
    let one = QuicTransport::bind(issued.identity().unwrap(), 1, config(limits())).unwrap();
    let two = cluster.node(2, 1);
    one.add_peer(NodeId::new(2), two.listens_on().to_string());
    two.add_peer(NodeId::new(1), one.listens_on().to_string());
    let _receivers = (Receiver::at(&one), Receiver::at(&two));
    connected(&one, &two).await;
    assert!(one.status().expiry.left(SystemTime::now()) <= Duration::from_secs(3));
    explained(&two, 1, "expired").await;
    assert_ne!(cluster::receiver::state(&one, 2), Some(PeerState::Connected));
    one.reload_identity(cluster.identity(1)).unwrap();
    connected(&one, &two).await;
    one.close().await;
    two.close().await;
}
