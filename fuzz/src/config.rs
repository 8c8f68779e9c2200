//! What people write: configurations; and what a data directory says of itself.

use quorate::Config;
use quorate_storage::DataDir;

use crate::input::{Files, disk_with};

pub(crate) fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Err(error) = Config::from_toml(text) {
        assert!(!error.to_string().is_empty(), "a refusal without words");
    }
}

/// A manifest as it is, and with a checksum that is right.
pub(crate) fn manifest(bytes: &[u8]) {
    peek(bytes);
    let body = [bytes.trim_ascii_end(), b"\n"].concat();
    let seal = format!("crc = {:08x}\n", crc32fast::hash(&body));
    peek(&[&body, seal.as_bytes()].concat());
}

fn peek(bytes: &[u8]) {
    let files = Files::from([("MANIFEST".to_owned(), bytes.to_vec())]);
    match DataDir::peek(&*disk_with(&files)) {
        Ok(found) => assert!(found.is_some(), "a manifest that is there is not seen"),
        Err(error) => assert!(!error.to_string().is_empty(), "a refusal without words"),
    }
}

pub(crate) fn configs() -> Vec<Vec<u8>> {
    let texts = [
        "[node]\nid = 1\ndata_dir = \"data\"\ndurability = \"disk\"\n",
        "[driver]\nkind = \"local\"\n[driver.local]\nbatches_in_flight = 3\n",
        "[driver]\nkind = \"raft\"\n[driver.raft]\nmembers = [1, 2, 3]\nelection_timeout = \"1s\"\n",
        "[transport]\nkind = \"quic\"\n[transport.quic]\nlisten = \"127.0.0.1:0\"\n[transport.quic.peers]\n2 = \"host:7000\"\n",
        "[log]\nsegment_bytes = 8388608\nspares = 1\n[retain]\nbytes = 0\nage = \"1h\"\n",
        "[session]\nidle = \"90days\"\n[limits]\nsessions = 9\n",
    ];
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

pub(crate) fn manifests() -> Vec<Vec<u8>> {
    let golden = include_bytes!("../../storage/tests/golden/v1/MANIFEST");
    let seal = golden.len() - b"crc = 12345678\n".len();
    vec![golden.to_vec(), golden[..seal].to_vec()]
}
