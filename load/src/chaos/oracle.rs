//! What must be there in the end, and whether it is.
//!
//! The stream is the truth of what came in: it is read back, every record is judged and added up, and what the product prints of
//! its tables is held against that.
//!
//! Owns: coverage record by record, Silver, Gold and ledger against the fold. Does not own: verdicts (input), sums (fold).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use anyhow::{Context, ensure};
use chrono::DateTime;
use serde_json::value::RawValue;
use sluicebox::clock::SystemClock;
use sluicebox_actors::model::position::Position;
use sluicebox_stream::embedded::EmbeddedStream;

use super::aftermath::files;
use super::fold::{Event, Group, Table};
use super::input::{Fate, Input};
use super::process::Sandbox;
use super::producer::{Known, fingerprint};
use super::tally::{Sizes, Tally};

/// Longest that one verb may take.
const VERB_MS: u64 = 600_000;
const FETCH: usize = 8 << 20;

/// Shard, sequence, sub-sequence.
type Place = (String, u64, u64);
/// A row that was printed.
type Row = BTreeMap<String, Box<RawValue>>;

/// What came in, and what must become of it.
struct Truth {
    fates: BTreeMap<Place, Fate>,
}

/// The last words of the product: drains, audits, and compares everything.
pub(super) fn settle(
    sandbox: &Sandbox,
    stream: &Path,
    input: &Input,
    known: &HashMap<u64, Known>,
    tally: &mut Tally,
) -> anyhow::Result<()> {
    for (verb, name) in [(&["run", "--drain"][..], "drain"), (&["audit"], "audit")] {
        let (status, ran) = sandbox.run(sandbox.command(verb), name, VERB_MS)?;
        if !status.is_some_and(|status| status.success()) {
            tally.differ(format!("{verb:?} ended with {status:?}:\n{}\n    {}", ran.printed()?, ran.last_words()));
        }
    }
    for folder in ["state/staged", "state/tmp"] {
        let left = files(&sandbox.data().join(folder))?;
        if !left.is_empty() {
            tally.differ(format!("{} files are left over in {folder}, first {}", left.len(), left[0].display()));
        }
    }
    let truth = Truth::read(stream, input, known, tally)?;
    truth.compare(sandbox, input, tally)
}

impl Truth {
    /// Reads the stream past the pipeline, and holds it against what was put.
    fn read(stream: &Path, input: &Input, known: &HashMap<u64, Known>, tally: &mut Tally) -> anyhow::Result<Self> {
        let stream = EmbeddedStream::open(stream, "events", SystemClock::shared())?;
        let (mut fates, mut seen) = (BTreeMap::new(), HashMap::<u64, u64>::new());
        for info in stream.shards_blocking()? {
            let mut position = Position::START;
            loop {
                let read = stream.read_blocking(&info.shard, position, usize::MAX, FETCH)?;
                let Some(last) = read.records.last() else { break };
                position = Position::after(last.sequence);
                for record in &read.records {
                    let sequence = record.sequence.as_dense().context("a sequence number that is not dense")?;
                    let place = (info.shard.to_string(), sequence, u64::from(record.sub_sequence));
                    *seen.entry(fingerprint(&record.data)).or_default() += 1;
                    fates.insert(place, (input.judge)(&record.data, record.arrival_us));
                }
            }
        }
        for (payload, known) in known {
            let count = seen.remove(payload).unwrap_or(0);
            if !(known.acknowledged..=known.offered).contains(&count) {
                tally.differ(format!("a payload is in the stream {count} times: {known:?}"));
            }
        }
        if !seen.is_empty() {
            tally.differ(format!("{} payloads of the stream were never put", seen.len()));
        }
        Ok(Self { fates })
    }

    fn compare(&self, sandbox: &Sandbox, input: &Input, tally: &mut Tally) -> anyhow::Result<()> {
        let letters = self.compare_letters(sandbox, tally)?;
        self.compare_silver(sandbox, input, tally)?;
        self.compare_bronze(sandbox, tally)?;
        for table in &input.tables {
            let none = BTreeSet::new();
            self.compare_gold(sandbox, table, letters.get(&format!("gold:{}", table.name)).unwrap_or(&none), tally)?;
        }
        let too_late: usize = letters.values().map(BTreeSet::len).sum();
        self.compare_ledger(sandbox, too_late as u64, tally)
    }

