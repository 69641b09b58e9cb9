//! A Gold statement: per epoch into states, per window from states to rows.
//!
//! Owns: compiling, WHERE, merging, finishing in an order that no cut or shuffle shows in. Does not own: the groups themselves
//! (groups), which windows there are (machines).

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, RecordBatch, RecordBatchOptions, TimestampMicrosecondArray, UInt32Array,
};
use arrow::compute::{SortColumn, SortOptions, cast, filter_record_batch, lexsort_to_indices, take_record_batch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::{DataFusionError, Result as DfResult};
use datafusion::sql::sqlparser::ast::{Expr, GroupByExpr, Ident, Query, SelectItem, SetExpr};
use sluicebox_actors::model::epoch::Hash;
use sluicebox_actors::model::fault::{Fault, Kind};
use sluicebox_actors::model::window::{Window, Windowing};
use sluicebox_actors::ports::{Finished, GoldTable, Merger};

use super::check::{Check, Tier};
use super::error::{Blame, SqlError, fault};
use super::groups::Groups;
use super::keys;
use super::lower::{Program, Source, Step, WINDOW_END, WINDOW_START, lower};
use super::merge::SqlMerger;
use super::plan::{Catalog, column_or_null, parse};
use super::silver::{name_items, timestamp_type};
use super::spill::MergeMemory;
use crate::engine::aggregates::udaf::DEFAULT_LG_K;

/// Settings of one table that change its states.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GoldOptions {
    /// Registers of `approx_distinct` and `hll_sketch` are 2^lg_k, 8 to 21.
    pub lg_k: u8,
}

impl Default for GoldOptions {
    fn default() -> Self {
        Self { lg_k: DEFAULT_LG_K }
    }
}

/// Of our own aggregates' states: raised when the bytes of one change.
const STATES_VERSION: u32 = 1;

fn meaning(statement: &str, program: &Program, windowing: Windowing, options: GoldOptions) -> String {
    let columns = |schema: &SchemaRef| {
        let columns = schema.fields().iter().map(|field| format!("{}: {}", field.name(), field.data_type()));
        columns.collect::<Vec<_>>().join(", ")
    };
    let text = format!(
        "{STATES_VERSION}\n{statement}\n{}\n{}\n{} {}",
        columns(&program.narrow),
        columns(&program.states),
        windowing.size_us,
        options.lg_k
    );
    Hash::of(text.as_bytes()).as_str().to_owned()
}

/// A compiled Gold statement.
pub struct GoldPlan {
    table: GoldTable,
    silver: SchemaRef,
    program: Arc<Program>,
    meaning: String,
}

impl GoldPlan {
    /// Compiles the statement of one table over the Silver table.
    pub fn compile(name: &str, sql: &str, silver: &SchemaRef, windowing: Windowing) -> Result<Self, SqlError> {
        Self::compile_with(name, sql, silver, windowing, GoldOptions::default())
    }

    /// The same with settings.
    pub fn compile_with(
        name: &str,
        sql: &str,
        silver: &SchemaRef,
        windowing: Windowing,
        options: GoldOptions,
    ) -> Result<Self, SqlError> {
        let statement = format!("gold.{name}.sql");
        let blame = Blame { statement: &statement };
        if !(8..=21).contains(&options.lg_k) {
            return Err(blame.whole("lg_k is a number from 8 to 21", "leave it out for 14"));
        }
        if let Some(taken) = [WINDOW_START, WINDOW_END].iter().find(|name| silver.field_with_name(name).is_ok()) {
            let message = format!("Silver has a column `{taken}`, which Gold needs for the window");
            return Err(blame.whole(message, "give the Silver column another name with AS"));
        }
        let mut fields: Vec<Arc<Field>> = silver.fields().iter().cloned().collect();
        for name in [WINDOW_START, WINDOW_END] {
            fields.push(Arc::new(Field::new(name, timestamp_type(), false)));
        }
        let catalog = Catalog::new("silver", Arc::new(Schema::new(fields)), options.lg_k);
        let mut query = parse(blame, sql)?;
        Check::new(blame, Tier::Gold, &catalog).query(&query)?;
        name_items(blame, &mut query, &catalog.schema)?;
        add_window(blame, &mut query)?;
        let plan = catalog.plan(blame, &query)?;
        let program = lower(blame, plan, &catalog.schema, &query)?;
        let meaning = meaning(&query.to_string(), &program, windowing, options);
        let table = GoldTable { name: name.into(), windowing };
        Ok(Self { table, silver: silver.clone(), program: Arc::new(program), meaning })
    }

