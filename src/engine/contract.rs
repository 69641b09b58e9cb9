//! The event contract: a JSON Schema made into columns and rules.
//!
//! Owns: the `events` table's schema, what an event must satisfy, where its time lies. Does not own: the walk over a record
//! (decode), the structure pass (structure).
//!
//! Columns: the members under `properties` in the order the schema's text names them, `_rest` (undeclared members as JSON text)
//! unless `additionalProperties` is false, then `event_time` and the record's coordinates. A schema without `properties` gives
//! one column `_event`: the JSON text as written. A root that declares `properties` must be an object even without `type`.

mod format;
mod outline;
mod pattern;
mod read;
pub(crate) mod shape;

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use jsonschema::{PatternOptions, ValidationOptions, Validator};
use serde_json::Value;
use sluicebox_actors::model::fault::Fault;

use super::decode::Decoder;
use super::event_time::Reader;
pub use super::event_time::{TimeFormat, TimeSource};
use outline::Outline;
use read::SchemaReader;
use shape::{Kinds, Layout, Node};

/// How events are dated.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EventOptions {
    /// Where the event time comes from.
    pub time: TimeSource,
    /// How that member is written.
    pub time_format: TimeFormat,
    /// Seconds east of UTC for formats without a zone.
    pub default_offset_s: i32,
    /// An event more than this many microseconds ahead of its arrival is refused.
    pub max_future_us: i64,
}

/// A schema that can't be a contract: where, why, and what to do.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("event schema at `{pointer}`: {message}; {remedy}")]
pub struct ContractError {
    /// The setting that is wrong: the schema, or how the event's time is read.
    pub setting: &'static str,
    /// JSON pointer into the schema; empty for the whole.
    pub pointer: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
}

impl ContractError {
    fn new(pointer: &str, message: &str, remedy: &str) -> Self {
        let (pointer, message, remedy) = (pointer.to_owned(), message.to_owned(), remedy.to_owned());
        Self { setting: "event.schema", pointer, message, remedy }
    }

    fn by(self, setting: &'static str) -> Self {
        Self { setting, ..self }
    }
}

impl From<ContractError> for Fault {
    fn from(error: ContractError) -> Self {
        Self::config(error.to_string())
    }
}

/// A column of the contract.
#[derive(Clone, Debug)]
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) layout: Layout,
    pub(crate) nullable: bool,
}

/// Everything a decoder needs; immutable.
#[derive(Debug)]
pub(crate) struct Compiled {
    pub(crate) root: Node,
    /// Slot of `_event`, where the schema declares no members.
    pub(crate) whole: Option<usize>,
    pub(crate) columns: Vec<Column>,
    pub(crate) slots: usize,
    pub(crate) memories: usize,
    /// Judges what the rules of `root` don't, if the schema asks for anything of the kind.
    pub(crate) general: Option<Validator>,
    pub(crate) schema: SchemaRef,
    pub(crate) time: TimeSource,
    pub(crate) reader: Reader,
    pub(crate) max_future_us: i64,
}

/// A compiled event contract. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Contract(Arc<Compiled>);

/// The general validator as we use it: formats asserted, patterns in linear time, nothing fetched from anywhere.
pub(crate) fn validator_options() -> ValidationOptions<'static> {
    jsonschema::options().should_validate_formats(true).with_pattern_options(PatternOptions::regex())
}

impl Contract {
    /// Compiles a schema from its text (the order of members is the order of columns). Schemas are taken in drafts 6 to 2020-12
    /// directly; what goes beyond the common subset is judged by the `jsonschema` crate as well, slower.
    pub fn compile(schema_text: &str, options: &EventOptions) -> Result<Self, ContractError> {
        let outline = Outline::new(schema_text).map_err(|broken| {
            ContractError::new("", &broken.message, "the schema must be one JSON value without duplicate names")
        })?;
        let schema: Value = serde_json::from_str(schema_text)
            .map_err(|error| ContractError::new("", &error.to_string(), "the schema must be one JSON value"))?;
        let general = validator_options().build(&schema).map_err(|error| {
            let remedy = "follow the draft that `$schema` names; references must lead to places inside this schema";
            ContractError::new(error.instance_path().as_str(), &error.to_string(), remedy)
        })?;
        let mut reader = SchemaReader::new(&schema, &outline);
        let root = reader.root()?;
        let (columns, whole) = columns(&root, &mut reader);
        let time_reader = time_reader(options, &root, whole.is_some())?;
        let (slots, memories) = (reader.slots, reader.memories);
        let general = reader.general.then_some(general);
        let schema = table(&columns);
        let (time, max_future_us) = (options.time.clone(), options.max_future_us);
        Ok(Self(Arc::new(Compiled {
            root,
            whole,
            columns,
            slots,
            memories,
            general,
            schema,
            time,
            reader: time_reader,
            max_future_us,
        })))
    }

    /// Columns of the `events` table.
    pub fn schema(&self) -> SchemaRef {
        self.0.schema.clone()
    }

    /// A decoder with buffers of its own.
    pub fn decoder(&self) -> Decoder {
        Decoder::new(self.0.clone())
    }

