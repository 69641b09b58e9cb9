//! `sluicebox init`: a starter pipeline in an empty folder.
//!
//! Owns: which files are written, and that none is overwritten. Does not own: their content (config/local.toml).

use std::io;
use std::path::{Path, PathBuf};

use clap::Args;

use super::{CliError, Context, Exit};
use crate::settings::load::{BUILTIN_PIPELINE, BUILTIN_SCHEMA, DEFAULT_FILE, PRESETS, REFERENCE};

/// Flags of `init`.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// The folder; it is made if it is not there, and must be empty if it is
    #[arg(value_name = "DIR", default_value = ".")]
    pub folder: PathBuf,
}

/// The schema, beside the pipeline file.
const SCHEMA_FILE: &str = "config/schemas/clickstream.schema.json";

/// Every key with its default, to look things up.
const REFERENCE_FILE: &str = "config/reference.toml";

/// Numbers for one aim each, to lay over the pipeline.
const PRESETS_FOLDER: &str = "config/presets";

/// Writes the files and says what to do next.
pub fn run(args: InitArgs, context: &Context) -> Result<Exit, CliError> {
    if !is_empty(&args.folder).map_err(|error| cannot(&args.folder, &error))? {
        let message = format!("{} is not empty", args.folder.display());
        return Err(CliError::failed(message, "name a new folder: `sluicebox init my-pipeline`; nothing was written"));
    }
    for (name, text) in [(DEFAULT_FILE, BUILTIN_PIPELINE), (SCHEMA_FILE, BUILTIN_SCHEMA), (REFERENCE_FILE, REFERENCE)] {
        write(&args.folder.join(name), text).map_err(|error| cannot(&args.folder, &error))?;
    }
    for (name, text) in PRESETS {
        let path = args.folder.join(format!("{PRESETS_FOLDER}/{name}.toml"));
        write(&path, text).map_err(|error| cannot(&args.folder, &error))?;
    }
    let mut output = context.output();
    let files = format!("{DEFAULT_FILE}, {SCHEMA_FILE}, {REFERENCE_FILE} and {PRESETS_FOLDER}/");
    output.note(&format!("wrote {files} in {}", args.folder.display()))?;
    if args.folder != Path::new(".") {
        output.note(&format!("  cd {}", args.folder.display()))?;
    }
    output.note("  sluicebox validate             # after every change")?;
    output.note("  sluicebox put events.ndjson    # one JSON object a line")?;
    output.note("  sluicebox run --drain          # until the stream is read to its end")?;
    output.note("  sluicebox gold hourly_by_type")?;
    Ok(Exit::Good)
}

fn is_empty(folder: &Path) -> io::Result<bool> {
    match std::fs::read_dir(folder) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
    }
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    io::Write::write_all(&mut std::fs::File::create_new(path)?, text.as_bytes())
}

fn cannot(folder: &Path, error: &io::Error) -> CliError {
    CliError::failed(format!("cannot write into {}: {error}", folder.display()), "name a folder that you may write to")
}
