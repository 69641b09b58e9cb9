//! What is wrong with the settings, where, and what to write instead.
//!
//! Owns: places (a line of a file, an environment variable, an argument) and how a problem reads. Does not own: colours and exit
//! codes (cli), the rules themselves (check).

use std::fmt;
use std::sync::Arc;

use sluicebox_actors::model::fault::Fault;

/// Where a value came from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Place {
    /// A line and a column of a file, both counted from 1.
    Line {
        /// The file as the user named it.
        file: Arc<str>,
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
    },
    /// A file as a whole: the key is not in it.
    File(Arc<str>),
    /// An environment variable.
    Variable(Arc<str>),
    /// An argument of the command line.
    Argument(Arc<str>),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line { file, line, column } => write!(f, "{file}:{line}:{column}"),
            Self::File(file) => f.write_str(file),
            Self::Variable(name) => write!(f, "environment variable {name}"),
            Self::Argument(text) => f.write_str(text),
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// What is wrong, in one sentence without a full stop.
    pub message: String,
    /// Where.
    pub place: Option<Place>,
    /// What to write or do instead.
    pub help: Option<String>,
}

impl Problem {
    /// A problem that has no place of its own.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), place: None, help: None }
    }

    /// Adds the place.
    #[must_use]
    pub fn at(mut self, place: Place) -> Self {
        self.place = Some(place);
        self
    }

    /// Adds the remedy.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        f.write_str(&self.message)?;
        if let Some(help) = &self.help {
            write!(f, " (help: {help})")?;
        }
        Ok(())
    }
}

/// Everything that is wrong with the settings; never empty.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub struct SettingsError {
    /// In the order of the file.
    pub problems: Vec<Problem>,
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, problem) in self.problems.iter().enumerate() {
            if n > 0 {
                f.write_str("; ")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl From<Problem> for SettingsError {
    fn from(problem: Problem) -> Self {
        Self { problems: vec![problem] }
    }
}

impl From<SettingsError> for Fault {
    fn from(error: SettingsError) -> Self {
        Self::config(error.to_string())
    }
}

/// The candidate that a typing error most likely meant, if one is near enough to be worth naming.
pub fn nearest<'a>(wrong: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| {
            (strsim::normalized_damerau_levenshtein(wrong, candidate).max(prefix_score(wrong, candidate)), candidate)
        })
        .filter(|(score, _)| *score >= 0.5)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, candidate)| candidate)
}

// `lateness` should find `allowed_lateness`, which edit distance alone puts far away.
fn prefix_score(wrong: &str, candidate: &str) -> f64 {
    let contained = wrong.len() >= 4 && (candidate.contains(wrong) || wrong.contains(candidate));
    if contained { 0.6 } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_error_finds_its_neighbour_and_nonsense_finds_nothing() {
        let keys = ["shards", "parallelism", "allowed_lateness"];
        assert_eq!(nearest("shrads", keys), Some("shards"));
        assert_eq!(nearest("lateness", keys), Some("allowed_lateness"));
        assert_eq!(nearest("colour", keys), None);
    }

    #[test]
    fn a_problem_names_place_and_remedy() {
        let place = Place::Line { file: "a.toml".into(), line: 3, column: 7 };
        let text = Problem::new("no such key").at(place).help("remove it").to_string();
        assert_eq!(text, "a.toml:3:7: no such key (help: remove it)");
    }
}