    /// A digest of all that makes states of this table what they are: equal for statements that differ in layout only, other
    /// for every other aggregate, key, condition, window size or type of a column in use. Lateness is no part of it.
    pub fn meaning(&self) -> &str {
        &self.meaning
    }

    /// Name and windows.
    pub fn table(&self) -> &GoldTable {
        &self.table
    }

    /// The output: `window_start, window_end`, then the statement's columns.
    pub fn schema(&self) -> &SchemaRef {
        &self.program.output
    }

    /// The partial states: keys, states, row counter.
    pub fn state_schema(&self) -> &SchemaRef {
        &self.program.states
    }

    /// Do equal rows always give equal bytes? Not with `quantile_sketch`, which comparisons of Gold must leave out.
    pub fn is_reproducible(&self) -> bool {
        self.program.aggregates.iter().all(|aggregate| aggregate.make.fun().name() != "quantile_sketch")
    }

    /// Can a revision take a group away (HAVING or LIMIT)? By-row sinks without tombstones must refuse such a table.
    pub fn may_remove_groups(&self) -> bool {
        self.program.steps.iter().any(|step| match step {
            Step::Keep(_) | Step::Limit(_, _) => true,
            Step::Project(_, _) | Step::Sort(_) => false,
        })
    }

    /// Output columns that tell the rows of one window apart; none where the statement does not show all its group keys.
    pub fn key_columns(&self) -> Option<Arc<[String]>> {
        keys::keys(&self.program)
    }

    /// WHERE over Silver rows; `None` = all rows pass. The answer has no NULLs: a row that WHERE fails on is left out.
    pub fn admit(&self, silver: &RecordBatch) -> Result<Option<BooleanArray>, Fault> {
        let Some(filter) = &self.program.filter else { return Ok(None) };
        let column = column_or_null(filter, &DataType::Boolean, silver).map_err(|error| self.bug(&error))?;
        let Some(passes) = column.as_boolean_opt() else { return Err(Fault::bug("a WHERE that is not boolean")) };
        Ok(Some(match passes.nulls() {
            Some(nulls) => BooleanArray::new(passes.values() & nulls.inner(), None),
            None => passes.clone(),
        }))
    }

    /// Empty groups for one partition.
    pub(crate) fn groups(&self) -> Result<Groups, Fault> {
        Groups::new(self.program.clone()).map_err(|error| self.bug(&error))
    }

    /// Length of a window.
    pub(crate) fn size_us(&self) -> i64 {
        self.table.windowing.size_us
    }

    pub(crate) fn bug(&self, error: &DataFusionError) -> Fault {
        fault(Kind::Bug, &format!("the statement of gold table `{}`", self.table.name), error)
    }

    /// Keys beside the window.
    pub(crate) fn keys(&self) -> usize {
        self.program.keys.len()
    }

