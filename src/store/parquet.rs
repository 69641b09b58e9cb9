//! How each column of a Parquet file is encoded, decided from what it holds.
//!
//! Owns: writer properties. Does not own: which rows go into a file (data_files, gold_files).
//!
//! Near-unique columns get no dictionary (it is built, found useless and thrown away), times and integers are stored as
//! differences, rising texts by their common prefix, and long texts carry no statistics: nobody prunes by a UUID.

use std::collections::HashSet;
use std::hash::Hash;

use arrow::array::{ArrayAccessor, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Decimal128Type, Float64Type, Int32Type, Int64Type, UInt64Type};
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder};
use parquet::schema::types::ColumnPath;

/// Values looked at per column.
const SAMPLE: usize = 1024;

/// Fewer say nothing about how many different ones there will be.
const SAMPLE_MIN: usize = 64;

/// Texts longer than this on average get no minimum and maximum.
const LONG_TEXT: usize = 32;

/// Columns whose neighbours share most of their digits, by name.
const RISING_TEXT: &str = "_sequence";

/// Writer options for a file that starts with these rows.
pub(crate) fn options(first: &RecordBatch, row_group_bytes: usize) -> ArrowWriterOptions {
    let mut builder = WriterProperties::builder()
        .set_created_by("sluicebox".to_owned())
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_max_row_group_bytes(Some(row_group_bytes));
    for (field, column) in first.schema_ref().fields().iter().zip(first.columns()) {
        builder = settle(builder, vec![field.name().clone()], column);
    }
    // The Arrow schema would add nothing but bytes that depend on a library's version.
    ArrowWriterOptions::new().with_properties(builder.build()).with_skip_arrow_metadata(true)
}

fn settle(builder: WriterPropertiesBuilder, path: Vec<String>, column: &ArrayRef) -> WriterPropertiesBuilder {
    if let Some(parts) = column.as_struct_opt() {
        return parts.fields().iter().zip(parts.columns()).fold(builder, |builder, (field, part)| {
            let mut path = path.clone();
            path.push(field.name().clone());
            settle(builder, path, part)
        });
    }
    let kind = column.data_type();
    let name = ColumnPath::new(path);
    if matches!(kind, DataType::Timestamp(..) | DataType::Date32 | DataType::Date64 | DataType::Time32(_) | DataType::Time64(_)) {
        return builder
            .set_column_dictionary_enabled(name.clone(), false)
            .set_column_encoding(name, Encoding::DELTA_BINARY_PACKED);
    }
    if kind.is_string() || kind.is_binary() {
        return settle_text(builder, name, &look_at_texts(column));
    }
    let is_small_decimal = matches!(kind, DataType::Decimal128(precision, _) if *precision <= 18);
    let look = look_at_numbers(column);
    if !look.is_near_unique() {
        return builder;
    }
    let builder = builder.set_column_dictionary_enabled(name.clone(), false);
    if kind.is_integer() || is_small_decimal {
        return builder.set_column_encoding(name, Encoding::DELTA_BINARY_PACKED);
    }
    builder
}

fn settle_text(builder: WriterPropertiesBuilder, name: ColumnPath, look: &Look) -> WriterPropertiesBuilder {
    let mut builder = builder;
    if name.parts().last().is_some_and(|last| last == RISING_TEXT) {
        builder = builder
            .set_column_dictionary_enabled(name.clone(), false)
            .set_column_encoding(name.clone(), Encoding::DELTA_BYTE_ARRAY);
    } else if look.is_near_unique() {
        builder = builder.set_column_dictionary_enabled(name.clone(), false);
    }
    if look.bytes > look.values * LONG_TEXT {
        builder = builder.set_column_statistics_enabled(name, EnabledStatistics::None);
    }
    builder
}

/// What a sample of a column showed.
#[derive(Default)]
struct Look {
    values: usize,
    different: usize,
    bytes: usize,
}

impl Look {
    fn is_near_unique(&self) -> bool {
        self.values >= SAMPLE_MIN && self.different * 2 > self.values
    }

    fn at<A: ArrayAccessor, K: Hash + Eq>(array: A, key: impl Fn(A::Item) -> K, weight: impl Fn(A::Item) -> usize) -> Self {
        // Evenly spread, so that a sorted or clustered beginning does not speak for the whole.
        let step = array.len().div_ceil(SAMPLE).max(1);
        let (mut seen, mut out) = (HashSet::new(), Self::default());
        for i in (0..array.len()).step_by(step).filter(|i| array.is_valid(*i)) {
            out.values += 1;
            out.bytes += weight(array.value(i));
            seen.insert(key(array.value(i)));
        }
        out.different = seen.len();
        out
    }
}

fn look_at_texts(column: &ArrayRef) -> Look {
    if let Some(texts) = column.as_string_opt::<i32>() {
        return Look::at(texts, str::to_owned, str::len);
    }
    if let Some(texts) = column.as_string_opt::<i64>() {
        return Look::at(texts, str::to_owned, str::len);
    }
    if let Some(texts) = column.as_string_view_opt() {
        return Look::at(texts, str::to_owned, str::len);
    }
    if let Some(texts) = column.as_binary_opt::<i32>() {
        return Look::at(texts, <[u8]>::to_vec, <[u8]>::len);
    }
    Look::default()
}

