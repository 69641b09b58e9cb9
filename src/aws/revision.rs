//! A revision of a Gold window row by row, as sinks want it: keys as text, measures as plain values, tombstones behind the rows.
//!
//! Owns: which Arrow types can be handed on and as what, which columns are keys and which are measures, how far a revision that
//! failed half-way has got. Does not own: a sink's own names, limits and spellings.

use std::sync::{Arc, Mutex, PoisonError};

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Date32Type, Decimal128Type, Decimal256Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType, UInt8Type, UInt16Type,
    UInt32Type, UInt64Type,
};
use arrow_array::{Array, RecordBatch};
use arrow_schema::{DataType, TimeUnit};
use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;
use sluicebox_actors::model::fault::{Fault, Result};
use sluicebox_actors::ports::{Fed, GoldRevision};

const DAY_US: i64 = 86_400_000_000;

/// `window_start` and `window_end`, in front of the statement's columns.
const WINDOW_COLUMNS: usize = 2;

/// One value. Decimals and integers beyond 64 bits are floats: dashboards compute with them, and the exact ones are in the files.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Cell {
    Boolean(bool),
    Integer(i64),
    Float(f64),
    Text(String),
    /// Microseconds since 1970.
    Time(i64),
}

/// A row, or the tombstone of one.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Row<'a> {
    /// Name and value; none = NULL. Never the empty text, which no sink takes: see [`key_text`].
    pub(crate) keys: Vec<(&'a str, Option<String>)>,
    /// Name and value of what is neither NULL nor a number that is none (NaN, infinite); a tombstone has none at all.
    pub(crate) measures: Vec<(&'a str, Cell)>,
    pub(crate) removed: bool,
}

/// All rows of a revision, its tombstones last.
#[derive(Debug)]
pub(crate) struct Rows<'a> {
    revision: &'a GoldRevision,
    keys: Vec<(&'a str, usize)>,
    measures: Vec<(&'a str, usize)>,
    removed: Vec<(&'a str, usize)>,
}

impl<'a> Rows<'a> {
    /// `Config` if a column has a type that no sink knows.
    pub(crate) fn of(revision: &'a GoldRevision) -> Result<Self> {
        let schema = revision.rows.schema_ref();
        for field in schema.fields().iter().skip(WINDOW_COLUMNS) {
            if !is_known(field.data_type()) {
                return Err(Fault::config(format!(
                    "the column {} of the Gold table {} is {}, which no sink takes: CAST it to text, number, time or boolean",
                    field.name(),
                    revision.table,
                    field.data_type()
                )));
            }
        }
        let keys = find_keys(revision, &revision.rows)?;
        let removed = match revision.removed.num_rows() {
            0 => Vec::new(),
            _ => find_keys(revision, &revision.removed)?,
        };
        let columns = schema.fields().iter().enumerate().skip(WINDOW_COLUMNS);
        let measures = columns.filter(|(at, _)| keys.iter().all(|(_, key)| key != at));
        let measures = measures.map(|(at, field)| (field.name().as_str(), at)).collect();
        Ok(Self { revision, keys, measures, removed })
    }

    pub(crate) fn len(&self) -> usize {
        self.revision.rows.num_rows() + self.revision.removed.num_rows()
    }

    pub(crate) fn key_names(&self) -> impl Iterator<Item = &'a str> {
        self.keys.iter().map(|(name, _)| *name)
    }

    pub(crate) fn measure_names(&self) -> impl Iterator<Item = &'a str> {
        self.measures.iter().map(|(name, _)| *name)
    }

    /// One of them, `at` below `len`.
    pub(crate) fn row(&self, at: usize) -> Row<'a> {
        let live = self.revision.rows.num_rows();
        if at >= live {
            let keys = keys_of(&self.removed, &self.revision.removed, at - live);
            return Row { keys, measures: Vec::new(), removed: true };
        }
        let rows = &self.revision.rows;
        let measures = self.measures.iter().filter_map(|(name, column)| Some((*name, cell(rows.column(*column), at)?)));
        let measures = measures.filter(|(_, cell)| !matches!(cell, Cell::Float(number) if !number.is_finite())).collect();
        Row { keys: keys_of(&self.keys, rows, at), measures, removed: false }
    }
}

