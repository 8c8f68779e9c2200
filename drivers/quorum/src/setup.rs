//! What a node needs beside its configuration: the genesis, and its own key.

use std::fs;
use std::io::Read;
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
    /// Reads the files that the configuration names.
    ///
    /// # Errors
    ///
    /// A file cannot be read, is not what it should be, or the key is one that others may read: which, and what to do.
    pub(crate) fn read(directory: &Path, config: &QuorumConfig) -> Result<Self, String> {
        let path = &directory.join(&config.genesis_file);
        let text = read(path, GENESIS_BYTES_MAX, "genesis_file")?;
        let text = String::from_utf8(text).map_err(|_| {
            format!("genesis_file = {path:?} is not text; it is made by `quorate init-cluster`")
        })?;
        let genesis = toml::from_str(&text)
            .map_err(|error| format!("genesis_file = {path:?} is no genesis: {error}"))?;
        let path = &directory.join(&config.key_file);
        private(path)?;
        let key = SigningKey::from_bytes(&read(path, KEY_BYTES_MAX, "key_file")?)
            .map_err(|error| format!("key_file = {path:?}: {error}"))?;
        Ok(Self { genesis, key: Arc::new(key) })
    }
}

fn read(path: &Path, bytes_max: u64, what: &str) -> Result<Vec<u8>, String> {
    let problem = |error| {
        format!(
            "{what} = {path:?} cannot be read: {error}; `quorate init-cluster --driver quorum` makes it"
        )
    };
    let file = fs::File::open(path).map_err(problem)?;
    let mut bytes = Vec::new();
    file.take(bytes_max + 1).read_to_end(&mut bytes).map_err(problem)?;
    if bytes.len() as u64 > bytes_max {
        return Err(format!("{what} = {path:?} has more than {bytes_max} bytes"));
    }
    Ok(bytes)
}

/// Refuses a key that others may read.
#[cfg(unix)]
fn private(path: &Path) -> Result<(), String> {
    use std::os::unix::fs::PermissionsExt;

    let Ok(about) = fs::metadata(path) else { return Ok(()) };
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
fn private(_path: &Path) -> Result<(), String> {
    Ok(())
}
