//! Commands to the streams of a project, and queries: carried out by whoever has them open.
//!
//! A service that runs has the streams for itself, so it takes commands of other processes of this machine through a
//! socket beside them, whose permissions are the file's. A command is a line of JSON, and so is its answer.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use catchment_core::{ALL_CODES, Code, Error, Place, Result, timestamp_text};
use catchment_log::{Entry, HashRange, Log, Reshard, Shard, ShardId, Stream, StreamName};
use futures::future::BoxFuture;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

/// Bytes of the longest line: the records of a command, with what JSON adds to them.
const LONGEST: u64 = 32 << 20;

/// Bytes of the rows of a query in one answer.
const ANSWER: usize = 20 << 20;

/// Bytes of records in one answer.
const READ: usize = 4 << 20;

/// Something to do with streams.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StreamCommand {
    /// Tell of all streams: a list of [`StreamDescription`].
    List,
    /// Make a stream: its [`StreamDescription`].
    Create {
        /// Its name.
        name: String,
        /// How many shards it begins with.
        shards: u32,
    },
    /// Delete a stream with its records: nothing.
    Delete {
        /// Its name.
        name: String,
    },
    /// Tell of a stream: its [`StreamDescription`].
    Describe {
        /// Its name.
        name: String,
    },
    /// Change the shards of a stream: its [`StreamDescription`] after that.
    Reshard {
        /// Its name.
        name: String,
        /// What is changed.
        change: ShardChange,
    },
    /// Read records of a shard: [`RecordsRead`].
    Read {
        /// The stream's name.
        name: String,
        /// The shard.
        shard: String,
        /// The first record wanted, by its number in the shard.
        from: u64,
        /// The most records.
        limit: usize,
    },
    /// Write records: a list of [`RecordPlace`], once all are durable.
    Put {
        /// The stream's name.
        name: String,
        /// Partition keys and texts.
        records: Vec<(String, String)>,
    },
    /// Ask a query of the project: its rows in Arrow's streaming format, as base64.
    Query {
        /// The query.
        text: String,
    },
}

/// Answers a query with its rows in Arrow's streaming format.
pub type AnswerQuery = Arc<dyn Fn(String) -> BoxFuture<'static, Result<Vec<u8>>> + Send + Sync>;

/// A change of a stream's shards.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShardChange {
    /// Split and merge until so many are open.
    To(u32),
    /// Split one in the middle.
    Split(String),
    /// Merge two.
    Merge(String, String),
}

/// A stream, as people are told of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StreamDescription {
    /// Its name.
    pub stream: String,
    /// When it was made.
    pub created_at: String,
    /// How long records are kept.
    pub retention_hours: u32,
    /// Its size on disk.
    pub bytes: u64,
    /// Its shards, the closed ones too.
    pub shards: Vec<ShardDescription>,
}

/// A shard, as people are told of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ShardDescription {
    /// Its name.
    pub shard: String,
    /// Whether it takes records.
    pub open: bool,
    /// The shards it came from.
    pub parents: Vec<String>,
    /// The first hash of keys that go to it, a number of 128 bits.
    pub first_hash: String,
    /// The last one.
    pub last_hash: String,
    /// Records that are kept.
    pub records: u64,
    /// The number of the next record.
    pub next: u64,
}

impl ShardDescription {
    /// The part of all keys that goes to it, 0 to 1.
    #[must_use]
    pub fn share(&self) -> f64 {
        let number = |text: &str| text.parse::<u128>().unwrap_or_default();
        number(&self.last_hash).saturating_sub(number(&self.first_hash)) as f64 / u128::MAX as f64
    }
}

/// Records of a shard.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RecordsRead {
    /// The records; none when there are no more.
    pub records: Vec<RecordRead>,
    /// The number after the last of them.
    pub next: u64,
}

/// A record, as people read it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RecordRead {
    /// Its shard.
    pub shard: String,
    /// Its number there.
    pub number: u64,
    /// Its sequence number.
    pub sequence: String,
    /// When it came.
    pub arrived: String,
    /// Its partition key.
    pub key: String,
    /// Its data as text.
    pub data: String,
}

/// Where a record was written.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RecordPlace {
    /// Its shard.
    pub shard: String,
    /// Its sequence number.
    pub sequence: String,
}

/// An answer on its way.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Done(Value),
    Failed(Failure),
}

/// An error on its way to another process.
#[derive(Debug, Serialize, Deserialize)]
struct Failure {
    code: String,
    message: String,
    place: Option<Place>,
    hint: Option<String>,
    cause: Option<String>,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self {
            code: error.code().id.to_owned(),
            message: error.message().to_owned(),
            place: error.place().cloned(),
            hint: error.hint_text().map(ToOwned::to_owned),
            cause: error.cause_text(),
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        let known = ALL_CODES.iter().find(|known| known.id == failure.code);
        let mut error = Self::new(known.copied().unwrap_or(Code::INTERNAL), failure.message);
        if let Some(place) = failure.place {
            error = error.at(place);
        }
        if let Some(cause) = failure.cause {
            error = error.because(cause);
        }
        match failure.hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }
}

