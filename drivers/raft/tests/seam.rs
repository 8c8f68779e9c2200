//! What the exceptions in `deny.toml` rest on: the core is named behind the seam alone, and nothing is parsed or printed as
//! protobuf, not even bytes of our own.

use quorate_conformance::each_source;

#[test]
fn no_byte_reaches_protobuf() {
    // How messages of `protobuf` 2 are parsed and printed, and how the core is made to do it.
    const WORDS: [&str; 7] = [
        "protobuf::",
        "parse_from",
        "merge_from",
        "write_to",
        "compute_size",
        "propose_conf_change",
        "prost",
    ];
    each_source(env!("CARGO_MANIFEST_DIR"), |name, source| {
        for word in WORDS {
            assert!(!source.contains(word), "{name} has {word:?}");
        }
    });
}

#[test]
fn the_core_is_named_behind_the_seam_alone() {
    each_source(env!("CARGO_MANIFEST_DIR"), |name, source| {
        let behind = name == "core.rs" || name.starts_with("core/");
        let named = source.lines().any(|line| {
            let line = line.trim_start();
            line.starts_with("use raft::") || line.starts_with("pub(crate) use raft::")
        });
        assert!(behind || !named, "{name} names the core");
    });
}
