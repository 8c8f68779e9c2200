//! `quorate member`: who the members of a cluster are, and how that is changed while it runs.

use std::collections::BTreeMap;
use std::time::Duration;

use quorate::certificate::{Motion, ValidatorChange};
use quorate::{
    Client, ClientConfig, GroupStatus, Health, MemberChange, MemberRole, NodeId, Status,
};
use serde_json::json;
use tokio::task::JoinSet;

use crate::cli::{MemberArgs, MemberCommand, Output};
use crate::cluster::NodeAt;
use crate::exit::{Exit, Failure};
use crate::founding::QUORUM;
use crate::status::{ASK_WITHIN, health_words};
use crate::target::{Way, connect};
use crate::{print_as, validator};

pub(crate) async fn run(way: Way, arguments: &MemberArgs, output: Output) -> Result<Exit, Failure> {
    let Way::There(mut config) = way else {
        return Err(Failure::usage(
            "the members of a cluster are asked for at its nodes: name the client's file with --connect CLIENT.toml, as \
             `quorate init-cluster` made it",
        ));
    };
    let approved = match &arguments.command {
        MemberCommand::Approve { files } => Some(validator::read_all(files)?),
        MemberCommand::Power { node, power } => {
            let change = ValidatorChange::Power { node: node.number(), power: *power };
            Some(validator::motion(vec![change], Vec::new())?)
        }
        MemberCommand::Remove { node } if approves(&config).await => {
            let change = ValidatorChange::Remove { node: node.number() };
            Some(validator::motion(vec![change], Vec::new())?)
        }
        _ => None,
    };
    if let Some(motion) = approved {
        return approve(&config, &motion, arguments.within, output).await;
    }
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

/// Whether the members of a cluster change by approvals. One that does not tell is asked as others are, and says so itself.
async fn approves(config: &ClientConfig) -> bool {
    let Ok(client) = connect(config.clone()).await else { return false };
    let is_quorum = client.replicator().status().driver == QUORUM;
    client.close().await;
    is_quorum
}

/// Approves a change at each node, as its operator, and waits until it is in force.
async fn approve(
    config: &ClientConfig,
    motion: &Motion,
    within: Duration,
    output: Output,
) -> Result<Exit, Failure> {
    let new = motion.addresses().iter().map(|(node, at)| (NodeId::new(*node), at.clone()));
    let change = MemberChange::Approve { change: motion.encode(), new: new.collect() };
    let mut asked = JoinSet::new();
    for (node, address) in &config.nodes {
        let mut alone = config.clone();
        alone.nodes = [(*node, address.clone())].into();
        let (node, change) = (*node, change.clone());
        asked.spawn(async move {
            let answer = match connect(alone).await {
                Ok(client) => {
                    let answer = client.replicator().change_members(change, within).await;
                    client.close().await;
                    answer.map_err(|error| error.to_string())
                }
                Err(failure) => Err(failure.message),
            };
            (node, answer)
        });
    }
    let answers: BTreeMap<NodeId, Result<(), String>> =
        asked.join_all().await.into_iter().collect();
    let is_done = answers.values().any(Result::is_ok);
    print_as(
        output,
        || {
            let nodes = answers.iter().map(|(node, answer)| {
                let problem = answer.as_ref().err();
                json!({ "node": node.number(), "problem": problem })
            });
            json!({
                "change": motion.to_string(),
                "in_force": is_done,
                "nodes": nodes.collect::<Vec<_>>(),
            })
        },
        || {
            let lines = answers.iter().map(|(node, answer)| match answer {
                Ok(()) => format!("{:<6} it is in force", node.to_string()),
                Err(problem) => format!("{:<6} {problem}", node.to_string()),
            });
            format!("{motion}\n{}", lines.collect::<Vec<_>>().join("\n"))
        },
    )?;
    if is_done {
        return Ok(Exit::Done);
    }
    Err(Failure::service(
        "it is not in force: operators of validators with a quorum of the power have to approve the same, while these nodes run; ask again for what is not done",
    ))
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
        MemberCommand::Approve { .. } | MemberCommand::Power { .. } => {
            unreachable!("these are approved")
        }
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
