//! Puts a configuration together, and says precisely what is wrong with one.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use quorate_replicator::limits::GROUPS_MAX;
use serde::Deserialize;
use toml::de::{DeTable, DeValue};
use toml::{Spanned, Value};

use crate::config::Config;
use crate::located::Located;

/// Environment variables whose names begin like this are settings.
const VARIABLE_PREFIX: &str = "QUORATE_";

/// Variables that begin like a setting and are none: where the binary looks for its files.
const FILE_VARIABLES: [&str; 2] = ["QUORATE_CONFIG", "QUORATE_CONNECT"];

/// Variables whose names begin like this are left to test suites.
const TEST_PREFIX: &str = "QUORATE_TEST_";

/// Sections in which each plugged-in part has a table of its own, such as `[driver.local]`.
const PLUGGED: [&str; 2] = ["driver", "transport"];

/// Smallest file of the log: one batch of the largest size fits into half of it.
const SEGMENT_BYTES_MIN: u64 = 8 << 20;

/// Largest file of the log.
const SEGMENT_BYTES_MAX: u64 = 1 << 30;

/// Smallest bound of what becomes durable at once: a page of the disk.
const BLOCK_BYTES_MIN: u64 = 4096;

/// Largest configuration file, in bytes: a data file given by mistake should not be read whole.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Puts a configuration together: the file first, then what was [`set`](Self::set) and read from the
/// [environment](Self::environment), in the order of the calls; the last one wins.
#[derive(Clone, Debug, Default)]
pub struct ConfigBuilder {
    source: Option<Source>,
    settings: Vec<Setting>,
}

#[derive(Clone, Debug)]
struct Setting {
    key: String,
    value: String,
    origin: Origin,
}

/// A configuration text and what to call it.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) name: String,
    pub(crate) text: Arc<str>,
    /// What relative paths in it are relative to; none: the working directory.
    pub(crate) directory: Option<PathBuf>,
}

/// Where the value of a key comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// It is in the configuration file.
    File {
        /// As the file was named.
        file: String,
        /// From 1.
        line: usize,
    },
    /// An environment variable.
    Environment {
        /// Its name.
        variable: String,
    },
    /// An argument of the command.
    Flag {
        /// As it is written, such as `--data-dir`.
        flag: String,
    },
    /// The program's own code.
    Code,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { file, line } => write!(f, "file {file}:{line}"),
            Self::Environment { variable } => write!(f, "environment {variable}"),
            Self::Flag { flag } => write!(f, "flag {flag}"),
            Self::Code => f.write_str("code"),
        }
    }
}

/// One line of an explained configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Explained {
    /// Section and key, such as `node.data_dir`.
    pub key: String,
    /// The value in force, as TOML writes it.
    pub value: String,
    /// Where it comes from.
    pub origin: Origin,
}

