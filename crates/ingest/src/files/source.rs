//! `read_files(...)` as a source.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use async_trait::async_trait;
use catchment_core::{Code, Error, Result};
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::catalog::TableProvider;

use crate::address::Address;
use crate::files::FileInfo;
use crate::files::clean::clean;
use crate::files::csv::{CsvRecords, header_text};
use crate::files::discover::Pattern;
use crate::files::infer::{format_of, infer_schema};
use crate::files::options::{FileFormat, ReadFiles, SchemaEvolution};
use crate::files::queue::Queue;
use crate::files::reader::{Failure, open};
use crate::files::scan::{Decoder, FileTable};
use crate::files::seen::Seen;
use crate::files::units::Cut;
use crate::files::{parquet, path_columns};
use crate::records::{SourceRecord, by_piece, look_up};
use crate::rejects::Rejects;
use crate::replay::RecordFormat;
use crate::source::{Limits, Range, Source, Standing};

/// Files that a path or pattern means, read once each.
#[derive(Debug)]
pub struct FileSource {
    options: ReadFiles,
    decoder: Arc<Decoder>,
    schema: SchemaRef,
    /// What was listed when the source was last asked what comes next; `None` when a queue told it, or when it was used.
    listed: Mutex<Option<Arc<Vec<FileInfo>>>>,
}

impl FileSource {
    /// Opens a source. Without a declared schema, `remembered` is used, or the files are looked at.
    ///
    /// # Errors
    /// Returns [`Code::NO_INPUT`] when there is nothing to infer a schema from, and errors of listing.
    pub fn open(options: ReadFiles, remembered: Option<SchemaRef>) -> Result<Self> {
        let known = options.schema.clone().or(remembered);
        let format = options.format.or_else(|| format_of(&options.path));
        let files = match (&known, format) {
            (Some(_), Some(_)) => Vec::new(),
            _ => options.discover()?,
        };
        let format = match format.or_else(|| files.iter().find_map(|file| format_of(&file.path))) {
            Some(format) => format,
            None => {
                return Err(Error::new(
                    Code::NO_INPUT,
                    format!("no file of {:?} tells its format", options.path),
                )
                .hint("say it with format => 'json', 'csv', 'parquet', 'avro' or 'text'"));
            }
        };
        let columns = match known {
            Some(columns) => columns,
            None => hinted(&infer_schema(&files, format, &options)?, options.hints.as_ref()),
        };
        let (columns, path_columns) = path_columns::split(&columns, &options.partition_columns);
        if columns.fields().is_empty() {
            return Err(Error::new(
                Code::OPTION_INVALID,
                format!("partitionColumns leaves no column to read from the files of {:?}", options.path),
            ));
        }
        let decoder = Arc::new(Decoder {
            name: options.path.clone(),
            stores: Arc::clone(&options.stores),
            cut: Cut {
                format,
                header: options.header,
                delimiter: options.delimiter,
                multi_line: options.multi_line,
            },
            fails_on_new: options.evolution == SchemaEvolution::FailOnNewColumns,
            columns,
            path_columns,
            rescue: options.rescue.clone(),
        });
        let schema = decoder.schema();
        Ok(Self { options, decoder, schema, listed: Mutex::default() })
    }

    /// Whether inferred columns grow with the files.
    #[must_use]
    pub fn grows(&self) -> bool {
        self.options.evolution == SchemaEvolution::AddNewColumns
    }

    /// The source with the columns that files not read so far add.
    ///
    /// # Errors
    /// Returns errors of listing and reading.
    pub fn grown(self, taken: &BTreeSet<String>) -> Result<Self> {
        let mut files = self.options.discover()?;
        files.retain(|file| !taken.contains(&file.path));
        if files.is_empty() {
            return Ok(self);
        }
        let found = hinted(
            &infer_schema(&files, self.decoder.cut.format, &self.options)?,
            self.options.hints.as_ref(),
        );
        let mut fields = self.decoder.known();
        let known = Schema::new(fields.clone());
        fields.extend(found.fields().iter().filter(|field| known.index_of(field.name()).is_err()).cloned());
        Self::open(self.options, Some(Arc::new(Schema::new(fields))))
    }

