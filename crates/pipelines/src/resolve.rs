//! Resolves what the query of a flow reads, and plans it over empty tables.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use catchment_core::{Code, Error, FlowName, Result, TableName};
use catchment_flows::{EventTime, FlowKind, Input, InputKind, require_incremental};
use catchment_ingest::files::{FileSource, ReadFiles};
use catchment_ingest::streams::StreamSource;
use catchment_ingest::{Limits, Source, TableSource};
use catchment_lake::{TableSpec, storable_schema};
use catchment_sql::{
    Closed, DefinedInput, Definition, Moment, Planner, Relation, Target, kept_columns, with_meetings,
};
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::datasource::empty::EmptyTable;
use datafusion::logical_expr::LogicalPlan;
use datafusion::sql::sqlparser::ast::Expr as SqlExpr;

use crate::check::{Checker, Draft};
use crate::event_time::Planned;
use crate::expectations::{self, RowTime};
use crate::remembered::{remembered_schema, taken_files};
use crate::rollback::version_as_of;
use crate::serving::{require_servable, serving_of};
use crate::sources::SourceCall;
use crate::statement::{DatasetKind, normal};

/// Files and bytes of one batch of a table's stream.
const TABLE_LIMITS: Limits = Limits { files: 1_000, bytes: 8 << 30 };

/// A flow's query, planned.
pub(crate) struct Resolved {
    pub(crate) inputs: Vec<Input>,
    /// The columns of its rows.
    pub(crate) schema: SchemaRef,
    pub(crate) windows: BTreeMap<String, EventTime>,
    /// The column of its rows that has the time of a watermark, as it is.
    pub(crate) time: Option<RowTime>,
    /// The table that takes late rows, and what it is declared to be.
    pub(crate) late: Option<(TableName, TableSpec)>,
    /// What the query comes to, with the types of all columns and whatever views it reads.
    pub(crate) plan: String,
    /// What the query is made of.
    pub(crate) definition: Definition,
}

