//! Files of certificates and keys. What only their owner may read is written that way, and refused otherwise.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::path::Path;

use crate::{CredentialError, Secret};

/// Largest file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// Reads a certificate.
pub(crate) fn read_public(path: &Path) -> Result<String, CredentialError> {
    read(path, &open(path)?)
}

/// Reads a key, unless somebody but its owner may do that too.
pub(crate) fn read_secret(path: &Path) -> Result<Secret, CredentialError> {
    let file = open(path)?;
    // Asked of the open file: the path may name another one by now.
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let metadata = file.metadata().map_err(|error| CredentialError::in_file(path, error))?;
        let mode = metadata.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(CredentialError::KeyReadable { path: path.into(), mode });
        }
    }
    read(path, &file).map(Secret)
}

/// Writes a certificate into a new file.
pub(crate) fn write_public(path: &Path, text: &str) -> Result<(), CredentialError> {
    write(path, text, 0o644)
}

/// Writes a key into a new file of mode 0600.
pub(crate) fn write_secret(path: &Path, text: &str) -> Result<(), CredentialError> {
    write(path, text, 0o600)
}

fn open(path: &Path) -> Result<File, CredentialError> {
    File::open(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => CredentialError::in_file(
            path,
            format_args!("{error}; correct the path, or make a new one with `quorate certs renew`"),
        ),
        _ => CredentialError::in_file(path, error),
    })
}

fn read(path: &Path, file: &File) -> Result<String, CredentialError> {
    let mut text = String::new();
    let read = file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text);
    let bytes = read.map_err(|error| CredentialError::in_file(path, error))?;
    if bytes as u64 > FILE_BYTES_MAX {
        let problem = format!("it has more than {FILE_BYTES_MAX} bytes");
        return Err(CredentialError::in_file(path, problem));
    }
    Ok(text)
}

fn write(path: &Path, text: &str, mode: u32) -> Result<(), CredentialError> {
    let problem = |error| CredentialError::in_file(path, error);
    let mut options = OpenOptions::new();
    // What is there is never replaced: it may be the only copy of a key.
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.mode(mode);
    }
    #[cfg(not(unix))]
    let _ = mode;
    let mut file = options.open(path).map_err(problem)?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    written.map_err(|error| {
        // A part of a key is of no use, and would be in the way of the next attempt.
        let _ = fs::remove_file(path);
        problem(error)
    })
}
