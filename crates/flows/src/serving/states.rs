//! States of groups as bytes.

use catchment_core::Result;
use datafusion::arrow::array::{ArrayRef, RecordBatch};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::row::RowConverter;

use crate::serving::rows::{AGE_BYTES, aged, bytes, converter, corrupt};

/// How the states of groups are written: a group's columns are the key, all columns the value.
pub(crate) struct States {
    schema: SchemaRef,
    groups: RowConverter,
    all: RowConverter,
    count: usize,
}

impl States {
    /// Of states whose first `count` columns are those of the groups.
    pub(crate) fn new(schema: &SchemaRef, count: usize) -> Result<Self> {
        let all: Vec<usize> = (0..schema.fields().len()).collect();
        let schema = schema.clone();
        Ok(Self { groups: converter(&schema, &all[..count])?, all: converter(&schema, &all)?, schema, count })
    }

    /// The groups of some states, as bytes.
    pub(crate) fn groups(&self, states: &RecordBatch) -> Result<Vec<Vec<u8>>> {
        bytes(&self.groups, &states.columns()[..self.count])
    }

    pub(crate) fn write(&self, states: &RecordBatch, written_at: i64) -> Result<Vec<Vec<u8>>> {
        Ok(bytes(&self.all, states.columns())?.iter().map(|state| aged(written_at, state)).collect())
    }

    pub(crate) fn read(&self, values: &[impl AsRef<[u8]>]) -> Result<RecordBatch> {
        let parser = self.all.parser();
        let rows =
            values.iter().map(|value| parser.parse(value.as_ref().get(AGE_BYTES..).unwrap_or_default()));
        let columns: Vec<ArrayRef> = self.all.convert_rows(rows).map_err(corrupt)?;
        RecordBatch::try_new(self.schema.clone(), columns).map_err(corrupt)
    }
}
