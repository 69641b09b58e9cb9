//! What can go wrong, sorted by what must be done about it.
//!
//! Owns: the six kinds and the remedy each obliges. Does not own: who restarts what (toolkit), exit codes (src/main).

use std::fmt;
use std::sync::Arc;

/// The remedy a fault asks for. A kind is a promise about recovery, not a place in the code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The world is at fault (throttled, unreachable, disk busy). Wait and do it again; nothing is lost.
    Retry,
    /// One record is at fault. It becomes a dead letter; its neighbours go on.
    Poison,
    /// Somebody newer owns this shard or window. Stop at once, never retry.
    Fenced,
    /// The settings are at fault. Refuse to start, exit 78, name the place.
    Config,
    /// What we stored is damaged or missing. Refuse to go on; a person decides.
    Corrupt,
    /// We are at fault. End the generation; the supervisor starts a new one from the last commit.
    Bug,
}

/// A fault: its kind, what was being done, and the chain of causes as text.
#[derive(Clone)]
pub struct Fault(Arc<Inner>);

struct Inner {
    kind: Kind,
    message: String,
    causes: Vec<String>,
}

/// The result type of everything that can meet the world.
pub type Result<T, E = Fault> = std::result::Result<T, E>;

impl Fault {
    /// A fault without a cause. `message` says what was being done and what to do about it.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self(Arc::new(Inner { kind, message: message.into(), causes: Vec::new() }))
    }

    /// A fault with the error that caused it; the whole source chain is kept as text.
    pub fn caused(kind: Kind, message: impl Into<String>, error: &dyn std::error::Error) -> Self {
        let mut causes = vec![error.to_string()];
        let mut next = error.source();
        while let Some(error) = next {
            causes.push(error.to_string());
            next = error.source();
        }
        Self(Arc::new(Inner { kind, message: message.into(), causes }))
    }

    /// Shorthand for [`Kind::Retry`].
    pub fn retry(message: impl Into<String>) -> Self {
        Self::new(Kind::Retry, message)
    }

    /// Shorthand for [`Kind::Fenced`].
    pub fn fenced(message: impl Into<String>) -> Self {
        Self::new(Kind::Fenced, message)
    }

    /// Shorthand for [`Kind::Config`].
    pub fn config(message: impl Into<String>) -> Self {
        Self::new(Kind::Config, message)
    }

    /// Shorthand for [`Kind::Corrupt`].
    pub fn corrupt(message: impl Into<String>) -> Self {
        Self::new(Kind::Corrupt, message)
    }

    /// Shorthand for [`Kind::Bug`].
    pub fn bug(message: impl Into<String>) -> Self {
        Self::new(Kind::Bug, message)
    }

    /// The remedy.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// What was being done.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The causes, outermost first.
    pub fn causes(&self) -> &[String] {
        &self.0.causes
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        for cause in &self.0.causes {
            write!(f, ": {cause}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}({self})", self.0.kind)
    }
}

impl std::error::Error for Fault {}
