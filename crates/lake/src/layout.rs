//! Where everything lies in a lake. All paths are built here.
//!
//! `<schema>/<table>/` is a Delta table and nothing else; what is ours lies under `_catchment/`.

use std::path::{Path as FilePath, PathBuf};

use catchment_core::{Code, Error, FlowName, Position, Result, TableName};
use object_store::path::Path;
use url::Url;

/// The folder of a lake that holds what is not a table.
pub const OWN_FOLDER: &str = "_catchment";

/// The paths of one lake.
#[derive(Debug, Clone)]
pub struct Layout {
    /// The folder on this machine, for a lake that is one.
    folder: Option<PathBuf>,
    /// `file:///` or the bucket.
    store: Url,
    root: Path,
    /// A folder of this machine for copies of files.
    scratch: PathBuf,
}

impl Layout {
    /// Makes the layout of the lake in `folder`, an absolute path.
    ///
    /// # Errors
    /// Returns [`Code::CONFIG_INVALID`] when the path cannot name a lake.
    pub fn new(folder: &FilePath) -> Result<Self> {
        let unusable = || Error::new(Code::CONFIG_INVALID, format!("lake {folder:?} is not a usable path"));
        let root = Path::from_absolute_path(folder).map_err(|error| unusable().because(error))?;
        let store = Url::parse("file:///").map_err(|error| unusable().because(error))?;
        Ok(Self { folder: Some(folder.to_path_buf()), store, root, scratch: folder.to_path_buf() })
    }

    /// Makes the layout of the lake below `root` in a bucket, such as `s3://bucket`; `scratch` is a folder of this
    /// machine for copies of files.
    #[must_use]
    pub fn remote(bucket: Url, root: Path, scratch: PathBuf) -> Self {
        Self { folder: None, store: bucket, root, scratch }
    }

    pub(crate) fn scratch(&self) -> &FilePath {
        &self.scratch
    }

    /// The lake's folder on this machine, if it is one.
    #[must_use]
    pub fn folder(&self) -> Option<&FilePath> {
        self.folder.as_deref()
    }

    /// The store that paths are in: `file:///`, or a bucket.
    #[must_use]
    pub fn store(&self) -> &Url {
        &self.store
    }

    /// Where a table lies, as a URL.
    ///
    /// # Errors
    /// Returns [`Code::NAME_INVALID`] when its name makes no URL.
    pub(crate) fn table_url(&self, name: &TableName) -> Result<Url> {
        let text = format!("{}/{}/", self.store.as_str().trim_end_matches('/'), self.table(name));
        Url::parse(&text).map_err(|error| {
            Error::new(Code::NAME_INVALID, format!("table \"{name}\" has no usable location")).because(error)
        })
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

    /// The record of who owns the lake.
    #[must_use]
    pub fn lease(&self) -> Path {
        self.root.clone().join(OWN_FOLDER).join("lease.json")
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

    /// The folder of rows that wait for their windows to close.
    #[must_use]
    pub fn held(&self, flow: &FlowName) -> Path {
        self.flow(flow).join("held")
    }
}

impl std::fmt::Display for Layout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.folder {
            Some(folder) => write!(f, "{folder:?}"),
            None => write!(f, "\"{}/{}\"", self.store.as_str().trim_end_matches('/'), self.root),
        }
    }
}
