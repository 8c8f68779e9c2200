//! The sources of a crate, for tests of what may be named where.

use std::fs;
use std::path::Path;

/// Shows `judge` each Rust file below `src` of the crate in `manifest_dir`: its name within `src`, and its text.
///
/// # Panics
///
/// If there are no sources, or they cannot be read.
pub fn each_source(manifest_dir: &str, mut judge: impl FnMut(&str, &str)) {
    let src = Path::new(manifest_dir).join("src");
    let mut folders = vec![src.clone()];
    let mut found = 0;
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder of sources can be listed") {
            let path = entry.expect("a folder of sources can be listed").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                found += 1;
                let name = path.strip_prefix(&src).expect("it is below").display().to_string();
                judge(&name, &fs::read_to_string(&path).expect("a source can be read"));
            }
        }
    }
    assert!(found > 10, "{found} sources in {}", src.display());
}
