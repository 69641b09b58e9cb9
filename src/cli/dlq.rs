//! `sluicebox dlq`: dead letters.
//!
//! Owns: its flags. Does not own: reading letters (read).

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{CliError, Context, Exit};
use crate::output::Table;
use crate::read::letters::{self, Filter};
use crate::settings::StoreKind;
use crate::topology::Stores;

/// Letters that one `show` prints at most: a record too late for several tables has several.
const LETTERS_MAX: usize = 64;

/// What to do with letters.
#[derive(Debug, Subcommand)]
pub enum DlqVerb {
    /// Lists letters: where, why, since when
    Ls(LsArgs),
    /// Shows one letter whole
    Show(ShowArgs),
}

/// Flags of `dlq ls`.
#[derive(Debug, Args)]
pub struct LsArgs {
    /// Only letters of this stage: decode, contract, time, silver, gold:TABLE
    #[arg(long, value_name = "STAGE")]
    pub stage: Option<String>,
    /// Only letters with this reason code
    #[arg(long, value_name = "REASON")]
    pub reason: Option<String>,
    /// Only letters of this shard
    #[arg(long, value_name = "SHARD")]
    pub shard: Option<String>,
    /// Letters to print at most
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub limit: usize,
}

/// Flags of `dlq show`.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// The letter, as `dlq ls` names it: stream/shard/sequence/sub-sequence/stage
    #[arg(value_name = "ID")]
    pub id: String,
    /// Writes the record's bytes and nothing else
    #[arg(long)]
    pub raw: bool,
}

/// Lists letters, or shows one.
pub fn run(verb: DlqVerb, context: &Context) -> Result<Exit, CliError> {
    match verb {
        DlqVerb::Ls(args) => list(args, context),
        DlqVerb::Show(args) => show(&args, context),
    }
}

fn list(args: LsArgs, context: &Context) -> Result<Exit, CliError> {
    let filter = Filter { stage: args.stage, reason: args.reason, shard: args.shard, since_us: None, limit: args.limit };
    let batch = letters::batch(&letters::list(&tables(context)?, &filter)?)?;
    let mut output = context.output();
    let mut printer = output.batches(batch.schema());
    printer.print(&batch)?;
    printer.finish()?;
    Ok(Exit::Good)
}

/// Where letters lie on this disk: in the data directory, or as copies of a bucket's.
fn tables(context: &Context) -> Result<PathBuf, CliError> {
    match context.load().ok().filter(|loaded| loaded.settings.store.kind == StoreKind::Aws) {
        Some(loaded) => {
            let stores = Stores::for_looking(context.data(), Some(&loaded.settings), &["dlq"], context.clock())?;
            Ok(stores.tables_at())
        }
        None => Ok(context.data().to_path_buf()),
    }
}

fn show(args: &ShowArgs, context: &Context) -> Result<Exit, CliError> {
    let found = letters::show(&tables(context)?, &args.id, LETTERS_MAX)?;
    if found.is_empty() {
        return Err(CliError::failed(format!("no letter `{}`", args.id), "`sluicebox dlq ls` names them"));
    }
    let mut output = context.output();
    for letter in &found {
        if args.raw {
            output.raw(&letter.data)?;
            continue;
        }
        let shown = letters::shown(letter);
        let mut table = Table::new(["field", "value"]);
        for (field, value) in shown.fields {
            table.row([field.into(), value.into()]);
        }
        output.table(&table)?;
        output.raw(shown.data.as_bytes())?;
        output.raw(b"\n")?;
        if shown.left_out > 0 {
            output.note(&format!("{} more bytes: see them all with --raw", shown.left_out))?;
        }
    }
    Ok(Exit::Good)
}