fn find_keys<'a>(revision: &'a GoldRevision, batch: &'a RecordBatch) -> Result<Vec<(&'a str, usize)>> {
    let find = |key: &'a String| match batch.schema_ref().column_with_name(key) {
        Some((at, field)) if is_known(field.data_type()) => Ok((key.as_str(), at)),
        Some(_) | None => Err(Fault::bug(format!("the key {key} is no column of a revision of {}", revision.table))),
    };
    revision.keys.iter().map(find).collect()
}

fn keys_of<'a>(keys: &[(&'a str, usize)], batch: &RecordBatch, at: usize) -> Vec<(&'a str, Option<String>)> {
    keys.iter().map(|(name, column)| (*name, cell(batch.column(*column), at).map(|cell| key_text(&cell)))).collect()
}

/// A key as text. NULL is no text, and no sink takes an empty one: that is written as two quotes, and a text of nothing but two
/// quotes or more gets one more, so that different keys stay different.
fn key_text(cell: &Cell) -> String {
    match cell {
        Cell::Boolean(value) => value.to_string(),
        Cell::Integer(value) => value.to_string(),
        Cell::Float(value) => format!("{value:?}"),
        Cell::Time(us) => time_text(*us),
        Cell::Text(text) if text.is_empty() => "\"\"".to_owned(),
        Cell::Text(text) if text.len() > 1 && text.bytes().all(|byte| byte == b'"') => format!("{text}\""),
        Cell::Text(text) => text.clone(),
    }
}

/// A time as RFC 3339 has it, in UTC.
pub(crate) fn time_text(us: i64) -> String {
    let nanos = (us.rem_euclid(1_000_000) * 1000) as u32;
    let time = DateTime::from_secs_and_nanos(us.div_euclid(1_000_000), nanos);
    // Years beyond 9999 have no such form.
    time.fmt(Format::DateTime).unwrap_or_else(|_| format!("{us}us"))
}

