//! `quorate kv`: single keys.

use std::io::{self, Read as _, Write as _};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use quorate::kv::{DeleteOptions, Entry, KvError, KvReadError, PutOptions, ReadOptions, Scan};
use quorate::limits::FRAME_BYTES_MAX;
use quorate::{Kv, ProposeError, SessionError, ShardKey};
use serde_json::json;

use crate::cli::{KvCommand, Output};
use crate::exit::{Exit, Failure};
use crate::target::Way;
use crate::{print, print_as, written};

/// How long the end of a session is waited for; nothing depends on it.
const CLOSE_WITHIN: Duration = Duration::from_millis(500);

pub(crate) async fn run(way: Way, command: &KvCommand, output: Output) -> Result<Exit, Failure> {
    // Read before the node is opened, so that nobody waits for the data directory while someone types.
    let value = match command {
        KvCommand::Put { value, .. } if value == "-" => Some(standard_input()?),
        KvCommand::Put { value, .. } => Some(value.clone().into_bytes()),
        _ => None,
    };
    let target = match command {
        KvCommand::Put { .. } => way.open().await?,
        _ => way.open_existing().await?,
    };
    let kv = target.kv();
    let result = match command {
        KvCommand::Get { shard, key, .. } => get(kv, shard, key, output).await,
        KvCommand::Put { shard, key, .. } => {
            put(kv, shard, key, &value.unwrap_or_default(), output).await
        }
        KvCommand::Del { shard, key } => del(kv, shard, key, output).await,
        KvCommand::List { shard, prefix, limit } => list(kv, shard, prefix, *limit, output).await,
    };
    if let KvCommand::Put { shard, .. } | KvCommand::Del { shard, .. } = command
        && let Err(error) = kv.session().close(shard, CLOSE_WITHIN).await
    {
        // The group ends it by itself after a while without use.
        tracing::info!(%error, "the session of this command was not closed");
    }
    target.close(result).await
}

fn standard_input() -> Result<Vec<u8>, Failure> {
    let mut value = Vec::new();
    // One byte more than fits, so that a longer one is refused and not cut.
    io::stdin()
        .take(FRAME_BYTES_MAX as u64 + 1)
        .read_to_end(&mut value)
        .map_err(|error| Failure::usage(format!("cannot read the value: {error}")))?;
    Ok(value)
}

async fn get(kv: &Kv, shard: &ShardKey, key: &str, output: Output) -> Result<Exit, Failure> {
    let got = kv.get(shard, key.as_bytes(), ReadOptions::default()).await.map_err(not_read)?;
    let Some(entry) = got.entry else { return missing(shard, key) };
    match output {
        Output::Json => print(as_json(&entry, got.revision))?,
        Output::Text => {
            let mut out = io::stdout().lock();
            out.write_all(&entry.value).map_err(written)?;
            writeln!(out).and_then(|()| out.flush()).map_err(written)?;
            eprintln!("revision {}, created at {}", entry.modified, entry.created);
        }
    }
    Ok(Exit::Done)
}

async fn put(
    kv: &Kv,
    shard: &ShardKey,
    key: &str,
    value: &[u8],
    output: Output,
) -> Result<Exit, Failure> {
    let done =
        kv.put(shard, key.as_bytes(), value, PutOptions::default()).await.map_err(not_written)?;
    print_as(
        output,
        || json!({ "key": key, "revision": done.revision, "created": done.created }),
        || done.revision.to_string(),
    )?;
    Ok(Exit::Done)
}

async fn del(kv: &Kv, shard: &ShardKey, key: &str, output: Output) -> Result<Exit, Failure> {
    let done =
        kv.delete(shard, key.as_bytes(), DeleteOptions::default()).await.map_err(not_written)?;
    if !done.existed {
        return missing(shard, key);
    }
    print_as(
        output,
        || json!({ "key": key, "revision": done.revision }),
        || done.revision.to_string(),
    )?;
    Ok(Exit::Done)
}

async fn list(
    kv: &Kv,
    shard: &ShardKey,
    prefix: &str,
    limit: Option<u64>,
    output: Output,
) -> Result<Exit, Failure> {
    let mut left = limit.unwrap_or(u64::MAX);
    let mut scan = Scan::prefix(prefix.as_bytes());
    let mut out = io::BufWriter::new(io::stdout().lock());
    while left > 0 {
        let keys_max = usize::try_from(left).unwrap_or(usize::MAX);
        let page = kv
            .scan(shard, &scan.clone().limit(keys_max), ReadOptions::default())
            .await
            .map_err(not_read)?;
        left -= page.entries.len() as u64;
        for entry in &page.entries {
            let line = match output {
                Output::Json => as_json(entry, page.revision).to_string().into_bytes(),
                Output::Text => {
                    let revision = format!("\t{}\t", entry.modified);
                    [&entry.key[..], revision.as_bytes(), &entry.value[..]].concat()
                }
            };
            out.write_all(&line).and_then(|()| out.write_all(b"\n")).map_err(written)?;
        }
        let Some(next) = page.next else { break };
        scan = scan.after(next);
    }
    out.flush().map_err(written)?;
    Ok(Exit::Done)
}

fn missing(shard: &ShardKey, key: &str) -> Result<Exit, Failure> {
    Err(Failure { exit: Exit::Problems, message: format!("no key {key:?} in {shard}") })
}

/// Keys and values that are UTF-8 as they are, others in base64.
fn as_json(entry: &Entry, namespace_revision: u64) -> serde_json::Value {
    let mut json = json!({
        "revision": entry.modified,
        "created": entry.created,
        "namespace_revision": namespace_revision,
    });
    let mut put = |text: &str, base64: &str, bytes: &[u8]| match std::str::from_utf8(bytes) {
        Ok(utf8) => json[text] = utf8.into(),
        Err(_) => json[base64] = STANDARD.encode(bytes).into(),
    };
    put("key", "key_base64", &entry.key);
    put("text", "val", &entry.value);
    json
}

fn not_written(error: KvError) -> Failure {
    match error {
        KvError::Refused(_) => Failure { exit: Exit::Problems, message: error.to_string() },
        KvError::Session(SessionError::Propose(
            ProposeError::TooLarge { .. } | ProposeError::Invalid { .. },
        )) => Failure::usage(error),
        KvError::Session(SessionError::Unknown { .. }) => Failure::service(
            "not decided in time, and it may still happen: read the key to learn what became of it",
        ),
        error => Failure::service(error),
    }
}

fn not_read(error: KvReadError) -> Failure {
    Failure::service(error)
}
