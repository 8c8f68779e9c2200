//! `quorate export`: the live keys as lines that `import` reads, in byte order.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use quorate::Kv;
use quorate::kv::{OrgReadOptions, Scan};

use crate::cli::ExportArgs;
use crate::exit::{Exit, Failure};
use crate::target::Way;
use crate::{ndjson, status, written};

pub(crate) async fn run(way: Way, arguments: &ExportArgs) -> Result<Exit, Failure> {
    let target = way.open_existing().await?;
    let kv = target.kv();
    let result = match &arguments.out {
        None => to(kv, BufWriter::new(io::stdout().lock())).await.map(|(exit, _)| exit),
        Some(path) => to_file(kv, path).await,
    };
    target.close(result).await
}

/// The file appears under its name when it is complete.
async fn to_file(kv: &Kv, path: &Path) -> Result<Exit, Failure> {
    let named = |error: io::Error| Failure::usage(format!("{}: {error}", path.display()));
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let file = File::create(&temporary).map_err(named)?;
    let done = match to(kv, BufWriter::new(file)).await {
        Ok((exit, out)) => out
            .into_inner()
            .map_err(io::IntoInnerError::into_error)
            .and_then(|file| file.sync_all())
            .and_then(|()| fs::rename(&temporary, path))
            .map(|()| exit)
            .map_err(named),
        Err(failure) => Err(failure),
    };
    if done.is_err() {
        // The error that is told is the one that came first.
        let _ = fs::remove_file(&temporary);
    }
    done
}

async fn to<W: Write>(kv: &Kv, mut out: W) -> Result<(Exit, W), Failure> {
    let mut exit = Exit::Done;
    let mut last: Option<String> = None;
    while let Some(org) = next_org(kv, last.as_deref()).await? {
        let mut scan = Scan::all();
        loop {
            let page = kv
                .scan_org(&org, &scan, OrgReadOptions::default())
                .await
                .map_err(Failure::service)?;
            for part in &page.parts {
                for entry in &part.entries {
                    let Ok(key) = std::str::from_utf8(&entry.key) else {
                        let key = status::hex(&entry.key);
                        eprintln!("{}: key 0x{key} is not UTF-8 and has no line", part.shard);
                        exit = Exit::Problems;
                        continue;
                    };
                    writeln!(out, "{}", ndjson::canonical(&part.shard, key, &entry.value))
                        .map_err(written)?;
                }
            }
            let Some(next) = page.next else { break };
            scan = scan.after(next);
        }
        last = Some(org);
    }
    out.flush().map_err(written)?;
    Ok((exit, out))
}

async fn next_org(kv: &Kv, after: Option<&str>) -> Result<Option<String>, Failure> {
    let mut orgs = kv.orgs(after, 1, OrgReadOptions::default()).await.map_err(Failure::service)?;
    Ok(orgs.pop())
}
