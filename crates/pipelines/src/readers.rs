//! Checks the queries of those that read a project while it is served: alerts and panels.

use std::collections::{BTreeMap, HashSet};
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use catchment_core::{Code, Error, Result, TableName};
use catchment_flows::quarantine_spec;
use catchment_sql::{Moment, ParsedQuery, SqlText, Target};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::datasource::empty::EmptyTable;
use datafusion::logical_expr::LogicalPlan;
use tokio::runtime::{Builder, Runtime};
use tokio::task::AbortHandle;

use crate::access::Access;
use crate::check::Checked;
use crate::run::Workspace;

/// How long a query may take that is asked for while a project is served.
const PATIENCE: Duration = Duration::from_secs(10);

/// A thread of its own for each query that is asked while a project is served: one that takes long, and does not let others
/// run meanwhile, holds up neither flows nor requests, nor the other queries.
pub struct Readers {
    /// What their threads are called.
    name: String,
    /// What is being asked.
    asked: Arc<Mutex<HashSet<String>>>,
}

/// Ends a query that nobody waits for any more, as soon as it lets go of its thread.
struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Notes that a query has ended, however it has.
struct Asking {
    name: String,
    asked: Arc<Mutex<HashSet<String>>>,
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.name);
    }
}

/// The thread of a query, which ends when the query lets go of it.
struct Thread(Option<Runtime>);

impl Drop for Thread {
    fn drop(&mut self) {
        // A query that does not let go of its thread is not waited for.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Readers {
    /// Threads that are called so.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), asked: Arc::default() }
    }

    /// Asks a query by its name, for at most ten seconds. One that takes longer may go on behind; until it has ended it is
    /// not asked again.
    ///
    /// # Errors
    /// Returns what the query does, and [`Code::SQL_EXECUTION`] when it takes too long.
    pub async fn ask<T: Send + 'static>(
        &self,
        name: &str,
        query: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        self.ask_for(PATIENCE, name, query).await
    }

    /// The same, for as long as is said.
    ///
    /// # Errors
    /// As [`Readers::ask`].
    pub async fn ask_for<T: Send + 'static>(
        &self,
        patience: Duration,
        name: &str,
        query: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let slow = || {
            Error::new(Code::SQL_EXECUTION, format!("the query takes longer than {} s", patience.as_secs()))
                .hint("ask for less, or keep the answer up to date as a dataset and ask that")
        };
        let is_new = self.asked.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned());
        if !is_new {
            return Err(slow());
        }
        let asking = Asking { name: name.to_owned(), asked: Arc::clone(&self.asked) };
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name(&self.name)
            .enable_all()
            .build()
            .map_err(|error| Error::new(Code::INTERNAL, "could not start a thread").because(error))?;
        let mut task = runtime.spawn(async move {
            let _asking = asking;
            query.await
        });
        let _thread = Thread(Some(runtime));
        // Whoever asked may be gone before there is an answer.
        let _abort = AbortOnDrop(task.abort_handle());
        match tokio::time::timeout(patience, &mut task).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                Err(Error::new(Code::INTERNAL, "a query ended before it had an answer").because(error))
            }
            Err(_) => Err(slow()),
        }
    }
}

/// The columns of the tables that a project declares.
pub(crate) type Schemas = BTreeMap<TableName, SchemaRef>;

impl Workspace {
    /// Checks alerts and dashboards of a project whose datasets were checked.
    pub(crate) async fn check_readers(&self, checked: &mut Checked) {
        for (name, target) in &self.project.config.config.notify {
            checked.errors.extend(target.require_valid(name).err());
        }
        if !checked.errors.is_empty() {
            return;
        }
        let mut schemas = Schemas::new();
        for dataset in &checked.datasets {
            schemas.insert(dataset.name.clone(), Arc::clone(&dataset.table.schema));
            let late = dataset.flows.iter().filter_map(|flow| flow.late.as_ref());
            schemas.insert(dataset.name.quarantine(), quarantine_spec(&dataset.name).schema);
            schemas.extend(late.map(|(name, declared)| (name.clone(), Arc::clone(&declared.schema))));
        }
        for alert in self.project.alerts.values() {
            let wrong = self.check_alert(alert, &schemas).await.err();
            checked.errors.extend(wrong.into_iter().flat_map(Error::split));
        }
        checked.panels.extend(self.project.dashboard_errors.iter().cloned());
        for panel in self.project.dashboards.iter().flat_map(|dashboard| &dashboard.panels) {
            let wrong = self.check_panel(panel, &schemas).await.err();
            // The page says it in the panel's place, and nothing else is held up.
            checked.panels.extend(wrong.into_iter().flat_map(Error::split));
        }
    }

    /// Plans a query over tables that are empty where the project declares them, and as they are otherwise.
    pub(crate) async fn plan_over(
        &self,
        text: &SqlText,
        query: &ParsedQuery,
        schemas: &Schemas,
    ) -> Result<LogicalPlan> {
        let project = &self.project;
        let query = query.bind(text, &|relation| project.view(relation, false))?;
        let planner = self.sessions.planner(Moment { micros: 0, seed: 0 })?;
        for relation in &query.relations {
            let at = |error: Error| error.at(text.place(relation.span));
            if relation.streaming {
                let what = "an alert or a panel asks tables as they are, and no STREAM";
                return Err(at(Error::new(Code::NOT_SUPPORTED, what)
                    .hint("put the rows into a streaming table or a serving table, and ask that")));
            }
            let declared = match &relation.target {
                Target::Table { parts, .. } => {
                    project.table_name(parts).and_then(|name| schemas.get(&name)).cloned()
                }
                Target::Function { name, .. } => {
                    let what = format!("{name} in an alert or a panel would read all of it each time");
                    return Err(at(Error::new(Code::NOT_SUPPORTED, what)
                        .hint("read it into a streaming table or a serving table, and ask that")));
                }
            };
            let table = match declared {
                Some(schema) => Arc::new(EmptyTable::new(schema)),
                None => Access::new(self).provider(relation, text).await.map_err(at)?,
            };
            planner.bind(&relation.key, table)?;
        }
        let plan = planner.plan(text, &query).await?;
        planner.check(text, &query, &plan)?;
        Ok(plan)
    }
}
