//! The page at `/`: dashboards, alerts and datasets, drawn on the server and live by server-sent events.
//!
//! It is whole without JavaScript and then reloads itself. What is shown is asked for by one task a dashboard, while
//! somebody looks, however many look; who looks is sent the parts that changed. Nothing is kept for a page that was closed.

mod chart;
mod data;
mod html;
mod live;
mod scale;

use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use catchment_core::is_this_machine;
use futures::future::BoxFuture;

pub use data::{ALERTS_SHOWN, AlertRow, Cell, Chart, DatasetRow, Page, Panel, PanelContent};
pub(crate) use live::Live;

/// Makes the page of a dashboard by its name, or of the first one; `None` when there is none of that name.
pub type MakePage = Arc<dyn Fn(Option<String>) -> BoxFuture<'static, Option<Page>> + Send + Sync>;

/// What the browser may do on the page: nothing but what comes from here.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const STYLE: &str = include_str!("page.css");
const ICON: &str = include_str!("icon.svg");
const SCRIPT: &str = include_str!("page.js");

/// What the page is made of beside itself.
pub(crate) fn asset(name: &str) -> Option<Response<Body>> {
    let (kind, text) = match name {
        "page.css" => ("text/css; charset=utf-8", STYLE),
        "page.js" => ("text/javascript; charset=utf-8", SCRIPT),
        "icon.svg" => ("image/svg+xml", ICON),
        _ => return None,
    };
    Some(answer(kind, "max-age=3600", Body::from(text)))
}

/// The page as a browser gets it.
pub(crate) fn page(page: &Page) -> Response<Body> {
    let mut answer =
        answer("text/html; charset=utf-8", "no-store", Body::from(html::page(page).into_string()));
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    answer
}

pub(crate) fn answer(kind: &'static str, cached: &'static str, body: Body) -> Response<Body> {
    let mut answer = Response::new(body);
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(cached));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}

/// What somebody without a key gets: browsers ask for one.
pub(crate) fn unknown_reader() -> Response<Body> {
    let mut answer = answer(
        "text/plain; charset=utf-8",
        "no-store",
        Body::from("give an access key as name and its secret as password\n"),
    );
    *answer.status_mut() = StatusCode::UNAUTHORIZED;
    let challenge = HeaderValue::from_static("Basic realm=\"catchment\", charset=\"UTF-8\"");
    answer.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    answer
}

/// Whether a request names this machine itself, and is of no page of others. A page of somebody else, open in the same browser,
/// can point a name of its own here, or write here without reading, and would be let in otherwise, where no key is asked for.
pub(crate) fn is_of_this_machine(headers: &HeaderMap) -> bool {
    let of = |name: header::HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    // A page says where it comes from, as `http://host:port`; `null` when it does not tell.
    let origin = of(header::ORIGIN).map(|origin| origin.split_once("://").map_or(origin, |(_, host)| host));
    of(header::HOST).is_none_or(is_this_machine) && origin.is_none_or(is_this_machine)
}

#[cfg(test)]
mod tests;
