//! What the page of `catchment serve` shows.

use std::sync::Arc;

use catchment_core::{Code, Error, Result};
use catchment_pipelines::{ChartKind, Dataset, Panel as Declared, Readers, Workspace};
use catchment_server::{
    ALERTS_SHOWN, AlertRow, Cell, Chart, DatasetRow, MakePage, Page, Panel, PanelContent,
};
use datafusion::arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Float64Type, TimeUnit, TimestampMicrosecondType};
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};

use crate::commands::metrics::Totals;

/// Panels of a page that are asked at a time.
const AT_A_TIME: usize = 4;

/// What pages are made of.
pub(crate) struct Pages {
    pub(crate) workspace: Arc<Workspace>,
    pub(crate) datasets: Arc<Vec<Dataset>>,
    pub(crate) totals: Arc<Totals>,
    /// Panels are asked on threads of their own.
    pub(crate) readers: Arc<Readers>,
}

impl Pages {
    /// Makes pages, by the dashboard's name.
    pub(crate) fn maker(self) -> MakePage {
        let pages = Arc::new(self);
        Arc::new(move |name| {
            let pages = Arc::clone(&pages);
            Box::pin(async move { pages.page(name).await })
        })
    }

    async fn page(&self, name: Option<String>) -> Option<Page> {
        let all = &self.workspace.project.dashboards;
        let at = match &name {
            None => 0,
            Some(name) => all.iter().position(|dashboard| dashboard.name == *name)?,
        };
        let dashboard = all.get(at);
        let declared =
            dashboard.map_or_else(Vec::new, |dashboard| dashboard.panels.iter().enumerate().collect());
        let mut asked: Vec<BoxFuture<'_, (usize, Panel)>> = Vec::with_capacity(declared.len());
        for (index, declared) in declared {
            asked.push(self.panel((at, index), declared).map(move |panel| (index, panel)).boxed());
        }
        // Those that take long hold the others up no longer than they must.
        let mut panels: Vec<_> = futures::stream::iter(asked).buffer_unordered(AT_A_TIME).collect().await;
        panels.sort_by_key(|(index, _)| *index);
        let panels = panels.into_iter().map(|(_, panel)| panel).collect();
        Some(Page {
            project: self.workspace.project.config.config.project.name.clone(),
            dashboards: all
                .iter()
                .map(|dashboard| (dashboard.name.clone(), dashboard.title.clone()))
                .collect(),
            dashboard: dashboard.map(|dashboard| dashboard.name.clone()),
            panels,
            alerts: alerts(&self.workspace).map_err(|error| told(&error)),
            datasets: rows(&self.workspace, &self.datasets, &self.totals).await,
        })
    }
}

impl Pages {
    /// What a panel of a dashboard shows now, by the places of both.
    async fn panel(&self, (at, index): (usize, usize), declared: &Declared) -> Panel {
        let workspace = Arc::clone(&self.workspace);
        let asking = Box::pin(async move {
            let dashboard = workspace.project.dashboards.get(at);
            match dashboard.and_then(|dashboard| dashboard.panels.get(index)) {
                Some(declared) => content(&workspace, declared).await,
                None => Err(Error::new(Code::INTERNAL, "a panel is gone")),
            }
        });
        let content = self.readers.ask(&format!("{at}/{index}"), asking).await;
        Panel {
            title: declared.title.clone(),
            is_wide: declared.is_wide,
            content: content.map_err(|error| told(&error)),
        }
    }
}

/// What went wrong, in words for a page: what the query is about is known to whoever looks.
fn told(error: &Error) -> String {
    error.one_line()
}

async fn content(workspace: &Workspace, declared: &Declared) -> Result<PanelContent> {
    let (batches, is_cut) = workspace.panel_rows(declared).await?;
    let columns: Vec<String> =
        batches[0].schema().fields().iter().map(|field| field.name().clone()).collect();
    let chart = match declared.chart {
        ChartKind::Line => Chart::Line {
            series: declared
                .series
                .as_ref()
                .and_then(|series| columns.iter().position(|name| name == series)),
        },
        ChartKind::Bars => Chart::Bars,
        ChartKind::Number => Chart::Number,
        ChartKind::Table => Chart::Table,
    };
    let rows = batches.iter().flat_map(cells).collect();
    Ok(PanelContent { chart, columns, rows, is_cut })
}

fn cells(batch: &RecordBatch) -> Vec<Vec<Cell>> {
    let columns: Vec<Vec<Cell>> = batch.columns().iter().map(column).collect();
    (0..batch.num_rows()).map(|row| columns.iter().map(|column| column[row].clone()).collect()).collect()
}

fn column(values: &ArrayRef) -> Vec<Cell> {
    let kind = values.data_type();
    let options = FormatOptions::default();
    let Ok(texts) = ArrayFormatter::try_new(values.as_ref(), &options) else {
        return vec![Cell::Null; values.len()];
    };
    let numbers = kind.is_numeric().then(|| cast(values, &DataType::Float64).ok()).flatten();
    let is_time = matches!(kind, DataType::Timestamp(..) | DataType::Date32);
    let times =
        is_time.then(|| cast(values, &DataType::Timestamp(TimeUnit::Microsecond, None)).ok()).flatten();
    let cell = |row: usize| {
        if values.is_null(row) {
            return Cell::Null;
        }
        let text = texts.value(row).to_string();
        match (&numbers, &times) {
            (Some(numbers), _) => Cell::Number(numbers.as_primitive::<Float64Type>().value(row), text),
            (_, Some(times)) => Cell::Time(times.as_primitive::<TimestampMicrosecondType>().value(row)),
            _ => Cell::Text(text),
        }
    };
    (0..values.len()).map(cell).collect()
}

fn alerts(workspace: &Workspace) -> Result<Vec<AlertRow>> {
    let open = workspace.store.open_alerts(ALERTS_SHOWN + 1)?;
    Ok(open
        .into_iter()
        .map(|alert| AlertRow {
            row: catchment_pipelines::alert_text(&alert),
            alert: alert.alert,
            severity: alert.severity,
            raised_at: alert.raised_at,
        })
        .collect())
}

async fn rows(workspace: &Workspace, datasets: &[Dataset], totals: &Totals) -> Vec<DatasetRow> {
    let lags = workspace.lags(datasets).await.unwrap_or_default();
    let waiting = |dataset: &Dataset| {
        let mut lags =
            lags.iter().filter(|lag| dataset.flows.iter().any(|flow| flow.name == lag.flow)).peekable();
        lags.peek().is_some().then(|| lags.map(|lag| lag.records).sum())
    };
    let row = |dataset: &Dataset| {
        let (rows, failures) = totals.counts(&dataset.name.to_string()).unzip();
        DatasetRow {
            name: dataset.name.to_string(),
            kind: kind(dataset).to_owned(),
            rows,
            waiting: waiting(dataset),
            failures: failures.unwrap_or(0),
        }
    };
    datasets.iter().map(row).collect()
}

fn kind(dataset: &Dataset) -> &'static str {
    use catchment_pipelines::DatasetKind;
    match dataset.kind {
        DatasetKind::StreamingTable => "streaming table",
        DatasetKind::MaterializedView => "materialized view",
        DatasetKind::ServingTable => "serving table",
    }
}
