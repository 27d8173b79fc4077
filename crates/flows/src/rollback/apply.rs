//! Does a planned rollback. Every step may be repeated: what is done already is passed over.

use catchment_catalog::Store;
use catchment_core::{Code, Error, FaultPoint, Result};
use catchment_lake::{Outcome, Owner, Publication};
use serde_json::json;

use crate::records::{BatchSummary, Records, to_json};
use crate::rollback::{Rollback, RollbackStep, TableStep};

/// Writes a rollback down, and does it.
///
/// # Errors
/// Returns errors of reading and writing; [`finish_rollback`] then goes on with it.
pub async fn apply_rollback(owner: &Owner, store: &dyn Store, rollback: &Rollback) -> Result<()> {
    let path = owner.lake().layout().rollback();
    owner.write_record(&path, to_json(rollback)?, false).await?;
    owner.lake().faults().reach(FaultPoint::RollbackWritten)?;
    for step in &rollback.steps {
        apply_step(owner, store, step).await?;
    }
    owner.remove_record(&path).await
}

/// Finishes a rollback that was written down and not done. Call it before anything else writes the lake.
///
/// # Errors
/// Returns [`Code::PLAN_CORRUPT`] when the record cannot be read, and errors of reading and writing.
pub async fn finish_rollback(owner: &Owner, store: &dyn Store) -> Result<Option<Rollback>> {
    let path = owner.lake().layout().rollback();
    let Some(bytes) = owner.lake().read_record(&path).await? else { return Ok(None) };
    let rollback: Rollback = serde_json::from_slice(&bytes).map_err(|error| {
        Error::new(Code::PLAN_CORRUPT, "the record of an unfinished rollback is corrupt").because(error)
    })?;
    apply_rollback(owner, store, &rollback).await?;
    Ok(Some(rollback))
}

async fn apply_step(owner: &Owner, store: &dyn Store, step: &RollbackStep) -> Result<()> {
    for opening in &step.openings {
        Records::new(owner.lake(), &opening.flow).write_plan(owner, opening.clone()).await?;
    }
    owner.lake().faults().reach(FaultPoint::PlanWritten)?;
    for table in &step.tables {
        apply_table(owner, step, table).await?;
        owner.lake().faults().reach(FaultPoint::TableRestored)?;
    }
    let table = owner.lake().table(&step.dataset).existing().await?;
    let line = table.line()?;
    store.mark_undone(&step.dataset, &|version| !line.holds(version))?;
    let now = owner.lake().clock().now_micros();
    for opening in &step.openings {
        let summary = BatchSummary { planned_at: opening.planned_at, ..BatchSummary::default() };
        store.put_batch(&summary.record(
            &opening.flow,
            &step.dataset,
            opening.position,
            table.version(),
            now,
        ))?;
    }
    Ok(())
}

/// Takes one table back, in one commit with the new positions of all flows.
async fn apply_table(owner: &Owner, step: &RollbackStep, table: &TableStep) -> Result<Outcome> {
    let mut positions = step.openings.iter().map(|plan| (plan.flow.clone(), plan.position));
    let publication = Publication {
        position: positions.next(),
        other_positions: positions.collect(),
        batch: json!({ "dataset": step.dataset, "rollback": { "to": table.to } }),
        ..Publication::default()
    };
    let writer = owner.writer(&table.table);
    match table.to {
        Some(version) => writer.restore(version, publication).await,
        None => writer.overwrite(&writer.table().existing().await?.spec()?, publication).await,
    }
}
