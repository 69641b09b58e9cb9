//! Arrow batches as rows, streamed.
//!
//! Owns: the three formats for Arrow columns, in bounded memory. Does not own: where batches come from (read).

use std::io;

use arrow::array::{Array, RecordBatch};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::json::WriterBuilder;
use arrow::json::writer::LineDelimited;
use arrow::util::display::{ArrayFormatter, FormatOptions};

use super::{Format, Output, defused, human};

/// Rows that one aligned block may hold; a longer result is printed in several, each with its header.
const BLOCK_ROWS: usize = 10_000;

/// Prints batches of one schema, one after the other.
pub struct BatchPrinter<'a> {
    output: &'a mut Output,
    schema: SchemaRef,
    waiting: Vec<Vec<String>>,
    started: bool,
    rows: u64,
}

impl Output {
    /// Begins a result. Call [`BatchPrinter::finish`] at its end.
    pub fn batches(&mut self, schema: SchemaRef) -> BatchPrinter<'_> {
        BatchPrinter { output: self, schema, waiting: Vec::new(), started: false, rows: 0 }
    }
}

impl BatchPrinter<'_> {
    /// Prints the rows of one batch, or keeps them until a block is full.
    pub fn print(&mut self, batch: &RecordBatch) -> io::Result<()> {
        self.rows += batch.num_rows() as u64;
        match self.output.format {
            Format::Table => {
                let rows = texts(batch, "-", human::printable)?;
                self.waiting.extend(rows);
                if self.waiting.len() >= BLOCK_ROWS {
                    self.block()?;
                }
                Ok(())
            }
            Format::Json => {
                let builder = WriterBuilder::new().with_explicit_nulls(true);
                let mut writer = builder.build::<_, LineDelimited>(&mut self.output.sink);
                writer.write(batch).and_then(|()| writer.finish()).map_err(io::Error::other)
            }
            Format::Csv => {
                let is_text = text_columns(&self.schema);
                let mut writer = csv::Writer::from_writer(&mut self.output.sink);
                if !self.started {
                    self.started = true;
                    writer.write_record(self.schema.fields().iter().map(|field| defused(field.name()).into_owned()))?;
                }
                for row in texts(batch, "", str::to_owned)? {
                    writer.write_record(row.iter().zip(&is_text).map(|(text, is_text)| match is_text {
                        true => defused(text).into_owned(),
                        false => text.clone(),
                    }))?;
                }
                writer.flush()
            }
        }
    }

    /// Prints what is left; the number of rows in all. An empty table still shows its columns.
    pub fn finish(mut self) -> io::Result<u64> {
        match self.output.format {
            Format::Table if !self.waiting.is_empty() || self.rows == 0 => self.block()?,
            Format::Csv if !self.started => self.print(&RecordBatch::new_empty(self.schema.clone()))?,
            Format::Table | Format::Json | Format::Csv => {}
        }
        io::Write::flush(&mut self.output.sink)?;
        Ok(self.rows)
    }

    fn block(&mut self) -> io::Result<()> {
        let columns: Vec<String> = self.schema.fields().iter().map(|field| human::printable(field.name())).collect();
        let right: Vec<bool> = self.schema.fields().iter().map(|field| field.data_type().is_numeric()).collect();
        self.output.aligned(&columns, &right, std::mem::take(&mut self.waiting))
    }
}

fn text_columns(schema: &SchemaRef) -> Vec<bool> {
    let is_plain = |kind: &DataType| kind.is_numeric() || kind.is_temporal() || *kind == DataType::Boolean;
    schema.fields().iter().map(|field| !is_plain(field.data_type())).collect()
}

fn texts(batch: &RecordBatch, null: &str, clean: fn(&str) -> String) -> io::Result<Vec<Vec<String>>> {
    let options = FormatOptions::default();
    let formatters = batch.columns().iter().map(|column| ArrayFormatter::try_new(column.as_ref(), &options));
    let formatters: Vec<ArrayFormatter<'_>> = formatters.collect::<Result<_, _>>().map_err(io::Error::other)?;
    let cell = |at: usize, formatter: &ArrayFormatter<'_>, column: &dyn Array| match column.is_null(at) {
        true => Ok(null.to_owned()),
        false => formatter.value(at).try_to_string().map(|text| clean(&text)).map_err(io::Error::other),
    };
    (0..batch.num_rows())
        .map(|at| {
            formatters.iter().zip(batch.columns()).map(|(formatter, column)| cell(at, formatter, column.as_ref())).collect()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Decimal128Array, Int64Array, StringArray, TimestampMicrosecondArray};

    use super::super::tests::Shared;
    use super::*;

    fn batch() -> RecordBatch {
        let time = TimestampMicrosecondArray::from(vec![Some(1_420_070_400_000_000), None]).with_timezone("UTC");
        let money = Decimal128Array::from(vec![Some(1_999), Some(-5)]).with_precision_and_scale(18, 2).unwrap();
        RecordBatch::try_from_iter([
            ("at", Arc::new(time) as arrow::array::ArrayRef),
            ("name", Arc::new(StringArray::from(vec![Some("-x"), Some("b\u{1b}")]))),
            ("n", Arc::new(Int64Array::from(vec![Some(-5), Some(123_456)]))),
            ("money", Arc::new(money)),
        ])
        .unwrap()
    }

    fn printed(format: Format, batches: &[RecordBatch]) -> (String, u64) {
        let shared = Shared::default();
        let mut output = Output::new(Box::new(shared.clone()), format, false, None);
        let mut printer = output.batches(batch().schema());
        for batch in batches {
            printer.print(batch).unwrap();
        }
        let rows = printer.finish().unwrap();
        (shared.text(), rows)
    }

    #[test]
    fn csv_has_one_header_for_all_batches_and_defuses_text_only() {
        let (text, rows) = printed(Format::Csv, &[batch(), batch()]);
        let body = "2015-01-01T00:00:00Z,'-x,-5,19.99\n,b\u{1b},123456,-0.05\n";
        assert_eq!(text, format!("at,name,n,money\n{body}{body}"));
        assert_eq!(rows, 4);
        assert_eq!(printed(Format::Csv, &[]).0, "at,name,n,money\n");
    }

    #[test]
    fn json_is_one_object_a_line_with_explicit_nulls() {
        let (text, _) = printed(Format::Json, &[batch()]);
        let rows: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[0]["n"], -5);
        assert!(rows[1]["at"].is_null() && rows[1].get("at").is_some());
        assert_eq!(printed(Format::Json, &[]).0, "");
    }

    #[test]
    fn a_table_aligns_across_batches_and_shows_columns_of_an_empty_result() {
        let (text, rows) = printed(Format::Table, &[batch(), batch()]);
        assert_eq!(rows, 4);
        assert_eq!(text.matches("money").count(), 1, "one header:\n{text}");
        assert!(text.contains("b\\u{1b}") && !text.contains('\u{1b}'), "{text}");
        assert!(printed(Format::Table, &[]).0.contains("money"));
    }
}
