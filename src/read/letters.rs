//! `dlq ls` and `dlq show`: dead letters for people.
//!
//! Owns: filters, newest first within a bound, finding one by its id, data as text or hexadecimal. Does not own: the table `dlq`
//! (letter_rows), replay. Everything here waits for files: call it where that is allowed.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema};
use serde::Deserialize;
use sluicebox_actors::model::fault::{Fault, Kind, Result};
use sluicebox_actors::model::letter::Letter;
use sluicebox_actors::model::position::Sequence;

use super::sources::{Visible, time_text, visible};
use super::{files, letter_rows};

/// Letters that a list holds at most, whatever was asked for.
pub const LIST_MAX: usize = 100_000;
/// Bytes of data that `show` prints at most.
pub const SHOW_MAX: usize = 1 << 20;

/// Which letters to list.
#[derive(Clone, Debug)]
pub struct Filter {
    /// `decode`, `contract`, `time`, `silver`, `gold` (every table) or `gold:<table>`.
    pub stage: Option<String>,
    /// Reason code.
    pub reason: Option<String>,
    /// Shard.
    pub shard: Option<String>,
    /// Last failure at or after, microseconds since 1970.
    pub since_us: Option<i64>,
    /// How many, newest first; at most [`LIST_MAX`].
    pub limit: usize,
}

impl Default for Filter {
    fn default() -> Self {
        Self { stage: None, reason: None, shard: None, since_us: None, limit: 100 }
    }
}

/// A letter without its data. Ordered by (last failure, shard, sequence number, id).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Summary {
    /// Last failure, microseconds since 1970.
    pub last_failure_us: i64,
    /// Shard of the record.
    pub shard: String,
    /// Sequence number of the record: as a number, so that 10 comes after 9.
    pub sequence: Sequence,
    /// `stream/shard/sequence/sub/stage`, as `dlq show` takes it.
    pub id: String,
    /// Stage.
    pub stage: String,
    /// Reason code.
    pub reason: String,
    /// Arrival, microseconds since 1970.
    pub arrival_us: i64,
    /// JSON path of the offending member.
    pub path: Option<String>,
    /// The rule that was broken.
    pub message: String,
    /// Size of the record in bytes.
    pub bytes: u64,
}

#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow)]
    stream: Cow<'a, str>,
    #[serde(borrow)]
    shard: Cow<'a, str>,
    #[serde(borrow)]
    sequence: Cow<'a, str>,
    sub_sequence: u32,
    arrival_us: i64,
    #[serde(borrow)]
    stage: Cow<'a, str>,
    #[serde(borrow)]
    reason: Cow<'a, str>,
    #[serde(borrow)]
    message: Cow<'a, str>,
    path: Option<String>,
    last_failure_us: i64,
    #[serde(borrow)]
    data: Cow<'a, str>,
}

impl<'a> Head<'a> {
    fn parse(line: &'a [u8], file: &Path) -> Result<Self> {
        // Without the parser's words: they may quote the line.
        serde_json::from_slice(line).map_err(|_| Fault::new(Kind::Corrupt, format!("{}: a line is not a letter", file.display())))
    }

    fn id(&self) -> String {
        format!("{}/{}/{}/{}/{}", self.stream, self.shard, self.sequence, self.sub_sequence, self.stage)
    }

    fn passes(&self, filter: &Filter) -> bool {
        let stage = filter
            .stage
            .as_deref()
            .is_none_or(|stage| self.stage == stage || (stage == "gold" && self.stage.starts_with("gold:")));
        stage
            && filter.reason.as_deref().is_none_or(|reason| self.reason == reason)
            && filter.shard.as_deref().is_none_or(|shard| self.shard == shard)
            && filter.since_us.is_none_or(|since| self.last_failure_us >= since)
    }

    fn summary(&self) -> Summary {
        let padding = self.data.bytes().rev().take_while(|byte| *byte == b'=').count();
        Summary {
            last_failure_us: self.last_failure_us,
            shard: self.shard.to_string(),
            sequence: self.sequence.parse().unwrap_or_default(),
            id: self.id(),
            stage: self.stage.to_string(),
            reason: self.reason.to_string(),
            arrival_us: self.arrival_us,
            path: self.path.clone(),
            message: self.message.to_string(),
            bytes: (self.data.len() / 4 * 3).saturating_sub(padding) as u64,
        }
    }
}

