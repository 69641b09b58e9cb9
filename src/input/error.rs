//! What can be wrong with an input file.
//!
//! Owns: the errors and which of them end a run. Does not own: what a bad record means (the pipeline).

use std::io;
use std::path::Path;
use std::sync::Arc;

use sluicebox_actors::model::fault::{Fault, Kind};

/// An error of reading input, with its place and the way out. It never shows the input itself.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// One line or file is longer than a record may be. Reading goes on behind it.
    #[error("{file}:{line}: longer than 10 MiB, the most a record may have: it was left out")]
    TooLong {
        /// The file.
        file: Arc<str>,
        /// The line, from 1.
        line: u64,
    },
    /// A file or directory can't be opened.
    #[error("{file}: can't be opened: check the path and its permissions")]
    Open {
        /// The file.
        file: Arc<str>,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// The file broke off or is damaged; a compressed file may be cut short.
    #[error("{file}: reading stopped behind line {line}: everything up to there was read")]
    Read {
        /// The file.
        file: Arc<str>,
        /// Lines that were read whole.
        line: u64,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// The header of a CSV file can't be used.
    #[error("{file}:1: {what}")]
    Header {
        /// The file.
        file: Arc<str>,
        /// What is wrong and what to do.
        what: String,
    },
}

impl InputError {
    /// Reading can't go on behind it.
    pub fn is_fatal(&self) -> bool {
        match self {
            Self::TooLong { .. } => false,
            Self::Open { .. } | Self::Read { .. } | Self::Header { .. } => true,
        }
    }

    pub(super) fn open(path: &Path, error: io::Error) -> Self {
        Self::Open { file: path.display().to_string().into(), error }
    }
}

impl From<InputError> for Fault {
    fn from(error: InputError) -> Self {
        let kind = match error {
            InputError::TooLong { .. } => Kind::Poison,
            InputError::Open { .. } | InputError::Header { .. } => Kind::Config,
            InputError::Read { .. } => Kind::Corrupt,
        };
        let message = error.to_string();
        match &error {
            InputError::Open { error, .. } | InputError::Read { error, .. } => Fault::caused(kind, message, error),
            InputError::TooLong { .. } | InputError::Header { .. } => Fault::new(kind, message),
        }
    }
}
