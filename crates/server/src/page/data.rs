//! What a page shows.

/// Alerts that a page shows; one more says that there are more.
pub const ALERTS_SHOWN: usize = 50;

/// A page.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    /// The project's name.
    pub project: String,
    /// The names and titles of all dashboards.
    pub dashboards: Vec<(String, String)>,
    /// The name of the one that is shown, when there is any.
    pub dashboard: Option<String>,
    /// What it shows.
    pub panels: Vec<Panel>,
    /// Alerts that are open, newest first, or why that cannot be told.
    pub alerts: Result<Vec<AlertRow>, String>,
    /// Datasets, in the order of the graph.
    pub datasets: Vec<DatasetRow>,
}

/// A part of a dashboard.
#[derive(Debug, Clone, PartialEq)]
pub struct Panel {
    /// Its title.
    pub title: String,
    /// Whether it has the whole width.
    pub is_wide: bool,
    /// What it shows, or why that cannot be told.
    pub content: Result<PanelContent, String>,
}

/// Rows, and how they are drawn.
#[derive(Debug, Clone, PartialEq)]
pub struct PanelContent {
    /// How they are drawn.
    pub chart: Chart,
    /// The names of their columns.
    pub columns: Vec<String>,
    /// The rows.
    pub rows: Vec<Vec<Cell>>,
    /// Whether there are more rows than are shown.
    pub is_cut: bool,
}

/// How rows are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chart {
    /// The first column across, a line for each other column; with `series`, a line for each value of that column.
    Line {
        /// The column that tells lines apart, by its place.
        series: Option<usize>,
    },
    /// A bar for each row: the first column its name, the second its length.
    Bars,
    /// The first value of the first row, large.
    Number,
    /// As they are.
    Table,
}

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    /// None.
    Null,
    /// A number, and how it is written with all of its digits.
    Number(f64, String),
    /// Microseconds since the Unix epoch.
    Time(i64),
    /// Anything else.
    Text(String),
}

/// An alert that is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AlertRow {
    /// Its name.
    pub alert: String,
    /// How bad it is.
    pub severity: String,
    /// Its row, in words.
    pub row: String,
    /// When it was raised, in microseconds since the Unix epoch.
    pub raised_at: i64,
}

/// A dataset and how it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatasetRow {
    /// Its name.
    pub name: String,
    /// Which kind.
    pub kind: String,
    /// Rows published since the service began; `None` for those that are not counted.
    pub rows: Option<u64>,
    /// Records of streams that it has not published.
    pub waiting: Option<u64>,
    /// Failed runs since the service began.
    pub failures: u64,
}
