//! The configuration: every refusal has a place in the text, what loads means one thing.
//!
//! Owns: cutting an input into a file and overrides, the properties. Does not own: the keys (settings).

use crate::product::settings::load::{BUILTIN_PIPELINE, load_text};
use crate::product::settings::{Place, Problem, Settings};

const FILE: &str = "fuzz.toml";

/// One input: the file's text, then arguments of `--set`, each behind a NUL. An empty text is the built-in pipeline.
pub fn check(data: &[u8]) {
    let Ok(input) = std::str::from_utf8(data) else { return };
    let mut parts = input.split('\0');
    let text = parts.next().filter(|text| !text.is_empty()).unwrap_or(BUILTIN_PIPELINE);
    let sets: Vec<String> = parts.map(str::to_owned).collect();
    let load = || load_text(FILE, text, [], &sets);
    match load() {
        Ok(settings) => {
            let again = load().expect("it loaded a moment ago");
            assert_eq!(settings.fingerprint("{}"), again.fingerprint("{}"));
            let written = serde_json::to_string(&settings).expect("settings are JSON");
            let mut back: Settings = serde_json::from_str(&written).unwrap_or_else(|error| panic!("{error}: {written}"));
            // serde_json reads doubles to the last bit only with a feature that nothing else here needs.
            assert!((back.breaker.share - settings.breaker.share).abs() < 1e-9);
            back.breaker.share = settings.breaker.share;
            assert_eq!(back, settings, "settings do not survive being written");
            assert!(settings.check().is_empty());
        }
        Err(error) => {
            assert!(!error.problems.is_empty());
            let whole = error.to_string();
            for problem in &error.problems {
                has_a_place(problem, text);
                assert!(whole.contains(&problem.message) && !problem.message.is_empty());
            }
        }
    }
}

fn has_a_place(problem: &Problem, text: &str) {
    match problem.place.as_ref().unwrap_or_else(|| panic!("no place: {problem}")) {
        Place::Line { file, line, column } => {
            assert_eq!(&**file, FILE);
            // One behind the last line: an error at the end of the text.
            let at = text.split('\n').nth(line - 1).unwrap_or_else(|| panic!("no such line: {problem}"));
            assert!((1..=at.chars().count() + 1).contains(column), "no such column: {problem}");
        }
        Place::File(file) => assert_eq!(&**file, FILE),
        Place::Argument(argument) => assert!(argument.starts_with("--set ")),
        Place::Variable(name) => panic!("no variable was set: {name}"),
    }
}
