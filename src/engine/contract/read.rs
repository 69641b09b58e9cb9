//! From a JSON Schema to the compiled contract.
//!
//! Owns: which keywords run directly, which need the general validator as well, and which column a member gets. Does not own: the
//! rules of one keyword at run time (decode/check), dialects of regular expressions (pattern).
//!
//! Every keyword read here is a necessary condition on its own, so a schema that also uses others (`oneOf`, `if`, …) keeps the
//! precise reasons for what is read here and asks the `jsonschema` crate for the rest.

use serde_json::{Map, Value};

use super::ContractError;
use super::format::Format;
use super::outline::Outline;
use super::shape::{ArrayRules, Kinds, Layout, Limit, Member, Node, NumberRules, ObjectRules, Scalar, Store, TextRules};
use crate::engine::structure::text::Decimal;

/// Schemas may repeat themselves through `$ref`; this many places in all is where it stops being a contract.
const MOST_NODES: usize = 20_000;
/// References inside references, at most.
const LONGEST_CHAIN: usize = 200;
/// DECIMAL(18, s) takes `multipleOf: 10^-s` up to here.
const FINEST_SCALE: i64 = 9;

/// Keywords that say nothing about validity.
const COMMENTS: [&str; 14] = [
    "$schema",
    "$id",
    "id",
    "$comment",
    "$defs",
    "definitions",
    "title",
    "description",
    "default",
    "examples",
    "deprecated",
    "readOnly",
    "writeOnly",
    "$anchor",
];

/// Keywords that only the general validator judges.
const GENERAL: [&str; 24] = [
    "allOf",
    "not",
    "if",
    "then",
    "else",
    "$dynamicRef",
    "$recursiveRef",
    "patternProperties",
    "propertyNames",
    "dependencies",
    "dependentRequired",
    "dependentSchemas",
    "unevaluatedProperties",
    "unevaluatedItems",
    "contains",
    "minContains",
    "maxContains",
    "uniqueItems",
    "prefixItems",
    "additionalItems",
    "minProperties",
    "maxProperties",
    "contentEncoding",
    "contentMediaType",
];

pub(super) struct SchemaReader<'a> {
    root: &'a Value,
    outline: &'a Outline<'a>,
    /// References being followed: one that comes again is recursive.
    following: Vec<String>,
    /// An inner `$id` moves the base of references: they are left to the general validator.
    inner_ids: bool,
    nodes: usize,
    /// Slots of a row handed out so far.
    pub(super) slots: usize,
    /// Objects whose order of members is remembered.
    pub(super) memories: usize,
    /// Something was met that only the general validator judges.
    pub(super) general: bool,
}

type Read<T> = Result<T, ContractError>;

impl<'a> SchemaReader<'a> {
    pub(super) fn new(root: &'a Value, outline: &'a Outline<'a>) -> Self {
        let inner_ids = root.as_object().is_some_and(|root| root.values().any(mentions_id));
        let draft = root.get("$schema").and_then(Value::as_str).unwrap_or("2020-12");
        let general = !["2020-12", "2019-09", "draft-07", "draft-06"].iter().any(|known| draft.contains(known));
        Self { root, outline, following: Vec::new(), inner_ids, nodes: 0, slots: 0, memories: 0, general }
    }

    pub(super) fn slot(&mut self) -> usize {
        self.slots += 1;
        self.slots - 1
    }

    /// The root: an object if it declares `properties`.
    pub(super) fn root(&mut self) -> Read<Node> {
        self.node(self.root, "", true, true)
    }

