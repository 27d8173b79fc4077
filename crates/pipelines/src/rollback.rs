//! Takes datasets of a project back: to a version, a time, or a named set of versions.

use std::collections::BTreeMap;

use catchment_core::{Code, Error, Result, TableName, timestamp_text};
use catchment_flows::{InputKind, Rollback, RollbackRequest, apply_rollback, finish_rollback, plan_rollback};
use catchment_lake::{Lake, Table};
use catchment_sql::AsOf;

use crate::backfill::unfinished;
use crate::check::Dataset;
use crate::run::{Workspace, select};

/// What a rollback is asked for.
#[derive(Debug, Clone)]
pub struct RollbackOptions {
    /// The datasets; all when empty.
    pub datasets: Vec<String>,
    /// A version, a time, or the name of a release.
    pub to: String,
    /// Whether more datasets than those named may be taken back with them.
    pub cascade: bool,
    /// Whether to do nothing but plan.
    pub dry_run: bool,
}

/// What became of a rollback.
#[derive(Debug, Clone)]
pub struct RollbackReport {
    /// What it does, or would do.
    pub rollback: Rollback,
    /// Whether it was done.
    pub done: bool,
}

impl Workspace {
    /// Takes datasets back, together with what was made from the rows that go.
    ///
    /// Without `cascade` nothing is done when that is more than the datasets named.
    ///
    /// # Errors
    /// Returns [`Code::VERSION_UNKNOWN`] when there is nothing to go back to, [`Code::HISTORY_GONE`] when sources
    /// do not hold what would be read again, and errors of the project and the lease.
    pub async fn rollback(&self, options: &RollbackOptions) -> Result<RollbackReport> {
        let checked = self.check().await;
        Error::join(checked.errors)?;
        let datasets: Vec<_> = checked
            .datasets
            .iter()
            .map(|dataset| {
                (dataset.name.clone(), dataset.flows.iter().map(|flow| flow.name.clone()).collect())
            })
            .collect();
        let flows = checked.datasets.iter().flat_map(|dataset| &dataset.flows);
        let cleaned = flows.filter(|flow| flow.cleans()).map(|flow| flow.name.clone()).collect();
        let readers = readers(&checked.datasets);
        let named: Vec<TableName> =
            select(checked.datasets, &options.datasets)?.into_iter().map(|dataset| dataset.name).collect();
        let (owner, _heartbeat) = self.own().await?;
        finish_rollback(&owner, self.store.as_ref()).await?;
        if unfinished(&self.lake).await?.is_some() {
            return Err(Error::new(Code::USAGE, "a backfill was begun and is not finished")
                .hint("`catchment run` finishes it, `catchment backfill --cancel` gives it up"));
        }
        let targets = self.targets(&named, &options.to).await?;
        self.require_readers(&targets, &readers, &options.to).await?;
        let request = RollbackRequest {
            files: &self.project.files,
            datasets: &datasets,
            cleaned: &cleaned,
            targets: &targets,
            now: self.clock.now_micros(),
        };
        let rollback = plan_rollback(&self.lake, &request).await?;
        let more = rollback.steps.iter().any(|step| step.because_of.is_some());
        let done = !options.dry_run && (options.cascade || !more) && !rollback.steps.is_empty();
        if done {
            apply_rollback(&owner, self.store.as_ref(), &rollback).await?;
        }
        Ok(RollbackReport { rollback, done })
    }

    /// Makes sure that datasets which go forward again, to a state that was undone, take those with them that read their rows
    /// as a stream: such a reader knows nothing of the rows that come back.
    async fn require_readers(
        &self,
        targets: &BTreeMap<TableName, Option<u64>>,
        readers: &[(TableName, TableName)],
        to: &str,
    ) -> Result<()> {
        for (dataset, version) in targets {
            let Some(now) = self.lake.table(dataset).latest().await? else { continue };
            if version.is_none_or(|version| version > now.version())
                || now.line()?.holds(version.unwrap_or(0))
            {
                continue;
            }
            for (reader, _) in
                readers.iter().filter(|(reader, read)| read == dataset && !targets.contains_key(reader))
            {
                if self.lake.table(reader).latest().await?.is_some() {
                    return Err(Error::new(
                        Code::CASCADE_NEEDED,
                        format!("\"{dataset}\" would go forward to a state that was undone, and \"{reader}\" reads its rows as a stream"),
                    )
                    .hint(format!("take all of them there: `catchment rollback --all --to {to}`, or name \"{reader}\" as well")));
                }
            }
        }
        Ok(())
    }

