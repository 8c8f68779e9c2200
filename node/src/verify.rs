//! `quorate verify`: checks every stored record and checkpoint, without writing and without a node.

use quorate::builtin::{self, VerifyReport};
use quorate::{Config, Durability};
use serde_json::{Value, json};

use crate::cli::Output;
use crate::exit::{Exit, Failure};
use crate::status::hex;
use crate::{open, print_as};

pub(crate) fn run(config: &Config, output: Output) -> Result<Exit, Failure> {
    if config.node.durability == Durability::Memory {
        return Err(Failure::usage(
            "durability is memory: nothing is stored that could be checked",
        ));
    }
    let reports = builtin::verify(config).map_err(open::failure)?;
    print_as(
        output,
        || json!({ "ok": true, "groups": reports.iter().map(as_json).collect::<Vec<_>>() }),
        || {
            let groups = reports.iter().map(as_text).collect::<Vec<_>>();
            format!("everything stored is whole\n{}", groups.join("\n"))
        },
    )?;
    Ok(Exit::Done)
}

fn as_json(report: &VerifyReport) -> Value {
    json!({
        "group": report.group.number(),
        "log_first": report.log_first,
        "log_entries": report.log_entries,
        "checkpoint": report.checkpoint,
        "checkpoint_pairs": report.checkpoint_pairs,
        "checkpoint_digest": hex(&report.checkpoint_digest),
        "applied": report.applied,
        "history": hex(&report.history),
        "sessions": report.sessions,
    })
}

fn as_text(report: &VerifyReport) -> String {
    let checkpoint = match report.checkpoint {
        0 => "none yet".into(),
        index => {
            let digest = hex(&report.checkpoint_digest);
            format!("at {index}, {} pairs, digest {digest}", report.checkpoint_pairs)
        }
    };
    format!(
        "group        {}\n\
         log          {} entries from {}\n\
         checkpoint   {checkpoint}\n\
         applied      {}\n\
         history      {}\n\
         sessions     {}",
        report.group,
        report.log_entries,
        report.log_first,
        report.applied,
        hex(&report.history),
        report.sessions,
    )
}
