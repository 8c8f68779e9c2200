//! `quorate audit`: verifies what validators have decided, with nothing but their keys.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use quorate::audit::{AuditOptions, StoredAuditError, stored};
use quorate::builtin;
use quorate::certificate::{Audited, Genesis, HistoryFileError, ValueId, audit_history};
use quorate::{Config, GroupId};
use serde_json::json;

use crate::cli::{AuditArgs, Output};
use crate::exit::{Exit, Failure};
use crate::founding::{GENESIS_FILE, QUORUM};
use crate::status::hex;
use crate::{open, print_as, proof, tell};

/// Largest genesis file that is read, in bytes.
const GENESIS_BYTES_MAX: u64 = 1 << 20;

/// As many bytes tell what a file is.
const BEGIN_BYTES: u64 = 16;

/// A height and the id of its header, as `HEIGHT:HASH`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tip {
    height: u64,
    id: ValueId,
}

impl std::str::FromStr for Tip {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once(':').and_then(|(height, digits)| {
            let height = height.parse().ok().filter(|height| *height > 0)?;
            let mut id = [0; 32];
            if digits.len() != 64 || !digits.is_ascii() {
                return None;
            }
            for (byte, pair) in id.iter_mut().zip(digits.as_bytes().chunks(2)) {
                *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
            }
            Some(Self { height, id })
        });
        parsed.ok_or_else(|| {
            format!("{text:?} is no tip; write HEIGHT:HASH as an audit prints it, with 64 hexadecimal digits")
        })
    }
}

pub(crate) fn run(
    config: impl FnOnce() -> Result<Config, Failure>,
    arguments: &AuditArgs,
    output: Output,
) -> Result<Exit, Failure> {
    let AuditArgs { path, genesis, tip, group, export } = arguments;
    let given = genesis.as_deref().map(read_genesis).transpose()?;
    let audited = match path {
        Some(path) if !path.is_dir() => {
            if export.is_some() {
                return Err(Failure::usage(format!(
                    "{} is a history already; --export writes that of a data directory",
                    path.display()
                )));
            }
            let mut opened = opened(path)?;
            if given.is_none() {
                tell(
                    "without --genesis that of the file is taken: compare its hash with that of somebody you trust\n",
                );
            }
            let mut begin = Vec::new();
            let unread = |error| Failure::usage(format!("{}: {error}", path.display()));
            (&mut opened).take(BEGIN_BYTES).read_to_end(&mut begin).map_err(unread)?;
            if proof::is_one(&begin) {
                if tip.is_some() {
                    return Err(Failure::usage(
                        "--tip is looked for in a history, and this is a proof of one frame",
                    ));
                }
                let more = opened.take(proof::BYTES_MAX as u64 + 1).read_to_end(&mut begin);
                more.map_err(unread)?;
                return proof::verify(path, begin, given.as_ref(), output);
            }
            file(path, io::Cursor::new(begin).chain(opened), given.as_ref(), *tip)?
        }
        path => {
            let (data_dir, genesis) = stored_in(config, path.as_deref(), given)?;
            directory(&data_dir, &genesis, *tip, *group, export.as_deref())?
        }
    };
    report(&audited, output)?;
    Ok(Exit::Done)
}

/// A history that is not what was decided is what the job is to find.
fn refused(what: &Path, problem: &dyn std::fmt::Display) -> Failure {
    Failure { exit: Exit::Problems, message: format!("{}: {problem}", what.display()) }
}

fn opened(path: &Path) -> Result<File, Failure> {
    File::open(path).map_err(|error| {
        Failure::usage(format!(
            "{}: {error}; name a data directory, or a history that `quorate audit --export` wrote",
            path.display()
        ))
    })
}

fn file(
    path: &Path,
    from: impl Read,
    genesis: Option<&Genesis>,
    tip: Option<Tip>,
) -> Result<Audited, Failure> {
    let tip = tip.map(|tip| (tip.height, tip.id));
    audit_history(BufReader::new(from), genesis, tip).map_err(|error| match error {
        HistoryFileError::Read { .. } => Failure::usage(format!("{}: {error}", path.display())),
        error => refused(path, &error),
    })
}

