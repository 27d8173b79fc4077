//! The event time of what a query puts into windows: by which column, how late, and what is said of it.

use std::collections::{BTreeMap, BTreeSet};

use catchment_core::{Code, Error, Result};
use catchment_flows::{EventTime, Input, InputKind};
use catchment_sql::{
    BoundQuery, Planner, Relation, SqlText, WINDOW_END, WINDOW_START, WindowShape, WindowedScan,
    columns_read, meeting_scans, query_error, reads, require_columns, session_rows, windowed_scans,
};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::Column;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, Volatility};

use crate::config::EventTimeConfig;

/// What is known of a query when its windows are looked for.
pub(crate) struct Planned<'a> {
    pub(crate) text: &'a SqlText,
    pub(crate) query: &'a BoundQuery,
    /// As written.
    pub(crate) plan: &'a LogicalPlan,
    /// As it runs.
    pub(crate) optimized: &'a LogicalPlan,
    pub(crate) inputs: &'a [Input],
    /// The keys of its streams.
    pub(crate) streams: &'a BTreeSet<String>,
    /// Whether something else than windows asks for the time of watermarks.
    pub(crate) needs_time: bool,
}

impl Planned<'_> {
    /// The streams whose rows are put into windows, by their keys.
    fn scans(&self) -> BTreeMap<String, Vec<WindowedScan>> {
        let mut scans = windowed_scans(self.plan);
        for (key, meetings) in meeting_scans(self.plan, self.streams) {
            let known = scans.entry(key).or_default();
            for meeting in meetings {
                // Rows that wait in two ways wait for the longer one.
                match known.iter_mut().find(|known| {
                    known.time == meeting.time && one_shape(known.shape, meeting.shape).is_some()
                }) {
                    Some(known) => known.shape = one_shape(known.shape, meeting.shape).unwrap_or(known.shape),
                    None => known.push(meeting),
                }
            }
        }
        scans.retain(|key, _| self.streams.contains(key));
        scans
    }

    /// The keys of the streams whose rows are put into windows.
    pub(crate) fn windowed(&self) -> BTreeSet<String> {
        self.scans().into_keys().collect()
    }

    /// The event time of each input whose rows are put into windows, by the input's name.
    ///
    /// # Errors
    /// Returns [`Code::NOT_SUPPORTED`] for what would need several times or windows at once, and
    /// [`Code::SQL_SYNTAX`] for a watermark of another time than the window's, or one that does nothing.
    pub(crate) fn event_times(
        &self,
        planner: &Planner,
        config: &EventTimeConfig,
    ) -> Result<BTreeMap<String, EventTime>> {
        let scans = self.scans();
        self.require_one_way(&scans)?;
        let mut found: BTreeMap<String, EventTime> = BTreeMap::new();
        for relation in &self.query.relations {
            let at = |error: Error| error.at(self.text.place(relation.span));
            let Some(input) = self.inputs.iter().find(|input| input.key == relation.key) else { continue };
            if let (InputKind::Stream(source, _), Some(watermark)) = (&input.kind, &relation.watermark) {
                match watermark.of_view {
                    true => require_columns(&watermark.time, &self.columns_above(&relation.key))
                        .map_err(|error| error.at(self.text.place(watermark.span)))?,
                    false => _ = planner.logical_expression(&watermark.time, &source.schema()).map_err(at)?,
                }
            }
            let (InputKind::Stream(source, _), Some(scans)) = (&input.kind, scans.get(&relation.key)) else {
                if !self.needs_time {
                    require_no_watermark(relation).map_err(at)?;
                }
                continue;
            };
            let [scan] = scans.as_slice() else {
                return Err(at(Error::new(
                    Code::NOT_SUPPORTED,
                    format!("putting \"{}\" into windows of several kinds is not supported yet", input.name),
                )
                .hint("make it several flows: CREATE FLOW ... AS INSERT INTO ...")));
            };
            if !is_fixed(&scan.time) {
                return Err(at(Error::new(
                    Code::NOT_SUPPORTED,
                    format!(
                        "windows over {}, which is not fixed by the row alone, are not supported",
                        scan.time
                    ),
                )
                .hint("use a column of the stream, such as _metadata.arrived_at")));
            }
            self.require_time(planner, relation, scan, &source.schema())?;
            if matches!(scan.shape, WindowShape::Stagger { .. })
                && (found.contains_key(&input.name) || self.reads_of_others(&relation.key) > 1)
            {
                // Rows that wait for one set of keys would begin windows of the other in their middle.
                return Err(at(Error::new(
                    Code::NOT_SUPPORTED,
                    format!("putting \"{}\" into staggered windows twice is not supported yet", input.name),
                )
                .hint("make it several flows: CREATE FLOW ... AS INSERT INTO ...")));
            }
            let event_time = self.event_time(planner, (relation, scan), &source.schema(), config)?;
            match found.get_mut(&input.name) {
                None => {
                    found.insert(input.name.clone(), event_time);
                }
                Some(known)
                    if known.time == event_time.time
                        && one_shape(known.shape, event_time.shape).is_some() =>
                {
                    known.shape = one_shape(known.shape, event_time.shape).unwrap_or(known.shape);
                    let more: Vec<String> = event_time
                        .columns
                        .into_iter()
                        .filter(|column| !known.columns.contains(column))
                        .collect();
                    known.columns.extend(more);
                    known.delay = known.delay.max(event_time.delay);
                }
                Some(_) => {
                    return Err(at(Error::new(
                        Code::NOT_SUPPORTED,
                        format!("reading \"{}\" twice in different windows is not supported yet", input.name),
                    )
                    .hint("make it several flows: CREATE FLOW ... AS INSERT INTO ...")));
                }
            }
        }
        Ok(found)
    }

    /// Refuses a source that is put into windows and read besides: its other rows would be those of the windows.
    fn require_one_way(&self, scans: &BTreeMap<String, Vec<WindowedScan>>) -> Result<()> {
        let windowed: BTreeSet<&str> = self
            .inputs
            .iter()
            .filter(|input| scans.contains_key(&input.key))
            .map(|input| input.name.as_str())
            .collect();
        for input in self.inputs.iter().filter(|input| !scans.contains_key(&input.key)) {
            let relation = self.query.relations.iter().find(|relation| relation.key == input.key);
            if let Some(relation) = relation.filter(|_| windowed.contains(input.name.as_str())) {
                return Err(Error::new(
                    Code::NOT_SUPPORTED,
                    format!(
                        "reading \"{}\" in windows and without in one query is not supported yet",
                        input.name
                    ),
                )
                .at(self.text.place(relation.span))
                .hint("make it two flows: CREATE FLOW ... AS INSERT INTO ..."));
            }
        }
        Ok(())
    }

    /// The columns of what reads a relation, views among it.
    fn columns_above(&self, key: &str) -> BTreeSet<String> {
        let mut columns = BTreeSet::new();
        // The walk cannot fail.
        let _ = self.plan.apply_with_subqueries(|node| {
            if reads(node, key) {
                columns.extend(node.schema().fields().iter().map(|field| field.name().clone()));
            }
            Ok(TreeNodeRecursion::Continue)
        });
        columns
    }

    /// How many times the rows of a relation are put into windows that depend on other rows.
    fn reads_of_others(&self, key: &str) -> usize {
        session_rows(self.plan).iter().filter(|part| reads(part, key)).count()
    }

    fn event_time(
        &self,
        planner: &Planner,
        (relation, scan): (&Relation, &WindowedScan),
        schema: &SchemaRef,
        config: &EventTimeConfig,
    ) -> Result<EventTime> {
        let read = columns_read(self.optimized, &relation.key);
        let of_time: BTreeSet<String> =
            scan.time.column_refs().into_iter().map(|column| column.name.clone()).collect();
        let is_kept = |index: usize, name: &String| {
            read.as_ref().is_none_or(|read| read.contains(&index)) || of_time.contains(name)
        };
        let fields = schema.fields().iter().enumerate();
        let columns = fields.filter(|(index, field)| is_kept(*index, field.name()));
        let declared = relation.watermark.as_ref();
        Ok(EventTime {
            time: scan.time.clone(),
            shape: scan.shape,
            delay: declared.map_or(config.delay_micros(), |watermark| watermark.delay),
            idle: Some(declared.and_then(|watermark| watermark.idle).unwrap_or(config.idle_micros())),
            ahead: config.ahead_micros(),
            columns: columns.map(|(_, field)| field.name().clone()).collect(),
            sessions: scan.shape.is_of_others().then(|| self.session_text(planner)).transpose()?,
            defaulted: declared.is_none(),
        })
    }

    /// What decides which rows make sessions or staggered windows, and nothing of what else the query makes of them.
    fn session_text(&self, planner: &Planner) -> Result<String> {
        let bounds = |rows: LogicalPlan| {
            let bounds = (rows.schema().iter())
                .filter(|(_, field)| [WINDOW_START, WINDOW_END].contains(&field.name().as_str()))
                .map(|bound| Expr::Column(Column::from(bound)))
                .collect::<Vec<_>>();
            LogicalPlanBuilder::from(rows).project(bounds)?.build()
        };
        let text = |rows: LogicalPlan| {
            let bounds = bounds(rows).map_err(query_error)?;
            planner.check(self.text, self.query, &bounds).map(|plan| told(&plan))
        };
        let texts: Vec<String> = session_rows(self.plan).into_iter().map(text).collect::<Result<_>>()?;
        Ok(texts.join("\n"))
    }

    /// Makes sure that a watermark is of the time that decides about windows.
    fn require_time(
        &self,
        planner: &Planner,
        relation: &Relation,
        scan: &WindowedScan,
        schema: &SchemaRef,
    ) -> Result<()> {
        let Some(watermark) = &relation.watermark else { return Ok(()) };
        // The watermark of a view is written over the view's columns, which may not be those of the stream.
        let Ok(time) = planner.logical_expression(&watermark.time, schema) else { return Ok(()) };
        if time == scan.time {
            return Ok(());
        }
        Err(Error::new(
            Code::SQL_SYNTAX,
            format!("the watermark is of {time}, and the windows are of {}", scan.time),
        )
        .at(self.text.place(watermark.span))
        .hint("take the same column for both"))
    }
}

