//! The settings as a tree in which every value knows its place.
//!
//! Owns: reading TOML, laying files and overrides over each other, finding a place by key. Does not own: what the keys mean
//! (settings), turning the tree into values (decode).
//!
//! Overrides are why there is a tree of our own between TOML and serde: a wrong value from `--set` or from the environment is
//! reported there, not at a line of the file.

use std::sync::Arc;

use toml_edit::{Document, Item, Table, TableLike, Value as TomlValue};

use super::problem::{Place, Problem};

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Node {
    /// Where its text begins.
    pub(super) place: Place,
    /// What it is.
    pub(super) value: Value,
}

/// What a node holds.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Text(String),
    Whole(i64),
    Real(f64),
    Flag(bool),
    List(Vec<Node>),
    Table(Vec<Entry>),
    /// Text of an override: becomes whatever the key asks for.
    Loose(String),
}

/// A key of a table, its place and its value.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) place: Place,
    pub(super) node: Node,
}

/// One `a.b.c = value` that is laid over the file.
#[derive(Clone, Debug)]
pub(super) struct Override {
    /// Key segments; numbers and names select inside lists of tables.
    pub(super) path: Vec<String>,
    /// The value as written.
    pub(super) text: String,
    /// How the user wrote it.
    pub(super) place: Place,
}

impl Override {
    /// Reads the argument of `--set`.
    pub(super) fn argument(text: &str) -> Result<Self, Problem> {
        let place = Place::Argument(format!("--set {text}").into());
        let wrong = |message: &str| {
            Problem::new(message).at(place.clone()).help("write --set table.key=value, such as --set stream.shards=8")
        };
        let (path, value) = text.split_once('=').ok_or_else(|| wrong("an override needs a value"))?;
        let path: Vec<String> = path.trim().split('.').map(str::to_owned).collect();
        if path.iter().any(String::is_empty) {
            return Err(wrong("a part of the key is empty"));
        }
        Ok(Self { path, text: value.trim().to_owned(), place })
    }

    /// Reads an environment variable; `None` if it is not one of ours.
    pub(super) fn variable(name: &str, value: &str) -> Option<Self> {
        let path = name.strip_prefix("SLUICEBOX__")?;
        let path = path.split("__").map(str::to_ascii_lowercase).collect();
        Some(Self { path, text: value.to_owned(), place: Place::Variable(name.into()) })
    }
}

impl Node {
    /// Reads a file's text.
    pub(super) fn parse(file: &Arc<str>, text: &str) -> Result<Self, Problem> {
        let lines = Lines { file, text };
        let document = Document::parse(text).map_err(|error| {
            let at = error.span().map_or_else(|| Place::File(file.clone()), |span| lines.place(span.start));
            let help = "the file is TOML: `key = value` lines under [table] headings; text stands in quotes";
            Problem::new(format!("not TOML: {}", error.message().replace('\n', ", "))).at(at).help(help)
        })?;
        Ok(Self { place: Place::File(file.clone()), value: lines.table(document.as_table()) })
    }

    /// An empty table.
    pub(super) fn empty(place: Place) -> Self {
        Self { place, value: Value::Table(Vec::new()) }
    }

    /// Lays one override over the tree.
    pub(super) fn set(&mut self, over: &Override) -> Result<(), Problem> {
        let mut node = self;
        for (depth, segment) in over.path.iter().enumerate() {
            node = match node.child(segment, &over.place) {
                Ok(child) => child,
                Err(why) => {
                    let key = over.path[..=depth].join(".");
                    return Err(Problem::new(format!("`{key}` cannot be set: {why}")).at(over.place.clone()));
                }
            };
        }
        *node = Self { place: over.place.clone(), value: Value::Loose(over.text.clone()) };
        Ok(())
    }

    /// Lays a later file over this one: tables key by key, everything else (lists, too) whole.
    pub(super) fn lay(&mut self, over: Self) {
        match (&mut self.value, over.value) {
            (Value::Table(entries), Value::Table(more)) => {
                for entry in more {
                    match entries.iter_mut().find(|known| known.key == entry.key) {
                        Some(known) => known.node.lay(entry.node),
                        None => entries.push(entry),
                    }
                }
            }
            (_, value) => *self = Self { place: over.place, value },
        }
    }

    /// Takes a key out of a table.
    pub(super) fn take(&mut self, segment: &str) -> Option<Entry> {
        let Value::Table(entries) = &mut self.value else { return None };
        let at = entries.iter().position(|entry| entry.key == segment)?;
        Some(entries.remove(at))
    }

    /// The node under a dotted key, if there is one.
    pub(super) fn at(&self, key: &str) -> Option<&Self> {
        key.split('.').try_fold(self, |node, segment| node.find(segment).map(|(_, found)| found))
    }

