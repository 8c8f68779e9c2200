//! `quorate status`: what a node knows of itself, or each node of a cluster, and why nobody leads.

use std::collections::BTreeSet;
use std::io::{self, IsTerminal as _};
use std::time::Duration;

use quorate::{Client, GroupStatus, Health, NodeId, Role, Status};
use serde_json::{Value, json};

use crate::cli::{Output, StatusArgs};
use crate::exit::{Exit, Failure};
use crate::target::{Way, connect};
use crate::{open, print, print_as};

/// How long a node may take to say how it is.
pub(crate) const ASK_WITHIN: Duration = Duration::from_secs(2);

/// How each configured node of a cluster is, or why it does not tell.
type Statuses = Vec<(NodeId, Result<Status, String>)>;

pub(crate) async fn run(way: Way, arguments: &StatusArgs, output: Output) -> Result<Exit, Failure> {
    let config = match way {
        Way::There(config) => {
            let client = connect(*config).await?;
            let result = watch(&client, arguments, output).await;
            client.close().await;
            return result;
        }
        Way::Here(config) => *config,
    };
    if arguments.watch.is_some() {
        return Err(Failure::usage(
            "a node that is opened here has nothing to watch; ask the nodes of a cluster with --connect CLIENT.toml",
        ));
    }
    let data_dir = config.node.data_dir.display().to_string();
    let node = open::open_existing(config).await?;
    let status = node.status();
    let printed = print_as(
        output,
        || {
            let mut json = as_json(&status);
            json["data_dir"] = data_dir.as_str().into();
            json
        },
        || as_text(&status, &data_dir),
    );
    let exit = if status.health == Health::Ready { Exit::Done } else { Exit::Service };
    open::close(&node, printed.map(|()| exit)).await
}

/// Prints the cluster once, or again and again.
async fn watch(client: &Client, arguments: &StatusArgs, output: Output) -> Result<Exit, Failure> {
    loop {
        let statuses = client.statuses(ASK_WITHIN).await;
        let clear =
            arguments.watch.is_some() && output == Output::Text && io::stdout().is_terminal();
        if clear {
            // To the upper left corner, and everything after it away.
            print!("\x1b[H\x1b[2J");
        }
        print_as(output, || cluster_json(&statuses), || cluster_text(&statuses))?;
        match arguments.watch {
            None => return Ok(judge(&statuses)),
            Some(seconds) => {
                if !clear && output == Output::Text {
                    print("")?;
                }
                tokio::time::sleep(Duration::from_secs(seconds)).await;
            }
        }
    }
}

/// Whether the cluster decides, and whether all of it is there.
fn judge(statuses: &Statuses) -> Exit {
    let is_ready = |status: &Result<Status, String>| matches!(status, Ok(status) if status.health == Health::Ready);
    match statuses.iter().filter(|(_, status)| is_ready(status)).count() {
        0 => Exit::Service,
        ready if ready < statuses.len() => Exit::Problems,
        _ => Exit::Done,
    }
}

fn cluster_json(statuses: &Statuses) -> Value {
    let nodes = statuses.iter().map(|(node, status)| match status {
        Ok(status) => as_json(status),
        Err(problem) => json!({ "node": node.number(), "problem": problem }),
    });
    json!({ "nodes": nodes.collect::<Vec<_>>() })
}

fn cluster_text(statuses: &Statuses) -> String {
    let known = || statuses.iter().filter_map(|(_, status)| status.as_ref().ok());
    let mut text = String::new();
    if let Some(status) = known().next() {
        text += &format!("driver {}, durability {}\n\n", status.driver, status.durability);
    }
    for (node, status) in statuses {
        let line = match status {
            Ok(status) => health_words(status),
            Err(problem) => format!("does not tell: {problem}"),
        };
        text += &format!("{:<6} {line}\n", node.to_string());
    }
    let groups: BTreeSet<_> =
        known().flat_map(|status| status.groups.iter().map(|group| group.group)).collect();
    for group in groups {
        let views: Vec<(NodeId, &GroupStatus)> = known()
            .filter_map(|status| {
                let view = status.groups.iter().find(|known| known.group == group)?;
                Some((status.node, view))
            })
            .collect();
        text += &format!("\n{group}, {}\n", led(&views));
        for (node, view) in views {
            text += &format!(
                "  {:<6} {:<10} applied {} of {}, checkpoint {}{}\n",
                node.to_string(),
                role(view.role),
                view.applied,
                view.committed,
                view.checkpoint,
                lagging(view),
            );
        }
    }
    // The last line is ended by whoever prints.
    text.truncate(text.trim_end().len());
    text
}

