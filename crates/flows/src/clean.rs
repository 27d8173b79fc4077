//! Files that are taken away when they were read, and what cannot be done any more without them.

use catchment_core::{Code, Error, Position, Result};
use catchment_ingest::files::SeenRun;

use crate::bookmarks::{Taken, seen_runs};
use crate::runtime::Runtime;
use crate::spec::{FlowSpec, InputKind};

impl Runtime {
    /// Takes away what published batches have read, where that is asked for. What fails is tried again by the next run:
    /// the rows are published all the same.
    pub(crate) fn clean(&self, spec: &FlowSpec, taken: &Taken) {
        for input in &spec.inputs {
            let InputKind::Stream(source, _) = &input.kind else { continue };
            match source.clean(&taken.standing(&input.name), self.clock.now_micros()) {
                Ok(0) => {}
                Ok(count) => {
                    tracing::info!(flow = %spec.name, source = input.name, count, "files were cleaned")
                }
                Err(error) => {
                    tracing::warn!(flow = %spec.name, error = %error.one_line(), "files could not be cleaned");
                }
            }
        }
    }

    /// Makes sure that a flow which takes files away can read all again that it has read.
    pub(crate) async fn require_files(&self, spec: &FlowSpec, published: Position) -> Result<()> {
        if !spec.cleans() {
            return Ok(());
        }
        let mut gone = Vec::new();
        for seen in SeenRun::merge(seen_runs(self.lake(), &spec.name, published).await?).newest().files {
            let was_read = seen.broken.is_none() && !seen.passed_over;
            // Another file of its name is not the one that was read.
            if was_read && self.files.look_again(&seen.file)?.as_ref() != Some(&seen.file) {
                gone.push(seen.file.path);
            }
        }
        let Some(first) = gone.first() else { return Ok(()) };
        let count = gone.len();
        Err(Error::new(
            Code::HISTORY_GONE,
            format!(
                "\"{}\" cannot be built anew: {count} files that it has read were cleaned, such as {first:?}",
                spec.target
            ),
        )
        .hint(
            "bring the files back, or take cleanSource out of its definition to build it from what is left",
        ))
    }
}
