//! What two states of a dataset differ in.

use catchment_core::{Code, Error, Result, TableName};
use catchment_sql::{AsOf, SqlText, query_error};
use datafusion::arrow::array::{Array, AsArray, RecordBatch};
use datafusion::arrow::datatypes::{Int64Type, Schema};
use datafusion::arrow::util::display::array_value_to_string;
use futures::TryStreamExt;
use serde::Serialize;

use crate::access::Access;
use crate::rollback::version_as_of;
use crate::run::Workspace;

/// What to compare.
#[derive(Debug, Clone)]
pub struct DiffOptions {
    /// The dataset.
    pub dataset: String,
    /// The earlier state: a version, a time, or a release.
    pub before: String,
    /// The later state; by default the newest version.
    pub after: Option<String>,
    /// Columns that identify a row; by default those of the dataset's `EXPECT UNIQUE`. Without any, whole rows
    /// are compared.
    pub key: Vec<String>,
    /// The most differences to show.
    pub samples: usize,
}

/// What two states of a dataset differ in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diff {
    /// The versions compared.
    pub versions: (u64, u64),
    /// The columns that identify a row; none when whole rows are compared.
    pub key: Vec<String>,
    /// Rows before and after.
    pub rows: (u64, u64),
    /// Rows that are only there after.
    pub added: u64,
    /// Rows that are only there before.
    pub removed: u64,
    /// Rows whose key is in both, with other values.
    pub changed: u64,
    /// Columns that only one of them has.
    pub columns: Vec<String>,
    /// Some of the differences.
    pub samples: Vec<Difference>,
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// `added`, `removed` or `changed`.
    pub change: String,
    /// The key, or the whole row.
    pub row: String,
    /// The column that changed.
    pub column: Option<String>,
    /// Its value before.
    pub before: Option<String>,
    /// Its value after.
    pub after: Option<String>,
}

impl Workspace {
    /// Compares two states of a dataset.
    ///
    /// # Errors
    /// Returns [`Code::VERSION_UNKNOWN`] for states that are none, [`Code::COLUMN_UNKNOWN`] for a key that is none, and
    /// errors of the query.
    pub async fn diff(&self, options: &DiffOptions) -> Result<Diff> {
        let schema = &self.project.config.config.project.schema;
        let name = TableName::parse(&options.dataset, schema).ok_or_else(|| {
            Error::new(Code::NAME_INVALID, format!("{:?} is not schema.table", options.dataset))
        })?;
        let table = self.lake.table(&name);
        let newest = table.existing().await?;
        let before = version_as_of(&self.lake, &name, &AsOf::parse(&options.before)).await?;
        let after = match &options.after {
            Some(after) => version_as_of(&self.lake, &name, &AsOf::parse(after)).await?,
            None => newest.version(),
        };
        let (old, new) = (table.at(before).await?.schema()?, table.at(after).await?.schema()?);
        let mut key = self.key(&name, options, &old, &new).await?;
        let mut comparison = Comparison::new(&name, (before, after), &key, &old, &new);
        if !key.is_empty() && number(&self.rows(&comparison.repeated_keys()).await?, 0) > 0 {
            if !options.key.is_empty() {
                return Err(Error::new(
                    Code::USAGE,
                    format!("rows of \"{name}\" share values of {}, which are no key then", key.join(", ")),
                )
                .hint("name more columns with --key, or none to compare whole rows"));
            }
            // Nulls are not held to be unique, for one.
            key.clear();
            comparison = Comparison::new(&name, (before, after), &key, &old, &new);
        }
        let counts = self.rows(&comparison.counts()).await?;
        let count = |index| number(&counts, index);
        let samples = self.rows(&comparison.samples(options.samples)).await?;
        let only = |a: &Schema, b: &Schema| -> Vec<String> {
            let names = a.fields().iter().map(|field| field.name().clone());
            names.filter(|name| b.index_of(name).is_err()).collect()
        };
        Ok(Diff {
            versions: (before, after),
            rows: (count(0), count(1)),
            added: count(2),
            removed: count(3),
            changed: count(4),
            columns: only(&old, &new).into_iter().chain(only(&new, &old)).collect(),
            samples: samples.iter().flat_map(differences).collect(),
            key,
        })
    }

