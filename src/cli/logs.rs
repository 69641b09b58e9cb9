//! Logs on stderr.
//!
//! Owns: which lines are shown. Does not own: what is logged.

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use super::error::CliError;
use crate::alerts::Tap;

/// The variable that holds a filter, such as `sluicebox=debug`.
const FILTER: &str = "SLUICEBOX_LOG";

/// Starts logging for the whole process. `chatty` shows `info` lines without being asked; `verbose` counts `-v`.
pub fn start(chatty: bool, verbose: u8, colour: bool) -> Result<(), CliError> {
    let wanted = std::env::var(FILTER).ok().filter(|text| !text.is_empty());
    let text = wanted.unwrap_or_else(|| default_filter(chatty, verbose).to_owned());
    let filter = EnvFilter::try_new(&text).map_err(|error| {
        let help = "write a level (warn, info, debug) or target=level, such as sluicebox=debug,warn";
        CliError::usage(format!("{FILTER} is not a log filter: {error}"), help)
    })?;
    let logs = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(colour).with_filter(filter);
    // Alerts are found whatever is shown. A second start in one process (tests) keeps the first.
    tracing_subscriber::registry().with(logs).with(Tap::of_process().layer()).try_init().or(Ok(()))
}

fn default_filter(chatty: bool, verbose: u8) -> &'static str {
    match (verbose, chatty) {
        (0, false) => "warn",
        (0, true) => "warn,sluicebox=info,sluicebox_actors=info",
        (1, _) => "warn,sluicebox=debug,sluicebox_actors=debug",
        (2.., _) => "info,sluicebox=trace,sluicebox_actors=trace",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_a_filter() {
        for (chatty, verbose) in [(false, 0), (true, 0), (false, 1), (true, 2), (false, 9)] {
            EnvFilter::try_new(default_filter(chatty, verbose)).expect("a filter");
        }
        assert_ne!(default_filter(true, 0), default_filter(false, 0));
    }
}
