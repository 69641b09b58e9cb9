//! CSV with a header, row by row into JSON objects.
//!
//! Keys stand in the header's order. Cells of number columns become JSON numbers when their text is one, cells of boolean columns
//! `true` or `false`; their empty cells are `null`. Every other cell is a string, an empty one `""`. What can't be such an
//! object (another number of cells than the header, broken quoting, not UTF-8) is given as its raw line, so that the pipeline
//! judges it and keeps it whole.
//!
//! Quoting is RFC 4180, strictly: a quote opens a cell only as its first character, and behind the closing quote stands a comma
//! or the end. So a stray quote costs its own line instead of swallowing the rest of the file.
//!
//! Owns: the grammar and the translation. Does not own: which columns are numbers (the caller knows the contract).

use std::collections::{HashSet, VecDeque};
use std::io;

use bytes::{BufMut, Bytes, BytesMut};

use super::lines::{Line, Lines, bare};

// A cell may hold line ends; a row that is still open after this much was opened by a stray quote.
const ROW_MAX: usize = 1 << 20;

/// Columns whose cells aren't strings, by name.
#[derive(Clone, Default, Debug)]
pub struct CsvColumns {
    /// Written as JSON numbers.
    pub numbers: HashSet<String>,
    /// Written as `true` and `false`, whatever their case.
    pub booleans: HashSet<String>,
}

#[derive(Clone, Copy)]
enum Kind {
    Text,
    Number,
    Boolean,
}

struct Column {
    // `{"name":` or `,"name":`
    prefix: Vec<u8>,
    kind: Kind,
}

/// One row as a record.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Row {
    /// The record and the number of the line it began on.
    Record(Bytes, u64),
    /// Only a line end.
    Empty,
    /// A line longer than a record may be.
    TooLong(u64),
}

/// Rows of one file.
pub(super) struct Rows {
    lines: Lines,
    columns: Vec<Column>,
    // Lines that a row which never closed had taken.
    again: VecDeque<(Line, u64)>,
    cells: Cells,
    out: BytesMut,
}

impl Rows {
    /// Reads the header; the inner error says what is wrong with it. A file without a line has no rows.
    pub(super) fn open(mut lines: Lines, typed: &CsvColumns) -> io::Result<Result<Self, String>> {
        let mut cells = Cells::default();
        let mut columns = Vec::new();
        match lines.next()? {
            None => {}
            Some(Line::TooLong) => return Ok(Err("the header is longer than 10 MiB".to_owned())),
            Some(Line::Text(line)) => {
                cells.line(&bare(&line));
                if cells.state != State::Between {
                    return Ok(Err("the header's quotes don't match: it must be one line of names".to_owned()));
                }
                match header(&cells, typed) {
                    Ok(header) => columns = header,
                    Err(what) => return Ok(Err(what)),
                }
            }
        }
        Ok(Ok(Self { lines, columns, again: VecDeque::new(), cells, out: BytesMut::new() }))
    }

    pub(super) fn lines(&self) -> &Lines {
        &self.lines
    }

    /// Another row can be had without reading (or needs more than one line).
    pub(super) fn is_ready(&self) -> bool {
        !self.again.is_empty() || self.lines.is_ready()
    }

    /// The next row; none at the end.
    pub(super) fn next(&mut self) -> io::Result<Option<Row>> {
        let Some((line, number)) = self.next_line()? else { return Ok(None) };
        let first = match line {
            Line::Text(text) => text,
            Line::TooLong => return Ok(Some(Row::TooLong(number))),
        };
        let text = bare(&first);
        if text.is_empty() {
            return Ok(Some(Row::Empty));
        }
        self.cells.clear();
        self.cells.line(&text);
        if self.cells.state == State::Quoted {
            self.close_quote(&first)?;
        }
        let object = if self.cells.state == State::Between { self.object() } else { None };
        Ok(Some(Row::Record(object.unwrap_or(text), number)))
    }

    // Takes further lines until the open cell closes. If it doesn't, they are given back and the first line stands alone.
    fn close_quote(&mut self, first: &Bytes) -> io::Result<()> {
        let mut len = first.len();
        let mut windows = first.ends_with(b"\r");
        let mut taken: Vec<(Line, u64)> = Vec::new();
        while self.cells.state == State::Quoted && len <= ROW_MAX {
            // The line end is part of the cell, as it was written.
            self.cells.text.extend_from_slice(if windows { b"\r\n" } else { b"\n" });
            match self.next_line()? {
                None => break,
                Some((Line::TooLong, number)) => {
                    taken.push((Line::TooLong, number));
                    break;
                }
                Some((Line::Text(text), number)) => {
                    len += text.len() + 1;
                    windows = text.ends_with(b"\r");
                    self.cells.line(&bare(&text));
                    taken.push((Line::Text(text), number));
                }
            }
        }
        if self.cells.state != State::Between || self.cells.ends.len() != self.columns.len() {
            self.cells.state = State::Broken;
            taken.into_iter().rev().for_each(|line| self.again.push_front(line));
        }
        Ok(())
    }

