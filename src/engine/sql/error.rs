//! What is wrong with a statement: where, what, and what to do about it.
//!
//! Owns: [`SqlError`], the translation of the planner's errors, value-free descriptions of evaluation errors. Does not own: the
//! rules (check).

use std::fmt;

use arrow::error::ArrowError;
use datafusion::common::{Column, DataFusionError, SchemaError};
use datafusion::sql::sqlparser::ast::{Expr, Query, visit_expressions};
use datafusion::sql::sqlparser::tokenizer::Location;
use sluicebox_actors::model::fault::{Fault, Kind};

/// A statement that is refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub struct SqlError {
    /// Which one: `silver.sql`, `silver.filter.<name>.where`, `gold.<name>.sql`.
    pub statement: String,
    /// Line and column in its text, both from 1, where known.
    pub place: Option<(u64, u64)>,
    /// What is wrong.
    pub message: String,
    /// What to do instead.
    pub remedy: String,
}

impl fmt::Display for SqlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.statement)?;
        if let Some((line, column)) = self.place {
            write!(f, " line {line}, column {column}")?;
        }
        write!(f, ": {}", self.message)?;
        if !self.remedy.is_empty() {
            write!(f, "; {}", self.remedy)?;
        }
        Ok(())
    }
}

impl From<SqlError> for Fault {
    fn from(error: SqlError) -> Self {
        Fault::config(error.to_string())
    }
}

/// Line and column, unless the parser gave none.
pub(crate) fn place(location: Location) -> Option<(u64, u64)> {
    (location.line > 0).then_some((location.line, location.column))
}

/// Makes errors of one statement.
#[derive(Clone, Copy)]
pub(crate) struct Blame<'a> {
    pub(crate) statement: &'a str,
}

impl Blame<'_> {
    pub(crate) fn at(self, place: Option<(u64, u64)>, message: impl Into<String>, remedy: impl Into<String>) -> SqlError {
        SqlError { statement: self.statement.to_owned(), place, message: message.into(), remedy: remedy.into() }
    }

    pub(crate) fn whole(self, message: impl Into<String>, remedy: impl Into<String>) -> SqlError {
        self.at(None, message, remedy)
    }

    /// A syntax error: the parser writes the place into its text.
    pub(crate) fn syntax(self, text: &str, sql: &str) -> SqlError {
        let text = text.strip_prefix("sql parser error: ").unwrap_or(text);
        let number = |after: &str| {
            let (_, rest) = text.rsplit_once(after)?;
            rest.split(|c: char| !c.is_ascii_digit()).next()?.parse::<u64>().ok()
        };
        // The end of the text is the only place that it leaves out.
        let end = || {
            let last = sql.rsplit('\n').next().unwrap_or_default();
            text.ends_with("EOF").then(|| (sql.split('\n').count() as u64, last.chars().count() as u64 + 1))
        };
        let place = number("Line: ").zip(number("Column: ")).or_else(end);
        let message = match text.rsplit_once(" at Line: ") {
            Some((message, _)) => message,
            None => text,
        };
        let remedy = "write one SELECT in the SQL of Apache DataFusion; texts stand in single, odd names in double quotes";
        self.at(place, format!("not SQL: {message}"), remedy)
    }

    /// A name that is not known.
    pub(crate) fn unknown<'n>(
        self,
        place: Option<(u64, u64)>,
        what: &str,
        name: &str,
        known: impl IntoIterator<Item = &'n str>,
    ) -> SqlError {
        let known: Vec<&str> = known.into_iter().collect();
        let remedy = match nearest(name, &known) {
            Some(nearest) => format!("did you mean `{nearest}`?"),
            None => format!("there is {}", list(&known)),
        };
        self.at(place, format!("unknown {what} `{name}`"), remedy)
    }

    /// An error of the planner, with the place of the column it speaks of.
    pub(crate) fn planner(self, error: &DataFusionError, query: &Query) -> SqlError {
        if let DataFusionError::SchemaError(error, _) = error.find_root()
            && let SchemaError::FieldNotFound { field, valid_fields } = error.as_ref()
        {
            let known = valid_fields.iter().map(Column::name).filter(|name| !name.starts_with("__"));
            return self.unknown(find(query, field.name()), "column", field.name(), known);
        }
        let span = error.diagnostic().and_then(|diagnostic| diagnostic.span);
        let text = error.find_root().strip_backtrace();
        let place = span.map(|span| (span.start.line, span.start.column));
        if let Some(column) = ungrouped(&text) {
            let message = format!("`{column}` is neither in GROUP BY nor inside an aggregate");
            return self.at(place, message, "add it to GROUP BY, or put it into an aggregate such as max() or last_value()");
        }
        let text = essence(&text);
        let remedy = if text.contains("GROUP BY") {
            "add the column to GROUP BY, or put it into an aggregate such as max() or last_value()"
        } else {
            ""
        };
        self.at(place, text, remedy)
    }
}

