//! `quorate member`: who the members of a cluster are, and how that is changed while it runs.

use std::collections::BTreeMap;
use std::time::Duration;

use quorate::{Client, GroupStatus, Health, MemberChange, MemberRole, NodeId, Status};
use serde_json::json;

use crate::cli::{MemberArgs, MemberCommand, Output};
use crate::cluster::NodeAt;
use crate::exit::{Exit, Failure};
use crate::print_as;
use crate::status::{ASK_WITHIN, health_words};
use crate::target::{Way, connect};

pub(crate) async fn run(way: Way, arguments: &MemberArgs, output: Output) -> Result<Exit, Failure> {
    let Way::There(mut config) = way else {
        return Err(Failure::usage(
            "the members of a cluster are asked for at its nodes: name the client's file with --connect CLIENT.toml, as \
             `quorate init-cluster` made it",
        ));
    };
    if let MemberCommand::Remove { node: old } | MemberCommand::Replace { old, .. } =
        &arguments.command
        && config.nodes.len() > 1
    {
        // The others do not speak any more with one that is out, so it would never hear that this is done.
        config.nodes.remove(old);
    }
    let known = config.nodes.clone();
    let client = connect(*config).await?;
    let result = act(&client, &known, arguments, output).await;
    client.close().await;
    result
}

async fn act(
    client: &Client,
    known: &BTreeMap<NodeId, String>,
    arguments: &MemberArgs,
    output: Output,
) -> Result<Exit, Failure> {
    let MemberArgs { command, within } = arguments;
    let (change, done) = match command {
        MemberCommand::List => return list(client, output).await,
        MemberCommand::Transfer { to, group } => {
            return transfer(client, *to, *group, *within, output).await;
        }
        MemberCommand::Add { node, learner } => {
            is_new(client, known, node)?;
            let role = if *learner { MemberRole::Learner } else { MemberRole::Voter };
            let change =
                MemberChange::Add { node: node.node, address: node.address.to_string(), role };
            (change, format!("{} is a member, as a {role}", node.node))
        }
        MemberCommand::Promote { node } => {
            (MemberChange::Promote { node: *node }, format!("{node} votes"))
        }
        MemberCommand::Remove { node } => (
            MemberChange::Remove { node: *node },
            format!("{node} is out; stop it, its data is of no use to the cluster any more"),
        ),
        MemberCommand::Replace { old, new } => {
            let change = MemberChange::Replace {
                old: *old,
                new: new.node,
                address: new.address.to_string(),
            };
            (change, format!("{} votes in the place of {old}; stop {old}", new.node))
        }
    };
    let words = change.to_string();
    client.replicator().change_members(change, *within).await.map_err(Failure::service)?;
    print_as(output, || json!({ "done": words }), || done)?;
    Ok(Exit::Done)
}

/// Whether a number is free, as far as this client knows. What is asked for again, at the same address, is done again.
fn is_new(client: &Client, known: &BTreeMap<NodeId, String>, new: &NodeAt) -> Result<(), Failure> {
    let status = client.replicator().status();
    let is_member =
        status.groups.first().is_some_and(|group| members(group).any(|(node, _)| node == new.node));
    match known.get(&new.node) {
        Some(known) if is_member && *known != new.address.to_string() => {
            Err(Failure::usage(format!(
                "{} is a member already, at {known}; a number is one node for ever: give the new node another one",
                new.node
            )))
        }
        _ => Ok(()),
    }
}

/// Makes a node lead one group, or all.
async fn transfer(
    client: &Client,
    to: NodeId,
    group: Option<u32>,
    within: Duration,
    output: Output,
) -> Result<Exit, Failure> {
    let replicator = client.replicator();
    let groups = replicator.status().groups;
    let wanted: Vec<_> = groups
        .iter()
        .map(|status| status.group)
        .filter(|known| group.is_none_or(|group| known.number() == group))
        .collect();
    if wanted.is_empty() {
        return Err(Failure::usage(format!(
            "there is no such group; the cluster has {}, from 0",
            groups.len()
        )));
    }
    for group in &wanted {
        replicator.transfer(*group, to, within).await.map_err(Failure::service)?;
    }
    print_as(
        output,
        || json!({ "leader": to.number(), "groups": wanted.len() }),
        || match wanted.len() {
            1 => format!("{to} leads"),
            groups => format!("{to} leads {groups} groups"),
        },
    )?;
    Ok(Exit::Done)
}

/// Prints the members, and what they do.
async fn list(client: &Client, output: Output) -> Result<Exit, Failure> {
    let statuses = client.statuses(ASK_WITHIN).await;
    let known = statuses.iter().filter_map(|(_, status)| status.as_ref().ok());
    let Some(group) = known.flat_map(|status| status.groups.first()).max_by_key(|group| group.term)
    else {
        let problems = statuses.iter().filter_map(|(_, status)| status.as_ref().err());
        return Err(Failure::service(problems.cloned().collect::<Vec<_>>().join("; ")));
    };
    let states: BTreeMap<NodeId, &Result<Status, String>> =
        statuses.iter().map(|(node, status)| (*node, status)).collect();
    let rows: Vec<_> = members(group).map(|(node, role)| (node, role, states.get(&node))).collect();
    let leads = |node: NodeId| group.leader == Some(node);
    let state = |state: Option<&&Result<Status, String>>| match state {
        Some(Ok(status)) => health_words(status),
        Some(Err(problem)) => problem.clone(),
        None => "not asked: it is not in [client.nodes]".into(),
    };
    print_as(
        output,
        || {
            serde_json::Value::from_iter(rows.iter().map(|(node, role, status)| {
                let is_ready = status.is_some_and(
                    |status| matches!(status, Ok(status) if status.health == Health::Ready),
                );
                json!({
                    "node": node.number(),
                    "role": role.to_string(),
                    "leads": leads(*node),
                    "ready": is_ready,
                    "state": state(*status),
                })
            }))
        },
        || {
            let lines = rows.iter().map(|(node, role, status)| {
                let role = if leads(*node) { "leader".into() } else { role.to_string() };
                format!("{:<6} {role:<8} {}", node.to_string(), state(*status))
            });
            lines.collect::<Vec<_>>().join("\n")
        },
    )?;
    Ok(Exit::Done)
}

fn members(group: &GroupStatus) -> impl Iterator<Item = (NodeId, MemberRole)> {
    let voters = group.members.iter().map(|node| (*node, MemberRole::Voter));
    voters.chain(group.learners.iter().map(|node| (*node, MemberRole::Learner)))
}
