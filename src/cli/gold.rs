//! `sluicebox gold`: a Gold table's windows and rows.
//!
//! Owns: its flags. Does not own: reading tables (read).

use clap::Args;

use super::query::{print, schemas};
use super::{CliError, Context, Exit};
use crate::output::human;
use crate::read::gold::{self, Range};
use crate::read::query::Catalog;
use crate::run;
use crate::topology::Stores;

/// Flags of `gold`.
#[derive(Debug, Args)]
pub struct GoldArgs {
    /// The table; without one, the tables and their windows
    #[arg(value_name = "TABLE")]
    pub table: Option<String>,
    /// Windows that start at this time or later: 2015-01-01T00:00:00Z
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Windows that start before this time
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    /// Windows with their status, revision and counts instead of their rows
    #[arg(long)]
    pub windows: bool,
    /// Rows to print at most
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
}

/// Prints a table's rows, its windows, or which tables there are.
pub fn run(args: GoldArgs, context: &Context) -> Result<Exit, CliError> {
    let loaded = context.load().ok();
    let settings = loaded.as_ref().map(|loaded| &loaded.settings);
    let stores = Stores::for_looking(context.data(), settings, &["gold_windows"], context.clock())?;
    let range = Range { from_us: time(args.since.as_deref())?, to_us: time(args.until.as_deref())?, last: None };
    let schemas = schemas(context);
    run::block_on(async {
        let answer = match &args.table {
            Some(table) if !args.windows => {
                let schema =
                    schemas.iter().find(|(name, _)| name.strip_prefix("gold_") == Some(table)).map(|(_, schema)| schema.clone());
                gold::content(&stores.sources(), table, schema, range).await?
            }
            table => Catalog::new(stores.sources(), schemas).query(&windows(table.as_deref(), range)).await?,
        };
        print(context, answer, args.limit).await
    })?
}

fn windows(table: Option<&str>, range: Range) -> String {
    let Some(table) = table else {
        return "SELECT \"table\", count(*) AS windows, min(window_start) AS first, max(window_end) AS last, \
                sum(on_time) AS on_time, sum(late) AS late, sum(too_late) AS too_late \
                FROM gold_windows GROUP BY \"table\" ORDER BY \"table\""
            .to_owned();
    };
    let quoted = table.replace('\'', "''");
    let mut sql = format!(
        "SELECT window_start, window_end, status, revision, rows, on_time, late, too_late, missing_shards, empty_since \
         FROM gold_windows WHERE \"table\" = '{quoted}'"
    );
    for (bound, operator) in [(range.from_us, ">="), (range.to_us, "<")] {
        if let Some(us) = bound {
            sql.push_str(&format!(" AND window_start {operator} TIMESTAMP '{}'", human::time(us)));
        }
    }
    sql.push_str(" ORDER BY window_start");
    sql
}

fn time(text: Option<&str>) -> Result<Option<i64>, CliError> {
    let Some(text) = text else { return Ok(None) };
    let parsed = chrono::DateTime::parse_from_rfc3339(text);
    let parsed =
        parsed.map_err(|error| CliError::usage(format!("`{text}` is not a time: {error}"), "write 2015-01-01T00:00:00Z"))?;
    Ok(Some(parsed.timestamp_micros()))
}