    /// The columns of files and paths, to be remembered when they were inferred.
    #[must_use]
    pub fn inferred(&self) -> Option<SchemaRef> {
        self.options.schema.is_none().then(|| Arc::new(Schema::new(self.decoder.known())))
    }

    /// The files that a queue tells of and that are new, `None` when all are to be listed.
    async fn told(
        &self,
        queue: &Queue,
        standing: &Standing,
        limits: Limits,
    ) -> Result<Option<Vec<FileInfo>>> {
        let Some((_, every)) = &self.options.notifications else { return Ok(None) };
        let is_due = queue.is_listing_due(*every);
        let told = queue.receive().await?;
        let pattern = Pattern::new(&self.options.path, &self.options.path)?;
        let may_be_new = |path: &str| self.options.allow_overwrites || standing.files.may_be_new(path);
        let told = told.iter().map(String::as_str);
        let mut waiting: BTreeSet<&str> =
            told.filter(|path| pattern.wants(path) && may_be_new(path)).collect();
        let asked: Vec<&str> = waiting.iter().copied().collect();
        let mut files = Vec::new();
        for paths in asked.chunks(limits.files.clamp(1, 1_000)) {
            for (path, file) in paths.iter().zip(self.options.stores.look_at(paths).await?) {
                match file.filter(|file| self.options.wants(file) && self.is_new(standing, file)) {
                    Some(file) => files.push(file),
                    None => _ = waiting.remove(path),
                }
            }
            if files.len() >= limits.files {
                break;
            }
        }
        // What a batch has taken that is not published may still be needed.
        if standing.files.is_published() {
            queue.delete(|path| waiting.contains(path)).await?;
        }
        Ok((!is_due).then_some(files))
    }

    fn listing(&self) -> MutexGuard<'_, Option<Arc<Vec<FileInfo>>>> {
        self.listed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_new(&self, standing: &Standing, file: &FileInfo) -> bool {
        match standing.files.look(file) {
            Seen::No => true,
            Seen::Unchanged => false,
            Seen::Changed => self.options.allow_overwrites,
        }
    }

    /// The limits of one batch.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.options.limits
    }
}

/// Columns with the types that hints give them; hints for columns that no file showed come last.
fn hinted(columns: &SchemaRef, hints: Option<&SchemaRef>) -> SchemaRef {
    let Some(hints) = hints else { return Arc::clone(columns) };
    let typed = columns.fields().iter().map(|field| match hints.field_with_name(field.name()) {
        Ok(hint) => Arc::new(hint.clone()),
        Err(_) => Arc::clone(field),
    });
    let missing = hints.fields().iter().filter(|hint| columns.index_of(hint.name()).is_err()).cloned();
    Arc::new(Schema::new(typed.chain(missing).collect::<Vec<_>>()))
}

/// The first line of a CSV file, which names its columns.
fn named_columns(path: &Path, delimiter: u8) -> std::result::Result<Option<String>, Failure> {
    let names = CsvRecords::new(open(path)?, delimiter, true)?.header;
    Ok(names.map(|names| header_text(&names, delimiter)).transpose()?)
}

fn foreign() -> Error {
    Error::new(Code::INTERNAL, "a range of a table was given to a file source")
}

fn gone(file: &FileInfo) -> Error {
    Error::new(Code::FILE_VANISHED, format!("file {:?} changed while it was read", file.path))
        .hint("run again: the file is then looked at anew")
}

#[async_trait]
impl Source for FileSource {
    fn name(&self) -> String {
        self.options.path.clone()
    }

    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    async fn plan(&self, standing: &Standing, limits: Limits) -> Result<Option<Range>> {
        let began = Instant::now();
        let queue =
            self.options.notifications.as_ref().map(|(url, _)| self.options.stores.queue(url, &self.options));
        let told = match &queue {
            Some(queue) => self.told(queue, standing, limits).await?,
            None => None,
        };
        let is_listed = told.is_none();
        let known = match told {
            Some(told) => Arc::new(told),
            None => {
                let options = self.options.clone();
                let listed = tokio::task::spawn_blocking(move || options.discover())
                    .await
                    .map_err(|error| Error::new(Code::INTERNAL, "listing ended early").because(error))?;
                Arc::new(listed?)
            }
        };
        *self.listing() = is_listed.then(|| Arc::clone(&known));
        let mut fresh: Vec<FileInfo> =
            known.iter().filter(|file| self.is_new(standing, file)).cloned().collect();
        // Listing goes on until nothing is left that the queue may not have told.
        if let Some(queue) = queue.filter(|_| is_listed && fresh.is_empty() && standing.files.is_published())
        {
            queue.listed(began);
        }
        let taken = limits.take(fresh.iter().map(|file| file.size));
        fresh.truncate(taken);
        Ok((!fresh.is_empty()).then_some(Range::Files { files: fresh }))
    }

