//! What really came in: records whose meaning the generator knows, and an independent judgement of them.
//!
//! Owns: the made-up event format (`key,event_us,value`), the two Gold tables of the tests, the reference fold. Does not own: the
//! pipeline's engine (engine), what was committed (store).

use std::collections::BTreeMap;
use std::fmt::Write;

use bytes::Bytes;
use sluicebox_actors::model::position::{Position, Sequence, ShardId};
use sluicebox_actors::model::record::RawRecord;
use sluicebox_actors::model::window::HOUR_US;
use sluicebox_actors::ports::ShardInfo;

/// Event times of all tests begin here: 2024-10-04T00:00:00Z.
pub const T0: i64 = 480_000 * HOUR_US;
pub const SECOND: i64 = 1_000_000;
pub const MINUTE: i64 = 60 * SECOND;

/// How far event times may lie behind the largest one seen without being late.
pub const DISORDER: i64 = 10 * SECOND;

/// A Gold table of the tests: (name, window, allowed lateness).
pub const TABLES: [(&str, i64, i64); 2] = [("hourly", HOUR_US, 2 * HOUR_US), ("tens", 10 * MINUTE, 0)];

/// What a record means.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Truth {
    /// Its bytes are no event.
    Bad,
    /// An event that the Silver filter leaves out.
    Filtered { event_us: i64 },
    /// An event that panics the engine.
    Boom,
    /// A Silver row.
    Event { key: String, event_us: i64, value: i64 },
}

/// How records are written, and what the engine calls one that it can't read: with another engine, another dialect.
#[derive(Clone, Copy)]
pub struct Dialect {
    /// Partition key and payload.
    pub render: fn(&Truth) -> (String, String),
    /// `stage reason` of the letter for [`Truth::Bad`].
    pub bad: &'static str,
}

impl Default for Dialect {
    fn default() -> Self {
        Self { render: comma_separated, bad: "decode bad_record" }
    }
}

fn comma_separated(truth: &Truth) -> (String, String) {
    match truth {
        Truth::Bad => ("bad".to_owned(), "not,an event".to_owned()),
        Truth::Boom => ("boom".to_owned(), "boom".to_owned()),
        Truth::Filtered { event_us } => ("few".to_owned(), format!("few,{event_us},-1")),
        Truth::Event { key, event_us, value } => (key.clone(), format!("{key},{event_us},{value}")),
    }
}

/// A record and what it means.
#[derive(Clone, Debug)]
pub struct Logged {
    pub raw: RawRecord,
    pub truth: Truth,
}

/// One shard of the stream; `records[i]` all have sequence number i + 1.
#[derive(Clone, Debug)]
pub struct ShardLog {
    pub info: ShardInfo,
    pub records: Vec<Vec<Logged>>,
    pub closed_at: Option<i64>,
    pub children: Vec<ShardInfo>,
    /// So many sequence numbers are forgotten.
    pub forgotten: usize,
}

impl ShardLog {
    /// Appends one record with as many sub-records as there are meanings.
    pub fn put(&mut self, arrival_us: i64, truths: &[Truth], dialect: Dialect) {
        let sequence = Sequence::dense(self.records.len() as u64 + 1);
        let many = truths.iter().zip(0..).map(|(truth, sub_sequence)| {
            let (key, data) = (dialect.render)(truth);
            let (partition_key, data) = (Bytes::from(key), Bytes::from(data));
            Logged {
                raw: RawRecord { sequence, sub_sequence, foreign: false, partition_key, arrival_us, data },
                truth: truth.clone(),
            }
        });
        self.records.push(many.collect());
    }

    /// The records in `(from, to]` that are not forgotten.
    pub fn between(&self, from: Position, to: Position) -> impl Iterator<Item = &Logged> {
        let number = |position: Position| position.sequence().and_then(Sequence::as_dense).unwrap_or(0) as usize;
        let to = number(to);
        self.records[number(from).max(self.forgotten).min(to)..to].iter().flatten()
    }

    /// Right after its last record.
    pub fn end(&self) -> Position {
        match self.records.len() {
            0 => Position::START,
            n => Position::after(Sequence::dense(n as u64)),
        }
    }
}

