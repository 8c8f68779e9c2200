//! `quorate init-cluster` and `quorate init-node`: everything that the nodes and clients of a cluster need to find and trust
//! one another.

use std::path::Path;

use serde_json::json;

use crate::cli::{InitClusterArgs, InitNodeArgs, Output};
use crate::cluster::{CLIENT_FILE, Cluster, NODE_FILE, node_id};
use crate::exit::{Exit, Failure};
use crate::founding::{self, Choice, Founding, GENESIS_FILE, QUORUM};
use crate::status::hex;
use crate::validator::JOIN_FILE;
use crate::{audit, print_as, tell};

/// What a cluster is for: several nodes.
const DRIVER: &str = "raft";

pub(crate) fn cluster(
    arguments: &InitClusterArgs,
    driver: Option<&str>,
    output: Output,
) -> Result<Exit, Failure> {
    let InitClusterArgs { nodes, out, from, validity_days, clients, .. } = arguments;
    let driver = driver.unwrap_or(DRIVER);
    let choice = choice(arguments, driver)?;
    let cluster = match from {
        Some(directory) => Cluster::grown(nodes, driver, directory, choice)?,
        None => Cluster::new(nodes, driver, choice)?,
    };
    check_clients(clients)?;
    cluster.create(out, clients, *validity_days)?;
    if let (None, Some(founding)) = (from, &cluster.founding)
        && let Some(warning) = founding::warning(&founding.genesis)
    {
        tell(&format!("warning: {warning}\n"));
    }
    print_as(
        output,
        || {
            json!({
                "cluster": cluster.id.to_string(),
                "directory": out.display().to_string(),
                "nodes": cluster.nodes.keys().map(|node| {
                    out.join(node.to_string()).join(NODE_FILE).display().to_string()
                }).collect::<Vec<_>>(),
                "clients": clients.iter().map(|client| {
                    out.join(client).join(CLIENT_FILE).display().to_string()
                }).collect::<Vec<_>>(),
            })
        },
        || next_steps(&cluster, out, clients),
    )?;
    Ok(Exit::Done)
}

/// What the validators are to be, which only driver quorum has.
fn choice(arguments: &InitClusterArgs, driver: &str) -> Result<Choice, Failure> {
    let InitClusterArgs { fault_model, scheme, signed_frames, .. } = arguments;
    if driver != QUORUM && (fault_model.is_some() || scheme.is_some() || *signed_frames) {
        return Err(Failure::usage(format!(
            "--fault-model, --scheme and --signed-frames are about validators, which driver {driver} does not have; leave them out, or take --driver {QUORUM}"
        )));
    }
    let default = Choice::default();
    Ok(Choice {
        fault_model: fault_model.unwrap_or(default.fault_model),
        scheme: scheme.unwrap_or(default.scheme),
        signed_frames: *signed_frames,
    })
}

/// One more directory, of a node that is to be added to a cluster.
pub(crate) fn node(arguments: &InitNodeArgs, output: Output) -> Result<Exit, Failure> {
    let InitNodeArgs { node, authority, validity_days } = arguments;
    let mut cluster = Cluster::load(authority)?;
    cluster.add(node)?;
    if cluster.driver == QUORUM {
        let genesis = audit::read_genesis(&authority.join(GENESIS_FILE))?;
        cluster.founding = Some(Founding::joining(genesis, node.node)?);
    }
    let directory = authority.join(node.node.to_string());
    if directory.exists() {
        return Err(Failure::usage(format!(
            "{} is there already, and {} does not know of {}; take another number, or move it away",
            directory.display(),
            authority.display(),
            node.node
        )));
    }
    cluster.maker(authority)?.node(&directory, node, *validity_days)?;
    cluster.write(authority)?;
    let config = directory.join(NODE_FILE).display().to_string();
    print_as(
        output,
        || json!({ "node": node.node.number(), "config": config }),
        || {
            if cluster.founding.is_some() {
                return format!(
                    "made {dir}\n\n\
                     1. copy {dir} to {host} and start it there; it follows the validators that approve it:\n   \
                        quorate serve --config {name}/{NODE_FILE}\n\
                     2. have it approved by the operators of the validators, each at the nodes of its client:\n   \
                        quorate --connect CLIENT.toml member approve {name}/{JOIN_FILE}\n\
                     3. write `{number} = \"{address}\"` into [client.nodes] of the clients",
                    dir = directory.display(),
                    host = node.address.host(),
                    name = node.node,
                    number = node.node.number(),
                    address = node.address,
                );
            }
            format!(
                "made {dir}\n\n\
                 1. copy {dir} to {host} and start it there; it waits to be added:\n   \
                    quorate serve --config {name}/{NODE_FILE}\n\
                 2. add it to the cluster, or put it in the place of another node:\n   \
                    quorate --connect CLIENT.toml member add {name}={address}\n   \
                    quorate --connect CLIENT.toml member replace OLD {name}={address}\n\
                 3. write `{number} = \"{address}\"` into [client.nodes] of the clients",
                dir = directory.display(),
                host = node.address.host(),
                name = node.node,
                number = node.node.number(),
                address = node.address,
            )
        },
    )?;
    Ok(Exit::Done)
}