    /// Letters of decode, contract and time are exactly those that must be; returns the others by stage.
    fn compare_letters(&self, sandbox: &Sandbox, tally: &mut Tally) -> anyhow::Result<BTreeMap<String, BTreeSet<Place>>> {
        let mut of_gold: BTreeMap<String, BTreeSet<Place>> = BTreeMap::new();
        let mut found: BTreeMap<Place, String> = BTreeMap::new();
        for row in query(sandbox, "SELECT shard, sequence, sub_sequence, stage FROM dlq")? {
            let (place, stage) = (place(&row, ["shard", "sequence", "sub_sequence"])?, text(&row, "stage")?.unwrap_or_default());
            let fresh = match stage.starts_with("gold:") {
                true => of_gold.entry(stage.clone()).or_default().insert(place.clone()),
                false => found.insert(place.clone(), stage.clone()).is_none(),
            };
            let in_silver = matches!(self.fates.get(&place), Some(Fate::Silver(..)));
            if !fresh || (stage.starts_with("gold:") && !in_silver) {
                tally.differ(format!("{place:?} has a letter of {stage} that must not be"));
            }
        }
        for (place, fate) in &self.fates {
            match (fate, found.remove(place)) {
                (Fate::Silver(..), None) => {}
                (Fate::Letter(stage), Some(said)) if said == **stage => {}
                (fate, said) => tally.differ(format!("{place:?} must be {fate:?}, its letter is of {said:?}")),
            }
        }
        for (place, stage) in found {
            tally.differ(format!("{place:?} has a letter of {stage} and is not in the stream"));
        }
        Ok(of_gold)
    }

    fn compare_silver(&self, sandbox: &Sandbox, input: &Input, tally: &mut Tally) -> anyhow::Result<()> {
        let columns = input.columns.iter().map(|name| format!(", \"{name}\"")).collect::<String>();
        let mut seen = BTreeSet::new();
        for row in query(sandbox, &format!("SELECT _shard, _sequence, _sub_sequence, event_time{columns} FROM silver"))? {
            let place = place(&row, ["_shard", "_sequence", "_sub_sequence"])?;
            let values = input.columns.iter().map(|name| text(&row, name)).collect::<anyhow::Result<Vec<_>>>()?;
            let found = Fate::Silver(time(&row, "event_time")?, values);
            if self.fates.get(&place) != Some(&found) {
                tally.differ(format!("{place:?} is {found:?}, must be {:?}", self.fates.get(&place)));
            }
            if !seen.insert(place.clone()) {
                tally.differ(format!("{place:?} is in Silver twice"));
            }
        }
        for (place, fate) in &self.fates {
            if matches!(fate, Fate::Silver(..)) && !seen.contains(place) {
                tally.differ(format!("{place:?} is not in Silver"));
            }
        }
        Ok(())
    }

    fn compare_bronze(&self, sandbox: &Sandbox, tally: &mut Tally) -> anyhow::Result<()> {
        let mut seen = BTreeSet::new();
        for row in query(sandbox, "SELECT _shard, _sequence, _sub_sequence FROM bronze")? {
            let place = place(&row, ["_shard", "_sequence", "_sub_sequence"])?;
            if !self.fates.contains_key(&place) || !seen.insert(place.clone()) {
                tally.differ(format!("{place:?} is in Bronze twice, or not in the stream"));
            }
        }
        if seen.len() != self.fates.len() {
            tally.differ(format!("{} records are in Bronze, {} in the stream", seen.len(), self.fates.len()));
        }
        Ok(())
    }

