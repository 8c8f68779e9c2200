//! A namespace with rules of the application's own: what they do not allow is decided as refused, on every node and under every driver.
//!
//! ```sh
//! cargo run --example rules
//! ```

use std::time::Duration;

use quorate::kv::{KvError, Op, PutOptions};
use quorate::shard::{Rules, ShardView};
use quorate::{Config, Frame, NodeBuilder, ShardKey, Shards};

/// Colours only, and at most three of them.
#[derive(Debug)]
struct Palette;

impl Rules for Palette {
    fn check(&self, frame: &Frame, shard: ShardView<'_>) -> Result<(), String> {
        let Ok(Op::Put { value, .. }) = Op::decode(&frame.payload) else { return Ok(()) };
        if ![&b"red"[..], b"green", b"blue", b"white"].contains(&value) {
            return Err(format!("\"{}\" is no colour", value.escape_ascii()));
        }
        // The table of the keys is 1. The state is that before the frame's batch.
        if shard.len(1) >= 3 { Err("three colours are enough".into()) } else { Ok(()) }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let config = Config::from_toml("node.durability = \"memory\"")?;
    // All nodes register a version before somebody puts it in force.
    let shards = Shards::builder().rules(1, Palette);
    let node = NodeBuilder::new(config).shards(shards).open().await?;
    let (kv, colours) = (node.kv(), ShardKey::new("acme", "colours")?);

    kv.put(&colours, b"anything", b"goes", PutOptions::default()).await?;
    kv.set_rules(&colours, 1, Duration::from_secs(2)).await?;
    for (key, value) in [("sky", "blue"), ("grass", "grass"), ("leaf", "green"), ("wall", "white")]
    {
        match kv.put(&colours, key.as_bytes(), value.as_bytes(), PutOptions::default()).await {
            Ok(done) => println!("{key}: {value}, revision {}", done.revision),
            Err(KvError::Session(refused)) => println!("{key}: {refused}"),
            Err(error) => return Err(error.into()),
        }
    }
    let count = node.shards().read(&colours, |shard| shard.len(1))?;
    assert_eq!(count, Some(3));
    node.close().await?;
    Ok(())
}
