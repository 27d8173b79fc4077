//! The only way to write a table: one [`TableWriter`] per table and process.
//!
//! Every commit carries the owner's generation and the positions of the flows it publishes.
//! Appends need no snapshot: they say which version comes next and see at once when somebody else
//! was faster. Commits that rewrite files hold the table for themselves from reading to committing,
//! so no two of them can plan on the same files.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use catchment_core::{Clock, Code, Error, FaultPoint, Faults, FlowName, Position, Result};
use deltalake::kernel::{Add, Transaction};
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::sync::{Mutex, MutexGuard};

use crate::compact::FileCondition;
use crate::failure::storage_error;
use crate::files::{FileOptions, FileWriter};
use crate::header::{Identity, header};
use crate::lease::Lease;
use crate::line::UNDONE;
use crate::log::{Draft, Entry, OWNER_APPLICATION};
use crate::schema::{Evolution, evolve};
use crate::store::DurableStore;
use crate::table::{Snapshot, Table, remove_of};

/// Commits of others that one commit is willing to step over before it gives up.
const STEPS: u32 = 1_000;

/// What a table is declared to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableSpec {
    /// The columns in order, as stored.
    #[serde(with = "crate::schema::as_text")]
    pub schema: SchemaRef,
    /// The columns whose values split the files.
    pub partition_columns: Vec<String>,
    /// A sentence for people.
    pub comment: Option<String>,
    /// Delta and Catchment table properties.
    pub properties: Vec<(String, String)>,
}

/// The property of a table that names the columns its rows are sorted by.
pub const CLUSTER_BY: &str = "catchment.clusterBy";

impl TableSpec {
    /// The columns by which rows are sorted within a partition.
    #[must_use]
    pub fn cluster_columns(&self) -> Vec<String> {
        let named = self.properties.iter().find(|(key, _)| key == CLUSTER_BY);
        named.map_or_else(Vec::new, |(_, names)| names.split(',').map(str::to_owned).collect())
    }
}

/// What a batch publishes to one table.
#[derive(Debug, Clone, Default)]
pub struct Publication {
    /// The flow and the position it has once this is published.
    pub position: Option<(FlowName, Position)>,
    /// Positions that other flows get in the same commit, for a restore.
    pub other_positions: Vec<(FlowName, Position)>,
    /// New data files.
    pub adds: Vec<Add>,
    /// Data files that the new ones take the place of.
    pub removes: Vec<Add>,
    /// What the history keeps about the batch.
    pub batch: Value,
}

/// What became of a publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is this version.
    Committed(u64),
    /// The table already held the position, or a later one; nothing was written.
    AlreadyPublished,
}

/// The writer of one table.
#[derive(Debug)]
pub struct TableWriter {
    pub(crate) table: Arc<Table>,
    pub(crate) store: Arc<DurableStore>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) faults: Arc<dyn Faults>,
    pub(crate) lease: Arc<Lease>,
    pub(crate) root: Path,
    /// The folder of releases, which versions must be kept for.
    pub(crate) releases: Path,
    /// Held by whatever takes files out of the table, from choosing them to the commit, and taken before the tip.
    taking_out: Mutex<()>,
    tip: Mutex<Tip>,
}

/// What the writer knows about the end of the log.
#[derive(Debug, Default)]
pub(crate) struct Tip {
    /// The newest version, `None` before the table is there.
    version: Option<u64>,
    /// Positions read or written so far; absent means not looked up yet.
    positions: HashMap<FlowName, Option<Position>>,
    /// What the table is known to be declared as: to look is to read the whole log since the last look.
    declared: Option<TableSpec>,
}

/// How a table that is there comes to be as it is declared.
fn evolution(table: &Table, snapshot: &Snapshot, spec: &TableSpec) -> Result<Evolution> {
    let name = table.name();
    let partitions = snapshot.partition_columns()?;
    if partitions != spec.partition_columns {
        let (was, now) = (partitions.join(", "), spec.partition_columns.join(", "));
        return Err(Error::new(
            Code::SCHEMA_CHANGED,
            format!("table \"{name}\" is partitioned by ({was}), not by ({now})"),
        )
        .hint(format!("rebuild it with `catchment run --full-refresh --select {name}`")));
    }
    evolve(name, snapshot.schema()?.as_ref(), &spec.schema)
}

