//! The arrows between the crates run one way, and the smallest build stays small.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use cargo_metadata::{DependencyKind, MetadataCommand};

/// Which crates of ours each crate of ours may depend on, apart from its tests. A new crate has to take its place
/// here.
fn allowed(name: &str) -> Option<Vec<&'static str>> {
    const LEAVES: [&str; 2] = ["quorate-replicator", "quorate-storage"];
    let mut allowed = Vec::new();
    match name {
        "quorate-replicator" | "quorate-storage" | "quorate-certificate" | "quorate-planted" => {}
        "quorate-engine" => allowed.extend(LEAVES),
        "quorate-host" => {
            allowed.extend(LEAVES);
            allowed.push("quorate-engine");
        }
        "quorate-driver-quorum" => {
            allowed.extend(LEAVES);
            allowed.extend(["quorate-engine", "quorate-certificate"]);
        }
        _ if name.starts_with("quorate-driver-") => {
            allowed.extend(LEAVES);
            allowed.push("quorate-engine");
        }
        "quorate-shard" => allowed.push("quorate-replicator"),
        "quorate-client" => {
            allowed.extend(["quorate-certificate", "quorate-replicator", "quorate-shard"]);
            allowed.push("quorate-transport-quic");
        }
        _ if name.starts_with("quorate-transport-") => allowed.push("quorate-replicator"),
        "quorate" => {
            allowed.extend(LEAVES);
            allowed.extend([
                "quorate-engine",
                "quorate-host",
                "quorate-shard",
                "quorate-client",
                "quorate-certificate",
                "quorate-driver-local",
                "quorate-driver-quorum",
                "quorate-driver-quorum",
                "quorate-driver-raft",
                "quorate-transport-memory",
                "quorate-transport-quic",
            ]);
        }
        "quorate-node" => allowed.push("quorate"),
        // For development: they may see everything below the facade.
        "quorate-sim" | "quorate-conformance" => {
            allowed.extend(LEAVES);
            allowed.extend([
                "quorate-engine",
                "quorate-host",
                "quorate-shard",
                "quorate-certificate",
                "quorate-driver-local",
                "quorate-driver-quorum",
                "quorate-driver-quorum",
                "quorate-driver-raft",
                "quorate-transport-memory",
            ]);
            if name == "quorate-sim" {
                allowed.push("quorate-conformance");
            }
        }
        // It reads what every one of them reads.
        "quorate-fuzz" => {
            allowed.extend(LEAVES);
            allowed.extend([
                "quorate",
                "quorate-certificate",
                "quorate-engine",
                "quorate-shard",
                "quorate-client",
                "quorate-driver-raft",
                "quorate-transport-quic",
            ]);
        }
        _ => return None,
    }
    Some(allowed)
}

#[test]
fn arrows_between_crates_run_one_way() {
    let metadata = MetadataCommand::new().no_deps().exec().expect("cargo metadata");
    let packages = metadata.workspace_packages();
    let ours: BTreeSet<&str> = packages.iter().map(|package| package.name.as_str()).collect();
    assert!(ours.contains("quorate-replicator"), "the workspace has no contract crate: {ours:?}");

    let mut wrong = BTreeMap::new();
    for package in &packages {
        let name = package.name.as_str();
        let allowed = allowed(name).unwrap_or_else(|| {
            panic!("{name} has no place in tests/architecture.rs; say what it may depend on")
        });
        for dependency in &package.dependencies {
            let target = dependency.name.as_str();
            // Tests may use what the crate itself may not: a host is tested with a driver.
            if dependency.kind == DependencyKind::Development || !ours.contains(target) {
                continue;
            }
            // Hooks of planted bugs are in no normal build.
            if target == "quorate-planted" {
                let only = dependency.target.as_ref().map(ToString::to_string);
                assert_eq!(only.as_deref(), Some("cfg(quorate_planted)"), "of {name}");
                continue;
            }
            if !allowed.contains(&target) {
                wrong.insert(format!("{name} -> {target}"), allowed.clone());
            }
        }
    }
    assert!(wrong.is_empty(), "arrows that may not be, each with what may be: {wrong:#?}");
}

#[test]
fn the_contract_and_the_engines_know_no_runtime() {
    for package in [
        "quorate-replicator",
        "quorate-engine",
        "quorate-storage",
        "quorate-shard",
        "quorate-certificate",
    ] {
        let crates = tree(&["-p", package, "-e", "normal"]);
        assert!(
            !crates.iter().any(|line| line.starts_with("tokio ")),
            "{package} depends on tokio: cargo tree -p {package} -i tokio -e normal"
        );
    }
}

#[test]
fn the_smallest_build_has_at_most_60_crates_and_no_c() {
    const CRATES_MAX: usize = 60;
    let local = ["-p", "quorate", "--no-default-features", "--features", "local"];
    let crates = tree(&[&local[..], &["-e", "normal"]].concat());
    let count = crates.len();
    println!("{count} crates");
    assert!(count <= CRATES_MAX, "{count} crates, at most {CRATES_MAX}: {crates:#?}");

    // blake3's build script links `cc` even where its feature `pure` makes it compile nothing.
    let building: Vec<_> = tree(&[&local[..], &["-e", "normal,build", "-i", "cc"]].concat())
        .into_iter()
        .filter(|line| !line.starts_with("cc ") && !line.contains("(*)"))
        .collect();
    let direct: Vec<_> = building.iter().filter(|line| !line.starts_with("quorate")).collect();
    assert!(
        direct.iter().all(|line| line.starts_with("blake3 ")),
        "these may compile C: {direct:?}"
    );
    let features = tree(&[&local[..], &["-e", "features", "-i", "blake3"]].concat());
    assert!(
        direct.is_empty() || features.iter().any(|line| line.contains("feature \"pure\"")),
        "blake3 compiles C or assembly unless its feature `pure` is on: {features:#?}"
    );
}

/// The lines of `cargo tree`, each crate once.
fn tree(arguments: &[&str]) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--manifest-path", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")])
        .args(["--prefix", "none", "--no-dedupe", "--offline"])
        .args(arguments)
        .output()
        .expect("cargo tree");
    let problem = String::from_utf8_lossy(&output.stderr).into_owned();
    // Asking who needs a crate that nobody needs is answered with nothing, or with this error.
    assert!(
        output.status.success() || problem.contains("did not match any packages"),
        "cargo tree {arguments:?}: {problem}"
    );
    String::from_utf8(output.stdout)
        .expect("cargo writes UTF-8")
        .lines()
        .filter(|line| !line.trim().is_empty())
        .map(String::from)
        .collect()
}
