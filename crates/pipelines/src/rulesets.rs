//! Rulesets of a project: `quality/<schema>.<table>.dqdl`, or the file that a dataset's property names.

use std::path::Path;
use std::sync::Arc;

use catchment_core::{Code, Error, Result};
use catchment_quality::dqdl::{Ruleset, parse_ruleset};
use catchment_quality::{Expectation, RulesetPlan, row_expectations};
use catchment_sql::{Moment, Sessions, SqlText, nearest, parse_single_query};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::datasource::empty::EmptyTable;

use crate::project::{Declared, Project};
use crate::statement::DatasetStatement;

/// The table property that names a ruleset's file.
const PROPERTY: &str = "quality.ruleset";

/// A dataset's ruleset, checked.
pub(crate) struct Bound {
    pub(crate) ruleset: Arc<Ruleset>,
    /// Its text, which is part of the dataset's definition.
    pub(crate) text: String,
    /// The rules that are expectations on single rows.
    pub(crate) expectations: Vec<Expectation>,
}

/// Tells of rulesets that belong to no dataset: a slip in a name would switch them off without a word.
pub(crate) fn strays(project: &Project) -> Result<()> {
    let Ok(entries) = std::fs::read_dir(project.config.folder.join("quality")) else { return Ok(()) };
    let names: Vec<String> = project.datasets.keys().map(ToString::to_string).collect();
    let properties = project.datasets.values().flat_map(|dataset| &dataset.body.properties);
    let named: Vec<&String> = properties.filter(|(key, _)| key == PROPERTY).map(|(_, file)| file).collect();
    let mut errors = Vec::new();
    for entry in entries.flatten() {
        let file = entry.file_name().to_string_lossy().into_owned();
        let Some(dataset) = file.strip_suffix(".dqdl") else { continue };
        let path = format!("quality/{file}");
        if names.iter().any(|name| name == dataset) || named.iter().any(|named| **named == path) {
            continue;
        }
        let error = Error::new(Code::RULESET_INVALID, format!("ruleset {path:?} belongs to no dataset"));
        let known: Vec<&str> = names.iter().map(String::as_str).collect();
        errors.push(match nearest(dataset, &known) {
            Some(near) => error.hint(format!("did you mean \"quality/{near}.dqdl\"?")),
            None => error.hint("name it after its dataset, or let a dataset name it with TBLPROPERTIES"),
        });
    }
    Error::join(errors)
}

/// Reads and checks the ruleset of a dataset; `None` when it has none.
pub(crate) async fn bind(
    project: &Path,
    sessions: &Sessions,
    declared: &Declared<DatasetStatement>,
    schema: &SchemaRef,
) -> Result<Option<Bound>> {
    let named = declared.body.properties.iter().find(|(key, _)| key == PROPERTY).map(|(_, file)| file);
    let file = named.cloned().unwrap_or_else(|| format!("quality/{}.dqdl", declared.body.name.0));
    let path = project.join(&file);
    if named.is_none() && !path.exists() {
        return Ok(None);
    }
    let text = std::fs::read_to_string(&path).map_err(|error| {
        Error::new(Code::INPUT_OUTPUT, format!("could not read ruleset {file:?}"))
            .because(error)
            .at(declared.text.place(declared.body.name.1))
    })?;
    let ruleset = parse_ruleset(&file, &text)?;
    let planner = sessions.planner(Moment { micros: 0, seed: 0 })?;
    let expectations = row_expectations(&ruleset, schema)?;
    let (_, queries) = RulesetPlan::new(&ruleset, &planner, schema)?;
    for query in &queries {
        check_query(sessions, query, schema).await.map_err(|error| {
            Error::new(Code::RULESET_INVALID, format!("query {query:?} of ruleset {file:?} cannot run"))
                .because(error.one_line())
        })?;
    }
    Ok(Some(Bound { ruleset: Arc::new(ruleset), text, expectations }))
}

/// A query of a ruleset reads the rows of a batch, as table `primary`, and nothing else.
async fn check_query(sessions: &Sessions, query: &str, schema: &SchemaRef) -> Result<()> {
    let planner = sessions.planner(Moment { micros: 0, seed: 0 })?;
    let text = SqlText::new("ruleset", query);
    let bound = parse_single_query(&text)?.bind(&text, &|_| None)?;
    for relation in &bound.relations {
        if relation.target.display() != "primary" {
            return Err(Error::new(
                Code::TABLE_UNKNOWN,
                format!("no table \"{}\" in a ruleset", relation.target.display()),
            )
            .hint("the rows of the batch are table primary"));
        }
        planner.bind(&relation.key, Arc::new(EmptyTable::new(Arc::clone(schema))))?;
    }
    let plan = planner.plan(&text, &bound).await?;
    planner.check(&text, &bound, &plan).map(|_| ())
}
