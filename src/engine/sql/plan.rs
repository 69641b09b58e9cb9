//! From SQL text to an analysed logical plan over one table, and from its expressions to physical ones. Never optimised.
//!
//! Owns: the catalog (one table, the functions), parsing, analysis, compiled expressions and how they are evaluated.
//! Does not own: what may stand in a statement (check), what becomes of the plan (silver, lower).

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, new_empty_array, new_null_array};
use arrow::compute::concat;
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, DataFusionError, Result, TableReference};
use datafusion::execution::SessionStateDefaults;
use datafusion::logical_expr::execution_props::ExecutionProps;
use datafusion::logical_expr::logical_plan::builder::LogicalTableSource;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::planner::{ContextProvider, ExprPlanner};
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{AggregateUDF, Expr, HigherOrderUDF, LogicalPlan, ScalarUDF, TableSource, WindowUDF};
use datafusion::optimizer::Analyzer;
use datafusion::physical_expr::expressions::{BinaryExpr, cast};
use datafusion::physical_expr::{PhysicalExpr, create_physical_expr};
use datafusion::sql::planner::{ParserOptions, SqlToRel};
use datafusion::sql::sqlparser::ast::{Query, SetExpr, Statement};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;

use super::error::{Blame, SqlError};
use super::functions::functions;
use crate::engine::aggregates::udaf::aggregates;

/// One table and all functions.
pub(crate) struct Catalog {
    pub(crate) table: &'static str,
    pub(crate) schema: SchemaRef,
    scalars: HashMap<String, Arc<ScalarUDF>>,
    aggregates: HashMap<String, Arc<AggregateUDF>>,
    planners: Vec<Arc<dyn ExprPlanner>>,
    options: ConfigOptions,
}

impl Catalog {
    /// `lg_k` is for the sketches of this statement.
    pub(crate) fn new(table: &'static str, schema: SchemaRef, lg_k: u8) -> Self {
        let mut scalars = HashMap::new();
        for udf in SessionStateDefaults::default_scalar_functions().into_iter().chain(functions()) {
            for name in std::iter::once(udf.name()).chain(udf.aliases().iter().map(String::as_str)) {
                scalars.insert(name.to_owned(), udf.clone());
            }
        }
        Self {
            table,
            schema,
            scalars,
            aggregates: aggregates(lg_k).into_iter().map(|udaf| (udaf.name().to_owned(), udaf)).collect(),
            planners: SessionStateDefaults::default_expr_planners(),
            options: ConfigOptions::default(),
        }
    }

    pub(crate) fn scalar(&self, name: &str) -> Option<&Arc<ScalarUDF>> {
        self.scalars.get(name)
    }

    pub(crate) fn function_names(&self) -> impl Iterator<Item = &str> {
        self.scalars.keys().chain(self.aggregates.keys()).map(String::as_str)
    }

    /// Plans and analyses (types coerced); the optimizer never sees it.
    pub(crate) fn plan(&self, blame: Blame<'_>, query: &Query) -> Result<LogicalPlan, SqlError> {
        let options = ParserOptions::new()
            .with_enable_ident_normalization(false)
            .with_map_string_types_to_utf8view(false)
            .with_collect_spans(true);
        SqlToRel::new_with_options(self, options)
            .sql_statement_to_plan(Statement::Query(Box::new(query.clone())))
            .and_then(|plan| Analyzer::new().execute_and_check(plan, &self.options, |_, _| {}))
            .map_err(|error| blame.planner(&error, query))
    }
}

impl ContextProvider for Catalog {
    fn get_table_source(&self, name: TableReference) -> Result<Arc<dyn TableSource>> {
        if name.table() == self.table {
            return Ok(Arc::new(LogicalTableSource::new(self.schema.clone())));
        }
        Err(DataFusionError::Plan(format!("unknown table `{}`; this statement reads `{}`", name.table(), self.table)))
    }

    fn get_expr_planners(&self) -> &[Arc<dyn ExprPlanner>] {
        &self.planners
    }

    fn get_function_meta(&self, name: &str) -> Option<Arc<ScalarUDF>> {
        self.scalars.get(name).cloned()
    }

    fn get_higher_order_meta(&self, _name: &str) -> Option<Arc<HigherOrderUDF>> {
        None
    }

    fn get_aggregate_meta(&self, name: &str) -> Option<Arc<AggregateUDF>> {
        self.aggregates.get(name).cloned()
    }

    fn get_window_meta(&self, _name: &str) -> Option<Arc<WindowUDF>> {
        None
    }

    fn get_variable_type(&self, _names: &[String]) -> Option<DataType> {
        None
    }

    fn options(&self) -> &ConfigOptions {
        &self.options
    }

    fn udf_names(&self) -> Vec<String> {
        self.scalars.keys().cloned().collect()
    }