/// Carries out a command on streams that this process has open.
///
/// # Errors
/// Returns errors of the log.
async fn perform(log: &Log, queries: Option<&AnswerQuery>, command: StreamCommand) -> Result<Value> {
    let stream = |name: &str| log.stream(&StreamName::new(name)?);
    Ok(match command {
        StreamCommand::List => {
            json!(log.streams().iter().map(|stream| description(stream)).collect::<Vec<_>>())
        }
        StreamCommand::Create { name, shards } => {
            json!(description(&*log.create(&StreamName::new(name)?, shards, |_| {})?))
        }
        StreamCommand::Delete { name } => {
            log.delete(&StreamName::new(name)?)?;
            Value::Null
        }
        StreamCommand::Describe { name } => json!(description(&*stream(&name)?)),
        StreamCommand::Reshard { name, change } => {
            let stream = stream(&name)?;
            match change {
                ShardChange::To(count) => stream.scale(count as usize).await?,
                ShardChange::Split(shard) => stream.reshard(half(&stream, &shard)?).await?,
                ShardChange::Merge(first, second) => {
                    stream.reshard(Reshard::Merge(id(&first)?, id(&second)?)).await?;
                }
            }
            json!(description(&stream))
        }
        StreamCommand::Read { name, shard, from, limit } => {
            json!(read(&*stream(&name)?, id(&shard)?, from, limit)?)
        }
        StreamCommand::Put { name, records } => {
            let entries = records.into_iter().map(|(key, text)| Entry::new(key, text.into_bytes())).collect();
            let appended = stream(&name)?.append(entries).await?;
            let place = |at: &catchment_log::Appended| RecordPlace {
                shard: at.shard.to_string(),
                sequence: at.sequence.to_string(),
            };
            json!(appended.iter().map(place).collect::<Vec<_>>())
        }
        StreamCommand::Query { text } => {
            let answer =
                queries.ok_or_else(|| Error::new(Code::INTERNAL, "only a service answers queries"))?;
            let rows = answer(text).await?;
            require_small(rows.len())?;
            json!(STANDARD.encode(rows))
        }
    })
}

/// Refuses an answer to a query that is too large to be passed on.
///
/// # Errors
/// Returns [`Code::NOT_SUPPORTED`].
pub fn require_small(bytes: usize) -> Result<()> {
    if bytes <= ANSWER {
        return Ok(());
    }
    let what = format!("an answer of a service to `catchment sql` has at most {ANSWER} bytes");
    Err(Error::new(Code::NOT_SUPPORTED, what).hint("ask for less, with LIMIT or an aggregate"))
}

fn id(text: &str) -> Result<ShardId> {
    ShardId::parse(text).ok_or_else(|| Error::new(Code::SHARD_UNKNOWN, format!("{text:?} is no shard")))
}

/// The split of a shard in the middle.
fn half(stream: &Stream, shard: &str) -> Result<Reshard> {
    let shard = id(shard)?;
    let HashRange { start, end } = stream.state().shard(shard)?.range;
    Ok(Reshard::Split(shard, start + (end - start) / 2 + 1))
}

fn description(stream: &Stream) -> StreamDescription {
    let state = stream.state();
    let shard = |shard: &Shard| ShardDescription {
        shard: shard.id.to_string(),
        open: shard.is_open(),
        parents: shard.parents.iter().map(ToString::to_string).collect(),
        first_hash: shard.range.start.to_string(),
        last_hash: shard.range.end.to_string(),
        records: stream.head(shard.id).saturating_sub(stream.oldest(shard.id).unwrap_or(1)),
        next: stream.head(shard.id),
    };
    StreamDescription {
        stream: state.name.to_string(),
        created_at: timestamp_text(state.created_at * 1_000),
        retention_hours: state.retention_hours,
        bytes: stream.bytes(),
        shards: state.shards.iter().map(shard).collect(),
    }
}

fn read(stream: &Stream, shard: ShardId, from: u64, limit: usize) -> Result<RecordsRead> {
    let read = stream.read(shard, from, limit, READ)?;
    let mut records = Vec::with_capacity(read.records.len());
    for record in read.records {
        records.push(RecordRead {
            shard: shard.to_string(),
            number: record.ordinal,
            sequence: stream.sequence(shard, record.ordinal, record.arrived)?.to_string(),
            arrived: timestamp_text(record.arrived * 1_000),
            data: String::from_utf8_lossy(&record.data).into_owned(),
            key: record.partition_key,
        });
    }
    Ok(RecordsRead { records, next: read.next })
}