    /// The event time of one record in microseconds, without asking whether it satisfies the contract. `None` if the record is
    /// not JSON, has no readable time, or time is arrival.
    pub fn event_time_of(&self, data: &[u8]) -> Option<i64> {
        super::decode::event_time_of(&self.0, data)
    }

    /// Top-level members that the contract calls number or integer, nullable or not, in declared order.
    pub fn number_columns(&self) -> Vec<String> {
        let Some(object) = &self.0.root.object else { return Vec::new() };
        let is_number = |node: &Node| {
            let kinds = node.kinds.without(Kinds::NULL);
            kinds != Kinds::NONE && kinds.without(Kinds::NUMBER) == Kinds::NONE
        };
        let numbers = object.members.iter().filter(|member| member.declared && is_number(&member.node));
        numbers.map(|member| member.name.clone()).collect()
    }

    /// Must every record also pass the general validator? Then decoding is several times slower.
    pub fn is_general(&self) -> bool {
        self.0.general.is_some()
    }
}

fn columns(root: &Node, reader: &mut SchemaReader<'_>) -> (Vec<Column>, Option<usize>) {
    let Some(Layout::Struct(_, fields, rest)) = read::layout(root) else {
        let slot = reader.slot();
        let whole = Column { name: "_event".to_owned(), layout: Layout::Text(slot), nullable: false };
        return (vec![whole], Some(slot));
    };
    let required = |name: &str| {
        let mut members = root.object.iter().flat_map(|object| &object.members);
        members.any(|member| member.name == name && member.required && !member.node.kinds.has(Kinds::NULL))
    };
    let named = fields.into_iter().map(|(name, layout)| Column { nullable: !required(&name), name, layout });
    let rest = rest.map(|slot| Column { name: "_rest".to_owned(), layout: Layout::Text(slot), nullable: true });
    (named.chain(rest).collect(), None)
}

fn time_reader(options: &EventOptions, root: &Node, whole: bool) -> Result<Reader, ContractError> {
    let reader = Reader::new(&options.time_format, options.default_offset_s)
        .map_err(|why| ContractError::new("", &why, "write a pattern such as %Y-%m-%d %H:%M:%S%.f").by("event.time_format"))?;
    let TimeSource::Path(path) = &options.time else { return Ok(reader) };
    let shown = path.join(".");
    if path.is_empty() {
        let error = ContractError::new("", "the path of the event time is empty", "name a member, or use arrival time");
        return Err(error.by("event.time"));
    }
    let mut node = Some(root);
    for name in path {
        let Some(object) = node.and_then(|node| node.object.as_ref()) else { return Ok(reader) };
        let member = object.members.iter().find(|member| member.name == *name && member.declared);
        if member.is_none() && object.closed && !whole {
            let message = format!("the event time `{shown}` is not among the members that the schema allows");
            return Err(ContractError::new("/properties", &message, "declare it, or name another member as the event time"));
        }
        node = member.map(|member| &member.node);
    }
    let readable = match &reader {
        Reader::Rfc3339 | Reader::Custom { .. } => Kinds::STRING,
        Reader::Epoch(_) => Kinds::STRING.or(Kinds::NUMBER),
    };
    if node.is_some_and(|node| !node.kinds.has(readable)) {
        let message = format!("the event time `{shown}` can never be a {} as its format asks", readable.names());
        return Err(ContractError::new("/properties", &message, "correct the time format or the member's type"));
    }
    Ok(reader)
}

fn data_type(layout: &Layout) -> DataType {
    match layout {
        Layout::Text(_) => DataType::Utf8,
        Layout::Integer(_) => DataType::Int64,
        Layout::Float(_) => DataType::Float64,
        Layout::Decimal(_, scale) => DataType::Decimal128(18, *scale as i8),
        Layout::Boolean(_) => DataType::Boolean,
        Layout::Struct(_, fields, rest) => DataType::Struct(struct_fields(fields, rest.is_some())),
    }
}

/// Fields inside a struct are all nullable: where the struct is null they are too.
pub(crate) fn struct_fields(fields: &[(String, Layout)], rest: bool) -> Fields {
    let named = fields.iter().map(|(name, layout)| Field::new(name, data_type(layout), true));
    named.chain(rest.then(|| Field::new("_rest", DataType::Utf8, true))).collect()
}

fn table(columns: &[Column]) -> SchemaRef {
    let time = || DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let contract = columns.iter().map(|column| Field::new(&column.name, data_type(&column.layout), column.nullable));
    let added = [
        Field::new("event_time", time(), false),
        Field::new("_stream", DataType::Utf8, false),
        Field::new("_shard", DataType::Utf8, false),
        Field::new("_sequence", DataType::Utf8, false),
        Field::new("_sub_sequence", DataType::Int32, false),
        Field::new("_partition_key", DataType::Utf8, false),
        Field::new("_arrival_time", time(), false),
    ];
    Arc::new(Schema::new(contract.chain(added).collect::<Vec<_>>()))
}

#[cfg(test)]
mod tests;
