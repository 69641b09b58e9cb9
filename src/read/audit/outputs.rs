//! The files that epochs name: each is there, whole, with its rows; and no other file is visible.
//!
//! Owns: presence, length, SHA-256 and row count of published files; what is pending or expired; foreign files. Does not own: the
//! records in them (records).

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use sha2::{Digest, Sha256};
use sluicebox_actors::model::epoch::{EpochHeader, Hash, Held, OutputClass, PendingOutput};
use sluicebox_actors::model::fault::Result;

use super::report::Finding;
use crate::read::files;
use crate::read::sources::{Visible, cannot_read, visible};

/// The classes with their folders.
pub const CLASSES: [(OutputClass, &str); 3] =
    [(OutputClass::Bronze, "bronze"), (OutputClass::Silver, "silver"), (OutputClass::Dlq, "dlq")];

/// The folder of a class.
pub fn folder(class: OutputClass) -> &'static str {
    match class {
        OutputClass::Bronze => "bronze",
        OutputClass::Silver => "silver",
        OutputClass::Dlq => "dlq",
    }
}

/// Per class: files of days before this one (`YYYY-MM-DD`) may have been removed by retention.
pub type Expiry = BTreeMap<OutputClass, String>;

/// What became of one epoch's outputs.
#[derive(Default, Debug)]
pub struct EpochFiles {
    /// Rows by class: in visible files, in pending ones, in expired ones.
    pub rows: BTreeMap<OutputClass, u64>,
    /// Something is not visible yet.
    pub pending: bool,
    /// All files are visible and are what the epoch says.
    pub whole: bool,
    /// Files hashed.
    pub files: u64,
    /// Bytes hashed.
    pub bytes: u64,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

/// Checks the files of one epoch; `pending` are outputs that need not be visible yet.
pub fn check(data: &Path, header: &EpochHeader, pending: &[PendingOutput], expiry: &Expiry) -> Result<EpochFiles> {
    let mut out = EpochFiles { whole: true, ..Default::default() };
    for output in &header.outputs {
        let mut file = One { data, header, output, out: &mut out };
        let may_be_staged = pending.iter().any(|pending| pending.path == output.path && pending.sha256 == output.sha256);
        file.check(may_be_staged, expiry.get(&output.class))?;
    }
    Ok(out)
}

struct One<'a> {
    data: &'a Path,
    header: &'a EpochHeader,
    output: &'a PendingOutput,
    out: &'a mut EpochFiles,
}

impl One<'_> {
    fn check(&mut self, may_be_staged: bool, expiry: Option<&String>) -> Result<()> {
        let output = self.output;
        let path = self.data.join(&output.path);
        let place = Visible { relative: output.path.clone(), path: path.clone() };
        if !output.path.starts_with(&format!("{}/", folder(output.class))) || output.path.split('/').any(|part| part == "..") {
            self.wrong("lies outside of its table's folder", "restore the state directory");
            return Ok(());
        }
        let mut found = measured(&path)?;
        if found.is_none() && may_be_staged && self.output.held != Held::File {
            // In the epoch object, whose hash holds, or on its way in an upload: a takeover or its owner shows it.
            self.out.pending = true;
            self.out.whole = false;
            self.count(output.rows);
            return Ok(());
        }
        if found.is_none() && may_be_staged {
            match measured(&self.data.join(&output.staged))? {
                Some(staged) if staged == (output.len, output.sha256.clone()) => {
                    self.out.pending = true;
                    self.out.whole = false;
                    self.count(output.rows);
                    return Ok(());
                }
                // Published between our two looks, or lost.
                Some(_) | None => found = measured(&path)?,
            }
        }
        let Some((len, sha256)) = found else {
            let expired = expiry.is_some_and(|first| place.value("dt").is_some_and(|day| day < *first));
            self.out.whole = false;
            if expired {
                self.count(output.rows);
            } else {
                self.wrong("is missing", "restore the file from a backup");
            }
            return Ok(());
        };
        self.out.files += 1;
        self.out.bytes += len;
        if len != output.len || sha256 != output.sha256 {
            self.wrong("is not the one that was committed: length or SHA-256 differ", "restore the file from a backup");
        }
        match files::count_rows(&path) {
            Ok(rows) => {
                self.count(rows);
                if rows != output.rows {
                    self.wrong("has another number of rows than was committed", "restore the file from a backup");
                }
            }
            Err(fault) => self.wrong(&format!("cannot be read ({fault})"), "restore the file from a backup"),
        }
        Ok(())
    }

    fn count(&mut self, rows: u64) {
        *self.out.rows.entry(self.output.class).or_default() += rows;
    }

    fn wrong(&mut self, what: &str, remedy: &str) {
        self.out.whole = false;
        let finding = Finding::error(format!("{} {what}", self.output.path), remedy);
        self.out.findings.push(finding.at(&self.header.shard, self.header.epoch));
    }
}

/// Length and SHA-256 of a file, none if it is not there.
pub fn measured(path: &Path) -> Result<Option<(u64, Hash)>> {
    let name = path.to_string_lossy();
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(cannot_read(&name, &error)),
    };
    let (mut digest, mut len, mut buffer) = (Sha256::new(), 0u64, vec![0u8; 1 << 18]);
    loop {
        let read = file.read(&mut buffer).map_err(|error| cannot_read(&name, &error))?;
        if read == 0 {
            return Ok(Some((len, Hash::from_digest(&digest.finalize()))));
        }
        digest.update(buffer.get(..read).unwrap_or_default());
        len += read as u64;
    }
}

/// Paths that epochs name, 16 bytes each.
#[derive(Default, Debug)]
pub struct Named(HashSet<[u8; 16]>);

impl Named {
    /// Takes a path in; false if it was there.
    pub fn insert(&mut self, path: &str) -> bool {
        self.0.insert(short(path))
    }

    /// Visible files that no epoch names.
    pub fn strangers(&self, data: &Path) -> Result<Vec<Visible>> {
        let mut out = Vec::new();
        for (_, folder) in CLASSES {
            out.extend(visible(data, folder)?.into_iter().filter(|file| !self.0.contains(&short(&file.relative))));
        }
        Ok(out)
    }
}

fn short(path: &str) -> [u8; 16] {
    let digest = Sha256::digest(path.as_bytes());
    std::array::from_fn(|index| digest.get(index).copied().unwrap_or(0))
}
