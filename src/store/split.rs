//! Which rows of a batch belong to which file: by event hour and, if asked for, by the values of columns.
//!
//! Owns: the split, done by integers and only where a batch spans files. Does not own: the files (data_files).

use std::collections::BTreeMap;

use arrow::array::{Array, AsArray, RecordBatch, StringArray, TimestampMicrosecondArray, UInt32Array};
use arrow::compute::{cast, take_record_batch};
use arrow::datatypes::{DataType, Schema, TimestampMicrosecondType};
use sluicebox_actors::model::fault::{Fault, Kind, Result};
use sluicebox_actors::model::window::HOUR_US;

use super::paths;

/// Column of the event time in Silver.
const EVENT_TIME: &str = "event_time";

/// Rows for one file.
pub(crate) struct Piece {
    /// Hour since 1970.
    pub(crate) hour: i64,
    /// `country=DE/plan=free`; empty without partition columns.
    pub(crate) values: String,
    pub(crate) rows: RecordBatch,
}

/// Splits Silver rows by event hour and partition columns; order is kept within each piece.
pub(crate) fn split(rows: &RecordBatch, partition_by: &[String]) -> Result<Vec<Piece>> {
    if rows.num_rows() == 0 {
        return Ok(Vec::new());
    }
    let times = event_times(rows)?;
    if partition_by.is_empty() {
        if let Some(hour) = one_hour(times.values()) {
            return Ok(vec![Piece { hour, values: String::new(), rows: rows.clone() }]);
        }
        return by_key(rows, times.values().iter().map(|time| (paths::hour_of(*time), String::new())));
    }
    let columns = value_columns(rows, partition_by)?;
    let folder = |row: usize| {
        let folders = columns.iter().map(|(name, values)| {
            let value = values.is_valid(row).then(|| values.value(row));
            paths::value_folder(name, value)
        });
        folders.collect::<Vec<_>>().join("/")
    };
    by_key(rows, times.values().iter().enumerate().map(|(row, time)| (paths::hour_of(*time), folder(row))))
}

/// Refuses partition columns that aren't there or have no one spelling: texts, integers, booleans and dates have.
pub fn check_partition_columns(schema: &Schema, partition_by: &[String]) -> Result<()> {
    for name in partition_by {
        let Ok(field) = schema.field_with_name(name) else {
            return Err(Fault::config(format!("silver.partition_by: Silver has no column `{name}`")));
        };
        let kind = field.data_type();
        if !(kind.is_string() || kind.is_integer() || matches!(kind, DataType::Boolean | DataType::Date32)) {
            return Err(Fault::config(format!(
                "silver.partition_by: `{name}` is {kind}; only texts, integers, booleans and dates can name folders"
            )));
        }
    }
    Ok(())
}

fn event_times(rows: &RecordBatch) -> Result<&TimestampMicrosecondArray> {
    // The coordinates follow the statement's own columns, so the last one of this name is the real one.
    let found = rows.schema_ref().fields().iter().rposition(|field| field.name() == EVENT_TIME);
    let times = found.and_then(|at| rows.column(at).as_primitive_opt::<TimestampMicrosecondType>());
    let times = times.ok_or_else(|| Fault::bug("Silver rows without an event_time in microseconds"))?;
    match times.null_count() {
        0 => Ok(times),
        _ => Err(Fault::bug("a Silver row without an event time")),
    }
}

fn one_hour(times: &[i64]) -> Option<i64> {
    let hour = paths::hour_of(*times.first()?);
    let start = hour.checked_mul(HOUR_US)?;
    let end = start.checked_add(HOUR_US)?;
    times.iter().all(|time| start <= *time && *time < end).then_some(hour)
}

fn value_columns(rows: &RecordBatch, partition_by: &[String]) -> Result<Vec<(String, StringArray)>> {
    check_partition_columns(rows.schema_ref(), partition_by)?;
    let text = |name: &String| {
        let column = rows.column_by_name(name).ok_or_else(|| Fault::bug("a checked column is not there"))?;
        let column = cast(column, &DataType::Utf8).map_err(|error| split_fault(&error))?;
        Ok((name.clone(), column.as_string::<i32>().clone()))
    };
    partition_by.iter().map(text).collect()
}