/// Files by day, newest day first: once a day has filled the list, older days are not opened.
fn days(data: &Path) -> Result<Vec<Vec<Visible>>> {
    let mut out: Vec<(Option<String>, Vec<Visible>)> = Vec::new();
    let mut all = visible(data, "dlq")?;
    all.sort_by_key(|file| Reverse(file.value("dt")));
    for file in all {
        let day = file.value("dt");
        match out.last_mut() {
            Some((last, files)) if *last == day => files.push(file),
            Some(_) | None => out.push((day, vec![file])),
        }
    }
    Ok(out.into_iter().map(|(_, files)| files).collect())
}

/// The newest letters that pass, newest first (by day of the file, then last failure). Holds no more than it returns.
pub fn list(data: &Path, filter: &Filter) -> Result<Vec<Summary>> {
    let limit = filter.limit.min(LIST_MAX);
    let mut out: Vec<Summary> = Vec::new();
    for day in days(data)? {
        let room = limit - out.len();
        if room == 0 {
            break;
        }
        let mut newest: BinaryHeap<Reverse<Summary>> = BinaryHeap::new();
        for file in day {
            let read = files::each_line(&file.path, &mut |line| {
                let head = Head::parse(line, &file.path)?;
                if head.passes(filter) {
                    newest.push(Reverse(head.summary()));
                    if newest.len() > room {
                        newest.pop();
                    }
                }
                Ok(true)
            });
            match read {
                // Removed by retention since the folder was listed: it is no letter of today.
                Err(fault) if files::is_vanished(&fault) => {}
                other => other?,
            }
        }
        out.extend(newest.into_sorted_vec().into_iter().map(|Reverse(summary)| summary));
    }
    Ok(out)
}

/// Letters whose id is, or starts with, what was asked for: `stream/shard/sequence…` or `shard/sequence…`, whole parts only.
/// At most `limit` of them, newest day first.
pub fn show(data: &Path, wanted: &str, limit: usize) -> Result<Vec<Letter>> {
    let wanted = wanted.trim_end_matches('/');
    let fits =
        |id: &str| id == wanted || id.strip_prefix(wanted).is_some_and(|rest| rest.starts_with('/')) && wanted.contains('/');
    let mut out = Vec::new();
    for file in days(data)?.into_iter().flatten() {
        let read = files::each_line(&file.path, &mut |line| {
            let head = Head::parse(line, &file.path)?;
            let id = head.id();
            let short = id.strip_prefix(&*head.stream).and_then(|rest| rest.strip_prefix('/'));
            if fits(&id) || short.is_some_and(fits) {
                out.push(letter_rows::parse(line, &file.path)?);
            }
            Ok(out.len() < limit)
        });
        match read {
            Err(fault) if files::is_vanished(&fault) => {}
            other => other?,
        }
        if out.len() >= limit {
            break;
        }
    }
    Ok(out)
}

/// A list as columns: id, stage, reason, arrival_time, last_failure, path, message, bytes.
pub fn batch(list: &[Summary]) -> Result<RecordBatch> {
    let text = |of: &dyn Fn(&Summary) -> Option<&str>| -> ArrayRef { Arc::new(list.iter().map(of).collect::<StringArray>()) };
    let time = |of: &dyn Fn(&Summary) -> i64| -> ArrayRef {
        Arc::new(TimestampMicrosecondArray::from_iter_values(list.iter().map(of)).with_timezone("UTC"))
    };
    let bytes = list.iter().map(|summary| i64::try_from(summary.bytes).unwrap_or(i64::MAX));
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", text(&|s| Some(&s.id))),
        ("stage", text(&|s| Some(&s.stage))),
        ("reason", text(&|s| Some(&s.reason))),
        ("arrival_time", time(&|s| s.arrival_us)),
        ("last_failure", time(&|s| s.last_failure_us)),
        ("path", text(&|s| s.path.as_deref())),
        ("message", text(&|s| Some(&s.message))),
        ("bytes", Arc::new(Int64Array::from_iter_values(bytes))),
    ];
    let fields = columns.iter().map(|(name, column)| Field::new(*name, DataType::clone(column.data_type()), true));
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    RecordBatch::try_new(schema, columns.into_iter().map(|(_, column)| column).collect())
        .map_err(|error| Fault::caused(Kind::Bug, "letters as columns", &error))
}

/// A letter for reading.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shown {
    /// Name and value of every field but the data, in reading order; fields without a value are left out.
    pub fields: Vec<(&'static str, String)>,
    /// The record: as text where it is printable UTF-8, else offset, hexadecimal and ASCII.
    pub data: String,
    /// Is `data` the text itself?
    pub is_text: bool,
    /// Bytes of the record that `data` leaves out.
    pub left_out: usize,
}

