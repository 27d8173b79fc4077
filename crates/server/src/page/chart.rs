//! Charts as SVG and HTML.

use std::collections::BTreeMap;

use maud::{Markup, PreEscaped, html};

use crate::page::data::{Cell, Chart, PanelContent};
use crate::page::scale::{grouped, number_text, number_ticks, short_time, time_ticks};

/// The size of a line chart, in units of its own, which are about pixels: letters keep their size.
const WIDTH: f64 = 420.0;
const WIDE: f64 = 1320.0;
const HEIGHT: f64 = 220.0;

/// What axes need around the lines.
const LEFT: f64 = 56.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 24.0;

/// Lines of one chart; more could not be told apart.
const LINES: usize = 8;

/// Rows that are shown as they are.
const ROWS: usize = 50;

/// Bars of one chart.
const BARS: usize = 20;

/// A panel's rows as they are declared to be drawn.
pub(crate) fn draw(content: &PanelContent, is_wide: bool) -> Markup {
    if content.rows.is_empty() {
        return html! { p.none { "no rows yet" } };
    }
    match content.chart {
        Chart::Line { series } => lines(content, series, if is_wide { WIDE } else { WIDTH }),
        Chart::Bars => bars(content),
        Chart::Number => number(content),
        Chart::Table => table(content),
    }
}

/// A value in words.
pub(crate) fn text(cell: &Cell) -> String {
    match cell {
        Cell::Null => "–".to_owned(),
        Cell::Number(_, text) => text.clone(),
        Cell::Time(micros) => {
            let text = catchment_core::timestamp_text(*micros);
            text.get(..19).unwrap_or(&text).replace('T', " ")
        }
        Cell::Text(text) => text.clone(),
    }
}

/// A value in words, with thousands apart.
fn grouped_text(cell: &Cell) -> String {
    match cell {
        Cell::Number(_, text) => grouped(text),
        other => text(other),
    }
}

fn number(content: &PanelContent) -> Markup {
    let value = content.rows.first().and_then(|row| row.first()).map(grouped_text).unwrap_or_default();
    html! { p.number { (value) } }
}

/// Rows as they are.
pub(crate) fn table(content: &PanelContent) -> Markup {
    let is_number = |index: usize| {
        content.rows.iter().all(|row| matches!(row.get(index), Some(Cell::Number(..) | Cell::Null)))
    };
    let numbers: Vec<bool> = (0..content.columns.len()).map(is_number).collect();
    let class = |index: usize| numbers.get(index).copied().unwrap_or(false).then_some("n");
    let more = content.is_cut || content.rows.len() > ROWS;
    html! {
        div.scroll {
            table {
                thead { tr { @for (index, column) in content.columns.iter().enumerate() { th class=[class(index)] { (column) } } } }
                tbody {
                    @for row in content.rows.iter().take(ROWS) {
                        tr { @for (index, cell) in row.iter().enumerate() { td class=[class(index)] { (text(cell)) } } }
                    }
                }
            }
            @if more { p.none { "the first " (ROWS.min(content.rows.len())) " rows" } }
        }
    }
}

fn bars(content: &PanelContent) -> Markup {
    let length = |row: &Vec<Cell>| match row.get(1) {
        Some(Cell::Number(value, _)) if value.is_finite() => *value,
        _ => 0.0,
    };
    let lengths = || content.rows.iter().take(BARS).map(length);
    // Bars of negative numbers go to the left of where the others begin.
    let (least, most) = (lengths().fold(0.0, f64::min), lengths().fold(0.0, f64::max));
    let half = most / 2.0 - least / 2.0;
    let per_cent = |part: f64| if half > 0.0 { 50.0 * (part / half) + 0.0 } else { 0.0 };
    let begins = |row: &Vec<Cell>| format!("{:.2}%", per_cent(length(row).min(0.0) - least));
    let width = |row: &Vec<Cell>| format!("{:.2}%", per_cent(length(row).abs()));
    let more = content.rows.len() > BARS || content.is_cut;
    html! {
        table.bars {
            @for row in content.rows.iter().take(BARS) {
                tr {
                    th scope="row" { (row.first().map(text).unwrap_or_default()) }
                    td.bar {
                        svg width="100%" height="14" aria-hidden="true" {
                            rect class="s0" x=(begins(row)) width=(width(row)) height="14" rx="2" {}
                        }
                    }
                    td.n { (row.get(1).map(grouped_text).unwrap_or_default()) }
                }
            }
        }
        @if more { p.none { "the first " (BARS.min(content.rows.len())) " rows" } }
    }
}

