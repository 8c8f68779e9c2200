//! Whatever is wrong, the user gets one clear message that says what to do, a non-zero exit code, and keeps what was
//! accepted before.

mod common;

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{Ended, Place};

/// A place with one key in it.
fn with_a_key() -> Place {
    let place = Place::new();
    let put = place.run(&["kv", "put", "acme/cfg", "kept", "value"]);
    assert_eq!(put.code, 0, "{}", put.err);
    place
}

/// The key is still there.
fn check_kept(place: &Place) {
    let got = place.run(&["kv", "get", "acme/cfg", "kept"]);
    assert_eq!((got.code, got.out.as_str()), (0, "value\n"), "{}", got.err);
}

/// One message, with these words, under this code.
#[track_caller]
fn refused(ended: &Ended, code: i32, words: &[&str]) {
    assert_eq!(ended.code, code, "out: {}\nerr: {}", ended.out, ended.err);
    for words in words {
        assert!(ended.err.contains(words), "no {words:?} in: {}", ended.err);
    }
    let messages = ended.err.lines().filter(|line| line.starts_with("quorate: ")).count();
    assert!(messages <= 1, "more than one message: {}", ended.err);
    assert!(!ended.err.contains("panicked"), "{}", ended.err);
}

#[test]
fn a_wrong_configuration_is_refused_before_anything_happens() {
    let place = Place::new();
    let run = |arguments: &[&str]| place.run(arguments);
    let with = |text: &str| {
        let file = place.write("q.toml", text);
        place.run(&["status", "--config", file.to_str().unwrap()])
    };
    refused(
        &run(&["status", "--driver", "paxos"]),
        2,
        &[
            "driver.kind = \"paxos\" (flag --driver) names an unknown driver \"paxos\"; this program has: local",
        ],
    );
    refused(
        &with("[driver]\nkind = \"paxos\"\n"),
        2,
        &["q.toml:2) names an unknown driver \"paxos\"; this program has: local"],
    );
    refused(
        &with("[node]\nid = \"one\"\n"),
        2,
        &["q.toml:2:6: invalid type: string \"one\", expected u64"],
    );
    refused(
        &with("[node]\nname = \"one\"\n"),
        2,
        &["q.toml:2:1: unknown field `name`, expected one of `id`"],
    );
    refused(
        &with("[driver.local]\nbatches = 2\n"),
        2,
        &["q.toml:2:1: unknown field `batches`, expected `batches_in_flight`"],
    );
    refused(
        &with("[driver.raftt]\n"),
        2,
        &["q.toml:1:9: unknown driver \"raftt\"; this program has: local"],
    );
    refused(&with("[node]\nid = 1\nid = 2\n"), 2, &["q.toml:3:1: duplicate key"]);
    refused(
        &run(&["status", "--durability", "ram"]),
        2,
        &[
            "node.durability = ram (flag --durability) unknown variant `ram`, expected `disk` or `memory`",
        ],
    );
    refused(
        &run(&["status", "--config", "missing.toml"]),
        2,
        &["cannot read configuration file missing.toml: No such file"],
    );
    let mut command = place.command(["status"]);
    command.env("QUORATE_DATA_DIR", "/data");
    refused(
        &Ended::of(command),
        2,
        &["QUORATE_DATA_DIR sets nothing; did you mean QUORATE_NODE_DATA_DIR?"],
    );
    refused(&run(&["import"]), 2, &["<FILE>"]);
    refused(&run(&["import", "f", "--rate", "0"]), 2, &["--rate"]);
    refused(
        &run(&["kv", "get", "noslash", "k"]),
        2,
        &["has no `/` between organisation and namespace"],
    );
    refused(&run(&["kv", "get", "a/../b", "k"]), 2, &["holds the character '/'"]);
    refused(&run(&["kv", "get", "/b", "k"]), 2, &["organisation \"\" is empty"]);
    assert!(!place.data().exists(), "a refused command made a data directory");
}

#[test]
fn config_check_finds_what_opening_would() {
    let place = Place::new();
    let check = |text: &str| {
        let file = place.write("q.toml", text);
        place.run(&["config", "check", "--config", file.to_str().unwrap()])
    };
    assert_eq!(check("[driver.local]\nbatches_in_flight = 3\n").code, 0);
    refused(
        &check("[driver.local]\nbatches_in_flight = \"3\"\n"),
        2,
        &["q.toml:2:21: invalid type"],
    );
    refused(&check("[transport]\nkind = \"memory\"\n"), 2, &["transport.kind", "hub"]);
    assert!(!place.data().exists());
    let explained = place.run(&["config", "explain", "-o", "json"]).json();
    let line = |key: &str| {
        let lines = explained.as_array().unwrap();
        lines.iter().find(|line| line["key"] == key).unwrap()["origin"].clone()
    };
    assert_eq!(line("node.data_dir"), "flag --data-dir");
    assert_eq!(line("driver.kind"), "default");
}