/// Who leads a group, or why nobody does, as those say who answered.
fn led(views: &[(NodeId, &GroupStatus)]) -> String {
    let newest = views.iter().map(|(_, view)| view.term).max().unwrap_or(0);
    let of_newest = views.iter().find(|(_, view)| view.term == newest && view.leader.is_some());
    if let Some((_, view)) = of_newest
        && let Some(leader) = view.leader
    {
        return format!("led by {leader} in term {newest}");
    }
    let reasons: BTreeSet<_> =
        views.iter().filter_map(|(_, view)| view.reason.as_deref()).collect();
    match reasons.is_empty() {
        true => "nobody leads".into(),
        false => format!("nobody leads: {}", reasons.into_iter().collect::<Vec<_>>().join("; ")),
    }
}

/// Whom a leader waits for.
fn lagging(view: &GroupStatus) -> String {
    let behind =
        view.peers.iter().filter(|peer| peer.lag.unwrap_or(0) > 0 || !peer.note.is_empty());
    let words = behind.map(|peer| match (peer.lag, &peer.note[..]) {
        (Some(lag), "") => format!("; {} lacks {lag}", peer.node),
        (Some(lag), note) if lag > 0 => format!("; {} lacks {lag}: {note}", peer.node),
        (_, note) => format!("; {}: {note}", peer.node),
    });
    words.collect()
}

fn role(role: Role) -> String {
    format!("{role:?}").to_lowercase()
}

fn as_json(status: &Status) -> Value {
    let numbers = |nodes: &[NodeId]| nodes.iter().map(|node| node.number()).collect::<Vec<_>>();
    let groups = status.groups.iter().map(|group| {
        json!({
            "group": group.group.number(),
            "role": role(group.role),
            "term": group.term,
            "leader": group.leader.map(|leader| leader.number()),
            "committed": group.committed,
            "applied": group.applied,
            "log_first": group.log_first,
            "checkpoint": group.checkpoint,
            "log_time_ms": group.log_time.as_ms(),
            "history": hex(&group.history),
            "members": numbers(&group.members),
            "learners": numbers(&group.learners),
            "reason": group.reason,
            "sessions": group.sessions,
            "peers": group.peers.iter().map(|peer| json!({
                "node": peer.node.number(),
                "lag": peer.lag,
                "note": peer.note,
            })).collect::<Vec<_>>(),
        })
    });
    json!({
        "node": status.node.number(),
        "driver": status.driver,
        "durability": status.durability,
        "health": health_words(status),
        "groups": groups.collect::<Vec<_>>(),
    })
}

fn as_text(status: &Status, data_dir: &str) -> String {
    let mut text = format!(
        "node         {}\ndriver       {}\ndurability   {}\ndata         {data_dir}\nhealth       {}",
        status.node,
        status.driver,
        status.durability,
        health_words(status)
    );
    for group in &status.groups {
        let checkpoint = match group.checkpoint {
            0 => "none yet".into(),
            index => format!("at {index}"),
        };
        text += &format!(
            "\n\ngroup        {}, {}\
             \napplied      {} of {} committed batches\
             \nlog          from {}\
             \ncheckpoint   {checkpoint}\
             \nlog time     {}\
             \nsessions     {}\
             \nhistory      {}",
            group.group.number(),
            role(group.role),
            group.applied,
            group.committed,
            group.log_first,
            group.log_time,
            group.sessions,
            hex(&group.history),
        );
    }
    text
}

/// What a node can do now, in words.
pub(crate) fn health_words(status: &Status) -> String {
    match &status.health {
        Health::Ready => "ready".into(),
        Health::Waiting { reason } => format!("waiting: {reason}"),
        Health::StorageFull => "disk full: reads are served, proposals are refused".into(),
        Health::Closed => "closed".into(),
        Health::Faulted { cause } => format!("faulted: {cause}"),
        _ => "unknown".into(),
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
