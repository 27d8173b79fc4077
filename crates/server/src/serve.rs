//! The listener: which requests go where.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::http::request::Parts;
use axum::http::{Method, Response, StatusCode};
use axum::routing::{get, post};
use bytes::Bytes;
use catchment_core::{Code, Error, Result};
use futures::future::BoxFuture;
use tokio::net::TcpListener;

use crate::ingest::Refused;
use crate::kinesis::{Incoming, Kinesis, no_service};
use crate::tables::{self, ReadTable};

/// Bytes of the largest request that is read: 10 MB of records in base64, and what is around them.
const LARGEST: usize = 16 << 20;

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
    let stop = async move {
        stop.await;
        kinesis_to_end.end();
    };
    let router = Router::new()
        .route("/health", get(|| async { "ok\n" }))
        .route("/ready", get(ready))
        .route("/metrics", get(|State(services): State<Services>| async move { (services.metrics)().await }))
        .route("/v1/streams/{name}", post(ingest))
        .route("/v1/tables/{*rest}", get(table).post(table))
        .fallback(kinesis)
        .layer(DefaultBodyLimit::max(LARGEST))
        .with_state(services);
    axum::serve(listener, router)
        .with_graceful_shutdown(stop)
        .await
        .map_err(|error| Error::new(Code::INPUT_OUTPUT, "the listener failed").because(error))
}

async fn ready(State(services): State<Services>) -> (StatusCode, &'static str) {
    match services.is_ready.load(Ordering::Acquire) {
        true => (StatusCode::OK, "ready\n"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "datasets are being brought up to date\n"),
    }
}

async fn ingest(
    State(services): State<Services>,
    Path(name): Path<String>,
    request: Request,
) -> Response<Body> {
    let (parts, body) = request.into_parts();
    match axum::body::to_bytes(body, LARGEST).await {
        Ok(body) => services.kinesis.ingest(&name, incoming(&parts, body)).await,
        Err(_) => too_large(),
    }
}

async fn table(State(services): State<Services>, request: Request) -> Response<Body> {
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

async fn kinesis(State(services): State<Services>, request: Request) -> Response<Body> {
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
