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
        match name {
            "read_files" => ReadFiles::parse(arguments, &project.config.folder, text, span).map(Self::Files),
            "read_stream" | "read_kinesis" | "read_kafka" => {
                let function = ["read_stream", "read_kinesis", "read_kafka"]
                    .into_iter()
                    .find(|function| *function == name)
                    .unwrap_or("read_stream");
                ReadStream::parse(function, arguments, &project.config.folder, text, span).map(Self::Stream)
            }
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
