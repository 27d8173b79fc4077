//! Carries the addresses of source rows through a query, in a hidden column of its result.

use std::collections::BTreeMap;
use std::sync::Arc;

use catchment_core::{Code, Error, Result};
use catchment_ingest::{ADDRESS_COLUMN, Address};
use datafusion::catalog::TableProvider;
use datafusion::common::{Column, DataFusionError, TableReference};
use datafusion::datasource::provider_as_source;
use datafusion::logical_expr::{
    Expr, LogicalPlan, LogicalPlanBuilder, Projection, SubqueryAlias, Union, lit,
};
use datafusion::physical_expr::expressions::Column as PhysicalColumn;
use datafusion::physical_expr::{LexOrdering, PhysicalSortExpr};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;

/// Replaces the streams of a plan by tables whose rows carry addresses, and passes these on to the result.
/// A plan that reads none of the tables is returned as it is.
///
/// # Errors
/// Returns [`Code::INTERNAL`] when a node loses them; queries that do are refused when a project is checked.
pub(crate) fn carry_addresses(
    plan: LogicalPlan,
    tables: &BTreeMap<String, Arc<dyn TableProvider>>,
) -> Result<LogicalPlan> {
    carry(plan, tables).map(|(plan, _)| plan).map_err(|error| {
        Error::new(Code::INTERNAL, "could not follow the rows of a stream through a query").because(error)
    })
}

/// The plan, and whether its rows have addresses.
fn carry(
    plan: LogicalPlan,
    tables: &BTreeMap<String, Arc<dyn TableProvider>>,
) -> Result<(LogicalPlan, bool), DataFusionError> {
    if let LogicalPlan::TableScan(scan) = &plan {
        let Some(table) = tables.get(scan.table_name.table()) else { return Ok((plan, false)) };
        let source = provider_as_source(Arc::clone(table));
        let scan = LogicalPlanBuilder::scan(scan.table_name.clone(), source, None)?.build()?;
        return Ok((scan, true));
    }
    let mut inputs = Vec::new();
    let mut any = false;
    for input in plan.inputs() {
        let (input, carries) = carry(input.clone(), tables)?;
        any |= carries;
        inputs.push((input, carries));
    }
    if !any {
        return Ok((plan, false));
    }
    let plan = match plan {
        LogicalPlan::Projection(projection) => {
            let (input, _) = inputs.remove(0);
            let mut expressions = projection.expr;
            expressions.push(address_of(&input)?);
            LogicalPlan::Projection(Projection::try_new(expressions, Arc::new(input))?)
        }
        LogicalPlan::SubqueryAlias(alias) => {
            let (input, _) = inputs.remove(0);
            LogicalPlan::SubqueryAlias(SubqueryAlias::try_new(Arc::new(input), alias.alias)?)
        }
        LogicalPlan::Union(_) => {
            let inputs = inputs
                .into_iter()
                .map(|(input, carries)| branch(input, carries))
                .collect::<Result<_, _>>()?;
            LogicalPlan::Union(Union::try_new_with_loose_types(inputs)?)
        }
        other => {
            let expressions = other.expressions();
            other.with_new_exprs(expressions, inputs.into_iter().map(|(input, _)| input).collect())?
        }
    };
    Ok((plan, true))
}

/// A branch of a union whose last column is the address; rows that have none come last.
fn branch(input: LogicalPlan, carries: bool) -> Result<Arc<LogicalPlan>, DataFusionError> {
    let address = if carries { address_of(&input)? } else { lit(Address::without_source(0).0) };
    let mut expressions: Vec<Expr> =
        input.schema().iter().filter(|(_, field)| field.name() != ADDRESS_COLUMN).map(Expr::from).collect();
    expressions.push(match address {
        Expr::Column(_) => address,
        other => other.alias(ADDRESS_COLUMN),
    });
    Ok(Arc::new(LogicalPlan::Projection(Projection::try_new(expressions, Arc::new(input))?)))
}

fn address_of(plan: &LogicalPlan) -> Result<Expr, DataFusionError> {
    let found: Option<(Option<&TableReference>, _)> =
        plan.schema().iter().find(|(_, field)| field.name() == ADDRESS_COLUMN);
    match found {
        Some((qualifier, field)) => Ok(Expr::Column(Column::new(qualifier.cloned(), field.name()))),
        None => Err(DataFusionError::Internal("no addresses in the input of a node".to_owned())),
    }
}

/// Whether each stream of a plan gives its rows in the order of their addresses, at most one for each.
fn keeps_order(plan: &dyn ExecutionPlan) -> bool {
    const KEEP: &[&str] = &[
        "FilterExec",
        "ProjectionExec",
        "CoalesceBatchesExec",
        "CooperativeExec",
        "StreamingTableExec",
        "UnionExec",
    ];
    KEEP.contains(&plan.name()) && plan.children().iter().all(|child| keeps_order(child.as_ref()))
}

/// Sorts the rows of a plan by address unless each of its streams has that order already. Rows of one
/// address, which a join makes, are told apart by their other columns, so that the order is the same
/// each time.
///
/// # Errors
/// Returns [`Code::INTERNAL`] when the plan's rows have no addresses.
pub(crate) fn in_source_order(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    if keeps_order(plan.as_ref()) {
        return Ok(plan);
    }
    let schema = plan.schema();
    let failed = || Error::new(Code::INTERNAL, "rows to be sorted have no addresses");
    let address = schema.index_of(ADDRESS_COLUMN).map_err(|error| failed().because(error))?;
    let others = (0..schema.fields().len())
        .filter(|index| *index != address && !schema.field(*index).data_type().is_nested());
    let keys = std::iter::once(address).chain(others).map(|index| {
        PhysicalSortExpr::new_default(Arc::new(PhysicalColumn::new(schema.field(index).name(), index)))
    });
    let ordering = LexOrdering::new(keys).ok_or_else(failed)?;
    let sorted = SortExec::new(ordering.clone(), plan).with_preserve_partitioning(true);
    Ok(Arc::new(SortPreservingMergeExec::new(ordering, Arc::new(sorted))))
}
