//! Input with as many groups as wanted, and the pipeline that groups it.
//!
//! Owns: the events, the contract and the statement. Does not own: running and measuring them (measure).

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;

use clap::Args;

/// Coprime to every number of keys below it, being a prime: its multiples meet each key once before any twice.
const STEP: u64 = (1 << 61) - 1;

const PIPELINE: &str = r#"[event]
schema = "keys.schema.json"
time = "time"
time_format = "epoch_ms"

[silver]
sql = "SELECT * FROM events"

[[gold]]
name = "by_key"
window = { tumbling = "1h" }
sql = "SELECT key, count(*) AS n, sum(v) AS s, max(v) AS m FROM silver GROUP BY key"
"#;

const SCHEMA: &str = r#"{
  "type": "object",
  "required": ["key", "time", "v"],
  "properties": { "key": { "type": "string" }, "time": { "type": "integer" }, "v": { "type": "integer" } }
}
"#;

/// 2026-01-05T08:00:00Z.
const START_MS: u64 = 1_767_600_000_000;
const HOUR_MS: u64 = 3_600_000;

/// Flags of `keys`.
#[derive(Debug, Args)]
pub(crate) struct Keys {
    /// Different keys, all of them in one window
    #[arg(long, default_value_t = 1_000_000)]
    keys: u64,
    /// Events, in which the keys come round again and again; as many as keys by default
    #[arg(long)]
    events: Option<u64>,
    /// Folder for keys.toml, keys.schema.json and keys.ndjson
    #[arg(long)]
    folder: PathBuf,
}

/// Writes the three files.
pub(crate) fn keys(args: &Keys) -> anyhow::Result<()> {
    std::fs::create_dir_all(&args.folder)?;
    std::fs::write(args.folder.join("keys.toml"), PIPELINE)?;
    std::fs::write(args.folder.join("keys.schema.json"), SCHEMA)?;
    let mut events = BufWriter::with_capacity(1 << 20, File::create(args.folder.join("keys.ndjson"))?);
    write(&mut events, args.keys.max(1), args.events.unwrap_or(args.keys))?;
    Ok(events.flush()?)
}

fn write(out: &mut impl Write, keys: u64, events: u64) -> std::io::Result<()> {
    for n in 0..events {
        let key = u128::from(n) * u128::from(STEP) % u128::from(keys);
        let time = START_MS + n.saturating_mul(HOUR_MS) / events.max(1);
        writeln!(out, r#"{{"key":"key-{key:012}","time":{time},"v":{n}}}"#)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn every_key_comes_equally_often_and_every_event_lies_in_the_hour() {
        let mut out = Vec::new();
        write(&mut out, 300, 900).expect("writes");
        let text = String::from_utf8(out).expect("text");
        let mut seen: BTreeMap<String, u64> = BTreeMap::new();
        for line in text.lines() {
            let event: serde_json::Value = serde_json::from_str(line).expect("json");
            let time = event["time"].as_u64().expect("a number");
            assert!((START_MS..START_MS + HOUR_MS).contains(&time));
            *seen.entry(event["key"].to_string()).or_default() += 1;
        }
        assert_eq!(seen.len(), 300);
        assert!(seen.values().all(|times| *times == 3));
    }
}
