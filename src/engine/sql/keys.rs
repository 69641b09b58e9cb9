//! What tells the rows of one window of Gold apart.
//!
//! Owns: which output columns are group keys, the difference of sets of keys. Does not own: the statement's shape (lower).

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::error::ArrowError;
use arrow::row::{RowConverter, SortField};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::utils::collect_columns;
use sluicebox_actors::model::fault::{Fault, Kind, Result};

use super::lower::{Program, Source, Step};

/// Output columns that hold the group keys beside the window, in the order of the output; none if a key is not shown as it is.
pub(crate) fn keys(program: &Program) -> Option<Arc<[String]>> {
    let mut columns: Vec<Option<Source>> = program.sources.iter().copied().map(Some).collect();
    for step in &program.steps {
        if let Step::Project(exprs, _) = step {
            let plain = |expr: &Arc<dyn PhysicalExpr>| columns.get(expr.downcast_ref::<Column>()?.index()).copied().flatten();
            columns = exprs.iter().map(plain).collect();
        }
    }
    let mut missing: BTreeSet<usize> = (0..program.keys.len()).collect();
    let mut names = Vec::new();
    for (expr, field) in program.last.iter().zip(program.output.fields()) {
        // One column, perhaps in a type that can be stored.
        let used = collect_columns(expr);
        let source = used.iter().next().filter(|_| used.len() == 1).and_then(|column| columns.get(column.index()).copied());
        if let Some(Some(Source::Key(key))) = source
            && missing.remove(&key)
        {
            names.push(field.name().clone());
        }
    }
    missing.is_empty().then(|| names.into())
}

/// Rows that the others do not have, each once, in the order of their keys.
pub(crate) fn without(rows: &[RecordBatch], others: &[RecordBatch]) -> Result<RecordBatch> {
    let Some(first) = rows.first() else { return Err(Fault::bug("no rows to compare")) };
    difference(first, rows, others).map_err(|error| Fault::caused(Kind::Corrupt, "comparing keys of Gold", &error))
}

fn difference(first: &RecordBatch, rows: &[RecordBatch], others: &[RecordBatch]) -> Result<RecordBatch, ArrowError> {
    let schema = first.schema();
    if schema.fields().is_empty() {
        // One group, whose only key is that it is there.
        let any = |batches: &[RecordBatch]| batches.iter().any(|batch| batch.num_rows() > 0);
        let left = usize::from(any(rows) && !any(others));
        return RecordBatch::try_new_with_options(schema, Vec::new(), &RecordBatchOptions::new().with_row_count(Some(left)));
    }
    let fields = schema.fields().iter().map(|field| SortField::new(field.data_type().clone()));
    let converter = RowConverter::new(fields.collect())?;
    let converted = |batches: &[RecordBatch]| -> Result<BTreeSet<_>, ArrowError> {
        let mut all = BTreeSet::new();
        for batch in batches {
            all.extend(converter.convert_columns(batch.columns())?.iter().map(|row| row.owned()));
        }
        Ok(all)
    };
    let (mut mine, theirs) = (converted(rows)?, converted(others)?);
    mine.retain(|row| !theirs.contains(row));
    let columns = converter.convert_rows(mine.iter().map(|row| row.row()))?;
    RecordBatch::try_new(schema, columns)
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Float64Array, Int64Array, StringArray};
    use arrow::datatypes::Schema;
    use proptest::prelude::*;

    use super::*;

    fn batch(rows: &[(Option<String>, Option<f64>)]) -> RecordBatch {
        let texts: ArrayRef = Arc::new(rows.iter().map(|row| row.0.clone()).collect::<StringArray>());
        let numbers: ArrayRef = Arc::new(rows.iter().map(|row| row.1).collect::<Float64Array>());
        RecordBatch::try_from_iter_with_nullable([("a", texts, true), ("b", numbers, true)]).expect("columns")
    }

    fn rows() -> impl Strategy<Value = Vec<(Option<String>, Option<f64>)>> {
        let text = proptest::option::of("[ab]{0,2}");
        let number = proptest::option::of((0i32..3).prop_map(f64::from));
        proptest::collection::vec((text, number), 0..12)
    }

    proptest! {
        #[test]
        fn what_is_left_is_the_difference_of_two_sets(mine in rows(), more in rows(), theirs in rows()) {
            let told = |row: &(Option<String>, Option<f64>)| format!("{row:?}");
            let set = |rows: &[(Option<String>, Option<f64>)]| -> BTreeSet<String> { rows.iter().map(told).collect() };
            let left = without(&[batch(&mine), batch(&more)], &[batch(&theirs)]).expect("compares");
            let all: Vec<_> = mine.iter().chain(&more).cloned().collect();
            let expected: Vec<String> = set(&all).difference(&set(&theirs)).cloned().collect();
            prop_assert_eq!(left.num_rows(), expected.len());
            let again = without(std::slice::from_ref(&left), &[batch(&theirs)]).expect("compares");
            prop_assert_eq!(again.num_rows(), left.num_rows());
            prop_assert_eq!(without(&[left], &[batch(&all)]).expect("compares").num_rows(), 0);
        }
    }

    #[test]
    fn a_table_without_a_key_has_one_row_or_none() {
        let empty = Arc::new(Schema::empty());
        let rows = |count: usize| {
            let options = RecordBatchOptions::new().with_row_count(Some(count));
            RecordBatch::try_new_with_options(empty.clone(), Vec::new(), &options).expect("a batch")
        };
        for (mine, theirs, left) in [(1, 0, 1), (1, 1, 0), (0, 0, 0), (0, 1, 0)] {
            assert_eq!(without(&[rows(mine)], &[rows(theirs)]).expect("compares").num_rows(), left);
        }
        let bytes = sluicebox_actors::model::states::encode(&rows(1)).expect("writes");
        let back = sluicebox_actors::model::states::decode(&bytes).expect("reads");
        assert_eq!(back.num_rows(), 1, "as a sink's keys are kept");
    }

    #[test]
    fn other_columns_are_refused() {
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![1]));
        let other = RecordBatch::try_from_iter([("a", numbers)]).expect("a batch");
        assert!(without(&[batch(&[])], &[other]).is_err());
    }
}
