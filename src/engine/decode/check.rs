//! Does a record satisfy the contract? The walk over its tape.
//!
//! Owns: the rules at run time, the first violation in document order, values into slots. Does not own: reading the schema
//! (contract), columns (columns).

use std::cmp::Ordering;

use super::row::{Row, Slot};
use crate::engine::contract::shape::{ArrayRules, Kinds, Limit, Node, NumberRules, ObjectRules, Scalar, Store, TextRules};
use crate::engine::structure::text::{self, Decimal, Scaled};
use crate::engine::structure::{Kind, Token};

/// A step of a JSON path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    Member(String),
    Item(usize),
}

/// The rule that a record broke, and where. Holds no value of the record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Violation {
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    /// Innermost first.
    steps: Vec<Step>,
}

impl Violation {
    fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), steps: Vec::new() }
    }

    fn under(mut self: Box<Self>, step: Step) -> Box<Self> {
        self.steps.push(step);
        self
    }

    /// `$.properties.amount`.
    pub(crate) fn path(&self) -> String {
        path(self.steps.iter().rev())
    }
}

/// Writes a path from the outermost step inward.
pub(crate) fn path<'a>(steps: impl Iterator<Item = &'a Step>) -> String {
    let mut path = String::from("$");
    for step in steps {
        match step {
            Step::Member(name) => text::push_member(&mut path, name),
            Step::Item(number) => text::push_item(&mut path, *number),
        }
    }
    path
}

type Check = Result<(), Box<Violation>>;

fn fail(reason: &'static str, message: impl Into<String>) -> Check {
    Err(Box::new(Violation::new(reason, message)))
}

/// One record under examination.
pub(crate) struct Checker<'a> {
    pub(crate) text: &'a str,
    pub(crate) tokens: &'a [Token],
    pub(crate) row: &'a mut Row,
}

