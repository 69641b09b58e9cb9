//! Results on stdout: tables for people, JSON lines and CSV for programs.
//!
//! Owns: the three formats, alignment, human units, cells that a spreadsheet would run. Does not own: what is printed (cli,
//! read), errors and progress on stderr.

use std::io::{self, Write};

use comfy_table::{Attribute, Cell as TableCell, CellAlignment, ContentArrangement, LineStyle, TableStyle};
use sluicebox_actors::model::fault::Fault;

pub mod batches;
pub mod human;

pub use batches::BatchPrinter;

/// One rule under the header and no other lines: easy to read, easy to cut.
const STYLE: TableStyle = TableStyle::new().header_separator(LineStyle::none().fill('─').junction('─'));

/// How rows are printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub enum Format {
    /// Aligned columns, human units.
    #[default]
    Table,
    /// One JSON object a line, exact values.
    Json,
    /// RFC 4180 with a header, exact values.
    Csv,
}

/// One value of a row.
#[derive(Clone, PartialEq, Debug)]
pub enum Cell {
    /// Nothing.
    Null,
    /// Text.
    Text(String),
    /// A name, a state, a sequence number: text that is never changed, also not against formulas.
    Token(String),
    /// A count: separators between thousands.
    Count(u64),
    /// A difference: as a count, with its sign.
    Delta(i64),
    /// A number.
    Real(f64),
    /// A share from 0 to 1: per cent for people.
    Share(f64),
    /// Yes or no.
    Flag(bool),
    /// Bytes: binary units for people.
    Bytes(u64),
    /// A length of time in microseconds: one or two units for people, seconds for programs.
    Lapse(i64),
    /// A point in time in microseconds since 1970: RFC 3339 in UTC.
    Time(i64),
}

impl<T: Into<Cell>> From<Option<T>> for Cell {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<u64> for Cell {
    fn from(count: u64) -> Self {
        Self::Count(count)
    }
}

impl From<bool> for Cell {
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}

/// Rows under named columns.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Table {
    columns: Vec<String>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// An empty table.
    pub fn new<'a>(columns: impl IntoIterator<Item = &'a str>) -> Self {
        Self { columns: columns.into_iter().map(str::to_owned).collect(), rows: Vec::new() }
    }

    /// Adds a row; missing cells are null, cells beyond the columns are dropped.
    pub fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        let mut row: Vec<Cell> = cells.into_iter().take(self.columns.len()).collect();
        row.resize(self.columns.len(), Cell::Null);
        self.rows.push(row);
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// No rows?
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

/// Where results go, and how.
pub struct Output {
    sink: Box<dyn Write + Send>,
    format: Format,
    colour: bool,
    width: Option<u16>,
}

impl Output {
    /// Prints to any writer. Lines are broken to `width` columns where one is given; without it they are as long as they are.
    pub fn new(sink: Box<dyn Write + Send>, format: Format, colour: bool, width: Option<u16>) -> Self {
        Self { sink, format, colour, width }
    }

    /// The format.
    pub fn format(&self) -> Format {
        self.format
    }

    /// A sentence for people: left out of JSON and CSV.
    pub fn note(&mut self, text: &str) -> io::Result<()> {
        match self.format {
            Format::Table => {
                writeln!(self.sink, "{text}")?;
                self.sink.flush()
            }
            Format::Json | Format::Csv => Ok(()),
        }
    }

