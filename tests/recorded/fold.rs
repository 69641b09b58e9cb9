//! Goal: what Gold must say, folded from the input files with plain sets and exact sums; nothing of the program is used.

#![allow(clippy::unwrap_used, reason = "a helper of a test may end the test")]

use std::collections::{BTreeMap, BTreeSet};

use crate::support::value::Value;

/// An event as Silver must have it.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) time_us: i64,
    /// In the order of the set's columns.
    pub(crate) values: Vec<Value>,
}

/// What must become of a record.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    Event(Event),
    /// Left out by a rule of the pipeline file; its time moves the bound all the same.
    Filtered(i64),
    /// `stage/reason`.
    Letter(&'static str),
}

/// An event with the names of its columns.
#[derive(Clone, Copy)]
pub(crate) struct Row<'a> {
    pub(crate) columns: &'a [&'static str],
    pub(crate) values: &'a [Value],
}

impl<'a> Row<'a> {
    pub(crate) fn get(&self, name: &str) -> &'a Value {
        let at = self.columns.iter().position(|column| *column == name).unwrap_or_else(|| panic!("no column {name}"));
        &self.values[at]
    }

    pub(crate) fn is(&self, name: &str, text: &str) -> bool {
        matches!(self.get(name), Value::Text(value) if value == text)
    }
}

/// An aggregate; NULL never counts.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Agg {
    Count,
    Distinct,
    /// Distinct values within 3 %.
    About,
    Sum,
    Mean,
    Min,
    Max,
    /// The value at this rank within 1 %.
    Percentile(f64),
}