/// A plan in words, whatever the order of the columns that it passes on.
fn told(plan: &LogicalPlan) -> String {
    let sorted = |exprs: &[Expr]| {
        let mut texts: Vec<String> = exprs.iter().map(ToString::to_string).collect();
        texts.sort();
        texts.join(", ")
    };
    let node = match plan {
        LogicalPlan::TableScan(scan) => format!("{} where {}", scan.table_name, sorted(&scan.filters)),
        LogicalPlan::Projection(node) => sorted(&node.expr),
        other => other.display().to_string(),
    };
    let inputs: Vec<String> = plan.inputs().into_iter().map(told).collect();
    format!("{node} ({})", inputs.join("; "))
}

/// The shape of rows that are read in two ways, when they can wait for both.
fn one_shape(first: WindowShape, second: WindowShape) -> Option<WindowShape> {
    match (first, second) {
        (WindowShape::Meeting { after: a }, WindowShape::Meeting { after: b }) => {
            Some(WindowShape::Meeting { after: a.max(b) })
        }
        _ => (first == second).then_some(first),
    }
}

/// Whether an expression gives the same for a row whenever it is computed.
fn is_fixed(time: &Expr) -> bool {
    let changes = |expr: &Expr| matches!(expr, Expr::ScalarFunction(call) if call.func.signature().volatility != Volatility::Immutable);
    !time.column_refs().is_empty() && !time.exists(|expr| Ok(changes(expr))).unwrap_or(true)
}

/// A watermark that nothing waits for does nothing.
fn require_no_watermark(relation: &Relation) -> Result<()> {
    if relation.watermark.as_ref().is_none_or(|watermark| watermark.declared) {
        return Ok(());
    }
    let name = relation.target.display();
    let error = match relation.streaming {
        true => Error::new(
            Code::NOT_SUPPORTED,
            format!("a watermark on \"{name}\" without windows is not supported yet"),
        )
        .hint("take WATERMARK away, or put the rows of the stream into windows"),
        false => Error::new(Code::SQL_SYNTAX, format!("\"{name}\" is read as a whole, and has no watermark"))
            .hint("write STREAM before it, or take WATERMARK away"),
    };
    Err(error)
}