#[test]
fn a_wrong_input_file_or_value_is_refused() {
    let place = with_a_key();
    refused(&place.import(Path::new("missing.ndjson"), &[]), 2, &["missing.ndjson: No such file"]);
    refused(&place.import(place.path("").as_path(), &[]), 2, &["is a directory"]);
    for unseekable in ["-", "/dev/null"] {
        refused(&place.import(Path::new(unseekable), &[]), 2, &["only a regular file"]);
    }

    let frame = |field: &str, value: &str| {
        format!(
            "{{\"org\":\"o\",\"ns\":\"n\",\"op\":\"put\",\"key\":\"k\",\"{field}\":\"{value}\"}}\n"
        )
    };
    let large = "x".repeat(1 << 20);
    let cases = [
        (frame("text", &large), "1: its frame would have"),
        (frame("val", "a-b"), "1: `val` is not base64"),
        (frame("text", "a\",\"val\":\"YQ=="), "1: has both `val` and `text`"),
        (frame("ttl", "5"), "unknown field `ttl`"),
        (frame("text", "x").replace("\"o\"", "\"\""), "1: organisation \"\" is empty"),
        (frame("text", "x").replace("\"n\"", "\"..\""), "1: namespace \"..\" would be a path"),
        (frame("text", "x").replace("\"k\"", "\"\""), "1: key is empty"),
        (frame("text", "x").replace("put", "cas"), "unknown variant `cas`"),
        ("x".repeat((8 << 20) + 1), "1: is longer than 8388608 bytes"),
    ];
    for (line, words) in cases {
        refused(&place.import(&place.write("bad.ndjson", line), &[]), 1, &[words]);
    }
    refused(&place.run(&["kv", "put", "o/n", "", "v"]), 1, &["key is empty"]);
    let file = place.write("large", &large);
    let mut command = place.command(["kv", "put", "o/n", "k", "-"]);
    command.stdin(fs::File::open(file).unwrap());
    refused(&Ended::of(command), 2, &["at most 1048576 are allowed"]);
    assert_eq!(place.run(&["kv", "list", "o/n"]).out, "");
    check_kept(&place);
}

#[test]
fn a_data_directory_of_someone_else_is_refused() {
    let place = with_a_key();
    let file = place.write("file", "not a directory");
    let at = |directory: &Path| {
        let mut command = place.bare();
        command.arg("--data-dir").arg(directory).arg("status");
        Ended::of(command)
    };
    refused(&at(&file), 3, &[file.to_str().unwrap()]);
    let missing = Place::new();
    for command in [&["status"][..], &["export"], &["kv", "list", "o/n"], &["verify"]] {
        refused(&missing.run(command), 3, &[missing.data().to_str().unwrap()]);
        assert!(!missing.data().exists(), "{command:?} made a data directory");
    }
    let foreign = place.path("foreign");
    fs::create_dir(&foreign).unwrap();
    fs::create_dir(foreign.join("log")).unwrap();
    fs::write(foreign.join("log/0001"), "x").unwrap();
    refused(&at(&foreign), 3, &["no MANIFEST"]);

    let cluster = "[node]\ncluster = \"00112233445566778899aabbccddeeff\"\n";
    let cluster = place.write("cluster.toml", cluster);
    let cluster = ["status", "--config", cluster.to_str().unwrap()];
    refused(&place.run(&cluster), 3, &["belongs to cluster"]);
    let node = place.write("node.toml", "[node]\nid = 2\n");
    refused(
        &place.run(&["status", "--config", node.to_str().unwrap()]),
        3,
        &["belongs to node 1, not 2"],
    );
    check_kept(&place);
}

#[test]
fn a_data_directory_in_use_is_refused() {
    let place = with_a_key();
    let line = "{\"org\":\"o\",\"ns\":\"n\",\"op\":\"put\",\"key\":\"k\",\"text\":\"v\"}\n";
    let file = place.write("slow.ndjson", line.repeat(100));
    let mut running = place
        .command(["import", "--rate", "1", "--report-every", "1"])
        .arg(&file)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = BufReader::new(running.stderr.take().unwrap());
    stderr.read_line(&mut String::new()).unwrap();
    let second = place.run(&["status"]);
    running.kill().unwrap();
    running.wait().unwrap();
    refused(&second, 3, &["in use"]);
    check_kept(&place);
}

#[test]
fn damage_in_the_middle_of_the_log_is_refused_and_named() {
    let place = Place::new();
    let text = "x".repeat(8000);
    let lines: String = (0..3000)
        .map(|number| {
            format!("{{\"org\":\"o\",\"ns\":\"n\",\"op\":\"put\",\"key\":\"{number:05}\",\"text\":\"{text}\"}}\n")
        })
        .collect();
    let file = place.write("lines.ndjson", &lines);
    // Small segments, so that a damaged one has others behind it.
    let small = place.write("small.toml", "[log]\nsegment_bytes = 8388608\nspares = 1\n");
    let small = ["--config", small.to_str().unwrap()];
    let import = place.import(&file, &small);
    assert_eq!(import.code, 0, "{}", import.err);
    assert_eq!(place.run(&["verify", small[0], small[1]]).code, 0);

    let segment = middle_segment(&place.data().join("log"));
    let whole = fs::read(&segment).unwrap();
    let mut damaged = whole.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 0x40;
    fs::write(&segment, &damaged).unwrap();
    let number = segment.to_str().unwrap().rsplit_once('-').unwrap().1.trim_start_matches('0');
    let name = format!("of segment {number}:");
    let name = name.as_str();
    refused(&place.run(&["verify", small[0], small[1]]), 3, &["damaged", name]);
    refused(&place.run(&["export", small[0], small[1]]), 3, &["damaged", name]);

    fs::write(&segment, &whole).unwrap();
    let exported = place.run(&["export", small[0], small[1]]);
    assert_eq!((exported.code, exported.out.lines().count()), (0, 3000), "{}", exported.err);
}

