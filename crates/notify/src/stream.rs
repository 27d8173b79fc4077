//! Messages to a stream of the project, where pipelines and programs read them.

use std::sync::Arc;

use catchment_core::Result;
use catchment_log::{Entry, Log, StreamName};

use crate::message::Message;

pub(crate) struct StreamTarget {
    log: Arc<Log>,
    name: StreamName,
}

impl StreamTarget {
    pub(crate) fn new(log: Arc<Log>, name: &str) -> Result<Self> {
        Ok(Self { log, name: StreamName::new(name)? })
    }

    /// Alerts of one name go to one shard, in their order.
    pub(crate) async fn send(&self, message: &Message) -> Result<(), String> {
        let entry = Entry::new(message.alert.clone(), message.json().into_bytes());
        let sent = async { self.log.stream(&self.name)?.append(vec![entry]).await };
        sent.await.map(|_| ()).map_err(|error| error.one_line())
    }
}
