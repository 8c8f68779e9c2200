//! `quorate config`: says what is configured and whether it makes sense, without starting a node.

use quorate::{Config, Explained, builtin};
use serde_json::json;

use crate::cli::{ConfigCommand, Output};
use crate::exit::{Exit, Failure};
use crate::founding::{self, QUORUM};
use crate::{open, print, print_as, tell};

pub(crate) fn run(
    config: &Config,
    command: &ConfigCommand,
    output: Output,
) -> Result<Exit, Failure> {
    match command {
        ConfigCommand::Check => {
            builtin::check(config).map_err(Failure::usage)?;
            if config.driver.kind == QUORUM {
                let genesis = builtin::genesis(config).map_err(open::failure)?;
                if let Some(warning) = founding::warning(&genesis) {
                    tell(&format!("warning: {warning}\n"));
                }
            }
            let (driver, durability) = (&config.driver.kind, config.node.durability);
            print_as(
                output,
                || json!({ "ok": true, "driver": driver, "durability": durability }),
                || format!("the configuration is right: driver {driver}, durability {durability}"),
            )?;
        }
        ConfigCommand::Explain => {
            let lines = config.explain();
            match output {
                Output::Json => print(serde_json::Value::from_iter(lines.iter().map(as_json)))?,
                Output::Text => {
                    let width = |part: fn(&Explained) -> &str| {
                        lines.iter().map(|line| part(line).chars().count()).max().unwrap_or(0)
                    };
                    let (key, value) = (width(|line| &line.key), width(|line| &line.value));
                    for line in &lines {
                        let Explained { key: k, value: v, origin, .. } = line;
                        print(format!("{k:key$} = {v:value$}  # {origin}"))?;
                    }
                }
            }
        }
    }
    Ok(Exit::Done)
}

fn as_json(line: &Explained) -> serde_json::Value {
    json!({ "key": line.key, "value": line.value, "origin": line.origin.to_string() })
}
