//! How a verb ends: exit codes, and errors as a person reads them.
//!
//! Owns: the one mapping from faults to exit codes; `error:`, `at` and `help:` lines. Does not own: what went wrong.

use std::io::{self, Write};
use std::process::ExitCode;

use sluicebox_actors::model::fault::{Fault, Kind};

use crate::settings::{Place, Problem, SettingsError};

/// How a verb ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// The job is done.
    Good,
    /// The job found something wrong: an audit with a difference, a shard that gave up.
    Found,
    /// The command line can't be meant so.
    Usage,
    /// The configuration is refused.
    Config,
}

impl Exit {
    /// The code a shell sees.
    pub fn code(self) -> u8 {
        match self {
            Self::Good => 0,
            Self::Found => 1,
            Self::Usage => 2,
            Self::Config => 78,
        }
    }

    /// The exit that a fault of this kind asks for.
    pub fn of(kind: Kind) -> Self {
        match kind {
            Kind::Config => Self::Config,
            Kind::Retry | Kind::Poison | Kind::Fenced | Kind::Corrupt | Kind::Bug => Self::Found,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        exit.code().into()
    }
}

/// Why a verb could not do its job.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CliError {
    exit: Exit,
    problems: Vec<Problem>,
    silent: bool,
}

impl CliError {
    /// One problem.
    pub fn new(exit: Exit, problem: Problem) -> Self {
        Self { exit, problems: vec![problem], silent: false }
    }

    /// The arguments can't be meant so.
    pub fn usage(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self::new(Exit::Usage, Problem::new(message).help(help))
    }

    /// The job could not be done.
    pub fn failed(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self::new(Exit::Found, Problem::new(message).help(help))
    }

    /// The configuration is refused at a place, for instance inside SQL (`Loaded::place_in`).
    pub fn config(message: impl Into<String>, place: Place, help: impl Into<String>) -> Self {
        Self::new(Exit::Config, Problem::new(message).at(place).help(help))
    }

    /// A verb whose library is not connected in this build.
    pub fn not_wired(verb: &str) -> Self {
        Self::failed(format!("`{verb}` is not wired yet"), "this build has the command line only")
    }

    /// How the program ends.
    pub fn exit(&self) -> Exit {
        self.exit
    }

    /// What went wrong.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// Prints the error and returns the code to leave with.
    pub fn report(&self, sink: &mut dyn Write, colour: bool) -> ExitCode {
        if !self.silent {
            // There is nobody left to tell when stderr is closed.
            self.write(sink, colour).unwrap_or_default();
        }
        self.exit.into()
    }

    fn write(&self, sink: &mut dyn Write, colour: bool) -> io::Result<()> {
        let paint = |code: &str, text: &str| if colour { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() };
        for problem in &self.problems {
            writeln!(sink, "{} {}", paint("1;31", "error:"), problem.message)?;
            if let Some(place) = &problem.place {
                writeln!(sink, "  {} {place}", paint("1;34", "at"))?;
            }
            if let Some(help) = problem.help.as_ref().filter(|help| !help.is_empty()) {
                writeln!(sink, "  {} {help}", paint("1;32", "help:"))?;
            }
        }
        Ok(())
    }
}

impl From<Fault> for CliError {
    fn from(fault: Fault) -> Self {
        let mut problem = Problem::new(fault.to_string());
        problem.help = help_for(fault.kind()).map(str::to_owned);
        Self::new(Exit::of(fault.kind()), problem)
    }
}

fn help_for(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::Config | Kind::Poison => None,
        Kind::Retry => Some("nothing is lost: run the same command again when the cause is gone"),
        Kind::Fenced => Some("another process owns this now; let it work, or stop it first"),
        Kind::Corrupt => Some("nothing was changed; restore the data directory, or name a new one with --data"),
        Kind::Bug => Some("this is a fault of sluicebox, and the last commit is intact: please report it with this message"),
    }
}

impl From<SettingsError> for CliError {
    fn from(error: SettingsError) -> Self {
        Self { exit: Exit::Config, problems: error.problems, silent: false }
    }
}

impl From<io::Error> for CliError {
    /// For results on stdout. A reader that went away (`| head`) is no error.
    fn from(error: io::Error) -> Self {
        let gone = error.kind() == io::ErrorKind::BrokenPipe;
        let problem = Problem::new(format!("the results could not be written: {error}"));
        Self { exit: if gone { Exit::Good } else { Exit::Found }, problems: vec![problem], silent: gone }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(error: &CliError, colour: bool) -> String {
        let mut text = Vec::new();
        let _code: ExitCode = error.report(&mut text, colour);
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn every_kind_of_fault_has_its_exit_code() {
        let codes =
            [(Kind::Config, 78), (Kind::Retry, 1), (Kind::Poison, 1), (Kind::Fenced, 1), (Kind::Corrupt, 1), (Kind::Bug, 1)];
        for (kind, code) in codes {
            assert_eq!(CliError::from(Fault::new(kind, "x")).exit().code(), code, "{kind:?}");
        }
        assert_eq!(CliError::usage("x", "y").exit().code(), 2);
    }

    #[test]
    fn an_error_reads_as_error_at_help_and_is_coloured_only_when_asked() {
        let place = Place::Line { file: "p.toml".into(), line: 3, column: 7 };
        let error = CliError::config("unknown key `shrads`", place, "did you mean `shards`?");
        assert_eq!(printed(&error, false), "error: unknown key `shrads`\n  at p.toml:3:7\n  help: did you mean `shards`?\n");
        assert!(printed(&error, true).starts_with("\u{1b}[1;31merror:\u{1b}[0m unknown key"));
    }

    #[test]
    fn a_reader_that_went_away_is_no_error() {
        let error = CliError::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!((error.exit(), printed(&error, false).as_str()), (Exit::Good, ""));
        let error = CliError::from(io::Error::other("disk full"));
        assert_eq!(error.exit(), Exit::Found);
        assert!(printed(&error, false).contains("disk full"));
    }
}
