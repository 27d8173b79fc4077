//! How results look: aligned tables, errors with a caret, colours only on a terminal.

use std::io::{IsTerminal, Write};

use catchment_core::{Error, caret};
use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::DataType;
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use serde_json::{Value, json};

/// Where results go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Screen {
    /// Whether everything is printed as JSON.
    pub(crate) json: bool,
    colours: bool,
}

impl Screen {
    pub(crate) fn new(json: bool) -> Self {
        let colours = std::io::stdout().is_terminal()
            && std::io::stderr().is_terminal()
            && crate::wiring::environment("NO_COLOR").is_none();
        Self { json, colours }
    }

    /// Whether somebody watches.
    pub(crate) fn is_watched(self) -> bool {
        self.colours && !self.json
    }

    /// Prints a line; when nobody is left to read it, that is fine.
    pub(crate) fn line(self, text: impl AsRef<str>) {
        let _ = writeln!(std::io::stdout(), "{}", text.as_ref());
    }

    /// Prints a line for people beside the result.
    pub(crate) fn note(self, text: impl AsRef<str>) {
        let _ = writeln!(std::io::stderr(), "{}", text.as_ref());
    }

    /// Prints JSON.
    pub(crate) fn json(self, value: &Value) {
        self.line(value.to_string());
    }

    /// Prints an error, and those joined to it.
    pub(crate) fn error(self, error: &Error) {
        if self.json {
            let all: Vec<Value> = error.each().map(error_json).collect();
            self.note(json!({ "errors": all }).to_string());
            return;
        }
        for one in error.each() {
            self.note(self.error_text(one));
        }
        if error.each().count() > 1 {
            self.note(format!("{} errors", error.each().count()));
        }
    }

    /// An error as people read it: code and message, place, cause, hint.
    pub(crate) fn error_text(self, error: &Error) -> String {
        let code = self.paint(&format!("error[{}]", error.code()), "31;1");
        let mut text = format!("{code}: {}", error.message());
        if let Some(place) = error.place() {
            text.push('\n');
            text.push_str(&caret(place));
        }
        if let Some(cause) = error.cause_text() {
            text.push_str(&format!("\n  {} {cause}", self.paint("cause:", "1")));
        }
        if let Some(hint) = error.hint_text() {
            text.push_str(&format!("\n  {} {hint}", self.paint("hint:", "36;1")));
        }
        text
    }

    /// Colours text on a terminal.
    pub(crate) fn paint(self, text: &str, style: &str) -> String {
        if self.colours { format!("\u{1b}[{style}m{text}\u{1b}[0m") } else { text.to_owned() }
    }

    /// A table with a head, its columns aligned; those named in `numbers` to the right.
    pub(crate) fn table(self, head: &[&str], rows: &[Vec<String>], numbers: &[usize]) -> String {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(head.iter().copied().map(Cell::new));
        for row in rows {
            table.add_row(row);
        }
        for index in numbers {
            if let Some(column) = table.column_mut(*index) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        let text = table.to_string();
        let mut lines = text.lines().map(str::trim_end).map(|line| line.strip_prefix(' ').unwrap_or(line));
        // Colours come last: they would count as width.
        let first = lines.next().map(|line| self.paint(line, "1")).unwrap_or_default();
        std::iter::once(first).chain(lines.map(str::to_owned)).collect::<Vec<_>>().join("\n")
    }

    /// Rows of a query as a table; numbers to the right, nulls told from empty text.
    pub(crate) fn rows(self, rows: &[RecordBatch]) -> String {
        let Some(first) = rows.first() else { return String::new() };
        let schema = first.schema();
        let head: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        let is_number = |kind: &DataType| kind.is_numeric();
        let numbers: Vec<usize> = schema
            .fields()
            .iter()
            .enumerate()
            .filter(|(_, field)| is_number(field.data_type()))
            .map(|(index, _)| index)
            .collect();
        let mut texts = Vec::new();
        for batch in rows {
            let options = FormatOptions::new().with_null("NULL");
            let columns: Vec<_> = batch
                .columns()
                .iter()
                .filter_map(|column| ArrayFormatter::try_new(column, &options).ok())
                .collect();
            for row in 0..batch.num_rows() {
                texts.push(columns.iter().map(|column| column.value(row).to_string()).collect());
            }
        }
        self.table(&head, &texts, &numbers)
    }
}

fn error_json(error: &Error) -> Value {
    json!({
        "code": error.code().id,
        "message": error.message(),
        "place": error.place(),
        "cause": error.cause_text(),
        "hint": error.hint_text(),
    })
}
