//! Opens the node that a command works on.

use std::time::Duration;

use quorate::{Config, Durability, Node, NodeError, OpenError, builtin};

use crate::exit::{Exit, Failure};
use crate::status;

/// How long a node may replay its log before a command gives up.
const READY_WITHIN: Duration = Duration::from_secs(300);

/// Opens the configured node for a command that only reads: a mistyped directory should be told, not set up.
pub(crate) async fn open_existing(config: Config) -> Result<Node, Failure> {
    builtin::check(&config).map_err(Failure::usage)?;
    let directory = &config.node.data_dir;
    if config.node.durability == Durability::Disk && !directory.exists() {
        return Err(Failure::data(format!(
            "data directory {} does not exist; `quorate import` and `quorate kv put` make it, or check the path",
            directory.display()
        )));
    }
    open(config).await
}

/// Opens the configured node, and waits until it serves.
pub(crate) async fn open(config: Config) -> Result<Node, Failure> {
    if config.node.durability == Durability::Memory {
        tracing::warn!("durability is memory: nothing is left of it when this command ends");
    }
    let node = Node::open(config).await.map_err(failure)?;
    if node.ready(READY_WITHIN).await {
        return Ok(node);
    }
    let health = node.status().health;
    let failure = Failure::service(format!("the node does not serve: {}", status::health(&health)));
    // What stopped it is told already.
    let _ = node.close().await;
    Err(failure)
}

/// Releases the data directory, whatever the command came to.
pub(crate) async fn close(node: &Node, result: Result<Exit, Failure>) -> Result<Exit, Failure> {
    let closed = node.close().await;
    let exit = result?;
    closed.map_err(Failure::service)?;
    Ok(exit)
}

/// What an error says of the exit code.
pub(crate) fn failure(error: NodeError) -> Failure {
    let exit = match &error {
        NodeError::Config(_) | NodeError::Open(OpenError::Config { .. }) => Exit::Usage,
        NodeError::Open(
            OpenError::Directory { .. } | OpenError::Corrupt { .. } | OpenError::Restore(_),
        ) => Exit::Data,
        _ => Exit::Service,
    };
    Failure { exit, message: error.to_string() }
}