/// A segment that holds data and has later ones behind it.
fn middle_segment(log: &Path) -> PathBuf {
    let mut segments: Vec<_> = fs::read_dir(log)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| fs::read(path).unwrap().iter().any(|byte| *byte != 0))
        .collect();
    segments.sort();
    assert!(segments.len() >= 3, "too few segments: {segments:?}");
    segments.swap_remove(segments.len() / 2)
}

/// A small file system of its own, if this process may mount one.
struct Mount(PathBuf);

impl Mount {
    fn new(at: PathBuf, options: &str) -> Option<Self> {
        fs::create_dir(&at).unwrap();
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&at).output();
        mount.is_ok_and(|mount| mount.status.success()).then_some(Self(at))
    }

    fn remount(&self, options: &str) {
        let options = format!("remount,{options}");
        let status = Command::new("mount").args(["-o", &options]).arg(&self.0).status().unwrap();
        assert!(status.success());
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_is_told_and_keeps_what_was_accepted() {
    let place = Place::new();
    let Some(disk) = Mount::new(place.data(), "size=40m") else {
        println!("SKIP: this process may not mount a file system");
        return;
    };
    let small = place
        .write("small.toml", "[log]\nsegment_bytes = 8388608\nspares = 1\n[retain]\nbytes = 0\n");
    let small = ["--config", small.to_str().unwrap()];
    let lines: String = (0..12_000)
        .map(|number| {
            let text = "x".repeat(4000);
            format!("{{\"org\":\"o\",\"ns\":\"n\",\"op\":\"put\",\"key\":\"{number:05}\",\"text\":\"{text}\"}}\n")
        })
        .collect();
    let file = place.write("large.ndjson", &lines);
    let import = place.import(&file, &[&small[..], &["--report-every", "100"]].concat());
    refused(&import, 4, &["full"]);
    let answered: u64 = import
        .err
        .lines()
        .filter_map(|line| line.split_once(" frames answered")?.0.parse().ok())
        .max()
        .unwrap_or(0);

    // What only reads is served as ever.
    let got = place.run(&["kv", "get", "o/n", "00000", small[0], small[1]]);
    assert_eq!((got.code, got.out), (0, "x".repeat(4000) + "\n"), "{}", got.err);
    let exported = place.run(&["export", small[0], small[1]]);
    assert_eq!(exported.code, 0, "{}", exported.err);
    let kept = exported.out.lines().count() as u64;
    assert!(kept >= answered, "{kept} lines are left of {answered} that were answered");
    refused(&place.run(&["status", small[0], small[1]]), 4, &[]);
    refused(&place.run(&["kv", "put", "o/n", "k", "v", small[0], small[1]]), 4, &["full"]);

    // With more room the same command goes on where it stopped.
    disk.remount("size=400m");
    let resumed = place.import(&file, &small);
    assert_eq!(resumed.code, 0, "{}", resumed.err);
    let summary = resumed.json();
    assert_eq!(summary["resumed"], true);
    assert!(answered > 0, "nothing was accepted before the disk was full");
    let exported = place.run(&["export", small[0], small[1]]);
    assert_eq!((exported.code, exported.out.lines().count()), (0, 12_000));
}

#[test]
fn a_read_only_disk_is_told() {
    let place = Place::new();
    let Some(disk) = Mount::new(place.data(), "size=400m") else {
        println!("SKIP: this process may not mount a file system");
        return;
    };
    let put = place.run(&["kv", "put", "acme/cfg", "kept", "value"]);
    assert_eq!(put.code, 0, "{}", put.err);
    disk.remount("ro");
    refused(
        &place.run(&["kv", "put", "acme/cfg", "kept", "lost"]),
        3,
        &["read-only file system: mount it for writing"],
    );
    assert_eq!(place.run(&["verify"]).code, 0);
    disk.remount("rw");
    check_kept(&place);
}

#[test]
fn an_output_that_cannot_be_written_is_told() {
    let place = with_a_key();
    refused(&place.run(&["export", "--out", "no/such/dir/file"]), 2, &["no/such/dir/file"]);
    let mut child = place.command(["export"]).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(2));
    // A standard error that is gone changes nothing but the words.
    std::io::stdout().flush().unwrap();
    check_kept(&place);
}
