//! Checks views: their queries, and that none reads itself.

use std::sync::Arc;

use catchment_core::{Code, Error, FlowName, Result, TableName};
use catchment_flows::FlowKind;
use catchment_sql::{Moment, Target};
use datafusion::datasource::empty::EmptyTable;

use crate::check::{Checker, Draft};

impl Checker<'_> {
    /// Plans every view on its own: one that no dataset reads is wrong all the same.
    pub(crate) async fn views(&mut self) {
        let project = self.project;
        for (name, view) in &project.views {
            let Some(query) = self.bind(&view.text, &view.body.query) else { continue };
            let draft = Draft {
                flow: FlowName::new(name.to_string()),
                kind: FlowKind::Replace,
                text: &view.text,
                query,
                replaces: None,
                definition: String::new(),
                distinct: None,
                late: None,
            };
            if let Err(error) = self.view(&draft, view.body.temporary).await {
                self.errors.extend(error.split());
            }
        }
        for (name, stream) in &project.streams {
            let Some(query) = self.bind(&stream.text, &stream.body.streaming) else { continue };
            let draft = Draft {
                flow: FlowName::new(name.to_string()),
                kind: FlowKind::Append,
                text: &stream.text,
                query,
                replaces: None,
                definition: String::new(),
                distinct: None,
                late: None,
            };
            if let Err(error) = self.view(&draft, true).await {
                // Its query is not in the text: what is wrong is with the declaration.
                let at = stream.text.place(stream.body.name.1);
                self.errors
                    .extend(error.split().into_iter().map(|error| error.without_place().at(at.clone())));
            }
        }
    }

    async fn view(&self, draft: &Draft<'_>, temporary: bool) -> Result<()> {
        let planner = self.sessions.planner(Moment { micros: 0, seed: 0 })?;
        for relation in &draft.query.relations {
            let at = |error: Error| error.at(draft.text.place(relation.span));
            if relation.streaming && !temporary {
                return Err(at(Error::new(
                    Code::FLOW_TARGET,
                    "a view that others query cannot read a stream",
                )
                .hint("take STREAM away, or make it a TEMPORARY VIEW")));
            }
            let (_, schema) = self.input(None, draft, relation, &mut Vec::new()).await.map_err(at)?;
            if let Some(watermark) = relation.watermark.as_ref().filter(|watermark| !watermark.of_view) {
                planner.logical_expression(&watermark.time, &schema).map_err(at)?;
            }
            planner.bind(&relation.key, Arc::new(EmptyTable::new(schema)))?;
        }
        let plan = planner.plan(draft.text, &draft.query).await?;
        planner.check(draft.text, &draft.query, &plan).map(|_| ())
    }

    /// Finds views that read each other in a circle.
    pub(crate) fn view_cycles(&mut self) {
        let project = self.project;
        for view in project.views.values() {
            let cycle = self.view_cycle(&view.body.name.0, &mut Vec::new());
            if let Some(path) = cycle {
                self.errors.push(
                    Error::new(
                        Code::GRAPH_CYCLE,
                        format!("views read each other in a circle: {}", path.join(" -> ")),
                    )
                    .at(view.text.place(view.body.name.1)),
                );
            }
        }
    }

    fn view_cycle(&self, name: &TableName, path: &mut Vec<String>) -> Option<Vec<String>> {
        let text = name.to_string();
        if path.contains(&text) {
            path.push(text);
            return Some(path.clone());
        }
        let view = self.project.views.get(name)?;
        path.push(text);
        let bound = view.body.query.bind(&view.text, &|_| None).ok()?;
        for relation in &bound.relations {
            if let Target::Table { parts, .. } = &relation.target
                && let Some(next) = self.project.table_name(parts)
                && let Some(cycle) = self.view_cycle(&next, path)
            {
                return Some(cycle);
            }
        }
        path.pop();
        None
    }
}
