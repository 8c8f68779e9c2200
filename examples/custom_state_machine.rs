//! A state machine of one's own: a bank that never lets an account go below zero.
//!
//! ```sh
//! cargo run --example custom_state_machine
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

use quorate::*;

/// Balances by account. The namespace of a frame is the account, its payload the change, as decimal text.
#[derive(Debug, Default)]
struct Bank {
    balances: BTreeMap<String, i64>,
}

impl StateMachine for Bank {
    fn apply(&mut self, batch: &Batch<'_>, outcomes: &mut Outcomes) {
        for BatchFrame { frame, .. } in batch.frames {
            let change =
                std::str::from_utf8(&frame.payload).ok().and_then(|text| text.parse().ok());
            let balance = self.balances.entry(frame.shard.as_str().into()).or_default();
            match change.and_then(|change| balance.checked_add(change)) {
                Some(after) if after >= 0 => {
                    *balance = after;
                    outcomes.answer(format!("balance {after}"));
                }
                // Every payload has an answer; a refusal changes nothing and is an answer like any other.
                _ => outcomes.answer(format!("refused, balance {balance}")),
            }
        }
    }

    fn begin_checkpoint(&mut self) -> CheckpointPairs {
        let balances = self.balances.clone().into_iter();
        Box::new(
            balances.map(|(account, balance)| Pair::put(account, balance.to_le_bytes().to_vec())),
        )
    }

    fn restore(&mut self, reader: &mut dyn CheckpointReader) -> Result<(), RestoreError> {
        self.balances.clear();
        while let Some((account, balance)) = reader.next()? {
            let account =
                String::from_utf8(account.into()).map_err(|_| RestoreError::new("account"))?;
            let balance = (*balance).try_into().map_err(|_| RestoreError::new("balance"))?;
            self.balances.insert(account, i64::from_le_bytes(balance));
        }
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let node = Node::open_with(Config::in_memory(), Bank::default()).await?;
    let session = node.session()?;
    let account = ShardKey::new("bank", "alice")?;
    for change in ["100", "-30", "-100"] {
        let commit = session.propose(&account, change, Duration::from_secs(2)).await?;
        let reply = commit.reply.bytes().map(|reply| String::from_utf8_lossy(reply).into_owned());
        println!("{change:>5} at {}: {}", commit.position, reply.unwrap_or_default());
    }
    node.close().await?;
    Ok(())
}
