//! Clusters of the quorum driver as processes: what they decide under kills, and who can verify it afterwards.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use common::process::{Cluster, PATIENCE, Process, free_addresses};
use common::writer::{Observer, Writer, connect, runtime};
use common::{Ended, Place, budget};
use quorate::certificate::{Certificate, FaultModel, Genesis, Scheme, SigningKey, audit_history};
use quorate::{Role, ShardKey};
use rustix::process::Signal;

const NODES: usize = 4;

/// Writes that are answered between two kills.
const WRITES: usize = 30;

/// A generator that needs no more than to be different each time: the seed is printed.
struct Random(u64);

impl Random {
    fn new() -> Self {
        let seed = std::env::var("QUORATE_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or_else(|| u64::from(std::process::id()));
        println!("QUORATE_SEED={seed}");
        Self(seed | 1)
    }

    fn below(&mut self, bound: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }
}

fn genesis(place: &Place) -> Genesis {
    let text = fs::read_to_string(place.path("cluster/genesis.toml")).unwrap();
    toml::from_str(&text).unwrap()
}

fn audit(cluster: &Cluster, arguments: &[&str]) -> Ended {
    cluster.place.run_bare(&[&["audit", "-o", "json"], arguments].concat())
}

fn audit_node(cluster: &Cluster, node: u64, more: &[&str]) -> Ended {
    let config = cluster.node_toml(node);
    audit(cluster, &[&["--config", config.to_str().unwrap()], more].concat())
}

#[test]
fn nothing_is_lost_or_twice_under_kills_and_what_was_decided_can_be_verified() {
    let cluster = Cluster::new(NODES, "quorum");
    let mut random = Random::new();
    let mut nodes: Vec<Option<Process>> = cluster.serve_all().into_iter().map(Some).collect();
    let observer = Observer::new(&cluster.client_toml());
    let writer = Writer::start(&cluster.client_toml(), "kills");
    for _ in 0..budget(6, 50) {
        let victim = random.below(NODES);
        nodes[victim].take().expect("it is started again below").kill();
        // Three of four decide without it.
        writer.wait_for(WRITES);
        let mut again = cluster.serve(victim as u64 + 1);
        again.wait_for("is ready");
        nodes[victim] = Some(again);
        writer.wait_for(WRITES);
    }
    let writes = writer.finish(std::slice::from_ref(&observer));
    observer.same_history(NODES);
    println!("{writes} writes");
    cluster.close(nodes.into_iter().flatten().collect());

    agree(&cluster);
    mutations(&cluster);
}

#[test]
fn what_was_decided_can_be_verified_and_nothing_else() {
    let cluster = Cluster::new(NODES, "quorum");
    let nodes = cluster.serve_all();
    for number in 0..5 {
        cluster.ok(&["kv", "put", "app/ns", &number.to_string(), "value"]);
    }
    cluster.close(nodes);

    agree(&cluster);
    mutations(&cluster);
    proofs(&cluster);
}

/// Clients of a cluster with validators have its genesis, and return what is proved by that.
#[test]
fn a_client_returns_what_is_proved_by_its_genesis_and_nothing_else() {
    let cluster = Cluster::new(NODES, "quorum");
    let nodes = cluster.serve_all();
    let proof = runtime().block_on(async {
        let client = connect(&cluster.client_toml()).await;
        let shard = ShardKey::new("app", "ns").unwrap();
        let session = client.session().unwrap();
        let commit = session.propose(&shard, "not an operation", PATIENCE).await.unwrap();
        client.close().await;
        commit.proof.expect("the configuration names a genesis")
    });
    cluster.place.write("frame.proof", &proof);
    let shown = audit(&cluster, &["frame.proof", "--genesis", "cluster/genesis.toml"]);
    assert_eq!((shown.code, &*shown.err), (0, ""));
    assert_eq!(shown.json()["shard"], "app/ns");

    // The same nodes with other keys: nothing that these validators sign is believed.
    let other = Cluster::new(NODES, "quorum");
    let cluster_of =
        |text: &str| text.lines().find(|it| it.starts_with("cluster")).unwrap().to_owned();
    let [ours, theirs] = [&cluster, &other]
        .map(|of| fs::read_to_string(of.place.path("cluster/genesis.toml")).unwrap());
    let strangers = theirs.replace(&cluster_of(&theirs), &cluster_of(&ours));
    cluster.place.write("cluster/client/genesis.toml", strangers);
    let put = cluster.run(&["kv", "put", "app/ns", "key", "value"]);
    assert_ne!(put.code, 0, "{}", put.out);
    assert!(put.err.contains("is not believed"), "{}", put.err);
    cluster.place.write("cluster/client/genesis.toml", theirs);
    let put = cluster.run(&["kv", "put", "app/ns", "key", "value"]);
    assert!(put.code == 2 && put.err.contains("it is of another cluster"), "{}", put.err);
    cluster.close(nodes);
}

/// What clients propose is signed where the genesis wants that, and taken of nobody else.
#[test]
fn clients_of_a_cluster_with_signed_frames_sign_by_their_genesis() {
    let cluster = Cluster::with(NODES, "quorum", &["--signed-frames"]);
    assert!(genesis(&cluster.place).signed_frames());
    let nodes = cluster.serve_all();
    cluster.ok(&["kv", "put", "app/ns", "key", "value"]);
    assert_eq!(cluster.ok(&["kv", "get", "app/ns", "key"]).out, "value\n");
    let lines: String = (0..3000)
        .map(|it| {
            let line = r#"{"org":"app","ns":"nsN","op":"put","key":"kK","text":"v"}"#;
            line.replace('N', &(it % 3).to_string()).replace('K', &it.to_string()) + "\n"
        })
        .collect();
    cluster.place.write("lines", lines);
    for _ in 0..2 {
        let imported = cluster.ok(&["import", "lines", "-o", "json"]).json();
        assert_eq!((&imported["accepted"], &imported["rejected"]), (&3000.into(), &0.into()));
    }
    // Without the genesis it knows neither whom to believe nor that it has to sign.
    let file = cluster.client_toml();
    let text = fs::read_to_string(&file).unwrap();
    let without: String = text
        .lines()
        .filter(|it| !it.starts_with("genesis_file"))
        .fold(String::new(), |text, line| text + line + "\n");
    assert_ne!(text, without);
    fs::write(&file, without).unwrap();
    let put = cluster.run(&["kv", "put", "app/ns", "key", "other"]);
    assert_ne!(put.code, 0, "{}", put.out);
    assert!(put.err.contains("not signed") && put.err.contains("genesis_file"), "{}", put.err);
    cluster.close(nodes);
    agree(&cluster);
}

/// Every node has decided the same, whatever certificates it has of it.
fn agree(cluster: &Cluster) {
    let mut tips = Vec::new();
    for node in 1..=NODES as u64 {
        let ended = audit_node(cluster, node, &[]);
        assert_eq!(ended.code, 0, "n{node}: {}", ended.err);
        let found = ended.json();
        let tip = format!("{}:{}", found["height"], found["id"].as_str().unwrap());
        tips.push((found["height"].as_u64().unwrap(), tip));
    }
    tips.sort_unstable();
    let (height, least) = &tips[0];
    assert!(*height > 0);
    for node in 1..=NODES as u64 {
        let ended = audit_node(cluster, node, &["--tip", least]);
        assert_eq!(ended.code, 0, "n{node}: {}", ended.err);
    }
}

/// Exports the history of a node, and changes it in each way that an auditor has to see.
fn mutations(cluster: &Cluster) {
    let place = &cluster.place;
    let file = place.path("n1.history");
    let ended = audit_node(cluster, 1, &["--export", file.to_str().unwrap()]);
    assert_eq!(ended.code, 0, "{}", ended.err);
    let tip = format!("{}:{}", ended.json()["height"], ended.json()["id"].as_str().unwrap());
    let bytes = fs::read(&file).unwrap();
    let refused = |what: &str, bytes: &[u8], more: &[&str]| {
        let changed = place.write("changed.history", bytes);
        let arguments = [changed.to_str().unwrap(), "--genesis", "cluster/genesis.toml"];
        let ended = audit(cluster, &[&arguments[..], more].concat());
        assert_eq!(ended.code, 1, "{what}: {}{}", ended.out, ended.err);
        assert!(ended.err.contains("changed.history: "), "{what}: {}", ended.err);
        ended.err
    };
    let good = audit(cluster, &["n1.history", "--genesis", "cluster/genesis.toml", "--tip", &tip]);
    assert_eq!(good.code, 0, "{}", good.err);

    // In the process of the test: a bit in each of many bytes, spread over all of it.
    let genesis = genesis(place);
    let step = (bytes.len() / 200).max(1);
    for at in (0..bytes.len()).step_by(step) {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << (at % 8);
        assert!(audit_history(&flipped[..], Some(&genesis), None).is_err(), "byte {at}");
    }
    let mut flipped = bytes.clone();
    flipped[bytes.len() / 2] ^= 1;
    refused("a flipped bit", &flipped, &[]);
    refused("a cut", &bytes[..bytes.len() - 10], &[]);

    let mut history = History::read(&bytes);
    let first = history.records[1].clone();
    let certificate = Certificate::decode(certificate_of(&first)).unwrap();
    let signed = |signatures: Vec<_>| {
        let (height, round, value) =
            (certificate.height(), certificate.round(), *certificate.value());
        Certificate::new(height, round, value, signatures).unwrap().encode()
    };
    let mut swapped = certificate.signatures().to_vec();
    let taken = swapped[0].1.clone();
    swapped[0].1 = std::mem::replace(&mut swapped[1].1, taken);
    history.records[1] = with_certificate(&first, &signed(swapped));
    let said = refused("a swapped signer", &history.write(), &[]);
    assert!(said.contains("height 1: the signature of node"), "{said}");

    let few = certificate.signatures()[..2].to_vec();
    history.records[1] = with_certificate(&first, &signed(few));
    let said = refused("one signature fewer than the quorum", &history.write(), &[]);
    assert!(said.contains("no quorum"), "{said}");

    // The bytes of a certificate in which a node signs twice cannot be made in another way.
    let mut doubled = certificate.encode();
    let (begin, length) = (1 + 8 + 4 + 32 + 2, 8 + 2 + 64);
    let (earlier, later) = doubled.split_at_mut(begin + length);
    later[..length].copy_from_slice(&earlier[begin..]);
    history.records[1] = with_certificate(&first, &doubled);
    let said = refused("a duplicated signer", &history.write(), &[]);
    assert!(said.contains("signed it twice"), "{said}");

    history.records[1] = first;
    history.records.swap(2, 3);
    let said = refused("a reordered batch", &history.write(), &[]);
    assert!(said.contains("height 3 comes where 2 should"), "{said}");
    history.records.remove(3);
    let said = refused("a batch that was cut out", &history.write(), &[]);
    assert!(said.contains("height 3 comes where 2 should"), "{said}");

    let other = Cluster::new(NODES, "quorum");
    let theirs = other.place.path("cluster/genesis.toml");
    let ended = audit(cluster, &["n1.history", "--genesis", theirs.to_str().unwrap()]);
    assert_eq!(ended.code, 1, "{}", ended.err);
    assert!(ended.err.contains("of the cluster whose genesis"), "{}", ended.err);
}

/// Proves a single write of a node to somebody who has nothing but the genesis.
fn proofs(cluster: &Cluster) {
    let place = &cluster.place;
    let config = cluster.node_toml(2);
    let config = config.to_str().unwrap();
    let get = |shard: &str, key: &str, file: &str| {
        place
            .run_bare(&["kv", "get", shard, key, "--proof", file, "--config", config, "-o", "json"])
    };
    let ended = get("app/ns", "3", "key.proof");
    assert_eq!(ended.code, 0, "{}", ended.err);
    let shown = audit(cluster, &["key.proof", "--genesis", "cluster/genesis.toml"]);
    assert_eq!((shown.code, &*shown.err), (0, ""));
    assert_eq!(shown.out, ended.out);
    let shown = shown.json();
    assert_eq!(
        (shown["shard"].as_str(), shown["op"]["op"].as_str()),
        (Some("app/ns"), Some("put"))
    );
    // The key and the value in base64.
    assert_eq!(shown["op"]["key"], "Mw==");
    assert_eq!(shown["op"]["val"], "dmFsdWU=");

    // The file is small, and nothing in it can be changed.
    let bytes = fs::read(place.path("key.proof")).unwrap();
    assert!(bytes.len() < 2000, "{} bytes", bytes.len());
    for at in (0..bytes.len()).step_by(bytes.len() / 20) {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1;
        place.write("changed.proof", flipped);
        let ended = audit(cluster, &["changed.proof", "--genesis", "cluster/genesis.toml"]);
        assert_eq!(ended.code, 1, "byte {at}: {}{}", ended.out, ended.err);
    }
    let ended = get("app/ns", "nothing", "other.proof");
    assert!(ended.code == 1 && ended.err.contains("no decided write"), "{}", ended.err);
    let ended = get("app/ns", "3", "key.proof");
    assert!(ended.code == 2 && ended.err.contains("name a new file with --proof"), "{}", ended.err);
    let ended = cluster.run(&["kv", "get", "app/ns", "3", "--proof", "other.proof"]);
    assert!(
        ended.code == 2 && ended.err.contains("--config in place of --connect"),
        "{}",
        ended.err
    );
}

/// A history, cut into its records: kind and bytes.
struct History {
    magic: Vec<u8>,
    records: Vec<(u8, Vec<u8>)>,
}

impl History {
    fn read(bytes: &[u8]) -> Self {
        let (magic, mut rest) = bytes.split_at(16);
        let mut records = Vec::new();
        while let [kind, a, b, c, d, more @ ..] = rest {
            let length = u32::from_le_bytes([*a, *b, *c, *d]) as usize;
            records.push((*kind, more[..length].to_vec()));
            rest = &more[length..];
        }
        Self { magic: magic.to_vec(), records }
    }

