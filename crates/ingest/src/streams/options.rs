//! The options of `read_stream`, `read_kinesis` and `read_kafka`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use catchment_core::{Code, Error, Result, parse_bytes};
use catchment_log::StreamName;
use catchment_sql::{Argument, SqlText, nearest};
use datafusion::arrow::compute::kernels::cast_utils::string_to_datetime;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::sql::sqlparser::tokenizer::Span;

use crate::source::Limits;
use crate::streams::decode::{Codec, MessageOptions};
use crate::streams::schema::RecordSchema;
use crate::types::parse_schema;

/// Bytes taken by one batch unless `maxBytesPerTrigger` says otherwise: what a batch of Firehose holds.
const BYTES_PER_BATCH: u64 = 128 << 20;

/// Bytes of one batch of another service's stream, which are kept in memory between planning and reading.
const BYTES_PER_FETCH: u64 = 32 << 20;

/// Records taken by one batch of a topic unless `maxOffsetsPerTrigger` says otherwise.
const OFFSETS_PER_BATCH: u64 = 1_000_000;

/// Where a flow begins that has read nothing yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InitialPosition {
    /// With the oldest record that the stream keeps.
    Earliest,
    /// With the next record that comes.
    Latest,
    /// With the first record that arrived at this time or later, in milliseconds since the Unix epoch.
    Since(i64),
}

/// What is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A stream of this project's log.
    Log(StreamName),
    /// A stream of a Kinesis endpoint.
    Kinesis(KinesisStream),
    /// A topic of a Kafka cluster.
    Kafka(KafkaTopic),
}

/// A stream of a Kinesis endpoint, Amazon's or another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KinesisStream {
    pub(crate) stream: String,
    /// The region; that of the environment without.
    pub(crate) region: Option<String>,
    /// Where the service is; Amazon's in the region without.
    pub(crate) endpoint: Option<String>,
}

/// A topic of a Kafka cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KafkaTopic {
    pub(crate) servers: String,
    pub(crate) topic: String,
    /// The most records of a batch, by their offsets.
    pub(crate) offsets: u64,
    pub(crate) is_encrypted: bool,
    /// How a name and a secret are sent, when they are.
    pub(crate) mechanism: Option<Mechanism>,
    /// The file of the certificates that are trusted; those that everybody trusts without.
    pub(crate) authorities: Option<String>,
}

/// How a name and a secret are sent to Kafka.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mechanism {
    /// As they are.
    Plain,
    /// By a challenge, with SHA-256.
    Scram256,
    /// By a challenge, with SHA-512.
    Scram512,
}

/// A call of `read_stream`, `read_kinesis` or `read_kafka`, checked.
#[derive(Debug, Clone)]
pub struct ReadStream {
    /// What is read.
    pub origin: Origin,
    /// How records are decoded.
    pub(crate) codec: Arc<Codec>,
    /// Columns of records.
    pub(crate) columns: SchemaRef,
    /// The column that takes what does not fit the schema.
    pub(crate) rescue: Option<String>,
    /// Where a flow begins.
    pub(crate) initial: InitialPosition,
    /// Whether records that are gone before they were read are an error.
    pub(crate) fails_on_loss: bool,
    /// How much one batch takes.
    pub limits: Limits,
}

/// Options that all have.
const COMMON: &[&str] = &[
    "format",
    "schema",
    "schemaFile",
    "messageName",
    "framing",
    "jsonSchema",
    "rescuedDataColumn",
    "initialPosition",
    "startingTimestamp",
    "failOnDataLoss",
];

/// Options that only some have.
const OF_LOG: &[&str] = &["maxBytesPerTrigger"];
const OF_KINESIS: &[&str] = &["streamName", "region", "endpoint", "maxBytesPerTrigger"];
const OF_KAFKA: &[&str] = &[
    "bootstrapServers",
    "subscribe",
    "startingOffsets",
    "maxOffsetsPerTrigger",
    "kafka.security.protocol",
    "kafka.sasl.mechanism",
    "kafka.ssl.ca.location",
];

/// Options of Databricks that would put a secret into a file that is shared.
const SECRETS: &[&str] = &["awsAccessKey", "awsSecretKey", "kafka.sasl.jaas.config", "kafka.sasl.password"];

/// The arguments of a call, by name, with what is wrong about them.
struct Call<'a> {
    function: &'static str,
    given: BTreeMap<&'static str, &'a Argument>,
    text: &'a SqlText,
    span: Span,
    errors: Vec<Error>,
}

