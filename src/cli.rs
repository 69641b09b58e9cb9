//! The command line: verbs, global flags, and the dispatch to one function per verb.
//!
//! Owns: what every verb shares (context, colours, exit). Does not own: what a verb does (a file per verb), how an error reads
//! (cli/error), logs (cli/logs).

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Parser, Subcommand};
use sluicebox_actors::ports::Clock;

use crate::clock::SystemClock;
use crate::output::{Format, Output};
use crate::settings::Loaded;
use crate::settings::load::{Source, load_over};

pub mod audit;
pub mod demo;
pub mod dlq;
pub mod error;
pub mod gold;
pub mod iam_policy;
pub mod init;
pub mod lambda;
pub mod logs;
pub mod put;
pub mod query;
pub mod run;
pub mod shards;
pub mod sinks;
pub mod stream;
pub mod trial;
pub mod validate;

pub use error::{CliError, Exit};

/// Turns a stream of JSON events into Bronze, Silver and hourly Gold tables that can be proved.
#[derive(Debug, Parser)]
#[command(name = "sluicebox", version, propagate_version = true, after_help = AFTER_HELP)]
pub struct Cli {
    /// What every verb takes.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

const AFTER_HELP: &str = "Exit codes: 0 good, 1 the job found something wrong, 2 wrong usage, 78 bad configuration.\n\
    Start with `sluicebox demo`; a pipeline of your own with `sluicebox init`.";

/// What every verb takes.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Everywhere")]
pub struct Global {
    /// The pipeline file; without one, config/local.toml, and if that is not there, the built-in pipeline. Given again, a file
    /// that is laid over it, such as config/presets/low-latency.toml
    #[arg(long, global = true, value_name = "FILE", env = "SLUICEBOX_CONFIG")]
    pub config: Vec<PathBuf>,
    /// Folder of streams, state and tables
    #[arg(long, global = true, value_name = "DIR", default_value = "./data", env = "SLUICEBOX_DATA")]
    pub data: PathBuf,
    /// Sets one key of the pipeline file for this run; SLUICEBOX__A__B=c in the environment does the same
    #[arg(long = "set", global = true, value_name = "a.b=c")]
    pub sets: Vec<String>,
    /// How rows are printed
    #[arg(long, global = true, value_enum, default_value_t)]
    pub format: Format,
    /// When to colour
    #[arg(long, global = true, value_enum, default_value_t)]
    pub color: Color,
    /// Says more on stderr; twice says everything. SLUICEBOX_LOG=filter goes before it
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

/// When to colour.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

impl Color {
    /// Is this stream to be coloured?
    pub fn on(self, stream: &impl IsTerminal) -> bool {
        match self {
            Self::Auto => stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
            Self::Always => true,
            Self::Never => false,
        }
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Writes a starter pipeline and its schema into an empty folder
    Init(init::InitArgs),
    /// Reads the pipeline file, compiles contract and SQL, and says what comes out
    Validate(validate::ValidateArgs),
    /// Puts records from files or standard input on the embedded stream
    Put(put::PutArgs),
    /// Runs the pipeline until it is stopped, or with --drain until the stream is read to its end
    Run(run::RunArgs),
    /// Makes a stream, runs the built-in pipeline over it, audits it and shows Gold
    Demo(demo::DemoArgs),
    /// Runs SQL over the tables bronze, silver, gold_NAME, gold_windows, ledger and dlq
    Query(query::QueryArgs),
    /// Shows a Gold table's windows and rows
    Gold(gold::GoldArgs),
    /// Walks the ledger: prints every line with its difference; exit 1 if one is not 0
    Audit(audit::AuditArgs),
    /// Reads dead letters
    #[command(subcommand)]
    Dlq(dlq::DlqVerb),
    /// Shows the shards: position, epoch, bound, lag; or takes them over from another reader
    Shards(shards::ShardsArgs),
    /// Prints the IAM policy that a role needs for this pipeline file, and no more
    IamPolicy(iam_policy::IamPolicyArgs),
    /// Shows the sinks: what each has, what it refused, what waits for it
    Sinks(sinks::SinksArgs),
    /// The embedded stream as a service
    #[command(subcommand)]
    Stream(stream::StreamVerb),
    /// Answers AWS Lambda: batches of a Kinesis stream, and a schedule
    Lambda(lambda::LambdaArgs),
    /// Tries records in a process of its own; `run` starts it after deaths that it can't explain
    #[command(hide = true)]
    Trial(trial::TrialArgs),
}

/// What a verb's function is given.
pub struct Context {
    global: Global,
    clock: Arc<dyn Clock>,
}

impl Context {
    /// From the global flags.
    pub fn new(global: Global, clock: Arc<dyn Clock>) -> Self {
        Self { global, clock }
    }

    /// Reads the pipeline: built-in defaults, file, environment, `--set`.
    pub fn load(&self) -> Result<Loaded, CliError> {
        Ok(load_over(&self.source(), self.overlays(), std::env::vars_os().filter_map(utf8), &self.global.sets)?)
    }