impl Table {
    /// Makes sure that appends with the columns of a declaration can go on, when the table is there.
    ///
    /// # Errors
    /// Returns [`Code::SCHEMA_CHANGED`] when columns or partitions changed or went, and errors of reading the log.
    pub async fn require_fit(&self, spec: &TableSpec) -> Result<()> {
        match self.latest().await? {
            Some(snapshot) => evolution(self, &snapshot, spec).map(|_| ()),
            None => Ok(()),
        }
    }
}

impl TableWriter {
    pub(crate) fn new(
        table: Arc<Table>,
        store: Arc<DurableStore>,
        clock: Arc<dyn Clock>,
        faults: Arc<dyn Faults>,
        lease: Arc<Lease>,
        root: Path,
        releases: Path,
    ) -> Self {
        Self {
            table,
            store,
            clock,
            faults,
            lease,
            root,
            releases,
            taking_out: Mutex::default(),
            tip: Mutex::default(),
        }
    }

    /// The table it writes.
    #[must_use]
    pub fn table(&self) -> &Arc<Table> {
        &self.table
    }

    /// Starts data files for this table.
    ///
    /// # Errors
    /// Returns [`Code::COLUMN_UNKNOWN`] or [`Code::SQL_TYPE`] when it cannot be partitioned as asked.
    pub fn files(&self, options: FileOptions) -> Result<FileWriter> {
        FileWriter::new(Arc::clone(&self.store), Arc::clone(&self.clock), self.root.clone(), options)
    }

    /// The position of a flow in this table.
    ///
    /// # Errors
    /// Returns [`Code::LEASE_LOST`] when the table shows a later owner, and errors of reading its log.
    pub async fn position(&self, flow: &FlowName) -> Result<Option<Position>> {
        let mut tip = self.tip().await?;
        self.position_at(&mut tip, flow).await
    }

    /// Makes the table exist with these columns: creates it, or adds columns to it.
    ///
    /// # Errors
    /// Returns [`Code::SCHEMA_CHANGED`] when columns changed or went, and errors of writing.
    pub async fn ensure(&self, spec: &TableSpec) -> Result<()> {
        if self.tip().await?.declared.as_ref() == Some(spec) {
            return Ok(());
        }
        let (_alone, mut tip) = self.alone().await?;
        self.declare(&mut tip, spec).await?;
        tip.declared = Some(spec.clone());
        Ok(())
    }

    async fn declare(&self, tip: &mut Tip, spec: &TableSpec) -> Result<()> {
        let Some(snapshot) = self.snapshot(tip).await? else {
            let draft = Draft {
                operation: "CREATE TABLE".to_owned(),
                header: header(spec, self.clock.now_millis(), Identity::new(self.table.name()))?,
                ..Draft::default()
            };
            self.commit(tip, draft, &[]).await?;
            return self.faults.reach(FaultPoint::TableCreated);
        };
        let (mut adds, mut removes) = (Vec::new(), Vec::new());
        let schema = match evolution(&self.table, &snapshot, spec)? {
            Evolution::Added(schema) => schema,
            Evolution::Widened(schema) => {
                (adds, removes) = self.rewrite(&snapshot, &schema).await?;
                schema
            }
            Evolution::None if same_notes(&snapshot, spec)? => return Ok(()),
            Evolution::None => snapshot.schema()?,
        };
        let spec = TableSpec { schema, ..spec.clone() };
        let draft = Draft {
            operation: "ALTER TABLE".to_owned(),
            header: header(&spec, self.clock.now_millis(), Identity::of(&snapshot)?)?,
            adds,
            removes,
            ..Draft::default()
        };
        self.commit(tip, draft, &[]).await.map(|_| ())
    }

