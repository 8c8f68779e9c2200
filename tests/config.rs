//! Every mistake in a configuration is answered with its place, what is wrong, and what would be right.

use std::ffi::OsString;
use std::sync::Arc;

use async_trait::async_trait;
use quorate::*;
use serde::Deserialize;

fn refused(text: &str) -> String {
    Config::builder().text("q.toml", text).build().unwrap_err().to_string()
}

fn environment(variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let variables =
        variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
    Config::builder().text("q.toml", "[node]\nid = 7\n").environment(variables)?.build()
}

#[test]
fn a_mistake_in_the_file_is_named_with_line_and_column() {
    let cases = [
        (
            "[node]\nidd = 7\n",
            "q.toml:2:1: unknown field `idd`, expected one of `id`, `cluster`, `founders`, `forward`, `data_dir`, `durability`, `open_within`",
        ),
        (
            "[nodes]\nid = 7\n",
            "q.toml:1:2: unknown field `nodes`, expected one of `node`, `driver`",
        ),
        (
            "[node]\n\n  id = \"seven\"\n",
            "q.toml:3:8: invalid type: string \"seven\", expected u64",
        ),
        ("[node]\nid = -7\n", "q.toml:2:6: invalid value: integer `-7`, expected u64"),
        (
            "[node]\ndurability = \"ram\"\n",
            "q.toml:2:14: unknown variant `ram`, expected `disk` or `memory`",
        ),
        ("[node]\nid = 7\nid = 8\n", "q.toml:3:1: duplicate key"),
        ("[node\n", "q.toml:1:6: unclosed table, expected `]`"),
        (
            "[retain]\nage = \"5 parsecs\"\n",
            "q.toml:2:7: invalid value: string \"5 parsecs\", expected a duration",
        ),
        ("node = 7\n", "q.toml:1:8: invalid type: integer `7`, expected struct NodeConfig"),
        ("[driver]\nkinds = \"local\"\n", "q.toml:2:1: unknown field `kinds`, expected `kind`"),
        ("[node]\nid = 0\n", "node.id = 0 (file q.toml:2) must be 1 or more"),
        (
            "[node]\ncluster = \"c0ffee\"\n",
            "node.cluster = \"c0ffee\" (file q.toml:2) must have 32 hexadecimal digits",
        ),
        ("[node]\ndata_dir = \"\"\n", "node.data_dir = \"\" (file q.toml:2) must name a directory"),
        (
            "[log]\nsegment_bytes = 32768\n",
            "log.segment_bytes = 32768 (file q.toml:2) must be a multiple of 512 from 8388608, so that the largest batch",
        ),
        (
            "[log]\nblock_bytes_max = 512\n",
            "log.block_bytes_max = 512 (file q.toml:2) must be 4096 or more",
        ),
        ("[log]\nspares = 0\n", "log.spares = 0 (file q.toml:2) must be 1 or more"),
        ("[shard]\ngroups = 0\n", "shard.groups = 0 (file q.toml:2) must be from 1 to 4096"),
        (
            "[node]\nfounders = [1, 1]\n",
            "node.founders = [1, 1] (file q.toml:2) must be different numbers, from 1",
        ),
    ];
    for (text, expected) in cases {
        let error = refused(text);
        assert!(error.starts_with(expected), "for {text:?}:\n{error}\nexpected\n{expected}");
    }
}

#[test]
fn the_line_is_shown_with_the_place_marked() {
    assert_eq!(
        refused("# comment\n[node]\nid = \"sieben ü\"\n"),
        "q.toml:3:6: invalid type: string \"sieben ü\", expected u64\n  |\n3 | id = \"sieben ü\"\n  |      ^^^^^^^^^^"
    );
}

#[test]
fn environment_goes_before_the_file_and_keeps_types() {
    let config = environment(&[
        ("QUORATE_NODE_ID", "007"),
        ("QUORATE_NODE_DATA_DIR", "007"),
        ("QUORATE_RETAIN_AGE", "1h 30m"),
        ("QUORATE_TEST_BUDGET", "long"),
        ("PATH", "/bin"),
    ])
    .unwrap();
    assert_eq!(config.node.id, 7);
    assert_eq!(config.node.data_dir.to_str(), Some("007"));
    assert_eq!(config.retain.age.as_secs(), 5400);
    let of = |key: &str| config.origin(key).to_string();
    assert_eq!(of("node.id"), "environment QUORATE_NODE_ID");
    assert_eq!(of("node.durability"), "default");
}

#[test]
fn a_mistake_in_the_environment_names_the_variable() {
    let cases = [
        (
            ("QUORATE_NODE_ID", "seven"),
            "node.id = seven (environment QUORATE_NODE_ID) must be an integer",
        ),
        (
            ("QUORATE_NODE_DURABILITY", "ram"),
            "node.durability = ram (environment QUORATE_NODE_DURABILITY) unknown variant `ram`, expected `disk` or `memory`",
        ),
        (
            ("QUORATE_DATA_DIR", "/tmp"),
            "environment variable QUORATE_DATA_DIR sets nothing; did you mean QUORATE_NODE_DATA_DIR?",
        ),
    ];
    for (variable, expected) in cases {
        let error = environment(&[variable]).unwrap_err().to_string();
        assert!(error.starts_with(expected), "for {variable:?}:\n{error}");
    }
}

#[test]
fn a_missing_file_is_named() {
    let error = Config::builder().file("no/such/file.toml").unwrap_err().to_string();
    assert!(error.starts_with("cannot read configuration file no/such/file.toml: "), "{error}");
}

