//! The admitted aggregates under their SQL names: argument types, result types, state types, and which accumulator.
//!
//! Owns: the list of what may stand in a Gold statement, and why nothing else may. Does not own: any arithmetic, the check of a
//! statement (sql/check).

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, FieldRef, Schema, i256};
use datafusion::common::{DataFusionError, Result, ScalarValue};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, ColumnarValue, GroupsAccumulator, Signature, Volatility,
};
use datafusion::physical_expr::PhysicalExpr;

use super::buckets::Percentile;
use super::cells::{Cells, OneGroup};
use super::distinct::Distinct;
use super::doubles::Statistic;
use super::extremes::{Extreme, ExtremeText};
use super::firsts::Edge;
use super::hll::{Distincts, Hll};
use super::quantiles::Quantiles;
use super::sums::{self, Count, Outcome, Sums};

/// Registers of `approx_distinct` unless a table says otherwise: 2^14, a standard error of 0.8 %.
pub const DEFAULT_LG_K: u8 = 14;

/// An aggregate whose states commute to the bit.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Function {
    Count,
    Sum,
    Avg,
    Min,
    Max,
    Stddev,
    StddevPop,
    VarSamp,
    VarPop,
    FirstValue,
    LastValue,
    BoolAnd,
    BoolOr,
    ApproxDistinct,
    HllSketch,
    QuantileSketch,
    ApproxPercentile,
    ApproxMedian,
}

/// Every name, its function, and how it is called.
pub(crate) const ADMITTED: &[(&str, Function, &str)] = &[
    ("count", Function::Count, "count(*), count(x), count(DISTINCT x)"),
    ("sum", Function::Sum, "sum(x)"),
    ("avg", Function::Avg, "avg(x)"),
    ("mean", Function::Avg, "mean(x)"),
    ("min", Function::Min, "min(x)"),
    ("max", Function::Max, "max(x)"),
    ("stddev", Function::Stddev, "stddev(x)"),
    ("stddev_samp", Function::Stddev, "stddev_samp(x)"),
    ("stddev_pop", Function::StddevPop, "stddev_pop(x)"),
    ("var", Function::VarSamp, "var(x)"),
    ("var_samp", Function::VarSamp, "var_samp(x)"),
    ("var_pop", Function::VarPop, "var_pop(x)"),
    ("first_value", Function::FirstValue, "first_value(x)"),
    ("last_value", Function::LastValue, "last_value(x)"),
    ("bool_and", Function::BoolAnd, "bool_and(x)"),
    ("bool_or", Function::BoolOr, "bool_or(x)"),
    ("approx_distinct", Function::ApproxDistinct, "approx_distinct(x)"),
    ("hll_sketch", Function::HllSketch, "hll_sketch(x)"),
    ("quantile_sketch", Function::QuantileSketch, "quantile_sketch(x), not reproducible to the bit"),
    ("approx_percentile_cont", Function::ApproxPercentile, "approx_percentile_cont(x, p)"),
    ("approx_median", Function::ApproxMedian, "approx_median(x)"),
];

impl Function {
    /// Does it need to know which record a value came from?
    pub(crate) fn needs_place(self) -> bool {
        matches!(self, Self::FirstValue | Self::LastValue)
    }
}

/// One admitted aggregate as DataFusion sees it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Admitted {
    pub(crate) function: Function,
    name: &'static str,
    lg_k: u8,
    signature: Signature,
}

/// All admitted aggregates, for a table whose sketches have 2^lg_k registers.
pub fn aggregates(lg_k: u8) -> Vec<Arc<AggregateUDF>> {
    ADMITTED
        .iter()
        .map(|(name, function, _)| {
            let signature = Signature::user_defined(Volatility::Immutable);
            Arc::new(AggregateUDF::from(Admitted { function: *function, name, lg_k, signature }))
        })
        .collect()
}

/// The admitted aggregate behind a UDAF, if it is one of ours.
pub(crate) fn admitted(udaf: &AggregateUDF) -> Option<&Admitted> {
    udaf.inner().downcast_ref::<Admitted>()
}

fn is_integer(of: &DataType) -> bool {
    of.is_integer() && of != &DataType::UInt64
}