    fn next_line(&mut self) -> io::Result<Option<(Line, u64)>> {
        if let Some(line) = self.again.pop_front() {
            return Ok(Some(line));
        }
        Ok(self.lines.next()?.map(|line| (line, self.lines.number())))
    }

    fn object(&mut self) -> Option<Bytes> {
        if self.cells.ends.len() != self.columns.len() {
            return None;
        }
        let text = std::str::from_utf8(&self.cells.text).ok()?;
        let mut start = 0;
        for (column, end) in self.columns.iter().zip(&self.cells.ends) {
            // Cells end at character borders: what separates them is ASCII, and the whole is UTF-8 only if each cell is.
            let Some(cell) = text.get(start..*end) else {
                self.out.clear();
                return None;
            };
            self.out.extend_from_slice(&column.prefix);
            write_cell(&mut self.out, column.kind, cell);
            start = *end;
        }
        self.out.put_u8(b'}');
        Some(self.out.split().freeze())
    }
}

fn header(cells: &Cells, typed: &CsvColumns) -> Result<Vec<Column>, String> {
    let mut seen = HashSet::new();
    let mut columns = Vec::new();
    let mut start = 0;
    for (i, end) in cells.ends.iter().enumerate() {
        let name = cells.text.get(start..*end).and_then(|name| std::str::from_utf8(name).ok());
        let name = name.map(str::trim).ok_or_else(|| format!("the name of column {} is not UTF-8", i + 1))?;
        if name.is_empty() {
            return Err(format!("column {} has no name: name it, or use --format lines", i + 1));
        }
        if !seen.insert(name.to_owned()) {
            return Err(format!("column {} has the name of an earlier one: rename it", i + 1));
        }
        let mut prefix = BytesMut::new();
        prefix.put_u8(if i == 0 { b'{' } else { b',' });
        write_string(&mut prefix, name);
        prefix.put_u8(b':');
        let kind = if typed.numbers.contains(name) {
            Kind::Number
        } else if typed.booleans.contains(name) {
            Kind::Boolean
        } else {
            Kind::Text
        };
        columns.push(Column { prefix: prefix.to_vec(), kind });
        start = *end;
    }
    Ok(columns)
}

fn write_cell(out: &mut BytesMut, kind: Kind, cell: &str) {
    match kind {
        Kind::Number | Kind::Boolean if cell.is_empty() => out.extend_from_slice(b"null"),
        Kind::Number if is_number(cell.as_bytes()) => out.extend_from_slice(cell.as_bytes()),
        Kind::Boolean if cell.eq_ignore_ascii_case("true") => out.extend_from_slice(b"true"),
        Kind::Boolean if cell.eq_ignore_ascii_case("false") => out.extend_from_slice(b"false"),
        Kind::Text | Kind::Number | Kind::Boolean => write_string(out, cell),
    }
}

