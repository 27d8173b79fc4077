//! `catchment serve`

use std::collections::BTreeMap;
use std::future::Future;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use catchment_catalog::{MasterKey, Store};
use catchment_core::{Code, Error, Result, SystemClock, TableName};
use catchment_flows::{KeyRange, Progress};
use catchment_log::Log;
use catchment_pipelines::{
    Access, Dataset, KeepOptions, Listener, OpenLog, Readers, RecordSchema, RunReport, Workspace,
};
use catchment_server::{
    AnswerQuery, Credentials, Kinesis, KinesisOptions, Metrics, ReadTable, RecordCheck, Services,
    TableRequest, require_small, serve, take_commands,
};
use catchment_sql::SqlText;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::ipc::writer::StreamWriter;
use datafusion::arrow::json::{ArrayWriter, LineDelimitedWriter};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::arguments::{Arguments, ProjectArguments};
use crate::commands::metrics::{Totals, measures};
use crate::commands::page::Pages;
use crate::commands::run::Lines;
use crate::show::Screen;
use crate::wiring;

/// How often folders are looked at.
const POLL: Duration = Duration::from_secs(5);

/// How long what was begun may take to end.
const GRACE: Duration = Duration::from_secs(10);

/// How long a query of `catchment sql` may take.
const QUERY: Duration = Duration::from_secs(600);

/// How often streams drop what is older than they keep.
const RETAIN: Duration = Duration::from_secs(60);

/// The access keys of the catalog.
struct Keys {
    store: Arc<dyn Store>,
    master: MasterKey,
}

impl Credentials for Keys {
    fn secret(&self, access_key: &str) -> Option<Vec<u8>> {
        // Asked for each request: a key that was deleted is good no more.
        let keys = self.store.keys().ok()?;
        self.master.open(keys.iter().find(|key| key.id == access_key)?)
    }
}

pub(crate) async fn run(
    arguments: &Arguments,
    command: &ProjectArguments,
    screen: Screen,
) -> Result<ExitCode> {
    let workspace = Arc::new(wiring::workspace(&command.project, arguments)?);
    let machine = wiring::machine()?;
    let config = workspace.project.config.config.server.clone();
    let address = config.address()?;
    let log = workspace.streams.log()?;
    // Clients may write to a declared stream as soon as they are answered.
    workspace.declare_streams()?;
    let credentials: Option<Arc<dyn Credentials>> = if config.open_on_loopback {
        None
    } else {
        Some(Arc::new(Keys { store: Arc::clone(&workspace.store), master: workspace.master_key(&machine)? }))
    };
    let options = KinesisOptions {
        account: config.account.clone(),
        region: (!config.region.is_empty()).then(|| config.region.clone()),
        checks: checks(&workspace)?,
        has_limits: config.aws_limits,
        ..KinesisOptions::default()
    };
    let kinesis = Arc::new(Kinesis::new(Arc::clone(&log), Arc::new(SystemClock), options, credentials));
    let failed =
        |error| Error::new(Code::INPUT_OUTPUT, format!("could not listen on {address}")).because(error);
    let (end, ended) = watch::channel(false);
    let totals = Arc::new(Totals::default());
    let checked = workspace.check().await;
    for error in &checked.panels {
        screen.note(format!("the page is not whole\n{}", screen.error_text(error)));
    }
    Error::join(checked.errors)?;
    // What sends notifications is made by whoever keeps the datasets; that it can be is known before anybody is let in.
    workspace.outbox()?;
    let datasets = Arc::new(checked.datasets);
    let metrics = metrics_of(&workspace, &datasets, &totals);
    let readers = Arc::new(Readers::new("pages"));
    let queries = queries(&workspace, &readers);
    let pages = Pages { workspace: Arc::clone(&workspace), datasets, totals: Arc::clone(&totals), readers };
    let services = Services {
        kinesis,
        allows_reset: config.allow_reset,
        is_ready: Arc::default(),
        tables: tables(&workspace),
        dashboards: workspace.project.dashboards.iter().map(|dashboard| dashboard.name.clone()).collect(),
        page: pages.maker(),
        metrics,
    };
    let ready = Arc::clone(&services.is_ready);
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let commands = match take_commands(&workspace.project.config.commands(), Arc::clone(&log), queries) {
        Ok(commands) => Some(tokio::spawn(commands)),
        Err(error) => {
            screen.note(screen.error_text(&error));
            None
        }
    };
    match screen.json {
        true => screen.json(&json!({ "listening": format!("http://{address}") })),
        false => screen.line(format!("listening on http://{address}")),
    }
    let retaining = tokio::spawn(retain(log));
    let stopping = tokio::spawn(async move {
        stopped().await;
        // Whoever waits for it may be gone.
        let _ = end.send(true);
    });
    let mut listening = ended.clone();
    let serving = serve(listener, services, async move {
        let _ = listening.wait_for(|ended| *ended).await;
    });
    let told = Told { screen, totals, ready };
    let keep = KeepOptions {
        buffer: Duration::from_millis(workspace.project.config.config.streams.buffer_milliseconds),
        poll: POLL,
    };
    let progress: Arc<dyn Progress> = Arc::new(Lines::new(screen));
    let keeping = workspace.keep(keep, progress, &told, ended.clone());
    let result = Box::pin(both(serving, keeping, ended)).await;
    if let Some(commands) = commands {
        commands.abort();
    }
    retaining.abort();
    stopping.abort();
    result.map(|()| ExitCode::SUCCESS)
}

