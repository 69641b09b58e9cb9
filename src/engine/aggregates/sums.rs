//! Counts, and sums and means of integers and decimals: integer arithmetic that cannot wrap.
//!
//! Owns: `count`, `sum` and `avg` of Int64 and DECIMAL, the overflow mark. Does not own: doubles (doubles), distinct counts.

use std::any::Any;
use std::mem::size_of;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Decimal128Array, Decimal256Array, Float64Array, Int64Array};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Decimal128Type, Decimal256Type, DecimalType, Int64Type, i256};
use datafusion::common::{DataFusionError, Result};
use datafusion::logical_expr::{EmitTo, GroupsAccumulator};

use super::cells::{by_rows, each, input, selected, typed};
use super::exact::ratio;

/// `count(*)` and `count(x)`; state: one Int64.
#[derive(Default)]
pub(crate) struct Count {
    counts: Vec<i64>,
}

impl GroupsAccumulator for Count {
    fn update_batch(&mut self, values: &[ArrayRef], groups: &[usize], filter: Option<&BooleanArray>, total: usize) -> Result<()> {
        self.counts.resize(total, 0);
        // Without an input column every row counts: count(*).
        let valid = values.first().and_then(|column| column.logical_nulls());
        let counts = &mut self.counts;
        each(groups, selected(valid.as_ref(), filter).as_ref(), |_, group| counts[group] += 1);
        Ok(())
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        Ok(Arc::new(Int64Array::from(emit_to.take_needed(&mut self.counts))))
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        Ok(vec![self.evaluate(emit_to)?])
    }

    fn merge_batch(&mut self, values: &[ArrayRef], groups: &[usize], total: usize) -> Result<()> {
        self.counts.resize(total, 0);
        let states = typed::<Int64Array>(input(values)?)?.values();
        groups.iter().zip(states).for_each(|(group, count)| self.counts[*group] += count);
        Ok(())
    }

    fn convert_to_state(&self, values: &[ArrayRef], filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        by_rows(Self::default(), values, filter)
    }

    fn size(&self) -> usize {
        self.counts.capacity() * size_of::<i64>()
    }
}

/// What becomes of a sum and a count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    /// The sum, as Int64.
    Long,
    /// The sum, as DECIMAL(38, scale).
    Decimal(i8),
    /// sum / count to the nearest double.
    Mean,
    /// sum / count as DECIMAL(38, scale + more), halves away from zero.
    DecimalMean(i8, i8),
}

/// The integer a sum is kept in. i128 holds 2^63 addends below 10^19, i256 any decimal(38).
pub(crate) trait Wide: Copy + Send + 'static {
    const ZERO: Self;
    fn plus(self, other: Self) -> Self;
    fn of(value: i128) -> Self;
    fn narrow(self) -> Option<i128>;
    /// self × 10^more / count, halves away from zero.
    fn mean(self, more: u32, count: i64) -> Option<i128>;
    fn column(values: Vec<Self>) -> Result<ArrayRef>;
    fn read(column: &ArrayRef) -> Result<&[Self]>;
}

impl Wide for i128 {
    const ZERO: Self = 0;
    fn plus(self, other: Self) -> Self {
        self + other
    }
    fn of(value: i128) -> Self {
        value
    }
    fn narrow(self) -> Option<i128> {
        Some(self)
    }
    fn mean(self, more: u32, count: i64) -> Option<i128> {
        i256::from_i128(self).mean(more, count)
    }
    fn column(values: Vec<Self>) -> Result<ArrayRef> {
        Ok(Arc::new(Decimal128Array::from(values).with_precision_and_scale(38, 0)?))
    }
    fn read(column: &ArrayRef) -> Result<&[Self]> {
        Ok(typed::<Decimal128Array>(column)?.values())
    }
}

