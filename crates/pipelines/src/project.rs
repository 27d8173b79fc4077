//! A project: its configuration and the statements of its pipeline files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use catchment_core::{Code, Error, Result, TableName};
use catchment_ingest::files::FileStores;
use catchment_sql::{ParsedQuery, Relation, SqlText, Target};
use datafusion::sql::sqlparser::tokenizer::Span;

use crate::config::LoadedConfig;
use crate::dashboards::{self, Dashboard};
use crate::place::Machine;
use crate::statement::{
    AlertStatement, Body, DatasetStatement, FlowStatement, Statement, StreamStatement, ViewStatement,
    parse_statements,
};

/// A project as its files describe it.
#[derive(Debug, Clone)]
pub struct Project {
    /// Its configuration.
    pub config: LoadedConfig,
    /// Tables, by name.
    pub datasets: BTreeMap<TableName, Declared<DatasetStatement>>,
    /// Views, by name.
    pub views: BTreeMap<TableName, Declared<ViewStatement>>,
    /// Streams, by name.
    pub streams: BTreeMap<TableName, Declared<StreamStatement>>,
    /// Flows declared on their own, by name.
    pub flows: BTreeMap<String, Declared<FlowStatement>>,
    /// Alerts, by name.
    pub alerts: BTreeMap<TableName, Declared<AlertStatement>>,
    /// Dashboards, in the order of their names.
    pub dashboards: Vec<Dashboard>,
    /// Why others cannot be read, which keeps nothing from running.
    pub dashboard_errors: Vec<Error>,
    /// Where the files lie that its sources read.
    pub files: Arc<FileStores>,
    /// Errors of syntax and of names defined twice.
    pub errors: Vec<Error>,
}

/// A statement's content and the file it stands in.
#[derive(Debug, Clone)]
pub struct Declared<T> {
    /// The file.
    pub text: Arc<SqlText>,
    /// From its first word to its last.
    pub span: datafusion::sql::sqlparser::tokenizer::Span,
    /// What it declares.
    pub body: T,
}

impl Project {
    /// Reads a project. Errors in its SQL files are collected, see [`Project::errors`].
    ///
    /// # Errors
    /// Returns errors of the configuration and of reading files.
    pub fn load(folder: &Path, settings: &[String], machine: &Machine) -> Result<Self> {
        let config = LoadedConfig::load(folder, settings)?;
        let (folder, scratch) = (config.folder.clone(), config.spill_folder());
        let files = Arc::new(FileStores::new(folder, scratch, machine.variables.clone()));
        let mut project = Self {
            config,
            datasets: BTreeMap::new(),
            views: BTreeMap::new(),
            streams: BTreeMap::new(),
            flows: BTreeMap::new(),
            alerts: BTreeMap::new(),
            dashboards: Vec::new(),
            dashboard_errors: Vec::new(),
            files,
            errors: Vec::new(),
        };
        for path in sql_files(&project.config.folder.join("pipelines"))? {
            let bytes = std::fs::read(&path).map_err(|error| {
                Error::new(Code::INPUT_OUTPUT, format!("could not read {path:?}")).because(error)
            })?;
            let file =
                path.strip_prefix(&project.config.folder).unwrap_or(&path).to_string_lossy().into_owned();
            let Ok(text) = String::from_utf8(bytes) else {
                project.errors.push(Error::new(Code::SQL_SYNTAX, format!("{file} is not UTF-8")));
                continue;
            };
            let parameters = &project.config.config.parameters;
            match SqlText::with_parameters(file, &text, |name| parameters.get(name).cloned()) {
                Ok(text) => project.add_file(&Arc::new(text)),
                Err(error) => project.errors.extend(error.split()),
            }
        }
        let parameters = project.config.config.parameters.clone();
        (project.dashboards, project.dashboard_errors) =
            dashboards::load(&project.config.folder, &|name| parameters.get(name).cloned());
        Ok(project)
    }

    fn add_file(&mut self, text: &Arc<SqlText>) {
        let (statements, errors) = parse_statements(text, &self.config.config.project.schema);
        self.errors.extend(errors);
        for statement in statements {
            if let Err(error) = self.add(statement) {
                self.errors.push(error);
            }
        }
    }

