//! Aggregates that go on from piece to piece of their input: a query is split into what is below its aggregate, the
//! aggregate itself, and what is above it.
//!
//! ```text
//! rows of a piece -> below -> partial states by group
//! partial states + states kept of the same groups -> merged states     (kept for the next piece)
//! merged states -> values -> above -> rows of the result
//! ```
//!
//! States are what DataFusion's accumulators exchange between the stages of a parallel query, so that every aggregate works
//! that can be computed in parallel.

use std::ops::Range;
use std::sync::Arc;

use catchment_core::{Code, Error, Result};
use datafusion::arrow::array::{ArrayRef, RecordBatch, new_null_array};
use datafusion::arrow::compute::concat_batches;
use datafusion::arrow::datatypes::{FieldRef, SchemaRef};
use datafusion::common::{Column, DFSchema, Result as DataFusionResult, ScalarValue, TableReference};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::datasource::{MemTable, provider_as_source};
use datafusion::logical_expr::expr::{AggregateFunction, Sort};
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{Aggregate, Expr, LogicalPlan, LogicalPlanBuilder, lit};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::{AggregateFunctionExpr, LoweredAggregateBuilder};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode, PhysicalGroupBy};
use futures::TryStreamExt;

use crate::lineage::kept_columns;
use crate::session::{Planner, query_error};

/// The relation that stands for the groups in what is above the aggregate.
pub(crate) const GROUPS: &str = "__groups";

/// A query with one aggregate, split.
#[derive(Debug)]
pub struct Running {
    below: LogicalPlan,
    above: LogicalPlan,
    groups: PhysicalGroupBy,
    aggregates: Vec<Arc<AggregateFunctionExpr>>,
    filters: Vec<Option<Arc<dyn PhysicalExpr>>>,
    /// The columns of the input of the aggregate.
    input: SchemaRef,
    /// The columns of its states: the groups, then what accumulators exchange.
    states: SchemaRef,
    /// The columns of its result.
    values: SchemaRef,
    group_names: Vec<String>,
}

impl Planner {
    /// Splits a plan at its aggregate; `None` when it has none above what it reads.
    ///
    /// # Errors
    /// Returns [`Code::NOT_SUPPORTED`] for aggregates that cannot go on from piece to piece.
    pub fn running(&self, plan: &LogicalPlan) -> Result<Option<Running>> {
        let state = self.state();
        let analyzed = state
            .analyzer()
            .execute_and_check(plan.clone(), state.config_options(), |_, _| {})
            .map_err(query_error)?;
        let Some(aggregate) = find(&analyzed)? else { return Ok(None) };
        let failed = |error| query_error(error);
        let (below, exprs) = columns_below(aggregate)?;
        let fields: DFSchema = below.schema().as_ref().clone();
        let input: SchemaRef = Arc::new(fields.as_arrow().clone());
        let properties = state.execution_props();
        let mut groups = Vec::new();
        for (index, name) in (0..aggregate.group_expr.len()).zip(names(aggregate)) {
            let column = state.create_physical_expr(column_of(index), &fields).map_err(failed)?;
            groups.push((column, name));
        }
        let (mut aggregates, mut filters) = (Vec::new(), Vec::new());
        for (expr, name) in exprs.iter().zip(names(aggregate).skip(groups.len())) {
            let context = PhysicalPlanningContext::default();
            let lowered = LoweredAggregateBuilder::new(expr, &fields, &input, properties, &context)
                .with_name(name)
                .build()
                .map_err(failed)?;
            aggregates.push(lowered.aggregate);
            filters.push(lowered.filter);
        }
        let groups = PhysicalGroupBy::new_single(groups);
        let empty = memory(Vec::new(), &input)?;
        let partial = AggregateExec::try_new(
            AggregateMode::Partial,
            groups.clone(),
            aggregates.clone(),
            filters.clone(),
            empty,
            Arc::clone(&input),
        )
        .map_err(failed)?;
        let values: SchemaRef = Arc::new(aggregate.schema.as_arrow().clone());
        let above = above(&analyzed, aggregate, &values)?;
        Ok(Some(Running {
            below,
            above,
            groups,
            aggregates,
            filters,
            input,
            states: partial.schema(),
            values,
            group_names: names(aggregate).take(aggregate.group_expr.len()).collect(),
        }))
    }
}