impl ConfigBuilder {
    /// Reads the file. Relative paths in it are relative to the directory that it is in.
    ///
    /// # Errors
    ///
    /// It cannot be read. What is in it is judged by [`build`](Self::build).
    pub fn file(self, path: impl AsRef<Path>) -> Result<Self, ConfigError> {
        let path = path.as_ref();
        let unreadable = |problem: String| ConfigError::File { file: path.into(), problem };
        let size = std::fs::metadata(path).map_err(|error| unreadable(error.to_string()))?.len();
        if size > FILE_BYTES_MAX {
            return Err(unreadable(format!(
                "it has {size} bytes, at most {FILE_BYTES_MAX} are allowed; is it the right file?"
            )));
        }
        let text = std::fs::read_to_string(path).map_err(|error| unreadable(error.to_string()))?;
        let mut builder = self.text(path.display().to_string(), text);
        let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty());
        if let Some(source) = &mut builder.source {
            source.directory = directory.map(Into::into);
        }
        Ok(builder)
    }

    /// Takes a TOML text in place of a file; `name` is what errors call it. Relative paths in it are relative to the
    /// working directory.
    #[must_use]
    pub fn text(mut self, name: impl Into<String>, text: impl Into<Arc<str>>) -> Self {
        self.source = Some(Source { name: name.into(), text: text.into(), directory: None });
        self
    }

    /// Takes the `QUORATE_*` variables among these, as from [`std::env::vars_os`]: `QUORATE_NODE_DATA_DIR` sets
    /// `data_dir` in `[node]`.
    ///
    /// # Errors
    ///
    /// A variable with this prefix names no key, or is not UTF-8.
    pub fn environment(
        mut self,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, ConfigError> {
        let keys = leaves(&Config::default());
        for (variable, value) in variables {
            let Some(variable) = variable.to_str().filter(|name| name.starts_with(VARIABLE_PREFIX))
            else {
                continue;
            };
            if FILE_VARIABLES.contains(&variable) || variable.starts_with(TEST_PREFIX) {
                continue;
            }
            let Some(key) = keys.keys().find(|key| variable_of(key) == variable) else {
                return Err(ConfigError::UnknownVariable {
                    variable: variable.into(),
                    known: keys.keys().map(|key| variable_of(key)).collect(),
                });
            };
            let origin = Origin::Environment { variable: variable.into() };
            let Some(value) = value.to_str() else {
                return Err(ConfigError::Setting {
                    origin,
                    key: key.clone(),
                    value: value.to_string_lossy().into_owned(),
                    problem: "is not UTF-8".into(),
                });
            };
            self.settings.push(Setting { key: key.clone(), value: value.into(), origin });
        }
        Ok(self)
    }

    /// Sets one key, such as `node.data_dir`, to a value in text form. What the program knows at compile time is
    /// better set in the fields of [`Config`].
    #[must_use]
    pub fn set(mut self, key: impl Into<String>, value: impl Into<String>, origin: Origin) -> Self {
        self.settings.push(Setting { key: key.into(), value: value.into(), origin });
        self
    }

    /// Reads and checks everything.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong: where it stands and what would be right.
    pub fn build(self) -> Result<Config, ConfigError> {
        let mut config = match self.source {
            None => Config::default(),
            Some(source) => source.read()?,
        };
        for setting in self.settings {
            config = setting.apply(config)?;
        }
        config.check()?;
        Ok(config)
    }
}

impl Config {
    /// Every key with the value in force and where it comes from, in order; what is set in the tables of drivers
    /// included.
    pub fn explain(&self) -> Vec<Explained> {
        let keys = leaves(self).into_iter().map(|(key, value)| Explained {
            value: written(&value),
            origin: self.origin(&key),
            key,
        });
        let mut lines: Vec<_> = keys.collect();
        if let Some(source) = &self.source {
            for section in PLUGGED {
                for (name, _, table) in source.plugged(section) {
                    for (key, value) in table {
                        let key_span = key.span();
                        lines.push(Explained {
                            key: format!("{section}.{name}.{}", key.into_inner()),
                            value: source.text[value.span()].to_string(),
                            origin: source.origin(&key_span),
                        });
                    }
                }
            }
        }
        lines
    }

    /// Where the value of a key comes from.
    pub fn origin(&self, key: &str) -> Origin {
        self.origins.get(key).cloned().unwrap_or(Origin::Default)
    }

    /// What does not make sense, though each value has the right type.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        if self.node.id == 0 {
            return Err(self.problem_with("node.id", "must be 1 or more"));
        }
        if !self.node.cluster.is_empty() && self.node.cluster_id().is_none() {
            return Err(self.problem_with("node.cluster", "must have 32 hexadecimal digits"));
        }
        if self.node.data_dir.as_os_str().is_empty() {
            return Err(self.problem_with("node.data_dir", "must name a directory"));
        }
        let segment = self.log.segment_bytes;
        if !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&segment)
            || !segment.is_multiple_of(512)
        {
            let problem = format!(
                "must be a multiple of 512 from {SEGMENT_BYTES_MIN}, so that the largest batch fits, to {SEGMENT_BYTES_MAX}"
            );
            return Err(self.problem_with("log.segment_bytes", problem));
        }
        if self.log.block_bytes_max < BLOCK_BYTES_MIN {
            let problem = format!("must be {BLOCK_BYTES_MIN} or more");
            return Err(self.problem_with("log.block_bytes_max", problem));
        }
        if self.log.spares == 0 {
            return Err(self.problem_with("log.spares", "must be 1 or more"));
        }
        if !(1..=GROUPS_MAX).contains(&self.shard.groups) {
            let problem = format!("must be from 1 to {GROUPS_MAX}");
            return Err(self.problem_with("shard.groups", problem));
        }
        let founders = &self.node.founders;
        let mut sorted = founders.clone();
        sorted.sort_unstable();
        sorted.dedup();
        if sorted.len() != founders.len() || founders.contains(&0) {
            return Err(self.problem_with("node.founders", "must be different numbers, from 1"));
        }
        Ok(())
    }

    /// Where the configuration file is, unless that is the working directory or there is none.
    pub(crate) fn directory(&self) -> Option<&Path> {
        self.source.as_ref()?.directory.as_deref()
    }

    /// The table `[section.NAME]`, if the text has one.
    pub(crate) fn plugged_table(&self, section: &str, name: &str) -> Option<Located<'_>> {
        let tables = self.source.as_ref()?.plugged(section);
        let (_, head, table) = tables.into_iter().find(|(known, _, _)| known == name)?;
        Some(Located::new(table, head))
    }

    /// The names of all tables `[section.NAME]`, with their places.
    pub(crate) fn plugged_names(&self, section: &str) -> Vec<(String, Range<usize>)> {
        let tables = self.source.iter().flat_map(|source| source.plugged(section));
        tables.map(|(name, head, _)| (name, head)).collect()
    }

    /// An error in the value of a key.
    pub(crate) fn problem_with(&self, key: &str, problem: impl Into<String>) -> ConfigError {
        let value = leaves(self).remove(key).map(|value| written(&value)).unwrap_or_default();
        ConfigError::Setting {
            origin: self.origin(key),
            key: key.into(),
            value,
            problem: problem.into(),
        }
    }

    /// An error at a place of the text.
    pub(crate) fn problem_at(&self, span: Range<usize>, problem: impl Into<String>) -> ConfigError {
        let source = self.source.as_ref().expect("a place is in a text");
        source.problem(span, problem.into())
    }
}