/// The type that a number is computed in: Int64, DECIMAL or Float64.
fn number(name: &str, of: &DataType) -> Result<DataType> {
    if is_integer(of) || of.is_null() {
        Ok(DataType::Int64)
    } else if of == &DataType::UInt64 {
        Ok(DataType::Decimal128(20, 0))
    } else if of.is_floating() {
        Ok(DataType::Float64)
    } else if let DataType::Decimal32(precision, scale) | DataType::Decimal64(precision, scale) = of {
        Ok(DataType::Decimal128(*precision, *scale))
    } else if matches!(of, DataType::Decimal128(_, scale) if *scale >= 0) {
        Ok(of.clone())
    } else {
        Err(DataFusionError::Plan(format!("{name} takes a number, not {of}; CAST it to BIGINT, DECIMAL or DOUBLE")))
    }
}

/// The type that a value is compared or counted in.
fn scalar(name: &str, of: &DataType) -> Result<DataType> {
    if of.is_numeric() || of.is_null() {
        number(name, of)
    } else if of.is_string() {
        Ok(DataType::Utf8)
    } else if matches!(of, DataType::Boolean | DataType::Date32 | DataType::Timestamp(_, _)) {
        Ok(of.clone())
    } else {
        Err(DataFusionError::Plan(format!("{name} takes a number, text, time or boolean, not {of}")))
    }
}

/// Can values of this type be told apart by `count(DISTINCT x)`?
pub(crate) fn countable(of: &DataType) -> bool {
    scalar("count", of).is_ok_and(|computed| &computed == of)
}

impl Admitted {
    fn percentile(&self, args: &[Arc<dyn PhysicalExpr>]) -> Result<f64> {
        let bad = || DataFusionError::Plan(format!("the second argument of {} is a constant from 0 to 1", self.name));
        let constant = args.get(1).ok_or_else(bad)?;
        let nothing = RecordBatch::new_empty(Arc::new(Schema::empty()));
        let Ok(ColumnarValue::Scalar(ScalarValue::Float64(Some(p)))) = constant.evaluate(&nothing) else {
            return Err(bad());
        };
        if (0.0..=1.0).contains(&p) { Ok(p) } else { Err(bad()) }
    }

    /// Exact numbers go to integers, doubles to the superaccumulator.
    fn total(&self, of: &DataType) -> Box<dyn GroupsAccumulator> {
        let mean = self.function == Function::Avg;
        if of == &DataType::Float64 {
            return Box::new(Cells::new(if mean { Statistic::Mean } else { Statistic::Sum }));
        }
        let scale = if let DataType::Decimal128(_, scale) = of { Some(*scale) } else { None };
        let outcome = match (scale, mean) {
            (Some(scale), false) => Outcome::Decimal(scale),
            (Some(scale), true) => Outcome::DecimalMean(scale, mean_scale(scale) - scale),
            (None, false) => Outcome::Long,
            (None, true) => Outcome::Mean,
        };
        match sums::is_narrow(of) {
            true => Box::new(Sums::<i128>::new(outcome)),
            false => Box::new(Sums::<i256>::new(outcome)),
        }
    }

    fn extreme(&self, max: bool, of: &DataType) -> Box<dyn GroupsAccumulator> {
        if of == &DataType::Utf8 {
            Box::new(ExtremeText::new(max))
        } else if matches!(of, DataType::Decimal128(_, _)) {
            Box::new(Extreme::<i128>::new(max, of.clone()))
        } else {
            Box::new(Extreme::<i64>::new(max, of.clone()))
        }
    }

    fn groups(&self, args: &AccumulatorArgs<'_>) -> Result<Box<dyn GroupsAccumulator>> {
        let of = args.expr_fields.first().map_or(DataType::Null, |field| field.data_type().clone());
        let variance = |ddof, root| Box::new(Cells::new(Statistic::Variance { ddof, root }));
        let hll = |gives| Box::new(Cells::new(Hll { lg_k: self.lg_k, gives }));
        Ok(match self.function {
            Function::Count if args.is_distinct => Box::new(Distinct::default()),
            Function::Count => Box::new(Count::default()),
            Function::Sum | Function::Avg => self.total(&of),
            Function::Min | Function::BoolAnd => self.extreme(false, &of),
            Function::Max | Function::BoolOr => self.extreme(true, &of),
            Function::Stddev => variance(1, true),
            Function::StddevPop => variance(0, true),
            Function::VarSamp => variance(1, false),
            Function::VarPop => variance(0, false),
            Function::FirstValue => Box::new(Edge::new(false, args.ignore_nulls, of)),
            Function::LastValue => Box::new(Edge::new(true, args.ignore_nulls, of)),
            Function::ApproxDistinct => hll(Distincts::Estimate),
            Function::HllSketch => hll(Distincts::Sketch),
            Function::QuantileSketch => Box::new(Cells::new(Quantiles)),
            Function::ApproxPercentile => Box::new(Cells::new(Percentile(self.percentile(args.exprs)?))),
            Function::ApproxMedian => Box::new(Cells::new(Percentile(0.5))),
        })
    }

