//! The listener: which requests go where.

use std::future::{Future, IntoFuture};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::http::request::Parts;
use axum::http::{Method, Response, StatusCode};
use axum::middleware::Next;
use axum::routing::{get, post};
use bytes::Bytes;
use catchment_core::{Code, Error, Result};
use futures::future::BoxFuture;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::ingest::Refused;
use crate::kinesis::{Incoming, Kinesis, no_service};
use crate::page::{self, Live, MakePage};
use crate::tables::{self, ReadTable};

/// Bytes of the largest request that is read: 10 MB of records in base64, and what is around them.
const LARGEST: usize = 16 << 20;

/// How long answers that were begun may take when the service ends.
const FAREWELL: Duration = Duration::from_secs(5);

/// What is served.
#[derive(Clone)]
pub struct Services {
    /// Streams.
    pub kinesis: Arc<Kinesis>,
    /// `POST /moto-api/reset` deletes every stream: tests of others ask for it between each other.
    pub allows_reset: bool,
    /// Whether all datasets were brought up to date once.
    pub is_ready: Arc<AtomicBool>,
    /// Reads serving tables.
    pub tables: ReadTable,
    /// The names of all dashboards.
    pub dashboards: Vec<String>,
    /// Makes the page at `/`.
    pub page: MakePage,
    /// Makes what `GET /metrics` answers, as Prometheus reads it.
    pub metrics: Metrics,
}

/// Makes a text of measures.
pub type Metrics = Arc<dyn Fn() -> BoxFuture<'static, String> + Send + Sync>;

