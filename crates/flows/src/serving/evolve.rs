//! Goes on with a serving table whose definition was changed, when what is kept of its rows is enough for that.
//!
//! Rows and states are written in their new form beside those that are read, and become the ones that are read in one write
//! together with the new definition: an interrupted change never was.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use catchment_core::{Code, Error, FaultPoint, Result};
use catchment_ingest::Rejects;
use catchment_lake::schema_text;
use catchment_sql::{Kept, Moment, Planner, Running};
use datafusion::arrow::array::{ArrayRef, RecordBatch, UInt64Array, new_null_array};
use datafusion::arrow::compute::{cast, take};
use datafusion::arrow::datatypes::{FieldRef, SchemaRef};
use datafusion::arrow::ipc::reader::StreamReader;
use datafusion::arrow::ipc::writer::StreamWriter;
use fjall::{Keyspace, OwnedWriteBatch, UserKey, UserValue};

use crate::records::BatchPlan;
use crate::runtime::{Runtime, definition_hash};
use crate::serving::Serving;
use crate::serving::batch::{fit, key_columns, row_keys};
use crate::serving::rows::{AGE_BYTES, Layout, corrupt, written_at};
use crate::serving::run::changed;
use crate::serving::states::States;
use crate::serving::store::{Described, Made, MadeStates, ServingFolder, ServingStore, failed};
use crate::serving::table::ServingTable;
use crate::spec::{FlowKind, FlowSpec};

/// Groups or rows that are carried over at a time.
const CHUNK: usize = 8_192;

/// How a serving table stands to its definition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Its rows are of this definition, or there are none.
    Same,
    /// The definition was changed, and goes on with what is kept.
    Kept,
    /// The definition was changed, and its rows are computed anew as a whole with the next run.
    Anew,
}

impl ServingFolder {
    /// How a serving table stands to how it is defined now.
    ///
    /// # Errors
    /// Returns [`Code::SERVING_CHANGED`] when it cannot go on, and as [`ServingStore::open`].
    pub fn standing(&self, spec: &FlowSpec) -> Result<Standing> {
        let Some(serving) = spec.serving.as_ref().filter(|_| self.exists()) else {
            return Ok(Standing::Same);
        };
        let store = self.store()?;
        match store.described(&spec.target)? {
            Some(before) if before.plan.definition_hash != definition_hash(spec) => {
                if spec.kind == FlowKind::Replace {
                    return Ok(Standing::Anew);
                }
                kept(&store, spec, serving, &before).map(|_| Standing::Kept)
            }
            _ => Ok(Standing::Same),
        }
    }
}

/// What a changed definition keeps.
fn kept(
    store: &ServingStore,
    spec: &FlowSpec,
    serving: &Serving,
    before: &Described,
) -> Result<(Made, Kept)> {
    if before.key != serving.key {
        return Err(changed(spec, "its key or TTL is another"));
    }
    let made = store.made(&spec.target)?;
    let made = made.ok_or_else(|| changed(spec, "it is not known what its rows were made of"))?;
    let kept = serving.definition.kept_from(&made.definition).map_err(|why| changed(spec, &why))?;
    let is_other = |name: &&String| !serving.definition.has_result_of(&made.definition, name);
    // Rows of keys that are made otherwise may have taken each other's places.
    if made.states.is_none() && serving.key.columns().any(|name| is_other(&name)) {
        return Err(changed(spec, "its key is made of something else"));
    }
    Ok((made, kept))
}

/// What the rows and states of a table are made of whose query goes on by groups, or does not.
fn made_of(serving: &Serving, running: Option<&Running>) -> Result<Made> {
    let states = |running: &Running| {
        Ok(MadeStates {
            schema: schema_bytes(running.states())?,
            counts: running.state_columns().iter().map(Range::len).collect(),
        })
    };
    Ok(Made { definition: serving.definition.clone(), states: running.map(states).transpose()? })
}

/// A schema as bytes.
fn schema_bytes(schema: &SchemaRef) -> Result<Vec<u8>> {
    let mut writer = StreamWriter::try_new(Vec::new(), schema).map_err(corrupt)?;
    writer.finish().map_err(corrupt)?;
    writer.into_inner().map_err(corrupt)
}

impl Runtime {
    /// What a serving table's rows and states are made of, as it is defined now.
    pub(crate) async fn made(&self, spec: &FlowSpec, serving: &Serving, plan: &BatchPlan) -> Result<Made> {
        let running = match spec.kind {
            FlowKind::Append => self.planned(spec, plan).await?.1,
            _ => None,
        };
        made_of(serving, running.as_ref())
    }