/// The points of lines by their names; what is no number is left out.
type Lines = Vec<(String, Vec<(f64, f64)>)>;

fn lines(content: &PanelContent, series: Option<usize>, width: f64) -> Markup {
    let (points, names) = across(content);
    let all = points_of(content, series, &points);
    let is_time = content.rows.iter().any(|row| matches!(row.first(), Some(Cell::Time(_))));
    let shown = &all[..all.len().min(LINES)];
    let values = shown.iter().flat_map(|(_, points)| points.iter().map(|(_, y)| *y));
    let (low, high) = values.fold((0.0_f64, f64::NEG_INFINITY), |(low, high), y| (low.min(y), high.max(y)));
    // There is no axis for what nobody can count.
    if !high.is_finite() || high.max(-low) > 1e100 || !points.iter().any(|at| at.is_finite()) {
        return html! { p.none { "no numbers to draw" } };
    }
    let ticks = number_ticks(low, high, 4);
    let (bottom, top) = (ticks[0], ticks[ticks.len() - 1]);
    let first = points.iter().copied().fold(f64::INFINITY, f64::min);
    let last = points.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let x = |value: f64| {
        let part = if last > first { (value - first) / (last - first) } else { 0.5 };
        LEFT + part * (width - LEFT - RIGHT)
    };
    let y = |value: f64| HEIGHT - BOTTOM - (value - bottom) / (top - bottom) * (HEIGHT - TOP - BOTTOM);
    let below = labels(&points, &names, is_time, if width > WIDTH { 8 } else { 4 });
    let path = |points: &[(f64, f64)]| {
        let step = |(index, (at, value)): (usize, &(f64, f64))| {
            format!("{}{:.1} {:.1}", if index == 0 { "M" } else { "L" }, x(*at), y(*value))
        };
        points.iter().enumerate().map(step).collect::<String>()
    };
    let summary = format!(
        "{} over {}: {}",
        content.columns.get(1..).unwrap_or_default().join(", "),
        content.columns[0],
        shown
            .iter()
            .map(|(name, points)| format!("{name} {}", number_text(points.last().map_or(0.0, |(_, y)| *y))))
            .collect::<Vec<_>>()
            .join(", ")
    );
    html! {
        div.scroll {
            svg viewBox=(format!("0 0 {width} {HEIGHT}")) role="img" aria-label=(summary) {
                @for tick in &ticks {
                    line.grid x1=(LEFT) x2=(width - RIGHT) y1=(format!("{:.1}", y(*tick))) y2=(format!("{:.1}", y(*tick))) {}
                    text.axis x=(LEFT - 6.0) y=(format!("{:.1}", y(*tick) + 4.0)) text-anchor="end" { (number_text(*tick)) }
                }
                @for (at, label) in &below {
                    text.axis x=(format!("{:.1}", x(*at))) y=(HEIGHT - 6.0) text-anchor=(anchor(x(*at), width)) { (label) }
                }
                @for (index, (name, points)) in shown.iter().enumerate() {
                    path class=(format!("line s{index}")) d=(path(points)) { title { (name) } }
                    @if points.len() <= 60 {
                        @for (at, value) in points {
                            circle class=(format!("s{index}")) cx=(format!("{:.1}", x(*at))) cy=(format!("{:.1}", y(*value))) r="2.5" {
                                title { (name) " · " (name_of(*at, &names, is_time)) " · " (number_text(*value)) }
                            }
                        }
                    }
                }
            }
        }
        ul.legend {
            @for (index, (name, points)) in shown.iter().enumerate() {
                li { span class=(format!("swatch s{index}")) { (PreEscaped("&#9632;")) } " " (name) " " b { (number_text(points.last().map_or(0.0, |(_, y)| *y))) } }
            }
            @if all.len() > LINES { li.none { "and " (all.len() - LINES) " more" } }
        }
        details { summary { "rows" } (table(content)) }
    }
}

