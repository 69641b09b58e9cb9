//! Groups in memory: what a partition gathers between two cuts, and what a merge folds.
//!
//! Owns: interning keys, feeding accumulators, handing states out. Does not own: the program (lower), windows and lateness
//! (machines), finished rows (gold).

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch, TimestampMicrosecondArray, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::{DataType, Field, Float64Type, Int64Type, Schema};
use datafusion::common::{DataFusionError, Result};
use datafusion::logical_expr::{EmitTo, GroupsAccumulator};
use datafusion::physical_plan::aggregates::group_values::{GroupValues, new_group_values};
use datafusion::physical_plan::aggregates::order::GroupOrdering;

use super::lower::{Program, WINDOW_START};
use super::plan::column_or_null;
use crate::engine::aggregates::cells::canonical;

/// States of one window: its start, the sum of the row counters, one row a group.
pub(crate) struct Emitted {
    pub(crate) window_us: i64,
    pub(crate) rows: u64,
    pub(crate) states: RecordBatch,
}

/// Groups by (window, keys).
pub(crate) struct Groups {
    program: Arc<Program>,
    values: Box<dyn GroupValues>,
    accumulators: Vec<Box<dyn GroupsAccumulator>>,
    rows: Vec<i64>,
    /// Group of every row of the current batch.
    scratch: Vec<usize>,
}

fn new_values(program: &Program) -> Result<Box<dyn GroupValues>> {
    let mut fields = vec![Field::new("window", DataType::Int64, false)];
    for (at, (_, of)) in program.keys.iter().enumerate() {
        fields.push(Field::new(format!("key{at}"), of.clone(), true));
    }
    new_group_values(Arc::new(Schema::new(fields)), &GroupOrdering::None)
}

impl Groups {
    pub(crate) fn new(program: Arc<Program>) -> Result<Self> {
        let values = new_values(&program)?;
        let accumulators =
            program.aggregates.iter().map(|aggregate| aggregate.make.create_groups_accumulator()).collect::<Result<_>>()?;
        Ok(Self { program, values, accumulators, rows: Vec::new(), scratch: Vec::new() })
    }

    /// Bytes held.
    pub(crate) fn size(&self) -> usize {
        self.values.size()
            + self.accumulators.iter().map(|accumulator| accumulator.size()).sum::<usize>()
            + (self.rows.capacity() + self.scratch.capacity()) * 8
    }

    /// Groups held.
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    fn intern(&mut self, columns: &[ArrayRef]) -> Result<()> {
        self.scratch.clear();
        self.values.intern(columns, &mut self.scratch)?;
        self.rows.resize(self.values.len(), 0);
        Ok(())
    }