impl Running {
    /// What is below the aggregate.
    #[must_use]
    pub fn below(&self) -> &LogicalPlan {
        &self.below
    }

    /// What is above the aggregate.
    #[must_use]
    pub fn above(&self) -> &LogicalPlan {
        &self.above
    }

    /// The columns of states: those of the groups first.
    #[must_use]
    pub fn states(&self) -> &SchemaRef {
        &self.states
    }

    /// How many columns the groups have.
    #[must_use]
    pub fn group_columns(&self) -> usize {
        self.group_names.len()
    }

    /// For each column of the result that is a column of the groups as it is: its name, and which.
    #[must_use]
    pub fn kept_groups(&self) -> Vec<(String, usize)> {
        kept_columns(&self.above)
            .into_iter()
            .filter(|(_, (relation, _))| relation == GROUPS)
            .filter_map(|(name, (_, column))| {
                let index = column.strip_prefix('c')?.parse().ok()?;
                (index < self.group_names.len()).then_some((name, index))
            })
            .collect()
    }

    /// The columns of the groups, as the query names them.
    #[must_use]
    pub fn group_names(&self) -> &[String] {
        &self.group_names
    }

    /// Computes the states of a piece, whose relations the planner has bound. A group may come several times.
    ///
    /// # Errors
    /// Returns the errors of the query.
    pub async fn partial(&self, planner: &Planner) -> Result<Vec<RecordBatch>> {
        let below = planner.physical(&self.below).await?;
        let stage = self.stage(AggregateMode::Partial, self.groups.clone(), below)?;
        collect(planner, stage).await
    }

    /// Where the columns of each aggregate's state are among those of states.
    #[must_use]
    pub fn state_columns(&self) -> Vec<Range<usize>> {
        let mut begins = self.group_columns();
        let mut columns = Vec::with_capacity(self.aggregates.len());
        for aggregate in &self.aggregates {
            let count = aggregate.state_fields().map_or(0, |fields| fields.len());
            columns.push(begins..begins + count);
            begins += count;
        }
        columns
    }

    /// The state of a group that had one row, with nulls in all columns.
    ///
    /// # Errors
    /// Returns the errors of the query.
    pub async fn state_of_nulls(&self, planner: &Planner) -> Result<RecordBatch> {
        let null = |field: &FieldRef| match field.is_nullable() {
            true => Ok(new_null_array(field.data_type(), 1)),
            false => ScalarValue::new_default(field.data_type())?.to_array(),
        };
        let columns: DataFusionResult<Vec<ArrayRef>> = self.input.fields().iter().map(null).collect();
        let row = RecordBatch::try_new(Arc::clone(&self.input), columns.map_err(query_error)?)
            .map_err(|error| query_error(error.into()))?;
        let rows = memory(vec![row], &self.input)?;
        let states = collect(planner, self.stage(AggregateMode::Partial, self.groups.clone(), rows)?).await?;
        concat_batches(&self.states, &states).map_err(|error| query_error(error.into()))
    }

    /// Makes one state of all states of a group.
    ///
    /// # Errors
    /// Returns the errors of the query.
    pub async fn merge(&self, planner: &Planner, states: Vec<RecordBatch>) -> Result<Vec<RecordBatch>> {
        let states = memory(states, &self.states)?;
        collect(planner, self.stage(AggregateMode::PartialReduce, self.groups.as_final(), states)?).await
    }

