//! Sends what waits in the catalog.

use std::sync::Arc;
use std::time::Duration;

use catchment_catalog::{Notification, NotificationStatus, Store};
use catchment_core::{Backoff, Clock, Error, Result};
use rand::Rng;
use tokio::sync::{Notify, watch};

use crate::message::Message;
use crate::target::Target;

/// How often it is looked whether something is to be tried again.
const LOOK: Duration = Duration::from_millis(500);

/// Messages that are taken at once.
const AT_ONCE: usize = 20;

/// Messages of one round that a target may not take before the others are left for the next one.
const REFUSED: usize = 3;

/// What takes longer than this to fail is a target that does not answer, and not a message that it does not want.
const AT_LEAST: Duration = Duration::from_secs(2);

/// How long a target is left alone that has not taken a message: at most, and a second at first.
const LONGEST: Duration = Duration::from_secs(300);

/// How long a message is tried.
#[derive(Debug, Clone, Copy)]
pub struct OutboxOptions {
    /// After how long a message is given up, in microseconds since it was raised.
    pub give_up_after: i64,
}

/// Sends the notifications that wait in a catalog.
#[derive(Debug)]
pub struct Outbox {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    targets: Vec<Target>,
    options: OutboxOptions,
    /// Told when there is something new.
    news: Vec<Notify>,
}

impl Outbox {
    /// Makes what sends to targets.
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        targets: Vec<Target>,
        options: OutboxOptions,
    ) -> Self {
        let news = targets.iter().map(|_| Notify::new()).collect();
        Self { store, clock, targets, options, news }
    }

    /// Says that something was raised.
    pub fn wake(&self) {
        self.news.iter().for_each(Notify::notify_one);
    }

    /// Sends for as long as `stop` does not say otherwise; each target by itself, so that none waits for another.
    pub async fn keep(self: Arc<Self>, stop: watch::Receiver<bool>) {
        let mut sending = tokio::task::JoinSet::new();
        for index in 0..self.targets.len() {
            let (outbox, mut stop) = (Arc::clone(&self), stop.clone());
            sending.spawn(async move {
                let all = async {
                    loop {
                        if let Err(error) = outbox.round(&outbox.targets[index]).await {
                            tracing::warn!(error = %error.one_line(), "notifications wait");
                        }
                        let _ = tokio::time::timeout(LOOK, outbox.news[index].notified()).await;
                    }
                };
                tokio::select! {
                    () = all => {}
                    _ = stop.wait_for(|stop| *stop) => {}
                }
            });
        }
        while sending.join_next().await.is_some() {}
    }

    /// Tries once all that is due; gives the errors.
    ///
    /// # Errors
    /// Returns errors of the catalog.
    pub async fn once(&self) -> Result<Vec<Error>> {
        let rounds = futures::future::join_all(self.targets.iter().map(|target| self.round(target)));
        let mut errors = Vec::new();
        for round in rounds.await {
            errors.extend(round?);
        }
        Ok(errors)
    }

    /// Sends what is due for one target, until it has not taken some.
    async fn round(&self, target: &Target) -> Result<Option<Error>> {
        let (mut refused, mut told) = (0, None);
        loop {
            let due = self.store.due_notifications(target.name(), self.clock.now_micros(), AT_ONCE)?;
            if due.is_empty() {
                return Ok(told);
            }
            for mut notification in due {
                let message = Message::of(&notification.alert);
                let begun = tokio::time::Instant::now();
                let sent = target.send(&message, self.clock.now_micros()).await;
                self.enter(&mut notification, sent.as_ref().err());
                self.store.settle_notification(&notification)?;
                log(&notification, sent.as_ref().err());
                // One that is refused says nothing of the others. These stay due when it seems to be the target.
                if let Err(error) = sent {
                    refused += 1;
                    told = Some(error);
                    if refused == REFUSED || begun.elapsed() >= AT_LEAST {
                        return Ok(told);
                    }
                }
            }
        }
    }

    /// Notes how an attempt went.
    fn enter(&self, notification: &mut Notification, error: Option<&Error>) {
        let now = self.clock.now_micros();
        notification.attempts = notification.attempts.saturating_add(1);
        notification.error = error.map(|error| error.cause_text().unwrap_or_else(|| error.one_line()));
        let age = now.saturating_sub(notification.alert.raised_at);
        if error.is_none() {
            notification.status = NotificationStatus::Sent;
            notification.settled_at = Some(now);
        } else if age >= self.options.give_up_after {
            notification.status = NotificationStatus::Dead;
            notification.settled_at = Some(now);
        } else {
            notification.next_at = now.saturating_add(pause(notification.attempts));
        }
    }
}

/// Tells whoever runs the service of what is not sent: at its first attempt, and when it is given up.
fn log(notification: &Notification, error: Option<&Error>) {
    let (target, alert) = (&notification.target, &notification.alert.alert);
    match (error, notification.status) {
        (Some(error), NotificationStatus::Dead) => {
            tracing::error!(%target, %alert, attempts = notification.attempts, error = %error.one_line(), "a notification is given up");
        }
        (Some(error), _) if notification.attempts == 1 => {
            tracing::warn!(%target, %alert, error = %error.one_line(), "a notification waits");
        }
        _ => {}
    }
}

/// How long a message waits after so many attempts, in microseconds.
fn pause(attempts: u32) -> i64 {
    let backoff = Backoff { base: Duration::from_secs(1), longest: LONGEST, retries: u32::MAX };
    let bound = backoff.delay(attempts, rand::rng().random()).unwrap_or(LONGEST);
    i64::try_from(bound.as_micros()).unwrap_or(i64::MAX)
}
