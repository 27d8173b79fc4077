//! The table of error codes. Each has a page, `docs/errors/<code>.md`, that `catchment explain` prints.

use std::fmt;

use crate::{Blame, Retry};

/// An error code: its number, its title, whom it concerns and whether to try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Code {
    /// `C` and four digits. The first tells the area: 1 project, 2 SQL, 3 input, 4 lake, 5 machine, 6 streams, 7 serving tables, 8 alerts, 9 ours.
    pub id: &'static str,
    /// A few words, the title of the page.
    pub title: &'static str,
    /// Who can mend it.
    pub blame: Blame,
    /// Whether the same attempt may succeed later.
    pub retry: Retry,
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id)
    }
}

macro_rules! codes {
    ($($name:ident = $id:literal, $blame:ident, $retry:ident, $title:literal;)*) => {
        impl Code {
            $(#[doc = $title] pub const $name: Code =
                Code { id: $id, title: $title, blame: Blame::$blame, retry: Retry::$retry };)*
        }

        /// Every code, in order.
        pub const ALL_CODES: &[Code] = &[$(Code::$name,)*];
    };
}

codes! {
    PROJECT_MISSING = "C1001", User, Never, "no project in this folder";
    CONFIG_INVALID = "C1002", User, Never, "invalid configuration";
    PARAMETER_UNKNOWN = "C1003", User, Never, "unknown parameter";
    USAGE = "C1004", User, Never, "wrong use of a command";

    SQL_SYNTAX = "C2001", User, Never, "SQL syntax error";
    NOT_SUPPORTED = "C2002", User, Never, "not supported yet";
    TABLE_UNKNOWN = "C2003", User, Never, "unknown table";
    COLUMN_UNKNOWN = "C2004", User, Never, "unknown column";
    SQL_TYPE = "C2005", User, Never, "types do not fit";
    GRAPH_CYCLE = "C2006", User, Never, "datasets form a cycle";
    NOT_APPEND_ONLY = "C2007", User, Never, "streaming read of something that is not append-only";
    DEFINED_TWICE = "C2008", User, Never, "defined twice";
    FLOW_TARGET = "C2009", User, Never, "flow does not fit its target";
    SQL_PLAN = "C2010", User, Never, "query cannot be planned";
    OPTION_INVALID = "C2011", User, Never, "invalid option of a source";
    SQL_EXECUTION = "C2012", User, Never, "query failed while it ran";
    SCHEMA_CHANGED = "C2013", User, Never, "schema does not fit the table";
    NAME_INVALID = "C2014", User, Never, "name cannot be used";
    NOT_STREAMING = "C2015", User, Never, "streaming table without a streaming source";
    RULESET_INVALID = "C2016", User, Never, "invalid ruleset";

    FILE_BROKEN = "C3001", User, Never, "file is broken";
    RECORD_MALFORMED = "C3002", User, Never, "malformed record";
    FILE_VANISHED = "C3003", External, Never, "file vanished before it was read";
    FILE_CHANGED = "C3004", User, Never, "file changed after it was read";
    NO_INPUT = "C3005", User, Never, "no file to infer a schema from";
    EXPECTATION_FAILED = "C3006", User, Never, "expectation failed a batch";

    LAKE_OWNED = "C4001", User, Never, "another process owns the lake";
    LEASE_LOST = "C4002", External, Never, "the lake was taken over by another process";
    LOG_CORRUPT = "C4003", External, Never, "table log is corrupt";
    COMMIT_CONFLICT = "C4004", External, Backoff, "commit conflict";
    LAKE_READ_ONLY = "C4005", External, Never, "lake cannot be written";
    VERSION_UNKNOWN = "C4006", User, Never, "no such version of a table";
    PLAN_CORRUPT = "C4007", External, Never, "record of a flow is corrupt";
    HISTORY_GONE = "C4008", User, Never, "the changes to read are gone";
    CATALOG = "C4009", External, Never, "catalog database failed";
    TABLE_UNSUPPORTED = "C4010", User, Never, "table needs a feature that is not supported";
    CASCADE_NEEDED = "C4011", User, Never, "more datasets are concerned";
    STORE_UNCONDITIONAL = "C4012", User, Never, "the store ignores conditional writes";

    INPUT_OUTPUT = "C5001", External, Backoff, "reading or writing failed";
    DISK_FULL = "C5002", External, Never, "disk is full";
    MEMORY = "C5003", External, Never, "memory limit reached";

    STREAM_UNKNOWN = "C6001", User, Never, "unknown stream";
    STREAM_EXISTS = "C6002", User, Never, "stream exists already";
    STREAM_CORRUPT = "C6003", External, Never, "segment of a stream is corrupt";
    STREAM_OWNED = "C6004", User, Never, "another process owns the streams";
    STREAM_BUSY = "C6005", External, Backoff, "a stream takes no more for now";
    RESHARD_INVALID = "C6006", User, Never, "shards cannot be changed so";
    SHARD_UNKNOWN = "C6007", User, Never, "unknown shard";
    RECORD_LARGE = "C6008", User, Never, "records are too large";
    SERVICE_REFUSED = "C6009", User, Never, "another service refuses";

    SERVING_OWNED = "C7001", User, Never, "another process has the serving tables";
    SERVING_CHANGED = "C7002", User, Never, "definition of a serving table changed";
    SERVING_KEY = "C7003", User, Never, "key of a serving table does not fit its query";

    NOTIFICATION_FAILED = "C8001", External, Backoff, "a notification was not taken";
    ALERT_MANY = "C8002", User, Never, "an alert has too many rows";
    TARGET_UNKNOWN = "C8003", User, Never, "unknown target of notifications";

    INTERNAL = "C9001", Ours, Never, "bug in Catchment";
    FAULT_INJECTED = "C9002", Ours, Backoff, "injected fault";
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::ALL_CODES;

    #[test]
    fn codes_are_unique_and_well_formed() {
        let ids: HashSet<_> = ALL_CODES.iter().map(|code| code.id).collect();
        assert_eq!(ids.len(), ALL_CODES.len());
        assert!(ALL_CODES.iter().all(|code| code.id.len() == 5 && code.id.starts_with('C')));
        assert!(ALL_CODES.windows(2).all(|pair| pair[0].id < pair[1].id));
    }
}
