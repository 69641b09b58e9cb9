//! From a Gold statement to what runs: a filter, keys, aggregates with their inputs, and the steps over finished groups.
//!
//! The analysed plan is walked from its root: projections, HAVING, ORDER BY and LIMIT become `Step`s, the aggregate becomes
//! expressions over a narrow batch of the Silver columns in use, the filter below it becomes WHERE.
//!
//! Owns: the shapes that are understood. Does not own: running them (groups, gold), what may be written (check).

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::SortOptions;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::{DFSchema, DataFusionError, Result, ScalarValue};
use datafusion::logical_expr::execution_props::ExecutionProps;
use datafusion::logical_expr::logical_plan::Aggregate;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{Expr, FetchType, LogicalPlan, SkipType};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::{AggregateFunctionExpr, LoweredAggregateBuilder};
use datafusion::physical_expr::expressions::{Column, Literal, cast};
use datafusion::physical_expr::utils::{collect_columns, reassign_expr_columns};
use datafusion::sql::sqlparser::ast::Query;

use super::error::{Blame, SqlError, essence};
use super::plan::{compile, condition, executable, plain, stored, strict};
use super::silver::timestamp_type;
use crate::engine::aggregates::firsts::PLACE;
use crate::engine::aggregates::udaf::{admitted, countable};

/// Start of a row's window: a column of `silver` for a Gold statement.
pub const WINDOW_START: &str = "window_start";
/// End of a row's window.
pub const WINDOW_END: &str = "window_end";
/// The hidden row counter of every group.
pub(crate) const ROWS: &str = "__rows";

/// One aggregate: what it reads per row, and how its accumulators are made.
pub(crate) struct Lowered {
    pub(crate) make: Arc<AggregateFunctionExpr>,
    pub(crate) inputs: Vec<(Arc<dyn PhysicalExpr>, DataType)>,
    pub(crate) filter: Option<Arc<dyn PhysicalExpr>>,
    /// Number of its state columns.
    pub(crate) states: usize,
}

/// One step over the groups of a window.
pub(crate) enum Step {
    /// New columns, named and typed by the schema.
    Project(Vec<Arc<dyn PhysicalExpr>>, SchemaRef),
    /// HAVING; NULL drops.
    Keep(Arc<dyn PhysicalExpr>),
    /// ORDER BY; ties stay in the order of the group keys.
    Sort(Vec<(Arc<dyn PhysicalExpr>, DataType, SortOptions)>),
    /// LIMIT and OFFSET.
    Limit(usize, Option<usize>),
}

/// Where a column of the aggregate's output comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Source {
    WindowStart,
    WindowEnd,
    Key(usize),
    Aggregate(usize),
}

/// A Gold statement taken apart.
pub(crate) struct Program {
    /// WHERE, over whole Silver batches.
    pub(crate) filter: Option<Arc<dyn PhysicalExpr>>,
    /// The Silver columns in use, by index; then perhaps the window columns. `narrow` is that batch's schema.
    pub(crate) used: Vec<usize>,
    pub(crate) narrow: SchemaRef,
    /// Keys beside the window, over `narrow`.
    pub(crate) keys: Vec<(Arc<dyn PhysicalExpr>, DataType)>,
    pub(crate) aggregates: Vec<Lowered>,
    /// Keys, states, row counter.
    pub(crate) states: SchemaRef,
    /// Output of the aggregate, all nullable, and where its columns come from.
    pub(crate) groups: SchemaRef,
    pub(crate) sources: Vec<Source>,
    pub(crate) steps: Vec<Step>,
    /// Final columns as (index in the last step, expression) and their schema.
    pub(crate) last: Vec<Arc<dyn PhysicalExpr>>,
    pub(crate) output: SchemaRef,
}

