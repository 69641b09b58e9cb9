//! The grammar of DynamoDB's expressions, as far as we send it: conditions over top-level attributes, SET, REMOVE and ADD.
//!
//! Names are always placeholders (`#n`): a bare name may be a reserved word, and a fake that knew fewer of those than AWS would
//! let a mistake pass. Whatever is not understood is refused, and so is a placeholder that is not used.
//!
//! Owns: reading and evaluating expressions. Does not own: items (item), which expression belongs to which call (dynamo).

use std::cell::RefCell;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::item::{Item, Refused, attribute, number, order, text};

/// The placeholders of one call.
pub(super) struct Names {
    names: BTreeMap<String, String>,
    values: BTreeMap<String, Value>,
    used: RefCell<BTreeSet<String>>,
}

impl Names {
    /// Out of a request.
    pub(super) fn of(request: &Value) -> Result<Self, Refused> {
        let mut names = BTreeMap::new();
        for (placeholder, name) in request["ExpressionAttributeNames"].as_object().into_iter().flatten() {
            names.insert(placeholder.clone(), name.as_str().ok_or("a name is a string")?.to_owned());
        }
        let mut values = BTreeMap::new();
        for (placeholder, value) in request["ExpressionAttributeValues"].as_object().into_iter().flatten() {
            values.insert(placeholder.clone(), attribute(value)?);
        }
        Ok(Self { names, values, used: RefCell::default() })
    }

    fn name(&self, placeholder: &str) -> Result<String, Refused> {
        self.used.borrow_mut().insert(placeholder.to_owned());
        self.names.get(placeholder).cloned().ok_or_else(|| format!("attribute name {placeholder} is not defined"))
    }

    fn value(&self, placeholder: &str) -> Result<Value, Refused> {
        self.used.borrow_mut().insert(placeholder.to_owned());
        self.values.get(placeholder).cloned().ok_or_else(|| format!("attribute value {placeholder} is not defined"))
    }

    /// Refuses placeholders that no expression named.
    pub(super) fn all_used(&self) -> Result<(), Refused> {
        let used = self.used.borrow();
        match self.names.keys().chain(self.values.keys()).find(|name| !used.contains(*name)) {
            Some(name) => Err(format!("Value provided in ExpressionAttributeNames or Values unused in expressions: {name}")),
            None => Ok(()),
        }
    }
}

/// A condition.
pub(super) enum Condition {
    Or(Box<Condition>, Box<Condition>),
    And(Box<Condition>, Box<Condition>),
    Not(Box<Condition>),
    Exists(String),
    BeginsWith(Operand, Operand),
    Compare(Operand, String, Operand),
    Between(Operand, Operand, Operand),
}

/// A side of a comparison, or what is assigned.
pub(super) enum Operand {
    Path(String),
    Value(Value),
    IfNotExists(String, Box<Operand>),
    Sum(Box<Operand>, Box<Operand>),
    Difference(Box<Operand>, Box<Operand>),
}

impl Operand {
    fn of(&self, item: &Item) -> Result<Option<Value>, Refused> {
        let arithmetic = |a: &Operand, b: &Operand, sign: i128| {
            let operand = |side: &Operand| {
                let value = side.of(item)?.ok_or("The provided expression refers to an attribute that does not exist")?;
                number(value["N"].as_str().ok_or("An operand in the update expression has an incorrect data type")?)
            };
            Ok::<_, Refused>(Some(json!({"N": (operand(a)? + sign * operand(b)?).to_string()})))
        };
        match self {
            Self::Path(name) => Ok(item.get(name).cloned()),
            Self::Value(value) => Ok(Some(value.clone())),
            Self::IfNotExists(name, other) => item.get(name).cloned().map_or_else(|| other.of(item), |value| Ok(Some(value))),
            Self::Sum(a, b) => arithmetic(a, b, 1),
            Self::Difference(a, b) => arithmetic(a, b, -1),
        }
    }
}