    async fn key(
        &self,
        name: &TableName,
        options: &DiffOptions,
        old: &Schema,
        new: &Schema,
    ) -> Result<Vec<String>> {
        let mut key = options.key.clone();
        if key.is_empty()
            && let Some(dataset) = self.check().await.datasets.iter().find(|dataset| dataset.name == *name)
        {
            let expectations = dataset.flows.iter().flat_map(|flow| flow.expectations.iter());
            let unique = expectations.filter_map(|expectation| Some(expectation.rule.unique()?.0.to_vec()));
            key = unique.into_iter().next().unwrap_or_default();
        }
        for column in &key {
            if old.index_of(column).is_err() || new.index_of(column).is_err() {
                return Err(Error::new(
                    Code::COLUMN_UNKNOWN,
                    format!("column \"{column}\" is not in both states of \"{name}\""),
                ));
            }
        }
        Ok(key)
    }

    async fn rows(&self, sql: &str) -> Result<Vec<RecordBatch>> {
        let stream = Access::new(self).query(&SqlText::new("diff", sql)).await?;
        stream.try_collect().await.map_err(query_error)
    }
}

/// A number in the first row of a result.
fn number(rows: &[RecordBatch], index: usize) -> u64 {
    let value = rows.first().and_then(|rows| {
        let column = rows.column(index).as_primitive_opt::<Int64Type>()?;
        column.is_valid(0).then(|| column.value(0))
    });
    u64::try_from(value.unwrap_or(0)).unwrap_or(0)
}

fn differences(rows: &RecordBatch) -> Vec<Difference> {
    let text = |column: usize, row: usize| {
        let column = rows.column(column);
        column.is_valid(row).then(|| array_value_to_string(column, row).unwrap_or_default())
    };
    (0..rows.num_rows())
        .map(|row| Difference {
            change: text(0, row).unwrap_or_default(),
            row: text(1, row).unwrap_or_default(),
            column: text(2, row),
            before: text(3, row),
            after: text(4, row),
        })
        .collect()
}

/// The queries that compare two states.
struct Comparison {
    before: String,
    after: String,
    key: Vec<String>,
    /// Columns of both that are not part of the key.
    values: Vec<String>,
    /// Those of them whose values are not written out.
    nested: Vec<String>,
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

impl Comparison {
    fn new(name: &TableName, versions: (u64, u64), key: &[String], old: &Schema, new: &Schema) -> Self {
        let table =
            |version| format!("{}.{} VERSION AS OF {version}", quoted(&name.schema), quoted(&name.table));
        let both = || old.fields().iter().filter(|field| new.index_of(field.name()).is_ok());
        let nested = both().filter(|field| field.data_type().is_nested());
        Self {
            before: table(versions.0),
            after: table(versions.1),
            key: key.iter().map(|column| quoted(column)).collect(),
            nested: nested.map(|field| quoted(field.name())).collect(),
            values: both()
                .filter(|field| !key.contains(field.name()))
                .map(|field| quoted(field.name()))
                .collect(),
        }
    }

    /// Both states side by side, joined by their key.
    fn joined(&self) -> String {
        let on: Vec<String> =
            self.key.iter().map(|column| format!("(a.{column} IS NOT DISTINCT FROM b.{column})")).collect();
        format!(
            "(SELECT *, 1 AS \"__there\" FROM {}) a FULL JOIN (SELECT *, 1 AS \"__there\" FROM {}) b ON {}",
            self.before,
            self.after,
            on.join(" AND ")
        )
    }

    /// Whole rows with how often more they are there after than before.
    fn weighed(&self) -> String {
        let columns = self.values.join(", ");
        format!(
            "(SELECT {columns}, sum(\"__weight\") AS \"__more\" FROM (SELECT {columns}, 1 AS \"__weight\" FROM {} \
             UNION ALL SELECT {columns}, -1 AS \"__weight\" FROM {}) GROUP BY {columns} HAVING sum(\"__weight\") <> 0)",
            self.after, self.before
        )
    }

