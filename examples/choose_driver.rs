//! Which consensus decides is a word of the configuration, not of the program.
//!
//! ```sh
//! cargo run --example choose_driver
//! QUORATE_NODE_DURABILITY=memory cargo run --example choose_driver
//! QUORATE_DRIVER_KIND=paxos cargo run --example choose_driver    # says which drivers there are
//! cargo run --example choose_driver -- node.toml                 # from a file
//! ```

use quorate::kv::PutOptions;
use quorate::{Config, Node, Origin, ShardKey};

#[tokio::main]
async fn main() {
    if let Err(error) = run().await {
        eprintln!("choose_driver: {error}");
        std::process::exit(1);
    }
}

async fn run() -> Result<(), Box<dyn std::error::Error>> {
    let mut builder = Config::builder().set("node.data_dir", "./choose-driver-data", Origin::Code);
    if let Some(file) = std::env::args().nth(1) {
        builder = builder.file(file)?;
    }
    let config = builder.environment(std::env::vars_os())?.build()?;

    let node = Node::open(config).await?;
    let shard = ShardKey::new("acme", "settings")?;
    node.kv().put(&shard, b"colour", b"green", PutOptions::default()).await?;

    // What an accept is worth depends on both words, so both are shown.
    let status = node.status();
    println!("decided by {}, durability {}", status.driver, status.durability);
    node.close().await?;
    Ok(())
}