fn look_at_numbers(column: &ArrayRef) -> Look {
    if let Some(numbers) = column.as_primitive_opt::<Int64Type>() {
        return Look::at(numbers, |value| value, |_| 8);
    }
    if let Some(numbers) = column.as_primitive_opt::<UInt64Type>() {
        return Look::at(numbers, |value| value, |_| 8);
    }
    if let Some(numbers) = column.as_primitive_opt::<Int32Type>() {
        return Look::at(numbers, |value| value, |_| 4);
    }
    if let Some(numbers) = column.as_primitive_opt::<Float64Type>() {
        return Look::at(numbers, f64::to_bits, |_| 8);
    }
    if let Some(numbers) = column.as_primitive_opt::<Decimal128Type>() {
        return Look::at(numbers, |value| value, |_| 16);
    }
    Look::default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use arrow::array::{Decimal128Array, Float64Array, Int64Array, StringArray, StructArray, TimestampMicrosecondArray};
    use arrow::datatypes::{Field, Fields};
    use parquet::file::properties::WriterPropertiesPtr;

    fn properties(columns: Vec<(&str, ArrayRef)>) -> WriterPropertiesPtr {
        let batch = RecordBatch::try_from_iter(columns).expect("a batch");
        let mut out = Vec::new();
        let writer = parquet::arrow::ArrowWriter::try_new_with_options(&mut out, batch.schema(), options(&batch, 1 << 20));
        writer.expect("a writer").into_serialized_writer().expect("its inside").0.properties().clone()
    }

    fn of(properties: &WriterPropertiesPtr, path: &[&str]) -> (bool, Option<Encoding>, EnabledStatistics) {
        let path = ColumnPath::new(path.iter().map(|part| (*part).to_owned()).collect());
        (properties.dictionary_enabled(&path), properties.encoding(&path), properties.statistics_enabled(&path))
    }

    #[test]
    fn each_column_is_encoded_after_what_it_holds() {
        let n = 2000;
        let uuid: StringArray = (0..n).map(|i| Some(format!("00000000-0000-0000-0000-{i:012}"))).collect();
        let types: StringArray = (0..n).map(|i| Some(["view", "click"][i % 2])).collect();
        let ids: StringArray = (0..n).map(|i| Some(format!("u{i}"))).collect();
        let inner = StructArray::new(
            Fields::from(vec![Field::new("few", DataType::Int64, true), Field::new("many", DataType::Int64, true)]),
            vec![
                Arc::new(Int64Array::from_iter_values((0..n as i64).map(|i| i % 3))),
                Arc::new(Int64Array::from_iter_values(0..n as i64)),
            ],
            None,
        );
        let cents = Decimal128Array::from_iter_values((0..n as i128).map(|i| i * 7)).with_precision_and_scale(18, 2);
        let properties = properties(vec![
            ("uuid", Arc::new(uuid)),
            ("type", Arc::new(types)),
            ("id", Arc::new(ids.clone())),
            ("_sequence", Arc::new(ids)),
            ("time", Arc::new(TimestampMicrosecondArray::from_iter_values(0..n as i64).with_timezone("UTC"))),
            ("inner", Arc::new(inner)),
            ("cents", Arc::new(cents.expect("fits"))),
            ("float", Arc::new(Float64Array::from_iter_values((0..n).map(|i| i as f64 / 3.0)))),
        ]);
        use EnabledStatistics::{Chunk, None as Without};
        use Encoding::{DELTA_BINARY_PACKED, DELTA_BYTE_ARRAY};
        assert_eq!(of(&properties, &["uuid"]), (false, None, Without));
        assert_eq!(of(&properties, &["type"]), (true, None, Chunk));
        assert_eq!(of(&properties, &["id"]), (false, None, Chunk));
        assert_eq!(of(&properties, &["_sequence"]), (false, Some(DELTA_BYTE_ARRAY), Chunk));
        assert_eq!(of(&properties, &["time"]), (false, Some(DELTA_BINARY_PACKED), Chunk));
        assert_eq!(of(&properties, &["inner", "few"]), (true, None, Chunk));
        assert_eq!(of(&properties, &["inner", "many"]), (false, Some(DELTA_BINARY_PACKED), Chunk));
        assert_eq!(of(&properties, &["cents"]), (false, Some(DELTA_BINARY_PACKED), Chunk));
        assert_eq!(of(&properties, &["float"]), (false, None, Chunk));
    }

    #[test]
    fn a_handful_of_values_decides_nothing() {
        let ids: StringArray = (0..10).map(|i| Some(format!("u{i}"))).collect();
        let properties = properties(vec![("id", Arc::new(ids)), ("n", Arc::new(Int64Array::from_iter_values(0..10)))]);
        assert!(of(&properties, &["id"]).0);
        assert!(of(&properties, &["n"]).0);
    }
}
