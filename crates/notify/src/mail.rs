//! Messages by mail.

use catchment_core::is_this_machine;
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
        if tells_in_clear(server, login.is_some()) {
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

/// Whether a name and a password would be told to another machine that need not encrypt what it is told.
fn tells_in_clear(server: &str, login: bool) -> bool {
    // What is no address is refused by whoever reads it.
    let Ok(url) = reqwest::Url::parse(server) else { return false };
    let has_login = login || !url.username().is_empty() || url.password().is_some();
    let is_encrypted =
        url.scheme() == "smtps" || url.query_pairs().any(|(key, value)| key == "tls" && value == "required");
    has_login && !is_encrypted && !is_this_machine(url.host_str().unwrap_or_default())
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

#[cfg(test)]
mod tests {
    use super::Mail;

    #[test]
    fn a_password_goes_to_another_machine_only_where_the_way_is_encrypted() {
        let login = || Some(("a".to_owned(), "b".to_owned()));
        for (server, login, is_fine) in [
            ("smtp://mail.example.com:25", None, true),
            ("smtp://mail.example.com:25", login(), false),
            ("smtp://bob:secret@mail.example.com:25", None, false),
            ("smtp://mail.example.com?tls=opportunistic", login(), false),
            ("smtp://127.0.0.1.example.com", login(), false),
            ("smtp://mail.example.com?tls=required", login(), true),
            ("smtps://bob:secret@mail.example.com", None, true),
            ("smtp://bob:secret@127.0.0.1:25", None, true),
            ("smtp://[::1]:25", login(), true),
        ] {
            let made = Mail::new(server, "a@b.c", &["a@b.c".to_owned()], login).map(|_| ());
            assert_eq!(made.is_ok(), is_fine, "{server}: {made:?}");
        }
    }
}
