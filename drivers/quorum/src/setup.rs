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
}

impl Setup {
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
        let path = directory.join(&config.key_file);
        let file = open(&path, "key_file")?;
        private(&path, &file)?;
        let key = SigningKey::from_text(&read(&path, file, KEY_BYTES_MAX, "key_file")?)
            .map_err(|error| format!("key_file = {path:?}: {error}"))?;
        Ok(Self { genesis, key: Arc::new(key) })
    }
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
fn private(path: &Path, file: &File) -> Result<(), String> {
    use std::os::unix::fs::PermissionsExt;

    let about = file.metadata().map_err(|error| unreadable(path, "key_file", &error))?;
    let mode = about.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(format!(
            "key_file = {path:?} may be read or written by others (mode {mode:o}); run `chmod 600 {}`, and make a new key if someone may have read it",
            path.display()
        ));
    }
    Ok(())
}

#[cfg(not(unix))]
fn private(_path: &Path, _file: &File) -> Result<(), String> {
    Ok(())
}
