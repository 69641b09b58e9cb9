//! The layers: built-in defaults, then the file, then files that are laid over it, then the environment, then `--set`.
//!
//! Owns: reading the files and the schema, places for later errors, the built-in pipeline and presets. Does not own: keys and
//! their meaning (settings), what the schema says (engine).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::decode::decode;
use super::mapping;
use super::problem::{Place, Problem, SettingsError};
use super::tree::{Node, Override};
use super::{Event, Settings};

/// Where a pipeline file is looked for when none is named.
pub const DEFAULT_FILE: &str = "config/local.toml";

/// Text of the built-in pipeline: what runs when there is no file.
pub const BUILTIN_PIPELINE: &str = include_str!("../../config/local.toml");

/// Text of the reference: every key with its default.
pub const REFERENCE: &str = include_str!("../../config/reference.toml");

/// Text of the built-in pipeline's schema.
pub const BUILTIN_SCHEMA: &str = include_str!("../../config/schemas/clickstream.schema.json");

/// Files to lay over a pipeline, by name: numbers for one aim.
pub const PRESETS: [(&str, &str); 3] = [
    ("low-latency", include_str!("../../config/presets/low-latency.toml")),
    ("high-throughput", include_str!("../../config/presets/high-throughput.toml")),
    ("cost-optimised", include_str!("../../config/presets/cost-optimised.toml")),
];

/// Which pipeline to load.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Source {
    /// The built-in one.
    Builtin,
    /// A file.
    File(PathBuf),
}

impl Source {
    /// The file that was named, else the usual one if it is there, else the built-in pipeline.
    pub fn choose(named: Option<&Path>) -> Self {
        match named {
            Some(path) => Self::File(path.to_owned()),
            None if Path::new(DEFAULT_FILE).is_file() => Self::File(DEFAULT_FILE.into()),
            None => Self::Builtin,
        }
    }

    fn origin(&self) -> Arc<str> {
        match self {
            Self::Builtin => "(built-in pipeline)".into(),
            Self::File(path) => path.display().to_string().into(),
        }
    }
}

/// Settings that were read and don't contradict each other, with what is needed to explain a later error.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The settings.
    pub settings: Settings,
    /// Where they came from.
    pub source: Source,
    /// Text of the event schema.
    pub schema: Arc<str>,
    /// Name of the schema for messages: a path, or the built-in one.
    pub schema_origin: Arc<str>,
    tree: Node,
    files: Vec<File>,
}

/// A file that was read: its name and its text.
type File = (Arc<str>, Arc<str>);

/// Reads all layers and refuses what is wrong, with every contradiction at once. `variables` is the environment, `sets` are the
/// arguments of `--set`.
pub fn load(
    source: &Source,
    variables: impl IntoIterator<Item = (String, String)>,
    sets: &[String],
) -> Result<Loaded, SettingsError> {
    load_over(source, &[], variables, sets)
}

/// [`load`] with files laid over the pipeline file, the last on top.
pub fn load_over(
    source: &Source,
    overlays: &[PathBuf],
    variables: impl IntoIterator<Item = (String, String)>,
    sets: &[String],
) -> Result<Loaded, SettingsError> {
    let mut files = vec![(source.origin(), read_pipeline(source)?)];
    for path in overlays {
        let over = Source::File(path.clone());
        files.push((over.origin(), read_pipeline(&over)?));
    }
    let (settings, tree) = layers(&files, variables, sets)?;
    let (schema, schema_origin) = read_schema(source, &settings.event, &tree)?;
    Ok(Loaded { settings, source: source.clone(), schema, schema_origin, tree, files })
}

/// [`load`] without a disk: the settings that a file's text says, under overrides. The schema is only named in it.
pub fn load_text(
    origin: &str,
    text: &str,
    variables: impl IntoIterator<Item = (String, String)>,
    sets: &[String],
) -> Result<Settings, SettingsError> {
    layers(&[(origin.into(), text.into())], variables, sets).map(|(settings, _)| settings)
}

