//! `sluicebox validate`: would this pipeline run?
//!
//! Owns: the summary of a good pipeline. Does not own: the rules (settings, engine).

use std::path::PathBuf;

use arrow::datatypes::SchemaRef;
use clap::Args;

use super::{CliError, Context, Exit, lambda};
use crate::output::{Cell, Table};
use crate::settings::load::Source;
use crate::settings::{Loaded, Settings};
use crate::topology;

/// Flags of `validate`.
#[derive(Debug, Args)]
pub struct ValidateArgs {
    /// Also prints every setting as it is in force, as JSON
    #[arg(long)]
    pub show: bool,
    /// Would it also run in AWS Lambda? Refuses settings under which the guarantee would not hold
    #[arg(long)]
    pub lambda: bool,
    /// The event source mapping, as `aws lambda get-event-source-mapping` prints it
    #[arg(long, value_name = "FILE.json", requires = "lambda")]
    pub event_source_mapping: Option<PathBuf>,
}

/// Loads, compiles, summarises.
pub fn run(args: ValidateArgs, context: &Context) -> Result<Exit, CliError> {
    let loaded = context.load()?;
    let columns = columns(&loaded)?;
    let mut output = context.output();
    if args.show {
        let settings = serde_json::to_string_pretty(&loaded.settings).unwrap_or_else(|error| error.to_string());
        output.raw(settings.as_bytes())?;
        output.raw(b"\n")?;
    }
    if args.lambda {
        lambda::validate(&loaded, args.event_source_mapping.as_deref(), &mut output)?;
    }
    output.table(&tables(&loaded.settings))?;
    output.table(&columns)?;
    match &loaded.source {
        Source::Builtin => output.note("good: the built-in pipeline (there is no config/local.toml here)")?,
        Source::File(path) => output.note(&format!("good: {}", path.display()))?,
    }
    for path in context.overlays() {
        output.note(&format!("  under {}", path.display()))?;
    }
    output.note(&format!("fingerprint {}", loaded.fingerprint()))?;
    Ok(Exit::Good)
}

/// Every table's columns with their types.
fn columns(loaded: &Loaded) -> Result<Table, CliError> {
    let compiled = topology::compile(loaded)?;
    let mut table = Table::new(["table", "column", "type"]);
    let mut add = |name: &str, schema: &SchemaRef| {
        for field in schema.fields() {
            table.row([name.into(), field.name().as_str().into(), field.data_type().to_string().into()]);
        }
    };
    add("events", &compiled.contract.schema());
    for (name, schema) in compiled.schemas() {
        add(&name, &schema);
    }
    Ok(table)
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