    /// The table under a key of this one; made if there is none.
    pub(super) fn table(&mut self, segment: &str, place: &Place) -> Result<&mut Self, String> {
        self.child(segment, place)
    }

    /// The place of a key, or of the nearest table around it that is written somewhere.
    pub(super) fn place_of(&self, key: &str) -> Place {
        let mut node = self;
        let mut place = self.place.clone();
        for segment in key.split('.') {
            match node.find(segment) {
                Some((found, next)) => (place, node) = (found, next),
                None => break,
            }
        }
        place
    }

    fn find(&self, segment: &str) -> Option<(Place, &Node)> {
        match &self.value {
            Value::Table(entries) => {
                entries.iter().find(|entry| entry.key == segment).map(|entry| (entry.node.place_or(&entry.place), &entry.node))
            }
            Value::List(items) => {
                let at = position(items, segment)?;
                items.get(at).map(|item| (item.place.clone(), item))
            }
            Value::Text(_) | Value::Whole(_) | Value::Real(_) | Value::Flag(_) | Value::Loose(_) => None,
        }
    }

    // A table's own place is its heading; a plain value is best named where its text begins.
    fn place_or(&self, key: &Place) -> Place {
        match &self.value {
            Value::Table(_) | Value::List(_) => key.clone(),
            Value::Text(_) | Value::Whole(_) | Value::Real(_) | Value::Flag(_) | Value::Loose(_) => self.place.clone(),
        }
    }

    fn child(&mut self, segment: &str, place: &Place) -> Result<&mut Node, String> {
        match &mut self.value {
            Value::Table(entries) => {
                let at = entries.iter().position(|entry| entry.key == segment).unwrap_or_else(|| {
                    entries.push(Entry { key: segment.to_owned(), place: place.clone(), node: Self::empty(place.clone()) });
                    entries.len() - 1
                });
                Ok(&mut entries[at].node)
            }
            Value::List(items) => {
                let count = items.len();
                let at = position(items, segment).unwrap_or(count);
                items
                    .get_mut(at)
                    .ok_or_else(|| format!("there are {count} entries, counted from 0, and none has the name `{segment}`"))
            }
            Value::Text(_) | Value::Whole(_) | Value::Real(_) | Value::Flag(_) | Value::Loose(_) => {
                Err("what stands there is a plain value, not a table".to_owned())
            }
        }
    }

    fn is_named(&self, name: &str) -> bool {
        matches!(self.find("name"), Some((_, Node { value: Value::Text(text), .. })) if text == name)
    }
}

/// An entry of a list, by index from 0 or by its `name`.
fn position(items: &[Node], segment: &str) -> Option<usize> {
    segment.parse().ok().or_else(|| items.iter().position(|item| item.is_named(segment)))
}

/// Reads the text of an override as TOML, for lists and tables; every part of it stands at the override's place.
pub(super) fn parse_loose(text: &str, place: &Place) -> Option<Node> {
    let document = Document::parse(format!("value = {text}")).ok()?;
    let lines = Lines { file: &Arc::from(""), text: "" };
    let mut node = lines.item(document.as_table().get("value")?, None);
    node.move_to(place);
    Some(node)
}

impl Node {
    fn move_to(&mut self, place: &Place) {
        self.place = place.clone();
        match &mut self.value {
            Value::List(items) => items.iter_mut().for_each(|item| item.move_to(place)),
            Value::Table(entries) => entries.iter_mut().for_each(|entry| {
                entry.place = place.clone();
                entry.node.move_to(place);
            }),
            Value::Text(_) | Value::Whole(_) | Value::Real(_) | Value::Flag(_) | Value::Loose(_) => {}
        }
    }
}

/// A file's text, to turn offsets into lines and columns.
struct Lines<'a> {
    file: &'a Arc<str>,
    text: &'a str,
}

