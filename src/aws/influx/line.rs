//! Rows as lines of the InfluxDB line protocol.
//!
//! `measurement,key=value,… field=value,… timestamp`: keys are tags, the other columns fields, `window_start` the timestamp in
//! microseconds. Beside the columns each line has `revision` (integer), `status` (text) and `removed` (boolean); a tombstone has
//! nothing else, and queries leave it out by `removed = false`.
//!
//! - Integers are written `7i`, times as integers of microseconds, decimals as floats.
//! - NULL, NaN and infinities are left out, and so is a key that is NULL; an empty one is two quotes (revision).
//! - A tag can hold neither a line break nor a backslash that what follows would be escaped by: such a row is refused.
//!
//! Owns: spelling, reserved names. Does not own: calls (sink).

use std::fmt::Write;

use sluicebox_actors::model::fault::{Fault, Result};
use sluicebox_actors::ports::GoldRevision;

use crate::revision::{Cell, Row, Rows};

const OWN_FIELDS: [&str; 3] = ["revision", "status", "removed"];

/// Why a row has no line.
pub(super) const NO_TAG: &str = "key_has_no_spelling";

/// Names of columns, which are the same for every row.
pub(super) fn check(rows: &Rows<'_>, measurement: &str) -> Result<()> {
    let fault = |name: &str| {
        Err(Fault::config(format!(
            "the Gold table {measurement} in line protocol: the name {name} is taken or has no spelling there: rename it by AS"
        )))
    };
    if escaped(measurement, b", ").is_none() || measurement.is_empty() {
        return fault(measurement);
    }
    for name in rows.key_names().chain(rows.measure_names()) {
        let taken = name == "time" || name.starts_with('_') || OWN_FIELDS.contains(&name);
        if taken || name.is_empty() || escaped(name, b", =").is_none() {
            return fault(name);
        }
    }
    Ok(())
}

/// A row's line with its line break; none if it has no spelling.
pub(super) fn line(row: &Row<'_>, revision: &GoldRevision, measurement: &str) -> Option<String> {
    let mut out = String::new();
    out.push_str(&escaped(measurement, b", ")?);
    for (name, value) in &row.keys {
        let Some(value) = value else { continue };
        out.push(',');
        out.push_str(&escaped(name, b", =")?);
        out.push('=');
        out.push_str(&escaped(value, b", =")?);
    }
    let status = revision.status.as_str();
    // Writing to a String cannot fail.
    write!(out, " revision={}i,status=\"{status}\",removed={}", revision.revision, row.removed).ok()?;
    for (name, cell) in &row.measures {
        out.push(',');
        out.push_str(&escaped(name, b", =")?);
        out.push('=');
        match cell {
            Cell::Boolean(value) => write!(out, "{value}").ok()?,
            Cell::Integer(value) | Cell::Time(value) => write!(out, "{value}i").ok()?,
            Cell::Float(value) => write!(out, "{value:?}").ok()?,
            Cell::Text(text) => {
                out.push('"');
                for letter in text.chars() {
                    if matches!(letter, '"' | '\\') {
                        out.push('\\');
                    }
                    out.push(letter);
                }
                out.push('"');
            }
        }
    }
    writeln!(out, " {}", revision.window.start_us).ok()?;
    Some(out)
}

/// A name or tag value with these characters escaped. A backslash stands for itself, unless what follows is a character that may
/// be escaped: there is no spelling for that.
fn escaped(text: &str, escape: &[u8]) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        let ambiguous = letter == '\\' && letters.peek().is_none_or(|next| matches!(next, ',' | ' ' | '=' | '\\' | '"'));
        if ambiguous || letter.is_control() {
            return None;
        }
        if u8::try_from(letter).is_ok_and(|byte| escape.contains(&byte)) {
            out.push('\\');
        }
        out.push(letter);
    }
    Some(out)
}
