//! The Silver statement: one SELECT over `events`, planned once, evaluated per batch.
//!
//! Owns: named filters, the projection, the coordinate columns behind it, rows that cannot be evaluated. Does not own: what an
//! event is (contract), the record a row came from (glue).

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, RecordBatch, TimestampMicrosecondArray};
use arrow::compute::{filter, filter_record_batch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit, UInt32Type};
use datafusion::common::DataFusionError;
use datafusion::logical_expr::LogicalPlan;
use datafusion::logical_expr::logical_plan::Projection;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::utils::collect_columns;
use datafusion::sql::sqlparser::ast::{ExcludeSelectItem, Expr as SqlExpr, Ident, Query, SelectItem, SetExpr, Spanned};
use sluicebox_actors::model::fault::{Fault, Kind};

use super::check::{Check, PROCESSED_AT, Tier, WALL_CLOCK};
use super::error::{Blame, SqlError, describe, fault, find, place};
use super::plan::{Catalog, column, compile, condition, parse, parse_condition, salvage, stored};
use crate::engine::aggregates::udaf::DEFAULT_LG_K;

/// What every Silver row carries behind the statement's columns, in this order.
pub const CARRIED: [&str; 6] = ["event_time", "_stream", "_shard", "_sequence", "_sub_sequence", "_arrival_time"];

/// Microseconds since 1970 in UTC.
pub fn timestamp_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

struct Rule {
    name: Arc<str>,
    keep: Arc<dyn PhysicalExpr>,
}

/// A compiled Silver statement.
pub struct SilverPlan {
    rules: Vec<Rule>,
    columns: Vec<Arc<dyn PhysicalExpr>>,
    schema: SchemaRef,
    /// `events` and [`PROCESSED_AT`].
    input: SchemaRef,
    uses_processed_at: bool,
}

/// What came of one batch of events. Every row is in exactly one of `kept`, `filtered` and `failed`.
#[derive(Debug)]
pub struct SilverOut {
    /// The Silver rows.
    pub batch: RecordBatch,
    /// Per Silver row: index of its event, rising.
    pub kept: Vec<u32>,
    /// (rule, rows it left out), rules in the order of the file; rules that left out nothing are missing.
    pub filtered: Vec<(Arc<str>, u64)>,
    /// Events that a rule or the statement failed on, rising, and why, without values.
    pub failed: Vec<(u32, String)>,
}

/// The schema a Silver statement sees: the events and [`PROCESSED_AT`].
fn with_processed_at(events: &Schema) -> SchemaRef {
    let mut fields: Vec<Arc<Field>> = events.fields().iter().cloned().collect();
    fields.push(Arc::new(Field::new(PROCESSED_AT, timestamp_type(), false)));
    Arc::new(Schema::new(fields))
}

impl SilverPlan {
    /// Compiles the statement and the named filters `(name, condition)`. `events` is the contract's table.
    pub fn compile(sql: &str, filters: &[(&str, &str)], events: &SchemaRef) -> Result<Self, SqlError> {
        let blame = Blame { statement: "silver.sql" };
        let input = with_processed_at(events);
        let catalog = Catalog::new("events", input.clone(), DEFAULT_LG_K);
        let mut rules = Vec::new();
        for (name, condition) in filters {
            let statement = format!("silver.filter.{name}.where");
            let blame = Blame { statement: &statement };
            if *name == "where" || filters.iter().filter(|(other, _)| other == name).count() > 1 {
                return Err(blame.whole(format!("the rule name `{name}` is taken"), "give every filter its own name"));
            }
            let query = parse_condition(blame, "events", condition)?;
            rules.extend(Self::rule(blame, &catalog, &query, name)?);
        }
        let mut query = parse(blame, sql)?;
        Check::new(blame, Tier::Silver, &catalog).query(&query)?;
        name_items(blame, &mut query, &catalog.schema)?;
        rules.extend(Self::rule(blame, &catalog, &query, "where")?);
        let plan = catalog.plan(blame, &query)?;
        let projection = if let LogicalPlan::Projection(projection) = plan { Some(projection) } else { None };
        let Some(projection) = projection.filter(|projection| is_source(&projection.input)) else {
            return Err(blame.whole("one SELECT over `events` is expected", "name the columns to keep"));
        };
        let (columns, schema) = Self::columns(blame, &catalog, &projection, &query)?;
        let uses_processed_at = columns.iter().any(|expr| uses(expr, PROCESSED_AT));
        Ok(Self { rules, columns, schema, input, uses_processed_at })
    }

    /// The WHERE of a checked query as a rule.
    fn rule(blame: Blame<'_>, catalog: &Catalog, query: &Query, name: &str) -> Result<Option<Rule>, SqlError> {
        Check::new(blame, Tier::Silver, catalog).query(query)?;
        let plan = catalog.plan(blame, query)?;
        let LogicalPlan::Projection(projection) = plan else { return Ok(None) };
        let LogicalPlan::Filter(filter) = projection.input.as_ref() else { return Ok(None) };
        let keep = condition(&filter.predicate, filter.input.schema()).map_err(|error| blame.planner(&error, query))?;
        if uses(&keep, PROCESSED_AT) {
            let message = format!("which rows are kept must not depend on `{PROCESSED_AT}`: a replay would keep others");
            return Err(blame.at(find(query, PROCESSED_AT), message, "compare with _arrival_time, which a replay keeps"));
        }
        Ok(Some(Rule { name: name.into(), keep }))
    }

