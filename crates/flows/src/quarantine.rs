//! What could not be published is kept beside its dataset, in `<table>__quarantine`.

use std::sync::Arc;

use catchment_core::{Code, Error, Result};
use catchment_ingest::{Address, BrokenFile, RejectSink, SourceRecord, first_piece};
use catchment_lake::{FileWriter, TableSpec, WrittenFiles};
use datafusion::arrow::array::{
    ArrayRef, Int64Array, ListArray, ListBuilder, RecordBatch, StringArray, StringBuilder,
    TimestampMicrosecondArray, new_null_array,
};
use datafusion::arrow::buffer::OffsetBuffer;
use datafusion::arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use tokio::sync::mpsc;

use crate::backfill::Replacing;
use crate::judge::{BadRows, PARTLY_PUBLISHED, names};
use crate::records::BatchPlan;
use crate::spec::{FlowSpec, InputKind};
use crate::stage::without;

/// The rule that a record breaks when it cannot be decoded.
const MALFORMED: &str = "malformed_record";

/// The rule that a file breaks when it cannot be read as a whole.
pub(crate) const BROKEN: &str = "broken_file";

/// Said of a record of which other rows were published: it is not replayed.
pub(crate) const PARTLY: &str = "partly_published";

/// What a quarantine table is declared to be. Its columns are the same for every dataset, and all
/// values are kept as text, so that any row can be stored.
#[must_use]
pub fn quarantine_spec(dataset: &catchment_core::TableName) -> TableSpec {
    let text = |name: &str| Field::new(name, DataType::Utf8, true);
    let number = |name: &str| Field::new(name, DataType::Int64, true);
    let schema = Schema::new(vec![
        Field::new("rules", DataType::List(Arc::new(Field::new("element", DataType::Utf8, true))), true),
        text("reason"),
        text("source"),
        text("file_path"),
        number("byte_offset"),
        number("row_number"),
        text("record"),
        text("header"),
        text("flow"),
        number("epoch"),
        number("batch"),
        Field::new("quarantined_at", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), true),
    ]);
    TableSpec {
        schema: Arc::new(schema),
        partition_columns: Vec::new(),
        comment: Some(format!("what could not be published to {dataset}")),
        properties: Vec::new(),
    }
}

/// A row that broke expectations, and its record.
pub(crate) struct BadRecord {
    rules: u64,
    pub(crate) record: SourceRecord,
    source: Option<String>,
}

/// Looks up the records of rows in the sources of a flow.
pub(crate) async fn look_up(
    spec: &FlowSpec,
    plan: &BatchPlan,
    broken: &[BrokenFile],
    mut rows: Vec<(u64, u64)>,
) -> Result<Vec<BadRecord>> {
    let mut inputs = Vec::new();
    let mut pieces = 0;
    for input in &spec.inputs {
        if let (InputKind::Stream(source, _), Some(range)) = (&input.kind, plan.ranges.get(&input.name)) {
            let range = without(range, broken);
            let first = first_piece(pieces)?;
            pieces += range.pieces();
            inputs.push((input.name.clone(), Arc::clone(source), range, first));
        }
    }
    let looked = tokio::task::spawn_blocking(move || {
        // A join makes several rows of one record.
        rows.sort_unstable();
        rows.dedup_by(|later, first| {
            let same = later.0 == first.0;
            first.1 |= if same { later.1 } else { 0 };
            same
        });
        let addresses: Vec<Address> = rows.iter().map(|(address, _)| Address(*address)).collect();
        let mut found = Vec::with_capacity(rows.len());
        for (name, source, range, first) in inputs {
            for record in source.records(&range, first, &addresses)? {
                if let Ok(at) = rows.binary_search_by_key(&record.address.0, |(address, _)| *address) {
                    found.push(BadRecord { rules: rows[at].1, record, source: Some(name.clone()) });
                }
            }
        }
        Ok(found)
    });
    looked.await.map_err(|error| Error::new(Code::INTERNAL, "a look-up ended early").because(error))?
}

/// Takes what cannot be published off its channels and writes it.
pub(crate) struct Quarantine<F> {
    spec: FlowSpec,
    plan: BatchPlan,
    /// Files that are left out of the batch.
    broken: Vec<BrokenFile>,
    /// What is in quarantine already, when the batch reads its input again.
    replacing: Option<Arc<Replacing>>,
    open: F,
    writer: Option<FileWriter>,
}

