//! `catchment sql`

use std::io::Cursor;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use catchment_core::{Code, Error, Result, TableName, format_count};
use catchment_pipelines::{Access, Workspace};
use catchment_server::Streams;
use catchment_sql::{SqlText, query_error};
use datafusion::arrow::array::{Array, AsArray, RecordBatch, StringBuilder};
use datafusion::arrow::csv::WriterBuilder;
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::arrow::ipc::reader::StreamReader;
use datafusion::arrow::json::writer::make_encoder;
use datafusion::arrow::json::{ArrayWriter, EncoderOptions};
use datafusion::common::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::sql::sqlparser::tokenizer::Token;
use futures::TryStreamExt;
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;
use serde_json::json;

use crate::arguments::{Arguments, SqlArguments};
use crate::commands::{history, tables};
use crate::show::Screen;
use crate::wiring;

/// The most rows that a table on the screen shows.
const SHOWN_ROWS: usize = 10_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Table,
    Csv,
    Json,
}

pub(crate) async fn run(arguments: &Arguments, command: &SqlArguments, screen: Screen) -> Result<ExitCode> {
    let workspace = wiring::workspace(&command.project, arguments)?;
    let format = match (screen.json, command.csv) {
        (true, _) => Format::Json,
        (_, true) => Format::Csv,
        _ => Format::Table,
    };
    let session = Session { workspace: &workspace, screen, format };
    let text = match (&command.query, &command.file) {
        (Some(query), _) => SqlText::new("query", query.clone()),
        (None, Some(path)) => {
            let text = std::fs::read_to_string(path).map_err(|error| {
                Error::new(Code::INPUT_OUTPUT, format!("could not read {path:?}")).because(error)
            })?;
            SqlText::new(path.display().to_string(), text)
        }
        (None, None) => return session.prompt().await,
    };
    for statement in statements(&text)? {
        session.statement(&statement).await?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The statements of a text, each as a text whose places are still those of the whole.
fn statements(text: &SqlText) -> Result<Vec<SqlText>> {
    let tokens = text.tokens()?;
    let mut parts = Vec::new();
    let mut start = None;
    for token in &tokens {
        if matches!(token.token, Token::SemiColon | Token::EOF) {
            if let Some(start) = start.take() {
                parts.push(text.part(start, token.span.start));
            }
        } else {
            start.get_or_insert(token.span.start);
        }
    }
    Ok(parts)
}

struct Session<'w> {
    workspace: &'w Workspace,
    screen: Screen,
    format: Format,
}

impl Session<'_> {
    async fn statement(&self, text: &SqlText) -> Result<()> {
        let tokens = text.tokens()?;
        let words: Vec<String> = tokens
            .iter()
            .map_while(|token| match &token.token {
                Token::Word(word) => Some(word.value.to_uppercase()),
                _ => None,
            })
            .collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match words.as_slice() {
            ["SHOW", "TABLES", ..] => self.show_tables().await,
            ["DESCRIBE" | "DESC", "HISTORY", ..] => {
                let rows = Access::new(self.workspace).history(&self.name(text, 2)?, 1_000).await?;
                history::show(&rows, self.screen);
                Ok(())
            }
            ["DESCRIBE" | "DESC", ..] => self.describe(&text.with_head(1, "SELECT * FROM")?).await,
            ["RESTORE" | "OPTIMIZE" | "VACUUM", ..] => {
                tables::run(self.workspace, text, self.screen).await
            }
            ["EXPLAIN", ..] => self.explain(text).await,
            ["SELECT" | "WITH" | "VALUES" | "FROM", ..] | [] => self.query(text).await,
            [first, ..] => Err(Error::new(Code::NOT_SUPPORTED, format!("{first} is not supported yet"))
                .at(text.place(tokens[0].span))
                .hint("SELECT, SHOW TABLES, DESCRIBE, DESCRIBE HISTORY, EXPLAIN, RESTORE, OPTIMIZE and VACUUM are")),
        }
    }

    fn name(&self, text: &SqlText, skipped: usize) -> Result<TableName> {
        let tokens = text.tokens()?;
        let parts: Vec<String> = tokens
            .iter()
            .skip(skipped)
            .filter_map(|token| match &token.token {
                Token::Word(word) => Some(word.value.clone()),
                _ => None,
            })
            .collect();
        self.workspace.project.table_name(&parts).ok_or_else(|| {
            Error::new(Code::NAME_INVALID, "a table's name should follow").at(text.place(tokens[0].span))
        })
    }

    async fn show_tables(&self) -> Result<()> {
        let names = Access::new(self.workspace).names().await?;
        match self.format {
            Format::Json => self.screen.json(&json!(names)),
            _ => names.iter().for_each(|name| self.screen.line(name)),
        }
        Ok(())
    }

    async fn describe(&self, query: &SqlText) -> Result<()> {
        let schema = match Access::new(self.workspace).plan(query).await {
            Ok(planned) => planned.physical.schema(),
            Err(error) if error.code() == Code::SERVING_OWNED => {
                let none = SqlText::new("query", format!("{} LIMIT 0", query.text().trim_end()));
                asked(self.workspace, &none, error).await?.schema()
            }
            Err(error) => return Err(error),
        };
        let columns: Vec<Vec<String>> = schema
            .fields()
            .iter()
            .map(|field| vec![field.name().clone(), field.data_type().to_string()])
            .collect();
        match self.format {
            Format::Json => self.screen.json(&json!(columns)),
            _ => self.screen.line(self.screen.table(&["COLUMN", "TYPE"], &columns, &[])),
        }
        Ok(())
    }

    async fn explain(&self, text: &SqlText) -> Result<()> {
        let text = match Access::new(self.workspace).explain(text).await {
            Err(error) if error.code() == Code::SERVING_OWNED => {
                let mut rows = asked(self.workspace, text, error).await?;
                let rows = rows.try_next().await.map_err(query_error)?;
                let plan = rows.as_ref().and_then(|rows| rows.column(0).as_string_opt::<i32>());
                plan.filter(|plan| !plan.is_empty())
                    .map(|plan| plan.value(0).to_owned())
                    .ok_or_else(|| Error::new(Code::INTERNAL, "the service's answer has no plan"))?
            }
            told => told?,
        };
        match self.format {
            Format::Json => self.screen.json(&json!({ "plan": text })),
            _ => self.screen.line(text.trim_end()),
        }
        Ok(())
    }

    async fn query(&self, text: &SqlText) -> Result<()> {
        let started = Instant::now();
        let access = Access::new(self.workspace);
        let (planned, mut stream) = match access.plan(text).await {
            Ok(planned) => {
                let stream = planned.planner.run(Arc::clone(&planned.physical))?;
                (Some(planned), stream)
            }
            Err(error) if error.code() == Code::SERVING_OWNED => {
                (None, asked(self.workspace, text, error).await?)
            }
            Err(error) => return Err(error),
        };
        let schema = stream.schema();
        let mut count = 0;
        match self.format {
            Format::Table => {
                let mut rows = vec![RecordBatch::new_empty(schema)];
                while let Some(batch) = stream.try_next().await.map_err(query_error)? {
                    count += batch.num_rows();
                    if count <= SHOWN_ROWS {
                        rows.push(batch);
                    }
                }
                self.screen.line(self.screen.rows(&rows));
                let left_out =
                    if count > SHOWN_ROWS { ", the rest is left out: use --csv or --json" } else { "" };
                let noun = if count == 1 { "row" } else { "rows" };
                self.screen.note(format!(
                    "{} {noun} in {:.3} s{left_out}",
                    format_count(count as u64),
                    started.elapsed().as_secs_f64()
                ));
            }
            Format::Csv => {
                let mut writer = WriterBuilder::new().with_header(true).build(std::io::stdout());
                writer.write(&flat(RecordBatch::new_empty(schema))?).map_err(output)?;
                while let Some(batch) = stream.try_next().await.map_err(query_error)? {
                    count += batch.num_rows();
                    writer.write(&flat(batch)?).map_err(output)?;
                }
            }
            Format::Json => {
                let mut writer = ArrayWriter::new(std::io::stdout());
                while let Some(batch) = stream.try_next().await.map_err(query_error)? {
                    count += batch.num_rows();
                    writer.write(&batch).map_err(output)?;
                }
                writer.finish().map_err(output)?;
                self.screen.line("");
            }
        }
        if let Some(planned) = planned {
            access.note_query(text, planned, count as u64, started.elapsed()).await;
        }
        Ok(())
    }

    async fn prompt(&self) -> Result<ExitCode> {
        let failed = |error: ReadlineError| {
            Error::new(Code::INPUT_OUTPUT, "could not read from the terminal").because(error)
        };
        let mut editor = DefaultEditor::new().map_err(failed)?;
        let history = self.workspace.project.config.data().join("history");
        // A prompt without its history still works.
        let _ = editor.load_history(&history);
        self.screen.note("Queries end with a semicolon. \\q leaves, SHOW TABLES lists what there is.");
        let mut text = String::new();
        loop {
            let prompt = if text.is_empty() { "catchment> " } else { "      ...> " };
            let line = match editor.readline(prompt) {
                Ok(line) => line,
                Err(ReadlineError::Interrupted) => {
                    text.clear();
                    continue;
                }
                Err(ReadlineError::Eof) => break,
                Err(error) => return Err(failed(error)),
            };
            if text.is_empty() && matches!(line.trim(), "\\q" | "quit" | "exit") {
                break;
            }
            text.push_str(&line);
            text.push('\n');
            if !line.trim_end().ends_with(';') {
                if text.trim().is_empty() {
                    text.clear();
                }
                continue;
            }
            let _ = editor.add_history_entry(text.trim());
            let _ = editor.save_history(&history);
            let whole = SqlText::new("query", std::mem::take(&mut text));
            match statements(&whole) {
                Ok(all) => {
                    for statement in all {
                        if let Err(error) = self.statement(&statement).await {
                            self.screen.error(&error);
                            break;
                        }
                    }
                }
                Err(error) => self.screen.error(&error),
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The rows of a query, of this process or of the service that has the serving tables.
pub(crate) async fn rows_of(workspace: &Workspace, text: &str) -> Result<Vec<RecordBatch>> {
    let text = SqlText::new("query", text);
    let rows = match Access::new(workspace).query(&text).await {
        Err(error) if error.code() == Code::SERVING_OWNED => asked(workspace, &text, error).await?,
        rows => rows?,
    };
    rows.try_collect().await.map_err(query_error)
}

/// Asks the service that has the serving tables; `error` says that somebody has them.
async fn asked(workspace: &Workspace, text: &SqlText, error: Error) -> Result<SendableRecordBatchStream> {
    let Some(mut service) = Streams::there(&workspace.project.config.commands()).await else {
        return Err(error);
    };
    let rows = service.query(text.text()).await?;
    let failed = |error| Error::new(Code::INTERNAL, "the service's answer cannot be read").because(error);
    let reader = StreamReader::try_new(Cursor::new(rows), None).map_err(failed)?;
    let schema = reader.schema();
    let rows = futures::stream::iter(reader.map(|rows| rows.map_err(DataFusionError::from)));
    Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)))
}

fn output(error: datafusion::arrow::error::ArrowError) -> Error {
    Error::new(Code::INPUT_OUTPUT, "could not print the result").because(error)
}

/// Rows whose nested values are written as JSON, since CSV has none.
fn flat(rows: RecordBatch) -> Result<RecordBatch> {
    let schema = rows.schema();
    if !schema.fields().iter().any(|field| field.data_type().is_nested()) {
        return Ok(rows);
    }
    let mut fields = Vec::new();
    let mut columns = Vec::new();
    for (field, column) in schema.fields().iter().zip(rows.columns()) {
        if !field.data_type().is_nested() {
            fields.push(Arc::clone(field));
            columns.push(Arc::clone(column));
            continue;
        }
        let options = EncoderOptions::default();
        let mut encoder = make_encoder(field, column, &options).map_err(output)?;
        let mut texts = StringBuilder::new();
        let mut text = Vec::new();
        for row in 0..column.len() {
            text.clear();
            if encoder.is_null(row) {
                texts.append_null();
            } else {
                encoder.encode(row, &mut text);
                texts.append_value(String::from_utf8_lossy(&text));
            }
        }
        fields.push(Arc::new(Field::new(field.name(), DataType::Utf8, true)));
        columns.push(Arc::new(texts.finish()));
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).map_err(output)
}
