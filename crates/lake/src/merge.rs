//! Upserts: rows with a key that is there replace it, others are added.

use std::sync::Arc;

use catchment_core::{Code, Error, Result};
use datafusion::dataframe::DataFrame;
use datafusion::execution::SessionState;
use datafusion::execution::context::QueryPlanner;
use datafusion::prelude::{Expr, col};
use deltalake::DeltaTableError;
use deltalake::delta_datafusion::planner::DeltaPlanner;
use deltalake::kernel::Transaction;
use deltalake::kernel::transaction::CommitProperties;
use serde_json::json;

use crate::log::{BATCH_KEY, Draft, OWNER_APPLICATION};
use crate::writer::{Outcome, Publication, TableWriter, positions};

/// An upsert by key. The source must hold at most one row per key and be stable when read twice.
#[derive(Debug)]
pub struct Merge {
    /// The session in which the source and the table are read.
    pub session: SessionState,
    /// The new rows, with the columns of the table.
    pub source: DataFrame,
    /// The columns that make the key.
    pub keys: Vec<String>,
}

impl TableWriter {
    /// Merges rows into the table. The position is committed even when no row changes.
    ///
    /// # Errors
    /// Returns [`Code::COMMIT_CONFLICT`] when the table changed meanwhile, and errors of reading and writing.
    pub async fn merge(&self, merge: Merge, publication: Publication) -> Result<Outcome> {
        let (_alone, mut tip) = self.alone().await?;
        if self.is_published(&mut tip, &publication).await? {
            return Ok(Outcome::AlreadyPublished);
        }
        let snapshot = self.existing(&tip).await?;
        let before = snapshot.version();
        let marks = positions(&publication);
        let failed = |error: DeltaTableError| {
            Error::new(
                Code::COMMIT_CONFLICT,
                format!("could not merge into table \"{}\"", self.table().name()),
            )
            .because(error)
        };
        let Some(predicate) =
            merge.keys.iter().map(|key| column("target", key).eq(column("source", key))).reduce(Expr::and)
        else {
            return Err(Error::new(Code::INTERNAL, "a merge without keys"));
        };
        let columns: Vec<String> =
            snapshot.schema()?.fields().iter().map(|field| field.name().clone()).collect();
        let merged = snapshot
            .delta()
            .clone()
            .merge(merge.source, predicate)
            .with_source_alias("source")
            .with_target_alias("target")
            .with_session_state(Arc::new(merge.session))
            .with_commit_properties(self.merge_properties(&publication, &marks))
            .when_matched_update(|update| {
                columns
                    .iter()
                    .fold(update, |update, name| update.update(quoted(name), column("source", name)))
            })
            .and_then(|builder| {
                builder.when_not_matched_insert(|insert| {
                    columns
                        .iter()
                        .fold(insert, |insert, name| insert.set(quoted(name), column("source", name)))
                })
            })
            .map_err(failed)?
            .await;
        // Whatever the library says, the log tells what was committed: it may report an error after a
        // durable commit, and it commits nothing when no row changes.
        self.catch_up(&mut tip).await?;
        if self.is_published(&mut tip, &publication).await? {
            return Ok(Outcome::Committed(self.existing(&tip).await?.version()));
        }
        let (_, metrics) = merged.map_err(failed)?;
        tracing::debug!(table = %self.table().name(), before, ?metrics, "merge changed nothing");
        let draft = Draft {
            operation: "MERGE".to_owned(),
            batch: publication.batch.clone(),
            blind: true,
            ..Draft::default()
        };
        self.commit(&mut tip, draft, &marks).await
    }

    fn merge_properties(
        &self,
        publication: &Publication,
        marks: &[(catchment_core::FlowName, catchment_core::Position)],
    ) -> CommitProperties {
        let generation = i64::try_from(self.lease.generation()).unwrap_or(i64::MAX);
        let transactions = std::iter::once(Transaction::new(OWNER_APPLICATION, generation))
            .chain(marks.iter().map(|(flow, position)| Transaction::new(flow, position.to_version())))
            .collect();
        CommitProperties::default()
            .with_max_retries(0)
            .with_create_checkpoint(false)
            .with_cleanup_expired_logs(Some(false))
            .with_application_transactions(transactions)
            .with_metadata([(BATCH_KEY.to_owned(), json!(publication.batch))])
    }
}

/// The query planner that a session needs to run a merge.
#[must_use]
pub fn merge_planner() -> Arc<dyn QueryPlanner + Send + Sync> {
    DeltaPlanner::new()
}

fn column(side: &str, name: &str) -> Expr {
    col(format!("{side}.{}", quoted(name)))
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