impl Source {
    fn read(self) -> Result<Config, ConfigError> {
        let mut root = DeTable::parse(&self.text)
            .map_err(|error| self.problem(error.span().unwrap_or(0..0), error.message().into()))?;
        let mut origins = BTreeMap::new();
        self.note_origins("", root.get_ref(), &mut origins);
        for section in PLUGGED {
            if let Some(section) = root.get_mut().get_mut(section)
                && let DeValue::Table(section) = section.get_mut()
            {
                // Whoever is plugged in there reads its table when it is opened.
                *section = std::mem::take(section)
                    .into_iter()
                    .filter(|(_, value)| !matches!(value.get_ref(), DeValue::Table(_)))
                    .collect();
            }
        }
        let mut config = Config::deserialize(toml::de::Deserializer::from(root))
            .map_err(|error| self.problem(error.span().unwrap_or(0..0), error.message().into()))?;
        if let Some(directory) = &self.directory
            && origins.contains_key("node.data_dir")
            // An empty one is refused, and would be the directory itself.
            && !config.node.data_dir.as_os_str().is_empty()
        {
            config.node.data_dir = directory.join(&config.node.data_dir);
            if config.node.data_dir.to_str().is_none() {
                return Err(ConfigError::File {
                    file: directory.clone(),
                    problem: "the name of its directory is not UTF-8; move it to another one"
                        .into(),
                });
            }
        }
        config.origins = origins;
        config.source = Some(self);
        Ok(config)
    }

    fn note_origins(
        &self,
        path: &str,
        table: &DeTable<'_>,
        origins: &mut BTreeMap<String, Origin>,
    ) {
        for (key, value) in table {
            let path = match path {
                "" => key.get_ref().to_string(),
                path => format!("{path}.{}", key.get_ref()),
            };
            if let DeValue::Table(table) = value.get_ref() {
                self.note_origins(&path, table, origins);
            } else {
                origins.insert(path, self.origin(&key.span()));
            }
        }
    }

    /// Name, place and content of each `[section.NAME]`.
    fn plugged(&self, section: &str) -> Vec<(String, Range<usize>, DeTable<'_>)> {
        // The text was parsed when the configuration was read.
        let Ok(root) = DeTable::parse(&self.text) else { return Vec::new() };
        let section = root.into_inner().remove(section).map(Spanned::into_inner);
        let Some(DeValue::Table(section)) = section else { return Vec::new() };
        let tables = section.into_iter().filter_map(|(name, value)| match value.into_inner() {
            DeValue::Table(table) => Some((name.get_ref().to_string(), name.span(), table)),
            _ => None,
        });
        tables.collect()
    }

    fn origin(&self, span: &Range<usize>) -> Origin {
        Origin::File { file: self.name.clone(), line: self.line_column(span.start).0 }
    }

