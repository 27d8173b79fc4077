//! `OPTIMIZE`: small files are joined, or all rows are written again in an order that lets filters read little.

use catchment_core::{Code, Error, Result, TableName};
use catchment_flows::{PartitionCondition, finish_rollback};
use catchment_lake::{Add, CLUSTER_BY, Compacted, FileOptions, Owner, Snapshot};
use catchment_sql::{Moment, SqlText, ZORDER_FUNCTION, ZOrder, nearest, query_error};
use futures::TryStreamExt;

use crate::access::Access;
use crate::run::Workspace;
use crate::upkeep::UpkeepReport;

/// The tag of data files that names the columns whose Z-order they were written in.
const ZORDER_BY: &str = "catchment.zorderBy";

/// What `OPTIMIZE` is asked for.
#[derive(Debug, Clone, Default)]
pub struct OptimizeOptions {
    /// Partitions, as a condition on partition columns; all of them without one.
    pub condition: Option<String>,
    /// Columns that filters use alike; without any, the table's `CLUSTER BY` decides.
    pub zorder: Vec<String>,
}

/// The order in which rows are written again.
struct Order {
    /// The tag that files carry then, and its value.
    tag: (&'static str, String),
    columns: Vec<String>,
    is_zorder: bool,
}

impl Order {
    fn of(snapshot: &Snapshot, zorder: &[String]) -> Result<Option<Self>> {
        if !zorder.is_empty() {
            require_columns(snapshot, zorder)?;
            if let Some(twice) = zorder.iter().enumerate().find(|(at, name)| zorder[..*at].contains(name)) {
                return Err(Error::new(
                    Code::DEFINED_TWICE,
                    format!("column \"{}\" is named twice", twice.1),
                ));
            }
            let tag = (ZORDER_BY, zorder.join(","));
            return Ok(Some(Self { tag, columns: zorder.to_vec(), is_zorder: true }));
        }
        Ok(snapshot.properties()?.remove(CLUSTER_BY).map(|names| Self {
            columns: names.split(',').map(str::to_owned).collect(),
            tag: (CLUSTER_BY, names),
            is_zorder: false,
        }))
    }

    /// Whether a file was written in this order.
    fn has(&self, file: &Add) -> bool {
        let tag = file.tags.as_ref().and_then(|tags| tags.get(self.tag.0).cloned().flatten());
        tag.as_ref() == Some(&self.tag.1)
    }

    /// The order as SQL: within partitions, so that one file at a time is open.
    fn sql(&self, partition_columns: &[String]) -> String {
        let keys: Vec<String> = self.columns.iter().map(|name| quoted(name)).collect();
        let keys = match self.is_zorder {
            true => format!("{ZORDER_FUNCTION}({})", keys.join(", ")),
            false => keys.join(", "),
        };
        partition_columns.iter().map(|name| quoted(name)).chain([keys]).collect::<Vec<_>>().join(", ")
    }
}

impl Workspace {
    /// Writes the files of a table anew where that lets queries read less: small ones are joined, and those of a
    /// table with `CLUSTER BY`, or with columns for a Z-order, are sorted unless they are already.
    ///
    /// # Errors
    /// Returns [`Code::TABLE_UNKNOWN`], errors of columns and conditions, and errors of the lease, of
    /// reading and of writing.
    pub async fn optimize(&self, table: &TableName, options: &OptimizeOptions) -> Result<UpkeepReport> {
        self.lake.table(table).existing().await?;
        let (owner, _heartbeat) = self.own().await?;
        finish_rollback(&owner, self.store.as_ref()).await?;
        let config = &self.project.config.config;
        let target_bytes = config.maintenance.target_bytes()?;
        let snapshot = self.lake.table(table).existing().await?;
        let moment = Moment { micros: self.clock.now_micros(), seed: 0 };
        let condition = match &options.condition {
            Some(text) => Some(PartitionCondition::plan(&self.sessions, moment, text, &snapshot.spec()?)?),
            None => None,
        };
        let done = match Order::of(&snapshot, &options.zorder)? {
            Some(order) => {
                let chosen = condition.as_ref().zip(options.condition.as_deref());
                self.write_in_order(&owner, &snapshot, &order, chosen, target_bytes).await?
            }
            None => {
                let matches = |files: &[Add]| match &condition {
                    Some(condition) => condition.files(files),
                    None => Ok(vec![true; files.len()]),
                };
                let width = config.engine.thread_count();
                owner.writer(table).optimize(target_bytes, width, Some(&matches)).await?
            }
        };
        Ok(UpkeepReport {
            table: table.clone(),
            removed: done.removed as u64,
            added: done.added as u64,
            bytes: done.bytes,
        })
    }

