//! A sink that is a file: one JSON object a line for every row, tombstone and letter that is handed on.
//!
//! For looking at what a sink is given, and for tests: whatever comes twice stands there twice, as a sink must expect it.
//!
//! Owns: the lines. Does not own: what is handed on (sluicebox_actors::shells::feed).

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::json::LineDelimitedWriter;
use async_trait::async_trait;
use serde_json::{Map, Value};
use sluicebox_actors::model::fault::{Fault, Kind, Result};
use sluicebox_actors::ports::{Fed, GoldRevision, GoldSink, LetterSink, PostedLetter};

use super::disk::{blocking, io_fault};

/// The sink.
#[derive(Clone)]
pub struct FileSink {
    name: String,
    path: Arc<Path>,
}

impl FileSink {
    /// Appends to this file.
    pub fn new(name: &str, path: PathBuf) -> Self {
        Self { name: name.to_owned(), path: path.into() }
    }

    fn append(&self, lines: &[u8]) -> Result<()> {
        let path = &self.path;
        let mut file =
            OpenOptions::new().create(true).append(true).open(path).map_err(|error| io_fault("opening a sink", path, &error))?;
        file.write_all(lines).and_then(|()| file.sync_data()).map_err(|error| io_fault("writing to a sink", path, &error))
    }
}

fn objects(rows: &RecordBatch) -> Result<Vec<Map<String, Value>>> {
    let fault = |error: &dyn std::error::Error| Fault::caused(Kind::Bug, "Gold as JSON", error);
    let mut out = Vec::new();
    let mut writer = LineDelimitedWriter::new(&mut out);
    writer.write(rows).and_then(|()| writer.finish()).map_err(|error| fault(&error))?;
    let lines = out.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_slice(line).map_err(|error| fault(&error))).collect()
}

fn lines(revision: &GoldRevision) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    // A tombstone without keys is still one: the table's only row is gone.
    let bare = |rows: &RecordBatch| match rows.num_columns() {
        0 => Ok(vec![Map::new(); rows.num_rows()]),
        _ => objects(rows),
    };
    for (rows, gone) in [(bare(&revision.rows)?, false), (bare(&revision.removed)?, true)] {
        for row in rows {
            let line = serde_json::json!({
                "table": *revision.table,
                "window_start_us": revision.window.start_us,
                "version": revision.version,
                "revision": revision.revision,
                "status": revision.status.as_str(),
                "gone": gone,
                "row": row,
            });
            out.extend_from_slice(line.to_string().as_bytes());
            out.push(b'\n');
        }
    }
    Ok(out)
}

#[async_trait]
impl GoldSink for FileSink {
    fn name(&self) -> &str {
        &self.name
    }

    async fn feed(&self, revision: &GoldRevision) -> Result<Fed> {
        let (this, revision) = (self.clone(), revision.clone());
        let stored = (revision.rows.num_rows() + revision.removed.num_rows()) as u64;
        blocking(move || this.append(&lines(&revision)?)).await?;
        Ok(Fed { stored, ..Fed::default() })
    }
}

#[async_trait]
impl LetterSink for FileSink {
    fn name(&self) -> &str {
        &self.name
    }

    async fn send(&self, letters: &[PostedLetter]) -> Result<Fed> {
        let mut out = Vec::new();
        for posted in letters {
            let (id, letter) = (posted.letter.id(), &posted.letter);
            let line = serde_json::json!({ "id": id, "file": posted.file, "line": posted.line, "letter": letter });
            out.extend_from_slice(line.to_string().as_bytes());
            out.push(b'\n');
        }
        let this = self.clone();
        blocking(move || this.append(&out)).await?;
        Ok(Fed { stored: letters.len() as u64, ..Fed::default() })
    }
}
