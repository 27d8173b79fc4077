//! Who is told, and how a message gets there.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use catchment_core::{Code, Error, Result};
use catchment_log::Log;
use serde::{Deserialize, Serialize};

use crate::mail::Mail;
use crate::message::Message;
use crate::stream::StreamTarget;
use crate::topic::Topic;
use crate::webhook::Webhook;

/// How long one message may take to be sent.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// `[notify.<name>]`: one of `webhook`, `smtp`, `sns` and `stream`, and what belongs to it.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct TargetConfig {
    /// The address that a webhook's messages are posted to.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub webhook: String,
    /// What a webhook's messages are signed with: `whsec_` and base64, or any text.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub secret: String,
    /// A mail server, as `smtp://host:25`, `smtp://host:587?tls=required` or `smtps://host`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub smtp: String,
    /// Who a mail is from.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub from: String,
    /// Who a mail is to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub to: Vec<String>,
    /// Who the mail server knows us as.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub username: String,
    /// The mail server's password.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub password: String,
    /// The name (ARN) of an SNS topic; its credentials come from the environment.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub sns: String,
    /// Where SNS is, when it is not AWS's own.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub endpoint: String,
    /// A stream of this project.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub stream: String,
}

impl TargetConfig {
    /// Makes a target of it. `variable` gives what `${env:NAME}` stands for, `log` the streams.
    ///
    /// # Errors
    /// Returns [`Code::CONFIG_INVALID`] for what is no target.
    pub fn open(
        &self,
        name: &str,
        variable: &dyn Fn(&str) -> Option<String>,
        log: &dyn Fn() -> Result<Arc<Log>>,
    ) -> Result<Target> {
        let wrong = |what: String| wrong(name, what);
        let kind = self.kind(name)?;
        let value =
            |key: &str, text: &str| expand(text, variable).map_err(|what| wrong(format!("{key}: {what}")));
        let kind = match kind {
            "webhook" => {
                let (url, secret) = (value("webhook", &self.webhook)?, value("secret", &self.secret)?);
                Kind::Webhook(Webhook::new(&url, &secret).map_err(wrong)?)
            }
            "smtp" => {
                let login = (!self.username.is_empty())
                    .then(|| Ok::<_, Error>((self.username.clone(), value("password", &self.password)?)))
                    .transpose()?;
                let server = value("smtp", &self.smtp)?;
                Kind::Mail(Mail::new(&server, &self.from, &self.to, login).map_err(wrong)?)
            }
            "sns" => Kind::Topic(Topic::new(&self.sns, &self.endpoint).map_err(wrong)?),
            _ => Kind::Stream(StreamTarget::new(log()?, &self.stream)?),
        };
        Ok(Target { name: name.to_owned(), kind })
    }

