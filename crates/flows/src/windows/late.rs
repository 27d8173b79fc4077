//! Writes rows that came too late for their windows to a table of their own.

use catchment_core::{Code, Error, Result};
use catchment_lake::{Add, FileOptions, to_stored};
use tokio::runtime::Handle;

use crate::runtime::Runtime;
use crate::spec::FlowSpec;
use crate::spool::Spooled;
use crate::stage::TARGET_BYTES;

impl Runtime {
    /// Writes late rows; the data files are published with the batch.
    pub(crate) async fn write_late(&self, spec: &FlowSpec, late: Vec<Spooled>) -> Result<Vec<Add>> {
        let Some((table, declared)) = spec.late.clone().filter(|_| !late.is_empty()) else {
            return Ok(Vec::new());
        };
        let options = FileOptions::of(&table, &declared, TARGET_BYTES);
        let mut writer = self.owner.writer(&table).files(options)?;
        let written = tokio::task::spawn_blocking(move || {
            for part in late {
                part.each(|rows| {
                    let rows = to_stored(&rows, &declared.schema)?;
                    Handle::current().block_on(writer.write(&rows))
                })?;
            }
            Handle::current().block_on(writer.finish())
        });
        let written = written
            .await
            .map_err(|error| Error::new(Code::INTERNAL, "a part of a batch ended early").because(error))??;
        Ok(written.adds)
    }
}
