//! Messages to an SNS topic.

use aws_config::BehaviorVersion;
use aws_sdk_sns::Client;
use aws_sdk_sns::config::Region;
use aws_sdk_sns::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_sns::types::MessageAttributeValue;
use catchment_core::causes;
use tokio::sync::OnceCell;

use crate::message::Message;

/// Characters of a subject, the most that SNS takes.
const SUBJECT: usize = 99;

pub(crate) struct Topic {
    name: String,
    region: String,
    endpoint: Option<String>,
    client: OnceCell<Client>,
}

impl Topic {
    pub(crate) fn new(name: &str, endpoint: &str) -> Result<Self, String> {
        let parts: Vec<&str> = name.split(':').collect();
        let region = match parts.as_slice() {
            ["arn", _, "sns", region, _, _] if !region.is_empty() => (*region).to_owned(),
            _ => {
                return Err(format!(
                    "{name:?} is no SNS topic, such as arn:aws:sns:us-east-1:000000000000:alerts"
                ));
            }
        };
        let endpoint = (!endpoint.is_empty()).then(|| endpoint.to_owned());
        Ok(Self { name: name.to_owned(), region, endpoint, client: OnceCell::new() })
    }

    pub(crate) async fn send(&self, message: &Message) -> Result<(), String> {
        let client = self.client.get_or_init(|| self.connect()).await;
        let text =
            |value: &str| MessageAttributeValue::builder().data_type("String").string_value(value).build();
        let attribute = |value: &str| text(value).map_err(|error| error.to_string());
        let plain = |character: &char| character.is_ascii() && !character.is_ascii_control();
        let subject: String =
            format!("{} ({})", message.alert, message.severity).chars().filter(plain).take(SUBJECT).collect();
        let mut publish = client
            .publish()
            .topic_arn(&self.name)
            .subject(subject)
            .message(message.json())
            .message_attributes("alert", attribute(&message.alert)?)
            .message_attributes("severity", attribute(&message.severity)?);
        if self.name.ends_with(".fifo") {
            publish = publish.message_group_id(&message.alert).message_deduplication_id(&message.id);
        }
        publish.send().await.map(|_| ()).map_err(|error| match &error {
            SdkError::ServiceError(refused) => format!(
                "SNS refuses: {}: {}",
                refused.err().code().unwrap_or("error"),
                refused.err().message().unwrap_or_default()
            ),
            _ => causes(&error),
        })
    }

    async fn connect(&self) -> Client {
        let mut config =
            aws_config::defaults(BehaviorVersion::latest()).region(Region::new(self.region.clone()));
        if let Some(endpoint) = &self.endpoint {
            config = config.endpoint_url(endpoint);
        }
        Client::new(&config.load().await)
    }
}