    /// Which pipeline [`Context::load`] reads.
    pub fn source(&self) -> Source {
        Source::choose(self.global.config.first().map(PathBuf::as_path))
    }

    /// Files that are laid over it.
    pub fn overlays(&self) -> &[PathBuf] {
        self.global.config.get(1..).unwrap_or_default()
    }

    /// The arguments of `--set`.
    pub fn sets(&self) -> &[String] {
        &self.global.sets
    }

    /// Folder of streams, state and tables; may not exist yet.
    pub fn data(&self) -> &Path {
        &self.global.data
    }

    /// The same over another data directory.
    pub fn at(&self, data: PathBuf) -> Self {
        Self { global: Global { data, ..self.global.clone() }, clock: self.clock.clone() }
    }

    /// The machine's clock.
    pub fn clock(&self) -> Arc<dyn Clock> {
        self.clock.clone()
    }

    /// Results on stdout, as `--format` and `--color` say.
    pub fn output(&self) -> Output {
        let stdout = std::io::stdout();
        let colour = self.global.color.on(&stdout);
        let width = match stdout.is_terminal() {
            true => comfy_table::Table::new().width(),
            false => None,
        };
        Output::new(Box::new(std::io::BufWriter::new(stdout)), self.global.format, colour, width)
    }
}

fn utf8((name, value): (std::ffi::OsString, std::ffi::OsString)) -> Option<(String, String)> {
    Some((name.into_string().ok()?, value.into_string().ok()?))
}

/// Reads the arguments, does what they say, and tells how it went.
pub fn main() -> ExitCode {
    let arguments = lambda::arguments(std::env::args_os(), |name| std::env::var_os(name).is_some());
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        // Help and version go to stdout with exit 0, the rest to stderr with 2; clap knows which.
        Err(help) => {
            let printed = help.print();
            return if printed.is_ok() && !help.use_stderr() { Exit::Good.into() } else { Exit::Usage.into() };
        }
    };
    let colour = cli.global.color.on(&std::io::stderr());
    let result = logs::start(cli.verb.chatty(), cli.global.verbose, colour).and_then(|()| {
        let context = Context::new(cli.global, SystemClock::shared());
        dispatch(cli.verb, &context)
    });
    match result {
        Ok(exit) => exit.into(),
        Err(error) => error.report(&mut std::io::stderr(), colour),
    }
}

fn dispatch(verb: Verb, context: &Context) -> Result<Exit, CliError> {
    match verb {
        Verb::Init(args) => init::run(args, context),
        Verb::Validate(args) => validate::run(args, context),
        Verb::Put(args) => put::run(args, context),
        Verb::Run(args) => run::run(args, context),
        Verb::Demo(args) => demo::run(args, context),
        Verb::Query(args) => query::run(args, context),
        Verb::Gold(args) => gold::run(args, context),
        Verb::Audit(args) => audit::run(args, context),
        Verb::Dlq(args) => dlq::run(args, context),
        Verb::Shards(args) => shards::run(args, context),
        Verb::IamPolicy(args) => iam_policy::run(args, context),
        Verb::Sinks(args) => sinks::run(args, context),
        Verb::Stream(verb) => stream::run(verb, context),
        Verb::Lambda(args) => lambda::run(args, context),
        Verb::Trial(args) => trial::run(args, context),
    }
}

impl Verb {
    /// Runs long without a person watching: its log is worth more lines.
    fn chatty(&self) -> bool {
        match self {
            Self::Run(_) | Self::Stream(_) | Self::Lambda(_) => !std::io::stderr().is_terminal(),
            Self::Init(_) | Self::Validate(_) | Self::Put(_) | Self::Demo(_) | Self::Query(_) => false,
            Self::Gold(_)
            | Self::Audit(_)
            | Self::Dlq(_)
            | Self::Shards(_)
            | Self::Sinks(_)
            | Self::IamPolicy(_)
            | Self::Trial(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_flag_and_verb_says_what_it_does() {
        fn walk(command: &clap::Command) {
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{} of {} has no help", argument.get_id(), command.get_name());
            }
            for verb in command.get_subcommands() {
                assert!(verb.get_about().is_some(), "{} has no help", verb.get_name());
                walk(verb);
            }
        }
        walk(&Cli::command());
    }

    #[test]
    fn global_flags_may_follow_the_verb() {
        let cli = Cli::try_parse_from(["sluicebox", "run", "--drain", "--set", "a.b=c", "--set", "d=e", "--data", "/x", "-vv"]);
        let cli = cli.unwrap();
        assert!(matches!(cli.verb, Verb::Run(run::RunArgs { drain: true, .. })));
        assert_eq!(cli.global.sets, ["a.b=c", "d=e"]);
        assert_eq!((cli.global.data.as_path(), cli.global.verbose), (Path::new("/x"), 2));
        assert!(Cli::try_parse_from(["sluicebox", "fly"]).is_err());
    }
}
