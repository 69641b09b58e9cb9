//! Goal: one run over one set, proved: Gold is the fold, every record is somewhere, letters follow from the epochs' heads.

#![allow(clippy::unwrap_used, reason = "a helper of a test may end the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::fold::{Event, Outcome, Row, Table};
use super::input::{Record, Set, lines_of};
use crate::support::drive::Bench;
use crate::support::outcome::{Epoch, Letter, epochs, letters, rows};
use crate::support::value::Value;

/// Late beyond any recorded time.
pub(crate) const NEVER_TOO_LATE: &str = "100000d";

/// How one run goes.
pub(crate) struct Plan<'a> {
    pub(crate) set: &'a Set,
    /// Folder of the files.
    pub(crate) data: &'a Path,
    /// Files and records at most.
    pub(crate) files: usize,
    pub(crate) limit: usize,
    /// How often a part of the records is put and drained: at least so many epochs there are.
    pub(crate) rounds: usize,
    pub(crate) lateness: &'a str,
    pub(crate) disorder_us: i64,
}

impl Plan<'_> {
    fn files(&self) -> Vec<PathBuf> {
        self.set.files.iter().take(self.files).map(|file| self.data.join(file)).collect()
    }

    fn records(&self) -> Vec<Record> {
        self.set.read(&self.files(), self.limit)
    }

    /// Puts, drains and audits.
    fn carry_out(&self, mut bench: Bench) -> Bench {
        for table in &self.set.tables {
            bench = bench.with(&format!("gold.{}.window.allowed_lateness={}", table.name, self.lateness));
        }
        let parts = if self.rounds == 1 { vec![self.files()] } else { self.parts(&bench) };
        for files in parts {
            let mut arguments: Vec<OsString> = ["put", "--limit"].map(OsString::from).to_vec();
            arguments.push(self.limit.to_string().into());
            arguments.extend(self.set.put.iter().map(OsString::from));
            arguments.extend(files.into_iter().map(OsString::from));
            bench.good(&arguments);
            bench.good(&["run", "--drain"]);
        }
        bench.audit();
        bench
    }

    /// The lines of all files, dealt out to as many files as there are rounds.
    fn parts(&self, bench: &Bench) -> Vec<Vec<PathBuf>> {
        let (mut header, mut lines) = (None, Vec::new());
        let csv = self.set.files[0].to_string_lossy().contains(".csv");
        for file in self.files() {
            let mut read = lines_of(&file);
            header = if csv { read.next() } else { None };
            lines.extend(read);
        }
        lines.truncate(self.limit);
        let size = lines.len().div_ceil(self.rounds);
        let parts = lines.chunks(size).enumerate();
        parts
            .map(|(at, lines)| {
                let lines: Vec<&[u8]> = header.iter().chain(lines).map(Vec::as_slice).collect();
                vec![bench.write(&format!("part-{at}.{}", if csv { "csv" } else { "ndjson" }), &lines.join(&b'\n'))]
            })
            .collect()
    }
}

fn events(records: &[Record]) -> impl Iterator<Item = &Event> {
    records.iter().filter_map(|record| match &record.outcome {
        Outcome::Event(event) => Some(event),
        Outcome::Filtered(_) | Outcome::Letter(_) => None,
    })
}

fn gold(bench: &Bench, table: &Table) -> Vec<Vec<Value>> {
    rows(&bench.data().join("gold").join(table.name), &table.columns())
}

