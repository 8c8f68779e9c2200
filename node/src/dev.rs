//! `quorate dev`: a cluster of processes on this machine, for a try.
//!
//! ```text
//!  dev --+-- pipe --> quorate serve (n1)     Each node is a process of its own, started again when it ends.
//!        +-- pipe --> quorate serve (n2)     It ends with its pipe, so none is left when this one is killed.
//!        +-- pipe --> quorate serve (n3)
//! ```

use std::fs::{self, File, TryLockError};
use std::io;
use std::net::UdpSocket;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use quorate::NodeId;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, ChildStdin, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::cli::{DevArgs, Global};
use crate::cluster::{CLIENT_FILE, Cluster, NODE_FILE, NodeAt};
use crate::exit::{Exit, Failure};
use crate::founding::Choice;
use crate::tell;

/// Held by the one `quorate dev` of a directory.
const LOCK_FILE: &str = "dev.lock";

/// In the directory of a node: the id of its process, while it runs.
const PROCESS_FILE: &str = "process";

/// The only client that is made.
const CLIENT: &str = "client";

/// How long certificates of a cluster hold that is thrown away.
const VALIDITY_DAYS: u32 = 365;

/// The pause before a node is started again that has ended; doubles up to [`PAUSE_MAX`] while it ends at once.
const PAUSE_MIN: Duration = Duration::from_secs(1);

const PAUSE_MAX: Duration = Duration::from_secs(30);

/// A node that ran for this long did not end at once.
const RAN: Duration = Duration::from_secs(10);

/// How long a node may take to end in order.
const END_WITHIN: Duration = Duration::from_secs(10);

pub(crate) async fn run(global: &Global, arguments: &DevArgs) -> Result<Exit, Failure> {
    let failed = |error: io::Error| Failure::service(error);
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let dir = &arguments.dir;
    let cluster = cluster(global, arguments)?;
    let _lock = lock(dir)?;
    announce(&cluster, dir);

    let mut nodes = Vec::new();
    let mut supervisors = JoinSet::new();
    for node in cluster.nodes.keys() {
        let supervised = Supervised {
            node: *node,
            directory: dir.join(node.to_string()),
            durability: global.durability.clone(),
        };
        let (end, ends) = oneshot::channel();
        nodes.push(end);
        supervisors.spawn(supervised.run(ends));
    }
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        // None ends by itself unless it cannot be started.
        Some(ended) = supervisors.join_next() => return ended.map_err(Failure::service)?,
    }
    say("ends its nodes; the next signal ends them at once");
    let end = async {
        // One after the other, so that each finds somebody to hand over to.
        for end in nodes {
            // It listens until it has ended.
            let _ = end.send(());
            if let Some(ended) = supervisors.join_next().await {
                ended.map_err(Failure::service)??;
            }
        }
        Ok(Exit::Done)
    };
    tokio::select! {
        exit = end => exit,
        // Their processes are killed with the tasks.
        _ = terminate.recv() => Ok(Exit::Service),
        _ = interrupt.recv() => Ok(Exit::Service),
    }
}

/// The cluster of the directory, or a new one.
fn cluster(global: &Global, arguments: &DevArgs) -> Result<Cluster, Failure> {
    let DevArgs { dir, nodes, base_port, .. } = arguments;
    let driver = global.driver.as_deref();
    if Cluster::is_in(dir) {
        let cluster = Cluster::load(dir)?;
        let other = |what: String| {
            Err(Failure::usage(format!(
                "{} has {what} from an earlier time; leave that out to go on with it, remove the directory to start anew, \
                 or name another one with --dir",
                dir.display()
            )))
        };
        return match (nodes, driver) {
            (Some(wanted), _) if usize::from(*wanted) != cluster.nodes.len() => {
                other(count(&cluster))
            }
            (_, Some(wanted)) if wanted != cluster.driver => {
                other(format!("driver {}", cluster.driver))
            }
            _ if base_port.is_some() => other("its ports".into()),
            _ => Ok(cluster),
        };
    }
    let count = nodes.unwrap_or(1);
    let driver = driver.unwrap_or(if count == 1 { "local" } else { "raft" });
    let mut named = Vec::new();
    for (port, number) in ports(count, *base_port)?.into_iter().zip(1_u64..) {
        let at = format!("n{number}=127.0.0.1:{port}").parse::<NodeAt>();
        named.push(at.map_err(Failure::usage)?);
    }
    let cluster = Cluster::new(&named, driver, Choice::default())?;
    cluster.create(dir, &[CLIENT.to_owned()], VALIDITY_DAYS)?;
    Ok(cluster)
}

/// One port for each node: from `base` on, or some that are free now.
fn ports(count: u8, base: Option<u16>) -> Result<Vec<u16>, Failure> {
    if let Some(base) = base {
        let last = base.checked_add(u16::from(count) - 1).ok_or_else(|| {
            Failure::usage(format!("--base-port {base} leaves no {count} ports up to 65535"))
        })?;
        return Ok((base..=last).collect());
    }
    // Held until all are found, so that they differ.
    let mut sockets = Vec::new();
    for _ in 0..count {
        sockets.push(UdpSocket::bind("127.0.0.1:0").map_err(Failure::service)?);
    }
    let ports = sockets.iter().map(|socket| socket.local_addr().map(|address| address.port()));
    ports.collect::<Result<_, _>>().map_err(Failure::service)
}