impl Checker<'_> {
    /// Resolves what a flow reads, and plans its query over empty tables.
    pub(crate) async fn flow(
        &self,
        target: &TableName,
        draft: &Draft<'_>,
        inferred: &mut Vec<(FlowName, String, SchemaRef)>,
        kept: &mut BTreeSet<(FlowName, String, String)>,
    ) -> Result<Resolved> {
        let planner = self.sessions.planner(Moment { micros: 0, seed: 0 })?;
        let mut inputs = Vec::new();
        let mut errors = Vec::new();
        let mut streams = BTreeSet::new();
        errors.extend(same_path_twice(draft));
        for relation in &draft.query.relations {
            match self.input(Some(target), draft, relation, inferred).await {
                Ok((input, schema)) => {
                    if matches!(input.kind, InputKind::Stream(..)) {
                        streams.insert(relation.key.clone());
                    }
                    planner.bind(&relation.key, Arc::new(EmptyTable::new(schema)))?;
                    inputs.push(input);
                }
                Err(error) => errors.push(error.at(draft.text.place(relation.span))),
            }
        }
        errors.extend(read_two_ways(draft, &inputs));
        errors.extend(read_as_a_whole(draft, &inputs));
        Error::join(errors)?;
        let at = |error: Error| error.at(draft.text.place(draft.query.span));
        match draft.kind {
            FlowKind::Append if streams.is_empty() => {
                return Err(at(Error::new(Code::NOT_STREAMING, "a streaming table's query reads no stream"))
                    .hint("write FROM STREAM before a source, or make it a MATERIALIZED VIEW"));
            }
            FlowKind::AppendOnce | FlowKind::Replace | FlowKind::ReplaceWhere if !streams.is_empty() => {
                return Err(at(Error::new(
                    Code::FLOW_TARGET,
                    "a query that is run as a whole reads a stream",
                ))
                .hint("take STREAM away"));
            }
            _ => {}
        }
        let dataset = self.project.datasets.get(target);
        let needs_time = draft.distinct.is_some()
            || dataset.is_some_and(|dataset| expectations::compares(&dataset.body.expectations));
        let (plan, windows) = self.plan(&planner, (target, draft), (&inputs, &streams), needs_time).await?;
        let time = row_time(&draft.query.relations, &plan);
        let schema = storable_schema(plan.schema().as_arrow()).map_err(at)?;
        for (column, (key, of_input)) in kept_columns(&plan) {
            let input = inputs.iter().find(|input| input.key == key && column == of_input);
            kept.extend(input.map(|input| (draft.flow.clone(), input.name.clone(), column)));
        }
        let late = self.late(draft, &inputs, &windows).await?;
        let mut relations = BTreeMap::new();
        if serving_of(self.project, target).is_some() {
            for input in &inputs {
                relations.insert(input.key.clone(), self.defined(draft, input).await?);
            }
        }
        let definition = Definition::of(&plan, &relations);
        let plan = Definition::text(&plan, &relations);
        Ok(Resolved { inputs, schema, windows, time, late, plan, definition })
    }

    /// What a relation of a query is.
    async fn defined(&self, draft: &Draft<'_>, input: &Input) -> Result<DefinedInput> {
        let relation = draft.query.relations.iter().find(|relation| relation.key == input.key);
        let is_table = relation.is_some_and(|relation| matches!(relation.target, Target::Table { .. }));
        let (kind, is_stream) = match &input.kind {
            InputKind::Stream(..) => ("stream".to_owned(), true),
            InputKind::Everything(_) => ("all".to_owned(), false),
            InputKind::Table(_, version) => (format!("table at {version:?}"), false),
        };
        // Records of a stream may have had what was not declared then, and rows of a table that is read as a whole what it was
        // joined with.
        let grows = is_stream && is_table && !input.name.contains(':');
        let mut columns = BTreeSet::new();
        if grows
            && let Some(name) = TableName::parse(&input.name, &self.project.config.config.project.schema)
            && let Some(snapshot) = self.lake.table(&name).latest().await?
        {
            columns.extend(snapshot.schema()?.fields().iter().map(|field| field.name().clone()));
        }
        Ok(DefinedInput { name: input.name.clone(), kind, grows, columns })
    }

    /// What the table of late rows is declared to be: the columns of the one stream whose rows are put into windows.
    async fn late(
        &self,
        draft: &Draft<'_>,
        inputs: &[Input],
        windows: &BTreeMap<String, EventTime>,
    ) -> Result<Option<(TableName, TableSpec)>> {
        let Some((table, at)) = draft.late else { return Ok(None) };
        let refuse = |what: String| Err(Error::new(Code::FLOW_TARGET, what).at(draft.text.place(*at)));
        let reserved = ["system", "information_schema"].contains(&table.schema.as_str());
        if !table.is_storable() || table.is_quarantine() || reserved {
            return refuse(format!("a table cannot have the name \"{table}\""));
        }
        if self.project.defined_at(table).is_some() {
            return refuse(format!(
                "\"{table}\" is defined in the project; late rows need a table of their own"
            ));
        }
        let takers = self.project.takers_of_late_rows(table);
        if takers > 1 {
            return refuse(format!(
                "\"{table}\" takes late rows of {takers} flows; each needs a table of its own"
            ));
        }
        let mut names = windows.keys();
        let (Some(name), None) = (names.next(), names.next()) else {
            return refuse("late rows are those of one stream that is put into windows".to_owned());
        };
        let source = inputs.iter().find_map(|input| match &input.kind {
            InputKind::Stream(source, _) if input.name == *name => Some(source.schema()),
            _ => None,
        });
        let fields = source.iter().flat_map(|schema| schema.fields().iter());
        let fields: Vec<_> = fields.filter(|field| field.name() != "_metadata").cloned().collect();
        let schema =
            storable_schema(&Schema::new(fields)).map_err(|error| error.at(draft.text.place(*at)))?;
        let comment = Some(format!("rows that came too late for the windows of flow \"{}\"", draft.flow));
        if let Some(known) = self.lake.table(table).latest().await?
            && known.comment()? != comment
        {
            return refuse(format!(
                "table \"{table}\" is there already, and takes no late rows of this flow"
            ));
        }
        Ok(Some((
            table.clone(),
            TableSpec { schema, partition_columns: Vec::new(), comment, properties: Vec::new() },
        )))
    }

    async fn plan(
        &self,
        planner: &Planner,
        (target, draft): (&TableName, &Draft<'_>),
        (inputs, streams): (&[Input], &BTreeSet<String>),
        needs_time: bool,
    ) -> Result<(LogicalPlan, BTreeMap<String, EventTime>)> {
        let mut plan = planner.plan(draft.text, &draft.query).await?;
        if serving_of(self.project, target).is_none() {
            plan = with_meetings(plan, streams, Closed::ALL)?;
        }
        let optimized = planner.check(draft.text, &draft.query, &plan)?;
        let planned = Planned {
            text: draft.text,
            query: &draft.query,
            plan: &plan,
            optimized: &optimized,
            inputs,
            streams,
            needs_time,
        };
        let windows = match serving_of(self.project, target) {
            Some(declared) => {
                require_servable(draft, declared, planner, &plan, streams)?;
                BTreeMap::new()
            }
            None => {
                require_incremental(&plan, streams, &planned.windowed())
                    .map_err(|error| error.at(draft.text.place(draft.query.span)))?;
                planned.event_times(planner, &self.project.config.config.event_time)?
            }
        };
        let mut names = BTreeSet::new();
        for field in plan.schema().fields() {
            if !names.insert(field.name()) {
                return Err(Error::new(
                    Code::DEFINED_TWICE,
                    format!("the query has two columns \"{}\"", field.name()),
                )
                .at(draft.text.place(draft.query.span))
                .hint("name one of them with AS"));
            }
        }
        Ok((plan, windows))
    }

    pub(crate) async fn input(
        &self,
        target: Option<&TableName>,
        draft: &Draft<'_>,
        relation: &Relation,
        inferred: &mut Vec<(FlowName, String, SchemaRef)>,
    ) -> Result<(Input, SchemaRef)> {
        let input = |name: String, kind| Input { key: relation.key.clone(), name, kind };
        match &relation.target {
            Target::Function { name, arguments } => {
                let call = SourceCall::parse(self.project, name, arguments, draft.text, relation.span)?;
                let limits = call.limits();
                let (label, source): (String, Arc<dyn Source>) = match call {
                    SourceCall::Stream(options) => {
                        (options.name(), Arc::new(StreamSource::new(options, Arc::clone(self.streams) as _)))
                    }
                    SourceCall::Files(options) => {
                        (options.path.clone(), self.files(target, draft, options, inferred).await?)
                    }
                };
                let schema = source.schema();
                let kind = if relation.streaming {
                    InputKind::Stream(source, limits)
                } else {
                    InputKind::Everything(source)
                };
                Ok((input(label, kind), schema))
            }
            Target::Table { parts, as_of } => {
                let Some(name) = self.project.table_name(parts) else {
                    return Err(Error::new(
                        Code::NAME_INVALID,
                        format!("name \"{}\" has more than two parts", parts.join(".")),
                    ));
                };
                let (label, kind, schema) = match (relation.streaming, as_of) {
                    (true, Some(as_of)) => {
                        return Err(Error::new(
                            Code::NOT_SUPPORTED,
                            format!("a stream of \"{name}\" has all its rows, and no {as_of}"),
                        )
                        .hint("take STREAM away to read one state of the table"));
                    }
                    (true, None) => {
                        let schema = self.table_schema(&name, true).await?;
                        let source: Arc<dyn Source> =
                            Arc::new(TableSource::new(self.lake, &name, Arc::clone(&schema)));
                        (name.to_string(), InputKind::Stream(source, TABLE_LIMITS), schema)
                    }
                    (false, Some(as_of)) => {
                        let version = version_as_of(self.lake, &name, as_of).await?;
                        let schema = self.lake.table(&name).at(version).await?.schema()?;
                        (format!("{name} {as_of}"), InputKind::Table(name, Some(version)), schema)
                    }
                    (false, None) => {
                        let schema = self.table_schema(&name, false).await?;
                        (name.to_string(), InputKind::Table(name, None), schema)
                    }
                };
                Ok((input(label, kind), schema))
            }
        }
    }

    /// Files with the columns that are remembered, or are found in them.
    async fn files(
        &self,
        target: Option<&TableName>,
        draft: &Draft<'_>,
        options: ReadFiles,
        inferred: &mut Vec<(FlowName, String, SchemaRef)>,
    ) -> Result<Arc<dyn Source>> {
        let path = options.path.clone();
        let remembered = remembered_schema(self.lake, &draft.flow, &path).await?;
        let mut source = FileSource::open(options, remembered)?;
        if source.grows() {
            source = source.grown(&taken_files(self.lake, target, &draft.flow).await?)?;
        }
        if let Some(schema) = source.inferred() {
            inferred.push((draft.flow.clone(), path, schema));
        }
        Ok(Arc::new(source))
    }

    fn checked_schema(&self, name: &TableName) -> Result<SchemaRef> {
        self.schemas.get(name).cloned().flatten().ok_or_else(|| {
            Error::new(Code::INTERNAL, format!("dataset \"{name}\" was not checked before it is read"))
        })
    }

    async fn table_schema(&self, name: &TableName, streaming: bool) -> Result<SchemaRef> {
        if self.project.late_rows_of(name).is_some() {
            return self.checked_schema(name);
        }
        if let Some(dataset) = self.project.datasets.get(name) {
            if dataset.body.kind == DatasetKind::ServingTable {
                return Err(Error::new(
                    Code::NOT_SUPPORTED,
                    format!("reading serving table \"{name}\" in a pipeline is not supported yet"),
                )
                .hint("read what it is made of"));
            }
            if streaming && dataset.body.kind == DatasetKind::MaterializedView {
                return Err(Error::new(
                    Code::NOT_APPEND_ONLY,
                    format!("\"{name}\" is a materialized view, whose rows change"),
                )
                .hint("take STREAM away, or make it a STREAMING TABLE"));
            }
            let mut flows = self.project.flows.values();
            if streaming && flows.any(|flow| flow.body.target.0 == *name && flow.body.replaces.is_some()) {
                return Err(Error::new(
                    Code::NOT_APPEND_ONLY,
                    format!("\"{name}\" has a flow with REPLACE WHERE, whose rows change"),
                )
                .hint("take STREAM away, and make it a MATERIALIZED VIEW"));
            }
            return self.checked_schema(name);
        }
        match self.lake.table(name).latest().await? {
            Some(snapshot) => snapshot.schema(),
            None => Err(self.unknown(name)),
        }
    }
}

