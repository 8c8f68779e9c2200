//! quorate's Raft beside others' that do the same work by turns in the same run.
//!
//!     cargo run --release --manifest-path benches/peers/Cargo.toml -- [part of a row's name]
//!
//! The rows are those of `benches/raft`, whose files these are.

#[path = "../../raft/clients.rs"]
mod clients;
#[path = "../../raft/cluster.rs"]
mod cluster;
#[path = "../../raft/contest.rs"]
mod contest;
#[path = "../../propose/counting_disk.rs"]
mod counting_disk;
#[path = "../../raft/idle.rs"]
mod idle;
#[path = "../../raft/machine.rs"]
mod machine;
#[path = "../../propose/meter.rs"]
mod meter;
mod openraft_cluster;
mod openraft_store;
#[path = "../../raft/suite.rs"]
mod suite;

fn main() {
    suite::run(openraft_cluster::entrant);
}
