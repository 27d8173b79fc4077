//! `system.windows`: why windows have closed, or have not.

use std::sync::Arc;

use catchment_core::{Code, Error, FlowName, Result, TableName};
use catchment_flows::{Allows, InputState, PartitionTime, WindowState, window_state};
use catchment_sql::ComputedTable;
use datafusion::arrow::array::{
    ArrayRef, BooleanArray, RecordBatch, StringArray, TimestampMicrosecondArray, UInt64Array,
};
use datafusion::arrow::datatypes::{Field, Schema};
use datafusion::catalog::TableProvider;

use crate::run::Workspace;

/// A row of the table: a partition of an input of a flow.
struct Row {
    flow: FlowName,
    input: String,
    partition: String,
    known: PartitionTime,
    /// Whether no other partition of the flow holds the watermark back more.
    holds_back: bool,
    reason: Option<String>,
    watermark: Option<i64>,
    late: u64,
    refused: u64,
    held: u64,
    bytes: u64,
    open: Option<u64>,
}

/// The table, for the flows given with the tables that they write.
pub(crate) async fn windows_table(
    workspace: &Workspace,
    flows: &[(FlowName, TableName)],
) -> Result<Arc<dyn TableProvider>> {
    let now = workspace.clock.now_micros();
    let mut rows = Vec::new();
    for (flow, target) in flows {
        if let Some(state) = window_state(&workspace.lake, target, flow).await? {
            rows.extend(rows_of(flow, &state, now));
        }
    }
    let texts =
        |of: fn(&Row) -> Option<&str>| -> ArrayRef { Arc::new(rows.iter().map(of).collect::<StringArray>()) };
    let counts = |of: fn(&Row) -> u64| -> ArrayRef { Arc::new(rows.iter().map(of).collect::<UInt64Array>()) };
    let times = |of: fn(&Row) -> Option<i64>| -> ArrayRef {
        Arc::new(rows.iter().map(of).collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
    };
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("flow", texts(|row| Some(row.flow.as_str()))),
        ("input", texts(|row| Some(&row.input))),
        ("partition", texts(|row| Some(&row.partition))),
        ("watermark", times(|row| row.watermark)),
        ("newest_event", times(|row| row.known.newest)),
        ("heard_at", times(|row| Some(row.known.heard_at))),
        ("holds_back", Arc::new(rows.iter().map(|row| Some(row.holds_back)).collect::<BooleanArray>())),
        ("reason", texts(|row| row.reason.as_deref())),
        ("late_rows", counts(|row| row.late)),
        ("refused_rows", counts(|row| row.refused)),
        ("held_rows", counts(|row| row.held)),
        ("held_bytes", counts(|row| row.bytes)),
        ("open_windows", Arc::new(rows.iter().map(|row| row.open).collect::<UInt64Array>())),
    ];
    let fields: Vec<Field> =
        columns.iter().map(|(name, column)| Field::new(*name, column.data_type().clone(), true)).collect();
    let schema = Arc::new(Schema::new(fields));
    let columns = columns.into_iter().map(|(_, column)| column).collect();
    let rows = RecordBatch::try_new(Arc::clone(&schema), columns)
        .map_err(|error| Error::new(Code::INTERNAL, "could not compute system.windows").because(error))?;
    Ok(Arc::new(ComputedTable::new(schema, move || Ok(rows.clone()))))
}

fn rows_of(flow: &FlowName, state: &WindowState, now: i64) -> Vec<Row> {
    let least = state.inputs.values().map(|input| input.allows(now)).min();
    let mut rows = Vec::new();
    for (name, input) in &state.inputs {
        let (held, bytes) = (input.rows(), input.bytes());
        for (partition, known) in &input.partitions {
            let allows = input.partition_allows(known, now);
            let holds_back = Some(allows) == least && allows != Allows::Anything;
            rows.push(Row {
                flow: flow.clone(),
                input: name.clone(),
                partition: partition.clone(),
                known: *known,
                holds_back,
                reason: reason(input, known, (allows, holds_back, least), now),
                watermark: state.watermark,
                late: state.late,
                refused: state.timeless,
                held,
                bytes,
                open: input.open_windows,
            });
        }
    }
    rows
}

/// Why a partition lets the watermark do what it does.
fn reason(
    input: &InputState,
    known: &PartitionTime,
    (allows, holds_back, least): (Allows, bool, Option<Allows>),
    now: i64,
) -> Option<String> {
    let silent = now.saturating_sub(known.heard_at) / 1_000_000;
    match allows {
        Allows::Nothing if input.behind => {
            Some("more is to be read before anything is known of its time".to_owned())
        }
        Allows::Nothing => Some(match input.idle {
            Some(idle) => format!(
                "no event yet; it counts as idle after {} s, {silent} s have passed",
                idle / 1_000_000
            ),
            None => "no event yet".to_owned(),
        }),
        Allows::Anything if least == Some(Allows::Anything) => Some(format!(
            "idle as all are: no event for {silent} s; windows that end behind the newest event wait for the next one"
        )),
        Allows::Anything => Some(format!("idle: no event for {silent} s")),
        Allows::Until(_) if holds_back => {
            Some(format!("its newest event is the oldest; events may be {} s late", input.delay / 1_000_000))
        }
        Allows::Until(_) => None,
    }
}