    /// Writes files of a table again, in order, unless all are.
    async fn write_in_order(
        &self,
        owner: &Owner,
        snapshot: &Snapshot,
        order: &Order,
        condition: Option<(&PartitionCondition, &str)>,
        target_bytes: usize,
    ) -> Result<Compacted> {
        let mut files = snapshot.files()?;
        if let Some((condition, _)) = condition {
            let matched = condition.files(&files)?;
            files =
                files.into_iter().zip(matched).filter(|(_, matched)| *matched).map(|(add, _)| add).collect();
        }
        if files.iter().all(|file| order.has(file)) {
            return Ok(Compacted::default());
        }
        let spec = snapshot.spec()?;
        let access = Access::new(self);
        let filter = condition.map_or_else(String::new, |(_, text)| format!(" WHERE ({text})"));
        let from = format!("FROM {} VERSION AS OF {}{filter}", name_of(snapshot), snapshot.version());
        let mut function = None;
        if order.is_zorder {
            let keys: Vec<String> = order.columns.iter().map(|name| quoted(name)).collect();
            let text = SqlText::new("OPTIMIZE", format!("SELECT {} {from}", keys.join(", ")));
            let mut rows = access.query(&text).await?;
            let mut zorder = ZOrder::new(&rows.schema())?;
            while let Some(batch) = rows.try_next().await.map_err(query_error)? {
                zorder.see(&batch)?;
            }
            function = Some(zorder.function());
        }
        let all: Vec<String> = spec.schema.fields().iter().map(|field| quoted(field.name())).collect();
        let sql = format!("SELECT {} {from} ORDER BY {}", all.join(", "), order.sql(&spec.partition_columns));
        let mut sorted = access.query_with(&SqlText::new("OPTIMIZE", sql), function).await?;
        // Rows are merged beside their being written.
        let (sender, mut rows) = tokio::sync::mpsc::channel(4);
        let merging = tokio::spawn(async move {
            while let Some(batch) = sorted.try_next().await.map_err(query_error)? {
                if sender.send(batch).await.is_err() {
                    break;
                }
            }
            Ok(())
        });
        let writer = owner.writer(snapshot.name());
        let mut written = writer.files(FileOptions::of(snapshot.name(), &spec, target_bytes))?;
        while let Some(batch) = rows.recv().await {
            written.write(&batch).await?;
        }
        let ended = |error| Error::new(Code::INTERNAL, "the sorting of rows ended early").because(error);
        merging.await.map_err(ended)??;
        let mut written = written.finish().await?;
        for add in &mut written.adds {
            add.tags = Some([(order.tag.0.to_owned(), Some(order.tag.1.clone()))].into());
        }
        writer.rearrange(snapshot, &files, written).await
    }
}

fn require_columns(snapshot: &Snapshot, columns: &[String]) -> Result<()> {
    let schema = snapshot.schema()?;
    let known: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    let errors = columns.iter().filter(|name| !known.contains(&name.as_str())).map(|name| {
        let error = Error::new(
            Code::COLUMN_UNKNOWN,
            format!("table \"{}\" has no column \"{name}\"", snapshot.name()),
        );
        match nearest(name, &known) {
            Some(near) => error.hint(format!("did you mean \"{near}\"?")),
            None => error.hint(format!("columns: {}", known.join(", "))),
        }
    });
    Error::join(errors)
}

fn name_of(snapshot: &Snapshot) -> String {
    let name = snapshot.name();
    format!("{}.{}", quoted(&name.schema), quoted(&name.table))
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
