//! `quorate driver`: which driver a stopped node's directory has, and taking it to another one with all that is in it.

use std::io::{self, Write as _};

use quorate::builtin::{self, GroupSwitched, Held, SwitchError, SwitchOptions, SwitchReport};
use quorate::{Config, Durability, NodeError};
use serde_json::{Value, json};

use crate::cli::{DriverCommand, Output, SwitchArgs};
use crate::exit::{Exit, Failure};
use crate::founding::QUORUM;
use crate::status::hex;
use crate::validator::JOIN_FILE;
use crate::{open, print_as};

/// So many namespaces are named for people.
const NAMED: usize = 8;

pub(crate) fn run(
    config: &Config,
    command: &DriverCommand,
    output: Output,
) -> Result<Exit, Failure> {
    match command {
        DriverCommand::Show => show(config, output),
        DriverCommand::Switch(arguments) => switch(config, arguments, output),
    }
}

fn show(config: &Config, output: Output) -> Result<Exit, Failure> {
    let directory = config.node.data_dir.display();
    if config.node.durability == Durability::Memory {
        return Err(Failure::usage("durability is memory: nothing is stored"));
    }
    let held = builtin::held(&config.node.data_dir).map_err(|error| Failure::data(&error))?;
    let Some(Held { driver, cluster, node, groups, .. }) = held else {
        return Err(Failure::data(format!(
            "data directory {directory} is not set up: check the path, or start the node, which sets it up for driver {}",
            config.driver.kind
        )));
    };
    let configured = &config.driver.kind;
    print_as(
        output,
        || {
            json!({
                "driver": driver, "configured": configured, "node": node.number(), "cluster": cluster.to_string(),
                "groups": groups,
            })
        },
        || {
            let differs = match driver == *configured {
                true => String::new(),
                false => format!(
                    "\nconfigured   {configured}: `quorate driver switch --to {configured}` takes the directory there"
                ),
            };
            format!(
                "driver       {driver}\nnode         {node}\ncluster      {cluster}\ngroups       {groups}{differs}"
            )
        },
    )?;
    Ok(Exit::Done)
}

fn switch(config: &Config, arguments: &SwitchArgs, output: Output) -> Result<Exit, Failure> {
    let SwitchArgs { to, from_this_replica, backup } = arguments;
    let mut options = SwitchOptions::default();
    (options.from_this_replica, options.backup) = (*from_this_replica, backup.clone());
    if output == Output::Text {
        // Nobody may be there to read it.
        let _ = writeln!(
            io::stderr(),
            "taking {} to driver {to}: it is copied first, then everything that is known to be decided is written anew, read back and \
             compared",
            config.node.data_dir.display()
        );
    }
    let report = builtin::switch(config, to, &options).map_err(failure)?;
    print_as(output, || as_json(&report), || as_text(config, &report))?;
    Ok(Exit::Done)
}

fn failure(error: NodeError) -> Failure {
    let exit = match &error {
        NodeError::Switch(SwitchError::Write { .. } | SwitchError::InForce { .. }) => Exit::Data,
        NodeError::Switch(SwitchError::Differs { .. }) => Exit::Service,
        NodeError::Switch(_) => Exit::Usage,
        _ => return open::failure(error),
    };
    Failure { exit, message: error.to_string() }
}

fn as_json(report: &SwitchReport) -> Value {
    let group = |group: &GroupSwitched| {
        let left: Vec<_> = group.left_behind.iter().map(|node| node.number()).collect();
        json!({
            "group": group.group.number(),
            "epoch": group.position.epoch,
            "index": group.position.index,
            "history": hex(&group.history),
            "sessions": group.sessions,
            "pairs": group.pairs,
            "may_be_missing": group.missing,
            "left_behind": left,
        })
    };
    let namespaces = report.namespaces.iter().map(|namespace| {
        json!({
            "namespace": namespace.shard.to_string(), "revision": namespace.revision, "keys": namespace.keys,
        })
    });
    json!({
        "ok": true,
        "from": report.from,
        "to": report.to,
        "voters": [report.node.number()],
        "backup": report.backup.display().to_string(),
        "groups": report.groups.iter().map(group).collect::<Vec<_>>(),
        "namespaces": namespaces.collect::<Vec<_>>(),
    })
}

fn as_text(config: &Config, report: &SwitchReport) -> String {
    let SwitchReport { from, to, node, backup, groups, namespaces, .. } = report;
    let sessions: u64 = groups.iter().map(|group| group.sessions).sum();
    let mut lines = vec![
        format!("driver       {to}, one voter: {node} (it was {from})"),
        format!("namespaces   {}", named(report)),
        format!("sessions     {sessions}"),
    ];
    if let Some(group) = groups.first() {
        lines.push(format!(
            "positions    go on in epoch {}; all {} namespaces were read back and compared",
            group.position.epoch,
            namespaces.len()
        ));
    }
    lines.push(format!("backup       {}", backup.display()));
    for group in groups {
        if let Some(missing) = &group.missing {
            lines.push(format!("may be lost  {}: {missing}", group.group));
        }
    }
    let mut left: Vec<_> = groups.iter().flat_map(|group| &group.left_behind).collect();
    left.sort_unstable();
    left.dedup();
    if !left.is_empty() {
        let left: Vec<_> = left.into_iter().map(ToString::to_string).collect();
        lines.push(format!(
            "left behind  {}: they join anew, with empty directories",
            left.join(", ")
        ));
    }
    lines.push(next(config, to));
    lines.join("\n")
}

/// The namespaces, some of them by name.
fn named(report: &SwitchReport) -> String {
    let named: Vec<_> = report
        .namespaces
        .iter()
        .take(NAMED)
        .map(|namespace| format!("{} at revision {}", namespace.shard, namespace.revision))
        .collect();
    match report.namespaces.len() {
        0 => "none yet".into(),
        all if all > NAMED => format!("{}, and {} more", named.join(", "), all - NAMED),
        _ => named.join(", "),
    }
}

/// What to do now.
fn next(config: &Config, to: &str) -> String {
    let mut steps = Vec::new();
    if config.driver.kind != to {
        steps.push(format!("set `kind = \"{to}\"` in [driver]"));
    }
    if to == "local" {
        if config.transport.kind != "none" {
            steps.push("leave out [transport] and `node.founders`".into());
        }
        steps.push("start the node".into());
    } else {
        steps.push("start the node with a [transport]".into());
        let add = match to {
            QUORUM => format!("`quorate member approve n2/{JOIN_FILE}`"),
            _ => "`quorate member add n2=HOST:PORT`".into(),
        };
        steps.push(format!("add the others, each with an empty directory: {add}"));
    }
    format!("next         {}", steps.join(", "))
}
