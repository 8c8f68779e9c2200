//! Runs of a few nodes, told step by step, as etcd tells those of its core: `tests/transcripts/*.txt`.
//!
//! A file is a list of commands, each with what came of it behind `----`. `QUORATE_REWRITE=1 cargo test -p quorate-driver-raft
//! transcripts` writes what comes now; the difference is to be read before it is committed.

mod group;

use std::fs;
use std::path::Path;

pub(crate) use self::group::Group;

#[test]
fn transcripts_tell_what_happens() {
    let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts");
    let rewrite = std::env::var_os("QUORATE_REWRITE").is_some();
    let mut paths: Vec<_> =
        fs::read_dir(&files).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "no transcripts in {}", files.display());
    for path in paths {
        let told = fs::read_to_string(&path).unwrap();
        let now = run(&told);
        if rewrite {
            fs::write(&path, now).unwrap();
        } else if now != told {
            let line = told.lines().zip(now.lines()).position(|(told, now)| told != now);
            let line = line.unwrap_or_else(|| told.lines().count().min(now.lines().count()));
            panic!(
                "{}:{}: told {:?}, and now comes {:?}",
                path.display(),
                line + 1,
                told.lines().nth(line),
                now.lines().nth(line)
            );
        }
    }
}

/// The file with what comes of its commands now.
fn run(file: &str) -> String {
    let mut group = Group::default();
    let mut told = String::new();
    let mut lines = file.lines().peekable();
    while let Some(line) = lines.next() {
        if line.is_empty() || line.starts_with('#') {
            told.push_str(line);
            told.push('\n');
            continue;
        }
        let mut commands = vec![line];
        commands.extend(lines.by_ref().take_while(|line| *line != "----"));
        while lines.next_if(|line| !line.is_empty()).is_some() {}
        for command in commands {
            told.push_str(command);
            told.push('\n');
            group.command(command);
        }
        told.push_str("----\n");
        for event in group.take_events() {
            told.push_str(&event);
            told.push('\n');
        }
    }
    told
}
