//! Dashboards: panels of a page, each a query and how its rows are drawn. `dashboards/*.toml`.

use std::path::Path;
use std::sync::Arc;

use catchment_core::{Code, Error, Result};
use catchment_sql::{SqlText, parse_single_query, query_error};
use datafusion::arrow::array::RecordBatch;
use futures::TryStreamExt;
use serde::Deserialize;

use crate::access::Access;
use crate::config::invalid;
use crate::readers::Schemas;
use crate::run::Workspace;

/// Rows of one panel.
const ROWS: usize = 2_000;

/// A dashboard of a project.
#[derive(Debug, Clone)]
pub struct Dashboard {
    /// Its file's name without the ending, by which it is found.
    pub name: String,
    /// What people read.
    pub title: String,
    /// Its panels, in their order.
    pub panels: Vec<Panel>,
}

/// A panel of a dashboard.
#[derive(Debug, Clone)]
pub struct Panel {
    /// What people read.
    pub title: String,
    /// How it is drawn.
    pub chart: ChartKind,
    /// The column that tells lines apart.
    pub series: Option<String>,
    /// Whether it has the whole width.
    pub is_wide: bool,
    /// What is asked.
    pub query: Arc<SqlText>,
}

/// How rows are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChartKind {
    /// Lines over the first column.
    Line,
    /// A bar for each row.
    Bars,
    /// One number.
    Number,
    /// As they are.
    Table,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    title: Option<String>,
    #[serde(default)]
    panel: Vec<FilePanel>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FilePanel {
    title: String,
    chart: ChartKind,
    query: String,
    series: Option<String>,
    #[serde(default)]
    wide: bool,
}

/// Reads all dashboards below a folder, in the order of their names; with them what is wrong.
pub(crate) fn load(
    folder: &Path,
    parameter: &dyn Fn(&str) -> Option<String>,
) -> (Vec<Dashboard>, Vec<Error>) {
    let mut paths: Vec<_> = std::fs::read_dir(folder.join("dashboards"))
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    paths.retain(|path| path.extension().is_some_and(|ending| ending == "toml"));
    paths.sort();
    let (mut dashboards, mut errors) = (Vec::new(), Vec::new());
    for path in paths {
        match read(&path, parameter) {
            Ok(dashboard) => dashboards.push(dashboard),
            Err(error) => errors.extend(error.split()),
        }
    }
    (dashboards, errors)
}

fn read(path: &Path, parameter: &dyn Fn(&str) -> Option<String>) -> Result<Dashboard> {
    let name = path.file_stem().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let file = format!("dashboards/{name}.toml");
    let is_plain = name.chars().all(|letter| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_'));
    if !is_plain {
        return Err(Error::new(
            Code::NAME_INVALID,
            format!("the name of {file:?} may hold only letters, digits, _ and -"),
        ));
    }
    let text = std::fs::read_to_string(path)
        .map_err(|error| Error::new(Code::INPUT_OUTPUT, format!("could not read {file}")).because(error))?;
    let read: File = toml::from_str(&text).map_err(|error| invalid(&file, &text, &error))?;
    let panel = |panel: FilePanel| {
        let at = format!("{file}, panel \"{}\"", panel.title);
        let query = Arc::new(SqlText::with_parameters(at, &panel.query, parameter)?);
        if panel.series.is_some() && panel.chart != ChartKind::Line {
            let what = format!("{}: series belongs to chart = \"line\"", query.file());
            return Err(Error::new(Code::CONFIG_INVALID, what));
        }
        let FilePanel { title, chart, series, wide: is_wide, .. } = panel;
        Ok(Panel { title, chart, series, is_wide, query })
    };
    let panels = read.panel.into_iter().map(panel).collect::<Result<_>>()?;
    Ok(Dashboard { title: read.title.unwrap_or_else(|| name.clone()), name, panels })
}

impl Workspace {
    /// The rows of a panel, at most two thousand, and whether there are more.
    ///
    /// # Errors
    /// Returns errors of its query.
    pub async fn panel_rows(&self, panel: &Panel) -> Result<(Vec<RecordBatch>, bool)> {
        let mut stream = Access::new(self).query(&panel.query).await?;
        let (mut batches, mut count) = (Vec::new(), 0);
        while let Some(batch) = stream.try_next().await.map_err(query_error)? {
            let taken = batch.num_rows().min(ROWS - count);
            count += taken;
            batches.push(batch.slice(0, taken));
            if taken < batch.num_rows() {
                return Ok((batches, true));
            }
        }
        if batches.is_empty() {
            batches.push(RecordBatch::new_empty(stream.schema()));
        }
        Ok((batches, false))
    }

    /// Checks the queries of all panels.
    pub(crate) async fn check_panel(&self, panel: &Panel, schemas: &Schemas) -> Result<()> {
        let query = parse_single_query(&panel.query)?;
        let plan = self.plan_over(&panel.query, &query, schemas).await?;
        let columns: Vec<&str> = plan.schema().fields().iter().map(|field| field.name().as_str()).collect();
        let wrong =
            |what: String| Error::new(Code::CONFIG_INVALID, format!("{}: {what}", panel.query.file()));
        match &panel.series {
            Some(series) if !columns.contains(&series.as_str()) => {
                let error = wrong(format!("the query has no column \"{series}\" for series"));
                Err(error.hint(format!("columns: {}", columns.join(", "))))
            }
            _ if columns.len() < 2 && matches!(panel.chart, ChartKind::Line | ChartKind::Bars) => {
                Err(wrong("a chart of lines or bars has two columns at least".to_owned()))
            }
            _ => Ok(()),
        }
    }
}