/// A client's directory stands beside those of the nodes.
fn check_clients(clients: &[String]) -> Result<(), Failure> {
    for (at, client) in clients.iter().enumerate() {
        let taken = node_id(client).is_ok()
            || ["authority.pem", "authority.key", "cluster.toml", ".", ".."].contains(&&client[..]);
        if taken || clients[..at].contains(client) {
            return Err(Failure::usage(format!(
                "client {client:?} cannot have a directory of its own beside the others; give it another name"
            )));
        }
    }
    Ok(())
}

fn next_steps(cluster: &Cluster, out: &Path, clients: &[String]) -> String {
    let mut text =
        format!("made {} for cluster {}, driver {}\n", out.display(), cluster.id, cluster.driver);
    if let Some((node, _)) = &cluster.from {
        text += &format!(
            "\n0. take the data of {node} to the driver, while no node uses it:\n   \
             quorate driver switch --to {} --config {}",
            cluster.driver,
            out.join(node.to_string()).join(NODE_FILE).display()
        );
    }
    if let Some(founding) = &cluster.founding {
        let genesis = &founding.genesis;
        text += &format!(
            "\ngenesis {}, fault model {}, scheme {}\n",
            hex(&genesis.hash()),
            genesis.fault_model(),
            genesis.validators().scheme()
        );
    }
    text += "\n1. copy each node's directory to its machine, and start it there, the same way at every start:";
    for (node, address) in &cluster.nodes {
        let config = out.join(node.to_string()).join(NODE_FILE);
        text += &format!(
            "\n   quorate serve --config {:<32} # {}",
            config.display().to_string(),
            address.host()
        );
    }
    if let Some(client) = clients.first() {
        let client = out.join(client).join(CLIENT_FILE);
        let client = client.display();
        text += &format!(
            "\n2. talk to the cluster from wherever {client} and the files beside it are:\n   \
             quorate --connect {client} status\n   \
             quorate --connect {client} kv put app/greeting hello world"
        );
    }
    let added = cluster.nodes.iter().filter(|(node, _)| !cluster.founders.contains(node));
    for (number, (node, address)) in added.enumerate() {
        if number == 0 {
            text += "\n   the others wait to be added, one after the other:";
        }
        let client = clients.first().map_or("CLIENT", |client| client);
        let client = out.join(client).join(CLIENT_FILE);
        let client = client.display();
        text += &match cluster.founding {
            Some(_) => format!(
                "\n   quorate --connect {client} member approve {}",
                out.join(node.to_string()).join(JOIN_FILE).display()
            ),
            None => format!("\n   quorate --connect {client} member add {node}={address}"),
        };
    }
    text += &format!(
        "\n3. keep {} where no node runs: its key makes nodes and clients, and renews their certificates",
        out.join("authority.key").display()
    );
    if cluster.founding.is_some() {
        text += &format!(
            "\n4. keep {} for whoever shall verify what is decided: `quorate audit --genesis` takes it.\n   \
             A validator's key belongs on its node alone: delete the directories here once they are copied",
            out.join(GENESIS_FILE).display()
        );
    }
    text
}
