//! The `quorate` binary.

mod audit;
mod bench;
mod certs;
mod cli;
mod cluster;
mod config_command;
mod dev;
mod driver_command;
mod exit;
mod export;
mod founding;
mod import;
mod import_state;
mod init_cluster;
mod kill_leader;
mod kv;
mod member;
mod ndjson;
mod open;
mod operation;
mod progress;
mod proof;
#[cfg(test)]
mod scripted;
mod serve;
mod status;
mod summary;
mod target;
mod validator;
mod verify;

use std::io::{self, IsTerminal as _, Write};
use std::process::ExitCode;

use clap::Parser as _;
use tracing_subscriber::EnvFilter;

use crate::cli::{CertsCommand, Cli, Command, DevArgs, DevCommand, KvCommand, Output};
use crate::exit::{Exit, Failure};
use crate::target::Way;

fn main() -> ExitCode {
    let cli = Cli::parse();
    log_to_stderr(cli.global.verbose);
    match run(&cli) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            // A closed standard error leaves only the exit code to tell.
            let _ = writeln!(io::stderr(), "quorate: {}", failure.message);
            failure.exit.into()
        }
    }
}

fn run(cli: &Cli) -> Result<Exit, Failure> {
    let Cli { global, command } = cli;
    let output = global.output;
    let config = || global.config().map_err(Failure::usage);
    let way = || Way::of(global);
    match command {
        Command::Config(command) => config_command::run(&config()?, command, output),
        Command::Verify => verify::run(&config()?, output),
        Command::Audit(arguments) => audit::run(config, arguments, output),
        Command::Driver(command) => driver_command::run(&config()?, command, output),
        Command::Import(arguments) => in_runtime(import::run(way()?, arguments, output)),
        Command::Export(arguments) => in_runtime(export::run(way()?, arguments)),
        Command::Kv(KvCommand::Get { shard, key, proof: Some(file) }) => {
            proof::write(global, shard, key, file, output)
        }
        Command::Kv(command) => in_runtime(kv::run(way()?, command, output)),
        Command::Status(arguments) => in_runtime(status::run(way()?, arguments, output)),
        Command::Validator(command) => validator::run(config, command, output),
        Command::Member(arguments) => in_runtime(member::run(way()?, arguments, output)),
        Command::Bench(arguments) => in_runtime(bench::run(way()?, arguments, output)),
        Command::Serve(arguments) => in_runtime(serve::run(config()?, arguments)),
        Command::Dev(DevArgs { command: Some(DevCommand::KillLeader { dir }), .. }) => {
            in_runtime(kill_leader::run(dir, output))
        }
        Command::Dev(arguments) => in_runtime(dev::run(global, arguments)),
        Command::InitCluster(arguments) => {
            init_cluster::cluster(arguments, global.driver.as_deref(), output)
        }
        Command::InitNode(arguments) => init_cluster::node(arguments, output),
        Command::Certs(CertsCommand::Show { files }) => certs::show(global, files),
        Command::Certs(CertsCommand::Renew(arguments)) => certs::renew(arguments, output),
    }
}

fn in_runtime(job: impl Future<Output = Result<Exit, Failure>>) -> Result<Exit, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.map_err(Failure::service)?.block_on(job)
}

/// Warnings only, unless asked for more.
fn log_to_stderr(verbose: u8) {
    let default = match verbose {
        0 => "warn",
        1 => "quorate=info,warn",
        _ => "debug",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let format = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal());
    // A warning is for people; whoever asks for more wants to know when and where it happened.
    if verbose == 0 {
        format.without_time().with_target(false).init();
    } else {
        format.init();
    }
}

/// Writes a whole line to standard error, at once: the processes of `quorate dev` have one between them.
pub(crate) fn tell(line: &str) {
    // A closed standard error is no reason to stop.
    let _ = io::stderr().write_all(line.as_bytes());
}

/// Writes a document to standard output.
pub(crate) fn print(text: impl std::fmt::Display) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).map_err(written)
}

/// Writes a document to standard output, as JSON or as text.
pub(crate) fn print_as(
    output: Output,
    json: impl FnOnce() -> serde_json::Value,
    text: impl FnOnce() -> String,
) -> Result<(), Failure> {
    match output {
        Output::Json => print(json()),
        Output::Text => print(text()),
    }
}

/// Standard output could not be written.
pub(crate) fn written(error: io::Error) -> Failure {
    Failure::usage(format!("cannot write the output: {error}"))
}
