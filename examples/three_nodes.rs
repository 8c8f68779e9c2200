//! Three nodes of one process decide by Raft: any node takes writes and reads, and one may fail.
//!
//! ```sh
//! cargo run --features raft --example three_nodes
//! ```

use quorate::kv::{PutOptions, ReadOptions};
use quorate::{Config, Node, NodeBuilder, NodeError, NodeId, ShardKey};
use quorate_transport_memory::MemoryHub;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let hub = MemoryHub::new(1);
    // All founders meet once, so they are opened together.
    let (one, two, three) = tokio::try_join!(open(&hub, 1), open(&hub, 2), open(&hub, 3))?;
    let colours = ShardKey::new("acme", "colours")?;

    two.kv().put(&colours, b"sky", b"blue", PutOptions::default()).await?;
    let read = three.kv().get(&colours, b"sky", ReadOptions::default()).await?;
    println!("written at n2, read at n3: {:?}", read.entry.map(|entry| entry.value));

    let led = one.status().groups[0].leader.ok_or("nobody leads")?;
    println!("led by {led}, which now stops");
    let (leader, others): (Vec<_>, Vec<_>) =
        [one, two, three].into_iter().partition(|node| node.status().node == led);
    for node in &leader {
        node.close().await?;
    }
    let done = others[0].kv().put(&colours, b"grass", b"green", PutOptions::default()).await?;
    println!("the other two went on: revision {}", done.revision);
    for node in others {
        node.close().await?;
    }
    Ok(())
}

async fn open(hub: &MemoryHub, id: u64) -> Result<Node, NodeError> {
    let config = Config::from_toml(&format!(
        "node = {{ id = {id}, founders = [1, 2, 3], durability = \"memory\" }}\ndriver.kind = \"raft\"",
    ))?;
    NodeBuilder::new(config).transport(hub.connect(NodeId::new(id))).open().await
}
