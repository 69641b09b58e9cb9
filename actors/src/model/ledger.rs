//! The ledger: counts of records per shard and epoch, and the equations that must hold between them.
//!
//! Owns: counters, their sum, equations (1), (2), (3), (5) of the ledger over one set of counters. Does not own: counting rows
//! in files (audit), the chain of epochs (audit).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Counts of one epoch, or their running total. All count records, `gold` counts (record, window) pairs.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    /// Records read from the stream.
    pub received: u64,
    /// Payload bytes read from the stream.
    pub bytes: u64,
    /// Records written to Bronze; equals `received` where Bronze is on, 0 where it is off.
    pub bronze: u64,
    /// Rows written to Silver.
    pub silver: u64,
    /// Records dropped because their deduplication key was seen within the horizon.
    pub duplicate: u64,
    /// Letters by `stage/reason`; the record is in no table.
    pub rejected: BTreeMap<String, u64>,
    /// Records a named rule left out.
    pub filtered: BTreeMap<String, u64>,
    /// Per Gold table.
    pub gold: BTreeMap<String, GoldCounts>,
    /// Letters written, of every stage.
    pub letters: u64,
    /// Gaps: places where the stream had forgotten records before they were read (only under `on_gap = "continue"`).
    pub gaps: u64,
}

/// Counts of one Gold table, in (record, window) pairs.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct GoldCounts {
    /// Left out by the statement's WHERE.
    pub excluded: u64,
    /// Refused: the window was sealed for this shard.
    pub too_late: u64,
    /// Taken while the window was open.
    pub on_time: u64,
    /// Taken after the window had ended.
    pub late: u64,
}

impl Counts {
    /// Adds another set of counts.
    pub fn add(&mut self, other: &Counts) {
        self.received += other.received;
        self.bytes += other.bytes;
        self.bronze += other.bronze;
        self.silver += other.silver;
        self.duplicate += other.duplicate;
        self.letters += other.letters;
        self.gaps += other.gaps;
        for (key, n) in &other.rejected {
            *self.rejected.entry(key.clone()).or_default() += n;
        }
        for (key, n) in &other.filtered {
            *self.filtered.entry(key.clone()).or_default() += n;
        }
        for (table, n) in &other.gold {
            let gold = self.gold.entry(table.clone()).or_default();
            gold.excluded += n.excluded;
            gold.too_late += n.too_late;
            gold.on_time += n.on_time;
            gold.late += n.late;
        }
    }

    /// Sum over all rejection reasons.
    pub fn rejected_total(&self) -> u64 {
        self.rejected.values().sum()
    }

    /// Sum over all filter rules.
    pub fn filtered_total(&self) -> u64 {
        self.filtered.values().sum()
    }

    /// Sum of `too_late` over all Gold tables.
    pub fn too_late_total(&self) -> u64 {
        self.gold.values().map(|gold| gold.too_late).sum()
    }

    /// Equations (1), (2), (3) and (5); `windows` is the number of windows an event falls into (1 for tumbling).
    pub fn equations(&self, bronze_on: bool, windows: u64) -> Vec<Equation> {
        let mut out = vec![Equation {
            number: 1,
            says: "received = rejected + duplicate + filtered + silver".to_owned(),
            left: self.received,
            right: self.rejected_total() + self.duplicate + self.filtered_total() + self.silver,
        }];
        if bronze_on {
            out.push(Equation { number: 2, says: "bronze = received".to_owned(), left: self.bronze, right: self.received });
        }
        for (table, gold) in &self.gold {
            out.push(Equation {
                number: 3,
                says: format!("silver × windows = excluded + too_late + on_time + late of {table}"),
                left: self.silver * windows,
                right: gold.excluded + gold.too_late + gold.on_time + gold.late,
            });
        }
        out.push(Equation {
            number: 5,
            says: "letters = rejected + too_late".to_owned(),
            left: self.letters,
            right: self.rejected_total() + self.too_late_total(),
        });
        out
    }
}

/// One line of the ledger with its two sides.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Equation {
    /// Number of the line in the design's ledger.
    pub number: u8,
    /// The equation in words.
    pub says: String,
    /// Left side.
    pub left: u64,
    /// Right side.
    pub right: u64,
}

impl Equation {
    /// Left minus right; 0 when the line holds.
    pub fn difference(&self) -> i128 {
        i128::from(self.left) - i128::from(self.right)
    }
}
