//! What a node needs beside its configuration: the genesis, and its own key.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use quorate_certificate::{Genesis, SigningKey};

use crate::config::QuorumConfig;

/// Most bytes of a genesis file: a hundred validators, each with the longest key in hexadecimal digits.
const GENESIS_BYTES_MAX: u64 = 1 << 20;

/// Most bytes of a key file.
const KEY_BYTES_MAX: u64 = 4 << 10;

/// What a node needs beside its configuration: the genesis, and its own key.
#[derive(Clone, Debug)]
pub struct Setup {
    /// What the cluster begins with.
    pub genesis: Genesis,
    /// What this node signs with.
    pub key: Arc<SigningKey>,
    /// What it signs with once the validators know it by this key; none if it is not to get another one.
    pub next_key: Option<Arc<SigningKey>>,
}

impl Setup {
    /// With one key.
    pub const fn new(genesis: Genesis, key: Arc<SigningKey>) -> Self {
        Self { genesis, key, next_key: None }
    }

    /// Reads the files that the configuration names; relative paths begin at `directory`.
    ///
    /// # Errors
    ///
    /// A file cannot be read, is not what it should be, or the key is one that others may read: which, and what to do.
    pub fn read(directory: &Path, config: &QuorumConfig) -> Result<Self, String> {
        let genesis_path = directory.join(&config.genesis_file);
        let text = read(
            &genesis_path,
            open(&genesis_path, "genesis_file")?,
            GENESIS_BYTES_MAX,
            "genesis_file",
        )?;
        let genesis = toml::from_str(&text)
            .map_err(|error| format!("genesis_file = {genesis_path:?} is no genesis: {error}"))?;
        let key = read_key(&directory.join(&config.key_file), "key_file")?;
        let next = directory.join(&config.next_key_file);
        let is_there = next.try_exists();
        let is_there = is_there.map_err(|error| unreadable(&next, "next_key_file", &error))?;
        let next_key = is_there.then(|| read_key(&next, "next_key_file")).transpose()?;
        Ok(Self { genesis, key, next_key })
    }
}

fn read_key(path: &Path, what: &str) -> Result<Arc<SigningKey>, String> {
    let file = open(path, what)?;
    private(path, what, &file)?;
    let key = SigningKey::from_text(&read(path, file, KEY_BYTES_MAX, what)?);
    key.map(Arc::new).map_err(|error| format!("{what} = {path:?}: {error}"))
}

fn open(path: &Path, what: &str) -> Result<File, String> {
    File::open(path).map_err(|error| unreadable(path, what, &error))
}

fn unreadable(path: &Path, what: &str, error: &io::Error) -> String {
    format!(
        "{what} = {path:?} cannot be read: {error}; `quorate init-cluster --driver quorum` makes it"
    )
}

fn read(path: &Path, file: File, bytes_max: u64, what: &str) -> Result<String, String> {
    let mut bytes = Vec::new();
    let read = file.take(bytes_max + 1).read_to_end(&mut bytes);
    read.map_err(|error| unreadable(path, what, &error))?;
    if bytes.len() as u64 > bytes_max {
        return Err(format!("{what} = {path:?} has more than {bytes_max} bytes"));
    }
    String::from_utf8(bytes).map_err(|_| {
        format!("{what} = {path:?} is not text; `quorate init-cluster --driver quorum` makes it")
    })
}

/// Refuses a key that others may read. Asked of the open file: the path may name another one by now.
#[cfg(unix)]
fn private(path: &Path, what: &str, file: &File) -> Result<(), String> {
    use std::os::unix::fs::PermissionsExt;

    let about = file.metadata().map_err(|error| unreadable(path, what, &error))?;
    let mode = about.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(format!(
            "{what} = {path:?} may be read or written by others (mode {mode:o}); run `chmod 600 {}`, and make a new key if someone may have read it",
            path.display()
        ));
    }
    Ok(())
}

#[cfg(not(unix))]
fn private(_path: &Path, _what: &str, _file: &File) -> Result<(), String> {
    Ok(())
}
