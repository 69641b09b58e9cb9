//! What Gold must say: records added up with plain maps, sets and exact sums; nothing of the product is used.
//!
//! Owns: groups and measures. Does not own: which records take part (oracle).

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, ensure};

/// Digits behind the point of exact sums.
const SCALE: usize = 6;
/// How far `approx_distinct` may be off.
const ABOUT: f64 = 0.03;

/// What is computed; the number is that of a column.
#[derive(Clone, Copy, Debug)]
pub(super) enum Measure {
    /// Records.
    Count,
    /// Values that are not NULL.
    CountOf(usize),
    Distinct(usize),
    /// Distinct values, within 3 %.
    About(usize),
    Sum(usize),
    Min(usize),
    Max(usize),
}

/// A Gold table as its statement defines it.
pub(super) struct Table {
    pub(super) name: &'static str,
    pub(super) lateness: &'static str,
    pub(super) window_us: i64,
    /// Name in Gold, column.
    pub(super) keys: &'static [(&'static str, usize)],
    /// Name in Gold, measure.
    pub(super) measures: &'static [(&'static str, Measure)],
}

/// A row of Silver: event time, columns.
pub(super) type Event = (i64, Vec<Option<String>>);
/// (window start, keys).
pub(super) type Group = (i64, Vec<Option<String>>);

impl Table {
    /// Groups these events.
    pub(super) fn groups<'a>(&self, events: impl Iterator<Item = &'a Event>) -> BTreeMap<Group, Vec<&'a Event>> {
        let mut groups: BTreeMap<Group, Vec<&Event>> = BTreeMap::new();
        for event in events {
            let keys = self.keys.iter().map(|(_, column)| event.1[*column].clone()).collect();
            groups.entry((event.0.div_euclid(self.window_us) * self.window_us, keys)).or_default().push(event);
        }
        groups
    }
}

impl Measure {
    /// `None` if this is what the events add up to, else what was expected.
    pub(super) fn wrong(self, events: &[&Event], found: Option<&str>) -> anyhow::Result<Option<String>> {
        let values = |column: usize| events.iter().filter_map(move |event| event.1[column].as_deref());
        let units = |column: usize| values(column).map(units).collect::<anyhow::Result<Vec<i128>>>();
        let found_units = found.map(self::units).transpose()?;
        let expected = match self {
            Self::Count => Some(whole(events.len())),
            Self::CountOf(column) => Some(whole(values(column).count())),
            Self::Distinct(column) => Some(whole(values(column).collect::<BTreeSet<_>>().len())),
            Self::About(column) => {
                let exact = values(column).collect::<BTreeSet<_>>().len();
                let off = found_units.map_or(f64::INFINITY, |units| (units as f64 / whole(1) as f64 - exact as f64).abs());
                return Ok((off > ABOUT * exact as f64).then(|| format!("about {exact}")));
            }
            Self::Sum(column) => Some(units(column)?).filter(|units| !units.is_empty()).map(|units| units.iter().sum()),
            Self::Min(column) => units(column)?.into_iter().min(),
            Self::Max(column) => units(column)?.into_iter().max(),
        };
        Ok((expected != found_units).then(|| format!("{:?} in units of 10^-{SCALE}", expected)))
    }
}

fn whole(count: usize) -> i128 {
    count as i128 * 10i128.pow(SCALE as u32)
}

/// A number in units of 10^-6, from its digits.
fn units(text: &str) -> anyhow::Result<i128> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    ensure!(part.len() <= SCALE, "`{text}` has too many digits behind the point");
    format!("{whole}{part:0<SCALE$}").parse().with_context(|| format!("`{text}` is no decimal number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(amount: &str) -> Event {
        (0, vec![Some(amount.to_owned())])
    }

    #[test]
    fn numbers_are_compared_by_value_and_to_the_last_digit() {
        let (one, two) = (event("0.10"), event("0.2"));
        let events = [&one, &two, &(1, vec![None])];
        for (measure, right) in [
            (Measure::Count, "3"),
            (Measure::CountOf(0), "2"),
            (Measure::Sum(0), "0.3"),
            (Measure::Min(0), "0.100"),
            (Measure::Max(0), "0.20"),
            (Measure::About(0), "2"),
        ] {
            assert_eq!(measure.wrong(&events, Some(right)).unwrap(), None, "{measure:?}");
            assert!(measure.wrong(&events, Some("0.300001")).unwrap().is_some(), "{measure:?}");
            assert!(measure.wrong(&events, None).unwrap().is_some(), "{measure:?}");
        }
        assert_eq!(Measure::Sum(0).wrong(&[], None).unwrap(), None);
    }

    #[test]
    fn a_window_starts_at_a_multiple_of_its_length_also_before_1970() {
        let table = Table { name: "t", lateness: "0s", window_us: 10, keys: &[("k", 0)], measures: &[] };
        let events = [(-1, vec![Some("a".to_owned())]), (0, vec![None]), (9, vec![None])];
        let groups: Vec<(i64, usize)> = table.groups(events.iter()).into_iter().map(|((at, _), of)| (at, of.len())).collect();
        assert_eq!(groups, [(-10, 1), (0, 2)]);
    }
}