impl<'a> Call<'a> {
    /// Sorts arguments by name; the first without one is `first`.
    fn new(
        function: &'static str,
        (first, known): (&'static str, &[&'static str]),
        arguments: &'a [Argument],
        text: &'a SqlText,
        span: Span,
    ) -> Self {
        let mut call = Self { function, given: BTreeMap::new(), text, span, errors: Vec::new() };
        let names: Vec<&'static str> = [known, COMMON].concat();
        for argument in arguments {
            let found = match argument.name.as_deref() {
                None if call.given.contains_key(first) => {
                    Err(invalid(format!("{function} takes one value without a name")))
                }
                None => Ok(first),
                Some(name) => {
                    let found = names.iter().find(|known| known.eq_ignore_ascii_case(name)).copied();
                    found.ok_or_else(|| no_option(function, name, &names))
                }
            };
            match found {
                Ok(name) => drop(call.given.insert(name, argument)),
                Err(error) => call.errors.push(error.at(text.place(argument.span))),
            }
        }
        call
    }

    /// Reads an option, when it is given.
    fn read<T>(&mut self, name: &'static str, read: impl FnOnce(&str) -> Result<T>) -> Option<T> {
        let argument = self.given.get(name)?;
        match read(&argument.value) {
            Ok(value) => Some(value),
            Err(error) => {
                self.errors.push(error.at(self.text.place(argument.span)));
                None
            }
        }
    }

    fn text(&mut self, name: &'static str) -> Option<String> {
        self.read(name, |value| Ok(value.to_owned()))
    }

    /// A number of at least one.
    fn count(&mut self, name: &'static str, parse: fn(&str) -> Option<u64>, like: &str) -> Option<u64> {
        self.read(name, |value| {
            parse(value)
                .filter(|count| *count > 0)
                .ok_or_else(|| invalid(format!("option \"{name}\" is {value:?}, not {like}")))
        })
    }

    /// Reads an option that there has to be.
    fn needed<T>(
        &mut self,
        name: &'static str,
        what: &str,
        read: impl FnOnce(&str) -> Result<T>,
    ) -> Option<T> {
        if !self.given.contains_key(name) && self.errors.is_empty() {
            let error = invalid(format!("{} needs {what}", self.function));
            self.errors.push(error.at(self.text.place(self.span)));
        }
        self.read(name, read)
    }
}

impl ReadStream {
    /// What people know the source by; not the path of a file.
    #[must_use]
    pub fn name(&self) -> String {
        match &self.origin {
            Origin::Log(stream) => format!("stream:{stream}"),
            Origin::Kinesis(of) => format!("kinesis:{}", of.stream),
            Origin::Kafka(of) => format!("kafka:{}", of.topic),
        }
    }

    /// Reads the arguments of a call of `function`; files are looked for in `folder`.
    ///
    /// # Errors
    /// Returns [`Code::OPTION_INVALID`] or [`Code::NOT_SUPPORTED`] for each option that is wrong, with its place.
    pub fn parse(
        function: &'static str,
        arguments: &[Argument],
        folder: &Path,
        text: &SqlText,
        span: Span,
    ) -> Result<Self> {
        let known = match function {
            "read_kinesis" => ("streamName", OF_KINESIS),
            "read_kafka" => ("subscribe", OF_KAFKA),
            _ => ("", OF_LOG),
        };
        let mut call = Call::new(function, known, arguments, text, span);
        let origin = match function {
            "read_kinesis" => kinesis(&mut call).map(Origin::Kinesis),
            "read_kafka" => kafka(&mut call).map(Origin::Kafka),
            _ => call.needed("", "the name of a stream", |name| StreamName::new(name)).map(Origin::Log),
        };
        let bytes = call.count("maxBytesPerTrigger", parse_bytes, "a size such as '64MB'");
        let initial = initial(&mut call);
        let fails_on_loss = call.read("failOnDataLoss", |value| {
            let wrong = |_| invalid(format!("option \"failOnDataLoss\" is {value:?}, not true or false"));
            value.to_lowercase().parse().map_err(wrong)
        });
        let rescue = call.text("rescuedDataColumn");
        let schema = call.read("schema", parse_schema);
        let format = call.text("format").unwrap_or_else(|| "json".to_owned());
        let (file, message) = (call.text("schemaFile"), call.text("messageName"));
        let framing = call.text("framing");
        let held_to = call.read("jsonSchema", |file| RecordSchema::open(&folder.join(file)));
        let at = call.given.get("format").map_or(span, |argument| argument.span);
        Error::join(std::mem::take(&mut call.errors))?;
        let messages = MessageOptions {
            file: file.map(|file| folder.join(file)),
            message,
            framing,
            held_to: held_to.map(Arc::new),
        };
        let (codec, columns) =
            Codec::new(&format, schema, messages).map_err(|error| error.at(text.place(at)))?;
        let Some(origin) = origin else {
            return Err(Error::new(Code::INTERNAL, "an option was missed").at(text.place(span)));
        };
        let most = if matches!(origin, Origin::Log(_)) { BYTES_PER_BATCH } else { BYTES_PER_FETCH };
        Ok(Self {
            origin,
            codec: Arc::new(codec),
            columns,
            rescue,
            initial,
            fails_on_loss: fails_on_loss.unwrap_or(true),
            limits: Limits { files: usize::MAX, bytes: bytes.unwrap_or(most) },
        })
    }
}

