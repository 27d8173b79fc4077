//! Keeps datasets up to date for as long as a service runs.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use catchment_catalog::BatchRecord;
use catchment_core::{Backoff, Code, Error, FlowName, Result, TableName};
use catchment_flows::{CatchUp, FlowSpec, Input, InputKind, Phases, Progress, Runtime};
use catchment_ingest::streams::OpenLog;
use catchment_lake::Owner;
use catchment_log::Log;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use rand::Rng;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::check::Dataset;
use crate::run::{Mode, RunReport, Workspace};

/// How long the upkeep of tables may go on when the service is to end.
const LAST_UPKEEP: Duration = Duration::from_secs(3);

/// The least time between two batches of a serving table.
const SERVING_PAUSE: Duration = Duration::from_millis(20);

/// When datasets are brought up to date.
#[derive(Debug, Clone, Copy)]
pub struct KeepOptions {
    /// How long records of streams are gathered: the time between two commits, at least.
    pub buffer: Duration,
    /// How often folders are looked at, at least. Streams of others are asked as often as commits are wanted.
    pub poll: Duration,
}

/// Is told what happens while a service runs.
pub trait Listener: Send + Sync {
    /// Datasets were brought up to date, or could not be.
    fn ran(&self, result: Result<&RunReport, &Error>);

    /// The query of an alert could not be asked.
    fn alert_failed(&self, alert: &TableName, error: &Error);
}

impl Workspace {
    /// Brings all datasets up to date whenever there is something new, until `stop` says so; what has come by then is
    /// published first.
    ///
    /// A run that fails is told and tried again with backoff, for as long as it takes.
    ///
    /// # Errors
    /// Returns errors that keep anything from running: of the project, and of the lease when another process has taken
    /// the lake.
    pub async fn keep(
        self: &Arc<Self>,
        options: KeepOptions,
        progress: Arc<dyn Progress>,
        told: &dyn Listener,
        stop: watch::Receiver<bool>,
    ) -> Result<()> {
        let checked = self.check().await;
        Error::join(checked.errors)?;
        let (owner, _heartbeat) = self.own().await?;
        let (current, is_current) = watch::channel(false);
        let alerts = self.keep_alerts(told, is_current, stop.clone());
        let told = Told { told, current, behind: AtomicUsize::new(loops(&checked.datasets)) };
        let datasets = self.keep_owned(&owner, checked.datasets, options, progress, &told, stop);
        // Alerts go on until the service ends, and what is wrong with their targets is known before it begins.
        let ended = tokio::select! {
            ended = datasets => ended,
            Err(error) = alerts => Err(error),
        };
        owner.end_upkeep(LAST_UPKEEP).await;
        ended
    }

    /// What [`Workspace::keep`] does once the lake may be written.
    async fn keep_owned(
        &self,
        owner: &Arc<Owner>,
        datasets: Vec<Dataset>,
        options: KeepOptions,
        progress: Arc<dyn Progress>,
        told: &Told<'_>,
        stop: watch::Receiver<bool>,
    ) -> Result<()> {
        self.finish_backfill(owner, &datasets, &progress).await?;
        let (serving, datasets): (Vec<_>, Vec<_>) = datasets.into_iter().partition(is_served_at_once);
        let run = uuid::Uuid::now_v7().to_string();
        let runtime = self.runtime(owner, run)?;
        let serving = serving.iter().flat_map(|dataset| &dataset.flows);
        let mut serving: FuturesUnordered<_> =
            serving.map(|flow| self.keep_serving(&runtime, flow, options, told, stop.clone())).collect();
        let all_serving = async {
            while let Some(ended) = serving.next().await {
                ended?;
            }
            Ok(())
        };
        let others = self.keep_datasets(owner, datasets, options, progress, told, stop.clone());
        let (mut all_serving, mut others) = (Box::pin(all_serving), Box::pin(others));
        // Either ends when the service ends, or when it cannot go on; what fails in one keeps nothing of the other from
        // its last publication.
        let served = tokio::select! {
            done = &mut others => {
                done?;
                return all_serving.await;
            }
            served = &mut all_serving => served,
        };
        others.await?;
        served
    }

    /// Brings a serving table up to date as soon as there is something new in a stream.
    async fn keep_serving(
        &self,
        runtime: &Runtime,
        flow: &FlowSpec,
        options: KeepOptions,
        told: &Told<'_>,
        mut stop: watch::Receiver<bool>,
    ) -> Result<()> {
        let log = self.streams.log()?;
        let emit = flow.serving.as_ref().and_then(|serving| serving.emit_every).unwrap_or(0);
        let pause = SERVING_PAUSE.max(Duration::from_micros(emit.unsigned_abs()));
        let (mut failures, mut is_first) = (0, true);
        loop {
            let is_last = *stop.borrow();
            let mut changes = changes_from_now(&log);
            let begun = Instant::now();
            let result = runtime.run_flow(flow, CatchUp::default(), &Silent).await;
            if std::mem::take(&mut is_first) {
                told.caught_up();
            }
            failures = if result.is_ok() { 0 } else { failures + 1 };
            if let Err(error) = &result {
                told.told.ran(Err(error));
            }
            if is_last {
                return result.map(|_| ());
            }
            // A poll takes away rows that are over, too.
            let latest = Instant::now() + options.poll.min(options.buffer);
            wait(any_of(&mut changes), begun + pause_after(failures, pause), latest, &mut stop).await;
        }
    }

