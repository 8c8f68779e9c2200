//! What people get wrong, each once: the message is one, names the cause, and says what to do.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use common::process::{Cluster, PATIENCE, Process, free_addresses};
use common::{Ended, Place};
use quorate::certificates::{Authority, CertificateInfo, Subject, Validity};
use quorate::{ClusterId, NodeId};

/// What came of mistakes. All are looked at before the test fails.
#[derive(Default)]
struct Mistakes {
    made: usize,
    poor: Vec<String>,
}

impl Mistakes {
    /// A command that ended with this code, and a message with the cause and the way out.
    fn ended(&mut self, what: &str, ended: &Ended, code: i32, cause: &str, way_out: &str) {
        let is_message = |line: &&str| line.starts_with("quorate: ") || line.starts_with("error: ");
        let messages = ended.err.lines().filter(is_message).count();
        let is_one = messages == 1 && is_message(&&*ended.err) && !ended.err.contains(" WARN ");
        let how = format!("code {}, {messages} messages", ended.code);
        self.judge(what, &ended.err, is_one && ended.code == code, &how, [cause, way_out]);
    }

    /// A node that goes on and says this line.
    fn said(&mut self, what: &str, line: &str, cause: &str, way_out: &str) {
        self.judge(what, line, true, "", [cause, way_out]);
    }

    fn judge(&mut self, what: &str, said: &str, is_one: bool, how: &str, words: [&str; 2]) {
        self.made += 1;
        if !is_one || words.iter().any(|words| !said.contains(words)) {
            self.poor.push(format!("{what} ({how}; {words:?}): {said}"));
        }
    }

    #[track_caller]
    fn finish(self, at_least: usize) {
        assert!(self.poor.is_empty(), "poor messages:\n{}", self.poor.join("\n"));
        assert!(self.made >= at_least, "only {} mistakes", self.made);
    }
}

fn serve(cluster: &Cluster, node: u64) -> Ended {
    let (code, err) = Process::spawn(cluster.serve_command(node)).end();
    Ended { code, out: String::new(), err: err + "\n" }
}

/// Runs something with a file of the cluster changed, and puts the file back.
fn with<T>(
    cluster: &Cluster,
    file: &str,
    change: impl Fn(&Path, String),
    run: impl FnOnce() -> T,
) -> T {
    let path = cluster.place.path(&format!("cluster/{file}"));
    let old = cluster.place.path(&format!("cluster/{file}.kept"));
    fs::copy(&path, &old).unwrap();
    let mode = fs::metadata(&path).unwrap().permissions();
    change(&path, fs::read_to_string(&path).unwrap());
    let done = run();
    fs::rename(&old, &path).unwrap();
    fs::set_permissions(&path, mode).unwrap();
    done
}

/// The same with these words in a text file replaced.
fn replaced<T>(cluster: &Cluster, file: &str, from: &str, to: &str, run: impl FnOnce() -> T) -> T {
    let change = |path: &Path, text: String| {
        assert!(text.contains(from), "{text}");
        fs::write(path, text.replace(from, to)).unwrap();
    };
    with(cluster, file, change, run)
}

/// Gives a node or client another certificate, as of another time or name, for as long as something runs.
fn certified<T>(
    cluster: &Cluster,
    file: &str,
    subject: &Subject,
    validity: Validity,
    run: impl FnOnce() -> T,
) -> T {
    let at = |file: &str| cluster.place.path(&format!("cluster/{file}"));
    let authority = Authority::load(&at("authority.pem"), &at("authority.key")).unwrap();
    let issued = authority.issue(subject, validity).unwrap();
    with(
        cluster,
        &format!("{file}.pem"),
        |path, _| fs::write(path, issued.certificate_pem()).unwrap(),
        || {
            let key = issued.key_pem().expose().to_owned();
            with(cluster, &format!("{file}.key"), |path, _| fs::write(path, &key).unwrap(), run)
        },
    )
}

fn id(cluster: &Cluster) -> ClusterId {
    let file = cluster.place.path("cluster/n1/node.pem");
    CertificateInfo::read(&file).unwrap()[0].subject.as_ref().unwrap().cluster()
}