/// Lays a letter out for reading.
pub fn shown(letter: &Letter) -> Shown {
    let optional = |text: &Option<String>| text.clone().unwrap_or_default();
    let time = |at: Option<i64>| at.map(time_text).unwrap_or_default();
    let fields = vec![
        ("id", letter.id()),
        ("stream", letter.stream.to_string()),
        ("shard", letter.shard.to_string()),
        ("sequence", letter.sequence.to_string()),
        ("sub_sequence", letter.sub_sequence.to_string()),
        ("partition_key", letter.partition_key.clone()),
        ("arrival_time", time_text(letter.arrival_us)),
        ("stage", letter.stage.to_string()),
        ("reason", letter.reason.clone()),
        ("path", optional(&letter.path)),
        ("error", letter.error.clone()),
        ("message", letter.message.clone()),
        ("causes", letter.causes.join("; ")),
        ("window_start", time(letter.window_start_us)),
        ("bound", time(letter.bound_us)),
        ("epoch", letter.epoch.to_string()),
        ("attempts", letter.attempts.to_string()),
        ("first_failure", time_text(letter.first_failure_us)),
        ("last_failure", time_text(letter.last_failure_us)),
        ("fingerprint", letter.fingerprint.to_string()),
        ("version", letter.version.to_string()),
        ("request_id", letter.request_id.to_string()),
        ("trace_id", optional(&letter.trace_id)),
        ("bytes", letter.data.len().to_string()),
    ];
    let fields = fields.into_iter().filter(|(_, value)| !value.is_empty()).collect();
    let printable = |text: &&str| !text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t'));
    let kept = letter.data.get(..SHOW_MAX).unwrap_or(&letter.data);
    match std::str::from_utf8(&letter.data).ok().filter(printable) {
        Some(text) => {
            let end = (0..=SHOW_MAX.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
            let (head, rest) = text.split_at(end);
            Shown { fields, data: head.to_owned(), is_text: true, left_out: rest.len() }
        }
        None => Shown { fields, data: hex(kept), is_text: false, left_out: letter.data.len() - kept.len() },
    }
}

fn hex(data: &[u8]) -> String {
    let mut out = String::with_capacity(data.len() * 5);
    for (index, line) in data.chunks(16).enumerate() {
        let mut digits = String::with_capacity(50);
        for (place, byte) in line.iter().enumerate() {
            let gap = if place == 8 { "  " } else { " " };
            // Writing to a String cannot fail.
            if write!(digits, "{gap}{byte:02x}").is_err() {
                return out;
            }
        }
        let ascii: String = line.iter().map(|byte| if (32..127).contains(byte) { char::from(*byte) } else { '.' }).collect();
        if writeln!(out, "{:08x} {digits:<49}  |{ascii}|", index * 16).is_err() {
            return out;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use sluicebox_actors::model::letter::Stage;
    use sluicebox_actors::model::position::ShardId;

    use super::*;

    fn letter(sequence: u64, stage: Stage, at: i64, data: &'static [u8]) -> Letter {
        Letter {
            stream: "clicks".into(),
            shard: ShardId::new("shardId-0"),
            sequence: Sequence::dense(sequence),
            sub_sequence: 0,
            partition_key: "k".into(),
            arrival_us: at,
            reason: if matches!(stage, Stage::Gold(_)) { "too_late" } else { "invalid_json" }.into(),
            stage,
            error: "E".into(),
            message: "m".into(),
            causes: Vec::new(),
            path: Some("$.a".into()),
            window_start_us: None,
            bound_us: None,
            epoch: 1,
            attempts: 1,
            first_failure_us: at,
            last_failure_us: at,
            fingerprint: "f".into(),
            version: "0".into(),
            request_id: "r".into(),
            trace_id: None,
            data: Bytes::from_static(data),
        }
    }

    fn put(data: &Path, name: &str, letters: &[Letter]) {
        let path = data.join("dlq").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let lines: Vec<String> = letters.iter().map(|letter| serde_json::to_string(letter).unwrap()).collect();
        std::fs::write(path, lines.join("\n") + "\n").unwrap();
    }

    fn filled() -> tempfile::TempDir {
        let data = tempfile::tempdir().unwrap();
        let gold = || Stage::Gold("hourly".into());
        put(data.path(), "dt=2026-01-01/a.ndjson", &[letter(1, Stage::Decode, 10, b"{"), letter(2, gold(), 30, b"{}")]);
        put(data.path(), "dt=2026-01-02/a.ndjson", &[letter(3, Stage::Decode, 100, b"abc")]);
        put(data.path(), "dt=2026-01-02/b.ndjson", &[letter(4, Stage::Time, 50, b"\x00\xff"), letter(4, gold(), 50, b"x")]);
        data
    }

    fn ids(list: &[Summary]) -> Vec<&str> {
        list.iter().map(|summary| summary.id.strip_prefix("clicks/shardId-0/").unwrap()).collect()
    }

    #[test]
    fn the_newest_letters_come_first_and_a_full_list_opens_no_older_day() {
        let data = filled();
        let all = list(data.path(), &Filter::default()).unwrap();
        assert_eq!(ids(&all), ["3/0/decode", "4/0/time", "4/0/gold:hourly", "2/0/gold:hourly", "1/0/decode"]);
        assert_eq!(all.iter().map(|summary| summary.bytes).collect::<Vec<_>>(), [3, 2, 1, 2, 1]);
        assert_eq!(batch(&all).unwrap().num_rows(), 5);
        let storm: Vec<Letter> = [9, 10, 101].map(|sequence| letter(sequence, Stage::Decode, 200, b"")).into();
        put(data.path(), "dt=2026-01-03/a.ndjson", &storm);
        let newest = list(data.path(), &Filter { limit: 3, ..Default::default() }).unwrap();
        assert_eq!(ids(&newest), ["101/0/decode", "10/0/decode", "9/0/decode"], "sequence numbers are numbers");
        std::fs::remove_dir_all(data.path().join("dlq/dt=2026-01-03")).unwrap();
        std::fs::write(data.path().join("dlq/dt=2026-01-01/b.ndjson"), b"no letter\n").unwrap();
        let newest = list(data.path(), &Filter { limit: 2, ..Default::default() }).unwrap();
        assert_eq!(ids(&newest), ["3/0/decode", "4/0/time"]);
        let fault = list(data.path(), &Filter::default()).unwrap_err();
        assert_eq!(fault.kind(), Kind::Corrupt);
        assert!(!fault.to_string().contains("no letter"), "a letter's bytes stay out of messages: {fault}");
    }

    #[test]
    fn every_filter_leaves_out_what_it_should() {
        let data = filled();
        let listed = |filter: Filter| list(data.path(), &filter).unwrap().len();
        assert_eq!(listed(Filter { stage: Some("gold".into()), ..Default::default() }), 2);
        assert_eq!(listed(Filter { stage: Some("gold:hourly".into()), ..Default::default() }), 2);
        assert_eq!(listed(Filter { stage: Some("gold:other".into()), ..Default::default() }), 0);
        assert_eq!(listed(Filter { reason: Some("invalid_json".into()), ..Default::default() }), 3);
        assert_eq!(listed(Filter { shard: Some("shardId-1".into()), ..Default::default() }), 0);
        assert_eq!(listed(Filter { since_us: Some(50), ..Default::default() }), 3);
    }

    #[test]
    fn a_letter_is_found_by_its_id_or_by_shard_and_sequence_but_not_by_half_a_number() {
        let data = filled();
        let found = |wanted: &str| show(data.path(), wanted, 10).unwrap().len();
        assert_eq!(found("clicks/shardId-0/4/0/time"), 1);
        assert_eq!(found("shardId-0/4"), 2);
        assert_eq!(found("shardId-0/4/0/time"), 1);
        assert_eq!(found("clicks/shardId-0/4"), 2);
        assert_eq!(found("shardId-0"), 0);
        assert_eq!(found("shardId-0/44"), 0);
        assert_eq!(show(data.path(), "shardId-0/4", 1).unwrap().len(), 1);
    }

    #[test]
    fn printable_data_is_shown_as_text_and_the_rest_in_hexadecimal() {
        let text = shown(&letter(1, Stage::Decode, 0, "{\"ä\":1".as_bytes()));
        assert_eq!((text.data.as_str(), text.is_text, text.left_out), ("{\"ä\":1", true, 0));
        assert!(text.fields.contains(&("path", "$.a".to_owned())));
        assert!(!text.fields.iter().any(|(name, _)| *name == "trace_id"));
        let bytes = shown(&letter(1, Stage::Decode, 0, b"ab\x00\xffcdefghijklmn"));
        assert!(!bytes.is_text);
        let lines: Vec<&str> = bytes.data.lines().collect();
        assert_eq!(lines[0], "00000000  61 62 00 ff 63 64 65 66  67 68 69 6a 6b 6c 6d 6e  |ab..cdefghijklmn|");
    }
}