impl<F: FnMut() -> Result<FileWriter>> Quarantine<F> {
    pub(crate) fn new(
        spec: &FlowSpec,
        plan: &BatchPlan,
        broken: &[BrokenFile],
        replacing: Option<Arc<Replacing>>,
        open: F,
    ) -> Self {
        Self {
            spec: spec.clone(),
            plan: plan.clone(),
            broken: broken.to_vec(),
            replacing,
            open,
            writer: None,
        }
    }

    /// Runs until all senders are gone.
    pub(crate) async fn take(
        mut self,
        mut rejected: RejectSink,
        mut bad: mpsc::Receiver<BadRows>,
    ) -> Result<Option<FileWriter>> {
        let mut open = true;
        while open {
            tokio::select! {
                Some(rejects) = rejected.recv() => self.malformed(&rejects).await?,
                Some(rows) = bad.recv() => self.bad_rows(rows).await?,
                else => open = false,
            }
        }
        Ok(self.writer)
    }

    async fn malformed(&mut self, rejects: &RecordBatch) -> Result<()> {
        let fresh = match &self.replacing {
            Some(replacing) => replacing.fresh(rejects)?,
            None => rejects.clone(),
        };
        if fresh.num_rows() == 0 {
            return Ok(());
        }
        self.write(&rows_of(&self.plan, &[MALFORMED], &fresh)?).await
    }

    async fn bad_rows(&mut self, rows: BadRows) -> Result<()> {
        let mut bad = match rows {
            BadRows::Rejected(rejects) => return self.malformed(&rejects).await,
            BadRows::Addresses(rows) => look_up(&self.spec, &self.plan, &self.broken, rows).await?,
            BadRows::Records(rows) => rows
                .into_iter()
                .map(|(rules, record)| {
                    let (file, byte_offset, row_number) = (String::new(), None, None);
                    let record = SourceRecord {
                        address: Address(0),
                        file,
                        byte_offset,
                        row_number,
                        record,
                        header: None,
                    };
                    BadRecord { rules, record, source: None }
                })
                .collect(),
        };
        if let Some(replacing) = &self.replacing {
            bad.retain(|bad| !replacing.holds(bad));
            for bad in bad.iter_mut().filter(|bad| replacing.is_partly_published(bad.record.address)) {
                bad.rules |= PARTLY_PUBLISHED;
            }
        }
        for bad in bad.chunks(8_192) {
            let rows = self.broken_rules(bad)?;
            self.write(&rows).await?;
        }
        Ok(())
    }

    /// Rows of the quarantine table for rows that broke expectations.
    fn broken_rules(&self, bad: &[BadRecord]) -> Result<RecordBatch> {
        let number = |value: Option<u64>| value.and_then(|value| i64::try_from(value).ok());
        let mut rules =
            ListBuilder::new(StringBuilder::new()).with_field(Field::new("element", DataType::Utf8, true));
        let mut reasons = StringBuilder::new();
        for bad in bad {
            let broken = names(&self.spec.expectations, bad.rules);
            let reason: Vec<String> = broken.iter().map(|rule| rule.describe()).collect();
            reasons.append_value(reason.join("; "));
            broken.iter().for_each(|rule| rules.values().append_value(&rule.name));
            if bad.rules & PARTLY_PUBLISHED != 0 {
                rules.values().append_value(PARTLY);
            }
            rules.append(true);
        }
        let file = |bad: &BadRecord| (!bad.record.file.is_empty()).then(|| bad.record.file.clone());
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("rules", Arc::new(rules.finish())),
            ("reason", Arc::new(reasons.finish())),
            ("source", Arc::new(bad.iter().map(|bad| bad.source.clone()).collect::<StringArray>())),
            ("file_path", Arc::new(bad.iter().map(file).collect::<StringArray>())),
            (
                "byte_offset",
                Arc::new(bad.iter().map(|bad| number(bad.record.byte_offset)).collect::<Int64Array>()),
            ),
            (
                "row_number",
                Arc::new(bad.iter().map(|bad| number(bad.record.row_number)).collect::<Int64Array>()),
            ),
            ("record", Arc::new(bad.iter().map(|bad| Some(&bad.record.record)).collect::<StringArray>())),
            ("header", Arc::new(bad.iter().map(|bad| bad.record.header.as_deref()).collect::<StringArray>())),
        ];
        stamped(&self.plan, columns, bad.len())
    }

    async fn write(&mut self, rows: &RecordBatch) -> Result<()> {
        let writer = match &mut self.writer {
            Some(writer) => writer,
            none => none.insert((self.open)()?),
        };
        writer.write(rows).await
    }
}