    fn columns(
        blame: Blame<'_>,
        catalog: &Catalog,
        projection: &Projection,
        query: &Query,
    ) -> Result<(Vec<Arc<dyn PhysicalExpr>>, SchemaRef), SqlError> {
        let (mut columns, mut fields): (Vec<Arc<dyn PhysicalExpr>>, Vec<Field>) = Default::default();
        for (expr, field) in projection.expr.iter().zip(projection.schema.fields()) {
            let name = field.name();
            let expr = compile(expr, projection.input.schema()).map_err(|error| blame.planner(&error, query))?;
            let same = expr.downcast_ref::<Column>().filter(|column| column.name() == name);
            if CARRIED.contains(&name.as_str()) {
                if same.is_none() {
                    let message = format!("`{name}` is a coordinate that every Silver row carries; it cannot be computed");
                    return Err(blame.at(find(query, name), message, "give the column another name with AS"));
                }
                // It comes behind the statement's columns anyway.
                continue;
            }
            let (expr, of) = stored(blame, name, expr, &catalog.schema)?;
            // A computed column may turn out NULL whatever the planner expects of it.
            let nullable = expr.downcast_ref::<Column>().is_none_or(|column| catalog.schema.field(column.index()).is_nullable());
            let clock = uses(&expr, PROCESSED_AT).then(|| (WALL_CLOCK.to_owned(), "true".to_owned()));
            fields.push(Field::new(name, of, nullable).with_metadata(HashMap::from_iter(clock)));
            columns.push(expr);
        }
        for name in CARRIED {
            let index = catalog
                .schema
                .index_of(name)
                .map_err(|_| blame.whole(format!("`events` has no column `{name}`"), "this is a fault of the program"))?;
            columns.push(Arc::new(Column::new(name, index)));
            fields.push(catalog.schema.field(index).clone());
        }
        Ok((columns, Arc::new(Schema::new(fields))))
    }

    /// The Silver table: the statement's columns, then [`CARRIED`]. A column computed from [`PROCESSED_AT`] is marked by
    /// [`WALL_CLOCK`] in its metadata.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The rules in the order they are tried: named filters, then `where`.
    pub fn rules(&self) -> impl Iterator<Item = &Arc<str>> {
        self.rules.iter().map(|rule| &rule.name)
    }

    /// Filters and projects one batch. A row belongs to the first rule that drops it; NULL drops as in WHERE. A row that cannot
    /// be evaluated costs itself.
    pub fn apply(&self, events: &RecordBatch, processed_at_us: i64) -> Result<SilverOut, Fault> {
        let bug = |error: DataFusionError| fault(Kind::Bug, "the Silver statement", &error);
        let mut rest = self.input(events, processed_at_us)?;
        let mut kept: Vec<u32> = (0..rest.num_rows() as u32).collect();
        let (mut filtered, mut failed) = (Vec::new(), Vec::new());
        for rule in &self.rules {
            if kept.is_empty() {
                break;
            }
            let evaluate = |batch: &RecordBatch| column(&rule.keep, batch).map(|column| vec![column]);
            // A failed row is taken out below whatever stands here.
            let no = || Some(vec![Arc::new(BooleanArray::from(vec![false])) as ArrayRef]);
            let found = salvage(&rest, &evaluate, &no).map_err(bug)?;
            let keep = found.columns.first().and_then(|keep| keep.as_boolean_opt());
            let keep = keep.ok_or_else(|| Fault::bug("a condition that is not boolean"))?;
            failed.extend(
                found.failed.iter().map(|(row, error)| (kept[*row], format!("rule `{}`: {}", rule.name, describe(error)))),
            );
            let passed = keep.true_count();
            let dropped = keep.len() - passed - found.failed.len();
            if dropped > 0 {
                filtered.push((rule.name.clone(), dropped as u64));
            }
            if passed < keep.len() {
                rest = filter_record_batch(&rest, keep).map_err(|error| bug(error.into()))?;
                kept = filter_rows(kept, keep).map_err(|error| bug(error.into()))?;
            }
        }
        let batch = self.project(&rest, &mut kept, &mut failed)?;
        failed.sort_unstable();
        Ok(SilverOut { batch, kept, filtered, failed })
    }

    fn input(&self, events: &RecordBatch, processed_at_us: i64) -> Result<RecordBatch, Fault> {
        if !self.uses_processed_at {
            return Ok(events.clone());
        }
        let mut columns = events.columns().to_vec();
        let now = TimestampMicrosecondArray::from_value(processed_at_us, events.num_rows());
        columns.push(Arc::new(now.with_timezone("UTC")));
        RecordBatch::try_new(self.input.clone(), columns).map_err(|_| Fault::bug("events of another contract"))
    }