/// Nothing is too late: Gold equals the fold of all events, Silver is all events, the rest are letters.
pub(crate) fn nothing_is_lost(plan: &Plan<'_>, bench: Bench) {
    let bench = plan.carry_out(bench);
    let (set, records) = (plan.set, plan.records());
    for table in &set.tables {
        let groups = table.check(set.columns, events(&records), gold(&bench, table));
        assert!(groups > 0, "{} is empty", table.name);
    }
    let columns: Vec<&str> = ["_shard", "_sequence", "event_time"].into_iter().chain(set.columns.iter().copied()).collect();
    let mut silver = rows(&bench.data().join("silver"), &columns);
    let mut places: Vec<(String, u64)> =
        silver.iter().map(|row| (row[0].as_text().to_owned(), row[1].as_text().parse().unwrap())).collect();
    silver.iter_mut().for_each(|row| drop(row.drain(..2)));
    let mut expected: Vec<Vec<Value>> =
        events(&records).map(|event| [vec![Value::whole(event.time_us)], event.values.clone()].concat()).collect();
    silver.sort_unstable();
    expected.sort_unstable();
    assert_eq!(silver.len(), expected.len());
    for (found, expected) in silver.iter().zip(&expected) {
        assert_eq!(found, expected, "a row of Silver, in the order of {columns:?}");
    }
    let letters = letters(&bench.data());
    places.extend(letters.iter().map(|letter| (letter.shard.clone(), letter.sequence)));
    let count = places.len();
    assert_eq!(places.into_iter().collect::<BTreeSet<_>>().len(), count, "a record is in two places");
    let filtered = records.iter().filter(|record| matches!(record.outcome, Outcome::Filtered(_))).count();
    assert_eq!(count + filtered, records.len());
    let refused = records.iter().filter_map(|record| if let Outcome::Letter(why) = record.outcome { Some(why) } else { None });
    let mut refused: Vec<&str> = refused.collect();
    let mut said: Vec<String> = letters.iter().map(|letter| format!("{}/{}", letter.stage, letter.reason)).collect();
    refused.sort_unstable();
    said.sort_unstable();
    assert_eq!(said, refused);
    for letter in &letters {
        let mut rejected = records.iter().filter(|record| matches!(record.outcome, Outcome::Letter(_)));
        assert!(rejected.any(|record| record.origin.is(&letter.data)), "{letter:?} is no record that must be refused");
    }
}

/// One shard, whose sequence numbers count the records of the input: every verdict on lateness is repeated from the heads of the
/// epochs. Returns how many records were too late for some table.
pub(crate) fn letters_follow_from_the_epochs(plan: &Plan<'_>, bench: Bench) -> usize {
    let bench = plan.carry_out(bench.with("stream.shards=1"));
    let (set, records) = (plan.set, plan.records());
    let epochs = epochs(&bench.data());
    let of = cuts(plan, &records, &epochs);
    let lateness_us = duration(plan.lateness);
    let mut found = by_stage(letters(&bench.data()), &records, &of);
    let mut letters = 0;
    for table in &set.tables {
        let mut too_late = BTreeSet::new();
        for (at, record) in records.iter().enumerate() {
            let Outcome::Event(event) = &record.outcome else { continue };
            let end_us = table.window_of(event.time_us) + table.window_us;
            if (table.takes)(Row { columns: set.columns, values: &event.values }) && end_us + lateness_us <= of[at].bound_opened {
                too_late.insert(at);
            }
        }
        letters += too_late.len();
        let stage = format!("gold:{}", table.name);
        let said = found.remove(&stage).unwrap_or_default();
        for (at, letter) in &said {
            let Outcome::Event(event) = &records[*at].outcome else { panic!("{letter:?} is no event") };
            let expected = (Some(table.window_of(event.time_us)), Some(of[*at].bound_opened));
            assert_eq!((letter.window_start_us, letter.bound_us), expected, "{letter:?}");
        }
        assert_eq!(said.keys().copied().collect::<BTreeSet<_>>(), too_late, "letters of {}", table.name);
        let accepted = records.iter().enumerate().filter(|(at, _)| !too_late.contains(at));
        let accepted =
            accepted.filter_map(|(_, record)| if let Outcome::Event(event) = &record.outcome { Some(event) } else { None });
        table.check(set.columns, accepted, gold(&bench, table));
    }
    every_record_is_in_one_place(&bench, set, &records, &found);
    letters
}