    /// Adds rows of a Silver batch: `rows[i]` to the window that starts at `windows_us[i]`.
    pub(crate) fn accumulate(&mut self, silver: &RecordBatch, rows: &[u32], windows_us: &[i64], size_us: i64) -> Result<()> {
        let program = self.program.clone();
        let narrow = narrow(&program, silver, rows, windows_us, size_us)?;
        let mut keys: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(windows_us.to_vec()))];
        for (expr, of) in &program.keys {
            keys.push(one_zero(column_or_null(expr, of, &narrow)?));
        }
        self.intern(&keys)?;
        self.scratch.iter().for_each(|group| self.rows[*group] += 1);
        let total = self.rows.len();
        for (aggregate, accumulator) in program.aggregates.iter().zip(&mut self.accumulators) {
            let inputs = aggregate.inputs.iter().map(|(expr, of)| column_or_null(expr, of, &narrow));
            let inputs = inputs.collect::<Result<Vec<_>>>()?;
            let filter = aggregate.filter.as_ref().map(|filter| column_or_null(filter, &DataType::Boolean, &narrow));
            let filter = filter.transpose()?;
            let filter = filter.as_ref().and_then(|filter| filter.as_boolean_opt());
            accumulator.update_batch(&inputs, &self.scratch, filter, total)?;
        }
        Ok(())
    }

    /// Adds states that [`Groups::states`] or [`Groups::cut`] handed out, all of one window.
    pub(crate) fn merge(&mut self, states: &RecordBatch) -> Result<()> {
        let mut same = states.schema_ref().fields().iter().zip(self.program.states.fields());
        if states.num_columns() != self.program.states.fields().len() || !same.all(|(a, b)| a.data_type() == b.data_type()) {
            return Err(DataFusionError::Execution("states of another statement".to_owned()));
        }
        let keys = self.program.keys.len();
        let mut columns: Vec<ArrayRef> = vec![Arc::new(Int64Array::from_value(0, states.num_rows()))];
        columns.extend_from_slice(&states.columns()[..keys]);
        self.intern(&columns)?;
        let counts = states.column(states.num_columns() - 1).as_primitive::<Int64Type>();
        for (group, count) in self.scratch.iter().zip(counts.values()) {
            self.rows[*group] += count;
        }
        let (total, mut at) = (self.rows.len(), keys);
        for (aggregate, accumulator) in self.program.aggregates.iter().zip(&mut self.accumulators) {
            let end = at + aggregate.states;
            accumulator.merge_batch(&states.columns()[at..end], &self.scratch, total)?;
            at = end;
        }
        Ok(())
    }

    /// Takes all keys out; the windows' starts come first.
    pub(crate) fn take_keys(&mut self) -> Result<Vec<ArrayRef>> {
        let keys = self.values.emit(EmitTo::All)?;
        self.values = new_values(&self.program)?;
        Ok(keys)
    }

    /// Takes all accumulators' results out.
    pub(crate) fn take_results(&mut self) -> Result<(Vec<ArrayRef>, bool)> {
        let mut overflow = false;
        let mut results = Vec::new();
        for accumulator in &mut self.accumulators {
            results.push(accumulator.evaluate(EmitTo::All)?);
            overflow |= crate::engine::aggregates::sums::overflowed(accumulator.as_ref());
        }
        self.rows.clear();
        Ok((results, overflow))
    }

    /// Takes everything out: the windows' starts, and the states of all of them in one batch.
    pub(crate) fn states(&mut self) -> Result<(ArrayRef, RecordBatch)> {
        let mut columns = self.take_keys()?;
        let windows = columns.remove(0);
        for accumulator in &mut self.accumulators {
            columns.extend(accumulator.state(EmitTo::All)?);
        }
        columns.push(Arc::new(Int64Array::from(std::mem::take(&mut self.rows))));
        Ok((windows, RecordBatch::try_new(self.program.states.clone(), columns)?))
    }

    /// Takes everything out, one piece per window, windows rising.
    pub(crate) fn cut(&mut self) -> Result<Vec<Emitted>> {
        if self.rows.is_empty() {
            return Ok(Vec::new());
        }
        let (windows, states) = self.states()?;
        let windows = windows.as_primitive::<Int64Type>().values();
        let mut order: Vec<u32> = (0..windows.len() as u32).collect();
        order.sort_by_key(|row| windows[*row as usize]);
        let pieces = order.chunk_by(|a, b| windows[*a as usize] == windows[*b as usize]);
        let mut emitted = Vec::new();
        for piece in pieces {
            let states = match piece.len() == windows.len() {
                true => states.clone(),
                false => arrow::compute::take_record_batch(&states, &UInt32Array::from(piece.to_vec()))?,
            };
            let window_us = piece.first().map_or(0, |row| windows[*row as usize]);
            emitted.push(Emitted { window_us, rows: row_count(&states), states });
        }
        Ok(emitted)
    }
}

/// Sum of the hidden row counters.
pub(crate) fn row_count(states: &RecordBatch) -> u64 {
    let counts = states.columns().last().and_then(|column| column.as_primitive_opt::<Int64Type>());
    counts.map_or(0, |counts| counts.values().iter().sum::<i64>() as u64)
}

/// The columns in use of the chosen rows.
fn narrow(program: &Program, silver: &RecordBatch, rows: &[u32], windows_us: &[i64], size_us: i64) -> Result<RecordBatch> {
    // In the usual case every row is wanted, and nothing is copied.
    let whole = rows.len() == silver.num_rows() && rows.iter().enumerate().all(|(at, row)| at == *row as usize);
    let chosen = UInt32Array::from(if whole { Vec::new() } else { rows.to_vec() });
    let mut columns = Vec::with_capacity(program.used.len());
    for (at, field) in program.used.iter().zip(program.narrow.fields()) {
        columns.push(match silver.columns().get(*at) {
            Some(column) if whole => column.clone(),
            Some(column) => take(column, &chosen, None)?,
            None => {
                let shift = if field.name() == WINDOW_START { 0 } else { size_us };
                let times = windows_us.iter().map(|start| start.saturating_add(shift));
                Arc::new(TimestampMicrosecondArray::from_iter_values(times).with_timezone("UTC"))
            }
        });
    }
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(rows.len()));
    Ok(RecordBatch::try_new_with_options(program.narrow.clone(), columns, &options)?)
}

/// Equal doubles become one key with one representation.
fn one_zero(column: ArrayRef) -> ArrayRef {
    match column.as_primitive_opt::<Float64Type>() {
        Some(doubles) => Arc::new(doubles.unary::<_, Float64Type>(canonical) as Float64Array),
        None => column,
    }
}
