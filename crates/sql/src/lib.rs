//! SQL: text with places, queries and their relations, sessions, functions, lineage.
//!
//! **Never**: decides what a relation is (its caller binds it), writes a table, makes a session outside
//! [`Sessions`].

mod bit_xor;
mod definition;
mod dialect;
mod distinct;
mod distinct_first;
mod functions;
mod hidden;
mod lineage;
mod query;
mod running;
mod session;
mod sorted;
mod stream_words;
mod system;
#[cfg(test)]
mod tests;
mod text;
mod time_travel;
mod windows;
mod zorder;

pub use definition::{DefinedInput, Definition, Kept};
pub use dialect::CatchmentDialect;
pub use lineage::{Origin, column_origins, filtered_columns, kept_columns};
pub use query::{
    Argument, BoundQuery, ParsedQuery, Relation, RelationWords, Target, parse_query, parse_single_query,
    parser_for,
};
pub use running::Running;
pub use session::{Moment, Planner, SessionOptions, Sessions, query_error, require_columns};
pub use system::{ComputedTable, system_tables};
pub use text::{SqlText, nearest};
pub use time_travel::AsOf;
pub use windows::{
    Closed, LateRows, WINDOW_END, WINDOW_START, Watermark, WindowShape, WindowedScan, closed_function,
    columns_read, finds_sessions, interval_micros, is_meeting, makes_windows, meeting_scans, reads,
    session_rows, unsettled_sessions, window_bound, window_shapes, windowed_scans, with_meetings,
};
pub use zorder::{ZORDER_FUNCTION, ZOrder};