fn kinesis(call: &mut Call<'_>) -> Option<KinesisStream> {
    let stream = call.needed("streamName", "streamName => 'the name of a stream'", |value| match value {
        "" => Err(invalid("option \"streamName\" is empty".to_owned())),
        names if names.contains(',') => Err(Error::new(Code::NOT_SUPPORTED, "read_kinesis reads one stream")
            .hint("write a FLOW for each stream into the same table")),
        name => Ok(name.to_owned()),
    });
    let endpoint = call.read("endpoint", |value| match value.split_once("://") {
        Some(("http" | "https", rest)) if !rest.is_empty() && !rest.contains('@') => Ok(value.to_owned()),
        _ => Err(invalid(format!(
            "option \"endpoint\" is {value:?}, not a URL such as 'http://localhost:4566'"
        ))),
    });
    Some(KinesisStream { stream: stream?, region: call.text("region"), endpoint })
}

fn kafka(call: &mut Call<'_>) -> Option<KafkaTopic> {
    let servers = call.needed("bootstrapServers", "bootstrapServers => 'host:9092'", |value| {
        let is_address = |server: &str| {
            server
                .trim()
                .rsplit_once(':')
                .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
        };
        match value.split(',').all(is_address) {
            true => Ok(value.split(',').map(str::trim).collect::<Vec<_>>().join(",")),
            false => Err(invalid(format!(
                "option \"bootstrapServers\" is {value:?}, not addresses such as 'localhost:9092'"
            ))),
        }
    });
    let topic = call.needed("subscribe", "subscribe => 'the name of a topic'", |value| {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        match value {
            names if names.contains(',') => {
                Err(Error::new(Code::NOT_SUPPORTED, "read_kafka reads one topic")
                    .hint("write a FLOW for each topic into the same table"))
            }
            name if !name.is_empty() && name.len() <= 249 && name.chars().all(is_plain) => {
                Ok(name.to_owned())
            }
            name => Err(invalid(format!("option \"subscribe\" is {name:?}, which is no name of a topic"))),
        }
    });
    let offsets = call.count("maxOffsetsPerTrigger", |value| value.parse().ok(), "a number of records");
    let protocol = call.read("kafka.security.protocol", |value| match value.to_uppercase().as_str() {
        "PLAINTEXT" => Ok((false, false)),
        "SSL" => Ok((true, false)),
        "SASL_PLAINTEXT" => Ok((false, true)),
        "SASL_SSL" => Ok((true, true)),
        _ => Err(invalid(format!("no security protocol {value:?}"))
            .hint("protocols: PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL")),
    });
    let mechanism = call.read("kafka.sasl.mechanism", |value| match value.to_uppercase().as_str() {
        "PLAIN" => Ok(Mechanism::Plain),
        "SCRAM-SHA-256" => Ok(Mechanism::Scram256),
        "SCRAM-SHA-512" => Ok(Mechanism::Scram512),
        _ => Err(invalid(format!("no SASL mechanism {value:?}"))
            .hint("mechanisms: PLAIN, SCRAM-SHA-256, SCRAM-SHA-512")),
    });
    let authorities = call.text("kafka.ssl.ca.location");
    let (is_encrypted, is_signed) = protocol.unwrap_or_default();
    Some(KafkaTopic {
        servers: servers?,
        topic: topic?,
        offsets: offsets.unwrap_or(OFFSETS_PER_BATCH),
        is_encrypted,
        mechanism: is_signed.then(|| mechanism.unwrap_or(Mechanism::Plain)),
        authorities,
    })
}

fn initial(call: &mut Call<'_>) -> InitialPosition {
    let since = call.read("startingTimestamp", |value| {
        string_to_datetime(&chrono::Utc, value).map(|time| time.timestamp_millis()).map_err(|_| {
            invalid(format!(
                "option \"startingTimestamp\" is {value:?}, not a time such as '2026-01-31 12:00:00'"
            ))
        })
    });
    let named = |value: &str| match value.to_lowercase().as_str() {
        "earliest" | "trim_horizon" => Ok(InitialPosition::Earliest),
        "latest" => Ok(InitialPosition::Latest),
        "at_timestamp" => since
            .map(InitialPosition::Since)
            .ok_or_else(|| invalid("initialPosition => 'at_timestamp' needs a startingTimestamp".to_owned())),
        _ => Err(invalid(format!("no initial position {value:?}"))
            .hint("positions: earliest, latest, at_timestamp")),
    };
    let position = call.read("initialPosition", named).or_else(|| call.read("startingOffsets", named));
    position.or(since.map(InitialPosition::Since)).unwrap_or(InitialPosition::Earliest)
}

fn no_option(function: &str, name: &str, known: &[&str]) -> Error {
    if SECRETS.iter().any(|secret| secret.eq_ignore_ascii_case(name)) {
        return invalid(format!("option \"{name}\" would put a secret into a file that is shared"))
            .hint("secrets come from the environment: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, KAFKA_USERNAME and KAFKA_PASSWORD");
    }
    let error = invalid(format!("{function} has no option \"{name}\""));
    match nearest(name, known) {
        Some(near) => error.hint(format!("did you mean \"{near}\"?")),
        None => error.hint(format!("options: {}", known.join(", "))),
    }
}

pub(super) fn invalid(message: String) -> Error {
    Error::new(Code::OPTION_INVALID, message)
}
