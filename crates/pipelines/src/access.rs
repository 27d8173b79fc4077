//! Reading a project: queries over its tables, views and system tables.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use catchment_catalog::{QueryRecord, ScanRecord};
use catchment_core::{Code, Error, FlowName, Result, TableName, timestamp_text};
use catchment_flows::{bookmarks, quarantine_spec};
use catchment_ingest::files::FileSource;
use catchment_ingest::streams::StreamSource;
use catchment_ingest::{Rejects, Source};
use catchment_lake::{Entry, OWNER_APPLICATION};
use catchment_sql::{
    BoundQuery, ComputedTable, Moment, ParsedQuery, Planner, Relation, SqlText, Target, filtered_columns,
    nearest, parse_single_query, query_error, system_tables,
};
use datafusion::arrow::array::{ArrayRef, RecordBatch, StringArray, TimestampMicrosecondArray, UInt64Array};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::catalog::TableProvider;
use datafusion::datasource::empty::EmptyTable;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::logical_expr::ScalarUDF;
use datafusion::physical_plan::{ExecutionPlan, displayable};
use futures::TryStreamExt;

use crate::rollback::version_as_of;
use crate::run::Workspace;
use crate::scan_size::scan_sizes;
use crate::sources::SourceCall;
use crate::statement::DatasetKind;
use crate::windows_table::windows_table;

/// The most characters of a query's text that are noted.
const NOTED: usize = 10_000;

/// A query that is ready to run.
#[derive(Debug)]
pub struct Planned {
    /// What runs it.
    pub planner: Planner,
    /// What is run.
    pub physical: Arc<dyn ExecutionPlan>,
    /// The tables of the lake that it reads, with the versions that are asked for.
    pub tables: BTreeMap<TableName, Option<u64>>,
    /// The columns of tables that it filters by.
    pub filters: BTreeMap<TableName, BTreeSet<String>>,
}

/// Read access to a project.
pub struct Access<'w> {
    workspace: &'w Workspace,
}

/// One row of a table's history.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct HistoryRow {
    /// The version.
    pub version: u64,
    /// When it was committed.
    pub timestamp: String,
    /// What was done.
    pub operation: String,
    /// The flow that did it.
    pub flow: Option<String>,
    /// The batch of the flow.
    pub batch: Option<String>,
    /// Data files that were added.
    pub files_added: usize,
    /// Data files that were taken out.
    pub files_removed: usize,
    /// Rows that the batch published.
    pub rows: Option<u64>,
}

impl<'w> Access<'w> {
    /// Gives read access to a workspace.
    #[must_use]
    pub fn new(workspace: &'w Workspace) -> Self {
        Self { workspace }
    }

    /// Plans a query, or its explanation, and hands all of its rows to `each`; notes that it was asked.
    ///
    /// # Errors
    /// As [`Access::query`], and those of `each`.
    pub async fn answer(
        &self,
        text: &SqlText,
        mut each: impl FnMut(&RecordBatch) -> Result<()>,
    ) -> Result<SchemaRef> {
        if text.begins_with(&["EXPLAIN"])? {
            let plan: ArrayRef = Arc::new(StringArray::from(vec![self.explain(text).await?]));
            let rows =
                RecordBatch::try_from_iter([("plan", plan)]).map_err(|error| query_error(error.into()))?;
            each(&rows)?;
            return Ok(rows.schema());
        }
        let asked = Instant::now();
        let planned = self.plan(text).await?;
        let mut stream = planned.planner.run(Arc::clone(&planned.physical))?;
        let (schema, mut count) = (stream.schema(), 0);
        while let Some(rows) = stream.try_next().await.map_err(query_error)? {
            count += rows.num_rows() as u64;
            each(&rows)?;
        }
        self.note_query(text, planned, count, asked.elapsed()).await;
        Ok(schema)
    }

    /// Plans a query and starts it.
    ///
    /// # Errors
    /// Returns errors of syntax, names and types with their place, and of reading tables.
    pub async fn query(&self, text: &SqlText) -> Result<SendableRecordBatchStream> {
        let planned = self.plan(text).await?;
        planned.planner.run(planned.physical)
    }

    /// As [`Access::query`], with a function that this query alone knows.
    pub(crate) async fn query_with(
        &self,
        text: &SqlText,
        function: Option<Arc<ScalarUDF>>,
    ) -> Result<SendableRecordBatchStream> {
        let (mut planner, query) = self.bind(text).await?;
        if let Some(function) = function {
            planner.add_function(function)?;
        }
        let logical = planner.plan(text, &query).await?;
        planner.run(planner.physical(&logical).await?)
    }

