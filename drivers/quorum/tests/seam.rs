//! Malachite is named behind the seam alone: no type of it is on wire, on disk, or in what other crates see.

use quorate_conformance::each_source;

#[test]
fn the_core_is_named_behind_the_seam_alone() {
    each_source(env!("CARGO_MANIFEST_DIR"), |name, source| {
        let behind = name == "tendermint.rs" || name.starts_with("tendermint/");
        let named = source.contains("malachitebft_");
        assert!(behind || !named, "{name} names the core");
    });
}
