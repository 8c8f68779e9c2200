//! What is imported is there, in order, and once, whatever happens to the process.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use common::{Place, UNICODE, budget};
use quorate::kv::OrgReadOptions;
use quorate::{Config, Node};

/// The bytes of each line decide, as with `LC_ALL=C sort`.
fn sorted(text: &str) -> String {
    let mut lines: Vec<_> = text.lines().collect();
    lines.sort_unstable();
    lines.join("\n") + "\n"
}

/// Revision of each namespace of an organisation: how many operations changed it.
fn revisions(place: &Place, org: &str) -> BTreeMap<String, u64> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let node = Node::open(Config::in_dir(place.data())).await.unwrap();
        let page = node.kv().namespaces(org, None, 1000, OrgReadOptions::default()).await.unwrap();
        assert!(page.next.is_none(), "more namespaces than a page holds");
        node.close().await.unwrap();
        let revisions = page.namespaces.into_iter();
        revisions.map(|one| (one.shard.namespace().to_string(), one.revision)).collect()
    })
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
    const REPORT_EVERY: u64 = 16;
    let input = fs::read_to_string(UNICODE).unwrap();
    // Every line is a key of its own, so each namespace changes once for each of its lines.
    let mut expected = BTreeMap::new();
    for line in input.lines() {
        *expected.entry(line.split('"').nth(7).unwrap().to_string()).or_insert(0) += 1;
    }

    let mut seed = std::env::var("QUORATE_TEST_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(|| (u64::from(std::process::id()) << 16) | 1);
    println!("QUORATE_TEST_SEED={seed}");
    let kills = budget(8, 50);
    let place = Place::new();
    for kill in 0..kills {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        // From none at all to so many that the kills go through most of the file.
        let frames = seed % (2 * input.lines().count() as u64 / (kills + 4));
        let mut child = place
            .command(["import", "--rate", "20000", UNICODE, "--report-every"])
            .arg(REPORT_EVERY.to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let mut lines = stderr.lines().map(Result::unwrap);
        let mut answered = 0;
        while answered + REPORT_EVERY <= frames
            && let Some(line) = lines.next()
        {
            let count = line.split_once(" frames answered").map(|(count, _)| count.parse());
            answered = count.map_or(answered, Result::unwrap);
        }
        child.kill().unwrap();
        let ended = child.wait().unwrap();
        // One that was through would start anew the next time, and apply every line again.
        assert!(!ended.success(), "kill {kill} of seed {seed} came too late: {answered} answered");
    }
    let resumed = place.import(UNICODE.as_ref(), &[]);
    assert_eq!(resumed.code, 0, "seed {seed}: {}", resumed.err);
    let summary = resumed.json();
    assert_eq!(summary["resumed"], true, "seed {seed}: {summary}");
    assert_ne!(summary["already"], 0, "seed {seed}: {summary}");
    assert!(place.export() == sorted(&input), "seed {seed}: export differs from sort");
    assert_eq!(revisions(&place, "unicode"), expected, "seed {seed}: applied twice or lost");
}

#[test]
fn a_finished_import_starts_anew() {
    let place = Place::new();
    let line = "{\"org\":\"o\",\"ns\":\"n\",\"op\":\"put\",\"key\":\"k\",\"text\":\"v\"}\n";
    let file = place.write("one.ndjson", line);
    for revision in 1..=3 {
        let summary = place.import(&file, &[]).json();
        assert_eq!((&summary["resumed"], &summary["accepted"]), (&false.into(), &1.into()));
        assert_eq!(revisions(&place, "o")["n"], revision);
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