fn validity(from: i64, to: i64) -> Validity {
    let at = |seconds: i64| {
        let now = SystemTime::now();
        let by = Duration::from_secs(seconds.unsigned_abs());
        if seconds < 0 { now - by } else { now + by }
    };
    let mut validity = Validity::days(1);
    (validity.not_before, validity.not_after) = (at(from), at(to));
    validity
}

#[test]
fn mistakes_in_files_are_told_before_anything_happens() {
    let mut mistakes = Mistakes::default();
    let cluster = Cluster::new(2, "raft");
    let other = Cluster::new(1, "raft");
    let place = &cluster.place;
    let n1 = Subject::node(id(&cluster), NodeId::new(1));
    let ops = Subject::client(id(&cluster), "client").unwrap();

    let init = |arguments: &[&str]| place.run_bare(&[&["init-cluster"], arguments].concat());
    mistakes.ended(
        "init-cluster into a directory that has something in it",
        &init(&["--nodes", "n1=a:1", "--out", "cluster"]),
        2,
        "cluster is not empty",
        "name another directory with --out",
    );
    mistakes.ended(
        "init-cluster with a number twice",
        &init(&["--nodes", "n1=a:1,n1=b:1", "--out", "c"]),
        2,
        "n1 is there twice, at a:1 and at b:1",
        "a number is one node for ever",
    );
    mistakes.ended(
        "init-cluster with an address without port",
        &init(&["--nodes", "n1=a", "--out", "c"]),
        2,
        "\"a\" is no address: it has no port",
        "write HOST:PORT",
    );
    mistakes.ended(
        "serve without a transport",
        &Place::new().run(&["serve"]),
        2,
        "transport.kind is none",
        "`quorate init-cluster` writes",
    );
    let driver = replaced(&cluster, "n1/node.toml", "kind = \"raft\"", "kind = \"paxos\"", || {
        serve(&cluster, 1)
    });
    mistakes.ended(
        "a driver that the program does not have",
        &driver,
        2,
        "unknown driver \"paxos\"",
        "this program has: local, quorum, raft",
    );
    let peer = replaced(
        &cluster,
        "n1/node.toml",
        &format!("2 = \"{}\"", cluster.addresses[1]),
        "2 = \"127.0.0.1\"",
        || serve(&cluster, 1),
    );
    mistakes.ended("a peer without a port", &peer, 2, "127.0.0.1", "host:port");

    let chmod = |path: &Path, _: String| {
        fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap()
    };
    let readable = with(&cluster, "n1/node.key", chmod, || serve(&cluster, 1));
    mistakes.ended(
        "a key that others may read",
        &readable,
        2,
        "node.key: others than its owner may use the key (mode 0644)",
        "chmod 600",
    );
    let missing = with(
        &cluster,
        "n1/node.key",
        |path, _| fs::remove_file(path).unwrap(),
        || serve(&cluster, 1),
    );
    mistakes.ended("a key that is missing", &missing, 2, "node.key: No such file", "certs renew");
    let expired =
        certified(&cluster, "n1/node", &n1, validity(-7200, -3600), || serve(&cluster, 1));
    mistakes.ended(
        "a certificate that has expired",
        &expired,
        2,
        "n1's certificate expired 36",
        "certs renew",
    );
    let early = certified(&cluster, "n1/node", &n1, validity(3600, 7200), || serve(&cluster, 1));
    mistakes.ended(
        "a clock that is an hour behind",
        &early,
        2,
        "n1's certificate is not valid before",
        "compare the clocks",
    );
    let authority = fs::read(other.place.path("cluster/authority.pem")).unwrap();
    let foreign = with(
        &cluster,
        "n1/authority.pem",
        |path, _| fs::write(path, &authority).unwrap(),
        || serve(&cluster, 1),
    );
    mistakes.ended(
        "the authority of another cluster",
        &foreign,
        2,
        "n1's certificate is signed by another CA",
        "issue it from this cluster's authority",
    );
    let client = certified(&cluster, "n1/node", &ops, Validity::days(1), || serve(&cluster, 1));
    mistakes.ended(
        "a client's certificate for a node",
        &client,
        2,
        "is of quorate://",
        "give each node its own",
    );
    let two = certified(
        &cluster,
        "n1/node",
        &Subject::node(id(&cluster), NodeId::new(2)),
        Validity::days(1),
        || serve(&cluster, 1),
    );
    mistakes.ended(
        "the certificate of another node",
        &two,
        2,
        "this node is n1",
        "give each node its own",
    );

    let ask = || cluster.run(&["status"]);
    let unknown = replaced(&cluster, "client/client.toml", "key_file  ", "keyfile  ", ask);
    mistakes.ended(
        "a key in client.toml that there is not",
        &unknown,
        2,
        "client.toml:",
        "unknown field `keyfile`, expected one of",
    );
    let nobody = with(
        &cluster,
        "client/client.toml",
        |path, text| {
            let (head, _) = text.split_once("[client.nodes]").unwrap();
            fs::write(path, head).unwrap();
        },
        ask,
    );
    mistakes.ended(
        "a client.toml without nodes",
        &nobody,
        2,
        "[client.nodes] names no node",
        "write one, as in `1 =",
    );
    let both = cluster.run(&["kv", "get", "a/b", "k", "--data-dir", "data"]);
    mistakes.ended(
        "--connect and --data-dir",
        &both,
        2,
        "--data-dir is of a node in this process",
        "leave one of them out",
    );
    let portless =
        replaced(&cluster, "client/client.toml", &cluster.addresses[0], "127.0.0.1", ask);
    mistakes.ended("a node without a port in client.toml", &portless, 2, "127.0.0.1", "host:port");
    let node = certified(&cluster, "client/client", &n1, Validity::days(1), ask);
    mistakes.ended(
        "a node's certificate for a client",
        &node,
        2,
        "the certificate is of node n1",
        "a client needs one of a client",
    );
    let late = certified(&cluster, "client/client", &ops, validity(-7200, -3600), ask);
    mistakes.ended(
        "a client's certificate that has expired",
        &late,
        2,
        "expired 36",
        "certs renew",
    );
    let alone = cluster.run(&["status"]);
    mistakes.ended(
        "a cluster that does not run",
        &alone,
        4,
        "no node answered within 5s",
        &cluster.addresses[0],
    );
    mistakes.finish(20);
}

