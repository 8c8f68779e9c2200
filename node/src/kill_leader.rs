//! `quorate dev kill-leader`: what the loss of a leader costs, measured by somebody who writes meanwhile.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quorate::kv::{PutOptions, ReadOptions};
use quorate::{Client, ClientConfig, NodeId, SessionId, ShardKey};
use serde_json::json;
use tokio::sync::watch;

use crate::cli::Output;
use crate::exit::{Exit, Failure};
use crate::status::ASK_WITHIN;
use crate::target::{connect, failure};
use crate::{dev, print_as};

/// Writes that have to be answered before the leader is killed, and again before the end.
const WRITES: usize = 50;

/// How long one write may take.
const WRITE_WITHIN: Duration = Duration::from_secs(10);

/// How long the others may take to elect, and the writes to go on.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often it is looked at who leads.
const LOOK_EVERY: Duration = Duration::from_millis(50);

pub(crate) async fn run(dir: &Path, output: Output) -> Result<Exit, Failure> {
    let config = ClientConfig::from_file(dev::running(dir)?).map_err(failure)?;
    if config.nodes.len() < 2 {
        return Err(Failure::usage(
            "one node alone has nobody to take over; start several with `quorate dev --nodes 3`",
        ));
    }
    let client = Arc::new(connect(config).await?);
    let result = measure(&client, dir, output).await;
    client.close().await;
    result
}

async fn measure(client: &Arc<Client>, dir: &Path, output: Output) -> Result<Exit, Failure> {
    let shard = ShardKey::new("dev", "kill-leader").expect("both are names");
    // Keys are the same each time, so that they do not become more; values tell this time from others.
    let run = SessionId::random().map_err(Failure::service)?.to_string();
    let until = Instant::now() + PATIENCE;
    let old = leader(client, until, |_| true).await?;

    let (stop, stopped) = watch::channel(false);
    let (count, mut counted) = watch::channel(0);
    let writer =
        tokio::spawn(write(Arc::clone(client), shard.clone(), run.clone(), stopped, count));
    wait_for(&mut counted, WRITES, until).await?;
    let killed = dev::kill(dir, old);
    let before = *counted.borrow();
    let elected = match killed {
        Ok(()) => elected(client, old, &mut counted, before, until).await,
        Err(failure) => Err(failure),
    };
    stop.send_replace(true);
    let written = writer.await.map_err(Failure::service)?;
    let new = elected?;

    let mut lost = Vec::new();
    for (key, number) in written.answered.iter().zip(1_u64..) {
        let got = client.kv().get(&shard, key.as_bytes(), ReadOptions::default()).await;
        let got = got.map_err(Failure::service)?.entry;
        if got.is_none_or(|entry| entry.value != format!("{run}/{key}")) {
            lost.push(number);
        }
    }
    let answered = written.answered.len();
    let gap_ms = u64::try_from(written.gap.as_millis()).unwrap_or(u64::MAX);
    print_as(
        output,
        || {
            json!({
                "killed": old.number(),
                "leader": new.number(),
                "gap_ms": gap_ms,
                "writes": answered,
                "unknown": written.unknown,
                "lost": lost.len(),
            })
        },
        || {
            format!(
                "killed       {old}, which led\n\
                 new leader   {new}\n\
                 longest gap  {gap_ms} ms between two answered writes\n\
                 writes       {answered} answered, {} without an answer\n\
                 lost         {}",
                written.unknown,
                match lost.len() {
                    0 => "none: every answered write was read back".to_owned(),
                    count => format!("{count} of the answered writes"),
                }
            )
        },
    )?;
    Ok(if lost.is_empty() { Exit::Done } else { Exit::Problems })
}

/// Who leads after `old`, once writes go on.
async fn elected(
    client: &Client,
    old: NodeId,
    counted: &mut watch::Receiver<usize>,
    before: usize,
    until: Instant,
) -> Result<NodeId, Failure> {
    let new = leader(client, until, |leader| leader != old).await?;
    wait_for(counted, before + WRITES, until).await?;
    Ok(new)
}

/// Waits until as many writes are answered.
async fn wait_for(
    counted: &mut watch::Receiver<usize>,
    writes: usize,
    until: Instant,
) -> Result<(), Failure> {
    let waiting = counted.wait_for(|count| *count >= writes);
    match tokio::time::timeout_at(until.into(), waiting).await {
        Ok(Ok(_)) => Ok(()),
        _ => Err(Failure::service(format!(
            "writes were not answered any more within {} s; `quorate status` says why",
            PATIENCE.as_secs()
        ))),
    }
}

/// Waits for a leader whom a majority follows.
async fn leader(
    client: &Client,
    until: Instant,
    fits: impl Fn(NodeId) -> bool,
) -> Result<NodeId, Failure> {
    loop {
        let statuses = client.statuses(ASK_WITHIN).await;
        let groups: Vec<_> = statuses
            .iter()
            .filter_map(|(_, status)| status.as_ref().ok()?.groups.first())
            .collect();
        let newest = groups.iter().map(|group| group.term).max();
        let leader = groups
            .iter()
            .filter(|group| Some(group.term) == newest)
            .find_map(|group| group.leader)
            .filter(|leader| fits(*leader));
        if let Some(leader) = leader {
            return Ok(leader);
        }
        if Instant::now() > until {
            return Err(Failure::service(
                "no leader was found in time; `quorate status` says why nobody leads",
            ));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// What came of the writes.
#[derive(Debug, Default)]
struct Written {
    /// Keys whose write was answered.
    answered: Vec<String>,
    /// Writes of which nobody said what became of them.
    unknown: u64,
    /// The longest time between two answers.
    gap: Duration,
}

/// Writes one key after the other, until it is told to stop.
async fn write(
    client: Arc<Client>,
    shard: ShardKey,
    run: String,
    stopped: watch::Receiver<bool>,
    count: watch::Sender<usize>,
) -> Written {
    let mut written = Written::default();
    let mut last: Option<Instant> = None;
    for number in 1_u64.. {
        if *stopped.borrow() {
            break;
        }
        let key = format!("{number:08}");
        let value = format!("{run}/{key}");
        let options = PutOptions::default().within(WRITE_WITHIN);
        match client.kv().put(&shard, key.as_bytes(), value.as_bytes(), options).await {
            Ok(_) => {
                let now = Instant::now();
                written.gap = written.gap.max(last.map_or(Duration::ZERO, |last| now - last));
                last = Some(now);
                written.answered.push(key);
                count.send_replace(written.answered.len());
            }
            Err(error) => {
                tracing::info!(%error, "a write was not answered");
                written.unknown += 1;
            }
        }
    }
    written
}