/// Tells what happens to whoever looks.
struct Told {
    screen: Screen,
    totals: Arc<Totals>,
    ready: Arc<AtomicBool>,
}

impl Listener for Told {
    fn ran(&self, result: Result<&RunReport, &Error>) {
        self.totals.add(result);
        match result {
            Ok(report) if report.errors.is_empty() => self.ready.store(true, Ordering::Release),
            Ok(report) => report.errors.iter().for_each(|(dataset, error)| {
                self.screen.note(format!("{dataset} failed\n{}", self.screen.error_text(error)));
            }),
            Err(error) => self.screen.note(format!("a run failed\n{}", self.screen.error_text(error))),
        }
    }

    fn alert_failed(&self, alert: &TableName, error: &Error) {
        self.screen.note(format!("alert {alert} failed\n{}", self.screen.error_text(error)));
    }
}

/// What records of plain HTTP are held to, by stream.
fn checks(workspace: &Workspace) -> Result<BTreeMap<String, RecordCheck>> {
    let config = &workspace.project.config;
    let open = |(stream, file): (&String, &String)| {
        let schema = RecordSchema::open(&config.folder.join(file))?;
        let check: RecordCheck = Arc::new(move |record| schema.fault(record));
        Ok((stream.clone(), check))
    };
    config.config.streams.json_schemas.iter().map(open).collect()
}

/// Answers queries of this machine's own processes, which cannot open what this one has.
fn queries(workspace: &Arc<Workspace>, readers: &Arc<Readers>) -> AnswerQuery {
    let (workspace, readers) = (Arc::clone(workspace), Arc::clone(readers));
    let asked = Arc::new(AtomicU64::new(0));
    Arc::new(move |text| {
        let (workspace, readers) = (Arc::clone(&workspace), Arc::clone(&readers));
        let name = format!("query {}", asked.fetch_add(1, Ordering::Relaxed));
        Box::pin(async move {
            let answer = Box::pin(async move { rows_of(&workspace, &text).await });
            readers.ask_for(QUERY, &name, answer).await
        })
    })
}

