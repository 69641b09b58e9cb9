//! Reads one published file, by its extension, as record batches of a wanted schema.
//!
//! A file is opened once and read through that handle, so a file that is replaced by a rename meanwhile is read to its end as
//! it was. Owns: Parquet, NDJSON and gzipped NDJSON; fitting a file's columns to a table's. Does not own: which files are read
//! (table, audit).

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::error::ArrowError;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ParquetRecordBatchReaderBuilder};
use parquet::file::reader::ChunkReader;
use sluicebox_actors::model::fault::{Fault, Kind, Result};

use super::sources::cannot_read;

/// Rows a batch at most.
pub const BATCH_ROWS: usize = 8192;
/// The longest line of an NDJSON file in bytes: a record of 10 MiB in base64 with everything around it.
pub const LINE_MAX: u64 = 64 << 20;

/// How a file is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// Apache Parquet.
    Parquet,
    /// One JSON object a line.
    Ndjson,
    /// The same under gzip.
    NdjsonGz,
}

impl Format {
    /// By the file's name; none of ours otherwise.
    pub fn of(name: &str) -> Option<Self> {
        if name.ends_with(".parquet") {
            Some(Self::Parquet)
        } else if name.ends_with(".ndjson") {
            Some(Self::Ndjson)
        } else if name.ends_with(".ndjson.gz") {
            Some(Self::NdjsonGz)
        } else {
            None
        }
    }
}

/// Batches of one file.
pub type Batches = Box<dyn Iterator<Item = Result<RecordBatch>> + Send>;

/// Opens a file and reads the columns of `wanted`, in that order: a column the file does not have is null, one of another type
/// is cast. A file without a known extension is `Corrupt`.
pub fn open(path: &Path, wanted: &SchemaRef) -> Result<Batches> {
    let name = path.to_string_lossy().into_owned();
    match Format::of(&name) {
        Some(Format::Parquet) => parquet(open_file(path)?, &name, Some(wanted)),
        Some(Format::Ndjson) => json(BufReader::with_capacity(1 << 18, open_file(path)?), name, wanted),
        Some(Format::NdjsonGz) => {
            json(BufReader::with_capacity(1 << 18, flate2::read::MultiGzDecoder::new(open_file(path)?)), name, wanted)
        }
        None => Err(unknown(&name)),
    }
}

/// Opens a Parquet file and reads all of its columns as they are.
pub fn open_parquet(path: &Path) -> Result<Batches> {
    parquet(open_file(path)?, &path.to_string_lossy(), None)
}

/// Reads an object that is in memory: Parquet by its magic, else NDJSON, for which the columns must be known.
pub fn decode(data: bytes::Bytes, name: &str, wanted: Option<&SchemaRef>) -> Result<Batches> {
    if data.starts_with(b"PAR1") {
        return parquet(data, name, wanted);
    }
    match wanted {
        Some(wanted) => json(io::Cursor::new(data), name.to_owned(), wanted),
        None => Err(Fault::config(format!("{name} is not Parquet, and the pipeline file does not say what its columns are"))),
    }
}

/// The columns of a Parquet object in memory.
pub fn decode_schema(data: &bytes::Bytes, name: &str) -> Result<SchemaRef> {
    if !data.starts_with(b"PAR1") {
        return Err(Fault::config(format!("{name} is not Parquet, and the pipeline file does not say what its columns are")));
    }
    let metadata = guarded(name, || ArrowReaderMetadata::load(data, Default::default()).map_err(|error| damaged(name, &error)))?;
    Ok(metadata.schema().clone())
}

/// The columns of a Parquet file and the number of its rows.
pub fn parquet_shape(path: &Path) -> Result<(SchemaRef, u64)> {
    let name = path.to_string_lossy();
    let file = open_file(path)?;
    let metadata =
        guarded(&name, || ArrowReaderMetadata::load(&file, Default::default()).map_err(|error| damaged(&name, &error)))?;
    let rows = metadata.metadata().file_metadata().num_rows();
    Ok((metadata.schema().clone(), u64::try_from(rows).unwrap_or(0)))
}

/// Number of rows of a file: from the footer of a Parquet file, else its lines.
pub fn count_rows(path: &Path) -> Result<u64> {
    let name = path.to_string_lossy();
    match Format::of(&name) {
        Some(Format::Parquet) => Ok(parquet_shape(path)?.1),
        Some(Format::Ndjson | Format::NdjsonGz) => {
            let mut lines = 0;
            each_line(path, &mut |_| {
                lines += 1;
                Ok(true)
            })?;
            Ok(lines)
        }
        None => Err(unknown(&name)),
    }
}

