//! An InfluxDB that takes line protocol: points by measurement, tags and timestamp, fields merged, the last write wins.
//!
//! Owns: reading lines (by the specification, not by how our sink writes them), points, partial writes. Does not own: the socket
//! (server).

use std::collections::BTreeMap;
use std::io::Read;

use axum::body::Body;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::json;

use crate::server::{Call, Fake, Locked, Service};

/// An InfluxDB on a loopback port. It ends when dropped.
pub type FakeInflux = Fake<State>;

/// A field's value.
#[derive(Clone, PartialEq, Debug)]
pub enum Field {
    /// `true`, `false`
    Boolean(bool),
    /// `7i`
    Integer(i64),
    /// `0.5`
    Float(f64),
    /// `"text"`
    Text(String),
}

/// Measurement, tags, timestamp.
pub type Point = (String, BTreeMap<String, String>, i64);

/// What it holds.
#[derive(Default)]
pub struct State {
    points: BTreeMap<Point, BTreeMap<String, Field>>,
    token: Option<String>,
    poison: Option<(String, bool)>,
    query: String,
    largest_body: usize,
}

impl FakeInflux {
    /// Only this `authorization` is let in.
    pub fn require(&self, authorization: &str) {
        self.lock().token = Some(authorization.to_owned());
    }

    /// Lines that contain this are refused: in a partial write that says how many, or the whole body without a word on which.
    pub fn refuse_lines_with(&self, text: &str, partial: bool) {
        self.lock().poison = Some((text.to_owned(), partial));
    }

    /// All points and their fields.
    pub fn points(&self) -> BTreeMap<Point, BTreeMap<String, Field>> {
        self.lock().points.clone()
    }

    /// Path and query of the last write.
    pub fn last_query(&self) -> String {
        self.lock().query.clone()
    }

    /// Bytes of the largest body so far, decompressed.
    pub fn largest_body(&self) -> usize {
        self.lock().largest_body
    }
}

impl Service for Locked<State> {
    fn operation(&self, call: &Call) -> String {
        call.path.rsplit('/').next().unwrap_or_default().to_owned()
    }

    fn answer(&self, _operation: &str, call: &Call) -> Response {
        self.lock().write(call)
    }

    fn refusal(&self, status: u16, code: &str) -> Response {
        answer(status, code)
    }

    fn throttled(&self) -> Response {
        let mut answer = answer(429, "too many requests");
        answer.headers_mut().insert("retry-after", axum::http::HeaderValue::from_static("0"));
        answer
    }
}

fn answer(status: u16, message: &str) -> Response {
    let mut response = Response::new(Body::from(json!({"code": "invalid", "message": message}).to_string()));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or_default();
    response
}

impl State {
    fn write(&mut self, call: &Call) -> Response {
        if self.token.as_deref().is_some_and(|token| call.header("authorization") != Some(token)) {
            return answer(401, "unauthorized");
        }
        self.query = format!("{}?{}", call.path, call.query);
        let mut text = String::new();
        let read = match call.header("content-encoding") {
            Some("gzip") => flate2::read::GzDecoder::new(&call.body[..]).read_to_string(&mut text),
            Some(_) | None => (&call.body[..]).read_to_string(&mut text),
        };
        if read.is_err() {
            return answer(400, "the body is not UTF-8, or not gzip");
        }
        self.largest_body = self.largest_body.max(text.len());
        let (mut bad, mut points) = (0, Vec::new());
        let mut rest = text.as_str();
        while !rest.is_empty() {
            let Some((point, fields, line)) = parse(rest) else { return answer(400, "unable to parse a line") };
            let poisoned = self.poison.as_ref().is_some_and(|(text, _)| line.contains(text.as_str()));
            match poisoned {
                true => bad += 1,
                false => points.push((point, fields)),
            }
            rest = &rest[line.len()..];
        }
        let partial = self.poison.as_ref().is_some_and(|(_, partial)| *partial);
        if bad > 0 && !partial {
            return answer(400, "field type conflict");
        }
        for (point, fields) in points {
            self.points.entry(point).or_default().extend(fields);
        }
        match bad {
            0 => Response::builder().status(StatusCode::NO_CONTENT).body(Body::empty()).unwrap_or_default(),
            _ => answer(422, &format!("partial write: field type conflict dropped={bad}")),
        }
    }
}

/// Reads up to one of the ends, which is left; a backslash before one of `escapable` stands for that character.
fn word<'t>(text: &'t str, ends: &[char], escapable: &[char]) -> Option<(String, &'t str)> {
    let mut out = String::new();
    let mut letters = text.char_indices().peekable();
    while let Some((at, letter)) = letters.next() {
        if ends.contains(&letter) {
            return Some((out, &text[at..]));
        }
        match letters.peek() {
            Some((_, next)) if letter == '\\' && escapable.contains(next) => {
                out.push(*next);
                letters.next();
            }
            Some(_) | None => out.push(letter),
        }
    }
    None
}

/// The first line: its point, its fields, and its text with the line break.
fn parse(text: &str) -> Option<(Point, BTreeMap<String, Field>, &str)> {
    let (measurement, mut rest) = word(text, &[',', ' '], &[',', ' '])?;
    let mut tags = BTreeMap::new();
    while let Some(tag) = rest.strip_prefix(',') {
        let (name, value) = word(tag, &['='], &[',', '=', ' '])?;
        let (value, after) = word(&value[1..], &[',', ' ', '\n'], &[',', '=', ' '])?;
        if name.is_empty() || value.is_empty() || tags.insert(name, value).is_some() {
            return None;
        }
        rest = after;
    }
    let mut fields = BTreeMap::new();
    rest = rest.strip_prefix(' ')?;
    loop {
        let (name, value) = word(rest, &['='], &[',', '=', ' '])?;
        let (field, after) = field(&value[1..])?;
        if name.is_empty() || fields.insert(name, field).is_some() {
            return None;
        }
        match after.strip_prefix(',') {
            Some(more) => rest = more,
            None => {
                rest = after.strip_prefix(' ')?;
                break;
            }
        }
    }
    let (time, after) = rest.split_once('\n')?;
    let line = &text[..text.len() - after.len()];
    Some(((measurement, tags, time.parse().ok()?), fields, line))
}

fn field(text: &str) -> Option<(Field, &str)> {
    if let Some(quoted) = text.strip_prefix('"') {
        let (value, after) = word(quoted, &['"'], &['"', '\\'])?;
        return Some((Field::Text(value), &after[1..]));
    }
    let (word, after) = text.split_at(text.find([',', ' ', '\n'])?);
    let field = match word {
        "true" => Field::Boolean(true),
        "false" => Field::Boolean(false),
        _ => match word.strip_suffix('i') {
            Some(integer) => Field::Integer(integer.parse().ok()?),
            None => Field::Float(word.parse().ok()?),
        },
    };
    Some((field, after))
}
