//! `quantile_sketch(x)`: a KLL sketch (k = 200) as Apache DataSketches bytes, for readers that want other quantiles later.
//!
//! The one aggregate that does not commute to the bit: KLL drops values by a coin. Two runs over the same rows give sketches that
//! are equally good and not equal; whoever compares Gold leaves such a column out. NULL and NaN are left out of it.
//!
//! Owns: `quantile_sketch`. Does not own: reproducible percentiles (buckets), the sketch itself (datasketches).

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BinaryBuilder, BooleanArray, Float64Array};
use datafusion::common::{DataFusionError, Result};
use datasketches::error::Error;
use datasketches::kll::{KllFloat, KllSketch};

use super::cells::{Kind, Reader, canonical, each, input, selected, typed};

type Sketch = KllSketch<KllFloat<f64>>;

/// `quantile_sketch(x)`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quantiles;

fn wrong(error: Error) -> DataFusionError {
    DataFusionError::Execution(format!("a quantile sketch is damaged: {}", error.kind()))
}

impl Kind for Quantiles {
    type Cell = Sketch;

    fn update(&self, cells: &mut [Sketch], values: &[ArrayRef], groups: &[usize], filter: Option<&BooleanArray>) -> Result<()> {
        let column = typed::<Float64Array>(input(values)?)?;
        let (values, chosen) = (column.values(), selected(column.nulls(), filter));
        each(groups, chosen.as_ref(), |row, group| {
            if let Ok(value) = KllFloat::<f64>::new(canonical(values[row])) {
                cells[group].update(value);
            }
        });
        Ok(())
    }

    fn encode(&self, cell: &Sketch, out: &mut Vec<u8>) {
        out.extend_from_slice(&cell.serialize());
    }

    fn absorb(&self, cell: &mut Sketch, state: &mut Reader<'_>) -> Result<()> {
        let bytes = state.take(state.0.len())?;
        cell.merge(&Sketch::deserialize(bytes).map_err(wrong)?).map_err(wrong)
    }

    fn finish(&self, cells: Vec<Sketch>) -> Result<ArrayRef> {
        let mut out = BinaryBuilder::new();
        cells.iter().for_each(|cell| out.append_value(cell.serialize()));
        Ok(Arc::new(out.finish()))
    }

    fn heap(&self, cell: &Sketch) -> usize {
        cell.num_retained() * size_of::<f64>()
    }
}

#[cfg(test)]
mod tests {
    use datasketches::common::SearchCriteria;

    use super::*;

    #[test]
    fn merged_sketches_know_the_median_within_three_percent_of_rank() {
        let mut merged = Sketch::default();
        for part in 0..4 {
            let column: ArrayRef = Arc::new((0..5_000).map(|i| Some(f64::from(i * 4 + part))).collect::<Float64Array>());
            let mut cells = [Sketch::default()];
            Quantiles.update(&mut cells, &[column], &[0; 5_000], None).expect("adds");
            let mut state = Vec::new();
            Quantiles.encode(&cells[0], &mut state);
            Quantiles.absorb(&mut merged, &mut Reader(&state)).expect("own bytes");
            assert!(Quantiles.absorb(&mut Sketch::default(), &mut Reader(&state[..state.len() - 1])).is_err());
        }
        let median = merged.quantile(0.5, SearchCriteria::Inclusive).expect("asks").expect("not empty");
        assert!((median.into_inner() - 10_000.0).abs() < 600.0);
        assert_eq!(merged.n(), 20_000);
    }
}