    fn project(&self, rest: &RecordBatch, kept: &mut Vec<u32>, failed: &mut Vec<(u32, String)>) -> Result<RecordBatch, Fault> {
        let bug = |error: DataFusionError| fault(Kind::Bug, "the Silver statement", &error);
        if kept.is_empty() {
            return Ok(RecordBatch::new_empty(self.schema.clone()));
        }
        let evaluate = |batch: &RecordBatch| {
            let each = self.columns.iter().enumerate();
            each.map(|(at, expr)| column(expr, batch).map_err(|error| (at, error))).collect::<Result<Vec<_>, _>>()
        };
        let found = salvage(rest, &evaluate, &|| None).map_err(bug)?;
        if !found.failed.is_empty() {
            failed.extend(found.failed.iter().map(|(row, (at, error))| {
                (kept[*row], format!("column `{}`: {}", self.schema.field(*at).name(), describe(error)))
            }));
            let mut bad = found.failed.iter().map(|(row, _)| *row).peekable();
            let mut row = 0;
            kept.retain(|_| {
                row += 1;
                bad.next_if_eq(&(row - 1)).is_none()
            });
        }
        if kept.is_empty() {
            return Ok(RecordBatch::new_empty(self.schema.clone()));
        }
        RecordBatch::try_new(self.schema.clone(), found.columns)
            .map_err(|_| Fault::bug("the Silver statement gave columns of another type than planned"))
    }
}

fn filter_rows(rows: Vec<u32>, keep: &BooleanArray) -> Result<Vec<u32>, arrow::error::ArrowError> {
    let rows = arrow::array::UInt32Array::from(rows);
    Ok(filter(&rows, keep)?.as_primitive::<UInt32Type>().values().to_vec())
}

/// The table itself, perhaps filtered or renamed: what the compiled expressions find their columns in.
fn is_source(plan: &LogicalPlan) -> bool {
    if let LogicalPlan::Filter(node) = plan {
        is_source(&node.input)
    } else if let LogicalPlan::SubqueryAlias(node) = plan {
        is_source(&node.input)
    } else {
        matches!(plan, LogicalPlan::TableScan(_))
    }
}

/// Does the expression read this column?
pub(crate) fn uses(expr: &Arc<dyn PhysicalExpr>, name: &str) -> bool {
    collect_columns(expr).iter().any(|column| column.name() == name)
}

/// Gives every item the name it will have: `*` becomes the columns (without [`PROCESSED_AT`]), `a.b` is called `b`, an expression
/// without a name is called as it is written.
pub(crate) fn name_items(blame: Blame<'_>, query: &mut Query, schema: &Schema) -> Result<(), SqlError> {
    let SetExpr::Select(select) = query.body.as_mut() else { return Ok(()) };
    let mut items = Vec::new();
    for item in std::mem::take(&mut select.projection) {
        if let SelectItem::UnnamedExpr(expr) = item {
            items.push(named(expr));
        } else if let SelectItem::Wildcard(options) = &item {
            let mut hidden: Vec<String> = vec![PROCESSED_AT.to_owned()];
            if let Some(ExcludeSelectItem::Single(name)) = &options.opt_exclude {
                hidden.push(name.to_string());
            } else if let Some(ExcludeSelectItem::Multiple(names)) = &options.opt_exclude {
                hidden.extend(names.iter().map(ToString::to_string));
            }
            if let Some(except) = &options.opt_except {
                let more = std::iter::once(&except.first_element).chain(&except.additional_elements);
                hidden.extend(more.map(|ident| ident.value.clone()));
            }
            if options.opt_replace.is_some() || options.opt_rename.is_some() || options.opt_ilike.is_some() {
                let message = "* with REPLACE, RENAME or ILIKE is not supported";
                return Err(blame.at(place(item.span().start), message, "name the columns"));
            }
            let names = schema.fields().iter().map(|field| field.name()).filter(|name| !hidden.contains(name));
            items.extend(names.map(|name| SelectItem::UnnamedExpr(SqlExpr::Identifier(Ident::with_quote('"', name)))));
        } else {
            items.push(item);
        }
    }
    let mut names: Vec<&str> = Vec::new();
    for item in &items {
        let ident = if let SelectItem::ExprWithAlias { alias, .. } = item {
            alias
        } else if let SelectItem::UnnamedExpr(SqlExpr::Identifier(ident)) = item {
            ident
        } else {
            continue;
        };
        if names.contains(&ident.value.as_str()) {
            let message = format!("two columns are called `{}`", ident.value);
            return Err(blame.at(place(item.span().start), message, "give one of them another name with AS"));
        }
        names.push(&ident.value);
    }
    select.projection = items;
    Ok(())
}

fn named(expr: SqlExpr) -> SelectItem {
    let alias = if let SqlExpr::Identifier(_) = &expr {
        return SelectItem::UnnamedExpr(expr);
    } else if let SqlExpr::CompoundIdentifier(idents) = &expr {
        idents.last().map_or_else(String::new, |last| last.value.clone())
    } else {
        expr.to_string()
    };
    SelectItem::ExprWithAlias { expr, alias: Ident::with_quote('"', alias) }
}