/// Adds the broken files, and finishes the quarantine's data files.
pub(crate) async fn finish(
    writer: Option<FileWriter>,
    open: impl FnOnce() -> Result<FileWriter>,
    broken: &[BrokenFile],
    plan: &BatchPlan,
) -> Result<WrittenFiles> {
    let kept: Vec<&BrokenFile> = broken.iter().filter(|broken| !broken.vanished).collect();
    let mut writer = match writer {
        Some(writer) => writer,
        None if kept.is_empty() => return Ok(WrittenFiles::default()),
        None => open()?,
    };
    if !kept.is_empty() {
        let columns: Vec<(&str, ArrayRef)> = vec![
            (
                "file_path",
                Arc::new(StringArray::from_iter_values(kept.iter().map(|broken| &broken.file.path))),
            ),
            ("byte_offset", Arc::new(Int64Array::new_null(kept.len()))),
            ("reason", Arc::new(StringArray::from_iter_values(kept.iter().map(|broken| &broken.reason)))),
            ("record", Arc::new(StringArray::new_null(kept.len()))),
        ];
        let files = RecordBatch::try_from_iter_with_nullable(
            columns.into_iter().map(|(name, column)| (name, column, true)),
        )
        .map_err(internal)?;
        writer.write(&rows_of(plan, &[BROKEN], &files)?).await?;
    }
    writer.finish().await
}

/// Rejects as rows of the quarantine table.
fn rows_of(plan: &BatchPlan, rules: &[&str], rejects: &RecordBatch) -> Result<RecordBatch> {
    let count = rejects.num_rows();
    let broken = ListArray::try_new(
        Arc::new(Field::new("element", DataType::Utf8, true)),
        OffsetBuffer::from_lengths(std::iter::repeat_n(rules.len(), count)),
        Arc::new(StringArray::from(rules.repeat(count))),
        None,
    )
    .map_err(internal)?;
    let mut columns: Vec<(&str, ArrayRef)> = vec![("rules", Arc::new(broken))];
    for name in ["reason", "source", "file_path", "byte_offset", "row_number", "record", "header"] {
        columns.extend(rejects.column_by_name(name).map(|column| (name, Arc::clone(column))));
    }
    stamped(plan, columns, count)
}

/// Rows of the quarantine table: the columns given, those of the batch, and null for the rest.
fn stamped(plan: &BatchPlan, mut columns: Vec<(&str, ArrayRef)>, count: usize) -> Result<RecordBatch> {
    let number =
        |value: u64| Arc::new(Int64Array::from(vec![i64::try_from(value).unwrap_or(i64::MAX); count]));
    // What a replay leaves behind is still the flow's.
    let flow = plan.flow.as_str().trim_end_matches("@replay");
    columns.extend::<[(&str, ArrayRef); 4]>([
        ("flow", Arc::new(StringArray::from(vec![flow; count]))),
        ("epoch", number(u64::from(plan.position.epoch))),
        ("batch", number(plan.position.number)),
        (
            "quarantined_at",
            Arc::new(TimestampMicrosecondArray::from(vec![plan.planned_at; count]).with_timezone("UTC")),
        ),
    ]);
    let schema = quarantine_spec(&catchment_core::TableName::new("", "")).schema;
    let ordered = schema
        .fields()
        .iter()
        .map(|field| {
            let found =
                columns.iter().find(|(name, _)| name == field.name()).map(|(_, column)| Arc::clone(column));
            found.unwrap_or_else(|| new_null_array(field.data_type(), count))
        })
        .collect();
    RecordBatch::try_new(schema, ordered).map_err(internal)
}

fn internal(error: datafusion::arrow::error::ArrowError) -> Error {
    Error::new(Code::INTERNAL, "could not write to quarantine").because(error)
}
