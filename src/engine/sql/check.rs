//! What may stand in a statement: read from its syntax before anything is planned, so that a refusal has a place and a remedy.
//!
//! Owns: the shapes of Silver and Gold statements, the functions they may call. Does not own: names and types of columns (the
//! planner says those), what the plan becomes (silver, lower).

use std::ops::ControlFlow;

use arrow::datatypes::{DataType, Schema};
use datafusion::execution::SessionStateDefaults;
use datafusion::logical_expr::Volatility;
use datafusion::sql::sqlparser::ast::{
    DuplicateTreatment, Expr, Function, FunctionArgumentClause, FunctionArguments, GroupByExpr, Ident, Query, Select, SelectItem,
    SetExpr, Spanned, TableFactor, TableWithJoins, Visit, Visitor,
};

use super::error::{Blame, SqlError, nearest, place};
use super::plan::Catalog;
use crate::engine::aggregates::udaf::ADMITTED;

/// The one value of an epoch that says when it was processed.
pub const PROCESSED_AT: &str = "_processed_at";
/// Marks a Silver column that was computed from [`PROCESSED_AT`]: field metadata key, value `true`.
pub const WALL_CLOCK: &str = "sluicebox.wall_clock";

/// Which statement is checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Tier {
    /// `SELECT … FROM events [WHERE …]`.
    Silver,
    /// `SELECT … FROM silver [WHERE] [GROUP BY] [HAVING] [ORDER BY] [LIMIT]`.
    Gold,
}

pub(crate) struct Check<'a> {
    pub(crate) blame: Blame<'a>,
    pub(crate) tier: Tier,
    pub(crate) catalog: &'a Catalog,
    /// Depth of queries the visitor stands in.
    depth: usize,
}

type Flow = ControlFlow<SqlError>;

impl<'a> Check<'a> {
    pub(crate) fn new(blame: Blame<'a>, tier: Tier, catalog: &'a Catalog) -> Self {
        Self { blame, tier, catalog, depth: 0 }
    }

    /// The SELECT of an admissible query.
    pub(crate) fn query(mut self, query: &Query) -> Result<&Select, SqlError> {
        let select = self.shape(query)?;
        self.clauses(query, select)?;
        match query.visit(&mut self) {
            ControlFlow::Break(error) => Err(error),
            ControlFlow::Continue(()) => Ok(select),
        }
    }

    fn refuse<T>(&self, at: &impl Spanned, message: &str, remedy: &str) -> Result<T, SqlError> {
        Err(self.blame.at(place(at.span().start), message, remedy))
    }