/// Takes a plan apart. `silver` ends with the two window columns.
pub(crate) fn lower(blame: Blame<'_>, plan: LogicalPlan, silver: &SchemaRef, query: &Query) -> Result<Program, SqlError> {
    let planner = |error: DataFusionError| blame.planner(&error, query);
    let output = plan.schema().clone();
    let (steps, aggregate) = steps(plan).map_err(planner)?;
    let filter = filter(&aggregate).map_err(planner)?;
    if let Some(filter) = &filter
        && let Some(column) = collect_columns(filter).iter().find(|column| [WINDOW_START, WINDOW_END].contains(&column.name()))
    {
        let message = format!("WHERE cannot use `{}`", column.name());
        return Err(blame.at(super::error::find(query, column.name()), message, "use event_time, or HAVING"));
    }
    let (sources, keys) = keys(blame, &aggregate).map_err(|error| *error)?;
    let aggregates = aggregates(blame, &aggregate).map_err(|error| *error)?;
    let states = states(&keys, &aggregates).map_err(planner)?;
    let groups = nullable(aggregate.schema.as_arrow());
    let (last, output) = last(blame, &output).map_err(|error| *error)?;
    let mut program = Program {
        filter,
        used: Vec::new(),
        narrow: Arc::new(Schema::empty()),
        keys,
        aggregates,
        states,
        groups,
        sources,
        steps,
        last,
        output,
    };
    narrow(&mut program, silver).map_err(planner)?;
    Ok(program)
}

