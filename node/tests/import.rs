//! What is imported is there, in order, and once, whatever happens to the process.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use common::{Place, UNICODE, budget};

/// The bytes of each line decide, as with `LC_ALL=C sort`.
fn sorted(text: &str) -> String {
    let mut lines: Vec<_> = text.lines().collect();
    lines.sort_unstable();
    lines.join("\n") + "\n"
}

/// Revision of each namespace: how many operations changed it.
fn revisions(place: &Place, namespaces: &[&str]) -> BTreeMap<String, u64> {
    let one = |namespace: &str| {
        let list = place.run(&["kv", "list", namespace, "-o", "json", "--limit", "1"]);
        let revision = list.json()["namespace_revision"].as_u64().expect("a revision");
        (namespace.to_string(), revision)
    };
    namespaces.iter().map(|namespace| one(namespace)).collect()
}

#[test]
fn export_is_the_sorted_input() {
    let place = Place::new();
    let summary = place.import(UNICODE.as_ref(), &[]);
    assert_eq!(summary.code, 0, "{}", summary.err);
    let summary = summary.json();
    assert_eq!(summary["accepted"], 34_924);
    assert_eq!(summary["bad_lines"], 0);
    assert_eq!(summary["durability"], "disk");
    assert_eq!(summary["driver"], "local");

    let exported = place.export();
    assert!(exported == sorted(&fs::read_to_string(UNICODE).unwrap()), "export differs from sort");

    let again = Place::new();
    let file = again.write("exported.ndjson", &exported);
    assert_eq!(again.import(&file, &[]).code, 0);
    assert!(again.export() == exported, "export, import, export differs from export");
}

#[test]
fn killed_at_random_and_resumed_nothing_is_lost_or_applied_twice() {
    // The first lines of the file are in few namespaces and quickly imported; the rest is the same.
    let lines: Vec<_> =
        fs::read_to_string(UNICODE).unwrap().lines().take(8000).map(String::from).collect();
    let input = lines.join("\n") + "\n";
    let namespaces = ["unicode/Lu", "unicode/Ll", "unicode/Lo", "unicode/Cc", "unicode/Mn"];

    let whole = Place::new();
    assert_eq!(whole.import(&whole.write("input.ndjson", &input), &[]).code, 0);
    let expected = revisions(&whole, &namespaces);
    assert_eq!(whole.export(), sorted(&input));

    let mut seed = std::env::var("QUORATE_TEST_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(|| u64::from(std::process::id()) << 16 | 1);
    println!("QUORATE_TEST_SEED={seed}");
    let kills = budget(8, 50);
    let place = Place::new();
    let file = place.write("input.ndjson", &input);
    let mut killed = 0;
    while killed < kills {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        // Each run gets about as far as it would have to so that the last kill comes near the end.
        let reports = seed % 3;
        let mut child = place
            .command(["import", "--report-every", "64", "--rate", "20000"])
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut reported = 0;
        let stderr = BufReader::new(child.stderr.take().unwrap());
        for line in stderr.lines() {
            reported += u64::from(line.unwrap().contains("frames answered"));
            if reported > reports {
                break;
            }
        }
        child.kill().unwrap();
        let ended = child.wait().unwrap();
        if ended.success() {
            // It was through before it could be killed: the next one would start anew and apply all again.
            break;
        }
        killed += 1;
    }
    let resumed = place.import(&file, &[]);
    assert_eq!(resumed.code, 0, "{}", resumed.err);
    let summary = resumed.json();
    assert_eq!(summary["resumed"], true, "after {killed} kills, seed {seed}: {summary}");
    assert_eq!(killed, kills, "the file is too short for so many kills");
    assert_eq!(place.export(), sorted(&input), "seed {seed}");
    assert_eq!(revisions(&place, &namespaces), expected, "seed {seed}: applied twice or lost");
}

#[test]
fn a_finished_import_starts_anew() {
    let place = Place::new();
    let line = "{\"org\":\"o\",\"ns\":\"n\",\"op\":\"put\",\"key\":\"k\",\"text\":\"v\"}\n";
    let file = place.write("one.ndjson", line);
    for revision in 1..=3 {
        let summary = place.import(&file, &[]).json();
        assert_eq!((&summary["resumed"], &summary["accepted"]), (&false.into(), &1.into()));
        assert_eq!(revisions(&place, &["o/n"])["o/n"], revision);
    }
}

#[test]
fn bad_lines_are_reported_and_the_rest_is_imported() {
    let place = Place::new();
    let file = place.write(
        "mixed.ndjson",
        concat!(
            "{\"org\":\"o\",\"ns\":\"n\",\"op\":\"put\",\"key\":\"a\",\"text\":\"1\"}\n",
            "not json\n",
            "\n",
            "{\"org\":\"o\",\"ns\":\"n\",\"op\":\"put\",\"key\":\"b\",\"val\":\"/wA=\"}\n",
            "{\"org\":\"o\",\"ns\":\"n\",\"op\":\"put\",\"key\":\"\",\"text\":\"\"}\n",
            "{\"org\":\"o\",\"ns\":\"n\",\"op\":\"del\",\"key\":\"a\"}\n",
            "{\"org\":\"o\",\"ns\":\"n\",\"op\":\"put\",\"key\":\"c\",\"text\":\"1\",\"val\":\"\"}",
        ),
    );
    let summary = place.import(&file, &[]);
    assert_eq!(summary.code, 1);
    let problems = summary.json()["problems"].clone();
    let problems: Vec<_> = problems.as_array().unwrap().iter().collect();
    let lines: Vec<_> = problems.iter().map(|problem| problem["line"].as_u64().unwrap()).collect();
    assert_eq!(lines, [2, 5, 7], "{problems:?}");
    assert!(summary.err.contains("mixed.ndjson:2:2: expected"), "{}", summary.err);
    assert!(summary.err.contains("mixed.ndjson:5: key is empty"), "{}", summary.err);
    assert!(summary.err.contains("mixed.ndjson:7: has both `val` and `text`"), "{}", summary.err);
    assert_eq!(
        place.export(),
        "{\"org\":\"o\",\"ns\":\"n\",\"op\":\"put\",\"key\":\"b\",\"val\":\"/wA=\"}\n"
    );
}

#[test]
fn in_memory_an_import_says_so_and_leaves_nothing() {
    let place = Place::new();
    let line = "{\"org\":\"o\",\"ns\":\"n\",\"op\":\"put\",\"key\":\"k\",\"text\":\"v\"}\n";
    let file = place.write("one.ndjson", line);
    let summary = place.import(&file, &["--durability", "memory"]);
    assert_eq!(summary.code, 0, "{}", summary.err);
    assert_eq!(summary.json()["durability"], "memory");
    assert!(summary.err.contains("durability is memory"), "{}", summary.err);
    assert!(!place.data().exists(), "a node in memory made a data directory");
}
