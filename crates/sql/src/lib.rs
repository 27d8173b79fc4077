//! SQL: text with places, queries and their relations, sessions, functions, lineage.
//!
//! **Never**: decides what a relation is (its caller binds it), writes a table, makes a session outside
//! [`Sessions`].

mod dialect;
mod distinct;
mod functions;
mod lineage;
mod query;
mod session;
mod sorted;
mod system;
#[cfg(test)]
mod tests;
mod text;
mod time_travel;
mod zorder;

pub use dialect::CatchmentDialect;
pub use lineage::{Origin, column_origins, filtered_columns, kept_columns};
pub use query::{
    Argument, BoundQuery, ParsedQuery, Relation, Target, parse_query, parse_single_query, parser_for,
};
pub use session::{Moment, Planner, SessionOptions, Sessions, query_error};
pub use system::{ComputedTable, system_tables};
pub use text::{SqlText, nearest};
pub use time_travel::AsOf;
pub use zorder::{ZORDER_FUNCTION, ZOrder};