    /// Plans a query.
    ///
    /// # Errors
    /// As [`Access::query`].
    pub async fn plan(&self, text: &SqlText) -> Result<Planned> {
        let (planner, query) = self.bind(text).await?;
        let logical = planner.plan(text, &query).await?;
        let mut filters: BTreeMap<TableName, BTreeSet<String>> = BTreeMap::new();
        for (key, column) in filtered_columns(&logical) {
            let relation = query.relations.iter().find(|relation| relation.key == key);
            if let Some(Target::Table { parts, .. }) = relation.map(|relation| &relation.target)
                && let Some(name) = self.workspace.project.table_name(parts)
            {
                filters.entry(name).or_default().insert(column);
            }
        }
        let mut tables = BTreeMap::new();
        for relation in &query.relations {
            if let Target::Table { parts, as_of } = &relation.target
                && let Some(name) = self.workspace.project.table_name(parts)
                && name.schema != "system"
            {
                let version = match as_of {
                    Some(as_of) => Some(version_as_of(&self.workspace.lake, &name, as_of).await?),
                    None => None,
                };
                tables.insert(name, version);
            }
        }
        let physical = planner.physical(&logical).await?;
        Ok(Planned { planner, physical, tables, filters })
    }

    /// What the query behind `EXPLAIN` or `EXPLAIN ANALYZE` would do, as text: its plan, and how many files and partitions
    /// each table would have read.
    ///
    /// # Errors
    /// As [`Access::query`].
    pub async fn explain(&self, text: &SqlText) -> Result<String> {
        let analyze = text.begins_with(&["EXPLAIN", "ANALYZE"])?;
        let query = text.with_head(if analyze { 2 } else { 1 }, "")?;
        let Planned { planner, physical, tables, .. } = self.plan(&query).await?;
        let mut shown = if analyze {
            let rows: Vec<RecordBatch> =
                planner.run(Arc::clone(&physical))?.try_collect().await.map_err(query_error)?;
            let count: usize = rows.iter().map(RecordBatch::num_rows).sum();
            let metrics =
                datafusion::physical_plan::display::DisplayableExecutionPlan::with_metrics(physical.as_ref());
            format!("{}rows: {count}\n", metrics.indent(false))
        } else {
            displayable(physical.as_ref()).indent(false).to_string()
        };
        for (name, size) in scan_sizes(&self.workspace.lake, physical.as_ref(), &tables, true).await? {
            shown.push_str(&format!("{name}: {size}\n"));
        }
        Ok(shown)
    }

    /// Notes that a query was asked, for advice about the layout of the tables that it read. A failure costs that
    /// advice and nothing else.
    pub async fn note_query(&self, text: &SqlText, planned: Planned, rows: u64, took: Duration) {
        let Planned { physical, tables, mut filters, .. } = planned;
        let sizes = scan_sizes(&self.workspace.lake, physical.as_ref(), &tables, false).await;
        let Ok(sizes) = sizes else { return };
        if sizes.is_empty() {
            return;
        }
        let scans = sizes.into_iter().map(|(table, size)| ScanRecord {
            filters: filters.remove(&table).into_iter().flatten().collect(),
            table,
            files: size.files,
            bytes: size.bytes,
        });
        let record = QueryRecord {
            asked_at: self.workspace.clock.now_micros(),
            query: text.text().chars().take(NOTED).collect(),
            milliseconds: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            rows,
            scans: scans.collect(),
        };
        if let Err(error) = self.workspace.store.put_query(&record) {
            tracing::debug!(error = %error.one_line(), "a query was not noted");
        }
    }

    async fn bind(&self, text: &SqlText) -> Result<(Planner, BoundQuery)> {
        self.bind_query(text, &parse_single_query(text)?).await
    }

    /// Binds the relations of a query to what they are now.
    pub(crate) async fn bind_query(
        &self,
        text: &SqlText,
        query: &ParsedQuery,
    ) -> Result<(Planner, BoundQuery)> {
        let project = &self.workspace.project;
        let query = query.bind(text, &|relation| project.view(relation, false))?;
        let now = self.workspace.lake.clock().now_micros();
        let seed = u64::from_ne_bytes(now.to_ne_bytes());
        let planner = self.workspace.sessions.planner(Moment { micros: now, seed })?;
        let mut errors = Vec::new();
        for relation in &query.relations {
            match self.provider(relation, text).await {
                Ok(table) => planner.bind(&relation.key, table)?,
                Err(error) => errors.push(error.at(text.place(relation.span))),
            }
        }
        Error::join(errors)?;
        Ok((planner, query))
    }