fn is_known(of: &DataType) -> bool {
    of.is_integer()
        || matches!(of, DataType::Float32 | DataType::Float64 | DataType::Boolean | DataType::Date32 | DataType::Null)
        || matches!(of, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
        || matches!(of, DataType::Timestamp(_, _) | DataType::Decimal128(_, _) | DataType::Decimal256(_, _))
}

fn integer(value: i128) -> Cell {
    i64::try_from(value).map_or(Cell::Float(value as f64), Cell::Integer)
}

/// A value; none where it is NULL.
#[expect(clippy::wildcard_enum_match_arm, reason = "a foreign enum; is_known has let no other type in")]
fn cell(column: &dyn Array, at: usize) -> Option<Cell> {
    if column.is_null(at) {
        return None;
    }
    macro_rules! integer {
        ($kind:ty) => {
            Some(integer(i128::from(column.as_primitive::<$kind>().value(at))))
        };
    }
    let decimal = |text: String| text.parse().ok().map(Cell::Float);
    match column.data_type() {
        DataType::Boolean => Some(Cell::Boolean(column.as_boolean().value(at))),
        DataType::Int8 => integer!(Int8Type),
        DataType::Int16 => integer!(Int16Type),
        DataType::Int32 => integer!(Int32Type),
        DataType::Int64 => integer!(Int64Type),
        DataType::UInt8 => integer!(UInt8Type),
        DataType::UInt16 => integer!(UInt16Type),
        DataType::UInt32 => integer!(UInt32Type),
        DataType::UInt64 => integer!(UInt64Type),
        DataType::Float32 => Some(Cell::Float(f64::from(column.as_primitive::<Float32Type>().value(at)))),
        DataType::Float64 => Some(Cell::Float(column.as_primitive::<Float64Type>().value(at))),
        DataType::Utf8 => Some(Cell::Text(column.as_string::<i32>().value(at).to_owned())),
        DataType::LargeUtf8 => Some(Cell::Text(column.as_string::<i64>().value(at).to_owned())),
        DataType::Utf8View => Some(Cell::Text(column.as_string_view().value(at).to_owned())),
        DataType::Decimal128(_, _) => decimal(column.as_primitive::<Decimal128Type>().value_as_string(at)),
        DataType::Decimal256(_, _) => decimal(column.as_primitive::<Decimal256Type>().value_as_string(at)),
        DataType::Date32 => Some(Cell::Time(i64::from(column.as_primitive::<Date32Type>().value(at)).saturating_mul(DAY_US))),
        DataType::Timestamp(unit, _) => Some(Cell::Time(match unit {
            TimeUnit::Second => column.as_primitive::<TimestampSecondType>().value(at).saturating_mul(1_000_000),
            TimeUnit::Millisecond => column.as_primitive::<TimestampMillisecondType>().value(at).saturating_mul(1_000),
            TimeUnit::Microsecond => column.as_primitive::<TimestampMicrosecondType>().value(at),
            TimeUnit::Nanosecond => column.as_primitive::<TimestampNanosecondType>().value(at).div_euclid(1_000),
        })),
        _ => None,
    }
}

/// Adds what became of a part.
pub(crate) fn add(fed: &mut Fed, part: Fed) {
    fed.stored += part.stored;
    fed.newer += part.newer;
    for (reason, count) in part.refused {
        refuse(fed, &reason, count);
    }
}

/// Counts refused rows under a reason.
pub(crate) fn refuse(fed: &mut Fed, reason: &str, count: u64) {
    match fed.refused.iter_mut().find(|(known, _)| known == reason) {
        Some((_, sum)) => *sum += count,
        None if count > 0 => fed.refused.push((reason.to_owned(), count)),
        None => {}
    }
}

/// How far the last revision that failed half-way has got: when it is handed over again, only what is left is sent.
#[derive(Debug, Default)]
pub(crate) struct Progress(Mutex<Option<(Mark, usize, Fed)>>);

/// Which revision: table, start of the window, version.
type Mark = (Arc<str>, i64, u64);

impl Progress {
    fn mark(revision: &GoldRevision) -> Mark {
        (revision.table.clone(), revision.window.start_us, revision.version)
    }

    /// The first row that is not sent yet, and what became of those before.
    pub(crate) fn resume(&self, revision: &GoldRevision) -> (usize, Fed) {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        kept.filter(|(mark, _, _)| *mark == Self::mark(revision)).map(|(_, next, fed)| (next, fed)).unwrap_or_default()
    }

    /// It failed before this row.
    pub(crate) fn keep(&self, revision: &GoldRevision, next: usize, fed: Fed) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((Self::mark(revision), next, fed));
    }
}

#[cfg(test)]
mod tests {
    use arrow_array::{Decimal128Array, Float64Array, UInt64Array};

    use super::*;

    #[test]
    fn empty_keys_and_quotes_stay_apart() {
        let texts = ["", "\"", "\"\"", "\"\"\"", "a"].map(|text| key_text(&Cell::Text(text.to_owned())));
        let distinct: std::collections::BTreeSet<&String> = texts.iter().collect();
        assert_eq!(distinct.len(), texts.len(), "{texts:?}");
        assert!(texts.iter().all(|text| !text.is_empty()));
    }

    #[test]
    fn numbers_that_do_not_fit_become_floats() {
        let longs = UInt64Array::from(vec![7, u64::MAX]);
        assert_eq!(cell(&longs, 0), Some(Cell::Integer(7)));
        assert_eq!(cell(&longs, 1), Some(Cell::Float(u64::MAX as f64)));
        let decimals = Decimal128Array::from(vec![Some(-12345), None]).with_precision_and_scale(20, 2).expect("fits");
        assert_eq!((cell(&decimals, 0), cell(&decimals, 1)), (Some(Cell::Float(-123.45)), None));
        assert_eq!(cell(&Float64Array::from(vec![0.5]), 0), Some(Cell::Float(0.5)));
    }

    #[test]
    fn times_are_written_as_people_and_parsers_know_them() {
        assert_eq!(time_text(0), "1970-01-01T00:00:00Z");
        assert_eq!(time_text(-1), "1969-12-31T23:59:59.999999Z");
        assert_eq!(time_text(i64::MAX), format!("{}us", i64::MAX));
    }
}
