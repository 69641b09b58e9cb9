//! Items and attribute values as DynamoDB's JSON has them.
//!
//! Owns: canonical numbers, order and equality of values, the size of an item. Does not own: expressions, tables.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// Attributes by name. Numbers are canonical and sets are sorted, so that equal values are equal JSON.
pub(super) type Item = BTreeMap<String, Value>;

/// An item has at most 400 KB, names included.
pub(super) const ITEM_MAX: usize = 400 << 10;

/// What is refused, and why: the message of a ValidationException.
pub(super) type Refused = String;

/// Reads an item out of a request.
pub(super) fn item(value: &Value) -> Result<Item, Refused> {
    let fields = value.as_object().ok_or("an item is an object")?;
    fields.iter().map(|(name, value)| Ok((name.clone(), attribute(value)?))).collect()
}

/// As the answer has it.
pub(super) fn to_json(item: &Item) -> Value {
    Value::Object(item.iter().map(|(name, value)| (name.clone(), value.clone())).collect::<Map<_, _>>())
}

/// One attribute value, checked and made canonical.
pub(super) fn attribute(value: &Value) -> Result<Value, Refused> {
    let (kind, content) = tagged(value).ok_or("an attribute value has exactly one type")?;
    let text = || content.as_str().ok_or_else(|| format!("{kind} wants a string"));
    Ok(match kind {
        "S" | "B" => json!({kind: text()?}),
        "N" => json!({"N": number(text()?)?.to_string()}),
        "BOOL" | "NULL" => json!({kind: content.as_bool().ok_or("a flag wants a boolean")?}),
        "SS" => {
            let mut members: Vec<&str> = content.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            let asked = members.len();
            members.sort_unstable();
            members.dedup();
            if members.is_empty() || members.len() != asked {
                return Err("One or more parameter values were invalid: a set is neither empty nor has duplicates".into());
            }
            json!({"SS": members})
        }
        "L" => {
            let members: Result<Vec<Value>, Refused> = content.as_array().into_iter().flatten().map(attribute).collect();
            json!({"L": members?})
        }
        "M" => json!({"M": to_json(&item(content)?)}),
        _ => return Err(format!("this fake has no attributes of type {kind}")),
    })
}

fn tagged(value: &Value) -> Option<(&str, &Value)> {
    let mut fields = value.as_object()?.iter();
    let (kind, content) = fields.next()?;
    fields.next().is_none().then_some((kind.as_str(), content))
}

/// Whole numbers below 10^38 are all that we send.
pub(super) fn number(text: &str) -> Result<i128, Refused> {
    let number: i128 = text.parse().map_err(|_| "the parameter cannot be converted to a numeric value".to_owned())?;
    if number.unsigned_abs() >= 10u128.pow(38) {
        return Err("Attempting to store more than 38 significant digits in a Number".into());
    }
    Ok(number)
}

/// The order of two values of one type that has an order.
pub(super) fn order(a: &Value, b: &Value) -> Option<Ordering> {
    let ((kind_a, a), (kind_b, b)) = (tagged(a)?, tagged(b)?);
    match (kind_a, kind_b) {
        ("N", "N") => Some(number(a.as_str()?).ok()?.cmp(&number(b.as_str()?).ok()?)),
        ("S", "S") => Some(a.as_str()?.as_bytes().cmp(b.as_str()?.as_bytes())),
        _ => None,
    }
}

/// The text of a string value.
pub(super) fn text(value: &Value) -> Option<&str> {
    value.get("S")?.as_str()
}

/// Roughly what DynamoDB counts: names and contents in bytes.
pub(super) fn size(item: &Item) -> usize {
    item.iter().map(|(name, value)| name.len() + weight(value)).sum()
}

fn weight(value: &Value) -> usize {
    let Some((kind, content)) = tagged(value) else { return 0 };
    match kind {
        "S" => content.as_str().map_or(0, str::len),
        "B" => content.as_str().map_or(0, |text| text.len() / 4 * 3),
        "N" => content.as_str().map_or(0, |text| text.len() / 2 + 2),
        "SS" => content.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::len).sum(),
        "L" => 3 + content.as_array().into_iter().flatten().map(|member| 1 + weight(member)).sum::<usize>(),
        "M" => 3 + content.as_object().into_iter().flatten().map(|(name, value)| 1 + name.len() + weight(value)).sum::<usize>(),
        _ => 1,
    }
}
