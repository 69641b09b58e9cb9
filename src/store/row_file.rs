//! A file of rows in one of the formats a table may have.
//!
//! Owns: Parquet, NDJSON and gzip NDJSON behind one face. Does not own: the bytes' destination (staged, gold_files), the encoding
//! of columns (parquet).

use std::io::Write;

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use arrow::json::writer::{LineDelimited, Writer, WriterBuilder};
use flate2::Compression;
use flate2::write::GzEncoder;
use parquet::arrow::ArrowWriter;
use parquet::errors::ParquetError;
use serde::{Deserialize, Serialize};
use sluicebox_actors::model::fault::{Fault, Result};

use super::parquet::options;
use super::staged::write_fault;

/// Format of a table's files.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// Parquet, zstd, encodings chosen per column.
    #[default]
    Parquet,
    /// One JSON object a line.
    Ndjson,
    /// The same, compressed.
    NdjsonGzip,
}

impl Format {
    /// How the files' names end, without the dot.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Parquet => "parquet",
            Self::Ndjson => "ndjson",
            Self::NdjsonGzip => "ndjson.gz",
        }
    }
}

/// A file under way. What it writes is a pure function of the batches.
pub(crate) enum RowFile<W: Write + Send> {
    Parquet(Box<ArrowWriter<W>>),
    Ndjson(Writer<W, LineDelimited>),
    NdjsonGzip(Box<Writer<GzEncoder<W>, LineDelimited>>),
}

impl<W: Write + Send> RowFile<W> {
    /// `first` are its first rows: the columns' encodings follow from them. They are not written yet.
    pub(crate) fn new(format: Format, out: W, first: &RecordBatch, row_group_bytes: usize) -> Result<Self> {
        Ok(match format {
            Format::Parquet => {
                let options = options(first, row_group_bytes);
                let writer = ArrowWriter::try_new_with_options(out, first.schema(), options);
                Self::Parquet(Box::new(writer.map_err(|error| parquet_fault(&error))?))
            }
            Format::Ndjson => Self::Ndjson(json(out)),
            Format::NdjsonGzip => Self::NdjsonGzip(Box::new(json(GzEncoder::new(out, Compression::fast())))),
        })
    }

    pub(crate) fn write(&mut self, rows: &RecordBatch) -> Result<()> {
        match self {
            Self::Parquet(writer) => writer.write(rows).map_err(|error| parquet_fault(&error)),
            Self::Ndjson(writer) => writer.write(rows).map_err(|error| arrow_fault(&error)),
            Self::NdjsonGzip(writer) => writer.write(rows).map_err(|error| arrow_fault(&error)),
        }
    }

    /// Passes everything taken in on to the destination; in Parquet that ends a row group.
    pub(crate) fn flush(&mut self) -> Result<()> {
        let io = |error: std::io::Error| write_fault("writing a file of rows", &error);
        match self {
            Self::Parquet(writer) => {
                writer.flush().map_err(|error| parquet_fault(&error))?;
                writer.sync().map_err(io)
            }
            Self::Ndjson(writer) => writer.get_mut().flush().map_err(io),
            Self::NdjsonGzip(writer) => writer.get_mut().flush().map_err(io),
        }
    }

    /// Bytes in memory that the destination has not got, as an estimate.
    pub(crate) fn buffered(&self) -> usize {
        match self {
            Self::Parquet(writer) => writer.memory_size(),
            Self::Ndjson(_) | Self::NdjsonGzip(_) => 0,
        }
    }

    /// The destination.
    pub(crate) fn destination(&self) -> &W {
        match self {
            Self::Parquet(writer) => writer.inner(),
            Self::Ndjson(writer) => writer.get_ref(),
            Self::NdjsonGzip(writer) => writer.get_ref().get_ref(),
        }
    }

