//! What a flow has in quarantine, as a batch that reads its input again needs to know it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use catchment_core::{Code, Error, Result};
use catchment_ingest::{Address, Range, Rejects, Source, TableSource, first_piece, json_lines};
use catchment_lake::{Add, Lake};
use catchment_sql::{Moment, Sessions, SqlText, parse_single_query, query_error};
use datafusion::arrow::array::{Array, AsArray, BooleanArray, RecordBatch, StringArray};
use datafusion::arrow::compute::filter_record_batch;
use datafusion::arrow::datatypes::Int64Type;
use futures::TryStreamExt;

use crate::judge::without_addresses;
use crate::ordered::addresses;
use crate::quarantine::{BROKEN, PARTLY, quarantine_spec};
use crate::records::BatchPlan;
use crate::replay::texts;
use crate::spec::{FlowSpec, InputKind};

/// Records of a flow that are in quarantine.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// The addresses of records of which no row was published: a replay does that.
    pub(super) apart: HashSet<u64>,
    /// The addresses of all records.
    pub(super) places: HashSet<u64>,
    /// Rows that have no source of their own, by a hash of their text.
    texts: HashSet<u128>,
    /// Records of sources that are read as a whole: the file and the place in it.
    others: HashSet<(String, u64)>,
    /// The first piece of each input, with the pieces of its files.
    pieces: BTreeMap<String, BTreeMap<String, u32>>,
    /// Records that no table holds any more.
    gone: HashMap<u128, usize>,
}

/// Records of a flow in quarantine that count no more: what they were read from is there no more.
#[derive(Debug)]
pub(super) struct Stale {
    /// Files that changed, with all their records.
    pub(super) changed: BTreeSet<String>,
    /// Files whose records are where they were.
    known: BTreeSet<String>,
    /// Records of other files, by source and text.
    gone: HashMap<u128, usize>,
}

/// Records by a hash of their text: how many of them were not published at all, and how many in part.
type ByText = HashMap<u128, (usize, usize)>;

impl Held {
    /// Looks through the quarantine of a flow. `changed` are files whose records there count no more.
    pub(super) async fn read(
        lake: &Lake,
        sessions: &Sessions,
        spec: &FlowSpec,
        plan: &BatchPlan,
        changed: &BTreeSet<String>,
    ) -> Result<Self> {
        let mut held = Self::default();
        let mut streams: Vec<(&str, &Arc<dyn Source>, &Range, u32)> = Vec::new();
        let mut pieces = 0;
        for input in &spec.inputs {
            let (InputKind::Stream(source, _), Some(range)) = (&input.kind, plan.ranges.get(&input.name))
            else {
                continue;
            };
            let first = first_piece(pieces)?;
            pieces += range.pieces();
            held.pieces.insert(
                input.name.clone(),
                (0..).zip(paths(range)).map(|(at, path)| (path, first + at)).collect(),
            );
            streams.push((input.name.as_str(), source, range, first));
        }
        let files = match lake.table(&spec.target.quarantine()).latest().await? {
            Some(snapshot) => snapshot.files()?,
            None => Vec::new(),
        };
        let twice =
            streams.iter().find(|(name, ..)| streams.iter().filter(|(other, ..)| name == other).count() > 1);
        let mut ambiguous = false;
        let mut moved: BTreeMap<String, ByText> = BTreeMap::new();
        each_row(lake, spec, &files, &mut |row| {
            let source = row.source.or(match streams.as_slice() {
                [(only, ..)] => Some(*only),
                _ => None,
            });
            let (Some(source), Some(file)) = (source, row.file) else {
                held.texts.insert(hash(row.record));
                return;
            };
            if row.is_broken_file || changed.contains(file) {
                return;
            }
            if streams.iter().all(|(name, ..)| *name != source) {
                // Of a source that is read as a whole.
                held.others.insert((file.to_owned(), row.place));
                return;
            }
            ambiguous |= twice.is_some_and(|(name, ..)| *name == source);
            match held.piece(source, file) {
                Some(piece) => held.insert(Address::new(piece, row.place).0, row.is_partly_published),
                // A table's rows move to other files when these are joined.
                None => {
                    let records = moved.entry(source.to_owned()).or_default();
                    let counts = records.entry(hash_of(source, row.record)).or_default();
                    let count = if row.is_partly_published { &mut counts.1 } else { &mut counts.0 };
                    *count += 1;
                }
            }
        })?;
        if let (Some((name, ..)), true) = (twice, ambiguous) {
            return Err(Error::new(
                Code::NOT_SUPPORTED,
                format!(
                    "flow \"{}\" reads \"{name}\" twice and has records of it in quarantine; computing its partitions anew is not supported yet",
                    spec.name
                ),
            ));
        }
        for (name, source, range, first) in streams {
            if let (Range::Table { .. }, Some(mut records)) = (range, moved.remove(name)) {
                held.find(sessions, source, range, first, &mut records).await?;
                held.gone
                    .extend(records.into_iter().map(|(record, (whole, partly))| (record, whole + partly)));
            }
        }
        Ok(held)
    }

