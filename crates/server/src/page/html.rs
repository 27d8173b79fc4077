//! The page as HTML.

use maud::{DOCTYPE, Markup, html};

use crate::page::chart;
use crate::page::data::{ALERTS_SHOWN, AlertRow, Cell, DatasetRow, Page, Panel};
use crate::page::scale::number_text;

/// The whole page.
pub(crate) fn page(page: &Page) -> Markup {
    let name = if page.project.is_empty() { "Catchment" } else { &page.project };
    let live = match &page.dashboard {
        Some(name) => format!("/live/{name}"),
        None => "/live".to_owned(),
    };
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (name) }
                link rel="stylesheet" href="/assets/page.css";
                link rel="icon" href="/assets/icon.svg";
                noscript { meta http-equiv="refresh" content="5"; }
                script src="/assets/page.js" defer {}
            }
            body data-live=(live) {
                header {
                    h1 { (name) }
                    nav {
                        @for (index, (name, title)) in page.dashboards.iter().enumerate() {
                            a href=(if index == 0 { "/".to_owned() } else { format!("/dashboards/{name}") })
                                aria-current=[(page.dashboard.as_ref() == Some(name)).then_some("page")] { (title) }
                        }
                    }
                    p #state role="status" { "reloads every 5 seconds" }
                }
                main {
                    @for (id, part) in parts(page) { (part.around(&id)) }
                }
            }
        }
    }
}

/// A part of the page that changes by itself.
pub(crate) struct Part {
    title: String,
    class: &'static str,
    pub(crate) inner: Markup,
}

impl Part {
    fn around(&self, id: &str) -> Markup {
        html! {
            section class=(self.class) aria-labelledby=(format!("{id}-title")) {
                h2 id=(format!("{id}-title")) { (self.title) }
                div id=(id) { (self.inner) }
            }
        }
    }
}

/// The parts of a page by their ids, in the order in which they stand there.
pub(crate) fn parts(page: &Page) -> Vec<(String, Part)> {
    let mut parts = Vec::new();
    for (index, panel) in page.panels.iter().enumerate() {
        let class = if panel.is_wide { "panel wide" } else { "panel" };
        parts.push((
            format!("panel-{index}"),
            Part { title: panel.title.clone(), class, inner: inner(panel) },
        ));
    }
    let title = "Alerts".to_owned();
    parts.push(("alerts".to_owned(), Part { title, class: "panel wide", inner: alerts(&page.alerts) }));
    let title = "Datasets".to_owned();
    parts.push(("datasets".to_owned(), Part { title, class: "panel wide", inner: datasets(&page.datasets) }));
    parts
}

fn inner(panel: &Panel) -> Markup {
    match &panel.content {
        Ok(content) => chart::draw(content, panel.is_wide),
        Err(why) => html! { p.error { (why) } },
    }
}

fn alerts(alerts: &Result<Vec<AlertRow>, String>) -> Markup {
    match alerts {
        Err(why) => html! { p.error { (why) } },
        Ok(alerts) if alerts.is_empty() => html! { p.none { "none is open" } },
        Ok(alerts) => html! {
            div.scroll {
                table {
                    thead { tr { th { "alert" } th { "severity" } th { "row" } th { "since (UTC)" } } }
                    tbody {
                        @for alert in alerts.iter().take(ALERTS_SHOWN) {
                            tr.alert {
                                td { (alert.alert) }
                                td { span.severity.quiet[alert.severity == "info"] { (alert.severity) } }
                                td { (alert.row) }
                                td { (chart::text(&Cell::Time(alert.raised_at))) }
                            }
                        }
                    }
                }
                @if alerts.len() > ALERTS_SHOWN { p.none { "the newest " (ALERTS_SHOWN) "; all are in system.alerts" } }
            }
        },
    }
}

fn datasets(datasets: &[DatasetRow]) -> Markup {
    let count = |count: Option<u64>| count.map_or_else(|| "–".to_owned(), |count| number_text(count as f64));
    html! {
        div.scroll {
            table {
                thead { tr { th { "dataset" } th { "kind" } th.n { "rows since start" } th.n { "records waiting" } th.n { "failed runs" } } }
                tbody {
                    @for dataset in datasets {
                        tr {
                            td { (dataset.name) }
                            td { (dataset.kind) }
                            td.n { (count(dataset.rows)) }
                            td.n { (count(dataset.waiting)) }
                            td.n class=[(dataset.failures > 0).then_some("n error")] { (number_text(dataset.failures as f64)) }
                        }
                    }
                }
            }
        }
    }
}