    pub(crate) async fn provider(
        &self,
        relation: &Relation,
        text: &SqlText,
    ) -> Result<Arc<dyn TableProvider>> {
        if relation.streaming {
            return Err(Error::new(
                Code::NOT_SUPPORTED,
                "a query reads tables as they are; STREAM belongs in pipelines",
            )
            .hint("take STREAM away"));
        }
        let (parts, as_of) = match &relation.target {
            Target::Function { name, arguments } => {
                let project = &self.workspace.project;
                return match SourceCall::parse(project, name, arguments, text, relation.span)? {
                    SourceCall::Files(options) => everything(&FileSource::open(options, None)?).await,
                    SourceCall::Stream(options) => {
                        let streams = Arc::clone(&self.workspace.streams) as _;
                        everything(&StreamSource::new(options, streams)).await
                    }
                };
            }
            Target::Table { parts, as_of } => (parts, as_of),
        };
        let Some(name) = self.workspace.project.table_name(parts) else {
            return Err(Error::new(
                Code::NAME_INVALID,
                format!("name \"{}\" has more than two parts", parts.join(".")),
            ));
        };
        if name.schema == "system" {
            return self.system_table(&name).await;
        }
        let dataset = self.workspace.project.datasets.get(&name);
        if dataset.is_some_and(|dataset| dataset.body.kind == DatasetKind::ServingTable) {
            return match as_of {
                Some(as_of) => Err(Error::new(
                    Code::NOT_SUPPORTED,
                    format!("serving table \"{name}\" has its rows as they are, and no {as_of}"),
                )),
                None => self.workspace.serving_provider(&name),
            };
        }
        let table = self.workspace.lake.table(&name);
        let Some(snapshot) = table.latest().await? else {
            // Nothing was put there yet.
            let datasets = self.workspace.project.datasets.keys();
            return match name.is_quarantine()
                && datasets.map(TableName::quarantine).any(|known| known == name)
            {
                true => Ok(Arc::new(EmptyTable::new(quarantine_spec(&name).schema))),
                false => Err(self.unknown(&name).await),
            };
        };
        match as_of {
            Some(as_of) => {
                let version = version_as_of(&self.workspace.lake, &name, as_of).await?;
                table.at(version).await?.provider().await
            }
            None => snapshot.provider().await,
        }
    }

    async fn unknown(&self, name: &TableName) -> Error {
        if self.workspace.project.datasets.contains_key(name) {
            return Error::new(Code::TABLE_UNKNOWN, format!("table \"{name}\" has not been run yet"))
                .hint("run `catchment run` first");
        }
        let error = Error::new(Code::TABLE_UNKNOWN, format!("no table \"{name}\""));
        let full = name.to_string();
        let known: Vec<String> = self.names().await.unwrap_or_default();
        let names: Vec<&str> = known.iter().map(String::as_str).collect();
        match nearest(&full, &names) {
            Some(near) => error.hint(format!("did you mean \"{near}\"?")),
            None => error.hint("SHOW TABLES lists the names"),
        }
    }

    /// The names of all tables and views that can be read, in order.
    ///
    /// # Errors
    /// Returns errors of listing the lake.
    pub async fn names(&self) -> Result<Vec<String>> {
        let mut names: BTreeSet<String> =
            self.workspace.lake.list().await?.iter().map(ToString::to_string).collect();
        let views = self.workspace.project.views.values().filter(|view| !view.body.temporary);
        names.extend(views.map(|view| view.body.name.0.to_string()));
        let datasets = self.workspace.project.datasets.iter();
        let serving = datasets.filter(|(_, declared)| declared.body.kind == DatasetKind::ServingTable);
        names.extend(serving.map(|(name, _)| name.to_string()));
        names.extend(system_tables(&self.workspace.store).iter().map(|(name, _)| format!("system.{name}")));
        names.extend(["system.files".to_owned(), "system.windows".to_owned()]);
        Ok(names.into_iter().collect())
    }

    async fn system_table(&self, name: &TableName) -> Result<Arc<dyn TableProvider>> {
        match name.table.as_str() {
            "files" => return self.files_table().await,
            "windows" => return windows_table(self.workspace, &self.flows()).await,
            "serving_tables" => return self.workspace.serving_sizes(),
            _ => {}
        }
        let tables = system_tables(&self.workspace.store);
        match tables.into_iter().find(|(known, _)| *known == name.table) {
            Some((_, table)) => Ok(table),
            None => Err(self.unknown(name).await),
        }
    }

