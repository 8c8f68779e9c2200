//! What three Raft nodes, or four that decide by signed votes, cost in one process from the outside, beside one local node that does the
//! same work.
//!
//!     cargo bench --bench clusters -- [part of a row's name [the one to be measured alone]]
//!
//! Whatever does the same work is measured by turns, so that a machine with other work takes from all alike; a table
//! at the end gives medians, and ratios within the turns. Beside others' Raft: `benches/peers`.

mod clients;
mod cluster;
mod contest;
#[path = "../propose/counting_disk.rs"]
mod counting_disk;
mod idle;
mod machine;
#[path = "../propose/meter.rs"]
mod meter;
mod suite;

fn main() {
    suite::run(|_, _| None);
}