    /// Adds files to the table. Without files it commits the position alone.
    ///
    /// # Errors
    /// Returns [`Code::LEASE_LOST`] when a later owner has committed, and errors of writing.
    pub async fn append(&self, publication: Publication) -> Result<Outcome> {
        let mut tip = self.tip().await?;
        if self.is_published(&mut tip, &publication).await? {
            return Ok(Outcome::AlreadyPublished);
        }
        let draft = Draft {
            operation: "WRITE".to_owned(),
            parameters: parameters([("mode", "Append")]),
            batch: publication.batch.clone(),
            blind: true,
            adds: publication.adds.clone(),
            ..Draft::default()
        };
        self.commit(&mut tip, draft, &positions(&publication)).await
    }

    /// Puts new files in the place of some that the table has. Appends may come in between.
    ///
    /// # Errors
    /// Returns [`Code::COMMIT_CONFLICT`] when a file to be replaced is not part of the table any more, and errors
    /// as [`TableWriter::append`].
    pub async fn swap(&self, publication: Publication) -> Result<Outcome> {
        let (_alone, mut tip) = self.alone().await?;
        if self.is_published(&mut tip, &publication).await? {
            return Ok(Outcome::AlreadyPublished);
        }
        let held = self.existing(&tip).await?.files()?;
        if let Some(gone) =
            publication.removes.iter().find(|remove| held.iter().all(|add| add.path != remove.path))
        {
            return Err(Error::new(
                Code::COMMIT_CONFLICT,
                format!(
                    "file {:?} of table \"{}\" was replaced by another commit",
                    gone.path,
                    self.table.name()
                ),
            ));
        }
        let now = self.clock.now_millis();
        let draft = Draft {
            operation: "DELETE".to_owned(),
            parameters: parameters([("predicate", "replayed")]),
            batch: publication.batch.clone(),
            removes: publication.removes.iter().map(|add| remove_of(add, true, now)).collect(),
            adds: publication.adds.clone(),
            ..Draft::default()
        };
        self.commit(&mut tip, draft, &positions(&publication)).await
    }

    /// Puts new files in the place of those that `matches` says, by their partition values, whatever files
    /// these are by now. Returns the outcome with the files that went.
    ///
    /// # Errors
    /// As [`TableWriter::append`], and what `matches` returns.
    pub async fn replace_where(
        &self,
        condition: &str,
        matches: &FileCondition<'_>,
        publication: Publication,
    ) -> Result<(Outcome, Vec<Add>)> {
        let (_alone, mut tip) = self.alone().await?;
        if self.is_published(&mut tip, &publication).await? {
            return Ok((Outcome::AlreadyPublished, Vec::new()));
        }
        let held = self.existing(&tip).await?.files()?;
        let matched = matches(&held)?;
        let gone: Vec<Add> =
            held.into_iter().zip(matched).filter(|(_, matched)| *matched).map(|(add, _)| add).collect();
        let now = self.clock.now_millis();
        let draft = Draft {
            operation: "WRITE".to_owned(),
            parameters: parameters([("mode", "Overwrite"), ("predicate", condition)]),
            batch: publication.batch.clone(),
            removes: gone.iter().map(|add| remove_of(add, true, now)).collect(),
            adds: publication.adds.clone(),
            ..Draft::default()
        };
        Ok((self.commit(&mut tip, draft, &positions(&publication)).await?, gone))
    }

