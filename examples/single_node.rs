//! A durable key-value state inside a program: no server, no configuration.
//!
//! Run it twice: the second run finds what the first one kept.
//!
//! ```sh
//! cargo run --example single_node
//! ```

use quorate::kv::{PutOptions, ReadOptions};
use quorate::{Config, Node, ShardKey};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let node = Node::open(Config::in_dir("./single-node-data")).await?;
    let settings = ShardKey::new("acme", "settings")?;

    let before = node.kv().get(&settings, b"colour", ReadOptions::default()).await?;
    println!("before: {:?}", before.entry.map(|entry| entry.value));

    let done = node.kv().put(&settings, b"colour", b"green", PutOptions::default()).await?;
    println!("kept at revision {}, position {}", done.revision, done.position);

    node.close().await?;
    Ok(())
}
