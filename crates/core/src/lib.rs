//! Words every other crate shares: names, positions, errors with codes, clocks, sizes, fault points.
//!
//! Everything here is pure: no files, no network, no async runtime. A type lives here only when
//! at least two crates need it and none of them owns the idea.
//!
//! **Never**: I/O, DataFusion, global state, reading the environment.

mod backoff;
mod clock;
mod code;
mod error;
mod faults;
mod host;
mod name;
mod place;
mod position;
mod size;

pub use backoff::Backoff;
pub use clock::{Clock, FixedClock, SystemClock, parse_time, timestamp_text};
pub use code::{ALL_CODES, Code};
pub use error::{Blame, Error, Result, Retry, causes};
pub use faults::{Fault, FaultAction, FaultPoint, Faults, NoFaults};
pub use host::is_this_machine;
pub use name::{FlowName, TableName};
pub use place::{Place, caret};
pub use position::Position;
pub use size::{format_bytes, format_count, parse_bytes};
