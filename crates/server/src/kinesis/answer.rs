//! Errors as Kinesis answers them.

use catchment_core::{Code, Error};

/// An error that the service's model knows, or its protocol does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) status: u16,
    pub(super) kind: &'static str,
    pub(super) message: Option<String>,
}

/// What an operation answers.
pub(super) type Answer<T = super::value::Value> = Result<T, Fault>;

impl Fault {
    pub(super) fn new(kind: &'static str, message: impl Into<String>) -> Self {
        Self { status: 400, kind, message: Some(message.into()) }
    }

    pub(super) fn bare(kind: &'static str) -> Self {
        Self { status: 400, kind, message: None }
    }

    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new("InvalidArgumentException", message)
    }

    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Self::new("ResourceNotFoundException", message)
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        let kind = match error.code() {
            Code::STREAM_UNKNOWN | Code::SHARD_UNKNOWN => "ResourceNotFoundException",
            Code::STREAM_EXISTS => "ResourceInUseException",
            Code::RESHARD_INVALID | Code::NAME_INVALID | Code::RECORD_LARGE => "InvalidArgumentException",
            Code::STREAM_BUSY => "ProvisionedThroughputExceededException",
            _ => {
                tracing::error!(error = %error.one_line(), "a request to a stream failed");
                // Clients of Kinesis try again what is the service's fault.
                return Self { status: 500, kind: "InternalFailure", message: Some(error.to_string()) };
            }
        };
        Self::new(kind, error.message())
    }
}