    /// A new merge of one window; without a bound, everything stays in memory.
    pub fn merger(&self, memory: Option<&MergeMemory>) -> Result<Box<dyn Merger + '_>, Fault> {
        Ok(Box::new(SqlMerger::new(self, memory)?))
    }

    /// Adds states to groups.
    pub(crate) fn absorb(&self, groups: &mut Groups, states: &RecordBatch) -> Result<(), Fault> {
        let doing = || format!("merging states of gold table `{}`", self.table.name);
        groups.merge(states).map_err(|error| fault(Kind::Corrupt, &doing(), &error))
    }

    pub(crate) fn fold(&self, parts: &[RecordBatch]) -> Result<Groups, Fault> {
        let mut groups = self.groups()?;
        parts.iter().try_for_each(|part| self.absorb(&mut groups, part))?;
        Ok(groups)
    }

    /// Merges partial states of one window: associative and commutative, equal rows give equal bytes. Sorted by key.
    pub fn merge(&self, parts: &[RecordBatch]) -> Result<RecordBatch, Fault> {
        self.sorted_states(self.fold(parts)?)
    }

    /// Takes all states out, in the order they came in.
    pub(crate) fn states(&self, mut groups: Groups) -> Result<RecordBatch, Fault> {
        let (_, states) = groups.states().map_err(|error| self.bug(&error))?;
        Ok(states)
    }

    /// Takes all states out, sorted by key.
    pub(crate) fn sorted_states(&self, groups: Groups) -> Result<RecordBatch, Fault> {
        let states = self.states(groups)?;
        let keys = states.columns().get(..self.keys()).unwrap_or_default();
        sorted(&states, keys).map_err(|error| self.bug(&error))
    }

    /// Rows of one window from its merged states: results, HAVING, ORDER BY, LIMIT. Without ORDER BY the rows are in the order of
    /// their keys (NULL first); with it, ties are.
    pub fn finish(&self, window: Window, merged: &RecordBatch) -> Result<Finished, Fault> {
        let Finished { rows, overflow } = self.by_key(window, self.fold(std::slice::from_ref(merged))?)?;
        self.output(Finished { rows: self.ranked(rows)?, overflow })
    }

    /// The steps that look at one row at a time, and those from the first ORDER BY or LIMIT on.
    fn steps(&self) -> (&[Step], &[Step]) {
        let steps = &self.program.steps;
        let ranks = |step: &Step| match step {
            Step::Sort(_) | Step::Limit(_, _) => true,
            Step::Project(_, _) | Step::Keep(_) => false,
        };
        steps.split_at(steps.iter().position(ranks).unwrap_or(steps.len()))
    }

    /// Does it need all rows together?
    pub(crate) fn is_ranked(&self) -> bool {
        !self.steps().1.is_empty()
    }

    /// Results of some groups in the order of their keys, after the steps that look at one row at a time.
    pub(crate) fn by_key(&self, window: Window, groups: Groups) -> Result<Finished, Fault> {
        self.results(window, groups).map_err(|error| self.bug(&error))
    }

    fn results(&self, window: Window, mut groups: Groups) -> DfResult<Finished> {
        let program = self.program.as_ref();
        let count = groups.len();
        let keys = groups.take_keys()?;
        let (results, overflow) = groups.take_results()?;
        let constant =
            |time: i64| -> ArrayRef { Arc::new(TimestampMicrosecondArray::from_value(time, count).with_timezone("UTC")) };
        let mut columns = Vec::new();
        for (source, field) in program.sources.iter().zip(program.groups.fields()) {
            let column = match source {
                Source::WindowStart => constant(window.start_us),
                Source::WindowEnd => constant(window.end_us),
                // The window leads the keys.
                Source::Key(at) => keys[at + 1].clone(),
                Source::Aggregate(at) => results[*at].clone(),
            };
            columns.push(if column.data_type() == field.data_type() { column } else { cast(&column, field.data_type())? });
        }
        let options = RecordBatchOptions::new().with_row_count(Some(count));
        let batch = RecordBatch::try_new_with_options(program.groups.clone(), columns, &options)?;
        let rows = self.steps().0.iter().try_fold(sorted(&batch, &keys[1..])?, |batch, step| run(step, &batch))?;
        Ok(Finished { rows, overflow })
    }

    /// ORDER BY, LIMIT, and what follows them, over all rows.
    pub(crate) fn ranked(&self, rows: RecordBatch) -> Result<RecordBatch, Fault> {
        let ranked = self.steps().1.iter().try_fold(rows, |rows, step| run(step, &rows));
        ranked.map_err(|error| self.bug(&error))
    }

    /// The rows that LIMIT may still take when more rows follow, all of them without one. The order of ties stays.
    pub(crate) fn best(&self, rows: &RecordBatch) -> Result<RecordBatch, Fault> {
        let take = |rows: &RecordBatch, skip: usize, fetch: usize| rows.slice(0, skip.saturating_add(fetch).min(rows.num_rows()));
        match self.steps().1 {
            [Step::Limit(skip, Some(fetch)), ..] => Ok(take(rows, *skip, *fetch)),
            [sort @ Step::Sort(_), Step::Limit(skip, Some(fetch)), ..] => {
                Ok(take(&run(sort, rows).map_err(|error| self.bug(&error))?, *skip, *fetch))
            }
            _ => Ok(rows.clone()),
        }
    }

    /// The statement's output columns.
    pub(crate) fn output(&self, finished: Finished) -> Result<Finished, Fault> {
        let (program, Finished { rows, overflow }) = (self.program.as_ref(), finished);
        if rows.num_rows() == 0 {
            return Ok(Finished { rows: program.empty(), overflow });
        }
        let last = program.last.iter().zip(program.output.fields());
        let columns = last.map(|(expr, field)| column_or_null(expr, field.data_type(), &rows)).collect::<DfResult<_>>();
        let batch = columns.and_then(|columns| Ok(RecordBatch::try_new(program.output.clone(), columns)?));
        Ok(Finished { rows: batch.map_err(|error| self.bug(&error))?, overflow })
    }

    /// Does this batch have the columns that the statement was compiled for?
    pub(crate) fn reads(&self, silver: &RecordBatch) -> bool {
        silver.schema_ref().fields() == self.silver.fields()
    }
}

