//! The options of `read_files`.

use std::collections::BTreeSet;
use std::sync::Arc;

use catchment_core::{Code, Error, Result, parse_bytes};
use catchment_sql::{Argument, SqlText, interval_micros, nearest};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::sql::sqlparser::ast::{Expr, Value};
use datafusion::sql::sqlparser::tokenizer::Span;
use globset::{GlobBuilder, GlobMatcher};

use crate::files::FileInfo;
use crate::files::discover::Pattern;
use crate::files::quick::{quick_date, quick_timestamp};
use crate::files::scan::is_reserved;
use crate::files::stores::{FileStores, is_object};
use crate::source::Limits;
use crate::types::parse_schema;

/// Files taken by one batch unless `maxFilesPerTrigger` says otherwise.
const FILES_PER_BATCH: usize = 1_000;

/// Bytes taken by one batch unless `maxBytesPerTrigger` says otherwise.
const BYTES_PER_BATCH: u64 = 8 << 30;

/// What a file's content is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileFormat {
    /// One JSON object a line.
    Json,
    /// Comma-separated values.
    Csv,
    /// Apache Parquet.
    Parquet,
    /// Apache Avro object container files.
    Avro,
    /// Lines of text, each in column `value`.
    Text,
}

/// What becomes of fields that have no column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SchemaEvolution {
    /// They become columns: inferred columns grow with the files that are still to be read.
    AddNewColumns,
    /// They are kept in the rescue column.
    Rescue,
    /// The flow fails and reads nothing of them.
    FailOnNewColumns,
    /// They are left out.
    None,
}

/// A call of `read_files`, checked.
#[derive(Debug, Clone)]
pub struct ReadFiles {
    /// The path as written, for people.
    pub path: String,
    /// Where files lie.
    pub stores: Arc<FileStores>,
    /// The format; by default the files' extension tells.
    pub format: Option<FileFormat>,
    /// Columns as declared; by default they are inferred.
    pub schema: Option<SchemaRef>,
    /// Types of some columns, whatever is inferred.
    pub hints: Option<SchemaRef>,
    /// What becomes of fields that have no column.
    pub evolution: SchemaEvolution,
    /// Whether a JSON file holds one value, an array of records or a record, over any number of lines.
    pub multi_line: bool,
    /// The files whose names match; by default all.
    pub name_filter: Option<GlobMatcher>,
    /// Only files changed after this, in microseconds since the Unix epoch.
    pub modified_after: Option<i64>,
    /// Only files changed before this, in microseconds since the Unix epoch.
    pub modified_before: Option<i64>,
    /// Columns whose values stand in the files' paths, as `name=value` folders.
    pub partition_columns: Vec<String>,
    /// Whether the first line of a CSV file names the columns.
    pub header: bool,
    /// What separates the fields of a CSV line.
    pub delimiter: u8,
    /// The column that takes what does not fit the schema.
    pub rescue: Option<String>,
    /// Whether a file that changed after it was read is read again.
    pub allow_overwrites: bool,
    /// Whether files that are there when a flow first reads are read.
    pub include_existing: bool,
    /// How many files the schema is inferred from.
    pub sample_files: usize,
    /// Whether types are inferred, or every column is text.
    pub infer_types: bool,
    /// What becomes of files that were read.
    pub cleaning: Cleaning,
    /// The region of the bucket; by default the environment tells.
    pub region: Option<String>,
    /// The queue that is told of new files, and how often all files are listed besides, in microseconds.
    pub notifications: Option<(String, i64)>,
    /// How much one batch takes.
    pub limits: Limits,
}

/// What becomes of files when they were read, and long enough ago.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cleaning {
    /// What is done.
    pub action: CleanAction,
    /// How long after their batch was planned, in microseconds.
    pub after: i64,
    /// Where they are moved to, with the path that they had below the source's folder.
    pub destination: Option<String>,
}

/// What is done with files that were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CleanAction {
    /// They stay.
    Off,
    /// They are removed.
    Delete,
    /// They are moved elsewhere.
    Move,
}