    /// Computes the rows of the result from states, one for each group.
    ///
    /// # Errors
    /// Returns the errors of the query.
    pub async fn finish(&self, planner: &Planner, states: Vec<RecordBatch>) -> Result<Vec<RecordBatch>> {
        let states = memory(states, &self.states)?;
        let stage = self.stage(AggregateMode::Final, self.groups.as_final(), states)?;
        let values = collect(planner, stage).await?;
        // The engine names the columns of a stage otherwise than the plan above does.
        let values = values
            .into_iter()
            .map(|rows| RecordBatch::try_new(of_groups(&self.values), rows.columns().to_vec()))
            .collect::<std::result::Result<Vec<_>, _>>()
            .map_err(|error| query_error(error.into()))?;
        let table = MemTable::try_new(of_groups(&self.values), vec![values]).map_err(query_error)?;
        let above = with_groups(&self.above, Arc::new(table))?;
        collect(planner, planner.physical(&above).await?).await
    }

    fn stage(
        &self,
        mode: AggregateMode,
        groups: PhysicalGroupBy,
        input: Arc<dyn ExecutionPlan>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let filters = match mode {
            AggregateMode::Partial => self.filters.clone(),
            // What did not pass is in no state.
            _ => vec![None; self.filters.len()],
        };
        let aggregates = self.aggregates.clone();
        let stage = AggregateExec::try_new(mode, groups, aggregates, filters, input, Arc::clone(&self.input));
        Ok(Arc::new(stage.map_err(query_error)?))
    }
}

/// The aggregate of a plan, when rows go from it to the result one by one.
pub(crate) fn find(plan: &LogicalPlan) -> Result<Option<&Aggregate>> {
    match plan {
        LogicalPlan::Aggregate(aggregate) => {
            if find_below(&aggregate.input) {
                return refuse("an aggregate of an aggregate");
            }
            let is_set = |expr: &Expr| matches!(expr, Expr::GroupingSet(_));
            if aggregate.group_expr.iter().any(is_set) {
                return refuse("ROLLUP, CUBE and GROUPING SETS");
            }
            Ok(Some(aggregate))
        }
        LogicalPlan::Projection(node) => find(&node.input),
        LogicalPlan::Filter(node) => find(&node.input),
        LogicalPlan::SubqueryAlias(node) => find(&node.input),
        other if find_below(other) => {
            refuse("an aggregate below a join, a union, a sort or a window function")
        }
        _ => Ok(None),
    }
}

fn find_below(plan: &LogicalPlan) -> bool {
    matches!(plan, LogicalPlan::Aggregate(_) | LogicalPlan::Distinct(_))
        || plan.inputs().into_iter().any(find_below)
}

fn refuse<T>(what: &str) -> Result<T> {
    Err(Error::new(
        Code::NOT_SUPPORTED,
        format!("{what} in a serving table over a stream is not supported yet"),
    )
    .hint("make what is read a table of its own, or take STREAM away"))
}

fn names(aggregate: &Aggregate) -> impl Iterator<Item = String> {
    aggregate.schema.fields().iter().map(|field| field.name().clone())
}

fn column_of(index: usize) -> Expr {
    Expr::Column(Column::new_unqualified(format!("c{index}")))
}