    fn higher_order_function_names(&self) -> Vec<String> {
        Vec::new()
    }

    fn udaf_names(&self) -> Vec<String> {
        self.aggregates.keys().cloned().collect()
    }

    fn udwf_names(&self) -> Vec<String> {
        Vec::new()
    }
}

/// One query, nothing else.
pub(crate) fn parse(blame: Blame<'_>, sql: &str) -> Result<Query, SqlError> {
    let mut statements = Parser::parse_sql(&GenericDialect {}, sql).map_err(|error| blame.syntax(&error.to_string(), sql))?;
    let one = statements.pop().filter(|_| statements.is_empty());
    if let Some(Statement::Query(query)) = one {
        return Ok(*query);
    }
    Err(blame.whole("one SELECT is expected", "write a single SELECT statement"))
}

/// `SELECT 1 FROM table WHERE condition`, the condition with its own places.
pub(crate) fn parse_condition(blame: Blame<'_>, table: &str, sql: &str) -> Result<Query, SqlError> {
    let condition = Parser::new(&GenericDialect {}).try_with_sql(sql).and_then(|mut parser| {
        let condition = parser.parse_expr()?;
        parser.expect_token(&datafusion::sql::sqlparser::tokenizer::Token::EOF)?;
        Ok(condition)
    });
    let condition = condition.map_err(|error| blame.syntax(&error.to_string(), sql))?;
    let mut query = parse(blame, &format!("SELECT 1 AS one FROM {table}"))?;
    if let SetExpr::Select(select) = query.body.as_mut() {
        select.selection = Some(condition);
    }
    Ok(query)
}

/// Functions that DataFusion's optimizer replaces by others and that compute nothing by themselves.
const REWRITTEN: [&str; 7] = ["coalesce", "nvl", "nvl2", "arrow_cast", "arrow_try_cast", "cast_to_type", "try_cast_to_type"];

/// Compiles one expression. Integer arithmetic fails on overflow instead of wrapping.
pub(crate) fn compile(expr: &Expr, schema: &DFSchema) -> Result<Arc<dyn PhysicalExpr>> {
    let props = ExecutionProps::new();
    let expr = executable(expr, schema)?;
    strict(create_physical_expr(&expr, schema, &props, &PhysicalPlanningContext::default())?)
}

/// The same expression without [`REWRITTEN`] functions.
pub(crate) fn executable(expr: &Expr, schema: &DFSchema) -> Result<Expr> {
    let context = SimplifyContext::builder().with_schema(Arc::new(schema.clone())).build();
    let rewritten = expr.clone().transform_up(|expr| {
        let Expr::ScalarFunction(call) = expr else { return Ok(Transformed::no(expr)) };
        if !REWRITTEN.contains(&call.func.name()) {
            return Ok(Transformed::no(Expr::ScalarFunction(call)));
        }
        match call.func.simplify(call.args, &context)? {
            ExprSimplifyResult::Simplified(expr) => Ok(Transformed::yes(expr)),
            ExprSimplifyResult::Original(_) => {
                Err(DataFusionError::Plan(format!("`{}` cannot be computed here; write it with CASE or CAST", call.func.name())))
            }
        }
    })?;
    Ok(rewritten.data)
}

/// Compiles a condition; whatever the planner lets pass (a bare NULL) is cast to boolean.
pub(crate) fn condition(expr: &Expr, schema: &DFSchema) -> Result<Arc<dyn PhysicalExpr>> {
    cast(compile(expr, schema)?, schema.as_arrow(), DataType::Boolean)
}

/// The same expression with checked arithmetic.
pub(crate) fn strict(expr: Arc<dyn PhysicalExpr>) -> Result<Arc<dyn PhysicalExpr>> {
    let checked = expr.transform_up(|expr| {
        let Some(binary) = expr.downcast_ref::<BinaryExpr>() else { return Ok(Transformed::no(expr)) };
        let (left, right) = (binary.left().clone(), binary.right().clone());
        let checked = BinaryExpr::new(left, *binary.op(), right).with_fail_on_overflow(true);
        Ok(Transformed::yes(Arc::new(checked) as Arc<dyn PhysicalExpr>))
    })?;
    Ok(checked.data)
}

