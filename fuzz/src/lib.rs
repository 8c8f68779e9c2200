//! Everything that reads bytes of others, with bytes that nobody meant.
//!
//! A [`Target`] is an ordinary function that panics if a promise is broken. `cargo test -p quorate-fuzz` gives it the inputs of
//! `corpus/` and its [seeds](Target::seeds); `fuzz/run TARGET SECONDS` lets libFuzzer look for others.
//!
//! 1. Nothing panics, whatever the bytes.
//! 2. What is read and written again is read as the same: bytes have one meaning, or none.
//! 3. What a checksum refutes is not believed.
//! 4. Memory is bounded by the input: nothing is allocated on the word of a length.
//!
//! Where a decoder is private, its crate has a hidden module `fuzzing`, which reads bytes and writes them again, or seals bytes with
//! checksums that are right, so that what is behind the checksum is reached too.

mod certificate;
mod checkpoint;
mod client;
mod config;
mod input;
mod lines;
mod log;
#[path = "../../node/src/ndjson.rs"]
#[allow(dead_code, unreachable_pub, reason = "the binary's own file, of which a part is used")]
mod ndjson;
mod packet;
mod quic;
mod raft;
mod shard;
mod snapshot;

use std::fmt;

use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Most bytes that are in memory at once for each byte of the input. The worst is a list of empty values: one byte of MessagePack
/// each, and a value of Rust in memory.
const BYTES_PER_BYTE: usize = 128;

/// Something that reads bytes of others.
pub struct Target {
    /// What it is called by `fuzz/run`, and where its inputs are.
    pub name: &'static str,
    /// Bytes that it may allocate whatever the input: buffers, and the files it works on.
    fixed_bytes: usize,
    judge: fn(&[u8]),
    seeds: fn() -> Vec<Vec<u8>>,
}

/// What MessagePack costs beside that: serde believes the length of a list up to this much, for each level of lists.
const LISTS_BYTES: usize = 4 << 20;

/// All of them.
pub const TARGETS: &[Target] = &[
    Target {
        name: "packet",
        fixed_bytes: LISTS_BYTES,
        judge: packet::packet,
        seeds: packet::packets,
    },
    Target {
        name: "batch",
        fixed_bytes: LISTS_BYTES,
        judge: packet::batch,
        seeds: packet::batches,
    },
    Target { name: "raft", fixed_bytes: 1 << 16, judge: raft::judge, seeds: raft::seeds },
    Target { name: "quic", fixed_bytes: 1 << 17, judge: quic::judge, seeds: quic::seeds },
    Target { name: "client", fixed_bytes: LISTS_BYTES, judge: client::judge, seeds: client::seeds },
    Target { name: "shard", fixed_bytes: LISTS_BYTES, judge: shard::apply, seeds: shard::payloads },
    Target {
        name: "restore",
        fixed_bytes: LISTS_BYTES,
        judge: shard::restore,
        seeds: shard::stores,
    },
    Target { name: "records", fixed_bytes: 8 << 20, judge: log::records, seeds: log::runs },
    Target { name: "recovery", fixed_bytes: 8 << 20, judge: log::recovery, seeds: log::edits },
    Target {
        name: "snapshot",
        fixed_bytes: 16 << 20,
        judge: snapshot::judge,
        seeds: snapshot::seeds,
    },
    Target {
        name: "checkpoint",
        fixed_bytes: 32 << 20,
        judge: checkpoint::judge,
        seeds: checkpoint::seeds,
    },
    Target {
        name: "manifest",
        fixed_bytes: 1 << 18,
        judge: config::manifest,
        seeds: config::manifests,
    },
    Target { name: "config", fixed_bytes: 1 << 17, judge: config::config, seeds: config::configs },
    Target {
        name: "certificate",
        fixed_bytes: 1 << 20,
        judge: certificate::judge,
        seeds: certificate::seeds,
    },
    Target { name: "lines", fixed_bytes: 1 << 16, judge: lines::judge, seeds: lines::seeds },
];

/// The target of this name.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

impl Target {
    /// Panics if the target breaks a promise with these bytes. Not while other threads allocate.
    pub fn judge(&self, bytes: &[u8]) {
        let before = MEMORY.current_usage();
        MEMORY.reset_peak_usage();
        (self.judge)(bytes);
        let used = MEMORY.peak_usage().saturating_sub(before);
        let allowed = self.fixed_bytes + BYTES_PER_BYTE * bytes.len();
        assert!(used <= allowed, "{} bytes of input took {used} bytes, of {allowed}", bytes.len());
    }

    /// Inputs that make sense, from which others are made.
    pub fn seeds(&self) -> Vec<Vec<u8>> {
        (self.seeds)()
    }

    /// Makes what every input is judged with, so that no input is charged for it. From then on panics are told without where they
    /// come from, which takes memory too: damaged pages make redb panic, which is caught.
    pub fn prepare(&self) {
        std::panic::set_hook(Box::new(|panic| eprintln!("{panic}")));
        (self.judge)(&[]);
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}
