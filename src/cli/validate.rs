//! `sluicebox validate`: would this pipeline run?
//!
//! Owns: the summary of a good pipeline. Does not own: the rules (settings, engine).

use clap::Args;

use super::{CliError, Context, Exit};
use crate::output::{Cell, Table};
use crate::settings::load::Source;
use crate::settings::{Loaded, Settings};

/// Flags of `validate`.
#[derive(Debug, Args)]
pub struct ValidateArgs {
    /// Also prints every setting as it is in force, as JSON
    #[arg(long)]
    pub show: bool,
}

/// Loads, compiles, summarises.
pub fn run(args: ValidateArgs, context: &Context) -> Result<Exit, CliError> {
    let loaded = context.load()?;
    let columns = compile(&loaded)?;
    let mut output = context.output();
    if args.show {
        let settings = serde_json::to_string_pretty(&loaded.settings).unwrap_or_else(|error| error.to_string());
        output.raw(settings.as_bytes())?;
        output.raw(b"\n")?;
    }
    output.table(&tables(&loaded.settings))?;
    if !columns.is_empty() {
        output.table(&columns)?;
    }
    match &loaded.source {
        Source::Builtin => output.note("good: the built-in pipeline (there is no config/local.toml here)")?,
        Source::File(path) => output.note(&format!("good: {}", path.display()))?,
    }
    output.note(&format!("fingerprint {}", loaded.fingerprint()))?;
    Ok(Exit::Good)
}

/// CALL SITE for the engine: compiles contract, Silver and Gold, and returns the columns (table, column, type) to show. Errors
/// inside SQL become `CliError::config(message, loaded.place_in("gold.0.sql", line, column), help)`. Until the engine stands here,
/// the schema is only held to be JSON.
fn compile(loaded: &Loaded) -> Result<Table, CliError> {
    let schema: Result<serde_json::Value, serde_json::Error> = serde_json::from_str(&loaded.schema);
    match schema {
        Ok(_) => Ok(Table::new(["table", "column", "type"])),
        Err(error) => {
            let message = format!("the event schema {} is not JSON: {error}", loaded.schema_origin);
            Err(CliError::config(message, loaded.place_of("event.schema"), "correct the schema, or name another"))
        }
    }
}

fn tables(settings: &Settings) -> Table {
    let mut table = Table::new(["table", "window", "allowed_lateness", "format"]);
    let format = |format| serde_json::to_value(format).ok().and_then(|value| value.as_str().map(str::to_owned));
    if settings.bronze.enabled {
        table.row(["bronze".into(), Cell::Null, Cell::Null, format(settings.bronze.format).into()]);
    }
    table.row(["silver".into(), Cell::Null, Cell::Null, format(settings.silver.format).into()]);
    for gold in &settings.gold {
        let (window, lateness) = (gold.window.tumbling, gold.window.allowed_lateness);
        let name = format!("gold/{}", gold.name);
        table.row([name.into(), window.to_string().into(), lateness.to_string().into(), "parquet".into()]);
    }
    table
}