impl Wide for i256 {
    const ZERO: Self = i256::ZERO;
    fn plus(self, other: Self) -> Self {
        self.wrapping_add(other)
    }
    fn of(value: i128) -> Self {
        i256::from_i128(value)
    }
    fn narrow(self) -> Option<i128> {
        self.to_i128()
    }
    fn mean(self, more: u32, count: i64) -> Option<i128> {
        let scaled = self.checked_mul(i256::from_i128(10i128.checked_pow(more)?))?;
        let count = i256::from_i128(i128::from(count));
        let (quotient, rest) = (scaled.checked_div(count)?, scaled.checked_rem(count)?);
        let twice = rest.wrapping_abs().wrapping_add(rest.wrapping_abs());
        let away = match (twice >= count, scaled < i256::ZERO) {
            (false, _) => i256::ZERO,
            (true, false) => i256::ONE,
            (true, true) => i256::MINUS_ONE,
        };
        quotient.wrapping_add(away).to_i128()
    }
    fn column(values: Vec<Self>) -> Result<ArrayRef> {
        Ok(Arc::new(Decimal256Array::from(values).with_precision_and_scale(76, 0)?))
    }
    fn read(column: &ArrayRef) -> Result<&[Self]> {
        Ok(typed::<Decimal256Array>(column)?.values())
    }
}

/// `sum` and `avg` of Int64 and DECIMAL; state: the sum and the number of values.
pub(crate) struct Sums<W: Wide> {
    result: Outcome,
    sums: Vec<W>,
    counts: Vec<i64>,
    overflow: bool,
}

/// Did a sum that was evaluated here leave the range of its type?
pub(crate) fn overflowed(accumulator: &dyn GroupsAccumulator) -> bool {
    let any: &dyn Any = accumulator;
    any.downcast_ref::<Sums<i128>>().is_some_and(|sums| sums.overflow)
        || any.downcast_ref::<Sums<i256>>().is_some_and(|sums| sums.overflow)
}

impl<W: Wide> Sums<W> {
    pub(crate) fn new(result: Outcome) -> Self {
        Self { result, sums: Vec::new(), counts: Vec::new(), overflow: false }
    }

    fn grow(&mut self, total: usize) {
        self.sums.resize(total, W::ZERO);
        self.counts.resize(total, 0);
    }

    fn one(&self, sum: W, count: i64) -> Option<i128> {
        match self.result {
            Outcome::Long => sum.narrow().filter(|sum| i64::try_from(*sum).is_ok()),
            Outcome::Decimal(_) => sum.narrow().filter(fits),
            Outcome::DecimalMean(_, more) => sum.mean(more.unsigned_abs().into(), count).filter(fits),
            Outcome::Mean => sum.narrow(),
        }
    }
}

/// Has it at most 38 digits?
fn fits(value: &i128) -> bool {
    value.unsigned_abs() < 10u128.pow(38)
}

impl<W: Wide> GroupsAccumulator for Sums<W> {
    fn update_batch(&mut self, values: &[ArrayRef], groups: &[usize], filter: Option<&BooleanArray>, total: usize) -> Result<()> {
        self.grow(total);
        let (sums, counts) = (&mut self.sums, &mut self.counts);
        let column = input(values)?;
        let chosen = selected(column.logical_nulls().as_ref(), filter);
        if let Some(values) = column.as_primitive_opt::<Int64Type>() {
            let values = values.values();
            each(groups, chosen.as_ref(), |row, group| {
                sums[group] = sums[group].plus(W::of(i128::from(values[row])));
                counts[group] += 1;
            });
        } else {
            let values = typed::<Decimal128Array>(column)?.values();
            each(groups, chosen.as_ref(), |row, group| {
                sums[group] = sums[group].plus(W::of(values[row]));
                counts[group] += 1;
            });
        }
        Ok(())
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let sums = emit_to.take_needed(&mut self.sums);
        let counts = emit_to.take_needed(&mut self.counts);
        let results: Vec<Option<i128>> =
            sums.iter().zip(&counts).map(|(sum, count)| if *count == 0 { None } else { self.one(*sum, *count) }).collect();
        self.overflow |= results.iter().zip(&counts).any(|(result, count)| result.is_none() && *count > 0);
        let nulls = NullBuffer::from_iter(results.iter().map(Option::is_some));
        let whole = results.iter().map(|result| result.unwrap_or(0));
        Ok(match self.result {
            // In range: `one` let nothing else pass.
            Outcome::Long => Arc::new(Int64Array::new(whole.map(|sum| sum as i64).collect(), Some(nulls))),
            Outcome::Mean => {
                let means = whole.zip(&counts).map(|(sum, count)| ratio(sum, (*count).max(1)));
                Arc::new(Float64Array::new(means.collect(), Some(nulls)))
            }
            Outcome::Decimal(scale) | Outcome::DecimalMean(scale, _) => {
                let scale = match self.result {
                    Outcome::DecimalMean(scale, more) => scale + more,
                    Outcome::Long | Outcome::Mean | Outcome::Decimal(_) => scale,
                };
                Arc::new(Decimal128Array::new(whole.collect(), Some(nulls)).with_precision_and_scale(38, scale)?)
            }
        })
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        let counts = emit_to.take_needed(&mut self.counts);
        Ok(vec![W::column(emit_to.take_needed(&mut self.sums))?, Arc::new(Int64Array::from(counts))])
    }

