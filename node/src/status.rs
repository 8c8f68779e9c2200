//! `quorate status`: opens the node and prints what it knows of itself.

use quorate::{Config, Health, Status};
use serde_json::json;

use crate::cli::Output;
use crate::exit::{Exit, Failure};
use crate::{open, print_as};

pub(crate) async fn run(config: Config, output: Output) -> Result<Exit, Failure> {
    let data_dir = config.node.data_dir.display().to_string();
    let node = open::open_existing(config).await?;
    let status = node.status();
    let printed = print_as(output, || as_json(&status, &data_dir), || as_text(&status, &data_dir));
    let exit = if status.health == Health::Ready { Exit::Done } else { Exit::Service };
    open::close(&node, printed.map(|()| exit)).await
}

fn as_json(status: &Status, data_dir: &str) -> serde_json::Value {
    let groups = status.groups.iter().map(|group| {
        json!({
            "group": group.group.number(),
            "role": format!("{:?}", group.role).to_lowercase(),
            "term": group.term,
            "leader": group.leader.map(|leader| leader.number()),
            "committed": group.committed,
            "applied": group.applied,
            "log_first": group.log_first,
            "checkpoint": group.checkpoint,
            "log_time_ms": group.log_time.as_ms(),
            "history": hex(&group.history),
            "members": group.members.iter().map(|member| member.number()).collect::<Vec<_>>(),
            "sessions": group.sessions,
        })
    });
    json!({
        "node": status.node.number(),
        "driver": status.driver,
        "durability": status.durability,
        "data_dir": data_dir,
        "health": health(&status.health),
        "groups": groups.collect::<Vec<_>>(),
    })
}

fn as_text(status: &Status, data_dir: &str) -> String {
    let mut text = format!(
        "node         {}\ndriver       {}\ndurability   {}\ndata         {data_dir}\nhealth       {}",
        status.node,
        status.driver,
        status.durability,
        health(&status.health)
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
            format!("{:?}", group.role).to_lowercase(),
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

/// What a node can do, in words.
pub(crate) fn health(health: &Health) -> String {
    match health {
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
