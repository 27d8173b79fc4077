//! Computes a batch of a serving table.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use catchment_core::{Code, Error, Result};
use catchment_ingest::{ADDRESS_COLUMN, Rejects, first_piece};
use catchment_sql::{Moment, Planner, Running, query_error};
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::compute::{cast, filter_record_batch};
use datafusion::arrow::datatypes::SchemaRef;
use futures::TryStreamExt;

use crate::carry::carry_addresses;
use crate::ordered::addresses;
use crate::records::BatchPlan;
use crate::runtime::Runtime;
use crate::serving::change::Change;
use crate::serving::rows::Layout;
use crate::serving::states::States;
use crate::serving::table::ServingTable;
use crate::serving::timely::timely_rows;
use crate::spec::{FlowKind, FlowSpec, InputKind};

impl Runtime {
    /// Computes a batch into a change; gives how many rows were read, and how many records could not be.
    pub(crate) async fn serve_batch(
        &self,
        spec: &FlowSpec,
        plan: &BatchPlan,
        change: &mut Change,
    ) -> Result<(u64, u64)> {
        let planner = self.sessions.planner(Moment { micros: plan.planned_at, seed: plan.seed })?;
        let (rejects, mut sink) = Rejects::channel();
        let counting = tokio::spawn(async move {
            let mut count = 0;
            while let Some(rejected) = sink.recv().await {
                count += rejected.num_rows() as u64;
            }
            count
        });
        let computed = self.serve_rows(spec, plan, &planner, &rejects, change).await;
        let kept = rejects.take_kept()?.map_or(0, |rejected| rejected.num_rows() as u64);
        let rows = rejects.rows();
        drop(planner);
        drop(rejects);
        let untimely = computed?;
        let rejected = counting
            .await
            .map_err(|error| Error::new(Code::INTERNAL, "counting rejects ended early").because(error))?;
        let rejected = kept + rejected + change.too_long() + untimely;
        if rejected > 0 {
            tracing::warn!(table = %spec.target, rejected, "records are not in a serving table: they could not be read, their keys are too long, or they have no time or one too far ahead");
        }
        Ok((rows, rejected))
    }

    /// Gives how many rows have no place in time.
    async fn serve_rows(
        &self,
        spec: &FlowSpec,
        plan: &BatchPlan,
        planner: &Planner,
        rejects: &Arc<Rejects>,
        change: &mut Change,
    ) -> Result<u64> {
        let (mut carriers, mut pieces) = (BTreeMap::new(), 0);
        for input in &spec.inputs {
            let range = self.bind(planner, input, plan, &[], rejects).await?;
            if let (InputKind::Stream(source, _), Some(range)) = (&input.kind, range) {
                let table = source.read(&range, Arc::clone(rejects), Some(first_piece(pieces)?))?;
                carriers.insert(input.key.clone(), table);
                pieces += range.pieces();
            }
        }
        let logical = planner.plan(&spec.text, &spec.query).await?;
        let streams = spec.inputs.iter().filter(|input| matches!(input.kind, InputKind::Stream(..)));
        let streams = streams.map(|input| input.key.as_str()).collect();
        let ahead = spec.serving.as_ref().map_or(i64::MAX, |serving| serving.ahead);
        let (logical, untimely) = timely_rows(logical, &streams, plan.planned_at.saturating_add(ahead))?;
        if spec.kind == FlowKind::Append
            && let Some(running) = planner.running(&logical)?
        {
            serve_groups(spec, plan, planner, &running, change).await?;
            return Ok(untimely.load(Ordering::Relaxed));
        }
        let streams = spec.kind == FlowKind::Append;
        let physical = match streams {
            true => planner.physical(&carry_addresses(logical, &carriers)?).await?,
            false => planner.physical(&logical).await?,
        };
        drop(carriers);
        let mut kept = HashSet::new();
        let mut rows = planner.run(physical)?;
        while let Some(rows) = rows.try_next().await.map_err(query_error)? {
            let addresses = streams.then(|| addresses(&rows)).transpose()?;
            let keys = change.put_latest(&fit(&rows, &spec.table.schema)?, addresses)?;
            if !streams {
                for key in keys {
                    if !kept.insert(key) {
                        return Err(Error::new(
                            Code::SERVING_KEY,
                            format!("the query of serving table \"{}\" has two rows of one key", spec.target),
                        )
                        .hint("name more columns in PRIMARY KEY, or group by those that are there"));
                    }
                }
            }
        }
        if !streams {
            change.keep_only(&kept)?;
        }
        Ok(untimely.load(Ordering::Relaxed))
    }
}

