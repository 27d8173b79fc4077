//! Checks a project before any data is touched, and makes its flows ready to run.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use catchment_core::{Code, Error, FlowName, Result, TableName};
use catchment_flows::{FlowKind, FlowSpec, PartitionCondition};
use catchment_lake::{CLUSTER_BY, Lake, TableSpec};
use catchment_quality::Expectation;
use catchment_sql::{BoundQuery, Moment, Relation, Sessions, SqlText, Target, nearest};
use datafusion::arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::sql::sqlparser::tokenizer::Span;

use crate::cleaning::shared_sources;
use crate::columns::{merge_columns, require_columns, require_statistics};
use crate::expectations::{self, RowTime};
use crate::graph::{Graph, order};
use crate::project::Project;
use crate::rulesets;
use crate::serving::kind_of;
use crate::statement::DatasetKind;
use crate::streams::Streams;

/// A dataset, ready to run.
#[derive(Debug, Clone)]
pub struct Dataset {
    /// Its name.
    pub name: TableName,
    /// Which kind.
    pub kind: DatasetKind,
    /// The flows that write it.
    pub flows: Vec<FlowSpec>,
    /// The datasets of the project that it reads.
    pub reads: BTreeSet<TableName>,
    /// What its table is declared to be.
    pub table: TableSpec,
    /// Schemas of file sources that were inferred, by flow and path, to be remembered.
    pub inferred: Vec<(FlowName, String, SchemaRef)>,
    /// Columns of what flows read whose values are in the dataset as they are, under their names: the flow,
    /// the input and the column.
    pub kept: BTreeSet<(FlowName, String, String)>,
}

/// A project that was checked.
#[derive(Debug, Clone, Default)]
pub struct Checked {
    /// Its datasets, each after what it reads.
    pub datasets: Vec<Dataset>,
    /// All errors.
    pub errors: Vec<Error>,
    /// What is wrong with panels of dashboards, which keeps nothing from running.
    pub panels: Vec<Error>,
}

/// One query of a dataset before it is planned.
pub(crate) struct Draft<'p> {
    pub(crate) flow: FlowName,
    pub(crate) kind: FlowKind,
    pub(crate) text: &'p Arc<SqlText>,
    pub(crate) query: BoundQuery,
    /// The partitions that its result replaces, and where that stands.
    pub(crate) replaces: Option<&'p (String, Span)>,
    pub(crate) definition: String,
    /// What `DISTINCT ON` asks for, over a stream.
    pub(crate) distinct: Option<Expectation>,
    /// The table that takes late rows, and where that stands.
    pub(crate) late: Option<&'p (TableName, Span)>,
}

pub(crate) struct Checker<'p> {
    pub(crate) project: &'p Project,
    pub(crate) lake: &'p Lake,
    pub(crate) sessions: &'p Sessions,
    pub(crate) streams: &'p Arc<Streams>,
    /// Schemas of the datasets checked so far; `None` for one that has errors.
    pub(crate) schemas: BTreeMap<TableName, Option<SchemaRef>>,
    pub(crate) errors: Vec<Error>,
}

/// Checks a project: names, cycles, types, and that streams read only what is appended to.
pub async fn check(project: &Project, lake: &Lake, sessions: &Sessions, streams: &Arc<Streams>) -> Checked {
    let mut checker = Checker {
        project,
        lake,
        sessions,
        streams,
        schemas: BTreeMap::new(),
        errors: project.errors.clone(),
    };
    let drafts = checker.drafts();
    checker.errors.extend(shared_sources(project, &drafts));
    let graph = checker.graph(&drafts);
    let (ordered, cycles) = order(&graph);
    for cycle in &cycles {
        checker.cycle(cycle, &drafts);
    }
    checker.view_cycles();
    let mut datasets = Vec::new();
    for name in ordered {
        match checker.dataset(&name, &drafts[&name], &graph[&name]).await {
            Ok(Some(dataset)) => {
                for (late, declared) in dataset.flows.iter().filter_map(|flow| flow.late.as_ref()) {
                    checker.schemas.insert(late.clone(), Some(Arc::clone(&declared.schema)));
                }
                checker.schemas.insert(name, Some(Arc::clone(&dataset.table.schema)));
                datasets.push(dataset);
            }
            Ok(None) => {
                checker.schemas.insert(name, None);
            }
            Err(error) => {
                checker.errors.extend(error.split());
                checker.schemas.insert(name, None);
            }
        }
    }
    if checker.errors.is_empty() {
        // With errors in datasets, those of views that they read have been told already.
        checker.views().await;
    }
    checker.errors.extend(rulesets::strays(project).err().into_iter().flat_map(Error::split));
    let mut errors = checker.errors;
    errors.sort_by(|a, b| a.place().cmp(&b.place()));
    Checked { datasets, errors, panels: Vec::new() }
}