/// The column that the planner misses in GROUP BY: it says `column "silver.kind" must appear in the GROUP BY clause`.
fn ungrouped(text: &str) -> Option<&str> {
    let (before, _) = text.split_once("\" must appear in the GROUP BY clause")?;
    let (_, column) = before.rsplit_once('"')?;
    Some(column.split_once('.').map_or(column, |(_, column)| column))
}

/// Where a name stands first.
pub(crate) fn find(query: &Query, name: &str) -> Option<(u64, u64)> {
    let flow = visit_expressions(query, |expr| {
        let hit = if let Expr::Identifier(ident) = expr {
            (ident.value == name).then_some(ident.span.start)
        } else if let Expr::CompoundIdentifier(idents) = expr {
            idents.iter().find(|ident| ident.value == name).map(|ident| ident.span.start)
        } else {
            None
        };
        match hit {
            Some(start) => std::ops::ControlFlow::Break(start),
            None => std::ops::ControlFlow::Continue(()),
        }
    });
    flow.break_value().and_then(place)
}

/// The known name that is most like this one, if any is.
pub(crate) fn nearest<'n>(name: &str, known: &[&'n str]) -> Option<&'n str> {
    let lower = name.to_lowercase();
    known
        .iter()
        .map(|known| (strsim::damerau_levenshtein(&lower, &known.to_lowercase()), *known))
        .filter(|(distance, known)| *distance <= known.len().max(name.len()) / 3)
        .min()
        .map(|(_, known)| known)
}

/// The planner's own words, without the wrapping that repeats them.
pub(crate) fn essence(text: &str) -> &str {
    let text = text.rsplit_once("Error during planning: ").map_or(text, |(_, text)| text);
    let text = text.split_once(" No function matches the given name").map_or(text, |(text, _)| text);
    text.strip_prefix("This feature is not implemented: ").unwrap_or(text)
}

fn list(names: &[&str]) -> String {
    let shown: Vec<String> = names.iter().take(12).map(|name| format!("`{name}`")).collect();
    let more = names.len().saturating_sub(shown.len());
    match more {
        0 => shown.join(", "),
        _ => format!("{}, and {more} more", shown.join(", ")),
    }
}

/// Kind of an evaluation error without any value: DataFusion puts values into its messages.
pub(crate) fn describe(error: &DataFusionError) -> &'static str {
    let root = error.find_root();
    let DataFusionError::ArrowError(arrow, _) = root else {
        return if matches!(root, DataFusionError::Execution(_)) {
            "a function refused its argument"
        } else {
            "the expression cannot be evaluated"
        };
    };
    let arrow = arrow.as_ref();
    if matches!(arrow, ArrowError::DivideByZero) {
        "division by zero"
    } else if matches!(arrow, ArrowError::ArithmeticOverflow(_)) {
        "arithmetic overflow"
    } else if matches!(arrow, ArrowError::CastError(_)) {
        "a value cannot be cast"
    } else if matches!(arrow, ArrowError::ParseError(_)) {
        "a text cannot be parsed"
    } else {
        "the expression cannot be evaluated"
    }
}

/// An error at run time that is no record's fault.
pub(crate) fn fault(kind: Kind, doing: &str, error: &DataFusionError) -> Fault {
    Fault::new(kind, format!("{doing}: {}", describe(error)))
}
