//! `quorate kv get --proof`: a value with all that it takes to see that it was decided, for whoever does not believe the node.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use quorate::audit::{AuditOptions, StoredAuditError, prove};
use quorate::builtin;
use quorate::certificate::{
    DecidedFrame, Genesis, PROOF_BYTES_MAX, PROOF_MAGIC, ProvenFrame, Shown,
};
use quorate::kv::{Op, TransactionOp};
use quorate::{Config, GroupId, ShardKey};
use serde_json::{Value, json};

use crate::cli::{Global, Output};
use crate::exit::{Exit, Failure};
use crate::founding::QUORUM;
use crate::status::hex;
use crate::{open, print_as, tell};

/// Writes the proof of the newest decided write of a key, from the data of a node that is stopped, and prints what it wrote.
pub(crate) fn write(
    global: &Global,
    shard: &ShardKey,
    key: &str,
    to: &Path,
    output: Output,
) -> Result<Exit, Failure> {
    if global.connect.is_some() {
        return Err(Failure::usage(
            "--proof is made from the data of a node: stop one, and name its configuration with --config in place of --connect",
        ));
    }
    let config = global.config().map_err(Failure::usage)?;
    if config.driver.kind != QUORUM {
        return Err(Failure::usage(format!(
            "driver {} makes no certificates, so that there is nothing to prove a value with; driver {QUORUM} does",
            config.driver.kind
        )));
    }
    let genesis = builtin::genesis(&config).map_err(open::failure)?;
    let wanted = |frame: &ProvenFrame| {
        frame.shard == shard.as_str() && puts(&frame.payload, key.as_bytes()).is_some()
    };
    let Some(proof) = newest(&config, &genesis, wanted)? else {
        tell(&format!("no decided write of key {key:?} of {shard} is in the log of this node\n"));
        return Ok(Exit::Problems);
    };
    // What is handed out is looked at as its receiver will.
    let shown = proof.verify(Some(&genesis)).map_err(Failure::service)?;
    let failed = |error: io::Error| {
        Failure::usage(format!("{}: {error}; name a new file with --proof", to.display()))
    };
    let mut file = File::create_new(to).map_err(failed)?;
    file.write_all(&proof.encode()).and_then(|()| file.sync_all()).map_err(failed)?;
    report(&shown, output)?;
    Ok(Exit::Done)
}

/// The newest in the log: a namespace is in one group.
fn newest(
    config: &Config,
    genesis: &Genesis,
    wanted: impl Fn(&ProvenFrame) -> bool,
) -> Result<Option<DecidedFrame>, Failure> {
    for group in 0..config.shard.groups {
        let mut options = AuditOptions::default();
        options.group = GroupId::new(group);
        let found = prove(&config.node.data_dir, genesis, &options, &wanted);
        let found = found.map_err(|error: StoredAuditError| {
            let exit = if error.is_refusal() { Exit::Problems } else { Exit::Data };
            Failure { exit, message: error.to_string() }
        })?;
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// The value that an operation gives a key, if it does; of a transaction the last one in it.
fn puts<'a>(payload: &'a [u8], wanted: &[u8]) -> Option<&'a [u8]> {
    match Op::decode(payload).ok()? {
        Op::Put { key, value, .. } if key == wanted => Some(value),
        Op::Transaction(transaction) => {
            let ops = transaction.otherwise.iter().rev().chain(transaction.then.iter().rev());
            ops.copied().find_map(|op| match op {
                TransactionOp::Put { key, value, .. } if key == wanted => Some(value),
                _ => None,
            })
        }
        _ => None,
    }
}

/// Whether a file begins as a proof does.
pub(crate) fn is_one(bytes: &[u8]) -> bool {
    bytes.starts_with(PROOF_MAGIC)
}

/// Most bytes of a file that is one.
pub(crate) const BYTES_MAX: usize = PROOF_BYTES_MAX;

/// Verifies a proof, and prints what it shows.
pub(crate) fn verify(
    path: &Path,
    bytes: Vec<u8>,
    genesis: Option<&Genesis>,
    output: Output,
) -> Result<Exit, Failure> {
    let refused = |problem: String| Failure {
        exit: Exit::Problems,
        message: format!("{}: {problem}", path.display()),
    };
    let proof = DecidedFrame::decode(&bytes.into()).map_err(|error| refused(error.to_string()))?;
    let shown = proof.verify(genesis).map_err(|error| refused(error.to_string()))?;
    report(&shown, output)?;
    Ok(Exit::Done)
}

fn report(shown: &Shown, output: Output) -> Result<(), Failure> {
    let Shown { genesis, group, height, id, frame, .. } = shown;
    let ProvenFrame { slot, session, serial, shard, payload, .. } = frame;
    let op = Op::decode(payload).ok();
    print_as(
        output,
        || {
            json!({
                "ok": true,
                "genesis": hex(genesis),
                "group": group,
                "height": height,
                "id": hex(id),
                "slot": slot,
                "session": hex(session),
                "serial": serial,
                "shard": shard,
                "op": op.as_ref().map_or(Value::Null, op_as_json),
                "payload": STANDARD.encode(payload),
            })
        },
        || {
            let unread = || format!("a frame of {} bytes", payload.len());
            let what = op.as_ref().map_or_else(unread, op_as_text);
            format!(
                "decided  {what}\nshard    {shard}\nat       height {height}, slot {slot}, group g{group}\nframe    {}:{serial}\n\
                 batch    {}\ngenesis  {}",
                hex(session),
                hex(id),
                hex(genesis)
            )
        },
    )
}

fn op_as_text(op: &Op<'_>) -> String {
    match op {
        Op::Put { key, value, condition, .. } => {
            let only = if condition.is_some() { ", if a condition held" } else { "" };
            format!("put {} = {}{only}", shown(key), shown(value))
        }
        Op::Delete { key, .. } => format!("delete {}", shown(key)),
        Op::Transaction(_) => "a transaction".into(),
        _ => "an operation of another kind".into(),
    }
}

fn op_as_json(op: &Op<'_>) -> Value {
    match op {
        Op::Put { key, value, condition, .. } => json!({
            "op": "put",
            "key": STANDARD.encode(key),
            "val": STANDARD.encode(value),
            "conditional": condition.is_some(),
        }),
        Op::Delete { key, .. } => json!({ "op": "del", "key": STANDARD.encode(key) }),
        _ => Value::Null,
    }
}

/// Bytes as people read them.
fn shown(bytes: &[u8]) -> String {
    const SHOWN_MAX: usize = 200;
    match std::str::from_utf8(bytes) {
        Ok(text) if text.len() <= SHOWN_MAX => format!("{text:?}"),
        _ => format!("{} bytes", bytes.len()),
    }
}
