//! Processes that end with the test, and what they say.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::UdpSocket;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::{Ended, Place};

/// Longer than anything takes on a machine that is busy with other tests.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A process that is killed when the value goes, also when the test fails.
pub(crate) struct Process {
    child: Child,
    lines: Receiver<String>,
    said: Vec<String>,
}

impl Process {
    pub(crate) fn spawn(command: Command) -> Self {
        Self::spawn_into(Stdio::null(), command)
    }

    /// The same with a place for what it writes to standard output.
    pub(crate) fn spawn_into(out: impl Into<Stdio>, mut command: Command) -> Self {
        let mut child = command.stdout(out).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (tell, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                if tell.send(line).is_err() {
                    break;
                }
            }
        });
        Self { child, lines, said: Vec::new() }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a line with these words that was not waited for yet.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, words: &str) -> String {
        let found = |line: &String| line.contains(words).then(|| line.clone());
        self.next(words, found)
    }

    /// Takes the first line that has something, of those that were waited for already and those to come.
    #[track_caller]
    pub(crate) fn first<T>(&mut self, what: &str, found: impl Fn(&String) -> Option<T>) -> T {
        match self.said.iter().find_map(&found) {
            Some(found) => found,
            None => self.next(what, found),
        }
    }

    /// Takes the first line that has something, of those that were not waited for yet.
    #[track_caller]
    pub(crate) fn next<T>(&mut self, what: &str, found: impl Fn(&String) -> Option<T>) -> T {
        let until = Instant::now() + PATIENCE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    self.said.push(line);
                    if let Some(found) = self.said.last().and_then(&found) {
                        return found;
                    }
                }
                Err(error) => panic!("{error}: no {what:?} in:\n{}", self.said.join("\n")),
            }
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.child.id()).unwrap();
        kill_process(Pid::from_raw(id).unwrap(), signal).unwrap();
    }

    /// Ends it at once, as a power cut does.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for a line with these words, or for the end; whether the words came.
    #[track_caller]
    pub(crate) fn says(&mut self, words: &str) -> bool {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.said.push(line);
                    if self.said.last().is_some_and(|line| line.contains(words)) {
                        return true;
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return false,
                Err(RecvTimeoutError::Timeout) => {
                    panic!("no {words:?} in:\n{}", self.said.join("\n"))
                }
            }
        }
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub(crate) fn close_stdin(&mut self) {
        self.child.stdin = None;
    }

    /// Waits for the end. The code is that of the process, or 128 and the signal.
    #[track_caller]
    pub(crate) fn end(mut self) -> (i32, String) {
        let until = Instant::now() + PATIENCE;
        loop {
            // Its standard error ends with it.
            match self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) => self.said.push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("it goes on:\n{}", self.said.join("\n")),
            }
        }
        let status = self.child.wait().unwrap();
        let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
        (code, self.said.join("\n"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A cluster on free ports of this machine, whose directory is `cluster` in its place.
pub(crate) struct Cluster {
    pub(crate) place: Place,
    pub(crate) addresses: Vec<String>,
}

impl Cluster {
    pub(crate) fn new(nodes: usize, driver: &str) -> Self {
        Self::with(nodes, driver, &[])
    }

    /// The same, with more to say to `init-cluster`.
    pub(crate) fn with(nodes: usize, driver: &str, more: &[&str]) -> Self {
        let place = Place::new();
        let addresses = free_addresses(nodes);
        let named = addresses.iter().zip(1..).map(|(address, node)| format!("n{node}={address}"));
        let named = named.collect::<Vec<_>>().join(",");
        let made = ["init-cluster", "--nodes", &named, "--out", "cluster", "--driver", driver];
        let made = place.run_bare(&[&made, more].concat());
        assert_eq!(made.code, 0, "{}", made.err);
        Self { place, addresses }
    }

    pub(crate) fn node_toml(&self, node: u64) -> PathBuf {
        self.place.path(&format!("cluster/n{node}/node.toml"))
    }

    pub(crate) fn client_toml(&self) -> PathBuf {
        self.place.path("cluster/client/client.toml")
    }

    /// The file of a client that knows of these nodes alone.
    pub(crate) fn client_of(&self, nodes: &[u64]) -> PathBuf {
        let text = fs::read_to_string(self.client_toml()).unwrap();
        let (head, all) = text.split_once("[client.nodes]\n").unwrap();
        // As they stand there: they may be doors of a relay.
        let lines = nodes.iter().map(|node| {
            let line = all.lines().find(|line| line.starts_with(&format!("{node} = ")));
            format!("{}\n", line.expect("it is a node of the cluster"))
        });
        let names: String = nodes.iter().map(|node| format!("-n{node}")).collect();
        self.place.write(
            &format!("cluster/client/client{names}.toml"),
            format!("{head}[client.nodes]\n{}", lines.collect::<String>()),
        )
    }

    /// The process of a node.
    pub(crate) fn serve(&self, node: u64) -> Process {
        Process::spawn(self.serve_command(node))
    }

    pub(crate) fn serve_command(&self, node: u64) -> Command {
        let mut command = self.place.bare();
        command.arg("serve").arg("--config").arg(self.node_toml(node));
        // A quarter of the default: files are filled with zeros before the node starts.
        command.env("QUORATE_LOG_SEGMENT_BYTES", (8 << 20).to_string());
        command
    }

    /// All nodes, ready.
    pub(crate) fn serve_all(&self) -> Vec<Process> {
        let count = self.addresses.len() as u64;
        let mut nodes: Vec<_> = (1..=count).map(|node| self.serve(node)).collect();
        for node in &mut nodes {
            node.wait_for("is ready");
        }
        nodes
    }

    /// Ends the nodes in order, one after the other, and looks through what they stored.
    #[track_caller]
    pub(crate) fn close(&self, nodes: Vec<Process>) {
        for (node, process) in (1..).zip(nodes) {
            process.signal(Signal::TERM);
            let (code, said) = process.end();
            assert_eq!(code, 0, "n{node}:\n{said}");
        }
        for node in 1..=self.addresses.len() as u64 {
            let mut verify = self.place.bare();
            verify.arg("verify").arg("--config").arg(self.node_toml(node));
            let ended = Ended::of(verify);
            assert_eq!(ended.code, 0, "n{node}: {}{}", ended.out, ended.err);
        }
    }

    /// A command of the client.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        self.command_of(&self.client_toml(), arguments)
    }

    /// A command of a client that another file describes.
    pub(crate) fn command_of(&self, client_toml: &Path, arguments: &[&str]) -> Command {
        let mut command = self.place.bare();
        command.arg("--connect").arg(client_toml).args(arguments);
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Ended {
        Ended::of(self.command(arguments))
    }

    #[track_caller]
    pub(crate) fn ok(&self, arguments: &[&str]) -> Ended {
        let ended = self.run(arguments);
        assert_eq!(ended.code, 0, "{arguments:?}: {}{}", ended.out, ended.err);
        ended
    }
}

/// Addresses of this machine on which nobody listens.
pub(crate) fn free_addresses(count: usize) -> Vec<String> {
    // Held until all are found, so that they differ.
    let sockets: Vec<_> =
        std::iter::repeat_with(|| UdpSocket::bind("127.0.0.1:0").unwrap()).take(count).collect();
    sockets.iter().map(|socket| socket.local_addr().unwrap().to_string()).collect()
}