/// Calls `with` for every line of an NDJSON file that isn't empty, until it returns false. One line is in memory at a time.
pub fn each_line(path: &Path, with: &mut dyn FnMut(&[u8]) -> Result<bool>) -> Result<()> {
    let name = path.to_string_lossy();
    let file = open_file(path)?;
    let mut reader: Box<dyn BufRead> = match Format::of(&name) {
        Some(Format::NdjsonGz) => Box::new(BufReader::new(flate2::read::MultiGzDecoder::new(file))),
        Some(Format::Ndjson | Format::Parquet) | None => Box::new(BufReader::with_capacity(1 << 18, file)),
    };
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = reader.by_ref().take(LINE_MAX).read_until(b'\n', &mut line).map_err(|error| cannot_read(&name, &error))?;
        if read == 0 {
            return Ok(());
        }
        if read as u64 == LINE_MAX {
            return Err(Fault::corrupt(format!("{name} has a line over 64 MiB: it is none of ours")));
        }
        let text = line.strip_suffix(b"\n").unwrap_or(&line);
        if !text.is_empty() && !with(text)? {
            return Ok(());
        }
    }
}

/// Fits a batch to a schema by column name.
pub fn fitted(batch: &RecordBatch, wanted: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let columns = wanted
        .fields()
        .iter()
        .map(|field| match batch.column_by_name(field.name()) {
            None => Ok(new_null_array(field.data_type(), batch.num_rows())),
            Some(column) if column.data_type() == field.data_type() => Ok(column.clone()),
            Some(column) => cast(column, field.data_type()),
        })
        .collect::<Result<Vec<ArrayRef>, ArrowError>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(wanted.clone(), columns, &options)
}

/// The same columns, each of them nullable: a file written before a column existed reads as null there.
pub fn nullable(schema: &Schema) -> SchemaRef {
    Arc::new(Schema::new(schema.fields().iter().map(|field| field.as_ref().clone().with_nullable(true)).collect::<Vec<_>>()))
}

/// The reader of Parquet panics on some damaged files (seen in parquet 59.3 on flipped bits of a footer): that is damage of this
/// file, not a bug of ours, and no reason to look at no other file.
fn guarded<T>(name: &str, read: impl FnOnce() -> Result<T>) -> Result<T> {
    let damage = |_| Fault::corrupt(format!("{name} cannot be decoded: its reader panicked; `audit` says which epoch wrote it"));
    catch_unwind(AssertUnwindSafe(read)).map_err(damage)?
}

fn parquet(file: impl ChunkReader + 'static, name: &str, wanted: Option<&SchemaRef>) -> Result<Batches> {
    let mut batches = Some(guarded(name, || parquet_batches(file, name, wanted))?);
    let name = name.to_owned();
    Ok(Box::new(std::iter::from_fn(move || {
        let next = guarded(&name, || batches.as_mut().and_then(Iterator::next).transpose());
        if next.is_err() {
            batches = None;
        }
        next.transpose()
    })))
}

fn parquet_batches(file: impl ChunkReader + 'static, name: &str, wanted: Option<&SchemaRef>) -> Result<Batches> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| damaged(name, &error))?;
    let mask = match wanted {
        None => ProjectionMask::all(),
        Some(wanted) => {
            let has = |index: &usize| wanted.column_with_name(builder.schema().field(*index).name()).is_some();
            ProjectionMask::roots(builder.parquet_schema(), (0..builder.schema().fields().len()).filter(has))
        }
    };
    let reader = builder.with_projection(mask).with_batch_size(BATCH_ROWS).build().map_err(|error| damaged(name, &error))?;
    let (name, wanted) = (name.to_owned(), wanted.cloned());
    Ok(Box::new(reader.map(move |batch| {
        batch
            .and_then(|batch| match &wanted {
                Some(wanted) => fitted(&batch, wanted),
                None => Ok(batch),
            })
            .map_err(|error| damaged(&name, &error))
    })))
}

fn json(reader: impl BufRead + Send + 'static, name: String, wanted: &SchemaRef) -> Result<Batches> {
    let reader = arrow::json::ReaderBuilder::new(wanted.clone())
        .with_batch_size(BATCH_ROWS)
        .build(reader)
        .map_err(|error| damaged(&name, &error))?;
    Ok(Box::new(reader.map(move |batch| batch.map_err(|error| damaged(&name, &error)))))
}

fn open_file(path: &Path) -> Result<File> {
    File::open(path).map_err(|error| vanished_or(path, &error))
}

/// A missing file is a fault of its own: whoever listed the folder may list it again.
fn vanished_or(path: &Path, error: &io::Error) -> Fault {
    if error.kind() == io::ErrorKind::NotFound {
        return Fault::retry(format!("{VANISHED}: {}", path.display()));
    }
    cannot_read(&path.to_string_lossy(), error)
}