    /// Writes what ends the format and hands the destination back.
    pub(crate) fn finish(self) -> Result<W> {
        match self {
            Self::Parquet(writer) => writer.into_inner().map_err(|error| parquet_fault(&error)),
            Self::Ndjson(mut writer) => {
                writer.finish().map_err(|error| arrow_fault(&error))?;
                Ok(writer.into_inner())
            }
            Self::NdjsonGzip(mut writer) => {
                writer.finish().map_err(|error| arrow_fault(&error))?;
                let finished = writer.into_inner().finish();
                finished.map_err(|error| write_fault("writing a file of rows", &error))
            }
        }
    }
}

fn json<W: Write>(out: W) -> Writer<W, LineDelimited> {
    WriterBuilder::new().with_explicit_nulls(true).build(out)
}

fn parquet_fault(error: &ParquetError) -> Fault {
    write_fault("writing a Parquet file", error)
}

fn arrow_fault(error: &ArrowError) -> Fault {
    write_fault("writing an NDJSON file", error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Decimal128Array, Int64Array, StringArray, TimestampMicrosecondArray};
    use bytes::Bytes;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReader;

    fn rows() -> RecordBatch {
        let texts: StringArray = vec![Some("a\"b"), None, Some("ü")].into();
        let cents = Decimal128Array::from_iter_values([1i128, -250, 3]).with_precision_and_scale(18, 2).expect("fits");
        let times = TimestampMicrosecondArray::from_iter_values([0, 1_500_000, 1_795_446_000_000_000]).with_timezone("UTC");
        RecordBatch::try_from_iter_with_nullable([
            ("text", Arc::new(texts) as ArrayRef, true),
            ("n", Arc::new(Int64Array::from_iter_values(0..3)), false),
            ("cents", Arc::new(cents), true),
            ("at", Arc::new(times), false),
        ])
        .expect("a batch")
    }

    fn written(format: Format, batches: &[RecordBatch]) -> Vec<u8> {
        let mut file = RowFile::new(format, Vec::new(), &batches[0], 1 << 20).expect("begins");
        for batch in batches {
            file.write(batch).expect("writes");
            file.flush().expect("flushes");
        }
        file.finish().expect("ends")
    }

    #[test]
    fn parquet_gives_back_the_rows_that_went_in() {
        let data = Bytes::from(written(Format::Parquet, &[rows(), rows()]));
        let read: Vec<_> =
            ParquetRecordBatchReader::try_new(data, 1024).expect("opens").map(|batch| batch.expect("reads")).collect();
        let read = arrow::compute::concat_batches(&read[0].schema(), &read).expect("one batch");
        assert_eq!(read, arrow::compute::concat_batches(&rows().schema(), &[rows(), rows()]).expect("one batch"));
    }

    #[test]
    fn ndjson_is_one_object_a_line_with_utc_times_and_gzip_holds_the_same() {
        let plain = String::from_utf8(written(Format::Ndjson, &[rows()])).expect("text");
        let lines: Vec<serde_json::Value> = plain.lines().map(|line| serde_json::from_str(line).expect("json")).collect();
        assert_eq!(lines[0], serde_json::json!({"text": "a\"b", "n": 0, "cents": 0.01, "at": "1970-01-01T00:00:00Z"}));
        assert_eq!(lines[1]["text"], serde_json::Value::Null);
        assert_eq!(lines[1]["at"], "1970-01-01T00:00:01.500Z");
        let packed = written(Format::NdjsonGzip, &[rows()]);
        let mut unpacked = String::new();
        flate2::read::GzDecoder::new(&packed[..]).read_to_string(&mut unpacked).expect("unpacks");
        assert_eq!(unpacked, plain);
    }

    #[test]
    fn equal_rows_give_equal_bytes_in_every_format() {
        for format in [Format::Parquet, Format::Ndjson, Format::NdjsonGzip] {
            assert_eq!(written(format, &[rows()]), written(format, &[rows()]), "{format:?}");
        }
    }
}