/// Makes this the one `quorate dev` of a directory, as long as the file is open.
fn lock(dir: &Path) -> Result<File, Failure> {
    let path = dir.join(LOCK_FILE);
    let failed = |error: io::Error| Failure::data(format!("{}: {error}", path.display()));
    let file = File::create(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Failure::data(format!(
            "another `quorate dev` runs in {}; end it first, or name another directory with --dir",
            dir.display()
        ))),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

/// The client's file of a cluster that `quorate dev` runs now.
///
/// # Errors
///
/// None runs in this directory.
pub(crate) fn running(dir: &Path) -> Result<PathBuf, Failure> {
    let lock = File::open(dir.join(LOCK_FILE));
    let held = lock.is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)));
    if !held {
        return Err(Failure::usage(format!(
            "no `quorate dev` runs in {}; start one with `quorate dev --nodes 3`, or name its directory with --dir",
            dir.display()
        )));
    }
    Ok(client_file(dir))
}

fn client_file(dir: &Path) -> PathBuf {
    dir.join(CLIENT).join(CLIENT_FILE)
}

/// Ends the process of a node as a power cut does, as far as other nodes can tell.
pub(crate) fn kill(dir: &Path, node: NodeId) -> Result<(), Failure> {
    let path = dir.join(node.to_string()).join(PROCESS_FILE);
    let failed = |problem: &dyn std::fmt::Display| {
        Failure::service(format!("{}: {problem}", path.display()))
    };
    let text = fs::read_to_string(&path).map_err(|error| failed(&error))?;
    let id = text.trim().parse().ok().and_then(Pid::from_raw);
    let id = id.ok_or_else(|| failed(&"it holds no id of a process"))?;
    kill_process(id, Signal::KILL).map_err(|error| failed(&error))
}

fn announce(cluster: &Cluster, dir: &Path) {
    let nodes = count(cluster);
    let client = client_file(dir);
    let client = client.display();
    say(&format!(
        "{nodes}, driver {}; data and certificates in {}; ^C ends it, and the same command goes on with the data",
        cluster.driver,
        dir.display()
    ));
    say("talk to it from another terminal:");
    say(&format!("  quorate --connect {client} kv put app/greeting hello world"));
    say(&format!("  quorate --connect {client} status --watch"));
    if cluster.nodes.len() > 1 {
        say(&format!("  quorate dev kill-leader --dir {}", dir.display()));
    }
}

fn count(cluster: &Cluster) -> String {
    match cluster.nodes.len() {
        1 => "1 node".into(),
        count => format!("{count} nodes"),
    }
}

fn say(line: &str) {
    tell(&format!("dev {line}\n"));
}

/// One node, whose process is started again when it ends.
#[derive(Debug)]
struct Supervised {
    node: NodeId,
    directory: PathBuf,
    durability: Option<String>,
}

impl Supervised {
    /// Runs the node until it is told to end.
    async fn run(self, mut ends: oneshot::Receiver<()>) -> Result<Exit, Failure> {
        let mut pause = PAUSE_MIN;
        loop {
            let begun = Instant::now();
            let (mut child, pipe) = self.start().map_err(|error| {
                Failure::service(format!("{} cannot be started: {error}", self.node))
            })?;
            let ended = tokio::select! {
                ended = child.wait() => ended,
                _ = &mut ends => {
                    drop(pipe);
                    let ended = self.end(&mut child).await;
                    let _ = fs::remove_file(self.directory.join(PROCESS_FILE));
                    return ended;
                }
            };
            let _ = fs::remove_file(self.directory.join(PROCESS_FILE));
            let ended = ended.map_err(Failure::service)?;
            if begun.elapsed() >= RAN {
                pause = PAUSE_MIN;
            }
            say(&format!("{} ended {}; starts it again in {pause:?}", self.node, how(ended)));
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = &mut ends => return Ok(Exit::Done),
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// The process, and the pipe that it ends with.
    fn start(&self) -> io::Result<(Child, Option<ChildStdin>)> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("serve").arg("--until-stdin-ends");
        command.arg("--config").arg(self.directory.join(NODE_FILE));
        if let Some(durability) = &self.durability {
            command.arg("--durability").arg(durability);
        }
        // What is set for one node would be set for all.
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy();
            if ["QUORATE_NODE_", "QUORATE_DRIVER_", "QUORATE_TRANSPORT_", "QUORATE_CON"]
                .iter()
                .any(|prefix| name.starts_with(prefix))
            {
                command.env_remove(&*name);
            }
        }
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        // ^C is for this process, which ends the nodes in order.
        command.process_group(0).kill_on_drop(true);
        let mut child = command.spawn()?;
        if let Some(id) = child.id() {
            fs::write(self.directory.join(PROCESS_FILE), format!("{id}\n"))?;
        }
        // Whoever waits for a child closes the pipe that it holds.
        let pipe = child.stdin.take();
        Ok((child, pipe))
    }

    async fn end(&self, child: &mut Child) -> Result<Exit, Failure> {
        match tokio::time::timeout(END_WITHIN, child.wait()).await {
            Ok(ended) => {
                let ended = ended.map_err(Failure::service)?;
                if !ended.success() {
                    say(&format!("{} ended {}", self.node, how(ended)));
                }
            }
            Err(_) => {
                say(&format!("{} did not end within {END_WITHIN:?} and is killed", self.node));
                child.kill().await.map_err(Failure::service)?;
            }
        }
        Ok(Exit::Done)
    }
}

fn how(ended: ExitStatus) -> String {
    match (ended.code(), ended.signal()) {
        (Some(code), _) => format!("with code {code}"),
        (_, Some(signal)) => format!("by signal {signal}"),
        _ => "for no known reason".into(),
    }
}
