//! A node whose disk fails: writes and syncs of its files get errors from the system, from some call on. Nothing that began after that
//! is accepted, and whatever was accepted is there when the disk is well again.
//!
//! The errors come from `strace`, which has to be there and allowed to trace. `QUORATE_TEST_BUDGET=long` takes 500 of them.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use common::budget;
use common::process::{Cluster, PATIENCE, Process};
use common::writer::{Observer, connect, runtime};
use fastrand::Rng;
use quorate::kv::PutOptions;
use quorate::{Client, ShardKey};
use tokio::runtime::Runtime;

/// Which calls get which error. Files are synced by the first, directories by the second.
const FAULTS: [(&str, &str); 5] = [
    ("fdatasync", "EIO"),
    ("fdatasync", "ENOSPC"),
    ("fsync", "EIO"),
    ("pwrite64", "EIO"),
    ("pwrite64", "ENOSPC"),
];

/// Puts while a node is watched. More than the calls after which the disk fails.
const PUTS: u64 = 40;

/// How long a put may take on a node that may never answer it.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// Whether processes can be traced here.
fn can_trace() -> bool {
    let mut trace = Command::new("strace");
    trace.args([
        "-D",
        "-f",
        "-q",
        "-o",
        "/dev/null",
        "-e",
        "inject=fsync:error=EIO:when=1+",
        "true",
    ]);
    trace.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

fn shard() -> ShardKey {
    ShardKey::new("faults", "keys").unwrap()
}

/// A put that was accepted.
struct Accepted {
    began: Duration,
    revision: u64,
}

struct Caller {
    runtime: Runtime,
    client: Client,
    next: u64,
    accepted: BTreeMap<u64, Accepted>,
}

impl Caller {
    /// Puts a new key, once; whether that was accepted.
    fn put(&mut self, within: Duration) -> bool {
        let (number, began) = (self.next, SystemTime::now().duration_since(UNIX_EPOCH).unwrap());
        self.next += 1;
        let (shard, key) = (shard(), key(number));
        let options = PutOptions::default().within(within);
        let put = self.client.kv().put(&shard, key.as_bytes(), key.as_bytes(), options);
        let Ok(done) = self.runtime.block_on(put) else { return false };
        self.accepted.insert(number, Accepted { began, revision: done.revision });
        true
    }

    /// Everything that was accepted is there, as it was told.
    #[track_caller]
    fn check(&self, observer: &Observer) {
        let (entries, _) = observer.read(&shard());
        let there = entries.iter().map(|entry| (&entry.key, (entry.created, entry.modified)));
        let there: BTreeMap<_, _> =
            there.map(|(key, revisions)| (key.to_vec(), revisions)).collect();
        for (number, Accepted { revision, .. }) in &self.accepted {
            let found = there.get(key(*number).as_bytes());
            assert_eq!(found, Some(&(*revision, *revision)), "put {number}");
        }
    }
}

fn key(number: u64) -> String {
    format!("{number:06}")
}

/// When the first call on a file of the log got an error, and how many calls got one, of what was traced until the process ended.
fn injected(trace: &Path) -> (Option<Duration>, usize) {
    let until = Instant::now() + PATIENCE;
    loop {
        let text = fs::read_to_string(trace).unwrap_or_default();
        let lines = || text.lines().filter(|line| line.contains("(INJECTED)"));
        // The last thread tells the end of the process.
        let threads = |words: &str| text.lines().filter(|line| line.contains(words)).count();
        if threads("+++ killed") + threads("+++ exited") > 0 {
            let of_log = lines().find(|line| line.contains("/log/segment-"));
            let at = of_log.map(|line| {
                let seconds = line.split_whitespace().nth(1).unwrap();
                Duration::from_secs_f64(seconds.parse().unwrap())
            });
            return (at, lines().count());
        }
        assert!(Instant::now() < until, "the trace has no end: {text}");
        std::thread::yield_now();
    }
}

#[test]
fn a_disk_that_fails_leads_to_no_false_accept() {
    if !can_trace() {
        println!("SKIP: strace is not there, or this process may not trace others");
        return;
    }
    let cluster = Cluster::new(1, "local");
    let (runtime, mut node) = (runtime(), cluster.serve_all().remove(0));
    let client = runtime.block_on(connect(&cluster.client_toml()));
    let mut caller = Caller { runtime, client, next: 0, accepted: BTreeMap::new() };
    let observer = Observer::new(&cluster.client_toml());
    let mut random = Rng::with_seed(1);
    let (mut hit, mut calls) = (0, 0);
    let cases = budget(10, 500);
    for case in 0..cases {
        let (call, error) = FAULTS[usize::try_from(case).unwrap() % FAULTS.len()];
        // Directories are synced when a node starts, and with each new file.
        let when = random.u64(1..=if call == "fsync" { 3 } else { 30 });
        node.kill();
        let trace = cluster.place.path(&format!("trace-{case}"));
        let mut command = Command::new("strace");
        let serve = cluster.serve_command(1);
        command.args(["-D", "-f", "-q", "-y", "-ttt", "-o"]).arg(&trace);
        command.args(["-e", &format!("trace={call}")]);
        command.args(["-e", &format!("inject={call}:error={error}:when={when}+")]);
        command.arg(serve.get_program()).args(serve.get_args()).stdin(Stdio::null());
        command.current_dir(serve.get_current_dir().unwrap());
        for (name, value) in serve.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let mut faulty = Process::spawn(command);
        let before = caller.accepted.len();
        let (mut puts, mut unanswered) = (0, 0);
        // It may fail before it is there; and the client may have to find it again.
        let ready = faulty.says("is ready");
        while ready && puts < PUTS && unanswered < 3 && faulty.is_running() {
            match caller.put(ANSWER_WITHIN) {
                true => puts += 1,
                false => unanswered += 1,
            }
        }
        faulty.kill();
        let (at, injected) = injected(&trace);
        calls += injected;
        if let Some(at) = at {
            hit += 1;
            let late = caller.accepted.iter().skip(before).find(|(_, put)| put.began > at);
            if let Some((number, _)) = late {
                panic!("{call} {error} from {when} on: put {number} began later, and was accepted");
            }
        }
        println!("{call} {error} from {when} on: {puts} puts, {injected} calls failed");
        node = cluster.serve(1);
        // It is the same node again, with everything.
        assert!(caller.put(PATIENCE), "a node whose disk is well serves");
        fs::remove_file(trace).unwrap();
        if (case + 1) % 10 == 0 {
            caller.check(&observer);
        }
    }
    println!(
        "{cases} faults, {hit} of them of the log, {calls} calls that failed, {} puts",
        caller.accepted.len()
    );
    assert!(hit * 3 > cases, "too few reached the log: {hit} of {cases}");
    let Caller { runtime, client, .. } = caller;
    runtime.block_on(client.close());
    cluster.close(vec![node]);
}