    /// `columns`: what stands here gets a column of its own. `top`: it is the event itself.
    fn node(&mut self, schema: &'a Value, at: &str, columns: bool, top: bool) -> Read<Node> {
        self.nodes += 1;
        if self.nodes > MOST_NODES {
            return Err(ContractError::new(at, "the schema unfolds to too many places", "use fewer nested `$ref`s"));
        }
        let map = match schema {
            Value::Bool(true) => return Ok(self.json(Kinds::ALL, columns && !top)),
            Value::Object(map) => map,
            Value::Bool(_) | Value::Null | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                return Ok(self.json(Kinds::NONE, columns && !top));
            }
        };
        if let Some(reference) = map.get("$ref") {
            return self.reference(map, reference, columns, top);
        }
        if let Some(node) = self.or_null(map, at, columns, top)? {
            return Ok(node);
        }
        self.general |= map.keys().any(|key| GENERAL.contains(&key.as_str()) || key == "anyOf" || key == "oneOf");
        let mut kinds = kinds_of(map);
        let has_properties = map.get("properties").and_then(Value::as_object).is_some_and(|members| !members.is_empty());
        if top && has_properties {
            kinds = kinds.and(Kinds::OBJECT);
            if kinds == Kinds::NONE {
                return Err(ContractError::new("/type", "an event with `properties` is an object", "set `type` to `object`"));
            }
        }
        let mut node = Node::of(kinds);
        self.constants(map, &mut node);
        node.text = text_rules(map, at)?.map(Box::new);
        node.number = self.number_rules(map).map(Box::new);
        node.array = self.array_rules(map, at)?.map(Box::new);
        let is_struct = columns && has_properties && kinds.without(Kinds::NULL) == Kinds::OBJECT;
        node.object = self.object_rules(map, at, is_struct, top)?.map(Box::new);
        if columns && (is_struct || !top) {
            node.store = self.store(&node, is_struct);
        }
        // Taking the digits into a DECIMAL column checks the unit; what else there is to check stays.
        if let (Store::Decimal(..), Some(rules)) = (node.store, &mut node.number) {
            rules.multiple_of = None;
            node.number = node.number.filter(|rules| rules.any());
        }
        Ok(node)
    }

    fn json(&mut self, kinds: Kinds, column: bool) -> Node {
        let mut node = Node::of(kinds);
        if column {
            node.store = Store::Json(self.slot());
        }
        node
    }

    fn store(&mut self, node: &Node, is_struct: bool) -> Store {
        let slot = self.slot();
        if is_struct {
            return Store::Struct(slot);
        }
        match node.kinds.without(Kinds::NULL) {
            Kinds::STRING => Store::Text(slot),
            Kinds::INTEGER => Store::Integer(slot),
            Kinds::BOOLEAN => Store::Boolean(slot),
            Kinds::NUMBER => {
                match node.number.as_ref().and_then(|rules| rules.multiple_of).and_then(|(unit, _)| scale_of(unit)) {
                    Some(scale) => Store::Decimal(slot, scale),
                    None => Store::Float(slot),
                }
            }
            _ => Store::Json(slot),
        }
    }

    /// A reference inside this schema is read in place, so that it costs nothing at run time.
    fn reference(&mut self, map: &'a Map<String, Value>, reference: &'a Value, columns: bool, top: bool) -> Read<Node> {
        let alone = map.keys().all(|key| key == "$ref" || COMMENTS.contains(&key.as_str()));
        let pointer = reference.as_str().and_then(|reference| reference.strip_prefix('#')).filter(|_| alone && !self.inner_ids);
        let target =
            pointer.filter(|pointer| !pointer.contains('%')).and_then(|pointer| Some((pointer, self.root.pointer(pointer)?)));
        match target {
            Some((pointer, target)) if !self.following.iter().any(|open| open == pointer) => {
                if self.following.len() == LONGEST_CHAIN {
                    return Err(ContractError::new(pointer, "more than 200 references lie inside each other", "refer less deep"));
                }
                self.following.push(pointer.to_owned());
                let node = self.node(target, pointer, columns, top);
                self.following.pop();
                node
            }
            Some(_) | None => {
                self.general = true;
                Ok(self.json(Kinds::ALL, columns && !top))
            }
        }
    }

    /// `anyOf` or `oneOf` of one schema and `null`: the schema, nullable.
    fn or_null(&mut self, map: &'a Map<String, Value>, at: &str, columns: bool, top: bool) -> Read<Option<Node>> {
        let mut rules = map.iter().filter(|(key, _)| !COMMENTS.contains(&key.as_str()));
        let (Some((keyword, Value::Array(options))), None) = (rules.next(), rules.next()) else {
            return Ok(None);
        };
        let is_null = |schema: &Value| {
            schema.get("type").and_then(Value::as_str) == Some("null") && schema.as_object().is_some_and(|map| map.len() == 1)
        };
        let at = match options.as_slice() {
            [_, null] if is_null(null) => format!("{at}/{keyword}/0"),
            [null, _] if is_null(null) => format!("{at}/{keyword}/1"),
            _ => return Ok(None),
        };
        let schema = if at.ends_with('0') { &options[0] } else { &options[1] };
        if !matches!(keyword.as_str(), "anyOf" | "oneOf") || top {
            return Ok(None);
        }
        let before = (self.slots, self.memories, self.nodes, self.general);
        let mut node = self.node(schema, &at, columns, top)?;
        if keyword == "oneOf" && node.kinds.has(Kinds::NULL) {
            (self.slots, self.memories, self.nodes, self.general) = before;
            return Ok(None);
        }
        node.kinds = node.kinds.or(Kinds::NULL);
        if let Some(constant) = node.constant.take() {
            node.one_of = Some(vec![constant]);
        }
        if let Some(constants) = &mut node.one_of {
            constants.push(Scalar::Null);
        }
        Ok(Some(node))
    }

    fn constants(&mut self, map: &Map<String, Value>, node: &mut Node) {
        if let Some(constant) = map.get("const") {
            node.constant = scalar(constant);
            self.general |= node.constant.is_none();
        }
        if let Some(Value::Array(values)) = map.get("enum") {
            node.one_of = values.iter().map(scalar).collect();
            self.general |= node.one_of.is_none();
        }
    }

    fn number_rules(&mut self, map: &Map<String, Value>) -> Option<NumberRules> {
        // Draft 4 wrote `exclusiveMinimum: true`.
        self.general |= ["exclusiveMinimum", "exclusiveMaximum"].iter().any(|key| map.get(*key).is_some_and(Value::is_boolean));
        let written = |key: &str| map.get(key).filter(|value| value.is_number()).map(Value::to_string);
        let limit = |key: &str| written(key).map(|number| Limit::parse(&number));
        let rules = NumberRules {
            minimum: limit("minimum"),
            maximum: limit("maximum"),
            above: limit("exclusiveMinimum"),
            below: limit("exclusiveMaximum"),
            multiple_of: written("multipleOf").map(|number| (Decimal::parse(&number), number.parse().unwrap_or(f64::NAN))),
        };
        rules.any().then_some(rules)
    }

    fn array_rules(&mut self, map: &'a Map<String, Value>, at: &str) -> Read<Option<ArrayRules>> {
        let items = match map.get("items") {
            // Next to `prefixItems`, `items` means the items after them.
            Some(_) if map.contains_key("prefixItems") => None,
            Some(items @ (Value::Object(_) | Value::Bool(_))) => Some(self.node(items, &format!("{at}/items"), false, false)?),
            Some(Value::Array(_)) => {
                self.general = true;
                None
            }
            Some(Value::Null | Value::Number(_) | Value::String(_)) | None => None,
        };
        let rules = ArrayRules { items, fewest: count(map, "minItems"), most: count(map, "maxItems") };
        let any = rules.items.is_some() || rules.fewest.or(rules.most).is_some();
        Ok(any.then_some(rules))
    }

    fn object_rules(&mut self, map: &'a Map<String, Value>, at: &str, columns: bool, top: bool) -> Read<Option<ObjectRules>> {
        let required: Vec<&str> = match map.get("required") {
            Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
            Some(_) | None => Vec::new(),
        };
        let closed = self.is_closed(map);
        let mut members = Vec::new();
        if let Some(Value::Object(properties)) = map.get("properties") {
            let place = format!("{at}/properties");
            for name in self.outline.names(&place) {
                let Some(schema) = properties.get(&name) else { continue };
                let at = format!("{place}/{}", name.replace('~', "~0").replace('/', "~1"));
                if columns {
                    refuse_reserved(&name, &at, top)?;
                }
                let node = self.node(schema, &at, columns, false)?;
                members.push(Member { required: required.contains(&name.as_str()), name, node, declared: true });
            }
        }
        for name in &required {
            if !members.iter().any(|member| member.name == *name) {
                let node = Node::of(Kinds::ALL);
                members.push(Member { name: (*name).to_owned(), node, required: true, declared: false });
            }
        }
        if members.is_empty() && !closed && !columns {
            return Ok(None);
        }
        let rest = (columns && !closed).then(|| self.slot());
        self.memories += 1;
        let required = members.iter().filter(|member| member.required).count();
        let mut by_name: Vec<usize> = (0..members.len()).collect();
        by_name.sort_by(|a, b| members[*a].name.cmp(&members[*b].name));
        Ok(Some(ObjectRules { members, required, closed, by_name, rest, memory: self.memories - 1 }))
    }

    fn is_closed(&mut self, map: &Map<String, Value>) -> bool {
        match map.get("additionalProperties") {
            None | Some(Value::Bool(true)) => false,
            Some(Value::Object(rules)) if rules.is_empty() => false,
            // Members that `patternProperties` allows are not additional.
            Some(Value::Bool(false)) => !map.contains_key("patternProperties"),
            Some(Value::Object(_) | Value::Null | Value::Number(_) | Value::String(_) | Value::Array(_)) => {
                self.general = true;
                false
            }
        }
    }
}

