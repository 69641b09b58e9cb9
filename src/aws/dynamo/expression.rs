//! DynamoDB expressions out of changes and conditions. Every name is a placeholder: `state`, `owner` and more are reserved
//! words.
//!
//! Owns: placeholders and the text of an expression. Does not own: which attribute means what (item, rows).

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;

use super::table::LEASE_KEY;

/// What an update does, by attribute.
#[derive(Default)]
pub(super) struct Change {
    pub(super) set: Vec<(&'static str, AttributeValue)>,
    pub(super) remove: Vec<&'static str>,
    /// Raised by one, from 0 where it is missing.
    pub(super) count: Vec<&'static str>,
}

impl Change {
    /// Leaves this attribute as it is stored.
    pub(super) fn leave(&mut self, name: &str) {
        self.set.retain(|(set, _)| *set != name);
        self.remove.retain(|removed| *removed != name);
    }
}

/// What a write depends on.
pub(super) enum Condition<'a> {
    /// There is no such item.
    Absent,
    /// There is one, with these numbers.
    Numbers(&'a [(&'static str, u64)]),
}

/// The placeholders of one request.
#[derive(Default)]
pub(super) struct Expression {
    names: HashMap<String, String>,
    values: HashMap<String, AttributeValue>,
}

type Names = Option<HashMap<String, String>>;
type Values = Option<HashMap<String, AttributeValue>>;

impl Expression {
    /// The placeholder of a name; the same name twice has the same.
    pub(super) fn name(&mut self, name: &str) -> String {
        let placeholder = format!("#{name}");
        self.names.insert(placeholder.clone(), name.to_owned());
        placeholder
    }

    /// The placeholder of a value.
    pub(super) fn value(&mut self, value: AttributeValue) -> String {
        let placeholder = format!(":v{}", self.values.len());
        self.values.insert(placeholder.clone(), value);
        placeholder
    }

    /// The text of a condition.
    pub(super) fn condition(&mut self, condition: Condition<'_>) -> String {
        match condition {
            Condition::Absent => format!("attribute_not_exists({})", self.name(LEASE_KEY)),
            Condition::Numbers(numbers) => {
                let equal = |(name, number): &(&str, u64)| format!("{} = {}", self.name(name), self.value(count(*number)));
                numbers.iter().map(equal).collect::<Vec<_>>().join(" AND ")
            }
        }
    }

    /// The text of an update.
    pub(super) fn change(&mut self, change: Change) -> String {
        let mut clauses = Vec::new();
        let set = change.set.into_iter().map(|(name, value)| format!("{} = {}", self.name(name), self.value(value)));
        clauses.push(("SET", set.collect::<Vec<_>>()));
        clauses.push(("REMOVE", change.remove.into_iter().map(|name| self.name(name)).collect()));
        let counted = change.count.into_iter().map(|name| format!("{} {}", self.name(name), self.value(count(1))));
        clauses.push(("ADD", counted.collect()));
        let clauses = clauses.into_iter().filter(|(_, parts)| !parts.is_empty());
        clauses.map(|(clause, parts)| format!("{clause} {}", parts.join(", "))).collect::<Vec<_>>().join(" ")
    }

    /// Names and values as a request wants them: an empty map is refused by the service.
    pub(super) fn finish(self) -> (Names, Values) {
        (Some(self.names).filter(|names| !names.is_empty()), Some(self.values).filter(|values| !values.is_empty()))
    }
}

/// A number as DynamoDB has it.
pub(super) fn count(number: u64) -> AttributeValue {
    AttributeValue::N(number.to_string())
}
