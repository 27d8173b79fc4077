//! Messages by mail.

use lettre::message::Mailbox;
use lettre::message::header::ContentType;
use lettre::transport::smtp::AsyncSmtpTransport;
use lettre::transport::smtp::authentication::Credentials;
use lettre::{AsyncTransport, Tokio1Executor};

use crate::message::Message;
use crate::target::PATIENCE;

pub(crate) struct Mail {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    from: Mailbox,
    to: Vec<Mailbox>,
}

impl Mail {
    pub(crate) fn new(
        server: &str,
        from: &str,
        to: &[String],
        login: Option<(String, String)>,
    ) -> Result<Self, String> {
        let builder = AsyncSmtpTransport::<Tokio1Executor>::from_url(server)
            .map_err(|error| format!("smtp is no mail server's address, such as smtp://host:25: {error}"))?;
        if login.is_some() && is_in_clear(server) {
            return Err(
                "name and password would go over the network in clear: write smtps://, or add ?tls=required"
                    .to_owned(),
            );
        }
        let builder = match login {
            Some((name, password)) => builder.credentials(Credentials::new(name, password)),
            None => builder,
        };
        let mailbox = |key: &str, text: &str| {
            text.parse::<Mailbox>().map_err(|error| format!("{key}: {text:?} is no mail address: {error}"))
        };
        if to.is_empty() {
            return Err("a mail has somebody it is to: to = [\"...\"]".to_owned());
        }
        Ok(Self {
            transport: builder.timeout(Some(PATIENCE)).build(),
            from: mailbox("from", from)?,
            to: to.iter().map(|text| mailbox("to", text)).collect::<Result<_, _>>()?,
        })
    }

    pub(crate) async fn send(&self, message: &Message) -> Result<(), String> {
        let mut mail = lettre::Message::builder().from(self.from.clone());
        for to in &self.to {
            mail = mail.to(to.clone());
        }
        let domain = self.from.email.domain();
        let mail = mail
            .subject(format!("{} ({})", message.alert, message.severity))
            .message_id(Some(format!("<{}@{domain}>", message.id)))
            .header(ContentType::TEXT_PLAIN)
            .body(body(message))
            .map_err(|error| format!("no mail can be made of it: {error}"))?;
        self.transport.send(mail).await.map(|_| ()).map_err(|error| error.to_string())
    }
}

/// Whether what is said to a server may be read on its way: it need not encrypt, and is another machine.
fn is_in_clear(server: &str) -> bool {
    let Some(rest) = server.strip_prefix("smtp://") else { return false };
    let host = rest.split(['/', '?']).next().unwrap_or_default();
    let host = host.rsplit('@').next().unwrap_or_default();
    let name = match host.strip_prefix('[') {
        Some(address) => address.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    let is_here =
        name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    !is_here && !rest.contains("tls=required")
}

/// A line for each column of the row.
fn body(message: &Message) -> String {
    let row = message.values();
    let width = row.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let mut text = format!("{} ({})\n\n", message.alert, message.severity);
    for (name, value) in &row {
        text += &format!("{name:<width$}  {value}\n");
    }
    text + &format!("\nraised at {}\nid {}\n", message.raised_at, message.id)
}
