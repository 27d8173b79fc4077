//! Tells people and programs of alerts: by webhook, mail, an SNS topic or a stream.
//!
//! A [`Target`] takes a [`Message`]; an [`Outbox`] sends what waits in the catalog, each target by itself, and tries again
//! for as long as it is told to. A target may be told of an alert more than once, always under the same id.
//!
//! **Never**: decides what is an alert, keeps anything of its own, blocks whoever raises one.

mod mail;
mod message;
mod outbox;
mod stream;
mod target;
mod topic;
mod webhook;

pub use message::Message;
pub use outbox::{Outbox, OutboxOptions};
pub use target::{Target, TargetConfig};