fn by_key(rows: &RecordBatch, keys: impl Iterator<Item = (i64, String)>) -> Result<Vec<Piece>> {
    let mut of: BTreeMap<(i64, String), Vec<u32>> = BTreeMap::new();
    for (row, key) in keys.enumerate() {
        let row = u32::try_from(row).map_err(|_| Fault::bug("a batch of more than 2^32 rows"))?;
        of.entry(key).or_default().push(row);
    }
    let piece = |((hour, values), picked): ((i64, String), Vec<u32>)| {
        let rows = match picked.len() == rows.num_rows() {
            true => rows.clone(),
            false => take_record_batch(rows, &UInt32Array::from(picked)).map_err(|error| split_fault(&error))?,
        };
        Ok(Piece { hour, values, rows })
    };
    of.into_iter().map(piece).collect()
}

fn split_fault(error: &arrow::error::ArrowError) -> Fault {
    Fault::caused(Kind::Bug, "splitting Silver rows by file", error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Float64Array, Int64Array};
    use proptest::prelude::*;

    fn batch(times: &[i64], countries: &[Option<&str>]) -> RecordBatch {
        let times = TimestampMicrosecondArray::from(times.to_vec()).with_timezone("UTC");
        RecordBatch::try_from_iter_with_nullable([
            ("row", Arc::new(Int64Array::from_iter_values(0..times.len() as i64)) as ArrayRef, false),
            ("country", Arc::new(StringArray::from(countries.to_vec())), true),
            ("event_time", Arc::new(times), false),
        ])
        .expect("a batch")
    }

    proptest! {
        #[test]
        fn every_row_lands_once_in_the_piece_of_its_own_hour_and_value(
            rows in proptest::collection::vec((-3i64..3, 0i64..3_600_000_000, proptest::option::of("[a-c]{0,2}")), 0..60),
            partitioned: bool,
        ) {
            let times: Vec<i64> = rows.iter().map(|(hour, within, _)| hour * 3_600_000_000 + within).collect();
            let countries: Vec<Option<&str>> = rows.iter().map(|(_, _, country)| country.as_deref()).collect();
            let partition_by = if partitioned { vec!["country".to_owned()] } else { Vec::new() };
            let pieces = split(&batch(&times, &countries), &partition_by).expect("splits");
            let mut seen = vec![false; rows.len()];
            for piece in &pieces {
                let numbers = piece.rows["row"].as_primitive::<arrow::datatypes::Int64Type>();
                let mut last = None;
                for number in numbers.values() {
                    let (hour, _, country) = &rows[*number as usize];
                    prop_assert_eq!(piece.hour, *hour);
                    if partitioned {
                        let expected = match country.as_deref() {
                            None | Some("") => "country=__HIVE_DEFAULT_PARTITION__".to_owned(),
                            Some(country) => format!("country={country}"),
                        };
                        prop_assert_eq!(&piece.values, &expected);
                    }
                    prop_assert!(!std::mem::replace(&mut seen[*number as usize], true));
                    prop_assert!(last < Some(*number), "order is kept");
                    last = Some(*number);
                }
            }
            prop_assert!(seen.into_iter().all(|seen| seen));
            let keys: std::collections::BTreeSet<_> = pieces.iter().map(|piece| (piece.hour, piece.values.clone())).collect();
            prop_assert_eq!(keys.len(), pieces.len(), "one piece a file");
        }
    }

    #[test]
    fn a_batch_of_one_hour_is_handed_on_as_it_is() {
        let rows = batch(&[0, 3_599_999_999], &[None, None]);
        let pieces = split(&rows, &[]).expect("splits");
        assert_eq!(pieces.len(), 1);
        assert!(Arc::ptr_eq(pieces[0].rows.column(0), rows.column(0)), "not copied");
    }

    #[test]
    fn the_statement_may_have_a_column_named_event_time_of_its_own() {
        let own: ArrayRef = Arc::new(StringArray::from(vec!["x"]));
        let real: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![7_200_000_000]).with_timezone("UTC"));
        let schema = Schema::new(vec![
            arrow::datatypes::Field::new("event_time", own.data_type().clone(), false),
            arrow::datatypes::Field::new("event_time", real.data_type().clone(), false),
        ]);
        let rows = RecordBatch::try_new(Arc::new(schema), vec![own, real]).expect("a batch");
        assert_eq!(split(&rows, &[]).expect("splits")[0].hour, 2);
    }

    #[test]
    fn a_column_that_cannot_name_folders_is_refused_at_the_settings() {
        let floats: ArrayRef = Arc::new(Float64Array::from(vec![1.5]));
        let rows = RecordBatch::try_from_iter([("amount", floats)]).expect("a batch");
        for name in ["amount", "nowhere"] {
            let fault = check_partition_columns(rows.schema_ref(), &[name.to_owned()]).expect_err("refused");
            assert_eq!(fault.kind(), Kind::Config);
            assert!(fault.message().contains(name));
        }
    }
}