    /// Replaces all files of the table, and its columns when they changed.
    ///
    /// # Errors
    /// As [`TableWriter::append`].
    pub async fn overwrite(&self, spec: &TableSpec, publication: Publication) -> Result<Outcome> {
        let (_alone, mut tip) = self.alone().await?;
        if self.is_published(&mut tip, &publication).await? {
            return Ok(Outcome::AlreadyPublished);
        }
        let now = self.clock.now_millis();
        let mut draft = Draft {
            operation: "WRITE".to_owned(),
            parameters: parameters([("mode", "Overwrite")]),
            batch: publication.batch.clone(),
            adds: publication.adds.clone(),
            ..Draft::default()
        };
        match self.snapshot(&tip).await? {
            None => draft.header = header(spec, now, Identity::new(self.table.name()))?,
            Some(snapshot) => {
                // A publication that is tried again must not remove its own files.
                draft.removes = snapshot.removes(true, now)?;
                let same = snapshot.schema()? == spec.schema
                    && snapshot.partition_columns()? == spec.partition_columns
                    && same_notes(&snapshot, spec)?;
                if !same {
                    draft.header = header(spec, now, Identity::of(&snapshot)?)?;
                }
            }
        }
        self.commit(&mut tip, draft, &positions(&publication)).await
    }

    /// The end of the log, to take files out of the table: nobody else does so meanwhile.
    pub(crate) async fn alone(&self) -> Result<(MutexGuard<'_, ()>, MutexGuard<'_, Tip>)> {
        let alone = self.taking_out.lock().await;
        Ok((alone, self.tip().await?))
    }