/// A plan whose columns are all that the aggregate computes with, and the aggregate's functions over these columns.
fn columns_below(aggregate: &Aggregate) -> Result<(LogicalPlan, Vec<Expr>)> {
    let mut columns: Vec<Expr> = aggregate.group_expr.clone();
    let mut take = |expr: Expr| match expr {
        // An aggregate may need to know a number or a text before it sees rows.
        Expr::Literal(..) => expr,
        expr => {
            // What stands twice is one column: an aggregate may ask that what it orders by is what it takes.
            let known = columns.iter().position(|column| *column == expr);
            column_of(known.unwrap_or_else(|| {
                columns.push(expr);
                columns.len() - 1
            }))
        }
    };
    let mut functions = Vec::new();
    for expr in &aggregate.aggr_expr {
        let Expr::AggregateFunction(function) = expr.clone().unalias() else {
            return refuse(&format!("{expr}"));
        };
        let AggregateFunction { func, mut params } = function;
        // Its states do not say which of their values were the first ones.
        if func.name() == "nth_value" {
            return refuse("nth_value");
        }
        params.args = params.args.into_iter().map(&mut take).collect();
        params.filter = params.filter.map(|filter| Box::new(take(*filter)));
        let order = params.order_by.into_iter();
        params.order_by = order.map(|sort| Sort { expr: take(sort.expr), ..sort }).collect();
        functions.push(Expr::AggregateFunction(AggregateFunction { func, params }));
    }
    if columns.is_empty() {
        // A projection has at least one column: `count(*)` counts its rows.
        columns.push(lit(true));
    }
    let columns = columns
        .into_iter()
        .enumerate()
        .map(|(index, expr)| expr.unalias_nested().data.alias(format!("c{index}")));
    let below = LogicalPlanBuilder::from(aggregate.input.as_ref().clone())
        .project(columns.collect::<Vec<_>>())
        .and_then(LogicalPlanBuilder::build)
        .map_err(query_error)?;
    Ok((below, functions))
}

/// The columns of the aggregate under the names that the plan above it reads from.
fn of_groups(values: &SchemaRef) -> SchemaRef {
    let fields = values.fields().iter().enumerate();
    Arc::new(datafusion::arrow::datatypes::Schema::new(
        fields
            .map(|(index, field)| field.as_ref().clone().with_name(format!("c{index}")))
            .collect::<Vec<_>>(),
    ))
}

/// The plan above the aggregate, which reads the groups from a relation.
fn above(plan: &LogicalPlan, aggregate: &Aggregate, values: &SchemaRef) -> Result<LogicalPlan> {
    if let LogicalPlan::Aggregate(_) = plan {
        let table = MemTable::try_new(of_groups(values), vec![vec![]]).map_err(query_error)?;
        let columns = aggregate.schema.iter().enumerate().map(|(index, (qualifier, field))| {
            Expr::Column(Column::new(Some(TableReference::bare(GROUPS)), format!("c{index}")))
                .alias_qualified(qualifier.cloned(), field.name())
        });
        return LogicalPlanBuilder::scan(GROUPS, provider_as_source(Arc::new(table)), None)
            .and_then(|scan| scan.project(columns.collect::<Vec<_>>()))
            .and_then(LogicalPlanBuilder::build)
            .map_err(query_error);
    }
    let inputs =
        plan.inputs().into_iter().map(|input| above(input, aggregate, values)).collect::<Result<Vec<_>>>()?;
    plan.with_new_exprs(plan.expressions(), inputs).map_err(query_error)
}

/// The plan above the aggregate with rows for the groups.
fn with_groups(plan: &LogicalPlan, table: Arc<MemTable>) -> Result<LogicalPlan> {
    if let LogicalPlan::TableScan(scan) = plan
        && scan.table_name == TableReference::bare(GROUPS)
    {
        return LogicalPlanBuilder::scan(GROUPS, provider_as_source(table), None)
            .and_then(LogicalPlanBuilder::build)
            .map_err(query_error);
    }
    let inputs = plan
        .inputs()
        .into_iter()
        .map(|input| with_groups(input, Arc::clone(&table)))
        .collect::<Result<Vec<_>>>()?;
    plan.with_new_exprs(plan.expressions(), inputs).map_err(query_error)
}

fn memory(rows: Vec<RecordBatch>, schema: &SchemaRef) -> Result<Arc<dyn ExecutionPlan>> {
    let plan = MemorySourceConfig::try_new_exec(&[rows], Arc::clone(schema), None);
    plan.map(|plan| plan as Arc<dyn ExecutionPlan>).map_err(query_error)
}

async fn collect(planner: &Planner, plan: Arc<dyn ExecutionPlan>) -> Result<Vec<RecordBatch>> {
    planner.run(plan)?.try_collect().await.map_err(query_error)
}