/// What an aggregate reads.
#[derive(Clone, Copy)]
pub(crate) enum Of {
    /// `count(*)`.
    Every,
    Column(&'static str),
    Computed(fn(Row<'_>) -> Value),
}

/// A Gold table as the pipeline file defines it.
pub(crate) struct Table {
    pub(crate) name: &'static str,
    pub(crate) window_us: i64,
    /// Keys: columns of Silver with the same name in Gold.
    pub(crate) keys: &'static [&'static str],
    /// WHERE.
    pub(crate) takes: fn(Row<'_>) -> bool,
    /// Column of Gold, aggregate, input.
    pub(crate) aggregates: Vec<(&'static str, Agg, Of)>,
    /// HAVING count(*) >= n.
    pub(crate) at_least: usize,
}

/// (window start, keys) → per aggregate its inputs without NULLs.
type Groups = BTreeMap<(i64, Vec<Value>), Vec<Vec<Value>>>;

impl Table {
    pub(crate) fn window_of(&self, time_us: i64) -> i64 {
        time_us.div_euclid(self.window_us) * self.window_us
    }

    fn fold<'a>(&self, columns: &[&'static str], events: impl Iterator<Item = &'a Event>) -> Groups {
        let mut groups = Groups::new();
        let mut sizes: BTreeMap<(i64, Vec<Value>), usize> = BTreeMap::new();
        for event in events {
            let row = Row { columns, values: &event.values };
            if !(self.takes)(row) {
                continue;
            }
            let keys = self.keys.iter().map(|key| row.get(key).clone()).collect();
            let key = (self.window_of(event.time_us), keys);
            *sizes.entry(key.clone()).or_default() += 1;
            let group = groups.entry(key).or_insert_with(|| vec![Vec::new(); self.aggregates.len()]);
            for ((_, _, of), inputs) in self.aggregates.iter().zip(group) {
                let input = match of {
                    Of::Every => Value::Bool(true),
                    Of::Column(name) => row.get(name).clone(),
                    Of::Computed(compute) => compute(row),
                };
                if !input.is_null() {
                    inputs.push(input);
                }
            }
        }
        groups.retain(|key, _| sizes[key] >= self.at_least);
        groups
    }

    /// The columns of Gold to compare.
    pub(crate) fn columns(&self) -> Vec<&'static str> {
        let aggregates = self.aggregates.iter().map(|(name, _, _)| *name);
        std::iter::once("window_start").chain(self.keys.iter().copied()).chain(aggregates).collect()
    }

    /// Are these rows of Gold (in the order of [`Table::columns`]) what these events add up to? Returns the number of groups.
    pub(crate) fn check<'a>(
        &self,
        columns: &[&'static str],
        events: impl Iterator<Item = &'a Event>,
        gold: Vec<Vec<Value>>,
    ) -> usize {
        let expected = self.fold(columns, events);
        let mut found: BTreeMap<(i64, Vec<Value>), Vec<Value>> = BTreeMap::new();
        for mut row in gold {
            let values = row.split_off(1 + self.keys.len());
            let keys = row.split_off(1);
            let key = (i64::try_from(row[0].as_whole()).unwrap(), keys);
            let twice = found.insert(key.clone(), values);
            assert!(twice.is_none(), "{}: {key:?} stands there twice", self.name);
        }
        let missing: Vec<_> = expected.keys().filter(|key| !found.contains_key(key)).take(3).collect();
        let surplus: Vec<_> = found.keys().filter(|key| !expected.contains_key(key)).take(3).collect();
        assert!(missing.is_empty() && surplus.is_empty(), "{}: missing {missing:?}, surplus {surplus:?}", self.name);
        for (key, inputs) in &expected {
            for ((name, aggregate, _), (inputs, found)) in self.aggregates.iter().zip(inputs.iter().zip(&found[key])) {
                let wrong = check(*aggregate, inputs, found);
                assert!(wrong.is_none(), "{}.{name} {key:?}: {}", self.name, wrong.unwrap());
            }
        }
        expected.len()
    }
}

/// `None` when it is right.
fn check(aggregate: Agg, inputs: &[Value], found: &Value) -> Option<String> {
    let distinct = || inputs.iter().collect::<BTreeSet<_>>().len();
    let exactly = |expected: Value| (expected != *found).then(|| format!("{found:?}, not {expected:?}"));
    match aggregate {
        Agg::Count => exactly(Value::whole(inputs.len() as i128)),
        Agg::Distinct => exactly(Value::whole(distinct() as i128)),
        Agg::Min => exactly(inputs.iter().min().cloned().unwrap_or(Value::Null)),
        Agg::Max => exactly(inputs.iter().max().cloned().unwrap_or(Value::Null)),
        Agg::Sum => exactly(sum(inputs)),
        Agg::Mean if inputs.is_empty() => exactly(Value::Null),
        Agg::Mean => exactly(mean(inputs)),
        Agg::About => {
            let (expected, found) = (distinct() as f64, found.as_float());
            ((found - expected).abs() > 0.03 * expected).then(|| format!("{found}, not about {expected}"))
        }
        Agg::Percentile(_) if inputs.is_empty() => exactly(Value::Null),
        Agg::Percentile(p) => {
            let mut sorted: Vec<f64> = inputs.iter().map(Value::as_float).collect();
            sorted.sort_by(f64::total_cmp);
            let (expected, found) = (sorted[(p * (sorted.len() - 1) as f64).floor() as usize], found.as_float());
            ((found - expected).abs() > 0.01 * expected.abs()).then(|| format!("{found}, not about {expected}"))
        }
    }
}

/// Doubles are added in units of 2^-90.
const UNIT: u32 = 90;

fn units(doubles: &[Value]) -> i128 {
    let units = doubles.iter().map(|input| {
        let scaled = input.as_float() * 2f64.powi(UNIT.cast_signed());
        assert!(scaled.abs() < 2f64.powi(110) && scaled.fract() == 0.0, "{input:?} is out of the range of this fold");
        scaled as i128
    });
    units.sum()
}

fn are_doubles(inputs: &[Value]) -> bool {
    inputs.iter().any(|input| matches!(input, Value::Float(_)))
}

/// The exact sum: decimals in units of the finest of them; of doubles rounded once.
fn sum(inputs: &[Value]) -> Value {
    if inputs.is_empty() {
        return Value::Null;
    }
    if are_doubles(inputs) {
        return Value::float(units(inputs) as f64 / 2f64.powi(UNIT.cast_signed()));
    }
    let scale = inputs.iter().map(|input| if let Value::Exact(_, scale) = input { *scale } else { 0 }).max().unwrap();
    Value::exact(inputs.iter().map(|input| input.units(scale)).sum(), scale)
}

/// The exact mean, rounded once.
fn mean(inputs: &[Value]) -> Value {
    let count = inputs.len() as i128;
    if !are_doubles(inputs) {
        return Value::float(sum(inputs).as_whole() as f64 / count as f64);
    }
    let units = units(inputs);
    let shift = units.unsigned_abs().leading_zeros().saturating_sub(2);
    let (quotient, rest) = ((units << shift) / count, (units << shift) % count);
    // What is cut off decides ties only.
    let sticky = quotient | i128::from(rest != 0);
    Value::float(sticky as f64 / 2f64.powi((UNIT + shift).cast_signed()))
}