    /// How many keys stand for more than one row, on either side.
    fn repeated_keys(&self) -> String {
        let keys = self.key.join(", ");
        let side = |table: &str| {
            format!(
                "SELECT count(*) AS n FROM (SELECT {keys} FROM {table} GROUP BY {keys} HAVING count(*) > 1)"
            )
        };
        format!("SELECT sum(n) FROM ({} UNION ALL {})", side(&self.before), side(&self.after))
    }

    /// Rows before and after, added, removed, changed.
    fn counts(&self) -> String {
        if self.key.is_empty() {
            return format!(
                "SELECT (SELECT count(*) FROM {}) AS before, (SELECT count(*) FROM {}) AS after, \
                 coalesce(sum(CASE WHEN \"__more\" > 0 THEN \"__more\" END), 0), \
                 coalesce(sum(CASE WHEN \"__more\" < 0 THEN -\"__more\" END), 0), CAST(0 AS BIGINT) FROM {}",
                self.before,
                self.after,
                self.weighed()
            );
        }
        format!(
            "SELECT count(a.\"__there\"), count(b.\"__there\"), \
             count(CASE WHEN a.\"__there\" IS NULL THEN 1 END), count(CASE WHEN b.\"__there\" IS NULL THEN 1 END), \
             count(CASE WHEN a.\"__there\" = b.\"__there\" AND ({}) THEN 1 END) FROM {}",
            self.differs(),
            self.joined()
        )
    }

    fn differs(&self) -> String {
        let parts: Vec<String> =
            self.values.iter().map(|column| format!("(a.{column} IS DISTINCT FROM b.{column})")).collect();
        if parts.is_empty() { "false".to_owned() } else { parts.join(" OR ") }
    }

    /// Some differences: kind, row, column, before, after.
    fn samples(&self, limit: usize) -> String {
        let value = |side: &str, column: &String| match self.nested.contains(column) {
            true => format!("CASE WHEN {side}{column} IS NULL THEN NULL ELSE '(nested)' END"),
            false => format!("CAST({side}{column} AS VARCHAR)"),
        };
        let text = |side: &str, columns: &[String]| {
            let parts: Vec<String> =
                columns.iter().map(|column| format!("coalesce({}, 'NULL')", value(side, column))).collect();
            parts.join(" || ', ' || ")
        };
        if self.key.is_empty() {
            return format!(
                "SELECT CASE WHEN \"__more\" > 0 THEN 'added' ELSE 'removed' END, {}, NULL AS name, NULL AS before, NULL AS after \
                 FROM {} ORDER BY 1, 2 LIMIT {limit}",
                text("", &self.values),
                self.weighed()
            );
        }
        let joined = self.joined();
        let (a, b) = (text("a.", &self.key), text("b.", &self.key));
        let mut parts: Vec<String> = self
            .values
            .iter()
            .map(|column| {
                format!(
                    "SELECT 'changed' AS change, {a} AS key, '{}' AS name, {} AS before, {} AS after FROM {joined} \
                     WHERE a.\"__there\" = b.\"__there\" AND (a.{column} IS DISTINCT FROM b.{column})",
                    column.trim_matches('"').replace('\'', "''"),
                    value("a.", column),
                    value("b.", column)
                )
            })
            .collect();
        let lone = |change: &str, key: &str, missing: &str| {
            format!(
                "SELECT '{change}' AS change, {key} AS key, NULL AS name, NULL AS before, NULL AS after \
                 FROM {joined} WHERE {missing}.\"__there\" IS NULL"
            )
        };
        parts.push(lone("removed", &a, "b"));
        parts.push(lone("added", &b, "a"));
        format!("SELECT * FROM ({}) ORDER BY 1, 2, 3 LIMIT {limit}", parts.join(" UNION ALL "))
    }
}
