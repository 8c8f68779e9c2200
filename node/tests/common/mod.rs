//! Runs the real binary on a directory of its own.

#![allow(dead_code, reason = "each test file uses a part of this")]

pub(crate) mod load;
pub(crate) mod process;
pub(crate) mod relay;
pub(crate) mod writer;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// The data that the README's first command imports.
pub(crate) const UNICODE: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/data/unicode.ndjson");

/// A directory to work in, and the binary.
pub(crate) struct Place {
    directory: TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.path("data")
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        path
    }

    /// The binary, with these arguments, on this place's data directory.
    pub(crate) fn command<A: AsRef<std::ffi::OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = A>,
    ) -> Command {
        let mut command = self.bare();
        command.arg("--data-dir").arg(self.data()).args(arguments);
        command
    }

    /// The binary without any argument.
    pub(crate) fn bare(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("QUORATE_") {
                command.env_remove(name);
            }
        }
        command.env_remove("RUST_LOG").current_dir(self.directory.path()).stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Ended {
        Ended::of(self.command(arguments))
    }

    /// Without a data directory of its own.
    pub(crate) fn run_bare(&self, arguments: &[&str]) -> Ended {
        let mut command = self.bare();
        command.args(arguments);
        Ended::of(command)
    }

    pub(crate) fn import(&self, file: &Path, more: &[&str]) -> Ended {
        let mut command = self.command(["import", "-o", "json"]);
        command.arg(file).args(more);
        Ended::of(command)
    }

    pub(crate) fn export(&self) -> String {
        let export = self.run(&["export"]);
        assert_eq!(export.code, 0, "{}", export.err);
        export.out
    }
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ended {
    pub(crate) fn of(mut command: Command) -> Self {
        Self::from(command.output().unwrap())
    }

    pub(crate) fn from(output: Output) -> Self {
        Self {
            code: output.status.code().expect("it ended by itself"),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out)
            .unwrap_or_else(|error| panic!("{error}: {:?}; {}", self.out, self.err))
    }
}

/// How many times a test repeats itself.
pub(crate) fn budget(default: u64, long: u64) -> u64 {
    match std::env::var("QUORATE_TEST_BUDGET").as_deref() {
        Ok("long") => long,
        _ => default,
    }
}