    fn cleans(&self) -> bool {
        self.options.cleans()
    }

    fn clean(&self, standing: &Standing, now: i64) -> Result<usize> {
        let listed = self.listing().take();
        match (self.options.cleans(), listed) {
            (true, Some(listed)) => clean(&self.options, &listed, standing, now),
            _ => Ok(0),
        }
    }

    fn leaves_existing(&self) -> bool {
        !self.options.include_existing
    }

    async fn is_current(&self, range: &Range) -> Result<bool> {
        let listed = self.options.discover()?;
        Ok(range.files().iter().all(|planned| {
            let now = listed.binary_search_by(|file| file.path.cmp(&planned.path));
            now.map_or(true, |at| listed[at] == *planned)
        }))
    }

    fn changed(&self, standing: &Standing) -> Result<Vec<String>> {
        if self.options.allow_overwrites || standing.files.is_empty() {
            return Ok(Vec::new());
        }
        let Some(listed) = self.listing().clone() else { return Ok(Vec::new()) };
        let changed = listed.iter().filter(|file| standing.files.look(file) == Seen::Changed);
        Ok(changed.map(|file| file.path.clone()).collect())
    }

    fn read(
        &self,
        range: &Range,
        rejects: Arc<Rejects>,
        first_piece: Option<u32>,
    ) -> Result<Arc<dyn TableProvider>> {
        match range {
            Range::Files { files } => {
                Ok(Arc::new(FileTable::new(Arc::clone(&self.decoder), files.clone(), rejects, first_piece)))
            }
            Range::Table { .. } | Range::Stream { .. } | Range::Quarantine { .. } => Err(foreign()),
        }
    }

    fn record_format(&self) -> RecordFormat {
        RecordFormat {
            name: self.decoder.name.clone(),
            columns: Arc::clone(&self.decoder.columns),
            path_columns: Arc::clone(&self.decoder.path_columns),
            cut: self.decoder.cut.clone(),
            rescue: self.decoder.rescue.clone(),
            stores: Arc::clone(&self.decoder.stores),
            held_to: None,
        }
    }

    fn records(&self, range: &Range, first_piece: u32, wanted: &[Address]) -> Result<Vec<SourceRecord>> {
        let Range::Files { files } = range else { return Err(foreign()) };
        let mut found = Vec::new();
        for addresses in by_piece(wanted) {
            let index = addresses[0].piece().checked_sub(first_piece.into());
            let Some(file) = index.and_then(|index| files.get(usize::try_from(index).ok()?)) else {
                continue;
            };
            let decoder = &self.decoder;
            let fit = |rows: RecordBatch| {
                let (columns, _) =
                    parquet::fit_rows(&rows, &decoder.columns, false).map_err(|_| gone(file))?;
                RecordBatch::try_new(Arc::clone(&decoder.columns), columns)
                    .map_err(|error| gone(file).because(error))
            };
            let copy = decoder.stores.fetch(file).map_err(|_| gone(file))?;
            let records = look_up(copy.path(), &decoder.cut, addresses, &fit).map_err(|_| gone(file))?;
            let header = match decoder.cut.format == FileFormat::Csv && decoder.cut.header {
                true => named_columns(copy.path(), decoder.cut.delimiter).map_err(|_| gone(file))?,
                false => None,
            };
            let is_rows = matches!(decoder.cut.format, FileFormat::Parquet | FileFormat::Avro);
            found.extend(records.into_iter().map(|(address, record)| SourceRecord {
                address,
                file: file.path.clone(),
                byte_offset: (!is_rows).then(|| address.place()),
                row_number: is_rows.then(|| address.place()),
                record,
                header: header.clone(),
            }));
        }
        Ok(found)
    }
}