/// What a batch reads of a source stands under its name, so that it is read as a stream or as a whole.
fn read_two_ways(draft: &Draft<'_>, inputs: &[Input]) -> Option<Error> {
    let is_stream = |input: &&Input| matches!(input.kind, InputKind::Stream(..));
    let whole = inputs.iter().find(|input| {
        matches!(input.kind, InputKind::Everything(_))
            && inputs.iter().filter(is_stream).any(|stream| stream.name == input.name)
    })?;
    let relation = draft.query.relations.iter().find(|relation| relation.key == whole.key)?;
    let what =
        format!("reading \"{}\" as a stream and as a whole in one query is not supported yet", whole.name);
    Some(
        Error::new(Code::NOT_SUPPORTED, what)
            .at(draft.text.place(relation.span))
            .hint("write STREAM before both, or make one of them a dataset of its own"),
    )
}

/// In `SELECT STREAM` all streams are meant as streams: one that is read as a whole would be there as it was when the rows of
/// the others came.
fn read_as_a_whole(draft: &Draft<'_>, inputs: &[Input]) -> Option<Error> {
    let whole = inputs.iter().filter(|input| matches!(input.kind, InputKind::Everything(_)));
    let mut relations =
        whole.filter_map(|input| draft.query.relations.iter().find(|relation| relation.key == input.key));
    let relation = relations.find(|relation| match &relation.target {
        Target::Function { name, .. } => draft.query.selects_stream && name != "read_files",
        Target::Table { .. } => false,
    })?;
    let what = "SELECT STREAM reads its first relation as a stream, and this one is read as a whole, without what comes later";
    Some(
        Error::new(Code::SQL_SYNTAX, what)
            .at(draft.text.place(relation.span))
            .hint("write STREAM before each stream: FROM STREAM a JOIN STREAM b ON ..."),
    )
}

