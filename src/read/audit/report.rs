//! What an audit found: the ledger's lines with both sides, and findings with their remedy.
//!
//! Owns: these values, their sums and their columns. Does not own: any check.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, UInt8Array};
use arrow::datatypes::{DataType, Field, Schema};
use serde::Serialize;
use sluicebox_actors::model::fault::{Fault, Kind, Result};
use sluicebox_actors::model::position::ShardId;

use crate::read::sources::time_text;

/// Findings kept at most; the rest is only counted.
const FINDINGS_MAX: usize = 1000;

/// One line of the ledger.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Line {
    /// Its number in the ledger, 1 to 8.
    pub number: u8,
    /// `total`, `shard <name>`, `table <name>` or `table <name> shard <name>`.
    pub scope: String,
    /// The equation in words.
    pub says: String,
    /// Left side.
    pub left: u64,
    /// Right side.
    pub right: u64,
    /// Left minus right; 0 when the line holds.
    pub difference: i128,
    /// Where the two sides were read.
    pub place: String,
}

/// How bad it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing; nothing is wrong.
    Info,
    /// Not proved wrong, but not proved right either.
    Warning,
    /// The proof fails here.
    Error,
}

impl Severity {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// Something an operator should look at.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// The shard, if it is about one.
    pub shard: Option<ShardId>,
    /// The epoch of that shard.
    pub epoch: Option<u64>,
    /// The Gold table.
    pub table: Option<String>,
    /// Start of the window, microseconds since 1970.
    pub window_us: Option<i64>,
    /// What is wrong. Names places, never values of records.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
}

impl Finding {
    /// The proof fails.
    pub fn error(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(Severity::Error, what, remedy)
    }

    /// Not proved.
    pub fn warning(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(Severity::Warning, what, remedy)
    }

    /// Worth knowing.
    pub fn info(what: impl Into<String>) -> Self {
        Self::new(Severity::Info, what, "nothing")
    }

    fn new(severity: Severity, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        let (what, remedy) = (what.into(), remedy.into());
        Self { severity, shard: None, epoch: None, table: None, window_us: None, what, remedy }
    }

    /// About this epoch.
    pub fn at(mut self, shard: &ShardId, epoch: u64) -> Self {
        self.shard = Some(shard.clone());
        self.epoch = Some(epoch);
        self
    }

    /// About this shard.
    pub fn of_shard(mut self, shard: &ShardId) -> Self {
        self.shard = Some(shard.clone());
        self
    }

    /// About this window.
    pub fn in_window(mut self, table: &str, window_us: i64) -> Self {
        self.table = Some(table.to_owned());
        self.window_us = Some(window_us);
        self
    }

    /// About this Gold table.
    pub fn in_table(mut self, table: &str) -> Self {
        self.table = Some(table.to_owned());
        self
    }
}

/// A window whose newest partials are not in Gold yet.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct PendingWindow {
    /// Gold table.
    pub table: String,
    /// Start of the window, microseconds since 1970.
    pub window_us: i64,
    /// Records that are committed and not in the newest revision.
    pub records: u64,
}

/// Everything an audit has to say.
#[derive(Clone, Default, Debug, Serialize)]
pub struct Report {
    /// The ledger: totals first within each number, then the parts.
    pub lines: Vec<Line>,
    /// Findings, worst first.
    pub findings: Vec<Finding>,
    /// Findings beyond those listed.
    pub findings_left_out: u64,
    /// Windows that Gold has still to take in.
    pub pending: Vec<PendingWindow>,
    /// Shards walked.
    pub shards: u64,
    /// Epochs walked.
    pub epochs: u64,
    /// Epochs whose records were not compared, because files of theirs are pending, expired or damaged.
    pub epochs_not_compared: u64,
    /// Epochs that begin with records that were handed over (AWS Lambda): that nothing lay before those is not proved.
    pub unproven_starts: u64,
    /// Files hashed and counted.
    pub files: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Windows whose Gold was computed again from Silver.
    pub recomputed: u64,
    /// 2 when the first pass found something and everything was looked at once more.
    pub passes: u8,
    #[serde(skip)]
    sums: BTreeMap<(u8, String), BTreeMap<String, Sides>>,
    errors: u64,
}

#[derive(Clone, Default, Debug)]
struct Sides {
    left: u64,
    right: u64,
    place: &'static str,
}

impl Report {
    /// Every line is 0 and no finding is an error.
    pub fn ok(&self) -> bool {
        self.errors == 0 && self.lines.iter().all(|line| line.difference == 0)
    }

    /// Adds to both sides of a line.
    pub fn add(&mut self, number: u8, scope: &str, says: &str, left: u64, right: u64, place: &'static str) {
        let scopes = self.sums.entry((number, says.to_owned())).or_default();
        let sides = scopes.entry(scope.to_owned()).or_default();
        sides.left = sides.left.saturating_add(left);
        sides.right = sides.right.saturating_add(right);
        sides.place = place;
    }

