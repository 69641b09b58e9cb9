//! Rows as records of Timestream, within its limits.
//!
//! A row is one multi-measure record: keys are dimensions, `window_start` is the time, the Gold table is the measure's name, the
//! other columns are measures. What all rows of a revision share travels once a call (common attributes).
//!
//! - Integers are BIGINT, floats and decimals DOUBLE, text VARCHAR, times TIMESTAMP, booleans BOOLEAN.
//! - NULL, NaN, infinities and empty texts have no value in Timestream: the measure is left out, and reads as NULL.
//! - A key that is NULL is left out; one that is empty is two quotes (revision).
//! - Beside the columns: `sluicebox_revision`, `sluicebox_status`, `sluicebox_removed`, and the dimension `sluicebox_pipeline`:
//!   pipelines may share a table.
//! - Timestream cannot delete. A row that is gone is written once more with `sluicebox_removed` = true; queries say
//!   `WHERE NOT sluicebox_removed`.
//!
//! Owns: that mapping, limits and reserved names. Does not own: calls, answers (sink).

use aws_sdk_timestreamwrite::types::{Dimension, MeasureValue, MeasureValueType, Record, TimeUnit};
use sluicebox_actors::model::fault::{Fault, Kind, Result};
use sluicebox_actors::ports::GoldRevision;

use crate::revision::{Cell, Row, Rows};

/// Records of one call.
pub(super) const RECORDS_MAX: usize = 100;
/// Dimensions of a record, ours included.
const DIMENSIONS_MAX: usize = 128;
/// Bytes of a dimension's name.
const DIMENSION_NAME_MAX: usize = 60;
/// Bytes of a measure's name.
const MEASURE_NAME_MAX: usize = 256;
/// Measures of a record, ours included.
const MEASURES_MAX: usize = 256;
/// Bytes of all names and values of dimensions, and of all values of measures.
const RECORD_MAX: usize = 2048;

const PIPELINE: &str = "sluicebox_pipeline";
const REVISION: &str = "sluicebox_revision";
const STATUS: &str = "sluicebox_status";
const REMOVED: &str = "sluicebox_removed";
const OWN_MEASURES: usize = 3;

/// A row as a record, or why Timestream would not take it.
pub(super) type Made = std::result::Result<Record, &'static str>;

/// Names and numbers of columns, which are the same for every row.
pub(super) fn check(rows: &Rows<'_>, revision: &GoldRevision) -> Result<()> {
    let (keys, measures) = (rows.key_names().count(), rows.measure_names().count());
    let what = format!("the Gold table {} in Timestream", revision.table);
    if keys + 1 > DIMENSIONS_MAX || measures + OWN_MEASURES > MEASURES_MAX {
        return Err(Fault::config(format!(
            "{what}: {keys} keys and {measures} other columns are more than fit a record ({} and {}): SELECT fewer",
            DIMENSIONS_MAX - 1,
            MEASURES_MAX - OWN_MEASURES
        )));
    }
    let too_long = |name: &str, most| name.len() > most;
    let long = rows.key_names().find(|name| too_long(name, DIMENSION_NAME_MAX));
    let long = long.or_else(|| rows.measure_names().find(|name| too_long(name, MEASURE_NAME_MAX)));
    if let Some(name) = long {
        return Err(Fault::config(format!(
            "{what}: the name {name} is too long ({DIMENSION_NAME_MAX} bytes for a key, {MEASURE_NAME_MAX} for another column): \
             rename it by AS"
        )));
    }
    match rows.key_names().chain(rows.measure_names()).find(|name| is_reserved(name)) {
        Some(name) => Err(Fault::config(format!("{what}: the name {name} is taken there: rename the column by AS"))),
        None => Ok(()),
    }
}

fn is_reserved(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    matches!(lower.as_str(), "time" | "measure_name")
        || ["ts_", "measure_value", "sluicebox_"].iter().any(|prefix| lower.starts_with(prefix))
}

fn incomplete(error: &aws_smithy_types::error::operation::BuildError) -> Fault {
    Fault::caused(Kind::Bug, "a record for Timestream", error)
}

/// What all records of a revision have in common.
pub(super) fn common(revision: &GoldRevision, pipeline: &str) -> Result<Record> {
    let pipeline = Dimension::builder().name(PIPELINE).value(pipeline).build().map_err(|error| incomplete(&error))?;
    let version = i64::try_from(revision.version).map_err(|_| Fault::bug("the version of a revision is 2^63 or more"))?;
    Ok(Record::builder()
        .dimensions(pipeline)
        .measure_name(revision.table.as_ref())
        .measure_value_type(MeasureValueType::Multi)
        .time(revision.window.start_us.to_string())
        .time_unit(TimeUnit::Microseconds)
        .version(version)
        .build())
}

/// One row.
pub(super) fn record(row: &Row<'_>, revision: &GoldRevision) -> Result<Made> {
    let mut record = Record::builder();
    let mut bytes = 0;
    for (name, value) in &row.keys {
        let Some(value) = value else { continue };
        bytes += name.len() + value.len();
        let dimension = Dimension::builder().name(*name).value(value).build().map_err(|error| incomplete(&error))?;
        record = record.dimensions(dimension);
    }
    if bytes > RECORD_MAX {
        return Ok(Err("keys_over_2_kb"));
    }
    let mut measures = vec![
        (REVISION, MeasureValueType::Bigint, revision.revision.to_string()),
        (STATUS, MeasureValueType::Varchar, revision.status.as_str().to_owned()),
        (REMOVED, MeasureValueType::Boolean, row.removed.to_string()),
    ];
    measures.extend(row.measures.iter().filter_map(|(name, cell)| measure(cell).map(|(of, value)| (*name, of, value))));
    if measures.iter().map(|(_, _, value)| value.len()).sum::<usize>() > RECORD_MAX {
        return Ok(Err("measures_over_2_kb"));
    }
    for (name, of, value) in measures {
        let measure = MeasureValue::builder().name(name).r#type(of).value(value).build();
        record = record.measure_values(measure.map_err(|error| incomplete(&error))?);
    }
    Ok(Ok(record.build()))
}

fn measure(cell: &Cell) -> Option<(MeasureValueType, String)> {
    match cell {
        Cell::Boolean(value) => Some((MeasureValueType::Boolean, value.to_string())),
        Cell::Integer(value) => Some((MeasureValueType::Bigint, value.to_string())),
        // As short as it can be and still be read back the same; 1e300 is not written out.
        Cell::Float(value) => Some((MeasureValueType::Double, format!("{value:?}"))),
        Cell::Text(text) if text.is_empty() => None,
        Cell::Text(text) => Some((MeasureValueType::Varchar, text.clone())),
        // A TIMESTAMP is in the time unit of its record.
        Cell::Time(us) => Some((MeasureValueType::Timestamp, us.to_string())),
    }
}