    fn shape<'q>(&self, query: &'q Query) -> Result<&'q Select, SqlError> {
        if let Some(with) = &query.with {
            return self.refuse(with, "a statement cannot have common table expressions (WITH)", self.one_select());
        }
        if let SetExpr::Select(select) = query.body.as_ref() {
            return Ok(select);
        }
        if let SetExpr::SetOperation { op, .. } = query.body.as_ref() {
            return self.refuse(query, &format!("a statement cannot have {op}"), self.one_select());
        }
        self.refuse(query, "one SELECT is expected", self.one_select())
    }

    fn one_select(&self) -> &'static str {
        match self.tier {
            Tier::Silver => "write one SELECT over `events`; what needs more belongs into a query over Silver",
            Tier::Gold => "write one SELECT over `silver`; combine tables downstream",
        }
    }

    fn clauses(&self, query: &Query, select: &Select) -> Result<(), SqlError> {
        self.from(select)?;
        if let Some(distinct) = &select.distinct {
            let remedy = match self.tier {
                Tier::Silver => "remove DISTINCT; duplicates are removed by [dedup], not by SQL",
                Tier::Gold => "remove DISTINCT; GROUP BY gives every group once",
            };
            return self.refuse(select, &format!("a statement cannot have {}", first_word(distinct)), remedy);
        }
        let odd = [
            (!select.lateral_views.is_empty(), "LATERAL VIEW"),
            (select.top.is_some(), "TOP"),
            (select.into.is_some(), "INTO"),
            (select.prewhere.is_some(), "PREWHERE"),
            (select.qualify.is_some(), "QUALIFY"),
            (!select.named_window.is_empty(), "WINDOW"),
            (!select.connect_by.is_empty(), "CONNECT BY"),
            (!select.cluster_by.is_empty(), "CLUSTER BY"),
            (!select.distribute_by.is_empty(), "DISTRIBUTE BY"),
            (!select.sort_by.is_empty(), "SORT BY"),
            (select.value_table_mode.is_some(), "AS STRUCT or AS VALUE"),
            (query.fetch.is_some(), "FETCH"),
            (query.for_clause.is_some() || !query.locks.is_empty(), "FOR"),
            (!query.pipe_operators.is_empty(), "|>"),
            (query.settings.is_some() || query.format_clause.is_some(), "SETTINGS or FORMAT"),
        ];
        if let Some((_, name)) = odd.iter().find(|(present, _)| *present) {
            return self.refuse(select, &format!("a statement cannot have {name}"), "remove it");
        }
        match self.tier {
            Tier::Silver => self.silver_clauses(query, select),
            Tier::Gold => self.gold_clauses(select),
        }
    }

    fn from(&self, select: &Select) -> Result<(), SqlError> {
        let table = self.catalog.table;
        let remedy = format!("read from `{table}` alone; join downstream");
        let [TableWithJoins { relation, joins }] = select.from.as_slice() else {
            let message = if select.from.is_empty() { "FROM is missing" } else { "a statement reads one table" };
            return self.refuse(select, message, &remedy);
        };
        if !joins.is_empty() {
            return self.refuse(&joins[0], "a statement cannot have a JOIN", &remedy);
        }
        let TableFactor::Table { name, args: None, sample: None, .. } = relation else {
            return self.refuse(relation, "a statement cannot have a subquery or a function in FROM", &remedy);
        };
        if name.to_string() != table {
            return self.refuse(name, &format!("unknown table `{name}`"), &format!("read from `{table}`"));
        }
        Ok(())
    }

    fn silver_clauses(&self, query: &Query, select: &Select) -> Result<(), SqlError> {
        let gold = "aggregate, order and limit in a [[gold]] table";
        if !matches!(&select.group_by, GroupByExpr::Expressions(keys, _) if keys.is_empty()) {
            return self.refuse(&select.group_by, "the Silver statement cannot have GROUP BY", gold);
        }
        if let Some(having) = &select.having {
            return self.refuse(having, "the Silver statement cannot have HAVING", gold);
        }
        if let Some(order) = &query.order_by {
            return self.refuse(order, "the Silver statement cannot have ORDER BY", gold);
        }
        if let Some(limit) = &query.limit_clause {
            return self.refuse(limit, "the Silver statement cannot have LIMIT", gold);
        }
        Ok(())
    }

    fn gold_clauses(&self, select: &Select) -> Result<(), SqlError> {
        let GroupByExpr::Expressions(_, modifiers) = &select.group_by else {
            return self.refuse(&select.group_by, "GROUP BY ALL is not supported", "name the keys");
        };
        if !modifiers.is_empty() {
            return self.refuse(&select.group_by, "grouping sets are not supported", "write one [[gold]] table per grouping");
        }
        for item in &select.projection {
            if matches!(item, SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(_, _)) {
                return self.refuse(item, "a Gold statement cannot have *", "name the keys and aggregates");
            }
        }
        Ok(())
    }

    fn expr(&self, expr: &Expr) -> Result<(), SqlError> {
        if matches!(expr, Expr::Subquery(_) | Expr::InSubquery { .. } | Expr::Exists { .. }) {
            return self.refuse(expr, "a statement cannot have a subquery", "compute it in another table, or downstream");
        }
        if matches!(expr, Expr::GroupingSets(_) | Expr::Cube(_) | Expr::Rollup(_)) {
            return self.refuse(expr, "grouping sets are not supported", "write one [[gold]] table per grouping");
        }
        if let Expr::Function(function) = expr {
            return self.function(function);
        }
        if let Expr::Identifier(ident) = expr {
            return self.column(ident);
        }
        if let Expr::CompoundIdentifier(idents) = expr {
            let idents = match idents.as_slice() {
                [table, rest @ ..] if table.value == self.catalog.table && !rest.is_empty() => rest,
                all => all,
            };
            if let Some(first) = idents.first() {
                self.column(first)?;
            }
            return self.members(idents);
        }
        Ok(())
    }

    /// The members of a struct column, so that a misspelt one has a place and a suggestion.
    fn members(&self, idents: &[Ident]) -> Result<(), SqlError> {
        let Some((column, members)) = idents.split_first() else { return Ok(()) };
        let Ok(field) = self.catalog.schema.field_with_name(&column.value) else { return Ok(()) };
        let mut of = field.data_type();
        for member in members {
            let DataType::Struct(fields) = of else {
                let remedy = "only an object with `properties` has members; for JSON text use json_get(column, 'path')";
                let message = format!("`{}` is not a member: {of} has none", member.value);
                return Err(self.blame.at(place(member.span.start), message, remedy));
            };
            let Some((_, field)) = fields.find(&member.value) else {
                let known = fields.iter().map(|field| field.name().as_str());
                return Err(self.blame.unknown(place(member.span.start), "member", &member.value, known));
            };
            of = field.data_type();
        }
        Ok(())
    }

    fn column(&self, ident: &Ident) -> Result<(), SqlError> {
        if self.tier == Tier::Silver {
            return Ok(());
        }
        if ident.value == PROCESSED_AT || is_wall_clock(&self.catalog.schema, &ident.value) {
            let message = format!("`{}` says when a row was processed, which Gold must not depend on", ident.value);
            let remedy = "use event_time or _arrival_time, which a replay keeps";
            return Err(self.blame.at(place(ident.span.start), message, remedy));
        }
        Ok(())
    }

    fn function(&self, function: &Function) -> Result<(), SqlError> {
        let name = function.name.to_string().to_lowercase();
        if function.over.is_some() || is_window(&name) {
            let message = format!("a statement cannot have a window function (`{name}`)");
            return self.refuse(&function.name, &message, "group instead, or compute it downstream");
        }
        let ours = ADMITTED.iter().any(|(known, _, _)| *known == name);
        if ours || is_aggregate(&name) {
            if self.tier == Tier::Silver {
                let message = format!("the Silver statement cannot aggregate (`{name}`)");
                return self.refuse(&function.name, &message, "aggregate in a [[gold]] table");
            }
            return if ours { self.aggregate(&name, function) } else { self.not_admitted(&name, function) };
        }
        let Some(scalar) = self.catalog.scalar(&name) else {
            return Err(self.unknown_function(&name, function));
        };
        if scalar.signature().volatility != Volatility::Immutable {
            let message = format!("`{name}` gives another value at every call, so a replay could not repeat it");
            let remedy = match self.tier {
                Tier::Silver => "use _processed_at, one value per epoch, or _arrival_time, which a replay keeps",
                Tier::Gold => "use event_time or _arrival_time in Gold; _processed_at is for Silver",
            };
            return self.refuse(&function.name, &message, remedy);
        }
        Ok(())
    }

    fn unknown_function(&self, name: &str, function: &Function) -> SqlError {
        let written = function.name.to_string();
        if matches!(function.args, FunctionArguments::None) {
            let message = format!("`{written}` is a word of SQL, not a column");
            let remedy = format!("write the column in double quotes: \"{written}\"");
            return self.blame.at(place(function.name.span().start), message, remedy);
        }
        let known: Vec<&str> = self.catalog.function_names().collect();
        let remedy = match nearest(name, &known) {
            Some(nearest) => format!("did you mean `{nearest}`?"),
            None => "the scalar functions are those of Apache DataFusion, with hour_bucket and json_get".to_owned(),
        };
        self.blame.at(place(function.name.span().start), format!("unknown function `{name}`"), remedy)
    }

    fn aggregate(&self, name: &str, function: &Function) -> Result<(), SqlError> {
        let at = &function.name;
        if !function.within_group.is_empty() {
            return self.refuse(at, "WITHIN GROUP is not supported", &format!("write {}", usage(name)));
        }
        let FunctionArguments::List(list) = &function.args else { return Ok(()) };
        if list.duplicate_treatment == Some(DuplicateTreatment::Distinct) && name != "count" {
            let remedy = "only count(DISTINCT x) keeps a set; min and max don't need it";
            return self.refuse(at, &format!("{name}(DISTINCT …) is not supported"), remedy);
        }
        for clause in &list.clauses {
            let nulls = matches!(clause, FunctionArgumentClause::IgnoreOrRespectNulls(_));
            if matches!(clause, FunctionArgumentClause::OrderBy(_)) {
                let remedy = "first_value and last_value go by event time by themselves; nothing else has an order";
                return self.refuse(at, &format!("ORDER BY inside {name} is not supported"), remedy);
            }
            if !nulls {
                return self.refuse(at, &format!("{clause} inside {name} is not supported"), "remove it");
            }
        }
        if name == "count" && list.args.len() > 1 {
            return self.refuse(at, "count takes one argument", "count one column, or concat() several");
        }
        Ok(())
    }

    fn not_admitted(&self, name: &str, function: &Function) -> Result<(), SqlError> {
        let remedy = match name {
            "median" => "use approx_median(x), within 1 %",
            "percentile_cont" | "quantile_cont" | "approx_percentile_cont_with_weight" => {
                "use approx_percentile_cont(x, p), within 1 %"
            }
            "any_value" | "nth_value" => "use first_value(x) or last_value(x), which go by event time",
            "array_agg" | "string_agg" => "keep the rows in Silver and collect them there; states of that size are not merged",
            "grouping" => "write one [[gold]] table per grouping",
            "sum_distinct" | "avg_distinct" => "use count(DISTINCT x) and sum(x)",
            _ => "use an admitted aggregate, or compute it from Silver",
        };
        let admitted: Vec<&str> = ADMITTED.iter().map(|(name, _, _)| *name).collect();
        let message = format!("the aggregate `{name}` cannot be split into states that merge to the bit");
        self.refuse(&function.name, &message, &format!("{remedy} (admitted: {})", admitted.join(", ")))
    }
}