    /// The version that each dataset is to have; `None` is before it had any.
    async fn targets(&self, named: &[TableName], to: &str) -> Result<BTreeMap<TableName, Option<u64>>> {
        let mut targets = BTreeMap::new();
        match AsOf::parse(to) {
            AsOf::Version(version) => {
                let [dataset] = named else {
                    return Err(Error::new(
                        Code::USAGE,
                        format!("version {version} means something else in each of {} datasets", named.len()),
                    )
                    .hint("name one dataset, or give a time or a release"));
                };
                targets.insert(dataset.clone(), Some(version));
            }
            AsOf::Time(time) => {
                for dataset in named {
                    let version = version_at(&self.lake.table(dataset), time).await?;
                    targets.extend(version.map(|version| (dataset.clone(), version)));
                }
            }
            AsOf::Release(name) => {
                let Some(release) = self.lake.release(&name).await? else {
                    return Err(Error::new(Code::VERSION_UNKNOWN, format!("there is no release \"{name}\""))
                        .hint("give a version such as 7, a time such as '2024-01-31 10:00:00', or a name that `catchment release` lists"));
                };
                let known = named.iter().filter_map(|name| Some((name.clone(), release.version(name)?)));
                targets.extend(known.map(|(name, version)| (name, Some(version))));
            }
        }
        Ok(targets)
    }
}

/// Datasets with the tables that they read as streams.
fn readers(datasets: &[Dataset]) -> Vec<(TableName, TableName)> {
    let mut readers = Vec::new();
    for dataset in datasets {
        for input in dataset.flows.iter().flat_map(|flow| &flow.inputs) {
            if matches!(input.kind, InputKind::Stream(..)) {
                readers.extend(TableName::parse(&input.name, "").map(|read| (dataset.name.clone(), read)));
            }
        }
    }
    readers
}

/// The version that a table has in the state asked for.
///
/// # Errors
/// Returns [`Code::VERSION_UNKNOWN`] when there is none, and the errors of [`version_at`].
pub(crate) async fn version_as_of(lake: &Lake, name: &TableName, as_of: &AsOf) -> Result<u64> {
    let unknown = |what: String| Error::new(Code::VERSION_UNKNOWN, what);
    match as_of {
        AsOf::Version(version) => Ok(*version),
        AsOf::Time(time) => {
            let found = version_at(&lake.table(name), *time).await?.flatten();
            found.ok_or_else(|| {
                unknown(format!("table \"{name}\" was not there at {}", timestamp_text(*time)))
            })
        }
        AsOf::Release(release) => {
            let found = lake.release(release).await?.ok_or_else(|| {
                unknown(format!("there is no release \"{release}\"")).hint("`catchment release` lists them")
            })?;
            found
                .version(name)
                .ok_or_else(|| unknown(format!("table \"{name}\" is not part of release \"{release}\"")))
        }
    }
}

/// The version that a table had at a time, in microseconds since the Unix epoch, by the commits' own
/// accounts; `Some(None)` before its first one, and `None` when there is no such table.
///
/// # Errors
/// Returns [`Code::HISTORY_GONE`] when the log does not reach back so far, and errors of reading.
pub(crate) async fn version_at(table: &Table, time: i64) -> Result<Option<Option<u64>>> {
    let Some(latest) = table.latest().await? else { return Ok(None) };
    // A version that a rollback undid later was the newest one once.
    let mut next = Some(latest.version());
    while let Some(version) = next {
        let Some(entry) = table.entry(version).await? else {
            return Err(Error::new(
                Code::HISTORY_GONE,
                format!("the log of table \"{}\" does not reach back to that time", table.name()),
            ));
        };
        if entry.timestamp.saturating_mul(1_000) <= time {
            return Ok(Some(Some(version)));
        }
        next = version.checked_sub(1);
    }
    Ok(Some(None))
}