/// How long files stay that are cleaned, by default.
const STAY: i64 = 30 * 86_400_000_000;

/// How often all files are listed besides notifications, by default: they may get lost.
const LISTED: i64 = 86_400_000_000;

const RETENTION: &str = "cleanSource.retentionDuration";
const DESTINATION: &str = "cleanSource.moveDestination";

/// Options that work.
const KNOWN: &[&str] = &[
    "format",
    "schema",
    "header",
    "delimiter",
    "sep",
    "rescuedDataColumn",
    "allowOverwrites",
    "includeExistingFiles",
    "schemaInferenceSampleSize",
    "inferColumnTypes",
    "maxFilesPerTrigger",
    "maxBytesPerTrigger",
    "schemaHints",
    "schemaEvolutionMode",
    "multiLine",
    "pathGlobFilter",
    "modifiedAfter",
    "modifiedBefore",
    "partitionColumns",
    "cleanSource",
    RETENTION,
    DESTINATION,
    "region",
    "useNotifications",
    "queueUrl",
    "backfillInterval",
];

/// Options of other tools that have no meaning here, and why.
const NEEDLESS: &[(&str, &str)] = &[
    ("schemaLocation", "inferred columns are remembered with the flow"),
    ("mergeSchema", "columns of all files looked at are always merged"),
    (
        "useManagedFileEvents",
        "no service of ours watches buckets; queueUrl names a queue that is told of new files",
    ),
];

impl ReadFiles {
    /// Reads the arguments of a call.
    ///
    /// # Errors
    /// Returns [`Code::OPTION_INVALID`] or [`Code::NOT_SUPPORTED`] for each option that is wrong, with its place.
    pub fn parse(
        arguments: &[Argument],
        stores: &Arc<FileStores>,
        text: &SqlText,
        span: Span,
    ) -> Result<Self> {
        let mut errors = Vec::new();
        let mut path = None;
        let mut call = Self {
            path: String::new(),
            stores: Arc::clone(stores),
            format: None,
            schema: None,
            hints: None,
            evolution: SchemaEvolution::Rescue,
            multi_line: false,
            name_filter: None,
            modified_after: None,
            modified_before: None,
            partition_columns: Vec::new(),
            header: true,
            delimiter: b',',
            rescue: None,
            allow_overwrites: false,
            include_existing: true,
            sample_files: 50,
            infer_types: true,
            cleaning: Cleaning { action: CleanAction::Off, after: STAY, destination: None },
            region: None,
            notifications: None,
            limits: Limits { files: FILES_PER_BATCH, bytes: BYTES_PER_BATCH },
        };
        for argument in arguments {
            let done = match &argument.name {
                None if path.is_none() => {
                    path = Some(argument.value.clone());
                    Ok(())
                }
                None => Err(invalid("read_files takes one path".to_owned())),
                Some(name) => call.set(name, &argument.value),
            };
            if let Err(error) = done {
                errors.push(error.at(text.place(argument.span)));
            }
        }
        match path {
            Some(path) if !path.is_empty() => call.path = path,
            _ => errors.push(invalid("read_files needs a path".to_owned()).at(text.place(span))),
        }
        errors.extend(call.contradictions(arguments).into_iter().map(|error| error.at(text.place(span))));
        Error::join(errors)?;
        let keeps = matches!(call.evolution, SchemaEvolution::Rescue | SchemaEvolution::AddNewColumns);
        if call.schema.is_none() && call.rescue.is_none() && keeps && call.format != Some(FileFormat::Text) {
            // A schema that was guessed may be wrong: what does not fit it is kept.
            call.rescue = Some("_rescued_data".to_owned());
        }
        if call.schema.is_some() && call.evolution == SchemaEvolution::AddNewColumns {
            return Err(invalid("a declared schema does not grow with the files".to_owned())
                .hint("leave schema out, or give some types with schemaHints")
                .at(text.place(span)));
        }
        Ok(call)
    }

