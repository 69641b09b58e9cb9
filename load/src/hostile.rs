//! Records that are meant to hurt: as large as a record can be, and small ones that grow when they are opened.
//!
//! Owns: the records. Does not own: what becomes of them (tests/malformed), what they cost (measure).

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use flate2::Compression;
use flate2::write::GzEncoder;

/// A record of Kinesis has at most so many bytes.
const LARGEST: usize = 10 << 20;
/// What a bomb grows to: a thousand times itself.
const GROWN: usize = 64 << 20;
/// Payloads may grow to this.
const ALLOWED: usize = 16 << 20;

/// Flags of `hostile`.
#[derive(Debug, Args)]
pub(crate) struct Hostile {
    /// Records of each kind
    #[arg(long, default_value_t = 10)]
    each: usize,
    /// Folder for the records, one a file
    #[arg(long)]
    folder: PathBuf,
}

/// Writes the records.
pub(crate) fn hostile(args: &Hostile) -> anyhow::Result<()> {
    std::fs::create_dir_all(&args.folder)?;
    for (kind, record) in records()? {
        for number in 0..args.each {
            std::fs::write(args.folder.join(format!("{kind}-{number:03}")), &record)?;
        }
    }
    Ok(())
}

/// One of each kind, by name.
fn records() -> std::io::Result<Vec<(&'static str, Vec<u8>)>> {
    let padded = |size: usize| event(&"x".repeat(size.saturating_sub(event("").len())));
    let bomb = gzip(&vec![b' '; GROWN])?;
    let mut truncated = padded(LARGEST);
    truncated.pop();
    let mut not_text = padded(LARGEST);
    let middle = not_text.len() / 2;
    not_text[middle] = 0xff;
    Ok(vec![
        ("large", padded(LARGEST)),
        ("truncated", truncated),
        ("not-text", not_text),
        ("deep", "[".repeat(LARGEST).into_bytes()),
        ("huge-numbers", format!("[{}1]", "1e400,".repeat(LARGEST / 6 - 1)).into_bytes()),
        ("zeros", vec![0; LARGEST]),
        ("grows-to-what-is-allowed", gzip(&padded(ALLOWED))?),
        ("gzip-bomb", bomb.clone()),
        ("gzip-bomb-in-gzip", gzip(&bomb)?),
        ("many-gzip-members", bomb.repeat(LARGEST / bomb.len().max(1))),
    ])
}

fn event(padding: &str) -> Vec<u8> {
    let who = r#"{"eventType":"click","userId":"123e4567-e89b-12d3-a456-426614174000""#;
    let when = r#","timestamp":"2026-01-05T10:00:00Z","properties":{"p":""#;
    [who, when, padding, r#""}}"#].concat().into_bytes()
}

fn gzip(data: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(data)?;
    encoder.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_record_is_one_and_bombs_grow_a_thousandfold() {
        let records = records().expect("made");
        for (kind, record) in &records {
            assert!(record.len() <= LARGEST, "{kind}: {}", record.len());
        }
        let record = |name: &str| &records.iter().find(|(kind, _)| *kind == name).expect("there").1;
        assert_eq!(record("large").len(), LARGEST);
        assert!(serde_json::from_slice::<serde_json::Value>(record("large")).is_ok());
        assert!(record("gzip-bomb").len() * 900 < GROWN, "{}", record("gzip-bomb").len());
    }
}