/// How a text below a chart stands, so that none is cut off at its edges.
fn anchor(at: f64, width: f64) -> &'static str {
    match at {
        at if at > width - RIGHT - 20.0 => "end",
        at if at < LEFT + 20.0 => "start",
        _ => "middle",
    }
}

/// Where each row stands across, and the names of places that are neither numbers nor times.
fn across(content: &PanelContent) -> (Vec<f64>, Vec<String>) {
    let mut names: Vec<String> = Vec::new();
    let place = |row: &Vec<Cell>| match row.first() {
        None | Some(Cell::Null) => f64::NAN,
        Some(Cell::Number(value, _)) => *value,
        Some(Cell::Time(micros)) => *micros as f64,
        Some(other) => {
            let name = text(other);
            let known = names.iter().position(|known| *known == name);
            known.unwrap_or_else(|| {
                names.push(name);
                names.len() - 1
            }) as f64
        }
    };
    (content.rows.iter().map(place).collect(), names)
}

/// Lines with their points from left to right, those with the largest sums first when they come from a column.
fn points_of(content: &PanelContent, series: Option<usize>, places: &[f64]) -> Lines {
    let mut lines: BTreeMap<(usize, String), Vec<(f64, f64)>> = BTreeMap::new();
    for (row, at) in content.rows.iter().zip(places) {
        for (index, cell) in row.iter().enumerate().skip(1).filter(|(index, _)| Some(*index) != series) {
            let Cell::Number(value, _) = cell else { continue };
            // What is nowhere is not drawn.
            if !value.is_finite() || !at.is_finite() {
                continue;
            }
            let name = match series.and_then(|series| row.get(series)) {
                Some(name) => text(name),
                None => content.columns[index].clone(),
            };
            lines.entry((if series.is_some() { 0 } else { index }, name)).or_default().push((*at, *value));
        }
    }
    let mut lines: Lines = lines
        .into_iter()
        .map(|((_, name), mut points)| {
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
            (name, points)
        })
        .collect();
    if series.is_some() {
        let sum = |points: &[(f64, f64)]| points.iter().map(|(_, y)| y.abs()).sum::<f64>();
        lines.sort_by(|a, b| sum(&b.1).total_cmp(&sum(&a.1)));
    }
    lines
}

/// What stands below a chart, and where.
fn labels(points: &[f64], names: &[String], is_time: bool, most: usize) -> Vec<(f64, String)> {
    let first = points.iter().copied().fold(f64::INFINITY, f64::min);
    let last = points.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if is_time {
        let (from, to) = (first as i64, last as i64);
        return time_ticks(from, to, most)
            .into_iter()
            .map(|time| (time as f64, short_time(time, to.saturating_sub(from))))
            .collect();
    }
    if !names.is_empty() {
        let step = names.len().div_ceil(most);
        return names.iter().enumerate().step_by(step).map(|(at, name)| (at as f64, name.clone())).collect();
    }
    number_ticks(first, last, most - 1)
        .into_iter()
        .filter(|tick| (first..=last).contains(tick))
        .map(|tick| (tick, number_text(tick)))
        .collect()
}

fn name_of(at: f64, names: &[String], is_time: bool) -> String {
    match (is_time, names.get(at as usize)) {
        (true, _) => text(&Cell::Time(at as i64)),
        (false, Some(name)) => name.clone(),
        (false, None) => number_text(at),
    }
}