/// The column of a node that has one.
pub(super) fn layout(node: &Node) -> Option<Layout> {
    Some(match node.store {
        Store::Nothing => return None,
        Store::Text(slot) | Store::Json(slot) => Layout::Text(slot),
        Store::Integer(slot) => Layout::Integer(slot),
        Store::Float(slot) => Layout::Float(slot),
        Store::Decimal(slot, scale) => Layout::Decimal(slot, scale),
        Store::Boolean(slot) => Layout::Boolean(slot),
        Store::Struct(slot) => {
            let object = node.object.as_ref()?;
            let fields = object.members.iter().filter_map(|member| Some((member.name.clone(), layout(&member.node)?))).collect();
            Layout::Struct(slot, fields, object.rest)
        }
    })
}

fn refuse_reserved(name: &str, at: &str, top: bool) -> Read<()> {
    let reserved =
        if top { name.starts_with('_') || matches!(name, "event_time" | "window_start" | "window_end") } else { name == "_rest" };
    if reserved {
        let message =
            format!("the column name `{name}` belongs to sluicebox, as does every name that starts with `_` at the top");
        let remedy = "rename the member, or leave it undeclared and read it from `_rest`";
        return Err(ContractError::new(at, &message, remedy));
    }
    Ok(())
}

fn mentions_id(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.contains_key("$id") || map.values().any(mentions_id),
        Value::Array(items) => items.iter().any(mentions_id),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

fn kinds_of(map: &Map<String, Value>) -> Kinds {
    let one = |name: &str| match name {
        "null" => Kinds::NULL,
        "boolean" => Kinds::BOOLEAN,
        "integer" => Kinds::INTEGER,
        "number" => Kinds::NUMBER,
        "string" => Kinds::STRING,
        "array" => Kinds::ARRAY,
        "object" => Kinds::OBJECT,
        _ => Kinds::NONE,
    };
    match map.get("type") {
        Some(Value::String(name)) => one(name),
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).fold(Kinds::NONE, |kinds, name| kinds.or(one(name))),
        // Without a type the constants tell it.
        Some(_) | None => match (map.get("const"), map.get("enum")) {
            (Some(constant), _) => kind_of(constant),
            (None, Some(Value::Array(values))) => values.iter().fold(Kinds::NONE, |kinds, value| kinds.or(kind_of(value))),
            (None, Some(_) | None) => Kinds::ALL,
        },
    }
}