/// The same fields, all nullable: a group's value that cannot be computed is NULL.
fn nullable(schema: &Schema) -> SchemaRef {
    let fields = schema.fields().iter().map(|field| Field::new(field.name(), field.data_type().clone(), true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// Everything above the aggregate, in the order it is run.
fn steps(mut plan: LogicalPlan) -> Result<(Vec<Step>, Aggregate)> {
    let mut steps = Vec::new();
    loop {
        let below = if let LogicalPlan::Projection(node) = plan {
            let schema = node.input.schema();
            let exprs = node.expr.iter().map(|expr| compile(expr, schema)).collect::<Result<Vec<_>>>()?;
            steps.push(Step::Project(exprs, nullable(node.schema.as_arrow())));
            node.input
        } else if let LogicalPlan::Filter(node) = plan {
            steps.push(Step::Keep(condition(&node.predicate, node.input.schema())?));
            node.input
        } else if let LogicalPlan::Sort(node) = plan {
            let schema = node.input.schema();
            let mut by = Vec::new();
            for sort in &node.expr {
                let expr = compile(&sort.expr, schema)?;
                let of = expr.data_type(schema.as_arrow())?;
                by.push((expr, of, SortOptions { descending: !sort.asc, nulls_first: sort.nulls_first }));
            }
            if let Some(fetch) = node.fetch {
                steps.push(Step::Limit(0, Some(fetch)));
            }
            steps.push(Step::Sort(by));
            node.input
        } else if let LogicalPlan::Limit(node) = plan {
            let (SkipType::Literal(skip), FetchType::Literal(fetch)) = (node.get_skip_type()?, node.get_fetch_type()?) else {
                return Err(DataFusionError::Plan("LIMIT and OFFSET take a number".to_owned()));
            };
            steps.push(Step::Limit(skip, fetch));
            node.input
        } else if let LogicalPlan::Aggregate(node) = plan {
            steps.reverse();
            return Ok((steps, node));
        } else {
            return Err(DataFusionError::Plan(format!("a Gold statement cannot have this part: {}", plan.display())));
        };
        plan = Arc::unwrap_or_clone(below);
    }
}

/// WHERE: the only thing that may stand between the aggregate and the table.
fn filter(aggregate: &Aggregate) -> Result<Option<Arc<dyn PhysicalExpr>>> {
    let mut below = aggregate.input.clone();
    let mut filter = None;
    loop {
        below = if let LogicalPlan::Filter(node) = below.as_ref() {
            if filter.is_some() {
                return Err(DataFusionError::Plan("two filters below an aggregate".to_owned()));
            }
            filter = Some(condition(&node.predicate, node.input.schema())?);
            node.input.clone()
        } else if let LogicalPlan::SubqueryAlias(node) = below.as_ref() {
            node.input.clone()
        } else if let LogicalPlan::TableScan(_) = below.as_ref() {
            return Ok(filter);
        } else {
            return Err(DataFusionError::Plan(format!("a Gold statement cannot have this part: {}", below.display())));
        };
    }
}

type Keys = (Vec<Source>, Vec<(Arc<dyn PhysicalExpr>, DataType)>);

fn keys(blame: Blame<'_>, aggregate: &Aggregate) -> Result<Keys, Box<SqlError>> {
    let schema = aggregate.input.schema();
    let (mut sources, mut keys) = (Vec::new(), Vec::new());
    for expr in &aggregate.group_expr {
        if matches!(expr, Expr::GroupingSet(_)) {
            return Err(Box::new(blame.whole("grouping sets are not supported", "write one [[gold]] table per grouping")));
        }
        let name = if let Expr::Column(column) = expr { column.name() } else { "" };
        let expr = compile(expr, schema).map_err(|error| blame.whole(error.strip_backtrace(), ""))?;
        sources.push(match name {
            WINDOW_START => Source::WindowStart,
            WINDOW_END => Source::WindowEnd,
            _ => {
                let (expr, of) = stored(blame, "a group key", expr, schema.as_arrow())?;
                if of.is_nested() {
                    let message = format!("a group key cannot be of type {of}");
                    return Err(Box::new(blame.whole(message, "group by its members")));
                }
                // Doubles have one representation per key; singles take part as doubles and are cast back at the end.
                let single = of == DataType::Float32;
                let of = if single { DataType::Float64 } else { of };
                let expr = cast(expr, schema.as_arrow(), of.clone());
                keys.push((expr.map_err(|error| blame.whole(error.strip_backtrace(), ""))?, of));
                Source::Key(keys.len() - 1)
            }
        });
    }
    sources.extend((0..aggregate.aggr_expr.len()).map(Source::Aggregate));
    Ok((sources, keys))
}

fn aggregates(blame: Blame<'_>, aggregate: &Aggregate) -> Result<Vec<Lowered>, Box<SqlError>> {
    aggregate.aggr_expr.iter().enumerate().map(|(at, expr)| lowered(blame, aggregate, at, expr)).collect()
}

fn lowered(blame: Blame<'_>, aggregate: &Aggregate, at: usize, expr: &Expr) -> Result<Lowered, Box<SqlError>> {
    let planner = |error: DataFusionError| {
        let text = error.find_root().strip_backtrace();
        Box::new(blame.whole(essence(&text), "see the list of admitted aggregates"))
    };
    let schema = aggregate.input.schema();
    let (props, context) = (ExecutionProps::new(), PhysicalPlanningContext::default());
    let expr = executable(expr, schema).map_err(planner)?;
    let built = LoweredAggregateBuilder::new(&expr, schema, schema.as_arrow(), &props, &context)
        .with_name(format!("{at}"))
        .build()
        .map_err(planner)?;
    let make = built.aggregate;
    let name = make.fun().name();
    let Some(ours) = admitted(make.fun()) else {
        return Err(Box::new(blame.whole(format!("the aggregate `{name}` is not admitted"), "see the list of aggregates")));
    };
    let mut inputs = Vec::new();
    for expr in make.expressions().into_iter().take(1) {
        let of = expr.data_type(schema.as_arrow()).map_err(planner)?;
        if make.is_distinct() && !countable(&of) {
            let message = format!("count(DISTINCT …) of a column of type {of} is not supported");
            return Err(Box::new(blame.whole(message, "count a member of it, or its text")));
        }
        if plain(&of).is_none() && !of.is_null() {
            return Err(Box::new(blame.whole(format!("{name} of a column of type {of} is not supported"), "CAST it")));
        }
        inputs.push((strict(expr).map_err(planner)?, of));
    }
    if !make.is_distinct() && inputs.first().is_some_and(|(expr, _)| counts_every_row(name, expr)) {
        inputs.clear();
    }
    if ours.function.needs_place() {
        for column in PLACE {
            let index = schema.as_arrow().index_of(column).map_err(|error| planner(error.into()))?;
            inputs.push((Arc::new(Column::new(column, index)), schema.field(index).data_type().clone()));
        }
    }
    // Building one accumulator finds what only it can refuse, such as a percentile that is not a constant.
    make.create_groups_accumulator().map_err(planner)?;
    let states = make.state_fields().map_err(planner)?.len();
    let filter = built.filter.map(strict).transpose().map_err(planner)?;
    Ok(Lowered { make, inputs, filter, states })
}

/// `count(*)` arrives as `count(1)`.
fn counts_every_row(name: &str, input: &Arc<dyn PhysicalExpr>) -> bool {
    name == "count" && input.downcast_ref::<Literal>().is_some_and(|literal| !ScalarValue::is_null(literal.value()))
}

fn states(keys: &[(Arc<dyn PhysicalExpr>, DataType)], aggregates: &[Lowered]) -> Result<SchemaRef> {
    let mut fields = Vec::new();
    for (at, (_, of)) in keys.iter().enumerate() {
        fields.push(Arc::new(Field::new(format!("key{at}"), of.clone(), true)));
    }
    for aggregate in aggregates {
        let states = aggregate.make.state_fields()?;
        fields.extend(states.iter().map(|field| Arc::new(field.as_ref().clone().with_nullable(true))));
    }
    fields.push(Arc::new(Field::new(ROWS, DataType::Int64, false)));
    Ok(Arc::new(Schema::new(fields)))
}

type Last = (Vec<Arc<dyn PhysicalExpr>>, SchemaRef);

/// The output columns: the window first, then the statement's own, each in a type that can be stored.
fn last(blame: Blame<'_>, output: &DFSchema) -> Result<Last, Box<SqlError>> {
    let schema = nullable(output.as_arrow());
    let fields = schema.fields().iter().enumerate();
    let window = |name: &str| name == WINDOW_START || name == WINDOW_END;
    let (mut front, back): (Vec<_>, Vec<_>) = fields.partition(|(_, field)| window(field.name()));
    front.sort_by_key(|(_, field)| field.name() == WINDOW_END);
    let (mut exprs, mut out): (Vec<Arc<dyn PhysicalExpr>>, Vec<Field>) = Default::default();
    for (index, field) in front.into_iter().chain(back) {
        let column = Arc::new(Column::new(field.name(), index));
        let (expr, of) = stored(blame, field.name(), column, &schema)?;
        let nullable = !(window(field.name()) && of == timestamp_type());
        exprs.push(expr);
        out.push(Field::new(field.name(), of, nullable));
    }
    Ok((exprs, Arc::new(Schema::new(out))))
}

/// Rewrites keys, inputs and filters over the columns they use.
fn narrow(program: &mut Program, silver: &SchemaRef) -> Result<()> {
    let mut used: Vec<usize> = Vec::new();
    let mut note = |expr: &Arc<dyn PhysicalExpr>| used.extend(collect_columns(expr).iter().map(Column::index));
    program.keys.iter().for_each(|(expr, _)| note(expr));
    for aggregate in &program.aggregates {
        aggregate.inputs.iter().for_each(|(expr, _)| note(expr));
        aggregate.filter.iter().for_each(&mut note);
    }
    used.sort_unstable();
    used.dedup();
    let narrow: SchemaRef = Arc::new(silver.project(&used)?);
    let to = |expr: &mut Arc<dyn PhysicalExpr>| -> Result<()> {
        *expr = reassign_expr_columns(expr.clone(), &narrow)?;
        Ok(())
    };
    program.keys.iter_mut().try_for_each(|(expr, _)| to(expr))?;
    for aggregate in &mut program.aggregates {
        aggregate.inputs.iter_mut().try_for_each(|(expr, _)| to(expr))?;
        aggregate.filter.iter_mut().try_for_each(to)?;
    }
    (program.used, program.narrow) = (used, narrow);
    Ok(())
}

impl Program {
    /// An empty batch of the output.
    pub(crate) fn empty(&self) -> RecordBatch {
        RecordBatch::new_empty(self.output.clone())
    }
}