impl Visitor for Check<'_> {
    type Break = SqlError;

    fn pre_visit_query(&mut self, query: &Query) -> Flow {
        self.depth += 1;
        if self.depth == 1 {
            return Flow::Continue(());
        }
        let remedy = "compute it in another table, or downstream";
        Flow::Break(self.blame.at(place(query.span().start), "a statement cannot have a subquery", remedy))
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> Flow {
        match self.expr(expr) {
            Ok(()) => Flow::Continue(()),
            Err(error) => Flow::Break(error),
        }
    }
}

/// Was this Silver column computed from [`PROCESSED_AT`]?
pub(crate) fn is_wall_clock(schema: &Schema, column: &str) -> bool {
    schema.field_with_name(column).is_ok_and(|field| field.metadata().contains_key(WALL_CLOCK))
}

fn is_aggregate(name: &str) -> bool {
    SessionStateDefaults::default_aggregate_functions()
        .iter()
        .any(|udaf| udaf.name() == name || udaf.aliases().iter().any(|alias| alias == name))
}

fn is_window(name: &str) -> bool {
    let ours = |name: &str| ADMITTED.iter().any(|(known, _, _)| *known == name);
    !ours(name) && !is_aggregate(name) && SessionStateDefaults::default_window_functions().iter().any(|udwf| udwf.name() == name)
}

fn usage(name: &str) -> &'static str {
    ADMITTED.iter().find(|(known, _, _)| *known == name).map_or("", |(_, _, usage)| *usage)
}

fn first_word(of: &impl ToString) -> String {
    of.to_string().split_whitespace().next().unwrap_or_default().to_owned()
}
