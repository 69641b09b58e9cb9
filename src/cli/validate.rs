//! `sluicebox validate`: would this pipeline run?
//!
//! Owns: the summary of a good pipeline. Does not own: the rules (settings, engine).

use arrow::datatypes::SchemaRef;
use clap::Args;

use super::{CliError, Context, Exit};
use crate::output::{Cell, Format, Table, human};
use crate::settings::Settings;
use crate::settings::load::Source;
use crate::topology;

/// Flags of `validate`.
#[derive(Debug, Args)]
pub struct ValidateArgs {
    /// Prints every setting as it is in force, as JSON, instead of the summary
    #[arg(long)]
    pub show: bool,
}

/// Loads, compiles, summarises.
pub fn run(args: ValidateArgs, context: &Context) -> Result<Exit, CliError> {
    let loaded = context.load()?;
    let compiled = topology::compile(&loaded)?;
    let mut output = context.output();
    if args.show {
        let settings = serde_json::to_string_pretty(&loaded.settings).unwrap_or_else(|error| error.to_string());
        output.raw(settings.as_bytes())?;
        output.raw(b"\n")?;
        return Ok(Exit::Good);
    }
    // Programs get one table; people also get the overview.
    if output.format() == Format::Table {
        output.table(&tables(&loaded.settings))?;
        output.note("")?;
    }
    let events = ("events".to_owned(), compiled.contract.schema());
    output.table(&columns(std::iter::once(events).chain(compiled.schemas())))?;
    if compiled.contract.is_general() {
        output.note("\nthe schema goes beyond the columnar subset: every record is judged a second time, which is slower")?;
    }
    match &loaded.source {
        Source::Builtin => output.note("\ngood: the built-in pipeline (there is no config/local.toml here)")?,
        Source::File(path) => output.note(&format!("\ngood: {}", path.display()))?,
    }
    output.note(&format!("fingerprint {}", loaded.fingerprint()))?;
    Ok(Exit::Good)
}

fn columns(schemas: impl IntoIterator<Item = (String, SchemaRef)>) -> Table {
    let mut table = Table::new(["table", "column", "type", "nullable"]);
    for (name, schema) in schemas {
        for field in schema.fields() {
            let kind = human::data_type(field.data_type());
            table.row([name.as_str().into(), field.name().as_str().into(), kind.into(), field.is_nullable().into()]);
        }
    }
    table
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