fn run(step: &Step, batch: &RecordBatch) -> DfResult<RecordBatch> {
    match step {
        Step::Project(exprs, schema) => {
            let columns = exprs.iter().zip(schema.fields()).map(|(expr, field)| column_or_null(expr, field.data_type(), batch));
            let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
            let columns = columns.collect::<DfResult<_>>()?;
            Ok(RecordBatch::try_new_with_options(schema.clone(), columns, &options)?)
        }
        Step::Keep(expr) => {
            let keep = column_or_null(expr, &DataType::Boolean, batch)?;
            Ok(filter_record_batch(batch, keep.as_boolean())?)
        }
        Step::Sort(by) => {
            let mut columns = Vec::new();
            for (expr, of, options) in by {
                columns.push(SortColumn { values: column_or_null(expr, of, batch)?, options: Some(*options) });
            }
            reorder(batch, columns)
        }
        Step::Limit(skip, fetch) => {
            let from = (*skip).min(batch.num_rows());
            Ok(batch.slice(from, fetch.unwrap_or(usize::MAX).min(batch.num_rows() - from)))
        }
    }
}

/// In the order of these columns, NULL first.
fn sorted(batch: &RecordBatch, by: &[ArrayRef]) -> DfResult<RecordBatch> {
    if by.is_empty() {
        return Ok(batch.clone());
    }
    let options = Some(SortOptions { descending: false, nulls_first: true });
    reorder(batch, by.iter().map(|values| SortColumn { values: values.clone(), options }).collect())
}

/// In the order of these columns; ties stay as they are, for arrow's sort is not stable.
fn reorder(batch: &RecordBatch, mut by: Vec<SortColumn>) -> DfResult<RecordBatch> {
    let place: ArrayRef = Arc::new(UInt32Array::from_iter_values(0..batch.num_rows() as u32));
    by.push(SortColumn { values: place, options: None });
    Ok(take_record_batch(batch, &lexsort_to_indices(&by, None)?)?)
}

/// Makes the window a key and an output column. It is put at the end, so that `GROUP BY 1` and `ORDER BY 2` keep their meaning,
/// and brought to the front at last.
fn add_window(blame: Blame<'_>, query: &mut Query) -> Result<(), SqlError> {
    let SetExpr::Select(select) = query.body.as_mut() else { return Ok(()) };
    let GroupByExpr::Expressions(keys, _) = &mut select.group_by else { return Ok(()) };
    for name in [WINDOW_START, WINDOW_END] {
        let column = || Expr::Identifier(Ident::new(name));
        let is_column = |expr: &Expr| {
            if let Expr::Identifier(ident) = expr {
                ident.value == name
            } else if let Expr::CompoundIdentifier(idents) = expr {
                matches!(idents.as_slice(), [table, last] if table.value == "silver" && last.value == name)
            } else {
                false
            }
        };
        let mut present = false;
        for item in &select.projection {
            let (expr, alias) = if let SelectItem::UnnamedExpr(expr) = item {
                (expr, None)
            } else if let SelectItem::ExprWithAlias { expr, alias } = item {
                (expr, Some(alias.value.as_str()))
            } else {
                continue;
            };
            let named = alias == Some(name) || (alias.is_none() && is_column(expr));
            if named && !is_column(expr) {
                let message = format!("`{name}` is the window's own column");
                return Err(blame.whole(message, "give the column another name with AS"));
            }
            present |= named;
        }
        if !present {
            select.projection.push(SelectItem::UnnamedExpr(column()));
        }
        if !keys.iter().any(is_column) {
            keys.push(column());
        }
    }
    Ok(())
}
