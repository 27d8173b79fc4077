//! Calls of source functions.

use catchment_core::{Code, Error, Result};
use catchment_ingest::Limits;
use catchment_ingest::files::ReadFiles;
use catchment_ingest::streams::ReadStream;
use catchment_sql::{Argument, SqlText};
use datafusion::sql::sqlparser::tokenizer::Span;

use crate::project::Project;

/// A call of a source function, checked.
pub(crate) enum SourceCall {
    Files(ReadFiles),
    Stream(ReadStream),
}

impl SourceCall {
    /// Reads a call.
    ///
    /// # Errors
    /// Returns [`Code::NOT_SUPPORTED`] for sources that are not there yet, and errors of options.
    pub(crate) fn parse(
        project: &Project,
        name: &str,
        arguments: &[Argument],
        text: &SqlText,
        span: Span,
    ) -> Result<Self> {
        let folder = &project.config.folder;
        let stream = |function| ReadStream::parse(function, arguments, folder, text, span).map(Self::Stream);
        match name {
            "read_files" => ReadFiles::parse(arguments, &project.files, text, span).map(Self::Files),
            "read_stream" => stream("read_stream"),
            "read_kinesis" => stream("read_kinesis"),
            "read_kafka" => stream("read_kafka"),
            "cloud_files" => Err(Error::new(Code::NOT_SUPPORTED, "cloud_files is an old word")
                .hint("write read_files('path', format => '...')")),
            _ => Err(Error::new(Code::NOT_SUPPORTED, format!("source {name} is not supported yet"))
                .hint("sources: read_files, read_stream, read_kinesis, read_kafka")),
        }
    }

    pub(crate) fn limits(&self) -> Limits {
        match self {
            Self::Files(options) => options.limits,
            Self::Stream(options) => options.limits,
        }
    }
}