impl Checker<'_> {
    /// Checks the value at a token and puts what it holds into slots.
    pub(crate) fn value(&mut self, node: &Node, at: usize) -> Check {
        let token = self.tokens[at];
        let kind = token.kind();
        if !node.kinds.has(self.kinds(node, token)) {
            return fail("wrong_type", format!("must be {}", node.kinds.names()));
        }
        match kind {
            Kind::Null => constants(node, |scalar| matches!(scalar, Scalar::Null))?,
            Kind::True | Kind::False => {
                let value = kind == Kind::True;
                constants(node, |scalar| matches!(scalar, Scalar::Boolean(allowed) if *allowed == value))?;
            }
            Kind::Integer | Kind::Number => self.number(node, token)?,
            Kind::Plain | Kind::Escaped => return self.string(node, token),
            Kind::Object => {
                constants(node, |_| false)?;
                if let Some(rules) = &node.object {
                    self.object(rules, at)?;
                }
            }
            Kind::Array => {
                constants(node, |_| false)?;
                if let Some(rules) = &node.array {
                    self.array(rules, at)?;
                }
            }
        }
        self.store(node.store, token)
    }

    fn kinds(&self, node: &Node, token: Token) -> Kinds {
        match token.kind() {
            Kind::Null => Kinds::NULL,
            Kind::True | Kind::False => Kinds::BOOLEAN,
            Kind::Integer => Kinds::INTEGER,
            Kind::Number if node.kinds.and(Kinds::NUMBER) == Kinds::NUMBER => Kinds::NUMBER,
            // `1.0` and `1e2` are integers; `1.5` is not.
            Kind::Number if Decimal::parse(token.raw(self.text)).is_integer() => Kinds::INTEGER,
            Kind::Number => Kinds::FRACTION,
            Kind::Plain | Kind::Escaped => Kinds::STRING,
            Kind::Object => Kinds::OBJECT,
            Kind::Array => Kinds::ARRAY,
        }
    }

    fn store(&mut self, store: Store, token: Token) -> Check {
        let kind = token.kind();
        let (slot, value) = match store {
            Store::Nothing => return Ok(()),
            Store::Text(_)
            | Store::Json(_)
            | Store::Integer(_)
            | Store::Float(_)
            | Store::Decimal(..)
            | Store::Boolean(_)
            | Store::Struct(_)
                if kind == Kind::Null =>
            {
                return Ok(());
            }
            Store::Text(slot) => (slot, self.row.string(token, self.text)),
            Store::Json(slot) => (slot, Slot::Record(token.start() as u32, token.end)),
            Store::Integer(slot) => (slot, Slot::Integer(integer(token.raw(self.text))?)),
            Store::Float(slot) => (slot, Slot::Float(float(token.raw(self.text))?)),
            Store::Decimal(slot, scale) => (slot, Slot::Decimal(decimal(token.raw(self.text), scale)?)),
            Store::Boolean(slot) => (slot, Slot::Boolean(kind == Kind::True)),
            Store::Struct(slot) => (slot, Slot::Present),
        };
        self.row.set(slot, value);
        Ok(())
    }

    fn string(&mut self, node: &Node, token: Token) -> Check {
        if let Store::Json(_) = node.store
            && node.is_plain()
        {
            return self.store(node.store, token);
        }
        let slot = self.row.string(token, self.text);
        let value = self.row.text(slot, self.text).unwrap_or_default();
        constants(node, |scalar| matches!(scalar, Scalar::Text(allowed) if allowed == value))?;
        if let Some(rules) = &node.text {
            string_rules(rules, value)?;
        }
        match node.store {
            Store::Text(place) => self.row.set(place, slot),
            store @ (Store::Nothing
            | Store::Json(_)
            | Store::Integer(_)
            | Store::Float(_)
            | Store::Decimal(..)
            | Store::Boolean(_)
            | Store::Struct(_)) => return self.store(store, token),
        }
        Ok(())
    }

    fn number(&self, node: &Node, token: Token) -> Check {
        if node.one_of.is_none() && node.constant.is_none() && node.number.is_none() {
            return Ok(());
        }
        let written = token.raw(self.text);
        let value = Limit::parse(written);
        constants(node, |scalar| matches!(scalar, Scalar::Number(allowed) if value.compare(*allowed) == Ordering::Equal))?;
        match &node.number {
            Some(rules) => number_rules(rules, value, written),
            None => Ok(()),
        }
    }

    fn array(&mut self, rules: &ArrayRules, at: usize) -> Check {
        let end = self.tokens[at].next as usize;
        let mut count = 0;
        let mut item = at + 1;
        while item < end {
            if let Some(node) = &rules.items {
                self.value(node, item).map_err(|violation| violation.under(Step::Item(count)))?;
            }
            item = self.tokens[item].next as usize;
            count += 1;
        }
        if rules.fewest.is_some_and(|fewest| (count as u64) < fewest) || rules.most.is_some_and(|most| count as u64 > most) {
            return fail("items", range_message("items", rules.fewest, rules.most));
        }
        Ok(())
    }

    fn object(&mut self, rules: &ObjectRules, at: usize) -> Check {
        let end = self.tokens[at].next as usize;
        let base = self.row.undeclared.len();
        let (mut key, mut place, mut required) = (at + 1, 0, 0);
        while key < end {
            let found = self.member(rules, key, place).map(|index| &rules.members[index]);
            required += usize::from(found.is_some_and(|member| member.required));
            match found.filter(|member| member.declared) {
                Some(member) => {
                    let inside = self.value(&member.node, key + 1);
                    inside.map_err(|violation| violation.under(Step::Member(member.name.clone())))?;
                }
                None if rules.closed => {
                    let name = text::unescaped(self.tokens[key], self.text).into_owned();
                    let violation = Box::new(Violation::new("unknown_field", "the contract allows only declared members here"));
                    return Err(violation.under(Step::Member(name)));
                }
                None if rules.rest.is_some() => self.row.undeclared.push(key as u32),
                None => {}
            }
            key = self.tokens[key + 1].next as usize;
            place += 1;
        }
        if required != rules.required {
            return Err(self.missing(rules, at));
        }
        if let Some(slot) = rules.rest {
            let rest = self.row.rest(base, self.tokens, self.text);
            self.row.set(slot, rest);
        }
        Ok(())
    }

    /// Which member a key names: first a look at what stood here in the last record.
    #[inline]
    fn member(&mut self, rules: &ObjectRules, key: usize, place: usize) -> Option<usize> {
        let token = self.tokens[key];
        if let Some(index) = self.row.remembered(rules.memory, place)
            && rules.members.get(index).is_some_and(|member| text::is_named(token, self.text, &member.name))
        {
            return Some(index);
        }
        let name = text::unescaped(token, self.text);
        let name = name.as_ref();
        let found = rules.by_name.binary_search_by(|index| rules.members[*index].name.as_str().cmp(name)).ok()?;
        let index = rules.by_name[found];
        self.row.remember(rules.memory, place, index);
        Some(index)
    }

    fn missing(&self, rules: &ObjectRules, at: usize) -> Box<Violation> {
        let present = |name: &str| find(self.tokens, self.text, at, name).is_some();
        let absent = rules.members.iter().find(|member| member.required && !present(&member.name));
        let violation = Box::new(Violation::new("missing_field", "the contract requires this member"));
        match absent {
            Some(member) => violation.under(Step::Member(member.name.clone())),
            None => violation,
        }
    }
}

/// The token of a member's value.
pub(crate) fn find(tokens: &[Token], record: &str, object: usize, name: &str) -> Option<usize> {
    let container = tokens.get(object).filter(|token| token.kind() == Kind::Object)?;
    let mut key = object + 1;
    while key < container.next as usize {
        if text::is_named(tokens[key], record, name) {
            return Some(key + 1);
        }
        key = tokens[key + 1].next as usize;
    }
    None
}