    /// The table is what all events add up to that did not come too late for it.
    fn compare_gold(
        &self,
        sandbox: &Sandbox,
        table: &Table,
        too_late: &BTreeSet<Place>,
        tally: &mut Tally,
    ) -> anyhow::Result<()> {
        let events: Vec<Event> = self.fates.iter().filter(|(place, _)| !too_late.contains(*place)).filter_map(event).collect();
        let mut groups = table.groups(events.iter());
        for row in printed(sandbox, &["gold", table.name, "--format", "json"])? {
            let keys = table.keys.iter().map(|(name, _)| text(&row, name)).collect::<anyhow::Result<Vec<_>>>()?;
            let group: Group = (time(&row, "window_start")?, keys);
            let Some(events) = groups.remove(&group) else {
                tally.differ(format!("{}: {group:?} stands there twice, or must not be", table.name));
                continue;
            };
            for (name, measure) in table.measures {
                let found = text(&row, name)?;
                if let Some(expected) = measure.wrong(&events, found.as_deref())? {
                    tally.differ(format!("{}.{name} of {group:?} is {found:?}, must be {expected}", table.name));
                }
            }
        }
        for group in groups.keys() {
            tally.differ(format!("{}: {group:?} is not there", table.name));
        }
        Ok(())
    }

    fn compare_ledger(&self, sandbox: &Sandbox, too_late: u64, tally: &mut Tally) -> anyhow::Result<()> {
        let sql = "SELECT sum(received) AS received, sum(bronze) AS bronze, sum(silver) AS silver, sum(rejected) AS rejected, \
                   sum(filtered) + sum(duplicate) AS other, sum(too_late) AS too_late, sum(letters) AS letters, \
                   count(*) AS epochs FROM ledger";
        let row = query(sandbox, sql)?.pop().context("the ledger has no sums")?;
        let records = self.fates.len() as u64;
        let silver = self.fates.values().filter(|fate| matches!(fate, Fate::Silver(..))).count() as u64;
        let rejected = records - silver;
        let expected = [
            ("received", records),
            ("bronze", records),
            ("silver", silver),
            ("rejected", rejected),
            ("other", 0),
            ("too_late", too_late),
            ("letters", rejected + too_late),
        ];
        for (name, expected) in expected {
            let found = number(&row, name)?;
            if found != expected {
                tally.differ(format!("the ledger's {name} is {found}, must be {expected}"));
            }
        }
        let windows = query(sandbox, "SELECT count(*) AS windows FROM gold_windows")?.pop().context("no count of windows")?;
        let (epochs, windows) = (number(&row, "epochs")?, number(&windows, "windows")?);
        tally.sizes = Sizes { records, silver, letters: rejected, too_late, epochs, windows };
        Ok(())
    }
}

fn event((_, fate): (&Place, &Fate)) -> Option<Event> {
    match fate {
        Fate::Silver(time_us, values) => Some((*time_us, values.clone())),
        Fate::Letter(_) => None,
    }
}

fn query(sandbox: &Sandbox, sql: &str) -> anyhow::Result<Vec<Row>> {
    printed(sandbox, &["query", sql, "--format", "json"])
}

/// The rows that a verb prints.
fn printed(sandbox: &Sandbox, verb: &[&str]) -> anyhow::Result<Vec<Row>> {
    let (status, ran) = sandbox.run(sandbox.command(verb), "answer", VERB_MS)?;
    ensure!(status.is_some_and(|status| status.success()), "{verb:?} ended with {status:?}: {}", ran.last_words());
    let row = |line: &str| serde_json::from_str(line).with_context(|| format!("{verb:?} printed {line}"));
    ran.printed()?.lines().map(row).collect()
}

/// A value as text: that of a string, the digits of a number, nothing for NULL.
fn text(row: &Row, name: &str) -> anyhow::Result<Option<String>> {
    let raw = row.get(name).with_context(|| format!("there is no column {name}"))?.get();
    match raw {
        "null" => Ok(None),
        raw if raw.starts_with('"') => Ok(Some(serde_json::from_str(raw)?)),
        raw => Ok(Some(raw.to_owned())),
    }
}

fn number(row: &Row, name: &str) -> anyhow::Result<u64> {
    Ok(text(row, name)?.with_context(|| format!("{name} is NULL"))?.parse()?)
}

fn time(row: &Row, name: &str) -> anyhow::Result<i64> {
    let text = text(row, name)?.with_context(|| format!("{name} is NULL"))?;
    Ok(DateTime::parse_from_rfc3339(&text)?.timestamp_micros())
}

fn place(row: &Row, [shard, sequence, sub_sequence]: [&str; 3]) -> anyhow::Result<Place> {
    Ok((text(row, shard)?.context("a row without a shard")?, number(row, sequence)?, number(row, sub_sequence)?))
}
