//! How far flows are behind the streams that they read.

use catchment_core::{FlowName, Result, TableName};
use catchment_flows::{InputKind, WindowState, stream_standings, window_state};
use catchment_ingest::StreamPosition;
use catchment_ingest::streams::OpenLog;
use catchment_log::{ShardId, StreamName};

use crate::check::Dataset;
use crate::run::Workspace;
use crate::statement::DatasetKind;

/// How far a flow is behind one shard of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lag {
    /// The flow.
    pub flow: FlowName,
    /// The stream.
    pub stream: StreamName,
    /// The shard.
    pub shard: ShardId,
    /// Records that are not published yet.
    pub records: u64,
    /// How long the oldest of them waits, in milliseconds.
    pub milliseconds: i64,
}

impl Workspace {
    /// How far the event time of flows with windows has come.
    ///
    /// # Errors
    /// Returns errors of reading the records of flows.
    pub async fn window_states(&self, datasets: &[Dataset]) -> Result<Vec<(FlowName, WindowState)>> {
        let mut states = Vec::new();
        for spec in datasets.iter().flat_map(|dataset| &dataset.flows).filter(|spec| !spec.windows.is_empty())
        {
            let state = window_state(&self.lake, &spec.target, &spec.name).await?;
            states.extend(state.map(|state| (spec.name.clone(), state)));
        }
        Ok(states)
    }

    /// What each serving table that was written has on disk, in bytes.
    ///
    /// # Errors
    /// Returns errors of the store.
    pub fn serving_bytes(&self, datasets: &[Dataset]) -> Result<Vec<(TableName, u64)>> {
        let mut sizes = Vec::new();
        for dataset in datasets.iter().filter(|dataset| dataset.kind == DatasetKind::ServingTable) {
            let table = self.serving.table(&dataset.name)?;
            sizes.extend(table.map(|table| (dataset.name.clone(), table.size().bytes)));
        }
        Ok(sizes)
    }

    /// How far the flows of datasets are behind, for each open shard and each that still has records for them.
    ///
    /// # Errors
    /// Returns errors of reading plans and streams.
    pub async fn lags(&self, datasets: &[Dataset]) -> Result<Vec<Lag>> {
        let log = self.streams.log()?;
        let mut lags = Vec::new();
        for spec in datasets.iter().flat_map(|dataset| &dataset.flows) {
            let streams: Vec<&str> = spec
                .inputs
                .iter()
                .filter(|input| matches!(input.kind, InputKind::Stream(..)))
                .filter_map(|input| input.name.strip_prefix("stream:"))
                .collect();
            if streams.is_empty() {
                continue;
            }
            let standings = match &spec.serving {
                Some(_) => self.serving.stream_standings(&spec.target)?,
                None => stream_standings(&self.lake, &spec.target, &spec.name).await?,
            };
            for name in streams {
                let stream = log.stream(&StreamName::new(name)?)?;
                let standing = standings.get(&format!("stream:{name}"));
                for shard in &stream.state().shards {
                    let next = match standing.and_then(|standing| standing.next.get(&shard.id.to_string())) {
                        Some(StreamPosition::End) => u64::MAX,
                        Some(position) => position.ordinal().unwrap_or(1),
                        None => 1,
                    };
                    let head = stream.head(shard.id);
                    let records = head.saturating_sub(next.max(stream.oldest(shard.id)?));
                    if records == 0 && !shard.is_open() {
                        continue;
                    }
                    // Nothing is read to learn how old the next record is.
                    let milliseconds =
                        if records == 0 { 0 } else { stream.read(shard.id, next, 0, 0)?.behind_millis };
                    lags.push(Lag {
                        flow: spec.name.clone(),
                        stream: stream.state().name.clone(),
                        shard: shard.id,
                        records,
                        milliseconds,
                    });
                }
            }
        }
        Ok(lags)
    }
}
