//! Sums, means, variances and standard deviations of doubles, exact until one rounding at the end.
//!
//! Owns: counts, NULLs and which statistic. Does not own: the arithmetic (exact).

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, Float64Array};
use datafusion::common::Result;

use super::cells::{Kind, Reader, each, input, put_number, selected, typed};
use super::exact::Exact;

/// Which number comes out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Statistic {
    /// Σx.
    Sum,
    /// Σx / n.
    Mean,
    /// Divided by n - ddof; the square root of it where `root`. The variance is rounded once, then the root is.
    Variance {
        /// 1 for a sample, 0 for a population.
        ddof: u64,
        /// Standard deviation.
        root: bool,
    },
}

/// Sum, sum of squares (kept only where asked for) and number of the values seen.
#[derive(Default)]
pub(crate) struct Moments {
    count: u64,
    sum: Exact,
    squares: Exact,
}

impl Statistic {
    fn needs_squares(self) -> bool {
        match self {
            Self::Sum | Self::Mean => false,
            Self::Variance { .. } => true,
        }
    }

    fn of(self, cell: &Moments) -> Option<f64> {
        match self {
            Self::Sum => (cell.count > 0).then(|| cell.sum.sum()),
            Self::Mean => (cell.count > 0).then(|| cell.sum.mean(cell.count)),
            Self::Variance { ddof, root } => (cell.count > ddof).then(|| {
                let variance = Exact::variance(&cell.sum, &cell.squares, cell.count, ddof);
                if root { variance.sqrt() } else { variance }
            }),
        }
    }
}

impl Kind for Statistic {
    type Cell = Moments;

    fn update(&self, cells: &mut [Moments], values: &[ArrayRef], groups: &[usize], filter: Option<&BooleanArray>) -> Result<()> {
        let column = typed::<Float64Array>(input(values)?)?;
        let chosen = selected(column.nulls(), filter);
        let (values, squares) = (column.values(), self.needs_squares());
        each(groups, chosen.as_ref(), |row, group| {
            let cell = &mut cells[group];
            cell.count += 1;
            cell.sum.add(values[row]);
            if squares {
                cell.squares.add_square(values[row]);
            }
        });
        Ok(())
    }

    fn encode(&self, cell: &Moments, out: &mut Vec<u8>) {
        put_number(cell.count, out);
        cell.sum.encode(out);
        if self.needs_squares() {
            cell.squares.encode(out);
        }
    }

    fn absorb(&self, cell: &mut Moments, state: &mut Reader<'_>) -> Result<()> {
        cell.count += state.number()?;
        cell.sum.absorb(state)?;
        if self.needs_squares() {
            cell.squares.absorb(state)?;
        }
        Ok(())
    }

    fn finish(&self, cells: Vec<Moments>) -> Result<ArrayRef> {
        Ok(Arc::new(cells.iter().map(|cell| self.of(cell)).collect::<Float64Array>()))
    }

    fn heap(&self, cell: &Moments) -> usize {
        cell.sum.heap() + cell.squares.heap()
    }
}