    /// Whether a record of a source that is read as a whole is there.
    pub(super) fn holds_other(&self, file: &str, place: u64) -> bool {
        self.others.contains(&(file.to_owned(), place))
    }

    /// The piece of a file.
    pub(super) fn piece(&self, source: &str, file: &str) -> Option<u32> {
        self.pieces.get(source)?.get(file).copied()
    }

    /// The pieces of files.
    pub(super) fn pieces_of(&self, paths: &BTreeSet<String>) -> BTreeSet<u64> {
        let all = self.pieces.values().flatten();
        all.filter(|(path, _)| paths.contains(*path)).map(|(_, piece)| u64::from(*piece)).collect()
    }

    /// The files that have some pieces.
    pub(super) fn files_of(&self, pieces: &BTreeSet<u64>) -> BTreeSet<String> {
        let all = self.pieces.values().flatten();
        all.filter(|(_, piece)| pieces.contains(&u64::from(**piece))).map(|(path, _)| path.clone()).collect()
    }

    /// What counts no more when the batch is published.
    pub(super) fn stale(&self, changed: BTreeSet<String>) -> Stale {
        let known = self.pieces.values().flat_map(|files| files.keys().cloned()).collect();
        Stale { changed, known, gone: self.gone.clone() }
    }

    /// Whether a row without a source is there.
    pub(super) fn holds_text(&self, record: &str) -> bool {
        self.texts.contains(&hash(record))
    }

    fn insert(&mut self, address: u64, is_partly_published: bool) {
        self.places.insert(address);
        if !is_partly_published {
            self.apart.insert(address);
        }
    }