    fn merge_batch(&mut self, values: &[ArrayRef], groups: &[usize], total: usize) -> Result<()> {
        self.grow(total);
        let [sums, counts] = values else {
            return Err(DataFusionError::Internal("a sum's state has two columns".to_owned()));
        };
        let (sums, counts) = (W::read(sums)?, typed::<Int64Array>(counts)?.values());
        for ((group, sum), count) in groups.iter().zip(sums).zip(counts) {
            self.sums[*group] = self.sums[*group].plus(*sum);
            self.counts[*group] += count;
        }
        Ok(())
    }

    fn convert_to_state(&self, values: &[ArrayRef], filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        by_rows(Self::new(self.result), values, filter)
    }

    fn size(&self) -> usize {
        self.sums.capacity() * size_of::<W>() + self.counts.capacity() * size_of::<i64>()
    }
}

/// Type of the sum in a state: 19 digits and 2^63 addends fit into i128.
pub(crate) fn is_narrow(input: &DataType) -> bool {
    !matches!(input, DataType::Decimal128(precision, _) if *precision > 19)
}

/// Types of the state columns.
pub(crate) fn state_types(input: &DataType) -> Vec<DataType> {
    let sum = match is_narrow(input) {
        true => DataType::Decimal128(Decimal128Type::MAX_PRECISION, 0),
        false => DataType::Decimal256(Decimal256Type::MAX_PRECISION, 0),
    };
    vec![sum, DataType::Int64]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run<W: Wide>(result: Outcome, column: ArrayRef) -> (ArrayRef, bool) {
        let mut sums = Sums::<W>::new(result);
        sums.update_batch(std::slice::from_ref(&column), &vec![0; column.len()], None, 1).expect("adds");
        let out = sums.evaluate(EmitTo::All).expect("evaluates");
        (out, overflowed(&sums))
    }

    #[test]
    fn an_integer_sum_out_of_range_is_null_and_marked_and_never_wraps() {
        let column: ArrayRef = Arc::new(Int64Array::from(vec![i64::MAX, 1]));
        let (out, overflow) = run::<i128>(Outcome::Long, column);
        assert!(out.is_null(0) && overflow);
        let column: ArrayRef = Arc::new(Int64Array::from(vec![i64::MAX, 1, -1]));
        let (out, overflow) = run::<i128>(Outcome::Long, column);
        assert_eq!(out.as_primitive::<Int64Type>().value(0), i64::MAX);
        assert!(!overflow);
    }

    #[test]
    fn a_decimal_sum_beyond_38_digits_is_null_and_marked() {
        let most = 10i128.pow(38) - 1;
        let of = |values: Vec<i128>| -> ArrayRef {
            Arc::new(Decimal128Array::from(values).with_precision_and_scale(38, 2).expect("fits"))
        };
        let (out, overflow) = run::<i256>(Outcome::Decimal(2), of(vec![most, most, -most]));
        assert_eq!(out.as_primitive::<Decimal128Type>().value(0), most);
        assert!(!overflow);
        let (out, overflow) = run::<i256>(Outcome::Decimal(2), of(vec![most; 5]));
        assert!(out.is_null(0) && overflow);
    }

    #[test]
    fn a_decimal_mean_has_four_more_digits_and_rounds_halves_away_from_zero() {
        let column: ArrayRef = Arc::new(Decimal128Array::from(vec![1, 1, 0]).with_precision_and_scale(18, 2).expect("fits"));
        let (out, _) = run::<i128>(Outcome::DecimalMean(2, 4), column);
        assert_eq!(out.as_primitive::<Decimal128Type>().value(0), 6667, "0.02 / 3 = 0.006667");
        let column: ArrayRef = Arc::new(Int64Array::from(vec![-1, 0, 0, 0, 0, 0, 0, 0]));
        let (out, _) = run::<i128>(Outcome::DecimalMean(0, 2), column);
        assert_eq!(out.as_primitive::<Decimal128Type>().value(0), -13, "-0.125 goes to -0.13");
    }
}