    fn states(&self, of: &DataType, distinct: bool) -> Vec<DataType> {
        match self.function {
            Function::Count if !distinct => vec![DataType::Int64],
            Function::Sum | Function::Avg if of != &DataType::Float64 => sums::state_types(of),
            Function::Min | Function::Max | Function::BoolAnd | Function::BoolOr => vec![of.clone()],
            Function::FirstValue | Function::LastValue => vec![of.clone(), DataType::Binary],
            Function::Count
            | Function::Sum
            | Function::Avg
            | Function::Stddev
            | Function::StddevPop
            | Function::VarSamp
            | Function::VarPop
            | Function::ApproxDistinct
            | Function::HllSketch
            | Function::QuantileSketch
            | Function::ApproxPercentile
            | Function::ApproxMedian => vec![DataType::LargeBinary],
        }
    }
}

/// Four more digits than the values have.
fn mean_scale(scale: i8) -> i8 {
    (scale + 4).min(38)
}

impl AggregateUDFImpl for Admitted {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let wanted = if self.function == Function::ApproxPercentile { 2 } else { 1 };
        let Some(of) = types.first().filter(|_| types.len() == wanted) else {
            let count = if wanted == 1 { "one argument" } else { "two arguments: x and a constant from 0 to 1" };
            return Err(DataFusionError::Plan(format!("{} takes {count}", self.name)));
        };
        let first = match self.function {
            Function::Count if of.is_nested() || of.is_null() => of.clone(),
            Function::Count => scalar(self.name, of).unwrap_or_else(|_| of.clone()),
            Function::FirstValue | Function::LastValue => of.clone(),
            Function::Sum | Function::Avg => number(self.name, of)?,
            Function::Min | Function::Max | Function::ApproxDistinct | Function::HllSketch => scalar(self.name, of)?,
            Function::BoolAnd | Function::BoolOr if of == &DataType::Boolean || of.is_null() => DataType::Boolean,
            Function::BoolAnd | Function::BoolOr => {
                return Err(DataFusionError::Plan(format!("{} takes a boolean, not {of}", self.name)));
            }
            Function::Stddev
            | Function::StddevPop
            | Function::VarSamp
            | Function::VarPop
            | Function::QuantileSketch
            | Function::ApproxPercentile
            | Function::ApproxMedian => number(self.name, of).map(|_| DataType::Float64)?,
        };
        let mut coerced = vec![first];
        coerced.resize(wanted, DataType::Float64);
        Ok(coerced)
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        let of = types.first().cloned().unwrap_or(DataType::Null);
        Ok(match self.function {
            Function::Count | Function::ApproxDistinct => DataType::Int64,
            Function::Sum | Function::Avg => {
                let mean = self.function == Function::Avg;
                if let DataType::Decimal128(_, scale) = of {
                    DataType::Decimal128(38, if mean { mean_scale(scale) } else { scale })
                } else if mean {
                    DataType::Float64
                } else {
                    of
                }
            }
            Function::Min | Function::Max | Function::FirstValue | Function::LastValue | Function::BoolAnd | Function::BoolOr => {
                of
            }
            Function::HllSketch | Function::QuantileSketch => DataType::Binary,
            Function::Stddev
            | Function::StddevPop
            | Function::VarSamp
            | Function::VarPop
            | Function::ApproxPercentile
            | Function::ApproxMedian => DataType::Float64,
        })
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        let of = args.input_fields.first().map_or(DataType::Null, |field| field.data_type().clone());
        let types = self.states(&of, args.is_distinct).into_iter().enumerate();
        Ok(types.map(|(i, of)| Arc::new(Field::new(format!("{}[{i}]", args.name), of, true))).collect())
    }

    fn accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        Ok(Box::new(OneGroup::new(self.groups(&args)?)))
    }

    fn groups_accumulator_supported(&self, _args: AccumulatorArgs<'_>) -> bool {
        true
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn GroupsAccumulator>> {
        self.groups(&args)
    }

    fn supports_null_handling_clause(&self) -> bool {
        self.function.needs_place()
    }
}