const VANISHED: &str = "a file was removed while it was read";

/// Was this file there when the folder was listed and gone when it was opened?
pub fn is_vanished(fault: &Fault) -> bool {
    fault.kind() == Kind::Retry && fault.message().starts_with(VANISHED)
}

fn damaged(name: &str, error: &dyn std::error::Error) -> Fault {
    Fault::caused(Kind::Corrupt, format!("{name} cannot be decoded; `audit` says which epoch wrote it"), error)
}

fn unknown(name: &str) -> Fault {
    Fault::corrupt(format!("{name} is neither .parquet, .ndjson nor .ndjson.gz"))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use arrow::array::{Int64Array, StringArray};
    use arrow::datatypes::{DataType, Field};
    use parquet::arrow::ArrowWriter;

    use super::*;

    fn wanted() -> SchemaRef {
        Arc::new(Schema::new(vec![
            Field::new("text", DataType::Utf8, true),
            Field::new("later", DataType::Utf8, true),
            Field::new("number", DataType::Int64, true),
        ]))
    }

    fn check(path: &Path) {
        let batches: Vec<RecordBatch> = open(path, &wanted()).unwrap().map(Result::unwrap).collect();
        assert_eq!(batches.len(), 1);
        assert_eq!(batches[0].schema(), wanted());
        assert_eq!(batches[0].column(0).as_ref(), &StringArray::from(vec!["a", "b"]));
        assert_eq!(batches[0].column(1).null_count(), 2);
        assert_eq!(batches[0].column(2).as_ref(), &Int64Array::from(vec![1, 2]));
        assert_eq!(count_rows(path).unwrap(), 2);
    }

    #[test]
    fn each_format_gives_the_wanted_columns_and_nulls_for_missing_ones() {
        let folder = tempfile::tempdir().unwrap();
        let schema = Arc::new(Schema::new(vec![
            Field::new("number", DataType::Int32, false),
            Field::new("unwanted", DataType::Int32, false),
            Field::new("text", DataType::Utf8, false),
        ]));
        let numbers: ArrayRef = Arc::new(arrow::array::Int32Array::from(vec![1, 2]));
        let columns = vec![numbers.clone(), numbers, Arc::new(StringArray::from(vec!["a", "b"]))];
        let batch = RecordBatch::try_new(schema.clone(), columns).unwrap();
        let path = folder.path().join("x.parquet");
        let mut writer = ArrowWriter::try_new(File::create(&path).unwrap(), schema, None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        check(&path);

        let lines = "{\"text\":\"a\",\"number\":1}\n\n{\"number\":2,\"unwanted\":0,\"text\":\"b\"}\n";
        let path = folder.path().join("x.ndjson");
        std::fs::write(&path, lines).unwrap();
        check(&path);
        let path = folder.path().join("x.ndjson.gz");
        let mut gz = flate2::write::GzEncoder::new(File::create(&path).unwrap(), flate2::Compression::fast());
        gz.write_all(lines.as_bytes()).unwrap();
        gz.finish().unwrap();
        check(&path);
    }

    #[test]
    fn however_a_parquet_file_is_damaged_it_is_read_or_it_is_corrupt() {
        let folder = tempfile::tempdir().unwrap();
        let schema = Arc::new(Schema::new(vec![Field::new("text", DataType::Utf8, false)]));
        let batch = RecordBatch::try_new(schema.clone(), vec![Arc::new(StringArray::from(vec!["a", "b"]))]).unwrap();
        let path = folder.path().join("x.parquet");
        let mut writer = ArrowWriter::try_new(File::create(&path).unwrap(), schema, None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        let good = std::fs::read(&path).unwrap();
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[at] ^= 1 << bit;
                std::fs::write(&path, &bad).unwrap();
                let read: Result<Vec<RecordBatch>> = open_parquet(&path).and_then(Iterator::collect);
                let shape = parquet_shape(&path);
                for fault in [read.err(), shape.err()].into_iter().flatten() {
                    assert_eq!(fault.kind(), Kind::Corrupt, "byte {at}, bit {bit}: {fault}");
                }
            }
        }
    }

    #[test]
    fn a_damaged_file_is_corrupt_and_a_missing_one_has_vanished() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.parquet");
        let fault = open(&path, &wanted()).err().unwrap();
        assert!(is_vanished(&fault), "{fault}");
        std::fs::write(&path, b"PAR1 not really").unwrap();
        let fault = open(&path, &wanted()).err().unwrap();
        assert_eq!((fault.kind(), is_vanished(&fault)), (Kind::Corrupt, false));
        let path = folder.path().join("x.csv");
        std::fs::write(&path, b"a,b").unwrap();
        assert_eq!(open(&path, &wanted()).err().unwrap().kind(), Kind::Corrupt);
    }
}