    fn add(&mut self, statement: Statement) -> Result<()> {
        let Statement { text, span, body } = statement;
        let twice = |name: &str, at, first: String| {
            Err(Error::new(Code::DEFINED_TWICE, format!("\"{name}\" is defined twice"))
                .at(text.place(at))
                .hint(format!("first at {first}")))
        };
        match body {
            Body::Dataset(body) => {
                let (name, at) = body.name.clone();
                match self.defined_at(&name) {
                    Some(first) => return twice(&name.to_string(), at, first),
                    None => self.datasets.insert(name, Declared { text, span, body }),
                };
            }
            Body::View(body) => {
                let (name, at) = body.name.clone();
                match self.defined_at(&name) {
                    Some(first) => return twice(&name.to_string(), at, first),
                    None => self.views.insert(name, Declared { text, span, body }),
                };
            }
            Body::Stream(body) => {
                let (name, at) = body.name.clone();
                match self.defined_at(&name) {
                    Some(first) => return twice(&name.to_string(), at, first),
                    None => self.streams.insert(name, Declared { text, span, body }),
                };
            }
            Body::Alert(body) => {
                let (name, at) = body.name.clone();
                if let Some(first) = self.alerts.get(&name) {
                    let first = first.text.place(first.body.name.1).to_string();
                    return twice(&name.to_string(), at, first);
                }
                self.alerts.insert(name, Declared { text, span, body });
            }
            Body::Flow(body) => {
                let (name, at) = body.name.clone();
                if !TableName::new("flow", name.clone()).is_storable() {
                    return Err(Error::new(
                        Code::NAME_INVALID,
                        format!("flow name \"{name}\" may hold only letters, digits, _ and -"),
                    )
                    .at(text.place(at)));
                }
                if let Some(first) = self.flows.get(&name) {
                    let first = first.text.place(first.body.name.1).to_string();
                    return twice(&name, at, first);
                }
                self.flows.insert(name, Declared { text, span, body });
            }
        }
        Ok(())
    }

    /// How many queries send their late rows to a table.
    pub(crate) fn takers_of_late_rows(&self, table: &TableName) -> usize {
        let datasets = self.datasets.values().map(|declared| &declared.body.late);
        let flows = self.flows.values().map(|declared| &declared.body.late);
        datasets.chain(flows).flatten().filter(|(name, _)| name == table).count()
    }

    pub(crate) fn defined_at(&self, name: &TableName) -> Option<String> {
        let dataset = self.datasets.get(name).map(|known| known.text.place(known.body.name.1));
        let view = self.views.get(name).map(|known| known.text.place(known.body.name.1));
        let stream = self.streams.get(name).map(|known| known.text.place(known.body.name.1));
        dataset.or(view).or(stream).map(|place| place.to_string())
    }

    /// The dataset whose late rows a table takes.
    #[must_use]
    pub fn late_rows_of(&self, table: &TableName) -> Option<&TableName> {
        let is_it = |late: &Option<(TableName, Span)>| late.as_ref().is_some_and(|(name, _)| name == table);
        let dataset =
            self.datasets.iter().find(|(_, declared)| is_it(&declared.body.late)).map(|(name, _)| name);
        let flow = || self.flows.values().find(|declared| is_it(&declared.body.late));
        dataset.or_else(|| flow().map(|declared| &declared.body.target.0))
    }

    /// The name that the parts of a relation stand for, `None` when there are too many.
    #[must_use]
    pub fn table_name(&self, parts: &[String]) -> Option<TableName> {
        match parts {
            [table] => Some(TableName::new(self.config.config.project.schema.clone(), table)),
            [schema, table] => Some(TableName::new(schema, table)),
            _ => None,
        }
    }

    /// The view or the declared stream that a relation names; temporary views only where `temporary` is set.
    #[must_use]
    pub fn view(&self, relation: &Relation, temporary: bool) -> Option<ParsedQuery> {
        let Target::Table { parts, .. } = &relation.target else { return None };
        let name = self.table_name(parts)?;
        if let Some(stream) = self.streams.get(&name) {
            let read = if relation.streaming { &stream.body.streaming } else { &stream.body.whole };
            return Some(read.clone());
        }
        let view = self.views.get(&name)?;
        (temporary || !view.body.temporary).then(|| view.body.query.clone())
    }
}

/// All `.sql` files below a folder, in the order of their paths.
fn sql_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder).map_err(|error| {
            Error::new(Code::PROJECT_MISSING, format!("could not list {folder:?}"))
                .because(error)
                .hint("a project keeps its SQL files in pipelines/")
        })?;
        for entry in entries.flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "sql") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}