/// Does the table's WHERE let the value pass?
pub fn admitted(table: usize, value: i64) -> bool {
    table == 0 || value % 3 != 0
}

/// Aggregates of one key: count, sum, smallest, largest.
pub type Group = (u64, i64, i64, i64);

/// What came of one window.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct WindowJudged {
    pub on_time: u64,
    pub late: u64,
    pub too_late: u64,
    pub groups: BTreeMap<String, Group>,
}

impl WindowJudged {
    fn take(&mut self, key: &str, group: Group) {
        let (n, sum, least, most) = group;
        let mine = self.groups.entry(key.to_owned()).or_insert((0, 0, i64::MAX, i64::MIN));
        *mine = (mine.0 + n, mine.1 + sum, mine.2.min(least), mine.3.max(most));
    }

    /// Adds another judgement of the same window.
    pub fn add(&mut self, other: &WindowJudged) {
        self.on_time += other.on_time;
        self.late += other.late;
        self.too_late += other.too_late;
        for (key, group) in &other.groups {
            self.take(key, *group);
        }
    }

    /// The bytes that Gold must show for it, without groups of more records than `having`.
    pub fn content(&self, start_us: i64, having: Option<u64>) -> Bytes {
        let mut text = String::new();
        for (key, (n, sum, least, most)) in self.groups.iter().filter(|(_, group)| having.is_none_or(|most| group.0 <= most)) {
            writeln!(text, "{start_us},{key},{n},{sum},{least},{most}").expect("a String takes anything");
        }
        text.into()
    }
}

/// What must have come of the records of one epoch, judged by the bound it opened with.
#[derive(Clone, Default, Debug)]
pub struct Judged {
    pub received: u64,
    pub bytes: u64,
    pub bad: u64,
    pub filtered: u64,
    pub silver: u64,
    pub excluded: [u64; 2],
    pub windows: BTreeMap<(usize, i64), WindowJudged>,
    pub max_event_us: Option<i64>,
    /// Visible lines: class, line.
    pub bronze: Vec<String>,
    pub silver_rows: Vec<String>,
    pub letters: Vec<String>,
}

/// How a record is named in every file of the tests.
pub fn name(shard: &ShardId, raw: &RawRecord) -> String {
    format!("{shard}/{}.{}", raw.sequence, raw.sub_sequence)
}

/// Judges records without any help of the pipeline's code.
pub fn judge<'a>(shard: &ShardId, records: impl Iterator<Item = &'a Logged>, bound_us: i64, bad: &str) -> Judged {
    let mut judged = Judged::default();
    for Logged { raw, truth } in records {
        let name = name(shard, raw);
        judged.received += 1;
        judged.bytes += raw.data.len() as u64;
        judged.bronze.push(format!("{name} {}", String::from_utf8_lossy(&raw.data)));
        let (key, event_us, value) = match truth {
            Truth::Bad | Truth::Boom => {
                judged.bad += 1;
                judged.letters.push(format!("{name} {bad}"));
                continue;
            }
            Truth::Filtered { event_us } => {
                judged.filtered += 1;
                judged.max_event_us = judged.max_event_us.max(Some(*event_us));
                continue;
            }
            Truth::Event { key, event_us, value } => (key, *event_us, *value),
        };
        judged.silver += 1;
        judged.max_event_us = judged.max_event_us.max(Some(event_us));
        judged.silver_rows.push(format!("{name} {key},{event_us},{value}"));
        for (table, (table_name, size, lateness)) in TABLES.into_iter().enumerate() {
            if !admitted(table, value) {
                judged.excluded[table] += 1;
                continue;
            }
            let start = event_us - event_us.rem_euclid(size);
            let window = judged.windows.entry((table, start)).or_default();
            if start + size + lateness <= bound_us {
                window.too_late += 1;
                judged.letters.push(format!("{name} gold:{table_name} too_late"));
                continue;
            }
            if start + size <= bound_us {
                window.late += 1;
            } else {
                window.on_time += 1;
            }
            window.take(key, (1, value, value, value));
        }
    }
    judged
}