/// The column of a plan that has the time of a stream's watermark as it is, and how late rows of a stream may come.
fn row_time(relations: &[Relation], plan: &LogicalPlan) -> Option<RowTime> {
    let times = relations.iter().filter_map(|relation| {
        let watermark = relation.watermark.as_ref()?;
        let column = match &watermark.time {
            SqlExpr::Identifier(ident) => normal(ident),
            SqlExpr::CompoundIdentifier(parts) => normal(parts.last()?),
            _ => return None,
        };
        // Files and tables have all that they had before; of a stream nobody wants to remember everything.
        let is_stream = matches!(&relation.target, Target::Function { name, .. } if name != "read_files");
        Some(((relation.key.clone(), column), (is_stream && relation.streaming).then_some(watermark.delay)))
    });
    let times: BTreeMap<(String, String), Option<i64>> = times.collect();
    kept_columns(plan)
        .into_iter()
        .find_map(|(column, origin)| times.get(&origin).map(|delay| RowTime { column, delay: *delay }))
}

/// A flow knows its sources by their paths, so one that is read twice must be read alike.
fn same_path_twice(draft: &Draft<'_>) -> Option<Error> {
    let mut known: BTreeMap<&str, Vec<(Option<&str>, &str)>> = BTreeMap::new();
    for relation in draft.query.relations.iter().filter(|relation| relation.streaming) {
        let Target::Function { arguments, .. } = &relation.target else { continue };
        let Some(path) = arguments.iter().find(|argument| argument.name.is_none()) else { continue };
        let options: Vec<_> =
            arguments.iter().map(|argument| (argument.name.as_deref(), argument.value.as_str())).collect();
        if known.insert(&path.value, options.clone()).is_some_and(|before| before != options) {
            let error = Error::new(
                Code::NOT_SUPPORTED,
                format!(
                    "reading {:?} twice with different options is not supported in one query",
                    path.value
                ),
            )
            .hint("make it two flows: CREATE FLOW ... AS INSERT INTO ...");
            return Some(error.at(draft.text.place(relation.span)));
        }
    }
    None
}