    fn write(&self) -> Vec<u8> {
        let records = self.records.iter().flat_map(|(kind, record)| {
            [&[*kind][..], &(record.len() as u32).to_le_bytes(), record].concat()
        });
        self.magic.iter().copied().chain(records).collect()
    }
}

const HEADER: usize = 186;

fn certificate_of((_, record): &(u8, Vec<u8>)) -> &[u8] {
    let length = u32::from_le_bytes(record[HEADER..HEADER + 4].try_into().unwrap()) as usize;
    &record[HEADER + 4..HEADER + 4 + length]
}

fn with_certificate(record: &(u8, Vec<u8>), certificate: &[u8]) -> (u8, Vec<u8>) {
    let (kind, bytes) = record;
    let body = &bytes[HEADER + 4 + certificate_of(record).len()..];
    let length = (certificate.len() as u32).to_le_bytes();
    (*kind, [&bytes[..HEADER], &length, certificate, body].concat())
}

#[test]
fn a_cluster_is_made_with_a_genesis_and_a_key_for_each_node() {
    let place = Place::new();
    let init = |out: &str, more: &[&str]| {
        let nodes = "n1=a:1,n2=b:1,n3=c:1,n4=d:1";
        let arguments = ["init-cluster", "--driver", "quorum", "--nodes", nodes, "--out", out];
        place.run_bare(&[&arguments[..], more].concat())
    };
    let made = init("cluster", &[]);
    assert_eq!(made.code, 0, "{}", made.err);
    assert_eq!(made.err, "");
    let first = genesis(&place);
    assert_eq!(first.fault_model(), FaultModel::Byzantine);
    assert_eq!(first.validators().scheme(), Scheme::Ed25519);
    for node in 1..=4 {
        let at = |file: &str| place.path(&format!("cluster/n{node}/{file}"));
        let key = at("validator.key");
        assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
        let key = SigningKey::from_text(&fs::read_to_string(key).unwrap()).unwrap();
        assert_eq!(first.validators().get(node).unwrap().key, *key.public());
        let copy = fs::read(at("genesis.toml")).unwrap();
        assert_eq!(copy, fs::read(place.path("cluster/genesis.toml")).unwrap());
        let check = check(&place, &at("node.toml"));
        assert_eq!((check.code, &*check.err), (0, ""));
    }
    let made = init("other", &["--fault-model", "crash", "--scheme", "hybrid"]);
    assert_eq!(made.code, 0, "{}", made.err);
    assert!(made.out.contains("fault model crash, scheme hybrid"), "{}", made.out);
    let text = fs::read_to_string(place.path("other/genesis.toml")).unwrap();
    let other: Genesis = toml::from_str(&text).unwrap();
    assert_eq!(other.fault_model(), FaultModel::Crash);
    assert_eq!(other.validators().scheme(), Scheme::Hybrid);
}

fn check(place: &Place, config: &Path) -> Ended {
    place.run_bare(&["config", "check", "--config", config.to_str().unwrap()])
}

#[test]
fn so_few_byzantine_validators_that_none_may_fail_are_told() {
    let place = Place::new();
    for (nodes, model, words) in [
        ("n1=a:1", "byzantine", Some("1 validator of fault model byzantine cannot do without any")),
        ("n1=a:1,n2=b:1,n3=c:1", "byzantine", Some("4 are the fewest that can")),
        ("n1=a:1,n2=b:1,n3=c:1", "crash", None),
        ("n1=a:1,n2=b:1,n3=c:1,n4=d:1", "byzantine", None),
    ] {
        let out = format!("{}-{model}", nodes.len());
        let made = place.run_bare(&[
            "init-cluster",
            "--driver",
            "quorum",
            "--nodes",
            nodes,
            "--out",
            &out,
            "--fault-model",
            model,
        ]);
        let check = check(&place, &place.path(&format!("{out}/n1/node.toml")));
        for ended in [made, check] {
            assert_eq!(ended.code, 0, "{}", ended.err);
            match words {
                Some(words) => {
                    let warned = ended.err.starts_with("warning: ") && ended.err.contains(words);
                    assert!(warned, "{}", ended.err);
                }
                None => assert_eq!(ended.err, ""),
            }
        }
    }
}

#[test]
fn mistakes_with_validators_are_told_with_the_way_out() {
    let cluster = Cluster::new(NODES, "quorum");
    let other = Cluster::new(1, "quorum");
    let place = &cluster.place;
    let at = |file: &str| place.path(&format!("cluster/{file}"));
    let told = |what: &str, ended: &Ended, code: i32, words: [&str; 2]| {
        let all = words.iter().all(|words| ended.err.contains(words));
        let one = ended.err.lines().filter(|line| line.starts_with("quorate: ")).count() == 1;
        assert!(ended.code == code && all && one, "{what}: {} {}", ended.code, ended.err);
    };
    let serve = |node: u64| {
        let (code, err) = Process::spawn(cluster.serve_command(node)).end();
        Ended { code, out: String::new(), err: err + "\n" }
    };
    let toml = at("n1/node.toml");

    let key = at("n1/validator.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
    let words = ["may be read or written by others (mode 640)", "chmod 600"];
    told("a key that others may read", &serve(1), 4, words);
    told("the same, checked", &check(place, &toml), 2, words);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();

    let own = fs::read(&key).unwrap();
    fs::copy(at("n2/validator.key"), &key).unwrap();
    told(
        "the key of another node",
        &serve(1),
        4,
        ["has the key of node 2", "each node has its own"],
    );
    fs::copy(other.place.path("cluster/n1/validator.key"), &key).unwrap();
    let words = ["a key that the genesis does not know", "use the files that were made together"];
    told("a key of another cluster", &serve(1), 4, words);
    fs::copy(at("n1/node.key"), &key).unwrap();
    let words = ["not a signing key", "that of a TLS key is another one"];
    told("a TLS key", &check(place, &toml), 2, words);
    fs::remove_file(&key).unwrap();
    let words = ["cannot be read", "`quorate init-cluster --driver quorum` makes it"];
    told("no key", &check(place, &toml), 2, words);
    fs::write(&key, &own).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();

    let text = fs::read_to_string(at("n1/genesis.toml")).unwrap();
    place.write("cluster/n1/genesis.toml", text.replace("\"byzantine\"", "\"bizarre\""));
    told(
        "a genesis with a mistake",
        &check(place, &toml),
        2,
        ["bizarre", "expected `byzantine` or `crash`"],
    );
    place.write("cluster/n1/genesis.toml", &text);

    let run = |arguments: &[&str]| place.run_bare(arguments);
    told(
        "validators of driver raft",
        &run(&["init-cluster", "--nodes", "n1=a:1", "--out", "c", "--scheme", "hybrid"]),
        2,
        ["--signed-frames are about validators", "--driver quorum"],
    );
    let config = toml.to_str().unwrap();
    told(
        "an audit of nothing",
        &run(&["audit", "nothing", "--genesis", "cluster/genesis.toml"]),
        2,
        ["nothing: ", "name a data directory, or a history"],
    );
    fs::create_dir(place.path("empty")).unwrap();
    told(
        "an audit of an empty directory",
        &run(&["audit", "empty", "--genesis", "cluster/genesis.toml"]),
        3,
        ["empty", "not set up"],
    );
    told(
        "an audit without a genesis",
        &run(&["audit", "empty"]),
        2,
        ["verified against a genesis", "name its file with --genesis"],
    );
    told(
        "an audit of a file that is no history",
        &run(&["audit", config, "--genesis", "cluster/genesis.toml"]),
        1,
        ["does not begin as one", "`quorate audit --export`"],
    );
    let ended = run(&["audit", "--config", config, "--tip", "7:abc"]);
    assert!(ended.code == 2 && ended.err.contains("write HEIGHT:HASH"), "{}", ended.err);
}

/// Approves a change at these nodes, and waits until it is in force.
#[track_caller]
fn approve(cluster: &Cluster, nodes: &[u64], arguments: &[&str]) {
    let client = cluster.client_of(nodes);
    let ended = Ended::of(cluster.command_of(&client, arguments));
    assert_eq!(ended.code, 0, "{arguments:?}: {}{}", ended.out, ended.err);
}

#[test]
fn validators_come_go_and_change_keys_while_a_cluster_runs() {
    let mut cluster = Cluster::new(NODES, "quorum");
    let mut nodes: Vec<Option<Process>> = cluster.serve_all().into_iter().map(Some).collect();
    let writer = Writer::start(&cluster.client_toml(), "members");
    writer.wait_for(WRITES);

    // A fifth, which follows before it is a validator.
    let address = free_addresses(1).remove(0);
    let at = format!("n5={address}");
    let made = cluster.place.run_bare(&["init-node", &at, "--authority", "cluster"]);
    assert_eq!(made.code, 0, "{}", made.err);
    assert!(made.out.contains("member approve n5/join.change"), "{}", made.out);
    let client = fs::read_to_string(cluster.client_toml()).unwrap();
    fs::write(cluster.client_toml(), format!("{client}5 = \"{address}\"\n")).unwrap();
    cluster.addresses.push(address);
    nodes.push(Some(cluster.serve(5)));
    let join = cluster.place.path("cluster/n5/join.change");
    let join = join.to_str().unwrap();
    let shown = cluster.place.run_bare(&["validator", "show", join]);
    assert_eq!(shown.out, format!("add n5 with power 1 at {}\n", cluster.addresses[4]));
    // Two operators are none too few to ask, and too few to have it.
    let few = cluster.client_of(&[1, 2]);
    let ended = Ended::of(cluster.command_of(&few, &["member", "approve", join, "--within", "1s"]));
    assert!(ended.code == 4 && ended.err.contains("is not in force"), "{}{}", ended.out, ended.err);
    approve(&cluster, &[1, 2, 3], &["member", "approve", join]);
    writer.wait_for(WRITES);
    // Without one of five all others are needed.
    nodes[3].take().expect("it runs").kill();
    writer.wait_for(WRITES);
    let mut again = cluster.serve(4);
    again.wait_for("is ready");
    nodes[3] = Some(again);

    approve(&cluster, &[2, 3, 4, 5], &["member", "remove", "n1"]);
    nodes[0].take().expect("it runs").kill();
    writer.wait_for(WRITES);

    // Another key for the second, which knows both after a restart.
    let config = cluster.node_toml(2);
    let change = cluster.place.path("n2.change");
    let change = change.to_str().unwrap();
    let made = ["validator", "new-key", "--config", config.to_str().unwrap(), "--out", change];
    let ended = cluster.place.run_bare(&made);
    assert_eq!(ended.code, 0, "{}", ended.err);
    let ended = cluster.place.run_bare(&made);
    assert!(ended.code == 2 && ended.err.contains("is there already"), "{}", ended.err);
    nodes[1].take().expect("it runs").kill();
    let mut again = cluster.serve(2);
    again.wait_for("is ready");
    nodes[1] = Some(again);
    approve(&cluster, &[2, 3, 4, 5], &["member", "approve", change]);
    // It signs with the new one: three of four are needed.
    nodes[2].take().expect("it runs").kill();
    writer.wait_for(WRITES);
    let mut again = cluster.serve(3);
    again.wait_for("is ready");
    nodes[2] = Some(again);
    // The one before is needed no more. The log is trimmed meanwhile, and the changes are kept.
    nodes[1].take().expect("it runs").kill();
    let at = |file: &str| cluster.place.path(&format!("cluster/n2/{file}"));
    fs::rename(at("next.key"), at("validator.key")).unwrap();
    // What was there before a start is trimmed if a checkpoint had it by then.
    for trimmed in [false, true] {
        let mut trims = cluster.serve_command(2);
        trims.env("QUORATE_CHECKPOINT_INTERVAL", "500ms").env("QUORATE_RETAIN_BYTES", "0");
        let mut again = Process::spawn(trims);
        again.wait_for("is ready");
        Observer::new(&cluster.client_of(&[2])).wait_for("trimmed", |statuses| {
            let [status] = statuses else { return None };
            let group = status.groups.first()?;
            let is_enough = if trimmed { group.log_first > 1 } else { group.checkpoint > 0 };
            is_enough.then_some(())
        });
        if !trimmed {
            again.kill();
        }
        nodes[1] = Some(again);
    }

    let observer = Observer::new(&cluster.client_of(&[2, 3, 4, 5]));
    writer.finish(std::slice::from_ref(&observer));
    observer.same_history(NODES);
    drop(nodes.remove(0));
    for node in nodes.into_iter().flatten() {
        node.signal(Signal::TERM);
        let (code, said) = node.end();
        assert_eq!(code, 0, "{said}");
    }
    for node in [2, 3, 4, 5] {
        let ended = audit_node(&cluster, node, &[]);
        assert_eq!(ended.code, 0, "n{node}: {}", ended.err);
        let found = ended.json();
        assert_eq!(found["epoch"], 3, "n{node}");
        if node == 2 {
            assert!(found["first"].as_u64().unwrap() > 1, "{found}");
            let file = cluster.place.path("n2.history");
            let ended = audit_node(&cluster, 2, &["--export", file.to_str().unwrap()]);
            assert_eq!(ended.code, 0, "{}", ended.err);
            let genesis = ["n2.history", "--genesis", "cluster/genesis.toml"];
            let ended = audit(&cluster, &genesis);
            assert_eq!((ended.code, ended.json()["epoch"].as_u64()), (0, Some(3)), "{}", ended.err);
            continue;
        }
        let changes = found["changes"].as_array().unwrap();
        let of = |change: &serde_json::Value| change["change"].as_str().unwrap().to_owned();
        let words = ["add n5 with power 1", "remove n1", "give n2 another ed25519 key"];
        for (change, words) in changes.iter().zip(words) {
            assert!(of(change).starts_with(words), "n{node}: {change}");
            let approved = change["approved_by"].as_array().unwrap();
            assert!(approved.len() >= 3, "n{node}: {change}");
        }
        assert_eq!(changes.len(), 3);
    }
}

#[test]
fn one_node_with_data_grows_to_four_validators() {
    let place = Place::new();
    let put = place.run(&["kv", "put", "acme/cfg", "colour", "green"]);
    assert_eq!(put.out, "1\n", "{}", put.err);
    let addresses = free_addresses(NODES);
    let named = addresses.iter().zip(1..).map(|(address, node)| format!("n{node}={address}"));
    let named = named.collect::<Vec<_>>().join(",");
    let made = ["--driver", "quorum", "init-cluster", "--from", "data", "--nodes", &named];
    let made = place.run_bare(&[&made[..], &["--out", "cluster"]].concat());
    assert_eq!(made.code, 0, "{}", made.err);
    assert!(made.out.contains("member approve cluster/n4/join.change"), "{}", made.out);
    let switch = ["driver", "switch", "--to", "quorum", "-o", "json", "--config"];
    let switched = place.run_bare(&[&switch[..], &["cluster/n1/node.toml"]].concat());
    assert_eq!(switched.code, 0, "{}", switched.err);
    let left = switched.json()["groups"][0].clone();

    let cluster = Cluster { place, addresses };
    let mut nodes = vec![cluster.serve(1)];
    nodes[0].wait_for("is ready");
    for node in 2..=NODES as u64 {
        nodes.push(cluster.serve(node));
        let join = cluster.place.path(&format!("cluster/n{node}/join.change"));
        let known: Vec<_> = (1..node).collect();
        approve(&cluster, &known, &["member", "approve", join.to_str().unwrap()]);
        // Its operator is asked for the next one.
        Observer::new(&cluster.client_of(&[node])).wait_for("it votes", |statuses| {
            let group = statuses.first()?.groups.first()?;
            (group.role == Role::Validator && group.reason.is_none()).then_some(())
        });
    }
    // What began it all is not needed any more.
    nodes.remove(0).kill();
    let others = cluster.client_of(&[2, 3, 4]);
    let kv = |arguments: &[&str]| {
        let ended = Ended::of(cluster.command_of(&others, &[&["kv"], arguments].concat()));
        assert_eq!(ended.code, 0, "{arguments:?}: {}", ended.err);
        ended.out
    };
    assert_eq!(kv(&["get", "acme/cfg", "colour"]), "green\n");
    assert_eq!(kv(&["put", "acme/cfg", "colour", "blue"]), "2\n");
    let observer = Observer::new(&others);
    observer.same_history(NODES - 1);
    drop(observer);
    for node in nodes {
        node.signal(Signal::TERM);
        let (code, said) = node.end();
        assert_eq!(code, 0, "{said}");
    }
    let audited = audit_node(&cluster, 1, &[]);
    assert_eq!(audited.code, 0, "{}", audited.err);
    let found = audited.json();
    assert_eq!((&found["inherited"], &found["epoch"]), (&left["history"], &3.into()), "{found}");
    assert_eq!(found["first"].as_u64(), left["index"].as_u64().map(|index| index + 1));
    let audited = audit_node(&cluster, 4, &[]);
    assert_eq!((audited.code, &audited.json()["epoch"]), (0, &3.into()), "{}", audited.err);
}
