//! Pages that are open: what changes is sent to them.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::http::{Response, StatusCode};
use bytes::Bytes;
use serde_json::json;
use tokio::sync::{mpsc, watch};

use crate::page::{MakePage, answer, html};

/// How often a page that somebody looks at is made anew.
const EVERY: Duration = Duration::from_millis(500);

/// How long nothing is sent before a line that says so, by which a page that is gone is noticed.
const QUIET: Duration = Duration::from_secs(15);

/// How long a page may take nothing that is sent to it before its place is another's.
const PATIENCE: Duration = Duration::from_secs(30);

/// Pages that may be open at a time.
const OPEN: usize = 200;

/// The parts of a page by their ids, as HTML.
type Parts = Arc<Vec<(String, String)>>;

/// Waits for the end of the service.
async fn ended(end: &mut watch::Receiver<bool>) {
    // Nobody is left to say so: then it is the end as well.
    let _ = end.wait_for(|end| *end).await;
}

/// Pages that somebody looks at, by the dashboard's name.
#[derive(Clone)]
pub(crate) struct Live {
    make: MakePage,
    watched: Arc<Mutex<BTreeMap<Option<String>, watch::Receiver<Parts>>>>,
    open: Arc<AtomicUsize>,
    /// Says when the service ends.
    end: watch::Receiver<bool>,
}

/// Counts an open page until it is closed.
struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Sends the parts of a page whenever they change, for as long as they are taken.
async fn send(
    _open: Open,
    mut parts: watch::Receiver<Parts>,
    events: mpsc::Sender<Bytes>,
    mut end: watch::Receiver<bool>,
) {
    let mut sent: BTreeMap<String, String> = BTreeMap::new();
    loop {
        let now = Arc::clone(&parts.borrow_and_update());
        for (id, html) in now.iter().filter(|(id, html)| sent.get(id) != Some(html)) {
            let data = json!({ "id": id, "html": html });
            let event = Bytes::from(format!("event: part\ndata: {data}\n\n"));
            if events.send_timeout(event, PATIENCE).await.is_err() {
                return;
            }
        }
        sent = now.iter().cloned().collect();
        tokio::select! {
            changed = parts.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(QUIET) => {
                if events.send_timeout(Bytes::from_static(b": still here\n\n"), PATIENCE).await.is_err() {
                    return;
                }
            }
            () = ended(&mut end) => return,
            () = events.closed() => return,
        }
    }
}

impl Live {
    pub(crate) fn new(make: MakePage, end: watch::Receiver<bool>) -> Self {
        Self { make, watched: Arc::default(), open: Arc::default(), end }
    }

    /// Answers with the parts of a page whenever they change, until the page is closed.
    pub(crate) fn answer(&self, dashboard: Option<String>) -> Response<Body> {
        let open = Open(Arc::clone(&self.open));
        if self.open.fetch_add(1, Ordering::Relaxed) >= OPEN {
            let mut refused =
                answer("text/plain; charset=utf-8", "no-store", Body::from("too many pages are open\n"));
            *refused.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            return refused;
        }
        let (sender, events) = mpsc::channel(1);
        tokio::spawn(send(open, self.watch(dashboard), sender, self.end.clone()));
        let events = futures::stream::unfold(events, |mut events| async move {
            let event: Bytes = events.recv().await?;
            Some((Ok::<_, Infallible>(event), events))
        });
        answer("text/event-stream", "no-store", Body::from_stream(events))
    }

    /// The parts of a page, made by one task for as long as somebody looks.
    fn watch(&self, dashboard: Option<String>) -> watch::Receiver<Parts> {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        watched.retain(|_, parts| parts.has_changed().is_ok());
        if let Some(parts) = watched.get(&dashboard) {
            return parts.clone();
        }
        let (sender, receiver) = watch::channel(Parts::default());
        watched.insert(dashboard.clone(), receiver.clone());
        let (make, watched, mut end) = (Arc::clone(&self.make), Arc::clone(&self.watched), self.end.clone());
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(EVERY);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    _ = ticks.tick() => {}
                    () = ended(&mut end) => return,
                }
                {
                    // One that is in the map is nobody's who looks. Looked at and left while it is locked, so that
                    // nobody joins in between.
                    let mut watched = watched.lock().unwrap_or_else(PoisonError::into_inner);
                    if sender.receiver_count() <= 1 {
                        watched.remove(&dashboard);
                        return;
                    }
                }
                let Some(page) = make(dashboard.clone()).await else { return };
                let parts = html::parts(&page);
                let parts: Vec<_> =
                    parts.into_iter().map(|(id, part)| (id, part.inner.into_string())).collect();
                sender.send_if_modified(|known| {
                    let is_new = **known != parts;
                    if is_new {
                        *known = Arc::new(parts);
                    }
                    is_new
                });
            }
        });
        receiver
    }
}
