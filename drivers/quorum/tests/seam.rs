//! Malachite is named behind the seam alone: no type of it is on wire, on disk, or in what other crates see.

use std::fs;
use std::path::{Path, PathBuf};

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
}

fn each_source(judge: impl Fn(&str, &str)) {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    sources(&src, &mut found);
    assert!(found.len() > 10, "{} sources", found.len());
    for path in found {
        let name = path.strip_prefix(&src).unwrap().display().to_string();
        judge(&name, &fs::read_to_string(&path).unwrap());
    }
}

#[test]
fn the_core_is_named_behind_the_seam_alone() {
    each_source(|name, source| {
        let behind = name == "tendermint.rs" || name.starts_with("tendermint/");
        let named = source.contains("malachitebft_");
        assert!(behind || !named, "{name} names the core");
    });
}