    /// The query of a table over what is there without new rows.
    async fn planned(&self, spec: &FlowSpec, plan: &BatchPlan) -> Result<(Planner, Option<Running>)> {
        let planner = self.sessions.planner(Moment { micros: plan.planned_at, seed: plan.seed })?;
        let (rejects, _sink) = Rejects::channel();
        let without = BatchPlan { ranges: BTreeMap::new(), ..plan.clone() };
        for input in &spec.inputs {
            self.bind(&planner, input, &without, &[], &rejects).await?;
        }
        let logical = planner.plan(&spec.text, &spec.query).await?;
        let running = planner.running(&logical)?;
        Ok((planner, running))
    }

    /// Goes on with a table whose definition was changed; gives what is known of it then.
    pub(crate) async fn evolve(
        &self,
        spec: &FlowSpec,
        (serving, store): (&Serving, &ServingStore),
        before: &Described,
        plan: &BatchPlan,
    ) -> Result<Described> {
        let (made, kept) = kept(store, spec, serving, before)?;
        let schema = schema_text(&spec.table.schema)?;
        let table = store.table(&spec.target)?.ok_or_else(|| {
            Error::new(Code::INTERNAL, format!("serving table \"{}\" is not there", spec.target))
        })?;
        let mut described = Described { schema, ..before.clone() };
        described.plan.definition_hash = definition_hash(spec);
        let (planner, running) = self.planned(spec, plan).await?;
        let now = made_of(serving, running.as_ref())?;
        if kept.all && described.schema == before.schema && now.states == made.states {
            store.commit(&spec.target, &described, Some(&now), store.batch())?;
            return Ok(described);
        }
        let layout = Layout::new(&spec.table.schema, &serving.key)?;
        let next = store.next_generation(&spec.target, before.generation, layout)?;
        described.generation = next.generation;
        let carrying = Carrying { spec, from: &table, to: &next };
        match (&made.states, &running) {
            (Some(states), Some(running)) => {
                carrying.states(&planner, running, states, &kept.aggregates).await?;
            }
            (None, None) => carrying.rows(&kept.results)?,
            _ => return Err(changed(spec, "it had groups, or has some now")),
        }
        self.lake().faults().reach(FaultPoint::StagedWritten)?;
        store.commit(&spec.target, &described, Some(&now), store.batch())?;
        store.show(&spec.target, &next);
        store.remove_generations(&spec.target, next.generation)?;
        Ok(described)
    }
}

/// Carries what a table holds over to its next form.
struct Carrying<'a> {
    spec: &'a FlowSpec,
    from: &'a Arc<ServingTable>,
    to: &'a Arc<ServingTable>,
}

type Entry = (UserKey, UserValue);