fn write_string(out: &mut BytesMut, text: &str) {
    out.put_u8(b'"');
    let mut rest = text.as_bytes();
    while let Some(at) = rest.iter().position(|byte| *byte < 0x20 || matches!(byte, b'"' | b'\\')) {
        out.extend_from_slice(&rest[..at]);
        match rest[at] {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            control => {
                out.extend_from_slice(b"\\u00");
                out.put_u8(b"01"[usize::from(control >> 4)]);
                out.put_u8(b"0123456789abcdef"[usize::from(control & 15)]);
            }
        }
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
    out.put_u8(b'"');
}

/// The grammar of a JSON number.
fn is_number(text: &[u8]) -> bool {
    let digits = |text: &[u8]| text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let mut rest = text.strip_prefix(b"-").unwrap_or(text);
    let whole = digits(rest);
    if whole == 0 || (whole > 1 && rest[0] == b'0') {
        return false;
    }
    rest = &rest[whole..];
    if let Some(fraction) = rest.strip_prefix(b".") {
        let len = digits(fraction);
        if len == 0 {
            return false;
        }
        rest = &fraction[len..];
    }
    if let [b'e' | b'E', exponent @ ..] = rest {
        let exponent = exponent.strip_prefix(b"+").or_else(|| exponent.strip_prefix(b"-")).unwrap_or(exponent);
        let len = digits(exponent);
        return len > 0 && len == exponent.len();
    }
    rest.is_empty()
}

/// Where the grammar stands at the end of a line.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
enum State {
    /// Outside of a quoted cell: the row is complete.
    #[default]
    Between,
    /// Inside of a quoted cell.
    Quoted,
    /// Something stands behind a closing quote.
    Broken,
}

/// The cells of a row, unquoted, behind one another.
#[derive(Default)]
struct Cells {
    text: Vec<u8>,
    ends: Vec<usize>,
    state: State,
}

impl Cells {
    fn clear(&mut self) {
        self.text.clear();
        self.ends.clear();
        self.state = State::Between;
    }

    /// Takes one line, from the start of a row or from inside of a quoted cell.
    fn line(&mut self, mut rest: &[u8]) {
        let mut inside = self.state == State::Quoted;
        loop {
            if !inside {
                match rest.strip_prefix(b"\"") {
                    Some(quoted) => rest = quoted,
                    None => {
                        let end = memchr::memchr(b',', rest);
                        self.text.extend_from_slice(&rest[..end.unwrap_or(rest.len())]);
                        self.ends.push(self.text.len());
                        match end {
                            None => return self.state = State::Between,
                            Some(end) => rest = &rest[end + 1..],
                        }
                        continue;
                    }
                }
            }
            inside = false;
            let Some(quote) = memchr::memchr(b'"', rest) else {
                self.text.extend_from_slice(rest);
                return self.state = State::Quoted;
            };
            self.text.extend_from_slice(&rest[..quote]);
            rest = &rest[quote + 1..];
            match rest.first() {
                Some(b'"') => {
                    self.text.push(b'"');
                    rest = &rest[1..];
                    inside = true;
                }
                Some(b',') => {
                    self.ends.push(self.text.len());
                    rest = &rest[1..];
                }
                None => {
                    self.ends.push(self.text.len());
                    return self.state = State::Between;
                }
                Some(_) => return self.state = State::Broken,
            }
        }
    }
}

/// Does the input begin like CSV? With names of letters, digits, `_`, `-`, `.` and spaces, at least two, all different, and a
/// second line with as many cells. The second line is waited for only if the first one is such a header.
pub(super) fn looks_like_csv(lines: &mut Lines) -> io::Result<bool> {
    let cells = |line: Option<&[u8]>| {
        let line = line?;
        let mut cells = Cells::default();
        cells.line(line.strip_suffix(b"\r").unwrap_or(line));
        (cells.state == State::Between).then_some(cells)
    };
    let Some(header) = cells(lines.peek(1)?.split(|byte| *byte == b'\n').next()) else { return Ok(false) };
    let mut names = HashSet::new();
    let mut start = 0;
    for end in &header.ends {
        let name = &header.text[start..*end];
        let fine = name.first().is_some_and(|byte| byte.is_ascii_alphabetic() || *byte == b'_')
            && name.iter().all(|byte| byte.is_ascii_alphanumeric() || b"_-. ".contains(byte));
        if !fine || !names.insert(name) {
            return Ok(false);
        }
        start = *end;
    }
    let row = if names.len() >= 2 { cells(lines.peek(2)?.split(|byte| *byte == b'\n').nth(1)) } else { None };
    Ok(row.is_some_and(|row| row.ends.len() == names.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn typed() -> CsvColumns {
        CsvColumns { numbers: HashSet::from(["n".to_owned()]), booleans: HashSet::from(["b".to_owned()]) }
    }

    fn open(data: &str) -> Result<Rows, String> {
        Rows::open(Lines::new(Box::new(io::Cursor::new(data.to_owned()))), &typed()).expect("reads")
    }

    fn rows(data: &str) -> Vec<String> {
        let mut rows = open(data).expect("a header");
        let next = || rows.next().expect("reads");
        std::iter::from_fn(next)
            .map(|row| match row {
                Row::Record(data, _) => String::from_utf8(data.to_vec()).expect("text"),
                Row::Empty => "empty".to_owned(),
                Row::TooLong(_) => "too long".to_owned(),
            })
            .collect()
    }

    #[test]
    fn keys_stand_in_header_order_and_typed_columns_become_numbers_and_booleans() {
        let data = "z,n,b,a\r\nx,1.50,TRUE,é\r\n,,,\n1,1.,no,\"say \"\"hi\"\"\"\n";
        assert_eq!(
            rows(data),
            [
                r#"{"z":"x","n":1.50,"b":true,"a":"é"}"#,
                r#"{"z":"","n":null,"b":null,"a":""}"#,
                r#"{"z":"1","n":"1.","b":"no","a":"say \"hi\""}"#,
            ]
        );
    }

    #[test]
    fn a_row_with_another_number_of_cells_stays_the_line_it_was() {
        assert_eq!(rows("a,c\n1\n1,2,3\n\n1,2"), ["1", "1,2,3", "empty", r#"{"a":"1","c":"2"}"#]);
    }

    #[test]
    fn a_quoted_cell_may_hold_commas_and_line_ends() {
        assert_eq!(rows("a,c\n\"1,\nx\r\n\",2\n3,4\n"), [r#"{"a":"1,\nx\r\n","c":"2"}"#, r#"{"a":"3","c":"4"}"#]);
        assert_eq!(rows("a,c\n\"\r\n\",2\n"), [r#"{"a":"\r\n","c":"2"}"#]);
    }

    #[test]
    fn a_stray_quote_costs_its_own_line_only() {
        let good = r#"{"a":"3","c":"4"}"#;
        assert_eq!(rows("a,c\n\"1,2\n3,4\n3,4\n"), ["\"1,2", good, good]);
        assert_eq!(rows("a,c\n\"1\"x,2\n3,4\n"), ["\"1\"x,2", good]);
        assert_eq!(rows("a,c\n\"1,2\n\"9,9\n3,4\n"), ["\"1,2", "\"9,9", good]);
        let long = format!("a,c\n\"1,2\n{}", "3,4\n".repeat(300_000));
        let read = rows(&long);
        assert_eq!((read.len(), &*read[0], &*read[1]), (300_001, "\"1,2", good));
    }

    #[test]
    fn lines_are_counted_from_the_header_on() {
        let mut rows = open("a,c\n\"1\n\",2\n\n3,4\n").expect("a header");
        let next = |rows: &mut Rows| rows.next().expect("reads");
        assert!(matches!(next(&mut rows), Some(Row::Record(_, 2))));
        assert_eq!(next(&mut rows), Some(Row::Empty));
        assert!(matches!(next(&mut rows), Some(Row::Record(_, 5))));
        assert_eq!(next(&mut rows), None);
    }

    #[test]
    fn a_header_without_names_or_with_one_twice_is_refused() {
        assert!(open("a,\n").err().expect("refused").contains("column 2 has no name"));
        assert!(open("a,c,a\n").err().expect("refused").contains("column 3"));
        assert!(open("a,\"c\n").err().expect("refused").contains("quotes"));
        assert_eq!(rows(""), [""; 0]);
    }

    #[test]
    fn what_is_not_text_stays_the_line_it_was() {
        let data = b"a,c\n1,\xff\n\xc3,\xa9\n3,4\n".to_vec();
        let mut rows = Rows::open(Lines::new(Box::new(io::Cursor::new(data))), &typed()).expect("reads").expect("a header");
        let mut next = || rows.next().expect("reads").expect("a row");
        assert_eq!(next(), Row::Record(Bytes::from_static(b"1,\xff"), 2));
        assert_eq!(next(), Row::Record(Bytes::from_static(b"\xc3,\xa9"), 3), "two halves of a letter are not text");
        assert_eq!(next(), Row::Record(Bytes::from_static(br#"{"a":"3","c":"4"}"#), 4));
    }

    #[test]
    fn json_and_prose_are_not_taken_for_csv() {
        let looks = |data: &str| looks_like_csv(&mut Lines::new(Box::new(io::Cursor::new(data.to_owned())))).expect("reads");
        assert!(looks("userId,amount\nx,1\n"));
        assert!(looks("\"user id\",amount\r\nx,\"1,5\"\r\n"));
        for other in
            ["{\"a\":1,\"b\":2}\n{\"a\":1,\"b\":2}\n", "one\ntwo\n", "yes, well\nno\n", "a,b", "a,a\n1,2\n", "1,2\n3,4\n", ""]
        {
            assert!(!looks(other), "{other}");
        }
    }

    proptest! {
        #[test]
        fn what_a_csv_writer_wrote_comes_back_cell_by_cell(
            table in proptest::collection::vec(proptest::collection::vec("[a-z\"é,\n\r ]{0,8}", 3), 1..8),
        ) {
            let mut writer = csv::Writer::from_writer(Vec::new());
            writer.write_record(["x", "y", "z"]).expect("writes");
            for row in &table {
                writer.write_record(row).expect("writes");
            }
            let data = String::from_utf8(writer.into_inner().expect("writes")).expect("text");
            let back: Vec<serde_json::Value> =
                rows(&data).iter().map(|row| serde_json::from_str(row).expect("an object")).collect();
            prop_assert_eq!(back.len(), table.len());
            for (object, row) in back.iter().zip(&table) {
                prop_assert_eq!(object, &serde_json::json!({ "x": row[0], "y": row[1], "z": row[2] }));
            }
        }

        #[test]
        fn what_counts_as_a_number_is_what_json_says(text in "[-+]?[0-9]{0,3}(\\.[0-9]{0,2})?([eE][-+]?[0-9]{0,2})?") {
            let json: Result<serde_json::Value, _> = serde_json::from_str(&text);
            // The text's magnitude is small, so every well-formed number is one for serde_json too.
            prop_assert_eq!(is_number(text.as_bytes()), json.is_ok());
        }
    }
}