    /// Finds where records of a table stand by now, by their texts. Rows with the same text are the same.
    async fn find(
        &mut self,
        sessions: &Sessions,
        source: &Arc<dyn Source>,
        range: &Range,
        first: u32,
        records: &mut ByText,
    ) -> Result<()> {
        let name = source.name();
        let (rejects, _sink) = Rejects::channel();
        let planner = sessions.planner(Moment { micros: 0, seed: 0 })?;
        let text = SqlText::new("quarantine", "SELECT * FROM source");
        let query = parse_single_query(&text)?.bind(&text, &|_| None)?;
        for relation in &query.relations {
            planner.bind(&relation.key, source.read(range, Arc::clone(&rejects), Some(first))?)?;
        }
        let plan = planner.plan(&text, &query).await?;
        let mut rows = planner.run(planner.physical(&plan).await?)?;
        while let Some(batch) = rows.try_next().await.map_err(query_error)? {
            let addresses = addresses(&batch)?.clone();
            for (line, address) in json_lines(&without_addresses(batch))?.iter().zip(addresses.values()) {
                // Of rows with the same text, those that did not move stand for themselves.
                if self.places.contains(address) {
                    continue;
                }
                match records.get_mut(&hash_of(&name, line)) {
                    Some((whole, _)) if *whole > 0 => {
                        *whole -= 1;
                        self.insert(*address, false);
                    }
                    Some((_, partly)) if *partly > 0 => {
                        *partly -= 1;
                        self.insert(*address, true);
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

impl Stale {
    fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.gone.is_empty()
    }

    /// Whether a record is one of them; each is told of as often as it is there.
    fn takes(&mut self, source: &str, path: &str, record: &str) -> bool {
        if self.changed.contains(path) {
            return true;
        }
        match self.gone.get_mut(&hash_of(source, record)) {
            Some(left) if *left > 0 && !self.known.contains(path) => {
                *left -= 1;
                true
            }
            _ => false,
        }
    }
}

/// Takes records that count no more out of quarantine: the data files that hold some, and the other rows of
/// these. `stale` is by flow.
pub(super) fn without_stale(
    lake: &Lake,
    spec: &FlowSpec,
    files: Vec<Add>,
    stale: &mut BTreeMap<String, Stale>,
) -> Result<(Vec<Add>, Vec<RecordBatch>)> {
    let (mut rewritten, mut others) = (Vec::new(), Vec::new());
    if stale.values().all(Stale::is_empty) {
        return Ok((rewritten, others));
    }
    let schema = quarantine_spec(&spec.target).schema;
    let source = TableSource::new(lake, &spec.target.quarantine(), Arc::clone(&schema));
    for file in files {
        let (mut rows, mut is_touched) = (Vec::new(), false);
        source.scan(std::slice::from_ref(&file), &schema, &mut |batch| {
            let (flows, sources) = (texts(&batch, "flow")?, texts(&batch, "source")?);
            let (paths, records) = (texts(&batch, "file_path")?, texts(&batch, "record")?);
            let stays: BooleanArray = (0..batch.num_rows())
                .map(|row| {
                    let text = |column: &StringArray| match column.is_valid(row) {
                        true => column.value(row).to_owned(),
                        false => String::new(),
                    };
                    let stale = stale.get_mut(&text(flows)).filter(|_| paths.is_valid(row));
                    Some(
                        !stale.is_some_and(|stale| stale.takes(&text(sources), &text(paths), &text(records))),
                    )
                })
                .collect();
            is_touched |= stays.true_count() < batch.num_rows();
            rows.push(filter_record_batch(&batch, &stays).map_err(internal)?);
            Ok(())
        })?;
        if is_touched {
            rewritten.push(file);
            others.append(&mut rows);
        }
    }
    Ok((rewritten, others))
}

/// A row of a quarantine table that one flow put there.
struct Row<'a> {
    source: Option<&'a str>,
    file: Option<&'a str>,
    /// The byte or the row at which the record stands.
    place: u64,
    record: &'a str,
    is_partly_published: bool,
    is_broken_file: bool,
}

fn each_row(lake: &Lake, spec: &FlowSpec, files: &[Add], each: &mut dyn FnMut(Row<'_>)) -> Result<()> {
    let quarantine = spec.target.quarantine();
    let schema = quarantine_spec(&spec.target).schema;
    TableSource::new(lake, &quarantine, Arc::clone(&schema)).scan(files, &schema, &mut |batch| {
        let (flows, sources) = (texts(&batch, "flow")?, texts(&batch, "source")?);
        let (files, records) = (texts(&batch, "file_path")?, texts(&batch, "record")?);
        let rules = batch.column_by_name("rules").and_then(|column| column.as_list_opt::<i32>());
        let number = |name: &str, row: usize| {
            let column = batch.column_by_name(name)?.as_primitive_opt::<Int64Type>()?;
            column.is_valid(row).then(|| u64::try_from(column.value(row)).ok()).flatten()
        };
        for row in (0..batch.num_rows())
            .filter(|row| flows.is_valid(*row) && flows.value(*row) == spec.name.as_str())
        {
            let breaks = |rule: &str| {
                let names = rules.map(|rules| rules.value(row));
                names.is_some_and(|names| {
                    names
                        .as_string_opt::<i32>()
                        .is_some_and(|names| names.iter().any(|name| name == Some(rule)))
                })
            };
            each(Row {
                source: sources.is_valid(row).then(|| sources.value(row)),
                file: files.is_valid(row).then(|| files.value(row)),
                place: number("byte_offset", row).or_else(|| number("row_number", row)).unwrap_or(0),
                record: if records.is_valid(row) { records.value(row) } else { "" },
                is_partly_published: breaks(PARTLY),
                is_broken_file: breaks(BROKEN),
            });
        }
        Ok(())
    })
}

fn paths(range: &Range) -> Vec<String> {
    match range {
        Range::Files { files } => files.iter().map(|file| file.path.clone()).collect(),
        Range::Table { files, .. } => files.iter().map(|file| file.path.clone()).collect(),
        Range::Stream { .. } | Range::Quarantine { .. } => Vec::new(),
    }
}

fn hash_of(source: &str, record: &str) -> u128 {
    hash(&format!("{source}\0{record}"))
}

fn hash(text: &str) -> u128 {
    xxhash_rust::xxh3::xxh3_128(text.as_bytes())
}

fn internal(error: datafusion::arrow::error::ArrowError) -> Error {
    Error::new(Code::INTERNAL, "could not look through quarantine").because(error)
}