/// The rows of a query, or its explanation, in Arrow's streaming format.
async fn rows_of(workspace: &Workspace, text: &str) -> Result<Vec<u8>> {
    let written = |error| Error::new(Code::INTERNAL, "rows cannot be passed on").because(error);
    let mut writer = None;
    let begun = |schema: &SchemaRef| StreamWriter::try_new(Vec::new(), schema).map_err(written);
    let write = |rows: &RecordBatch| {
        let writer = match &mut writer {
            Some(writer) => writer,
            none => none.insert(begun(&rows.schema())?),
        };
        writer.write(rows).map_err(written)?;
        require_small(writer.get_ref().len())
    };
    let schema = Access::new(workspace).answer(&SqlText::new("query", text), write).await?;
    let mut writer = match writer {
        Some(writer) => writer,
        None => begun(&schema)?,
    };
    writer.finish().and_then(|()| writer.into_inner()).map_err(written)
}

/// Reads rows of serving tables as JSON.
fn tables(workspace: &Arc<Workspace>) -> ReadTable {
    let workspace = Arc::clone(workspace);
    Arc::new(move |name, request| {
        let (rows, is_one) = match request {
            TableRequest::Keys(keys) => (workspace.serving_rows(name, keys)?, false),
            TableRequest::Key { key, from, to, limit, descending } => {
                let found = workspace.serving_table(name)?;
                let (primary, sort) = (found.key().primary.len(), found.key().sort.len());
                match key.len() == primary && sort > 0 {
                    true => {
                        let (from, to) = (from.clone(), to.clone());
                        let range = KeyRange { from, to, limit: *limit, descending: *descending };
                        (workspace.serving_range(name, key, &range)?, false)
                    }
                    false => (workspace.serving_rows(name, std::slice::from_ref(key))?, true),
                }
            }
        };
        let written = |error| Error::new(Code::INTERNAL, "rows cannot be written as JSON").because(error);
        if !is_one {
            let mut writer = ArrayWriter::new(Vec::new());
            writer.write(&rows).and_then(|()| writer.finish()).map_err(written)?;
            return Ok(Some(writer.into_inner()));
        }
        if rows.num_rows() == 0 {
            return Ok(None);
        }
        let mut writer = LineDelimitedWriter::new(Vec::new());
        writer.write(&rows).and_then(|()| writer.finish()).map_err(written)?;
        Ok(Some(writer.into_inner()))
    })
}

/// Makes what is told to Prometheus.
fn metrics_of(workspace: &Arc<Workspace>, datasets: &Arc<Vec<Dataset>>, totals: &Arc<Totals>) -> Metrics {
    let (workspace, datasets, totals) = (Arc::clone(workspace), Arc::clone(datasets), Arc::clone(totals));
    Arc::new(move || {
        let (workspace, totals, datasets) =
            (Arc::clone(&workspace), Arc::clone(&totals), Arc::clone(&datasets));
        Box::pin(async move { measures(&workspace, &datasets, &totals).await })
    })
}

/// Runs the listener and the flows until both have ended; when one ends too early, or an end takes too long, that is the end.
async fn both(
    serving: impl Future<Output = Result<()>>,
    keeping: impl Future<Output = Result<()>>,
    mut ended: watch::Receiver<bool>,
) -> Result<()> {
    tokio::pin!(serving, keeping);
    let too_long = async {
        let _ = ended.wait_for(|ended| *ended).await;
        tokio::time::sleep(GRACE).await;
    };
    let all = async {
        tokio::select! {
            served = &mut serving => { served?; keeping.await }
            kept = &mut keeping => { kept?; serving.await }
        }
    };
    tokio::select! {
        done = all => done,
        () = too_long => Err(Error::new(Code::INPUT_OUTPUT, "what was begun did not end in time")
            .hint("nothing is lost: what was not published is published by the next start")),
    }
}

/// Waits until somebody wants an end.
async fn stopped() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminated) = signal(SignalKind::terminate()) else { return std::future::pending().await };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminated.recv() => {}
    }
}

async fn retain(log: Arc<Log>) {
    loop {
        for stream in log.streams() {
            if let Err(error) = stream.retain().await {
                tracing::warn!(error = %error.one_line(), "a stream could not drop what is old");
            }
        }
        tokio::time::sleep(RETAIN).await;
    }
}