/// Serves until `stop` is ready, then ends what was begun.
///
/// # Errors
/// Returns errors of the network.
pub async fn serve(
    listener: TcpListener,
    services: Services,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<()> {
    let kinesis_to_end = Arc::clone(&services.kinesis);
    let (end, mut ended) = watch::channel(false);
    let stop = async move {
        stop.await;
        // Whoever looks at a page may be gone.
        let _ = end.send(true);
        kinesis_to_end.end();
    };
    let services = Serving { live: Live::new(Arc::clone(&services.page), ended.clone()), services };
    let router = Router::new()
        .route("/health", get(|| async { "ok\n" }))
        .route("/ready", get(ready))
        .route("/metrics", get(|State(services): State<Serving>| async move { (services.metrics)().await }))
        .route("/", get(page_of_first).fallback(kinesis))
        .route("/dashboards/{name}", get(page_of))
        .route("/live", get(live_of_first))
        .route("/live/{name}", get(live_of))
        .route("/assets/{name}", get(asset))
        .route("/v1/streams/{name}", post(ingest))
        .route("/v1/tables/{*rest}", get(table).post(table))
        .fallback(kinesis)
        .layer(DefaultBodyLimit::max(LARGEST))
        .layer(axum::middleware::from_fn_with_state(services.clone(), only_here))
        .with_state(services);
    // A reader that takes nothing any more is not waited for.
    let too_long = async move {
        let _ = ended.wait_for(|ended| *ended).await;
        tokio::time::sleep(FAREWELL).await;
    };
    tokio::select! {
        served = axum::serve(listener, router).with_graceful_shutdown(stop).into_future() => {
            served.map_err(|error| Error::new(Code::INPUT_OUTPUT, "the listener failed").because(error))
        }
        () = too_long => Ok(()),
    }
}

/// What is served, and the pages that are open.
#[derive(Clone)]
struct Serving {
    services: Services,
    live: Live,
}

impl std::ops::Deref for Serving {
    type Target = Services;

    fn deref(&self) -> &Services {
        &self.services
    }
}

async fn page_of_first(serving: State<Serving>, request: Request) -> Response<Body> {
    show(&serving, None, request).await
}

async fn page_of(serving: State<Serving>, Path(name): Path<String>, request: Request) -> Response<Body> {
    show(&serving, Some(name), request).await
}

async fn show(serving: &Serving, dashboard: Option<String>, request: Request) -> Response<Body> {
    if let Some(refused) = refusal(serving, request) {
        return refused;
    }
    match (serving.page)(dashboard).await {
        Some(page) => page::page(&page),
        None => Refused::new(StatusCode::NOT_FOUND, "no such dashboard").into_response(),
    }
}

async fn live_of_first(serving: State<Serving>, request: Request) -> Response<Body> {
    refusal(&serving, request).unwrap_or_else(|| serving.live.answer(None))
}

async fn live_of(serving: State<Serving>, Path(name): Path<String>, request: Request) -> Response<Body> {
    match refusal(&serving, request) {
        Some(refused) => refused,
        None if serving.dashboards.contains(&name) => serving.live.answer(Some(name)),
        None => Refused::new(StatusCode::NOT_FOUND, "no such dashboard").into_response(),
    }
}

/// What somebody gets who may not read; whoever has a key may or, where none is asked for, whoever is on this machine.
fn refusal(serving: &Serving, request: Request) -> Option<Response<Body>> {
    let (parts, _) = request.into_parts();
    (!serving.kinesis.is_reader(&incoming(&parts, Bytes::new()))).then(page::unknown_reader)
}

/// Where no key is asked for, lets those in who come to this machine by its own name, and no pages of others: a page that is open
/// in a browser here may send what it likes.
async fn only_here(State(services): State<Serving>, request: Request, next: Next) -> Response<Body> {
    let is_open = ["/health", "/ready"].contains(&request.uri().path());
    if is_open || services.kinesis.asks_for_keys() || page::is_of_this_machine(request.headers()) {
        return next.run(request).await;
    }
    let why = "what needs no key is for this machine: ask for it as http://127.0.0.1";
    Refused::new(StatusCode::MISDIRECTED_REQUEST, why).into_response()
}

async fn asset(Path(name): Path<String>) -> Response<Body> {
    page::asset(&name).unwrap_or_else(no_service)
}

async fn ready(State(services): State<Serving>) -> (StatusCode, &'static str) {
    match services.is_ready.load(Ordering::Acquire) {
        true => (StatusCode::OK, "ready\n"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "datasets are being brought up to date\n"),
    }
}

async fn ingest(
    State(services): State<Serving>,
    Path(name): Path<String>,
    request: Request,
) -> Response<Body> {
    let (parts, body) = request.into_parts();
    match axum::body::to_bytes(body, LARGEST).await {
        Ok(body) => services.kinesis.ingest(&name, incoming(&parts, body)).await,
        Err(_) => too_large(),
    }
}

async fn table(State(services): State<Serving>, request: Request) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let Ok(body) = axum::body::to_bytes(body, LARGEST).await else { return too_large() };
    if let Err(refused) = services.kinesis.require_key(&incoming(&parts, body.clone())) {
        return refused.into_response();
    }
    let path = parts.uri.path().strip_prefix("/v1/tables/").unwrap_or_default();
    let query = parts.uri.query().unwrap_or_default();
    let body = (parts.method == Method::POST).then_some(&body[..]);
    // A row is microseconds away, and thousands of them are a few milliseconds.
    tables::answer(&services.tables, path, query, body)
}

async fn kinesis(State(services): State<Serving>, request: Request) -> Response<Body> {
    let (parts, body) = request.into_parts();
    if parts.method != Method::POST {
        return no_service();
    }
    if services.allows_reset && parts.uri.path() == "/moto-api/reset" {
        return match services.kinesis.delete_everything() {
            Ok(()) => Response::new(Body::from("{\"status\": \"ok\"}")),
            Err(_) => no_service(),
        };
    }
    match axum::body::to_bytes(body, LARGEST).await {
        Ok(body) => services.kinesis.handle(incoming(&parts, body)).await,
        Err(_) => too_large(),
    }
}

fn incoming(parts: &Parts, body: Bytes) -> Incoming<'_> {
    Incoming {
        method: &parts.method,
        path: parts.uri.path(),
        authority: parts.uri.authority().map(|authority| authority.as_str()),
        query: parts.uri.query().unwrap_or_default(),
        headers: &parts.headers,
        body,
    }
}

fn too_large() -> Response<Body> {
    let message = format!("a request has at most {LARGEST} bytes");
    Refused::new(StatusCode::PAYLOAD_TOO_LARGE, message).into_response()
}