    fn problem(&self, span: Range<usize>, problem: String) -> ConfigError {
        let (line, column) = self.line_column(span.start);
        let text = self.text.lines().nth(line - 1).unwrap_or_default();
        let width = self.text.get(span).map_or(1, |marked| {
            marked.lines().next().unwrap_or_default().chars().count().clamp(1, 80)
        });
        let margin = " ".repeat(line.to_string().len());
        let indent = " ".repeat(column - 1);
        let carets = "^".repeat(width);
        let excerpt = format!("{margin} |\n{line} | {text}\n{margin} | {indent}{carets}");
        ConfigError::Text { file: self.name.clone(), line, column, problem, excerpt }
    }

    /// Line and column, in characters, both from 1, of a place in the text.
    fn line_column(&self, at: usize) -> (usize, usize) {
        let before = self.text.get(..at).unwrap_or(&self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }
}

impl Setting {
    fn apply(self, config: Config) -> Result<Config, ConfigError> {
        let Self { key, value, origin } = self;
        let refuse = |problem: String| ConfigError::Setting {
            origin: origin.clone(),
            key: key.clone(),
            value: value.clone(),
            problem,
        };
        let mut all = table(&config);
        let slot = key
            .split_once('.')
            .and_then(|(section, key)| all.get_mut(section)?.as_table_mut()?.get_mut(key))
            .ok_or_else(|| refuse("is no key of the configuration".into()))?;
        // The key has the type that it has by default: text stays text even if it looks like a number.
        *slot = match slot {
            Value::Integer(_) => {
                Value::Integer(value.parse().map_err(|_| refuse("must be an integer".into()))?)
            }
            Value::Boolean(_) => {
                Value::Boolean(value.parse().map_err(|_| refuse("must be true or false".into()))?)
            }
            _ => Value::String(value.clone()),
        };
        let mut changed =
            Config::deserialize(all).map_err(|error| refuse(error.message().to_string()))?;
        changed.source = config.source;
        changed.origins = config.origins;
        changed.origins.insert(key, origin);
        Ok(changed)
    }
}

/// The variable that sets a key.
fn variable_of(key: &str) -> String {
    format!("{VARIABLE_PREFIX}{}", key.replace('.', "_").to_uppercase())
}

/// A value as TOML writes it; keys have no others than these.
fn written(value: &Value) -> String {
    match value {
        Value::Integer(number) => number.to_string(),
        Value::Boolean(flag) => flag.to_string(),
        Value::String(text) => format!("{text:?}"),
        Value::Array(values) => {
            format!("[{}]", values.iter().map(written).collect::<Vec<_>>().join(", "))
        }
        other => format!("{other:?}"),
    }
}

/// The configuration as a table of sections.
fn table(config: &Config) -> toml::Table {
    toml::Table::try_from(config).expect("a configuration holds nothing that TOML cannot say")
}

/// All keys with their values.
fn leaves(config: &Config) -> BTreeMap<String, Value> {
    let mut leaves = BTreeMap::new();
    for (section, value) in table(config) {
        let Value::Table(section_keys) = value else { continue };
        for (key, value) in section_keys {
            leaves.insert(format!("{section}.{key}"), value);
        }
    }
    leaves
}

/// What is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read configuration file {}: {problem}", .file.display())]
    File {
        /// Which.
        file: PathBuf,
        /// Why.
        problem: String,
    },
    /// The text is wrong at a certain place.
    #[error("{file}:{line}:{column}: {problem}\n{excerpt}")]
    Text {
        /// The file.
        file: String,
        /// From 1.
        line: usize,
        /// In characters, from 1.
        column: usize,
        /// What is wrong, and what would be right.
        problem: String,
        /// The line, with the place marked.
        excerpt: String,
    },
    /// One key has a value that it may not have.
    #[error("{key} = {value} ({origin}) {problem}")]
    Setting {
        /// Where it was set.
        origin: Origin,
        /// Which key.
        key: String,
        /// Its value.
        value: String,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// A variable looks like a setting and is none.
    #[error(
        "environment variable {variable} sets nothing; did you mean {}? all variables: {}",
        nearest(.variable, .known), .known.join(", ")
    )]
    UnknownVariable {
        /// Its name.
        variable: String,
        /// All names that are settings.
        known: Vec<String>,
    },
}

/// The known name that shares most with what was written.
fn nearest<'a>(name: &str, known: &'a [String]) -> &'a str {
    let shared = |candidate: &str| {
        let ahead = name.bytes().zip(candidate.bytes()).take_while(|(a, b)| a == b).count();
        let behind =
            name.bytes().rev().zip(candidate.bytes().rev()).take_while(|(a, b)| a == b).count();
        ahead + behind
    };
    known.iter().max_by_key(|candidate| shared(candidate)).map_or("", String::as_str)
}