    /// Which kind of target it is; nothing that belongs to another is there, and no secret stands in the file.
    fn kind(&self, name: &str) -> Result<&'static str> {
        let wrong = |what: String| wrong(name, what);
        let kinds =
            [("webhook", &self.webhook), ("smtp", &self.smtp), ("sns", &self.sns), ("stream", &self.stream)];
        let given: Vec<&str> =
            kinds.iter().filter(|(_, value)| !value.is_empty()).map(|(kind, _)| *kind).collect();
        let [kind] = given.as_slice() else {
            return Err(wrong("it has one of webhook, smtp, sns and stream".to_owned()));
        };
        let foreign = [
            ("secret", !self.secret.is_empty(), "webhook"),
            ("from", !self.from.is_empty(), "smtp"),
            ("to", !self.to.is_empty(), "smtp"),
            ("username", !self.username.is_empty(), "smtp"),
            ("password", !self.password.is_empty(), "smtp"),
            ("endpoint", !self.endpoint.is_empty(), "sns"),
        ];
        if let Some((key, _, of)) = foreign.iter().find(|(_, given, of)| *given && of != kind) {
            return Err(wrong(format!("{key} belongs to {of}")));
        }
        for (key, text) in [("secret", &self.secret), ("password", &self.password)] {
            if !text.is_empty() && !text.starts_with("${env:") {
                return Err(wrong(format!("{key} is a secret")).hint(format!(
                    "leave it out of the file: {key} = \"${{env:NAME}}\", and set that variable"
                )));
            }
        }
        // Whoever is told may be named by a secret as a whole, and by a part of one not at all.
        let address = if *kind == "webhook" { &self.webhook } else { &self.smtp };
        let login = address.split_once("://").and_then(|(_, rest)| rest.split('/').next()?.rsplit_once('@'));
        if login.is_some_and(|(login, _)| login.contains(':') && !login.contains("${env:")) {
            return Err(wrong(format!("{kind} holds a password")).hint(format!(
                "leave it out of the file: {kind} = \"${{env:NAME}}\", and set that variable"
            )));
        }
        Ok(kind)
    }

    /// Makes sure that it says what it has to, as far as that can be told without a network.
    ///
    /// # Errors
    /// As [`TargetConfig::open`].
    pub fn require_valid(&self, name: &str) -> Result<()> {
        if self.kind(name)? == "stream" {
            return catchment_log::StreamName::new(&self.stream).map(|_| ());
        }
        // Where it is, the environment says.
        if [&self.webhook, &self.smtp, &self.sns].iter().any(|address| address.contains("${env:")) {
            return Ok(());
        }
        // Which secret it is does not matter here.
        self.require_open(name, &|_| Some("whsec_AAAA".to_owned()))
    }

    /// Makes sure that a target which is no stream can be made with these variables.
    ///
    /// # Errors
    /// As [`TargetConfig::open`].
    pub fn require_open(&self, name: &str, variable: &dyn Fn(&str) -> Option<String>) -> Result<()> {
        let no_log = || Err(Error::new(Code::INTERNAL, "a target without a stream asked for streams"));
        self.open(name, variable, &no_log).map(|_| ())
    }
}

fn wrong(name: &str, what: String) -> Error {
    Error::new(Code::CONFIG_INVALID, format!("notify.{name}: {what}"))
}

/// Puts the values of variables in the place of `${env:NAME}`.
fn expand(text: &str, variable: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut expanded = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${env:") {
        let (name, after) = after.split_once('}').ok_or_else(|| format!("{text:?} has no closing brace"))?;
        expanded += before;
        expanded +=
            &variable(name).ok_or_else(|| format!("variable {name} of the environment is not set"))?;
        rest = after;
    }
    Ok(expanded + rest)
}

/// Who is told.
pub struct Target {
    name: String,
    kind: Kind,
}

enum Kind {
    Webhook(Webhook),
    Mail(Mail),
    Topic(Topic),
    Stream(StreamTarget),
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Target {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Sends a message, and waits until it is taken; at most ten seconds.
    ///
    /// # Errors
    /// Returns [`Code::NOTIFICATION_FAILED`] with the reason when it is not.
    pub async fn send(&self, message: &Message, at: i64) -> Result<()> {
        let sending = async {
            match &self.kind {
                Kind::Webhook(webhook) => webhook.send(message, at).await,
                Kind::Mail(mail) => mail.send(message).await,
                Kind::Topic(topic) => topic.send(message).await,
                Kind::Stream(stream) => stream.send(message).await,
            }
        };
        let sent = tokio::time::timeout(PATIENCE, sending).await;
        sent.unwrap_or_else(|_| Err(format!("no answer within {} s", PATIENCE.as_secs()))).map_err(|why| {
            Error::new(Code::NOTIFICATION_FAILED, format!("target \"{}\" did not take a message", self.name))
                .because(why)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::expand;

    #[test]
    fn variables_are_put_in_their_places() {
        let variable = |name: &str| (name == "A").then(|| "1".to_owned());
        assert_eq!(expand("x${env:A}y${env:A}", &variable).unwrap(), "x1y1");
        assert_eq!(expand("$A {env:A}", &variable).unwrap(), "$A {env:A}");
        assert!(expand("${env:B}", &variable).unwrap_err().contains("B"));
        assert!(expand("${env:A", &variable).unwrap_err().contains("brace"));
    }
}