    /// Brings the datasets of the lake up to date, and what reads them.
    async fn keep_datasets(
        &self,
        owner: &Arc<Owner>,
        datasets: Vec<Dataset>,
        options: KeepOptions,
        progress: Arc<dyn Progress>,
        told: &Told<'_>,
        mut stop: watch::Receiver<bool>,
    ) -> Result<()> {
        let log = self.streams.log()?;
        let is_live = datasets.iter().flat_map(|dataset| &dataset.flows).any(FlowSpec::is_live);
        let poll = if is_live { options.poll.min(options.buffer) } else { options.poll };
        let (mut failures, mut is_first) = (0, true);
        loop {
            let is_last = *stop.borrow();
            let mut changes = changes_from_now(&log);
            let begun = Instant::now();
            let result =
                self.run_datasets(datasets.clone(), Mode::Update, owner, Arc::clone(&progress)).await;
            told.told.ran(result.as_ref());
            if std::mem::take(&mut is_first) {
                told.caught_up();
            }
            if let Some(lost) = errors(&result).find(|error| error.code() == Code::LEASE_LOST) {
                return Err(lost.clone());
            }
            if is_last {
                return result.map(|_| ());
            }
            failures = if errors(&result).next().is_none() { 0 } else { failures + 1 };
            if datasets.is_empty() {
                // Nothing is kept here: whoever only serves writes no run a second into the books.
                let _ = stop.wait_for(|stop| *stop).await;
                return Ok(());
            }
            let pause = pause_after(failures, options.buffer);
            wait(any_of(&mut changes), begun + pause, Instant::now() + poll, &mut stop).await;
        }
    }
}

/// Tells what happens, and when everything has been brought up to date once.
struct Told<'a> {
    told: &'a dyn Listener,
    current: watch::Sender<bool>,
    /// Loops that have not gone round once.
    behind: AtomicUsize,
}

impl Told<'_> {
    fn caught_up(&self) {
        if self.behind.fetch_sub(1, Ordering::AcqRel) == 1 {
            // Nobody waits where there is no alert.
            let _ = self.current.send(true);
        }
    }
}

/// How many loops keep these datasets: one for each flow that is served at once, and one for all others.
fn loops(datasets: &[Dataset]) -> usize {
    datasets
        .iter()
        .filter(|dataset| is_served_at_once(dataset))
        .map(|dataset| dataset.flows.len())
        .sum::<usize>()
        + 1
}

/// Whether a dataset is kept up to date by itself: a serving table that follows streams, and no table of the lake.
fn is_served_at_once(dataset: &Dataset) -> bool {
    let follows = |input: &Input| matches!(input.kind, InputKind::Stream(..));
    let is_table = |input: &Input| dataset.reads.iter().any(|table| table.to_string() == input.name);
    dataset.flows.iter().all(|flow| {
        let mut streams = flow.inputs.iter().filter(|input| follows(input)).peekable();
        flow.serving.is_some() && streams.peek().is_some() && !streams.any(is_table)
    })
}

/// Is told of many batches a second, and says nothing.
struct Silent;

impl Progress for Silent {
    fn published(&self, _: &BatchRecord, _: &Phases) {}

    fn retrying(&self, _: &FlowName, _: &Error) {}
}

/// Who is told of news in streams. What comes while a run goes on that begins now is seen after it.
fn changes_from_now(log: &Log) -> Vec<watch::Receiver<u64>> {
    let mut changes: Vec<_> = log.streams().iter().map(|stream| stream.changes()).collect();
    changes.iter_mut().for_each(watch::Receiver::mark_unchanged);
    changes
}

/// How long after its beginning a run is followed by the next, after so many failures: at least `least`.
fn pause_after(failures: u32, least: Duration) -> Duration {
    let backoff = Backoff { retries: u32::MAX, ..Backoff::default() };
    match failures {
        0 => least,
        failures => least.max(backoff.delay(failures, rand::rng().random()).unwrap_or_default()),
    }
}

/// Waits until one of some streams has something new.
async fn any_of(changes: &mut [watch::Receiver<u64>]) {
    let mut changed: FuturesUnordered<_> = changes.iter_mut().map(watch::Receiver::changed).collect();
    if changed.next().await.is_none() {
        std::future::pending().await
    }
}

/// What went wrong in a run: with it as a whole, or with its datasets.
fn errors(result: &Result<RunReport>) -> impl Iterator<Item = &Error> {
    let of_datasets = result.iter().flat_map(|report| report.errors.iter().map(|(_, error)| error));
    result.as_ref().err().into_iter().chain(of_datasets)
}

/// Waits until there is something new and it is time, until the latest, or until the end.
async fn wait(
    something: impl Future<Output = ()>,
    time: Instant,
    latest: Instant,
    stop: &mut watch::Receiver<bool>,
) {
    let news = async {
        tokio::select! {
            () = something => tokio::time::sleep_until(time).await,
            () = tokio::time::sleep_until(latest.max(time)) => {}
        }
    };
    tokio::select! {
        () = news => {}
        // Nobody is left to say so: then it is the end as well.
        _ = stop.wait_for(|stop| *stop) => {}
    }
}
