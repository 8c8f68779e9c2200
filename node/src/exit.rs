//! How the process ends.

use std::fmt;
use std::process::ExitCode;

/// What the exit code says. Scripts depend on these numbers; `--help` and docs/cli.md list them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Everything was done.
    Done = 0,
    /// The job was done and found something wrong: bad lines, rejected frames, a key that is not there.
    Problems = 1,
    /// The command line, the configuration or an input file is wrong; nothing was done.
    Usage = 2,
    /// The data directory cannot be used: damaged, foreign, locked, not writable.
    Data = 3,
    /// The node refused or stopped: overloaded, out of disk space, no decision in time.
    Service = 4,
}

/// The same for `--help`.
pub(crate) const EXIT_HELP: &str = "\
Exit codes:
  0  everything was done
  1  the job was done and found something wrong: bad lines, rejected frames, a key that is not there
  2  the command line, the configuration or an input file is wrong; nothing was done
  3  the data directory cannot be used: damaged, foreign, in use, not writable
  4  the node refused or stopped: out of space, overloaded, no decision in time

Data goes to standard output; progress, warnings and errors go to standard error.
Every key of the configuration can be set by a variable: QUORATE_NODE_DATA_DIR sets [node] data_dir.";

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command ended early: what the user reads, and the code.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn usage(message: impl fmt::Display) -> Self {
        Self { exit: Exit::Usage, message: message.to_string() }
    }

    pub(crate) fn data(message: impl fmt::Display) -> Self {
        Self { exit: Exit::Data, message: message.to_string() }
    }

    pub(crate) fn service(message: impl fmt::Display) -> Self {
        Self { exit: Exit::Service, message: message.to_string() }
    }
}
