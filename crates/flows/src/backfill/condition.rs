//! Which partitions of a table are meant: a condition on its partition columns.

use std::sync::Arc;

use catchment_core::{Code, Error, Result};
use catchment_lake::{Add, TableSpec};
use catchment_sql::{Moment, Sessions, SqlText, query_error};
use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, RecordBatch, RecordBatchOptions, StringArray, new_null_array,
};
use datafusion::arrow::compute::{CastOptions, cast_with_options};
use datafusion::arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::physical_expr::utils::collect_columns;
use datafusion::physical_expr_common::physical_expr::is_volatile;
use datafusion::physical_plan::PhysicalExpr;

/// A condition on the partition columns of a table, ready to be evaluated.
#[derive(Debug, Clone)]
pub struct PartitionCondition {
    expr: Arc<dyn PhysicalExpr>,
    schema: SchemaRef,
    partition_columns: Vec<String>,
}

impl PartitionCondition {
    /// Plans a condition. `moment` is what `now()` says in it.
    ///
    /// # Errors
    /// Returns errors of syntax, names and types with their place in the text, and [`Code::OPTION_INVALID`] for a
    /// condition on other columns than the table is partitioned by.
    pub fn plan(sessions: &Sessions, moment: Moment, text: &str, table: &TableSpec) -> Result<Self> {
        let text = SqlText::new("condition", text);
        let (expr, span) = text.expression()?;
        let planner = sessions.planner(moment)?;
        let expr = planner.condition(&text, &expr, span, &table.schema)?;
        if is_volatile(&expr) {
            return Err(Error::new(
                Code::OPTION_INVALID,
                "the condition gives another answer each time it is asked",
            )
            .hint("leave random() and uuid() out"));
        }
        let columns = &table.partition_columns;
        if let Some(other) =
            collect_columns(&expr).iter().find(|used| !columns.contains(&used.name().to_owned()))
        {
            let hint = match columns.is_empty() {
                true => {
                    "the table has no partitions; `catchment run --full-refresh` builds it anew".to_owned()
                }
                false => format!("its partition columns are {}", columns.join(", ")),
            };
            return Err(Error::new(
                Code::OPTION_INVALID,
                format!("the condition looks at \"{}\", which is no partition column", other.name()),
            )
            .hint(hint));
        }
        // Columns of files that are not looked at are null.
        let fields: Vec<_> =
            table.schema.fields().iter().map(|field| field.as_ref().clone().with_nullable(true)).collect();
        Ok(Self { expr, schema: Arc::new(Schema::new(fields)), partition_columns: columns.clone() })
    }

    /// The columns that it looks at.
    #[must_use]
    pub fn columns(&self) -> Vec<String> {
        collect_columns(&self.expr).iter().map(|column| column.name().to_owned()).collect()
    }

    /// Which of the rows are in the partitions; rows for which the condition is null are not.
    ///
    /// # Errors
    /// Returns the error of evaluating it.
    pub fn rows(&self, rows: &RecordBatch) -> Result<BooleanArray> {
        let rows = self.as_stored(rows)?;
        let held = self.expr.evaluate(&rows).and_then(|value| value.into_array(rows.num_rows()));
        let held = held.map_err(query_error)?;
        let Some(held) = held.as_boolean_opt() else {
            return Err(Error::new(Code::INTERNAL, "a condition gives no boolean"));
        };
        Ok(match held.nulls() {
            Some(known) => BooleanArray::new(held.values() & known.inner(), None),
            None => held.clone(),
        })
    }

    /// The rows with the partition values that they have as files: an empty text is null there.
    fn as_stored(&self, rows: &RecordBatch) -> Result<RecordBatch> {
        let mut columns = rows.columns().to_vec();
        let mut fields: Vec<_> = rows.schema().fields().iter().cloned().collect();
        for name in &self.partition_columns {
            let Ok(index) = rows.schema().index_of(name) else { continue };
            let Some(texts) = columns[index].as_string_opt::<i32>() else { continue };
            if texts.iter().any(|text| text == Some("")) {
                let stored: StringArray =
                    texts.iter().map(|text| text.filter(|text| !text.is_empty())).collect();
                columns[index] = Arc::new(stored);
                fields[index] = Arc::new(fields[index].as_ref().clone().with_nullable(true));
            }
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options)
            .map_err(|error| Error::new(Code::INTERNAL, "could not look at partitions").because(error))
    }

    /// Which of the data files are in the partitions.
    ///
    /// # Errors
    /// Returns [`Code::LOG_CORRUPT`] when a partition value is not of its column's type.
    pub fn files(&self, files: &[Add]) -> Result<Vec<bool>> {
        if files.is_empty() {
            return Ok(Vec::new());
        }
        let columns =
            self.schema.fields().iter().map(|field| self.values(field, files)).collect::<Result<_>>()?;
        let rows = RecordBatch::try_new(Arc::clone(&self.schema), columns)
            .map_err(|error| Error::new(Code::INTERNAL, "could not look at partitions").because(error))?;
        Ok(self.rows(&rows)?.iter().map(|held| held == Some(true)).collect())
    }

    fn values(&self, field: &Field, files: &[Add]) -> Result<ArrayRef> {
        if !self.partition_columns.contains(field.name()) {
            return Ok(new_null_array(field.data_type(), files.len()));
        }
        let value = |file: &Add| file.partition_values.get(field.name()).cloned().flatten();
        let text: ArrayRef = Arc::new(files.iter().map(value).collect::<StringArray>());
        let options = CastOptions { safe: false, ..CastOptions::default() };
        cast_with_options(&text, field.data_type(), &options).map_err(|error| {
            Error::new(Code::LOG_CORRUPT, format!("a partition value of \"{}\" cannot be read", field.name()))
                .because(error)
        })
    }
}
