//! SQL behaviour as data: `tests/sql/**/*.slt`, each file in a project of its own.
//!
//! Besides queries a file may `PUT path` with the lines of an input file, declare datasets with
//! `CREATE`, and `RUN` the project or `REPLAY` the quarantine of a dataset. A `CREATE OR REFRESH` takes the
//! place of what was declared under the name before.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use catchment_catalog::{BatchRecord, RunStatus};
use catchment_core::{Error, FlowName, NoFaults, SystemClock};
use catchment_flows::{Phases, Progress};
use catchment_pipelines::{Access, Machine, RunOptions, RunReport, Workspace};
use catchment_sql::{SqlText, query_error};
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use futures::TryStreamExt;
use sqllogictest::{AsyncDB, DBOutput, DefaultColumnType, Runner};

use crate::project::{Project, repository, write};

struct Silent;

impl Progress for Silent {
    fn published(&self, _: &BatchRecord, _: &Phases) {}
    fn retrying(&self, _: &FlowName, _: &Error) {}
}

struct Database {
    project: Project,
    pipeline: String,
}

/// An error as a `.slt` file matches it: code and message.
#[derive(Debug)]
struct Said(String);

impl std::fmt::Display for Said {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Said {}

impl From<Error> for Said {
    fn from(error: Error) -> Self {
        let all: Vec<String> = error
            .each()
            .map(|one| match one.place() {
                Some(place) => format!(
                    "{} ({}:{}) {}",
                    one.one_line(),
                    place.line,
                    place.column,
                    one.hint_text().unwrap_or("")
                ),
                None => one.one_line(),
            })
            .collect();
        Self(all.join("\n"))
    }
}

impl Database {
    fn workspace(&self) -> Result<Workspace, Said> {
        let machine = Machine {
            clock: Arc::new(SystemClock),
            faults: Arc::new(NoFaults),
            variables: std::collections::BTreeMap::new(),
            variable: |_| None,
        };
        Ok(Workspace::open(self.project.path(), &[], &machine)?)
    }

    async fn run_project(&self) -> Result<(), Said> {
        Self::outcome(self.workspace()?.run(&RunOptions::default(), Arc::new(Silent)).await?)
    }

    fn outcome(report: RunReport) -> Result<(), Said> {
        match report.status() {
            RunStatus::Failed => {
                let errors = report.errors.into_iter().map(|(_, error)| error);
                Err(Error::join(errors)
                    .map_or_else(Said::from, |()| Said("failed without an error".to_owned())))
            }
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl AsyncDB for Database {
    type Error = Said;
    type ColumnType = DefaultColumnType;

    async fn run(&mut self, sql: &str) -> Result<DBOutput<DefaultColumnType>, Said> {
        let (first, rest) = sql.split_once('\n').unwrap_or((sql, ""));
        if let Some(path) = first.strip_prefix("PUT ") {
            write(&self.project.path().join(path.trim()), format!("{rest}\n").as_bytes());
            return Ok(DBOutput::StatementComplete(0));
        }
        if let Some(dataset) = sql.trim().strip_prefix("REPLAY ") {
            let report = self.workspace()?.replay(dataset, Arc::new(Silent)).await?;
            return Self::outcome(report).map(|()| DBOutput::StatementComplete(0));
        }
        if sql.trim() == "RUN" {
            return self.run_project().await.map(|()| DBOutput::StatementComplete(0));
        }
        if first.trim_start().to_uppercase().starts_with("CREATE") {
            let before = self.pipeline.clone();
            let others = before
                .split_inclusive(";\n")
                .filter(|other| !first.starts_with("CREATE OR REFRESH") || declares(other) != declares(sql));
            // The statement stands on the first line of a file of its own, so that places are easy to write.
            self.pipeline = format!("{sql};\n{}", others.collect::<String>());
            self.project.write("pipelines/all.sql", &self.pipeline);
            let checked = self.workspace()?.check().await;
            if let Err(error) = Error::join(checked.errors) {
                self.pipeline = before;
                self.project.write("pipelines/all.sql", &self.pipeline);
                return Err(error.into());
            }
            return Ok(DBOutput::StatementComplete(0));
        }
        let workspace = self.workspace()?;
        let access = Access::new(&workspace);
        let text = SqlText::new("query", sql);
        let stream = access.query(&text).await?;
        let rows: Vec<RecordBatch> = stream.try_collect().await.map_err(query_error)?;
        Ok(output(&rows))
    }

    async fn shutdown(&mut self) {}
}

/// The kind and name that a statement declares.
fn declares(statement: &str) -> Option<String> {
    let words: Vec<&str> = statement.split(|c: char| c.is_whitespace() || c == '(').collect();
    let at = words.iter().position(|word| ["TABLE", "VIEW", "FLOW"].contains(word))?;
    words.get(at + 1).map(|name| (*name).to_owned())
}

fn output(rows: &[RecordBatch]) -> DBOutput<DefaultColumnType> {
    let options = FormatOptions::new().with_null("NULL");
    let mut texts = Vec::new();
    for batch in rows {
        let columns: Vec<_> =
            batch.columns().iter().map(|column| ArrayFormatter::try_new(column, &options).unwrap()).collect();
        for row in 0..batch.num_rows() {
            let values = columns.iter().map(|column| column.value(row).to_string());
            texts.push(
                values.map(|value| if value.is_empty() { "(empty)".to_owned() } else { value }).collect(),
            );
        }
    }
    let width = rows.first().map_or(0, RecordBatch::num_columns);
    DBOutput::Rows { types: vec![DefaultColumnType::Any; width], rows: texts }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|ending| ending == "slt") {
            found.push(path);
        }
    }
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn every_sql_file_says_what_happens() {
    let files = files(&repository().join("tests/sql"));
    assert!(!files.is_empty());
    for file in files {
        let mut runner =
            Runner::new(|| async { Ok(Database { project: Project::new(""), pipeline: String::new() }) });
        if let Err(error) = runner.run_file_async(&file).await {
            panic!("{}", error.display(false));
        }
    }
}