    /// Lists the files that are meant, in the order of their paths.
    ///
    /// # Errors
    /// Returns errors of listing.
    pub(crate) fn discover(&self) -> Result<Vec<FileInfo>> {
        let mut files = self.stores.list(self)?;
        files.retain(|file| self.wants(file));
        Ok(files)
    }

    /// Whether options let a file in that the path means.
    pub(crate) fn wants(&self, file: &FileInfo) -> bool {
        let name = file.path.rsplit('/').next().unwrap_or(&file.path);
        self.name_filter.as_ref().is_none_or(|filter| filter.is_match(name))
            && self.modified_after.is_none_or(|after| file.modified > after)
            && self.modified_before.is_none_or(|before| file.modified < before)
    }

    /// Whether files are taken away when they were read.
    #[must_use]
    pub fn cleans(&self) -> bool {
        self.cleaning.action != CleanAction::Off
    }

    /// Whether two calls may read the same files, as far as the folders tell in which they look.
    #[must_use]
    pub fn may_share_files(&self, other: &Self) -> bool {
        let (one, two) = (self.base(), other.base());
        is_below(&one, &two) || is_below(&two, &one)
    }

    /// The folder that is looked in, from the root of the machine or of the bucket.
    pub(crate) fn base(&self) -> String {
        let full = self.stores.full(&self.path);
        Pattern::new(&self.path, &full).map_or(full, |pattern| pattern.base)
    }

