//! `catchment serve`

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use catchment_catalog::{MasterKey, Store};
use catchment_core::{Code, Error, Result, SystemClock};
use catchment_log::Log;
use catchment_pipelines::open_log;
use catchment_server::{Credentials, Kinesis, KinesisOptions, Services, serve};
use serde_json::json;
use tokio::net::TcpListener;

use crate::arguments::{Arguments, ProjectArguments};
use crate::show::Screen;
use crate::wiring;

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
    let workspace = wiring::workspace(&command.project, arguments)?;
    let machine = wiring::machine()?;
    let config = workspace.project.config.config.server.clone();
    let address = config.address()?;
    let log = Arc::new(open_log(&workspace.project.config, &machine)?);
    let credentials: Option<Arc<dyn Credentials>> = if config.open_on_loopback {
        None
    } else {
        Some(Arc::new(Keys { store: Arc::clone(&workspace.store), master: workspace.master_key(&machine)? }))
    };
    let options = KinesisOptions {
        account: config.account.clone(),
        region: (!config.region.is_empty()).then(|| config.region.clone()),
        ..KinesisOptions::default()
    };
    let kinesis = Arc::new(Kinesis::new(Arc::clone(&log), Arc::new(SystemClock), options, credentials));
    let failed =
        |error| Error::new(Code::INPUT_OUTPUT, format!("could not listen on {address}")).because(error);
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let retaining = tokio::spawn(retain(log));
    match screen.json {
        true => screen.json(&json!({ "listening": format!("http://{address}") })),
        false => screen.line(format!("listening on http://{address}")),
    }
    let served = serve(listener, Services { kinesis, allows_reset: config.allow_reset }, stopped()).await;
    retaining.abort();
    served.map(|()| ExitCode::SUCCESS)
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
