//! Messages by HTTP, signed as standardwebhooks.com says: `webhook-id`, `webhook-timestamp` and `webhook-signature`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use catchment_core::causes;
use reqwest::redirect::Policy;
use reqwest::{Client, Url};
use ring::hmac;

use crate::message::Message;
use crate::target::PATIENCE;

/// Bytes of an answer that are told when it is none that was hoped for.
const TOLD: usize = 200;

pub(crate) struct Webhook {
    url: Url,
    key: Option<hmac::Key>,
    client: Client,
}

impl Webhook {
    pub(crate) fn new(url: &str, secret: &str) -> Result<Self, String> {
        let url = Url::parse(url).map_err(|error| format!("webhook is no address: {error}"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err("webhook is neither http nor https".to_owned());
        }
        let bytes = match secret.strip_prefix("whsec_") {
            Some(encoded) => {
                STANDARD.decode(encoded).map_err(|error| format!("secret is no base64: {error}"))?
            }
            None => secret.as_bytes().to_vec(),
        };
        let key = (!bytes.is_empty()).then(|| hmac::Key::new(hmac::HMAC_SHA256, &bytes));
        // Whoever is told is who the project names, not who that one points at.
        let client = Client::builder().redirect(Policy::none()).timeout(PATIENCE).user_agent("catchment");
        let client = client.build().map_err(|error| format!("no client for HTTP: {error}"))?;
        Ok(Self { url, key, client })
    }

    pub(crate) async fn send(&self, message: &Message, at: i64) -> Result<(), String> {
        let (body, seconds) = (message.json(), at.div_euclid(1_000_000));
        let mut request = self
            .client
            .post(self.url.clone())
            .header("content-type", "application/json")
            .header("webhook-id", &message.id)
            .header("webhook-timestamp", seconds);
        if let Some(key) = &self.key {
            request = request.header("webhook-signature", signature(key, &message.id, seconds, &body));
        }
        let answer = request.body(body).send().await.map_err(|error| shown(&error))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(());
        }
        let text = beginning(answer).await;
        Err(format!("it answered {status}: {}", text.trim()))
    }
}

/// `v1,` and the HMAC of id, time and body.
fn signature(key: &hmac::Key, id: &str, seconds: i64, body: &str) -> String {
    let tag = hmac::sign(key, format!("{id}.{seconds}.{body}").as_bytes());
    format!("v1,{}", STANDARD.encode(tag.as_ref()))
}

/// The first bytes of an answer; no more of it is read.
async fn beginning(mut answer: reqwest::Response) -> String {
    let mut bytes = Vec::new();
    while bytes.len() < TOLD
        && let Ok(Some(chunk)) = answer.chunk().await
    {
        bytes.extend_from_slice(&chunk[..chunk.len().min(TOLD - bytes.len())]);
    }
    // Whoever reads it has a terminal.
    let shown = |character: char| if character.is_control() { ' ' } else { character };
    String::from_utf8_lossy(&bytes).chars().map(shown).collect()
}

/// An error with its causes, without the address, which may hold a secret.
fn shown(error: &reqwest::Error) -> String {
    std::error::Error::source(error).map_or_else(|| "the request failed".to_owned(), causes)
}

#[cfg(test)]
mod tests {
    use super::{STANDARD, signature};
    use base64::Engine;
    use ring::hmac;

    /// As its library for Python signs.
    #[test]
    fn signatures_are_those_of_the_standard() {
        let bytes = STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLwSw").unwrap();
        let key = hmac::Key::new(hmac::HMAC_SHA256, &bytes);
        let signed = signature(&key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, "{\"test\": 2432232314}");
        assert_eq!(signed, "v1,pZN3CVESPCUuihODVQNgWONmlcH9xCz9b1ykcK53XqY=");
    }
}
