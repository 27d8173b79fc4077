//! Where everything lies in a lake. All paths are built here.
//!
//! `<schema>/<table>/` is a Delta table and nothing else; what is ours lies under `_catchment/`.

use std::path::{Path as FilePath, PathBuf};

use catchment_core::{Code, Error, FlowName, Position, Result, TableName};
use object_store::path::Path;

/// The folder of a lake that holds what is not a table.
pub const OWN_FOLDER: &str = "_catchment";

/// The paths of one lake.
#[derive(Debug, Clone)]
pub struct Layout {
    folder: PathBuf,
    root: Path,
}

impl Layout {
    /// Makes the layout of the lake in `folder`, an absolute path.
    ///
    /// # Errors
    /// Returns [`Code::CONFIG_INVALID`] when the path cannot name a lake.
    pub fn new(folder: &FilePath) -> Result<Self> {
        let root = Path::from_absolute_path(folder).map_err(|error| {
            Error::new(Code::CONFIG_INVALID, format!("lake {:?} is not a usable path", folder)).because(error)
        })?;
        Ok(Self { folder: folder.to_path_buf(), root })
    }

    /// The lake's folder on this machine.
    #[must_use]
    pub fn folder(&self) -> &FilePath {
        &self.folder
    }

    /// The root of the lake.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The root of a table.
    #[must_use]
    pub fn table(&self, name: &TableName) -> Path {
        self.root.clone().join(name.schema.as_str()).join(name.table.as_str())
    }

    /// The folder of a table on this machine.
    #[must_use]
    pub fn table_folder(&self, name: &TableName) -> PathBuf {
        self.folder.join(&name.schema).join(&name.table)
    }

    /// The record of who owns the lake.
    #[must_use]
    pub fn lease_file(&self) -> PathBuf {
        self.folder.join(OWN_FOLDER).join("lease.json")
    }

    /// The record of a rollback that is under way.
    #[must_use]
    pub fn rollback(&self) -> Path {
        self.root.clone().join(OWN_FOLDER).join("rollback.json")
    }

    /// The record of a backfill that is under way.
    #[must_use]
    pub fn backfill(&self) -> Path {
        self.root.clone().join(OWN_FOLDER).join("backfill.json")
    }

    /// The record of a named set of versions.
    #[must_use]
    pub fn release(&self, name: &str) -> Path {
        self.releases().join(format!("{name}.json"))
    }

    /// The folder of named sets of versions.
    #[must_use]
    pub fn releases(&self) -> Path {
        self.root.clone().join(OWN_FOLDER).join("releases")
    }

    /// The folder of a flow's records.
    #[must_use]
    pub fn flow(&self, flow: &FlowName) -> Path {
        self.root.clone().join(OWN_FOLDER).join("flows").join(flow.as_str())
    }

    /// The folder of a flow's plans and staged records.
    #[must_use]
    pub fn batches(&self, flow: &FlowName) -> Path {
        self.flow(flow).join("batches")
    }

    /// The plan of a batch.
    #[must_use]
    pub fn plan(&self, flow: &FlowName, position: Position) -> Path {
        self.batches(flow).join(format!("{position}.json"))
    }

    /// The staged record of a batch.
    #[must_use]
    pub fn staged(&self, flow: &FlowName, position: Position) -> Path {
        self.batches(flow).join(format!("{position}.staged.json"))
    }

    /// The record of table versions that a flow may pass without reading them.
    #[must_use]
    pub fn passed(&self, flow: &FlowName) -> Path {
        self.flow(flow).join("passed.json")
    }

    /// The folder of the flow's file bookmarks.
    #[must_use]
    pub fn bookmarks(&self, flow: &FlowName) -> Path {
        self.flow(flow).join("bookmarks")
    }
}
