//! `sluicebox lambda`: the pipeline as a function of AWS Lambda, and what has to be true of its settings for that.
//!
//! Owns: its flags, the start as `bootstrap`, which settings of a pipeline suit. Does not own: invocations
//! (sluicebox_lambda), the threads below them (run), the wiring (topology).

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, ValueEnum};
use sluicebox_lambda::event::Role;
use sluicebox_lambda::mapping::{self, Start};

use super::{CliError, Context, Exit};
use crate::observers::Observers;
use crate::output::Output;
use crate::settings::{self, Loaded, Problem, StoreKind, StreamKind};
use crate::source::Source;
use crate::{run, topology};

/// What Lambda calls the program that it starts.
const BOOTSTRAP: &str = "bootstrap";
/// The pipeline file that lies beside it.
const BESIDE: &str = "sluicebox.toml";
/// The only folder of a sandbox that can be written to.
const DATA: &str = "/tmp/sluicebox";

/// Flags of `lambda`.
#[derive(Debug, Args)]
pub struct LambdaArgs {
    /// What every event asks for; without it, each says so itself: `Records` or `detail-type`
    #[arg(long, value_enum, env = "SLUICEBOX_ROLE")]
    pub role: Option<RoleArg>,
}

/// One of the two functions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum RoleArg {
    /// Batches of an event source mapping.
    Ingest,
    /// A schedule.
    Tick,
}

/// The arguments as they are meant: a program that Lambda starts is given none, and means `lambda` with the file beside it.
pub fn arguments(given: impl Iterator<Item = OsString>, has: impl Fn(&str) -> bool) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = given.collect();
    let program = arguments.first().map(PathBuf::from).unwrap_or_default();
    if arguments.len() != 1 || program.file_name().is_none_or(|name| name != BOOTSTRAP) {
        return arguments;
    }
    arguments.push("lambda".into());
    if !has("SLUICEBOX_DATA") {
        arguments.extend(["--data".into(), DATA.into()]);
    }
    let beside = program.parent().unwrap_or(Path::new(".")).join(BESIDE);
    if !has("SLUICEBOX_CONFIG") && beside.is_file() {
        arguments.extend(["--config".into(), beside.into()]);
    }
    arguments
}

/// Answers invocations until the sandbox ends.
pub fn run(args: LambdaArgs, context: &Context) -> Result<Exit, CliError> {
    let loaded = context.load()?;
    let compiled = topology::compile(&loaded)?;
    let settings = &loaded.settings;
    let (stores, _lock) = topology::Stores::for_run(context.data(), settings, context.clock())?;
    stores.check_tables(&loaded, &compiled)??;
    let stream = Source::open(context.data(), settings, context.clock())?;
    // Before anything that may raise an alert.
    let observers = Observers::start(settings, context.clock())?.between_invocations(context.clock());
    let mut parts = topology::parts(&loaded, &compiled.engine, &stores, &stream, context.clock(), false);
    parts.sinks = topology::sinks(&loaded, context.data())?;
    let role = args.role.map(|role| match role {
        RoleArg::Ingest => Role::Ingest,
        RoleArg::Tick => Role::Tick,
    });
    run::invoked(parts, role, Arc::new(observers))?;
    Ok(Exit::Good)
}

/// Would the guarantee hold in Lambda? Refuses a pipeline, or a mapping, under which it would not; tells what else to know.
pub fn validate(loaded: &Loaded, mapping: Option<&Path>, output: &mut Output) -> Result<(), CliError> {
    let (settings, mut problems) = (&loaded.settings, Vec::new());
    let mut refuse = |key: &str, message: &str, help: &str| {
        problems.push(Problem::new(format!("`{key}`: {message}")).at(loaded.place_of(key)).help(help));
    };
    if settings.stream.kind != StreamKind::Kinesis {
        refuse("stream.kind", "Lambda hands over the records of a Kinesis stream", "set stream.kind = \"kinesis\"");
    }
    if settings.store.kind != StoreKind::Aws {
        let message = "a sandbox of Lambda has no disk that lasts";
        refuse("store.kind", message, "set store.kind = \"aws\": rows in DynamoDB, objects and tables in S3");
    }
    let mut notes = Vec::new();
    if settings.collect.after_epochs > 16 {
        notes.push(
            "every tick reads all epochs that are not collected yet: collect.after_epochs = 8 spares most of that".to_owned(),
        );
    }
    if settings.gold.iter().any(|gold| gold.max_wait.is_some()) {
        notes.push(
            "`gold.max_wait` is not in force: no tick lives long enough to wait, and a window that is held back stays so"
                .to_owned(),
        );
    }
    if settings.breaker.enabled {
        notes
            .push("the breaker looks at one batch at a time: a storm in batches below breaker.window becomes letters".to_owned());
    }
    if let Some(path) = mapping {
        let json = std::fs::read_to_string(path).map_err(|error| {
            let help = "write what `aws lambda get-event-source-mapping --uuid UUID` prints into a file";
            CliError::usage(format!("{} can't be read: {error}", path.display()), help)
        })?;
        let start = match settings.stream.start {
            settings::Start::Horizon => Start::Horizon,
            settings::Start::Latest | settings::Start::At(_) => Start::Later,
        };
        for finding in mapping::check(&json, &settings.stream.name, start)? {
            let says = format!("`{}` of {}: {}", finding.key, path.display(), finding.says);
            match finding.refused {
                true => problems.push(Problem::new(says).help(finding.help)),
                false => notes.push(format!("{says}; {}", finding.help)),
            }
        }
    }
    for note in notes {
        output.note(&format!("note: {note}"))?;
    }
    if problems.is_empty() { Ok(()) } else { Err(settings::SettingsError { problems }.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meant(given: &[&str], has: &[&str]) -> Vec<String> {
        let meant = arguments(given.iter().map(|argument| (*argument).into()), |name| has.contains(&name));
        meant.into_iter().map(|argument| argument.into_string().unwrap()).collect()
    }

    #[test]
    fn a_bootstrap_without_arguments_is_the_function_and_everything_else_is_as_given() {
        assert_eq!(meant(&["/x/sluicebox"], &[]), ["/x/sluicebox"]);
        assert_eq!(meant(&["/x/bootstrap", "audit"], &[]), ["/x/bootstrap", "audit"]);
        assert_eq!(meant(&["/x/bootstrap"], &[]), ["/x/bootstrap", "lambda", "--data", "/tmp/sluicebox"]);
        assert_eq!(meant(&["/x/bootstrap"], &["SLUICEBOX_DATA"]), ["/x/bootstrap", "lambda"]);
    }

    #[test]
    fn the_pipeline_file_beside_it_is_taken_unless_another_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let (program, file) = (folder.path().join("bootstrap"), folder.path().join("sluicebox.toml"));
        std::fs::write(&file, "").unwrap();
        let (program, file) = (program.to_str().unwrap(), file.to_str().unwrap());
        assert_eq!(meant(&[program], &["SLUICEBOX_DATA"]), [program, "lambda", "--config", file]);
        assert_eq!(meant(&[program], &["SLUICEBOX_DATA", "SLUICEBOX_CONFIG"]), [program, "lambda"]);
    }
}
