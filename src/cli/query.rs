//! `sluicebox query`: SQL over what was published.
//!
//! Owns: its flags. Does not own: tables and execution (read).

use arrow::datatypes::SchemaRef;
use clap::Args;
use futures_util::StreamExt;

use super::{CliError, Context, Exit};
use crate::read::query::{Answer, Catalog};
use crate::run;
use crate::store::home::VISIBLE;
use crate::topology::{self, Stores};

/// Flags of `query`.
#[derive(Debug, Args)]
pub struct QueryArgs {
    /// The statement; `-` reads it from standard input
    #[arg(value_name = "SQL")]
    pub sql: String,
    /// Rows to print at most
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
}

/// Runs the statement over what is published.
pub fn run(args: QueryArgs, context: &Context) -> Result<Exit, CliError> {
    let sql = if args.sql == "-" { std::io::read_to_string(std::io::stdin())? } else { args.sql };
    let loaded = context.load().ok();
    let settings = loaded.as_ref().map(|loaded| &loaded.settings);
    let stores = Stores::for_looking(context.data(), settings, &folders(&sql), context.clock())?;
    let catalog = Catalog::new(stores.sources(), schemas(context));
    run::block_on(async {
        let answer = catalog.query(&sql).await?;
        print(context, answer, args.limit).await
    })?
}

/// Folders of tables that a statement may be about: whatever it mentions.
fn folders(sql: &str) -> Vec<&'static str> {
    let sql = sql.to_lowercase();
    VISIBLE.into_iter().filter(|folder| sql.contains(folder)).collect()
}

/// The tables' columns, where the pipeline file can be read; a directory can be looked at without it.
pub fn schemas(context: &Context) -> Vec<(String, SchemaRef)> {
    let compiled = context.load().ok().and_then(|loaded| topology::compile(&loaded).ok());
    compiled.map(|compiled| compiled.schemas()).unwrap_or_default()
}

/// Prints rows as they come.
pub async fn print(context: &Context, mut answer: Answer, limit: Option<usize>) -> Result<Exit, CliError> {
    let mut output = context.output();
    let mut printer = output.batches(answer.schema.clone());
    let mut left = limit.unwrap_or(usize::MAX);
    while let Some(batch) = answer.batches.next().await.transpose()? {
        let batch = batch.slice(0, batch.num_rows().min(left));
        left -= batch.num_rows();
        printer.print(&batch)?;
        if left == 0 {
            break;
        }
    }
    printer.finish()?;
    Ok(Exit::Good)
}
