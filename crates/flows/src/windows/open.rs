//! Which rows are in windows that stay open after a batch, where only the other rows of a key tell: in sessions and in
//! staggered windows. Exactly these wait on. One more would begin a staggered window in the middle of one that is closed.

use std::collections::BTreeMap;
use std::sync::Arc;

use catchment_core::{Code, Error, Result};
use catchment_ingest::ADDRESS_COLUMN;
use catchment_sql::{Closed, Planner, WINDOW_END, query_error, reads, session_rows};
use datafusion::arrow::array::{AsArray, BooleanBufferBuilder};
use datafusion::arrow::buffer::BooleanBuffer;
use datafusion::arrow::datatypes::{DataType, UInt64Type};
use datafusion::catalog::TableProvider;
use datafusion::common::{Column, ScalarValue};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, lit};
use futures::TryStreamExt;

use super::held::HeldTable;
use crate::carry::carry_addresses;

/// For each input by its name: which of its rows are in a window that is open, those in files first.
pub(crate) type OpenRows = BTreeMap<String, BooleanBuffer>;

/// The rows that a query which is about to run leaves in open windows; an input is not there when all of its rows are, or when
/// times alone tell. `tables` has the input of each of the query's relations, with its name.
pub(crate) async fn open_rows(
    planner: &Planner,
    plan: &LogicalPlan,
    closed: Closed,
    tables: &BTreeMap<String, (String, Arc<HeldTable>)>,
) -> Result<OpenRows> {
    let mut open: BTreeMap<String, BooleanBufferBuilder> = BTreeMap::new();
    if closed.until <= closed.behind {
        return Ok(OpenRows::new());
    }
    let numbered: BTreeMap<String, Arc<dyn TableProvider>> = tables
        .iter()
        .map(|(key, (_, table))| (key.clone(), Arc::new(table.numbered()) as Arc<dyn TableProvider>))
        .collect();
    for rows in session_rows(plan) {
        let Some((name, table)) = tables.iter().find_map(|(key, table)| reads(&rows, key).then_some(table))
        else {
            return Err(lost());
        };
        let all = table.rows();
        let is_open = open.entry(name.clone()).or_insert_with(|| {
            let mut none = BooleanBufferBuilder::new(all);
            none.append_n(all, false);
            none
        });
        let index = rows.schema().index_of_column_by_name(None, WINDOW_END).ok_or_else(lost)?;
        let (qualifier, field) = rows.schema().qualified_field(index);
        // The same instant, whatever zone the column is in.
        let zone = match field.data_type() {
            DataType::Timestamp(_, zone) => zone.clone(),
            _ => None,
        };
        let until = ScalarValue::TimestampMicrosecond(Some(closed.until), zone);
        let end = Expr::Column(Column::new(qualifier.cloned(), field.name()));
        let question = LogicalPlanBuilder::from(rows.clone())
            .filter(end.gt(lit(until)))
            .and_then(LogicalPlanBuilder::build)
            .map_err(query_error)?;
        let question = carry_addresses(question, &numbered)?;
        let mut answer = planner.run(planner.physical(&question).await?)?;
        while let Some(rows) = answer.try_next().await.map_err(query_error)? {
            let numbers = rows
                .column_by_name(ADDRESS_COLUMN)
                .and_then(|numbers| numbers.as_primitive_opt::<UInt64Type>())
                .ok_or_else(lost)?;
            for number in numbers.values() {
                let number = usize::try_from(*number).ok().filter(|number| *number < all).ok_or_else(lost)?;
                is_open.set_bit(number, true);
            }
        }
    }
    Ok(open.into_iter().map(|(name, mut rows)| (name, rows.finish())).collect())
}

fn lost() -> Error {
    Error::new(Code::INTERNAL, "the rows of open windows cannot be told")
}