fn constants(node: &Node, equal: impl Fn(&Scalar) -> bool) -> Check {
    if node.one_of.as_ref().is_some_and(|allowed| !allowed.iter().any(&equal)) {
        return fail("enum", "must be one of the values that the contract lists");
    }
    if node.constant.as_ref().is_some_and(|constant| !equal(constant)) {
        return fail("const", "must be the value that the contract names");
    }
    Ok(())
}

fn range_message(what: &str, fewest: Option<u64>, most: Option<u64>) -> String {
    match (fewest, most) {
        (Some(fewest), Some(most)) => format!("must have {fewest} to {most} {what}"),
        (Some(fewest), None) => format!("must have at least {fewest} {what}"),
        (None, Some(most)) => format!("must have at most {most} {what}"),
        (None, None) => format!("has a wrong number of {what}"),
    }
}

fn string_rules(rules: &TextRules, value: &str) -> Check {
    if rules.shortest.is_some() || rules.longest.is_some() {
        let length = value.chars().count() as u64;
        if rules.shortest.is_some_and(|shortest| length < shortest) || rules.longest.is_some_and(|longest| length > longest) {
            return fail("length", range_message("characters", rules.shortest, rules.longest));
        }
    }
    if rules.pattern.as_ref().is_some_and(|pattern| !pattern.is_match(value)) {
        return fail("pattern", "must match the pattern of the contract");
    }
    match &rules.format {
        Some(format) if !format.holds(value) => fail("format", format!("must be in the format {}", format.name())),
        Some(_) | None => Ok(()),
    }
}

fn number_rules(rules: &NumberRules, value: Limit, written: &str) -> Check {
    let is = |limit: &Option<Limit>, bad: fn(Ordering) -> bool| limit.is_some_and(|limit| bad(value.compare(limit)));
    if is(&rules.minimum, Ordering::is_lt)
        || is(&rules.maximum, Ordering::is_gt)
        || is(&rules.above, Ordering::is_le)
        || is(&rules.below, Ordering::is_ge)
    {
        return fail("number_range", "lies outside the limits of the contract");
    }
    match rules.multiple_of {
        Some((unit, double)) if !is_multiple(written, value.double, unit, double) => {
            fail("multiple_of", "must be a multiple of what the contract names")
        }
        Some(_) | None => Ok(()),
    }
}

/// Exact on the digits wherever 128 bits hold them, else on doubles.
fn is_multiple(written: &str, double: f64, unit: Decimal, unit_double: f64) -> bool {
    let value = Decimal::parse(written);
    if value.mantissa == 0 {
        return true;
    }
    if value.cut || unit.mantissa == 0 {
        return double % unit_double == 0.0;
    }
    if value.exponent >= unit.exponent && value.mantissa.is_multiple_of(unit.mantissa) {
        return true;
    }
    let shared = value.exponent.min(unit.exponent);
    let scaled = |decimal: Decimal| {
        let power = u32::try_from(decimal.exponent - shared).ok()?;
        decimal.mantissa.checked_mul(text::ten_to(power)?)
    };
    match (scaled(value), scaled(unit)) {
        (Some(value), Some(unit)) => value.is_multiple_of(unit),
        (_, None) => false,
        (None, Some(_)) => double % unit_double == 0.0,
    }
}

fn integer(written: &str) -> Result<i64, Violation> {
    if let Ok(value) = written.parse() {
        return Ok(value);
    }
    let beyond = || Violation::new("number_range", "an integer must fit 64 bits");
    match Decimal::parse(written).scaled(0, 19) {
        Scaled::Exact(value) => i64::try_from(value).map_err(|_| beyond()),
        Scaled::TooLarge => Err(beyond()),
        Scaled::NotWhole => Err(Violation::new("wrong_type", "must be integer")),
    }
}

fn float(written: &str) -> Result<f64, Violation> {
    match written.parse::<f64>() {
        Ok(value) if value.is_finite() => Ok(value),
        Ok(_) | Err(_) => Err(Violation::new("number_range", "a number must fit a 64-bit float")),
    }
}

fn decimal(written: &str, scale: u8) -> Result<i64, Violation> {
    let beyond = || Violation::new("number_range", format!("a number must fit DECIMAL(18,{scale})"));
    match Decimal::parse(written).scaled(u32::from(scale), 18) {
        Scaled::Exact(value) => i64::try_from(value).map_err(|_| beyond()),
        Scaled::TooLarge => Err(beyond()),
        Scaled::NotWhole => Err(Violation::new("multiple_of", format!("must have at most {scale} digits after the point"))),
    }
}