fn layers(
    files: &[File],
    variables: impl IntoIterator<Item = (String, String)>,
    sets: &[String],
) -> Result<(Settings, Node), SettingsError> {
    let mut tree = Node::empty(Place::File(files.first().map_or_else(|| "".into(), |(origin, _)| origin.clone())));
    let mut moved = Vec::new();
    for (origin, text) in files {
        let mut file = Node::parse(origin, text)?;
        moved.extend(mapping::rename(&mut file)?);
        tree.lay(file);
    }
    let mut variables: Vec<(String, String)> = variables.into_iter().collect();
    variables.sort();
    for over in variables.iter().filter_map(|(name, value)| Override::variable(name, value)) {
        tree.set(&over)?;
    }
    for argument in sets {
        tree.set(&Override::argument(argument)?)?;
    }
    moved.extend(mapping::rename(&mut tree)?);
    let settings: Settings = decode(&tree).map_err(|problem| mapping::explain(&moved, problem))?;
    let problems: Vec<Problem> = settings
        .check()
        .into_iter()
        .map(|finding| {
            let place = tree.place_of(&finding.key);
            let problem = Problem::new(format!("`{}`: {}", finding.key, finding.message)).at(place).help(finding.help);
            mapping::explain(&moved, problem)
        })
        .collect();
    if !problems.is_empty() {
        return Err(SettingsError { problems });
    }
    Ok((settings, tree))
}

impl Loaded {
    /// See [`Settings::fingerprint`].
    pub fn fingerprint(&self) -> String {
        self.settings.fingerprint(&self.schema)
    }

    /// Where a key stands (`gold.0.sql` or `gold.<name>.sql`), or the nearest table around it.
    pub fn place_of(&self, key: &str) -> Place {
        self.tree.place_of(key)
    }

    /// Where a line and column (both from 1) inside a text value stand in the file: for errors inside SQL. Exact for values in
    /// triple quotes and for one-line values without escapes; values from an override answer with the override.
    pub fn place_in(&self, key: &str, line: usize, column: usize) -> Place {
        let place = self.tree.place_of(key);
        let Place::Line { file, line: first_line, column: first_column } = &place else { return place };
        let text = self.files.iter().find(|(origin, _)| origin == file).map(|(_, text)| text.as_ref()).unwrap_or_default();
        let opening = text.lines().nth(first_line - 1).unwrap_or_default();
        let opening: String = opening.chars().skip(first_column - 1).collect();
        let (skipped_lines, skipped_columns) = match opening.as_str() {
            "\"\"\"" | "'''" => (1, 0),
            text if text.starts_with("\"\"\"") || text.starts_with("'''") => (0, first_column + 2),
            _ => (0, *first_column),
        };
        // SQL parsers count from 1; what has no place (0) is named by the first line.
        let (line, column) = (line.max(1), column.max(1));
        let offset = if line == 1 { skipped_columns } else { 0 };
        Place::Line { file: file.clone(), line: first_line + skipped_lines + line - 1, column: offset + column }
    }
}

fn read_pipeline(source: &Source) -> Result<Arc<str>, Problem> {
    match source {
        Source::Builtin => Ok(BUILTIN_PIPELINE.into()),
        Source::File(path) => std::fs::read_to_string(path).map(Into::into).map_err(|error| {
            let help = "name another with --config FILE, or write one with `sluicebox init`";
            Problem::new(format!("the pipeline file cannot be read: {error}")).at(Place::File(source.origin())).help(help)
        }),
    }
}

fn read_schema(source: &Source, event: &Event, tree: &Node) -> Result<(Arc<str>, Arc<str>), Problem> {
    let folder = match source {
        Source::Builtin if event.schema == Path::new("schemas/clickstream.schema.json") => {
            return Ok((BUILTIN_SCHEMA.into(), "(built-in schema)".into()));
        }
        Source::Builtin => Path::new(""),
        Source::File(path) => path.parent().unwrap_or(Path::new("")),
    };
    let path = folder.join(&event.schema);
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok((text.into(), path.display().to_string().into())),
        Err(error) => {
            let message = format!("the event schema {} cannot be read: {error}", path.display());
            let help = "write its path relative to the pipeline file, or put the file there";
            Err(Problem::new(message).at(tree.place_of("event.schema")).help(help))
        }
    }
}