/// Which epoch each record belongs to, after a look at the epochs themselves: no gap, and every bound is what its epoch opened
/// with, or stands behind an event up to it. (Not always behind the latest: the next epoch opens before all of this one is
/// decoded.)
fn cuts<'a>(plan: &Plan<'_>, records: &[Record], epochs: &'a [Epoch]) -> Vec<&'a Epoch> {
    assert!(epochs.len() > 3, "{} epochs are too few to see a bound at work", epochs.len());
    let (mut of, mut bound, mut bounds) = (Vec::new(), i64::MIN, BTreeSet::new());
    for (at, epoch) in epochs.iter().enumerate() {
        assert_eq!((epoch.number, epoch.from), (at as u64 + 1, of.len() as u64), "{epoch:?}");
        assert_eq!(epoch.bound_opened, bound, "{epoch:?}");
        let from = of.len();
        of.resize(usize::try_from(epoch.to).unwrap(), epoch);
        bounds.extend(records[from..of.len()].iter().filter_map(|record| match &record.outcome {
            Outcome::Event(Event { time_us, .. }) | Outcome::Filtered(time_us) => Some(time_us - plan.disorder_us),
            Outcome::Letter(_) => None,
        }));
        let known = epoch.bound_committed > bound && bounds.contains(&epoch.bound_committed);
        assert!(known || epoch.bound_committed == bound, "{epoch:?}");
        bound = epoch.bound_committed;
    }
    assert_eq!(of.len(), records.len(), "the epochs cover other records than were put");
    of
}

/// stage → index of the record → letter; a letter stands where its epoch says, with the bytes of its record.
fn by_stage(letters: Vec<Letter>, records: &[Record], of: &[&Epoch]) -> BTreeMap<String, BTreeMap<usize, Letter>> {
    let mut found: BTreeMap<String, BTreeMap<usize, Letter>> = BTreeMap::new();
    for letter in letters {
        let at = usize::try_from(letter.sequence).unwrap() - 1;
        assert!(records[at].origin.is(&letter.data), "{letter:?} holds other bytes than its record");
        assert_eq!(letter.epoch, of[at].number, "{letter:?}");
        assert_eq!(letter.stage.starts_with("gold:"), letter.reason == "too_late", "{letter:?}");
        let twice = found.entry(letter.stage.clone()).or_default().insert(at, letter);
        assert!(twice.is_none(), "two letters of one stage: {twice:?}");
    }
    found
}

fn every_record_is_in_one_place(
    bench: &Bench,
    set: &Set,
    records: &[Record],
    rejected: &BTreeMap<String, BTreeMap<usize, Letter>>,
) {
    let columns: Vec<&str> = ["_sequence", "event_time"].into_iter().chain(set.columns.iter().copied()).collect();
    let mut silver = BTreeMap::new();
    for mut row in rows(&bench.data().join("silver"), &columns) {
        let values = row.split_off(1);
        let twice = silver.insert(row[0].as_text().parse::<usize>().unwrap() - 1, values);
        assert!(twice.is_none(), "twice in Silver: {row:?}");
    }
    for (at, record) in records.iter().enumerate() {
        let said = rejected.values().find_map(|letters| letters.get(&at));
        let said = said.map(|letter| format!("{}/{}", letter.stage, letter.reason));
        match &record.outcome {
            Outcome::Event(event) => {
                let row = silver.get(&at).unwrap_or_else(|| panic!("record {at} is not in Silver, but {said:?}"));
                assert_eq!((&row[0], &row[1..]), (&Value::whole(event.time_us), event.values.as_slice()), "record {at}");
                assert_eq!(said, None);
            }
            Outcome::Filtered(_) => assert_eq!((silver.get(&at), said), (None, None), "record {at}"),
            Outcome::Letter(why) => assert_eq!((silver.get(&at), said.as_deref()), (None, Some(*why)), "record {at}"),
        }
    }
}

/// `2h`, `0s`, `1d`.
pub(crate) fn duration(text: &str) -> i64 {
    let (number, unit) = text.split_at(text.len() - 1);
    let unit_s = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        other => panic!("{other}"),
    };
    number.parse::<i64>().unwrap() * unit_s * 1_000_000
}
