//! `[stream.mapping]`: the parameters of a Lambda event source mapping, under Lambda's names.
//!
//! Owns: which of them is which key here, which hold always, which are refused and why, and that a key and its other name agree.
//! Does not own: the keys themselves (settings), their ranges (check).
//!
//! The names are other names and nothing else: a value is moved to its key, with its place, before the settings are read.

use super::Interval;
use super::problem::{Place, Problem, nearest};
use super::tree::{Node, Value, parse_loose};

/// What one of Lambda's parameters is here.
enum Meaning {
    /// The same thing as this key of this table.
    Key(&'static str, &'static str),
    /// Something that holds always: `true` for the values that ask for it; others are refused with the sentence.
    Always(fn(&str) -> bool, &'static str, &'static str),
}

/// Lambda's parameter, and what it is here.
const NAMES: [(&str, Meaning); 7] = [
    ("batch_size", Meaning::Key("limits", "fetch_records")),
    ("maximum_batching_window", Meaning::Key("commit", "interval")),
    ("parallelization_factor", Meaning::Key("stream", "parallelism")),
    ("maximum_attempts", Meaning::Key("restart", "intensity")),
    (
        "maximum_record_age",
        Meaning::Always(
            |text| matches!(text, "-1" | "infinite"),
            "no record is skipped here because it is old: it waits until it can be written",
            "write -1 or \"infinite\", or remove it; records that the stream itself forgot are stream.on_gap",
        ),
    ),
    (
        "bisect_on_error",
        Meaning::Always(
            |text| text == "true",
            "a bad record never takes its batch along: it alone becomes a dead letter, and one that kills the process is found \
             by halves",
            "write true, or remove it",
        ),
    ),
    (
        "on_failure_destination",
        Meaning::Always(
            |_| false,
            "Lambda sends where a failed batch lay and not its records; here the dead letters themselves are kept in dlq/, whole",
            "to have them sent to a queue as well, add [[sink]] with kind = \"sqs\"",
        ),
    ),
];

/// Moves the values under Lambda's names to their keys. Called for each file and once after the overrides, so that a later layer
/// wins under either name. Returns (key, Lambda's name) of what was moved, for later errors.
pub(super) fn rename(tree: &mut Node) -> Result<Vec<(String, String)>, Problem> {
    let mut moved = Vec::new();
    let Some(mapping) = take(tree) else { return Ok(moved) };
    let Value::Table(entries) = mapping.value else {
        let help = "write the table [stream.mapping] with keys such as batch_size = 1000";
        return Err(Problem::new("`stream.mapping`: expected a table").at(mapping.place).help(help));
    };
    for entry in entries {
        let name = format!("stream.mapping.{}", entry.key);
        match meaning(&entry.key) {
            None => return Err(unknown(&entry.key, entry.place)),
            Some(Meaning::Always(holds, why, help)) => {
                if !scalar(&entry.node).is_some_and(|text| holds(&text)) {
                    return Err(Problem::new(format!("`{name}`: {why}")).at(entry.node.place).help(*help));
                }
            }
            Some(Meaning::Key(table, key)) => {
                let target = format!("{table}.{key}");
                if tree.at(&target).is_some_and(|known| same_layer(known, &entry.node) && !same(known, &entry.node)) {
                    let message = format!("`{name}` and `{target}` are one setting under two names, and differ");
                    let help = format!("remove one of them; `{target}` stands at {}", tree.place_of(&target));
                    return Err(Problem::new(message).at(entry.node.place).help(help));
                }
                place(tree, table, key, entry.node).map_err(Problem::new)?;
                moved.push((target, name));
            }
        }
    }
    Ok(moved)
}

/// `limits.fetch_records` in a message reads with the name that the user wrote.
pub(super) fn explain(moved: &[(String, String)], problem: Problem) -> Problem {
    let message = moved.iter().find_map(|(key, name)| {
        let rest = problem.message.strip_prefix(&format!("`{key}`: "))?;
        Some(format!("`{name}` (here `{key}`): {rest}"))
    });
    Problem { message: message.unwrap_or(problem.message), ..problem }
}

fn take(tree: &mut Node) -> Option<Node> {
    tree.at("stream.mapping")?;
    let node = tree.table("stream", &tree.place.clone()).ok()?.take("mapping")?.node;
    match &node.value {
        Value::Loose(text) => Some(parse_loose(text, &node.place).unwrap_or(node)),
        Value::Text(_) | Value::Whole(_) | Value::Real(_) | Value::Flag(_) | Value::List(_) | Value::Table(_) => Some(node),
    }
}

fn place(tree: &mut Node, table: &str, key: &str, node: Node) -> Result<(), String> {
    let at = node.place.clone();
    *tree.table(table, &at)?.table(key, &at)? = node;
    Ok(())
}

fn meaning(name: &str) -> Option<&'static Meaning> {
    NAMES.iter().find(|(known, _)| *known == name).map(|(_, meaning)| meaning)
}

fn unknown(name: &str, place: Place) -> Problem {
    let known: Vec<&str> = NAMES.iter().map(|(known, _)| *known).collect();
    let list = format!("known here: {}", known.join(", "));
    let help = match (name, nearest(name, known)) {
        ("tumbling_window" | "tumbling_window_in_seconds", _) => {
            "windows are those of the Gold tables: window = { tumbling = \"1h\" }, in event time and across shards".to_owned()
        }
        ("starting_position", _) => "where a stream is begun is stream.start".to_owned(),
        (_, Some(near)) => format!("did you mean `{near}`? ({list})"),
        (_, None) => list,
    };
    Problem::new(format!("`stream.mapping`: unknown key `{name}`")).at(place).help(help)
}

/// Both from files, or both from overrides.
fn same_layer(one: &Node, other: &Node) -> bool {
    let is_file = |node: &Node| matches!(node.place, Place::Line { .. } | Place::File(_));
    is_file(one) == is_file(other)
}

fn same(one: &Node, other: &Node) -> bool {
    let (Some(one), Some(other)) = (scalar(one), scalar(other)) else { return false };
    let interval = |text: &str| text.parse::<Interval>().ok();
    one == other || interval(&one).is_some_and(|one| interval(&other) == Some(one))
}

fn scalar(node: &Node) -> Option<String> {
    match &node.value {
        Value::Text(text) | Value::Loose(text) => Some(text.clone()),
        Value::Whole(number) => Some(number.to_string()),
        Value::Real(number) => Some(number.to_string()),
        Value::Flag(flag) => Some(flag.to_string()),
        Value::List(_) | Value::Table(_) => None,
    }
}
