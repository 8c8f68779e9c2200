//! Opens the node that a command works on.

use quorate::{Config, Durability, Node, NodeConfig, NodeError, OpenError, builtin};

use crate::exit::{Exit, Failure};

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
pub(crate) async fn open(mut config: Config) -> Result<Node, Failure> {
    if config.node.open_within.is_zero() {
        // A command has nothing to do before the node serves.
        config.node.open_within = NodeConfig::default().open_within;
    }
    if config.node.durability == Durability::Memory {
        tracing::warn!("durability is memory: nothing is left of it when this command ends");
    }
    Node::open(config).await.map_err(failure)
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
        // A transport does not open with files or an address that it cannot use.
        NodeError::Config(_)
        | NodeError::Transport { .. }
        | NodeError::Open(OpenError::Config { .. }) => Exit::Usage,
        NodeError::Open(
            OpenError::Directory { .. } | OpenError::Corrupt { .. } | OpenError::Restore(_),
        ) => Exit::Data,
        _ => Exit::Service,
    };
    Failure { exit, message: error.to_string() }
}
