//! Checks the queries of those that read a project while it is served: alerts and panels.

use std::collections::BTreeMap;
use std::sync::Arc;

use catchment_core::{Code, Error, Result, TableName};
use catchment_ingest::Source;
use catchment_ingest::files::FileSource;
use catchment_ingest::streams::StreamSource;
use catchment_sql::{Moment, ParsedQuery, SqlText, Target};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::datasource::empty::EmptyTable;
use datafusion::logical_expr::LogicalPlan;

use crate::access::Access;
use crate::check::Checked;
use crate::run::Workspace;
use crate::sources::SourceCall;

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
            schemas.extend(late.map(|(name, declared)| (name.clone(), Arc::clone(&declared.schema))));
        }
        for alert in self.project.alerts.values() {
            let wrong = self.check_alert(alert, &schemas).await.err();
            checked.errors.extend(wrong.into_iter().flat_map(Error::split));
        }
        for panel in self.project.dashboards.iter().flat_map(|dashboard| &dashboard.panels) {
            let wrong = self.check_panel(panel, &schemas).await.err();
            checked.errors.extend(wrong.into_iter().flat_map(Error::split));
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
                Target::Function { name, arguments } => {
                    Some(match SourceCall::parse(project, name, arguments, text, relation.span)? {
                        SourceCall::Files(options) => FileSource::open(options, None).map_err(at)?.schema(),
                        // A stream that is declared is made by the first run.
                        SourceCall::Stream(options) => {
                            StreamSource::new(options, Arc::clone(&self.streams) as _).schema()
                        }
                    })
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