impl Condition {
    /// Does it hold?
    pub(super) fn holds(&self, item: &Item) -> Result<bool, Refused> {
        Ok(match self {
            Self::Or(a, b) => a.holds(item)? | b.holds(item)?,
            Self::And(a, b) => a.holds(item)? & b.holds(item)?,
            Self::Not(a) => !a.holds(item)?,
            Self::Exists(name) => item.contains_key(name),
            Self::BeginsWith(whole, start) => match (whole.of(item)?, start.of(item)?) {
                (Some(whole), Some(start)) => {
                    text(&whole).zip(text(&start)).is_some_and(|(whole, start)| whole.starts_with(start))
                }
                (None, _) | (_, None) => false,
            },
            Self::Compare(a, sign, b) => {
                let (Some(a), Some(b)) = (a.of(item)?, b.of(item)?) else { return Ok(false) };
                match sign.as_str() {
                    "=" => a == b,
                    "<>" => a != b,
                    "<" => order(&a, &b) == Some(Ordering::Less),
                    ">" => order(&a, &b) == Some(Ordering::Greater),
                    "<=" => matches!(order(&a, &b), Some(Ordering::Less | Ordering::Equal)),
                    _ => matches!(order(&a, &b), Some(Ordering::Greater | Ordering::Equal)),
                }
            }
            Self::Between(value, low, high) => {
                let (Some(value), Some(low), Some(high)) = (value.of(item)?, low.of(item)?, high.of(item)?) else {
                    return Ok(false);
                };
                let inside = |a, b| matches!(order(a, b), Some(Ordering::Less | Ordering::Equal));
                inside(&low, &value) && inside(&value, &high)
            }
        })
    }
}

/// A change of an item.
pub(super) enum Action {
    Set(String, Operand),
    Remove(String),
    Add(String, Operand),
}

/// Carries changes out: every operand sees the item as it was.
pub(super) fn apply(actions: &[Action], before: &Item) -> Result<Item, Refused> {
    let mut after = before.clone();
    for action in actions {
        match action {
            Action::Set(name, operand) => {
                let value = operand.of(before)?.ok_or("The provided expression refers to an attribute that does not exist")?;
                after.insert(name.clone(), value);
            }
            Action::Remove(name) => {
                after.remove(name);
            }
            Action::Add(name, operand) => {
                let by = operand.of(before)?.ok_or("ADD wants a value")?;
                let old = before.get(name).cloned().unwrap_or_else(|| json!({"N": "0"}));
                let (Some(old), Some(by)) = (old["N"].as_str(), by["N"].as_str()) else {
                    return Err("this fake ADDs numbers only".into());
                };
                after.insert(name.clone(), json!({"N": (number(old)? + number(by)?).to_string()}));
            }
        }
    }
    Ok(after)
}

/// What an update changes, by attribute name.
pub(super) fn touched(actions: &[Action]) -> impl Iterator<Item = &String> {
    actions.iter().map(|action| match action {
        Action::Set(name, _) | Action::Remove(name) | Action::Add(name, _) => name,
    })
}

/// Reads a condition.
pub(super) fn condition(source: &str, names: &Names) -> Result<Condition, Refused> {
    let mut reader = Reader::new(source, names)?;
    let condition = reader.or()?;
    reader.end()?;
    Ok(condition)
}

/// Reads an update.
pub(super) fn update(source: &str, names: &Names) -> Result<Vec<Action>, Refused> {
    let mut reader = Reader::new(source, names)?;
    let mut actions = Vec::new();
    let mut clauses = BTreeSet::new();
    while let Some(clause) = reader.take() {
        if !clauses.insert(clause.clone()) {
            return Err(format!("The \"{clause}\" section can only be used once in an update expression"));
        }
        loop {
            let name = reader.path()?;
            actions.push(match clause.as_str() {
                "SET" => {
                    reader.expect("=")?;
                    Action::Set(name, reader.assigned()?)
                }
                "REMOVE" => Action::Remove(name),
                "ADD" => Action::Add(name, reader.operand()?),
                _ => return Err(format!("Syntax error in the update expression; token: {clause}")),
            });
            if !reader.is(",") {
                break;
            }
        }
    }
    let mut seen = BTreeSet::new();
    if let Some(name) = touched(&actions).find(|name| !seen.insert((*name).clone())) {
        return Err(format!("Two document paths overlap with each other: {name}"));
    }
    Ok(actions)
}

struct Reader<'a> {
    tokens: Vec<String>,
    at: usize,
    names: &'a Names,
}

