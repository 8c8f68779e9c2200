//! quorate's Raft beside others' that do the same work by turns in the same run.
//!
//!     cargo run --release --manifest-path benches/peers/Cargo.toml -- [part of a row's name]
//!
//! The rows are those of `benches/clusters`, whose files these are.

#[path = "../../clusters/clients.rs"]
mod clients;
#[path = "../../clusters/cluster.rs"]
mod cluster;
#[path = "../../clusters/contest.rs"]
mod contest;
#[path = "../../propose/counting_disk.rs"]
mod counting_disk;
#[path = "../../clusters/idle.rs"]
mod idle;
#[path = "../../clusters/machine.rs"]
mod machine;
#[path = "../../propose/meter.rs"]
mod meter;
mod openraft_cluster;
mod openraft_store;
#[path = "../../clusters/suite.rs"]
mod suite;

fn main() {
    suite::run(openraft_cluster::entrant);
}