/// The type under which a column is stored: views, large and dictionary encodings become plain; `None` = it cannot be stored.
pub(crate) fn plain(of: &DataType) -> Option<DataType> {
    if matches!(of, DataType::Utf8View | DataType::LargeUtf8) {
        return Some(DataType::Utf8);
    }
    if matches!(of, DataType::BinaryView | DataType::LargeBinary | DataType::FixedSizeBinary(_)) {
        return Some(DataType::Binary);
    }
    if let DataType::Dictionary(_, of) = of {
        return plain(of);
    }
    if let DataType::Decimal32(precision, scale) | DataType::Decimal64(precision, scale) = of {
        return Some(DataType::Decimal128(*precision, *scale));
    }
    if let DataType::List(item) | DataType::LargeList(item) = of {
        return Some(DataType::List(plain_field(item)?));
    }
    if let DataType::Struct(fields) = of {
        return Some(DataType::Struct(fields.iter().map(plain_field).collect::<Option<Fields>>()?));
    }
    let simple = matches!(
        of,
        DataType::Boolean
            | DataType::Utf8
            | DataType::Binary
            | DataType::Date32
            | DataType::Timestamp(_, _)
            | DataType::Decimal128(_, _)
            | DataType::Float32
            | DataType::Float64
    );
    (simple || of.is_integer()).then(|| of.clone())
}

fn plain_field(field: &Arc<Field>) -> Option<Arc<Field>> {
    Some(Arc::new(field.as_ref().clone().with_data_type(plain(field.data_type())?)))
}

/// The expression with its result in [`plain`] form.
pub(crate) fn stored(
    blame: Blame<'_>,
    name: &str,
    expr: Arc<dyn PhysicalExpr>,
    schema: &Schema,
) -> Result<(Arc<dyn PhysicalExpr>, DataType), SqlError> {
    let internal = |error: DataFusionError| blame.whole(error.strip_backtrace(), "");
    let of = expr.data_type(schema).map_err(internal)?;
    let Some(plain) = plain(&of) else {
        let message = format!("column `{name}` would have the type {of}, which cannot be stored");
        return Err(blame.whole(message, "CAST it, for example to VARCHAR, BIGINT or DOUBLE"));
    };
    let expr = if plain == of { expr } else { cast(expr, schema, plain.clone()).map_err(internal)? };
    Ok((expr, plain))
}

/// Evaluates to a whole column.
pub(crate) fn column(expr: &Arc<dyn PhysicalExpr>, batch: &RecordBatch) -> Result<ArrayRef> {
    expr.evaluate(batch)?.into_array(batch.num_rows())
}

/// Columns of the rows that could be evaluated, and the rows that could not.
pub(crate) struct Salvaged<E> {
    /// One slice of columns per run of good rows.
    pub(crate) columns: Vec<ArrayRef>,
    /// Rows left out, rising.
    pub(crate) failed: Vec<(usize, E)>,
}

/// Evaluates a batch; where that fails, halves it until every bad row stands alone: n bad rows cost some n log rows evaluations.
pub(crate) fn salvage<E>(
    batch: &RecordBatch,
    evaluate: &impl Fn(&RecordBatch) -> Result<Vec<ArrayRef>, E>,
    replace: &impl Fn() -> Option<Vec<ArrayRef>>,
) -> Result<Salvaged<E>> {
    let (mut good, mut failed) = (Vec::new(), Vec::new());
    // A constant that fails would fail without any row, too.
    if batch.num_rows() > 0 {
        halve(batch, 0, evaluate, replace, &mut good, &mut failed);
    }
    let width = good.first().map_or(0, Vec::len);
    let columns = match good.len() {
        0 | 1 => good.pop().unwrap_or_default(),
        _ => (0..width)
            .map(|at| concat(&good.iter().map(|columns| columns[at].as_ref()).collect::<Vec<_>>()))
            .collect::<Result<_, _>>()?,
    };
    Ok(Salvaged { columns, failed })
}

fn halve<E>(
    batch: &RecordBatch,
    first: usize,
    evaluate: &impl Fn(&RecordBatch) -> Result<Vec<ArrayRef>, E>,
    replace: &impl Fn() -> Option<Vec<ArrayRef>>,
    good: &mut Vec<Vec<ArrayRef>>,
    failed: &mut Vec<(usize, E)>,
) {
    match evaluate(batch) {
        Ok(columns) => good.push(columns),
        Err(error) if batch.num_rows() <= 1 => {
            good.extend(replace());
            failed.push((first, error));
        }
        Err(_) => {
            let half = batch.num_rows() / 2;
            halve(&batch.slice(0, half), first, evaluate, replace, good, failed);
            halve(&batch.slice(half, batch.num_rows() - half), first + half, evaluate, replace, good, failed);
        }
    }
}

/// Evaluates to a whole column in which a row that cannot be evaluated is NULL: in Gold a record must never stop the table.
pub(crate) fn column_or_null(expr: &Arc<dyn PhysicalExpr>, of: &DataType, batch: &RecordBatch) -> Result<ArrayRef> {
    if batch.num_rows() == 0 {
        return Ok(new_empty_array(of));
    }
    let evaluate = |batch: &RecordBatch| column(expr, batch).map(|column| vec![column]);
    let null = || Some(vec![new_null_array(of, 1)]);
    let mut columns = salvage(batch, &evaluate, &null)?.columns;
    columns.pop().ok_or_else(|| DataFusionError::Internal("an expression without a column".to_owned()))
}