    /// What is wrong with options that are right each by itself.
    fn contradictions(&self, arguments: &[Argument]) -> Vec<Error> {
        let is_set = |option: &str| {
            arguments.iter().any(|argument| {
                argument.name.as_deref().is_some_and(|name| name.eq_ignore_ascii_case(option))
            })
        };
        let wrong = |is_wrong: bool, what: &str, hint: &str| {
            is_wrong.then(|| invalid(what.to_owned()).hint(hint.to_owned()))
        };
        let in_bucket = is_object(&self.path);
        let cleaning = &self.cleaning;
        let moves = cleaning.action == CleanAction::Move;
        let lies_within = |destination: &String| is_below(&self.stores.full(destination), &self.base());
        let destination = cleaning.destination.as_ref();
        [
            wrong(
                moves != destination.is_some(),
                "cleanSource => 'MOVE' and `cleanSource.moveDestination` go together",
                "give both, or neither",
            ),
            wrong(
                destination.is_some_and(|to| to.trim_matches('/').is_empty()),
                "`cleanSource.moveDestination` names no folder",
                "name one beside the folder that is read",
            ),
            wrong(
                destination.is_some_and(lies_within),
                "`cleanSource.moveDestination` lies in the folder that is read",
                "name a folder beside it: the files would be read again",
            ),
            wrong(
                destination.is_some_and(|to| bucket_of(to) != bucket_of(&self.path)),
                "`cleanSource.moveDestination` lies in another store than the files",
                "name a folder of the same bucket, or of this machine for files of this machine",
            ),
            wrong(
                cleaning.action == CleanAction::Off && is_set(RETENTION),
                "`cleanSource.retentionDuration` is without effect",
                "add cleanSource => 'DELETE' or cleanSource => 'MOVE'",
            ),
            wrong(
                is_set("region") && !in_bucket,
                "region is for files in a bucket",
                "leave it out for files of this machine",
            ),
            wrong(
                self.notifications.is_some() && !self.path.starts_with("s3://"),
                "notifications are for files in a bucket of S3",
                "leave the options out: a folder is listed",
            ),
            wrong(
                self.notifications.as_ref().is_some_and(|(url, _)| url.is_empty()),
                "useNotifications and backfillInterval need queueUrl",
                "let the bucket tell an SQS queue of ObjectCreated events, and name the queue's URL",
            ),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    fn set(&mut self, name: &str, value: &str) -> Result<()> {
        let known = KNOWN.iter().find(|known| known.eq_ignore_ascii_case(name));
        match known.copied() {
            Some("format") => self.format = Some(format_of(value)?),
            Some("schema") => self.schema = Some(columns(name, value)?),
            Some("schemaHints") => self.hints = Some(columns(name, value)?),
            Some("schemaEvolutionMode") => self.evolution = evolution_of(value)?,
            Some("multiLine") => self.multi_line = boolean(name, value)?,
            Some("pathGlobFilter") => self.name_filter = Some(glob(name, value)?),
            Some("modifiedAfter") => self.modified_after = Some(time(name, value)?),
            Some("modifiedBefore") => self.modified_before = Some(time(name, value)?),
            Some("partitionColumns") => self.partition_columns = names(name, value)?,
            Some("header") => self.header = boolean(name, value)?,
            Some("delimiter" | "sep") => self.delimiter = one_byte(name, value)?,
            Some("rescuedDataColumn") => self.rescue = Some(value.to_owned()),
            Some("allowOverwrites") => self.allow_overwrites = boolean(name, value)?,
            Some("includeExistingFiles") => self.include_existing = boolean(name, value)?,
            Some("inferColumnTypes") => self.infer_types = boolean(name, value)?,
            Some("schemaInferenceSampleSize") => self.sample_files = count(name, value)?,
            Some("maxFilesPerTrigger") => self.limits.files = count(name, value)?,
            Some("cleanSource") => self.cleaning.action = action_of(value)?,
            Some(RETENTION) => self.cleaning.after = interval(name, value)?,
            Some(DESTINATION) => self.cleaning.destination = Some(value.trim_end_matches('/').to_owned()),
            Some("region") => self.region = Some(value.to_owned()),
            Some("useNotifications") => match boolean(name, value)? {
                true => _ = self.notifications.get_or_insert((String::new(), LISTED)),
                false => self.notifications = None,
            },
            Some("queueUrl") => {
                self.notifications.get_or_insert((String::new(), LISTED)).0 = value.to_owned()
            }
            Some("backfillInterval") => {
                self.notifications.get_or_insert((String::new(), LISTED)).1 = interval(name, value)?;
            }
            Some("maxBytesPerTrigger") => {
                self.limits.bytes = parse_bytes(value).filter(|bytes| *bytes > 0).ok_or_else(|| {
                    invalid(format!("option \"{name}\" is {value:?}, not a size such as '512MB'"))
                })?;
            }
            _ if NEEDLESS.iter().any(|(known, _)| known.eq_ignore_ascii_case(name)) => {
                let why = NEEDLESS.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
                return Err(invalid(format!("option \"{name}\" has no meaning here"))
                    .hint(format!("leave it out: {}", why.map_or("", |(_, why)| why))));
            }
            _ => {
                let error = invalid(format!("read_files has no option \"{name}\""));
                return Err(match nearest(name, KNOWN) {
                    Some(near) => error.hint(format!("did you mean \"{near}\"?")),
                    None => error.hint(format!("options: {}", KNOWN.join(", "))),
                });
            }
        }
        Ok(())
    }
}

fn invalid(message: String) -> Error {
    Error::new(Code::OPTION_INVALID, message)
}

fn format_of(value: &str) -> Result<FileFormat> {
    match value.to_lowercase().as_str() {
        "json" | "jsonl" | "ndjson" => Ok(FileFormat::Json),
        "csv" => Ok(FileFormat::Csv),
        "parquet" => Ok(FileFormat::Parquet),
        "avro" => Ok(FileFormat::Avro),
        "text" => Ok(FileFormat::Text),
        "xml" | "orc" | "binaryfile" => {
            Err(Error::new(Code::NOT_SUPPORTED, format!("format {value:?} is not supported yet")))
        }
        _ => Err(invalid(format!("no format {value:?}")).hint("formats: json, csv, parquet, avro, text")),
    }
}

fn evolution_of(value: &str) -> Result<SchemaEvolution> {
    match value.to_lowercase().as_str() {
        "addnewcolumns" => Ok(SchemaEvolution::AddNewColumns),
        "rescue" => Ok(SchemaEvolution::Rescue),
        "failonnewcolumns" => Ok(SchemaEvolution::FailOnNewColumns),
        "none" => Ok(SchemaEvolution::None),
        _ => Err(invalid(format!("no schema evolution mode {value:?}"))
            .hint("modes: addNewColumns, rescue, failOnNewColumns, none")),
    }
}

fn action_of(value: &str) -> Result<CleanAction> {
    match value.to_uppercase().as_str() {
        "OFF" => Ok(CleanAction::Off),
        "DELETE" => Ok(CleanAction::Delete),
        "MOVE" => Ok(CleanAction::Move),
        _ => {
            Err(invalid(format!("option \"cleanSource\" is {value:?}"))
                .hint("write 'OFF', 'DELETE' or 'MOVE'"))
        }
    }
}

fn interval(name: &str, value: &str) -> Result<i64> {
    let words = value.trim().trim_start_matches("interval ").trim_start_matches("INTERVAL ");
    let wrong = || invalid(format!("option \"{name}\" is {value:?}, not a time such as '7 days'"));
    match interval_micros(&Expr::Value(Value::SingleQuotedString(words.to_owned()).with_empty_span())) {
        Ok(micros) if micros >= 0 => Ok(micros),
        Ok(_) => Err(wrong()),
        Err(error) => Err(wrong().because(error)),
    }
}

/// Whether a path is a folder or lies below it, both from the root.
fn is_below(path: &str, folder: &str) -> bool {
    let folder = folder.trim_end_matches('/');
    path.trim_end_matches('/')
        .strip_prefix(folder)
        .is_some_and(|below| below.is_empty() || below.starts_with('/'))
}

/// The store and bucket of a path, `None` for one of this machine.
fn bucket_of(path: &str) -> Option<&str> {
    let at = path.find("://")? + 3;
    Some(path[at..].find('/').map_or(path, |slash| &path[..at + slash]))
}

fn glob(name: &str, value: &str) -> Result<GlobMatcher> {
    let built = GlobBuilder::new(value).literal_separator(true).build();
    built
        .map(|glob| glob.compile_matcher())
        .map_err(|error| invalid(format!("option \"{name}\" is {value:?}, not a pattern")).because(error))
}

fn time(name: &str, value: &str) -> Result<i64> {
    quick_timestamp(value.as_bytes())
        .or_else(|| quick_date(value.as_bytes()).map(|days| i64::from(days) * 86_400_000_000))
        .ok_or_else(|| {
            invalid(format!("option \"{name}\" is {value:?}, not a time such as '2024-01-31T10:00:00Z'"))
        })
}

fn boolean(name: &str, value: &str) -> Result<bool> {
    value
        .to_lowercase()
        .parse()
        .map_err(|_| invalid(format!("option \"{name}\" is {value:?}, not true or false")))
}

fn columns(option: &str, value: &str) -> Result<SchemaRef> {
    let schema = parse_schema(value)?;
    match schema.fields().iter().find(|field| is_reserved(field.name())) {
        Some(field) => Err(invalid(format!(
            "option \"{option}\" has column \"{}\", which is the name of a hidden column",
            field.name()
        ))),
        None => Ok(schema),
    }
}

fn names(option: &str, value: &str) -> Result<Vec<String>> {
    let names: Vec<String> = value.split(',').map(|name| name.trim().to_owned()).collect();
    let distinct: BTreeSet<&String> = names.iter().collect();
    if distinct.len() < names.len() || names.iter().any(String::is_empty) {
        return Err(invalid(format!("option \"{option}\" is {value:?}, not names such as 'year, month'")));
    }
    Ok(names)
}

fn count(name: &str, value: &str) -> Result<usize> {
    match value.parse() {
        Ok(count) if count > 0 => Ok(count),
        _ => Err(invalid(format!("option \"{name}\" is {value:?}, not a count of at least 1"))),
    }
}

fn one_byte(name: &str, value: &str) -> Result<u8> {
    match value {
        "\\t" => Ok(b'\t'),
        _ if value.len() == 1 && value.is_ascii() => Ok(value.as_bytes()[0]),
        _ => Err(invalid(format!("option \"{name}\" is {value:?}, not one ASCII character"))),
    }
}
