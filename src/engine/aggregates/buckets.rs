//! Estimated percentiles on logarithmic integer buckets: 64 per power of two, so a value is known to 1/128, under 1 %.
//!
//! The bucket of a double is its highest 18 bits: sign, exponent and six bits of mantissa. No logarithm is computed, so the
//! same value falls into the same bucket on every machine; merging adds counts. Values nearer to zero than 2^-1022 count as
//! zero. NULL and NaN are left out. The result is the middle of the bucket in which the value of rank ⌊p (n - 1)⌋ lies, but
//! never less than the smallest nor more than the largest value seen, which are kept exactly.
//!
//! Owns: `approx_percentile_cont`, `approx_median`. Does not own: exact percentiles (refused: they don't fit into a state).

use std::mem::size_of;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, Float64Array};
use datafusion::common::Result;
use foldhash::fast::FixedState;
use hashbrown::HashMap;

use super::cells::{Kind, Reader, canonical, each, input, put_number, selected, typed};

/// Bits of a double below its bucket.
const BELOW: u32 = 46;
/// Buckets of positive normal numbers start here; below lie zero and the subnormals.
const FIRST: i32 = 64;

/// Values per bucket, the smallest and the largest.
pub(crate) struct Histogram {
    counts: HashMap<i32, u64, FixedState>,
    min: f64,
    max: f64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: HashMap::with_hasher(FixedState::with_seed(0)), min: f64::INFINITY, max: f64::NEG_INFINITY }
    }
}

/// `approx_percentile_cont(x, p)`; `approx_median(x)` is p = 0.5.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Percentile(pub(crate) f64);

#[inline]
fn bucket_of(value: f64) -> i32 {
    let bucket = ((value.to_bits() & (u64::MAX >> 1)) >> BELOW) as i32;
    match (bucket < FIRST, value < 0.0) {
        (true, _) => 0,
        (false, false) => bucket,
        (false, true) => -bucket,
    }
}

fn middle_of(bucket: i32) -> f64 {
    if bucket == 0 {
        return 0.0;
    }
    let low = u64::from(bucket.unsigned_abs()) << BELOW;
    // Infinity has no middle.
    let middle = if low >= 0x7ff << 52 { f64::INFINITY } else { f64::from_bits(low | 1 << (BELOW - 1)) };
    if bucket < 0 { -middle } else { middle }
}

impl Histogram {
    fn at(&self, p: f64) -> Option<f64> {
        let total: u64 = self.counts.values().sum();
        let last = total.checked_sub(1)?;
        let rank = ((last as f64 * p).floor() as u64).min(last);
        if rank == last {
            return Some(self.max);
        }
        if rank == 0 {
            return Some(self.min);
        }
        let mut passed = 0;
        for (bucket, count) in self.sorted() {
            passed += count;
            if passed > rank {
                return Some(middle_of(bucket).clamp(self.min, self.max));
            }
        }
        None
    }

    fn sorted(&self) -> Vec<(i32, u64)> {
        let mut counts: Vec<(i32, u64)> = self.counts.iter().map(|(bucket, count)| (*bucket, *count)).collect();
        counts.sort_unstable();
        counts
    }
}

impl Kind for Percentile {
    type Cell = Histogram;

    fn update(
        &self,
        cells: &mut [Histogram],
        values: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
    ) -> Result<()> {
        let column = typed::<Float64Array>(input(values)?)?;
        let chosen = selected(column.nulls(), filter);
        let values = column.values();
        each(groups, chosen.as_ref(), |row, group| {
            let value = values[row];
            if value.is_nan() {
                return;
            }
            let (cell, value) = (&mut cells[group], canonical(value));
            *cell.counts.entry(bucket_of(value)).or_insert(0) += 1;
            cell.min = cell.min.min(value);
            cell.max = cell.max.max(value);
        });
        Ok(())
    }

    fn encode(&self, cell: &Histogram, out: &mut Vec<u8>) {
        out.extend_from_slice(&cell.min.to_le_bytes());
        out.extend_from_slice(&cell.max.to_le_bytes());
        let mut before = i32::MIN;
        for (bucket, count) in cell.sorted() {
            put_number(u64::from(bucket.abs_diff(before)), out);
            put_number(count, out);
            before = bucket;
        }
    }

    fn absorb(&self, cell: &mut Histogram, state: &mut Reader<'_>) -> Result<()> {
        cell.min = cell.min.min(f64::from_le_bytes(state.array()?));
        cell.max = cell.max.max(f64::from_le_bytes(state.array()?));
        let mut bucket = i32::MIN;
        while !state.0.is_empty() {
            bucket = bucket.wrapping_add(state.number()? as u32 as i32);
            *cell.counts.entry(bucket).or_insert(0) += state.number()?;
        }
        Ok(())
    }

    fn finish(&self, cells: Vec<Histogram>) -> Result<ArrayRef> {
        Ok(Arc::new(cells.iter().map(|cell| cell.at(self.0)).collect::<Float64Array>()))
    }

    fn heap(&self, cell: &Histogram) -> usize {
        // Slots are filled to 7/8 at most; one byte of control beside each.
        cell.counts.capacity() * 8 / 7 * (size_of::<(i32, u64)>() + 1)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_middle_of_a_bucket_is_within_one_percent_of_everything_in_it(value: f64) {
            prop_assume!(value.is_normal());
            let middle = middle_of(bucket_of(value));
            prop_assert!(((middle - value) / value).abs() <= 1.0 / 128.0);
        }

        #[test]
        fn buckets_rise_with_their_values(a: f64, b: f64) {
            prop_assume!(a <= b);
            prop_assert!(bucket_of(a) <= bucket_of(b));
        }

        #[test]
        fn a_percentile_is_within_one_percent_of_the_exact_one(
            values in prop::collection::vec(-1e6f64..1e6, 1..300),
            p in 0.0f64..=1.0,
        ) {
            let mut histogram = [Histogram::default()];
            let column: ArrayRef = Arc::new(Float64Array::from(values.clone()));
            Percentile(p).update(&mut histogram, &[column], &vec![0; values.len()], None).expect("adds");
            let mut sorted = values;
            sorted.sort_by(f64::total_cmp);
            let exact = sorted[(p * (sorted.len() - 1) as f64).floor() as usize];
            let found = histogram[0].at(p).expect("not empty");
            prop_assert!((found - exact).abs() <= exact.abs() * 0.01, "{} {}", found, exact);
        }
    }

    #[test]
    fn the_ends_are_exact_and_nan_does_not_count() {
        let mut cells = [Histogram::default(), Histogram::default()];
        let column: ArrayRef = Arc::new(Float64Array::from(vec![Some(3.3), None, Some(f64::NAN), Some(9.9), Some(1.1)]));
        Percentile(0.0).update(&mut cells, &[column], &[0, 0, 1, 0, 0], None).expect("adds");
        assert_eq!((cells[0].at(0.0), cells[0].at(1.0), cells[1].at(0.5)), (Some(1.1), Some(9.9), None));
    }
}