    /// Nobody takes files out of the table for as long as this is held; others may add some.
    pub(crate) async fn taking_out(&self) -> MutexGuard<'_, ()> {
        self.taking_out.lock().await
    }

    /// The newest version, as far as is known without looking: what others have committed may be missing.
    ///
    /// # Errors
    /// As [`TableWriter::position`].
    pub async fn version(&self) -> Result<Option<u64>> {
        Ok(self.tip().await?.version)
    }

    pub(crate) async fn tip(&self) -> Result<MutexGuard<'_, Tip>> {
        self.lease.check()?;
        let mut tip = self.tip.lock().await;
        if tip.version.is_none()
            && let Some(snapshot) = self.table.latest().await?
        {
            self.check_owner(snapshot.transaction(OWNER_APPLICATION).await?)?;
            tip.version = Some(snapshot.version());
        }
        Ok(tip)
    }

    /// The snapshot at the tip; it must not be older, or files just committed would be overlooked.
    pub(crate) async fn snapshot(&self, tip: &Tip) -> Result<Option<Snapshot>> {
        let Some(version) = tip.version else { return Ok(None) };
        let snapshot = self.table.existing().await?;
        if snapshot.version() < version {
            return Err(Error::new(
                Code::LOG_CORRUPT,
                format!(
                    "table \"{}\" is at version {}, {version} was committed",
                    self.table.name(),
                    snapshot.version()
                ),
            ));
        }
        Ok(Some(snapshot))
    }

    pub(crate) async fn existing(&self, tip: &Tip) -> Result<Snapshot> {
        match self.snapshot(tip).await? {
            Some(snapshot) => Ok(snapshot),
            None => self.table.existing().await,
        }
    }

    async fn position_at(&self, tip: &mut Tip, flow: &FlowName) -> Result<Option<Position>> {
        if let Some(known) = tip.positions.get(flow) {
            return Ok(*known);
        }
        let position = match self.snapshot(tip).await? {
            Some(snapshot) => snapshot.position(flow.as_str()).await?,
            None => None,
        };
        tip.positions.insert(flow.clone(), position);
        Ok(position)
    }

    pub(crate) async fn is_published(&self, tip: &mut Tip, publication: &Publication) -> Result<bool> {
        let Some((flow, position)) = &publication.position else { return Ok(false) };
        let standing = self.position_at(tip, flow).await?;
        Ok(standing.is_some_and(|standing| standing >= *position))
    }

    fn check_owner(&self, generation: Option<i64>) -> Result<()> {
        let ours = i64::try_from(self.lease.generation()).unwrap_or(i64::MAX);
        if generation.is_some_and(|generation| generation > ours) {
            self.lease.lose();
        }
        self.lease.check()
    }

    /// Writes the next entry of the log, and finds out what happened when that is not clear.
    pub(crate) async fn commit(
        &self,
        tip: &mut Tip,
        mut draft: Draft,
        positions: &[(FlowName, Position)],
    ) -> Result<Outcome> {
        let now = self.clock.now_millis();
        let generation = i64::try_from(self.lease.generation()).unwrap_or(i64::MAX);
        draft.transactions =
            std::iter::once(Transaction::new_with_last_update(OWNER_APPLICATION, generation, Some(now)))
                .chain(positions.iter().map(|(flow, position)| {
                    Transaction::new_with_last_update(flow, position.to_version(), Some(now))
                }))
                .collect();
        let attempt = uuid::Uuid::new_v4().to_string();
        let changes_header = !draft.header.is_empty();
        let bytes = draft.bytes(&attempt, now)?;
        for _ in 0..STEPS {
            self.lease.check()?;
            self.faults.reach(FaultPoint::BeforeCommit)?;
            let version = tip.version.map_or(0, |version| version + 1);
            let written = self.table.log().write(version, bytes.clone()).await;
            let written = match written {
                Ok(written) => self.faults.reach(FaultPoint::CommitWritten).map(|()| written),
                Err(error) => Err(storage_error(self.commit_attempt(version), error)),
            };
            match written {
                Ok(true) => {
                    tip.version = Some(version);
                    if changes_header {
                        tip.declared = None;
                    }
                    tip.positions.extend(positions.iter().map(|(flow, at)| (flow.clone(), Some(*at))));
                    return Ok(Outcome::Committed(version));
                }
                Ok(false) => {}
                // An error may follow a durable commit: what stands in the log decides.
                Err(error) => match self.table.log().read(version).await? {
                    Some(_) => {}
                    None => return Err(error),
                },
            }
            let Some(entry) = self.table.log().read(version).await? else { continue };
            let ours = entry.is_attempt(&attempt);
            self.step_over(tip, &entry)?;
            if ours {
                return Ok(Outcome::Committed(version));
            }
            if positions
                .iter()
                .any(|(flow, at)| entry.position(flow.as_str()).is_some_and(|held| held >= *at))
            {
                return Ok(Outcome::AlreadyPublished);
            }
            if !draft.blind {
                return Err(self.conflict(&entry));
            }
        }
        Err(Error::new(
            Code::COMMIT_CONFLICT,
            format!("table \"{}\" is committed to without end", self.table.name()),
        ))
    }

    /// Takes note of all entries that the tip does not know.
    pub(crate) async fn catch_up(&self, tip: &mut Tip) -> Result<()> {
        while let Some(entry) = self.table.log().read(tip.version.map_or(0, |version| version + 1)).await? {
            self.step_over(tip, &entry)?;
        }
        Ok(())
    }

    /// Takes note of an entry that the tip did not know.
    fn step_over(&self, tip: &mut Tip, entry: &Entry) -> Result<()> {
        self.check_owner(entry.transaction(OWNER_APPLICATION))?;
        tip.version = Some(entry.version);
        tip.declared = None;
        for txn in &entry.transactions {
            tip.positions.insert(FlowName::new(txn.app_id.clone()), Position::from_version(txn.version));
        }
        Ok(())
    }

    fn commit_attempt(&self, version: u64) -> String {
        format!("could not commit version {version} of table \"{}\"", self.table.name())
    }

    fn conflict(&self, entry: &Entry) -> Error {
        Error::new(
            Code::COMMIT_CONFLICT,
            format!(
                "table \"{}\" changed while it was rewritten: version {} ({}) came first",
                self.table.name(),
                entry.version,
                entry.operation
            ),
        )
    }
}

pub(crate) fn positions(publication: &Publication) -> Vec<(FlowName, Position)> {
    publication.position.iter().chain(&publication.other_positions).cloned().collect()
}

pub(crate) fn parameters<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Map<String, Value> {
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value.into())).collect()
}

fn same_notes(snapshot: &Snapshot, spec: &TableSpec) -> Result<bool> {
    let mut stored = snapshot.properties()?;
    stored.remove(UNDONE);
    Ok(snapshot.comment()? == spec.comment
        && stored.len() == spec.properties.len()
        && spec.properties.iter().all(|(key, value)| stored.get(key) == Some(value)))
}