    /// `system.files`: what each flow has taken, read from its bookmarks in the lake.
    async fn files_table(&self) -> Result<Arc<dyn TableProvider>> {
        let mut all = Vec::new();
        for (flow, target) in self.flows() {
            let Some(snapshot) = self.workspace.lake.table(&target).latest().await? else { continue };
            if let Some(published) = snapshot.position(flow.as_str()).await? {
                all.extend(bookmarks(&self.workspace.lake, &flow, published).await?);
            }
        }
        let seen = || all.iter().map(|mark| &mark.seen);
        let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("flow", Arc::new(StringArray::from_iter_values(all.iter().map(|mark| mark.flow.as_str())))),
            ("path", Arc::new(StringArray::from_iter_values(seen().map(|seen| &seen.file.path)))),
            ("size", Arc::new(UInt64Array::from_iter_values(seen().map(|seen| seen.file.size)))),
            (
                "modified_at",
                Arc::new(
                    TimestampMicrosecondArray::from_iter_values(seen().map(|seen| seen.file.modified))
                        .with_timezone("UTC"),
                ),
            ),
            (
                "epoch",
                Arc::new(UInt64Array::from_iter_values(seen().map(|seen| u64::from(seen.taken_by.epoch)))),
            ),
            ("number", Arc::new(UInt64Array::from_iter_values(seen().map(|seen| seen.taken_by.number)))),
            (
                "status",
                Arc::new(StringArray::from_iter_values(seen().map(|seen| match &seen.broken {
                    _ if seen.passed_over => "passed over",
                    Some(_) => "broken",
                    None => "read",
                }))),
            ),
            ("reason", Arc::new(seen().map(|seen| seen.broken.as_deref()).collect::<StringArray>())),
        ];
        let fields: Vec<Field> = columns
            .iter()
            .map(|(name, column)| {
                let kind = if *name == "modified_at" { time.clone() } else { column.data_type().clone() };
                Field::new(*name, kind, true)
            })
            .collect();
        let schema = Arc::new(Schema::new(fields));
        let rows = RecordBatch::try_new(
            Arc::clone(&schema),
            columns.into_iter().map(|(_, column)| column).collect(),
        )
        .map_err(|error| Error::new(Code::INTERNAL, "could not compute system.files").because(error))?;
        Ok(Arc::new(ComputedTable::new(schema, move || Ok(rows.clone()))))
    }

    /// The flows of the project and the tables they write.
    fn flows(&self) -> Vec<(FlowName, TableName)> {
        let project = &self.workspace.project;
        let own = project
            .datasets
            .iter()
            .filter(|(_, dataset)| dataset.body.query.is_some())
            .map(|(name, _)| (FlowName::new(name.to_string()), name.clone()));
        let others = project
            .flows
            .iter()
            .map(|(name, flow)| (FlowName::new(name.clone()), flow.body.target.0.clone()));
        own.chain(others).collect()
    }

    /// The history of a table, newest first.
    ///
    /// # Errors
    /// Returns [`Code::TABLE_UNKNOWN`] and errors of reading the log.
    pub async fn history(&self, name: &TableName, limit: usize) -> Result<Vec<HistoryRow>> {
        let table = self.workspace.lake.table(name);
        if table.latest().await?.is_none() {
            return Err(self.unknown(name).await);
        }
        Ok(table.history(limit).await?.iter().map(history_row).collect())
    }
}

fn history_row(entry: &Entry) -> HistoryRow {
    let flow = entry.transactions.iter().find(|txn| txn.app_id != OWNER_APPLICATION);
    HistoryRow {
        version: entry.version,
        timestamp: timestamp_text(entry.timestamp * 1_000),
        operation: entry.operation.clone(),
        flow: flow.map(|txn| txn.app_id.clone()),
        batch: flow.and_then(|txn| entry.position(&txn.app_id)).map(|position| position.to_string()),
        files_added: entry.adds.len(),
        files_removed: entry.removes.len(),
        rows: entry.batch["summary"]["rows_out"].as_u64(),
    }
}

async fn everything(source: &dyn Source) -> Result<Arc<dyn TableProvider>> {
    let (rejects, mut sink) = Rejects::channel();
    // A query reports what it cannot read through its rows; what is rejected is only counted.
    tokio::spawn(async move { while sink.recv().await.is_some() {} });
    match source.everything().await? {
        Some(range) => source.read(&range, rejects, None),
        None => Ok(Arc::new(EmptyTable::new(source.schema()))),
    }
}
