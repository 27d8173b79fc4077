//! Windows over streams: rows wait until the windows that they belong to are closed, then the query runs over exactly
//! these windows, as it would in a batch.
//!
//! ```text
//! rows of the batch --late?--> counted
//!        |
//!        v                 watermark = least of what the partitions allow
//!     put aside  --------> windows that end at or before it are closed by this batch
//!        |                        |
//!        v                        v
//! rows of open windows      query over the rows of closed windows, held back ones included
//! into a file of state            |
//!        |                        v
//!        +----- staged record: state, files of the table ------> published
//! ```
//!
//! The state of a flow is what its last staged batch names: there is nothing to replay when a process dies, a rollback
//! finds the state of the batch that it goes back to, and whatever SQL can say of a window's rows is right.

mod gather;
mod held;
mod hold;
mod late;
mod open;
mod runs;
mod state;
mod times;

use std::collections::{BTreeMap, BTreeSet};

use catchment_core::{Code, Error, Position, Result};
use catchment_lake::{Lake, widens};
use catchment_sql::WindowShape;
use datafusion::arrow::datatypes::DataType;
use datafusion::logical_expr::Expr;

pub(crate) use open::{OpenRows, open_rows};
pub(crate) use runs::remove_unnamed;
pub use state::{Allows, InputState, PartitionTime, Run, WindowState};

use crate::bookmarks::window_state;
use crate::records::{BatchPlan, Records};
use crate::spec::FlowSpec;

/// The event time of a streamed input, and the windows that its rows are put into.
#[derive(Debug, Clone)]
pub struct EventTime {
    /// The time of an event, over the input's columns.
    pub time: Expr,
    /// How the windows lie.
    pub shape: WindowShape,
    /// How late an event may come, in microseconds.
    pub delay: i64,
    /// After how many microseconds without an event a partition holds nothing back; `None` for never.
    pub idle: Option<i64>,
    /// How many microseconds an event may be ahead of the batch; one that is further ahead would close every window.
    pub ahead: i64,
    /// The input's columns that the query looks at, the time's among them.
    pub columns: Vec<String>,
    /// What decides which rows make sessions, when they do.
    pub sessions: Option<String>,
    /// Whether nothing was said of the delay.
    pub defaulted: bool,
}

impl EventTime {
    /// What decides which rows are held back and for how long.
    pub(crate) fn definition(&self) -> String {
        let by = self.sessions.as_ref().map(|text| xxhash_rust::xxh3::xxh3_128(text.as_bytes()));
        let by = by.map_or_else(String::new, |by| format!("{BY}{by:032x}"));
        format!("{} in {}{by}", self.time, self.shape)
    }
}

/// What stands in a definition before the mark of the rows that make sessions.
const BY: &str = " by rows ";

/// The batch whose staged record has the state that a flow goes on from, when the plan is that of its last batch.
pub(crate) async fn state_position(records: &Records<'_>, last: &BatchPlan) -> Result<Option<Position>> {
    let mut plan = last.clone();
    while plan.is_opening() {
        // What a rollback opens goes on from its parent.
        let Some(parent) = plan.parent else { return Ok(None) };
        plan = records.plan(parent).await?;
    }
    Ok(Some(plan.position))
}

/// The state of a flow after a batch.
pub(crate) async fn state_at(records: &Records<'_>, at: Option<Position>) -> Result<WindowState> {
    match at {
        Some(at) => Ok(records.staged(at).await?.windows.unwrap_or_default()),
        None => Ok(WindowState::default()),
    }
}

/// How many rows wait for the windows of a flow, when it can go on from them as it is defined now.
///
/// # Errors
/// Returns [`Code::FLOW_TARGET`] when they are not those that its query wants, and errors of reading records.
pub async fn held_rows(lake: &Lake, spec: &FlowSpec) -> Result<u64> {
    let state = window_state(lake, &spec.target, &spec.name).await?.unwrap_or_default();
    require_state(spec, &state)?;
    Ok(state.inputs.values().map(InputState::rows).sum())
}

/// Makes sure that a flow can go on from its state: rows that are held back must be those that its query wants.
pub(crate) fn require_state(spec: &FlowSpec, state: &WindowState) -> Result<()> {
    let refuse = |what: String| {
        let sources: BTreeSet<&str> = spec.inputs.iter().map(|input| input.name.as_str()).collect();
        let sources = sources.into_iter().collect::<Vec<_>>().join(" and ");
        Err(Error::new(Code::FLOW_TARGET, format!("flow \"{}\" holds rows back that {what}", spec.name))
            .at(spec.text.place(spec.query.span))
            .hint(format!(
                "change the query back, or build the table anew from all that {sources} holds now: `catchment run --full-refresh --select {}`",
                spec.target
            )))
    };
    for (name, input) in state.inputs.iter().filter(|(_, input)| !input.runs.is_empty()) {
        let Some(event_time) = spec.windows.get(name) else {
            return refuse(format!("came from \"{name}\", which is not read in windows any more"));
        };
        if event_time.definition() != input.definition {
            let before = input.definition.split(BY).next().unwrap_or_default();
            return match before == event_time.definition().split(BY).next().unwrap_or_default() {
                true => refuse(format!("were put into windows ({before}) by another condition or key")),
                false => refuse(format!("wait for other windows: {before}")),
            };
        }
        let kept: BTreeMap<&str, &str> =
            input.columns.iter().map(|(name, kind)| (name.as_str(), kind.as_str())).collect();
        for (column, kind) in event_time.typed_columns(spec, name) {
            match kept.get(column.as_str()) {
                Some(known) if **known == *kind || is_wider(known, &kind) => {}
                Some(known) => return refuse(format!("have column \"{column}\" as {known}, not {kind}")),
                // The input did not have it when the rows came.
                None if !input.of_input.contains(&column) => {}
                None => return refuse(format!("lack column \"{column}\"")),
            }
        }
    }
    Ok(())
}

/// Whether values of one type, told as text, are values of another one too.
fn is_wider(from: &str, to: &str) -> bool {
    let parsed = |text: &str| text.parse::<DataType>();
    matches!((parsed(from), parsed(to)), (Ok(from), Ok(to)) if widens(&from, &to))
}