#[test]
fn explain_names_the_origin_of_every_value() {
    let config = Config::builder()
        .text(
            "q.toml",
            "[node]\nid = 7\n[driver]\nkind = \"local\"\n[driver.fake]\npace = \"2s\"\n",
        )
        .set("node.data_dir", "/data", Origin::Flag { flag: "--data-dir".into() })
        .build()
        .unwrap();
    let lines = config.explain();
    let line = |key: &str| {
        let line = lines.iter().find(|line| line.key == key).unwrap_or_else(|| panic!("no {key}"));
        format!("{} # {}", line.value, line.origin)
    };
    assert_eq!(line("node.id"), "7 # file q.toml:2");
    assert_eq!(line("driver.kind"), "\"local\" # file q.toml:4");
    assert_eq!(line("driver.fake.pace"), "\"2s\" # file q.toml:6");
    assert_eq!(line("node.data_dir"), "\"/data\" # flag --data-dir");
    assert_eq!(line("node.durability"), "\"disk\" # default");
}

/// A driver that can be configured and never opens.
struct Fake;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct FakeConfig {
    pace: String,
    depth: u32,
}

#[async_trait]
impl Driver for Fake {
    const NAME: &'static str = "fake";
    type Config = FakeConfig;

    async fn open(
        &self,
        config: FakeConfig,
        env: Env,
        _machine: Box<dyn StateMachine>,
    ) -> Result<Arc<dyn Replicator>, OpenError> {
        let FakeConfig { pace, depth } = config;
        Err(OpenError::Driver {
            driver: "fake".into(),
            problem: format!("{pace} {depth} {} {}", env.node, env.durability),
        })
    }
}

#[derive(Debug)]
struct Nothing;

impl StateMachine for Nothing {
    fn apply(&mut self, _batch: &Batch<'_>, _outcomes: &mut Outcomes) {}
    fn begin_checkpoint(&mut self) -> CheckpointPairs {
        Box::new(std::iter::empty())
    }
    fn restore(&mut self, _reader: &mut dyn CheckpointReader) -> Result<(), RestoreError> {
        Ok(())
    }
}

async fn opened(text: &str) -> String {
    let config = Config::builder().text("q.toml", text).build().unwrap();
    let registry = Registry::new()
        .with(Fake)
        .without("raft", "this program was built without it; rebuild with `--features raft`");
    let node = NodeBuilder::new(config).registry(registry).open_with(Nothing).await;
    node.unwrap_err().to_string()
}

#[tokio::test]
async fn the_table_of_a_driver_reaches_it_and_its_mistakes_are_placed() {
    let cases = [
        ("", "driver fake: 2s 3 n1 disk"),
        ("[node]\nid = 4\n", "driver fake: 2s 3 n4 disk"),
        ("[driver.raft]\nanything = 1\n", "driver fake: 2s 3 n1 disk"),
        (
            "[driver.rafft]\nanything = 1\n",
            "q.toml:6:9: unknown driver \"rafft\"; this program has: fake",
        ),
        ("[transport.raven]\n", "q.toml:6:12: unknown transport \"raven\"; this program has: none"),
        (
            "[transport]\nkind = \"raven\"\n",
            "transport.kind = \"raven\" (file q.toml:7) names an unknown transport \"raven\"; this program has: none",
        ),
    ];
    for (more, expected) in cases {
        let text =
            format!("[driver]\nkind = \"fake\"\n[driver.fake]\npace = \"2s\"\ndepth = 3\n{more}");
        let error = opened(&text).await;
        assert!(error.starts_with(expected), "for {more:?}:\n{error}");
    }

    let cases = [
        ("pase = \"2s\"", "q.toml:4:1: unknown field `pase`, expected `pace` or `depth`"),
        ("pace = 2", "q.toml:4:8: invalid type: integer `2`, expected a string"),
        ("depth = [1]", "q.toml:4:9: invalid type: sequence, expected u32"),
    ];
    for (line, expected) in cases {
        let error = opened(&format!("[driver]\nkind = \"fake\"\n[driver.fake]\n{line}\n")).await;
        assert!(error.starts_with(expected), "for {line:?}:\n{error}");
    }
}

#[tokio::test]
async fn an_unknown_driver_lists_the_known_ones_or_the_missing_feature() {
    assert_eq!(
        opened("[driver]\nkind = \"paxos\"\n").await,
        "driver.kind = \"paxos\" (file q.toml:2) names an unknown driver \"paxos\"; this program has: fake"
    );
    assert_eq!(
        opened("[driver]\nkind = \"raft\"\n").await,
        "driver.kind = \"raft\" (file q.toml:2) names an unknown driver \"raft\"; this program was built without it; \
         rebuild with `--features raft`"
    );
}

#[test]
fn paths_of_a_file_are_relative_to_it_and_others_to_the_working_directory() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("node.toml");
    let read = |text: &str, variables: &[(&str, &str)]| {
        std::fs::write(&file, text).unwrap();
        let variables =
            variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
        Config::builder().file(&file).unwrap().environment(variables).unwrap().build().unwrap()
    };
    let config = read("[node]\ndata_dir = \"data\"\n", &[]);
    assert_eq!(config.node.data_dir, dir.path().join("data"));
    let config = read("[node]\ndata_dir = \"/data\"\n", &[]);
    assert_eq!(config.node.data_dir.to_str(), Some("/data"));
    let config = read("[node]\ndata_dir = \"data\"\n", &[("QUORATE_NODE_DATA_DIR", "other")]);
    assert_eq!(config.node.data_dir.to_str(), Some("other"));
    let config = read("[node]\nid = 7\n", &[("QUORATE_CONNECT", "client.toml")]);
    assert_eq!(config.node.data_dir.to_str(), Some("./quorate-data"));
    std::fs::write(&file, "[node]\ndata_dir = \"\"\n").unwrap();
    let error = Config::builder().file(&file).unwrap().build().unwrap_err().to_string();
    assert!(error.ends_with("must name a directory"), "{error}");
}