/// Copies a directory with all that is in it.
fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &to);
        } else {
            fs::copy(path, to).unwrap();
        }
    }
}

/// Asks for the status until it has these words.
#[track_caller]
fn status_with(cluster: &Cluster, words: &str) -> String {
    let until = Instant::now() + PATIENCE;
    loop {
        let status = cluster.run(&["status"]);
        if status.out.contains(words) {
            return status.out;
        }
        assert!(Instant::now() < until, "no {words:?} in: {}{}", status.out, status.err);
    }
}

#[test]
fn mistakes_with_nodes_and_directories_are_told_by_whoever_sees_them() {
    let mut mistakes = Mistakes::default();
    let other = Cluster::new(1, "raft");
    other.serve_all()[0].kill();
    let cluster = Cluster::new(3, "raft");
    let mut nodes = cluster.serve_all();
    cluster.ok(&["kv", "put", "acme/cfg", "k", "v"]);
    cluster.ok(&["member", "transfer", "n1"]);

    let again =
        |from: &str, to: &str| replaced(&cluster, "n1/node.toml", from, to, || serve(&cluster, 1));
    let listen = format!("listen           = \"{}\"", cluster.addresses[0]);
    let twice = again(&listen, "listen = \"127.0.0.1:0\"");
    mistakes.ended(
        "a directory that a node has",
        &twice,
        3,
        "the data directory is in use",
        "stop the node that holds its LOCK",
    );
    let port = again("\"data\"", "\"data2\"");
    mistakes.ended(
        "a port that is taken",
        &port,
        2,
        &format!("cannot listen on {}", cluster.addresses[0]),
        "transport.quic.listen",
    );
    let mut kv = cluster.place.bare();
    kv.args(["kv", "get", "acme/cfg", "k", "--config"]).arg(cluster.node_toml(1));
    mistakes.ended(
        "a command on the configuration of a node that runs",
        &Ended::of(kv),
        2,
        "in use",
        "ask it with `--connect`",
    );
    let mut kv = cluster.place.bare();
    kv.args(["kv", "get", "acme/cfg", "k", "--data-dir", "cluster/n1/data"]);
    mistakes.ended(
        "a command on the directory of a node that runs",
        &Ended::of(kv),
        3,
        "in use",
        "ask it with `--connect`",
    );
    let same = cluster.run(&["member", "add", "n2=127.0.0.1:1"]);
    mistakes.ended(
        "a number that a member has",
        &same,
        2,
        &format!("n2 is a member already, at {}", cluster.addresses[1]),
        "give the new node another one",
    );
    fs::copy(cluster.client_toml(), other.place.path("cluster/client/wrong.toml")).unwrap();
    let wrong =
        Ended::of(other.command_of(&other.place.path("cluster/client/wrong.toml"), &["status"]));
    mistakes.ended(
        "the client of another cluster",
        &wrong,
        4,
        "signed by another CA",
        "issue it from this cluster's authority",
    );

    // A copy of n2's directory, on another machine.
    copy(&cluster.place.path("cluster/n2/data"), &cluster.place.path("cluster/n2/copy"));
    let text = fs::read_to_string(cluster.node_toml(2)).unwrap();
    let text = text.replace(&cluster.addresses[1], &free_addresses(1)[0]);
    let text = text.replace("\"data\"", "\"copy\"");
    let mut command = cluster.place.bare();
    command.arg("serve").arg("--config").arg(cluster.place.write("cluster/n2/copy.toml", text));
    let mut second = Process::spawn(command);
    let line = nodes[1].wait_for("does not reach n1");
    mistakes.said(
        "two nodes with one number",
        &line,
        "a newer life of n2 is connected",
        "is it running twice?",
    );
    second.kill();
    nodes[1].kill();
    nodes[1] = cluster.serve(2);
    nodes[1].wait_for("is ready");

    // Of three, one is away, and another one is to go.
    nodes[2].kill();
    status_with(&cluster, "n3: was not heard of");
    let last = cluster.run(&["member", "remove", "n2"]);
    mistakes.ended(
        "the removal of the last majority",
        &last,
        4,
        "without n2 there are 2 voters, of which 2 are needed, and 1 of them can be reached",
        "bring back n3 first, or replace one that is lost",
    );
    // The leader had nothing to do for long, and notices all the same.
    nodes[1].kill();
    let alone = status_with(&cluster, "nobody leads");
    mistakes.said("a majority that is away", &alone, "nobody leads: no leader is known: of 3 voters 2 are needed, and nothing is heard of n2 and n3", &format!("n2 at {} does not answer", cluster.addresses[1]));

    nodes[1] = cluster.serve(2);
    nodes[1].wait_for("is ready");
    cluster.ok(&["member", "remove", "n3"]);
    nodes[2] = cluster.serve(3);
    let line = nodes[2].wait_for("does not reach n1");
    mistakes.said(
        "a node that was removed starts again",
        &line,
        "n3 is not a peer of n1",
        "under a new number",
    );

    // Directories, none of which is used.
    nodes.iter_mut().for_each(Process::kill);
    let foreign = format!("{:?}", other.place.path("cluster/n1/data"));
    mistakes.ended(
        "the directory of another cluster",
        &again("\"data\"", &foreign),
        3,
        "belongs to cluster",
        "check the path",
    );
    mistakes.ended(
        "the directory of another node",
        &again("\"data\"", "\"../n2/data\""),
        3,
        "belongs to node 2, not 1",
        "check the path",
    );
    mistakes.ended(
        "another number of groups",
        &again("groups = 1", "groups = 4"),
        3,
        "has 1 groups, the configuration says 4",
        "configure groups = 1",
    );
    mistakes.ended(
        "another driver without a switch",
        &again("kind = \"raft\"", "kind = \"local\""),
        3,
        "was written by driver `raft`",
        "quorate driver switch --to local",
    );
    let newer = |path: &Path, text: String| {
        let (text, _) = text.rsplit_once("crc = ").unwrap();
        let text = text.replace("format = 1\n", "format = 9\n");
        let crc = crc32fast::hash(text.as_bytes());
        fs::write(path, format!("{text}crc = {crc:08x}\n")).unwrap();
    };
    let newer = with(&cluster, "n1/data/MANIFEST", newer, || serve(&cluster, 1));
    mistakes.ended(
        "a directory of a newer program",
        &newer,
        3,
        "has format 9, this program knows format",
        "start it with the version that wrote it",
    );
    mistakes.finish(10);
}