/// Goes on with the groups that have new rows.
async fn serve_groups(
    spec: &FlowSpec,
    plan: &BatchPlan,
    planner: &Planner,
    running: &Running,
    change: &mut Change,
) -> Result<()> {
    let table = Arc::clone(change.table());
    let states = States::new(running.states(), running.group_columns())?;
    let mut all = running.partial(planner).await?;
    let mut touched: HashSet<Vec<u8>> = HashSet::new();
    for partial in &mut all {
        let groups = states.groups(partial)?;
        let fits: Vec<bool> = groups.iter().map(|group| !change.is_too_long(group)).collect();
        if fits.contains(&false) {
            *partial = filter_record_batch(partial, &fits.clone().into())
                .map_err(|error| query_error(error.into()))?;
        }
        touched.extend(groups.into_iter().zip(fits).filter(|(_, fits)| *fits).map(|(group, _)| group));
    }
    let mut known = table.states_of(touched.iter().map(Vec::as_slice))?;
    known.retain(|state| !table.layout.is_over(state.as_ref(), plan.planned_at));
    if !known.is_empty() {
        // Before what is new, for aggregates that go by the order of rows.
        all.insert(0, states.read(&known)?);
    }
    let merged = running.merge(planner, all).await?;
    let mut visible = HashSet::new();
    for rows in running.finish(planner, merged.clone()).await? {
        visible.extend(change.put(&fit(&rows, &spec.table.schema)?)?);
    }
    let columns = key_columns(spec, running, &table)?;
    for merged in &merged {
        let rows = row_keys(merged, &columns, &table.layout)?;
        for ((group, state), row) in
            states.groups(merged)?.iter().zip(states.write(merged, plan.planned_at)?).zip(rows)
        {
            change.put_state(group, state, &row);
            if !visible.contains(&row) {
                // Its group does not pass HAVING, or not any more.
                change.remove(row);
            }
        }
    }
    Ok(())
}

/// The keys of the rows that groups have; `columns` are those of the states that make the key.
pub(crate) fn row_keys(states: &RecordBatch, columns: &[usize], layout: &Layout) -> Result<Vec<Vec<u8>>> {
    let keys = columns.iter().zip(layout.key_columns()).map(|(column, at)| {
        cast(states.column(*column), layout.schema().field(*at).data_type())
            .map_err(|error| query_error(error.into()))
    });
    layout.keys_of(&keys.collect::<Result<Vec<_>>>()?)
}

/// For each column of the key, the column of the groups that it is.
pub(crate) fn key_columns(spec: &FlowSpec, running: &Running, table: &ServingTable) -> Result<Vec<usize>> {
    let kept = running.kept_groups();
    let column = |name: &String| {
        let found = kept.iter().find(|(column, _)| column == name).map(|(_, group)| *group);
        found.ok_or_else(|| {
            Error::new(
                Code::INTERNAL,
                format!("key column \"{name}\" of \"{}\" is none of its groups", spec.target),
            )
        })
    };
    table.key().columns().map(column).collect()
}

/// Rows with the columns and types of the table.
pub(crate) fn fit(rows: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let columns = schema.fields().iter().map(|field| {
        let column = rows.column_by_name(field.name()).filter(|_| field.name() != ADDRESS_COLUMN);
        let column = column.ok_or_else(|| {
            Error::new(Code::INTERNAL, format!("a batch has no column \"{}\"", field.name()))
        })?;
        cast(column, field.data_type()).map_err(|error| query_error(error.into()))
    });
    let columns = columns.collect::<Result<Vec<_>>>()?;
    RecordBatch::try_new(Arc::clone(schema), columns).map_err(|error| query_error(error.into()))
}