impl<'a> Reader<'a> {
    fn new(source: &str, names: &'a Names) -> Result<Self, Refused> {
        let mut tokens = Vec::new();
        let mut rest = source.trim_start();
        while let Some(first) = rest.chars().next() {
            let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
            let len = match first {
                '#' | ':' => 1 + rest[1..].find(|c| !word(c)).unwrap_or(rest.len() - 1),
                '<' | '>' if rest[1..].starts_with('=') || rest.starts_with("<>") => 2,
                '(' | ')' | ',' | '=' | '<' | '>' | '+' | '-' => 1,
                c if word(c) => rest.find(|c| !word(c)).unwrap_or(rest.len()),
                _ => return Err(format!("Syntax error in an expression; token: {first}")),
            };
            tokens.push(rest[..len].to_owned());
            rest = rest[len..].trim_start();
        }
        if tokens.is_empty() {
            return Err("The expression can not be empty".into());
        }
        Ok(Self { tokens, at: 0, names })
    }

    fn take(&mut self) -> Option<String> {
        let token = self.tokens.get(self.at).cloned();
        self.at += usize::from(token.is_some());
        token
    }

    /// Takes the token if it is this one.
    fn is(&mut self, token: &str) -> bool {
        let is = self.tokens.get(self.at).is_some_and(|next| next == token);
        self.at += usize::from(is);
        is
    }

    fn expect(&mut self, token: &str) -> Result<(), Refused> {
        if self.is(token) { Ok(()) } else { Err(format!("Syntax error in an expression: {token} expected")) }
    }

    fn end(&self) -> Result<(), Refused> {
        self.tokens.get(self.at).map_or(Ok(()), |token| Err(format!("Syntax error in an expression; token: {token}")))
    }

    fn or(&mut self) -> Result<Condition, Refused> {
        let mut left = self.and()?;
        while self.is("OR") {
            left = Condition::Or(Box::new(left), Box::new(self.and()?));
        }
        Ok(left)
    }

    fn and(&mut self) -> Result<Condition, Refused> {
        let mut left = self.not()?;
        while self.is("AND") {
            left = Condition::And(Box::new(left), Box::new(self.not()?));
        }
        Ok(left)
    }

    fn not(&mut self) -> Result<Condition, Refused> {
        if self.is("NOT") {
            return Ok(Condition::Not(Box::new(self.not()?)));
        }
        if self.is("(") {
            let inner = self.or()?;
            self.expect(")")?;
            return Ok(inner);
        }
        for (function, negated) in [("attribute_exists", false), ("attribute_not_exists", true)] {
            if self.is(function) {
                self.expect("(")?;
                let exists = Condition::Exists(self.path()?);
                self.expect(")")?;
                return Ok(if negated { Condition::Not(Box::new(exists)) } else { exists });
            }
        }
        if self.is("begins_with") {
            self.expect("(")?;
            let whole = self.operand()?;
            self.expect(",")?;
            let start = self.operand()?;
            self.expect(")")?;
            return Ok(Condition::BeginsWith(whole, start));
        }
        let left = self.operand()?;
        if self.is("BETWEEN") {
            let low = self.operand()?;
            self.expect("AND")?;
            return Ok(Condition::Between(left, low, self.operand()?));
        }
        let sign = self.take().filter(|sign| ["=", "<>", "<", ">", "<=", ">="].contains(&sign.as_str()));
        Ok(Condition::Compare(left, sign.ok_or("Syntax error in an expression: a comparison expected")?, self.operand()?))
    }

    fn path(&mut self) -> Result<String, Refused> {
        let token = self.take().filter(|token| token.starts_with('#'));
        self.names.name(&token.ok_or("Syntax error in an expression: this fake wants every name as a #placeholder")?)
    }

    fn operand(&mut self) -> Result<Operand, Refused> {
        match self.tokens.get(self.at) {
            Some(token) if token.starts_with(':') => {
                self.at += 1;
                Ok(Operand::Value(self.names.value(&self.tokens[self.at - 1].clone())?))
            }
            Some(_) | None => Ok(Operand::Path(self.path()?)),
        }
    }

    fn assigned(&mut self) -> Result<Operand, Refused> {
        let mut left = self.term()?;
        if self.is("+") {
            left = Operand::Sum(Box::new(left), Box::new(self.term()?));
        } else if self.is("-") {
            left = Operand::Difference(Box::new(left), Box::new(self.term()?));
        }
        Ok(left)
    }

    fn term(&mut self) -> Result<Operand, Refused> {
        if !self.is("if_not_exists") {
            return self.operand();
        }
        self.expect("(")?;
        let name = self.path()?;
        self.expect(",")?;
        let other = self.operand()?;
        self.expect(")")?;
        Ok(Operand::IfNotExists(name, Box::new(other)))
    }
}