    /// Bytes as they are, such as a dead letter's record.
    pub fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.sink.write_all(bytes)?;
        self.sink.flush()
    }

    /// Rows.
    pub fn table(&mut self, table: &Table) -> io::Result<()> {
        match self.format {
            Format::Table => {
                let right = |at: usize| table.rows.iter().any(|row| row[at].is_number());
                let right: Vec<bool> = (0..table.columns.len()).map(right).collect();
                let rows = table.rows.iter().map(|row| row.iter().map(Cell::human).collect()).collect();
                self.aligned(&table.columns, &right, rows)?;
            }
            Format::Json => {
                for row in &table.rows {
                    self.json_line(table.columns.iter().zip(row))?;
                }
            }
            Format::Csv => {
                let mut writer = csv::Writer::from_writer(&mut self.sink);
                writer.write_record(table.columns.iter().map(|name| defused(name).into_owned()))?;
                for row in &table.rows {
                    writer.write_record(row.iter().map(Cell::csv))?;
                }
                writer.flush()?;
            }
        }
        self.sink.flush()
    }

    fn json_line<'a>(&mut self, members: impl Iterator<Item = (&'a String, &'a Cell)>) -> io::Result<()> {
        // Written member by member, so that the order is the table's.
        self.sink.write_all(b"{")?;
        for (n, (name, cell)) in members.enumerate() {
            let comma = if n == 0 { "" } else { "," };
            write!(self.sink, "{comma}{}:{}", serde_json::Value::from(name.as_str()), cell.json())?;
        }
        self.sink.write_all(b"}\n")
    }

    fn aligned(&mut self, columns: &[String], right: &[bool], rows: Vec<Vec<String>>) -> io::Result<()> {
        let mut table = comfy_table::Table::new();
        table.load_style(STYLE);
        if self.colour {
            table.enforce_styling()
        } else {
            table.force_no_tty()
        };
        if let Some(width) = self.width {
            table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
        }
        table.set_header(columns.iter().map(|name| TableCell::new(name).add_attribute(Attribute::Bold)));
        for row in rows {
            table.add_row(row.into_iter().map(TableCell::new_owned).collect::<Vec<_>>());
        }
        for (at, _) in right.iter().enumerate().filter(|(_, right)| **right) {
            if let Some(column) = table.column_mut(at) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        for line in table.lines() {
            writeln!(self.sink, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// What a failed write means: a reader that went away is the end of the work, not a fault of ours.
pub fn fault(error: &io::Error) -> Fault {
    Fault::caused(sluicebox_actors::model::fault::Kind::Retry, "results could not be written", error)
}

/// Text that a spreadsheet would take for a formula gets an apostrophe in front.
fn defused(text: &str) -> std::borrow::Cow<'_, str> {
    if text.starts_with(['=', '+', '-', '@', '\t', '\r']) { format!("'{text}").into() } else { text.into() }
}

impl Cell {
    fn is_number(&self) -> bool {
        match self {
            Self::Null | Self::Text(_) | Self::Token(_) | Self::Flag(_) | Self::Time(_) => false,
            Self::Count(_) | Self::Delta(_) | Self::Real(_) | Self::Share(_) | Self::Bytes(_) | Self::Lapse(_) => true,
        }
    }

    fn human(&self) -> String {
        match self {
            Self::Null => "-".to_owned(),
            Self::Text(text) | Self::Token(text) => human::printable(text),
            Self::Count(count) => human::count(*count),
            Self::Delta(delta) => human::delta(*delta),
            Self::Real(number) => human::real(*number),
            Self::Share(share) => format!("{:.1} %", share * 100.0),
            Self::Flag(flag) => if *flag { "yes" } else { "no" }.to_owned(),
            Self::Bytes(bytes) => human::bytes(*bytes),
            Self::Lapse(us) => human::lapse(*us),
            Self::Time(us) => human::time(*us),
        }
    }

    fn json(&self) -> serde_json::Value {
        match self {
            Self::Null => serde_json::Value::Null,
            Self::Text(text) | Self::Token(text) => text.as_str().into(),
            Self::Count(count) | Self::Bytes(count) => (*count).into(),
            Self::Delta(delta) => (*delta).into(),
            Self::Real(number) | Self::Share(number) => (*number).into(),
            Self::Flag(flag) => (*flag).into(),
            Self::Lapse(us) => (*us as f64 / 1e6).into(),
            Self::Time(us) => human::time(*us).into(),
        }
    }

    fn csv(&self) -> String {
        match self {
            Self::Null => String::new(),
            Self::Text(text) => defused(text).into_owned(),
            Self::Token(text) => text.clone(),
            Self::Count(count) | Self::Bytes(count) => count.to_string(),
            Self::Delta(delta) => delta.to_string(),
            Self::Real(number) | Self::Share(number) => number.to_string(),
            Self::Flag(flag) => flag.to_string(),
            Self::Lapse(us) => (*us as f64 / 1e6).to_string(),
            Self::Time(us) => human::time(*us),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// A writer whose content can be looked at afterwards.
    #[derive(Clone, Default)]
    pub(crate) struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Shared {
        pub(crate) fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn printed(format: Format, colour: bool) -> String {
        let shared = Shared::default();
        let mut table = Table::new(["name", "count", "size", "age", "at"]);
        table.row([Cell::from("=1+1"), Cell::Count(1_234_567), Cell::Bytes(3 << 20), Cell::Lapse(90_500_000), Cell::Time(0)]);
        table.row([Cell::from("a\"b,\u{1b}[31m"), Cell::Delta(-5)]);
        let mut output = Output::new(Box::new(shared.clone()), format, colour, None);
        output.note("two rows").unwrap();
        output.table(&table).unwrap();
        shared.text()
    }

    #[test]
    fn a_table_is_aligned_in_human_units_and_cannot_steer_the_terminal() {
        let text = printed(Format::Table, false);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "two rows");
        assert!(text.contains("1,234,567") && text.contains("3.0 MiB") && text.contains("1m 30s"), "{text}");
        assert!(!text.contains('\u{1b}'), "{text}");
        let end = |line: &str, part: &str| line[..line.find(part).unwrap() + part.len()].chars().count();
        let first = lines.iter().find(|line| line.contains("1,234,567")).unwrap();
        let second = lines.iter().find(|line| line.contains("-5")).unwrap();
        assert_eq!(end(first, "1,234,567"), end(second, "-5"), "numbers end in one column:\n{text}");
    }

    #[test]
    fn colours_appear_only_when_asked_for() {
        assert!(printed(Format::Table, true).contains("\u{1b}[1m"));
        assert!(!printed(Format::Json, true).contains('\u{1b}'));
    }

    #[test]
    fn json_is_one_object_a_line_with_exact_values_in_column_order() {
        let text = printed(Format::Json, false);
        let first = r#"{"name":"=1+1","count":1234567,"size":3145728,"age":90.5,"at":"1970-01-01T00:00:00Z"}"#;
        assert_eq!(text.lines().next(), Some(first));
        assert_eq!(text.lines().count(), 2);
        let second: serde_json::Value = serde_json::from_str(text.lines().nth(1).unwrap()).unwrap();
        assert_eq!(second["count"], -5);
        assert_eq!(second["at"], serde_json::Value::Null);
    }

    #[test]
    fn csv_quotes_and_defuses_formulas_but_not_numbers() {
        let text = printed(Format::Csv, false);
        assert_eq!(
            text,
            "name,count,size,age,at\n'=1+1,1234567,3145728,90.5,1970-01-01T00:00:00Z\n\"a\"\"b,\u{1b}[31m\",-5,,,\n"
        );
    }
}
