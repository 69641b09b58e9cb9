//! What each Gold table of a directory means: `state/gold_tables.json`.
//!
//! Windows are merged from states of many epochs; states of two statements can't be. Owns: this file, and that no run goes on
//! with a table under another meaning. Does not own: what a meaning is made of (engine/sql/gold).

use std::collections::BTreeMap;

use sluicebox_actors::model::fault::{Fault, Kind, Result};

use super::disk;
use super::home::Home;

const PLACE: &str = "state/gold_tables.json";

/// Notes the meanings of the tables that are new, and returns the names of those that had another one before. Nothing is noted
/// if there are any. A table that is left out for a while keeps its meaning.
pub fn changed<'a>(home: &Home, meanings: &[(&'a str, String)]) -> Result<Vec<&'a str>> {
    let path = home.disk().path(PLACE, Kind::Bug)?;
    let mut known: BTreeMap<String, String> = match disk::read(&path)? {
        None => BTreeMap::new(),
        Some(text) => serde_json::from_slice(&text)
            .map_err(|error| Fault::caused(Kind::Corrupt, format!("{PLACE}; restore it from a backup"), &error))?,
    };
    let differs = |(name, meaning): &&(&'a str, String)| known.get(*name).is_some_and(|before| before != meaning);
    let changed: Vec<&str> = meanings.iter().filter(differs).map(|(name, _)| *name).collect();
    let before = known.len();
    if changed.is_empty() {
        known.extend(meanings.iter().map(|(name, meaning)| ((*name).to_owned(), meaning.clone())));
    }
    if known.len() > before {
        let text = serde_json::to_vec_pretty(&known).map_err(|error| Fault::caused(Kind::Bug, PLACE, &error))?;
        home.disk().replace(&path, &text)?;
    }
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;

    #[test]
    fn a_new_table_is_noted_an_equal_one_passes_and_a_changed_one_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::open_or_create(folder.path(), "p", SystemClock::shared()).unwrap();
        let changed = |tables: &[(&'static str, &str)]| {
            let meanings: Vec<_> = tables.iter().map(|(name, meaning)| (*name, (*meaning).to_owned())).collect();
            changed(&home, &meanings).unwrap()
        };
        assert!(changed(&[("a", "1")]).is_empty());
        assert!(changed(&[("a", "1"), ("b", "1")]).is_empty());
        assert_eq!(changed(&[("a", "2"), ("b", "1"), ("c", "1")]), ["a"]);
        assert!(changed(&[("c", "2")]).is_empty(), "nothing was noted with the refusal");
        assert_eq!(changed(&[("b", "2")]), ["b"], "left out for a while, it is still known");
    }
}