fn kind_of(value: &Value) -> Kinds {
    match value {
        Value::Null => Kinds::NULL,
        Value::Bool(_) => Kinds::BOOLEAN,
        Value::Number(number) if Decimal::parse(&number.to_string()).is_integer() => Kinds::INTEGER,
        Value::Number(_) => Kinds::NUMBER,
        Value::String(_) => Kinds::STRING,
        Value::Array(_) => Kinds::ARRAY,
        Value::Object(_) => Kinds::OBJECT,
    }
}

fn scalar(value: &Value) -> Option<Scalar> {
    match value {
        Value::Null => Some(Scalar::Null),
        Value::Bool(value) => Some(Scalar::Boolean(*value)),
        Value::Number(number) => Some(Scalar::Number(Limit::parse(&number.to_string()))),
        Value::String(text) => Some(Scalar::Text(text.clone())),
        Value::Array(_) | Value::Object(_) => None,
    }
}

/// A count may be written `2` or `2.0`.
fn count(map: &Map<String, Value>, key: &str) -> Option<u64> {
    let number = map.get(key)?;
    number.as_u64().or_else(|| number.as_f64().filter(|count| *count >= 0.0).map(|count| count as u64))
}

fn text_rules(map: &Map<String, Value>, at: &str) -> Read<Option<TextRules>> {
    let pattern = match map.get("pattern").and_then(Value::as_str) {
        None => None,
        Some(pattern) => Some(super::pattern::compile(pattern).map_err(|why| {
            let message = format!("this pattern can't be used: {why}");
            ContractError::new(&format!("{at}/pattern"), &message, "write it without lookaround and back references")
        })?),
    };
    let rules = TextRules {
        shortest: count(map, "minLength"),
        longest: count(map, "maxLength"),
        pattern,
        format: map.get("format").and_then(Value::as_str).and_then(Format::new),
    };
    let any = rules.shortest.or(rules.longest).is_some() || rules.pattern.is_some() || rules.format.is_some();
    Ok(any.then_some(rules))
}

/// `s` of `10^-s`.
fn scale_of(unit: Decimal) -> Option<u8> {
    let power = (unit.mantissa == 1 && !unit.negative && !unit.cut).then_some(-unit.exponent)?;
    (0..=FINEST_SCALE).contains(&power).then_some(power as u8)
}