impl Lines<'_> {
    fn place(&self, offset: usize) -> Place {
        let before = self.text.get(..offset).unwrap_or(self.text);
        let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        Place::Line { file: self.file.clone(), line, column }
    }

    fn spot(&self, span: Option<std::ops::Range<usize>>, or: Option<&Place>) -> Place {
        match (span, or) {
            (Some(span), _) => self.place(span.start),
            (None, Some(place)) => place.clone(),
            (None, None) => Place::File(self.file.clone()),
        }
    }

    fn table(&self, table: &Table) -> Value {
        Value::Table(self.entries(table))
    }

    fn entries(&self, table: &dyn TableLike) -> Vec<Entry> {
        let entry = |(key, item): (&str, &Item)| {
            let place = self.spot(table.key(key).and_then(toml_edit::Key::span), None);
            Entry { key: key.to_owned(), node: self.item(item, Some(&place)), place }
        };
        table.iter().map(entry).collect()
    }

    fn item(&self, item: &Item, key: Option<&Place>) -> Node {
        match item {
            Item::None => Node::empty(self.spot(None, key)),
            Item::Value(value) => self.value(value, key),
            Item::Table(table) => Node { place: self.spot(table.span(), key), value: self.table(table) },
            Item::ArrayOfTables(tables) => {
                let items = tables.iter().map(|table| Node { place: self.spot(table.span(), key), value: self.table(table) });
                Node { place: self.spot(tables.span(), key), value: Value::List(items.collect()) }
            }
        }
    }

    fn value(&self, value: &TomlValue, key: Option<&Place>) -> Node {
        let content = match value {
            TomlValue::String(text) => Value::Text(text.value().clone()),
            TomlValue::Integer(number) => Value::Whole(*number.value()),
            TomlValue::Float(number) => Value::Real(*number.value()),
            TomlValue::Boolean(flag) => Value::Flag(*flag.value()),
            TomlValue::Datetime(time) => Value::Text(time.value().to_string()),
            TomlValue::Array(items) => Value::List(items.iter().map(|item| self.value(item, key)).collect()),
            TomlValue::InlineTable(table) => Value::Table(self.entries(table)),
        };
        Node { place: self.spot(value.span(), key), value: content }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str =
        "[stream]\nshards = 4\n\n[[gold]]\nname = \"a\"\nwindow = { tumbling = \"1h\" }\n\n[[gold]]\nname = \"b\"\n";

    fn tree() -> Node {
        Node::parse(&"t.toml".into(), TEXT).expect("valid")
    }

    #[test]
    fn every_key_has_its_line_and_column() {
        let tree = tree();
        let at = |key: &str| tree.place_of(key).to_string();
        assert_eq!(at("stream.shards"), "t.toml:2:10");
        assert_eq!(at("gold.0.window.tumbling"), "t.toml:6:23");
        assert_eq!(at("gold.1.name"), "t.toml:9:8");
        assert_eq!(at("gold.b.name"), "t.toml:9:8", "a table in a list is found by its name, too");
        assert_eq!(at("gold.1.window.tumbling"), "t.toml:8:1", "a missing key stands at its table");
        assert_eq!(at("commit.size"), "t.toml", "a missing table stands at the file");
    }

    #[test]
    fn an_override_replaces_by_index_and_by_name_and_keeps_its_own_place() {
        let mut tree = tree();
        for text in ["gold.1.window.tumbling=2h", "gold.a.name=c", "commit.size=1MiB"] {
            tree.set(&Override::argument(text).expect("well formed")).expect("applies");
        }
        tree.set(&Override::variable("SLUICEBOX__STREAM__SHARDS", "8").expect("ours")).expect("applies");
        assert_eq!(tree.place_of("gold.1.window.tumbling").to_string(), "--set gold.1.window.tumbling=2h");
        assert_eq!(tree.place_of("gold.0.name").to_string(), "--set gold.a.name=c");
        assert_eq!(tree.place_of("commit.size").to_string(), "--set commit.size=1MiB");
        assert_eq!(tree.place_of("stream.shards").to_string(), "environment variable SLUICEBOX__STREAM__SHARDS");
    }

    #[test]
    fn an_override_that_leads_nowhere_is_refused() {
        let mut tree = tree();
        for (text, part) in
            [("gold.7.name=x", "2 entries"), ("gold.nobody.name=x", "`nobody`"), ("stream.shards.x=1", "plain value")]
        {
            let problem = tree.set(&Override::argument(text).expect("well formed")).expect_err(text);
            assert!(problem.message.contains(part), "{problem}");
        }
        assert!(Override::argument("stream.shards").is_err());
        assert!(Override::argument("stream..shards=1").is_err());
        assert!(Override::variable("SLUICEBOX_LOG", "debug").is_none());
    }

    #[test]
    fn a_later_file_wins_key_by_key_and_keeps_its_own_places() {
        let mut tree = tree();
        let over = "[commit]\nsize = \"1MiB\"\n[stream]\nname = \"b\"\n[[gold]]\nname = \"c\"\n";
        tree.lay(Node::parse(&"over.toml".into(), over).expect("valid"));
        let at = |key: &str| tree.place_of(key).to_string();
        assert_eq!(at("stream.shards"), "t.toml:2:10");
        assert_eq!(at("stream.name"), "over.toml:4:8");
        assert_eq!(at("commit.size"), "over.toml:2:8");
        assert_eq!(at("gold.0.name"), "over.toml:6:8", "a list is replaced whole");
        assert!(tree.at("gold.1").is_none());
    }

    #[test]
    fn what_is_not_toml_is_refused_at_its_line() {
        let problem = Node::parse(&"t.toml".into(), "[stream]\nshards = four\n").expect_err("not TOML");
        assert_eq!(problem.place.map(|place| place.to_string()), Some("t.toml:2:10".to_owned()));
    }
}