    /// Takes a finding in.
    pub fn find(&mut self, finding: Finding) {
        if finding.severity == Severity::Error {
            self.errors += 1;
        }
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(finding);
        } else {
            self.findings_left_out += 1;
        }
    }

    /// Takes many in.
    pub fn find_all(&mut self, findings: Vec<Finding>) {
        findings.into_iter().for_each(|finding| self.find(finding));
    }

    /// Turns the sums into lines.
    pub fn close(&mut self) {
        self.lines.clear();
        for ((number, says), scopes) in &self.sums {
            let line = |scope: &str, sides: &Sides| Line {
                number: *number,
                scope: scope.to_owned(),
                says: says.clone(),
                left: sides.left,
                right: sides.right,
                difference: i128::from(sides.left) - i128::from(sides.right),
                place: sides.place.to_owned(),
            };
            let mut total = Sides::default();
            for sides in scopes.values() {
                total.left = total.left.saturating_add(sides.left);
                total.right = total.right.saturating_add(sides.right);
                total.place = sides.place;
            }
            self.lines.push(line("total", &total));
            self.lines.extend(scopes.iter().map(|(scope, sides)| line(scope, sides)));
        }
        self.findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    }

    /// The lines as columns: number, scope, says, left, right, difference, place.
    pub fn lines_batch(&self) -> Result<RecordBatch> {
        let text = |of: &dyn Fn(&Line) -> &str| -> ArrayRef {
            Arc::new(self.lines.iter().map(|line| Some(of(line))).collect::<StringArray>())
        };
        let number = |of: &dyn Fn(&Line) -> i128| -> ArrayRef {
            let clamped = |n: i128| i64::try_from(n).unwrap_or(if n < 0 { i64::MIN } else { i64::MAX });
            Arc::new(self.lines.iter().map(|line| Some(clamped(of(line)))).collect::<Int64Array>())
        };
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("line", Arc::new(self.lines.iter().map(|line| Some(line.number)).collect::<UInt8Array>())),
            ("scope", text(&|line| &line.scope)),
            ("says", text(&|line| &line.says)),
            ("left", number(&|line| i128::from(line.left))),
            ("right", number(&|line| i128::from(line.right))),
            ("difference", number(&|line| line.difference)),
            ("place", text(&|line| &line.place)),
        ];
        batch(columns)
    }

    /// The findings as columns: severity, shard, epoch, table, window, what, remedy.
    pub fn findings_batch(&self) -> Result<RecordBatch> {
        let text = |of: &dyn Fn(&Finding) -> Option<String>| -> ArrayRef {
            Arc::new(self.findings.iter().map(of).collect::<StringArray>())
        };
        let epochs = self.findings.iter().map(|finding| finding.epoch.and_then(|epoch| i64::try_from(epoch).ok()));
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("severity", text(&|finding| Some(finding.severity.as_str().to_owned()))),
            ("shard", text(&|finding| finding.shard.as_ref().map(ToString::to_string))),
            ("epoch", Arc::new(epochs.collect::<Int64Array>())),
            ("table", text(&|finding| finding.table.clone())),
            ("window", text(&|finding| finding.window_us.map(time_text))),
            ("what", text(&|finding| Some(finding.what.clone()))),
            ("remedy", text(&|finding| Some(finding.remedy.clone()))),
        ];
        batch(columns)
    }
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> Result<RecordBatch> {
    let fields = columns.iter().map(|(name, column)| Field::new(*name, DataType::clone(column.data_type()), true));
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    RecordBatch::try_new(schema, columns.into_iter().map(|(_, column)| column).collect())
        .map_err(|error| Fault::caused(Kind::Bug, "the report as columns", &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_wrongs_in_two_shards_do_not_make_a_right() {
        let mut report = Report::default();
        report.add(1, "shard a", "x = y", 5, 6, "epochs");
        report.add(1, "shard b", "x = y", 6, 5, "epochs");
        report.close();
        assert_eq!(report.lines.iter().map(|line| line.difference).collect::<Vec<_>>(), [0, -1, 1]);
        assert!(!report.ok());
        assert_eq!(report.lines_batch().unwrap().num_rows(), 3);
    }

    #[test]
    fn a_warning_is_no_failure_and_an_error_beyond_the_list_is_one() {
        let mut report = Report::default();
        for _ in 0..FINDINGS_MAX {
            report.find(Finding::warning("w", "r"));
        }
        report.close();
        assert!(report.ok());
        report.find(Finding::error("e", "r"));
        assert!(!report.ok());
        assert_eq!(report.findings_left_out, 1);
        assert_eq!(report.findings_batch().unwrap().num_rows(), FINDINGS_MAX);
    }
}