impl<'p> Checker<'p> {
    pub(crate) fn bind(&mut self, text: &SqlText, query: &catchment_sql::ParsedQuery) -> Option<BoundQuery> {
        match query.bind(text, &|relation| self.project.view(relation, true)) {
            Ok(bound) => Some(bound),
            Err(error) => {
                self.errors.extend(error.split());
                None
            }
        }
    }

    /// `DISTINCT ON` over a stream is an expectation; elsewhere it stays in the query.
    fn distinct(&mut self, kind: FlowKind, text: &SqlText, bound: &mut BoundQuery) -> Option<Expectation> {
        if kind != FlowKind::Append {
            return None;
        }
        match bound.take_distinct_on(text) {
            Ok(columns) => columns.map(expectations::distinct_on),
            Err(error) => {
                self.errors.push(error);
                None
            }
        }
    }

    /// The queries of every dataset: its own, and those of flows into it.
    fn drafts(&mut self) -> BTreeMap<TableName, Vec<Draft<'p>>> {
        let mut drafts: BTreeMap<TableName, Vec<Draft<'p>>> = BTreeMap::new();
        let project = self.project;
        for (name, declared) in &project.datasets {
            let entry = drafts.entry(name.clone()).or_default();
            let Some(query) = &declared.body.query else { continue };
            let Some(mut bound) = self.bind(&declared.text, query) else { continue };
            let kind = match declared.body.kind {
                DatasetKind::StreamingTable => FlowKind::Append,
                DatasetKind::MaterializedView => FlowKind::Replace,
                DatasetKind::ServingTable => kind_of(&bound),
            };
            let distinct = self.distinct(kind, &declared.text, &mut bound);
            let definition = declared.text.slice(declared.span.start, declared.span.end);
            entry.push(Draft {
                flow: FlowName::new(name.to_string()),
                kind,
                text: &declared.text,
                query: bound,
                replaces: None,
                definition,
                distinct,
                late: declared.body.late.as_ref(),
            });
        }
        for (name, declared) in &project.flows {
            let (target, at) = &declared.body.target;
            let known = project.datasets.get(target);
            let wrong = match known.map(|dataset| dataset.body.kind) {
                Some(DatasetKind::StreamingTable) => None,
                Some(DatasetKind::ServingTable) => Some(Error::new(
                    Code::FLOW_TARGET,
                    format!("\"{target}\" is a serving table, which has one query"),
                )),
                Some(DatasetKind::MaterializedView) => Some(Error::new(
                    Code::FLOW_TARGET,
                    format!("\"{target}\" is a materialized view, which has one query"),
                )),
                None => Some(self.unknown(target)),
            };
            if let Some(error) = wrong {
                self.errors.push(error.at(declared.text.place(*at)));
                continue;
            }
            let Some(mut bound) = self.bind(&declared.text, &declared.body.query) else { continue };
            let kind = match (declared.body.once, &declared.body.replaces) {
                (false, Some(_)) => FlowKind::ReplaceWhere,
                (true, None) => FlowKind::AppendOnce,
                (false, None) => FlowKind::Append,
                (true, Some((_, at))) => {
                    let error = Error::new(Code::FLOW_TARGET, "a flow that runs once replaces nothing");
                    self.errors
                        .push(error.at(declared.text.place(*at)).hint("take ONCE or REPLACE WHERE away"));
                    continue;
                }
            };
            let distinct = self.distinct(kind, &declared.text, &mut bound);
            let definition = declared.text.slice(declared.span.start, declared.span.end);
            let flow = FlowName::new(name.clone());
            drafts.entry(target.clone()).or_default().push(Draft {
                flow,
                kind,
                text: &declared.text,
                query: bound,
                replaces: declared.body.replaces.as_ref(),
                definition,
                distinct,
                late: declared.body.late.as_ref(),
            });
        }
        for (name, declared) in &project.datasets {
            if drafts.get(name).is_none_or(Vec::is_empty)
                && declared.body.query.is_none()
                && self.errors.is_empty()
            {
                let error =
                    Error::new(Code::FLOW_TARGET, format!("nothing writes streaming table \"{name}\""))
                        .hint(format!("give it a query with AS, or add CREATE FLOW ... INSERT INTO {name}"));
                self.errors.push(error.at(declared.text.place(declared.body.name.1)));
            }
        }
        drafts
    }

    fn graph(&self, drafts: &BTreeMap<TableName, Vec<Draft<'_>>>) -> Graph {
        drafts
            .iter()
            .map(|(name, queries)| {
                let reads = queries
                    .iter()
                    .flat_map(|draft| &draft.query.relations)
                    .filter_map(|relation| self.dataset_of(relation));
                (name.clone(), reads.collect())
            })
            .collect()
    }

    fn dataset_of(&self, relation: &Relation) -> Option<TableName> {
        let Target::Table { parts, .. } = &relation.target else { return None };
        let name = self.project.table_name(parts)?;
        match self.project.late_rows_of(&name) {
            Some(dataset) => Some(dataset.clone()),
            None => Some(name).filter(|name| self.project.datasets.contains_key(name)),
        }
    }

    fn cycle(&mut self, cycle: &[TableName], drafts: &BTreeMap<TableName, Vec<Draft<'_>>>) {
        let Some((first, next)) = cycle.first().zip(cycle.get(1).or(cycle.first())) else { return };
        let path: Vec<String> = cycle.iter().chain([first]).map(ToString::to_string).collect();
        let mut error = Error::new(
            Code::GRAPH_CYCLE,
            format!("datasets read each other in a circle: {}", path.join(" -> ")),
        );
        for draft in drafts.get(first).into_iter().flatten() {
            let back = draft
                .query
                .relations
                .iter()
                .find(|relation| self.dataset_of(relation).as_ref() == Some(next));
            if let Some(relation) = back {
                error = error.at(draft.text.place(relation.span));
            }
        }
        self.errors.push(error);
    }

    pub(crate) fn unknown(&self, name: &TableName) -> Error {
        let error = Error::new(Code::TABLE_UNKNOWN, format!("no table \"{name}\""));
        let full = name.to_string();
        let known: Vec<String> =
            self.project.datasets.keys().chain(self.project.views.keys()).map(ToString::to_string).collect();
        let names: Vec<&str> = known.iter().map(String::as_str).collect();
        match nearest(&full, &names) {
            Some(near) => error.hint(format!("did you mean \"{near}\"?")),
            None => error,
        }
    }

    /// Checks one dataset whose inputs were checked; `None` when an input has errors.
    async fn dataset(
        &mut self,
        name: &TableName,
        drafts: &[Draft<'p>],
        reads: &BTreeSet<TableName>,
    ) -> Result<Option<Dataset>> {
        if reads.iter().any(|input| matches!(self.schemas.get(input), Some(None))) {
            return Ok(None);
        }
        let declared = &self.project.datasets[name];
        let (mut inferred, mut kept) = (Vec::new(), BTreeSet::new());
        let mut specs = Vec::new();
        let mut columns: Vec<Arc<Field>> =
            declared.body.columns.iter().flat_map(|schema| schema.fields().iter().cloned()).collect();
        let has_columns = declared.body.columns.is_some();
        let mut errors = Vec::new();
        for draft in drafts {
            match self.flow(name, draft, &mut inferred, &mut kept).await {
                Ok(resolved) => {
                    if let Err(error) = merge_columns(&mut columns, &resolved.schema, has_columns, draft) {
                        errors.extend(error.split());
                    }
                    specs.push((draft, resolved));
                }
                Err(error) => errors.extend(error.split()),
            }
        }
        if errors.is_empty() {
            errors.extend(require_columns(declared, &declared.body.partition_columns, &columns, "partition"));
            errors.extend(require_columns(declared, &declared.body.cluster_columns, &columns, "cluster"));
            errors.extend(require_statistics(declared, &columns));
        }
        let names = |list: &[(String, Span)]| list.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        let partition_columns = names(&declared.body.partition_columns);
        let mut properties = declared.body.properties.clone();
        if !declared.body.cluster_columns.is_empty() {
            properties.push((CLUSTER_BY.to_owned(), names(&declared.body.cluster_columns).join(",")));
        }
        let schema: SchemaRef = Arc::new(Schema::new(columns));
        if errors.is_empty() {
            for draft in drafts {
                errors.extend(expectations::check_distinct(draft, &declared.body, &schema).err());
            }
            errors.extend(
                expectations::check(self.sessions, declared, &schema)
                    .err()
                    .into_iter()
                    .flat_map(Error::split),
            );
        }
        Error::join(errors)?;
        let bound = rulesets::bind(&self.project.config.folder, self.sessions, declared, &schema).await?;
        let expectations = declared.body.expectations.iter().map(|(expectation, _)| expectation.clone());
        let of_rules = bound.iter().flat_map(|bound| bound.expectations.iter().cloned());
        let expectations = Arc::new(expectations.chain(of_rules).collect::<Vec<_>>());
        expectations::require_few(&expectations)
            .map_err(|error| error.at(declared.text.place(declared.body.name.1)))?;
        let ruleset = bound.as_ref().map(|bound| Arc::clone(&bound.ruleset));
        let rules = bound.map_or_else(String::new, |bound| format!("\n{}", bound.text));
        let table =
            TableSpec { schema, partition_columns, comment: declared.body.comment.clone(), properties };
        for (draft, (condition, at)) in drafts.iter().filter_map(|draft| Some((draft, draft.replaces?))) {
            let moment = Moment { micros: 0, seed: 0 };
            PartitionCondition::plan(self.sessions, moment, condition, &table)
                .map_err(|error| error.at(draft.text.place(*at)))?;
        }
        for (draft, resolved) in &specs {
            let all = expectations.iter().chain(&draft.distinct);
            let windows = !resolved.windows.is_empty();
            expectations::require_order(all, windows)
                .map_err(|error| error.at(draft.text.place(draft.query.span)))?;
        }
        let timed: Vec<_> = specs
            .iter()
            .map(|(draft, resolved)| {
                let all = expectations::with(&expectations, draft.distinct.as_ref());
                // Pairs of a join may be further apart than either stream is late.
                let time = resolved.time.clone().map(|time| RowTime {
                    delay: time.delay.filter(|_| resolved.windows.is_empty()),
                    ..time
                });
                expectations::timed(&all, time.as_ref())
                    .map_err(|error| error.at(draft.text.place(draft.query.span)))
            })
            .collect::<Result<_>>()?;
        let flows = specs
            .into_iter()
            .zip(timed)
            .map(|((draft, resolved), expectations)| {
                let ahead = self.project.config.config.event_time.ahead_micros();
                let serving = declared.body.serving.as_ref();
                let serving = serving.map(|serving| serving.spec(resolved.definition, ahead));
                FlowSpec {
                    name: draft.flow.clone(),
                    target: name.clone(),
                    kind: draft.kind,
                    text: Arc::clone(draft.text),
                    query: draft.query.clone(),
                    replaces: draft.replaces.map(|(condition, _)| condition.clone()),
                    inputs: resolved.inputs,
                    windows: resolved.windows,
                    late: resolved.late,
                    expectations,
                    ruleset: ruleset.clone(),
                    table: table.clone(),
                    serving: serving.clone().map(Arc::new),
                    definition: match (draft.kind, &serving) {
                        // What states were made of is more than words: views, and types of what is read.
                        (_, Some(serving)) => format!("{:?}\n{}", serving.key, resolved.plan),
                        // Computed as a whole, so what its rows are held to is part of it.
                        (FlowKind::ReplaceWhere, _) => {
                            format!(
                                "{}{rules}\n{}",
                                draft.definition,
                                declared.text.slice(declared.span.start, declared.span.end)
                            )
                        }
                        _ => format!("{}{rules}", draft.definition),
                    },
                }
            })
            .collect();
        Ok(Some(Dataset {
            name: name.clone(),
            kind: declared.body.kind,
            flows,
            reads: reads.clone(),
            table,
            inferred,
            kept,
        }))
    }
}