/// Takes commands through the socket at `path` until it is dropped.
///
/// # Errors
/// Returns errors of making the socket; one that a process left behind is replaced.
pub fn take_commands(
    path: &Path,
    log: Arc<Log>,
    queries: AnswerQuery,
) -> Result<impl Future<Output = ()> + Send + use<>> {
    let failed = |error: std::io::Error| {
        Error::new(Code::INPUT_OUTPUT, format!("could not make the socket \"{}\"", path.display()))
            .because(error)
            .hint("`catchment stream` cannot be used beside this service; the path of a socket has about 100 bytes at most")
    };
    // The streams are this process's, so whoever made it is gone.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    Ok(async move {
        let mut clients = tokio::task::JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((client, _)) => {
                        clients.spawn(converse(client, Arc::clone(&log), Arc::clone(&queries)));
                    }
                    // Out of descriptors, perhaps: whoever waits is taken when there are some again.
                    Err(error) => {
                        tracing::warn!(%error, "a command could not be taken");
                        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                    }
                },
                Some(_) = clients.join_next() => {}
            }
        }
    })
}

/// Carries out the commands of one client, until it goes.
async fn converse(client: UnixStream, log: Arc<Log>, queries: AnswerQuery) {
    let mut client = BufReader::new(client);
    while let Ok(Some(line)) = line(&mut client).await {
        let result = match serde_json::from_str(&line) {
            Ok(command) => {
                let mut performing = Box::pin(perform(&log, Some(&queries), command));
                tokio::select! {
                    result = &mut performing => result,
                    // Nobody waits for the answer any more.
                    () = gone(&mut client) => return,
                }
            }
            Err(error) => Err(Error::new(Code::USAGE, format!("no command to streams: {error}"))),
        };
        let answer = match result {
            Ok(done) => Answer::Done(done),
            Err(error) => Answer::Failed(error.into()),
        };
        if client.write_all(format!("{}\n", json!(answer)).as_bytes()).await.is_err() {
            return;
        }
    }
}

/// Waits until a client is gone; one that says more, is not.
async fn gone(client: &mut BufReader<UnixStream>) {
    match client.fill_buf().await {
        Ok([]) | Err(_) => {}
        Ok(_) => std::future::pending().await,
    }
}

/// The next line, `None` at the end.
async fn line(client: &mut BufReader<UnixStream>) -> std::io::Result<Option<String>> {
    let mut line = String::new();
    client.take(LONGEST).read_line(&mut line).await?;
    match line.ends_with('\n') {
        true => Ok(Some(line)),
        false if line.is_empty() => Ok(None),
        false => Err(ErrorKind::InvalidData.into()),
    }
}

/// The streams of a project, in this process or in one that has them open.
#[derive(Debug)]
pub enum Streams {
    /// They are this process's.
    Here(Log),
    /// They are those of a service.
    There(BufReader<UnixStream>),
}

impl Streams {
    /// Reaches the service that takes commands at `path`, `None` when there is none.
    pub async fn there(path: &Path) -> Option<Self> {
        UnixStream::connect(path).await.ok().map(BufReader::new).map(Self::There)
    }

    /// Has a command carried out.
    ///
    /// # Errors
    /// Returns errors of the log, and of the way to the service.
    pub async fn perform<T: DeserializeOwned>(&mut self, command: StreamCommand) -> Result<T> {
        let done = match self {
            Self::Here(log) => perform(log, None, command).await?,
            Self::There(service) => ask(service, &command).await?,
        };
        serde_json::from_value(done).map_err(|error| lost().because(error))
    }

    /// Asks the service a query; gives its rows in Arrow's streaming format.
    ///
    /// # Errors
    /// Returns errors of the query, and of the way to the service.
    pub async fn query(&mut self, text: &str) -> Result<Vec<u8>> {
        let rows: String = self.perform(StreamCommand::Query { text: text.to_owned() }).await?;
        STANDARD.decode(rows).map_err(|error| lost().because(error))
    }
}

fn lost() -> Error {
    Error::new(Code::INPUT_OUTPUT, "the service that has the streams did not answer")
        .hint("see what `catchment serve` says; records may have been written")
}

async fn ask(service: &mut BufReader<UnixStream>, command: &StreamCommand) -> Result<Value> {
    let sent = service.write_all(format!("{}\n", json!(command)).as_bytes()).await;
    sent.map_err(|error| lost().because(error))?;
    let answer = line(service).await.map_err(|error| lost().because(error))?.ok_or_else(lost)?;
    match serde_json::from_str(&answer).map_err(|error| lost().because(error))? {
        Answer::Done(done) => Ok(done),
        Answer::Failed(failure) => Err(failure.into()),
    }
}