fn directory(
    data_dir: &Path,
    genesis: &Genesis,
    tip: Option<Tip>,
    group: u32,
    export: Option<&Path>,
) -> Result<Audited, Failure> {
    let mut options = AuditOptions::default();
    options.group = GroupId::new(group);
    options.tip = tip.map(|tip| (tip.height, tip.id));
    let mut writer = export.map(create).transpose()?;
    let to = writer.as_mut().map(|writer| writer as &mut dyn Write);
    let audited = stored(data_dir, genesis, &options, to).map_err(|error| {
        if let Some(export) = export {
            // A part of a history would be taken for one that was cut off.
            let _ = fs::remove_file(export);
        }
        match error {
            error if error.is_refusal() => refused(data_dir, &error),
            StoredAuditError::Export { error } => {
                let export = export.unwrap_or(data_dir);
                Failure::usage(format!("{}: {error}", export.display()))
            }
            error => Failure::data(error),
        }
    })?;
    if let (Some(writer), Some(export)) = (writer, export) {
        let written = writer.into_inner().map_err(|error| error.into_error());
        written
            .and_then(|file| file.sync_all())
            .map_err(|error| Failure::usage(format!("{}: {error}", export.display())))?;
    }
    Ok(audited)
}

/// A new file: what is there is somebody's record.
fn create(path: &Path) -> Result<BufWriter<File>, Failure> {
    let file = File::create_new(path).map_err(|error| {
        Failure::usage(format!("{}: {error}; name a new file with --export", path.display()))
    })?;
    Ok(BufWriter::new(file))
}

/// The data directory, and the genesis that goes with it.
fn stored_in(
    config: impl FnOnce() -> Result<Config, Failure>,
    path: Option<&Path>,
    given: Option<Genesis>,
) -> Result<(PathBuf, Genesis), Failure> {
    if let (Some(path), Some(genesis)) = (path, &given) {
        return Ok((path.to_owned(), genesis.clone()));
    }
    let config = config()?;
    let data_dir = path.map_or_else(|| config.node.data_dir.clone(), Path::to_owned);
    let genesis = match given {
        Some(genesis) => genesis,
        None if config.driver.kind == QUORUM => builtin::genesis(&config).map_err(open::failure)?,
        None => {
            return Err(Failure::usage(format!(
                "what {} has is verified against a genesis: name its file with --genesis, or the node's configuration with --config; \
                 `quorate init-cluster` made a {GENESIS_FILE}",
                data_dir.display()
            )));
        }
    };
    Ok((data_dir, genesis))
}

pub(crate) fn read_genesis(path: &Path) -> Result<Genesis, Failure> {
    let wrong = |problem: &dyn std::fmt::Display| {
        Failure::usage(format!("genesis {}: {problem}", path.display()))
    };
    let mut text = String::new();
    let file = File::open(path).map_err(|error| wrong(&error))?;
    file.take(GENESIS_BYTES_MAX).read_to_string(&mut text).map_err(|error| wrong(&error))?;
    toml::from_str(&text).map_err(|error| wrong(&error))
}

fn report(audited: &Audited, output: Output) -> Result<(), Failure> {
    let Audited { genesis, group, first, inherited, height, id, epoch, changes, evidence, .. } =
        audited;
    print_as(
        output,
        || {
            json!({
                "ok": true,
                "genesis": hex(genesis),
                "group": group,
                "first": first,
                "inherited": inherited.map(|state| hex(&state)),
                "height": height,
                "id": hex(id),
                "epoch": epoch,
                "changes": changes.iter().map(|change| json!({
                    "height": change.height,
                    "change": change.words,
                    "approved_by": change.approved_by,
                })).collect::<Vec<_>>(),
                "evidence": evidence.iter().map(|it| json!({
                    "node": it.validator(),
                    "deed": it.deed(),
                    "height": it.height(),
                    "round": it.round(),
                })).collect::<Vec<_>>(),
            })
        },
        || {
            let what = match (first, height, inherited) {
                (0, ..) => "nothing is decided in it yet".to_owned(),
                (1, height, _) => format!("all {height} heights are decided by their validators"),
                (first, height, Some(state)) => format!(
                    "all heights, {first} to {height}, are decided by their validators; they go on from what another driver left at {}, whose \
                     history has hash {}",
                    first - 1,
                    hex(state)
                ),
                (first, height, None) => format!(
                    "heights {first} to {height} are decided by their validators; what was before is not in it"
                ),
            };
            let mut text = format!(
                "{what}\ngenesis  {}\ngroup    g{group}\nepoch    {epoch}\ntip      {height}:{}",
                hex(genesis),
                hex(id)
            );
            for change in changes {
                let approved = change.approved_by.iter().map(|node| format!("n{node}"));
                let approved = approved.collect::<Vec<_>>().join(", ");
                text += &format!(
                    "\nchange   height {}: {}, approved by {approved}",
                    change.height, change.words
                );
            }
            for it in evidence {
                text += &format!(
                    "\nevidence n{} {} at height {}, round {}",
                    it.validator(),
                    it.deed(),
                    it.height(),
                    it.round()
                );
            }
            text
        },
    )
}