impl Carrying<'_> {
    /// Groups by their states; their rows are computed from these.
    async fn states(
        &self,
        planner: &Planner,
        running: &Running,
        before: &MadeStates,
        kept: &[Option<usize>],
    ) -> Result<()> {
        let schema = StreamReader::try_new(before.schema.as_slice(), None).map_err(corrupt)?.schema();
        let groups = running.group_columns();
        let (read, write) = (States::new(&schema, groups)?, States::new(running.states(), groups)?);
        let columns = from_columns(running, &before.counts, kept)?;
        let nulls = match columns.contains(&None) {
            true => Some(running.state_of_nulls(planner).await?),
            false => None,
        };
        let keys = key_columns(self.spec, running, self.to)?;
        for chunk in chunks(&self.from.states) {
            let chunk = chunk?;
            let values: Vec<&UserValue> = chunk.iter().map(|(_, value)| value).collect();
            let states = reshaped(&read.read(&values)?, running.states(), &columns, nulls.as_ref())?;
            let mut ages: HashMap<Vec<u8>, i64> = HashMap::new();
            let mut batch = self.to.database.batch();
            let of_rows = row_keys(&states, &keys, &self.to.layout)?;
            let written = write.groups(&states)?.into_iter().zip(write.write(&states, 0)?);
            for (((group, mut state), row), (_, value)) in written.zip(of_rows).zip(&chunk) {
                let age = written_at(value).unwrap_or(0);
                set_age(&mut state, age);
                batch.insert(&self.to.states, group.as_slice(), state);
                self.put_age(&mut batch, age, &group, &row);
                ages.insert(row, age);
            }
            for rows in running.finish(planner, vec![states]).await? {
                for (key, mut value) in self.to.layout.write(&fit(&rows, &self.spec.table.schema)?, 0)? {
                    let age = ages.get(&key).copied().unwrap_or(0);
                    set_age(&mut value, age);
                    batch.insert(&self.to.rows, key, value);
                }
            }
            batch.commit().map_err(|error| failed("take a batch", error))?;
        }
        Ok(())
    }

    /// Rows without groups.
    fn rows(&self, kept: &[Option<usize>]) -> Result<()> {
        for chunk in chunks(&self.from.rows) {
            let chunk = chunk?;
            let rows = reshaped(&self.from.layout.read(&chunk)?, &self.spec.table.schema, kept, None)?;
            let mut batch = self.to.database.batch();
            for ((key, mut value), (_, before)) in self.to.layout.write(&rows, 0)?.into_iter().zip(&chunk) {
                let age = written_at(before).unwrap_or(0);
                set_age(&mut value, age);
                self.put_age(&mut batch, age, &key, &key);
                batch.insert(&self.to.rows, key, value);
            }
            batch.commit().map_err(|error| failed("take a batch", error))?;
        }
        Ok(())
    }

    fn put_age(&self, batch: &mut OwnedWriteBatch, age: i64, of: &[u8], row: &[u8]) {
        if self.to.key().time_to_live.is_some() {
            batch.insert(&self.to.ages, [age.to_be_bytes().as_slice(), of].concat(), row);
        }
    }
}

/// For each column of states, the one of before; `None` for one of an aggregate that is new.
fn from_columns(running: &Running, counts: &[usize], kept: &[Option<usize>]) -> Result<Vec<Option<usize>>> {
    let groups = running.group_columns();
    let mut columns: Vec<Option<usize>> = (0..groups).map(Some).collect();
    if running.state_columns().len() != kept.len() {
        return Err(Error::new(Code::INTERNAL, "a query has other aggregates than it was compared by"));
    }
    for (range, from) in running.state_columns().into_iter().zip(kept) {
        let Some(from) = from else {
            columns.extend(range.map(|_| None));
            continue;
        };
        if counts.get(*from) != Some(&range.len()) {
            return Err(Error::new(Code::INTERNAL, "states of before do not fit the aggregates of before"));
        }
        let begins = groups + counts[..*from].iter().sum::<usize>();
        columns.extend((begins..begins + range.len()).map(Some));
    }
    Ok(columns)
}

/// Rows in another form: each column from one of before, or else as in `others`, or null.
fn reshaped(
    rows: &RecordBatch,
    schema: &SchemaRef,
    columns: &[Option<usize>],
    others: Option<&RecordBatch>,
) -> Result<RecordBatch> {
    let count = rows.num_rows();
    if columns.len() != schema.fields().len() {
        return Err(Error::new(Code::INTERNAL, "rows have other columns than they were compared by"));
    }
    let reshape = |(index, field): (usize, &FieldRef)| -> Result<ArrayRef> {
        let found = match (columns.get(index).copied().flatten(), others) {
            (Some(from), _) => cast(rows.column(from), field.data_type()),
            (None, Some(others)) => take(others.column(index), &UInt64Array::from(vec![0; count]), None),
            (None, None) => Ok(new_null_array(field.data_type(), count)),
        };
        found.map_err(corrupt)
    };
    let columns = schema.fields().iter().enumerate().map(reshape).collect::<Result<Vec<_>>>()?;
    RecordBatch::try_new(Arc::clone(schema), columns).map_err(corrupt)
}

/// What a keyspace holds, some at a time.
fn chunks(keyspace: &Keyspace) -> impl Iterator<Item = Result<Vec<Entry>>> + use<> {
    let mut entries = keyspace.iter();
    std::iter::from_fn(move || {
        let chunk = entries
            .by_ref()
            .take(CHUNK)
            .map(|entry| entry.into_inner().map_err(|error| failed("be read", error)));
        match chunk.collect::<Result<Vec<_>>>() {
            Ok(chunk) if chunk.is_empty() => None,
            other => Some(other),
        }
    })
}

fn set_age(value: &mut [u8], age: i64) {
    if let Some(bytes) = value.get_mut(..AGE_BYTES) {
        bytes.copy_from_slice(&age.to_be_bytes());
    }
}
