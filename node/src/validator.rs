//! `quorate validator`: the files with which the validators of driver quorum change: keys, and changes that operators approve.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use quorate::Config;
use quorate::builtin;
use quorate::certificate::{
    Genesis, MOTION_BYTES_MAX, Motion, NewKey, SigningKey, ValidatorChange,
};
use serde_json::json;

use crate::cli::{Output, ValidatorCommand};
use crate::cluster::NodeAt;
use crate::exit::{Exit, Failure};
use crate::founding::{QUORUM, write_secret};
use crate::{open, print_as};

/// The change that adds a new node, in its directory.
pub(crate) const JOIN_FILE: &str = "join.change";

/// The power of a node that is added. Another one can be given to it later.
const JOIN_POWER: u64 = 1;

/// Most bytes of the file of a change: its bytes in hexadecimal digits, and words.
const FILE_BYTES_MAX: u64 = 2 * MOTION_BYTES_MAX as u64 + (64 << 10);

pub(crate) fn run(
    config: impl FnOnce() -> Result<Config, Failure>,
    command: &ValidatorCommand,
    output: Output,
) -> Result<Exit, Failure> {
    match command {
        ValidatorCommand::NewKey { scheme, out } => {
            let config = config()?;
            if config.driver.kind != QUORUM {
                return Err(Failure::usage(format!(
                    "driver {} has no validators; their keys are those of driver {QUORUM}",
                    config.driver.kind
                )));
            }
            let (setup, next) = builtin::validator(&config).map_err(open::failure)?;
            if setup.next_key.is_some() {
                return Err(Failure::usage(format!(
                    "{} is there already; if the validators know this node by it, make it its key_file and remove it, and otherwise take the change that was made with it",
                    next.display()
                )));
            }
            let new = SigningKey::generate(scheme.unwrap_or_else(|| setup.key.scheme()));
            let new = new.map_err(Failure::service)?;
            let node = config.node.id;
            let key = NewKey::new(&setup.genesis.key_chain(), node, &setup.key, &new);
            let change = ValidatorChange::RotateKey(key.map_err(Failure::service)?);
            let motion = motion(vec![change], Vec::new())?;
            // The change can be made anew with the key, and is of no use without it.
            write_secret(&next, &new.to_text()).map_err(|error| failed(&next, &error))?;
            write(out, &motion)?;
            made(&motion, out, output, || {
                format!(
                    "made {next} and {out}\n\n1. restart n{node}, so that it has both keys; it goes on with the one before\n\
                     2. have it approved by the operators: quorate --connect CLIENT.toml member approve {out}\n\
                     3. then {next} may take the place of key_file; nothing hurries",
                    next = next.display(),
                    out = out.display(),
                )
            })
        }
        ValidatorCommand::Scheme { files, out } => {
            let motion = one_scheme(&read_all(files)?)?;
            write(out, &motion)?;
            made(&motion, out, output, || format!("made {}: {motion}", out.display()))
        }
        ValidatorCommand::Show { files } => {
            let motion = read_all(files)?;
            print_as(output, || json!({ "change": motion.to_string() }), || motion.to_string())?;
            Ok(Exit::Done)
        }
    }
}

fn made(
    motion: &Motion,
    out: &Path,
    output: Output,
    text: impl FnOnce() -> String,
) -> Result<Exit, Failure> {
    let file = out.display().to_string();
    print_as(output, || json!({ "change": motion.to_string(), "file": file }), text)?;
    Ok(Exit::Done)
}

/// A motion of these changes.
pub(crate) fn motion(
    changes: Vec<ValidatorChange>,
    addresses: Vec<(u64, String)>,
) -> Result<Motion, Failure> {
    Motion::new(changes, addresses).map_err(Failure::usage)
}

/// Writes the change that adds a node, beside its new key.
pub(crate) fn write_join(
    directory: &Path,
    genesis: &Genesis,
    at: &NodeAt,
    key: &SigningKey,
) -> Result<(), Failure> {
    let node = at.node.number();
    let add = ValidatorChange::add(&genesis.key_chain(), node, JOIN_POWER, key);
    let add = add.map_err(Failure::service)?;
    let motion = motion(vec![add], vec![(node, at.address.to_string())])?;
    write(&directory.join(JOIN_FILE), &motion)
}

/// New keys of all validators, as one change of the scheme.
fn one_scheme(keys: &Motion) -> Result<Motion, Failure> {
    let mut new = Vec::new();
    for change in keys.changes() {
        let ValidatorChange::RotateKey(key) = change else {
            return Err(Failure::usage(format!(
                "{keys}: a change of scheme is of new keys alone; name the files that `quorate validator new-key --scheme` made, one of each validator"
            )));
        };
        new.push(key.clone());
    }
    new.sort_by_key(|key| key.node);
    let schemes: Vec<_> = new.iter().map(|key| key.key.scheme()).collect();
    let scheme = match schemes[..] {
        [first, ref rest @ ..] if rest.iter().all(|scheme| *scheme == first) => first,
        _ => return Err(Failure::usage(format!("{keys}: all keys have to be of one scheme"))),
    };
    motion(vec![ValidatorChange::Scheme { scheme, keys: new }], Vec::new())
}

/// All changes of these files, as one.
pub(crate) fn read_all(files: &[PathBuf]) -> Result<Motion, Failure> {
    let motions = files.iter().map(|file| read(file)).collect::<Result<Vec<_>, _>>()?;
    Motion::together(motions).map_err(Failure::usage)
}

fn read(path: &Path) -> Result<Motion, Failure> {
    let mut text = String::new();
    let file = File::open(path).map_err(|error| failed(path, &error))?;
    file.take(FILE_BYTES_MAX).read_to_string(&mut text).map_err(|error| failed(path, &error))?;
    text.parse().map_err(|error| failed(path, &error))
}

/// A new file: what is there may be waiting for approvals.
fn write(path: &Path, motion: &Motion) -> Result<(), Failure> {
    if path.exists() {
        return Err(failed(path, &"it is there already; name a new file"));
    }
    fs::write(path, motion.to_text()).map_err(|error| failed(path, &error))
}

fn failed(path: &Path, problem: &dyn std::fmt::Display) -> Failure {
    Failure::usage(format!("{}: {problem}", path.display()))
}
